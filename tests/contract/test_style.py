"""No catch-all modules, no path of one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
FOLDERS = "timerxl launch examples tests benchmarks docs accelerate_configs ds_configs .ci"
TEXT = {".py", ".md", ".ipynb", ".toml", ".txt", ".yaml", ".yml", ".json", ".sh", ".cfg", ""}
# A home folder or a workplace. /tmp and /path/to are nobody's; a URL or ${HOME}/work is no match.
MACHINE_PATH = re.compile(r"(?<![\w.:}/])(/(?:home|Users|root|work)/\.?\w[\w./-]*)")
CATCH_ALL = {"utils.py", "helpers.py", "util.py", "helper.py", "misc.py", "common.py"}


def files() -> Iterator[Path]:
    yield from (path for path in REPO.iterdir() if path.is_file() and path.name != ".git")
    for folder in FOLDERS.split():
        for path in sorted((REPO / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def text_files() -> list[Path]:
    return [path for path in files() if path.suffix in TEXT]


def python_files() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def machine_paths(text: str) -> list[str]:
    return MACHINE_PATH.findall(text)


def test_no_catch_all_module() -> None:
    assert [path for path in python_files() if path.name in CATCH_ALL] == []


def test_no_path_of_a_machine() -> None:
    texts = text_files()
    assert REPO / "Makefile" in texts
    assert REPO / "timerxl" / "config.py" in texts
    found = {
        str(path.relative_to(REPO)): machine_paths(path.read_text())
        for path in texts
        if path != Path(__file__).resolve()
    }
    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize(
    "text",
    [
        "data = '/home/ana/rain.parquet'",
        "/".join(["see ", "work", "main"]),
        "/".join(["(", "root", ".cache", "x)"]),
        "/Users/a/b",
    ],
)
def test_a_path_of_a_machine_is_seen(text: str) -> None:
    assert machine_paths(text)


@pytest.mark.parametrize(
    "text",
    [
        "/path/to/python",
        "/tmp/x",
        "/".join(["src", "work", "main.py"]),
        "a/home/b",
        "https://x.org/home/y",
    ],
)
def test_a_path_of_no_machine_passes(text: str) -> None:
    assert machine_paths(text) == []
