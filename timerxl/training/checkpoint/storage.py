"""Checkpoints on disk: folders that are whole and proven so, or not there.

``checkpoints/step_00001200/`` holds a model folder, the state of training and ``manifest.json``
with size and SHA-256 of every file. It is written as ``.step_00001200.new``, synced, and renamed.
Nothing here knows of torch or of other processes.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from timerxl.command_line import EXIT_STORAGE, ForeseenError
from timerxl.config import InputError
from timerxl.files import write_json
from timerxl.untrusted import Between, link_problem, read_json, schema_error, shape_of


def on_disk(name: str) -> str:
    """Return the key of a field in trainer_state.json; the older key stays, so that older
    checkpoints load and older versions read new ones."""
    return "looked_step" if name == "last_evaluated_step" else name


@dataclass
class Progress:
    """What a run has done so far. ``losses`` are those of the steps since the last evaluation;
    ``last_evaluated_step`` is the last step whose evaluation or check is done."""

    step: int = 0
    last_evaluated_step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    evaluations_without_gain: int = 0
    stop_reason: str = "all steps done"
    train_seconds: float = 0.0
    check_seconds: float = 0.0
    loading_seconds: float = 0.0
    samples_seen: int = 0
    resumes: int = 0
    losses: list[float] = field(default_factory=list)

    def forget_best(self) -> None:
        """Forget the best model, which is lost: the next evaluation is the best again."""
        self.best_score, self.best_step = -math.inf, 0

    def to_dict(self) -> dict[str, Any]:
        """Return what trainer_state.json holds; JSON knows no infinity, so that is null."""
        found = {on_disk(name): value for name, value in asdict(self).items()}
        if not math.isfinite(self.best_score):
            found["best_score"] = None
        return found

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Progress:
        """Read the progress of a checkpoint, and count one more resume."""
        fields = {name: value for name, value in saved.items() if name != "looked_step"}
        progress = cls(last_evaluated_step=saved.get("looked_step", 0), **fields)
        if saved["best_score"] is None:
            progress.best_score = -math.inf
        progress.resumes += 1
        return progress


CHECKPOINTS = "checkpoints"
MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
FORMAT = 1
_NAME = re.compile(r"step_(\d{8,15})")
_FILE = re.compile(r"[\w-][\w.-]*")
_COUNT, _ABOVE_0 = range(2**53), range(1, 2**53)
_RECORD = {"size": _COUNT, "sha256": str}
# Of trainer_state.json, as timerxl.untrusted.schema_error takes it: each number within its meaning.
_BATCH = range(1, 2**31)
_KINDS = {int: _COUNT, float: Between(0, 1e12), str: str, list: [Between(0, 1e30)]}  # s, loss
_PROGRESS = {
    on_disk(key.removesuffix("?")): _KINDS[list if isinstance(kind, list) else kind]
    for key, kind in shape_of(Progress).items()
}
_FACTOR = Between(1e-30, 1e30)
_STATE: dict[str, Any] = {
    "step": _ABOVE_0,
    "world_size": range(1, 2**20),
    "global_batch_size": _BATCH,
    "metrics_bytes": range(2**30),
    "config": {"train?": {"batch_size?": _BATCH, "accumulation_steps?": _BATCH}},
    # Larger is better: scores end at 1, a loss counts with a minus.
    "progress": _PROGRESS
    | {"step": _ABOVE_0, "best_score": (Between(-1e30, 1), None)}
    | {"resumes": range(10**6)},
    "schedule": {"last_epoch": _COUNT, "_step_count": _COUNT, "_last_lr": [Between(0, 1e6)]},
    "scaler": (
        {
            **{"scale?": _FACTOR, "growth_factor?": _FACTOR, "backoff_factor?": _FACTOR},
            **{"growth_interval?": _ABOVE_0, "_growth_tracker?": _COUNT},  # those of torch
            **{"cur_scale?": _FACTOR, "cur_iter?": _COUNT},  # those of DeepSpeed
            **{"last_overflow_iter?": Between(-1, 2**53), "cur_hysteresis?": _COUNT},
        },
        None,
    ),
}
_COUNTED = ("looked_step", "best_step", "evaluations_without_gain")  # none is beyond the step
_BLOCK = 2**20
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


class StorageFailed(ForeseenError):
    """Files of the run can't be written or read; the message says which, why, and what is left."""

    exit_code = EXIT_STORAGE


def no_whole_checkpoint(root: Path, problems: list[str]) -> StorageFailed:
    """Build the error for a run whose checkpoints are all damaged."""
    return StorageFailed(
        f"no whole checkpoint in {root}: {' '.join(problems)} train.resume=never trains anew and "
        "moves the run aside."
    )


def is_storage_error(error: BaseException | None) -> bool:
    """Whether the disk is full or broken, which no other input would mend."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


def space_left(folder: Path) -> str:
    """Describe the free space, for a message."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e9:.2f} GB are free there"
    except OSError:
        return "its free space can't be read"


def disk_warning(
    folder: Path, num_parameters: int, keep_last: int, under_copy: int = 0, averaged: bool = False
) -> str | None:
    """Return a sentence where the disk can't hold the checkpoints to come; None where it can.

    fp32 weights and two moments, 12 bytes a parameter, 4 more where the weights are ``averaged``;
    one more than is kept while it is written, and those that are held for a mirror.
    """
    count = keep_last + 1 + under_copy
    needed = (
        16 if averaged else 12
    ) * num_parameters * count + 4 * num_parameters  # and the best model
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (
        f"checkpoints and the best model will need {needed / 1e9:.2f} GB in {folder}, "
        f"{free / 1e9:.2f} are free; the run stops where they end (train.keep_last={keep_last})."
    )


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after optimizer step ``step``."""
    return f"step_{step:08d}"


def fresh_folder(folder: Path) -> Path:
    """Return where ``folder`` is written before it is whole."""
    return folder.with_name(f".{folder.name}.new")


def find_checkpoints(root: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of the checkpoints in ``root``, newest first, valid or not."""
    if not root.is_dir():
        return []
    folders = [path for path in root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    # One that was about to be replaced by a process that was killed counts under its own name.
    folders += [old for old in root.glob(".step_*.old") if not final_name(old).exists()]
    named = [(_NAME.fullmatch(final_name(path).name), path) for path in folders]
    return sorted(((int(name[1]), path) for name, path in named if name), reverse=True)


def final_name(path: Path) -> Path:
    """Return the name of a folder that was found under its temporary one, ``.NAME.old`` or
    ``.NAME.new``."""
    return path.with_name(re.sub(r"^\.(.+)\.(old|new)$", r"\1", path.name))


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_record(path: Path) -> dict[str, Any]:
    """Return size in bytes and SHA-256 of a file, as the manifest holds them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def record_files(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Sync the files of ``folder`` with these names, and return their records."""
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
    fresh = fresh_folder(folder)
    write_json(fresh / MANIFEST, {"format": FORMAT, "step": step, "files": files})
    sync(fresh / MANIFEST)
    sync(fresh)
    if problem := find_problem(fresh):
        raise StorageFailed(f"it was written, but reads back wrong: {problem}")
    replace_folder(fresh, folder)


def replace_folder(fresh: Path, folder: Path) -> None:
    """Rename ``fresh`` to ``folder``; what had that name is deleted, or restored where this fails.

    A kill between the two renames leaves it as ``.NAME.old``, where :func:`find_checkpoints` and
    :func:`finish_replacement` look.
    """
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(fresh, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def finish_replacement(folder: Path) -> None:
    """Finish what a kill in the middle of :func:`replace_folder` left, and clear up behind it."""
    old = folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    for left in (old, fresh_folder(folder)):
        shutil.rmtree(left, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest; raise ValueError with a sentence where it can't be used."""
    if not os.path.lexists(folder / MANIFEST):
        raise ValueError(f"{MANIFEST} is missing")
    if problem := link_problem(folder / MANIFEST):
        raise ValueError(f"{MANIFEST} {problem}, expected a regular file")
    try:
        manifest = read_json(folder / MANIFEST)
    except InputError as error:
        raise ValueError(str(error).replace(str(folder / MANIFEST), MANIFEST).rstrip(".")) from None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{MANIFEST} names no files")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{MANIFEST} has format {manifest.get('format')!r}, expected {FORMAT}")
    for name, record in files.items():
        if schema_error(record, _RECORD) or not _FILE.fullmatch(name):
            raise ValueError(f"{MANIFEST} has a bad entry for {ascii(name)[:80]}")
    return manifest


def find_problem(
    folder: Path, share: int = 0, shares: int = 1, names: Collection[str] | None = None
) -> str | None:
    """Return what is wrong with a checkpoint, naming the file; None where it is whole.

    Every ``shares``-th file is read, from the ``share``-th on, so that ranks can divide the work;
    or only those called ``names``. All must be there with their size.
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
        if problem := link_problem(folder / name):  # a pipe would be waited for
            return f"{name} {problem}, expected a regular file"
        if (size := (folder / name).stat().st_size) != expected["size"]:
            return f"{name} has {size:,} bytes, expected {expected['size']:,}"
    for name in sorted(files if names is None else names)[share::shares]:
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
    """Delete all but the newest ``keep_last`` checkpoints; return what was deleted.

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


def clear_unfinished(root: Path) -> None:
    """Delete what a process that was killed in the middle of a save left behind."""
    if not root.is_dir():
        return
    for left in (*root.glob(".step_*.old"), *root.glob(".step_*.new")):
        finish_replacement(final_name(left))


def read_trainer_state(folder: Path, complete: bool = False) -> dict[str, Any]:
    """Read position, scores, configuration and fingerprints of a checkpoint.

    Raises StorageFailed where the file can't be used: what is there is of its kind and of this
    checkpoint. To go on from it, it must be ``complete`` as well.
    """
    path = folder / TRAINER_STATE
    try:
        state = read_json(path)
    except InputError as error:
        raise StorageFailed(str(error)) from error
    if problem := _state_problem(state, folder, complete):
        raise StorageFailed(f"{path} holds no state to go on from: {problem}.")
    return dict(state)


def _state_problem(state: Any, folder: Path, complete: bool) -> str | None:
    """Return what is wrong with the content of trainer_state.json, as a clause."""
    progress = state.get("progress") if isinstance(state, dict) else None
    if not isinstance(progress, dict):
        return "it has no progress"
    shape, parts = _STATE, _STATE["progress"]
    if not complete:  # only what is there
        parts = {key: kind for key, kind in parts.items() if key in {*progress, "step"}}
        shape = {key: kind for key, kind in _STATE.items() if key in {*state, "step"}}
    if (problem := schema_error(state, shape | {"progress": parts})) is not None:
        return problem
    if unknown := sorted(progress.keys() - _PROGRESS.keys()):
        return f"progress.{ascii(unknown[0])[:80]} is not known"
    if schema_error(list((state.get("scaler") or {}).values()), [float]):
        return "scaler holds something that is no number"
    seen, most = progress.get("samples_seen", 0), state.get("global_batch_size", 2**31)
    if seen > progress["step"] * most:
        return f"progress.samples_seen is {seen:,}, more than its steps can have seen"
    for key in _COUNTED:
        if progress.get(key, 0) > progress["step"]:
            return f"progress.{key} is {progress[key]:,}, beyond its step {progress['step']:,}"
    if (best := progress.get("best_score")) is not None and best > 0:
        metric = state.get("config", {}).get("train", {}).get("metric_for_best_model")
        if metric in ("loss", "brier"):
            return f"progress.best_score is {best:g}; {metric} counts with a minus"
    step, named = state["step"], _NAME.fullmatch(folder.name)
    if progress["step"] != step or (named and int(named[1]) != step):
        return f"it is of step {step} and counts {progress['step']}, the folder is {folder.name}"
    if state.get("schedule", {}).get("last_epoch", 0) > step:
        return f"its schedule is at step {state['schedule']['last_epoch']:,}, the run at {step:,}"
    return None
