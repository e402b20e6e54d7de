"""All regions of a time in one window: their values, what is missing, labels, and one grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.data.test_windows import make_series
from timerxl.config import DataConfig, InputError
from timerxl.data.series import WeatherSeries
from timerxl.data.tiling import LabelTiling
from timerxl.data.windows import RegionGrid, WeatherWindows, build_windows

PATCH, PATCHES = 4, 5
CONTEXT, REGIONS, FEATURES = PATCH * PATCHES, 3, 4
TOGETHER = DataConfig(static_features=True, regions_together="all")


def gappy_series() -> WeatherSeries:
    """Three regions of 400 6-hourly rows; missing values, and one whose last 80 rows come later."""
    series = make_series(rows=400)
    values = series.values.copy()
    values[[95, 130, 500], 2] = np.nan
    timestamps = series.timestamps.copy()
    timestamps[800 + 320 :] += np.timedelta64(2, "D")
    return dataclasses.replace(series, values=values, timestamps=timestamps)


@pytest.fixture(scope="module")
def windows() -> WeatherWindows:
    return build_windows(gappy_series(), TOGETHER, CONTEXT)


@pytest.fixture(scope="module")
def alone() -> WeatherWindows:
    return build_windows(
        gappy_series(), dataclasses.replace(TOGETHER, regions_together="none"), CONTEXT
    )


def row_of(windows: WeatherWindows, time: np.datetime64, region: int) -> int | None:
    series = windows.series
    found = np.flatnonzero((series.timestamps == time) & (series.region_index == region))
    return int(found[0]) if found.size else None


def test_a_window_holds_each_region_s_rows_at_its_times_and_says_what_is_missing(windows):
    series, missing = windows.series, np.isnan(gappy_series().values).any(1)
    rows = windows.issue_rows("train")[[0, 40, 90, 300, 301]]
    batch = windows.transform.windows(torch.from_numpy(rows))
    times = np.unique(series.timestamps[rows])
    assert batch["past_values"].shape == (len(times), CONTEXT, REGIONS * FEATURES)
    for place, time in enumerate(times):
        for step in range(CONTEXT):
            at = time - np.timedelta64((CONTEXT - 1 - step) * 6, "h")
            for region in range(REGIONS):
                row = row_of(windows, at, region)
                found = batch["past_values"][place, step, region * FEATURES :][:FEATURES]
                seen = bool(batch["past_observed_mask"][place, step, region])
                assert seen == (row is not None and not torch.isnan(windows.values[row]).any())
                expected = windows.values[row] if seen else torch.zeros(FEATURES)
                assert torch.equal(found, expected)
    assert missing.sum() == 3  # which the reader of this series fills forward or not at all


def test_answers_are_picked_by_time_and_region(windows):
    rows = torch.from_numpy(windows.issue_rows("validation")[[9, 3, 3, 60, 0]])
    batch = windows.transform.windows(rows)
    distinct = len(batch["past_values"])
    logits = torch.arange(distinct * REGIONS * 2.0).view(distinct, REGIONS, 2)
    picked = windows.transform.answers(logits, rows)
    times = np.unique(windows.series.timestamps[rows])
    for row, answer in zip(rows.tolist(), picked, strict=True):
        place = int(np.searchsorted(times, windows.series.timestamps[row]))
        assert torch.equal(answer, logits[place, windows.series.region_index[row]])


def test_splits_labels_and_scaling_are_those_of_windows_of_one_region(windows, alone):
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(windows.issue_rows(split), alone.issue_rows(split))
    assert windows.scaling == alone.scaling
    np.testing.assert_array_equal(windows.label, alone.label)


def test_an_epoch_counts_each_label_at_most_once_and_all_but_those_after_a_hole(windows):
    tiling, series = LabelTiling.of(windows, PATCH), windows.series
    trained = windows.issue_rows("train")
    met = np.zeros((40, len(series.timestamps)), int)
    for epoch in range(len(met)):
        codes = tiling.tiles.epoch(np.random.default_rng([1, epoch]))
        batch = tiling[codes.tolist()]
        assert torch.equal(batch["labels"], tiling.labels(torch.from_numpy(codes)))
        observed = batch["past_observed_mask"].numpy()
        ends = codes // PATCHES
        for window, patch, region in np.argwhere(batch["labels"].numpy() != -100):
            step = ends[window] - (PATCHES - 1 - patch) * PATCH
            time = series.timestamps.min() + np.timedelta64(int(step) * 6, "h")
            row = row_of(windows, time, region)
            assert batch["labels"][window, patch, region] == windows.label[row]
            assert observed[window, : (patch + 1) * PATCH, region].all()
            met[epoch, row] += 1
    assert met.max() == 1
    assert not met.sum(0)[np.setdiff1d(np.arange(met.shape[1]), trained)].any()
    whole = np.flatnonzero(met.all(0))  # in every epoch: no hole within a context behind them
    assert len(whole) > 0.8 * len(trained)
    assert met.any(0)[trained].all()


def test_a_series_without_holes_has_no_mask_and_every_label_counts_once():
    windows = build_windows(make_series(rows=300), TOGETHER, CONTEXT)
    tiling = LabelTiling.of(windows, PATCH)
    codes = tiling.tiles.epoch(np.random.default_rng(3))
    batch = tiling[codes.tolist()]
    assert "past_observed_mask" not in batch
    assert int((batch["labels"] != -100).sum()) == tiling.num_labels == 3 * (tiling.num_labels // 3)
    assert batch["labels"].shape == (len(codes), PATCHES, REGIONS)
    assert batch["static_real_features"].shape == (len(codes), PATCHES, REGIONS, 4 + REGIONS)


def test_with_a_label_at_the_end_alone_each_comes_once_an_epoch(windows):
    tiling, series = LabelTiling.of(windows, CONTEXT), windows.series
    codes = tiling.tiles.epoch(np.random.default_rng(4))
    batch = tiling[codes.tolist()]
    assert "label_positions" not in batch
    assert len(set(codes)) == len(codes) == tiling.tiles.most_windows
    assert batch["labels"].shape == (len(codes), REGIONS)
    assert batch["static_real_features"].shape == (len(codes), REGIONS, 4 + REGIONS)
    met = np.zeros(len(series.timestamps), int)
    for window, region in np.argwhere(batch["labels"].numpy() != -100):
        time = series.timestamps.min() + np.timedelta64(int(codes[window]) * 6, "h")
        row = row_of(windows, time, region)
        met[row] += 1
        assert batch["labels"][window, region] == windows.label[row]
        of_row = windows.transform.windows(torch.tensor([row]))
        assert torch.equal(batch["past_values"][window], of_row["past_values"][0])
        static = batch["static_real_features"][window, region]
        assert torch.equal(static, windows.static[row])
    trained = np.isin(np.arange(len(met)), windows.issue_rows("train"))
    np.testing.assert_array_equal(met, trained.astype(int))


def test_regions_with_times_of_their_own_are_refused():
    series = make_series(rows=300)
    timestamps = series.timestamps.copy()
    timestamps[300:600] += np.timedelta64(1, "h")
    with pytest.raises(InputError, match="regions at the same times, and R1 has"):
        build_windows(dataclasses.replace(series, timestamps=timestamps), TOGETHER, CONTEXT)


def test_a_grid_may_have_regions_that_the_series_lacks(windows):
    series = windows.series
    kept = series.region_index != 1
    fewer = dataclasses.replace(
        series,
        regions=["R0", "R2"],
        values=series.values[kept],
        region_index=np.where(series.region_index[kept] == 2, 1, 0),
        timestamps=series.timestamps[kept],
        precipitation_mm=series.precipitation_mm[kept],
    )
    values = windows.values[torch.from_numpy(kept)]
    label = torch.full((len(values),), -1)
    grid = RegionGrid.of(fewer, values, None, label, CONTEXT, series.regions)
    whole = windows.transform
    observed, shown = whole.observed.clone(), whole.values.clone()
    observed[:, 1] = False
    shown[:, FEATURES : 2 * FEATURES] = 0
    assert torch.equal(grid.observed, observed)
    assert torch.equal(grid.values, shown)
