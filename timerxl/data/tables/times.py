"""Times and regions of a table: which columns tell them, and the UTC end of each row's period.

Guesses are made only where they are clear, and each is said in ``notes``. Where two readings are
possible (day or month first, a clock that changes in spring) an InputError names the option.
R rows.
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
from timerxl.data.tables.text import REGION_NAMES, Layout, plain_name

# Names of columns of times, the likeliest first.
_TIME_NAMES = tuple(
    "timestamp time datetime date_time valid_time date local_time utc_time time_utc utc valid "
    "obs_time observation_time observationtime valid_time_gmt dt_iso dt mess_datum fecha "
    "fecha_hora data data_hora datum zeit datetime_utc date_utc date_(utc) yyyymmdd yyyymmddhh "
    "date/time day ds yeardoy time_local timestamp_utc formatted_date "
    "日期 时间 年月日時 年月日 일시".split()
)
_LIKE_TIMES = re.compile(r"(date|data|datum|fecha|time)\b.*|.*(timestamp|datetime|date_?time).*")
_CLOCK_NAMES = re.compile(
    r"(hora|hour|hr|hh|time|heure|uhrzeit|stunde|clock)(_?\(?(utc|gmt|local|lst|hhmm)\)?)?"
)
_CLOCK_VALUES = re.compile(
    r"\d{1,4}(\.0)?|\d{1,2}([:h]\d{2}){1,2}(\.0+)?( ?[AaPp]\.?[Mm]\.?)?"
    r"|\d{1,4}(:\d{2})? ?(UTC|Z|h)"
)
_PARTS = {
    "year": "year yr yyyy ano jahr annee".split(),
    "month": "month mo mon mes monat mois mm".split(),
    "day": "day dy dd dia tag jour".split(),
    "doy": "doy day_of_year dayofyear jday julian_day".split(),
    "hour": "hour hr hh hora stunde heure".split(),
    "minute": "minute minutes mn mi".split(),
}
_SAYS_UTC = re.compile(r"(^|[^a-z])(utc|gmt|zulu)([^a-z]|$)", re.IGNORECASE)
_UTC_ZONES = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu")
_CLOCK = (
    r"(?:(?P<H>\d{1,2})(?:[:.h]?(?P<M>\d{2}))?(?:[:.]?(?P<S>\d{2}))?(?:[.,]\d+)?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?)?\s*(?P<zone>UTC|GMT|Z|(?:UTC|GMT)?[+-]\d{2}:?\d{2})?"
)
_MONTHS = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
# Ways to write a time: first part, what stands between, second and third part, before the clock.
_PATTERNS = {
    kind: f"(?P<a>{a}){between}(?P<b>{b}){between}(?P<c>{c})(?:{clock}{_CLOCK})?"
    for kind, (a, between, b, c, clock) in {
        "ymd": (r"\d{4}", "[-/.]", r"\d{1,2}", r"\d{1,2}", "[T ,]+"),
        "dmy": (r"\d{1,2}", "[-/.]", r"\d{1,2}", r"\d{4}", "[T ,]+"),
        "compact": (r"\d{4}", "", r"\d{2}", r"\d{2}", "[T:_ -]?"),
        "words": (r"\d{1,2}", "[-/ .,]+", r"[A-Za-z]{3,9}", r"\d{4}", "[T ,:]+"),
        "short year": (r"\d{1,2}", "[-/.]", r"\d{1,2}", r"\d{2}", "[T ,]+"),
    }.items()
}
_ISO_ZONE = r"\d[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)$"
_NO_TIME = "which is no time that is told by itself; say --time-format, such as '%d/%m/%Y %H:%M'."
_NO_UNIT = "a number does not tell its unit: say --time-format, such as unix, %Y%m%d%H or %Y%j."
_END_NOTE = "a stamp is taken as the end of its step (else say --stamps start)."
_DAY, _HOUR = 86_400, 3_600
_HALF_YEAR = 200 * _DAY
# Of (region, time) may stand twice: the hours that autumn doubles.
_MOST_DOUBLED = 0.003


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
    (start or end), ``known_by`` how that is known: option, layout, dates, hours 1 to 24 or assumed.
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
    written = _WrittenTimes(frame, columns, time_format, line_of)
    naive, notes = written.naive, written.notes
    if columns != ["timestamp"] and not options.timestamp_columns and layout is None:
        quoted = " ".join(f'"{name}"' if " " in name else name for name in columns)
        notes.append(f"the times are in {quoted} (else say --timestamp-column).")
    codes = np.zeros(len(frame), dtype=np.int64)
    if regions is not None:
        codes = pd.factorize(np.asarray(regions, dtype=object))[0].astype(np.int64)
    step = _step(naive, codes)
    stamps, known_by, note = _meaning_of_stamps(written, columns, layout, options, step)
    if note:
        notes.append(note)
    ends = naive
    if stamps == "start":
        period = _DAY if known_by == "dates" else step
        if layout is not None and layout.hours is not None:
            period = round(layout.hours * _HOUR)
        if period is None:
            raise InputError("--stamps start needs two rows of a region, which tell the step.")
        ends = naive + np.timedelta64(period, "s")
    zone, is_told = _zone(written.is_utc, columns, layout, options)
    if zone is None:
        if not is_told:
            _refuse_jumps(naive, codes, step, columns)
            notes.append("no time zone is told: taken as UTC (else say --timezone).")
    elif known_by == "dates" or (step is not None and step % _DAY == 0):
        standard = min(_offsets(zone, ends))
        ends = ends - np.timedelta64(standard, "s")
        if len(_offsets(zone, ends)) > 1:
            hour = -standard // _HOUR % 24
            notes.append(f"days end by standard time of {zone} all year ({hour:02} UTC).")
    else:  # the clock is that of the stamps, whichever end of the step they are
        at = naive if stamps == "start" else ends
        utc, doubled = _to_utc(at, zone, codes, line_of)
        notes += doubled
        ends = utc + (ends - at)
    return Times(ends, columns, stamps, known_by, "UTC" if zone is None else str(zone), notes)


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
    part = {k: next((plain[n] for n in names if n in plain), None) for k, names in _PARTS.items()}
    for date in (("year", "month", "day"), ("year", "doy")):
        if all(part[kind] is not None for kind in date):
            clock = ("hour", "minute") if part["hour"] is not None else ()
            return [name for kind in (*date, *clock) if (name := part[kind]) is not None]
    like_times = [name for name in _TIME_NAMES if name in plain]
    like_times += [name for name in plain if _LIKE_TIMES.fullmatch(name)]
    for column in (plain[name] for name in like_times):
        if _is_clock(frame[column]):
            continue
        values = frame[column].dropna()
        is_date = len(values) and not pd.api.types.is_datetime64_any_dtype(values)
        if is_date and not re.search(r"[:T]|\d \d", str(values.iloc[0])):
            for name, other in plain.items():  # a date alone: the hours may stand beside it
                if other != column and _CLOCK_NAMES.fullmatch(name) and _is_clock(frame[other]):
                    return [column, other]
        return [column]
    raise InputError(
        f"no column is named like a time; say --timestamp-column, one or several of: "
        f"{', '.join(present[:30])}."
    )


def _is_clock(column: pd.Series) -> bool:
    """Tell whether a column holds times of the day (or small numbers) without a date."""
    values = column.dropna()
    if pd.api.types.is_datetime64_any_dtype(values) or not len(values):
        return False
    return _CLOCK_VALUES.fullmatch(str(values.iloc[0]).strip()) is not None


class _WrittenTimes:
    """Times as the columns have them: ``naive`` [R] datetime64[s], UTC already where ``is_utc``.

    Read by what the columns hold: datetimes, parts of a date, numbers, a given format, or text.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        columns: list[str],
        time_format: str | None,
        line_of: Callable[[int], int] | None,
    ) -> None:
        self.called, self.line_of = " + ".join(columns), line_of
        self.is_utc = self.dates_only = self.hours_1_to_24 = False
        self.notes: list[str] = []
        first = frame[columns[0]]
        kinds = [next((k for k, n in _PARTS.items() if plain_name(c) in n), "") for c in columns]
        if len(columns) == 1 and pd.api.types.is_datetime64_any_dtype(first):
            self.is_utc = first.dt.tz is not None
            self.naive = self._whole(pd.to_datetime(first, utc=True).dt.tz_localize(None), first)
        elif time_format == "unix":
            self.naive = self._unix(first)
        elif time_format is not None:
            self.naive = self._formatted(self._joined(frame, columns, ""), time_format)
        elif len(columns) > 1 and kinds[0] == "year" and "" not in kinds:
            self.naive = self._parts(frame, dict(zip(kinds, columns, strict=True)))
        elif len(columns) == 1 and pd.api.types.is_numeric_dtype(first):
            self.naive = self._text(self._digits(first))
        else:
            self.naive = self._text(self._joined(frame, columns, ":00"))

    def _check(self, bad: np.ndarray | pd.Series, values: pd.Series, expected: str) -> None:
        """Refuse the first of the ``bad`` rows [R] bool, by its value and place."""
        if (bad := np.asarray(bad, dtype=bool)).any():
            row, where = _first_row(bad, self.line_of)
            value = values.iloc[row]
            shown = "no time" if pd.isna(value) else repr(str(value)[:40])
            raise InputError(f"column {self.called} holds {shown} ({where}); {expected}")

    def _whole(self, times: pd.Series, values: pd.Series) -> np.ndarray:
        """[R] datetime64[s] of pandas' times: whole seconds, none missing."""
        self._check(times.isna(), values, "expected a time in every row.")
        stamps = times.to_numpy()
        seconds = stamps.astype("datetime64[s]")
        self._check(seconds != stamps, values, "expected whole seconds.")
        return seconds

    def _parts(self, frame: pd.DataFrame, column_of: dict[str, str]) -> np.ndarray:
        """Columns of year, month, day (or day of the year), hour and minute."""
        numbers = {}
        for kind, name in column_of.items():
            values = pd.to_numeric(frame[name], errors="coerce")
            if (bad := (values.isna() | (values % 1 != 0)).to_numpy()).any():
                row, where = _first_row(bad, self.line_of)
                raise InputError(
                    f"column {name} holds {frame[name].iloc[row]!r} in {where}; expected a whole "
                    f"number, the {kind}."
                )
            numbers[kind] = values.to_numpy(np.int64)
        year, zero = numbers["year"], np.zeros_like(numbers["year"])
        hour, minute = numbers.get("hour", zero), numbers.get("minute", zero)
        if hour.max() > 24 and (hour % 100 < 60).all():
            hour, minute = hour // 100, hour % 100
            self.notes.append(f"column {column_of['hour']} is taken as hours and minutes (HHMM).")
        if "doy" in numbers:
            seconds, bad = _seconds(year, zero + 1, zero + 1, hour, minute)
            seconds = seconds + (numbers["doy"] - 1) * _DAY
            bad |= (numbers["doy"] < 1) | (numbers["doy"] > 366)
        else:
            seconds, bad = _seconds(year, numbers["month"], numbers["day"], hour, minute)
        if bad.any():
            shown = _joined_text(frame, list(column_of.values()))
            self._check(bad, shown, "expected a date (and an hour from 0 to 24).")
        self.dates_only = "hour" not in numbers
        self.hours_1_to_24 = hour.min() == 1 and hour.max() == 24
        return seconds.astype("datetime64[s]")

    def _unix(self, column: pd.Series) -> np.ndarray:
        self.is_utc = True
        numbers = pd.to_numeric(column, errors="coerce")
        self._check(numbers.isna(), column, "expected seconds or milliseconds since 1970.")
        scale = 1000.0 if float(numbers.abs().median()) > 1e11 else 1.0
        seconds = numbers.to_numpy(np.float64) / scale
        bad = (seconds % 1 != 0) | (np.abs(seconds) > 1e10)
        self._check(bad, column, "expected whole seconds since 1970.")
        return seconds.astype(np.int64).astype("datetime64[s]")

    def _digits(self, column: pd.Series) -> pd.Series:
        """Numbers such as 20200131, 2020013106 and 202001310600, as text."""
        self._check(column.isna() | (column.fillna(0) % 1 != 0), column, _NO_UNIT)
        text = column.astype("int64").astype(str)
        lengths = text.str.len()
        is_right = lengths.isin([8, 10, 12, 14]) & (lengths == lengths.iloc[0])
        is_right &= text.str[:4].astype(int).between(1700, 2100)
        self._check(~is_right, column, _NO_UNIT)
        return text

    def _joined(self, frame: pd.DataFrame, columns: list[str], minutes: str) -> pd.Series:
        """The columns' text joined by spaces; numbers of hours as HHMM, or HH and ``minutes``."""
        parts = []
        for position, name in enumerate(columns):
            column = frame[name]
            if pd.api.types.is_datetime64_any_dtype(column):
                text = column.dt.strftime("%Y-%m-%d")
            elif pd.api.types.is_numeric_dtype(column) and column.notna().all():
                numbers = column.astype("int64")
                text = numbers.astype(str)
                if position:
                    is_hhmm = numbers.max() > 24
                    text = text.str.zfill(4) if is_hhmm else text.str.zfill(2) + minutes
            else:
                text = column.astype("string").str.strip()
            parts.append(text)
        return parts[0].str.cat(parts[1:], sep=" ") if len(parts) > 1 else parts[0]

    def _formatted(self, text: pd.Series, time_format: str) -> np.ndarray:
        self.dates_only = re.search(r"%[HIcXTsR]", time_format) is None
        self.is_utc = "%z" in time_format or "%Z" in time_format

        def parse(words: pd.Series) -> pd.Series:
            return pd.to_datetime(words, format=time_format, errors="coerce", utc=self.is_utc)

        try:
            times = parse(text)
            if (failed := times.isna() & text.notna()).any() and not self.dates_only:
                # Hour 24 is the next day's 00: of a text that is no time, the last 24 is the hour.
                again = text[failed].str.replace(r"24(?!.*24)", "00", regex=True)
                times[failed] = parse(again) + pd.Timedelta(days=1)
        except (ValueError, TypeError, re.error) as error:
            raise InputError(f"--time-format {time_format!r} can't be used: {error}") from error
        self._check(times.isna(), text, f"--time-format {time_format!r} does not read it.")
        return self._whole(times.dt.tz_localize(None) if self.is_utc else times, text)

    def _text(self, text: pd.Series) -> np.ndarray:
        """ISO times as pandas reads them, else one pattern for the whole column."""
        codes, distinct = pd.factorize(text)
        self._check(codes < 0, text, "expected a time in every row.")
        words = pd.Series([_plain_time(str(word)) for word in distinct], dtype=object)
        is_short = words.str.fullmatch(r"\d{4}([-/]\d{1,2})?").to_numpy(bool)
        expected = "months and years are no regular step; expected days or hours."
        self._check(is_short[codes], text, expected)
        iso = pd.to_datetime(words, utc=True, format="ISO8601", errors="coerce")
        if iso.isna().any():
            return self._pattern(words, codes, text)
        self.dates_only = bool(words.str.fullmatch(r"\d{4}[-/.]?\d{1,2}[-/.]?\d{1,2}").all())
        self._one_zone(words.str.contains(_ISO_ZONE).to_numpy(bool), codes, text)
        return self._whole(iso.dt.tz_localize(None), words)[codes]

    def _one_zone(self, has_zone: np.ndarray, codes: np.ndarray, text: pd.Series) -> None:
        self.is_utc = bool(has_zone.any())
        expected = "other rows carry an offset from UTC; say --time-format."
        self._check(self.is_utc & ~has_zone[codes], text, expected)

    def _pattern(self, words: pd.Series, codes: np.ndarray, text: pd.Series) -> np.ndarray:
        def check(bad: np.ndarray | pd.Series, expected: str = _NO_TIME) -> None:
            self._check(np.asarray(bad, dtype=bool)[codes], text, expected)

        kind = next((k for k, p in _PATTERNS.items() if re.fullmatch(p, words.iloc[0])), "")
        check(np.full(len(words), not kind))
        expected = "a year of two digits tells no order; say --time-format, such as"
        check(np.full(len(words), kind == "short year"), f"{expected} '%d/%m/%y %H:%M'.")
        parts = words.str.extract(f"^(?:{_PATTERNS[kind]})$")
        check(parts["a"].isna())
        if kind == "words":
            parts["b"] = parts["b"].str[:3].str.lower().map(_MONTHS)
            check(parts["b"].isna())
        numbers = parts[["a", "b", "c", "H", "M", "S"]].fillna("0").astype(np.int64)
        year, month, day, hour, minute, second = numbers.to_numpy().T
        if kind in ("words", "dmy"):
            year, day = day, year
        if kind == "dmy":
            month, day = self._month_and_day(day, month, text)
        half = parts["half"].str[:1].str.lower()
        is_half = half.notna().to_numpy()
        check(is_half & ((hour < 1) | (hour > 12)))
        hour = np.where(is_half, hour % 12 + 12 * (half == "p").to_numpy(), hour)
        seconds, bad = _seconds(year, month, day, hour, minute, second)
        check(bad)
        zones = parts["zone"]
        self._one_zone(zones.notna().to_numpy(), codes, text)
        if self.is_utc:
            seconds = seconds - zones.map(_offset_seconds).to_numpy(np.int64)
        self.dates_only = bool(parts["H"].isna().all())
        self.hours_1_to_24 = not self.dates_only and hour.min() == 1 and hour.max() == 24
        return seconds.astype("datetime64[s]")[codes]

    def _month_and_day(
        self, first: np.ndarray, second: np.ndarray, text: pd.Series
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tell (month, day) by a number above 12 in the whole column."""
        is_first, is_second = bool((first > 12).any()), bool((second > 12).any())
        if is_first and is_second:
            raise InputError(
                f"column {self.called} holds numbers above 12 in both places of day and month "
                f"(such as {text.iloc[0]!r}); the table mixes two orders."
            )
        if not is_first and not is_second:
            raise InputError(
                f"column {self.called} holds {str(text.iloc[0])!r} and never a number above 12: "
                "day or month first? Say --time-format, such as '%d/%m/%Y' or '%m/%d/%Y' (with "
                "' %H:%M')."
            )
        before = "day stands before the month" if is_first else "month stands before the day"
        self.notes.append(f"the {before} in {self.called} (a number above 12).")
        return (second, first) if is_first else (first, second)


def _first_row(bad: np.ndarray, line_of: Callable[[int], int] | None) -> tuple[int, str]:
    """Return the first bad row, and where it stands in the file."""
    row = int(np.flatnonzero(bad)[0])
    return row, f"row {row + 1}" if line_of is None else f"line {line_of(row)}"


def _plain_time(word: str) -> str:
    """Put the signs of Chinese and Japanese dates in those of ISO."""
    if "年" in word:
        word = re.sub(r"[年月]", "-", word).replace("日", " ")
        word = re.sub(r"[时時]", ":", word).replace("分", "")
        word = re.sub(r":$", ":00", word.strip())
    return re.sub(r"\s+", " ", word.strip())


def _seconds(
    year: np.ndarray,
    month: np.ndarray,
    day: np.ndarray,
    hour: np.ndarray,
    minute: np.ndarray,
    second: np.ndarray | int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (seconds since 1970, whether it is no time); hour 24 is the next day's 00."""
    months = (year - 1970) * 12 + np.clip(month, 1, 12) - 1
    first = months.astype("datetime64[M]").astype("datetime64[s]").astype(np.int64)
    date = first + (day - 1) * _DAY
    bad = date.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) != months
    for number, low, high in (
        (year, 1700, 2200), (month, 1, 12), (day, 1, 31), (hour, 0, 24), (minute, 0, 59),
        (second, 0, 59),
    ):  # fmt: skip
        bad |= (number < low) | (number > high)
    bad |= (hour == 24) & (minute > 0)
    return date + hour * _HOUR + minute * 60 + second, bad


def _offset_seconds(zone: str) -> int:
    match = re.search(r"([+-])(\d{2}):?(\d{2})", zone)
    if match is None:
        return 0
    return (1 if match[1] == "+" else -1) * (int(match[2]) * _HOUR + int(match[3]) * 60)


def _meaning_of_stamps(
    written: _WrittenTimes,
    columns: list[str],
    layout: Layout | None,
    options: TimeOptions,
    step: int | None,
) -> tuple[str, str, str | None]:
    """Tell (whether a stamp is start or end, how that is known, what to say of it)."""
    if options.stamps is not None:
        return options.stamps, "option", None
    if layout is not None and layout.stamps is not None:
        return layout.stamps, "layout", None
    if columns == ["timestamp"] and layout is None and not written.dates_only:
        return "end", "assumed", _END_NOTE
    if written.hours_1_to_24:
        note = "the hours run from 1 to 24: a stamp is the end of its hour."
        return "end", "hours 1 to 24", note
    seconds = written.naive.astype(np.int64)
    if written.dates_only or (step is not None and step >= _DAY and not (seconds % _DAY).any()):
        note = "a date without an hour is a whole day, stamped at its end, the next midnight"
        return "start", "dates", f"{note} (else say --stamps end)."
    return "end", "assumed", _END_NOTE


def _step(naive: np.ndarray, codes: np.ndarray) -> int | None:
    """Return the most common positive difference inside of a region, in seconds; None for single
    rows."""
    seconds = naive.astype(np.int64)
    order = np.lexsort((seconds, codes))
    steps = np.diff(seconds[order])[np.diff(codes[order]) == 0]
    lengths, counts = np.unique(steps[steps > 0], return_counts=True)
    return int(lengths[np.argmax(counts)]) if lengths.size else None


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
    is_utc: bool, columns: list[str], layout: Layout | None, options: TimeOptions
) -> tuple[tzinfo | None, bool]:
    """Return (the zone, None for UTC; whether anything tells it)."""
    zone = zone_of(options.timezone) if options.timezone is not None else None
    says_utc = next((name for name in columns if _SAYS_UTC.search(name.replace("_", " "))), None)
    if is_utc or says_utc is not None:
        if zone is not None and str(zone) not in _UTC_ZONES:
            raise InputError(
                f"the times of {' + '.join(columns)} tell their own zone; leave --timezone out."
                if says_utc is None
                else f"column {says_utc} says UTC and --timezone {options.timezone}; leave one out."
            )
        return None, True
    if zone is None and layout is not None and layout.timezone is not None:
        zone = zone_of(layout.timezone)
    return None if zone is None or str(zone) in _UTC_ZONES else zone, zone is not None


def _offsets(zone: tzinfo, stamps: np.ndarray) -> list[int]:
    """Return a zone's distinct offsets from UTC over the year of the first stamp, seconds."""
    year = int(str(stamps.min())[:4])
    found = {datetime(year, month, 15, 12, tzinfo=zone).utcoffset() for month in (1, 4, 7, 10)}
    return [int(offset.total_seconds()) for offset in found if offset is not None]


def _to_utc(
    naive: np.ndarray, zone: tzinfo, codes: np.ndarray, line_of: Callable[[int], int] | None
) -> tuple[np.ndarray, list[str]]:
    """Turn local times into UTC: of a doubled hour the first pass is summer time, by the rows'
    order."""
    index = pd.DatetimeIndex(naive)
    every = np.ones(len(index), dtype=bool)

    def utc(is_summer: np.ndarray) -> np.ndarray:
        localized = index.tz_localize(zone, ambiguous=is_summer, nonexistent="NaT")
        return localized.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[s]")

    summer, winter = utc(every), utc(~every)
    if (gone := np.isnat(summer)).any():
        row, where = _first_row(gone, line_of)
        raise InputError(
            f"{naive[row]} ({where}) does not exist in {zone}: clocks were put forward then. "
            "Say --timezone with an offset, such as UTC-5, if the table's clock never changes."
        )
    double = np.flatnonzero(summer != winter)
    if not double.size:
        return summer, []
    # Nights of a region one after the other, each in the order in which its clock ran.
    seconds = naive.astype(np.int64)
    spans = pd.Series(seconds).groupby(codes).agg(["first", "last"])
    is_newest_first = (spans["first"] > spans["last"]).loc[codes[double]].to_numpy()
    rows = pd.DataFrame(
        {
            "row": double,
            "order": np.where(is_newest_first, -double, double),
            "code": codes[double],
            "night": seconds[double] // _DAY,
            "second": seconds[double],
        }
    ).sort_values(["code", "night", "order"])
    rows["turns"] = rows.groupby(["code", "night"])["second"].diff() <= 0
    nights = rows.groupby(["code", "night"])["turns"]
    second_pass = np.zeros(len(naive), dtype=bool)
    second_pass[rows["row"][nights.cummax().astype(bool)]] = True
    notes = []
    if alone := int((~nights.any()).sum()):
        notes.append(
            f"the hour that autumn doubles stands once in {alone} nights: taken as the first."
        )
    return np.where(second_pass, winter, summer), notes


def _refuse_jumps(
    naive: np.ndarray, codes: np.ndarray, step: int | None, columns: Sequence[str]
) -> None:
    """Refuse a clock without a zone that is put forward in spring and back in autumn."""
    if step is None or step > _HOUR:
        return
    order = np.argsort(codes, kind="stable")
    times = naive[order].astype(np.int64)
    steps = np.where(np.diff(codes[order]) == 0, np.diff(times), step)
    if (steps < 0).sum() > len(steps) // 2:  # newest first
        times, steps = times[::-1], -steps[::-1]
    before = times[:-1]
    due = before + step  # clocks are changed on Sundays (in most countries) from 00 to 03
    month = due.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    at_night = (due % _DAY <= 3 * _HOUR) & np.isin(month, (2, 3, 4, 9, 10, 11))
    at_night &= (due // _DAY + 4) % 7 == 0
    forward = np.flatnonzero((steps == step + _HOUR) & at_night)
    back = np.flatnonzero((steps == step - _HOUR) & at_night)
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
    if region_column is not None and region_column not in present:
        raise InputError(
            f"there is no column {region_column} (--region-column); the columns are: "
            f"{', '.join(present[:30])}. --region NAME makes the table one region."
        )
    if region is not None:
        return Regions(_constant(frame, region), [])
    if region_column is not None or "region" in present:
        name = region_column or "region"
        return Regions(_as_text(frame[name]), [name])
    by_case = {name.lower(): name for name in present}
    plain = {plain_name(name): name for name in reversed(present)}
    own = [by_case.get(name.lower()) for name in (layout.regions if layout else ())]
    found = dict.fromkeys([*own, *(plain.get(name) for name in REGION_NAMES)])
    candidates = [name for name in found if name is not None and name not in times]
    key = _joined_text(frame, times) if times else None
    is_one = key is not None and _tells_apart(_constant(frame, "x"), key)
    single: Regions | None = None
    for name in candidates:
        column = _as_text(frame[name])
        if column.isna().any() or not _tells_apart(column, key):
            continue
        columns = [name, *(other for other in candidates if other != name)]
        if column.nunique() > 1 and (not is_one or _follow_each_other(column, name)):
            note = f"regions are told by column {name} (else say --region-column)."
            return Regions(column, columns, [note])
        if column.nunique() == 1 and single is None:
            note = f"one region, {column.iloc[0]}, named by column {name} (else say --region)."
            single = Regions(column, columns, [note])
    if single is not None:
        return single
    if key is not None and not is_one:
        place = [
            next((plain[name] for name in names if name in plain), None)
            for names in (("latitude", "lat"), ("longitude", "lon", "long", "lng"))
        ]
        if None not in place:
            latitude, longitude = (frame[name].map("{:g}".format) for name in place)
            names = "lat" + latitude + "_lon" + longitude
            if _tells_apart(names, key):
                note = "regions are told by latitude and longitude (else say --region-column)."
                return Regions(names, [], [note])
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
    """Tell whether (region, time) is unique, but for the hours that autumn doubles."""
    if key is None:
        return True
    twice = pd.DataFrame({"name": names.to_numpy(), "key": key.to_numpy()}).duplicated().sum()
    return bool(twice <= _MOST_DOUBLED * len(names))


def _follow_each_other(column: pd.Series, name: str) -> bool:
    """Tell whether stations that share no time stand one after the other (no ids that come and
    go)."""
    turns = int((column.to_numpy()[1:] != column.to_numpy()[:-1]).sum())
    return plain_name(name) not in ("id", "name", "code") and turns + 1 == column.nunique()


def _name_of(metadata: dict[str, str]) -> str | None:
    """Return the name of a station in the lines above a table."""
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
