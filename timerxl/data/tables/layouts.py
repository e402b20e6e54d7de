"""Layouts of known sources, and the readers of those that are more than a table of numbers.

A layout is recognised by its columns (or by the text above them) and says what the file itself does
not: time zone, stamps, units, codes for missing, flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.text import (
    TextOptions,
    TextTable,
    decode_text,
    plain_name,
    read_text_table,
    read_traces,
)
from timerxl.untrusted import check_memory


@dataclass(frozen=True)
class Layout:
    """What a source's files mean; empty or None is what the layout does not know.

    Names are compared without case and accents. ``columns`` must all be there, and ``above`` stand
    in the lines above the names. A file without names is known by ``row``, a regular expression
    for its first row (joined by commas), and gets ``names``. ``whole`` columns hold whole numbers.

    ``times`` are joined by a space and read as ``time_format`` (strftime or ``unix``); ``timezone``
    is an IANA name or an offset. ``stamps`` says whether a stamp is the ``start`` or the ``end`` of
    its period, ``hours`` how long after a ``start`` the last value of the row is known (None: one
    step). ``rain`` lists columns, the first that is there counts. ``units`` and ``missing`` go by
    column, ``*`` is all. ``not_weather`` is a regular expression of names of flags and the like,
    ``labels`` of columns that tell the future. ``asks`` are the options which the file can't
    answer; ``suffixes`` are letters after numbers.
    """

    name: str
    document: str
    columns: tuple[str, ...] = ()
    above: str = ""
    row: str = ""
    names: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    time_format: str | None = None
    timezone: str | None = None
    stamps: str | None = None
    hours: float | None = None
    regions: tuple[str, ...] = ()
    rain: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    not_weather: str = ""
    labels: str = ""
    asks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suffixes: str = ""
    resolve: Callable[[TextTable, Layout], Layout] | None = None
    decode: Callable[[TextTable], TextTable] | None = None

    def unit_of(self, column: str) -> str | None:
        """Return the unit that the source gives a column."""
        plain = plain_name(column)
        return next((u for name, u in self.units.items() if plain_name(name) == plain), None)

    def missing_of(self, column: str) -> tuple[float, ...]:
        """Return the numbers that stand for missing in a column."""
        plain = plain_name(column)
        own = next((c for name, c in self.missing.items() if plain_name(name) == plain), None)
        return own if own is not None else self.missing.get("*", ())

    def is_weather(self, column: str) -> bool:
        """Tell whether a column is weather: no flag, place, name or label."""
        return not (
            self.not_weather and re.fullmatch(self.not_weather, column.strip(), re.IGNORECASE)
        )

    def is_label(self, column: str) -> bool:
        """Tell whether a column tells the future."""
        return bool(self.labels and re.fullmatch(self.labels, column.strip(), re.IGNORECASE))

    def rain_column(self, columns: Sequence[str]) -> str | None:
        """Return the column of rain among ``columns``, with or without a unit in brackets."""
        bare = {re.sub(r"_*\(.*$", "", plain_name(name)): name for name in reversed(columns)}
        full = {plain_name(name): name for name in columns}
        for name in map(plain_name, self.rain):
            if name in full or name in bare:
                return full.get(name) or bare[name]
        return None


# ----- Sources whose files say part of it themselves.


def _open_meteo(table: TextTable, layout: Layout) -> Layout:
    """Offset of the file, times since 1970 and the days of daily values."""
    offsets = {place.get("utc_offset_seconds", "0") for place in table.locations}
    first = table.frame.get("time")
    if first is None:
        raise InputError(f"{table.path} has no column time; say --header-line of its table.")
    is_unix = pd.api.types.is_numeric_dtype(first)
    if is_unix:
        is_daily = len(first) > 1 and float(first.diff().median()) >= 86_400
    else:
        is_daily = re.fullmatch(r"\d{4}-\d\d-\d\d", str(first.iloc[0])) is not None
    if len(offsets) > 1 and not is_unix:
        raise InputError(
            f"{table.path} holds places of different offsets from UTC ({', '.join(offsets)} s); "
            "download it with timezone=GMT."
        )
    seconds = int(offsets.pop()) if offsets and not is_unix else 0
    sign = "-" if seconds < 0 else "+"
    zone = f"{sign}{abs(seconds) // 3600:02}:{abs(seconds) % 3600 // 60:02}"
    note = f"{layout.name}: times are {zone} from UTC (utc_offset_seconds)."
    return replace(
        layout,
        timezone=zone,
        time_format="unix" if is_unix else None,
        stamps="start" if is_daily else "end",
        hours=24.0 if is_daily else None,
        notes=(note,) if seconds else (),
    )


def _power(table: TextTable, layout: Layout) -> Layout:
    """Local solar time by the longitude, units and the code for missing from the block above."""
    text = "\n".join(table.header_text)
    units = dict(layout.units)
    for match in re.finditer(r"^(\w+)\s.*\(([^()]+)\)\s*$", text, re.MULTILINE):
        units[match[1]] = match[2].strip()
    code = re.search(r"missing.*?:\s*(-?\d+(?:\.\d+)?)\s*$", text, re.IGNORECASE | re.MULTILINE)
    missing = {"*": (float(code[1]),)} if code else layout.missing
    hourly = any(plain_name(name) == "hr" for name in table.frame.columns)
    begins = f"{layout.name}: {'an hour' if hourly else 'a day'} begins at its stamp."
    changed = replace(
        layout,
        notes=(begins,),
        units={"PRECTOTCORR": "mm/hour" if hourly else "mm/day"} | units,
        missing=missing,
        stamps="start",
        hours=1.0 if hourly else 24.0,
    )
    standard = re.search(r"\bin (LST|UTC|GMT)\b", text)
    longitude = re.search(r"longitude\s+(-?\d+(?:\.\d+)?)", text, re.IGNORECASE)
    if standard is not None and standard[1] != "LST":
        return replace(changed, timezone="UTC", asks=())
    if longitude is None or (standard is None and not text):
        return changed
    offset = round(float(longitude[1]) / 15)  # POWER's LST: bands of 15 degrees
    note = f"{layout.name}: local solar time, {offset:+d} h from UTC by the longitude."
    return replace(
        changed,
        timezone=f"{'-' if offset < 0 else '+'}{abs(offset):02}:00",
        notes=(begins, note),
        asks=(),
    )


# ----- Decoders: what no table of names can say.


def _hourly(frame: pd.DataFrame, station: str, time: str) -> tuple[pd.DataFrame, int]:
    """Rows of minute 50 to 00 as of the full hour, one a station and hour; the number left out.

    That is the window of ISD-Lite (isd-lite-technical-document.txt). Of several reports in it the
    last value of each column counts.
    """
    times = pd.to_datetime(frame[time], errors="coerce", format="ISO8601")
    kept = times.notna() & ((times.dt.minute >= 50) | (times.dt.minute == 0))
    taken = frame[kept].copy()
    taken[time] = times[kept].dt.ceil("h").dt.strftime("%Y-%m-%dT%H:%M:%S")
    order = times[kept].sort_values(kind="stable").index
    taken = taken.loc[order].groupby([station, time], sort=True, as_index=False).last()
    return taken, len(frame) - len(taken)


_MOST_FIELDS = 6  # of a composite value that are looked at; one cell may hold a million commas


def _isd(table: TextTable) -> TextTable:
    """ISD's composite fields to columns with units; suspect and erroneous values are missing."""
    frame, made, suspect = table.frame, {}, 0
    for column, position, scale, gap, name in (
        ("WND", 0, 1.0, 999, "wind_direction (deg)"),
        ("WND", 3, 10.0, 9999, "wind_speed (m/s)"),
        ("TMP", 0, 10.0, 9999, "temperature (degC)"),
        ("DEW", 0, 10.0, 9999, "dew_point (degC)"),
        ("SLP", 0, 10.0, 99999, "sea_level_pressure (hPa)"),
    ):
        if column not in frame:
            continue
        parts = frame[column].astype("string").str.split(",", n=_MOST_FIELDS, expand=True)
        if parts.shape[1] <= position + 1:
            raise InputError(f"{table.path}: column {column} is not of the form of ISD (+0123,1).")
        values = pd.to_numeric(parts[position], errors="coerce").astype(np.float64)
        values = values.where(values.abs() != gap)
        bad = parts[position + 1].isin(["2", "3", "6", "7"]) & values.notna()
        suspect += int(bad.sum())
        made[name] = values.where(~bad.fillna(False).to_numpy(bool)) / scale
    rain, others = pd.Series(np.nan, index=frame.index), 0
    for column in [name for name in ("AA4", "AA3", "AA2", "AA1") if name in frame]:
        parts = frame[column].astype("string").str.split(",", n=_MOST_FIELDS, expand=True)
        parts = parts.reindex(columns=range(4))
        depth = pd.to_numeric(parts[1], errors="coerce").astype(np.float64)
        good = (depth.abs() != 9999) & ~parts[3].isin(["2", "3", "6", "7"]).fillna(False)
        one_hour = parts[0].eq("01").fillna(False)
        others += int((good & ~one_hour & depth.notna()).sum())
        rain = (depth / 10).where((good & one_hour).to_numpy(bool), rain)
    if rain.isna().all():
        raise InputError(
            f"{table.path} holds no rain of one hour (AA1 with period 01; {others:,} of longer "
            "periods): no hourly rain can be made of it."
        )
    made["precipitation_1h (mm)"] = rain
    keep = ["STATION", "DATE", *(n for n in ("LATITUDE", "LONGITUDE", "NAME") if n in frame)]
    decoded = pd.concat([frame[keep], pd.DataFrame(made)], axis=1)
    table.frame, left = _hourly(decoded, "STATION", "DATE")
    table.notes.append(
        f"reports of minute 50 to 00 count for the full hour; {left:,} others are left out, and "
        f"{others:,} falls of other periods than one hour."
    )
    if suspect:
        table.notes.append(f"{suspect:,} values marked suspect or erroneous are missing now.")
    return table


_ISD_LITE = (
    *("year", "month", "day", "hour", "temperature (degC)", "dew_point (degC)"),
    *("sea_level_pressure (hPa)", "wind_direction (deg)", "wind_speed (m/s)", "sky_condition"),
    *("precipitation_1h (mm)", "precipitation_6h (mm)"),
)


def _isd_lite(table: TextTable) -> TextTable:
    """Tenths to units; a trace of rain (-1) is 0."""
    frame = table.frame.copy()
    for name in _ISD_LITE[4:]:
        values = frame[name].astype(np.float64)
        values = values.where(values != -9999)
        if name.startswith("precipitation"):
            values = values.where(values != -1, 0.0)
        scale = 1.0 if name in ("wind_direction (deg)", "sky_condition") else 10.0
        frame[name] = values / scale
    table.frame = frame
    return table


def _lcd(table: TextTable) -> TextTable:
    """The hourly reports of an LCD file, with their hourly columns as numbers."""
    frame = table.frame
    kind = frame["REPORT_TYPE"].astype("string").str.strip()
    hourly = kind.isin(["FM-15", "FM-12"])
    names = [n for n in frame.columns if n.startswith("Hourly")]
    table.frame = frame.loc[hourly.to_numpy(bool), ["STATION", "DATE", *names]].reset_index(
        drop=True
    )
    if table.frame.empty:
        raise InputError(f"{table.path} holds no hourly reports (REPORT_TYPE FM-15 or FM-12).")
    numbers = [n for n in names if not re.search(r"WeatherType|SkyConditions|Remarks", n)]
    name = "HourlyWindDirection"
    if name in table.frame and not pd.api.types.is_numeric_dtype(table.frame[name]):
        words = table.frame[name].astype("string").str.strip()
        table.frame[name] = words.where(~words.isin(["VRB", "000V"]))
    table.notes += read_traces(table, numbers, suffixes="sV")
    table.frame, left = _hourly(table.frame, "STATION", "DATE")
    left += int((~hourly).sum())
    table.notes.append(
        f"reports FM-15 and FM-12 of minute 50 to 00 count for the full hour; {left:,} others "
        "(specials, sums of days and months) are left out."
    )
    return table


def _gsod(table: TextTable) -> TextTable:
    """Station pressures of 1,000 hPa and more, which the files write without the thousand."""
    if "STP" in table.frame:
        pressure = table.frame["STP"].astype(np.float64)
        table.frame["STP"] = pressure.where(pressure >= 200, pressure + 1000)
    return table


def _ghcn_access(table: TextTable) -> TextTable:
    """Values that failed a check of GHCN-Daily (second part of the attributes) are missing."""
    failed, made = 0, {}
    for name in table.frame.columns:
        flags = f"{name}_ATTRIBUTES"
        if flags not in table.frame or not pd.api.types.is_numeric_dtype(table.frame[name]):
            continue
        parts = table.frame[flags].astype("string").str.split(",").str[1]
        bad = (parts.fillna("").str.strip() != "").to_numpy(bool) & table.frame[name].notna()
        failed += int(bad.sum())
        made[name] = table.frame[name].astype(np.float64).where(~bad)
    table.frame = table.frame.assign(**made)
    if failed:
        table.notes.append(f"{failed:,} values that failed GHCN-Daily's checks are missing now.")
    return table


_BY_YEAR = ("ID", "DATE", "ELEMENT", "VALUE", "M_FLAG", "Q_FLAG", "S_FLAG", "OBS_TIME")


def _ghcn_long(table: TextTable) -> TextTable:
    """One row an element to one row a station and day."""
    frame = table.frame.rename(columns={"DATA_VALUE": "VALUE"})
    failed = frame["Q_FLAG"].astype("string").fillna("").str.strip() != ""
    if failed.any():
        table.notes.append(
            f"{int(failed.sum()):,} values that failed GHCN-Daily's checks are missing now."
        )
    values = frame.assign(VALUE=frame["VALUE"].astype(np.float64).where(~failed))
    days = values[["ID", "DATE"]].drop_duplicates().sort_values(["ID", "DATE"])
    elements = values["ELEMENT"].nunique()
    check_memory(40 * len(days) * elements, f"{table.path}: {elements:,} elements by day")
    # No pivot_table: that makes a row for every station on every day of any station.
    wide = values.groupby(["ID", "DATE", "ELEMENT"])["VALUE"].first().unstack("ELEMENT")
    wide = wide.loc[pd.MultiIndex.from_frame(days)]
    table.frame = wide.reset_index().rename_axis(columns=None)
    return table


def _dly(path: Path, text: str) -> TextTable:
    """The fixed columns of .dly files: a month of one element a line."""
    rows: dict[str, list[object]] = {
        name: [] for name in ("ID", "DATE", "ELEMENT", "VALUE", "Q_FLAG")
    }
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if len(line) < 29 or not re.fullmatch(r"\d{6}", line[11:17]):
            raise InputError(
                f"{path}: line {number} is not of the form of GHCN-Daily's .dly files."
            )
        for day in range(31):
            at = 21 + 8 * day
            word = line[at : at + 5].strip()
            if word in ("", "-9999"):
                continue
            rows["ID"].append(line[:11])
            rows["DATE"].append(int(line[11:17]) * 100 + day + 1)
            rows["ELEMENT"].append(line[17:21])
            rows["VALUE"].append(float(word))
            rows["Q_FLAG"].append(line[at + 6 : at + 7])
    if not rows["ID"]:
        raise InputError(f"{path} holds no values.")
    return TextTable(path=path, frame=pd.DataFrame(rows), header_line=0, first_line=1)


# ----- The table of layouts. The first that fits is taken.

_PLACE = r"latitude|longitude|elevation|name|call_sign|source|station_name"
_GHCN_UNITS = (
    {"PRCP": "0.1 mm", "SNOW": "mm", "SNWD": "mm", "EVAP": "0.1 mm", "AWND": "0.1 m/s"}
    | dict.fromkeys(("TMAX", "TMIN", "TAVG", "TOBS", "ADPT", "AWBT"), "0.1 degC")
    | dict.fromkeys(("WSFG", "WSF1", "WSF2", "WSF5", "WSFM"), "0.1 m/s")
    | dict.fromkeys(("RHAV", "RHMN", "RHMX", "PSUN"), "percent")
    | dict.fromkeys(("ASLP", "ASTP"), "0.1 hPa")
)
_GHCN_FLAGS = rf".*_attributes|{_PLACE}|pgtm|fmtm|wt\d\d|wv\d\d|.*tm|mdpr|da..|md.."
_POWER = Layout(
    "NASA POWER",
    "power.larc.nasa.gov/docs: hourly and daily API, CSV; hours begin at their stamp",
    columns=("YEAR", "MO", "DY"),
    above="NASA/POWER",
    rain=("PRECTOTCORR", "PRECTOT", "IMERG_PRECTOT"),
    missing={"*": (-999.0,)},
    asks=("--timezone",),
    resolve=_power,
)
_METEOSTAT = Layout(
    "Meteostat hourly",
    "dev.meteostat.net/formats.html, /python/hourly.html and /bulk/hourly.html",
    timezone="UTC",
    stamps="end",
    regions=("station",),
    rain=("prcp",),
    units={"rhum": "percent", "prcp": "mm", "snow": "mm", "wdir": "degree", "wspd": "km/h"}
    | dict.fromkeys(("temp", "tavg", "tmin", "tmax", "dwpt"), "degC")
    | {"wpgt": "km/h", "pres": "hPa", "tsun": "min"},
    not_weather=r"coco|.*_source|.*_flag",
)
_METEOSTAT_DAILY = replace(_METEOSTAT, name="Meteostat daily", timezone=None, stamps=None)
_DWD_FLAGS = r"qn.*|eor|rs_ind|wrtr|rskf|rsf|rws_ind_10|rws_dau_10|rr_.*ind.*|struktur_version|.*_i"
_DWD_UNITS = (
    dict.fromkeys("r1 rs rsk rws_10".split(), "mm")
    | dict.fromkeys("tt_tu tt_10 tm5_10 td_10 td tt tmk txk tnk tgk".split(), "degC")
    | dict.fromkeys("rf_tu rf_10 rf_std upm".split(), "percent")
    | dict.fromkeys("p p0 pp_10 pm vpm".split(), "hPa")
    | dict.fromkeys("f ff_10 fx fm fx_10".split(), "m/s")
    | {"shk_tag": "cm", "sh_tag": "cm", "nsh_tag": "cm", "sdk": "hour", "d": "degree"}
)
_DWD = Layout(
    "DWD CDC",
    "DWD, opendata.dwd.de/climate_environment/CDC: DESCRIPTION_obsgermany_climate of each product",
    columns=("STATIONS_ID", "MESS_DATUM"),
    times=("MESS_DATUM",),
    timezone="UTC",
    stamps="end",
    regions=("STATIONS_ID",),
    rain=("R1", "RWS_10", "RSK", "RS"),
    units=_DWD_UNITS,
    missing={"*": (-999.0,)},
    not_weather=_DWD_FLAGS,
)
_GHCN = Layout(
    "GHCN-Daily",
    "NOAA NCEI, GHCN-Daily readme.txt and readme-by_year.txt",
    columns=("ID", "DATE", "ELEMENT", "VALUE", "Q_FLAG"),
    times=("DATE",),
    regions=("ID", "STATION"),
    rain=("PRCP",),
    units=_GHCN_UNITS,
    missing={"*": (-9999.0,)},
    not_weather=_GHCN_FLAGS,
    notes=(
        "GHCN-Daily: rain is in tenths of mm, of the 24 hours that end at the station's hour of "
        "observation; the row is stamped at the end of its date.",
    ),
    decode=_ghcn_long,
)
_INMET = Layout(
    "INMET",
    "INMET, portal.inmet.gov.br/dadoshistoricos: hourly files of the automatic stations",
    columns=("Data", "Hora UTC"),
    times=("Data", "Hora UTC"),
    timezone="UTC",
    stamps="end",
    rain=("PRECIPITAÇÃO TOTAL, HORÁRIO (mm)",),
    missing={"*": (-9999.0,)},
)
LAYOUTS = (
    Layout(
        "Open-Meteo",
        "open-meteo.com/en/docs: CSV; sums are of the preceding hour, one offset for all times",
        columns=("time",),
        above="utc_offset_seconds",
        times=("time",),
        regions=("location_id",),
        rain=("precipitation", "precipitation_sum", "rain", "rain_sum"),
        not_weather=r"(weather_?code|is_day|sunrise|sunset).*",
        resolve=_open_meteo,
    ),
    _POWER,
    replace(_POWER, columns=("YEAR", "DOY")),
    replace(_POWER, columns=("YEAR", "PRECTOTCORR"), above=""),  # the block above was cut off
    Layout(
        "ISD",
        "NOAA NCEI, isd-format-document.pdf and csv-format-document.pdf (global-hourly)",
        columns=("STATION", "DATE", "REPORT_TYPE", "WND", "TMP", "DEW"),
        times=("DATE",),
        timezone="UTC",
        stamps="end",
        regions=("STATION",),
        rain=("precipitation_1h",),
        not_weather=_PLACE,
        decode=_isd,
    ),
    Layout(
        "ISD-Lite",
        "NOAA NCEI, isd-lite-format.txt",
        row=r"(\d{4},\d{1,2},\d{1,2},\d{1,2})(,-?\d+){8}",
        names=_ISD_LITE,
        times=_ISD_LITE[:4],
        timezone="UTC",
        stamps="end",
        rain=("precipitation_1h",),
        not_weather=r"sky_condition|precipitation_6h.*",
        decode=_isd_lite,
    ),
    Layout(
        "GSOD",
        "NOAA NCEI, Global Surface Summary of the Day readme.txt",
        columns=("STATION", "DATE", "FRSHTT", "PRCP", "PRCP_ATTRIBUTES"),
        times=("DATE",),
        timezone="UTC",
        regions=("STATION",),
        rain=("PRCP",),
        units={"PRCP": "inch", "SNDP": "inch", "SLP": "hPa", "STP": "hPa", "VISIB": "mile"}
        | dict.fromkeys(("TEMP", "DEWP", "MAX", "MIN"), "degF")
        | dict.fromkeys(("WDSP", "MXSPD", "GUST"), "knot"),
        missing={"PRCP": (99.99,)}
        | dict.fromkeys(("SNDP", "VISIB", "WDSP", "MXSPD", "GUST", "STP"), (999.9,))
        | dict.fromkeys(("TEMP", "DEWP", "MAX", "MIN", "SLP"), (9999.9,)),
        not_weather=rf".*_attributes|frshtt|{_PLACE}",
        decode=_gsod,
    ),
    Layout(
        "LCD",
        "NOAA NCEI, LCD_documentation.pdf: local standard time; version 1 in US units, 2 metric",
        columns=("STATION", "DATE", "REPORT_TYPE", "HourlyPrecipitation"),
        times=("DATE",),
        stamps="end",
        regions=("STATION",),
        rain=("HourlyPrecipitation",),
        not_weather=r".*(WeatherType|SkyConditions|Remarks)",
        asks=("--precipitation-unit", "--timezone"),
        notes=("LCD: times are local standard time, without daylight saving.",),
        suffixes="s",
        decode=_lcd,
    ),
    Layout(
        "LCD",
        "NOAA NCEI, LCD_documentation.pdf: columns taken out of a file",
        columns=("HourlyPrecipitation",),
        rain=("HourlyPrecipitation",),
        asks=("--precipitation-unit",),
        suffixes="s",
    ),
    replace(
        _GHCN,
        columns=("STATION", "DATE", "PRCP", "PRCP_ATTRIBUTES"),
        whole=("PRCP", "TMAX", "TMIN"),
        decode=_ghcn_access,
    ),
    _GHCN,
    replace(_GHCN, columns=("ID", "DATE", "ELEMENT", "DATA_VALUE", "Q_FLAG")),
    replace(
        _GHCN, columns=(), row=r"[A-Z0-9_-]{11},\d{8},[A-Z0-9]{4},-?\d+(,[^,]*){4}", names=_BY_YEAR
    ),
    Layout(
        "Climate Data Online",
        "NOAA NCEI, CDO daily summaries (CSV); units as chosen at the download",
        columns=("STATION", "DATE", "PRCP"),
        times=("DATE",),
        regions=("STATION",),
        rain=("PRCP",),
        not_weather=_GHCN_FLAGS,
        asks=("--precipitation-unit",),
        notes=("Climate Data Online: the file does not tell whether rain is in mm or inches.",),
    ),
    _INMET,
    replace(
        _INMET,
        columns=("DATA (YYYY-MM-DD)", "HORA (UTC)"),
        times=("DATA (YYYY-MM-DD)", "HORA (UTC)"),
    ),
    replace(
        _DWD,
        name="DWD CDC daily",
        columns=("STATIONS_ID", "MESS_DATUM", "RSK"),
        stamps="start",
        hours=30.0,
        notes=(
            "DWD CDC daily: rain is of 06 UTC to 06 UTC of the next day; the row is stamped there, "
            "where all of it is known.",
        ),
    ),
    replace(
        _DWD,
        name="DWD CDC daily",
        columns=("STATIONS_ID", "MESS_DATUM", "RS"),
        stamps="start",
        hours=30.0,
        notes=("DWD CDC daily: rain is of 06 UTC to 06 UTC of the next day, the row's stamp.",),
    ),
    _DWD,
    replace(_METEOSTAT, columns=("time", "temp", "dwpt", "rhum", "prcp"), times=("time",)),
    replace(  # bulk files with names
        _METEOSTAT,
        columns=("year", "month", "day", "hour", "temp", "prcp", "wspd"),
        times=("year", "month", "day", "hour"),
        units={**_METEOSTAT.units, "snwd": "cm"},
    ),
    replace(  # bulk files without names
        _METEOSTAT,
        row=r"\d{4}-\d\d-\d\d,\d{1,2}(,[^,]*){11}",
        names=("date", "hour", *"temp dwpt rhum prcp snow wdir wspd wpgt pres tsun coco".split()),
        times=("date", "hour"),
    ),
    replace(_METEOSTAT_DAILY, columns=("tavg", "tmin", "tmax", "prcp")),
    replace(  # bulk files without names
        _METEOSTAT_DAILY,
        row=r"\d{4}-\d\d-\d\d(,[^,]*){10}",
        names=("date", *"tavg tmin tmax prcp snow wdir wspd wpgt pres tsun".split()),
        times=("date",),
    ),
    Layout(
        "weatherAUS",
        "Kaggle, Rain in Australia; Bureau of Meteorology, bom.gov.au/climate/dwo: daily notes",
        columns=("Date", "Location", "Rainfall", "RainToday"),
        times=("Date",),
        regions=("Location",),
        rain=("Rainfall",),
        units={"Rainfall": "mm", "Evaporation": "mm", "Sunshine": "hour", "WindGustSpeed": "km/h"}
        | dict.fromkeys(("MinTemp", "MaxTemp", "Temp9am", "Temp3pm"), "degC")
        | dict.fromkeys(("WindSpeed9am", "WindSpeed3pm"), "km/h")
        | dict.fromkeys(("Humidity9am", "Humidity3pm"), "percent")
        | dict.fromkeys(("Pressure9am", "Pressure3pm"), "hPa")
        | dict.fromkeys(("Cloud9am", "Cloud3pm"), "okta"),
        labels=r"RISK_MM|RainTomorrow",
        notes=("weatherAUS: rain is of the 24 hours to 9 a.m. of the date (local time).",),
    ),
    Layout(
        "Jena (MPI BGC)",
        "bgc-jena.mpg.de/wetter: 10-minute files; also weather.csv of Time-Series-Library",
        columns=("p (mbar)", "T (degC)"),
        times=("Date Time", "date"),
        rain=("rain (mm)",),
        missing={"*": (-9999.0,)},
    ),
    Layout(
        "Beijing multi-site",
        "UCI 501, Beijing Multi-Site Air-Quality Data: local time of hours 0 to 23",
        columns=("year", "month", "day", "hour", "TEMP", "PRES", "DEWP", "RAIN", "WSPM"),
        times=("year", "month", "day", "hour"),
        timezone="+08:00",
        regions=("station",),
        rain=("RAIN",),
        units={"TEMP": "degC", "DEWP": "degC", "PRES": "hPa", "RAIN": "mm", "WSPM": "m/s"},
        not_weather=r"No",
    ),
    Layout(
        "Weather Underground daily",
        "wunderground.com history, as in Kaggle's austin_weather.csv: units in the names",
        columns=("Date", "PrecipitationSumInches"),
        times=("Date",),
        rain=("PrecipitationSumInches",),
        units={"PrecipitationSumInches": "inch"},
        not_weather=r"Events",
    ),
    Layout(
        "IEM ASOS",
        "Iowa Environmental Mesonet, mesonet.agron.iastate.edu/request/download.phtml: UTC",
        columns=("station", "valid", "tmpf", "p01i"),
        times=("valid",),
        timezone="UTC",
        stamps="end",
        regions=("station",),
        rain=("p01i",),
        units={"p01i": "inch", "tmpf": "degF", "dwpf": "degF", "relh": "percent", "sknt": "knot"}
        | {"alti": "inHg", "mslp": "hPa", "gust": "knot", "drct": "degree", "vsby": "mile"},
        not_weather=r"lat|lon|elevation|metar|skyc\d|wxcodes|peak_wind_time",
    ),
)


def find_layout(table: TextTable) -> Layout | None:
    """Find the known layout of a table, with what its lines above say; None for any other."""
    present = {plain_name(str(name)) for name in table.frame.columns}
    above = "\n".join(table.header_text)
    row = ",".join("" if pd.isna(v) else str(v) for v in table.frame.iloc[0])
    for layout in LAYOUTS:
        if layout.row:
            fits = table.header_line == 0 and re.fullmatch(layout.row, row) is not None
        else:
            fits = {plain_name(name) for name in layout.columns} <= present
        if not fits or layout.above not in above:
            continue
        if not all(_is_whole(table.frame[name]) for name in layout.whole if name in table.frame):
            continue
        return layout.resolve(table, layout) if layout.resolve is not None else layout
    return None


def _is_whole(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and bool((column.dropna() % 1 == 0).all())


def read_known_table(
    path: Path, options: TextOptions | None = None, text_columns: Sequence[str] | None = None
) -> tuple[TextTable, Layout | None]:
    """Read a text table, recognise its layout and decode it.

    Raises InputError as :func:`read_text_table` does, and for a table without column names that
    is of no known layout.
    """
    options = options or TextOptions()
    if path.name.lower().removesuffix(".gz").endswith(".dly"):
        text, _, notes = decode_text(path, options.encoding)
        table = _dly(path, text)
        table.notes += notes
        return _ghcn_long(table), _said(table, replace(_GHCN, names=()))
    table = read_text_table(path, options, text_columns)
    layout = find_layout(table)
    if layout is None:
        if table.header_line == 0 and options.header_line is None:
            raise InputError(
                f"{path}: line {table.first_line} holds values and no line above it column names; "
                "add a line of names, or say --header-line (0 for column_1, column_2, ...)."
            )
        return table, None
    if layout.names:
        table.frame = table.frame.set_axis(layout.names[: table.frame.shape[1]], axis=1)
        table.not_numbers = {}
    if layout.decode is not None:
        table = layout.decode(table)
    return table, _said(table, layout)


def _said(table: TextTable, layout: Layout) -> Layout:
    table.notes.append(f"the layout of {layout.name} is recognised.")
    table.notes += layout.notes
    return layout
