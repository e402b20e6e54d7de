"""Damaged and hostile inputs: the short form of benchmarks/fuzz.py, and its judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import processes
import pytest

from benchmarks.attack_stage import SECRETS
from benchmarks.fuzz_case import INPUTS, MARKER, OUTPUT, Case, put
from benchmarks.fuzz_damage import Payload, hostile_pickle
from benchmarks.fuzz_hostile import OUTSIDE
from benchmarks.fuzz_inputs import KINDS
from benchmarks.fuzz_judge import Outcome, faults, snapshot

REFUSED = Outcome(2, "", "error: found x, expected y.\n", 0.1)


@pytest.mark.slow
def test_damaged_inputs_end_as_promised() -> None:
    inputs = 2 * len(KINDS)
    command = [sys.executable, "benchmarks/fuzz.py", "--inputs", str(inputs), "--seed", "11"]
    done = processes.run(command, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = {line.split()[0]: line.split()[1:5] for line in done.stdout.splitlines() if line}
    found = {kind: [int(cell) for cell in rows[kind]] for kind in (*KINDS, "all")}
    assert all(found[kind][0] == 2 for kind in KINDS)
    total, refused, accepted, wrong = found["all"]
    assert (total, refused + accepted, wrong) == (inputs, inputs, 0)
    assert min(refused, accepted) > inputs // 8  # both happen


@pytest.fixture
def case(tmp_path: Path) -> Case:
    for name in (INPUTS, OUTPUT, OUTSIDE):
        (tmp_path / name).mkdir()
    (tmp_path / INPUTS / "table.csv").write_text("timestamp,x\n")
    return Case("predict", ["--json"], tmp_path / OUTPUT, "a table")


def judged(case: Case, outcome: Outcome, **written: str) -> list[str]:
    """Faults of a command that wrote these files, "__" standing for "/"."""
    assert case.output is not None
    folder = case.output.parent
    before = snapshot(folder)
    for name, text in written.items():
        (folder / name.replace("__", "/")).write_text(text)
    return faults(case, outcome, before, folder)


def test_the_judge_passes_what_is_right(case: Case) -> None:
    assert judged(case, REFUSED) == []
    assert judged(case, Outcome(0, "{}", "", 0.1)) == []


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(None, "", "", 30.0), "not done after 30 s"),
        (Outcome(-11, "", "error: x\n", 0.1), "exit code -11"),
        (Outcome(2, "", "", 0.1), "0 lines 'error: ...'"),
        (Outcome(2, "", "error: a\nerror: b\n", 0.1), "2 lines 'error: ...'"),
        (Outcome(0, "{}", "error: a\n", 0.1), "exit code 0 with an error"),
        (Outcome(0, "not json", "", 0.1), "no JSON"),
        (Outcome(0, "{}", "", 0.1, alive=2), "2 processes live on"),
        (Outcome(0, "{}", "\x1b]0;title\x07", 0.1), "raw control characters"),
        (Outcome(0, "{}", "region \u202etxet", 0.1), "raw control characters"),
        (Outcome(2, "", "error: a region called a\rerror: FORGED\n", 0.1), "a forged line"),
        (Outcome(2, "", f"error: seed is {SECRETS['DATABASE']}\n", 0.1), "secret of DATABASE"),
        (
            Outcome(2, "", "Traceback (most recent call last):\nKeyError: 'x'\nerror: x\n", 0.1),
            "a traceback",
        ),
    ],
)
def test_the_judge_sees_how_a_command_ends(case: Case, outcome: Outcome, reason: str) -> None:
    assert any(reason in fault for fault in judged(case, outcome))


@pytest.mark.parametrize(
    ("code", "name", "text", "reason"),
    [
        (2, "inputs__table.csv", "other", "inputs were changed"),
        (2, "output__forecasts.csv", "a,b\n1,2\n", "the output was changed"),
        (0, "output__.forecasts.csv.77.tmp", "a,b", "left half-written"),
        (0, "output__results.json", '{"a": ', "can't be read"),
        (0, "output__forecasts.parquet", "PAR1", "can't be read"),
        (0, "output__page.html", "<html><body>", "can't be read"),
        (0, "outside__letter.txt", "{}", "inputs were changed"),
        (0, "output__card.md", SECRETS["MAPS"], "the secret of MAPS"),
        (0, MARKER, "", "code of a file was executed"),
    ],
)
def test_the_judge_sees_what_was_written(
    case: Case, code: int, name: str, text: str, reason: str
) -> None:
    outcome = REFUSED if code else Outcome(0, "{}", "", 0.1)
    assert any(reason in fault for fault in judged(case, outcome, **{name: text}))


def test_an_endless_line_is_seen_where_no_json_was_asked_for(case: Case) -> None:
    outcome = Outcome(0, "x" * 10_000, "", 0.1)
    assert judged(Case("predict", [], case.output, "a table"), outcome) == [
        "a line of 10,000 characters"
    ]


def test_a_link_that_is_written_through_is_seen(case: Case, tmp_path: Path) -> None:
    letter, link = tmp_path / OUTSIDE / "letter.txt", tmp_path / OUTPUT / "metrics.jsonl"
    letter.write_text("mine")
    link.symlink_to(letter)
    assert judged(case, Outcome(0, "{}", "", 0.1)) == []
    before = snapshot(tmp_path)
    link.write_text("{}")
    assert faults(case, Outcome(0, "{}", "", 0.1), before, tmp_path) == [
        "inputs were changed: outside/letter.txt"
    ]


@pytest.mark.slow
def test_the_hostile_pickle_is_hostile(tmp_path: Path) -> None:
    """What the readers must not run does leave its mark where it is unpickled."""
    path = tmp_path / "weights.pth"
    path.write_bytes(hostile_pickle(Random(0), tmp_path / MARKER, None))
    code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / MARKER).exists()
    assert Payload(tmp_path).__reduce__()[0] is os.system


def test_a_case_can_be_made_again(tmp_path: Path) -> None:
    for name in "ab":
        put(Random(5), tmp_path / name, json.dumps({"x": 1}).encode())
    first, second = (tmp_path / name for name in "ab")
    assert first.read_bytes() == second.read_bytes() == b'{"x": 1}'
