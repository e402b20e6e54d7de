"""Folders to stage in, which the next start takes away should nobody be left to do it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType

PREFIX, LOCK = ".timerxl-hub-", "lock"
FORGOTTEN_SECONDS = 86_400.0  # where a file system knows no locks, age alone tells


class Place:
    """A new folder in ``beside``, locked (flock) as long as a process works in it.

    ``descriptor`` is the lock's, to be kept open by other processes that work there, or None.
    """

    def __init__(self, beside: Path):
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        self.descriptor: int | None = None
        # Named only when it is held, so that no sweep takes a fresh folder for a forgotten one.
        fresh = self.folder / f".{LOCK}"
        try:
            self.descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh.rename(self.folder / LOCK)
        except OSError:
            self._let_go()

    def remove(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._let_go()

    def _let_go(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def sweep(folder: Path) -> int:
    """Remove the places in ``folder`` in which nobody works any more; returns how many."""
    count = 0
    try:
        found = [path for path in folder.glob(f"{PREFIX}*") if path.is_dir()]
    except OSError:
        return 0
    for path in found:
        if _is_forgotten(path):
            shutil.rmtree(path, ignore_errors=True)
            count += not path.exists()
    return count


def _is_forgotten(path: Path) -> bool:
    try:
        if not (path / LOCK).is_file():
            return time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS
        with (path / LOCK).open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, gone by now, or somebody else's
        return False
    return True
