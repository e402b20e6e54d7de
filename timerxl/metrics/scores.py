"""Scores of a yes/no forecast with a probability: one function each, and one table of them all.

A window is "rain" (label 1) or "dry" (label 0); the forecast is P(rain), and rain is predicted
where P(rain) >= threshold. Where a denominator is zero a score is 0, as in scikit-learn with
``zero_division=0``; only ``roc_auc`` is NaN, because there's no ranking of one class.
``docs/metrics.md`` says what the forecast "always rain" gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from timerxl.config import InputError


@dataclass(frozen=True)
class RainTable:
    """The 2 x 2 contingency table: how many windows of each kind (a count, no unit)."""

    hits: int
    false_alarms: int
    misses: int
    correct_negatives: int

    @property
    def total(self) -> int:
        return self.hits + self.false_alarms + self.misses + self.correct_negatives


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def precision(table: RainTable) -> float:
    """hits / (hits + false alarms); 0 to 1, best 1.

    Also "success ratio", 1 - false alarm ratio. Wilks (2011), Statistical Methods in the
    Atmospheric Sciences, section 8.2.
    """
    return _ratio(table.hits, table.hits + table.false_alarms)


def recall(table: RainTable) -> float:
    """hits / (hits + misses); 0 to 1, best 1.

    Also "probability of detection" or hit rate. Wilks (2011), section 8.2.
    """
    return _ratio(table.hits, table.hits + table.misses)


def _f1(hits: int, wrong: int) -> float:
    return _ratio(2 * hits, 2 * hits + wrong)


def f1(table: RainTable) -> float:
    """2 hits / (2 hits + false alarms + misses); 0 to 1, best 1.

    Harmonic mean of precision and recall of rain. Blind to correct negatives: "always rain" at
    base rate p gets 2p / (1 + p). van Rijsbergen (1979), Information Retrieval, chapter 7; also
    Dice (1945).
    """
    return _f1(table.hits, table.false_alarms + table.misses)


def macro_f1(table: RainTable) -> float:
    """(F1 of rain + F1 of dry) / 2; 0 to 1, best 1.

    The mean of the two F1, not the F1 of mean precision and recall: Opitz & Burst (2019),
    arXiv:1911.03347. Both classes count, also one that never came.
    """
    wrong = table.false_alarms + table.misses
    return (_f1(table.hits, wrong) + _f1(table.correct_negatives, wrong)) / 2


def accuracy(table: RainTable) -> float:
    """(hits + correct negatives) / all; 0 to 1, best 1.

    "Proportion correct". Finley (1884); Wilks (2011), section 8.2.
    """
    return _ratio(table.hits + table.correct_negatives, table.total)


def balanced_accuracy(table: RainTable) -> float:
    """Mean of the recall of rain and the recall of dry; 0 to 1, best 1, no skill 0.5.

    Over the classes that came, if only one did. Equals (Peirce skill score + 1) / 2. Brodersen et
    al. (2010), ICPR, doi:10.1109/ICPR.2010.764.
    """
    came = [
        (table.hits, table.hits + table.misses),
        (table.correct_negatives, table.correct_negatives + table.false_alarms),
    ]
    parts = [right / number for right, number in came if number]
    return _ratio(sum(parts), len(parts))


def _matthews(hits: Any, false_alarms: Any, misses: Any, correct_negatives: Any) -> Any:
    # Two square roots: the product of four counts of a million overflows 64-bit integers.
    rain, dry = hits + misses, false_alarms + correct_negatives
    forecast_rain, forecast_dry = hits + false_alarms, misses + correct_negatives
    spread = np.sqrt(1.0 * rain * dry) * np.sqrt(1.0 * forecast_rain * forecast_dry)
    cross = 1.0 * hits * correct_negatives - 1.0 * false_alarms * misses
    return np.where(spread > 0, cross / np.where(spread > 0, spread, 1.0), 0.0)


def mcc(table: RainTable) -> float:
    """Matthews correlation (phi) of forecast and label; -1 to 1, best 1, no skill 0.

    (hits x correct negatives - false alarms x misses) / sqrt(product of the four margins); 0 for a
    forecast that never changes. Matthews (1975), doi:10.1016/0005-2795(75)90109-9.
    """
    return float(_matthews(table.hits, table.false_alarms, table.misses, table.correct_negatives))


def predicted_rain_share(table: RainTable) -> float:
    """(hits + false alarms) / all; 0 to 1, best the base rate.

    The sign of a collapsed model: exactly 1 or 0. Divided by the base rate it is the frequency
    bias of Wilks (2011), section 8.2.
    """
    return _ratio(table.hits + table.false_alarms, table.total)


def roc_auc(probability: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """P(a rainy window got a higher P(rain) than a dry one), ties half; 0 to 1, no skill 0.5.

    Needs no threshold. NaN where only one class came. Hanley & McNeil (1982),
    doi:10.1148/radiology.143.1.7063747; Mason & Graham (2002), doi:10.1256/003590002320603584.
    """
    if label.min() == label.max():
        return math.nan
    return float(roc_auc_score(label, probability))


def brier(probability: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """mean((P(rain) - label)^2); 0 to 1, best 0; the constant base rate p gets p (1 - p).

    The one-sided form in use today, half of the sum over both classes in Brier (1950),
    doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    return float(np.mean(np.square(probability - label)))


TABLE_SCORES: dict[str, Callable[[RainTable], float]] = {
    "f1": f1,
    "macro_f1": macro_f1,
    "precision": precision,
    "recall": recall,
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "mcc": mcc,
    "predicted_rain_share": predicted_rain_share,
}
PROBABILITY_SCORES: dict[str, Callable[[NDArray[np.float64], NDArray[np.int64]], float]] = {
    "roc_auc": roc_auc,
    "brier": brier,
}


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
    probability: ArrayLike, label: ArrayLike, threshold: float = 0.5
) -> dict[str, float]:
    """Every score of ``TABLE_SCORES`` and ``PROBABILITY_SCORES`` by its key.

    ``probability`` [n] is P(rain) from 0 to 1, ``label`` [n] is 0 or 1, both free of NaN; rain is
    predicted where P(rain) >= ``threshold``. Raises InputError as ``checked_forecast`` does, on
    empty arrays and on a threshold outside 0 to 1.
    """
    given, truth = checked_forecast(probability, label)
    if not given.size:
        raise InputError("there are no windows to score; expected at least one.")
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold is {threshold}; expected a probability from 0 to 1.")
    table = rain_table(given, truth, threshold)
    return {
        **{key: score(table) for key, score in TABLE_SCORES.items()},
        **{key: score(given, truth) for key, score in PROBABILITY_SCORES.items()},
    }


def best_threshold(probability: ArrayLike, label: ArrayLike) -> float:
    """The threshold with the highest MCC; tune it on validation, never on test.

    Candidates are the midpoints between neighbouring distinct probabilities, so that both classes
    are always predicted: "always rain" can't win. Of equal ones the nearest to 0.5 wins. 0.5 where
    nothing can be chosen (one distinct probability, or one class among the labels). Raises
    InputError as ``checked_forecast`` does.
    """
    given, truth = checked_forecast(probability, label)
    distinct, place = np.unique(given, return_inverse=True)
    if distinct.size < 2 or truth.min() == truth.max():
        return 0.5
    rain_below = np.cumsum(np.bincount(place, weights=truth))[:-1]
    dry_below = np.cumsum(np.bincount(place, weights=1 - truth))[:-1]
    rain, dry = float(truth.sum()), float((1 - truth).sum())
    reached = _matthews(rain - rain_below, dry - dry_below, rain_below, dry_below)
    lower, upper = distinct[:-1], distinct[1:]
    middle = lower + (upper - lower) / 2
    # Between adjacent floats the midpoint rounds to one of them; only the upper one separates.
    middle = np.where(middle > lower, middle, upper)
    # Equal tables by symmetry differ in the last bits: those are ties as well.
    best = middle[reached >= reached.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])
