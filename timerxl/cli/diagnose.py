"""Find out what went wrong in a run: python launch/diagnose.py LOG [--json].

LOG is a run's metrics.jsonl, its folder, or the console log of an OpenLTM or Time-Series-Library
run, also of several processes or runs. The monitors of a live run read it again and say every sign
every time. --json prints one array and nothing else on stdout. Exit code 0 when done, whatever was
found; 2 on bad input.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from timerxl.command_line import (
    CommandParser,
    quiet_libraries,
    run_command,
    say,
    say_json,
)
from timerxl.config import InputError
from timerxl.files import json_ready
from timerxl.training.monitors.openltm_log import BaseRate
from timerxl.training.monitors.replay import Diagnosis, ReplayedVerdict, diagnose, listed
from timerxl.training.monitors.rules import CERTAIN, INFO, SEVERITIES, SUSPECTED

MAX_ROUNDING = 0.005  # 0.7 is read as 0.70: a coarser share would fit any accuracy


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("log", metavar="LOG", type=Path, help="metrics.jsonl, a run folder, or a console log")
    add("--base-rate", help="share of rain on validation, as 0.69 or, exactly, as 4160/6025")
    add("--json", action="store_true", help="one JSON array on stdout, notes on stderr")
    return arguments


def base_rate(text: str | None) -> BaseRate | None:
    """``0.69`` or ``4160/6025``; a decimal number is only known as far as it is given."""
    if text is None:
        return None
    share, rounding = 0.0, 0.0
    if counts := re.fullmatch(r"(\d{1,12})/(\d{1,12})", text):
        share = int(counts[1]) / max(int(counts[2]), 1)
    elif decimal := re.fullmatch(r"0?\.(\d{1,12})", text):
        share, rounding = float(text), min(0.5 * 10.0 ** -len(decimal[1]), MAX_ROUNDING)
    if not 0 < share < 1:
        raise InputError(
            f"--base-rate {text}: expected a share between 0 and 1, as 0.69, or counts, as "
            "4160/6025."
        )
    return BaseRate(share, rounding)


def show(found: Diagnosis) -> None:
    """The signs of each run, the certain ones first, with all the epochs that show them."""
    evaluations = _counted(found.num_evaluations, "evaluation")
    if found.num_checks:
        evaluations += f" and {_counted(found.num_checks, 'check')}"
    runs = f"{found.num_runs} runs, " if found.num_runs > 1 else ""
    say(f"{found.kind}: {runs}{evaluations}")
    if all(finding.verdict.severity == INFO for finding in found.findings):
        say(f"no sign of a bad run in {evaluations}.")
    advised: set[tuple[int, str]] = set()
    signs: dict[tuple[int, str, str], list[ReplayedVerdict]] = {}
    for finding in found.findings:
        key = finding.run, finding.verdict.name, finding.verdict.severity
        signs.setdefault(key, []).append(finding)
    for run, name, severity in sorted(signs, key=lambda key: (key[0], -SEVERITIES.index(key[2]))):
        findings, suspected = signs[run, name, severity], signs.get((run, name, SUSPECTED), [])
        if severity == SUSPECTED and _is_said(findings, signs.get((run, name, CERTAIN), [])):
            continue
        before = suspected if severity == CERTAIN and _is_said(suspected, findings) else []
        which = f"run {run}, " if found.num_runs > 1 else ""
        earlier = f"; suspected at {where(before)}" if before else ""
        say("", f"{which}{where(findings)}: {name} ({severity}{earlier})")
        first, last = findings[0].verdict, findings[-1].verdict
        say(f"    {first.explanation}")
        if last.epoch is not None and last.explanation != first.explanation:
            say(f"    at epoch {last.epoch:.4g}: {last.explanation}")
        if first.remedy and (run, first.remedy) not in advised:
            say(f"    -> {first.remedy}")
        advised.add((run, first.remedy))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _is_said(suspected: list[ReplayedVerdict], certain: list[ReplayedVerdict]) -> bool:
    """Whether all that is suspected stands, word by word, where it is certain."""
    said = {finding.verdict.explanation for finding in certain}
    return bool(suspected) and all(finding.verdict.explanation in said for finding in suspected)


def where(findings: list[ReplayedVerdict]) -> str:
    """The epochs of these, and how often they were met where that is more."""
    epochs = [f"{f.verdict.epoch:.4g}" for f in findings if f.verdict.epoch is not None]
    times = sum(finding.times for finding in findings)
    often = f", {times} times" if times > len(findings) else ""
    return (listed("epoch", epochs) if epochs else "before the first epoch") + often


def run(given: argparse.Namespace) -> int:
    """Diagnose and print."""
    found = diagnose(given.log, base_rate(given.base_rate))
    if given.json:
        say_json(json_ready(found.to_list()))
    else:
        show(found)
        say(*[""] * bool(found.notes))
    say(*(f"note: {note}" for note in found.notes), file=sys.stderr if given.json else sys.stdout)
    return 0


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    return run_command(lambda: run(given))
