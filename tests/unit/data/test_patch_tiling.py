"""Windows whose target is the next patch: every row about once an epoch, none from beyond the cut;
and training on a share of the labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.unit.data.test_tiling import CONTEXT, PATCH, PATCHES
from tests.unit.data.test_windows import make_series
from timerxl.config import DataConfig, InputError, load_recipe
from timerxl.data.series import WeatherSeries
from timerxl.data.tiling import PatchTiling
from timerxl.data.windows import WeatherWindows, build_windows


def gappy_series() -> WeatherSeries:
    series = make_series(rows=400)
    values, timestamps = series.values.copy(), series.timestamps.copy()
    values[[95, 130, 500], 2] = np.nan
    timestamps[850 + 60 :] += np.timedelta64(7, "D")
    return dataclasses.replace(series, values=values, timestamps=timestamps)


def patch_windows(series: WeatherSeries, **data: object) -> WeatherWindows:
    config = DataConfig(**data)  # type: ignore[arg-type]
    return build_windows(series, config, CONTEXT, next_patch=PATCH)


def forecast_rows(tiling: PatchTiling, rng: np.random.Generator) -> list[int]:
    """The rows after which a patch is forecast in an epoch, read off the tensors alone."""
    codes = tiling.tiles.epoch(rng)
    batch = tiling[codes.tolist()]
    found = []
    for code, labels in zip(codes.tolist(), batch["labels"], strict=True):
        end = code // PATCHES
        is_known = ~labels.isnan().view(PATCHES, -1)
        assert (is_known.all(1) == is_known.any(1)).all()  # a patch counts whole or not at all
        kept = np.flatnonzero(is_known.all(1)).tolist()
        found += [end - (PATCHES - 1 - patch) * PATCH for patch in kept]
    return found


def test_an_epoch_forecasts_after_a_row_once_at_most_and_after_most_rows():
    windows = patch_windows(gappy_series())
    tiling = PatchTiling.of(windows, PATCH)
    train, counts = set(windows.issue_rows("train").tolist()), []
    for epoch in range(8):
        rows = forecast_rows(tiling, np.random.default_rng([1, epoch]))
        assert len(set(rows)) == len(rows)
        assert train <= set(rows)  # those with a full context behind them, every time
        counts.append(len(rows))
    assert min(counts) > len(train)  # and some of those that have less


def test_a_target_is_the_series_one_patch_later_and_ends_before_the_cut():
    windows = patch_windows(gappy_series())
    tiling = PatchTiling.of(windows, PATCH)
    codes = tiling.tiles.epoch(np.random.default_rng(0))
    batch = tiling[codes.tolist()]
    values, times = windows.values.numpy(), windows.series.timestamps
    cut = np.datetime64(windows.definition["split"]["validation_from"])
    for code, past, target in zip(codes, batch["past_values"], batch["labels"], strict=True):
        end = int(code) // PATCHES
        assert not past.isnan().any()
        assert np.array_equal(past.numpy(), values[end - CONTEXT + 1 : end + 1])
        later = values[end - CONTEXT + 1 + PATCH : end + 1 + PATCH]
        known = ~target.isnan().numpy()
        assert np.array_equal(target.numpy()[known], later[known])
        last = end + PATCH - PATCH * int(np.flatnonzero(known[::-PATCH, 0])[0])
        assert times[last] <= cut


def test_a_missing_label_is_no_reason_to_leave_a_window_out():
    series = gappy_series()
    rain = series.precipitation_mm.copy()
    rain[100:250] = np.nan
    without = dataclasses.replace(series, precipitation_mm=rain)
    config = DataConfig()
    assert len(build_windows(without, config, CONTEXT).issue_rows("train")) < len(
        build_windows(series, config, CONTEXT).issue_rows("train")
    )
    rows = [patch_windows(one).issue_rows("train") for one in (series, without)]
    assert set(range(150, 200)) <= set(rows[1].tolist())
    never = dataclasses.replace(series, precipitation_mm=np.full(len(rain), np.nan))
    assert len(patch_windows(never).issue_rows("train")) >= 0.9 * len(rows[0])


def test_the_cuts_in_time_are_a_classifiers():
    series = gappy_series()
    ours = patch_windows(series).definition["split"]
    theirs = build_windows(series, DataConfig(), CONTEXT).definition["split"]
    for key in ("validation_from", "test_from"):
        assert ours[key] == theirs[key]
    assert ours["embargo_hours"] == PATCH * series.step_hours


def test_a_stride_of_forecasts_does_not_thin_out_training():
    every = patch_windows(gappy_series()).issue_rows("train")
    with_stride = patch_windows(gappy_series(), window_stride_hours=24.0).issue_rows("train")
    # The stride moves the cuts by a little, and takes no row before them away.
    assert set(with_stride.tolist()) >= set(every[every < every.max() - 40][:100].tolist())
    assert abs(len(with_stride) - len(every)) < 0.05 * len(every)


def test_a_share_of_the_labels_is_drawn_from_training_alone():
    series = make_series(rows=400)
    whole, half, tenth = (
        build_windows(series, DataConfig(label_fraction=share), CONTEXT)
        for share in (1.0, 0.5, 0.1)
    )
    train = [set(one.issue_rows("train").tolist()) for one in (whole, half, tenth)]
    assert train[2] < train[1] < train[0]
    assert [len(rows) for rows in train[1:]] == [
        int(len(train[0]) * share + 1e-6) for share in (0.5, 0.1)
    ]
    for split in ("validation", "test"):
        assert np.array_equal(half.issue_rows(split), whole.issue_rows(split))
    assert half.scaling == whole.scaling
    assert any("training knows" in note for note in half.notes)


@pytest.mark.parametrize("share", ["0", "1.1", "-0.5", ".nan"])
def test_a_share_of_labels_that_there_is_not(share: str):
    with pytest.raises(InputError, match=r"data\.label_fraction is .* above 0, up to 1"):
        load_recipe("quickstart", [f"data.label_fraction={share}"])
