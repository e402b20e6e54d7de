"""A trained model in use: the numbers of its evaluation, from any table, or a precise refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import processes
import pytest
import xarray

from timerxl import Forecaster
from timerxl.config import InputError

ROOT = Path(__file__).resolve().parents[3]
CONTEXT = 16


@pytest.fixture(scope="module")
def forecaster(finished: Any) -> Forecaster:
    return Forecaster.from_pretrained(finished.folder / "model", device="cpu")


@pytest.fixture(scope="module")
def table(series_frame: pd.DataFrame) -> pd.DataFrame:
    """The synthetic series as a user would hold it: columns mixed, regions interleaved in time."""
    frame = series_frame[sorted(series_frame.columns, reverse=True)]
    return frame.sort_values(["timestamp", "region"], kind="stable").reset_index(drop=True)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_numbers_are_those_of_the_evaluation(
    finished: Any, forecaster: Forecaster, batch_size: int
) -> None:
    scored = pd.read_parquet(finished.folder / "forecasts.parquet")
    times = scored["issue_time"][scored["split"] == "test"].drop_duplicates().iloc[:20]
    found = forecaster.predict(None, at=[str(time) for time in times], batch_size=batch_size)
    both = found.merge(scored, on=["region", "issue_time"])
    assert len(both) == len(found) == 100
    assert both["probability_raw"].to_numpy() == pytest.approx(both["model"].to_numpy(), abs=1e-6)
    calibrated = both["model_calibrated"].to_numpy()
    assert both["probability"].to_numpy() == pytest.approx(calibrated, abs=1e-6)
    threshold = json.loads((finished.folder / "results.json").read_text())["threshold"]
    assert (both["rain"] == (both["model"] >= threshold)).all()
    assert (both["valid_until"] - both["issue_time"] == pd.Timedelta("24h")).all()
    assert "24 hours after the time of issue" in found.attrs["event"]


@pytest.mark.slow
def test_a_table_gives_what_the_series_gives(
    forecaster: Forecaster, table: pd.DataFrame, tmp_path: Path
) -> None:
    expected = forecaster.predict(None, at="latest")
    assert len(expected) == 5
    paths = {"parquet": tmp_path / "series.parquet", "csv": tmp_path / "series.csv"}
    table.to_parquet(paths["parquet"])
    table.to_csv(paths["csv"], index=False)
    for source in (table, paths["parquet"], str(paths["csv"])):
        found = forecaster.predict(source, at="latest")
        assert sorted(found["region"]) == sorted(expected["region"])
        both = found.merge(expected, on=["region", "issue_time"], suffixes=("", "_expected"))
        wanted = both["probability_expected"].to_numpy()
        assert both["probability"].to_numpy() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
def test_every_time_with_a_full_context_is_forecast(
    forecaster: Forecaster, table: pd.DataFrame
) -> None:
    one = table[table["region"] == "selva"].head(CONTEXT + 3)
    found = forecaster.predict(one)
    assert list(found["issue_time"]) == list(one["timestamp"].iloc[CONTEXT - 1 :])
    # What comes later changes nothing: the network sees the past alone.
    later = table[table["region"] == "selva"].head(CONTEXT + 40)
    longer = forecaster.predict(later).head(4)
    assert longer["probability"].to_numpy() == pytest.approx(found["probability"].to_numpy())


@pytest.mark.slow
def test_a_variable_counts_what_its_absence_changes(
    forecaster: Forecaster, table: pd.DataFrame
) -> None:
    """Against the same table with the variable at its training mean everywhere."""

    def log_odds(frame: pd.DataFrame) -> np.ndarray:
        raw = forecaster.predict(frame, at="latest")["probability_raw"].to_numpy()
        return np.asarray(np.log(raw / (1 - raw)))

    found = forecaster.predict(table, at="latest", by_variable=True)
    names = forecaster.saved.content["feature_names"]
    assert [column for column in found if column.startswith("by_")] == [f"by_{n}" for n in names]
    scaling = forecaster.saved.content["scaling"]
    for name in ("t2m", "msl"):
        assert name not in scaling["log1p"]
        flat = table.assign(**{name: scaling["mean"][names.index(name)]})
        expected = log_odds(table) - log_odds(flat)
        assert np.abs(expected).max() > 1e-3
        assert found[f"by_{name}"].to_numpy() == pytest.approx(expected, abs=1e-4)


def gap(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(frame.index[(frame["region"] == "selva").to_numpy()][-5])


def hole(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    rows = frame.index[(frame["region"] == "selva").to_numpy()][-7:-4]
    frame.loc[rows, "t2m"] = np.nan
    return frame


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="t2m"), "t2m"),
        (lambda t: t.assign(t2m=t["t2m"] - 273.15), "degrees Celsius where the model reads kelvin"),
        (lambda t: t.assign(tp=t["tp"] / 1000), "tp in region .* looks like .*m for mm"),
        (lambda t: t[t["timestamp"].dt.hour == 6], "step of 24 h; the model was trained on 12 h"),
        (lambda t: t.assign(region=t["region"].replace("selva", "mars")), "not mars"),
        (lambda t: pd.concat([t, t.tail(1)]), "twice"),
        (lambda t: t.assign(t2m="warm"), "not numeric"),
        (
            lambda t: t[t["timestamp"] >= t["timestamp"].max() - pd.Timedelta("4D")],
            r"needs 16 steps before 2024-.*, has 9",
        ),
        (gap, r"selva needs 16 steps before .*, has 4 \(.* is missing\)"),
        (hole, r"selva needs 16 steps before .*, has 4 \(a value is missing at"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_what_does_not_fit_is_said(
    forecaster: Forecaster, table: pd.DataFrame, change: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        forecaster.predict(change(table), at="latest")


@pytest.mark.slow
def test_times_are_counted(forecaster: Forecaster, table: pd.DataFrame) -> None:
    start = table["timestamp"].min()
    early = start + pd.Timedelta("3D")  # six steps of 12 hours after the first
    with pytest.raises(InputError, match=r"needs 16 steps before .*, has 7 \(the series begins"):
        forecaster.predict(table, at=str(early))
    with pytest.raises(InputError, match="has no row at"):
        forecaster.predict(table, at="1999-01-01")
    with pytest.raises(InputError, match="expected 'all', 'latest' or a time"):
        forecaster.predict(table, at="tomorrow")


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no preprocessing"):
        Forecaster.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="is no folder here"):
        Forecaster.from_pretrained("no such/repository/at all")


def test_a_link_out_of_the_folder_is_refused_and_a_snapshot_of_the_hub_taken(
    finished: Any, tmp_path: Path
) -> None:
    model = shutil.copytree(finished.folder / "model", tmp_path / "model")
    shutil.move(model / "model.safetensors", tmp_path / "theirs.safetensors")
    (model / "model.safetensors").symlink_to(tmp_path / "theirs.safetensors")
    with pytest.raises(InputError, match="is a link that leads out of its folder"):
        Forecaster.from_pretrained(model, device="cpu")
    # As huggingface_hub lays its cache: snapshots/REVISION/NAME -> ../../blobs/HASH
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate((finished.folder / "model").iterdir()):
        if path.is_file():
            shutil.copy(path, blobs / f"{number:040x}")
            (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    Forecaster.from_pretrained(snapshot, device="cpu")


def predict(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, ROOT / "launch" / "predict.py", *arguments], cwd=cwd)


@pytest.mark.slow
def test_the_command_writes_the_same_numbers_in_every_format(
    finished: Any, forecaster: Forecaster, table: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "series.parquet"
    table.to_parquet(path)
    expected = forecaster.predict(table, at="latest").set_index("region")["probability"]
    model = ["--model", str(finished.folder / "model"), "--input", str(path)]
    done = predict(*model, "--output", "out.nc", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 forecasts: out.nc" in done.stdout
    with xarray.open_dataset(tmp_path / "out.nc") as grid:
        assert grid["probability"].dims == ("region", "issue_time")
        for region, value in expected.items():
            assert float(grid["probability"].sel(region=region)[0]) == pytest.approx(value)
    from timerxl.data.forecast_file import write_forecasts

    forecasts = forecaster.predict(table, at="latest")
    for name in ("out.parquet", "out.csv"):
        write_forecasts(forecasts, tmp_path / name)
        read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
        back = read(tmp_path / name).set_index("region")["probability"]
        assert back[expected.index].to_numpy() == pytest.approx(expected.to_numpy())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["series.parquet", "out.nc", "out.parquet", "out.csv"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out.xlsx"], "expected a name ending in .parquet, .csv, .nc"),
        (["--output", "nowhere/out.csv"], "there is no folder nowhere"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--at", "soon"], "at=soon"),
        (["--at", ","], "expected 'all', 'latest' or a time"),
        (["--device", "foo"], "device foo can't be used here"),
        (["--device", "cuda:77"], "device cuda:77 can't be used here"),
    ],
)
def test_bad_input_is_one_line(
    finished: Any, tmp_path: Path, arguments: list[str], message: str
) -> None:
    model = ["--model", str(finished.folder / "model"), "--input", "synthetic"]
    done = predict(*model, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
