"""The commands: ``timerxl COMMAND ...``, and the scripts of a checkout's launch/.

One module per command, imported when it is asked for; each has ``main(arguments) -> exit code``.
At its top this file imports the standard library alone: a script of launch/ imports it while its
own folder is still on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import timerxl

COMMANDS = {
    "train": "train a rain classifier from a recipe",
    "plan": "memory and time of a run, before it is run",
    "prepare-data": "make one series from grids (NetCDF, Zarr, GRIB) or tables",
    "audit": "check a prepared series",
    "evaluate": "score a saved model beside every baseline",
    "ensemble": "make one forecaster of several runs",
    "predict": "forecast with a trained model",
    "publish": "send a run to the Hugging Face Hub",
    "report": "write a run's page again, or compare runs",
    "diagnose": "find out what went wrong in a run",
    "convert": "convert an OpenLTM checkpoint, or back",
    "export": "write a trained classifier as ONNX",
}


def main() -> NoReturn:
    """Run the command that the first argument names."""
    from timerxl.command_line import EXIT_BAD_INPUT, say

    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        say(*help_lines())
        sys.exit()
    if name == "--version":
        say(f"timerxl {timerxl.__version__}")
        sys.exit()
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}."
        error = f"timerxl: error: unknown command {name!r}: {hint}"
        say(*([error] if name else help_lines()), file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    stem = name.replace("-", "_")
    module = import_module(f"timerxl.cli.{stem}")
    # The help is the module's docstring, which names the script of a checkout.
    module.__doc__ = str(module.__doc__).replace(f"python launch/{stem}.py", f"timerxl {name}")
    sys.argv = [f"timerxl {name}", *arguments]  # for argparse's messages and the run's record
    end(module.main(arguments))


def help_lines() -> list[str]:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    return [
        "usage: timerxl COMMAND [ARGUMENT ...]",
        "",
        *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()),
        "",
        "timerxl COMMAND --help lists a command's arguments; timerxl --version prints the version.",
    ]


def main_of(script: str) -> Callable[..., int]:
    """Find the ``main`` of a script of launch/, which has put the repository first on the path.

    Python puts a script's own folder there too: evaluate.py in it would hide the library evaluate,
    so it is taken off.
    """
    path = Path(script).resolve()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != path.parent]
    main: Callable[..., int] = import_module(f"timerxl.cli.{path.stem}").main
    return main


def end(code: int) -> NoReturn:
    """End this process with ``code``; see :func:`timerxl.command_line.leave`."""
    from timerxl.command_line import leave

    leave(code)
