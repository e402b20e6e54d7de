"""Number format and ZeRO stage: what is asked, what the device has, what the launcher chose."""

from __future__ import annotations

import pytest
import torch

from timerxl.config import InputError
from timerxl.device import DeviceFacts, device_facts
from timerxl.training.precision import choose_data_place, choose_precision, choose_zero_stage

CPU = DeviceFacts(False, False, "CPU")
T4 = DeviceFacts(True, False, "Tesla T4")
A100 = DeviceFacts(True, True, "NVIDIA A100")


@pytest.mark.parametrize(
    ("device", "requested", "expected", "skipped"),
    [
        (CPU, "auto", "fp32", False),
        (CPU, "fp32", "fp32", False),
        (CPU, "bf16", "bf16", False),
        (CPU, "fp16", "fp32", True),
        (T4, "auto", "fp16", False),
        (T4, "bf16", "fp16", True),
        (T4, "fp16", "fp16", False),
        (T4, "fp32", "fp32", False),
        (A100, "auto", "bf16", False),
        (A100, "bf16", "bf16", False),
        (A100, "fp16", "fp16", False),
        (A100, "fp32", "fp32", False),
    ],
)
def test_precision_without_a_launcher(
    device: DeviceFacts, requested: str, expected: str, skipped: bool
) -> None:
    decision = choose_precision(requested, device, None)
    assert decision.value == expected
    assert decision.reason
    assert (decision.skipped is not None) == skipped
    if skipped:
        assert f"train.precision={requested}" in str(decision.skipped)
        assert expected in str(decision.skipped)


@pytest.mark.parametrize("device", [CPU, T4, A100])
@pytest.mark.parametrize("launcher", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("requested", ["auto", "fp32", "fp16", "bf16"])
def test_the_launcher_wins_and_says_what_it_overrules(
    device: DeviceFacts, launcher: str, requested: str
) -> None:
    if (device, launcher) in ((T4, "bf16"), (CPU, "fp16")):
        with pytest.raises(InputError, match="the launcher chose"):
            choose_precision(requested, device, launcher)
        return
    decision = choose_precision(requested, device, launcher)
    assert decision.value == launcher
    assert (decision.skipped is None) == (requested in ("auto", launcher))
    if decision.skipped:
        assert f"train.precision={requested}" in decision.skipped
        assert launcher in decision.skipped


@pytest.mark.parametrize(
    ("device", "requested", "launcher", "expected", "skipped"),
    [
        (A100, 2, None, "2", None),
        (A100, 0, None, "0", None),
        (CPU, 0, None, "0", None),
        (CPU, 2, None, "0", "zero2_cpu.yaml"),
        (CPU, 2, 2, "2", None),
        (A100, 0, 2, "2", "train.zero_stage=0"),
        (A100, 2, 1, "1", "train.zero_stage=2"),
    ],
)
def test_zero_stage(
    device: DeviceFacts, requested: int, launcher: int | None, expected: str, skipped: str | None
) -> None:
    decision = choose_zero_stage(requested, device, launcher)
    assert decision.value == expected
    if skipped is None:
        assert decision.skipped is None
    else:
        assert skipped in str(decision.skipped)


def test_what_the_launcher_chose_and_the_device_has_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"Tesla T4 only emulates.*ds_configs/zero2_fp16\.json"):
        choose_precision("auto", T4, "bf16")
    with pytest.raises(InputError, match=r"fp16, which needs a GPU.*zero2_fp32\.json"):
        choose_precision("auto", CPU, "fp16")


@pytest.mark.parametrize("requested", ["auto", "bf16"])
def test_emulated_bf16_of_a_t4_is_no_bf16(monkeypatch: pytest.MonkeyPatch, requested: str) -> None:
    def as_on_a_t4(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", as_on_a_t4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    facts = device_facts()
    assert facts == T4
    assert choose_precision(requested, facts, None).value == "fp16"


def test_this_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_facts() == CPU


def test_a_cpu_on_purpose_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate launch --cpu: bf16 of the GPU would be taken for the CPU's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_facts({"ACCELERATE_USE_CPU": "True"}) == CPU


@pytest.mark.parametrize(
    ("requested", "series", "planned", "memory", "expected"),
    [
        ("auto", 1.0, 3.0, None, "false"),  # never unasked on a CPU
        ("auto", 1.0, None, 16.0, "false"),
        ("auto", 1.0, 8.0, 10.0, "true"),  # 9 of 10 GiB, a tenth stays free
        ("auto", 1.01, 8.0, 10.0, "false"),
        ("auto", 20.0, 8.0, 79.1, "true"),
        (True, 100.0, 8.0, 10.0, "true"),
        (True, 1.0, None, None, "true"),
        (False, 0.1, 1.0, 79.1, "false"),
    ],
)
def test_where_the_series_lies(
    requested: bool | str,
    series: float,
    planned: float | None,
    memory: float | None,
    expected: str,
) -> None:
    found = choose_data_place(requested, series, planned, memory)
    assert found.value == expected
    if requested == "auto" and planned and memory:
        assert f"{series:.3g} GiB beside {planned:.3g} GiB" in found.reason
        assert f"10% of {memory:.3g} GiB" in found.reason
