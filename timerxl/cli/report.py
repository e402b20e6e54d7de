"""The page of a run again, or several runs compared: python launch/report.py RUN [RUN ...].

One run folder: its report/index.html is written anew from what the folder holds. Several: one page
with what differs in their configuration, their curves, and paired differences of their test scores
against the first. Prints the path of the page. Exit code 0 when done, 2 on bad input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from timerxl.command_line import CommandParser, quiet_libraries, run_command, say

COMPARISON = Path("report") / "comparison.html"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, as runs/quickstart")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page; default: RUN/report/index.html, of several runs report/comparison.html "
        "in the first",
    )
    return arguments


def run(given: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    from timerxl.report.compare import write_comparison
    from timerxl.report.page import write_report

    first: Path = given.runs[0]
    if len(given.runs) == 1:
        page = write_report(first, given.output)
    else:
        page = write_comparison(given.runs, given.output or first / COMPARISON)
    say(page)
    return 0


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    return run_command(lambda: run(given))
