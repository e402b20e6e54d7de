"""docs/scaling.md and docs/colab.md: their commands are there to be run, and the cells that carry a
run to Drive and back are run."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from timerxl.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("scaling", "colab")}
COMMANDS = [
    (name, match[1].replace("$rank", "0").replace("RANK", "0"))
    for name, text in TEXTS.items()
    for match in re.finditer(r"^\s*!?((?:accelerate launch|python launch/).*?)(?: &)?$", text, re.M)
] + [("scaling", found) for found in re.findall(r"`(python launch/plan[^`]*)`", TEXTS["scaling"])]
TRANSFER = "transfer"


def test_the_documents_have_commands() -> None:
    found = [command for _, command in COMMANDS]
    assert sum(command.startswith("accelerate launch") for command in found) == 5
    for script in ("plan", "train", "report", "publish"):
        assert any(f"python launch/{script}.py" in command for command in found), script


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_is_there_to_be_run(name: str, command: str) -> None:
    words = shlex.split(command)
    script = next(word for word in words if word.startswith("launch/"))
    if words[0] == "accelerate":
        given = launch_command_parser().parse_args(words[2:])
        for path in (given.config_file, given.deepspeed_config_file):
            assert path is None or (ROOT / path).is_file()
        if given.num_machines and given.num_machines > 1:
            assert given.main_process_ip
            assert given.num_processes % given.num_machines == 0
    if "--config" in words:
        recipe = words[words.index("--config") + 1]
        load_recipe(recipe, [word for word in words if re.match(r"[a-z_.]+=", word)])
    helped = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    for option in words[words.index(script) + 1 :]:
        assert not option.startswith("--") or re.search(rf"{option}(?![\w-])", helped), option


def test_paths_in_the_documents_are_there() -> None:
    for name, text in TEXTS.items():
        found = re.findall(r"(?:accelerate_configs|ds_configs|launch|tests|docs)/[\w./-]*\w", text)
        found += [f"docs/{path}" for path in re.findall(r"\]\((\w+\.md)\)", text)]
        assert found
        assert [path for path in found if not (ROOT / path).exists()] == [], name


def cell(beginning: str, needle: str) -> str:
    """Colab's one shell cell with ``needle``, without its first line."""
    cells = re.findall(rf"```python\n{re.escape(beginning)}\n(.*?)```", TEXTS["colab"], re.S)
    (found,) = [text for text in cells if needle in text]
    return str(found)


BACK, COPY = cell("%%bash", "tar -C runs -xf"), cell("%%bash --bg", "while sleep")


class Colab:
    """A runtime that is new after every disconnect, and a Drive that stays."""

    def __init__(self, folder: Path):
        self.folder, self.drive, self.number = folder, folder / "drive", 0
        tools = folder / "bin"
        tools.mkdir(parents=True)
        # sleep: as many times as there are lines to read, then the copying ends.
        (tools / "sleep").write_text(f'#!/bin/bash\n"{folder}/naps" "$@"\n')
        (tools / "sleep").chmod(0o755)
        self.reconnect()

    def reconnect(self) -> None:
        self.number += 1
        self.runtime = self.folder / f"runtime{self.number}"
        self.runtime.mkdir()

    @property
    def run(self) -> Path:
        return self.runtime / "runs" / TRANSFER

    def save(self, *steps: int) -> None:
        """What the run has on disk after these checkpoints."""
        for step in steps:
            folder = self.run / "checkpoints" / f"step_{step:08d}"
            folder.mkdir(parents=True)
            (folder / "weights").write_text(f"{step}")
        for name in (".step_00000099.new", ".step_00000001.old"):
            (self.run / "checkpoints" / name).mkdir(exist_ok=True)
        (self.run / "run.lock").write_text("this runtime's")
        (self.run / "metrics.jsonl").write_text(f"{steps}")

    def cell(self, text: str, naps: int = 0) -> str:
        counter = self.folder / "naps"
        script = 'n=$(cat "$0.n"); echo $((n - 1)) > "$0.n"; echo "$@" > "$0.asked"; ((n > 0))'
        counter.write_text(f"#!/bin/bash\n{script}\n")
        counter.chmod(0o755)
        counter.with_suffix(".n").write_text(f"{naps}")
        environment = os.environ | {"DRIVE": str(self.drive)}
        environment["PATH"] = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.runtime, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def copied(self, slot: int) -> set[str]:
        with tarfile.open(self.drive / f"transfer.{slot}.tar") as tar:
            return {name.removeprefix(f"{TRANSFER}/") for name in tar.getnames()}


def test_a_run_comes_back_from_drive_with_its_newest_checkpoint(tmp_path: Path) -> None:
    colab = Colab(tmp_path)
    assert "a new run" in colab.cell(BACK)
    colab.save(10, 20)
    colab.cell(COPY, naps=1)
    assert (tmp_path / "naps.asked").read_text() == "1200\n"
    held = colab.copied(0)
    older = colab.drive / "transfer.0.tar"
    first = older.read_bytes()
    assert "checkpoints/step_00000020/weights" in held
    assert "metrics.jsonl" in held
    # Neither what is half written, nor another runtime's lock, nor more than the newest.
    assert not {name for name in held if "step_00000010" in name or "/." in name or "lock" in name}
    colab.save(30)
    colab.cell(COPY, naps=2)  # the copying cell starts over in slot 0
    assert "checkpoints/step_00000030/weights" in colab.copied(1)
    older.write_bytes(first)
    os.utime(older, (1, 1))
    colab.reconnect()
    assert "step_00000030" in colab.cell(BACK)
    assert (colab.run / "checkpoints" / "step_00000030" / "weights").read_text() == "30"


@pytest.mark.parametrize("length", [0, 1024, 2500, 6 * 512])  # tar takes an end between two files
def test_a_copy_that_was_cut_off_gives_way_to_the_other(length: int, tmp_path: Path) -> None:
    colab = Colab(tmp_path)
    colab.cell(BACK)
    colab.save(10)
    colab.cell(COPY, naps=2)
    newer, older = colab.drive / "transfer.1.tar", colab.drive / "transfer.0.tar"
    newer.write_bytes(newer.read_bytes()[:length])
    os.utime(older, (1, 1))
    colab.reconnect()
    assert "step_00000010" in colab.cell(BACK)
    assert (colab.run / "metrics.jsonl").read_text() == "(10,)"


def test_a_second_copier_leaves_the_files_to_the_first(tmp_path: Path) -> None:
    colab = Colab(tmp_path)
    colab.cell(BACK)
    colab.save(10)
    with (colab.runtime / "copy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        colab.cell(COPY, naps=1)
    assert not list(colab.drive.iterdir())
    colab.cell(COPY, naps=1)
    assert list(colab.drive.iterdir())


def test_what_trains_here_is_not_overwritten_by_a_copy(tmp_path: Path) -> None:
    colab = Colab(tmp_path)
    colab.cell(BACK)
    colab.save(10)
    colab.cell(COPY, naps=1)
    colab.save(20)
    assert "step_00000020" in colab.cell(BACK)  # the cells are run again without a disconnect
    assert (colab.run / "metrics.jsonl").read_text() == "(20,)"
