"""Another unit is refused, the weather of any season is not; on the synthetic and a real series.

The real one is UCI data set 501 as one hourly table.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.forecast_input import check_units
from timerxl.data.preprocessing import ranges_problem, step_offsets, training_ranges
from timerxl.data.readers import load_series, read_table
from timerxl.data.series import WeatherSeries

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
BEIJING = SHARED / "data" / "beijing_hourly_2013_2017.parquet"
CONTEXT = 56
Change = Callable[[np.ndarray], np.ndarray]


def part(series: WeatherSeries, rows: np.ndarray) -> WeatherSeries:
    """The series of the rows [R] bool alone."""
    kept, index = np.unique(series.region_index[rows], return_inverse=True)
    return replace(
        series,
        values=series.values[rows],
        region_index=index.astype(np.int64),
        timestamps=series.timestamps[rows],
        regions=[series.regions[i] for i in kept],
        precipitation_mm=None,
        ready_label=np.full(int(rows.sum()), np.nan),
        true_probability=None,
    )


def changed(series: WeatherSeries, changes: dict[str, Change]) -> WeatherSeries:
    values = series.values.copy()
    for name, change in changes.items():
        column = series.feature_names.index(name)
        values[:, column] = change(values[:, column])
    return replace(series, values=values)


def ranges_to(series: WeatherSeries, end: str, context: int) -> dict[str, Any]:
    rows = np.flatnonzero(series.timestamps <= np.datetime64(end))
    return training_ranges(series, rows, rows, context)


@pytest.fixture(scope="module")
def series() -> WeatherSeries:
    """Eleven 12-hourly years of five regions."""
    return load_series(DataConfig(synthetic=SyntheticConfig()))


@pytest.fixture(scope="module")
def later(series: WeatherSeries) -> WeatherSeries:
    return part(series, series.timestamps > np.datetime64("2022-01-01"))


@pytest.fixture(scope="module")
def ranges(series: WeatherSeries) -> dict[str, Any]:
    return ranges_to(series, "2021-06-01", CONTEXT)


def short_windows(series: WeatherSeries, context: int, count: int) -> Iterator[WeatherSeries]:
    """Drawn tables of one full context each, every other one of a single region."""
    rng = np.random.default_rng(0)
    times = np.unique(series.timestamps)
    for number in range(count):
        start = times[rng.integers(len(times) - context)]
        rows = (series.timestamps >= start) & (series.timestamps < start + context * series.step)
        one_region = rows & (series.region_index == rng.integers(len(series.regions)))
        yield part(series, one_region if number % 2 and one_region.any() else rows)


def test_a_split_and_its_short_windows_pass(
    series: WeatherSeries, later: WeatherSeries, ranges: dict[str, Any]
) -> None:
    assert check_units(later, ranges, CONTEXT) == []
    for window in short_windows(later, CONTEXT, 100):
        check_units(window, ranges, CONTEXT)


def test_a_training_of_one_season_takes_the_others(series: WeatherSeries) -> None:
    """Three months are all that training saw, and the years after them go far beyond."""
    first = series.timestamps[0] + np.timedelta64(90, "D")
    ranges = ranges_to(series, str(first), CONTEXT)
    later = part(series, series.timestamps > first)
    notes = check_units(later, ranges, CONTEXT)
    assert any("beyond training" in note and "oni" in note for note in notes)
    for window in short_windows(later, CONTEXT, 100):
        check_units(window, ranges, CONTEXT)


def test_a_month_without_rain_is_weather(later: WeatherSeries, ranges: dict[str, Any]) -> None:
    rain = {name: np.zeros_like for name in later.feature_names if name.startswith("tp")}
    for window in short_windows(later, CONTEXT, 10):
        check_units(changed(window, rain), ranges, CONTEXT)


@pytest.mark.parametrize(
    ("name", "change", "unit"),
    [
        ("t2m", lambda x: x - 273.15, "degrees Celsius where the model reads kelvin"),
        ("sp", lambda x: x / 100, "100 times as large .*hPa for Pa"),
        ("msl", lambda x: x / 100, "100 times as large .*hPa for Pa"),
        ("tp", lambda x: x / 1000, "1000 times as large .*m for mm"),
        ("tp", lambda x: x * 1000, "1000 times as small .*mm for m"),
        ("tp_sum_24h", lambda x: x * 1000, "1000 times as small .*mm for m"),
        ("relative_humidity", lambda x: x / 100, "100 times as large .*share for percent"),
        ("msl", lambda x: x * 0.75, "deviations off"),  # mmHg
    ],
)
def test_another_unit_is_refused(
    later: WeatherSeries, ranges: dict[str, Any], name: str, change: Change, unit: str
) -> None:
    """Whole and in a short table; the message has both ranges."""
    message = rf"column {name} in region costa_norte has .* the model was trained on .*{unit}"
    with pytest.raises(InputError, match=message) as refusal:
        check_units(changed(later, {name: change}), ranges, CONTEXT)
    column = later.feature_names.index(name)
    trained = ranges["by_region"]["costa_norte"]["max"][column]
    assert f"to {trained:.5g} (mean" in str(refusal.value)
    assert ("here are mm" in str(refusal.value)) is (name == "tp")
    tables = list(short_windows(later, 4 * CONTEXT, 20))
    refused = 0
    for table in tables:
        try:
            check_units(changed(table, {name: change}), ranges, CONTEXT)
        except InputError:
            refused += 1
    assert refused == len(tables)


def test_kelvin_for_celsius_and_the_columns_beside_it(
    series: WeatherSeries, later: WeatherSeries
) -> None:
    warm: dict[str, Change] = {name: lambda x: x - 273.15 for name in ("t2m", "d2m")}
    ranges = ranges_to(changed(series, warm), "2021-06-01", CONTEXT)
    with pytest.raises(InputError, match=r"kelvin where .* same goes for d2m"):
        check_units(later, ranges, CONTEXT)


def test_one_region_in_another_unit(later: WeatherSeries, ranges: dict[str, Any]) -> None:
    """A temperature is refused, a rain of another size is a doubt."""
    selva = later.region_index == later.regions.index("selva")
    warm: dict[str, Change] = {"t2m": lambda x: np.where(selva, x - 273.15, x)}
    with pytest.raises(InputError, match=r"t2m in region selva .*Celsius"):
        check_units(changed(later, warm), ranges, CONTEXT)
    rain: dict[str, Change] = {"tp": lambda x: np.where(selva, x / 1000, x)}
    notes = check_units(changed(later, rain), ranges, CONTEXT)
    assert any(note.startswith("tp in selva may be in a unit 1000 times") for note in notes)


def test_an_unknown_region_is_held_against_all(
    later: WeatherSeries, ranges: dict[str, Any]
) -> None:
    selva = part(later, later.region_index == later.regions.index("selva"))
    elsewhere = replace(selva, regions=["elsewhere"])
    assert check_units(elsewhere, ranges, CONTEXT) == []
    with pytest.raises(InputError, match="t2m in region elsewhere"):
        check_units(changed(elsewhere, {"t2m": lambda x: x - 273.15}), ranges, CONTEXT)


def test_a_column_of_fill_values_is_refused(later: WeatherSeries, ranges: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match=r"u10 .* deviations off. Check its unit, or whether it is"
    ):
        check_units(changed(later, {"u10": lambda x: x * 0 - 9999}), ranges, CONTEXT)


def test_missing_values_and_empty_columns_are_left_out(
    series: WeatherSeries, later: WeatherSeries
) -> None:
    empty: dict[str, Change] = {"cape": lambda x: np.full_like(x, np.nan)}
    selva = series.region_index == series.regions.index("selva")
    half = {"cape": lambda x: np.where(selva, np.nan, x)}
    ranges = ranges_to(changed(series, half), "2021-06-01", CONTEXT)
    assert ranges["by_region"]["selva"]["mean"][series.feature_names.index("cape")] is None
    problem = ranges_problem(ranges, len(series.feature_names), 12.0)
    assert problem is None
    assert check_units(changed(later, empty), ranges, CONTEXT) == []
    assert check_units(later, ranges, CONTEXT) == []


def test_hours_of_the_day() -> None:
    times = np.datetime64("2020-01-01T03", "s") + np.arange(8) * np.timedelta64(6, "h")
    assert step_offsets(times, 6.0) == [3.0]
    assert step_offsets(times, 24.0) == [3.0, 9.0, 15.0, 21.0]
    assert step_offsets(times + np.timedelta64(30, "m"), 1.0) == [0.5]
    # Steps of 5 hours end at every hour of the day within five days.
    assert step_offsets(times[0] + np.arange(9) * np.timedelta64(5, "h"), 5.0) == [0.0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r.pop("days"), "has no days"),
        (lambda r: r["by_region"].clear(), "by_region is empty"),
        (lambda r: r["step_offsets_hours"].clear(), "step_offsets_hours is empty"),
        (lambda r: r["step_offsets_hours"].append(12.0), "an hour twice, or one of 12 or more"),
        (lambda r: r["issue_hours"].append(r["issue_hours"][0]), "an hour twice"),
        (lambda r: r["issue_hours"].append(-1.0), "expected a number from 0 to 24"),
        (lambda r: r.update(days=1e300), "expected a number from 0 to 4e+06"),
        (lambda r: r["by_region"].update(mars={}), "by_region.mars has no min"),
        (lambda r: r["by_region"]["selva"].pop("q01"), "selva has no q01"),
        (lambda r: r["by_region"]["selva"]["max"].pop(), "not one number for each of 27"),
        (
            lambda r: r["by_region"]["selva"]["max"].__setitem__(3, "x"),
            "expected a number from",
        ),
        (lambda r: r["by_region"]["selva"]["max"].__setitem__(3, None), "a part of"),
        (lambda r: r["by_region"]["selva"]["size"].__setitem__(3, 0.0), "a part of"),
    ],
)
def test_damaged_ranges_are_named(ranges: dict[str, Any], spoil: Any, message: str) -> None:
    damaged = copy.deepcopy(ranges)
    assert ranges_problem(damaged, 27, 12.0) is None
    spoil(damaged)
    assert message in (ranges_problem(damaged, 27, 12.0) or "")


@pytest.mark.skipif(not BEIJING.is_file(), reason="no shared data")
@pytest.mark.parametrize(
    ("start", "end", "context"),
    [
        ("2013-03-01", "2015-12-15", 168),
        ("2013-03-01", "2015-12-15", 1440),
        ("2013-11-01", "2014-02-10", 168),  # a winter alone
        ("2013-06-01", "2013-09-01", 168),  # a summer alone
    ],
)
def test_a_real_series(start: str, end: str, context: int) -> None:
    """Hourly Beijing: gauge rain, months without any, summers and winters 40 degrees apart."""
    series = read_table(DataConfig(path=str(BEIJING), max_fill_hours=72.0))
    times = series.timestamps
    ranges = ranges_to(part(series, times >= np.datetime64(start)), end, context)
    later = part(series, times > np.datetime64(end))
    check_units(later, ranges, context)
    for window in short_windows(later, context, 100):
        check_units(window, ranges, context)
    units: list[tuple[str, Change]] = [
        ("TEMP", lambda x: x + 273.15),
        ("PRES", lambda x: x * 100),
        ("precipitation", lambda x: x / 1000),
    ]
    # The driest winter tells little of a summer's rain.
    for name, change in units if start != "2013-11-01" else units[:2]:
        with pytest.raises(InputError, match=f"column {name} .*looks like"):
            check_units(changed(later, {name: change}), ranges, context)
