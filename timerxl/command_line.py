"""What every command in launch/ shares: its parser, what it prints, and the exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any, NoReturn

from timerxl.config import InputError
from timerxl.untrusted import plain

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_STORAGE = 0, 1, 2, 3, 4
EXIT_SIGNAL = 128  # plus the signal's number: 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNWIND_SECONDS = 10.0  # to clean up in; a signal that comes again meanwhile must not cut that short


class ForeseenError(RuntimeError):
    """An error that ends a run in order: with ``exit_code`` and a message, without a traceback."""

    exit_code = EXIT_FAILED


def is_main_rank() -> bool:
    """True in the process that speaks and writes for the group, also before the group is there."""
    return not _is_launched() or os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """True in one process of every machine: each has a terminal or a log of its own."""
    return not _is_launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def _is_launched() -> bool:
    """One of several processes; a RANK left in the environment of one alone means nothing."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def quiet_libraries() -> None:
    """Reduce third-party log verbosity, and keep a notebook's settings out of this process.

    To be called before the libraries are imported.
    """
    # A notebook hands its own backend to every command; this environment may not have it, and
    # `import matplotlib` fails then. Pictures are written to files, never shown.
    os.environ["MPLBACKEND"] = "agg"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def say(*lines: object, file: IO[str] | None = None) -> None:
    """Print ``lines`` (standard output unless ``file``), each as one plain line of bounded length.

    The one place that prints: names and messages of strangers' files come through here. A text of
    several lines is given as several arguments.
    """
    stream = file or sys.stdout
    stream.write("".join(f"{plain(line)}\n" for line in lines))
    stream.flush()


def json_text(content: object) -> str:
    """``content`` as JSON in ASCII, for programs: no control character but the line ends."""
    # JSON escapes all of them but DEL, which can only stand within a text.
    return json.dumps(content, indent=2, allow_nan=False).replace("\x7f", "\\u007f")


def say_json(content: object) -> None:
    """Print ``content`` as JSON on standard output, and nothing else."""
    sys.stdout.write(f"{json_text(content)}\n")
    sys.stdout.flush()


def say_error(error: BaseException) -> None:
    """Print the traceback of ``error`` on standard error.

    Lines that a message brings itself are indented, so that none can pass for a line of ours.
    """
    lines = []
    for part in traceback.format_exception(error):
        first, *rest = part.rstrip("\n").split("\n")[:50]
        lines += [first, *(line if line.startswith("  ") else f"    {line}" for line in rest)]
    say(*lines, file=sys.stderr)


class CommandParser(argparse.ArgumentParser):
    """argparse's parser for a command that a docstring describes, shown as it is written.

    Its errors, which quote the command line, are plain lines.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        say(f"{self.prog}: error: {message}", file=sys.stderr)
        self.exit(EXIT_BAD_INPUT)


class _PlainRecord(logging.LogRecord):
    """A library's log message in plain lines, those after the first indented."""

    def getMessage(self) -> str:
        return "\n    ".join(plain(line) for line in super().getMessage().split("\n"))


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: IO[str] | None = None,
    line: str | None = None,
) -> None:
    say(f"{filename}:{lineno}: {category.__name__}: {message}", file=file or sys.stderr)


def _say_end_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        say_error(found.exc_value)


def _say_what_libraries_say() -> None:
    """Python's warnings, log messages and tracebacks of threads quote files too."""
    warnings.showwarning = _say_warning
    logging.setLogRecordFactory(_PlainRecord)
    sys.excepthook = lambda kind, error, trace: say_error(error)
    threading.excepthook = _say_end_of_thread


def run_command(command: Callable[[], int | None]) -> int:
    """Run ``command``; bad input becomes its message on stderr and exit code 2, no traceback.

    Exit code 1 after any other error, with its traceback, and in silence where the reader of
    standard output is gone (``... | head``). 128 + the signal after one that
    :func:`unwinding_on_signals` turned into SystemExit.
    """
    _say_what_libraries_say()
    try:
        return command() or EXIT_OK
    except InputError as error:
        say(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return EXIT_FAILED
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code > EXIT_SIGNAL:
            return ended.code
        raise
    except Exception as error:  # of ours: then no teardown that waits for other processes
        say_error(error)
        return EXIT_FAILED


@contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the block by SystemExit(128 + the signal), so that what cleans
    up behind a half-written file or folder runs.

    More signals within UNWIND_SECONDS change nothing; so that this holds to the end of the process,
    the handlers stay after a signal. Where it falls into a destructor or a library's callback,
    Python drops the exception: the signal is then sent once more. A SIGHUP that was ignored
    (nohup) stays so.
    """
    came: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if came and time.monotonic() - came[-1] < UNWIND_SECONDS:
            return
        came.append(time.monotonic())
        raise SystemExit(EXIT_SIGNAL + number)

    def dropped(unraisable: Any) -> None:
        code = getattr(unraisable.exc_value, "code", None)
        if isinstance(code, int) and code - EXIT_SIGNAL in before:
            came.clear()
            # A moment later: raised in here it would be dropped again.
            threading.Timer(0.05, os.kill, (os.getpid(), code - EXIT_SIGNAL)).start()
        else:
            hook(unraisable)

    before = {number: signal.signal(number, stop) for number in signals_to_handle()}
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        if not came:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)


def signals_to_handle() -> list[signal.Signals]:
    """ENDING_SIGNALS without a SIGHUP that nohup told this process to ignore."""
    is_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [one for one in ENDING_SIGNALS if one != signal.SIGHUP or not is_nohup]


def leave(code: int) -> NoReturn:
    """End this process with ``code``; everything must be written and closed by now.

    A process of a group ends at once, without Python's own teardown: threads of the group or of
    Arrow that ask for the interpreter while it ends abort the process ("terminate called without an
    active exception"), and the launcher would call a finished run failed. To destroy the group
    would be to wait for others, or for its own thread.
    """
    if code > EXIT_SIGNAL:  # the same signal once more, in Python's teardown, changes nothing
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    distributed = sys.modules.get("torch.distributed")
    in_group = distributed is not None and distributed.is_initialized()
    if in_group or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
