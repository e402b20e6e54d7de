"""One damaged input: the files of a folder, and the command that reads them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml

from benchmarks import fuzz_damage as damage
from benchmarks import fuzz_tables as tables
from timerxl.training.checkpoint.storage import FORMAT, MANIFEST, file_record

MARKER = "EXECUTED"
INPUTS, OUTPUT = "inputs", "output"


@dataclass(frozen=True)
class Case:
    """``arguments`` for ``launch/COMMAND.py``; of all files only ``output`` may change.

    It may take ``seconds``, and ``free_bytes`` of memory where that is given.
    """

    command: str
    arguments: list[str]
    output: Path | None
    what: str
    seconds: float = 30.0
    free_bytes: int | None = None


def sign(checkpoint: Path) -> None:
    """A manifest over whatever the checkpoint holds, so that every hash is right."""
    names = sorted(p.name for p in checkpoint.iterdir() if p.is_file() and p.name != MANIFEST)
    content = {"format": FORMAT, "step": int(checkpoint.name.removeprefix("step_"))}
    content["files"] = {name: file_record(checkpoint / name) for name in names}  # type: ignore[assignment]
    (checkpoint / MANIFEST).write_text(json.dumps(content))


def put(random: Random, path: Path, data: bytes) -> None:
    """The damaged file; now and then something that is no file at all."""
    path.unlink(missing_ok=True)
    odd = random.random()
    if odd < 0.02:
        path.mkdir()
    elif odd < 0.04:
        path.symlink_to(path.name)  # a loop
    elif odd < 0.05:
        os.mkfifo(path)
    elif odd < 0.06:
        path.symlink_to("/dev/zero")
    elif odd > 0.07:
        path.write_bytes(data)


def damage_file(random: Random, path: Path, marker: Path) -> None:
    """As the suffix of the file asks for."""
    data = path.read_bytes() if path.exists() else b"{}"
    if random.random() < 0.05:
        path.unlink(missing_ok=True)
    elif path.suffix == ".safetensors" and random.random() < 0.9:
        put(random, path, damage.damage_safetensors(random, data))
    elif path.suffix == ".safetensors":
        put(random, path, damage.hostile_pickle(random, marker, None))
    elif path.suffix == ".json":
        put(random, path, damage.damage_json(random, data.decode()))
    elif path.suffix == ".yaml":
        put(random, path, damage.damage_yaml(random, data.decode(), yaml.safe_dump, marker))
    elif path.suffix == ".jsonl":
        lines = data.decode().splitlines()
        at = random.randrange(len(lines))
        lines[at] = damage.damage_json(random, lines[at]).decode("utf-8", "surrogateescape")
        put(random, path, "\n".join(lines).encode("utf-8", "surrogateescape"))
    elif path.suffix == ".parquet":
        put(random, path, tables.damage_parquet(random, data, marker))
    else:
        put(random, path, damage.damage_bytes(random, data))
