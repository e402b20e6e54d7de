"""One loss trajectory over 20 steps, whatever the layout of the global batch: real launches."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import processes
import pytest
import torch
from processes import ACCELERATE, TORCHRUN
from safetensors.torch import load_file
from settings import ONE_LABEL

pytestmark = pytest.mark.slow

# 90 training windows: batches of 8 end every epoch with one of 2, and 20 steps cross two epochs.
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.05 train.max_steps=20 "
    "train.log_every_steps=1 eval.max_windows=10 train.trackers=[] model.hidden_dropout=0 "
    "model.patch_length=8 model.context_length=32 model.hidden_size=32 "
    "model.intermediate_size=64 loss.name=weighted_cross_entropy eval.fitted_baselines=false "
    "eval.num_resamples=0"
).split()
SCRIPT = ["launch/train.py", "--config", "quickstart", *TINY]
ZERO2 = "--config_file accelerate_configs/zero2_cpu.yaml --main_process_port 0".split()
# A label after each of four patches, the next patch forecast, all regions in one window.
EVERY_PATCH = (
    "data.labels=every_patch loss.next_patch_weight=0.5 data.regions_together=all "
    "data.train_fraction=0.25"
).split()
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


AVERAGED = ["train.ema=0.9", "train.checkpoint_every_steps=10", "train.keep_last=99"]


def average_at_the_end(output_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(output_dir / "checkpoints" / "step_00000020" / "averaged.safetensors")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    train("one process", folder, "train.batch_size=8", *AVERAGED)
    return folder


@pytest.mark.parametrize(
    ("launcher", "goes_on", "tolerance"),
    [
        ("two processes", True, 0.05),
        ("ZeRO-2 fp32", False, 0.05),
        ("ZeRO-2 fp32", True, 0.05),
    ],
)
def test_every_layout_averages_the_same_weights(
    launcher: str, goes_on: bool, tolerance: float, averaged: Path, tmp_path: Path
) -> None:
    """From the start, and on from a checkpoint of one process. The tolerance is a share of the way
    from the average to the weights: Adam makes much of roundings in a gradient near zero."""
    begin = [f"train.resume={averaged}/checkpoints/step_00000010"] if goes_on else []
    overrides = ["train.batch_size=8" if goes_on else "train.batch_size=4", *AVERAGED, *begin]
    train(launcher, tmp_path / "run", *overrides)
    found, expected = average_at_the_end(tmp_path / "run"), average_at_the_end(averaged)
    assert found.pop("n_averaged") == expected.pop("n_averaged") == 20
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    raw = load_file(averaged / "checkpoints" / "step_00000020" / "model.safetensors")
    off, way = (
        math.sqrt(
            sum((one[name] - tensor).square().sum().item() for name, tensor in expected.items())
        )
        for one in (found, raw)
    )
    assert off < tolerance * way
    best = json.loads((tmp_path / "run" / "results.json").read_text())["best_step"]
    at_best = load_file(tmp_path / f"run/checkpoints/step_{best:08d}/averaged.safetensors")
    kept = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(tensor, at_best[name]) for name, tensor in kept.items())


def test_half_precision_weights_are_averaged_in_fp32_under_zero(tmp_path: Path) -> None:
    """By hand from the weights of each step, which a checkpoint holds as exact copies."""
    train(
        "ZeRO-2 bf16", tmp_path, "train.batch_size=4", *AVERAGED, "train.checkpoint_every_steps=1"
    )
    folders = [tmp_path / "checkpoints" / f"step_{step:08d}" for step in range(1, 21)]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    found = average_at_the_end(tmp_path)
    assert found.pop("n_averaged") == 20
    for name, average in found.items():
        expected = weights[0][name].double()
        for made, now in enumerate(weights[1:], start=1):
            kept = min(0.9, (1 + made) / (10 + made))
            expected = kept * expected + (1 - kept) * now[name]
        torch.testing.assert_close(average, expected.float(), rtol=0, atol=1e-6)


# All regions meet in attention, or each has two neighbours, met in the classifier.
@pytest.fixture(scope="module", params=[("all", "attention"), ("2", "classifier")])
def every_patch(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], list[float]]:
    folder = tmp_path_factory.mktemp("every_patch")
    together, mixing = request.param
    settings = [*EVERY_PATCH, f"data.regions_together={together}", f"model.region_mixing={mixing}"]
    return settings, train("one process", folder, "train.batch_size=8", *settings)


@pytest.mark.parametrize(
    ("launcher", "overrides", "tolerance"),
    [
        ("one process", ["train.batch_size=4", "train.accumulation_steps=2"], 1e-5),
        ("two processes", ["train.batch_size=4"], 1e-5),
        ("ZeRO-2 fp32", ["train.batch_size=2", "train.accumulation_steps=2"], 1e-5),
        ("ZeRO-2 bf16", ["train.batch_size=4"], 1e-2),
    ],
)
def test_every_layout_follows_one_trajectory_with_a_label_at_every_patch(
    launcher: str,
    overrides: list[str],
    tolerance: float,
    every_patch: tuple[list[str], list[float]],
    tmp_path: Path,
) -> None:
    settings, expected = every_patch
    losses = train(launcher, tmp_path / "run", *settings, *overrides)
    assert losses == pytest.approx(expected, rel=tolerance)
