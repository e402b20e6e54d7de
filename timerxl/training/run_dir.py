"""The folder of a run on all processes: begun, or opened again, by one process at a time."""

from __future__ import annotations

import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

import timerxl
from timerxl.command_line import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_OK,
    EXIT_SIGNAL,
    EXIT_STORAGE,
    ForeseenError,
    say,
)
from timerxl.config import InputError, RunConfig, to_yaml
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.device import device_facts
from timerxl.files import whole_file, write_json, write_text
from timerxl.training.checkpoint.model_folder import copy_model, model_problem
from timerxl.training.checkpoint.storage import (
    CHECKPOINTS,
    StorageFailed,
    clear_unfinished,
    final_name,
    find_checkpoints,
    find_problem,
    finish_replacement,
    fresh_folder,
    is_storage_error,
    no_whole_checkpoint,
    read_trainer_state,
    space_left,
)
from timerxl.training.monitors.replay import is_whole
from timerxl.training.processes.distributed import agree
from timerxl.training.processes.end_watcher import REASON, EndWatcher
from timerxl.training.processes.run_lock import (
    LOCK_FILE,
    METRICS,
    NO_FILES_OF_A_RUN,
    RUN_CONFIG,
    RunLock,
    check_run_files,
)
from timerxl.training.processes.signals import resume_hint
from timerxl.training.resume import AUTO, NEVER, Resumption, check_fingerprints, read_status
from timerxl.training.tracking import Log, draw_page
from timerxl.untrusted import open_own, plain, read_json, reason

SHOWN_SECONDS = 30.0  # NFS remembers for so long that a file is not there


@dataclass
class RunFolder:
    """The folder of a run. ``checkpoint`` and its ``state`` are what it resumes from; None in a
    fresh start."""

    accelerator: Accelerator
    config: RunConfig
    log: Log
    audit: list[str]
    fingerprints: dict[str, str]  # data_fingerprint and code_fingerprint, on the main process
    draw: Callable[[Path], object] | None = None  # the page of the run
    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same after a resume
    _lock: RunLock | None = None
    _end_watcher: EndWatcher | None = None

    @property
    def path(self) -> Path:
        return Path(self.config.output_dir)

    def open(self, found: Resumption) -> None:
        """Lock the folder, choose the checkpoint, write the first files; call on all ranks.

        Raises InputError or StorageFailed on all of them where it can't be done: none may wait for
        a main process that stopped.
        """
        self._run_on_main(self._take_lock)
        self._check_shared(self._describe_lock())
        self._check_shared("checkpoints" if found.candidates else "no checkpoint")
        self._run_on_main(lambda: self._check_unchanged(found))
        if found.candidates:
            self._run_on_main(lambda: clear_unfinished(self.path / CHECKPOINTS))
            self._choose_checkpoint([final_name(path) for path in found.candidates])
            self._run_on_main(self._rewind_to_checkpoint)
        else:
            self._run_on_main(self._begin_anew)

    def end(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Write how the run ended, in status.json and on its page; then the folder is free."""
        found = outcome_of(error)
        code, reason = found or (EXIT_FAILED, f"failed: {type(error).__name__}: {error}")
        if self.accelerator.is_main_process:
            note_end(self.path, code, reason)
            if code < EXIT_STORAGE:  # a full disk has no room, a signal leaves no time
                draw_page(self.draw, self.path)
        self.close()

    def note_stuck(self, number: int) -> None:
        """Write status.json where a signal came and this process waits for another that is gone."""
        several = self.accelerator.num_processes > 1
        why = "another process of the run is lost or hangs" if several else "the step hangs"
        reason = (
            f"{signal.Signals(number).name} came and no step ended: {why}. "
            f"{resume_hint(self.config.train.resume)}"
        )
        if self.accelerator.is_main_process:
            note_end(self.path, EXIT_SIGNAL + number, reason)
        say(f"error: {reason}", file=sys.stderr)

    def close(self) -> None:
        """Release the folder for the next process."""
        if self._end_watcher is not None:
            self._end_watcher.close()
            self._end_watcher = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _run_on_main(self, action: Any) -> None:
        bad_input = storage = None
        if self.accelerator.is_main_process:
            try:
                action()
            except (InputError, OSError) as error:
                if is_storage_error(error) or is_storage_error(error.__cause__):
                    storage = f"{str(error).rstrip('.')}; {space_left(self.path)}."
                else:
                    bad_input = str(error)
            except StorageFailed as error:
                storage = str(error)
            if bad_input or storage:
                self.close()
        bad_input, storage = agree(self.accelerator, (bad_input, storage))
        if storage:
            raise StorageFailed(storage)
        if bad_input:
            raise InputError(bad_input)

    def _take_lock(self) -> None:
        check_output_dir(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.path, self.log)
        lock.acquire()
        self._lock = lock

    def _check_unchanged(self, found: Resumption) -> None:
        """Refuse where another process began, resumed or ended its run here between the plan and
        the lock, while the data were read."""
        if found.choice == NEVER:
            return
        before, now = found.status, read_status(self.path)
        # The end watcher may have told of a killed run's end only now: that is no other run.
        was_told = before.get("reason") == "running" and str(now.get("reason")).startswith(REASON)
        same = now == before or was_told
        if found.choice == AUTO:
            checkpoints = find_checkpoints(self.path / CHECKPOINTS)
            same = same and [path for _, path in checkpoints] == found.candidates
        if not same:
            raise InputError(
                f"output_dir {self.path} was in use by another run until now: start again."
            )

    def _check_shared(self, seen: str) -> None:
        """Check that every process sees the same folder: on several machines it is on shared
        storage."""
        here = (self.accelerator.process_index, socket.gethostname(), seen)
        first, *others = gather_object([here])
        for rank, host, other in others:
            if other != first[2]:
                self.close()
                raise InputError(
                    f"output_dir {self.path} is not the same everywhere: rank 0 on {first[1]} sees "
                    f"{first[2]}, rank {rank} on {host} {other}. All machines of a run must share "
                    "the storage of output_dir (NFS, Lustre, a mounted bucket)."
                )

    def _describe_lock(self) -> str:
        """Say whether this process sees the main process's lock; shared storage may take seconds to
        show it."""
        path, until = self.path / LOCK_FILE, time.monotonic() + SHOWN_SECONDS
        mine = agree(self.accelerator, path.read_bytes() if self._lock is not None else None)
        while not path.exists() or path.read_bytes() != mine:
            if time.monotonic() > until:
                return f"another {LOCK_FILE}, or none"
            time.sleep(0.2)
        return f"its {LOCK_FILE}"

    def _begin_anew(self) -> None:
        """Begin in an empty folder. An earlier run is moved aside, under its own lock; the new
        folder gets a new one."""
        if moved := prepare_output_dir(self.path):
            old = self._lock
            self._take_lock()
            if old is not None:
                old.release()
            self.log(moved)
        write_text(self.path / RUN_CONFIG, to_yaml(self.config))
        self._write_first_files()

    def _choose_checkpoint(self, candidates: list[Path]) -> None:
        """Choose the newest checkpoint that is whole, the same for all ranks, who share the
        reading."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        said = []
        for folder in agree(self.accelerator, candidates):
            problem, state = find_problem(folder, rank, world), {}
            if problem is None:
                try:
                    state = read_trainer_state(folder, complete=True)
                except StorageFailed as error:
                    problem = str(error).rstrip(".")
            found = agree(self.accelerator, gather_object([problem]))
            problem = next((one for one in found if one), None)
            if problem is None:
                self.checkpoint, self.state = folder, state
                break
            said.append(f"checkpoint {folder.name} is not used: {problem}.")
            self.log(said[-1])
        if self.checkpoint is None:
            raise no_whole_checkpoint(candidates[0].parent, said)

    def _rewind_to_checkpoint(self) -> None:
        """Bring the folder back to the moment of the checkpoint: what came after it is done
        again."""
        assert self.checkpoint is not None
        problem, notes = check_fingerprints(
            self.state, **self.fingerprints, force=self.config.train.resume_force
        )
        if problem is not None:
            raise InputError(f"checkpoint {self.checkpoint.name}: {problem}")
        for note in notes:
            self.log(note)
        source = self.checkpoint.resolve().parent.parent
        if source != self.path.resolve():
            self._branch_off(source)
        else:
            self.run_id = str(self.state.get("run_id", self.run_id))
        finish_replacement(self.path / "model")
        metrics, length = self.path / METRICS, int(self.state["metrics_bytes"])
        known = b""
        if metrics.exists():
            with metrics.open("rb") as file:
                known = file.read(length)
        if len(known) < length:
            self.log(f"warning: {metrics} lost lines; curves before step {self.step} have gaps.")
            known = known[: known.rfind(b"\n") + 1]
        lines = known.splitlines(keepends=True)
        whole = [line for line in lines if is_whole(line.decode("utf-8", errors="replace"))]
        if len(whole) < len(lines):
            count = len(lines) - len(whole)
            self.log(f"warning: {count} damaged line(s) of {metrics} are taken out.")
            with whole_file(metrics) as fresh:
                fresh.write_bytes(b"".join(whole))
        elif metrics.exists():
            with open_own(metrics, "r+b") as file:
                file.truncate(len(known))
        write_text(self.path / RUN_CONFIG, to_yaml(self.config))
        self._write_first_files()
        self.log(f"going on after step {self.step} from {self.checkpoint}.")

    def missing_best(self, best_step: int) -> str | None:
        """Return why ``model/`` is not the best model of this step, in a sentence; None where it
        is, or where there was none. It may be of a later step, which comes again."""
        problem, folder = None, self.path / "model"
        if self.accelerator.is_main_process and best_step:
            problem = model_problem(folder)
            saved = read_json(folder / PREPROCESSING) if problem is None else {}
            if problem is None and (step := saved.get("best_step", saved.get("step"))) != best_step:
                problem = f"it holds that of step {step}"
        if (problem := agree(self.accelerator, problem)) is None:
            return None
        return (
            f"the best model so far, of step {best_step}, is not in {folder}: "
            f"{problem}; the next evaluation is the best again."
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether the evaluation or check of the checkpoint's step was done."""
        return bool(self.state) and self.state["progress"]["looked_step"] == self.step

    @property
    def step(self) -> int:
        return int(self.state.get("step", 0))

    def _branch_off(self, source: Path) -> None:
        """Copy metrics and best model of another run's folder, whose checkpoint this run resumes
        from."""
        check_run_files(source)  # it may have come from anywhere: nothing beside it is copied
        if (source / METRICS).exists():
            with (source / METRICS).open("rb") as file, whole_file(self.path / METRICS) as fresh:
                fresh.write_bytes(file.read(int(self.state["metrics_bytes"])))
        if not (source / "model").is_dir():
            return
        best = self.path / "model"
        try:
            copy_model(source / "model", best)
        except (OSError, ValueError) as error:  # the disk, or what is no model
            shutil.rmtree(fresh_folder(best), ignore_errors=True)
            why = reason(error).rstrip(".")
            self.log(f"warning: the best model so far can't be copied, and is left out: {why}.")

    def _write_first_files(self) -> None:
        write_status(self.path, EXIT_FAILED, "running")
        self._end_watcher = EndWatcher(self.path, resume_hint(self.config.train.resume))
        write_json(self.path / "environment.json", environment(self.accelerator))
        write_json(self.path / "audit.json", {"lines": self.audit})


def check_output_dir(output_dir: Path) -> None:
    """Raise InputError where :func:`prepare_output_dir` would fail; make and move nothing.

    To be called before any long work, by every rank.
    """
    try:
        check_run_files(output_dir)
        if output_dir.is_dir() and not (output_dir / RUN_CONFIG).exists():
            if any(path.name not in NO_FILES_OF_A_RUN for path in output_dir.iterdir()):
                raise InputError(
                    f"output_dir {output_dir} holds files that are not a run's; choose an empty "
                    "folder."
                )
            place = output_dir
        else:
            # An earlier run is renamed in the folder above; a folder that isn't there is made in
            # the nearest one that is.
            absolute = output_dir.absolute()
            place = absolute.parent if output_dir.is_dir() else absolute
            while not place.exists() and not place.is_symlink():
                place = place.parent
        if not place.is_dir():
            raise InputError(
                f"output_dir {output_dir} can't be made: {place} is no folder; choose another."
            )
        # Only a file tells (root passes every check of permissions); this one has no name.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"output_dir {output_dir} can't be written to: {error}") from error


def check_storage(output_dir: Path) -> None:
    """Check as :func:`check_output_dir`, but raise StorageFailed where the disk is at fault and not
    the input: it is full or broken, or a run that is there can't be written to any more."""
    try:
        check_output_dir(output_dir)
    except InputError as error:
        cause = error.__cause__
        is_known = isinstance(cause, OSError) and (output_dir / RUN_CONFIG).exists()
        if is_known or is_storage_error(cause):
            raise StorageFailed(str(error)) from error
        raise


def prepare_output_dir(output_dir: Path) -> str | None:
    """Make ``output_dir`` ready for a new run; return a sentence to log or None.

    An earlier run found there is moved aside to ``NAME.1``, ``NAME.2``, ...: never deleted, never
    mixed with the new one. Raises InputError where the folder can't be made or written to.
    """
    check_output_dir(output_dir)
    moved = None
    try:
        if (output_dir / RUN_CONFIG).exists():
            number = 1
            while (aside := output_dir.with_name(f"{output_dir.name}.{number}")).exists():
                number += 1
            output_dir.rename(aside)
            moved = f"{output_dir} held an earlier run; it is now {aside}."
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir {output_dir} can't be written to: {error}") from error
    return moved


def note_bad_input(output_dir: Path, reason: str) -> None:
    """Write status.json with code 2 for a run that never began, where the folder is free for it.

    An earlier run's folder, one with other files and one that can't be written to stay untouched.
    """
    try:
        check_output_dir(output_dir)
    except InputError:
        return  # the reason itself is on stderr
    if not (output_dir / RUN_CONFIG).exists():
        write_status(output_dir, EXIT_BAD_INPUT, reason)


def note_end(output_dir: Path, code: int, reason: str) -> None:
    """Write status.json; log a disk that takes not even that."""
    try:
        write_status(output_dir, code, reason)
    except OSError as error:
        say(f"warning: status.json can't be written: {error}", file=sys.stderr)


def write_status(output_dir: Path, code: int, reason: str) -> None:
    """Write status.json, which holds the exit code where a launcher turns every failure into 1;
    ``reason`` as it is printed, one plain line of bounded length."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "status.json", {"code": code, "reason": plain(reason)})


def outcome_of(error: BaseException | None) -> tuple[int, str] | None:
    """Return (exit code, reason) of a run that ended by ``error``, or without one; None where the
    error was not foreseen and its traceback is the best that can be shown."""
    if error is None:
        return EXIT_OK, "finished"
    if isinstance(error, BrokenPipeError):
        return EXIT_FAILED, "standard output was closed by its reader."
    if isinstance(error, InputError):
        return EXIT_BAD_INPUT, str(error)
    if isinstance(error, OSError):
        return EXIT_STORAGE, str(error)
    return (error.exit_code, str(error)) if isinstance(error, ForeseenError) else None


LIBRARIES = (
    "torch transformers accelerate deepspeed datasets evaluate safetensors numpy pandas "
    "scikit-learn"
).split()


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Describe machine, libraries and command, one flat object for environment.json."""
    return {
        "timerxl": timerxl.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "device": device_facts().name,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "precision": accelerator.mixed_precision,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
