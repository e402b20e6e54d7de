"""Devices and interconnects: the tables that a plan reads, and devices that a user describes.

Peak rates are dense products with fp32 accumulation, without sparsity, from NVIDIA's data sheets;
memory is what the driver reports as usable in GiB. TF32 is off, as torch leaves it, so fp32 is the
rate of the ordinary cores. A rate that is missing means the format is not there natively.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from timerxl.config import InputError
from timerxl.device import DeviceFacts, uses_gpu

GIB = 2**30
# What the driver and the libraries' kernels hold beside torch's allocator, on every device.
CONTEXT_GIB = 0.45
# Share of the peak rate that training steps of this size reach. Two logged epochs in fp32 on a T4
# ran at 0.31 of its 8.1 TFLOP/s; other devices and formats are an assumption until calibrated.
EFFICIENCY = 0.30
# Assumed time of a kernel's launch from Python: no step is shorter than its launches.
LAUNCH_SECONDS = 5e-6

_UNITS = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}
_UNITS |= {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
# A name with one of these words is of a GPU slower or faster than its namesake.
_VARIANTS = set("laptop mobile ti super nvl max mig".split())


@dataclass(frozen=True)
class Device:
    """One kind of GPU, or this machine's CPU: memory in GiB, peak TFLOP/s per number format,
    CUDA's compute capability."""

    name: str
    memory_gib: float
    tflops: dict[str, float] = field(hash=False)
    is_cpu: bool = False
    capability: tuple[int, int] = (8, 0)

    @property
    def facts(self) -> DeviceFacts:
        """What the choice of precision needs to know."""
        return DeviceFacts(not self.is_cpu, "bf16" in self.tflops, self.name)

    def peak_tflops(self, precision: str) -> float:
        """Peak rate of ``precision``; InputError where it isn't known."""
        if precision not in self.tflops:
            raise InputError(
                f"--device {self.name} has no tflops_{precision}, which this run computes in; "
                f"known: {', '.join(f'tflops_{name}' for name in self.tflops)}."
            )
        return self.tflops[precision]


@dataclass(frozen=True)
class Interconnect:
    """Between ranks: nominal GB/s per GPU and direction, the share reached, latency of a hop."""

    name: str
    gb_per_s: float
    efficiency: float
    latency_us: float

    @property
    def bytes_per_s(self) -> float:
        return self.gb_per_s * 1e9 * self.efficiency


DEVICES = {
    name: Device(
        name,
        memory_gib,
        {"fp32": fp32, "fp16": fp16} | ({"bf16": bf16} if bf16 else {}),
        capability=capability,
    )
    for name, memory_gib, fp32, fp16, bf16, capability in (
        ("p100", 15.9, 9.3, 18.7, None, (6, 0)),
        ("v100", 15.8, 15.7, 125.0, None, (7, 0)),
        ("t4", 14.7, 8.1, 65.0, None, (7, 5)),
        ("rtx3090", 23.7, 35.6, 71.0, 71.0, (8, 6)),
        ("rtx4090", 23.6, 82.6, 165.2, 165.2, (8, 9)),
        ("a10g", 22.1, 31.2, 70.0, 70.0, (8, 6)),
        ("l4", 22.0, 30.3, 121.0, 121.0, (8, 9)),
        ("a100", 39.4, 19.5, 312.0, 312.0, (8, 0)),
        ("a100-80", 79.2, 19.5, 312.0, 312.0, (8, 0)),
        ("h100", 79.1, 66.9, 989.4, 989.4, (9, 0)),
    )
}
DEFAULT_DEVICES = "t4,l4,a100"
INTERCONNECTS = {
    link.name: link
    for link in (
        Interconnect("pcie3", 16.0, 0.7, 10.0),
        Interconnect("pcie4", 32.0, 0.7, 10.0),
        Interconnect("nvlink", 300.0, 0.8, 5.0),  # A100: 12 links of 25 GB/s each way
        Interconnect("10gbe", 1.25, 0.8, 40.0),
        Interconnect("25gbe", 3.125, 0.8, 40.0),
        Interconnect("100gbe", 12.5, 0.8, 30.0),
        Interconnect("infiniband", 25.0, 0.9, 5.0),  # HDR, one port a GPU
    )
}
DEFAULT_INTERCONNECT = "pcie4"
_Entry = TypeVar("_Entry", Device, Interconnect)


def parse_size_gib(text: str, key: str) -> float:
    """``15GiB``, ``16GB`` or ``15000MiB`` -> GiB; ``key`` names the option in an error."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", text)
    try:
        size = float(match[1]) * _UNITS[match[2]] / GIB if match else math.nan
    except (KeyError, ValueError):
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(f"{key}={text}: expected a size above 0 such as 15GiB or 16GB.")
    return size


def parse_interconnects(text: str) -> list[Interconnect]:
    """``nvlink,100gbe`` -> entries of the table, each once; InputError on an unknown one."""
    found = [_entry("--interconnect", name, INTERCONNECTS) for name in _names(text)]
    return list(dict.fromkeys(found))


def parse_devices(texts: list[str]) -> list[Device]:
    """``["t4,l4", "name=x,memory=24GiB,tflops_bf16=120"]`` -> devices, each once, in order."""
    found: dict[str, Device] = {}
    for text in texts:
        if "=" in text:
            device = _described(text)
            found.setdefault(device.name, device)
            continue
        for name in _names(text):
            if name == "cpu":
                raise InputError("--device cpu stands alone: this machine, beside no GPU.")
            also = ", or name=NAME,memory=24GiB,tflops_bf16=120"
            found.setdefault(name, _entry("--device", name, DEVICES, also))
    if not found:
        raise InputError(f"--device is empty; expected some of {', '.join(DEVICES)}.")
    return list(found.values())


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip().lower())]


def _entry(option: str, name: str, table: dict[str, _Entry], also: str = "") -> _Entry:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"{option} {name} is unknown; {hint}expected some of {', '.join(table)}{also}."
        )
    return table[name]


def _described(text: str) -> Device:
    """A device of the user's own, as ``name=x,memory=24GiB,tflops_bf16=120``."""
    pairs = [part.partition("=") for part in text.split(",")]
    given = {key.strip(): value.strip() for key, _, value in pairs}
    known = {"name", "memory", "tflops_fp32", "tflops_fp16", "tflops_bf16"}
    if unknown := set(given) - known:
        raise InputError(
            f"--device {text}: unknown {', '.join(sorted(unknown))}; expected "
            f"{', '.join(sorted(known))}."
        )
    if not given.get("name") or "memory" not in given:
        raise InputError(f"--device {text}: expected name= and memory=, such as memory=24GiB.")
    rates = {}
    for key in (key for key in given if key.startswith("tflops_")):
        try:
            rate = float(given[key])
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise InputError(f"--device {text}: {key} is {given[key]!r}; expected TFLOP/s above 0.")
        rates[key.removeprefix("tflops_")] = rate
    if not rates:
        raise InputError(f"--device {text}: expected a rate, such as tflops_bf16=120.")
    memory = parse_size_gib(given["memory"], "--device memory")
    capability = (8, 0) if "bf16" in rates else (7, 5)  # the first with it, the last without
    return Device(given["name"], memory, rates, capability=capability)


def device_called(cuda_name: str) -> Device | None:
    """The table's entry for a name as the driver gives it ("Tesla T4", "NVIDIA L4"), or None."""
    words = re.sub(r"[^a-z0-9]+", " ", cuda_name.lower()).split()
    joined = "".join(words)
    if _VARIANTS & set(words) or ("h100" in words and "pcie" in words):
        return None
    if "a100" in words and "80gb" in words:
        return DEVICES["a100-80"]
    named = [name for name in DEVICES if name in words or (len(name) > 4 and name in joined)]
    return DEVICES[max(named, key=len)] if named else None


def device_at_hand() -> Device:
    """This machine's GPU, or its CPU with the computer's memory."""
    if not uses_gpu():
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        return Device("cpu", memory, {}, is_cpu=True)
    name = torch.cuda.get_device_name()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory, capability = properties.total_memory / GIB, (properties.major, properties.minor)
    if (known := device_called(name)) is not None:
        return Device(known.name, memory, known.tflops, capability=capability)
    native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    rates = {"bf16": math.nan} if native_bf16 else {}
    return Device(name, memory, rates, capability=capability)
