"""Sizes and devices as a user writes them, and the table against the chips' own counts."""

from __future__ import annotations

import pytest

from timerxl.config import InputError
from timerxl.device import DeviceFacts
from timerxl.planner.devices import (
    DEFAULT_DEVICES,
    DEVICES,
    Device,
    device_called,
    parse_devices,
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
        ("2147483648B", 2.0),
        (" 2 GiB ", 2.0),
        (".5GiB", 0.5),
    ],
)
def test_sizes(text: str, gib: float) -> None:
    assert parse_size_gib(text, "--fit") == pytest.approx(gib, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GiB", "0", "0GiB", "-1GiB", "15gib", "15 G", "1.2.3GiB", ".", "nan", "inf"),
        *("1e3GiB", "9" * 400 + "GiB", "15GiB 3", "15,5GiB"),
    ],
)
def test_a_size_that_is_none_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_size_gib(text, "--fit")
    assert str(caught.value).startswith(f"--fit={text}: expected a size above 0")


def test_devices_come_once_each_in_the_order_given() -> None:
    found = parse_devices([" L4 ,t4", "t4,a100-80,", "l4"])
    assert found == [DEVICES["l4"], DEVICES["t4"], DEVICES["a100-80"]]
    assert [device.name for device in parse_devices([DEFAULT_DEVICES])] == ["t4", "l4", "a100"]


def test_a_device_of_ones_own() -> None:
    text = "name=mine, memory=24GB, tflops_bf16=120, tflops_fp32=15.5"
    table, own = parse_devices(["t4", text, "name=mine,memory=1GiB,tflops_fp32=1"])
    assert table == DEVICES["t4"]
    assert own.name == "mine"
    assert own.memory_gib == pytest.approx(24e9 / 1024**3, rel=1e-12)
    assert own.tflops == {"bf16": 120.0, "fp32": 15.5}
    assert not own.is_cpu
    assert own.facts == DeviceFacts(has_gpu=True, native_bf16=True, name="mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t44", "--device t44 is unknown; did you mean t4?"),
        ("t4,a100-8", "--device a100-8 is unknown; did you mean a100-80?"),
        ("quantum", "--device quantum is unknown; expected some of p100, v100"),
        ("", "--device is empty"),
        (" , ", "--device is empty"),
        ("name=x,memory=24GiB", "expected a rate"),
        ("name=x,tflops_bf16=120", "expected name= and memory="),
        ("memory=24GiB,tflops_bf16=120", "expected name= and memory="),
        ("name=,memory=24GiB,tflops_bf16=120", "expected name= and memory="),
        ("name=x,memory=much,tflops_bf16=120", "--device memory=much: expected a size"),
        ("name=x,memory=,tflops_bf16=120", "--device memory=: expected a size"),
        ("name=x,memory=24GiB,tflops_bf16=fast", "tflops_bf16 is 'fast'; expected TFLOP/s above 0"),
        ("name=x,memory=24GiB,tflops_fp16=0", "tflops_fp16 is '0'"),
        ("name=x,memory=24GiB,tflops_fp16=-3", "tflops_fp16 is '-3'"),
        ("name=x,memory=24GiB,tflops_fp16=nan", "tflops_fp16 is 'nan'"),
        ("name=x,memory=24GiB,tflops_fp32=inf", "tflops_fp32 is 'inf'"),
        ("name=x,memory=24GiB,tflops=120", "unknown tflops; expected memory, name, tflops_bf16"),
        ("name=x,ram=24GiB,tflops_bf16=120,cost=1", "unknown cost, ram; expected"),
    ],
)
def test_a_device_that_can_t_be_read_is_refused_by_its_option(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_devices([text])
    assert str(caught.value).startswith("--device")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", DEVICES)
def test_the_table_against_the_chips(name: str) -> None:
    device, (cores, clock_ghz, label_gib, capability) = DEVICES[name], CHIPS[name]
    # A core does one fused multiply-add, two operations, a cycle.
    assert device.tflops["fp32"] == pytest.approx(2 * cores * clock_ghz / 1000, rel=0.015)
    assert device.tflops["fp16"] >= 1.99 * device.tflops["fp32"]
    assert 0.9 * label_gib < device.memory_gib < label_gib
    # bfloat16 is native from compute capability 8 on, at the rate of fp16.
    assert device.tflops.get("bf16") == (device.tflops["fp16"] if capability >= 8 else None)
    expected = "bf16" if capability >= 8 else "fp16"
    assert choose_precision("auto", device.facts, None).value == expected


def test_tensor_cores_by_their_count() -> None:
    # 108 SMs x 4 tensor cores x 256 multiply-adds; 40 x 8 x 64; 80 x 8 x 64; 132 x 4 x 512 at the
    # clock of its tensor cores.
    assert DEVICES["a100"].tflops["bf16"] == pytest.approx(108 * 4 * 256 * 2 * 1.410e-3, rel=0.01)
    assert DEVICES["t4"].tflops["fp16"] == pytest.approx(40 * 8 * 64 * 2 * 1.590e-3, rel=0.01)
    assert DEVICES["v100"].tflops["fp16"] == pytest.approx(80 * 8 * 64 * 2 * 1.530e-3, rel=0.01)
    assert DEVICES["h100"].tflops["bf16"] == pytest.approx(132 * 4 * 512 * 2 * 1.830e-3, rel=0.01)


def test_a_rate_that_is_not_known_is_refused() -> None:
    assert DEVICES["t4"].peak_tflops("fp16") == 65.0
    with pytest.raises(InputError, match="--device t4 has no tflops_bf16, which this run") as error:
        DEVICES["t4"].peak_tflops("bf16")
    assert "known: tflops_fp32, tflops_fp16." in str(error.value)


def test_a_cpu_is_no_gpu() -> None:
    assert Device("cpu", 8.0, {}, is_cpu=True).facts == DeviceFacts(False, False, "cpu")


@pytest.mark.parametrize(
    ("driver_says", "name"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA A100-PCIE-40GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
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
