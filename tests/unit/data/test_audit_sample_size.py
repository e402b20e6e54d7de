"""The effective number of samples against simulated chains and eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.data.audit.window_checks import effective_regions, effective_size, lag_one_correlation


def chain(rows: int, p: float, r1: float, chains: int, seed: int = 0) -> np.ndarray:
    """[chains, rows] two-state Markov chains with P(1) = p and lag-one correlation r1."""
    rng = np.random.default_rng(seed)
    draws = rng.random((rows, chains))
    state = np.empty((rows, chains))
    state[0] = draws[0] < p
    for t in range(1, rows):
        state[t] = draws[t] < p + r1 * (state[t - 1] - p)
    return state.T


@pytest.mark.parametrize(("p", "r1"), [(0.3, 0.6), (0.66, 0.9), (0.5, 0.0)])
def test_effective_size_is_that_of_the_mean_of_a_chain(p: float, r1: float) -> None:
    chains = chain(2000, p, r1, 3000)
    follows = np.ones(2000, dtype=bool)
    estimated = [lag_one_correlation(one, follows) for one in chains[:200]]
    assert np.mean(estimated) == pytest.approx(r1, abs=0.01)
    # n_eff is by definition p (1 - p) / Var(mean): measured over 3,000 chains, to about 5 %.
    measured = p * (1 - p) / chains.mean(axis=1).var()
    assert effective_size(2000, r1) == pytest.approx(measured, rel=0.10)


def test_pairs_across_a_gap_do_not_count() -> None:
    label = np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=float)
    follows = np.array([False, True, False, True, False, True, False, True])
    assert lag_one_correlation(label, follows) == pytest.approx(1.0)
    assert lag_one_correlation(np.ones(5), np.ones(5, dtype=bool)) == 0


def test_effective_size_stays_inside_its_bounds() -> None:
    assert effective_size(100, -0.5) == 100
    assert effective_size(100, 1.0) == 1
    assert effective_size(0, 0.5) == 0


@pytest.mark.parametrize("r", [0.0, 0.35, 1.0])
def test_effective_regions_are_the_eigenvalues_participation(r: float) -> None:
    matrix = np.full((5, 5), r) + (1 - r) * np.eye(5)
    values = np.linalg.eigvalsh(matrix)
    assert effective_regions(matrix) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert effective_regions(np.eye(5)) == pytest.approx(5)
    assert effective_regions(np.ones((5, 5))) == pytest.approx(1)
