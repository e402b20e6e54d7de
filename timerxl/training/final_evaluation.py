"""The end of a run: decisions from validation, the test split once, baselines beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import EvalConfig, RunConfig
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.assess import (
    MODELS,
    VALIDATION,
    Decision,
    Sample,
    Scores,
    assess,
    decide,
    thresholds_of,
    with_calibrated,
)
from timerxl.evaluation.references import reference_probabilities
from timerxl.evaluation.tables import comparison_table, print_table, recovered_words, score_table
from timerxl.files import whole_file, write_json
from timerxl.model.convert_openltm import load_saved
from timerxl.training.checkpoint.model_folder import model_problem, write_preprocessing
from timerxl.training.checkpoint.storage import StorageFailed
from timerxl.training.evaluator import Forecasts, agree, forecast
from timerxl.training.prediction import Check, check_table, peak_memory_gib
from timerxl.training.run_lock import FORECASTS
from timerxl.training.tracking import Log
from timerxl.untrusted import read_json


def assess_windows(
    windows: WeatherWindows,
    forecasts: dict[str, Forecasts],
    decision: Decision,
    config: EvalConfig,
    seed: int,
    log: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]], dict[str, Sample]]:
    """The model beside every baseline on the very windows it forecast.

    ``forecasts`` holds validation and one more split. Returns what ``assess`` found, and for
    further cuts the forecasts (name -> split -> P(rain)) and the samples they are scored on.
    """
    split = next(name for name in forecasts if name != VALIDATION)
    rows = {s: windows.issue_rows(s)[f.positions] for s, f in forecasts.items()}
    samples = {
        s: Sample(windows.label[r].astype(np.int64), windows.series.timestamps[r])
        for s, r in rows.items()
    }
    probabilities = {"model": {s: f.probability for s, f in forecasts.items()}}
    probabilities |= reference_probabilities(windows, rows, config.fitted_baselines, seed, log)
    probabilities = with_calibrated(probabilities, decision)
    thresholds = thresholds_of(probabilities, samples[VALIDATION].label, decision, config)
    base_rate = float(windows.labels_of("train").mean())
    found = assess(probabilities, samples, split, thresholds, base_rate, config, seed)
    return found, probabilities, samples


def forecast_table(
    windows: WeatherWindows,
    forecasts: dict[str, Forecasts],
    probabilities: dict[str, dict[str, np.ndarray]],
) -> pd.DataFrame:
    """A row per scored window: split, region, issue_time (UTC), label, and P(rain) of every
    forecast in a column of its name."""
    parts = []
    for split, given in forecasts.items():
        rows = windows.issue_rows(split)[given.positions]
        regions = np.array(windows.series.regions)[windows.series.region_index[rows]]
        part = {
            "split": np.full(len(rows), split),
            "region": regions,
            "issue_time": windows.series.timestamps[rows],
            "label": given.label.astype(np.int8),
        }
        part |= {name: of_split[split] for name, of_split in probabilities.items()}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def gap_recovered(scores: Scores) -> float | None:
    """Share of the ROC-AUC gap from climatology (0) to the best possible (1); None without it."""
    if "bayes" not in scores:
        return None
    low, high = scores["climatology"]["roc_auc"], scores["bayes"]["roc_auc"]
    return (scores["model"]["roc_auc"] - low) / (high - low)


def results(
    found: dict[str, Any],
    forecasts: dict[str, Forecasts],
    decision: Decision,
    sampled: dict[str, Any],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """What results.json holds; ``baselines`` are scores on the test split."""
    validation, test = found["validation"], found["scores"]
    return {
        "validation": validation["model"],
        "test": test["model"],
        "test_calibrated": test["model_calibrated"],
        "baselines": {name: scores for name, scores in test.items() if name not in MODELS},
        "baselines_validation": {k: v for k, v in validation.items() if k not in MODELS},
        "threshold": decision.threshold,
        "thresholds": found["thresholds"],
        "calibration": decision.calibration.to_dict(),
        "reliability": found["reliability"],
        "intervals": found["intervals"],
        "differences": found["differences"],
        "no_interval": found["no_interval"],
        "gap_to_bayes_recovered": gap_recovered(test),
        "num_windows": {split: len(given.label) for split, given in forecasts.items()},
        **sampled,
        **cost,
    }


def score_best(
    config: RunConfig,
    accelerator: Accelerator,
    windows: WeatherWindows,
    extras: dict[str, Any],
    cost: dict[str, Any],
    started: float,
    log: Log,
) -> dict[str, Any]:
    """Threshold from validation, test once, baselines, results.json and the table.

    Scored is what was saved, as the Forecaster uses it: read from its folder, in fp32, without the
    wrappers and half precision of training. Raises StorageFailed on all ranks where it is damaged.
    """
    folder = Path(config.output_dir) / "model"
    problem = model_problem(folder) if accelerator.is_main_process else None
    if problem := agree(accelerator, problem):
        raise StorageFailed(
            f"the best model in {folder} can't be scored: {problem}. The same command goes on from "
            "the newest checkpoint, without that model."
        )
    model = load_saved(folder).to(accelerator.device)
    size = config.eval.batch_size or config.train.batch_size
    final: dict[str, Forecasts] = {}
    for split in ("validation", "test"):
        positions = windows.sample_windows(split, config.eval.max_windows, config.seed)
        final[split] = forecast(accelerator, model, windows, split, positions, size)
    if not accelerator.is_main_process:
        return {}
    decision = decide(config.eval, final["validation"].probability, final["validation"].label)
    assessed, probabilities, _ = assess_windows(
        windows, final, decision, config.eval, config.seed, log
    )
    cost |= {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()}
    sampled = {"max_windows": config.eval.max_windows, "eval_seed": config.seed}
    found = results(assessed, final, decision, sampled, cost)
    extras = extras | {
        "decision_threshold": decision.threshold,
        "calibration": decision.calibration.to_dict(),
        "best_step": cost["best_step"],
        "scores": {"validation": found["validation"], "test": found["test"]},
    }
    weights = {"weights": read_json(folder / PREPROCESSING).get("weights")}  # size and SHA-256
    write_preprocessing(folder, extras | weights)
    table = forecast_table(windows, final, probabilities)
    with whole_file(Path(config.output_dir) / FORECASTS) as temporary:
        table.to_parquet(temporary, index=False)
    write_json(Path(config.output_dir) / "results.json", found)
    _print_results(config, windows, assessed, decision, cost)
    return found


def _caption(config: RunConfig, total: int, found: dict[str, Any], decision: Decision) -> str:
    """What stands below the table of all forecasts."""
    count, sampled = found["num_windows"], ""
    if config.eval.max_windows is not None:
        sampled = f" (a seeded sample of {total:,})" if count < total else ""
    chosen = f"maximise {config.eval.threshold_score} on validation"
    scored = "scored once"
    if config.eval.test_every_epoch:
        scored = "scored at every evaluation (eval.test_every_epoch: contaminated), here"
    caption = (
        f"{count:,} test windows{sampled}, {found['rain_share']:.1%} rain, {scored} with the "
        f"best model; thresholds {chosen} (Timer-XL: {decision.threshold:.3f})."
    )
    if (recovered := gap_recovered(found["scores"])) is not None:
        share = recovered_words(recovered)
        caption += f" Of the ROC-AUC gap from climatology to Bayes, {share} is recovered."
    return caption


def _print_results(
    config: RunConfig,
    windows: WeatherWindows,
    found: dict[str, Any],
    decision: Decision,
    cost: dict[str, Any],
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(config.data.path)
    caption = _caption(config, len(windows.labels_of("test")), found, decision)
    title = f"Rain within {config.data.label_horizon_hours:g} h, {config.recipe}, {kind}"
    print_table(comparison_table(found["scores"], title, caption))
    print_table(score_table(found, "Timer-XL on the test split, score by score"))
    say(
        f"{cost['steps']} steps in {cost['train_seconds']:.0f} s "
        f"({cost['samples_per_s']:.1f} samples/s), {cost['seconds']:.0f} s in all, "
        f"peak memory {cost['peak_memory_gib']:.2f} GiB, scores and baselines included. "
        f"Model: {config.output_dir}/model"
    )
    if "plan" in cost:
        print_table(check_table(Check(**cost["plan"])))
