"""The examples run as they stand, and say how good the forecast is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["minimal", "trainer"])
def test_an_example_learns_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{name}.py", "--max-steps", "20"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(
        r"validation ROC-AUC: (0\.\d{3}), climatology (0\.\d{3}) \(SYNTHETIC\)", last
    )
    assert found, last
    model, climatology = map(float, found.groups())
    assert 0.6 < climatology < 0.9
    assert 0.65 < model < 1
    assert list(tmp_path.iterdir()) == []
