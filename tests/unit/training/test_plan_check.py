"""The plan's check is of training: it is taken before the best model is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

from timerxl.config import load_recipe
from timerxl.training import run
from timerxl.training.precision import SettingChoice
from timerxl.training.run_cost import Prediction


def test_the_peak_is_read_before_the_final_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = (
        "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
        "model.patch_length=8 model.context_length=16 model.hidden_size=16 train.max_steps=2 "
        "model.intermediate_size=32 model.num_hidden_layers=1 train.trackers=[] "
        "eval.fitted_baselines=false eval.num_resamples=0"
    )
    config = load_recipe("quickstart", [*tiny.split(), f"output_dir={tmp_path / 'run'}"])
    now = {"peak": 3.0}
    monkeypatch.setattr("timerxl.training.run_cost.peak_memory_gib", lambda: now["peak"])
    score_best = run.score_best

    def scored(*arguments: Any) -> Any:
        now["peak"] = 7.0  # whatever scoring needs
        return score_best(*arguments)

    monkeypatch.setattr(run, "score_best", scored)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    said = Prediction(2.0, 1.0, "plan: two", SettingChoice("false", "no GPU"))
    found = run.train(config, run.RunCallbacks(predict=lambda *facts: said))
    assert found["plan"]["measured_peak_memory_gib"] == 3.0
    assert found["plan"]["predicted_peak_memory_gib"] == 2.0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    plan = next(event for event in map(json.loads, lines) if event["event"] == "plan")
    assert plan["data_on_device"]["value"] == "false"
