"""Every command of the README: run as it stands with a small bound, or, where it needs GPUs, the
reader's data or an earlier run, parsed down to its recipe, overrides, options and files.

Commands of the pages in docs/ are parsed. Those of scaling.md and colab.md have a test of their
own, and those of data.md's table of sources are run by tests/unit/data/test_sources.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import processes
import pytest

from timerxl.config import load_recipe

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.stem not in ("scaling", "colab", "data")
}
BLOCKS = re.compile(
    r"(?:<!-- needs: (?P<needs>gpu|data|run) -->\n)?```bash\n(?P<body>.*?)```", re.S
)
# Bounds put behind a command that is run, so that the suite stays short.
SMALL = "train.max_steps=2 eval.max_windows=40 train.batch_size=4 eval.num_resamples=50".split()
SMALL += ["eval.fitted_baselines=false", "data.synthetic.start=2023-06-01"]


def commands(marked: bool, text: str = README) -> list[str]:
    """The lines of the bash blocks that are, or are not, marked with what they need."""
    found = []
    for block in BLOCKS.finditer(text):
        lines = [line.split("  #")[0].strip() for line in block["body"].splitlines()]
        if bool(block["needs"]) == marked:
            found += [line for line in lines if line and not line.startswith("#")]
    return found


def test_the_readme_has_commands_of_both_kinds() -> None:
    assert "make quickstart" in " ".join(commands(marked=False))
    assert "make test" in " ".join(commands(marked=False))
    assert len(commands(marked=True)) >= 4
    assert README.count("```bash") == len(list(BLOCKS.finditer(README)))


def commands_of_pages() -> list[str]:
    found = {
        c for text in PAGES.values() for marked in (True, False) for c in commands(marked, text)
    }
    return sorted(command for command in found - set(commands(True)) if "launch/" in command)


def test_the_pages_have_commands() -> None:
    found = "\n".join(commands_of_pages() + commands(marked=True))
    for script in ("convert", "diagnose", "evaluate", "plan", "publish", "export"):
        assert f"launch/{script}.py" in found


@pytest.mark.slow
@pytest.mark.parametrize("command", commands(marked=True) + commands_of_pages())
def test_a_command_that_needs_more_is_parsed(command: str) -> None:
    words = shlex.split(command)
    scripts = [word for word in words if word.startswith("launch/")]
    assert scripts, command
    assert (ROOT / scripts[0]).is_file()
    if "--config_file" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    if "--config" in words:
        recipe = words[words.index("--config") + 1]
        load_recipe(recipe, [w for w in words if "=" in w and not w.startswith("-")])
    if scripts[0] != "launch/train.py":
        for option in (word for word in words if word.startswith("--")):
            assert option in processes.help_of(scripts[0])


def check(done: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "Model: " in done.stdout, done.stdout[-2000:]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands(marked=False) if "launch/train" in c])
def test_a_training_command_runs(command: str, tmp_path: Path) -> None:
    words = [w for w in shlex.split(command) if not w.startswith("output_dir=")]
    check(processes.run([*words, *SMALL, f"output_dir={tmp_path / 'run'}"]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands(marked=False) if "launch/plan" in c])
def test_a_planning_command_runs(command: str) -> None:
    done = processes.run([sys.executable, *shlex.split(command)[1:]])
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Peak memory of each GPU" in done.stdout
    assert "Why transfer_long needs what it needs" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv" / ".installed").exists(), reason="make has no .venv here")
def test_make_quickstart_runs(tmp_path: Path) -> None:
    bounds = " ".join([*SMALL, f"output_dir={tmp_path / 'run'}"])
    words = ["make", "quickstart", f"QUICKSTART_ARGS={bounds}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )
    check(done, tmp_path)


@pytest.mark.slow
def test_make_test_is_what_it_says() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "test"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    for tool in ("ruff check", "ruff format --check", "mypy timerxl launch", "pytest"):
        assert tool in planned
