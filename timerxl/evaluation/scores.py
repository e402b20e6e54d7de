"""Every score of a rain forecast by its key, and the threshold that makes P(rain) a yes or no.

A window is "rain" (label 1) or "dry" (label 0); the forecast is P(rain), and rain is predicted
where P(rain) >= threshold. The scores themselves are in ``table_scores`` and
``probability_scores``; ``docs/metrics.md`` says what the forecast "always rain" gets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timerxl.config import InputError
from timerxl.evaluation.probability_scores import PROBABILITY_SCORES, brier_skill_score
from timerxl.evaluation.table_scores import TABLE_SCORES, RainTable

__all__ = [
    "LOWER_IS_BETTER",
    "NOT_FOR_SELECTION",
    "PERFECT",
    "PROBABILITY_SCORES",
    "TABLE_SCORES",
    "RainTable",
    "best_threshold",
    "checked_forecast",
    "forecast_scores",
    "rain_table",
]

LOWER_IS_BETTER = frozenset({"brier", "ece", "far"})
# What a perfect forecast gets; the share of rain forecast has no such value of its own.
PERFECT: dict[str, float] = {
    key: 0.0 if key in LOWER_IS_BETTER else 1.0
    for key in (*TABLE_SCORES, *PROBABILITY_SCORES)
    if key != "predicted_rain_share"
}
# Scores that a forecast without skill can win, and so none to choose a model by: "always rain"
# has the best recall, one sure window the best false alarm ratio, and the base rate an ECE of 0.
# The bias is right at 1, neither higher nor lower.
NOT_FOR_SELECTION = frozenset({"predicted_rain_share", "recall", "pod", "far", "bias", "ece"})


def checked_forecast(
    probability: ArrayLike, label: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """P(rain) [n] as float64 and labels [n] as int64; empty arrays pass.

    Raises InputError on other shapes, on a probability that's NaN or outside 0 to 1 (a logit, say)
    and on a label other than 0 and 1.
    """
    try:
        given, truth = np.asarray(probability, np.float64), np.asarray(label, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"P(rain) and the labels must be one number a window: {error}") from error
    if given.ndim != 1 or given.shape != truth.shape:
        raise InputError(
            f"P(rain) has shape {given.shape} and the labels {truth.shape}; expected one "
            "probability and one label a window: pass softmax(logits)[:, 1]."
        )
    wrong = np.flatnonzero(~((given >= 0) & (given <= 1)))
    if wrong.size:
        raise InputError(
            f"{wrong.size} of {given.size} predictions aren't probabilities (the first: "
            f"{given[wrong[0]]} at position {wrong[0]}); expected P(rain) from 0 to 1, no NaN: "
            "pass softmax(logits)[:, 1], and look for a diverged model where it's NaN."
        )
    wrong = np.flatnonzero((truth != 0) & (truth != 1))
    if wrong.size:
        raise InputError(
            f"{wrong.size} of {truth.size} labels are neither 0 nor 1 (the first: "
            f"{truth[wrong[0]]} at position {wrong[0]}); drop windows without a label."
        )
    return given, truth.astype(np.int64)


def rain_table(
    probability: NDArray[np.float64], label: NDArray[np.int64], threshold: float
) -> RainTable:
    """Count the windows; rain is predicted where P(rain) >= threshold."""
    forecast, rain = probability >= threshold, label == 1
    hits = int(np.count_nonzero(forecast & rain))
    false_alarms = int(np.count_nonzero(forecast)) - hits
    misses = int(np.count_nonzero(rain)) - hits
    return RainTable(hits, false_alarms, misses, rain.size - hits - false_alarms - misses)


def forecast_scores(
    probability: ArrayLike,
    label: ArrayLike,
    threshold: float = 0.5,
    base_rate: float | None = None,
) -> dict[str, float]:
    """Every score of ``TABLE_SCORES`` and ``PROBABILITY_SCORES`` by its key.

    ``probability`` [n] is P(rain) from 0 to 1, ``label`` [n] is 0 or 1, both free of NaN; rain is
    predicted where P(rain) >= ``threshold``. ``base_rate``, the share of rain in training, is the
    reference of the Brier skill score; without it the share of rain in these labels is. Raises
    InputError as ``checked_forecast`` does, on empty arrays and on a threshold or base rate outside
    0 to 1.
    """
    given, truth = checked_forecast(probability, label)
    if not given.size:
        raise InputError("there are no windows to score; expected at least one.")
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold is {threshold}; expected a probability from 0 to 1.")
    if base_rate is not None and not 0 <= base_rate <= 1:
        raise InputError(f"base_rate is {base_rate}; expected the share of rain, 0 to 1.")
    table = rain_table(given, truth, threshold)
    found = {key: float(score(table)) for key, score in TABLE_SCORES.items()}
    found |= {key: score(given, truth) for key, score in PROBABILITY_SCORES.items()}
    if base_rate is not None:
        found["bss"] = brier_skill_score(given, truth, base_rate)
    return found


def best_threshold(probability: ArrayLike, label: ArrayLike, score: str = "mcc") -> float:
    """The threshold with the highest ``score``; tune it on validation, never on test.

    ``score`` is a key of ``TABLE_SCORES`` of which more is better. Candidates are the midpoints
    between neighbouring distinct probabilities, so that both classes are always predicted: "always
    rain" can't win. Of equal ones the nearest to 0.5 wins. 0.5 where nothing can be chosen (one
    distinct probability, one class among the labels, or the score undefined everywhere). Raises
    InputError as ``checked_forecast`` does, and on another score.
    """
    allowed = [key for key in TABLE_SCORES if key in PERFECT and key not in ("far", "bias")]
    if score not in allowed:
        raise InputError(f"a threshold can't maximise {score!r}; expected one of {allowed}.")
    given, truth = checked_forecast(probability, label)
    distinct, place = np.unique(given, return_inverse=True)
    if distinct.size < 2 or truth.min() == truth.max():
        return 0.5
    rain_below = np.cumsum(np.bincount(place, weights=truth))[:-1]
    dry_below = np.cumsum(np.bincount(place, weights=1 - truth))[:-1]
    rain, dry = float(truth.sum()), float((1 - truth).sum())
    reached = TABLE_SCORES[score](
        RainTable(rain - rain_below, dry - dry_below, rain_below, dry_below)
    )
    known = ~np.isnan(reached)
    if not known.any():
        return 0.5
    lower, upper = distinct[:-1], distinct[1:]
    middle = lower + (upper - lower) / 2
    # Between adjacent floats the midpoint rounds to one of them; only the upper one separates.
    middle = np.where(middle > lower, middle, upper)
    # Equal tables by symmetry differ in the last bits: those are ties as well.
    best = middle[known & (reached >= reached[known].max() - 1e-12)]
    return float(best[np.argmin(np.abs(best - 0.5))])
