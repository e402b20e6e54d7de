"""What a value stands for in time, as the user says it or the file tells it.

A value is an instant, or a sum, mean, maximum or minimum over some hours, and its stamp stands at
the end, the middle or the start of them. Before anything is joined every stamp becomes an end.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.era5.accumulation import INSTANT, MAX, MEAN, MIN, SUM, step_type
from timerxl.data.tables.column_records import KnownBy

OPTION = "--meaning"
_KINDS = {"instant": INSTANT, "sum": SUM, "mean": MEAN, "max": MAX, "min": MIN}
_WORDS = re.compile(
    r"(?P<word>instant|hourly|running|sum|mean|max|min)(:(?P<hours>\d{1,3})h)?(@(?P<stamp>start|end))?"
)
_EXAMPLES = "instant, hourly, running, sum:6h, mean:24h, max:24h or min:24h, with @start or @end"
_HOUR = 3600


@dataclass(frozen=True)
class SaidMeaning:
    """A word of ``--meaning``: ``kind`` and ``hours`` (None where not said), where a stamp stands.

    ``is_running``: running totals that start again; ``hours`` is their period then.
    """

    kind: str
    hours: int | None = None
    stamp: str | None = None
    is_running: bool = False


def parse_meaning(column: str, text: str) -> SaidMeaning:
    """``mean:24h@start`` and its like; raises InputError that lists the words."""
    match = _WORDS.fullmatch(text.strip())
    hours = int(match["hours"]) if match and match["hours"] else None
    needs = match is not None and match["word"] in ("sum", "mean", "max", "min")
    refused = match is not None and match["word"] in ("instant", "hourly") and hours is not None
    if match is None or (needs and hours is None) or refused or hours == 0:
        raise InputError(f"{OPTION} {column}={text}: expected {_EXAMPLES}.")
    word, stamp = match["word"], match["stamp"]
    if word == "hourly":
        return SaidMeaning(SUM, 1, stamp)
    if word == "running":
        if 24 % (hours or 24):
            raise InputError(f"{OPTION} {column}={text}: running totals restart within 24 h.")
        return SaidMeaning(SUM, hours, stamp, is_running=True)
    return SaidMeaning(_KINDS[word], hours, stamp)


@dataclass(frozen=True)
class Meaning:
    """``kind`` over ``hours`` that end ``shift`` seconds after the file's stamp.

    ``hours`` is None of a sum whose values must tell (one hour, or running totals), and of means
    and extremes of ERA5, which are over the hour. ``file_stamp``: start, middle or end.
    """

    kind: str
    hours: int | None
    shift: int
    known_by: KnownBy
    evidence: str
    file_stamp: str = "end"


@dataclass(frozen=True)
class FileTimes:
    """What a file tells of its times: ``seconds`` [T] and ``bounds`` [T, 2] since 1970."""

    label: str
    seconds: np.ndarray
    bounds: np.ndarray | None
    history: str
    title: str
    time_shift: str | None
    is_grib: bool

    @property
    def spacing(self) -> int | None:
        """The most common distance of neighbouring stamps, seconds; None of a single one."""
        steps = np.diff(np.unique(self.seconds))
        if not len(steps):
            return None
        lengths, counts = np.unique(steps, return_counts=True)
        return int(lengths[np.argmax(counts)])


def meaning_of(
    column: str,
    name: str,
    told: str,
    cell_methods: str,
    window: int | None,
    times: FileTimes,
    said: SaidMeaning | None,
) -> Meaning:
    """What the values of a variable stand for; ``told`` is GRIB's step type, "" for none.

    ``window`` are the hours that the variable's name tells. In order: the user's word, the history
    of a daily statistic, CF's bounds and cell methods, GRIB's step type, ERA5's names. Raises
    InputError for what contradicts itself or can't be told.
    """
    if said is not None:
        found = _said(column, said, times)
    else:
        found = (
            _daily(column, times)
            or _by_bounds(column, name, told, cell_methods, times)
            or _by_cell_methods(column, told, cell_methods, times)
            or _by_name(column, name, told, window, times)
        )
    end = times.seconds + found.shift
    if (odd := end % _HOUR != 0).any():
        when = (times.seconds[odd][0] * 10**9).astype("datetime64[ns]").astype("datetime64[s]")
        raise InputError(f"{times.label} holds the time {when}; expected whole hours.")
    if found.hours is not None and found.hours > 24:
        raise InputError(
            f"{times.label}: {column} is over {found.hours} h ({found.evidence}); expected a day "
            "at most."
        )
    return found


def ask(times: FileTimes, column: str, what: str, words: str) -> InputError:
    """The error for what can't be told, with the option that says it."""
    return InputError(f"{times.label}: {what}. Say {OPTION} {words.replace('COLUMN', column)}.")


def _said(column: str, said: SaidMeaning, times: FileTimes) -> Meaning:
    hours = None if said.is_running else said.hours
    known = f"{OPTION} {column}"
    if said.kind == INSTANT or said.is_running or said.stamp == "end":
        return Meaning(said.kind, hours, 0, "said", known)
    assert said.hours is not None
    length = said.hours * _HOUR
    if said.stamp == "start":
        return Meaning(said.kind, hours, length, "said", known, "start")
    if _at_middle(times.seconds, length):
        return Meaning(said.kind, hours, length // 2, "said", known, "middle")
    if said.hours >= 24:
        what = f"{column} is over {said.hours} h, and nothing tells whether they end at the stamp"
        raise ask(times, column, what, "COLUMN=... with @start or @end")
    return Meaning(said.kind, hours, 0, "said", known)


def _at_middle(seconds: np.ndarray, length: int) -> bool:
    """Whether stamps stand in the middle of intervals that are counted from 00 UTC."""
    return bool((seconds % length == length // 2).all()) and length % 2 == 0


def _daily(column: str, times: FileTimes) -> Meaning | None:
    """A daily statistic of the Climate Data Store (earthkit-transforms), by the file's history.

    Its stamp is the start of the day; with a time shift it's the LOCAL day's, and the day began
    that much earlier in UTC.
    """
    found = re.findall(r"daily_(\w+?)\(([^\n]*)", times.history)
    if not found:
        return None
    function, arguments = found[-1]
    how = re.search(r"how\s*=\s*['\"]?(?:np\.|nan)?(\w+)", arguments)
    word = how[1] if function == "reduce" and how else function
    kind = {"mean": MEAN, "average": MEAN, "sum": SUM, "max": MAX, "min": MIN}.get(word)
    line = f"history: daily_{function}, {word}"
    if kind is None:
        what = f"{column} is a daily {word} ({line}); expected mean, max, min or sum"
        raise ask(times, column, what, "COLUMN=mean:24h@start to take it as it is")
    if times.spacing is not None and times.spacing % 86400:
        what = (
            f"the history calls it a daily {word}, but stamps are {times.spacing / _HOUR:g} h apart"
        )
        raise ask(times, column, what, "COLUMN=instant, hourly or what else it is")
    shift = _time_shift(column, arguments, times)
    evidence = line + (f", time_shift {shift / _HOUR:g} h" if shift else "")
    return Meaning(kind, 24, 86400 - shift, "file", evidence, "start")


def _time_shift(column: str, arguments: str, times: FileTimes) -> int:
    """Seconds that were added to UTC before the days were cut: history and attribute must agree."""
    told: list[Any] = []
    if match := re.search(r"time_shift['\"]?\s*[:=]\s*(\{[^}]*\}|['\"][^'\"]*['\"])", arguments):
        told.append(match[1])
    if times.time_shift is not None:
        told.append(repr(times.time_shift))
    found = []
    for text in told:
        try:
            value = ast.literal_eval(text)
            found.append(pd.Timedelta(**value) if isinstance(value, dict) else pd.Timedelta(value))
        except (ValueError, SyntaxError, TypeError) as error:
            what = f"the time shift of {column} can't be read: {text}"
            raise ask(times, column, what, "COLUMN=mean:24h@start or what else") from error
    shifts = {int(shift.total_seconds()) for shift in found}
    if len(shifts) > 1:
        what = f"history and attribute tell two time shifts ({', '.join(map(str, found))})"
        raise ask(times, column, what, "COLUMN=mean:24h@start (days of UTC) or leave it out")
    return shifts.pop() if shifts else 0


def _cell_method(cell_methods: str) -> str | None:
    match = re.search(r"\b(?:valid_)?time\d*\s*:\s*(\w+)", cell_methods)
    kinds = {
        "mean": MEAN, "sum": SUM, "maximum": MAX, "max": MAX, "minimum": MIN, "min": MIN,
        "point": INSTANT,
    }  # fmt: skip
    return kinds.get(match[1]) if match else None


def _by_bounds(
    column: str, name: str, told: str, cell_methods: str, times: FileTimes
) -> Meaning | None:
    if times.bounds is None:
        return None
    kind = _cell_method(cell_methods)
    widths = np.unique(times.bounds[:, 1] - times.bounds[:, 0])
    shifts = np.unique(times.bounds[:, 1] - times.seconds)
    if kind == INSTANT or (len(widths) == 1 and widths[0] == 0):
        return Meaning(INSTANT, None, 0, "file", "time bounds and cell methods")
    if len(widths) > 1 or len(shifts) > 1 or widths[0] < 0 or widths[0] % _HOUR:
        what = (
            f"the time bounds of {column} span {widths[0] / _HOUR:g} to {widths[-1] / _HOUR:g} h "
            "and lie unlike around their stamps; expected one span of whole hours"
        )
        raise ask(times, column, what, "COLUMN=mean:24h@start or what else it is")
    length, beyond = int(widths[0]), 0
    gap = _gap_between(times.bounds)
    if gap > 0 and length + gap == times.spacing:
        # CDO's days of hourly stamps: bounds from the first stamp of the day to its last.
        length, beyond = length + gap, gap
    named = step_type(name, told)
    known: KnownBy = "file" if kind or told or named != INSTANT else "inferred"
    kind = kind or (MEAN if named == INSTANT else named)
    shift = int(shifts[0]) + beyond
    stamp = {0: "end", length: "start"}.get(shift, "middle")
    evidence = f"time bounds of {widths[0] / _HOUR:g} h" + (
        f", cell methods {cell_methods!r}" if cell_methods else ""
    )
    return Meaning(kind, length // _HOUR, shift, known, evidence, stamp)


def _gap_between(bounds: np.ndarray) -> int:
    """The most common seconds from the end of one interval to the start of the next."""
    order = np.argsort(bounds[:, 0], kind="stable")
    gaps, counts = np.unique(bounds[order[1:], 0] - bounds[order[:-1], 1], return_counts=True)
    return int(gaps[np.argmax(counts)]) if len(gaps) else 0


def _by_cell_methods(column: str, told: str, cell_methods: str, times: FileTimes) -> Meaning | None:
    kind = _cell_method(cell_methods)
    evidence = f"cell methods {cell_methods!r}"
    averaged = re.search(r"time[- ]averaged|\btavg\d", times.title.lower())
    if kind is None and averaged:
        kind, evidence = MEAN, f"title: {averaged[0]}"
    if kind is None or kind == told:
        return None
    if kind == INSTANT:
        return Meaning(INSTANT, None, 0, "file", evidence)
    length = times.spacing
    if length is not None and length % _HOUR == 0 and _at_middle(times.seconds, length):
        return Meaning(kind, length // _HOUR, length // 2, "file", evidence, "middle")
    hours = f"{length // _HOUR}h" if length else "1h"
    words = {MEAN: "mean", SUM: "sum", MAX: "max", MIN: "min"}[kind]
    what = f"{column} is a {words} over time ({evidence}), and nothing tells over which hours"
    raise ask(times, column, what, f"COLUMN={words}:{hours}@start or {words}:{hours}@end")


def _by_name(column: str, name: str, told: str, window: int | None, times: FileTimes) -> Meaning:
    kind = step_type(name, told)
    if window is not None and not told:
        return Meaning(SUM, window, 0, "file", f"the variable's name ends in {window} h")
    known: KnownBy = "file" if told or times.is_grib or kind != INSTANT else "assumed"
    evidence = f"GRIB step type {told}" if told else f"{kind} by the name {name}"
    half = times.spacing == _HOUR and _at_middle(times.seconds, _HOUR)
    if half and not told and not times.is_grib:
        evidence = "hourly stamps at half past: the hour around them"
        if kind == INSTANT:
            return Meaning(MEAN, 1, 1800, "inferred", evidence, "middle")
        return Meaning(kind, 1, 1800, "inferred", evidence, "middle")
    once_a_day = times.spacing is not None and times.spacing >= 86400
    if once_a_day and not told and not times.is_grib:
        what = f"{column} comes once a day, and nothing tells which hours a value stands for"
        words = "COLUMN=instant, mean:24h@start (the day begins at the stamp), max:24h@start, ..."
        if kind == SUM:
            words = (
                "COLUMN=sum:24h@start (the day begins at the stamp), sum:24h@end or mean:24h@..."
            )
        raise ask(times, column, what, words)
    return Meaning(kind, None, 0, known, evidence)
