"""How a process of the run that is gone looks to the others."""

from __future__ import annotations

import builtins
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch

from timerxl.training.processes.distributed import PeerLost, lost_peer, translate_distributed_errors

CASES = ("killed", "silent", "absent")
# What gloo itself says where the other of two ranks is killed, is silent, or never comes; the pairs
# are forks of one process, all at the same time.
RANKS = """
import datetime, json, os, signal, sys
import torch
import torch.distributed as dist

def lose(case, port):
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
        print(json.dumps([case, type(error).__name__, str(error)]), flush=True)
    if other:
        os.kill(other, signal.SIGKILL)
    os._exit(0)

for word in sys.argv[1:]:
    if os.fork() == 0:
        lose(*word.split(":"))
for _ in sys.argv[1:]:
    os.wait()
"""


@pytest.fixture(scope="module")
def words_of_gloo() -> dict[str, tuple[str, str]]:
    """Case -> (name of the error, its text)."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in CASES]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in sockets]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RANKS,
            *(f"{c}:{port}" for c, port in zip(CASES, ports, strict=True)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {case: (name, text) for case, name, text in found}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gloo_s_own_words_for_a_lost_peer(
    case: str, words_of_gloo: dict[str, tuple[str, str]]
) -> None:
    name, text = words_of_gloo[case]
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


NCCL = (
    "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run "
    "with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nncclSystemError: System call (e.g. "
    "socket, malloc) or external library call failed or device error. \nLast error:\n"
)


def shared_memory_of_a_container() -> None:
    cause = "Error while creating shared memory segment /dev/shm/nccl-Wl9 (size 33030528)"
    raise torch.distributed.DistBackendError(NCCL + cause)


def two_ranks_on_one_gpu() -> None:
    cause = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1e0"
    raise torch.distributed.DistBackendError(NCCL + cause)


@pytest.mark.parametrize(
    "cause",
    [
        "socketProgress: Connection closed by remote peer gpu-2<51234>",
        "NET/IB: Got completion from peer 10.0.0.2<4791> with status=12",
    ],
)
def test_nccl_s_words_for_a_lost_peer(cause: str) -> None:
    """As people report them; the cause stands in the last line."""
    said = lost_peer(torch.distributed.DistBackendError(NCCL + cause))
    assert said is not None
    assert cause in said
    assert "\n" not in said


OTHERS = [
    shared_memory_of_a_container,
    two_ranks_on_one_gpu,
    out_of_shape,
    backward_twice,
    other_weights,
    a_worker_died,
    a_loader_is_slow,
]
OTHERS += [out_of_memory, no_such_key]


@pytest.mark.parametrize("fail", OTHERS)
def test_other_errors_are_no_lost_peer(fail: Callable[[], None]) -> None:
    with pytest.raises((RuntimeError, KeyError)) as raised:
        fail()
    assert lost_peer(raised.value) is None


def test_a_run_alone_has_nobody_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = ConnectionResetError(104, "Connection reset by peer")
    assert lost_peer(reset) is None  # of a proxy of the hub, say
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert lost_peer(reset) == "Connection reset by peer."
    assert lost_peer(BrokenPipeError(32, "Broken pipe")) is None  # ... | head


def test_a_lost_peer_is_named_with_the_moment() -> None:
    with (
        pytest.raises(PeerLost, match=r"^lost contact with another process after step 3: Gloo"),
        translate_distributed_errors(lambda: "before the first step", "Outer."),
        translate_distributed_errors(lambda: "after step 3", "Go on so."),
    ):
        raise RuntimeError("Gloo connectFullMesh failed with: closed")
    with pytest.raises(RuntimeError, match="size mismatch"), translate_distributed_errors(str, ""):
        raise RuntimeError("size mismatch")
