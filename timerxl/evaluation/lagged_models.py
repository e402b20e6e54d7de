"""Baselines that are fitted: logistic regression and boosted trees on lagged values.

Both see the same inputs (lagged values, trailing means, season and hour), so that their scores
differ by the model alone. A series has R rows and C features, sorted region after region and then
by time; n windows are issued at some of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from timerxl.config import InputError
from timerxl.data.series import blocks as row_blocks
from timerxl.evaluation.baselines import zero_one_nan
from timerxl.evaluation.boosted_trees import Trees

LAGS = (1, 2, 3, 6, 12, 24)
TRAILING_HOURS = (6.0, 24.0, 72.0, 168.0)
NEIGHBOUR_HOURS = 24.0
MOST_WHOLE_ROWS = 8_000_000  # of a series whose running sums are taken over all of it


class LaggedBaseline:
    """A baseline on lagged values, computed for any rows of one series.

    Seen at an issue time, for every feature: its value, its value ``lags`` steps before, and its
    mean over the trailing ``trailing_hours`` (for ``precipitation_column`` the sum); with them
    sin/cos of season and hour, and the region's index. What ``context_length`` steps don't reach is
    left out, so that a baseline knows no more than the network, and so is a trailing time that
    isn't a whole number of two or more steps: ``feature_names`` tells what is used. Lags stop at
    the region's start and at gaps in time: NaN. Where the network sees the other regions, so does a
    baseline: ``fit`` takes the rows of the neighbours, whose values and trailing means of a day
    (for precipitation the sum) follow, the nearest neighbour first.

    ``num_threads`` is one because OpenMP threads that share busy cores wait for each other (a fit
    of 4 s took 120 s).
    """

    title = "a baseline"  # in messages

    def __init__(
        self,
        step_hours: float,
        *,
        context_length: int | None = None,
        precipitation_column: int | None = None,
        lags: Sequence[int] = LAGS,
        trailing_hours: Sequence[float] = TRAILING_HOURS,
        num_threads: int = 1,
    ) -> None:
        self.num_threads = num_threads
        self._model: Any = None
        reach = context_length or np.inf
        self.step_hours = step_hours
        self.precipitation_column = precipitation_column
        self.lags = [lag for lag in lags if 0 < lag < reach]
        widths = [hours / step_hours for hours in trailing_hours]
        self.widths = [int(w) for w in widths if w == int(w) and 2 <= w <= reach]

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
        for place in range(self._neighbours.shape[1]):
            names += [f"value[{c}] of neighbour {place + 1}" for c in columns]
            if self._neighbour_width:
                names += [f"value[{c}] of neighbour {place + 1}, a day" for c in columns]
        return [*names, "season sin", "season cos", "hour sin", "hour cos", "region"]

    def features_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a model sees at ``rows`` [n]: [n, len(feature_names)], NaN where unknown.

        A long series is read region by region, so that its running sums need no memory of its size.
        """
        found = np.empty((len(rows), len(self.feature_names)), np.float32)
        if len(self._values) <= MOST_WHOLE_ROWS or self._neighbours.shape[1]:
            self._fill(found, rows, slice(0, len(self._values)))
            return found
        of_rows = self._region[rows]
        for region in np.unique(of_rows):
            first, end = np.searchsorted(self._region, (region, region + 1))
            here = np.flatnonzero(of_rows == region)
            part = np.empty((len(here), found.shape[1]), np.float32)
            self._fill(part, rows[here] - first, slice(int(first), int(end)))
            found[here] = part
        return found

    def _fill(self, found: NDArray[np.float32], rows: NDArray[np.int64], part: slice) -> None:
        """Fill ``found`` for ``rows`` [n], counted from the start of ``part`` of the series."""
        values, region = self._values[part], self._region[part]
        seconds = self._timestamps[part].astype("datetime64[s]").astype(np.int64)
        begins = np.ones(len(values), bool)
        begins[1:] = (np.diff(region) != 0) | (np.diff(seconds) != round(self.step_hours * 3600))
        start = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))
        width = values.shape[1]

        def blocks() -> Iterator[NDArray[Any]]:
            yield values[rows]
            for lag in self.lags:
                inside = (rows - lag >= start[rows])[:, None]
                yield np.where(inside, values[np.maximum(rows - lag, 0)], np.nan)
            yield from self._trailing(values, start, rows, self.widths)
            for beside in self._neighbours[part][rows].T:
                known = (beside >= 0)[:, None]
                yield np.where(known, values[beside], np.nan)
                widths = [self._neighbour_width] if self._neighbour_width else []
                for day in self._trailing(values, start, beside, widths):
                    yield np.where(known, day, np.nan)

        end = 0
        for block in blocks():
            found[:, end : end + width] = block
            end += width
        days = seconds[rows] / 86400
        season, hour = 2 * np.pi * days / 365.2425, 2 * np.pi * days
        clock = [np.sin(season), np.cos(season), np.sin(hour), np.cos(hour), region[rows]]
        found[:, end:] = np.stack(clock, axis=1)

    def _trailing(
        self,
        values: NDArray[np.float32],
        segment_start: NDArray[np.int64],
        rows: NDArray[np.int64],
        widths: list[int],
    ) -> list[NDArray[np.float64]]:
        """Means (of precipitation sums) [n, C] over the last ``widths`` steps at ``rows`` [n]."""
        start = segment_start[rows]
        found = [np.empty((len(rows), values.shape[1])) for _ in widths]
        for column in range(values.shape[1] if widths else 0):
            present = ~np.isnan(values[:, column])
            # A running sum needs doubles: over years of hourly values float32 loses the digits.
            sums = np.r_[0.0, np.cumsum(np.where(present, values[:, column], 0.0), dtype=float)]
            counts = np.r_[0, np.cumsum(present)]
            for width, block in zip(widths, found, strict=True):
                first = np.maximum(rows - width + 1, 0)
                total, number = sums[rows + 1] - sums[first], counts[rows + 1] - counts[first]
                mean = column != self.precipitation_column
                known = (rows - width + 1 >= start) & (number > 0)
                block[:, column] = np.where(
                    known, total / np.maximum(number, 1) if mean else total, np.nan
                )
        return found

    def see(
        self,
        values: NDArray[np.float32],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
        neighbours: NDArray[np.int64] | None = None,
    ) -> Self:
        """Take the series that ``predict`` then forecasts from.

        ``values`` [R, C] (physical units, NaN where missing), ``region_index`` [R] and
        ``timestamps`` [R] belong to the whole series, and so do the rows of ``neighbours`` [R, K]
        at the same time (see :func:`timerxl.data.neighbours.neighbour_rows`). Raises InputError on
        shapes that don't fit, or infinite values.
        """
        if values.ndim != 2 or not len(values) == len(region_index) == len(timestamps) > 0:
            raise InputError(
                f"values {values.shape}, region_index {region_index.shape} and timestamps "
                f"{timestamps.shape} don't belong together; expected [R, C], [R] and [R]."
            )
        if any(np.isinf(values[block]).any() for block in row_blocks(len(values))):
            raise InputError("values hold infinite numbers; mark missing values as NaN.")
        self._values, self._region, self._timestamps = values, region_index, timestamps
        self._neighbours = np.empty((len(values), 0), int) if neighbours is None else neighbours
        width = NEIGHBOUR_HOURS / self.step_hours
        self._neighbour_width = int(width) if width == int(width) and width >= 2 else 0
        return self

    def fit(
        self,
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
        label: NDArray[np.float64],
        neighbours: NDArray[np.int64] | None = None,
    ) -> Self:
        """Train on the windows issued at ``rows`` [n] of a series, which :meth:`see` takes.

        ``label`` [R] of 0/1 (NaN allowed outside ``rows``) belongs to the whole series; ``predict``
        uses the same one. Raises InputError on shapes that don't fit, infinite values, a missing
        label, or a single class in the first 85 % of the training times.
        """
        self.see(values, region_index, timestamps, neighbours)
        label = np.asarray(label, np.float64)
        if label.shape != (len(values),):
            raise InputError(
                f"label has shape {label.shape}; expected one for each of the {len(values)} rows "
                "of the series, not for each window."
            )
        inputs, rain = self.features_at(rows), zero_one_nan("label", label[rows])
        if np.isnan(rain).any():
            raise InputError(f"{int(np.isnan(rain).sum())} training rows have no label; drop them.")
        times = timestamps[rows].astype("datetime64[s]").astype(np.int64)
        distinct = np.unique(times)
        # Labels overlap by one horizon at this cut; it only chooses the size of the model.
        late = times >= distinct[int(0.85 * len(distinct))] if distinct.size else times > 0
        if len(np.unique(rain[~late])) < 2:
            raise InputError(
                f"the first 85 % of the training times ({int((~late).sum())} windows) hold one "
                f"class; {self.title} needs rain and no rain there."
            )
        with threadpool_limits(self.num_threads):
            self._model = self._learn(inputs, rain, late)
        return self

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(rain) [n] issued at ``rows`` [n]; raises NotFittedError before ``fit``."""
        if self._model is None:
            raise NotFittedError(f"call {type(self).__name__}.fit before predict.")
        inputs = self._prepared(self.features_at(rows))
        with threadpool_limits(self.num_threads):
            return np.asarray(self._model.predict_proba(inputs)[:, 1], np.float64)

    def _learn(
        self, raw: NDArray[np.float32], rain: NDArray[np.float64], late: NDArray[np.bool_]
    ) -> Any:
        """Fit a classifier; ``late`` [n] are the windows in the last 15 % of the times."""
        raise NotImplementedError

    def _prepared(self, raw: NDArray[np.float32]) -> NDArray[Any]:
        """What the classifier takes of ``features_at``."""
        raise NotImplementedError


# C of the penalty |w|^2 / (2 C) beside the SUM of the log losses.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Standard deviations: one extreme value must not decide a forecast on its own.
CLIP = 8.0


class LogisticBaseline(LaggedBaseline):
    """Ridge-penalised logistic regression, standardised.

    Means and standard deviations come from the training rows; inputs are cut off at 8 standard
    deviations. A missing value becomes the training mean, and a 0/1 column says so for every
    pattern of missing training values (features that are missing together share one). The region
    is one 0/1 column each; a region without training windows has none. C is where log loss is
    lowest on the last 15 % of the training times; then all training rows are used. A ``C`` at the
    lower end of ``STRENGTHS`` means that little more than the base rate could be learned.
    """

    title = "logistic regression"

    def __init__(
        self, step_hours: float, *, strengths: Sequence[float] = STRENGTHS, **inputs: Any
    ) -> None:
        super().__init__(step_hours, **inputs)
        if not strengths or min(strengths) <= 0:
            raise InputError(f"strengths are {tuple(strengths)}; expected numbers above 0.")
        self.strengths = sorted(strengths)
        self.C = float("nan")

    def _learn(
        self, raw: NDArray[np.float32], rain: NDArray[np.float64], late: NDArray[np.bool_]
    ) -> LogisticRegression:
        self._regions = np.unique(raw[:, -1])
        plain = raw[:, :-1].astype(np.float64)
        missing = np.isnan(plain)
        # A column that is always missing, or never changes, becomes 0.
        count = np.maximum((~missing).sum(axis=0), 1)
        self._mean = np.where(missing, 0.0, plain).sum(axis=0) / count
        spread = np.where(missing, 0.0, plain - self._mean)
        self._scale = np.sqrt(np.square(spread).sum(axis=0) / count)
        # Rounding leaves a constant column of large numbers a scale just above 0.
        self._scale[self._scale <= 1e-6 * np.abs(self._mean)] = np.inf
        self._scale[self._scale == 0] = np.inf
        missed = missing.sum(axis=0)
        _, first = np.unique(np.packbits(missing, axis=0), axis=1, return_index=True)
        self._indicators = np.sort(first[(missed[first] > 0) & (missed[first] < len(missing))])
        inputs, losses = self._prepared(raw), []
        # From the strongest penalty on, each starting where the one before ended.
        trial = self._regression(self.strengths[0]).set_params(warm_start=True)
        for strength in self.strengths:
            trial.set_params(C=strength).fit(inputs[~late], rain[~late])
            chance = np.clip(trial.predict_proba(inputs[late])[:, 1], 1e-12, 1 - 1e-12)
            losses.append(-np.mean(np.log(np.where(rain[late] == 1, chance, 1 - chance))))
        self.C = float(self.strengths[int(np.argmin(losses))])
        return self._regression(self.C).fit(inputs, rain)

    def _prepared(self, raw: NDArray[np.float32]) -> NDArray[Any]:
        plain = raw[:, :-1].astype(np.float64)
        missing = np.isnan(plain)
        plain = np.clip((plain - self._mean) / self._scale, -CLIP, CLIP)
        plain[missing] = 0.0
        region = raw[:, -1:] == self._regions
        return np.hstack([plain, missing[:, self._indicators], region])

    @staticmethod
    def _regression(strength: float) -> LogisticRegression:
        # Newton's method with a Cholesky solver: a few passes where rows far outnumber columns.
        return LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100)


class GradientBoosting(LaggedBaseline):
    """Boosted trees: a strong opponent that trains in seconds.

    The region is a category (up to 255 regions, a plain number beyond). The number of trees is
    where log loss is lowest on the last 15 % of the training times; then all training rows are
    used.
    """

    title = "gradient boosting"

    def __init__(self, step_hours: float, seed: int = 0, **inputs: Any) -> None:
        super().__init__(step_hours, **inputs)
        self.seed = seed
        self.num_trees = 0

    def _learn(
        self, raw: NDArray[np.float32], rain: NDArray[np.float64], late: NDArray[np.bool_]
    ) -> HistGradientBoostingClassifier:
        # scikit-learn can't bin a column of NaN only (a lag longer than any region); a constant one
        # is never split on.
        self._unseen = np.isnan(raw[~late]).all(axis=0)
        inputs = self._prepared(raw)
        trial = self._trees(600, early_stopping=True, n_iter_no_change=40)
        trial.fit(inputs[~late], rain[~late], X_val=inputs[late], y_val=rain[late])
        # Entry 0 is the score before the first tree.
        self.num_trees = max(int(np.argmax(trial.validation_score_)), 1)
        return self._trees(self.num_trees, early_stopping=False).fit(inputs, rain)

    def kept(self) -> dict[str, NDArray[Any]]:
        """The fitted trees as plain arrays, for :meth:`restore`."""
        arrays: dict[str, NDArray[Any]] = dict(Trees.of(self._model).arrays)
        arrays["unseen"] = np.asarray(self._unseen, np.uint8)
        return arrays

    def restore(self, arrays: dict[str, NDArray[Any]]) -> Self:
        """Take over the trees of :meth:`kept` instead of fitting; the series must be seen before.

        Raises ValueError where the arrays are no trees on this series' features.
        """
        count = len(self.feature_names)
        unseen = arrays.get("unseen", np.empty(0))
        if unseen.dtype != np.uint8 or unseen.shape != (count,):
            raise ValueError(f"unseen does not tell of each of {count} inputs of the trees")
        rest = {name: array for name, array in arrays.items() if name != "unseen"}
        self._model, self._unseen = Trees(rest, count), unseen.astype(bool)
        self.num_trees = len(rest["first"])
        return self

    def _prepared(self, raw: NDArray[np.float32]) -> NDArray[Any]:
        raw[:, self._unseen] = 0.0
        return raw

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
