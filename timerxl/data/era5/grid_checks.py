"""What a column of a grid is: unit, meaning in time, codes for missing, running totals.

Each fact is said by the user, told by the file, or inferred from the values, and noted in the
column's record. What contradicts itself is refused, what can't be decided is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
    Totals,
    Verdict,
    only_rises,
)
from timerxl.data.era5.grid_columns import Column, Streams, stamp
from timerxl.data.era5.grid_files import GridFile, Variable
from timerxl.data.era5.series_file import PRECIPITATION
from timerxl.data.tables.column_records import Fact, KnownBy, time_meaning
from timerxl.data.tables.missing_codes import KNOWN_CODES, NONE, Extremes, parse_codes, refusal
from timerxl.data.tables.quantities import (
    RAIN,
    Quantity,
    conversion,
    fits,
    limits_in,
    most_rain_mm,
    named,
    quantity_of,
)
from timerxl.data.tables.time_meaning import Meaning, SaidMeaning, ask, parse_meaning

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


@dataclass
class Said:
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


def unit_of(file: GridFile, variable: Variable, said: Said) -> tuple[Quantity | None, Fact]:
    """(the quantity, where it's known; the unit): the user's word, else the attribute's."""
    name = variable.column
    is_rain = name == PRECIPITATION
    spoken, told = said.units.get(name), variable.unit
    unit = spoken or told
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
            by = "--unit" if spoken else "its attribute"
            raise InputError(
                f"{file.label}: {variable.original} has the unit {unit!r} by {by}, which is none "
                f"of {quantity.key}; say --unit {name}=UNIT (such as "
                f"{', '.join(_USUAL_UNITS.get(quantity.unit, (quantity.unit,)))})."
            )
    if not unit and quantity is not None and quantity.key in CONVERTED:
        return quantity, Fact(quantity.unit, "assumed", "ERA5's unit, since the file tells none")
    known: KnownBy = "said" if spoken else "file"
    return quantity, Fact(unit, known, "--unit" if spoken else "its attribute")


def kind_of(
    file: GridFile, variable: Variable, meaning: Meaning, unit: str, was_said: bool
) -> tuple[str, int, float, bool]:
    """(kind, hours of a value, mm per unit, whether the values must tell about running totals).

    Rain becomes a sum: a rate, or a mean that the user says, times its hours. Raises InputError
    for rain that is an instant or an extreme, or a mean depth that nobody explains.
    """
    name, hours = variable.column, meaning.hours
    if name != PRECIPITATION:
        is_open = meaning.kind == SUM and hours is None
        return meaning.kind, hours or 1, 1.0, is_open
    made = conversion(unit, named(RAIN))
    times = file.times
    if made.is_rate:
        if meaning.kind == MEAN:
            hours = hours or 1
        elif meaning.kind == SUM and hours is None and times.spacing == 3600 and variable.step_type:
            hours = 1
        if meaning.kind not in (MEAN, SUM) or hours is None:
            step = (times.spacing or 3600) // 3600
            what = f"{name} is a rate ({unit}), and nothing tells over which hours it's a mean"
            raise ask(times, name, what, f"COLUMN=mean:{step}h@start or mean:{step}h@end")
        return SUM, hours, made.scale * hours, False
    if meaning.kind == SUM:
        return SUM, hours or 1, made.scale, hours is None
    if meaning.kind == MEAN and was_said and hours is not None:
        return SUM, hours, made.scale * hours, False
    if meaning.kind == MEAN:
        what = (
            f"{name} is a mean over time ({meaning.evidence}) of amounts in {unit}: of hourly sums "
            "it would be a 24th of the day's rain, of running totals nothing. Take its daily sum, "
            "or, where it is the mean of hourly sums"
        )
        raise InputError(
            f"{file.label}: {what}, say --meaning {name}=mean:24h@start (read as 24 times it)."
        )
    what = f"{name} is {meaning.kind} by {meaning.evidence}; rain must be a sum over some hours"
    raise ask(times, name, what, "COLUMN=hourly, running, sum:6h or what it is")


def kind_in_words(kind: str, window: int) -> str:
    """``avg over 24 h``; without hours where a value is over one."""
    return kind if window == 1 else f"{kind} over {window} h"


def time_fact(meaning: Meaning, kind: str, window: int, is_open: bool) -> Fact:
    """The record of a column's meaning in time; an open sum's is completed when it's decided."""
    hours = None if kind == INSTANT or is_open else float(window)
    word = {SUM: "sum", MEAN: "mean"}.get(kind, kind)
    value = time_meaning(word, hours, meaning.file_stamp)
    return Fact(value, meaning.known_by, meaning.evidence)


def note_meaning(streams: Streams, column: Column, meaning: Meaning) -> None:
    """Say so where values are over more than an hour, or their stamps were moved."""
    if meaning.known_by == "said" or (meaning.file_stamp == "end" and column.window == 1):
        return
    place = {"start": "that begin at", "middle": "around", "end": "that end at"}[meaning.file_stamp]
    word = {SUM: "sum", MEAN: "mean"}.get(column.kind, column.kind)
    streams.notes.append(
        f"{column.name} is the {word} over the {column.window} h {place} the file's stamp "
        f"({meaning.evidence}); in the series the stamp is their end."
    )


def check_values(
    file: GridFile,
    variable: Variable,
    quantity: Quantity | None,
    unit: Fact,
    extremes: Extremes,
    span: tuple[float, float],
    said: Said,
) -> None:
    """Refuse a unit that the values can't have, and codes for missing that nobody named."""
    name, limits = variable.column, None
    if quantity is not None and fits(unit.value, quantity):
        limits = limits_in(quantity, unit.value)
    usual_codes = [*KNOWN_CODES, *variable.packed_codes]
    if span[0] <= span[1] and not np.isfinite(span).all():
        raise InputError(
            f"{file.label}: {variable.original} holds infinite values ({span[0]:g} to "
            f"{span[1]:g}); say --missing inf (or --missing=-inf) to take them for missing."
        )
    codes = [
        code
        for code in extremes.codes(limits)
        if np.isclose(usual_codes, code.value, rtol=2e-7).any()
        or (limits is None and abs(code.value) >= _FAR_OFF)
        or (limits is not None and not limits[0] <= code.value <= limits[1])
    ]
    beyond = [c for c in codes if limits and not limits[0] <= c.value <= limits[1]]
    unknown = [c for c in beyond if not np.isclose(usual_codes, c.value, rtol=2e-7).any()]
    too_many = len(unknown) >= _CONTRADICTING or sum(c.share for c in unknown) > 0.5
    if quantity is not None and limits is not None and too_many:
        usual = _USUAL_UNITS.get(quantity.unit, (quantity.unit,))
        within = {one: limits_in(quantity, one) for one in usual}
        fitting = [one for one, (a, b) in within.items() if a <= span[0] and span[1] <= b]
        advice = f"it may be {' or '.join(fitting)}" if fitting else "it's no usual unit"
        raise InputError(
            f"{file.label}: {variable.original} in {unit.value} by {unit.evidence} holds "
            f"{span[0]:.5g} to {span[1]:.5g}, but {quantity.key} lies between {limits[0]:.5g} "
            f"and {limits[1]:.5g} {unit.value}: {advice}. Say --unit {name}=UNIT."
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
    spacing = file.times.spacing or 86400
    few = len(known) < 3 or np.median(np.diff(known)) < 24 or spacing >= 86400
    if few or meaning.known_by == "said" or meaning.hours is not None:
        return
    what = (
        f"{name} stands once a day among stamps {spacing / 3600:g} h apart, as a statistic of the "
        "day does that was joined to them, and nothing tells which hours it stands for"
    )
    words = "COLUMN=instant, hourly, mean:24h@start (the day begins at the stamp), sum:24h@end, ..."
    raise ask(file.times, name, what, words)


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
    """Where sums or means over some hours come more often than that, take those side by side."""
    if column.window == 1 or column.kind not in (SUM, MEAN):
        return
    hours = column.known_hours()
    if len(hours) < 2 or np.diff(hours).min() >= column.window:
        return
    if 24 % column.window or not (hours % column.window == 0).any():
        raise InputError(
            f"{column.name} is over {column.window} h and comes every {np.diff(hours).min()} h: "
            "its values overlap. Give those that lie side by side."
        )
    column.takes_every = column.window
    streams.notes.append(
        f"{column.name} is over {column.window} h and comes every {np.diff(hours).min()} h: of the "
        f"overlapping values those at multiples of {column.window} h from 00 UTC are taken."
    )


def check_amounts(column: Column) -> None:
    """Refuse rain that never fell anywhere, and mm that can only be metres."""
    hours = column.totals.period if column.totals else column.window
    largest = max(part.largest for part in column.parts) * column.mm_per_unit
    unit = column.record.unit
    assert unit is not None
    if largest > most_rain_mm(hours):
        raise InputError(
            f"{column.parts[0].label}: {column.record.name} in {unit.value} by {unit.evidence} "
            f"would be {largest:,.5g} mm in {hours} h, more than ever fell: the unit is "
            f"another, or it is no rain of {hours} h. Say --unit {column.name}=UNIT."
        )
    told = unit.known_by == "file"
    if told and column.mm_per_unit == 1000.0 and largest > _MOST_OF_A_CELL_MM * hours**0.5:
        raise InputError(
            f"{column.parts[0].label}: {column.record.name} in {unit.value} by {unit.evidence} "
            f"would be {largest:,.5g} mm in {hours} h, more than a cell of ERA5 ever held; in mm "
            f"it would be {largest / 1000:.3g} mm. Say --unit {column.name}=mm, or "
            f"={unit.value} where it's right."
        )
    stamps = sum(len(part.hours) for part in column.parts)
    metres = largest * 1000 / column.mm_per_unit
    least = _NO_SHOWER_MM if metres >= _NO_SHOWER_MM else _LEAST_RAIN_MM
    is_little = 0 < largest < least <= metres <= most_rain_mm(hours)
    is_long = stamps * column.window >= _MANY_HOURS
    if told and column.mm_per_unit == 1.0 and is_long and is_little:
        raise InputError(
            f"{column.parts[0].label}: {column.record.name} is in {unit.value} by {unit.evidence} "
            f"and never exceeds {largest:.3g} mm in {stamps} stamps; in m it would be "
            f"{metres:.3g} mm at most. Say --unit {column.name}=m, or ={unit.value} where it's "
            "right."
        )


def check_told_sums(column: Column) -> None:
    """Refuse sums over hours that the file tells, where their values add up all the same."""
    if any(part.evidence is None for part in column.parts):
        return  # the user's word
    whole = AccumulationEvidence()
    for part in column.parts:
        assert part.evidence is not None
        whole.merge(part.evidence)
    least = _LEAST_RAIN_MM / column.mm_per_unit if column.name == PRECIPITATION else 0.0
    verdict = whole.decide(least)
    if verdict.kind == RUNNING:
        word = "hourly" if column.window == 1 else f"sum:{column.window}h"
        raise InputError(
            f"{column.parts[0].label}: {column.name} is the "
            f"{kind_in_words(column.kind, column.window)} by the file, but adds up "
            f"{verdict.totals} ({verdict.evidence}). Say --meaning {column.name}=running, or "
            f"={word} where the file is right."
        )


def rain_first(streams: Streams) -> list[Column]:
    """Rain tells best how sums add up; sums of the same files that can't tell follow it."""
    return sorted(
        streams.columns.values(),
        key=lambda c: (c.name != PRECIPITATION, not only_rises(c.variable.name)),
    )


def decide_totals(streams: Streams, column: Column, said: SaidMeaning | None) -> None:
    """Decide whether a column holds hourly sums or running totals: once, over all its files.

    Its behaviour decides; where that tells nothing, the other sums of the same files, the name
    ERA5-Land in the attributes, or the grid. Raises InputError for a counter, for files of both
    kinds, for ERA5-Land by name that behaves otherwise, and for rain of which nothing can be told.
    """
    name = column.name
    least = _LEAST_RAIN_MM / column.mm_per_unit if name == PRECIPITATION else 0.0
    verdicts = [part.evidence.decide(least) for part in column.parts if part.evidence]
    whole = AccumulationEvidence()
    for part in column.parts:
        assert part.evidence is not None
        whole.merge(part.evidence)
    verdict = whole.decide(least)
    known: KnownBy = "inferred"
    if column.follows_the_sun() and column.stamps_apart() >= _FEW_HOURS:
        # Sunshine rises and falls once a day: few stamps a day of hourly sums look like totals.
        words = f"stamps {column.stamps_apart()} h apart tell nothing of sunshine"
        verdict, verdicts = Verdict(UNCLEAR, None, words, verdict.largest), []
    if said is not None and said.is_running:
        fitting = verdict.totals or Totals(said.hours or 24)
        if verdict.kind in (HOURLY, COUNTER) or (said.hours and fitting.period != said.hours):
            raise InputError(
                f"--meaning {name}={column.record.name} says running totals, but its values don't "
                f"behave like that: {verdict.evidence}."
            )
        column.totals, why, known = fitting, f"--meaning {name}", "said"
        _settle(streams, column, why, known)
        return
    clear = {(v.kind, v.totals) for v in verdicts if v.kind in (HOURLY, RUNNING)}
    if len(clear) > 1:
        told = [
            f"{part.label} {_in_words(v)}"
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
    if verdict.kind == HOURLY:
        if land:
            raise InputError(
                f"{land} calls itself ERA5-Land, but {name} falls within a day "
                f"instead of adding up from 00 UTC ({verdict.evidence}): it was changed after the "
                "download. Give the file as the Climate Data Store delivers it, or say --meaning "
                f"{name}=hourly."
            )
        why = verdict.evidence
    elif verdict.kind == RUNNING:
        column.totals, why = verdict.totals, verdict.evidence
    else:
        column.totals, why = _totals_from_elsewhere(streams, column, verdict)
    on_land_grid = any(part.grid_step == _LAND for part in column.parts)
    _settle(streams, column, why, known, verdict.kind != HOURLY or on_land_grid)


def _settle(
    streams: Streams, column: Column, why: str, known: KnownBy, is_remarkable: bool = False
) -> None:
    """Complete the record of a decided sum, and say so where it's taken apart.

    ``is_remarkable``: hourly sums need a word, too: little tells that they are, or the grid is
    ERA5-Land's.
    """
    assert column.record.time is not None
    totals = column.totals
    value = column.record.time.value | {"hours": None if totals else float(column.window)}
    if totals:
        value |= {"running": {"period": totals.period, "reset": totals.reset}}
        streams.notes.append(
            f"{column.name} adds up {totals}{' as in ERA5-Land' if totals == Totals() else ''}: "
            f"taken apart into its hours ({why})."
        )
    elif column.name == PRECIPITATION and is_remarkable and known != "said":
        streams.notes.append(f"{column.name} is taken as hourly sums ({why}).")
    column.record.time = Fact(value, known, why)


def _is_beside(rain: Column, column: Column) -> bool:
    """Whether another sum comes from a file that holds the rain, too."""
    labels = {part.label for part in rain.parts}
    return column is not rain and any(part.label in labels for part in column.parts)


def _in_words(verdict: Verdict) -> str:
    return f"adds up {verdict.totals}" if verdict.kind == RUNNING else "holds hourly sums"


def _totals_from_elsewhere(
    streams: Streams, column: Column, verdict: Verdict
) -> tuple[Totals | None, str]:
    """What sums are whose own behaviour tells nothing, and why."""
    name = column.name
    rain = streams.columns.get(PRECIPITATION, column)
    if _is_beside(rain, column):
        return rain.totals, "as tp of the same file"
    if all(part.is_named_land for part in column.parts):
        return Totals(), "the file calls itself ERA5-Land"
    steps = {part.grid_step for part in column.parts}
    if steps == {_LAND}:
        return Totals(), (
            "a grid of 0.1 degrees is ERA5-Land's; its value at 00 UTC is the day before's total"
        )
    least = _LEAST_RAIN_MM / column.mm_per_unit if name == PRECIPITATION else 0.0
    if not only_rises(column.variable.name) or verdict.largest <= least:
        return None, f"nothing speaks for running totals ({verdict.evidence})"
    if steps == {_ERA5} and not verdict.is_mixed:
        return None, "a grid of 0.25 degrees is ERA5's"
    raise InputError(
        f"{column.parts[0].label}: {name} may hold sums of one hour (as ERA5) or running totals "
        f"(as ERA5-Land), and nothing tells which: {verdict.evidence}. Say --meaning "
        f"{name}=hourly or --meaning {name}=running."
    )
