"""Which Python `make install` takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHOW = "show: ; @echo PYTHON=$(PYTHON)"


def chosen(folder: Path) -> str:
    """make's PYTHON in ``folder``, on a PATH without any Python."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("make", "bash", "sh", "getconf"):
        (tools / name).symlink_to(str(shutil.which(name)))
    shutil.copy(ROOT / "Makefile", folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTHON"))}
    done = subprocess.run(
        [str(tools / "make"), "--eval", SHOW, "show"],
        cwd=folder,
        env=environment | {"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_python_of_an_environment_that_is_there_is_taken(tmp_path: Path) -> None:
    """`uv venv --python 3.11 .venv` where the machine's own Python is another."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    assert chosen(tmp_path) == "PYTHON=.venv/bin/python"


def test_without_any_python_none_is_made_up(tmp_path: Path) -> None:
    assert chosen(tmp_path) == "PYTHON="
