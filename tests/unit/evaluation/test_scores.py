"""Scores against scikit-learn, the weather services' ``scores`` and published values."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scores as weather_scores
import xarray as xr
from scipy.stats.contingency import association
from sklearn import metrics as reference

from timerxl.config import InputError
from timerxl.evaluation.scores import (
    LOWER_IS_BETTER,
    NOT_FOR_SELECTION,
    PERFECT,
    PROBABILITY_SCORES,
    TABLE_SCORES,
    RainTable,
    best_threshold,
    forecast_scores,
    rain_table,
)

KEYS = {
    *("f1", "macro_f1", "precision", "recall", "accuracy", "balanced_accuracy", "mcc"),
    *("hss", "pss", "ets", "csi", "pod", "far", "bias", "sedi", "predicted_rain_share"),
    *("roc_auc", "pr_auc", "brier", "bss", "ece"),
}
FINLEY = RainTable(hits=28, false_alarms=72, misses=23, correct_negatives=2680)


def forecasts_of(table: RainTable) -> tuple[np.ndarray, np.ndarray]:
    counts = [table.hits, table.false_alarms, table.misses, table.correct_negatives]
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1, 0, 1, 0], counts)


def a_forecast(seed: int, n: int, base_rate: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = (generator.random(n) < base_rate).astype(np.int64)
    logit = generator.normal(size=n) + 1.2 * (label - 0.5)
    # Two digits, so that there are ties and forecasts exactly at a threshold.
    return np.round(1 / (1 + np.exp(-logit)), 2), label


def test_keys_are_exactly_the_agreed_ones() -> None:
    assert set(forecast_scores([0.2, 0.7], [0, 1])) == KEYS
    assert set(TABLE_SCORES) | set(PROBABILITY_SCORES) == KEYS


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize(("seed", "base_rate"), [(0, 0.66), (1, 0.17), (2, 0.0), (3, 1.0)])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_agrees_with_scikit_learn(seed: int, base_rate: float, threshold: float) -> None:
    probability, label = a_forecast(seed, 400, base_rate)
    forecast = (probability >= threshold).astype(int)
    zero = {"zero_division": 0.0}
    expected = {
        "f1": reference.f1_score(label, forecast, **zero),
        "macro_f1": reference.f1_score(label, forecast, labels=[0, 1], average="macro", **zero),
        "precision": reference.precision_score(label, forecast, **zero),
        "recall": reference.recall_score(label, forecast, **zero),
        "accuracy": reference.accuracy_score(label, forecast),
        "balanced_accuracy": reference.balanced_accuracy_score(label, forecast),
        "mcc": reference.matthews_corrcoef(label, forecast),
        "brier": reference.brier_score_loss(label, probability, pos_label=1),
        "predicted_rain_share": forecast.mean(),
        "hss": 0.0 if base_rate in (0, 1) else reference.cohen_kappa_score(label, forecast),
        "roc_auc": np.nan if base_rate in (0, 1) else reference.roc_auc_score(label, probability),
        "pr_auc": np.nan
        if base_rate in (0, 1)
        else reference.average_precision_score(label, probability),
    }
    found = forecast_scores(probability, label, threshold)
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_agrees_with_the_weather_services_library() -> None:
    probability, label = a_forecast(4, 500, 0.4)
    found = forecast_scores(probability, label, 0.45)
    forecast, observed = xr.DataArray(probability, dims="t"), xr.DataArray(label, dims="t")
    table = weather_scores.categorical.BinaryContingencyManager(
        (forecast >= 0.45).astype(float), observed.astype(float)
    ).transform()
    expected = {
        "f1": table.f1_score(),
        "precision": table.success_ratio(),
        "recall": table.probability_of_detection(),
        "accuracy": table.accuracy(),
        "balanced_accuracy": (table.peirce_skill_score() + 1) / 2,
        "predicted_rain_share": table.forecast_rate(),
        "hss": table.heidke_skill_score(),
        "pss": table.peirce_skill_score(),
        "ets": table.equitable_threat_score(),
        "csi": table.critical_success_index(),
        "pod": table.probability_of_detection(),
        "far": table.false_alarm_ratio(),
        "bias": table.frequency_bias(),
        "sedi": table.symmetric_extremal_dependence_index(),
        "brier": weather_scores.probability.brier_score(forecast, observed),
        "roc_auc": weather_scores.probability.roc_auc(forecast, observed),
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(float(value), abs=1e-12), key


def test_finley_tornado_forecasts_have_their_published_scores() -> None:
    """Finley's forecasts of 1884; values as the WWRP/WGNE verification site prints them."""
    probability, label = forecasts_of(FINLEY)
    assert rain_table(probability, label, 0.5) == FINLEY
    found = forecast_scores(probability, label)
    assert found["accuracy"] == pytest.approx(0.966, abs=5e-4)
    published = {"pod": 0.549, "far": 0.720, "pss": 0.523, "csi": 0.228, "ets": 0.216, "hss": 0.355}
    for key, value in published.items():
        assert found[key] == pytest.approx(value, abs=5.1e-4), key
    assert found["bias"] == pytest.approx(1.96, abs=5e-3)
    assert found["recall"] == found["pod"] == pytest.approx(1 - 23 / 51)
    # Phi is Cramer's V of a 2 x 2 table.
    phi = association(np.array([[28, 72], [23, 2680]]), method="cramer")
    assert found["mcc"] == pytest.approx(phi, abs=1e-12)
    never = forecast_scores(np.zeros_like(probability), label)
    assert never["accuracy"] == pytest.approx(0.982, abs=5e-4)  # the critic's "no tornado"
    assert never["mcc"] == never["f1"] == 0


@pytest.mark.parametrize(("rainy", "total"), [(3817, 6026), (4160, 6025), (177, 1000)])
def test_always_rain_scores_as_documented(rainy: int, total: int) -> None:
    p = rainy / total
    label = np.repeat([1, 0], [rainy, total - rainy])
    found = forecast_scores(np.ones(total), label)
    expected = {
        **{"f1": 2 * p / (1 + p), "macro_f1": p / (1 + p), "precision": p, "recall": 1.0},
        **{"accuracy": p, "balanced_accuracy": 0.5, "mcc": 0.0, "roc_auc": 0.5},
        **{"brier": 1 - p, "predicted_rain_share": 1.0, "pr_auc": p, "ece": 1 - p},
        **{"bss": 1 - 1 / p, "hss": 0.0, "pss": 0.0, "ets": 0.0, "csi": p, "pod": 1.0},
        **{"far": 1 - p, "bias": 1 / p, "sedi": np.nan},
    }
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    no_skill = ("mcc", "hss", "pss", "ets")
    assert [found[key] for key in no_skill] == [0.0] * 4  # exactly
    never = forecast_scores(np.zeros(total), label)
    assert [never[key] for key in no_skill] == [0.0] * 4


ZEROS = {
    # hits, false alarms, misses, correct negatives -> the scores that need a decision
    (0, 0, 0, 5): {"far": np.nan, "bias": np.nan, "csi": 0, "hss": 0, "pss": 0, "ets": 0},
    (0, 3, 0, 5): {"far": 1, "bias": np.nan, "csi": 0, "hss": 0, "pss": 0, "ets": 0},
    (5, 0, 0, 0): {"far": 0, "bias": 1, "csi": 1, "hss": 0, "pss": 0, "ets": 0, "pod": 1},
    (0, 0, 4, 5): {"far": np.nan, "bias": 0, "csi": 0, "hss": 0, "pss": 0, "ets": 0, "pod": 0},
    (4, 0, 0, 5): {"far": 0, "bias": 1, "csi": 1, "hss": 1, "pss": 1, "ets": 1, "sedi": np.nan},
    (4, 1, 0, 5): {"sedi": np.nan},
    (4, 0, 1, 5): {"sedi": np.nan},
    (0, 2, 3, 5): {"sedi": np.nan, "ets": -6 / (5 * 10 - 6)},
    (2, 2, 5, 5): {"sedi": 0, "hss": 0, "pss": 0, "ets": 0, "mcc": 0},
}


@pytest.mark.parametrize("counts", ZEROS)
def test_zero_denominators_are_decided(counts: tuple[int, int, int, int]) -> None:
    found = {key: TABLE_SCORES[key](RainTable(*counts)) for key in ZEROS[counts]}
    assert found == pytest.approx(ZEROS[counts], abs=1e-15, nan_ok=True)


def test_an_array_of_tables_scores_as_one_by_one() -> None:
    counts = np.array([*ZEROS, (28, 72, 23, 2680), (7, 3, 2, 9)])
    for key, score in TABLE_SCORES.items():
        single = [score(RainTable(*map(int, row))) for row in counts]
        np.testing.assert_array_equal(score(RainTable(*counts.T)), single, err_msg=key)
        assert all(isinstance(value, float) for value in single), key


def test_perfect_values_and_directions() -> None:
    perfect = forecast_scores([0.0, 1.0, 1.0, 0.0], [0, 1, 1, 0])
    assert np.isnan(perfect.pop("sedi"))  # reached in the limit only
    del perfect["predicted_rain_share"]
    assert perfect == {key: PERFECT[key] for key in perfect}
    assert PERFECT["sedi"] == 1.0
    assert set(PERFECT) == KEYS - {"predicted_rain_share"}
    assert {key for key, value in PERFECT.items() if value == 0} == LOWER_IS_BETTER


def test_no_skill_wins_a_score_that_chooses_the_model() -> None:
    """Always rain, never rain, one sure window and the base rate against a forecast with skill."""
    probability, label = a_forecast(7, 2000, 0.66)
    skilful = forecast_scores(probability, label)
    one_sure = np.where(np.arange(2000) == np.flatnonzero(label)[0], 1.0, 0.0)
    without = [np.ones(2000), np.zeros(2000), np.full(2000, label.mean())]
    for key in KEYS - NOT_FOR_SELECTION:
        sign = -1 if key in LOWER_IS_BETTER else 1
        for forecast in [*without, one_sure] if key != "precision" else without:
            other = forecast_scores(forecast, label)[key]
            # At this base rate "always rain" has a high f1 and csi; docs/metrics.md warns of it.
            if not (key in ("f1", "csi") and np.ptp(forecast) == 0):
                assert np.isnan(other) or sign * skilful[key] > sign * other, key


def test_always_rain_looks_good_at_a_high_base_rate() -> None:
    label = np.repeat([1, 0], [3817, 6026 - 3817])
    assert forecast_scores(np.ones(6026), label)["f1"] == pytest.approx(0.7756, abs=5e-5)


def test_mcc_of_millions_of_windows_does_not_overflow() -> None:
    table = RainTable(6_000_000, 1_000_000, 2_000_000, 5_000_000)
    exact = (30 - 2) / (8 * 6 * 7 * 7) ** 0.5
    assert TABLE_SCORES["mcc"](table) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(
    ("probability", "label", "threshold", "message"),
    [
        ([0.2, np.nan], [0, 1], 0.5, "1 of 2 predictions.*nan at position 1"),
        ([0.2, 1.3], [0, 1], 0.5, "1.3 at position 1"),
        ([-0.1, 0.3], [0, 1], 0.5, "-0.1 at position 0"),
        ([0.2, 0.3], [0, 2], 0.5, "neither 0 nor 1.*2.0 at position 1"),
        ([0.2, 0.3], [0, np.nan], 0.5, "nan at position 1"),
        ([0.2, 0.3], [0], 0.5, r"shape \(2,\) and the labels \(1,\)"),
        ([[0.2, 0.8]], [[0, 1]], 0.5, "softmax"),
        (["wet"], [1], 0.5, "one number a window"),
        ([], [], 0.5, "no windows"),
        ([0.2, 0.3], [0, 1], 1.5, "threshold is 1.5"),
        ([0.2, 0.3], [0, 1], float("nan"), "threshold is nan"),
    ],
)
def test_unusable_input_is_refused(
    probability: list, label: list, threshold: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        forecast_scores(probability, label, threshold)


def brute_force(probability: np.ndarray, label: np.ndarray, key: str) -> tuple[float, float]:
    distinct = sorted(set(probability.tolist()))
    best = (-2.0, 0.0, 0.5)
    for lower, upper in pairwise(distinct):
        middle = (lower + upper) / 2
        score = round(forecast_scores(probability, label, middle)[key], 10)
        if key == "mcc":
            score = round(reference.matthews_corrcoef(label, probability >= middle), 10)
        if np.isnan(score):
            continue
        best = max(best, (score, -abs(middle - 0.5), middle))
    return best[2], best[0]


@pytest.mark.parametrize("key", ["mcc", "f1", "csi", "pss", "sedi", "balanced_accuracy"])
@pytest.mark.parametrize("seed", range(3))
def test_best_threshold_is_what_a_loop_finds(seed: int, key: str) -> None:
    probability, label = a_forecast(seed, 150, [0.2, 0.5, 0.8][seed % 3])
    threshold, score = brute_force(probability, label, key)
    found = best_threshold(probability, label, key)
    assert found == pytest.approx(threshold, abs=1e-12)
    assert forecast_scores(probability, label, found)[key] == pytest.approx(score, abs=1e-9)
    if key == "mcc":
        assert best_threshold(probability, label) == found


@pytest.mark.parametrize("score", ["far", "bias", "predicted_rain_share", "brier", "skill"])
def test_best_threshold_refuses_what_it_cannot_maximise(score: str) -> None:
    with pytest.raises(InputError, match=f"can't maximise '{score}'"):
        best_threshold([0.2, 0.7], [0, 1], score)


def test_best_threshold_separates_neighbouring_floats_and_single_precision() -> None:
    upper = np.nextafter(0.3, 1)
    assert best_threshold([0.3, upper], [0, 1]) == upper
    near = np.array([0.3, np.nextafter(np.float32(0.3), np.float32(1))], np.float32)
    found = best_threshold(near, [0, 1])
    assert forecast_scores(near, [0, 1], found)["mcc"] == 1.0


def test_best_threshold_never_collapses_and_is_neutral_without_a_choice() -> None:
    # Upside down: "always rain" would reach MCC 0, every real threshold is below.
    found = best_threshold([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0])
    assert 0.1 < found < 0.9
    assert best_threshold([0.7, 0.7], [0, 1]) == 0.5
    assert best_threshold([0.2, 0.7], [1, 1]) == 0.5
    assert best_threshold([], []) == 0.5


def test_every_score_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "metrics.md").read_text("utf-8")
    for key, score in {**TABLE_SCORES, **PROBABILITY_SCORES}.items():
        assert f"`{key}`" in text
        assert score.__doc__
