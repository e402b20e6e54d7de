"""A page of a run that was trained for real, from what the trainer of today writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from timerxl.evaluation.references import TITLES
from timerxl.report.page import write_report
from timerxl.report.run_record import read_run

TINY_RUN = Path(__file__).parents[1] / "training" / "conftest.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("training_conftest", TINY_RUN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    folder: Path = tmp_path_factory.mktemp("real") / "run"
    module.tiny_run(folder, "train.epochs=2", "eval.num_resamples=50")
    return folder


def test_a_real_run(trained: Path) -> None:
    run = read_run(trained)
    assert run.problems == []
    results = json.loads((trained / "results.json").read_text())
    page = write_report(trained).read_text(encoding="utf-8")
    assert "SYNTHETIC DATA" in page
    assert f"{results['test']['roc_auc']:.3f}" in page
    for name in {"model", "model_calibrated", *results["baselines"]}:
        assert TITLES[name] in page
    assert 'id="curve-loss"' in page
    assert 'id="reliability"' in page
    steps = [event["step"] for event in run.events["train"]]
    assert steps == sorted(set(steps))
    assert run.axis == "epoch"
    assert run.points("validation", "f1")[0] == [1, 2]
    assert ('id="confusion"' in page) == (trained / "forecasts.parquet").exists()
