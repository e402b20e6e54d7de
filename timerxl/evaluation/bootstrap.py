"""Confidence intervals of scores from resampled blocks of time.

Rain comes in spells and in several regions at once, so intervals for independent windows are far
too narrow. Whole blocks of calendar time are drawn with replacement, each with all regions' windows
in it: the moving-block bootstrap of Künsch (1989), doi:10.1214/aos/1176347265, wrapped around at
the end of the sample so that every time is drawn as often as any other ("circular": Politis &
Romano 1992, in Exploring the Limits of Bootstrap). For forecast verification: Wilks (1997),
doi:10.1175/1520-0442(1997)010<0065:RHTFAF>2.0.CO;2.

The interval is the percentile interval of the resampled scores, widened for the small number of
blocks K ("expanded percentile": Hesterberg 2015, doi:10.1080/00031305.2015.1089789): instead of the
quantiles at 2.5 and 97.5 % those at Phi(-c) and Phi(c), with c = f sqrt(K / (K - 1)) times the
quantile of Student's t with K - 1 degrees of freedom. Blocks cut the dependence at their ends, and
the resampled variance V is too small by about 1 / block length: f^2 = (2 V - V of blocks half as
long) / V makes up for it, from 1 to 2 (Politis & Romano 1995,
doi:10.1111/j.1467-9892.1995.tb00223.x). ``benchmarks/bootstrap_coverage.py`` measures how often
95 % intervals hold the true score; docs/metrics.md has its table.

n windows at T distinct issue times, B resamples. The default block is 14 days; where rain depends
on itself for longer, blocks must be longer. The interval holds the uncertainty of a finite test
period, not that of training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped]

from timerxl.config import InputError
from timerxl.evaluation.scores import (
    TABLE_SCORES,
    RainTable,
    Value,
    checked_forecast,
    equal_count_bins,
    forecast_scores,
)

MIN_BLOCKS = 4
Times = NDArray[np.datetime64]


def calendar_of(issue_times: Times) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Distinct times in seconds from the first [T], the place [n] of each window, and the span."""
    seconds = np.asarray(issue_times).astype("datetime64[s]").astype(np.int64)
    distinct, place = np.unique(seconds, return_inverse=True)
    step = int(np.diff(distinct).min()) if distinct.size > 1 else 0
    return distinct - distinct[0], place, int(distinct[-1] - distinct[0]) + step


def num_blocks_of(issue_times: Times, block_days: float = 14) -> float:
    """How many blocks' worth of time the sample spans, less those without any window."""
    times, _, span = calendar_of(issue_times)
    length = block_days * 86400
    return float(min(span / length, len(np.unique(times // length))))


def why_no_interval(issue_times: Times, block_days: float = 14) -> str | None:
    """The reason if the sample holds fewer than ``MIN_BLOCKS`` blocks of time with windows."""
    blocks = num_blocks_of(issue_times, block_days)
    if blocks >= MIN_BLOCKS:
        return None
    return (
        f"the windows span {blocks:.3g} blocks of {block_days:g} days; "
        f"an interval needs {MIN_BLOCKS} or more"
    )


def block_resamples(
    issue_times: Times, block_days: float = 14, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.int32]:
    """How often each distinct issue time, ascending, is drawn in each resample: [B, T].

    ``issue_times`` [n] may repeat (regions) and have gaps. Blocks begin anywhere in calendar time
    and cover ``block_days``; together they are as long as the sample, the last one cut short. A
    block over a gap brings fewer windows. Raises InputError on no times or NaT, on numbers that
    aren't above 0, and where ``why_no_interval`` gives a reason.
    """
    check_times(issue_times)
    if not (block_days > 0 and num_resamples > 0):
        raise InputError(
            f"block_days is {block_days} and num_resamples {num_resamples}; expected above 0."
        )
    if reason := why_no_interval(issue_times, block_days):
        raise InputError(f"{reason}.")
    times, _, span = calendar_of(issue_times)
    length = round(block_days * 86400)
    num_blocks = -(-span // length)
    lengths = np.full(num_blocks, length)
    lengths[-1] = span - (num_blocks - 1) * length
    starts = np.random.default_rng(seed).integers(0, span, (num_resamples, num_blocks))
    around = np.concatenate([times, times + span])
    first = np.searchsorted(around, starts)
    behind = np.searchsorted(around, starts + lengths)
    # +1 where a block begins and -1 behind its end: the running sum counts the covering blocks.
    change = np.zeros((num_resamples, len(around) + 1), np.int32)
    row = np.arange(num_resamples)[:, None]
    np.add.at(change, (row, first), 1)
    np.add.at(change, (row, behind), -1)
    cover = np.cumsum(change[:, :-1], axis=1, dtype=np.int32)
    return cover[:, : len(times)] + cover[:, len(times) :]


def check_times(issue_times: Times) -> None:
    given = np.asarray(issue_times)
    if given.ndim != 1 or not given.size or given.dtype.kind != "M" or np.isnat(given).any():
        raise InputError(
            f"issue_times have shape {given.shape} and type {given.dtype}; expected one time stamp "
            "(datetime64, no NaT) a window, and at least one window."
        )


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; both None where there is none, and ``reason`` says why."""

    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Difference(Interval):
    """``estimate`` is the score minus that of the reference on the same windows."""

    estimate: float = math.nan


@dataclass(frozen=True)
class Resamples:
    """A score of the sample, and of every resample [B] (NaN where undefined).

    ``half_values`` [B] are those of blocks half as long.
    """

    estimate: float
    values: Floats
    half_values: Floats
    num_blocks: float
    reason: str | None = None  # why there are no resamples, with ``values`` empty

    def minus(self, other: Resamples) -> Resamples:
        """The difference on the same blocks."""
        return Resamples(
            self.estimate - other.estimate,
            self.values - other.values,
            self.half_values - other.half_values,
            self.num_blocks,
            self.reason,
        )

    def interval(self, confidence: float = 0.95) -> Interval:
        """The expanded percentile interval.

        None without resamples, for an undefined score, and where more than 5 % of the resamples
        leave it undefined.
        """
        if self.reason:
            return Interval(None, None, self.reason)
        if math.isnan(self.estimate):
            return Interval(None, None, "the score is undefined on these windows")
        undefined = float(np.isnan(self.values).mean())
        if undefined > 0.05:
            return Interval(
                None, None, f"the score is undefined in {undefined:.0%} of the resamples"
            )
        freedom = self.num_blocks - 1
        quantile = float(stdtrit(freedom, 0.5 + confidence / 2))
        reach = math.sqrt(self.num_blocks / freedom) * quantile * self._widening()
        low, high = np.nanquantile(self.values, [ndtr(-reach), ndtr(reach)])
        return Interval(float(low), float(high))

    def _widening(self) -> float:
        if np.isnan(self.half_values).all():
            return 1.0
        long, short = float(np.nanvar(self.values)), float(np.nanvar(self.half_values))
        # Without spread, as for "always rain", there's nothing to widen.
        return math.sqrt(min(max(2 - short / long, 1.0), 2.0)) if long > 0 else 1.0


NUM_BINS = 10
Floats = NDArray[np.float64]


def resample_scores(
    forecasts: Mapping[str, ArrayLike],
    label: ArrayLike,
    issue_times: Times,
    thresholds: Mapping[str, float],
    *,
    base_rate: float | None = None,
    block_days: float = 14,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Resamples]]:
    """Every score of ``forecast_scores``, of the sample and of B resamples: name -> key -> both.

    ``forecasts`` [n] each, ``label`` [n] and ``issue_times`` [n] describe the same windows, in any
    order, and all forecasts get the same blocks. ``thresholds`` has one for each name; they and the
    bins of ``ece`` stay those of the sample. ``base_rate`` is the reference of ``bss``; without it
    each resample has its own. With too few blocks there are no resamples, with the reason. Raises
    InputError as ``forecast_scores`` and ``block_resamples`` do.
    """
    check_times(issue_times)
    if missing := sorted(set(forecasts) - set(thresholds)):
        raise InputError(f"no threshold for {', '.join(missing)}; expected one for each forecast.")
    place, num_blocks = calendar_of(issue_times)[1], num_blocks_of(issue_times, block_days)
    if place.size != np.size(label):
        raise InputError(f"{place.size} issue times and {np.size(label)} labels; expected as many.")
    reason = why_no_interval(issue_times, block_days)
    draws = []
    if not reason:
        draws = [
            block_resamples(issue_times, days, num_resamples, seed)
            for days in (block_days, block_days / 2)
        ]
    found: dict[str, dict[str, Resamples]] = {}
    for name, forecast in forecasts.items():
        probability, truth = checked_forecast(forecast, label)
        sample = forecast_scores(probability, truth, thresholds[name], base_rate)
        resampled: list[dict[str, Floats]] = [
            _sum_scores(probability, truth, thresholds[name], base_rate, weights, place)
            | _rank_scores(probability, truth, weights, place)
            for weights in draws
        ] or [dict.fromkeys(sample, np.empty(0))] * 2
        values, half_values = resampled
        found[name] = {
            key: Resamples(sample[key], values[key], half_values[key], num_blocks, reason)
            for key in sample
        }
    return found


def paired_differences(
    forecasts: Mapping[str, ArrayLike],
    label: ArrayLike,
    issue_times: Times,
    thresholds: Mapping[str, float],
    *,
    reference: str = "gradient_boosting",
    **options: Any,
) -> dict[str, dict[str, Difference]]:
    """Every score minus that of ``reference`` on the SAME blocks, with 95 % intervals.

    Narrower than two intervals side by side: a wet fortnight is hard for both. An interval without
    0 says that the two differ on periods like this one. Arguments of ``resample_scores``; raises
    InputError on an unknown reference.
    """
    if reference not in forecasts:
        raise InputError(f"no forecast {reference!r}; expected one of {', '.join(forecasts)}.")
    scored = resample_scores(forecasts, label, issue_times, thresholds, **options)
    other = scored.pop(reference)
    found: dict[str, dict[str, Difference]] = {}
    for name, of_name in scored.items():
        found[name] = {}
        for key, of_key in of_name.items():
            gap = of_key.minus(other[key])
            ends = gap.interval()
            found[name][key] = Difference(ends.low, ends.high, ends.reason, gap.estimate)
    return found


def _quotient(part: Floats, whole: Floats) -> Floats:
    """NaN where the denominator is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _sum_scores(
    probability: Floats,
    label: NDArray[np.int64],
    threshold: float,
    base_rate: float | None,
    weights: NDArray[np.int32],
    place: NDArray[np.int64],
) -> dict[str, Floats]:
    """Scores of sums over windows: summed for each time once, then weighted: key -> [B]."""
    rain, says = label == 1, probability >= threshold
    bins = np.arange(NUM_BINS)[:, None] == equal_count_bins(probability, NUM_BINS)
    columns = [rain & says, ~rain & says, rain & ~says, ~rain & ~says]
    columns += [np.square(probability - label), *bins, *(bins * (probability - label))]
    size = weights.shape[1]
    of_time = [np.bincount(place, weights=column, minlength=size) for column in columns]
    sums = weights.astype(np.float64) @ np.stack(of_time, axis=1)
    table = RainTable(*sums[:, :4].T)
    with np.errstate(invalid="ignore"):
        found: dict[str, Value] = {key: score(table) for key, score in TABLE_SCORES.items()}
    share = _quotient(table.hits + table.misses, table.total)
    found["brier"] = _quotient(sums[:, 4], table.total)
    constant = share if base_rate is None else base_rate
    found["bss"] = 1 - _quotient(found["brier"], share * (1 - 2 * constant) + constant**2)
    # n_k / n |mean P - share of rain| of a bin is |sum of P - label| / n.
    found["ece"] = _quotient(np.abs(sums[:, 5 + NUM_BINS :]).sum(axis=1), table.total)
    return found


def _rank_scores(
    probability: Floats,
    label: NDArray[np.int64],
    weights: NDArray[np.int32],
    place: NDArray[np.int64],
) -> dict[str, Floats]:
    """ROC-AUC and average precision [B]: sorted once, then running sums of the weights."""
    order = np.argsort(probability, kind="stable")
    ends = np.flatnonzero(np.diff(probability[order], append=np.inf) > 0)
    roc, precision = [], []
    # 50 x 6,000 doubles stay in the cache of a core; all at once is three times slower.
    for first in range(0, len(weights), 50):
        weight = weights[first : first + 50, place[order]].astype(np.float64)
        # Up to and with each distinct P(rain), of all windows and of the rainy ones.
        every = np.cumsum(weight, axis=1)[:, ends]
        rainy = np.cumsum(weight * label[order], axis=1)[:, ends]
        total, rain = every[:, -1], rainy[:, -1]
        new_every, new_rainy = np.diff(every, prepend=0.0), np.diff(rainy, prepend=0.0)
        dry_below = (every - new_every) - (rainy - new_rainy)
        pairs = (new_rainy * (dry_below + (new_every - new_rainy) / 2)).sum(axis=1)
        roc.append(_quotient(pairs, rain * (total - rain)))
        said = total[:, None] - every + new_every
        right = rain[:, None] - rainy + new_rainy
        steps = new_rainy * right / np.maximum(said, 1.0)  # no rain is new where nothing is left
        precision.append(_quotient(steps.sum(axis=1), rain * (total > rain)))
    return {"roc_auc": np.concatenate(roc), "pr_auc": np.concatenate(precision)}
