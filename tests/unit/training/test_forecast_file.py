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
import processes
import pytest
import xarray

from timerxl import Forecaster
from timerxl.config import InputError
from timerxl.data import forecast_file
from timerxl.data.forecast_file import check_output, netcdf_names, write_forecasts

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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(
    finished: Any, tmp_path: Path, number: signal.Signals
) -> None:
    script, printed, place = (tmp_path / name for name in ("stalled.py", "printed", "place"))
    script.write_text(STALLED)
    place.mkdir()
    command = [sys.executable, script, ROOT / "launch" / "predict.py", "--input", "synthetic"]
    command += ["--model", finished.folder / "model", "--output", "out.parquet"]
    process = processes.Forked(command, cwd=place, stdout=printed, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while not printed.exists() or "WRITING\n" not in printed.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [path.suffix for path in place.iterdir()] == [".parquet"]
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill_all()
    assert time.monotonic() - started < 30
    assert "Traceback" not in printed.read_text()
    assert list(place.iterdir()) == []


# Names of variables

AWKWARD = [
    "wv (m/s)",
    "wv_m_s",  # what the first would become
    "wv [m/s]",
    "quo\"te's",
    "two\nlines",
    "a\rreturn",
    "2m_temperature",
    "_hidden",
    "PRECIPITAÇÃO (mm)",
    "温度",
    "°",
    "",
    "x" * 300,
    "x" * 299 + "y",
    "region",
    "issue_time",
    "probability",
    "rain",
    "T",
    "t",
    "a,b;c",
    "../up",
]


def named_frame(names: list[str]) -> pd.DataFrame:
    """SYNTHETIC forecasts of two regions and three times; each column has values of its own."""
    times = pd.date_range("2024-01-01", periods=3, freq="6h")
    rows = [(region, time) for region in ("a/b", "ñ") for time in times]
    frame = pd.DataFrame(rows, columns=["region", "issue_time"])
    frame["valid_until"] = frame["issue_time"] + pd.Timedelta("24h")
    frame["probability"] = np.linspace(0.1, 0.6, 6)
    frame["probability_raw"] = frame["probability"] / 2
    frame["rain"] = frame["probability"] > 0.3
    made = {f"by_{name}": np.arange(6.0) + 100 * k for k, name in enumerate(names)}
    return pd.concat([frame, pd.DataFrame(made)], axis=1)


def test_columns_of_any_name_come_back_from_netcdf(tmp_path: Path) -> None:
    frame = named_frame(AWKWARD)
    write_forecasts(frame, tmp_path / "out.nc")
    with xarray.open_dataset(tmp_path / "out.nc") as grid:
        of = {grid[name].attrs.get("source_column"): grid[name] for name in grid.data_vars}
        assert len(grid.data_vars) == 3 + len(AWKWARD)
        for k, name in enumerate(AWKWARD):
            assert of[name].name.isascii()
            assert of[name].name.isidentifier()
            assert len(of[name].name) <= 110
            assert of[name].sel(region="ñ").values.tolist() == [100 * k + 3.0 + i for i in range(3)]
        assert of["wv (m/s)"].name == "by_wv_m_s_2"
        assert of["wv_m_s"].name == "by_wv_m_s"
        assert of["wv [m/s]"].name == "by_wv_m_s_3"
        assert of["PRECIPITAÇÃO (mm)"].name == "by_PRECIPITACAO_mm"
        assert of["probability"].name == "by_probability"
        assert grid["probability"].sel(region="a/b").values == pytest.approx([0.1, 0.2, 0.3])
        assert "column wv (m/s) at its training mean" in of["wv (m/s)"].attrs["long_name"]
        assert "source_column" not in grid["probability"].attrs


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_tables_keep_the_names_as_they_are(tmp_path: Path, name: str) -> None:
    frame = named_frame([one for one in AWKWARD if name != "out.csv" or one])
    write_forecasts(frame, tmp_path / name)
    back = pd.read_csv(tmp_path / name) if name == "out.csv" else pd.read_parquet(tmp_path / name)
    assert list(back.columns) == list(frame.columns)
    assert len(back) == 6
    for column in frame.columns[6:]:
        assert back[column].tolist() == frame[column].tolist()


def test_names_of_netcdf_are_distinct_in_any_order() -> None:
    names = ["by_a b", "by_a_b_2", "by_a-b", "by_a_b", "by_a.b", "issue_time ", "9"]
    assert netcdf_names(names) == {
        "by_a b": "by_a_b_3",
        "by_a_b_2": "by_a_b_2",
        "by_a-b": "by_a_b_4",
        "by_a_b": "by_a_b",
        "by_a.b": "by_a_b_5",
        "issue_time ": "issue_time_2",
        "9": "column_9",
    }
    usual = ["probability", "by_season_sin", "by_10u", "by_tp_sum_24h"]
    assert netcdf_names(usual) == {name: name for name in usual}


@pytest.mark.parametrize(
    ("file", "column", "words"),
    [
        ("out.nc", "a\0b", "holds a zero byte"),
        ("out.csv", "\ud800", "half a surrogate pair"),
        ("out.parquet", "\ud800", "half a surrogate pair"),
        ("folder.nc", "a", "is a folder"),
    ],
)
def test_what_can_not_be_written_is_refused_before(
    tmp_path: Path, file: str, column: str, words: str
) -> None:
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(InputError, match=words):
        check_output(tmp_path / file, [f"by_{column}"])
    check_output(tmp_path / "out.parquet", ["by_a\0b"])
    assert [path.name for path in tmp_path.iterdir()] == ["folder.nc"]


def test_a_region_that_netcdf_can_not_hold_is_no_traceback(tmp_path: Path) -> None:
    frame = named_frame(["a"])
    frame["region"] = frame["region"].replace("ñ", "n\0")
    with pytest.raises(InputError, match="zero byte"):
        write_forecasts(frame, tmp_path / "out.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def awkward_run(
    train_tiny: Any, series_frame: pd.DataFrame, tmp_path_factory: Any
) -> tuple[Path, Path]:
    """A model trained on a table with columns called wv (m/s) and wv_m_s; (run, table)."""
    folder = tmp_path_factory.mktemp("awkward")
    frame = series_frame[["timestamp", "region", "tp", "u10", "tcwv"]]
    frame = frame.assign(u10=frame["u10"].abs())
    table = folder / "series.parquet"
    frame.rename(columns={"u10": "wv (m/s)", "tcwv": "wv_m_s"}).to_parquet(table)
    overrides = [f"data.path={table}", "data.precipitation_column=tp", "train.max_steps=4"]
    overrides.append("data.precipitation_unit=mm")
    train_tiny(folder / "run", *overrides)
    return folder / "run", table


@pytest.mark.slow
def test_predict_writes_what_the_forecaster_says(
    awkward_run: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, table = awkward_run
    forecaster = Forecaster.from_pretrained(folder / "model", device="cpu")
    expected = forecaster.predict(table, at="latest", by_variable=True)
    assert list(expected.columns) == forecaster.columns(by_variable=True)
    assert list(forecaster.predict(table, at="latest").columns) == forecaster.columns()
    command = [sys.executable, str(ROOT / "launch" / "predict.py"), "--device", "cpu"]
    command += ["--model", str(folder / "model"), "--input", str(table), "--by-variable"]
    done = processes.run([*command, "--output", "f.nc"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with xarray.open_dataset(tmp_path / "f.nc") as grid:
        names = {grid[name].attrs.get("source_column"): name for name in grid.data_vars}
        assert (names["wv (m/s)"], names["wv_m_s"]) == ("by_wv_m_s_2", "by_wv_m_s")
        for source in ("wv (m/s)", "wv_m_s", "tp"):
            for _, row in expected.iterrows():
                cell = grid[names[source]].sel(region=row["region"], issue_time=row["issue_time"])
                assert float(cell) == pytest.approx(row[f"by_{source}"], abs=1e-6)
