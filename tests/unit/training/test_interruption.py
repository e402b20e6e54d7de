"""Signals while a run trains, scores for the last time, and writes down how it ended."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.training import run as run_module
from timerxl.training.dataloader import loader
from timerxl.training.monitors.runner import RunStopped
from timerxl.training.processes.distributed import PeerLost
from timerxl.training.processes.signals import HANDLED, Interrupted, Interruption
from timerxl.training.run import RunCallbacks, train

pytestmark = pytest.mark.slow


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_waits_while_the_end_is_written() -> None:
    before = [signal.getsignal(one) for one in HANDLED]
    interruption = Interruption()
    with pytest.raises(ValueError, match="the end"), interruption:
        raise ValueError("the end")
    terminate()  # from the launcher: another process ended by the same error
    assert signal.getsignal(signal.SIGINT) == before[1]  # a person is heard
    interruption.restore_signal_handlers()
    assert [signal.getsignal(one) for one in HANDLED] == before
    with interruption:
        pass
    assert [signal.getsignal(one) for one in HANDLED] == before


def test_signals_that_come_twice_leave_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    """A launcher passes on what the scheduler sent: the second one met a closed pipe."""
    with Interruption() as interruption:
        for _ in range(3):
            terminate()
            time.sleep(0.3)
    assert interruption.number == signal.SIGTERM
    assert capfd.readouterr().err.count("\n") == 2  # our own line


STUCK = """
import os, signal, sys, time
from timerxl.training.processes.signals import Interruption
kind, patience = sys.argv[1], 0.5
say = lambda number: os.write(1, f"stuck {number}\\n".encode())
first = 9.0 if kind == "beginning" else patience
inside = Interruption(say, patience, first_seconds=first)
with inside:
    if kind == "saving":
        inside.is_saving = True
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        if kind == "beating":
            inside.beat()
        time.sleep(0.05)
print("left by itself")
"""


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("silent", 143, "stuck 15\n"),
        ("beating", 0, "left by itself\n"),
        ("saving", 0, "left by itself\n"),
        ("beginning", 0, "left by itself\n"),  # the first step may compile for a minute
    ],
)
def test_a_run_that_moves_or_saves_is_not_stuck(
    kind: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    done = processes.run([sys.executable, tmp_path / "stuck.py", kind])
    assert (done.returncode, done.stdout) == (code, said)


def run_here(tiny: list[str], folder: Path, extras: RunCallbacks, *overrides: str) -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return train(load_recipe("quickstart", [*tiny, f"output_dir={folder}", *overrides]), extras)


@pytest.fixture
def tiny(train_tiny: Any) -> list[str]:
    return list(train_tiny.__globals__["TINY"])


def test_a_stop_is_written_although_sigterm_comes(tiny: list[str], tmp_path: Path) -> None:
    folder, drawn = tmp_path / "run", []

    def draw(run: Path) -> None:
        status = json.loads((run / "status.json").read_text())
        if status["reason"] != "running":
            terminate()
            drawn.append(status["code"])
            assert (run / "run.lock").read_text()  # still its own

    rate = ("optim.lr=1e30", "monitors.nonfinite=stop")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match="nonfinite"):
        run_here(tiny, folder, RunCallbacks(draw=draw), *rate)
    assert drawn == [3]
    assert (folder / "run.lock").read_text() == ""
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_in_the_last_evaluation_ends_the_run(tiny: list[str], tmp_path: Path) -> None:
    folder, evaluated = tmp_path / "run", []

    def draw(run: Path) -> None:
        evaluated.append(run)
        if len(evaluated) == 2:
            terminate()

    two = ("train.epochs=2", "train.patience=9")
    with pytest.raises(Interrupted, match=r"SIGTERM after step 24\. Checkpoint: .*00000024"):
        run_here(tiny, folder, RunCallbacks(draw=draw), *two)
    assert json.loads((folder / "status.json").read_text())["code"] == 143
    assert not (folder / "results.json").exists()
    assert run_here(tiny, folder, RunCallbacks(), *two)["steps"] == 24


def test_the_way_on_of_a_run_that_began_anew(tiny: list[str], tmp_path: Path) -> None:
    """The same command would move it aside."""
    with pytest.raises(Interrupted, match=r"with train.resume=auto goes on"):
        run_here(
            tiny, tmp_path / "run", RunCallbacks(draw=lambda _: terminate()), "train.resume=never"
        )


def test_a_worker_outlives_signals_to_the_whole_group(tiny: list[str]) -> None:
    config = load_recipe("quickstart", tiny)
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    batches = [[4 * number, 4 * number + 1] for number in range(40)]
    found = iter(loader(windows, "train", batches, 1, False))
    seen = [next(found)]
    (worker,) = found._workers  # type: ignore[attr-defined]
    for number in HANDLED:
        os.kill(worker.pid, number)
        time.sleep(0.2)
    seen += list(found)
    labels = windows.labels_of("train")[np.array(batches)]
    assert [batch["labels"].tolist() for batch in seen] == labels.tolist()


def test_a_peer_lost_before_the_first_step_is_not_waited_for(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gloo's own words come while the run is set up, in its folder."""

    def lost(config: Any) -> None:
        raise RuntimeError("Gloo connectFullMesh failed with: closed")

    waited: list[Any] = []
    monkeypatch.setattr(run_module, "set_collective_timeout", lost)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", waited.append)
    with pytest.raises(PeerLost, match="another process before the first step: Gloo") as error:
        run_here(tiny, tmp_path / "run", RunCallbacks())
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status == {"code": 1, "reason": str(error.value)}
    assert waited == []  # it would wait for the one that is gone
