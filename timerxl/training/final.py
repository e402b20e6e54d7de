"""The end of a run: threshold from validation, the test split once, baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from timerxl.config import EvalConfig
from timerxl.data.windows import WeatherWindows
from timerxl.metrics.baselines import (
    Climatology,
    GradientBoosting,
    always_rain,
    month_of,
    persistence,
)
from timerxl.metrics.scores import best_threshold
from timerxl.training.evaluation import Forecasts, skill

Scores = dict[str, dict[str, float]]
TITLES = {
    "model": "Timer-XL",
    "always_rain": "always rain",
    "persistence": "persistence (rained before)",
    "climatology": "P(rain | region, month, rained before)",
    "gradient_boosting": "gradient-boosted trees on lagged values",
    "bayes": "best possible (Bayes; synthetic data only)",
}
COLUMNS = {
    "roc_auc": "ROC-AUC",
    "mcc": "MCC",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "balanced_accuracy": "bal. acc.",
    "accuracy": "accuracy",
    "brier": "Brier",
    "predicted_rain_share": "says rain",
}


def choose_threshold(config: EvalConfig, probability: np.ndarray, label: np.ndarray) -> float:
    """The recipe's threshold, or the one that maximises MCC on these validation windows."""
    if config.threshold != "auto":
        return float(config.threshold)
    return best_threshold(probability, label) if len(np.unique(label)) > 1 else 0.5


def baseline_probabilities(
    windows: WeatherWindows, rows: dict[str, np.ndarray], gradient_boosting: bool, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Baseline -> split -> P(rain) at ``rows[split]``, fitted on all training windows."""
    series, train = windows.series, windows.issue_rows("train")
    region, month = series.region_index, month_of(series.timestamps)
    before, label = windows.rained_before, windows.label
    base_rate = float(label[train].mean())
    climatology = Climatology().fit(region[train], month[train], before[train], label[train])
    found: dict[str, dict[str, np.ndarray]] = {
        "always_rain": {s: always_rain(len(r)) for s, r in rows.items()},
        "persistence": {s: persistence(before[r], base_rate) for s, r in rows.items()},
        "climatology": {
            s: climatology.predict(region[r], month[r], before[r]) for s, r in rows.items()
        },
    }
    if gradient_boosting:
        precipitation = series.precipitation_feature
        trees = GradientBoosting(
            series.step_hours,
            seed,
            context_length=windows.context_length,
            precipitation_column=None
            if precipitation is None
            else series.feature_names.index(precipitation),
        ).fit(series.values, train, region, series.timestamps, label)
        found["gradient_boosting"] = {s: trees.predict(r) for s, r in rows.items()}
    if series.true_probability is not None:
        found["bayes"] = {s: series.true_probability[r] for s, r in rows.items()}
    return found


def score_baselines(
    windows: WeatherWindows,
    forecasts: dict[str, Forecasts],
    config: EvalConfig,
    seed: int,
    log: Callable[[str], None],
) -> tuple[Scores, Scores]:
    """(validation, test) scores of every baseline on the very windows the model was scored on.

    Thresholds come from validation, as the model's does; yes/no forecasts keep 0.5.
    """
    if config.gradient_boosting:
        log("fitting gradient-boosted trees on lagged values for comparison ...")
    rows = {s: windows.issue_rows(s)[f.positions] for s, f in forecasts.items()}
    label = {s: f.label for s, f in forecasts.items()}
    validation, test = {}, {}
    probabilities = baseline_probabilities(windows, rows, config.gradient_boosting, seed)
    for name, of_split in probabilities.items():
        threshold = 0.5
        if name not in ("always_rain", "persistence"):
            threshold = choose_threshold(EvalConfig(), of_split["validation"], label["validation"])
        validation[name] = skill(of_split["validation"], label["validation"], threshold)
        test[name] = skill(of_split["test"], label["test"], threshold)
    return validation, test


def gap_recovered(test: Scores) -> float | None:
    """Share of the ROC-AUC gap from climatology (0) to the best possible (1); None without it."""
    if "bayes" not in test:
        return None
    low, high = test["climatology"]["roc_auc"], test["bayes"]["roc_auc"]
    return (test["model"]["roc_auc"] - low) / (high - low)


def final_table(test: Scores, title: str, caption: str) -> Table:
    """The model and every baseline, a line each, scores as columns."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("test split", overflow="fold", min_width=20)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, scores in test.items():
        style = "bold" if name == "model" else None
        cells = [f"{scores[key]:.3f}" for key in COLUMNS]
        table.add_row(TITLES[name], *cells, style=style)
    return table


def print_table(table: Table) -> None:
    """Wide enough for all columns also where the output is no terminal."""
    console = Console()
    if not console.is_terminal or console.width < 100:
        console = Console(width=120)
    console.print(table)


def results(
    final: dict[str, Forecasts],
    threshold: float,
    validation: Scores,
    test: Scores,
    sampled: dict[str, Any],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """What results.json holds; ``baselines`` are scores on the test split."""
    return {
        "validation": validation["model"],
        "test": test["model"],
        "baselines": {name: scores for name, scores in test.items() if name != "model"},
        "baselines_validation": {k: v for k, v in validation.items() if k != "model"},
        "threshold": threshold,
        "gap_to_bayes_recovered": gap_recovered(test),
        "num_windows": {split: len(forecasts.label) for split, forecasts in final.items()},
        **sampled,
        **cost,
    }
