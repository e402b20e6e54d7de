"""The end of a run: decisions from validation, the test split once, baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import EvalConfig
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.assess import (
    MODELS,
    VALIDATION,
    Decision,
    Sample,
    Scores,
    assess,
    thresholds_of,
    with_calibrated,
)
from timerxl.evaluation.references import reference_probabilities
from timerxl.training.evaluator import Forecasts


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
