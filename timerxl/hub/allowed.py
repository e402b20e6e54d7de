"""The list of what may be published of a run: files, their keys, and the type of each value.

What is not on the list is left out, and said. Messages of programs, names of machines, paths and
commands are on no list. Sentences are made anew from what is: see :func:`said_again`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from timerxl.config import InputError, MonitorsConfig, RunConfig
from timerxl.config_checks import _CHOICES, MONITOR_NAMES
from timerxl.hub.privacy import file_name
from timerxl.metrics.scores import PROBABILITY_SCORES, TABLE_SCORES
from timerxl.model import TimerXLForClassification
from timerxl.model.configuration_timerxl import TimerXLConfig
from timerxl.training.references import TITLES
from timerxl.training.verdicts import SEVERITIES, Verdict
from timerxl.training.watcher import Watcher
from timerxl.untrusted import plain

MOST_OF_A_NAME, MOST_OF_A_TEXT = 200, 1_000


@dataclass(frozen=True)
class Kind:
    """A type of values: its name in the list, what it takes, and what becomes of it."""

    name: str
    takes: Callable[[Any], bool]
    made: Callable[[Any], Any] = field(default=lambda value: value)


@dataclass(frozen=True)
class Each:
    """A mapping whose keys are of one kind, and its values of one table."""

    key: Kind
    value: Any


def _matching(name: str, pattern: str) -> Kind:
    known = re.compile(pattern, re.ASCII)
    return Kind(name, lambda value: isinstance(value, str) and bool(known.fullmatch(value)))


def choice(*words: Any) -> Kind:
    """One of ``words``."""
    return Kind(f"one of {', '.join(map(str, words))}", lambda value: value in words)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBER = Kind("number", _is_number)
COUNT = Kind("whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TIME = _matching(
    "time", r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d)?)?"
)
DIGEST = _matching("SHA-256", r"[0-9a-f]{64}")
VERSION = _matching("version", r"\d{1,4}(?:\.\w{1,12}){1,5}(?:\+\w{1,12})?")
WORD = _matching("word", r"[a-z_]{1,40}")
DEVICE = _matching(
    "model of a processor",
    r"(?:CPU|GPU|NVIDIA|Tesla|Quadro|GeForce|AMD|Intel|Apple|Arm)\b(?:[ -][\w().@]{1,16}){0,10}",
)
UNIT = Kind("unit", lambda value: isinstance(value, str) and len(value) <= 40)
NAME = Kind("name", lambda value: isinstance(value, str) and len(value) <= MOST_OF_A_NAME)
FILE = Kind("name of a file", NAME.takes, file_name)
STATED = Kind(
    "text that was given to be published",
    lambda value: isinstance(value, str) and len(value) <= MOST_OF_A_TEXT,
    lambda value: plain(value, MOST_OF_A_TEXT),
)
SCORE = choice(*TABLE_SCORES, *PROBABILITY_SCORES, "loss")
MODEL, SPLIT = choice(*TITLES), choice("train", "holdout", "validation", "test")
SCORES = Each(SCORE, NUMBER)
POINT = {"forecast": NUMBER, "observed": NUMBER, "num_windows": COUNT}
CALIBRATION = {"slope": NUMBER, "intercept": NUMBER}
_PLANNED = [
    f"{a}_{b}" for a in ("predicted", "measured") for b in ("peak_memory_gib", "epoch_seconds")
]
PLAN = dict.fromkeys(_PLANNED, NUMBER)
VERDICT = {
    "name": choice(*MONITOR_NAMES),
    "severity": choice(*SEVERITIES),
    "epoch": NUMBER,
    "step": COUNT,
    "action": choice("warn", "stop"),
}
_FACT = {"value": UNIT, "known_by": WORD}
RECORD = {
    "name": NAME,
    "quantity": _FACT,
    "unit": _FACT,
    "time": {
        "value": {
            "kind": WORD,
            "hours": NUMBER,
            "file_stamp": WORD,
            "running": {"period": NUMBER},
        },
        "known_by": WORD,
    },
    "written_as": UNIT,
    "missing": [{"value": NUMBER, "count": COUNT}],
}
_TEXTS: dict[str, Any] = {  # settings that are texts; numbers, flags and lists of numbers follow
    "recipe": FILE,
    "output_dir": FILE,
    "data.path": FILE,
    "data.oni_path": FILE,
    "data.synthetic.start": TIME,
    "data.synthetic.end": TIME,
    "data.timestamp_column": NAME,
    "data.region_column": NAME,
    "data.precipitation_column": NAME,
    "data.label_column": NAME,
    "data.precipitation_unit": UNIT,
    "data.features": [NAME],
    "data.missing_values": [NUMBER],
    "model.pretrained": FILE,
    "loss.alpha": Kind("number or auto", lambda value: value == "auto" or _is_number(value)),
    "eval.threshold": Kind("number or auto", lambda value: value == "auto" or _is_number(value)),
    "train.trackers": [WORD],
    "train.resume": choice("auto", "never"),
    "hub.data_licence": STATED,
    "expectations": [
        {"epoch": NUMBER, "loss": [NUMBER], "accuracy": [NUMBER], "f1": [NUMBER]},
    ],
} | {key: choice(*words) for key, words in _CHOICES.items()}
_KEPT_BACK = ("train.mirror", "hub.repo_id")  # places


def _settings(cls: type, prefix: str = "") -> dict[str, Any]:
    """The table of a configuration's dataclass."""
    found: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for item in fields(cls):
        key, hint = prefix + item.name, hints[item.name]
        if is_dataclass(hint):
            found[item.name] = _settings(hint, f"{key}.")  # type: ignore[arg-type]
        elif key in _TEXTS:
            found[item.name] = _TEXTS[key]
        elif key not in _KEPT_BACK:
            found[item.name] = FLAG if hint is bool else NUMBER
    return found


CONFIG = _settings(RunConfig)
SPLIT_CUT = {
    **{"method": choice("time", "rows"), "embargo_hours": NUMBER},
    **dict.fromkeys(("validation_from", "test_from", "holdout_from"), TIME),
    **dict.fromkeys(("window_stride_hours", "train_stride_hours"), NUMBER),
}
STATISTICS = "min max mean std q01 q99 size_low size size_high".split()
PREPROCESSING: dict[str, Any] = {
    "feature_names": [NAME],
    "static_feature_names": [NAME],
    "regions": [NAME],
    "precipitation_feature": NAME,
    "scaling": {"mean": [NUMBER], "std": [NUMBER], "log1p": [NAME]},
    "step_hours": NUMBER,
    "context_length": COUNT,
    "context_days": NUMBER,
    "label": {"horizon_hours": NUMBER, "threshold_mm": NUMBER, "column": NAME},
    "split": SPLIT_CUT,
    "data": CONFIG["data"],
    "training_ranges": {
        "days": NUMBER,
        "step_offsets_hours": [NUMBER],
        "issue_hours": [NUMBER],
        "by_region": Each(NAME, {key: [NUMBER] for key in STATISTICS}),
    },
    "is_synthetic": FLAG,
    "source": {
        "path": FILE,
        "sha256": DIGEST,
        **dict.fromkeys(("rows", "bytes", "seed"), COUNT),
        "step_hours": NUMBER,
        **dict.fromkeys(("first", "last", "start", "end"), TIME),
        "synthetic": FLAG,
        "prepared": {
            "precipitation": {
                "column": NAME,
                "source_column": NAME,
                "unit": UNIT,
                "hours_present_per_day": NUMBER,
                "is_sparse": FLAG,
            }
        },
        "resolved": {"precipitation_column": NAME, "precipitation_unit": UNIT},
        "records": Each(NAME, RECORD),
    },
    "loss": {"name": _TEXTS["loss.name"], "alpha": NUMBER},
    "decision_threshold": NUMBER,
    "calibration": CALIBRATION,
    "step": COUNT,
    "best_step": COUNT,
    "validation": SCORES,
    "scores": Each(SPLIT, SCORES),
    "weights": {"size": COUNT, "sha256": DIGEST},
    "stopped_by": VERDICT,
}
_NUMBERS_OF_RESULTS = (
    "threshold gap_to_bayes_recovered train_seconds compile_seconds loading_seconds check_seconds "
    "checkpoint_seconds samples_per_s seconds peak_memory_gib"
).split()
_COUNTS_OF_RESULTS = (
    "max_windows eval_seed steps best_step resumes num_parameters num_processes"
).split()
RESULTS: dict[str, Any] = {
    **dict.fromkeys(("validation", "test", "test_calibrated"), SCORES),
    **dict.fromkeys(_NUMBERS_OF_RESULTS, NUMBER),
    **dict.fromkeys(_COUNTS_OF_RESULTS, COUNT),
    "baselines": Each(MODEL, SCORES),
    "baselines_validation": Each(MODEL, SCORES),
    "thresholds": Each(MODEL, NUMBER),
    "intervals": Each(MODEL, Each(SCORE, [NUMBER])),
    "reliability": Each(MODEL, [POINT]),
    "calibration": CALIBRATION,
    "differences": Each(
        SCORE,
        {
            "reference": MODEL,
            **dict.fromkeys(("estimate", "low", "high", "skill"), NUMBER),
        },
    ),
    "num_windows": Each(SPLIT, COUNT),
    "no_interval": _matching(
        "reason in known words",
        r"no resamples were asked for|the windows span [\d.e+-]{1,12} blocks of [\d.e+-]{1,12} "
        r"days; an interval needs \d{1,9} or more",
    ),
    "stop_reason": _matching(
        "reason in known words", r"all steps done|no better [a-z_0-9]{1,20} in \d{1,9} evaluations"
    ),
    "is_synthetic": FLAG,
    "plan": PLAN,
}
_NUMBERS_OF_EVENTS = (
    "step epoch loss lr grad_norm samples_per_s skipped train_loss rain_share logit_spread "
    "best_threshold accuracy_std_error seconds num_windows steps_per_epoch total_steps check_every "
    "grace_steps peak_memory_gb peak_memory_gib epoch_seconds processes value low high"
).split()
_KINDS_OF_EVENTS = (
    "start plan plan_check train validation holdout test_every_epoch check cost resume expectation "
    "verdict results"
).split()
EVENT: dict[str, Any] = {
    "event": choice(*_KINDS_OF_EVENTS),
    **dict.fromkeys((*TABLE_SCORES, *PROBABILITY_SCORES), NUMBER),
    **dict.fromkeys(_NUMBERS_OF_EVENTS, NUMBER),
    **PLAN,
    "class_shares": Each(SPLIT, Each(NAME, NUMBER)),
    "dead_features": [NAME],
    "checkpoint": _matching("name of a checkpoint", r"step_\d{8,15}"),
    "score": SCORE,
    **{key: VERDICT[key] for key in ("name", "severity")},
}
ENVIRONMENT: dict[str, Any] = {
    **dict.fromkeys(
        (
            "timerxl python torch transformers accelerate deepspeed datasets evaluate safetensors "
            "numpy pandas scikit-learn cuda"
        ).split(),
        VERSION,
    ),
    "device": DEVICE,
    "threads": COUNT,
    "processes": COUNT,
    "distributed": _matching("way of working together", r"[A-Z_]{2,20}"),
    "precision": choice("no", "bf16", "fp16", "fp32"),
    "started": TIME,
}
AUDIT = {
    "lines": [
        Kind(
            "sentence of the data's audit",
            lambda value: (
                isinstance(value, str)
                and len(value) <= MOST_OF_A_TEXT
                and value.lower().startswith(("fault", "warning", "note"))
            ),
            lambda value: plain(value, MOST_OF_A_TEXT),
        )
    ]
}
MODEL_CONFIG: dict[str, Any] = {
    **{key: NUMBER for key in TimerXLConfig.__annotations__},
    **dict.fromkeys(("covariate", "instance_norm", "variable_embedding"), FLAG),
    "hidden_act": _TEXTS["model.hidden_act"],
    "variable_bias_mode": _TEXTS["model.variable_bias_mode"],
    "pooling": _TEXTS["model.pooling"],
    "loss_name": _TEXTS["loss.name"],
    "model_type": choice(TimerXLConfig.model_type),
    "dtype": choice("float32", "bfloat16", "float16"),
    "transformers_version": VERSION,
    "problem_type": choice("single_label_classification"),
    "id2label": Each(_matching("class", r"\d{1,3}"), NAME),
    "label2id": Each(NAME, COUNT),
}
# What from_pretrained needs besides: names of our own classes and modules, whatever a folder says.
OURS = {
    "architectures": [TimerXLForClassification.__name__],
    "auto_map": {
        "AutoConfig": "configuration_timerxl.TimerXLConfig",
        "AutoModelForSequenceClassification": "modeling_timerxl.TimerXLForClassification",
    },
}
FILES: dict[str, Any] = {
    "config.json": MODEL_CONFIG,
    "preprocessing.json": PREPROCESSING,
    "training_config.yaml": CONFIG,
    "results.json": RESULTS,
    "verdict.json": {"stopped_by": VERDICT, "verdicts": [VERDICT]},
    "metrics.jsonl": EVENT,
    # No files of their own: the card and the page quote them.
    "environment": ENVIRONMENT,
    "audit": AUDIT,
}


def keep(content: Any, table: Any, left_out: list[str], at: str) -> Any:
    """``content`` without what ``table`` does not list; the places of that go to ``left_out``.

    A value that is null, or a list that is empty, says nothing and stays.
    """
    kept = _keep(content, table, left_out, at)
    return {} if kept is _GONE else kept


_GONE: Any = object()


def _keep(content: Any, table: Any, left_out: list[str], at: str) -> Any:
    if content is None:
        return None
    if table is EVENT and content.get("event") == "results":
        table = EVENT | RESULTS
    if isinstance(table, list) and isinstance(content, list):
        items = [_keep(item, table[0], left_out, f"{at}[]") for item in content]
        return [item for item in items if item is not _GONE]
    if isinstance(table, dict | Each) and isinstance(content, dict):
        kept = {}
        for key, value in content.items():
            place = f"{at}.{plain(key, 60)}"
            if isinstance(table, Each):
                inner = table.value if table.key.takes(key) else None
            else:
                inner = table.get(key)
            if inner is not None:
                found = _keep(value, inner, left_out, place)
                if found is not _GONE:
                    kept[key] = found
            elif value is not None:
                left_out.append(place)
        return kept
    if isinstance(table, Kind) and table.takes(content):
        return table.made(content)
    left_out.append(at)
    return _GONE


def lines(name: str, table: Any, at: str = "") -> Iterator[str]:
    """The list of one file for a reader: a line for every key."""
    if isinstance(table, Kind):
        yield f"{at or name}: {table.name}"
    elif isinstance(table, list):
        yield from lines(name, table[0], f"{at}[]")
    elif isinstance(table, Each):
        yield from lines(name, table.value, f"{at}.<{_short(table.key.name)}>".lstrip("."))
    else:
        by_kind: dict[str, list[str]] = {}
        for key, inner in table.items():
            if isinstance(inner, Kind):
                by_kind.setdefault(_short(inner.name), []).append(key)
            else:
                yield from lines(name, inner, f"{at}.{key}".lstrip("."))
        for kind, keys in by_kind.items():
            yield f"{at + ': ' if at else ''}{', '.join(keys)}: {kind}"


def _short(kind: str) -> str:
    return kind if len(kind) <= 70 else "one of a fixed list"


def label_text(preprocessing: dict[str, Any]) -> str:
    """What a 1 means, made anew from its numbers (as data.windows says it of a new run)."""
    label = preprocessing["label"]
    hours, column = label["horizon_hours"], label.get("column")
    if label.get("threshold_mm") is None:
        return (
            f"The table's own column {column}: 1 is rain in the {hours:g} hours after the time of "
            "issue, 0 is none."
        )
    when = f"in the {hours:g} hours after the time of issue t, that is in (t, t + {hours:g} h]"
    if preprocessing["split"]["method"] == "rows":
        rows = round(hours / preprocessing["step_hours"])
        when = f"over the next {rows} rows of the stacked table, whatever their region and time"
    return f"1 if {column} adds up to {label['threshold_mm']:g} mm or more {when}, else 0."


def said_again(
    verdicts: list[dict[str, Any]], events: list[dict[str, Any]], monitors: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each verdict with the words that its monitor finds for the ``events`` that are published.

    Where their numbers alone do not show it, its name and its severity are all that is said.
    """
    try:
        limits = MonitorsConfig(**monitors)
        watcher = Watcher(limits)
        for event in events:
            if event.get("event") not in ("verdict", "results"):
                watcher.see(event)
        again = {(one.name, one.severity): one for one in watcher.verdicts}
    except (InputError, TypeError, ValueError, LookupError, ArithmeticError):
        again = {}
    return [
        verdict | _words(again.get((str(verdict.get("name")), str(verdict.get("severity")))))
        for verdict in verdicts
    ]


def _words(found: Verdict | None) -> dict[str, Any]:
    if found is None:
        words = "The run itself said so; the published numbers alone do not show it."
        return {"evidence": {}, "explanation": words, "remedy": ""}
    made = found.to_dict()
    return {key: made[key] for key in ("evidence", "explanation", "remedy")}


def stop_words(stopped: dict[str, Any]) -> str:
    """Why a monitor ended the run, in a sentence."""
    step = f" at step {stopped['step']:,}" if stopped.get("step") is not None else ""
    said = " ".join(str(stopped.get(key) or "") for key in ("explanation", "remedy")).strip()
    who = f"{stopped.get('name', 'unknown')} ({stopped.get('severity', 'unknown')})"
    return f"stopped by the monitor {who}{step}: {said}"
