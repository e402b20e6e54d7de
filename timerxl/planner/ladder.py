"""Where the memory goes: from the setting that failed to ours, one change at a time."""

from __future__ import annotations

from dataclasses import dataclass

from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Choice, Workload, memory_of


@dataclass(frozen=True)
class Rung:
    """One setting and what a rank needs with it."""

    change: str
    memory: RankMemory


def memory_ladder(workload: Workload, ranks: int = 4) -> list[Rung]:
    """Eager attention in fp32, then fused attention, checkpointing, half precision, ZeRO-2.

    At the recipe's own micro-batch throughout. Everything is computed for a GPU's kernels.
    """
    old = workload.changed(
        model__attn_implementation="eager",
        train__gradient_checkpointing=False,
        train__offload_optimizer=False,
        train__accumulation_steps=1,
    )
    fused = old.changed(model__attn_implementation="sdpa")
    light = fused.changed(train__gradient_checkpointing=True)
    full, half, sharded = Choice("fp32", 0), Choice("bf16", 0), Choice("bf16", 2)
    return [
        Rung("eager attention, fp32, everything kept", memory_of(old, full)),
        Rung("+ model.attn_implementation=sdpa", memory_of(fused, full)),
        Rung("+ train.gradient_checkpointing=true", memory_of(light, full)),
        Rung("+ half precision (bf16 or fp16)", memory_of(light, half)),
        Rung(f"+ train.zero_stage=2 on {ranks} GPUs", memory_of(light, sharded, ranks=ranks)),
    ]
