"""Memory of one rank: the traced step, and what a trace cannot see.

Without ZeRO the trace holds everything of one rank; with several ranks DistributedDataParallel
adds buckets as large as the gradients. With ZeRO-2 (Rajbhandari et al. 2020, section 5, as
DeepSpeed does it) weights stay whole in the computing format; the fp32 gradients, the fp32 master
weights and both moments of Adam are divided by the number of ranks; gradients pass through a
bucket of fixed size. docs/planning.md has the formulas.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from timerxl.config import OptimConfig
from timerxl.model import TimerXLForClassification
from timerxl.planner.cuda_kernels import cublas_workspace
from timerxl.planner.devices import CONTEXT_GIB, GIB
from timerxl.planner.trace import StepSettings, trace_step
from timerxl.training.assembly import parameter_groups

MASTER_BYTES, MOMENTS_BYTES, GRADIENT_BYTES = 4, 8, 4


@dataclass(frozen=True)
class ZeroSettings:
    """What the DeepSpeed configuration of a run says about memory."""

    bucket_elements: int
    num_buckets: int
    offload_optimizer: bool

    @classmethod
    def load(cls, path: Path) -> ZeroSettings:
        """From a file of ds_configs/."""
        zero = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        return cls(
            bucket_elements=int(zero["reduce_bucket_size"]),
            num_buckets=2 if zero.get("overlap_comm") else 1,
            offload_optimizer=zero.get("offload_optimizer", {}).get("device") == "cpu",
        )


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank at the moment of its peak; ``gradients_complete`` is their size at the
    end of backward, ``host`` what offloading moves to the computer's own memory; ``series`` is
    the data's copy on the GPU (``train.data_on_device``), the workspaces are what attention's
    backward works in at that moment and what cuBLAS keeps."""

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
        resident = self.weights + self.gradients + self.optimizer
        working = self.activations + self.buffers + self.workspaces
        return resident + working + self.series + self.context

    @property
    def total_gib(self) -> float:
        return self.total / GIB


def rank_memory(settings: StepSettings, ranks: int, zero: ZeroSettings | None) -> RankMemory:
    """Memory of one of ``ranks`` ranks; ``zero`` None is plain data parallelism."""
    context = round(CONTEXT_GIB * GIB) if settings.on_gpu else 0
    cublas = cublas_workspace(settings.capability) if settings.on_gpu else 0
    if zero is not None:
        memory = _sharded(replace(settings, sharded=True), ranks, zero, context)
        return replace(memory, cublas_workspace=cublas)
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


def gradient_elements(settings: StepSettings, ranks: int) -> list[int]:
    """Gradient elements that each rank keeps under ZeRO-2.

    In half precision each keeps its equal share, in a buffer of its own. In fp32 DeepSpeed keeps
    the gradients themselves, so a tensor that two ranks share is whole on both.
    """
    with torch.device("meta"):
        model = TimerXLForClassification(deepcopy(settings.model))
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


def _sharded(settings: StepSettings, ranks: int, zero: ZeroSettings, context: int) -> RankMemory:
    # DeepSpeed reduces after every micro-batch: one is like the next.
    peak = trace_step(replace(settings, accumulation_steps=1))
    element = 2 if settings.half else 4
    parameters = peak.weights // element
    shard = -(-parameters // ranks)
    optimizer = (MASTER_BYTES + MOMENTS_BYTES) * shard
    gradients = GRADIENT_BYTES * max(gradient_elements(settings, ranks))
    buckets = zero.num_buckets * zero.bucket_elements * element
    flattened = min(parameters, zero.bucket_elements) * element  # flattened for the collective
    # (activations, temporary, buckets, workspace) in backward, at its end, and in the update.
    in_backward = flattened if parameters > zero.bucket_elements else 0
    moments = [
        (peak.activations, peak.temporary + in_backward, buckets, peak.attention_workspace),
        (0, flattened, buckets, 0),
        (0, 0 if settings.half else gradients, 0, 0),
    ]
    activations, temporary, live_buckets, workspace = max(moments, key=sum)
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
    )
