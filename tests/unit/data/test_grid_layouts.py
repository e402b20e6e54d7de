"""Grids as the world writes them, against one true hourly field: all numbers here are INVENTED."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from timerxl.config import InputError
from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
from timerxl.data.tables.columns import records_problem

DAYS = 8
FIRST = np.datetime64("2021-03-01T00")
HOURS = FIRST + np.arange(24 * DAYS + 1)  # 00 UTC of the first day to 00 UTC after the last
LATITUDE, LONGITUDE = np.array([1.0, 0.75, 0.5]), np.array([10.0, 10.25])
RNG = np.random.default_rng(11)
SHAPE = (len(HOURS), 3, 2)
RAIN_MM = RNG.integers(1, 60, SHAPE) * (RNG.random(SHAPE) < 0.4) / 10
WARM = 290 + 5 * np.sin(np.arange(len(HOURS)) / 24 * 2 * np.pi)[:, None, None] + RNG.random(SHAPE)
WIND = RNG.normal(0, 4, SHAPE)
POINT = "regions: {here: {latitude: 0.75, longitude: 10.25}}"
HERE = (slice(None), 1, 1)
OLD_FILE = {"history": "2020-01-01 by grib_to_netcdf-2.16.0: data.grib"}


def dataset(
    variables: dict[str, tuple[np.ndarray, dict[str, Any]]],
    times: np.ndarray = HOURS,
    time: str = "time",
    **attributes: Any,
) -> xr.Dataset:
    """``variables`` [T, Y, X] with their attributes on the grid of this file."""
    dims = (time, "latitude", "longitude")
    coords = {
        time: times.astype("datetime64[ns]"),
        "latitude": ("latitude", LATITUDE, {"units": "degrees_north"}),
        "longitude": ("longitude", LONGITUDE, {"units": "degrees_east"}),
    }
    data = {name: (dims, values, attrs) for name, (values, attrs) in variables.items()}
    return xr.Dataset(data, coords, attributes)


def hourly(**other: tuple[np.ndarray, dict[str, Any]]) -> xr.Dataset:
    """Hourly rain as the Climate Data Store writes it."""
    rain = {"units": "m", "GRIB_stepType": "accum"}
    return dataset({"tp": (RAIN_MM / 1000, rain), **other}, time="valid_time")


def save(data: xr.Dataset, path: Path, **encoding: Any) -> Path:
    with warnings.catch_warnings():  # of stores that are not consolidated, ints without a fill
        warnings.simplefilter("ignore")
        if path.suffix == ".zarr":
            data.to_zarr(path, **encoding)
        else:
            data.to_netcdf(path, engine="h5netcdf", **encoding)
    return path


def make(
    folder: Path, inputs: list[Path], regions: str = POINT, **options: Any
) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """The series of the first region by stamp, series.json, and the notes in one string."""
    (folder / "regions.yaml").write_text(regions)
    settings = {"derived": ["none"], "overwrite": True} | options
    content, notes = prepare_era5(
        inputs, PrepareOptions(folder / "out", regions=folder / "regions.yaml", **settings)
    )
    table = pd.read_parquet(folder / "out" / "series.parquet")
    records = {n: of["record"] for n, of in content["columns"].items() if "record" in of}
    assert records_problem(records) is None
    first = table[table["region"] == table["region"].iloc[0]]
    return first.set_index("timestamp"), content, "\n".join(notes)


def refused(folder: Path, inputs: list[Path], words: str, **options: Any) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make(folder, inputs, **options)
    assert len(str(caught.value)) < 700
    assert not (folder / "out").exists()


def at(day: int, hour: int = 0) -> pd.Timestamp:
    return pd.Timestamp(FIRST) + pd.Timedelta(days=day, hours=hour)


def days_of(field: np.ndarray, shift: int = 0) -> np.ndarray:
    """[days, 24, Y, X]: hours 00 to 23 of each whole local day, local = UTC + shift."""
    start = (-shift) % 24
    count = (len(HOURS) - 1 - start) // 24
    return field[start : start + 24 * count].reshape(count, 24, *field.shape[1:])


def history(how: str, shift: int = 0, function: str = "daily_reduce") -> str:
    word = f"how={how}, " if function == "daily_reduce" else ""
    return (
        "2025-08-07T14:32 GRIB to CDM+CF via cfgrib-0.9.15.0\nearthkit.transforms.aggregate."
        f"temporal.{function}(2m_temperature_0, {word}**{{'time_shift': {{'hours': {shift}}}}})"
    )


def daily(how: str, shift: int = 0, function: str = "daily_reduce") -> xr.Dataset:
    values = getattr(np, how)(days_of(WARM, shift), axis=1)
    start = np.datetime64("2021-03-01") + (1 if (-shift) % 24 else 0) * (shift > 0)
    times = start + np.arange(len(values))
    found = dataset(
        {"t2m": (values, {"units": "K", "GRIB_stepType": "instant"})},
        times, "valid_time", history=history(how, shift, function),
    )  # fmt: skip
    found["valid_time"].attrs["time_shift"] = str(pd.Timedelta(hours=shift))
    return found


@pytest.mark.parametrize("how", ["mean", "max", "min"])
@pytest.mark.parametrize("function", ["daily_reduce", "daily_HOW"])
def test_a_daily_statistic_is_known_at_the_end_of_its_day(
    tmp_path: Path, how: str, function: str
) -> None:
    path = save(daily(how, function=function.replace("HOW", how)), tmp_path / "d.nc")
    table, content, notes = make(tmp_path, [save(hourly(), tmp_path / "h.nc"), path])
    for day in range(1, DAYS):
        own = getattr(np, how)(WARM[24 * (day - 1) : 24 * day, 1, 1])
        assert table.loc[at(day), "t2m"] == pytest.approx(own, abs=1e-4)
        assert table.loc[at(day), "tp"] == pytest.approx(RAIN_MM[24 * day - 23 : 24 * day + 1, 1, 1].sum())  # noqa: E501  # fmt: skip
    time = content["columns"]["t2m"]["record"]["time"]
    assert time["value"] == {"kind": how, "hours": 24.0, "file_stamp": "start"}
    assert time["known_by"] == "file"
    assert f"t2m is the {how} over the 24 h that begin at the file's stamp" in notes


@pytest.mark.parametrize("shift", [5, -5])
def test_days_of_local_time_end_earlier_or_later_in_utc(tmp_path: Path, shift: int) -> None:
    """Local days of UTC+5 end at 19 UTC: the series' steps do, too."""
    path, rain = save(daily("mean", shift), tmp_path / "d.nc"), save(hourly(), tmp_path / "h.nc")
    table, _, _ = make(tmp_path, [rain, path])
    ends = table["t2m"].dropna()
    assert set(ends.index.hour) == {(24 - shift) % 24}
    for stamp, value in ends.items():
        end = int((stamp - pd.Timestamp(FIRST)) / pd.Timedelta(hours=1))
        assert value == pytest.approx(WARM[end - 24 : end, 1, 1].mean(), abs=1e-4)
        assert table.loc[stamp, "tp"] == pytest.approx(RAIN_MM[end - 23 : end + 1, 1, 1].sum())
    assert len(ends) >= DAYS - 1


def test_daily_rain_is_a_sum_or_explained(tmp_path: Path) -> None:
    times = np.datetime64("2021-03-01") + np.arange(DAYS)
    total = RAIN_MM[1:].reshape(DAYS, 24, 3, 2).sum(axis=1) / 1000
    attributes = {"units": "m", "GRIB_stepType": "accum"}
    sums = dataset({"tp": (total, attributes)}, times, "valid_time", history=history("sum"))
    table, content, _ = make(tmp_path, [save(sums, tmp_path / "s.nc")])
    assert table.index[0] == at(1)
    np.testing.assert_allclose(table["tp"], total[HERE] * 1000, atol=1e-6)
    assert content["precipitation"]["hours_present_per_day"] == 24
    mean = dataset({"tp": (total / 24, attributes)}, times, "valid_time", history=history("mean"))
    path = save(mean, tmp_path / "m.nc")
    again = tmp_path / "again"
    again.mkdir()
    refused(again, [path], r"tp is a mean over time .* a 24th .*--meaning tp=mean:24h@start")
    table, _, _ = make(again, [path], meanings={"tp": "mean:24h@start"})
    np.testing.assert_allclose(table["tp"], total[HERE] * 1000, atol=1e-5)


def test_daily_values_that_nothing_explains_are_asked_for(tmp_path: Path) -> None:
    """Once a day, no attributes: an instant, or the mean of the day before or after?"""
    rain = save(hourly(), tmp_path / "h.nc")
    means = dataset({"t2m": (days_of(WARM).mean(axis=1), {"units": "K"})}, HOURS[:-1:24])
    path = save(means, tmp_path / "d.nc")
    refused(tmp_path, [rain, path], r"t2m comes once a day.*--meaning t2m=instant, mean:24h@start")
    refused(tmp_path, [rain, path], "with @start or @end", meanings={"t2m": "mean:24h"})
    expected = means["t2m"].values[HERE]
    for word, first in (("mean:24h@start", 1), ("mean:24h@end", 0), ("instant", 0)):
        table, content, _ = make(tmp_path, [rain, path], meanings={"t2m": word})
        got = table["t2m"].dropna()
        assert got.index[0] == at(first)
        np.testing.assert_allclose(got, expected[: len(got)], atol=1e-4)
        assert content["columns"]["t2m"]["record"]["time"]["known_by"] == "said"
    old = save(means.assign_attrs(OLD_FILE), tmp_path / "old.nc")
    table, _, _ = make(tmp_path, [rain, old])  # a download of 00 UTC: instants
    assert table.loc[at(0), "t2m"] == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"history": history("std")}, "t2m is a daily std"),
        ({"history": history("mean", 3)}, "tell two time shifts"),
        ({"history": history("mean").replace("0}", "night}")}, "time shift of t2m can't be read"),
    ],
)
def test_statistics_that_contradict_themselves(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    path = save(daily("mean").assign_attrs(change), tmp_path / "d.nc")
    refused(tmp_path, [save(hourly(), tmp_path / "h.nc"), path], words)


def test_a_history_of_days_on_hourly_stamps_is_refused(tmp_path: Path) -> None:
    data = hourly(t2m=(WARM, {"units": "K"})).assign_attrs(history=history("mean"))
    refused(tmp_path, [save(data, tmp_path / "d.nc")], "calls it a daily mean, but stamps are 1 h")


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("hours", [1, 3, 24])
def test_time_bounds_say_where_a_value_ends(tmp_path: Path, place: str, hours: int) -> None:
    """Means with CF's bounds: known at their end, whichever stamp the file gives them."""
    count = 24 * DAYS // hours
    values = WARM[1:].reshape(count, hours, 3, 2).mean(axis=1)
    ends = (FIRST + hours * np.arange(1, count + 1)).astype("datetime64[m]")
    starts = ends - hours * 60
    stamps = {"start": starts, "middle": starts + hours * 30, "end": ends}[place]
    data = dataset({"t2m": (values, {"units": "K", "cell_methods": "time: mean"})}, stamps)
    data["time"].attrs["bounds"] = "time_bnds"
    data["time"].encoding["units"] = "minutes since 2021-01-01"
    data["time_bnds"] = (("time", "nv"), np.stack([starts, ends], 1).astype("datetime64[ns]"))
    path = save(data, tmp_path / "m.nc")
    table, content, notes = make(
        tmp_path, [save(hourly(), tmp_path / "h.nc"), path], step_hours=hours
    )
    got = table["t2m"].dropna()
    assert got.index[0] == at(0, hours)
    np.testing.assert_allclose(got, values[HERE], atol=1e-4)
    assert content["columns"]["t2m"]["record"]["time"]["value"]["file_stamp"] == place
    assert "skipped" not in notes
    if place == "middle":  # the same without bounds: the middle is clear
        path = save(data.drop_vars("time_bnds"), tmp_path / "n.nc")
        table, _, _ = make(tmp_path, [tmp_path / "h.nc", path], step_hours=hours)
        np.testing.assert_allclose(table["t2m"].dropna(), values[HERE], atol=1e-4)
    else:
        del data["time"].attrs["bounds"]
        path = save(data.drop_vars("time_bnds"), tmp_path / "n.nc")
        again = tmp_path / "again"
        again.mkdir()
        refused(again, [tmp_path / "h.nc", path], f"nothing tells over which hours.*mean:{hours}h@start")  # noqa: E501  # fmt: skip


def test_hourly_means_at_half_past(tmp_path: Path) -> None:
    """MERRA-2's time averages: its own names, a rate of rain, stamps in the middle of the hour."""
    times = HOURS[:-1].astype("datetime64[m]") + 30
    rate = (RAIN_MM[1:] / 3600, {"units": "kg m-2 s-1"})
    data = dataset(
        {"PRECTOTCORR": rate, "T2M": (WARM[1:], {"units": "K"})},
        times, Title="MERRA-2 tavg1_2d: 2d,1-Hourly,Time-Averaged,Single-Level",
    ).rename(latitude="lat", longitude="lon")  # fmt: skip
    path = save(data, tmp_path / "merra.nc4")
    table, content, notes = make(tmp_path, [path])
    assert table.index[0] == at(0, 1)
    np.testing.assert_allclose(table["tp"], RAIN_MM[1:][HERE], atol=1e-5)
    np.testing.assert_allclose(table["t2m"], WARM[1:][HERE], atol=1e-4)
    assert content["columns"]["tp"]["record"]["name"] == "PRECTOTCORR"
    assert content["columns"]["tp"]["record"]["written_as"] == "mm"
    assert "PRECTOTCORR as tp" in notes


def by_step(bases: list[int], steps: int, running: bool) -> tuple[xr.Dataset, np.ndarray]:
    """cfgrib's layout: base times a day at ``bases`` and steps of 1 to ``steps`` hours."""
    starts = np.array([24 * day + base for day in range(DAYS) for base in bases])
    starts = starts[starts + steps < len(HOURS)]
    index = starts[:, None] + np.arange(1, steps + 1)
    rain = RAIN_MM[index] / 1000
    rain = np.cumsum(rain, axis=1) if running else rain
    dims = ("time", "step", "latitude", "longitude")
    accum, instant = (
        {"units": u, "GRIB_stepType": k} for u, k in (("m", "accum"), ("K", "instant"))
    )
    data = xr.Dataset(
        {"tp": (dims, rain, accum), "t2m": (dims, WARM[index], instant)},
        {
            "time": HOURS[starts].astype("datetime64[ns]"),
            "step": ("step", np.arange(1, steps + 1), {"units": "hours"}),
            "valid_time": (("time", "step"), HOURS[index].astype("datetime64[ns]")),
            "latitude": LATITUDE, "longitude": LONGITUDE, "number": 0, "surface": 0.0,
        },
    )  # fmt: skip
    return data, index.ravel()


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(("bases", "steps"), [([0], 24), ([6, 18], 12), ([0, 12], 12)])
@pytest.mark.parametrize("kept", ["valid_time", "time and step"])
def test_forecasts_by_base_time_and_step(
    tmp_path: Path, bases: list[int], steps: int, running: bool, kept: str
) -> None:
    data, index = by_step(bases, steps, running)
    if kept == "time and step":
        data = data.drop_vars("valid_time")
    table, _, notes = make(tmp_path, [save(data, tmp_path / "f.nc")])
    assert table.index[0] == pd.Timestamp(HOURS[index[0]])
    np.testing.assert_allclose(table["tp"], RAIN_MM[index][HERE], atol=1e-4)
    np.testing.assert_allclose(table["t2m"], WARM[index][HERE], atol=1e-4)
    assert ("taken apart" in notes) == running


def test_forecasts_that_overlap_are_refused(tmp_path: Path) -> None:
    data, _ = by_step([0, 12], 24, True)
    refused(tmp_path, [save(data, tmp_path / "f.nc")], r"2021-03-01T13.* 2 base times")


def arco(**rain: tuple[np.ndarray, dict[str, Any]]) -> xr.Dataset:
    return dataset(
        {
            "2m_temperature": (WARM, {"units": "K"}),
            "10m_u_component_of_wind": (WIND, {"units": "m s**-1"}),
            "10m_v_component_of_wind": (WIND[::-1], {"units": "m s**-1"}),
            **rain,
        }
    )


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr_stores_and_long_names(tmp_path: Path, version: int, consolidated: bool) -> None:
    data = arco(total_precipitation=(RAIN_MM / 1000, {"units": "m"}))
    settings = {"zarr_format": version, "consolidated": consolidated}
    settings["encoding"] = {name: {"chunks": (50, 2, 1)} for name in data.data_vars}
    path = save(data, tmp_path / "arco.zarr", **settings)
    before = sorted(tmp_path.rglob("*"))
    table, content, _ = make(tmp_path, [path], derived=["wind"])
    assert sorted(p for p in tmp_path.rglob("*") if "arco.zarr" in p.parts) == [
        p for p in before if "arco.zarr" in p.parts
    ]
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    np.testing.assert_allclose(table["t2m"], WARM[HERE], rtol=1e-6)
    u, v = WIND[HERE], WIND[::-1][HERE]
    np.testing.assert_allclose(table["wind_speed"], np.hypot(u, v), rtol=1e-5)
    assert content["columns"]["u10"]["record"]["name"] == "10m_u_component_of_wind"
    (source,) = content["sources"]
    assert source["path"] == "arco.zarr"
    assert source["bytes"] == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    netcdf = save(data, tmp_path / "same.nc")
    other, _, _ = make(tmp_path, [netcdf], derived=["wind"])
    pd.testing.assert_frame_equal(table[other.columns], other)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    refused(tmp_path, [tmp_path / "some"], "some is a folder, and no Zarr store")


def past(hours: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """(sums over the past ``hours`` at every so many hours, their places)."""
    ends = np.arange(0, len(HOURS), every)
    total = [RAIN_MM[max(end - hours + 1, 0) : end + 1].sum(axis=0) for end in ends]
    return np.array(total) / 1000, ends


def test_sums_over_the_past_six_hours(tmp_path: Path) -> None:
    """WeatherBench 2: the window that fills the distance of the stamps is taken, in words."""
    six, ends = past(6, 6)
    day, _ = past(24, 6)
    data = arco().isel(time=ends)
    rain = {"units": "m"}
    for name, values in (("total_precipitation_24hr", day), ("total_precipitation_6hr", six)):
        data[name] = (("time", "latitude", "longitude"), values, rain)
    table, content, notes = make(tmp_path, [save(data, tmp_path / "wb.zarr")])
    assert content["step_hours"] == 6
    np.testing.assert_allclose(table["tp"].iloc[1:], six[1:][HERE] * 1000, atol=1e-5)
    np.testing.assert_allclose(table["tp"].iloc[1:].sum(), RAIN_MM[1:][HERE].sum(), atol=1e-4)
    assert "total_precipitation_24hr (rain is read from total_precipitation_6hr)" in notes
    alone = data.drop_vars("total_precipitation_6hr")
    table, content, notes = make(tmp_path, [save(alone, tmp_path / "day.nc")])
    assert content["step_hours"] == 24
    assert "tp is over 24 h and comes every 6 h" in notes
    np.testing.assert_allclose(table["tp"].iloc[1:].sum(), RAIN_MM[1:][HERE].sum(), atol=1e-4)


def test_an_hourly_series_of_six_hour_sums_is_not_summed_again(tmp_path: Path) -> None:
    six, _ = past(6, 1)
    data = dataset({"total_precipitation_6hr": (six, {"units": "m"})})
    table, content, _ = make(tmp_path, [save(data, tmp_path / "a.nc")])
    assert content["step_hours"] == 6
    np.testing.assert_allclose(table["tp"].iloc[1:].sum(), RAIN_MM[1:][HERE].sum(), atol=1e-4)


def write_grib(path: Path, running: bool) -> None:
    """GRIB messages of an analysis (t2m) and of forecasts from 00 UTC (tp), through eccodes."""
    import eccodes

    with path.open("wb") as file:
        for hour in range(1, len(HOURS)):
            day, step = (hour - 1) // 24, (hour - 1) % 24 + 1
            first = day * 24 + 1 if running else hour
            total = RAIN_MM[first : hour + 1].sum(axis=0) / 1000
            for name, values in (("2t", WARM[hour]), ("tp", total)):
                message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1")
                stamp = pd.Timestamp(HOURS[hour] if name == "2t" else HOURS[day * 24])
                keys: dict[str, Any] = {
                    "Ni": 2, "Nj": 3, "latitudeOfFirstGridPointInDegrees": 1.0,
                    "latitudeOfLastGridPointInDegrees": 0.5,
                    "longitudeOfFirstGridPointInDegrees": 10.0,
                    "longitudeOfLastGridPointInDegrees": 10.25,
                    "iDirectionIncrementInDegrees": 0.25, "jDirectionIncrementInDegrees": 0.25,
                    "dataDate": int(stamp.strftime("%Y%m%d")), "dataTime": stamp.hour * 100,
                    "bitsPerValue": 24,
                }  # fmt: skip
                for key, value in keys.items():
                    eccodes.codes_set(message, key, value)
                eccodes.codes_set(message, "shortName", name)
                if name == "tp":
                    eccodes.codes_set(message, "stepType", "accum")
                    start = 0 if running else step - 1
                    eccodes.codes_set(message, "stepRange", f"{start}-{step}")
                eccodes.codes_set_values(message, values.ravel())
                eccodes.codes_write(message, file)
                eccodes.codes_release(message)


@pytest.mark.parametrize("running", [True, False])
def test_grib_through_cfgrib(tmp_path: Path, running: bool) -> None:
    pytest.importorskip("cfgrib")
    folder = tmp_path / "in"
    folder.mkdir()
    write_grib(folder / "era5.grib", running)
    table, content, notes = make(tmp_path, [folder / "era5.grib"])
    np.testing.assert_allclose(table["tp"], RAIN_MM[1:][HERE], atol=1e-4)
    np.testing.assert_allclose(table["t2m"], WARM[1:][HERE], atol=1e-4)
    assert ("taken apart" in notes) == running
    assert [p.name for p in folder.iterdir()] == ["era5.grib"]  # no index beside it
    assert content["sources"][0]["variables"] in (["t2m", "tp"], ["tp", "t2m"])


def test_grib_without_cfgrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.grib").write_bytes(b"GRIB\0\0\0\2")
    monkeypatch.setitem(sys.modules, "cfgrib", None)
    refused(tmp_path, [tmp_path / "a.grib"], r"pip install timerxl\[grib\]")


def with_places(data: xr.Dataset, kind: str) -> xr.Dataset:
    """The cell of ``HERE`` as a point without axes, or all six cells as stations."""
    if kind == "scalar":
        return data.isel(latitude=1, longitude=1)
    if kind == "one row":
        return data.isel(latitude=[1])
    if kind == "one longitude":
        return data.isel(longitude=1)
    stations = data.stack(station=("latitude", "longitude"))
    latitude, longitude = stations["latitude"].values, stations["longitude"].values
    stations = stations.drop_vars(["station", "latitude", "longitude"])
    place = {"lat": ("station", latitude), "lon": ("station", longitude)}
    stations = stations.assign_coords(place)
    order = ("station", "valid_time") if kind == "stations first" else ("valid_time", "station")
    return stations.transpose(*order)


@pytest.mark.parametrize(
    "kind", ["scalar", "one row", "one longitude", "stations", "stations first"]
)
@pytest.mark.parametrize("name", ["p.nc", "p.zarr"])
def test_points_and_stations(tmp_path: Path, kind: str, name: str) -> None:
    data = with_places(hourly(t2m=(WARM, {"units": "K", "GRIB_stepType": "instant"})), kind)
    table, content, _ = make(tmp_path, [save(data, tmp_path / name)], meanings={"tp": "hourly"})
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    np.testing.assert_allclose(table["t2m"], WARM[HERE], atol=1e-4)
    assert content["regions"][0]["cells"] == 1
    if "stations" in kind:
        box = "regions: {all: {north: 0.8, south: 0.4, west: -350, east: 10.3}}"
        table, content, _ = make(tmp_path, [tmp_path / name], box)
        assert content["regions"][0]["cells"] == 4
        np.testing.assert_allclose(table["tp"], RAIN_MM[:, 1:].mean(axis=(1, 2)), atol=1e-5)
        far = "regions: {far: {latitude: 5, longitude: 10}}"
        with pytest.raises(InputError, match=r"region far holds no point .* lie at .*1 10"):
            make(tmp_path, [tmp_path / name], far)


def test_a_meridian_that_stands_twice_counts_once(tmp_path: Path) -> None:
    around = np.arange(0.0, 361.0, 60.0)
    field = RNG.random((len(HOURS), 2, 7)) * 0.01
    field[..., -1] = field[..., 0]
    attrs = {"units": "m", "GRIB_stepType": "accum"}
    data = xr.Dataset(
        {"tp": (("time", "lat", "lon"), field, attrs)},
        {"time": HOURS.astype("datetime64[ns]"), "lat": [0.0, 60.0], "lon": around},
    )
    world = "regions: {belt: {north: 0, south: 0, west: -180, east: 180}}"
    table, content, _ = make(tmp_path, [save(data, tmp_path / "w.nc")], world)
    assert content["regions"][0]["cells"] == 6
    expected = field[:, 0, :6].mean(axis=1) * 1000
    np.testing.assert_allclose(table["tp"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "packing", ["int16", "int16 without fill", "uint8 unsigned", "float16-like"]
)
def test_packed_values(tmp_path: Path, packing: str) -> None:
    data = hourly(t2m=(WARM, {"units": "K", "GRIB_stepType": "instant"}))
    if packing == "float16-like":
        data["t2m"] = data["t2m"].astype(np.float32).copy(data=WARM.astype(np.float16))
        encoding, width = {}, 0.25
    elif packing == "uint8 unsigned":
        encoding = {"dtype": "uint8", "scale_factor": 0.1, "add_offset": 280.0, "_FillValue": 255}
        width = 0.1
    else:
        encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 290.0}
        encoding["_FillValue"] = -32767 if packing == "int16" else None
        width = 0.001
    holes = np.zeros(SHAPE, dtype=bool)
    if packing == "int16":
        holes[5:9, 1, 1] = True
        data["t2m"] = data["t2m"].where(~holes)
    path = save(data, tmp_path / "p.nc", encoding={"t2m": encoding})
    table, _, _ = make(tmp_path, [path])
    expected = np.where(holes, np.nan, WARM)[HERE]
    np.testing.assert_allclose(table["t2m"], expected, atol=width)
    assert np.isnan(table["t2m"]).sum() == holes.sum()


def test_a_fill_value_that_no_attribute_names(tmp_path: Path) -> None:
    """-32767 of a packed file is 257.2 K once unpacked: within the limits of weather."""
    data = hourly(t2m=(WARM, {"units": "K", "GRIB_stepType": "instant"}))
    packed = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 290.0, "_FillValue": None}
    data["t2m"][5:9, 1, 1] = -32767 * 0.001 + 290
    path = save(data, tmp_path / "p.nc", encoding={"t2m": packed})
    refused(tmp_path, [path], r"t2m holds 257\.233 \(4 values.*--missing 257\.233")
    table, content, _ = make(tmp_path, [path], missing=["257.233"])
    assert np.isnan(table["t2m"].iloc[5:9]).all()
    assert table["t2m"].notna().sum() == len(HOURS) - 4
    (missing,) = content["columns"]["t2m"]["record"]["missing"]
    assert (missing["count"], missing["known_by"]) == (4, "said")


@pytest.mark.parametrize("layout", ["old", "ascending", "zarr", "names by attributes"])
def test_files_of_different_layout_are_one_series(tmp_path: Path, layout: str) -> None:
    instant = {"units": "K", "GRIB_stepType": "instant"}
    whole = hourly(t2m=(WARM, instant))
    first = save(whole.isel(valid_time=slice(0, 100)), tmp_path / "new.nc")
    rest = whole.isel(valid_time=slice(100, None))
    path = tmp_path / "rest.nc"
    if layout == "old":
        rest = rest.rename(valid_time="time").assign_coords(longitude=LONGITUDE + 360)
    elif layout == "ascending":
        rest = rest.isel(latitude=slice(None, None, -1)).transpose(..., "valid_time")
    elif layout == "zarr":
        path = tmp_path / "rest.zarr"
    else:
        rest = rest.rename(valid_time="t", latitude="ygc", longitude="xgc")
        rest["t"].attrs["standard_name"] = "time"
    table, content, _ = make(tmp_path, [save(rest, path), first])
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    np.testing.assert_allclose(table["t2m"], WARM[HERE], rtol=1e-6)
    assert len(content["sources"]) == 2


def test_grids_and_calendars_that_are_none_of_ours(tmp_path: Path) -> None:
    data = hourly()
    curved = data.rename(latitude="y", longitude="x").drop_vars(["x", "y"])
    places = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    names = dict(zip(("lat", "lon"), places, strict=True))
    curved = curved.assign_coords({n: (("y", "x"), v) for n, v in names.items()})
    refused(tmp_path, [save(curved, tmp_path / "c.nc")], "a projected or curved grid.*regrid it")
    projected = data.rename(latitude="y", longitude="x")
    for axis in "xy":
        attrs = {"units": "m", "standard_name": f"projection_{axis}_coordinate"}
        projected[axis] = (axis, np.arange(projected.sizes[axis]) * 1000.0, attrs)
    refused(tmp_path, [save(projected, tmp_path / "p.nc")], "the axes .* of a projected grid")
    bare = data.isel(latitude=0, longitude=0).drop_vars(["latitude", "longitude"])
    refused(tmp_path, [save(bare, tmp_path / "b.nc")], "has no latitude axis.* as coordinates")
    numbers = data.rename(valid_time="time")
    for calendar in ("noleap", "360_day"):
        attrs = {"units": "hours since 2021-01-01", "calendar": calendar}
        numbers["time"] = ("time", np.arange(len(HOURS)), attrs)
        path = save(numbers, tmp_path / f"{calendar}.nc")
        refused(tmp_path, [path], f"counts time in the calendar {calendar}")
    drifting = data.isel(latitude=0, longitude=0).assign_coords(
        latitude=("valid_time", np.linspace(0, 1, len(HOURS))),
        longitude=("valid_time", np.linspace(0, 1, len(HOURS))),
    )
    refused(tmp_path, [save(drifting, tmp_path / "d.nc")], "its place changes with time")


@pytest.mark.parametrize(
    ("unit", "per_mm"),
    [
        ("m", 1e-3), ("mm", 1.0), ("cm", 0.1), ("in", 1 / 25.4), ("kg m-2", 1.0), ("kg m**-2", 1.0),
        ("mm/h", 1.0), ("kg m-2 s-1", 1 / 3600), ("m s-1", 1e-3 / 3600), ("mm/day", 24.0),
        ("m of water equivalent", 1e-3),
    ],
)  # fmt: skip
def test_rain_in_any_unit(tmp_path: Path, unit: str, per_mm: float) -> None:
    rain = {"units": unit, "GRIB_stepType": "accum"}
    data = dataset({"tp": (RAIN_MM * per_mm, rain)}, time="valid_time")
    table, content, _ = make(tmp_path, [save(data, tmp_path / "r.nc")])
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    assert content["columns"]["tp"]["record"]["unit"]["value"] == unit
    assert content["columns"]["tp"]["unit"] == "mm"


def test_inputs_of_derived_features_come_in_era5s_units(tmp_path: Path) -> None:
    dew = WARM - 3
    celsius, kelvin = (
        hourly(
            t2m=(WARM - zero, {"units": unit}), d2m=(dew - zero, {"units": unit}),
            msl=(WARM * 340 / factor, {"units": pressure}), u10=(WIND * speed, {"units": wind}),
            v10=(WIND * speed, {"units": wind}),
        )
        for zero, unit, factor, pressure, speed, wind in (
            (273.15, "degC", 100, "hPa", 3.6, "km/h"), (0, "K", 1, "Pa", 1, "m s**-1"),
        )
    )  # fmt: skip
    expected, _, _ = make(tmp_path, [save(kelvin, tmp_path / "k.nc")], derived=["default"])
    table, content, _ = make(tmp_path, [save(celsius, tmp_path / "c.nc")], derived=["default"])
    pd.testing.assert_frame_equal(table, expected, rtol=1e-5)
    assert (content["columns"]["t2m"]["unit"], content["columns"]["msl"]["unit"]) == ("K", "Pa")
    record = content["columns"]["t2m"]["record"]
    assert (record["unit"]["value"], record["written_as"]) == ("degC", "K")
    # Two files of one column in two units.
    halves = [
        save(one.isel(valid_time=rows), tmp_path / f"{i}.nc")
        for i, (one, rows) in enumerate([(celsius, slice(0, 90)), (kelvin, slice(90, None))])
    ]
    table, _, _ = make(tmp_path, halves, derived=["default"])
    pd.testing.assert_frame_equal(table, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "values", "unit", "words"),
    [
        (
            "t2m",
            WARM - 273.15,
            "K",
            r"t2m in K by its attribute holds .* may be degC.*--unit t2m",
        ),
        ("t2m", WARM, "degC", r"t2m in degC .* may be K"),
        ("t2m", WARM, "hPa", "unit 'hPa' by its attribute, which is none of temperature"),
        ("sp", WARM * 3.4, "Pa", r"sp in Pa .* may be hPa"),
        ("sp", WARM * 340, "hPa", r"sp in hPa .* may be Pa"),
        ("tp", RAIN_MM * 5, "m", r"tp in m by its attribute holds 0 to 29\.5"),
        ("tp", RAIN_MM / 2, "m", r"would be 2,950 mm in 1 h, more than ever fell"),
        ("tp", RAIN_MM / 1000, "mm", r"never exceeds 0\.0059 mm .* in m it would be 5\.9 mm"),
        ("tp", RAIN_MM, "", "nothing tells the unit of tp; say --unit tp="),
    ],
)
def test_units_that_the_values_contradict(
    tmp_path: Path, name: str, values: np.ndarray, unit: str, words: str
) -> None:
    data = hourly()
    rain = name == "tp"
    attrs = {"units": unit} if unit else {}
    data[name] = (data["tp"].dims, values, attrs)
    if rain:  # as people write it themselves, without GRIB's attributes
        data = data.rename(valid_time="time")
    refused(tmp_path, [save(data, tmp_path / "a.nc")], words)


def test_the_user_says_the_unit(tmp_path: Path) -> None:
    data = hourly(t2m=(WARM - 273.15, {"units": "K"}))
    data["tp"].attrs["units"] = "mm"
    del data["tp"].attrs["GRIB_stepType"]
    path = save(data, tmp_path / "a.nc")
    refused(tmp_path, [path], "--unit names t2, which is not read", units={"t2": "K", "tp": "m", "t2m": "degC"})  # noqa: E501  # fmt: skip
    table, content, _ = make(tmp_path, [path], units={"t2m": "degC", "tp": "m"})
    np.testing.assert_allclose(table["t2m"], WARM[HERE], atol=1e-3)
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    assert content["columns"]["t2m"]["record"]["unit"]["known_by"] == "said"


@pytest.mark.parametrize("code", [-9999.0, 32767.0, 9.969209968386869e36, 1e20, -999.0])
@pytest.mark.parametrize("name", ["t2m", "tp", "swvl1"])
def test_codes_for_missing_in_cells(tmp_path: Path, code: float, name: str) -> None:
    """Found before the area mean, which would make weather of them."""
    soil = 0.3 + 0.1 * RNG.random(SHAPE)
    data = hourly(t2m=(WARM, {"units": "K"}), swvl1=(soil, {"units": "m**3 m**-3"}))
    clean, _, _ = make(tmp_path, [save(data, tmp_path / "clean.nc")])
    spoilt = data.copy(deep=True)
    spoilt[name][10:30, 2, 0] = code
    path = save(spoilt, tmp_path / "a.nc")
    box = "regions: {box: {north: 1, south: 0.5, west: 10, east: 10.25}}"
    shown = f"{code:.7g}".replace("+", r"\+")
    words = rf"a\.nc: {name} holds {shown} \(20 values, 1\.73%.*--missing {shown}"
    with pytest.raises(InputError, match=words):
        make(tmp_path, [path], box)
    table, content, _ = make(tmp_path, [path], box, missing=[f"{code:.7g}"])
    holes = data.copy(deep=True)
    holes[name][10:30, 2, 0] = np.nan
    expected, _, _ = make(tmp_path, [save(holes, tmp_path / "holes.nc")], box)
    pd.testing.assert_frame_equal(table, expected)
    assert content["columns"][name]["record"]["missing"][0]["count"] == 20
    point, _, _ = make(tmp_path, [path], missing=[f"{code:.7g}"])
    pd.testing.assert_frame_equal(point, clean)  # the cell of the point holds no code


def test_running_totals_by_the_users_word(tmp_path: Path) -> None:
    """One wet day tells too little on a grid that is nobody's: it's asked for, then taken."""
    rain = np.zeros(SHAPE)
    rain[30:33] = 2.0
    total = rain.copy()
    for i in range(1, len(HOURS)):
        if i % 24 != 1:
            total[i] += total[i - 1]
    data = dataset({"tp": (total / 1000, {"units": "m"})}).isel(time=slice(1, None))
    data = data.assign_coords(latitude=LATITUDE * 2)
    path = save(data, tmp_path / "a.nc")
    region = "regions: {here: {latitude: 1.5, longitude: 10.25}}"
    with pytest.raises(InputError, match=r"Say --meaning tp=hourly or --meaning tp=running"):
        make(tmp_path, [path], region)
    for word, expected in (("running", rain), ("hourly", total)):
        table, content, _ = make(tmp_path, [path], region, meanings={"tp": word})
        np.testing.assert_allclose(table["tp"], expected[1:][HERE], atol=1e-5)
        assert content["columns"]["tp"]["record"]["time"]["known_by"] == "said"
    hourly_rain = save(hourly(), tmp_path / "h.nc")
    with pytest.raises(InputError, match="says running totals, but its values don't behave"):
        make(tmp_path, [hourly_rain], meanings={"tp": "running"})
    with pytest.raises(InputError, match="--meaning tp=weekly: expected instant, hourly"):
        make(tmp_path, [hourly_rain], meanings={"tp": "weekly"})


def sunshine(longitude: float) -> np.ndarray:
    """Hourly J/m2 [T, Y, X] of a clear day at the equator, with clouds that change by the day."""
    hour = np.arange(len(HOURS)) - 0.5 + longitude / 15
    sun = np.maximum(np.cos((hour % 24 - 12) / 24 * 2 * np.pi), 0) * 4e6
    clouds = np.repeat(np.random.default_rng(2).uniform(0.3, 1, DAYS + 1), 24)[: len(HOURS)]
    return (sun * clouds)[:, None, None] * np.ones(SHAPE)


@pytest.mark.parametrize("longitude", [30, 120, 210, 300])
@pytest.mark.parametrize("every", [1, 3, 6])
@pytest.mark.parametrize("land", [True, False])
def test_sunshine_a_few_times_a_day_follows_the_rain(
    tmp_path: Path, longitude: int, every: int, land: bool
) -> None:
    """Six-hourly sunshine rises to noon and falls to zero as a total does; rain does not."""
    fields = {"tp": RAIN_MM / 1000, "ssrd": sunshine(longitude)}
    units = {"tp": "m", "ssrd": "J m**-2"}
    data = {}
    for name, field in fields.items():
        field = field.copy()
        for i in range(1, len(HOURS)):
            if land and i % 24 != 1:
                field[i] += field[i - 1]
        data[name] = (field, {"units": units[name], "GRIB_stepType": "accum"})
    whole = dataset(data, time="valid_time").isel(valid_time=slice(every, None, every))
    path = save(whole, tmp_path / "a.nc")
    table, content, _ = make(tmp_path, [path], allow_sparse_accumulation=True)
    for name, field in fields.items():
        wanted = (
            field[1:][HERE].reshape(-1, every).sum(axis=1) if land else field[every::every][HERE]
        )
        scale = 1000 if name == "tp" else 1
        np.testing.assert_allclose(table[name], wanted * scale, rtol=1e-4, atol=1 if scale == 1 else 1e-4)  # noqa: E501  # fmt: skip
    assert content["precipitation"]["is_sparse"] == (not land and every > 1)


@pytest.mark.parametrize("hours", [3, 6])
def test_a_sum_over_the_step_is_said(tmp_path: Path, hours: int) -> None:
    """ERA5's ensemble: one value of tp is over the 3 hours that end at its stamp."""
    total, ends = past(hours, hours)
    accum = {"units": "m", "GRIB_stepType": "accum"}
    data = dataset({"tp": (total, accum)}, HOURS[ends], "valid_time").isel(
        valid_time=slice(1, None)
    )
    path = save(data, tmp_path / "a.nc")
    refused(tmp_path, [path], rf"{24 // hours} of 24 hours of tp.*--meaning tp=sum:{hours}h@end")
    table, content, _ = make(tmp_path, [path], meanings={"tp": f"sum:{hours}h@end"})
    np.testing.assert_allclose(table["tp"], total[1:][HERE] * 1000, atol=1e-5)
    assert content["precipitation"] == {
        "column": "tp", "unit": "mm", "hours_present_per_day": 24, "is_sparse": False
    }  # fmt: skip


def test_bounds_from_the_first_hour_of_a_day_to_its_last(tmp_path: Path) -> None:
    """CDO's daymean of hourly values: bounds from 00 to 23 UTC, the stamp between them."""
    starts = HOURS[:-1:24].astype("datetime64[m]")
    ends = starts + 23 * 60
    values = days_of(WARM).mean(axis=1)
    attrs = {"units": "K", "cell_methods": "time: mean", "GRIB_stepType": "instant"}
    data = dataset({"t2m": (values, attrs)}, starts + 23 * 30)
    data["time"].attrs["bounds"] = "time_bnds"
    data["time"].encoding["units"] = "minutes since 2021-01-01"
    data["time_bnds"] = (("time", "bnds"), np.stack([starts, ends], 1).astype("datetime64[ns]"))
    table, _, _ = make(tmp_path, [save(hourly(), tmp_path / "h.nc"), save(data, tmp_path / "d.nc")])
    np.testing.assert_allclose(table["t2m"], values[HERE], atol=1e-4)
    assert table.index[0] == at(1)


def test_a_daily_rate_that_nothing_explains_is_asked_for(tmp_path: Path) -> None:
    """Gauge and satellite products: mm/day at 00 UTC of the day, rarely with bounds."""
    total = RAIN_MM[1:].reshape(DAYS, 24, 3, 2).sum(axis=1)
    data = dataset({"precip": (total, {"units": "mm/day"})}, HOURS[:-1:24])
    path = save(data, tmp_path / "p.nc")
    refused(tmp_path, [path], r"tp comes once a day.*--meaning tp=sum:24h@start")
    table, _, _ = make(tmp_path, [path], meanings={"tp": "mean:24h@start"})
    np.testing.assert_allclose(table["tp"], total[HERE], atol=1e-5)
    assert table.index[0] == at(1)


def test_a_zip_of_grib(tmp_path: Path) -> None:
    import zipfile

    pytest.importorskip("cfgrib")
    write_grib(tmp_path / "a.grib", True)
    with zipfile.ZipFile(tmp_path / "download.zip", "w") as archive:
        archive.write(tmp_path / "a.grib", "data.grib")
    table, _, _ = make(tmp_path, [tmp_path / "download.zip"])
    np.testing.assert_allclose(table["tp"], RAIN_MM[1:][HERE], atol=1e-4)


def test_stores_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from timerxl.data.era5 import grid_files

    data = arco(total_precipitation=(RAIN_MM / 1000, {"units": "m"}))
    encoding = {name: {"chunks": (5, 3, 2)} for name in data.data_vars}
    path = save(data, tmp_path / "a.zarr", encoding=encoding)
    monkeypatch.setattr(grid_files, "_BLOCK_BYTES", 12 * 6 * 8)  # twelve times of six cells
    with grid_files.open_grid_files(path, "a") as (file,):
        (rain,) = (v for v in file.variables if v.column == "tp")
        blocks = list(file.blocks(rain, slice(None), slice(None)))
    assert {b[0].stop - b[0].start for b in blocks[:-1]} == {10}
    np.testing.assert_allclose(np.concatenate([b[1] for b in blocks]), RAIN_MM / 1000, rtol=1e-6)


def test_assumptions_and_infinite_values_are_said(tmp_path: Path) -> None:
    path = save(hourly(t2m=(WARM, {}), odd=(WARM, {"units": "1"})), tmp_path / "a.nc")
    _, content, notes = make(tmp_path, [path])
    assert "t2m is taken as K: ERA5's unit, since the file tells none" in notes
    assert content["columns"]["t2m"]["record"]["unit"]["known_by"] == "assumed"
    data = hourly(odd=(WARM, {"units": "1"})).copy(deep=True)
    data["odd"][3, 1, 1] = np.inf
    again = tmp_path / "again"
    again.mkdir()
    refused(again, [save(data, tmp_path / "b.nc")], "odd holds infinite values.*--missing inf")
    table, _, notes = make(again, [tmp_path / "b.nc"], missing=["inf"])
    assert "odd: 1 infinite values are taken for missing" in notes
    assert np.isnan(table["odd"].iloc[3])
    assert table["odd"].notna().sum() == len(HOURS) - 1


def test_a_daily_statistic_joined_to_hourly_stamps_is_asked_for(tmp_path: Path) -> None:
    """The mean of a day beside its hours, one value at 00 UTC and none between."""
    data = hourly()
    means = daily("mean")["t2m"].reindex(valid_time=data["valid_time"])
    path = save(data.assign(t2m=means), tmp_path / "a.nc")
    refused(tmp_path, [path], r"t2m stands once a day among stamps 1 h apart")
    table, _, _ = make(tmp_path, [path], meanings={"t2m": "mean:24h@start"})
    np.testing.assert_allclose(table["t2m"], days_of(WARM).mean(axis=1)[HERE], atol=1e-4)
    assert table.index[0] == at(1)


def test_a_rate_without_its_hours_is_asked_for(tmp_path: Path) -> None:
    data = dataset({"prate": (RAIN_MM / 3600, {"units": "kg/m^2/s"})})
    path = save(data, tmp_path / "a.nc")
    refused(tmp_path, [path], r"tp is a rate .*--meaning tp=mean:1h@start or mean:1h@end")
    table, _, _ = make(tmp_path, [path], meanings={"tp": "mean:1h@start"})
    np.testing.assert_allclose(table["tp"], RAIN_MM[HERE], atol=1e-5)
    assert table.index[0] == at(0, 1)


def test_files_of_both_kinds_are_refused(tmp_path: Path) -> None:
    total = RAIN_MM.copy()
    for i in range(1, len(HOURS)):
        if i % 24 != 1:
            total[i] += total[i - 1]
    data, land = hourly(), hourly()
    land["tp"] = (land["tp"].dims, total / 1000, land["tp"].attrs)
    first = save(data.isel(valid_time=slice(0, 97)), tmp_path / "a.nc")
    second = save(land.isel(valid_time=slice(97, None)), tmp_path / "b.nc")
    refused(tmp_path, [first, second], "a.nc holds hourly sums, b.nc adds up from 00 UTC")
    both = xr.concat([xr.open_dataset(p, engine="h5netcdf") for p in (first, second)], "valid_time")
    refused(tmp_path, [save(both, tmp_path / "c.nc")], "tp may hold sums of one hour .* or running")


def test_times_that_are_only_numbers(tmp_path: Path) -> None:
    data = hourly().rename(valid_time="time")
    data["time"] = ("time", np.arange(len(HOURS)) + 20210301.0, {"units": "day as %Y%m%d.%f"})
    refused(tmp_path, [save(data, tmp_path / "a.nc")], "holds numbers in 'day as .*cdo -r copy")


def test_a_mean_made_of_instants_is_no_instant(tmp_path: Path) -> None:
    """Averaged by a tool that keeps GRIB's attributes and adds cell methods: asked for."""
    attrs = {"units": "K", "GRIB_stepType": "instant", "cell_methods": "time: mean"}
    data = dataset({"t2m": (days_of(WARM).mean(axis=1), attrs)}, HOURS[:-1:24], "valid_time")
    rain, path = save(hourly(), tmp_path / "h.nc"), save(data, tmp_path / "d.nc")
    refused(tmp_path, [rain, path], r"t2m is a mean over time.*mean:24h@start or mean:24h@end")
    table, _, _ = make(tmp_path, [rain, path], meanings={"t2m": "mean:24h@start"})
    np.testing.assert_allclose(table["t2m"], days_of(WARM).mean(axis=1)[HERE], atol=1e-4)


def test_usual_values_are_no_codes(tmp_path: Path) -> None:
    """No cloud, all cloud, the albedo of old snow: many cells hold just that."""
    often = RNG.random(SHAPE) < 0.8
    cloud = np.where(often, np.round(RNG.random(SHAPE)), 0.4 + 0.2 * RNG.random(SHAPE))
    albedo = np.where(often, 0.85, 0.5 + 0.05 * RNG.random(SHAPE))
    data = hourly(
        tcc=(cloud, {"units": "(0 - 1)"}), asn=(albedo, {"units": "(0 - 1)"}),
        rsn=(albedo * 118, {"units": "kg m**-3"}),
    )  # fmt: skip
    table, _, _ = make(tmp_path, [save(data, tmp_path / "a.nc")])
    for name, values in (("tcc", cloud), ("asn", albedo), ("rsn", albedo * 118)):
        np.testing.assert_allclose(table[name], values[HERE], rtol=1e-6)
