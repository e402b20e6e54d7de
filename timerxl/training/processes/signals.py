"""Signals that end a run in order: it saves at the next step and leaves with 128 + the signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from timerxl.command_line import EXIT_SIGNAL, ForeseenError, signals_to_handle

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AGAIN_SECONDS = 0.5
FIRST_BEATS, FIRST_SECONDS = 3, 60.0
PATIENCE_SECONDS = 10.0  # torchrun kills what is there 30 s after its SIGTERM


class Interrupted(ForeseenError):
    """A signal ended the run after its checkpoint was written; the same on all ranks."""

    def __init__(self, number: int, step: int, checkpoint: str | None, resume_hint: str = ""):
        name = signal.Signals(number).name
        kept = f"Checkpoint: {checkpoint}." if checkpoint else "No step was done, nothing to keep."
        super().__init__(f"interrupted by {name} after step {step}. {kept} {resume_hint}".rstrip())
        self.exit_code = EXIT_SIGNAL + number


def resume_hint(resume: str) -> str:
    """Say how a run that was cut off goes on; ``resume`` is its train.resume."""
    same = "The same command goes on from the newest checkpoint."
    return same if resume == "auto" else same.replace("command", "command with train.resume=auto")


class Interruption:
    """Note the first of HANDLED (a SIGHUP that nohup ignores stays ignored); a second Ctrl-C ends
    the process at once.

    The same signal may come twice, from a scheduler and from the launcher that passes it on: more
    SIGTERMs change nothing, nor does a SIGINT within half a second.

    A process that waits inside a library (NCCL, for a rank that is gone) never comes back to
    Python, where signals are handled: a thread sees the signal all the same, and ends the process
    where no :meth:`beat` comes within ``patience_seconds`` or three times the longest pause between
    two of them so far. The first beats may take a minute each (compilation, kernels chosen) and are
    no measure. ``on_stuck`` is called before the end, with the signal; it writes status.json.

    Where an error ends the block, SIGTERM stays ignored until
    :meth:`restore_signal_handlers`: a launcher sends it as soon as another process has ended
    by the same error, while this one still writes how.
    """

    def __init__(
        self,
        on_stuck: Callable[[int], None] = lambda number: None,
        patience_seconds: float = PATIENCE_SECONDS,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self.number = 0
        self.is_saving = False  # a checkpoint is written to its end, however slow the disk
        self._on_stuck, self._patience, self._first = on_stuck, patience_seconds, first_seconds
        self._num_beats = 0
        self._since = 0.0
        self._last_beat, self._longest_pause = time.monotonic(), 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup: int | None = None  # what Python's C handler writes the signal's number to
        self._fd_before = -1

    def beat(self) -> None:
        """Report progress: called at every step and every batch of an evaluation."""
        now = time.monotonic()
        if self._num_beats >= FIRST_BEATS:
            self._longest_pause = max(self._longest_pause, now - self._last_beat)
        self._last_beat = now
        self._num_beats += 1

    def __enter__(self) -> Interruption:
        self._last_beat = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            heard = [one for one in HANDLED if one in signals_to_handle()]
            self._before = {one: signal.signal(one, self._note) for one in heard}
            reader, self._wakeup = os.pipe()
            os.set_blocking(self._wakeup, False)
            self._fd_before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
            thread = threading.Thread(target=self._watch, args=(reader,), name="signals")
            thread.daemon = True
            thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for one, handler in self._before.items():
            ignored = error is not None and one == signal.SIGTERM
            signal.signal(one, signal.SIG_IGN if ignored else handler)
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._fd_before)
            wakeup, self._wakeup = self._wakeup, None
            os.close(wakeup)  # the thread reads the end of the pipe

    def restore_signal_handlers(self) -> None:
        """Restore SIGTERM: what there was to write is written."""
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

    def _watch(self, reader: int) -> None:
        """Wait for a signal, then for beats, in a thread of its own."""
        with os.fdopen(reader, "rb", buffering=0) as pipe:  # open to the end: more may come
            number = pipe.read(1)
            while number and number[0] not in HANDLED:
                number = pipe.read(1)
            came = time.monotonic()
            while number and self._wakeup is not None:  # else the block ended
                begins = self._num_beats < FIRST_BEATS
                limit = self._first if begins else max(self._patience, 3 * self._longest_pause)
                if not self.is_saving and time.monotonic() - max(came, self._last_beat) > limit:
                    self._on_stuck(number[0])
                    os._exit(128 + number[0])
                time.sleep(0.2)
