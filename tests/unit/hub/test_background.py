"""Pushing beside the training: at once for the run, newest wins, and never an exception."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_contents import Fault, File, Hub, Repository
from spoiled_runs import as_stopped, edit, sums

from timerxl.config import InputError
from timerxl.hub.push import BackgroundPush
from timerxl.hub.record import needs_force, read_record
from timerxl.hub.staging import Place, sweep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]

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
    deadline = time.monotonic() + 90
    while not until() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert until()


def leftovers(run: Path) -> list[str]:
    return [path.name for path in run.parent.iterdir() if "timerxl" in path.name]


def test_a_best_model_arrives_and_so_does_the_end(hub: Hub, training: Path, finished: Path) -> None:
    said: list[str] = []
    config = training / "config.yaml"
    config.write_text(config.read_text().replace("data_licence: null", "data_licence: CC0"))
    pusher = BackgroundPush(training, "ana/rain", said.append, private=True)
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
    assert pusher.end(0)
    assert pusher.close(0.0)  # once more is no harm
    assert "results.json" in repository.files()
    assert "STILL TRAINING" not in repository.files()["README.md"].decode()
    assert len(said) == 2
    assert all("pushed in" in sentence for sentence in said)
    assert leftovers(training) == []


def test_the_newest_wins_and_nobody_waits(hub: Hub, training: Path) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=2.0, times=1))
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    taken = []
    for step in (1, 2, 3, 4):
        best(training, step)
        begun = time.monotonic()
        pusher.new_best(training)
        taken.append(time.monotonic() - begun)
        if step == 1:
            wait(lambda: hub.calls("preupload"))
    assert max(taken) < 0.2  # a copy of small files; reading and staging are another process's
    assert pusher.close(90.0)
    assert steps(hub) == ["Model of step 1 of rainy-run", "Model of step 4 of rainy-run"]
    saved = json.loads(hub.repositories["ana/rain"].files()["preprocessing.json"])
    assert saved["step"] == 4
    assert leftovers(training) == []


def test_a_failure_is_a_sentence_and_the_next_model_gets_its_try(hub: Hub, training: Path) -> None:
    hub.faults.append(Fault(COMMIT, 500, "oops", times=3))
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: said)
    assert said == ["hub: the push to ana/rain failed: the hub has trouble (500): oops"]
    best(training, 2)
    pusher.new_best(training)
    assert pusher.close(90.0)
    assert steps(hub) == ["Model of step 2 of rainy-run"]


def test_what_only_the_user_can_mend_is_tried_once(
    hub: Hub, training: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append, private=True)
    assert "there is no token" in said.pop()
    for step in (1, 2, 3):
        best(training, step)
        pusher.new_best(training)
        wait(lambda: said)
    shutil.rmtree(training)
    shutil.copytree(finished, training)
    assert not pusher.end(0)
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
    pusher = BackgroundPush(training, "ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: hub.calls("preupload"))
    best(training, 2)
    pusher.new_best(training)  # waits behind the first
    begun = time.monotonic()
    assert not pusher.close(0.5)
    assert time.monotonic() - begun < 5
    assert said == [
        "hub: the newest model is not on ana/rain. It can be published when the run is finished: "
        "train on with the same command."
    ]
    wait(lambda: "hub" not in [thread.name for thread in threading.enumerate()])
    assert leftovers(training) == []
    pusher.new_best(training)  # after the end: nothing
    assert len(said) == 1


def test_a_run_that_can_t_be_read_is_a_sentence(hub: Hub, training: Path) -> None:
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    (training / "config.yaml").write_text(": : :")
    pusher.new_best(training)
    wait(lambda: said)
    shutil.rmtree(training / "model")
    pusher.new_best(training)
    assert len(said) == 2
    assert all(sentence.startswith("hub: this model is not pushed: ") for sentence in said)
    assert not pusher.close(10.0)
    assert leftovers(training) == []


def test_nothing_to_push_is_no_failure(hub: Hub, training: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert BackgroundPush(tmp_path / "none", "ana/rain", said.append).close(1.0)
    assert BackgroundPush(tmp_path / "none", "ana/rain", said.append).end(1)
    (training / "status.json").write_text(json.dumps({"code": 1, "reason": "it is bad."}))
    assert BackgroundPush(training, "ana/rain", said.append).end(1)  # a bad run goes by force alone
    assert (hub.repositories, said) == ({}, [])
    with pytest.raises(InputError, match="expected user/name"):
        BackgroundPush(tmp_path / "none", "rain", said.append)


STOPPED = "Run later: python launch/publish.py --run {run} --repo-id ana/rain --force"


def test_a_run_that_a_monitor_stopped_gets_a_card_that_says_so(hub: Hub, training: Path) -> None:
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: said)
    as_stopped(training, has_best=True)
    assert pusher.end(3), said
    repository = hub.repositories["ana/rain"]
    assert steps(hub)[1:] == ["Model of step 4 of rainy-run, stopped"]
    top = repository.files()["README.md"].decode().split("\n## ")[0]
    assert "STILL TRAINING" not in top
    assert "STOPPED BY A MONITOR" in top
    assert "stopped by the monitor collapse (certain) at step 4" in top
    assert len(said) == 2
    # The next process of the same run, which has sent nothing, leaves a corrected card alone.
    again = BackgroundPush(training, "ana/rain", said.append)
    assert again.end(3)
    assert len(steps(hub)) == 2
    command = STOPPED.format(run=training).removeprefix("Run later: ")
    assert said[2] == f"hub: a stopped run is not sent by itself; to do it: {command}"


@pytest.mark.usefixtures("cold_upload")
def test_a_run_that_failed_gets_a_card_that_says_so(hub: Hub, training: Path) -> None:
    theirs = {"README.md": File(b"> **STILL TRAINING.** It goes on.", False)}
    hub.repositories["ana/rain"] = Repository()  # by an earlier process of this run
    hub.repositories["ana/rain"].commit("main", "", {})
    hub.repositories["ana/rain"].commit("main", "of a run under way", theirs)
    (training / "status.json").write_text(json.dumps({"code": 1, "reason": "the loss is nan."}))
    said: list[str] = []
    assert BackgroundPush(training, "ana/rain", said.append).end(1), said
    card = hub.repositories["ana/rain"].files()["README.md"].decode()
    assert "STILL TRAINING" not in card
    assert "**FAILED RUN.** The run did not end well: the loss is nan. The weights are" in card


def test_the_command_for_later_is_one_that_works(
    hub: Hub, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    pusher.new_best(training)
    as_stopped(training, has_best=True)
    assert not pusher.end(3)
    assert said[-1].endswith(STOPPED.format(run=training))
    assert needs_force(training) is True
    assert read_record(training, force=True).outcome == "stopped"


def test_a_signal_or_a_lost_disk_leaves_no_time(
    hub: Hub, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.append(Fault(UPLOAD, seconds=30.0))
    said: list[str] = []
    pusher = BackgroundPush(training, "ana/rain", said.append)
    pusher.new_best(training)
    wait(lambda: hub.calls("preupload"))
    (training / "status.json").write_text(json.dumps({"code": 143, "reason": "it ended"}))
    begun = time.monotonic()
    assert not pusher.end(143)
    assert 2.9 < time.monotonic() - begun < 6
    assert "train on with the same command" in said[-1]
    assert leftovers(training) == []

    waited: list[float] = []
    monkeypatch.setattr(BackgroundPush, "close", lambda self, seconds: waited.append(seconds))
    shutil.rmtree(training / "model")  # nothing to send
    for code in (0, 143, 130, 4):
        BackgroundPush(training, "ana/rain", said.append).end(code)
    assert waited == [300.0, 3.0, 3.0, 3.0]


def test_what_a_killed_process_left_goes_at_the_next_start(hub: Hub, training: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from timerxl.hub.staging import Place\n"
        "place = Place(Path(sys.argv[1])); (place.folder / 'run').mkdir(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, training.parent], cwd=ROOT, check=False)
    held = Place(training.parent)
    assert len(leftovers(training)) == 2
    BackgroundPush(training, "ana/rain", lambda sentence: None)
    assert leftovers(training) == [held.folder.name]
    # Another process that works there keeps it, also without the one that made it.
    assert held.descriptor is not None
    other = subprocess.Popen(["sleep", "30"], pass_fds=[held.descriptor])
    os.close(held.descriptor)
    assert sweep(training.parent) == 0
    other.kill()
    other.wait()
    assert sweep(training.parent) == 1
    old = training.parent / ".timerxl-hub-old"
    old.mkdir()
    assert sweep(training.parent) == 0
    os.utime(old, (0, 0))
    assert sweep(training.parent) == 1


def test_a_sweep_takes_only_what_it_made(tmp_path: Path) -> None:
    """Links, files of others and folders that hold anything else stay, also when they are old and
    are called as a place is."""
    theirs, runs = tmp_path / "theirs", tmp_path / "runs"
    (theirs / "package").mkdir(parents=True)
    (theirs / "lock").write_text("mine")
    places = [runs / f".timerxl-hub-{number}" for number in range(10)]
    for place in places[1:]:
        place.mkdir(parents=True)
    places[0].symlink_to(theirs)
    (places[1] / "lock").symlink_to(theirs / "lock")
    (places[2] / "lock").hardlink_to(theirs / "lock")
    os.mkfifo(places[3] / "lock")
    (places[4] / "run").symlink_to(theirs)
    for place, inside in zip(
        places[5:], ("run/mine", "package/mine", "notes.txt", "lock/mine", "photo.jpg"), strict=True
    ):
        (place / inside).parent.mkdir(exist_ok=True)
        (place / inside).write_text("mine")
    for path in places:
        os.utime(path, (0, 0), follow_symlinks=False)
    before = sums(theirs), os.stat(theirs / "lock").st_mtime_ns, sorted(runs.rglob("*"))
    assert sweep(runs) == 0
    after = sums(theirs), os.stat(theirs / "lock").st_mtime_ns, sorted(runs.rglob("*"))
    assert after == before


def test_a_place_goes_with_its_process_whatever_ends_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from timerxl.hub.staging import Place\n"
        "place = Place(Path(sys.argv[1])); (place.folder / 'run').mkdir()\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); assert place.folder.is_dir(); del place; raise SystemExit(3)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []
