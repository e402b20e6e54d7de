"""What went wrong in a run, from what it left: its metrics.jsonl or an OpenLTM console log.

Which of the two a file is, its content says. Both go through the watcher of a live run, which then
says every verdict every time. Files are read a line at a time. No torch.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from timerxl.config import InputError, MonitorsConfig, load_recipe
from timerxl.files import json_object
from timerxl.training.monitors.openltm_log import MAX_NAMED, BaseRate, LoggedRun, LogReader, excerpt
from timerxl.training.monitors.rules import MONITORS, READ_BY, SEVERITIES, Verdict, Watcher

_EVENTS = {*READ_BY, *"plan holdout test_every_epoch verdict".split()}


@dataclass
class ReplayedVerdict:
    """A verdict on run number ``run``; what steps or costs repeat is the first of ``times``."""

    verdict: Verdict
    run: int
    times: int = 1


class Diagnosis:
    """The monitors over the events of one run after the other: what was found, and notes on what
    could not be read or had to be assumed."""

    def __init__(self, kind: str, limits: MonitorsConfig) -> None:
        self.kind, self.limits = kind, limits
        self.findings: list[ReplayedVerdict] = []
        self.notes: list[str] = []
        self.num_runs = self.num_evaluations = self.num_checks = 0
        self._own: dict[tuple[str, str], Verdict] = {}  # what the run itself said
        self._found: dict[tuple[str, str], ReplayedVerdict] = {}

    def start(self) -> None:
        """Begin the next run."""
        self.finish()
        self.num_runs += 1
        self._watcher = Watcher(self.limits, repeat=True)
        self._found, self._sources = {}, dict[str, str]()

    def see(self, event: dict[str, Any]) -> None:
        """Show an event to the monitors; what steps and costs repeat is kept once and counted."""
        kind = str(event["event"])
        self.num_evaluations += kind == "validation"
        self.num_checks += kind == "check"
        if "rain_share_source" in event:
            self._sources[kind] = event["rain_share_source"]
        for verdict in self._watcher.see(event):
            key = verdict.name, verdict.severity
            if key in self._found and kind not in ("validation", "check"):
                self._found[key].times += 1
                continue
            finding = ReplayedVerdict(self._with_source(verdict), self.num_runs)
            self.findings.append(finding)
            self._found.setdefault(key, finding)
        self._watcher.verdicts.clear()  # a file may hold millions of steps

    def note_own(self, verdict: Verdict) -> None:
        """Remember what the run itself said when it ran."""
        self._own.setdefault((verdict.name, verdict.severity), verdict)

    def finish(self) -> None:
        """End the run. A gradient of NaN is null in JSON, as is one that is not known: then only
        the run's own verdict is left."""
        for key, verdict in self._own.items():
            if key not in self._found:
                self.findings.append(ReplayedVerdict(verdict, self.num_runs))
                self.notes.append(
                    f"{verdict.name} ({verdict.severity}) is what the run itself said; its numbers "
                    "alone do not show it."
                )
        self._own = {}

    def _with_source(self, verdict: Verdict) -> Verdict:
        """Say where a share of rain in the evidence comes from."""
        added = {}
        for key, name, event in (
            ("rain_share", "rain_share_source", "validation"),
            ("validation_rain_share", "rain_share_source", "validation"),
            ("test_rain_share", "test_rain_share_source", "test_every_epoch"),
        ):
            if key in verdict.evidence and event in self._sources:
                added[name] = self._sources[event]
        return replace(verdict, evidence=verdict.evidence | added)

    def to_list(self) -> list[dict[str, Any]]:
        """The findings for JSON: name, epoch, severity and evidence.

        The evidence says the step of a run, how many ``times`` steps said so where it was more
        than once, and which ``run`` it was where there are several.
        """
        rows = []
        for finding in self.findings:
            verdict = finding.verdict
            evidence = dict(verdict.evidence)
            evidence |= {"step": verdict.step} if verdict.step is not None else {}
            evidence |= {"times": finding.times} if finding.times > 1 else {}
            evidence |= {"run": finding.run} if self.num_runs > 1 else {}
            row = {"name": verdict.name, "epoch": verdict.epoch, "severity": verdict.severity}
            rows.append(row | {"evidence": evidence})
        return rows


def diagnose(path: Path, base_rate: BaseRate | None = None) -> Diagnosis:
    """Replay the run or runs in the file, or of the run folder, ``path``.

    ``base_rate`` is the share of rain on validation where the file does not hold it. Raises
    InputError where there is nothing to replay.
    """
    path = file_of(path)
    ours, log, is_log = MetricsReader(path, base_rate), LogReader(), False
    for number, line in lines_of(path):
        if is_log or not ours.take(line, number):
            is_cut = not line.endswith(("\n", "\r"))
            is_log = log.take(line, number, is_cut) or is_log
    if ours.found is not None:
        return ours.finish(ours.found)
    runs = log.finish()
    if not runs:
        what = "scores, but no line that names an epoch" if log.notes else "no event and no epoch"
        raise InputError(f"{path} holds {what}; {EXPECTED}.")
    found = Diagnosis("OpenLTM console log", MonitorsConfig())
    for logged in runs:
        found.start()
        for event in logged.events(base_rate):
            found.see(event)
        label = f"run {found.num_runs}: " if len(runs) > 1 else ""
        found.notes += [label + remark for remark in remarks(logged, base_rate)]
    if any("test" in epoch.accuracy for logged in runs for epoch in logged.epochs):
        found.notes.append("test was scored along the way: who chooses by it has no test left.")
    if any("std_error_points" in finding.verdict.evidence for finding in found.findings):
        found.notes.append(
            "standard errors come from counts, as if windows were independent: they are too small."
        )
    found.notes += log.notes
    return found


class MetricsReader:
    """Read metrics.jsonl line by line; ``found`` is None until a line is an event of ours."""

    def __init__(self, path: Path, base_rate: BaseRate | None) -> None:
        self.path, self.base_rate = path, base_rate
        self.found: Diagnosis | None = None
        self._damaged: list[int] = []
        self._faults: list[str] = []
        self._num_faults = self._num_damaged = 0
        self._has_begun = self._is_cut = self._is_base_rate_used = False

    def take(self, line: str, number: int) -> bool:
        """Read a line; return whether the file is metrics.jsonl, as far as is known."""
        if not line.strip():
            return self.found is not None
        event = event_of(line)
        if event is None:
            self._num_damaged += 1
            self._damaged = [*self._damaged, number][:MAX_NAMED]
            self._is_cut = not line.endswith(("\n", "\r"))
        elif self.found is None and event["event"] in _EVENTS:
            self.found = Diagnosis("metrics.jsonl", self._limits())
            self.found.start()
        if event is not None and self.found is not None:
            self._see(self.found, event, number)
        return self.found is not None

    def finish(self, found: Diagnosis) -> Diagnosis:
        """Add the notes; to be called once, after the last line."""
        if self._num_damaged:
            lines = listed("line", self._damaged, self._num_damaged)
            cut = " (the last one is cut off)" if self._is_cut else ""
            found.notes.append(f"{lines}: no event of ours{cut}; left out, the rest is used.")
        found.notes += self._faults
        if self._num_faults > len(self._faults):
            found.notes.append(f"{self._num_faults} such values in all were left out.")
        if self.base_rate is not None and not self._is_base_rate_used:
            found.notes.append("the log holds the share of rain: --base-rate is not used.")
        found.finish()
        return found

    def _see(self, found: Diagnosis, event: dict[str, Any], number: int) -> None:
        name = event["event"]
        if name == "verdict" and (own := verdict_of(event)) is not None:
            found.note_own(own)
        if name == "verdict" or name not in _EVENTS:
            return
        if name == "start" and self._has_begun:
            found.start()
        self._has_begun = name != "start" and (self._has_begun or name in READ_BY)
        for key, value in take_unfit(event).items():
            self._fault(f"line {number}: {key} is {excerpt(repr(value))}; left out.")
        if missing := missing_keys(event):
            self._fault(f"line {number}: {name} without its {' and '.join(missing)} is left out.")
            return
        if name == "validation" and self.base_rate and event.get("rain_share") is None:
            event |= {"rain_share": self.base_rate.share, "rain_share_source": "given"}
            self._is_base_rate_used = True
        found.see(event)

    def _fault(self, what: str) -> None:
        self._num_faults += 1
        self._faults = [*self._faults, what][:MAX_NAMED]

    def _limits(self) -> MonitorsConfig:
        """Read the limits from the run's own config.yaml, where it lies beside the file."""
        config = self.path.with_name("config.yaml")
        if not config.is_file():
            return MonitorsConfig()
        try:
            return load_recipe(str(config)).monitors
        except InputError as error:
            self._faults.append(f"default limits of the monitors, because {error}")
            return MonitorsConfig()


def remarks(run: LoggedRun, base_rate: BaseRate | None) -> list[str]:
    """List what is missing in a logged run, and what was assumed to judge it."""
    notes = []
    numbers = [epoch.number or 0 for epoch in run.epochs]
    if numbers[0] > 1:
        notes.append(f"the log begins with epoch {numbers[0]}.")
    for before, after in pairwise(numbers):
        if after > before + 1:
            notes.append(f"no line between epochs {before} and {after} names an epoch.")
    if run.has_only_test:
        notes.append("the log holds no validation: the scores of test are judged in its place.")
    if run.num_processes > 1:
        mixed = (
            " or of several: they differ, and no rank stands before a line" if run.is_mixed else ""
        )
        notes.append(f"{run.num_processes} processes printed it; the numbers are of one{mixed}.")
    if not any(epoch.accuracy for epoch in run.epochs):
        notes.append(
            "the log holds no accuracy: only overfitting and losses that are NaN or infinite can "
            "be seen."
        )
    for split in ("validation", "test"):
        lost = [epoch.number or 0 for epoch in run.epochs if split not in epoch.accuracy]
        if 0 < len(lost) < len(run.epochs):
            notes.append(f"{listed('epoch', lost)}: no {split} accuracy; is the log cut off?")
    counts = {epoch.counts("validation") for epoch in run.epochs} - {None}
    windows = sorted({found[1] for found in counts if found is not None})
    for split, dry, rain in run.classes:
        if split == "validation" and windows and dry + rain not in windows:
            notes.append(
                f"the class distribution of validation, {dry} + {rain} = {dry + rain}, is "
                f"not used: validation has {windows[0]} windows."
            )
    given = None if base_rate is None else run.sharpened(base_rate)
    if base_rate is not None and given is not None and abs(given - base_rate.share) > 5e-7:
        notes.append(
            f"the base rate of {base_rate.share:g} is taken to be {given:.6g}, which an accuracy "
            "of validation is exactly; counts (--base-rate 4160/6025) leave nothing to assume."
        )
    for accuracy, streak in run.repeated("validation").items():
        first, last = streak[0], streak[-1]
        right, total = accuracy.counts or (None, None)
        what = "accuracy" if right is None else f"{right} right answers of {total}"
        to = "and" if len(streak) == 2 else "to"
        same = f"epochs {first.number} {to} {last.number} have the same {what} in validation"
        same += ", and the same in test" if "test" in first.accuracy else ""
        share = given if given is not None else run.class_share("validation", total)
        if share is None:
            larger = max(accuracy.share, 1 - accuracy.share)
            notes.append(
                f"{same}; the log does not hold the share of rain: the larger class is taken to be "
                f"{larger:.2%} (--base-rate sets the share of rain)."
            )
        elif not accuracy.is_share(share):
            notes.append(f"{same}, as if one class were forecast; but {share:.2%} is rain.")
    if given is None and not run.repeated("validation"):
        notes += _repeated_accuracies(run)
    last = run.epochs[-1]
    if last.stopping is not None and last.stopping[0] >= last.stopping[1]:
        notes.append(f"early stopping ended it after epoch {last.number}.")
    return notes


def _repeated_accuracies(run: LoggedRun) -> list[str]:
    """Note accuracies of validation that come again, where test or the counts prove nothing."""
    found = []
    for first, second in pairwise(run.epochs):
        one, other = first.accuracy.get("validation"), second.accuracy.get("validation")
        if one is None or one != other or first.accuracy.get("test") != second.accuracy.get("test"):
            continue
        found.append(
            f"epochs {first.number} and {second.number} have the same validation accuracy, "
            f"{one.share:.2%}, as if one class were forecast: --base-rate SHARE tells."
        )
    return found[:1]


EXPECTED = (
    "expected metrics.jsonl of a run, the run's folder, or the console log of an OpenLTM or "
    "Time-Series-Library run (lines such as 'Epoch: 1 cost time: 3897.7', 'Val Accuracy: 69.05% "
    "(4160/6025)' and 'Epoch: 1, Steps: 220 | Vali Loss: 0.651'); give one of these"
)
MOST_BYTES = 2**30  # of a log
MAX_LINE = 1_000_000  # characters; what is longer is no line of ours and is read in pieces
_PEEK = 65_536
_BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_OTHER_ENCODINGS = "gb18030 cp932 cp949 cp1252".split()

# What the monitors read of an event, and how large it may be.
_LIMITS = (
    dict.fromkeys("loss train_loss grad_norm".split(), 1e300)
    | dict.fromkeys("step epoch num_windows grace_steps logit_spread skipped".split(), 1e15)
    | dict.fromkeys("accuracy_std_error epoch_seconds peak_memory_gb".split(), 1e15)
    | dict.fromkeys(
        "accuracy balanced_accuracy f1 roc_auc best_threshold accuracy_rounding".split(), 1.0
    )
    | dict.fromkeys("rain_share predicted_rain_share".split(), 1.0)
)
_SIGNED = 1e300  # the limit of losses and norms, which may also be no numbers
_NEEDED = {"train": ("step", "loss"), "holdout": ("step",), "test_every_epoch": ("step",)}


def file_of(path: Path) -> Path:
    """Return ``path``, or metrics.jsonl in the folder ``path``; raise InputError where that is no
    file."""
    try:
        if path.is_dir():
            if not (path / "metrics.jsonl").is_file():
                raise InputError(f"{path} is a folder without metrics.jsonl; {EXPECTED}.")
            return path / "metrics.jsonl"
        if not path.is_file():
            found = "is no regular file" if path.exists() else "does not exist"
            raise InputError(f"{path} {found}; {EXPECTED}.")
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); {EXPECTED}.") from error
    return path


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of every line; what a progress bar wrote over is a line with its
    number."""
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise InputError(f"{path} has {size:,} bytes, expected at most {MOST_BYTES:,}.")
        with path.open("rb") as file:
            start = file.read(_PEEK)
        if not start:
            raise InputError(f"{path} is empty; {EXPECTED}.")
        encoding = next((e for m, e in _BYTE_ORDER_MARKS.items() if start.startswith(m)), "utf-8")
        if _is_binary(start, encoding):
            raise InputError(f"{path} is a binary file; {EXPECTED}.")
        number = 1
        with path.open(encoding=encoding, errors="replace", newline="") as lines:
            while line := lines.readline(MAX_LINE):
                yield number, line
                number += line.endswith("\n")
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}); {EXPECTED}.") from error


def _is_binary(start: bytes, encoding: str) -> bool:
    """Whether this is text in none of the encodings that logs have.

    Lines are read as UTF-8 all the same: in the other encodings the words that are looked for are
    the same bytes, and a letter before one of them can't swallow its first.
    """
    text = start.decode(encoding, errors="replace")
    odd = sum(c < " " and c not in "\t\n\r\f\b\x1b" for c in text)
    if not any(_decodes(start, other) for other in (encoding, *_OTHER_ENCODINGS)):
        odd += text.count("\ufffd")
    return odd > 0.3 * len(text)


def _decodes(start: bytes, encoding: str) -> bool:
    """Whether all of ``start`` is text in ``encoding``; a last letter may be cut off."""
    try:
        getincrementaldecoder(encoding)("strict").decode(start)
    except UnicodeDecodeError:
        return False
    return True


def event_of(line: str) -> dict[str, Any] | None:
    """Parse a JSON object with a string under "event"; None where it is something else."""
    event = json_object(line)
    return event if event is not None and isinstance(event.get("event"), str) else None


def fits(key: str, value: Any) -> bool:
    """Whether the monitors can read this value of an event; null is "not known"."""
    if key == "dead_features":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    limit = _LIMITS.get(key)
    if value is None or limit is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if limit == _SIGNED:
        return isinstance(value, float) or abs(value) <= limit
    return (value != value and limit == 1.0) or 0 <= value <= limit


def take_unfit(event: dict[str, Any]) -> dict[str, Any]:
    """Remove from an event, and return, what the monitors can't read."""
    return {key: event.pop(key) for key in list(event) if not fits(key, event[key])}


def missing_keys(event: dict[str, Any]) -> tuple[str, ...]:
    """Return what an event lacks to be shown to the monitors; () where it has all."""
    needed = _NEEDED.get(event["event"], ())
    # A null loss is one that was no number; without a step nothing can be placed.
    if event.get("step", 0) is None or not all(key in event for key in needed):
        return needed or ("step",)
    return ()


def is_whole(line: str) -> bool:
    """Whether a line is an event that the monitors can read to its last value."""
    event = event_of(line)
    return event is not None and not take_unfit(event) and not missing_keys(event)


def verdict_of(event: dict[str, Any]) -> Verdict | None:
    """Read the verdict that the run itself wrote; None where it is damaged."""
    names = [item.name for item in fields(Verdict)]
    if not all(name in event and fits(name, event[name]) for name in names):
        return None
    said = Verdict(**{name: event[name] for name in names})
    known = said.name in list(MONITORS) and said.severity in SEVERITIES
    whole = all(isinstance(text, str) for text in (said.explanation, said.remedy))
    return said if known and whole and _is_flat(said.evidence) else None


def _is_flat(evidence: Any) -> bool:
    """Whether evidence is plain values and lists of them, by name."""
    if not isinstance(evidence, dict):
        return False
    rows = [value if isinstance(value, list) else [value] for value in evidence.values()]
    return not any(isinstance(value, list | dict) for row in rows for value in row)


def listed(noun: str, numbers: Sequence[object], count: int | None = None) -> str:
    """ "lines 3, 7 and 12 more"."""
    count = len(numbers) if count is None else count
    named = ", ".join(map(str, numbers[:MAX_NAMED]))
    more = f" and {count - MAX_NAMED} more" if count > MAX_NAMED else ""
    return f"{noun}{'s' if count > 1 else ''} {named}{more}"
