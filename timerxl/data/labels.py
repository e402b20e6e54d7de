"""Exact rain labels, persistence, and the check that no feature gives the label away."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from timerxl.config import DataConfig, InputError
from timerxl.data.series import WeatherSeries

# Sums of floats miss a threshold that a gauge can report (0.1 mm); sums of integers can't.
UNITS_PER_MM = 1_000_000
LEAK_AUC = 0.99
LEAK_ROWS = 20_000
LEAK_MIN_PER_CLASS = 10


def horizon_steps(series: WeatherSeries, horizon_hours: float) -> int:
    """The horizon in steps; InputError where it is no positive multiple of the step."""
    return whole_steps(horizon_hours, series.step_hours)


def whole_steps(horizon_hours: float, step_hours: float) -> int:
    """The same for a step of ``step_hours``."""
    horizon, step = round(horizon_hours * 3600), round(step_hours * 3600)
    if horizon < step or horizon % step:
        raise InputError(
            f"data.label_horizon_hours is {horizon_hours:g}; expected a multiple of the series' "
            f"step of {step_hours:g} hours."
        )
    return horizon // step


def _rain_sums(series: WeatherSeries) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative rain (integer units) and count of missing values before each row, [R + 1]."""
    if series.precipitation_mm is None:
        raise InputError(
            "the series holds no precipitation to make labels from; give "
            "data.precipitation_column, or data.label_column for a ready label."
        )
    missing = np.isnan(series.precipitation_mm)
    units = np.rint(np.where(missing, 0.0, series.precipitation_mm) * UNITS_PER_MM)
    rain = np.concatenate([[0], np.cumsum(units.astype(np.int64))])
    return rain, np.concatenate([[0], np.cumsum(missing)])


def _threshold_units(threshold_mm: float) -> int:
    return round(threshold_mm * UNITS_PER_MM)


def rain_before(series: WeatherSeries, horizon_hours: float, threshold_mm: float) -> np.ndarray:
    """[R] float64: 1 where the rain in (t - h, t] reaches ``threshold_mm``, else 0.

    NaN unless all steps of (t - h, t] are rows of the same region without a gap, each measured.
    Exact: precipitation is rounded to 1e-6 mm and summed as integers. Raises InputError where the
    horizon is no multiple of the step or the series holds no precipitation.
    """
    steps = horizon_steps(series, horizon_hours)
    rain, missing = _rain_sums(series)
    rows = np.arange(len(series.region_index))
    complete = rows - series.segment_first_rows() >= steps - 1
    first = np.where(complete, rows - steps + 1, rows)
    measured = complete & (missing[rows + 1] == missing[first])
    wet = rain[rows + 1] - rain[first] >= _threshold_units(threshold_mm)
    return np.where(measured, wet.astype(np.float64), np.nan)


def _shift(series: WeatherSeries, values: np.ndarray, steps: int) -> np.ndarray:
    """[R]: the value ``steps`` rows later (earlier if negative) in the same unbroken stretch."""
    first = series.segment_first_rows()
    shifted = np.full(len(values), np.nan)
    size = max(len(values) - abs(steps), 0)
    here, there = (0, steps) if steps >= 0 else (-steps, 0)
    same = first[here : here + size] == first[there : there + size]
    shifted[here : here + size] = np.where(same, values[there : there + size], np.nan)
    return shifted


def labels(series: WeatherSeries, horizon_hours: float, threshold_mm: float) -> np.ndarray:
    """[R] float64: 1 where the rain in (t, t + h] reaches ``threshold_mm``, else 0; NaN if unknown.

    Made from ``precipitation_mm``, as :func:`rain_before` of the row h later, with its errors.
    """
    before = rain_before(series, horizon_hours, threshold_mm)
    return _shift(series, before, horizon_steps(series, horizon_hours))


def stacked_labels(series: WeatherSeries, horizon_hours: float, threshold_mm: float) -> np.ndarray:
    """[R] float64: the naive label of ``data.split=rows``, over the next rows of the stacked table.

    It runs over the borders of regions and over gaps, and sums what is left at the table's end:
    what a table without its region column gives. NaN where one of those rows is not measured.
    """
    steps = horizon_steps(series, horizon_hours)
    rain, missing = _rain_sums(series)
    rows = np.arange(len(series.region_index))
    last = np.minimum(rows + steps, len(rows) - 1)
    wet = rain[last + 1] - rain[rows + 1] >= _threshold_units(threshold_mm)
    return np.where(missing[last + 1] == missing[rows + 1], wet.astype(np.float64), np.nan)


def label_and_persistence(
    series: WeatherSeries, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The label of (t, t + h] and the same event of (t - h, t], both [R] float64 0/1/NaN.

    A ready label is taken as it is, and its persistence is the label of the row h earlier: what
    it calls rain need not be what the precipitation column adds up to.
    """
    hours, threshold = config.label_horizon_hours, config.rain_threshold_mm
    if series.ready_label is not None:
        steps = horizon_steps(series, hours)
        return series.ready_label, _shift(series, series.ready_label, -steps)
    before = rain_before(series, hours, threshold)
    make = stacked_labels if config.split == "rows" else labels
    return make(series, hours, threshold), before


def check_leaks(
    series: WeatherSeries, rows: np.ndarray, label: np.ndarray, seed: int = 0
) -> list[str]:
    """Refuse a feature that alone tells the label: AUC above 0.99 or below 0.01 at issue time.

    ``rows`` are the training issue rows and ``label`` [R] their labels; at most 20,000 seeded rows
    are ranked. Returns notes: a sentence if there are too few labels of a class to judge. Raises
    InputError naming the feature.
    """
    if len(rows) > LEAK_ROWS:
        rows = np.random.default_rng(seed).choice(rows, LEAK_ROWS, replace=False)
    wet = label[rows] == 1
    if min(wet.sum(), (~wet).sum()) < LEAK_MIN_PER_CLASS:
        return [
            f"fewer than {LEAK_MIN_PER_CLASS} training labels of one class: features were not "
            "checked for leaks of the label."
        ]
    for name, column in zip(series.feature_names, series.values[rows].T, strict=True):
        known = ~np.isnan(column)
        if min((wet & known).sum(), (~wet & known).sum()) < LEAK_MIN_PER_CLASS:
            continue
        auc = float(roc_auc_score(wet[known], column[known]))
        if auc > LEAK_AUC or auc < 1 - LEAK_AUC:
            raise InputError(
                f"feature {name} alone tells the label (ROC-AUC {auc:.4f} at issue time): it "
                "looks like the label itself; leave it out of data.features."
            )
    return []
