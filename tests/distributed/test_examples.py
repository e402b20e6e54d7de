"""The examples run as they stand, and say how good the forecast is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import processes
import pytest
from processes import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["minimal", "trainer"])
def test_an_example_learns_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    words = [sys.executable, ROOT / "examples" / f"{name}.py", "--max-steps", "20"]
    done = processes.run(words, cwd=tmp_path)
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
