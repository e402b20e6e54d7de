"""Signals that end a run in order: it saves at the next step and leaves with 128 + the signal."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

HANDLED = (signal.SIGTERM, signal.SIGINT)


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
    """Notes the first SIGTERM or SIGINT; a second one ends the process at once, as ever."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for one, handler in self._before.items():
            signal.signal(one, handler)
        name = signal.Signals(number).name
        # print() may be what was interrupted: the system call alone is safe here.
        os.write(2, f"\n{name}: saving after this step; once more ends at once.\n".encode())
