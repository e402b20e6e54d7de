"""launch/report.py: a page again, several compared, code 2 and one line on bad input."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import processes
import pytest

from timerxl.cli import report as command

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "report.py"
Done = tuple[int, str, str]


@pytest.fixture
def report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command in this process: code, stdout, stderr."""

    def call(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        code = command.main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, lr in zip(folders, (0.1, 0.2), strict=True):
        folder.mkdir()
        (folder / "config.yaml").write_text(f"recipe: quickstart\noptim: {{lr: {lr}}}\n")
    return folders


@pytest.mark.slow
def test_as_a_command(runs: list[Path]) -> None:
    done = processes.run([sys.executable, "launch/report.py", runs[0]])
    page = runs[0] / "report" / "index.html"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{page}\n", "")
    assert "Training run quickstart" in page.read_text()


def test_several_are_compared(
    report: Callable[..., Done], runs: list[Path], tmp_path: Path
) -> None:
    page = runs[0] / "report" / "comparison.html"
    assert report(*runs) == (0, f"{page}\n", "")
    assert "<td>0.1</td><td>0.2</td>" in page.read_text()
    assert not (runs[0] / "report" / "index.html").exists()


def test_output(report: Callable[..., Done], runs: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "page.html"
    assert report(*runs, "--output", output) == (0, f"{output}\n", "")
    assert "Comparison of 2 runs" in output.read_text()
    assert report(runs[0], "--output", output) == (0, f"{output}\n", "")
    assert "Training run quickstart" in output.read_text()
    assert not (runs[0] / "report").exists()


@pytest.mark.parametrize("words", [["missing"], ["empty"], ["first", "missing"]])
def test_bad_input(
    report: Callable[..., Done], runs: list[Path], tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = report(*(tmp_path / word for word in words))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / words[-1]} is no run folder")
    assert err.count("\n") == 1
    assert not (runs[0] / "report").exists()


def test_no_run_at_all(report: Callable[..., Done]) -> None:
    with pytest.raises(SystemExit) as left:
        report()
    assert left.value.code == 2
