"""Benchmarks whose runs are forked, and one that nothing disturbed for every way to launch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from processes import BY_FORKS, Forked

from benchmarks import chaos_judge, gpu_check, plan_accuracy, two_machines
from benchmarks.chaos import Chaos


def popen(words: list[str], **settings: Any) -> Any:
    """Fork accelerate; what holds a namespace is a process of its own."""
    return (Forked if "launch" in words else subprocess.Popen)(words, **settings)


@pytest.fixture(scope="session", autouse=True)
def forked_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (chaos_judge, gpu_check, plan_accuracy):
            patch.setattr(module, "subprocess", BY_FORKS)
        patch.setattr(
            two_machines, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen})
        )
        yield


@pytest.fixture(scope="session")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    return Chaos(tmp_path_factory.mktemp("chaos"), trials=3, seed=7)
