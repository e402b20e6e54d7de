"""Table files to frames: delimited text of any dialect, layouts of known sources, Parquet.

A plain table (UTF-8, commas, names in line 1) comes out as ``pandas.read_csv`` reads it. Anything
else is found by what its lines look like: encoding, separator, decimal sign, the lines above the
column names, a line of units below them. What can't be decided is an InputError that names the
option which decides it. A layout is recognised by its columns (or by the text above them) and says
what the file itself does not: time zone, stamps, units, codes for missing, flags.

"""

from __future__ import annotations

import csv
import gzip
import io
import mmap
import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from timerxl.config import InputError
from timerxl.untrusted import check_members, check_memory, check_packing, is_file, listed, reason

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".dly", ".gz", ".zip")
# Words for "missing" besides those of pandas (NA, NaN, NULL, n/a, None, ...).
MISSING_WORDS = frozenset(
    "- -- --- ---- ----- . .. * ** *** / // /// //// ? ?? m nd n.d. n/d s/d sd n.a. n/a na nan "
    "null none nil missing #n/a #na #value! #div/0! #ref! <na> -nan – — ―".split()
)
TRACE_WORDS = frozenset(("t", "tr", "tr.", "trace", "traces"))
# Column names of regions and stations, the likeliest first.
REGION_NAMES = (
    *("region", "station", "station_id", "stationid", "stations_id", "station_name", "stationname"),
    *("location", "location_id", "locationid", "site", "site_id", "site_no", "city", "cidade"),
    *("estacion", "estacao", "usaf", "wban", "stn", "stid", "stnid", "wmo", "wmo_id", "id_station"),
    *("id_estacao", "codigo", "cd_estacao", "icao", "id", "name", "code"),
)
_SEPARATORS = (",", ";", "\t", "|", " ")
_SEPARATOR_WORDS = {
    "comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " ",
    "spaces": " ", "whitespace": " ", "\\s+": " ",
}  # fmt: skip
_CALLED = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar |", " ": "spaces"}
_SAMPLE_LINES = 400  # a header block of a station archive has 8 to 80
_FOOTER_LINES = 60
_SHOWN_WORDS = 4
_MOST_NOTES = 20  # of one kind
_MEMORY_OF_TEXT = 12  # times its bytes: as text, in the parser's buffer (4 each), as a frame
_OTHER_PACKINGS = (b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
_SAMPLE_CHARACTERS = 8_000_000
_MOST_LINE = 4_000_000  # characters; 10,000 columns have a tenth of that
MOST_COLUMNS = 10_000
_LONGEST_VALUE = 100  # characters of a number or a time

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
    but for some words, and stays text: how many, which, and the first line.
    """

    path: Path
    frame: pd.DataFrame
    metadata: dict[str, str] = field(default_factory=dict)
    header_text: list[str] = field(default_factory=list)
    locations: list[dict[str, str]] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    not_numbers: dict[str, str] = field(default_factory=dict)
    header_line: int = 1
    first_line: int = 2
    separator: str = ","
    encoding: str = "utf-8"
    decimal: str | None = None
    blank_lines: list[int] = field(default_factory=list)

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
    text, encoding, notes = decode_text(path, options.encoding)
    layout = _find_parts(path, text, options)
    table = TextTable(
        path=path,
        frame=pd.DataFrame(),
        header_text=layout.above,
        units=layout.units,
        notes=notes + layout.notes,
        header_line=layout.header_line,
        first_line=layout.first_line,
        separator=layout.separator,
        encoding=encoding,
        decimal=options.decimal,
    )
    table.metadata, table.locations = _metadata(layout.above, layout.separator)
    body = _without_tail(text[layout.offset :], layout, table.notes)
    if not body.strip():
        raise InputError(f"{path} holds no rows below its column names.")
    if re.search(r"\n[ \t]*\r?\n|\r[ \t]*\r", body):
        lines = enumerate(io.StringIO(body, newline=None), layout.first_line)
        table.blank_lines = [number for number, line in lines if not line.strip()]
    asked = _text_columns(layout.names, text_columns)
    table.frame = _parse(path, body, layout, asked, options.decimal)
    _drop_empty_ends(table, layout.names)
    _convert_text(
        table, [name for name in layout.names if name in table.frame and name not in asked]
    )
    return table


def decode_text(path: Path, encoding: str | None = None) -> tuple[str, str, list[str]]:
    """Decode a file: its text, encoding, and notes; InputError for what is no text table.

    Without ``encoding``: by its first bytes, else UTF-8, else by the words and bytes in it.
    """
    if not is_file(path):
        raise InputError(f"{path} is no file; give the path of a table.")
    content = _content(path)
    for magic, kind in (
        (b"PAR1", "a Parquet file; name it .parquet"),
        (b"\x89HDF", "a NetCDF or HDF5 file; name it .nc"),
        (b"CDF", "a NetCDF file; name it .nc"),
        (b"\xd0\xcf\x11\xe0", "an Excel workbook; save it as CSV"),
    ):
        if content.startswith(magic):
            raise InputError(f"{path} is {kind}.")
    notes: list[str] = []
    if encoding is None:
        encoding, certain = _guess_encoding(content)
        if not certain:
            notes.append(f"read as {encoding} (no UTF-8); --encoding says otherwise.")
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise InputError(
            f"--encoding {encoding!r} is unknown; expected one such as utf-8, latin-1, gb18030."
        ) from error
    except UnicodeError as error:
        raise InputError(
            f"{path} can't be read as {encoding}: {reason(error)}; say --encoding, such as latin-1."
        ) from error
    text = text.removeprefix("\ufeff")
    start = text[:2000].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise InputError(f"{path} is a web page or XML, no table; download the CSV itself.")
    if start.startswith("{") or start.startswith("[{"):
        raise InputError(f"{path} is JSON, no table; download the CSV format.")
    if "\0" in text[:100_000]:
        raise InputError(
            f"{path} holds NUL bytes: no text, or in another encoding; say --encoding."
        )
    if not text.strip():
        raise InputError(f"{path} holds no rows.")
    return text, encoding, notes


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked; no more of them than there is memory to read them with."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if head.startswith(b"PK\x03\x04"):
            return _unzipped(path)
        if head.startswith(b"\x1f\x8b"):
            return _gunzipped(path)
        if head.startswith(_OTHER_PACKINGS):
            raise InputError(
                f"{path} is packed in a way that is not read; unpack it (or use gzip)."
            )
        if head and not head.strip(b"\0"):
            raise InputError(f"{path} begins with NUL bytes alone: that is no text table.")
        check_memory(path.stat().st_size * _MEMORY_OF_TEXT, f"reading {path}")
        return path.read_bytes()
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        done = "unpacked" if head.startswith((b"\x1f\x8b", b"PK")) else "read"
        raise InputError(f"{path} can't be {done}: {reason(error)}") from error


def _gunzipped(path: Path) -> bytes:
    """In pieces: a gzip file does not tell how much comes out of it."""
    size, pieces, total = path.stat().st_size, [], 0
    with gzip.open(path, "rb") as packed:
        while piece := packed.read(2**20):
            pieces.append(piece)
            total += len(piece)
            check_packing(size, total, str(path))
            check_memory(total * _MEMORY_OF_TEXT, f"reading {path}")
    return b"".join(pieces)


def _unzipped(path: Path) -> bytes:
    """The one file in a ZIP."""
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
    """(encoding, whether it is certain)."""
    if content.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig", True
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32", True
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", True
    head = content[:4000]
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(head) >= 4 and zeros.count(0) > 0.8 * len(zeros):
            return encoding, False
    try:
        content.decode("utf-8")
        return "utf-8", True
    except UnicodeDecodeError:
        pass
    lines = dict.fromkeys(re.findall(rb"[^\r\n]*[\x80-\xff][^\r\n]*", content))
    sample = b"\n".join(list(lines)[:200])
    for encoding, words in _WORDS_OF_ENCODINGS:
        try:
            shown = sample.decode(encoding).lower()
        except UnicodeDecodeError:
            continue
        if any(word in shown for word in words):
            return encoding, False
    runs = re.findall(rb"(?<![\x80-\xff])[\x80-\xff]+", sample)
    among_ascii = re.findall(
        rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])|[A-Za-z][\x80-\xff]{2}(?![\x80-\xff])", sample
    )
    if 2 * len(among_ascii) >= len(runs):  # letters of western Europe stand alone among ASCII
        try:
            sample.decode("cp1252")
            return "cp1252", False
        except UnicodeDecodeError:
            return "latin-1", False
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return (best.encoding if best is not None else "latin-1"), False


@dataclass
class _Parts:
    """Where the parts of a text stand; lines count from 1, ``offset`` is that of the first row.

    ``kinds`` holds for each column n (numbers), t (times) or an empty text.
    """

    separator: str
    header_line: int
    first_line: int
    offset: int
    names: list[str]
    header_raw: str
    units: dict[str, str]
    above: list[str]
    kinds: list[str]
    width: int
    notes: list[str]


def _find_parts(path: Path, text: str, options: TextOptions) -> _Parts:
    """Find separator, names, units and the first row by what the lines look like."""
    notes: list[str] = []
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
    best = _best_separator([_uncommented(lines[i][1]) for i in filled], given)
    if best is None:
        raise InputError(
            f"{path} shows no separator that divides its lines into columns (line "
            f"{filled[0] + 1}: {lines[filled[0]][1][:60]!r}); say --separator, or --header-line."
        )
    separator, width = best
    if width > MOST_COLUMNS:
        raise InputError(f"{path} has {width:,} columns; expected at most {MOST_COLUMNS:,}.")
    rows = {i: _fields(_uncommented(lines[i][1]), separator) for i in filled}
    kinds = _kinds_of_columns([rows[i] for i in filled], width)
    names_at, units_at = _header_lines(lines, filled, rows, kinds, width, options.header_line)
    last = units_at if units_at is not None else names_at
    data = next((i for i in filled if last is None or i > last), None)
    units: dict[str, str] = {}
    if names_at is None:
        assert data is not None
        names = [f"column_{i + 1}" for i in range(len(rows[data]))]
    else:
        names = _unique_names([name.strip() for name in rows[names_at]], notes)
        if units_at is not None:
            units = {n: u.strip() for n, u in zip(names, rows[units_at], strict=False) if u.strip()}
            units = {n: u.strip("()[] ") for n, u in units.items()}
            notes.append(f"line {units_at + 1} is taken as the units of the columns.")
        if names_at > filled[0] and options.header_line is None:
            notes.append(f"column names found in line {names_at + 1} (else say --header-line).")
    if separator != "," and given is None:
        notes.append(f"columns are separated by {_CALLED[separator]} (else say --separator).")
    top = names_at if names_at is not None else data
    return _Parts(
        separator=separator,
        header_line=0 if names_at is None else names_at + 1,
        first_line=len(lines) + 1 if data is None else data + 1,
        offset=len(text) if data is None else lines[data][0],
        names=names,
        header_raw="" if names_at is None else lines[names_at][1].rstrip("\r"),
        units=units,
        above=[line.strip() for _, line in lines[:top] if line.strip()],
        kinds=kinds,
        width=width,
        notes=notes,
    )


def _header_lines(
    lines: list[tuple[int, str]],
    filled: list[int],
    rows: dict[int, list[str]],
    kinds: list[str],
    width: int,
    asked: int | None,
) -> tuple[int | None, int | None]:
    """Indices of the line of names and of the line of units; None where there is none."""
    if asked == 0:
        return None, None
    if asked is not None:
        below = next((i for i in filled if i > filled[0]), None)
        return filled[0], below if below is not None and _are_units(rows[below], kinds) else None
    data = next(
        (i for i in filled if lines[i][1][:1] != "#" and _is_data(rows[i], kinds, width)), None
    )
    if data is None:  # words only: the first line that is as wide as the others
        return next(i for i in filled if len(rows[i]) == width), None
    units_at = None
    for i in reversed([i for i in filled if i < data]):
        if abs(len(rows[i]) - width) > 1 or _holds_values(rows[i], kinds):
            continue
        if units_at is None and _are_units(rows[i], kinds):
            units_at = i
            continue
        return i, units_at
    # No line above has as many words as the rows have values: the nearest words are the names, and
    # the rows are refused against them.
    above = [i for i in filled if i < data]
    if above and len(rows[above[-1]]) > 1 and _only_words(rows[above[-1]]):
        return above[-1], None
    return None, None


def _first_lines(text: str, most: int) -> list[tuple[int, str]]:
    """(offset, line without its end) of the first lines; fewer of them where they are long."""
    lines: list[tuple[int, str]] = []
    enough = _SAMPLE_CHARACTERS
    for match in re.finditer(r"([^\r\n]*)(\r\n|\r|\n|\Z)", text):
        if match.start() == len(text) and lines:
            break
        if len(match[1]) > _MOST_LINE:
            raise InputError(
                f"line {len(lines) + 1} has {len(match[1]):,} characters; expected at most "
                f"{_MOST_LINE:,}: is it a table with a line for each row?"
            )
        lines.append((match.start(), match[1]))
        if len(lines) >= most or (len(lines) > most - _SAMPLE_LINES and match.end() > enough):
            break
    return lines


def _uncommented(line: str) -> str:
    return line[1:].lstrip() if line.startswith("#") else line


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
    if separator == " ":
        if '"' not in line:
            return line.split()
        return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True), [])
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return line.split(separator)


def _fits(pattern: re.Pattern[str], word: str) -> bool:
    """Whether a whole word is of a pattern; of a long one the search could take for ever."""
    return len(word) <= _LONGEST_VALUE and pattern.fullmatch(word) is not None


def _kind(value: str) -> str:
    """n for a number, t for a time, m for missing (or a trace), w for any other words."""
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
    """The separator under which the later lines agree on a width and hold clean values."""
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
        clean = sum(_kind(v) != "w" or not any(s in v for s in _SEPARATORS[:4]) for v in values)
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
    """Whether a line holds values of the kinds that its columns hold."""
    if abs(len(row) - width) > 1:
        return False
    pairs = [(_kind(value), kind) for value, kind in zip(row, kinds, strict=False) if kind]
    times = [found for found, kind in pairs if kind == "t"]
    if times:
        return times[0] == "t"
    known = [found == kind for found, kind in pairs if found != "m"]
    return bool(known) and 2 * sum(known) >= len(known)


def _holds_values(row: list[str], kinds: list[str]) -> bool:
    pairs = [(_kind(value), kind) for value, kind in zip(row, kinds, strict=False) if kind]
    return bool(pairs) and 2 * sum(found in ("n", "t") for found, _ in pairs) >= len(pairs)


def _only_words(row: list[str]) -> bool:
    return all(_kind(value) in "wm" for value in row)


def _are_units(row: list[str], kinds: list[str]) -> bool:
    words = [value.strip() for value in row if value.strip()]
    known = sum(bool(_UNIT.fullmatch(word)) or word in MISSING_WORDS for word in words)
    return bool(words) and _only_words(row) and known > 0 and 2 * known >= len(words)


def _unique_names(names: list[str], notes: list[str]) -> list[str]:
    """Names as pandas makes them: ``Unnamed: 3`` for none, ``x.1`` for the second x."""
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


def _text_columns(names: list[str], asked: Sequence[str] | None) -> list[str]:
    """Names of columns that stay text."""
    if asked is not None:
        return [name for name in names if name in asked]
    plain = [name for name in names if name == "region"]
    return plain or [name for name in names if plain_name(name) in REGION_NAMES]


def plain_name(name: str) -> str:
    """Return a column's name in lower case, without accents, spaces as underscores."""
    return re.sub(r"[\s\-]+", "_", without_accents(name).strip().lower())


def without_accents(text: str) -> str:
    """Take accents off the letters of a text."""
    text = unicodedata.normalize("NFKD", text)
    return "".join(sign for sign in text if not unicodedata.combining(sign))


def _without_tail(body: str, layout: _Parts, notes: list[str]) -> str:
    """The rows alone: repeated lines of names blanked, a second table or a footer cut off."""
    raw = layout.header_raw
    if raw and f"\n{raw}" in body:
        pattern = re.compile(rf"(?<=\n){re.escape(raw)}(?=\r?\n|\Z)")
        body, count = pattern.subn("", body)
        if count:
            notes.append(f"the column names stand {count} more times between the rows; left out.")
    line_at = re.compile(r"[^\r\n]{,100000}")
    for match in re.finditer(r"(?:\r\n|\n|\r)[ \t]*(?:\r\n|\n|\r)\s*", body):
        line = line_at.match(body, match.end())
        row = _fields(line[0] if line else "", layout.separator)
        if match.end() == len(body) or _is_data(row, layout.kinds, layout.width):
            continue
        if len(row) == layout.width and not _only_words(row):
            continue  # a row with faults of its own
        at = layout.first_line + len(re.findall(r"\r\n|\n|\r", body[: match.end()]))
        lines = len(re.findall(r"\r\n|\n|\r", body[match.end() :].rstrip())) + 1
        if len(row) > 1 and lines > 1:
            notes.append(
                f"a second table stands from line {at} on ({', '.join(row)[:80]}); it is not read. "
                f"--header-line {at} reads it instead."
            )
        else:
            notes.append(f"{lines} lines at the end, from line {at}, are no rows; left out.")
        return body[: match.start()] + "\n"
    return _without_footer(body, layout, notes)


def _without_footer(body: str, layout: _Parts, notes: list[str]) -> str:
    end, cut, first = len(body.rstrip()), 0, ""
    while cut < _FOOTER_LINES:
        start = max(body.rfind("\n", 0, end), body.rfind("\r", 0, end)) + 1
        if end - start > _MOST_LINE:
            break
        row = _fields(body[start:end], layout.separator)
        begins = bool(row) and bool(layout.kinds[0]) and _kind(row[0]) == layout.kinds[0]
        if start == 0 or begins or abs(len(row) - layout.width) <= 1 or not any(layout.kinds):
            break
        first, cut = body[start:end], cut + 1
        end = len(body[:start].rstrip())
    if cut in (0, _FOOTER_LINES):
        return body
    notes.append(f"{cut} lines at the end are no rows ({first.strip()[:60]!r}); left out.")
    return body[:end] + "\n"


def _parse(
    path: Path, body: str, layout: _Parts, asked: list[str], decimal: str | None
) -> pd.DataFrame:
    """The rows by pandas' C parser; columns ``asked`` for as the text that stands there."""
    names = _fitting_names(path, body, layout)
    separator = r"\s+" if layout.separator == " " else layout.separator
    if decimal not in (None, ".", ","):
        raise InputError(f"--decimal is {decimal!r}; expected '.' or ','.")

    def parse(**more: object) -> pd.DataFrame:
        try:
            return pd.read_csv(  # type: ignore[call-overload]
                io.StringIO(body, newline=""),
                sep=separator,
                header=None,
                names=names,
                index_col=False,
                low_memory=False,
                decimal=decimal or ".",
                **more,
            )
        except (pd.errors.ParserError, ValueError, OverflowError) as error:
            raise _parser_error(path, str(error), layout) from error

    frame = parse(dtype=dict.fromkeys(asked, str))
    if asked:
        words = parse(usecols=asked, dtype=str, na_filter=False, keep_default_na=False)
        for name in asked:
            column = words[name].str.strip()
            frame[name] = column.where(column != "")
    return frame


def _fitting_names(path: Path, body: str, layout: _Parts) -> list[str]:
    """The names, one more for a separator at the end of the rows; InputError where rows differ."""
    line = re.match(r"[^\r\n]*", body.lstrip("\r\n"))
    row = _fields(line[0] if line else "", layout.separator)
    more = len(row) - len(layout.names)
    if more <= 0:
        return layout.names
    if more == 1 and not row[-1].strip():
        return [*layout.names, f"Unnamed: {len(layout.names)}"]
    hint = ""
    if layout.separator == "," and len(row) >= 2 * len(layout.names) - 2:
        hint = " A decimal comma between commas must stand in quotes."
    raise InputError(
        f"{path}: line {layout.first_line} has {len(row)} values for the {len(layout.names)} "
        f"column names of line {layout.header_line}; say --header-line or --separator.{hint}"
    )


def _parser_error(path: Path, text: str, layout: _Parts) -> InputError:
    if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text):
        line = layout.first_line + int(match[2]) - 1
        return InputError(
            f"{path}: line {line} has {match[3]} values where the others have {match[1]}; mend "
            "that line, or say --separator or --header-line."
        )
    if match := re.search(r"EOF inside string starting at row (\d+)", text):
        line = layout.first_line + int(match[1])
        return InputError(f"{path}: a quote is opened in about line {line} and never closed.")
    return InputError(f"{path} can't be read as a table: {reason(ValueError(text))}")


def _drop_empty_ends(table: TextTable, names: list[str]) -> None:
    """Drop columns without a name and without a value, and empty rows at the end."""
    frame = table.frame
    nameless = [n for n in frame.columns if re.fullmatch(r"Unnamed: \d+", n)]
    empty = [name for name in nameless if frame[name].isna().all()]
    if empty:
        frame = frame.drop(columns=empty)
        if set(empty) & set(names):
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
    """The distinct words of a text column: ``numbers`` [U] float64, NaN where missing or bad."""

    codes: np.ndarray
    words: list[str]
    numbers: np.ndarray
    is_bad: np.ndarray

    def column(self) -> np.ndarray:
        """Return [R] float64."""
        return np.append(self.numbers, np.nan)[self.codes]

    def counts(self) -> np.ndarray:
        """Return [U] rows of each word."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.words))


def _read_words(
    column: pd.Series, decimal: str | None, traces: bool = False, suffixes: str = ""
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
    return _Words(codes, words, numbers, np.isnan(numbers) & ~missing)


def _convert_text(table: TextTable, names: list[str]) -> None:
    """Make numbers of text columns that hold nothing else; name what stands in the way."""
    text = [n for n in names if not pd.api.types.is_numeric_dtype(table.frame[n])]
    decimal = table.decimal or _guess_decimal(table, text)
    made: dict[str, np.ndarray] = {}
    for name in text:
        read = _read_words(table.frame[name], decimal)
        if read.is_bad.any():
            _name_bad_words(table, name, read)
        elif not np.isnan(read.numbers).all():
            made[name] = read.column()
    if made:
        columns = {
            name: made.get(name, table.frame[name].array) for name in map(str, table.frame.columns)
        }
        table.frame = pd.DataFrame(columns, index=table.frame.index)
    table.decimal = decimal


def _guess_decimal(table: TextTable, text: list[str]) -> str | None:
    """A comma where text columns hold numbers with one; None otherwise."""
    frame = table.frame
    if {"REPORT_TYPE", "WND", "TMP"} <= set(frame.columns):
        return None  # ISD: +0123,1 is a value and its quality
    clear: list[str] = []
    doubtful: list[str] = []
    for name in text:
        if not frame[name].str.contains(",", regex=False).any():
            continue
        distinct = np.asarray(frame[name].dropna().unique(), dtype=object)
        words = {str(word).strip() for word in distinct}
        commas = [w for w in words if "," in w]
        if not all(_fits(_COMMA_NUMBER, w) for w in commas):
            continue
        others = [w for w in words if "," not in w]
        if any(_kind(w) in ("w", "t") or "." in w.strip(".") for w in others):
            continue
        thousands = all(_fits(_THOUSANDS, w) for w in commas)
        (doubtful if thousands else clear).append(name)
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
    for name in doubtful:
        word = next(w for w in map(str, frame[name].dropna()) if "," in w)
        table.not_numbers[name] = (
            f"column {name} holds {word!r}: thousands are written without a mark; if it is a "
            "decimal comma say --decimal ,."
        )
    return None


def _name_bad_words(table: TextTable, name: str, read: _Words) -> None:
    """Say of a column that is numbers by half at least which words stand in the way."""
    counts = read.counts()
    like_numbers = [i for i in np.flatnonzero(read.is_bad) if _kind(read.words[i]) == "n"]
    like_numbers += [i for i in np.flatnonzero(read.is_bad) if _fits(_THOUSANDS, read.words[i])]
    bad, good = int(counts[read.is_bad].sum()), int(counts[~np.isnan(read.numbers)].sum())
    good += int(counts[like_numbers].sum())
    if bad > good or name in table.not_numbers:
        return
    words = sorted(np.flatnonzero(read.is_bad), key=lambda i: -counts[i])
    shown = ", ".join(f"{read.words[i][:20]!r} ({counts[i]:,})" for i in words[:_SHOWN_WORDS])
    more = f" and {len(words) - _SHOWN_WORDS} more" if len(words) > _SHOWN_WORDS else ""
    row = int(np.flatnonzero(np.append(read.is_bad, False)[read.codes])[0])
    hint = ""
    if any(_fits(_THOUSANDS, read.words[i]) for i in words):
        hint = "; write thousands without a mark"
    table.not_numbers[name] = (
        f"column {name}: {bad:,} of {len(read.codes):,} values are no numbers: {shown}{more}, "
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
        read = _read_words(table.frame[name], table.decimal, traces=True, suffixes=suffixes)
        table.not_numbers.pop(name, None)
        if read.is_bad.any():
            _name_bad_words(table, name, read)
        if read.is_bad.any() or np.isnan(read.numbers).all():
            continue
        traces = np.array([word.lower() in TRACE_WORDS for word in read.words], dtype=bool)
        count = int(read.counts()[traces].sum())
        if count:
            notes.append(f"column {name}: {count:,} traces (T) are taken as 0.")
        lettered = ~traces & np.array([w[-1:].isalpha() for w in read.words], dtype=bool)
        lettered &= ~np.isnan(read.numbers)
        if lettered.any():
            number = int(read.counts()[lettered].sum())
            notes.append(f"column {name}: {number:,} numbers followed by a letter are taken.")
        table.frame[name] = read.column()
    return notes


def _metadata(above: list[str], separator: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """``key: value`` lines as a mapping, and the rows of a table of places where one stands."""
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


_BYTES_PER_VALUE = 40  # of Arrow, pandas, float64 and the series, some of them at once
_TIMES_AS_TEXT = 3  # text as Arrow, in the frame and as names


def read_parquet(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a Parquet file as pandas does, with sentences on columns that are left out.

    Raises InputError where there is no memory for it: by the counts in its footer (pyarrow reads
    no more values than these), by what its pages unpack to, and by the length of its text as it
    stands in every row.
    """
    with pq.ParquetFile(path) as file:
        schema, footer = file.schema_arrow, file.metadata
        if len(schema) > MOST_COLUMNS:
            raise InputError(f"{path} has {len(schema):,} columns; expected {MOST_COLUMNS:,}.")
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        values = sum(
            max(group.column(index).num_values, group.num_rows)
            for group in groups
            for index in range(group.num_columns)
        )
    pages = max((_page_bytes(path, group) for group in groups), default=0)
    check_memory(values * _BYTES_PER_VALUE + pages, f"{path} ({footer.num_rows:,} rows of it)")
    nested = [
        one.name
        for one in schema
        if pa.types.is_nested(one.type) or pa.types.is_fixed_size_binary(one.type)
    ]
    text = [one.name for one in schema if _is_any(one.type, *_TEXT)]
    _check_text(path, text)
    notes = []
    if nested:
        notes.append(f"columns of lists, records or raw bytes are left out: {listed(nested)}.")
    columns = [name for name in schema.names if name not in set(nested)] if nested else None
    frame, raw = pd.read_parquet(path, columns=columns), []
    for name in [one.name for one in schema if _is_any(one.type, *_BYTES)]:
        if name not in frame.columns:
            continue
        try:  # some writers don't say that their text is text
            frame[name] = frame[name].astype(object).map(bytes.decode, na_action="ignore")
        except UnicodeDecodeError:
            raw.append(name)
    if raw:
        notes.append(f"columns of bytes that are no UTF-8 text are left out: {listed(raw)}.")
    return frame.drop(columns=raw), notes


def _page_bytes(path: Path, group: pq.RowGroupMetaData) -> int:
    """What the pages of a row group unpack to by their own headers; a footer may say anything.

    A page is unpacked into as many bytes as its header says, or refused.
    """
    total = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for index in range(group.num_columns):
            column = group.column(index)
            at = column.data_page_offset
            if column.has_dictionary_page:
                at = min(at, column.dictionary_page_offset)
            end = min(at + column.total_compressed_size, len(data))
            while 0 <= at < end:
                numbers, at = _struct(data, at)
                total += numbers.get(2, 0)  # uncompressed_page_size
                at += max(numbers.get(3, 0), 0)  # compressed_page_size
    return total


def _struct(data: mmap.mmap, at: int, level: int = 0) -> tuple[dict[int, int], int]:
    """({field: its number} of a struct in Thrift's compact protocol, where it ends).

    Raises ValueError for what no header of a page holds.
    """
    numbers: dict[int, int] = {}
    field = 0
    while at < len(data) and (head := data[at]):
        at += 1
        kind = head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, at = _varint(data, at)
            field = field >> 1
        if kind in (1, 2):  # true, false
            continue
        if kind == 3:
            at += 1
        elif kind in (4, 5, 6):
            number, at = _varint(data, at)
            numbers[field] = number >> 1 ^ -(number & 1)
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 12 and level < 4:
            _, at = _struct(data, at, level + 1)
        else:
            raise ValueError(f"the header of a page holds a field of kind {kind}")
    return numbers, at + 1


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        if at >= len(data):
            break
        number |= (data[at] & 127) << 7 * place
        at += 1
        if not data[at - 1] & 128:
            return number, at
    raise ValueError("the header of a page is cut short")


def _is_any(kind: pa.DataType, *kinds: str) -> bool:
    """Whether a type, or that of a dictionary's values, is one of pyarrow's ``kinds``."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(getattr(pa.types, f"is_{name}")(kind) for name in kinds)


_BYTES = ("binary", "large_binary", "binary_view")
_TEXT = ("string", "large_string", "string_view", *_BYTES)


def _check_text(path: Path, names: list[str]) -> None:
    """A long word that stands once in a dictionary is written out in every row."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=names) as file:
        for group in range(file.num_row_groups) if names else ():
            for name in names:
                column = file.read_row_group(group, columns=[name], use_threads=False)[0]
                for chunk in column.chunks:
                    lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                    total += pc.sum(lengths).as_py() or 0
            check_memory(_TIMES_AS_TEXT * total, f"the text of {path}")
