"""Damaged model folders, checkpoints and runs, each with the command that reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from benchmarks import fuzz_damage as damage
from benchmarks.fuzz_case import INPUTS, MARKER, OUTPUT, Case, damage_file, put, sign
from benchmarks.fuzz_seeds import Seeds, train_arguments
from timerxl.training.checkpoint.storage import MANIFEST, TRAINER_STATE

# So that an evaluation takes a second.
QUICK = ["--resamples", "0", "--no-fitted-baselines", "--max-windows", "40", "--json"]


def _damage_model(random: Random, folder: Path, marker: Path) -> str:
    """One or two files of a model folder; what was done."""
    code = f"\nimport pathlib\npathlib.Path({MARKER!r}).touch()\n"  # the case runs in its folder
    for path in folder.glob("*.py"):
        path.write_text(path.read_text() + code)
    names = "config.json preprocessing.json preprocessing.json model.safetensors".split()
    chosen = sorted(set(random.sample(names, random.choice((1, 1, 1, 2)))))
    for name in chosen:
        path = folder / name
        if name != "model.safetensors":
            put(random, path, damage.damage_json(random, path.read_text()))
        elif random.random() < 0.75:
            put(random, path, damage.damage_safetensors(random, path.read_bytes()))
        else:
            pickled = damage.hostile_pickle(random, marker, None)
            other = random.choice((path, path, path.with_name("pytorch_model.bin")))
            path.unlink()
            other.write_bytes(pickled)
    return f"a model folder with damaged {', '.join(chosen)}"


def model(random: Random, seeds: Seeds, folder: Path) -> Case:
    """A damaged model folder for whatever loads one."""
    run, output = folder / INPUTS / "run", folder / OUTPUT
    shutil.copytree(seeds.path("run"), run)
    what = _damage_model(random, run / "model", folder / MARKER)
    path, data = str(run / "model"), str(seeds.path("table.csv"))
    pretrained = f"model.pretrained={path}"
    command, arguments = random.choice(
        (
            ("predict", ["--model", path, "--input", data, "--output", str(output / "f.parquet")]),
            ("predict", ["--model", path, "--input", data, "--by-variable"]),
            ("evaluate", ["--model", path, "--data", data, *QUICK]),
            ("evaluate", ["--model", path, *QUICK]),
            ("convert", ["--reverse", "--checkpoint", path, "--output", str(output / "x.pth")]),
            ("publish", ["--run", str(run), "--repo-id", "a/b", "--dry-run", str(output / "p")]),
            ("train", train_arguments(Path(data), output, "train.max_steps=2", pretrained)),
        )
    )
    if command != "train":
        output.mkdir()
    return Case(command, arguments, output, what)


def resume(random: Random, seeds: Seeds, folder: Path) -> Case:
    """A run that was cut off, with a checkpoint whose manifest mostly fits its damaged files."""
    goes_on = random.random() < 0.6
    run = folder / (OUTPUT if goes_on else INPUTS) / "run"
    shutil.copytree(seeds.path("cut_off"), run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    names = [TRAINER_STATE] * 5 + [
        *(path.name for path in checkpoint.glob("*.safetensors")),
        *(path.name for path in checkpoint.glob("optimizer*")),
        *(path.name for path in checkpoint.glob("rng*")),
        MANIFEST,
        *("../../metrics.jsonl", "../../config.yaml", "../../status.json", "../../run.lock"),
        "../../model/model.safetensors",
    ]
    chosen = random.sample(names, random.choice((1, 1, 2)))
    signed = random.random() < 0.85
    for name in sorted(set(chosen) - {MANIFEST}):
        damage_file(random, checkpoint / name, folder / MARKER)
    if signed:
        sign(checkpoint)
    if MANIFEST in chosen:
        put(
            random,
            checkpoint / MANIFEST,
            damage.damage_json(random, (checkpoint / MANIFEST).read_text()),
        )
    output = folder / OUTPUT / "run"
    how = "auto" if goes_on else str(checkpoint)
    more = [f"train.resume={how}"]
    if random.random() < 0.3:
        more.append("train.resume_force=true")
    arguments = train_arguments(seeds.path("table.csv"), output, *more)
    what = f"{'a signed' if signed else 'an unsigned'} checkpoint with damaged {sorted(chosen)}"
    return Case("train", arguments, folder / OUTPUT, what)


def run(random: Random, seeds: Seeds, folder: Path) -> Case:
    """A run folder with damaged files for report, diagnose and publish."""
    path, output = folder / INPUTS / "run", folder / OUTPUT
    shutil.copytree(seeds.path("run"), path)
    names = (
        "config.yaml status.json verdict.json metrics.jsonl results.json forecasts.parquet "
        "audit.json environment.json report/index.html"
    ).split()
    chosen = random.sample(names, random.choice((1, 1, 2, 4)))
    for name in chosen:
        damage_file(random, path / name, folder / MARKER)
    command, arguments = random.choice(
        (
            ("report", [str(path), "--output", str(output / "page.html")]),
            ("report", [str(seeds.path("run")), str(path), "--output", str(output / "two.html")]),
            ("diagnose", [str(path), "--json"]),
            ("publish", ["--run", str(path), "--repo-id", "a/b", "--dry-run", str(output / "p")]),
        )
    )
    return Case(command, arguments, output, f"a run with damaged {', '.join(chosen)}")
