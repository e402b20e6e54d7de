"""A run folder read into one object, whatever state the run is in.

A run may be under way, stopped or damaged, so nothing here insists: a file that is missing is None,
one that can't be used is None and named in ``problems``, and so is every line left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from timerxl.config import EvalConfig, InputError
from timerxl.data.readers import PARSER_ERRORS
from timerxl.evaluation import assess
from timerxl.evaluation.scores import forecast_scores
from timerxl.evaluation.strata import region_strata, score_strata, season_strata
from timerxl.files import read_json_lines
from timerxl.training.monitors.rules import CERTAIN, INFO, SEVERITIES, SUSPECTED
from timerxl.untrusted import (
    check_memory,
    link_problem,
    read_json,
    read_text,
    read_yaml,
    schema_error,
)

MOST_METRICS_BYTES, MOST_METRICS_LINES = 256 * 2**20, 1_000_000
MOST_LINE_BYTES = 2**20
MOST_PROBLEMS = 50  # damaged lines that are named one by one
Content = dict[str, Any]
Points = tuple[list[float], list[float]]  # x and y
Read = TypeVar("Read")

# Events that belong to a step; of the others the last one counts.
STEP_EVENTS = ("train", "check", "validation", "holdout", "test_every_epoch", "cost")
FILES = (
    "config.yaml status.json verdict.json metrics.jsonl results.json forecasts.parquet audit.json "
    "environment.json"
).split()
UNREADABLE = (*PARSER_ERRORS, pyarrow.ArrowException)
NOT_FORECASTS = ("split", "region", "issue_time", "label")


def number(value: Any) -> float | None:
    """A finite number as float; None for anything else (JSON knows no NaN: it is null)."""
    return None if schema_error(value, float) else float(value)


def get(content: Any, *keys: str) -> Any:
    """``content[key][key]...``, or None where a step of the way is missing."""
    for key in keys:
        if not isinstance(content, dict):
            return None
        content = content.get(key)
    return content


@dataclass(frozen=True)
class ScoredSplit:
    """The scored windows of one split: labels, times and P(rain) [n] of every forecast."""

    label: np.ndarray
    region: np.ndarray
    issue_time: np.ndarray
    probabilities: dict[str, np.ndarray]


@dataclass
class Run:
    """What a run folder holds; None is "not there"."""

    folder: Path
    config: Content | None = None
    config_text: str = ""
    status: Content | None = None
    verdict: Content | None = None
    events: dict[str, list[Content]] = field(default_factory=dict)
    results: Content | None = None
    forecasts: pd.DataFrame | None = None
    audit: Content | None = None
    environment: Content | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def recipe(self) -> str:
        return str(get(self.config, "recipe") or "") or "unknown recipe"

    @property
    def is_next_patch(self) -> bool:
        """A forecaster of the next patch was trained (train.task): there is no rain to score."""
        return get(self.config, "train", "task") == "next_patch"

    @property
    def is_synthetic(self) -> bool | None:
        """None where neither results.json nor config.yaml says."""
        if get(self.results, "is_synthetic") is True:
            return True
        data = get(self.config, "data")
        if isinstance(data, dict) and "path" in data:
            return data["path"] is None
        return None if get(self.results, "is_synthetic") is None else False

    @property
    def is_contaminated(self) -> bool:
        """The test split was scored at every evaluation."""
        asked = get(self.config, "eval", "test_every_epoch") is True
        return asked or "test_every_epoch" in self.events

    @cached_property
    def steps_per_epoch(self) -> float | None:
        """From the start event, else from any event with both a step and an epoch."""
        if told := number(self.last("start").get("steps_per_epoch")):
            return told
        for kind in STEP_EVENTS:
            for event in self.events.get(kind, []):
                if epoch := number(event.get("epoch")):
                    return float(event["step"] / epoch)
        return None

    @property
    def axis(self) -> str:
        """What curves are drawn over: "epoch" where steps can be turned into epochs."""
        return "step" if self.steps_per_epoch is None else "epoch"

    def place(self, event: Content) -> float | None:
        """Where an event (or a verdict) stands on the axis."""
        step, epoch = number(event.get("step")), number(event.get("epoch"))
        if self.steps_per_epoch is None:
            return step
        if epoch is None and step is not None:
            epoch = step / self.steps_per_epoch
        return epoch

    def last(self, kind: str) -> Content:
        """The last event of a kind, {} where there is none."""
        found = self.events.get(kind)
        return found[-1] if found else {}

    def points(self, kind: str, key: str) -> Points:
        """Where and how much, of the events that have a number there."""
        x, y = [], []
        for event in self.events.get(kind, []):
            at, value = self.place(event), number(event.get(key))
            if at is not None and value is not None:
                x.append(at)
                y.append(value)
        return x, y

    def score(self, name: str, key: str, split: str = "test") -> float | None:
        """A score of a forecast by its key in TITLES, from results.json."""
        own = {"model": split, "model_calibrated": f"{split}_calibrated"}
        if name in own:
            return number(get(self.results, own[name], key))
        baselines = "baselines" if split == "test" else f"baselines_{split}"
        return number(get(self.results, baselines, name, key))

    @property
    def base_rate(self) -> float | None:
        """Share of rain among the validation windows; before they are scored, the checks'."""
        for kind in ("validation", "check"):
            if shares := self.points(kind, "rain_share")[1]:
                return shares[-1]
        return self.score("always_rain", "accuracy", "validation")

    @property
    def thresholds(self) -> dict[str, float]:
        """Of every forecast whose threshold results.json knows."""
        known = {"model": get(self.results, "threshold")}
        told = get(self.results, "thresholds")
        known = (told if isinstance(told, dict) else {}) | known
        found = {name: number(value) for name, value in known.items()}
        return {n: value for n, value in found.items() if value is not None and 0 <= value <= 1}

    def sample(self, split: str = "test") -> ScoredSplit | None:
        """The scored windows of a split; None without forecasts of it."""
        if self.forecasts is None:
            return None
        part = self.forecasts[self.forecasts["split"] == split]
        if part.empty:
            return None
        return ScoredSplit(
            part["label"].to_numpy(np.int64),
            part["region"].to_numpy(object),
            part["issue_time"].to_numpy("datetime64[s]"),
            {n: part[n].to_numpy(np.float64) for n in part.columns if n not in NOT_FORECASTS},
        )


def read_run(folder: Path) -> Run:
    """Read what is there. Raises InputError where there's no folder, or nothing of a run in it."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no run folder: there's no such folder.")
    if not any((folder / name).is_file() for name in FILES):
        raise InputError(f"{folder} is no run folder: it holds none of {', '.join(FILES)}.")
    run = Run(folder)
    for name in ("status", "verdict", "results", "audit", "environment"):
        setattr(run, name, _read(run, f"{name}.json", lambda path: _mapping(read_json(path))))
    run.config = _read(run, "config.yaml", lambda path: _mapping(read_yaml(path)))
    if run.config is not None:
        run.config_text = _read(run, "config.yaml", read_text) or ""
    run.forecasts = _read(run, "forecasts.parquet", read_forecasts)
    _read(run, "metrics.jsonl", lambda path: _read_events(run, path))
    return run


def _read(run: Run, name: str, reader: Callable[[Path], Read]) -> Read | None:
    path = run.folder / name
    if not path.is_file():
        return None
    try:
        if problem := link_problem(path):
            raise ValueError(f"it {problem}; expected a file of the run's own.")
        return reader(path)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"{name} can't be used and is left out: {reason}"
        if problem not in run.problems:
            run.problems.append(problem)
        return None


def _mapping(content: Any) -> Content:
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping of keys to values.")
    return content


def read_forecasts(path: Path, is_read: Callable[[str], bool] = lambda name: True) -> pd.DataFrame:
    """forecasts.parquet, checked: labels of 0 and 1, P(rain) from 0 to 1, times in UTC.

    ``is_read`` says which columns beside split, region, issue_time and label are. Raises ValueError
    naming the column that is not what it should be, before anything is read that the file's own
    description rules out.
    """
    with pyarrow.parquet.ParquetFile(path) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
    if missing := [name for name in NOT_FORECASTS if name not in schema.names]:
        raise ValueError(f"no column {', '.join(missing)}.")
    types = pyarrow.types
    columns = [name for name in schema.names if name in NOT_FORECASTS or is_read(name)]
    for name in set(columns) - {"split", "region", "issue_time"}:
        kind = schema.field(name).type
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            raise ValueError(f"{name} is of type {kind}; expected numbers.")
    if not types.is_temporal(schema.field("issue_time").type):
        raise ValueError(
            f"issue_time is of type {schema.field('issue_time').type}; expected times."
        )
    # A number takes 8 bytes as read and 8 as checked; names are kept once.
    check_memory(16 * num_rows * len(columns), f"{num_rows:,} forecasts")
    table = pd.read_parquet(path, columns=columns, read_dictionary=["split", "region"])
    table["issue_time"] = pd.to_datetime(table["issue_time"], utc=True).dt.tz_localize(None)
    if table["issue_time"].isna().any():
        raise ValueError("issue_time has empty cells.")
    if not table["label"].isin([0, 1]).all():
        raise ValueError("label holds other values than 0 and 1.")
    table["split"], table["region"] = table["split"].astype(str), table["region"].astype(str)
    for name in table.columns.difference(list(NOT_FORECASTS)):
        if not table[name].astype(np.float64).between(0, 1).all():
            raise ValueError(f"{name} holds values that are no probability from 0 to 1.")
    return table


def _read_events(run: Run, path: Path) -> None:
    """Sort the events by kind; what a resumed run did again replaces what it had done."""
    problems: list[str] = []
    for index, event in read_json_lines(path, MOST_METRICS_BYTES, MOST_LINE_BYTES):
        if index > MOST_METRICS_LINES:
            run.problems.append(f"metrics.jsonl is read up to line {MOST_METRICS_LINES:,} only.")
            break
        event = event or {}
        kind: Any = event.get("event")
        if not isinstance(kind, str):
            problems.append(f"line {index} of metrics.jsonl is damaged and left out.")
            continue
        if kind in STEP_EVENTS and number(event.get("step")) is None:
            problems.append(f"line {index} of metrics.jsonl, {kind}, has no step: left out.")
            continue
        events = run.events.setdefault(kind, [])
        if kind in STEP_EVENTS:
            while events and events[-1]["step"] >= event["step"]:
                events.pop()
        events.append(event)
    run.problems += problems[:MOST_PROBLEMS]
    if rest := problems[MOST_PROBLEMS:]:
        run.problems.append(f"{len(rest):,} more lines of metrics.jsonl are left out.")


@dataclass(frozen=True)
class Outcome:
    """``kind`` is one of finished, stopped, running, failed, unknown; ``symbol`` is its shape."""

    kind: str
    symbol: str
    word: str
    sentence: str


@dataclass(frozen=True)
class VerdictEntry:
    """A verdict with its number in the page and what was done about it."""

    number: int
    name: str
    severity: str
    place: float | None  # on the axis of the curves
    epoch: float | None
    step: float | None
    explanation: str
    remedy: str
    action: str
    stopped: bool
    evidence: dict[str, Any]


_INTERRUPTED = ("stopped", "■", "INTERRUPTED")
# Exit code -> kind, symbol, word; 129, 130 and 143 are SIGHUP, SIGINT and SIGTERM.
_OUTCOMES = {
    1: ("failed", "✖", "FAILED"),
    2: ("failed", "✖", "BAD INPUT"),
    4: ("failed", "✖", "STORAGE"),
    **dict.fromkeys((129, 130, 143), _INTERRUPTED),
}
_RUNNING = 'status.json says "running": under way when this page was written, or killed since.'


def outcome_of(run: Run) -> Outcome:
    """From status.json; nothing is guessed where it is missing."""
    if run.status is None:
        return Outcome("unknown", "?", "UNKNOWN", "There is no status.json that could be read.")
    code, told = number(run.status.get("code")), run.status.get("reason")
    if code == 1 and told == "running":
        return Outcome("running", "▶", "RUNNING", _RUNNING)
    reason = str((get(run.results, "stop_reason") if code == 0 else told) or "").strip()
    reason = f"{reason[:1].upper()}{reason[1:]}"
    if code == 0:
        return Outcome("finished", "✔", "FINISHED", reason)
    if code == 3:
        by = get(run.verdict, "stopped_by", "name") or "a monitor"
        return Outcome("stopped", "■", f"STOPPED by {by}", reason)
    if code in _OUTCOMES:
        return Outcome(*_OUTCOMES[int(code)], reason)
    return Outcome("unknown", "?", "UNKNOWN", f"status.json has code {run.status.get('code')}.")


def verdicts_of(run: Run) -> list[VerdictEntry]:
    """What stopped the run first, then by severity and time.

    From verdict.json; of a run that has none yet from the events of metrics.jsonl.
    """
    told = get(run.verdict, "verdicts")
    given = told if isinstance(told, list) else run.events.get("verdict", [])
    found = [verdict for verdict in given if isinstance(verdict, dict)]
    stopper = get(run.verdict, "stopped_by")

    def stopped(verdict: Content) -> bool:
        keys = ("name", "severity", "step", "epoch")
        return isinstance(stopper, dict) and all(verdict.get(k) == stopper.get(k) for k in keys)

    def urgency(verdict: Content) -> tuple[bool, int, float]:
        severity = verdict.get("severity")
        rank = SEVERITIES.index(severity) if severity in SEVERITIES else 1
        return not stopped(verdict), -rank, number(verdict.get("step")) or 0.0

    def text(verdict: Content, key: str) -> str:
        return str(verdict.get(key) or "")

    if isinstance(stopper, dict) and not any(map(stopped, found)):
        found.insert(0, stopper)
    return [
        VerdictEntry(
            number=index,
            name=text(verdict, "name") or "unnamed",
            severity=said if (said := text(verdict, "severity")) in SEVERITIES else SUSPECTED,
            place=run.place(verdict),
            epoch=number(verdict.get("epoch")),
            step=number(verdict.get("step")),
            explanation=text(verdict, "explanation"),
            remedy=text(verdict, "remedy"),
            action=text(verdict, "action"),
            stopped=stopped(verdict),
            evidence=evidence if isinstance(evidence := verdict.get("evidence"), dict) else {},
        )
        for index, verdict in enumerate(sorted(found, key=urgency), start=1)
    ]


# Never by colour alone: a severity has a sign in words' company, and a marker in the curves.
SIGNS = {CERTAIN: "✖", SUSPECTED: "▲", INFO: "●"}
MARKERS = {CERTAIN: "X", SUSPECTED: "^", INFO: "o"}


# Scores of a stratum that are shown with an interval and the reference beside them.
SHOWN = {"roc_auc": "ROC-AUC", "mcc": "MCC"}


def resampling(run: Run) -> tuple[EvalConfig, int]:
    """Resamples and days of a block, by default where the run doesn't say, and its seed."""
    count = number(get(run.config, "eval", "num_resamples"))
    days, seed = number(get(run.config, "eval", "block_days")), number(get(run.config, "seed"))
    config = EvalConfig()
    if count is not None:
        config.num_resamples = max(0, int(count))
    config.block_days = days or config.block_days
    return config, int(seed or 0)


def reference_of(run: Run, key: str) -> str | None:
    """The best other forecast on validation by this score, as the run chose it."""
    name = get(run.results, "differences", key, "reference")
    return name if isinstance(name, str) else None


def strata_of(run: Run, by: str) -> list[Content]:
    """The entries of ``score_strata`` by "region" or "season"; [] without forecasts.

    Each also has ``references``: key of ``SHOWN`` -> score of the best other forecast there.
    """
    sample, threshold = run.sample(), run.thresholds.get("model")
    if sample is None or threshold is None or "model" not in sample.probabilities:
        return []
    if by == "region":
        strata = region_strata(sorted(set(sample.region)), sample.region)
    else:
        strata = season_strata(sample.issue_time)
    windows = assess.Sample(sample.label, sample.issue_time)
    found = score_strata(
        strata, sample.probabilities["model"], windows, threshold, *resampling(run)
    )
    chosen = {stratum.name: stratum.chosen for stratum in strata}
    for entry in found:
        mask = chosen[entry["name"]]
        entry["intervals"] = {k: ends for k, ends in entry["intervals"].items() if None not in ends}
        entry["references"] = {
            key: forecast_scores(
                sample.probabilities[other][mask], sample.label[mask], run.thresholds[other]
            )[key]
            for key in SHOWN
            if (other := reference_of(run, key)) in sample.probabilities and other in run.thresholds
        }
    return found
