"""Numbers that stand for "missing": found by how they lie apart from all other values.

-9999, 99.99, 32767 and their kind are no weather. A value is taken for a code where no weather of
its quantity reaches it, or where it is an extreme that repeats itself, far from all the rest. R
values of one column at a time, or blocks of a field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from timerxl.config import InputError

# Codes that archives use (CF and NetCDF fill values, GHCN, GSOD, ISD, DWD, INMET, NASA POWER).
KNOWN_CODES = (
    -9999.0, -999.0, -99.0, -9.0, -99.9, -999.9, -9999.9, -99.99, -999.99, -9999.99, -99999.0,
    -999999.0, -888.0, -8888.0, -777.0, -7777.0, -6999.0, -32767.0, -32768.0, -1.0,
    99.0, 999.0, 9999.0, 99999.0, 999999.0, 9999999.0, 99.9, 999.9, 9999.9, 99999.9, 99.99, 999.99,
    9999.99, 888.0, 8888.0, 777.0, 7777.0, 32767.0, 32766.0, 65535.0, 255.0, -128.0, 2147483647.0,
    -2147483648.0, 9.969209968386869e36, 1e20, -1e20, 1e30, -1e30, 1e34, -1e34, 1e35, -1e31, 1e31,
    3.4028234663852886e38, -3.4028234663852886e38, 1.7976931348623157e308,
)  # fmt: skip
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
    """``12.3%``, and never a 0 for what is there."""
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
        """What is taken for "missing", outermost first; ``limits`` are those of the quantity."""
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
    """The codes for "missing" in one column: ``values`` of any shape, NaN where missing."""
    extremes = Extremes()
    extremes.add(np.asarray(values, dtype=np.float64))
    return extremes.codes(limits)


def mask(values: np.ndarray, codes: Iterable[float]) -> tuple[np.ndarray, dict[float, int]]:
    """(values with NaN for each of ``codes``, how often each stood there).

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
    """Numbers said to mean "missing", none for ``none``; InputError for a word (``option``)."""
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
    """The error for columns that hold codes: names, values, counts, shares, and what to do.

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
