"""How a command ends: its code, its last words, and nothing after them in a rank of several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=60,
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "cleaned up\n"), done.stderr
