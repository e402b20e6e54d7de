"""Tables at the door: order, units, holes, and every refusal with the place it names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import DataConfig, InputError
from timerxl.data.readers import load_series, read_table

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
BEIJING = SHARED / "data" / "beijing_hourly_2013_2017.parquet"


def frame(hours: int = 6, regions: tuple[str, ...] = ("north", "south")) -> pd.DataFrame:
    """Interleaved by time, as a download gives it."""
    times = pd.date_range("2020-01-01", periods=hours, freq="h")
    table = pd.DataFrame(
        [(time, region) for time in times for region in regions], columns=["timestamp", "region"]
    )
    table["temperature"] = np.arange(len(table), dtype=float)
    table["precipitation"] = np.arange(len(table)) % 4 / 10
    return table


def read(table: pd.DataFrame, path: Path, **config: Any) -> Any:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return read_table(DataConfig(path=str(path), **config))


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_interleaved_regions_become_one_after_the_other(tmp_path: Path, name: str) -> None:
    series = read(frame(), tmp_path / name)
    assert series.regions == ["north", "south"]
    assert series.region_index.tolist() == [0] * 6 + [1] * 6
    assert series.feature_names == ["temperature", "precipitation"]
    assert series.values[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert series.precipitation_mm.tolist() == [0, 0.2, 0, 0.2, 0, 0.2, 0.1, 0.3] + [0.1, 0.3] * 2
    assert series.timestamps[7] == np.datetime64("2020-01-01T01")
    assert (series.step_hours, series.precipitation_feature) == (1.0, "precipitation")
    assert series.source["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (series.source["rows"], series.source["synthetic"]) == (12, False)


def test_regions_keep_the_order_of_first_appearance(tmp_path: Path) -> None:
    series = read(frame(regions=("z", "a", "m")), tmp_path / "t.csv")
    assert series.regions == ["z", "a", "m"]


def test_a_zone_becomes_utc_and_gaps_keep_the_step(tmp_path: Path) -> None:
    table = frame(8, ("north",)).drop(index=[3, 4])
    table["timestamp"] = table["timestamp"].dt.tz_localize("America/Lima")
    for name in ("t.parquet", "t.csv"):
        series = read(table, tmp_path / name)
        assert series.timestamps[0] == np.datetime64("2020-01-01T05")
        assert series.step_hours == 1.0
        assert series.segment_first_rows().tolist() == [0, 0, 0, 3, 3, 3]


def test_metres_become_millimetres_in_label_and_feature(tmp_path: Path) -> None:
    table = frame(5, ("north",))
    metres = np.array([0.0001, 0.0, 0.0523, 1e-10, 0.0254], dtype=np.float32)
    series = read(
        table.assign(precipitation=metres), tmp_path / "t.parquet", precipitation_unit="m"
    )
    assert series.precipitation_mm.tolist() == [0.1, 0.0, 52.3, 0.0, 25.4]
    expected = np.array([0.1, 0.0, 52.3, 0.0, 25.4], dtype=np.float32)
    np.testing.assert_array_equal(series.values[:, 1], expected)


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_tenths_survive_four_bytes(
    tmp_path_factory: pytest.TempPathFactory, tenths: list[int]
) -> None:
    table = frame(len(tenths) + 1, ("north",))
    mm = np.array([0, *tenths]) / 10
    table["precipitation"] = mm.astype(np.float32)
    series = read(table, tmp_path_factory.mktemp("four") / "t.parquet")
    assert series.precipitation_mm.tolist() == mm.tolist()


def test_labels_are_no_features_and_text_is_named(tmp_path: Path) -> None:
    table = frame().assign(rain_tomorrow=1.0, target_x=0, Rain_24h=0.0, wind="N", answer=1)
    series = read(table, tmp_path / "t.parquet", label_column="answer")
    assert series.feature_names == ["temperature", "precipitation"]
    assert series.ready_label.tolist() == [1.0] * 12
    said = " ".join(series.notes)
    for name in ("rain_tomorrow", "target_x", "Rain_24h", "wind", "answer"):
        assert f"column {name} skipped" in said
        assert name in series.source["skipped_columns"]


def test_only_listed_features_in_their_order(tmp_path: Path) -> None:
    table = frame().assign(extra=1.5)
    series = read(table, tmp_path / "t.csv", features=["extra", "temperature"])
    assert series.feature_names == ["extra", "temperature"]
    assert series.precipitation_feature is None
    assert series.precipitation_mm is not None
    assert "column precipitation skipped" in " ".join(series.notes)


def test_columns_that_a_pattern_matches_are_no_features(tmp_path: Path) -> None:
    table = frame().assign(temperature_lag_24h=1.5, rain_mean=2.5)
    patterns = ["*_lag_*h", "*_mean_*h", "precip*"]
    series = read(table, tmp_path / "t.csv", exclude_features=patterns)
    assert series.feature_names == ["temperature", "rain_mean"]
    assert series.precipitation_feature is None
    assert series.precipitation_mm is not None
    said = "column temperature_lag_24h skipped: it matches data.exclude_features"
    assert said in " ".join(series.notes)
    with pytest.raises(InputError, match=r"data.exclude_features .* leave one or more"):
        read(table, tmp_path / "t.csv", exclude_features=["*"])


def test_a_ready_label_needs_no_precipitation(tmp_path: Path) -> None:
    table = frame().drop(columns="precipitation").assign(rain_24h=[0, 1, np.nan] * 4)
    series = read(table, tmp_path / "t.parquet", label_column="rain_24h")
    assert series.precipitation_mm is None
    north = [0, np.nan, 1, 0, np.nan, 1]
    np.testing.assert_array_equal(series.ready_label[:6], north)


def test_precipitation_is_filled_as_a_feature_but_never_as_a_measurement(tmp_path: Path) -> None:
    table = frame(6, ("north",))
    table.loc[2, "precipitation"] = np.nan
    table.loc[3:5, "temperature"] = np.nan
    series = read(table, tmp_path / "t.csv", max_fill_hours=2.0)
    assert series.values[:3, 1].tolist() == pytest.approx([0.0, 0.1, 0.1])
    assert np.isnan(series.precipitation_mm[2])
    assert np.isnan(series.values[3:, 0]).all()  # a hole of three hours, longer than two
    assert series.source["filled_values"] == {"temperature": 0, "precipitation": 1}
    assert series.source["missing_values_left"] == {"temperature": 3, "precipitation": 0}
    assert "1 missing values filled forward" in " ".join(series.notes)


def test_packing_noise_below_zero_is_set_to_zero_and_said(tmp_path: Path) -> None:
    table = frame(6, ("north",))
    table.loc[1, "precipitation"] = -0.002
    series = read(table, tmp_path / "t.csv")
    assert series.precipitation_mm[1] == 0
    assert series.values[1, 1] == 0
    assert "1 values of precipitation just below zero" in " ".join(series.notes)


def with_cell(column: str, value: Any, row: int = 5) -> pd.DataFrame:
    table = frame()
    if isinstance(value, str):
        table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table


def moved(rows: list[int], by: str) -> pd.DataFrame:
    table = frame()
    table.loc[rows, "timestamp"] += pd.Timedelta(by)
    return table


REFUSALS: list[tuple[pd.DataFrame, dict[str, Any], str]] = [
    (
        frame().drop(columns="timestamp"),
        {},
        r"no column is named like a time; say data.timestamp_column",
    ),
    (
        frame().drop(columns="region"),
        {},
        r"2020-01-01 00:00:00 stands in several rows.*data.region_column",
    ),
    (frame().drop(columns="precipitation"), {}, r"no column precipitation.*or data.label_column"),
    (frame(), {"label_column": "wet"}, r"no column wet; set data.label_column"),
    (
        with_cell("temperature", np.inf),
        {},
        r"temperature holds an infinite.*south, 2020-01-01T02",
    ),
    (with_cell("temperature", 1e39), {}, r"temperature holds a number beyond float32"),
    (frame().assign(temperature=np.nan), {}, r"column temperature is missing in every row"),
    (frame().assign(precipitation="wet"), {}, r"precipitation is .*, not numeric"),
    (with_cell("precipitation", -999.0), {}, r"holds -999 .*south, 2020-01-01T02.*data.missing"),
    (with_cell("precipitation", 20.0), {"precipitation_unit": "m"}, r"20,000 mm in 1 h.*unit is"),
    (moved([5], "-1h"), {}, r"region south holds 2020-01-01T01:00:00 twice"),
    (moved([5], "-3h"), {}, r"region south holds 2019-12-31T23:00:00 after a later time"),
    (moved([11], "30min"), {}, r"region south: 2020-01-01T05:30:00 comes 1.5 h after"),
    (frame(1), {}, r"no region has two rows"),
    (frame().iloc[:0], {}, r"holds no rows"),
    (
        with_cell("timestamp", "01.02.2020 06:00"),
        {},
        r"'01.02.2020 06:00' \(line 7\).*--time-format",
    ),
    (frame().assign(timestamp=range(12)), {}, r"column timestamp holds '0' .*--time-format"),
    (moved([4, 5], "200ms"), {}, r"expected whole seconds"),
    (with_cell("region", None), {}, r"column region is missing in row 5"),
    (
        frame(),
        {"features": ["temperature", "wet"]},
        r"lists wet, but the table .* has no such",
    ),
    (frame().assign(wd="N"), {"features": ["wd"]}, r"lists wd, but not numeric"),
    (frame().assign(rain_24h=1), {"features": ["rain_24h"]}, r"lists rain_24h, but its name says"),
    (
        frame().assign(y=1),
        {"features": ["y"], "label_column": "y"},
        r"lists y, but it is the label",
    ),
    (frame(), {"features": ["temperature"] * 2}, r"each once"),
    (frame(), {"features": []}, r"each once"),
    (frame().assign(y=2), {"label_column": "y"}, r"column y holds 2 \(region north.*expected 0, 1"),
    (
        frame()[["timestamp", "region"]].assign(rain_24h=1),
        {"label_column": "rain_24h"},
        r"no numeric column",
    ),
]


@pytest.mark.parametrize(("table", "config", "words"), REFUSALS, ids=[r[2][:40] for r in REFUSALS])
def test_refusals_name_the_place(
    tmp_path: Path, table: pd.DataFrame, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(table, tmp_path / "t.csv", **config)
    assert len(str(caught.value)) < 400


def test_regions_must_share_their_step(tmp_path: Path) -> None:
    table = frame(9)
    keep = (table["region"] == "north") | (table["timestamp"].dt.hour % 2 == 0)
    with pytest.raises(InputError, match=r"differ in their step \(north 1 h, south 2 h\)"):
        read(table[keep], tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.xlsx", "absent.csv"])
def test_unreadable_files(tmp_path: Path, name: str) -> None:
    if name != "absent.csv":
        (tmp_path / name).write_bytes(b"\xff\xfe\x00broken,\n1,2,3\n")
    with pytest.raises(InputError, match=name):
        read_table(DataConfig(path=str(tmp_path / name)))


def test_null_path_means_the_synthetic_series() -> None:
    series = load_series(DataConfig())
    assert series.is_synthetic
    assert len(series.feature_names) == 27


@pytest.mark.skipif(not BEIJING.is_file(), reason="the Beijing table is not at hand")
def test_beijing_loads_as_it_stands() -> None:
    series = load_series(DataConfig(path=str(BEIJING), max_fill_hours=6))
    assert (len(series.regions), len(series.region_index), series.step_hours) == (8, 280_512, 1.0)
    assert series.feature_names[-2:] == ["wd_sin", "wd_cos"]
    assert "wd is a direction" in " ".join(series.notes)
    raw = pd.read_parquet(BEIJING, columns=["region", "wd"])
    north_west = (raw.loc[raw["region"] == series.regions[0], "wd"] == "NW").to_numpy()
    root = np.sqrt(0.5)
    np.testing.assert_allclose(series.values[: len(north_west), -2][north_west], -root, rtol=1e-6)
    np.testing.assert_allclose(series.values[: len(north_west), -1][north_west], root, rtol=1e-6)
    assert series.precipitation_feature == "precipitation"
    assert int(np.isnan(series.precipitation_mm).sum()) == 279
    raw = pd.read_parquet(BEIJING)
    plain = series.feature_names[:-2]
    before = int(raw[[*plain, "wd", "wd"]].isna().to_numpy().sum())
    filled = sum(series.source["filled_values"].values())
    assert before - filled == int(np.isnan(series.values).sum())
    tenths = series.precipitation_mm[~np.isnan(series.precipitation_mm)] * 10
    assert np.abs(tenths - np.round(tenths)).max() < 1e-4
