"""What every test runs under: offline, one thread, no trace in the home folder."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
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

LOOPBACK = ("127.", "::1", "localhost")


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


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """A run calls fsync eighty times, and no test cuts the power; a bad descriptor still fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)
