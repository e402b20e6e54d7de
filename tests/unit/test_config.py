"""Values that no run could use are refused when the recipe is read, by their key."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import VALIDATION_METRICS, InputError, load_recipe
from timerxl.metrics.scores import forecast_scores


def test_an_unknown_metric_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"train\.metric_for_best_model is 'nonsense'.*roc_auc"):
        load_recipe("quickstart", ["train.metric_for_best_model=nonsense"])


def test_every_score_of_an_evaluation_may_choose_the_best_model() -> None:
    scores = forecast_scores(np.array([0.2, 0.9]), np.array([0, 1]), 0.5)
    assert set(VALIDATION_METRICS) == {"loss", *scores} - {"predicted_rain_share"}
