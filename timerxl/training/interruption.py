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

    def __init__(self, number: int, step: int, checkpoint: str | None):
        name = signal.Signals(number).name
        kept = f"Checkpoint: {checkpoint}." if checkpoint else "No step was done, nothing to keep."
        super().__init__(
            f"interrupted by {name} after step {step}. {kept} The same command goes on from there."
        )
        self.number = number


class Interruption:
    """Notes the first SIGTERM or SIGINT; a second Ctrl-C ends the process at once, as ever.

    The same signal may come twice, from a scheduler and from the launcher that passes it on: more
    SIGTERMs change nothing, nor does a SIGINT within half a second.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            if number == signal.SIGINT and time.monotonic() - self._since > AGAIN_SECONDS:
                os._exit(128 + number)
            return
        self.number, self._since = number, time.monotonic()
        name = signal.Signals(number).name
        # print() may be what was interrupted: the system call alone is safe here.
        os.write(2, f"\n{name}: saving after this step; Ctrl-C once more ends at once.\n".encode())
