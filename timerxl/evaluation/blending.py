"""The network's probability and the trees' as one: a logistic regression on validation.

P = 1 / (1 + exp(-(network logit(P_network) + trees logit(P_trees) + intercept))).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit  # type: ignore[import-untyped]

from timerxl.config import InputError
from timerxl.data.neighbours import neighbour_rows, region_places
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.series import WeatherSeries
from timerxl.evaluation.boosted_trees import Trees, load_arrays, save_arrays
from timerxl.evaluation.calibration import SMALLEST
from timerxl.evaluation.lagged_models import GradientBoosting
from timerxl.evaluation.scores import checked_forecast

# C of the penalty |w|^2 / (2 C): with thousands of windows nothing, and a finite weight where a
# handful is separated by the forecasts.
_STRENGTH = 100.0


@dataclass(frozen=True)
class Blend:
    """Weights on the logits of the network's and the trees' P(rain), and what is added."""

    network: float
    trees: float
    intercept: float

    def log_odds(self, network: ArrayLike, trees: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of rain [n] from the network's P(rain) and the trees' [n]."""
        first, second = _logits(network, trees).T
        return self.network * first + self.trees * second + self.intercept

    def apply(self, network: ArrayLike, trees: ArrayLike) -> NDArray[np.float64]:
        """P(rain) [n] of both."""
        return np.asarray(expit(self.log_odds(network, trees)), np.float64)

    def to_dict(self) -> dict[str, float]:
        """The three numbers, as JSON takes them."""
        return asdict(self)


def fit_blend(network: ArrayLike, trees: ArrayLike, label: ArrayLike) -> Blend:
    """Fit the weights to validation's forecasts and labels [n].

    Raises InputError where the labels are of one class, or as ``checked_forecast``.
    """
    from sklearn.linear_model import LogisticRegression

    _, truth = checked_forecast(network, label)
    checked_forecast(trees, label)
    if len(np.unique(truth)) < 2:
        raise InputError(
            f"the {len(truth)} windows of validation hold one class; a blend needs rain and none."
        )
    inputs = _logits(network, trees)
    model = LogisticRegression(C=_STRENGTH, solver="newton-cholesky", max_iter=100)
    model.fit(inputs, truth)
    (first, second), intercept = model.coef_[0], model.intercept_[0]
    return Blend(float(first), float(second), float(intercept))


def _logits(network: ArrayLike, trees: ArrayLike) -> NDArray[np.float64]:
    both = np.stack([np.asarray(network, np.float64), np.asarray(trees, np.float64)], axis=-1)
    return np.asarray(logit(np.clip(both, SMALLEST, 1 - SMALLEST)), np.float64)


@dataclass(frozen=True)
class BlendedTrees:
    """Boosted trees that stand beside a network, for any series of the features of training.

    ``arrays`` are those of :meth:`GradientBoosting.kept`, ``neighbours`` [G, K] the regions whose
    values the trees see beside those of each region of training.
    """

    blend: Blend
    arrays: dict[str, NDArray[Any]]
    neighbours: NDArray[np.int64]
    saved: Preprocessing

    def save(self, path: Path) -> None:
        """Write the trees as a safetensors file."""
        save_arrays(self.arrays | {"neighbours": self.neighbours}, path)

    @classmethod
    def load(cls, path: Path, blend: dict[str, float], saved: Preprocessing) -> BlendedTrees:
        """Read the trees at ``path``; raises InputError where they are none, or do not fit the
        regions of ``saved``."""
        arrays, count = load_arrays(path), len(saved.regions)
        near = arrays.pop("neighbours", np.empty(0))
        fits = near.dtype == np.int64 and near.ndim == 2 and len(near) == count
        if not fits or near.shape[1] >= max(count, 1) or not ((near >= 0) & (near < count)).all():
            raise InputError(f"{path}: neighbours does not tell of each of {count} regions.")
        try:
            unseen = arrays.get("unseen", np.empty(0))
            Trees({name: one for name, one in arrays.items() if name != "unseen"}, len(unseen))
        except ValueError as error:
            raise InputError(f"{path}: {error}.") from error
        return cls(Blend(**blend), arrays, near, saved)

    def predict(self, series: WeatherSeries, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The trees' P(rain) [n] at ``rows`` [n] of a series; raises InputError where the trees
        have other inputs."""
        rain = series.precipitation_feature
        trees = GradientBoosting(
            series.step_hours,
            context_length=self.saved.context_length,
            precipitation_column=None if rain is None else series.feature_names.index(rain),
        )
        region = region_places(series.regions, self.saved.regions)[series.region_index]
        beside = neighbour_rows(region, series.timestamps, self.neighbours)
        trees.see(series.values, region, series.timestamps, beside)
        try:
            trees.restore(self.arrays)
        except ValueError as error:
            raise InputError(f"the trees of {self.saved.folder} don't fit: {error}.") from error
        return trees.predict(rows)

    def log_odds(
        self, network: ArrayLike, series: WeatherSeries, rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Log-odds of rain [n] of the network's P(rain) [n] blended with the trees'."""
        return self.blend.log_odds(network, self.predict(series, rows))
