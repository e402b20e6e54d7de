"""Scores of P(rain) against their definitions, ties and single classes included."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.evaluation.scores import brier_skill_score, ece, forecast_scores, reliability


def a_forecast(seed: int, n: int, base_rate: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = (generator.random(n) < base_rate).astype(np.int64)
    logit = generator.normal(size=n) + 1.2 * (label - 0.5)
    return np.round(1 / (1 + np.exp(-logit)), 2), label


def test_brier_skill_score_against_each_reference() -> None:
    probability, label = a_forecast(8, 300, 0.3)
    own = np.mean((probability - label) ** 2)
    p = label.mean()
    found = forecast_scores(probability, label)["bss"]
    assert found == pytest.approx(1 - own / (p * (1 - p)), abs=1e-12)
    told = forecast_scores(probability, label, base_rate=0.25)["bss"]
    assert told == pytest.approx(1 - own / np.mean((0.25 - label) ** 2), abs=1e-12)
    assert told > found  # the sample's own base rate is the hardest constant
    other = np.random.default_rng(0).random(300)
    assert brier_skill_score(probability, label, other) == pytest.approx(
        1 - own / np.mean((other - label) ** 2)
    )
    assert brier_skill_score(other, label, other) == 0.0
    assert np.isnan(forecast_scores([0.2, 0.3], [0, 0])["bss"])
    with pytest.raises(InputError, match=r"base_rate is 1\.2"):
        forecast_scores(probability, label, base_rate=1.2)


def test_reliability_of_distinct_forecasts_is_that_of_equal_groups() -> None:
    generator = np.random.default_rng(9)
    probability = generator.random(205)
    label = (generator.random(205) < probability**2).astype(np.int64)
    curve = reliability(probability, label)
    assert np.ptp(curve.num_windows) <= 1
    assert curve.num_windows.sum() == 205
    even = reliability(probability[:200], label[:200])
    groups = np.split(np.argsort(probability[:200]), 10)
    np.testing.assert_allclose(even.mean_probability, [probability[g].mean() for g in groups])
    np.testing.assert_allclose(even.observed_share, [label[g].mean() for g in groups])
    gaps = [abs(probability[g].mean() - label[g].mean()) for g in groups]
    assert ece(probability[:200], label[:200]) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_reliability_keeps_equal_forecasts_together() -> None:
    label = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    curve = reliability(np.full(10, 0.3), label)
    assert curve.num_windows.tolist() == [10]
    assert ece(np.full(10, 0.3), label) == pytest.approx(0, abs=1e-12)
    halves = reliability(np.repeat([0.2, 0.9], [3, 7]), label)
    assert halves.num_windows.tolist() == [3, 7]
    assert halves.observed_share.tolist() == [1.0, 0.0]
    with pytest.raises(InputError, match="num_bins is 0"):
        reliability(np.full(10, 0.3), label, 0)


def test_a_reliable_forecast_has_the_documented_ece_by_chance() -> None:
    generator = np.random.default_rng(10)
    probability = generator.random((200, 1000))
    label = (generator.random((200, 1000)) < probability).astype(np.int64)
    mean = np.mean([ece(p, y) for p, y in zip(probability, label, strict=True)])
    expected = 0.8 * np.sqrt(10 * np.mean(probability * (1 - probability)) / 1000)
    assert mean == pytest.approx(expected, rel=0.1)


def test_roc_auc_of_continuous_forecasts_counts_the_pairs() -> None:
    generator = np.random.default_rng(5)
    probability, label = generator.random(120), generator.integers(0, 2, 120)
    rainy, dry = probability[label == 1], probability[label == 0]
    pairs = (rainy[:, None] > dry).mean() + 0.5 * (rainy[:, None] == dry).mean()
    assert forecast_scores(probability, label)["roc_auc"] == pytest.approx(pairs, abs=1e-12)
