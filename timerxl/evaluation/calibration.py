"""Probabilities that mean what they say: Platt scaling, fitted on validation.

P' = 1 / (1 + exp(-(slope logit(P) + intercept))): logistic regression of the label on the logit of
the forecast, as Platt (1999, in Advances in Large Margin Classifiers) did with the outputs of
support vector machines. Slope 1 and intercept 0 leave a forecast as it is; a slope below 1 says it
was too sure of itself. The test split takes no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timerxl.config import InputError
from timerxl.evaluation.scores import checked_forecast

# P(rain) of exactly 0 or 1 has no logit.
SMALLEST = 1e-7
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """``slope`` and ``intercept`` on the logit of P(rain)."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, probability: ArrayLike) -> Floats:
        """Calibrated P(rain), of the shape given; raises InputError on values outside 0 to 1.

        A slope above 0 keeps the order of the windows, so that ROC-AUC stays; P(rain) is taken as
        at least 1e-7 and at most 1 - 1e-7. Slope 1 and intercept 0 change nothing at all.
        """
        given = np.array(probability, np.float64)
        if not ((given >= 0) & (given <= 1)).all():
            raise InputError("P(rain) to calibrate must be numbers from 0 to 1, no NaN.")
        if self.slope == 1 and self.intercept == 0:
            return given
        return _logistic(self.slope * _logit(given) + self.intercept)

    def to_dict(self) -> dict[str, float]:
        """``{"slope": ..., "intercept": ...}``, as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, float]) -> Calibration:
        """The inverse of ``to_dict``; raises InputError on other keys and on infinite values."""
        if set(content) != {"slope", "intercept"} or not np.isfinite([*content.values()]).all():
            raise InputError(
                f"a calibration holds {dict(content)}; expected a finite slope and intercept."
            )
        return cls(float(content["slope"]), float(content["intercept"]))


def log_loss(probability: ArrayLike, label: ArrayLike) -> float:
    """-mean(ln P of what happened), P(rain) taken as at least 1e-7 and at most 1 - 1e-7."""
    given, truth = checked_forecast(probability, label)
    given = np.clip(given, SMALLEST, 1 - SMALLEST)
    return float(-np.mean(np.log(np.where(truth == 1, given, 1 - given))))


def fit_calibration(probability: ArrayLike, label: ArrayLike) -> Calibration:
    """The slope and intercept with the highest likelihood on validation.

    A forecast [n] that separates the labels [n], or labels of one class, have no finite maximum:
    there the labels are Platt's, (N1 + 1) / (N1 + 2) for rain and 1 / (N0 + 2) for dry with N1
    rainy and N0 dry windows. A constant forecast keeps slope 1 and gets the intercept alone, and so
    does any forecast of labels of one class. The log loss on validation is never made worse:
    should it be (Platt's labels can), or without windows, the forecast stays as it is. A forecast
    that ranks the wrong way round gets a negative slope: the sign of a broken model, not a remedy.
    Raises InputError as ``checked_forecast``.
    """
    given, truth = checked_forecast(probability, label)
    if not given.size:
        return Calibration()
    logit, target = _logit(given), truth.astype(np.float64)
    rainy, dry = logit[truth == 1], logit[truth == 0]
    one_class = not (rainy.size and dry.size)
    constant = float(np.ptp(logit)) == 0
    # The maximum is finite where the classes overlap: Albert & Anderson (1984),
    # doi:10.1093/biomet/71.1.1.
    overlap = not one_class and rainy.min() < dry.max() and dry.min() < rainy.max()
    if one_class or not (overlap or constant):
        target = np.where(truth == 1, (rainy.size + 1) / (rainy.size + 2), 1 / (dry.size + 2))
    found = _most_likely(logit, target, slope_is_one=one_class or constant)
    better = log_loss(found.apply(given), truth) < log_loss(given, truth)
    return found if better else Calibration()


def _most_likely(logit: Floats, target: Floats, slope_is_one: bool) -> Calibration:
    """Minimise the mean log loss, a convex function of slope and intercept."""
    # Imported here: loading a model for a forecast does not need it.
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    # Standardised, so that the two parameters are of one size.
    centre, scale = float(logit.mean()), float(logit.std()) or 1.0
    inputs = np.stack([(logit - centre) / scale, np.ones_like(logit)])
    offset = logit if slope_is_one else np.zeros_like(logit)
    inputs = inputs[1:] if slope_is_one else inputs

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = weights @ inputs + offset
        gradient = inputs @ (_logistic(z) - target) / target.size
        return float(np.mean(np.logaddexp(0.0, z) - target * z)), gradient

    def curvature(weights: Floats) -> Floats:
        chance = _logistic(weights @ inputs + offset)
        return (inputs * (chance * (1 - chance))) @ inputs.T / target.size

    start = np.zeros(len(inputs))
    found = minimize(
        loss, start, jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-11}
    ).x
    if slope_is_one:
        return Calibration(1.0, float(found[0]))
    slope = float(found[0]) / scale
    return Calibration(slope, float(found[1]) - slope * centre)


def _logit(probability: Floats) -> Floats:
    kept = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def _logistic(logit: Floats) -> Floats:
    # Through tanh: exp of a large negative logit would overflow.
    return 0.5 * (1 + np.tanh(0.5 * logit))
