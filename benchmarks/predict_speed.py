"""Time to forecast one day for five regions from a table, with the model of a recipe.

    python benchmarks/predict_speed.py [--recipe small] [--threads 2] [--repeats 5]
        [--bound-seconds 2]

The weights are random: they are timed, not scored. A model folder and a Parquet table of the
SYNTHETIC series are written, then the real Forecaster loads the one and reads the other, with every
check that it makes; the table holds just enough steps for all issue times of its last day. Prints
the time to load and the median times to predict, on the clock and of all threads together: on an
idle machine the former is about the latter by the number of threads. Exit code 1 where the time on
the clock is above the bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine_line
from benchmarks.step_memory import recipe_settings
from timerxl import Forecaster
from timerxl.config import load_recipe
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLForClassification

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, float, Result]:
    """Seconds on the clock, seconds of all threads together, and what came of it."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started, time.process_time() - cpu_started, result


def write_model_and_table(name: str, model: Path, table: Path) -> int:
    """Returns the issue times of one day."""
    recipe = load_recipe(name)
    series = load_series(recipe.data)
    windows = build_windows(series, recipe.data, recipe.model.context_length)
    torch.manual_seed(0)
    settings = recipe_settings(name)
    settings.num_variables = len(series.feature_names)
    TimerXLForClassification(settings).save_pretrained(model)
    (model / PREPROCESSING).write_text(json.dumps(windows.preprocessing()), encoding="utf-8")
    times = round(24 / series.step_hours)
    frame = pd.DataFrame(series.values, columns=series.feature_names)
    frame.insert(0, "region", np.array(series.regions)[series.region_index])
    frame.insert(0, "timestamp", series.timestamps)
    last = frame.groupby("region").tail(recipe.model.context_length + times - 1)
    last.to_parquet(table, index=False)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bound-seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    if arguments.repeats < 3:
        parser.error(f"--repeats is {arguments.repeats}; expected 3 or more, for a median.")
    torch.set_num_threads(arguments.threads)
    print(machine_line())
    with tempfile.TemporaryDirectory() as temporary:
        model, table = Path(temporary) / "model", Path(temporary) / "series.parquet"
        model.mkdir()
        times = write_model_and_table(arguments.recipe, model, table)
        loading, _, forecaster = timed(lambda: Forecaster.from_pretrained(model, device="cpu"))
        runs = [timed(lambda: forecaster.predict(table)) for _ in range(arguments.repeats)]
    seconds = [run[0] for run in runs]
    forecasts = runs[0][2]
    regions = forecasts["region"].nunique()
    if len(forecasts) != regions * times:
        raise RuntimeError(f"{len(forecasts)} forecasts, expected {regions} x {times}.")
    median = statistics.median(seconds)
    print(
        f"{arguments.recipe}, random weights, {forecaster.context_length} steps of "
        f"{len(forecaster.saved.content['feature_names'])} variables: loading {loading:.2f} s; one "
        f"day for {regions} regions ({times} issue times, {len(forecasts)} windows) "
        f"{median:.2f} s, median of {len(seconds)} ({min(seconds):.2f} to {max(seconds):.2f}); "
        f"all threads together {statistics.median(run[1] for run in runs):.2f} s; bound "
        f"{arguments.bound_seconds:g} s"
    )
    if median > arguments.bound_seconds:
        print(f"FAILED: {median:.2f} s is above {arguments.bound_seconds:g} s")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
