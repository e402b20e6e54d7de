"""The series refuses what would silently become wrong windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.series import WeatherSeries

HOURS = np.datetime64("2020-01-01T00", "s") + np.arange(4) * np.timedelta64(3600, "s")


def build(**changes: Any) -> WeatherSeries:
    fields: dict[str, Any] = {
        "feature_names": ["t", "p"],
        "regions": ["A", "B"],
        "values": np.zeros((8, 2), dtype=np.float32),
        "region_index": np.repeat([0, 1], 4),
        "timestamps": np.tile(HOURS, 2),
        "precipitation_mm": np.zeros(8),
        "ready_label": None,
        "true_probability": None,
        "step_hours": 1.0,
        "precipitation_feature": "p",
        "is_synthetic": False,
        "source": {},
        "notes": [],
    }
    return WeatherSeries(**(fields | changes))


def test_segments_end_at_regions_and_gaps() -> None:
    times = np.tile(HOURS, 2)
    times[6:] += np.timedelta64(3600, "s")  # one hour is missing in B
    series = build(timestamps=times)
    assert np.flatnonzero(series.segment_starts()).tolist() == [0, 4, 6]
    assert series.segment_first_rows().tolist() == [0, 0, 0, 0, 4, 4, 6, 6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"values": np.zeros((7, 2), dtype=np.float32)}, "values has shape"),
        ({"values": np.zeros((8, 2))}, "float64; expected .* float32"),
        ({"timestamps": np.tile(HOURS, 2).astype("datetime64[ns]")}, "timestamps"),
        ({"precipitation_mm": None}, "neither precipitation nor a ready label"),
        ({"precipitation_feature": "rain"}, "'rain' is no feature"),
        ({"region_index": np.repeat([1, 0], 4)}, "region after region"),
        ({"region_index": np.repeat([0, 2], 4)}, "expected 0 to 1"),
        ({"timestamps": np.tile(HOURS[[0, 2, 1, 3]], 2)}, "region A at 2020-01-01T01"),
        ({"timestamps": np.tile(HOURS[[0, 1, 1, 3]], 2)}, "does not ascend"),
        ({"ready_label": np.full(8, 0.5)}, "other than 0, 1"),
        ({"values": np.full((8, 2), np.inf, dtype=np.float32)}, "infinite"),
        ({"feature_names": ["p", "p"]}, "found twice: p"),
        ({"step_hours": 0.0}, "step_hours is 0"),
        ({"regions": []}, "0 regions"),
        ({"timestamps": np.full(8, np.datetime64("NaT", "s"))}, "NaT"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(**changes)
