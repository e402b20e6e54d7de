"""What a person reads of a diagnosis: in which order, and nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from timerxl.cli.diagnose import main


def read(path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
    path.write_text(text, encoding="utf-8")
    assert main([str(path)]) == 0
    return str(capsys.readouterr().out)


def log(*right: tuple[int, int]) -> str:
    """A console log with these right answers, of 6000 each, in validation and test."""
    return "".join(
        f"Epoch {number} cost time: 60.0\n"
        f"Val Accuracy: {first / 60:.2f}% ({first}/6000)\n"
        f"Test Accuracy: {second / 60:.2f}% ({second}/6000)\n"
        for number, (first, second) in enumerate(right, start=1)
    )


def headings(text: str) -> list[str]:
    return re.findall(r"^[^ \n].*\)$", text, re.MULTILINE)


def test_the_certain_comes_first_and_the_same_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = read(tmp_path / "log", log((4160, 3800), (4160, 3800)), capsys)
    assert headings(text) == [
        "epoch 2: collapse (certain; suspected at epoch 1)",
        "epochs 1, 2: divergence (suspected)",
    ]
    said = "    4,160 of 6,000 windows are right (69.33%) in two epochs in a row, as if one class"
    assert text.count(said) == text.count("-> Lower optim.lr") == 1
    assert "standard errors come from counts, as if windows were independent" in text


def test_the_first_and_the_last_of_a_sign_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = read(tmp_path / "log", log((4500, 4500), (4100, 4100), (4510, 4510)), capsys)
    assert headings(text) == ["epochs 2, 3: oscillation (certain)"]
    assert "\n    validation accuracy jumped by -6.7 points" in text
    assert "\n    at epoch 3: validation accuracy jumped by +6.8 points" in text


def test_checks_are_counted_and_a_remedy_is_given_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_class = {"event": "check", "predicted_rain_share": 1.0, "rain_share": 0.6}
    events = [
        one_class | {"step": 10 * n, "epoch": n / 4, "roc_auc": 0.5 + n / 1000} for n in (1, 2, 3)
    ]
    text = read(tmp_path / "metrics.jsonl", "\n".join(map(json.dumps, events)), capsys)
    assert text.startswith("metrics.jsonl: 0 evaluations and 3 checks\n")
    assert headings(text) == [
        "epoch 0.75: collapse (certain)",
        "epochs 0.25, 0.5: collapse (suspected)",
    ]
    assert text.count("-> Lower optim.lr") == 1
