"""Scores of a rain forecast, one function each, and all of them by key.

A window is "rain" (label 1) or "dry" (label 0); the forecast is P(rain), and rain is predicted
where P(rain) >= threshold. ``docs/metrics.md`` says what the forecast "always rain" gets.

``TABLE_SCORES`` are counts of the 2 x 2 table: a hits, b false alarms, c misses, d correct
negatives, n all, numbers or arrays with one entry a table. Where a denominator is zero a score is
0, as in scikit-learn with ``zero_division=0``. Three are NaN instead, because 0 would say something
else: ``far`` (0 is its best), ``bias`` (0 is "never rain") and ``sedi`` (0 is "no skill").

``PROBABILITY_SCORES`` need no threshold: they take P(rain) [n], float64 from 0 to 1, and labels
[n], int64 of 0 and 1, as ``checked_forecast`` returns them, with n > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from timerxl.config import InputError

Count = Any  # a number, or an array with one entry a table
Value = Any  # a float, or an array with one entry a table


@dataclass(frozen=True)
class RainTable:
    """The 2 x 2 contingency table: how many windows of each kind (a count, no unit)."""

    hits: Count
    false_alarms: Count
    misses: Count
    correct_negatives: Count

    @property
    def total(self) -> Count:
        return self.hits + self.false_alarms + self.misses + self.correct_negatives


def _ratio(part: Count, whole: Count, otherwise: float = 0.0) -> Value:
    some = np.asarray(whole) != 0
    found = np.where(some, part / np.where(some, whole, 1), otherwise)
    return found if found.ndim else float(found)


def _cross(table: RainTable) -> Count:
    """ad - bc; in doubles, because counts of a million would overflow integers further on."""
    return 1.0 * table.hits * table.correct_negatives - 1.0 * table.false_alarms * table.misses


def precision(table: RainTable) -> Value:
    """a / (a + b); 0 to 1, best 1; 0 where rain is never forecast.

    Also "success ratio", 1 - false alarm ratio. Wilks (2011), Statistical Methods in the
    Atmospheric Sciences, section 8.2.
    """
    return _ratio(table.hits, table.hits + table.false_alarms)


def recall(table: RainTable) -> Value:
    """a / (a + c); 0 to 1, best 1; 0 where it never rained.

    Also "probability of detection" or hit rate. Wilks (2011), section 8.2.
    """
    return _ratio(table.hits, table.hits + table.misses)


def pod(table: RainTable) -> Value:
    """Probability of detection, a / (a + c): ``recall`` by the forecasters' name; 0 to 1, best 1.

    "Always rain" gets 1. Wilks (2011), section 8.2.
    """
    return recall(table)


def far(table: RainTable) -> Value:
    """False alarm RATIO, b / (a + b); 0 to 1, best 0; NaN where rain is never forecast.

    1 - precision, not the false alarm rate b / (b + d). Wilks (2011), section 8.2; the two names
    are told apart in Barnes et al. (2009), doi:10.1175/2009WAF2222300.1.
    """
    return _ratio(table.false_alarms, table.hits + table.false_alarms, np.nan)


def bias(table: RainTable) -> Value:
    """Frequency bias, (a + b) / (a + c); 0 upward, best 1; NaN where it never rained.

    Above 1 rain is forecast too often; "always rain" gets 1 / base rate. Wilks (2011), section 8.2.
    """
    return _ratio(table.hits + table.false_alarms, table.hits + table.misses, np.nan)


def csi(table: RainTable) -> Value:
    """Critical success index, a / (a + b + c); 0 to 1, best 1; "always rain" gets the base rate.

    Also threat score, ratio of verification (Gilbert 1884). 0 where it neither rained nor was
    forecast to. Schaefer (1990), doi:10.1175/1520-0434(1990)005<0570:TCSIAA>2.0.CO;2.
    """
    return _ratio(table.hits, table.hits + table.false_alarms + table.misses)


def ets(table: RainTable) -> Value:
    """Equitable threat score, (a - r) / (a + b + c - r), r = (a + b)(a + c) / n; -1/3 to 1, best 1.

    r are the hits expected by chance; no skill 0, also where the denominator is zero. Also Gilbert
    skill score. Gilbert (1884); Wilks (2011), section 8.2; computed as
    (ad - bc) / ((b + c) n + ad - bc), which is exactly 0 for a forecast that never changes.
    """
    cross = _cross(table)
    return _ratio(cross, (table.false_alarms + table.misses) * 1.0 * table.total + cross)


def hss(table: RainTable) -> Value:
    """Heidke skill score, 2 (ad - bc) / ((a + c)(c + d) + (a + b)(b + d)); -1 to 1, best 1.

    Accuracy relative to that of chance with the same margins (Cohen's kappa); no skill 0, also
    where the denominator is zero. Heidke (1926); Wilks (2011), section 8.2.
    """
    a, b, c, d = table.hits, table.false_alarms, table.misses, table.correct_negatives
    return _ratio(2 * _cross(table), 1.0 * (a + c) * (c + d) + 1.0 * (a + b) * (b + d))


def pss(table: RainTable) -> Value:
    """Peirce skill score, a / (a + c) - b / (b + d); -1 to 1, best 1, no skill 0.

    Also true skill statistic, Hanssen-Kuipers discriminant, Youden's J. 0 where only one class
    came. Peirce (1884), doi:10.1126/science.ns-4.93.453-a; Wilks (2011), section 8.2.
    """
    rain, dry = table.hits + table.misses, table.false_alarms + table.correct_negatives
    return _ratio(_cross(table), 1.0 * rain * dry)


def sedi(table: RainTable) -> Value:
    """Symmetric extremal dependence index; -1 to 1, best 1, no skill 0; for rare events.

    (ln F - ln H - ln(1 - F) + ln(1 - H)) / (ln F + ln H + ln(1 - F) + ln(1 - H)) with the hit rate
    H = a / (a + c) and the false alarm rate F = b / (b + d). Undefined, NaN as in the ``scores``
    package, where H or F is 0 or 1: so for "always rain", and for a perfect forecast. Ferro &
    Stephenson (2011), doi:10.1175/WAF-D-10-05030.1.
    """
    a, b, c, d = (
        np.asarray(count, np.float64)
        for count in (table.hits, table.false_alarms, table.misses, table.correct_negatives)
    )
    known = (a > 0) & (b > 0) & (c > 0) & (d > 0)
    a, b, c, d = (np.where(known, count, 1.0) for count in (a, b, c, d))
    log_f, log_h = np.log(b / (b + d)), np.log(a / (a + c))
    log_not_f, log_not_h = np.log(d / (b + d)), np.log(c / (a + c))
    found = (log_f - log_h - log_not_f + log_not_h) / (log_f + log_h + log_not_f + log_not_h)
    found = np.where(known, found, np.nan)
    return found if found.ndim else float(found)


def _f1(hits: Count, wrong: Count) -> Value:
    return _ratio(2 * hits, 2 * hits + wrong)


def f1(table: RainTable) -> Value:
    """2a / (2a + b + c); 0 to 1, best 1.

    Harmonic mean of precision and recall of rain. Blind to correct negatives: "always rain" at
    base rate p gets 2p / (1 + p). van Rijsbergen (1979), Information Retrieval, chapter 7; also
    Dice (1945).
    """
    return _f1(table.hits, table.false_alarms + table.misses)


def macro_f1(table: RainTable) -> Value:
    """(F1 of rain + F1 of dry) / 2; 0 to 1, best 1.

    The mean of the two F1, not the F1 of mean precision and recall: Opitz & Burst (2019),
    arXiv:1911.03347. Both classes count, also one that never came.
    """
    wrong = table.false_alarms + table.misses
    return (_f1(table.hits, wrong) + _f1(table.correct_negatives, wrong)) / 2


def accuracy(table: RainTable) -> Value:
    """(a + d) / n; 0 to 1, best 1.

    "Proportion correct". Finley (1884); Wilks (2011), section 8.2.
    """
    return _ratio(table.hits + table.correct_negatives, table.total)


def balanced_accuracy(table: RainTable) -> Value:
    """Mean of the recall of rain and the recall of dry; 0 to 1, best 1, no skill 0.5.

    Over the classes that came, if only one did; else (Peirce skill score + 1) / 2. Brodersen et
    al. (2010), ICPR, doi:10.1109/ICPR.2010.764.
    """
    rain, dry = table.hits + table.misses, table.false_alarms + table.correct_negatives
    parts = _ratio(table.hits, rain) + _ratio(table.correct_negatives, dry)
    return _ratio(parts, (np.asarray(rain) > 0) * 1 + (np.asarray(dry) > 0) * 1)


def mcc(table: RainTable) -> Value:
    """Matthews correlation (phi) of forecast and label; -1 to 1, best 1, no skill 0.

    (ad - bc) / sqrt((a + b)(c + d)(a + c)(b + d)); 0 for a forecast that never changes. Matthews
    (1975), doi:10.1016/0005-2795(75)90109-9.
    """
    a, b, c, d = table.hits, table.false_alarms, table.misses, table.correct_negatives
    # Two square roots: the product of four counts of a million overflows 64-bit integers.
    spread = np.sqrt(1.0 * (a + c) * (b + d)) * np.sqrt(1.0 * (a + b) * (c + d))
    return _ratio(_cross(table), spread)


def predicted_rain_share(table: RainTable) -> Value:
    """(a + b) / n; 0 to 1, best the base rate.

    The sign of a collapsed model: exactly 1 or 0. Divided by the base rate it is ``bias``.
    """
    return _ratio(table.hits + table.false_alarms, table.total)


TABLE_SCORES: dict[str, Callable[[RainTable], Value]] = {
    score.__name__: score
    for score in (
        *(f1, macro_f1, precision, recall, accuracy, balanced_accuracy, mcc),
        *(hss, pss, ets, csi, pod, far, bias, sedi, predicted_rain_share),
    )
}


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
    probability: ArrayLike, label: ArrayLike, threshold: float = 0.5, base_rate: float | None = None
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
