"""Regions that are one place: copies, near copies, copies for a time, and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.window_checks import check_regions
from timerxl.data.series import WeatherSeries

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
BEIJING = SHARED / "data" / "beijing_hourly_2013_2017.parquet"


def series_of(columns: dict[str, Any], rain: np.ndarray, regions: int = 1) -> WeatherSeries:
    """Hourly regions of equal length, their rows stacked."""
    rows = len(rain)
    hours = np.tile(np.arange(rows // regions), regions)
    return WeatherSeries(
        feature_names=list(columns),
        regions=[f"R{i}" for i in range(regions)],
        values=np.stack(list(columns.values()), axis=1).astype(np.float32),
        region_index=np.repeat(np.arange(regions), rows // regions),
        timestamps=np.datetime64("2020-01-01T00", "s") + hours * np.timedelta64(3600, "s"),
        precipitation_mm=rain.astype(np.float64),
        ready_label=None,
        true_probability=None,
        step_hours=1.0,
        precipitation_feature=None,
        is_synthetic=False,
        source={},
        notes=[],
    )


def audit_of(series: WeatherSeries) -> Audit:
    audit = Audit()
    check_regions(Subject(series, DataConfig(path="table.csv"), 24, "a test"), audit)
    return audit


def names_of(audit: Audit) -> dict[str, str]:
    return {finding.name: finding.severity for finding in audit.findings}


def showers(rows: int, seed: int = 0) -> np.ndarray:
    """Hourly rain in spells: wet about one hour in ten, multiples of 0.1 mm."""
    rng = np.random.default_rng(seed)
    state = np.zeros(rows)
    for t in range(1, rows):
        state[t] = 0.97 * state[t - 1] + 0.24 * rng.normal()
    return np.where(state > 1.2, np.round(rng.exponential(2, rows) + 0.1, 1), 0.0)


def regions_of(*parts: dict[str, np.ndarray], rain: list[np.ndarray]) -> WeatherSeries:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return series_of(columns, np.concatenate(rain), regions=len(parts))


def weather(seed: int, rows: int = 3000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    calendar = {"hour_sin": np.sin(np.arange(rows) * np.pi / 12)}
    measured = {name: np.round(rng.normal(size=rows), 1) for name in "abcde"}
    return measured | calendar


@pytest.mark.parametrize("others", [0, 1])
def test_a_copied_region_is_found_and_distinct_ones_are_not(others: int) -> None:
    one, rain = weather(0), showers(3000)
    one["a"][5:9] = np.nan  # missing in both is equal
    rest = [weather(9)] * others
    audit = audit_of(
        regions_of(one, dict(one), *rest, rain=[rain] * 2 + [showers(3000, 9)] * others)
    )
    (finding,) = audit.of("fault")
    (pair,) = finding.evidence["pairs"]
    assert pair["regions"] == ["R0", "R1"]
    assert set(pair["identical_columns"]) == {*"abcde", "the precipitation of the label"}
    apart = regions_of(one, weather(1), *rest, rain=[showers(3000, k) for k in range(2 + others)])
    assert audit_of(apart).findings == []


def test_a_nearly_copied_region_is_found() -> None:
    one, rain = weather(0), showers(3000)
    other = {name: values.copy() for name, values in one.items()}
    for name in "abcde":
        other[name][::150] += 0.1  # 99.3 % equal
    audit = audit_of(regions_of(one, other, weather(2), rain=[rain, rain, rain[::-1]]))
    (pair,) = audit.of("fault")[0].evidence["pairs"]
    assert pair["nearly_identical_columns"]["b"] == pytest.approx(1 - 1 / 150, abs=0.001)
    for name in "abcde":
        other[name][::20] += 0.1  # 95 %: somebody else's instrument
    other_rain = np.where(np.arange(3000) % 20 == 0, rain + 0.1, rain)
    audit = audit_of(regions_of(one, other, weather(2), rain=[rain, other_rain, rain[::-1]]))
    assert audit.of("fault") == []


def test_dry_places_are_not_one_place() -> None:
    dry = [np.where(np.random.default_rng(k).random(3000) < 0.004, 1.0, 0.0) for k in range(2)]
    assert (dry[0] == dry[1]).mean() > 0.99
    parts = [{name: weather(k)[name] for name in ("a", "b")} for k in range(2)]
    assert audit_of(regions_of(*parts, rain=dry)).findings == []


def test_one_common_index_is_a_note() -> None:
    one, other = weather(0), weather(1)
    other["c"] = one["c"]
    rain = [showers(3000, k) for k in range(3)]
    audit = audit_of(regions_of(one, other, weather(2), rain=rain))
    assert names_of(audit) == {"regions_share_columns": "note"}
    assert "R0 = R1 (1 of 6 columns)" in audit.findings[0].summary


def test_regions_that_are_one_for_a_time_are_dated() -> None:
    one, other, rain = weather(0), weather(1), [showers(3000, k) for k in range(2)]
    for name in "abcde":
        other[name][1500:] = one[name][1500:]
    audit = audit_of(regions_of(one, other, rain=rain))
    assert names_of(audit) == {"regions_identical_for_a_time": "warning"}
    (pair,) = audit.findings[0].evidence["pairs"]
    (stretch,) = pair["stretches"]
    assert stretch["columns"] == [*"abcde"]
    assert stretch["share_of_span"] == pytest.approx(0.5, abs=1 / 48)
    assert stretch["first"][:10] in ("2020-03-03", "2020-03-04", "2020-03-05", "2020-03-06")


@pytest.mark.skipif(not BEIJING.is_file(), reason="the Beijing table is not on this machine")
def test_stations_of_beijing() -> None:
    table = pd.read_parquet(BEIJING)
    copied = table[table["region"] == "Huairou"].assign(region="Copy")
    pollutants = ["PM2.5", "PM10", "SO2", "NO2", "CO", "O3"]
    copied[pollutants] = table.loc[table["region"] == "Shunyi", pollutants].to_numpy()
    columns = [*pollutants, "TEMP", "PRES", "DEWP", "WSPM"]
    chosen = pd.concat([table[table["region"].isin(["Huairou", "Dongsi", "Aotizhongxin"])], copied])
    regions, names = pd.factorize(chosen["region"])
    order = np.argsort(regions, kind="stable")
    chosen = chosen.iloc[order]
    series = series_of(
        {name: chosen[name].to_numpy() for name in columns},
        chosen["precipitation"].to_numpy(),
        regions=4,
    )
    audit = audit_of(series)
    position = {name: f"R{index}" for index, name in enumerate(names)}
    (copies,) = audit.of("fault")[0].evidence["pairs"]
    assert set(copies["regions"]) == {position["Huairou"], position["Copy"]}
    assert {"TEMP", "PRES", "DEWP", "WSPM"} <= set(copies["identical_columns"])
    # The table itself: two stations carry one weather from March 2015 on (by quarter, in pandas:
    # all of TEMP is equal from the second quarter of 2015, 5 % of it before 2015).
    (for_a_time,) = audit.of("warning")[0].evidence["pairs"]
    assert set(for_a_time["regions"]) == {position["Dongsi"], position["Aotizhongxin"]}
    (stretch,) = for_a_time["stretches"]
    assert stretch["share_of_span"] == pytest.approx(0.5, abs=0.03)
