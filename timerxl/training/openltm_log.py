"""What an OpenLTM console log says, as the events that the monitors read. No torch.

OpenLTM ends an epoch with ``Epoch: 1 cost time: 3897.7``, then scores validation and test and
prints ``Epoch: 1, Steps: 2103 | Vali Loss: 0.0393 Test Loss: 0.0414``. Classifiers built on it
print an accuracy for each, by name (``Val Accuracy: 69.05% (4160/6025)``) or without one
(``Accuracy: ...``, validation first). All else in the log is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from timerxl.training.log_lines import MAX_NAMED

_ANSI = re.compile(r"\x1b\[[0-9;:?]{0,40}[A-Za-z]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)")
# A line without any of these is passed over; a log may hold millions of them.
_WORDS = (
    "cost time|steps:|accuracy:|earlystopping counter|class distribution|train loss:"
    "|val loss:|vali loss:|validation loss:|test loss:"
).split("|")
_NUMBER = r"([-+]?\d{1,20}(?:\.\d{0,20})?(?:e[-+]?\d{1,3})?|nan|[-+]?inf)(?!\w|\.\d)"
# 69.05%, or 69.05% (4160/6025); a bracket that is cut off or damaged spoils the whole.
_SHARE = r"(\d{1,3}(?:\.(\d{1,8}))?) ?%(?:\s{0,4}\((\d{1,9})/(\d{1,9})\)|(?!\s{0,4}[(\d]))"
_SPLIT = r"(?<![a-z])(train|vali?|validation|test)"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_COST_TIME = _pattern(rf"(?<![a-z])epoch:?\s{{1,4}}(\d{{1,6}}) cost time:\s{{0,4}}{_NUMBER}")
_SUMMARY = _pattern(r"(?<![a-z])epoch:?\s{1,4}(\d{1,6}),\s{0,4}steps:")
_NAMED = _pattern(rf"{_SPLIT} accuracy:\s{{0,4}}(?:{_SHARE})?")
_UNNAMED = _pattern(rf"(?:^|[^\w\s])\s{{0,8}}accuracy:\s{{0,4}}{_SHARE}")
_LOSS = _pattern(rf"{_SPLIT} loss:\s{{0,4}}(?:{_NUMBER})?")
_STOPPING = _pattern(r"earlystopping counter:\s{0,4}(\d{1,6}) out of (\d{1,6})(?!\d)")
_CLASSES = _pattern(
    r"\[(train|val|test)\]\s{0,8}class distribution:\s{0,4}"
    r"no rain=(\d{1,9}),\s{0,4}rain=(\d{1,9})(?!\d)"
)


@dataclass(frozen=True)
class BaseRate:
    """A share of rain as a person gives it; ``rounding`` is how far off it may be."""

    share: float
    rounding: float = 0.0


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers, with (right answers, windows) where the log has them."""

    share: float
    counts: tuple[int, int] | None = None


@dataclass
class Epoch:
    """What the log holds of one epoch; ``number`` is None until a line names it."""

    number: int | None
    line: int
    seconds: float | None = None
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    unnamed: list[Accuracy] = field(default_factory=list)
    loss: dict[str, float] = field(default_factory=dict)
    stopping: tuple[int, int] | None = None
    has_summary: bool = False

    def counts(self, split: str) -> tuple[int, int] | None:
        return self.accuracy[split].counts if split in self.accuracy else None


@dataclass
class LoggedRun:
    """The epochs of one run, and the classes of its data: (split, without rain, with rain)."""

    epochs: list[Epoch] = field(default_factory=list)
    classes: list[tuple[str, int, int]] = field(default_factory=list)

    def events(self, base_rate: BaseRate | None = None) -> Iterator[dict[str, Any]]:
        """Events for ``Watcher.see``, those of test before the validation of their epoch.

        A log counts epochs, not steps: validation has no step, and test is kept under its epoch,
        where ``History.elsewhere`` then looks.
        """
        given = None if base_rate is None else self.sharpened(base_rate)
        repeated = {split: self.repeated(split) for split in ("test", "validation")}
        for epoch in self.epochs:
            at = {"epoch": epoch.number}
            if scores := self._scores(epoch, "test", None, repeated["test"]):
                yield {"event": "test_every_epoch"} | at | scores
            if scores := self._scores(epoch, "validation", given, repeated["validation"]):
                beside = {"train_loss": epoch.loss.get("train"), "seconds": epoch.seconds}
                yield {"event": "validation"} | at | scores | beside

    def _scores(
        self, epoch: Epoch, split: str, given: float | None, repeated: Container[tuple[int, int]]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if split in epoch.loss:
            found["loss"] = epoch.loss[split]
        accuracy, counts = epoch.accuracy.get(split), epoch.counts(split)
        if accuracy is None:
            return found
        found["accuracy"] = accuracy.share
        if counts is not None:
            found["num_windows"] = counts[1]
        of_classes = self.class_share(split, None if counts is None else counts[1])
        if given is not None:
            found |= {"rain_share": given, "rain_share_source": "given"}
        elif of_classes is not None:
            found |= {"rain_share": of_classes, "rain_share_source": "class distribution"}
        elif counts is not None and counts in repeated:
            found |= {"rain_share": accuracy.share, "rain_share_source": "identical counts"}
            found["share_is_assumed"] = True
        return found

    def class_share(self, split: str, windows: int | None) -> float | None:
        """From the last class distribution that adds up to ``windows``."""
        for name, dry, rain in reversed(self.classes):
            if (name, dry + rain) == (split, windows) and windows:
                return rain / windows
        return None

    def repeated(self, split: str) -> dict[tuple[int, int], tuple[Epoch, Epoch]]:
        """Counts of right answers that validation AND test kept over two epochs in a row."""
        found: dict[tuple[int, int], tuple[Epoch, Epoch]] = {}
        for before, after in pairwise(self.epochs):
            counts = [before.counts("validation"), before.counts("test")]
            here = before.counts(split)
            if here is None or None in counts:
                continue
            if counts == [after.counts("validation"), after.counts("test")]:
                found.setdefault(here, (before, after))
        return found

    def sharpened(self, given: BaseRate) -> float:
        """A rounded share made exact by an accuracy that is that share as far as it was given.

        Counts that repeat go first. One count alone is taken, so that accuracies that are merely
        near the share do not become the same.
        """
        if not given.rounding:
            return given.share
        counts = [epoch.counts("validation") for epoch in self.epochs]
        for found in [*self.repeated("validation"), *counts]:
            if found is None:
                continue
            for share in (found[0] / found[1], 1 - found[0] / found[1]):
                if abs(share - given.share) <= given.rounding + 1e-12:
                    return share
        return given.share


class LogReader:
    """Takes a log line by line; ``finish`` gives its runs, ``notes`` says what was left out."""

    def __init__(self) -> None:
        self.runs: list[LoggedRun] = []
        self.notes: list[str] = []
        self._open: Epoch | None = None
        self._classes: list[tuple[str, int, int]] = []
        self._num_left_out = 0

    def take(self, line: str, number: int) -> bool:
        """True where ``line``, the ``number``-th, said something."""
        if "\x1b" in line:
            line = _ANSI.sub("", line)
        if not any(map(line.lower().__contains__, _WORDS)):
            return False
        found = [self._name(line, number), self._accuracies(line, number)]
        return any([*found, self._losses(line, number), self._others(line)])

    def finish(self) -> list[LoggedRun]:
        """All runs; to be called once, after the last line."""
        self._close()
        if self.runs:
            self.runs[-1].classes += self._classes
        if self._num_left_out > MAX_NAMED:
            self.notes.append(f"{self._num_left_out} lines or parts in all were left out so.")
        return self.runs

    def _name(self, line: str, number: int) -> bool:
        """A line that names an epoch: it opens it, or fits the one that is open."""
        if match := _COST_TIME.search(line):
            self._close()
            self._start(Epoch(int(match[1]), number, seconds=float(match[2])))
            return True
        if match := _SUMMARY.search(line):
            named, now = int(match[1]), self._open
            if now is not None and now.number is None:  # its scores came before its name
                now.number = named
                self._start(now)
            elif now is None or now.number != named or now.has_summary:
                self._close()
                now = self._start(Epoch(named, number))
            now.has_summary = True
            return True
        if "cost time" in line.lower():
            self._close()  # what follows is of an epoch that nothing names
            self._leave_out(f'line {number} is not understood: "{excerpt(line)}"')
        return False

    def _accuracies(self, line: str, number: int) -> bool:
        found = False
        for match in _NAMED.finditer(line):
            split, accuracy = _split(match[1]), _accuracy(match.groups()[1:])
            if accuracy is None:
                self._leave_out(f'line {number} is not understood: "{excerpt(line)}"')
            elif split != "train":
                now = self._open
                if now is None or now.accuracy.get(split, accuracy) != accuracy:
                    now = self._nameless(number)
                now.accuracy[split] = accuracy
                found = True
        for match in _UNNAMED.finditer(line):
            accuracy = _accuracy(match.groups())
            if accuracy is None or accuracy.counts is None:
                continue  # such as the report on test at the end
            now = self._open
            if now is None or now.has_summary:
                now = self._nameless(number)
            now.unnamed.append(accuracy)
            found = True
        return found

    def _losses(self, line: str, number: int) -> bool:
        found = False
        for match in _LOSS.finditer(line):
            if match[2] is None:
                self._leave_out(f'line {number} is not understood: "{excerpt(line)}"')
                continue
            split, loss, now = _split(match[1]), float(match[2]), self._open
            if now is None or not _same(now.loss.get(split, loss), loss):
                now = self._nameless(number)
            now.loss[split] = loss
            found = True
        return found

    def _others(self, line: str) -> bool:
        if match := _STOPPING.search(line):
            if self._open is not None:
                self._open.stopping = (int(match[1]), int(match[2]))
            return True
        found = list(_CLASSES.finditer(line))
        self._classes += [(_split(match[1]), int(match[2]), int(match[3])) for match in found]
        return bool(found)

    def _start(self, epoch: Epoch) -> Epoch:
        """Into the run that goes on, or into a new one where the number does not grow."""
        last = self.runs[-1].epochs[-1].number if self.runs else None
        if last is None or epoch.number is None or epoch.number <= last:
            self.runs.append(LoggedRun())
        self.runs[-1].epochs.append(epoch)
        self.runs[-1].classes += self._classes
        self._classes = []
        self._open = epoch
        return epoch

    def _nameless(self, number: int) -> Epoch:
        """Scores that are not those of the open epoch: the line that names theirs may follow."""
        self._close()
        self._open = Epoch(None, number)
        return self._open

    def _close(self) -> None:
        epoch, self._open = self._open, None
        if epoch is None:
            return
        where = f"epoch {epoch.number}" if epoch.number is not None else f"line {epoch.line}"
        if len(epoch.unnamed) > 2 and not epoch.accuracy:
            self._leave_out(
                f"{where} has {len(epoch.unnamed)} accuracies without a name (two were expected, "
                "validation and test)"
            )
        elif not epoch.accuracy:
            epoch.accuracy = dict(zip(("validation", "test"), epoch.unnamed, strict=False))
        if epoch.number is None:
            self._leave_out(f"{where} has scores, but no line names their epoch")

    def _leave_out(self, what: str) -> None:
        self._num_left_out += 1
        if self._num_left_out <= MAX_NAMED:
            self.notes.append(f"{what}; left out.")


def _split(word: str) -> str:
    word = word.lower()
    return "validation" if word.startswith("val") else word


def _accuracy(groups: tuple[str | None, ...]) -> Accuracy | None:
    """From percent, its decimals, right answers and windows; None where they do not agree."""
    percent, decimals, right, windows = groups
    if percent is None or float(percent) > 100:
        return None
    if right is None or windows is None:
        return Accuracy(float(percent) / 100)
    counts = int(right), int(windows)
    if not counts[1] or counts[0] > counts[1]:
        return None
    share = counts[0] / counts[1]
    off = abs(100 * share - float(percent))
    return Accuracy(share, counts) if off <= 10.0 ** -len(decimals or "") else None


def _same(a: float, b: float) -> bool:
    return a == b or (a != a and b != b)


def excerpt(line: str) -> str:
    """Enough of a line to find it, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in line.strip()[:70])
