"""ERA5 files of every layout to series.parquet and series.json, against numpy and naive loops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, InputError
from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
from timerxl.data.readers import read_table

DAY0 = 24 * 19_700  # 2023-12-09 00 UTC: ten days reach no other year, thirty do
REGION = "regions: {here: {north: 1, south: 0.75, west: 10, east: 10.25}}"
TWO = "regions: {b: {latitude: 1, longitude: 10}, a: {latitude: 0.75, longitude: 10.25}}"
RNG = np.random.default_rng(7)
Write = Callable[..., Path]


def rain(hours: np.ndarray) -> np.ndarray:
    """Tenths of a millimetre in metres [T, 2, 2], as different at each cell and hour."""
    rng = np.random.default_rng(int(hours[0]))
    return rng.integers(0, 60, (len(hours), 2, 2)) * (rng.random((len(hours), 2, 2)) < 0.4) / 1e4


def make(tmp_path: Path, inputs: list[Path], regions: str = TWO, **options: Any) -> tuple[Any, Any]:
    (tmp_path / "regions.yaml").write_text(regions)
    settings = {"derived": ["none"], "regions": tmp_path / "regions.yaml"} | options
    content, notes = prepare_era5(inputs, PrepareOptions(tmp_path / "out", **settings))
    table = pd.read_parquet(tmp_path / "out" / "series.parquet")
    stored = json.loads((tmp_path / "out" / "series.json").read_text())
    digest = hashlib.sha256((tmp_path / "out" / "series.parquet").read_bytes()).hexdigest()
    assert stored == {"format": 1} | content | {"sha256": digest}
    assert content["rows"] == len(table)
    return table, {**content, "notes": " ".join(notes)}


def of(table: pd.DataFrame, region: str, column: str) -> np.ndarray:
    return table.loc[table["region"] == region, column].to_numpy()


def test_steps_of_twelve_hours_sum_01_to_12(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(24 * 30)
    field, warm = rain(hours), RNG.random((len(hours), 2, 2)) + 280
    path = write_era5(tmp_path / "a.nc", hours, {"tp": field, "t2m": warm})
    table, content = make(tmp_path, [path], step_hours=12)
    assert table["region"].tolist() == ["b"] * 60 + ["a"] * 60
    assert table.columns.tolist() == ["timestamp", "region", "tp", "t2m"]
    assert [str(kind) for kind in table.dtypes[2:]] == ["float64", "float32"]
    stamps = of(table, "a", "timestamp").astype("datetime64[h]").astype(int)
    assert stamps.tolist() == list(range(DAY0, DAY0 + 720, 12))
    for region, y, x in (("b", 0, 0), ("a", 1, 1)):
        tenths = np.rint(field[:, y, x] * 1e4).astype(int)
        expected = [sum(tenths[i - 11 : i + 1]) / 10 for i in range(12, 720, 12)]
        assert of(table, region, "tp")[1:].tolist() == expected
        assert np.isnan(of(table, region, "tp")[0])  # 00 UTC: its first eleven hours aren't there
        np.testing.assert_array_equal(of(table, region, "t2m"), warm[::12, y, x].astype(np.float32))
    assert content["step_hours"] == 12
    assert content["columns"]["tp"]["kind"] == "accumulated"
    assert content["precipitation"] == {
        "column": "tp", "unit": "mm", "hours_present_per_day": 24, "is_sparse": False
    }  # fmt: skip
    gap = {"column": "tp", "region": None, "steps": 1, "action": "left"}
    assert content["gaps"] == [gap | dict.fromkeys(("first", "last"), "2023-12-09T00:00:00")]


def test_years_and_files_do_not_show(tmp_path: Path, write_era5: Write) -> None:
    """Lags and sums run over the border of years and files as over any other hour."""
    hours = DAY0 + np.arange(24 * 30)
    field, warm = rain(hours), RNG.random((len(hours), 2, 2)) + 280
    data = {"tp": field, "t2m": warm}
    whole = write_era5(tmp_path / "a.nc", hours, data)
    derived = {"derived": ["tp_sum_24h", "t2m_lag_48h", "t2m_mean_6h"]}
    one, _ = make(tmp_path, [whole], **derived)
    pieces = [
        write_era5(tmp_path / f"{i}.nc", hours[rows], {n: v[rows] for n, v in data.items()})
        for i, rows in enumerate([slice(500, 720), slice(0, 300), slice(290, 505)])
    ]
    many, content = make(tmp_path, pieces, overwrite=True, **derived)
    pd.testing.assert_frame_equal(one, many)
    expected = np.convolve(np.rint(field[:, 0, 0] * 1e4), np.ones(24))[23:720] / 10
    np.testing.assert_allclose(of(many, "b", "tp_sum_24h")[23:], expected, rtol=1e-6)
    np.testing.assert_array_equal(of(many, "b", "t2m_lag_48h")[48:], of(many, "b", "t2m")[:-48])
    assert len(content["sources"]) == 3
    assert content["sources"][1]["first"] == "2023-12-09T00:00:00"


def test_the_old_layout_gives_the_same_series(tmp_path: Path, write_era5: Write) -> None:
    """Longitudes from 0 to 360, latitudes in either order, packed values, halves by expver."""
    hours = DAY0 + np.arange(24 * 6)
    field, warm = rain(hours), RNG.random((len(hours), 2, 2)) + 280
    box = "regions: {here: {north: 1, south: 0.75, west: -70.25, east: -70}}"
    west = {"longitude": np.array([-70.25, -70.0])}
    new = write_era5(tmp_path / "new.nc", hours, {"tp": field, "t2m": warm}, **west)
    expected, _ = make(tmp_path, [new], box)
    halves = {}
    for name, values in (("tp", field), ("t2m", warm)):
        both = np.full((len(hours), 2, 2, 2), np.nan)
        both[:100, 0], both[100:, 1] = values[:100, ::-1], values[100:, ::-1]
        halves[name] = both
    old = write_era5(
        tmp_path / "old.nc", hours, halves, old=True, expver_dimension=[1, 5],
        latitude=np.array([0.75, 1.0]), longitude=np.array([289.75, 290.0]),
    )  # fmt: skip
    got, content = make(tmp_path, [old], box, overwrite=True)
    assert "44 hours of tp are preliminary" in content["notes"]
    np.testing.assert_allclose(got["t2m"], expected["t2m"], atol=2e-4)
    np.testing.assert_allclose(got["tp"], expected["tp"], atol=1e-3)


def test_final_data_win_and_other_values_are_refused(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(72)
    field = rain(hours)
    late = write_era5(tmp_path / "b.nc", hours[24:], {"tp": field[24:]}, expver=["0001"] * 48)
    first = write_era5(
        tmp_path / "a.nc", hours[:48], {"tp": field[:48] + 0.001}, expver=["0005"] * 48
    )
    for order in ([late, first], [first, late]):
        table, _ = make(tmp_path, order, overwrite=True)
        expected = np.round(np.where(np.arange(72) < 24, field[:, 0, 0] + 0.001, field[:, 0, 0]) * 1000, 6)  # noqa: E501  # fmt: skip
        assert of(table, "b", "tp").tolist() == expected.tolist()
    both = write_era5(tmp_path / "c.nc", hours[:48], {"tp": field[:48] + 0.001})
    with pytest.raises(InputError, match=r"tp at 2023-12-10T00:00:00 is .* in b.nc and .* in c.nc"):
        make(tmp_path, [late, both], overwrite=True)
    twice = np.repeat(hours, 2)
    values = np.repeat(field, 2, axis=0)
    values[1::2] += 0.002  # the preliminary twin of each hour, in one file
    mixed = write_era5(tmp_path / "d.nc", twice, {"tp": values}, expver=["0001", "0005"] * 72)
    table, _ = make(tmp_path, [mixed], overwrite=True)
    assert of(table, "b", "tp").tolist() == np.round(field[:, 0, 0] * 1000, 6).tolist()


def test_offset_streams_keep_their_union(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(96)
    field, warm = rain(hours), RNG.random((96, 2, 2)) + 280
    instant = write_era5(tmp_path / "i.nc", hours[:90], {"t2m": warm[:90]})
    sums = write_era5(tmp_path / "s.nc", hours[7:], {"tp": field[7:]})
    table, content = make(tmp_path, [instant, sums])
    got = table[table["region"] == "b"]
    assert len(got) == 96
    assert np.isnan(got["tp"].iloc[:7]).all()
    assert np.isnan(got["t2m"].iloc[90:]).all()
    assert got["tp"].iloc[7:].tolist() == np.round(field[7:, 0, 0] * 1000, 6).tolist()
    gaps = [(g["column"], g["region"], g["steps"]) for g in content["gaps"]]
    assert gaps == [("tp", None, 7), ("t2m", None, 6)]


def land_layout(field: np.ndarray, hours: np.ndarray, reset: int = 0) -> np.ndarray:
    """Running totals [T, ...] of hourly sums that start again after hour ``reset``."""
    total = field.copy()
    for i in range(1, len(hours)):
        if hours[i] % 24 != reset + 1:
            total[i] += total[i - 1]
    return total


def test_era5_land_is_taken_apart(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + 1 + np.arange(24 * 8)
    field = rain(hours)
    heat = RNG.normal(size=field.shape)  # sensible heat goes both ways: no behaviour to see
    total = {"tp": land_layout(field, hours), "sshf": land_layout(heat, hours)}
    sea = np.where(np.array([[False, True], [False, False]]), np.nan, 1.0)
    grid = {"latitude": np.array([1.0, 0.9]), "longitude": np.array([10.0, 10.1])}
    path = write_era5(tmp_path / "land.nc", hours, {n: v * sea for n, v in total.items()}, **grid)
    box = "regions: {box: {north: 1, south: 0.9, west: 10, east: 10.1}}"
    table, content = make(tmp_path, [path], box)
    assert "tp adds up from 00 UTC as in ERA5-Land" in content["notes"]
    weights = np.cos(np.deg2rad([1.0, 0.9, 0.9]))
    cells = np.stack([field[:, 0, 0], field[:, 1, 0], field[:, 1, 1]], axis=1)
    np.testing.assert_allclose(table["tp"], cells @ weights / weights.sum() * 1000, atol=1e-5)
    cells = np.stack([heat[:, 0, 0], heat[:, 1, 0], heat[:, 1, 1]], axis=1)
    np.testing.assert_allclose(table["sshf"], cells @ weights / weights.sum(), atol=1e-4)
    named = {"attributes": {"title": "reanalysis-era5-land"}}
    changed = write_era5(tmp_path / "changed.nc", hours, {"tp": field}, **named)
    with pytest.raises(InputError, match="calls itself ERA5-Land, but tp falls within a day"):
        make(tmp_path, [changed], overwrite=True)
    hourly = write_era5(tmp_path / "hourly.nc", hours + 24 * 8, {"tp": field})
    point = "regions: {p: {latitude: 1, longitude: 10}}"
    with pytest.raises(InputError, match="ERA5-Land and ERA5 can't be one column"):
        make(tmp_path, [path, hourly], point, overwrite=True)
    sea_point = "regions: {p: {latitude: 1, longitude: 10.1}, q: {latitude: 1, longitude: 10}}"
    with pytest.raises(InputError, match="region p has no complete step of tp"):
        make(tmp_path, [path], sea_point, overwrite=True)


ONE = "regions: {here: {latitude: 1, longitude: 10}}"
LAND_GRID = {"latitude": np.array([1.0, 0.9]), "longitude": np.array([10.0, 10.1])}


@pytest.mark.parametrize("every", [3, 6, 24])
def test_era5_land_with_some_hours_only(tmp_path: Path, write_era5: Write, every: int) -> None:
    """Only the totals of the days (00 UTC): the grid of 0.1 degrees tells what they are."""
    hours = DAY0 + 1 + np.arange(24 * 20)
    field = rain(hours)
    kept = hours % every == 0
    total = land_layout(field, hours)[kept]
    path = write_era5(tmp_path / "land.nc", hours[kept], {"tp": total}, **LAND_GRID)
    table, content = make(tmp_path, [path], ONE)
    expected = (field[:, 0, 0] * 1000).reshape(-1, every).sum(axis=1)
    np.testing.assert_allclose(table["tp"], expected, atol=1e-4)
    assert content["step_hours"] == every
    assert ("0.1 degrees is ERA5-Land's" in content["notes"]) == (every == 24)


def test_a_dry_file_follows_the_wet_one(tmp_path: Path, write_era5: Write) -> None:
    """January tells how February's single shower adds up, on a grid that is nobody's."""
    hours = DAY0 + 1 + np.arange(24 * 20)
    field = rain(hours)
    field[240:] = 0
    field[300:303] = 0.002
    total = land_layout(field, hours)
    grid = {"latitude": np.array([1.0, 0.5]), "longitude": np.array([10.0, 10.5])}
    wet, dry = (
        write_era5(tmp_path / f"{rows.start}.nc", hours[rows], {"tp": total[rows]}, **grid)
        for rows in (slice(0, 240), slice(240, 480))
    )
    table, _ = make(tmp_path, [dry, wet], ONE)
    np.testing.assert_allclose(table["tp"], field[:, 0, 0] * 1000, atol=1e-4)
    with pytest.raises(InputError, match=r"tp may hold sums of one hour .* or running totals"):
        make(tmp_path, [dry], ONE, overwrite=True)


def test_forecasts_totals_and_counters(tmp_path: Path, write_era5: Write) -> None:
    """Totals from 06 UTC come apart; a total of the whole file is refused, not taken as hours."""
    hours = DAY0 + 7 + np.arange(24 * 20)
    field = rain(hours)
    path = write_era5(tmp_path / "a.nc", hours, {"tp": land_layout(field, hours, 6)})
    table, content = make(tmp_path, [path], ONE)
    np.testing.assert_allclose(table["tp"], field[:, 0, 0] * 1000, atol=1e-4)
    assert "tp adds up from 06 UTC: taken apart" in content["notes"]
    path = write_era5(tmp_path / "b.nc", hours, {"tp": np.cumsum(field, axis=0)})
    with pytest.raises(InputError, match=r"tp is a counter: .*Difference it first"):
        make(tmp_path, [path], ONE, overwrite=True)


@pytest.mark.parametrize("of_day", [[6, 18], [0, 6, 12, 18]])
def test_a_few_hours_a_day_are_refused(
    tmp_path: Path, write_era5: Write, of_day: list[int]
) -> None:
    hours = np.array([DAY0 + 24 * day + hour for day in range(20) for hour in of_day])
    field = rain(hours)
    path = write_era5(tmp_path / "a.nc", hours, {"tp": field, "t2m": field + 280})
    words = f"{len(of_day)} of 24 hours of tp are present; a 24-h rain label from this file would"
    with pytest.raises(InputError, match=words):
        make(tmp_path, [path])
    assert not (tmp_path / "out").exists()
    table, content = make(tmp_path, [path], allow_sparse_accumulation=True)
    assert content["step_hours"] == 24 / len(of_day)
    assert content["precipitation"]["is_sparse"] is True
    assert content["precipitation"]["hours_present_per_day"] == len(of_day)
    stamps = of(table, "b", "timestamp").astype("datetime64[h]").astype(int)
    assert stamps.tolist() == hours.tolist()
    assert of(table, "b", "tp").tolist() == np.round(field[:, 0, 0] * 1000, 6).tolist()
    series = read_table(
        DataConfig(path=str(tmp_path / "out" / "series.parquet"), precipitation_column="tp")
    )
    assert any("SPARSE rain" in note for note in series.notes)


def test_gaps_are_left_or_carried_forward(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(120)
    field, warm = rain(hours), RNG.random((120, 2, 2)) + 280
    warm[20:23, 0, 0] = np.nan
    warm[30:40, 0, 0] = np.nan
    keep = np.ones(120, dtype=bool)
    keep[60:70] = False
    path = write_era5(tmp_path / "a.nc", hours[keep], {"tp": field[keep], "t2m": warm[keep]})
    table, content = make(tmp_path, [path], max_gap_fill_hours=3, derived=["t2m_lag_24h"])
    got = of(table, "b", "t2m")
    assert len(got) == 110  # ten hours without any value are left out, not invented
    assert (got[20:23] == got[19]).all()
    assert np.isnan(got[30:40]).all()
    found = [(g["column"], g["region"], g["steps"], g["action"]) for g in content["gaps"]]
    assert ("t2m", "b", 3, "filled") in found
    assert ("t2m", "b", 10, "left") in found
    assert ("tp", None, 10, "left") in found
    lagged = of(table, "b", "t2m_lag_24h")
    assert np.isnan(lagged[60:84]).all()  # never over the gap in time
    assert lagged[84] == got[60]


def test_wrong_requests_are_refused(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(48)
    field = rain(hours)
    good = write_era5(tmp_path / "a.nc", hours, {"tp": field})
    dry = write_era5(tmp_path / "t.nc", hours, {"t2m": field + 280})
    six = write_era5(tmp_path / "six.nc", hours[::6], {"t2m": field[::6] + 280})
    inch = write_era5(tmp_path / "inch.nc", hours, {"tp": field}, units={"tp": "furlong**2"})
    odd = write_era5(tmp_path / "odd.nc", hours + 0.5, {"t2m": field + 280})
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([dry], {}, r"no file holds tp .*found: t2m"),
        ([good], {"features": ["t2m"]}, "--features lists t2m, which no file holds"),
        ([good], {"step_hours": 5}, "the step is 5 h; expected a divisor of 24"),
        ([good, six], {"step_hours": 3}, "--step-hours 3 is finer than t2m, which comes every 6 h"),
        (
            [inch],
            {},
            r"tp has the unit 'furlong\*\*2' by its attribute, which is none of precipitation",
        ),
        ([odd], {}, r"odd.nc holds the time 2023-12-09T00:30:00; expected whole hours"),
        ([tmp_path / "none.nc"], {}, "none.nc is no file"),
        ([good], {"derived": ["cape_mean_24h"]}, "needs cape"),
    ]
    for inputs, options, words in cases:
        with pytest.raises(InputError, match=words):
            make(tmp_path, inputs, **options)
        assert sorted(p.suffix for p in tmp_path.iterdir()) == [".nc"] * 5 + [".yaml"]


def test_what_was_prepared_is_read_and_guarded(tmp_path: Path, write_era5: Write) -> None:
    hours = DAY0 + np.arange(72)
    title = {"attributes": {"title": "SYNTHETIC, not observed"}}
    path = write_era5(tmp_path / "a.nc", hours, {"tp": rain(hours)}, **title)
    _, content = make(tmp_path, [path])
    table, beside = tmp_path / "out" / "series.parquet", tmp_path / "out" / "series.json"
    config = DataConfig(path=str(table), precipitation_column="tp")
    series = read_table(config)
    assert series.is_synthetic
    assert series.source["synthetic"]
    assert series.source["prepared"]["sources"] == content["sources"]
    with pytest.raises(InputError, match=r"holds series\.parquet and series\.json already"):
        make(tmp_path, [path])
    config.precipitation_unit = "m"
    with pytest.raises(InputError, match=r"tp is in mm, data.precipitation_unit says m"):
        read_table(config)
    config.precipitation_unit = "mm"
    copy = tmp_path / "out" / "other.parquet"
    pd.read_parquet(table).iloc[:100].to_parquet(copy)
    assert "prepared" not in read_table(DataConfig(str(copy), precipitation_column="tp")).source
    copy.replace(table)
    with pytest.raises(InputError, match=r"is not the file that series.json beside it describes"):
        read_table(config)
    beside.write_text("{")
    with pytest.raises(InputError, match=r"series\.json can't be read"):
        read_table(config)
    beside.unlink()
    assert not read_table(config).is_synthetic
