"""One run that nobody disturbed, for the tests that disturb one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from whole_runs import STEPS, command, cut_off, events


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished; not to be changed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert command(f"output_dir={folder}") == 0
    assert [event["step"] for event in events(folder, "train")] == STEPS
    (verdict,) = events(folder, "verdict")
    assert (verdict["name"], verdict["step"]) == ("stagnation", 6)
    return folder


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut off before its last step; to be copied."""
    folder = tmp_path_factory.mktemp("half") / "run"
    cut_off(12, f"output_dir={folder}", "train.trackers=[]")
    return folder
