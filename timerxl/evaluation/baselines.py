"""Forecasts that need no network, and the skill of a model relative to them.

Each takes plain arrays and gives P(rain), float64 from 0 to 1. Below, n windows are forecast out
of a series of R rows and C features, sorted region after region and then by time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError

from timerxl.config import InputError
from timerxl.evaluation.scores import PERFECT


def zero_one_nan(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """``given`` as doubles; raises InputError on a value other than 0, 1 and NaN."""
    array = np.array(given, np.float64)
    wrong = np.flatnonzero(~((array == 0) | (array == 1) | np.isnan(array)))
    if wrong.size:
        raise InputError(
            f"{name} holds {array.flat[wrong[0]]} at position {wrong[0]}; expected 0, 1 or NaN."
        )
    return array


def _labels(given: ArrayLike, num_windows: int) -> NDArray[np.float64]:
    """``given`` as doubles; raises InputError where it is not one label of 0 or 1 a window."""
    rain = zero_one_nan("label", given)
    if rain.shape != (num_windows,) or not num_windows or np.isnan(rain).any():
        raise InputError(
            f"climatology got {num_windows} training windows and {rain.size} labels, "
            f"{int(np.isnan(rain).sum())} of them NaN; expected one label of 0 or 1 for each."
        )
    return rain


def always_rain(num_windows: int) -> NDArray[np.float64]:
    """P(rain) = 1 for every window: the forecast of a collapsed model, [n]."""
    return np.ones(num_windows)


def persistence(rained_before: ArrayLike, base_rate: float | None = None) -> NDArray[np.float64]:
    """It will rain if it rained: ``rained_before`` [n] of 0 and 1 as P(rain) [n].

    Where it's NaN (the gauge failed) the forecast is ``base_rate``, the share of rain among the
    training labels; raises InputError if there are such windows and no base rate is given.
    """
    before = zero_one_nan("rained_before", rained_before)
    unknown = np.isnan(before)
    if not unknown.any():
        return before
    if base_rate is None:
        raise InputError(
            f"{int(unknown.sum())} of {before.size} windows don't know whether it rained before; "
            "pass base_rate, the share of rain in training, or leave those windows out."
        )
    return np.where(unknown, base_rate, before)


def month_of(timestamps: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Calendar month, 1 to 12, of each time stamp."""
    return timestamps.astype("datetime64[M]").astype(np.int64) % 12 + 1


def _with_regions(counts: NDArray[np.float64], regions: int) -> NDArray[np.float64]:
    """``counts`` [G + 1, ...] with zeros for more regions; the last entry, of all, stays last."""
    more = np.zeros((max(regions - (len(counts) - 1), 0), *counts.shape[1:]))
    return np.concatenate([counts[:-1], more, counts[-1:]])


class Climatology:
    """P(rain | region, month, rained before) as counted in training.

    Laplace's rule of succession, (rainy + 1) / (all + 2), in every cell. A cell without a training
    window backs off to the same month and state of all regions, then to the state alone, then to
    all training windows. Windows that don't know whether it rained before take the cell without
    that condition. ``region`` [n] is an index, ``month`` [n] 1 to 12.
    """

    def fit(
        self, region: ArrayLike, month: ArrayLike, rained_before: ArrayLike, label: ArrayLike
    ) -> Climatology:
        """Count anew. Raises InputError on unequal lengths, no windows, or labels besides 0 and
        1."""
        # The last entry of each axis stands for "all regions", "all months", "either state".
        self._windows, self._rainy = np.zeros((1, 13, 3)), np.zeros((1, 13, 3))
        return self.add(region, month, rained_before, label)

    def add(
        self, region: ArrayLike, month: ArrayLike, rained_before: ArrayLike, label: ArrayLike
    ) -> Climatology:
        """Count more windows, with the errors of :meth:`fit`."""
        where, when, state = self._cells(region, month, rained_before)
        rain = _labels(label, where.size)
        self._windows = _with_regions(self._windows, int(where.max()) + 1)
        self._rainy = _with_regions(self._rainy, int(where.max()) + 1)
        known = state < 2
        for r in (where, np.full_like(where, -1)):
            for m in (when, np.full_like(when, 12)):
                for s, use in ((state, known), (np.full_like(state, 2), np.ones_like(known))):
                    np.add.at(self._windows, (r[use], m[use], s[use]), 1)
                    np.add.at(self._rainy, (r[use], m[use], s[use]), rain[use])
        return self

    def predict(
        self, region: ArrayLike, month: ArrayLike, rained_before: ArrayLike
    ) -> NDArray[np.float64]:
        """P(rain) [n]; an unknown region backs off. Raises NotFittedError before ``fit``."""
        if not hasattr(self, "_windows"):
            raise NotFittedError("call Climatology.fit before predict.")
        where, when, state = self._cells(region, month, rained_before)
        everywhere = len(self._windows) - 1
        where = np.minimum(where, everywhere)
        chances = (self._rainy + 1) / (self._windows + 2)
        forecast = np.full(where.size, chances[-1, 12, 2])
        for cell in ((everywhere, 12, state), (everywhere, when, state), (where, when, state)):
            forecast = np.where(self._windows[cell] > 0, chances[cell], forecast)
        return forecast

    @staticmethod
    def _cells(
        region: ArrayLike, month: ArrayLike, rained_before: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        where, when = np.asarray(region, np.int64), np.asarray(month, np.int64) - 1
        before = zero_one_nan("rained_before", rained_before)
        if not where.shape == when.shape == before.shape or where.ndim != 1:
            raise InputError(
                f"region, month and rained_before have shapes {where.shape}, {when.shape} and "
                f"{before.shape}; expected one entry a window in each."
            )
        if where.size and (where.min() < 0 or when.min() < 0 or when.max() > 11):
            raise InputError("expected a region index of 0 or more and a month from 1 to 12.")
        return where, when, np.where(np.isnan(before), 2, before).astype(np.int64)


def day_of_year(timestamps: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Day of the year, 1 to 366, of each time stamp: the place of its date in a leap year.

    So 1 March is day 61 in every year, and only 29 February is ever day 60.
    """
    month = timestamps.astype("datetime64[M]")
    day = (timestamps.astype("datetime64[D]") - month).astype(np.int64)
    leap = np.datetime64("2020-01", "M") + (month.astype(np.int64) % 12)
    return (leap.astype("datetime64[D]") - np.datetime64("2020-01-01")).astype(np.int64) + day + 1


class DayOfYearClimatology:
    """P(rain | region, day of the year), smoothed over the days around it in every year.

    A window ``k`` days off counts 1 - k / (half_width_days + 1) (a triangle, the circle of 366 days
    closed); P = (weighted rainy + 1) / (weighted all + 2), Laplace's rule. The weights of a year
    sum to ``half_width_days`` + 1 windows a day, so that the rule hardly matters after one. A
    region without training windows within the width takes that of all regions.
    """

    def __init__(self, half_width_days: int = 15) -> None:
        if not 0 <= half_width_days < 183:
            raise InputError(f"half_width_days is {half_width_days}; expected 0 to 182.")
        self.half_width_days = half_width_days

    def fit(self, region: ArrayLike, day: ArrayLike, label: ArrayLike) -> DayOfYearClimatology:
        """Count training windows [n]: region index, day of the year (1 to 366), label of 0 or 1.

        Raises InputError on unequal lengths, no windows, or labels besides 0 and 1.
        """
        self._windows, self._rainy = np.zeros((1, 366)), np.zeros((1, 366))
        return self.add(region, day, label)

    def add(self, region: ArrayLike, day: ArrayLike, label: ArrayLike) -> DayOfYearClimatology:
        """Count more windows, with the errors of :meth:`fit`."""
        where, when = self._cells(region, day)
        rain = _labels(label, where.size)
        # The last row stands for "all regions".
        self._windows = _with_regions(self._windows, int(where.max()) + 1)
        self._rainy = _with_regions(self._rainy, int(where.max()) + 1)
        for counted, number in ((self._windows, 1), (self._rainy, rain)):
            np.add.at(counted, (where, when), number)
            np.add.at(counted[-1], when, number)
        return self

    def _smoothed(self) -> NDArray[np.float64]:
        """P(rain) [G + 1, 366], all regions last."""
        counts = np.stack([self._windows, self._rainy])
        width = self.half_width_days
        smooth = np.zeros_like(counts)
        for k in range(-width, width + 1):
            smooth += (1 - abs(k) / (width + 1)) * np.roll(counts, k, axis=2)
        # A day that no training window is near gets the share of the whole year.
        year = counts[:, -1].sum(axis=1)
        everywhere = np.full(366, (year[1] + 1) / (year[0] + 2))
        chances = (smooth[1] + 1) / (smooth[0] + 2)
        chances[-1] = np.where(smooth[0, -1] > 0, chances[-1], everywhere)
        return np.where(smooth[0] > 0, chances, chances[-1])

    def predict(self, region: ArrayLike, day: ArrayLike) -> NDArray[np.float64]:
        """P(rain) [n]; an unknown region backs off. Raises NotFittedError before ``fit``."""
        if not hasattr(self, "_windows"):
            raise NotFittedError("call DayOfYearClimatology.fit before predict.")
        where, when = self._cells(region, day)
        chances = self._smoothed()
        return np.asarray(chances[np.minimum(where, len(chances) - 1), when])

    @staticmethod
    def _cells(region: ArrayLike, day: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        where, when = np.asarray(region, np.int64), np.asarray(day, np.int64) - 1
        if where.shape != when.shape or where.ndim != 1:
            raise InputError(
                f"region and day have shapes {where.shape} and {when.shape}; expected one entry a "
                "window in each."
            )
        if where.size and (where.min() < 0 or when.min() < 0 or when.max() > 365):
            raise InputError("expected a region index of 0 or more and a day from 1 to 366.")
        return where, when


def choose_reference(validation_scores: Mapping[str, Mapping[str, float]], key: str) -> str:
    """The name whose ``key`` is nearest to perfect on VALIDATION, the first of equal ones.

    ``validation_scores`` is name -> key -> score; leave the model itself out. NaN never wins.
    Choosing on test would pick the opponent that happened to do well (or badly) there. Raises
    InputError on a key without a perfect value, and where no name has a number.
    """
    if key not in PERFECT:
        raise InputError(f"{key!r} has no perfect value; expected one of {', '.join(PERFECT)}.")
    gaps = {name: abs(PERFECT[key] - scores[key]) for name, scores in validation_scores.items()}
    gaps = {name: gap for name, gap in gaps.items() if not math.isnan(gap)}
    if not gaps:
        raise InputError(
            f"no reference has a number for {key} (of {len(validation_scores)} forecasts)."
        )
    return min(gaps, key=gaps.__getitem__)


def skill_score(score: float, reference_score: float, perfect: float) -> float:
    """(score - reference) / (perfect - reference); 1 is perfect, 0 as the reference, below worse.

    NaN where the reference is perfect. For the Brier score (perfect 0) it is the Brier skill score.
    Not for ``bias``, which can be off on either side. Wilks (2011), Statistical Methods in the
    Atmospheric Sciences, section 8.1.
    """
    way = perfect - reference_score
    return (score - reference_score) / way if way else math.nan
