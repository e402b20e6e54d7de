"""Windows with a label after every patch: each label once an epoch, none that looks ahead."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.unit.data.test_windows import make_series
from timerxl.config import DataConfig
from timerxl.data.tiling import LabelTiling
from timerxl.data.windows import WeatherWindows, build_windows

PATCH, PATCHES = 4, 5
CONTEXT = PATCH * PATCHES


def gappy_windows(**data: object) -> WeatherWindows:
    """Three regions of 6-hourly rows; missing values, and a region that breaks off for a week."""
    series = make_series(rows=400)
    values = series.values.copy()
    values[[95, 130, 500], 2] = np.nan
    timestamps = series.timestamps.copy()
    timestamps[850 + 60 :] += np.timedelta64(7, "D")
    series = dataclasses.replace(series, values=values, timestamps=timestamps)
    config = DataConfig(static_features=True, **data)  # type: ignore[arg-type]
    return build_windows(series, config, CONTEXT)


@pytest.fixture(scope="module", params=[{}, {"train_stride_hours": 12.0}], ids=["all", "stride"])
def windows(request: pytest.FixtureRequest) -> WeatherWindows:
    return gappy_windows(**request.param)


@pytest.fixture(scope="module")
def tiling(windows: WeatherWindows) -> LabelTiling:
    return LabelTiling.of(windows, PATCH)


def counted(tiling: LabelTiling, codes: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, patch, label) of every label that counts, from the code of each window alone."""
    batch = tiling[codes.tolist()]
    found = []
    for code, labels in zip(codes.tolist(), batch["labels"].tolist(), strict=True):
        end = code // PATCHES
        for patch, label in enumerate(labels):
            if label != -100:
                found.append((end - (PATCHES - 1 - patch) * PATCH, patch, label))
    return found


@pytest.mark.parametrize("epoch", range(4))
def test_an_epoch_meets_every_training_label_once(windows, tiling, epoch):
    found = counted(tiling, tiling.tiles.epoch(np.random.default_rng([1, epoch])))
    rows = [row for row, _, _ in found]
    assert sorted(rows) == sorted(windows.issue_rows("train").tolist())
    assert all(label == windows.label[row] for row, _, label in found)


def test_labels_meet_contexts_of_every_length_equally_often(windows, tiling):
    epochs = 150
    met = np.zeros((len(windows.label), PATCHES))
    for epoch in range(epochs):
        for row, patch, _ in counted(tiling, tiling.tiles.epoch(np.random.default_rng([9, epoch]))):
            met[row, patch] += 1
    # A label one patch before the last of its stretch never meets the first patch, and so on: in
    # the middle of a stretch each of the five contexts comes up in a fifth of the epochs.
    tiles = tiling.tiles
    rows = tiles.first_row[tiles.group] + tiles.place * PATCH
    middle = rows[tiles.last_place[tiles.group] - tiles.place >= PATCHES]
    shares = met[middle] / epochs
    assert np.abs(shares - 1 / PATCHES).max() < 5 * np.sqrt(0.2 * 0.8 / epochs)
    assert np.allclose(met.sum(1)[windows.issue_rows("train")], epochs)


def test_no_window_leaves_its_region_its_stretch_or_the_training_period(windows, tiling):
    series = windows.series
    last = series.timestamps[windows.issue_rows("train")].max()
    for epoch in range(20):
        ends = tiling.end_rows(tiling.tiles.epoch(np.random.default_rng([2, epoch])))
        for end in ends:
            rows = np.arange(end - CONTEXT + 1, end + 1)
            assert len(set(series.region_index[rows])) == 1
            assert set(np.diff(series.timestamps[rows]).astype(int)) == {6 * 3600}
            assert not np.isnan(series.values[rows]).any()
            assert series.timestamps[end] <= last


def test_every_label_counted_keeps_its_own_embargo(windows, tiling):
    cut = np.datetime64(windows.definition["split"]["validation_from"])
    codes = tiling.tiles.epoch(np.random.default_rng(5))
    rows = np.array([row for row, _, _ in counted(tiling, codes)])
    assert (windows.series.timestamps[rows] + np.timedelta64(24, "h") <= cut).all()


def test_a_batch_holds_the_window_and_what_is_known_after_each_patch(windows, tiling):
    codes = tiling.tiles.epoch(np.random.default_rng(0))[[3, 0, 11]]
    batch = tiling[codes.tolist()]
    assert batch["label_positions"].tolist() == list(range(PATCHES))
    assert batch["past_values"].shape == (3, CONTEXT, 4)
    for index, end in enumerate(tiling.end_rows(codes)):
        window = windows.values[end - CONTEXT + 1 : end + 1]
        assert torch.equal(batch["past_values"][index], window)
        for patch in range(PATCHES):
            row = end - (PATCHES - 1 - patch) * PATCH
            assert torch.equal(batch["static_real_features"][index, patch], windows.static[row])
    assert torch.equal(batch["labels"], tiling.labels(torch.from_numpy(codes)))


def test_no_epoch_has_more_windows_than_the_bound_and_a_whole_series_reaches_it(tiling):
    whole = LabelTiling.of(build_windows(make_series(rows=400), DataConfig(), CONTEXT), PATCH)
    for one in (tiling, whole):
        sizes = [len(one.tiles.epoch(np.random.default_rng([3, epoch]))) for epoch in range(200)]
        assert max(sizes) <= one.tiles.most_windows
    assert (
        whole.num_labels / PATCHES
        <= whole.tiles.most_windows
        <= whole.num_labels / PATCHES + 3 * PATCH
    )


def test_the_offsets_of_an_epoch_come_from_its_seed(tiling):
    one, same, other = (tiling.tiles.epoch(np.random.default_rng([7, e])) for e in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
