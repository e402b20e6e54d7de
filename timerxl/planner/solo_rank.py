"""One process without a launcher: what a training step asks of accelerate, for tracing and timing.

The loop's own :class:`TrainingStep` runs on it, so that plans are made of the very step that will
be run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from timerxl.model import TimerXLConfig
from timerxl.training.dataloader import MicroBatch
from timerxl.training.trainer import TrainingStep


class SoloRank:
    """Accelerator and optimizer of a single process in one."""

    num_processes = 1
    distributed_type = "NO"  # as accelerate names it
    mixed_precision = "no"

    def __init__(self, optimizer: torch.optim.Optimizer, accumulation_steps: int, device: str):
        self.optimizer, self.accumulation_steps = optimizer, accumulation_steps
        self.device = torch.device(device)
        self.micro_step = 0

    @property
    def sync_gradients(self) -> bool:
        return self.micro_step % self.accumulation_steps == 0

    @contextlib.contextmanager
    def accumulate(self, model: torch.nn.Module) -> Iterator[None]:
        self.micro_step += 1
        yield

    def gather(self, tensor: torch.Tensor) -> Any:
        return tensor

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, max_norm: float) -> Any:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def step(self) -> None:
        """As accelerate's optimizer: no update before the last micro-batch."""
        if self.sync_gradients:
            self.optimizer.step()

    def zero_grad(self) -> None:
        if self.sync_gradients:
            self.optimizer.zero_grad()


class _NoSchedule:
    def step(self) -> None:
        """The learning rate stays: it costs neither memory nor time."""


def solo_step(model: torch.nn.Module, rank: SoloRank) -> TrainingStep:
    """The loop's step of ``model`` on ``rank``."""
    return TrainingStep(
        accelerator=rank,
        model=model,
        optimizer=rank,
        schedule=_NoSchedule(),
        accumulation_steps=rank.accumulation_steps,
        max_grad_norm=1.0,
    )


def run_step(step: TrainingStep, config: TimerXLConfig, batch_size: int, number: int = 1) -> None:
    """One step on windows of zeros, ``batch_size`` samples in every micro-batch."""
    group = [MicroBatch(list(range(batch_size)), batch_size)] * step.accumulation_steps
    batches = [zero_windows(config, batch_size) for _ in group]
    step(number, group, iter(batches), float(batch_size * len(group)))


def zero_windows(config: TimerXLConfig, batch_size: int) -> dict[str, torch.Tensor]:
    """past_values [B, T, C], labels [B] and, where the model wants them, static features [B, S]."""
    shape = (batch_size, config.context_length, config.num_variables or 1)
    batch = {
        "past_values": torch.zeros(shape),
        "labels": torch.zeros(batch_size, dtype=torch.long),
    }
    if config.num_static_real_features:
        batch["static_real_features"] = torch.zeros(batch_size, config.num_static_real_features)
    return batch
