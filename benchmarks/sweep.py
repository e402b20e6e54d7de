"""Try settings of a recipe and compare them on VALIDATION; the test split is not scored for it.

``python benchmarks/sweep.py quickstart --grid optim.lr=5e-4,1e-3 --grid train.epochs=4,8`` runs
every combination for every seed, one after the other, and prints a line for each: the best
validation ROC-AUC and Brier score (mean over the seeds, and the lowest and highest), at which step,
and the seconds of training. Further arguments are settings of every run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import machine_line

CHECKOUT = Path(__file__).resolve().parents[1]
# The test split is scored once a run; here on as few windows as a run allows, and nobody reads it.
QUIET = "eval.fitted_baselines=false eval.num_resamples=0".split()


def train(recipe: str, settings: list[str], folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """Train once; return the events of the run and what results.json holds."""
    command = [sys.executable, "launch/train.py", "--config", recipe, *settings]
    command += [f"output_dir={folder}", "train.resume=never", "train.trackers=[]"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode != 0:  # a run that a monitor stopped has no results either
        raise SystemExit(
            f"{' '.join(settings)}: exit code {done.returncode}\n{done.stderr[-2000:]}"
        )
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return events, json.loads((folder / "results.json").read_text())


def best_of(recipe: str, settings: list[str], folder: Path) -> dict[str, Any]:
    """Train once; return the best validation scores and what they took."""
    events, results = train(recipe, [*QUIET, *settings], folder)
    looks = [event for event in events if event["event"] == "validation"]
    best = max(looks, key=lambda event: event["roc_auc"])
    return {
        "roc_auc": best["roc_auc"],
        "brier": best["brier"],
        "step": best["step"],
        "seconds": results["train_seconds"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--grid", action="append", default=[], help="key=value,value,...")
    parser.add_argument("--seeds", default="0", help="seed,seed,...")
    arguments, fixed = parser.parse_known_args()
    axes = []
    for axis in arguments.grid:
        key, _, values = axis.partition("=")
        axes.append([f"{key}={value}" for value in values.split(",")])
    seeds = [f"seed={seed}" for seed in arguments.seeds.split(",")]
    print(machine_line(), flush=True)
    print(f"{arguments.recipe} {' '.join(fixed)}, seeds {arguments.seeds}")
    print("| settings | validation ROC-AUC | lowest to highest | Brier | best step | s |")
    print("|---|---|---|---|---|---|", flush=True)
    for chosen in itertools.product(*axes):
        found = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                found.append(
                    best_of(arguments.recipe, [*fixed, *chosen, seed], Path(folder) / "run")
                )
        auc = [one["roc_auc"] for one in found]
        print(
            f"| {' '.join(chosen) or 'as it is'} | {fmean(auc):.4f} | {min(auc):.4f} to "
            f"{max(auc):.4f} | {fmean(one['brier'] for one in found):.4f} | "
            f"{', '.join(str(one['step']) for one in found)} | "
            f"{fmean(one['seconds'] for one in found):.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
