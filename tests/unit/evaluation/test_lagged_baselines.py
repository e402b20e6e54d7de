"""Baselines on lagged values against naive loops; none may see the future."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.evaluation import lagged_models, references
from timerxl.evaluation.lagged_models import GradientBoosting, LogisticBaseline

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
NAN = float("nan")


class Series:
    """Two regions of different length, six-hourly, with missing values and a gap in time."""

    def __init__(self, steps: int = 400) -> None:
        generator = np.random.default_rng(1)
        start = np.datetime64("2020-01-01T00:00:00")
        first = start + np.arange(steps) * np.timedelta64(6 * 3600, "s")
        second = first[: steps - 50].copy()
        second[200:] += np.timedelta64(12 * 3600, "s")
        self.timestamps = np.concatenate([first, second])
        self.region = np.repeat([0, 1], [len(first), len(second)])
        rows = len(self.region)
        self.values = generator.normal(size=(rows, 3)).astype(np.float32)
        self.values[:, 2] = generator.gamma(0.3, 2.0, rows)
        self.values[generator.random((rows, 3)) < 0.05] = np.nan
        # Rain follows what feature 0 did six steps before.
        driver = np.nan_to_num(np.r_[np.zeros(6, np.float32), self.values[:-6, 0]])
        self.label = (driver + 0.3 * generator.normal(size=rows) > 0).astype(float)
        self.rows = np.arange(30, rows, 1)

    def fit(self, rows: np.ndarray | None = None, **options: object) -> GradientBoosting:
        rows = self.rows if rows is None else rows
        return GradientBoosting(6.0, seed=3, precipitation_column=2, **options).fit(  # type: ignore[arg-type]
            self.values, rows, self.region, self.timestamps, self.label
        )

    def fit_logistic(self, rows: np.ndarray | None = None, **options: object) -> LogisticBaseline:
        rows = self.rows if rows is None else rows
        return LogisticBaseline(6.0, precipitation_column=2, **options).fit(  # type: ignore[arg-type]
            self.values, rows, self.region, self.timestamps, self.label
        )


def test_lagged_inputs_agree_with_a_naive_loop() -> None:
    series = Series()
    fitted = series.fit()
    every = np.arange(len(series.values))
    found = fitted.features_at(every)
    assert found.shape[1] == len(fitted.feature_names)
    where = {
        (region, stamp): row
        for row, (region, stamp) in enumerate(
            zip(series.region.tolist(), series.timestamps.tolist(), strict=True)
        )
    }
    step = np.timedelta64(6 * 3600, "s").item()

    def back(row: int, steps: int) -> np.ndarray | None:
        """Values ``steps`` before, if region and time lead there without a gap."""
        region, stamp = int(series.region[row]), series.timestamps[row].item()
        path = [where.get((region, stamp - step * k)) for k in range(steps + 1)]
        return None if None in path else series.values[path[-1]]  # type: ignore[index]

    unknown = np.full(3, np.nan, np.float32)
    for row in every:
        expected = [series.values[row]]
        for lag in (1, 2, 3, 6, 12, 24):
            value = back(row, lag)
            expected.append(unknown if value is None else value)
        for width in (4, 12, 28):  # 24, 72 and 168 h; 6 h is the value itself
            past = [back(row, k) for k in range(width)]
            if any(value is None for value in past):
                expected.append(unknown)
                continue
            summary = pd.DataFrame(np.stack(past)).astype(float).mean()  # type: ignore[arg-type]
            summary[2] = pd.DataFrame(np.stack(past)).astype(float)[2].sum()  # type: ignore[arg-type]
            expected.append(summary.to_numpy(np.float32))
        np.testing.assert_allclose(found[row, :-5], np.concatenate(expected), atol=2e-6)
    names = fitted.feature_names
    assert names[3 + 3 * 3] == "value[0] lag 6"
    assert names[-6] == "value[2] sum 168 h"
    assert names[-7] == "value[1] mean 168 h"
    assert found[:, -1].tolist() == series.region.tolist()
    stamps = pd.DatetimeIndex(series.timestamps)
    np.testing.assert_allclose(found[:, -3], np.sin(2 * np.pi * stamps.hour / 24), atol=1e-5)
    assert np.corrcoef(found[:, -4], np.cos(2 * np.pi * stamps.day_of_year / 365.25))[0, 1] > 0.999


def test_the_future_changes_nothing() -> None:
    series = Series()
    rows = series.rows[:200]
    issued = np.array([60, 200, 229])
    before = series.fit(rows)
    forecast, inputs = before.predict(issued), before.features_at(issued)
    series.values[230:] = 1e4
    series.label[230:] = 1 - series.label[230:]
    after = series.fit(rows)
    np.testing.assert_array_equal(after.features_at(issued), inputs)
    np.testing.assert_array_equal(after.predict(issued), forecast)
    series.values[229] = 50.0  # the present does count
    assert not np.array_equal(series.fit(rows).features_at(issued)[2], inputs[2])


def test_it_learns_a_lag_and_repeats_itself() -> None:
    series = Series(1500)
    train, test = series.rows[:1200], series.rows[1500:]
    first = series.fit(train).predict(test)
    assert ((first >= 0) & (first <= 1)).all()
    assert roc_auc_score(series.label[test], first) > 0.93
    np.testing.assert_array_equal(series.fit(train).predict(test), first)
    without = series.fit(train, lags=(1, 2), trailing_hours=()).predict(test)
    assert roc_auc_score(series.label[test], without) < 0.6


def test_inputs_reach_no_further_than_the_context() -> None:
    series = Series()
    short = series.fit(context_length=12)
    assert short.lags == [1, 2, 3, 6]  # the twelfth step before is the 13th value
    assert short.widths == [4, 12]
    assert series.fit(context_length=13).lags == [1, 2, 3, 6, 12]
    lone = series.fit(context_length=1)
    assert (lone.lags, lone.widths) == ([], [])
    assert lone.features_at(series.rows).shape == (len(series.rows), 3 + 5)
    assert GradientBoosting(12.0).widths == [2, 6, 14]


def test_more_regions_than_categories_are_a_plain_number() -> None:
    rows = 300 * 10
    generator = np.random.default_rng(0)
    values = generator.normal(size=(rows, 1)).astype(np.float32)
    region = np.repeat(np.arange(300), 10)
    stamps = np.tile(np.datetime64("2020-01-01T00:00:00") + np.arange(10) * 3600, 300)
    label = (values[:, 0] > 0).astype(float)
    fitted = GradientBoosting(1.0).fit(values, np.arange(rows), region, stamps, label)
    assert roc_auc_score(label, fitted.predict(np.arange(rows))) > 0.99


def test_gradient_boosting_refuses_what_does_not_fit() -> None:
    series = Series()
    with pytest.raises(NotFittedError):
        GradientBoosting(6.0).predict(np.array([1]))
    series.label[40] = NAN
    with pytest.raises(InputError, match="1 training rows have no label"):
        series.fit()
    series.label[:] = 1.0
    with pytest.raises(InputError, match="hold one class"):
        series.fit()
    series.label = series.label[series.rows]
    with pytest.raises(InputError, match="not for each window"):
        series.fit()
    series = Series()
    series.values[5, 1] = np.inf
    with pytest.raises(InputError, match="infinite"):
        series.fit()
    series.timestamps = series.timestamps[:-1]
    with pytest.raises(InputError, match="belong together"):
        series.fit()


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "data/beijing_hourly_2013_2017.parquet").exists(), reason="no shared data"
)
def test_skill_on_eight_real_stations() -> None:
    """Rain within 24 h, a window every 12 h with 14 days of context, split by time."""
    table = pd.read_parquet(SHARED / "data/beijing_hourly_2013_2017.parquet")
    timestamps = table["timestamp"].to_numpy().astype("datetime64[s]")
    region = pd.factorize(table["region"])[0]
    values = table.select_dtypes("number").to_numpy(np.float32)
    tenths = (table["precipitation"].astype(float) * 10).round()
    ahead = tenths.groupby(region).transform(lambda rain: rain.rolling(24).sum().shift(-24))
    label = (ahead >= 1).astype(float).where(ahead.notna()).to_numpy()
    position = table.groupby(region).cumcount().to_numpy()
    issued = (position >= 335) & ~np.isnan(label)
    issued &= timestamps.astype("int64") % (12 * 3600) == 0
    times = np.unique(timestamps[issued])
    horizon = np.timedelta64(24, "h")
    cut, end = times[int(0.70 * len(times))], times[int(0.85 * len(times))]
    train = np.flatnonzero(issued & (timestamps + horizon <= cut))
    validation = np.flatnonzero(issued & (timestamps >= cut) & (timestamps + horizon <= end))
    began = time.perf_counter()
    trees = GradientBoosting(
        1.0, seed=0, context_length=336, precipitation_column=values.shape[1] - 1
    ).fit(values, train, region, timestamps, label)
    assert time.perf_counter() - began < 60
    assert roc_auc_score(label[validation], trees.predict(validation)) > 0.835
    line = LogisticBaseline(1.0, context_length=336, precipitation_column=values.shape[1] - 1).fit(
        values, train, region, timestamps, label
    )
    assert roc_auc_score(label[validation], line.predict(validation)) > 0.835


def test_logistic_regression_learns_a_lag_and_sees_no_future() -> None:
    series = Series(1500)
    train, test = series.rows[:1200], series.rows[1500:]
    fitted = series.fit_logistic(train)
    forecast = fitted.predict(test)
    assert roc_auc_score(series.label[test], forecast) > 0.93
    assert fitted.C in (1e-2, 1e-1, 1.0)
    without = series.fit_logistic(train, lags=(1, 2), trailing_hours=()).predict(test)
    assert roc_auc_score(series.label[test], without) < 0.6
    issued = train[-20:]
    before = fitted.predict(issued)
    series.values[train[-1] + 1 :] = 1e4
    series.label[train[-1] + 1 :] = 1 - series.label[train[-1] + 1 :]
    np.testing.assert_allclose(series.fit_logistic(train).predict(issued), before, atol=1e-12)


def test_logistic_inputs_are_standardised_and_say_what_is_missing() -> None:
    series = Series(400)
    fitted = series.fit_logistic()
    raw = fitted.features_at(series.rows)
    inputs = fitted._prepared(raw)
    plain = raw[:, :-1].astype(float)
    missing = np.isnan(plain)
    patterns = {column.tobytes() for column in missing.T if column.any()}
    width = plain.shape[1]
    assert inputs.shape[1] == width + len(patterns) + 2  # two regions
    expected = np.clip((plain - np.nanmean(plain, axis=0)) / np.nanstd(plain, axis=0), -8, 8)
    np.testing.assert_allclose(inputs[:, :width], np.where(missing, 0, expected), atol=1e-6)
    told = {column.astype(bool).tobytes() for column in inputs[:, width:-2].T}
    assert told == patterns
    assert (inputs[:, -2:].argmax(axis=1) == series.region[series.rows]).all()
    # An unknown region, a constant feature and one that is always missing do no harm.
    series.values[:, 0], series.values[:, 1] = 1e5 + 0.1, np.nan
    odd = series.fit_logistic(np.arange(30, 400))
    forecast = odd.predict(np.arange(500, 700))
    assert np.isfinite(odd._prepared(odd.features_at(np.arange(500, 700)))).all()
    assert ((forecast > 0) & (forecast < 1)).all()


def test_logistic_regression_finds_the_strength_by_late_log_loss() -> None:
    """Noise alone asks for the strongest penalty: the forecast is the base rate, almost."""
    series = Series(600)
    series.label = np.random.default_rng(5).integers(0, 2, len(series.label)).astype(float)
    fitted = series.fit_logistic()
    assert fitted.C <= 1e-3
    assert np.abs(fitted.predict(series.rows) - 0.5).max() < 0.1


def test_logistic_regression_refuses_what_does_not_fit() -> None:
    with pytest.raises(NotFittedError):
        LogisticBaseline(6.0).predict(np.array([1]))
    with pytest.raises(InputError, match="strengths"):
        LogisticBaseline(6.0, strengths=(0.0, 1.0))
    series = Series()
    series.label[:] = 0.0
    with pytest.raises(InputError, match="one class; logistic regression needs"):
        series.fit_logistic()


def test_a_long_series_is_read_by_region_and_tells_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    series = Series()
    fitted = series.fit()
    rows = np.random.default_rng(0).permutation(len(series.values))[:300]
    whole = fitted.features_at(rows)
    monkeypatch.setattr(lagged_models, "MOST_WHOLE_ROWS", 10)
    # Running sums begin with the region, not with the series: other roundings.
    np.testing.assert_allclose(fitted.features_at(rows), whole, rtol=1e-5, atol=1e-6)
    exact = [k for k, name in enumerate(fitted.feature_names) if " h" not in name]
    np.testing.assert_array_equal(fitted.features_at(rows)[:, exact], whole[:, exact])


def test_many_training_windows_are_sampled_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MOST_FITTED", 500)
    config = load_recipe("quickstart", ["data.synthetic.start=2022-01-01", "data.labels=last"])
    windows = build_windows(load_series(config.data), config.data, 56)
    seen, said = [], []
    fit = lagged_models.LaggedBaseline.fit

    def watched(self: Any, values: Any, rows: np.ndarray, *rest: Any) -> Any:
        seen.append(rows)
        return fit(self, values, rows, *rest)

    monkeypatch.setattr(lagged_models.LaggedBaseline, "fit", watched)
    references.fit_lagged(windows, 0, said.append)
    train = windows.issue_rows("train")
    assert len(train) > 1_000
    assert f"on 500 training windows (a sample of {len(train):,})" in said[0]
    for rows in seen:
        assert len(rows) == 500
        assert np.isin(rows, train).all()
        counts = np.bincount(windows.series.region_index[rows])
        assert counts.max() - counts.min() <= 2
    np.testing.assert_array_equal(seen[0], seen[1])
