"""Whether a run begins, goes on or is over: decided from files, before anything is changed."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import ONE_LABEL

from timerxl.config import InputError, RunConfig, load_recipe, to_yaml
from timerxl.training.checkpoint import storage as files
from timerxl.training.checkpoint.storage import (
    TRAINER_STATE,
    Progress,
    StorageFailed,
    checkpoint_name,
)
from timerxl.training.processes.end_watcher import REASON
from timerxl.training.resume import RunEnded, fit_layout, plan_resume
from timerxl.training.run_dir import RunFolder
from timerxl.training.tracking import Log

GLOBAL_BATCH = 64  # the quickstart's on one process


def given_config(folder: Path, *overrides: str) -> RunConfig:
    return load_recipe("quickstart", [*ONE_LABEL.split(), f"output_dir={folder}", *overrides])


def make_run(
    folder: Path, steps: tuple[int, ...] = (), *overrides: str, code: int = 1, reason: str = ""
) -> Path:
    """What plan_resume reads of a run, by hand."""
    config = given_config(folder, *overrides)
    for step in steps:
        path = folder / "checkpoints" / checkpoint_name(step)
        state = {"step": step, "progress": {"step": step}, "config": asdict(config)}
        state |= {"global_batch_size": GLOBAL_BATCH, "world_size": 1}
        fresh = files.fresh_folder(path)
        fresh.mkdir(parents=True)
        (fresh / TRAINER_STATE).write_text(json.dumps(state))
        files.publish(path, step, files.record_files(fresh, [TRAINER_STATE]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "status.json").write_text(json.dumps({"code": code, "reason": reason}))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def names(paths: list[Path]) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in paths]


def test_an_empty_folder_is_begun(tmp_path: Path) -> None:
    for place in (tmp_path / "none", tmp_path):
        found = plan_resume(given_config(place), 1)
        assert (found.candidates, found.notes) == ([], [])
    run = make_run(tmp_path / "run")
    found = plan_resume(given_config(run), 1)
    assert found.candidates == []
    (note,) = found.notes
    assert "without a checkpoint" in note


def test_a_cut_off_run_goes_on_from_the_newest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (6, 24, 12))
    before = contents(run)
    found = plan_resume(given_config(run), 1)
    assert names(found.candidates) == [24, 12, 6]
    assert (found.global_batch_size, found.notes) == (GLOBAL_BATCH, [])
    assert plan_resume(given_config(run, "train.resume=never"), 1).candidates == []
    assert contents(run) == before
    # A state that can't be read is no reason to stop while another one is there.
    (run / "checkpoints" / checkpoint_name(24) / TRAINER_STATE).write_text("{")
    assert 12 in names(plan_resume(given_config(run), 1).candidates)


@pytest.mark.parametrize(
    ("reason", "step", "is_same"),
    [
        ("running", 24, True),
        (
            f"{REASON} Start the same command again.",
            24,
            True,
        ),  # told late by the killed run's watcher
        (REASON, 36, False),  # killed after it had gone on
        ("finished", 24, False),
        ("stopped: collapse", 24, False),
    ],
)
def test_a_folder_that_another_run_changed_meanwhile_is_refused(
    tmp_path: Path, reason: str, step: int, is_same: bool
) -> None:
    run = make_run(tmp_path / "run", (12, 24), reason="running")
    config = given_config(run)
    found = plan_resume(config, 1)
    make_run(run, (step,) if step not in (12, 24) else (), reason=reason)
    folder = RunFolder(Accelerator(cpu=True), config, Log(active=False), [], {})
    refused = pytest.raises(InputError, match="another run until now")
    with contextlib.nullcontext() if is_same else refused:
        folder._check_unchanged(found)


def test_a_run_with_no_state_that_can_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", (6, 12))
    for path in run.rglob(TRAINER_STATE):
        path.write_text("{}")
    with pytest.raises(StorageFailed, match=r"train\.resume=never"):
        plan_resume(given_config(run), 1)


@pytest.mark.parametrize("changed", [[], ["train.log_every_steps=3"], ["monitors.slow=stop"]])
def test_a_finished_run_is_over(tmp_path: Path, changed: list[str]) -> None:
    run = make_run(tmp_path / "run", (12,), code=0)
    # Killed between the last score and the results: that is not finished.
    assert names(plan_resume(given_config(run), 1).candidates) == [12]
    (run / "results.json").write_text("{}")
    before = contents(run)
    with pytest.raises(RunEnded) as ended:
        plan_resume(given_config(run, *changed), 1)
    assert ended.value.code == 0
    with pytest.raises(InputError, match=r"seed was 0, is 1"):
        plan_resume(given_config(run, "seed=1"), 1)
    with pytest.raises(InputError, match=r"data.path was None, is 'rain.csv'"):
        plan_resume(given_config(run, "data.path=rain.csv"), 1)
    assert contents(run) == before


@pytest.mark.parametrize("action", ["stop", "warn", "off"])
def test_a_run_that_a_monitor_stopped(tmp_path: Path, action: str) -> None:
    run = make_run(
        tmp_path / "run", (12,), "monitors.stagnation=stop", code=3, reason="stopped by it."
    )
    (run / "verdict.json").write_text(json.dumps({"stopped_by": {"name": "stagnation"}}))
    config = given_config(run, f"monitors.stagnation={action}", "monitors.collapse=stop")
    if action == "stop":
        with pytest.raises(RunEnded, match=r"stopped by it.*monitors.stagnation=warn") as ended:
            plan_resume(config, 1)
        assert ended.value.code == 3
    else:
        found = plan_resume(config, 1)
        assert names(found.candidates) == [12]
        assert f"monitors.stagnation was 'stop', is '{action}'" in " ".join(found.notes)


HARMLESS = (
    "data.path=rain.csv train.num_workers=2 train.data_on_device=true "
    "train.log_every_steps=3 train.trackers=[] "
    "train.gradient_checkpointing=true train.zero_stage=2 train.checkpoint_every_steps=5 "
    "train.checkpoint_every_minutes=null train.keep_last=5 train.mirror=far "
    "train.collective_timeout_minutes=1 "
    "eval.batch_size=7 eval.num_resamples=0 monitors.collapse=warn monitors.points=9.0"
).split()
HARMFUL = (
    "seed=1 data.features=[tp,t2m] data.label_horizon_hours=48.0 data.split=rows "
    "data.train_fraction=0.5 data.rain_threshold_mm=1.0 data.synthetic.seed=3 "
    "model.hidden_size=32 model.hidden_dropout=0.2 model.context_length=64 model.pooling=mean "
    "loss.name=focal loss.gamma=1.0 optim.lr=0.01 optim.weight_decay=0.0 optim.warmup_ratio=0.2 "
    "optim.layer_lr_decay=0.9 train.epochs=2 train.max_steps=9 train.patience=1 "
    "train.metric_for_best_model=mcc train.ema=0.99 train.precision=bf16 "
    "eval.max_windows=9 eval.threshold=0.5"
).split()


@pytest.mark.parametrize("change", HARMLESS)
def test_a_harmless_change_is_listed(tmp_path: Path, change: str) -> None:
    run = make_run(tmp_path / "run", (12,))
    (note,) = plan_resume(given_config(run, change), 1).notes
    key, value = change.split("=")
    assert f" {key} was " in note
    assert value.replace("null", "None").replace("true", "True") in note
    assert "harmless" in note


@pytest.mark.parametrize("change", HARMFUL)
def test_any_other_change_is_refused_by_name(tmp_path: Path, change: str) -> None:
    run = make_run(tmp_path / "run", (12,))
    key, value = change.split("=")
    config = given_config(run, change)
    old: Any = given_config(run)
    new: Any = config
    for part in key.split("."):
        old, new = getattr(old, part), getattr(new, part)
    assert old != new
    with pytest.raises(InputError) as refused:
        plan_resume(config, 1)
    assert f"{key} was {old!r}, is {new!r}" in str(refused.value)
    assert "train.resume_force=true" in str(refused.value)
    forced = plan_resume(given_config(run, change, "train.resume_force=true"), 1)
    assert names(forced.candidates) == [12]
    assert forced.notes == [f"resume: {key} was {old!r}, is {new!r} (forced)."]


def test_a_path_goes_on_or_branches_off(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run", (6, 12)), make_run(tmp_path / "other", (6,))
    at = {step: run / "checkpoints" / checkpoint_name(step) for step in (6, 12)}

    def asked(output_dir: Path, path: Path) -> list[Path]:
        return plan_resume(given_config(output_dir, f"train.resume={path}"), 1).candidates

    assert asked(run, at[12]) == [at[12]]
    assert asked(tmp_path / "branch", at[6]) == [at[6]]
    with pytest.raises(InputError, match="no such folder"):
        asked(run, run / "checkpoints" / "step_00000099")
    with pytest.raises(InputError, match=r"newer step_00000012.*another output_dir"):
        asked(run, at[6])
    with pytest.raises(InputError, match=r"another run.*empty folder"):
        asked(other, at[12])
    with pytest.raises(InputError, match=r"another run.*empty folder"):
        asked(other, run)
    # Folders that are no checkpoint: bad input, not a fault of the disk or of the code.
    (tmp_path / "begun" / "checkpoints" / "notes").mkdir(parents=True)
    (tmp_path / "begun" / "config.yaml").touch()
    for folder, path in ((tmp_path / "branch", run), (tmp_path / "begun", None)):
        with pytest.raises((InputError, StorageFailed)):
            asked(folder, path or folder / "checkpoints" / "notes")


@given(
    then=st.tuples(st.integers(1, 12), st.integers(1, 4), st.integers(1, 8)),
    world=st.integers(1, 16),
)
@settings(max_examples=300, deadline=None)
def test_the_global_batch_stays(then: tuple[int, int, int], world: int) -> None:
    """Whatever the numbers: the product is kept, or there is no way to keep it."""
    batch, accumulation, total = then[0], then[1], math.prod(then)
    config = RunConfig()
    config.train.batch_size, config.train.accumulation_steps = batch, accumulation
    saved = asdict(config)
    if total % world:
        with pytest.raises(InputError, match=f"batch of {total} can't be shared by {world} "):
            fit_layout(config, saved, world, total)
        return
    fitted, note = fit_layout(config, saved, world, total)
    assert asdict(config) == saved  # given settings stay as they are
    train = fitted.train
    assert train.batch_size * train.accumulation_steps * world == total
    assert train.batch_size <= batch  # what fitted into memory still does
    if world == then[2]:
        assert (note, train.batch_size) == (None, batch)
    else:
        assert note is not None
        assert f"{train.batch_size} x {train.accumulation_steps}" in note
        # The largest batch that fits.
        larger = range(train.batch_size + 1, batch + 1)
        assert not any(total // world % size == 0 for size in larger)


@pytest.mark.parametrize("force", ["false", "true"])
def test_a_wish_for_another_global_batch_is_refused(tmp_path: Path, force: str) -> None:
    run = make_run(tmp_path / "run", (12,))
    same = given_config(run, "train.batch_size=16", "train.accumulation_steps=4")
    same = plan_resume(same, 1).config
    assert (same.train.batch_size, same.train.accumulation_steps) == (16, 4)
    on_two = given_config(run, "train.batch_size=32")
    on_two = plan_resume(on_two, 2).config
    assert (on_two.train.batch_size, on_two.train.accumulation_steps) == (32, 1)
    for world, wish in ((1, "train.batch_size=32"), (2, "train.accumulation_steps=2")):
        with pytest.raises(InputError, match=r"= (32|256).* global batch is 64"):
            plan_resume(given_config(run, wish, f"train.resume_force={force}"), world)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.floats(allow_nan=False))
def test_progress_goes_through_json_exactly(losses: list[float], best: float) -> None:
    progress = Progress(step=7, best_score=best, losses=losses, train_seconds=0.1 + 0.2, resumes=2)
    text = json.dumps(progress.to_dict())
    if best == math.inf:
        return
    again = Progress.from_dict(json.loads(text, parse_constant=pytest.fail))
    assert again == replace(progress, resumes=3)


def test_a_stop_that_only_its_checkpoint_tells_of(tmp_path: Path) -> None:
    """The main process was killed before it could write how the run ended."""
    run = make_run(tmp_path / "run", (6, 12), "monitors.stagnation=stop", reason="running")
    for step, content in ((6, {}), (12, {"stopped_by": {"name": "stagnation"}})):
        path = run / "checkpoints" / checkpoint_name(step) / "preprocessing.json"
        path.write_text(json.dumps(content))
    with pytest.raises(RunEnded, match=r"stopped by the monitor stagnation\. It would") as ended:
        plan_resume(given_config(run, "monitors.stagnation=stop"), 1)
    assert ended.value.code == 3
    warned = plan_resume(given_config(run, "monitors.stagnation=warn"), 1)
    assert names(warned.candidates) == [12, 6]
    # Gone on with since: the newest one knows of no stop.
    path.write_text("{}")
    assert plan_resume(given_config(run, "monitors.stagnation=stop"), 1).candidates


@pytest.mark.parametrize("choice", ["never", "PATH"])
def test_a_restart_by_the_launcher_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """What train.resume asked for was done by the first attempt."""
    other = make_run(tmp_path / "other", (6,))
    path = other / "checkpoints" / checkpoint_name(6)
    asked = f"train.resume={choice.replace('PATH', str(path))}"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    found = plan_resume(given_config(tmp_path / "run", asked), 1)  # died before it began
    assert found.candidates == ([] if choice == "never" else [path])
    run = make_run(tmp_path / "run", (12,))
    found = plan_resume(given_config(run, asked), 1)
    assert (names(found.candidates), found.choice) == ([12], "auto")
    assert "restart 1 by the launcher" in found.notes[0]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    if choice == "never":
        assert plan_resume(given_config(run, asked), 1).candidates == []
    else:
        with pytest.raises(InputError, match="of another run"):
            plan_resume(given_config(run, asked), 1)
