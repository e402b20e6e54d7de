"""One run folder, one run: a second process started on it is refused.

``run.lock`` is locked by the kernel (flock), which lets go when the process ends, however it ends.
What the file says (host, process, since when) is for the reader, and for shared storage whose flock
does not reach other machines: there a lock whose file was touched in the last two minutes counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timerxl.config import InputError

LOCK_FILE = "run.lock"
HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


class RunLock:
    """Held from :meth:`acquire` to :meth:`release`, or to the end of the process."""

    def __init__(self, output_dir: Path, log: Callable[[str], None] = lambda sentence: None):
        self.path = output_dir / LOCK_FILE
        self._log = log
        self._file: Any = None
        self._done = threading.Event()
        self._beat: threading.Thread | None = None

    def acquire(self) -> None:
        """Raises InputError, naming host and process, where another run holds the folder."""
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = self._owner(file)
            file.close()
            raise InputError(self._refusal(owner)) from None
        owner = self._owner(file)
        if owner:
            age = self._age(file)
            if owner["host"] != socket.gethostname() and age < STALE_SECONDS:
                file.close()
                raise InputError(
                    f"{self._refusal(owner)} If that machine is gone, try again in "
                    f"{STALE_SECONDS - age:.0f} s."
                )
            self._log(
                f"the lock of process {owner['pid']} on {owner['host']} (since {owner['since']}) "
                "is stale, its process is gone: taken over."
            )
        file.truncate(0)
        mine = {"host": socket.gethostname(), "pid": os.getpid()}
        mine["since"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        file.write(json.dumps(mine) + "\n")
        file.flush()
        self._file = file
        self._beat = threading.Thread(target=self._touch, name="run-lock", daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Let go, and leave no owner behind."""
        if self._file is None:
            return
        self._done.set()
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()
        self._file = None

    def _touch(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _refusal(self, owner: dict[str, Any]) -> str:
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
        since = f" since {owner['since']}" if owner else ""
        return (
            f"output_dir {self.path.parent} is in use by {who}{since}; wait for it, or choose "
            "another output_dir."
        )

    @staticmethod
    def _owner(file: Any) -> dict[str, Any]:
        """What the file says of its owner; empty where it says nothing that can be read."""
        file.seek(0)
        try:
            owner = json.loads(file.read() or "{}")
        except ValueError:
            return {}
        good = isinstance(owner, dict) and {"host", "pid", "since"} <= set(owner)
        return owner if good else {}

    def _age(self, file: Any) -> float:
        """Seconds since the last touch by the clock of the file system, not of this machine."""
        probe = self.path.with_name(f".{LOCK_FILE}.{os.getpid()}")
        try:
            probe.touch()
            return probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime
        finally:
            probe.unlink(missing_ok=True)
