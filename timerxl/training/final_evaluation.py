"""Score a saved model beside every baseline: at the end of a run, and by launch/evaluate.py.

The model is used as it was saved: its scaling, its cuts in time, its threshold and its calibration.
Baselines are fitted on the training windows, thresholds chosen on validation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import DataConfig, EvalConfig, InputError, RunConfig
from timerxl.data.enso import read_oni
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing, label_and_persistence
from timerxl.data.store import open_saved_windows
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
from timerxl.evaluation.blending import BlendedTrees
from timerxl.evaluation.calibration import Calibration
from timerxl.evaluation.lagged_models import LaggedBaseline
from timerxl.evaluation.references import best_possible, reference_probabilities
from timerxl.evaluation.strata import score_strata, strata_by
from timerxl.evaluation.tables import (
    comparison_table,
    print_table,
    recovered_words,
    score_table,
    strata_table,
)
from timerxl.files import whole_file, write_json
from timerxl.forecaster import load_model, load_trees
from timerxl.training.checkpoint.model_folder import load_best, write_preprocessing
from timerxl.training.evaluator import Forecasts, forecast
from timerxl.training.processes.run_lock import FORECASTS
from timerxl.training.run_cost import peak_memory_gib, plan_table
from timerxl.training.tracking import Log
from timerxl.untrusted import read_json

SPLITS = ("test", "validation", "train")
STRATA = ("region", "season", "enso")
SYNTHETIC = "synthetic"


def forecast_splits(
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    splits: tuple[str, str],
    max_windows: int | None,
    seed: int,
    batch_size: int,
) -> dict[str, Forecasts]:
    """Forecast each split, or a seeded sample of ``max_windows``, in fp32."""
    model = model.to(accelerator.device)
    found = {}
    for split in splits:
        positions = windows.sample_windows(split, max_windows, seed)
        found[split] = forecast(accelerator, model, windows, split, positions, batch_size)
    return found


def assess_windows(
    windows: WeatherWindows,
    forecasts: dict[str, Forecasts],
    decision: Decision,
    config: EvalConfig,
    seed: int,
    log: Callable[[str], None],
    fitted: dict[str, LaggedBaseline] | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]], dict[str, Sample]]:
    """Score the model beside every baseline on the very windows it forecast.

    ``forecasts`` holds validation and one more split, ``fitted`` the fitted baselines where they
    are there already. Returns what ``assess`` found, and for
    further cuts the forecasts (name -> split -> P(rain)) and the samples they are scored on.
    """
    split = next(name for name in forecasts if name != VALIDATION)
    rows = {s: windows.issue_rows(s)[f.positions] for s, f in forecasts.items()}
    samples = {
        s: Sample(windows.label[r].astype(np.int64), windows.series.timestamps[r])
        for s, r in rows.items()
    }
    probabilities = {"model": {s: f.probability for s, f in forecasts.items()}}
    probabilities |= reference_probabilities(
        windows, rows, config.fitted_baselines, seed, log, fitted
    )
    best, error = best_possible(windows, rows, split)
    probabilities = with_calibrated(probabilities | best, decision)
    thresholds = thresholds_of(probabilities, samples[VALIDATION].label, decision, config)
    base_rate = windows.rain_share("train")
    found = assess(probabilities, samples, split, thresholds, base_rate, config, seed)
    found["observed_bound_error"] = error
    return found, probabilities, samples


def forecast_table(
    windows: WeatherWindows,
    forecasts: dict[str, Forecasts],
    probabilities: dict[str, dict[str, np.ndarray]],
) -> pd.DataFrame:
    """Build a row per scored window: split, region, issue_time (UTC), label, and P(rain) of every
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


def gap_recovered(scores: Scores, best: str, score: str = "roc_auc") -> float | None:
    """Return the share of a score's gap from climatology (0) to the forecast ``best`` (1); None
    without it."""
    if best not in scores:
        return None
    low, high = scores["climatology"][score], scores[best][score]
    return (scores["model"][score] - low) / (high - low)


def results(
    found: dict[str, Any],
    forecasts: dict[str, Forecasts],
    decision: Decision,
    sampled: dict[str, Any],
    cost: dict[str, Any],
) -> dict[str, Any]:
    """Build what results.json holds; ``baselines`` are scores on the test split."""
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
        "gap_to_bayes_recovered": gap_recovered(test, "bayes"),
        "gap_to_observed_bound_recovered": {
            score: gap_recovered(test, "bayes_observed", score) for score in ("roc_auc", "brier")
        },
        "observed_bound_error": found.get("observed_bound_error"),
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
    """Score the run's best model: threshold from validation, test once, baselines, results.json,
    tables.

    Scored is what was saved, as the Forecaster uses it: read from its folder, in fp32, without the
    wrappers and half precision of training. Raises StorageFailed on all ranks where it is damaged.
    """
    folder = Path(config.output_dir) / "model"
    model = load_best(folder, accelerator)
    size, limit = config.eval.batch_size or config.train.batch_size, config.eval.max_windows
    final = forecast_splits(
        accelerator, model, windows, (VALIDATION, "test"), limit, config.seed, size
    )
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
    """Write what stands below the table of all forecasts."""
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
    auc, brier = (
        gap_recovered(found["scores"], "bayes_observed", score) for score in ("roc_auc", "brier")
    )
    if auc is not None and brier is not None:
        best, error = found["scores"]["bayes_observed"], found["observed_bound_error"]
        caption += (
            f" Of the gap from climatology to the best possible from all observed variables "
            f"(ROC-AUC {best['roc_auc']:.3f} ± {error['roc_auc']:.0e}, Brier {best['brier']:.3f} ± "
            f"{error['brier']:.0e}, errors of integration), {recovered_words(auc)} of ROC-AUC and "
            f"{recovered_words(brier)} of Brier is recovered."
        )
    return caption


def _print_results(
    config: RunConfig,
    windows: WeatherWindows,
    found: dict[str, Any],
    decision: Decision,
    cost: dict[str, Any],
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(config.data.path)
    caption = _caption(config, len(windows.issue_rows("test")), found, decision)
    title = f"Rain within {config.data.label_horizon_hours:g} h, {config.recipe}, {kind}"
    print_table(comparison_table(found["scores"], title, caption))
    print_table(score_table(found, "Timer-XL on the test split, score by score"))
    labels = ""
    if config.data.labels != "last":
        labels = f", {cost['labels_per_s']:.0f} labels/s"
    say(
        f"{cost['steps']} steps in {cost['train_seconds']:.0f} s "
        f"({cost['samples_per_s']:.1f} windows/s{labels}), {cost['seconds']:.0f} s in all, "
        f"peak memory {cost['peak_memory_gib']:.2f} GiB, scores and baselines included. "
        f"Model: {config.output_dir}/model"
    )
    if "plan" in cost:
        print_table(plan_table(cost["plan"]))


@dataclass(frozen=True)
class EvaluationRequest:
    """Arguments of ``launch/evaluate.py``; ``thresholds_mm`` empty means the trained event."""

    model: Path
    data: str | None = None
    split: str = "test"
    by: tuple[str, ...] = ()
    thresholds_mm: tuple[float, ...] = ()
    enso: Path | None = None
    batch_size: int = 64
    max_windows: int | None = None
    seed: int = 0
    config: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        """Raise InputError on a split, stratum or threshold that there isn't."""
        if self.split not in SPLITS:
            raise InputError(f"--split {self.split}: expected one of {', '.join(SPLITS)}.")
        if self.split == VALIDATION:
            raise InputError(
                "--split validation: thresholds and calibration were chosen there, its scores "
                "would flatter; expected test or train."
            )
        unknown = [name for name in self.by if name not in STRATA]
        if unknown:
            raise InputError(f"--by {unknown[0]}: expected some of {', '.join(STRATA)}.")
        if "enso" in self.by and self.enso is None:
            raise InputError("--by enso needs --enso FILE, NOAA's oni.ascii.txt.")
        if any(not 0 < mm < float("inf") for mm in self.thresholds_mm):
            raise InputError("--thresholds: expected amounts of rain above 0 mm, such as 0.1,1,10.")


def evaluate_saved(
    request: EvaluationRequest, accelerator: Accelerator, log: Callable[[str], None]
) -> dict[str, Any]:
    """Forecast and score a saved model; the same dict for any number of processes, {} but on the
    main one.

    Keys: ``model``, ``data``, ``is_synthetic``, ``split``, ``label``, ``events`` (one entry per
    rain threshold as ``assess`` gives it, with ``rain_threshold_mm``), ``strata`` (by -> list).
    """
    saved = Preprocessing.load(request.model)
    model = load_model(request.model, saved)
    oni = None if request.enso is None else read_oni(request.enso)
    config = saved.data_config(data_path(request.data, saved), request.enso)
    windows = open_saved_windows(config, saved, log)
    for note in windows.notes:
        log(f"data: {note}")
    events = _events(request, saved, windows, config)
    splits = (VALIDATION, request.split)
    limit, seed = request.max_windows, request.seed
    forecasts = forecast_splits(
        accelerator, model, windows, splits, limit, seed, request.batch_size
    )
    if not accelerator.is_main_process:
        return {}
    if (trees := load_trees(request.model, saved)) is not None:
        forecasts = {split: blended(trees, windows, of) for split, of in forecasts.items()}
    found: dict[str, Any] = {
        "model": str(request.model),
        "data": windows.series.source,
        "is_synthetic": windows.series.is_synthetic,
        "split": request.split,
        "label": windows.definition["label"],
        "seed": request.seed,
        "max_windows": request.max_windows,
        "events": [],
        "strata": {},
    }
    for millimetres, event in events:
        trained = event is windows
        known = _with_labels_of(event, forecasts)
        decision = _saved_decision(saved) if trained else None
        if decision is None:
            of_validation = known[VALIDATION]
            decision = decide(request.config, of_validation.probability, of_validation.label)
        assessed, probabilities, samples = assess_windows(
            event, known, decision, request.config, request.seed, log
        )
        entry = {"rain_threshold_mm": millimetres, "is_trained_event": trained}
        found["events"].append(entry | assessed)
        if trained or len(events) == 1:
            rows = windows.issue_rows(request.split)[known[request.split].positions]
            for by in request.by:
                found["strata"][by] = score_strata(
                    strata_by(by, windows.series, rows, oni),
                    probabilities["model"][request.split],
                    samples[request.split],
                    decision.threshold,
                    request.config,
                    request.seed,
                )
    return found


def blended(trees: BlendedTrees, windows: WeatherWindows, given: Forecasts) -> Forecasts:
    """The network's forecasts blended with the trees'."""
    rows = windows.issue_rows(given.split)[given.positions]
    odds = trees.log_odds(given.probability, windows.series, rows)
    logits = np.stack([np.zeros_like(odds), odds], axis=1)
    return Forecasts(given.split, given.positions, logits, given.label)


def data_path(data: str | None, saved: Preprocessing) -> str | None:
    """Return the series asked for with ``--data``; without one the synthetic series, where that
    trained the model.

    The path in preprocessing.json is never read: a stranger's could be any file here.
    """
    trained = saved.content["data"]["path"]
    if data is None and trained is not None:
        raise InputError(
            f"--data is needed: the model was trained on {trained}. If that series is here, give "
            "its path."
        )
    return None if data == SYNTHETIC else data


def _events(
    request: EvaluationRequest, saved: Preprocessing, windows: WeatherWindows, config: DataConfig
) -> list[tuple[float | None, WeatherWindows]]:
    """List (rain threshold in mm, windows with that event's labels); the trained one is
    ``windows``."""
    trained = saved.content["label"].get("threshold_mm")
    if not request.thresholds_mm:
        return [(trained, windows)]
    if trained is None or windows.series.precipitation_mm is None:
        raise InputError(
            "--thresholds needs measured precipitation; this model's label is a ready column."
        )
    events: list[tuple[float | None, WeatherWindows]] = []
    for millimetres in request.thresholds_mm:
        if millimetres == trained:
            events.append((millimetres, windows))
            continue
        series = dataclasses.replace(windows.series, ready_label=None, true_probability=None)
        changed = dataclasses.replace(config, rain_threshold_mm=millimetres, label_column=None)
        label, before = label_and_persistence(series, changed)
        train = windows.issue_rows("train")
        rows = windows.rows | {"train": train[~np.isnan(label[train])]}
        event = dataclasses.replace(
            windows, series=series, label=label, rained_before=before, rows=rows
        )
        for split in ("train", VALIDATION, request.split):
            rainy = int(np.nansum(label[rows[split]]))
            count = int(np.count_nonzero(~np.isnan(label[rows[split]])))
            if rainy in (0, count):
                raise InputError(
                    f"--thresholds {millimetres:g}: {rainy} of {count} {split} windows have that "
                    "much rain; expected some, not all: there is nothing to score."
                )
        events.append((millimetres, event))
    return events


def _with_labels_of(event: WeatherWindows, forecasts: dict[str, Forecasts]) -> dict[str, Forecasts]:
    """Give the forecasts the event's labels; leave out windows whose label isn't known."""
    found = {}
    for split, given in forecasts.items():
        label = event.label[event.issue_rows(split)[given.positions]]
        known = ~np.isnan(label)
        found[split] = Forecasts(
            split, given.positions[known], given.logits[known], label[known].astype(np.int64)
        )
    return found


def _saved_decision(saved: Preprocessing) -> Decision | None:
    """Read threshold and calibration as the run saved them; None in a folder without them."""
    threshold, line = saved.content.get("decision_threshold"), saved.content.get("calibration")
    if threshold is None or line is None:
        return None
    return Decision(float(threshold), Calibration.from_dict(line))


def print_report(found: dict[str, Any]) -> None:
    """Print the tables of every event and stratum in ``found``, as ``evaluate_saved`` returns
    it."""
    kind = "SYNTHETIC data" if found["is_synthetic"] else str(found["data"].get("path"))
    say(f"Model {found['model']} on {kind}, {found['split']} split.")
    say(f"Label: {found['label']['text']}")
    for event in found["events"]:
        threshold = event["rain_threshold_mm"]
        name = "the trained event" if threshold is None else f"rain of {threshold:g} mm or more"
        if not event["is_trained_event"]:
            name += " (not what the model was trained for; threshold and calibration chosen anew)"
        caption = (
            f"{event['num_windows']:,} windows, {event['rain_share']:.1%} with the event; decision "
            f"thresholds from validation (Timer-XL: {event['thresholds']['model']:.3f})."
        )
        print_table(comparison_table(event["scores"], f"Event: {name}", caption))
        print_table(score_table(event, f"Timer-XL score by score: {name}"))
    for by, strata in found["strata"].items():
        print_table(strata_table(strata, by))
    if "enso" in found["strata"]:
        say(
            "ENSO phases: NOAA's rule of five overlapping seasons at or beyond ±0.5 K, unlagged "
            "and with hindsight; for looking back, not as a feature."
        )
