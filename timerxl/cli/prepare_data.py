"""Bring weather into one series: grids (NetCDF, ZIPs of it, Zarr, GRIB), or tables.

    python launch/prepare_data.py ERA5.nc [MORE.nc ...] --output data/peru
    python launch/prepare_data.py table.csv --output data/mine --precipitation-unit in
    python launch/prepare_data.py --audit data/peru/series.parquet [--config NAME] [key=value ...]

Writes series.parquet and series.json into --output, both or neither. What is guessed is printed;
the options say it instead. Exit code 2 on bad input. docs/data.md has a command for each source.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timerxl.command_line import CommandParser, run_command, say, unwinding_on_signals
from timerxl.config import InputError, shipped_folder
from timerxl.untrusted import plain

if TYPE_CHECKING:
    from timerxl.data.readers import TableOptions


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    add = parser.add_argument
    files = "files or Zarr folders; with --audit key=value overrides"
    add("inputs", nargs="*", metavar="INPUT", help=files)
    add("--output", type=Path, help="folder for series.parquet and series.json, or the audit's")
    add("--regions", type=Path, help="boxes and points (default: launch/regions/peru.yaml)")
    add("--step-hours", type=int, help="default: the coarsest step of the files")
    add("--features", nargs="+", help="columns to keep besides tp (default: all)")
    add("--derived", nargs="+", default=["default"], help="groups or names, default, or none")
    add("--allow-sparse-accumulation", action="store_true", help="take 2 of 24 hours as they are")
    gap: dict[str, Any] = dict(type=float, default=0.0, metavar="HOURS", dest="max_gap_fill_hours")
    add("--max-gap-fill", help="carry forward (default: none)", **gap)
    add("--precipitation-column", metavar="NAME", help="of a table (default: named like rain)")
    units = "mm, cm, m, in, 0.1mm, mm/h, 'kg m-2', 'kg m-2 s-1' (default: as the file tells)"
    add("--precipitation-unit", metavar="UNIT", help=units)
    codes = "numbers that mean missing, or none"
    add("--missing", nargs="+", default=[], metavar="VALUE", help=codes)
    add("--unit", nargs="+", default=[], metavar="COLUMN=UNIT", help="tp=mm, t2m=degC, ...")
    words = "instant, hourly, running, sum:6h, mean:24h, max:24h, min:24h; @start or @end"
    add("--meaning", nargs="+", default=[], metavar="COLUMN=WORD", help=words)
    table = parser.add_argument_group("tables", "what is not said is guessed, and printed")
    add_of_table = table.add_argument
    add_of_table("--timestamp-column", nargs="+", metavar="NAME", help="several are joined")
    add_of_table("--time-format", metavar="FORMAT", help="as strftime writes it, or unix")
    add_of_table("--timezone", metavar="ZONE", help="America/Lima, UTC-5, ... (default: UTC)")
    add_of_table("--stamps", choices=["start", "end"], help="of the period that a row tells of")
    add_of_table("--region-column", metavar="NAME", help="names or codes of regions")
    add_of_table("--region", metavar="NAME", help="the table is one region, called so")
    add_of_table("--directions", choices=["sin_cos", "as_is"], default="sin_cos")
    add_of_table("--encoding", metavar="NAME", help="utf-8, latin-1, gbk, ...")
    add_of_table("--separator", metavar="SIGN", help="a sign, or tab, space")
    add_of_table("--decimal", choices=[".", ","])
    add_of_table("--header-line", type=int, metavar="N", help="line of the column names; 0: none")
    add("--overwrite", action="store_true", help="replace a series that stands in --output")
    add("--audit", type=Path, metavar="SERIES", help="check a series instead of making one")
    add("--config", help="with --audit: a recipe's name or path")
    add("--json", action="store_true", help="with --audit: print JSON")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.audit is None and (not parsed.inputs or parsed.output is None):
        parser.error("give INPUT files and --output, or --audit SERIES")
    return parsed


def audit(arguments: argparse.Namespace) -> int:
    """Check a prepared series."""
    if wrong := [word for word in arguments.inputs if "=" not in word]:
        raise InputError(f"{wrong[0]!r} is not of the form key=value; --audit takes one series.")
    from timerxl.data.audit.auditor import audit_command

    told = arguments
    return audit_command(told.audit, told.config, told.inputs, told.json, told.output)


def _pairs(option: str, words: list[str]) -> dict[str, str]:
    """``COLUMN=WORD`` as a mapping; InputError for another form and for a column said twice."""
    found: dict[str, str] = {}
    for text in words:
        column, sign, word = text.rpartition("=")
        if not (sign and column and word):
            raise InputError(f"{option} {text!r} is not of the form COLUMN=WORD.")
        if column in found:
            raise InputError(f"{option} names {column} twice.")
        found[column] = word
    return found


def prepare(arguments: argparse.Namespace) -> int:
    """Read, average, sum, derive and write; print what a reader of the series must know."""
    if arguments.config or arguments.json:
        raise InputError("--config and --json belong to --audit.")
    if arguments.max_gap_fill_hours < 0:
        raise InputError(
            f"--max-gap-fill is {arguments.max_gap_fill_hours:g}; expected 0 or more hours."
        )
    # Imported late: a wrong argument is refused before the slow imports begin.
    from tqdm import tqdm

    from timerxl.data.era5.prepare import PrepareOptions, prepare_era5, prepare_tables
    from timerxl.data.readers import is_table

    inputs = [Path(name) for name in arguments.inputs]
    tables = [path for path in inputs if is_table(path)]
    if tables and len(tables) < len(inputs):
        raise InputError("tables and grids can't become one series; prepare them apart.")
    settings = vars(arguments)
    settings["units"] = _pairs("--unit", arguments.unit)
    settings["meanings"] = _pairs("--meaning", arguments.meaning)
    if not tables:
        settings["regions"] = arguments.regions or shipped_folder("regions") / "peru.yaml"
        if arguments.precipitation_unit:
            settings["units"].setdefault("tp", arguments.precipitation_unit)
    options = PrepareOptions(**_taken(arguments, PrepareOptions))
    with tqdm(unit=" parts", disable=None, file=sys.stderr) as bar:  # on a terminal only

        def tick(label: str) -> None:
            bar.set_postfix_str(plain(label, 80), refresh=False)
            bar.update()

        if tables:
            content, notes = prepare_tables(inputs, options, _said_of_tables(arguments), tick)
        else:
            content, notes = prepare_era5(inputs, options, tick)
    say(*(f"note: {note}" for note in notes))
    report(content, arguments.output)
    return 0


def _taken(arguments: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The arguments that are fields of an options class."""
    given = vars(arguments)
    return {f.name: given[f.name] for f in fields(kind) if f.name in given}


def _said_of_tables(arguments: argparse.Namespace) -> TableOptions:
    from timerxl.data.readers import TableOptions
    from timerxl.data.tables.text import TextOptions
    from timerxl.data.tables.times import TimeOptions

    columns = tuple(arguments.timestamp_column or ())
    return TableOptions(
        text=TextOptions(**_taken(arguments, TextOptions)),
        times=TimeOptions(timestamp_columns=columns, **_taken(arguments, TimeOptions)),
        is_command=True,
        **_taken(arguments, TableOptions),
    )


def report(content: dict[str, Any], output: Path) -> None:
    """The series in a few lines, and how to train on it."""
    rain = content["precipitation"]
    kind = "SYNTHETIC " if content["is_synthetic"] else ""
    say(
        f"{kind}series: {content['rows']:,} rows, {len(content['regions'])} regions, "
        f"{len(content['columns'])} columns, step {content['step_hours']:g} h, "
        f"{content['first']} to {content['last']}."
    )
    if rain["is_sparse"]:
        say(f"SPARSE: {rain['hours_present_per_day']} of 24 hours of tp; labels miss rain.")
    say(f"train with: data.path={output / 'series.parquet'} data.precipitation_column=tp")


def main(arguments: list[str] | None = None) -> int:
    parsed = _parse(arguments)
    if parsed.audit is not None:
        return run_command(lambda: audit(parsed))
    with unwinding_on_signals():
        return run_command(lambda: prepare(parsed))
