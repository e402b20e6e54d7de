"""What a user's table may lack, and what they may ask for: always a sentence."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl import Forecaster
from timerxl.config import InputError, SyntheticConfig
from timerxl.data.era5.prepare import write_description
from timerxl.data.synthetic import synthetic_table

CONTEXT = 16


@pytest.fixture(scope="module")
def model(finished: Any) -> Path:
    return Path(finished.folder / "model")


@pytest.fixture(scope="module")
def forecaster(model: Path) -> Forecaster:
    return Forecaster.from_pretrained(model, device="cpu")


@pytest.fixture(scope="module")
def table(series_frame: pd.DataFrame) -> pd.DataFrame:
    """The last forty steps of the run's series in every region."""
    return series_frame.groupby("region", sort=False).tail(40).reset_index(drop=True)


def without_end(table: pd.DataFrame, region: str, steps: int) -> pd.DataFrame:
    return table.drop(table.index[table["region"] == region][-steps:])


def edited(model: Path, folder: Path, **changes: Any) -> Forecaster:
    """The model with other content in its preprocessing.json; None removes a key."""
    shutil.copytree(model, folder)
    path = folder / "preprocessing.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return Forecaster.from_pretrained(folder, device="cpu")


def test_the_latest_time_blames_the_region_that_is_short(
    forecaster: Forecaster, table: pd.DataFrame
) -> None:
    """Regions end at different times: nobody else has a row at the last time of selva."""
    short = without_end(table, "selva", 6)
    rows = short.index[short["region"] == "selva"]
    short = short.drop(rows[:-7])
    end = short["timestamp"][rows[-1]]
    message = rf"^region selva needs 16 steps before {end:%Y-%m-%dT%H}, has 7 \(the series begins"
    with pytest.raises(InputError, match=message):
        forecaster.predict(short, at="latest")
    first = table["region"].iloc[0]
    late = without_end(table.drop(table.index[table["region"] == "selva"][:-7]), first, 3)
    with pytest.raises(InputError, match=r"^region selva needs 16 steps"):
        forecaster.predict(late, at="latest")


def test_a_region_that_ends_earlier_is_noted(forecaster: Forecaster, table: pd.DataFrame) -> None:
    found = forecaster.predict(without_end(table, "selva", 6), at="latest")
    assert len(found) == 5
    notes = [note for note in found.attrs["notes"] if "before the last one" in note]
    assert len(notes) == 1
    assert "region selva ends at" in notes[0]
    assert "72 h before" in notes[0]
    assert not any("before the last" in n for n in forecaster.predict(table).attrs["notes"])


@pytest.mark.parametrize("at", ["all", "latest", None])
def test_too_short_is_counted_on_every_path(
    forecaster: Forecaster, table: pd.DataFrame, at: str | None
) -> None:
    end = table["timestamp"].max()
    seven = table.groupby("region", sort=False).tail(7)
    with pytest.raises(InputError, match=rf"needs 16 steps before {end:%Y-%m-%dT%H}, has 7 "):
        forecaster.predict(seven, at=at)
    one = table.groupby("region", sort=False).tail(1)
    with pytest.raises(InputError, match=r"needs 16 steps before .*, has 1:"):
        forecaster.predict(one, at=at)


def test_a_time_without_row_is_counted_too(forecaster: Forecaster, table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"needs 16 steps before 1999-01-01T00, has 0: it has no"):
        forecaster.predict(table, at="1999-01-01")


def test_all_missing_columns_are_named_at_once(
    forecaster: Forecaster, table: pd.DataFrame, tmp_path: Path
) -> None:
    poor = table.drop(columns=["timestamp", "t2m", "msl"])
    with pytest.raises(InputError, match="lacks 3 of the 29 columns that the model reads") as error:
        forecaster.predict(poor)
    assert "timestamp (times), t2m, msl." in str(error.value)
    assert "data." not in str(error.value)  # no key of a recipe
    poor.to_csv(tmp_path / "poor.csv", index=False)
    with pytest.raises(InputError, match=r"^\S*poor.csv lacks 3 of the 29"):
        forecaster.predict(tmp_path / "poor.csv")
    with pytest.raises(InputError, match=r"not numeric: t2m \(.*\), sp \("):
        forecaster.predict(table.assign(t2m="warm", sp="high"))
    with pytest.raises(InputError, match=r"^\S*none.csv is no file"):
        forecaster.predict(tmp_path / "none.csv")


def test_rain_of_another_unit_names_the_models(
    model: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    """A model trained on metres refuses what metres can't be, without a key of a recipe."""
    data = json.loads((model / "preprocessing.json").read_text())["data"]
    unit = {"precipitation_column": "tp", "precipitation_unit": "m"}
    metres = edited(model, tmp_path / "metres", data=data | unit)
    with pytest.raises(InputError, match="the model reads it in m,") as error:
        metres.predict(table.assign(tp=table["tp"] + 20))
    assert "data.precipitation_unit" not in str(error.value)
    with pytest.raises(InputError, match="t2m is missing in every row; the model needs it"):
        metres.predict(table.assign(t2m=np.nan))


def test_a_prepared_series_in_another_unit(
    model: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    """series.json beside the table says metres, the model reads millimetres."""
    data = json.loads((model / "preprocessing.json").read_text())["data"]
    rain = edited(model, tmp_path / "rain", data=data | {"precipitation_column": "tp"})
    table.to_parquet(tmp_path / "series.parquet")
    said = {"column": "tp", "unit": "m", "hours_present_per_day": 24, "is_sparse": False}
    write_description(tmp_path, {"precipitation": said, "is_synthetic": False})
    with pytest.raises(InputError, match=r"tp is in m, the model reads mm\.$"):
        rain.predict(tmp_path / "series.parquet")


def test_hours_of_the_day(forecaster: Forecaster, table: pd.DataFrame) -> None:
    """Twelve-hourly steps were trained at 06 and 18 UTC."""

    def moved(by: str) -> pd.DataFrame:
        return table.assign(timestamp=table["timestamp"] + pd.Timedelta(by))

    for by, hours in (("3h", "09:00, 21:00"), ("6h", "00:00, 12:00"), ("-2h", "04:00, 16:00")):
        with pytest.raises(InputError, match=f"steps end at {hours} UTC; .* at 06:00, 18:00 UTC"):
            forecaster.predict(moved(by), at="latest")
    notes = forecaster.predict(moved("30min"), at="latest").attrs["notes"]
    assert any("06:30, 18:30 UTC" in note and "30 minutes apart" in note for note in notes)
    same = forecaster.predict(moved("24h"), at="latest").attrs["notes"]
    assert not any("UTC" in note for note in same)


def test_hours_at_which_no_window_was_trained_are_noted(
    model: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    content = json.loads((model / "preprocessing.json").read_text())
    assert content["training_ranges"]["issue_hours"] == [6.0, 18.0]
    ranges = content["training_ranges"] | {"issue_hours": [18.0]}
    daily = edited(model, tmp_path / "daily", training_ranges=ranges)
    notes = daily.predict(table).attrs["notes"]
    assert any("are issued at 6 h UTC" in note and "issued at 18 h" in note for note in notes)


def test_a_synthetic_model_says_so(
    forecaster: Forecaster, model: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    def warned(forecasts: pd.DataFrame) -> bool:
        return any("trained on the SYNTHETIC series" in n for n in forecasts.attrs["notes"])

    found = forecaster.predict(table)
    assert found.attrs["trained_on_synthetic"] is True
    assert warned(found)
    assert not warned(forecaster.predict(None, at="latest"))
    real = edited(model, tmp_path / "real", is_synthetic=False).predict(table)
    assert not warned(real)
    assert real.attrs["trained_on_synthetic"] is False


def test_an_older_folder_is_loaded_and_noted(
    model: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    older = edited(model, tmp_path / "older", training_ranges=None)
    found = older.predict(table, at="latest")
    assert any("holds no training ranges" in note for note in found.attrs["notes"])
    with pytest.raises(InputError, match=r"t2m has mean .* Check its unit"):
        older.predict(table.assign(t2m=table["t2m"] - 273.15))


def test_damaged_ranges_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training_ranges has no days. Train again"):
        edited(model, tmp_path / "damaged", training_ranges={"by_region": {}})


def test_a_time_in_any_form(forecaster: Forecaster, table: pd.DataFrame) -> None:
    end = table["timestamp"].max()
    expected = forecaster.predict(table, at=str(end))["probability"].to_list()
    assert len(expected) == 5
    peru = end.tz_localize("UTC").tz_convert("America/Lima")
    forms = [
        *(end, peru, peru.isoformat(), end.to_pydatetime(), np.datetime64(end)),
        *([end, peru, str(end)], (end,), pd.Series([end]), pd.DatetimeIndex([peru])),
    ]
    for form in forms:
        found = forecaster.predict(table, at=form)
        assert found["probability"].to_list() == expected, form
        assert not found.duplicated(["region", "issue_time"]).any()
    both = forecaster.predict(table, at=[end, end - pd.Timedelta("12h"), end])
    assert len(both) == 10
    assert both["issue_time"].is_monotonic_increasing is False  # region after region
    assert both.groupby("region")["issue_time"].is_monotonic_increasing.all()


@pytest.mark.parametrize(
    "at", [[], (), 5, [5], 1.5, pd.NaT, [None], "", "tomorrow", ["latest"], {}, True]
)
def test_what_is_no_time_is_said(forecaster: Forecaster, table: pd.DataFrame, at: Any) -> None:
    with pytest.raises(InputError, match="expected 'all', 'latest' or a time as 2024-06-01T06"):
        forecaster.predict(table, at=at)


def test_a_day_is_its_midnight(forecaster: Forecaster, table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"before 2024-12-01T00, has 0"):
        forecaster.predict(table, at=datetime.date(2024, 12, 1))


@pytest.mark.parametrize("device", ["foo", "", "meta", "cuda:77", "cpu:x"])
def test_a_device_that_is_not_there(model: Path, device: str) -> None:
    with pytest.raises(InputError, match=r"device .* can't be used here .*expected one of: cpu"):
        Forecaster.from_pretrained(model, device=device)


@pytest.mark.slow
def test_a_table_with_holes_gives_the_numbers_of_its_evaluation(
    train_tiny: Any, tmp_path: Path
) -> None:
    """Rain in metres, short holes filled, long ones left: read as in training."""
    frame = synthetic_table(SyntheticConfig(start="2024-06-01"))
    frame = frame.drop(columns=["rain_24h", "true_probability"])
    frame.loc[[700, 1000, 1001, 1500], "t2m"] = np.nan  # 12 h at once are filled, no more
    frame.loc[[900, 1300], "tp"] = np.nan
    path = tmp_path / "rain.csv"
    frame.to_csv(path, index=False)
    keys = [f"data.path={path}", "data.precipitation_column=tp", "data.precipitation_unit=m"]
    done = train_tiny(tmp_path / "run", *keys, "data.max_fill_hours=12")
    scored = pd.read_parquet(done.folder / "forecasts.parquet")
    scored = scored[scored["split"].isin(["validation", "test"])]
    loaded = Forecaster.from_pretrained(done.folder / "model", device="cpu")
    for batch_size in (3, 64):
        found = loaded.predict(path, batch_size=batch_size)
        both = found.merge(scored, on=["region", "issue_time"])
        assert len(both) == len(scored) > 1000
        expected = both["model"].to_numpy()
        assert both["probability_raw"].to_numpy() == pytest.approx(expected, abs=1e-6)
