"""Signals that end a run in order: it saves at the next step and leaves with 128 + the signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

HANDLED = (signal.SIGTERM, signal.SIGINT)
AGAIN_SECONDS = 0.5


class Interrupted(RuntimeError):
    """A signal ended the run after its checkpoint was written; the same on all ranks."""

    def __init__(self, number: int, step: int, checkpoint: str | None, way_on: str = ""):
        name = signal.Signals(number).name
        kept = f"Checkpoint: {checkpoint}." if checkpoint else "No step was done, nothing to keep."
        super().__init__(f"interrupted by {name} after step {step}. {kept} {way_on}".rstrip())
        self.number = number


def way_on(resume: str) -> str:
    """How a run that was cut off goes on, in a sentence; ``resume`` is its train.resume."""
    same = "The same command goes on from the newest checkpoint."
    return same if resume == "auto" else same.replace("command", "command with train.resume=auto")


class Interruption:
    """Notes the first SIGTERM or SIGINT; a second Ctrl-C ends the process at once, as ever.

    The same signal may come twice, from a scheduler and from the launcher that passes it on: more
    SIGTERMs change nothing, nor does a SIGINT within half a second.

    Where an error ends the block, SIGTERM stays ignored until :meth:`hear_again`: a launcher sends
    it as soon as another process has ended by the same error, while this one still writes how.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in HANDLED}
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for one, handler in self._before.items():
            ignored = error is not None and one == signal.SIGTERM
            signal.signal(one, signal.SIG_IGN if ignored else handler)

    def hear_again(self) -> None:
        """What there was to write is written: SIGTERM ends the process as before the block."""
        if signal.SIGTERM in self._before:
            signal.signal(signal.SIGTERM, self._before[signal.SIGTERM])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGINT and time.monotonic() - self._since > AGAIN_SECONDS:
                os._exit(128 + number)
            return
        self.number, self._since = number, time.monotonic()
        name = signal.Signals(number).name
        # print() may be what was interrupted: the system call alone is safe here.
        os.write(2, f"\n{name}: saving after this step; Ctrl-C once more ends at once.\n".encode())
