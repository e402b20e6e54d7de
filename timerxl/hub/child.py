"""A process that sends something to the Hub, in bounded time, and what it said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timerxl

BYTES_PER_SECOND, LEAST_SECONDS = 100_000, 300.0  # a slow line, and what a small upload may take


class PushFailed(RuntimeError):
    """Nothing, or not everything, arrived. The message says why, ``kind`` in one word."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Pushed:
    """``removed``: files of an earlier publication that this one no longer has; ``notes``: what the
    hub had to say; ``what``: the model in words, where the process knows more than who asked."""

    url: str
    commit: str
    removed: tuple[str, ...]
    notes: tuple[str, ...]
    what: str = ""


def seconds_for(num_bytes: int) -> float:
    """How long an upload of this size may take."""
    return LEAST_SECONDS + num_bytes / BYTES_PER_SECOND


@dataclass
class Child:
    """``python -m module`` with ``order`` on its stdin; another thread may end it with
    :meth:`stop`.

    It has a session of its own: a Ctrl-C in the terminal is for the one who ordered.
    ``descriptors`` stay open in it; ``variables`` are added to its environment.
    """

    module: str
    order: dict[str, Any]
    limit_seconds: float
    descriptors: tuple[int, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __call__(self) -> Pushed:
        """Run it to its end; raises PushFailed."""
        limit, late = self.limit_seconds, False
        # -P: no folder of the user's may hide a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | self.variables,
            pass_fds=self.descriptors,
            start_new_session=True,
        )
        output, errors = "", ""
        try:
            if self._stopped:
                self._process.kill()
            order = json.dumps(self.order | {"limit_seconds": limit})
            output, errors = self._process.communicate(order, timeout=limit + 5)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            self._end()
        if self._stopped:
            raise PushFailed("stopped", "the upload was ended before it was done.")
        code = -signal.SIGALRM if late else self._process.returncode
        return _answer(output, errors, code, limit)

    def stop(self) -> None:
        """End it now."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """Large files go by LFS, whose waiting is bounded; HF_HUB_DISABLE_XET=0 in the environment
    chooses Xet all the same."""
    found = dict(os.environ)
    found.setdefault("HF_HUB_DISABLE_XET", "1")
    found["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    found["HF_HUB_VERBOSITY"] = "error"
    repository = str(Path(timerxl.__file__).resolve().parent.parent)
    paths = [repository, found.get("PYTHONPATH", "")]
    found["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return found


def _answer(output: str, errors: str, code: int, limit: float) -> Pushed:
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        answer = {}
    if "url" in answer:
        return Pushed(
            answer["url"],
            answer["commit"],
            tuple(answer["removed"]),
            tuple(answer["notes"]),
            answer.get("what", ""),
        )
    if "error" in answer:
        raise PushFailed(answer["kind"], answer["error"])
    if code == -signal.SIGALRM:  # its own clock
        raise PushFailed("timeout", f"the upload was not done in {limit:,.0f} s and was ended.")
    if code < 0:
        raise PushFailed("signal", f"the upload was ended from outside, by {_signal(-code)}.")
    lines = [line for line in errors.splitlines() if line.strip()]
    said = re.sub(r"hf_[A-Za-z0-9]{6,}", "[token]", lines[-1][:300]) if lines else "no word"
    raise PushFailed("other", f"the upload ended with code {code}: {said}")


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (is the memory full?)" if number == signal.SIGKILL else name
