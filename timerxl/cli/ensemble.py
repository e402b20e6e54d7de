"""One forecaster of several finished runs: python launch/ensemble.py RUN RUN ... --output FOLDER.

The mean of the runs' probabilities, calibrated on validation and with a threshold chosen there;
test is scored once, beside each member and every baseline. --blend-trees blends that mean with the
boosted trees that every run is compared with, by weights fitted on validation. The runs must share
the series, the label and the splits; seeds and recipes may differ. FOLDER is what launch/predict.py
and launch/evaluate.py take as --model, and launch/publish.py as --run. Exit code 0 when done, 2 on
bad input (runs that do not fit together, a folder that is there already).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timerxl.command_line import CommandParser, is_main_rank, quiet_libraries, run_command, say


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a finished run, as runs/quickstart")
    add("--output", required=True, type=Path, metavar="FOLDER", help="new or empty")
    add("--data", help="Parquet or CSV series; default: synthetic, if that trained the runs")
    add("--enso", "--oni", type=Path, help="NOAA's oni.ascii.txt, where the models read it")
    add("--blend-trees", action="store_true", help="blend the mean with boosted trees")
    return arguments


def run(given: argparse.Namespace) -> int:
    """Score, write and print."""
    from timerxl.training.ensembling import build_ensemble
    from timerxl.training.processes.distributed import evaluation_accelerator

    def log(sentence: str) -> None:
        if is_main_rank():
            say(sentence, file=sys.stderr)

    accelerator = evaluation_accelerator()
    build_ensemble(
        given.runs, given.output, accelerator, log, given.data, given.enso, given.blend_trees
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    return run_command(lambda: run(given))
