"""One process at a time in a run's folder, and how a process of the same run that is gone looks."""

from __future__ import annotations

import builtins
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from timerxl.config import InputError
from timerxl.training import run_lock
from timerxl.training.peers import lost_peer
from timerxl.training.run_lock import STALE_SECONDS, RunLock

HOLD = """
import sys
from pathlib import Path
from timerxl.training.run_lock import RunLock
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


@pytest.mark.parametrize("age", [0.0, STALE_SECONDS - 20])
def test_a_beating_lock_of_another_machine_is_refused(tmp_path: Path, age: float) -> None:
    """Its flock is not seen from here, as on storage that does not pass it on."""
    written_by(tmp_path, "elsewhere", age)
    before = (tmp_path / "run.lock").read_bytes()
    with pytest.raises(InputError, match=r"process 4242 on elsewhere since 2026-01-02T03:04:05Z"):
        RunLock(tmp_path).acquire()
    assert (tmp_path / "run.lock").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


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


# What gloo itself says where the other of two ranks is killed, is silent, or never comes.
RANKS = """
import datetime, json, os, signal, sys
import torch
import torch.distributed as dist
case, port = sys.argv[1:]
other = os.fork()
rank, second = int(other == 0), datetime.timedelta(seconds=1)
signal.alarm(90)  # nobody is left over, whatever happens
try:
    if case == "absent" and rank:
        signal.pause()
    wait = second if case == "absent" else 60 * second
    place = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2, timeout=wait)
    group = dist.new_group(timeout=second)
    if rank:
        signal.pause()
    if case == "killed":
        os.kill(other, signal.SIGKILL)
    dist.all_reduce(torch.ones(4), group=group)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
if other:
    os.kill(other, signal.SIGKILL)
os._exit(0)
"""


@pytest.mark.parametrize("case", ["killed", "silent", "absent"])
def test_gloo_s_own_words_for_a_lost_peer(case: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", RANKS, case, port],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    name, text = json.loads(done.stdout.splitlines()[-1])
    kind = getattr(builtins, name, None) or getattr(torch.distributed, name)
    said = lost_peer(kind(text))
    assert said
    assert "\n" not in said
    assert ".cc:" not in said  # the reason, not a line of C++


def out_of_shape() -> None:
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def backward_twice() -> None:
    loss = (torch.ones(2, requires_grad=True) ** 2).sum()
    loss.backward()
    loss.backward()


def other_weights() -> None:
    class Store(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.store = torch.nn.Linear(width, 1)

    Store(2).load_state_dict(Store(3).state_dict())


def a_worker_died() -> None:
    raise RuntimeError("DataLoader worker (pid(s) 4242) exited unexpectedly")


def a_loader_is_slow() -> None:
    raise RuntimeError("DataLoader timed out after 30 seconds")


def out_of_memory() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def no_such_key() -> None:
    raise KeyError("store")


OTHERS = [out_of_shape, backward_twice, other_weights, a_worker_died, a_loader_is_slow]
OTHERS += [out_of_memory, no_such_key]


@pytest.mark.parametrize("fail", OTHERS)
def test_other_errors_are_no_lost_peer(fail: Callable[[], None]) -> None:
    with pytest.raises((RuntimeError, KeyError)) as raised:
        fail()
    assert lost_peer(raised.value) is None
