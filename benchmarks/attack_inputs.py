"""Rows 6 to 9: names that steer a terminal, wide tables, packed bombs, edited files of a model."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hub_contents import Fault

from benchmarks.attack_files import PUBLISH, train
from benchmarks.attack_hub import REPO, hub_of
from benchmarks.attack_stage import GIB, Stage, attack
from benchmarks.fuzz_case import sign

QUICK = ("--resamples", "0", "--no-fitted-baselines", "--max-windows", "40")

# --- row 6: names

NAMES = {
    "titles and colours": ("\x1b]0;owned\x07", "\x1b[2J\x1b[31mred"),
    "forged lines": ("a\nerror: FORGED", "b\rerror: FORGED"),
    "other controls": ("\x9b2Jx", "b\x08\x08\x7f"),
    "directions of writing": ("\u202etxet", "\u2066a\u2028error: FORGED"),
    "endless names": ("x" * 40_000, "y" * 40_000),
    "markup": ("<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>"),
}


def _table(stage: Stage, regions: tuple[str, str] | None, columns: tuple[str, str] | None) -> Path:
    """The valid table, with its two regions or two of its features renamed."""
    frame = pd.read_csv(stage.table)
    if regions:
        known = list(dict.fromkeys(frame["region"]))
        frame["region"] = frame["region"].map(dict(zip(known, regions, strict=True)))
    if columns:
        frame = frame.rename(columns=dict(zip(("t2m", "d2m"), columns, strict=True)))
    path = stage.work / "table.csv"
    frame.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    frame.to_parquet(path.with_suffix(".parquet"), index=False)
    return path


def _markup(folder: Path) -> list[str]:
    """Pages in which a name became a program."""
    bad = (b"<script>alert(1)", b"<img src=x onerror")
    pages = [page for page in folder.rglob("*.html")]
    return [f"{p.name} runs a name" for p in pages if any(b in p.read_bytes() for b in bad)]


def named(stage: Stage, names: tuple[str, str], where: str) -> list[str]:
    """Every command on a table whose regions or columns are called so, and on its model."""
    regions, columns = (names, None) if where == "regions" else (None, names)
    path = _table(stage, regions, columns)
    for source in (path, path.with_suffix(".parquet")):
        run = stage.work / "output" / source.suffix[1:]
        given = train(stage, f"data.path={source}", output=f"output/{source.suffix[1:]}")
        stage.run("train", *given, cpu_seconds=25)
    stage.run("prepare_data", "--audit", path, "--output", stage.work / "output" / "audit")
    stage.run("prepare_data", path, "--output", stage.work / "output" / "prepared")
    if (run / "model").is_dir():
        model = ("--model", run / "model")
        stage.run("predict", *model, "--input", path)
        stage.run("evaluate", *model, "--data", path, *QUICK, "--by", "region")
        stage.run("report", run)
        stage.run("publish", "--run", run, *PUBLISH, stage.work / "output" / "package")
        stage.run("predict", *model, "--input", stage.table)
    return stage.harms() + _markup(stage.work / "output")


for _title, _names in NAMES.items():
    for _where in ("regions", "columns"):
        attack(6, f"{_title} as {_where} of a table", names=_names, where=_where)(named)


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def in_model(stage: Stage, names: tuple[str, str]) -> list[str]:
    """In every text of preprocessing.json and config.json, one command after the other."""
    text = "".join(names)

    def label(content: Any) -> None:
        content["label"]["text"] = text

    def source(content: Any) -> None:
        content["source"]["path"] = content["source"]["sha256"] = text
        content["source"]["skipped_columns"] = {text: text}

    def regions(content: Any) -> None:
        content["regions"] = list(names)

    def features(content: Any) -> None:
        content["feature_names"][0] = text

    def column(content: Any) -> None:
        content["data"]["region_column"] = text

    def split(content: Any) -> None:
        content["split"]["validation_from"] = text

    for number, change in enumerate((label, source, regions, features, column, split)):
        run = stage.copy("run", f"run-{number}")
        _edit(run / "model" / "preprocessing.json", change)
        model = ("--model", run / "model")
        stage.run("predict", *model, "--input", stage.table)
        if change in (label, source, regions):
            stage.run("evaluate", *model, "--data", stage.table, *QUICK)
    run = stage.copy("run")
    _edit(run / "model" / "config.json", lambda c: c.update(id2label={"0": text, "1": names[0]}))
    stage.run("predict", "--model", run / "model", "--input", stage.table)
    _edit(run / "model" / "config.json", lambda c: c.update({text: text, "hidden_act": text}))
    stage.run("predict", "--model", run / "model", "--input", stage.table)
    return stage.harms()


for _title in ("titles and colours", "forged lines", "directions of writing", "endless names"):
    attack(6, f"{_title} in a model's files", names=NAMES[_title])(in_model)


@attack(6, "titles and colours in the files of a run", names=NAMES["titles and colours"])
@attack(6, "forged lines in the files of a run", names=NAMES["forged lines"])
@attack(6, "markup in the files of a run", names=NAMES["markup"])
@attack(6, "endless names in the files of a run", names=NAMES["endless names"])
def in_run(stage: Stage, names: tuple[str, str]) -> list[str]:
    """In config.yaml, metrics.jsonl, verdict.json, results.json, status.json."""
    text, run = "".join(names), stage.copy("run")
    verdict = {"name": text, "severity": text, "step": 2, "explanation": text, "remedy": text}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "verdict", **verdict}) + "\n")
        file.write(json.dumps({"event": text, text: text}) + "\n")
    _edit(run / "verdict.json", lambda c: c["verdicts"].append(verdict))
    _edit(run / "results.json", lambda c: c.update(stop_reason=text, regions={text: c["test"]}))
    (run / "status.json").write_text(json.dumps({"code": 1, "reason": text}))
    (run / "audit.json").write_text(json.dumps({"lines": [text]}))
    _edit(run / "environment.json", lambda c: c.update(device=text, command=text, torch=text))
    other = stage.copy("run", "other")
    stage.run("diagnose", run)
    stage.run("diagnose", run, "--json")
    stage.run("report", run)
    stage.run("report", other, run, "--output", stage.work / "output" / "two.html")
    stage.run("publish", "--run", run, *PUBLISH, stage.work / "output" / "package")
    given = train(stage, "train.resume=auto", output="run", steps=9)
    stage.run("train", *given, "train.resume_force=true", cpu_seconds=25)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{config}{json.dumps(text)}: {json.dumps(text)}\n")
    stage.run("report", run)
    stage.run("plan", "--config", run / "config.yaml")
    return stage.harms() + _markup(stage.work)


@attack(6, "titles and colours as names of files", names=NAMES["titles and colours"])
@attack(6, "forged lines as names of files", names=NAMES["forged lines"])
@attack(6, "directions of writing as names of files", names=NAMES["directions of writing"])
def files(stage: Stage, names: tuple[str, str]) -> list[str]:
    name = names[0].replace("/", "_")
    run = stage.copy("run", name)
    table = stage.copy("table.csv", f"{name}.csv")
    recipe = stage.write(f"{name}.yaml", "seed: 1\n")
    model = ("--model", run / "model")
    stage.run("report", run)
    stage.run("diagnose", run)
    stage.run("publish", "--run", run, *PUBLISH, stage.work / f"{name}-package")
    stage.run("predict", *model, "--input", table, "--output", stage.work / f"{name}-f.csv")
    stage.run("predict", *model, "--input", stage.work / f"{name}-none.csv")
    stage.run("predict", "--model", stage.work / f"{name}-none", "--input", table)
    stage.run("plan", "--config", recipe)
    stage.run("plan", "--config", name)
    stage.run("plan", "--config", "quickstart", f"{name}=1")
    stage.run("plan", "--config", "quickstart", f"data.path={table}", "data.split=rows")
    stage.run("prepare_data", table, "--output", stage.work / f"{name}-output")
    stage.run("prepare_data", "--audit", table)
    stage.run("convert", "--checkpoint", table, "--output", stage.work / f"{name}-model")
    stage.run("train", *train(stage, f"data.path={table}", output=f"{name}-run"), cpu_seconds=25)
    return stage.harms()


@attack(6, "titles and colours of a hub", names=NAMES["titles and colours"])
@attack(6, "forged lines of a hub", names=NAMES["forged lines"])
def of_a_hub(stage: Stage, names: tuple[str, str]) -> list[str]:
    """What a server answers is a stranger's text, too."""
    run, text = stage.copy("run"), "".join(names)
    for status in (400, 403):
        with hub_of(stage) as (hub, variables):
            hub.faults.append(Fault("POST .*/commit/main", status, error=text))
            given = ("--run", run, "--repo-id", REPO, "--data-licence", "x")
            stage.run("publish", *given, fresh=True, environment=variables, cpu_seconds=40)
    return stage.harms()


@attack(6, "titles and colours in a console log", names=NAMES["titles and colours"])
@attack(6, "forged lines in a console log", names=NAMES["forged lines"])
def console_log(stage: Stage, names: tuple[str, str]) -> list[str]:
    text = "".join(names)
    lines = "".join(
        f"Epoch: {n} cost time: 3{text}\nEpoch: {n}, Steps: 9 | Train Loss: 0.{n} {text}: 0.7\n"
        f"{text}: 61.2% (1/2)\n>>>>>>>start training : {text}>>>>>>>\n"
        for n in range(1, 6)
    )
    stage.run("diagnose", stage.write("log.txt", lines))
    stage.run("diagnose", stage.work / "log.txt", "--json")
    return stage.harms()


@attack(6, "names of tensors in a checkpoint", names=NAMES["titles and colours"])
@attack(6, "endless names of tensors in a checkpoint", names=NAMES["endless names"])
def tensors(stage: Stage, names: tuple[str, str]) -> list[str]:
    from safetensors.numpy import save_file

    path = stage.work / "x.safetensors"
    save_file({name: np.zeros(2, np.float32) for name in names}, path)
    stage.run("convert", "--checkpoint", path, "--output", stage.work / "model")
    stage.run("train", *train(stage, f"model.pretrained={path}"))
    return stage.harms()


@attack(6, "names of regions in a YAML of boxes", names=NAMES["titles and colours"])
@attack(6, "forged names of regions in a YAML of boxes", names=NAMES["forged lines"])
def boxes(stage: Stage, names: tuple[str, str]) -> list[str]:
    box = {"north": -3.0, "south": -8.0, "west": -76.5, "east": -73.0}
    content = {"regions": {names[0]: box, names[1]: {"latitude": 60, "longitude": 0}}}
    for number, regions in enumerate((content, {"regions": {names[0]: box}})):
        path = stage.write(f"regions-{number}.yaml", json.dumps(regions))
        output = stage.work / "output" / str(number)
        stage.run("prepare_data", stage.seeds / "era5.nc", "--regions", path, "--output", output)
    return stage.harms()


# --- row 7: many regions and columns


def _many(stage: Stage, regions: int, rows: int, columns: int = 1) -> Path:
    """A table of so many regions, rows of each, and features."""
    random = np.random.default_rng(0)
    times = pd.date_range("2023-01-01", periods=rows, freq="12h")
    count = regions * rows
    frame = pd.DataFrame(
        {
            "timestamp": np.tile(times.strftime("%Y-%m-%dT%H:%M:%S"), regions),
            "region": np.repeat([f"r{i:06d}" for i in range(regions)], rows),
            **{f"x{i}": random.normal(size=count).round(2) for i in range(columns)},
            "precipitation": random.gamma(0.3, 2.0, count).round(2),
        }
    )
    path = stage.work / "many.parquet"
    frame.to_parquet(path, index=False)
    return path


MANY = 20.0  # seconds of CPU for 400,000 rows, whatever their regions


@attack(7, "20,000 regions of 20 rows are audited", command="audit")
@attack(7, "20,000 regions of 20 rows are trained on", command="train")
@attack(7, "20,000 regions of 20 rows are prepared", command="prepare")
@attack(7, "20,000 regions of 20 rows are planned", command="plan")
@attack(7, "20,000 regions of 20 rows are forecast", command="predict")
@attack(7, "20,000 regions of 20 rows are verified", command="evaluate")
@attack(7, "20,000 regions of 20 rows, and no fact of a region", command="train", more=("x",))
def many_regions(stage: Stage, command: str, more: tuple[str, ...] = ()) -> list[str]:
    path, output = _many(stage, 20_000, 20), stage.work / "output"
    bounds: dict[str, Any] = {"cpu_seconds": MANY, "peak_bytes": 2 * GIB}
    facts = ("data.static_features=false",) if more else ()
    short = (
        *(f"data.path={path}", "model.patch_length=2", "model.context_length=4", *facts),
        *("data.label_horizon_hours=12", "monitors.slow=off"),
    )
    if command == "audit":
        stage.run("prepare_data", "--audit", path, "--output", output, **bounds)
    elif command == "prepare":
        stage.run("prepare_data", path, "--output", output, **bounds)
    elif command == "train":
        stage.run("train", *train(stage, *short), **bounds)
    elif command == "plan":
        stage.run("plan", "--config", "quickstart", "--json", *short, **bounds)
    else:  # a model of few regions that takes any
        small = _many(stage, 40, 200).rename(stage.work / "few.parquet")
        path = _many(stage, 20_000, 20)
        given = train(stage, *short, "data.static_features=false", f"data.path={small}")
        stage.run("train", *given)
        model = ("--model", output / "run" / "model")
        if command == "predict":
            written = ("--output", stage.work / "f.parquet")
            stage.run("predict", *model, "--input", path, *written, **bounds)
        else:
            stage.run("evaluate", *model, "--data", path, *QUICK, "--by", "region", **bounds)
    return stage.harms()


@attack(7, "3,000 columns are audited", command="audit")
@attack(7, "3,000 columns are trained on", command="train")
@attack(7, "3,000 columns are prepared", command="prepare")
def many_columns(stage: Stage, command: str) -> list[str]:
    path, output = _many(stage, 2, 60, 3_000), stage.work / "output"
    # Attention over so many variables is quadratic, as the plan says before: few windows of it.
    few = ("train.batch_size=2", "eval.max_windows=4", "eval.check_windows=4")
    short = (f"data.path={path}", "model.context_length=16", *few)
    bounds: dict[str, Any] = {"cpu_seconds": MANY, "peak_bytes": 2 * GIB}
    if command == "audit":
        stage.run("prepare_data", "--audit", path, "--output", output, **bounds)
    elif command == "prepare":
        stage.run("prepare_data", path, "--output", output, **bounds)
    else:
        stage.run("train", *train(stage, *short), **bounds)
    return stage.harms()


@attack(7, "100,000 regions in preprocessing.json")
def many_known_regions(stage: Stage) -> list[str]:
    run = stage.copy("run")
    path = run / "model" / "preprocessing.json"
    _edit(path, lambda c: c["regions"].extend(f"r{i}" for i in range(100_000)))
    _edit(path, lambda c: c.update(static_feature_names=c["static_feature_names"]))
    model = ("--model", run / "model")
    stage.run("predict", *model, "--input", stage.table)
    stage.run("evaluate", *model, "--data", stage.table, *QUICK)
    stage.run("publish", "--run", run, *PUBLISH, stage.work / "package")
    return stage.harms()


@attack(7, "a million lines in metrics.jsonl")
def many_events(stage: Stage) -> list[str]:
    run = stage.copy("run")
    line = (run / "metrics.jsonl").read_text().splitlines()[2]
    event = json.loads(line)
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(3, 100_003):
            file.write(json.dumps(event | {"step": step, "epoch": step / 24}) + "\n")
    stage.run("report", run, cpu_seconds=MANY)
    stage.run("diagnose", run, "--json", cpu_seconds=MANY)
    return stage.harms()


# --- row 8: packed bombs


def zeros(num_bytes: int, head: bytes = b"") -> bytes:
    """Raw deflate of ``head`` and so many zeros (a multiple of 16 MiB), of one block repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + block * (num_bytes // 2**24) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def checksum(num_bytes: int, head: bytes = b"") -> int:
    found, block = zlib.crc32(head), bytes(2**24)
    for _ in range(num_bytes // 2**24):
        found = zlib.crc32(block, found)
    return found


def zip_bomb(name: str, num_bytes: int, declared: int | None = None, head: bytes = b"") -> bytes:
    """A ZIP of ``head`` and zeros; ``declared`` is what its directory says of the size."""
    packed, crc = zeros(num_bytes, head), checksum(num_bytes, head)
    said = num_bytes + len(head) if declared is None else declared
    is_long = said >= 2**32 - 1
    extra = struct.pack("<HHQQ", 1, 16, said, len(packed)) if is_long else b""
    sizes = (2**32 - 1, 2**32 - 1) if is_long else (len(packed), said)
    common = struct.pack("<HHHHHIII", 45, 0, 8, 0, 33, crc, *sizes)
    encoded = name.encode()
    local = b"PK\x03\x04" + common + struct.pack("<HH", len(encoded), len(extra))
    local += encoded + extra
    entry = b"PK\x01\x02" + struct.pack("<H", 45) + common
    entry += struct.pack("<HHHHHII", len(encoded), len(extra), 0, 0, 0, 0, 0) + encoded + extra
    start = len(local) + len(packed)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), start, 0)
    return local + packed + entry + end


SMALL: dict[str, Any] = {"peak_bytes": GIB, "free_bytes": 3 * GIB // 2}
BOMB = 2**30 + 2**29
HEADS = {".nc": b"CDF\x01", ".grib": b"GRIB"}


@attack(8, "a ZIP behind .nc that unpacks to 1.5 GB", suffix=".nc", inner="a.nc")
@attack(8, "a ZIP of .nc that unpacks to 1.5 GB", suffix=".zip", inner="a.nc")
@attack(8, "a ZIP of GRIB that unpacks to 1.5 GB", suffix=".zip", inner="a.grib")
@attack(8, "a ZIP that says it holds a TB", suffix=".nc", inner="a.nc", declared=2**40)
@attack(8, "a ZIP that says it holds nothing", suffix=".nc", inner="a.nc", declared=0)
@attack(8, "a ZIP whose file leaves the folder", suffix=".nc", inner="../../outside/a.nc")
def zipped_grid(stage: Stage, suffix: str, inner: str, declared: int | None = None) -> list[str]:
    path = stage.write(f"era5{suffix}", zip_bomb(inner, BOMB, declared, HEADS[Path(inner).suffix]))
    stage.run("prepare_data", path, "--output", stage.work / "output", **SMALL)
    return stage.harms()


@attack(8, "a ZIP of forty grids that unpack to 300 MB each")
def many_zipped(stage: Stage) -> list[str]:
    path, block = stage.work / "era5.nc", b"CDF\x01" + bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(40):
            with archive.open(f"{number}.nc", "w") as file:
                for _ in range(3):
                    file.write(block)
    stage.run("prepare_data", path, "--output", stage.work / "output", **SMALL)
    return stage.harms()


def _gz(num_bytes: int) -> bytes:
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return head + zeros(num_bytes) + struct.pack("<II", checksum(num_bytes), num_bytes % 2**32)


def _lines(num_bytes: int, pack: Callable[[bytes], bytes]) -> bytes:
    """A packed CSV whose rows are all alike."""
    row = b"2023-01-01T00:00:00,a,0\n"
    return pack(b"timestamp,region,precipitation\n" + row * (num_bytes // len(row)))


def _zip_of(content: bytes) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("table.csv", content)
    return found.getvalue()


TABLES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a .csv.gz of zeros": ("csv.gz", lambda: _gz(BOMB)),
    "a .gz of gz": ("csv.gz", lambda: gzip.compress(_gz(BOMB))),
    "two members of gz": ("csv.gz", lambda: _gz(2**29) * 3),
    "a .csv.gz of rows": ("csv.gz", lambda: _lines(700_000_000, lambda c: gzip.compress(c, 1))),
    "a .csv that is a gz": ("csv", lambda: _gz(BOMB)),
    "a .zip of zeros": ("zip", lambda: zip_bomb("table.csv", BOMB)),
    "a .zip of rows": ("zip", lambda: _lines(700_000_000, _zip_of)),
    "a .zip that says it holds nothing": ("zip", lambda: zip_bomb("table.csv", BOMB, 0)),
    "a .csv that is a ZIP": ("csv", lambda: zip_bomb("table.csv", BOMB)),
    "a .csv.xz": ("csv.xz", lambda: lzma.compress(bytes(2**28), preset=0) * 6),
}


def packed_table(stage: Stage, suffix: str, make: Callable[[], bytes]) -> list[str]:
    path = stage.write(f"table.{suffix}", make())
    stage.run("prepare_data", path, "--output", stage.work / "output", **SMALL)
    stage.run("train", *train(stage, f"data.path={path}"), **SMALL)
    model = stage.seeds / "run" / "model"
    stage.run("predict", "--model", model, "--input", path, **SMALL)
    return stage.harms()


for _title, (_suffix, _make) in TABLES.items():
    attack(8, f"{_title}, 1.5 GB unpacked", suffix=_suffix, make=_make)(packed_table)


@attack(8, "a Parquet of 200 million rows of one number", column="precipitation")
@attack(8, "a Parquet of 200 million times", column="timestamp")
@attack(8, "a Parquet of long texts in a dictionary", column="region")
def parquet(stage: Stage, column: str) -> list[str]:
    path, block = stage.work / "table.parquet", 2_000_000
    values: dict[str, Any] = {
        "timestamp": pa.array(np.zeros(block, "datetime64[ns]")),
        "region": pa.DictionaryArray.from_arrays(pa.array(np.zeros(block, np.int8)), ["a" * 5000]),
        "precipitation": pa.array(np.zeros(block)),
    }
    table = pa.table({column: values[column]} if column != "region" else values)
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(100 if column != "region" else 10):
            writer.write_table(table, row_group_size=block)
    model = stage.seeds / "run" / "model"
    stage.run("predict", "--model", model, "--input", path, **SMALL)
    stage.run("prepare_data", "--audit", path, "--output", stage.work / "output", **SMALL)
    stage.run("train", *train(stage, f"data.path={path}"), **SMALL)
    return stage.harms()


def _pth(stage: Stage, method: int, size: int) -> Path:
    """The valid checkpoint with a tensor of zeros more, packed."""
    import torch

    path = stage.work / "bomb.pth"
    state = torch.load(stage.seeds / "openltm.pth", weights_only=True)
    whole = io.BytesIO()
    torch.save(state | {"embedding.weight": torch.zeros(size // 4).view(1, -1)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            with old.open(name) as source, new.open(name, "w", force_zip64=True) as target:
                while content := source.read(2**24):
                    target.write(content)
    return path


@attack(8, "a .pth of deflated members", method=zipfile.ZIP_DEFLATED)
@attack(8, "a .pth of members in bz2", method=zipfile.ZIP_BZIP2)
@attack(8, "a .pth of members in xz", method=zipfile.ZIP_LZMA)
def packed_weights(stage: Stage, method: int) -> list[str]:
    path = _pth(stage, method, 700_000_000)
    stage.run("convert", "--checkpoint", path, "--output", stage.work / "model", **SMALL)
    stage.run("train", *train(stage, f"model.pretrained={path}"), **SMALL)
    return stage.harms()


@attack(8, "a .pth whose pickle is packed zeros")
def packed_pickle(stage: Stage) -> list[str]:
    path = stage.write("bomb.pth", zip_bomb("archive/data.pkl", BOMB))
    stage.run("convert", "--checkpoint", path, "--output", stage.work / "model", **SMALL)
    return stage.harms()


@attack(8, "a pickle that repeats itself", text=b"\x80\x02" + b"X\x01\0\0\0a" * 30_000_000 + b".")
@attack(8, "a pickle of a huge length", text=b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.")
@attack(8, "a pickle of nested tuples", text=b"\x80\x02)" + b"\x85" * 3_000_000 + b".")
def pickles(stage: Stage, text: bytes) -> list[str]:
    path = stage.write("bomb.pth", text)
    stage.run("convert", "--checkpoint", path, "--output", stage.work / "model", **SMALL)
    return stage.harms()


@attack(8, "a NetCDF that holds nothing and says 80 GB", packed=None)
@attack(8, "a NetCDF of packed zeros", packed="gzip")
def hdf5(stage: Stage, packed: str | None) -> list[str]:
    """HDF5 makes up what was never written."""
    path = stage.work / "era5.nc"
    hours, latitudes, longitudes = (20_000, 721, 1440) if packed is None else (400, 721, 1440)
    with h5py.File(path, "w") as file:
        for name, size, units in (
            ("valid_time", hours, "hours since 2000-01-01"),
            ("latitude", latitudes, "degrees_north"),
            ("longitude", longitudes, "degrees_east"),
        ):
            low, high = {"latitude": (90, -90), "longitude": (0, 359.75)}.get(name, (0, size - 1))
            file[name] = np.linspace(low, high, size)
            file[name].attrs["units"] = units
            file[name].make_scale(name)
        tp = file.create_dataset(
            "tp", (hours, latitudes, longitudes), "f4", compression=packed,
            chunks=(hours, 73, 144), fillvalue=0.0,
        )  # fmt: skip
        tp.attrs["units"] = "m"
        for axis, name in enumerate(("valid_time", "latitude", "longitude")):
            tp.dims[axis].attach_scale(file[name])
    stage.run("prepare_data", path, "--output", stage.work / "output", cpu_seconds=30, **SMALL)
    return stage.harms()


@attack(8, "honest: a ZIP of a grid, as the Climate Data Store sends it")
def honest_zip(stage: Stage) -> list[str]:
    path = stage.work / "era5.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(stage.seeds / "era5.nc", "data_stream-oper.nc")
    ended = stage.run("prepare_data", path, "--output", stage.work / "output")
    plain = stage.run("prepare_data", stage.seeds / "era5.nc", "--output", stage.work / "plain")
    same = ended.code == plain.code
    return stage.harms() + ([] if same else [f"refused: {ended.stderr[-200:]}"])


@attack(8, "honest: a table in gz")
def honest_gz(stage: Stage) -> list[str]:
    path = stage.write("table.csv.gz", gzip.compress(stage.table.read_bytes()))
    ended = stage.run("train", *train(stage, f"data.path={path}"), cpu_seconds=25)
    return stage.harms() + ([] if ended.code == 0 else [f"refused: {ended.stderr[-200:]}"])


# --- row 9: edited files of a model


def _later(content: Any) -> None:
    content["is_synthetic"] = True
    content["data"] |= {"path": None, "synthetic": content["data"]["synthetic"]}


def _synthetic(**change: Any) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        _later(content)
        content["data"]["synthetic"] |= change

    return edit


def _data(**change: Any) -> Callable[[Any], None]:
    return lambda content: content["data"].update(change)


def _horizon(hours: float) -> Callable[[Any], None]:
    def edit(content: Any) -> None:
        content["data"]["label_horizon_hours"] = hours
        content["label"]["horizon_hours"] = hours

    return edit


EDITS: dict[str, Callable[[Any], object]] = {
    "oni_path of another's file": _data(oni_path="{letter}"),
    "oni_path of a device": _data(oni_path="/dev/zero"),
    "oni_path of a pipe": _data(oni_path="{pipe}"),
    "oni_path of the environment": _data(oni_path="/proc/self/environ"),
    "the path of another's file": _data(path="{letter}"),
    "the path of a device": _data(path="/dev/zero"),
    "synthetic years 1 to 9999": _synthetic(start="0001-01-01", end="9999-12-31"),
    "synthetic years 1678 to 2261": _synthetic(start="1678-01-01", end="2261-12-31", step_hours=1),
    "a synthetic series that ends before it begins": _synthetic(
        start="2024-01-01", end="1990-01-01"
    ),
    "a synthetic seed of -1": _synthetic(seed=-1),
    "a synthetic seed of 10**29": _synthetic(seed=10**29),
    "a synthetic step of 0": _synthetic(step_hours=0),
    "a synthetic step of -12": _synthetic(step_hours=-12),
    "a horizon of 1e15 hours": _horizon(1e15),
    "a horizon of -24 hours": _horizon(-24),
    "a horizon of 1e-300 hours": _horizon(1e-300),
    "a stride of 1e-9 hours": _data(window_stride_hours=1e-9),
    "a fill of 1e300 hours": _data(max_fill_hours=1e299),
    "a lag of 10**15 months": _data(oni_lag_months=10**15),
    "a context of 999,999,999": lambda c: c.update(context_length=999_999_999),
    "a step of 1e-12 hours": lambda c: c.update(step_hours=1e-12),
    "a step of -12 hours": lambda c: c.update(step_hours=-12.0),
    "a threshold of 1e299 mm": lambda c: c["data"].update(rain_threshold_mm=1e299),
    "a decision threshold of 1e299": lambda c: c.update(decision_threshold=1e299),
    "a decision threshold of -5": lambda c: c.update(decision_threshold=-5),
    "a calibration of 1e299": lambda c: c["calibration"].update(slope=1e299, intercept=-1e299),
    "a deviation of 1e-320": lambda c: c["scaling"].update(std=[1e-320] * 5),
    "means of 1e299": lambda c: c["scaling"].update(mean=[1e299] * 5),
    "an embargo of 1e299 hours": lambda c: c["split"].update(embargo_hours=1e299),
    "a split in the year 9999": lambda c: c["split"].update(test_from="9999-12-31T00:00:00"),
    "a hundred thousand regions": lambda c: c.update(regions=[f"r{i}" for i in range(100_000)]),
    "200,000 features": lambda c: (
        c.update(feature_names=[f"x{i}" for i in range(200_000)]),
        c["scaling"].update(mean=[0.0] * 200_000, std=[1.0] * 200_000, log1p=[]),
    ),
    "a million missing codes": _data(missing_values=[float(i) for i in range(1_000_000)]),
    "ranges of 1e299": lambda c: c["training_ranges"].update(days=1e299, issue_hours=[1e299]),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "hidden_size 2**30": {"hidden_size": 2**30},
    "10**6 layers": {"num_hidden_layers": 10**6},
    "10**9 variables": {"num_variables": 10**9, "variable_embedding": True},
    "a classifier of 2**31": {"classifier_hidden_size": 2**31},
    "a context of 2**40": {"context_length": 2**40},
    "a patch of 0": {"patch_length": 0},
    "heads of -1": {"num_attention_heads": -1},
    "heads of 0": {"num_attention_heads": 0},
    "a rope_theta of 0": {"rope_theta": 0.0},
    "a rope_theta of 1e300": {"rope_theta": 1e300},
    "10**7 labels": {"id2label": {str(i): "x" for i in range(200_000)}},
    "an epsilon of -1": {"layer_norm_eps": -1.0},
    "a dtype that is code": {"dtype": "__import__('os').system('touch EXECUTED')"},
    "an activation that is a path": {"hidden_act": "/dev/zero"},
    "static features of 10**9": {"num_static_real_features": 10**9},
}


def edited(stage: Stage, name: str, change: Callable[[Any], object]) -> list[str]:
    """predict, evaluate (also on what the model says of its own data) and publish."""
    run = stage.copy("run")
    path, pipe = run / "model" / name, stage.work / "pipe"
    os.mkfifo(pipe)
    _edit(path, change)
    text = path.read_text().replace("{letter}", str(stage.letter)).replace("{pipe}", str(pipe))
    path.write_text(text)
    model = ("--model", run / "model")
    bounds: dict[str, Any] = {"cpu_seconds": 8.0, "peak_bytes": GIB // 2}
    stage.run("predict", *model, "--input", stage.table, **bounds)
    if name == "preprocessing.json":
        synthetic = "synthetic" if json.loads(text).get("is_synthetic") else stage.table
        stage.run("predict", *model, "--input", synthetic, "--at", "all", **bounds)
        stage.run("evaluate", *model, *QUICK, **bounds)
        stage.run("evaluate", *model, "--data", stage.table, *QUICK, **bounds)
    stage.run("publish", "--run", run, *PUBLISH, stage.work / "package", **bounds)
    return stage.harms() + _quoted(stage)


def _quoted(stage: Stage) -> list[str]:
    """What lies outside, on the terminal."""
    shown = [ended for ended in stage.ended if "the canary of another folder" in ended.text]
    return ["a file outside is quoted"] * bool(shown)


for _title, _change in EDITS.items():
    attack(9, _title, name="preprocessing.json", change=_change)(edited)
for _title, _more in SETTINGS.items():
    attack(9, _title, name="config.json", change=lambda c, more=_more: c.update(more))(edited)


@attack(9, "a sparse preprocessing.json of 20 GB", name="model/preprocessing.json")
@attack(9, "a sparse config.json of 20 GB", name="model/config.json")
@attack(9, "sparse weights of 20 GB", name="model/model.safetensors")
@attack(9, "a sparse results.json of 20 GB", name="results.json")
@attack(9, "a sparse metrics.jsonl of 20 GB", name="metrics.jsonl")
@attack(9, "a sparse page of 20 GB", name="report/index.html")
@attack(9, "a sparse file of code of 20 GB", name="model/attention_timerxl.py")
@attack(9, "a sparse config.yaml of 20 GB", name="config.yaml")
@attack(9, "a sparse environment.json of 20 GB", name="environment.json")
def sparse(stage: Stage, name: str) -> list[str]:
    run = stage.copy("run")
    with (run / name).open("r+b") as file:
        file.truncate(20_000_000_000)
    bounds: dict[str, Any] = {"cpu_seconds": 8.0, "peak_bytes": GIB // 2}
    stage.run("publish", "--run", run, *PUBLISH, stage.work / "output" / "package", **bounds)
    if name.startswith("model/"):
        stage.run("predict", "--model", run / "model", "--input", stage.table, **bounds)
        more = ("--checkpoint", run / "model", "--output", stage.work / "output" / "x.pth")
        stage.run("convert", "--reverse", *more, **bounds)
    else:
        stage.run("report", run, "--output", stage.work / "output" / "page.html", **bounds)
        stage.run("diagnose", run, "--json", **bounds)
    return stage.harms()


@attack(9, "a sparse trainer_state.json of 20 GB", name="trainer_state.json")
@attack(9, "a sparse manifest of 20 GB", name="manifest.json")
@attack(9, "a sparse optimizer of 20 GB", name="optimizer-00000-of-00001.safetensors")
def sparse_checkpoint(stage: Stage, name: str) -> list[str]:
    (checkpoint,) = (stage.copy("cut_off", "theirs") / "checkpoints").iterdir()
    with (checkpoint / name).open("r+b") as file:
        file.truncate(20_000_000_000)
    given = train(stage, f"train.resume={checkpoint}")
    stage.run("train", *given, cpu_seconds=8.0, peak_bytes=GIB // 2)
    return stage.harms()


@attack(9, "a manifest whose names leave the folder")
def manifest_names(stage: Stage) -> list[str]:
    (checkpoint,) = (stage.copy("cut_off", "theirs") / "checkpoints").iterdir()
    sign(checkpoint)

    def change(content: Any) -> None:
        for name in ("../../../../outside/letter.txt", "/etc/passwd", "/dev/zero", "a/../../b"):
            content["files"][name] = {"size": 1, "sha256": "0" * 64}

    _edit(checkpoint / "manifest.json", change)
    stage.run("train", *train(stage, f"train.resume={checkpoint}"))
    return stage.harms() + _quoted(stage)


@attack(9, "honest: a model forecasts and is verified")
def honest_model(stage: Stage) -> list[str]:
    model = ("--model", stage.copy("run") / "model")
    first = stage.run("predict", *model, "--input", stage.table)
    second = stage.run("evaluate", *model, "--data", stage.table, *QUICK)
    return stage.harms() + [e.stderr[-200:] for e in (first, second) if e.code != 0]
