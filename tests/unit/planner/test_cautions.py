"""Each warning with its numbers where it belongs, and silence where it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from timerxl.planner.cautions import cautions
from timerxl.planner.devices import DEVICES, GIB, Device
from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Choice, Workload, choose

MakeWorkload = Callable[..., Workload]
T4, L4, A100 = DEVICES["t4"], DEVICES["l4"], DEVICES["a100"]
CPU = Device("cpu", 64.0, {}, is_cpu=True)


def memory(gib: float) -> RankMemory:
    return RankMemory(round(gib * GIB), 0, 0, 0, 0, 0, 0, gradients_complete=0)


def said(
    run: Workload, devices: list[Device], *gib: float, choices: dict[str, Choice] | None = None
) -> list[str]:
    """Warnings of a run that needs ``gib`` on 1, 2, ... GPUs."""
    chosen = choices or {device.name: choose(run, device) for device in devices}
    return cautions(run, devices, {n: memory(g) for n, g in enumerate(gib, 1)}, chosen)


def test_a_run_without_reproach(workload: MakeWorkload) -> None:
    assert said(workload(), [T4, L4], 12.0) == []


@pytest.mark.parametrize(("days", "share"), [(32.0, "25%"), (24.0, "33%"), (8.0, "100%")])
def test_a_long_context(workload: MakeWorkload, days: float, share: str) -> None:
    (found,) = said(workload(series_days=days), [T4], 14.0)  # 16 steps of 12 h
    assert found.startswith("model.context_length=16 is 8 days at 12 h a step, ")
    assert f", {share} of the whole series: " in found
    assert said(workload(series_days=32.1), [T4], 14.0) == []


def test_eager_attention(workload: MakeWorkload) -> None:
    (found,) = said(workload("model.attn_implementation=eager"), [T4], 14.0)
    assert found.startswith("model.attn_implementation=eager keeps every layer's attention matrix")


def test_compiled_layers(workload: MakeWorkload) -> None:
    (found,) = said(workload("train.compile=true"), [T4], 14.0)
    assert found.startswith("train.compile=true is not part of the plan")


def test_idle_tensor_cores(workload: MakeWorkload) -> None:
    run = workload("train.precision=fp32")
    found = said(run, [T4, A100], 14.0, 30.0)
    rates = {"t4": "8.1 of 65", "a100": "19.5 of 312"}
    assert found == [
        f"fp32 uses {rate.replace(' of ', ' of the ')} TFLOP/s that {name} has in half precision; "
        "train.precision=auto uses them."
        for name, rate in rates.items()
    ]
    # Half precision, a device where it gains little, one without any, and a CPU.
    assert said(workload("train.precision=fp16"), [T4], 14.0) == []
    assert said(run, [DEVICES["rtx4090"]], 20.0) == []
    assert said(run, [Device("old", 16.0, {"fp32": 5.0})], 15.0) == []
    assert said(run, [CPU], 1.0) == []


def test_settings_that_are_not_followed(workload: MakeWorkload) -> None:
    run = workload("train.precision=bf16", "train.zero_stage=2")
    # The same sentence of two devices is said once; another device's name makes another.
    v100 = replace(DEVICES["v100"], capability=(7, 5))
    twin = Choice("fp16", 2, choose(run, T4).skipped)
    choices = {"t4": choose(run, T4), "twin": twin, "v100": choose(run, v100)}
    found = said(run, [T4, v100], 14.0, choices=choices)
    assert found == [
        f"train.precision=bf16 becomes fp16: {name} has no bf16 of its own (emulation is slow)."
        for name in ("t4", "v100")
    ]
    assert said(run, [L4], 14.0) == []
    (zero,) = said(run, [CPU], 14.0)
    assert zero.startswith("train.zero_stage=2 is for GPUs;")


def test_memory_left_unused(workload: MakeWorkload) -> None:
    run = workload()
    (found,) = said(run, [T4, L4, A100], 8.0, 10.9)
    # The most any number of GPUs needs: more than half of a T4, less than half of the others.
    assert found == (
        "more than half the memory stays unused on l4 (10.9 of 22.0 GiB), a100 (10.9 of 39.4 GiB): "
        "a larger train.batch_size would use it."
    )
    assert said(run, [L4], 11.0) == []
    assert said(run, [CPU], 1.0) == []
    (found,) = said(workload("train.gradient_checkpointing=true"), [L4], 10.9)
    assert found.endswith(
        "a larger train.batch_size or train.gradient_checkpointing=false would use it."
    )


def test_the_most_serious_comes_first(workload: MakeWorkload) -> None:
    run = workload("model.attn_implementation=eager", "train.precision=bf16", series_days=9.0)
    found = said(run, [T4], 1.0)
    words = ["of the whole series", "becomes fp16", "eager keeps", "stays unused"]
    assert [next(w for w in words if w in sentence) for sentence in found] == words


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", T4, "fp16"),
        ("auto", L4, "bf16"),
        ("auto", CPU, "fp32"),
        ("fp32", A100, "fp32"),
        ("fp16", A100, "fp16"),
        ("bf16", T4, "fp16"),
        ("fp16", CPU, "fp32"),
    ],
)
def test_precision_and_stage_are_the_run_s_own(
    workload: MakeWorkload, precision: str, device: Device, expected: str
) -> None:
    run = workload(f"train.precision={precision}", "train.zero_stage=2")
    found = choose(run, device)
    assert (found.precision, found.zero_stage) == (expected, 0 if device.is_cpu else 2)
    precision_skipped = precision not in ("auto", expected)
    assert len(found.skipped) == precision_skipped + device.is_cpu


def test_gpus_that_torch_has_left_behind(workload: MakeWorkload) -> None:
    """CUDA 13 builds for compute capability 7.5 and later: no Pascal, no Volta."""
    found = said(workload(), [DEVICES[name] for name in ("p100", "v100", "t4")], 14.0)
    assert [sentence.split(" can't")[0] for sentence in found] == [
        "p100 (compute capability 6.0)",
        "v100 (compute capability 7.0)",
    ]
    assert all("PyPI's torch 2.13" in sentence for sentence in found)
