"""The best forecast from what is observed, against exact conditionals and a particle filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import toeplitz
from sklearn.metrics import roc_auc_score

from benchmarks.particle_filter import particle_probability
from timerxl.config import SyntheticConfig
from timerxl.data import coupled_weather, observed_bound
from timerxl.data.synthetic import (
    AMOUNT_SHAPE,
    NOISE,
    REGION_CORRELATION,
    REGIONS,
    SENSITIVITY,
    SIGNALS,
    amount_scale,
    observed_signals,
    simulate_hidden,
    synthetic_series,
)
from timerxl.evaluation.lagged_models import LogisticBaseline

OLD = SyntheticConfig(start="2016-02-25", end="2016-04-10")
NEW = replace(OLD, version=2)


def test_without_rain_it_is_the_conditional_of_the_joint_gaussian() -> None:
    hidden = simulate_hidden(OLD)
    drive = np.full_like(hidden.drive, -60.0)
    never = [[(drive, np.zeros((5, 5)))]]
    hidden = replace(hidden, kinds=never, precipitation_mm=np.zeros_like(drive))
    last = 8
    mean, covariance = observed_bound.filter_state(hidden, OLD, np.array([last]), 0)

    # All regions and variables over steps -150 .. last, by their autocovariances.
    past, steps = 150, last + 1
    correlation = np.full((5, 5), REGION_CORRELATION) + (1 - REGION_CORRELATION) * np.eye(5)
    decay = np.exp(-12 / 48.0)
    of_state = decay ** toeplitz(np.arange(past + steps))
    maps, noises = [], []
    for gain, smoothing, lasting in SIGNALS.values():
        keep, stay = np.exp(-12 / smoothing), np.exp(-12 / lasting)
        lag = np.arange(past, past + steps)[:, None] - np.arange(past + steps)
        smooth = np.where(lag >= 0, gain * (1 - keep) * keep ** np.maximum(lag, 0), 0.0)
        white = np.eye(last, steps, 1) - stay * np.eye(last, steps)
        maps.append(white @ smooth)
        noises.append(white @ (NOISE**2 * stay ** toeplitz(np.arange(steps))) @ white.T)
    look = np.vstack(maps)
    noise = np.zeros((len(look), len(look)))
    for k, block in enumerate(noises):
        noise[k * last : (k + 1) * last, k * last : (k + 1) * last] = block
    of_seen = np.kron(correlation, look @ of_state @ look.T) + np.kron(np.eye(5), noise)
    across = np.kron(correlation, of_state[-1:] @ look.T)
    signals = observed_signals(hidden, OLD)
    seen = []
    for region in range(5):
        for name, (_, _, lasting) in SIGNALS.items():
            values = signals[name][:steps, region]
            seen.append(values[1:] - np.exp(-12 / lasting) * values[:-1])
    weights = np.linalg.solve(of_seen, across.T).T
    np.testing.assert_allclose(mean[0], weights @ np.concatenate(seen), atol=1e-6)
    np.testing.assert_allclose(covariance[0], correlation - weights @ across.T, atol=1e-6)


def test_with_rain_alone_it_agrees_with_a_filter_on_a_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regions without correlation, and variables that say nothing of the state."""
    for name, (_, *hours) in SIGNALS.items():
        monkeypatch.setitem(SIGNALS, name, (1e-9, *hours))
    hidden, last = simulate_hidden(OLD), 60
    decay = hidden.process[0][0, 0]
    hidden = replace(hidden, process=(hidden.process[0], (1 - decay**2) * np.eye(5)))
    mean, covariance = observed_bound.filter_state(hidden, OLD, np.arange(1, last), 0)

    grid = np.linspace(-6, 6, 241)
    kernel = np.exp(-0.5 * (grid - decay * grid[:, None]) ** 2 / (1 - decay**2))
    kernel /= kernel.sum(axis=1, keepdims=True)
    scale = amount_scale(np.repeat(grid[:, None], 5, axis=1), OLD)
    density = np.tile(np.exp(-0.5 * grid**2)[:, None], 5)
    differences = []
    for t in range(1, last):
        rate = np.exp(hidden.drive[t] + SENSITIVITY * grid[:, None])
        amount = hidden.precipitation_mm[t]
        excess = np.maximum(amount - 0.1, 0) / scale
        wet = -np.expm1(-rate) * np.exp(-excess) * scale**-AMOUNT_SHAPE
        density = kernel.T @ (density * np.where(amount > 0, wet, np.exp(-rate)))
        density /= density.sum(axis=0)
        exact_mean = grid @ density
        exact_spread = np.sqrt(np.square(grid) @ density - exact_mean**2)
        spread = np.sqrt(np.diag(covariance[t - 1]))
        differences.append([mean[t - 1] - exact_mean, spread - exact_spread])
    # Of a state with a standard deviation of about 0.8.
    assert np.abs(differences).max() < 0.15
    assert np.sqrt(np.square(differences).mean()) < 0.02


@pytest.mark.parametrize("config", [OLD, NEW])
def test_it_agrees_with_a_particle_filter(config: SyntheticConfig) -> None:
    hidden, series = simulate_hidden(config), synthetic_series(config)
    first = hidden.first_row + 30
    last = first + 30
    times = hidden.timestamps[[first, last - 1]]
    rows = np.flatnonzero((series.timestamps >= times[0]) & (series.timestamps <= times[1]))
    found = observed_bound.observed_probability(series, 24.0, rows).reshape(2, 5, -1)
    runs = [particle_probability(hidden, config, first, last, 4000, seed) for seed in (0, 1)]
    particles = np.mean(runs, axis=0).T
    error = np.sqrt(np.mean((runs[0] - runs[1]) ** 2)) / 2
    assert error < 0.003
    assert np.sqrt(np.mean((found[0] - found[1]) ** 2)) < 0.005
    assert np.sqrt(np.mean((found.mean(axis=0) - particles) ** 2)) < 1.5 * error
    assert np.std(particles) > 0.15


def test_a_known_state_is_the_limit_of_a_narrow_one() -> None:
    hidden = simulate_hidden(NEW)
    rows = np.arange(60, 90)
    state = hidden.state[rows]
    narrow = np.broadcast_to(1e-6 * np.eye(10), (30, 10, 10))
    given = (hidden.kinds, hidden.process, state, rows, 2, 4096)
    known = coupled_weather.dry_probability(*given)
    np.testing.assert_allclose(known, coupled_weather.dry_probability(*given, narrow), atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_it_stands_between_the_hidden_state_and_a_fitted_model(version: int) -> None:
    config = SyntheticConfig(start="2019-01-01", version=version, seed=3)
    series = synthetic_series(config)
    assert series.ready_label is not None
    cut = series.timestamps[int(0.7 * len(series.timestamps) / len(REGIONS))]
    train = np.flatnonzero(series.timestamps < cut - np.timedelta64(24, "h"))
    test = np.flatnonzero(series.timestamps >= cut)
    label = series.ready_label
    model = LogisticBaseline(12.0, precipitation_column=0, lags=(1, 2, 4))
    model.fit(series.values, train, series.region_index, series.timestamps, label)
    observed = observed_bound.observed_probability(series, 24.0, test).mean(axis=0)
    ranked = [series.true_probability[test], observed, model.predict(test)]
    rain = label[test]
    aucs = [roc_auc_score(rain, p) for p in ranked]
    briers = [np.mean((p - rain) ** 2) for p in ranked]
    assert aucs[0] - 0.005 > aucs[1] > aucs[2] + 0.001
    assert briers[0] + 0.002 < briers[1] < briers[2] - 0.0005
    # Calibrated: a day rains as often as was said, in every tenth of the forecasts.
    edges = np.quantile(observed, np.linspace(0, 1, 11))[1:-1]
    tenth = np.digitize(observed, edges)
    for k in range(10):
        p = observed[tenth == k]
        # Labels 12 h apart share half their rain, and regions are correlated.
        error = 2 * np.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(rain[tenth == k].mean() - p.mean()) < 3 * error
