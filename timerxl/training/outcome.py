"""How a run ended, as the exit code and the sentence of status.json."""

from __future__ import annotations

from timerxl.command_line import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_SIGNAL,
    EXIT_STOPPED,
    EXIT_STORAGE,
)
from timerxl.config import InputError
from timerxl.training.checkpoint.storage import StorageFailed
from timerxl.training.monitors.runner import RunStopped
from timerxl.training.peers import PeerLost
from timerxl.training.signals import Interrupted
from timerxl.training.step import TrainingFailed


def outcome_of(error: BaseException | None) -> tuple[int, str] | None:
    """(exit code, reason) of a run that ended by ``error``, or without one; None where the error
    is no end that was foreseen, and its traceback the best that can be shown."""
    if error is None:
        return EXIT_OK, "finished"
    if isinstance(error, InputError):
        return EXIT_BAD_INPUT, str(error)
    if isinstance(error, RunStopped):
        return EXIT_STOPPED, str(error)
    if isinstance(error, TrainingFailed | PeerLost):
        return EXIT_FAILED, str(error)
    if isinstance(error, Interrupted):
        return EXIT_SIGNAL + error.number, str(error)
    if isinstance(error, BrokenPipeError):
        return EXIT_FAILED, "standard output was closed by its reader."
    if isinstance(error, StorageFailed | OSError):
        return EXIT_STORAGE, str(error)
    return None
