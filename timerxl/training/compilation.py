"""torch.compile layer by layer, and the bare model behind what was wrapped around it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch._dynamo.utils import calculate_time_spent
from torch.utils._triton import has_triton_package

from timerxl.config import InputError, RunConfig
from timerxl.device import device_facts
from timerxl.model import TimerXLForClassification

BACKEND = "inductor"
# All layers share one piece of code, compiled for: training and evaluation, all patches and the
# last ones alone, a full batch, a short one and one of a single sample. torch stops at 8.
MAX_VARIANTS = 16


@dataclass(frozen=True)
class CompilerFacts:
    """What Inductor needs: a C++ compiler on a CPU; triton, and a C compiler with Python's headers
    for it, on a GPU."""

    on_gpu: bool
    has_compiler: bool
    has_triton: bool
    has_headers: bool = True


def compiler_facts() -> CompilerFacts:
    """Ask the machine at hand."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # a second, for those who compile
    from torch._inductor.exc import InvalidCxxCompiler

    on_gpu = device_facts().has_gpu
    if on_gpu:
        names = (os.environ.get("CC", ""), "gcc", "clang")
        headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
        return CompilerFacts(True, any(map(shutil.which, names)), has_triton_package(), headers)
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return CompilerFacts(False, False, has_triton_package())
    return CompilerFacts(False, True, has_triton_package())


def launcher_backend(environment: Mapping[str, str]) -> str | None:
    """The backend of ``accelerate launch --dynamo_backend``, or None."""
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    return None if backend in ("", "no") else backend


def is_disabled(environment: Mapping[str, str]) -> bool:
    """torch's own switches, with which torch.compile compiles nothing."""
    return "1" in map(environment.get, ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))


def check_compiler(
    config: RunConfig, environment: Mapping[str, str], facts: Callable[[], CompilerFacts]
) -> None:
    """Raise InputError where ``train.compile`` is asked for and this machine can't compile."""
    if not config.train.compile or launcher_backend(environment) or is_disabled(environment):
        return
    found = facts()
    if found.on_gpu and not found.has_triton:
        raise InputError(
            "train.compile=true needs triton on a GPU, which can't be imported; install the triton "
            "of this torch (pip install torch brings it), or set train.compile=false."
        )
    if found.on_gpu and not found.has_headers:
        raise InputError(
            "train.compile=true needs Python's headers for triton, and Python.h is not there; "
            "install them (apt-get install python3-dev), or set train.compile=false."
        )
    if not found.has_compiler:
        which = "a C compiler (gcc or clang, or CC=PATH)" if found.on_gpu else "g++ (or CXX=PATH)"
        raise InputError(
            f"train.compile=true needs {which}, and none was found; install it, or set "
            "train.compile=false."
        )


def compile_layers(
    config: RunConfig, model: TimerXLForClassification, log: Callable[[str], None]
) -> None:
    """Compile every layer of ``model`` in place, where ``train.compile`` says so.

    The launcher's choice wins: accelerate then compiles in ``prepare``. To be called before that,
    after gradient checkpointing was switched on. The layers compile when they first run.
    """
    backend = launcher_backend(os.environ)
    if backend is None and not config.train.compile:
        return
    if is_disabled(os.environ):
        log("note: TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE is 1: nothing is compiled.")
        return
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_VARIANTS)
    if backend is not None:
        if config.train.compile:
            log(f"note: train.compile=true is not followed: the launcher chose {backend}.")
        log(f"the launcher compiles the model ({backend}).")
        return
    # module.compile() compiles the call and leaves the module what it is. accelerate's regional
    # compilation does so under DeepSpeed, but elsewhere puts every layer into an OptimizedModule,
    # whose parameters are called "_orig_mod...": weights that nobody else could load.
    dynamo.optimize_ddp = False  # it splits graphs where gradients are sent; layers are split
    layers = model.timer_xl.layers
    for layer in layers:
        layer.compile(backend=BACKEND)
    log(
        f"each of {len(layers)} layers is compiled ({BACKEND}): the first steps and the first "
        "evaluation take longer."
    )


def compile_seconds() -> float:
    """Seconds that this process has spent compiling."""
    return float(calculate_time_spent()["total_wall_time"])


def bare_model(accelerator: Accelerator, model: torch.nn.Module) -> Any:
    """The model itself, whatever accelerate, DeepSpeed and torch.compile put around it: its
    parameters have their own names."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)
