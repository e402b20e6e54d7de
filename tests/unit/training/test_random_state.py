"""Every generator of a process goes on exactly where its state was written."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.training.checkpoint.rng import read_random_state, write_random_state

Drawn = list[float]


@pytest.fixture(autouse=True)
def _leave_the_generators_alone() -> object:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def draw() -> Drawn:
    """Of every generator and kind, normal ones too: numpy and Python keep the second of a pair."""
    drawn = [random.random(), random.gauss(0, 1), float(random.getrandbits(53))]
    drawn += [np.random.random(), np.random.standard_normal(), np.random.randint(2**31)]  # noqa: NPY002
    drawn += torch.rand(3).tolist() + torch.randn(17).tolist()
    return [float(value) for value in drawn]


@given(seed=st.integers(0, 2**32 - 1), draws=st.integers(0, 700))
@settings(max_examples=25, deadline=None)
def test_the_next_draws_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, seed: int, draws: int
) -> None:
    """Also in the middle of a pair of normal numbers, and of the 624 words of a generator."""
    path = tmp_path_factory.mktemp("random") / "rng.safetensors"
    seed_all(seed)
    for _ in range(draws):
        random.gauss(0, 1)
        np.random.standard_normal()  # noqa: NPY002
        torch.rand(())
    write_random_state(path)
    expected = draw() + draw()
    seed_all(seed + 1 if seed < 2**32 - 1 else 0)
    assert draw() != expected[: len(expected) // 2]
    read_random_state(path)
    assert draw() + draw() == expected


def test_writing_moves_nothing(tmp_path: Path) -> None:
    seed_all(7)
    expected = draw()
    seed_all(7)
    write_random_state(tmp_path / "rng.safetensors")
    assert draw() == expected


@pytest.mark.parametrize("which", ["torch", "numpy", "python"])
def test_each_generator_is_set(tmp_path: Path, which: str) -> None:
    """One that only goes on from where it happens to be gives another number."""
    one = {
        "torch": lambda: torch.rand(()).item(),
        "numpy": np.random.random,
        "python": random.random,
    }[which]
    write_random_state(tmp_path / "rng.safetensors")
    expected = one()
    assert one() != expected
    read_random_state(tmp_path / "rng.safetensors")
    assert one() == expected
