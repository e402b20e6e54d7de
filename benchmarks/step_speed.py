"""Training step on a CPU against the matrix products it is made of, in one interleaved run.

    python benchmarks/step_speed.py [transfer_long small] [key=value ...] [--repeats 3]

Every repeat times each matrix product of a step at the layers' own shapes (forward, and both
products of backward), then a whole fp32 step of the same model at the recipe's batch size (mean
pooling, no dropout, one label a window, forward + backward + AdamW), then a step with
pooling="last", then a step as the recipe and the settings (``data.labels=every_patch``,
``data.regions_together=all`` with five regions) train. Operations that the flash kernel repeats in
backward are not counted in the step's favour. Beside the time of a step stands that of one of its
labels: a label after every patch makes N of a window, five regions in it five times as many. Also:
the time to load a batch of windows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine_line
from benchmarks.step_memory import NUM_VARIABLES, recipe_settings
from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.planner.trace import zero_windows
from timerxl.training.assembly import build_optimizer, next_patch_weight


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Products:
    """The matrix products of one training step: (batch, m, k, n) -> how often."""

    def __init__(self, settings: TimerXLConfig, batch_size: int):
        tokens = NUM_VARIABLES * settings.context_length // settings.patch_length
        rows, size, inner = batch_size * tokens, settings.hidden_size, settings.intermediate_size
        heads = settings.num_attention_heads
        pairs, width, layers = batch_size * heads, size // heads, settings.num_hidden_layers
        self.forms: list[tuple[str, int, torch.Tensor, torch.Tensor]] = []
        for count, k, n in ((4, size, size), (1, size, inner), (1, inner, size)):
            inputs, weight, grad = torch.randn(rows, k), torch.randn(n, k), torch.randn(rows, n)
            self.forms += [
                ("forward", count * layers, inputs, weight.T),
                ("input gradient", count * layers, grad, weight),
                ("weight gradient", count * layers, grad.T, inputs),
            ]
        q, scores = torch.randn(pairs, tokens, width), torch.randn(pairs, tokens, tokens)
        self.forms += [
            ("scores", 2 * layers, q, q.transpose(1, 2)),  # q k'; and grad v' in backward
            ("values", 2 * layers, scores, q),  # p v; and ds k
            ("transposed", 2 * layers, scores.transpose(1, 2), q),  # p' grad; and ds' q
        ]

    def operations(self) -> float:
        return sum(2.0 * count * a.numel() * b.shape[-1] for _, count, a, b in self.forms)

    def time(self) -> float:
        """Seconds that one step's products take, each shape timed once."""
        return sum(
            count * seconds(lambda a=a, b=b: torch.matmul(a, b)) for _, count, a, b in self.forms
        )


def stepper(
    settings: TimerXLConfig,
    batch_size: int,
    label_patches: int | None = None,
    next_patch_weight: float = 0.0,
) -> tuple[Callable[[], None], int]:
    """A whole training step on random numbers, and how many labels it has."""
    model = TimerXLForClassification(settings).train()
    optimizer = build_optimizer(model, load_recipe("small").optim)
    batch = zero_windows(settings, batch_size, label_patches)
    batch["past_values"].normal_()
    batch["labels"].random_(2)

    def step() -> None:
        model(**batch, next_patch_weight=next_patch_weight).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, batch["labels"].numel()


def recipe_stepper(name: str, overrides: Sequence[str]) -> tuple[Callable[[], None], int]:
    """A step with the labels, the regions and the next patch of a recipe; its number of labels."""
    recipe = load_recipe(name, list(overrides))
    patches = None
    if recipe.data.labels == "every_patch":
        patches = recipe.model.context_length // recipe.model.patch_length
    settings = recipe_settings(name, overrides=overrides)
    return stepper(settings, recipe.train.batch_size, patches, next_patch_weight(recipe))


def window_loading(name: str) -> float:
    """Seconds to load one batch of the recipe's windows (median of 50)."""
    recipe = load_recipe(name)
    windows = build_windows(load_series(recipe.data), recipe.data, recipe.model.context_length)
    dataset, size = windows.splits["train"], recipe.train.batch_size
    order = torch.randperm(len(dataset)).tolist()
    times = [seconds(lambda i=i: dataset[order[i * size : (i + 1) * size]]) for i in range(50)]
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("given", nargs="*", metavar="RECIPE or key=value")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    overrides = [one for one in arguments.given if "=" in one]
    recipes = [one for one in arguments.given if "=" not in one] or ["transfer_long", "small"]
    print(machine_line())
    for name in recipes:
        batch_size = load_recipe(name, overrides).train.batch_size
        one_region = [*overrides, "data.regions_together=none"]
        of_pooling = {one: recipe_settings(name, one, one_region) for one in ("mean", "last")}
        products = Products(of_pooling["mean"], batch_size)
        steps = {one: stepper(settings, batch_size) for one, settings in of_pooling.items()}
        steps["recipe"] = recipe_stepper(name, overrides)
        for step, _ in steps.values():
            step()  # AdamW's state, first pages
        rows = []
        for _ in range(arguments.repeats):
            rows.append((products.time(), *(seconds(step) for step, _ in steps.values())))
            print(
                "  products {:.2f} s, step {:.2f} s, step with last {:.2f} s, "
                "step of the recipe {:.2f} s".format(*rows[-1])
            )
        ideal, step_time, last_time, recipe_time = (
            statistics.median(column) for column in zip(*rows, strict=True)
        )
        share = statistics.median(row[0] / row[1] for row in rows)
        operations, labels = products.operations(), steps["recipe"][1]
        print(
            f"{name}, batch {batch_size}: step {step_time:.2f} s = "
            f"{operations / step_time / 1e9:.1f} GFLOP/s; its matrix products alone {ideal:.2f} s "
            f"= {operations / ideal / 1e9:.1f} GFLOP/s; the step runs at {share:.1%} of that.\n"
            f"{name}: with pooling=last (skipped work) a step takes {last_time:.2f} s, "
            f"{step_time / last_time:.2f} times as fast.\n"
            f"{name}: one label a window, {batch_size} a step: "
            f"{step_time / batch_size * 1e3:.3g} ms a label, with pooling=last "
            f"{last_time / batch_size * 1e3:.3g} ms. As the recipe trains, {labels} a step: "
            f"{recipe_time:.2f} s, {recipe_time / labels * 1e3:.3g} ms a label."
        )
        loading = window_loading(name)
        print(
            f"{name}: loading a batch of windows takes {loading * 1e3:.2f} ms, "
            f"{loading / step_time:.3%} of the step."
        )


if __name__ == "__main__":
    main()
