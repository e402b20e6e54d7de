"""Score a split: every window exactly once, whatever the number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.bootstrap import resample_scores
from timerxl.evaluation.forecast_skill import skill
from timerxl.evaluation.scores import best_threshold
from timerxl.model.modeling_timerxl import classification_loss
from timerxl.training.dataloader import BatchPlan, evaluation_share, loader, to_device
from timerxl.training.processes.distributed import agree


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a split's windows; ``positions`` [n] into the split, ascending."""

    split: str
    positions: np.ndarray
    logits: np.ndarray  # [n, K] float32
    label: np.ndarray  # [n] int64

    @property
    def probability(self) -> np.ndarray:
        """[n] float64 P(rain), the softmax's second column."""
        logits = self.logits.astype(np.float64)
        return 1.0 / (1.0 + np.exp(logits[:, 0] - logits[:, 1]))


@torch.no_grad()
def over_split(
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    split: str,
    positions: np.ndarray,
    batch_size: int,
    answers: Callable[[Any, torch.Tensor], torch.Tensor],
    beat: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Run the model on the windows at ``positions`` of ``split``, each once on one of the ranks.

    ``answers`` makes a row for each window of a batch from the model's output and the rows of the
    series at which they are issued; ``beat`` is called after every batch. Returns these rows in the
    order of ``positions``, the same on every rank.
    """
    rows, transform = windows.issue_rows(split)[positions], windows.transform
    order = transform.order(rows)  # rows of one window side by side
    share = evaluation_share(len(order), accelerator.num_processes, accelerator.process_index)
    mine, size = positions[order[share]], batch_size * transform.rows_per_window
    batches = [mine[i : i + size].tolist() for i in range(0, len(mine), size)]
    model.eval()
    parts = []
    pin = accelerator.device.type == "cuda"
    for batch in loader(windows, split, batches, 0, pin):
        inputs = to_device(batch, accelerator.device)
        inputs.pop("labels")
        parts.append(answers(model(**inputs), batch["row"]))
        beat()
    gathered = accelerator.gather(torch.cat(parts)).cpu().numpy()
    found = np.empty_like(gathered[: len(order)])
    found[order] = gathered[: len(order)]
    return found


def forecast(
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    split: str,
    positions: np.ndarray,
    batch_size: int,
    beat: Callable[[], None] = lambda: None,
) -> Forecasts:
    """Forecast the windows at ``positions`` of ``split``; see :func:`over_split`."""

    def logits(output: Any, rows: torch.Tensor) -> torch.Tensor:
        return windows.transform.answers(output.logits.float(), rows)

    found = over_split(accelerator, model, windows, split, positions, batch_size, logits, beat)
    return Forecasts(
        split,
        positions,
        found,
        windows.label[windows.issue_rows(split)[positions]].astype(np.int64),
    )


def mean_loss(forecasts: Forecasts, name: str, alpha: float, gamma: float) -> float:
    """Compute the training loss over a whole split."""
    logits, labels = torch.from_numpy(forecasts.logits), torch.from_numpy(forecasts.label)
    return float(classification_loss(logits, labels, name=name, alpha=alpha, gamma=gamma))


CHECK_SHARE = 0.015  # of training time that checks between evaluations may cost
STD_ERROR_RESAMPLES = 100


class NotFinite(ArithmeticError):
    """Forecasts hold NaN or infinite numbers."""


@dataclass
class Evaluator:
    """Score the live model, or its average; every rank gets the same numbers."""

    config: RunConfig
    accelerator: Accelerator
    model: torch.nn.Module
    windows: WeatherWindows
    alpha: float
    beat: Callable[[], None] = lambda: None

    def evaluate(
        self, split: str, max_windows: int | None, is_sample: bool = False
    ) -> dict[str, Any]:
        """Score a split at threshold 0.5: scores, loss, shares, spread of the logits, seconds
        taken.

        ``is_sample`` leaves out what takes longest: the standard error from resampled blocks.
        Raises NotFinite on all ranks where a forecast is no number.
        """
        started = time.perf_counter()
        config = self.config
        positions = self.windows.sample_windows(split, max_windows, config.seed)
        size = config.eval.batch_size or config.train.batch_size
        found = forecast(
            self.accelerator, self.model, self.windows, split, positions, size, self.beat
        )
        if not np.isfinite(found.logits).all():  # the same on every rank
            raise NotFinite(f"forecasts on {split} hold NaN or infinite numbers")
        scores: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            scores = self._scores(found)
            if not is_sample:
                scores["accuracy_std_error"] = self._std_error(found)
            scores["seconds"] = time.perf_counter() - started
        return dict(agree(self.accelerator, scores)) | {"num_windows": len(positions)}

    def _scores(self, found: Forecasts) -> dict[str, float]:
        loss = self.config.loss
        probability, label = found.probability, found.label
        return {
            "loss": mean_loss(found, loss.name, self.alpha, loss.gamma),
            **skill(probability, label),
            "rain_share": float(label.mean()),
            "logit_spread": float((found.logits[:, 1] - found.logits[:, 0]).std()),
            "best_threshold": best_threshold(probability, label),
        }

    def _std_error(self, found: Forecasts) -> float:
        """Estimate the accuracy's standard error from resampled blocks of time; NaN where there are
        too few blocks."""
        rows = self.windows.issue_rows(found.split)[found.positions]
        resampled = resample_scores(
            {"model": found.probability},
            found.label,
            self.windows.series.timestamps[rows],
            {"model": 0.5},
            block_days=self.config.eval.block_days,
            num_resamples=STD_ERROR_RESAMPLES,
            seed=self.config.seed,
        )["model"]["accuracy"]
        return float(np.nanstd(resampled.values)) if len(resampled.values) else float("nan")


def check_interval(config: RunConfig, model: Any, plan: BatchPlan, num_windows: int) -> int:
    """Return the steps between two checks; 0 is never.

    ``eval.every_steps``, or as many as keep the forward passes of ``eval.check_windows`` under
    CHECK_SHARE of the operations of training.
    """
    if config.eval.every_steps is not None:
        return config.eval.every_steps
    seen = min(config.eval.check_windows, num_windows)
    forward = seen * model.flops_per_sample(training=False)
    step = plan.global_batch_size * plan.flops_per_sample(model)
    return -int(-forward // (step * CHECK_SHARE))
