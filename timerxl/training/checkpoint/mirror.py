"""Copies of a run in a second place (``train.mirror``), made beside the training.

The place is a folder or any URL that fsspec knows. It holds two slots, written in turn:

    slot-0/  manifest.json  checkpoint/  model/  metrics.jsonl  config.yaml  ...
    slot-1/  the same of another moment

A slot's manifest is marked unfinished first, its files are overwritten in place, and the manifest
with size and SHA-256 of every file comes last. So a copy is whole or does not count, without the
renames that object stores do not have, and while one slot is written the other is left alone.
Overwriting in place also keeps old copies out of the trash of a mounted Google Drive.

Nothing here knows of torch or of other processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from timerxl.command_line import is_main_rank
from timerxl.config import InputError, RunConfig
from timerxl.files import write_text
from timerxl.training.checkpoint.storage import (
    CHECKPOINTS,
    MANIFEST,
    StorageFailed,
    checkpoint_name,
    file_record,
    find_checkpoints,
    fresh_folder,
    is_storage_error,
    read_manifest,
    space_left,
)
from timerxl.training.processes.run_lock import FORECASTS, NO_FILES_OF_A_RUN, RUN_CONFIG, RunLock
from timerxl.untrusted import MOST_JSON_BYTES, check_own_files, open_own, reason, schema_error

FORMAT = 1
SLOTS = (0, 1)
NOTE = "README.txt"
STAGE, RUN_ID = ".mirror", "run_id"  # in the run's folder: what is being copied, and whose it is
_FILES = (
    *(RUN_CONFIG, "results.json", "verdict.json", "status.json", "audit.json"),
    "environment.json",
)
_FOLDERS = ("model", "report")  # whose files are replaced by a rename, never written in place
_GROWING = ("metrics.jsonl", "tensorboard")  # whose files are only appended to
_TOP = {"checkpoint", FORECASTS, *_FILES, *_FOLDERS, *_GROWING}
_BLOCK = 4 * 2**20

END_SECONDS = 60.0  # to wait at a normal end for the last copy
MOST_SECONDS = 600.0  # the same while bytes are still flowing
STALL_SECONDS = 30.0  # without a byte, they are not
HURRY_SECONDS = 20.0  # after a signal or a failure: launchers kill 30 s after they ask
FILL_SECONDS = 120.0  # for which other ranks wait without seeing the main process fill the folder

_NOTE_TEXT = """Copies of a training run by timerxl (train.mirror): two slots, written in turn.
A slot whose manifest.json names its files is whole; the one with the higher number is the newer.
Started with this train.mirror and an empty output_dir, the same command goes on from here.
"""
_COUNT = range(2**53)
_RECORD = {"size": _COUNT, "sha256": str}
_SHAPE: dict[str, Any] = {
    "format": range(FORMAT, FORMAT + 1),
    "id": str,
    "run": str,
    "number": _COUNT,
    "step": _COUNT,
    "written": str,
    "files": (dict, None),
}


class Unusable(Exception):
    """A copy can't be read, or is not what its manifest says; the message says why."""


@dataclass(frozen=True)
class Copy:
    """The manifest of a slot. ``number`` counts the copies at this mirror: the highest is the
    newest, also where another run began at step 0. ``files`` (path -> size and SHA-256) is None
    while the slot is written."""

    slot: int
    id: str
    run: str
    number: int
    step: int
    written: str
    files: dict[str, dict[str, Any]] | None

    @property
    def num_bytes(self) -> int:
        return sum(record["size"] for record in (self.files or {}).values())

    def to_json(self) -> bytes:
        content = {key: getattr(self, key) for key in _SHAPE if key != "format"}
        return (json.dumps({"format": FORMAT, **content}, indent=2) + "\n").encode()


class MirrorStore:
    """The folder or bucket that holds the copies.

    Raises InputError where ``url`` names no file system that can be used here.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            self.fs, root = url_to_fs(url)
        except (ImportError, ValueError) as error:  # fsspec says what to install
            raise InputError(
                f"train.mirror={url}: {reason(error).rstrip('.')}. Expected a folder, or a URL "
                "whose fsspec package is installed (pip install s3fs for s3://, gcsfs for gs://)."
            ) from error
        except Exception as error:  # libraries of storages raise what they like
            raise InputError(f"train.mirror={url} can't be opened: {_why(error)}.") from error
        self.root = root.rstrip("/")

    def check_apart(self, output_dir: Path) -> None:
        """Raise InputError where the mirror is in ``output_dir``, or ``output_dir`` in it."""
        if not isinstance(self.fs, LocalFileSystem):
            return
        place, run = Path(self.root or "/").resolve(), output_dir.resolve()
        if place.is_relative_to(run) or run.is_relative_to(place):
            raise InputError(
                f"train.mirror={self.url} and output_dir {output_dir} lie in each other: what "
                "takes one takes the other; choose a folder on another disk, or a bucket."
            )

    def check_files(self) -> None:
        """Raise InputError where the mirror is a folder and something in it is a link: copies are
        written in place, and would be written elsewhere."""
        if isinstance(self.fs, LocalFileSystem):
            names = (NOTE, *(f"slot-{slot}" for slot in SLOTS))
            check_own_files(Path(self.root or "/"), names, names)
            note = Path(self.root, NOTE)
            if note.is_file():
                with note.open("rb") as file:
                    is_ours = file.read(40) in _NOTE_TEXT.encode()
                if not is_ours:  # it would be overwritten
                    raise InputError(
                        f"train.mirror={self.url} holds a {NOTE} that is not a mirror's; choose an "
                        "empty folder."
                    )

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def write(self, path: str, blocks: Iterator[bytes]) -> None:
        """Overwrite a file in place."""
        if self.root.startswith("/"):  # a disk's path; buckets have no folders
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(self.fs, LocalFileSystem):
            open_own(Path(path), "ab").close()  # refuses a link, which would be written through
        with self.fs.open(path, "wb") as file:
            for block in blocks:
                file.write(block)

    def probe(self) -> None:
        """Write a small file; let every error of the storage pass."""
        self.write(self.path(NOTE), iter([_NOTE_TEXT.encode()]))

    def copy_in(self, slot: int) -> Copy | None:
        """Read the manifest of a slot; return None where none can be used."""
        try:
            path = self.path(f"slot-{slot}", MANIFEST)
            content = self.fs.cat_file(path, end=MOST_JSON_BYTES)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if schema_error(found, _SHAPE) is not None:
            return None
        copy = Copy(slot, *(found[key] for key in _SHAPE if key != "format"))
        for name, record in (copy.files or {}).items():
            if schema_error(record, _RECORD) is not None or not _is_ours(name):
                return None
        return copy

    def copies(self) -> list[Copy]:
        """Read the manifests of both slots, newest first, unfinished ones among them."""
        self.fs.invalidate_cache()
        found = [copy for slot in SLOTS if (copy := self.copy_in(slot)) is not None]
        return sorted(found, key=lambda copy: copy.number, reverse=True)

    def fetch(self, copy: Copy, folder: Path) -> None:
        """Download the files of a whole copy into ``folder``, verified while they arrive.

        Raises Unusable where the mirror is at fault, OSError where this machine is.
        """
        assert copy.files is not None
        for name, expected in copy.files.items():
            first, _, rest = name.partition("/")
            target = folder / name
            if first == "checkpoint":
                target = folder / CHECKPOINTS / checkpoint_name(copy.step) / rest
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, size = hashlib.sha256(), 0
            with target.open("wb") as file:
                for block in self._read(self.path(f"slot-{copy.slot}", name), name):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    if size > expected["size"]:  # and maybe without end
                        raise Unusable(f"{name} has more than {expected['size']:,} bytes")
                file.flush()
                os.fsync(file.fileno())
            if size != expected["size"]:
                raise Unusable(f"{name} has {size:,} bytes, expected {expected['size']:,}")
            if digest.hexdigest() != expected["sha256"]:
                raise Unusable(f"{name} is damaged: its SHA-256 is not the manifest's")

    def _read(self, path: str, name: str) -> Iterator[bytes]:
        try:
            with self.fs.open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    yield block
        except Exception as error:  # libraries of storages raise what they like
            raise Unusable(f"{name} can't be read: {_why(error)}") from error


def _is_ours(name: str) -> bool:
    """Whether a path in a manifest is one that a copy may hold, inside its slot."""
    path = PurePosixPath(name)
    return (
        str(path) == name
        and "\0" not in name
        and not path.is_absolute()
        and ".." not in path.parts
        and path.parts[0] in _TOP
    )


def _why(error: BaseException) -> str:
    """Describe an error in a clause that is the same every time it happens."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
    return f"{type(error).__name__}: {said}".rstrip(".")


def open_mirror(config: RunConfig, log: Callable[[str], None]) -> Mirror | None:
    """Open the mirror of a run on its main process; return None elsewhere, and without
    ``train.mirror``.

    To be called by all ranks, before plan_resume. Where ``train.resume`` is auto, an ``output_dir``
    that is empty or not there is filled from the newest whole copy; ranks other than the main one
    wait until they see it. Raises InputError where the mirror can't be used, StorageFailed where it
    holds copies and none is whole, or where this machine's disk can't take them. A run that is in
    ``output_dir`` already is not held up by its mirror.
    """
    if config.train.mirror is None:
        return None
    place, output_dir = MirrorStore(config.train.mirror), Path(config.output_dir).resolve()
    place.check_apart(output_dir)
    place.check_files()
    goes_on = (output_dir / RUN_CONFIG).exists() and config.train.resume != "never"
    fills = config.train.resume == "auto" and _is_free(output_dir)
    if not is_main_rank():
        if fills:
            _wait_until_filled(place, output_dir)
        return None
    copies: list[Copy] = []
    try:
        place.probe()
        copies = place.copies()
    except Exception as error:  # libraries of storages raise what they like
        if not goes_on:
            raise InputError(
                f"train.mirror={place.url} can't be read and written: {_why(error)}. Mend it, or "
                "train without train.mirror."
            ) from error
        log(f"warning: mirror: {place.url} can't be used now: {_why(error)}. The run goes on.")
        return Mirror(place, output_dir, log)
    mirror = Mirror(place, output_dir, log, copies)
    if fills and any(copy.files is not None for copy in copies):
        mirror.not_sound = _fill(place, copies, output_dir, log)
    return mirror


def _is_free(output_dir: Path) -> bool:
    """Whether a run can be put there: the folder is not there, or holds only what a refused attempt
    leaves."""
    if not output_dir.is_dir():
        return not output_dir.exists()
    return all(path.name in NO_FILES_OF_A_RUN for path in output_dir.iterdir())


def _fill(
    place: MirrorStore, copies: list[Copy], output_dir: Path, log: Callable[[str], None]
) -> set[str]:
    """Put the newest whole copy into ``output_dir``, whole or not at all.

    Only copies of the newest one's run count. Returns the ids of those that proved damaged.
    """
    whole = [copy for copy in copies if copy.files is not None]
    candidates = [copy for copy in whole if copy.run == whole[0].run]
    problems: dict[str, str] = {}
    lock, fresh = RunLock(output_dir, log), fresh_folder(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        try:  # fresh is ours, once the lock is
            shutil.rmtree(fresh, ignore_errors=True)
            for copy in candidates:
                started = time.monotonic()
                if copy.num_bytes > (free := shutil.disk_usage(output_dir).free):
                    raise StorageFailed(
                        f"output_dir {output_dir} can't be filled from {place.url}: the copy of "
                        f"step {copy.step} has {copy.num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB "
                        "are free."
                    )
                log(
                    f"mirror: {output_dir} is empty; bringing the run after step {copy.step}, "
                    f"{copy.num_bytes / 1e6:,.1f} MB, from {place.url}."
                )
                try:
                    place.fetch(copy, fresh)
                except Unusable as error:
                    problems[copy.id] = f"the copy of step {copy.step} is not used: {error}."
                    log(f"mirror: {problems[copy.id]}")
                    shutil.rmtree(fresh)
                    continue
                (fresh / STAGE).mkdir()
                write_text(fresh / STAGE / RUN_ID, copy.run)
                for name in NO_FILES_OF_A_RUN:
                    (output_dir / name).unlink(missing_ok=True)
                os.replace(fresh, output_dir)
                log(f"mirror: {output_dir} is filled, in {time.monotonic() - started:.0f} s.")
                return set(problems)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        message = f"output_dir {output_dir} can't be filled from {place.url}: {error}"
        if is_storage_error(error):
            raise StorageFailed(f"{message}; {space_left(output_dir)}.") from error
        raise InputError(f"{message}; choose a folder that is not there yet.") from error
    finally:
        lock.release()
    raise StorageFailed(
        f"no whole copy at train.mirror={place.url}: {' '.join(problems.values())} "
        "train.resume=never trains anew."
    )


def _wait_until_filled(place: MirrorStore, output_dir: Path) -> None:
    """Wait until the main process has filled the folder that all ranks share.

    Returns as well where there is nothing to fill it with, or nothing is seen to happen: the
    processes compare what they see before anything is written (RunFolder.open).
    """
    with contextlib.suppress(Exception):  # what can't be read here may be read by the main process
        if all(copy.files is None for copy in place.copies()):
            return
    fresh, seen, since = fresh_folder(output_dir), -1, time.monotonic()
    while not (output_dir / RUN_CONFIG).exists() and time.monotonic() - since < FILL_SECONDS:
        size = 0
        for path in fresh.rglob("*"):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        time.sleep(0.2)


@dataclass(frozen=True)
class _Source:
    """The first ``size`` bytes of a file; ``sha256`` where it is known already."""

    path: Path
    size: int
    sha256: str | None = None

    def blocks(self) -> Iterator[bytes]:
        left = self.size
        with self.path.open("rb") as file:
            while left and (block := file.read(min(_BLOCK, left))):
                left -= len(block)
                yield block

    def record(self) -> dict[str, Any]:
        if self.sha256 is not None:
            return {"size": self.size, "sha256": self.sha256}
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return {"size": self.size, "sha256": digest.hexdigest()}


@dataclass
class _Snapshot:
    """The run as it was at one moment; ``folder`` holds what the run may delete meanwhile."""

    folder: Path
    step: int
    is_final: bool
    sources: dict[str, _Source] = field(default_factory=dict)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class _Abandoned(Exception):
    """The process ends and does not wait for this copy."""


class Mirror:
    """Copy the run to ``place``, one moment at a time, in a background thread.

    A moment that waits while a newer one comes is dropped. Failures become one sentence for
    ``log``, which may be called from another thread; they are said again where the reason changes.
    """

    def __init__(
        self,
        place: MirrorStore,
        output_dir: Path,
        log: Callable[[str], None],
        copies: list[Copy] | None = None,
    ):
        self.place, self.output_dir, self.log = place, output_dir, log
        self.not_sound: set[str] = set()  # ids of copies that are not to be relied on
        self.run = ""
        self._at_start = copies
        # Ids that may stand at the mirror: of copies from before, and our own.
        self._known = None if copies is None else {copy.id for copy in copies}
        # What this process put into each slot, and under which id: not to be sent again.
        self._there: dict[int, dict[str, dict[str, Any]]] = {slot: {} for slot in SLOTS}
        self._ids: dict[int, str] = {}
        self._newest: Copy | None = None  # ours
        self._changed = threading.Condition()
        self._waiting: _Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._closing = self._abandoned = self._gave_up = self._has_copied = False
        self._trouble = ""
        self._moved = time.monotonic()  # when a block last went through

    def start(self) -> None:
        """Begin mirroring ``output_dir``, and log whose copies will be overwritten."""
        try:
            stage = self.output_dir / STAGE
            stage.mkdir(exist_ok=True)
            for left in stage.glob("copy-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not (stage / RUN_ID).exists():
                write_text(stage / RUN_ID, uuid.uuid4().hex)
            self.run = (stage / RUN_ID).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            self._gave_up = True
            self.log(f"warning: mirror: no copies are made: {_why(error)}.")
            return
        whole = [copy for copy in self._at_start or [] if copy.files is not None]
        if whole and whole[0].run != self.run:
            self.log(
                f"mirror: {self.place.url} holds another run (step {whole[0].step}, "
                f"{whole[0].written}); the copies of this one take its place, slot by slot."
            )
        elif whole:
            self._newest = next((c for c in whole if c.id not in self.not_sound), None)

    def take(self, is_final: bool = False) -> None:
        """Take a snapshot of the run, to be copied soon; return at once.

        Files that the run may delete or replace meanwhile get a second name (a hard link), where
        the disk has none a copy.
        """
        if self._gave_up or not self.run or self._closing:
            return
        try:
            job = self._gather(is_final)
        except (OSError, ValueError) as error:
            self._warn("no copy is made of the run as it is now", error)
            return
        if job is None:
            return
        with self._changed:
            dropped, self._waiting = self._waiting, job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None:
            dropped.remove()

    def end(self, patient: bool) -> None:
        """Copy the run's last state, and log in one line whether it arrived.

        Waits a minute, and up to ten while bytes flow; without patience 20 s.
        """
        self.take(is_final=True)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            return
        started = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            while self._thread.is_alive() and not self._is_enough(started, patient):
                self._thread.join(0.1)
        is_late = self._thread.is_alive()
        with self._changed:
            self._abandoned = True
        for left in (self.output_dir / STAGE).glob("copy-*"):
            shutil.rmtree(left, ignore_errors=True)
        if self._gave_up:
            return
        step = None if self._newest is None else self._newest.step
        if not is_late and not self._trouble:
            self.log(f"mirror: {self.place.url} holds the end of this run (step {step}).")
            return
        why = self._trouble or f"it was not there after {time.monotonic() - started:.0f} s"
        has = "nothing of this run" if step is None else f"the run after step {step}"
        self.log(
            f"warning: mirror: {self.place.url} holds {has}, not its end: {why}. The same command "
            "brings it there."
        )

    def _is_enough(self, started: float, patient: bool) -> bool:
        now = time.monotonic()
        if not patient:
            return now - started > HURRY_SECONDS
        flows = now - self._moved < STALL_SECONDS
        return now - started > (MOST_SECONDS if flows else END_SECONDS)

    def _warn(self, what: str, error: Exception) -> None:
        """Log a failure, unless it is the same as before."""
        if self._abandoned:  # whose files are gone
            return
        why = _why(error)
        if why != self._trouble:
            self.log(f"warning: mirror: {what}: {why}. The run goes on.")
        self._trouble = why

    def _gather(self, is_final: bool) -> _Snapshot | None:
        """Collect what a copy of this moment consists of; None without a checkpoint to resume
        from."""
        found = find_checkpoints(self.output_dir / CHECKPOINTS)
        if not found:
            return None
        step, checkpoint = found[0]
        records = read_manifest(checkpoint)["files"]
        records[MANIFEST] = file_record(checkpoint / MANIFEST)
        folder = Path(tempfile.mkdtemp(prefix="copy-", dir=self.output_dir / STAGE))
        job = _Snapshot(folder, step, is_final)
        try:
            for name, record in records.items():
                kept = _link_or_copy(checkpoint / name, folder / "checkpoint" / name)
                job.sources[f"checkpoint/{name}"] = _Source(kept, **record)
            for name, path in self._files(*_FOLDERS, *_FILES, *((FORECASTS,) if is_final else ())):
                kept = _link_or_copy(path, folder / name)
                job.sources[name] = _Source(kept, kept.stat().st_size)
            for name, path in self._files(*_GROWING):
                job.sources[name] = _Source(path, path.stat().st_size)
        except BaseException:
            job.remove()
            raise
        return job

    def _files(self, *names: str) -> Iterator[tuple[str, Path]]:
        """Yield (path in the run's folder, path) of every file with these names, or in such
        folders."""
        for name in names:
            top = self.output_dir / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file():
                    yield path.relative_to(self.output_dir).as_posix(), path

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                job, self._waiting = self._waiting, None
            if job is None or self._gave_up:
                return
            try:
                self._copy(job)
            except _Abandoned:
                return
            except Exception as error:  # libraries of storages raise what they like
                self._warn(f"step {job.step} is not copied to {self.place.url}", error)
            finally:
                job.remove()

    def _copy(self, job: _Snapshot) -> None:
        """Write a snapshot into the slot that does not hold the newest sound copy."""
        copies = self.place.copies()
        if self._known is None:
            self._known = {copy.id for copy in copies}
        if self._is_foreign(copies):
            return
        records = {name: source.record() for name, source in job.sources.items()}
        if self._newest in copies and self._has_already(records, job.is_final):
            self._trouble = ""
            return
        sound = [c for c in copies if c.files is not None and c.id not in self.not_sound]
        slot = 1 - sound[0].slot if sound else 0
        copy = Copy(
            slot=slot,
            id=uuid.uuid4().hex,
            run=self.run,
            number=max((c.number for c in copies), default=0) + 1,
            step=job.step,
            written=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            files=records,
        )
        self._known.add(copy.id)
        started, there = time.monotonic(), self._there[slot]
        if self._ids.get(slot) not in {c.id for c in copies if c.slot == slot}:
            there.clear()  # somebody took it away
        self._ids[slot] = copy.id
        self._write_manifest(replace(copy, files=None))
        for name, source in job.sources.items():
            if there.get(name) == records[name]:
                continue  # this process put it there
            there.pop(name, None)
            self.place.write(
                self.place.path(f"slot-{slot}", name), self._checked(name, source, records[name])
            )
            there[name] = records[name]
        if self._is_foreign(self.place.copies()):
            return
        self._write_manifest(copy)
        if not self._has_copied or self._trouble:
            again = "reached again, " if self._trouble else ""
            self.log(
                f"mirror: {again}step {job.step} is at {self.place.url}: "
                f"{copy.num_bytes / 1e6:,.1f} MB, {time.monotonic() - started:.1f} s in the "
                "background."
            )
        self._newest, self._trouble, self._has_copied = copy, "", True
        self._clear(slot, {*records, MANIFEST})

    def _is_foreign(self, copies: list[Copy]) -> bool:
        """Whether another run, or another process of this one, writes to the mirror as well."""
        assert self._known is not None
        others = [copy for copy in copies if copy.id not in self._known]
        if others:
            self._gave_up = True
            self.log(
                f"warning: mirror: another process writes to {self.place.url} since this run began "
                f"(step {others[0].step}, {others[0].written}): no more copies are made from here. "
                "Give each run a train.mirror of its own."
            )
        return bool(others)

    def _has_already(self, records: dict[str, dict[str, Any]], is_final: bool) -> bool:
        """Whether our newest copy holds these files already; before the end, metrics alone are not
        copied."""
        assert self._newest is not None
        parts = ("",) if is_final else ("checkpoint/", "model/")
        known = self._newest.files or {}
        return all(
            known.get(name) == records.get(name)
            for name in {*known, *records}
            if name.startswith(parts)
        )

    def _write_manifest(self, copy: Copy) -> None:
        self.place.write(
            self.place.path(f"slot-{copy.slot}", MANIFEST),
            self._until_abandoned(iter([copy.to_json()])),
        )

    def _checked(self, name: str, source: _Source, expected: dict[str, Any]) -> Iterator[bytes]:
        """Yield the bytes of a file; raise OSError where they are not those of its record."""
        digest = hashlib.sha256()
        for block in self._until_abandoned(source.blocks()):
            digest.update(block)
            yield block
        if digest.hexdigest() != expected["sha256"]:
            raise OSError(f"{name} reads back other than it was written")

    def _until_abandoned(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks until the process gives up waiting."""
        for block in blocks:
            if self._abandoned:
                raise _Abandoned
            yield block
            self._moved = time.monotonic()

    def _clear(self, slot: int, wanted: set[str]) -> None:
        """Delete what an earlier copy left in this slot and the new one has not."""
        top = self.place.path(f"slot-{slot}")
        self.place.fs.invalidate_cache()
        for path in self.place.fs.find(top):
            if path.lstrip("/").removeprefix(f"{top.lstrip('/')}/") not in wanted:
                self.place.fs.rm_file(path)


def _link_or_copy(path: Path, name: Path) -> Path:
    """Give a file a second name, or copy it where the disk has no hard links."""
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, name)
    except OSError:
        if not path.exists():
            raise
        shutil.copyfile(path, name)
    return name
