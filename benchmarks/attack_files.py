"""Rows 1 and 3: folders that lead out of themselves, and strangers' models and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.attack_stage import CANARY, MARKER, Stage, attack
from benchmarks.fuzz_case import sign
from benchmarks.fuzz_seeds import train_arguments

STATE = "trainer_state.json"
PUBLISH = ("--repo-id", "a/b", "--data-licence", "CC BY 4.0", "--dry-run")
CODE = f"import pathlib\npathlib.Path('{MARKER}').touch()\n"


def train(stage: Stage, *more: str, output: str = "output/run", steps: int = 2) -> list[str]:
    """Arguments of a short training into ``output`` of the working folder."""
    steps_and_more = (f"train.max_steps={steps}", *more)
    return train_arguments(stage.table, stage.work / output, *steps_and_more)


# --- row 1: what a run writes


def to_file(path: Path, stage: Stage) -> None:
    path.symlink_to(stage.letter)


def second_name(path: Path, stage: Stage) -> None:
    os.link(stage.letter, path)


def dangling(path: Path, stage: Stage) -> None:
    path.symlink_to(stage.outside / "made-by-the-link")


def relative(path: Path, stage: Stage) -> None:
    path.symlink_to(os.path.relpath(stage.letter, path.parent))


def chain(path: Path, stage: Stage) -> None:
    (stage.work / "between").symlink_to(stage.letter)
    path.symlink_to(stage.work / "between")


def to_folder(path: Path, stage: Stage) -> None:
    path.symlink_to(stage.outside / "archive")


def to_empty(path: Path, stage: Stage) -> None:
    path.symlink_to(stage.outside / "empty")


def pipe(path: Path, stage: Stage) -> None:
    os.mkfifo(path)


Plant = Callable[[Path, Stage], None]


def _plant(stage: Stage, run: Path, name: str, plant: Plant) -> None:
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    plant(path, stage)


def fresh_run(stage: Stage, name: str, plant: Plant) -> list[str]:
    _plant(stage, stage.work / "output" / "run", name, plant)
    stage.run("train", *train(stage, "train.trackers=[tensorboard]"), cpu_seconds=25)
    return stage.harms()


def resumed_run(stage: Stage, name: str, plant: Plant) -> list[str]:
    """A run that a stranger cut off, gone on with."""
    _plant(stage, stage.copy("cut_off", "output/run"), name, plant)
    more = ("train.trackers=[tensorboard]", "train.resume=auto")
    stage.run("train", *train(stage, *more, steps=4), cpu_seconds=25)
    return stage.harms()


_FRESH: tuple[tuple[str, Plant], ...] = (
    *(("run.lock", plant) for plant in (to_file, second_name, dangling, relative, pipe)),
    *(("metrics.jsonl", plant) for plant in (to_file, second_name, dangling, chain, pipe)),
    *(("status.json", plant) for plant in (to_file, second_name)),
    *((name, to_folder) for name in ("checkpoints", "model", "report", "tensorboard")),
    *((name, to_empty) for name in ("checkpoints", "report", ".mirror", "tensorboard")),
    *((name, to_file) for name in ("forecasts.parquet", "results.json", "report/index.html")),
    *((name, second_name) for name in ("forecasts.parquet", "environment.json")),
    ("forecasts.parquet", dangling),
)
_RESUMED: tuple[tuple[str, Plant], ...] = (
    *(("metrics.jsonl", plant) for plant in (to_file, second_name)),
    *(("run.lock", plant) for plant in (to_file, chain)),
    *((f"checkpoints/{name}", to_folder) for name in ("step_00000001", ".step_00000001.old")),
    *((f"checkpoints/{name}", to_folder) for name in (".step_00000004.new", "step_00000004")),
    ("checkpoints/.step_00000002.old", to_folder),
    *((name, to_folder) for name in ("model", "tensorboard", "report")),
    ("forecasts.parquet", to_file),
)
for _name, _how in _FRESH:
    attack(1, f"a new run into a folder whose {_name} is {_how.__name__}", name=_name, plant=_how)(
        fresh_run
    )
for _name, _how in _RESUMED:
    attack(1, f"a resumed run whose {_name} is {_how.__name__}", name=_name, plant=_how)(
        resumed_run
    )


@attack(1, "slot-0 of the mirror is a link to a folder", name="slot-0", plant=to_folder)
@attack(1, "slot-0 of the mirror is a link to an empty one", name="slot-0", plant=to_empty)
@attack(1, "a slot's manifest is a link", name="slot-0/manifest.json", plant=to_file)
@attack(1, "a slot's metrics are a hard link", name="slot-0/metrics.jsonl", plant=second_name)
@attack(1, "README.txt of the mirror is a link", name="README.txt", plant=to_file)
@attack(1, "README.txt of the mirror is a hard link", name="README.txt", plant=second_name)
@attack(1, "a slot's model is a link", name="slot-0/model", plant=to_folder)
def mirrored(stage: Stage, name: str, plant: Plant) -> list[str]:
    _plant(stage, stage.work / "mirror", name, plant)
    stage.run("train", *train(stage, f"train.mirror={stage.work / 'mirror'}"), cpu_seconds=25)
    return stage.harms()


@attack(1, "the page of a report is a link", name="report/index.html", plant=to_file)
@attack(1, "the folder of a report is a link", name="report", plant=to_empty)
@attack(1, "the page of a report is a hard link", name="report/index.html", plant=second_name)
def report(stage: Stage, name: str, plant: Plant) -> list[str]:
    run = stage.copy("run")
    _plant(stage, run, name, plant)
    stage.run("report", run)
    return stage.harms()


@attack(1, "report --output is a link")
def report_to_a_link(stage: Stage) -> list[str]:
    to_file(stage.work / "page.html", stage)
    stage.run("report", stage.copy("run"), "--output", stage.work / "page.html")
    return stage.harms()


@attack(1, "predict --output is a link", suffix="csv", plant=to_file)
@attack(1, "predict --output is a hard link", suffix="csv", plant=second_name)
@attack(1, "predict --output is a dangling link", suffix="parquet", plant=dangling)
@attack(1, "predict --output is a chain of links", suffix="nc", plant=chain)
def predict(stage: Stage, suffix: str, plant: Plant) -> list[str]:
    output = stage.work / f"forecasts.{suffix}"
    plant(output, stage)
    model = stage.seeds / "run" / "model"
    stage.run("predict", "--model", model, "--input", stage.table, "--output", output)
    return stage.harms()


@attack(1, "series.parquet that is replaced is a link", name="series.parquet", plant=to_file)
@attack(1, "series.json that is replaced is a hard link", name="series.json", plant=second_name)
@attack(1, "the folder that is written to holds a pipe", name="series.parquet", plant=pipe)
def prepare(stage: Stage, name: str, plant: Plant) -> list[str]:
    _plant(stage, stage.work / "output", name, plant)
    output = stage.work / "output"
    stage.run("prepare_data", stage.table, "--output", output, "--overwrite")
    return stage.harms()


@attack(1, "audit.html is a link", name="audit.html", plant=to_file)
@attack(1, "audit.json is a hard link", name="audit.json", plant=second_name)
def audit(stage: Stage, name: str, plant: Plant) -> list[str]:
    _plant(stage, stage.work / "output", name, plant)
    stage.run("prepare_data", "--audit", stage.table, "--output", stage.work / "output")
    return stage.harms()


@attack(1, "a forgotten place beside the run has a link as its lock")
def swept(stage: Stage) -> list[str]:
    """What sweeps places of uploads opens their lock."""
    place = stage.work / ".timerxl-hub-abcd"
    place.mkdir()
    to_file(place / "lock", stage)
    (place / "run").symlink_to(stage.outside / "archive")
    output = stage.work / "package"
    stage.run("publish", "--run", stage.copy("run"), *PUBLISH, output)
    return stage.harms()


@attack(1, "honest: a run's folder is reached through a link of the user's own")
def own_link(stage: Stage) -> list[str]:
    (stage.work / "disk").mkdir()
    (stage.work / "output").symlink_to(stage.work / "disk")
    ended = stage.run("train", *train(stage), cpu_seconds=25)
    is_done = ended.code == 0 and (stage.work / "disk" / "run" / "results.json").is_file()
    return stage.harms() + ([] if is_done else [f"refused: {ended.stderr[-200:]}"])


# --- row 3: a stranger's model and checkpoint


def canary_in(*folders: Path) -> list[str]:
    """Files that hold what lies outside, or a stranger's code or weights."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            if CANARY.encode() in content:
                found.append(f"{path.name} of {folder.name} holds the canary")
            if path.suffix == ".py" and MARKER.encode() in content:
                found.append(f"{path.name} of {folder.name} is a stranger's code")
    return found


@attack(3, "x_timerxl.py of the model is a link", name="model/x_timerxl.py", plant=to_file)
@attack(3, "a code file of the model is a link", name="model/attention_timerxl.py", plant=to_file)
@attack(3, "a code file is a hard link", name="model/attention_timerxl.py", plant=second_name)
@attack(3, "the page is a link", name="report/index.html", plant=to_file)
@attack(3, "metrics.jsonl is a link", name="metrics.jsonl", plant=to_file)
@attack(3, "the page's folder is a link", name="report", plant=to_folder)
def packaged(stage: Stage, name: str, plant: Plant) -> list[str]:
    run, output = stage.copy("run"), stage.work / "package"
    (stage.outside / "archive" / "index.html").write_text(f"<html>{CANARY}</html>")
    stage._before = {}
    _plant(stage, run, name, plant)
    stage.run("publish", "--run", run, *PUBLISH, output)
    return [h for h in stage.harms() if "outside" not in h] + canary_in(output)


@attack(3, "config.json of the model is a link", name="config.json")
@attack(3, "preprocessing.json of the model is a link", name="preprocessing.json")
@attack(3, "the weights are a link", name="model.safetensors")
def moved_out(stage: Stage, name: str) -> list[str]:
    """Another user's file, that fits, is taken for the stranger's own."""
    run, output = stage.copy("run"), stage.work / "package"
    theirs = stage.folder / "home" / name
    shutil.move(run / "model" / name, theirs)
    (run / "model" / name).symlink_to(theirs)
    stage.run("publish", "--run", run, *PUBLISH, output)
    return stage.harms() + (["a link's target was packaged"] if (output / name).exists() else [])


@attack(3, "a stranger's code in modeling_timerxl.py", name="modeling_timerxl.py")
@attack(3, "a file of code too many", name="x_timerxl.py")
@attack(3, "code in a module that hides a library", name="torch.py")
def their_code(stage: Stage, name: str) -> list[str]:
    run, output = stage.copy("run"), stage.work / "package"
    path = run / "model" / name
    path.write_text((path.read_text() if path.exists() else "") + CODE)
    stage.run("publish", "--run", run, *PUBLISH, output)
    model = run / "model"
    stage.run("predict", "--model", model, "--input", stage.table)
    stage.run("convert", "--reverse", "--checkpoint", model, "--output", stage.work / "x.pth")
    return stage.harms() + canary_in(output)


@attack(3, "auto_map names a stranger's repository", value="evil/repo--modeling_evil.Evil")
@attack(3, "auto_map names a file of the folder", value="x_timerxl.Evil")
def auto_map(stage: Stage, value: str) -> list[str]:
    run, output = stage.copy("run"), stage.work / "package"
    path = run / "model" / "config.json"
    settings = json.loads(path.read_text())
    settings["auto_map"] = dict.fromkeys(settings["auto_map"], value)
    path.write_text(json.dumps(settings))
    (run / "model" / "x_timerxl.py").write_text(CODE)
    stage.run("predict", "--model", run / "model", "--input", stage.table)
    stage.run("publish", "--run", run, *PUBLISH, output)
    packaged = (output / "config.json").read_text() if output.exists() else ""
    return (
        stage.harms()
        + canary_in(output)
        + (["auto_map leads to a stranger's code"] if value in packaged else [])
    )


def _checkpoint(stage: Stage) -> Path:
    """Of a stranger's run, to be resumed from."""
    (found,) = (stage.copy("cut_off", "theirs") / "checkpoints").iterdir()
    return Path(found)


def _resume(stage: Stage, checkpoint: Path, *more: str) -> Any:
    """Train on from it; the exit code, and results.json where there is one."""
    given = (f"train.resume={checkpoint}", "train.resume_force=true", *more)
    ended = stage.run("train", *train(stage, *given, steps=4), cpu_seconds=25)
    results = stage.work / "output" / "run" / "results.json"
    return ended, json.loads(results.read_text()) if results.exists() else {}


@attack(3, "a file too many of a checkpoint is a link", name="x_timerxl.py", plant=to_file)
@attack(3, "a code file of a checkpoint is a link", name="attention_timerxl.py", plant=to_file)
@attack(3, "a hard link in a checkpoint", name="x_timerxl.py", plant=second_name)
@attack(3, "a link to a folder in a checkpoint", name="model", plant=to_folder)
def checkpoint_links(stage: Stage, name: str, plant: Plant) -> list[str]:
    checkpoint = _checkpoint(stage)
    _plant(stage, checkpoint, name, plant)
    sign(checkpoint)
    ended, _ = _resume(stage, checkpoint)
    run, output = stage.work / "output" / "run", stage.work / "package"
    if ended.code == 0:
        stage.run("publish", "--run", run, *PUBLISH, output)
    return stage.harms() + canary_in(run, output)


@attack(3, "metrics.jsonl beside a checkpoint is a link", name="metrics.jsonl", plant=to_file)
@attack(3, "a file of the model beside it is a link", name="model/x_timerxl.py", plant=to_file)
@attack(3, "a folder in the model beside it is a link", name="model/more", plant=to_folder)
@attack(3, "the model beside a checkpoint is a link", name="model", plant=to_folder)
def beside_checkpoint(stage: Stage, name: str, plant: Plant) -> list[str]:
    """The best model and the curves of a stranger's run come along with its checkpoint."""
    checkpoint = _checkpoint(stage)

    def change(state: dict[str, Any]) -> None:
        state["progress"] |= {"best_step": 2, "best_score": 1.0, "looked_step": 2}
        state["metrics_bytes"] = stage.letter.stat().st_size

    spoiled_state(checkpoint, change)
    saved = json.loads((stage.work / "theirs/model/preprocessing.json").read_text())
    stage.write("theirs/model/preprocessing.json", json.dumps(saved | {"best_step": 2}))
    _plant(stage, stage.work / "theirs", name, plant)
    _resume(stage, checkpoint)
    return stage.harms() + canary_in(stage.work / "output")


@attack(3, "the optimizer of a checkpoint is a link", name="optimizer-00000-of-00001.safetensors")
@attack(3, "the weights of a checkpoint are a link", name="model.safetensors")
@attack(3, "the state of a checkpoint is a link", name=STATE)
def checkpoint_moved_out(stage: Stage, name: str) -> list[str]:
    checkpoint = _checkpoint(stage)
    theirs = stage.folder / "home" / name
    shutil.move(checkpoint / name, theirs)
    (checkpoint / name).symlink_to(theirs)
    ended, _ = _resume(stage, checkpoint)
    return stage.harms() + (["a link's target was loaded"] if ended.code == 0 else [])


@attack(3, "model.pretrained with a link in its folder")
def pretrained_link(stage: Stage) -> list[str]:
    model = stage.copy("run") / "model"
    theirs = stage.folder / "home" / "model.safetensors"
    shutil.move(model / "model.safetensors", theirs)
    (model / "model.safetensors").symlink_to(theirs)
    ended = stage.run("train", *train(stage, f"model.pretrained={model}"), cpu_seconds=25)
    return stage.harms() + (["a link's target was loaded"] if ended.code == 0 else [])


def spoiled_state(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change trainer_state.json, with a manifest that fits; 1e400 stays as it is written."""
    path = checkpoint / STATE
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state).replace('"1e400"', "1e400"))
    sign(checkpoint)


@attack(3, "best_score 1e299", value=1e299)
@attack(3, "best_score 1.5, which no ROC-AUC can be", value=1.5)
@attack(3, "best_score 1e400", value="1e400")
@attack(3, "best_score NaN", value=float("nan"))
@attack(3, "best_score 10**25", value=10**25)
@attack(3, "best_score 3 of a loss, which is below 0 here", value=3.0, metric="loss")
@attack(3, "best_score 1e299 of the Brier skill score", value=1e299, metric="bss")
def best_for_ever(stage: Stage, value: Any, metric: str = "roc_auc") -> list[str]:
    """In a whole run, model and all, that is gone on with in its place."""
    run = stage.copy("cut_off", "output/run")
    (checkpoint,) = (run / "checkpoints").iterdir()

    def change(state: dict[str, Any]) -> None:
        state["progress"] |= {"best_score": value, "best_step": 2, "looked_step": 2}
        state["config"]["train"]["metric_for_best_model"] = metric

    spoiled_state(checkpoint, change)
    saved = json.loads((run / "model" / "preprocessing.json").read_text())
    stage.write("output/run/model/preprocessing.json", json.dumps(saved | {"best_step": 2}))
    more = ("train.resume=auto", f"train.metric_for_best_model={metric}")
    ended = stage.run("train", *train(stage, *more, "train.resume_force=true", steps=4))
    results = run / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    kept = ended.code == 0 and found.get("best_step") == 2
    return stage.harms() + (["their weights stay the best for ever"] if kept else [])


def absurd_numbers(folder: Path) -> list[str]:
    """Of what a run wrote: no counter and no score of ours is beyond 1e12, or below -1e12."""
    found = []
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [None]:
            stack: list[Any] = [json.loads(line or path.read_text())]
            while stack:
                item = stack.pop()
                if isinstance(item, dict | list):
                    stack += item.values() if isinstance(item, dict) else item
                elif isinstance(item, int | float) and not abs(item) < 1e12:
                    found.append(f"{path.name} goes on with {item:.3g}")
    return found[:1]


_STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a step below 0": lambda s: s["progress"].update(step=-5),
    "9e15 steps": lambda s: s["progress"].update(step=9 * 10**15),
    "best_step 9e15": lambda s: s["progress"].update(best_step=9 * 10**15, best_score=0.4),
    "-9e15 evaluations without gain": lambda s: s["progress"].update(
        evaluations_without_gain=-9 * 10**15
    ),
    "1e290 seconds": lambda s: s["progress"].update(train_seconds=1e290),
    "-9e15 samples": lambda s: s["progress"].update(samples_seen=-9 * 10**15),
    "a loss of 1e290": lambda s: s["progress"].update(losses=[1e290, -1e290]),
    "a million losses": lambda s: s["progress"].update(losses=[0.7] * 1_000_000),
    "a learning rate of 1e30": lambda s: s["schedule"].update(_last_lr=[1e30, 1e30]),
    "last_epoch 9e15": lambda s: s["schedule"].update(
        last_epoch=9 * 10**15, _step_count=9 * 10**15
    ),
    "last_epoch -7": lambda s: s["schedule"].update(last_epoch=-7),
    "a scaler of 1e308": lambda s: s.update(scaler={"scale": 1e308, "_growth_tracker": 9 * 10**15}),
    "9e15 samples": lambda s: s["progress"].update(samples_seen=9 * 10**15),
    "9e15 evaluations without gain": lambda s: s["progress"].update(
        evaluations_without_gain=9 * 10**15
    ),
    "9e15 resumes": lambda s: s["progress"].update(resumes=9 * 10**15),
    "looked_step 9e15": lambda s: s["progress"].update(looked_step=9 * 10**15),
    "-9e15 bytes of metrics": lambda s: s.update(metrics_bytes=-9 * 10**15),
    "a global batch of 9e15": lambda s: s.update(global_batch_size=9 * 10**15),
    "9e15 processes": lambda s: s.update(world_size=9 * 10**15),
}


def state_of(stage: Stage, change: Callable[[dict[str, Any]], object]) -> list[str]:
    checkpoint = _checkpoint(stage)
    spoiled_state(checkpoint, change)
    _resume(stage, checkpoint)
    output = stage.work / "output" / "run"
    return stage.harms() + (absurd_numbers(output) if output.is_dir() else [])


for _name, _change in _STATES.items():
    attack(3, f"a state of {_name}", change=_change)(state_of)


@attack(3, "an optimizer state of 1e38 in a checkpoint", value=1e38)
@attack(3, "an optimizer state of NaN in a checkpoint", value=np.nan)
def optimizer_numbers(stage: Stage, value: float) -> list[str]:
    """Refused, or stopped by the monitor of NaN: never a model of NaN."""
    checkpoint = _checkpoint(stage)
    (path,) = checkpoint.glob("optimizer*")
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
    state = load_file(path)
    wild = {k: np.full_like(v, value) if v.dtype == np.float32 else v for k, v in state.items()}
    save_file(wild, path, metadata)
    sign(checkpoint)
    ended, _ = _resume(stage, checkpoint)
    model = stage.work / "output" / "run" / "model" / "model.safetensors"
    weights = load_file(model).values() if model.exists() else []
    wrong = ended.code == 0 and not all(np.isfinite(tensor).all() for tensor in weights)
    return stage.harms() + (["a model of NaN was saved as a good one"] if wrong else [])


@attack(3, "honest: a checkpoint of a whole run is resumed from")
def honest_resume(stage: Stage) -> list[str]:
    ended, results = _resume(stage, _checkpoint(stage))
    return stage.harms() + ([] if results.get("steps") == 4 else [ended.stderr[-300:]])


@attack(3, "honest: a run is packaged")
def honest_package(stage: Stage) -> list[str]:
    output = stage.work / "package"
    ended = stage.run("publish", "--run", stage.copy("run"), *PUBLISH, output)
    return stage.harms() + ([] if (output / "README.md").exists() else [ended.stderr[-300:]])
