"""One optimizer step on a global batch: what the loop runs, and what the planner traces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType

from timerxl.model.losses_timerxl import IGNORE_INDEX
from timerxl.training.batches import MicroBatch
from timerxl.training.feed import to_device


class TrainingFailed(RuntimeError):
    """The run cannot go on; the message says at which step and why."""


class NumberNotFinite(TrainingFailed):
    """The loss or the gradient is no number; raised on all ranks before the weights change."""

    def __init__(self, step: int, loss: float, grad_norm: float | None = None):
        name, value = ("loss", loss) if grad_norm is None else ("gradient norm", grad_norm)
        super().__init__(
            f"the {name} is {value} at step {step}; lower optim.lr or look for extreme values in "
            "the series."
        )
        self.loss, self.grad_norm = loss, grad_norm


@dataclass
class TrainingStep:
    """Forward, backward, clipping and update over one global batch.

    The ranks meet once in a step, in one ``gather`` that the host reads once: it carries the loss,
    the gradient norm and what a rank has to tell the others.

    Args:
        accelerator: accelerate's Accelerator, or the planner's rank on paper.
        accumulation_steps: micro-batches of one rank in a step.
        max_grad_norm: the global gradient norm is clipped to this.
        skipped: updates in a row, up to now, that fp16 left out because gradients overflowed.
        ask: (this rank wants a checkpoint, the signal that it got or 0), asked in every step.
        asked: (does any rank want one, the largest signal of all), as of the last step.
    """

    accelerator: Any
    model: torch.nn.Module
    optimizer: Any
    schedule: Any
    accumulation_steps: int
    max_grad_norm: float
    loading_seconds: float = 0.0
    skipped: int = 0
    ask: Callable[[], tuple[bool, int]] = lambda: (False, 0)
    asked: tuple[bool, int] = (False, 0)

    def __call__(
        self,
        number: int,
        group: list[MicroBatch],
        batches: Iterator[dict[str, torch.Tensor]],
        normalizer: float,
    ) -> tuple[float, float | None]:
        """Step ``number`` (from 1) over this rank's micro-batches.

        ``normalizer`` is the weight of the global batch (``losses_timerxl.sample_weights``).
        Returns the batch's mean loss and the gradient norm before clipping (None where DeepSpeed
        does not tell it). Raises NumberNotFinite on all ranks where the loss is no number, or,
        outside fp16, the gradient norm; the weights are then those of the step before (under
        DeepSpeed the update is part of backward: where the loss is a number and the norm is not,
        it has been made).
        """
        accelerator = self.accelerator
        self.model.train()
        # Gradients are averaged over ranks and accumulation; the loss is a share of a global sum.
        scale = accelerator.num_processes * self.accumulation_steps
        # DeepSpeed clips and updates in the last backward: the loss must be known before it.
        updates_in_backward = accelerator.distributed_type == DistributedType.DEEPSPEED
        own = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        for index, micro in enumerate(group, start=1):
            waited = time.perf_counter()
            batch = to_device(next(batches), accelerator.device)
            self.loading_seconds += time.perf_counter() - waited
            batch["labels"][micro.num_real :] = IGNORE_INDEX
            with accelerator.accumulate(self.model):
                loss = self.model(**batch, loss_normalizer=normalizer).loss
                own = own + loss.detach()
                if updates_in_backward and index == len(group):
                    total, _ = self._meet(number, own, torch.zeros_like(own))
                self._backward(number, loss * scale)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if updates_in_backward:
            grad_norm = None if norm is None else float(norm)
        else:
            total, grad_norm = self._meet(number, own, norm)
        # fp16 skips steps whose gradients overflow, and lowers its scale: no fault.
        if grad_norm is not None and not math.isfinite(grad_norm) and not self._is_fp16:
            raise NumberNotFinite(number, total, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        # fp16 alone comes here with such a norm. accelerate does not see that a fused optimizer
        # skips (accelerate #4242); DeepSpeed says so itself.
        overflowed = grad_norm is not None and not math.isfinite(grad_norm)
        left_out = overflowed or bool(getattr(self.optimizer, "step_was_skipped", False))
        self.skipped = self.skipped + 1 if left_out else 0
        return total, None if left_out else grad_norm

    def _backward(self, number: int, loss: torch.Tensor) -> None:
        try:
            self.accelerator.backward(loss)
        except Exception as error:  # DeepSpeed raises a bare one
            if "loss scale already at minimum" not in str(error):
                raise
            raise TrainingFailed(
                f"fp16 has left out every update for {self.skipped + 1} steps up to step {number}: "
                "the gradients are NaN or infinite at any scale of the loss; lower optim.lr, look "
                "for extreme values in the series, or use train.precision=fp32."
            ) from error

    @property
    def _is_fp16(self) -> bool:
        return bool(self.accelerator.mixed_precision == "fp16")

    def _meet(self, number: int, loss: torch.Tensor, norm: torch.Tensor) -> tuple[float, float]:
        """The global batch's loss and the gradient norm: the step's one wait for GPU and ranks.

        Fills ``asked``. Raises NumberNotFinite where the loss is no number: all ranks see the same
        numbers and stop together.
        """
        # Numbers known to the host are written by kernels: a copy would wait for the GPU.
        told = [loss.new_full((), float(value)) for value in self.ask()]
        row = torch.stack([loss, norm.to(loss), *told])[None]
        losses, norms, wishes, signals = zip(*self.accelerator.gather(row).tolist(), strict=True)
        self.asked = any(wishes), int(max(signals))
        total = sum(losses)
        if not math.isfinite(total):
            raise NumberNotFinite(number, total)
        return total, norms[0]
