"""What a run was made with: versions, machine, command."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from accelerate import Accelerator

import timerxl
from timerxl.device import device_facts

LIBRARIES = (
    "torch transformers accelerate deepspeed datasets evaluate safetensors numpy pandas "
    "scikit-learn"
).split()


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """One flat object for environment.json."""
    return {
        "timerxl": timerxl.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "device": device_facts().name,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "precision": accelerator.mixed_precision,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
