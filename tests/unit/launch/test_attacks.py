"""Small real attacks: the short form of benchmarks/attacks.py, and its judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

from benchmarks.attack_stage import (
    MARKER,
    SECRETS,
    Ended,
    Stage,
    end_all,
    harms_of,
    living,
    secrets_in_folder,
)

REPO = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_kind_of_attack_does_no_harm() -> None:
    command = [sys.executable, "benchmarks/attacks.py", "--variants", "2", "--shown", "99"]
    done = processes.run(command, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "\n10 of 10 rows held" in done.stdout


def test_canaries_tell_what_was_changed(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage", tmp_path, REPO)
    assert stage.harms() == []
    link = stage.work / "metrics.jsonl"
    link.symlink_to(stage.letter)
    assert stage.harms() == []
    link.write_text("cut")
    (stage.outside / "empty" / "new").touch()
    assert stage.harms() == ["outside changed: empty/new, letter.txt"]
    (stage.work / MARKER).touch()
    assert "code of a file was executed (EXECUTED)" in stage.harms()


@pytest.mark.parametrize(
    ("ended", "harm"),
    [
        (Ended(0, "fine\tas it is\r50 %\n", "", 0.1, 0), None),
        (Ended(2, "", "note: x\nerror: y\n", 0.1, 0), None),
        (Ended(2, "", "", 0.1, 0), "exit code 2 with 0 lines"),
        (Ended(2, "", "error: a\nerror: b\n", 0.1, 0), "exit code 2 with 2 lines"),
        (Ended(-9, "", "", 0.1, 0), "exit code -9"),
        (Ended(1, "", "Traceback (most recent call last):\nKeyError: 1\n", 0.1, 0), "a traceback"),
        (Ended(0, "\x1b]0;title\x07", "", 0.1, 0), "raw control characters"),
        (Ended(0, "", "a\u2028b \u202ec", 0.1, 0), "raw control characters"),
        (Ended(0, "region a\rerror: FORGED", "", 0.1, 0), "a forged line"),
        (Ended(0, "x" * 5_000, "", 0.1, 0), "a line of 5,000 characters"),
        (Ended(None, "", "", 9.0, 0, ("9.0 s of CPU, over 2",)), "9.0 s of CPU"),
    ],
)
def test_the_judge_sees_how_a_command_ends(ended: Ended, harm: str | None) -> None:
    found = harms_of(ended)
    assert (found == []) == (harm is None), found
    assert harm is None or any(harm in one for one in found)


def test_secrets_are_found_in_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(f"licence: {SECRETS['DATABASE']}")
    (tmp_path / SECRETS["MAPS"]).mkdir()
    found = secrets_in_folder(tmp_path, ("more",))
    assert found == [f"MAPS in {SECRETS['MAPS']}", "DATABASE in card.md"]
    assert secrets_in_folder(tmp_path, ("licence",))[-1] == "licence in card.md"


@pytest.mark.slow
def test_what_lives_on_in_a_session_of_its_own_is_found(tmp_path: Path) -> None:
    environment = os.environ | {"TIMERXL_ATTACK": str(tmp_path)}
    code = "import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 10
        while not (found := living(str(tmp_path), -1)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found == [process.pid]
        end_all(found)
        assert process.wait(10) == -signal.SIGKILL
        assert living(str(tmp_path), -1) == []
    finally:
        process.kill()
        process.wait()
