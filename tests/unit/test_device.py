"""A GPU that is there and can't be used is refused; a machine without one is left alone."""

from __future__ import annotations

import pytest

from timerxl import device
from timerxl.config import InputError
from timerxl.device import (
    GPUFacts,
    gpu_facts,
    gpu_problem,
    refuse_more_processes_than_gpus,
    refuse_unusable_gpu,
)

# torch 2.13's list on PyPI for CUDA 13.
CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
NONE = GPUFacts((), None, None, False)
FILES = ("/dev/nvidia0",)


def usable(capability: tuple[int, int], architectures: tuple[str, ...] = CUDA_13) -> GPUFacts:
    return GPUFacts(FILES, "580.65", "13.0", True, "", "a GPU", capability, architectures)


@pytest.mark.parametrize(
    ("capability", "works"),
    [
        ((7, 5), True),  # T4
        ((8, 0), True),  # A100
        ((8, 9), True),  # L4: binaries for 8.0 and 8.6 run on 8.9
        ((9, 0), True),  # H100
        ((10, 3), True),
        ((12, 1), True),  # by PTX or the binary for 12.0
        ((13, 0), True),  # newer than anything: PTX
        ((7, 0), False),  # V100
        ((6, 0), False),  # P100
    ],
)
def test_kernels_for_a_capability(capability: tuple[int, int], works: bool) -> None:
    problem = gpu_problem(usable(capability), {})
    assert (problem is None) == works
    if problem:
        assert "compute capability {}.{}".format(*capability) in problem
        assert "sm_75 sm_80" in problem
        assert "older CUDA" in problem


def test_binaries_for_one_capability_alone() -> None:
    assert gpu_problem(usable((9, 0), ("sm_90a",)), {}) is None
    assert gpu_problem(usable((10, 3), ("sm_100a",)), {}) is not None
    assert gpu_problem(usable((8, 0), ("sm_86",)), {}) is not None  # a newer minor one
    assert gpu_problem(usable((8, 0), ()), {}) is None  # a build that does not say


@pytest.mark.parametrize(
    ("facts", "environment", "words"),
    [
        (NONE, {}, None),
        (NONE, {"NVIDIA_VISIBLE_DEVICES": "all"}, None),  # stands in many images
        (NONE, {"CUDA_VISIBLE_DEVICES": ""}, None),
        (NONE, {"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_GPUS": ""}, None),
        (NONE, {"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0"),
        (NONE, {"NVIDIA_VISIBLE_DEVICES": "GPU-8f2a"}, "NVIDIA_VISIBLE_DEVICES=GPU-8f2a"),
        (NONE, {"SLURM_JOB_GPUS": "3"}, "built for the CPU alone. Install a build for CUDA"),
        (GPUFacts(FILES, "580.1", None, False), {}, "/dev/nvidia0"),
        (GPUFacts(FILES, "580.1", None, False), {"CUDA_VISIBLE_DEVICES": "-1"}, None),
        (
            GPUFacts(
                FILES, "535.104", "13.0", False, "The NVIDIA driver on your system is too old"
            ),
            {},
            "with driver 535.104 (The NVIDIA driver on your system is too old). Install a newer",
        ),
        (
            GPUFacts(FILES, "580.65", "13.0", False, "No CUDA GPUs are available"),
            {"CUDA_VISIBLE_DEVICES": "3"},
            "CUDA_VISIBLE_DEVICES names none of this machine, or this job may not use it",
        ),
        (
            GPUFacts((), None, "13.0", False, "Found no NVIDIA driver on your system."),
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            "sees none (Found no NVIDIA driver on your system). Start the container or job with",
        ),
    ],
)
def test_a_gpu_that_torch_can_t_use(
    facts: GPUFacts, environment: dict[str, str], words: str | None
) -> None:
    problem = gpu_problem(facts, environment)
    if words is None:
        assert problem is None
    else:
        assert words in str(problem)


def test_the_cpu_on_purpose_is_never_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = GPUFacts(FILES, "470.2", "13.0", False)
    monkeypatch.setattr(device, "gpu_facts", lambda: broken)
    with pytest.raises(InputError, match=r"driver 470\.2.*ACCELERATE_USE_CPU=true"):
        refuse_unusable_gpu(environment={})
    for word in ("true", "True", "1"):  # as accelerate launch --cpu and as people write it
        refuse_unusable_gpu(environment={"ACCELERATE_USE_CPU": word})
    with pytest.raises(InputError, match="driver"):
        refuse_unusable_gpu(environment={"ACCELERATE_USE_CPU": "False"})


def test_this_machine_is_asked_without_a_failure() -> None:
    found = gpu_facts()
    assert found.is_available == bool(found.name)


def test_beside_a_gpu_the_cpu_on_purpose_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the plan would be measured on the one device and the run made on the other."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device.uses_gpu({})
    assert not device.uses_gpu({"ACCELERATE_USE_CPU": "true"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not device.uses_gpu({})


@pytest.mark.parametrize(
    ("environment", "count", "refused"),
    [
        ({}, 1, False),
        ({"LOCAL_RANK": "1"}, 1, False),  # left over: no process group
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"}, 4, False),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"}, 2, True),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, True),  # each task sees one GPU
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "7"}, 8, False),
    ],
)
def test_more_processes_than_gpus(environment: dict[str, str], count: int, refused: bool) -> None:
    if refused:
        with pytest.raises(InputError, match=f"--num_processes {count} "):
            refuse_more_processes_than_gpus(count, environment)
    else:
        refuse_more_processes_than_gpus(count, environment)
