"""The synthetic series under another event than its own 0.1 mm in 24 h."""

from __future__ import annotations

import numpy as np

from timerxl.config import DataConfig
from timerxl.data.labels import label_and_persistence
from timerxl.data.readers import load_series


def test_another_horizon_is_labelled_from_the_rain_itself() -> None:
    config = DataConfig(label_horizon_hours=48.0)
    config.synthetic.start = "2023-01-01"
    series = load_series(config)
    assert series.ready_label is None
    assert series.true_probability is None
    label, _ = label_and_persistence(series, config)
    rain = series.precipitation_mm
    assert rain is not None
    for row in range(0, 300, 7):
        assert label[row] == (np.round(rain[row + 1 : row + 5], 6).sum() >= 0.1)


def test_its_own_event_keeps_the_true_probability() -> None:
    config = DataConfig()
    config.synthetic.start = "2023-01-01"
    assert load_series(config).true_probability is not None
