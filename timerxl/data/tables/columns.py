"""Columns of weather: quantities, units and limits, codes for missing, what is known and how.

quantities.yaml says of each quantity which unit it is judged in, what no weather on Earth exceeds,
and by which names it comes; grids and tables use it alike. R rows.

"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from math import isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.text import MISSING_WORDS, MOST_COLUMNS, load_yaml, without_accents
from timerxl.untrusted import plain, schema_error


@dataclass(frozen=True, eq=False)
class Quantity:
    """``unit`` is the one that ``low`` and ``high`` are in: limits of weather, edges allowed.

    ``names`` are short names of columns (exact, without case), ``words`` a regular expression over
    the words of a longer name. ``aliases`` are spellings of units that mean something here only
    (``F`` is no farad).
    """

    key: str
    unit: str
    low: float
    high: float
    names: str = ""
    words: str = ""
    aliases: dict[str, str] | None = None


RAIN = "precipitation"
_DATA = load_yaml("quantities.yaml")
QUANTITIES = tuple(Quantity(**content) for content in _DATA["quantities"])
_BY_KEY = {quantity.key: quantity for quantity in QUANTITIES}
_BY_NAME = {name: quantity for quantity in QUANTITIES for name in quantity.names.split()}
# Names that hold the word and measure something else: whether, when, how long, how likely, ...
_NOT_RAIN = re.compile(
    r"probab|chance|\btype\b|today|tomorrow|\bdays?\b|duration|hours|\bflag|source|attributes|"
    r"quality|qual\b|\bqn|intensity|since|anomal|normal|raining|label|target|yesterday|\bis\b|"
    r"\bwas\b|indicator|minutes"
)
# How far apart two values lie, or a part of a direction, keeps to no limits of a level.
_NO_LEVEL = re.compile(
    r"anomal|\bdiff|difference|\bdelta\b|tendenc|\bchange|\bstd\b|\bstdev|deviation|variance|"
    r"\brange\b|spread|depression|gradient|\btrend|departure|\bsin\b|\bcos\b|\bsine|cosine|"
    r"normali[sz]ed|\bscaled"
)
_SPELLINGS: dict[str, str] = {
    word: unit for unit, words in _DATA["spellings"].items() for word in words
}


def named(key: str) -> Quantity:
    """Return the quantity called ``key``."""
    return _BY_KEY[key]


@lru_cache(MOST_COLUMNS)
def words_of(name: str) -> str:
    """Put a column's name in plain words: ``PRECIPITAÇÃO (mm)`` -> ``precipitacao``."""
    text = without_accents(re.sub(r"\([^()]*\)|\[[^\[\]]*\]", " ", name))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    return " ".join(re.sub(r"[^A-Za-z0-9.]+", " ", text).lower().split())


@lru_cache(MOST_COLUMNS)
def quantity_of(name: str, unit: str | None = None) -> Quantity | None:
    """Tell what a column measures by its name; None where the name says nothing that is known.

    With a ``unit`` (of the file, or else the one in the name) a quantity that can't have it is not
    taken: ``raining (s)`` is no rain.
    """
    bare = re.sub(r"\s*[\(\[].*$", "", name).strip().lower()
    words = words_of(name)
    found = _BY_NAME.get(bare) or next(
        (q for q in QUANTITIES if q.words and re.search(q.words, words)), None
    )
    if found is None or _NO_LEVEL.search(words):
        return None
    if found.key == RAIN and _NOT_RAIN.search(words):
        return None
    unit = unit or bracketed_unit(name)
    if unit and not fits(unit, found):
        other = [q for q in QUANTITIES if q.words and re.search(q.words, words) and fits(unit, q)]
        return other[0] if other else None
    return found


def bracketed_unit(name: str) -> str | None:
    """Return the text in the last brackets of a name: ``wv (m/s)`` -> ``m/s``."""
    found = re.findall(r"[(\[]([^()\[\]]*)[)\]]", name)
    return found[-1].strip() or None if found else None


def unit_in_name(name: str) -> str | None:
    """Return the unit that a column's name tells, in brackets or as last word; or None."""
    quantity = quantity_of(name)
    in_brackets = bracketed_unit(name)
    if in_brackets is not None:
        known = (
            _parsed(in_brackets) is not None if quantity is None else fits(in_brackets, quantity)
        )
        return in_brackets if known else None
    if quantity is None:
        return None
    last = words_of(name).split()[-1] if words_of(name) else ""
    if last != name.lower() and last in _DATA["last_words"].get(quantity.key, "").split():
        return {"ms": "m/s", "wm2": "W/m2"}.get(last, last)
    return None


def fits(unit: str, quantity: Quantity) -> bool:
    """Tell whether ``unit`` is one of this quantity: the same dimension (for rain also a rate)."""
    try:
        conversion(unit, quantity)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class Conversion:
    """``values * scale + offset`` is in the quantity's own unit; a rate is per hour then."""

    scale: float
    offset: float
    is_rate: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Converted values; unchanged where nothing is to be done, so that no bit moves."""
        if self.scale == 1.0 and self.offset == 0.0:
            return values
        return values * self.scale + self.offset


@cache
def conversion(unit: str, quantity: Quantity) -> Conversion:
    """Tell how a unit becomes the quantity's own; raise InputError where it can't.

    Rain as a mass per area (kg m-2) is a depth of as many mm (water of 1000 kg m-3). A rate
    (mm/h, kg m-2 s-1) has ``is_rate`` and becomes mm per hour.
    """
    if unit == quantity.unit:
        return Conversion(1.0, 0.0)  # without pint, whose import takes a second
    if (parsed := _parsed(unit, quantity)) is None:
        raise InputError(
            f"the unit {unit!r} is unknown; expected one such as {_examples(quantity)}."
        )
    make = parsed._REGISTRY.Quantity
    try:
        if quantity.key == RAIN:
            for amount in (make(parsed.magnitude, parsed.units), parsed / make(1000.0, "kg/m**3")):
                for target, is_rate in (("mm", False), ("mm/hour", True)):
                    if amount.is_compatible_with(target):
                        return Conversion(_short(amount.to(target).magnitude), 0.0, is_rate)
            raise ValueError("no depth")
        zero, one = (
            float(make(value * parsed.magnitude, parsed.units).to(quantity.unit).magnitude)
            for value in (0.0, 1.0)
        )
    except Exception as error:  # pint's own classes: of dimensions, and of offset units
        raise InputError(
            f"{unit!r} is no unit of {quantity.key}; expected one such as {_examples(quantity)}."
        ) from error
    return Conversion(_short(one - zero), _short(zero))


def _short(number: float) -> float:
    """Without the last bits of a quotient: 999.9999999999999 is 1000."""
    return float(f"{number:.14g}")


@cache
def _parsed(unit: str, quantity: Quantity | None = None) -> Any:
    """A pint quantity of magnitude 1 (0.1 for ``0.1 mm``), or None where pint can't read it."""
    # It warns of every definition of pint's that CF has otherwise.
    logging.getLogger("pint").setLevel(logging.ERROR)
    # Imported late: a second that only who converts has to wait.
    from cf_xarray.units import units as registry

    text = " ".join(unit.split())
    aliases = (quantity.aliases if quantity is not None else None) or {}
    text = aliases.get(text.lower().strip("°º. "), None) or _SPELLINGS.get(text.lower(), text)
    if len(text) > 60 or not text:
        return None
    try:
        match = re.fullmatch(r"(\d*\.?\d+(?:e-?\d+)?)\s*\*?\s*(\D.*)", text)
        factor, bare = (float(match[1]), match[2]) if match else (1.0, text)
        return registry.Quantity(factor, registry.parse_units(_SPELLINGS.get(bare.lower(), bare)))
    except Exception:  # a stranger's text: pint raises tokenize, syntax, attribute, ... errors
        return None


def _examples(quantity: Quantity) -> str:
    if quantity.key == RAIN:
        return "mm, cm, m, in, 0.1mm, mm/h, 'kg m-2', 'kg m-2 s-1'"
    known = {"K": "K, degC, degF", "Pa": "Pa, hPa, inHg", "m s-1": "m/s, km/h, knot, mph"}
    return known.get(quantity.unit, quantity.unit)


def limits_in(quantity: Quantity, unit: str) -> tuple[float, float]:
    """Return the quantity's limits in ``unit``; raises InputError for a unit that it can't have."""
    made = conversion(unit, quantity)
    return (quantity.low - made.offset) / made.scale, (quantity.high - made.offset) / made.scale


def most_rain_mm(hours: float) -> float:
    """Return more than any rain measured over so many hours, mm.

    600 sqrt(hours) lies above all records of the WMO extremes archive: 305 mm in 42 min, 1,144 mm
    in 12 h, 1,825 mm in 24 h, 6,083 mm in 15 days.
    """
    return 600.0 * max(hours, 1.0) ** 0.5


KnownBy = Literal["said", "file", "inferred", "assumed"]
KINDS = ("instant", "sum", "mean", "max", "min", "step")


@dataclass(frozen=True)
class Fact:
    """One thing that is known: ``said`` by the user, told by the ``file`` (attributes, names,
    layout), ``inferred`` from the values, or ``assumed`` because nothing speaks against it."""

    value: Any
    known_by: KnownBy
    evidence: str = ""


def time_meaning(kind: str, hours: float | None, stamp: str = "end") -> dict[str, Any]:
    """Tell what a stamp means: ``instant``, or a sum, mean, max or min over ``hours`` that end
    there.

    ``step``: some value of the ``hours`` that end there; a table seldom tells which.

    ``stamp`` is what the FILE's stamps were ("start" or "end"); the series' own are always ends.
    """
    assert kind in KINDS, kind
    return {"kind": kind, "hours": hours, "file_stamp": stamp}


@dataclass
class ColumnRecord:
    """``name`` in the file; ``unit`` that of the file, ``written_as`` that of the series (None: as
    in the file); ``missing`` the codes that were masked, each with count and how it was known."""

    name: str
    quantity: Fact | None = None
    unit: Fact | None = None
    written_as: str | None = None
    time: Fact | None = None
    missing: list[dict[str, Any]] = field(default_factory=list)

    def masked(self, counts: dict[float, int], known_by: KnownBy, evidence: str = "") -> None:
        """Note codes that were masked, with how often each stood there."""
        how = {"known_by": known_by, "evidence": evidence}
        for value, count in counts.items():
            said = value if isfinite(value) else str(value)  # JSON has no infinity
            self.missing.append({"value": said, "count": count, **how})

    @property
    def num_masked(self) -> int:
        """Values that stood for missing."""
        return sum(code["count"] for code in self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it stands in series.json under the column's ``record``."""
        return asdict(self)


UNKNOWN = "-"
_SHOWN_NAMES, _LONGEST_NAME = 3, 40
_FACT = {"value": object, "known_by": str, "evidence?": str}
_PERIOD = {
    "kind": str,
    "hours": (float, None),
    "file_stamp?": str,
    "running?": ({"period": float}, None),
}
# A record as timerxl.data.tables.columns writes it (timerxl.untrusted.schema_error).
_RECORD = {
    "name": str,
    "quantity?": (_FACT, None),
    "unit?": ({"value": str, "known_by": str, "evidence?": str}, None),
    "time?": ({"value": _PERIOD, "known_by": str, "evidence?": str}, None),
    "written_as?": (str, None),
    "missing?": [{"value": float, "count": int}],
}


def records_problem(records: Any) -> str | None:
    """Tell what is wrong with ``records`` (column -> record), as a clause; None if nothing."""
    if problem := schema_error(records, dict, "records"):
        return problem
    found = (
        schema_error(one, _RECORD, f"the record of column {plain(name, 80)}")
        for name, one in records.items()
    )
    return next((problem for problem in found if problem), None)


def unit_words(record: dict[str, Any]) -> str:
    """Write the unit in the series, and the file's where it differs: ``mm (in the file: inch)``."""
    unit, written = (record.get("unit") or {}).get("value"), record.get("written_as")
    if written and unit and written != unit:
        return f"{written} (in the file: {unit})"
    return written or unit or UNKNOWN


def time_words(record: dict[str, Any]) -> str:
    """Tell what a stamp of the FILE means: ``instant``, ``sum over 24 h``, ``... from it on``.

    A series' own stamps are always the ends of what its values are over.
    """
    meant = (record.get("time") or {}).get("value")
    if meant is None:
        return UNKNOWN
    if meant["kind"] == "instant":
        return "instant"
    words = {"step": "some value"}.get(meant["kind"], str(meant["kind"]))
    if running := meant.get("running"):
        words = f"running total, again from 0 every {running['period']:g} h"
    elif meant["hours"] is not None:
        words += f" over {meant['hours']:g} h"
    return words + {"start": " from it on", "middle": " around it"}.get(meant.get("file_stamp"), "")


def known_by_words(record: dict[str, Any]) -> str:
    """Return ``file`` where all is known in one way, else ``unit: assumed; stamp: said``."""
    of: dict[str, list[str]] = {}
    for key, called in (("quantity", "quantity"), ("unit", "unit"), ("time", "stamp")):
        if fact := record.get(key):
            of.setdefault(str(fact["known_by"]), []).append(called)
    if len(of) == 1 and all(len(called) == 3 for called in of.values()):
        return next(iter(of))
    return "; ".join(f"{', '.join(called)}: {by}" for by, called in of.items()) or UNKNOWN


def shortened(name: str) -> str:
    """Return a name of any length in 40 characters."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


@dataclass
class KnownRow:
    """One line of the table: the columns of which the same is known."""

    columns: list[str]
    quantity: str
    unit: str
    time: str
    known_by: str
    masked: Counter[float]

    @property
    def names(self) -> str:
        """``a, b, c and 3 more``; a name of any length is cut off."""
        shown = [shortened(name) for name in self.columns[:_SHOWN_NAMES]]
        more = len(self.columns) - len(shown)
        return ", ".join(shown) + (f" and {more:,} more" if more else "")

    @property
    def codes(self) -> str:
        """``-9999 (1,204)``: values that were masked, and how often each stood there."""
        found = [f"{value:.7g} ({count:,})" for value, count in self.masked.items()]
        return ", ".join(found) or UNKNOWN


def known_rows(known: Iterable[dict[str, Any]], most: int) -> tuple[list[KnownRow], int]:
    """Return (At most ``most`` rows, how many columns are in none of them).

    ``known`` are records with their ``column``. Up to ``most`` columns have a row each; of more,
    those of which the same is known share one, and the rows with most columns are shown.
    """
    rows = []
    for record in known:
        masked = Counter[float]()
        for code in record.get("missing") or []:
            masked[code["value"]] += code["count"]
        quantity = str((record.get("quantity") or {}).get("value") or UNKNOWN)
        words = unit_words(record), time_words(record), known_by_words(record)
        rows.append(KnownRow([str(record["column"])], quantity, *words, masked))
    if len(rows) <= most:
        return rows, 0
    groups: dict[tuple[Any, ...], KnownRow] = {}
    for row in rows:
        key = (row.quantity, row.unit, row.time, row.known_by, tuple(sorted(row.masked)))
        if (group := groups.setdefault(key, row)) is not row:
            group.columns += row.columns
            group.masked.update(row.masked)
    largest = sorted(groups.values(), key=lambda row: -len(row.columns))  # stable
    shown = [row for row in groups.values() if row in largest[:most]]
    return shown, len(rows) - sum(len(row.columns) for row in shown)


KNOWN_CODES = tuple(map(float, _DATA["codes"]))
_MOST_CODES = 8
_LEAST_OTHER_VALUES = 10  # distinct ones: a flag or a count of few steps has no "far"
_FAR_KNOWN, _FAR, _FAR_OFTEN = 0.1, 3.0, 0.5  # gaps, in widths of all other values
_OFTEN = 20
_SAMPLE, _ENDS = 200_000, 10  # values sorted of a block; distinct ones kept of each end


@dataclass(frozen=True)
class Code:
    """A value that is taken for "missing": how often it stands there, and why it's taken for it."""

    value: float
    count: int
    share: float
    reason: str

    @property
    def text(self) -> str:
        return f"{self.value:.7g} ({self.count:,} values, {share_text(self.share)}; {self.reason})"


def share_text(share: float) -> str:
    """Return ``12.3%``, and never a 0 for what is there."""
    return f"{share:.2%}" if share >= 0.0001 else f"{share:.1e}"


class Extremes:
    """The outermost distinct values of a column with their counts, gathered block by block.

    ``packed_codes`` are what the fill values of a packed file become once unpacked. A block larger
    than 200,000 values is judged by a sample and its own two ends; what may be a code is counted
    in the whole block.
    """

    def __init__(self, packed_codes: Iterable[float] = ()) -> None:
        self.known = 0
        self._counts: dict[float, int] = {}
        self._distinct = 0
        self._packed = np.array([*packed_codes], dtype=np.float64)
        self._codes = np.array([*KNOWN_CODES, *self._packed], dtype=np.float64)

    def add(self, values: np.ndarray) -> None:
        """Take in an array of any shape; NaN is missing already and counts nothing."""
        flat = np.ravel(values)
        present = flat[~np.isnan(flat)]
        if not present.size:
            return
        self.known += present.size
        sample = present[:: -(-present.size // _SAMPLE)]
        if sample.size < present.size:
            sample = np.append(sample, [present.min(), present.max()])
        distinct, counts = np.unique(sample, return_counts=True)
        self._distinct = max(self._distinct, len(distinct))
        ends = np.unique(
            np.r_[: min(_ENDS, len(distinct)), max(len(distinct) - _ENDS, 0) : len(distinct)]
        )
        if sample.size < present.size:
            apart = np.diff(distinct) > 0.05 * max(distinct[ends[-1]] - distinct[ends[0]], 0)
            lonely = set(np.flatnonzero(apart)) | set(np.flatnonzero(apart) + 1)
            for place in ends:
                if place in lonely or self._is_code(float(distinct[place])):
                    counts[place] = np.count_nonzero(present == distinct[place])
        for place in ends:
            value = float(distinct[place])
            self._counts[value] = self._counts.get(value, 0) + int(counts[place])

    def codes(self, limits: tuple[float, float] | None) -> list[Code]:
        """Tell what stands for "missing", outermost first; ``limits`` are the quantity's."""
        found: list[Code] = []
        left = sorted(self._counts)
        while left and len(found) < _MOST_CODES:
            for place in (0, -1):
                if reason := self._reason(left, place, limits):
                    value = left.pop(place)
                    count = self._counts[value]
                    found.append(Code(value, count, count / self.known, reason))
                    break
            else:
                break
        return found

    def _is_code(self, value: float) -> bool:
        return bool(np.isclose(self._codes, value, rtol=2e-7, atol=0).any())

    def _is_packed_fill(self, left: list[float], place: int) -> bool:
        """Whether an end is what a fill value unpacks to, repeated among values that are not.

        Nought, one and a hundred repeat themselves: no rain, all of the sky, saturated.
        """
        value = left[place]
        if not np.isclose(self._packed, value, rtol=2e-7, atol=0).any():
            return False
        beside = left[1:9] if place == 0 else left[-9:-1]
        if len(beside) < 8 or any(self._counts[one] > 1 for one in beside):
            return False
        return self._counts[value] >= 3 and not np.isclose(value, (0, 1, 100), atol=2e-3).any()

    def _reason(
        self, left: list[float], place: int, limits: tuple[float, float] | None
    ) -> str | None:
        """Why the outermost value at one end is a code; None where it's like the others."""
        value, count = left[place], self._counts[left[place]]
        is_code = self._is_code(value)
        if limits is not None:
            exact = is_code or not np.isfinite(limits).all()
            margin = 0.0 if exact else 0.001 * (limits[1] - limits[0])
            if not limits[0] - margin <= value <= limits[1] + margin:
                most = f" to {limits[1]:.5g}" if np.isfinite(limits[1]) else " or more"
                return f"expected {limits[0]:.5g}{most}"
        if len(left) == 1:
            return "the column holds nothing else" if is_code and abs(value) >= 9 else None
        if self._is_packed_fill(left, place):
            return "the fill value of packed data, and all others beside it stand there once"
        for together in (1, 2, 3):  # codes may stand side by side: 990 and 999
            if len(left) <= together:
                break
            group = left[:together] if place == 0 else left[-together:]
            others = left[together:] if place == 0 else left[:-together]
            if min(self._counts[one] for one in group) < 2 <= together:
                break
            width = others[-1] - others[0]
            gap = group[0] - others[-1] if place else others[0] - group[-1]
            why = f"all others are {others[0]:.5g} to {others[-1]:.5g}"
            if (
                is_code
                and gap > _FAR_KNOWN * width
                and ((count > 1 and abs(value) >= 99) or (gap > width and abs(value) >= 999))
            ):
                return why
            if count < 2 or self._distinct < _LEAST_OTHER_VALUES:
                continue
            if gap > _FAR * width or (count >= _OFTEN and gap > _FAR_OFTEN * width):
                return why
        return None


def find_codes(values: np.ndarray, limits: tuple[float, float] | None) -> list[Code]:
    """Find the codes for "missing" in one column: ``values`` of any shape, NaN where missing."""
    extremes = Extremes()
    extremes.add(np.asarray(values, dtype=np.float64))
    return extremes.codes(limits)


def mask(values: np.ndarray, codes: Iterable[float]) -> tuple[np.ndarray, dict[float, int]]:
    """Return (values with NaN for each of ``codes``, how often each stood there).

    Four bytes hold -9999.9 as -9999.900390625: equal means to 2e-7.
    """
    counts: dict[float, int] = {}
    for code in codes:
        here = np.isclose(values, code, rtol=2e-7, atol=0)
        if counted := int(np.count_nonzero(here)):
            counts[code] = counted
            values = np.where(here, np.nan, values)
    return values, counts


NONE = "none"  # said instead of codes: every number is a measurement


def parse_codes(said: Iterable[str | float], option: str) -> list[float]:
    """Parse numbers that mean "missing", none for ``none``; InputError for a word."""
    found = []
    for word in said:
        if word == NONE:
            continue
        try:
            found.append(float(word))
        except ValueError:
            raise InputError(
                f"{option} {word!r} is not a number; words such as NA are missing anyway."
            ) from None
    return found


def refusal(
    found: dict[str, list[Code]], advice: str, places: dict[str, str] | None = None
) -> InputError:
    """Make the error for columns that hold codes: names, values, counts, shares, and what to do.

    ``advice`` says the option, with ``{values}`` or ``{list}`` for the codes; ``places`` where the
    first stands.
    """
    named = []
    for name, codes in found.items():
        first = f", first at {places[name]}" if places and name in places else ""
        named.append(f"{name} holds {', '.join(code.text for code in codes)}{first}")
    more = f"; {len(named) - 4} more columns do the same" if len(named) > 4 else ""
    values = dict.fromkeys(f"{c.value:.7g}" for codes in found.values() for c in codes)
    return InputError(
        f"{'; '.join(named[:4])}{more}: that looks like a code for missing, not like weather. "
        + advice.replace("{values}", " ".join(values)).replace("{list}", ", ".join(values))
    )


CANDIDATES = ("mm", "in", "cm", "0.1mm", "m", "kg m-2 s-1")
ERA5_NAMES = ("tp", "total_precipitation")
_MANY_ROWS = 100
_NO_SHOWER_MM = 0.5  # the most of a step in 100 rows or more: less is a desert's, or another unit
_WET_YEAR_MM = 27_000.0  # the wettest year measured: 26,461 mm, Cherrapunji 1860/61
_WET_PLACE_MM = 13_000.0  # the wettest places' mean: Mawsynram, 11,870 mm a year
_DRY_YEAR_MM = 100.0  # a desert's: below, another unit is at least as likely
_DRY_YEAR_FINE_MM = 300.0  # the same for whole hundredths, as gauges in inches report
_WET_YEAR_WHOLE_MM = 1_500.0  # whole numbers that add up to more: tenths of mm are likely
_JUDGED_DAYS, _YEAR_DAYS, _YEAR = 90.0, 300.0, 365.25


class _Amounts:
    """What a column holds in its own unit: steps known, the largest step, the year's sum."""

    def __init__(self, values: np.ndarray, hours: float) -> None:
        known = values[~np.isnan(values)]
        wet = known[known > 0]
        self.rows, self.hours = known.size, hours
        self.largest = float(wet.max(initial=0.0))
        self.year = float(wet.sum()) / max(self.days, 1e-9) * _YEAR
        many = wet.size >= 20
        hundredths = many and bool((np.abs(wet * 100 - np.rint(wet * 100)) < 1e-3).all())
        tenths = many and bool((np.abs(wet * 10 - np.rint(wet * 10)) < 1e-4).all())
        self.whole_hundredths = hundredths and not tenths
        self.whole = many and bool((wet == np.rint(wet)).all())

    @property
    def days(self) -> float:
        return self.rows * self.hours / 24

    def in_unit(self, unit: str) -> tuple[float, float]:
        """Return (mm in the largest step, mm a year) if the numbers are in ``unit``."""
        factor = _mm_in(unit, self.hours)
        return self.largest * factor, self.year * factor

    def is_possible(self, unit: str) -> bool:
        step, year = self.in_unit(unit)
        too_wet = self.days >= _YEAR_DAYS and year > _WET_YEAR_MM
        return step <= most_rain_mm(self.hours) and not too_wet

    def is_likely(self, unit: str) -> bool:
        """Return possible, neither a desert nor beyond the wettest place."""
        step, year = self.in_unit(unit)
        return (
            self.is_possible(unit)
            and step >= _NO_SHOWER_MM
            and _DRY_YEAR_MM <= year <= _WET_PLACE_MM
        )

    def choices(self) -> str:
        """Tell what each unit would make of the numbers, for those that could be."""
        found = []
        for unit in CANDIDATES:
            step, year = self.in_unit(unit)
            if self.is_likely(unit):
                found.append(f"{unit} would be {year:,.0f} mm a year, {step:.3g} mm at most")
        return "; ".join(found) or "no usual unit makes rain of them"


def rain_unit(
    values: np.ndarray,
    hours: float,
    name: str,
    said: str | None,
    told: tuple[str, str] | None,
    option: str,
) -> Fact:
    """Return the unit of a rain column: ``values`` [R] (NaN where missing), each over ``hours``.

    ``said`` is the user's word, ``told`` (unit, by what) the file's: brackets of the name, an
    attribute, a layout. Without either mm is assumed where the amounts are those of rain in mm, and
    m is inferred of a column that has ERA5's name, where only metres make rain of it.
    Raises InputError where the two differ, where the amounts are impossible, or where they leave
    more than one unit; it names ``option`` and what each unit would give.
    """
    quantity = named(RAIN)
    amounts = _Amounts(values, hours)
    if said is not None and told is not None:
        ours, theirs = (_mm_in(unit, hours) for unit in (said, told[0]))
        if not np.isclose(ours, theirs, rtol=1e-9):  # in and inches are one unit
            raise InputError(
                f"{name} is in {told[0]} by {told[1]}, {option} says {said}; leave the option out, "
                "or correct the file."
            )
    unit = said or (told[0] if told else None)
    if unit is None:
        if reason := _doubt(amounts):
            likely = [one for one in CANDIDATES if amounts.is_likely(one)]
            depths = [one for one in likely if not conversion(one, quantity).is_rate]
            if name.lower() in ERA5_NAMES and depths == ["m"]:
                words = f"{name} is ERA5's name, and only metres make rain of it"
                return Fact("m", "inferred", f"{words}: {amounts.in_unit('m')[1]:,.0f} mm a year")
            raise InputError(
                f"{name}: nothing tells its unit, and {reason}. {amounts.choices()}. Say {option} "
                "UNIT (mm, if it is mm)."
            )
        evidence = f"nothing tells its unit; {amounts.largest:.4g} at most"
        if amounts.days >= _JUDGED_DAYS:
            evidence += f", {amounts.year:,.0f} a year"
        return Fact("mm", "assumed", evidence)
    step, year = amounts.in_unit(unit)
    if not amounts.is_possible(unit):
        by = f" (by {told[1]})" if told and not said else ""
        raise InputError(
            f"{name} in {unit}{by} would be {step:,.5g} mm in {hours:g} h at most and "
            f"{year:,.0f} mm a year, more than ever fell: the unit is another, or the numbers are "
            f"no rain. {amounts.choices()}."
        )
    if said is None and amounts.rows >= _MANY_ROWS and 0 < step < _NO_SHOWER_MM:
        other = [one for one in CANDIDATES if amounts.is_likely(one)]
        if other:
            assert told is not None
            raise InputError(
                f"{name} is in {unit} by {told[1]} and never exceeds {step:.3g} mm in {hours:g} h, "
                f"{year:.3g} mm a year: {amounts.choices()}. Say {option} UNIT, also where it's "
                f"{unit}."
            )
    return Fact(unit, "said" if said else "file", option if said else told[1] if told else "")


def _mm_in(unit: str, hours: float) -> float:
    """mm of rain in one of a unit; a rate falls for ``hours``."""
    made = conversion(unit, named(RAIN))
    return made.scale * (hours if made.is_rate else 1.0)


def to_mm(values: np.ndarray, unit: str, hours: float) -> np.ndarray:
    """Return rain of a step in mm; a rate (mm/h) falls for ``hours``. Unrounded."""
    factor = _mm_in(unit, hours)
    return values if factor == 1.0 else values * factor


def _doubt(amounts: _Amounts) -> str | None:
    """Why undeclared numbers may not be mm, as a clause; None where they look like mm."""
    if amounts.rows < _MANY_ROWS or amounts.largest == 0:
        return None
    if not amounts.is_possible("mm"):
        return f"{amounts.largest:.5g} in {amounts.hours:g} h, or {amounts.year:,.0f} a year, is no rain in mm"  # noqa: E501
    if amounts.largest < _NO_SHOWER_MM:
        return f"it never exceeds {amounts.largest:.4g}, which is too little for mm"
    if amounts.days < _JUDGED_DAYS:
        return None
    if amounts.year < _DRY_YEAR_MM:
        return f"{amounts.year:.3g} mm a year would be a desert's"
    if amounts.whole_hundredths and amounts.year < _DRY_YEAR_FINE_MM:
        return f"{amounts.year:.3g} a year in whole hundredths may be inches"
    if amounts.whole and amounts.year > _WET_YEAR_WHOLE_MM:
        return f"{amounts.year:,.0f} a year in whole numbers may be tenths of mm"
    return None


SIN_COS = "sin_cos"
_POINTS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE",
           "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")  # fmt: skip
# German and Spanish, Portuguese and French write O for east or for west; they are not guessed.
_DEGREES = {point: index * 22.5 for index, point in enumerate(_POINTS)} | {
    "NORTH": 0.0, "EAST": 90.0, "SOUTH": 180.0, "WEST": 270.0, "NORTHEAST": 45.0,
    "SOUTHEAST": 135.0, "SOUTHWEST": 225.0, "NORTHWEST": 315.0,
}  # fmt: skip
_NO_DIRECTION = frozenset({"CV", "CALM", "VAR", "VRB", "VARIABLE", "C", "-", "", "CLM"})
_YES = frozenset({"yes", "true", "y", "t", "sim", "si", "sí", "ja", "oui", "1", "1.0"})
_NO = frozenset({"no", "false", "n", "f", "nao", "não", "nein", "non", "0", "0.0"})
_MOST_OUTSIDE = 0.5  # a column of which more lies beyond its limits is in another unit


def is_direction(table: pd.DataFrame, name: str) -> bool:
    """Tell whether a column is a direction: by name, and by degrees or compass points."""
    quantity = quantity_of(name)
    if quantity is None or quantity.key != "direction":
        return False
    column = table[name]
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        known = column.dropna()
        return not known.empty and float(known.max()) > 6.3  # radians are none of ours
    words = {str(word).strip().upper() for word in column.dropna().unique()[:200]}
    return bool(words & _DEGREES.keys()) and words <= _DEGREES.keys() | _NO_DIRECTION


def encode_direction(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return sine and cosine of a direction, both 0 where there is none (calm), NaN where missing.

    Degrees count clockwise from north; compass points are read as such.
    """
    if pd.api.types.is_numeric_dtype(column):
        turn = np.deg2rad(column.to_numpy(dtype=np.float64, na_value=np.nan))
        return np.sin(turn), np.cos(turn)
    codes, words = pd.factorize(column)
    known = [str(word).strip().upper() for word in words]
    turn = np.deg2rad(np.array([_DEGREES.get(word, np.nan) for word in known] + [np.nan])[codes])
    calm = np.array([word in _NO_DIRECTION - {"", "-"} for word in known] + [False])[codes]
    return np.where(calm, 0.0, np.sin(turn)), np.where(calm, 0.0, np.cos(turn))


def encode_directions(
    table: pd.DataFrame, features: list[str] | None, how: str, apart: set[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Put ``NAME_sin`` and ``NAME_cos`` for directions; the table, and {new column: its source}.

    ``features`` None encodes every direction unless ``how`` is "as_is"; a list decides by itself:
    who lists ``wd_sin`` gets it, who lists ``wd`` gets the degrees. ``apart`` are no features.
    """
    made: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    present, asked = set(table.columns), set(features or [])
    for name in map(str, table.columns):
        new = f"{name}_sin", f"{name}_cos"
        wanted = how == SIN_COS if features is None else bool(set(new) & asked)
        if name in apart or not wanted or set(new) & present:
            continue
        if is_direction(table, name):
            made |= dict(zip(new, encode_direction(table[name]), strict=True))
            sources |= dict.fromkeys(new, name)
    if not made:
        return table, {}
    listed = features or []
    kept = table.drop(columns=[n for n in dict.fromkeys(sources.values()) if n not in listed])
    return pd.concat([kept, pd.DataFrame(made, index=table.index)], axis=1), sources


def zero_one(column: pd.Series) -> np.ndarray | None:
    """Return [R] 1 for yes or true, 0 for no or false, NaN if missing; None if words differ."""
    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.is_numeric_dtype(column):
        return None
    codes, words = pd.factorize(column)
    found = [str(word).strip().lower() for word in words]
    whole = {word for word in found if len(word) > 1 and word in _YES | _NO}
    if not (whole or {"y", "n"} <= set(found) or {"t", "f"} <= set(found)):
        return None  # an N alone may be north
    if not set(found) <= _YES | _NO | MISSING_WORDS | {""}:
        return None
    table = [1.0 if word in _YES else 0.0 if word in _NO else np.nan for word in found]
    return np.array([*table, np.nan])[codes]


def limits_of(name: str, unit: str | None, step_hours: float) -> tuple[float, float] | None:
    """Tell what weather keeps to in this column, in its own unit; None where name or unit tell
    nothing.

    Without a unit only what hardly has another is limited: directions and percentages.
    """
    quantity = quantity_of(name, unit)
    if quantity is None:
        return None
    unit = unit or unit_in_name(name)
    if unit is not None and fits(unit, quantity):
        if quantity.key != RAIN:
            return limits_in(quantity, unit)
        low, high = limits_in(quantity, unit)
        return low, high * most_rain_mm(step_hours) / quantity.high
    return {"direction": (0.0, 360.0), "relative humidity": (0.0, 110.0)}.get(quantity.key)


def check_codes(
    columns: Mapping[str, tuple[np.ndarray, tuple[float, float] | None]],
    advice: str,
    place: Callable[[np.ndarray], str],
) -> None:
    """Refuse columns (values [R], limits) that hold codes for missing, or another unit's values.

    ``advice`` is the sentence on the option, see :func:`timerxl.data.tables.columns.refusal`;
    ``place`` says where the first of [R] bool stands.
    """
    found: dict[str, list[Code]] = {}
    places: dict[str, str] = {}
    for name, (values, limits) in columns.items():
        known = values[~np.isnan(values)]
        if limits is not None and known.size and known.min() < known.max():
            outside = float(((known < limits[0]) | (known > limits[1])).mean())
            if outside > _MOST_OUTSIDE:
                raise InputError(
                    f"column {name} is {known.min():.5g} to {known.max():.5g}; expected "
                    f"{limits[0]:.5g} to {limits[1]:.5g} in the unit that its name, the layout "
                    "or --unit tells: correct that, or leave the column out."
                )
        extremes = Extremes()
        extremes.add(values)
        if codes := extremes.codes(limits):
            found[name] = codes
            places[name] = place(values == codes[0].value)
    if found:
        raise refusal(found, advice, places)


def feature_record(
    name: str, source: str, said: str | None, told: tuple[str, str] | None, time: Fact | None
) -> ColumnRecord:
    """Return the record of a feature: unit as ``said`` by the user or ``told`` (unit, by what).

    No value is converted. Raises InputError where the two contradict each other, or the unit that
    was said is none of the quantity that the name tells.
    """
    quantity = quantity_of(source) if said is None else quantity_of(source, said)
    if said is not None and quantity is None and (named_so := quantity_of(source)) is not None:
        limits_in(named_so, said)  # raises, naming units that would do
    if (
        said
        and told
        and quantity
        and not (
            fits(said, quantity)
            and fits(told[0], quantity)
            and np.allclose(limits_in(quantity, said), limits_in(quantity, told[0]), rtol=1e-6)
        )
    ):
        raise InputError(
            f"{source} is in {told[0]} by {told[1]}, --unit says {said}; leave the option out, or "
            "correct the file."
        )
    unit = (
        Fact(said, "said", "--unit") if said else Fact(told[0], "file", told[1]) if told else None
    )
    if name != source:
        unit = Fact("1", "file", f"sine or cosine of {source}")
    return ColumnRecord(
        name=source,
        quantity=Fact(quantity.key, "file", "its name") if quantity else None,
        unit=unit,
        time=time,
    )
