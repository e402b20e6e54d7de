"""In which unit a column of rain is: said, told by its name or attributes, or asked for.

Numbers alone seldom tell: 33 a year is a desert's in mm and a city's in inches. What a unit makes
of them is held against what falls on Earth; a contradiction is refused with the amounts that every
unit would give, so that the advice can't make it worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timerxl.config import InputError
from timerxl.data.tables.column_records import Fact
from timerxl.data.tables.quantities import RAIN, conversion, most_rain_mm, named

CANDIDATES = ("mm", "in", "cm", "0.1mm", "m", "kg m-2 s-1")
ERA5_NAMES = ("tp", "total_precipitation")
_MANY_ROWS = 100
_NO_SHOWER_MM = 0.5  # the most of a step in 100 rows or more: less is a desert's, or another unit
_WET_YEAR_MM = 27_000.0  # the wettest year measured: 26,461 mm, Cherrapunji 1860/61
_WET_PLACE_MM = 13_000.0  # the wettest places' mean: Mawsynram, 11,870 mm a year
_DRY_YEAR_MM = 100.0  # a desert's: below, another unit is at least as likely
_DRY_YEAR_FINE_MM = 300.0  # the same for whole hundredths, as gauges in inches report
_WET_YEAR_WHOLE_MM = 1_500.0  # whole numbers that add up to more: tenths of mm are likely
_JUDGED_DAYS, _YEAR_DAYS, _YEAR = 90.0, 300.0, 365.25


@dataclass(frozen=True)
class _Amounts:
    """What a column holds in its own unit: steps known, days, the largest step, the year's sum."""

    rows: int
    hours: float
    largest: float
    year: float
    whole_hundredths: bool
    whole: bool

    @property
    def days(self) -> float:
        return self.rows * self.hours / 24

    def in_unit(self, unit: str) -> tuple[float, float]:
        """(mm in the largest step, mm a year) if the numbers are in ``unit``."""
        made = conversion(unit, named(RAIN))
        factor = made.scale * (self.hours if made.is_rate else 1.0)
        return self.largest * factor, self.year * factor

    def is_possible(self, unit: str) -> bool:
        step, year = self.in_unit(unit)
        too_wet = self.days >= _YEAR_DAYS and year > _WET_YEAR_MM
        return step <= most_rain_mm(self.hours) and not too_wet

    def is_likely(self, unit: str) -> bool:
        """Possible, neither a desert nor beyond the wettest place."""
        step, year = self.in_unit(unit)
        return (
            self.is_possible(unit)
            and step >= _NO_SHOWER_MM
            and _DRY_YEAR_MM <= year <= _WET_PLACE_MM
        )

    def choices(self) -> str:
        """What each unit would make of the numbers, for those that could be."""
        found = []
        for unit in CANDIDATES:
            step, year = self.in_unit(unit)
            if self.is_likely(unit):
                found.append(f"{unit} would be {year:,.0f} mm a year, {step:.3g} mm at most")
        return "; ".join(found) or "no usual unit makes rain of them"


def rain_unit(
    values: np.ndarray,
    hours: float,
    name: str,
    said: str | None,
    told: tuple[str, str] | None,
    option: str,
) -> Fact:
    """The unit of a rain column: ``values`` [R] (NaN where missing), each over ``hours``.

    ``said`` is the user's word, ``told`` (unit, by what) the file's: brackets of the name, an
    attribute, a layout. Without either mm is assumed where the amounts are those of rain in mm, and
    m is inferred of a column that has ERA5's name, where only metres make rain of it.
    Raises InputError where the two differ, where the amounts are impossible, or where they leave
    more than one unit; it names ``option`` and what each unit would give.
    """
    quantity = named(RAIN)
    for unit in (said, told[0] if told else None):
        if unit is not None:
            conversion(unit, quantity)  # an unknown unit is refused before anything is judged
    amounts = _amounts(values, hours)
    if said is not None and told is not None and not _same(said, told[0], hours):
        raise InputError(
            f"{name} is in {told[0]} by {told[1]}, {option} says {said}; leave the option out, or "
            "correct the file."
        )
    unit = said or (told[0] if told else None)
    if unit is None:
        if reason := _doubt(amounts):
            likely = [one for one in CANDIDATES if amounts.is_likely(one)]
            depths = [one for one in likely if not conversion(one, quantity).is_rate]
            if name.lower() in ERA5_NAMES and depths == ["m"]:
                words = f"{name} is ERA5's name, and only metres make rain of it"
                return Fact("m", "inferred", f"{words}: {amounts.in_unit('m')[1]:,.0f} mm a year")
            raise InputError(
                f"{name}: nothing tells its unit, and {reason}. {amounts.choices()}. Say {option} "
                "UNIT (mm, if it is mm)."
            )
        evidence = f"nothing tells its unit; {amounts.largest:.4g} at most"
        if amounts.days >= _JUDGED_DAYS:
            evidence += f", {amounts.year:,.0f} a year"
        return Fact("mm", "assumed", evidence)
    step, year = amounts.in_unit(unit)
    if not amounts.is_possible(unit):
        by = f" (by {told[1]})" if told and not said else ""
        raise InputError(
            f"{name} in {unit}{by} would be {step:,.5g} mm in {hours:g} h at most and "
            f"{year:,.0f} mm a year, more than ever fell: the unit is another, or the numbers are "
            f"no rain. {amounts.choices()}."
        )
    if said is None and amounts.rows >= _MANY_ROWS and 0 < step < _NO_SHOWER_MM and step != 0:
        other = [one for one in CANDIDATES if amounts.is_likely(one)]
        if other:
            assert told is not None
            raise InputError(
                f"{name} is in {unit} by {told[1]} and never exceeds {step:.3g} mm in {hours:g} h, "
                f"{year:.3g} mm a year: {amounts.choices()}. Say {option} UNIT, also where it's "
                f"{unit}."
            )
    return Fact(unit, "said" if said else "file", option if said else told[1] if told else "")


def to_mm(values: np.ndarray, unit: str, hours: float) -> np.ndarray:
    """Rain of a step in mm; a rate (mm/h) falls for ``hours``. Unrounded."""
    made = conversion(unit, named(RAIN))
    factor = made.scale * (hours if made.is_rate else 1.0)
    return values if factor == 1.0 else values * factor


def _same(one: str, other: str, hours: float) -> bool:
    """Whether two spellings mean one unit: in and inches, kg m-2 and mm."""
    made = [conversion(unit, named(RAIN)) for unit in (one, other)]
    factors = [made_of.scale * (hours if made_of.is_rate else 1.0) for made_of in made]
    return bool(np.isclose(factors[0], factors[1], rtol=1e-9))


def _amounts(values: np.ndarray, hours: float) -> _Amounts:
    known = values[~np.isnan(values)]
    wet = known[known > 0]
    largest = float(wet.max()) if wet.size else 0.0
    year = float(wet.sum()) / max(known.size * hours / 24, 1e-9) * _YEAR
    hundredths = wet.size >= 20 and bool((np.abs(wet * 100 - np.rint(wet * 100)) < 1e-3).all())
    tenths = wet.size > 0 and bool((np.abs(wet * 10 - np.rint(wet * 10)) < 1e-4).all())
    whole = wet.size >= 20 and bool((wet == np.rint(wet)).all())
    return _Amounts(known.size, hours, largest, year, hundredths and not tenths, whole)


def _doubt(amounts: _Amounts) -> str | None:
    """Why undeclared numbers may not be mm, as a clause; None where they look like mm."""
    if amounts.rows < _MANY_ROWS or amounts.largest == 0:
        return None
    if not amounts.is_possible("mm"):
        return f"{amounts.largest:.5g} in {amounts.hours:g} h, or {amounts.year:,.0f} a year, is no rain in mm"  # noqa: E501
    if amounts.largest < _NO_SHOWER_MM:
        return f"it never exceeds {amounts.largest:.4g}, which is too little for mm"
    if amounts.days < _JUDGED_DAYS:
        return None
    if amounts.year < _DRY_YEAR_MM:
        return f"{amounts.year:.3g} mm a year would be a desert's"
    if amounts.whole_hundredths and amounts.year < _DRY_YEAR_FINE_MM:
        return f"{amounts.year:.3g} a year in whole hundredths may be inches"
    if amounts.whole and amounts.year > _WET_YEAR_WHOLE_MM:
        return f"{amounts.year:,.0f} a year in whole numbers may be tenths of mm"
    return None
