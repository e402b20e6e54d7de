"""Peak memory of the loop's own training step, traced with fake tensors.

Nothing is allocated and nothing computed: torch's MemTracker follows every tensor that
``training.step.TrainingStep`` makes on the real model. The same step, optimizer and model as in a
run; only the Accelerator is one on paper.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from timerxl.config import OptimConfig
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.planner.cuda_kernels import (
    CAPABILITY,
    EFFICIENT_ATTENTION,
    LIVE_WORKSPACE,
    CudaKernels,
)
from timerxl.planner.solo_rank import SoloRank, run_step, solo_step
from timerxl.training.assembly import build_optimizer

_NO_KERNEL = ("aten::empty", "aten::new_empty", "aten::detach")  # views are told by torch itself


@dataclass(frozen=True)
class StepSettings:
    """What decides how much memory one rank's step needs.

    Args:
        model: the model's configuration, ``num_variables`` included.
        batch_size: samples of a micro-batch.
        half: forward and backward in bf16 or fp16 (two bytes) instead of fp32.
        sharded: ZeRO-2: weights in the computing format, gradients handed on as they appear, the
            optimizer elsewhere. Otherwise weights are fp32, under autocast where ``half``.
        on_gpu: allocate as a GPU's kernels do; otherwise exactly what a CPU does.
        capability: CUDA's compute capability of that GPU, which decides on kernels.
    """

    model: TimerXLConfig
    attention: str
    batch_size: int
    accumulation_steps: int = 1
    checkpointing: bool = False
    half: bool = False
    sharded: bool = False
    on_gpu: bool = True
    capability: tuple[int, int] = (8, 0)


@dataclass(frozen=True)
class Peak:
    """Bytes at the moment of the traced step's highest total.

    ``attention_workspace`` is what attention's backward worked in at that moment, ``launches`` the
    operators of the whole step that do work: on a GPU at least one kernel each.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int
    attention_workspace: int = 0
    launches: int = 0

    @property
    def total(self) -> int:
        kept = self.weights + self.gradients + self.optimizer + self.activations
        return kept + self.temporary + self.attention_workspace


class _PeakTracker(MemTracker):
    """MemTracker without its peaks module by module, which nobody reads here: twice as fast.

    It also counts the operators that compute, and notes attention's workspace at the peak.
    """

    launches = 0
    attention_workspace = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.prim.device.default:  # most calls by far; makes no tensor
            return func(*args, **kwargs or {})
        if not func.is_view and not func.name().startswith(_NO_KERNEL):
            self.launches += 1
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _update_peak_stats(self, peak_state: Any) -> None:
        for device, now in self._curr_mem_snap.items():
            if self._peak_mem.get(device, 0) < now["Total"]:
                self._peak_mem[device] = now["Total"]
                self._peak_mem_snap[device] = dict(now)
                self.attention_workspace = LIVE_WORKSPACE.get()


class _PaperRank(SoloRank):
    """A rank that exists on paper, followed by a tracker."""

    def __init__(self, settings: StepSettings, tracker: MemTracker, optimizer: Any):
        super().__init__(optimizer, settings.accumulation_steps, "cpu")
        self.sharded, self.tracker = settings.sharded, tracker
        self.distributed_type = "DEEPSPEED" if self.sharded else "NO"

    @contextlib.contextmanager
    def accumulate(self, model: torch.nn.Module) -> Iterator[None]:
        self.tracker.reset_mod_stats()  # which follow one forward pass each
        with super().accumulate(model):
            yield

    def gather(self, tensor: torch.Tensor) -> Any:
        return np.zeros(tensor.shape)  # fake tensors have no values; these are finite

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any:
        if self.sharded:  # DeepSpeed does it, on its own shard
            return None
        return super().clip_grad_norm_(parameters, max_norm)

    def step(self) -> None:
        if not self.sharded:
            super().step()

    def zero_grad(self) -> None:
        if not self.sharded:
            super().zero_grad()


def trace_step(settings: StepSettings) -> Peak:
    """Peak of a step of a run under way: gradients were made before, AdamW has its state.

    Takes about a second; the same settings are traced once in a process.
    """
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    del values["model"]
    return _trace(settings.model.to_json_string(use_diff=False), **values)


@functools.lru_cache(maxsize=256)
def _trace(model_json: str, **values: Any) -> Peak:
    settings = StepSettings(TimerXLConfig(**json.loads(model_json)), **values)
    with warnings.catch_warnings(), FakeTensorMode(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Expected a tensor or a traceable")  # handed-on gradients
        model = _model(settings)
        optimizer = build_optimizer(model, OptimConfig())
        tracker = _PeakTracker()
        step = solo_step(model, _PaperRank(settings, tracker, optimizer))
        if settings.sharded:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(_hand_on)
        if settings.on_gpu:
            stack.enter_context(CudaKernels())
            stack.callback(CAPABILITY.reset, CAPABILITY.set(settings.capability))
        if not settings.sharded:
            _first_step(model, optimizer)
        tracker.track_external(model, optimizer)
        with tracker:
            run_step(step, settings.model, settings.batch_size)
    found = next(iter(tracker.get_tracker_snapshot("peak").values()))
    named = {str(kind).rsplit(".", 1)[-1]: size for kind, size in found.items()}
    return Peak(
        weights=named["PARAM"],
        gradients=named["GRAD"],
        optimizer=named["OPT"],
        activations=named["ACT"] + named["BUFFER"] + named["OTH"],
        temporary=named["TEMP"] - tracker.attention_workspace,
        attention_workspace=tracker.attention_workspace,
        launches=tracker.launches,
    )


def _model(settings: StepSettings) -> TimerXLForClassification:
    model = TimerXLForClassification._from_config(
        copy.deepcopy(settings.model),
        attn_implementation=settings.attention,
        # DeepSpeed computes with weights of the computing format; autocast keeps fp32 ones.
        dtype=torch.bfloat16 if settings.half and settings.sharded else torch.float32,
    )
    if settings.on_gpu and settings.attention == "sdpa":
        model.config._attn_implementation = EFFICIENT_ATTENTION
    if settings.checkpointing:
        arguments: dict[str, Any] = {"use_reentrant": False}
        if settings.on_gpu:
            # Backward switches function modes off; what it computes again needs them too.
            arguments["context_fn"] = lambda: (contextlib.nullcontext(), CudaKernels())
        model.activation_checkpointing_enable(arguments)
    if settings.half and not settings.sharded:
        # As accelerate does it: autocast around the forward pass alone.
        model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    return model


def _first_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """AdamW's state, as the first step of a run leaves it."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def _hand_on(parameter: torch.nn.Parameter) -> None:
    """ZeRO-2 copies a gradient into its bucket as soon as it is there, and lets go of it."""
    parameter.grad = None
