"""A small process that outlives a run and corrects its status.json where the run could not.

A process that is killed (out of memory), aborted by a library (NCCL's watchdog) or ended by a
signal outside the training loop writes nothing; its status.json would say "running" for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.25
REASON = (
    "the process ended without a word: killed (out of memory?), or aborted by a library; its last "
    "output may say why."
)


class EndWatcher:
    """Watch this process from another one, until :meth:`close`."""

    def __init__(self, output_dir: Path, resume_hint: str):
        # Without site packages: it starts in milliseconds and imports nothing of this project.
        command = [sys.executable, "-I", "-S", __file__]
        self._process = subprocess.Popen(
            [*command, str(output_dir.resolve()), str(os.getpid()), f"{REASON} {resume_hint}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C and a killed process group are for the run alone
        )

    def close(self) -> None:
        """Stop watching: the run has written its own end."""
        self._process.kill()
        self._process.wait()


def watch(output_dir: Path, parent: int, reason: str) -> None:
    """Wait for the end of ``parent``; then write code 1 where status.json still says "running"."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    lock, status = output_dir / "run.lock", output_dir / "status.json"
    try:
        # Never through a link: the folder may have come from anywhere.
        with os.fdopen(os.open(lock, os.O_RDWR | os.O_NOFOLLOW), "r+", encoding="utf-8") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the next run may be here already
            if json.loads(held.read() or "{}").get("pid") != parent:
                return
            if json.loads(status.read_text(encoding="utf-8")).get("reason") != "running":
                return
            fresh = status.with_name(".status.json.new")
            fresh.unlink(missing_ok=True)
            with fresh.open("x", encoding="utf-8") as file:
                file.write(json.dumps({"code": 1, "reason": reason}) + "\n")
            os.replace(fresh, status)
    except (OSError, ValueError):
        return  # nobody is left to be told


if __name__ == "__main__":
    watch(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
