"""Text tables of any dialect to frames: encoding, separator, names, units, rows, known layouts.

A plain table (UTF-8, commas, names in line 1) comes out as ``pandas.read_csv`` reads it. Anything
else is found by what its lines look like. What can't be decided is an InputError that names the
option which decides it. A layout is recognised by its columns (or by the text above them) and says
what the file itself does not: time zone, stamps, units, codes for missing, flags.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from timerxl.config import InputError
from timerxl.untrusted import check_members, check_memory, check_packing, is_file, reason

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".dly", ".gz", ".zip")
# Words for "missing" besides those of pandas (NA, NaN, NULL, n/a, None, ...).
MISSING_WORDS = frozenset(
    "- -- --- ---- ----- . .. * ** *** / // /// //// ? ?? m nd n.d. n/d s/d sd n.a. n/a na nan "
    "null none nil missing #n/a #na #value! #div/0! #ref! <na> -nan – — ―".split()
)
TRACE_WORDS = frozenset(("t", "tr", "tr.", "trace", "traces"))
# Column names of regions and stations, the likeliest first.
REGION_NAMES = tuple(
    "region station station_id stationid stations_id station_name stationname location location_id "
    "locationid site site_id site_no city cidade estacion estacao usaf wban stn stid stnid wmo "
    "wmo_id id_station id_estacao codigo cd_estacao icao id name code".split()
)
MOST_COLUMNS = 10_000
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar |", " ": "spaces"}
_SEPARATOR_WORDS = {
    "comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ",
    "spaces": " ", "whitespace": " ", "\\s+": " ",
}  # fmt: skip
_SAMPLE_LINES = 400  # a header block of a station archive has 8 to 80
_SAMPLE_CHARACTERS = 8_000_000
_FOOTER_LINES = 60
_SHOWN_WORDS = 4
_MOST_NOTES = 20  # of one kind
_MEMORY_OF_TEXT = 12  # times its bytes: as text, in the parser's buffer (4 each), as a frame
_MOST_LINE = 4_000_000  # characters; 10,000 columns have a tenth of that
_LONGEST_VALUE = 100  # characters of a number or a time
_OTHER_FILES = {
    b"PAR1": "is a Parquet file; name it .parquet.",
    b"\x89HDF": "is a NetCDF or HDF5 file; name it .nc.",
    b"CDF": "is a NetCDF file; name it .nc.",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save it as CSV.",
} | dict.fromkeys(
    (b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd"),
    "is packed in a way that is not read; unpack it (or use gzip).",
)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA_NUMBER = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([,. ']\d{3})+([.,]\d+)?")
_TIME = re.compile(
    r"(\d{4}-\d{2}|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}[- ][A-Za-z]{3}[- ]\d{2,4}"
    r"|\d{4}年\d{1,2}月(\d{1,2}日)?)"
    r"([T ,]+\d{1,2}([:.h]\d{2})?([:.]\d{2})?.*)?"
    r"|\d{1,2}:\d{2}(:\d{2})?( ?[AaPp]\.?[Mm]\.?)?|\d{2,4} ?(UTC|Z)|\d{8}[T:_ -]?\d{2,6}Z?"
)
_UNIT = re.compile(
    r"[(\[]?\s*(mm|cm|m|in|inch|inches|k|c|f|°\s*[cf]|deg\.?\s*[cfk]?|degrees?( [cfk])?|celsius|"
    r"fahrenheit|kelvin|%|percent|pct|h?pa|kpa|mb|mbar|millibars?|inhg|mmhg|m/s|m s-1|m\*s-1|ms-1|"
    r"km/h|kmh|kph|mph|kt|kts|knots?|w/m2|w/m²|w/m\^2|wm-2|w m-2|kj/m2|mj/m2|j/m2|mj/m²|°|"
    r"kg/m2|kg m-2|mm/h|mm/hr|mm/hour|mm/day|g/m3|kg/m3|min|h|hr|s|iso8601|unixtime|utc|"
    r"wmo code|1/10 mm|0\.1 ?mm|[μµ]g/m3|[μµ]g/m³|okta|oktas|octas)\s*[)\]]?",
    re.IGNORECASE,
)
_LINE_END = r"\r\n|\n|\r"
# Words that the files of a country's weather service hold, by the encoding that shows them.
_WORDS_OF_ENCODINGS = (
    ("gb18030", ("时间", "日期", "气温", "降水", "降雨", "站点", "站号", "温度", "湿度", "雨量")),
    ("cp932", ("年月日", "気温", "降水量", "風速", "日付", "時刻", "湿度")),
    ("cp949", ("기온", "강수량", "일시", "지점", "풍속", "습도")),
    ("big5", ("氣溫", "降水量", "測站", "時間", "雨量", "風速", "溫度")),
    ("cp1251", ("температура", "осадк", "время", "дата", "ветер", "ветра", "давлени", "влажност")),
    ("cp1253", ("θερμοκρασία", "βροχ", "ημερομηνία")),
    ("cp1250", ("opad", "stacj", "srážk", "teplota", "csapadék", "hőmérséklet", "miesiąc")),
)


@dataclass(frozen=True)
class TextOptions:
    """What the user says of a text table; None means: guess, and say the guess.

    ``header_line`` counts from 1; 0 means that the table has no column names. ``separator`` is a
    sign or its name (tab, space); ``decimal`` is ``.`` or ``,``.
    """

    encoding: str | None = None
    separator: str | None = None
    decimal: str | None = None
    header_line: int | None = None


@dataclass
class TextTable:
    """A file's rows as a frame; ``notes`` are sentences about every guess.

    ``metadata`` are the ``key: value`` lines above the column names, ``header_text`` those lines
    as they are, ``locations`` the rows of a table of places that stands above (Open-Meteo),
    ``units`` the line of units below. ``header_line`` is 0 where the file has no column names
    (the columns are ``column_1``, ...). ``not_numbers`` tells of each column that would be numeric
    but for some words, and stays text: how many, which, and the first line. ``kinds`` holds for
    each of the ``width`` columns n (numbers), t (times) or an empty text.
    """

    path: Path
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    metadata: dict[str, str] = field(default_factory=dict)
    header_text: list[str] = field(default_factory=list)
    locations: list[dict[str, str]] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_numbers: dict[str, str] = field(default_factory=dict)
    header_line: int = 0
    first_line: int = 1
    separator: str = ","
    encoding: str = "utf-8"
    decimal: str | None = None
    blank_lines: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    width: int = 0

    def line_of(self, row: int) -> int:
        """Return the line of the file, from 1, in which a row of the frame stands."""
        line = self.first_line + row
        for blank in self.blank_lines:
            if blank > line:
                break
            line += 1
        return line


def is_text_table(path: Path) -> bool:
    """Tell whether a file's name ends like that of a text table."""
    return path.suffix.lower() in TEXT_SUFFIXES


def read_text_table(
    path: Path, options: TextOptions | None = None, text_columns: Sequence[str] | None = None
) -> TextTable:
    """Read a delimited text file, packed (.gz, a .zip of one file) or not.

    ``text_columns`` stay text as they are (``007``, ``NA``); None takes ``region``, or where it
    is missing all columns named like a station. Raises InputError naming the line and the option.
    """
    options = options or TextOptions()
    if options.decimal not in (None, ".", ","):
        raise InputError(f"--decimal is {options.decimal!r}; expected '.' or ','.")
    text, encoding, notes = decode_text(path, options.encoding)
    table = TextTable(path, notes=notes, encoding=encoding, decimal=options.decimal)
    body = _without_tail(table, _find_parts(table, text, options))
    if not body.strip():
        raise InputError(f"{path} holds no rows below its column names.")
    if re.search(r"\n[ \t]*\r?\n|\r[ \t]*\r", body):
        lines = enumerate(io.StringIO(body, newline=None), table.first_line)
        table.blank_lines = [number for number, line in lines if not line.strip()]
    if text_columns is None:
        like_stations = [name for name in table.names if plain_name(name) in REGION_NAMES]
        text_columns = ["region"] if "region" in table.names else like_stations
    as_text = [name for name in table.names if name in text_columns]
    table.frame = _parse(table, body, as_text)
    _drop_empty_ends(table)
    left = [name for name in table.names if name in table.frame and name not in as_text]
    _convert_text(table, left)
    return table


def decode_text(path: Path, encoding: str | None = None) -> tuple[str, str, list[str]]:
    """Decode a file: its text, encoding, and notes; InputError for what is no text table.

    Without ``encoding``: by its first bytes, else UTF-8, else by the words and bytes in it.
    """
    if not is_file(path):
        raise InputError(f"{path} is no file; give the path of a table.")
    content = _content(path)
    _refuse_other_files(path, content)
    notes: list[str] = []
    if encoding is None:
        encoding, is_certain = _guess_encoding(content)
        if not is_certain:
            notes.append(f"read as {encoding} (no UTF-8); --encoding says otherwise.")
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise InputError(
            f"--encoding {encoding!r} is unknown; expected one such as utf-8, latin-1, gb18030."
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path} can't be read as {encoding}: {reason(error)}; say --encoding, such as latin-1."
        ) from error
    start, why = text[:2000].lstrip().lower(), ""
    if start.startswith(("<!doctype", "<html", "<?xml")):
        why = "is a web page or XML, no table; download the CSV itself."
    elif start.startswith(("{", "[{")):
        why = "is JSON, no table; download the CSV format."
    elif "\0" in text[:100_000]:
        why = "holds NUL bytes: no text, or in another encoding; say --encoding."
    elif not text.strip():
        why = "holds no rows."
    if why:
        raise InputError(f"{path} {why}")
    return text, encoding, notes


def _refuse_other_files(path: Path, content: bytes) -> None:
    for begin, why in _OTHER_FILES.items():
        if content.startswith(begin):
            raise InputError(f"{path} {why}")


def _content(path: Path) -> bytes:
    """Return the bytes of a file, unpacked; no more than there is memory to read them with."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        _refuse_other_files(path, head)
        if head.startswith(b"PK\x03\x04"):
            return _unzipped(path)
        if head.startswith(b"\x1f\x8b"):
            return _gunzipped(path)
        if head and not head.strip(b"\0"):
            raise InputError(f"{path} begins with NUL bytes alone: that is no text table.")
        check_memory(path.stat().st_size * _MEMORY_OF_TEXT, f"reading {path}")
        return path.read_bytes()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        done = "unpacked" if head.startswith((b"\x1f\x8b", b"PK")) else "read"
        raise InputError(f"{path} can't be {done}: {reason(error)}") from error


def _gunzipped(path: Path) -> bytes:
    """Unpack in pieces: a gzip file does not tell how much comes out of it."""
    size, pieces, total = path.stat().st_size, [], 0
    with gzip.open(path, "rb") as packed:
        while piece := packed.read(2**20):
            pieces.append(piece)
            total += len(piece)
            check_packing(size, total, str(path))
            check_memory(total * _MEMORY_OF_TEXT, f"reading {path}")
    return b"".join(pieces)


def _unzipped(path: Path) -> bytes:
    """Unpack the one file in a ZIP."""
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        names = [info.filename for info in members]
        if "[Content_Types].xml" in names:
            raise InputError(f"{path} is an Excel workbook; save it as CSV.")
        if len(names) != 1:
            shown = ", ".join(names[:_SHOWN_WORDS])
            raise InputError(
                f"{path} holds {len(names)} files ({shown}); expected one table: unpack it."
            )
        check_members(path, members)
        check_memory(members[0].file_size * _MEMORY_OF_TEXT, f"reading {path}")
        return archive.read(members[0])


def _guess_encoding(content: bytes) -> tuple[str, bool]:
    """Return (encoding, whether it is certain)."""
    for marks, encoding in (
        ((b"\xef\xbb\xbf",), "utf-8-sig"),
        ((b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "utf-32"),
        ((b"\xff\xfe", b"\xfe\xff"), "utf-16"),
    ):
        if content.startswith(marks):
            return encoding, True
    head = content[:4000]
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(head) >= 4 and zeros.count(0) > 0.8 * len(zeros):
            return encoding, False
    if _decodes(content, "utf-8") is not None:
        return "utf-8", True
    lines = dict.fromkeys(re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", content))
    sample = b"\n".join(list(lines)[:200])
    for encoding, words in _WORDS_OF_ENCODINGS:
        shown = (_decodes(sample, encoding) or "").lower()
        if any(word in shown for word in words):
            return encoding, False
    runs = re.findall(rb"(?<![\x80-\xff])[\x80-\xff]+", sample)
    among_ascii = re.findall(
        rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])|[A-Za-z][\x80-\xff]{2}(?![\x80-\xff])", sample
    )
    if 2 * len(among_ascii) >= len(runs):  # letters of western Europe stand alone among ASCII
        return "cp1252" if _decodes(sample, "cp1252") is not None else "latin-1", False
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return (best.encoding if best is not None else "latin-1"), False


def _decodes(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _find_parts(table: TextTable, text: str, options: TextOptions) -> str:
    """Find separator, names, units and the first row by what the lines look like.

    Fills in the ``table``; returns the text from its first row on.
    """
    path, notes = table.path, table.notes
    given = _given_separator(options.separator)
    start = max((options.header_line or 1) - 1, 0)
    lines = _first_lines(text, start + _SAMPLE_LINES)
    if start >= len(lines) or (options.header_line and not lines[start][1].strip()):
        raise InputError(
            f"--header-line {options.header_line}: {path} holds no column names in that line."
        )
    filled = [i for i in range(start, len(lines)) if lines[i][1].strip()]
    if match := re.fullmatch(r'"?sep=(.)"?', lines[filled[0]][1].strip(" \r")):  # Excel's own line
        given, filled = given or match[1], filled[1:]
    if not filled:
        raise InputError(f"{path} holds no rows.")
    comments = {i for i in filled if lines[i][1].startswith("#")}  # the names may be one
    bare = {i: lines[i][1][1:].lstrip() if i in comments else lines[i][1] for i in filled}
    best = _best_separator(list(bare.values()), given)
    if best is None:
        raise InputError(
            f"{path} shows no separator that divides its lines into columns (line "
            f"{filled[0] + 1}: {lines[filled[0]][1][:60]!r}); say --separator, or --header-line."
        )
    table.separator, table.width = best
    if table.width > MOST_COLUMNS:
        raise InputError(f"{path} has {table.width:,} columns; expected at most {MOST_COLUMNS:,}.")
    rows = {i: _fields(line, table.separator) for i, line in bare.items()}
    table.kinds = _kinds_of_columns(list(rows.values()), table.width)
    names_at, units_at = _header_lines(table, rows, comments, options.header_line)
    last = units_at if units_at is not None else names_at
    data = next((i for i in filled if last is None or i > last), None)
    if names_at is None:
        assert data is not None
        table.names = [f"column_{i + 1}" for i in range(len(rows[data]))]
    else:
        table.names = _unique_names([name.strip() for name in rows[names_at]], notes)
        if units_at is not None:
            units = zip(table.names, rows[units_at], strict=False)
            table.units = {n: u.strip().strip("()[] ") for n, u in units if u.strip()}
            notes.append(f"line {units_at + 1} is taken as the units of the columns.")
        if names_at > filled[0] and options.header_line is None:
            notes.append(f"column names found in line {names_at + 1} (else say --header-line).")
    if table.separator != "," and given is None:
        called = _SEPARATORS[table.separator]
        notes.append(f"columns are separated by {called} (else say --separator).")
    above = lines[: names_at if names_at is not None else data]
    table.header_text = [line.strip() for _, line in above if line.strip()]
    table.metadata, table.locations = _metadata(table.header_text, table.separator)
    table.header_line = 0 if names_at is None else names_at + 1
    table.first_line = len(lines) + 1 if data is None else data + 1
    body = "" if data is None else text[lines[data][0] :]
    raw = "" if names_at is None else lines[names_at][1].rstrip("\r")
    if raw and f"\n{raw}" in body:
        pattern = re.compile(rf"(?<=\n){re.escape(raw)}(?=\r?\n|\Z)")
        body, count = pattern.subn("", body)
        if count:
            notes.append(f"the column names stand {count} more times between the rows; left out.")
    return body


def _header_lines(
    table: TextTable, rows: dict[int, list[str]], comments: set[int], asked: int | None
) -> tuple[int | None, int | None]:
    """Return the indices of the line of names and of the line of units; None where there is none.

    ``rows`` are the lines that are not blank, by index.
    """
    kinds, width, filled = table.kinds, table.width, list(rows)
    if asked == 0:
        return None, None
    if asked is not None:
        has_units = len(filled) > 1 and _are_units(rows[filled[1]])
        return filled[0], filled[1] if has_units else None
    data = next((i for i in filled if i not in comments and _is_data(rows[i], kinds, width)), None)
    if data is None:  # words only: the first line that is as wide as the others
        return next(i for i in filled if len(rows[i]) == width), None
    above, units_at = [i for i in filled if i < data], None
    for i in reversed(above):
        if abs(len(rows[i]) - width) > 1 or _holds_values(rows[i], kinds):
            continue
        if units_at is not None or not _are_units(rows[i]):
            return i, units_at
        units_at = i
    # No line above has as many words as the rows have values: the nearest words are the names, and
    # the rows are refused against them.
    if above and len(rows[above[-1]]) > 1 and _only_words(rows[above[-1]]):
        return above[-1], None
    return None, None


def _first_lines(text: str, most: int) -> list[tuple[int, str]]:
    """Return (offset, line without its end) of the first lines; fewer where they are long."""
    lines: list[tuple[int, str]] = []
    for match in re.finditer(rf"([^\r\n]*)({_LINE_END}|\Z)", text):
        if match.start() == len(text) and lines:
            break
        if len(match[1]) > _MOST_LINE:
            raise InputError(
                f"line {len(lines) + 1} has {len(match[1]):,} characters; expected at most "
                f"{_MOST_LINE:,}: is it a table with a line for each row?"
            )
        lines.append((match.start(), match[1]))
        is_enough = len(lines) > most - _SAMPLE_LINES and match.end() > _SAMPLE_CHARACTERS
        if len(lines) >= most or is_enough:
            break
    return lines


def _given_separator(separator: str | None) -> str | None:
    if separator is None:
        return None
    sign = _SEPARATOR_WORDS.get(separator.lower(), separator)
    if len(sign) != 1:
        raise InputError(
            f"--separator {separator!r} is none; expected one sign such as ',' ';', or tab, space."
        )
    return sign


def _fields(line: str, separator: str) -> list[str]:
    line = line.strip() if separator == " " else line
    if '"' in line:
        try:
            return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            pass
    return line.split(None if separator == " " else separator)


def _fits(pattern: re.Pattern[str], word: str) -> bool:
    """Tell whether a whole word is of a pattern; of a long one the search could take for ever."""
    return len(word) <= _LONGEST_VALUE and pattern.fullmatch(word) is not None


def _kind(value: str) -> str:
    """Return n for a number, t for a time, m for missing (or a trace), w for any other words."""
    value = value.strip()
    if len(value) > _LONGEST_VALUE:
        return "w"
    word = value.lower()
    if not value or word in MISSING_WORDS or word in TRACE_WORDS:
        return "m"
    if _NUMBER.fullmatch(value) or _COMMA_NUMBER.fullmatch(value):
        return "n"
    return "t" if _TIME.fullmatch(value) else "w"


def _best_separator(lines: list[str], given: str | None) -> tuple[str, int] | None:
    """Return the separator under which the later lines agree on a width and hold clean values."""
    # Of a short file a header block may be the larger part: its last lines alone are rows for sure.
    few = len(lines) < 40
    lines = lines[-max(2, len(lines) // 4 if few else 2 * len(lines) // 3) :]
    best: tuple[float, str, int] | None = None
    for separator in (given,) if given else _SEPARATORS:
        rows = [_fields(line, separator) for line in lines]
        widths = Counter(map(len, rows))
        width = max(widths, key=lambda w: (widths[w], w))
        if width < 2:
            continue
        agreeing = [row for row in rows if len(row) == width][:50]
        values = [value for row in agreeing for value in row]
        clean = sum(_kind(v) != "w" or not re.search(r"[,;\t|]", v) for v in values)
        score = widths[width] / len(rows) * clean / len(values)
        if separator == " ":
            score *= 0.8  # spaces also stand inside of times and words
        if best is None or score > best[0] + 0.01:
            best = score, separator, width
    return None if best is None else best[1:]


def _kinds_of_columns(rows: list[list[str]], width: int) -> list[str]:
    kinds = []
    rows = [row for row in rows if len(row) == width]
    rows = rows[-min(max(len(rows) // 3, 1), 50) :]
    for column in range(width):
        found = Counter(_kind(row[column]) for row in rows)
        del found["m"]
        kind = max(found, key=lambda k: found[k], default="")
        kinds.append(kind if kind in ("n", "t") and found[kind] >= 0.8 * found.total() else "")
    return kinds


def _is_data(row: list[str], kinds: list[str], width: int) -> bool:
    """Tell whether a line holds values of the kinds that its columns hold."""
    if abs(len(row) - width) > 1:
        return False
    pairs = [(_kind(value), kind) for value, kind in zip(row, kinds, strict=False) if kind]
    times = [found for found, kind in pairs if kind == "t"]
    if times:
        return times[0] == "t"
    known = [found == kind for found, kind in pairs if found != "m"]
    return bool(known) and 2 * sum(known) >= len(known)


def _holds_values(row: list[str], kinds: list[str]) -> bool:
    found = [_kind(value) for value, kind in zip(row, kinds, strict=False) if kind]
    return bool(found) and 2 * sum(kind in ("n", "t") for kind in found) >= len(found)


def _only_words(row: list[str]) -> bool:
    return all(_kind(value) in "wm" for value in row)


def _are_units(row: list[str]) -> bool:
    words = [value.strip() for value in row if value.strip()]
    known = sum(bool(_UNIT.fullmatch(word)) or word in MISSING_WORDS for word in words)
    return known > 0 and _only_words(row) and 2 * known >= len(words)


def _unique_names(names: list[str], notes: list[str]) -> list[str]:
    """Name columns as pandas does: ``Unnamed: 3`` for none, ``x.1`` for the second x."""
    named = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    taken, seen = set(named), Counter[str]()
    unique: list[str] = []
    renamed: list[str] = []
    for name in named:
        made = name
        while seen[name] and made in taken:
            made = f"{name}.{seen[name]}"
            if made in taken:
                seen[name] += 1
        if made != name:
            renamed.append(f"two columns are called {name}; the later one is now {made}.")
        seen[name] += 1
        taken.add(made)
        unique.append(made)
    notes += renamed[:_MOST_NOTES]
    if len(renamed) > _MOST_NOTES:
        notes.append(f"{len(renamed) - _MOST_NOTES:,} more columns of the same names are renamed.")
    return unique


@lru_cache(MOST_COLUMNS)
def plain_name(name: str) -> str:
    """Return a column's name in lower case, without accents, spaces as underscores."""
    return re.sub(r"[\s\-]+", "_", without_accents(name).strip().lower())


def without_accents(text: str) -> str:
    """Take accents off the letters of a text."""
    text = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in text if not unicodedata.combining(sign))


def _without_tail(table: TextTable, body: str) -> str:
    """Cut off a second table or a footer."""
    line_at = re.compile(r"[^\r\n]{,100000}")
    for match in re.finditer(r"(?:\r\n|\n|\r)[ \t]*(?:\r\n|\n|\r)\s*", body):
        line = line_at.match(body, match.end())
        row = _fields(line[0] if line else "", table.separator)
        if match.end() == len(body) or _is_data(row, table.kinds, table.width):
            continue
        if len(row) == table.width and not _only_words(row):
            continue  # a row with faults of its own
        at = table.first_line + len(re.findall(_LINE_END, body[: match.end()]))
        lines = len(re.findall(_LINE_END, body[match.end() :].rstrip())) + 1
        if len(row) > 1 and lines > 1:
            table.notes.append(
                f"a second table stands from line {at} on ({', '.join(row)[:80]}); it is not read. "
                f"--header-line {at} reads it instead."
            )
        else:
            table.notes.append(f"{lines} lines at the end, from line {at}, are no rows; left out.")
        return body[: match.start()] + "\n"
    end, cut, first = len(body.rstrip()), 0, ""
    while cut < _FOOTER_LINES:
        start = max(body.rfind("\n", 0, end), body.rfind("\r", 0, end)) + 1
        if end - start > _MOST_LINE:
            break
        row = _fields(body[start:end], table.separator)
        begins = bool(row) and bool(table.kinds[0]) and _kind(row[0]) == table.kinds[0]
        if start == 0 or begins or abs(len(row) - table.width) <= 1 or not any(table.kinds):
            break
        first, cut = body[start:end], cut + 1
        end = len(body[:start].rstrip())
    if cut in (0, _FOOTER_LINES):
        return body
    table.notes.append(f"{cut} lines at the end are no rows ({first.strip()[:60]!r}); left out.")
    return body[:end] + "\n"


def _parse(table: TextTable, body: str, as_text: list[str]) -> pd.DataFrame:
    """Parse the rows by pandas' C parser; columns of ``as_text`` are the text that stands there."""
    names = _fitting_names(table, body)

    def parse(**more: object) -> pd.DataFrame:
        try:
            return pd.read_csv(  # type: ignore[call-overload]
                io.StringIO(body, newline=""),
                sep=r"\s+" if table.separator == " " else table.separator,
                header=None,
                names=names,
                index_col=False,
                low_memory=False,
                decimal=table.decimal or ".",
                **more,
            )
        except (pd.errors.ParserError, ValueError, OverflowError) as error:
            raise _parser_error(table, str(error)) from error

    frame = parse(dtype=dict.fromkeys(as_text, str))
    if as_text:
        words = parse(usecols=as_text, dtype=str, na_filter=False, keep_default_na=False)
        for name in as_text:
            column = words[name].str.strip()
            frame[name] = column.where(column != "")
    return frame


def _fitting_names(table: TextTable, body: str) -> list[str]:
    """Return the names, one more for a separator at the end of the rows; refuse other widths."""
    line = re.match(r"[^\r\n]*", body.lstrip("\r\n"))
    row = _fields(line[0] if line else "", table.separator)
    more = len(row) - len(table.names)
    if more <= 0:
        return table.names
    if more == 1 and not row[-1].strip():
        return [*table.names, f"Unnamed: {len(table.names)}"]
    hint = ""
    if table.separator == "," and len(row) >= 2 * len(table.names) - 2:
        hint = " A decimal comma between commas must stand in quotes."
    raise InputError(
        f"{table.path}: line {table.first_line} has {len(row)} values for the {len(table.names)} "
        f"column names of line {table.header_line}; say --header-line or --separator.{hint}"
    )


def _parser_error(table: TextTable, text: str) -> InputError:
    if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
        line = table.first_line + int(match[2]) - 1
        return InputError(
            f"{table.path}: line {line} has {match[3]} values where the others have {match[1]}; "
            "mend that line, or say --separator or --header-line."
        )
    if match := re.search(r"EOF inside string starting at row (\d+)", text):
        line = table.first_line + int(match[1])
        return InputError(f"{table.path}: a quote is opened in about line {line} and never closed.")
    return InputError(f"{table.path} can't be read as a table: {reason(ValueError(text))}")


def _drop_empty_ends(table: TextTable) -> None:
    """Drop columns without a name and without a value, and empty rows at the end."""
    frame = table.frame
    nameless = [n for n in frame.columns if re.fullmatch(r"Unnamed: \d+", n)]
    empty = [name for name in nameless if frame[name].isna().all()]
    if empty:
        frame = frame.drop(columns=empty)
        if set(empty) & set(table.names):
            table.notes.append(f"{len(empty)} columns without a name and a value are left out.")
    for name in sorted(set(nameless) - set(empty))[:_MOST_NOTES]:
        table.notes.append(f"column {name} has no name in the file; is it a count of the rows?")
    if len(frame) and frame.iloc[-1].isna().all():
        filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
        kept = int(filled[-1]) + 1 if filled.size else 0
        table.notes.append(f"{len(frame) - kept} empty rows at the end are left out.")
        frame = frame.iloc[:kept]
    if frame.empty:
        raise InputError(f"{table.path} holds no rows below its column names.")
    table.frame = frame


@dataclass
class _Words:
    """The distinct words of a text column: ``numbers`` [U] float64, NaN where missing or bad;
    ``counts`` [U] rows of each."""

    codes: np.ndarray
    words: list[str]
    numbers: np.ndarray
    is_bad: np.ndarray
    counts: np.ndarray

    @classmethod
    def read(
        cls, column: pd.Series, decimal: str | None, traces: bool = False, suffixes: str = ""
    ) -> _Words:
        codes, distinct = pd.factorize(column)
        words = [str(word).strip() for word in np.asarray(distinct, dtype=object)]
        lower = [word.lower() for word in words]
        missing = np.array([not w or w in MISSING_WORDS for w in lower], dtype=bool)
        plain = words
        if decimal == ",":
            # A number with a point is none where the comma is the decimal sign.
            plain = [f"{w}!" if "." in w and _fits(_NUMBER, w) else w for w in words]
            plain = [w.replace(",", ".") if _fits(_COMMA_NUMBER, w) else w for w in plain]
        if suffixes:
            plain = [re.sub(rf"(?<=[\d.])\s*[{re.escape(suffixes)}]+$", "", w) for w in plain]
        found = pd.to_numeric(pd.Series(plain, dtype=object), errors="coerce")
        numbers = np.array(found, dtype=np.float64)
        numbers[missing] = np.nan
        if traces:
            numbers[np.array([w in TRACE_WORDS for w in lower], dtype=bool)] = 0.0
        counts = np.bincount(codes[codes >= 0], minlength=len(words))
        return cls(codes, words, numbers, np.isnan(numbers) & ~missing, counts)

    @property
    def column(self) -> np.ndarray:
        """Return [R] float64."""
        return np.append(self.numbers, np.nan)[self.codes]

    @property
    def are_numbers(self) -> bool:
        return not self.is_bad.any() and not np.isnan(self.numbers).all()


def _convert_text(table: TextTable, names: list[str]) -> None:
    """Make numbers of text columns that hold nothing else; name what stands in the way."""
    text = [n for n in names if not pd.api.types.is_numeric_dtype(table.frame[n])]
    table.decimal = table.decimal or _guess_decimal(table, text)
    made: dict[str, np.ndarray] = {}
    for name in text:
        read = _Words.read(table.frame[name], table.decimal)
        if read.is_bad.any():
            _name_bad_words(table, name, read)
        elif read.are_numbers:
            made[name] = read.column
    if made:  # one frame anew: a column at a time takes minutes where there are thousands
        columns = {str(n): made.get(str(n), table.frame[n].array) for n in table.frame.columns}
        table.frame = pd.DataFrame(columns, index=table.frame.index)


def _guess_decimal(table: TextTable, text: list[str]) -> str | None:
    """Return a comma where text columns hold numbers with one; None otherwise."""
    frame = table.frame
    if {"REPORT_TYPE", "WND", "TMP"} <= set(frame.columns):
        return None  # ISD: +0123,1 is a value and its quality
    clear: list[str] = []
    doubtful: dict[str, str] = {}
    for name in text:
        if not frame[name].str.contains(",", regex=False).any():
            continue
        words = [str(word).strip() for word in frame[name].dropna().unique()]
        commas = [w for w in words if "," in w]
        others = [w for w in words if "," not in w]
        if not all(_fits(_COMMA_NUMBER, w) for w in commas):
            continue
        if any(_kind(w) in ("w", "t") or "." in w.strip(".") for w in others):
            continue
        if all(_fits(_THOUSANDS, w) for w in commas):
            doubtful[name] = commas[0]
        else:
            clear.append(name)
    if clear:
        floats = frame.select_dtypes("float")
        pointed = [n for n in floats if (floats[n].dropna() % 1 != 0).any()]
        if pointed:
            raise InputError(
                f"{table.path}: {clear[0]} holds decimal commas and {pointed[0]} decimal points; "
                "say --decimal , or --decimal . and mend the other columns."
            )
        table.notes.append("the decimal sign is a comma (else say --decimal .).")
        return ","
    for name, word in doubtful.items():
        table.not_numbers[name] = (
            f"column {name} holds {word!r}: thousands are written without a mark; if it is a "
            "decimal comma say --decimal ,."
        )
    return None


def _name_bad_words(table: TextTable, name: str, read: _Words) -> None:
    """Say of a column that is numbers by half at least which words stand in the way."""
    bad = np.flatnonzero(read.is_bad)
    like_numbers = [i for i in bad if _kind(read.words[i]) == "n"]
    thousands = [i for i in bad if _fits(_THOUSANDS, read.words[i])]
    num_bad = int(read.counts[bad].sum())
    good = int(read.counts[~np.isnan(read.numbers)].sum())
    good += int(read.counts[like_numbers + thousands].sum())
    if num_bad > good or name in table.not_numbers:
        return
    words = sorted(bad, key=lambda i: -read.counts[i])
    shown = ", ".join(f"{read.words[i][:20]!r} ({read.counts[i]:,})" for i in words[:_SHOWN_WORDS])
    more = f" and {len(words) - _SHOWN_WORDS} more" if len(words) > _SHOWN_WORDS else ""
    row = int(np.flatnonzero(np.append(read.is_bad, False)[read.codes])[0])
    hint = "; write thousands without a mark" if thousands else ""
    table.not_numbers[name] = (
        f"column {name}: {num_bad:,} of {len(read.codes):,} values are no numbers: {shown}{more}, "
        f"first in line {table.line_of(row)}{hint}."
    )


def read_traces(table: TextTable, columns: Sequence[str], suffixes: str = "") -> list[str]:
    """Read the words of rain columns: T and trace are 0 mm; returns notes.

    ``suffixes`` are letters that may follow a number (``0.05s`` of NOAA's LCD). Changes the frame
    and ``not_numbers`` of the ``table``; a column with other words stays text and is named there.
    """
    notes: list[str] = []
    for name in columns:
        if pd.api.types.is_numeric_dtype(table.frame[name]):
            continue
        read = _Words.read(table.frame[name], table.decimal, traces=True, suffixes=suffixes)
        table.not_numbers.pop(name, None)
        if read.is_bad.any():
            _name_bad_words(table, name, read)
        if not read.are_numbers:
            continue
        traces = np.array([word.lower() in TRACE_WORDS for word in read.words], dtype=bool)
        if count := int(read.counts[traces].sum()):
            notes.append(f"column {name}: {count:,} traces (T) are taken as 0.")
        lettered = ~traces & np.array([w[-1:].isalpha() for w in read.words], dtype=bool)
        if number := int(read.counts[lettered & ~np.isnan(read.numbers)].sum()):
            notes.append(f"column {name}: {number:,} numbers followed by a letter are taken.")
        table.frame[name] = read.column
    return notes


def _metadata(above: list[str], separator: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return ``key: value`` lines as a mapping, and the rows of a table of places if one stands."""
    for at, line in enumerate(above):
        keys = [key.strip() for key in _fields(line, separator)]
        if {"latitude", "longitude"} <= set(keys):
            places = [
                dict(zip(keys, (v.strip() for v in _fields(row, separator)), strict=False))
                for row in above[at + 1 :]
            ]
            return (places[0] if len(places) == 1 else {}), places
    found: dict[str, str] = {}
    for line in above:
        bare = line.lstrip("#%*! ").rstrip(f" {separator}").strip('" ')
        match = re.match(r"([^:=]{1,80}?)\s*[:=]\s*[;,\t]?\s*(.*)", bare)
        if match and match[2].strip('" '):
            found.setdefault(match[1].strip('" '), match[2].strip('" '))
    return found, []


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
    answer; ``suffixes`` are letters after numbers. ``resolve`` and ``decode`` are functions of
    :mod:`timerxl.data.tables.sources`: the first completes the layout by what the file says, the
    second makes columns of numbers.
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
    resolve: str = ""
    decode: str = ""

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


def load_yaml(name: str) -> Any:
    """Load a table of this package's own knowledge, which lies beside this file."""
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@cache
def known_layouts() -> tuple[Layout, ...]:
    """Read the layouts of known sources, in the order in which they are tried."""
    found = []
    for content in load_yaml("layouts.yaml"):
        units = {name: unit for unit, names in content.get("units", {}).items() for name in names}
        codes = content.get("missing", {}).items()
        missing = {name: (code,) for code, names in codes for name in names}
        content = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        found.append(Layout(**content | {"units": units, "missing": missing}))
    return tuple(found)


def find_layout(table: TextTable) -> Layout | None:
    """Find the known layout of a table, with what its lines above say; None for any other."""
    present = {plain_name(str(name)) for name in table.frame.columns}
    above = "\n".join(table.header_text)
    row = ",".join("" if pd.isna(v) else str(v) for v in table.frame.iloc[0])
    for layout in known_layouts():
        if layout.row:
            fits = table.header_line == 0 and re.fullmatch(layout.row, row) is not None
        else:
            fits = {plain_name(name) for name in layout.columns} <= present
        if not fits or layout.above not in above:
            continue
        whole = [table.frame[name] for name in layout.whole if name in table.frame]
        if all(pd.api.types.is_numeric_dtype(one) and not (one % 1).any() for one in whole):
            if not layout.resolve:
                return layout
            from timerxl.data.tables.sources import RESOLVERS

            return RESOLVERS[layout.resolve](table, layout)
    return None


def read_known_table(
    path: Path, options: TextOptions | None = None, text_columns: Sequence[str] | None = None
) -> tuple[TextTable, Layout | None]:
    """Read a text table, recognise its layout and decode it.

    Raises InputError as :func:`read_text_table` does, and for a table without column names that
    is of no known layout.
    """
    options = options or TextOptions()
    layout: Layout | None
    if path.name.lower().removesuffix(".gz").endswith(".dly"):
        from timerxl.data.tables.sources import dly

        text, _, notes = decode_text(path, options.encoding)
        table = dly(path, text)
        layout = next(one for one in known_layouts() if one.decode == "ghcn_long")
    else:
        table, notes = read_text_table(path, options, text_columns), []
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
    if layout.decode:
        from timerxl.data.tables.sources import DECODERS

        table = DECODERS[layout.decode](table)
    table.notes += [*notes, f"the layout of {layout.name} is recognised.", *layout.notes]
    return table, layout
