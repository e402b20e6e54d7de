"""Tables of the user's own, normalised into the same output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.era5.prepare import PrepareOptions, prepare_tables
from timerxl.data.readers import TableOptions, read_table
from timerxl.data.synthetic import FEATURE_NAMES, synthetic_table


def table(rows: int = 120, regions: tuple[str, ...] = ("z", "a")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = []
    for name in regions:
        frame = pd.DataFrame(
            {"timestamp": pd.date_range("2020-01-01T06", periods=rows, freq="12h")}
        )
        frame["region"] = name
        frame["t2m"] = rng.normal(290, 3, rows)
        frame["precipitation"] = rng.integers(0, 80, rows) / 10
        frame["rain_24h"] = rng.integers(0, 2, rows)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def prepare(
    tmp_path: Path,
    frames: dict[str, pd.DataFrame],
    names: TableOptions | None = None,
    **options: Any,
) -> tuple[pd.DataFrame, dict[str, Any], str]:
    paths = []
    for name, frame in frames.items():
        paths.append(tmp_path / name)
        frame.to_csv(paths[-1], index=False) if name.endswith("csv") else frame.to_parquet(
            paths[-1]
        )
    settings = PrepareOptions(tmp_path / "out", **options)
    content, notes = prepare_tables(
        paths, settings, names or TableOptions(is_command=True), lambda label: None
    )
    return pd.read_parquet(tmp_path / "out" / "series.parquet"), content, " ".join(notes)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_long_table_becomes_a_series(tmp_path: Path, name: str) -> None:
    own = table()
    mixed = own.sort_values("timestamp", kind="stable").drop(index=[50, 51])
    written, content, notes = prepare(tmp_path, {name: mixed})
    assert written.columns.tolist() == ["timestamp", "region", "tp", "t2m", "rain_24h"]
    assert written["region"].tolist() == ["z"] * 118 + ["a"] * 120
    expected = own.drop(index=[50, 51])
    assert written["tp"].tolist() == expected["precipitation"].tolist()
    assert written["rain_24h"].tolist() == expected["rain_24h"].tolist()
    np.testing.assert_array_equal(written["t2m"], expected["t2m"].astype(np.float32))
    gaps = [(g["column"], g["region"], g["steps"]) for g in content["gaps"]]
    assert ("tp", "z", 2) in gaps
    assert "rain_24h is kept, and never a feature" in notes
    assert "can't tell how many of the 12 hours" in notes
    assert content["precipitation"]["hours_present_per_day"] is None
    series = read_table(
        DataConfig(path=str(tmp_path / "out" / "series.parquet"), precipitation_column="tp")
    )
    assert series.feature_names == ["tp", "t2m"]
    assert series.source["prepared"]["columns"]["t2m"]["kind"] == "table"
    assert series.precipitation_mm is not None
    assert series.precipitation_mm.tolist() == expected["precipitation"].tolist()


def test_metres_are_noticed_and_become_millimetres(tmp_path: Path) -> None:
    own = table()
    metres = own.assign(precipitation=own["precipitation"] / 1000)
    with pytest.raises(InputError, match=r"never exceeds 0\.0079.*m would be"):
        prepare(tmp_path, {"t.csv": metres})
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    written, _, _ = prepare(
        tmp_path, {"t.csv": metres}, TableOptions(precipitation_unit="m", is_command=True)
    )
    assert written["tp"].tolist() == own["precipitation"].tolist()


def test_our_synthetic_table_stays_marked(tmp_path: Path) -> None:
    frame = synthetic_table(SyntheticConfig(end="2014-03-01"))
    names = TableOptions(precipitation_unit="m", is_command=True)
    written, content, _ = prepare(tmp_path, {"t.csv": frame}, names)
    assert content["is_synthetic"] is True
    assert "true_probability" not in written
    assert set(FEATURE_NAMES) < set(written.columns)
    path = str(tmp_path / "out" / "series.parquet")
    assert read_table(DataConfig(path=path, precipitation_column="tp")).is_synthetic


def test_derived_on_demand_stops_at_gaps(tmp_path: Path) -> None:
    own = table(40, ("z",)).drop(index=[20])
    written, content, _ = prepare(tmp_path, {"t.csv": own}, derived=["tp_sum_24h", "t2m_lag_24h"])
    rain = own["precipitation"].to_numpy()
    got = written["tp_sum_24h"].to_numpy()
    np.testing.assert_allclose(got[1:20], rain[1:20] + rain[:19], rtol=1e-6)
    assert np.isnan(got[[0, 20]]).all()
    assert np.isnan(written["t2m_lag_24h"].to_numpy()[[0, 1, 20, 21]]).all()
    assert content["columns"]["tp_sum_24h"]["kind"] == "derived"


def test_regions_may_come_in_files_of_their_own(tmp_path: Path) -> None:
    frames = {"b.csv": table(regions=("b",)), "a.parquet": table(regions=("a",))}
    written, content, _ = prepare(tmp_path, frames)
    assert [region["name"] for region in content["regions"]] == ["b", "a"]
    assert written["region"].tolist() == ["b"] * 120 + ["a"] * 120
    with pytest.raises(InputError, match="region b stands in two tables at 2020-01-01T06"):
        prepare(tmp_path, {"b.csv": frames["b.csv"], "c.csv": frames["b.csv"]}, overwrite=True)
    other = table(regions=("c",)).rename(columns={"t2m": "wind"})
    with pytest.raises(InputError, match=r"c\.csv differs in step or columns"):
        prepare(tmp_path, {"b.csv": frames["b.csv"], "c.csv": other}, overwrite=True)


def test_what_only_netcdf_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--step-hours are for NetCDF"):
        prepare(tmp_path, {"t.csv": table()}, step_hours=24)
    with pytest.raises(InputError, match=r"set data\.max_fill_hours"):
        prepare(tmp_path, {"t.csv": table()}, max_gap_fill_hours=3)
    with pytest.raises(InputError, match="no column precipitation"):
        prepare(tmp_path, {"t.csv": table().drop(columns="precipitation")})


def test_rows_in_any_order_are_sorted_and_that_is_said(tmp_path: Path) -> None:
    own = table()
    expected, _, notes = prepare(tmp_path, {"t.csv": own})
    assert "sorted" not in notes
    for order in (own[::-1], own.sample(frac=1, random_state=0)):
        written, _, notes = prepare(tmp_path, {"t.csv": order}, overwrite=True)
        for region in ("z", "a"):
            rows = [
                frame[frame["region"] == region].reset_index(drop=True)
                for frame in (written, expected)
            ]
            pd.testing.assert_frame_equal(*rows)
        assert "the rows are sorted by time" in notes
    twice = pd.concat([own, own.iloc[[5]]])
    with pytest.raises(InputError, match="region z holds 2020-01-03T18:00:00 twice"):
        prepare(tmp_path, {"t.csv": twice}, overwrite=True)


def test_one_region_in_files_of_several_years(tmp_path: Path) -> None:
    own = table(regions=("z",))
    parts = {"late.csv": own.iloc[70:], "early.csv": own.iloc[:60]}
    written, content, _ = prepare(tmp_path, parts)
    assert written["tp"].tolist() == own["precipitation"].drop(range(60, 70)).tolist()
    assert [gap["steps"] for gap in content["gaps"] if gap["column"] == "tp"] == [10]


def test_an_hourly_layout_does_not_tell_the_hours_of_a_longer_step(tmp_path: Path) -> None:
    """Six-hourly rows under the column names of INMET's hourly files."""
    stamps = pd.date_range("2020-01-01T06", periods=120, freq="6h")
    days, hours = stamps.strftime("%Y/%m/%d"), stamps.strftime("%H00 UTC")
    rain = {"precipitation (mm)": table(120, ("z",))["precipitation"]}
    frame = pd.DataFrame({"Data": days, "Hora UTC": hours, **rain})
    written, _, notes = prepare(
        tmp_path, {"t.csv": frame}, TableOptions(region="z", is_command=True)
    )
    assert written["timestamp"].tolist() == stamps.tolist()
    assert "the layout of INMET is recognised" in notes
    assert "can't tell how many of the 6 hours" in notes
