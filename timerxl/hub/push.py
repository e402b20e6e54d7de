"""Sends a package to the Hub, in bounded time, and says what to do where that fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

import timerxl
from timerxl.config import InputError
from timerxl.hub.package import OPTIONAL, Package

BYTES_PER_SECOND, LEAST_SECONDS = 100_000, 300.0  # a slow line, and what a small upload may take
# After these nothing but the user can help: the next model of the same run would fail alike.
PERMANENT = {"no token", "token", "rights", "quota", "offline", "public", "repository"}
_BRANCH = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[\w.-]+)*")


@dataclass(frozen=True)
class Target:
    """Where to. ``private`` makes a new repository private; a public one is then refused."""

    repo_id: str
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        """Raises InputError on names that the Hub would not take."""
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise InputError(f"repo id {self.repo_id}: {str(error).splitlines()[0]}") from error
        if self.repo_id.count("/") != 1:
            raise InputError(f"repo id {self.repo_id}: expected user/name.")
        if self.revision is not None and (
            not _BRANCH.fullmatch(self.revision) or ".." in self.revision
        ):
            raise InputError(f"revision {self.revision}: expected the name of a branch.")

    def command(self, run: Path, force: bool = False, data_licence: str | None = None) -> str:
        """What to run later."""
        words = ["python", "launch/publish.py", "--run", str(run), "--repo-id", self.repo_id]
        words += ["--private"] if self.private else []
        words += ["--revision", self.revision] if self.revision else []
        words += ["--data-licence", data_licence] if data_licence else []
        words += ["--force"] if force else []
        return shlex.join(words)


class PushFailed(RuntimeError):
    """Nothing, or not everything, arrived. The message says why, ``kind`` in one word."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


@dataclass(frozen=True)
class Pushed:
    """``removed``: files of an earlier publication that this one no longer has; ``notes``: what the
    hub had to say."""

    url: str
    commit: str
    removed: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass
class Push:
    """One upload, which another thread may end with :meth:`stop`."""

    package: Package
    target: Target
    message: str
    limit_seconds: float | None = None
    _process: subprocess.Popen[str] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def __call__(self) -> Pushed:
        """Upload in one commit; raises PushFailed. Nothing but the package is read."""
        size = self.package.num_bytes
        limit = self.limit_seconds or LEAST_SECONDS + size / BYTES_PER_SECOND
        order = {
            "folder": str(self.package.folder.absolute()),
            "files": list(self.package.files),
            "optional": list(OPTIONAL),
            "repo_id": self.target.repo_id,
            "private": self.target.private,
            "revision": self.target.revision,
            "message": self.message,
            "limit_seconds": limit,
        }
        # -P: no folder of the user's may hide a library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "timerxl.hub.upload"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        try:
            if self._stopped:
                self._process.kill()
            output, errors = self._process.communicate(json.dumps(order), timeout=limit + 5)
        except subprocess.TimeoutExpired:
            output, errors = "", ""
        finally:
            self._end()
        if self._stopped:
            raise PushFailed("stopped", "the upload was ended before it was done.")
        return _answer(output, errors, self._process.returncode, limit)

    def stop(self) -> None:
        """End the upload now."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    """Large files go by LFS, whose waiting is bounded; HF_HUB_DISABLE_XET=0 in the environment
    chooses Xet all the same."""
    environment = dict(os.environ)
    environment.setdefault("HF_HUB_DISABLE_XET", "1")
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    environment["HF_HUB_VERBOSITY"] = "error"
    repository = str(Path(timerxl.__file__).resolve().parent.parent)
    paths = [repository, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _answer(output: str, errors: str, code: int | None, limit: float) -> Pushed:
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        answer = {}
    if "url" in answer:
        return Pushed(
            answer["url"], answer["commit"], tuple(answer["removed"]), tuple(answer["notes"])
        )
    if "error" in answer:
        raise PushFailed(answer["kind"], answer["error"])
    if code is not None and code < 0:
        raise PushFailed("timeout", f"the upload was not done in {limit:,.0f} s and was ended.")
    lines = [line for line in errors.splitlines() if line.strip()]
    said = re.sub(r"hf_[A-Za-z0-9]{6,}", "[token]", lines[-1][:300]) if lines else "no word"
    raise PushFailed("other", f"the upload ended with code {code}: {said}")
