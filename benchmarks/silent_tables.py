"""Layouts of tables for benchmarks/silent_errors.py: how the world writes one hourly truth down.

SYNTHETIC data. A layout says of each feature what it is and whether the file or an option tells it;
what nothing tells may be refused, or assumed with a note, and never guessed without a word.
"""

from __future__ import annotations

import gzip
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.silent_judge import MAY_LACK, Case, Reading, combinations
from benchmarks.silent_truth import (
    DAY,
    HOUR,
    Truth,
    make_truth,
    running_totals,
    shares,
    total_start,
)

# mm in one unit, whether it is a rate (per hour), digits behind the point.
RAIN_UNITS = {
    "mm": (1.0, False, 1), "cm": (10.0, False, 2), "in": (25.4, False, 2), "m": (1000.0, False, 4),
    "0.1 mm": (0.1, False, 0), "mm/h": (1.0, True, 1), "kg m-2": (1.0, False, 1),
    "kg m-2 s-1": (3600.0, True, 8),
}  # fmt: skip
SUFFIXES = {"mm": "_mm", "cm": "_cm", "in": "_in", "m": "_m"}
NUMBER_CODES = (
    "-999 -9999 99.99 999.9 9999.9 32767 9.96921e36 -99.9 -9999.0 -32768 9999 999".split()
)
WORD_CODES = ("", "NA", "-", "M", "NaN", "null", "n/a", "NULL", "---")
ZONES = ("UTC", "America/Lima", "Asia/Kolkata", "America/New_York", "Europe/Berlin",
         "Australia/Sydney")  # fmt: skip
CHANGING = ZONES[3:]
# Names in the languages of the encodings: rain, temperature, pressure, wind, direction.
NAMES = {
    "english": ("precipitation", "temperature", "pressure", "wind_speed", "wind_direction"),
    "short": ("tp", "temp", "pres", "wspd", "wdir"),
    "usual": ("rain", "TEMP", "PRES", "WSPM", "wd"),
    "portuguese": ("PRECIPITAÇÃO TOTAL", "TEMPERATURA DO AR", "PRESSÃO ATMOSFÉRICA",
                   "VENTO, VELOCIDADE", "VENTO, DIREÇÃO"),
    "chinese": ("降水量", "气温", "气压", "风速", "风向"),
}  # fmt: skip
REGION_NAMES = ("region", "station", "STATION", "Station Id", "site", "city", "estacion", "id")
REGIONS = (("north", "south", "east"), ("007", "012", "100"), ("NA", "NB", "NC"),
           ("1e5", "2e5", "1e10"), ("Lima", "Piura", "Cusco"), ("54511", "54512", "5"))  # fmt: skip
TIME_NAMES = ("timestamp", "time", "datetime", "valid", "Date")
POINTS = "N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW".split()
FORMATS = {
    "iso": "%Y-%m-%d %H:%M:%S", "isoT": "%Y-%m-%dT%H:%M", "dmy": "%d.%m.%Y %H:%M",
    "mdy": "%m/%d/%Y %H:%M", "dmy_slash": "%d/%m/%Y %H:%M", "compact": "%Y%m%d%H",
    "compact_minutes": "%Y%m%d%H%M", "ampm": "%m/%d/%Y %I:%M %p",
}  # fmt: skip
DATES = {
    "iso": "%Y-%m-%d", "dmy": "%d.%m.%Y", "mdy": "%m/%d/%Y", "dmy_slash": "%d/%m/%Y",
    "compact": "%Y%m%d",
}  # fmt: skip
OTHER_FORMATS = ("two", "two_utc", "unix", "parts", "hour24")
SEPARATORS = {",": ",", ";": ";", "tab": "\t"}
# The options of launch/prepare_data.py for tables, in one place.
OPTIONS = {
    "time": "--timestamp-column", "format": "--time-format", "zone": "--timezone",
    "stamps": "--stamps", "region": "--region-column", "name": "--region",
    "rain": "--precipitation-column", "unit": "--precipitation-unit", "other unit": "--unit",
    "missing": "--missing",
    "meaning": "--meaning", "encoding": "--encoding", "separator": "--separator",
    "decimal": "--decimal", "header": "--header-line", "directions": "--directions",
}  # fmt: skip


@dataclass
class TableLayout:
    """One way to write a table. What ends in ``_said`` or ``_told`` says whether it's told.

    The default is the plainest table there is: one region, hourly mm, ISO times in UTC.
    """

    climates: tuple[str, ...] = ("wet",)
    regions: tuple[str, ...] = ("north",)
    days: int = 40
    first: str = "2021-03-01"
    step: int = 1
    unit: str = "mm"
    unit_told: str = "brackets"  # brackets, suffix, option, line (of units), nothing
    amounts: str = "sum"  # sum, running, counter, one hour (of a longer step)
    period: int = 24  # of running totals, which start again at ``reset`` hours, local time
    reset: int = 0
    meaning_said: bool = False
    code: str | None = None
    code_in: str = "rain"  # rain, others, direction, all
    code_said: bool = False
    traces: bool = False
    stamps: str = "end"
    stamps_said: bool = False
    zone: str = "UTC"
    zone_told: str = "offset"  # offset (in the text), option, name (of the column), nothing
    time_format: str = "iso"
    format_said: bool = False
    time_name: str = "timestamp"
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    text_said: bool = False  # encoding, separator and decimal sign by options
    header_lines: int = 0
    header_said: bool = False
    names: str = "english"
    region_column: str | None = "region"
    region_said: bool = True
    order: str = "sorted"  # sorted, interleaved, shuffled, newest first
    rows: str = "all"  # all, gaps, doubled, contradicting
    split: str = "no"  # no, region, year
    container: str = "csv"  # csv, txt, tsv, gz, zip, parquet
    direction: str = "degrees"  # degrees, points, calm, none
    directions_said: str | None = None
    others_said: bool = False  # the units of temperature and pressure


def draw_table(rng: np.random.Generator) -> TableLayout:
    """A random layout: few or many features differ from the plain table."""
    much = rng.choice([0.1, 0.25, 0.5])
    layout = TableLayout()

    def pick(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def differs(chance: float = 1.0) -> bool:
        return bool(rng.random() < much * chance)

    def told(chance: float = 0.7) -> bool:
        return bool(rng.random() < chance)

    count = int(pick([1, 1, 2, 3]))
    layout.climates = tuple(pick(["wet", "wet", "dry", "arid"]) for _ in range(count))
    layout.regions = (pick(REGIONS) if differs() else REGIONS[0])[:count]
    layout.step = int(pick([3, 6, 12, 24, 24])) if differs() else 1
    layout.days = int(rng.integers(60, 400) if layout.step > 1 else rng.integers(30, 60))
    if differs(0.2):
        layout.days = int(rng.integers(200, 400))
    layout.first = str(pick(["2021-03-01", "2020-12-11", "2021-10-05", "2019-01-01", "2020-02-10"]))
    if differs():
        layout.unit = str(pick(list(RAIN_UNITS)))
    ways = ["brackets", "suffix", "option", "line", "nothing"]
    layout.unit_told = str(pick(ways)) if differs() else "brackets"
    if differs(0.6):
        layout.amounts = str(pick(["running", "running", "counter", "one hour"]))
        layout.period, layout.reset = int(pick([24, 24, 12, 6])), int(pick([0, 0, 0, 7, 9]))
        layout.meaning_said = told(0.3)
    if differs():
        layout.code = str(pick(NUMBER_CODES if told(0.6) else WORD_CODES))
        layout.code_in, layout.code_said = (
            str(pick(["rain", "others", "direction", "all"])),
            told(0.5),
        )
    layout.traces = differs(0.2)
    if differs(0.7):
        layout.stamps = "start"
    layout.stamps_said = told(0.5) if layout.stamps == "start" else differs(0.3)
    if differs():
        layout.zone = str(pick(ZONES))
        layout.zone_told = str(pick(["offset", "option", "nothing"]))
    elif differs():
        layout.zone_told = str(pick(["option", "name", "nothing"]))
    if differs():
        layout.time_format = str(pick([*FORMATS, *OTHER_FORMATS]))
        layout.format_said = told(0.5)
    layout.time_name = str(pick(TIME_NAMES)) if differs() else "timestamp"
    if differs():
        layout.separator = str(pick(list(SEPARATORS)))
        layout.decimal = str(pick([".", ","]))
    if differs(0.5):
        layout.encoding = str(pick(["utf-8-sig", "latin-1", "utf-16", "gbk"]))
    layout.text_said = differs()
    if differs(0.5):
        layout.header_lines, layout.header_said = int(rng.integers(1, 13)), told(0.4)
    if differs():
        layout.names = str(pick(list(NAMES)))
    if differs():
        layout.region_column = pick([*REGION_NAMES, None, None])
        layout.region_said = told(0.7)
    if differs(0.7):
        layout.order = str(pick(["interleaved", "interleaved", "shuffled", "newest first"]))
    if differs(0.7):
        layout.rows = str(pick(["gaps", "gaps", "doubled", "contradicting"]))
    if differs(0.4):
        layout.split = str(pick(["region", "year"]))
    if differs(0.5):
        layout.container = str(pick(["txt", "tsv", "gz", "zip", "parquet"]))
    if differs():
        layout.direction = str(pick(["points", "calm", "none"]))
    layout.others_said = differs(0.5)
    layout.directions_said = pick(["as_is", "sin_cos"]) if differs(0.3) else None
    return possible(layout)


def possible(layout: TableLayout) -> TableLayout:
    """The same layout without what can't be written: contradictions go, nothing else."""
    made = layout
    if made.unit_told == "suffix" and made.unit not in SUFFIXES:
        made.unit_told = "brackets"
    if made.names in ("portuguese", "chinese") and made.unit_told == "suffix":
        made.unit_told = "brackets"
    if RAIN_UNITS[made.unit][1] and made.amounts != "sum":
        made.amounts = "sum"  # a rate doesn't add up
    if made.amounts == "running" and (made.step >= made.period or made.zone in CHANGING):
        made.amounts = "sum"
    if made.amounts == "running":
        made.reset = made.reset // made.step * made.step % made.period
    if made.amounts == "one hour" and made.step in (1, 24):  # a date has no hour
        made.amounts = "sum"
    if made.step in (3, 6, 12) and (made.zone in CHANGING or made.zone == "Asia/Kolkata"):
        made.zone = "America/Lima"
    if made.time_format == "two_utc":  # as a service does that stamps the end
        made.zone, made.stamps = "UTC", "end"
    if made.step == 24 and made.time_format not in DATES:
        made.time_format = "iso"
    if made.step == 24:
        made.stamps = "start"  # a date is a day's
    if made.time_format == "hour24":
        made.stamps = "end"
    if made.zone_told == "offset" and (made.time_format not in ("iso", "isoT") or made.step == 24):
        made.zone_told = "option"
    if made.zone_told == "name" and made.zone != "UTC":
        made.zone_told = "option"
    if made.encoding in ("latin-1", "gbk") and made.names not in ("portuguese", "chinese"):
        made.names = "portuguese" if made.encoding == "latin-1" else "chinese"
    if made.names == "chinese" and made.encoding == "latin-1":
        made.encoding = "gbk"
    if made.names == "portuguese" and made.encoding == "gbk":
        made.encoding = "latin-1"
    if made.split == "region" and len(made.regions) == 1:
        made.split = "no"
    if len(made.regions) > 1 and made.region_column is None and made.split != "region":
        made.region_column = "region"
    if made.container == "parquet":
        made.separator, made.decimal, made.encoding, made.header_lines = ",", ".", "utf-8", 0
        made.unit_told = "brackets" if made.unit_told == "line" else made.unit_told
        made.traces = False
    if made.container == "tsv":
        made.separator = "tab"
    if made.traces and made.amounts != "sum":
        made.traces = False
    return made


def table_case(layout: TableLayout, folder: Path, rng: np.random.Generator) -> Case:
    """Write the layout into ``folder``; see :class:`benchmarks.silent_judge.Case`."""
    rows = _rows_of(layout, rng)
    files = _write(layout, rows, folder)
    return Case(
        layout=layout,
        arguments=[*map(str, files), *_options(layout)],
        readings=_readings(layout, rows),
        units={
            NAMES[layout.names][1]: ("temperature", "degC"),
            NAMES[layout.names][2]: ("pressure", "hPa"),
            NAMES[layout.names][3]: ("wind", "m/s"),
        },
        direction=NAMES[layout.names][4] if layout.direction != "none" else None,
        regions_told=layout.region_column is not None or layout.split == "region",
    )


@dataclass
class _Rows:
    """The rows as they will stand there: ``frame`` holds texts, the arrays [R] what is true.

    ``begins`` and ``ends`` are seconds UTC, ``local`` the naive local stamps of the text,
    ``number_mm`` the mm in a rain of 1, ``known`` {column: whether it's no code}.
    """

    texts: pd.DataFrame
    region: np.ndarray
    ends: np.ndarray
    local: np.ndarray
    rain_mm: np.ndarray
    as_written_mm: np.ndarray
    may_lack: np.ndarray
    others: dict[str, np.ndarray]
    number_mm: float


def _local_days(first: int, days: int, zone: str) -> np.ndarray:
    """[days + 1] seconds UTC at which the local days begin."""
    start = pd.Timestamp(first, unit="s")
    return (
        pd.date_range(start, periods=days + 1, freq="D", tz=zone)
        .tz_convert("UTC")
        .tz_localize(None)
        .to_numpy()
        .astype("datetime64[s]")
        .astype(np.int64)
    )


def _local(seconds: np.ndarray, zone: str) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(seconds.astype("datetime64[s]")).tz_localize("UTC").tz_convert(zone)


def _rows_of(layout: TableLayout, rng: np.random.Generator) -> _Rows:
    midnight = int(np.datetime64(layout.first, "s").astype(np.int64))
    days = _local_days(midnight, layout.days, layout.zone)
    hours = int(days[-1] - days[0]) // HOUR
    truth = make_truth(rng, list(layout.climates), int(days[0]) + HOUR, hours)
    if layout.step == 24:
        begins, ends = days[:-1], days[1:]
    else:
        ends = np.arange(int(days[0]) + layout.step * HOUR, int(days[-1]) + 1, layout.step * HOUR)
        begins = ends - layout.step * HOUR
    scale, is_rate, digits = RAIN_UNITS[layout.unit]
    number_mm = scale * (layout.step if is_rate else 1)
    parts = [
        _rows_of_region(layout, truth, region, begins, ends, number_mm, digits, rng)
        for region in range(len(layout.regions))
    ]
    joined = pd.concat(parts, ignore_index=True)
    joined = _ordered(layout, joined, rng)
    others = NAMES[layout.names][1 : 4 if layout.direction == "none" else 5]
    names = [name for name in joined if str(name).startswith("text ")]
    return _Rows(
        texts=joined[names].rename(columns=lambda name: str(name).removeprefix("text ")),
        region=joined["region"].to_numpy(object),
        ends=joined["end"].to_numpy(np.int64),
        local=joined["local"].to_numpy(np.int64),
        rain_mm=joined["rain"].to_numpy(np.float64),
        as_written_mm=joined["as written"].to_numpy(np.float64),
        may_lack=joined["may lack"].to_numpy(bool),
        others={name: joined[f"true {name}"].to_numpy(np.float64) for name in others},
        number_mm=number_mm,
    )


def _rows_of_region(
    layout: TableLayout,
    truth: Truth,
    region: int,
    begins: np.ndarray,
    ends: np.ndarray,
    number_mm: float,
    digits: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Truth and texts of one region: columns end, local, region, rain, true NAME, text NAME."""
    rain_name, *other_names = NAMES[layout.names]
    first, last = (np.searchsorted(truth.ends, edge) for edge in (begins + 1, ends + 1))
    sums = np.concatenate([[0.0], np.cumsum(truth.rain_mm[region])])
    amounts = sums[last] - sums[first]
    if layout.amounts == "one hour":
        amounts = truth.rain_mm[region][last - 1]
    units = np.rint(amounts / number_mm * 10**digits) / 10**digits  # what the gauge can show
    rows = pd.DataFrame({"region": layout.regions[region], "end": ends})
    stamps = ends if layout.stamps == "end" else begins
    zoned = _local(stamps, layout.zone)
    rows["local"] = zoned.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
    written, starts = units, ends
    if layout.amounts == "running":
        offset = int(rows["local"].iloc[0] - stamps[0])
        starts = total_start(ends, layout.period * HOUR, layout.reset * HOUR - offset)
        written = running_totals(ends, units, starts)
    elif layout.amounts == "counter":
        written = np.cumsum(units) + 120
    means = layout.step == 24
    fields = (truth.temperature, truth.pressure, truth.wind, truth.direction)
    values = {
        name: _means(field[region], first, last) if means else field[region][last - 1]
        for name, field in zip(other_names[:3], fields[:3], strict=True)
    }
    values = {name: np.round(column, 1) for name, column in values.items()}
    texts = {name: _numbers(column, 1, layout) for name, column in values.items()}
    if layout.direction != "none":
        angle = fields[3][region][last - 1]
        values[other_names[3]], texts[other_names[3]] = _direction(layout, angle, rng)
    rain_texts = _numbers(written, digits, layout)
    coded = _codes(layout, texts, {rain_name: written, **values}, rain_name, rng)
    if rain_name in coded:
        written = np.where(coded[rain_name], np.nan, written)
        rain_texts = np.where(coded[rain_name], _code(layout), rain_texts)
    if layout.traces:
        trace = (units == 0) & ~np.isnan(written) & (rng.random(len(units)) < 0.05)
        rain_texts = np.where(trace, "T", rain_texts)
    kept = np.ones(len(ends), dtype=bool)
    if layout.rows == "gaps":
        kept[1:-1] = rng.random(len(ends) - 2) > 0.02
        # Of an hour that autumn doubles, the one that's left can't be told.
        kept |= rows["local"].duplicated(keep=False).to_numpy()
    true, lack = written * number_mm, np.zeros(len(ends), dtype=bool)
    if layout.amounts == "running":
        true = np.full(len(ends), np.nan)
        totals = ends[kept], written[kept], starts[kept], layout.step, layout.step * HOUR
        true[kept] = shares(*totals, zero_is_zero=True) * number_mm
        lack[kept] = np.isnan(shares(*totals)) & ~np.isnan(true[kept])
    elif layout.amounts == "counter":
        true = np.concatenate([[np.nan], np.diff(written)]) * number_mm
    rows["rain"], rows["as written"], rows["may lack"] = true, written, lack
    for name, column in values.items():
        lost = coded.get(name, np.zeros(len(ends), dtype=bool))
        rows[f"true {name}"] = np.where(lost, np.nan, column)
        texts[name] = np.where(lost, _code(layout), texts[name])
    for name, text in _times(layout, zoned).items():
        rows[f"text {name}"] = text
    if layout.region_column is not None:
        rows[f"text {layout.region_column}"] = layout.regions[region]
    for name, text in texts.items():
        rows[f"text {name}"] = text
    rows[f"text {_rain_name(layout)}"] = rain_texts
    rows = rows[kept]
    if layout.rows in ("doubled", "contradicting"):
        again = rows.iloc[rng.choice(len(rows), 3, replace=False)].copy()
        if layout.rows == "contradicting":
            other = np.full(3, np.rint(7 / number_mm * 10**digits) / 10**digits)
            again[f"text {_rain_name(layout)}"] = _numbers(other, digits, layout)
            again["rain"] = other * number_mm
        rows = pd.concat([rows, again]).sort_index(kind="stable")
    return rows


def _means(field: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(field)])
    mean: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return mean


def _numbers(values: np.ndarray, digits: int, layout: TableLayout) -> np.ndarray:
    texts = [f"{value:.{digits}f}" for value in values]
    if layout.decimal == ",":
        texts = [text.replace(".", ",") for text in texts]
    return np.array(texts, dtype=object)


def _code(layout: TableLayout) -> str:
    code = layout.code or ""
    return code.replace(".", ",") if layout.decimal == "," else code


def _direction(
    layout: TableLayout, angle: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(degrees, -1 where it's calm; texts)."""
    if layout.direction == "degrees":
        return angle, _numbers(angle, 0, layout)
    places = np.rint(angle / 22.5).astype(np.int64) % 16
    texts = np.array(POINTS, dtype=object)[places]
    degrees = places * 22.5
    if layout.direction == "calm":
        calm = rng.random(len(angle)) < 0.05
        texts, degrees = np.where(calm, "CALM", texts), np.where(calm, -1.0, degrees)
    return degrees, texts


def _codes(
    layout: TableLayout,
    texts: dict[str, np.ndarray],
    values: dict[str, np.ndarray],
    rain: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """{column: [T] bool, where the code stands}: not where no one could tell it from a value."""
    if layout.code is None:
        return {}
    last = [list(values)[-1]] if layout.direction == "degrees" else []
    chosen = {
        "rain": [rain],
        "direction": last,
        "others": [n for n in values if n != rain],
        "all": list(values),
    }
    coded = {}
    for name in chosen[layout.code_in]:
        column = values[name]
        if layout.code in NUMBER_CODES:
            code = float(layout.code)
            if name != rain and texts[name][0] in (*POINTS, "CALM"):
                continue
            margin = 0.25 * (column.max() - column.min())
            if not layout.code_said and column.min() - margin <= code <= column.max() + margin:
                continue
        lost = rng.random(len(column)) < rng.choice([0.005, 0.02, 0.1])
        lost[rng.choice(len(column), 3, replace=False)] = True
        coded[name] = lost
    if layout.code_said and layout.code in NUMBER_CODES:  # no measurement may equal it
        for name, column in values.items():
            same = np.abs(column - float(layout.code)) < 1e-9
            if same.any():
                coded[name] = coded.get(name, np.zeros(len(column), dtype=bool)) | same
    return coded


def _rain_name(layout: TableLayout) -> str:
    name = NAMES[layout.names][0]
    if layout.unit_told == "brackets":
        return f"{name} ({layout.unit})"
    return name + SUFFIXES[layout.unit] if layout.unit_told == "suffix" else name


def _time_columns(layout: TableLayout) -> list[str]:
    if layout.time_format == "two":
        return ["date", "time"]
    if layout.time_format == "two_utc":
        return ["Data", "Hora UTC"]
    if layout.time_format in ("parts", "hour24"):
        return ["year", "month", "day", "hour"]
    name = layout.time_name
    return [f"{name}_utc" if layout.zone_told == "name" and layout.zone == "UTC" else name]


def _times(layout: TableLayout, zoned: pd.DatetimeIndex) -> dict[str, Any]:
    """{column: texts} of the stamps."""
    naive, names = zoned.tz_localize(None), _time_columns(layout)
    if layout.step == 24:
        return {names[0]: naive.strftime(DATES[layout.time_format])}
    if layout.time_format == "two":
        return {names[0]: naive.strftime("%Y-%m-%d"), names[1]: naive.strftime("%H:%M")}
    if layout.time_format == "two_utc":
        return {names[0]: naive.strftime("%Y/%m/%d"), names[1]: naive.strftime("%H%M UTC")}
    if layout.time_format == "unix":
        return {names[0]: (zoned.tz_convert("UTC").as_unit("s").asi8).astype(str)}
    if layout.time_format == "parts":
        return {n: getattr(naive, n).astype(str) for n in names}
    if layout.time_format == "hour24":  # hours 1 to 24: midnight is hour 24 of the day before
        before = naive - pd.Timedelta(1, "h")
        parts = {n: getattr(before, n).astype(str) for n in names[:3]}
        return parts | {"hour": (before.hour + 1).astype(str)}
    texts = naive.strftime(FORMATS[layout.time_format])
    if layout.zone_told == "offset":
        if layout.zone == "UTC":
            return {names[0]: texts + ("Z" if layout.time_format == "isoT" else "+00:00")}
        offsets = zoned.strftime("%z")
        return {names[0]: texts + offsets.str[:3] + ":" + offsets.str[3:]}
    return {names[0]: texts}


def _ordered(layout: TableLayout, rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    if layout.order == "interleaved":
        return rows.sort_values(["end", "region"], kind="stable", ignore_index=True)
    if layout.order == "newest first":
        return rows.iloc[::-1].reset_index(drop=True)
    if layout.order == "shuffled":
        return rows.sample(frac=1, random_state=int(rng.integers(2**31)), ignore_index=True)
    return rows


def _options(layout: TableLayout) -> list[str]:
    """What a user of this table says on the command line."""
    o, words = OPTIONS, ["--derived", "none"]
    columns = _time_columns(layout)
    if columns != ["timestamp"]:
        words += [o["time"], *columns]
    if layout.format_said and layout.time_format in (DATES if layout.step == 24 else FORMATS):
        pattern = (DATES if layout.step == 24 else FORMATS)[layout.time_format]
        zone = "%z" if layout.zone_told == "offset" else ""
        words += [o["format"], pattern + zone]
    if layout.time_format == "unix" and layout.step < 24:
        words += [o["format"], "unix"]
    if layout.zone_told == "option" and layout.time_format != "unix":
        words += [o["zone"], layout.zone]
    if layout.stamps_said:
        words += [o["stamps"], layout.stamps]
    if layout.region_column not in (None, "region") and layout.region_said:
        words += [o["region"], str(layout.region_column)]
    if layout.region_column is None and layout.region_said and layout.split != "region":
        words += [o["name"], layout.regions[0]]
    if _rain_name(layout) not in ("precipitation", "tp"):
        words += [o["rain"], _rain_name(layout)]
    if layout.unit_told == "option":
        words += [o["unit"], layout.unit]
    if layout.code_said and layout.code in NUMBER_CODES:
        words += [o["missing"], str(layout.code)]
    if layout.meaning_said:
        said = {"running": "running", "one hour": "hourly", "counter": "running"}
        word = said.get(layout.amounts, f"sum:{layout.step}h")
        if layout.amounts == "running" and layout.period != 24:
            word = f"running:{layout.period}h"
        words += [o["meaning"], f"{_rain_name(layout)}={word}"]
    if layout.text_said and layout.container != "parquet":
        words += [o["encoding"], layout.encoding, o["separator"], layout.separator]
        words += [o["decimal"], layout.decimal]
    if layout.header_said and layout.header_lines:
        words += [o["header"], str(layout.header_lines + 1)]
    if layout.others_said:
        names = NAMES[layout.names]
        words += [o["other unit"], f"{names[1]}=degC", f"{names[2]}=hPa"]
    if layout.directions_said:
        words += [o["directions"], layout.directions_said]
    return words


def _write(layout: TableLayout, rows: _Rows, folder: Path) -> list[Path]:
    """The files: one, or one a region or a year."""
    if layout.split == "region":
        groups = {name: rows.region == name for name in layout.regions}
    elif layout.split == "year":
        years = rows.local.astype("datetime64[s]").astype("datetime64[Y]")
        groups = {str(year): years == year for year in np.unique(years)}
    else:
        groups = {"table": np.ones(len(rows.ends), dtype=bool)}
    files = []
    for name, chosen in groups.items():
        path = folder / f"{name}.{layout.container}"
        table = rows.texts[chosen]
        if layout.container == "parquet":
            _write_parquet(layout, table, path)
        else:
            _write_text(layout, table, path)
        files.append(path)
    return files


def _write_parquet(layout: TableLayout, table: pd.DataFrame, path: Path) -> None:
    """Numbers as numbers, codes among them; texts where a column holds words."""
    made = table.copy()
    text = {layout.region_column, *_time_columns(layout)}
    if layout.time_format in ("parts", "hour24", "unix"):
        text = {layout.region_column}
    for name in table:
        if name in text:
            continue
        column = table[name].replace(dict.fromkeys(WORD_CODES, np.nan))
        numbers = pd.to_numeric(column, errors="coerce")
        if not (numbers.isna() & column.notna()).any():
            made[name] = numbers
    made.to_parquet(path)


def _write_text(layout: TableLayout, table: pd.DataFrame, path: Path) -> None:
    sign = SEPARATORS[layout.separator]

    def line(cells: list[str]) -> str:
        return sign.join(f'"{cell}"' if sign in cell else cell for cell in cells)

    lines = _header(layout, sign)
    lines.append(line(list(map(str, table.columns))))
    if layout.unit_told == "line":
        units = (layout.unit, "C", "hPa", "m/s", "deg")
        known = dict(zip((_rain_name(layout), *NAMES[layout.names][1:]), units, strict=True))
        lines.append(line([known.get(str(name), "") for name in table.columns]))
    lines += [line(row) for row in table.to_numpy(object).tolist()]
    content = ("\n".join(lines) + "\n").encode(layout.encoding)
    if layout.container == "gz":
        path.write_bytes(gzip.compress(content, 1))
    elif layout.container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{path.stem}.csv", content)
    else:
        path.write_bytes(content)


def _header(layout: TableLayout, sign: str) -> list[str]:
    """Lines above the column names, as weather services write them."""
    usual = [
        f"STATION:{sign}Invented 12", f"LATITUDE:{sign}-12.05", f"LONGITUDE:{sign}-77.05",
        f"ALTITUDE:{sign}154.00", f"CODE (WMO):{sign}A001", "# SYNTHETIC data, invented",
        f"FIRST DATE:{sign}2021-03-01", "", "Source: nobody", "-----------", "Values: hourly",
        "Missing values are blank",
    ]  # fmt: skip
    return usual[: layout.header_lines]


def _readings(layout: TableLayout, rows: _Rows) -> list[Reading]:
    """The truth, and what the table says if what nothing tells is taken otherwise."""
    step = layout.step * HOUR
    options: dict[str, list[Any]] = {}
    if layout.zone_told == "nothing" and layout.time_format not in ("unix", "two_utc"):
        options["zone"] = ["true", "utc"]
    if not layout.stamps_said and (layout.stamps == "start" or layout.step == 24):
        options["stamps"] = ["true", "other"]
    if layout.step == 24 and layout.zone in CHANGING and layout.zone_told == "option":
        options["standard"] = ["true", "winter's midnight"]
    if layout.unit_told == "nothing" and layout.unit not in ("mm", "kg m-2"):
        options["unit"] = ["true", "mm"]
    if layout.split == "year" and layout.region_column is None and not layout.region_said:
        options["region"] = ["true", "a file each"]
    if layout.amounts == "running":
        options["sums"] = ["true", "as written"]
    if layout.rows == "contradicting":
        options["twice"] = ["neither", "the first", "the last"]
    is_told = layout.amounts != "one hour"
    if not is_told:
        options["hours"] = ["true", "as written"]
    found: list[Reading] = []
    for notes, chosen in combinations(options):
        if not is_told and chosen["hours"] == "true":
            continue  # what fell in the other hours nobody knows
        if chosen.get("twice") == "neither":
            continue
        ends = rows.ends.copy()
        if chosen.get("zone") == "utc":
            ends = rows.local + (step if layout.stamps == "start" else 0)
        if chosen.get("standard") == "winter's midnight":
            ends = rows.local + DAY + _standard_seconds(layout.zone)
        if chosen.get("stamps") == "other":
            ends = ends - step
        rain = rows.rain_mm if is_told else rows.as_written_mm * rows.number_mm
        if chosen.get("sums") == "as written":
            rain = rows.as_written_mm * rows.number_mm
        if chosen.get("unit") == "mm":
            rain = rain / rows.number_mm
        region = rows.region
        if chosen.get("region") == "a file each":
            region = rows.local.astype("datetime64[s]").astype("datetime64[Y]").astype(str)
        keep = "last" if chosen.get("twice") == "the last" else "first"
        found.append(Reading(_frame(layout, replace(rows, region=region), ends, rain, keep), notes))
    return found


def _standard_seconds(zone: str) -> int:
    """UTC minus the standard time of a zone."""
    year = pd.date_range("2021-01-01", periods=366, freq="D", tz="UTC").tz_convert(zone)
    offsets = year.tz_localize(None) - year.tz_convert("UTC").tz_localize(None)
    return -int(offsets.min().total_seconds())


def _frame(
    layout: TableLayout, rows: _Rows, ends: np.ndarray, rain: np.ndarray, keep: str
) -> pd.DataFrame:
    columns = {"tp": rain, MAY_LACK: rows.may_lack}
    direction = NAMES[layout.names][4]
    for name, values in rows.others.items():
        calm, turn = values < 0, np.deg2rad(values)
        columns[name] = np.where(calm, np.nan, values) if name == direction else values
        if name != direction:
            continue
        columns[f"{name}_sin"] = np.where(calm, 0.0, np.sin(turn))
        columns[f"{name}_cos"] = np.where(calm, 0.0, np.cos(turn))
    frame = pd.DataFrame(columns)
    frame.index = pd.MultiIndex.from_arrays([rows.region.astype(str), ends])
    return frame[~frame.index.duplicated(keep="last" if keep == "last" else "first")]
