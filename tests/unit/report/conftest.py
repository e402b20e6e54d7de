"""Run folders made by hand, as the trainer writes them: healthy, stopped, under way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import EvalConfig, load_recipe, to_yaml
from timerxl.evaluation.assess import Decision, Sample, assess, thresholds_of, with_calibrated
from timerxl.evaluation.calibration import fit_calibration
from timerxl.evaluation.forecast_skill import skill
from timerxl.files import write_json
from timerxl.training.evaluator import Forecasts
from timerxl.training.final_evaluation import results

Event = dict[str, Any]
PER_EPOCH = 120
REGIONS = ("costa", "sierra", "selva")
COLLAPSE = {
    "name": "collapse",
    "severity": "certain",
    "epoch": 2.0,
    "step": 240,
    "evidence": {"accuracy": 0.6334, "rain_share": 0.6334, "predicted_rain_share": 1.0},
    "explanation": '"rain" for 100.0% of the windows while 63.3% have rain.',
    "remedy": "Lower optim.lr, use loss.alpha=auto.",
}
DEAD_INPUT = {
    "name": "dead_input",
    "severity": "suspected",
    "epoch": None,
    "step": 0,
    "evidence": {"features": ["swvl4"]},
    "explanation": "never varying in the training windows: swvl4.",
    "remedy": "Leave them out of data.features.",
}
TARGET = {
    "name": "target",
    "severity": "info",
    "epoch": 5.0,
    "step": 600,
    "evidence": {"f1": 0.83, "target_f1": 0.82},
    "explanation": "F1 0.830 is above the target of 0.82; always-rain has 0.775.",
    "remedy": "",
}


def start_events() -> list[Event]:
    shares = {
        split: dict(zip(REGIONS, (0.45, 0.63, 0.81), strict=True))
        for split in ("train", "validation", "test")
    }
    return [
        {
            "event": "start",
            "steps_per_epoch": PER_EPOCH,
            "total_steps": 6 * PER_EPOCH,
            "grace_steps": 36,
            "dead_features": [],
            "class_shares": shares,
        },
        {
            "event": "plan",
            "peak_memory_gib": 0.72,
            "epoch_seconds": 73.4,
            "summary": "plan: peak about 0.72 GiB resident; 73 s of training an epoch.",
        },
    ]


def evaluation(kind: str, step: int, skill_now: float, rng: np.random.Generator) -> Event:
    """Scores of a forecast that gets better with ``skill_now`` from 0 (collapsed) to 1."""
    rain = 0.6334
    label = (rng.random(1500) < rain).astype(int)
    logit = 0.6 + skill_now * (3 * (label - 0.5) + rng.normal(0, 1.2, label.size))
    if skill_now == 0:
        logit = 2 + rng.normal(0, 0.01, label.size)
    scores = skill(1 / (1 + np.exp(-logit)), label)
    return {
        "event": kind,
        "step": step,
        "epoch": step / PER_EPOCH,
        "num_windows": label.size,
        "loss": 0.66 - 0.22 * skill_now + rng.normal(0, 0.004),
        "train_loss": 0.65 - 0.26 * skill_now,
        "rain_share": float(label.mean()),
        "accuracy_std_error": 0.012,
        "logit_spread": float(np.std(logit)),
        "best_threshold": 0.61,
        "seconds": 1.5,
        **scores,
    }


def training_events(epochs: float, collapsed: bool, contaminated: bool) -> list[Event]:
    rng, found = np.random.default_rng(0), start_events()
    for step in range(1, round(epochs * PER_EPOCH) + 1):
        progress = 0.0 if collapsed else min(1.0, step / 500)
        if step % 2 == 0:
            found.append(
                {
                    "event": "train",
                    "step": step,
                    "epoch": step / PER_EPOCH,
                    "loss": 0.65 - 0.26 * progress + rng.normal(0, 0.03),
                    "lr": 1e-3 * (1 - step / (6 * PER_EPOCH)),
                    "grad_norm": 1.0,
                    "samples_per_s": 355.0,
                }
            )
        if step % 30 == 0 and step % PER_EPOCH:
            found.append(evaluation("check", step, progress, rng) | {"num_windows": 256})
        if step % PER_EPOCH == 0:
            found.append(evaluation("holdout", step, 0.95 * progress, rng))
            if contaminated:
                found.append(evaluation("test_every_epoch", step, 0.9 * progress, rng))
            found.append(evaluation("validation", step, progress, rng))
            cost = {"peak_memory_gb": 0.75, "epoch_seconds": 76.2}
            found.append({"event": "cost", "step": step, **cost})
    return found


def final_forecasts(seed: int = 0, noise: float = 1.4) -> tuple[pd.DataFrame, dict[str, Any]]:
    """forecasts.parquet and results.json of half a year of days in three regions."""
    rng, config = np.random.default_rng(7), EvalConfig(num_resamples=200)
    days = {"validation": ("2022-07-01", 150), "test": ("2023-01-01", 330)}
    tables, samples, logits = [], {}, {}
    probabilities: dict[str, dict[str, np.ndarray]] = {
        name: {} for name in ("model", "always_rain", "persistence", "climatology")
    }
    for split, (first, count) in days.items():
        times = np.tile(pd.date_range(first, periods=count, freq="D").to_numpy(), len(REGIONS))
        region = np.repeat(REGIONS, count)
        chance = np.repeat([0.45, 0.63, 0.81], count)
        weather = rng.normal(0, 1.6, times.size)
        label = (rng.random(times.size) < 1 / (1 + np.exp(-weather)) * 0.6 + 0.4 * chance) * 1
        own = np.random.default_rng((seed, count))
        logit = 0.5 + weather + own.normal(0, noise, times.size)
        samples[split] = Sample(label, times)
        logits[split] = np.stack([np.zeros_like(logit), logit], axis=1)
        probabilities["model"][split] = 1 / (1 + np.exp(-logit))
        probabilities["always_rain"][split] = np.ones(times.size)
        probabilities["persistence"][split] = np.where(np.roll(label, 1) == 1, 0.7, 0.4)
        probabilities["climatology"][split] = chance
        columns = {"split": split, "region": region, "issue_time": times, "label": label}
        tables.append(pd.DataFrame(columns))
    calibration = fit_calibration(probabilities["model"]["validation"], samples["validation"].label)
    decision = Decision(0.58, calibration)
    probabilities = with_calibrated(probabilities, decision)
    thresholds = thresholds_of(probabilities, samples["validation"].label, decision, config)
    found = assess(probabilities, samples, "test", thresholds, 0.63, config, 0)
    forecasts = {s: Forecasts(s, np.arange(1), logits[s], samples[s].label) for s in days}
    cost = {
        "stop_reason": "all steps done",
        "steps": 6 * PER_EPOCH,
        "best_step": 5 * PER_EPOCH,
        "train_seconds": 457.0,
        "samples_per_s": 355.0,
        "num_parameters": 295570,
        "is_synthetic": True,
    }
    content = results(found, forecasts, decision, {"max_windows": None, "eval_seed": 0}, cost)
    for table, split in zip(tables, days, strict=True):
        table["issue_time"] = table["issue_time"].dt.tz_localize("UTC")
        for name, of_split in probabilities.items():
            table[name] = of_split[split]
    return pd.concat(tables, ignore_index=True), content


EXPECTED = [
    {"epoch": 1, "loss": [0.58, 0.64], "accuracy": [0.6, 0.7], "f1": [0.74, 0.8]},
    {"epoch": 5, "loss": [0.40, 0.46], "accuracy": [0.9, 0.95], "f1": None},
    {"epoch": 20, "loss": None, "accuracy": [0.8, 0.9], "f1": [0.8, 0.9]},
]


def write_run(
    folder: Path,
    kind: str = "healthy",
    *overrides: str,
    seed: int = 0,
    noise: float = 1.4,
) -> Path:
    """``kind``: healthy (finished), stopped (by a collapse), running (in the third epoch)."""
    folder.mkdir(parents=True)
    bands = ["eval.num_resamples=200", f"output_dir={folder.name}"]
    config = load_recipe("quickstart", [*bands, *overrides])
    text = to_yaml(config).replace("expectations: []", f"expectations: {json.dumps(EXPECTED)}")
    (folder / "config.yaml").write_text(text)
    lines = ["warning: selva: 81 % rain; 5 < 7 & more", "fault: one column <b>leaks</b>"]
    write_json(folder / "audit.json", {"lines": lines})
    machine = {"python": "3.11.7", "torch": "2.13.0", "machine": "x86_64", "date": "2026-11-23"}
    command = "launch/train.py --config quickstart"
    write_json(folder / "environment.json", machine | {"command": command})
    status, stopper, verdicts = {"code": 0, "reason": "finished"}, None, [DEAD_INPUT, TARGET]
    epochs = {"healthy": 6, "stopped": 2, "running": 2.4}[kind]
    events = training_events(epochs, kind == "stopped", config.eval.test_every_epoch)
    if kind == "stopped":
        status = {"code": 3, "reason": "collapse: the model says rain to everything"}
        stopper, verdicts = COLLAPSE, [DEAD_INPUT, COLLAPSE]
    if kind == "running":
        status, verdicts = {"code": 1, "reason": "running"}, [DEAD_INPUT]
    actions = [v | {"action": "stop" if v == stopper else "warn"} for v in verdicts]
    if kind == "running":
        events += [{"event": "verdict", **verdict} for verdict in actions]
    else:
        write_json(folder / "verdict.json", {"stopped_by": stopper, "verdicts": actions})
    if kind == "healthy":
        table, found = final_forecasts(seed, noise)
        table.to_parquet(folder / "forecasts.parquet")
        write_json(folder / "results.json", found)
        check = {"predicted_peak_memory_gib": 0.72, "measured_peak_memory_gib": 0.70}
        check |= {"predicted_epoch_seconds": 73.4, "measured_epoch_seconds": 76.2}
        events += [{"event": "plan_check", **check}, {"event": "results", **found}]
    write_json(folder / "status.json", status)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


WriteRun = Callable[..., Path]


@pytest.fixture(scope="session")
def make_run() -> WriteRun:
    return write_run


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "healthy")


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "stopped", "stopped")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "running", "running")
