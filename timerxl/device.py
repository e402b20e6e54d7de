"""Which device a process runs on: the GPU where there is one, the CPU where there is none.

A GPU that is there and can't be used is refused: a run on the CPU in its place would take days, and
nobody would know why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from timerxl.config import InputError

CPU_ON_PURPOSE = "ACCELERATE_USE_CPU=true in the environment trains on the CPU on purpose"
# What names the GPUs of a job. NVIDIA_VISIBLE_DEVICES=all stands in many images, also on machines
# without a GPU: it names none.
_ALLOTMENTS = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
_NAMES_NONE = ("", "-1", "all", "void", "none", "nodevfiles")


@dataclass(frozen=True)
class DeviceFacts:
    """What the decisions need to know of the device."""

    has_gpu: bool
    native_bf16: bool
    name: str


@dataclass(frozen=True)
class GPUFacts:
    """What this machine and this build of torch say of GPUs.

    ``files``: device files of NVIDIA GPUs; ``built_for``: the CUDA or ROCm version of torch, None
    in a build for the CPU; ``capability`` of the first GPU, as (7, 5), and ``architectures`` that
    torch's kernels are built for, as "sm_75".
    """

    files: tuple[str, ...]
    driver: str | None
    built_for: str | None
    is_available: bool
    error: str = ""
    name: str = ""
    capability: tuple[int, int] | None = None
    architectures: tuple[str, ...] = ()


def is_true(environment: Mapping[str, str], name: str) -> bool:
    """Whether a variable is switched on, as accelerate and people write it."""
    return environment.get(name, "").lower() in ("true", "1", "yes")


def wants_cpu(environment: Mapping[str, str] = os.environ) -> bool:
    """True where the CPU was asked for: ``accelerate launch --cpu`` sets this too."""
    return is_true(environment, "ACCELERATE_USE_CPU")


def gpu_facts() -> GPUFacts:
    """Ask the machine and torch."""
    files = tuple(sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*")))
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", version.read_text() if version.exists() else "")
    driver = found[1] if found else None
    built_for = torch.version.cuda or torch.version.hip
    if not torch.cuda.is_available():
        error = ""
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as why:
            error = str(why).strip().partition("\n")[0].partition(" Please")[0]
        return GPUFacts(files, driver, built_for, False, error)
    return GPUFacts(
        files,
        driver,
        built_for,
        True,
        name=torch.cuda.get_device_name(),
        capability=torch.cuda.get_device_capability() if torch.version.cuda else None,
        architectures=tuple(torch.cuda.get_arch_list()),
    )


def gpu_problem(facts: GPUFacts, environment: Mapping[str, str]) -> str | None:
    """Why a GPU that is there can't be used, and what to do; None where all is well."""
    if facts.is_available:
        if facts.capability is None or _has_kernels(facts.capability, facts.architectures):
            return None
        capability = "{}.{}".format(*facts.capability)
        return (
            f"{facts.name} has compute capability {capability}, and torch {torch.__version__} has "
            f"kernels for {' '.join(facts.architectures)} only. Install a build of torch with "
            "kernels for it (builds for an older CUDA keep older GPUs)"
        )
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip().lower() in _NAMES_NONE:
        return None  # hidden on purpose
    allotted = [
        f"{name}={environment[name]}"
        for name in _ALLOTMENTS
        if environment.get(name, "").strip().lower() not in _NAMES_NONE
    ]
    if not allotted and not facts.files:
        return None
    there = " and ".join(filter(None, [", ".join(facts.files), ", ".join(allotted)]))
    if facts.built_for is None:
        why = f"torch {torch.__version__} is built for the CPU alone. Install a build for CUDA"
    elif "No CUDA GPUs are available" in facts.error:
        why = (
            "torch sees none (no CUDA GPUs are available): CUDA_VISIBLE_DEVICES names none of this "
            "machine, or this job may not use it. Correct that variable, or ask the scheduler for "
            "a GPU"
        )
    elif not facts.files:
        why = (
            f"torch sees none{_quoted(facts.error)}. Start the container or job with its GPUs "
            "(docker run --gpus all, sbatch --gres=gpu:1), or correct that variable"
        )
    else:
        driver = f"driver {facts.driver}" if facts.driver else "no driver that answers"
        why = (
            f"torch {torch.__version__}, built for CUDA {facts.built_for}, can't use it with "
            f"{driver}{_quoted(facts.error)}. Install a newer driver (CUDA 13 needs 580 or newer, "
            "CUDA 12 525), or the same torch built for an older CUDA"
        )
    return f"there is a GPU ({there}), but {why}"


def _quoted(error: str) -> str:
    return f" ({error.rstrip('.')})" if error else ""


def _has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Binaries run on the same major capability from their minor one on; PTX (compute_) on any
    newer one. An empty list says nothing, and is trusted."""
    for name in architectures:
        if not (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)):
            continue
        kind, built, specific = found[1], (int(found[2]), int(found[3])), found[4]
        if specific == "a":  # for this very capability alone
            fits = capability == built
        elif kind == "sm":
            fits = capability[0] == built[0] and capability >= built
        else:
            fits = capability >= built
        if fits:
            return True
    return not architectures


def refuse_unusable_gpu(
    on_purpose: str = CPU_ON_PURPOSE, environment: Mapping[str, str] = os.environ
) -> None:
    """Raise InputError where a GPU is there or allotted and torch can't use it; ``on_purpose``
    says how to ask for the CPU."""
    if wants_cpu(environment):
        return
    if (problem := gpu_problem(gpu_facts(), environment)) is not None:
        raise InputError(f"{problem}; {on_purpose}.")


def refuse_more_processes_than_gpus(count: int, environment: Mapping[str, str]) -> None:
    """Raise InputError where this machine runs more processes than it has GPUs (``count``): two
    would share one, which NCCL refuses in words of its own."""
    here = max(
        int(environment.get("LOCAL_WORLD_SIZE", "1")), int(environment.get("LOCAL_RANK", "0")) + 1
    )
    if "WORLD_SIZE" in environment and here > count:
        raise InputError(
            f"{here} processes were started on this machine and it shows them {count} GPU"
            f"{'s' * (count != 1)}: give --num_processes {count} (torchrun: --nproc_per_node), or "
            "more GPUs in CUDA_VISIBLE_DEVICES."
        )


def uses_gpu(environment: Mapping[str, str] = os.environ) -> bool:
    """True where this process will run on a GPU."""
    return torch.cuda.is_available() and not wants_cpu(environment)


def device_facts(environment: Mapping[str, str] = os.environ) -> DeviceFacts:
    """The device this process will use; emulated bf16 (T4, V100) does not count as bf16."""
    if not uses_gpu(environment):
        return DeviceFacts(False, False, "CPU")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return DeviceFacts(True, native, torch.cuda.get_device_name())
