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
from timerxl.untrusted import check_own_files, open_own

LOCK_FILE = "run.lock"
RUN_CONFIG = "config.yaml"  # the first file of a run: a folder with it is a run's
METRICS, FORECASTS = "metrics.jsonl", "forecasts.parquet"
NO_FILES_OF_A_RUN = ("status.json", LOCK_FILE)  # an attempt that was refused leaves these
# What is written into a run's folder, beside hidden names. Those of WRITTEN_IN_PLACE are appended
# to and cut; all others are new files, which are renamed.
RUN_FILES = (
    *(LOCK_FILE, RUN_CONFIG, METRICS, "status.json", "results.json", "verdict.json"),
    *("environment.json", "audit.json", FORECASTS),
)
RUN_FOLDERS = ("checkpoints", "model", "report", "tensorboard")
WRITTEN_IN_PLACE = (LOCK_FILE, METRICS)
HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 120.0


def check_run_files(output_dir: Path) -> None:
    """Raise InputError where a file or folder of a run is a link, a pipe or a device, or one the
    other, or where one that is written in place has a second name: what is written to it would be
    so elsewhere.

    What a tracker keeps there under a name of its own is its business.
    """
    hidden = [path.name for path in output_dir.glob(".*")] if output_dir.is_dir() else []
    check_own_files(output_dir, (*RUN_FILES, *RUN_FOLDERS, *hidden), WRITTEN_IN_PLACE)
    for names, is_other, found, expected in (
        (RUN_FILES, Path.is_dir, "folder", "file"),
        (RUN_FOLDERS, Path.is_file, "file", "folder"),
    ):
        for path in (output_dir / name for name in names):
            if is_other(path):
                raise InputError(
                    f"{path} is a {found}; a run has a {expected} of that name, so nothing was "
                    "changed. Take it away, or choose another folder."
                )


class RunLock:
    """Lock a run's folder from :meth:`acquire` to :meth:`release`, or to the end of the process."""

    def __init__(self, output_dir: Path, log: Callable[[str], None] = lambda sentence: None):
        self.path = output_dir / LOCK_FILE
        self._log = log
        self._file: Any = None
        self._done = threading.Event()
        self._beat: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock; raise InputError, naming host and process, where another run holds the
        folder."""
        file = open_own(self.path, "a+")
        is_locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner(file)
            file.close()
            raise InputError(self._refusal(owner)) from None
        except OSError as error:
            is_locked = False
            self._log(
                f"warning: the storage of {self.path.parent} has no locks "
                f"({error.strerror or error}): what run.lock says is all that keeps a second run "
                "out."
            )
        owner = self._owner(file)
        if owner:
            is_here = owner["host"] == socket.gethostname()
            lives = (
                _is_process(owner["pid"]) and not is_locked if is_here else self._owner_is_alive()
            )
            if lives:
                file.close()
                raise InputError(self._refusal(owner))
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
        _held.add(self)
        self._beat = threading.Thread(target=self._keep_touching, name="run-lock", daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Release the lock, and leave no owner behind."""
        if self._file is None:
            return
        self._done.set()
        _held.discard(self)
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()
        self._file = None

    def _owner_is_alive(self) -> bool:
        """Whether the owner, on another machine, touches its lock again before it is stale: one
        that is gone is waited for, so that a job can begin anew elsewhere at once."""
        age = self._age()
        if age < STALE_SECONDS:
            self._log(
                f"the lock {self.path} is of another machine and {age:.0f} s old: looking whether "
                f"its run is gone, for {STALE_SECONDS - age:.0f} s at most."
            )
        while age < STALE_SECONDS:
            time.sleep(min(1.0, HEARTBEAT_SECONDS / 4))
            before, age = age, self._age()
            if age < before:
                return True
        return False

    def _keep_touching(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                os.utime(self._file.fileno())

    def _refusal(self, owner: dict[str, Any]) -> str:
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
        since = f" since {owner['since']}" if owner else ""
        return (
            f"output_dir {self.path.parent} is in use by {who}{since}; wait for it, or choose "
            "another output_dir."
        )

    @staticmethod
    def _owner(file: Any) -> dict[str, Any]:
        """Read what the file says of its owner; {} where it says nothing that can be read."""
        file.seek(0)
        try:
            owner = json.loads(file.read() or "{}")
        except ValueError:
            return {}
        good = isinstance(owner, dict) and {"host", "pid", "since"} <= set(owner)
        return owner if good else {}

    def _age(self) -> float:
        """Return the seconds since the last touch by the clock of the file system, not of this
        machine."""
        probe = self.path.with_name(f".{LOCK_FILE}.{os.getpid()}")
        try:
            probe.unlink(missing_ok=True)
            probe.touch(exist_ok=False)
            return probe.stat().st_mtime - self.path.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _is_process(number: Any) -> bool:
    """Whether a process of this number is alive on this machine."""
    return isinstance(number, int) and number > 0 and Path(f"/proc/{number}").exists()


_held: set[RunLock] = set()


def _let_go_in_child() -> None:
    """Close the lock in a forked child (a worker that loads data): it must not hold it when its run
    is gone."""
    for lock in _held:
        if lock._file is not None:
            lock._file.close()


os.register_at_fork(after_in_child=_let_go_in_child)
