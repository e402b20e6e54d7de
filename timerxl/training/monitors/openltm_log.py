"""What an OpenLTM console log says, as the events that the monitors read. No torch.

OpenLTM ends an epoch with ``Epoch: 1 cost time: 3897.7``, then scores validation and test and
prints ``Epoch: 1, Steps: 2103 | Vali Loss: 0.0393 Test Loss: 0.0414``. Time-Series-Library and what
was made from it print the same lines, with ``Train Loss`` and, where they classify,
``Vali Acc: 0.692 Test Acc: 0.683``. Classifiers built on OpenLTM print an accuracy for each, by
name (``Val Accuracy: 69.05% (4160/6025)``) or without one (``Accuracy: ...``, validation first).
The loss of a training step is read where it is NaN or infinite. All else is passed over.

Several processes may write one log at the same time. A line belongs to the process whose rank
stands before it, or else to one that can have printed it next. Processes whose lines overlap are
one run, of which one process is read; runs that follow each other are several.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise
from operator import itemgetter
from typing import Any

from timerxl.untrusted import plain

MAX_NAMED = 5  # lines or epochs that a note names before it only counts them
_NUMBER = r"([-+]?\d{1,20}(?:\.\d{0,20})?(?:e[-+]?\d{1,3})?|[-+]?nan|[-+]?inf(?:inity)?)(?!\w|\.\d)"
# 0.6905 or 69.05%, alone or with (4160/6025); a damaged bracket spoils the whole.
_SHARE = (
    r"(\d{1,3}(?:\.(\d{1,20}))?)(?![\w.])(?: ?(%)|(?! ?%))"
    r"(?:\s{0,4}\((\d{1,9})/(\d{1,9})\)|(?!\s{0,4}[(\d]))"
)
_SPLIT = r"(?<![a-z])(?<!best[ _])(train|vali?d?|validation|eval|test)[ _]"
_EPOCH = r"(?<![a-z])epoch(?:[:=]\s{0,4}|\s{1,4})\[?(\d{1,6})(?!\d)"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_ANSI = re.compile(r"\x1b\[[0-9;:?]{0,40}[A-Za-z]|\x1b\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)")
# A line without any of these is passed over; a log may hold millions of them.
_WORDS = [
    *"cost time|steps:|accuracy|earlystopping counter|class distribution|>start training".split(
        "|"
    ),
    *(f"{end}{word}" for end in ["_", "n ", "i ", "l ", "d ", "t "] for word in ("loss", "acc")),
    *"nan|: inf|:inf|=inf|= inf|-inf".split("|"),
]
# [rank0]:  [default0]: (torchrun)  [1,0]<stdout>: (mpirun)  0: (srun --label)  rank 0:
_RANK = _pattern(
    r"\[(?:rank|default|worker|trainer|gpu|process)[ :_]?(\d{1,6})\]"
    r"|\[\d{1,9},(\d{1,6})\](?:<std...>)?:|^\s{0,8}(\d{1,6}):\s|(?<![a-z_])rank[ =:_]?(\d{1,6})\b"
)
# Where the print of one process follows that of another on one line.
_GLUED = _pattern(
    r"(?:(?<=[\d.%)])|(?<=nan)|(?<=inf))(?=(?:\[[a-z]{1,9}\d{1,6}\]:? {0,2})?"
    r"(?:epoch:? |earlystopping|(?:vali?|test) acc|validation loss|accuracy))"
)
_COST_TIME = _pattern(rf"{_EPOCH},? cost time:\s{{0,4}}{_NUMBER}")
_NAMES_EPOCH = _pattern(_EPOCH)
_SCORED = _pattern(
    r"steps:|(?<![a-z])(?:vali?d?|validation|eval|test)[ _](?:loss|acc(?:uracy)?)\s?[:=]"
)
_OTHER_EPOCH = _pattern(r"best|early|load|restor|resum")  # before "epoch": not the one that ends
_BROKEN_STEP = _pattern(r"(?:^|[^\w\s])\s{0,4}loss\s?[:=]\s{0,4}([-+]?(?:nan|inf(?:inity)?))(?!\w)")
_NAMED = _pattern(rf"{_SPLIT}acc(?:uracy)?\s{{0,2}}[:=]\s{{0,4}}(?:{_SHARE}|(nan)\b)?")
_UNNAMED = _pattern(
    rf"(?:^|[^\w\s]|\b(?:info|debug|warning))\s{{0,8}}accuracy(?:_score)?\s{{0,2}}[:=]\s{{0,4}}{_SHARE}"
)
# scikit-learn's classification_report
_REPORT = _pattern(r"^\s{0,16}accuracy\s{2,40}([01]\.(\d{2,6}))\s{1,20}\d{1,9}\s*$")
_BATCH = _pattern(r"iters|loss|it/s|s/it")  # beside an accuracy: that of a batch
_LOSS = _pattern(rf"{_SPLIT}loss\s{{0,2}}[:=]\s{{0,4}}(?:{_NUMBER})?")
_LAST_NUMBER = _pattern(r"(acc|loss|out of)(?:uracy)?\s{0,2}[:=]?\s{0,4}(\d{1,20}\.?(\d{0,20}))$")
_STOPPING = _pattern(r"earlystopping counter:\s{0,4}(\d{1,6}) out of (\d{1,6})(?!\d)")
_CLASSES = _pattern(
    r"\[(train|val|test)\]\s{0,8}class distribution:\s{0,4}"
    r"no rain=(\d{1,9}),\s{0,4}rain=(\d{1,9})(?!\d)"
)

# How many rounded scores must come again, one epoch after another, before it is no chance: where
# shares have two decimals, as 0.69 and 69%, and where they have more.
_TIMES_COARSE, _TIMES_FINE = 8, 4
_MOST_PROCESSES = 128  # that print at once, without ranks


@dataclass(frozen=True)
class BaseRate:
    """A share of rain as a person gives it; ``rounding`` is how far off it may be."""

    share: float
    rounding: float = 0.0


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers, with (right answers, windows) where the log has them.

    Else ``decimals`` says to how many places the share is printed. ``is_bare``: printed without a
    percent sign, which may still mean percent.
    """

    share: float
    counts: tuple[int, int] | None = None
    decimals: int | None = None
    is_bare: bool = False

    @property
    def rounding(self) -> float:
        """How far the share may be off: half of the last digit."""
        return 0.0 if self.decimals is None else 0.5 * 10.0**-self.decimals

    def is_share(self, share: float) -> bool:
        """Whether this may be the accuracy of one class alone, of which there is ``share``."""
        tolerance = 0.5 / self.counts[1] if self.counts else self.rounding
        return min(abs(self.share - share), abs(self.share - (1 - share))) <= tolerance + 1e-12


@dataclass
class Epoch:
    """What the log holds of one epoch; ``number`` is None until a line names it.

    ``nonfinite`` maps what was scored to a loss that is NaN or infinite.
    """

    number: int | None
    line: int
    seconds: float | None = None
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    unnamed: list[tuple[int, Accuracy]] = field(default_factory=list)  # with their order
    loss: dict[str, float] = field(default_factory=dict)
    nonfinite: dict[str, float] = field(default_factory=dict)
    stopping: tuple[int, int] | None = None
    has_summary: bool = False

    def add(self, line: _Line) -> None:
        """Take over what a line says; what is known already stays."""
        if line.seconds is not None:
            self.seconds = line.seconds
        self.has_summary |= line.is_summary
        self.accuracy = line.accuracy | self.accuracy
        self.loss = line.loss | self.loss
        bad = {split: loss for split, loss in line.loss.items() if not math.isfinite(loss)}
        if line.broken is not None:
            bad = {"training step": line.broken} | bad
        self.nonfinite = self.nonfinite | {k: v for k, v in bad.items() if k not in self.nonfinite}

    def counts(self, split: str) -> tuple[int, int] | None:
        return self.accuracy[split].counts if split in self.accuracy else None


@dataclass
class _Line:
    """What a line says. ``epoch`` is None where it names none, ``broken`` the loss of a training
    step that is NaN or infinite, ``decimals`` the most that its accuracies and losses have."""

    epoch: int | None = None
    seconds: float | None = None
    is_summary: bool = False
    broken: float | None = None
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    unnamed: list[Accuracy] = field(default_factory=list)
    loss: dict[str, float] = field(default_factory=dict)
    decimals: dict[str, int] = field(default_factory=lambda: {"acc": 0, "loss": 0})
    num_damaged: int = 0
    is_unknown_epoch: bool = False

    @classmethod
    def parse(cls, text: str) -> _Line:
        """Read all that is known of a line's layout, whatever process printed it."""
        line, named = cls(), _NAMES_EPOCH.search(text)
        if cost_time := _COST_TIME.search(text):
            line.epoch, line.seconds = int(cost_time[1]), float(cost_time[2])
        elif named and "cost time" in text.lower():
            line.is_unknown_epoch, line.num_damaged = True, 1
        elif named and not _OTHER_EPOCH.search(text[: named.start()]):
            line.is_summary = bool(_SCORED.search(text, named.end()))
            if broken := _BROKEN_STEP.search(text):
                line.broken = float(broken[1])
            if line.is_summary or broken:
                line.epoch = int(named[1])
        for match in _NAMED.finditer(text):
            split, accuracy = _split(match[1]), _accuracy(*match.groups()[1:6])
            if accuracy is None:
                line.num_damaged += match[7] is None  # of NaN says nothing, its loss does
            elif split != "train":
                line.decimals["acc"] = max(line.decimals["acc"], len(match[3] or ""))
                line.accuracy.setdefault(split, accuracy)
        for match in _LOSS.finditer(text):
            if match[2] is None:
                line.num_damaged += 1
                continue
            decimals = len(match[2].partition(".")[2])
            line.decimals["loss"] = max(line.decimals["loss"], decimals)
            line.loss.setdefault(_split(match[1]), float(match[2]))
        line.unnamed = [one for m in _UNNAMED.finditer(text) if (one := _accuracy(*m.groups()))]
        if report := _REPORT.search(text):
            line.unnamed.append(Accuracy(float(report[1]), None, len(report[2])))
        if _BATCH.search(text):
            line.unnamed = [one for one in line.unnamed if one.counts]
        return line

    def may_follow_in(self, epoch: Epoch) -> bool:
        """Whether the line may be of this epoch, whose number it names."""
        if self.seconds is not None:
            return epoch.seconds is None
        has_others = epoch.accuracy.keys() & self.accuracy or epoch.loss.keys() & self.loss
        return not (epoch.has_summary and has_others)

    def place_in(self, epoch: Epoch) -> int | None:
        """0 where an epoch lacks one of the scores, 1 where it has the same, None where it has
        others."""
        pairs: list[tuple[Any, Any]] = [
            (epoch.accuracy.get(s), v) for s, v in self.accuracy.items()
        ]
        pairs += [(epoch.loss.get(s), v) for s, v in self.loss.items()]
        if any(has is not None and str(has) != str(value) for has, value in pairs):
            return None
        return int(all(has is not None for has, _ in pairs))


@dataclass
class LoggedRun:
    """The epochs of one run, and the classes of its data: (split, without rain, with rain)."""

    epochs: list[Epoch] = field(default_factory=list)
    classes: list[tuple[str, int, int]] = field(default_factory=list)
    num_processes: int = 1
    has_only_test: bool = False  # its scores then stand where those of validation do
    is_mixed: bool = False  # processes that score differently, and no line says whose it is

    def events(self, base_rate: BaseRate | None = None) -> Iterator[dict[str, Any]]:
        """Yield events for ``Watcher.see``, those of test before the validation of their epoch.

        A log counts epochs, not steps: no event has a step, and test is kept under its epoch,
        where ``History.elsewhere`` then looks.
        """
        given = None if base_rate is None else self.sharpened(base_rate)
        unchanged = {epoch.number for streak in self.unchanged() for epoch in streak}
        repeated = {split: self.repeated(split) for split in ("test", "validation")}
        for epoch in self.epochs:
            at = {"epoch": epoch.number}
            if epoch.nonfinite:
                where, loss = ", ".join(epoch.nonfinite), next(iter(epoch.nonfinite.values()))
                yield {"event": "train", "step": None, "loss": loss, "batch": where} | at
            if scores := self._scores(epoch, "test", None, repeated["test"]):
                yield {"event": "test_every_epoch"} | at | scores
            if scores := self._scores(epoch, "validation", given, repeated["validation"]):
                beside = {"train_loss": epoch.loss.get("train"), "seconds": epoch.seconds}
                if "accuracy_rounding" in scores and epoch.number in unchanged:
                    beside["is_unchanged"] = True
                yield {"event": "validation"} | at | scores | beside

    def _scores(
        self, epoch: Epoch, split: str, given: float | None, repeated: Container[Accuracy]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if split in epoch.loss:
            found["loss"] = epoch.loss[split]
        accuracy = epoch.accuracy.get(split)
        if accuracy is None:
            return found
        found["accuracy"] = accuracy.share
        if accuracy.counts is not None:
            found["num_windows"] = accuracy.counts[1]
        else:
            found["accuracy_rounding"] = accuracy.rounding
        of_classes = self.class_share(split, accuracy.counts[1] if accuracy.counts else None)
        if given is not None:
            found |= {"rain_share": given, "rain_share_source": "given"}
        elif of_classes is not None:
            found |= {"rain_share": of_classes, "rain_share_source": "class distribution"}
        elif accuracy in repeated:
            what = "counts" if accuracy.counts else "accuracies"
            found |= {"rain_share": accuracy.share, "rain_share_source": f"identical {what}"}
            found["share_is_assumed"] = True
        return found

    def class_share(self, split: str, windows: int | None) -> float | None:
        """Return the share of rain from the last class distribution that adds up to ``windows``."""
        for name, dry, rain in reversed(self.classes):
            if (name, dry + rain) == (split, windows) and windows:
                return rain / windows
        return None

    def unchanged(self) -> list[list[Epoch]]:
        """Find epochs in a row that score the same too often for chance.

        Counts of right answers that validation AND test keep over two epochs are enough. Rounded
        accuracies must come again more often, where losses that are printed alike count too. They
        must be the lowest of the run, or come with the same loss: a good model near its end changes
        by less than is printed. Test says nothing new where it always scores as validation does.
        """
        both = [epoch.accuracy for epoch in self.epochs if len(epoch.accuracy) == 2]
        has_own_test = any(one["validation"] != one["test"] for one in both)
        found = []
        for accuracy, group in groupby(self.epochs, lambda epoch: epoch.accuracy):
            streak = list(group)
            if "validation" not in accuracy or len(streak) < 2:
                continue
            if len(accuracy) == 2 and all(one.counts for one in accuracy.values()):
                found.append(streak)
                continue
            splits = list(accuracy) if len(accuracy) == 2 and has_own_test else ["validation"]
            pairs = list(pairwise(streak))
            same_loss = {
                split: [split in b.loss and a.loss.get(split) == b.loss[split] for a, b in pairs]
                for split in splits
            }
            times = sum(1 + same for split in splits for same in same_loss[split])
            coarsest = max(accuracy[split].rounding for split in splits)
            enough = _TIMES_FINE if coarsest < 0.001 else _TIMES_COARSE
            validation = accuracy["validation"]
            is_clear = self._is_lowest(validation) or all(same_loss["validation"])
            if validation.share < 1 and is_clear and times >= enough and coarsest < 0.01:
                found.append(streak)
        return found

    def _is_lowest(self, accuracy: Accuracy) -> bool:
        known = [e.accuracy["validation"] for e in self.epochs if "validation" in e.accuracy]
        return accuracy.share == min(one.share for one in known)

    def repeated(self, split: str) -> dict[Accuracy, list[Epoch]]:
        """Find accuracies that look like the share of a class, with epochs in a row that have them.

        They do not change, and where they are rounded, no epoch of the run has a lower one: what
        has learned something and learns no more does not change either.
        """
        found: dict[Accuracy, list[Epoch]] = {}
        for streak in self.unchanged():
            validation, here = streak[0].accuracy["validation"], streak[0].accuracy.get(split)
            is_whole = validation.share == 1  # a perfect model, or there is but one class
            if here and not is_whole and (validation.counts or self._is_lowest(validation)):
                found.setdefault(here, streak)
        return found

    def sharpened(self, given: BaseRate) -> float:
        """Make a rounded share exact by an accuracy that is that share as far as it was given.

        Accuracies that repeat go first. One count alone is taken, so that accuracies that are
        merely near the share do not become the same.
        """
        if not given.rounding:
            return given.share
        known = [e.accuracy["validation"] for e in self.epochs if "validation" in e.accuracy]
        for found in [*self.repeated("validation"), *(one for one in known if one.counts)]:
            for share in (found.share, 1 - found.share):
                if abs(share - given.share) <= given.rounding + 1e-12:
                    return share
        return given.share


@dataclass
class _ProcessOutput:
    """What one process printed of one run, between two places of the log."""

    rank: int
    first: int
    last: int
    epochs: list[Epoch] = field(default_factory=list)
    classes: list[tuple[str, int, int]] = field(default_factory=list)
    is_open: bool = True  # scores that name no epoch belong to its last one

    def num_scores(self) -> int:
        return sum(len(e.accuracy) + len(e.unnamed) + len(e.loss) for e in self.epochs)


class LogReader:
    """Read a log line by line; ``finish`` gives its runs, ``notes`` says what was left out."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._printed: list[_ProcessOutput] = []
        self._newest: dict[int, list[_ProcessOutput]] = {}  # rank -> those that may still print
        self._starts: list[tuple[int, int]] = []  # (rank, place) of the runs that only began
        self._waiting: dict[int, Epoch] = {}  # rank -> scores whose epoch a later line may name
        self._classes: list[tuple[str, int, int]] = []
        self._decimals = {"acc": 0, "loss": 0}
        self._num_left_out = 0
        self._place = 0

    def take(self, line: str, number: int, is_cut: bool = False) -> bool:
        """Read the ``number``-th line; return whether it said something.

        ``is_cut``: the file ends here, perhaps within a number.
        """
        if "\x1b" not in line and "\x00" not in line and not _is_relevant(line):
            return False
        line = _ANSI.sub("", line).replace("\x00", "")  # NULs: UTF-16 after other text
        if is_cut:
            line = self._drop_cut_number(line)
        return any([self._take(part, number) for part in _GLUED.split(line) if _is_relevant(part)])

    def _take(self, text: str, number: int) -> bool:
        self._place += 1
        label = _RANK.search(text[:80])
        rank = int(next(filter(None, label.groups()))) if label else -1
        if ">start training" in text.lower():
            self._starts.append((rank, self._place))
            del self._starts[:-_MOST_PROCESSES]
            return True
        line = _Line.parse(text)
        for _ in range(line.num_damaged):
            self._leave_out(f'line {number} is not understood: "{excerpt(text)}"')
        self._note_decimals(line)
        if line.is_unknown_epoch:
            self._close(rank)
        if line.epoch is not None:
            self._epoch(line.epoch, line, number, rank).add(line)
        elif line.accuracy or line.loss:
            self._scored(number, rank, line.place_in).add(line)
        found = [line.epoch is not None, bool(line.accuracy or line.loss)]
        for accuracy in line.unnamed:
            is_over = all(one.epochs[-1].has_summary for one in self._still_open(rank))
            if accuracy.counts or not is_over:  # else the report on test at the end
                place = self._scored(number, rank, _num_unnamed)
                place.unnamed.append((self._place, accuracy))
                found.append(True)
        return any([*found, self._others(text, rank)])

    def finish(self) -> list[LoggedRun]:
        """Return all runs; to be called once, after the last line."""
        for rank in list(self._waiting):
            self._drop_waiting(rank)
        if self._printed:
            self._printed[-1].classes += self._classes
        runs = [run for at_once in self._concurrent_outputs() for run in self._build_runs(*at_once)]
        if self._num_left_out > MAX_NAMED:
            self.notes.append(f"{self._num_left_out} lines or parts in all were left out so.")
        return runs

    def _epoch(self, named: int, line: _Line, number: int, rank: int) -> Epoch:
        """Find epoch ``named`` of the process that can have printed this line next.

        That is one whose last epoch is ``named`` and lacks this line, or is an earlier one; a
        process that still prints rather than one that fell silent before others began. Where there
        is none, another process or the next run has begun.
        """
        new = self._waiting.pop(rank, None) if line.is_summary else None  # the name came after
        self._drop_waiting(rank)
        mine = self._newest.setdefault(rank, [])
        latest = max(mine, key=lambda printed: printed.last, default=None)
        began = max((place for who, place in self._starts if who == rank), default=-1)

        def distance(printed: _ProcessOutput) -> tuple[bool, int, bool, int] | None:
            last = printed.epochs[-1]
            assert latest is not None
            assert last.number is not None
            far, fell_silent = named - last.number, printed.last < latest.first
            crashed = last.seconds is None and not last.has_summary and began > printed.last
            if far > 0:
                return fell_silent, far, not last.has_summary, printed.last
            is_this = far == 0 and line.may_follow_in(last) and not (new or crashed)
            return (fell_silent, far, False, printed.last) if is_this else None

        possible = [(far, at) for at, one in enumerate(mine) if (far := distance(one)) is not None]
        if possible:
            far, at = min(possible)
            printed, is_next = mine[at], far[1] > 0
        else:
            start = (rank, began) if began > 0 else (rank, self._place)
            self._starts = [one for one in self._starts if one != start]
            printed, is_next = _ProcessOutput(rank, start[1], self._place), True
            self._printed.append(printed)
            mine.append(printed)
            del mine[:-_MOST_PROCESSES]
        if is_next:
            printed.epochs.append(new or Epoch(named, number))
            printed.epochs[-1].number = named
            printed.classes += self._classes
            self._classes = []
        printed.last, printed.is_open = self._place, True
        return printed.epochs[-1]

    def _scored(self, number: int, rank: int, lacks: Callable[[Epoch], int | None]) -> Epoch:
        """Find the epoch of scores that name none: the one that ``lacks`` them most, by the lowest
        number.

        None: it has others. Then a line that names their epoch may follow.
        """
        if waiting := self._waiting.get(rank):
            if lacks(waiting) is not None:
                return waiting
        else:
            beside = self._still_open(rank)
            ranked = [
                (lack, at)
                for at, printed in enumerate(beside)
                if (lack := lacks(printed.epochs[-1])) is not None
            ]
            if ranked:
                printed = beside[min(ranked)[1]]
                printed.last = self._place
                return printed.epochs[-1]
        self._drop_waiting(rank)
        self._close(rank)
        self._waiting[rank] = Epoch(None, number)
        return self._waiting[rank]

    def _still_open(self, rank: int) -> list[_ProcessOutput]:
        """List who printed the latest line and who is at the same epoch beside it, the latest
        last."""
        mine = [printed for printed in self._newest.get(rank, []) if printed.is_open]
        if not mine:
            return []
        latest = max(mine, key=lambda printed: printed.last)

        def is_beside(printed: _ProcessOutput) -> bool:
            both_began = len(printed.epochs) == len(latest.epochs) == 1
            same = printed.epochs[-1].number == latest.epochs[-1].number
            return same and (printed.last >= latest.first or both_began)

        return sorted(filter(is_beside, mine), key=lambda printed: printed.last)

    def _others(self, line: str, rank: int) -> bool:
        if match := _STOPPING.search(line):
            for printed in self._still_open(rank):
                printed.epochs[-1].stopping = (int(match[1]), int(match[2]))
            return True
        found = list(_CLASSES.finditer(line))
        self._classes += [(_split(match[1]), int(match[2]), int(match[3])) for match in found]
        return bool(found)

    def _note_decimals(self, line: _Line) -> None:
        self._decimals = {kind: max(self._decimals[kind], n) for kind, n in line.decimals.items()}

    def _drop_cut_number(self, line: str) -> str:
        """Return ``line`` without a last number that has fewer decimals than its like had
        before."""
        if (last := _LAST_NUMBER.search(line)) is None:
            return line
        before = line[: last.start(2)]
        self._note_decimals(_Line.parse(before))
        is_whole = len(last[3]) >= self._decimals.get(last[1].lower(), 0) and last[1] != "out of"
        return line if is_whole else before

    def _concurrent_outputs(self) -> list[tuple[list[_ProcessOutput], list[_ProcessOutput]]]:
        """Group what was printed at the same time, in the order of the log, with what joins it.

        Where lines have a rank, one rank leads. The others print the same runs, if not at the same
        time, and join the nearest.
        """
        main = _says_most([printed for printed in self._printed if printed.rank >= 0])
        found = _overlapping([printed for printed in self._printed if printed.rank in (-1, main)])
        joining: list[list[_ProcessOutput]] = [[] for _ in found]
        for other in self._printed:
            if other.rank not in (-1, main):
                apart = [
                    min(max(one.first - other.last, other.first - one.last, 0) for one in at_once)
                    for at_once in found
                ]
                joining[apart.index(min(apart))].append(other)
        return list(zip(found, joining, strict=True))

    def _build_runs(
        self, leading: list[_ProcessOutput], others: list[_ProcessOutput]
    ) -> list[LoggedRun]:
        """Build the runs of what was printed at the same time, from the process that said most."""
        together = leading + others
        most = _says_most(leading)
        parts = _overlapping([printed for printed in together if printed.rank == most])
        runs = []
        for part in parts:
            run = LoggedRun(max(part, key=_ProcessOutput.num_scores).epochs)
            run.classes = [one for printed in part for one in printed.classes]
            run.num_processes = max(len(part), len({printed.rank for printed in together}))
            run.is_mixed = _differ(part)
            alike, all_alike = _by_number(part), _by_number(together if len(parts) == 1 else part)
            for epoch in run.epochs:
                for other in all_alike[epoch.number]:
                    epoch.nonfinite = epoch.nonfinite | other.nonfinite
                if not epoch.accuracy:
                    self._name_accuracies(epoch, alike[epoch.number])
            _convert_percent(run.epochs)
            run.has_only_test = _use_test_as_validation(run.epochs)
            runs.append(run)
        return runs

    def _name_accuracies(self, epoch: Epoch, beside: list[Epoch]) -> None:
        """Name accuracies that have no name: validation first, the same ones in all processes."""
        printed = [
            accuracy
            for _, accuracy in sorted(
                chain.from_iterable(e.unnamed for e in beside), key=itemgetter(0)
            )
        ]
        found = list(dict.fromkeys(printed)) if len(beside) > 1 else printed
        if len(found) > 2:
            self._leave_out(
                f"epoch {epoch.number} has {len(found)} accuracies without a name (two were "
                "expected, validation and test)"
            )
        elif found:
            epoch.accuracy["validation"] = found[0]
            if len(printed) > len(beside):
                epoch.accuracy["test"] = found[-1]

    def _close(self, rank: int) -> None:
        for printed in self._newest.get(rank, []):
            printed.is_open = False

    def _drop_waiting(self, rank: int) -> None:
        """Leave out scores whose epoch no line has named."""
        if epoch := self._waiting.pop(rank, None):
            self._leave_out(f"line {epoch.line} has scores, but no line names their epoch")

    def _leave_out(self, what: str) -> None:
        self._num_left_out += 1
        if self._num_left_out <= MAX_NAMED:
            self.notes.append(f"{what}; left out.")


def _by_number(all_printed: list[_ProcessOutput]) -> dict[int | None, list[Epoch]]:
    """Map an epoch's number to that epoch as each of these processes printed it."""
    found: dict[int | None, list[Epoch]] = {}
    for epoch in (epoch for printed in all_printed for epoch in printed.epochs):
        found.setdefault(epoch.number, []).append(epoch)
    return found


def _says_most(all_printed: list[_ProcessOutput]) -> int | None:
    """Return the rank with the most scores, the lowest of several; None where nothing has a
    rank."""
    said: dict[int, int] = {}
    for printed in sorted(all_printed, key=lambda printed: printed.rank):
        said[printed.rank] = said.get(printed.rank, 0) + printed.num_scores()
    return max(said, key=lambda rank: said[rank], default=None)


def _overlapping(all_printed: list[_ProcessOutput]) -> list[list[_ProcessOutput]]:
    """Group what was printed at the same time, in the order of the log."""
    found: list[list[_ProcessOutput]] = []
    end = -1
    for printed in sorted(all_printed, key=lambda printed: printed.first):
        if printed.first > end:
            found.append([])
        found[-1].append(printed)
        end = max(end, printed.last)
    return found


def _differ(part: list[_ProcessOutput]) -> bool:
    """Whether processes have different validation scores of the same epoch."""
    seen: dict[tuple[int | None, str], set[str]] = {}
    for epoch in (epoch for printed in part for epoch in printed.epochs):
        scores = {"loss": epoch.loss.get("validation"), "acc": epoch.accuracy.get("validation")}
        for name, value in scores.items():
            if value is not None:
                seen.setdefault((epoch.number, name), set()).add(str(value))
    return any(len(values) > 1 for values in seen.values())


def _use_test_as_validation(epochs: list[Epoch]) -> bool:
    """Judge test as validation where the log has no validation, and return whether that is so."""
    splits = {split for epoch in epochs for split in (*epoch.accuracy, *epoch.loss)}
    if "validation" in splits or "test" not in splits:
        return False
    for epoch in epochs:
        if "test" in epoch.accuracy:
            epoch.accuracy["validation"] = epoch.accuracy.pop("test")
        if "test" in epoch.loss:
            epoch.loss["validation"] = epoch.loss.pop("test")
    return True


def _convert_percent(epochs: list[Epoch]) -> None:
    """Convert accuracies without a percent sign to shares: they are percent where one is above 1.

    All are rounded as the finest is: 0.7 beside 0.6833 was not cut to one decimal.
    """
    rounded = [one for e in epochs for one in e.accuracy.values() if one.decimals is not None]
    is_percent = any(one.is_bare and one.share > 1 for one in rounded)
    places = [(one.decimals or 0) + 2 * (one.is_bare and is_percent) for one in rounded]
    for epoch in epochs:
        for split, one in epoch.accuracy.items():
            if one.decimals is not None:
                share = one.share / 100 if one.is_bare and is_percent else one.share
                epoch.accuracy[split] = Accuracy(share, decimals=max(places))


def _is_relevant(line: str) -> bool:
    return any(map(line.lower().__contains__, _WORDS))


def _split(word: str) -> str:
    word = word.lower()
    return word if word in ("train", "test") else "validation"


def _num_unnamed(epoch: Epoch) -> int | None:
    """Count an epoch's accuracies without a name; None after its summary, which ends it."""
    return None if epoch.has_summary else len(epoch.unnamed)


def _accuracy(
    number: str | None, decimals: str | None, sign: str | None, right: str | None, all_: str | None
) -> Accuracy | None:
    """Parse a share or percent, right answers and windows; None where they do not agree."""
    if number is None or float(number) > 100:
        return None
    places = len(decimals or "")
    printed = Accuracy(float(number), None, places, is_bare=True)
    if sign:
        printed = Accuracy(float(number) / 100, None, places + 2)
    if right is None or all_ is None:
        return printed
    counts = int(right), int(all_)
    if not counts[1] or counts[0] > counts[1]:
        return None
    share = counts[0] / counts[1]
    off = min(abs(share - float(number) / part) * part for part in ((100,) if sign else (1, 100)))
    return Accuracy(share, counts) if off <= 10.0**-places else None


def excerpt(line: str) -> str:
    """Cut a line to what is enough to find it, without control characters."""
    return plain(line.strip()[:70])
