"""One process at a time in a run's folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from timerxl.config import InputError
from timerxl.training.processes import run_lock
from timerxl.training.processes.run_lock import (
    RUN_FILES,
    RUN_FOLDERS,
    STALE_SECONDS,
    RunLock,
    check_run_files,
)

HOLD = """
import sys
from pathlib import Path
from timerxl.training.processes.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]), lambda sentence: print(sentence, flush=True))
try:
    lock.acquire()
except ValueError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""
Holder = subprocess.Popen[str]


def holder(folder: Path) -> Holder:
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def heard(process: Holder) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: Holder) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Holder]:
    """Another process, which holds the lock of ``tmp_path``."""
    process = holder(tmp_path)
    assert heard(process) == "held"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_second_process_is_refused_by_name(tmp_path: Path, other: Holder) -> None:
    said: list[str] = []
    before = (tmp_path / "run.lock").read_bytes()
    with pytest.raises(InputError) as refused:
        RunLock(tmp_path, said.append).acquire()
    message = str(refused.value)
    assert f"process {other.pid} on {socket.gethostname()}" in message
    assert str(tmp_path) in message
    assert said == []
    assert (tmp_path / "run.lock").read_bytes() == before
    # The other way round, this process being the first; also that is no matter of one's own.
    mine = RunLock(tmp_path / "..", said.append)
    mine.acquire()
    try:
        third = holder(tmp_path / "..")
        assert f"process {os.getpid()} on {socket.gethostname()}" in third.communicate()[1]
        assert third.returncode == 1
        with pytest.raises(InputError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path / "..").acquire()
    finally:
        mine.release()


@pytest.mark.slow
def test_release_lets_another_in(tmp_path: Path, other: Holder) -> None:
    say(other)
    assert heard(other) == "released"
    said: list[str] = []
    lock = RunLock(tmp_path, said.append)
    lock.acquire()  # while the process that held it is still there
    assert other.poll() is None
    assert said == []  # nobody's lock was taken over
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert (tmp_path / "run.lock").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


@pytest.mark.slow
def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path, other: Holder) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    said: list[str] = []
    lock = RunLock(tmp_path, said.append)
    lock.acquire()  # at once, not after it has gone stale
    lock.release()
    (line,) = said
    assert f"process {other.pid} on {socket.gethostname()}" in line
    assert "taken over" in line


def written_by(folder: Path, host: str, age: float) -> None:
    owner = {"host": host, "pid": 4242, "since": "2026-01-02T03:04:05Z"}
    path = folder / "run.lock"
    path.write_text(json.dumps(owner) + "\n")
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.parametrize("age", [0.0, 0.7])
def test_a_beating_lock_of_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float
) -> None:
    """Its flock is not seen from here, as on storage that does not pass it on."""
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 5.0)
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
    written_by(tmp_path, "elsewhere", age)
    before = (tmp_path / "run.lock").read_bytes()
    beat = threading.Timer(0.5, os.utime, [tmp_path / "run.lock"])
    beat.start()
    with pytest.raises(InputError, match=r"process 4242 on elsewhere since 2026-01-02T03:04:05Z"):
        RunLock(tmp_path).acquire()
    beat.join()
    assert (tmp_path / "run.lock").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_a_lock_of_a_machine_that_is_gone_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 1.5)
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.2)
    written_by(tmp_path, "elsewhere", 0.5)
    said: list[str] = []
    lock, begun = RunLock(tmp_path, said.append), time.monotonic()
    lock.acquire()
    lock.release()
    assert time.monotonic() - begun == pytest.approx(1.0, abs=0.4)
    assert "looking whether its run is gone" in said[0]
    assert "process 4242 on elsewhere" in said[1]


def test_storage_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    lock = RunLock(tmp_path, said.append)
    lock.acquire()
    assert "has no locks (No locks available)" in said[0]
    with pytest.raises(InputError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path).acquire()
    lock.release()
    owner = {"host": socket.gethostname(), "pid": 2**22 + 1, "since": "2026-01-02T03:04:05Z"}
    (tmp_path / "run.lock").write_text(json.dumps(owner))
    lock = RunLock(tmp_path, said.append)
    lock.acquire()  # no such process
    lock.release()
    assert "taken over" in said[-1]


FORK = """
import os, sys, time
from pathlib import Path
from timerxl.training.processes.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
child = os.fork()
if not child:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_worker_that_outlives_its_run_holds_no_lock(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)], stdout=subprocess.PIPE)
    assert done.stdout is not None
    worker = int(done.stdout.readline())
    try:
        done.kill()
        done.wait()
        os.kill(worker, 0)  # it lives
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    ("host", "age"), [("elsewhere", STALE_SECONDS + 5), (socket.gethostname(), 0.0)]
)
def test_a_stale_lock_is_taken_over_with_a_line(tmp_path: Path, host: str, age: float) -> None:
    written_by(tmp_path, host, age)
    said: list[str] = []
    lock = RunLock(tmp_path, said.append)
    lock.acquire()
    try:
        (line,) = said
        assert f"process 4242 on {host}" in line
        assert "taken over" in line
        owner = json.loads((tmp_path / "run.lock").read_text())
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
    finally:
        lock.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 3}'])
def test_a_lock_file_that_names_nobody_is_free(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.lock").write_text(text)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    lock.release()


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_held_lock_beats_until_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_SECONDS", 0.02)
    path, lock = tmp_path / "run.lock", RunLock(tmp_path)
    lock.acquire()
    for _ in range(2):
        os.utime(path, (1000, 1000))
        assert eventually(lambda: path.stat().st_mtime > 1e9)
    lock.release()
    assert lock._beat is not None
    lock._beat.join(10)
    assert not lock._beat.is_alive()
    # Three beats fit into the time that another machine waits.
    monkeypatch.undo()
    assert 3 * run_lock.HEARTBEAT_SECONDS < STALE_SECONDS


@pytest.mark.parametrize("name", [*RUN_FILES, *RUN_FOLDERS])
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for is_folder in (True, False):
        path.mkdir() if is_folder else path.touch()
        if is_folder == (name in RUN_FOLDERS):
            check_run_files(tmp_path)
        else:
            with pytest.raises(InputError, match=f"{name} is a .* nothing was changed"):
                check_run_files(tmp_path)
        path.rmdir() if is_folder else path.unlink()
