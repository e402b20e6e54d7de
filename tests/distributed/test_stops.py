"""Bad runs are stopped with the right verdict on one and two real processes, and leave a model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import TORCHRUN

from timerxl.model import TimerXLForClassification

pytestmark = pytest.mark.slow

SMALL = (
    "data.synthetic.start=2023-01-01 data.train_fraction=0.5 data.validation_fraction=0.25 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "train.batch_size=16 train.epochs=4 train.log_every_steps=1 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=10"
).split()


def bad_run(kind: str, ranks: int, folder: Path, *overrides: str) -> Any:
    """benchmarks/bad_run.py to its end."""
    launcher = [*TORCHRUN, str(ranks)] if ranks > 1 else [sys.executable]
    return processes.run(
        [*launcher, "benchmarks/bad_run.py", kind, *SMALL, *overrides, f"output_dir={folder}"],
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
    )


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    ("kind", "ranks", "names"),
    [
        ("rate", 2, {"nonfinite", "collapse"}),
        ("head", 2, {"collapse"}),
        ("shuffled", 1, {"collapse"}),
    ],
)
def test_a_bad_run_is_stopped(kind: str, ranks: int, names: set[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = bad_run(kind, ranks, folder)
    code, errors = done.returncode, done.stderr
    assert code == (3 if ranks == 1 else 1), errors[-3000:]  # torchrun turns any code into 1
    status, verdict = read(folder / "status.json"), read(folder / "verdict.json")
    assert status["code"] == 3
    found = verdict["stopped_by"]
    assert found["name"] in names
    assert found["severity"] == "certain"
    assert found in [{k: v for k, v in v.items() if k != "action"} for v in verdict["verdicts"]]
    assert found["explanation"] in status["reason"]
    assert found["remedy"] in errors
    assert "Traceback" not in errors.split("elastic")[0].split("torch.distributed")[0]
    assert not (folder / "results.json").exists()
    # Others may stand beside it; the one of the stop is named.
    checkpoint = folder / status["reason"].rpartition("Checkpoint: ")[2].rstrip(".")
    model = TimerXLForClassification.from_pretrained(checkpoint)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert read(checkpoint / "preprocessing.json")["stopped_by"] == found


def test_warn_lets_the_same_run_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # Nor do the inputs matter, where no forecast of the next patch asks for them.
    alone = "loss.next_patch_weight=0"
    done = bad_run("head", 1, folder, "monitors.collapse=warn", "train.max_steps=60", alone)
    assert done.returncode == 0, done.stderr[-3000:]
    verdict = read(folder / "verdict.json")
    assert verdict["stopped_by"] is None
    assert {"collapse", "dead_input"} <= {found["name"] for found in verdict["verdicts"]}
    assert (folder / "results.json").is_file()
    assert done.stdout.count("warning: collapse (certain)") == 1
