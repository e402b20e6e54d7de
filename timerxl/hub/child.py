"""A process that sends something to the Hub in bounded time, and the folder that it works in.

It is a process and no thread (huggingface_hub's run_as_future) because a thread that waits for a
server can't be ended, and reading, hashing and drawing up the card would hold up the training.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import timerxl
from timerxl.untrusted import plain

PREFIX, LOCK = ".timerxl-hub-", "lock"
FORGOTTEN_SECONDS = 86_400.0  # where a file system knows no locks, age alone tells
_FRESH_LOCK = f".{LOCK}"
_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]+")
_CONTENT = {LOCK, _FRESH_LOCK, "run", "package"}
_made: dict[Path, int] = {}  # places that are still there -> the process that made them


class Place:
    """A new folder in ``beside``, locked (flock) as long as a process works in it.

    ``descriptor`` is the lock's, to be kept open by other processes that work there, or None. The
    folder goes with :meth:`remove`, at the latest when this process ends: an exception that a
    signal brings may fall between any two lines.
    """

    def __init__(self, beside: Path):
        self.folder = beside.absolute() / f"{PREFIX}{secrets.token_hex(8)}"
        self.descriptor: int | None = None
        _made[self.folder] = os.getpid()
        try:
            self.folder.mkdir(mode=0o700)
            self._lock()
        except BaseException:
            self.remove()
            raise

    def _lock(self) -> None:
        # Named only when it is held, so that no sweep takes a fresh folder for a forgotten one.
        fresh = self.folder / _FRESH_LOCK
        try:
            self.descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(self.folder / LOCK)
        except OSError:
            self._let_go()

    def remove(self) -> None:
        """Take the folder away."""
        remove(self.folder)
        _made.pop(self.folder, None)
        self._let_go()

    def _let_go(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def remove(folder: Path) -> None:
    """Take a place away: a folder of this user that holds what a place holds, or nothing is done.

    No link is followed.
    """
    if _is_place(folder):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> int:
    """Remove the places in ``folder`` in which nobody works any more; returns how many."""
    count = 0
    try:
        found = [path for path in folder.glob(f"{PREFIX}*") if _is_place(path)]
    except OSError:
        return 0
    for path in found:
        if _is_forgotten(path):
            remove(path)
            count += not path.exists()
    return count


def _is_place(path: Path) -> bool:
    """A folder, no link, that this user and this program made: with a lock, or still empty."""
    try:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        names = set(os.listdir(path))
    except OSError:
        return False
    has_lock = not names or not names.isdisjoint({LOCK, _FRESH_LOCK})
    return has_lock and names <= _CONTENT and _NAME.fullmatch(path.name) is not None


def _is_forgotten(path: Path) -> bool:
    """Nobody holds the lock, which is a regular file and nothing else."""
    try:
        lock = (path / LOCK).lstat()
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return time.time() - path.lstat().st_mtime > FORGOTTEN_SECONDS
        return False
    except OSError:
        return False
    if not stat.S_ISREG(lock.st_mode) or lock.st_uid != os.geteuid() or lock.st_nlink > 1:
        return False
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone by now, or somebody else's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held
        return False
    finally:
        os.close(descriptor)
    return True


@atexit.register
def _remove_the_rest() -> None:
    """What a signal left; a forked process removes nothing of the one it came from."""
    for folder, process in list(_made.items()):
        if process == os.getpid():
            remove(folder)


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
    """The upload: a process with ``order`` on its stdin, in the folder of ``place``; another
    thread may end it with :meth:`stop`.

    It has a session of its own: a Ctrl-C in the terminal is for the one who ordered. It does not
    outlive that process, however it ends, and takes its place away then. ``variables`` are added to
    its environment.
    """

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
        command = [str(os.getpid()), *([str(place.folder)] if place else [])]
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


def main(parent: str, place: str | None = None) -> int:
    """Upload as long as the process ``parent`` lives."""
    tie = (int(parent), Path(place) if place else None)
    threading.Thread(target=_end_with, args=tie, daemon=True).start()
    from timerxl.hub import upload  # slow, and the tie comes first

    return upload.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
