"""launch/diagnose.py: the user's two failed runs, clean JSON, bad input, and any damage."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from timerxl.cli import diagnose

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "diagnose.py"
ANALYSIS = ROOT.parent / "shared" / "failed_runs_analysis_es.md"
needs_analysis = pytest.mark.skipif(not ANALYSIS.is_file(), reason="the shared analysis is absent")

# The lines of the two logs in that document.
LARGE = """\
Epoch 1 cost time: 3897.7179651260376 (64.96 min)
Val Accuracy: 69.05% (4160/6025)
Test Accuracy: 63.34% (3817/6026)
Vali Loss: 0.0392924, Test Loss: 0.0413758

Epoch 2 cost time: 3881.464823484421 (64.69 min)
Val Accuracy: 69.05% (4160/6025)  # ⚠️ IDÉNTICO A ÉPOCA 1
Test Accuracy: 63.34% (3817/6026)  # ⚠️ IDÉNTICO A ÉPOCA 1
Vali Loss: 0.0394477, Test Loss: 0.0413155
EarlyStopping counter: 1 out of 8
"""
SMALL = """\
Epoch 1 cost time: 860.0865225791931 (14.33 min)
Val Accuracy: 75.40% (4543/6025)
Test Accuracy: 76.22% (4593/6026)
Vali Loss: 0.0355761, Test Loss: 0.0321258

Epoch 2 cost time: 866.5918929576874 (14.44 min)
Val Accuracy: 70.29% (4235/6025)  # ⚠️ EMPEORÓ -5.1%
Test Accuracy: 72.49% (4368/6026)  # ⚠️ EMPEORÓ -3.7%
Vali Loss: 0.0380584, Test Loss: 0.0342675
EarlyStopping counter: 1 out of 8

Epoch 3 cost time: 865.8048624992371 (14.43 min)
Val Accuracy: 75.42% (4544/6025)  # ⚠️ Volvió pero inestable
Test Accuracy: 70.11% (4225/6026)  # ⚠️ EMPEORÓ -6.1%
Vali Loss: 0.0372419, Test Loss: 0.0420861
EarlyStopping counter: 2 out of 8
"""
DISTRIBUTION = "[VAL]   Class distribution: No Rain=2490, Rain=6415   # 28% / 72% ⚠️\n"
METRICS = "".join(
    json.dumps(event) + "\n"
    for event in [
        {"event": "start", "grace_steps": 3, "dead_features": ["oni"]},
        {"event": "plan", "epoch_seconds": 60.0},
        {"event": "train", "step": 1, "epoch": 0.1, "loss": 0.69, "grad_norm": 1.2},
        {"event": "check", "step": 5, "epoch": 0.5, "accuracy": 0.7, "roc_auc": 0.5},
        {"event": "holdout", "step": 10, "epoch": 1.0, "accuracy": 0.7, "num_windows": 5000},
        {"event": "validation", "step": 10, "epoch": 1.0, "accuracy": 0.8, "num_windows": 5000},
        {"event": "cost", "step": 10, "peak_memory_gb": 3.0, "epoch_seconds": 300.0},
        {"event": "train", "step": 11, "epoch": 1.1, "loss": None, "grad_norm": None},
    ]
)


Json = list[dict[str, Any]]


@pytest.fixture
def found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What --json prints of a text or a file, and the notes."""

    def call(log: str | Path, *arguments: str) -> tuple[Json, str]:
        path = log if isinstance(log, Path) else tmp_path / "console.log"
        if isinstance(log, str):
            path.write_text(log, encoding="utf-8")
        assert diagnose.main([str(path), "--json", *arguments]) == 0
        printed = capsys.readouterr()
        return json.loads(printed.out), printed.err

    return call


def signs(rows: Json) -> list[tuple[int, str, str]]:
    return sorted((row["epoch"], row["name"], row["severity"]) for row in rows)


LARGE_SIGNS = [
    (1, "collapse", "suspected"),
    (1, "divergence", "suspected"),
    (2, "collapse", "certain"),
    (2, "divergence", "suspected"),
]
SMALL_SIGNS = [
    (2, "oscillation", "certain"),
    (3, "divergence", "certain"),
    (3, "oscillation", "certain"),
]


def test_the_large_model_collapsed(found: Any) -> None:
    rows, notes = found(LARGE)
    assert signs(rows) == LARGE_SIGNS
    assert all(list(row) == ["name", "epoch", "severity", "evidence"] for row in rows)
    assert not any("run" in row["evidence"] for row in rows)
    evidence = next(row["evidence"] for row in rows if row["severity"] == "certain")
    assert evidence["rain_share_source"] == "identical counts"
    assert evidence["rain_share"] == pytest.approx(0.690456, abs=1e-6)
    # 2 * 4160 / (6025 + 4160): what the F1 of "always rain" is there.
    assert evidence["always_rain_f1"] == pytest.approx(0.816888, abs=1e-6)
    assert "the same 4160 right answers of 6025 in validation, and the same in test" in notes
    assert "the larger class is taken to be 69.05%" in notes


@pytest.mark.parametrize("given", ["0.69", "4160/6025", ".6905"])
def test_the_large_model_collapsed_at_a_given_base_rate(found: Any, given: str) -> None:
    rows, notes = found(LARGE, "--base-rate", given)
    assert signs(rows) == LARGE_SIGNS
    assert rows[0]["evidence"]["rain_share_source"] == "given"
    assert ("is taken to be 0.690456" in notes) == ("/" not in given)


def test_a_base_rate_that_is_another_is_believed_and_the_likeness_noted(found: Any) -> None:
    rows, notes = found(LARGE, "--base-rate", "0.72")
    assert {row["name"] for row in rows} == {"divergence"}
    assert "as if one class were forecast; but 72.00% is rain." in notes


def test_the_users_class_distribution_does_not_add_up(found: Any) -> None:
    rows, notes = found(DISTRIBUTION + LARGE)
    assert signs(rows) == LARGE_SIGNS
    assert "2490 + 6415 = 8905, is not used: validation has 6025 windows" in notes
    rows, _ = found(DISTRIBUTION.replace("6415", "3535") + LARGE)
    assert {row["name"] for row in rows} == {"divergence"}  # 2490 + 3535 = 6025: 58.67 % rain


def test_the_small_model_oscillated_and_diverged(found: Any) -> None:
    rows, _ = found(SMALL)
    assert signs(rows) == SMALL_SIGNS
    apart = next(row["evidence"] for row in rows if row["name"] == "divergence")
    # 100 * (4544 / 6025 - 4225 / 6026)
    assert apart["points"] == pytest.approx(5.306243, abs=1e-6)


def check_both(rows: Json) -> None:
    assert signs([row for row in rows if row["evidence"]["run"] == 1]) == LARGE_SIGNS
    assert signs([row for row in rows if row["evidence"]["run"] == 2]) == SMALL_SIGNS
    assert {row["evidence"]["run"] for row in rows} == {1, 2}


def test_two_runs_in_a_file_are_told_apart(found: Any) -> None:
    check_both(found(LARGE + DISTRIBUTION + SMALL)[0])


@needs_analysis
def test_the_users_own_document(found: Any) -> None:
    rows, notes = found(ANALYSIS)
    check_both(rows)
    assert "7465, is not used" in notes
    assert "not understood" not in notes
    blocks = re.findall(r"Logs completos\*\*:\n```\n(.*?)```", ANALYSIS.read_text("utf-8"), re.S)
    assert [signs(found(block)[0]) for block in blocks] == [LARGE_SIGNS, SMALL_SIGNS]
    assert blocks[0].split() == LARGE.split()
    assert blocks[1].split() == SMALL.split()


def test_a_cut_off_log_says_so(found: Any) -> None:
    rows, notes = found(SMALL[: SMALL.index("Val Accuracy: 75.42%") + 30])
    assert signs(rows) == SMALL_SIGNS[:1]
    assert 'not understood: "Val Accuracy: 75.42% (4544/602"; left out.' in notes
    assert "epoch 3: no validation accuracy; is the log cut off?" in notes


def test_what_a_person_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "console.log"
    path.write_text(LARGE + SMALL, encoding="utf-8")
    assert diagnose.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("OpenLTM console log: 2 runs, 5 evaluations\n")
    assert "run 1, epoch 2: collapse (certain; suspected at epoch 1)\n    4,160 of 6,025" in text
    assert "    -> Lower optim.lr" in text
    assert "run 2, epochs 2, 3: oscillation (certain)\n" in text
    assert "note: run 1: epochs 1 and 2 have the same 4160 right answers" in text
    assert text.count("note: ") == 3

    path.write_text(SMALL[: SMALL.index("Epoch 2")], encoding="utf-8")
    assert diagnose.main([str(path)]) == 0
    assert "no sign of a bad run in 1 evaluation.\n" in capsys.readouterr().out

    path.write_text(METRICS.replace("oni", "oni\\u001b[2J"), encoding="utf-8")
    assert diagnose.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "before the first epoch, 3 times: dead_input (suspected)" in text
    assert "\x1b" not in text


@pytest.mark.slow
def test_the_script_prints_json_alone_and_quickly(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(METRICS)
    words = [sys.executable, "-X", "importtime", str(SCRIPT), ".", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    names = [(row["name"], row["severity"]) for row in json.loads(done.stdout)]
    assert names == [
        ("dead_input", "suspected"),
        ("collapse", "suspected"),
        ("divergence", "suspected"),
        ("slow", "suspected"),
        ("nonfinite", "certain"),
    ]
    assert "timerxl.training.monitors.rules" in done.stderr
    assert not re.search(r"\| +(torch|pandas)$", done.stderr, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.log"], "does not exist; expected metrics.jsonl of a run"),
        (["."], "is a folder without metrics.jsonl; expected"),
        (["empty"], "is empty; expected"),
        (["binary"], "is a binary file; expected"),
        (["prose"], "holds no event and no epoch; expected"),
    ]
    + [
        (["good", f"--base-rate={text}"], f"--base-rate {text}: expected a share between 0 and 1")
        for text in ["", *"69 69% nan 0 0.0 1.0 -0.1 1e-1 1/0 0/7 7/7 8/7".split()]
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good").write_text(LARGE, encoding="utf-8")
    Path("prose").write_text("hello\n")
    Path("empty").touch()
    Path("binary").write_bytes(b"\x00\xff" * 99)
    for more in ([], ["--json"]):
        assert diagnose.main([*arguments, *more]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert message in printed.err
        assert len(printed.err.splitlines()) == 1


def damaged(dice: random.Random) -> bytes:
    """Logs cut, mixed, shuffled and with bytes turned over."""
    parts = [part.encode() for part in (LARGE, SMALL, DISTRIBUTION, METRICS)]
    text = b"".join(dice.choices(parts, k=dice.randint(1, 4)))
    for _ in range(dice.randint(1, 4)):
        kind, at = dice.randrange(7), dice.randrange(len(text) + 1)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[at:]
        elif kind == 2:
            text = text[:at] + dice.choice(parts) + text[at:]
        elif kind == 3:
            lines = text.splitlines(keepends=True)
            dice.shuffle(lines)
            text = b"".join(lines)
        elif kind == 4:
            text = text[:at] + dice.randbytes(dice.randint(1, 300)) + text[at:]
        elif kind == 5:
            text = text.replace(b"\n", dice.choice([b"\r", b"\r\n", b" ", b"\n\n"]))
        flipped = bytearray(text)
        for _ in range(dice.choice([0, 1, 5, 50]) if flipped else 0):
            place = dice.randrange(len(flipped))
            # Digits and signs make other numbers of numbers, any byte makes anything.
            flipped[place] = dice.choice([*b'0123456789.-eN{}[]",:', dice.randrange(256)])
        text = bytes(flipped)
    return text


def test_no_damage_brings_a_traceback_or_a_hang(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = {0: 0, 2: 0}
    for seed in range(300):
        path = tmp_path / f"{seed}.log"
        path.write_bytes(damaged(random.Random(seed)))
        for arguments in ([], ["--json"], ["--json", "--base-rate", "0.69"]):
            started = time.perf_counter()
            try:
                code = diagnose.main([str(path), *arguments])
            except Exception as error:
                raise AssertionError(f"seed {seed} {arguments}") from error
            assert time.perf_counter() - started < 5, f"seed {seed}"
            printed = capsys.readouterr()
            codes[code] += 1
            if code == 2:
                assert len(printed.err.splitlines()) == 1, f"seed {seed}"
            elif arguments:
                rows = json.loads(printed.out, parse_constant=lambda name: pytest.fail(name))
                assert all(list(row) == ["name", "epoch", "severity", "evidence"] for row in rows)
    assert codes[0] > 500  # most of them still say something
