"""The monitors over a stream of events: what each event wakes, said once or always, stopped or not;
and a live run's verdicts again from its metrics.jsonl."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from timerxl.config import MonitorsConfig
from timerxl.config_checks import MONITOR_NAMES
from timerxl.files import json_ready
from timerxl.training.monitors.history import Scores, scores_of
from timerxl.training.monitors.rules import MONITORS, READ_BY, Watcher
from timerxl.training.tracking import MetricsLog

NAN = float("nan")
ONE_CLASS = {"predicted_rain_share": 1.0, "rain_share": 0.69, "accuracy": 0.69, "roc_auc": 0.5}
GOOD = {"predicted_rain_share": 0.7, "rain_share": 0.69, "accuracy": 0.80, "roc_auc": 0.85}
GOOD |= {"accuracy_std_error": 0.01}


def event(name: str, step: int, **values: Any) -> dict[str, Any]:
    return {"event": name, "step": step, "epoch": step / 100, **values}


def said(watcher: Watcher) -> list[tuple[str, str, int | None]]:
    return [(verdict.name, verdict.severity, verdict.step) for verdict in watcher.verdicts]


def watch(events: list[dict[str, Any]], repeat: bool = False, **limits: Any) -> Watcher:
    watcher = Watcher(MonitorsConfig(**limits), repeat=repeat)
    for one in events:
        watcher.see(one)
    return watcher


def test_every_monitor_is_woken_by_some_event() -> None:
    assert {name for names in READ_BY.values() for name in names} == set(MONITORS)
    assert set(MONITORS) == set(MONITOR_NAMES)


def test_events_of_no_concern_pass() -> None:
    events: list[dict[str, Any]] = [
        {"event": "expectation", "epoch": 1, "score": "loss", "value": 9.0},
        {"event": "results", "num_windows": {"validation": 4}},
        {"event": "plan", "epoch_seconds": None, "text": []},
        {"event": "verdict", "name": "collapse"},
        {},
    ]
    assert watch(events).verdicts == []


@pytest.mark.parametrize(("grace", "stops"), [(393, []), (0, [90])])
def test_a_slow_warm_up_is_left_alone(grace: int, stops: list[int]) -> None:
    """One class to step 540, no ranking to 390, then it learns: as benchmarks/monitors.py warmup.

    Without grace steps the third look would have ended it.
    """
    watcher = Watcher(MonitorsConfig(**dict.fromkeys(MONITOR_NAMES, "stop")))
    stopped: list[int | None] = []
    watcher.see({"event": "start", "grace_steps": grace})
    for step in sorted([*range(30, 1180, 30), 393, 786, 1179]):
        skill = 0.58 if step <= 390 else min(0.8, 0.6 + (step - 390) / 1000)
        share = 1.0 if step <= 540 else max(0.65, 1.0 - (step - 540) / 1000)
        looked = {"num_windows": 256, "rain_share": 0.62, "predicted_rain_share": share}
        looked |= {"roc_auc": skill, "accuracy": 0.62 + max(0, step - 540) / 5000}
        name = "check" if step % 393 else "validation"
        found = watcher.see(event(name, step, **looked, best_threshold=0.55))
        stopped += [verdict.step for verdict in found if watcher.stops(verdict)]
    assert stopped[:1] == stops
    assert ("collapse", "suspected", 30) in said(watcher)


def test_each_event_reaches_its_monitors() -> None:
    start = {"event": "start", "grace_steps": 5, "dead_features": ["oni"], "class_shares": {}}
    assert said(watch([start])) == [("dead_input", "suspected", None)]
    assert watch([start]).history.grace_steps == 5

    assert said(watch([event("train", 7, loss=NAN, grad_norm=1.0)])) == [
        ("nonfinite", "certain", 7)
    ]
    zero = [event("train", n, loss=0.5, grad_norm=0.0) for n in range(10)]
    assert said(watch(zero)) == [("dead_input", "certain", None)]

    slow = [{"event": "plan", "epoch_seconds": 10.0}, event("cost", 3, epoch_seconds=31.0)]
    assert said(watch(slow)) == [("slow", "suspected", None)]
    unknown = [event("cost", 3, epoch_seconds=None)]  # passed over, as if not looked
    assert said(watch([*slow, *unknown, *slow[1:] * 2])) == [
        ("slow", "suspected", None),
        ("slow", "certain", None),
    ]
    heavy = [event("cost", 3, peak_memory_gb=7.5)]
    assert said(watch(heavy, memory_cap_gb=7.0)) == [("memory", "certain", None)]
    assert watch(heavy).verdicts == []

    apart = [
        event("holdout", 100, accuracy=0.70, accuracy_std_error=0.01),
        event("validation", 100, **GOOD),
    ]
    assert said(watch(apart)) == [("divergence", "certain", 100)]
    old_habit = [
        event("test_every_epoch", 100, accuracy=0.70, accuracy_std_error=0.01),
        event("validation", 100, **GOOD),
    ]
    assert said(watch(old_habit)) == [("divergence", "certain", 100)]
    close = [event("holdout", 100, accuracy=0.79), event("validation", 100, f1=0.86, **GOOD)]
    assert said(watch(close, target_f1=0.85)) == [("target", "info", 100)]


def test_a_check_is_a_sample() -> None:
    watcher = watch([event("check", 50, **ONE_CLASS)])
    assert said(watcher) == [("collapse", "suspected", 50)]
    assert [scores.is_sample for scores in watcher.history.evaluations] == [True]
    apart = [event("holdout", 50, accuracy=0.2), event("check", 50, **GOOD)]
    assert watch(apart).verdicts == []


def test_null_nan_and_infinity_are_not_known() -> None:
    row = {"event": "validation", "loss": None, "f1": NAN, "roc_auc": math.inf, "accuracy": 0.0}
    assert scores_of(row | {"seconds": 3.0, "step": 0}) == Scores(step=0, accuracy=0.0)
    # A loss of null is one that was no number; a gradient norm of null is one nobody knows.
    assert said(watch([event("train", 1, loss=None, grad_norm=None)])) == [
        ("nonfinite", "certain", 1)
    ]
    assert watch([event("train", 1, loss=0.5, grad_norm=None)]).verdicts == []


def test_a_run_says_each_sign_once_and_a_replay_always() -> None:
    rows = [event("validation", 100 * n, **ONE_CLASS) for n in (1, 2, 3, 4)]
    live = watch(rows, stagnation="off")
    assert said(live) == [("collapse", "suspected", 100), ("collapse", "certain", 200)]
    again = watch(rows, repeat=True, stagnation="off")
    assert said(again) == [
        ("collapse", "suspected", 100),
        ("collapse", "certain", 200),
        ("collapse", "certain", 300),
        ("collapse", "certain", 400),
    ]
    assert again.see(event("validation", 500, **ONE_CLASS)) == again.verdicts[-1:]


@pytest.mark.parametrize("name", MONITOR_NAMES)
def test_off_warn_and_stop(name: str) -> None:
    rows = {
        "collapse": [event("validation", 100 * n, **ONE_CLASS) for n in (1, 2)],
        "stagnation": [event("validation", n, **GOOD) for n in (1, 2, 3)],
        "oscillation": [
            event("validation", n, accuracy=0.8 - n / 10, accuracy_std_error=0.01) for n in (1, 2)
        ],
        "divergence": [
            event("holdout", 1, accuracy=0.5, accuracy_std_error=0.01),
            event("validation", 1, **GOOD),
        ],
        "overfitting": [
            event("validation", n, loss=float(n), train_loss=-float(n)) for n in range(4)
        ],
        "nonfinite": [event("train", 1, loss=NAN)],
        "memory": [event("cost", 1, peak_memory_gb=9.0)],
        "slow": [event("plan", 0, epoch_seconds=1.0)] + [event("cost", 1, epoch_seconds=9.0)] * 3,
        "dead_input": [event("train", n, loss=0.5, grad_norm=0.0) for n in range(10)],
        "target": [event("holdout", 1, accuracy=0.8), event("validation", 1, f1=0.9, **GOOD)],
    }[name]
    others = dict.fromkeys(set(MONITOR_NAMES) - {name}, "off")
    for action in ("off", "warn", "stop"):
        limits: dict[str, Any] = others | {name: action, "memory_cap_gb": 5.0, "target_f1": 0.8}
        watcher = watch(rows, **limits)
        assert {verdict.name for verdict in watcher.verdicts} == (
            set() if action == "off" else {name}
        )
        if action != "off":
            last = watcher.verdicts[-1]
            assert last.severity == ("info" if name == "target" else "certain")
            assert watcher.stops(last) == (action == "stop")


def test_what_is_only_suspected_never_stops() -> None:
    watcher = watch([event("check", 50, **ONE_CLASS)], collapse="stop")
    assert said(watcher) == [("collapse", "suspected", 50)]
    assert not watcher.stops(watcher.verdicts[0])


def test_of_many_steps_few_are_kept() -> None:
    watcher = watch([event("train", n, loss=0.5, grad_norm=1.0) for n in range(1000)])
    assert len(watcher.history.steps) == 60
    assert watcher.history.steps[-1].step == 999


def test_a_verdict_in_a_sentence() -> None:
    watcher = watch([event("validation", 150, **ONE_CLASS)])
    sentence = watcher.verdicts[0].sentence()
    assert sentence.startswith("collapse (suspected) at epoch 1.5, step 150: ")
    assert sentence.endswith("launch/prepare_data.py --audit.")


def stormy_run(seed: int) -> list[dict[str, Any]]:
    """The events of a run in which nearly everything goes wrong at some time."""
    dice = random.Random(seed)
    features = ["oni"] if seed % 3 == 0 else []
    events = [
        {"event": "start", "grace_steps": 4, "dead_features": features},
        {"event": "plan", "epoch_seconds": 20.0, "summary": "x"},
    ]
    unknown = (NAN, None, math.inf)
    accuracy = 0.75
    for step in range(1, 61):
        norm = dice.choice([0.0, 1.0, 1.2, 500.0, None])
        loss = dice.choice([0.6] * 30 + [NAN])
        events.append(event("train", step, loss=loss, grad_norm=norm, batch=f"b{step}"))
        if step % 4:
            continue
        accuracy = dice.choice([accuracy, 0.69, 0.75, 0.80])
        scores = {
            "accuracy": accuracy,
            "num_windows": 1000,
            "rain_share": 0.69,
            "predicted_rain_share": dice.choice([1.0, 0.7, 0.005, NAN]),
            "roc_auc": dice.choice([0.5, 0.85, 0.85, *unknown]),
            "best_threshold": dice.choice([0.6, math.inf]),
            "loss": dice.choice([step / 100] * 12 + [0.1, *unknown]),
            "f1": dice.choice([0.9, 0.7, NAN]),
        }
        if step % 8:
            events.append(event("check", step, **scores))
        else:
            events.append(event("holdout", step, accuracy=dice.choice([0.6, 0.75, 0.79])))
            events.append(event("validation", step, train_loss=1 - step / 100, **scores))
        cost = {"epoch_seconds": dice.choice([10, 90]), "peak_memory_gb": dice.choice([3, 8.0])}
        events.append(event("cost", step, **cost))
    return events


@pytest.mark.parametrize("repeat", [False, True])
def test_metrics_jsonl_gives_the_verdicts_of_the_live_run(tmp_path: Path, repeat: bool) -> None:
    names: set[tuple[str, str]] = set()
    limits = {"memory_cap_gb": 7.0, "target_f1": 0.8}
    for seed in range(40):
        events = stormy_run(seed)
        live = watch(events, repeat, **limits)
        log = MetricsLog(tmp_path / f"{seed}.jsonl", active=True)
        for one in events:
            log.write(**one)
        log.close()
        lines = (tmp_path / f"{seed}.jsonl").read_text().splitlines()
        again = watch([json.loads(line) for line in lines], repeat, **limits)
        assert [json_ready(verdict.to_dict()) for verdict in again.verdicts] == [
            json_ready(verdict.to_dict()) for verdict in live.verdicts
        ], f"seed {seed}"
        names |= {(verdict.name, verdict.severity) for verdict in live.verdicts}
    # The comparison is of something: every monitor spoke in some run.
    assert {name for name, _ in names} == set(MONITOR_NAMES)
    assert {severity for _, severity in names} == {"info", "suspected", "certain"}
