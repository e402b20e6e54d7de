"""Labels against decimal arithmetic and naive loops; persistence; leaks."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import DataConfig, InputError
from timerxl.data.preprocessing import (
    check_leaks,
    label_and_persistence,
    labels,
    rain_before,
    stacked_labels,
)
from timerxl.data.readers import load_series
from timerxl.data.series import WeatherSeries

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
BEIJING = SHARED / "data" / "beijing_hourly_2013_2017.parquet"


def make_series(
    stretches: list[tuple[int, int, list[Decimal | None]]], **changes: Any
) -> WeatherSeries:
    """Hourly series of (region, first hour, rain in mm or None) stretches."""
    region, hours, rain = [], [], []
    for index, first, amounts in stretches:
        region += [index] * len(amounts)
        hours += list(range(first, first + len(amounts)))
        rain += [np.nan if amount is None else float(amount) for amount in amounts]
    fields: dict[str, Any] = {
        "feature_names": ["p"],
        "regions": [f"R{i}" for i in range(max(region) + 1)],
        "values": np.array(rain, dtype=np.float32)[:, None],
        "region_index": np.array(region, dtype=np.int64),
        "timestamps": np.datetime64("2020-01-01T00", "s")
        + np.array(hours) * np.timedelta64(3600, "s"),
        "precipitation_mm": np.array(rain, dtype=np.float64),
        "ready_label": None,
        "true_probability": None,
        "step_hours": 1.0,
        "precipitation_feature": "p",
        "is_synthetic": False,
        "source": {},
        "notes": [],
    }
    return WeatherSeries(**(fields | changes))


amounts = st.lists(
    st.one_of(st.none(), st.integers(0, 6).map(lambda tenths: Decimal(tenths) / 10)),
    min_size=1,
    max_size=12,
)


@st.composite
def stretches(draw: st.DrawFn) -> list[tuple[int, int, list[Decimal | None]]]:
    """One to three regions of one to three stretches with gaps of 1 to 3 hours between them."""
    drawn = []
    for region in range(draw(st.integers(1, 3))):
        hour = draw(st.integers(0, 5))
        for _ in range(draw(st.integers(1, 3))):
            rain = draw(amounts)
            drawn.append((region, hour, rain))
            hour += len(rain) + draw(st.integers(1, 3))
    return drawn


def naive(
    parts: list[tuple[int, int, list[Decimal | None]]], steps: int, threshold: Decimal, after: bool
) -> list[float]:
    """Look every hour up in a dictionary keyed by region and hour; exact decimals."""
    known = {
        (region, first + i): amount
        for region, first, rain in parts
        for i, amount in enumerate(rain)
    }
    answer = []
    for region, first, rain in parts:
        for t in range(first, first + len(rain)):
            hours = range(t + 1, t + steps + 1) if after else range(t - steps + 1, t + 1)
            found = [known.get((region, hour)) for hour in hours]
            if any(amount is None for amount in found):
                answer.append(np.nan)
            else:
                answer.append(float(sum(filter(None, found)) >= threshold))
    return answer


@settings(deadline=None, max_examples=150)
@given(stretches(), st.integers(1, 5), st.integers(1, 12))
def test_labels_equal_a_naive_loop_in_decimals(
    parts: list[tuple[int, int, list[Decimal | None]]], steps: int, tenths: int
) -> None:
    series, threshold = make_series(parts), Decimal(tenths) / 10
    after = labels(series, steps, float(threshold))
    before = rain_before(series, steps, float(threshold))
    np.testing.assert_array_equal(after, naive(parts, steps, threshold, after=True))
    np.testing.assert_array_equal(before, naive(parts, steps, threshold, after=False))


@settings(deadline=None, max_examples=50)
@given(stretches(), st.integers(1, 5), st.integers(1, 12))
def test_stacked_labels_run_over_every_border(
    parts: list[tuple[int, int, list[Decimal | None]]], steps: int, tenths: int
) -> None:
    rain = [amount for _, _, part in parts for amount in part]
    expected = []
    for row in range(len(rain)):
        ahead = rain[row + 1 : row + 1 + steps]
        known = [amount for amount in ahead if amount is not None]
        wet = float(sum(known, Decimal(0)) >= Decimal(tenths) / 10)
        expected.append(wet if len(known) == len(ahead) else np.nan)
    found = stacked_labels(make_series(parts), steps, tenths / 10)
    np.testing.assert_array_equal(found, expected)


def test_a_float_sum_would_miss_the_threshold() -> None:
    rain = [Decimal(0), Decimal("0.7"), Decimal("0.1"), Decimal("0.1"), Decimal("0.1")]
    assert sum(map(float, rain)) < 1.0  # what the integers are for
    assert labels(make_series([(0, 0, rain)]), 4, 1.0)[0] == 1
    assert labels(make_series([(0, 0, rain)]), 4, 1.000001)[0] == 0


@pytest.mark.parametrize("hours", [0.5, 1.5, 0.0])
def test_horizon_must_be_a_multiple_of_the_step(hours: float) -> None:
    with pytest.raises(InputError, match=r"label_horizon_hours .* multiple of the series' step"):
        labels(make_series([(0, 0, [Decimal(0)] * 5)]), hours, 0.1)


def test_no_precipitation_no_label() -> None:
    series = make_series([(0, 0, [Decimal(0)] * 5)], precipitation_mm=None, ready_label=np.zeros(5))
    with pytest.raises(InputError, match="holds no precipitation"):
        labels(series, 1, 0.1)


def test_a_ready_label_is_its_own_persistence() -> None:
    ready = np.array([1.0, 0.0, np.nan, 1.0, 0.0, 1.0])
    parts = [(0, 0, [Decimal(0)] * 4), (1, 0, [Decimal(0)] * 2)]
    series = make_series(parts, ready_label=ready)
    label, before = label_and_persistence(series, DataConfig(label_horizon_hours=2.0))
    np.testing.assert_array_equal(label, ready)
    np.testing.assert_array_equal(before, [np.nan, np.nan, 1, 0, np.nan, np.nan])


def leaky(shift: float, rows: int = 400) -> tuple[WeatherSeries, np.ndarray]:
    rng = np.random.default_rng(3)
    label = (rng.random(rows) < 0.3).astype(float)
    series = make_series(
        [(0, 0, [Decimal(0)] * rows)],
        feature_names=["noise", "secret"],
        values=np.stack([rng.random(rows), rng.random(rows) + shift * label], 1).astype("float32"),
        precipitation_feature=None,
    )
    return series, label


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_a_feature_that_tells_the_label_is_named(shift: float) -> None:
    series, label = leaky(shift)
    with pytest.raises(InputError, match=r"feature secret alone tells the label"):
        check_leaks(series, np.arange(400), label)


def test_a_good_but_honest_feature_passes() -> None:
    series, label = leaky(0.5)  # AUC about 0.875
    assert check_leaks(series, np.arange(400), label) == []
    few = np.concatenate([np.flatnonzero(label == 1)[:5], np.flatnonzero(label == 0)[:50]])
    assert "not checked" in check_leaks(series, few, label)[0]


@pytest.mark.skipif(not BEIJING.is_file(), reason="the Beijing table is not at hand")
def test_beijing_rain_share_is_exact_at_the_gauge_threshold() -> None:
    series = load_series(DataConfig(path=str(BEIJING)))
    found = labels(series, 24, 0.1)
    # Independent: whole tenths per hour and pandas' rolling sum over integers, per region.
    table = pd.read_parquet(BEIJING)
    tenths = (table["precipitation"].astype("float64") * 10).round()
    by_region = tenths.groupby(table["region"], observed=True)
    sums = by_region.transform(lambda rain: rain.rolling(24).sum().shift(-24)).to_numpy()
    expected = np.where(np.isnan(sums), np.nan, sums >= 1)
    order = np.argsort(pd.factorize(table["region"])[0], kind="stable")
    np.testing.assert_array_equal(found, expected[order])
    twelve_hourly = series.timestamps.astype(np.int64) % (12 * 3600) == 0
    above = labels(series, 24, 0.100001)
    assert np.nanmean(found[twelve_hourly]) == pytest.approx(0.193, abs=5e-4)
    assert np.nanmean(above[twelve_hourly]) == pytest.approx(0.177, abs=5e-4)
