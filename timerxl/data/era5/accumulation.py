"""What a value stands for in time: instants, sums and means over hours, running totals.

ERA5 accumulates over the one hour that ends at the stamp, ERA5-Land from 00 UTC over the day (its
value at 00 UTC is the total of the day before), a forecast from its base time; tables carry either.
What the user says or the file tells of it is read here, and before anything is joined every stamp
becomes an end. Hours are int64 since 1970-01-01 00 UTC. Arrays of N hours hold NaN where there is
no value; R are rows of a table, region after region.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.columns import KnownBy

if TYPE_CHECKING:
    from timerxl.data.era5.grid_files import GridFile

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
    """Tell how values extend in time: as the file tells it, else by ERA5's own names."""
    if told in (SUM, MEAN, MAX, MIN, INSTANT):
        return told
    known = {SUM: _SUMS, MAX: _LARGEST, MIN: _SMALLEST, MEAN: _MEANS}
    usual = MEAN if name.startswith("avg_") else INSTANT
    return next((kind for kind, names in known.items() if name in names), usual)


def only_rises(name: str) -> bool:
    """Tell whether a running total of this variable can't fall: rain, snow, downward radiation."""
    return name in _NEVER_NEGATIVE


def to_mm(values: np.ndarray, mm_per_unit: float, what: str) -> np.ndarray:
    """Return depth of water to mm, rounded to 1e-6; packing noise below zero becomes 0.

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
        """Return the hour at which the total that ends at each of ``hours`` began."""
        return (hours - 1 - self.reset) // self.period * self.period + self.reset

    def __str__(self) -> str:
        first = range(self.reset % self.period, 24, self.period)
        return f"from {', '.join(f'{hour:02d}' for hour in first)} UTC"


def covered_hours(
    known: np.ndarray, first_hour: int, totals: Totals | None, window: int = 1
) -> np.ndarray:
    """Return [N] int64: the hours that each known value's own share covers, 0 where there is none.

    Without ``totals`` the ``window`` of each value: one hour, 24 of a daily statistic. Running
    totals: since the known value before it in the same total, or since that began. ``known`` [N]
    bool starts at ``first_hour``.
    """
    if totals is None:
        return known.astype(np.int64) * window
    hours = first_hour + np.arange(len(known))
    before, same = _value_before(known, first_hour, totals)
    return np.where(known, hours - np.where(same, first_hour + before, totals.start(hours)), 0)


def deaccumulate(values: np.ndarray, first_hour: int, totals: Totals) -> np.ndarray:
    """Return [N] running totals to the share of each value; see :func:`covered_hours`.

    The first value of a total is its own share; every later one, the last hour included (00 UTC
    of the next day in ERA5-Land), minus the known value before it in the same total.
    """
    before, same = _value_before(~np.isnan(values), first_hour, totals)
    return values - np.where(same, values[before], 0.0)


def changes_within(
    weight: np.ndarray, known: np.ndarray, first_hour: int, totals: Totals
) -> np.ndarray:
    """Find [N] known values whose ``weight`` [N] is not that of the one before in their total."""
    before, same = _value_before(known, first_hour, totals)
    return known & same & (np.abs(weight - weight[before]) > 1e-9)


def _value_before(
    known: np.ndarray, first_hour: int, totals: Totals
) -> tuple[np.ndarray, np.ndarray]:
    """[N] the place of the known value before each, and whether that is of the same total."""
    places = np.arange(len(known))
    last = np.maximum.accumulate(np.where(known, places, -1))
    before = np.concatenate([[-1], last[:-1]])
    same = (before >= 0) & (first_hour + before > totals.start(first_hour + places))
    return np.maximum(before, 0), same


@dataclass(frozen=True)
class AccumulationVerdict:
    """What sums turned out to be, and by which numbers.

    ``kind`` is HOURLY (each value its own hour's), RUNNING (``totals`` says from when on), COUNTER
    (it hardly ever starts again) or UNCLEAR. ``largest`` is the largest absolute value seen;
    ``is_mixed`` says that an unclear one shows signs of totals: it had enough amounts and behaves
    like neither kind, or it looks like totals of which too few have rain.
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

    # [hour of the later stamp, gap in hours; gaps of 24 or more share index 24]
    amount: np.ndarray = field(default_factory=lambda: np.zeros((24, 25)))
    falls: np.ndarray = field(default_factory=lambda: np.zeros((_EXPONENTS, 24, 25)))
    largest: float = 0.0
    # Of each later stamp: its hour, the hours between, the largest value before.
    stamps: list[np.ndarray] = field(default_factory=list)
    _last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, values: np.ndarray, hours: np.ndarray, continues: bool = False) -> None:
        """Add ``values`` [S, T] of S cells at ``hours`` [T], NaN where there is none.

        ``continues``: the same cells as in the call before, at later hours. Negative values (an
        upward flux counted downwards) count by their size.
        """
        order = np.argsort(hours, kind="stable")
        hours, size = hours[order].astype(np.int64), len(values)
        last = self._last if continues else None
        value, hour = last or (np.full(size, np.nan), np.zeros(size, dtype=np.int64))
        value, hour = value.copy(), hour.copy()
        seen = np.stack([hours, np.zeros_like(hours), np.zeros_like(hours)]).astype(np.float64)
        cells = max(_CELLS_AT_ONCE // (len(hours) + 1), 1)
        for first in range(0, size, cells):
            rows = slice(first, first + cells)
            block = np.abs(values[rows][:, order].astype(np.float64))
            block = np.column_stack([value[rows], block])
            times = np.column_stack([hour[rows], np.tile(hours, (len(block), 1))])
            known = ~np.isnan(block)
            later, gap, earlier = self._count(block[known], times[known], np.nonzero(known)[0])
            at = np.searchsorted(hours, later)
            np.maximum.at(seen[2], at, earlier)
            largest = earlier == seen[2][at]
            seen[1][at[largest]] = gap[largest]
            newest = len(hours) - np.argmax(known[:, ::-1], axis=1)
            value[rows], hour[rows] = (a[np.arange(len(a)), newest] for a in (block, times))
        self.stamps.append(seen[:, seen[2] > 0])
        self._last = value, hour

    def add_rows(self, values: np.ndarray, hours: np.ndarray, groups: np.ndarray) -> None:
        """Add a table: ``values`` [R] at ``hours`` [R], group after group, then by time.

        As :meth:`add` of each group by itself, in one pass whatever their number.
        """
        known = ~np.isnan(values)
        size = np.abs(values[known].astype(np.float64))
        seen = self._count(size, hours[known].astype(np.int64), groups[known])
        self.stamps.append(seen[:, seen[2] > 0])
        self._last = None

    def _count(self, size: np.ndarray, hours: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Weigh what falls between neighbours of a group; [3, pairs]: hour, gap, value before."""
        self.largest = max(self.largest, float(size.max(initial=0.0)))
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
        return np.stack([later, gap, earlier]).astype(np.float64)

    def merge(self, other: AccumulationEvidence) -> None:
        """Add what ``other`` has seen (another file of the same column, another region)."""
        self.amount += other.amount
        self.falls += other.falls
        self.largest = max(self.largest, other.largest)
        self.stamps += other.stamps
        self._last = None

    def decide(self, least: float = 0.0) -> AccumulationVerdict:
        """Return running totals (with period and restart), hourly sums, a counter, or unclear.

        Values of which none exceeds ``least`` (in their unit) tell nothing.
        """
        if self.largest <= least:
            words = f"no value above {least:g}" if least else "no amount at all"
            return AccumulationVerdict(UNCLEAR, None, words, self.largest)
        from_exponent = np.frexp(self.largest)[1] + 128 - _NOISE_EXPONENT
        falls = self.falls[max(from_exponent, 0) :].sum(axis=0)
        amount = self.amount
        seen = np.concatenate(self.stamps, axis=1) if self.stamps else np.zeros((3, 0))
        wet = seen[:, seen[2] >= self.largest * 2.0**-_NOISE_EXPONENT]
        least_share, where = np.inf, Totals()
        for totals in _candidates():
            inside = _inside(totals, np.arange(24)[:, None], np.arange(25)[None, :])
            if amount[inside].sum() <= _LEAST_INSIDE * amount.sum():
                continue
            share = falls[inside].sum() / amount[inside].sum()
            lost = falls[~inside].sum() / max(amount[~inside].sum(), np.finfo(float).tiny)
            if share < _RUNNING_BELOW and lost > _RESTARTS_ABOVE:
                return self._running(totals, wet, share, lost)
            if share < least_share:
                least_share, where = share, totals
        every = falls.sum() / max(amount.sum(), np.finfo(float).tiny)
        stamps = np.unique(wet[0])
        lasting = len(stamps) >= _LEAST_STAMPS and stamps[-1] - stamps[0] > _LEAST_HOURS
        # Where stamps lie a day or more apart, the start of a month weighs more among them.
        few = _RUNNING_BELOW if np.isfinite(least_share) else _HOURLY_ABOVE
        if every < few and lasting:
            words = f"{every:.2%} of the amount falls from stamp to stamp, at no hour of the day"
            return AccumulationVerdict(COUNTER, None, words, self.largest)
        if not np.isfinite(least_share):
            words = "no two stamps with rain lie within one day or part of it"
            return AccumulationVerdict(UNCLEAR, None, words, self.largest)
        words = f"{least_share:.0%} of the amount falls from stamp to stamp, also {where}"
        if least_share > _HOURLY_ABOVE and (falls.sum(axis=1) > 0).sum() > 1:
            return AccumulationVerdict(HOURLY, None, words, self.largest)
        days = len(np.unique((wet[0] - 1) // 24))
        mixed = bool(least_share <= _HOURLY_ABOVE) and days >= _LEAST_DAYS
        return AccumulationVerdict(UNCLEAR, None, words, self.largest, mixed)

    def _running(
        self, totals: Totals, wet: np.ndarray, share: float, lost: float
    ) -> AccumulationVerdict:
        """Running totals, or unclear where too few stamps with rain say so."""
        words = (
            f"within a total {share:.2%} of the amount falls from stamp to stamp, where it starts "
            f"again ({totals}) {lost:.0%}"
        )
        # Later stamps with rain in each total: a pair has one stamp more.
        hours, gap = wet[0].astype(np.int64), wet[1].astype(np.int64)
        later = np.unique(hours[_inside(totals, hours, gap)])
        counts = np.unique(totals.start(later), return_counts=True)[1]
        pairs, threes, a_day = len(counts), int((counts >= 2).sum()), 24 // totals.period
        if totals == Totals():
            is_enough = pairs >= _LEAST_OF_TWO or threes >= _LEAST_WINDOWS
        else:  # fewer stamps in each need more of them
            is_enough = pairs >= 2 * _LEAST_OF_TWO * a_day or threes >= _LEAST_OF_OTHERS * a_day
        if is_enough:
            return AccumulationVerdict(RUNNING, totals, words, self.largest)
        # A restart at ERA5-Land's hour counts as evidence even with too few wet days; so do totals
        # in which rain was seen three times and that never fell.
        words += "; too few of them have rain to be sure"
        return AccumulationVerdict(
            UNCLEAR, None, words, self.largest, is_mixed=totals == Totals() or threes >= 3
        )


def _candidates() -> list[Totals]:
    """The longest period first: totals over 24 h also rise all through its parts."""
    usual = sorted(range(24), key=lambda hour: (hour % 12 > 0, hour % 6 > 0, hour % 3 > 0, hour))
    return [Totals(period, hour) for period in (24, 12, 6, 3) for hour in usual if hour < period]


def _inside(totals: Totals, hour: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Whether a stamp at ``hour`` and the one ``gap`` hours before lie within one total."""
    return (totals.start(hour) == totals.start(hour - gap)) & (gap < 24)


def hours_present_per_day(hours: np.ndarray, totals: Totals | None, window: int = 1) -> int:
    """Tell how many of a day's 24 hours the known sums at ``hours`` (ascending) cover, as a rule.

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


def per_step(
    values: np.ndarray, covered: np.ndarray, step: int, kind: str, hours_needed: int
) -> np.ndarray:
    """Return [N] hours to [N / step] steps that END at their stamp, the last hour of each.

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
    reductions = {SUM: np.nansum, MEAN: np.nanmean, MAX: np.nanmax, MIN: np.nanmin}
    reduced = np.full(len(hourly), np.nan)
    if complete.any():
        reduced[complete] = reductions[kind](hourly[complete], axis=1)  # type: ignore[operator]
    return reduced


# Of a few days any shower looks odd: totals from 00 UTC need three days to be believed, others ten.
_SURE_HOURS, _JUDGED_HOURS = 72, 240


def rain_verdict(
    values: np.ndarray, timestamps: np.ndarray, region_index: np.ndarray
) -> AccumulationVerdict:
    """Tell how the rows of a column of sums add up; ``values`` [R] in any unit, NaN where missing.

    Rows at whole hours are looked at: a total that starts again at some hour shows there, too.
    Of a short table nothing is said.
    """
    seconds = timestamps.astype("datetime64[s]").astype(np.int64)
    evidence = AccumulationEvidence()
    past = most_common(seconds % 3600) or 0  # India's hours end at half past in UTC
    kept = seconds % 3600 == past
    evidence.add_rows(values[kept], (seconds[kept] - past) // 3600, region_index[kept])
    first = np.flatnonzero(np.diff(region_index, prepend=-1))
    last = np.append(first[1:], len(seconds)) - 1
    longest = int((seconds[last] - seconds[first]).max()) // 3600
    verdict = evidence.decide()
    is_usual = verdict.kind == RUNNING and verdict.totals == Totals()
    if longest < (_SURE_HOURS if is_usual else _JUDGED_HOURS):
        return AccumulationVerdict(UNCLEAR, None, f"{longest} hours tell nothing", verdict.largest)
    return verdict


def shares(
    values: np.ndarray,
    timestamps: np.ndarray,
    region_index: np.ndarray,
    totals: Totals,
    step_hours: float,
) -> np.ndarray:
    """Return [R] the share of each row in running ``totals``.

    NaN where the row before is missing: the share would be that of more than one step.
    """
    seconds = timestamps.astype("datetime64[s]").astype(np.int64)
    if step_hours != int(step_hours) or (seconds % 3600).any():
        raise InputError(
            f"running totals in steps of {step_hours:g} h can't be taken apart; resample to whole "
            "hours first."
        )
    result = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    hours, amounts, regions = seconds[known] // 3600, values[known], region_index[known]
    start = totals.start(hours)
    follows = np.zeros(len(known), dtype=bool)  # on a value before it in the same total
    follows[1:] = (np.diff(regions) == 0) & (hours[:-1] > start[1:])
    before = np.where(follows, np.roll(hours, 1), start)
    own = amounts - np.where(follows, np.roll(amounts, 1), 0.0)
    result[known] = np.where(hours - before == int(step_hours), own, np.nan)
    return result


def problem(
    verdict: AccumulationVerdict, name: str, step_hours: float, needs_label: bool
) -> str | None:
    """Tell why a column can't be taken as sums of its rows, as a clause; None where it can.

    What is only odd is no reason for who has no label to make (``needs_label``).
    """
    if verdict.kind == RUNNING:
        return f"{name} adds up {verdict.totals} and is no sum of each {step_hours:g} h"
    if verdict.kind == COUNTER:
        return f"{name} is a counter that goes on over days"
    if verdict.is_mixed and needs_label:
        return f"{name} behaves neither like sums of each row nor like running totals"
    return None


OPTION = "--meaning"
_KINDS = {"instant": INSTANT, "sum": SUM, "mean": MEAN, "max": MAX, "min": MIN}
_WORDS = re.compile(
    r"(?P<word>instant|hourly|running|sum|mean|max|min)(:(?P<hours>\d{1,3})h)?(@(?P<stamp>start|end))?"
)
_EXAMPLES = "instant, hourly, running, sum:6h, mean:24h, max:24h or min:24h, with @start or @end"
_HOUR = 3600


@dataclass(frozen=True)
class SaidMeaning:
    """A word of ``--meaning``: ``kind`` and ``hours`` (None where not said), where a stamp stands.

    ``is_running``: running totals that start again; ``hours`` is their period then.
    """

    kind: str
    hours: int | None = None
    stamp: str | None = None
    is_running: bool = False


def parse_meaning(column: str, text: str) -> SaidMeaning:
    """Parse ``mean:24h@start`` and its like; raises InputError that lists the words."""
    match = _WORDS.fullmatch(text.strip())
    word, stamp = (match["word"], match["stamp"]) if match else ("", None)
    hours = int(match["hours"]) if match and match["hours"] else None
    is_short = word in ("sum", "mean", "max", "min") and hours is None
    is_long = word in ("instant", "hourly") and hours is not None
    if not word or is_short or is_long or hours == 0:
        raise InputError(f"{OPTION} {column}={text}: expected {_EXAMPLES}.")
    if word == "hourly":
        return SaidMeaning(SUM, 1, stamp)
    if word == "running":
        if 24 % (hours or 24):
            raise InputError(f"{OPTION} {column}={text}: running totals restart within 24 h.")
        return SaidMeaning(SUM, hours, stamp, is_running=True)
    return SaidMeaning(_KINDS[word], hours, stamp)


@dataclass(frozen=True)
class Meaning:
    """``kind`` over ``hours`` that end ``shift`` seconds after the file's stamp.

    ``hours`` is None of a sum whose values must tell (one hour, or running totals), and of means
    and extremes of ERA5, which are over the hour. ``file_stamp``: start, middle or end.
    """

    kind: str
    hours: int | None
    shift: int
    known_by: KnownBy
    evidence: str
    file_stamp: str = "end"


@dataclass(frozen=True)
class Variable:
    """One column that a file offers; ``column`` holds the level where there are several.

    ``name`` is ERA5's short name where there is one, ``original`` the name in the file. ``window``
    are the hours of a sum that the name tells, ``packed_codes`` what fill values of a packed
    variable are once unpacked.
    """

    column: str
    name: str
    unit: str
    description: str
    step_type: str  # of the GRIB message (instant, accum, avg, max, min); "" where not told
    level: dict[str, int]  # dimension -> index, where there are several
    original: str
    cell_methods: str
    window: int | None
    packed_codes: tuple[float, ...]


def most_common(values: np.ndarray) -> int | None:
    """Return the most common of whole numbers, of several the least; None without any."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)]) if len(found) else None


def meaning_of(variable: Variable, file: GridFile, said: SaidMeaning | None) -> Meaning:
    """Tell what the values of a variable stand for.

    In order: the user's word, the history of a daily statistic, CF's bounds and cell methods,
    GRIB's step type, ERA5's names. Raises InputError for what contradicts itself or can't be told.
    """
    column = variable.column
    if said is not None:
        found = _said(column, said, file)
    else:
        found = (
            _daily(column, file)
            or _by_bounds(variable, file)
            or _by_cell_methods(variable, file)
            or _by_name(variable, file)
        )
    end = file.seconds + found.shift
    if (odd := end % _HOUR != 0).any():
        when = file.seconds[odd][0].astype("datetime64[s]")
        raise InputError(f"{file.label} holds the time {when}; expected whole hours.")
    if found.hours is not None and found.hours > 24:
        raise InputError(
            f"{file.label}: {column} is over {found.hours} h ({found.evidence}); expected a day "
            "at most."
        )
    return found


def ask(file: GridFile, column: str, what: str, words: str) -> InputError:
    """Make the error for what can't be told, with the option that says it."""
    return InputError(f"{file.label}: {what}. Say {OPTION} {words.replace('COLUMN', column)}.")


def _said(column: str, said: SaidMeaning, file: GridFile) -> Meaning:
    hours = None if said.is_running else said.hours
    known, length = f"{OPTION} {column}", (hours or 0) * _HOUR
    if said.kind == INSTANT or said.is_running or said.stamp == "end":
        return Meaning(said.kind, hours, 0, "said", known)
    if said.stamp == "start":
        return Meaning(said.kind, hours, length, "said", known, "start")
    if _at_middle(file, length):
        return Meaning(said.kind, hours, length // 2, "said", known, "middle")
    if length >= 86400:
        what = f"{column} is over {said.hours} h, and nothing tells whether they end at the stamp"
        raise ask(file, column, what, "COLUMN=... with @start or @end")
    return Meaning(said.kind, hours, 0, "said", known)


def _at_middle(file: GridFile, length: int | None) -> bool:
    """Whether stamps stand in the middle of whole hours, ``length`` seconds, from 00 UTC on."""
    if not length or length % _HOUR:
        return False
    return bool((file.seconds % length == length // 2).all())


def _daily(column: str, file: GridFile) -> Meaning | None:
    """A daily statistic of the Climate Data Store (earthkit-transforms), by the file's history.

    Its stamp is the start of the day; with a time shift it's the LOCAL day's, and the day began
    that much earlier in UTC.
    """
    found = re.findall(r"daily_(\w+?)\(([^\n]*)", file.history)
    if not found:
        return None
    function, arguments = found[-1]
    how = re.search(r"how\s*=\s*['\"]?(?:np\.|nan)?(\w+)", arguments)
    word = how[1] if function == "reduce" and how else function
    kind = {"mean": MEAN, "average": MEAN, "sum": SUM, "max": MAX, "min": MIN}.get(word)
    line = f"history: daily_{function}, {word}"
    if kind is None:
        what = f"{column} is a daily {word} ({line}); expected mean, max, min or sum"
        raise ask(file, column, what, "COLUMN=mean:24h@start to take it as it is")
    if file.spacing is not None and file.spacing % 86400:
        what = (
            f"the history calls it a daily {word}, but stamps are {file.spacing / _HOUR:g} h apart"
        )
        raise ask(file, column, what, "COLUMN=instant, hourly or what else it is")
    shift = _time_shift(column, arguments, file)
    evidence = line + (f", time_shift {shift / _HOUR:g} h" if shift else "")
    return Meaning(kind, 24, 86400 - shift, "file", evidence, "start")


def _time_shift(column: str, arguments: str, file: GridFile) -> int:
    """Seconds that were added to UTC before the days were cut: history and attribute must agree."""
    match = re.search(r"time_shift['\"]?\s*[:=]\s*(\{[^}]*\}|['\"][^'\"]*['\"])", arguments)
    told = [match[1]] if match else []
    if file.time_shift is not None:
        told.append(repr(file.time_shift))
    found = []
    for text in told:
        try:
            value = ast.literal_eval(text)
            found.append(pd.Timedelta(**value) if isinstance(value, dict) else pd.Timedelta(value))
        except (ValueError, SyntaxError, TypeError) as error:
            what = f"the time shift of {column} can't be read: {text}"
            raise ask(file, column, what, "COLUMN=mean:24h@start or what else") from error
    if len({int(shift.total_seconds()) for shift in found}) > 1:
        what = f"history and attribute tell two time shifts ({', '.join(map(str, found))})"
        raise ask(file, column, what, "COLUMN=mean:24h@start (days of UTC) or leave it out")
    return int(found[0].total_seconds()) if found else 0


def _cell_method(cell_methods: str) -> str | None:
    match = re.search(r"\b(?:valid_)?time\d*\s*:\s*(\w+)", cell_methods)
    kinds = {
        "mean": MEAN, "sum": SUM, "maximum": MAX, "max": MAX, "minimum": MIN, "min": MIN,
        "point": INSTANT,
    }  # fmt: skip
    return kinds.get(match[1]) if match else None


def _by_bounds(variable: Variable, file: GridFile) -> Meaning | None:
    if file.bounds is None:
        return None
    kind = _cell_method(variable.cell_methods)
    widths = np.unique(file.bounds[:, 1] - file.bounds[:, 0])
    shifts = np.unique(file.bounds[:, 1] - file.seconds)
    if kind == INSTANT or (len(widths) == 1 and widths[0] == 0):
        return Meaning(INSTANT, None, 0, "file", "time bounds and cell methods")
    if len(widths) > 1 or len(shifts) > 1 or widths[0] < 0 or widths[0] % _HOUR:
        what = (
            f"the time bounds of {variable.column} span {widths[0] / _HOUR:g} to "
            f"{widths[-1] / _HOUR:g} h and lie unlike around their stamps; expected one span of "
            "whole hours"
        )
        raise ask(file, variable.column, what, "COLUMN=mean:24h@start or what else it is")
    length, shift = int(widths[0]), int(shifts[0])
    order = np.argsort(file.bounds[:, 0], kind="stable")
    gap = most_common(file.bounds[order[1:], 0] - file.bounds[order[:-1], 1]) or 0
    if gap > 0 and length + gap == file.spacing:
        # CDO's days of hourly stamps: bounds from the first stamp of the day to its last.
        length, shift = length + gap, shift + gap
    named = step_type(variable.name, variable.step_type)
    known: KnownBy = "file" if kind or variable.step_type or named != INSTANT else "inferred"
    kind = kind or (MEAN if named == INSTANT else named)
    stamp = {0: "end", length: "start"}.get(shift, "middle")
    evidence = f"time bounds of {widths[0] / _HOUR:g} h" + (
        f", cell methods {variable.cell_methods!r}" if variable.cell_methods else ""
    )
    return Meaning(kind, length // _HOUR, shift, known, evidence, stamp)


def _by_cell_methods(variable: Variable, file: GridFile) -> Meaning | None:
    kind = _cell_method(variable.cell_methods)
    evidence = f"cell methods {variable.cell_methods!r}"
    averaged = re.search(r"time[- ]averaged|\btavg\d", file.title.lower())
    if kind is None and averaged:
        kind, evidence = MEAN, f"title: {averaged[0]}"
    if kind is None or kind == variable.step_type:
        return None
    if kind == INSTANT:
        return Meaning(INSTANT, None, 0, "file", evidence)
    length = file.spacing
    if length is not None and _at_middle(file, length):
        return Meaning(kind, length // _HOUR, length // 2, "file", evidence, "middle")
    hours = f"{length // _HOUR}h" if length else "1h"
    words = {MEAN: "mean", SUM: "sum", MAX: "max", MIN: "min"}[kind]
    what = (
        f"{variable.column} is a {words} over time ({evidence}), and nothing tells over which hours"
    )
    raise ask(file, variable.column, what, f"COLUMN={words}:{hours}@start or {words}:{hours}@end")


def _by_name(variable: Variable, file: GridFile) -> Meaning:
    told, window, column = variable.step_type, variable.window, variable.column
    kind = step_type(variable.name, told)
    if window is not None and not told:
        return Meaning(SUM, window, 0, "file", f"the variable's name ends in {window} h")
    known: KnownBy = "file" if told or file.is_grib or kind != INSTANT else "assumed"
    evidence = f"GRIB step type {told}" if told else f"{kind} by the name {variable.name}"
    is_bare = not told and not file.is_grib
    if is_bare and file.spacing == _HOUR and _at_middle(file, _HOUR):
        evidence = "hourly stamps at half past: the hour around them"
        kind = MEAN if kind == INSTANT else kind
        return Meaning(kind, 1, 1800, "inferred", evidence, "middle")
    if is_bare and file.spacing is not None and file.spacing >= 86400:
        what = f"{column} comes once a day, and nothing tells which hours a value stands for"
        words = "COLUMN=instant, mean:24h@start (the day begins at the stamp), max:24h@start, ..."
        if kind == SUM:
            words = (
                "COLUMN=sum:24h@start (the day begins at the stamp), sum:24h@end or mean:24h@..."
            )
        raise ask(file, column, what, words)
    return Meaning(kind, None, 0, known, evidence)
