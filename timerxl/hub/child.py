"""A process that sends something to the Hub, in bounded time, and what it said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import timerxl
from timerxl.hub.places import Place, remove
from timerxl.untrusted import plain

MOST_SAID, MOST_NOTES = 300, 20  # characters of a name or a note, and notes
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
    """``python -m module`` with ``order`` on its stdin, working in the folder of ``place``; another
    thread may end it with :meth:`stop`.

    It has a session of its own: a Ctrl-C in the terminal is for the one who ordered. It does not
    outlive that process, however it ends, and takes its place away then. ``variables`` are added to
    its environment.
    """

    module: str
    order: dict[str, Any]
    limit_seconds: float
    place: Place | None = None
    variables: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)

    def __call__(self) -> Pushed:
        """Run it to its end; raises PushFailed."""
        # In a thread of its own: a signal's exception, which comes in the main thread, can't fall
        # between the start of the process and the line that remembers it.
        done: Future[Pushed] = Future()
        try:
            threading.Thread(target=self._run_into, args=(done,), daemon=True).start()
            return done.result()
        finally:
            self.stop()
            wait([done], timeout=10.0)

    def _run_into(self, done: Future[Pushed]) -> None:
        try:
            done.set_result(self._run())
        except BaseException as error:
            done.set_exception(error)

    def _run(self) -> Pushed:
        limit, late = self.limit_seconds, False
        place = self.place
        locks = () if place is None or place.descriptor is None else (place.descriptor,)
        command = [self.module, str(os.getpid()), *([str(place.folder)] if place else [])]
        if self._stopped.is_set():
            raise PushFailed("stopped", "the upload was ended before it began.")
        # -P: no folder of the user's may hide a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "timerxl.hub.child", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | self.variables,
            pass_fds=locks,  # no sweep takes the place before the process has ended
            start_new_session=True,
        )
        output, errors = "", ""
        try:
            if self._stopped.is_set():
                self._process.kill()
            order = json.dumps(self.order | {"limit_seconds": limit})
            output, errors = self._process.communicate(order, timeout=limit + 5)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            self._end()
        if self._stopped.is_set():
            raise PushFailed("stopped", "the upload was ended before it was done.")
        code = -signal.SIGALRM if late else self._process.returncode
        return _answer(output, errors, code, limit)

    def stop(self) -> None:
        """End it now, if it still runs."""
        self._stopped.set()
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
    """What the process said, in plain words: a server may have a part in it."""
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        answer = {}
    if "url" in answer:
        return Pushed(
            plain(answer["url"], MOST_SAID),
            plain(answer["commit"], MOST_SAID),
            tuple(plain(name, MOST_SAID) for name in answer["removed"]),
            tuple(plain(note, MOST_SAID) for note in answer["notes"][:MOST_NOTES]),
            plain(answer.get("what", ""), MOST_SAID),
        )
    if "error" in answer:
        raise PushFailed(answer["kind"], plain(answer["error"]))
    if code == -signal.SIGALRM:  # its own clock
        raise PushFailed("timeout", f"the upload was not done in {limit:,.0f} s and was ended.")
    if code < 0:
        raise PushFailed("signal", f"the upload was ended from outside, by {_signal(-code)}.")
    lines = [line for line in errors[-100_000:].splitlines() if line.strip()]
    said = re.sub(r"hf_[A-Za-z0-9]{6,}", "[token]", lines[-1]) if lines else "no word"
    raise PushFailed("other", f"the upload ended with code {code}: {plain(said[:300])}")


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} (is the memory full?)" if number == signal.SIGKILL else name


def _end_with(parent: int, place: Path | None) -> None:
    """Wait until the parent has ended, in whatever way, then end this process and its place."""
    while os.getppid() == parent:
        time.sleep(0.1)
    if place is not None:
        remove(place)
    os.kill(os.getpid(), signal.SIGKILL)


def main(module: str, parent: str, place: str | None = None) -> int:
    """Do what ``module`` does as long as the process ``parent`` lives."""
    tie = (int(parent), Path(place) if place else None)
    threading.Thread(target=_end_with, args=tie, daemon=True).start()
    return int(import_module(module).main())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
