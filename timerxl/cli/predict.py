"""Forecast with a trained model: python launch/predict.py --model MODEL --input TABLE.

MODEL is a run's model folder or a repository of the hub, TABLE a Parquet or CSV series with the
columns that the model was trained on. Prints the forecasts, or writes them to --output
(.parquet, .csv or .nc), whole or not at all. Exit code 0 when done, 2 on bad input, 143 and 130
after SIGTERM and SIGINT.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from timerxl.command_line import (
    CommandParser,
    quiet_libraries,
    run_command,
    say,
    unwinding_on_signals,
)
from timerxl.config import InputError
from timerxl.untrusted import plain

if TYPE_CHECKING:
    import pandas as pd

SHOWN_ROWS = 40
SHOWN_NAME = 30  # characters of a region or a column


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("--model", required=True, help="a model folder, as runs/NAME/model, or user/name")
    add("--input", required=True, help="Parquet or CSV series; 'synthetic' where trained on that")
    add("--output", type=Path, help="forecasts.parquet, .csv or .nc; default: print them")
    add("--at", default="latest", help="latest (default), all, or times: 2024-06-01T06[,...]")
    add("--oni", "--enso", type=Path, help="NOAA's oni.ascii.txt, where the model reads it")
    add("--by-variable", action="store_true", help="log-odds less those without each variable")
    add("--batch-size", type=int, default=64, help="windows at once")
    add("--device", help="cpu, cuda, cuda:1; default: the first GPU, else the CPU")
    add("--revision", help="branch, tag or commit of a repository of the hub")
    return arguments


def run(given: argparse.Namespace) -> int:
    """Forecast, then print or write."""
    if given.batch_size < 1:
        raise InputError(f"--batch-size is {given.batch_size}; expected 1 or more.")
    from timerxl.data.forecast_file import check_output, write_forecasts
    from timerxl.forecaster import Forecaster

    if given.output is not None:
        check_output(given.output)
    forecaster = Forecaster.from_pretrained(
        given.model, revision=given.revision, device=given.device
    )
    if given.output is not None:
        check_output(given.output, forecaster.columns(given.by_variable))
    if given.input == "synthetic" and not forecaster.is_synthetic:
        raise InputError("--input synthetic: this model was trained on a real series; give one.")
    forecasts = forecaster.predict(
        None if given.input == "synthetic" else given.input,
        at=given.at.split(",") if given.at not in ("all", "latest") else given.at,
        batch_size=given.batch_size,
        by_variable=given.by_variable,
        oni=given.oni,
        progress=sys.stderr.isatty(),
    )
    notes = [f"data: {note}" for note in forecasts.attrs["notes"]]
    say(*notes, f"event: {forecaster.event}", file=sys.stderr)
    if given.output is not None:
        write_forecasts(forecasts, given.output)
        say(f"{len(forecasts):,} forecasts: {given.output}")
        return 0
    shown = forecasts.tail(SHOWN_ROWS)
    say(*table_lines(shown))
    if len(forecasts) > len(shown):
        say(f"the last {len(shown)} of {len(forecasts):,}; --output writes them all.")
    return 0


def table_lines(forecasts: pd.DataFrame) -> list[str]:
    """A head and a line for each forecast; names are cut, and no line begins with one."""
    shown = forecasts.assign(region=[plain(name) for name in forecasts["region"]])
    shown = shown.rename(columns=lambda name: plain(name, SHOWN_NAME))
    text = shown.to_string(
        index=False, max_colwidth=SHOWN_NAME, float_format="{:.3f}".format, line_width=None
    )
    return [f" {line}" for line in text.split("\n")]


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    with unwinding_on_signals():
        return run_command(lambda: run(given))
