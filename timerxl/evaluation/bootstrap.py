"""How far may a score be off by chance? Intervals from resampled blocks of time.

Rain comes in spells and in several regions at once: windows near each other in time tell the same
story, and intervals for independent windows are far too narrow. Here whole blocks of calendar time
are drawn, each with all regions' windows in it; ``time_blocks`` draws them, ``intervals`` makes
intervals of the resampled scores, and both name their sources.

n windows at T distinct issue times, B resamples. The default block is 14 days; where rain depends
on itself for longer, blocks must be longer. The interval holds the uncertainty of a finite test
period, not that of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timerxl.config import InputError
from timerxl.evaluation.intervals import Difference, Interval, Resamples
from timerxl.evaluation.probability_scores import equal_count_bins
from timerxl.evaluation.scores import checked_forecast, forecast_scores
from timerxl.evaluation.table_scores import TABLE_SCORES, RainTable, Value
from timerxl.evaluation.time_blocks import (
    Times,
    block_resamples,
    calendar_of,
    check_times,
    num_blocks_of,
    why_no_interval,
)

__all__ = [
    "Difference",
    "Interval",
    "Resamples",
    "block_resamples",
    "bootstrap_scores",
    "paired_differences",
    "resample_scores",
    "why_no_interval",
]

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


def bootstrap_scores(
    forecasts: Mapping[str, ArrayLike],
    label: ArrayLike,
    issue_times: Times,
    thresholds: Mapping[str, float],
    *,
    base_rate: float | None = None,
    block_days: float = 14,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """95 % intervals of every score: name -> key -> interval. Arguments of ``resample_scores``."""
    scored = resample_scores(
        forecasts,
        label,
        issue_times,
        thresholds,
        base_rate=base_rate,
        block_days=block_days,
        num_resamples=num_resamples,
        seed=seed,
    )
    return {name: {key: s.interval() for key, s in of.items()} for name, of in scored.items()}


def paired_differences(
    forecasts: Mapping[str, ArrayLike],
    label: ArrayLike,
    issue_times: Times,
    thresholds: Mapping[str, float],
    *,
    reference: str = "gradient_boosting",
    base_rate: float | None = None,
    block_days: float = 14,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Difference]]:
    """Every score minus that of ``reference`` on the SAME blocks, with 95 % intervals.

    Narrower than two intervals side by side: a wet fortnight is hard for both. An interval without
    0 says that the two differ on periods like this one. Arguments of ``resample_scores``; raises
    InputError on an unknown reference.
    """
    if reference not in forecasts:
        raise InputError(f"no forecast {reference!r}; expected one of {', '.join(forecasts)}.")
    scored = resample_scores(
        forecasts,
        label,
        issue_times,
        thresholds,
        base_rate=base_rate,
        block_days=block_days,
        num_resamples=num_resamples,
        seed=seed,
    )
    other = scored.pop(reference)
    gaps = {n: {key: s.minus(other[key]) for key, s in of.items()} for n, of in scored.items()}
    return {name: {key: _difference(gap) for key, gap in of.items()} for name, of in gaps.items()}


def _difference(gap: Resamples) -> Difference:
    interval = gap.interval()
    return Difference(interval.low, interval.high, interval.reason, estimate=gap.estimate)


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
    for some in _in_parts(weights):
        weight = some[:, place[order]].astype(np.float64)
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


def _in_parts(weights: NDArray[np.int32], rows: int = 50) -> Iterator[NDArray[np.int32]]:
    # 50 x 6,000 doubles stay in the cache of a core; all at once is three times slower.
    return (weights[i : i + rows] for i in range(0, len(weights), rows))
