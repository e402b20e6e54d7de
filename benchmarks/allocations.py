"""Peak memory of a real training step on a CPU, from the allocator's own events."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from timerxl.config import OptimConfig
from timerxl.model import TimerXLForClassification
from timerxl.planner.trace import StepSettings, run_step
from timerxl.training.assembly import build_optimizer
from timerxl.training.trainer import TrainingStep


@dataclass
class Allocations:
    """``peak_bytes``: highest sum of what was allocated and not yet freed."""

    peak_bytes: int = 0


@contextmanager
def recorded_allocations() -> Iterator[Allocations]:
    """Follow torch's CPU allocator through the body of the ``with``."""
    found = Allocations()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        yield found
    events = recording.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    total = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        total += event.nbytes()
        found.peak_bytes = max(found.peak_bytes, total)


def real_step(settings: StepSettings, accelerator: Accelerator) -> TrainingStep:
    """The loop's step on the real model, prepared by accelerate as a run prepares it."""
    model = TimerXLForClassification._from_config(
        copy.deepcopy(settings.model), attn_implementation=settings.attention
    )
    if settings.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, OptimConfig()))
    return TrainingStep(
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        schedule=SimpleNamespace(step=lambda: None),
        accumulation_steps=settings.accumulation_steps,
        max_grad_norm=1.0,
    )


def measured_peak(settings: StepSettings) -> int:
    """Bytes at the peak of two real steps in fp32 on this CPU, model and optimizer included."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=settings.accumulation_steps)
    torch.manual_seed(0)
    with recorded_allocations() as found:
        step = real_step(settings, accelerator)
        for number in (1, 2):
            run_step(step, settings.model, settings.batch_size, number)
    return found.peak_bytes
