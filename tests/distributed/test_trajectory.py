"""One loss trajectory over 20 steps, whatever the layout of the global batch: real launches."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import processes
import pytest
from processes import ACCELERATE, TORCHRUN

pytestmark = pytest.mark.slow

# 90 training windows: batches of 8 end every epoch with one of 2, and 20 steps cross two epochs.
TINY = (
    "data.synthetic.start=2024-06-01 data.train_fraction=0.05 train.max_steps=20 "
    "train.log_every_steps=1 eval.max_windows=10 train.trackers=[] model.hidden_dropout=0 "
    "model.patch_length=8 model.context_length=32 model.hidden_size=32 "
    "model.intermediate_size=64 loss.name=weighted_cross_entropy eval.fitted_baselines=false "
    "eval.num_resamples=0"
).split()
SCRIPT = ["launch/train.py", "--config", "quickstart", *TINY]
ZERO2 = "--config_file accelerate_configs/zero2_cpu.yaml --main_process_port 0".split()
LAUNCHERS = {
    "one process": [sys.executable],
    "two processes": [*TORCHRUN, "2"],
    "ZeRO-2 bf16": [*ACCELERATE, *ZERO2],
    "ZeRO-2 fp32": [*ACCELERATE, *ZERO2, "--deepspeed_config_file", "ds_configs/zero2_fp32.json"],
}


def train(launcher: str, output_dir: Path, *overrides: str) -> list[float]:
    """The losses of the 20 steps of a real launch."""
    environment = {"ACCELERATE_USE_CPU": "true"} if launcher == "two processes" else {}
    done = processes.run(
        [*LAUNCHERS[launcher], *SCRIPT, *overrides, f"output_dir={output_dir}"],
        env=os.environ | environment,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    results = json.loads((output_dir / "results.json").read_text())
    assert results["num_processes"] == (1 if launcher == "one process" else 2)
    assert json.loads((output_dir / "status.json").read_text())["code"] == 0
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    losses = [event["loss"] for event in events if event["event"] == "train"]
    assert len(losses) == 20
    return losses


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return train("one process", tmp_path_factory.mktemp("reference"), "train.batch_size=8")


@pytest.mark.parametrize(
    ("launcher", "overrides", "tolerance"),
    [
        ("one process", ["train.batch_size=4", "train.accumulation_steps=2"], 1e-5),
        ("one process", ["train.batch_size=8", "train.gradient_checkpointing=true"], 1e-5),
        ("two processes", ["train.batch_size=4"], 1e-5),
        ("ZeRO-2 fp32", ["train.batch_size=4"], 1e-5),
        ("ZeRO-2 fp32", ["train.batch_size=2", "train.accumulation_steps=2"], 1e-5),
        ("ZeRO-2 bf16", ["train.batch_size=4"], 1e-2),
    ],
)
def test_every_layout_follows_one_trajectory(
    launcher: str, overrides: list[str], tolerance: float, reference: list[float], tmp_path: Path
) -> None:
    losses = train(launcher, tmp_path / "run", *overrides)
    assert losses == pytest.approx(reference, rel=tolerance)
