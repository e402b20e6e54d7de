"""The training loop: evaluate -> save -> stop? -> step -> log, read top to bottom."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.metrics.scores import LOWER_IS_BETTER
from timerxl.model.losses_timerxl import sample_weights
from timerxl.training.batches import BatchPlan
from timerxl.training.evaluation import agree, forecast, loader, mean_loss, skill
from timerxl.training.saving import save_model
from timerxl.training.step import TrainingFailed, TrainingStep
from timerxl.training.tracking import MetricsLog


@dataclass
class Progress:
    """What the loop has done so far."""

    step: int = 0
    best_score: float = -float("inf")
    best_step: int = 0
    evaluations_without_gain: int = 0
    stop_reason: str = "all steps done"
    train_seconds: float = 0.0
    samples_seen: int = 0


@dataclass
class Trainer:
    """One run's objects, and the loop over them."""

    config: RunConfig
    accelerator: Accelerator
    model: torch.nn.Module
    step: TrainingStep
    windows: WeatherWindows
    plan: BatchPlan
    total_steps: int
    alpha: float
    model_extras: dict[str, Any]
    log: MetricsLog
    progress: Progress = field(default_factory=Progress)

    def run(self) -> Progress:
        """Train to the last step or to an early stop; the best model is in ``model/`` then."""
        progress, steps_per_epoch = self.progress, self.plan.steps_per_epoch
        with self._bar() as bar:
            steps = self._steps()
            while True:
                # N + 1 passes, so that the last state is scored and saved by the same lines.
                last = progress.step == self.total_steps
                if progress.step and (progress.step % steps_per_epoch == 0 or last):
                    scores = self._evaluate(bar)
                    if self._is_best(scores):
                        folder = Path(self.config.output_dir) / "model"
                        extras = self.model_extras | {"step": progress.step, "validation": scores}
                        save_model(self.accelerator, self.model, folder, extras)
                    if not last and progress.evaluations_without_gain >= self.config.train.patience:
                        progress.stop_reason = (
                            f"no better {self.config.train.metric_for_best_model} in "
                            f"{self.config.train.patience} evaluations"
                        )
                        break
                if last:
                    break
                started = time.perf_counter()
                lr = float(
                    max(self.step.schedule.get_last_lr())
                )  # of this step: it moves on within
                group, batches, normalizer, num_samples = next(steps)
                loss, grad_norm = self.step(progress.step + 1, group, batches, normalizer)
                seconds = time.perf_counter() - started
                progress.step += 1
                progress.samples_seen += num_samples
                progress.train_seconds += seconds
                self._log_step(bar, loss, grad_norm, lr, seconds)
        return progress

    def _steps(self) -> Any:
        """(micro-batches, their tensors, normaliser of the global batch) of every step in turn."""
        labels = torch.from_numpy(self.windows.labels_of("train"))
        loss = self.config.loss
        pin = self.accelerator.device.type == "cuda"
        step, epoch = 0, 0
        while step < self.total_steps:
            count = min(self.plan.steps_per_epoch, self.total_steps - step)
            order = self.plan.order(epoch)
            samples = [self.plan.global_step(order, index) for index in range(count)]
            micro = [self.plan.micro_batches(globally) for globally in samples]
            batches = iter(
                loader(
                    self.windows,
                    "train",
                    [m.positions for group in micro for m in group],
                    self.config.train.num_workers,
                    pin,
                )
            )
            for globally, group in zip(samples, micro, strict=True):
                normalizer = sample_weights(labels[globally], loss.name, self.alpha).sum().item()
                yield group, batches, normalizer, len(globally)
            step, epoch = step + count, epoch + 1

    def _evaluate(self, bar: Any) -> dict[str, float]:
        """Scores on validation at threshold 0.5, the same on every rank."""
        config, progress = self.config, self.progress
        positions = self.windows.sample_windows("validation", config.eval.max_windows, config.seed)
        started = time.perf_counter()
        size = config.eval.batch_size or config.train.batch_size
        forecasts = forecast(
            self.accelerator, self.model, self.windows, "validation", positions, size
        )
        # Forecasts are the same on every rank, and so is the decision to stop here.
        if not np.isfinite(forecasts.logits).all():
            raise TrainingFailed(
                f"the forecasts hold NaN or infinite numbers at step {progress.step}; lower "
                "optim.lr or look for extreme values in the series."
            )
        scores: dict[str, float] = {}
        if self.accelerator.is_main_process:
            loss = mean_loss(forecasts, config.loss.name, self.alpha, config.loss.gamma)
            scores = {"loss": loss} | skill(forecasts.probability, forecasts.label)
        scores = agree(self.accelerator, scores)
        epoch = progress.step / self.plan.steps_per_epoch
        record = {"step": progress.step, "epoch": epoch, "num_windows": len(positions)} | scores
        self.log.write("validation", **record, seconds=time.perf_counter() - started)
        self.accelerator.log({f"validation/{k}": v for k, v in scores.items()}, progress.step)
        shown = " ".join(
            f"{name} {scores[name]:.3f}"
            for name in ("loss", "roc_auc", "mcc", "macro_f1", "f1", "predicted_rain_share")
        )
        if self.accelerator.is_main_process:
            line = f"epoch {epoch:.3g}, step {progress.step}: validation {shown}"
            bar.write(line, file=sys.stdout)
        return scores

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
        return tqdm(total=self.total_steps, disable=quiet, mininterval=interval, unit="step")

    def _log_step(self, bar: Any, loss: float, grad_norm: float, lr: float, seconds: float) -> None:
        step, every = self.progress.step, self.config.train.log_every_steps
        rate = min(self.plan.global_batch_size, self.plan.num_samples) / seconds
        bar.set_postfix(
            loss=f"{loss:.4f}", lr=f"{lr:.2e}", samples_per_s=f"{rate:.1f}", refresh=False
        )
        bar.update()
        if step % every == 0 or step == 1 or step == self.total_steps:
            values = {"loss": loss, "lr": lr, "grad_norm": grad_norm, "samples_per_s": rate}
            self.log.write("train", step=step, **values)
            self.accelerator.log({f"train/{k}": v for k, v in values.items()}, step)
