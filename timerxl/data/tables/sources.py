"""Read the files of sources that a table of names can't describe: composite values, flags, places.

A layout in layouts.yaml names these functions: ``resolve`` completes the layout by what the file
says of itself, ``decode`` makes columns of numbers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.text import Layout, TextTable, plain_name, read_traces
from timerxl.untrusted import check_memory


def open_meteo(table: TextTable, layout: Layout) -> Layout:
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


def power(table: TextTable, layout: Layout) -> Layout:
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


def isd(table: TextTable) -> TextTable:
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


def isd_lite(table: TextTable) -> TextTable:
    """Tenths to units; a trace of rain (-1) is 0."""
    frame = table.frame.copy()
    for name in frame.columns[4:]:
        values = frame[name].astype(np.float64)
        values = values.where(values != -9999)
        if name.startswith("precipitation"):
            values = values.where(values != -1, 0.0)
        scale = 1.0 if name in ("wind_direction (deg)", "sky_condition") else 10.0
        frame[name] = values / scale
    table.frame = frame
    return table


def lcd(table: TextTable) -> TextTable:
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


def gsod(table: TextTable) -> TextTable:
    """Station pressures of 1,000 hPa and more, which the files write without the thousand."""
    if "STP" in table.frame:
        pressure = table.frame["STP"].astype(np.float64)
        table.frame["STP"] = pressure.where(pressure >= 200, pressure + 1000)
    return table


def ghcn_access(table: TextTable) -> TextTable:
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


def ghcn_long(table: TextTable) -> TextTable:
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


def dly(path: Path, text: str) -> TextTable:
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


# By the names that layouts.yaml uses.
RESOLVERS = {"open_meteo": open_meteo, "power": power}
DECODERS = {
    "isd": isd,
    "isd_lite": isd_lite,
    "lcd": lcd,
    "gsod": gsod,
    "ghcn_access": ghcn_access,
    "ghcn_long": ghcn_long,
}
