"""What one GPU would save without ZeRO-2 and without gradient checkpointing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from timerxl.planner.devices import Device
from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Choice, Workload, memory_of


@dataclass(frozen=True)
class OneGpu:
    """Peaks in GiB as the recipe has it, without ZeRO-2, and without checkpointing as well.

    Operations are of a training sample; ``memory_gib`` is the device's.
    """

    device: str
    memory_gib: float
    total_gib: float
    without_zero_gib: float | None
    without_checkpointing_gib: float | None
    flops: int
    flops_without_checkpointing: int | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """One line; of ZeRO-2's time on one GPU nothing is said, since nobody measured it."""
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
    """Of a run on one GPU that needs ``memory``; None where there is nothing to leave out."""
    checkpointing = workload.config.train.gradient_checkpointing
    if device.is_cpu or not (choice.zero_stage == 2 or checkpointing):
        return None
    plain = workload.changed(train__offload_optimizer=False)
    no_zero = Choice(choice.precision, 0)
    light = plain.changed(train__gradient_checkpointing=False)

    def gib(run: Workload) -> float:
        return memory_of(run, no_zero, device=device).total_gib

    return OneGpu(
        device=device.name,
        memory_gib=device.memory_gib,
        total_gib=memory.total_gib,
        without_zero_gib=gib(plain) if choice.zero_stage == 2 else None,
        without_checkpointing_gib=gib(light) if checkpointing else None,
        flops=workload.flops_per_sample(),
        flops_without_checkpointing=light.flops_per_sample() if checkpointing else None,
    )
