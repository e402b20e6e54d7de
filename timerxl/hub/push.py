"""Where a package goes, and the upload of one that is staged."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from timerxl.config import InputError
from timerxl.hub.child import Child, Pushed, seconds_for
from timerxl.hub.package import OPTIONAL, Package
from timerxl.hub.places import Place

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

    def order(self) -> dict[str, Any]:
        """As the uploading process takes it."""
        return {"repo_id": self.repo_id, "private": self.private, "revision": self.revision}

    def command(self, run: Path, force: bool = False, data_licence: str | None = None) -> str:
        """What to run later."""
        words = ["python", "launch/publish.py", "--run", str(run), "--repo-id", self.repo_id]
        words += ["--private"] if self.private else []
        words += ["--revision", self.revision] if self.revision else []
        words += ["--data-licence", data_licence] if data_licence else []
        words += ["--force"] if force else []
        return shlex.join(words)


@dataclass
class Push:
    """One upload of a package that is staged."""

    package: Package
    target: Target
    message: str
    limit_seconds: float | None = None
    place: Place | None = None  # in which the package is staged

    def __call__(self) -> Pushed:
        """Upload in one commit; raises PushFailed. Nothing but the package is read."""
        order = {
            "folder": str(self.package.folder.absolute()),
            "files": list(self.package.files),
            "optional": list(OPTIONAL),
            "message": self.message,
            **self.target.order(),
        }
        limit = self.limit_seconds or seconds_for(self.package.num_bytes)
        return Child("timerxl.hub.upload", order, limit, self.place)()
