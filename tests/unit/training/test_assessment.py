"""What is chosen is chosen on validation, and differences are paired: small cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import EvalConfig
from timerxl.evaluation.assess import (
    Decision,
    Sample,
    assess,
    decide,
    thresholds_of,
    with_calibrated,
)

RNG = np.random.default_rng(3)
N = 1500
LABEL = {split: (RNG.random(N) < 0.6).astype(np.int64) for split in ("validation", "test")}
TIMES = np.datetime64("2020-01-01", "s") + np.arange(N) * np.timedelta64(12, "h")
SAMPLES = {split: Sample(LABEL[split], TIMES) for split in LABEL}


def noisy(split: str, noise: float, shift: float = 0.0) -> np.ndarray:
    """P(rain) that knows the label but for the noise."""
    logit = 2 * LABEL[split] - 1 + noise * RNG.standard_normal(N) + shift
    return 1 / (1 + np.exp(-logit))


def forecasts() -> dict[str, dict[str, np.ndarray]]:
    # By validation climatology is the best other forecast, by test the trees are.
    return {
        "model": {"validation": noisy("validation", 1.5, 2), "test": noisy("test", 1.5, 2)},
        "always_rain": {split: np.ones(N) for split in LABEL},
        "climatology": {"validation": noisy("validation", 2), "test": noisy("test", 9)},
        "gradient_boosting": {"validation": noisy("validation", 6), "test": noisy("test", 1)},
        "bayes": {"validation": noisy("validation", 0.1), "test": noisy("test", 0.1)},
    }


def assessed(config: EvalConfig) -> tuple[dict, Decision]:
    given = forecasts()
    decision = decide(config, given["model"]["validation"], LABEL["validation"])
    probabilities = with_calibrated(given, decision)
    thresholds = thresholds_of(probabilities, LABEL["validation"], decision, config)
    return assess(probabilities, SAMPLES, "test", thresholds, 0.6, config, 0), decision


def test_the_reference_is_chosen_on_validation_and_never_the_truth() -> None:
    found, _ = assessed(EvalConfig(num_resamples=200))
    assert found["references"]["roc_auc"] == "climatology"
    difference = found["differences"]["roc_auc"]
    scores = found["scores"]
    gap = scores["model"]["roc_auc"] - scores["climatology"]["roc_auc"]
    assert difference["estimate"] == pytest.approx(gap)
    assert difference["low"] < gap < difference["high"]
    assert difference["low"] > 0.05
    assert difference["skill"] == pytest.approx(gap / (1 - scores["climatology"]["roc_auc"]))
    assert {"pod", "far", "bias"} & set(found["references"]) == set()


def test_calibration_moves_the_probabilities_and_not_the_ranks() -> None:
    found, decision = assessed(EvalConfig(num_resamples=0))
    raw, calibrated = found["scores"]["model"], found["scores"]["model_calibrated"]
    assert decision.calibration.intercept < -1  # the model says rain too often by far
    assert calibrated["roc_auc"] == pytest.approx(raw["roc_auc"], abs=1e-12)
    assert calibrated["brier"] < raw["brier"] - 0.02
    assert calibrated["ece"] < raw["ece"] / 2
    curve = found["reliability"]["model_calibrated"]
    assert sum(point["num_windows"] for point in curve) == N
    assert max(abs(point["forecast"] - point["observed"]) for point in curve) < 0.15
    rainy = sum(point["observed"] * point["num_windows"] for point in curve)
    assert rainy == pytest.approx(LABEL["test"].sum())
    assert calibrated["mcc"] == pytest.approx(raw["mcc"], abs=0.02)


def test_thresholds_come_from_validation() -> None:
    config = EvalConfig(num_resamples=0)
    found, decision = assessed(config)
    assert decision.threshold > 0.7
    assert found["thresholds"]["always_rain"] == 0.5
    fixed, _ = assessed(EvalConfig(num_resamples=0, threshold=0.5))
    assert fixed["thresholds"]["model"] == 0.5
    assert fixed["scores"]["model"]["mcc"] < found["scores"]["model"]["mcc"]


def test_without_enough_time_there_is_no_interval_but_a_reason() -> None:
    short = {split: Sample(LABEL[split][:60], TIMES[:60]) for split in LABEL}
    probabilities = {
        name: {split: p[:60] for split, p in of.items()} for name, of in forecasts().items()
    }
    config = EvalConfig(num_resamples=50)
    decision = decide(config, probabilities["model"]["validation"], LABEL["validation"][:60])
    probabilities = with_calibrated(probabilities, decision)
    thresholds = thresholds_of(probabilities, LABEL["validation"][:60], decision, config)
    found = assess(probabilities, short, "test", thresholds, 0.6, config, 0)
    assert found["intervals"] == {}
    assert "14" in found["no_interval"]
    assert found["differences"]["roc_auc"]["low"] is None


def test_one_class_on_validation_ends_no_run() -> None:
    probabilities = forecasts()
    one_class = SAMPLES | {"validation": Sample(np.ones(N, np.int64), TIMES)}
    config = EvalConfig(num_resamples=0)
    decision = decide(config, probabilities["model"]["validation"], one_class["validation"].label)
    probabilities = with_calibrated(probabilities, decision)
    thresholds = thresholds_of(probabilities, one_class["validation"].label, decision, config)
    found = assess(probabilities, one_class, "test", thresholds, 0.6, config, 0)
    assert "roc_auc" not in found["references"]
    assert "brier" in found["references"]
