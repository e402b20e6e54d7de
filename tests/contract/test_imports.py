"""Imports point one way, and each outside library has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
# What a part may import of ours besides itself. A part that is not named here (training, report,
# hub, planner, forecaster, ...) stands between launch/ and these, and may import all but launch/.
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
MODEL_LIBRARIES = {"torch", "transformers", "safetensors", "huggingface_hub"}
# Library -> the files and folders that may import it.
DOORS: dict[str, tuple[str, ...]] = {
    "accelerate": ("timerxl/training/", "launch/"),
    "deepspeed": ("timerxl/training/", "launch/"),
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
        if top == "launch":
            found.append(f"{where}: launch/ is the top, nothing imports it")
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
        ("timerxl/report.py", "from launch.train import main", "nothing imports it"),
        ("timerxl/model/bad.py", "import timerxl.config", "relatively"),
        ("timerxl/model/bad.py", "import numpy as np", "model/ imports only"),
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
        ("launch/train.py", "from timerxl.training import trainer"),
    ],
)
def test_a_good_import_passes(path: str, source: str) -> None:
    assert faults(path, source) == []


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, timerxl.config, timerxl.command_line; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_no_script_hides_a_library() -> None:
    """Python puts launch/ first on the path of its scripts: evaluate.py there IS `evaluate`.

    So every script takes its own folder off the path before it imports anything installed.
    """
    for path in sorted((REPO / "launch").glob("*.py")):
        body = ast.parse(path.read_text()).body
        cleared = [
            index
            for index, node in enumerate(body)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sys.path[:]"
        ]
        assert cleared, f"{path.name} leaves its folder on the path"
        names = {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in body[: cleared[0]]
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        early = {str(name).partition(".")[0] for name in names} - {"__future__"}
        assert early <= set(sys.stdlib_module_names), f"{path.name} imports too early"


def test_the_library_evaluate_is_found_beside_a_script_of_that_name(tmp_path: Path) -> None:
    lines = (REPO / "launch" / "train.py").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("HERE = "))
    script = tmp_path / "train.py"
    (tmp_path / "evaluate.py").write_text("raise SystemExit('the wrong one')")
    header = ["import sys", "from pathlib import Path", *lines[start : start + 2]]
    script.write_text("\n".join([*header, "import evaluate", "print(evaluate.Metric)"]))
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert "evaluate.module.Metric" in run.stdout, run.stderr
