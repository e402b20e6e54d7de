"""What may be published of a run: every file with its keys, and the kind of value each may hold.

:data:`FILES` and :data:`EVENTS` are the list. What is not on it, or is of another kind, is left
out, counted and said (:func:`filtered`). Text of other programs (messages, log lines, versions of
kernels, hosts, paths) is on no list: a sentence passes where it is made of numbers, names of the
model and words of this package's own sentences (timerxl.hub.known_words). null may stand anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from timerxl.config import available_recipes
from timerxl.config_checks import MONITOR_NAMES, THRESHOLD_SCORES, VALIDATION_METRICS
from timerxl.data.tables.columns import KINDS, QUANTITIES
from timerxl.evaluation.references import TITLES
from timerxl.hub.known_words import is_known_sentence
from timerxl.hub.privacy import ADDRESS, REMOVED, has_path, looks_private
from timerxl.training.monitors.rules import SEVERITIES

REFUSED = object()  # in the place of a value that may not be published
MOST_NAME, MOST_TEXT = 200, 500  # characters


@dataclass(frozen=True)
class Kind:
    """A kind of value: in words, and ``take(value, names)``, which gives it back, or REFUSED.

    ``names`` are those of the model: its features, regions and columns.
    """

    words: str
    take: Callable[[Any, frozenset[str]], Any]


@dataclass(frozen=True)
class Mapping:
    """Any number of keys of one kind, with values of one kind; what doesn't fit is left out."""

    keys: Kind
    values: Any


@dataclass(frozen=True)
class Some:
    """A list, of which what doesn't fit is left out; a plain [kind] is left out as a whole."""

    item: Any


# Kinds of values


def _fits(words: str, is_one: Callable[[Any], bool]) -> Kind:
    return Kind(words, lambda value, names: value if is_one(value) else REFUSED)


def _number(low: float = -1e300, high: float = 1e300) -> Kind:
    def take(value: Any, names: frozenset[str]) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return REFUSED
        if isinstance(value, float) and not math.isfinite(value):
            return None  # as JSON writes it
        return value if low <= value <= high else REFUSED

    return Kind(f"number{_bounds(low, high)}", take)


def _bounds(low: float, high: float) -> str:
    if high > 1e6:
        return " of 0 or more" if low == 0 else ""
    return f" up to {high:g}" if low < -1e6 else f" from {low:g} to {high:g}"


def _whole(low: int = 0, high: int = 10**15) -> Kind:
    def is_one(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return _fits(f"whole number{_bounds(low, high)}", is_one)


def _choice(*allowed: Any) -> Kind:
    def is_one(value: Any) -> bool:
        return any(type(value) is type(one) and value == one for one in allowed)

    shown = " ".join(map(str, allowed[:8])) + (" ..." if len(allowed) > 8 else "")
    return _fits(f"one of: {shown}", is_one)


def _each(kind: Any, keys: str) -> dict[str, Any]:
    """The same kind for every key."""
    return dict.fromkeys(keys.split(), kind)


def _text(words: str, pattern: str) -> Kind:
    matches = re.compile(pattern, re.ASCII).fullmatch
    return _fits(words, lambda value: isinstance(value, str) and matches(value) is not None)


# Letters of both cases and digits in a row, as in keys; names of columns are written so too.
_KEY = re.compile(r"(?=[A-Za-z+/]*\d)(?=[a-z\d+/]*[A-Z])(?=[A-Z\d+/]*[a-z])[A-Za-z\d+/]{20,}")


def is_run_name(text: str) -> bool:
    """Whether the name of a run's folder may be repeated."""
    return re.fullmatch(r"\w[\w .=+-]{0,99}", text) is not None and _is_clean_text(text, 100)


def _is_clean(value: Any, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and not looks_private(value)


def _is_clean_text(value: Any, most: int) -> bool:
    return _is_clean(value, most) and _KEY.search(value) is None


def _given_text(value: Any, names: frozenset[str]) -> Any:
    """As it was given, without addresses of mail; none that names a folder."""
    if not _is_clean_text(value, MOST_TEXT) or has_path(value):
        return REFUSED
    return ADDRESS.sub(REMOVED, value)


def _file_name(value: Any, names: frozenset[str]) -> Any:
    """The last part of a path, where it is a plain name; else ``file``: a path stays a path."""
    if not isinstance(value, str):
        return REFUSED
    last = re.split(r"[\\/]+", value.rstrip("\\/"))[-1]
    is_plain = _FILE_NAME.fullmatch(last) and _is_clean_text(last, 100)
    return last if is_plain else "file"


_FILE_NAME = re.compile(
    r"[A-Za-z0-9][\w-]{0,60}\.(parquet|csv|nc|txt|data|ascii|dat|zip|pth?|bin|ckpt|safetensors)",
    re.ASCII,
)
_VERSION = re.compile(
    r"(\d{1,4}(?:\.\d{1,4}){1,3}(?:(?:a|b|rc|\.dev|\.post)\d{1,4})?)"
    r"(?:(\+(?:cpu|cu\d{2,4}|rocm\d(?:\.\d){1,2}))|\+[\w.]{1,40})?",
    re.ASCII,
)


def _version(value: Any, names: frozenset[str]) -> Any:
    """Without the mark of a build that is not known: 2.13.0+cpu stays, 2.6.0+ecf3.nv is 2.6.0."""
    found = _VERSION.fullmatch(value) if isinstance(value, str) else None
    return REFUSED if found is None else found[1] + (found[2] or "")


_UNITS = (
    "m s k pa hpa kpa mbar mb bar inhg mmhg mm cm km in inch inches ft feet kg g w j kj mj degc "
    "degf deg degree degrees celsius fahrenheit kelvin c f percent h hr hour hours d day days min "
    "minute minutes knot knots kt kn mph mi mile miles dimensionless fraction of water equivalent "
    "okta oktas tenths l auto unknown metre metres meter meters per sec second seconds rad radian "
    "true code gpm dam"
).split()


def _is_unit(value: Any) -> bool:
    if not isinstance(value, str) or not re.fullmatch(r"[\w°µ%/*^()., ~⁻-]{0,40}", value):
        return False
    value = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]", "", value)
    words, digits = re.findall(r"[^\W\d_µ]+", value), re.findall(r"\d+", value)
    return all(w.lower() in _UNITS for w in words) and all(len(d) < 3 for d in digits)


# A GPU is called by words of its maker and by model numbers: NVIDIA A100-SXM4-80GB.
_GPU_WORDS = (
    "NVIDIA AMD Intel Tesla Quadro GeForce TITAN Instinct Radeon Pro RTX GTX Ti SUPER Super Ada "
    "Generation Laptop GPU PCIe PCIE NVL MIG Max-Q Graphics Xp X V CPU Blackwell Server Workstation"
    " Edition with Design Orin Xavier Data Center Arc"
).split()
_GPU_NUMBER = re.compile(r"[A-Z]{0,4}\d{1,4}[A-Z]{0,2}\d?|\d{1,3}g\.\d{1,3}gb", re.ASCII)


def _is_device(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 60:
        return False
    words = [part for part in re.split(r"[ /-]", value.replace("Max-Q", "GPU")) if part]
    return all(word in _GPU_WORDS or _GPU_NUMBER.fullmatch(word) for word in words)


NUMBER, POSITIVE, SHARE = _number(), _number(0, 1e15), _number(0, 1)
SKILL = _number(-1e9, 1)  # a score of which 1 is perfect
CORRELATION = _number(-1, 1)
COUNT, FLAG = _whole(), _fits("true or false", lambda value: isinstance(value, bool))
SEED = _whole(-(2**63), 2**64)
HOURS = _number(0, 1e6)
TIME = _text(
    "date or time",
    r"\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?)?(Z|[+-]\d\d:?\d\d)?",
)
VERSION = Kind("version number", _version)
DIGEST = _text("SHA-256", r"[0-9a-f]{64}")
CHECKPOINT = _text("checkpoint's name", r"(checkpoints/)?step_\d{1,12}")
DEVICE = _fits("model of the GPU, or CPU", _is_device)
UNIT = _fits("unit", _is_unit)
NAME = _fits(f"name, up to {MOST_NAME} characters", lambda value: _is_clean(value, MOST_NAME))
# region_ before a region's name
STATIC_NAME = _fits(NAME.words, lambda value: _is_clean(value, MOST_NAME + len("region_")))
KNOWN_NAME = Kind(
    "name of the model's own",
    lambda value, names: value if isinstance(value, str) and value in names else REFUSED,
)
FILE_NAME = Kind("file's name, without folders", _file_name)
GIVEN_TEXT = Kind("text given to be published", _given_text)
SENTENCE = Kind(
    "sentence of numbers and known words",
    lambda value, names: (
        value if isinstance(value, str) and is_known_sentence(value, names) else REFUSED
    ),
)
CLASS = _choice("0", "1")
SPLIT = _choice("train", "validation", "test", "holdout", "test_every_epoch")
FORECAST, BASELINE = _choice(*TITLES), _choice(*(name for name in TITLES if name[:5] != "model"))
ACTION = _choice("off", "warn", "stop", False)  # YAML makes False of off
PRECISION = _choice("auto", "no", "bf16", "fp16", "fp32", "fp8")

# Parts that stand in several files

SCORES: dict[str, Any] = _each(
    SHARE,
    "f1 macro_f1 precision recall accuracy balanced_accuracy csi pod far predicted_rain_share "
    "roc_auc pr_auc brier ece",
)
SCORES |= _each(CORRELATION, "mcc hss pss ets sedi")
SCORES |= {"bss": SKILL, "bias": POSITIVE, "loss": POSITIVE}
INTERVALS = {key: [kind] for key, kind in SCORES.items()}
DIFFERENCE = {
    "reference": FORECAST,
    **_each(NUMBER, "estimate low high"),
    "skill": _number(-1e15, 1),
}
BIN = {"forecast": SHARE, "observed": SHARE, "num_windows": COUNT}
CALIBRATION = {"slope": NUMBER, "intercept": NUMBER}
PLAN_CHECK = _each(
    POSITIVE,
    "predicted_peak_memory_gib measured_peak_memory_gib predicted_epoch_seconds "
    "measured_epoch_seconds",
)
# What a monitor found: the numbers its rule was met with.
EVIDENCE: dict[str, Any] = {
    **_each(
        NUMBER,
        "accuracy accuracy_before validation_accuracy holdout_accuracy test_accuracy points "
        "std_error_points balanced_points rain_share predicted_rain_share validation_rain_share "
        "holdout_rain_share test_rain_share roc_auc logit_spread always_rain_f1 best_threshold "
        "loss grad_norm median_grad_norm peak_memory_gb memory_cap_gb epoch_seconds "
        "planned_epoch_seconds f1 target_f1 share",
    ),
    **_each(COUNT, "num_windows evaluations skipped_updates steps"),
    "validation_loss": [NUMBER],
    "train_loss": [NUMBER],
    "features": Some(KNOWN_NAME),
    "batch": SENTENCE,
    "checkpoint": CHECKPOINT,
}
VERDICT = {
    "name": _choice(*MONITOR_NAMES),
    "severity": _choice(*SEVERITIES),
    "epoch": POSITIVE,
    "step": COUNT,
    "evidence": EVIDENCE,
    "explanation": SENTENCE,
    "remedy": SENTENCE,
    "action": _choice("stop", "warn"),
}

# training_config.yaml

_SYNTHETIC = {"version": COUNT, "step_hours": HOURS, "start": TIME, "end": TIME, "seed": SEED}
_COLUMNS = "timestamp_column region_column precipitation_column label_column"
_FRACTIONS = "holdout_fraction train_fraction validation_fraction"
# Patterns of our recipes; another's may hold a name that nobody else knows.
_PATTERN = _choice("*_lag_*h", "*_sum_*h", "*_mean_*h", "*_tendency_*h", "season_*", "hour_*")
_DATA: dict[str, Any] = {
    "path": FILE_NAME,
    "synthetic": _SYNTHETIC,
    **_each(NAME, _COLUMNS),
    "precipitation_unit": UNIT,
    "missing_values": [NUMBER],
    "directions": _choice("sin_cos", "as_is"),
    "features": [NAME],
    "exclude_features": [_PATTERN],
    **_each(HOURS, "label_horizon_hours window_stride_hours train_stride_hours"),
    **_each(HOURS, "max_fill_hours rain_threshold_mm"),
    **_each(FLAG, "log1p_precipitation static_features"),
    "oni_path": FILE_NAME,
    "cache_dir": _choice("auto"),  # another is a folder of this machine
    "oni_lag_months": COUNT,
    "split": _choice("time", "rows"),
    "labels": _choice("last", "every_patch"),
    "regions_together": _choice("none", "all", *range(1, 1_001)),
    "label_fraction": SHARE,
    **_each(SHARE, _FRACTIONS),
}
_MODEL: dict[str, Any] = {
    **_each(
        COUNT,
        "patch_length context_length hidden_size intermediate_size num_hidden_layers "
        "num_attention_heads num_static_real_features num_variables",
    ),
    "hidden_act": _choice("relu", "gelu"),
    **_each(SHARE, "hidden_dropout attention_dropout"),
    "rope_theta": POSITIVE,
    "variable_bias_mode": _choice("folded", "mask"),
    "pooling": _choice("mean", "last"),
    "region_mixing": _choice("attention", "classifier"),
    **_each(FLAG, "covariate instance_norm variable_embedding"),
}
_LOSS = {
    "name": _choice("cross_entropy", "weighted_cross_entropy", "focal"),
    "alpha": (SHARE, _choice("auto")),
    "gamma": POSITIVE,
    "next_patch_weight": POSITIVE,
}
TRAINING_CONFIG: dict[str, Any] = {
    "recipe": _choice(*available_recipes()),
    "seed": SEED,
    "output_dir": NAME,  # here the name of the run's folder (timerxl.hub.record)
    "data": _DATA | _each(KNOWN_NAME, _COLUMNS) | {"features": [KNOWN_NAME]},
    "model": _MODEL
    | {
        "num_labels": COUNT,
        "attn_implementation": _choice("sdpa", "eager"),
        "pretrained": FILE_NAME,
        "freeze_backbone_epochs": COUNT,
    },
    "loss": _LOSS,
    "optim": {
        **_each(POSITIVE, "lr weight_decay max_grad_norm layer_lr_decay"),
        **_each(SHARE, "adam_beta1 adam_beta2 warmup_ratio"),
    },
    "train": {
        **_each(
            COUNT,
            "epochs max_steps batch_size accumulation_steps patience log_every_steps num_workers "
            "checkpoint_every_steps keep_last",
        ),
        "precision": PRECISION,
        "zero_stage": _choice(0, 2),
        **_each(FLAG, "offload_optimizer gradient_checkpointing compile resume_force"),
        "ema": SHARE,
        "task": _choice("rain"),
        "metric_for_best_model": _choice(*VALIDATION_METRICS),
        "data_on_device": _choice("auto", True, False),
        "trackers": [
            _choice(
                *"tensorboard wandb comet_ml mlflow aim clearml dvclive swanlab trackio".split()
            )
        ],
        "checkpoint_every_minutes": POSITIVE,
        "resume": _choice("auto", "never"),
        "mirror": _choice(),  # a place of storage: null alone
        "collective_timeout_minutes": POSITIVE,
    },
    "eval": {
        **_each(COUNT, "batch_size every_steps check_windows max_windows"),
        "test_every_epoch": FLAG,
        "threshold": (SHARE, _choice("auto")),
        "threshold_score": _choice(*THRESHOLD_SCORES),
        "fitted_baselines": FLAG,
        "num_resamples": COUNT,
        "block_days": POSITIVE,
    },
    "monitors": {
        **dict.fromkeys(MONITOR_NAMES, ACTION),
        "num_evaluations": COUNT,
        **_each(POSITIVE, "points slow_factor memory_cap_gb target_f1 target_points"),
    },
    "hub": {
        "push": _choice(False),  # whoever trains by these settings sends nothing
        "repo_id": _choice(),
        "private": FLAG,
        "data_licence": GIVEN_TEXT,
    },
    "expectations": [
        {"epoch": COUNT, "loss": [POSITIVE], "accuracy": [SHARE], "f1": [SHARE]},
    ],
}

# config.json; architectures and auto_map are written by us (timerxl.hub.package)

MODEL_CONFIG: dict[str, Any] = _MODEL | {
    "model_type": _choice("timer_xl"),
    "dtype": _choice("float32"),
    "transformers_version": VERSION,
    "layer_norm_eps": SHARE,
    "classifier_hidden_size": COUNT,
    "loss_name": _LOSS["name"],
    "loss_alpha": SHARE,
    "loss_gamma": POSITIVE,
    "next_patch_head": FLAG,
    "num_regions": COUNT,
    "region_neighbours": [[COUNT]],
    "id2label": Mapping(CLASS, NAME),
    "label2id": Mapping(NAME, COUNT),
}

# preprocessing.json

_KNOWN_BY = _choice("said", "file", "inferred", "assumed")
_MEANING = {
    "kind": _choice(*KINDS),
    "hours": HOURS,
    "file_stamp": _choice("start", "middle", "end"),
    "running": {"period": HOURS},
}
_COLUMN_RECORD = {
    "name": NAME,
    "quantity": {"value": _choice(*(one.key for one in QUANTITIES)), "known_by": _KNOWN_BY},
    "unit": {"value": UNIT, "known_by": _KNOWN_BY},
    "time": {"value": _MEANING, "known_by": _KNOWN_BY},
    "written_as": UNIT,
    "missing": Some({"value": NUMBER, "count": COUNT, "known_by": _KNOWN_BY}),
}
_PREPARED = {
    "step_hours": HOURS,
    "first": TIME,
    "last": TIME,
    "rows": COUNT,
    "is_synthetic": FLAG,
    "precipitation": {
        "column": NAME,
        "source_column": NAME,
        "unit": UNIT,
        "hours_present_per_day": HOURS,
        "is_sparse": FLAG,
    },
}
PREPROCESSING: dict[str, Any] = {
    "feature_names": [NAME],
    "scaling": {"log1p": [NAME], "mean": [NUMBER], "std": [POSITIVE]},
    "step_hours": HOURS,
    "context_length": COUNT,
    "context_days": HOURS,
    "precipitation_feature": NAME,
    "label": {"horizon_hours": HOURS, "threshold_mm": HOURS, "column": NAME, "text": SENTENCE},
    "split": {
        "method": _choice("time", "rows"),
        **_each(TIME, "holdout_from validation_from test_from"),
        **_each(HOURS, "embargo_hours window_stride_hours train_stride_hours"),
        **_each(SHARE, _FRACTIONS),
    },
    "data": _DATA,
    "training_ranges": {
        "days": POSITIVE,
        "step_offsets_hours": [HOURS],
        "issue_hours": [HOURS],
        "by_region": Mapping(
            KNOWN_NAME,
            _each([NUMBER], "min max mean std q01 q99 size_low size size_high"),
        ),
    },
    "static_feature_names": [STATIC_NAME],
    "regions": [NAME],
    "region_neighbours": Mapping(KNOWN_NAME, [KNOWN_NAME]),
    "is_synthetic": FLAG,
    "source": {
        **_SYNTHETIC,
        "path": FILE_NAME,
        "sha256": DIGEST,
        "synthetic": FLAG,
        "rows": COUNT,
        "first": TIME,
        "last": TIME,
        "filled_values": Mapping(KNOWN_NAME, COUNT),
        "missing_values_left": Mapping(KNOWN_NAME, COUNT),
        "records": Mapping(KNOWN_NAME, _COLUMN_RECORD),
        "resolved": {"precipitation_unit": UNIT, "precipitation_column": NAME},
        "prepared": _PREPARED,
        "oni": {"path": FILE_NAME, "lag_months": COUNT},
    },
    "loss": _LOSS,
    "decision_threshold": SHARE,
    "calibration": CALIBRATION,
    "step": COUNT,
    "best_step": COUNT,
    "scores": Mapping(SPLIT, SCORES),
    "stopped_by": VERDICT,
    "weights": {"size": COUNT, "sha256": DIGEST},
}
_EVALUATION: dict[str, Any] = SCORES | {
    "rain_share": SHARE,
    "logit_spread": POSITIVE,
    "best_threshold": SHARE,
    "accuracy_std_error": SHARE,
    "seconds": POSITIVE,
    "num_windows": COUNT,
    "train_loss": POSITIVE,
}
PREPROCESSING["validation"] = _EVALUATION

# results.json

RESULTS: dict[str, Any] = {
    "validation": SCORES,
    "test": SCORES,
    "test_calibrated": SCORES,
    "baselines": Mapping(BASELINE, SCORES),
    "baselines_validation": Mapping(BASELINE, SCORES),
    "threshold": SHARE,
    "thresholds": Mapping(FORECAST, SHARE),
    "calibration": CALIBRATION,
    "reliability": Mapping(FORECAST, [BIN]),
    "intervals": Mapping(FORECAST, INTERVALS),
    "differences": Mapping(_choice(*SCORES), DIFFERENCE),
    "no_interval": SENTENCE,
    "gap_to_bayes_recovered": _number(-1e9, 1e9),
    "gap_to_observed_bound_recovered": _each(_number(-1e9, 1e9), "roc_auc brier"),
    "observed_bound_error": _each(POSITIVE, "roc_auc brier"),
    "num_windows": Mapping(SPLIT, COUNT),
    "max_windows": COUNT,
    "eval_seed": SEED,
    "stop_reason": SENTENCE,
    **_each(COUNT, "steps best_step resumes num_parameters num_processes"),
    **_each(
        POSITIVE,
        "train_seconds compile_seconds loading_seconds check_seconds checkpoint_seconds "
        "samples_per_s labels_per_s seconds peak_memory_gib",
    ),
    "is_synthetic": FLAG,
    "plan": PLAN_CHECK,
}

# Of an ensemble: each member beside the mean.
RESULTS["members"] = [
    {
        "name": _text("member's name", r"member_\d{1,2}"),
        "recipe": _choice(*available_recipes()),
        "seed": SEED,
        "threshold": SHARE,
        "num_parameters": COUNT,
        **_each(SCORES, "validation test"),
        "intervals": INTERVALS,
        "differences": Mapping(_choice(*SCORES), _each(NUMBER, "low high")),
    }
]

# Of a blend: its weights, and the network and the trees alone.
RESULTS["blend"] = _each(NUMBER, "network trees intercept")
RESULTS["parts"] = [
    {
        "name": _choice("network", "trees"),
        "threshold": SHARE,
        **_each(SCORES, "validation test"),
        "intervals": INTERVALS,
        "differences": Mapping(_choice(*SCORES), _each(NUMBER, "low high")),
    }
]

# metrics.jsonl, event by event

_AT = {"step": COUNT, "epoch": POSITIVE}
_EVENTS: dict[str, Any] = {
    "start": {
        **_each(COUNT, "steps_per_epoch total_steps check_every grace_steps"),
        "dead_features": Some(KNOWN_NAME),
        "class_shares": Mapping(SPLIT, Mapping(KNOWN_NAME, SHARE)),
    },
    "resume": {"step": COUNT, "processes": COUNT, "checkpoint": CHECKPOINT},
    "plan": {
        "peak_memory_gib": POSITIVE,
        "epoch_seconds": POSITIVE,
        "summary": SENTENCE,
        "data_on_device": {"value": SENTENCE, "reason": SENTENCE, "skipped": SENTENCE},
    },
    "train": _AT
    | {
        "loss": NUMBER,
        **_each(POSITIVE, "lr grad_norm samples_per_s next_patch_loss"),
        "batch": SENTENCE,
        "checkpoint": CHECKPOINT,
        "skipped": COUNT,
    },
    **{kind: _AT | _EVALUATION for kind in ("check", "validation", "holdout", "test_every_epoch")},
    "cost": {"step": COUNT, "peak_memory_gb": POSITIVE, "epoch_seconds": POSITIVE},
    "expectation": {
        "epoch": POSITIVE,
        "score": _choice("loss", "accuracy", "f1"),
        **_each(NUMBER, "value low high"),
    },
    "verdict": VERDICT,
    "plan_check": PLAN_CHECK,
    "results": RESULTS,
}
EVENTS = {kind: {"event": _choice(kind)} | keys for kind, keys in _EVENTS.items()}

# The files of a run that are published beside the model; others are read for the card and the page

FILES: dict[str, Any] = {
    "training_config.yaml": TRAINING_CONFIG,
    "config.json": MODEL_CONFIG,
    "preprocessing.json": PREPROCESSING,
    "results.json": RESULTS,
    "verdict.json": {"stopped_by": VERDICT, "verdicts": Some(VERDICT)},
    "environment.json": {
        **_each(
            VERSION,
            "timerxl python torch transformers accelerate deepspeed datasets evaluate safetensors "
            "numpy pandas scikit-learn cuda",
        ),
        "device": DEVICE,
        "threads": COUNT,
        "processes": COUNT,
        "distributed": _choice(*"NO MULTI_CPU MULTI_GPU DEEPSPEED FSDP".split()),
        "precision": PRECISION,
        "started": TIME,
    },
    "audit.json": {"lines": Some(SENTENCE)},
}


@dataclass
class Listing:
    """What is published of a file, and what is left out, by where it stands.

    ``held``: (place, kind) -> keys. ``left``: place -> how many values. Places and keys are those
    of the list; a key that is not on it is counted at the place where it stood, never repeated.
    """

    held: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    def leave(self, *parts: str) -> None:
        """Count a value that is left out at this place."""
        place = ".".join(part for part in parts if part)
        self.left[place] = self.left.get(place, 0) + 1

    @property
    def num_left(self) -> int:
        return sum(self.left.values())

    def lines(self) -> list[str]:
        """``test: f1, pod (number from 0 to 1); mcc (number from -1 to 1)``, a line a place."""
        places: dict[str, list[str]] = {}
        for (place, words), keys in self.held.items():
            places.setdefault(place, []).append(f"{', '.join(keys)} ({words})")
        return [
            (f"{place}: " if place else "") + "; ".join(parts) for place, parts in places.items()
        ]

    def left_lines(self) -> list[str]:
        """What is left out, a line for each place."""
        return [
            f"{count:,} value{'s' if count > 1 else ''} in {place or 'the file'}"
            for place, count in self.left.items()
        ]


def filtered(
    content: Any, shape: Any, names: frozenset[str], listing: Listing, place: str = ""
) -> Any:
    """What of ``content`` the ``shape`` allows, in its order; REFUSED where it is of another kind.

    ``listing`` notes what was kept and what was left out.
    """
    kept = _filtered(content, shape, names, listing, place, "")
    if kept is REFUSED:
        listing.leave(place)
    return kept


def _filtered(
    content: Any, shape: Any, names: frozenset[str], listing: Listing, place: str, key: str
) -> Any:
    where = f"{place}.{key}".strip(".")

    def inner(value: Any, shape: Any, key: str) -> Any:
        kept = _filtered(value, shape, names, listing, where, key)
        if kept is REFUSED:
            listing.leave(where, key)
        return kept

    if content is None:
        return None
    if isinstance(shape, tuple):
        found = (_filtered(content, one, names, listing, place, key) for one in shape)
        return next((kept for kept in found if kept is not REFUSED), REFUSED)
    if isinstance(shape, Kind):
        kept = shape.take(content, names)
        if kept is not REFUSED:
            listing.held.setdefault((place, shape.words), {})[key] = None
        return kept
    if isinstance(shape, list | Some):
        if not isinstance(content, list):
            return REFUSED
        if isinstance(shape, Some):
            for _ in range(content.count(None)):
                listing.leave(where, "*")
            items = [inner(item, shape.item, "*") for item in content if item is not None]
            return [item for item in items if item is not REFUSED]
        items = [_filtered(item, shape[0], names, listing, place, key) for item in content]
        return REFUSED if any(item is REFUSED for item in items) else items
    if not isinstance(content, dict):
        return REFUSED
    result: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(shape, Mapping):
            is_listed, of, shown = (
                shape.keys.take(name, names) is not REFUSED,
                shape.values,
                "*",
            )
        else:
            is_listed, of, shown = isinstance(name, str) and name in shape, shape.get(name), name
        if not is_listed:
            listing.leave(where, "(another key)")
        elif (kept := inner(value, of, shown)) is not REFUSED:
            result[name] = kept
    return result


def filtered_events(
    events: list[dict[str, Any]], names: frozenset[str], listing: Listing
) -> list[dict[str, Any]]:
    """What of metrics.jsonl is allowed; an event that is not on the list is left out as a whole."""
    found = []
    for event in events:
        kind = event.get("event")
        if isinstance(kind, str) and kind in EVENTS:
            found.append(filtered(event, EVENTS[kind], names, listing, kind))
        else:
            listing.leave("(another event)")
    return found
