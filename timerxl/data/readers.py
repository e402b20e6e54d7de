"""Tables (Parquet, CSV) to a :class:`WeatherSeries`: times, regions, columns.

Guesses are made only where they are clear, and each is said in ``notes``. Where two readings are
possible (day or month first, a clock that changes in spring) an InputError names the option;
everything dubious is refused at the door.

"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from timerxl.config import DataConfig, InputError
from timerxl.data.enso import with_oni
from timerxl.data.era5.accumulation import (
    COUNTER,
    HOURLY,
    RUNNING,
    SUM,
    UNCLEAR,
    Totals,
    Verdict,
    only_rises,
    parse_meaning,
    problem,
    rain_verdict,
    shares,
)
from timerxl.data.series import WeatherSeries, fill_forward, label_like, listed_features
from timerxl.data.synthetic import load_synthetic
from timerxl.data.tables.columns import (
    ERA5_NAMES,
    RAIN,
    SIN_COS,
    ColumnRecord,
    Fact,
    KnownBy,
    check_codes,
    encode_directions,
    feature_record,
    is_direction,
    limits_of,
    mask,
    quantity_of,
    rain_unit,
    records_problem,
    time_meaning,
    to_mm,
    unit_in_name,
    zero_one,
)
from timerxl.data.tables.table_files import (
    MOST_COLUMNS,
    REGION_NAMES,
    TEXT_SUFFIXES,
    Layout,
    TextOptions,
    is_text_table,
    plain_name,
    read_known_table,
    read_parquet,
    read_traces,
)
from timerxl.untrusted import is_file, listed, misfit, plain, read_json, reason

# Names of columns of times, the likeliest first.
_TIME_NAMES = tuple(
    "timestamp time datetime date_time valid_time date local_time utc_time time_utc utc valid "
    "obs_time observation_time observationtime valid_time_gmt dt_iso dt mess_datum fecha "
    "fecha_hora data data_hora datum zeit datetime_utc date_utc date_(utc) yyyymmdd yyyymmddhh "
    "date/time day ds yeardoy time_local timestamp_utc formatted_date "
    "日期 时间 年月日時 年月日 일시".split()
)
_CLOCK_NAMES = re.compile(
    r"(hora|hour|hr|hh|time|heure|uhrzeit|stunde|clock)(_?\(?(utc|gmt|local|lst|hhmm)\)?)?"
)
_PARTS = {
    "year": "year yr yyyy ano jahr annee",
    "month": "month mo mon mes monat mois mm",
    "day": "day dy dd dia tag jour",
    "doy": "doy day_of_year dayofyear jday julian_day",
    "hour": "hour hr hh hora stunde heure",
    "minute": "minute minutes mn mi",
}
_SAYS_UTC = re.compile(r"(^|[^a-z])(utc|gmt|zulu)([^a-z]|$)", re.IGNORECASE)
_CLOCK = (
    r"(?:(?P<H>\d{1,2})(?:[:.h]?(?P<M>\d{2}))?(?:[:.]?(?P<S>\d{2}))?(?:[.,]\d+)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?)?\s*(?P<zone>UTC|GMT|Z|(?:UTC|GMT)?[+-]\d{2}:?\d{2})?"
)
_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}


def _pattern_of(first: str, between: str, second: str, third: str, clock: str) -> re.Pattern[str]:
    date = f"(?P<a>{first}){between}(?P<b>{second}){between}(?P<c>{third})"
    return re.compile(f"{date}(?:{clock}{_CLOCK})?")


_PATTERNS = {
    "ymd": _pattern_of(r"\d{4}", "[-/.]", r"\d{1,2}", r"\d{1,2}", "[T ,]+"),
    "dmy": _pattern_of(r"\d{1,2}", "[-/.]", r"\d{1,2}", r"\d{4}", "[T ,]+"),
    "compact": _pattern_of(r"\d{4}", "", r"\d{2}", r"\d{2}", "[T:_ -]?"),
    "words": _pattern_of(r"\d{1,2}", "[-/ .,]+", r"[A-Za-z]{3,9}", r"\d{4}", "[T ,:]+"),
    "short year": _pattern_of(r"\d{1,2}", "[-/.]", r"\d{1,2}", r"\d{2}", "[T ,]+"),
}
_DAY, _HOUR = 86_400, 3_600
_HALF_YEAR = 200 * _DAY


@dataclass(frozen=True)
class TimeOptions:
    """What the user says of the times; None or empty means: guess, and say the guess.

    ``time_format`` is of strftime, or ``unix`` for seconds or milliseconds since 1970.
    ``timezone`` is an IANA name or an offset such as UTC-5; ``stamps`` is start or end.
    """

    timestamp_columns: tuple[str, ...] = ()
    time_format: str | None = None
    timezone: str | None = None
    stamps: str | None = None


@dataclass
class Times:
    """``timestamps`` [R] datetime64[s]: UTC, the END of each row's period.

    ``columns`` hold the times (none of them is weather). ``stamps`` is what a stamp of the file is
    (start or end), ``known_by`` how that is known: option, layout, dates or assumed.
    """

    timestamps: np.ndarray
    columns: list[str]
    stamps: str
    known_by: str
    timezone: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Regions:
    """``names`` [R] text of each row's region; ``columns`` are those that are no weather."""

    names: pd.Series
    columns: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Local:
    """Times as the file has them: ``naive`` [R] datetime64[s], UTC already where ``is_utc``."""

    naive: np.ndarray
    is_utc: bool
    dates_only: bool
    hours_1_to_24: bool = False
    notes: list[str] = field(default_factory=list)


def find_times(
    frame: pd.DataFrame,
    layout: Layout | None = None,
    options: TimeOptions | None = None,
    regions: np.ndarray | pd.Series | None = None,
    line_of: Callable[[int], int] | None = None,
) -> Times:
    """Find the end of each row's period in UTC.

    ``regions`` [R] tell rows of different series apart, ``line_of`` gives the line of a row for
    errors. A ``timestamp`` column of ISO times is taken as it is: UTC, the end of the step.
    Raises InputError naming the column, the value and the option that decides.
    """
    options = options or TimeOptions()
    if options.stamps not in (None, "start", "end"):
        raise InputError(f"--stamps is {options.stamps!r}; expected start or end.")
    columns = time_columns(frame, layout, options)
    time_format = options.time_format or (layout.time_format if layout else None)
    reader = _Reader(columns, time_format, line_of)
    local = reader.read(frame)
    codes = np.zeros(len(frame), dtype=np.int64)
    if regions is not None:
        codes = pd.factorize(np.asarray(regions, dtype=object))[0].astype(np.int64)
    times = Times(local.naive, columns, "end", "assumed", "UTC", list(local.notes))
    if columns != ["timestamp"] and not options.timestamp_columns and layout is None:
        quoted = " ".join(f'"{name}"' if " " in name else name for name in columns)
        times.notes.append(f"the times are in {quoted} (else say --timestamp-column).")
    _say_stamps(times, local, layout, options, codes)
    zone, known = _zone(local, columns, layout, options)
    step = _step(local.naive, codes)
    if times.stamps == "start":
        times.timestamps = local.naive + np.timedelta64(_period(times, layout, step), "s")
    if zone is None:
        if not local.is_utc and known is None:
            _refuse_jumps(local.naive, codes, step, columns)
            times.notes.append("no time zone is told: taken as UTC (else say --timezone).")
        return times
    times.timezone = str(zone)
    is_daily = times.known_by == "dates" or (step is not None and step % _DAY == 0)
    stamps = times.timestamps if times.stamps == "end" else local.naive
    if is_daily:
        offset = min(_offsets(zone, times.timestamps))  # standard time
        times.timestamps = times.timestamps - np.timedelta64(offset, "s")
        if len(set(_offsets(zone, times.timestamps))) > 1:
            hour = -offset // _HOUR % 24
            times.notes.append(f"days end by standard time of {zone} all year ({hour:02} UTC).")
    else:
        utc, notes = _to_utc(stamps, zone, codes, times.timezone, line_of)
        times.notes += notes
        times.timestamps = utc + (times.timestamps - stamps)
    return times


def time_columns(
    frame: pd.DataFrame, layout: Layout | None = None, options: TimeOptions | None = None
) -> list[str]:
    """Return names of the columns that make the time: told, of the layout, or by their names."""
    asked = options.timestamp_columns if options else ()
    present = [str(name) for name in frame.columns]
    if missing := [name for name in asked if name not in present]:
        raise InputError(
            f"there is no column {missing[0]} (--timestamp-column); the columns are: "
            f"{', '.join(present[:30])}."
        )
    if asked:
        return list(asked)
    if layout is not None and layout.times:
        by_case = {name.lower(): name for name in present}
        return [by_case[name.lower()] for name in layout.times if name.lower() in by_case]
    if "timestamp" in present:
        return ["timestamp"]
    plain = {plain_name(name): name for name in reversed(present)}
    parts = _part_columns(plain)
    if parts:
        return parts
    like_times = [name for name in _TIME_NAMES if name in plain]
    pattern = r"(date|data|datum|fecha|time)\b.*|.*(timestamp|datetime|date_?time).*"
    like_times += [name for name in plain if re.fullmatch(pattern, name)]
    for name in like_times:
        if not _is_clock(frame[plain[name]]):
            return _with_clock(frame, plain[name], plain)
    raise InputError(
        f"no column is named like a time; say --timestamp-column, one or several of: "
        f"{', '.join(present[:30])}."
    )


def _part_columns(plain: dict[str, str]) -> list[str]:
    """Year, month, day (or day of the year) and what stands beside them of hour and minute."""
    found = {
        part: next((plain[name] for name in names.split() if name in plain), None)
        for part, names in _PARTS.items()
    }
    if found["year"] is None:
        return []
    if found["month"] is not None and found["day"] is not None:
        dates = [found["year"], found["month"], found["day"]]
    elif found["doy"] is not None:
        dates = [found["year"], found["doy"]]
    else:
        return []
    if found["hour"] is not None:
        dates.append(found["hour"])
        if found["minute"] is not None:
            dates.append(found["minute"])
    return [name for name in dates if name is not None]


def _with_clock(frame: pd.DataFrame, column: str, plain: dict[str, str]) -> list[str]:
    """The column, and the one of the hours beside it where it holds dates alone."""
    values = frame[column].dropna()
    if pd.api.types.is_datetime64_any_dtype(values) or not len(values):
        return [column]
    if re.search(r"[:T]|\d \d", str(values.iloc[0])):
        return [column]
    for name, other in plain.items():
        if other != column and _CLOCK_NAMES.fullmatch(name) and _is_clock(frame[other]):
            return [column, other]
    return [column]


def _is_clock(column: pd.Series) -> bool:
    """Whether a column holds times of the day (or small numbers) without a date."""
    values = column.dropna()
    if pd.api.types.is_datetime64_any_dtype(values) or not len(values):
        return False
    pattern = (
        r"\d{1,4}(\.0)?|\d{1,2}([:h]\d{2}){1,2}(\.0+)?( ?[AaPp]\.?[Mm]\.?)?"
        r"|\d{1,4}(:\d{2})? ?(UTC|Z|h)"
    )
    return re.fullmatch(pattern, str(values.iloc[0]).strip()) is not None


class _Reader:
    """Reads the columns of times into local times without a zone."""

    def __init__(
        self, columns: list[str], time_format: str | None, line_of: Callable[[int], int] | None
    ) -> None:
        self.columns, self.format, self.line_of = columns, time_format, line_of
        self.called = " + ".join(columns)

    def read(self, frame: pd.DataFrame) -> _Local:
        """Read times by what the columns hold: datetimes, numbers, parts of a date, or text."""
        first = frame[self.columns[0]]
        if len(self.columns) == 1 and pd.api.types.is_datetime64_any_dtype(first):
            utc = pd.to_datetime(first, utc=True).dt.tz_localize(None)
            return self._checked(utc, first, first.dt.tz is not None, False)
        parts = self._as_parts(frame)
        if parts is not None and self.format is None:
            return parts
        if self.format == "unix":
            return self._unix(first)
        if len(self.columns) == 1 and self.format is None and pd.api.types.is_numeric_dtype(first):
            return self._digits(first)
        text = self._joined(frame)
        if self.format is not None:
            return self._formatted(text)
        return self._text(text)

    def _error(self, bad: np.ndarray, values: pd.Series, expected: str) -> InputError:
        row, where = _first_row(bad, self.line_of)
        value = values.iloc[row]
        shown = "no time" if pd.isna(value) else repr(str(value)[:40])
        return InputError(f"column {self.called} holds {shown} ({where}); {expected}")

    def _checked(
        self, times: pd.Series, values: pd.Series, is_utc: bool, dates_only: bool
    ) -> _Local:
        """Whole seconds, none missing."""
        if (bad := times.isna().to_numpy()).any():
            raise self._error(bad, values, "expected a time in every row.")
        stamps = times.to_numpy()
        seconds = stamps.astype("datetime64[s]")
        if (bad := seconds != stamps).any():
            raise self._error(bad, values, "expected whole seconds.")
        return _Local(seconds, is_utc, dates_only)

    def _as_parts(self, frame: pd.DataFrame) -> _Local | None:
        """Columns of year, month, day, ... as numbers; None where they are something else."""
        kinds = []
        for name in self.columns:
            plain = plain_name(name)
            kinds.append(next((k for k, names in _PARTS.items() if plain in names.split()), ""))
        if len(self.columns) < 2 or kinds[0] != "year" or "" in kinds:
            return None
        numbers = {}
        for kind, name in zip(kinds, self.columns, strict=True):
            values = pd.to_numeric(frame[name], errors="coerce")
            if (bad := (values.isna() | (values % 1 != 0)).to_numpy()).any():
                row, where = _first_row(bad, self.line_of)
                raise InputError(
                    f"column {name} holds {frame[name].iloc[row]!r} in {where}; expected a whole "
                    f"number, the {kind}."
                )
            numbers[kind] = values.to_numpy(np.int64)
        year = numbers["year"]
        if "doy" in numbers:
            days, bad = numbers["doy"], (numbers["doy"] < 1) | (numbers["doy"] > 366)
            naive = _date(year, np.ones_like(year), np.ones_like(year)) + (days - 1) * _DAY
        else:
            naive, bad = _date_checked(year, numbers["month"], numbers["day"])
        hour = numbers.get("hour", np.zeros_like(year))
        minute = numbers.get("minute", np.zeros_like(year))
        scale = 1
        if "hour" in numbers and hour.max() > 24 and (hour % 100 < 60).all():
            hour, minute, scale = hour // 100, hour % 100, 100
        bad |= (hour < 0) | (hour > 24) | (minute < 0) | (minute > 59)
        bad |= (year < 1700) | (year > 2200)
        if bad.any():
            shown = _joined_text(frame, self.columns)
            raise self._error(bad, shown, "expected a date (and an hour from 0 to 24).")
        stamps = (naive + hour * _HOUR + minute * 60).astype("datetime64[s]")
        one_to_24 = "hour" in numbers and hour.min() == 1 and hour.max() == 24
        local = _Local(stamps, False, "hour" not in numbers, one_to_24)
        if scale == 100:
            local.notes.append(f"column {self.columns[-1]} is taken as hours and minutes (HHMM).")
        return local

    def _unix(self, column: pd.Series) -> _Local:
        numbers = pd.to_numeric(column, errors="coerce")
        if (bad := numbers.isna().to_numpy()).any():
            raise self._error(bad, column, "expected seconds or milliseconds since 1970.")
        scale = 1000.0 if float(numbers.abs().median()) > 1e11 else 1.0
        seconds = numbers.to_numpy(np.float64) / scale
        if (bad := (seconds % 1 != 0) | (np.abs(seconds) > 1e10)).any():
            raise self._error(bad, column, "expected whole seconds since 1970.")
        return _Local(seconds.astype(np.int64).astype("datetime64[s]"), True, False)

    def _digits(self, column: pd.Series) -> _Local:
        """Numbers such as 20200131, 2020013106 and 202001310600."""
        expected = (
            "a number does not tell its unit: say --time-format, such as unix, %Y%m%d%H or %Y%j."
        )
        whole = column.notna().to_numpy() & (column.fillna(0) % 1 == 0).to_numpy()
        if not whole.all():
            raise self._error(~whole, column, expected)
        text = column.astype("int64").astype(str)
        lengths = text.str.len()
        right = lengths.isin([8, 10, 12, 14]).to_numpy() & (lengths == lengths.iloc[0]).to_numpy()
        if not right.all():
            raise self._error(~right, column, expected)
        years = text.str[:4].astype(int)
        if not years.between(1700, 2100).all():
            raise self._error(~years.between(1700, 2100).to_numpy(), column, expected)
        return self._text(text)

    def _joined(self, frame: pd.DataFrame) -> pd.Series:
        """The columns' text joined by spaces; numbers of hours as HHMM or HH."""
        parts = []
        for position, name in enumerate(self.columns):
            column = frame[name]
            if pd.api.types.is_datetime64_any_dtype(column):
                text = column.dt.strftime("%Y-%m-%d")
            elif pd.api.types.is_numeric_dtype(column) and column.notna().all():
                numbers = column.astype("int64")
                digits = 4 if position and numbers.max() > 24 else 2
                text = numbers.astype(str)
                if position and self.format is None:
                    text = text.str.zfill(digits) if digits == 4 else text.str.zfill(2) + ":00"
                elif position:
                    text = text.str.zfill(digits)
            else:
                text = column.astype("string").str.strip()
            parts.append(text)
        joined = parts[0]
        for text in parts[1:]:
            joined = joined + " " + text
        return joined

    def _formatted(self, text: pd.Series) -> _Local:
        assert self.format is not None
        has_hour = re.search(r"%[HIcXTsR]", self.format) is not None
        has_zone = "%z" in self.format or "%Z" in self.format
        expected = f"--time-format {self.format!r} does not read it."
        try:
            times = pd.to_datetime(text, format=self.format, errors="coerce", utc=has_zone)
        except (ValueError, TypeError, re.error) as error:
            raise InputError(f"--time-format {self.format!r} can't be used: {error}") from error
        later = np.zeros(len(text), dtype=np.int64)
        if times.isna().any() and has_hour:  # hour 24 is the next day's 00
            swapped, turned = _hour_24(text, self.format)
            again = pd.to_datetime(swapped, format=self.format, errors="coerce", utc=has_zone)
            times, later = again, np.where(turned, _DAY, 0)
        if (bad := times.isna().to_numpy()).any():
            raise self._error(bad, text, expected)
        if has_zone:
            times = times.dt.tz_localize(None)
        local = self._checked(times, text, has_zone, not has_hour)
        local.naive = local.naive + later.astype("timedelta64[s]")
        return local

    def _text(self, text: pd.Series) -> _Local:
        """ISO times as pandas reads them, else one pattern for the whole column."""
        codes, distinct = pd.factorize(text)
        if (bad := codes < 0).any():
            raise self._error(bad, text, "expected a time in every row.")
        words = pd.Series([_plain_time(str(word)) for word in distinct], dtype=object)
        if (bad := words.str.fullmatch(r"\d{4}([-/]\d{1,2})?").to_numpy(bool)).any():
            raise self._error(
                bad[codes], text, "months and years are no regular step; expected days or hours."
            )
        dates_only = bool(words.str.fullmatch(r"\d{4}[-/.]?\d{1,2}[-/.]?\d{1,2}").all())
        iso = pd.to_datetime(words, utc=True, format="ISO8601", errors="coerce")
        if not iso.isna().any():
            pattern = r"\d[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)$"
            has_zone = words.str.contains(pattern).to_numpy(bool)
            if has_zone.any() and not has_zone.all():
                raise self._error(
                    ~has_zone[codes],
                    text,
                    "other rows carry an offset from UTC; say --time-format.",
                )
            times = iso.dt.tz_localize(None)
            local = self._checked(times, words, bool(has_zone.any()), dates_only)
            local.naive = local.naive[codes]
            return local
        return self._pattern(words, codes, text)

    def _pattern(self, words: pd.Series, codes: np.ndarray, text: pd.Series) -> _Local:
        expected = (
            "which is no time that is told by itself; say --time-format, such as '%d/%m/%Y %H:%M'."
        )
        kind = next((k for k, p in _PATTERNS.items() if p.fullmatch(words.iloc[0])), None)
        if kind is None:
            raise self._error(np.ones(len(text), dtype=bool), text, expected)
        parts = words.str.extract(rf"^(?:{_PATTERNS[kind].pattern})$")
        if kind == "short year":
            raise self._error(
                np.ones(len(text), dtype=bool), text,
                "a year of two digits tells no order; say --time-format, such as '%d/%m/%y %H:%M'.",
            )  # fmt: skip
        if (bad := parts["a"].isna().to_numpy()).any():
            raise self._error(bad[codes], text, expected)
        first, third = parts["a"].astype(int).to_numpy(), parts["c"].astype(int).to_numpy()
        notes: list[str] = []
        if kind == "words":
            months = parts["b"].str[:3].str.lower().map(_MONTHS)
            if (bad := months.isna().to_numpy()).any():
                raise self._error(bad[codes], text, expected)
            year, month, day = third, months.to_numpy(np.int64), first
        else:
            second = parts["b"].astype(int).to_numpy()
            year, month, day = first, second, third
            if kind == "dmy":
                year = third
                month, day = self._day_or_month(first, second, text, notes)
        hour = parts["H"].fillna("0").astype(int).to_numpy()
        minute = parts["M"].fillna("0").astype(int).to_numpy()
        second_ = parts["S"].fillna("0").astype(int).to_numpy()
        half = parts["half"].str[:1].str.lower()
        if half.notna().any():
            if (wrong := ((hour < 1) | (hour > 12)) & half.notna().to_numpy()).any():
                raise self._error(wrong[codes], text, expected)
            hour = np.where(half.notna(), hour % 12 + 12 * (half == "p").to_numpy(), hour)
        days, bad = _date_checked(year, month, day)
        bad |= (hour > 24) | (minute > 59) | (second_ > 59) | ((hour == 24) & (minute > 0))
        if bad.any():
            raise self._error(bad[codes], text, expected)
        zones = parts["zone"]
        seconds = days + hour * _HOUR + minute * 60 + second_
        if zones.notna().any() and zones.isna().any():
            raise self._error(
                zones.isna().to_numpy()[codes], text, "other rows carry a zone; say --time-format."
            )
        has_zone = bool(zones.notna().any())
        if has_zone:
            seconds = seconds - zones.map(_offset_seconds).to_numpy(np.int64)
        dates_only = bool(parts["H"].isna().all())
        one_to_24 = not dates_only and hour.min() == 1 and hour.max() == 24
        stamps = seconds.astype("datetime64[s]")[codes]
        return _Local(stamps, has_zone, dates_only, one_to_24, notes)

    def _day_or_month(
        self, first: np.ndarray, second: np.ndarray, text: pd.Series, notes: list[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(month, day), told by a number above 12 in the whole column."""
        if (first > 12).any() and (second > 12).any():
            raise InputError(
                f"column {self.called} holds numbers above 12 in both places of day and month "
                f"(such as {text.iloc[0]!r}); the table mixes two orders."
            )
        if (first > 12).any():
            notes.append(f"the day stands before the month in {self.called} (a number above 12).")
            return second, first
        if (second > 12).any():
            notes.append(f"the month stands before the day in {self.called} (a number above 12).")
            return first, second
        raise InputError(
            f"column {self.called} holds {str(text.iloc[0])!r} and never a number above 12: day or "
            "month first? Say --time-format, such as '%d/%m/%Y' or '%m/%d/%Y' (with ' %H:%M')."
        )


def _first_row(bad: np.ndarray, line_of: Callable[[int], int] | None) -> tuple[int, str]:
    """The first bad row, and where it stands in the file."""
    row = int(np.flatnonzero(bad)[0])
    return row, f"row {row + 1}" if line_of is None else f"line {line_of(row)}"


def _plain_time(word: str) -> str:
    """Without the signs of Chinese and Japanese dates."""
    if "年" in word:
        word = re.sub(r"[年月]", "-", word).replace("日", " ")
        word = re.sub(r"[时時]", ":", word).replace("分", "")
        word = re.sub(r":$", ":00", word.strip())
    return re.sub(r"\s+", " ", word.strip())


def _date(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Seconds since 1970 of dates, int64."""
    months = (year - 1970) * 12 + (month - 1)
    return (
        months.astype("datetime64[M]").astype("datetime64[s]").astype(np.int64) + (day - 1) * _DAY
    )


def _date_checked(
    year: np.ndarray, month: np.ndarray, day: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds since 1970, whether it is no date)."""
    bad = (month < 1) | (month > 12) | (day < 1) | (day > 31)
    seconds = _date(year, np.clip(month, 1, 12), day)
    back = seconds.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    bad |= back != (year - 1970) * 12 + (np.clip(month, 1, 12) - 1)
    return seconds, bad


def _hour_24(text: pd.Series, time_format: str) -> tuple[pd.Series, np.ndarray]:
    """Text with hour 24 as 00, and where that was."""
    pattern = re.escape(time_format)
    for code, digits in (
        ("%Y", r"\d{4}"), ("%m", r"\d{1,2}"), ("%d", r"\d{1,2}"), ("%j", r"\d{1,3}"),
        ("%y", r"\d{2}"), ("%M", r"\d{2}"), ("%S", r"\d{2}"), ("%b", r"[A-Za-z]+"), ("%z", r"\S+"),
    ):  # fmt: skip
        pattern = pattern.replace(re.escape(code), digits)
    before, found, after = pattern.partition(re.escape("%H"))
    if not found:
        return text, np.zeros(len(text), dtype=bool)
    turned = text.str.fullmatch(f"{before}24{after}").fillna(False).to_numpy(bool)
    swapped = text.str.replace(f"^({before})24({after})$", r"\g<1>00\g<2>", regex=True)
    return swapped.where(turned, text), turned


def _offset_seconds(zone: str) -> int:
    match = re.search(r"([+-])(\d{2}):?(\d{2})", zone)
    if match is None:
        return 0
    return (1 if match[1] == "+" else -1) * (int(match[2]) * _HOUR + int(match[3]) * 60)


# What a stamp means.


def _say_stamps(
    times: Times, local: _Local, layout: Layout | None, options: TimeOptions, codes: np.ndarray
) -> None:
    own = times.columns == ["timestamp"] and layout is None
    if options.stamps is not None:
        times.stamps, times.known_by = options.stamps, "option"
    elif layout is not None and layout.stamps is not None:
        times.stamps, times.known_by = layout.stamps, "layout"
    elif own and not local.dates_only:
        times.notes.append("a stamp is taken as the end of its step (else say --stamps start).")
    elif local.hours_1_to_24:
        times.known_by = "hours 1 to 24"
        times.notes.append("the hours run from 1 to 24: a stamp is the end of its hour.")
    elif local.dates_only or _is_midnights(local.naive, codes):
        times.stamps, times.known_by = "start", "dates"
        times.notes.append(
            "a date without an hour is a whole day, stamped at its end, the next midnight (else "
            "say --stamps end)."
        )
    else:
        times.notes.append("a stamp is taken as the end of its step (else say --stamps start).")


def _is_midnights(naive: np.ndarray, codes: np.ndarray) -> bool:
    """Daily rows that are all stamped at 00:00."""
    step = _step(naive, codes)
    return step is not None and step >= _DAY and not (naive.astype(np.int64) % _DAY).any()


def _step(naive: np.ndarray, codes: np.ndarray) -> int | None:
    """The most common positive difference inside of a region, in seconds; None for single rows."""
    order = np.argsort(codes, kind="stable")
    seconds, sorted_codes = naive.astype(np.int64)[order], codes[order]
    order = np.lexsort((seconds, sorted_codes))
    steps = np.diff(seconds[order])[np.diff(sorted_codes[order]) == 0]
    steps = steps[steps > 0]
    if not steps.size:
        return None
    lengths, counts = np.unique(steps, return_counts=True)
    return int(lengths[np.argmax(counts)])


def _period(times: Times, layout: Layout | None, step: int | None) -> int:
    """Seconds from a stamp to the end of its period."""
    if layout is not None and layout.hours is not None:
        return round(layout.hours * _HOUR)
    if times.known_by == "dates":
        return _DAY
    if step is None:
        raise InputError("--stamps start needs two rows of a region, which tell the step.")
    return step


# Time zones.


def zone_of(text: str) -> tzinfo:
    """Parse an IANA name or an offset such as UTC-5, -05:00, +0530; InputError for others."""
    match = re.fullmatch(
        r"(?:UTC|GMT|Z)?\s*(?:([+-−])\s*(\d{1,2})(?::?(\d{2}))?)?", text.strip(), re.I
    )
    if match is not None and text.strip():
        if match[1] is None:
            return UTC
        minutes = int(match[2]) * 60 + int(match[3] or 0)
        if minutes <= 14 * 60:
            return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))
    try:
        return ZoneInfo(text.strip())
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"--timezone {text!r} is unknown; expected a name such as America/Lima, or an offset "
            "such as UTC-5."
        ) from error


def _zone(
    local: _Local, columns: list[str], layout: Layout | None, options: TimeOptions
) -> tuple[tzinfo | None, str | None]:
    """(zone, or None for UTC; what tells it, or None where nothing does)."""
    by_name = next((name for name in columns if _SAYS_UTC.search(name.replace("_", " "))), None)
    asked = zone_of(options.timezone) if options.timezone is not None else None
    if local.is_utc or by_name is not None:
        if asked is not None and (by_name is not None or not local.is_utc):
            if _fixed_seconds(asked) != 0:
                raise InputError(
                    f"column {by_name} says UTC and --timezone {options.timezone}; leave one out."
                )
        elif asked is not None and _fixed_seconds(asked) != 0:
            raise InputError(
                f"the times of {' + '.join(columns)} tell their own zone; leave --timezone out."
            )
        return None, "file"
    if asked is not None:
        return (None, "option") if _fixed_seconds(asked) == 0 else (asked, "option")
    if layout is not None and layout.timezone is not None:
        zone = zone_of(layout.timezone)
        return (None, "layout") if _fixed_seconds(zone) == 0 else (zone, "layout")
    return None, None


def _fixed_seconds(zone: tzinfo) -> int | None:
    """The offset of a zone that never changes, in seconds; None for others."""
    if isinstance(zone, timezone):
        return int(zone.utcoffset(None).total_seconds())
    if isinstance(zone, ZoneInfo) and zone.key in ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu"):
        return 0
    return None


def _offsets(zone: tzinfo, stamps: np.ndarray) -> list[int]:
    """A zone's offsets from UTC over the year of the first stamp, seconds."""
    fixed = _fixed_seconds(zone)
    if fixed is not None:
        return [fixed]
    year = int(str(stamps.min())[:4])
    found = (datetime(year, month, 15, 12, tzinfo=zone).utcoffset() for month in (1, 4, 7, 10))
    return [int(offset.total_seconds()) for offset in found if offset is not None]


def _to_utc(
    naive: np.ndarray,
    zone: tzinfo,
    codes: np.ndarray,
    called: str,
    line_of: Callable[[int], int] | None,
) -> tuple[np.ndarray, list[str]]:
    """Local times to UTC: of a doubled hour the first pass is summer time, by the rows' order."""
    index = pd.DatetimeIndex(naive)
    every = np.ones(len(index), dtype=bool)

    def utc(is_summer: np.ndarray) -> np.ndarray:
        localized = index.tz_localize(zone, ambiguous=is_summer, nonexistent="NaT")
        return localized.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[s]")

    summer, winter = utc(every), utc(~every)
    if (gone := np.isnat(summer)).any():
        row, where = _first_row(gone, line_of)
        raise InputError(
            f"{naive[row]} ({where}) does not exist in {called}: clocks were put forward then. "
            "Say --timezone with an offset, such as UTC-5, if the table's clock never changes."
        )
    double = np.flatnonzero(summer != winter)
    if not double.size:
        return summer, []
    second_pass = np.zeros(len(naive), dtype=bool)
    seconds = naive.astype(np.int64)
    # Nights of a region one after the other, each in the order in which its clock ran.
    by_code = np.argsort(codes, kind="stable")
    edges = np.flatnonzero(np.diff(codes[by_code], prepend=-1, append=-1))
    newest_first = seconds[by_code[edges[:-1]]] > seconds[by_code[edges[1:] - 1]]
    backwards = newest_first[np.searchsorted(codes[by_code][edges[:-1]], codes[double])]
    night = seconds[double] // _DAY
    at = double[np.lexsort((np.where(backwards, -double, double), night, codes[double]))]
    code, night, passed = codes[at], seconds[at] // _DAY, seconds[at]
    begins = np.ones(len(at), dtype=bool)
    begins[1:] = (np.diff(code) != 0) | (np.diff(night) != 0)
    turns = ~begins & (np.diff(passed, prepend=0) <= 0)
    total = np.cumsum(turns)
    of_night = np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
    second_pass[at[total > total[of_night]]] = True
    alone = int(begins.sum()) - len(np.unique(of_night[turns]))
    utc_times = np.where(second_pass, winter, summer)
    notes = []
    if alone:
        notes.append(
            f"the hour that autumn doubles stands once in {alone} nights: taken as the first."
        )
    return utc_times, notes


def _refuse_jumps(
    naive: np.ndarray, codes: np.ndarray, step: int | None, columns: Sequence[str]
) -> None:
    """Refuse a clock without a zone that is put forward in spring and back in autumn."""
    if step is None or step > _HOUR:
        return
    order = np.argsort(codes, kind="stable")
    times, sorted_codes = naive[order].astype(np.int64), codes[order]
    inside = np.diff(sorted_codes) == 0
    steps = np.where(inside, np.diff(times), step)
    if (steps < 0).sum() > len(steps) // 2:  # newest first
        times, steps = times[::-1], -steps[::-1]
    before = times[:-1]
    due = before + step  # clocks are changed on Sundays (in most countries) from 00 to 03
    month = due.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    at_night = (due % _DAY <= 3 * _HOUR) & np.isin(month, (2, 3, 4, 9, 10, 11))
    is_sunday = (due // _DAY + 4) % 7 == 0
    forward = np.flatnonzero((steps == step + _HOUR) & at_night & is_sunday)
    back = np.flatnonzero((steps == step - _HOUR) & at_night & is_sunday)
    gaps = int((steps > step).sum())
    # One missing hour may be a gap, unless it's the only one and no autumn follows that keeps its
    # hours; where autumn comes, the clock of the same table must have gone back.
    before_autumn = forward.size == gaps == 1 and times[-1] < before[forward[0]] + _HALF_YEAR
    if back.size or before_autumn or (forward.size >= 2 and 2 * forward.size >= gaps):
        row = int(forward[0] if forward.size else back[0])
        there = "jumps over an hour" if forward.size else "stands twice"
        also = ", and back in autumn" if back.size and forward.size else ""
        raise InputError(
            f"the clock of {' + '.join(columns)} {there} after "
            f"{before[row].astype('datetime64[s]')}{also}: that is local time with daylight "
            "saving; say --timezone, such as America/New_York."
        )


# Regions.


def find_regions(
    frame: pd.DataFrame,
    layout: Layout | None = None,
    region_column: str | None = None,
    region: str | None = None,
    times: Sequence[str] = (),
    stem: str = "",
    metadata: dict[str, str] | None = None,
) -> Regions:
    """Find the region of every row.

    In this order: ``region_column``; ``region``, one name for all; the column ``region``; the
    layout's; a column named like a station that tells apart rows of one time; latitude and
    longitude; else one region, named by the file's ``metadata`` or ``stem``. ``times`` are the
    columns of the time. Raises InputError where a column is missing, or rows repeat a time.
    """
    present = [str(name) for name in frame.columns]
    if region is not None and region_column is not None:
        raise InputError("--region names one region, --region-column a column; give one of them.")
    if region_column is not None:
        if region_column not in present:
            raise InputError(
                f"there is no column {region_column} (--region-column); the columns are: "
                f"{', '.join(present[:30])}. --region NAME makes the table one region."
            )
        return Regions(_as_text(frame[region_column]), [region_column])
    if region is not None:
        return Regions(_constant(frame, region), [])
    if "region" in present:
        return Regions(_as_text(frame["region"]), ["region"])
    by_case = {name.lower(): name for name in present}
    own = [
        by_case[name.lower()]
        for name in (layout.regions if layout else ())
        if name.lower() in by_case
    ]
    plain = {plain_name(name): name for name in reversed(present)}
    candidates = own + [plain[name] for name in REGION_NAMES if name in plain]
    candidates = [name for name in dict.fromkeys(candidates) if name not in times]
    key = _joined_text(frame, times) if times else None
    is_one = key is not None and _tells_apart(_constant(frame, "x"), key)
    single: Regions | None = None
    for name in candidates:
        column = _as_text(frame[name])
        if column.isna().any() or not _tells_apart(column, key):
            continue
        others = [other for other in candidates if other != name]
        if column.nunique() > 1 and (not is_one or _follow_each_other(column, name)):
            note = f"regions are told by column {name} (else say --region-column)."
            return Regions(column, [name, *others], [note])
        if column.nunique() == 1 and single is None:
            note = f"one region, {column.iloc[0]}, named by column {name} (else say --region)."
            single = Regions(column, [name, *others], [note])
    if single is not None:
        return single
    if key is not None and not is_one:
        places = _places(frame, plain)
        if places is not None and _tells_apart(places.names, key):
            return places
        repeated = key[key.duplicated()].iloc[0]
        raise InputError(
            f"the time {repeated} stands in several rows and no column tells their regions apart; "
            f"say --region-column, one of: {', '.join(present[:30])}."
        )
    name = _name_of(metadata or {}) or stem or "region"
    return Regions(_constant(frame, name), [], [f"one region, named {name} (else say --region)."])


def _joined_text(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """[R] the columns' values as they are written, joined by spaces; "nan" where one is missing."""
    first, *others = (frame[name].astype(str).fillna("nan") for name in columns)
    for other in others:
        first = first + " " + other
    return first


def _constant(frame: pd.DataFrame, name: str) -> pd.Series:
    return pd.Series(np.full(len(frame), name, dtype=object), index=frame.index).astype(str)


def _as_text(column: pd.Series) -> pd.Series:
    """Names as text; whole numbers without a point."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    return column.where(column.isna(), column.astype(str)).astype("str")


def _tells_apart(names: pd.Series, key: pd.Series | None) -> bool:
    """Whether (region, time) is unique, but for the hours that autumn doubles."""
    if key is None:
        return True
    twice = pd.DataFrame({"name": names.to_numpy(), "key": key.to_numpy()}).duplicated().sum()
    return bool(twice <= 0.003 * len(names))


def _follow_each_other(column: pd.Series, name: str) -> bool:
    """Whether stations that share no time stand one after the other (no ids that come and go)."""
    turns = int((column.to_numpy()[1:] != column.to_numpy()[:-1]).sum())
    return plain_name(name) not in ("id", "name", "code") and turns + 1 == column.nunique()


def _places(frame: pd.DataFrame, plain: dict[str, str]) -> Regions | None:
    """Regions by pairs of latitude and longitude."""
    pair: list[str] = []
    for names in (("latitude", "lat"), ("longitude", "lon", "long", "lng")):
        column = next((plain[name] for name in names if name in plain), None)
        if column is None:
            return None
        pair.append(column)
    text = "lat" + frame[pair[0]].map("{:g}".format) + "_lon" + frame[pair[1]].map("{:g}".format)
    return Regions(
        text, [], ["regions are told by latitude and longitude (else say --region-column)."]
    )


def _name_of(metadata: dict[str, str]) -> str | None:
    """The name of a station in the lines above a table."""
    plain = {plain_name(key): value for key, value in metadata.items()}
    keys = "codigo_(wmo) codigo_estacao codigo estacao station station_name station_id name nome"
    for key in keys.split():
        if value := plain.get(key, "").strip():
            return value
    pair = plain.get("latitude"), plain.get("longitude")
    place = re.match(r"latitude\s+(\S+)\s+longitude\s+(\S+)", plain.get("location", ""), re.I)
    if place is not None:  # NASA POWER
        pair = place[1], place[2]
    return f"lat{pair[0]}_lon{pair[1]}" if pair[0] and pair[1] else None


# Pyarrow's, pandas' and the codecs' own; what Parquet says of pandas' index is taken unchecked.
PARSER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(NotImplementedError, RecursionError, MemoryError),
)
# ERA5's packing leaves noise of this size below zero; anything lower is a code for "missing".
_NEGATIVE_NOISE_MM = 0.01
_RAIN_LIMITS = (-_NEGATIVE_NOISE_MM, np.inf)  # in any unit; what is too much, rain_unit tells
AUTO = "auto"
CODES_ADVICE = "Say --missing {values} to mask it; --missing none takes every number as it is."
_SHOWN_SKIPPED = 6
_MOST_OF_A_NAME = 1_000  # characters of a column's or a region's name


SERIES, DESCRIPTION, FORMAT = "series.parquet", "series.json", 1
PRECIPITATION = "tp"
# What is read of series.json, as timerxl.untrusted.misfit takes it.
_SHAPE = {
    "format": range(FORMAT, FORMAT + 1),
    "sha256": str,
    "is_synthetic": bool,
    "columns?": dict,
    "precipitation": {
        "column": str,
        "source_column?": str,
        "unit": str,
        "is_sparse": bool,
        "hours_present_per_day": (float, None),
    },
    "sources?": [{"variables?": [str]}],
}
_COLUMN = {"unit?": (str, None), "record?": (dict, None)}


def load_series(config: DataConfig) -> WeatherSeries:
    """Load the series of ``data.path``, or the synthetic one where the path is null."""
    series = load_synthetic(config) if config.path is None else read_table(config)
    if config.oni_path is None:
        return series
    return with_oni(series, Path(config.oni_path), config.oni_lag_months)


@dataclass(frozen=True)
class TableOptions:
    """What a person says of a table beyond a recipe; None and empty mean: guess, and say so.

    ``units`` and ``meanings`` go by column. ``is_command`` spells options as those of
    launch/prepare_data.py in sentences, and takes running totals apart.
    """

    text: TextOptions = field(default_factory=TextOptions)
    times: TimeOptions = field(default_factory=TimeOptions)
    region_column: str | None = None
    region: str | None = None
    only_region: str | None = None
    precipitation_column: str | None = None
    precipitation_unit: str | None = None
    directions: str = SIN_COS
    units: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    is_command: bool = False


@dataclass
class OpenedTable:
    """A table at the door: rows as in the file, what is known of it, sentences to say."""

    frame: pd.DataFrame
    name: str
    layout: Layout | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    not_numbers: Mapping[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    line_of: Callable[[int], int] | None = None
    notes: list[str] = field(default_factory=list)

    def told_unit(self, column: str) -> tuple[str, str] | None:
        """Return (unit, by what) as the layout, a line of units or the column's name tell it."""
        if self.layout is not None and (unit := self.layout.unit_of(column)):
            return unit, f"the layout of {self.layout.name}"
        if unit := self.units.get(column):
            return unit, "its line of units"
        return (unit, "its name") if (unit := unit_in_name(column)) else None


def read_table(
    config: DataConfig,
    given: pd.DataFrame | None = None,
    needs_label: bool = True,
    options: TableOptions | None = None,
    only_region: str | None = None,
) -> WeatherSeries:
    """Read a text or Parquet table of one regular series per region, or the table ``given``.

    Rows may interleave regions; inside a region time ascends. Short holes in the features are
    filled forward (:func:`fill_forward`); ``precipitation_mm`` never is, a label must be measured.
    What launch/prepare_data.py wrote beside the table becomes ``source["prepared"]``. Without
    ``needs_label`` (to forecast, not to score) neither rain nor a label column has to be there.
    A table that names no region is called ``only_region``, None: as its file.
    Raises InputError naming the column, the region and the first offending time.
    """
    options = options or _of_recipe(config)
    options = replace(options, only_region=only_region)
    return read_table_and_labels(config, given, needs_label, options)[0]


def read_table_and_labels(
    config: DataConfig,
    given: pd.DataFrame | None = None,
    needs_label: bool = True,
    options: TableOptions | None = None,
) -> tuple[WeatherSeries, dict[str, np.ndarray]]:
    """Read the same, and the columns that are named like a label: [R] float64 each, no features."""
    if config.path is None and given is None:
        raise InputError("data.path is null; expected the path of a table (Parquet, CSV).")
    options = options or _of_recipe(config)
    if options.is_command:
        return _read(config, given, needs_label, options)
    try:
        series, labels = _read(config, given, needs_label, options)
    except InputError as error:
        raise InputError(in_recipe_words(str(error))) from error
    return replace(series, notes=[in_recipe_words(note) for note in series.notes]), labels


def _read(
    config: DataConfig, given: pd.DataFrame | None, needs_label: bool, options: TableOptions
) -> tuple[WeatherSeries, dict[str, np.ndarray]]:
    path = Path(config.path or "the table")
    sha256, prepared = None, None
    notes: list[str] = []
    if given is None:
        opened = open_table(path, options)
        sha256 = sha256_of(path)
        prepared, said = read_prepared(path, sha256, config)
        notes += said
    else:
        opened = OpenedTable(_checked(given, "the table"), "the table")
    table, layout = opened.frame, opened.layout
    notes += opened.notes
    if (name := config.label_column) is not None and name not in table.columns:
        raise _missing_column(path, table, "label_column", name)
    rain = _rain_column(opened, config, options, notes)
    if needs_label and config.label_column is None and rain is None:
        raise _missing_column(path, table, "precipitation_column", config.precipitation_column)
    if rain is not None and (why := opened.not_numbers.get(rain)):
        raise InputError(f"{why} Correct them, or say --missing for a number among them.")

    columns_of_time = time_columns(table, layout, options.times)
    found = find_regions(
        table,
        layout,
        options.region_column,
        options.region,
        columns_of_time,
        path.name.split(".")[0] if given is None else "",
        opened.metadata,
    )
    if not found.columns and options.region is None and options.only_region is not None:
        found = replace(found, names=found.names.map(lambda _: options.only_region))
    times = find_times(table, layout, options.times, found.names, opened.line_of)
    if prepared is None and needs_label:
        notes += found.notes + times.notes
    apart = {*times.columns, *found.columns}
    region_index, regions = _regions(found.names, (found.columns or ["region"])[0])
    order = np.argsort(region_index, kind="stable")
    if options.is_command:  # what is trained on directly must be in order already
        by_time = np.lexsort((times.timestamps, region_index))
        if (by_time != order).any():
            notes.append("the rows are sorted by time.")
            order = by_time
    table, region_index = table.iloc[order], region_index[order]
    timestamps = times.timestamps[order]
    step_hours = _step_hours(timestamps, region_index, regions)
    where = _Where(regions, region_index, timestamps, opened.not_numbers)

    door = _Door(config, options, opened, where, step_hours, _time_fact(times, step_hours))
    sources: dict[str, str] = {}
    turned: dict[str, ColumnRecord] = {}
    if prepared is None:
        table, turned = door.directions(table, apart)
        table, sources, said = _meaningful(table, config, apart)
        notes += said
    reasons = _reasons(opened)
    if options.is_command and config.features is None:
        empty = [str(name) for name in table if name != rain and table[name].isna().all()]
        reasons |= dict.fromkeys(empty, "missing in every row")
    features, skipped = choose_features(table, config, apart, reasons)
    notes += _skipped_notes(skipped)
    columns = {name: where.numbers(table, name) for name in features}
    precipitation: np.ndarray | None = None
    records: dict[str, ColumnRecord] = {}
    if prepared is None:
        columns, records = door.features(columns, sources, rain)
        for name, direction in sources.items():
            if name in records:
                records[name].missing = turned[direction].missing
    unit = "mm"
    if rain is not None:
        if prepared is not None:
            raw = _exact(table, rain, where)
        else:
            raw, unit = door.rain(table, rain, needs_label, records, notes)
        precipitation = _precipitation_mm(raw, rain, unit, step_hours, where, notes)
        if rain in features:
            columns[rain] = precipitation
    elif needs_label:
        notes.append(f"no column {config.precipitation_column}: labels from {config.label_column}.")
    masked = {
        record.name: sum(code["count"] for code in record.missing)
        for record in records.values()
        if record.missing
    }
    if masked:
        shown = listed([f"{name} ({count:,})" for name, count in masked.items()])
        notes.append(f"values that stand for missing are left out: {shown}.")
    values = np.stack(list(columns.values()), axis=1)
    values, counts = fill_forward(
        values, region_index, timestamps, config.max_fill_hours, step_hours
    )
    left = np.isnan(values).sum(axis=0)
    if counts.any() or left.any():
        notes.append(
            f"{counts.sum()} missing values filled forward (holes of at most "
            f"{config.max_fill_hours:g} h); {left.sum()} in longer holes are left, and no window "
            "runs over them."
        )
    source: dict[str, Any] = {
        "path": config.path,
        "sha256": sha256,
        "synthetic": False,
        "rows": len(table),
        "first": str(timestamps.min()),
        "last": str(timestamps.max()),
        "skipped_columns": skipped,
        "filled_values": dict(zip(features, counts.tolist(), strict=True)),
        "missing_values_left": dict(zip(features, left.tolist(), strict=True)),
        "records": {name: record.to_dict() for name, record in records.items()},
        "resolved": {"precipitation_unit": unit},
    }
    if rain is not None:
        source["resolved"]["precipitation_column"] = rain
    is_synthetic = False
    if prepared is not None:
        is_synthetic = prepared["is_synthetic"]
        described = prepared.get("columns", {})
        known = {name: of.get("record") for name, of in described.items()}
        source |= {"prepared": prepared, "synthetic": is_synthetic}
        source["records"] = {name: of for name, of in known.items() if of and name in features}
    labels = {
        name: table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in skipped
        if name in table
        and name != config.label_column
        and _is_label(name, layout)
        and pd.api.types.is_numeric_dtype(table[name])
    }
    series = WeatherSeries(
        feature_names=features,
        regions=regions,
        values=values.astype(np.float32),
        region_index=region_index,
        timestamps=timestamps,
        precipitation_mm=precipitation,
        ready_label=_ready_label(table, config, where)
        if rain is not None or needs_label
        else np.full(len(table), np.nan),
        true_probability=None,
        step_hours=step_hours,
        precipitation_feature=rain if rain in features else None,
        is_synthetic=is_synthetic,
        source=source,
        notes=notes,
    )
    return series, labels


def choose_features(
    table: pd.DataFrame,
    config: DataConfig,
    apart: set[str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Choose the features in column order (or as listed), and say why other columns are skipped.

    ``apart`` are the columns of time and region (None: the configuration's), ``reasons`` why a
    column is no feature though it may be numeric.

    Raises InputError where no numeric column is left or ``data.features`` lists what is none.
    """
    if apart is None:
        apart = {config.timestamp_column, config.region_column}
    known = reasons or {}
    skipped: dict[str, str] = {}
    numeric: list[str] = []
    for name in map(str, table.columns):
        if name == config.label_column:
            skipped[name] = "it is the label"
        elif label_like(name):
            skipped[name] = "its name says label (data.label_column makes it one)"
        elif name not in apart and name in known:
            skipped[name] = known[name]
        elif name not in apart and not pd.api.types.is_numeric_dtype(table[name]):
            skipped[name] = f"not numeric ({table[name].dtype})"
        elif name not in apart:
            numeric.append(name)
    if config.features is None:
        if not numeric:
            raise InputError(f"{config.path} has no numeric column to take as a feature.")
        return numeric, skipped
    why = skipped | dict.fromkeys(apart, "it's the time or the region")
    unknown = f"the table {config.path or ''} has no such column".replace("  ", " ")
    return listed_features(config.features, numeric, why, unknown, skipped)


def _is_label(name: str, layout: Layout | None) -> bool:
    return label_like(name) or (layout is not None and layout.is_label(name))


def _of_recipe(config: DataConfig) -> TableOptions:
    """What a recipe says of a table; its defaults say nothing."""
    default = DataConfig()
    time, region = config.timestamp_column, config.region_column
    rain = config.precipitation_column
    return TableOptions(
        times=TimeOptions(timestamp_columns=() if time == default.timestamp_column else (time,)),
        region_column=None if region == default.region_column else region,
        precipitation_column=None if rain == default.precipitation_column else rain,
    )


_RECIPE_OPTIONS = re.compile(
    r"--(timestamp-column|region-column|precipitation-column|precipitation-unit|directions)(?![\w-])"
)
_ONLY_PREPARED = re.compile(
    r"(?<!prepare_data.py )--(region|timezone|time-format|stamps|encoding|separator|decimal|"
    r"header-line|unit|meaning)(?![\w-])"
)


def in_recipe_words(text: str) -> str:
    """Put a sentence with options of launch/prepare_data.py in the words of a recipe."""
    text = re.sub(
        r"Say --missing ([^;]*?) to mask (it|them); --missing none takes every number as it is\.",
        lambda said: (
            f"Say data.missing_values=[{', '.join(said[1].split())}] to mask {said[2]}; "
            "data.missing_values=[] takes every number as it is."
        ),
        text,
    )
    text = _RECIPE_OPTIONS.sub(lambda said: "data." + said[1].replace("-", "_"), text)
    return _ONLY_PREPARED.sub(r"launch/prepare_data.py --\1", text)


def _rain_column(
    opened: OpenedTable, config: DataConfig, options: TableOptions, notes: list[str]
) -> str | None:
    """The column of rain: as said, as usual, of the layout, or the only one named like rain."""
    names = list(map(str, opened.frame.columns))
    said = options.precipitation_column
    if said is not None:
        return said if said in names else None
    if config.precipitation_column in names:
        return config.precipitation_column
    found = opened.layout.rain_column(names) if opened.layout is not None else None
    if found is None and config.label_column is None:
        like = [name for name in names if not label_like(name) and _is_rain(name)]
        usual = [name for name in ERA5_NAMES if name in like]
        if len(like) > 1 and not usual:
            raise InputError(
                f"several columns are named like rain: {listed(like)}; say --precipitation-column."
            )
        found = next(iter(usual or like), None)
    if found is not None:
        notes.append(f"rain is taken from column {found} (else say --precipitation-column).")
    return found


def ready_label_without_rain(config: DataConfig) -> str | None:
    """Find the first ready label (0, 1, yes, no) of a table without rain; None if it has some."""
    if config.label_column is not None:
        return None
    opened = open_table(Path(str(config.path)), _of_recipe(config))
    if _rain_column(opened, config, _of_recipe(config), []) is not None:
        return None
    for name in sorted(map(str, opened.frame.columns)):
        if not _is_label(name, opened.layout):
            continue
        column = opened.frame[name]
        numbers = (
            zero_one(column) if not pd.api.types.is_numeric_dtype(column) else column.to_numpy()
        )
        if numbers is not None and np.isin(numbers[~pd.isna(numbers)], (0, 1)).all():
            return name
    return None


def _is_rain(name: str) -> bool:
    quantity = quantity_of(name)
    return quantity is not None and quantity.key == RAIN and "snow" not in name.lower()


def _reasons(opened: OpenedTable) -> dict[str, str]:
    """Why columns are no features: what the layout says of them, or words among the numbers."""
    layout = opened.layout
    found = dict(opened.not_numbers)
    for name in map(str, opened.frame.columns) if layout is not None else ():
        assert layout is not None
        if layout.is_label(name):
            found[name] = f"it tells the future (layout of {layout.name}), a label"
        elif not layout.is_weather(name):
            found[name] = f"no weather (layout of {layout.name})"
    return found


def _skipped_notes(skipped: dict[str, str]) -> list[str]:
    """One sentence a column, or a reason for many at once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in skipped.items():
        by_reason.setdefault(why, []).append(name)
    notes = []
    for why, names in by_reason.items():
        if len(names) <= _SHOWN_SKIPPED:
            notes += [f"column {name} skipped: {why.rstrip('.')}." for name in names]
        else:
            notes.append(f"{len(names)} columns skipped ({listed(names)}): {why.rstrip('.')}.")
    return notes


def _time_fact(times: Times, step_hours: float) -> Fact:
    """What a stamp of the table means; sums are over the step, other values are at its end."""
    known: dict[str, KnownBy] = {"option": "said", "layout": "file", "dates": "inferred"}
    by = known.get(times.known_by, "assumed")
    evidence = {"said": "--stamps", "file": "its layout", "inferred": "dates without an hour"}
    return Fact(time_meaning("sum", step_hours, times.stamps), by, evidence.get(by, ""))


class _Where:
    """Reads a column as float64 numbers and says at which row the first bad one stands."""

    def __init__(
        self,
        regions: list[str],
        region_index: np.ndarray,
        timestamps: np.ndarray,
        not_numbers: Mapping[str, str],
    ) -> None:
        self.regions, self.region_index, self.timestamps = regions, region_index, timestamps
        self.not_numbers = not_numbers

    def row(self, bad: np.ndarray) -> str:
        """Return the first bad row in words."""
        row = int(np.flatnonzero(bad)[0])
        name = plain(self.regions[self.region_index[row]], 80)
        return f"region {name}, {self.timestamps[row]}"

    def numbers(self, table: pd.DataFrame, name: str) -> np.ndarray:
        """Return [R] float64, NaN where missing; refuse text, infinite numbers, empty columns."""
        if not pd.api.types.is_numeric_dtype(table[name]):
            words = self.not_numbers.get(name)
            raise InputError(
                words
                or f"column {name} is {table[name].dtype}, not numeric; convert it or leave it out."
            )
        numbers = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isnan(numbers).all():
            raise InputError(f"column {name} is missing in every row; leave it out or fix it.")
        if np.isinf(numbers).any():
            raise InputError(
                f"column {name} holds an infinite number, first at {self.row(np.isinf(numbers))}; "
                "replace it by an empty value if it is missing."
            )
        return numbers


@dataclass(frozen=True)
class _Door:
    """What every column has to pass: codes for missing, units, running totals; and its record."""

    config: DataConfig
    options: TableOptions
    opened: OpenedTable
    where: _Where
    step_hours: float
    time: Fact

    def _masked(self, values: np.ndarray, source: str, record: ColumnRecord) -> np.ndarray:
        """[R] without the codes that the layout or the user names; the record counts them."""
        layout = self.opened.layout
        if layout is not None:
            values, counts = mask(values, layout.missing_of(source))
            record.masked(counts, "file", f"the layout of {layout.name}")
        values, counts = mask(values, self.config.missing_values or [])
        record.masked(counts, "said", "--missing")
        if record.missing and np.isnan(values).all():
            held = listed([f"{code['value']:.7g}" for code in record.missing])
            raise InputError(f"column {source} holds nothing but {held}; leave it out.")
        return values

    def directions(
        self, table: pd.DataFrame, apart: set[str]
    ) -> tuple[pd.DataFrame, dict[str, ColumnRecord]]:
        """Take the codes out of directions, before these become sine and cosine."""
        masked: dict[str, np.ndarray] = {}
        records: dict[str, ColumnRecord] = {}
        for name in map(str, table.columns):
            if name in apart or not is_direction(table, name):
                continue
            records[name] = ColumnRecord(name)
            if pd.api.types.is_numeric_dtype(table[name]):
                numbers = self.where.numbers(table, name)
                masked[name] = self._masked(numbers, name, records[name])
        if self.config.missing_values != []:
            limits = (-180.0, 360.0)
            judged = {name: (values, limits) for name, values in masked.items()}
            check_codes(judged, CODES_ADVICE, self.where.row)
        return (table.assign(**masked) if masked else table), records

    def features(
        self, columns: dict[str, np.ndarray], sources: dict[str, str], rain: str | None
    ) -> tuple[dict[str, np.ndarray], dict[str, ColumnRecord]]:
        """Take codes out of features, and make records; codes that nobody named are refused."""
        records: dict[str, ColumnRecord] = {}
        judged: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
        if unknown := [n for n in self.options.units if n not in self.opened.frame.columns]:
            raise InputError(f"--unit names {unknown[0]}, which the table does not hold.")
        for name, values in columns.items():
            if name == rain:
                continue
            source = sources.get(name, name)
            told = self.opened.told_unit(source)
            time = replace(self.time, value=self.time.value | {"kind": "step"})
            record = feature_record(name, source, self.options.units.get(source), told, time)
            records[name] = record
            columns[name] = values = self._masked(values, source, record)
            unit = record.unit.value if record.unit else None
            if name == source:
                judged[name] = values, limits_of(name, unit, self.step_hours)
            if only_rises(name) and (
                why := problem(self._verdict(values), name, self.step_hours, False)
            ):
                raise InputError(f"{why}; leave it out, or take it apart before.")
        if self.config.missing_values != []:
            check_codes(judged, CODES_ADVICE, self.where.row)
        large = np.finfo(np.float32).max
        for name, values in columns.items():
            if (bad := np.abs(values) > large).any():
                raise InputError(
                    f"column {name} holds a number beyond float32, first at {self.where.row(bad)}; "
                    "replace it by an empty value if it is missing."
                )
        return columns, records

    def _verdict(self, values: np.ndarray) -> Verdict:
        return rain_verdict(values, self.where.timestamps, self.where.region_index)

    def rain(
        self,
        table: pd.DataFrame,
        name: str,
        needs_label: bool,
        records: dict[str, ColumnRecord],
        notes: list[str],
    ) -> tuple[np.ndarray, str]:
        """Return [R] rain of each step in the file's unit, and the unit; add to ``records``."""
        time = self.time
        if name in ERA5_NAMES and time.known_by == "inferred":
            # A date tells of a day, ERA5's name of one hour.
            time = replace(time, known_by="assumed")
        record = ColumnRecord(name, Fact(RAIN, "file", "its name"), None, "mm", time)
        records[name] = record
        rain = self._masked(_exact(table, name, self.where), name, record)
        if self.config.missing_values != []:
            check_codes({name: (rain, _RAIN_LIMITS)}, CODES_ADVICE, self.where.row)
        rain = self._own_shares(rain, record, needs_label, notes)
        said = self.options.precipitation_unit or self.options.units.get(name)
        if self.config.precipitation_unit != AUTO:
            said = self.config.precipitation_unit
        told = self.opened.told_unit(name)
        layout = self.opened.layout
        if said is None and told is None and layout and "--precipitation-unit" in layout.asks:
            raise InputError(
                f"a table of {layout.name} does not tell the unit of {name}, which depends on the "
                "download: say --precipitation-unit mm or --precipitation-unit in."
            )
        fact = rain_unit(rain, self.step_hours, name, said, told, "--precipitation-unit")
        record.unit = fact
        if fact.known_by == "assumed" and needs_label:
            notes.append(f"{name} is taken as mm: {fact.evidence} (else say --precipitation-unit).")
        elif fact.known_by in ("file", "inferred") and fact.value != "mm":
            notes.append(f"{name} is in {fact.value} ({fact.evidence}): read as mm.")
        return rain, str(fact.value)

    def _own_shares(
        self, rain: np.ndarray, record: ColumnRecord, needs_label: bool, notes: list[str]
    ) -> np.ndarray:
        """[R] what fell in each step: running totals are taken apart, or refused."""
        name, said = record.name, None
        if text := self.options.meanings.get(name):
            said = parse_meaning(name, text)
            is_step = said.is_running or said.hours == self.step_hours
            if said.kind != SUM or said.stamp or not is_step:
                raise InputError(
                    f"--meaning {name}={text}: rain of a table is a sum of each step "
                    f"(sum:{self.step_hours:g}h) or running; what a stamp means, --stamps says."
                )
            record.time = replace(self.time, known_by="said", evidence=f"--meaning {text}")
        if said is not None and not said.is_running:
            return rain
        verdict = self._verdict(rain)
        if said is not None:
            period = said.hours or 24
            totals = verdict.totals or Totals(period, 0)
            if verdict.kind in (HOURLY, COUNTER) or (said.hours and totals.period != period):
                raise InputError(
                    f"--meaning {name}={text} says running totals, but its values don't behave "
                    f"like that: {verdict.evidence}."
                )
            verdict = replace(verdict, kind=RUNNING, totals=totals)
        if verdict.kind == RUNNING and self.options.is_command:
            assert verdict.totals is not None
            notes.append(f"{name} adds up {verdict.totals} ({verdict.evidence}): taken apart.")
            where = self.where
            # Every start between two stamps fits: the true one is at a stamp.
            first, totals = int(where.timestamps.astype(np.int64)[0]) // 3600, verdict.totals
            late = (totals.reset - first) % max(int(self.step_hours), 1)
            totals = Totals(totals.period, (totals.reset - late) % totals.period)
            running = {"period": totals.period, "reset": totals.reset}
            meant = self.time.value | {"hours": None, "running": running}
            by: KnownBy = "inferred" if said is None else "said"
            record.time = Fact(meant, by, verdict.evidence)
            return shares(rain, where.timestamps, where.region_index, totals, self.step_hours)
        why = problem(verdict, name, self.step_hours, needs_label)
        if why:
            raise InputError(
                f"{why} ({verdict.evidence}). launch/prepare_data.py takes running totals apart; "
                f"say --meaning '{name}=sum:{self.step_hours:g}h' there, where every row is a sum "
                "of its own."
            )
        within_a_day = needs_label and self.step_hours < 24
        if verdict.kind == UNCLEAR and within_a_day and self.options.is_command:
            notes.append(f"{name} is taken as sums of each row ({verdict.evidence}).")
        return rain


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table; a ZIP is one unless it holds grids."""
    if path.is_dir() or path.suffix.lower() != ".zip":
        return path.suffix.lower() == ".parquet" or (not path.is_dir() and is_text_table(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return False
    return not any(name.endswith((".nc", ".nc4", ".grib", ".grb", ".grib2")) for name in names)


def open_table(path: Path, options: TableOptions | None = None) -> OpenedTable:
    """Open a Parquet or text file as a frame; InputError where it's neither, empty or ambiguous."""
    options = options or TableOptions()
    name = f"data.path {path}" if not options.is_command else str(path)
    if not is_file(path):
        raise InputError(f"{name} is no file; give the path of a table (Parquet, CSV).")
    is_parquet = path.suffix.lower() == ".parquet"
    if not is_parquet and not is_text_table(path):
        raise InputError(
            f"{name} ends in {path.suffix!r}; expected .parquet, .csv or another text table "
            f"({', '.join(TEXT_SUFFIXES)})."
        )
    region = [options.region_column] if options.region_column else None
    try:
        if is_parquet:
            table, notes = read_parquet(path)
            return OpenedTable(_checked(table, name), name, notes=notes)
        text, layout = read_known_table(path, options.text, region)
    except InputError:
        raise
    except PARSER_ERRORS as error:
        raise InputError(f"{name} can't be read as a table: {reason(error)}") from error
    frame = text.frame
    names = list(map(str, frame.columns))
    like_rain = {*filter(_is_rain, names), options.precipitation_column}
    like_rain.add(layout.rain_column(names) if layout else None)
    of_rain = [name for name in names if name in like_rain]
    traces = read_traces(text, of_rain, layout.suffixes if layout else "")
    return OpenedTable(
        _checked(text.frame, name),
        name,
        layout,
        text.units,
        text.not_numbers,
        text.metadata,
        text.line_of,
        [*text.notes, *traces],
    )


def _checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if any(level is not None for level in table.index.names):
        table = table.reset_index()
    if table.empty:
        raise InputError(f"{name} holds no rows.")
    if table.shape[1] > MOST_COLUMNS:
        raise InputError(
            f"{name} has {table.shape[1]:,} columns; expected at most {MOST_COLUMNS:,}."
        )
    names = map(str, table.columns)
    if longest := next((one for one in names if len(one) > _MOST_OF_A_NAME), None):
        raise InputError(
            f"{name} has a column whose name has {len(longest):,} characters "
            f"({plain(longest, 40)}); expected at most {_MOST_OF_A_NAME:,}."
        )
    if not table.columns.is_unique:
        twice = sorted({str(column) for column in table.columns[table.columns.duplicated()]})
        raise InputError(f"{name} has columns of one name: {listed(twice)}.")
    return table


def _missing_column(path: Path, table: pd.DataFrame, key: str, name: str) -> InputError:
    present = ", ".join(map(str, table.columns[:30]))
    hint = ""
    if key == "precipitation_column":
        hint = " (or data.label_column for a ready label)"
    return InputError(f"{path} has no column {name}; set data.{key}{hint} to one of: {present}.")


def _regions(column: pd.Series, name: str) -> tuple[np.ndarray, list[str]]:
    codes, names = pd.factorize(column)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise InputError(f"column {name} is missing in row {row}; every row needs its region.")
    regions = [str(region) for region in names]
    if longest := next((one for one in regions if len(one) > _MOST_OF_A_NAME), None):
        raise InputError(
            f"column {name} holds a region's name of {len(longest):,} characters "
            f"({plain(longest, 40)}); expected at most {_MOST_OF_A_NAME:,}."
        )
    return codes.astype(np.int64), regions


def _step_hours(timestamps: np.ndarray, region_index: np.ndarray, regions: list[str]) -> float:
    """The most common difference; refuses unsorted, duplicate and irregular times."""
    later = np.flatnonzero(np.diff(region_index) == 0) + 1
    times, of = timestamps.astype(np.int64), region_index[later]
    differences = times[later] - times[later - 1]
    wrong = np.flatnonzero(differences <= 0)
    # What is wrong with the first region is said, so those behind a wrong one don't matter.
    judged = slice(0, np.searchsorted(of, of[wrong[0]]) if wrong.size else len(of))
    counts = pd.DataFrame({"region": of[judged], "step": differences[judged]})
    counts = counts.value_counts(sort=False).reset_index(name="count")
    counts = counts.sort_values(["region", "count", "step"], ascending=[True, False, True])
    commonest = counts.drop_duplicates("region")  # of equally many the least
    found, steps = commonest["region"].to_numpy(), commonest["step"].to_numpy()
    step_of = np.repeat(steps, np.diff(np.append(np.searchsorted(of, found), judged.stop)))
    odd = np.flatnonzero(differences[judged] % step_of != 0)
    if odd.size:
        row = later[odd[0]]
        raise InputError(
            f"region {plain(regions[of[odd[0]]], 80)}: {timestamps[row]} comes "
            f"{differences[odd[0]] / 3600:g} h after the row before, no multiple of the step of "
            f"{step_of[odd[0]] / 3600:g} h; resample to a regular step."
        )
    if wrong.size:
        what = "twice" if differences[wrong[0]] == 0 else "after a later time"
        raise InputError(
            f"region {plain(regions[of[wrong[0]]], 80)} holds {timestamps[later[wrong[0]]]} "
            f"{what}; sort each region by time, each time once."
        )
    if not found.size:
        raise InputError("no region has two rows; expected a series in time.")
    if (steps != steps[0]).any():
        shown = ", ".join(
            f"{plain(regions[index], 80)} {step / 3600:g} h"
            for index, step in zip(found[:6], steps[:6], strict=True)
        )
        raise InputError(f"regions differ in their step ({shown}); resample them to one step.")
    return int(steps[0]) / 3600


def _meaningful(
    table: pd.DataFrame, config: DataConfig, apart: set[str]
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Directions as sine and cosine, yes and no as 1 and 0; {new column: its source}; sentences."""
    table, sources = encode_directions(table, config.features, config.directions, apart)
    notes = [
        f"{name} is a direction: read as {name}_sin and {name}_cos (--directions as_is keeps it)."
        for name in dict.fromkeys(sources.values())
    ]
    text = [
        name
        for name, kind in table.dtypes.items()
        if name not in apart
        and (pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_numeric_dtype(kind))
    ]
    found = {name: numbers for name in text if (numbers := zero_one(table[name])) is not None}
    if found:
        table = table.assign(**{str(name): numbers for name, numbers in found.items()})
        notes.append(f"yes and no are read as 1 and 0 in {listed([str(n) for n in found])}.")
    return table, sources, notes


def _exact(table: pd.DataFrame, name: str, where: _Where) -> np.ndarray:
    """[R] float64 of a column; of four bytes the decimal that was stored.

    0.1 stored in 4 bytes reads 0.10000000149.
    """
    numbers = where.numbers(table, name)
    if table[name].dtype in (np.float32, np.float16):
        distinct, index = np.unique(table[name].to_numpy(), return_inverse=True)
        numbers = distinct.astype(str).astype(np.float64)[index]
    return numbers


def _precipitation_mm(
    rain: np.ndarray, name: str, unit: str, step_hours: float, where: _Where, notes: list[str]
) -> np.ndarray:
    """[R] rain in mm, rounded to 1e-6 and not below zero."""
    rain = np.round(to_mm(rain, unit, step_hours), 6)
    if (bad := rain < -_NEGATIVE_NOISE_MM).any():
        raise InputError(
            f"column {name} holds {rain[bad][0]:g} mm in a step ({where.row(bad)}); rain can't be "
            "negative: leave missing values empty."
        )
    if negative := int((rain < 0).sum()):
        notes.append(f"{negative} values of {name} just below zero set to 0.")
    return np.where(rain < 0, 0.0, rain)


def _ready_label(table: pd.DataFrame, config: DataConfig, where: _Where) -> np.ndarray | None:
    if config.label_column is None:
        return None
    label = where.numbers(table, config.label_column)
    if (bad := ~(np.isnan(label) | (label == 0) | (label == 1))).any():
        raise InputError(
            f"column {config.label_column} holds {label[bad][0]:g} ({where.row(bad)}); "
            "expected 0, 1, yes, no or an empty value."
        )
    return label


def sha256_of(path: Path) -> str:
    """Return hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _columns_problem(columns: dict[str, Any]) -> str | None:
    found = (misfit(of, _COLUMN, f"column {plain(name, 80)}") for name, of in columns.items())
    if problem := next((problem for problem in found if problem), None):
        return problem
    return records_problem({name: of["record"] for name, of in columns.items() if of.get("record")})


def read_prepared(
    path: Path, sha256: str, config: DataConfig
) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the series.json beside a table that it describes; sentences to log; None without one.

    A series.json describes series.parquet; beside it, a table of another name is its own. Raises
    InputError where series.parquet has changed since, or where the unit of its rain is not
    ``data.precipitation_unit``.
    """
    beside = path.with_name(DESCRIPTION)
    if path.name != SERIES or not beside.is_file():
        return None, []
    try:
        prepared = read_json(beside)
    except InputError as error:
        raise InputError(f"{error}; prepare the series again.") from error
    if problem := misfit(prepared, _SHAPE) or _columns_problem(prepared.get("columns", {})):
        raise InputError(f"{beside} has not format {FORMAT}: {problem}; prepare the series again.")
    if prepared["sha256"] != sha256:
        raise InputError(
            f"{path} is not the file that {DESCRIPTION} beside it describes (sha256 {sha256[:12]}, "
            f"described {str(prepared['sha256'])[:12]}); prepare it again, or remove {DESCRIPTION}."
        )
    rain = prepared["precipitation"]
    is_rain = rain["column"] == config.precipitation_column
    if is_rain and config.precipitation_unit not in ("auto", rain["unit"]):
        raise InputError(
            f"{path}: {rain['column']} is in {rain['unit']}, data.precipitation_unit says "
            f"{config.precipitation_unit}; set data.precipitation_unit={rain['unit']}."
        )
    notes = []
    if rain["is_sparse"]:
        notes.append(
            f"SPARSE rain: {rain['hours_present_per_day']} of 24 hours of {rain['column']} are "
            "present; labels from it miss rain."
        )
    return prepared, notes
