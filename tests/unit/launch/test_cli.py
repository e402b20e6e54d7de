"""The console script: its list, its errors, its help, and that it is quick."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from timerxl import __version__, cli

ROOT = Path(__file__).resolve().parents[3]
# Run a command, then say whether torch was imported.
WATCHED = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, file=sys.stderr))
sys.argv[0] = "timerxl"
from timerxl.cli import main
main()
"""


def command(
    *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``timerxl ARGUMENTS`` in this process."""
    monkeypatch.setattr(sys, "argv", ["timerxl", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(str(ended.value.code or 0)), printed.out, printed.err


def test_help_lists_every_command_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = command("--help", capsys=capsys, monkeypatch=monkeypatch)
    assert (code, err) == (0, "")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert listed == list(cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = command("--version", capsys=capsys, monkeypatch=monkeypatch)
    assert found == (0, f"timerxl {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: timerxl COMMAND"),
        (["trian"], "unknown command 'trian': did you mean train?"),
        (["prepare_data"], "did you mean prepare-data?"),
        (["__main__"], "expected one of train, plan"),
        (["x\nerror: y\x1b[31m"], "unknown command"),
    ],
)
def test_no_such_command_is_refused(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = command(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert message in err
    assert "\x1b" not in err
    assert "\nerror: y" not in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_names_the_command(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"timerxl.cli.{name.replace('-', '_')}")
    monkeypatch.setattr(module, "__doc__", module.__doc__)
    code, out, _ = command(name, "--help", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert out.startswith(f"usage: timerxl {name} [-h]")
    assert f"python launch/{name.replace('-', '_')}.py" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "--config", "nothing"], 2),
        (["train", "--config", "quickstart", "train.nothing=1"], 2),
        (["plan"], 2),
        (["predict", "--model", "x"], 2),
        (["evaluate", "--model", "x", "--resamples", "-1"], 2),
        (["publish", "--run", "x"], 2),
        (["prepare-data"], 2),
        (["audit"], 2),
        (["audit", "x.parquet", "word"], 2),
        (["diagnose", "nothing.jsonl"], 2),
        (["convert"], 2),
        (["export", "--model", "x", "--output", "x.pth"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_arguments_are_refused_before_torch_is_imported(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == code
    assert done.stderr.endswith("False\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
