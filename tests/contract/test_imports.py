"""Imports point one way, and each outside library has one door."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from timerxl.cli import COMMANDS

REPO = Path(__file__).resolve().parents[2]
# What a part may import of ours besides itself. A part that is not named here (training, report,
# hub, planner, forecaster, ...) stands between timerxl.cli and these, and may import all but the
# commands.
PARTS: dict[str, set[str]] = {
    "timerxl": {"timerxl.model", "timerxl.forecaster"},
    "timerxl.config_checks": set(),
    "timerxl.untrusted": {"timerxl.config_checks"},
    "timerxl.config": {"timerxl.config_checks", "timerxl.untrusted"},
    "timerxl.command_line": {"timerxl.config", "timerxl.untrusted"},
    "timerxl.files": set(),
    "timerxl.model": set(),
    "timerxl.data": {
        "timerxl.command_line",  # the audit is printed by its own command
        "timerxl.config",
        "timerxl.untrusted",
        "timerxl.files",
    },
    "timerxl.evaluation": {
        "timerxl.command_line",
        "timerxl.config",
        "timerxl.data",
        "timerxl.untrusted",
    },
}
# The hub carries model/ to machines that have torch and transformers, with what these two need.
MODEL_LIBRARIES = {"numpy", "torch", "transformers", "safetensors", "huggingface_hub"}
# Library -> the files and folders that may import it.
DOORS: dict[str, tuple[str, ...]] = {
    "accelerate": ("timerxl/training/",),
    "deepspeed": ("timerxl/training/",),
    "fsspec": ("timerxl/training/checkpoint/mirror.py",),
    "huggingface_hub": ("timerxl/hub/", "timerxl/model/", "timerxl/forecaster.py"),
    "onnx": ("timerxl/onnx_export.py",),
    "onnxruntime": ("timerxl/onnx_export.py",),
    "matplotlib": ("timerxl/report.py", "timerxl/report/"),
    "xarray": ("timerxl/data/era5/grid_files.py", "timerxl/data/forecast_file.py"),
}
TORCH_FREE = (
    "timerxl/__init__.py",
    "timerxl/config.py",
    "timerxl/command_line.py",
    "timerxl/data/",
    "timerxl/evaluation/",
    "timerxl/training/monitors/",
    "timerxl/training/checkpoint/mirror.py",
)
TORCH_ALLOWED = (
    "timerxl/data/store.py",
    "timerxl/data/tiling.py",
    "timerxl/data/windows.py",
    "timerxl/data/forecast_input.py",
    "timerxl/training/monitors/runner.py",  # a stop is agreed by all ranks
)


def part_of(module: str) -> str:
    """``timerxl.data.windows`` -> ``timerxl.data``; a class of the package itself -> its part."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    known = (REPO / "timerxl" / second).is_dir() or (REPO / f"timerxl/{second}.py").is_file()
    return f"{first}.{second}" if first == "timerxl" and second and known else first


@cache
def imports_of(path: str, source: str) -> list[tuple[int, str, bool]]:
    """(line, absolute dotted name, relative?) of every import, inside functions too."""
    package = Path(path).parent.parts
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module)))
            found += [(node.lineno, f"{stem}.{alias.name}", node.level > 0) for alias in node.names]
    return found


def allowed_parts(own: str) -> set[str] | None:
    """Parts of timerxl that ``own`` may import besides itself; None for all of them."""
    return None if own == "launch" or own not in PARTS else PARTS[own]


def faults(path: str, source: str) -> list[str]:
    """Every broken rule of one file, whose ``path`` is relative to the repository."""
    own = part_of(".".join(Path(path).with_suffix("").parts).removesuffix(".__init__"))
    allowed = allowed_parts(own)
    found = []
    for line, name, relative in imports_of(path, source):
        top, part = name.partition(".")[0], part_of(name)
        where = f"{path}:{line}: {own} imports {name}"
        if top == "launch" or (part == "timerxl.cli" and own not in ("launch", part)):
            found.append(f"{where}: commands are the top, nothing imports them")
        if top == "timerxl" and part != own and allowed is not None and part not in allowed:
            found.append(f"{where}: it may import {sorted(allowed) or 'nothing else'} of ours")
        if top in DOORS and not path.startswith(DOORS[top]):
            found.append(f"{where}: only {', '.join(DOORS[top])} may")
        if top == "torch" and path.startswith(TORCH_FREE) and path not in TORCH_ALLOWED:
            found.append(f"{where}: this file stays free of torch")
        if own == "timerxl.model":
            if top == "timerxl" and not relative:
                found.append(f"{where}: the hub carries model/ alone, so import it relatively")
            if top not in MODEL_LIBRARIES | sys.stdlib_module_names | {"timerxl"}:
                found.append(f"{where}: model/ imports only {sorted(MODEL_LIBRARIES)} and itself")
    return found


def our_files() -> list[str]:
    files = [*REPO.glob("timerxl/**/*.py"), *REPO.glob("launch/**/*.py")]
    return sorted(path.relative_to(REPO).as_posix() for path in files)


def test_imports_point_one_way() -> None:
    files = our_files()
    assert "timerxl/config.py" in files
    assert [fault for path in files for fault in faults(path, (REPO / path).read_text())] == []


def test_parts_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for path in our_files():
        own = part_of(".".join(Path(path).with_suffix("").parts).removesuffix(".__init__"))
        seen = {part_of(name) for _, name, _ in imports_of(path, (REPO / path).read_text())}
        graph.setdefault(own, set()).update(p for p in seen - {own} if p.startswith("timerxl"))
    assert graph["timerxl.command_line"] == {"timerxl.config", "timerxl.untrusted"}
    while graph:
        leaves = {part for part, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"these parts import each other in a circle: {sorted(graph)}"
        graph = {part: needs for part, needs in graph.items() if part not in leaves}


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("timerxl/data/bad.py", "from timerxl.model import TimerXLConfig", "may import"),
        ("timerxl/data/bad.py", "import timerxl.evaluation.scores", "may import"),
        ("timerxl/data/bad.py", "def f():\n    from ..model import x", "may import"),
        ("timerxl/evaluation/bad.py", "from timerxl import training", "may import"),
        ("timerxl/config.py", "import timerxl.data.windows", "may import"),
        ("timerxl/report.py", "from launch.train import main", "nothing imports them"),
        ("timerxl/report.py", "from timerxl.cli import train", "nothing imports them"),
        ("timerxl/model/bad.py", "import timerxl.config", "relatively"),
        ("timerxl/model/bad.py", "import pandas as pd", "model/ imports only"),
        ("timerxl/data/bad.py", "import torch.nn", "free of torch"),
        ("timerxl/training/monitors/rules.py", "from torch import Tensor", "free of torch"),
        ("timerxl/report.py", "from accelerate import Accelerator", "only timerxl/training/"),
        ("timerxl/data/readers.py", "import xarray", "only timerxl/data/era5/grid_files.py"),
        ("timerxl/evaluation/bad.py", "import matplotlib.pyplot", "only timerxl/report"),
    ],
)
def test_a_bad_import_is_seen(path: str, source: str, reason: str) -> None:
    found = faults(path, source)
    assert any(reason in fault for fault in found), found
    assert f"{path}:{source.count(chr(10)) + 1}:" in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("timerxl/data/windows.py", "import torch\nfrom timerxl.config import DataConfig"),
        ("timerxl/model/modeling_timerxl.py", "import math\nfrom . import configuration_timerxl"),
        ("timerxl/training/trainer.py", "import accelerate\nfrom timerxl.data import windows"),
        ("timerxl/cli/train.py", "from timerxl.training import trainer"),
        ("launch/train.py", "from timerxl.cli import main_of"),
    ],
)
def test_a_good_import_passes(path: str, source: str) -> None:
    assert faults(path, source) == []


@pytest.mark.slow
def test_recipes_are_read_without_torch() -> None:
    code = "import sys, timerxl.config, timerxl.command_line; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_no_script_hides_a_library() -> None:
    """Python puts launch/ first on the path of its scripts: evaluate.py there IS `evaluate`.

    So a script imports the standard library and timerxl.cli alone; main_of takes the folder off
    the path before anything installed is imported.
    """
    firsts = [REPO / "timerxl" / "__init__.py", REPO / "timerxl" / "cli" / "__init__.py"]
    for path in [*sorted((REPO / "launch").glob("*.py")), *firsts]:
        early = {
            str(alias.name if isinstance(node, ast.Import) else node.module)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        early -= {"__future__", "timerxl", "timerxl.cli"}
        outside = {name for name in early if name.partition(".")[0] not in sys.stdlib_module_names}
        assert not outside, f"{path.name} imports {sorted(outside)} too early"


def test_each_script_of_launch_is_a_command() -> None:
    scripts = {path.stem for path in (REPO / "launch").glob("*.py")}
    commands = {name.replace("-", "_") for name in COMMANDS}
    assert scripts == commands - {"audit"}
    modules = {path.stem for path in (REPO / "timerxl" / "cli").glob("*.py")}
    assert modules == commands | {"__init__", "__main__"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-P"]])
def test_the_library_evaluate_is_found_beside_a_script_of_that_name(
    tmp_path: Path, options: list[str]
) -> None:
    """The script's own text, in a checkout whose command looks for the library `evaluate`."""
    launch, cli = tmp_path / "launch", tmp_path / "timerxl" / "cli"
    shutil.copytree(REPO / "timerxl", tmp_path / "timerxl", ignore=shutil.ignore_patterns("__p*"))
    launch.mkdir()
    shutil.copy(REPO / "launch" / "train.py", launch)
    (launch / "evaluate.py").write_text("raise SystemExit('the wrong one')")
    (cli / "train.py").write_text(
        "import importlib.util, timerxl\ndef main():\n"
        "    print(importlib.util.find_spec('evaluate').origin, timerxl.__file__)\n    return 0\n"
    )
    run = subprocess.run(
        [sys.executable, *options, launch / "train.py"], capture_output=True, text=True, cwd="/"
    )
    assert "/evaluate/__init__.py" in run.stdout, run.stderr
    assert str(tmp_path / "timerxl") in run.stdout
