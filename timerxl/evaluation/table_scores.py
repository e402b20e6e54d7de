"""Scores of a yes/no forecast: one function each, all of them counts of the 2 x 2 table.

a hits, b false alarms, c misses, d correct negatives, n all. The counts are numbers or arrays of
equal shape; an array stands for as many tables and gives an array of scores. Where a denominator
is zero a score is 0, as in scikit-learn with ``zero_division=0``. Three are NaN instead, because 0
would say something else: ``far`` (0 is its best), ``bias`` (0 is "never rain") and ``sedi`` (0 is
"no skill").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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
