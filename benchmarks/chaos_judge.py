"""Launch, kill and compare the runs of chaos.py: what a run did, and whether two did the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

REPO = Path(__file__).resolve().parent.parent
SCRIPT = "benchmarks/chaos_run.py"
STEPS = 60
# A small network on a short SYNTHETIC series: 227 steps an epoch on one process, two dropouts.
SMALL = (
    "data.synthetic.start=2023-01-01 data.train_fraction=0.5 data.validation_fraction=0.25 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    f"model.hidden_dropout=0.1 train.max_steps={STEPS} train.checkpoint_every_steps=7 "
    "train.log_every_steps=1 train.trackers=[] eval.every_steps=10 eval.max_windows=200 "
    "eval.fitted_baselines=false eval.num_resamples=0 monitors.slow=off monitors.memory=off"
).split()
BATCH = {1: "train.batch_size=16", 2: "train.batch_size=8", 4: "train.batch_size=4"}


@dataclass(frozen=True)
class Mode:
    """How a run is launched."""

    name: str
    ranks: int
    zero: bool = False
    max_restarts: int = 0

    def command(self) -> list[str]:
        bin_folder = Path(sys.executable).parent
        if self.zero:
            files = ["--config_file", "accelerate_configs/zero2_cpu.yaml"]
            files += ["--deepspeed_config_file", "ds_configs/zero2_fp32.json"]
            ranks = ["--num_processes", str(self.ranks), "--main_process_port", "0"]
            return [str(bin_folder / "accelerate"), "launch", *files, *ranks, SCRIPT]
        if self.ranks > 1:
            ranks = ["--nproc_per_node", str(self.ranks), "--max-restarts", str(self.max_restarts)]
            return [str(bin_folder / "torchrun"), "--standalone", *ranks, SCRIPT]
        return [sys.executable, SCRIPT]


ONE = Mode("one process", 1)
TWO = Mode("two processes", 2)
ZERO = Mode("ZeRO-2 on two", 2, zero=True)


@dataclass
class Run:
    """A run folder, the log beside it (or elsewhere), and what its launches printed."""

    folder: Path
    log: Path = None  # type: ignore[assignment]
    codes: list[int] = field(default_factory=list)
    output: str = ""

    def __post_init__(self) -> None:
        self.log = self.log or self.folder.with_suffix(".log")

    def launch(self, mode: Mode, *overrides: str, kill: str = "", kill_rank: int = 0) -> int:
        """One launch to its end, however it comes; returns the exit code."""
        return self.end(self.start(mode, *overrides, kill=kill, kill_rank=kill_rank))

    def start(
        self, mode: Mode, *overrides: str, kill: str = "", kill_rank: int = 0
    ) -> subprocess.Popen[bytes]:
        """Launch, and go on without waiting."""
        environment = os.environ | {
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "CHAOS_LOG": str(self.log),
            "CHAOS_KILL": kill,
            "CHAOS_KILL_RANK": str(kill_rank),
            "CHAOS_ONCE": str(self.folder.with_suffix(".died")) if mode.max_restarts else "",
        }
        if mode.zero:
            environment.pop("ACCELERATE_USE_CPU")
        settings = [*SMALL, BATCH[mode.ranks], *overrides, f"output_dir={self.folder}"]
        self.note("launched")
        with self.log.with_suffix(".out").open("w") as output:
            return subprocess.Popen(
                [*mode.command(), *settings],
                cwd=REPO,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a launch; its exit code."""
        code = process.wait(timeout=300)
        self.output = self.log.with_suffix(".out").read_text(encoding="utf-8")
        self.codes.append(code)
        return code

    def last_word(self, process: subprocess.Popen[bytes]) -> float:
        """Seconds from the first death among the ranks to the end of the last of them."""
        died = None
        while process.poll() is None:
            entries = self.entries()
            died = next((e for e in entries if "killed" in e), None)
            if died is not None:
                born = [e["pid"] for e in entries if "started" in e and e["time"] < died["time"]]
                if not any(Path(f"/proc/{pid}").exists() for pid in born):
                    return time.time() - float(died["time"])
            time.sleep(0.05)
        raise RuntimeError(f"nobody died, or the launcher ended first: {died}")

    def note(self, event: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({event: True, "time": time.time()}) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def trajectory(self) -> list[dict[str, Any]]:
        """The steps that count: after every resume, those done before it from its step on are
        void."""
        steps: list[dict[str, Any]] = []
        for entry in self.entries():
            if "step" in entry:
                steps = [kept for kept in steps if kept["step"] < entry["step"]]
                steps.append(entry)
        return steps

    def seconds_to_recover(self) -> list[float]:
        """From each launch (or restart by the launcher) after a death to its first step."""
        found, since, dead = [], 0.0, False
        for entry in self.entries():
            if "killed" in entry:
                since, dead = entry["time"], True
            elif "launched" in entry and dead:
                since = entry["time"]
            elif "step" in entry and dead:
                found.append(entry["time"] - since)
                dead = False
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return found


@dataclass(frozen=True)
class Comparison:
    """How a run that was disturbed differs from one that was not."""

    lost_steps: int
    replayed_samples: int
    identical: bool
    loss_difference: float  # largest relative one of a step
    why: str = ""


def compare(straight: Run, other: Run) -> Comparison:
    """Samples and loss of every step, curves, final weights, forecasts; bit by bit."""
    expected, found = straight.trajectory(), other.trajectory()
    steps = {entry["step"] for entry in found}
    lost = sum(entry["step"] not in steps for entry in expected)
    counts = Counter(s for entry in found for s in entry["samples"])
    counts.subtract(Counter(s for entry in expected for s in entry["samples"]))
    replayed = sum(count for count in counts.values() if count > 0)
    differs = []
    if [e["samples"] for e in expected] != [e["samples"] for e in found]:
        differs.append("samples")
    if [e["loss"] for e in expected] != [e["loss"] for e in found]:
        differs.append("losses")
    if curves(straight) != curves(other):
        differs.append("metrics.jsonl")
    weights = [load_file(run.folder / "model" / "model.safetensors") for run in (straight, other)]
    if any(weights[0][name].tobytes() != weights[1][name].tobytes() for name in weights[0]):
        differs.append("weights")
    names = ("forecasts.parquet", "verdict.json")
    for name in names:
        if (straight.folder / name).read_bytes() != (other.folder / name).read_bytes():
            differs.append(name)
    losses = np.array([[a["loss"], b["loss"]] for a, b in zip(expected, found, strict=False)])
    gap = float(np.max(np.abs(losses[:, 0] - losses[:, 1]) / np.abs(losses[:, 0])))
    return Comparison(lost, replayed, not differs, gap, ", ".join(differs))


def curves(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl without clocks, machines and restarts."""
    lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = []
    for line in lines:
        event = json.loads(line)
        if event["event"] in ("train", "check", "validation", "verdict"):
            for clock in ("samples_per_s", "seconds"):
                event.pop(clock, None)
            kept.append(event)
    return kept
