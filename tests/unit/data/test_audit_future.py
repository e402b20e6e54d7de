"""Features that look ahead are found; measured and synthetic weather is not taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.audit.auditor import cut_windows
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.label_checks import check_future, name_hints
from timerxl.data.readers import read_table
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic import FEATURE_NAMES, synthetic_series

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
BEIJING = SHARED / "data" / "beijing_hourly_2013_2017.parquet"


def series_of(columns: dict[str, Any], rain: np.ndarray, regions: int = 1) -> WeatherSeries:
    """Hourly regions of equal length, their rows stacked."""
    rows = len(rain)
    hours = np.tile(np.arange(rows // regions), regions)
    return WeatherSeries(
        feature_names=list(columns),
        regions=[f"R{i}" for i in range(regions)],
        values=np.stack(list(columns.values()), axis=1).astype(np.float32),
        region_index=np.repeat(np.arange(regions), rows // regions),
        timestamps=np.datetime64("2020-01-01T00", "s") + hours * np.timedelta64(3600, "s"),
        precipitation_mm=rain.astype(np.float64),
        ready_label=None,
        true_probability=None,
        step_hours=1.0,
        precipitation_feature=None,
        is_synthetic=False,
        source={},
        notes=[],
    )


def audit_of(series: WeatherSeries, **data: Any) -> Audit:
    subject = Subject(series, DataConfig(**({"path": "table.csv"} | data)), 24, "a test")
    cut_windows(subject)
    audit = Audit()
    check_future(subject, audit)
    return audit


def showers(rows: int, seed: int = 0) -> np.ndarray:
    """Hourly rain in spells: wet about one hour in ten, multiples of 0.1 mm."""
    rng = np.random.default_rng(seed)
    state = np.zeros(rows)
    for t in range(1, rows):
        state[t] = 0.97 * state[t - 1] + 0.24 * rng.normal()
    return np.where(state > 1.2, np.round(rng.exponential(2, rows) + 0.1, 1), 0.0)


RAIN = showers(6000)
NOISE = np.random.default_rng(1).normal(size=6000)


def ahead_of(rain: np.ndarray, hours: int) -> np.ndarray:
    return pd.Series(rain).rolling(hours).sum().shift(-hours).fillna(0).to_numpy()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sum_ahead", ahead_of(RAIN, 24) + 3 * np.abs(NOISE)),
        ("half_a_day_ahead", ahead_of(RAIN, 12)),
        ("shifted", np.roll(RAIN, -1)),
        ("shifted_noisy", np.roll(RAIN, -6) + 0.1 * NOISE),
    ],
)
def test_a_feature_that_looks_ahead_is_found(name: str, values: np.ndarray) -> None:
    behind = pd.Series(RAIN).rolling(24, min_periods=1).sum().to_numpy()
    columns = {"rain": RAIN, "sum_24h": behind, "lag": np.roll(RAIN, 3), "noise": NOISE}
    series = series_of(columns | {name: values}, RAIN)
    (finding,) = audit_of(series).findings
    assert (finding.severity, finding.name) == ("fault", "features_contain_the_future")
    assert list(finding.evidence["features"]) == [name]
    assert audit_of(series_of(columns, RAIN)).findings == []


def test_the_lead_of_a_shifted_feature_is_told() -> None:
    (finding,) = audit_of(series_of({"x": np.roll(RAIN, -6)}, RAIN)).findings
    assert "x (" in finding.summary
    assert "repeats the precipitation 6 steps later" in finding.summary


@pytest.mark.parametrize("step", [1, 6, 12])
def test_the_synthetic_features_do_not_look_ahead(step: int) -> None:
    years = "2014-12-31" if step == 1 else "2018-12-31"
    series = synthetic_series(SyntheticConfig(step_hours=step, end=years, seed=step))
    audit = audit_of(series, path=None)
    assert audit.findings == []
    assert [row["feature"] for row in audit.facts["features"]] == FEATURE_NAMES


@pytest.mark.skipif(not BEIJING.is_file(), reason="the Beijing table is not on this machine")
def test_measured_weather_does_not_look_ahead() -> None:
    data: dict[str, Any] = {"path": str(BEIJING), "max_fill_hours": 72.0}
    audit = audit_of(read_table(DataConfig(**data)), **data)
    assert audit.findings == []


@pytest.mark.parametrize(
    ("name", "is_hint"),
    [
        ("rain_24h", True),
        ("tp_next_24h", True),
        ("rainTomorrow", True),
        ("tp_lead_24", True),
        ("forecast", True),
        ("target", True),
        ("tp_sum_24h", False),
        ("leaded", False),
        ("tcwv_lag_24h", False),
        ("labelled_by", True),
    ]
    + [(name, False) for name in FEATURE_NAMES],
)
def test_names_that_speak_of_the_future(name: str, is_hint: bool) -> None:
    assert name_hints(name) == is_hint


def test_a_name_alone_is_a_warning() -> None:
    audit = audit_of(series_of({"noise_tomorrow": NOISE, "b": RAIN}, RAIN))
    assert [(f.name, f.severity) for f in audit.findings] == [
        ("feature_names_say_future", "warning")
    ]
