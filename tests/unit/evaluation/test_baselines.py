"""Baselines that only count, against hand counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from timerxl.config import InputError
from timerxl.evaluation.baselines import (
    Climatology,
    DayOfYearClimatology,
    always_rain,
    day_of_year,
    month_of,
    persistence,
)

NAN = float("nan")


def test_always_rain_and_persistence() -> None:
    assert always_rain(3).tolist() == [1.0, 1.0, 1.0]
    assert persistence([0, 1, 1]).tolist() == [0.0, 1.0, 1.0]
    assert persistence([0, NAN, 1], base_rate=0.3).tolist() == [0.0, 0.3, 1.0]
    with pytest.raises(InputError, match="1 of 2 windows don't know"):
        persistence([0, NAN])
    with pytest.raises(InputError, match=r"0\.4 at position 1"):
        persistence([0, 0.4])


def test_persistence_leaves_its_input_alone() -> None:
    before = np.array([0.0, 1.0])
    persistence(before)[:] = 0.5
    assert before.tolist() == [0.0, 1.0]


def test_month_of_every_month_before_and_after_1970() -> None:
    days = pd.date_range("1959-01-15", "2024-12-15", freq="MS")
    assert month_of(days.to_numpy().astype("datetime64[s]")).tolist() == days.month.tolist()


def test_climatology_counts_by_region_month_and_state() -> None:
    region = [0, 0, 0, 0, 0, 1, 1]
    month = [1, 1, 1, 1, 2, 1, 1]
    before = [1, 1, 0, NAN, 1, 0, 0]
    label = [1, 1, 0, 1, 0, 1, 0]
    fitted = Climatology().fit(region, month, before, label)
    asked = {
        (0, 1, 1): 3 / 4,  # two windows, two rainy
        (0, 1, 0): 1 / 3,  # one window, dry
        (0, 1, NAN): 4 / 6,  # state unknown: four windows, three rainy
        (1, 1, 0): 2 / 4,
        (1, 1, 1): 3 / 4,  # never seen here: same month and state of all regions
        (7, 1, 0): 2 / 5,  # region never seen: three windows, one rainy
        (0, 6, 0): 2 / 5,  # month never seen: the state alone
        (5, 6, NAN): 5 / 9,  # nothing known: all seven windows, four rainy
    }
    regions, months, states = zip(*asked, strict=True)
    assert fitted.predict(regions, months, states) == pytest.approx(list(asked.values()))


def test_climatology_refuses_what_it_cannot_count() -> None:
    with pytest.raises(InputError, match="1 of them NaN"):
        Climatology().fit([0, 0], [1, 1], [0, 1], [1, NAN])
    with pytest.raises(InputError, match="2 training windows and 1 labels"):
        Climatology().fit([0, 0], [1, 1], [0, 1], [1])
    with pytest.raises(InputError, match="0 training windows"):
        Climatology().fit([], [], [], [])
    with pytest.raises(InputError, match="month from 1 to 12"):
        Climatology().fit([0], [0], [0], [1])
    with pytest.raises(InputError, match="shapes"):
        Climatology().fit([0, 1], [1], [0], [1])
    with pytest.raises(NotFittedError):
        Climatology().predict([0], [1], [0])


def test_day_of_year_is_the_place_in_a_leap_year() -> None:
    leap = pd.date_range("2020-01-01", "2020-12-31")
    assert day_of_year(leap.to_numpy()).tolist() == list(range(1, 367))
    stamps = np.array(["2021-02-28T23", "2021-03-01T00", "1969-12-31T12", "1900-03-01"], "M8[s]")
    assert day_of_year(stamps).tolist() == [59, 61, 366, 61]


def naive_day_of_year(
    region: np.ndarray, day: np.ndarray, label: np.ndarray, width: int, asked: tuple[int, int]
) -> float:
    """One window after the other; ``asked`` is a region and a day."""
    for chosen in (region == asked[0], np.ones(region.size, bool)):
        away = np.abs(day[chosen] - asked[1])
        away = np.minimum(away, 366 - away)
        weight = np.clip(1 - away / (width + 1), 0, None)
        if weight.sum() > 0:
            return float((weight @ label[chosen] + 1) / (weight.sum() + 2))
    return float((label.sum() + 1) / (label.size + 2))


def test_day_of_year_climatology_agrees_with_a_naive_loop() -> None:
    generator = np.random.default_rng(0)
    region = generator.integers(0, 3, 300)
    # Region 2 has windows in January only; nobody has any from day 150 to 250.
    day = np.where(region == 2, generator.integers(1, 32, 300), generator.integers(250, 516, 300))
    day = (day - 1) % 366 + 1
    label = generator.integers(0, 2, 300).astype(float)
    asked = [(r, d) for r in (0, 1, 2, 9) for d in (1, 3, 60, 149, 160, 200, 245, 366)]
    for width in (15, 0, 40):
        fitted = DayOfYearClimatology(width).fit(region, day, label)
        found = fitted.predict(*map(list, zip(*asked, strict=True)))
        expected = [naive_day_of_year(region, day, label, width, one) for one in asked]
        assert found == pytest.approx(expected, abs=1e-12)


def test_day_of_year_climatology_finds_a_wet_season() -> None:
    generator = np.random.default_rng(1)
    stamps = np.datetime64("2010-01-01", "D") + np.arange(3650)
    day = day_of_year(stamps)
    chance = 0.5 + 0.4 * np.cos(2 * np.pi * day / 366)  # the peak is at the turn of the year
    label = (generator.random(3650) < chance).astype(float)
    found = DayOfYearClimatology().fit(np.zeros(3650, int), day, label).predict([0] * 3650, day)
    assert np.sqrt(np.mean((found - chance) ** 2)) < 0.06
    raw = DayOfYearClimatology(0).fit(np.zeros(3650, int), day, label).predict([0] * 3650, day)
    assert np.sqrt(np.mean((raw - chance) ** 2)) > 0.09


def test_day_of_year_climatology_refuses_what_it_cannot_count() -> None:
    with pytest.raises(InputError, match="1 of them NaN"):
        DayOfYearClimatology().fit([0, 0], [1, 1], [1, NAN])
    with pytest.raises(InputError, match="day from 1 to 366"):
        DayOfYearClimatology().fit([0], [367], [0])
    with pytest.raises(InputError, match="shapes"):
        DayOfYearClimatology().fit([0, 1], [1], [0])
    with pytest.raises(InputError, match="half_width_days is 200"):
        DayOfYearClimatology(200)
    with pytest.raises(NotFittedError):
        DayOfYearClimatology().predict([0], [1])


def test_climatologies_counted_in_parts_are_those_counted_at_once() -> None:
    rng = np.random.default_rng(5)
    count = 4_000
    region, month = rng.integers(0, 7, count), rng.integers(1, 13, count)
    region.sort()  # later parts bring new regions
    before, label = rng.integers(0, 2, count).astype(float), rng.integers(0, 2, count)
    before[rng.random(count) < 0.1] = NAN
    day = rng.integers(1, 367, count)
    whole, parts = Climatology().fit(region, month, before, label), Climatology()
    of_day, day_parts = DayOfYearClimatology().fit(region, day, label), DayOfYearClimatology()
    for start in range(0, count, 900):
        cut = slice(start, start + 900)
        (parts.add if start else parts.fit)(region[cut], month[cut], before[cut], label[cut])
        (day_parts.add if start else day_parts.fit)(region[cut], day[cut], label[cut])
    asked = rng.integers(0, 9, 500)  # two of them unknown
    given = asked, month[:500], before[:500]
    np.testing.assert_array_equal(parts.predict(*given), whole.predict(*given))
    given = asked, day[:500]
    np.testing.assert_array_equal(day_parts.predict(*given), of_day.predict(*given))
