"""The folder in which a package is staged: it goes with the process that made it."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import Any

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

    def __exit__(self, *error: Any) -> None:
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
