"""The upload itself, of a package or a copy of a run, in a process of its own (timerxl.hub.push).

Reads one JSON object from stdin, writes one to stdout. It imports huggingface_hub and nothing slow.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from timerxl.hub.staging import remove
from timerxl.untrusted import plain

STALL_SECONDS = 90.0  # without a byte in either direction; the library itself waits for ever
WAITS_SECONDS = (2.0, 6.0)  # before the second and the third try
LAST_START_SECONDS = 20.0  # no further try after so long: the library has tried again by itself
MOST_OF_A_CARD = 1_000_000  # bytes; ours say at the top that a run is under way
_QUOTA = re.compile(r"quota|storage|too large|payment|upgrade your plan|exceed", re.I)
T = TypeVar("T")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}")


class Refused(Exception):
    """An upload that can't be; ``again`` says whether trying again may help."""

    def __init__(self, kind: str, sentence: str, again: bool = False):
        super().__init__(sentence)
        self.kind, self.again = kind, again


def explain(error: BaseException) -> Refused:
    """What went wrong, in a sentence for the one who has to mend it."""
    if isinstance(error, Refused):
        return error
    cause = error.__cause__
    if isinstance(error, RuntimeError) and cause is not None:
        # The library's wrapper around one file; it has tried that several times.
        inner = explain(cause)
        return Refused(inner.kind, f"{_line(str(error).split(chr(10))[0])} {inner}")
    if isinstance(error, OfflineModeIsEnabled):
        return Refused("offline", "HF_HUB_OFFLINE forbids every upload; unset it.")
    if isinstance(error, HfHubHTTPError):
        return _of_status(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        return Refused("timeout", f"{_host()} did not answer in {STALL_SECONDS:g} s.", again=True)
    if "ConnectError" in kinds:
        return Refused("network", f"{_host()} can't be reached: {_first(error)}.", again=True)
    if "TransportError" in kinds:
        return Refused("broken", f"the connection to {_host()} broke: {_first(error)}.", again=True)
    message = _first(error)
    if "JSONDecodeError" in kinds:
        return Refused("server", f"{_host()} answers, but not as a hub does.", again=True)
    if _QUOTA.search(message) and "LFS batch" in message:
        return Refused("quota", f"there is no room for it on the hub: {message}")
    if message.startswith("Invalid metadata"):
        return Refused("card", f"the hub refuses the card: {_line(str(error))}")
    return Refused("other", f"{type(error).__name__}: {message}")


def _of_status(error: HfHubHTTPError) -> Refused:
    status, said = error.response.status_code, _first(error)
    if status == 401:
        return Refused(
            "token",
            "the hub refuses the token (401): it is wrong, revoked or expired. Make a new one with "
            "the right to write at https://huggingface.co/settings/tokens and set HF_TOKEN.",
        )
    if status in (402, 413, 507) or (status == 403 and _QUOTA.search(said)):
        return Refused("quota", f"there is no room for it on the hub ({status}): {said}")
    if status == 403:
        return Refused("rights", f"the token has no right to write there (403): {said}")
    if isinstance(error, RevisionNotFoundError):
        return Refused("branch", f"there is no such branch, and it can't be made (404): {said}")
    if status == 404:
        return Refused(
            "repository",
            "the hub knows no such repository (404), or keeps it from this token: check the name.",
        )
    if status in (409, 412):
        return Refused("conflict", f"somebody else is writing there ({status}): {said}", again=True)
    if status == 429:
        return Refused("busy", f"too many requests for the hub (429): {said}")
    if status >= 500:
        return Refused("server", f"the hub has trouble ({status}): {said}", again=True)
    return Refused("other", f"the hub refuses it ({status}): {said}")


def _host() -> str:
    return constants.ENDPOINT


def _first(error: BaseException) -> str:
    """What the server said, else the first line; of addresses without what may be signed."""
    said = getattr(error, "server_message", None) or str(error)
    return next(filter(None, map(_line, str(said).splitlines())), type(error).__name__)


def _line(text: str) -> str:
    """A plain line of at most 300 characters without tokens, whatever a server answered."""
    text = _TOKEN.sub("[token]", " ".join(text.split()).replace(get_token() or "\0", "[token]"))
    text = re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", text[:3000])
    return plain(text[:300].rstrip(". "))


def remote_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    """The files of a repository by their path."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {item.path: item for item in tree if isinstance(item, RepoFile)}


def is_there(path: Path, remote: RepoFile | None) -> bool:
    """The repository holds this very content, by SHA-256 or git's own sum."""
    if remote is None or remote.size != path.stat().st_size:
        return False
    if remote.lfs:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == remote.lfs.sha256
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return git.hexdigest() == remote.blob_id


def card_there(order: dict[str, Any]) -> str:
    """The beginning of the repository's README.md, "" where there is none."""
    get_session().timeout = STALL_SECONDS
    url = hf_hub_url(order["repo_id"], "README.md", revision=order["revision"])
    headers = build_hf_headers()
    try:
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            read = b""
            for part in answer.iter_bytes():
                read += part
                if len(read) > MOST_OF_A_CARD:
                    break
            return read[:MOST_OF_A_CARD].decode(errors="replace")
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        return ""


def upload(order: dict[str, Any]) -> dict[str, Any]:
    """Create what is missing and commit once; the same order twice makes no second commit.

    Raises Refused.
    """
    api, repo_id = HfApi(token=get_token()), order["repo_id"]
    revision = order["revision"] or constants.DEFAULT_REVISION
    folder = Path(order["folder"])
    get_session().timeout = STALL_SECONDS
    api.create_repo(repo_id, private=order["private"] or None, exist_ok=True)
    if order["private"] and not api.model_info(repo_id).private:
        raise Refused(
            "public",
            f"{repo_id} is there already and is public, --private would not change that. Make it "
            "private in its settings on the hub, or take another name.",
        )
    if revision != constants.DEFAULT_REVISION:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    before = remote_files(api, repo_id, revision)
    stale = [name for name in order["optional"] if name in before and name not in order["files"]]
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationAdd(name, str(folder / name)) for name in order["files"]
    ]
    operations += [CommitOperationDelete(name) for name in stale]
    done = api.create_commit(
        repo_id, operations, commit_message=order["message"], revision=revision
    )
    after = remote_files(api, repo_id, done.oid)
    missing = [name for name in order["files"] if not is_there(folder / name, after.get(name))]
    if missing:
        raise Refused(
            "incomplete",
            f"the commit {done.oid} was made without {', '.join(missing)}; does a .gitignore in "
            "the repository leave them out?",
        )
    return {"url": done.commit_url, "commit": done.oid, "removed": stale}


def with_retries(task: Callable[[], T]) -> T:
    """At most three tries, and none that begins late. Raises Refused."""
    begun = time.monotonic()
    for wait in (*WAITS_SECONDS, None):
        try:
            return task()
        except Exception as error:
            found = explain(error)
            late = time.monotonic() - begun > LAST_START_SECONDS
            if wait is None or late or not found.again:
                raise found from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def answer_with(order: dict[str, Any], task: Callable[[], dict[str, Any]]) -> int:
    """Do it in bounded time, and say on stdout what came of it."""
    # The one who ordered may be gone: this process ends by itself, too.
    signal.setitimer(signal.ITIMER_REAL, order["limit_seconds"])
    try:
        if not get_token():
            raise Refused(
                "no token",
                "there is no token: set HF_TOKEN, or log in once with `hf auth login`. One with "
                "the right to write is made at https://huggingface.co/settings/tokens.",
            )
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", UserWarning)
            answer = task()
        answer["notes"] = [_line(str(note.message)) for note in noted]
    except Refused as refused:
        answer = {"kind": refused.kind, "error": str(refused)}
    print(json.dumps(answer), flush=True)
    return 0


def publish(order: dict[str, Any]) -> dict[str, Any]:
    """Stage the run in ``order["copy"]`` beside it and upload that.

    With ``order["only_over"]`` nothing is done unless the card on the hub says this. Raises
    Refused.
    """
    mark = order["only_over"]
    if mark and mark not in with_retries(lambda: card_there(order)):
        raise Refused("nothing there", f"{order['repo_id']} holds no model of a run under way.")
    # Slow to import, and for nothing until here.
    from timerxl.config import InputError
    from timerxl.hub.package import OPTIONAL, stage
    from timerxl.hub.record import read_record

    copy, run = Path(order["copy"]), Path(order["run"])
    try:
        record = read_record(copy, order["force"], under_way=True, named=run)
        package = stage(record, copy.parent / "package", order["repo_id"])
    except InputError as error:
        raise Refused("input", str(error).replace(str(copy), str(run))) from error
    what = f"model of step {record.step}"
    outcome = f", {record.outcome}" if record.outcome in ("stopped", "failed") else ""
    order = order | {
        "folder": str(package.folder),
        "files": list(package.files),
        "optional": list(OPTIONAL),
        "message": f"{what.capitalize()} of {record.name}{outcome}",
    }
    return with_retries(lambda: upload(order)) | {"what": what}


def _end_with(parent: int, place: Path | None) -> None:
    """Wait until the parent has ended, in whatever way, then end this process and its place."""
    while os.getppid() == parent:
        time.sleep(0.1)
    if place is not None:
        remove(place)
    os.kill(os.getpid(), signal.SIGKILL)


def main(parent: str, place: str | None = None) -> int:
    """Do what the order on stdin says, as long as the process ``parent`` lives: ``copy`` names a
    copy of a run under way."""
    tie = (int(parent), Path(place) if place else None)
    threading.Thread(target=_end_with, args=tie, daemon=True).start()
    order = json.load(sys.stdin)
    if "copy" in order:
        os.nice(10)  # the training comes first
        return answer_with(order, lambda: publish(order))
    return answer_with(order, lambda: with_retries(lambda: upload(order)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
