"""Verify a saved model: python launch/evaluate.py --model runs/quickstart/model [--data SERIES].

Prints the model beside every baseline with 95 % intervals; --json prints one JSON object and
nothing else on stdout. Also under a launcher (accelerate launch launch/evaluate.py ...): the same
numbers on any number of processes. Exit code 0 when done, 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from timerxl.command_line import (
    CommandParser,
    is_main_rank,
    quiet_libraries,
    run_command,
    say,
    say_json,
)
from timerxl.config import EvalConfig, InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("--model", required=True, type=Path, help="a model folder, as runs/NAME/model")
    add(
        "--data",
        help="Parquet or CSV series; default: synthetic, if that trained it",
    )
    add("--split", default="test", help="test (default) or train")
    add("--by", default="", help="strata: some of region,season,enso")
    add("--thresholds", default="", help="mm of rain that make the event, as 0.1,1,10")
    add("--enso", "--oni", type=Path, help="NOAA's oni.ascii.txt, for --by enso or as feature")
    add("--resamples", type=int, default=1000, help="of the block bootstrap; 0: no intervals")
    add("--block-days", type=float, default=14.0, help="length of a block of time")
    add("--batch-size", type=int, default=64, help="windows at once")
    add("--max-windows", type=int, help="score a seeded sample of each split")
    add("--seed", type=int, default=0, help="of the sample and the bootstrap")
    add("--no-fitted-baselines", action="store_true", help="no logistic regression, no trees")
    add("--json", action="store_true", help="one JSON object on stdout, notes on stderr")
    return arguments


def numbers(text: str) -> tuple[float, ...]:
    """``0.1,1,10`` as numbers."""
    try:
        return tuple(float(cell) for cell in text.split(",") if cell.strip())
    except ValueError as error:
        raise InputError(f"--thresholds {text}: expected numbers such as 0.1,1,10.") from error


def run(given: argparse.Namespace) -> int:
    """Verify and print."""
    if given.resamples < 0 or not given.block_days > 0 or given.batch_size < 1:
        raise InputError("expected --resamples >= 0, --block-days above 0 and --batch-size >= 1.")
    if given.max_windows is not None and given.max_windows < 1:
        raise InputError(f"--max-windows is {given.max_windows}; expected 1 or more.")
    thresholds = numbers(given.thresholds)
    from timerxl.files import json_ready
    from timerxl.training.final_evaluation import EvaluationRequest, evaluate_saved, print_report
    from timerxl.training.processes.distributed import evaluation_accelerator

    config = EvalConfig(
        fitted_baselines=not given.no_fitted_baselines,
        num_resamples=given.resamples,
        block_days=given.block_days,
    )
    request = EvaluationRequest(
        model=given.model,
        data=given.data,
        split=given.split,
        by=tuple(name for name in given.by.split(",") if name),
        thresholds_mm=thresholds,
        enso=given.enso,
        batch_size=given.batch_size,
        max_windows=given.max_windows,
        seed=given.seed,
        config=config,
    )
    accelerator = evaluation_accelerator()

    def log(sentence: str) -> None:
        if is_main_rank():
            say(sentence, file=sys.stderr)

    found = evaluate_saved(request, accelerator, log)
    if accelerator.is_main_process:
        if given.json:
            say_json(json_ready(found))
        else:
            print_report(found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    return run_command(lambda: run(given))
