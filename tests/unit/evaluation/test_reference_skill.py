"""Which reference is the best on validation, and how far the model gets from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.evaluation.baselines import choose_reference, skill_score
from timerxl.evaluation.scores import brier_skill_score, forecast_scores

SCORES = {
    "always_rain": {"mcc": 0.0, "brier": 0.35, "bias": 1.5, "sedi": math.nan, "far": 0.35},
    "climatology": {"mcc": 0.3, "brier": 0.16, "bias": 1.2, "sedi": 0.4, "far": 0.2},
    "trees": {"mcc": 0.3, "brier": 0.18, "bias": 0.9, "sedi": 0.3, "far": 0.25},
}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mcc", "climatology"),  # a tie: the first
        ("brier", "climatology"),  # lower is better
        ("far", "climatology"),
        ("bias", "trees"),  # nearest to 1
        ("sedi", "climatology"),  # NaN never wins
    ],
)
def test_the_best_reference_on_validation(key: str, name: str) -> None:
    assert choose_reference(SCORES, key) == name


def test_no_reference_is_an_error() -> None:
    with pytest.raises(InputError, match="no reference has a number for sedi"):
        choose_reference({"always_rain": SCORES["always_rain"]}, "sedi")
    with pytest.raises(InputError, match="'predicted_rain_share' has no perfect value"):
        choose_reference(SCORES, "predicted_rain_share")


def test_skill_score_is_the_share_of_the_way() -> None:
    assert skill_score(0.12, 0.16, 0.0) == pytest.approx(0.25)
    assert skill_score(0.8, 0.75, 1.0) == pytest.approx(0.2)
    assert skill_score(0.7, 0.75, 1.0) == pytest.approx(-0.2)
    assert math.isnan(skill_score(1.0, 1.0, 1.0))
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 100)
    one, other = generator.random(100), generator.random(100)
    brier = [forecast_scores(p, label)["brier"] for p in (one, other)]
    assert skill_score(*brier, 0.0) == pytest.approx(brier_skill_score(one, label, other))
