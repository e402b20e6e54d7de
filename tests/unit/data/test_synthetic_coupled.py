"""Version 2 of the synthetic climate against independent references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError, SyntheticConfig
from timerxl.data import coupled_weather
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
    half, root, first = coupled_weather.step_matrices(5, 6)
    whole, whole_root, _ = coupled_weather.step_matrices(5, 12)
    np.testing.assert_allclose(half @ half, whole, atol=1e-12)
    noise = root @ root.T
    both = half @ noise @ half.T + noise
    np.testing.assert_allclose(both, whole_root @ whole_root.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(first @ first.T), 1, atol=1e-12)


def test_the_true_probability_agrees_with_a_plain_monte_carlo_run() -> None:
    hidden = simulate_hidden(SHORT)
    assert hidden.slope is not None
    assert hidden.ease is not None
    moments, paths = (70, 120, 200), 20_000
    rng = np.random.default_rng(5)
    move, root, _ = coupled_weather.step_matrices(5, 12)
    for t in moments:
        state = np.tile(hidden.state[t], (paths, 1))
        dry = np.ones((paths, 5), bool)
        for k in (1, 2):
            lift = hidden.slope[t + k] * state[:, 5:] + hidden.ease[t + k]
            k_sharp = coupled_weather.SHARPNESS
            wetness = -np.log(np.exp(-k_sharp * state[:, :5]) + np.exp(-k_sharp * lift)) / k_sharp
            rate = np.exp(hidden.drive[t + k] + coupled_weather.SENSITIVITY * wetness)
            dry &= rng.random(rate.shape) >= 1 - np.exp(-rate)
            state = state @ move.T + rng.standard_normal(state.shape) @ root.T
        rows = slice(t, t + 3)
        found = coupled_weather.dry_probability(
            hidden.drive[rows],
            hidden.slope[rows],
            hidden.ease[rows],
            hidden.state[t : t + 1],
            12,
            2,
        )
        np.testing.assert_allclose(found[0], dry.mean(axis=0), atol=0.02)


def test_the_true_probability_is_calibrated() -> None:
    table = synthetic_table(SyntheticConfig(version=2))
    chance, rain = table["true_probability"], table["rain_24h"]
    bins = np.minimum((chance * 10).astype(int), 9)
    gap = (rain.groupby(bins).mean() - chance.groupby(bins).mean()).abs()
    assert gap.max() < 0.025
