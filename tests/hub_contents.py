"""What a hub on this machine holds: repositories, large files, what it was sent, what it spoils."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import yaml

LARGE_SUFFIXES = (".safetensors", ".bin", ".parquet")
LARGE_BYTES = 10_000_000
Json = dict[str, Any]


@dataclass(frozen=True)
class File:
    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """Git's id; of a large file that of its pointer."""
        text = self.content
        if self.is_large:
            text = f"version https://git-lfs\noid sha256:{self.sha256}\nsize {len(text)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()


@dataclass
class Repository:
    """Branch -> its commits, each (id, message, path -> file)."""

    private: bool = False
    branches: dict[str, list[tuple[str, str, dict[str, File]]]] = field(default_factory=dict)

    def commits(self, branch: str = "main") -> list[tuple[str, str, dict[str, File]]]:
        """Without the empty one that the hub makes with a repository."""
        return self.branches[branch][1:]

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """What a reader gets, without .gitattributes."""
        tree = self.branches[branch][-1][2]
        return {name: file.content for name, file in tree.items() if name != ".gitattributes"}

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        """(commit, files) of a branch or a commit."""
        if revision in self.branches:
            commit = self.branches[revision][-1]
            return commit[0], commit[2]
        every = [commit for commits in self.branches.values() for commit in commits]
        return next(((oid, tree) for oid, _, tree in every if oid == revision), None)

    def commit(self, branch: str, message: str, tree: dict[str, File]) -> str:
        count = sum(map(len, self.branches.values()))
        oid = hashlib.sha1(f"{message} {count} {time.time_ns()}".encode()).hexdigest()
        self.branches.setdefault(branch, []).append((oid, message, tree))
        return oid


@dataclass
class Fault:
    """Spoil requests whose "METHOD path" matches ``where``, ``times`` of them.

    ``status`` answers so, with ``error`` and ``headers``; without it the connection is dropped
    (reset) once ``after_bytes`` of the body are read. ``seconds`` is waited first; ``done_first``
    lets the request do its work before its answer is lost.
    """

    where: str
    status: int | None = None
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000
    after_bytes: int = 0
    seconds: float = 0.0
    done_first: bool = False
    as_page: bool = False


@dataclass
class Hub:
    """What the server holds and what it was sent: ``received`` is every request, head and body."""

    endpoint: str
    token: str = "hf_" + "x" * 34
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    multipart_bytes: int | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def calls(self, where: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(where, call)) for call, _, _ in self.received)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to speak with this hub; the suite's own says "offline"."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


def is_large(name: str, size: int) -> bool:
    return name.endswith(LARGE_SUFFIXES) or size >= LARGE_BYTES


def tree_entries(tree: dict[str, File], recursive: bool) -> list[Json]:
    found: list[Json] = []
    folders = {name.rpartition("/")[0] for name in tree} - {""}
    found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in folders]
    for name, file in tree.items():
        if "/" in name and not recursive:
            continue
        entry: Json = {"type": "file", "path": name, "oid": file.oid, "size": len(file.content)}
        if file.is_large:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
        found.append(entry)
    return found


def card_errors(card: str) -> list[str]:
    """What the hub asks of a card's front matter (hub-docs, modelcard.md)."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.S)
    data = yaml.safe_load(match[1]) if match else None
    if not isinstance(data, dict):
        return ["there is no YAML front matter"]
    errors = [key for key in ("tags", "library_name") if key not in data]
    for model in data.get("model-index", []):
        for result in model["results"]:
            errors += [f"task.{key}" for key in ["type"] if not result["task"].get(key)]
            errors += [f"dataset.{k}" for k in ("type", "name") if not result["dataset"].get(k)]
            for metric in result["metrics"]:
                errors += [f"metric.{key}" for key in ("type", "value") if key not in metric]
    return errors
