"""The training loop: checkpoint -> evaluate -> save -> stop? -> step -> log, top to bottom."""

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

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.model.modeling_timerxl import IGNORE_INDEX
from timerxl.training.assembly import compile_seconds
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.model_folder import save_model
from timerxl.training.checkpoint.progress import Progress
from timerxl.training.checkpoint.storage import CHECKPOINTS, checkpoint_name
from timerxl.training.dataloader import BatchPlan, MicroBatch, iter_global_batches, to_device
from timerxl.training.evaluator import Evaluator, NotFinite, agree_on_any
from timerxl.training.monitors.health_rules import MOST_SKIPPED
from timerxl.training.monitors.runner import MonitorRunner, RunStopped, describe_batch
from timerxl.training.prediction import peak_memory_gib
from timerxl.training.signals import Interrupted, Interruption, resume_hint


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

        ``normalizer`` is the weight of the global batch (``modeling_timerxl.sample_weights``).
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


@dataclass
class Trainer:
    """One run's objects, and the loop over them.

    ``after_evaluation`` is called on the main process with the run's folder whenever validation
    was scored: the page of the run is drawn there; ``new_best`` likewise where the model was kept.
    ``take_copy`` is called there after a checkpoint, its evaluation and its best model included.
    """

    config: RunConfig
    accelerator: Accelerator
    model: torch.nn.Module
    step: TrainingStep
    windows: WeatherWindows
    plan: BatchPlan
    total_steps: int
    evaluator: Evaluator
    guard: MonitorRunner
    check_every: int
    model_extras: dict[str, Any]
    checkpoints: Checkpoints
    interruption: Interruption
    sync_metrics: Callable[[], int]
    after_evaluation: Callable[[Path], None] | None = None
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
        progress, steps_per_epoch = self.progress, self.plan.steps_per_epoch
        self.step.ask = self._asks
        self.step.asked = agree_on_any(self.accelerator, *self._asks())
        with self._bar() as bar:
            steps = iter_global_batches(
                self.config,
                self.windows,
                self.plan,
                self.evaluator.alpha,
                range(progress.step, self.total_steps),
                pin=self.accelerator.device.type == "cuda",
            )
            while True:
                # N + 1 passes, so that the last state is scored and saved by the same lines.
                last = progress.step >= self.total_steps
                looks = progress.step > progress.last_evaluated_step
                asked = last or progress.step == self.evaluate_at
                evaluates = looks and (progress.step % steps_per_epoch == 0 or asked)
                every = self.check_every
                checks = looks and not evaluates and every > 0 and progress.step % every == 0
                self._save_if_due(evaluates)
                if evaluates:
                    scores = self._evaluate(bar)
                    if self._is_best(scores):
                        folder = Path(self.config.output_dir) / "model"
                        extras = self.model_extras | {"step": progress.step, "validation": scores}
                        save_model(self.accelerator, self.model, folder, extras)
                        if self.new_best is not None and self.accelerator.is_main_process:
                            self.new_best(folder.parent)
                elif checks:
                    self._check()
                self.interruption.beat()
                progress.last_evaluated_step = progress.step
                if self.take_copy is not None and self.checkpoints.saved_step == progress.step:
                    self.take_copy()
                if evaluates or checks:
                    self._stop_if_agreed()
                if not last and progress.evaluations_without_gain >= self.config.train.patience:
                    progress.stop_reason = (
                        f"no better {self.config.train.metric_for_best_model} in "
                        f"{self.config.train.patience} evaluations"
                    )
                    break
                if last:
                    break
                started, compiling = time.perf_counter(), compile_seconds()
                lr = float(max(self.step.schedule.get_last_lr()))  # this step's: it moves on
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

    def _take_step(
        self, group: Any, batches: Any, normalizer: float, samples: np.ndarray
    ) -> tuple[float, float | None]:
        """One optimizer step; a loss or gradient that is no number goes to the monitors."""
        number = self.progress.step + 1
        try:
            return self.step(number, group, batches, normalizer)
        except NumberNotFinite as error:
            # The checkpoint of a stop is of the step before: so are its curves.
            length = self.sync_metrics()
            self.guard.event(
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
        """Of a step that went wrong: its windows, and the state to go back to."""
        saved = self.checkpoints.saved_step
        kept = {"checkpoint": f"{CHECKPOINTS}/{checkpoint_name(saved)}"} if saved else {}
        return {"batch": describe_batch(self.windows, samples)} | kept

    def _save_if_due(self, evaluates: bool) -> None:
        """A checkpoint before an evaluation, by steps, by time, or because a signal came."""
        config, step = self.config.train, self.progress.step
        alone = self.accelerator.num_processes == 1
        due, number = self._asks() if alone else self.step.asked
        due |= evaluates
        if config.checkpoint_every_steps is not None:
            due |= step % config.checkpoint_every_steps == 0
        self.interruption.beat()
        if step and (due or number) and self.checkpoints.saved_step != step:
            self._save(self.model_extras)
        self._leave_if_asked(number)

    def _asks(self) -> tuple[bool, int]:
        """What clocks and signals ask of this rank: a checkpoint by time, the signal's number.

        They differ from rank to rank. One asking is enough, and all hear of it in the step.
        """
        minutes = self.config.train.checkpoint_every_minutes
        due = minutes is not None and self.checkpoints.age_seconds >= minutes * 60
        return due, self.interruption.number

    def _leave_if_asked(self, number: int) -> None:
        """Interrupted where a signal came to any rank."""
        if number:
            saved = self.checkpoints.saved_step
            kept = f"{CHECKPOINTS}/{checkpoint_name(saved)}" if saved else None
            way = resume_hint(self.config.train.resume)
            raise Interrupted(number, self.progress.step, kept, way)

    def _save(self, extras: dict[str, Any], metrics_bytes: int | None = None) -> Path:
        progress = self.progress
        progress.loading_seconds = self.step.loading_seconds
        length = self.sync_metrics()
        self.checkpoints.facts["metrics_bytes"] = length if metrics_bytes is None else metrics_bytes
        self.interruption.is_saving = True
        try:
            return self.checkpoints.save(
                progress.step, progress.to_dict(), extras | {"step": progress.step}
            )
        finally:
            self.interruption.is_saving = False
            self.interruption.beat()

    def _evaluate(self, bar: Any) -> dict[str, float]:
        """Scores on validation at threshold 0.5, the same on every rank."""
        limit = self.config.eval.max_windows
        beside = {"holdout": "holdout"} if "holdout" in self.windows.splits else {}
        if self.config.eval.test_every_epoch:
            beside["test_every_epoch"] = "test"
        for event, split in beside.items():
            self._record(event, self._look(split, limit))
        scores = self._look("validation", limit)
        record = self._record("validation", scores | {"train_loss": self._recent_loss()})
        self._record_cost()
        self.guard.compare_with_expectations(scores, record["epoch"])
        shown = " ".join(
            f"{name} {scores[name]:.3f}"
            for name in ("loss", "roc_auc", "mcc", "macro_f1", "f1", "predicted_rain_share")
        )
        if self.accelerator.is_main_process:
            line = f"epoch {record['epoch']:.3g}, step {record['step']}: validation {shown}"
            self.guard.say(line)
            if self.after_evaluation is not None:
                self.after_evaluation(Path(self.config.output_dir))
        return scores

    def _check(self) -> None:
        """A look at a fixed sample of validation between two evaluations."""
        started = time.perf_counter()
        scores = self._look("validation", self.config.eval.check_windows, is_sample=True)
        self._record("check", scores)
        self._record_cost()
        self.progress.check_seconds += time.perf_counter() - started

    def _look(self, split: str, limit: int | None, is_sample: bool = False) -> dict[str, Any]:
        try:
            return self.evaluator.evaluate(split, limit, is_sample)
        except NotFinite as error:
            step = self.progress.step
            nothing = float("nan")
            epoch = step / self.plan.steps_per_epoch
            batch = str(error)
            self.guard.event(
                "train", step=step, epoch=epoch, loss=nothing, grad_norm=None, batch=batch
            )
            self._stop_if_agreed()
            raise TrainingFailed(
                f"the {error} at step {step}; lower optim.lr or look for extreme values in the "
                "series."
            ) from error

    def _record(self, event: str, scores: dict[str, Any]) -> dict[str, Any]:
        step = self.progress.step
        record = {"step": step, "epoch": step / self.plan.steps_per_epoch} | scores
        self.guard.event(event, **record)
        curves = {f"{event}/{k}": v for k, v in scores.items() if isinstance(v, int | float)}
        self.accelerator.log(curves, step)
        return record

    def _record_cost(self) -> None:
        """Memory and time so far, for the monitors."""
        progress = self.progress
        self.guard.event(
            "cost",
            step=progress.step,
            peak_memory_gb=peak_memory_gib() * 2**30 / 1e9,
            epoch_seconds=progress.train_seconds / progress.step * self.plan.steps_per_epoch,
        )

    def _recent_loss(self) -> float:
        """Mean training loss since the evaluation before."""
        losses, self.progress.losses = self.progress.losses, []
        return float(np.mean(losses))

    def _stop_if_agreed(self, metrics_bytes: int | None = None) -> None:
        """End the run on all ranks where a monitor asks for it; its state is saved first."""
        verdict = self.guard.agreed_stop()
        if verdict is None:
            return
        extras = self.model_extras | {"stopped_by": verdict.to_dict()}
        folder = self._save(extras, metrics_bytes)
        self.guard.write()
        raise RunStopped(verdict, f"{CHECKPOINTS}/{folder.name}")

    def _is_best(self, scores: dict[str, float]) -> bool:
        """Note the evaluation; True where it is the best so far (the first always is)."""
        progress, name = self.progress, self.config.train.metric_for_best_model
        value = -scores[name] if name in {"loss"} | LOWER_IS_BETTER else scores[name]
        if progress.best_step and not value > progress.best_score:
            progress.evaluations_without_gain += 1
            return False
        progress.best_score = value if value == value else -float("inf")
        progress.best_step = progress.step
        progress.evaluations_without_gain = 0
        return True

    def _bar(self) -> Any:
        quiet = not self.accelerator.is_main_process
        # On a terminal several times a second; in a log file a line every ten seconds.
        interval = 0.2 if sys.stderr.isatty() else 10.0
        begun = self.progress.step
        return tqdm(
            total=self.total_steps, initial=begun, disable=quiet, mininterval=interval, unit="step"
        )

    def _log_step(self, bar: Any, loss: float, grad_norm: float | None, lr: float,
                  seconds: float, samples: np.ndarray) -> None:  # fmt: skip
        step, every = self.progress.step, self.config.train.log_every_steps
        rate = min(self.plan.global_batch_size, self.plan.num_samples) / seconds
        bar.set_postfix(
            loss=f"{loss:.4f}", lr=f"{lr:.2e}", samples_per_s=f"{rate:.1f}", refresh=False
        )
        bar.update()
        explodes = self.guard.explodes(grad_norm)
        stuck = self.step.skipped >= MOST_SKIPPED  # the same on every rank
        if step % every == 0 or step == 1 or step == self.total_steps or explodes or stuck:
            values = {"loss": loss, "lr": lr, "grad_norm": grad_norm, "samples_per_s": rate}
            epoch = step / self.plan.steps_per_epoch
            odd: dict[str, Any] = self._suspects(samples) if explodes else {}
            odd |= {"skipped": self.step.skipped} if self.step.skipped else {}
            self.guard.event("train", step=step, epoch=epoch, **values, **odd)
            self.accelerator.log(train_curves(values), step)
        if stuck:
            self._stop_if_agreed()


def train_curves(values: dict[str, Any]) -> dict[str, float]:
    """What TensorBoard shows of a training step, from its event in metrics.jsonl."""
    names = ("loss", "lr", "grad_norm", "samples_per_s")
    return {f"train/{name}": values[name] for name in names if values.get(name) is not None}
