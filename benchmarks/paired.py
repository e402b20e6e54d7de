"""Compare finished runs with the baselines on the same test windows, in pairs.

``python benchmarks/paired.py runs/a runs/b runs/c`` reads each run's forecasts.parquet and prints
how far the network's ROC-AUC, MCC and Brier score are from those of logistic regression and of the
boosted trees, with 95 % intervals of paired blocks of time; then the mean over the runs (seeds of
one recipe on one series): the mean difference in each resample.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from machine import machine_line

from timerxl.evaluation.bootstrap import Resamples, resample_scores

AGAINST = {"logistic_regression": "logistic regression", "gradient_boosting": "boosted trees"}
SCORES = {"roc_auc": "ROC-AUC", "mcc": "MCC", "brier": "Brier"}


def gaps_of(run: Path) -> dict[tuple[str, str], Resamples]:
    """(baseline, score) -> the network's score minus the baseline's on the test split."""
    table = pd.read_parquet(run / "forecasts.parquet").query("split == 'test'")
    table = table.sort_values(["region", "issue_time"])  # blocks are drawn over the same times
    thresholds = json.loads((run / "results.json").read_text())["thresholds"]
    names = ["model", *(name for name in AGAINST if name in table)]
    scored = resample_scores(
        {name: table[name].to_numpy() for name in names},
        table["label"].to_numpy(),
        table["issue_time"].to_numpy(),
        {name: thresholds[name] for name in names},
    )
    return {
        (name, key): scored["model"][key].minus(scored[name][key])
        for name in names[1:]
        for key in SCORES
    }


def mean_of(runs: list[Resamples]) -> Resamples:
    return Resamples(
        fmean(run.estimate for run in runs),
        np.mean([run.values for run in runs], axis=0),
        np.mean([run.half_values for run in runs], axis=0),
        runs[0].num_blocks,
        runs[0].reason,
    )


def _cell(gap: Resamples) -> str:
    ends = gap.interval()
    if ends.low is None:
        return f"{gap.estimate:+.4f} ({ends.reason})"
    return f"{gap.estimate:+.4f} ({ends.low:+.4f} to {ends.high:+.4f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    print(machine_line())
    print(f"| run | against | {' | '.join(SCORES.values())} |")
    print("|---|---|---|---|---|")
    found = {str(run): gaps_of(run) for run in arguments.runs}
    if len(found) > 1:
        first = next(iter(found.values()))
        found["mean"] = {pair: mean_of([of[pair] for of in found.values()]) for pair in first}
    for run, gaps in found.items():
        for name, words in AGAINST.items():
            if (name, "brier") in gaps:
                cells = " | ".join(_cell(gaps[name, key]) for key in SCORES)
                print(f"| {run} | {words} | {cells} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
