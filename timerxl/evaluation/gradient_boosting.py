"""Boosted trees on lagged values: the strong opponent among the baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from timerxl.evaluation.lagged_features import LAGS, TRAILING_HOURS, LaggedFeatures


class GradientBoosting(LaggedFeatures):
    """Boosted trees on ``LaggedFeatures``: a strong opponent that trains in seconds.

    The region is a category (up to 255 regions, a plain number beyond). The number of trees is
    where log loss is lowest on the last 15 % of the training times; then all training rows are
    used. ``num_threads`` is one because OpenMP threads that share busy cores wait for each other
    (a fit of 4 s took 120 s).
    """

    title = "gradient boosting"

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
        super().__init__(
            step_hours,
            context_length=context_length,
            precipitation_column=precipitation_column,
            lags=lags,
            trailing_hours=trailing_hours,
        )
        self.seed = seed
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
        inputs, rain, late = self._training_inputs(values, rows, region_index, timestamps, label)
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
