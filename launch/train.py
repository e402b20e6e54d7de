"""Train a Timer-XL rain classifier: python launch/train.py --config quickstart [key=value ...].

Also under a launcher: accelerate launch launch/train.py --config transfer. Exit code 0 when the
run is done, 1 when training failed, 2 on bad input, 3 when a monitor stopped the run; status.json
in the run folder holds the code and the reason where a launcher hides it. Bad input leaves an
earlier run's folder as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The repository, not this folder, is on the path: a file here could hide an installed library.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

from timerxl.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_STOPPED,
    is_main_rank,
    leave,
    quiet_libraries,
    recipe_parser,
    run_command,
)
from timerxl.config import InputError, RunConfig, load_recipe


def run(config: RunConfig) -> int:
    """Train and leave the outcome in status.json."""
    from timerxl.planner.prediction import predict_run
    from timerxl.training.guard import RunStopped
    from timerxl.training.run import Extras, train
    from timerxl.training.saving import note_bad_input
    from timerxl.training.step import TrainingFailed
    from timerxl.training.tracking import write_status

    output_dir = Path(config.output_dir)
    is_main = is_main_rank()
    try:
        train(config, Extras(predict=predict_run))
    except InputError as error:
        if is_main:
            note_bad_input(output_dir, str(error))
        raise
    except RunStopped as error:
        if is_main:
            write_status(output_dir, EXIT_STOPPED, str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_STOPPED
    except TrainingFailed as error:
        if is_main:
            write_status(output_dir, EXIT_FAILED, str(error))
            print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_FAILED
    if is_main:
        write_status(output_dir, EXIT_OK, "finished")
    return EXIT_OK


def main() -> int:
    quiet_libraries()
    arguments = recipe_parser(__doc__ or "").parse_args()
    return run_command(lambda: run(load_recipe(arguments.config, arguments.overrides)))


if __name__ == "__main__":
    leave(main())
