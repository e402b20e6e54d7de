"""Score a forecaster of next patches (``train.task=next_patch``): squared errors beside references.

Scored is the forecast of the patch after each window, in scaled units, where every variable has a
standard deviation of about 1. Shapes: B windows, T context, P patch length, C variables, n windows
of a split.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.tables import Table, print_table
from timerxl.files import write_json
from timerxl.training.checkpoint.model_folder import load_best, write_preprocessing
from timerxl.training.evaluator import Evaluator, NotFinite, over_split
from timerxl.training.processes.distributed import agree
from timerxl.training.run_cost import peak_memory_gib
from timerxl.untrusted import read_json

LAST_VALUE, LAST_PATCH, CLIMATOLOGY = "last_value", "last_patch", "climatology"
_CHUNK = 4096  # windows


def forecast_errors(
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    split: str,
    positions: np.ndarray,
    batch_size: int,
    patch_length: int,
    beat: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return [n, C] float64: the mean squared error of the next patch of each variable, after the
    windows at ``positions`` of ``split``; the same on every rank."""
    values = (windows.on_device or windows.transform).values
    ahead = torch.arange(1, patch_length + 1, device=values.device)

    def errors(output: Any, rows: torch.Tensor) -> torch.Tensor:
        target = values[rows.to(values.device)[:, None] + ahead].to(accelerator.device)
        forecast = output.prediction_outputs[:, -patch_length:].float()
        return (forecast - target).square().mean(1)

    parts = (accelerator, model, windows, split, positions, batch_size)
    return over_split(*parts, errors, beat).astype(np.float64)


def climatology(windows: WeatherWindows) -> np.ndarray:
    """Return [R, C] float32: the mean of the row's region, month and hour of the day over the rows
    of the training period; 0, the mean of all, where there is none."""
    series, values = windows.series, windows.values.numpy()
    month = series.timestamps.astype("datetime64[M]").astype(np.int64) % 12
    hour = series.timestamps.astype("datetime64[h]").astype(np.int64) % 24
    cell = (series.region_index.astype(np.int64) * 12 + month) * 24 + hour
    training = series.timestamps <= series.timestamps[windows.issue_rows("train")].max()
    size = len(series.regions) * 12 * 24
    means = np.zeros((size, values.shape[1]), dtype=np.float32)
    for variable, column in enumerate(values.T):
        known = training & ~np.isnan(column)
        count = np.bincount(cell[known], minlength=size)
        total = np.bincount(cell[known], weights=column[known], minlength=size)
        means[:, variable] = total / np.maximum(count, 1)
    return means[cell]


def reference_errors(
    windows: WeatherWindows, usual: np.ndarray, rows: np.ndarray, patch_length: int
) -> dict[str, np.ndarray]:
    """Return [C] each: mean squared errors of the patch after ``rows`` where the last value, the
    last patch or the climatology ``usual`` [R, C] is the forecast."""
    values, steps = windows.values.numpy(), np.arange(1, patch_length + 1)
    sums = {name: np.zeros(values.shape[1]) for name in (LAST_VALUE, LAST_PATCH, CLIMATOLOGY)}
    for start in range(0, len(rows), _CHUNK):
        chosen = rows[start : start + _CHUNK, None]
        target = values[chosen + steps].astype(np.float64)
        forecasts = {
            LAST_VALUE: values[chosen],
            LAST_PATCH: values[chosen + steps - patch_length],
            CLIMATOLOGY: usual[chosen + steps],
        }
        for name, forecast in forecasts.items():
            sums[name] += ((target - forecast) ** 2).mean(1).sum(0)
    return {name: total / len(rows) for name, total in sums.items()}


@dataclass
class PatchScores:
    """Errors of a model beside those of the references, on any split of ``windows``.

    Persistence is the last value or the last patch again, for each variable what has the smaller
    error on validation.
    """

    config: RunConfig
    windows: WeatherWindows
    _usual: np.ndarray | None = None
    _errors: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict)

    def variables(self, split: str, positions: np.ndarray, mse: np.ndarray) -> dict[str, Any]:
        """Return the scores of each variable by its name, of a model with these errors [C].

        A skill is 1 - error / error of the reference; None where the reference makes none.
        """
        limit = self.config.eval.max_windows
        sample = self.windows.sample_windows("validation", limit, self.config.seed)
        told = self._references("validation", sample)
        errors = self._references(split, positions)
        is_patch = told[LAST_PATCH] < told[LAST_VALUE]
        persistence = np.where(is_patch, errors[LAST_PATCH], errors[LAST_VALUE])
        rows = zip(mse, persistence, errors[CLIMATOLOGY], is_patch, strict=True)
        return {
            name: {
                "mse": float(own),
                "mse_persistence": float(last),
                "mse_climatology": float(usual),
                "persistence": LAST_PATCH if takes_patch else LAST_VALUE,
                "skill_persistence": None if last == 0 else float(1 - own / last),
                "skill_climatology": None if usual == 0 else float(1 - own / usual),
            }
            for name, (own, last, usual, takes_patch) in zip(
                self.windows.series.feature_names, rows, strict=True
            )
        }

    def _references(self, split: str, positions: np.ndarray) -> dict[str, np.ndarray]:
        key = split, len(positions)  # a sample is drawn by its size alone
        if key not in self._errors:
            if self._usual is None:
                self._usual = climatology(self.windows)
            rows = self.windows.issue_rows(split)[positions]
            length = self.config.model.patch_length
            self._errors[key] = reference_errors(self.windows, self._usual, rows, length)
        return self._errors[key]


def mean_scores(variables: dict[str, Any]) -> dict[str, float | None]:
    """Return ``loss``, the mean of the variables' errors, and its skill against the references'
    means (a mean of skills would be that of the one variable that a reference knows best)."""
    own, last, usual = (
        float(np.mean([one[key] for one in variables.values()]))
        for key in ("mse", "mse_persistence", "mse_climatology")
    )
    return {
        "loss": own,
        "skill_persistence": None if last == 0 else 1 - own / last,
        "skill_climatology": None if usual == 0 else 1 - own / usual,
    }


@dataclass
class PatchEvaluator(Evaluator):
    """Score the live forecaster; every rank gets the same numbers."""

    def __post_init__(self) -> None:
        self.scores = PatchScores(self.config, self.windows)

    def evaluate(
        self, split: str, max_windows: int | None, is_sample: bool = False
    ) -> dict[str, Any]:
        """Score a split: loss and skills (see :func:`mean_scores`), seconds taken.

        Raises NotFinite on all ranks where a forecast is no number.
        """
        started = time.perf_counter()
        config = self.config
        positions = self.windows.sample_windows(split, max_windows, config.seed)
        size = config.eval.batch_size or config.train.batch_size
        parts = (self.accelerator, self.model, self.windows, split, positions, size)
        errors = forecast_errors(*parts, config.model.patch_length, self.beat)
        if not np.isfinite(errors).all():  # the same on every rank
            raise NotFinite(f"forecasts on {split} hold NaN or infinite numbers")
        scores: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            scores = mean_scores(self.scores.variables(split, positions, errors.mean(0)))
            scores["seconds"] = time.perf_counter() - started
        return dict(agree(self.accelerator, scores)) | {"num_windows": len(positions)}


def score_best_forecaster(
    config: RunConfig,
    accelerator: Accelerator,
    windows: WeatherWindows,
    extras: dict[str, Any],
    cost: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """Score the run's best forecaster on validation and, once, on test; write results.json.

    Scored is what was saved: read from its folder, in fp32. Raises StorageFailed on all ranks where
    it is damaged.
    """
    folder = Path(config.output_dir) / "model"
    model = load_best(folder, accelerator).to(accelerator.device)
    scores = PatchScores(config, windows)
    size, length = config.eval.batch_size or config.train.batch_size, config.model.patch_length
    found: dict[str, Any] = {"task": config.train.task}
    variables, counts = {}, {}
    for split in ("validation", "test"):
        positions = windows.sample_windows(split, config.eval.max_windows, config.seed)
        parts = (accelerator, model, windows, split, positions, size)
        mse = forecast_errors(*parts, length).mean(0)
        if accelerator.is_main_process:
            variables[split] = scores.variables(split, positions, mse)
            found[split], counts[split] = mean_scores(variables[split]), len(positions)
    if not accelerator.is_main_process:
        return {}
    cost |= {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()}
    found |= {"variables": variables, "num_windows": counts}
    found |= {"max_windows": config.eval.max_windows, "eval_seed": config.seed, **cost}
    extras = extras | {
        "best_step": cost["best_step"],
        "scores": {"validation": found["validation"], "test": found["test"]},
        "weights": read_json(folder / "preprocessing.json").get("weights"),
    }
    write_preprocessing(folder, extras)
    write_json(Path(config.output_dir) / "results.json", found)
    _print_results(config, found)
    return found


def _print_results(config: RunConfig, found: dict[str, Any]) -> None:
    kind = "SYNTHETIC data" if found["is_synthetic"] else str(config.data.path)
    table = Table(
        title=f"Next {config.model.patch_length} steps, {config.recipe}, {kind}",
        caption=f"{found['num_windows']['test']:,} test windows, scored once with the best model; "
        "mean squared errors in scaled units; skill is 1 - error / error of the reference.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("variable", overflow="fold")
    for heading in ("error", "persistence", "climatology", "skill: persistence", "climatology"):
        table.add_column(heading, justify="right")
    for name, one in found["variables"]["test"].items():
        errors = (one["mse"], one["mse_persistence"], one["mse_climatology"])
        table.add_row(name, *(f"{value:.3f}" for value in errors), *_skills(one))
    table.add_row("all", f"{found['test']['loss']:.3f}", "", "", *_skills(found["test"]))
    print_table(table)
    say(
        f"{found['steps']} steps in {found['train_seconds']:.0f} s "
        f"({found['samples_per_s']:.1f} windows/s), {found['seconds']:.0f} s in all, peak memory "
        f"{found['peak_memory_gib']:.2f} GiB. Model: {config.output_dir}/model",
        f"A classifier starts from it with model.pretrained={config.output_dir}/model.",
    )


def _skills(scores: dict[str, Any]) -> list[str]:
    both = (scores["skill_persistence"], scores["skill_climatology"])
    return ["–" if value is None else f"{value:+.3f}" for value in both]
