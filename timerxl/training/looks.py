"""How the model does right now on a split or a sample of it: the scores of one evaluation."""

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
from timerxl.training.evaluator import Forecasts, agree, forecast, mean_loss

CHECK_SHARE = 0.015  # of training time that checks between evaluations may cost
STD_ERROR_RESAMPLES = 100


class NotFinite(ArithmeticError):
    """Forecasts hold NaN or infinite numbers."""


@dataclass
class Looks:
    """Forecasts of the live model, scored the same on every rank."""

    config: RunConfig
    accelerator: Accelerator
    model: torch.nn.Module
    windows: WeatherWindows
    alpha: float
    beat: Callable[[], None] = lambda: None

    def look(self, split: str, max_windows: int | None, is_sample: bool = False) -> dict[str, Any]:
        """Scores at threshold 0.5, loss, shares, spread of the logits and seconds taken.

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
        """Of the accuracy, from resampled blocks of time; NaN where there are too few blocks."""
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


def check_interval(config: RunConfig, model: Any, global_batch: int, num_windows: int) -> int:
    """Steps between two checks; 0 is never.

    ``eval.every_steps``, or as many as keep the forward passes of ``eval.check_windows`` under
    CHECK_SHARE of the operations of training.
    """
    if config.eval.every_steps is not None:
        return config.eval.every_steps
    seen = min(config.eval.check_windows, num_windows)
    forward = seen * model.flops_per_sample(training=False)
    step = global_batch * model.flops_per_sample(training=True)
    return -int(-forward // (step * CHECK_SHARE))
