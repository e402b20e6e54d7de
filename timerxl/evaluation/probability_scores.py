"""Scores of P(rain) itself: they need no threshold.

Every function takes P(rain) [n], float64 from 0 to 1, and labels [n], int64 of 0 and 1, as
``scores.checked_forecast`` gives them, with n > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from timerxl.config import InputError

Probability = NDArray[np.float64]
Label = NDArray[np.int64]


def roc_auc(probability: Probability, label: Label) -> float:
    """P(a rainy window got a higher P(rain) than a dry one), ties half; 0 to 1, no skill 0.5.

    Needs no threshold. NaN where only one class came. Hanley & McNeil (1982),
    doi:10.1148/radiology.143.1.7063747; Mason & Graham (2002), doi:10.1256/003590002320603584.
    """
    if label.min() == label.max():
        return math.nan
    return float(roc_auc_score(label, probability))


def pr_auc(probability: Probability, label: Label) -> float:
    """Average precision, sum of (R_k - R_{k-1}) P_k over the thresholds; 0 to 1, best 1.

    R and P are recall and precision at the k-th distinct P(rain) from above; steps, not trapezoids
    (Davis & Goadrich 2006, doi:10.1145/1143844.1143874). No skill gets the base rate, "always
    rain" too. NaN where only one class came. scikit-learn's ``average_precision_score``.
    """
    if label.min() == label.max():
        return math.nan
    return float(average_precision_score(label, probability))


def brier(probability: Probability, label: Label) -> float:
    """mean((P(rain) - label)^2); 0 to 1, best 0; the constant base rate p gets p (1 - p).

    The one-sided form in use today, half of the sum over both classes in Brier (1950),
    doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    return float(np.mean(np.square(probability - label)))


def brier_skill_score(
    probability: Probability, label: Label, reference: Probability | float | None = None
) -> float:
    """1 - Brier score / Brier score of the reference; up to 1, best 1, no skill 0.

    ``reference`` is another forecast [n] or a constant one, such as the base rate of training.
    Default is the share of rain in this very sample ("sample climatology"), which no forecaster
    knows beforehand: p (1 - p) is the lowest Brier score of a constant, so that the skill is
    stated cautiously (Mason 2004, doi:10.1175/1520-0493(2004)132<1891:OUCAAR>2.0.CO;2). NaN where
    the reference is perfect. Wilks (2011), section 8.4.
    """
    constant = label.mean() if reference is None else reference
    other = float(np.mean(np.square(constant - label)))
    return 1 - brier(probability, label) / other if other > 0 else math.nan


def bss(probability: Probability, label: Label) -> float:
    """``brier_skill_score`` against the base rate of the scored sample; up to 1, best 1."""
    return brier_skill_score(probability, label)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: for each bin the mean P(rain), the share of rain and the windows."""

    mean_probability: NDArray[np.float64]
    observed_share: NDArray[np.float64]
    num_windows: NDArray[np.int64]


def equal_count_bins(probability: Probability, num_bins: int = 10) -> NDArray[np.int64]:
    """The bin [n], 0 to ``num_bins`` - 1, of every window: as many windows in each as can be.

    Windows of equal P(rain) share the bin of their middle rank, so that the order of the windows
    can't matter; a bin may stay empty then. Raises InputError below one bin.
    """
    if num_bins < 1:
        raise InputError(f"num_bins is {num_bins}; expected 1 or more.")
    _, place, count = np.unique(probability, return_inverse=True, return_counts=True)
    twice_middle_rank = 2 * np.cumsum(count) - count
    return np.asarray((twice_middle_rank * num_bins // (2 * probability.size))[place], np.int64)


def reliability(probability: Probability, label: Label, num_bins: int = 10) -> Reliability:
    """The reliability diagram over ``equal_count_bins``, empty bins left out.

    Wilks (2011), section 8.4; equal counts instead of equal widths: Bröcker & Smith (2007),
    doi:10.1175/WAF993.1.
    """
    place = equal_count_bins(probability, num_bins)
    count = np.bincount(place, minlength=num_bins)
    some = count > 0
    forecast = np.bincount(place, weights=probability, minlength=num_bins)[some] / count[some]
    share = np.bincount(place, weights=label, minlength=num_bins)[some] / count[some]
    return Reliability(forecast, share, count[some])


def ece(probability: Probability, label: Label) -> float:
    """Expected calibration error, sum of n_k / n |mean P(rain) - share of rain| over ten bins.

    0 to 1, best 0. Bins of ``reliability``. It says nothing of skill (a constant base rate gets 0)
    and is above 0 by chance: about 0.8 sqrt(10 mean(P (1 - P)) / n) for a perfectly reliable
    forecast of n independent windows. Naeini et al. (2015), AAAI, doi:10.1609/aaai.v29i1.9602;
    equal counts: Nguyen & O'Connor (2015), doi:10.18653/v1/D15-1182.
    """
    curve = reliability(probability, label)
    gap = np.abs(curve.mean_probability - curve.observed_share)
    return float((curve.num_windows * gap).sum() / curve.num_windows.sum())


PROBABILITY_SCORES: dict[str, Callable[[Probability, Label], float]] = {
    score.__name__: score for score in (roc_auc, pr_auc, brier, bss, ece)
}
