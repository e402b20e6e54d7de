"""Peak memory of a training step, traced with fake tensors: nothing is allocated or computed.

    python benchmarks/step_memory.py [recipe ...] [--batch-size N]

Traced is what the code allocates: weights, gradients, AdamW's state, activations kept for
backward, temporaries, in fp32 and without dropout (a CPU's dropout masks would not be a GPU's).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine_line
from timerxl.config import load_recipe
from timerxl.model import TimerXLConfig
from timerxl.planner.trace import Peak, StepSettings, trace_step
from timerxl.training.assembly import model_config

GIB = 2**30
NUM_VARIABLES, NUM_REGIONS = 27, 5


def recipe_settings(
    name: str, pooling: str | None = None, overrides: Sequence[str] = ()
) -> TimerXLConfig:
    """A recipe's model on 27 variables (of five regions, where they stand together), without
    dropout, optionally with another pooling."""
    recipe = load_recipe(name, list(overrides))
    recipe.model.hidden_dropout = recipe.model.attention_dropout = 0.0
    if pooling is not None:
        recipe.model.pooling = pooling
    num_static = 9 if recipe.data.static_features else 0
    near, together = None, recipe.data.regions_together
    if isinstance(together, int):
        near = (np.arange(NUM_REGIONS)[:, None] + 1 + np.arange(together)) % NUM_REGIONS
    return model_config(recipe, NUM_VARIABLES, num_static, 0.5, NUM_REGIONS, near)


def traced_peak(settings: TimerXLConfig, batch_size: int, checkpointing: bool) -> Peak:
    """The planner's trace of the loop's own step, as a CPU allocates."""
    return trace_step(
        StepSettings(settings, "sdpa", batch_size, checkpointing=checkpointing, on_gpu=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipes", nargs="*", default=["transfer_long"])
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    arguments = parser.parse_args()
    print(machine_line())
    print("peak GiB of a traced fp32 training step, 27 variables, no dropout")
    for name in arguments.recipes:
        settings = recipe_settings(name)
        batch_size = arguments.batch_size or load_recipe(name).train.batch_size
        for checkpointing in (False, True):
            peak = traced_peak(settings, batch_size, checkpointing)
            parts = ", ".join(
                f"{kind} {getattr(peak, kind) / GIB:.2f}"
                for kind in "weights optimizer activations gradients temporary".split()
            )
            mode = "with" if checkpointing else "without"
            print(
                f"{name}, batch {batch_size}, {mode} checkpointing: {peak.total / GIB:.2f} "
                f"({parts})"
            )


if __name__ == "__main__":
    main()
