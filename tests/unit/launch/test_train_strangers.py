"""Run folders, checkpoints and mirrors of strangers: nothing outside changes, nothing gets in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from whole_runs import command, read

from timerxl.training.checkpoint.storage import file_record


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside of every run."""
    path = tmp_path / "outside" / "canary"
    path.parent.mkdir()
    path.write_text("sings\n" * 100)
    return path


def assert_untouched(canary: Path, before: float) -> None:
    assert canary.read_text() == "sings\n" * 100
    assert canary.stat().st_mtime == before
    assert os.listdir(canary.parent) == ["canary"]


def replace_by(kind: str, name: Path, canary: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    if name.is_dir():
        shutil.rmtree(name)
    name.unlink(missing_ok=True)
    if kind == "hard link":
        os.link(canary, name)
    elif kind == "pipe":
        os.mkfifo(name)
    else:
        target = {"link": canary, "dangling": canary.with_name("new"), "folder": canary.parent}
        name.symlink_to(target[kind])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("link", "run.lock"),
        ("hard link", "run.lock"),
        ("dangling", "run.lock"),
        ("pipe", "run.lock"),
        ("link", "metrics.jsonl"),
        ("hard link", "metrics.jsonl"),
        ("link", "status.json"),
        ("link", "config.yaml"),
        ("link", "forecasts.parquet"),
        ("dangling", "results.json"),
        ("folder", "checkpoints"),
        ("folder", "checkpoints/step_00000005"),
        ("folder", "checkpoints/.step_00000005.old"),
        ("link", "checkpoints/step_00000010/model.safetensors"),
        ("folder", "model"),
        ("link", "model/modeling_timerxl.py"),
        ("folder", "report"),
        ("link", "report/index.html"),
        ("folder", "tensorboard"),
        ("folder", ".mirror"),
        ("folder", ".model.new"),
        ("dangling", ".status.json.new"),
    ],
)
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_run_folder_that_leads_out_of_itself_is_refused(
    tmp_path: Path, half: Path, canary: Path, capsys: Any, kind: str, name: str, resume: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(half, run)
    replace_by(kind, run / name, canary)
    mtime, before = canary.stat().st_mtime, sorted(os.listdir(run))
    assert command(f"output_dir={run}", f"train.resume={resume}") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {run / name} ")
    assert "nothing was changed" in said
    assert_untouched(canary, mtime)
    assert sorted(os.listdir(run)) == before
    assert not (tmp_path / "run.1").exists()


def test_what_a_tracker_keeps_in_the_folder_is_its_business(
    tmp_path: Path, half: Path, canary: Path
) -> None:
    """Weights & Biases links its newest run there."""
    run, mtime = tmp_path / "run", canary.stat().st_mtime
    shutil.copytree(half, run)
    replace_by("folder", run / "wandb" / "latest-run", canary)
    assert command(f"output_dir={run}", "train.trackers=[]") == 0
    assert_untouched(canary, mtime)


def rewrite(checkpoint: Path, name: str, edit: Any) -> None:
    """Change a file of a checkpoint as its author could: the manifest says what stands there."""
    content = read(checkpoint / name)
    edit(content)
    (checkpoint / name).write_text(json.dumps(content))
    manifest = read(checkpoint / "manifest.json")
    manifest["files"][name] = file_record(checkpoint / name)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("progress.best_score", 1e299, "best_score is 1e+299"),
        ("progress.best_score", 1.5, "best_score is 1.5"),
        ("progress.best_step", 11, "best_step is 11, beyond its step 10"),
        ("progress.looked_step", 11, "looked_step is 11, beyond its step 10"),
        ("progress.evaluations_without_gain", 10**9, "evaluations_without_gain is 1,000,000,000"),
        ("progress.train_seconds", -1.0, "train_seconds is -1"),
        ("progress.losses", [-1e9], "losses[0] is -1"),
        ("progress.samples_seen", -5, "samples_seen is -5"),
        ("schedule._last_lr", [1e30], "_last_lr[0] is 1e+30"),
        ("schedule.last_epoch", 10**9, "its schedule is at step 1,000,000,000"),
        ("scaler", {"scale": 1e308}, "scaler is a mapping"),
        ("world_size", 10**12, "world_size is 1000000000000"),
        ("global_batch_size", 2**40, "global_batch_size is 1099511627776"),
        ("metrics_bytes", 10**12, "metrics_bytes is 1000000000000"),
    ],
)
def test_a_state_beyond_its_meaning_is_not_gone_on_from(
    tmp_path: Path, half: Path, capsys: Any, key: str, value: Any, expected: str
) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(half, theirs)
    checkpoint = theirs / "checkpoints" / "step_00000010"

    def edit(state: Any) -> None:
        *path, last = key.split(".")
        for part in path:
            state = state[part]
        state[last] = value

    rewrite(checkpoint, "trainer_state.json", edit)
    assert command(f"output_dir={tmp_path / 'run'}", f"train.resume={checkpoint}") == 4
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said


def test_a_loss_counts_with_a_minus(tmp_path: Path, half: Path, capsys: Any) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(half, theirs)
    checkpoint = theirs / "checkpoints" / "step_00000010"

    def edit(state: Any) -> None:
        state["config"]["train"]["metric_for_best_model"] = "brier"
        state["progress"]["best_score"] = 0.5

    rewrite(checkpoint, "trainer_state.json", edit)
    metric = "train.metric_for_best_model=brier"
    assert command(f"output_dir={tmp_path / 'run'}", f"train.resume={checkpoint}", metric) == 4
    assert "best_score is 0.5; brier counts with a minus" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "rng-00000.safetensors"])
def test_a_checkpoint_with_a_link_is_not_gone_on_from(
    tmp_path: Path, half: Path, capsys: Any, name: str
) -> None:
    theirs, elsewhere = tmp_path / "theirs", tmp_path / "elsewhere"
    shutil.copytree(half, theirs)
    file = theirs / "checkpoints" / "step_00000010" / name
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert command(f"output_dir={tmp_path / 'run'}", f"train.resume={file.parent}") == 4
    assert f"{name} is a link, expected a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "model/x_timerxl.py", "model/config.json"])
def test_a_branch_takes_no_links_along(
    tmp_path: Path, half: Path, canary: Path, capsys: Any, name: str
) -> None:
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    shutil.copytree(half, theirs)
    replace_by("link", theirs / name, canary)
    checkpoint = theirs / "checkpoints" / "step_00000010"
    assert command(f"output_dir={run}", f"train.resume={checkpoint}") == 2
    assert f"{name} is a link" in capsys.readouterr().err
    assert not any(b"sings" in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_a_branch_takes_no_code_along(tmp_path: Path, half: Path, straight: Path) -> None:
    """Weights and numbers come from there; code and the names of classes from this package."""
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    shutil.copytree(half, theirs)
    for name in ("modeling_timerxl.py", "x_timerxl.py", "extra.bin"):
        (theirs / "model" / name).write_text("import os; os.system('touch /tmp/owned')")
    config = read(theirs / "model" / "config.json")
    config["auto_map"] = {"AutoConfig": "x_timerxl.Evil"}
    (theirs / "model" / "config.json").write_text(json.dumps(config))
    checkpoint = theirs / "checkpoints" / "step_00000010"
    assert command(f"output_dir={run}", f"train.resume={checkpoint}", "train.max_steps=12") == 0
    assert sorted(os.listdir(run / "model")) == sorted(os.listdir(straight / "model"))
    for path in (straight / "model").glob("*.py"):
        assert (run / "model" / path.name).read_bytes() == path.read_bytes()
    assert read(run / "model" / "config.json") == read(straight / "model" / "config.json")
    weights = (run / "model" / "model.safetensors").read_bytes()
    assert weights == (straight / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("link", "README.txt"),
        ("link", "slot-0/manifest.json"),
        ("hard link", "slot-1/manifest.json"),
        ("folder", "slot-1"),
        ("dangling", "slot-0/config.yaml"),
        ("folder", "slot-0/checkpoint"),
    ],
)
def test_a_mirror_that_leads_elsewhere_is_refused(
    tmp_path: Path, canary: Path, capsys: Any, kind: str, name: str
) -> None:
    far, run, mtime = tmp_path / "far", tmp_path / "run", canary.stat().st_mtime
    replace_by(kind, far / name, canary)
    assert command(f"output_dir={run}", f"train.mirror={far}") == 2
    assert f"error: {far / name} " in capsys.readouterr().err
    assert_untouched(canary, mtime)
    assert not (run / "config.yaml").exists()


def test_a_mirror_overwrites_no_note_of_others(tmp_path: Path, capsys: Any) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (far / "README.txt").write_text("my own notes")
    assert command(f"output_dir={tmp_path / 'run'}", f"train.mirror={far}") == 2
    assert "README.txt" in capsys.readouterr().err
    assert (far / "README.txt").read_text() == "my own notes"
    assert os.listdir(far) == ["README.txt"]


def test_a_lock_that_grows_after_the_look_is_not_followed(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the folder is one guard, the opening itself another."""
    from timerxl.config import InputError
    from timerxl.training.processes.run_lock import RunLock
    from timerxl.training.tracking import MetricsLog

    mtime = canary.stat().st_mtime
    for kind in ("link", "hard link", "dangling"):
        replace_by(kind, tmp_path / "run.lock", canary)
        with pytest.raises(InputError, match=r"run\.lock"):
            RunLock(tmp_path).acquire()
        replace_by(kind, tmp_path / "metrics.jsonl", canary)
        with pytest.raises(InputError, match=r"metrics\.jsonl"):
            MetricsLog(tmp_path / "metrics.jsonl", True)
    for kind in ("link", "dangling"):
        replace_by(kind, tmp_path / f".run.lock.{os.getpid()}", canary)
        replace_by(kind, tmp_path / "run.lock", tmp_path / "none")
        (tmp_path / "run.lock").unlink()
        (tmp_path / "run.lock").touch()
        assert RunLock(tmp_path)._age() == pytest.approx(0, abs=5)
    (tmp_path / "run.lock").unlink()
    assert_untouched(canary, mtime)
