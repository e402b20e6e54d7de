"""Compiled runs as they are launched: by accelerate's own option and by train.compile, alone and on
two processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pandas as pd
import processes
import pytest
import torch
from processes import ACCELERATE, ROOT
from safetensors.torch import load_file
from settings import ONE_LABEL

from timerxl import TimerXLForClassification
from timerxl.cli import predict

pytestmark = pytest.mark.slow

TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.05 train.max_steps=14 "
    "train.log_every_steps=1 eval.max_windows=40 train.trackers=[] model.hidden_dropout=0 "
    "model.patch_length=8 model.context_length=32 model.hidden_size=16 "
    "model.intermediate_size=32 eval.fitted_baselines=false eval.num_resamples=0 "
    "eval.every_steps=0"
).split()
# launch/train.py with a backend that needs no compiler and no minute.
TRAIN = f"""
import runpy, sys
from timerxl.training import assembly as compilation
compilation.BACKEND = "aot_eager"
compilation.check_compiler = lambda *_: None
sys.argv[0] = {str(ROOT / "launch" / "train.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ONE = [*ACCELERATE, "--num_processes", "1", "--cpu"]
DYNAMO = ["--dynamo_backend", "aot_eager"]
TORCHRUN = [*processes.TORCHRUN, "2"]
ZERO2 = [
    *(*ACCELERATE, "--main_process_port", "0"),
    *("--config_file", "accelerate_configs/zero2_cpu.yaml"),
    *("--deepspeed_config_file", "ds_configs/zero2_fp32.json"),
]


def train(launcher: list[str], output_dir: Path, *overrides: str, script: str | None = None) -> str:
    """A real launch; what it says on standard output."""
    environment = {"ACCELERATE_USE_CPU": "true"} if launcher is TORCHRUN else {}
    words = ["--config", "quickstart", *TINY, *overrides, f"output_dir={output_dir}"]
    done = processes.run(
        [*launcher, script or "launch/train.py", *words], env=os.environ | environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def losses(run: Path) -> list[float]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "train"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, not compiled, in one process."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    train([sys.executable], folder, "train.batch_size=8")
    return folder


def test_what_the_launcher_compiles_loads_everywhere(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = train([*ONE, *DYNAMO], run, "train.batch_size=8", "train.compile=true")
    assert "the launcher compiles the model (aot_eager)" in said
    assert "train.compile=true is not followed: the launcher chose aot_eager" in said
    assert losses(run) == pytest.approx(losses(reference), rel=1e-5)

    weights = load_file(run / "model" / "model.safetensors")
    assert weights.keys() == load_file(reference / "model" / "model.safetensors").keys()
    loaded = TimerXLForClassification.from_pretrained(run / "model").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())

    output = str(tmp_path / "forecasts.parquet")
    words = ["--model", str(run / "model"), "--input", "synthetic", "--at", "all"]
    assert predict.main([*words, "--output", output]) == 0
    keys = ["region", "issue_time"]
    ours = pd.read_parquet(run / "forecasts.parquet")
    given = pd.read_parquet(output)
    for frame in (ours, given):
        frame["issue_time"] = pd.to_datetime(frame["issue_time"]).dt.tz_localize(None)
    both = ours.merge(given, on=keys, validate="one_to_one")
    assert len(both) == len(ours) == 80
    assert both["model"].to_numpy() == pytest.approx(both["probability_raw"].to_numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("launcher", "checkpointing"),
    [(TORCHRUN, True), (ZERO2, False)],
    ids=["two processes, checkpointing", "ZeRO-2"],
)
def test_compiled_layers_follow_the_trajectory_on_two_processes(
    launcher: list[str], checkpointing: bool, reference: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train_aot_eager.py"
    script.write_text(TRAIN)
    settings = ["train.batch_size=4", "train.compile=true"]
    settings.append(f"train.gradient_checkpointing={str(checkpointing).lower()}")
    run = tmp_path / "run"
    said = train(launcher, run, *settings, script=str(script))
    assert "each of 2 layers is compiled (aot_eager)" in said
    results = json.loads((run / "results.json").read_text())
    assert results["num_processes"] == 2
    assert results["compile_seconds"] > 0
    assert losses(run) == pytest.approx(losses(reference), rel=1e-5)
    weights = load_file(run / "model" / "model.safetensors")
    for name, tensor in load_file(reference / "model" / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_zero_2_under_the_launcher_s_compilation(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train([*ZERO2, *DYNAMO], run, "train.batch_size=4")
    assert losses(run) == pytest.approx(losses(reference), rel=1e-5)
    names = load_file(run / "model" / "model.safetensors").keys()
    assert names == load_file(reference / "model" / "model.safetensors").keys()
