"""Check a prepared series: timerxl audit data/peru/series.parquet [--config NAME] [key=value ...].

With a recipe its splits, windows and labels are checked too. Exit code 0 when done,
whatever was found; 2 on bad input. The same as launch/prepare_data.py --audit SERIES.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from timerxl.cli.prepare_data import audit
from timerxl.command_line import CommandParser, run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("audit", type=Path, metavar="SERIES", help="series.parquet, as prepare-data writes it")
    add("--config", help="a recipe's name, or the path of a YAML")
    add("--output", type=Path, metavar="FOLDER", help="also write the audit there")
    add("--json", action="store_true", help="one JSON object on stdout")
    add("inputs", nargs="*", metavar="key=value", help="dotted overrides")
    return arguments


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_intermixed_args(arguments)
    return run_command(lambda: audit(given))
