"""Inputs that are whole and hostile: links, references, packed bombs, names, edited states.

Beside each lies a folder of canaries, which no command may touch; the environment holds secrets.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.attack_stage import SECRETS
from benchmarks.fuzz_case import INPUTS, OUTPUT, Case, sign
from benchmarks.fuzz_damage import INFINITY, NAN, _places
from benchmarks.fuzz_runs import QUICK
from benchmarks.fuzz_seeds import TRAIN, Seeds, train_arguments
from timerxl.training.checkpoint.storage import MANIFEST, TRAINER_STATE

OUTSIDE = "outside"
HOSTILE_NAMES = (
    *("\x1b]0;owned\x07", "\x1b[2J\x1b[H", "\x9b31m", "\u202egnp", "\u2066x\u2028y", "x" * 20_000),
    *(
        "a\nerror: FORGED",
        "a\rerror: FORGED",
        "b\x08\x7f",
        "<script>alert(1)</script>",
        "=1+1",
        "é",
    ),
    *("../../outside/letter", "%s%n", "{0}", "${oc.env:DATABASE}", "\t", "a|b", "`id`", "\ufeffx"),
)
_RUN_NAMES = (
    "run.lock metrics.jsonl status.json config.yaml results.json verdict.json forecasts.parquet "
    "audit.json environment.json report report/index.html model model/model.safetensors "
    "model/x_timerxl.py model/attention_timerxl.py model/config.json model/preprocessing.json "
    "checkpoints checkpoints/step_00000001 checkpoints/.step_00000002.old .mirror tensorboard "
    "checkpoints/step_00000002/x_timerxl.py checkpoints/step_00000002/trainer_state.json "
    "checkpoints/step_00000002/model.safetensors checkpoints/step_00000002/manifest.json"
).split()
_MIRROR_NAMES = (
    "README.txt slot-0 slot-1 slot-0/manifest.json slot-0/metrics.jsonl slot-0/model slot-0/report "
    "slot-0/checkpoint slot-0/config.yaml slot-0/model/config.json"
).split()


def _canaries(folder: Path) -> Path:
    outside = folder / OUTSIDE
    for name in ("letter.txt", "archive/one.txt"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("a canary\n")
    (outside / "empty").mkdir()
    return outside


def _plant(random: Random, path: Path, outside: Path) -> str:
    """A link of some sort, or a pipe, in the place of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.is_file() else None
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kinds = "file file folder folder dangling hard relative self chain pipe moved".split()
    kind = random.choice(kinds)
    if kind == "hard":
        os.link(outside / "letter.txt", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "moved" and content is not None:  # what is asked for, but elsewhere
        (outside / path.name).write_bytes(content)
        path.symlink_to(outside / path.name)
    elif kind == "chain":
        between = outside.parent / INPUTS / f"between-{path.name}"
        between.symlink_to(outside / "letter.txt")
        path.symlink_to(between)
    else:
        targets = {
            "file": outside / "letter.txt",
            "folder": outside / random.choice(("archive", "empty")),
            "dangling": outside / "made",
            "self": Path(path.name),
            "relative": Path(os.path.relpath(outside / "letter.txt", path.parent)),
        }
        path.symlink_to(targets.get(kind, outside / "letter.txt"))
    return f"{path.name} ({kind})"


def link(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Links, hard links and pipes at the names of a run, a model, a checkpoint, a mirror."""
    outside, output = _canaries(folder), folder / OUTPUT
    kind = random.choice("new go_on go_on from pretrained mirror read read predict prepare".split())
    table = seeds.path("table.csv")
    if kind in ("new", "mirror"):
        names = _MIRROR_NAMES if kind == "mirror" else _RUN_NAMES
        place = output / ("mirror" if kind == "mirror" else "run")
        what = [_plant(random, place / name, outside) for name in random.sample(names, 1)]
        more = [f"train.mirror={place}"] if kind == "mirror" else []
        arguments = train_arguments(table, output / "run", "train.max_steps=2", *more)
        return Case("train", arguments, output, f"a new run with {what}")
    if kind == "predict":
        target = output / random.choice(("f.csv", "f.parquet", "f.nc"))
        what = [_plant(random, target, outside)]
        arguments = ["--model", str(seeds.path("run/model")), "--input", str(table)]
        return Case("predict", [*arguments, "--output", str(target)], output, f"forecasts {what}")
    if kind == "prepare":
        name = random.choice(("series.parquet", "series.json"))
        what = [_plant(random, output / name, outside)]
        arguments = [str(table), "--output", str(output), "--overwrite"]
        return Case("prepare_data", arguments, output, f"a series with {what}")
    run = (output if kind == "go_on" else folder / INPUTS) / "run"
    shutil.copytree(seeds.path("cut_off" if kind in ("go_on", "from") else "run"), run)
    names = [name for name in _RUN_NAMES if not name.startswith("checkpoints/") or kind != "read"]
    if kind == "pretrained":
        names = [name for name in _RUN_NAMES if name.startswith("model/")]
    chosen = random.sample(names, random.choice((1, 1, 2)))
    chosen = [one for one in chosen if not any(one.startswith(f"{above}/") for above in chosen)]
    what = [_plant(random, run / name, outside) for name in sorted(chosen)]
    checkpoint = run / "checkpoints" / "step_00000002"
    if kind == "pretrained":
        more = ["train.max_steps=2", f"model.pretrained={run / 'model'}"]
    else:
        more = [f"train.resume={'auto' if kind == 'go_on' else checkpoint}"]
    command, arguments = random.choice(
        (
            ("report", [str(run), "--output", str(output / "page.html")]),
            ("diagnose", [str(run), "--json"]),
            ("publish", ["--run", str(run), "--repo-id", "a/b", "--dry-run", str(output / "p")]),
            ("predict", ["--model", str(run / "model"), "--input", str(table)]),
            ("evaluate", ["--model", str(run / "model"), "--data", str(table), *QUICK]),
        )
    )
    if kind != "read":
        command, arguments = "train", train_arguments(table, output / "run", *more)
    return Case(command, arguments, output, f"{kind}: a run with {what}")


# Texts of a configuration that a chain of references can pass.
_TEXTS = (
    "recipe hub.repo_id hub.data_licence data.timestamp_column data.region_column model.pretrained "
    "data.label_column data.oni_path data.precipitation_column data.split model.pooling loss.name"
).split()


def _resolver(random: Random, inner: str) -> str:
    """One more resolver or reference around ``inner``."""
    return random.choice(
        (
            f"${{oc.env:{inner}}}", f"${{oc.env:NO,{inner}}}", f"${{oc.decode:{inner}}}",
            f"${{oc.select:no,{inner}}}", f"${{oc.create:{{a: {inner}}}}}", f"${{{inner}}}",
            f"${{oc.dict.keys:{inner}}}", f"${{oc.dict.values:{inner}}}", f"${{ {inner} }}",
            f"\\${{{inner}}}", f"${{..{inner}}}", f"'{inner}'", f"x{inner}x", f"${{oc.x:{inner}}}",
        )
    )  # fmt: skip


def reference(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Resolvers, references that multiply or turn in circles, aliases of YAML, in a recipe or in
    overrides."""
    given: dict[str, str] = {}
    kind = random.choice("resolver resolver chain chain repeat cycle alias nest".split())
    keys = random.sample(_TEXTS, len(_TEXTS))
    if kind == "resolver":
        text = random.choice(("${oc.env:DATABASE}", "${oc.env:AWS_SECRET_ACCESS_KEY,}", "DATABASE"))
        for _ in range(random.choice((0, 1, 2, 3, 300))):
            text = _resolver(random, text)[:20_000]
        given[keys[0]] = text
    elif kind == "chain":
        text, each = "x" * random.choice((1, 10, 1000)), random.choice((2, 3, 10, 100))
        for key in keys[: random.choice((3, 6, 12))]:
            given[key] = text
            text = f"${{{key}}}" * each
    elif kind == "repeat":
        given = {keys[0]: "x" * random.choice((1, 50_000))}
        given[keys[1]] = f"${{{keys[0]}}}" * random.choice((10, 1000, 10_000))
    elif kind == "cycle":
        ring = keys[: random.choice((1, 2, 5))]
        given = {key: f"${{{after}}}" for key, after in zip(ring, ring[1:] + ring[:1], strict=True)}
    elif kind == "nest":
        depth = random.choice((50, 300, 3000))
        given[keys[0]] = "${oc.decode:" * depth + "1" + "}" * random.choice((depth, depth - 1, 0))
    table, output = seeds.path("table.csv"), folder / OUTPUT
    overrides = TRAIN.format(data=table).split()
    recipe = "quickstart"
    if kind == "alias" or random.random() < 0.5:
        path = folder / INPUTS / "recipe.yaml"
        tree: dict[str, Any] = {}
        for key, text in given.items():
            part, _, leaf = key.rpartition(".")
            (tree.setdefault(part, {}) if part else tree)[leaf] = text
        text = json.dumps(tree)
        if kind == "alias":
            each, levels = random.choice((2, 9, 50)), random.choice((3, 12, 40))
            lines = ["expectations:", f"- &a0 [{', '.join(['x'] * each)}]"]
            lines += [f"- &a{i} [{', '.join([f'*a{i - 1}'] * each)}]" for i in range(1, levels)]
            text = "\n".join(lines)
        path.write_text(text)
        recipe = str(path)
    else:
        overrides += [f"{key}={text}" for key, text in given.items()]
    overrides.append("train.max_steps=2")
    if random.random() < 0.5:
        arguments = ["--config", recipe, *overrides, f"output_dir={output / 'run'}"]
        return Case("train", arguments, output, f"references ({kind})", seconds=12)
    arguments = ["--config", recipe, "--json", *overrides]
    return Case("plan", arguments, None, f"references ({kind})", seconds=12)


def packed(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Small files that unpack to half a gigabyte, for a process that may take 400 MB more."""
    size, output = 2**29, folder / OUTPUT
    kind = random.choice("gz gz_rows zip grid weights parquet sparse".split())
    free: dict[str, Any] = {"free_bytes": 400 * 2**20}
    table, inputs = seeds.path("table.csv"), folder / INPUTS
    if kind == "sparse":
        run = inputs / "run"
        shutil.copytree(seeds.path("run"), run)
        name = random.choice(
            ("metrics.jsonl", "results.json", "config.yaml", "model/preprocessing.json",
             "model/config.json", "report/index.html", "environment.json", "status.json")
        )  # fmt: skip
        os.truncate(run / name, 20_000_000_000)
        command, arguments = random.choice(
            (
                ("publish", ["--run", str(run), "--repo-id", "a/b", "--dry-run", f"{output}/p"]),
                ("report", [str(run), "--output", str(output / "page.html")]),
                ("predict", ["--model", str(run / "model"), "--input", str(table)]),
            )
        )
        return Case(command, arguments, output, f"a sparse {name} of 20 GB", **free)
    if kind == "weights":
        path = inputs / "openltm.pth"
        with (
            zipfile.ZipFile(seeds.path("openltm.pth")) as old,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
        ):
            for name in old.namelist():
                new.writestr(name, bytes(size // 4) if name.endswith("/0") else old.read(name))
        arguments = ["--checkpoint", str(path), "--output", str(output / "model")]
        return Case("convert", arguments, output, "packed weights", **free)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = inputs / "table.parquet"
        zeros = pa.array(np.zeros(1_000_000, "datetime64[ns]"))
        block = pa.table({"timestamp": zeros})
        with pq.ParquetWriter(path, block.schema, compression="zstd") as writer:
            for _ in range(60):
                writer.write_table(block)
    elif kind == "gz":
        path = inputs / "table.csv.gz"
        path.write_bytes(gzip.compress(bytes(size // 64), 1) * 64)
    elif kind == "gz_rows":
        path = inputs / "table.csv.gz"
        rows = gzip.compress(b"2023-01-01T00:00:00,a,0\n" * 500_000, 1)
        head = gzip.compress(b"timestamp,region,precipitation\n")
        path.write_bytes(head + rows * 40)
    else:
        path = inputs / ("table.zip" if kind == "zip" else "era5.nc")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            name = "table.csv" if kind == "zip" else "a.nc"
            archive.writestr(name, (b"" if kind == "zip" else b"CDF\x01") + bytes(size))
    if kind != "grid" and random.random() < 0.5:
        arguments = ["--model", str(seeds.path("run/model")), "--input", str(path)]
        return Case("predict", arguments, None, f"a packed {path.name} ({kind})", **free)
    arguments = [str(path), "--output", str(output)]
    return Case("prepare_data", arguments, output, f"a packed {path.name} ({kind})", **free)


def name(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Hostile names of regions, columns, labels and files."""
    inputs, output, text = folder / INPUTS, folder / OUTPUT, random.choice(HOSTILE_NAMES)
    kind = random.choice("table table model model run file log".split())
    table, run = seeds.path("table.csv"), inputs / "run"
    if kind == "table":
        rows = list(csv.reader(io.StringIO(table.read_text())))
        if random.random() < 0.5:
            rows[0][random.choice((2, 3))] = text
        else:
            known = random.choice(rows[1:])[1]
            rows = [[*row[:1], text if row[1] == known else row[1], *row[2:]] for row in rows]
        path = inputs / "table.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        command, arguments = random.choice(
            (
                ("train", train_arguments(path, output, "train.max_steps=2")),
                ("prepare_data", ["--audit", str(path), "--output", str(output)]),
                ("prepare_data", [str(path), "--output", str(output)]),
                ("predict", ["--model", str(seeds.path("run/model")), "--input", str(path)]),
            )
        )
        return Case(command, arguments, output, f"a table with {text[:40]!r}")
    if kind == "log":
        line = f"Epoch: 1 cost time: 3{text}\nEpoch: 1, Steps: 9 | Train Loss: 0.5 {text}: 0.7\n"
        (inputs / "log").write_text(line * 3)
        return Case("diagnose", [str(inputs / "log")], None, f"a log with {text[:40]!r}")
    if kind == "file":
        called = text.replace("/", "_").replace("\0", "")[:100]
        shutil.copyfile(table, inputs / f"{called}.csv")
        arguments = train_arguments(inputs / f"{called}.csv", output / called, "train.max_steps=2")
        return Case("train", arguments, output, f"a file called {called[:40]!r}")
    shutil.copytree(seeds.path("run"), run)
    files = ["model/preprocessing.json", "model/preprocessing.json", "model/config.json"]
    if kind == "run":
        files = ["results.json", "verdict.json", "environment.json", "audit.json", "status.json"]
    path = run / random.choice(files)
    content = json.loads(path.read_text())
    places = [(n, k) for n, k in _places(content) if isinstance(n[k], str)]
    for node, key in random.sample(places, min(len(places), random.choice((1, 1, 3, 20)))):
        node[key] = text
    if random.random() < 0.3:
        content[text] = text
    path.write_text(json.dumps(content))
    command, arguments = random.choice(
        (
            ("predict", ["--model", str(run / "model"), "--input", str(table)]),
            ("evaluate", ["--model", str(run / "model"), "--data", str(table), *QUICK[:-1]]),
            ("publish", ["--run", str(run), "--repo-id", "a/b", "--dry-run", str(output / "p")]),
            ("report", [str(run), "--output", str(output / "page.html")]),
        )
    )
    return Case(command, arguments, output, f"{path.name} with {text[:40]!r}")


_NUMBERS = (
    *(0, -1, 1, 2, 10**6, 2**31, 2**53 - 1, 10**15, -(10**15), 1e-300, -1e-300, 1e30, 1e299),
    *(-1e299, NAN, INFINITY, -INFINITY, 0.5, 10**29, True, None),
)


def edited(random: Random, seeds: Seeds, folder: Path) -> Case:
    """Numbers out of all bounds, and secrets, in states and models whose checksums are right."""
    inputs, output, table = folder / INPUTS, folder / OUTPUT, str(seeds.path("table.csv"))
    kind = random.choice("state state preprocessing preprocessing config manifest secret".split())
    goes_on = kind in ("state", "manifest")
    run = (output if goes_on else inputs) / "run"
    shutil.copytree(seeds.path("cut_off" if goes_on else "run"), run)
    checkpoint = run / "checkpoints" / "step_00000002"
    path = {
        "state": checkpoint / TRAINER_STATE,
        "manifest": checkpoint / MANIFEST,
        "config": run / "model" / "config.json",
        "preprocessing": run / "model" / "preprocessing.json",
    }.get(kind, run / random.choice(("results.json", "verdict.json", "environment.json")))
    content, changed = json.loads(path.read_text()), []
    wanted = str if kind == "secret" else int | float
    places = [(n, k) for n, k in _places(content) if isinstance(n[k], wanted)]
    for node, key in random.sample(places, min(len(places), random.choice((1, 1, 2, 5)))):
        node[key] = random.choice(list(SECRETS.values()) if kind == "secret" else _NUMBERS)
        changed.append(f"{key}={node[key]!r}")
    path.write_text(json.dumps(content))
    if kind == "state":
        sign(checkpoint)
    what = f"an edited {path.name}: {', '.join(changed)[:200]}"
    if goes_on:
        more = ["train.resume=auto", *random.choice(([], ["train.resume_force=true"]))]
        return Case("train", train_arguments(Path(table), run, *more), output, what)
    model = ["--model", str(run / "model")]
    command, arguments = random.choice(
        (
            ("predict", [*model, "--input", table]),
            ("evaluate", [*model, "--data", table, *QUICK]),
            ("publish", ["--run", str(run), "--repo-id", "a/b", "--dry-run", str(output / "p")]),
        )
    )
    if kind == "secret":
        command = "publish"
        arguments = ["--run", str(run), "--repo-id", "a/b", "--dry-run", str(output / "p")]
    return Case(command, arguments, output, what)
