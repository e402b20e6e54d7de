"""What reaches a terminal goes through one place, which cleans it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
WRITERS = ("stdout.write", "stderr.write", "console.print", "tqdm.write", "bar.write")
# (file, function) that may print; everything else calls one of these.
ALLOWED = {
    ("timerxl/command_line.py", "say_json"),
    ("timerxl/evaluation/tables.py", "print_table"),
    ("timerxl/training/tracking.py", "__call__"),  # Log: above a running bar
    ("timerxl/hub/upload.py", "answer_with"),  # one line of JSON for the process that started it
}


def writes(path: str, source: str) -> list[str]:
    """Calls that print in other places than those allowed, and parsers that quote uncleaned."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            prints = called == "print" or called.endswith(WRITERS)
            parses = called.endswith("ArgumentParser")
            if (prints or parses) and (path, function) not in ALLOWED:
                found.append(f"{path}:{node.lineno}: {called}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(source), "")
    return found


def test_only_one_place_prints() -> None:
    paths = sorted([*REPO.glob("timerxl/**/*.py"), *REPO.glob("launch/**/*.py")])
    names = [path.relative_to(REPO).as_posix() for path in paths]
    assert "timerxl/command_line.py" in names
    found = [one for name in names for one in writes(name, (REPO / name).read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "print(name)",
        "sys.stdout.write(name)",
        "sys.stderr.write(name)",
        "console.print(table)",
        "tqdm.write(name)",
        "bar.write(name)",
        "parser = argparse.ArgumentParser()",
    ],
)
def test_another_place_is_seen(line: str) -> None:
    assert len(writes("timerxl/data/bad.py", f"def f():\n    {line}")) == 1


def test_no_second_cleaner() -> None:
    """One cleaner of names: the others forgot one kind of sign each."""
    paths = [*REPO.glob("timerxl/**/*.py"), *REPO.glob("launch/**/*.py")]
    found = {
        path.relative_to(REPO).as_posix() for path in paths if "isprintable" in path.read_text()
    }
    assert found == {"timerxl/untrusted.py"}
