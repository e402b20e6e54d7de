"""Sizes, devices and interconnects as a user writes them, and the tables against data sheets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from timerxl.config import InputError
from timerxl.device import DeviceFacts
from timerxl.planner.devices import (
    DEFAULT_DEVICES,
    DEVICES,
    GIB,
    INTERCONNECTS,
    device_at_hand,
    device_called,
    parse_devices,
    parse_interconnects,
    parse_size_gib,
)
from timerxl.training.precision import choose_precision

# Cores, boost clock in GHz, memory on the label in GiB, compute capability: NVIDIA's data sheets.
CHIPS = {
    "p100": (3584, 1.303, 16, 6.0),
    "v100": (5120, 1.530, 16, 7.0),
    "t4": (2560, 1.590, 16, 7.5),
    "rtx3090": (10496, 1.695, 24, 8.6),
    "rtx4090": (16384, 2.520, 24, 8.9),
    "a10g": (9216, 1.710, 24, 8.6),
    "l4": (7424, 2.040, 24, 8.9),
    "a100": (6912, 1.410, 40, 8.0),
    "a100-80": (6912, 1.410, 80, 8.0),
    "h100": (16896, 1.980, 80, 9.0),
}


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("15GiB", 15.0),
        ("16GB", 16e9 / 1024**3),
        ("15000MiB", 15000 / 1024),
        ("1.5TiB", 1536.0),
        ("1TB", 1e12 / 1024**3),
        ("512KiB", 512 / 1024**2),
        ("500MB", 0.5e9 / 1024**3),
        ("250KB", 0.25e6 / 1024**3),
        ("1073741824B", 1.0),
        (" 2 GiB ", 2.0),
        (".5GiB", 0.5),
    ],
)
def test_sizes_are_read_in_their_units(text: str, gib: float) -> None:
    assert parse_size_gib(text, "--fit") == pytest.approx(gib, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GiB", "0", "0GiB", "-1GiB", "15gib", "15 G", "1.2.3GiB", ".", "nan", "inf"),
        *("1e3GiB", "9" * 400 + "GiB", "15GiB 3", "15,5GiB"),
    ],
)
def test_anything_but_a_size_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size_gib(text, "--fit")
    assert str(caught.value).startswith(f"--fit={text}: expected a size above 0")


def test_devices_and_interconnects_come_once_each_in_the_order_given() -> None:
    found = parse_devices([" L4 ,t4", "t4,a100-80,", "l4"])
    assert found == [DEVICES["l4"], DEVICES["t4"], DEVICES["a100-80"]]
    assert [device.name for device in parse_devices([DEFAULT_DEVICES])] == ["t4", "l4", "a100"]
    links = parse_interconnects(" NVLink ,100gbe,nvlink")
    assert links == [INTERCONNECTS["nvlink"], INTERCONNECTS["100gbe"]]
    assert parse_interconnects("") == []


def test_a_device_of_ones_own() -> None:
    text = "name=mine, memory=24GB, tflops_bf16=120, tflops_fp32=15.5"
    table, own = parse_devices(["t4", text, "name=mine,memory=1GiB,tflops_fp32=1"])
    assert table == DEVICES["t4"]
    assert (own.name, own.is_cpu) == ("mine", False)
    assert own.memory_gib == pytest.approx(24e9 / 1024**3, rel=1e-12)
    assert own.tflops == {"bf16": 120.0, "fp32": 15.5}
    assert own.facts == DeviceFacts(has_gpu=True, native_bf16=True, name="mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t44", "--device t44 is unknown; did you mean t4?"),
        ("t4,a100-8", "--device a100-8 is unknown; did you mean a100-80?"),
        ("quantum", "--device quantum is unknown; expected some of p100, v100"),
        (" , ", "--device is empty"),
        ("cpu,t4", "--device cpu stands alone"),
        ("name=x,memory=24GiB", "expected a rate"),
        ("name=x,tflops_bf16=120", "expected name= and memory="),
        ("name=,memory=24GiB,tflops_bf16=120", "expected name= and memory="),
        ("name=x,memory=much,tflops_bf16=120", "--device memory=much: expected a size"),
        ("name=x,memory=24GiB,tflops_bf16=fast", "tflops_bf16 is 'fast'; expected TFLOP/s above 0"),
        ("name=x,memory=24GiB,tflops_fp16=0", "tflops_fp16 is '0'"),
        ("name=x,memory=24GiB,tflops_fp16=nan", "tflops_fp16 is 'nan'"),
        ("name=x,memory=24GiB,tflops_fp32=inf", "tflops_fp32 is 'inf'"),
        ("name=x,ram=24GiB,tflops_bf16=120,cost=1", "unknown cost, ram; expected memory, name"),
    ],
)
def test_a_device_that_can_t_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_devices([text])
    assert str(caught.value).startswith("--device")
    assert message in str(caught.value)


def test_an_unknown_interconnect_is_refused() -> None:
    with pytest.raises(InputError, match=r"--interconnect nvlnk is unknown; did you mean nvlink\?"):
        parse_interconnects("pcie4,nvlnk")


@pytest.mark.parametrize("name", DEVICES)
def test_the_table_against_the_chips(name: str) -> None:
    device, (cores, clock_ghz, label_gib, capability) = DEVICES[name], CHIPS[name]
    # A core does one fused multiply-add, two operations, a cycle.
    assert device.tflops["fp32"] == pytest.approx(2 * cores * clock_ghz / 1000, rel=0.015)
    assert device.tflops["fp16"] >= 1.99 * device.tflops["fp32"]
    assert 0.9 * label_gib < device.memory_gib < label_gib
    assert device.capability == divmod(round(10 * capability), 10)
    # bfloat16 is native from compute capability 8 on, at the rate of fp16.
    assert device.tflops.get("bf16") == (device.tflops["fp16"] if capability >= 8 else None)
    expected = "bf16" if capability >= 8 else "fp16"
    assert choose_precision("auto", device.facts, None).value == expected


@pytest.mark.parametrize(
    ("name", "multiply_adds", "clock_ghz"),
    [
        ("a100", 108 * 4 * 256, 1.410),  # SMs x tensor cores x multiply-adds a cycle
        ("t4", 40 * 8 * 64, 1.590),
        ("v100", 80 * 8 * 64, 1.530),
        ("h100", 132 * 4 * 512, 1.830),  # the clock of its tensor cores
    ],
)
def test_half_precision_against_the_count_of_tensor_cores(
    name: str, multiply_adds: int, clock_ghz: float
) -> None:
    expected = 2 * multiply_adds * clock_ghz / 1000
    assert DEVICES[name].tflops["fp16"] == pytest.approx(expected, rel=0.01)


def test_interconnects_by_their_lanes() -> None:
    """GB/s of one direction: lanes x signalling rate / 8 bits, or the name's Gbit/s / 8."""
    nominal = {
        "pcie3": 16 * 8 / 8,
        "pcie4": 16 * 16 / 8,
        "nvlink": 12 * 25,
        "10gbe": 10 / 8,
        "25gbe": 25 / 8,
        "100gbe": 100 / 8,
        "infiniband": 200 / 8,
    }
    assert {name: link.gb_per_s for name, link in INTERCONNECTS.items()} == nominal
    assert all(0 < link.efficiency <= 1 for link in INTERCONNECTS.values())
    assert INTERCONNECTS["pcie4"].bytes_per_s == pytest.approx(32e9 * 0.7)


def test_a_rate_that_is_not_known_is_refused() -> None:
    assert DEVICES["t4"].peak_tflops("fp16") == 65.0
    with pytest.raises(InputError, match="--device t4 has no tflops_bf16, which this run") as error:
        DEVICES["t4"].peak_tflops("bf16")
    assert "known: tflops_fp32, tflops_fp16." in str(error.value)


@pytest.mark.parametrize(
    ("driver_says", "name"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA L4", "l4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla P100-PCIE-16GB", "p100"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L40S", None),
        ("NVIDIA L40", None),
        ("NVIDIA A10", None),
        ("NVIDIA GeForce GTX 1080 Ti", None),
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_names_as_the_driver_gives_them(driver_says: str, name: str | None) -> None:
    assert device_called(driver_says) == (DEVICES[name] if name else None)


def test_the_cpu_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = device_at_hand()
    with open("/proc/meminfo", encoding="ascii") as lines:
        total_kib = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])
    assert found.memory_gib == pytest.approx(total_kib / 2**20, rel=1e-3)
    assert (found.name, found.tflops, found.is_cpu) == ("cpu", {}, True)
    assert found.facts == DeviceFacts(False, False, "cpu")


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
    properties = SimpleNamespace(total_memory=14.5 * GIB, major=8, minor=9)
    for key, value in {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_name": lambda: driver_says,
        "get_device_properties": lambda index: properties,
        "is_bf16_supported": lambda including_emulation: native_bf16,
    }.items():
        monkeypatch.setattr(torch.cuda, key, value)
    found = device_at_hand()
    # The memory is this machine's own, not the table's.
    assert (found.name, found.memory_gib, set(found.tflops)) == (name, 14.5, formats)
    assert (found.is_cpu, found.capability) == (False, (8, 9))
    assert found.facts.native_bf16 == ("bf16" in formats)
    if name in DEVICES:
        assert found.tflops == DEVICES[name].tflops
