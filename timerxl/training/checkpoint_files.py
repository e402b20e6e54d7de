"""Checkpoints on disk: folders that are whole and proven so, or not there.

``checkpoints/step_00001200/`` holds a model folder, the state of training and ``manifest.json``
with size and SHA-256 of every file. It is written as ``.step_00001200.new``, synced, and renamed.
Nothing here knows of torch or of other processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from timerxl.files import write_json

CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
FORMAT = 1
_NAME = re.compile(r"step_(\d{8,})")
_BLOCK = 2**20


class StorageFailed(RuntimeError):
    """Files of the run can't be written or read; the message says which, why, and what is left."""


def space_left(folder: Path) -> str:
    """How much room a message can report."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB are free there"
    except OSError:
        return "its free space can't be read"


def short_of_room(folder: Path, num_parameters: int, keep_last: int) -> str | None:
    """A sentence where the disk can't hold the checkpoints to come; None where it can.

    fp32 weights and two moments, 12 bytes a parameter; one more than is kept while it is written.
    """
    needed = 12 * num_parameters * (keep_last + 1) + 4 * num_parameters  # and the best model
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"checkpoints and the best model will need {needed / 1e9:.2f} GB in {folder}, "
        f"{free / 1e9:.2f} are free; the run stops where they end (train.keep_last={keep_last})."
    )


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after optimizer step ``step``."""
    return f"step_{step:08d}"


def fresh_folder(folder: Path) -> Path:
    """Where ``folder`` is written before it is whole."""
    return folder.with_name(f".{folder.name}.new")


def find_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints in ``root``, newest first, valid or not."""
    if not root.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir()]
    return sorted(((int(name[1]), path) for name, path in found if name), reverse=True)


def sync(path: Path) -> None:
    """Have the disk itself hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_record(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as the manifest holds them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def record_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Sync the files of ``folder`` with these names, and describe them."""
    records = {}
    for name in names:
        sync(folder / name)
        records[name] = file_record(folder / name)
    return records


def publish(folder: Path, step: int, files: dict[str, dict[str, Any]]) -> None:
    """Give the finished ``fresh_folder(folder)`` its manifest and its name.

    A folder of that name (damaged, or of the same step) is replaced. Raises StorageFailed where
    what the disk gives back is not what was written.
    """
    fresh, old = fresh_folder(folder), folder.with_name(f".{folder.name}.old")
    write_json(fresh / MANIFEST, {"format": FORMAT, "step": step, "files": files})
    sync(fresh / MANIFEST)
    sync(fresh)
    if problem := find_problem(fresh):
        raise StorageFailed(f"it was written, but reads back wrong: {problem}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; raises ValueError with a sentence where it can't be used."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} can't be read: {error}") from error
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{MANIFEST} names no files")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} has format {manifest.get('format')!r}, expected {FORMAT}")
    for name, record in files.items():
        good = isinstance(record, dict) and {"size", "sha256"} <= set(record)
        if not good or Path(name).name != name:
            raise ValueError(f"{MANIFEST} has a bad entry for {name!r}")
    return manifest


def find_problem(folder: Path, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where it is whole.

    Every ``shares``-th file is read, from the ``share``-th on, so that ranks can divide the work.
    """
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return str(error)
    named = _NAME.fullmatch(folder.name)
    if named and manifest.get("step") != int(named[1]):
        return f"{MANIFEST} is of step {manifest.get('step')!r}"
    files = manifest["files"]
    if TRAINER_STATE not in files:
        return f"{MANIFEST} does not name {TRAINER_STATE}"
    for name, expected in files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            return f"{name} can't be read: {error.strerror or error}"
        if size != expected["size"]:
            return f"{name} has {size:,} bytes, expected {expected['size']:,}"
    for name in sorted(files)[share::shares]:
        try:
            found = file_record(folder / name)
        except OSError as error:
            return f"{name} can't be read: {error.strerror or error}"
        if found["sha256"] != files[name]["sha256"]:
            return f"{name} is damaged, or of another checkpoint: its SHA-256 is not the manifest's"
    return None


def prune(
    root: Path, keep_last: int, verified: Path, sound: Collection[Path] | None = None
) -> list[Path]:
    """Delete all but the newest ``keep_last`` checkpoints; returns what was deleted.

    ``verified`` was just read back and found whole: only what is older than it goes. Where
    ``sound`` names the others known to be whole, those alone count as kept.
    """
    steps = find_checkpoints(root)
    newest = next((step for step, path in steps if path == verified), None)
    if newest is None:
        return []
    older = [path for step, path in steps if step < newest]
    kept = [path for path in older if sound is None or path in sound][: keep_last - 1]
    gone = [path for path in older if path not in kept]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def sweep(root: Path) -> None:
    """Clear away what a process that was killed in the middle of a save left behind."""
    if not root.is_dir():
        return
    for old in root.glob(".step_*.old"):
        folder = root / old.name.removeprefix(".").removesuffix(".old")
        if not folder.exists():  # killed between the two renames of publish()
            os.replace(old, folder)
    for path in (*root.glob(".step_*.new"), *root.glob(".step_*.old")):
        shutil.rmtree(path, ignore_errors=True)


def read_trainer_state(folder: Path) -> dict[str, Any]:
    """Position, scores, configuration and fingerprints of a checkpoint.

    Raises StorageFailed where the file can't be used.
    """
    try:
        state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageFailed(f"{folder / TRAINER_STATE} can't be read: {error}") from error
    if not isinstance(state, dict) or not isinstance(state.get("progress"), dict):
        raise StorageFailed(f"{folder / TRAINER_STATE} holds no state of training.")
    return state
