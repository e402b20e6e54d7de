"""The metric through the ``evaluate`` library, offline, in every way it's used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.evaluation.forecast_skill import ForecastSkill
from timerxl.evaluation.scores import forecast_scores

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def skill(tmp_path: Path) -> ForecastSkill:
    return ForecastSkill(cache_dir=str(tmp_path))


@pytest.fixture
def forecast() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.random(50), generator.integers(0, 2, 50)


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_one_call_equals_uneven_batches(
    tmp_path: Path, forecast: tuple[np.ndarray, np.ndarray], keep_in_memory: bool
) -> None:
    probability, label = forecast
    expected = forecast_scores(probability, label, 0.4)
    skill = ForecastSkill(cache_dir=str(tmp_path), keep_in_memory=keep_in_memory)
    assert skill.compute(predictions=probability, references=label, threshold=0.4) == expected
    for part in (slice(0, 32), slice(32, 50), slice(50, 50)):
        skill.add_batch(predictions=probability[part].tolist(), references=label[part])
    assert skill.compute(threshold=0.4) == expected
    for one, truth in zip(probability, label, strict=True):
        skill.add(prediction=one, reference=truth)
    assert skill.compute(threshold=0.4) == expected


def test_threshold_is_a_half_and_inclusive_by_default(skill: ForecastSkill) -> None:
    found = skill.compute(predictions=[0.5, 0.4999999, 0.9], references=[1, 0, 1])
    assert found["accuracy"] == 1.0
    assert found["predicted_rain_share"] == pytest.approx(2 / 3)


def test_one_class_gives_nan_where_two_are_needed(skill: ForecastSkill) -> None:
    found = skill.compute(predictions=[0.6, 0.2], references=[1, 1])
    unknown = {key for key, value in found.items() if np.isnan(value)}
    assert unknown == {"roc_auc", "pr_auc", "bss", "sedi"}


def test_the_base_rate_of_training_is_the_reference_of_bss(skill: ForecastSkill) -> None:
    found = skill.compute(predictions=[0.6, 0.2], references=[1, 0], base_rate=0.75)
    assert found["bss"] == pytest.approx(1 - (0.16 + 0.04) / (0.0625 + 0.5625))
    expected = forecast_scores([0.6, 0.2], [1, 0], base_rate=0.75)
    assert found == pytest.approx(expected, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0.1, float("nan")], [0, 1], "nan at position 1"),
        ([-2.3, 0.2], [0, 1], "-2.3 at position 0"),
        ([0.1, 1.01], [0, 1], "1.01 at position 1"),
        ([0.1, 0.2], [0.5, 1], "0.5 at position 0"),  # an int64 column would make it 0
        ([0.1, 0.2], [1], "shape"),
    ],
)
def test_a_bad_batch_is_refused_and_leaves_nothing_behind(
    skill: ForecastSkill, predictions: list, references: list, message: str
) -> None:
    good = {"predictions": [0.8, 0.3], "references": [1, 0]}
    with pytest.raises(InputError, match=message):
        skill.compute(predictions=predictions, references=references)
    skill.add_batch(**good)
    with pytest.raises(ValueError, match=message):
        skill.add_batch(predictions=predictions, references=references)
    expected = forecast_scores([0.8, 0.3], [1, 0])
    assert skill.compute() == pytest.approx(expected, abs=0, nan_ok=True)
    with pytest.raises(InputError, match="threshold is 7"):
        skill.compute(**good, threshold=7)
    assert skill.compute(**good)["mcc"] == 1.0


@pytest.mark.slow
def test_evaluate_loads_the_file_from_a_checkout_without_the_network(tmp_path: Path) -> None:
    code = """
import json, evaluate
skill = evaluate.load("timerxl/evaluation/forecast_skill.py")
skill.add_batch(predictions=[0.9, 0.2], references=[1, 0])
skill.add_batch(predictions=[0.6], references=[0])
try:
    skill.add_batch(predictions=[float("nan")], references=[0])
except ValueError as error:
    refused = str(error)
print(json.dumps([type(skill).__name__, skill.compute(threshold=0.5), refused]))
"""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    name, found, refused = json.loads(run.stdout.splitlines()[-1])
    assert name == "ForecastSkill"
    expected = forecast_scores([0.9, 0.2, 0.6], [1, 0, 0])
    assert found == pytest.approx(expected, abs=0, nan_ok=True)
    assert "nan at position 0" in refused
