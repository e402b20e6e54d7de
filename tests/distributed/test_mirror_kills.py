"""Machines that are lost with their run: what is at the mirror brings it back, bit by bit."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.chaos import Chaos
from benchmarks.chaos_judge import ONE, TWO, Mode, Run, compare

pytestmark = pytest.mark.slow

STORE = str(Path(__file__).resolve().parents[1] / "mirror_store.py")
FILES = 28  # of one copy, its two manifests included


@dataclass(frozen=True)
class Mirrored(Mode):
    """As ``Mode``, with the slow storage known."""

    def command(self) -> list[str]:
        return [*super().command()[:-1], STORE]


ALONE, BOTH = Mirrored("one process", 1), Mirrored("two processes", 2)


def whole_copies(mirror: Path) -> list[int]:
    """Steps of the copies that count, newest first."""
    found = []
    for path in mirror.glob("slot-*/manifest.json"):
        with contextlib.suppress(ValueError):  # cut by a kill
            found.append(json.loads(path.read_text()))
    found = [copy for copy in found if copy["files"] is not None]
    return [c["step"] for c in sorted(found, key=lambda c: c["number"], reverse=True)]


def lose(run: Run) -> None:
    """All of the machine but the record beside the run."""
    shutil.rmtree(run.folder)


@pytest.mark.parametrize("trial", [0, 1, 3])
def test_killed_in_the_middle_of_a_copy(
    chaos: Chaos, tmp_path: Path, trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first copy, the second and the fourth; then the run's folder is gone too."""
    draw = random.Random(trial)
    number = draw.randint(2, FILES) + FILES * min(trial, 3)
    run, mirror = Run(tmp_path / "run"), tmp_path / "mirror"
    given = f"train.mirror=slow://{mirror}"
    with monkeypatch.context() as patch:
        patch.setenv("MIRROR_KILL", str(number))
        patch.setenv("MIRROR_SECONDS", "0.005")
        assert run.launch(ALONE, given) == -signal.SIGKILL, run.output[-3000:]
    copies = whole_copies(mirror)
    assert bool(copies) == (trial > 0), (number, copies)
    lose(run)
    assert run.launch(ALONE, given) == 0, run.output[-3000:]
    assert ("is filled" in run.output) == bool(copies)
    if copies:
        assert f"going on after step {copies[0]} from" in run.output
    found = compare(chaos.straight(ONE), run)
    assert found.identical, found


def test_two_processes_are_filled_alike(
    chaos: Chaos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process fills, slowly; the other one waits for it, and both go on."""
    run, mirror = Run(tmp_path / "run"), tmp_path / "mirror"
    given = f"train.mirror=slow://{mirror}"
    with monkeypatch.context() as patch:
        patch.setenv("MIRROR_KILL", str(2 * FILES + 9))
        patch.setenv("MIRROR_SECONDS", "0.005")
        assert run.launch(BOTH, given) != 0
    (newest, *_) = whole_copies(mirror)
    lose(run)
    assert run.launch(BOTH, given) == 0, run.output[-3000:]
    assert run.output.count("is filled") == 1
    assert f"going on after step {newest} from" in run.output
    found = compare(chaos.straight(TWO), run)
    assert found.identical, found


def test_a_signal_does_not_wait_for_a_slow_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """143 within seconds of the limit, which is not reached by a mirror at 4 s a file."""
    run = Run(tmp_path / "run")
    monkeypatch.setenv("MIRROR_SECONDS", "4")
    monkeypatch.setenv("MIRROR_HURRY", "2")  # instead of 20
    # The first write at the start is the note: it is slow as well, once.
    process = run.start(ALONE, f"train.mirror=slow://{tmp_path / 'mirror'}", "train.max_steps=9000")
    while not list(run.folder.glob("checkpoints/step_*")):
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert run.end(process) == 143, run.output[-3000:]
    assert time.monotonic() - asked < 2 + 16
    assert "holds nothing of this run, not its end" in run.output
    assert run.status()["code"] == 143


def test_a_full_mirror_does_not_end_the_run(chaos: Chaos, tmp_path: Path) -> None:
    """A real disk with room for one copy: the second fails, is said once, and the first is kept."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run = Run(tmp_path / "run")
        given = f"train.mirror={disk / 'mirror'}"
        assert run.launch(ONE, given) == 0, run.output[-3000:]
        assert run.output.count("No space left on device. The run goes on") == 1
        assert "not its end: " in run.output
        assert compare(chaos.straight(ONE), run).identical
        copies = whole_copies(disk / "mirror")
        assert len(copies) == 1
        # With room, the same command brings the end there.
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run.launch(ONE, given) == 0
        assert "holds the end of this run" in run.output
        lose(run)
        assert run.launch(ONE, given) == 0
        assert "finished: nothing to do" in run.output
        assert compare(chaos.straight(ONE), run).identical
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
