"""Peak memory of the training loop's own step, traced with fake tensors.

Nothing is allocated and nothing computed: torch's MemTracker follows every tensor that
:class:`TrainingStep` makes on the real model. Step, optimizer and model are those of a run; only
the Accelerator is a fake one.

A trace runs on the CPU's operators. Four things differ on a GPU, and are allocated here as there:
dropout keeps a mask of one byte (a CPU's four), attention is one fused kernel that keeps its
inputs, its output and one number per row, its backward works in a buffer of its own, and under
autocast a LayerNorm works in fp32.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.overrides import TorchFunctionMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from timerxl.config import OptimConfig
from timerxl.model import TimerXLConfig, TimerXLForClassification, TimerXLForPrediction
from timerxl.training.assembly import HEADS, build_optimizer
from timerxl.training.dataloader import MicroBatch
from timerxl.training.trainer import TrainingStep

EFFICIENT_ATTENTION = "timerxl_traced_efficient_attention"
_ROWS_ALIGNMENT = 32  # the kernel pads its numbers per row to this
_MASK_ALIGNMENT = 16  # and the rows of a mask's gradient to this
_NO_KERNEL = ("aten::empty", "aten::new_empty", "aten::detach")  # torch itself tells of views
# Of the GPU that is traced for, and the workspace that attention's backward holds right now.
_CAPABILITY: ContextVar[tuple[int, int]] = ContextVar("capability", default=(8, 0))
_LIVE_WORKSPACE: ContextVar[int] = ContextVar("live_workspace", default=0)


@dataclass(frozen=True)
class StepSettings:
    """What decides how much memory one rank's step needs.

    Args:
        model: the model's configuration, ``num_variables`` included.
        batch_size: samples of a micro-batch.
        half: forward and backward in bf16 or fp16 (two bytes) instead of fp32.
        sharded: ZeRO-2: weights in the computing format, gradients handed on as they appear, the
            optimizer elsewhere. Otherwise weights are fp32, under autocast where ``half``.
        label_patches: patches of a window with a label each; None is one label a window.
        task: what is trained, as in ``train.task``.
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
    label_patches: int | None = None
    task: str = "rain"
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


class FakeAccelerator:
    """Accelerator and optimizer of a single process in one: what a :class:`TrainingStep` asks of
    them.

    With ``sharded`` clipping and the update are left out, as DeepSpeed does them on its own shard.
    """

    num_processes = 1
    mixed_precision = "no"

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulation_steps: int = 1,
        device: str = "cpu",
        *,
        sharded: bool = False,
        tracker: MemTracker | None = None,
    ):
        self.optimizer, self.accumulation_steps = optimizer, accumulation_steps
        self.device = torch.device(device)
        self.sharded, self.tracker = sharded, tracker
        self.distributed_type = "DEEPSPEED" if sharded else "NO"  # as accelerate names them
        self.micro_step = 0

    def training_step(self, model: TimerXLForClassification | TimerXLForPrediction) -> TrainingStep:
        """The loop's step of ``model``, at a constant learning rate."""
        return TrainingStep(
            accelerator=self,
            model=model,
            optimizer=self,
            schedule=SimpleNamespace(step=lambda: None),
            accumulation_steps=self.accumulation_steps,
            max_grad_norm=1.0,
            next_patch_weight=1.0 if model.config.next_patch_head else 0.0,
        )

    @contextlib.contextmanager
    def accumulate(self, model: torch.nn.Module) -> Iterator[None]:
        if self.tracker is not None:
            self.tracker.reset_mod_stats()  # which follow one forward pass each
        self.micro_step += 1
        yield

    def gather(self, tensor: Tensor) -> Any:
        # Fake tensors have no values; zeros are finite, so the step goes on.
        return np.zeros(tensor.shape) if isinstance(tensor, FakeTensor) else tensor

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any:
        return None if self.sharded else torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def step(self) -> None:
        """Update after the last micro-batch alone, as accelerate's optimizer does."""
        if self._updates:
            self.optimizer.step()

    def zero_grad(self) -> None:
        if self._updates:
            self.optimizer.zero_grad()

    @property
    def _updates(self) -> bool:
        return not self.sharded and self.micro_step % self.accumulation_steps == 0


def run_step(
    step: TrainingStep,
    config: TimerXLConfig,
    batch_size: int,
    number: int = 1,
    label_patches: int | None = None,
) -> None:
    """Take one step on windows of zeros, ``batch_size`` samples in every micro-batch."""
    group = [MicroBatch(list(range(batch_size)), batch_size)] * step.accumulation_steps
    if isinstance(step.model, TimerXLForPrediction):
        shape = (batch_size, config.context_length, config.num_variables or 1)
        batches = [{key: torch.zeros(shape) for key in ("past_values", "labels")} for _ in group]
    else:
        batches = [zero_windows(config, batch_size, label_patches) for _ in group]
    num_windows = batch_size * len(group)
    labels = num_windows * (label_patches or 1) * (config.num_regions or 1)
    step(number, group, iter(batches), float(labels), num_windows)


def zero_windows(
    config: TimerXLConfig, batch_size: int, label_patches: int | None = None
) -> dict[str, Tensor]:
    """past_values [B, T, C], labels [B] and, where the model wants them, static features [B, S].

    With ``label_patches`` the labels are [B, M], static features [B, M, S], and there are
    label_positions [M]. With regions side by side there is a further axis for them.
    """
    variables = (config.num_variables or 1) * (config.num_regions or 1)
    shape = (batch_size, config.context_length, variables)
    further = (label_patches, config.num_regions)
    answers = (batch_size, *(size for size in further if size is not None))
    batch = {
        "past_values": torch.zeros(shape),
        "labels": torch.zeros(answers, dtype=torch.long),
    }
    if label_patches is not None:
        batch["label_positions"] = torch.arange(label_patches)
    if config.num_static_real_features:
        batch["static_real_features"] = torch.zeros(*answers, config.num_static_real_features)
    return batch


def trace_step(settings: StepSettings) -> Peak:
    """Trace a step of a run under way: gradients were made before, AdamW has its state.

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
        accelerator = FakeAccelerator(
            optimizer, settings.accumulation_steps, sharded=settings.sharded, tracker=tracker
        )
        if settings.on_gpu:
            stack.enter_context(CudaKernels())
            stack.callback(_CAPABILITY.reset, _CAPABILITY.set(settings.capability))
        for parameter in model.parameters():
            if settings.sharded:
                parameter.register_post_accumulate_grad_hook(_hand_on)
            else:
                parameter.grad = torch.zeros_like(parameter)
        if not settings.sharded:  # AdamW's state, as the first step of a run leaves it
            optimizer.step()
            optimizer.zero_grad()
        tracker.track_external(model, optimizer)
        with tracker:
            run_step(
                accelerator.training_step(model),
                settings.model,
                settings.batch_size,
                label_patches=settings.label_patches,
            )
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


def _model(settings: StepSettings) -> TimerXLForClassification | TimerXLForPrediction:
    model = HEADS[settings.task]._from_config(
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


def _hand_on(parameter: torch.nn.Parameter) -> None:
    """Free a gradient once it is computed, as ZeRO-2 does; its bucket is counted in memory.py."""
    parameter.grad = None


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
                self.attention_workspace = _LIVE_WORKSPACE.get()


class CudaKernels(TorchFunctionMode):
    """While active, dropout and LayerNorm allocate what they allocate on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.layer_norm and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **kwargs)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0.0:
        return input
    return torch.native_dropout(input, p, True)[0]


def efficient_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Stand where transformers' ``sdpa_attention_forward`` would call the fused kernel."""
    bias = attention_mask
    if bias.dtype == torch.bool:
        # It becomes an additive one of the query's format, shared by batch and heads.
        bias = torch.zeros_like(attention_mask, dtype=query.dtype)
    out = _EfficientAttention.apply(query, key, value, bias)
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(EFFICIENT_ATTENTION, efficient_attention)


class _EfficientAttention(torch.autograd.Function):
    """Memory of ``aten::_scaled_dot_product_efficient_attention``, the one fused kernel that takes
    a mask on every GPU: [B, H, Q, d] in, [B, H, Q, d] out; no [B, H, Q, L] tensor, and dropout
    from a seed instead of a mask. The numbers are never computed."""

    @staticmethod
    def forward(ctx, query, key, value, bias):  # type: ignore[no-untyped-def]
        batch, heads, rows, _ = query.shape
        out = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        padded = -(-rows // _ROWS_ALIGNMENT) * _ROWS_ALIGNMENT
        logsumexp = query.new_empty(batch, heads, padded, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx, grad_out):  # type: ignore[no-untyped-def]
        query, key, value, bias = ctx.saved_tensors[:4]
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        full = None
        if ctx.needs_input_grad[3]:
            # In rows filled up to a multiple of 16, then summed over what the mask is shared by.
            rows, columns = bias.shape[-2:]
            padded = -(-columns // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
            full = query.new_empty(*query.shape[:2], rows, padded)[..., :columns]
        batch, heads, queries, channels = query.shape
        half, capability = query.dtype != torch.float32, _CAPABILITY.get()
        sizes = batch, heads, queries, key.shape[2], channels, value.shape[3]
        size = attention_workspace(*sizes, half, capability)
        token = _LIVE_WORKSPACE.set(size)
        workspace = query.new_empty(size, dtype=torch.uint8)
        del workspace
        _LIVE_WORKSPACE.reset(token)
        return *grads, None if full is None else full.sum_to_size(bias.shape)


def attention_workspace(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    channels: int,
    value_channels: int,
    half: bool,
    capability: tuple[int, int],
) -> int:
    """Bytes of fp32 accumulators in the backward pass of memory-efficient attention.

    Per sample and head: a padded block of the query's gradient for every block of queries and of
    channels, and, where they don't stay in registers, a block of the key's and the value's
    gradient per split of the keys (``workspace_size`` in mem_eff_attention/kernel_backward.h).
    """
    widest = max(channels, value_channels)
    block_queries, block_keys, in_registers = _backward_blocks(widest, half, capability)
    for_query = -(-queries // block_queries) * -(-channels // block_keys)
    for_query *= block_queries * block_keys + 4  # a lock and a counter, padded to 16 bytes
    splits = 0
    if not in_registers:
        splits = max(1, min(-(-keys // block_keys), 200 // (batch * heads)))
    padded = sum(-(-one // block_queries) * block_queries for one in (channels, value_channels))
    for_key_and_value = splits * block_keys * padded
    return batch * heads * (for_query + for_key_and_value) * 4


def _backward_blocks(
    channels: int, half: bool, capability: tuple[int, int]
) -> tuple[int, int, bool]:
    """(queries, keys) of a block, and whether the gradients of key and value stay in registers.

    In the order in which mem_eff_attention/kernels/cutlassB.h offers its kernels; blocks of 128
    need more shared memory than T4 and the GeForce generations have.
    """
    large = capability in ((7, 0), (8, 0)) or 9 <= capability[0] < 12
    if not half:
        return (128 if large and channels > 64 and capability >= (8, 0) else 64), 64, False
    if channels <= 64:
        return 64, 64, True
    if channels <= 96 and capability in ((8, 6), (8, 9)):
        return 128, 64, True
    if channels <= 128 and large:
        return 128, (128 if capability >= (8, 0) else 64), True
    return (128 if large else 64), 64, False
