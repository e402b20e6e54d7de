"""A measured rate: real steps against a clock of our own, and devices as drivers report them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from timerxl.planner import throughput as calibration
from timerxl.planner.devices import DEVICES, GIB, Device
from timerxl.planner.throughput import calibrate, device_at_hand
from timerxl.planner.workload import Workload

MakeWorkload = Callable[..., Workload]


class Clock:
    """Real steps run; time passes by the list, seconds a sample of each step in turn."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds_a_sample: list[float]) -> None:
        self.now, self.rest = 100.0, list(seconds_a_sample)
        self.batches: list[int] = []
        self.dtypes: set[torch.dtype] = set()
        self.steps: list[Any] = []
        run_step = calibration.run_step

        def timed(step: Any, config: Any, batch_size: int, *rest: Any) -> None:
            self.batches.append(batch_size)
            self.steps.append(step)
            with step.model.timer_xl.layers[0].linear1.register_forward_hook(self._note):
                run_step(step, config, batch_size, *rest)
            self.now += self.rest.pop(0) * batch_size

        patch.setattr(calibration, "run_step", timed)
        patch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def _note(self, module: Any, arguments: Any, output: torch.Tensor) -> None:
        self.dtypes.add(output.dtype)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cpu", 64.0, {}, is_cpu=True)
    monkeypatch.setattr(calibration, "device_at_hand", lambda: device)


@pytest.mark.usefixtures("on_cpu")
def test_the_median_of_three_steps_counts(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workload("train.batch_size=6")
    clock = Clock(monkeypatch, [9.0, 0.01, 7.0, 0.02, 5.0, 0.04])
    found = calibrate(run, "fp32", budget_seconds=30.0)
    assert clock.batches == [
        1,
        1,
        6,
        6,
        6,
        6,
    ]  # two alone, then one unmeasured and three that count
    assert found.tflops == pytest.approx(run.flops_per_sample() / 0.04 / 1e12)
    assert (found.device, found.precision) == ("cpu", "fp32")
    assert (found.peak_tflops, found.efficiency) == (None, None)
    assert clock.dtypes == {torch.float32}


@pytest.mark.usefixtures("on_cpu")
def test_the_micro_batch_is_what_the_budget_allows(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, [1.0] * 6)
    calibrate(workload("train.batch_size=64"), "fp32", budget_seconds=30.0)
    assert clock.batches == [1, 1, 7, 7, 7, 7]  # four steps of 7.5 s each
    assert clock.now - 100.0 <= 30.0 + 2.0


@pytest.mark.usefixtures("on_cpu")
def test_a_step_longer_than_the_budget_is_measured_alone(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workload("train.batch_size=64")
    clock = Clock(monkeypatch, [40.0] * 6)
    found = calibrate(run, "fp32", budget_seconds=30.0)
    assert set(clock.batches) == {1}
    assert found.tflops == pytest.approx(run.flops_per_sample() / 40.0 / 1e12)


@pytest.mark.usefixtures("on_cpu")
def test_the_step_is_the_recipe_s(workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch) -> None:
    run = workload("train.gradient_checkpointing=true", "model.attn_implementation=eager")
    clock = Clock(monkeypatch, [0.1] * 6)
    found = calibrate(run, "bf16")
    assert clock.dtypes == {torch.bfloat16}
    model = clock.steps[0].model
    assert model.is_activation_checkpointing
    assert model.config._attn_implementation == "eager"
    assert clock.steps[0].accumulation_steps == 1
    # Recomputation is work that is done and counted.
    plain = run.changed(train__gradient_checkpointing=False)
    assert run.flops_per_sample() > plain.flops_per_sample()
    assert found.tflops == pytest.approx(run.flops_per_sample() / 0.1 / 1e12)


def test_a_known_device_has_an_efficiency(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workload("train.batch_size=2")
    for device, peak in (
        (Device("t4", 14.7, DEVICES["t4"].tflops, is_cpu=True), 8.1),
        (Device("mine", 14.7, {"fp32": 8.1}, is_cpu=True), None),
    ):
        monkeypatch.setattr(calibration, "device_at_hand", lambda device=device: device)
        Clock(monkeypatch, [0.5] * 6)
        found = calibrate(run, "fp32")
        assert found.peak_tflops == peak
        expected = found.tflops / 8.1 if peak else None
        assert found.efficiency == (pytest.approx(expected) if peak else None)
        monkeypatch.undo()


def test_the_cpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = device_at_hand()
    with open("/proc/meminfo", encoding="ascii") as lines:
        total_kib = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])
    assert found.memory_gib == pytest.approx(total_kib / 2**20, rel=1e-3)
    assert (found.name, found.tflops, found.is_cpu) == ("cpu", {}, True)


@pytest.mark.parametrize(
    ("driver_says", "native_bf16", "name", "formats"),
    [
        ("Tesla T4", False, "t4", {"fp32", "fp16"}),
        ("NVIDIA A100-SXM4-40GB", True, "a100", {"fp32", "fp16", "bf16"}),
        ("NVIDIA L40S", True, "NVIDIA L40S", {"bf16"}),
        ("GeForce GTX 1080", False, "GeForce GTX 1080", set()),
    ],
)
def test_the_gpu_at_hand(
    monkeypatch: pytest.MonkeyPatch,
    driver_says: str,
    native_bf16: bool,
    name: str,
    formats: set[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: driver_says)
    properties = SimpleNamespace(total_memory=14.5 * GIB, major=8, minor=9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native_bf16)
    found = device_at_hand()
    # The memory is this machine's own, not the table's.
    assert (found.name, found.memory_gib, set(found.tflops)) == (name, 14.5, formats)
    assert not found.is_cpu
    assert found.capability == (8, 9)
    assert found.facts.native_bf16 == ("bf16" in formats)
    if name in DEVICES:
        assert found.tflops == DEVICES[name].tflops
