"""The folder of a run on all processes: begun, or opened again, by one process at a time."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from timerxl.command_line import EXIT_FAILED
from timerxl.config import InputError, RunConfig, to_yaml
from timerxl.config_reading import read_json
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.files import write_json, write_text
from timerxl.training.checkpoint_files import (
    CHECKPOINTS,
    StorageFailed,
    find_problem,
    fresh_folder,
    read_trainer_state,
    replace_folder,
    settle,
    settled,
    sweep,
)
from timerxl.training.environment import environment
from timerxl.training.evaluation import agree
from timerxl.training.log_lines import is_whole
from timerxl.training.resume import NEVER, Resumption, check_fingerprints, read_status
from timerxl.training.run_lock import RunLock
from timerxl.training.saving import RUN_CONFIG, check_output_dir, prepare_output_dir
from timerxl.training.tracking import Log, write_status

METRICS = "metrics.jsonl"


@dataclass
class RunFolder:
    """``checkpoint`` and its ``state`` are what the run goes on from; None in a fresh start."""

    accelerator: Accelerator
    config: RunConfig
    log: Log
    audit: list[str]
    fingerprints: dict[str, str]  # data_fingerprint and code_fingerprint, on the main process
    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    _lock: RunLock | None = None

    @property
    def path(self) -> Path:
        return Path(self.config.output_dir)

    def open(self, found: Resumption) -> None:
        """Lock the folder, choose the checkpoint, write the first files; call on all ranks.

        Raises InputError or StorageFailed on all of them where it can't be done: none may wait for
        a main process that stopped.
        """
        self._on_main(self._take_lock)
        self._on_main(lambda: self._check_unchanged(found))
        if found.candidates:
            self._on_main(lambda: sweep(self.path / CHECKPOINTS))
            self._choose([settled(path) for path in found.candidates])
            self._on_main(self._reopen)
        else:
            self._on_main(self._begin)

    def close(self) -> None:
        """Let the next process have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _on_main(self, action: Any) -> None:
        bad_input = storage = None
        if self.accelerator.is_main_process:
            try:
                action()
            except (InputError, OSError) as error:
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
        """Between the plan and the lock, while the data were read, another process may have ended
        its run here."""
        if self.config.train.resume != NEVER and read_status(self.path) != found.status:
            raise InputError(
                f"output_dir {self.path} was in use by another run until now: start again."
            )

    def _begin(self) -> None:
        """An earlier run is moved aside, under its own lock; the new folder gets a new one."""
        if moved := prepare_output_dir(self.path):
            old = self._lock
            self._take_lock()
            if old is not None:
                old.release()
            self.log(moved)
        write_text(self.path / RUN_CONFIG, to_yaml(self.config))
        self._write_first_files()

    def _choose(self, candidates: list[Path]) -> None:
        """The newest checkpoint that is whole, the same for all ranks, who share the reading."""
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
            raise StorageFailed(
                f"no whole checkpoint in {candidates[0].parent}: {' '.join(said)} "
                "train.resume=never trains anew and moves the run aside."
            )

    def _reopen(self) -> None:
        """Back to the moment of the checkpoint: what came after it is done again."""
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
        settle(self.path / "model")
        metrics, length = self.path / METRICS, int(self.state["metrics_bytes"])
        if metrics.exists() and not metrics.is_file():  # a pipe would be waited for
            raise StorageFailed(f"{metrics} is no file: move it away, its curves will have a gap.")
        known = metrics.read_bytes()[:length] if metrics.exists() else b""
        if len(known) < length:
            self.log(f"warning: {metrics} lost lines; curves before step {self.step} have gaps.")
            known = known[: known.rfind(b"\n") + 1]
        lines = known.splitlines(keepends=True)
        whole = [line for line in lines if is_whole(line.decode("utf-8", errors="replace"))]
        if len(whole) < len(lines):
            count = len(lines) - len(whole)
            self.log(f"warning: {count} damaged line(s) of {metrics} are taken out.")
            metrics.write_bytes(b"".join(whole))
        elif metrics.exists():
            os.truncate(metrics, len(known))
        write_text(self.path / RUN_CONFIG, to_yaml(self.config))
        self._write_first_files()
        self.log(f"going on after step {self.step} from {self.checkpoint}.")

    def holds_best(self, best_step: int) -> bool:
        """Whether ``model/`` is that of this step: it may be of a later one that comes again."""
        try:
            saved = read_json(self.path / "model" / PREPROCESSING)
        except InputError:
            return False
        return isinstance(saved, dict) and saved.get("best_step", saved.get("step")) == best_step

    @property
    def looked(self) -> bool:
        """Whether the evaluation or check of the checkpoint's step is behind it."""
        return bool(self.state) and self.state["progress"]["looked_step"] == self.step

    @property
    def step(self) -> int:
        return int(self.state.get("step", 0))

    def _branch_off(self, source: Path) -> None:
        """A checkpoint of another run folder: its curves and its best model come along."""
        if (source / METRICS).is_file():
            shutil.copyfile(source / METRICS, self.path / METRICS)
        best = self.path / "model"
        if not (source / "model").is_dir():
            return
        try:
            shutil.copytree(source / "model", fresh_folder(best))
            replace_folder(fresh_folder(best), best)
        except OSError as error:
            # shutil lists (from, to, why) of every file that it could not copy.
            why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
            shutil.rmtree(fresh_folder(best), ignore_errors=True)
            self.log(f"warning: the best model so far can't be copied, and is left out: {why}.")

    def _write_first_files(self) -> None:
        write_status(self.path, EXIT_FAILED, "running")
        write_json(self.path / "environment.json", environment(self.accelerator))
        write_json(self.path / "audit.json", {"lines": self.audit})
