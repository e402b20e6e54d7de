"""One tiny run on the synthetic series, shared by the tests that look at what a run leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from settings import ONE_LABEL

from timerxl.config import RunConfig, load_recipe
from timerxl.data.readers import load_series
from timerxl.training import evaluator as looks
from timerxl.training import final_evaluation as ending
from timerxl.training import run

# Seven months of five regions: 715 training windows, 12 steps an epoch; a run takes 2 seconds.
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "model.num_hidden_layers=2 train.log_every_steps=1 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0"
).split()


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """accelerate's own, on the CPU, with none of its state left before or after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@dataclass
class Run:
    """A finished run: its folder, what train returned, and which splits were forecast by whom."""

    folder: Path
    config: RunConfig
    returned: dict[str, Any] = field(default_factory=dict)
    forecasts: list[tuple[str, str, int]] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]


TinyRun = Callable[..., Run]


def tiny_run(folder: Path, *overrides: str) -> Run:
    """Train for real in this process; the calls of ``forecast`` are noted, not replaced."""
    done = Run(folder, load_recipe("quickstart", [*TINY, f"output_dir={folder}", *overrides]))
    forecast = looks.forecast

    def noted(caller: str) -> Callable[..., Any]:
        def call(accelerator: Any, model: Any, windows: Any, split: str, *rest: Any) -> Any:
            done.forecasts.append((caller, split, len(rest[0])))
            return forecast(accelerator, model, windows, split, *rest)

        return call

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        # As if this machine were shared by a rank per core: one thread, whatever else runs on it.
        patch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0))))
        patch.setattr(looks, "forecast", noted("loop"))
        patch.setattr(ending, "forecast", noted("run"))
        done.returned = run.train(done.config)
    return done


@pytest.fixture(scope="session")
def train_tiny() -> TinyRun:
    return tiny_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six epochs at a rate so high that the best epoch by ROC-AUC is not the last."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return tiny_run(folder, "train.epochs=6", "train.patience=6", "optim.lr=0.03")


@pytest.fixture(scope="session")
def series_frame(finished: Run) -> pd.DataFrame:
    """The series of the finished run as a table, in its units; not to be changed in place."""
    series = load_series(load_recipe(str(finished.folder / "config.yaml")).data)
    frame = pd.DataFrame(series.values, columns=series.feature_names)
    frame["region"] = np.array(series.regions)[series.region_index]
    frame["timestamp"] = series.timestamps
    return frame
