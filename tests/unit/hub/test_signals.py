"""A publication that a signal ends: no process lives on, no folder stays, and the code says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import psutil
import pytest
from hub_contents import Fault, Hub
from spoiled_runs import sums

from timerxl.hub.staging import PREFIX, sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
UPLOAD = "PUT /lfs/upload"
LIMIT_SECONDS = 2.0


class Command:
    """A command of launch/ in a process of its own, whose temporary files are in ``folder``."""

    def __init__(self, folder: Path, script: str, *words: str, popen: Any = processes.Forked):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._told = [folder.parent / f"{name}_{time.time_ns()}" for name in ("output", "errors")]
        with self._told[0].open("w") as output, self._told[1].open("w") as errors:
            self.process = popen(
                [sys.executable, ROOT / "launch" / script, *words],
                env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
                stdout=output,
                stderr=errors,
            )

    def end(self, seconds: float = 60.0) -> tuple[str, str]:
        """Wait for the end; what was printed, and the errors."""
        self.process.wait(seconds)
        output, errors = (path.read_text(encoding="utf-8") for path in self._told)
        return output, errors

    def places(self) -> list[str]:
        return [path.name for path in self.folder.glob(f"{PREFIX}*")]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    made: list[Command] = []

    def begin(script: str, *words: str, **options: Any) -> Command:
        made.append(Command(tmp_path / "staging", script, *words, **options))
        return made[-1]

    yield begin
    for one in made:
        one.process.kill()
        one.process.wait()


def publishing(run: Path) -> list[str]:
    return ["publish.py", "--run", str(run), "--repo-id", "ana/rain"]


def wait(until: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not until() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert until()


def waits_for_the_hub(hub: Hub, one: Command) -> list[psutil.Process]:
    """The hub hangs in the middle of a large file; returns the uploading processes."""
    wait(lambda: hub.calls("preupload"))
    time.sleep(0.3)
    children = one.children()
    assert len(children) == len(one.places()) == 1
    return children


@pytest.mark.parametrize(
    ("number", "code", "times"),
    [(signal.SIGTERM, 143, 20), (signal.SIGINT, 130, 20), (signal.SIGHUP, 129, 1)],
)
def test_a_signal_ends_all_of_it(
    hub: Hub, run: Path, start: Callable[..., Command], number: int, code: int, times: int
) -> None:
    before = sums(run)
    hub.faults.append(Fault(UPLOAD, seconds=30.0, after_bytes=100))
    one = start(*publishing(run))
    children = waits_for_the_hub(hub, one)
    begun = time.monotonic()
    for _ in range(times):
        one.process.send_signal(number)
        time.sleep(0.02)
    wait(lambda: not any(child.is_running() for child in children) and not one.places())
    assert time.monotonic() - begun < LIMIT_SECONDS
    _, errors = one.end(30)
    assert one.process.returncode == code
    assert "Traceback" not in errors
    assert errors.splitlines()[1:] == [
        "error: interrupted before the upload was done.",
        f"{run} is as it was. To send it, run again:",
        f"  python launch/publish.py --run {run} --repo-id ana/rain",
    ]
    assert sums(run) == before


def test_a_killed_publication_takes_its_upload_with_it(
    hub: Hub, run: Path, start: Callable[..., Command]
) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=30.0))
    one = start(*publishing(run))
    children = waits_for_the_hub(hub, one)
    one.process.kill()
    one.process.wait()
    wait(lambda: not any(child.is_running() for child in children), LIMIT_SECONDS)
    wait(lambda: one.places() == [], LIMIT_SECONDS)


def test_a_signal_at_any_moment(hub: Hub, run: Path, start: Callable[..., Command]) -> None:
    """From the first folder to the upload, in steps of a moment."""
    hub.faults.append(Fault(UPLOAD, seconds=30.0))
    for delay in (0.0, 0.8):
        one = start(*publishing(run))
        wait(one.places)
        time.sleep(delay)
        children = one.children()
        one.process.send_signal(signal.SIGTERM)
        _, errors = one.end(30)
        assert one.process.returncode == 143
        assert not any(child.is_running() for child in children)
        assert one.places() == []
        assert "Traceback" not in errors


def test_nohup_is_respected(hub: Hub, run: Path, start: Callable[..., Command]) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=1.5, times=1))
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = start(*publishing(run), popen=subprocess.Popen)  # a fork hears the hang-up
    finally:
        signal.signal(signal.SIGHUP, handler)
    waits_for_the_hub(hub, one)
    one.process.send_signal(signal.SIGHUP)
    output, errors = one.end(60)
    assert one.process.returncode == 0, errors
    assert output.startswith(f"{hub.endpoint}/ana/rain/commit/")
    assert one.places() == []


@pytest.fixture
def training(tiny: list[str], tmp_path: Path) -> list[str]:
    """A run that pushes its models, beside which nothing else is."""
    settings = [*tiny, f"output_dir={tmp_path / 'staging' / 'run'}", "hub.push=true"]
    return ["train.py", "--config", "quickstart", *settings, "hub.repo_id=ana/rain"]


def test_a_signal_while_a_finished_run_waits_for_its_push(
    hub: Hub, training: list[str], start: Callable[..., Command]
) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=60.0))
    one = start(*training)
    status = one.folder / "run" / "status.json"
    wait(lambda: status.is_file() and '"finished"' in status.read_text(), 120.0)
    wait(lambda: hub.calls("preupload"))
    # A signal waits for the page, after which the upload alone is left.
    wait(lambda: len(one.children()) == 1, 120.0)
    children = one.children()
    assert children
    assert one.places()
    begun = time.monotonic()
    for _ in range(5):
        one.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    wait(lambda: not any(child.is_running() for child in children) and not one.places())
    assert time.monotonic() - begun < LIMIT_SECONDS
    _, errors = one.end(30)
    assert one.process.returncode == 143, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("numbers", "codes"),
    [
        ([signal.SIGHUP], [129]),
        ([signal.SIGINT, signal.SIGINT], [130]),  # the second one waits for nothing
        ([signal.SIGKILL], [-signal.SIGKILL]),
    ],
)
def test_a_signal_while_a_run_trains_and_pushes(
    hub: Hub,
    training: list[str],
    start: Callable[..., Command],
    numbers: list[signal.Signals],
    codes: list[int],
) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=60.0))
    long = ["train.max_steps=100000", "train.epochs=100000", "train.patience=100000"]
    one = start(*training, *long)
    wait(lambda: hub.calls("preupload"), 120.0)
    time.sleep(0.5)
    children = one.children()
    assert one.places()
    for number in numbers:
        one.process.send_signal(number)
        time.sleep(0.7)
    one.end(60)
    assert one.process.returncode in codes
    wait(lambda: not any(child.is_running() for child in children), LIMIT_SECONDS)
    # What waited behind the push under way goes at the next start, where nobody had the time.
    sweep(one.folder)
    assert one.places() == []
