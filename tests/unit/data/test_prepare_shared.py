"""Genuine files of the Climate Data Store: values by hand, the sparse file, a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from timerxl.config import DataConfig, InputError, load_recipe
from timerxl.data.era5.accumulation import HOURLY, RUNNING, AccumulationEvidence, Totals
from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
from timerxl.data.readers import read_table

LAYOUT = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "era5_cds_layout"
WEEK = LAYOUT / "telangana_hourly"
ACCUM, INSTANT = (WEEK / f"data_stream-oper_stepType-{kind}.nc" for kind in ("accum", "instant"))
SUMMER = WEEK / "JJA2023_tp_data_stream-oper_stepType-accum.nc"
GERMANY = LAYOUT / "germany_6h_tp_2024_2025" / "data_stream-oper_stepType-accum.nc"
BENGALURU = LAYOUT / "bengaluru_6h"

pytestmark = pytest.mark.skipif(not LAYOUT.is_dir(), reason="the ERA5 files are not at hand")

BOXES = {"south": (16.9, 15.4, 78.1, 79.6), "north": (19.75, 18.0, 79.0, 81.25)}


def prepare(tmp_path: Path, inputs: list[Path], **options: Any) -> tuple[pd.DataFrame, Any]:
    lines = ["regions:"]
    for name, (north, south, west, east) in options.pop("boxes", BOXES).items():
        lines.append(f"  {name}: {{north: {north}, south: {south}, west: {west}, east: {east}}}")
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    output = tmp_path / options.pop("out", "out")
    content, _ = prepare_era5(
        inputs, PrepareOptions(output, regions=tmp_path / "r.yaml", **options)
    )
    return pd.read_parquet(output / "series.parquet"), content


def by_hand(path: Path, name: str, box: tuple[float, ...]) -> np.ndarray:
    """xarray's own selection and weighted mean, in double precision."""
    north, south, west, east = box
    with xr.open_dataset(path, engine="h5netcdf") as file:
        cut = file[name].sel(latitude=slice(north, south), longitude=slice(west, east))
        weights = np.cos(np.deg2rad(cut.latitude))
        mean = cut.astype("float64").weighted(weights).mean(("latitude", "longitude"))
        return np.asarray(mean.values)


def test_the_week_from_the_zip_and_from_its_files(tmp_path: Path) -> None:
    table, content = prepare(tmp_path, [WEEK / "telangana_test_data.nc"])
    again, _ = prepare(tmp_path, [INSTANT, ACCUM], out="again")
    pd.testing.assert_frame_equal(table, again[table.columns])
    assert len(table) == 2 * 168
    assert content["sources"][0]["variables"] == ["d2m", "u10", "v10", "sp", "tp"]
    assert [region["cells"] for region in content["regions"]] == [6 * 6, 8 * 10]
    for region, box in BOXES.items():
        got = table[table["region"] == region]
        np.testing.assert_allclose(got["tp"], by_hand(ACCUM, "tp", box) * 1000, atol=6e-7)
        for name in ("d2m", "u10", "v10", "sp"):
            np.testing.assert_allclose(got[name], by_hand(INSTANT, name, box), rtol=1e-6)
        u, v = by_hand(INSTANT, "u10", box), by_hand(INSTANT, "v10", box)
        np.testing.assert_allclose(got["wind_speed"], np.sqrt(u**2 + v**2), rtol=1e-5)
        degrees = np.degrees(np.arctan2(got["wind_from_sin"], got["wind_from_cos"])) % 360
        np.testing.assert_allclose(degrees, (np.degrees(np.arctan2(u, v)) + 180) % 360, atol=1e-2)
        pressure = by_hand(INSTANT, "sp", box)
        tendency = got["sp_tendency_3h"].to_numpy()
        assert np.isnan(tendency[:3]).all()
        np.testing.assert_allclose(tendency[3:], pressure[3:] - pressure[:-3], atol=0.02)
        assert got["timestamp"].iloc[0] == pd.Timestamp("2023-09-01T00")


STATISTICS = LAYOUT.parent / "cases" / "daily_stats_mean"


@pytest.mark.skipif(not STATISTICS.is_dir(), reason="the daily statistics are not at hand")
def test_a_genuine_daily_mean_ends_with_its_day(tmp_path: Path) -> None:
    """Row 2 July 00 UTC knows the mean of 1 July; 297.146 K would be that of 2 July itself."""
    options = PrepareOptions(tmp_path / "out", regions=STATISTICS / "regions.yaml")
    _, notes = prepare_era5(sorted(STATISTICS.glob("*.nc")), options)
    table = pd.read_parquet(tmp_path / "out" / "series.parquet").set_index("timestamp")
    assert table.loc["2025-07-02", "t2m"] == pytest.approx(296.741, abs=5e-4)
    with xr.open_dataset(STATISTICS / "tp_hourly.nc", engine="h5netcdf") as file:
        cut = file["tp"].sel(latitude=slice(8.4, 8.0), longitude=slice(-12.0, -11.5))
        total = cut.sel(valid_time="2025-07-02T00").astype("float64")
        mean = total.weighted(np.cos(np.deg2rad(cut.latitude))).mean()
    assert table.loc["2025-07-02", "tp"] == pytest.approx(float(mean) * 1000, abs=1e-3)
    assert any("t2m is the mean over the 24 h that begin at the file's stamp" in n for n in notes)


@pytest.mark.parametrize(("days", "every"), [(3, 1), (10, 1), (10, 3), (30, 6)])
def test_no_genuine_cell_alone_is_decided_wrongly(days: int, every: int) -> None:
    """Monsoon rain of single cells, as hourly sums and added up from 00 UTC."""
    with xr.open_dataset(SUMMER, engine="h5netcdf") as file:
        rain = file["tp"].values.reshape(file.sizes["valid_time"], -1).T.astype(np.float64)
        hours = file["valid_time"].values.astype("datetime64[h]").astype(np.int64)
    wrong, right = [], 0
    for first in range(0, len(hours) - 24 * days + 1, 24 * 15):
        cut = slice(first, first + 24 * days)
        hourly, times = rain[::20, cut], hours[cut]
        total = hourly.copy()
        for i in range(1, len(times)):
            if times[i] % 24 != 1:
                total[:, i] += total[:, i - 1]
        kept = times % every == 0
        for kind, field in ((HOURLY, hourly), (RUNNING, total)):
            for cell in field[:, kept]:
                evidence = AccumulationEvidence()
                evidence.add(cell[None], times[kept])
                found = evidence.decide(1e-5)
                right += found.kind == kind and found.totals in (None, Totals())
                if found.kind in (HOURLY, RUNNING) and found.kind != kind:
                    wrong.append((kind, found))
    assert not wrong
    assert right > 100


def test_twelve_hours_of_the_week(tmp_path: Path) -> None:
    table, _ = prepare(tmp_path, [ACCUM, INSTANT], step_hours=12, derived=["none"])
    rain = by_hand(ACCUM, "tp", BOXES["south"]) * 1000
    got = table[table["region"] == "south"]
    assert got["timestamp"].dt.hour.tolist() == [0, 12] * 7
    expected = [rain[end - 11 : end + 1].sum() for end in range(12, 168, 12)]
    np.testing.assert_allclose(got["tp"].to_numpy()[1:], expected, atol=1e-5)
    np.testing.assert_allclose(got["sp"], by_hand(INSTANT, "sp", BOXES["south"])[::12], rtol=1e-6)


def test_germany_holds_four_of_24_hours(tmp_path: Path) -> None:
    with xr.open_dataset(GERMANY, engine="h5netcdf") as file:
        hours = file["valid_time"].dt
        per_day = pd.Series(1, pd.DatetimeIndex(file["valid_time"].values)).resample("D").sum()
        assert set(np.unique(hours.hour)) == {0, 6, 12, 18}
        assert per_day.median() == 4
    boxes = {"rhine": (52.0, 50.0, 6.0, 8.0)}
    words = r"4 of 24 hours of tp are present; a 24-h rain label from this file would be wrong"
    with pytest.raises(InputError, match=words):
        prepare(tmp_path, [GERMANY], boxes=boxes)
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
    table, content = prepare(tmp_path, [GERMANY], boxes=boxes, allow_sparse_accumulation=True)
    assert content["precipitation"]["is_sparse"] is True
    assert (content["step_hours"], len(table)) == (6.0, 2840)
    expected = by_hand(GERMANY, "tp", boxes["rhine"]) * 1000
    np.testing.assert_allclose(table["tp"], expected, atol=6e-7)


def test_two_hours_a_day_make_the_wrong_label(tmp_path: Path) -> None:
    """The rain frequency of 06 and 18 UTC alone is far below that of the hourly series."""
    sampled = tmp_path / "06_18.nc"
    with xr.open_dataset(SUMMER, engine="h5netcdf") as file:
        kept = file.isel(valid_time=np.isin(file["valid_time"].dt.hour, (6, 18)))
        kept.drop_encoding().to_netcdf(sampled, engine="h5netcdf")
    with pytest.raises(InputError, match="2 of 24 hours of tp are present; a 24-h rain label"):
        prepare(tmp_path, [sampled])
    options: dict[str, Any] = {"derived": ["tp_sum_24h"]}
    sparse, content = prepare(tmp_path, [sampled], allow_sparse_accumulation=True, **options)
    assert (content["step_hours"], content["precipitation"]["hours_present_per_day"]) == (12.0, 2)
    assert set(sparse["timestamp"].dt.hour) == {6, 18}
    full, _ = prepare(tmp_path, [SUMMER], out="full", step_hours=12, **options)
    share = {
        name: float((table["tp_sum_24h"].dropna() >= 0.1).mean())
        for name, table in (("sparse", sparse), ("full", full))
    }
    assert share["sparse"] < share["full"] - 0.15, share


def test_bengaluru_is_sparse_too_in_every_sum(tmp_path: Path) -> None:
    files = [BENGALURU / f"data_stream-oper_stepType-{kind}.nc" for kind in ("accum", "instant")]
    boxes = {"city": (13.25, 12.75, 77.25, 77.75)}
    with pytest.raises(InputError, match="4 of 24 hours of tp are present"):
        prepare(tmp_path, files, boxes=boxes)
    options: dict[str, Any] = {"boxes": boxes, "allow_sparse_accumulation": True}
    table, content = prepare(tmp_path, files, **options)
    assert len(table) == 4
    assert content["columns"]["ssrd"]["kind"] == "accumulated"
    assert content["columns"]["relative_humidity"]["unit"] == "%"
    np.testing.assert_allclose(table["ssrd"], by_hand(files[0], "ssrd", boxes["city"]), rtol=1e-6)
    t, d = (by_hand(files[1], name, boxes["city"]) - 273.15 for name in ("t2m", "d2m"))
    magnus = [6.1094 * np.exp(17.625 * x / (x + 243.04)) for x in (d, t)]
    np.testing.assert_allclose(table["relative_humidity"], 100 * magnus[0] / magnus[1], rtol=1e-5)
    assert "tp_sum_72h" not in table  # four steps of one day: not one full value


def test_training_runs_on_the_summer(tmp_path: Path) -> None:
    from timerxl.training.run import train

    table, _ = prepare(tmp_path, [SUMMER])
    path = tmp_path / "out" / "series.parquet"
    series = read_table(DataConfig(path=str(path), precipitation_column="tp"))
    assert len(series.region_index) == len(table) == 2 * 2208
    assert not series.is_synthetic
    overrides = [
        f"data.path={path}", "data.precipitation_column=tp", "data.static_features=false",
        f"output_dir={tmp_path / 'run'}", "model.context_length=48", "model.hidden_size=16",
        "model.intermediate_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2",
        "train.max_steps=2", "train.batch_size=8", "eval.max_windows=40",
    ]  # fmt: skip
    config = load_recipe("hourly_cpu", overrides)
    found = train(config)
    assert found["steps"] == 2
    assert found["is_synthetic"] is False
