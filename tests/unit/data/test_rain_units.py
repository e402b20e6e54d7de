"""The unit of rain: told, contradicted, or asked for. Rain here is invented with a seed."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.tables.columns import rain_unit, to_mm

OPTION = "--precipitation-unit"


def daily_mm(year: float = 900.0, days: int = 1500) -> np.ndarray:
    """About ``year`` mm a year in whole tenths of mm."""
    random = np.random.default_rng(0)
    rain = np.where(random.random(days) < 0.3, random.gamma(0.6, 10, days), 0.0)
    return (rain * year / (rain.mean() * 365.25)).round(1)


def unit_of(
    values: np.ndarray, said: str | None = None, told: str | None = None, hours: float = 24
) -> tuple[str, str]:
    fact = rain_unit(values, hours, "rain", said, (told, "its name") if told else None, OPTION)
    return fact.value, fact.known_by


def test_what_is_said_or_told_is_taken() -> None:
    mm = daily_mm()
    assert unit_of(mm) == ("mm", "assumed")
    assert unit_of(mm, said="mm") == ("mm", "said")
    assert unit_of((mm / 25.4).round(2), told="in") == ("in", "file")
    assert unit_of(mm / 1000, said="m", told="m of water equivalent") == ("m", "said")
    assert unit_of(mm / 86400, said="kg m-2 s-1") == ("kg m-2 s-1", "said")


@pytest.mark.parametrize(
    ("factor", "right"), [(1 / 25.4, "in"), (0.001, "m"), (10, "0.1mm"), (0.1, "cm")]
)
def test_untold_units_that_are_not_mm_are_asked_for_with_the_right_one_among_the_choices(
    factor: float, right: str
) -> None:
    values = daily_mm() * factor
    values = values.round(2) if right != "m" else values
    with pytest.raises(InputError, match=f"nothing tells its unit.*{OPTION}") as error:
        unit_of(values)
    assert f"{right} would be 9" in str(error.value)  # 900 mm a year and a little


def test_the_advice_never_makes_it_worse() -> None:
    """Hourly inches look small enough for metres; in metres they would be more than ever fell."""
    random = np.random.default_rng(1)
    wet = random.random(8760) < 0.08
    inches = np.where(wet, random.gamma(0.7, 0.065, 8760), 0.0).round(2)
    with pytest.raises(InputError, match="never exceeds 0") as error:
        unit_of(inches, hours=1)
    assert "; m would be" not in str(error.value)
    assert " in would be" in str(error.value)
    with pytest.raises(InputError, match="more than ever fell"):
        unit_of(inches, said="m", hours=1)


def test_contradictions_are_refused() -> None:
    mm = daily_mm()
    with pytest.raises(InputError, match="in in by its name, --precipitation-unit says mm"):
        unit_of(mm, said="mm", told="in")
    with pytest.raises(InputError, match="more than ever fell"):
        unit_of(mm, told="m")
    with pytest.raises(InputError, match="rain is in mm by its name and never exceeds"):
        unit_of(mm / 1000, told="mm")
    assert unit_of(mm / 1000, said="mm", told="mm") == ("mm", "said")  # a desert, who says so


def test_short_or_dry_tables_are_taken_as_mm() -> None:
    assert unit_of(daily_mm()[:50] / 25.4) == ("mm", "assumed")
    assert unit_of(np.zeros(5000)) == ("mm", "assumed")


@pytest.mark.parametrize(
    ("unit", "hours", "factor"),
    [
        ("mm", 1, 1),
        ("in", 1, 25.4),
        ("mm/h", 24, 24),
        ("mm/day", 1, 1 / 24),
        ("kg m-2 s-1", 3, 10800),
    ],
)
def test_amounts_become_mm_of_the_step(unit: str, hours: float, factor: float) -> None:
    assert to_mm(np.array([2.0]), unit, hours)[0] == pytest.approx(2 * factor, rel=1e-12)
