"""Convert an OpenLTM Timer-XL checkpoint to a folder of ours, or (--reverse) back.

    python launch/convert.py --checkpoint checkpoint.pth --output models/timer_xl
    python launch/convert.py --reverse --checkpoint models/timer_xl --output back.pth

The activation, covariate and normalisation switches are not in OpenLTM's file: give those that it
was trained with.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from timerxl.command_line import CommandParser, run_command, say
from timerxl.config import InputError


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, type=Path, help="what to read")
    parser.add_argument("--output", required=True, type=Path, help="a new folder, or a new .pth")
    parser.add_argument("--hidden-act", choices=["relu", "gelu"], help="default: relu")
    parser.add_argument("--covariate", action="store_true", help="OpenLTM's --covariate")
    parser.add_argument("--instance-norm", action="store_true", help="OpenLTM's --use_norm")
    parser.add_argument("--reverse", action="store_true", help="from our folder to OpenLTM's .pth")
    return parser.parse_args(arguments)


def _check_output(output: Path, reverse: bool) -> None:
    if reverse and output.suffix != ".pth":
        raise InputError(f"--output {output} is no .pth path; OpenLTM's checkpoints end in .pth.")
    if reverse and output.exists():
        raise InputError(f"--output {output} exists already; give a new path.")
    if not reverse and output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise InputError(f"--output {output} exists and is no empty folder; give a new one.")


def _write_whole(output: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a path beside ``output``, then rename it: never a half-written output."""
    from safetensors import SafetensorError

    output = output.absolute()
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(output)
    # A full disk is an OSError of Python's, a RuntimeError of torch.save's, or safetensors' own.
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        elif partial.exists():
            partial.unlink()


def convert(arguments: argparse.Namespace) -> None:
    """Read, check, convert and write; print one line. Raises InputError on bad input."""
    _check_output(arguments.output, arguments.reverse)
    switches = [arguments.hidden_act, arguments.covariate, arguments.instance_norm]
    if arguments.reverse and any(switches):
        raise InputError(
            "--hidden-act, --covariate and --instance-norm describe an OpenLTM file that is read; "
            "leave them out with --reverse: OpenLTM's file has no place for them."
        )
    # Imported late: a wrong argument is refused before the slow imports begin.
    import torch

    from timerxl.model.convert_openltm import convert_checkpoint, export_openltm, load_saved
    from timerxl.untrusted import check_memory, is_file

    if is_file(checkpoint := arguments.checkpoint):
        size = checkpoint.stat().st_size
        check_memory(2 * size, f"--checkpoint {checkpoint} of {size:,} bytes")  # and its tensors
    try:
        if arguments.reverse:
            model = load_saved(arguments.checkpoint)
            exported = export_openltm(model)
            count, kind = len(exported), "OpenLTM state dict"
        else:
            model = convert_checkpoint(
                arguments.checkpoint,
                hidden_act=arguments.hidden_act or "relu",
                covariate=arguments.covariate,
                instance_norm=arguments.instance_norm,
            )
            count, kind = len(model.state_dict()), type(model).__name__
    except ValueError as error:
        raise InputError(str(error)) from error
    # What libraries have to say goes to stderr: stdout holds the one line.
    with contextlib.redirect_stdout(sys.stderr):
        if arguments.reverse:
            _write_whole(arguments.output, lambda path: torch.save(exported, path))
        else:
            _write_whole(arguments.output, model.save_pretrained)
    layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    say(f"{count} tensors -> {kind} ({layers} layers, hidden {hidden}): {arguments.output}")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 for bad input."""
    parsed = _parse(arguments)
    return run_command(lambda: convert(parsed))
