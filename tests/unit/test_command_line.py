"""How a command ends: its code, its last words, and nothing after them in a rank of several."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from timerxl.training.tracking import Log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import atexit
from timerxl.command_line import leave
atexit.register(print, "teardown")
print("last words", end="")
leave(3)
"""


@pytest.mark.parametrize(("ranks", "printed"), [("1", "last wordsteardown\n"), ("2", "last words")])
def test_a_command_ends_with_its_code_and_all_it_said(ranks: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"WORLD_SIZE": ranks},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (3, printed)


def test_a_signal_in_a_destructor_is_not_lost() -> None:
    """Python drops what a destructor raises, and the command would go on to its end."""
    code = """
import os, signal, time
from timerxl.command_line import unwinding_on_signals

class Struck:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

with unwinding_on_signals():
    try:
        Struck()
        time.sleep(5)
        print("went on")
    finally:
        print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (143, "cleaned up\n"), done.stderr


def _said_by(code: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    for sign in done.stdout + done.stderr:
        assert sign.isprintable() or sign == "\n", repr(sign)
    return done.returncode, done.stdout, done.stderr


NAME = r"'\x1b]0;t\x07\x9b31m\r\u202e\u2028\nerror: forged\n  error: forged'"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"raise InputError({NAME})", 2),
        (f"raise RuntimeError({NAME})", 1),
        (f"raise RuntimeError('a') from KeyError({NAME})", 1),
        (f"warnings.warn({NAME}, stacklevel=1)", 0),
        (f"logging.getLogger('x').warning('%s', {NAME})", 0),
        ("t = threading.Thread(target=fail); t.start(); t.join()", 0),
        (f"CommandParser(prog='p').parse_args(['--' + {NAME}.replace(' ', '')])", None),
    ],
)
def test_whatever_is_said_is_plain_lines(command: str, code: int | None) -> None:
    """Errors, tracebacks, warnings, log messages of libraries, other threads, argparse."""
    program = (
        "import logging, sys, threading, warnings\n"
        "from timerxl.command_line import CommandParser, run_command\n"
        "from timerxl.config import InputError\n"
        f"def fail():\n    raise RuntimeError({NAME})\n"
        f"def command():\n    {command}\nsys.exit(run_command(command))"
    )
    found, out, err = _said_by(program)
    assert found == (2 if code is None else code)
    errors = [line for line in (out + err).split("\n") if line.startswith("error:")]
    assert len(errors) == (1 if code == 2 else 0)
    assert r"\x1b]0;t\x07" in out + err


def test_a_run_s_log_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Log()(ast.literal_eval(NAME))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert line.startswith(r"\x1b]0;t\x07")


def test_a_message_of_a_million_lines_is_cut() -> None:
    code, _, err = _said_by(
        "import sys\nfrom timerxl.command_line import run_command\n"
        "def command():\n    raise RuntimeError('x' * 10**6 + 'line\\n' * 10**6)\n"
        "sys.exit(run_command(command))"
    )
    assert code == 1
    assert len(err) < 20_000


def test_json_for_programs_is_ascii_without_control_signs() -> None:
    name = "\x1b]0;t\x07\x7f\x9bé\u202e"
    code, out, _ = _said_by(
        f"from timerxl.command_line import say_json\nsay_json({{{name!r}: [{name!r}]}})"
    )
    assert code == 0
    assert out.isascii()
    assert json.loads(out) == {name: [name]}
