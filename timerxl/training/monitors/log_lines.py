"""Lines of a file that may be damaged, and the events of a run among them. No torch.

A file is read a line at a time: logs grow to hundreds of megabytes.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from timerxl.config import InputError
from timerxl.files import json_object
from timerxl.training.monitors.rules import MONITORS
from timerxl.training.monitors.verdicts import SEVERITIES, Verdict

EXPECTED = (
    "expected metrics.jsonl of a run, the run's folder, or the console log of an OpenLTM or "
    "Time-Series-Library run (lines such as 'Epoch: 1 cost time: 3897.7', 'Val Accuracy: 69.05% "
    "(4160/6025)' and 'Epoch: 1, Steps: 220 | Vali Loss: 0.651'); give one of these"
)
MAX_NAMED = 5  # lines or epochs that a note names before it only counts them
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
    """``path``, or metrics.jsonl in the folder ``path``; InputError where that is no file."""
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
    """(number, text) of every line; what a progress bar wrote over is a line with its number."""
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
    """A JSON object with a string under "event", or None."""
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
    """Take out of an event, and return, what the monitors can't read."""
    return {key: event.pop(key) for key in list(event) if not fits(key, event[key])}


def missing_keys(event: dict[str, Any]) -> tuple[str, ...]:
    """What an event lacks to be shown to the monitors; () where it has all."""
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
    """The verdict that the run itself wrote, or None where it is damaged."""
    names = [item.name for item in fields(Verdict)]
    if not all(name in event and fits(name, event[name]) for name in names):
        return None
    said = Verdict(**{name: event[name] for name in names})
    known = said.name in list(MONITORS) and said.severity in SEVERITIES
    whole = all(isinstance(text, str) for text in (said.explanation, said.remedy))
    return said if known and whole and _is_flat(said.evidence) else None


def _is_flat(evidence: Any) -> bool:
    """Plain values and lists of them, by name."""
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
