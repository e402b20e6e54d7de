"""Platt scaling against direct optimisation, and the cases that have no maximum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss
from sklearn.metrics import roc_auc_score

from timerxl.config import InputError
from timerxl.evaluation.calibration import Calibration, fit_calibration, log_loss


def sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def shifted(seed: int, n: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """A forecast that is right after ``slope`` and ``intercept``."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(-0.5, 1.5, n)
    label = (generator.random(n) < sigmoid(slope * logit + intercept)).astype(np.int64)
    return sigmoid(logit), label


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1.0, 0.0), (0.4, -1.0), (2.5, 1.0), (-0.7, 0.2), (0.0, 0.5)]
)
def test_it_is_the_maximum_of_the_likelihood(slope: float, intercept: float) -> None:
    probability, label = shifted(0, 4000, slope, intercept)
    found = fit_calibration(probability, label)
    logit = np.log(probability / (1 - probability))

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * logit + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - label * z))

    best = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert (found.slope, found.intercept) == pytest.approx(best.x, abs=2e-5)
    plain = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], label)
    assert (found.slope, found.intercept) == pytest.approx(
        (plain.coef_[0, 0], plain.intercept_[0]), abs=1e-5
    )
    assert found.slope == pytest.approx(slope, abs=0.15)
    assert found.intercept == pytest.approx(intercept, abs=0.15)


@pytest.mark.parametrize("seed", range(40))
def test_validation_log_loss_never_gets_worse(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 30))
    label = generator.integers(0, 2, n)
    probability = np.round(generator.random(n), int(generator.integers(0, 3)))
    found = fit_calibration(probability, label)
    after = log_loss(found.apply(probability), label)
    assert np.isfinite([found.slope, found.intercept]).all()
    assert after <= log_loss(probability, label) + 1e-12


def test_log_loss_is_that_of_scikit_learn() -> None:
    probability, label = shifted(1, 200, 1.0, 0.3)
    assert log_loss(probability, label) == pytest.approx(reference_log_loss(label, probability))
    assert log_loss([1.0, 0.0], [0, 1]) == pytest.approx(-np.log(1e-7), rel=1e-6)


def test_separable_labels_and_one_class_take_platts_targets() -> None:
    probability = np.array([0.1, 0.3, 0.4, 0.6, 0.7])
    label = np.array([0, 0, 0, 1, 1])
    found = fit_calibration(probability, label)
    logit = np.log(probability / (1 - probability))
    target = np.where(label == 1, 3 / 4, 1 / 5)
    residual = sigmoid(found.slope * logit + found.intercept) - target
    assert residual.sum() == pytest.approx(0, abs=1e-8)
    assert (residual * logit).sum() == pytest.approx(0, abs=1e-8)
    # One tie at the border still separates: the slope would grow without end.
    touching = fit_calibration([0.1, 0.4, 0.4, 0.7], [0, 0, 1, 1])
    assert 0 < touching.slope < 10
    only_rain = fit_calibration([0.2, 0.4, 0.3], [1, 1, 1])
    assert only_rain.slope == 1
    assert only_rain.intercept > 0
    calibrated = only_rain.apply([0.2, 0.4, 0.3])
    assert calibrated.mean() == pytest.approx(4 / 5, abs=1e-9)
    # Platt's 4 / 5 is worse than what was said: nothing changes.
    assert fit_calibration([0.95, 0.97, 0.99], [1, 1, 1]) == Calibration()


def test_a_constant_forecast_gets_the_base_rate() -> None:
    found = fit_calibration(np.full(10, 0.9), [1, 0, 0, 0, 1, 0, 0, 0, 0, 1])
    assert found.slope == 1
    assert found.apply([0.9]) == pytest.approx([0.3])
    always = fit_calibration(np.ones(4), [1, 0, 0, 0])
    assert always.apply(np.ones(2)) == pytest.approx([0.25, 0.25])
    assert fit_calibration([], []) == Calibration()


def test_apply_keeps_the_order_the_shape_and_the_identity() -> None:
    probability, label = shifted(2, 500, 0.5, 0.4)
    calibrated = Calibration(0.5, 0.4).apply(probability.reshape(5, 100))
    assert calibrated.shape == (5, 100)
    assert roc_auc_score(label, calibrated.ravel()) == roc_auc_score(label, probability)
    logit = np.log(probability / (1 - probability))
    np.testing.assert_allclose(calibrated.ravel(), sigmoid(0.5 * logit + 0.4), atol=1e-12)
    ends = Calibration(3.0, -1.0).apply([0.0, 1.0])
    assert 0 <= ends[0] < 1e-6
    assert 1 - 1e-6 < ends[1] <= 1
    assert Calibration().apply([0.0, 0.123, 1.0]).tolist() == [0.0, 0.123, 1.0]
    with pytest.raises(InputError, match="from 0 to 1"):
        Calibration(2.0, 0.0).apply([0.5, np.nan])


def test_it_survives_a_dict() -> None:
    calibration = Calibration(0.8, -0.1)
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    for content in ({"slope": 1.0}, {"slope": 1.0, "intercept": np.nan}):
        with pytest.raises(InputError, match="finite slope and intercept"):
            Calibration.from_dict(content)
    with pytest.raises(InputError, match="neither 0 nor 1"):
        fit_calibration([0.2, 0.3], [0, 2])
