"""Every command of the table of sources in docs/data.md, on an invented file in that layout."""

from __future__ import annotations

import gzip
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"
MOST_OPTIONS = 3
HOURS = 72
Expected = tuple[str, list[float]]  # the first stamp (UTC, an end), rain in mm


def hourly(first: str = "2022-01-01") -> tuple[pd.DatetimeIndex, np.ndarray, np.ndarray]:
    """Stamps, rain in whole tenths of mm, temperature; seeded."""
    random = np.random.default_rng(0)
    times = pd.date_range(first, periods=HOURS, freq="h")
    rain = np.where(random.random(HOURS) < 0.3, random.integers(0, 90, HOURS) / 10, 0.0)
    return times, rain, random.normal(15, 3, HOURS).round(1)


def meteostat(path: Path) -> Expected:
    times, rain, warmth = hourly()
    lines = [
        f"{t:%Y-%m-%d},{t.hour},{w},,80,{r},,230,11.2,,1013.2,,7"
        for t, r, w in zip(times, rain, warmth, strict=True)
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return "2022-01-01T00", list(rain)


def open_meteo(path: Path) -> Expected:
    times, rain, warmth = hourly()
    lines = [
        "latitude,longitude,elevation,utc_offset_seconds,timezone,timezone_abbreviation",
        "-12.05,-77.04,154.0,-18000,America/Lima,GMT-5",
        "",
        "time,temperature_2m (°C),precipitation (mm),wind_direction_10m (°)",
    ]
    rows = zip(times, warmth, rain, strict=True)
    lines += [f"{t:%Y-%m-%dT%H:%M},{w},{r},{t.hour * 15}" for t, w, r in rows]
    path.write_text("\n".join(lines))
    return "2022-01-01T05", list(rain)


def power(path: Path) -> Expected:
    times, rain, warmth = hourly()
    lines = [
        "-BEGIN HEADER-",
        "NASA/POWER Source Native Resolution Hourly Data ",
        "Dates (month/day/year): 01/01/2022 through 01/03/2022 in LST",
        "Location: latitude  -12.05   longitude -77.04 ",
        "The value for missing source data that cannot be computed or is outside of the sources "
        "availability range: -999 ",
        "Parameter(s): ",
        "T2M             MERRA-2 Temperature at 2 Meters (C) ",
        "PRECTOTCORR     MERRA-2 Precipitation Corrected (mm/hour) ",
        "-END HEADER-",
        "YEAR,MO,DY,HR,T2M,PRECTOTCORR",
    ]
    rows = zip(times, warmth, rain, strict=True)
    lines += [f"{t.year},{t.month},{t.day},{t.hour},{w},{r}" for t, w, r in rows]
    lines[-1] = lines[-1].rsplit(",", 1)[0] + ",-999"
    path.write_text("\n".join(lines))
    return "2022-01-01T06", [*rain[:-1], np.nan]  # local solar time, the start of its hour


def daily() -> tuple[pd.DatetimeIndex, np.ndarray]:
    times, rain, _ = hourly()
    days = pd.Series(rain, index=times).resample("D").sum().round(1)
    return pd.DatetimeIndex(days.index), days.to_numpy()


def ghcn(path: Path) -> Expected:
    days, rain = daily()
    lines = ["STATION,DATE,LATITUDE,LONGITUDE,NAME,PRCP,PRCP_ATTRIBUTES,TMAX,TMAX_ATTRIBUTES"]
    lines += [
        f'"USW00013904","{d:%Y-%m-%d}","30.2","-97.7","X","{r * 10:5.0f}",",,W","  211",",,W"'
        for d, r in zip(days, rain, strict=True)
    ]
    path.write_text("\n".join(lines))
    return "2022-01-02", list(rain)


def ghcn_dly(path: Path) -> Expected:
    days, rain = daily()
    tenths = {d.day: f"{r * 10:5.0f}  W" for d, r in zip(days, rain, strict=True)}
    cells = "".join(tenths.get(day, "-9999   ") for day in range(1, 32))
    path.write_text(f"USW00013904202201PRCP{cells}\n")
    return "2022-01-02", list(rain)


def cdo(path: Path) -> Expected:
    days, rain = daily()
    inches = (rain / 25.4).round(2)
    lines = ["STATION,NAME,DATE,PRCP,TMAX"]
    lines += [f"USW1,X,{d:%Y-%m-%d},{r},60" for d, r in zip(days, inches, strict=True)]
    path.write_text("\n".join(lines))
    return "2022-01-02", list(inches * 25.4)


def isd(path: Path) -> Expected:
    times, rain, warmth = hourly()
    lines = ['"STATION","DATE","REPORT_TYPE","WND","TMP","DEW","SLP","AA1"']
    lines += [
        f'"72254013904","{t:%Y-%m-%dT%H:53:00}","FM-15","230,5,N,0041,5","{w * 10:+05.0f},5",'
        f'"-0011,5","10132,5","01,{r * 10:04.0f},9,5"'
        for t, r, w in zip(times, rain, warmth, strict=True)
    ]
    path.write_text("\n".join(lines))
    return "2022-01-01T01", list(rain)


def gsod(path: Path) -> Expected:
    days, rain = daily()
    inches = (rain / 25.4).round(2)
    lines = ['"STATION","DATE","NAME","TEMP","SLP","PRCP","PRCP_ATTRIBUTES","FRSHTT"']
    lines += [
        f'"01001099999","{d:%Y-%m-%d}","X, NO","  33.3","1006.9","{r:5.2f}","G","010000"'
        for d, r in zip(days, inches, strict=True)
    ]
    lines[2] = lines[2].replace(f'"{inches[1]:5.2f}"', '"99.99"')
    path.write_text("\n".join(lines))
    return "2022-01-02", [inches[0] * 25.4, np.nan, inches[2] * 25.4]


def lcd(path: Path) -> Expected:
    times, rain, _ = hourly()
    inches = (rain / 25.4).round(2)
    lines = ["STATION,DATE,REPORT_TYPE,HourlyDryBulbTemperature,HourlyPrecipitation"]
    lines += [
        f"72254013904,{t:%Y-%m-%dT%H:51:00},FM-15,50,{r}{'s' if i % 9 == 0 else ''}"
        for i, (t, r) in enumerate(zip(times, inches, strict=True))
    ]
    path.write_text("\n".join(lines))
    return "2022-01-01T07", list(inches * 25.4)


def asos(path: Path) -> Expected:
    times, rain, _ = hourly()
    inches = (rain / 25.4).round(2)
    lines = ["station,valid,tmpf,dwpf,drct,p01i,metar"]
    lines += [
        f"AUS,{t:%Y-%m-%d %H:53},50.0,M,230,{r},x" for t, r in zip(times, inches, strict=True)
    ]
    path.write_text("\n".join(lines))
    return "2022-01-01T00:53", list(inches * 25.4)


def inmet(path: Path) -> Expected:
    year = int(path.stem[-4:])
    first = "2022-12-29" if year == 2022 else "2023-01-01"
    times, rain, warmth = hourly(first)
    head = "REGIAO:;CO\nUF:;DF\nESTACAO:;EXEMPLO\nCODIGO (WMO):;A001\nLATITUDE:;-15,79\n"
    head += "LONGITUDE:;-47,93\nALTITUDE:;1159,54\nDATA DE FUNDACAO:;07/05/00\n"
    head += "Data;Hora UTC;PRECIPITAÇÃO TOTAL, HORÁRIO (mm);TEMPERATURA DO AR (°C);\n"
    lines = [
        f"{t:%Y/%m/%d};{t:%H}00 UTC;{r};{w};".replace(".", ",")
        for t, r, w in zip(times, rain, warmth, strict=True)
    ]
    path.write_bytes((head + "\n".join(lines)).encode("latin-1"))
    return f"{first}T00", list(rain)


def dwd(path: Path) -> Expected:
    times, rain, _ = hourly()
    lines = ["STATIONS_ID;MESS_DATUM;QN_8;  R1;RS_IND;WRTR;eor"]
    lines += [
        f"   3987;{t:%Y%m%d%H};    3;{r:6.1f};   1;-999;eor"
        for t, r in zip(times, rain, strict=True)
    ]
    lines[5] = lines[5].replace(f"{rain[4]:6.1f}", "  -999")
    path.write_text("\n".join(lines))
    return "2022-01-01T00", [*rain[:4], np.nan, *rain[5:]]


def dwd_daily(path: Path) -> Expected:
    days, rain = daily()
    lines = ["STATIONS_ID;MESS_DATUM;QN_3;  FX;QN_4; RSK;RSKF; TMK;eor"]
    lines += [
        f"    433;{d:%Y%m%d};   10;   9.1;    9;{r:6.1f};   6;  4.5;eor"
        for d, r in zip(days, rain, strict=True)
    ]
    path.write_text("\n".join(lines))
    return "2022-01-02T06", list(rain)  # from 06 to 06 UTC


def weather_aus(path: Path) -> Expected:
    days, rain = daily()
    lines = ["Date,Location,MinTemp,Rainfall,WindGustDir,RainToday,RISK_MM,RainTomorrow"]
    ahead = [*rain[1:], 0.0]
    lines += [
        f"{d:%Y-%m-%d},Albury,7.4,{r},W,{'Yes' if r > 1 else 'No'},{a},{'Yes' if a > 1 else 'No'}"
        for d, r, a in zip(days, rain, ahead, strict=True)
    ]
    path.write_text("\n".join(lines))
    return "2022-01-02", list(rain)


def jena(path: Path) -> Expected:
    times = pd.date_range("2022-01-14 00:10", periods=HOURS, freq="10min")
    _, rain, warmth = hourly()
    lines = ['"Date Time","p (mbar)","T (degC)","wv (m/s)","rain (mm)","wd (deg)"']
    lines += [
        f"{t:%d.%m.%Y %H:%M:%S},1008.8,{w},{-9999 if i == 7 else 1.2},{r},{i}"
        for i, (t, r, w) in enumerate(zip(times, rain, warmth, strict=True))
    ]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    return "2022-01-13T23:10", list(rain)


def beijing(path: Path) -> Expected:
    times, rain, warmth = hourly()
    lines = ["No,year,month,day,hour,PM2.5,TEMP,PRES,DEWP,RAIN,wd,WSPM,station"]
    lines += [
        f"{i},{t.year},{t.month},{t.day},{t.hour},NA,{w},1023,-18.8,{r},NNW,4.4,Guanyuan"
        for i, (t, r, w) in enumerate(zip(times, rain, warmth, strict=True), 1)
    ]
    path.write_text("\n".join(lines).replace("NA", "6", 10))
    return "2021-12-31T16", list(rain)


def era5land(path: Path) -> Expected:
    times = pd.date_range("2022-01-01 01:00", periods=24 * 20, freq="h")
    random = np.random.default_rng(3)
    metres = np.where(random.random(len(times)) < 0.3, random.integers(0, 90, len(times)) / 1e4, 0)
    day = (times - pd.Timedelta(hours=1)).floor("D")
    running = pd.Series(metres).groupby(day).cumsum()
    rows = zip(times, running, strict=True)
    lines = ["valid_time,latitude,longitude,t2m,tp"]
    lines += [f"{t},48.1,11.6,281.5,{r:.7f}" for t, r in rows]
    path.write_text("\n".join(lines))
    return "2022-01-01T01", list(metres * 1000)


def station(path: Path) -> Expected:
    times, rain, warmth = hourly("2022-03-12")
    local = times.tz_localize("UTC").tz_convert("America/New_York")
    rows = zip(local, rain, warmth, strict=True)
    lines = ["date;hour;temperature;rain"]
    lines += [f"{t:%m/%d/%Y};{t:%H:%M};{w};{r}".replace(".", ",") for t, r, w in rows]
    path.write_text("\n".join(lines))
    return "2022-03-12T01", list(rain)


BUILDERS: dict[str, Callable[[Path], Expected]] = {
    "10637.csv.gz": meteostat, "open-meteo.csv": open_meteo, "POWER_Point_Hourly.csv": power,
    "USW00013904.csv": ghcn, "USW00013904.dly": ghcn_dly, "cdo.csv": cdo, "72254013904.csv": isd,
    "01001099999.csv": gsod, "LCD.csv": lcd, "asos.csv": asos, "INMET_A001_2022.CSV": inmet,
    "INMET_A001_2023.CSV": inmet, "produkt_rr_stunde.txt": dwd, "produkt_klima_tag.txt": dwd_daily,
    "weatherAUS.csv": weather_aus, "mpi_roof.csv": jena, "PRSA_Data_Guanyuan.csv": beijing,
    "era5land.csv": era5land, "station.csv": station,
}  # fmt: skip
COMMANDS = re.findall(
    r"^\| [^|]+ \| `python launch/prepare_data\.py ([^`]+)` \|$", DOCS.read_text(), re.M
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_the_command_of_a_source(command: str, tmp_path: Path, prepare_data: Any) -> None:
    words = shlex.split(command)
    inputs = [word for word in words if word in BUILDERS]
    options = [word for word in words if word.startswith("--") and word != "--output"]
    assert inputs
    assert len(options) <= MOST_OPTIONS
    built = [BUILDERS[name](tmp_path / name) for name in inputs]
    out = tmp_path / "out"
    words = [str(tmp_path / word) if word in BUILDERS else word for word in words]
    words[words.index("--output") + 1] = str(out)
    code, text = prepare_data(*words)
    assert code == 0, text
    series = pd.read_parquet(out / "series.parquet")
    assert series["timestamp"].iloc[0] == pd.Timestamp(built[0][0])
    rain = [value for _, values in built for value in values]
    np.testing.assert_allclose(series["tp"], rain, atol=1e-5)
    assert series["region"].nunique() == 1


def test_every_layout_built_here_has_a_command() -> None:
    named = {word for command in COMMANDS for word in command.split()}
    assert set(BUILDERS) <= named
    assert len(COMMANDS) >= 18
