"""Forecasts that need no network: what a model has to beat before it counts as skilful.

Each takes plain arrays and gives P(rain), float64 from 0 to 1. Below, n windows are forecast out
of a series of R rows and C features, sorted region after region and then by time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from timerxl.config import InputError

LAGS = (1, 2, 3, 6, 12, 24)
TRAILING_HOURS = (6.0, 24.0, 72.0, 168.0)


def always_rain(num_windows: int) -> NDArray[np.float64]:
    """P(rain) = 1 for every window: the forecast of a collapsed model, [n]."""
    return np.ones(num_windows)


def persistence(rained_before: ArrayLike, base_rate: float | None = None) -> NDArray[np.float64]:
    """It will rain if it rained: ``rained_before`` [n] of 0 and 1 as P(rain) [n].

    Where it's NaN (the gauge failed) the forecast is ``base_rate``, the share of rain among the
    training labels; raises InputError if there are such windows and no base rate is given.
    """
    before = _zero_one_nan("rained_before", rained_before)
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
        """Count. Raises InputError on unequal lengths, no windows, or labels besides 0 and 1."""
        where, when, state = self._cells(region, month, rained_before)
        rain = _zero_one_nan("label", label)
        if rain.shape != where.shape or not rain.size or np.isnan(rain).any():
            raise InputError(
                f"climatology got {where.size} training windows and {rain.size} labels, "
                f"{int(np.isnan(rain).sum())} of them NaN; expected one label of 0 or 1 for each."
            )
        # The last entry of each axis stands for "all regions", "all months", "either state".
        self._windows = np.zeros((int(where.max()) + 2, 13, 3))
        self._rainy = np.zeros_like(self._windows)
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
        before = _zero_one_nan("rained_before", rained_before)
        if not where.shape == when.shape == before.shape or where.ndim != 1:
            raise InputError(
                f"region, month and rained_before have shapes {where.shape}, {when.shape} and "
                f"{before.shape}; expected one entry a window in each."
            )
        if where.size and (where.min() < 0 or when.min() < 0 or when.max() > 11):
            raise InputError("expected a region index of 0 or more and a month from 1 to 12.")
        return where, when, np.where(np.isnan(before), 2, before).astype(np.int64)


class GradientBoosting:
    """Boosted trees on lagged values: a strong opponent that trains in seconds.

    Seen at an issue time, for every feature: its value, its value ``lags`` steps before, and its
    mean over the trailing ``trailing_hours`` (for ``precipitation_column`` the sum); with them
    sin/cos of season and hour, and the region as a category (up to 255 regions, a plain number
    beyond). What ``context_length`` steps don't reach is left out, so that the trees know no more
    than the network, and so is a trailing time that isn't a whole number of two or more steps:
    ``feature_names`` tells what is used. Lags stop at the region's start and at gaps in time: NaN.

    The number of trees is where log loss is lowest on the last 15 % of the training times; then
    all training rows are used. ``num_threads`` is one because OpenMP threads that share busy cores
    wait for each other (a fit of 4 s took 120 s).
    """

    def __init__(
        self,
        step_hours: float,
        seed: int = 0,
        *,
        context_length: int | None = None,
        precipitation_column: int | None = None,
        lags: Sequence[int] = LAGS,
        trailing_hours: Sequence[float] = TRAILING_HOURS,
        num_threads: int = 1,
    ) -> None:
        reach = context_length or np.inf
        self.step_hours = step_hours
        self.seed = seed
        self.precipitation_column = precipitation_column
        self.lags = [lag for lag in lags if 0 < lag < reach]
        widths = [hours / step_hours for hours in trailing_hours]
        self.widths = [int(w) for w in widths if w == int(w) and 2 <= w <= reach]
        self.num_threads = num_threads
        self.num_trees = 0
        self._model: HistGradientBoostingClassifier | None = None

    def fit(
        self,
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
        label: NDArray[np.float64],
    ) -> GradientBoosting:
        """Train on the windows issued at ``rows`` [n] of a series.

        ``values`` [R, C] (physical units, NaN where missing), ``region_index`` [R], ``timestamps``
        [R] and ``label`` [R] of 0/1 (NaN allowed outside ``rows``) belong to the whole series;
        ``predict`` uses the same one. Raises InputError on shapes that don't fit, infinite
        values, a missing label, or a single class in the first 85 % of the training times.
        """
        self._take_series(values, region_index, timestamps)
        label = np.asarray(label, np.float64)
        if label.shape != (len(values),):
            raise InputError(
                f"label has shape {label.shape}; expected one for each of the {len(values)} rows "
                "of the series, not for each window."
            )
        inputs, rain = self.features_at(rows), _zero_one_nan("label", label[rows])
        if np.isnan(rain).any():
            raise InputError(f"{int(np.isnan(rain).sum())} training rows have no label; drop them.")
        times = self._seconds[rows]
        distinct = np.unique(times)
        # Labels overlap by one horizon at this cut; it only chooses the number of trees.
        late = times >= distinct[int(0.85 * len(distinct))] if distinct.size else times > 0
        if len(np.unique(rain[~late])) < 2:
            raise InputError(
                f"the first 85 % of the training times ({int((~late).sum())} windows) hold one "
                "class; gradient boosting needs rain and no rain there."
            )
        # scikit-learn can't bin a column of NaN only (a lag longer than any region); a constant one
        # is never split on.
        self._unseen = np.isnan(inputs[~late]).all(axis=0)
        inputs[:, self._unseen] = 0.0
        with threadpool_limits(self.num_threads, user_api="openmp"):
            trial = self._trees(600, early_stopping=True, n_iter_no_change=40)
            trial.fit(inputs[~late], rain[~late], X_val=inputs[late], y_val=rain[late])
            # Entry 0 is the score before the first tree.
            self.num_trees = max(int(np.argmax(trial.validation_score_)), 1)
            self._model = self._trees(self.num_trees, early_stopping=False).fit(inputs, rain)
        return self

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(rain) [n] issued at ``rows`` [n]; raises NotFittedError before ``fit``."""
        if self._model is None:
            raise NotFittedError("call GradientBoosting.fit before predict.")
        inputs = self.features_at(rows)
        inputs[:, self._unseen] = 0.0
        with threadpool_limits(self.num_threads, user_api="openmp"):
            return np.asarray(self._model.predict_proba(inputs)[:, 1], np.float64)

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns of ``features_at``, features numbered as in ``values``."""
        columns = range(self._values.shape[1])
        names = [f"value[{c}]" for c in columns]
        names += [f"value[{c}] lag {lag}" for lag in self.lags for c in columns]
        for width in self.widths:
            kinds = ("sum" if c == self.precipitation_column else "mean" for c in columns)
            names += [
                f"value[{c}] {kind} {width * self.step_hours:g} h"
                for c, kind in zip(columns, kinds, strict=True)
            ]
        return [*names, "season sin", "season cos", "hour sin", "hour cos", "region"]

    def features_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the trees see at ``rows`` [n]: [n, len(feature_names)], NaN where unknown."""
        values, start = self._values, self._segment_start[rows]
        blocks = [values[rows]]
        for lag in self.lags:
            inside = (rows - lag >= start)[:, None]
            blocks.append(np.where(inside, values[np.maximum(rows - lag, 0)], np.nan))
        trailing = [np.empty((len(rows), values.shape[1])) for _ in self.widths]
        for column in range(values.shape[1]):
            present = ~np.isnan(values[:, column])
            # A running sum needs doubles: over years of hourly values float32 loses the digits.
            sums = np.r_[0.0, np.cumsum(np.where(present, values[:, column], 0.0), dtype=float)]
            counts = np.r_[0, np.cumsum(present)]
            for width, block in zip(self.widths, trailing, strict=True):
                first = np.maximum(rows - width + 1, 0)
                total, number = sums[rows + 1] - sums[first], counts[rows + 1] - counts[first]
                mean = column != self.precipitation_column
                known = (rows - width + 1 >= start) & (number > 0)
                block[:, column] = np.where(
                    known, total / np.maximum(number, 1) if mean else total, np.nan
                )
        days = self._seconds[rows] / 86400
        season, hour = 2 * np.pi * days / 365.2425, 2 * np.pi * days
        clock = [np.sin(season), np.cos(season), np.sin(hour), np.cos(hour), self._region[rows]]
        return np.hstack([*blocks, *trailing, np.stack(clock, axis=1)]).astype(np.float32)

    def _take_series(
        self,
        values: NDArray[np.float32],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
    ) -> None:
        if values.ndim != 2 or not len(values) == len(region_index) == len(timestamps) > 0:
            raise InputError(
                f"values {values.shape}, region_index {region_index.shape} and timestamps "
                f"{timestamps.shape} don't belong together; expected [R, C], [R] and [R]."
            )
        if np.isinf(values).any():
            raise InputError("values hold infinite numbers; mark missing values as NaN.")
        self._values, self._region = values, region_index
        self._seconds = timestamps.astype("datetime64[s]").astype(np.int64)
        begins = np.ones(len(values), bool)
        begins[1:] = (np.diff(region_index) != 0) | (
            np.diff(self._seconds) != round(self.step_hours * 3600)
        )
        self._segment_start = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))

    def _trees(self, max_iter: int, **stopping: object) -> HistGradientBoostingClassifier:
        few_regions = self._region.max() < 255
        return HistGradientBoostingClassifier(
            learning_rate=0.03,
            max_iter=max_iter,
            max_leaf_nodes=15,
            min_samples_leaf=50,
            l2_regularization=10.0,
            # Lagged values resemble each other; choosing among a third of them decorrelates trees.
            max_features=0.3,
            categorical_features=[len(self.feature_names) - 1] if few_regions else None,
            random_state=self.seed,
            **stopping,
        )


def _zero_one_nan(name: str, given: ArrayLike) -> NDArray[np.float64]:
    array = np.array(given, np.float64)
    wrong = np.flatnonzero(~((array == 0) | (array == 1) | np.isnan(array)))
    if wrong.size:
        raise InputError(
            f"{name} holds {array.flat[wrong[0]]} at position {wrong[0]}; expected 0, 1 or NaN."
        )
    return array
