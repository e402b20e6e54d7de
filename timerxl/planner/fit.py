"""What would fit: settings in order of least cost, at the same effective batch size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from timerxl.planner.devices import Device
from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Workload, choose, memory_of


@dataclass(frozen=True)
class Fit:
    """Settings that fit: ``overrides`` to paste, the run with them, its memory."""

    overrides: dict[str, str]
    workload: Workload
    memory: RankMemory

    def to_paste(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.overrides.items())


def find_fit(workload: Workload, device: Device, limit_gib: float, ranks: int) -> Fit | None:
    """The cheapest change that brings a rank under ``limit_gib``, or None where nothing does.

    In order of cost: what is free (fused attention, half precision on a GPU), a smaller
    micro-batch with accumulation (same gradients, less work at once), gradient checkpointing (a
    third more operations), ZeRO-2 (communication), the optimizer on the host (a copy each step).
    Each keeps what came before it; batch_size x accumulation_steps stays what it was.
    """
    as_it_is = _fit({}, workload, device, workload.config.train.batch_size, ranks)
    if as_it_is.memory.total_gib <= limit_gib:
        return as_it_is
    for overrides, changed in _levels(workload, device):
        # One by one: accumulation keeps gradients, so a smaller micro-batch can need more.
        for size in reversed(_micro_batches(changed)):
            if _memory(changed, device, size, ranks).total_gib <= limit_gib:
                return _fit(overrides, changed, device, size, ranks)
    return None


def _levels(workload: Workload, device: Device) -> Iterator[tuple[dict[str, str], Workload]]:
    """(overrides so far, the run with them), from what is free to everything."""
    config = workload.config
    overrides: dict[str, str] = {}
    free: dict[str, object] = {}
    if config.model.attn_implementation != "sdpa":
        free["model.attn_implementation"] = "sdpa"
    if config.train.precision == "fp32" and not device.is_cpu:
        free["train.precision"] = "auto"
    steps = [free]
    if not config.train.gradient_checkpointing:
        steps.append({"train.gradient_checkpointing": True})
    if not device.is_cpu:
        if config.train.zero_stage != 2:
            steps.append({"train.zero_stage": 2})
        if not config.train.offload_optimizer:
            steps.append({"train.offload_optimizer": True})
    for step in steps:
        workload = workload.changed(**{k.replace(".", "__"): v for k, v in step.items()})
        overrides |= {k: str(v).lower() for k, v in step.items()}
        yield dict(overrides), workload


def _micro_batches(workload: Workload) -> list[int]:
    """Divisors of the effective batch up to the recipe's micro-batch, ascending."""
    train = workload.config.train
    effective = train.batch_size * train.accumulation_steps
    return [size for size in range(1, train.batch_size + 1) if effective % size == 0]


def _with_batch(workload: Workload, size: int) -> Workload:
    train = workload.config.train
    effective = train.batch_size * train.accumulation_steps
    return workload.changed(train__batch_size=size, train__accumulation_steps=effective // size)


def _memory(workload: Workload, device: Device, size: int, ranks: int) -> RankMemory:
    changed = _with_batch(workload, size)
    choice, on_gpu = choose(changed, device), not device.is_cpu
    return memory_of(changed, choice, ranks=ranks, on_gpu=on_gpu, device=device)


def _fit(
    overrides: dict[str, str], workload: Workload, device: Device, size: int, ranks: int
) -> Fit:
    train, changed = workload.config.train, _with_batch(workload, size)
    if size != train.batch_size:
        overrides = overrides | {
            "train.batch_size": str(size),
            "train.accumulation_steps": str(changed.config.train.accumulation_steps),
        }
    return Fit(overrides, changed, _memory(workload, device, size, ranks))
