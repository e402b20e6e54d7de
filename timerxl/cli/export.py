"""A trained classifier as one ONNX file: python launch/export.py --model MODEL --output model.onnx.

MODEL is a run's model folder or a repository of the hub. The file holds the network alone and takes
scaled inputs: scaling, threshold and calibration stand in the model's preprocessing.json. Its
logits are compared with torch's before it is written. Exit code 0 when done, 1 when they differ,
2 on bad input.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from timerxl.command_line import (
    EXIT_FAILED,
    EXIT_OK,
    CommandParser,
    quiet_libraries,
    run_command,
    say,
)
from timerxl.config import InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = CommandParser(description=__doc__)
    add = arguments.add_argument
    add("--model", required=True, help="a model folder, as runs/NAME/model, or user/name")
    add("--output", required=True, type=Path, help="a new .onnx file")
    add("--revision", help="branch, tag or commit of a repository of the hub")
    return arguments


def check_output(output: Path) -> None:
    """A new .onnx file in a folder that is there."""
    if output.suffix != ".onnx":
        raise InputError(f"--output {output} is no .onnx path; give one that ends in .onnx.")
    if output.exists():
        raise InputError(f"--output {output} exists already; give a new path.")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: there's no folder {output.parent}; make it first.")


def run(given: argparse.Namespace) -> int:
    """Load, export, compare, write; print one line."""
    check_output(given.output)
    from timerxl.onnx_export import ExportFailed, check_libraries, write_onnx

    check_libraries()
    # After the import of torch, which sets its own: it would list what torchvision could add.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    from timerxl.ensemble import Ensemble
    from timerxl.forecaster import Forecaster

    forecaster = Forecaster.from_pretrained(given.model, revision=given.revision, device="cpu")
    if isinstance(forecaster.model, Ensemble):
        raise InputError(
            f"--model {given.model} is an ensemble, and a file holds one network; export its "
            "members, MODEL/member_0 and so on, and take the mean of their probabilities."
        )
    try:
        worst = write_onnx(
            forecaster.model,
            given.output,
            context_length=forecaster.context_length,
            num_variables=len(forecaster.saved.content["feature_names"]),
        )
    except ExportFailed as error:
        say(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        raise InputError(f"--output {given.output} can't be written: {error}") from error
    size = given.output.stat().st_size / 1e6
    say(f"logits within {worst:.1e} of torch's, {size:.1f} MB: {given.output}")
    return EXIT_OK


def main(arguments: list[str] | None = None) -> int:
    quiet_libraries()
    given = parser().parse_args(arguments)
    return run_command(lambda: run(given))
