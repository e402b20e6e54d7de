"""Version 2 of the synthetic climate against independent references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError, SyntheticConfig
from timerxl.data import coupled_weather
from timerxl.data.coupled_weather import LARGE_SCALE, SHOWERS
from timerxl.data.preprocessing import _saved_data
from timerxl.data.synthetic import FEATURE_NAMES, simulate_hidden, synthetic_table

SHORT = SyntheticConfig(start="2016-02-25", end="2016-06-20", version=2)


def test_same_config_same_bits_and_another_weather_than_version_1() -> None:
    table = synthetic_table(SHORT)
    pd.testing.assert_frame_equal(table, synthetic_table(SHORT), check_exact=True)
    old = synthetic_table(SyntheticConfig(start=SHORT.start, end=SHORT.end, version=1))
    assert list(table.columns) == list(old.columns)
    assert np.array_equal(table["timestamp"], old["timestamp"])
    assert not np.array_equal(table["tp"], old["tp"])
    assert np.isfinite(table[FEATURE_NAMES].to_numpy()).all()
    assert table["true_probability"].between(0, 1).all()


def test_a_longer_horizon_leaves_the_weather_as_it_is() -> None:
    near, far = synthetic_table(SHORT), synthetic_table(SHORT, 96)
    pd.testing.assert_frame_equal(near[FEATURE_NAMES], far[FEATURE_NAMES], check_exact=True)
    assert (far["true_probability"] >= near["true_probability"] - 0.02).all()


@pytest.mark.parametrize("version", [0, 3])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(InputError, match=f"data.synthetic.version is {version}; expected 1"):
        synthetic_table(SyntheticConfig(version=version))


def test_a_saved_model_without_a_version_is_of_version_1() -> None:
    assert _saved_data({"synthetic": {"step_hours": 6}}).synthetic.version == 1
    assert _saved_data({"synthetic": {"version": 2}}).synthetic.version == 2


def test_two_steps_of_six_hours_are_one_of_twelve() -> None:
    half, noise, stationary = coupled_weather.step_matrices(5, 6)
    whole, whole_noise, _ = coupled_weather.step_matrices(5, 12)
    np.testing.assert_allclose(half @ half, whole, atol=1e-12)
    np.testing.assert_allclose(half @ noise @ half.T + noise, whole_noise, atol=1e-12)
    np.testing.assert_allclose(np.diag(stationary), 1, atol=1e-12)


def test_a_shower_needs_both_and_the_other_rain_comes_with_the_inflow() -> None:
    zero = np.zeros((1, 5))
    showers, large_scale = coupled_weather.kinds_of_rain(zero, zero)
    states = np.zeros((4, 10))
    states[1, 2] = states[2, 7] = 1.5  # moisture of region 2, its instability, both
    states[3, [2, 7]] = 1.5
    calm, moist, unstable, both = coupled_weather.hazard([showers], states, 0)[:, 2]
    assert calm < moist == unstable < 2 * calm
    assert both > 30 * calm
    states = np.zeros((3, 10))
    states[1, 3], states[2, 7] = 1.5, 1.5  # upwind of region 2 is region 3
    calm, inflow, unstable = coupled_weather.hazard([large_scale], states, 0)[:, 2]
    assert inflow > 2 * calm
    assert unstable == calm


@pytest.mark.parametrize(("step", "horizon"), [(12, 24), (1, 24), (6, 6)])
def test_the_true_probability_agrees_with_a_plain_monte_carlo_run(step: int, horizon: int) -> None:
    config = replace(SHORT, step_hours=step)
    hidden, table = simulate_hidden(config), synthetic_table(config, horizon)
    truth = table["true_probability"].to_numpy().reshape(5, -1)
    members = 20_000
    rng = np.random.default_rng(5)
    move, noise, _ = coupled_weather.step_matrices(5, step)
    root = np.linalg.cholesky(noise)
    (moist, unstable), (inflow,) = hidden.kinds
    for row in (10, 61, 140):
        t = hidden.first_row + row
        state = np.tile(hidden.state[t], (members, 1))
        dry = np.ones((members, 5), bool)
        for k in range(1, horizon // step + 1):
            m, u = state[:, :5], state[:, 5:]
            upwind = m[:, [2, 0, 3, 4, 4]]
            scarce = 1 / (np.exp(-SHOWERS * m) + np.exp(-SHOWERS * u))
            rate = np.exp(moist[0][t + k]) * scarce
            rate += np.exp(inflow[0][t + k] + LARGE_SCALE * (m + upwind) / 2)
            dry &= rng.random(rate.shape) >= 1 - np.exp(-rate)
            state = state @ move.T + rng.standard_normal(state.shape) @ root.T
        assert np.array_equal(moist[0], unstable[0])
        error = 4 * np.sqrt(truth[:, row] * (1 - truth[:, row]) / members) + 0.006
        assert (np.abs(1 - dry.mean(axis=0) - truth[:, row]) < error).all()


def test_the_true_probability_is_calibrated() -> None:
    table = synthetic_table(SyntheticConfig(version=2))
    chance, rain = table["true_probability"], table["rain_24h"]
    bins = np.minimum((chance * 10).astype(int), 9)
    gap = (rain.groupby(bins).mean() - chance.groupby(bins).mean()).abs()
    assert gap.max() < 0.025
