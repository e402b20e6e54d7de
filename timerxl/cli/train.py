"""Train a Timer-XL rain classifier: python launch/train.py --config quickstart [key=value ...].

Also under a launcher: accelerate launch launch/train.py --config transfer. The same command again
goes on with a run that was cut off (train.resume). Exit code 0 when the run is done, 1 when
training failed or another process was lost, 2 on bad input, 3 when a monitor stopped the run, 4
when files can't be written or read, 143, 130 and 129 after SIGTERM, SIGINT and SIGHUP; status.json
in the run folder holds the code and the reason where a launcher hides it. Bad input leaves an
earlier run's folder as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from timerxl.command_line import (
    EXIT_OK,
    CommandParser,
    is_first_here,
    is_main_rank,
    quiet_libraries,
    run_command,
    say,
    unwinding_on_signals,
)
from timerxl.config import InputError, RunConfig, load_recipe
from timerxl.untrusted import plain

if TYPE_CHECKING:  # slow to import: a wrong argument is refused before
    from timerxl.hub.push import BackgroundPush


def run(config: RunConfig) -> int:
    """Train, and push each new best model to the hub where the recipe says so."""
    if not config.hub.push:
        return train_run(config)
    from timerxl.hub.push import HURRY_SECONDS, BackgroundPush, Target
    from timerxl.training.tracking import Log

    repo_id = str(config.hub.repo_id)
    Target(repo_id)  # a bad name is refused on every rank
    if not is_main_rank():
        return train_run(config)
    with unwinding_on_signals():  # also where training doesn't wait for the next step to save
        hub = BackgroundPush(Path(config.output_dir), repo_id, Log(), config.hub.private)
        try:
            return train_run(config, hub)
        finally:
            hub.close(HURRY_SECONDS)  # nothing is left to do after an end in order


def train_run(config: RunConfig, hub: BackgroundPush | None = None) -> int:
    """Train, and see that the outcome is in status.json, on stderr and in the exit code."""
    from timerxl.planner.plan import predict_run
    from timerxl.report.figures import figures
    from timerxl.report.page import write_report
    from timerxl.training.resume import RunEnded, read_status
    from timerxl.training.run import RunCallbacks, train
    from timerxl.training.run_dir import note_bad_input, note_end, outcome_of
    from timerxl.training.tracking import Log

    output_dir = Path(config.output_dir)
    is_main = is_main_rank()
    code, reason = EXIT_OK, "finished"
    extras = RunCallbacks(
        predict=predict_run,
        draw=write_report,
        figures=figures,
        new_best=hub.new_best if hub is not None else None,
    )
    try:
        train(config, extras)
    except InputError as error:
        if is_main:
            note_bad_input(output_dir, str(error))
        raise
    except RunEnded as ended:
        Log(is_main)(str(ended))
        return ended.code
    except Exception as error:
        if (found := outcome_of(error)) is None:
            raise
        code, reason = found
        if isinstance(error, BrokenPipeError):
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - till the end
        # A run that began has said so itself, while the folder was its own.
        if is_main and read_status(output_dir) != {"code": code, "reason": plain(reason)}:
            note_end(output_dir, code, reason)
    if code != EXIT_OK and is_first_here():
        say(f"error: {reason}", file=sys.stderr)
    if is_main:
        if hub is not None:
            hub.end(code)
        say(f"Page of the run: {output_dir}/report/index.html")
    return code


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a recipe's name, or the path of a YAML")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides")
    given = parser.parse_args(arguments)
    return run_command(lambda: run(load_recipe(given.config, given.overrides)))
