"""What a value of ERA5 stands for in time, and how hours become steps.

ERA5 accumulates over the one hour that ends at the stamp, ERA5-Land from 00 UTC over the day (its
value at 00 UTC is the total of the day before). Hours are int64 since 1970-01-01 00 UTC. A stretch
of N hours is an array with NaN where there is no value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from timerxl.config import InputError

# Names under which the old layout, which has no step type, delivers sums over the hour.
_SUMS = frozenset(
    "tp cp lsp sf csf lsf ssrd strd ssr str tsr ttr ssrc strc tsrc ttrc ssrdc strdc tisr sshf slhf "
    "e pev ro sro ssro smlt es fdir cdir uvb ewss nsss lgws mgws gwd bld vimd lspf".split()
)
# Sums of what is never negative: from midnight on they can't fall.
_NEVER_NEGATIVE = frozenset(
    "tp cp lsp sf csf lsf ssrd strd ssrdc strdc tisr fdir uvb smlt ro sro ssro".split()
)
_LARGEST, _SMALLEST = frozenset("mx2t fg10 mxtpr".split()), frozenset("mn2t mntpr".split())
_MEANS = frozenset("mtpr mcpr mlspr msr mtdwswrf msdwswrf msdwlwrf mslhf msshf mer mror".split())
SUM, MEAN, MAX, MIN, INSTANT = "accum", "avg", "max", "min", "instant"

MM_DIGITS = 6
_MM_PER_UNIT = {"m": 1000.0, "m of water equivalent": 1000.0, "mm": 1.0, "kg m**-2": 1.0}
_NEGATIVE_NOISE_MM = 0.01  # packing leaves values of this size below zero, more so in differences
_EXACT_MM = 10.0
_LEAST_TOTAL = 1e-3  # of the largest value: days below tell nothing about how they add up
_NOISE = 1e-4  # of the largest value: ups and downs below are packing


def step_type(name: str, told: str) -> str:
    """How values extend in time: as the file tells it, else by ERA5's own names."""
    if told in (SUM, MEAN, MAX, MIN, INSTANT):
        return told
    known = {SUM: _SUMS, MAX: _LARGEST, MIN: _SMALLEST, MEAN: _MEANS}
    kinds = [kind for kind, names in known.items() if name in names]
    return kinds[0] if kinds else MEAN if name.startswith("avg_") else INSTANT


def only_rises(name: str) -> bool:
    """Whether a running total of this variable can't fall: rain, snow, downward radiation."""
    return name in _NEVER_NEGATIVE


def to_mm(values: np.ndarray, unit: str, what: str) -> np.ndarray:
    """Depth of water to mm, rounded to 1e-6; packing noise below zero becomes 0.

    The rounding undoes the four bytes of the file: 0.0001 m, stored as 0.0000999999975, is 0.1 mm.
    Raises InputError for an unknown unit or a value clearly below zero.
    """
    if unit not in _MM_PER_UNIT:
        raise InputError(
            f"{what} has the unit {unit!r}; expected one of {', '.join(map(repr, _MM_PER_UNIT))}."
        )
    rain = values * _MM_PER_UNIT[unit]
    # Four bytes hold 7 digits: 27.8 mm, stored in metres, is 27.7999993 and not known to 1e-6.
    rain = np.where(rain < _EXACT_MM, np.round(rain, MM_DIGITS), np.round(rain, MM_DIGITS - 1))
    if (bad := rain < -_NEGATIVE_NOISE_MM).any():
        raise InputError(
            f"{what} holds {rain[bad][0]:g} mm in an hour; rain can't be negative: the file is "
            "damaged, or it is no hourly accumulation."
        )
    return np.where(rain < 0, 0.0, rain)


def covered_hours(known: np.ndarray, first_hour: int, since_midnight: bool) -> np.ndarray:
    """[N] int64: the hours that each known value's own share covers, 0 where there is none.

    ERA5: one. ERA5-Land (``since_midnight``): since the known value before it on the same day, or
    since 00 UTC. ``known`` [N] bool starts at ``first_hour``.
    """
    if not since_midnight:
        return known.astype(np.int64)
    hours = first_hour + np.arange(len(known))
    before = _known_before(known)
    midnight = (hours - 1) // 24 * 24  # of the day (00, 24] that the hour belongs to
    last = np.where(before >= 0, first_hour + before, midnight)
    return np.where(known, hours - np.maximum(last, midnight), 0)


def deaccumulate(values: np.ndarray, first_hour: int) -> np.ndarray:
    """[N] running totals of ERA5-Land to the share of each value; see :func:`covered_hours`.

    The value at 01 UTC is its own share; every later one, 00 UTC of the next day included, minus
    the known value before it on the same day.
    """
    hours = first_hour + np.arange(len(values))
    before = _known_before(~np.isnan(values))
    midnight = (hours - 1) // 24 * 24
    same_day = (before >= 0) & (first_hour + before > midnight)
    return values - np.where(same_day, values[np.maximum(before, 0)], 0.0)


def _known_before(known: np.ndarray) -> np.ndarray:
    """[N]: index of the last known value before each place, -1 where there is none."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.concatenate([[-1], last[:-1]])


def rises_all_day(values: np.ndarray, hours: np.ndarray) -> bool | None:
    """Whether sums behave like ERA5-Land's: never falling from 01 to 00 UTC, dropping after 00.

    ``values`` [G, T] at ascending ``hours`` [T]. None where nothing can be told: fewer than two
    days with three values or more and a total above noise.
    """
    told: set[int] = set()
    dropped = seen = 0
    day = (hours - 1) // 24
    for series in values:
        known = ~np.isnan(series)
        if known.sum() < 2:
            continue
        value, of_day = series[known], day[known]
        scale = np.abs(value).max()
        change = np.diff(np.abs(value))
        within = np.diff(of_day) == 0
        if (change[within] < -_NOISE * scale).any():
            return False
        days, starts, counts = np.unique(of_day, return_index=True, return_counts=True)
        last = np.abs(value)[starts + counts - 1]
        clear = (counts >= 3) & (last > _LEAST_TOTAL * scale)
        told.update(days[clear].tolist())
        next_first = np.append(np.abs(value)[starts[1:]], np.nan)
        dropped += int((clear & (next_first < last)).sum())
        seen += int((clear & ~np.isnan(next_first)).sum())
    if len(told) < 2 or not seen:
        return None
    return dropped * 2 > seen


def hours_present_per_day(hours: np.ndarray, since_midnight: bool) -> int:
    """How many of a day's 24 hours the known sums at ``hours`` (ascending) cover, as a rule.

    The median over the days without the first and the last; of one or two days the larger.
    """
    first = int(hours[0]) // 24 * 24
    known = np.zeros(int(hours[-1]) - first + 1, dtype=bool)
    known[hours - first] = True
    covered = covered_hours(known, first, since_midnight)
    day = (first + np.arange(len(known)) - since_midnight) // 24
    days = np.unique(day[known])
    counts = np.bincount(day - day[0], weights=covered)[days - day[0]]
    chosen = counts[1:-1] if len(counts) > 2 else counts.max(keepdims=True)
    return int(np.median(chosen))


def sparse_refusal(name: str, present: int) -> str:
    """What to say of a file that holds ``present`` of 24 hours of a sum."""
    wrong = "a 24-h rain label" if name == "tp" else f"a 24-h sum of {name}"
    return f"{present} of 24 hours of {name} are present; {wrong} from this file would be wrong"


def per_step(
    values: np.ndarray, covered: np.ndarray, step: int, kind: str, hours_needed: int
) -> np.ndarray:
    """[N] hours to [N / step] steps that END at their stamp: the last hour of each is the stamp.

    Instantaneous values are those at the stamp; sums, means and extremes are over the step, NaN
    unless ``hours_needed`` hours of it are covered (all of them, fewer only for sparse files) and
    no value reaches back before the step.
    """
    hourly = values.reshape(-1, step)
    if kind == INSTANT:
        return hourly[:, -1].copy()
    share = covered.reshape(-1, step)
    inside = (share <= np.arange(1, step + 1)).all(axis=1)
    complete = inside & (share.sum(axis=1) >= hours_needed)
    reductions: dict[str, Callable[..., np.ndarray]] = {
        SUM: np.nansum,
        MEAN: np.nanmean,
        MAX: np.nanmax,
        MIN: np.nanmin,
    }
    reduced = np.full(len(hourly), np.nan)
    if complete.any():
        reduced[complete] = reductions[kind](hourly[complete], axis=1)
    return reduced
