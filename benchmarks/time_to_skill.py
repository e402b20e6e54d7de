"""How much training until the network ranks as well as boosted trees: one label a window against
a label after every patch.

``python benchmarks/time_to_skill.py quickstart`` trains the recipe in each way, scores the whole
validation split every few steps, and prints a line for each: the first step at which its ROC-AUC
reaches that of the boosted trees on lagged values (the same run's, on validation), the seconds of
training and the operations up to it. Further arguments are settings of every run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from machine import machine_line
from sweep import train

from timerxl.config import load_recipe
from timerxl.planner.workload import read_workload

# Name: windows of one region in a step, settings. Where every patch has a label, half the windows
# bring three and a half times the labels.
WAYS = {
    "one label a window": (
        64,
        "data.labels=last data.regions_together=none loss.next_patch_weight=0",
    ),
    "a label after every patch": (
        32,
        "data.labels=every_patch data.regions_together=none loss.next_patch_weight=0",
    ),
    "and the next patch": (32, "data.labels=every_patch data.regions_together=none"),
    "and all regions in one window": (32, "data.labels=every_patch data.regions_together=all"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--every", type=int, default=10, help="steps between two scores")
    parser.add_argument("--steps", type=int, default=440)
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many")
    arguments, fixed = parser.parse_known_args()
    print(machine_line(), flush=True)
    print(f"{arguments.recipe} {' '.join(fixed)}, {arguments.steps} steps each")
    fixed += [
        f"train.max_steps={arguments.steps}",
        "train.patience=1000",
        f"eval.every_steps={arguments.every}",
        "eval.check_windows=1000000000",
    ]
    bound, rows = None, []
    for name, (windows, way) in list(WAYS.items())[: arguments.ways]:
        settings = [*fixed, *way.split(), "eval.num_resamples=0"]
        # The trees see one region, as the first three ways do, and are fitted once.
        settings.append(f"eval.fitted_baselines={str(bound is None).lower()}")
        regions = 1
        config = load_recipe(arguments.recipe, settings)
        if config.data.regions_together == "all":
            regions = read_workload(config).model.num_regions or 1
        batch = max(1, round(windows / regions))
        settings.append(f"train.batch_size={batch}")
        workload = read_workload(load_recipe(arguments.recipe, settings))
        with tempfile.TemporaryDirectory() as folder:
            events, results = train(arguments.recipe, settings, Path(folder) / "run")
        looks = [event for event in events if event["event"] in ("check", "validation")]
        if bound is None:
            bound = results["baselines_validation"]["gradient_boosting"]["roc_auc"]
            print(f"boosted trees on validation: ROC-AUC {bound:.4f}\n")
            print("| training | batch | steps | s | GFLOP | best validation ROC-AUC |")
            print("|---|---|---|---|---|---|", flush=True)
        step = next((look["step"] for look in looks if look["roc_auc"] >= bound), None)
        seconds = results["train_seconds"] / results["steps"]
        operations = batch * workload.flops_per_sample() / 1e9
        reached = "not reached" if step is None else f"{step}"
        spent = (
            ["–", "–"] if step is None else [f"{step * seconds:.0f}", f"{step * operations:,.0f}"]
        )
        best = max(look["roc_auc"] for look in looks)
        rows.append((name, step, operations))
        print(f"| {name} | {batch} | {reached} | {' | '.join(spent)} | {best:.4f} |", flush=True)
    first, *others = rows
    if first[1] is not None:
        for name, step, operations in others:
            if step is not None:
                ratio = first[1] * first[2] / (step * operations)
                print(f"{name}: {ratio:.1f} times fewer operations than with {first[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
