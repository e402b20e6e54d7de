"""What a sum stands for in time, and how hours become steps.

ERA5 accumulates over the one hour that ends at the stamp, ERA5-Land from 00 UTC over the day (its
value at 00 UTC is the total of the day before), a forecast from its base time. Hours are int64
since 1970-01-01 00 UTC. A stretch of N hours is an array with NaN where there is no value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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
_NEGATIVE_NOISE_MM = 0.01  # packing leaves values of this size below zero, more so in differences
_EXACT_MM = 10.0

HOURLY, RUNNING, COUNTER, UNCLEAR = "hourly", "running", "counter", "unclear"
# Running totals fall within a day by packing noise only, hourly sums by 10 to 60 % of their amount.
_RUNNING_BELOW, _HOURLY_ABOVE = 0.02, 0.08
_RESTARTS_ABOVE = 0.2  # where a total starts again it loses most of its amount
_LEAST_INSIDE = 0.05  # of the amount: pairs of stamps within one total, else nothing can be told
# Wet totals that tell: with 3 stamps or more, of 2 only, and of other restarts than ERA5-Land's,
# which are many and more in a day: some of them fit a few showers by chance.
_LEAST_WINDOWS, _LEAST_OF_TWO, _LEAST_OF_OTHERS = 2, 5, 4
_LEAST_DAYS = 5  # with rain, from which sums that are neither kind can be told
# Stamps with rain, and the hours they span, that tell a counter that never starts again.
_LEAST_STAMPS, _LEAST_HOURS = 6, 30
# A fall below 1/32 of the value, or below about 1/1000 of the largest value, may be packing.
_NOISE_SHARE, _NOISE_EXPONENT = 1 / 32, 10
_EXPONENTS = 256  # of two, from -128 on
_CELLS_AT_ONCE = 2**18  # values


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


def to_mm(values: np.ndarray, mm_per_unit: float, what: str) -> np.ndarray:
    """Depth of water to mm, rounded to 1e-6; packing noise below zero becomes 0.

    The rounding undoes the four bytes of the file: 0.0001 m, stored as 0.0000999999975, is 0.1 mm.
    Raises InputError for a value clearly below zero.
    """
    rain = values * mm_per_unit
    # Four bytes hold 7 digits: 27.8 mm, stored in metres, is 27.7999993 and not known to 1e-6.
    rain = np.where(rain < _EXACT_MM, np.round(rain, MM_DIGITS), np.round(rain, MM_DIGITS - 1))
    if (bad := rain < -_NEGATIVE_NOISE_MM).any():
        raise InputError(
            f"{what} holds {rain[bad][0]:g} mm in an hour; rain can't be negative: the file is "
            "damaged, or it is no hourly accumulation."
        )
    return np.where(rain < 0, 0.0, rain)


@dataclass(frozen=True)
class Totals:
    """Running totals that start again every ``period`` hours, after hour ``reset`` of the day.

    ERA5-Land: 24 and 0, the value at 01 UTC is its own. ``period`` divides 24.
    """

    period: int = 24
    reset: int = 0

    def start(self, hours: np.ndarray) -> np.ndarray:
        """The hour at which the total that ends at each of ``hours`` began."""
        return (hours - 1 - self.reset) // self.period * self.period + self.reset

    def __str__(self) -> str:
        first = range(self.reset % self.period, 24, self.period)
        return f"from {', '.join(f'{hour:02d}' for hour in first)} UTC"


def covered_hours(
    known: np.ndarray, first_hour: int, totals: Totals | None, window: int = 1
) -> np.ndarray:
    """[N] int64: the hours that each known value's own share covers, 0 where there is none.

    Without ``totals`` the ``window`` of each value: one hour, 24 of a daily statistic. Running
    totals: since the known value before it in the same total, or since that began. ``known`` [N]
    bool starts at ``first_hour``.
    """
    if totals is None:
        return known.astype(np.int64) * window
    hours = first_hour + np.arange(len(known))
    before = _known_before(known)
    start = totals.start(hours)
    last = np.where(before >= 0, first_hour + before, start)
    return np.where(known, hours - np.maximum(last, start), 0)


def deaccumulate(values: np.ndarray, first_hour: int, totals: Totals) -> np.ndarray:
    """[N] running totals to the share of each value; see :func:`covered_hours`.

    The first value of a total is its own share; every later one, the last hour included (00 UTC
    of the next day in ERA5-Land), minus the known value before it in the same total.
    """
    hours = first_hour + np.arange(len(values))
    before = _known_before(~np.isnan(values))
    same = (before >= 0) & (first_hour + before > totals.start(hours))
    return values - np.where(same, values[np.maximum(before, 0)], 0.0)


def changes_within(
    weight: np.ndarray, known: np.ndarray, first_hour: int, totals: Totals
) -> np.ndarray:
    """[N] bool: known values whose ``weight`` [N] is not that of the one before in their total."""
    hours = first_hour + np.arange(len(known))
    before = _known_before(known)
    same = known & (before >= 0) & (first_hour + before > totals.start(hours))
    return same & (np.abs(weight - weight[np.maximum(before, 0)]) > 1e-9)


def _known_before(known: np.ndarray) -> np.ndarray:
    """[N]: index of the last known value before each place, -1 where there is none."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(known)), -1))
    return np.concatenate([[-1], last[:-1]])


@dataclass(frozen=True)
class Verdict:
    """What sums turned out to be, and by which numbers.

    ``kind`` is HOURLY (each value its own hour's), RUNNING (``totals`` says from when on), COUNTER
    (it hardly ever starts again) or UNCLEAR. ``largest`` is the largest absolute value seen;
    ``is_mixed`` says that an unclear one had enough amounts and behaves like neither kind.
    """

    kind: str
    totals: Totals | None
    evidence: str
    largest: float
    is_mixed: bool = False


@dataclass
class AccumulationEvidence:
    """Tell hourly sums from running totals by the amount that falls from one stamp to the next.

    A total can't fall before it starts again, hourly sums fall at every hour of the day. Amounts
    are weighed, not days counted: the packing noise of a dry cell is nothing beside rain. Give
    :meth:`add` one block after the other, cells or regions, and then ask :meth:`decide`.
    """

    # [hour of the later stamp, hours between the two; 24 or more are one]
    amount: np.ndarray = field(default_factory=lambda: np.zeros((24, 25)))
    falls: np.ndarray = field(default_factory=lambda: np.zeros((_EXPONENTS, 24, 25)))
    largest: float = 0.0
    # Of each later stamp: its hour, the hours between, the largest value before.
    stamps: list[np.ndarray] = field(default_factory=list)
    _last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, values: np.ndarray, hours: np.ndarray, continues: bool = False) -> None:
        """``values`` [S, T] of S cells at ``hours`` [T], NaN where there is none.

        ``continues``: the same cells as in the call before, at later hours. Negative values (an
        upward flux counted downwards) count by their size.
        """
        order = np.argsort(hours, kind="stable")
        hours = hours[order].astype(np.int64)
        size = len(values)
        carry = self._last if continues else None
        last_value, last_hour = carry or (np.full(size, np.nan), np.zeros(size, dtype=np.int64))
        last_value, last_hour = last_value.copy(), last_hour.copy()
        seen = np.zeros((3, len(hours)))
        seen[0] = hours
        cells = max(_CELLS_AT_ONCE // (len(hours) + 1), 1)
        for first in range(0, size, cells):
            rows = slice(first, first + cells)
            block = np.abs(values[rows][:, order].astype(np.float64))
            self._add_cells(block, hours, last_value[rows], last_hour[rows], seen)
        self.stamps.append(seen[:, seen[2] > 0])
        self._last = (last_value, last_hour)

    def _add_cells(
        self,
        block: np.ndarray,
        hours: np.ndarray,
        last_value: np.ndarray,
        last_hour: np.ndarray,
        seen: np.ndarray,
    ) -> None:
        """Add some cells; ``last_value`` and ``last_hour`` [s] are read and set in place."""
        values = np.concatenate([last_value[:, None], block], axis=1)
        known = ~np.isnan(values)
        if not known.any():
            return
        self.largest = max(self.largest, float(np.nanmax(values)))
        places = np.where(known, np.arange(values.shape[1]), -1)
        latest = np.maximum.accumulate(places, axis=1)
        before = latest[:, :-1]
        earlier = np.take_along_axis(values, np.maximum(before, 0), axis=1)
        earlier_hour = np.where(before > 0, hours[np.maximum(before - 1, 0)], last_hour[:, None])
        gap = np.minimum(hours - earlier_hour, 24)
        pair = known[:, 1:] & (before >= 0) & (gap > 0)
        place = np.where(pair, hours % 24 * 25 + gap, 0)
        amount = np.where(pair, earlier, 0.0)
        self.amount += np.bincount(place.ravel(), amount.ravel(), 600).reshape(24, 25)
        fall = np.where(pair, earlier - values[:, 1:], 0.0)
        clear = fall > _NOISE_SHARE * earlier
        if clear.any():
            exponent = np.clip(np.frexp(fall[clear])[1] + 128, 0, _EXPONENTS - 1)
            flat = exponent * 600 + place[clear]
            found = np.bincount(flat, fall[clear], _EXPONENTS * 600)
            self.falls += found.reshape(self.falls.shape)
        largest = amount.argmax(axis=0)
        columns = np.arange(len(hours))
        better = amount[largest, columns] > seen[2]
        seen[1] = np.where(better, gap[largest, columns], seen[1])
        seen[2] = np.where(better, amount[largest, columns], seen[2])
        newest = latest[:, -1]
        has = newest > 0
        last_value[has] = values[has, newest[has]]
        last_hour[has] = hours[newest[has] - 1]

    def add_rows(self, values: np.ndarray, hours: np.ndarray, groups: np.ndarray) -> None:
        """The same for a table: ``values`` [R] at ``hours`` [R], group after group, then by time.

        As :meth:`add` of each group by itself, in one pass whatever their number.
        """
        known = np.flatnonzero(~np.isnan(values))
        if not known.size:
            return
        size = np.abs(values[known].astype(np.float64))
        hours, groups = hours[known].astype(np.int64), groups[known]
        self.largest = max(self.largest, float(size.max()))
        gap = np.minimum(np.diff(hours), 24)
        pair = (np.diff(groups) == 0) & (gap > 0)
        gap, later, earlier = gap[pair], hours[1:][pair], size[:-1][pair]
        place = later % 24 * 25 + gap
        self.amount += np.bincount(place, earlier, 600).reshape(24, 25)
        fall = earlier - size[1:][pair]
        clear = fall > _NOISE_SHARE * earlier
        exponent = np.clip(np.frexp(fall[clear])[1] + 128, 0, _EXPONENTS - 1)
        found = np.bincount(exponent * 600 + place[clear], fall[clear], _EXPONENTS * 600)
        self.falls += found.reshape(self.falls.shape)
        seen = np.stack([later, gap, earlier]).astype(np.float64)
        self.stamps.append(seen[:, seen[2] > 0])
        self._last = None

    def merge(self, other: AccumulationEvidence) -> None:
        """Add what ``other`` has seen (another file of the same column, another region)."""
        self.amount += other.amount
        self.falls += other.falls
        self.largest = max(self.largest, other.largest)
        self.stamps += other.stamps
        self._last = None

    def decide(self, least: float = 0.0) -> Verdict:
        """Running totals (with period and restart), hourly sums, a counter, or unclear.

        Values of which none exceeds ``least`` (in their unit) tell nothing.
        """
        if self.largest <= least:
            words = f"no value above {least:g}" if least else "no amount at all"
            return Verdict(UNCLEAR, None, words, self.largest)
        from_exponent = np.frexp(self.largest)[1] + 128 - _NOISE_EXPONENT
        falls = self.falls[max(from_exponent, 0) :].sum(axis=0)
        amount = self.amount
        seen = np.concatenate(self.stamps, axis=1) if self.stamps else np.zeros((3, 0))
        wet = seen[:, seen[2] >= self.largest * 2.0**-_NOISE_EXPONENT]
        least_share, where = np.inf, Totals()
        for totals in _candidates():
            inside = _inside(totals)
            if amount[inside].sum() <= _LEAST_INSIDE * amount.sum():
                continue
            share = falls[inside].sum() / amount[inside].sum()
            outside = max(amount[~inside].sum(), np.finfo(float).tiny)
            lost = falls[~inside].sum() / outside
            if share < _RUNNING_BELOW and lost > _RESTARTS_ABOVE:
                words = (
                    f"within a total {share:.2%} of the amount falls from stamp to stamp, where it "
                    f"starts again ({totals}) {lost:.0%}"
                )
                if _enough_windows(totals, wet):
                    return Verdict(RUNNING, totals, words, self.largest)
                words += "; too few of them have rain to be sure"
                # ERA5-Land's restart is no chance find, though too few days show it; nor are
                # several totals in which rain was seen three times and never fell.
                is_likely = totals == Totals() or _windows_of_three(totals, wet) >= 3
                return Verdict(UNCLEAR, None, words, self.largest, is_likely)
            if share < least_share:
                least_share, where = share, totals
        every = falls.sum() / max(amount.sum(), np.finfo(float).tiny)
        stamps = np.unique(wet[0])
        lasting = len(stamps) >= _LEAST_STAMPS and stamps[-1] - stamps[0] > _LEAST_HOURS
        # Where stamps lie a day or more apart, the start of a month weighs more among them.
        few = _RUNNING_BELOW if np.isfinite(least_share) else _HOURLY_ABOVE
        if every < few and lasting:
            words = f"{every:.2%} of the amount falls from stamp to stamp, at no hour of the day"
            return Verdict(COUNTER, None, words, self.largest)
        if not np.isfinite(least_share):
            words = "no two stamps with rain lie within one day or part of it"
            return Verdict(UNCLEAR, None, words, self.largest)
        words = f"{least_share:.0%} of the amount falls from stamp to stamp, also {where}"
        if least_share > _HOURLY_ABOVE and (falls.sum(axis=1) > 0).sum() > 1:
            return Verdict(HOURLY, None, words, self.largest)
        days = len(np.unique((wet[0] - 1) // 24))
        mixed = bool(least_share <= _HOURLY_ABOVE) and days >= _LEAST_DAYS
        return Verdict(UNCLEAR, None, words, self.largest, mixed)


def _candidates() -> list[Totals]:
    """The longest period first: totals over 24 h also rise all through its parts."""
    usual = sorted(range(24), key=lambda hour: (hour % 12 > 0, hour % 6 > 0, hour % 3 > 0, hour))
    return [Totals(period, hour) for period in (24, 12, 6, 3) for hour in usual if hour < period]


def _inside(totals: Totals) -> np.ndarray:
    """[24, 25] bool: pairs of stamps (hour of the later, hours between) within one total."""
    hour, gap = np.arange(24)[:, None], np.arange(25)[None, :]
    return (totals.start(hour) == totals.start(hour - gap)) & (gap < 24)


def _windows_of_three(totals: Totals, wet: np.ndarray) -> int:
    hours, gap = wet[0].astype(np.int64), wet[1].astype(np.int64)
    start = totals.start(hours)
    inside = (start == totals.start(hours - gap)) & (gap < 24)
    windows = totals.start(np.unique(hours[inside]))
    return int((np.unique(windows, return_counts=True)[1] >= 2).sum())


def _enough_windows(totals: Totals, wet: np.ndarray) -> bool:
    """Whether rain was seen in enough totals; fewer stamps in each need more of them."""
    hours, gap = wet[0].astype(np.int64), wet[1].astype(np.int64)
    start = totals.start(hours)
    inside = (start == totals.start(hours - gap)) & (gap < 24)
    windows = totals.start(np.unique(hours[inside]))
    if not len(windows):
        return False
    counts = np.unique(windows, return_counts=True)[1]
    # A pair has one stamp more than it has later stamps.
    of_three = int((counts >= 2).sum())
    if totals == Totals():
        return len(counts) >= _LEAST_OF_TWO or of_three >= _LEAST_WINDOWS
    a_day = 24 // totals.period
    return len(counts) >= 2 * _LEAST_OF_TWO * a_day or of_three >= _LEAST_OF_OTHERS * a_day


def hours_present_per_day(hours: np.ndarray, totals: Totals | None, window: int = 1) -> int:
    """How many of a day's 24 hours the known sums at ``hours`` (ascending) cover, as a rule.

    The median over the days without the first and the last; of one or two days the larger.
    """
    first = int(hours[0]) // 24 * 24
    known = np.zeros(int(hours[-1]) - first + 1, dtype=bool)
    known[hours - first] = True
    covered = covered_hours(known, first, totals, window)
    day = (first + np.arange(len(known)) - (totals is not None or window > 1)) // 24
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
