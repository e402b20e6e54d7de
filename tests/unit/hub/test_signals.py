"""A publication that a signal ends: no process lives on, no folder stays, and the code says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hub_contents import Fault, Hub
from spoiled_runs import sums

from timerxl.hub.places import PREFIX

ROOT = Path(__file__).resolve().parents[3]
ENDING = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
UPLOAD = "PUT /lfs/upload"
LIMIT_SECONDS = 2.0


class Publication:
    """launch/publish.py in a process of its own, whose temporary files are in ``folder``."""

    def __init__(self, run: Path, folder: Path, *words: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(ROOT / "launch" / "publish.py"), "--run", str(run)]
        self.process = subprocess.Popen(
            [*command, "--repo-id", "ana/rain", *words],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def places(self) -> list[str]:
        return [path.name for path in self.folder.glob(f"{PREFIX}*")]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(run: Path, tmp_path: Path) -> Iterator[Callable[..., Publication]]:
    made: list[Publication] = []

    def begin(*words: str) -> Publication:
        made.append(Publication(run, tmp_path / "staging", *words))
        return made[-1]

    yield begin
    for one in made:
        one.process.kill()
        one.process.communicate()


def wait(until: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert until()


def waits_for_the_hub(hub: Hub, one: Publication) -> list[psutil.Process]:
    """The hub hangs in the middle of a large file; returns the uploading processes."""
    wait(lambda: hub.calls("preupload"))
    time.sleep(0.3)
    children = one.children()
    assert len(children) == len(one.places()) == 1
    return children


@pytest.mark.parametrize(("number", "code"), ENDING)
@pytest.mark.parametrize("times", [1, 20])
def test_a_signal_ends_all_of_it(
    hub: Hub, run: Path, start: Callable[..., Publication], number: int, code: int, times: int
) -> None:
    before = sums(run)
    hub.faults.append(Fault(UPLOAD, seconds=30.0, after_bytes=100))
    one = start()
    children = waits_for_the_hub(hub, one)
    begun = time.monotonic()
    for _ in range(times):
        one.process.send_signal(number)
        time.sleep(0.05)
    _, errors = one.process.communicate(timeout=30)
    assert time.monotonic() - begun < LIMIT_SECONDS
    assert one.process.returncode == code
    assert not any(child.is_running() for child in children)
    assert one.places() == []
    assert "Traceback" not in errors
    assert errors.splitlines()[1:] == [
        "error: interrupted before the upload was done.",
        f"{run} is as it was. To send it, run again:",
        f"  python launch/publish.py --run {run} --repo-id ana/rain",
    ]
    assert sums(run) == before


def test_a_killed_publication_takes_its_upload_with_it(
    hub: Hub, start: Callable[..., Publication]
) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=30.0))
    one = start()
    children = waits_for_the_hub(hub, one)
    one.process.kill()
    one.process.wait()
    wait(lambda: not any(child.is_running() for child in children), LIMIT_SECONDS)
    wait(lambda: one.places() == [], LIMIT_SECONDS)


def test_a_signal_at_any_moment(hub: Hub, start: Callable[..., Publication]) -> None:
    """From the first folder to the upload, in steps of a moment."""
    hub.faults.append(Fault(UPLOAD, seconds=30.0))
    for delay in (0.0, 0.3, 0.8, 1.5):
        one = start()
        wait(one.places)
        time.sleep(delay)
        children = one.children()
        one.process.send_signal(signal.SIGTERM)
        _, errors = one.process.communicate(timeout=30)
        assert one.process.returncode == 143
        assert not any(child.is_running() for child in children)
        assert one.places() == []
        assert "Traceback" not in errors


def test_nohup_is_respected(hub: Hub, start: Callable[..., Publication]) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=1.5, times=1))
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = start()
    finally:
        signal.signal(signal.SIGHUP, handler)
    waits_for_the_hub(hub, one)
    one.process.send_signal(signal.SIGHUP)
    output, errors = one.process.communicate(timeout=60)
    assert one.process.returncode == 0, errors
    assert output.startswith(f"{hub.endpoint}/ana/rain/commit/")
    assert one.places() == []
