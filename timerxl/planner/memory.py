"""Memory of one rank: the traced step, what a trace cannot see, and settings that need less.

Without ZeRO the trace holds everything of one rank; with several ranks DistributedDataParallel
adds buckets as large as the gradients. With ZeRO-2 (Rajbhandari et al. 2020, section 5, as
DeepSpeed does it) weights stay whole in the computing format; the fp32 gradients, the fp32 master
weights and both moments of Adam are divided by the number of ranks; gradients pass through a
bucket of fixed size. docs/planning.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from timerxl.config import OptimConfig
from timerxl.planner.devices import CONTEXT_GIB, GIB, Device
from timerxl.planner.trace import StepSettings, trace_step
from timerxl.planner.workload import Choice, Workload, ZeroSettings, choose
from timerxl.training.assembly import HEADS, parameter_groups
from timerxl.training.precision import SettingChoice, choose_data_place

MASTER_BYTES, MOMENTS_BYTES, GRADIENT_BYTES = 4, 8, 4


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank at the moment of its peak; ``gradients_complete`` is their size at the
    end of backward, ``host`` what offloading moves to the computer's own memory; ``series`` is
    the data's copy on the GPU (``train.data_on_device``), ``average`` that of the weights
    (``train.ema``); the workspaces are what attention's backward works in at that moment and what
    cuBLAS keeps."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int
    buckets: int
    context: int
    gradients_complete: int
    host: int = 0
    series: int = 0
    average: int = 0
    attention_workspace: int = 0
    cublas_workspace: int = 0

    @property
    def workspaces(self) -> int:
        return self.attention_workspace + self.cublas_workspace

    @property
    def buffers(self) -> int:
        return self.temporary + self.buckets

    @property
    def total(self) -> int:
        resident = self.weights + self.gradients + self.optimizer + self.average
        working = self.activations + self.buffers + self.workspaces
        return resident + working + self.series + self.context

    @property
    def total_gib(self) -> float:
        return self.total / GIB


def memory_of(
    workload: Workload, choice: Choice, device: Device | None = None, ranks: int = 1
) -> RankMemory:
    """Predict the memory of one of ``ranks`` ranks of this run.

    Without a ``device`` assume an unspecified GPU and leave out the series, which is placed only on
    a GPU whose memory is known (``data_place``).
    """
    zero = workload.zero_settings(choice.precision) if choice.zero_stage == 2 else None
    memory = rank_memory(workload.step_settings(choice, device), ranks, zero)
    if workload.config.train.ema is not None:  # in fp32 whatever the format, whole on every rank
        memory = replace(memory, average=MASTER_BYTES * workload.num_parameters)
    if device is None or device.is_cpu or data_place(workload, memory, device).value != "true":
        return memory
    return replace(memory, series=workload.series_bytes)


def data_place(workload: Workload, memory: RankMemory, device: Device) -> SettingChoice:
    """Whether the series lies on ``device`` beside a run of this memory, as the run decides."""
    return choose_data_place(
        workload.config.train.data_on_device,
        workload.series_bytes / GIB,
        (memory.total - memory.series) / GIB,
        None if device.is_cpu else device.memory_gib,
    )


def rank_memory(settings: StepSettings, ranks: int, zero: ZeroSettings | None) -> RankMemory:
    """Memory of one of ``ranks`` ranks; ``zero`` None is plain data parallelism."""
    context = round(CONTEXT_GIB * GIB) if settings.on_gpu else 0
    cublas = cublas_workspace(settings.capability) if settings.on_gpu else 0
    if zero is not None:
        return _sharded_memory(settings, ranks, zero, context, cublas)
    # Beyond the second micro-batch nothing new happens.
    repeats = min(settings.accumulation_steps, 2)
    peak = trace_step(replace(settings, accumulation_steps=repeats, sharded=False))
    return RankMemory(
        weights=peak.weights,
        gradients=peak.gradients,
        optimizer=peak.optimizer,
        activations=peak.activations,
        temporary=peak.temporary,
        buckets=peak.weights if ranks > 1 else 0,  # fp32 both: as many bytes as the gradients
        context=context,
        gradients_complete=peak.weights,
        attention_workspace=peak.attention_workspace,
        cublas_workspace=cublas,
    )


def _sharded_memory(
    settings: StepSettings, ranks: int, zero: ZeroSettings, context: int, cublas: int
) -> RankMemory:
    # DeepSpeed reduces after every micro-batch: one is like the next.
    peak = trace_step(replace(settings, accumulation_steps=1, sharded=True))
    element = 2 if settings.half else 4
    parameters = peak.weights // element
    shard = -(-parameters // ranks)
    optimizer = (MASTER_BYTES + MOMENTS_BYTES) * shard
    gradients = GRADIENT_BYTES * max(gradient_elements(settings, ranks))
    buckets = zero.num_buckets * zero.bucket_elements * element
    flattened = min(parameters, zero.bucket_elements) * element  # for the collective
    in_backward = flattened if parameters > zero.bucket_elements else 0
    # (activations, temporary, buckets, workspace) in backward, at its end, and in the update.
    activations, temporary, live_buckets, workspace = max(
        (peak.activations, peak.temporary + in_backward, buckets, peak.attention_workspace),
        (0, flattened, buckets, 0),
        (0, 0 if settings.half else gradients, 0, 0),
        key=sum,
    )
    on_host = zero.offload_optimizer
    return RankMemory(
        weights=peak.weights,
        gradients=0 if on_host else gradients,
        optimizer=0 if on_host else optimizer,
        activations=activations,
        temporary=temporary,
        buckets=live_buckets,
        context=context,
        gradients_complete=gradients,
        host=gradients + optimizer + element * shard if on_host else 0,
        attention_workspace=workspace,
        cublas_workspace=cublas,
    )


def gradient_elements(settings: StepSettings, ranks: int) -> list[int]:
    """Count the gradient elements that each rank keeps under ZeRO-2.

    In half precision each keeps its equal share, in a buffer of its own. In fp32 DeepSpeed keeps
    the gradients themselves, so a tensor that two ranks share is whole on both.
    """
    with torch.device("meta"):
        model = HEADS[settings.task](deepcopy(settings.model))
    kept = [0] * ranks
    for group in parameter_groups(model, OptimConfig()):
        sizes = [parameter.numel() for parameter in group["params"]]
        shard = -(-sum(sizes) // ranks)
        if settings.half:
            kept = [found + shard for found in kept]
            continue
        start = 0
        for size in sizes:
            for rank in range(start // shard, (start + size - 1) // shard + 1):
                kept[rank] += size
            start += size
    return kept


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes that torch allocates for cuBLAS once a process, cuBLASLt sharing them.

    2 x 4 MiB and 8 x 16 KiB, from Hopper on 32 MiB (ATen/cuda/CublasHandlePool.cpp).
    """
    return 32 * 2**20 if capability >= (9, 0) else 2 * 4096 * 1024 + 8 * 16 * 1024


def memory_ladder(workload: Workload, ranks: int = 4) -> list[tuple[str, RankMemory]]:
    """(setting, memory): eager attention in fp32, then one change after the other.

    At the recipe's own micro-batch throughout. Everything is computed for a GPU's kernels.
    """
    eager = workload.changed(
        {
            "model.attn_implementation": "eager",
            "train.gradient_checkpointing": False,
            "train.offload_optimizer": False,
            "train.accumulation_steps": 1,
        }
    )
    fused = eager.changed({"model.attn_implementation": "sdpa"})
    light = fused.changed({"train.gradient_checkpointing": True})
    full, half, sharded = Choice("fp32", 0), Choice("bf16", 0), Choice("bf16", 2)
    return [
        ("eager attention, fp32, everything kept", memory_of(eager, full)),
        ("+ model.attn_implementation=sdpa", memory_of(fused, full)),
        ("+ train.gradient_checkpointing=true", memory_of(light, full)),
        ("+ half precision (bf16 or fp16)", memory_of(light, half)),
        (f"+ train.zero_stage=2 on {ranks} GPUs", memory_of(light, sharded, ranks=ranks)),
    ]


@dataclass(frozen=True)
class OneGpu:
    """Peaks in GiB on one GPU as the recipe has it, without ZeRO-2, and without checkpointing as
    well. Operations are of a training sample; ``memory_gib`` is the device's."""

    device: str
    memory_gib: float
    total_gib: float
    without_zero_gib: float | None
    without_checkpointing_gib: float | None
    flops: int
    flops_without_checkpointing: int | None

    def sentence(self) -> str:
        """One line; it says nothing of ZeRO-2's time on one GPU, which nobody measured."""
        has = f"on one {self.device} with {self.memory_gib:.1f} GiB"
        parts = [f"{has} this takes {self.total_gib:.2f} GiB"]
        if self.without_zero_gib is not None:
            parts.append(
                f"{self.without_zero_gib:.2f} GiB with train.zero_stage=0 (one GPU has nobody to "
                "share with)"
            )
        if self.without_checkpointing_gib is not None and self.flops_without_checkpointing:
            also = "also " if self.without_zero_gib is not None else ""
            fits = self.without_checkpointing_gib <= self.memory_gib
            saved = 1 - self.flops_without_checkpointing / self.flops
            parts.append(
                f"{self.without_checkpointing_gib:.2f} GiB ({'fits' if fits else 'does not fit'}) "
                f"{also}with train.gradient_checkpointing=false, for {saved:.0%} fewer operations "
                f"({self.flops_without_checkpointing / 1e9:.3g} instead of "
                f"{self.flops / 1e9:.3g} GFLOP a sample)"
            )
        return ", ".join(parts) + "."


def one_gpu(
    workload: Workload, choice: Choice, device: Device, memory: RankMemory
) -> OneGpu | None:
    """What one GPU would save on a run of this ``memory``; None where nothing can be left out."""
    checkpointing = workload.config.train.gradient_checkpointing
    if device.is_cpu or not (choice.zero_stage == 2 or checkpointing):
        return None
    no_zero = Choice(choice.precision, 0)
    plain = workload.changed({"train.offload_optimizer": False})
    kept = plain.changed({"train.gradient_checkpointing": False})
    return OneGpu(
        device=device.name,
        memory_gib=device.memory_gib,
        total_gib=memory.total_gib,
        without_zero_gib=(
            memory_of(plain, no_zero, device).total_gib if choice.zero_stage == 2 else None
        ),
        without_checkpointing_gib=(
            memory_of(kept, no_zero, device).total_gib if checkpointing else None
        ),
        flops=workload.flops_per_sample(),
        flops_without_checkpointing=kept.flops_per_sample() if checkpointing else None,
    )


@dataclass(frozen=True)
class Fit:
    """Settings that fit: ``overrides`` to paste, the run with them, its memory."""

    overrides: dict[str, str]
    workload: Workload
    memory: RankMemory

    def to_paste(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.overrides.items())


def find_fit(workload: Workload, device: Device, limit_gib: float, ranks: int) -> Fit | None:
    """Find the cheapest change that brings a rank under ``limit_gib``; None where nothing does.

    In order of cost: what is free (fused attention, half precision on a GPU), a smaller
    micro-batch with accumulation (same gradients, less work at once), gradient checkpointing (a
    third more operations), ZeRO-2 (communication), the optimizer on the host (a copy each step).
    Each keeps what came before it; batch_size x accumulation_steps stays what it was.
    """
    whole, effective = workload.config.train.batch_size, workload.global_batch(1)
    sizes = [size for size in range(whole, 0, -1) if effective % size == 0]
    tried: list[tuple[dict[str, Any], int]] = [({}, whole)]
    # One by one: accumulation keeps gradients, so a smaller micro-batch can need more.
    tried += [(settings, size) for settings in _levels(workload, device) for size in sizes]
    for settings, size in tried:
        if size != whole:
            counts = {"train.batch_size": size, "train.accumulation_steps": effective // size}
            settings = settings | counts
        changed = workload.changed(settings)
        memory = memory_of(changed, choose(changed, device), device, ranks)
        if memory.total_gib <= limit_gib:
            return Fit({k: str(v).lower() for k, v in settings.items()}, changed, memory)
    return None


def _levels(workload: Workload, device: Device) -> Iterator[dict[str, Any]]:
    """Settings in order of cost, each with those before it, from what is free to everything."""
    model, train = workload.config.model, workload.config.train
    settings: dict[str, Any] = {}
    if model.attn_implementation != "sdpa":
        settings["model.attn_implementation"] = "sdpa"
    if train.precision == "fp32" and not device.is_cpu:
        settings["train.precision"] = "auto"
    yield dict(settings)
    for key, value, only_gpu in (
        ("gradient_checkpointing", True, False),
        ("zero_stage", 2, True),
        ("offload_optimizer", True, True),
    ):
        if getattr(train, key) != value and not (only_gpu and device.is_cpu):
            settings[f"train.{key}"] = value
            yield dict(settings)
