"""Two machines follow the trajectory of one, stop when their link is cut, and go on: real launches.

The machines are two network namespaces; where those are not allowed, two launches on loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos_judge import ZERO, Run, compare
from benchmarks.two_machines import CLOSE, Launch, Network, finish, stop, weights_gap

pytestmark = pytest.mark.slow

STEPS, CUT, KEPT, LIMIT = 12, 10, 8, 10.0  # of the run; where it is cut; what is left; seconds
TINY = f"train.max_steps={STEPS} train.checkpoint_every_steps=4 eval.max_windows=40".split()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def straight(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on two machines that nothing disturbed."""
    run = Run(tmp_path_factory.mktemp("two_machines") / "straight")
    finish(network, run, *TINY)
    return run


def steps(run: Run) -> list[int]:
    return [entry["step"] for entry in run.entries() if "step" in entry]


def test_two_machines_follow_the_trajectory_of_one(straight: Run, tmp_path: Path) -> None:
    one = Run(tmp_path / "one")
    assert one.launch(ZERO, *TINY) == 0, one.output[-3000:]
    two, alone = straight.trajectory(), one.trajectory()
    assert steps(straight) == steps(one) == list(range(1, STEPS + 1))
    assert [entry["samples"] for entry in two] == [entry["samples"] for entry in alone]
    losses = [entry["loss"] for entry in alone]
    assert [entry["loss"] for entry in two] == pytest.approx(losses, rel=CLOSE)
    assert weights_gap(one, straight) <= CLOSE
    # Two processes of one run, each started by the launcher of its own machine.
    assert json.loads((straight.folder / "results.json").read_text())["num_processes"] == 2
    assert straight.status() == {"code": 0, "reason": "finished"}


def test_a_cut_link_stops_both_machines_and_the_run_goes_on(
    network: Network, straight: Run, tmp_path: Path
) -> None:
    if network.why_not:
        pytest.skip(f"no link to cut: {network.why_not}")
    run = Run(tmp_path / "run")
    # In the middle of a step, in a group of DeepSpeed's own; nothing tells either machine.
    with Launch(network, run, *TINY, limit=LIMIT, hold=f"backward:{CUT}") as launch:
        stop(launch, network, "silent")
    assert launch.complaint(newest=KEPT) == ""
    assert steps(run) == list(range(1, CUT))
    assert not (run.folder / "results.json").exists()
    network.cut("silent", undo=True)
    finish(network, run, *TINY)
    # From the newest checkpoint on: a run that began anew would end with the same weights.
    assert steps(run)[CUT - 1 :] == list(range(KEPT + 1, STEPS + 1))
    found = compare(straight, run)
    assert found.identical, found.why
    assert weights_gap(straight, run) == 0.0
    assert run.status()["code"] == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "No such file or directory: 'unshare'"),
        ("echo no permission >&2; exit 1", "namespaces are not allowed: no permission"),
    ],
)
def test_without_namespaces_both_machines_are_this_one(
    script: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "unshare").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with Network() as network:
        assert network.why_not.endswith(reason)
        assert network.inside(1) == []
        assert network.options().startswith("--main_process_ip 127.0.0.1 --main_process_port ")


def test_nothing_is_left_of_a_network() -> None:
    with Network() as network:
        if network.why_not:
            pytest.skip(network.why_not)
        holders = [int(network.inside(machine)[2]) for machine in (0, 1)]
        own = [os.stat(f"/proc/{pid}/ns/net").st_ino for pid in holders]
        assert len({*own, os.stat("/proc/self/ns/net").st_ino}) == 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in holders)
    shown = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    assert "link0" not in shown.stdout
