"""What a run says of its cost before the first step, on a GPU whose facts are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.planner import plan_check as prediction
from timerxl.planner import throughput as calibration
from timerxl.planner.devices import CONTEXT_GIB, DEVICES, GIB
from timerxl.planner.one_gpu import one_gpu
from timerxl.planner.plan_check import predict_run
from timerxl.planner.timing import Rate
from timerxl.planner.workload import Choice, Workload, memory_of
from timerxl.training.run_cost import RunFacts

MakeWorkload = Callable[..., Workload]
CONFIG = load_recipe(
    "quickstart",
    (
        "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
        "model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 "
        "model.hidden_dropout=0 train.gradient_checkpointing=true train.zero_stage=2"
    ).split(),
)
ON_A_GPU = RunFacts("fp16", 2, 1, is_gpu=True)


@pytest.fixture
def t4(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls to CUDA's allocator; the device is a T4 where it is asked for."""
    calls: list[str] = []
    monkeypatch.setattr(prediction, "device_at_hand", lambda: DEVICES["t4"])
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    memory = type("Properties", (), {"total_memory": 14.7 * GIB})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    return calls


def predicted() -> Any:
    windows = build_windows(load_series(CONFIG.data), CONFIG.data, CONFIG.model.context_length)
    return predict_run(CONFIG, windows, ON_A_GPU), windows


def test_steps_are_measured_on_a_gpu_too(t4: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def measured(workload: Workload, precision: str, budget_seconds: float) -> Rate:
        budgets.append((precision, budget_seconds))
        torch.rand(7)  # a model's initial weights
        return Rate("t4", precision, 2.0, 65.0, 2 / 65)

    monkeypatch.setattr(prediction, "calibrate", measured)
    before = torch.get_rng_state()
    found, windows = predicted()
    assert torch.equal(torch.get_rng_state(), before)
    assert budgets == [("fp16", 2.0)]
    # Freed, and then forgotten: the peak that the run reports is its own.
    assert t4 == ["empty_cache", "reset_peak_memory_stats"]
    work = prediction.describe_windows(CONFIG, windows)
    seconds = len(windows.issue_rows("train")) * work.flops_per_sample() / 2e12
    assert found.epoch_seconds == pytest.approx(seconds)
    assert "(a few steps measured now)" in found.summary.splitlines()[0]
    # Torch's allocator is what will be measured: the series is in it, the context is not.
    memory = memory_of(work, Choice("fp16", 2), device=DEVICES["t4"])
    assert memory.series == windows.transform.num_bytes > 0
    assert found.peak_memory_gib == pytest.approx(memory.total_gib - CONTEXT_GIB)
    assert found.data_on_device.value == "true"
    assert "train.zero_stage=0" in found.summary.splitlines()[1]


def test_without_room_the_table_is_asked(t4: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any) -> Rate:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(prediction, "calibrate", out_of_memory)
    found, windows = predicted()
    assert t4 == ["empty_cache", "reset_peak_memory_stats"]
    assert "30% of 65 TFLOP/s assumed: no steps could be measured" in found.summary
    work = prediction.describe_windows(CONFIG, windows)
    assert found.epoch_seconds > 10 * len(windows.issue_rows("train")) * work.flops_per_sample() / (
        0.3 * 65e12
    )  # launches


def test_a_cpu_measures_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[float] = []
    measure = calibration.calibrate

    def noted(workload: Workload, precision: str, budget_seconds: float) -> Rate:
        called.append(budget_seconds)
        return measure(workload, precision, 0.1)

    monkeypatch.setattr(prediction, "calibrate", noted)
    windows = build_windows(load_series(CONFIG.data), CONFIG.data, CONFIG.model.context_length)
    found = predict_run(CONFIG, windows, RunFacts("fp32", 0, 1, is_gpu=False))
    assert called == [2.0]
    assert len(found.summary.splitlines()) == 1
    assert found.data_on_device.value == "false"


def test_what_one_gpu_would_save(workload: MakeWorkload) -> None:
    t4 = DEVICES["t4"]
    run = workload("train.zero_stage=2", "train.gradient_checkpointing=true", "train.batch_size=64")
    choice = Choice("fp16", 2)
    found = one_gpu(run, choice, t4, memory_of(run, choice, device=t4))
    assert found is not None
    plain = run.changed(train__gradient_checkpointing=False)
    assert found.without_zero_gib == memory_of(run, Choice("fp16", 0), device=t4).total_gib
    assert (
        found.without_checkpointing_gib == memory_of(plain, Choice("fp16", 0), device=t4).total_gib
    )
    assert found.without_checkpointing_gib > found.without_zero_gib
    # Three forward passes instead of nearly four: a quarter less.
    saved = 1 - plain.flops_per_sample() / run.flops_per_sample()
    assert 0.2 < saved < 0.25
    assert f"for {saved:.0%} fewer operations" in found.sentence()
    assert "(fits)" in found.sentence()
    assert one_gpu(plain, Choice("fp16", 0), t4, memory_of(plain, Choice("fp16", 0))) is None
