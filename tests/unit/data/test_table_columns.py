"""Directions, yes and no, and running totals in tables; all numbers here are invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, InputError
from timerxl.data.era5.accumulation import Totals, rain_verdict, shares
from timerxl.data.readers import read_table
from timerxl.data.tables.columns import encode_direction, is_direction, zero_one


def test_compass_points_and_degrees_are_the_same_direction() -> None:
    points = pd.Series(["N", "NE", "e", "SSW", "cv", None, "NW", "CALM"])
    sine, cosine = encode_direction(points)
    root = np.sqrt(0.5)
    known = [0, root, 1, np.sin(np.deg2rad(202.5)), 0, np.nan, -root, 0]
    np.testing.assert_allclose(sine, known, atol=1e-12)
    known = [1, root, 0, np.cos(np.deg2rad(202.5)), 0, np.nan, root, 0]
    np.testing.assert_allclose(cosine, known, atol=1e-12)
    again = encode_direction(pd.Series([0.0, 45, 90, 202.5, np.nan, np.nan, 315, np.nan]))
    for i in (0, 1, 2, 3, 6):
        assert (again[0][i], again[1][i]) == pytest.approx((sine[i], cosine[i]), abs=1e-12)
    # 359 and 1 degree are neighbours, as they are not in degrees.
    sine, cosine = encode_direction(pd.Series([359.0, 1.0]))
    assert np.hypot(*np.diff([sine, cosine], axis=1)[:, 0]) < 0.04


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("wd", ["N", "SSE", None], True),
        ("WindGustDir", ["N", "W", "NNW"], True),
        ("wind_direction_10m (°)", [0, 359], True),
        ("wdir", [10.0, np.nan, 350], True),
        ("wind", ["N", "S"], False),  # its name says speed
        ("grade", ["E", "S"], False),
        ("wind_direction", ["up", "N"], False),
        ("wd", [1.5, 3.1], False),  # radians, or no direction at all
        ("season_sin", [0.1, 0.9], False),
    ],
)
def test_what_is_a_direction(name: str, values: list[object], expected: bool) -> None:
    assert is_direction(pd.DataFrame({name: values}), name) is expected


def test_yes_and_no() -> None:
    found = zero_one(pd.Series(["Yes", "No", None, "no", "NA"]))
    np.testing.assert_array_equal(found, [1, 0, np.nan, 0, np.nan])
    np.testing.assert_array_equal(zero_one(pd.Series([True, False])), [1, 0])
    np.testing.assert_array_equal(zero_one(pd.Series(["y", "n"])), [1, 0])
    np.testing.assert_array_equal(zero_one(pd.Series(["Sim", "Não"])), [1, 0])
    for other in (["Yes", "Perhaps"], ["N", "N"], ["T", "T"], ["1", "0"], [None, None]):
        assert zero_one(pd.Series(other, dtype=object)) is None


def table(hours: int = 24 * 30) -> pd.DataFrame:
    """Two regions, hourly, with rain of 1 mm and more, seeded."""
    random = np.random.default_rng(0)
    times = pd.date_range("2021-01-01 01:00", periods=hours, freq="h")
    parts = []
    for region in ("a", "b"):
        wet = random.random(hours) < 0.15
        rain = np.where(wet, random.gamma(0.8, 2, hours).round(1), 0.0)
        direction = random.integers(0, 360, hours).astype(float)
        temperature = random.normal(10, 5, hours).round(1)
        columns = {
            "timestamp": times,
            "region": region,
            "temperature": temperature,
            "wd": direction,
        }
        parts.append(pd.DataFrame(columns | {"precipitation": rain}))
    return pd.concat(parts, ignore_index=True)


def read(frame: pd.DataFrame, tmp_path: Path, **settings: object) -> object:
    frame.to_parquet(tmp_path / "t.parquet")
    return read_table(DataConfig(path=str(tmp_path / "t.parquet"), **settings))  # type: ignore[arg-type]


def test_a_direction_is_encoded_and_the_option_or_a_list_undoes_it(tmp_path: Path) -> None:
    frame = table()
    series = read(frame, tmp_path)
    assert series.feature_names == ["temperature", "precipitation", "wd_sin", "wd_cos"]
    expected = np.sin(np.deg2rad(frame["wd"])).astype(np.float32)
    np.testing.assert_allclose(series.values[:, 2], expected, atol=1e-6)
    assert "wd is a direction" in " ".join(series.notes)
    assert series.source["records"]["wd_sin"]["name"] == "wd"
    kept = read(frame, tmp_path, directions="as_is")
    assert kept.feature_names == ["temperature", "wd", "precipitation"]
    np.testing.assert_array_equal(kept.values[:, 1], frame["wd"].astype(np.float32))
    assert read(frame, tmp_path, features=["wd"]).feature_names == ["wd"]
    listed = read(frame, tmp_path, features=["wd_cos", "temperature"])
    assert listed.feature_names == ["wd_cos", "temperature"]


@pytest.mark.parametrize("code", [-9999.0, -999.0, 999.9, 32767.0])
def test_codes_are_refused_by_name_and_masked_when_said(tmp_path: Path, code: float) -> None:
    frame = table()
    frame.loc[100:119, "temperature"] = code
    with pytest.raises(InputError, match="temperature holds") as error:
        read(frame, tmp_path)
    assert f"{code:.7g} (20 values, 1.39%" in str(error.value)
    assert "region a, 2021-01-05T05" in str(error.value)
    assert f"data.missing_values=[{code:.7g}]" in str(error.value)
    series = read(frame, tmp_path, missing_values=[code], max_fill_hours=0.0)
    assert np.isnan(series.values[:, 0]).sum() == 20
    assert np.nanmax(np.abs(series.values[:, 0])) < 40
    (known,) = series.source["records"]["temperature"]["missing"]
    assert (known["value"], known["count"], known["known_by"]) == (code, 20, "said")
    kept = read(frame, tmp_path, missing_values=[])
    assert (kept.values[:, 0] == np.float32(code)).sum() == 20


def test_a_code_in_the_rain_is_masked_in_labels_too(tmp_path: Path) -> None:
    frame = table()
    frame.loc[200:204, "precipitation"] = -9999.0
    with pytest.raises(InputError, match=r"precipitation holds -9999 \(5 values"):
        read(frame, tmp_path)
    series = read(frame, tmp_path, missing_values=[-9999.0])
    assert np.isnan(series.precipitation_mm[200:205]).all()
    assert np.isnan(series.precipitation_mm).sum() == 5


def test_a_unit_that_the_values_contradict_is_refused(tmp_path: Path) -> None:
    frame = table().rename(columns={"temperature": "T (K)"})
    with pytest.raises(InputError, match=r"T \(K\) is .* expected 170 to 350"):
        read(frame, tmp_path)


@pytest.mark.parametrize(("reset", "period"), [(0, 24), (5, 24), (6, 12), (0, 6)])
def test_running_totals_are_seen_and_taken_apart(reset: int, period: int) -> None:
    frame = table()
    totals = Totals(period, reset)
    hours = frame["timestamp"].to_numpy().astype("datetime64[h]").astype(np.int64)
    frame["start"] = totals.start(hours)
    running = frame.groupby(["region", "start"])["precipitation"].cumsum().to_numpy()
    stamps = frame["timestamp"].to_numpy().astype("datetime64[s]")
    regions = pd.factorize(frame["region"])[0]
    verdict = rain_verdict(running, stamps, regions)
    assert (verdict.kind, verdict.totals) == ("running", totals)
    own = shares(running, stamps, regions, totals, 1.0)
    known = ~np.isnan(own)
    # The first total of a region began before its first row where it doesn't start at the reset.
    assert (~known).sum() == (0 if (1 - 1 - reset) % period == 0 else 2)
    np.testing.assert_allclose(own[known], frame["precipitation"][known], atol=1e-9)
    assert rain_verdict(frame["precipitation"].to_numpy(), stamps, regions).kind == "hourly"


def test_a_row_after_a_missing_one_has_no_share_of_its_own() -> None:
    frame = table(48).iloc[:48]
    running = frame.groupby(frame.index // 24)["precipitation"].cumsum().to_numpy().copy()
    running[10] = np.nan
    own = shares(
        running,
        frame["timestamp"].to_numpy().astype("datetime64[s]"),
        np.zeros(48, int),
        Totals(),
        1,
    )
    assert np.flatnonzero(np.isnan(own)).tolist() == [10, 11]


def test_running_totals_are_never_read_as_sums(tmp_path: Path) -> None:
    frame = table()
    day = (frame["timestamp"] - pd.Timedelta(hours=1)).dt.floor("D")
    frame["precipitation"] = frame.groupby(["region", day])["precipitation"].cumsum()
    with pytest.raises(InputError, match=r"precipitation adds up from 00 UTC.*prepare_data"):
        read(frame, tmp_path)
    frame = table()
    frame["precipitation"] = frame.groupby("region")["precipitation"].cumsum()
    with pytest.raises(InputError, match="is a counter that goes on over days"):
        read(frame, tmp_path)
