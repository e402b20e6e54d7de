"""A run under watch: looks change nothing, the holdout is unseen, and the files tell the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from timerxl.config import RunConfig, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.training.assembly import model_config
from timerxl.training.evaluator import CHECK_SHARE, check_interval
from timerxl.training.monitors.runner import describe_batch


def windows_of(config: RunConfig) -> WeatherWindows:
    return build_windows(load_series(config.data), config.data, config.model.context_length)


def losses(run: Any) -> list[float]:
    return [event["loss"] for event in run.events("train")]


@pytest.fixture(scope="module")
def watched(train_tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("watched") / "run"
    return train_tiny(
        folder,
        "train.epochs=2",
        "eval.every_steps=5",
        "eval.check_windows=60",
        "eval.num_resamples=100",
        "eval.block_days=2",
        "eval.test_every_epoch=true",
        "data.holdout_fraction=0.2",
    )


@pytest.mark.slow
def test_looking_changes_nothing(watched: Any, train_tiny: Any, tmp_path: Path) -> None:
    blind = train_tiny(tmp_path / "run", "train.epochs=2", "data.holdout_fraction=0.2")
    assert len(losses(blind)) > 10
    assert losses(watched) == losses(blind)
    assert blind.events("check") == []


def test_events_come_in_order(watched: Any) -> None:
    lines = (watched.folder / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    per_epoch = next(e for e in events if e["event"] == "start")["steps_per_epoch"]
    checks = [e["step"] for e in events if e["event"] == "check"]
    every = [step for step in range(5, 2 * per_epoch, 5) if step % per_epoch]
    assert checks == every
    assert {e["num_windows"] for e in events if e["event"] == "check"} == {60}
    kinds = [e["event"] for e in events if e["event"] in ("holdout", "test_every_epoch")]
    assert kinds == ["holdout", "test_every_epoch"] * 2
    order = [e["event"] for e in events if e["event"] != "verdict"]
    at = order.index("validation")
    assert order[at - 2 : at + 2] == ["holdout", "test_every_epoch", "validation", "cost"]
    scored = [e for e in events if e["event"] == "validation"]
    assert all(0 < e["accuracy_std_error"] < 0.2 for e in scored)
    assert all(e["logit_spread"] > 0 for e in scored)
    mean = np.mean([e["loss"] for e in events if e["event"] == "train" and e["step"] <= per_epoch])
    assert scored[0]["train_loss"] == pytest.approx(mean)


def test_the_holdout_is_the_end_of_training_and_unseen(watched: Any) -> None:
    windows = windows_of(watched.config)
    times = windows.series.timestamps
    day = np.timedelta64(24, "h")
    train, holdout = windows.issue_rows("train"), windows.issue_rows("holdout")
    validation = windows.issue_rows("validation")
    assert len(holdout) > 50
    # No label of one reaches into the times of the next.
    assert (times[train] + day).max() <= times[holdout].min()
    assert (times[holdout] + day).max() <= times[validation].min()
    whole = load_recipe(str(watched.folder / "config.yaml"), ["data.holdout_fraction=0"])
    before = windows_of(whole)
    assert set(holdout) < set(before.issue_rows("train"))
    assert np.array_equal(before.issue_rows("test"), windows.issue_rows("test"))
    share = len(np.unique(times[holdout])) / len(np.unique(times[before.issue_rows("train")]))
    assert share == pytest.approx(0.2, abs=0.03)
    # The scaling is fitted to what is trained on alone.
    assert windows.scaling != before.scaling


def test_the_forecasts_on_file_give_the_scores_of_the_results(watched: Any) -> None:
    table = pd.read_parquet(watched.folder / "forecasts.parquet")
    found = json.loads((watched.folder / "results.json").read_text())
    windows = windows_of(watched.config)
    for split in ("validation", "test"):
        part = table[table["split"] == split]
        rows = windows.issue_rows(split)
        assert len(part) == len(rows)
        assert (part["issue_time"].to_numpy() == windows.series.timestamps[rows]).all()
        assert (part["label"].to_numpy() == windows.labels_of(split)).all()
        regions = np.array(windows.series.regions)[windows.series.region_index[rows]]
        assert (part["region"].to_numpy() == regions).all()
        auc = roc_auc_score(part["label"], part["model"])
        assert auc == pytest.approx(found[split]["roc_auc"], abs=1e-9)
    for name, scores in found["baselines"].items():
        test = table[table["split"] == "test"]
        brier = ((test[name] - test["label"]) ** 2).mean()
        assert brier == pytest.approx(scores["brier"], abs=1e-6), name


def test_verdicts_environment_and_audit_are_on_file(watched: Any) -> None:
    verdict = json.loads((watched.folder / "verdict.json").read_text())
    assert verdict["stopped_by"] is None
    said = [{k: v for k, v in e.items() if k != "event"} for e in watched.events("verdict")]
    assert verdict["verdicts"] == said
    made_with = json.loads((watched.folder / "environment.json").read_text())
    assert {"torch", "python", "device", "processes", "command", "started"} <= made_with.keys()
    assert json.loads((watched.folder / "audit.json").read_text())["lines"]
    assert watched.returned["check_seconds"] > 0


def test_leaving_the_expectations_is_said(train_tiny: Any, tmp_path: Path, capsys: Any) -> None:
    from timerxl.config import ExpectationConfig

    bands = [
        ExpectationConfig(epoch=1, accuracy=[0.98, 1.0], f1=[0.0, 1.0]),
        ExpectationConfig(epoch=7, loss=[0.0, 0.1]),
    ]
    recipe = tmp_path / "expecting.yaml"
    recipe.write_text(
        "expectations:\n"
        + "\n".join(f"  - {{epoch: {b.epoch}, accuracy: {b.accuracy or 'null'}}}" for b in bands)
    )
    assert load_recipe(str(recipe)).expectations[0].accuracy == [0.98, 1.0]
    run = train_tiny(
        tmp_path / "run", "expectations=[{epoch: 1, accuracy: [0.98, 1.0], f1: [0.0, 1.0]}]"
    )
    (event,) = run.events("expectation")
    assert (event["score"], event["low"], event["epoch"]) == ("accuracy", 0.98, 1)
    assert "not as expected at epoch 1: validation accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["small", "transfer", "transfer_long", "quickstart"])
def test_checks_cost_less_than_two_percent(name: str) -> None:
    import torch

    config = load_recipe(name)
    static = 9 if config.data.static_features else 0
    settings: TimerXLConfig = model_config(config, 27, static, alpha=0.5)
    with torch.device("meta"):
        model = TimerXLForClassification(settings)
    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    batch, patches = config.train.batch_size, None
    if config.data.labels == "every_patch":
        patches = config.model.context_length // config.model.patch_length
    operations = batch * model.flops_per_sample(training=True, label_patches=patches)
    plan = SimpleNamespace(global_batch_size=batch, flops_per_sample=lambda _: operations // batch)
    every = check_interval(config, model, plan, 5000)
    forward = 256 * model.flops_per_sample(training=False)
    assert forward / (every * operations) <= CHECK_SHARE < 0.02
    assert forward / ((every - 1) * operations) > CHECK_SHARE


def test_dead_features_and_the_words_for_a_batch(watched: Any) -> None:
    windows = windows_of(watched.config)
    assert windows.dead_features == []
    name = windows.series.feature_names[3]
    last = windows.series.timestamps[windows.issue_rows("train")].max()
    seen = windows.series.timestamps <= last
    windows.values[np.flatnonzero(seen), 3] = 1.5  # varying only in what comes later
    assert replace(windows).dead_features == [name]
    words = describe_batch(windows, windows.issue_rows("train")[:2])
    first = str(windows.series.timestamps[windows.issue_rows("train")[0]].astype("datetime64[h]"))
    assert words.startswith("2 windows of ")
    assert first in words
