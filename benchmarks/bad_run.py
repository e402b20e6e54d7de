"""A run set up to go wrong, for monitors.py and the tests.

    python benchmarks/bad_run.py shuffled|rate|head [key=value ...]     (also under torchrun)

shuffled: the labels are shuffled, so that there is nothing to learn; rate: optim.lr=10; head: the
classifier is zero and stays zero, so that every forecast is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

import numpy as np
import torch

from timerxl.command_line import leave, quiet_libraries, run_command
from timerxl.config import load_recipe

KINDS = ("shuffled", "rate", "head")


def shuffled(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load_windows`` whose labels have lost their windows."""

    def load_shuffled(*arguments: Any) -> Any:
        windows, audit = load(*arguments)
        random = np.random.default_rng(0)
        for split in windows.splits:
            rows = windows.issue_rows(split)
            windows.label[rows] = random.permutation(windows.label[rows])
            mixed = torch.from_numpy(windows.label[rows].astype(np.int64))
            windows.transform.label[torch.from_numpy(rows)] = mixed
        return windows, audit

    return load_shuffled


def zero_head(build: Callable[..., Any]) -> Callable[..., Any]:
    """``build_model`` whose last layer is zero and not trained."""

    def build_frozen(*arguments: Any) -> Any:
        model, backbone = build(*arguments)
        for parameter in model.classifier_out.parameters():
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad = False
        return model, backbone

    return build_frozen


def main() -> int:
    quiet_libraries()
    kind, overrides = sys.argv[1], sys.argv[2:]
    if kind not in KINDS:
        raise SystemExit(f"{kind}: expected one of {', '.join(KINDS)}")
    from timerxl.cli import train
    from timerxl.training import run

    if kind == "shuffled":
        run.load_windows = shuffled(run.load_windows)
        overrides = [*overrides, "data.regions_together=none"]  # labels by row, not by time
    elif kind == "head":
        run.build_model = zero_head(run.build_model)
    else:
        overrides = [*overrides, "optim.lr=10"]
    return run_command(lambda: train.run(load_recipe("quickstart", overrides)))


if __name__ == "__main__":
    leave(main())
