"""Forecasts as files: what they say of themselves, and nothing half-written is ever left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray

from timerxl import Forecaster
from timerxl.data import forecast_file
from timerxl.data.forecast_file import write_forecasts

ROOT = Path(__file__).resolve().parents[3]
FORMATS = ["out.parquet", "out.csv", "out.nc"]


@pytest.fixture(scope="module")
def forecasts(finished: Any) -> pd.DataFrame:
    """Of the synthetic series, with what each variable adds."""
    forecaster = Forecaster.from_pretrained(finished.folder / "model", device="cpu")
    found = forecaster.predict(None, at="latest", by_variable=True)
    found.attrs["notes"] = ["a first note.", "a second note."]
    return found


def test_what_a_netcdf_file_says(forecasts: pd.DataFrame, tmp_path: Path) -> None:
    write_forecasts(forecasts, tmp_path / "out.nc")
    with xarray.open_dataset(tmp_path / "out.nc") as grid:
        assert grid.attrs["Conventions"] == "CF-1.11"
        assert "SYNTHETIC" in grid.attrs["source"]
        assert grid.attrs["trained_on_synthetic"] == "true"
        assert grid.attrs["comment"] == "a first note.\na second note."
        assert grid["issue_time"].attrs["standard_name"] == "forecast_reference_time"
        assert all(grid[name].attrs["long_name"] for name in grid.variables)
        assert all(grid[name].attrs["units"] == "1" for name in grid.data_vars)
        named = grid["by_season_sin"].attrs
        assert "column season_sin at its training mean" in named["long_name"]
        assert "do not add up" in named["comment"]
        assert "known at issue time (season, hour, region) is in none" in named["comment"]


def test_a_model_of_a_real_series_says_so(forecasts: pd.DataFrame, tmp_path: Path) -> None:
    real = forecasts.copy()
    real.attrs = forecasts.attrs | {"trained_on_synthetic": False, "notes": []}
    write_forecasts(real, tmp_path / "out.nc")
    with xarray.open_dataset(tmp_path / "out.nc") as grid:
        assert "SYNTHETIC" not in str(grid.attrs)
        assert grid.attrs["trained_on_synthetic"] == "false"
        assert "comment" not in grid.attrs


def test_the_columns_by_variable_are_no_copies(forecasts: pd.DataFrame) -> None:
    """Season and hour are columns of the series like any other: they differ from each other."""
    columns = [name for name in forecasts if str(name).startswith("by_")]
    values = forecasts[columns].to_numpy()
    assert len(np.unique(values.round(12), axis=1).T) == len(columns)
    assert (values.std(axis=0) > 0).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_an_interruption_leaves_the_file_as_it_was(
    forecasts: pd.DataFrame, tmp_path: Path, monkeypatch: Any, name: str, error: type
) -> None:
    """Cut off after all bytes are written, before the rename: the worst moment."""
    (tmp_path / name).write_text("older")

    def interrupted(source: Path, target: Path) -> None:
        assert source.stat().st_size > 100
        raise error

    monkeypatch.setattr(forecast_file.os, "replace", interrupted)
    with pytest.raises(error):
        write_forecasts(forecasts, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "older"


# launch/predict.py, whose writer stops for ever with a file half done.
STALLED = """
import runpy, sys, time
from pathlib import Path
import pandas as pd
def stall(self, path, **_):
    Path(path).write_bytes(b"half")
    print("WRITING", flush=True)
    time.sleep(100)
pd.DataFrame.to_parquet = stall
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(
    finished: Any, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", STALLED, str(ROOT / "launch" / "predict.py")]
    command += ["--model", str(finished.folder / "model"), "--input", "synthetic"]
    command += ["--output", "out.parquet"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "WRITING\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
        started = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
