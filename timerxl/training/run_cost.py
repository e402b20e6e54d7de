"""What a run was expected to cost beside what it cost.

The expectation comes from ``timerxl.planner``, handed in by the command so that training needs to
know nothing of it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.device import uses_gpu
from timerxl.evaluation.tables import Table
from timerxl.training.precision import SettingChoice


@dataclass(frozen=True)
class RunFacts:
    """What a run has settled before its cost is predicted."""

    precision: str
    zero_stage: int
    ranks: int
    is_gpu: bool

    @classmethod
    def of(cls, accelerator: Accelerator) -> RunFacts:
        """Read the facts from the accelerator: the launcher's choice wins over the recipe's."""
        precision, stage = accelerator.mixed_precision, 0
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            settings = accelerator.state.deepspeed_plugin.deepspeed_config
            enabled = [n for n in ("bf16", "fp16") if settings.get(n, {}).get("enabled") is True]
            precision = enabled[0] if enabled else "no"
            stage = int(settings["zero_optimization"]["stage"])
        return cls(
            precision="fp32" if precision == "no" else precision,
            zero_stage=stage,
            ranks=accelerator.num_processes,
            is_gpu=accelerator.device.type == "cuda",
        )


@dataclass(frozen=True)
class Prediction:
    """``epoch_seconds`` of training alone, or None where no rate is known; ``summary`` is a line,
    on one GPU two. Memory is what :func:`peak_memory_gib` will measure, the series in it where
    ``data_on_device`` puts it there."""

    peak_memory_gib: float
    epoch_seconds: float | None
    summary: str
    data_on_device: SettingChoice


Predictor = Callable[[RunConfig, WeatherWindows, RunFacts], Prediction]


def compare_with_plan(prediction: Prediction, epoch_seconds: float) -> dict[str, Any]:
    """Return predicted and measured cost, as results.json holds them.

    Memory is measured now: call it at the end of training, before the best model is scored.
    """
    return {
        "predicted_peak_memory_gib": prediction.peak_memory_gib,
        "measured_peak_memory_gib": peak_memory_gib(),
        "predicted_epoch_seconds": prediction.epoch_seconds,
        "measured_epoch_seconds": epoch_seconds,
    }


def plan_table(found: dict[str, Any]) -> Table:
    """Show predicted versus measured, a line each, from :func:`compare_with_plan`."""
    table = Table(title="The plan, and what came", title_justify="left")
    table.add_column("")
    for heading in ("predicted", "measured", "prediction is"):
        table.add_column(heading, justify="right", no_wrap=True)
    where = "allocated on the GPU" if uses_gpu() else "resident"
    for name, key in (
        (f"peak memory, GiB {where}", "peak_memory_gib"),
        ("seconds of training an epoch", "epoch_seconds"),
    ):
        predicted, measured = found[f"predicted_{key}"], found[f"measured_{key}"]
        cells = ["–", f"{measured:.3g}", "–"]
        if predicted is not None:
            cells = [f"{predicted:.3g}", f"{measured:.3g}", f"{predicted / measured - 1:+.0%}"]
        table.add_row(name, *cells)
    return table


def peak_memory_gib() -> float:
    """Return this process's peak memory so far: the allocator's on a GPU, the resident set on a
    CPU."""
    if uses_gpu():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
