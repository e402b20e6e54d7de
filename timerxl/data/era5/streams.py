"""Columns of gridded files: what each is (unit, time, codes, running totals), and its area means.

Reading goes file by file and block by block; what stays are region means in a temporary folder, so
memory does not grow with the number of years. Each fact is said by the user, told by the file, or
inferred from the values, and noted in the column's record; what contradicts itself is refused, what
can't be decided is asked for, before anything is averaged or joined. Shapes: T times of a part, G
regions, N hours.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.era5.accumulation import (
    COUNTER,
    HOURLY,
    INSTANT,
    MEAN,
    RUNNING,
    SUM,
    UNCLEAR,
    AccumulationEvidence,
    AccumulationVerdict,
    Meaning,
    SaidMeaning,
    Totals,
    Variable,
    ask,
    changes_within,
    covered_hours,
    deaccumulate,
    meaning_of,
    most_common,
    only_rises,
    parse_meaning,
)
from timerxl.data.era5.grid_files import PRELIMINARY, GridFile, open_grid_files
from timerxl.data.era5.regions import GridMeans, Region, grid_means, point_means
from timerxl.data.readers import PRECIPITATION, sha256_of
from timerxl.data.tables.columns import (
    KNOWN_CODES,
    NONE,
    RAIN,
    ColumnRecord,
    Extremes,
    Fact,
    KnownBy,
    Quantity,
    conversion,
    fits,
    limits_in,
    mask,
    most_rain_mm,
    named,
    parse_codes,
    quantity_of,
    refusal,
    time_meaning,
)
from timerxl.untrusted import check_members, check_memory, check_room, plain

_PACKING = 1e-4  # of a part's range: two packings of one field may differ by this much


@dataclass
class Part:
    """One column of one file: ``hours`` [T] ascending, each once; values [G, T] in ``path``."""

    label: str
    hours: np.ndarray
    version: np.ndarray
    path: Path
    value_range: float
    largest: float
    # Of a sum: how it rises and falls in each cell, and what else of the file tells its meaning.
    evidence: AccumulationEvidence | None
    is_named_land: bool
    grid_step: float | None
    # [G, T] share of a region's weight in cells with a value, where that changes: the mean of a
    # running total over other cells is another total.
    known: np.ndarray | None

    def values(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


@dataclass
class Column:
    """All parts of one column, in the order of the files given.

    ``unit`` is that of its values; of rain ``mm_per_unit`` makes mm of them. Each value covers the
    ``window`` hours that end at its stamp, or, of running totals, those since the total began.
    """

    variable: Variable
    kind: str
    unit: str
    record: ColumnRecord
    window: int = 1
    mm_per_unit: float = 1.0
    is_open: bool = False  # a sum whose values must tell whether they are running totals
    totals: Totals | None = None  # how running totals start again; None: sums of the window
    masked: Counter[float] = field(default_factory=Counter)  # codes for missing: how many
    takes_every: int = 1  # hours between the values that are taken, where windows overlap
    parts: list[Part] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.variable.column

    @property
    def is_rain(self) -> bool:
        return self.name == PRECIPITATION

    @property
    def quantity(self) -> Quantity | None:
        """What it measures, where that's known."""
        return named(self.record.quantity.value) if self.record.quantity else None

    @property
    def least(self) -> float:
        """Amounts, in the column's unit, below which a whole field tells nothing."""
        return _LEAST_RAIN_MM / self.mm_per_unit if self.is_rain else 0.0

    @property
    def words(self) -> str:
        """``avg over 24 h``; without hours where a value is over one."""
        return self.kind if self.window == 1 else f"{self.kind} over {self.window} h"

    def known_hours(self) -> np.ndarray:
        """Return ascending hours at which any region has a value."""
        known = [part.hours[~np.isnan(part.values()).all(axis=0)] for part in self.parts]
        hours = np.unique(np.concatenate(known))
        return hours[hours % self.takes_every == 0]

    def stamps_apart(self) -> int:
        """Return the most common hours between neighbouring stamps; 1 of a single one."""
        return most_common(np.diff(self.known_hours())) or 1

    def behaviour(self) -> AccumulationVerdict:
        """Tell how the values of all files rise and fall."""
        whole = AccumulationEvidence()
        for part in self.parts:
            assert part.evidence is not None
            whole.merge(part.evidence)
        return whole.decide(self.least)

    def hourly_values(self, region: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return values [N] of a region from ``first`` to ``stop - 1``, and the hours each covers.

        Where files hold the same hour, equal values are one, final data win over preliminary, and
        anything else is an InputError. Running totals come back as the share of each value.
        """
        # Running totals need the day's earlier values.
        begin = int(self.totals.start(np.array(first))) if self.totals else first
        values, weight = np.full(stop - begin, np.nan), np.ones(stop - begin)
        version = np.full(stop - begin, np.iinfo(np.int8).max, dtype=np.int8)
        owner = np.full(stop - begin, -1, dtype=np.int64)
        tolerance = _PACKING * max(part.value_range for part in self.parts)
        for index, part in enumerate(self.parts):
            low, high = np.searchsorted(part.hours, (begin, stop))
            own = np.array(part.values()[region, low:high])
            known = ~np.isnan(own)
            at = part.hours[low:high][known] - begin
            own, rank = own[known], part.version[low:high][known]
            clash = (version[at] == rank) & (np.abs(values[at] - own) > tolerance)
            if clash.any():
                place = int(at[clash][0])
                raise InputError(
                    f"{self.name} at {stamp(begin + place)} is {values[place]:.6g} in "
                    f"{self.parts[owner[place]].label} and {own[clash][0]:.6g} in {part.label}; "
                    "give each time once."
                )
            better = rank < version[at]
            place_of = at[better]
            values[place_of], version[place_of], owner[place_of] = own[better], rank[better], index
            if part.known is not None:
                weight[place_of] = part.known[region, low:high][known][better]
        values[np.arange(begin, stop) % self.takes_every != 0] = np.nan
        known = ~np.isnan(values)
        covered = covered_hours(known, begin, self.totals, self.window)
        if self.totals:
            other_cells = changes_within(weight, known, begin, self.totals)
            values = deaccumulate(values, begin, self.totals)
            values[other_cells], covered[other_cells] = np.nan, 0
        return values[first - begin :], covered[first - begin :]


def stamp(hour: float) -> str:
    """Return an hour since 1970 as ISO time."""
    return str(np.datetime64(round(hour * 3600), "s"))


_LEAST_RAIN_MM = 0.01  # a whole field below tells nothing of how its rain adds up
_LAND, _ERA5 = 0.1, 0.25  # degrees between the cells of ERA5-Land and of ERA5
# What derived features are made of comes in ERA5's units; the rest stays in the file's.
_INPUTS = frozenset("t2m d2m sp msl u10 v10 tcwv".split())
CONVERTED = frozenset(
    ("temperature", "dew point", "pressure", "wind component", "wind speed", "gust",
     "precipitable water")
)  # fmt: skip
_USUAL_UNITS = {
    "K": ("K", "degC", "degF"),
    "Pa": ("Pa", "hPa", "kPa"),
    "mm": ("mm", "m", "cm", "in"),
}
_FEW_HOURS = 4  # apart: too few stamps a day to follow the sun
_CONTRADICTING = 4  # distinct values beyond all weather: no code for missing, but another unit
# Of an unknown quantity: an albedo or a density may have a usual value far from the others.
_FAR_OFF = 990.0
_NO_SHOWER_MM, _MANY_HOURS = 0.5, 100  # so little in so many hours: mm may be metres
_MOST_OF_A_CELL_MM = 150.0  # times sqrt(hours): more is mm called metres
_IN_WORDS = {SUM: "sum", MEAN: "mean"}  # kinds of other names than ours; max, min, instant


@dataclass
class ColumnOptions:
    """What the user says of columns: codes for missing, units, meanings in time."""

    missing: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.codes = parse_codes(self.missing, "--missing")
        self.parsed = {name: parse_meaning(name, text) for name, text in self.meanings.items()}

    def check_columns(self, columns: dict[str, Column]) -> None:
        """Raise InputError for a column that no file holds."""
        for option, words in (("--unit", self.units), ("--meaning", self.meanings)):
            if unknown := sorted(words.keys() - columns.keys()):
                raise InputError(
                    f"{option} names {unknown[0]}, which is not read; the columns are "
                    f"{', '.join(columns)}."
                )


def new_column(file: GridFile, variable: Variable, said: ColumnOptions) -> tuple[Column, Meaning]:
    """Tell unit and meaning of a column, before its values are read: by the user's word, else by
    the file. Its record has the unit of the file, ``unit`` what the values become."""
    name = variable.column
    spoken = said.parsed.get(name)
    meaning = meaning_of(variable, file, spoken)
    quantity, unit = _unit_of(file, variable, said)
    hours, mm_per_unit = meaning.hours, 1.0
    kind, is_open = meaning.kind, meaning.kind == SUM and hours is None
    if name == PRECIPITATION:
        hours, mm_per_unit, is_open = _rain_of(file, variable, meaning, unit.value, spoken)
        kind = SUM
    written = "mm" if name == PRECIPITATION else unit.value
    if quantity is not None and quantity.key in CONVERTED and fits(unit.value, quantity):
        made = conversion(unit.value, quantity)
        written = unit.value if (made.scale, made.offset) == (1.0, 0.0) else quantity.unit
    record = ColumnRecord(variable.original, unit=unit)
    if quantity is not None:
        by: KnownBy = "inferred" if variable.original != variable.name else "file"
        record.quantity = Fact(quantity.key, by, f"the name {variable.original}")
    if written != unit.value:
        record.written_as = written
    window = hours or 1
    # An open sum's hours are completed when it's decided.
    of_time = None if kind == INSTANT or is_open else float(window)
    value = time_meaning(_IN_WORDS.get(kind, kind), of_time, meaning.file_stamp)
    record.time = Fact(value, meaning.known_by, meaning.evidence)
    return Column(variable, kind, written, record, window, mm_per_unit, is_open), meaning


def _unit_of(
    file: GridFile, variable: Variable, said: ColumnOptions
) -> tuple[Quantity | None, Fact]:
    """(The quantity, where it's known; the unit): the user's word, else the attribute's."""
    name = variable.column
    is_rain = name == PRECIPITATION
    spoken = said.units.get(name)
    unit, by = (spoken, "--unit") if spoken else (variable.unit, "its attribute")
    quantity = named(RAIN) if is_rain else quantity_of(variable.name, unit or None)
    if variable.name in _INPUTS or is_rain:
        quantity = quantity or quantity_of(variable.name)
        assert quantity is not None, variable.name
        if is_rain and not unit:
            raise InputError(
                f"{file.label}: nothing tells the unit of {variable.original}; say --unit "
                f"{name}=UNIT (m, mm, in, 'kg m-2 s-1', ...)."
            )
        if unit and not fits(unit, quantity):
            usual = _USUAL_UNITS.get(quantity.unit, (quantity.unit,))
            raise InputError(
                f"{file.label}: {variable.original} has the unit {unit!r} by {by}, which is none "
                f"of {quantity.key}; say --unit {name}=UNIT (such as {', '.join(usual)})."
            )
    if not unit and quantity is not None and quantity.key in CONVERTED:
        return quantity, Fact(quantity.unit, "assumed", "ERA5's unit, since the file tells none")
    return quantity, Fact(unit, "said" if spoken else "file", by)


def _rain_of(
    file: GridFile, variable: Variable, meaning: Meaning, unit: str, spoken: SaidMeaning | None
) -> tuple[int | None, float, bool]:
    """(Hours of a value, mm per unit, whether the values must tell about running totals) of rain.

    It becomes a sum: a rate, or a mean that the user says, times its hours. Raises InputError for
    rain that is an instant or an extreme, or a mean depth that nobody explains.
    """
    name, hours = variable.column, meaning.hours
    made = conversion(unit, named(RAIN))
    if made.is_rate:
        hourly = meaning.kind == SUM and file.spacing == 3600 and variable.step_type
        if meaning.kind == MEAN or hourly:
            hours = hours or 1
        if meaning.kind not in (MEAN, SUM) or hours is None:
            step = (file.spacing or 3600) // 3600
            what = f"{name} is a rate ({unit}), and nothing tells over which hours it's a mean"
            raise ask(file, name, what, f"COLUMN=mean:{step}h@start or mean:{step}h@end")
        return hours, made.scale * hours, False
    if meaning.kind == SUM:
        return hours, made.scale, hours is None
    if meaning.kind == MEAN and spoken and hours is not None:
        return hours, made.scale * hours, False
    if meaning.kind == MEAN:
        raise InputError(
            f"{file.label}: {name} is a mean over time ({meaning.evidence}) of amounts in {unit}: "
            "of hourly sums it would be a 24th of the day's rain, of running totals nothing. Take "
            "its daily sum, or, where it is the mean of hourly sums, say --meaning "
            f"{name}=mean:24h@start (read as 24 times it)."
        )
    what = f"{name} is {meaning.kind} by {meaning.evidence}; rain must be a sum over some hours"
    raise ask(file, name, what, "COLUMN=hourly, running, sum:6h or what it is")


def check_values(
    file: GridFile,
    column: Column,
    extremes: Extremes,
    span: tuple[float, float],
    said: ColumnOptions,
) -> None:
    """Refuse a unit that the values can't have, and codes for missing that nobody named."""
    variable, unit = column.variable, column.record.unit
    assert unit is not None
    limits, quantity = None, column.quantity
    if quantity is not None and fits(unit.value, quantity):
        limits = limits_in(quantity, unit.value)
    if span[0] <= span[1] and not np.isfinite(span).all():
        raise InputError(
            f"{file.label}: {variable.original} holds infinite values ({span[0]:g} to "
            f"{span[1]:g}); say --missing inf (or --missing=-inf) to take them for missing."
        )
    usual_codes = [*KNOWN_CODES, *variable.packed_codes]
    codes, unknown = [], []
    for code in extremes.codes(limits):
        is_usual = bool(np.isclose(usual_codes, code.value, rtol=2e-7).any())
        is_beyond = limits is not None and not limits[0] <= code.value <= limits[1]
        if is_usual or is_beyond or (limits is None and abs(code.value) >= _FAR_OFF):
            codes.append(code)
        if is_beyond and not is_usual:
            unknown.append(code)
    too_many = len(unknown) >= _CONTRADICTING or sum(code.share for code in unknown) > 0.5
    if quantity is not None and limits is not None and too_many:
        usual = _USUAL_UNITS.get(quantity.unit, (quantity.unit,))
        within = {one: limits_in(quantity, one) for one in usual}
        fitting = [one for one, (a, b) in within.items() if a <= span[0] and span[1] <= b]
        advice = f"it may be {' or '.join(fitting)}" if fitting else "it's no usual unit"
        raise InputError(
            f"{file.label}: {variable.original} in {unit.value} by {unit.evidence} holds "
            f"{span[0]:.5g} to {span[1]:.5g}, but {quantity.key} lies between {limits[0]:.5g} "
            f"and {limits[1]:.5g} {unit.value}: {advice}. Say --unit {column.name}=UNIT."
        )
    if codes and NONE not in said.missing:
        advice = (
            "Say --missing {values} to take them for missing, or --missing none if they are "
            "measurements."
        )
        raise refusal({f"{file.label}: {variable.original}": codes}, advice)


def check_once_a_day(
    file: GridFile, name: str, meaning: Meaning, hours: np.ndarray, means: np.ndarray
) -> None:
    """Ask about a column that stands once a day in a file of finer stamps: joined statistics."""
    known = np.unique(hours[~np.isnan(means).all(axis=0)])
    spacing = file.spacing or 86400
    few = len(known) < 3 or np.median(np.diff(known)) < 24 or spacing >= 86400
    if few or meaning.known_by == "said" or meaning.hours is not None:
        return
    what = (
        f"{name} stands once a day among stamps {spacing / 3600:g} h apart, as a statistic of the "
        "day does that was joined to them, and nothing tells which hours it stands for"
    )
    words = "COLUMN=instant, hourly, mean:24h@start (the day begins at the stamp), sum:24h@end, ..."
    raise ask(file, name, what, words)


def refuse_overlap(file: GridFile, name: str, hours: np.ndarray, means: np.ndarray) -> None:
    """Refuse forecasts of several base times for one hour: which of them is meant?"""
    known = hours[~np.isnan(means).all(axis=0)]
    times, counts = np.unique(known, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{file.label}: {name} at {stamp(times[counts > 1][0])} stands for "
            f"{counts.max()} base times: its forecasts overlap. Give steps that follow one "
            "another, such as 1 to 24 of one base time a day."
        )


def check_windows(streams: Streams, column: Column) -> None:
    """Take values side by side where sums or means over some hours come more often than that."""
    hours, window = column.known_hours(), column.window
    if window == 1 or column.kind not in (SUM, MEAN) or len(hours) < 2:
        return
    if (every := np.diff(hours).min()) >= window:
        return
    often = f"{column.name} is over {window} h and comes every {every} h:"
    if 24 % window or not (hours % window == 0).any():
        raise InputError(f"{often} its values overlap. Give those that lie side by side.")
    column.takes_every = window
    streams.notes.append(
        f"{often} of the overlapping values those at multiples of {window} h from 00 UTC are taken."
    )


def check_amounts(column: Column) -> None:
    """Refuse rain that never fell anywhere, and mm that can only be metres."""
    unit, first = column.record.unit, column.parts[0].label
    assert unit is not None
    name, by = f"{first}: {column.record.name}", f"in {unit.value} by {unit.evidence}"
    hours = column.totals.period if column.totals else column.window
    largest = max(part.largest for part in column.parts) * column.mm_per_unit
    if largest > most_rain_mm(hours):
        raise InputError(
            f"{name} {by} would be {largest:,.5g} mm in {hours} h, more than ever fell: the unit "
            f"is another, or it is no rain of {hours} h. Say --unit {column.name}=UNIT."
        )
    told = unit.known_by == "file"
    if told and column.mm_per_unit == 1000.0 and largest > _MOST_OF_A_CELL_MM * hours**0.5:
        raise InputError(
            f"{name} {by} would be {largest:,.5g} mm in {hours} h, more than a cell of ERA5 ever "
            f"held; in mm it would be {largest / 1000:.3g} mm. Say --unit {column.name}=mm, or "
            f"={unit.value} where it's right."
        )
    stamps = sum(len(part.hours) for part in column.parts)
    metres = largest * 1000 / column.mm_per_unit
    least = _NO_SHOWER_MM if metres >= _NO_SHOWER_MM else _LEAST_RAIN_MM
    is_little = 0 < largest < least <= metres <= most_rain_mm(hours)
    if told and column.mm_per_unit == 1 and is_little and stamps * column.window >= _MANY_HOURS:
        raise InputError(
            f"{name} is {by} and never exceeds {largest:.3g} mm in {stamps} stamps; in m it would "
            f"be {metres:.3g} mm at most. Say --unit {column.name}=m, or ={unit.value} where it's "
            "right."
        )


def check_told_sums(column: Column) -> None:
    """Refuse sums over hours that the file tells, where their values add up all the same."""
    if any(part.evidence is None for part in column.parts):
        return  # the user's word
    if (verdict := column.behaviour()).kind == RUNNING:
        word = "hourly" if column.window == 1 else f"sum:{column.window}h"
        raise InputError(
            f"{column.parts[0].label}: {column.name} is the {column.words} by the file, but adds "
            f"up {verdict.totals} ({verdict.evidence}). Say --meaning {column.name}=running, or "
            f"={word} where the file is right."
        )


def decide_totals(streams: Streams, column: Column, said: SaidMeaning | None) -> None:
    """Decide whether a column holds hourly sums or running totals: once, over all its files.

    Its behaviour decides; where that tells nothing, the other sums of the same files, the name
    ERA5-Land in the attributes, or the grid. Raises InputError for a counter, for files of both
    kinds, for ERA5-Land by name that behaves otherwise, and for rain of which nothing can be told.
    """
    name, verdict = column.name, column.behaviour()
    verdicts = [part.evidence.decide(column.least) for part in column.parts if part.evidence]
    is_sun = column.quantity is not None and column.quantity.key == "radiation sum"
    if is_sun and (apart := column.stamps_apart()) >= _FEW_HOURS:
        # Sunshine rises and falls once a day: few stamps a day of hourly sums look like totals.
        words = f"stamps {apart} h apart tell nothing of sunshine"
        verdict, verdicts = AccumulationVerdict(UNCLEAR, None, words, verdict.largest), []
    if said is not None and said.is_running:
        fitting = verdict.totals or Totals(said.hours or 24)
        if verdict.kind in (HOURLY, COUNTER) or (said.hours and fitting.period != said.hours):
            raise InputError(
                f"--meaning {name}={column.record.name} says running totals, but its values don't "
                f"behave like that: {verdict.evidence}."
            )
        column.totals = fitting
        _settle(streams, column, f"--meaning {name}", "said")
        return
    if len({(v.kind, v.totals) for v in verdicts if v.kind in (HOURLY, RUNNING)}) > 1:
        told = [
            f"{part.label} " + (f"adds up {v.totals}" if v.kind == RUNNING else "holds hourly sums")
            for part, v in zip(column.parts, verdicts, strict=True)
            if v.kind in (HOURLY, RUNNING)
        ]
        raise InputError(
            f"{name} is not the same in all files: {', '.join(told)}. ERA5-Land and ERA5 can't be "
            "one column. Give one of them."
        )
    if verdict.kind == COUNTER:
        raise InputError(
            f"{name} is a counter: {verdict.evidence} ({column.parts[0].label}). Difference it "
            "first: each value must be the amount of its own hour, or start again within a day. "
            f"Where it holds hourly sums all the same, say --meaning {name}=hourly."
        )
    land = next((part.label for part in column.parts if part.is_named_land), None)
    if verdict.kind == HOURLY and land:
        raise InputError(
            f"{land} calls itself ERA5-Land, but {name} falls within a day instead of adding up "
            f"from 00 UTC ({verdict.evidence}): it was changed after the download. Give the file "
            f"as the Climate Data Store delivers it, or say --meaning {name}=hourly."
        )
    column.totals, why = verdict.totals, verdict.evidence
    if verdict.kind == UNCLEAR:
        column.totals, why = _totals_from_elsewhere(streams, column, verdict)
    _settle(streams, column, why, "inferred")
    on_land_grid = any(part.grid_step == _LAND for part in column.parts)
    if not column.totals and column.is_rain and (verdict.kind != HOURLY or on_land_grid):
        streams.notes.append(f"{name} is taken as hourly sums ({why}).")


def _settle(streams: Streams, column: Column, why: str, known: KnownBy) -> None:
    """Complete the record of a decided sum, and say so where it's taken apart."""
    assert column.record.time is not None
    totals = column.totals
    value = column.record.time.value | {"hours": None if totals else float(column.window)}
    if totals:
        value |= {"running": {"period": totals.period, "reset": totals.reset}}
        streams.notes.append(
            f"{column.name} adds up {totals}{' as in ERA5-Land' if totals == Totals() else ''}: "
            f"taken apart into its hours ({why})."
        )
    column.record.time = Fact(value, known, why)


def _totals_from_elsewhere(
    streams: Streams, column: Column, verdict: AccumulationVerdict
) -> tuple[Totals | None, str]:
    """What sums are whose own behaviour tells nothing, and why."""
    name, rain = column.name, streams.columns.get(PRECIPITATION, column)
    labels, steps = {part.label for part in rain.parts}, {part.grid_step for part in column.parts}
    if column is not rain and any(part.label in labels for part in column.parts):
        return rain.totals, "as tp of the same file"
    if all(part.is_named_land for part in column.parts):
        return Totals(), "the file calls itself ERA5-Land"
    if steps == {_LAND}:
        return Totals(), (
            "a grid of 0.1 degrees is ERA5-Land's; its value at 00 UTC is the day before's total"
        )
    if not only_rises(column.variable.name) or verdict.largest <= column.least:
        return None, f"nothing speaks for running totals ({verdict.evidence})"
    if steps == {_ERA5} and not verdict.is_mixed:
        return None, "a grid of 0.25 degrees is ERA5's"
    raise InputError(
        f"{column.parts[0].label}: {name} may hold sums of one hour (as ERA5) or running totals "
        f"(as ERA5-Land), and nothing tells which: {verdict.evidence}. Say --meaning "
        f"{name}=hourly or --meaning {name}=running."
    )


_MAX_MEMBERS = 1000


def sha256_of_folder(path: Path) -> tuple[str, int]:
    """Return (hex digest, bytes) of a Zarr store: of the names and sizes of its files, in order,
    and of the contents of its metadata. The chunks, maybe terabytes, are not read for it.
    """
    digest, size = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        length = file.stat().st_size
        size += length
        digest.update(f"{file.relative_to(path).as_posix()}\0{length}\0".encode())
        if file.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"):
            digest.update(file.read_bytes())
    return digest.hexdigest(), size


def grid_members(path: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, label) of a file or Zarr store itself, or of each NetCDF or GRIB inside a ZIP.

    A ZIP is known by its first bytes, whatever its suffix.

    Members are unpacked one at a time into ``folder`` under a name of ours: theirs is never a
    path, only a label. Raises InputError for other files and for damaged or encrypted archives.
    """
    magic = b""
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(4)
    if magic != b"PK\x03\x04":
        yield path, path.name
        return
    is_empty, copy = True, folder / "member.nc"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > _MAX_MEMBERS:
                raise InputError(f"{path.name} holds {len(members)} files; expected a few.")
            check_members(path, members)
            for member in members:
                name = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
                label = f"{path.name}:{plain(name, 80)}"
                with archive.open(member) as packed:
                    head = packed.read(4)
                    if head[:3] != b"CDF" and head not in (b"\x89HDF", b"GRIB"):
                        continue
                    check_room(member.file_size, folder, label)
                    with copy.open("wb") as out:
                        out.write(head)
                        shutil.copyfileobj(packed, out, 2**20)
                is_empty = False
                yield copy, label
                copy.unlink()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path.name} is a ZIP that can't be unpacked: {error}.") from error
    if is_empty:
        raise InputError(
            f"{path.name} is a ZIP without a NetCDF or GRIB file in it; unpack a Zarr store first."
        )


def _note_column(streams: Streams, column: Column, meaning: Meaning) -> None:
    """Say so where values are over many hours, their stamps were moved, or a unit is assumed."""
    if meaning.known_by != "said" and (meaning.file_stamp != "end" or column.window > 1):
        place = {"start": "that begin at", "middle": "around", "end": "that end at"}
        streams.notes.append(
            f"{column.name} is the {_IN_WORDS.get(column.kind, column.kind)} over the "
            f"{column.window} h {place[meaning.file_stamp]} the file's stamp ({meaning.evidence}); "
            "in the series the stamp is their end."
        )
    unit = column.record.unit
    if unit is not None and unit.known_by == "assumed":
        streams.notes.append(f"{column.name} is taken as {unit.value}: {unit.evidence}.")


@dataclass
class Streams:
    """Area means over ``regions`` of the ``wanted`` columns (None: all), kept below ``folder``.

    ``columns``, number of ``cells`` per region, ``sources`` and ``notes`` are what was read;
    ``tick`` is called with a label after every column of every file.
    """

    regions: list[Region]
    folder: Path
    wanted: list[str] | None
    said: ColumnOptions
    tick: Callable[[str], None]
    columns: dict[str, Column] = field(default_factory=dict)
    cells: list[int] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_synthetic: bool = False

    def read(self, inputs: list[Path]) -> None:
        """Read all columns of all files.

        Raises InputError for files that can't be read, that don't cover a region, whose grids
        differ for one column, and for columns that contradict themselves or of which too little is
        known (see :class:`ColumnOptions`).
        """
        for path in inputs:
            if not path.exists():
                raise InputError(f"{path} is no file; give NetCDF, GRIB or Zarr (or ZIPs of them).")
            hours: list[float] = []
            names: list[str] = []
            for copy, label in grid_members(path, self.folder):
                with open_grid_files(copy, label) as files:
                    for file in files:
                        names += [variable.column for variable in file.variables]
                        hours += [file.seconds.min() / 3600, file.seconds.max() / 3600]
                        self._read_file(file)
            is_store = path.is_dir()
            sha256, size = (
                sha256_of_folder(path) if is_store else (sha256_of(path), path.stat().st_size)
            )
            span = {"first": stamp(min(hours)), "last": stamp(max(hours))}
            self.sources.append(
                {"path": path.name, "sha256": sha256, "bytes": size, **span, "variables": names}
            )
        self.said.check_columns(self.columns)
        # Rain first: it tells best how sums add up, and the others follow it.
        for column in sorted(
            self.columns.values(), key=lambda c: (not c.is_rain, not only_rises(c.variable.name))
        ):
            if column.is_open:
                decide_totals(self, column, self.said.parsed.get(column.name))
            elif column.kind == SUM and only_rises(column.variable.name):
                check_told_sums(column)
            finite = {code: n for code, n in column.masked.items() if n and np.isfinite(code)}
            column.record.masked(finite, "said", "--missing")
            if endless := sum(n for code, n in column.masked.items() if not np.isfinite(code)):
                words = f"{endless} infinite values are taken for missing"
                self.notes.append(f"{column.name}: {words}.")
            if column.totals and any(part.known is not None for part in column.parts):
                self.notes.append(
                    f"cells of {column.name} are missing at times: where they change within a "
                    "running total, the step is missing."
                )
            check_windows(self, column)
            if column.is_rain:
                check_amounts(column)

    def _read_file(self, file: GridFile) -> None:
        """Read all wanted columns of one file."""
        cells_of = point_means if file.is_points else grid_means
        grid = cells_of(self.regions, file.latitude, file.longitude, file.label)
        if self.cells and self.cells != grid.cells:
            self.notes.append(
                f"{file.label} has {grid.cells} cells in the regions, other files "
                f"{self.cells}; each column is averaged on its own grid."
            )
        self.cells = self.cells or grid.cells
        self.is_synthetic |= file.is_synthetic
        if file.skipped:
            self.notes.append(f"{file.label}: {', '.join(file.skipped)} skipped.")
        renamed = {v.original: v.name for v in file.variables if v.original != v.name}
        words = ", ".join(f"{old} as {new}" for old, new in renamed.items())
        note = f"read by ERA5's short names: {words}."
        if renamed and note not in self.notes:
            self.notes.append(note)
        for variable in file.variables:
            name = variable.column
            if self.wanted is None or name in (*self.wanted, PRECIPITATION):
                self._read_column(file, variable, grid)
                self.tick(f"{file.label} {name}")

    def _read_column(self, file: GridFile, variable: Variable, grid: GridMeans) -> None:
        name = variable.column
        own, meaning = new_column(file, variable, self.said)
        file_hours = (file.seconds + meaning.shift) // 3600
        size = 3 * 8 * len(grid.cells) * len(file_hours)  # means, what is known of them, one copy
        check_memory(size, f"{file.label}: {name} at {len(file_hours):,} times")
        means = np.empty((len(grid.cells), len(file_hours)))
        version = np.empty(len(file_hours), dtype=np.int8)
        known = np.ones(means.shape)  # share of a region's weight in cells with a value
        low, high = np.inf, -np.inf
        is_told = own.kind == SUM and name not in self.said.parsed
        evidence = AccumulationEvidence() if own.is_open or is_told else None
        codes, extremes = self.said.codes, Extremes(variable.packed_codes)
        masked = Counter(dict.fromkeys(codes, 0))
        for times, block, ranks in file.blocks(variable, grid.rows, grid.columns):
            if codes:
                block, counts = mask(block, codes)
                masked.update(counts)
            extremes.add(block)
            means[:, times], version[times] = grid.means(block), ranks
            if own.is_open and np.isnan(block).any():
                known[:, times] = grid.known_weights(block)
            if not np.isnan(block).all():
                low, high = min(low, float(np.nanmin(block))), max(high, float(np.nanmax(block)))
            if evidence is not None and only_rises(variable.name):
                cells = block.reshape(len(block), -1).T
                evidence.add(cells, file_hours[times], continues=times.start > 0)
        check_values(file, own, extremes, (low, high), self.said)
        check_once_a_day(file, name, meaning, file_hours, means)
        unit, quantity, factor = own.record.unit, own.quantity, 1.0
        assert unit is not None
        is_converted = quantity is not None and quantity.key in CONVERTED
        if is_converted and own.unit != unit.value:
            made = conversion(unit.value, quantity)
            means, factor = made(means), made.scale
        if name not in self.columns:
            self.columns[name] = own
            _note_column(self, own, meaning)
        column = self.columns[name]
        # Two spellings of the unit that all are converted to are one: m/s and m s**-1.
        if (own.words, own.is_open) != (column.words, column.is_open) or (
            column.unit != own.unit and not is_converted
        ):
            raise InputError(
                f"{file.label}: {name} is {own.words} in {own.unit!r}; the files before have it "
                f"{column.words} in {column.unit!r}. Prepare them apart."
            )
        if column.mm_per_unit != own.mm_per_unit:
            factor = own.mm_per_unit / column.mm_per_unit
            means = means * factor
        column.masked.update(masked)
        if preliminary := int((version == PRELIMINARY).sum()):
            self.notes.append(
                f"{file.label}: {preliminary} hours of {name} are preliminary (ERA5T)."
            )
        if file.has_steps:
            refuse_overlap(file, name, file_hours, means)
        # A time that stands twice in one file (final and preliminary) makes two parts.
        order = np.argsort(file_hours, kind="stable")
        hours = file_hours[order]
        occurrence = np.arange(len(hours)) - np.searchsorted(hours, hours)
        for turn in range(int(occurrence.max()) + 1):
            chosen = order[occurrence == turn]
            path = self.folder / f"{len(list(self.folder.glob('*.npy')))}.npy"
            np.save(path, means[:, chosen])
            column.parts.append(
                Part(
                    label=file.label,
                    hours=file_hours[chosen],
                    version=version[chosen],
                    path=path,
                    value_range=(high - low) * factor if high > low else 0.0,
                    largest=max(high, -low) * factor,
                    evidence=evidence,
                    is_named_land=evidence is not None and file.is_named_land,
                    grid_step=None if evidence is None else file.grid_step,
                    known=known[:, chosen] if (known != known[:, :1]).any() else None,
                )
            )
