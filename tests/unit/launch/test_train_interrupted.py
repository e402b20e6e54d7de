"""Signals to real processes, disks that are full or read-only: what is left, how it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import whole_runs
from processes import Forked
from whole_runs import assert_same_end, before_step, command, curves, events, read

from timerxl.model import TimerXLForClassification
from timerxl.training.checkpoint.storage import find_checkpoints, find_problem

pytestmark = pytest.mark.slow


def struck(folder: Path, step: int, signals: list[int]) -> tuple[int, int, str]:
    """Run in ``folder`` and send ``signals`` before this step; (process, exit code, output)."""
    output = folder.with_name("output.txt")
    numbers = ",".join(str(int(one)) for one in signals)
    process = Forked(
        [sys.executable, whole_runs.__file__, step, numbers, f"output_dir={folder}"],
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        code = process.wait(120)
    finally:
        process.kill_all()
    # Event files of one second are read in the order of their process numbers.
    time.sleep(1.0 - time.time() % 1.0)
    return process.pid, code, output.read_text()


def saved_steps(folder: Path) -> list[int]:
    found = find_checkpoints(folder / "checkpoints")
    assert [find_problem(path) for _, path in found] == [None] * len(found)
    return [step for step, _ in found]


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGTERM], 143),  # from the scheduler and from the launcher
    ],
)
def test_a_signal_saves_before_it_ends(
    tmp_path: Path, straight: Path, signals: list[int], code: int
) -> None:
    run = tmp_path / "run"
    _, found, output = struck(run, 8, signals)
    assert found == code
    assert saved_steps(run) == [8, 6, 5]
    status = read(run / "status.json")
    name = signal.Signals(signals[0]).name
    assert status["code"] == code
    for words in (name, "after step 8", "checkpoints/step_00000008"):
        assert words in status["reason"]
    assert f"error: {status['reason']}" in output
    assert (run / "run.lock").read_text() == ""
    assert command(f"output_dir={run}") == 0
    assert [event["step"] for event in events(run, "resume")] == [8]
    assert_same_end(run, straight)
    assert curves(run) == curves(straight)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, straight: Path) -> None:
    run = tmp_path / "run"
    _, code, output = struck(run, 8, [signal.SIGINT, signal.SIGINT])
    assert code in (130, -signal.SIGINT)
    assert "once more" in output
    assert saved_steps(run) == [6, 5]
    assert [event["step"] for event in events(run, "train")] == list(range(1, 8))
    assert command(f"output_dir={run}") == 0
    assert_same_end(run, straight)


def test_sigkill_leaves_a_lock_that_is_taken_over(
    tmp_path: Path, straight: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    process, code, _ = struck(run, 8, [signal.SIGKILL])
    assert code == -signal.SIGKILL
    assert read(run / "run.lock")["pid"] == process
    assert command(f"output_dir={run}") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "taken over" in line]
    assert f"process {process} on " in line
    assert_same_end(run, straight)


def mounted(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@contextmanager
def unmounted(place: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def assert_stopped_by_the_disk(run: Path, words: str, capsys: Any) -> None:
    """In order: the reason, the best model, and nothing half-written."""
    status = read(run / "status.json")
    assert status["code"] == 4
    assert words in status["reason"]
    assert "step_00000010 can't be written" in status["reason"]
    assert f"error: {status['reason']}" in capsys.readouterr().err
    assert saved_steps(run) == [6, 5]
    assert [path.name for path in run.rglob(".*")] == []
    best = TimerXLForClassification.from_pretrained(run / "model").state_dict()
    at_six = TimerXLForClassification.from_pretrained(run / "checkpoints" / "step_00000006")
    assert all((best[name] == tensor).all() for name, tensor in at_six.state_dict().items())


def test_a_full_disk(tmp_path: Path, straight: Path, capsys: Any) -> None:
    """Room for two checkpoints and the model, not for a third one."""
    disk, run = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=2400k", "tmpfs", str(disk))
    with unmounted(disk):
        assert command(f"output_dir={run}") == 4
        assert_stopped_by_the_disk(run, "No space left on device", capsys)
        mounted("-o", "remount,size=64m", str(disk))
        assert command(f"output_dir={run}") == 0
        assert_same_end(run, straight)


def test_no_room_for_the_status_either(tmp_path: Path, straight: Path, capsys: Any) -> None:
    """The code still says it; and the same command goes on once there is room."""
    disk, run = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk))

    def fill() -> None:
        with (disk / "somebody's").open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        os.sync()

    with unmounted(disk):
        with before_step(8, fill):
            assert command(f"output_dir={run}") == 4
        assert "No space left on device" in capsys.readouterr().err
        assert saved_steps(run) == [6, 5]
        (disk / "somebody's").unlink()
        assert command(f"output_dir={run}") == 0
        assert_same_end(run, straight)


def test_a_disk_that_turns_read_only(tmp_path: Path, straight: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    checkpoints = str(run / "checkpoints")
    undo: list[Any] = []

    def freeze() -> None:
        mounted("--bind", checkpoints, checkpoints)
        undo.append(unmounted(Path(checkpoints)))
        undo[0].__enter__()
        mounted("-o", "remount,ro,bind", checkpoints)

    try:
        with before_step(8, freeze):
            assert command(f"output_dir={run}") == 4
        assert_stopped_by_the_disk(run, "Read-only file system", capsys)
        # Again while it lasts: no more is lost.
        assert command(f"output_dir={run}") == 4
        assert saved_steps(run) == [6, 5]
    finally:
        for one in undo:
            one.__exit__(None, None, None)
    assert command(f"output_dir={run}") == 0
    assert_same_end(run, straight)
