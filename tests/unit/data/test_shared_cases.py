"""Files of public reports that were once read wrongly: their right values, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig
from timerxl.data.audit.auditor import audit_subject, read_subject
from timerxl.data.preprocessing import labels
from timerxl.data.readers import read_table

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the reported files are not at hand")


@pytest.fixture
def prepared(tmp_path: Path, prepare_data: Any) -> Any:
    """Runs launch/prepare_data.py on files of the cases; gives (series or None, text)."""

    def run(*words: str) -> tuple[pd.DataFrame, str]:
        out = tmp_path / "out"
        code, text = prepare_data(*words, "--output", str(out))
        assert code == 0, text
        return pd.read_parquet(out / "series.parquet"), text

    return run


@pytest.fixture
def refused(tmp_path: Path, prepare_data: Any) -> Any:
    def run(*words: str) -> str:
        code, text = prepare_data(*words, "--output", str(tmp_path / "no"))
        assert code == 2, text
        assert not (tmp_path / "no").exists()
        return str(text)

    return run


def case(*parts: str) -> str:
    return str(CASES.joinpath(*parts))


@pytest.mark.parametrize(
    ("file", "regions", "totals"),
    [
        (
            "era5land_feb2025_real.nc",
            "regions_real.yaml",
            {"freetown": 0.319, "north": 0.283, "south": 21.742},
        ),
        ("era5land_feb2025_real.nc", "regions_south_only.yaml", {"south": 21.742}),
        ("synthetic.nc", "regions.yaml", {"wet": 132.017, "dry": 0.227}),
    ],
)
def test_a_dry_region_does_not_decide_for_a_wet_one(
    prepared: Any, file: str, regions: str, totals: dict[str, float]
) -> None:
    folder = "era5land_dry_region"
    series, text = prepared(case(folder, file), "--regions", case(folder, regions))
    found = series.groupby("region", sort=False)["tp"].sum()
    assert found.to_dict() == pytest.approx(totals, abs=6e-4)
    assert "tp adds up from 00 UTC" in text


def test_the_share_of_rain_in_the_south(prepared: Any, tmp_path: Path) -> None:
    folder = "era5land_dry_region"
    files = (case(folder, "era5land_feb2025_real.nc"), case(folder, "regions_real.yaml"))
    prepared(files[0], "--regions", files[1])
    path = str(tmp_path / "out" / "series.parquet")
    series = read_table(DataConfig(path=path, precipitation_column="tp"))
    south = series.region_index == series.regions.index("south")
    assert np.nanmean(labels(series, 24, 0.1)[south]) == pytest.approx(0.526, abs=5e-4)


def test_running_totals_of_a_table(prepared: Any) -> None:
    true = pd.read_csv(case("era5land_csv", "true_hourly.csv"))["tp"] * 1000
    series, text = prepared(case("era5land_csv", "era5land.csv"))
    assert series["tp"].sum() == pytest.approx(573.373, abs=1e-3)
    np.testing.assert_allclose(series["tp"], true, atol=1e-5)
    ahead = series["tp"][::-1].rolling(24).sum()[::-1].shift(-1).dropna()
    assert (ahead.round(6) >= 0.1).mean() == pytest.approx(0.350, abs=5e-4)
    assert "tp adds up from 00 UTC" in text


def test_the_true_hours_of_that_table(prepared: Any) -> None:
    series, text = prepared(case("era5land_csv", "true_hourly.csv"))
    assert series["tp"].sum() == pytest.approx(573.373, abs=1e-3)
    assert "adds up" not in text


def test_a_daily_mean_stands_at_the_end_of_its_day(prepared: Any) -> None:
    folder = "daily_stats_mean"
    series, text = prepared(
        case(folder, "era5land_daily_mean_t2m_real.nc"),
        case(folder, "tp_hourly.nc"),
        "--regions",
        case(folder, "regions.yaml"),
    )
    row = series[series["timestamp"] == "2025-07-02"]
    assert row["t2m"].item() == pytest.approx(296.741, abs=5e-4)
    assert "t2m is the mean over the 24 h that begin at the file's stamp" in text


@pytest.mark.parametrize("file", ["weather.csv", "weather_latin1_header.csv"])
def test_sentinels_of_a_station(prepared: Any, tmp_path: Path, file: str) -> None:
    series, text = prepared(case("sentinels_weather_csv", file))
    wind = series["wv (m/s)"]
    assert (wind.min(), wind.std() < 5) == (0.0, True)
    raw = pd.read_csv(case("sentinels_weather_csv", file), encoding="cp1252")
    assert wind.isna().sum() == (raw["wv (m/s)"] == -9999).sum() > 0
    assert f"wv (m/s) ({wind.isna().sum()})" in text
    record = json.loads((tmp_path / "out" / "series.json").read_text())["columns"]["wv (m/s)"]
    assert record["record"]["missing"][0]["value"] == -9999


def test_nasa_power(prepared: Any, refused: Any) -> None:
    path = case("nasa_power", "POWER_Point_Hourly.csv")
    raw = pd.read_csv(path, skiprows=8)
    series, text = prepared(path)
    # Local solar time at 77.04 W is UTC-5, and a stamp begins its hour.
    assert series["timestamp"][0] == pd.Timestamp("2022-01-01T06:00")
    rain = raw["PRECTOTCORR"].replace(-999, np.nan)
    np.testing.assert_allclose(series["tp"], rain, atol=1e-6)
    assert rain.isna().sum() > 0
    assert f"PRECTOTCORR ({rain.isna().sum()})" in text
    known = raw["T2M"] != -999
    np.testing.assert_allclose(series["T2M"][known], raw["T2M"][known], rtol=1e-6)
    assert series["T2M"].isna().sum() == (~known).sum() > 0
    words = refused(case("nasa_power", "joined_time.csv"))
    assert "T2M holds -999 (31 values, 0.78%" in words
    assert "--missing -999" in words


def test_the_same_table_with_the_code_said(prepared: Any) -> None:
    series, _ = prepared(case("nasa_power", "joined_time.csv"), "--missing", "-999")
    assert series["T2M"].std() < 10
    assert series["T2M"].isna().sum() == 31


def test_inches_by_the_columns_name(prepared: Any) -> None:
    inches = pd.read_csv(case("inches", "true.csv"))["inch"]
    series, text = prepared(case("inches", "austin_weather.csv"))
    trace = pd.read_csv(case("inches", "austin_weather.csv"))["PrecipitationSumInches"] == "T"
    assert (series["tp"][trace] == 0).all()
    np.testing.assert_allclose(series["tp"][~trace], inches[~trace] * 25.4, atol=1e-6)
    # Of the 16.1 % of wet days six are hidden behind T, which is less than 0.127 mm.
    assert (series["tp"] >= 0.1).mean() == pytest.approx(0.161 - 6 / 1825, abs=5e-4)
    assert (series["tp"] >= 10).mean() == pytest.approx(0.095, abs=5e-4)
    assert "6 traces (T) are taken as 0" in text
    # A "-" no longer takes a numeric column away.
    assert {"TempAvgF", "DewPointAvgF", "HumidityAvgPercent", "WindAvgMPH"} < set(series.columns)


def test_hourly_inches_are_asked_for(prepared: Any, refused: Any) -> None:
    path = case("inches", "lcd_hourly_inches.csv")
    assert "--precipitation-unit in" in refused(path)
    assert "more than ever fell" in refused(path, "--precipitation-unit", "m")
    series, _ = prepared(path, "--precipitation-unit", "in")
    assert series["tp"].sum() == pytest.approx(836.7, abs=0.05)


def test_open_meteo(prepared: Any) -> None:
    path = next((CASES / "open_meteo").glob("*.csv"))
    raw = pd.read_csv(path, skiprows=3)
    series, _ = prepared(str(path))
    assert series["timestamp"][0] == pd.Timestamp("2023-01-01T05:00")
    np.testing.assert_allclose(series["tp"], raw["precipitation (mm)"], atol=1e-6)
    np.testing.assert_allclose(series["temperature_2m (°C)"], raw["temperature_2m (°C)"], rtol=1e-6)


def test_inmet(prepared: Any) -> None:
    path = case("inmet_csv", "INMET.CSV")
    raw = pd.read_csv(path, sep=";", decimal=",", encoding="latin-1", skiprows=8)
    raw = raw.replace(-9999, np.nan)
    series, _ = prepared(path)
    assert series["timestamp"][23] == pd.Timestamp("2023-01-01T23:00")
    assert series["region"].unique().tolist() == ["A000"]
    for column, name in zip(series.columns[2:], raw.columns[2:], strict=True):
        np.testing.assert_allclose(series[column], raw[name], rtol=1e-6, atol=1e-6)


def test_quoted_decimal_commas(prepared: Any) -> None:
    path = case("inmet_csv", "comma_sep_quoted_decimal_comma.csv")
    series, _ = prepared(path)
    raw = pd.read_csv(path, decimal=",").replace(-9999, np.nan)
    np.testing.assert_allclose(series["tp"], raw.iloc[:, 2], atol=1e-6)


def test_weather_aus(prepared: Any) -> None:
    path = case("weather_au", "weatherAUS.csv")
    raw = pd.read_csv(path)
    series, text = prepared(path)
    assert series["timestamp"][0] == pd.Timestamp("2010-01-02")  # the end of 1 January
    np.testing.assert_allclose(series["tp"], raw["Rainfall"], atol=1e-6)
    yes = raw["RainTomorrow"].map({"Yes": 1.0, "No": 0.0})
    np.testing.assert_array_equal(series["RainTomorrow"], yes)
    east = (raw["WindGustDir"] == "E").to_numpy()
    assert series["WindGustDir_sin"][east].tolist() == [1.0] * east.sum()
    assert "column RISK_MM skipped: it tells the future" in text


def test_yes_and_no_are_a_label() -> None:
    path = case("weather_au", "weatherAUS.csv")
    series = read_table(DataConfig(path=path, label_column="RainTomorrow"))
    raw = pd.read_csv(path)["RainTomorrow"].map({"Yes": 1.0, "No": 0.0})
    np.testing.assert_array_equal(series.ready_label, raw)
    assert "RISK_MM" not in series.feature_names


def test_a_daily_table_has_no_false_fault(prepared: Any, tmp_path: Path) -> None:
    prepared(case("inches", "austin_weather.csv"))
    small = ["model.context_length=24", "model.patch_length=8"]
    subject, _ = read_subject(tmp_path / "out", "hourly_cpu", small)
    faults = [finding.name for finding in audit_subject(subject).of("fault")]
    assert "precipitation_misses_hours" not in faults
