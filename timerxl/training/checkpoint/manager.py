"""Checkpoints of a run on all its processes: everything that the next step depends on.

Checkpoints precede evaluation; a run killed during evaluation repeats it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file

from timerxl.files import write_json
from timerxl.training.assembly import bare_model, use_seed
from timerxl.training.averaging import AVERAGED, WeightAverage
from timerxl.training.checkpoint.model_folder import WEIGHTS, write_model
from timerxl.training.checkpoint.optimizer_state import OptimizerState, SavedState
from timerxl.training.checkpoint.rng import read_random_state, write_random_state
from timerxl.training.checkpoint.storage import (
    CHECKPOINTS,
    FORMAT,
    TRAINER_STATE,
    StorageFailed,
    checkpoint_name,
    find_checkpoints,
    fresh_folder,
    prune,
    publish,
    read_manifest,
    record_files,
    space_left,
)
from timerxl.training.processes.distributed import agree

OPTIMIZER_FILES = "optimizer-*.safetensors"
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # DeepSpeed's, in fp16


@dataclass
class Checkpoints:
    """Write and read the checkpoints of one run; all ranks call every method.

    Args:
        facts: what does not change during the run (configuration, fingerprints, batch layout).
        average: of the weights, where train.ema asks for one.
    """

    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    output_dir: Path
    keep_last: int
    seed: int
    facts: dict[str, Any]
    average: WeightAverage | None = None
    saved_step: int = 0
    seconds: float = 0.0
    _saved_at: float = field(default_factory=time.monotonic)
    _verified: list[Path] = field(default_factory=list)  # read back, or resumed from

    @property
    def root(self) -> Path:
        return self.output_dir / CHECKPOINTS

    @property
    def _bare_model(self) -> Any:
        return bare_model(self.accelerator, self.model)

    @property
    def _optimizer_state(self) -> OptimizerState:
        return OptimizerState(self.optimizer, self._bare_model)

    @property
    def age_seconds(self) -> float:
        """Time since the last save, or since the start."""
        return time.monotonic() - self._saved_at

    def save(self, step: int, progress: dict[str, Any], extras: dict[str, Any]) -> Path:
        """Write the state after optimizer step ``step``; return the folder, whole and verified.

        ``extras`` goes beside the weights (preprocessing.json). Raises StorageFailed on all ranks
        where one can't write; older checkpoints and the best model are untouched then.
        """
        started = time.perf_counter()
        folder = self.root / checkpoint_name(step)
        fresh, problem = fresh_folder(folder), None
        if self.accelerator.is_main_process:
            try:
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir(parents=True)
            except OSError as error:
                problem = str(error)
        self._refuse(folder, problem)
        files, problem = {}, None
        state = self.accelerator.get_state_dict(self._bare_model)
        try:
            files = record_files(fresh, self._write(fresh, step, state, progress, extras))
        except (OSError, SafetensorError) as error:
            problem = f"rank {self.accelerator.process_index}: {error}"
        for one in gather_object([(files, problem)]):
            files, problem = files | one[0], problem or one[1]
        problem = agree(self.accelerator, problem)
        if problem is None and self.accelerator.is_main_process:
            try:
                publish(folder, step, files)
                prune(self.root, self.keep_last, folder, self._verified)
                self._verified.append(folder)
            except (OSError, StorageFailed) as error:
                problem = str(error)
        self._refuse(folder, problem)
        self.saved_step, self._saved_at = step, time.monotonic()
        self.seconds += time.perf_counter() - started
        return folder

    def _refuse(self, folder: Path, problem: str | None) -> None:
        """Raise StorageFailed on all ranks where the main process has a problem, and remove what
        is half-written."""
        problem = agree(self.accelerator, problem)
        if problem is None:
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh_folder(folder), ignore_errors=True)
        older = [path.name for _, path in find_checkpoints(self.root)]
        left = f"the newest whole one is {older[0]}" if older else "there is no earlier one"
        raise StorageFailed(
            f"checkpoint {folder.name} can't be written: {problem}; "
            f"{space_left(self.output_dir)}, {left}. Make room, then start the same command again."
        )

    def _write(
        self,
        fresh: Path,
        step: int,
        state: dict[str, Any],
        progress: dict[str, Any],
        extras: dict[str, Any],
    ) -> list[str]:
        """Write this rank's files; return their names."""
        accelerator = self.accelerator
        world, rank = accelerator.num_processes, accelerator.process_index
        names = [f"rng-{rank:05d}.safetensors"]
        write_random_state(fresh / names[0])
        optimizer = self._optimizer_state
        owners = world if optimizer.zero is not None else 1
        if rank < owners:
            names.append(f"optimizer-{rank:05d}-of-{owners:05d}.safetensors")
            optimizer.write(fresh / names[-1])
        if accelerator.is_main_process:
            write_model(self._bare_model, state, fresh, extras)
            if self.average is not None:
                self.average.write(fresh / AVERAGED)
            content = {"format": FORMAT, "step": step, "world_size": world, "progress": progress}
            schedule = self.schedule.state_dict()  # the curve comes from the configuration
            kept = ("last_epoch", "_step_count", "_last_lr")
            content["schedule"] = {key: schedule[key] for key in kept}
            content["scaler"] = self._scaler_state()
            write_json(fresh / TRAINER_STATE, content | self.facts)
            # Other ranks write here at the same time.
            theirs = (".", "rng-", "optimizer-")
            names += [p.name for p in fresh.iterdir() if not p.name.startswith(theirs)]
        return names

    def load(self, folder: Path, state: dict[str, Any]) -> list[str]:
        """Load all state except progress; return the differences.

        Raises StorageFailed where the files don't fit this run.
        """
        accelerator = self.accelerator
        saved_names = read_manifest(folder)["files"]
        saved = SavedState(folder, OPTIMIZER_FILES, saved_names)
        try:
            weights = load_file(folder / WEIGHTS)
            self._bare_model.load_state_dict(weights, strict=True)
            self._optimizer_state.read(saved, weights)
        except (KeyError, RuntimeError, SafetensorError) as error:
            raise StorageFailed(f"{folder} does not fit this run's model: {error}") from error
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise StorageFailed(
                f"{folder / WEIGHTS} holds NaN or infinity, nothing goes on from there: branch off "
                "from an older one (train.resume=PATH, another output_dir), or train.resume=never."
            )
        notes = self._load_average(folder, state, saved_names, weights)
        rates, groups = state["schedule"]["_last_lr"], self.schedule.optimizer.param_groups
        if len(rates) != len(groups):
            raise StorageFailed(
                f"{folder} has {len(rates)} groups of parameters, this run {len(groups)}: give the "
                "old model.pretrained and optim.layer_lr_decay."
            )
        self._set_schedule(state["schedule"])
        self._set_scaler(state.get("scaler") or {})
        self.saved_step = int(state["step"])
        self._verified.append(self.root / folder.name)
        rank = accelerator.process_index
        notes += [
            f"{name} was {state[key]}, is {self.facts[key]}."
            for key, name in (("precision", "the precision"), ("zero_stage", "the ZeRO stage"))
            if key in self.facts and state.get(key, self.facts[key]) != self.facts[key]
        ]
        if int(state["world_size"]) == accelerator.num_processes:
            read_random_state(folder / f"rng-{rank:05d}.safetensors")
            return notes
        use_seed(self.seed + 15_485_863 * self.saved_step, rank)
        return [
            *notes,
            f"saved by {state['world_size']} processes, gone on with by "
            f"{accelerator.num_processes}: samples and updates are the same, dropout masks are "
            "drawn anew.",
        ]

    def _load_average(
        self,
        folder: Path,
        state: dict[str, Any],
        names: Collection[str],
        weights: dict[str, torch.Tensor],
    ) -> list[str]:
        """Load the average of the weights; return a note where it begins here, by force."""
        if self.average is None:
            return []
        if AVERAGED in names:
            try:
                self.average.read(folder / AVERAGED)
            except (ValueError, RuntimeError, SafetensorError) as error:
                raise StorageFailed(f"{folder} does not fit this run's model: {error}.") from error
            return []
        if (state.get("config") or {}).get("train", {}).get("ema") is not None:
            raise StorageFailed(f"{folder} holds no {AVERAGED}, which its train.ema would write.")
        self.average.module.load_state_dict(weights)
        return ["the average of the weights begins with those of the checkpoint."]

    @property
    def _deepspeed_scaler(self) -> Any:
        return getattr(self._optimizer_state.zero, "loss_scaler", None)

    def _scaler_state(self) -> dict[str, Any] | None:
        """The loss scale of fp16, torch's or DeepSpeed's; None without one."""
        if self.accelerator.scaler is not None:
            return dict(self.accelerator.scaler.state_dict())
        scaler = self._deepspeed_scaler
        found = {name: getattr(scaler, name) for name in _SCALER if hasattr(scaler, name)}
        return {k: float(v) if k == "cur_scale" else int(v) for k, v in found.items()} or None

    def _set_scaler(self, saved: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None:
            if "scale" in saved:
                self.accelerator.scaler.load_state_dict(saved)
            return
        scaler = self._deepspeed_scaler
        for name in _SCALER:
            if name in saved and hasattr(scaler, name):
                setattr(scaler, name, saved[name])

    def _set_schedule(self, saved: dict[str, Any]) -> None:
        """Set the saved position; the rates are those of this run's curve there, which is the saved
        one unless a longer run or another rate was forced."""
        schedule = self.schedule
        schedule.last_epoch = int(saved["last_epoch"])
        schedule._step_count = int(saved["_step_count"])
        curves = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        schedule._last_lr = [rate * factor(schedule.last_epoch) for rate, factor in curves]
        for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate
