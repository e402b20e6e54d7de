"""All that only a GPU can tell, in one command: nine parts, each PASS, FAIL or SKIPPED.

    python benchmarks/gpu_check.py [--minutes 40] [--json FILE] [--parts 1,2,3]

Decisive parts come first; what the time does not reach is SKIPPED. Every part runs in processes of
its own (benchmarks/gpu_child.py): a crash or a hang ends that part alone. Without a GPU the same
lines run in their CPU-sized form, a tiny model in fp32 over gloo. Needs no network. Exit code 1
where a part fails. docs/scaling.md, "A GPU day", says what is judged and how.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parent
PASS, FAIL, SKIPPED = "PASS", "FAIL", "SKIPPED"

# What the product imports in a training run.
TRAINING = tuple(
    "omegaconf yaml datasets evaluate transformers accelerate pandas pyarrow sklearn threadpoolctl "
    "matplotlib rich tqdm safetensors".split()
)
MODEL = ("transformers", "huggingface_hub", "safetensors")
PLAN_ERROR = 0.10  # of allocated memory
ERRORS = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-2}
LOSS_ERROR = 0.02  # of a resumed run's loss, on a GPU; on a CPU none
EXIT_SECONDS = 10.0
MOST_SKIPPED = 20  # by here fp16 that leaves out every update must have ended
NO_END = (
    "train.trackers=[] eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0 "
    "eval.max_windows=64 train.log_every_steps=1 train.checkpoint_every_minutes=null "
    "monitors.collapse=off monitors.memory_cap_gb=null"
).split()


@dataclass(frozen=True)
class Form:
    """Sizes: the only difference between a GPU and a rehearsal on a CPU.

    ``steps`` are those of part 3, ``few_steps`` of shorter runs; ``start_seconds`` is what a run
    takes beside its steps.
    """

    device: str
    attention: dict[str, Any]
    overrides: tuple[str, ...]
    quickstart: tuple[str, ...]
    steps: int
    few_steps: int
    stop_at: int
    start_seconds: float
    changes: dict[str, tuple[str, ...]]


GPU = Form(
    device="cuda",
    attention={
        "cases": [["folded", 128], ["folded", 80], ["mask", 128]],
        "heads": 8,
        "variables": 27,
        "patches": [15, 30],
        "batches": [16, 12],
        "dropouts": [0.0, 0.2],
    },
    overrides=(),
    quickstart=("train.trackers=[]",),
    steps=100,
    few_steps=40,
    stop_at=40,
    start_seconds=30.0,
    changes={
        "gradient checkpointing off": ("train.gradient_checkpointing=false",),
        "ZeRO stage 0": ("train.zero_stage=0",),
        "layers compiled": ("train.compile=true",),
        "bias as a mask": ("model.variable_bias_mode=mask",),
        "series on the device": ("train.data_on_device=true",),
    },
)
TINY = (
    "data.synthetic.start=2023-06-01 model.patch_length=8 model.context_length=32 "
    "model.hidden_size=32 model.intermediate_size=32 model.num_hidden_layers=2 "
    "model.num_attention_heads=2 train.batch_size=8"
)
CPU = Form(
    device="cpu",
    attention={
        "cases": [["folded", 32], ["folded", 16], ["mask", 32]],
        "heads": 2,
        "variables": 5,
        "patches": [3, 6],
        "batches": [2, 2],
        "dropouts": [0.0, 0.2],
    },
    overrides=tuple(TINY.split()),
    quickstart=tuple(
        "train.trackers=[] train.max_steps=30 eval.every_steps=10 eval.max_windows=64 "
        "eval.fitted_baselines=false eval.num_resamples=0".split()
    ),
    steps=20,
    few_steps=14,
    stop_at=6,
    start_seconds=8.0,
    changes={
        "gradient checkpointing off": ("train.gradient_checkpointing=false",),
        "bias as a mask": ("model.variable_bias_mode=mask",),
    },
)


class Stopped(Exception):
    """SIGINT or SIGTERM: what is there is printed."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class Missing(Exception):
    """A package that a process wanted is not installed."""


@dataclass
class Outcome:
    """Of one part. ``speeds`` are rows of the table for docs/speed.md; ``data`` goes to --json."""

    status: str
    figures: list[str] = field(default_factory=list)
    speeds: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Child:
    """A process that has ended, or was killed at its limit (``code`` None)."""

    code: int | None
    output: str
    answer: dict[str, Any]
    ended_at: float

    def failure(self) -> str:
        how = "killed at its limit" if self.code is None else f"exit code {self.code}"
        said = [line for line in self.output.splitlines() if line.strip()][-12:]
        return "\n".join([how, *(f"    | {line[:200]}" for line in said)])


@dataclass(frozen=True)
class Run(Child):
    """A training run: ``answer`` is what gpu_child.py wrote of it."""

    folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def losses(self) -> dict[int, float | None]:
        """Loss by step; the last where a step was logged twice."""
        return {e["step"]: e["loss"] for e in self.events if e["event"] == "train"}

    @property
    def status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def speed(self, setting: str) -> dict[str, Any]:
        """The row of a run that was timed: medians over the second half of its steps."""
        found = self.answer
        periods = found["periods_ms"][len(found["periods_ms"]) // 2 :]
        low, middle, high = quartiles(periods)
        flops = found["batch"] * found["flops_per_sample"] / (middle / 1e3)
        planned = next((e["peak_memory_gib"] for e in self.events if e["event"] == "plan"), None)
        measured = found["allocated_gib"] or found["resident_gib"]
        return {
            "device": found["device"],
            "precision": found["precision"],
            "setting": setting,
            "zero_stage": found["zero_stage"],
            "checkpointing": found["checkpointing"],
            "steps": len(periods),
            "batch": found["batch"],
            "ms": middle,
            "ms_quartiles": [low, high],
            "samples_per_s": found["batch"] / (middle / 1e3),
            "tflops": flops / 1e12,
            "share": flops / 1e12 / found["peak_tflops"] if found["peak_tflops"] else None,
            "allocated_gib": found["allocated_gib"],
            "reserved_gib": found["reserved_gib"],
            "resident_gib": found["resident_gib"],
            "compile_seconds": found["compile_seconds"],
            "planned_gib": planned,
            "plan_error": planned / measured - 1 if planned else None,
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@dataclass
class Day:
    """What all parts share: the machine, the sizes, the folder, and the time that is left."""

    form: Form
    folder: Path
    factor: float
    deadline: float = 0.0  # of the part that runs
    step_seconds: float = 0.0  # of transfer, as part 3 measured it
    start_seconds: float = 0.0  # the slowest start of a run so far
    environment: dict[str, Any] = field(default_factory=dict)
    counter: int = 0

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def has_time_for(self, runs: int, steps: int) -> bool:
        """Whether this part can still begin ``runs`` runs of ``steps`` steps of transfer."""
        start = max(self.form.start_seconds, self.start_seconds)
        return self.left >= runs * (start + steps * self.step_seconds)

    @property
    def on_gpu(self) -> bool:
        return self.form.device == "cuda"

    def child(self, command: str, *arguments: str, more: dict[str, str] | None = None) -> Child:
        """Run gpu_child.py within the time that this part has left."""
        self.counter += 1
        stem = self.folder / f"{self.counter:02d}_{command}"
        out, log = stem.with_suffix(".json"), stem.with_suffix(".log")
        script = [sys.executable, str(HERE / "gpu_child.py"), command, str(out), *arguments]
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with log.open("w") as said:
            process = subprocess.Popen(
                script,
                cwd=REPO,
                env=os.environ | quiet | (more or {}),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # killed with all that it started
            )
            code: int | None = None
            try:
                code = process.wait(max(1.0, self.left))
            except subprocess.TimeoutExpired:
                pass
            finally:
                ended_at = time.time()
                if code is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        output = log.read_text(errors="replace")
        unknown = re.search(r"^ModuleNotFoundError: No module named '([^']+)'", output, re.M)
        if code == 1 and unknown and not unknown[1].startswith(("timerxl", "launch", "benchmarks")):
            raise Missing(unknown[1])
        answer = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
        return Child(code, output, answer, ended_at)

    def train(
        self,
        action: str,
        overrides: Sequence[str],
        *,
        recipe: str = "transfer",
        folder: Path | None = None,
        share: float = 1.0,
    ) -> Run:
        """One run of launch/train.py under watch.

        ``share`` of what the part has left is this run's: with less time it makes fewer steps.
        A CPU takes ZeRO-2 from the launcher's environment, as accelerate launch would set it.
        """
        folder = folder or self.folder / f"run_{self.counter + 1:02d}"
        sizes = self.form.overrides if recipe == "transfer" else ()
        settings = [*NO_END, *sizes, *overrides] if recipe == "transfer" else list(overrides)
        until = time.time() + max(5.0, share * self.left - 5.0)
        more = {}
        stage = [value for value in settings if value.startswith("train.zero_stage=")][-1:]
        if not self.on_gpu and stage == ["train.zero_stage=2"]:
            kind = "fp16" if "+fp16" in action else "fp32"
            more = deepspeed_environment(REPO / "ds_configs" / f"zero2_{kind}.json")
        arguments = [action, str(until), "--config", recipe, *settings, f"output_dir={folder}"]
        started = time.time()
        child = self.child("train", *arguments, more=more)
        if steps := child.answer.get("periods_ms"):  # the first holds the start
            seconds = child.ended_at - started - sum(steps[1:]) / 1e3
            seconds -= child.answer["compile_seconds"]
            self.start_seconds = max(self.start_seconds, seconds)
        return Run(**vars(child), folder=folder)

    def missing(self, *names: str) -> list[str]:
        return [name for name in names if find_spec(name) is None]


def deepspeed_environment(config: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(config),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


# --- the parts ------------------------------------------------------------------------------------


def part_environment(day: Day) -> Outcome:
    """Environment"""
    found = day.environment
    packages = ", ".join(f"{name} {v or 'missing'}" for name, v in found["packages"].items())
    figures = [f"{found['device']}, {found['cores']} cores, Python {found['python']}", packages]
    if found["has_gpu"]:
        figures.append(
            f"driver {found['driver']}, CUDA {found['cuda']}, capability {found['capability']} of "
            f"{' '.join(found['architectures'])}; {found['memory_gib']:.1f} GiB; bf16 "
            f"{'native' if found['native_bf16'] else 'not native: fp16'}"
        )
    if found["older"]:
        older = "; ".join(f"{name} {versions}" for name, versions in found["older"].items())
        figures.append(f"older than pyproject.toml asks: {older}")
    if found.get("not_asked"):
        figures.append(f"gpu_problem() was not asked: {found['not_asked']}")
    if found["problem"]:
        return Outcome(FAIL, [found["problem"], *figures], data=found)
    return Outcome(PASS, figures, data=found)


def part_attention(day: Day) -> Outcome:
    """Attention: kernels, time and errors"""
    half = ["bfloat16"] if day.environment["native_bf16"] or not day.on_gpu else []
    dtypes = [*half, "float32"] if not day.on_gpu else [*half, "float16", "float32"]
    # What is left beyond that is for the search for NaN and for the process to end.
    until = time.time() + 0.6 * day.left
    sizes = day.form.attention | {"device": day.form.device, "dtypes": dtypes, "until": until}
    child = day.child("attention", json.dumps(sizes))
    rows = child.answer.get("rows", [])
    problems, figures, worst = [], [], dict.fromkeys(ERRORS, 0.0)
    for row in rows:
        name = f"{row['dtype']}, {row['mode']}, K {row['K']}, L {row['L']}"
        errors, limit = row["errors"], ERRORS[row["dtype"]] * day.factor
        for which, error in errors["product"].items():
            worst[row["dtype"]] = max(worst[row["dtype"]], error)
            # Sums that cancel (the bias) are no better in the eager code of that precision.
            if not error <= max(limit, 2 * errors["eager"][which] * day.factor):
                problems.append(f"{name}: error of {which} {error:.2g}, limit {limit:g}")
        for key in (key for key in row if key.startswith("dropout")):
            ran = row[key]
            kernels = [short(name) for name in ran["kernels"] or ran["operators"]]
            figures.append(f"{name}, {key}: {ran['ms']:.3g} ms; {', '.join(kernels)}")
            if day.on_gpu and any("attention_math" in name for name in ran["operators"]):
                problems.append(f"{name}, {key}: no fused kernel, [B, H, L, L] tensors")
    for row in child.answer.get("finite", []):
        if not row["finite"]:
            said = f"{row['dtype']}, {row['mode']}, K {row['K']}, L {row['L']}: NaN"
            if row["cudnn"]:
                figures.append(f"{said} with cuDNN's attention, which the product switches off")
            else:
                problems.append(said)
    if not child.answer.get("complete"):
        problems.append(f"not complete: {child.failure()}")
    if child.answer.get("left_out"):
        figures.append(f"{child.answer['left_out']} cases left out, no time")
    shown = ", ".join(f"{name} {value:.1g}" for name, value in worst.items() if value)
    checked = len(child.answer.get("finite", []))
    figures.insert(0, f"largest errors: {shown}; {checked} cases of 960 tokens tried for NaN")
    if not day.on_gpu:
        figures.insert(1, "CPU: names of operators stand for those of kernels")
    return Outcome(FAIL if problems else PASS, problems + figures, data=child.answer)


def short(kernel: str) -> str:
    """A kernel's name without its template arguments and return type."""
    kernel = kernel.replace("(anonymous namespace)::", "")
    return kernel.partition("(")[0].partition("<")[0].removeprefix("void ").strip()[:90]


def part_memory(day: Day) -> Outcome:
    """transfer: speed, memory and the plan"""
    wanted = [(stage, kept) for stage in (2, 0) for kept in (True, False)]
    figures, problems, speeds = [], [], []
    for index, (stage, checkpointing) in enumerate(wanted):
        setting = f"ZeRO {stage}, checkpointing {'on' if checkpointing else 'off'}"
        if stage == 2 and day.missing("deepspeed"):
            figures.append(f"{setting}: left out, deepspeed is not installed")
            continue
        if not day.has_time_for(1, 5):
            figures.append(f"{setting}: left out, no time")
            continue
        changed = [
            f"train.zero_stage={stage}",
            f"train.gradient_checkpointing={str(checkpointing).lower()}",
            f"train.max_steps={day.form.steps}",
        ]
        run = day.train("time", changed, share=1 / (len(wanted) - index))
        if run.code != 0:
            problems.append(f"{setting}: {run.failure()}")
            continue
        row = run.speed(setting)
        speeds.append(row)
        day.step_seconds = max(day.step_seconds, row["ms"] / 1e3)
        if row["zero_stage"] != stage:
            problems.append(f"{setting}: ran with ZeRO stage {row['zero_stage']}")
        figures.append(f"{setting}: {speed_words(row)}")
        if day.on_gpu and not abs(row["plan_error"]) <= PLAN_ERROR * day.factor:
            problems.append(f"{setting}: the plan is {row['plan_error']:+.1%} of allocated memory")
    if not day.on_gpu:
        figures.append("CPU: the plan's error is of resident memory, and not judged")
    return judged(problems, figures, speeds)


def speed_words(row: dict[str, Any]) -> str:
    memory = f"resident {row['resident_gib']:.2f} GiB"
    if row["allocated_gib"] is not None:
        memory = f"allocated {row['allocated_gib']:.2f}, reserved {row['reserved_gib']:.2f} GiB"
    plan = "no plan" if row["plan_error"] is None else f"the plan {row['plan_error']:+.1%}"
    share = "" if row["share"] is None else f", {row['share']:.1%} of peak"
    low, high = row["ms_quartiles"]
    return (
        f"{row['ms']:.4g} ms a step (quartiles {low:.4g} to {high:.4g}, {row['steps']} steps, "
        f"{row['precision']}){share}; {memory}, {plan}"
    )


def judged(
    problems: list[str], figures: list[str], speeds: list[dict[str, Any]] | None = None
) -> Outcome:
    """FAIL where there is a problem, SKIPPED where nothing was found."""
    if problems:
        return Outcome(FAIL, problems + figures, speeds or [])
    found = any("left out" not in line and not line.startswith("CPU:") for line in figures)
    return Outcome(PASS if found else SKIPPED, figures, speeds or [])


def part_profile(day: Day) -> Outcome:
    """transfer: profile of five steps"""
    stage = 0 if day.missing("deepspeed") or not day.on_gpu else 2
    after = day.form.few_steps // 2
    steps = [f"train.zero_stage={stage}", f"train.max_steps={day.form.few_steps}"]
    run = day.train(f"profile:{after}", steps)
    if run.code != 0 or "profile" not in run.answer:
        return Outcome(FAIL, [run.failure()])
    found = run.answer["profile"]
    launches = f"{found['launches']:.0f}"
    figures = [f"CPU: {launches} operators a step stand for launches; no idle share"]
    if day.on_gpu:
        busy = f"busy {found['busy_ms']:.3g} of {found['period_ms']:.4g} ms"
        figures = [
            f"ZeRO {stage}: {launches} launches and {found['copies']:.0f} copies a step, {busy}: "
            f"idle {found['idle_share']:.0%}"
        ]
    figures += [
        f"{item['ms']:8.3f} ms, {item['calls']:6.1f} calls a step: {item['name'][:100]}"
        for item in found["longest"]
    ]
    return Outcome(PASS, figures, data=found)


def part_fp16(day: Day) -> Outcome:
    """fp16 trains, and ends where gradients are infinite"""
    figures: list[str] = []
    problems: list[str] = []
    stages = (0, 2) if day.on_gpu else (2,)
    mode = "" if day.on_gpu else "+fp16"
    for action, stage in [(a, s) for a in ("time", "infinite") for s in stages]:
        name = f"stage {stage}, {'trains' if action == 'time' else 'infinite gradients'}"
        if stage == 2 and day.missing("deepspeed"):
            figures.append(f"{name}: left out, deepspeed is not installed")
            continue
        if not day.has_time_for(1, MOST_SKIPPED):
            figures.append(f"{name}: left out, no time")
            continue
        changed = [
            f"train.zero_stage={stage}",
            "train.precision=fp16",
            f"train.max_steps={max(day.form.few_steps, 30)}",
        ]
        run = day.train(action + mode, changed, share=0.5)
        steps = [e for e in run.events if e["event"] == "train"]
        left_out = steps[-1].get("skipped", 0) if steps else 0
        if action == "time":
            finite = bool(steps) and all(e["loss"] is not None for e in steps)
            good = run.code == 0 and finite and not left_out
            precision = run.answer.get("precision")
            good &= precision == "fp16"
            figures.append(
                f"{name}: {len(steps)} steps in {precision}, loss {steps[0]['loss']:.4g} to "
                f"{steps[-1]['loss']:.4g}"
                if good
                else f"{name}: not as expected"
            )
        else:
            stops = {e["name"] for e in run.events if e.get("action") == "stop"}
            last = max(run.losses, default=0)
            good = run.code == 3 and stops == {"nonfinite"} and last <= MOST_SKIPPED
            good &= run.status.get("code") == 3
            figures.append(f"{name}: code {run.code} at step {last}, stopped by {sorted(stops)}")
        if not good:
            problems.append(f"{name}: {run.failure()}")
    if not day.on_gpu:
        figures.append("CPU: stage 0 has no fp16; stage 2 is DeepSpeed's engine, on a CPU")
    return judged(problems, figures)


def part_resume(day: Day) -> Outcome:
    """SIGTERM, resumed: the losses of an undisturbed run"""
    stop, figures, problems = day.form.stop_at, [], []
    stages = [0] if day.missing("deepspeed") or not day.on_gpu else [2, 0]
    for stage in stages:
        if not day.has_time_for(3, stop):
            figures.append(f"stage {stage}: left out, no time")
            continue
        changed = [f"train.zero_stage={stage}", f"train.max_steps={stop + stop // 2}"]
        folder = day.folder / f"resumed_{stage}"
        undisturbed = day.train("time", changed)
        if not day.has_time_for(2, stop):
            figures.append(f"stage {stage}: left out, no time")
            continue
        first = day.train(f"sigterm:{stop}", changed, folder=folder)
        if (undisturbed.code, first.code, first.status.get("code")) != (0, 143, 143):
            failed = undisturbed if undisturbed.code else first
            problems.append(f"stage {stage}: SIGTERM expects code 143: {failed.failure()}")
            continue
        second = day.train("time", changed, folder=folder)
        resumed = [e["step"] for e in second.events if e["event"] == "resume"]
        if (
            second.code != 0
            or resumed != [stop]
            or second.losses.keys() != undisturbed.losses.keys()
        ):
            problems.append(f"stage {stage}: resumed at {resumed}: {second.failure()}")
            continue
        apart = {
            step: abs(loss - other) / abs(loss)
            for step, loss in undisturbed.losses.items()
            if loss is not None and (other := second.losses[step]) is not None
        }
        before = max(value for step, value in apart.items() if step <= stop)
        after = max(value for step, value in apart.items() if step > stop)
        limit = LOSS_ERROR * day.factor if day.on_gpu else 0.0
        figures.append(
            f"stage {stage}: SIGTERM after step {stop} of {len(apart)}; losses apart by "
            f"{before:.2g} at most up to there, {after:.2g} after it (relative; limit {limit:g})"
        )
        if not after <= limit:
            problems.append(f"stage {stage}: {after:.2g} is above {limit:g}")
    return judged(problems, figures)


def part_quickstart(day: Day) -> Outcome:
    """quickstart without a slow verdict"""
    run = day.train("whole", day.form.quickstart, recipe="quickstart")
    verdicts = [e for e in run.events if e["event"] == "verdict"]
    checked = next((e for e in run.events if e["event"] == "plan_check"), {})
    planned, measured = (checked.get(f"{n}_epoch_seconds") for n in ("predicted", "measured"))
    figures = [f"verdicts: {', '.join(v['name'] for v in verdicts) or 'none'}"]
    if planned and measured:
        figures.append(f"an epoch: {planned:.3g} s planned, {measured:.3g} s measured")
    if run.code != 0:
        return Outcome(FAIL, [run.failure(), *figures])
    slow = [v["explanation"] for v in verdicts if v["name"] == "slow"]
    return Outcome(FAIL if slow else PASS, slow + figures)


def part_error(day: Day) -> Outcome:
    """An error in a process group: traceback, status.json and exit"""
    stage = 0 if day.missing("deepspeed") else 2
    run = day.train("raise:2", [f"train.zero_stage={stage}", "train.max_steps=10"])
    if "raised_at" not in run.answer:
        return Outcome(FAIL, [run.failure()])
    seconds = run.ended_at - run.answer["raised_at"]
    reason, code = run.status.get("reason", ""), run.code
    figures = [
        f"{run.answer['backend']}, ZeRO {stage}: exit after {seconds:.1f} s, code {code}; "
        f"status.json: {reason}"
    ]
    good = code == 1 and seconds <= EXIT_SECONDS
    good &= "Traceback" in run.output and "LookupError: broken on purpose" in run.output
    good &= reason == "failed: LookupError: broken on purpose"
    return Outcome(PASS, figures) if good else Outcome(FAIL, [*figures, run.failure()])


def part_changes(day: Day) -> Outcome:
    """transfer: one change at a time against the base"""
    stage = 0 if day.missing("deepspeed") or not day.on_gpu else 2
    base = [
        f"train.zero_stage={stage}",
        "train.gradient_checkpointing=true",
        "train.data_on_device=false",
        f"train.max_steps={2 * 30 if day.on_gpu else day.form.few_steps}",
    ]
    figures, problems, speeds = [], [], []
    bases: list[dict[str, Any]] = []
    planned = [c for c in day.form.changes.items() if stage == 2 or "zero_stage" not in c[1][0]]
    for index, (name, changed) in enumerate(planned):
        if not day.has_time_for(2, 5):
            figures.append(f"{name}: left out, no time")
            continue
        runs: dict[str, tuple[Run, dict[str, Any]]] = {}
        for setting, overrides in (("base", ()), (name, changed)):
            share = 1 / (2 * (len(planned) - index) - len(runs))
            run = day.train("time", [*base, *overrides], share=share)
            if run.code != 0:
                problems.append(f"{setting}: {run.failure()}")
                break
            runs[setting] = (run, run.speed(f"base, but {name}"))
        if len(runs) < 2:
            continue
        (base_run, before), (changed_run, after) = runs.values()
        bases.append(before)
        speeds.append(after)
        steps = [s for s in sorted(base_run.losses)[:3] if s in changed_run.losses]
        losses = " ".join(f"{base_run.losses[s]:.6g}/{changed_run.losses[s]:.6g}" for s in steps)
        low, high = after["ms_quartiles"]
        figures.append(
            f"{name}: {after['ms']:.4g} ms ({low:.4g} to {high:.4g}) against {before['ms']:.4g}, "
            f"ratio {after['ms'] / before['ms']:.3f}; losses base/change {losses}"
        )
    if bases:
        times = [row["ms"] for row in bases]
        setting = f"base: ZeRO {stage}, checkpointing on, series on the host"
        speeds.insert(0, min(bases, key=lambda row: abs(row["ms"] - statistics.median(times))))
        speeds[0]["setting"] = setting
        spread = f"{min(times):.4g} to {max(times):.4g} ms in {len(times)} runs"
        figures.append(f"{setting}: {spread}")
    return judged(problems, figures, speeds)


@dataclass(frozen=True)
class Part:
    """``weight``: share of the time; ``least``: seconds without which it does not begin, on a GPU
    and on a CPU."""

    number: int
    run: Callable[[Day], Outcome]
    weight: float
    least: tuple[float, float]
    needs: tuple[str, ...] = TRAINING

    @property
    def title(self) -> str:
        return str(self.run.__doc__)


# In the order in which they run: ten minutes are enough for the first five.
PARTS = (
    Part(1, part_environment, 1, (5, 5), ()),
    Part(2, part_attention, 5, (60, 10), MODEL),
    Part(3, part_memory, 9, (160, 20)),
    Part(8, part_error, 2, (45, 10)),
    Part(5, part_fp16, 6, (140, 20)),
    Part(6, part_resume, 6, (120, 25)),
    Part(7, part_quickstart, 4, (60, 10)),
    Part(4, part_profile, 3, (45, 10)),
    Part(9, part_changes, 14, (90, 20)),
)


# --- the command ----------------------------------------------------------------------------------


def run_part(part: Part, day: Day, seconds: float) -> Outcome:
    """One part within ``seconds``; whatever goes wrong in it is its own."""
    if missing := day.missing(*part.needs):
        return Outcome(SKIPPED, [f"not installed: {', '.join(missing)}"])
    older = day.environment["older"].get("transformers")
    if older and part.needs == TRAINING:  # its checkpointing of activations has another name there
        return Outcome(SKIPPED, [f"transformers is too old: {older}"])
    if part.number != 1 and day.environment["problem"]:
        return Outcome(SKIPPED, ["the GPU can't be used (part 1)"])
    least = part.least[0 if day.on_gpu else 1]
    if seconds < least:
        return Outcome(SKIPPED, [f"no time: {max(0, seconds):.0f} s left, it needs {least:g}"])
    day.deadline = time.monotonic() + seconds
    try:
        return part.run(day)
    except Stopped:
        raise
    except Missing as name:
        return Outcome(SKIPPED, [f"not installed: {name}"])
    except Exception as error:
        return Outcome(FAIL, [f"{type(error).__name__}: {error}"])


@contextmanager
def stopping() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(
    day: Day, asked: Sequence[int], seconds: float, keep: Callable[[dict[int, Outcome]], None]
) -> tuple[dict[int, Outcome], int]:
    """(outcome by part's number, signal that ended it or 0); each is printed when it is there."""
    end = time.monotonic() + seconds
    outcomes, ended_by = {}, 0
    for index, part in enumerate(PARTS):
        started = time.monotonic()
        if part.number not in asked:
            outcome = Outcome(SKIPPED, ["not asked for (--parts)"])
        elif ended_by:
            outcome = Outcome(SKIPPED, [f"ended by {signal.Signals(ended_by).name}"])
        else:
            left = end - started
            later = sum(p.weight for p in PARTS[index:] if p.number in asked)
            least = 0 if day.on_gpu else 1
            share = max(part.weight / later * left, part.least[least])
            # Twice its share where the others still have what they need at least.
            others = sum(p.least[least] for p in PARTS[index + 1 :] if p.number in asked)
            share = max(share, min(2 * share, left - others))
            try:
                with stopping():
                    outcome = run_part(part, day, min(left, share))
            except Stopped as stopped:
                ended_by = stopped.number
                outcome = Outcome(SKIPPED, [f"ended by {stopped}"])
        outcome.seconds = time.monotonic() - started
        outcomes[part.number] = outcome
        if part.number in asked:
            head = f"{part.number} {outcome.status} ({outcome.seconds:.0f} s) {part.title}"
            print("\n    ".join([head, *outcome.figures]), flush=True)
        keep(outcomes)
    return outcomes, ended_by


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def result_table(outcomes: dict[int, Outcome]) -> str:
    """The nine parts by their numbers."""
    rows = []
    for part in sorted(PARTS, key=lambda part: part.number):
        outcome = outcomes[part.number]
        first = outcome.figures[0].splitlines()[0] if outcome.figures else ""
        cells = [part.title, outcome.status, f"{outcome.seconds:.0f} s", first.replace("|", "/")]
        rows.append([str(part.number), *cells])
    return markdown(("", "part", "result", "took", "figures"), rows)


def speed_table(speeds: Sequence[dict[str, Any]]) -> str:
    """The table of measured speed for docs/speed.md."""

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    header = (
        "device",
        "precision",
        "setting",
        "ms a step",
        "samples/s",
        "share of peak",
        "allocated / reserved GiB",
        "plan's error",
    )
    rows = [
        [
            row["device"],
            row["precision"],
            row["setting"],
            f"{row['ms']:.4g}",
            f"{row['samples_per_s']:.4g}",
            cell(row["share"], ".1%"),
            f"{cell(row['allocated_gib'], '.2f')} / {cell(row['reserved_gib'], '.2f')}",
            cell(row["plan_error"] if row["allocated_gib"] is not None else None, "+.1%"),
        ]
        for row in speeds
    ]
    return markdown(header, rows)


def device_entry(speeds: Sequence[dict[str, Any]], torch_version: str) -> str:
    """A line for timerxl/planner/devices.py: the recipe's own setting, or the first measured."""
    measured = [row for row in speeds if row["allocated_gib"] is not None]
    if not measured:
        return "none: no run on a GPU was timed."
    row = measured[0]
    if row["share"] is None:
        return (
            f"SKIPPED: the table has no peak rate of {row['device']} in {row['precision']}; it ran "
            f"at {row['tflops']:.3g} TFLOP/s ({row['setting']})."
        )
    return (
        f'    ("{row["device"]}", "{row["precision"]}"): {row["share"]:.3f},  # transfer, batch '
        f"{row['batch']}, {row['setting']}, torch {torch_version}, {date.today()}"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=40.0, help="time for all parts (40)")
    parser.add_argument("--json", type=Path, help="all figures, written anew after every part")
    parser.add_argument("--parts", default="1,2,3,4,5,6,7,8,9", help="numbers, such as 1,2,3")
    parser.add_argument("--folder", type=Path, help="keep logs and runs here")
    parser.add_argument(
        "--tolerance-factor",
        type=float,
        default=1.0,
        help="on the limits of parts 2, 3 and 6; 0 shows what a FAIL looks like",
    )
    found = parser.parse_args(arguments)
    try:
        found.parts = sorted({int(number) for number in found.parts.split(",")})
    except ValueError:
        found.parts = [0]
    if not set(found.parts) <= {part.number for part in PARTS}:
        parser.error("--parts: expected numbers from 1 to 9, such as 1,2,3")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parse(arguments)
    started = time.monotonic()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="gpu_check_"))
    folder.mkdir(parents=True, exist_ok=True)
    day = Day(CPU, folder.resolve(), asked.tolerance_factor, deadline=started + 120)
    try:
        first = day.child("environment")
        if not first.answer:
            print(f"{FAIL}: torch does not answer: {first.failure()}")
            return 1
        day.environment = first.answer
        day.form = GPU if day.environment["has_gpu"] else CPU
        device = day.environment["device"]
        print(f"{date.today()}, {device}, at most {asked.minutes:g} minutes", flush=True)

        def keep(outcomes: dict[int, Outcome]) -> None:
            if asked.json is not None:
                parts = {str(number): asdict(outcome) for number, outcome in outcomes.items()}
                text = json.dumps({"environment": day.environment, "parts": parts}, indent=1)
                asked.json.write_text(text + "\n", encoding="utf-8")

        left = 60 * asked.minutes - (time.monotonic() - started)
        outcomes, ended_by = run_all(day, asked.parts, left, keep)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    speeds = [row for number in (3, 9) for row in outcomes[number].speeds]
    print(f"\n{result_table(outcomes)}")
    if speeds:
        print(f"\nFor docs/speed.md:\n\n{speed_table(speeds)}")
        entry = device_entry(speeds, str(day.environment["packages"]["torch"]))
        print(f"\nFor timerxl/planner/devices.py, share of peak:\n{entry}")
    count = [sum(o.status == status for o in outcomes.values()) for status in (PASS, FAIL, SKIPPED)]
    minutes = (time.monotonic() - started) / 60
    print("\n{} PASS, {} FAIL, {} SKIPPED in {:.1f} minutes".format(*count, minutes))
    if ended_by:
        return 128 + ended_by
    return 1 if count[1] else 0


if __name__ == "__main__":
    sys.exit(main())
