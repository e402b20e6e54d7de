"""The training loop: checkpoint -> evaluate -> save the best -> stop? -> step -> log.

A step: losses and gradients of all micro-batches, clipping, the optimizer with the learning rate of
this step, then the schedule (assembly.build_schedule) sets the next one's.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from tqdm import tqdm

from timerxl.command_line import ForeseenError
from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.model.modeling_timerxl import IGNORE_INDEX
from timerxl.training.assembly import compile_seconds
from timerxl.training.averaging import WeightAverage
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.model_folder import save_model
from timerxl.training.checkpoint.storage import CHECKPOINTS, Progress, checkpoint_name
from timerxl.training.dataloader import BatchPlan, MicroBatch, iter_global_batches, to_device
from timerxl.training.evaluator import Evaluator, NotFinite
from timerxl.training.monitors.rules import MOST_SKIPPED
from timerxl.training.monitors.runner import MonitorRunner, RunStopped, describe_batch
from timerxl.training.processes.distributed import agree_on_any
from timerxl.training.processes.signals import Interrupted, Interruption, resume_hint
from timerxl.training.run_cost import peak_memory_gib
from timerxl.training.tracking import draw_page


class TrainingFailed(ForeseenError):
    """The run cannot go on; the message says at which step and why."""


class NumberNotFinite(TrainingFailed):
    """The loss or the gradient is not finite; raised on all ranks before the weights change."""

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
        accelerator: accelerate's Accelerator, or the planner's FakeAccelerator.
        accumulation_steps: micro-batches of one rank in a step.
        max_grad_norm: the global gradient norm is clipped to this.
        next_patch_weight: weight of the next patches' forecast in the loss; 0 is none.
        next_patch_loss: of the last step, before that weight; None without.
        average: takes in the weights after every step that was made; None without train.ema.
        skipped: updates in a row, up to now, that fp16 left out because gradients overflowed.
        local_requests: (this rank wants a checkpoint, the signal it got or 0), read every step.
        requests: (does any rank want one, the largest signal of all), as of the last step.
    """

    accelerator: Any
    model: torch.nn.Module
    optimizer: Any
    schedule: Any
    accumulation_steps: int
    max_grad_norm: float
    next_patch_weight: float = 0.0
    next_patch_loss: float | None = None
    average: WeightAverage | None = None
    loading_seconds: float = 0.0
    skipped: int = 0
    local_requests: Callable[[], tuple[bool, int]] = lambda: (False, 0)
    requests: tuple[bool, int] = (False, 0)

    def __call__(
        self,
        number: int,
        group: list[MicroBatch],
        batches: Iterator[dict[str, torch.Tensor]],
        normalizer: float,
        num_windows: int = 1,
    ) -> tuple[float, float | None]:
        """Step ``number`` (from 1) over this rank's micro-batches.

        ``normalizer`` is the weight of the global batch (``modeling_timerxl.sample_weights``),
        ``num_windows`` its size. Returns the batch's mean loss of the labels and the gradient norm
        before clipping (None where DeepSpeed does not tell it). Raises NumberNotFinite on all ranks
        where a loss is NaN or infinite, or, outside fp16, the gradient norm; the weights are then
        those of the step before (under DeepSpeed the update is part of backward: where the norm
        alone is not finite, it has been made).
        """
        accelerator = self.accelerator
        self.model.train()
        # Gradients are averaged over ranks and accumulation; the loss is a share of a global sum.
        scale = accelerator.num_processes * self.accumulation_steps
        # DeepSpeed clips and updates in the last backward: the loss must be known before it.
        updates_in_backward = accelerator.distributed_type == DistributedType.DEEPSPEED
        own = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        beside: dict[str, Any] = {"loss_normalizer": normalizer}
        if self.next_patch_weight:
            beside["next_patch_weight"] = self.next_patch_weight
            beside["next_patch_normalizer"] = num_windows
        for index, micro in enumerate(group, start=1):
            waited = time.perf_counter()
            batch = to_device(next(batches), accelerator.device)
            self.loading_seconds += time.perf_counter() - waited
            is_patches = batch["labels"].is_floating_point()  # those of train.task=next_patch
            batch["labels"][micro.num_real :] = math.nan if is_patches else IGNORE_INDEX
            with accelerator.accumulate(self.model):
                output = self.model(**batch, **beside)
                own = own + self._losses(output)
                if updates_in_backward and index == len(group):
                    total, _ = self._gather_step(number, own, torch.zeros_like(own[0]))
                self._backward(number, output.loss * scale)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if updates_in_backward:
            grad_norm = None if norm is None else float(norm)
        else:
            total, grad_norm = self._gather_step(number, own, norm)
        # fp16 skips steps whose gradients overflow, and lowers its scale: no fault.
        overflowed = grad_norm is not None and not math.isfinite(grad_norm)
        if grad_norm is not None and overflowed and accelerator.mixed_precision != "fp16":
            raise NumberNotFinite(number, total, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        # accelerate does not see that a fused optimizer skips (accelerate #4242); DeepSpeed does.
        left_out = overflowed or bool(getattr(self.optimizer, "step_was_skipped", False))
        self.skipped = self.skipped + 1 if left_out else 0
        if self.average is not None and not left_out:
            self.average.update_parameters(self.model)
        return total, None if left_out else grad_norm

    def _losses(self, output: Any) -> torch.Tensor:
        """[2]: a micro-batch's share of the labels' loss, and of the next patches' (0 without)."""
        loss, following = output.loss.detach(), getattr(output, "next_patch_loss", None)
        if following is None:
            return torch.stack([loss, torch.zeros_like(loss)])
        following = following.detach()
        return torch.stack([loss - self.next_patch_weight * following, following])

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

    def _gather_step(
        self, number: int, own: torch.Tensor, norm: torch.Tensor
    ) -> tuple[float, float]:
        """Gather the global batch's losses and the gradient norm: the step's one wait for GPU and
        ranks.

        Fills ``requests`` and ``next_patch_loss``. Raises NumberNotFinite where a loss is NaN or
        infinite: all ranks see the same numbers and stop together.
        """
        # Numbers known to the host are written by kernels: a copy would wait for the GPU.
        told = [own.new_full((), float(value)) for value in self.local_requests()]
        row = torch.stack([*own, norm.to(own), *told])[None]
        losses, following, norms, wishes, signals = zip(
            *self.accelerator.gather(row).tolist(), strict=True
        )
        self.requests = any(wishes), int(max(signals))
        total = sum(losses)
        if self.next_patch_weight:
            self.next_patch_loss = sum(following)
        for loss in (total, sum(following)):
            if not math.isfinite(loss):
                raise NumberNotFinite(number, loss)
        return total, norms[0]


# What the log tells of an evaluation, as far as the task has it.
_SHOWN = (
    "loss roc_auc mcc macro_f1 f1 predicted_rain_share skill_persistence skill_climatology"
).split()


@dataclass
class TrainingLoop:
    """The objects of one run, and the loop over them.

    ``draw`` and ``new_best`` are called on the main process with the run's folder: the first
    whenever validation was scored, the second whenever the model was kept. ``take_copy`` is called
    there after a checkpoint, its evaluation and its best model included.
    """

    config: RunConfig
    accelerator: Accelerator
    model: torch.nn.Module
    step: TrainingStep
    windows: WeatherWindows
    plan: BatchPlan
    total_steps: int
    evaluator: Evaluator
    monitors: MonitorRunner
    check_every: int
    preprocessing: dict[str, Any]  # saved beside the weights
    checkpoints: Checkpoints
    interruption: Interruption
    draw: Callable[[Path], object] | None = None
    new_best: Callable[[Path], None] | None = None
    take_copy: Callable[[], None] | None = None
    evaluate_at: int | None = None  # the last step of a finished run that goes on
    progress: Progress = field(default_factory=Progress)

    def run(self) -> Progress:
        """Train to the last step or to an early stop; the best model is in ``model/`` then.

        Goes on after ``progress.step``. Raises RunStopped on all ranks where a monitor ends the
        run, Interrupted where a signal does, TrainingFailed where it can't go on, StorageFailed
        where a checkpoint or the model can't be written.
        """
        progress = self.progress
        self.step.local_requests = self._local_requests
        self.step.requests = agree_on_any(self.accelerator, *self._local_requests())
        steps = iter_global_batches(
            self.config,
            self.windows,
            self.plan,
            self.evaluator.alpha,
            range(progress.step, self.total_steps),
            pin=self.accelerator.device.type == "cuda",
        )
        with self._bar() as bar:
            while True:  # N steps take N + 1 passes: the last one only saves and evaluates
                is_last = progress.step >= self.total_steps
                evaluates, checks = self._due(is_last)
                # Checkpoints precede evaluation; a run killed during evaluation repeats it.
                self._save_if_due(evaluates)
                if evaluates:
                    self._keep_if_best(self._evaluate())
                elif checks:
                    self._check()
                self.interruption.beat()
                progress.last_evaluated_step = progress.step
                if self.take_copy is not None and self.checkpoints.saved_step == progress.step:
                    self.take_copy()
                if evaluates or checks:
                    self._stop_if_agreed()
                if is_last:
                    break
                if progress.evaluations_without_gain >= self.config.train.patience:
                    progress.stop_reason = (
                        f"no better {self.config.train.metric_for_best_model} in "
                        f"{self.config.train.patience} evaluations"
                    )
                    break
                started, compiling = time.perf_counter(), compile_seconds()
                # Read before schedule.step() sets the next step's.
                lr = float(max(self.step.schedule.get_last_lr()))
                group, batches, normalizer, samples = next(steps)
                loss, grad_norm = self._take_step(group, batches, normalizer, samples)
                # Compilation comes once: it tells nothing of the steps that follow.
                seconds = time.perf_counter() - started - (compile_seconds() - compiling)
                progress.step += 1
                progress.samples_seen += len(samples)
                progress.train_seconds += seconds
                progress.losses.append(loss)
                self._log_step(bar, loss, grad_norm, lr, seconds, samples)
        self._leave_if_asked(agree_on_any(self.accelerator, False, self.interruption.number)[1])
        return progress

    @property
    def _epoch(self) -> float:
        return self.progress.step / self.plan.steps_per_epoch

    def _due(self, is_last: bool) -> tuple[bool, bool]:
        """Return (is an evaluation due, is a check due) at this step."""
        step = self.progress.step
        if step <= self.progress.last_evaluated_step:
            return False, False
        evaluates = is_last or step == self.evaluate_at or step % self.plan.steps_per_epoch == 0
        return evaluates, not evaluates and self.check_every > 0 and step % self.check_every == 0

    def _take_step(
        self, group: Any, batches: Any, normalizer: float, samples: np.ndarray
    ) -> tuple[float, float | None]:
        """Take one optimizer step; report a loss or gradient that is not finite to the monitors."""
        number = self.progress.step + 1
        try:
            return self.step(number, group, batches, normalizer, len(samples))
        except NumberNotFinite as error:
            # The checkpoint of a stop is of the step before: so are its curves.
            length = self.monitors.metrics.sync()
            self.monitors.event(
                "train",
                step=number,
                epoch=number / self.plan.steps_per_epoch,
                loss=error.loss,
                grad_norm=error.grad_norm,
                **self._suspects(samples),
            )
            self._stop_if_agreed(length)
            raise

    def _suspects(self, samples: np.ndarray) -> dict[str, str]:
        """Name the windows of a step that went wrong, and the checkpoint to go back to."""
        kept = {"checkpoint": saved} if (saved := self._newest_checkpoint()) else {}
        return {
            "batch": describe_batch(self.windows, self.plan.end_rows(self.windows, samples))
        } | kept

    def _newest_checkpoint(self) -> str | None:
        step = self.checkpoints.saved_step
        return f"{CHECKPOINTS}/{checkpoint_name(step)}" if step else None

    def _save_if_due(self, evaluates: bool) -> None:
        """Save before an evaluation, by steps, by time, or because a signal came."""
        every, step = self.config.train.checkpoint_every_steps, self.progress.step
        is_alone = self.accelerator.num_processes == 1
        due, number = self._local_requests() if is_alone else self.step.requests
        due |= evaluates or (every is not None and step % every == 0)
        self.interruption.beat()
        if step and (due or number) and self.checkpoints.saved_step != step:
            self._save(self.preprocessing)
        self._leave_if_asked(number)

    def _local_requests(self) -> tuple[bool, int]:
        """Return (a checkpoint is due by time, the number of a signal that came or 0) on this rank.

        They differ from rank to rank. One asking is enough, and all hear of it in the step.
        """
        minutes = self.config.train.checkpoint_every_minutes
        due = minutes is not None and self.checkpoints.age_seconds >= minutes * 60
        return due, self.interruption.number

    def _leave_if_asked(self, number: int) -> None:
        """Raise Interrupted where a signal came to any rank."""
        if number:
            hint = resume_hint(self.config.train.resume)
            raise Interrupted(number, self.progress.step, self._newest_checkpoint(), hint)

    def _save(self, extras: dict[str, Any], metrics_bytes: int | None = None) -> Path:
        progress = self.progress
        progress.loading_seconds = self.step.loading_seconds
        length = self.monitors.metrics.sync()
        self.checkpoints.facts["metrics_bytes"] = length if metrics_bytes is None else metrics_bytes
        self.interruption.is_saving = True
        try:
            return self.checkpoints.save(
                progress.step, progress.to_dict(), extras | {"step": progress.step}
            )
        finally:
            self.interruption.is_saving = False
            self.interruption.beat()

    def _evaluate(self) -> dict[str, Any]:
        """Score validation at threshold 0.5, the same on every rank, and the splits beside it."""
        limit = self.config.eval.max_windows
        beside = {"holdout": "holdout"} if "holdout" in self.windows.splits else {}
        if self.config.eval.test_every_epoch:
            beside["test_every_epoch"] = "test"
        for event, split in beside.items():
            self._record(event, self._scores_on(split, limit))
        scores = self._scores_on("validation", limit)
        losses, self.progress.losses = self.progress.losses, []
        self._record("validation", scores | {"train_loss": float(np.mean(losses))})
        self._record_cost()
        self.monitors.compare_with_expectations(scores, self._epoch)
        if self.accelerator.is_main_process:
            shown = " ".join(
                f"{name} {scores[name]:.3f}" for name in _SHOWN if scores.get(name) is not None
            )
            step = self.progress.step
            self.monitors.say(f"epoch {self._epoch:.3g}, step {step}: validation {shown}")
            draw_page(self.draw, Path(self.config.output_dir))
        return scores

    def _check(self) -> None:
        """Score a fixed sample of validation between two evaluations."""
        started = time.perf_counter()
        limit = self.config.eval.check_windows
        self._record("check", self._scores_on("validation", limit, is_sample=True))
        self._record_cost()
        self.progress.check_seconds += time.perf_counter() - started

    def _scores_on(self, split: str, limit: int | None, is_sample: bool = False) -> dict[str, Any]:
        step = self.progress.step
        try:
            return self.evaluator.evaluate(split, limit, is_sample)
        except NotFinite as error:
            bad = {"loss": float("nan"), "grad_norm": None, "batch": str(error)}
            self.monitors.event("train", step=step, epoch=self._epoch, **bad)
            self._stop_if_agreed()
            raise TrainingFailed(
                f"the {error} at step {step}; lower optim.lr or look for extreme values in the "
                "series."
            ) from error

    def _record(self, event: str, scores: dict[str, Any]) -> None:
        step = self.progress.step
        self.monitors.event(event, step=step, epoch=self._epoch, **scores)
        curves = {f"{event}/{k}": v for k, v in scores.items() if isinstance(v, int | float)}
        self.accelerator.log(curves, step)

    def _record_cost(self) -> None:
        """Record memory and time so far, for the monitors."""
        progress = self.progress
        self.monitors.event(
            "cost",
            step=progress.step,
            peak_memory_gb=peak_memory_gib() * 2**30 / 1e9,
            epoch_seconds=progress.train_seconds / progress.step * self.plan.steps_per_epoch,
        )

    def _stop_if_agreed(self, metrics_bytes: int | None = None) -> None:
        """End the run on all ranks where a monitor asks for it; its state is saved first."""
        verdict = self.monitors.agreed_stop()
        if verdict is None:
            return
        extras = self.preprocessing | {"stopped_by": verdict.to_dict()}
        folder = self._save(extras, metrics_bytes)
        self.monitors.write()
        raise RunStopped(verdict, f"{CHECKPOINTS}/{folder.name}")

    def _keep_if_best(self, scores: dict[str, Any]) -> None:
        """Save the model where these scores are the best so far (the first always are)."""
        progress, name = self.progress, self.config.train.metric_for_best_model
        value = -scores[name] if name in {"loss"} | LOWER_IS_BETTER else scores[name]
        if progress.best_step and not value > progress.best_score:
            progress.evaluations_without_gain += 1
            return
        progress.best_score = value if value == value else -float("inf")
        progress.best_step = progress.step
        progress.evaluations_without_gain = 0
        folder = Path(self.config.output_dir) / "model"
        extras = self.preprocessing | {"step": progress.step, "validation": scores}
        average = self.step.average
        kept = self.model if average is None else average.module
        save_model(self.accelerator, kept, folder, extras)
        if self.new_best is not None and self.accelerator.is_main_process:
            self.new_best(folder.parent)

    def _bar(self) -> Any:
        return tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            disable=not self.accelerator.is_main_process,
            # On a terminal several times a second; in a log file a line every ten seconds.
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            unit="step",
        )

    def _log_step(self, bar: Any, loss: float, grad_norm: float | None, lr: float,
                  seconds: float, samples: np.ndarray) -> None:  # fmt: skip
        step, every = self.progress.step, self.config.train.log_every_steps
        rate = min(self.plan.global_batch_size, self.plan.num_samples) / seconds
        bar.set_postfix(
            loss=f"{loss:.4f}", lr=f"{lr:.2e}", samples_per_s=f"{rate:.1f}", refresh=False
        )
        bar.update()
        explodes = self.monitors.explodes(grad_norm)
        stuck = self.step.skipped >= MOST_SKIPPED  # the same on every rank
        if step % every == 0 or step == 1 or step == self.total_steps or explodes or stuck:
            values = {"loss": loss, "lr": lr, "grad_norm": grad_norm, "samples_per_s": rate}
            if self.step.next_patch_loss is not None:
                values["next_patch_loss"] = self.step.next_patch_loss
            odd: dict[str, Any] = self._suspects(samples) if explodes else {}
            odd |= {"skipped": self.step.skipped} if self.step.skipped else {}
            self.monitors.event("train", step=step, epoch=self._epoch, **values, **odd)
            self.accelerator.log(train_curves(values), step)
        if stuck:
            self._stop_if_agreed()


def train_curves(values: dict[str, Any]) -> dict[str, float]:
    """Select what TensorBoard shows of a training step's event."""
    names = ("loss", "lr", "grad_norm", "samples_per_s", "next_patch_loss")
    return {f"train/{name}": values[name] for name in names if values.get(name) is not None}
