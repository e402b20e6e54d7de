"""What pre-training is worth where labels are few: 10, 25 and 100 % of the training labels.

``python benchmarks/few_labels.py --seeds 0,1`` pre-trains on the series (train.task=next_patch, no
label), then trains the classifier from scratch and from there, for every share of the labels
(data.label_fraction) and every seed. ``--openltm PATH`` adds a start from an OpenLTM checkpoint,
whose sizes the recipe must have. Every run makes the same number of steps; its best model by
validation ROC-AUC is scored. Prints a markdown table; ``--picture FILE`` draws it. Further
arguments are settings of every run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.state import AcceleratorState, GradientState
from machine import machine_line

from timerxl.config import load_recipe
from timerxl.training.run import train

QUIET = (
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0 train.trackers=[] "
    "train.patience=1000000 train.resume=never train.checkpoint_every_minutes=null"
).split()
PRETRAINING = (
    "train.task=next_patch train.metric_for_best_model=loss loss.next_patch_weight=0 "
    "data.regions_together=none"
).split()
SCRATCH, OWN, OPENLTM = "from scratch", "from own pre-training", "from OpenLTM"
Found = dict[tuple[float, str], list[tuple[float, float]]]  # ROC-AUC on validation and on test


def run(recipe: str, settings: list[str], folder: Path) -> dict[str, Any]:
    """Train in this process, whose start would cost more than a small run; return the results."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    config = load_recipe(recipe, [*QUIET, *settings, f"output_dir={folder}"])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return train(config)
    except Exception:
        print(said.getvalue()[-2000:], file=sys.stderr)
        raise


def measure(
    recipe: str, fixed: list[str], shares: list[float], seeds: list[int], steps: tuple[int, int],
    openltm: Path | None, folder: Path,
) -> tuple[Found, dict[str, Any]]:  # fmt: skip
    """Pre-train once, then train every classifier; return their scores and pre-training's."""
    length = [*fixed, f"train.max_steps={steps[0]}"]
    before = run(recipe, [*length, *PRETRAINING], folder / "pretrain")
    starts = {SCRATCH: "null", OWN: str(folder / "pretrain" / "model")}
    if openltm is not None:
        starts[OPENLTM] = str(openltm)
    found: Found = {}
    for share in shares:
        for name, start in starts.items():
            for seed in seeds:
                settings = [*fixed, f"train.max_steps={steps[1]}", f"data.label_fraction={share:g}"]
                settings += [f"seed={seed}", f"model.pretrained={start}"]
                results = run(recipe, settings, folder / f"{share:g}_{name}_{seed}")
                auc = results["validation"]["roc_auc"], results["test"]["roc_auc"]
                found.setdefault((share, name), []).append(auc)
                print(
                    f"{share:.0%} {name}, seed {seed}: {auc[0]:.4f} {auc[1]:.4f}", file=sys.stderr
                )
    return found, before


def cell(values: list[float]) -> str:
    """``0.712 (0.705 to 0.719)``: mean, lowest, highest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(found: Found) -> str:
    """The table as markdown."""
    lines = ["| labels | start | validation ROC-AUC | test ROC-AUC |", "|---|---|---|---|"]
    for (share, name), scores in found.items():
        validation, test = zip(*scores, strict=True)
        lines.append(f"| {share:.0%} | {name} | {cell(list(validation))} | {cell(list(test))} |")
    return "\n".join(lines)


def draw(found: Found, path: Path) -> None:
    """Test ROC-AUC over the share of labels: the mean, and every seed as a dot."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    colours = {SCRATCH: "#595959", OWN: "#0072b2", OPENLTM: "#d55e00"}
    for name, colour in colours.items():
        shares = [share for share, start in found if start == name]
        tests = [[test for _, test in found[share, name]] for share in shares]
        if shares:
            axes.plot(shares, [fmean(one) for one in tests], color=colour, label=name)
            for share, one in zip(shares, tests, strict=True):
                axes.plot([share] * len(one), one, "o", color=colour, markersize=4)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(shares := sorted({share for share, _ in found}), [f"{s:.0%}" for s in shares])
    axes.set_xlabel("share of the training labels")
    axes.set_ylabel("ROC-AUC on test")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="quickstart", help="recipe of the classifier")
    parser.add_argument("--shares", default="0.1,0.25,1", help="of the training labels")
    parser.add_argument("--seeds", default="0", help="seed,seed,...")
    parser.add_argument("--pretraining-steps", type=int, default=640)
    parser.add_argument("--steps", type=int, default=440, help="of every classifier")
    parser.add_argument("--openltm", type=Path, metavar="PATH", help="a checkpoint to start from")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    given, fixed = parser.parse_known_args()
    shares = [float(share) for share in given.shares.split(",")]
    seeds = [int(seed) for seed in given.seeds.split(",")]
    steps = given.pretraining_steps, given.steps
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = (given.config, fixed, shares, seeds, steps, given.openltm, Path(folder))
        found, before = measure(*parts)
    test = before["test"]
    print(
        f"pre-training: skill on test {test['skill_persistence']:+.3f} against persistence, "
        f"{test['skill_climatology']:+.3f} against climatology"
    )
    print(table(found))
    if given.picture is not None:
        draw(found, given.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
