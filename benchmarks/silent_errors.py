"""Is weather ever read wrong without a word? Random layouts of a known truth, read back.

    python benchmarks/silent_errors.py [--count 2000] [--seed 0] [--kind table|grid] [--only N]

An invented hourly truth (SYNTHETIC) is written down in a random layout, read through
launch/prepare_data.py, and compared. A layout comes back ``equal``; or it is ``refused`` with a
sentence and exit code 2; or it differs by what a printed note says was ``assumed``. Anything else
is ``silent`` (or ``crashed``): listed with the command that repeats it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.silent_grids import draw_grid, grid_case
from benchmarks.silent_judge import (
    ASSUMED,
    CRASHED,
    EQUAL,
    FAULTS,
    REFUSED,
    SILENT,
    USAGE,
    Case,
    Outcome,
    run_case,
)
from benchmarks.silent_tables import draw_table, table_case

KINDS = ("table", "grid")
_SHOWN = (EQUAL, ASSUMED, REFUSED, SILENT, CRASHED, USAGE)


def make_case(seed: int, number: int, kind: str | None, folder: Path) -> Case:
    """Combination ``number`` of a seed: two of three are tables, unless ``kind`` says."""
    rng = np.random.default_rng([seed, number])
    kind = kind or ("grid" if rng.random() < 1 / 3 else "table")
    if kind == "table":
        return table_case(draw_table(rng), folder, rng)
    return grid_case(draw_grid(rng), folder, rng)


def run_number(seed: int, number: int, kind: str | None, keep: Path | None = None) -> Any:
    """(case, outcome) of one combination; its files are gone afterwards, or below ``keep``."""
    with tempfile.TemporaryDirectory(prefix="timerxl-silent-") as name:
        folder = Path(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = make_case(seed, number, kind, folder)
            outcome = run_case(case, folder)
        if keep is not None:
            shutil.copytree(folder, keep / str(number), dirs_exist_ok=True)
    return case, outcome


def differing(layout: Any) -> dict[str, Any]:
    """The features of a layout that are not the plain one's."""
    plain = type(layout)()
    return {k: v for k, v in asdict(layout).items() if v != asdict(plain)[k]}


def describe(seed: int, number: int, kind: str | None, case: Case, outcome: Outcome) -> str:
    again = f"python benchmarks/silent_errors.py --seed {seed} --only {number}"
    again += f" --kind {kind}" if kind else ""
    return (
        f"{outcome.kind.upper()} {type(case.layout).__name__} {differing(case.layout)}\n"
        f"  {outcome.why}\n  again: {again}"
    )


def print_counts(counts: dict[tuple[str, str], Counter[str]]) -> None:
    """How each value of each feature came back."""
    print(f"{'feature':44}" + "".join(f"{kind:>11}" for kind in _SHOWN))
    for (feature, value), found in sorted(counts.items()):
        cells = "".join(f"{found[kind]:>11}" for kind in _SHOWN)
        print(f"{f'{feature} = {value}'[:43]:44}{cells}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", type=int, metavar="N", help="this one, with all it says")
    parser.add_argument("--keep", type=Path, help="copy the files of --only there")
    parser.add_argument("--refused", action="store_true", help="list the refusals, too")
    given = parser.parse_args(arguments)
    if given.only is not None:
        case, outcome = run_number(given.seed, given.only, given.kind, given.keep)
        print(describe(given.seed, given.only, given.kind, case, outcome))
        print(" ".join(case.arguments), outcome.stdout, outcome.stderr, sep="\n")
        return int(outcome.kind in FAULTS)
    started, total = time.monotonic(), Counter[str]()
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for number in range(given.first, given.first + given.count):
        case, outcome = run_number(given.seed, number, given.kind)
        total[outcome.kind] += 1
        kind = type(case.layout).__name__
        for feature in fields(case.layout):
            value = getattr(case.layout, feature.name)
            text = str(len(value)) if isinstance(value, tuple) else str(value)
            if feature.name not in ("days", "first"):
                counts[f"{kind}.{feature.name}", text][outcome.kind] += 1
        shown = [*FAULTS, USAGE, *[REFUSED] * given.refused]
        if outcome.kind in shown:
            print(describe(given.seed, number, given.kind, case, outcome), flush=True)
    print_counts(counts)
    print(", ".join(f"{total[kind]} {kind}" for kind in _SHOWN))
    print(f"seed {given.seed}, {given.count} combinations, {time.monotonic() - started:.0f} s")
    return int(any(total[kind] for kind in (*FAULTS, USAGE)))


if __name__ == "__main__":
    sys.exit(main())
