"""What every test runs under: offline, one thread, no trace in the home folder."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest

# Before any library reads them, and handed on to the processes that tests start.
CACHE = tempfile.mkdtemp(prefix="timerxl-tests-")
os.environ.update(
    HF_HOME=CACHE,
    MPLCONFIGDIR=CACHE,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
# One thread: sums have one order on every machine, and two ranks or workers do not fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = os.path.dirname(__file__) + os.sep
LOOPBACK = ("127.", "::1", "localhost")
PROCESS_NAMES = {"subprocess", "Popen", "processes", "Forked", "Browser", "NotebookClient"}
# Whole trainings, traces or pushes in the test's own process: over half a second of CPU a test.
SLOW_FILES = {
    f"test_{name}.py"
    for name in "background compilation compiled cut_off_saves interruption run "
    "train_again train_interrupted trace".split()
}
SLOW_TESTS = {
    "test_a_table_with_holes_gives_the_numbers_of_its_evaluation",
    "test_intervals_are_as_wide_as_scores_vary_and_hold_the_true_one",
    "test_looking_changes_nothing",
    "test_skill_on_eight_real_stations",
    "test_the_error_of_a_roc_auc_without_skill",
    "test_whole_runs",
}


@pytest.fixture(autouse=True, scope="session")
def offline() -> Iterator[None]:
    """A connection to anything but this machine fails at once instead of hanging or passing."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        remote = self.family in (socket.AF_INET, socket.AF_INET6)
        if remote and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a test tried to reach {address[0]}: the suite is offline")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts a process, by itself or in a fixture, and what is listed above."""
    for item in items:
        assert isinstance(item, pytest.Function)
        fixtures = [found[-1].func for found in item._fixtureinfo.name2fixturedefs.values()]
        is_process = any(starts_processes(one, set()) for one in [item.function, *fixtures])
        is_listed = item.path.name in SLOW_FILES or item.function.__name__ in SLOW_TESTS
        if is_process or is_listed or "distributed" in item.path.parts:
            item.add_marker("slow")


def starts_processes(found: object, seen: set[object]) -> bool:
    """Whether a function or class of the tests names what starts a process, or calls such a one."""
    if isinstance(found, type):
        return any(starts_processes(member, seen) for member in vars(found).values())
    found = getattr(found, "__wrapped__", found)
    if not isinstance(found, FunctionType) or found in seen:
        return False
    seen.add(found)
    names = names_in(found.__code__)
    if names & PROCESS_NAMES:
        return True
    called = [found.__globals__.get(name) for name in names]
    return any(starts_processes(one, seen) for one in called if is_of_the_tests(one))


def is_of_the_tests(found: object) -> bool:
    module = sys.modules.get(str(getattr(found, "__module__", None)))
    return str(getattr(module, "__file__", None)).startswith(TESTS)


def names_in(code: CodeType) -> set[str]:
    inner = [names_in(one) for one in code.co_consts if isinstance(one, CodeType)]
    return set(code.co_names).union(*inner)
