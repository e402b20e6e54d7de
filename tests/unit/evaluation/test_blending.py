"""The blend of network and trees: weights from validation's forecasts and labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from timerxl.config import InputError
from timerxl.evaluation.blending import Blend, fit_blend
from timerxl.evaluation.calibration import log_loss


def test_the_weights_are_those_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    first, second = expit(rng.normal(size=(2, 200_000)) * 1.5)
    made = Blend(network=0.9, trees=0.4, intercept=-0.3)
    label = (rng.random(len(first)) < made.apply(first, second)).astype(np.int64)
    found = fit_blend(first, second, label)
    assert found.to_dict() == pytest.approx(made.to_dict(), abs=0.02)
    loss = log_loss(found.apply(first, second), label)
    assert loss <= min(log_loss(first, label), log_loss(second, label)) - 0.01


def test_it_is_a_logistic_function_of_both_logits() -> None:
    blend = Blend(network=0.5, trees=-0.25, intercept=0.1)
    odds = 0.5 * np.log(0.2 / 0.8) - 0.25 * np.log(0.7 / 0.3) + 0.1
    assert blend.apply([0.2], [0.7])[0] == pytest.approx(1 / (1 + np.exp(-odds)), rel=1e-12)
    assert np.isfinite(blend.log_odds([0.0, 1.0], [1.0, 0.0])).all()


def test_forecasts_that_separate_the_labels_get_finite_weights() -> None:
    found = fit_blend([0.1, 0.2, 0.8, 0.9], [0.3, 0.1, 0.7, 0.8], [0, 0, 1, 1])
    assert np.isfinite(list(found.to_dict().values())).all()


def test_labels_of_one_class_are_refused() -> None:
    with pytest.raises(InputError, match="hold one class"):
        fit_blend([0.1, 0.2], [0.2, 0.3], [1, 1])
