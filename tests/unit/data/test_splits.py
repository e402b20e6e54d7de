"""Splits against naive loops, the published counts of the row cut, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import DataConfig, InputError
from timerxl.data.preprocessing import (
    SPLITS,
    complete_rows,
    labels,
    make_split,
    split_by_rows,
    split_by_time,
    stacked_labels,
)
from timerxl.data.series import WeatherSeries

EPOCH = np.datetime64("1970-01-01T00", "s")


def make_series(
    hours: list[list[int]],
    seed: int = 0,
    missing: float = 0.0,
    step_hours: int = 1,
    **changes: Any,
) -> WeatherSeries:
    """One region per list of hours since 1970; rain on about half of the rows."""
    rng = np.random.default_rng(seed)
    rows = sum(len(region) for region in hours)
    values = rng.normal(size=(rows, 2)).astype(np.float32)
    values[rng.random((rows, 2)) < missing] = np.nan
    fields: dict[str, Any] = {
        "feature_names": ["a", "b"],
        "regions": [f"R{i}" for i in range(len(hours))],
        "values": values,
        "region_index": np.repeat(np.arange(len(hours)), [len(region) for region in hours]),
        "timestamps": EPOCH + np.concatenate(hours).astype(np.int64) * np.timedelta64(3600, "s"),
        "precipitation_mm": np.where(rng.random(rows) < 0.3, 0.1, 0.0),
        "ready_label": None,
        "true_probability": None,
        "step_hours": float(step_hours),
        "precipitation_feature": None,
        "is_synthetic": False,
        "source": {},
        "notes": [],
    }
    return WeatherSeries(**(fields | changes))


def hours_of(series: WeatherSeries) -> list[int]:
    return ((series.timestamps - EPOCH).astype(np.int64) // 3600).tolist()


def naive_time_split(
    series: WeatherSeries, label: np.ndarray, config: DataConfig, context: int
) -> dict[str, list[int]]:
    hour, region = hours_of(series), series.region_index.tolist()
    complete = []
    for row in range(len(hour)):
        window = range(row - context + 1, row + 1)
        if window.start < 0 or np.isnan(label[row]):
            continue
        if any(region[i] != region[row] for i in window):
            continue
        if any(hour[i] != hour[row] - (row - i) for i in window):
            continue
        if any(np.isnan(series.values[i]).any() for i in window):
            continue
        complete.append(row)
    stride = config.window_stride_hours or 1
    rows = [row for row in complete if hour[row] % stride == 0]
    trained = [row for row in complete if hour[row] % (config.train_stride_hours or stride) == 0]
    times = sorted({hour[row] for row in rows})
    b1 = times[int(len(times) * config.train_fraction)]
    b2 = times[int(len(times) * (config.train_fraction + config.validation_fraction))]
    h = config.label_horizon_hours
    return {
        "train": [row for row in trained if hour[row] + h <= b1],
        "validation": [row for row in rows if b1 <= hour[row] and hour[row] + h <= b2],
        "test": [row for row in rows if hour[row] >= b2],
    }


@st.composite
def ragged_hours(draw: st.DrawFn) -> list[list[int]]:
    """One to three regions that start, end and pause at different hours."""
    regions = []
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.integers(0, 20)), draw(st.integers(60, 90))
        gap = set(draw(st.sets(st.integers(start + 5, start + 50), max_size=3)))
        regions.append([hour for hour in range(start, start + length) if hour not in gap])
    return regions


@settings(max_examples=60, deadline=None)
@given(
    ragged_hours(),
    st.integers(0, 10_000),
    st.sampled_from([None, 2.0, 3.0]),
    st.sampled_from([None, 1.0, 2.0]),
    st.integers(1, 5),
    st.sampled_from([1.0, 2.0, 4.0]),
)
def test_time_split_equals_a_naive_loop(
    hours: list[list[int]],
    seed: int,
    stride: float | None,
    train_stride: float | None,
    context: int,
    horizon: float,
) -> None:
    series = make_series(hours, seed, missing=0.005)
    config = DataConfig(
        window_stride_hours=stride,
        train_stride_hours=train_stride,
        label_horizon_hours=horizon,
        train_fraction=0.5,
        validation_fraction=0.25,
    )
    label = labels(series, horizon, 0.1)
    expected = naive_time_split(series, label, config, context)
    if not all(expected.values()):
        with pytest.raises(InputError):
            split_by_time(series, label, config, context)
        return
    split = split_by_time(series, label, config, context)
    for name in SPLITS:
        assert split.rows[name].tolist() == expected[name]
    # What the split is for: no label of a split reaches past the first time of the next one.
    time, reach = series.timestamps, np.timedelta64(round(horizon * 3600), "s")
    train, validation, test = (time[split.rows[name]] for name in SPLITS)
    assert train.max() + reach <= validation.min()
    assert validation.max() + reach <= test.min()
    assert time[split.scaling_rows].max() <= train.max()
    assert set(np.flatnonzero(time <= train.max())) == set(split.scaling_rows)


def test_complete_rows_by_hand() -> None:
    series = make_series([[0, 1, 2, 3, 7, 8, 9], [0, 1, 2, 3]])
    series.values[8, 1] = np.nan
    assert np.flatnonzero(complete_rows(series, 3)).tolist() == [2, 3, 6]
    assert np.flatnonzero(complete_rows(series, 2)).tolist() == [1, 2, 3, 5, 6, 10]


STACKED = make_series([list(range(6, 6 + 8034 * 12, 12))] * 5, step_hours=12)


@pytest.mark.parametrize(("context", "train_windows"), [(2880, 25_239), (1440, 26_679)])
def test_row_cut_gives_the_published_counts(context: int, train_windows: int) -> None:
    label = stacked_labels(STACKED, 24, 0.1)
    split = split_by_rows(STACKED, label, DataConfig(split="rows"), context)
    assert split.method["num_rows"] == {"train": 28_119, "validation": 6_025, "test": 6_026}
    assert {name: len(split.rows[name]) for name in SPLITS} == {
        "train": train_windows,
        "validation": 6_025,
        "test": 6_026,
    }
    assert split.rows["train"][[0, -1]].tolist() == [context, 28_118]
    assert split.rows["validation"][[0, -1]].tolist() == [28_119, 34_143]
    assert split.rows["test"][[0, -1]].tolist() == [34_144, 40_169]
    assert split.scaling_rows.tolist() == list(range(28_119))


def test_row_cut_says_what_is_wrong_with_it() -> None:
    label = stacked_labels(STACKED, 24, 0.1)
    (note,) = split_by_rows(STACKED, label, DataConfig(split="rows"), 2880).notes
    region = STACKED.region_index
    issued = range(2880, 40_170)
    across = sum(int(region[row] != region[row - 2879]) for row in issued)
    assert f"{across} of {len(issued)} windows run across two regions" in note
    assert across / len(issued) == pytest.approx(1 / 3, abs=0.03)
    assert "training never sees R4" in note
    assert "data.split=time" in note


def test_row_cut_leaves_missing_values_out_and_says_so() -> None:
    series = make_series([list(range(100))] * 2)
    series.values[150, 0] = np.nan
    config = DataConfig(split="rows", label_horizon_hours=1)
    split = split_by_rows(series, stacked_labels(series, 1, 0.1), config, 10)
    rows = np.concatenate([split.rows[name] for name in SPLITS]).tolist()
    assert rows == [*range(10, 150), *range(160, 200)]
    assert any(note.startswith("10 windows") for note in split.notes)


def test_a_share_is_cut_as_written_not_as_binary() -> None:
    series = make_series([list(range(100))])  # int(100 * 0.29) is 28
    config = DataConfig(split="rows", train_fraction=0.29, label_horizon_hours=1)
    split = split_by_rows(series, stacked_labels(series, 1, 0.1), config, 5)
    assert split.method["num_rows"] == {"train": 29, "validation": 15, "test": 56}


def test_one_class_outside_training_is_said() -> None:
    series = make_series([list(range(200))])
    series.precipitation_mm[140:] = 0
    config = DataConfig(label_horizon_hours=2)
    notes = make_split(series, labels(series, 2, 0.1), config, 10).notes
    assert [note for note in notes if note.startswith("all validation labels are equal")]
    assert [note for note in notes if note.startswith("all test labels are equal")]


def test_a_region_without_windows_is_named() -> None:
    series = make_series([list(range(200)), list(range(190, 200))])
    split = split_by_time(series, labels(series, 1, 0.1), DataConfig(label_horizon_hours=1), 20)
    assert sum("window in: R1" in note for note in split.notes) == 3


SHORT = make_series([list(range(30)), list(range(20))])
LONG = make_series([list(range(200))])


@pytest.mark.parametrize(
    ("series", "config", "context", "words"),
    [
        (SHORT, {}, 48, r"needs 48 rows in a row.*R0 30, R1 20"),
        (LONG, {"train_fraction": 0.0}, 10, r"the train split holds no window"),
        (LONG, {"validation_fraction": 0.05}, 10, r"the validation split holds no window"),
        (LONG, {"window_stride_hours": 500.0}, 10, r"no window: of 1 rows"),
        (
            make_series([list(range(6, 600, 12))], step_hours=12),
            {"window_stride_hours": 24.0},
            4,
            r"no row falls on data.window_stride_hours 24 .*1970-01-01T06",
        ),
        (LONG, {"rain_threshold_mm": 0.0}, 10, r"all \d+ training labels are 1: nothing to learn"),
        (LONG, {"rain_threshold_mm": 99.0}, 10, r"training labels are 0.*rain_threshold_mm \(99\)"),
        (SHORT, {"split": "rows"}, 40, r"cuts 35 of 50 rows for training"),
        (
            make_series([list(range(200))], missing=1.0),
            {},
            10,
            r"no window: of 200 rows .* 0 end a full context",
        ),
    ],
)
def test_refusals(series: WeatherSeries, config: dict[str, Any], context: int, words: str) -> None:
    settings_ = DataConfig(**({"label_horizon_hours": 12.0} | config))
    label = labels(series, settings_.label_horizon_hours, settings_.rain_threshold_mm)
    with pytest.raises(InputError, match=words):
        make_split(series, label, settings_, context)
