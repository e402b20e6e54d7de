"""The synthetic series under another event than its own 0.1 mm in 24 h, and with other features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.preprocessing import Preprocessing, label_and_persistence
from timerxl.data.readers import load_series
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic import FEATURE_NAMES, synthetic_series, synthetic_table
from timerxl.data.windows import build_windows

SHORT = {"start": "2023-01-01", "end": "2023-03-01"}


def load(**changes: Any) -> WeatherSeries:
    return load_series(DataConfig(synthetic=SyntheticConfig(**SHORT), **changes))


def naive_labels(series: WeatherSeries, steps: int, hundredths: int) -> list[float]:
    """Rain of the next steps of the region, added one by one in whole hundredths of a mm."""
    assert series.precipitation_mm is not None
    rain = [round(amount * 100) for amount in series.precipitation_mm]
    found = []
    for row, region in enumerate(series.region_index):
        total = 0.0
        for k in range(1, steps + 1):
            inside = row + k < len(rain) and series.region_index[row + k] == region
            total += rain[row + k] if inside else np.nan
        found.append(np.nan if np.isnan(total) else float(total >= hundredths))
    return found


@pytest.mark.parametrize("hours", [12.0, 48.0, 96.0])
def test_another_horizon_is_labelled_from_the_rain_itself(hours: float) -> None:
    config = DataConfig(synthetic=SyntheticConfig(**SHORT), label_horizon_hours=hours)
    series = load_series(config)
    assert series.ready_label is None
    label, _ = label_and_persistence(series, config)
    np.testing.assert_array_equal(label, naive_labels(series, int(hours) // 12, 10))
    own = load()
    np.testing.assert_allclose(series.values, own.values, rtol=1e-6)  # the same weather
    np.testing.assert_array_equal(series.precipitation_mm, own.precipitation_mm)
    # The table knows the rain past its last row: where both know the label they agree.
    table = synthetic_table(config.synthetic, hours)[f"rain_{hours:g}h"].to_numpy()
    known = ~np.isnan(label)
    assert (~known).sum() == 5 * hours // 12
    np.testing.assert_array_equal(label[known], table[known])


def test_the_true_probability_of_two_days_is_calibrated() -> None:
    config = DataConfig(label_horizon_hours=48.0)
    series = load_series(config)
    label, _ = label_and_persistence(series, config)
    probability = series.true_probability
    assert probability is not None
    one_day = load_series(DataConfig()).true_probability
    assert one_day is not None
    # Two days hold the first; near 1 the two round to the same number.
    assert (probability > one_day)[one_day < 0.999999].all()
    assert (probability >= one_day - 1e-12).all()
    # Labels two days apart share no rain, so each decile is held to a plain standard error.
    hours = series.timestamps.astype(np.int64) // 3600
    for offset in np.unique(hours % 48):
        rows = np.flatnonzero((hours % 48 == offset) & ~np.isnan(label))
        rows = rows[np.argsort(probability[rows])]
        for group in np.array_split(rows, 10):
            p = probability[group]
            error = np.sqrt((p * (1 - p)).sum()) / len(p)
            assert abs(label[group].mean() - p.mean()) < 4 * error
        one_day_off = np.sqrt((one_day[rows] * (1 - one_day[rows])).sum()) / len(rows)
        assert abs(label[rows].mean() - one_day[rows].mean()) > 4 * one_day_off


def test_its_own_event_keeps_its_label_and_the_true_probability() -> None:
    series, table = load(), synthetic_table(SyntheticConfig(**SHORT))
    np.testing.assert_array_equal(series.ready_label, table["rain_24h"])
    np.testing.assert_array_equal(series.true_probability, table["true_probability"])
    assert len(series.notes) == 1


def test_a_threshold_below_the_least_rain_is_the_same_event() -> None:
    config = DataConfig(synthetic=SyntheticConfig(**SHORT), rain_threshold_mm=0.05)
    series, own = load_series(config), load()
    assert series.ready_label is None
    np.testing.assert_array_equal(series.true_probability, own.true_probability)
    label, _ = label_and_persistence(series, config)
    known = ~np.isnan(label)
    assert own.ready_label is not None
    np.testing.assert_array_equal(label[known], own.ready_label[known])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rain_threshold_mm": 1.0}, "data.rain_threshold_mm is 1."),
        ({"rain_threshold_mm": 0.11}, "data.rain_threshold_mm is 0.11."),
        ({"rain_threshold_mm": 0.0}, "data.rain_threshold_mm is 0."),
        ({"label_horizon_hours": 252.0}, "data.label_horizon_hours is 252."),
        ({"label_horizon_hours": 48.0, "split": "rows"}, "data.split=rows labels"),
    ],
)
def test_an_unknown_true_probability_is_left_out_with_a_note(
    changes: dict[str, Any], words: str
) -> None:
    series = load(**changes)
    assert series.ready_label is None
    assert series.true_probability is None
    assert "best possible score is not given" in series.notes[-1]
    assert words in series.notes[-1]


def test_one_millimetre_is_labelled_from_the_rain_itself() -> None:
    config = DataConfig(synthetic=SyntheticConfig(**SHORT), rain_threshold_mm=1.0)
    series = load_series(config)
    label, _ = label_and_persistence(series, config)
    np.testing.assert_array_equal(label, naive_labels(series, 2, 100))
    own = load().ready_label
    assert own is not None
    assert np.nanmean(label) < own.mean()


@pytest.mark.parametrize("hours", [6.0, 30.0])
def test_a_horizon_between_two_steps_is_refused(hours: float) -> None:
    with pytest.raises(InputError, match=r"data\.label_horizon_hours is .*step of 12 hours"):
        load(label_horizon_hours=hours)


def test_the_row_split_keeps_its_published_counts() -> None:
    config = DataConfig(split="rows")
    windows = build_windows(load_series(config), config, 2880)
    counts = {"train": 28_119, "validation": 6_025, "test": 6_026}
    assert windows.preprocessing()["split"]["num_rows"] == counts
    issued = {split: len(windows.issue_rows(split)) for split in counts}
    assert issued == counts | {"train": 28_119 - 2_880}


def test_listed_features_are_taken_in_their_order() -> None:
    series, whole = load(features=["tcwv", "tp", "oni"]), load()
    assert series.feature_names == ["tcwv", "tp", "oni"]
    columns = [FEATURE_NAMES.index(name) for name in series.feature_names]
    np.testing.assert_array_equal(series.values, whole.values[:, columns])
    assert series.precipitation_feature == "tp"
    assert len(series.source["skipped_columns"]) == 24
    assert "3 of 27" in series.notes[-1]
    dry = load(features=["t2m"])
    assert dry.precipitation_feature is None
    np.testing.assert_array_equal(dry.precipitation_mm, whole.precipitation_mm)
    np.testing.assert_array_equal(dry.true_probability, whole.true_probability)


def test_patterns_leave_features_out_but_not_those_that_are_listed() -> None:
    patterns = ["*_lag_*h", "*_sum_*h", "*_mean_*h", "*_tendency_*h", "season_*", "hour_*"]
    series, whole = load(exclude_features=patterns), load()
    assert (
        series.feature_names
        == (
            "tp t2m d2m sp msl u10 v10 tcwv cape wind_speed dewpoint_spread relative_humidity oni"
        ).split()
    )
    columns = [FEATURE_NAMES.index(name) for name in series.feature_names]
    np.testing.assert_array_equal(series.values, whole.values[:, columns])
    assert series.source["skipped_columns"]["tp_sum_24h"] == "it matches data.exclude_features"
    assert "13 of 27 synthetic features, as data.exclude_features says." in series.notes
    both = load(features=["tp_sum_24h", "tp"], exclude_features=patterns)
    assert both.feature_names == ["tp_sum_24h", "tp"]
    assert load(exclude_features=["nothing_*"]).feature_names == FEATURE_NAMES
    assert load(exclude_features=["TP*"]).feature_names == FEATURE_NAMES  # case counts


@pytest.mark.parametrize("chosen", [{"features": ["tcwv", "tp"]}, {"exclude_features": ["?2m"]}])
def test_a_model_s_series_has_the_features_it_was_trained_on(
    chosen: dict[str, Any], tmp_path: Path
) -> None:
    config = DataConfig(**chosen)
    content = build_windows(load_series(config), config, 56).preprocessing()
    again = load_series(Preprocessing(tmp_path, content).data_config(None))
    assert again.feature_names == content["feature_names"]
    assert len(again.feature_names) == (2 if "features" in chosen else 25)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exclude_features": ["*"]}, "matches all of 27 columns: tp, t2m"),
        ({"features": ["tp", "temperature"]}, "lists temperature, but the synthetic series has no"),
        ({"features": ["rain_24h"]}, "lists rain_24h, but its name says label"),
        ({"features": ["target_precip_24h"]}, "lists target_precip_24h, but its name says label"),
        ({"features": ["true_probability"]}, "lists true_probability, but it's the answer itself"),
        ({"features": ["tp", "tp"]}, "each once"),
        ({"features": []}, "each once"),
        ({"label_column": "rain_24h"}, "data.label_column is rain_24h, but data.path is null"),
    ],
)
def test_what_the_series_does_not_have_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(**changes)


def test_keys_of_a_table_are_named_where_they_do_nothing() -> None:
    series = load(precipitation_column="rain", precipitation_unit="m")
    assert series.notes[-1].startswith("data.precipitation_column, data.precipitation_unit desc")
    expected = synthetic_series(SyntheticConfig(**SHORT))
    np.testing.assert_array_equal(series.precipitation_mm, expected.precipitation_mm)
