"""The hidden weather of the SYNTHETIC climate, version 2: disturbances that travel, two rains.

Each of G regions has a moisture anomaly m and an instability anomaly u. All 2G of them are one
linear-Gaussian process x = (m, u) in continuous time,

    dx = F x dt + noise,

in which a region's moisture is pulled towards that of its upwind neighbour, so that a disturbance
arrives there hours to days later. The same x at every step width: the step's matrix is
exp(F * hours), its noise what keeps x stationary with unit variances.

Two kinds of rain add up to the wet events expected in a step. Showers need moisture AND
instability, whichever is scarcer decides, and are most of the wet season's rain; rain of the large
scale needs moisture here and upwind, and is most of the dry season's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, solve_continuous_lyapunov  # type: ignore[import-untyped]
from scipy.stats import norm, qmc  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
# A kind of rain, as the factors it needs: each an offset [T, G] and weights [G, S] of the state.
Kind = Sequence[tuple[Floats, Floats]]

# Regions as in synthetic.REGIONS: the moisture of selva travels over the Andes to the coast.
UPWIND = {3: 4, 2: 3, 0: 2, 1: 0}
MOISTURE_HOURS = 36.0
INSTABILITY_HOURS = 30.0
COUPLING = 0.5  # the pull of the upwind moisture, beside 1 towards the mean
SHARED_NOISE = 0.05
SHOWERS = 5.0  # how a shower's chance grows with moisture and instability,
LARGE_SCALE = 1.5  # and that of the other rain with moisture
BLOCK = 512  # rows that stay in the processor's cache


def step_matrices(num_regions: int, step_hours: float) -> tuple[Floats, Floats, Floats]:
    """Return A, the step's noise covariance, the stationary covariance of x, each [2G, 2G].

    x_{t+1} = A x_t + noise; the stationary variances are 1.
    """
    size = 2 * num_regions
    drift = np.zeros((size, size))
    for g in range(num_regions):
        drift[g, g] = -1 / MOISTURE_HOURS
        if g in UPWIND:
            drift[g, UPWIND[g]] = COUPLING / MOISTURE_HOURS
        drift[num_regions + g, num_regions + g] = -1 / INSTABILITY_HOURS
    block = np.full((num_regions, num_regions), SHARED_NOISE)
    np.fill_diagonal(block, 1.0)
    noise = np.kron(np.diag([2 / MOISTURE_HOURS, 2 / INSTABILITY_HOURS]), block)
    stationary = solve_continuous_lyapunov(drift, -noise)
    spread = np.sqrt(np.diag(stationary))
    stationary = stationary / np.outer(spread, spread)
    move = expm(drift * step_hours) * spread / spread[:, None]
    return move, stationary - move @ stationary @ move.T, stationary


def simulate_state(noise: Floats, step_hours: float) -> Floats:
    """Return stationary x [T, 2G] out of unit white noise [T, 2G]."""
    move, covariance, stationary = step_matrices(noise.shape[1] // 2, step_hours)
    shocks = noise @ np.linalg.cholesky(covariance).T
    state = np.empty_like(noise)
    state[0] = np.linalg.cholesky(stationary) @ noise[0]
    for t in range(1, len(noise)):
        state[t] = move @ state[t - 1] + shocks[t]
    return state


def kinds_of_rain(showers: Floats, large_scale: Floats) -> list[Kind]:
    """Return showers and rain of the large scale, given the logarithms [T, G] of their rates."""
    regions = showers.shape[1]
    moisture, instability = np.hsplit(np.eye(2 * regions), 2)
    upwind = [UPWIND.get(g, g) for g in range(regions)]
    inflow = (moisture.T + moisture.T[upwind]) / 2
    return [
        [(showers, SHOWERS * moisture.T), (showers, SHOWERS * instability.T)],
        [(large_scale, LARGE_SCALE * inflow)],
    ]


def hazard(kinds: Sequence[Kind], state: Floats, rows: int | slice) -> Floats:
    """Return the wet events expected in the steps that end at ``rows``: [..., G].

    state: [..., S], at the steps' begin. The factors of a kind combine as in a harmonic mean, a
    soft minimum.
    """
    events = np.zeros(())
    for kind in kinds:
        scarce = np.zeros(())
        for offset, weights in kind:
            scarce = scarce + np.exp(-offset[rows] - state @ weights.T)
        events = events + 1 / scarce
    return events


def normal_draws(count: int, size: int, seed: int) -> Floats:
    """Return [count, size] from a scrambled Sobol sequence; ``count`` is a power of 2."""
    uniform = qmc.Sobol(size, rng=seed).random(count)
    return np.asarray(norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9)))


def dry_probability(
    kinds: Sequence[Kind],
    process: tuple[Floats, Floats],
    state: Floats,
    rows: NDArray[np.int64],
    num_steps: int,
    paths: int,
    spread: Floats | None = None,
    seed: int = 0,
) -> Floats:
    """Return p(no wet step among the ``num_steps`` after each of ``rows`` [n]), [n, G].

    process: A and the step's noise covariance; state: [n, S], known at ``rows`` or, with
    ``spread``, the mean of a Gaussian with that root of its covariance [n, S, S]. A mean over
    ``paths`` of a scrambled Sobol sequence, the same at every row. Its first coordinates are its
    best, so that they go to the principal components of what a region's rain depends on.
    """
    move, size = process[0], state.shape[1]
    flat = [factor for kind in kinds for factor in kind]
    powers = np.array([np.linalg.matrix_power(move, k) for k in range(num_steps)])
    means = state @ powers.transpose(0, 2, 1)
    root = np.linalg.cholesky(process[1])
    shocks = np.zeros((num_steps, size, num_steps, size))
    for k in range(1, num_steps):
        for j in range(1, k + 1):
            shocks[k, :, j] = powers[k - j] @ root
    before = 0 if spread is None else size  # coordinates that the start takes
    draws = normal_draws(paths, before + num_steps * len(flat), seed)
    at = rows + np.arange(1, num_steps + 1)[:, None]
    result = np.empty((len(state), flat[0][0].shape[1]))
    for region in range(result.shape[1]):
        weights = np.array([w[region] for _, w in flat])
        shape = (len(flat), num_steps)
        of_shocks = np.tensordot(weights, shocks, axes=(1, 1))
        axes, lengths, _ = np.linalg.svd(of_shocks.reshape(num_steps * len(flat), -1))
        used = draws[:, before : before + len(lengths)]
        along = used @ (axes[:, : len(lengths)] * lengths).T
        of_start = np.tensordot(weights, powers, axes=(1, 1)).reshape(-1, size)
        if spread is not None:
            turn = np.linalg.svd(of_start @ spread.mean(axis=0))[2].T
        for begin in range(0, len(state), BLOCK):
            block = slice(begin, begin + BLOCK)
            certain = np.array(  # [factors, steps, n]
                [np.exp(-o[at[:, block], region] - means[:, block] @ w[region]) for o, w in flat],
                np.float32,
            )
            total = np.zeros(certain.shape[2])
            for draw, path in zip(draws, along, strict=True):
                deviation = path.reshape(*shape, 1)
                if spread is not None:
                    start = of_start @ (spread[block] @ (turn @ draw[:before])).T
                    deviation = deviation + start.reshape(*shape, -1)
                factors = iter(certain * np.exp(-deviation, dtype=np.float32))
                events = sum(1 / sum(islice(factors, len(kind))) for kind in kinds)
                total += np.exp(-events.sum(axis=0))
            result[block, region] = total / paths
    return result
