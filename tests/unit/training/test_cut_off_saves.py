"""A kill, or a full disk, at every single change that a save makes on the disk."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from timerxl.config import load_recipe
from timerxl.training.checkpoint import manager as checkpoint
from timerxl.training.checkpoint import model_folder as saving
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.model_folder import model_problem, save_model
from timerxl.training.checkpoint.storage import (
    StorageFailed,
    checkpoint_name,
    clear_unfinished,
    find_problem,
    read_trainer_state,
)
from timerxl.training.resume import plan_resume

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """No Exception: nothing may catch it, as nothing catches SIGKILL."""


CHANGES = "replace rename fsync unlink rmdir mkdir chmod truncate".split()


class Disk:
    """Counts what is changed below ``place``; the ``fail_at``-th change raises ``error`` instead.

    After a kill every later one does: what a real one leaves undone, no clean-up may do here.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, place: Path, error: type[BaseException], fail_at: int
    ):
        self.place, self.count, self.error, self.fail_at = str(place), 0, error, fail_at
        for name in CHANGES:
            patch.setattr(os, name, self.counted(getattr(os, name)))
        patch.setattr(io, "open", self.counted(io.open))
        patch.setattr(builtins, "open", io.open)

    def counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            reads = real.__name__ == "open" and not set("wax+") & set((*args, "r")[0])
            # shutil.rmtree names what it deletes by an open folder.
            ours = isinstance(first, int) or "dir_fd" in kwargs or self.place in str(first)
            if ours and not reads:
                self.count += 1
                dead = self.error is Killed and self.count > self.fail_at
                if dead or self.count == self.fail_at:
                    raise self.error(28, "No space left on device")
            return real(first, *args, **kwargs)

        return call


class Run:
    """A run's folder and the real Checkpoints on a model of six numbers."""

    def __init__(self, folder: Path, accelerator: Accelerator, patch: pytest.MonkeyPatch):
        self.folder, self.root = folder, folder / "checkpoints"
        self.config = load_recipe("quickstart", [f"output_dir={folder}"])
        self.model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(self.model.parameters())
        patch.setattr(checkpoint, "write_model", light_model)
        self.checkpoints = Checkpoints(
            accelerator=accelerator,
            model=self.model,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.ConstantLR(optimizer),
            output_dir=folder,
            keep_last=1,
            seed=0,
            facts={"config": asdict(self.config), "global_batch_size": 64, "metrics_bytes": 0},
        )

    def begin(self, step: int) -> None:
        """The folder with one checkpoint and nothing else."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        (self.folder / "config.yaml").touch()
        self.save(step)

    def save(self, step: int) -> None:
        self.checkpoints.save(step, {"step": step}, {})

    def valid(self) -> list[int]:
        """Steps that the next process could go on from, found as it would find them."""
        paths = plan_resume(self.config, 1).candidates
        whole = [path for path in paths if path.exists() and find_problem(path) is None]
        return [read_trainer_state(path)["step"] for path in whole]


def light_model(
    model: Any,
    state: Any,
    folder: Path,
    extras: dict[str, Any],
    *,
    records_weights: bool = False,
) -> None:
    (folder / "model.safetensors").write_text(f"weights {extras.get('mark')}")
    if records_weights:
        record = saving.file_record(folder / "model.safetensors")
        saving.write_preprocessing(folder, extras | {"weights": record})
    else:
        (folder / "preprocessing.json").write_text(f"numbers {extras.get('mark')}")


def is_whole(folder: Path) -> bool:
    """Weights and numbers of one save, and nothing else."""
    names = ["model.safetensors", "preprocessing.json"]
    if sorted(path.name for path in folder.glob("*")) != names:
        return False
    numbers = json.loads((folder / "preprocessing.json").read_text())
    same = (folder / "model.safetensors").read_text() == f"weights {numbers['mark']}"
    return same and model_problem(folder) is None


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize(("before", "step"), [(6, 12), (12, 12)], ids=["next", "same step"])
def test_a_save_cut_off_anywhere_leaves_a_whole_checkpoint(
    tmp_path: Path,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    step: int,
    error: Any,
) -> None:
    run = Run(tmp_path / "run", accelerator, monkeypatch)
    fail_at, over, lost, left = 0, False, [], []
    while not over:
        fail_at += 1
        run.begin(before)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, run.folder, error, fail_at)
            with contextlib.suppress(Killed, StorageFailed):
                run.save(step)
            over = disk.count < fail_at
        if not run.valid():
            lost.append(fail_at)
        if error is OSError and list(run.root.glob(".*.new")):
            left.append(fail_at)  # this process lives on, and clears up behind itself
        # The same command again: leftovers go, what was there stays, and the save succeeds.
        clear_unfinished(run.root)
        assert run.valid(), fail_at
        run.save(step)
        assert run.valid() == [step], fail_at
        assert [path.name for path in run.root.iterdir()] == [checkpoint_name(step)], fail_at
    assert fail_at > 20
    assert (lost, left) == ([], [])


@pytest.mark.parametrize("error", [Killed, OSError])
def test_the_best_model_outlives_a_save_cut_off_anywhere(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """Under its own name, or after a kill under the one that the next process looks for."""
    monkeypatch.setattr(saving, "write_model", light_model)
    folder, model = tmp_path / "model", torch.nn.Linear(1, 1)
    fail_at, over, lost = 0, False, []
    while not over:
        fail_at += 1
        save_model(accelerator, model, folder, {"mark": "old"})
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, tmp_path, error, fail_at)
            with contextlib.suppress(Killed, StorageFailed):
                save_model(accelerator, model, folder, {"mark": "new"})
            over = disk.count < fail_at
        places = [folder] + [tmp_path / ".model.old"] * (error is Killed)
        if not any(is_whole(place) for place in places):
            lost.append(fail_at)
        if error is OSError:
            assert not (tmp_path / ".model.new").exists(), fail_at
    assert fail_at > 8
    assert lost == []
