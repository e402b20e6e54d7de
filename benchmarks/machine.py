"""What machine a benchmark ran on, in one line."""

from __future__ import annotations

import os
import platform
from datetime import date

import torch


def machine_line() -> str:
    """Date, processor, cores, threads and torch of this process."""
    processor = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            processor = next(line for line in info if "model name" in line).split(":")[1].strip()
    except (OSError, StopIteration):
        pass
    return (
        f"{date.today()}, {processor}, {len(os.sched_getaffinity(0))} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
