"""Scaling and static features against hand calculation."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.preprocessing import fit_scaling, scale, static_features
from timerxl.data.series import WeatherSeries


def make_series() -> WeatherSeries:
    """Sixty hours of one region; feature 0 is the precipitation."""
    rng = np.random.default_rng(1)
    return WeatherSeries(
        feature_names=["rain", "f1", "f2", "f3"],
        regions=["R"],
        values=rng.gamma(2.0, 3.0, size=(60, 4)).astype(np.float32),
        region_index=np.zeros(60, dtype=np.int64),
        timestamps=np.datetime64("2020-01-01T00", "s") + np.arange(60) * np.timedelta64(3600, "s"),
        precipitation_mm=np.zeros(60),
        ready_label=None,
        true_probability=None,
        step_hours=1.0,
        precipitation_feature="rain",
        is_synthetic=False,
        source={},
        notes=[],
    )


def test_precipitation_goes_through_a_logarithm_and_back() -> None:
    series = make_series()
    scaling, notes = fit_scaling(series, np.arange(40), log1p_precipitation=True)
    assert (scaling["log1p"], notes) == (["rain"], [])
    logs = [math.log(1 + amount) for amount in series.values[:40, 0].tolist()]
    mean = sum(logs) / 40
    std = math.sqrt(sum((value - mean) ** 2 for value in logs) / 40)
    assert scaling["mean"][0] == pytest.approx(mean)
    assert scaling["std"][0] == pytest.approx(std)
    scaled = scale(series.values, series.feature_names, scaling)
    np.testing.assert_allclose(np.expm1(scaled[:, 0] * std + mean), series.values[:, 0], rtol=1e-4)


def test_static_features_by_hand() -> None:
    times = np.array(["2020-01-01T00", "2020-07-01T18", "2021-12-31T12"], dtype="datetime64[s]")
    names = ["north", "south"]
    series = SimpleNamespace(timestamps=times, region_index=np.array([1, 0, 1]), regions=names)
    found, names = static_features(series, names)
    assert names[:4] == ["season_sin", "season_cos", "hour_sin", "hour_cos"]
    assert names[4:] == ["region_north", "region_south"]
    elapsed = [0.0, (182 + 18 / 24) / 366, (364 + 12 / 24) / 365]
    for row, (year, day, region) in enumerate(
        zip(elapsed, [0, 18 / 24, 12 / 24], [[0, 1], [1, 0], [0, 1]], strict=True)
    ):
        cycles = [f(2 * math.pi * part) for part in (year, day) for f in (math.sin, math.cos)]
        np.testing.assert_allclose(found[row], cycles + region, atol=1e-6)


def test_scaling_ignores_missing_values_and_names_constants() -> None:
    series = make_series()
    series.values[3, 1] = np.nan
    series.values[:, 2] = 0.1
    scaling, notes = fit_scaling(series, np.arange(50), log1p_precipitation=False)
    assert scaling["log1p"] == []
    known = np.delete(series.values[:50, 1].astype(np.float64), 3)
    assert scaling["mean"][1] == pytest.approx(known.mean())
    assert scaling["std"][1] == pytest.approx(known.std())
    assert scaling["std"][2] == 1.0
    assert "f2" in notes[0]
    scaled = scale(series.values, series.feature_names, scaling)
    assert scaled.dtype == np.float32
    assert np.isnan(scaled[3, 1])
    assert np.abs(scaled[:, 2]).max() < 1e-6
    series.values[:50, 3] = np.nan
    with pytest.raises(InputError, match="f3: missing in every training row"):
        fit_scaling(series, np.arange(50), log1p_precipitation=True)
