"""The same command again, after whatever ended a run: it goes on, or is over, or is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from whole_runs import (
    assert_same_end,
    command,
    curves,
    cut_off,
    events,
    kill,
    read,
    tree,
)

from timerxl.training import run as run_module
from timerxl.training.checkpoint.storage import file_record
from timerxl.training.processes.run_lock import RunLock
from timerxl.training.trainer import NumberNotFinite, TrainingStep

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("where", [3, 7, 12, "scores"])
def test_killed_anywhere_it_ends_the_same(tmp_path: Path, straight: Path, where: Any) -> None:
    """Before the first checkpoint, behind an evaluation, in the middle, and at the very end."""
    run = f"output_dir={tmp_path / 'run'}"
    with pytest.MonkeyPatch.context() as patch:
        if where == "scores":
            patch.setattr(run_module, "score_best", lambda *rest: kill())
        cut_off(where, run)
    assert read(tmp_path / "run" / "status.json") == {"code": 1, "reason": "running"}
    assert command(run) == 0
    assert_same_end(tmp_path / "run", straight)
    assert curves(tmp_path / "run") == curves(straight)
    resumed = [event["step"] for event in events(tmp_path / "run", "resume")]
    assert resumed == {3: [], 7: [6], 12: [10], "scores": [12]}[where]
    assert read(tmp_path / "run" / "results.json")["resumes"] == len(resumed)


@pytest.mark.parametrize("where", [7, 11])
def test_the_average_of_the_weights_goes_on_as_well(tmp_path: Path, where: int) -> None:
    """From the checkpoint of an evaluation, and from one between two."""
    straight, run = (f"output_dir={tmp_path / name}" for name in ("straight", "run"))
    average = ["train.ema=0.9", "train.trackers=[]"]
    assert command(straight, *average) == 0
    cut_off(where, run, *average)
    assert command(run, *average) == 0
    assert [event["step"] for event in events(tmp_path / "run", "resume")] == [where - 1]
    assert_same_end(tmp_path / "run", tmp_path / "straight")
    last = "checkpoints/step_00000012/averaged.safetensors"
    found, expected = ((tmp_path / name / last).read_bytes() for name in ("run", "straight"))
    assert found == expected
    raw = "checkpoints/step_00000012/model.safetensors"
    assert (tmp_path / "run" / raw).read_bytes() != (
        tmp_path / "run" / "model" / "model.safetensors"
    ).read_bytes()


def test_a_finished_run_stays_as_it_is(straight: Path, capsys: Any) -> None:
    before = tree(straight)
    assert command(f"output_dir={straight}") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert command(f"output_dir={straight}", "optim.lr=0.5") == 2
    assert "optim.lr was 0.001, is 0.5" in capsys.readouterr().err
    assert tree(straight) == before


def test_a_finished_run_that_is_asked_for_more(tmp_path: Path, straight: Path, capsys: Any) -> None:
    """Refused, with two ways that work: on from its last step, and from its best model."""
    run, longer = tmp_path / "run", "train.max_steps=20"
    shutil.copytree(straight, run)
    assert command(f"output_dir={run}", longer) == 2
    said = capsys.readouterr().err
    assert "train.max_steps was 12, is 20" in said
    assert "train.resume_force=true goes on from its last step" in said
    assert f"model.pretrained={run}/model with another output_dir" in said

    assert command(f"output_dir={run}", longer, "train.resume_force=true") == 0
    assert "the finished run" in capsys.readouterr().out
    steps = events(run, "train")
    assert [event["step"] for event in steps] == list(range(1, 21))
    assert steps[:12] == events(straight, "train")
    # Half a cosine from step 2 (10 % of 20 steps warm up) to 20; step 13 has the factor of 12.
    rates = [0.001 * 0.5 * (1 + np.cos(np.pi * (step - 2) / 18)) for step in range(12, 20)]
    np.testing.assert_allclose([event["lr"] for event in steps[12:]], rates, rtol=1e-12)
    assert [event["step"] for event in events(run, "validation")] == [6, 12, 18, 20]
    found = read(run / "results.json")
    assert (found["steps"], found["stop_reason"]) == (20, "all steps done")
    best = max(events(run, "validation"), key=lambda event: event["roc_auc"])
    assert found["best_step"] == best["step"]

    other = tmp_path / "other"
    assert command(f"output_dir={other}", longer, f"model.pretrained={straight}/model") == 0
    assert len(events(other, "train")) == 20


def test_a_finished_run_and_settings_that_are_not_longer(
    tmp_path: Path, straight: Path, capsys: Any
) -> None:
    """No promise that force would go on: there is no step left to make."""
    before = tree(straight)
    for change in (
        ["optim.lr=0.5"],
        ["train.max_steps=6"],
        ["optim.lr=0.5", "train.resume_force=true"],
    ):
        assert command(f"output_dir={straight}", *change) == 2
        said = capsys.readouterr().err
        assert "resume_force" not in said.partition("model.pretrained=")[2]
    assert tree(straight) == before


def test_a_stopped_run_stays_stopped_until_told_otherwise(tmp_path: Path, capsys: Any) -> None:
    """At a rate of nothing the collapse is certain at step 12, and patience ends at step 18."""
    still = ["optim.lr=1e-12", "train.max_steps=24", "train.patience=2"]
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert command(*still, f"output_dir={straight}", "monitors.collapse=warn") == 0
    assert [event["step"] for event in events(straight, "validation")] == [6, 12, 18]
    assert command(*still, f"output_dir={run}", "monitors.collapse=stop") == 3
    before = tree(run)
    assert read(run / "status.json")["code"] == 3
    assert command(*still, f"output_dir={run}", "monitors.collapse=stop") == 3
    assert "monitors.collapse=warn" in capsys.readouterr().out
    assert tree(run) == before
    # Cut off once more: the checkpoint of step 15 has an evaluation without gain behind it.
    cut_off(17, *still, f"output_dir={run}", "monitors.collapse=warn")
    assert command(*still, f"output_dir={run}", "monitors.collapse=warn") == 0
    assert [event["step"] for event in events(run, "resume")][-1] == 15
    for name in ("train", "validation"):
        assert events(run, name) == events(straight, name)
    assert curves(run) == curves(straight)
    for key in ("best_step", "steps", "stop_reason"):
        assert read(run / "results.json")[key] == read(straight / "results.json")[key]


def test_a_step_that_was_no_number_and_is_one_now(tmp_path: Path, straight: Path) -> None:
    """Stopped at step 8, whose line says so; done again, it stands there once, with its loss."""
    run, take_step = tmp_path / "run", TrainingStep.__call__

    def bad(self: TrainingStep, number: int, *rest: Any) -> Any:
        if number == 8:
            raise NumberNotFinite(number, float("nan"))
        return take_step(self, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", bad)
        assert command(f"output_dir={run}", "monitors.nonfinite=stop") == 3
    assert [event["loss"] for event in events(run, "train")][-1] is None
    assert command(f"output_dir={run}", "monitors.nonfinite=warn") == 0
    assert events(run, "train") == events(straight, "train")
    assert curves(run) == curves(straight)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def another_shard(folder: Path) -> None:
    """As an optimizer's part of two ranks, left in the copy of a run of one."""
    source = folder / "optimizer-00000-of-00001.safetensors"
    shutil.copyfile(source, folder / "optimizer-00001-of-00002.safetensors")


STATE = "trainer_state.json"
DAMAGE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "a setting": (lambda f: edit(f / STATE, '"seed": 0', '"seed": 1'), STATE),
    "a key": (lambda f: edit(f / STATE, '"global_batch_size"', '"global_batch_sizf"'), STATE),
    "weights": (lambda f: os.truncate(f / "model.safetensors", 999), "model.safetensors"),
    "renamed": (lambda f: f.rename(f.with_name("step_00000011")), "manifest.json"),
    "one shard more": (another_shard, None),  # named and passed over, or not read: either is fine
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, half: Path, straight: Path, capsys: Any, case: str
) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    spoil, named = DAMAGE[case]
    spoil(run / "checkpoints" / "step_00000010")
    assert command(f"output_dir={run}", "train.trackers=[]") == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if "is not used" in line]
    if named is not None:
        assert len(said) == 1
        assert re.search(rf"step_000000(10|11) is not used: .*{named}", said[0])
        assert [event["step"] for event in events(run, "resume")] == [6]
    shutil.rmtree(run / "checkpoints" / "step_00000011", ignore_errors=True)
    assert_same_end(run, straight)


def test_nothing_whole_is_nothing_trained_over(tmp_path: Path, half: Path, capsys: Any) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    for path in run.rglob("rng-*"):
        path.unlink()
    before = {name: content for name, (content, _) in tree(run / "checkpoints").items()}
    assert command(f"output_dir={run}", "train.trackers=[]") == 4
    said = "".join(capsys.readouterr())
    assert all(re.search(rf"step_000000{n}\b.*rng-00000", said) for n in ("05", "06", "10"))
    assert {name: content for name, (content, _) in tree(run / "checkpoints").items()} == before
    assert len(events(run, "train")) == 11


def test_changed_data_are_refused_and_changed_code_is_noted(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, rain = np.random.default_rng(0), tmp_path / "rain.csv"
    times = pd.date_range("2021-01-01", periods=200, freq="12h")
    wet = np.where(rng.random(200) < 0.3, rng.gamma(2.0, 2.0, 200), 0.0)
    table = pd.DataFrame({"timestamp": times, "region": "coast", "precipitation": wet})
    table["t2m"] = rng.normal(290, 5, 200)
    table.to_csv(rain, index=False)
    run = tmp_path / "run"
    given = [f"data.path={rain}", f"output_dir={run}", "train.max_steps=2", "train.trackers=[]"]
    given += ["train.checkpoint_every_steps=1", "monitors.collapse=off"]
    cut_off(2, *given)
    before = {name: content for name, (content, _) in tree(run).items() if name != "run.lock"}
    table.loc[150, "t2m"] += 0.5
    table.to_csv(rain, index=False)
    assert command(*given) == 2
    assert "the data are not those of the checkpoint" in capsys.readouterr().err
    after = {name: content for name, (content, _) in tree(run).items() if name != "run.lock"}
    assert after == before
    monkeypatch.setattr(run_module, "code_fingerprint", lambda: "of tomorrow")
    assert command(*given, "train.resume_force=true") == 0
    out = capsys.readouterr().out
    assert "the code of timerxl changed" in out
    assert "the data changed since the checkpoint (forced)" in out


def test_a_branch_has_the_curves_and_the_best_model(tmp_path: Path, straight: Path) -> None:
    before, start = tree(straight), straight / "checkpoints" / "step_00000010"
    branch = tmp_path / "branch"
    given = [f"train.resume={start}", "train.trackers=[]"]
    assert command(*given, f"output_dir={branch}") == 0
    assert_same_end(branch, straight)
    # A branch that only gets worse keeps what was best up to there, not what came later there.
    worse = tmp_path / "worse"
    forced = ["optim.lr=3.0", "train.resume_force=true", "monitors.collapse=off"]
    assert command(*given, *forced, f"output_dir={worse}") == 0
    results, model = read(worse / "results.json"), load_file(worse / "model" / "model.safetensors")
    at = {event["step"]: event["roc_auc"] for event in events(worse, "validation")}
    assert at[12] < at[6] < {e["step"]: e["roc_auc"] for e in events(straight, "validation")}[12]
    assert results["validation"]["roc_auc"] == pytest.approx(at[results["best_step"]], abs=1e-9)
    best = worse if results["best_step"] == 12 else straight
    kept = best / "checkpoints" / f"step_{results['best_step']:08d}" / "model.safetensors"
    assert all((model[name] == tensor).all() for name, tensor in load_file(kept).items())
    assert tree(straight) == before


def test_weights_that_are_no_numbers_are_not_gone_on_from(
    tmp_path: Path, half: Path, capsys: Any
) -> None:
    """Whole by their manifest: the state itself is bad."""
    run = Path(shutil.copytree(half, tmp_path / "run"))
    newest = max((run / "checkpoints").glob("step_*"))
    weights = {k: t * float("nan") for k, t in load_file(newest / "model.safetensors").items()}
    save_file(weights, newest / "model.safetensors", {"format": "pt"})
    manifest = read(newest / "manifest.json")
    manifest["files"]["model.safetensors"] = file_record(newest / "model.safetensors")
    (newest / "manifest.json").write_text(json.dumps(manifest))
    before = tree(run / "checkpoints")
    assert command(f"output_dir={run}") == 4
    assert "model.safetensors holds NaN or infinity" in capsys.readouterr().err
    assert tree(run / "checkpoints") == before


def test_two_processes_on_one_folder(tmp_path: Path, half: Path, capsys: Any) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    lock = RunLock(run)
    lock.acquire()
    before = tree(run)
    try:
        assert command(f"output_dir={run}", "train.trackers=[]") == 2
    finally:
        lock.release()
    error = capsys.readouterr().err
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in error
    assert {k: v[0] for k, v in before.items()} | {"run.lock": b""} == {
        name: content for name, (content, _) in tree(run).items()
    }


def test_curves_that_lost_their_end(tmp_path: Path, half: Path, capsys: Any) -> None:
    """Said, and no reason to stop; nor is the line that was cut in two."""
    run = shutil.copytree(half, tmp_path / "run")
    os.truncate(run / "metrics.jsonl", 1500)
    assert command(f"output_dir={run}", "train.trackers=[]") == 0
    assert "metrics.jsonl lost lines" in capsys.readouterr().out
    assert len(events(run, "results")) == 1
    assert [event["step"] for event in events(run, "train")][-2:] == [11, 12]


@pytest.mark.parametrize("line", ["x" * 40, '{"event": "train", "step": 2, "loss": "low"}', "{}"])
def test_a_damaged_line_of_the_curves_is_taken_out(
    tmp_path: Path, half: Path, straight: Path, capsys: Any, line: str
) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    (at,) = [i for i, text in enumerate(lines) if '"train", "step": 2,' in text]
    lines[at] = line.ljust(len(lines[at]))
    path.write_text("\n".join(lines) + "\n")
    assert command(f"output_dir={run}", "train.trackers=[]") == 0
    assert f"1 damaged line(s) of {path} are taken out" in capsys.readouterr().out
    kept = [event for event in events(straight, "train") if event["step"] != 2]
    assert events(run, "train") == kept
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (straight / weights).read_bytes()


def test_curves_that_are_a_pipe(tmp_path: Path, half: Path, capsys: Any) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert command(f"output_dir={run}", "train.trackers=[]") == 2
    assert "metrics.jsonl is a pipe; expected a regular file" in capsys.readouterr().err


def test_a_status_that_is_a_folder_is_refused_before_anything_changes(
    tmp_path: Path, half: Path, capsys: Any
) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    (run / "status.json").unlink()
    (run / "status.json" / "deeper").mkdir(parents=True)
    before = tree(run)
    assert command(f"output_dir={run}", "train.trackers=[]") == 2
    assert "status.json is a folder; a run has a file of that name" in capsys.readouterr().err
    assert tree(run) == before


def test_a_branch_whose_best_model_is_lost(tmp_path: Path, half: Path, capsys: Any) -> None:
    """It goes on without, and its own next evaluation is the best."""
    source, branch = shutil.copytree(half, tmp_path / "source"), tmp_path / "branch"
    os.truncate(source / "model" / "model.safetensors", 1000)
    start = source / "checkpoints" / "step_00000010"
    given = [f"train.resume={start}", "train.trackers=[]", f"output_dir={branch}"]
    assert command(*given) == 0
    said = capsys.readouterr().out
    assert "can't be copied, and is left out:" in said
    assert "model.safetensors" in said.partition("is left out:")[2].partition("\n")[0]
    assert read(branch / "results.json")["best_step"] == 12
    assert [path.name for path in branch.rglob(".*")] == []


def test_pretrained_weights_that_are_not_named_any_more(
    tmp_path: Path, straight: Path, capsys: Any
) -> None:
    """The checkpoint's weights come after them: it goes on, or is refused in words."""
    given = [f"output_dir={tmp_path / 'run'}", "train.max_steps=8", "train.trackers=[]"]
    cut_off(7, *given, f"model.pretrained={straight / 'model'}")
    code = command(*given, "model.pretrained=null")
    assert code == 0 or (code == 2 and "model.pretrained" in capsys.readouterr().err)
