"""Verify a saved model on a series: its split again, by strata, and for heavier rain.

The model is used as it was saved: its scaling, its cuts in time, its threshold and its calibration.
Baselines are fitted on the series' training windows, and their thresholds on validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import DataConfig, EvalConfig, InputError
from timerxl.data.enso import read_oni
from timerxl.data.preprocessing import Preprocessing, label_and_persistence
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.evaluation.assess import VALIDATION, Decision, decide
from timerxl.evaluation.calibration import Calibration
from timerxl.evaluation.strata import score_strata, strata_by
from timerxl.evaluation.tables import comparison_table, print_table, score_table, strata_table
from timerxl.forecaster import load_classifier
from timerxl.training.evaluator import Forecasts, forecast
from timerxl.training.final_evaluation import assess_windows

SPLITS = ("test", "validation", "train")
STRATA = ("region", "season", "enso")
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Request:
    """What is asked of ``launch/evaluate.py``; ``thresholds_mm`` empty means the trained event."""

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


def verify(
    request: Request, accelerator: Accelerator, log: Callable[[str], None]
) -> dict[str, Any]:
    """Forecast and score; the same dict for any number of processes, {} but on the main one.

    Keys: ``model``, ``data``, ``is_synthetic``, ``split``, ``label``, ``events`` (one entry per
    rain threshold as ``assess`` gives it, with ``rain_threshold_mm``), ``strata`` (by -> list).
    """
    saved = Preprocessing.load(request.model)
    oni = None if request.enso is None else read_oni(request.enso)
    config = saved.data_config(_data_path(request, saved), request.enso)
    windows = build_windows(load_series(config), config, saved.context_length, saved)
    for note in windows.notes:
        log(f"data: {note}")
    events = _events(request, saved, windows, config)
    forecasts = _forecasts(request, accelerator, windows, saved)
    if not accelerator.is_main_process:
        return {}
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


def _data_path(request: Request, saved: Preprocessing) -> str | None:
    """The series asked for; without one the synthetic series, where that trained the model.

    The path in preprocessing.json is never read: a stranger's could be any file here.
    """
    trained = saved.content["data"]["path"]
    if request.data is None and trained is not None:
        raise InputError(
            f"--data is needed: the model was trained on {trained}. If that series is here, give "
            "its path."
        )
    return None if request.data == SYNTHETIC else request.data


def _events(
    request: Request, saved: Preprocessing, windows: WeatherWindows, config: DataConfig
) -> list[tuple[float | None, WeatherWindows]]:
    """(rain threshold in mm, windows with that event's labels); the trained one is ``windows``."""
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


def _forecasts(
    request: Request, accelerator: Accelerator, windows: WeatherWindows, saved: Preprocessing
) -> dict[str, Forecasts]:
    model = load_classifier(request.model, saved).to(accelerator.device)
    found = {}
    for split in (VALIDATION, request.split):
        positions = windows.sample_windows(split, request.max_windows, request.seed)
        found[split] = forecast(accelerator, model, windows, split, positions, request.batch_size)
    return found


def _with_labels_of(event: WeatherWindows, forecasts: dict[str, Forecasts]) -> dict[str, Forecasts]:
    """The forecasts with the event's labels, without windows whose label isn't known."""
    found = {}
    for split, given in forecasts.items():
        label = event.label[event.issue_rows(split)[given.positions]]
        known = ~np.isnan(label)
        found[split] = Forecasts(
            split, given.positions[known], given.logits[known], label[known].astype(np.int64)
        )
    return found


def _saved_decision(saved: Preprocessing) -> Decision | None:
    """Threshold and calibration as the run saved them; None in a folder without them."""
    threshold, line = saved.content.get("decision_threshold"), saved.content.get("calibration")
    if threshold is None or line is None:
        return None
    return Decision(float(threshold), Calibration.from_dict(line))


def print_report(found: dict[str, Any]) -> None:
    """The tables of every event and stratum in ``found``, as ``verify`` returns it."""
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
