"""Peak memory of a training step, traced with fake tensors: nothing is allocated or computed.

    python benchmarks/step_memory.py [recipe ...] [--batch-size N]

Traced is what the code allocates: weights, gradients, AdamW's state, activations kept for
backward, temporaries, in fp32 and without dropout (a CPU's dropout masks would not be a GPU's).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine_line
from timerxl.config import load_recipe
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.training.assembly import model_config
from timerxl.training.optim import build_optimizer

GIB = 2**30
NUM_VARIABLES = 27


def recipe_settings(name: str, pooling: str | None = None) -> TimerXLConfig:
    """A recipe's model on 27 variables, without dropout, optionally with another pooling."""
    recipe = load_recipe(name)
    recipe.model.hidden_dropout = recipe.model.attention_dropout = 0.0
    if pooling is not None:
        recipe.model.pooling = pooling
    num_static = 9 if recipe.data.static_features else 0
    return model_config(recipe, NUM_VARIABLES, num_static, alpha=0.5)


def traced_peak(settings: TimerXLConfig, batch_size: int, checkpointing: bool) -> dict[str, float]:
    """GiB by category at the peak of the second step (the first makes AdamW's state)."""
    with FakeTensorMode():
        model = TimerXLForClassification(settings).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        optimizer = build_optimizer(model, load_recipe("transfer_long").optim)
        batch = {
            "past_values": torch.randn(batch_size, settings.context_length, NUM_VARIABLES),
            "labels": torch.zeros(batch_size, dtype=torch.long),
        }
        if settings.num_static_real_features:
            width = settings.num_static_real_features
            batch["static_real_features"] = torch.randn(batch_size, width)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            for step in range(2):
                model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0:
                    tracker.reset_mod_stats()
    peak = next(iter(tracker.get_tracker_snapshot("peak").values()))
    return {str(kind).rsplit(".", 1)[-1]: size / GIB for kind, size in peak.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipes", nargs="*", default=["transfer_long"])
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    print(machine_line())
    print("peak GiB of a traced fp32 training step, 27 variables, no dropout")
    for name in arguments.recipes:
        settings = recipe_settings(name)
        batch_size = arguments.batch_size or load_recipe(name).train.batch_size
        for checkpointing in (False, True):
            peak = traced_peak(settings, batch_size, checkpointing)
            parts = ", ".join(
                f"{label} {peak[kind]:.2f}"
                for kind, label in (
                    ("PARAM", "weights"),
                    ("OPT", "optimizer"),
                    ("ACT", "activations"),
                    ("GRAD", "gradients"),
                    ("TEMP", "temporary"),
                )
            )
            mode = "with" if checkpointing else "without"
            print(
                f"{name}, batch {batch_size}, {mode} checkpointing: {peak['Total']:.2f} ({parts})"
            )


if __name__ == "__main__":
    main()
