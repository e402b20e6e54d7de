"""The hidden weather of the SYNTHETIC climate, version 2: disturbances that travel.

Each of G regions has a moisture anomaly m and an instability anomaly u. All 2G of them are one
linear-Gaussian process x = (m, u) in continuous time,

    dx = F x dt + noise,

in which a region's moisture is pulled towards that of its upwind neighbour, so that a disturbance
arrives there hours to days later. Rain asks for moisture AND lift at once (a soft minimum). In the
wet season instability lifts the air (showers); in the dry season rain comes with stable air (fronts
and drizzle), so that the same instability then keeps it dry. The same x at every step width: the
step's matrix is exp(F * hours), its noise what keeps x stationary with unit variances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, solve_continuous_lyapunov  # type: ignore[import-untyped]
from scipy.stats import norm, qmc  # type: ignore[import-untyped]

Floats = NDArray[np.float64]

# Regions as in synthetic.REGIONS: the moisture of selva travels over the Andes to the coast.
UPWIND = {3: 4, 2: 3, 0: 2, 1: 0}
MOISTURE_HOURS = 20.0
INSTABILITY_HOURS = 20.0
COUPLING = 2.0  # the pull of the upwind moisture, beside 1 towards the mean
SHARED_NOISE = 0.05
MOISTURE_TO_INSTABILITY = 0.25
SHARPNESS = 2.5  # of the soft minimum
SENSITIVITY = 2.6
PATHS = 64  # of the quasi Monte Carlo behind the true probability, shared among its steps
FEWEST_PATHS = 32


def step_matrices(num_regions: int, step_hours: float) -> tuple[Floats, Floats, Floats]:
    """Return A, a root of the step's noise covariance, a root of the stationary covariance.

    x_{t+1} = A x_t + noise; each [2G, 2G]; the stationary variances are 1.
    """
    size = 2 * num_regions
    drift = np.zeros((size, size))
    for g in range(num_regions):
        drift[g, g] = -1 / MOISTURE_HOURS
        if g in UPWIND:
            drift[g, UPWIND[g]] = COUPLING / MOISTURE_HOURS
        drift[num_regions + g, num_regions + g] = -1 / INSTABILITY_HOURS
        drift[num_regions + g, g] = MOISTURE_TO_INSTABILITY / INSTABILITY_HOURS
    block = np.full((num_regions, num_regions), SHARED_NOISE)
    np.fill_diagonal(block, 1.0)
    noise = np.kron(np.diag([2 / MOISTURE_HOURS, 2 / INSTABILITY_HOURS]), block)
    stationary = solve_continuous_lyapunov(drift, -noise)
    spread = np.sqrt(np.diag(stationary))
    stationary = stationary / np.outer(spread, spread)
    move = expm(drift * step_hours) * spread / spread[:, None]
    covariance = stationary - move @ stationary @ move.T
    return move, np.linalg.cholesky(covariance), np.linalg.cholesky(stationary)


def simulate_state(noise: Floats, step_hours: float) -> Floats:
    """Return stationary x [T, 2G] out of unit white noise [T, 2G]."""
    move, root, first = step_matrices(noise.shape[1] // 2, step_hours)
    shocks = noise @ root.T
    state = np.empty_like(noise)
    state[0] = first @ noise[0]
    for t in range(1, len(noise)):
        state[t] = move @ state[t - 1] + shocks[t]
    return state


def trigger(moisture: Floats, instability: Floats, slope: Floats, ease: Floats) -> Floats:
    """Return the soft minimum of moisture and lift, ``slope * instability + ease``."""
    lift = slope * instability + ease
    return -np.logaddexp(-SHARPNESS * moisture, -SHARPNESS * lift) / SHARPNESS


def dry_probability(
    drive: Floats,
    slope: Floats,
    ease: Floats,
    state: Floats,
    step_hours: float,
    num_steps: int,
) -> Floats:
    """Return p(no wet step among t+1 .. t+num_steps | x_t), [T, G].

    drive, slope, ease: [T + num_steps, G]; state: [T, 2G]. The first step's chance is
    exact; that of the later ones is a mean over paths of x from a scrambled Sobol sequence, the
    same around every state's own mean path.
    """
    length, regions = len(state), drive.shape[1]
    move, root, _ = step_matrices(regions, step_hours)

    def hazard(x: Floats, first: int) -> Floats:
        rows = slice(first, first + length)
        moisture, instability = x[..., :regions], x[..., regions:]
        wet = trigger(moisture, instability, slope[rows], ease[rows])
        return np.exp(drive[rows] + SENSITIVITY * wet)

    own = hazard(state, 1)
    if num_steps == 1:
        return np.exp(-own)
    paths = max(PATHS >> (num_steps - 1).bit_length() - 1, FEWEST_PATHS)  # a power of 2, for Sobol
    uniform = qmc.Sobol((num_steps - 1) * 2 * regions, rng=0).random(paths)
    draws = norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9)).reshape(paths, num_steps - 1, -1)
    total = np.zeros_like(own)
    for path in draws:
        mean, deviation = state, np.zeros(2 * regions)
        hazards = own.copy()
        for k, shock in enumerate(path):
            mean, deviation = mean @ move.T, move @ deviation + root @ shock
            hazards += hazard(mean + deviation, k + 2)
        total += np.exp(-hazards)
    return total / paths
