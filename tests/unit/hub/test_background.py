"""Pushing beside the training: at once for the run, newest wins, and never an exception."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_contents import Fault, Hub
from spoiled_runs import edit, sums

from timerxl.config import InputError
from timerxl.hub.background import BackgroundPush

COMMIT, UPLOAD = "POST .*/commit/main", "PUT /lfs/upload"


@pytest.fixture
def training(run: Path) -> Path:
    """The run as it is while training: no results yet, each best model with its step."""
    for name in ("results.json", "forecasts.parquet", "report/index.html"):
        (run / name).unlink()
    (run / "status.json").write_text(json.dumps({"code": 1, "reason": "running"}))
    best(run, 1)
    return run


def best(run: Path, step: int) -> None:
    """A new best model, as save_model leaves it: a new folder in the place of the old."""

    def change(saved: dict[str, Any]) -> dict[str, Any]:
        known = ("decision_threshold", "calibration", "best_step", "scores")
        left = {key: value for key, value in saved.items() if key not in known}
        return left | {"step": step, "validation": {"roc_auc": 0.7}}

    fresh = run / ".model.new"
    shutil.copytree(run / "model", fresh)
    edit(fresh / "preprocessing.json", change)
    shutil.rmtree(run / "model")
    fresh.rename(run / "model")


def steps(hub: Hub) -> list[str]:
    return [message for _, message, _ in hub.repositories["ana/rain"].commits()]


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert until()


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.parent.iterdir() if "timerxl" in path.name]


def test_a_best_model_arrives_and_so_does_the_end(hub: Hub, training: Path, finished: Path) -> None:
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append, private=True, data_licence="CC0")
    before = sums(training)
    pusher.new_best(training)
    wait(lambda: said)
    assert sums(training) == before
    repository = hub.repositories["ana/rain"]
    assert repository.private
    assert steps(hub) == ["Model of step 1 of rainy-run"]
    text = repository.files()["README.md"].decode()
    assert "> ⚠️ **STILL TRAINING.** The best model so far, of step 1." in text
    assert "CC0" in text
    assert "results.json" not in repository.files()

    shutil.rmtree(training)
    shutil.copytree(finished, training)
    pusher.new_best(training)
    assert pusher.close(30.0)
    assert "results.json" in repository.files()
    assert "STILL TRAINING" not in repository.files()["README.md"].decode()
    assert len(said) == 2
    assert all("pushed in" in sentence for sentence in said)
    assert leftovers(training) == []


def test_the_newest_wins_and_nobody_waits(hub: Hub, training: Path) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=2.0, times=1))
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append)
    taken = []
    for step in (1, 2, 3, 4):
        best(training, step)
        begun = time.monotonic()
        pusher.new_best(training)
        taken.append(time.monotonic() - begun)
        if step == 1:
            wait(lambda: hub.calls("preupload"))
    assert max(taken) < 0.5
    assert pusher.close(30.0)
    assert steps(hub) == ["Model of step 1 of rainy-run", "Model of step 4 of rainy-run"]
    saved = json.loads(hub.repositories["ana/rain"].files()["preprocessing.json"])
    assert saved["step"] == 4
    assert leftovers(training) == []


def test_a_failure_is_a_sentence_and_the_next_model_gets_its_try(hub: Hub, training: Path) -> None:
    hub.faults.append(Fault(COMMIT, 500, "oops", times=3))
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: said)
    assert said == ["hub: the push to ana/rain failed: the hub has trouble (500): oops"]
    best(training, 2)
    pusher.new_best(training)
    assert pusher.close(30.0)
    assert steps(hub) == ["Model of step 2 of rainy-run"]


def test_what_only_the_user_can_mend_is_tried_once(
    hub: Hub, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append, private=True)
    assert "there is no token" in said.pop()
    for step in (1, 2, 3):
        best(training, step)
        pusher.new_best(training)
        wait(lambda: said)
    assert not pusher.close(10.0)
    assert len(said) == 2
    assert "there is no token" in said[0]
    assert "not tried again in this run" in said[0]
    command = f"python launch/publish.py --run {training} --repo-id ana/rain --private"
    assert said[1] == f"hub: the newest model is not on ana/rain. Run later: {command}"
    assert hub.received == []
    assert leftovers(training) == []


def test_the_end_does_not_wait_for_ever(hub: Hub, training: Path) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=20.0))
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: hub.calls("preupload"))
    best(training, 2)
    pusher.new_best(training)  # waits behind the first
    begun = time.monotonic()
    assert not pusher.close(0.5)
    assert time.monotonic() - begun < 5
    assert [sentence.partition(" Run later")[0] for sentence in said] == [
        "hub: the newest model is not on ana/rain."
    ]
    assert "hub" not in [thread.name for thread in threading.enumerate()]
    assert leftovers(training) == []
    pusher.new_best(training)  # after the end: nothing
    assert len(said) == 1


def test_a_run_that_can_t_be_read_is_a_sentence(hub: Hub, training: Path) -> None:
    said: list[str] = []
    pusher = BackgroundPush("ana/rain", said.append)
    (training / "config.yaml").write_text(": : :")
    pusher.new_best(training)
    wait(lambda: said)
    shutil.rmtree(training / "model")
    pusher.new_best(training)
    assert len(said) == 2
    assert all(sentence.startswith("hub: this model is not pushed: ") for sentence in said)
    assert not pusher.close(10.0)
    assert leftovers(training) == []


def test_nothing_to_push_is_no_failure(hub: Hub) -> None:
    said: list[str] = []
    assert BackgroundPush("ana/rain", said.append).close(1.0)
    assert said == []
    with pytest.raises(InputError, match="expected user/name"):
        BackgroundPush("rain", said.append)
