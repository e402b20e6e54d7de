"""Benchmarks whose runs are forked, and one that nothing disturbed for every way to launch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from processes import BY_FORKS

from benchmarks import chaos_judge, gpu_check, plan_accuracy
from benchmarks.chaos import Chaos


@pytest.fixture(scope="session", autouse=True)
def forked_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (chaos_judge, gpu_check, plan_accuracy):
            patch.setattr(module, "subprocess", BY_FORKS)
        yield


@pytest.fixture(scope="session")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), trials=3, seed=7)
