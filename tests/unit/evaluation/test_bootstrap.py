"""Block resamples against a naive loop, resampled scores against scores of the copied windows."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from timerxl.config import InputError
from timerxl.evaluation.bootstrap import (
    Interval,
    Resamples,
    block_resamples,
    paired_differences,
    resample_scores,
    why_no_interval,
)
from timerxl.evaluation.scores import forecast_scores

DAY = np.timedelta64(1, "D")
SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "bootstrap_coverage.py"
spec = importlib.util.spec_from_file_location("bootstrap_coverage", SCRIPT)
assert spec is not None
assert spec.loader is not None
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


def intervals(*arguments: Any) -> dict[str, dict[str, Interval]]:
    found = resample_scores(*arguments)
    return {
        name: {key: of.interval() for key, of in scores.items()} for name, scores in found.items()
    }


THRESHOLD, issue_times = coverage.THRESHOLD, coverage.issue_times
synthetic_forecasts, true_scores = coverage.synthetic_forecasts, coverage.true_scores


def uneven_sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times with a gap of 40 days, one to three regions at each; P(rain) with ties; labels."""
    generator = np.random.default_rng(0)
    days = np.r_[0:100, 140:220]
    hours = (days[:, None] * 24 + [0, 12]).ravel()
    stamps = np.datetime64("2021-02-01T06", "h") + np.repeat(
        hours, generator.integers(1, 4, hours.size)
    )
    label = generator.integers(0, 2, stamps.size)
    probability = np.round(np.clip(0.3 * label + 0.7 * generator.random(stamps.size), 0, 1), 2)
    order = generator.permutation(stamps.size)
    return stamps[order], probability[order], label[order]


def test_weights_count_the_blocks_that_cover_each_time() -> None:
    stamps, _, _ = uneven_sample()
    found = block_resamples(stamps, block_days=14, num_resamples=50, seed=3)
    distinct = np.unique(stamps)
    assert found.shape == (50, distinct.size)
    hours = (distinct - distinct[0]).astype(int)
    span = int(hours[-1]) + 12  # to the end of the last step
    number = -(-span // (14 * 24))
    starts = np.random.default_rng(3).integers(0, span * 3600, (50, number)) / 3600
    for row, begins in zip(found, starts, strict=True):
        expected = np.zeros(distinct.size, int)
        for block, begin in enumerate(begins):
            length = 14 * 24 if block < number - 1 else span - (number - 1) * 14 * 24
            expected += ((hours - begin) % span) < length
        assert row.tolist() == expected.tolist()


def test_blocks_are_days_of_the_calendar_and_every_time_is_drawn_alike() -> None:
    stamps = np.datetime64("2020-01-01") + np.arange(280) * DAY
    found = block_resamples(stamps, num_resamples=4000)
    assert (found.sum(axis=1) == 280).all()  # without gaps every resample is as long as the sample
    assert found.mean(axis=0) == pytest.approx(np.ones(280), abs=0.08)
    # With one block of 14 days a time is drawn together with the day k after it 14 - k times of 14.
    centred = found - 1.0
    for lag in (1, 7, 13, 14, 30):
        shared = (centred * np.roll(centred, lag, axis=1)).mean()
        expected = max(14 - lag, 0) / 14 - 14 / 280
        assert shared == pytest.approx(expected, abs=0.03), lag
    hourly = np.datetime64("2020-01-01T00", "h") + np.arange(280 * 24)
    fine = block_resamples(hourly, num_resamples=5)
    assert np.abs(np.diff(fine, axis=1)).sum(axis=1).max() <= 2 * 20  # twenty blocks, whole ones
    np.testing.assert_array_equal(fine, block_resamples(hourly, num_resamples=5))
    assert (fine != block_resamples(hourly, num_resamples=5, seed=1)).any()


@pytest.mark.parametrize("base_rate", [None, 0.3])
def test_resampled_scores_are_those_of_the_copied_windows(base_rate: float | None) -> None:
    stamps, probability, label = uneven_sample()
    forecasts = {"one": probability, "two": np.full(label.size, 0.4)}
    thresholds = {"one": 0.45, "two": 0.5}
    options = {"base_rate": base_rate, "num_resamples": 30, "seed": 5}
    found = resample_scores(forecasts, label, stamps, thresholds, **options)  # type: ignore[arg-type]
    weights = block_resamples(stamps, num_resamples=30, seed=5)
    place = np.unique(stamps, return_inverse=True)[1]
    for name, forecast in forecasts.items():
        sample = forecast_scores(forecast, label, thresholds[name], base_rate)
        for key, value in sample.items():
            assert found[name][key].estimate == pytest.approx(value, abs=0, nan_ok=True)
        for index, weight in enumerate(weights):
            copies = np.repeat(np.arange(label.size), weight[place])
            scores = forecast_scores(forecast[copies], label[copies], thresholds[name], base_rate)
            # The bins of the sample stay, those of the copies would differ.
            del scores["ece"]
            values = {key: found[name][key].values[index] for key in scores}
            assert values == pytest.approx(scores, abs=1e-10, nan_ok=True)
    gap = abs(
        (
            found["two"]["ece"].values
            - abs(0.4 - (weights @ np.bincount(place, label)) / (weights @ np.bincount(place)))
        ).max()
    )
    assert gap < 1e-12


def test_the_interval_reaches_as_far_as_students_t() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 200_000)
    interval = Resamples(2.0, values, values, num_blocks=20.0).interval()
    reach = np.sqrt(20 / 19) * stats.t.ppf(0.975, 19)
    assert interval.low == pytest.approx(2 - reach, abs=0.03)
    assert interval.high == pytest.approx(2 + reach, abs=0.03)
    # Half as long blocks with half the variance: f^2 = 2 - 1/2.
    wider = Resamples(2.0, values, 2 + (values - 2) / np.sqrt(2), num_blocks=20.0).interval()
    assert wider.high == pytest.approx(2 + np.sqrt(1.5) * reach, abs=0.05)
    unwidened = Resamples(2.0, values, 2 + 3 * (values - 2), num_blocks=20.0).interval()
    assert unwidened == interval


def test_there_is_no_interval_without_enough_blocks_or_a_score() -> None:
    stamps, probability, label = uneven_sample()
    short = stamps < stamps.min() + 50 * DAY
    reason = why_no_interval(stamps[short], 14)
    assert reason == "the windows span 3.57 blocks of 14 days; an interval needs 4 or more"
    found = intervals({"f": probability[short]}, label[short], stamps[short], {"f": 0.5})
    assert {(i.low, i.high, i.reason) for i in found["f"].values()} == {(None, None, reason)}
    with pytest.raises(InputError, match=r"3\.57 blocks"):
        block_resamples(stamps[short])
    # A year between two weeks is no sample of a year.
    far = np.datetime64("2020-01-01") + np.r_[0:7, 365:372] * DAY
    assert "2 blocks" in str(why_no_interval(far))
    assert why_no_interval(stamps, 14) is None
    rain = intervals({"f": np.ones(label.size)}, label, stamps, {"f": 0.5})["f"]
    assert (rain["mcc"].low, rain["mcc"].high) == (0.0, 0.0)
    assert rain["sedi"].reason == "the score is undefined on these windows"
    once = np.zeros(label.size, int)
    once[np.argmin(stamps)] = 1
    rare = intervals({"f": probability}, once, stamps, {"f": 0.5})["f"]
    assert rare["roc_auc"].low is None
    assert "undefined in 3" in str(rare["roc_auc"].reason)  # (1 - 1/16)^16 = 36 %


def test_paired_differences_are_narrower_and_share_their_blocks() -> None:
    generator = np.random.default_rng(2)
    probability, label = (a[0] for a in synthetic_forecasts(generator, 1, 800, 3.0))
    times = issue_times(800)
    logit = np.log(probability / (1 - probability))
    noisy = 1 / (1 + np.exp(-logit - 0.5 * generator.normal(size=logit.size)))
    forecasts = {"gradient_boosting": probability, "noisy": noisy, "same": probability}
    thresholds = dict.fromkeys(forecasts, THRESHOLD)
    gaps = paired_differences(forecasts, label, times, thresholds)
    assert set(gaps) == {"noisy", "same"}
    assert all((g.estimate, g.low, g.high) == (0, 0, 0) for g in gaps["same"].values())
    alone = intervals(forecasts, label, times, thresholds)
    for key in ("roc_auc", "brier", "pr_auc"):
        gap, own = gaps["noisy"][key], alone["noisy"][key]
        expected = (
            forecast_scores(noisy, label, THRESHOLD)[key]
            - forecast_scores(probability, label, THRESHOLD)[key]
        )
        assert gap.estimate == pytest.approx(expected, abs=1e-12)
        assert None not in (gap.low, gap.high, own.low, own.high)
        assert gap.high - gap.low < 0.5 * (own.high - own.low)  # type: ignore[operator]
    assert gaps["noisy"]["roc_auc"].high < 0 < gaps["noisy"]["brier"].low  # type: ignore[operator]
    with pytest.raises(InputError, match="no forecast 'trees'"):
        paired_differences(forecasts, label, times, thresholds, reference="trees")


def test_unusable_input_is_refused() -> None:
    stamps, probability, label = uneven_sample()
    with pytest.raises(InputError, match="no threshold for f"):
        resample_scores({"f": probability}, label, stamps, {})
    with pytest.raises(InputError, match="issue times and"):
        resample_scores({"f": probability}, label, stamps[:-1], {"f": 0.5})
    with pytest.raises(InputError, match="datetime64, no NaT"):
        block_resamples(np.append(stamps, np.datetime64("NaT")))
    with pytest.raises(InputError, match="datetime64"):
        block_resamples(np.arange(100))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="block_days is 0"):
        block_resamples(stamps, block_days=0)


def test_a_thousand_resamples_of_six_thousand_windows_take_seconds() -> None:
    generator = np.random.default_rng(4)
    probability, label = (a[0] for a in synthetic_forecasts(generator, 1, 1200, 3.0))
    began = time.process_time()
    resample_scores({"f": probability}, label, issue_times(1200), {"f": THRESHOLD})
    assert time.process_time() - began < 20


@pytest.mark.slow
def test_intervals_are_as_wide_as_scores_vary_and_hold_the_true_one() -> None:
    """80 series of a year and a half; benchmarks/bootstrap_coverage.py has the full table.

    400 series there hold 91 (brier), 92.5 (roc_auc) and 95 % (mcc); 2.5 standard errors of 80
    series are 8 points. Windows taken as independent hold 47, 62 and 70 %, in intervals a third
    to a half as wide.
    """
    num_steps, spell_days, num_series = 1096, 3.0, 80
    truth = true_scores(num_steps, spell_days, num_series=200)
    times = issue_times(num_steps)
    generator = np.random.default_rng(11)
    probability, label = synthetic_forecasts(generator, num_series, num_steps, spell_days)
    keys = ["brier", "mcc", "roc_auc"]
    ends, estimates = np.empty((num_series, 3, 2)), np.empty((num_series, 3))
    for seed in range(num_series):
        scored = resample_scores(
            {"f": probability[seed]},
            label[seed],
            times,
            {"f": THRESHOLD},
            num_resamples=400,
            seed=seed,
        )["f"]
        for column, key in enumerate(keys):
            interval = scored[key].interval()
            ends[seed, column] = interval.low, interval.high
            estimates[seed, column] = scored[key].estimate
    true = np.array([truth[key] for key in keys])
    held = ((ends[..., 0] <= true) & (true <= ends[..., 1])).mean(axis=0)
    assert (held >= np.array([0.91, 0.95, 0.925]) - 0.08).all(), held
    width = (ends[..., 1] - ends[..., 0]).mean(axis=0) / (2 * 1.96 * estimates.std(axis=0))
    assert ((width > 0.85) & (width < 1.3)).all(), width
