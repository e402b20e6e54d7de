"""What stands below the table at the end of a run."""

from __future__ import annotations

import pytest

from timerxl.config import load_recipe
from timerxl.evaluation.assess import Decision
from timerxl.evaluation.calibration import Calibration
from timerxl.training.final_evaluation import _caption


def caption(model: float, *overrides: str) -> str:
    aucs = {"model": model, "climatology": 0.7, "bayes": 0.9}
    scores = {name: {"roc_auc": value} for name, value in aucs.items()}
    found = {"num_windows": 100, "rain_share": 0.5, "scores": scores}
    decision = Decision(threshold=0.4, calibration=Calibration())
    return _caption(load_recipe("quickstart", list(overrides)), 100, found, decision)


@pytest.mark.parametrize(("model", "share"), [(0.8, "50%"), (0.7, "nothing"), (0.65, "nothing")])
def test_no_negative_share_is_recovered(model: float, share: str) -> None:
    assert f"from climatology to Bayes, {share} is recovered." in caption(model)


def test_a_test_split_that_was_watched_was_not_scored_once() -> None:
    assert "scored once with the best model" in caption(0.8)
    watched = caption(0.8, "eval.test_every_epoch=true")
    assert "scored once" not in watched
    assert "scored at every evaluation (eval.test_every_epoch: contaminated)" in watched
