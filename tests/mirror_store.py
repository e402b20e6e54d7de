"""A storage for train.mirror that is slow, breaks, fills up and kills, by its environment.

    python tests/mirror_store.py [key=value ...]   benchmarks/chaos_run.py with this storage known

``slow://PATH`` is a folder of this machine. It can't rename. MIRROR_SECONDS is what a block takes,
MIRROR_HURRY how long a run that a signal ends waits for it;
MIRROR_KILL=N sends this process SIGKILL in the middle of writing the Nth file; MIRROR_ROOM is how
many bytes may be written to one file before there is no space left.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem, stringify_path


class SlowStore(LocalFileSystem):
    """``done`` lists (what, path) of everything that changed the store, in order."""

    protocol = "slow"
    cachable = False
    done: list[tuple[str, str]] = []
    writing = 0  # files of this process so far

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(super()._strip_protocol(stringify_path(path).removeprefix("slow://")))

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super().open(path, mode, **options)
        if "w" not in mode:
            return file
        SlowStore.writing += 1
        self.done.append(("write", self._strip_protocol(path)))
        return _SlowFile(file, SlowStore.writing)

    def rm_file(self, path: str) -> None:
        self.done.append(("delete", self._strip_protocol(path)))
        super().rm_file(path)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        raise NotImplementedError("object stores can't rename")


class _SlowFile:
    def __init__(self, file: Any, number: int):
        self._file, self._number = file, number

    def write(self, block: bytes) -> None:
        time.sleep(float(os.environ.get("MIRROR_SECONDS", "0")))
        self._file.write(block[: len(block) // 2])
        self._file.flush()
        if self._number == int(os.environ.get("MIRROR_KILL", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        if len(block) > float(os.environ.get("MIRROR_ROOM", "inf")):
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(block[len(block) // 2 :])

    def __enter__(self) -> _SlowFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()


fsspec.register_implementation("slow", SlowStore, clobber=True)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p).resolve() != here)]
    from benchmarks.chaos_run import leave, main, note
    from timerxl.training.checkpoint import mirror

    mirror.HURRY_SECONDS = float(os.environ.get("MIRROR_HURRY", mirror.HURRY_SECONDS))
    code = main()
    note({"exit": code})
    leave(code)
