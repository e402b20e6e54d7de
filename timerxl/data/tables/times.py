"""The times and regions of a table: from its columns to UTC at the END of each row's period.

Guesses are made only where they are clear, and each is said in ``notes``. Where two readings are
possible (day or month first, a clock that changes in spring) an InputError names the option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.table_files import REGION_NAMES, Layout, plain_name

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
    """The end of each row's period in UTC.

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
        listed = " ".join(_quoted(name) for name in columns)
        times.notes.append(f"the times are in {listed} (else say --timestamp-column).")
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
        offset = _standard_offset(zone, times.timestamps)
        times.timestamps = times.timestamps - offset
        if _changes(zone, times.timestamps):
            hour = int(-offset.astype(np.int64)) // _HOUR % 24
            times.notes.append(f"days end by standard time of {zone} all year ({hour:02} UTC).")
    else:
        utc, notes = _to_utc(stamps, zone, codes, times.timezone, line_of)
        times.notes += notes
        times.timestamps = utc + (times.timestamps - stamps)
    return times


def time_columns(
    frame: pd.DataFrame, layout: Layout | None = None, options: TimeOptions | None = None
) -> list[str]:
    """Names of the columns that make the time: told, of the layout, or by their names."""
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
        """By what the columns hold: datetimes, numbers, parts of a date, or text."""
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
        row = int(np.flatnonzero(bad)[0])
        line = f" (line {self.line_of(row)})" if self.line_of is not None else f" (row {row + 1})"
        value = values.iloc[row]
        shown = "no time" if pd.isna(value) else repr(str(value)[:40])
        return InputError(f"column {self.called} holds {shown}{line}; {expected}")

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
                row = int(np.flatnonzero(bad)[0])
                where = f"line {self.line_of(row)}" if self.line_of else f"row {row + 1}"
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


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name


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
    """The zone of an IANA name or an offset such as UTC-5, -05:00, +0530; InputError for others."""
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


def _standard_offset(zone: tzinfo, stamps: np.ndarray) -> np.timedelta64:
    """The zone's smaller offset over the year of the first stamp."""
    fixed = _fixed_seconds(zone)
    if fixed is None:
        year = int(str(stamps.min())[:4])
        offsets = [
            datetime(year, month, 15, 12, tzinfo=zone).utcoffset() for month in (1, 4, 7, 10)
        ]
        fixed = min(int(offset.total_seconds()) for offset in offsets if offset is not None)
    return np.timedelta64(fixed, "s")


def _changes(zone: tzinfo, stamps: np.ndarray) -> bool:
    if _fixed_seconds(zone) is not None:
        return False
    year = int(str(stamps.min())[:4])
    return len({datetime(year, m, 15, tzinfo=zone).utcoffset() for m in (1, 4, 7, 10)}) > 1


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
        row = int(np.flatnonzero(gone)[0])
        where = f"line {line_of(row)}" if line_of is not None else f"row {row + 1}"
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
    """The region of every row.

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
    for key in (
        "codigo_(wmo)",
        "codigo_estacao",
        "codigo",
        "estacao",
        "station",
        "station_name",
        "station_id",
        "name",
        "nome",
    ):
        if value := plain.get(key, "").strip():
            return value
    pair = plain.get("latitude"), plain.get("longitude")
    place = re.match(r"latitude\s+(\S+)\s+longitude\s+(\S+)", plain.get("location", ""), re.I)
    if place is not None:  # NASA POWER
        pair = place[1], place[2]
    return f"lat{pair[0]}_lon{pair[1]}" if pair[0] and pair[1] else None
