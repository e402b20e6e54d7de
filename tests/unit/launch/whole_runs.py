"""Whole runs of the command in this process, cut off at will, and what they leave compared.

    python whole_runs.py STEP SIGNAL[,SIGNAL] [key=value ...]

is a run that sends itself these signals before this step.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from settings import ONE_LABEL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import timerxl.planner.plan
import timerxl.report.figures
import timerxl.report.page
from timerxl.cli import train
from timerxl.training.run_dir import RunFolder
from timerxl.training.trainer import TrainingLoop

SCRIPT = Path(__file__).resolve().parents[3] / "launch" / "train.py"
# 710 training windows of the synthetic series, 6 steps an epoch; checkpoints at 5, 6, 10 and 12.
# One evaluation is a "stagnation" here: a verdict at step 6, not to be said again at step 12.
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "model.num_hidden_layers=2 train.batch_size=128 train.log_every_steps=1 train.max_steps=12 "
    "train.checkpoint_every_steps=5 train.keep_last=9 eval.every_steps=0 eval.num_resamples=0 "
    "eval.fitted_baselines=false monitors.slow=off monitors.num_evaluations=1"
).split()
TIMED = ("samples_per_s", "seconds")
STEPS = list(range(1, 13))
# As if every core had a rank of its own, so that one thread is enough.
ONE_THREAD = {"LOCAL_WORLD_SIZE": str(len(os.sched_getaffinity(0)))}


class Killed(BaseException):
    """As good as SIGKILL for what is on the disk: the loop catches nothing of it."""


def quick(patch: pytest.MonkeyPatch) -> None:
    """Without pictures and without the measured prediction: seconds, and not the subject here."""
    patch.setattr(timerxl.report.page, "write_report", lambda folder: None)
    patch.setattr(timerxl.report.figures, "figures", lambda folder: {})
    patch.setattr(timerxl.planner.plan, "predict_run", None)


def command(*overrides: str) -> int:
    """The command in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", [str(SCRIPT), "--config", "quickstart", *TINY, *overrides])
        return train.main()


@contextlib.contextmanager
def before_step(step: Any, action: Callable[[], object]) -> Iterator[None]:
    take_step = TrainingLoop._take_step

    def noted(self: TrainingLoop, *rest: Any) -> Any:
        if self.progress.step + 1 == step:
            action()
        return take_step(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "_take_step", noted)
        yield


def kill() -> None:
    raise Killed


def cut_off(step: Any, *overrides: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # A killed process writes no end; the kernel takes its lock.
        patch.setattr(RunFolder, "end", lambda self, *_: self.close())
        with before_step(step, kill), pytest.raises(Killed):
            command(*overrides)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = [event for event in lines if event["event"] in names]
    return [{k: v for k, v in event.items() if k not in TIMED} for event in found]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the event files."""
    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in shown.Tags()["scalars"] if not tag.endswith(TIMED)]
    # Files of one second are read in the order of their process numbers: hence sorted.
    return {tag: sorted((s.step, s.value) for s in shown.Scalars(tag)) for tag in tags}


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
        )
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def assert_same_end(folder: Path, straight: Path) -> None:
    """Bit by bit what the run gave that nobody disturbed."""
    last = "checkpoints/step_00000012"
    for path in ("model/model", f"{last}/model", f"{last}/optimizer-00000-of-00001"):
        found, expected = (one / f"{path}.safetensors" for one in (folder, straight))
        assert found.read_bytes() == expected.read_bytes(), path
    # The run uses and seeds torch's random numbers alone.
    drawn = [load_file(one / last / "rng-00000.safetensors")["torch"] for one in (folder, straight)]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert [event["step"] for event in events(folder, "train")] == STEPS
    for name in ("start", "train", "validation", "verdict"):
        assert events(folder, name) == events(straight, name), name
    assert read(folder / "verdict.json") == read(straight / "verdict.json")
    assert read(folder / "status.json") == {"code": 0, "reason": "finished"}
    found, expected = read(folder / "results.json"), read(straight / "results.json")
    for key in "validation test threshold best_step steps stop_reason".split():
        assert found[key] == expected[key], key
    assert [path.name for path in folder.rglob(".*")] == []


if __name__ == "__main__":
    step, numbers, *overrides = sys.argv[1:]

    def strike() -> None:
        for count, number in enumerate(numbers.split(",")):
            time.sleep(0.7 if count else 0)  # a person's second Ctrl-C, no launcher's echo
            os.kill(os.getpid(), int(number))

    with before_step(int(step), strike):
        sys.exit(command(*overrides))
