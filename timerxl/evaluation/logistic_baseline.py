"""Logistic regression on lagged values: what a linear model gets from the trees' inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from timerxl.config import InputError
from timerxl.evaluation.lagged_features import LAGS, TRAILING_HOURS, LaggedFeatures

# C of the penalty |w|^2 / (2 C) beside the SUM of the log losses.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
# Standard deviations: one extreme value must not decide a forecast on its own.
CLIP = 8.0


class LogisticBaseline(LaggedFeatures):
    """Ridge-penalised logistic regression on ``LaggedFeatures``, standardised.

    Means and standard deviations come from the training rows; inputs are cut off at 8 standard
    deviations. A missing value becomes the training mean, and a 0/1 column says so for every
    pattern of missing training values (features that are missing together share one). The region
    is one 0/1 column each; a region without training windows has none. C is where log loss is
    lowest on the last 15 % of the training times; then all training rows are used. A ``C`` at the
    lower end of ``STRENGTHS`` means that little more than the base rate could be learned.
    """

    title = "logistic regression"

    def __init__(
        self,
        step_hours: float,
        *,
        context_length: int | None = None,
        precipitation_column: int | None = None,
        lags: Sequence[int] = LAGS,
        trailing_hours: Sequence[float] = TRAILING_HOURS,
        strengths: Sequence[float] = STRENGTHS,
        num_threads: int = 1,
    ) -> None:
        super().__init__(
            step_hours,
            context_length=context_length,
            precipitation_column=precipitation_column,
            lags=lags,
            trailing_hours=trailing_hours,
        )
        if not strengths or min(strengths) <= 0:
            raise InputError(f"strengths are {tuple(strengths)}; expected numbers above 0.")
        self.strengths = sorted(strengths)
        self.num_threads = num_threads
        self.C = float("nan")
        self._model: LogisticRegression | None = None

    def fit(
        self,
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
        label: NDArray[np.float64],
    ) -> LogisticBaseline:
        """Train on the windows issued at ``rows`` [n] of a series, as ``GradientBoosting.fit``."""
        raw, rain, late = self._training_inputs(values, rows, region_index, timestamps, label)
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
        inputs = self._standardised(raw)
        with threadpool_limits(self.num_threads):
            losses = []
            # From the strongest penalty on, each starting where the one before ended.
            trial = self._regression(self.strengths[0]).set_params(warm_start=True)
            for strength in self.strengths:
                trial.set_params(C=strength).fit(inputs[~late], rain[~late])
                chance = np.clip(trial.predict_proba(inputs[late])[:, 1], 1e-12, 1 - 1e-12)
                losses.append(-np.mean(np.log(np.where(rain[late] == 1, chance, 1 - chance))))
            self.C = float(self.strengths[int(np.argmin(losses))])
            self._model = self._regression(self.C).fit(inputs, rain)
        return self

    def predict(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(rain) [n] issued at ``rows`` [n]; raises NotFittedError before ``fit``."""
        if self._model is None:
            raise NotFittedError("call LogisticBaseline.fit before predict.")
        inputs = self._standardised(self.features_at(rows))
        with threadpool_limits(self.num_threads):
            return np.asarray(self._model.predict_proba(inputs)[:, 1], np.float64)

    def _standardised(self, raw: NDArray[np.float32]) -> NDArray[np.float64]:
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
