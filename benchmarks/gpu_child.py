"""What gpu_check.py runs in a process of its own; the answer is a JSON file, OUT.

    python benchmarks/gpu_child.py environment OUT
    python benchmarks/gpu_child.py attention OUT SIZES_AS_JSON
    python benchmarks/gpu_child.py train OUT ACTION UNTIL --config RECIPE [key=value ...]

train is launch/train.py, unchanged but for what ACTION does after the loop has logged a step:

time          leave after the last step, before the evaluation, with the times of the steps
profile:N     the same, with five steps after step N under torch's profiler
sigterm:N     send SIGTERM to this process after step N
raise:N       with a process group: raise an error that nothing foresees after step N
infinite      every loss is multiplied by infinity before backward
whole         nothing: the run ends by itself

With "+fp16" behind it DeepSpeed's fp16 engine runs on a CPU, where the product refuses fp16.
UNTIL (seconds since the epoch): "time" leaves then, with the steps that it has.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

import torch

GIB = 2**30
PROFILED_STEPS, PROFILER_WARMUP = 5, 2
PACKAGES = ("torch", "accelerate", "deepspeed", "transformers", "datasets", "triton", "numpy")


def write(path: str, values: Any) -> None:
    """Replace the file at once: this process may be killed at any time."""
    fresh = Path(path).with_suffix(".new")
    fresh.write_text(json.dumps(values), encoding="utf-8")
    os.replace(fresh, path)


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def older_than_asked() -> dict[str, str]:
    """ "installed, minimum" of every package that pyproject.toml asks a newer version of."""
    from packaging.requirements import Requirement

    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    return {
        one.name: f"{found}, {one.specifier}"
        for one in wanted
        if (found := installed(one.name)) and not one.specifier.contains(found)
    }


# --- part 1 ---------------------------------------------------------------------------------------


def environment(out: str) -> None:
    """What this machine is, and whether the product can use its GPU."""
    has_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {
        "has_gpu": has_gpu,
        "device": "CPU",
        "python": ".".join(map(str, sys.version_info[:3])),
        "cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
        "packages": {name: installed(name) for name in PACKAGES},
        "older": older_than_asked(),
        "native_bf16": False,
    }
    try:
        from timerxl.device import gpu_facts, gpu_problem

        facts = gpu_facts()
        found |= {"driver": facts.driver, "problem": gpu_problem(facts, os.environ)}
    except ImportError as error:
        found |= {"driver": None, "problem": None, "not_asked": str(error)}
    if has_gpu:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": "{}.{}".format(*torch.cuda.get_device_capability()),
            "architectures": torch.cuda.get_arch_list(),
            "memory_gib": properties.total_memory / GIB,
            "native_bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    write(out, found)


# --- part 2 ---------------------------------------------------------------------------------------


def attention(out: str, sizes: dict[str, Any]) -> None:
    """Time, kernels and errors of the product's attention for every case, most decisive first."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # as timerxl/training/processes/distributed.py does
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"rows": rows, "finite": [], "left_out": 0, "complete": False}
    for dtype in sizes["dtypes"]:
        for patches, batch in zip(sizes["patches"], sizes["batches"], strict=True):
            for mode, head in sizes["cases"]:
                if time.time() > sizes["until"]:
                    found["left_out"] += 1
                    continue
                case = Case(sizes, dtype, mode, head, patches)
                rows.append(case.names() | {"errors": case.errors()})
                for dropout in sizes["dropouts"]:
                    key = f"dropout {dropout:g}"
                    rows[-1][key] = case.time(batch, dropout)
                    write(out, found)
    # 960 tokens are 64 more than a multiple of 128: cuDNN's gradients have been NaN there.
    for dtype in sizes["dtypes"]:
        for mode, head in sizes["cases"]:
            for cudnn in (False, True) if sizes["device"] == "cuda" else (False,):
                torch.backends.cuda.enable_cudnn_sdp(cudnn)
                case = Case(sizes | {"variables": 32}, dtype, mode, head, 30)
                found["finite"].append(
                    case.names() | {"cudnn": cudnn, "finite": case.is_finite(sizes["dropouts"])}
                )
                write(out, found)
    write(out, found | {"complete": True})


class Case:
    """One shape of the attention: forward and backward of ``timer_attention``."""

    def __init__(self, sizes: dict[str, Any], dtype: str, mode: str, head: int, patches: int):
        from timerxl.model.attention_timerxl import token_layout

        self.dtype_name, self.mode, self.head = dtype, mode, head
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device, self.heads = sizes["device"], sizes["heads"]
        self.variables, self.patches = sizes["variables"], patches
        self.tokens = self.variables * patches
        self.module = torch.nn.Module().train()
        self.layout = token_layout(
            self.variables,
            patches,
            head,
            covariate=False,
            rope_theta=10_000.0,
            device=self.device,
        )

    def names(self) -> dict[str, Any]:
        extra = self.variables if self.mode == "folded" else 0
        return {
            "dtype": self.dtype_name,
            "mode": self.mode,
            "head": self.head,
            "K": -(-(self.head + extra) // 8) * 8,
            "L": self.tokens,
        }

    def inputs(self, batch: int) -> list[torch.Tensor]:
        """Query, key, value [B, L, H, d] and the bias [2, H], exact in every precision."""
        generator = torch.Generator(self.device).manual_seed(0)
        shapes = [(batch, self.tokens, self.heads, self.head)] * 3 + [(2, self.heads)]
        made = [torch.randn(s, generator=generator, device=self.device) for s in shapes]
        *states, bias = (tensor.to(self.dtype) for tensor in made)
        return [*states, bias.float()]

    def run(
        self, inputs: Sequence[torch.Tensor], dropout: float, eager: bool = False
    ) -> list[torch.Tensor]:
        """[output, gradient of query, key, value and bias]."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        from timerxl.model.attention_timerxl import eager_attention_forward, timer_attention

        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        query, key, value, bias = leaves
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
        if eager:
            attend = eager_attention_forward
        elif self.device == "cpu":  # not the CPU's own kernel: the inputs are made as for a GPU
            attend = partial(attend)
        states = (query.clone(), key.clone(), value)  # the product may overwrite the first two
        made, _ = timer_attention(
            self.module, *states, bias, self.layout, attend, dropout, bias_mode=self.mode
        )
        weights = torch.linspace(-1, 1, made.shape[-1], device=made.device, dtype=made.dtype)
        made.backward(weights.expand_as(made))
        return [made.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    def errors(self) -> dict[str, dict[str, float]]:
        """Largest difference from eager float64 over its largest value: of the product, and of the
        eager reference in the same precision."""
        inputs = self.inputs(batch=2)
        expected = self.run([tensor.double() for tensor in inputs], 0.0, eager=True)
        names = ("output", "query", "key", "value", "bias")
        return {
            way: {
                name: float((a.double() - b).abs().max() / b.abs().max())
                for name, a, b in zip(names, self.run(inputs, 0.0, eager), expected, strict=True)
            }
            for way, eager in (("product", False), ("eager", True))
        }

    def time(self, batch: int, dropout: float) -> dict[str, Any]:
        """Milliseconds of forward and backward (mean of ten), and what ran."""
        inputs = self.inputs(batch)
        for _ in range(3):
            self.run(inputs, dropout)
        self.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            self.run(inputs, dropout)
        self.synchronize()
        seconds = (time.perf_counter() - started) / 10
        events = profiled(lambda: self.run(inputs, dropout))
        operators = sorted({e.name for e in events if "::_scaled_dot_product" in e.name})
        kernels = [name for name, _, _ in gpu_kernels(events)]
        fused = [n for n in kernels if any(word in n.lower() for word in ("fmha", "flash", "sdpa"))]
        return {
            "ms": 1e3 * seconds,
            "operators": [name for name in operators if "backward" not in name],
            "kernels": list(dict.fromkeys(fused)),
            "launches": len(kernels),
        }

    def is_finite(self, dropouts: list[float]) -> bool:
        # 1/8 is a dropout that cuDNN takes.
        tried = (self.run(self.inputs(batch=2), dropout) for dropout in {0.125, *dropouts})
        return all(bool(tensor.isfinite().all()) for made in tried for tensor in made)

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


# --- torch's profiler -----------------------------------------------------------------------------


def activities() -> list[Any]:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    return kinds + [torch.profiler.ProfilerActivity.CUDA] * torch.cuda.is_available()


def profiled(work: Callable[[], object]) -> list[Any]:
    with torch.profiler.profile(activities=activities()) as recording:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return list(recording.events() or [])


def gpu_kernels(events: Sequence[Any]) -> list[tuple[str, float, float]]:
    """(name, start, end) in microseconds of what ran on the GPU, ranges of user annotations not."""
    return [
        (event.name, float(event.time_range.start), float(event.time_range.end))
        for event in events
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
        and not event.name.startswith(("ProfilerStep", "Optimizer."))
    ]


def kernel_summary(
    kernels: Sequence[tuple[str, float, float]], steps: int, period_ms: float
) -> dict[str, Any]:
    """Launches a step, milliseconds a step in which something runs, and the fifteen longest.

    ``period_ms`` is a step's time without the profiler: the idle share is of it.
    """
    busy, end = 0.0, -math.inf
    for _, start, stop in sorted(kernels, key=lambda kernel: kernel[1]):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    busy_ms = busy / 1e3 / steps
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for name, start, stop in kernels:
        total[name] += (stop - start) / 1e3 / steps
        count[name] += 1
    longest = sorted(total, key=lambda name: -total[name])[:15]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name, _, _ in kernels)
    return {
        "launches": (len(kernels) - copies) / steps,
        "copies": copies / steps,
        "busy_ms": busy_ms,
        "idle_share": max(0.0, 1 - busy_ms / period_ms),
        "longest": [{"name": n, "calls": count[n] / steps, "ms": total[n]} for n in longest],
    }


def operator_summary(events: Sequence[Any], steps: int) -> dict[str, Any]:
    """The CPU's stand-in for :func:`kernel_summary`: operators by their own time."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for event in events:
        if event.name.startswith("aten::"):
            total[event.name] += event.self_cpu_time_total / 1e3 / steps
            count[event.name] += 1
    longest = sorted(total, key=lambda name: -total[name])[:15]
    return {
        "launches": sum(count.values()) / steps,
        "longest": [{"name": n, "calls": count[n] / steps, "ms": total[n]} for n in longest],
    }


# --- a training run -------------------------------------------------------------------------------


class Watch:
    """Called after the loop has logged a step; does what the run was started for."""

    def __init__(self, out: str, action: str, until: float):
        name, _, step = action.partition(":")
        self.out, self.action, self.step, self.until = out, name, int(step or 0), until
        self.ended = time.perf_counter()
        self.periods_ms: list[float] = []
        self.found: dict[str, Any] = {}
        self.profiler: Any = None

    def __call__(self, trainer: Any) -> None:
        now = time.perf_counter()
        self.periods_ms.append(1e3 * (now - self.ended))
        self.ended = now
        step = trainer.progress.step
        if self.action == "sigterm" and step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.action == "raise" and step == self.step:
            backend = torch.distributed.get_backend()
            write(self.out, {"backend": backend, "raised_at": time.time()})
            raise LookupError("broken on purpose")
        if self.action == "profile":
            self._profile(step)
        late = time.time() > self.until and step >= 5
        if self.action in ("time", "profile") and (step == trainer.total_steps or late):
            write(self.out, self.found | facts(trainer, self.periods_ms))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _profile(self, step: int) -> None:
        if step == self.step:
            self.profiler = torch.profiler.profile(
                activities=activities(),
                schedule=torch.profiler.schedule(
                    wait=0, warmup=PROFILER_WARMUP, active=PROFILED_STEPS
                ),
                on_trace_ready=self._keep,
            )
            self.profiler.start()
        elif self.profiler is not None and "profile" not in self.found:
            self.profiler.step()

    def _keep(self, recording: Any) -> None:
        events = recording.events() or []
        usual = sorted(self.periods_ms[self.step // 2 : self.step])
        period = usual[len(usual) // 2]
        if torch.cuda.is_available():
            summary = kernel_summary(gpu_kernels(events), PROFILED_STEPS, period)
        else:
            summary = operator_summary(events, PROFILED_STEPS)
        self.found["profile"] = summary | {"period_ms": period}


def facts(trainer: Any, periods_ms: list[float]) -> dict[str, Any]:
    """What the run was, and what it took."""
    from timerxl.planner.devices import device_at_hand
    from timerxl.training.assembly import bare_model, compile_seconds
    from timerxl.training.run_cost import RunFacts

    run, train, device = RunFacts.of(trainer.accelerator), trainer.config.train, device_at_hand()
    model = bare_model(trainer.accelerator, trainer.model)
    peak = device.tflops.get(run.precision)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "periods_ms": periods_ms,
        "device": device.name,
        "precision": run.precision,
        "zero_stage": run.zero_stage,
        "checkpointing": train.gradient_checkpointing,
        "batch": trainer.plan.global_batch_size,
        "flops_per_sample": trainer.plan.flops_per_sample(model),
        "peak_tflops": peak if peak and math.isfinite(peak) else None,
        "allocated_gib": torch.cuda.max_memory_allocated() / GIB if run.is_gpu else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB if run.is_gpu else None,
        "resident_gib": resident,
        "compile_seconds": compile_seconds(),
    }


def train(out: str, action: str, until: float) -> int:
    """launch/train.py under watch; its arguments are in sys.argv."""
    from timerxl.command_line import quiet_libraries

    quiet_libraries()
    from timerxl.cli import train as command
    from timerxl.training.precision import SettingChoice
    from timerxl.training.processes import distributed as launcher
    from timerxl.training.trainer import TrainingLoop

    action, _, on_cpu = action.partition("+")
    watch, log_step = Watch(out, action, until), TrainingLoop._log_step

    def logged(trainer: TrainingLoop, *arguments: Any) -> None:
        log_step(trainer, *arguments)
        watch(trainer)

    TrainingLoop._log_step = logged  # type: ignore
    if on_cpu == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
        launcher.choose_precision = lambda *_: SettingChoice("fp16", "rehearsed on a CPU")
    if watch.action == "infinite":
        run = TrainingLoop.run

        def infinite(trainer: TrainingLoop) -> Any:  # the run's own steps, not those of the plan
            backward = trainer.step._backward
            trainer.step._backward = lambda number, loss: backward(number, loss * math.inf)  # type: ignore
            return run(trainer)

        TrainingLoop.run = infinite  # type: ignore
    if watch.action == "raise":
        on_gpu = torch.cuda.is_available()
        store = torch.distributed.HashStore()
        backend = "nccl" if on_gpu else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        torch.distributed.all_reduce(torch.ones(1, device="cuda" if on_gpu else "cpu"))
    return command.main()


def main() -> None:
    command, out, *rest = sys.argv[1:]
    if command == "environment":
        environment(out)
    elif command == "attention":
        attention(out, json.loads(rest[0]))
    else:
        sys.argv[1:] = rest[2:]
        code = train(out, rest[0], float(rest[1]))
        from timerxl.command_line import leave

        leave(code)


if __name__ == "__main__":
    main()
