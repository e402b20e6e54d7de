"""What stands below the table at the end of a run."""

from __future__ import annotations

import pytest

from timerxl.config import load_recipe
from timerxl.evaluation.assess import Decision
from timerxl.evaluation.calibration import Calibration
from timerxl.training.final_evaluation import _caption, gap_recovered


def scores(model: float) -> dict[str, dict[str, float]]:
    aucs = {"model": model, "climatology": 0.7, "bayes_observed": 0.9, "bayes": 0.95}
    return {name: {"roc_auc": value, "brier": 1 - value} for name, value in aucs.items()}


def caption(model: float, *overrides: str) -> str:
    found = {
        "num_windows": 100,
        "rain_share": 0.5,
        "scores": scores(model),
        "observed_bound_error": {"roc_auc": 0.0002, "brier": 0.0001},
    }
    decision = Decision(threshold=0.4, calibration=Calibration())
    return _caption(load_recipe("quickstart", list(overrides)), 100, found, decision)


@pytest.mark.parametrize(("model", "share"), [(0.8, "50%"), (0.7, "nothing"), (0.65, "nothing")])
def test_no_negative_share_is_recovered(model: float, share: str) -> None:
    assert f"(ROC-AUC 0.900 ± 2e-04, Brier 0.100 ± 1e-04, errors of integration), {share} of " in (
        caption(model)
    )
    assert f" of ROC-AUC and {share} of Brier is recovered." in caption(model)


def test_the_share_is_of_the_gap_to_the_forecast_named() -> None:
    assert gap_recovered(scores(0.8), "bayes_observed") == pytest.approx(0.5)
    assert gap_recovered(scores(0.8), "bayes") == pytest.approx(0.4)
    assert gap_recovered(scores(0.8), "bayes_observed", "brier") == pytest.approx(0.5)
    assert gap_recovered({"climatology": {"roc_auc": 0.7}}, "bayes_observed") is None


def test_a_test_split_that_was_watched_was_not_scored_once() -> None:
    assert "scored once with the best model" in caption(0.8)
    watched = caption(0.8, "eval.test_every_epoch=true")
    assert "scored once" not in watched
    assert "scored at every evaluation (eval.test_every_epoch: contaminated)" in watched
