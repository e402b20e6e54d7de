"""How much training until the network ranks as well as boosted trees: one label a window against
a label after every patch.

``python benchmarks/time_to_skill.py quickstart`` trains the recipe in each way, in runs of 60, 120,
240, ... steps, each with its own warm-up and decay of the learning rate, until a run's validation
ROC-AUC reaches that of the boosted trees on lagged values. A line for each way tells the first step
of that run to reach it (scored twelve times a run), the seconds of training and the operations up
to it; shorter runs, which did not reach it, are not counted. Further arguments are settings of
every run.
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
    parser.add_argument("--steps", default="60,120,240,480,960", help="of the runs, in order")
    parser.add_argument("--ways", type=int, default=len(WAYS), help="only the first so many")
    arguments, fixed = parser.parse_known_args()
    lengths = [int(steps) for steps in arguments.steps.split(",")]
    print(machine_line(), flush=True)
    print(f"{arguments.recipe} {' '.join(fixed)}, runs of {arguments.steps} steps")
    fixed += "train.patience=1000 eval.check_windows=1000000000 eval.num_resamples=0".split()
    bound, rows = None, []
    for name, (windows, way) in list(WAYS.items())[: arguments.ways]:
        settings = [*fixed, *way.split()]
        config, regions = load_recipe(arguments.recipe, settings), 1
        if config.data.regions_together == "all":
            regions = read_workload(config).model.num_regions or 1
        batch = max(1, round(windows / regions))
        settings.append(f"train.batch_size={batch}")
        workload = read_workload(load_recipe(arguments.recipe, settings))
        operations, best, step = batch * workload.flops_per_sample() / 1e9, 0.0, None
        for steps in lengths:
            # The trees see one region, as the first three ways do, and are fitted once.
            run = [*settings, f"train.max_steps={steps}", f"eval.every_steps={-(-steps // 12)}"]
            run.append(f"eval.fitted_baselines={str(bound is None).lower()}")
            with tempfile.TemporaryDirectory() as folder:
                events, results = train(arguments.recipe, run, Path(folder) / "run")
            if bound is None:
                bound = results["baselines_validation"]["gradient_boosting"]["roc_auc"]
                print(f"boosted trees on validation: ROC-AUC {bound:.4f}\n")
                print("| training | batch | run | reached at | s | GFLOP | best ROC-AUC |")
                print("|---|---|---|---|---|---|---|", flush=True)
            looks = [event for event in events if event["event"] in ("check", "validation")]
            best = max(best, *(look["roc_auc"] for look in looks))
            step = next((look["step"] for look in looks if look["roc_auc"] >= bound), None)
            if step is not None:
                break
        seconds = results["train_seconds"] / results["steps"]
        spent = ["not reached", "–", "–"]
        if step is not None:
            spent = [f"{step}", f"{step * seconds:.0f}", f"{step * operations:,.0f}"]
        rows.append((name, step, operations))
        cells = [name, f"{batch}", f"{steps}", *spent, f"{best:.4f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    first, *others = rows
    if first[1] is not None:
        for name, step, operations in others:
            if step is not None:
                ratio = first[1] * first[2] / (step * operations)
                print(f"{name}: {ratio:.1f} times fewer operations than with {first[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
