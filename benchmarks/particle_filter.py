"""A particle filter of the SYNTHETIC climates, to hold timerxl.data.observed_bound against.

    python benchmarks/particle_filter.py [--version 2] [--particles 20000] [--runs 2]

Prints the root mean square difference between the two forecasts on the built-in series' last 15 %,
and that between two runs of the particle filter, which is its Monte Carlo error.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from timerxl.config import SyntheticConfig
from timerxl.data import coupled_weather
from timerxl.data.observed_bound import BURN_IN_HOURS, observed_probability, rain_log_likelihood
from timerxl.data.synthetic import (
    NOISE,
    REGIONS,
    SIGNALS,
    HiddenWeather,
    observed_signals,
    seen_of_state,
    simulate_hidden,
    synthetic_series,
)

Floats = NDArray[np.float64]


def particle_probability(
    hidden: HiddenWeather, config: SyntheticConfig, first: int, last: int, count: int, seed: int
) -> Floats:
    """P(rain within the horizon | all observed so far) at the steps first .. last - 1: [n, G].

    Particles are states with the smoothings they imply. Each step weighs them by the rain of the
    step and by what the variables then say of the state to come, resamples, and draws that state
    from its Gaussian given the variables.
    """
    rng = np.random.default_rng(seed)
    move, noise = hidden.process
    regions, size = len(REGIONS), len(move)
    seen = np.vstack([of.T for of in seen_of_state(np.eye(size), config.version).values()])
    gain, smoothing, lasting = np.repeat(list(SIGNALS.values()), regions, axis=0).T
    keep, stay = np.exp(-config.step_hours / smoothing), np.exp(-config.step_hours / lasting)
    signals = np.hstack([observed_signals(hidden, config)[name] for name in SIGNALS])

    look = gain[:, None] * (1 - keep)[:, None] * seen
    scatter = look @ noise @ look.T + np.diag(NOISE**2 * (1 - stay**2))
    kalman = np.linalg.solve(scatter, look @ noise).T
    whiten = np.linalg.inv(np.linalg.cholesky(scatter)).T
    root = np.linalg.cholesky(noise - kalman @ look @ noise)
    ahead_root = np.linalg.cholesky(noise)

    state, smoothed = np.zeros((count, size)), np.zeros((count, len(keep)))
    for _ in range(200):  # until both are stationary
        smoothed = keep * smoothed + (1 - keep) * (state @ seen.T)
        state = state @ move.T + rng.standard_normal(state.shape) @ ahead_root.T
    found = []
    for t in range(max(first - BURN_IN_HOURS // config.step_hours, 0) + 1, last):
        weight = rain_log_likelihood(hidden, config, state, t)
        smoothed = keep * smoothed + (1 - keep) * (state @ seen.T)
        mean = state @ move.T
        expected = mean @ look.T + smoothed * gain * (keep - stay)
        surprise = signals[t] - stay * signals[t - 1] - expected
        weight = weight - 0.5 * np.square(surprise @ whiten).sum(axis=1)
        weight = np.exp(weight - weight.max())
        spokes = (np.arange(count) + rng.random()) / count
        kept = np.searchsorted(np.cumsum(weight) / weight.sum(), spokes).clip(max=count - 1)
        smoothed = smoothed[kept]
        state = (mean + surprise @ kalman.T)[kept] + rng.standard_normal(state.shape) @ root.T
        if t >= first:
            events, path = 0.0, state
            for k in range(1, hidden.horizon_steps + 1):
                events = events + coupled_weather.hazard(hidden.kinds, path, t + k)
                path = path @ move.T + rng.standard_normal(path.shape) @ ahead_root.T
            found.append(1 - np.exp(-events).mean(axis=0))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--version", type=int, default=2)
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    config = SyntheticConfig(version=options.version)
    hidden, series = simulate_hidden(config), synthetic_series(config)
    first = hidden.first_row + int(0.85 * (hidden.end_row - hidden.first_row))
    rows = np.flatnonzero(series.timestamps >= hidden.timestamps[first])
    of_filter = observed_probability(series, 24.0, rows).mean(axis=0)
    of_filter = of_filter.reshape(len(REGIONS), -1).T
    of_runs = [
        particle_probability(hidden, config, first, hidden.end_row, options.particles, seed)
        for seed in range(options.runs)
    ]
    particles = np.mean(of_runs, axis=0)
    label = series.ready_label[rows].reshape(len(REGIONS), -1).T

    def size(difference: Floats) -> float:
        return float(np.sqrt(np.mean(difference**2)))

    print(f"particle filter, {options.particles} particles, against itself:")
    print(f"  {size(of_runs[0] - of_runs[1]):.4f} between runs 1 and 2")
    print(f"against the mean of {options.runs} runs: {size(of_filter - particles):.4f}")
    for name, p in (("observed_bound", of_filter), ("particles", particles)):
        print(f"Brier score of {name}: {np.mean((p - label) ** 2):.5f}")


if __name__ == "__main__":
    main()
