"""Damaged inputs by kind, each with the command that reads it.

A case is one command line with the files it reads in a folder of its own; the same seed, kind and
number give the same case, whatever else is run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from random import Random

import yaml

from benchmarks import fuzz_damage as damage
from benchmarks import fuzz_hostile, fuzz_runs
from benchmarks import fuzz_tables as tables
from benchmarks.fuzz_case import INPUTS, MARKER, OUTPUT, Case, damage_file, put
from benchmarks.fuzz_runs import QUICK
from benchmarks.fuzz_seeds import TRAIN, Seeds, train_arguments
from timerxl.config import RunConfig


def recipe(random: Random, seeds: Seeds, folder: Path) -> Case:
    data = seeds.path("table.csv")
    tree = yaml.safe_load(seeds.path("run/config.yaml").read_text())
    del tree["recipe"], tree["output_dir"]
    marker = folder / MARKER
    path = folder / INPUTS / "recipe.yaml"
    text = yaml.safe_dump(tree, sort_keys=False)
    put(random, path, damage.damage_yaml(random, text, yaml.safe_dump, marker))
    return _of_recipe(random, folder, str(path), data, [], "a damaged recipe")


def _of_recipe(
    random: Random, folder: Path, name: str, data: Path, overrides: list[str], what: str
) -> Case:
    """train, plan or the audit with this recipe and these overrides."""
    output = folder / OUTPUT
    command = random.choice("train plan audit".split())
    if command == "train":
        last = ["train.max_steps=2", f"output_dir={output}"] if not overrides else []
        return Case("train", ["--config", name, *overrides, *last], output, what)
    if command == "plan":
        return Case("plan", ["--config", name, "--json", *overrides], None, what)
    arguments = ["--audit", str(data), "--config", name, "--output", str(output), *overrides]
    return Case("prepare_data", arguments, output, what)


def _leaves(cls: type, prefix: str = "") -> list[str]:
    found = []
    for item in fields(cls):
        inner = item.default_factory() if callable(item.default_factory) else None
        deeper = is_dataclass(inner) and not isinstance(inner, type)
        found += _leaves(type(inner), f"{prefix}{item.name}.") if deeper else [prefix + item.name]
    return found


# Rewritten for the case, or nothing that a hostile value should decide.
_FIXED = ("output_dir", "data.path", "train.mirror", "train.max_steps", "hub.push", "train.resume")
# KEY is a key of the configuration, PART its first part.
_ODD = """
..=1 a..b=1 .KEY=1 KEY.=1 KEY.x=1 =5 KEY KEY= KEY== ++KEY=1 ~KEY=1 KEY=${KEY} KEY=${oc.env:HOME}
KEY=${oc.env:NO_SUCH} KEY=${ KEY=${a. KEY=${oc.decode:'[1]'} KEY=${oc.create:{}} KEY=${x:1} KEY=[
KEY={ KEY='\" KEY=' KEY=[1,[2,[3]]] KEY={a:{b:1}} KEY=!!binary KEY=&a KEY=*a PART=5 PART=[1]
PART={} PART=null expectations=[{epoch:x}] expectations.0.loss=[1] expectations=[1] KEY[0]=1
[KEY]=1 KEY=@x KEY=%x KEY=`x` KEY=0x10 KEY=1_0 KEY=1e400 KEY=.nan KEY=-.inf KEY=1:30 KEY=2020-01-01
KEY=~ KEY=??? output_dir=/proc/x/y output_dir=/dev/null output_dir= data.path=/dev/zero data.path=.
data.path=\x1b.csv train.resume=/dev/null train.resume=. train.resume= model.pretrained=.
model.pretrained=/dev/zero hub.repo_id=../.. model=${data} data.features=${data.features}
""".split()


def override(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Overrides with odd dots, quotes and interpolations, hostile values, values of other types."""
    keys = [key for key in _leaves(RunConfig) if key not in _FIXED]
    data, key = seeds.path("table.csv"), random.choice(keys)
    tag = f"!!python/object/apply:os.system [\"touch '{folder / MARKER}'\"]"
    odd = [text.replace("KEY", key).replace("PART", key.partition(".")[0]) for text in _ODD]
    odd += [f"{key}={tag}", f"{key}={'[' * 5000}", f"{key}={'{a: ' * 3000}", f"{key}= a: b"]
    odd += [f"output_dir={'x' * 5000}", f"data.path={'x' * 5000}.csv", f"{'a.' * 2000}b=1"]
    given = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if random.random() < 0.45:
            given.append(random.choice(odd))
        else:
            value = random.choice(damage.HOSTILE)
            text = value if isinstance(value, str) else json.dumps(value)
            text = text.encode("utf-8", "replace").decode().replace("\x00", "")
            given.append(f"{random.choice(keys)}={text}")
    shown = ", ".join(text[:60] for text in given)
    fixed = [*TRAIN.format(data=data).split(), f"output_dir={folder / OUTPUT}"]
    overrides = [*fixed, *given, "train.max_steps=2"]
    case = _of_recipe(random, folder, "quickstart", data, overrides, shown)
    if case.command == "prepare_data":
        kept = [text for text in case.arguments if not text.startswith("data.path=")]
        case = replace(case, arguments=kept)
    return case


def table(random: Random, seeds: Seeds, folder: Path) -> Case:
    """A damaged CSV or Parquet table for whatever reads one."""
    suffix = random.choice(("csv", "parquet"))
    path = folder / INPUTS / f"table.{suffix}"
    data = seeds.path(path.name).read_bytes()
    if suffix == "csv":
        put(random, path, tables.damage_csv(random, data.decode()))
    else:
        put(random, path, tables.damage_parquet(random, data, folder / MARKER))
    output, model = folder / OUTPUT, str(seeds.path("run/model"))
    kept = str(output / random.choice(("f.csv", "f.parquet", "f.nc")))
    command, arguments = random.choice(
        (
            ("train", train_arguments(path, output, "train.max_steps=2")),
            ("plan", ["--config", "quickstart", "--json", *TRAIN.format(data=path).split()]),
            ("prepare_data", [str(path), "--output", str(output)]),
            ("prepare_data", ["--audit", str(path), "--output", str(output)]),
            ("predict", ["--model", model, "--input", str(path), "--output", kept]),
            ("evaluate", ["--model", model, "--data", str(path), *QUICK]),
        )
    )
    if command == "predict":
        output.mkdir()
    return Case(command, arguments, output, f"a damaged {suffix} table")


def openltm(random: Random, seeds: Seeds, folder: Path) -> Case:
    """A damaged or hostile OpenLTM checkpoint."""
    suffix, output = random.choice(("pth", "safetensors")), folder / OUTPUT
    path = folder / INPUTS / f"openltm.{suffix}"
    data = seeds.path(path.name).read_bytes()
    if random.random() < 0.35:
        archive = seeds.path("openltm.pth").read_bytes()
        damaged = damage.hostile_pickle(random, folder / MARKER, archive)
    elif suffix == "pth":
        damaged = damage.damage_bytes(random, data)
    else:
        damaged = damage.damage_safetensors(random, data)
    put(random, path, damaged)
    if random.random() < 0.7:
        arguments = ["--checkpoint", str(path), "--output", str(output / "model")]
        return Case("convert", arguments, output, f"a damaged .{suffix}")
    more = ("train.max_steps=2", f"model.pretrained={path}")
    arguments = train_arguments(seeds.path("table.csv"), output, *more)
    return Case("train", arguments, output, f"model.pretrained of a damaged .{suffix}")


def beside(random: Random, seeds: Seeds, folder: Path) -> Case:
    """What lies beside a series: series.json, boxes of regions, the ONI file; and console logs."""
    inputs, output = folder / INPUTS, folder / OUTPUT
    kind = random.choice("prepared regions oni log".split())
    if kind == "prepared":
        for name in ("series.parquet", "series.json"):
            shutil.copyfile(seeds.path(f"prepared/{name}"), inputs / name)
        damage_file(random, inputs / "series.json", folder / MARKER)
        arguments = ["--audit", str(inputs / "series.parquet"), "--output", str(output)]
        case = Case("prepare_data", arguments, output, "a damaged series.json")
        if random.random() < 0.5:
            more = ("data.precipitation_column=tp", "train.max_steps=2")
            arguments = train_arguments(inputs / "series.parquet", output, *more)
            case = Case("train", arguments, output, "a damaged series.json")
        return case
    if kind == "regions":
        text = "regions:\n  selva: {north: -3.0, south: -8.0, west: -76.5, east: -73.0}\n"
        text += "  lima: {latitude: -12.05, longitude: -77.05}\n"
        path = inputs / "regions.yaml"
        put(random, path, damage.damage_yaml(random, text, yaml.safe_dump, folder / MARKER))
        arguments = [str(seeds.path("era5.nc")), "--regions", str(path), "--output", str(output)]
        return Case("prepare_data", arguments, output, "damaged regions")
    if kind == "log":
        put(random, inputs / "log", damage.damage_text(random, LOG))
        return Case("diagnose", [str(inputs / "log"), "--json"], None, "a damaged console log")
    text = "SEAS  YR   TOTAL   ANOM\n" + "".join(
        f" {season} {year}  26.0  {(year + i) % 5 - 2}.1\n"
        for year in (2022, 2023)
        for i, season in enumerate("DJF JFM FMA MAM AMJ MJJ JJA JAS ASO SON OND NDJ".split())
    )
    put(random, inputs / "oni.txt", damage.damage_text(random, text))
    arguments = train_arguments(
        seeds.path("table.csv"), output, f"data.oni_path={inputs / 'oni.txt'}", "train.max_steps=2"
    )
    return Case("train", arguments, output, "a damaged ONI file")


LOG = "".join(
    f"Epoch: {n} cost time: 38.7\nEpoch: {n}, Steps: 251 | Train Loss: 0.1{n} Vali Loss: 0.{n}\n"
    f"Val Accuracy: 69.05% (4160/6025)\n"
    for n in range(1, 5)
)
KINDS: dict[str, Callable[[Random, Seeds, Path], Case]] = {
    "recipe": recipe,
    "override": override,
    "table": table,
    "openltm": openltm,
    "model": fuzz_runs.model,
    "resume": fuzz_runs.resume,
    "run": fuzz_runs.run,
    "beside": beside,
    "link": fuzz_hostile.link,
    "reference": fuzz_hostile.reference,
    "packed": fuzz_hostile.packed,
    "name": fuzz_hostile.name,
    "edited": fuzz_hostile.edited,
}


def make_case(kind: str, number: int, seed: int, seeds: Seeds, folder: Path) -> Case:
    """Write the inputs of a case into ``folder``."""
    (folder / INPUTS).mkdir(parents=True)
    return KINDS[kind](Random(f"{seed}/{kind}/{number}"), seeds, folder)
