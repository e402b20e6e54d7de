"""Known layouts: small invented files in the true form of each source, and the values they hold."""

# ruff: noqa: E501 (rows of files are as long as they are)
from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from front_table import FrontOptions, FrontTable, read_front

from timerxl.config import InputError
from timerxl.data.tables.text import TextOptions, known_layouts
from timerxl.data.tables.times import TimeOptions

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cases"


def read(
    tmp_path: Path, text: str, name: str = "t.csv", encoding: str = "utf-8", **options: Any
) -> FrontTable:
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_front(tmp_path / name, FrontOptions(**options))


def stamps(*times: str) -> np.ndarray:
    return np.array(times, dtype="datetime64[s]")


def layout_name(table: FrontTable) -> str:
    assert table.layout is not None
    return table.layout.name


def rain(table: FrontTable) -> list[float]:
    assert table.rain is not None
    return [float(v) for v in table.frame[table.rain]]


# Sources that a row tells: the file, its layout, and what is read of it.

METEOSTAT = "time,temp,dwpt,rhum,prcp,snow,wdir,wspd,wpgt,pres,tsun,coco"
METEOSTAT_ROWS = "{}2018-01-01 00:00:00,3.1,1.0,86.0,0.4,,210.0,5.4,,1006.8,,8.0\n"
BULK = "2020-01-01,23,1.5,-0.5,87,0.2,,230,11.2,,1013.2,,7\n2020-01-02,0,1.4,,87,,,,,,,,\n"
BULK_NAMED = (
    "year,month,day,hour,temp,temp_source,rhum,prcp,prcp_source,wspd\n"
    "2024,1,1,0,5.1,metar,80,0.3,dwd_hourly,7.6\n2024,1,1,1,5.0,metar,81,0,dwd_hourly,7.6\n"
)
DAILY_NAMES = "date,tavg,tmin,tmax,prcp,snow,wdir,wspd,wpgt,pres,tsun\n"
DAILY = "2020-01-01,3.5,1.1,6.0,2.4,,230,11.2,40.7,1013.2,120\n2020-01-02,3,1,6,,,,,,,\n"
GSOD = (
    "STATION,DATE,TEMP,SLP,SLP_ATTRIBUTES,STP,STP_ATTRIBUTES,PRCP,PRCP_ATTRIBUTES,SNDP,FRSHTT\n"
    '"01001099999","2024-01-01","  33.3","1006.9","24","005.7","24"," 0.10","G","999.9","010000"\n'
    '"01001099999","2024-01-02","  33.3","9999.9","24","987.1","24","99.99","G","999.9","010000"\n'
)
AUSTRALIA = (
    "Date,Location,MinTemp,Rainfall,WindGustDir,RainToday,RISK_MM,RainTomorrow\n"
    "2010-01-01,Albury,NA,0.6,W,No,4.2,Yes\n2010-01-02,Albury,7.4,4.2,W,Yes,0,No\n"
    "2010-01-01,Cobar,12.9,NA,,NA,1,No\n"
)
BEIJING = (
    "No,year,month,day,hour,PM2.5,TEMP,PRES,DEWP,RAIN,wd,WSPM,station\n"
    "1,2013,3,1,0,4,-0.7,1023,-18.8,0.5,NNW,4.4,Dingling\n"
    "2,2013,3,1,1,NA,-1.1,1023.2,-18.2,0,N,4.7,Dingling\n"
)
ASOS = (
    "station,valid,tmpf,dwpf,p01i,metar\nAUS,2020-01-01 00:53,50.0,M,T,x\n"
    "AUS,2020-01-01 01:53,51.0,40.1,0.05,y\n"
)
ISD_NAMES = '"STATION","DATE","NAME","REPORT_TYPE","WND","CIG","TMP","DEW","SLP","AA1","AA2"\n'
ISD_ROWS = (
    ("00:53", "FM-15", "230,5,N,0041,5", "+0123,5", "-0011,5", "10132,5", "01,0005,9,5", ""),
    ("01:20", "FM-16", "230,5,N,0041,5", "+0999,5", "-0011,5", "10132,5", "01,0099,9,5", ""),
    ("01:53", "FM-15", "999,9,V,9999,9", "+9999,9", "-0021,3", "99999,9", "06,0100,9,5", "01,0002,9,5"),
    ("03:00", "FM-12", "240,1,N,0050,1", "-0004,1", "-0010,1", "10100,1", "06,0100,9,1", ""),
    ("03:53", "FM-15", "000,1,C,0000,1", "+0000,1", "+0000,1", "10101,1", "01,9999,9,9", ""),
)  # fmt: skip
ISD = ISD_NAMES + "".join(
    f'"01234599999","2020-01-01T{at}:00","X, DE","{kind}","{wind}","22000,5,9,N",'
    + ",".join(f'"{value}"' for value in values)
    + "\n"
    for at, kind, wind, *values in ISD_ROWS
)


def jena(name: str, written: str) -> str:
    times = pd.date_range("2020-01-31 23:50", periods=3, freq="10min").strftime(written)
    text = f'"{name}","p (mbar)","T (degC)","wv (m/s)","rain (mm)"\n'
    return text + "".join(f"{at},996.5,-8.02,-9999.0,0.1\n" for at in times)


JENA = ["2020-01-31T23:50", "2020-02-01T00", "2020-02-01T00:10"]
SOURCES: list[tuple[str, str, list[str], list[float], dict[str, Any]]] = [
    (BULK, "Meteostat hourly", ["2020-01-01T23", "2020-01-02T00"], [0.2, np.nan],
     {"temp": [1.5, 1.4], "units": {"wspd": "km/h"}, "regions": ["t", "t"], "flags": {"coco"}}),
    (f"{METEOSTAT}\n" + METEOSTAT_ROWS.format("") + METEOSTAT_ROWS.format("").replace("00:00:00", "01:00:00"),
     "Meteostat hourly", ["2018-01-01T00", "2018-01-01T01"], [0.4, 0.4], {"flags": {"coco"}}),
    (f"station,{METEOSTAT}\n" + METEOSTAT_ROWS.format("10384,") + METEOSTAT_ROWS.format("10382,"),
     "Meteostat hourly", ["2018-01-01T00"] * 2, [0.4, 0.4], {"regions": ["10384", "10382"]}),
    (BULK_NAMED, "Meteostat hourly", ["2024-01-01T00", "2024-01-01T01"], [0.3, 0.0],
     {"flags": {"temp_source", "prcp_source"}}),
    (DAILY, "Meteostat daily", ["2020-01-02", "2020-01-03"], [2.4, np.nan], {}),
    (DAILY_NAMES + DAILY, "Meteostat daily", ["2020-01-02", "2020-01-03"], [2.4, np.nan], {}),
    (GSOD, "GSOD", ["2024-01-02", "2024-01-03"], [0.10, 99.99],
     {"units": {"PRCP": "inch", "TEMP": "degF"}, "missing": {"PRCP": 99.99, "SLP": 9999.9},
      "STP": [1005.7, 987.1], "flags": {"FRSHTT", "SLP_ATTRIBUTES", "STP_ATTRIBUTES", "PRCP_ATTRIBUTES"},
      "regions": ["01001099999"] * 2}),
    (AUSTRALIA, "weatherAUS", ["2010-01-02", "2010-01-03", "2010-01-02"], [0.6, 4.2, np.nan],
     {"regions": ["Albury", "Albury", "Cobar"], "flags": {"RISK_MM", "RainTomorrow"}}),
    (jena("Date Time", "%d.%m.%Y %H:%M:%S"), "Jena (MPI BGC)", JENA, [0.1] * 3,
     {"missing": {"wv (m/s)": -9999.0}}),
    (jena("date", "%Y-%m-%d %H:%M:%S"), "Jena (MPI BGC)", JENA, [0.1] * 3,
     {"missing": {"wv (m/s)": -9999.0}}),
    (BEIJING, "Beijing multi-site", ["2013-02-28T16", "2013-02-28T17"], [0.5, 0.0],
     {"regions": ["Dingling"] * 2, "flags": {"No"}}),
    (ASOS, "IEM ASOS", ["2020-01-01T00:53", "2020-01-01T01:53"], [0.0, 0.05],
     {"units": {"p01i": "inch"}, "dwpf": [np.nan, 40.1]}),
    (ISD, "ISD", [f"2020-01-01T0{hour}" for hour in (1, 2, 3, 4)], [0.5, 0.2, np.nan, np.nan],
     {"temperature (degC)": [12.3, np.nan, -0.4, 0.0], "dew_point (degC)": [-1.1, np.nan, -1.0, 0.0],
      "wind_speed (m/s)": [4.1, np.nan, 5.0, 0.0], "wind_direction (deg)": [230, np.nan, 240, 0],
      "sea_level_pressure (hPa)": [1013.2, np.nan, 1010.0, 1010.1], "regions": ["01234599999"] * 4}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "layout", "times", "mm", "more"), SOURCES)
def test_a_source(
    tmp_path: Path, text: str, layout: str, times: list[str], mm: list[float], more: dict[str, Any]
) -> None:
    table = read(tmp_path, text)
    assert layout_name(table) == layout
    np.testing.assert_array_equal(table.timestamps, stamps(*times))
    np.testing.assert_array_equal(rain(table), mm)
    for key, expected in more.items():
        if key == "units":
            assert {name: table.units[name] for name in expected} == expected
        elif key == "missing":
            assert {name: table.missing[name] for name in expected} == {
                name: (code,) for name, code in expected.items()
            }
        elif key == "regions":
            assert table.regions.tolist() == expected
        elif key == "flags":
            assert set(table.not_weather) == expected
        else:
            np.testing.assert_array_equal(table.frame[key], expected)


def test_what_tells_the_future_is_named_and_yes_stays_a_word(tmp_path: Path) -> None:
    table = read(tmp_path, AUSTRALIA)
    assert all("future" in why for why in table.not_weather.values())
    assert table.frame["RainToday"].tolist()[:2] == ["No", "Yes"]


def test_isd_without_rain_of_one_hour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rain of one hour"):
        read(tmp_path, ISD.replace('"01,', '"06,'))


# Open-Meteo.

OPEN_METEO = (
    "latitude,longitude,elevation,utc_offset_seconds,timezone,timezone_abbreviation\n"
    "52.52,13.4,38.0,{offset},{zone},X\n\n"
)


@pytest.mark.parametrize(
    ("offset", "zone", "first"),
    [(0, "GMT", "2023-01-01T00:00"), (-18000, "America/Lima", "2023-01-01T05:00"),
     (20700, "Asia/Kathmandu", "2022-12-31T18:15")],
)  # fmt: skip
def test_open_meteo_hourly(tmp_path: Path, offset: int, zone: str, first: str) -> None:
    text = OPEN_METEO.format(offset=offset, zone=zone)
    text += "time,temperature_2m (°C),precipitation (mm),rain (mm),weather_code (wmo code)\n"
    text += "2023-01-01T00:00,-1.4,0.3,0.2,61\n2023-01-01T01:00,-1.5,0.00,0.00,3\n"
    table = read(tmp_path, text)
    assert layout_name(table) == "Open-Meteo"
    assert table.timestamps[0] == np.datetime64(first)
    assert (table.rain, rain(table)) == ("precipitation (mm)", [0.3, 0.0])
    assert table.regions[0] == "lat52.52_lon13.4"
    assert "weather_code (wmo code)" in table.not_weather


def test_open_meteo_daylight_saving_is_one_offset(tmp_path: Path) -> None:
    text = OPEN_METEO.format(offset=3600, zone="Europe/Berlin") + "time,precipitation (mm)\n"
    times = pd.date_range("2023-03-26", periods=24, freq="h").strftime("%Y-%m-%dT%H:%M")
    table = read(tmp_path, text + "".join(f"{at},0.1\n" for at in times))
    assert table.timestamps[2] == np.datetime64("2023-03-26T01:00")
    assert set(np.diff(table.timestamps).astype(int)) == {3600}


def test_open_meteo_unix_daily_and_places(tmp_path: Path) -> None:
    head = OPEN_METEO.format(offset=-18000, zone="America/Lima")
    text = head + "time,precipitation (mm)\n1672531200,0.3\n1672534800,0.0\n"
    np.testing.assert_array_equal(
        read(tmp_path, text).timestamps, stamps("2023-01-01T00", "2023-01-01T01")
    )
    text = head + "time,precipitation_sum (mm)\n2023-01-01,4.5\n2023-01-02,0.0\n"
    table = read(tmp_path, text)
    np.testing.assert_array_equal(table.timestamps, stamps("2023-01-02T05", "2023-01-03T05"))
    assert rain(table) == [4.5, 0.0]
    head = "location_id,latitude,longitude,elevation,utc_offset_seconds,timezone\n"
    rows = "location_id,time,precipitation (mm)\n0,2023-01-01T00:00,1\n1,2023-01-01T00:00,2\n"
    table = read(tmp_path, f"{head}0,1,2,3,0,GMT\n1,4,5,6,0,GMT\n\n{rows}")
    assert table.regions.tolist() == ["0", "1"]
    with pytest.raises(InputError, match=r"different offsets from UTC .* timezone=GMT"):
        read(tmp_path, f"{head}0,1,2,3,0,GMT\n1,4,5,6,3600,X\n\n{rows}")


# NASA POWER.


MORE = {"YEAR,MO,DY,HR": "2022,1,1,{}", "YEAR,MO,DY": "2022,3,{}", "YEAR,DOY": "2022,{}"}


def power(kind: str, standard: str, names: str, rows: str, longitude: float = -77.04) -> str:
    return (
        "-BEGIN HEADER-\n"
        f"NASA/POWER Source Native Resolution {kind} Data \n"
        f"Dates (month/day/year): 01/01/2022 through 01/02/2022 in {standard}\n"
        f"Location: latitude  -12.05   longitude {longitude} \n"
        "elevation from MERRA-2: Average for 0.5 x 0.625 degree lat/lon region = 400.5 meters\n"
        "The value for missing source data that cannot be computed or is outside of the sources "
        "availability range: -999 \nparameter(s): \n"
        "T2M             MERRA-2 Temperature at 2 Meters (C) \n"
        f"PRECTOTCORR     MERRA-2 Precipitation Corrected (mm/{'hour' if kind == 'Hourly' else 'day'}) \n"
        f"-END HEADER-\n{names},T2M,PRECTOTCORR\n{rows}"
        + "".join(f"{MORE[names].format(i)},1,0\n" for i in range(2, 22))
    )


@pytest.mark.parametrize(
    ("standard", "longitude", "first"),
    [("UTC", -77.04, "2022-01-01T01"), ("LST", -77.04, "2022-01-01T06"),
     ("LST", 139.7, "2021-12-31T16"), ("LST", 0.1, "2022-01-01T01")],
)  # fmt: skip
def test_nasa_power_hourly(tmp_path: Path, standard: str, longitude: float, first: str) -> None:
    rows = "2022,1,1,0,20.5,-999\n2022,1,1,1,-999,0.25\n"
    table = read(tmp_path, power("Hourly", standard, "YEAR,MO,DY,HR", rows, longitude))
    assert layout_name(table) == "NASA POWER"
    assert table.timestamps[0] == np.datetime64(first)  # the end of hour 0
    assert table.units == {"T2M": "C", "PRECTOTCORR": "mm/hour"}
    assert table.missing["T2M"] == (-999.0,)
    assert rain(table)[:2] == [-999.0, 0.25]
    assert table.regions[0] == f"lat-12.05_lon{longitude}"


@pytest.mark.parametrize(
    ("names", "rows"),
    [("YEAR,MO,DY", "2022,2,28,1,2\n2022,3,1,3,4\n"), ("YEAR,DOY", "2022,59,1,2\n2022,60,3,4\n")],
)
def test_nasa_power_daily(tmp_path: Path, names: str, rows: str) -> None:
    table = read(tmp_path, power("Daily", "LST", names, rows))
    np.testing.assert_array_equal(table.timestamps[:2], stamps("2022-03-01T05", "2022-03-02T05"))
    assert table.units["PRECTOTCORR"] == "mm/day"


def test_nasa_power_without_its_block_asks_for_the_zone(tmp_path: Path) -> None:
    rows = "YEAR,MO,DY,HR,T2M,PRECTOTCORR\n2022,1,1,0,1,0.5\n2022,1,1,1,2,0\n"
    table = read(tmp_path, rows)
    assert table.layout is not None
    assert table.layout.asks == ("--timezone",)
    assert "taken as UTC (else say --timezone)" in " ".join(table.notes)
    told = read(tmp_path, rows, times=TimeOptions(timezone="UTC-5"))
    assert told.timestamps[0] == np.datetime64("2022-01-01T06")


# NOAA.

GHCN = "STATION,DATE,LATITUDE,LONGITUDE,ELEVATION,NAME,PRCP,PRCP_ATTRIBUTES,TMAX,TMAX_ATTRIBUTES\n"


def test_ghcn_daily_of_ncei(tmp_path: Path) -> None:
    text = GHCN
    text += '"USW00013904","2020-01-01","30.2","-97.7","1.0","X, TX US","  254",",,W,2400","  211",",,W"\n'
    text += '"USW00013904","2020-01-02","30.2","-97.7","1.0","X, TX US","    0","T,,W,2400","  350",",I,W"\n'
    text += '"USW00013904","2020-01-03","30.2","-97.7","1.0","X, TX US","","","  -11",",,W"\n'
    table = read(tmp_path, text)
    assert layout_name(table) == "GHCN-Daily"
    np.testing.assert_array_equal(
        table.timestamps, stamps("2020-01-02", "2020-01-03", "2020-01-04")
    )
    assert (table.rain, table.units["PRCP"], table.units["TMAX"]) == ("PRCP", "0.1 mm", "0.1 degC")
    np.testing.assert_array_equal(rain(table), [254, 0, np.nan])
    np.testing.assert_array_equal(table.frame["TMAX"], [211, np.nan, -11])
    assert "1 values that failed" in " ".join(table.notes)
    assert {"PRCP_ATTRIBUTES", "LATITUDE"} <= set(table.not_weather)
    assert table.regions.unique().tolist() == ["USW00013904"]


def test_decimals_are_no_tenths(tmp_path: Path) -> None:
    text = (
        GHCN
        + 'A,2020-01-01,30,-97,1,X,25.4,",,W",21,",,W"\nA,2020-01-02,30,-97,1,X,0.5,",,W",2,",,W"\n'
    )
    table = read(tmp_path, text)
    assert layout_name(table) == "Climate Data Online"
    assert table.layout is not None
    assert table.layout.asks == ("--precipitation-unit",)
    assert "PRCP" not in table.units


@pytest.mark.parametrize(
    "names", ["", "ID,DATE,ELEMENT,DATA_VALUE,M_FLAG,Q_FLAG,S_FLAG,OBS_TIME\n"]
)
def test_ghcn_daily_by_year(tmp_path: Path, names: str) -> None:
    text = names + (
        "US000000002,20200101,PRCP,15,,,N,0700\nUS000000001,20200101,PRCP,0,T,,N,\n"
        "US000000001,20200101,TMAX,-21,,,N,\nUS000000001,20200102,PRCP,990,,X,N,\n"
        "US000000001,20200103,PRCP,8,,,N,\n"
    )
    table = read(tmp_path, text)
    assert table.regions.tolist() == ["US000000001"] * 3 + ["US000000002"]
    np.testing.assert_array_equal(
        table.timestamps, stamps("2020-01-02", "2020-01-03", "2020-01-04", "2020-01-02")
    )
    np.testing.assert_array_equal(rain(table), [0, np.nan, 8, 15])
    np.testing.assert_array_equal(table.frame["TMAX"], [-21, np.nan, np.nan, np.nan])


def test_ghcn_daily_in_fixed_columns(tmp_path: Path) -> None:
    def line(element: str, values: dict[int, tuple[int, str]]) -> str:
        days = "".join("{:>5}{}".format(*values.get(day, (-9999, "   "))) for day in range(1, 32))
        return f"USW00013904202002{element}{days}\n"

    text = line("PRCP", {1: (254, "  W"), 2: (0, "T W"), 29: (13, " G ")})
    text += line("TMIN", {1: (-11, "  W"), 29: (5, "  W")})
    table = read(tmp_path, text, "USW00013904.dly")
    np.testing.assert_array_equal(
        table.timestamps, stamps("2020-02-02", "2020-02-03", "2020-03-01")
    )
    np.testing.assert_array_equal(rain(table), [254, 0, np.nan])
    np.testing.assert_array_equal(table.frame["TMIN"], [-11, np.nan, 5])
    assert table.units["PRCP"] == "0.1 mm"
    with pytest.raises(InputError, match="line 1 is not of the form"):
        read(tmp_path, "hello\n", "x.dly")


def test_isd_lite(tmp_path: Path) -> None:
    text = (
        "2020 01 01 00    -5   -61 10132   230    41     8     3 -9999\n"
        "2020 01 01 01 -9999   -61 -9999 -9999     0 -9999    -1    12\n"
        "2020 01 01 02   123   101 10130     0    15     2     0    -1\n"
    )
    (tmp_path / "010010-99999-2020.gz").write_bytes(gzip.compress(text.encode()))
    table = read_front(tmp_path / "010010-99999-2020.gz")
    assert layout_name(table) == "ISD-Lite"
    np.testing.assert_array_equal(
        table.timestamps, stamps("2020-01-01T00", "2020-01-01T01", "2020-01-01T02")
    )
    assert rain(table) == [0.3, 0.0, 0.0]
    np.testing.assert_array_equal(table.frame["temperature (degC)"], [-0.5, np.nan, 12.3])
    np.testing.assert_array_equal(table.frame["wind_direction (deg)"], [230, np.nan, 0])
    np.testing.assert_array_equal(table.frame["precipitation_6h (mm)"], [np.nan, 1.2, 0.0])
    assert table.regions[0] == "010010-99999-2020"


def test_lcd(tmp_path: Path) -> None:
    text = (
        "STATION,DATE,REPORT_TYPE,SOURCE,HourlyDryBulbTemperature,HourlyPrecipitation,HourlyWindDirection\n"
        "72254013904,2021-01-01T00:51:00,FM-15,7,50,0.05s,VRB\n"
        "72254013904,2021-01-01T01:20:00,FM-16,7,51,0.90,190\n"
        "72254013904,2021-01-01T01:51:00,FM-15,7,52s,T,200\n"
        "72254013904,2021-01-01T02:51:00,FM-15,7,53,,210\n"
        "72254013904,2021-01-01T03:51:00,FM-15,7,53,*,210\n"
        "72254013904,2021-01-01T23:59:00,SOD,6,,,\n"
    )
    table = read(tmp_path, text, times=TimeOptions(timezone="UTC-6"))
    assert layout_name(table) == "LCD"
    assert table.layout is not None
    assert table.layout.asks == ("--precipitation-unit", "--timezone")
    assert table.timestamps[0] == np.datetime64("2021-01-01T07")
    assert len(table.timestamps) == 4
    np.testing.assert_array_equal(rain(table), [0.05, 0.0, np.nan, np.nan])
    assert table.frame["HourlyDryBulbTemperature"].tolist() == [50, 52, 53, 53]
    np.testing.assert_array_equal(table.frame["HourlyWindDirection"], [np.nan, 200, 210, 210])
    assert table.regions[0] == "72254013904"


def test_climate_data_online_asks_for_its_unit(tmp_path: Path) -> None:
    text = "STATION,NAME,DATE,PRCP,TMAX\nUSW1,X,2020-01-01,0.10,60\nUSW1,X,2020-01-02,0.00,61\n"
    table = read(tmp_path, text)
    assert layout_name(table) == "Climate Data Online"
    assert table.layout is not None
    assert table.layout.asks == ("--precipitation-unit",)
    assert "mm or inches" in " ".join(table.notes)


# INMET and DWD.


@pytest.mark.parametrize(
    ("names", "one", "two"),
    [
        ("Data;Hora UTC;PRECIPITAÇÃO TOTAL, HORÁRIO (mm)", "2023/01/01;2300 UTC", "2023/01/02;0000 UTC"),
        ("DATA (YYYY-MM-DD);HORA (UTC);PRECIPITAÇÃO TOTAL, HORÁRIO (mm)", "2018-01-01;23:00", "2018-01-02;00:00"),
        ("DATA (YYYY-MM-DD);HORA (UTC);PRECIPITACAO TOTAL, HORARIO (mm)", "2018-01-01;23:00", "2018-01-02;00:00"),
    ],
)  # fmt: skip
def test_inmet(tmp_path: Path, names: str, one: str, two: str) -> None:
    text = "REGIAO:;CO\r\nUF:;DF\r\nESTACAO:;EXEMPLO\r\nCODIGO (WMO):;A001\r\nLATITUDE:;-15,79\r\n"
    text += (
        "LONGITUDE:;-47,93\r\nALTITUDE:;1159,54\r\nDATA DE FUNDACAO (YYYY-MM-DD):;2000-05-07\r\n"
    )
    text += f"{names};TEMPERATURA DO AR - BULBO SECO, HORARIA (°C);\r\n"
    text += f"{one};,2;22,1;\r\n{two};-9999;;\r\n"
    more = (two.replace("0000", f"{h:02}00").replace("00:00", f"{h:02}:00") for h in range(1, 20))
    text += "".join(f"{time};0;20,5;\r\n" for time in more)
    table = read(tmp_path, text, "INMET_A001.CSV", "latin-1")
    assert layout_name(table) == "INMET"
    end = np.datetime64(two[:10].replace("/", "-") + "T00:00")
    np.testing.assert_array_equal(table.timestamps[:2], [end - np.timedelta64(1, "h"), end])
    assert rain(table)[:2] == [0.2, -9999.0]
    assert table.rain is not None
    assert table.missing[table.rain] == (-9999.0,)
    assert table.frame.iloc[0, 1] == 22.1
    assert table.frame.shape[1] == 2
    assert set(table.regions) == {"A001"}


DWD = [
    (
        "STATIONS_ID;MESS_DATUM;QN_8;  R1;RS_IND;WRTR;eor",
        "       3987;2020010123;    3;   0.4;   1;-999;eor",
        "2020-01-01T23:00", "R1", 0.4, {"QN_8", "RS_IND", "WRTR", "eor"},
    ),
    (
        "STATIONS_ID;MESS_DATUM;  QN;RWS_DAU_10;RWS_10;RWS_IND_10;eor",
        "       2667;202001012350;    3;  10;   0.13;   1;eor",
        "2020-01-01T23:50", "RWS_10", 0.13, {"QN", "RWS_DAU_10", "RWS_IND_10", "eor"},
    ),
    (
        "STATIONS_ID;MESS_DATUM;QN_3;  FX;  FM;QN_4; RSK;RSKF; TMK;eor",
        "        433;20200101;   10;   9.1;   2.8;    9;   7.5;   6; -999;eor",
        "2020-01-02T06:00", "RSK", 7.5, {"QN_3", "QN_4", "RSKF", "eor"},
    ),
    (
        "STATIONS_ID;MESS_DATUM;QN_6; RS;RSF;SH_TAG;NSH_TAG;eor",
        "        433;20200101;    9;   7.5;   6;-999;-999;eor",
        "2020-01-02T06:00", "RS", 7.5, {"QN_6", "RSF", "eor"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("names", "row", "first", "column", "value", "flags"), DWD)
def test_dwd(
    tmp_path: Path, names: str, row: str, first: str, column: str, value: float, flags: set[str]
) -> None:
    second = row.replace("20200101", "20200102")
    table = read(tmp_path, f"{names}\n{row}\n{second}\n", "produkt.txt")
    assert layout_name(table).startswith("DWD CDC")
    assert table.timestamps[0] == np.datetime64(first)
    assert (table.rain, rain(table)[0], table.units[column]) == (column, value, "mm")
    assert set(table.not_weather) == flags
    assert table.missing[column] == (-999.0,)
    assert table.regions[0] == row.split(";")[0].strip()


# Tables of competitions and papers.


# Any other table.


def test_an_unknown_table_without_names_is_refused(tmp_path: Path) -> None:
    text = "2020-01-01 00:00,1.5,2.5\n2020-01-01 01:00,1.6,2.6\n2020-01-01 02:00,1.6,2.6\n"
    with pytest.raises(InputError, match=r"line 1 holds values .* --header-line"):
        read(tmp_path, text)
    told = FrontOptions(
        text=TextOptions(header_line=0), times=TimeOptions(timestamp_columns=("column_1",))
    )
    table = read_front(tmp_path / "t.csv", told)
    assert table.frame["column_2"].tolist() == [1.5, 1.6, 1.6]


def test_an_own_table_is_no_known_layout(tmp_path: Path) -> None:
    table = read(
        tmp_path, "timestamp,region,t2m,tp\n2020-01-01 00:00,a,1,0\n2020-01-01 01:00,a,2,0\n"
    )
    assert table.layout is None
    assert len(table.notes) == 2  # on the end of the step, and UTC
    assert table.frame.columns.tolist() == ["t2m", "tp"]


def test_every_layout_names_its_document_and_can_be_told_from_the_others() -> None:
    for layout in known_layouts():
        assert layout.document
        assert layout.columns or layout.row
        assert layout.rain
    signs = [(layout.columns, layout.row, layout.above) for layout in known_layouts()]
    assert len(set(signs)) == len(signs)


@pytest.mark.parametrize(
    ("parts", "layout", "first", "rain_name"),
    [
        (("open_meteo", "open-meteo-12.05S77.04W154m.csv"), "Open-Meteo", "2023-01-01T05", "precipitation (mm)"),
        (("nasa_power", "POWER_Point_Hourly.csv"), "NASA POWER", "2022-01-01T06", "PRECTOTCORR"),
        (("inmet_csv", "INMET.CSV"), "INMET", "2023-01-01T00", "PRECIPITAÇÃO TOTAL, HORÁRIO (mm)"),
        (("weather_au", "weatherAUS.csv"), "weatherAUS", "2010-01-02T00", "Rainfall"),
        (("inches", "austin_weather.csv"), "Weather Underground daily", "2013-12-22T00", "PrecipitationSumInches"),
        (("sentinels_weather_csv", "weather_latin1_header.csv"), "Jena (MPI BGC)", "2020-01-01T00:10", "rain (mm)"),
    ],
)  # fmt: skip
def test_shared_cases(parts: tuple[str, str], layout: str, first: str, rain_name: str) -> None:
    path = CASES.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"the shared case {'/'.join(parts)} is not on this machine")
    table = read_front(path)
    assert (layout_name(table), table.rain) == (layout, rain_name)
    assert table.timestamps[0] == np.datetime64(first)
    assert table.not_numbers == {}
    assert pd.api.types.is_numeric_dtype(table.frame[rain_name])
