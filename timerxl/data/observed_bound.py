"""P(rain | everything observed so far) on the SYNTHETIC climates, whose parameters are known.

Each observed variable is a smoothing of the hidden state plus AR(1) noise, so that state and
smoothings are a linear-Gaussian state space with the noise's innovations as observation noise: a
Kalman filter. The rain of a step, and its amount, tell more about the state the step began with:
after each step the state's mean and covariance are replaced by those of the exact posterior, a
quasi Monte Carlo integral over the state of all regions at once (assumed density filtering, Maybeck
1982, chapter 12). The forecast integrates over what is then known of the state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, solve_discrete_lyapunov  # type: ignore[import-untyped]

from timerxl.config import SyntheticConfig
from timerxl.data import coupled_weather
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic import (
    NOISE,
    SIGNALS,
    HiddenWeather,
    amount_log_density,
    observed_signals,
    seen_of_state,
    simulate_hidden,
)

Floats = NDArray[np.float64]

BURN_IN_HOURS = 20 * 24  # ten times the state's memory
POINTS = 512  # of the integral over the state after each step's rain
PATHS, FEW_PATHS = 512, 128  # of the integral over the states to come; few for many steps


def observed_probability(
    series: WeatherSeries, horizon_hours: float, rows: NDArray[np.int64]
) -> Floats:
    """Return P(rain within ``horizon_hours`` | all variables of all regions until then) at ``rows``
    [n] of a synthetic ``series``: [2, n], two runs, which differ by the integrals' error."""
    keys = ("step_hours", "start", "end", "seed", "version")
    config = SyntheticConfig(**{key: series.source[key] for key in keys})
    hidden = simulate_hidden(config, horizon_hours)
    times, place = np.unique(series.timestamps[rows], return_inverse=True)
    at = np.searchsorted(hidden.timestamps, times)
    runs = []
    for seed in (0, 1):
        mean, covariance = filter_state(hidden, config, at, seed)
        dry = coupled_weather.dry_probability(
            hidden.kinds,
            hidden.process,
            mean,
            at,
            hidden.horizon_steps,
            FEW_PATHS if hidden.horizon_steps > 4 else PATHS,
            np.asarray(np.linalg.cholesky(covariance), np.float64),
            seed,
        )
        runs.append(1 - dry[place, series.region_index[rows]])
    return np.array(runs)


def filter_state(
    hidden: HiddenWeather, config: SyntheticConfig, at: NDArray[np.int64], seed: int
) -> tuple[Floats, Floats]:
    """Return the state's mean [n, S] and covariance [n, S, S] given all observed up to each of the
    sorted steps ``at`` [n]."""
    move, noise = hidden.process
    size, regions, step = len(move), hidden.precipitation_mm.shape[1], config.step_hours
    seen = np.vstack([of.T for of in seen_of_state(np.eye(size), config.version).values()])
    gain, smoothing_hours, noise_hours = np.repeat(list(SIGNALS.values()), regions, axis=0).T
    keep, lasting = np.exp(-step / smoothing_hours), np.exp(-step / noise_hours)
    signals = observed_signals(hidden, config)
    observed = np.hstack([signals[name] for name in SIGNALS])  # [T, 7 G]
    # State and the smoothings a step before; less ``lasting`` times the value before, a variable's
    # noise is white.
    fed = (1 - keep)[:, None] * seen
    transition = np.block([[move, np.zeros((size, len(keep)))], [fed, np.diag(keep)]])
    driven = block_diag(noise, np.zeros((len(keep), len(keep))))
    observe = gain[:, None] * np.hstack([fed, np.diag(keep - lasting)])
    error = np.diag(NOISE**2 * (1 - lasting**2))

    points = coupled_weather.normal_draws(POINTS, size, seed)
    points -= points.mean(axis=0)
    points = np.linalg.solve(np.linalg.cholesky(points.T @ points / POINTS), points.T).T

    first = max(int(at[0]) - BURN_IN_HOURS // step, 0)
    mean = np.zeros(size + len(keep))
    covariance = solve_discrete_lyapunov(transition, driven)
    wanted = set(at.tolist())
    means, covariances = [], []
    for t in range(first + 1, int(at[-1]) + 1):
        # The rain of the step up to t, by the state at its begin.
        prior = covariance[:size, :size]
        around = mean[:size] + points @ np.linalg.cholesky(prior).T
        weight = rain_log_likelihood(hidden, config, around, t)
        weight = np.exp(weight - weight.max())
        weight /= weight.sum()
        posterior = weight @ around
        spread = around - posterior
        regression = np.linalg.solve(prior, covariance[:size]).T
        mean = mean + regression @ (posterior - mean[:size])
        change = (weight * spread.T) @ spread - prior
        covariance = covariance + regression @ change @ regression.T

        mean = transition @ mean
        covariance = transition @ covariance @ transition.T + driven
        across = covariance @ observe.T
        kalman = np.linalg.solve(observe @ across + error, across.T).T
        mean = mean + kalman @ (observed[t] - lasting * observed[t - 1] - observe @ mean)
        covariance = covariance - kalman @ across.T
        covariance = (covariance + covariance.T) / 2
        if t in wanted:
            means.append(mean[:size])
            covariances.append(covariance[:size, :size])
    return np.array(means), np.array(covariances)


def rain_log_likelihood(
    hidden: HiddenWeather, config: SyntheticConfig, state: Floats, t: int
) -> Floats:
    """Log-likelihood [n] of the rain of step t in all regions for states [n, S] at its begin."""
    events = coupled_weather.hazard(hidden.kinds, state, t)
    amount = hidden.precipitation_mm[t]
    wet = np.log(-np.expm1(-events)) + amount_log_density(amount, state, config)
    return np.where(amount > 0, wet, -events).sum(axis=1)
