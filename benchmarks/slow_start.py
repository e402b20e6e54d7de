"""A healthy run that says "rain" to everything for its first few hundred steps, for monitors.py.

    python benchmarks/slow_start.py [key=value ...]

The head begins with small weights and a bias towards rain, and a small learning rate warms up for
half of the run: for long no forecast differs from the others by enough to say "dry".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

import torch

from timerxl.command_line import leave, quiet_libraries, run_command
from timerxl.config import load_recipe

SLOW = ["optim.lr=6e-6", "optim.warmup_ratio=0.5", "train.epochs=3"]
WEIGHT, BIAS = 0.1, 0.15  # of the last layer: times its first weights; logit of rain at the start


def biased_head(build: Callable[..., Any]) -> Callable[..., Any]:
    """``build_model`` whose last layer leans to rain at the start; all of it is trained."""

    def build_biased(*arguments: Any) -> Any:
        model, backbone = build(*arguments)
        with torch.no_grad():
            model.classifier_out.weight.mul_(WEIGHT)
            model.classifier_out.bias.copy_(torch.tensor([-BIAS, BIAS]))
        return model, backbone

    return build_biased


def main() -> int:
    quiet_libraries()
    from timerxl.cli import train
    from timerxl.training import run

    run.build_model = biased_head(run.build_model)
    return run_command(lambda: train.run(load_recipe("quickstart", [*SLOW, *sys.argv[1:]])))


if __name__ == "__main__":
    leave(main())
