"""Two machines: the trajectory of one, a link that is cut in the middle, going on once it is back.

    python benchmarks/two_machines.py [--only straight "silent backward" ...] [--cut-seconds 60]

A machine is a network namespace, joined to the other by a veth pair; where namespaces are not
allowed, a launch of its own on loopback, and the cuts are skipped. Real processes on CPU (gloo),
SYNTHETIC data. Prints a table; exit code 1 where a line is not good.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

from benchmarks.chaos_judge import BATCH, REPO, SMALL, ZERO, Run, compare
from benchmarks.machine import machine_line
from timerxl.command_line import leave, quiet_libraries
from timerxl.training.checkpoint.storage import find_checkpoints, find_problem

SETTINGS = ["train.max_steps=40", "eval.max_windows=100"]  # over those of chaos_judge
PLACES = {"step": 24, "backward": 24, "save": 21}  # where a run is cut, and at which step
USUAL = ["straight", *(f"{how} {place}" for how in ("silent", "down") for place in PLACES)]
TIMEOUT = 15.0  # seconds: train.collective_timeout_minutes of the runs that are cut
LAST_WORD = 15.0  # seconds after the timeout within which both launchers must have ended
DEFAULT = 1800.0  # its own default
PATIENCE = 300.0  # seconds for what is not measured: a start, a run to its end
CLOSE = 1e-5  # relative, of the loss of a step and of the last weights
ADDRESSES = ("10.99.1.1", "10.99.1.2")
NOBODY = "02:00:00:00:00:ff"  # an Ethernet address that no machine has
Line = tuple[bool, list[object]]  # whether it is good, and its cells


class Network:
    """Two machines and their link, as a context manager; ``why_not`` says why on loopback only.

    Each namespace is held by a process that ends with this one, however that comes.
    """

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[str]] = []
        self.why_not = ""

    def __enter__(self) -> Network:
        try:
            self._build()
        except OSError as error:  # also where unshare, nsenter or ip is not installed
            self.why_not = str(error)
            self.__exit__()
        return self

    def __exit__(self, *_: object) -> None:
        while self._holders:
            self._holders[-1].kill()
            self._holders.pop().communicate()

    def _build(self) -> None:
        kind, pipe = ["--user", "--map-root-user"], subprocess.PIPE  # root is not needed
        for machine in (0, 1):
            start = self.inside(0, "--user") if machine else []
            start += ["unshare", *kind, "--net", "sh", "-c", "echo up; read -r _"]
            holder = subprocess.Popen(start, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            self._holders.append(holder)
            if holder.stdout is None or not holder.stdout.readline():
                raise OSError(f"namespaces are not allowed: {holder.communicate()[1].strip()}")
            kind = []  # both machines are of one user namespace
        self.ip(0, f"link add link0 type veth peer name link1 netns {self._holders[1].pid}")
        for machine, address in enumerate(ADDRESSES):
            self.ip(machine, "link set lo up")
            self.ip(machine, f"link set link{machine} addrgenmode none")  # IPv4 alone
            self.ip(machine, f"addr add {address}/24 dev link{machine}")
            self.ip(machine, f"link set link{machine} up")

    def inside(self, machine: int, kinds: str = "--user --net") -> list[str]:
        """What to write before a command that is to run on a machine."""
        if self.why_not:
            return []
        whose = f"--target {self._holders[machine].pid} --preserve-credentials"
        return f"nsenter {whose} {kinds} --".split()

    def ip(self, machine: int, command: str) -> None:
        """A command of iproute2 on a machine; raises OSError with what it said."""
        whole = [*self.inside(machine), "ip", *command.split()]
        done = subprocess.run(whole, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"ip {command}: {done.stderr.strip()}")

    def options(self) -> str:
        """What the launch command says of the network: on two machines the address alone."""
        if not self.why_not:
            return f"--main_process_ip {ADDRESSES[0]}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            return f"--main_process_ip 127.0.0.1 --main_process_port {free.getsockname()[1]}"

    def cut(self, how: str, undo: bool = False) -> None:
        """``down``: machine 1 unplugs. ``silent``: both send into nothing, and see no fault."""
        if how == "down":
            return self.ip(1, f"link set link1 {'up' if undo else 'down'}")
        for machine, other in enumerate(reversed(ADDRESSES)):
            wrong = f"neigh replace {other} lladdr {NOBODY} nud permanent dev link{machine}"
            self.ip(machine, f"neigh del {other} dev link{machine}" if undo else wrong)


class Launch:
    """One command on both machines, as a user would type it; a context manager.

    ``limit`` is train.collective_timeout_minutes, in seconds; ``hold=PLACE:STEP`` makes both
    processes wait there for a file RUN.hold.
    """

    def __init__(self, network: Network, run: Run, *settings: str, limit: float, hold: str = ""):
        self.run, self.limit, self.since = run, limit, time.monotonic()
        self.codes: list[int | None] = [None, None]
        self.seconds = [0.0, 0.0]  # from ``since`` to the end of each launcher
        self.errors = [run.folder.with_suffix(f".{machine}.err") for machine in (0, 1)]
        self.processes, cores = [], sorted(os.sched_getaffinity(0))
        settings = (*settings, f"train.collective_timeout_minutes={limit / 60}")
        options = network.options()
        for machine in (0, 1):
            files = "--config_file accelerate_configs/multi_node_zero2.yaml"
            rank = f"--num_machines 2 --num_processes 2 --machine_rank {machine} {options}"
            precision = "--deepspeed_config_file ds_configs/zero2_fp32.json"
            launcher = [str(Path(sys.executable).with_name("accelerate")), "launch"]
            command = [*network.inside(machine), *launcher, *f"{files} {rank} {precision}".split()]
            command += ["benchmarks/two_machines.py", "worker", *SMALL, BATCH[2], *settings]
            # gloo offers the address of the host's name otherwise: loopback on many machines.
            own = {"GLOO_SOCKET_IFNAME": "lo" if network.why_not else f"link{machine}"}
            own |= {"HOLD": f"{hold} {run.folder.with_suffix('.hold')}", "OMP_NUM_THREADS": "1"}
            own["CHAOS_LOG"] = "" if machine else str(run.log)
            own["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "1"  # the end of the with block is quick
            with self.errors[machine].open("w") as errors:
                process = subprocess.Popen(
                    [*command, f"output_dir={run.folder}"], cwd=REPO, env=os.environ | own,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                    start_new_session=True,  # Ctrl-C is for this process alone
                )  # fmt: skip
            self.processes.append(process)
            os.sched_setaffinity(process.pid, {cores[machine % len(cores)]})  # a core each

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()  # a launcher ends its own processes then
        self.wait(20)
        for process in self.processes:
            process.kill()

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Until ``until`` or the end of both, at most so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not until() and None in self.codes:
            for machine, process in enumerate(self.processes):
                if self.codes[machine] is None:
                    self.codes[machine] = process.poll()
                    self.seconds[machine] = time.monotonic() - self.since
            time.sleep(0.02)

    def said(self, machine: int) -> str:
        """Standard error of our process on a machine, without its launcher's traceback."""
        text = self.errors[machine].read_text(errors="replace").replace("\r", "\n")
        return re.split(r" \S*torch/distributed/elastic/", text)[0]

    def complaint(self, newest: int) -> str:
        """What is wrong after a cut that left a checkpoint of step ``newest``; empty if nothing."""
        status, said = self.run.status(), [self.said(0), self.said(1)]
        found = dict(find_checkpoints(self.run.folder / "checkpoints"))
        good = {
            f"exit codes {self.codes}": self.codes == [1, 1],
            f"{max(self.seconds):.0f} s": max(self.seconds) < self.limit + LAST_WORD,
            f"status {status}": (status["code"], "lost contact" in status["reason"]) == (1, True),
            "a machine without a word": all("error: lost contact" in one for one in said),
            "a traceback": not any("Traceback" in one for one in said),
            f"checkpoints {[*found]}": max(found) == newest,
            "a damaged checkpoint": not any(find_problem(path) for path in found.values()),
        }
        return ", ".join(what for what in good if not good[what])


def stop(launch: Launch, network: Network, how: str, back_after: float | None = None) -> None:
    """Cut the link where ``launch`` holds, until both have stopped or should have."""
    hold, *there = (launch.run.folder.with_suffix(f".hold{rank}") for rank in ("", 0, 1))
    launch.wait(PATIENCE, lambda: all(path.exists() for path in there))
    if not all(path.exists() for path in there):
        raise RuntimeError(f"never came to where it is to be cut:\n{launch.said(0)[-3000:]}")
    network.cut(how)
    launch.since = time.monotonic()
    hold.touch()
    if back_after is not None:
        launch.wait(back_after)
        network.cut(how, undo=True)
    launch.wait(launch.limit + 2 * LAST_WORD)


def finish(network: Network, run: Run, *settings: str) -> float:
    """Launch and wait for the good end of both; the seconds it took. RuntimeError where not."""
    with Launch(network, run, *settings, limit=DEFAULT) as launch:  # a busy disk may take seconds
        launch.wait(PATIENCE)
    if launch.codes != [0, 0]:
        raise RuntimeError(f"exit codes {launch.codes}:\n{launch.said(0)[-3000:]}")
    return max(launch.seconds)


def weights_gap(one: Run, other: Run) -> float:
    """Largest difference of two runs' last weights, a share of the largest of them."""
    newest = [find_checkpoints(run.folder / "checkpoints")[0][1] for run in (one, other)]
    files = [load_file(folder / "model.safetensors") for folder in newest]
    first, second = (np.concatenate([f[name].ravel() for name in files[0]]) for f in files)
    return float(np.abs(first - second).max() / np.abs(first).max())


def beside_one(network: Network, run: Run, one: Run) -> Line:
    """Two machines, and two processes of one."""
    seconds, begun = finish(network, run, *SETTINGS), time.monotonic()
    if one.launch(ZERO, *SETTINGS):
        raise RuntimeError(one.output[-3000:])
    took, gap, found = time.monotonic() - begun, weights_gap(one, run), compare(one, run)
    same, loss = "samples" not in found.why, found.loss_difference
    said = f"samples {'identical' if same else 'DIFFER'}, last weights within {gap:.0e}"
    cells = [len(run.trajectory()), f"{loss:.0e}", [0, 0], said, f"{seconds:.0f}; one {took:.0f}"]
    return same and max(loss, gap) <= CLOSE, cells


def cut_off(network: Network, run: Run, straight: Run, name: str, away: float) -> Line:
    """The link goes for ``away`` seconds: both stop, and go on later; ``returns``: both wait."""
    waits = name == "returns"
    how, place = ("silent", "backward") if waits else name.split()
    hold, newest = f"{place}:{PLACES[place]}", (PLACES[place] - 1) // 7 * 7
    limit, wrong = DEFAULT if waits else TIMEOUT, ""
    with Launch(network, run, *SETTINGS, limit=limit, hold=hold) as launch:
        stop(launch, network, how, back_after=away if waits else None)
    status, done = run.status()["reason"], len(run.trajectory())
    if not waits:
        wrong = launch.complaint(newest)
        time.sleep(max(0.0, away - max(launch.seconds)))
        network.cut(how, undo=True)
        finish(network, run, *SETTINGS)
        # A run that began anew would end with the same weights.
        if [e["step"] for e in run.entries() if "step" in e][done] != newest + 1:
            wrong += " began anew"
    end = compare(straight, run)
    wrong = f"{wrong} {end.why}".strip()
    said, seconds = f"{status!r}, then {wrong or 'bit-identical'}", map(round, launch.seconds)
    return not wrong, [hold, f"{end.loss_difference:.0e}", launch.codes, said, [*seconds]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=[*USUAL, "returns"], default=USUAL)
    parser.add_argument("--cut-seconds", type=float, default=60.0)
    given, good = parser.parse_args(), True
    for one in (signal.SIGINT, signal.SIGTERM):  # through all the with blocks
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    print(machine_line(), "\n\n| scenario | steps | loss within | exit codes | message | s |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as parent, Network() as network:
        straight = Run(Path(parent) / "straight")
        for name in ["straight", *(name for name in given.only if name != "straight")]:
            run = Run(Path(parent) / name.replace(" ", "_"))
            if name == "straight":
                fine, cells = beside_one(network, run, Run(Path(parent) / "one"))
            elif network.why_not:
                fine, cells = True, ["", "", "", f"skipped: {network.why_not}", ""]
            else:
                fine, cells = cut_off(network, run, straight, name, given.cut_seconds)
            good &= fine
            line = " | ".join(map(str, [name, *cells]))
            print(f"| {line} |{'' if fine else ' FAILED'}", flush=True)
    return 0 if good else 1


def worker() -> int:
    """chaos_run.py, whose processes wait at HOLD=PLACE:STEP until RUN.hold is there."""
    quiet_libraries()
    from accelerate import Accelerator

    from benchmarks import chaos_run
    from timerxl.training.checkpoint import manager as checkpoint
    from timerxl.training.trainer import TrainingLoop

    where, _, path = os.environ["HOLD"].rpartition(" ")
    file, current = Path(path), [0]

    def held(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def after_waiting(*given: Any, **named: Any) -> Any:
            if place == "step":
                current[0] = given[0].progress.step + 1
            if where == f"{place}:{current[0]}":
                file.with_suffix(f".hold{os.environ['RANK']}").touch()
                while not file.exists():
                    time.sleep(0.02)
            return function(*given, **named)

        return after_waiting

    TrainingLoop._take_step = held("step", TrainingLoop._take_step)  # type: ignore[method-assign]
    # What comes then goes over a group of DeepSpeed's own; files are written, none counts yet.
    Accelerator.backward = held("backward", Accelerator.backward)
    checkpoint.record_files = held("save", checkpoint.record_files)
    sys.argv.pop(1)
    return chaos_run.main()


if __name__ == "__main__":
    leave(worker() if sys.argv[1:2] == ["worker"] else main())
