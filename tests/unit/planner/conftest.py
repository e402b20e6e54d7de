"""Tiny workloads: a recipe and counts of windows, without a series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from settings import ONE_LABEL

from timerxl.config import load_recipe
from timerxl.planner.trace import StepSettings
from timerxl.planner.workload import Workload
from timerxl.training.assembly import model_config

ROOT = Path(__file__).resolve().parents[3]
# 3 variables x 4 patches = 12 tokens of width 32, two heads; 1,000 training windows.
TINY = (
    f"{ONE_LABEL} "
    "data.static_features=false model.patch_length=4 model.context_length=16 model.hidden_size=32 "
    "model.intermediate_size=64 model.num_hidden_layers=2 model.num_attention_heads=2 "
    "model.hidden_dropout=0 model.attention_dropout=0 model.pooling=mean "
    "model.variable_embedding=false train.batch_size=8 "
).split()
WINDOWS = {"train": 1000, "validation": 200, "test": 300}


def tiny_workload(
    *overrides: str,
    num_variables: int = 3,
    num_static: int = 0,
    windows: dict[str, int] | None = None,
    series_days: float = 1000.0,
) -> Workload:
    """The quickstart recipe made tiny, with ``overrides``, on 12-hourly steps."""
    config = load_recipe("quickstart", [*TINY, *overrides])
    return Workload(
        config=config,
        model=model_config(config, num_variables, num_static, alpha=0.5),
        windows=dict(windows or WINDOWS),
        step_hours=12.0,
        context_days=config.model.context_length / 2,
        series_days=series_days,
        is_synthetic=True,
    )


@pytest.fixture(scope="session")
def workload() -> Callable[..., Workload]:
    return tiny_workload


@pytest.fixture
def measured_peak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[StepSettings], int]]:
    """Bytes at the peak of real steps, by the allocator's own events; see benchmarks/."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.allocations import measured_peak

    reset_accelerate()
    yield measured_peak
    reset_accelerate()


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
