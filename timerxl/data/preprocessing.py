"""From a series to what a model reads: labels, splits, scaling, and preprocessing.json.

``preprocessing.json`` lies beside the weights and says all of it. A series that is scored or
forecast by that model is read, scaled and cut by it, never by statistics of its own. Shapes: R rows
of the series, C features, S static features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from timerxl.config import DataConfig, InputError, RunConfig, SyntheticConfig, validate
from timerxl.data.enso import ONI_FEATURE
from timerxl.data.neighbours import region_places
from timerxl.data.series import BLOCK_ROWS, Arrays, WeatherSeries, blocks
from timerxl.untrusted import (
    Between,
    Text,
    check_memory,
    listed,
    plain,
    read_json,
    schema_error,
    shape_of,
)

# Sums of floats miss a threshold that a gauge can report (0.1 mm); sums of integers can't.
UNITS_PER_MM = 1_000_000
LEAK_AUC = 0.99
LEAK_ROWS = 20_000
LEAK_MIN_PER_CLASS = 10


def whole_steps(horizon_hours: float, step_hours: float) -> int:
    """Return a horizon in steps; raise InputError where it is no positive multiple of the step."""
    horizon, step = round(horizon_hours * 3600), round(step_hours * 3600)
    if horizon < step or horizon % step:
        raise InputError(
            f"data.label_horizon_hours is {horizon_hours:g}; expected a multiple of the series' "
            f"step of {step_hours:g} hours."
        )
    return horizon // step


def _reaches(
    series: WeatherSeries, threshold_mm: float, first: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """[R] 1 where the rain of rows ``first`` to ``end`` (not included) reaches the threshold, else
    0; NaN where a row is not measured.

    Exact: precipitation is rounded to 1e-6 mm and summed as integers.
    """
    if series.precipitation_mm is None:
        raise InputError(
            "the series holds no precipitation to make labels from; give "
            "data.precipitation_column, or data.label_column for a ready label."
        )
    is_missing = np.isnan(series.precipitation_mm)
    units = np.rint(np.where(is_missing, 0.0, series.precipitation_mm) * UNITS_PER_MM)
    rain = np.concatenate([[0], np.cumsum(units.astype(np.int64))])
    missing = np.concatenate([[0], np.cumsum(is_missing)])
    wet = rain[end] - rain[first] >= round(threshold_mm * UNITS_PER_MM)
    return np.where(missing[end] == missing[first], wet.astype(np.float64), np.nan)


def rain_before(series: WeatherSeries, horizon_hours: float, threshold_mm: float) -> np.ndarray:
    """Return [R] float64: 1 where the rain in (t - h, t] reaches ``threshold_mm``, else 0.

    NaN unless all steps of (t - h, t] are rows of the same region without a gap, each measured.
    Raises InputError where the horizon is no multiple of the step or the series holds no
    precipitation.
    """
    steps = whole_steps(horizon_hours, series.step_hours)
    rows = np.arange(len(series.region_index))
    is_complete = rows - series.segment_first_rows() >= steps - 1
    first = np.where(is_complete, rows - steps + 1, rows)
    return np.where(is_complete, _reaches(series, threshold_mm, first, rows + 1), np.nan)


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
    """Return [R] float64: 1 where the rain in (t, t + h] reaches ``threshold_mm``, else 0; NaN if
    unknown.

    Made from ``precipitation_mm``, as :func:`rain_before` of the row h later, with its errors.
    """
    before = rain_before(series, horizon_hours, threshold_mm)
    return _shift(series, before, whole_steps(horizon_hours, series.step_hours))


def stacked_labels(series: WeatherSeries, horizon_hours: float, threshold_mm: float) -> np.ndarray:
    """Return [R] float64: the naive label of ``data.split=rows``, over the next rows of the stacked
    table.

    It runs over the borders of regions and over gaps, and sums what is left at the table's end:
    what a table without its region column gives. NaN where one of those rows is not measured.
    """
    steps = whole_steps(horizon_hours, series.step_hours)
    next_row = np.arange(len(series.region_index)) + 1
    end = np.minimum(next_row + steps, len(next_row))
    return _reaches(series, threshold_mm, next_row, end)


def next_patch_labels(series: WeatherSeries, patch_length: int) -> np.ndarray:
    """Return [R] float64: 0 where the next ``patch_length`` rows follow without a gap or a missing
    value, else NaN.

    It stands for the label where the target is the next patch, which needs no rain.
    """
    known = np.zeros(len(series.region_index), dtype=bool)
    known[:-patch_length] = steps_behind(series)[patch_length:] > patch_length
    return np.where(known, 0.0, np.nan)


def label_and_persistence(
    series: WeatherSeries, config: DataConfig, arrays: Arrays | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the label of (t, t + h] and the same event of (t - h, t], both [R] float64 0/1/NaN.

    A ready label is taken as it is, and its persistence is the label of the row h earlier: what
    it calls rain need not be what the precipitation column adds up to. They are made region by
    region in ``arrays`` (default: in memory).
    """
    hours, threshold = config.label_horizon_hours, config.rain_threshold_mm
    arrays, count = arrays or Arrays(), len(series.region_index)
    label = arrays.new("label", (count,), "float64")
    before = arrays.new("rained_before", (count,), "float64")
    for rows, part in series.parts():
        if part.ready_label is not None:
            steps = whole_steps(hours, series.step_hours)
            label[rows], before[rows] = part.ready_label, _shift(part, part.ready_label, -steps)
        else:
            before[rows] = rain_before(part, hours, threshold)
            if config.split != "rows":
                steps = whole_steps(hours, series.step_hours)
                label[rows] = _shift(part, before[rows], steps)
    if config.split == "rows" and series.ready_label is None:  # sums run across regions
        label[:] = stacked_labels(series, hours, threshold)
    return label, before


def check_leaks(
    series: WeatherSeries, rows: np.ndarray, label: np.ndarray, seed: int = 0
) -> list[str]:
    """Refuse a leak, a feature that reveals the label: AUC above 0.99 or below 0.01 at issue time.

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


SPLITS = ("train", "validation", "test")
LABELS_SEED = 0  # of data.label_fraction: the same labels whatever the run's seed
HOLDOUT = "holdout"  # beside them where data.holdout_fraction asks for it


@dataclass(frozen=True)
class Split:
    """Issue rows per split, the rows that may set the scaling, and how the cut was made."""

    rows: dict[str, np.ndarray]
    scaling_rows: np.ndarray
    method: dict[str, Any]
    notes: list[str]


def _cut(count: int, fraction: float) -> int:
    # 0.29 * 100 is 28.999999999999996 in binary; the cut means 29.
    return int(count * fraction + 1e-6)


def _on_stride(timestamps: np.ndarray, hours: float | None) -> np.ndarray:
    """[R] bool: times that are multiples of the stride, counted from 1970 for every region."""
    if hours is None:
        return np.ones(len(timestamps), dtype=bool)
    return np.asarray(timestamps.astype(np.int64) % round(hours * 3600) == 0)


def _strides(config: DataConfig) -> dict[str, float | None]:
    """The strides in hours of validation and test, and of training, by their keys."""
    keys = ["window_stride_hours"]
    keys += ["train_stride_hours"] if config.train_stride_hours is not None else []
    for key in keys:
        if (hours := getattr(config, key)) is not None and round(hours * 3600) < 1:
            raise InputError(f"data.{key} is {hours:g}; take one second or more.")
    return {key: getattr(config, key) for key in keys}


def _check_strides(series: WeatherSeries, rows_on: dict[str, int], config: DataConfig) -> None:
    """Raise InputError where no row falls on a stride."""
    for key, count in rows_on.items():
        if not count:
            raise InputError(
                f"no row falls on data.{key} {getattr(config, key):g} (times that "
                f"are multiples of it since 1970, UTC); the first row is at "
                f"{series.timestamps[0]}, the step {series.step_hours:g} h. Take a shorter stride "
                "or null."
            )


def complete_rows(series: WeatherSeries, context_length: int) -> np.ndarray:
    """Return [R] bool: rows that end a full context, in one region, without gap or missing value.

    Raises InputError where no region has ``context_length`` rows in a row.
    """
    check_context(series, context_length)
    return steps_behind(series) >= context_length


def check_context(series: WeatherSeries, context_length: int) -> None:
    """Raise InputError where no region has ``context_length`` rows in a row."""
    longest = np.zeros(len(series.regions), dtype=np.int64)
    for rows, part in series.parts():
        run = np.arange(rows.stop - rows.start) - part.segment_first_rows() + 1
        np.maximum.at(longest, part.region_index, run)
    if longest.max() < context_length:
        others = len(series.regions) - 8
        more = f" (the first 8 of {len(series.regions):,} regions)" if others > 0 else ""
        found = ", ".join(
            f"{plain(name, 80)} {count}"
            for name, count in itertools.islice(zip(series.regions, longest, strict=True), 8)
        )
        raise InputError(
            f"model.context_length {context_length} needs {context_length} rows in a row in one "
            f"region; the longest unbroken stretches are: {found}{more}. Shorten the context or "
            "bring more data."
        )


def steps_behind(series: WeatherSeries) -> np.ndarray:
    """Count [R] steps that end with each row, in one region, without gap or missing value."""
    rows = np.arange(len(series.region_index))
    missing = np.isnan(series.values).any(axis=1)
    last_missing = np.maximum.accumulate(np.where(missing, rows, -1))
    return rows - np.maximum(series.segment_first_rows(), last_missing + 1) + 1


_EVALUATES, _TRAINS = 1, 2  # bits: a row ends a window for validation and test, for training


def split_by_time(
    series: WeatherSeries,
    label: np.ndarray,
    config: DataConfig,
    context_length: int,
    boundaries: tuple[np.datetime64, np.datetime64] | None = None,
    arrays: Arrays | None = None,
) -> Split:
    """Cut at two times common to all regions, with an embargo of one horizon before each.

    With the boundaries b1, b2 taken from the sorted distinct issue times t of all regions and the
    horizon h: train t + h <= b1, validation b1 <= t and t + h <= b2, test b2 <= t. So no label of a
    split reaches into the times of the next one. ``boundaries`` gives (b1, b2) instead. Scaling may
    use the rows up to the last training issue time. With ``holdout_fraction`` the last of the times
    before b1 are not trained on but kept as "holdout", cut and embargoed in the same way. Rows are
    looked at region by region and kept in ``arrays`` (default: in memory). Raises InputError where
    a split would hold no window.
    """
    arrays = arrays or Arrays()
    strides = _strides(config)
    check_context(series, context_length)
    ends = arrays.new("scratch_window_ends", (len(label),), "uint8")
    rows_on = dict.fromkeys(strides, 0)
    complete_on_stride, labelled, count, distinct = 0, 0, 0, series.timestamps[:0]
    for part_rows, part in series.parts():
        complete, known = steps_behind(part) >= context_length, ~np.isnan(label[part_rows])
        on = {key: _on_stride(part.timestamps, hours) for key, hours in strides.items()}
        on_stride = on["window_stride_hours"]
        evaluates = complete & known & on_stride
        trains = complete & known & on.get("train_stride_hours", on_stride)
        ends[part_rows] = _EVALUATES * evaluates + _TRAINS * trains
        rows_on = {key: rows_on[key] + int(on[key].sum()) for key in on}
        complete_on_stride += int((complete & on_stride).sum())
        labelled += int((known & on_stride).sum())
        count += int(evaluates.sum())
        distinct = np.union1d(distinct, part.timestamps[evaluates])
    _check_strides(series, rows_on, config)
    if not count:
        raise InputError(
            f"no window: of {rows_on['window_stride_hours']} rows (on the stride) "
            f"{complete_on_stride} end a full context without missing values, "
            f"{labelled} have a label, none both. Shorten the context, raise "
            "data.max_fill_hours or list fewer data.features."
        )
    cuts = [
        min(_cut(len(distinct), fraction), len(distinct) - 1)
        for fraction in (config.train_fraction, config.train_fraction + config.validation_fraction)
    ]
    b1, b2 = distinct[cuts] if boundaries is None else boundaries
    horizon = np.timedelta64(round(config.label_horizon_hours * 3600), "s")
    before = distinct[distinct < b1]
    kept = len(before) - _cut(len(before), config.holdout_fraction)
    b0 = before[kept] if kept < len(before) else b1  # first of the holdout; b1 where there is none

    def select(name: str, bit: int, first: np.datetime64 | None, last: np.datetime64) -> np.ndarray:
        """Rows whose windows are issued from ``first`` on, with labels up to ``last``."""

        def inside(rows: slice) -> np.ndarray:
            times = series.timestamps[rows]
            found = (ends[rows] & bit > 0) & (times + horizon <= last)
            return found if first is None else found & (times >= first)

        return _rows_where(inside, len(label), f"rows.{name}", arrays)

    forever = series.timestamps.max() + horizon
    chosen = {"train": select("train", _TRAINS, None, b0)}
    if b0 < b1:
        chosen[HOLDOUT] = select(HOLDOUT, _EVALUATES, b0, b1)
    chosen["validation"] = select("validation", _EVALUATES, b1, b2)
    chosen["test"] = select("test", _EVALUATES, b2, forever)
    for name in chosen:
        if not chosen[name].size:
            raise InputError(
                f"the {name} split holds no window: {count} windows at {len(distinct)} times "
                f"{distinct[0]} to {distinct[-1]}, cut at {b1} and {b2} with an embargo of "
                f"{config.label_horizon_hours:g} h. Bring more data, shorten the context or change "
                "data.train_fraction / data.validation_fraction."
            )
    method = {
        "method": "time",
        **({"holdout_from": str(b0)} if b0 < b1 else {}),
        "validation_from": str(b1),
        "test_from": str(b2),
        "embargo_hours": config.label_horizon_hours,
        "window_stride_hours": config.window_stride_hours,
        "train_stride_hours": config.train_stride_hours or config.window_stride_hours,
    }
    used = sum(
        int(((ends[rows] & _EVALUATES > 0) & (series.timestamps[rows] + horizon <= b0)).sum())
        for rows in blocks(len(label))
    )
    used += sum(len(chosen[name]) for name in chosen if name != "train")
    notes = [
        f"{used} windows of {labelled} labelled rows: {labelled - count} "
        f"have no full context (start of a region, gap, missing value), {count - used} stand "
        "in the embargo between two splits."
    ]
    if b0 < b1:
        notes.append(
            f"holdout: {len(chosen[HOLDOUT])} windows from {b0} on, the last of the training "
            "period, are not trained on but watched."
        )
    if config.train_stride_hours is not None:
        notes.append(
            f"training takes a window every {config.train_stride_hours:g} h: "
            f"{len(chosen['train'])}; they overlap, and hold less than as many independent ones."
        )
    last = last_time(series, chosen["train"])
    scaling_rows = _rows_where(
        lambda rows: series.timestamps[rows] <= last, len(label), "scratch_scaling_rows", arrays
    )
    arrays.drop("scratch_window_ends")
    for name in SPLITS:
        windows_in = np.diff(series.region_edges(chosen[name]))
        if absent := [series.regions[i] for i in np.flatnonzero(windows_in == 0)]:
            notes.append(
                f"no {name} window in: {listed(absent, 30)} (too short, gaps or no label)."
            )
    return Split(chosen, scaling_rows, method, notes)


def _rows_where(
    keep: Callable[[slice], np.ndarray], count: int, name: str, arrays: Arrays
) -> np.ndarray:
    """Return int64 [n], ascending: the rows of ``count`` for which ``keep`` of a block is True."""
    sizes = [int(np.count_nonzero(keep(rows))) for rows in blocks(count)]
    found, ends = arrays.new(name, (sum(sizes),), "int64"), np.cumsum(sizes)
    for rows, size, end in zip(blocks(count), sizes, ends, strict=True):
        found[end - size : end] = rows.start + np.flatnonzero(keep(rows))
    return found


def last_time(series: WeatherSeries, rows: np.ndarray) -> np.datetime64:
    """Return the latest time of ``rows``."""
    return max(series.timestamps[rows[block]].max() for block in blocks(len(rows)))


def class_counts(
    series: WeatherSeries, label: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (windows, windows with rain), int64 [G] each, of the ascending ``rows``."""
    edges = series.region_edges(rows)
    wet = [
        int(np.count_nonzero(label[rows[start:end]] == 1))
        for start, end in itertools.pairwise(edges)
    ]
    return np.diff(edges), np.array(wet, dtype=np.int64)


def split_by_rows(
    series: WeatherSeries, label: np.ndarray, config: DataConfig, context_length: int
) -> Split:
    """Cut the stacked table naively, region after region, to compare with published numbers.

    Of R rows the first int(train_fraction R) train, the next int(validation_fraction R) validate,
    the rest test; training issues from row ``context_length`` on, the others from each of their
    rows. Contexts run over borders of regions, gaps and splits. Notes say what is wrong with it.
    """
    total = len(series.region_index)
    train_end = _cut(total, config.train_fraction)
    validation_end = train_end + _cut(total, config.validation_fraction)
    if train_end <= context_length:
        raise InputError(
            f"data.split=rows cuts {train_end} of {total} rows for training; model.context_length "
            f"{context_length} needs more. Shorten the context or bring more data."
        )
    rows = np.arange(total)
    missing = np.concatenate([[0], np.cumsum(np.isnan(series.values).any(axis=1))])
    start = np.maximum(rows - context_length + 1, 0)
    usable = (missing[rows + 1] == missing[start]) & ~np.isnan(label)
    strides = _strides(config)
    on = {key: _on_stride(series.timestamps, hours) for key, hours in strides.items()}
    _check_strides(series, {key: int(of.sum()) for key, of in on.items()}, config)
    on_stride = on["window_stride_hours"]
    train_on_stride = on.get("train_stride_hours", on_stride)
    bounds = {
        "train": (context_length, train_end),
        "validation": (train_end, validation_end),
        "test": (validation_end, total),
    }
    chosen, dropped = {}, 0
    for name, (low, high) in bounds.items():
        stride = train_on_stride if name == "train" else on_stride
        window_rows = rows[low:high][stride[low:high]]
        chosen[name] = window_rows[usable[window_rows]]
        dropped += len(window_rows) - len(chosen[name])
        if not chosen[name].size:
            raise InputError(
                f"the {name} split holds no window: rows {low} to {high} of {total}, "
                f"{len(window_rows)} on the stride, none complete with a label."
            )
    method = {
        "method": "rows",
        "num_rows": {"train": train_end, "validation": validation_end - train_end}
        | {"test": total - validation_end},
        "validation_from": str(series.timestamps[train_end]),
        "validation_from_region": series.regions[series.region_index[train_end]],
        "test_from": str(series.timestamps[validation_end]),
        "test_from_region": series.regions[series.region_index[validation_end]],
        "window_stride_hours": config.window_stride_hours,
        "train_stride_hours": config.train_stride_hours or config.window_stride_hours,
    }
    issued = np.concatenate([chosen[name] for name in SPLITS])
    across = series.region_index[issued] != series.region_index[issued - context_length + 1]
    trained = {series.regions[i] for i in np.unique(series.region_index[:train_end])}
    unseen = [name for name in series.regions if name not in trained]
    warning = (
        f"data.split=rows cuts a table stacked region after region, so the splits are regions, not "
        f"times: {int(across.sum())} of {len(issued)} windows run across two regions, and training "
        f"never sees {listed(unseen, 30) or 'only part of the last region'}; its test score says "
        "little about the future. Use data.split=time."
    )
    notes = [warning]
    if config.holdout_fraction:
        notes.append("data.holdout_fraction is not followed: a cut by rows has no holdout.")
    if dropped:
        notes.append(f"{dropped} windows of data.split=rows left out: a value or label is missing.")
    return Split(chosen, np.arange(train_end), method, notes)


def _keep_labels(split: Split, fraction: float) -> None:
    """Keep a seeded share of the training labels; a smaller share is part of a larger one."""
    rows = split.rows["train"]
    kept = max(1, _cut(len(rows), fraction))
    order = np.random.default_rng(LABELS_SEED).permutation(len(rows))
    split.rows["train"] = rows[np.sort(order[:kept])]
    split.notes.append(
        f"data.label_fraction={fraction:g}: training knows {kept:,} of {len(rows):,} labels."
    )


def make_split(
    series: WeatherSeries,
    label: np.ndarray,
    config: DataConfig,
    context_length: int,
    boundaries: tuple[np.datetime64, np.datetime64] | None = None,
    arrays: Arrays | None = None,
) -> Split:
    """Make the split that ``data.split`` asks for; one class only among training labels is refused.

    ``boundaries``: see :func:`split_by_time`; a cut by rows has none.
    """
    if config.split == "rows":
        split = split_by_rows(series, label, config, context_length)
    else:
        split = split_by_time(series, label, config, context_length, boundaries, arrays)
    if config.label_fraction < 1:
        _keep_labels(split, config.label_fraction)
    counts = {name: class_counts(series, label, split.rows[name]) for name in SPLITS}
    is_equal = {name: wet.sum() in (0, windows.sum()) for name, (windows, wet) in counts.items()}
    if is_equal["train"]:
        windows, wet = counts["train"]
        raise InputError(
            f"all {windows.sum()} training labels are {int(wet.sum() > 0)}: nothing to learn. "
            f"Check data.rain_threshold_mm ({config.rain_threshold_mm:g}), data.precipitation_unit "
            f"({config.precipitation_unit}) or data.label_column."
        )
    for name in SPLITS[1:]:
        if is_equal[name]:
            split.notes.append(f"all {name} labels are equal: its ROC-AUC and MCC say nothing.")
    return split


_DAY = np.timedelta64(1, "D")
NUM_CYCLES = 4  # sine and cosine of the year and of the day, before the regions


def fit_scaling(
    series: WeatherSeries, rows: np.ndarray, log1p_precipitation: bool
) -> tuple[dict[str, list[Any]], list[str]]:
    """Fit mean and standard deviation of each feature over ``rows``, missing values left out.

    Returns ({"mean": [C], "std": [C], "log1p": names}, notes). Precipitation goes through
    log(1 + mm) first if asked for; a feature that never changes is divided by 1 and named.
    """
    log1p = [series.precipitation_feature] if log1p_precipitation else []
    scaling: dict[str, list[Any]] = {"log1p": [name for name in log1p if name is not None]}
    width = len(series.feature_names)
    known, total = np.zeros(width, dtype=np.int64), np.zeros(width)
    for values, missing in _scaled_blocks(series, rows, scaling["log1p"]):
        known += len(values) - missing.sum(axis=0)
        total = _sum_onto(total, values)
    if not known.all():
        empty = [series.feature_names[i] for i in np.flatnonzero(known == 0)]
        raise InputError(
            f"{', '.join(empty)}: missing in every training row, so there is nothing to scale by; "
            "leave it out of data.features."
        )
    mean, squares = total / known, np.zeros(width)
    for values, missing in _scaled_blocks(series, rows, scaling["log1p"]):
        squares = _sum_onto(squares, np.where(missing, 0.0, (values - mean) ** 2))
    std = np.sqrt(squares / known)
    # The mean of equal numbers is off by a rounding, which would make noise look like a signal.
    constant = std <= 1e-9 * np.maximum(np.abs(mean), 1e-9)
    std[constant] = 1.0
    names = [series.feature_names[i] for i in np.flatnonzero(constant)]
    notes = [f"constant over the training rows, not scaled: {', '.join(names)}."] if names else []
    return scaling | {"mean": mean.tolist(), "std": std.tolist()}, notes


def _scaled_blocks(
    series: WeatherSeries, rows: np.ndarray, log1p: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield values [n, C] float64 of the rows, missing ones 0, and where they are missing.

    Of one column all rows at once: numpy sums a single column in pairs, several row by row.
    """
    size = BLOCK_ROWS if len(series.feature_names) > 1 else len(rows)
    for block in blocks(len(rows), size):
        values = _logged(series.values[rows[block]], series.feature_names, log1p)
        missing = np.isnan(values)
        values[missing] = 0.0
        yield values, missing


def _sum_onto(total: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum [C] over the rows of ``values`` [n, C] onto ``total``, in the order of the rows: to the
    bit what one sum over all blocks gives."""
    values[0] += total
    return np.asarray(values.sum(axis=0))


def _logged(values: np.ndarray, feature_names: list[str], log1p: list[str]) -> np.ndarray:
    values = values.astype(np.float64)
    for name in log1p:
        column = feature_names.index(name)
        values[:, column] = np.log1p(values[:, column])
    return values


def scale(
    values: np.ndarray,
    feature_names: list[str],
    scaling: dict[str, list[Any]],
    arrays: Arrays | None = None,
) -> np.ndarray:
    """Scale values [R, C] in physical units to [R, C] float32, in ``arrays`` (default: in memory);
    missing values stay missing."""
    scaled = (arrays or Arrays()).new("scaled", values.shape, "float32")
    for rows in blocks(len(values)):
        logged = _logged(values[rows], feature_names, scaling["log1p"])
        scaled[rows] = (logged - scaling["mean"]) / scaling["std"]
    return scaled


def static_features(series: WeatherSeries, regions: list[str]) -> tuple[np.ndarray, list[str]]:
    """Return [R, S] float32 known at issue time, and names: place in the year, the day, the region.

    Sine and cosine of 2 pi times the elapsed part of the year and of the day, then one column per
    region of ``regions`` with 1 where the row is of that region.
    """
    seconds = series.timestamps
    check_memory(
        13 * len(seconds) * (NUM_CYCLES + len(regions)),
        f"a column for each of {len(regions):,} regions (data.static_features)",
    )
    year, day = seconds.astype("datetime64[Y]"), seconds.astype("datetime64[D]")
    year_start, year_end = year.astype("datetime64[s]"), (year + 1).astype("datetime64[s]")
    season = 2 * np.pi * ((seconds - year_start) / (year_end - year_start))
    hour = 2 * np.pi * ((seconds - day) / _DAY)
    cycles = np.stack([np.sin(season), np.cos(season), np.sin(hour), np.cos(hour)], axis=1)
    place = {name: index for index, name in enumerate(regions)}
    own = np.array([place[name] for name in series.regions])[series.region_index]
    names = ["season_sin", "season_cos", "hour_sin", "hour_cos"]
    names += [f"region_{name}" for name in regions]
    one_hot = own[:, None] == np.arange(len(regions))
    return np.concatenate([cycles, one_hot], axis=1).astype(np.float32), names


# Fewer values that are not 0 have no typical size: for training any three widen what is known, a
# table must bring ten to be judged by it.
LEAST_NONZERO_TRAINED, LEAST_NONZERO_JUDGED = 3, 10
STATISTICS = ("min", "max", "mean", "std", "q01", "q99", "size_low", "size", "size_high")
MOST_NUMBERS = 250_000  # of all regions together: some 2 MB of JSON
_SECONDS_A_DAY = 86_400
_HOUR = Between(0.0, 24.0)
_RANGES_SHAPE = {
    "days": Between(0.0, 4e6),
    "step_offsets_hours": [_HOUR],
    "issue_hours": [_HOUR],
    "by_region": dict,
}
_NUMBER = Between(-1e38, 1e38)  # what float32 holds


def training_ranges(
    series: WeatherSeries, rows: np.ndarray, issue_rows: np.ndarray, block_steps: int
) -> dict[str, Any]:
    """Return ranges over the training ``rows``, and the hours (UTC) at which its steps and windows
    stand.

    ``by_region`` holds :func:`describe` of each region that has rows (of very many an even sample:
    the others of a later table are held against all of these), ``days`` the time they cover,
    ``step_offsets_hours`` the ends of steps after midnight, modulo the step, and ``issue_hours``
    the hours of the day at which the windows of ``issue_rows`` are issued.
    """
    by_region = {}
    edges = series.region_edges(rows)
    present = np.flatnonzero(np.diff(edges))
    most = max(1, MOST_NUMBERS // (len(STATISTICS) * len(series.feature_names)))
    for place in even_sample(len(present), most):
        region = present[place]
        values = series.values[rows[edges[region] : edges[region + 1]]]
        by_region[series.regions[region]] = describe(values, block_steps, LEAST_NONZERO_TRAINED)
    first = min(series.timestamps[rows[block]].min() for block in blocks(len(rows)))
    return {
        "days": float((last_time(series, rows) - first) / np.timedelta64(1, "D")),
        "step_offsets_hours": _step_offsets_of(series, rows, series.step_hours),
        "issue_hours": _step_offsets_of(series, issue_rows, 24.0),
        "by_region": by_region,
    }


def even_sample(count: int, most: int) -> list[int]:
    """Return ascending places among ``count``: all of them, or ``most`` spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def describe(
    values: np.ndarray, block_steps: int, least_nonzero: int
) -> dict[str, list[float | None]]:
    """Return ``STATISTICS`` of values [n, C], a list of C numbers each; None where there is no
    value.

    q01 and q99 are the 1 % and 99 % quantiles. A block of ``block_steps`` rows has as its size the
    median of |value| over its values that are not 0, if these are ``least_nonzero`` or more;
    size_low, size and size_high are the least, the median and the largest of these sizes. Zero says
    nothing of a unit, and a dry block has no size.
    """
    found: dict[str, list[float | None]] = {name: [] for name in STATISTICS}
    for column in values.T.astype(np.float64):
        present = column[~np.isnan(column)]
        numbers: list[float | None] = [None] * len(STATISTICS)
        if present.size:
            low, high = np.quantile(present, [0.01, 0.99])
            blocks = np.split(np.abs(column), range(block_steps, len(column), block_steps))
            blocks = [block[block > 0] for block in blocks]  # leaves out NaN too
            sizes = np.array([np.median(one) for one in blocks if one.size >= least_nonzero])
            numbers = [present.min(), present.max(), present.mean(), present.std(), low, high]
            typical = [sizes.min(), np.median(sizes), sizes.max()] if sizes.size else [None] * 3
            numbers += typical
        for name, number in zip(STATISTICS, numbers, strict=True):
            # Six digits tell a unit, and the file is read by people too.
            found[name].append(None if number is None else float(f"{number:.6g}"))
    return found


def _step_offsets_of(series: WeatherSeries, rows: np.ndarray, step_hours: float) -> list[float]:
    parts = [
        step_offsets(series.timestamps[rows[block]], step_hours) for block in blocks(len(rows))
    ]
    return sorted({hour for part in parts for hour in part})


def step_offsets(timestamps: np.ndarray, step_hours: float) -> list[float]:
    """Return distinct hours after midnight (UTC), modulo the step, ascending.

    Steps that don't divide a day come by at other hours each day: modulo what both have in common.
    """
    seconds = math.gcd(round(step_hours * 3600), _SECONDS_A_DAY)
    return [float(one) / 3600 for one in np.unique(timestamps.astype(np.int64) % seconds)]


def ranges_problem(content: Any, num_features: int, step_hours: float) -> str | None:
    """Tell what is wrong with a file's ``training_ranges``, as a clause; None if nothing."""
    if (found := schema_error(content, _RANGES_SHAPE, "training_ranges")) is not None:
        return found
    for key in ("step_offsets_hours", "issue_hours", "by_region"):
        if not content[key]:
            return f"training_ranges.{key} is empty"
    common = math.gcd(round(step_hours * 3600), _SECONDS_A_DAY) / 3600
    for key, end in (("step_offsets_hours", common), ("issue_hours", 24.0)):
        if len(set(content[key])) < len(content[key]) or max(content[key]) >= end:
            return f"training_ranges.{key} holds an hour twice, or one of {end:g} or more"
    shape = {name: [(_NUMBER, None)] for name in STATISTICS}
    for region, numbers in content["by_region"].items():
        where = f"training_ranges.by_region.{region}"
        if (found := schema_error(numbers, shape, where)) is not None:
            return found
        columns = list(zip(*(numbers[name] for name in STATISTICS), strict=False))
        if any(len(numbers[name]) != num_features for name in STATISTICS):
            return f"{where} has not one number for each of {num_features} features"
        # All or none of the first six; all or none of the sizes, which are above 0.
        for *six, low, size, high in columns:
            sizes = [one for one in (low, size, high) if one is not None]
            whole = len({one is None for one in six}) == 1 and len(sizes) in (0, 3)
            if not whole or (six[0] is None and sizes) or not all(one > 0 for one in sizes):
                return f"{where} gives a part of a feature's numbers only"
    return None


PREPROCESSING = "preprocessing.json"
MOST_NAMES = 200_000  # regions, features; a hundred thousand places are a fine grid of a country
_NAME = Text(1_000)
_HOURS = Between(0.0, 876_600.0)  # a hundred years
_LENGTH = Between(1 / 3600, 876_600.0)  # of a step or a horizon: a second or more
_VALUE = Between(-1e38, 1e38)  # what float32 holds
# What is read of it, and of what kind that is (timerxl.untrusted.schema_error).
_SHAPE = {
    "feature_names": [_NAME],
    # A deviation of less is taken for a constant by fit_scaling, and divided by 1.
    "scaling": {"mean": [_VALUE], "std": [Between(1e-18, 1e38)], "log1p": [_NAME]},
    "step_hours": _LENGTH,
    "context_length": range(1, 2**24 + 1),
    "regions": [_NAME],
    "split": {"method": Text(10), "embargo_hours?": _HOURS, "holdout_from?": Text(40)},
    "data": {"path": (str, None), "synthetic": dict},
    "label": {
        "text": Text(5_000),
        "horizon_hours": _LENGTH,
        "threshold_mm?": (Between(0.0, 1e6), None),
    },
    "static_feature_names?": [Text(1_100)],
    "region_neighbours?": dict,
    "is_synthetic?": bool,
    "source?": {"path?": (str, None), "sha256?": (str, None)},
    "decision_threshold?": (Between(0.0, 1.0), None),
    "calibration?": ({"slope": Between(-1e12, 1e12), "intercept": Between(-1e12, 1e12)}, None),
}
# What DataConfig's own types leave open, of what is used with a finished model.
_DATA_SHAPE = {
    "label_horizon_hours?": _LENGTH,
    "rain_threshold_mm?": Between(0.0, 1e6),
    "window_stride_hours?": (_LENGTH, None),
    "train_stride_hours?": (_LENGTH, None),
    "max_fill_hours?": _HOURS,
    "oni_lag_months?": range(2, 1_201),
    "synthetic?": {"step_hours?": range(1, 25), "seed?": range(2**63), "version?": range(1, 3)},
}


@dataclass(frozen=True)
class Preprocessing:
    """``content`` is preprocessing.json as it was saved, ``folder`` where it lies."""

    folder: Path
    content: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """Read ``folder/preprocessing.json``; raises InputError where that fails."""
        path = folder / PREPROCESSING
        if not path.is_file():
            raise InputError(
                f"{folder} holds no {PREPROCESSING}; expected a model folder as a run writes it, "
                "such as runs/quickstart/model."
            )
        content = read_json(path)
        if problem := content_problem(content):
            raise InputError(f"{path}: {problem}. Train again to write it anew.")
        return cls(folder, content)

    @property
    def regions(self) -> list[str]:
        """Regions of the training series, in the order of the one-hot static features."""
        return list(self.content["regions"])

    @property
    def regions_together(self) -> bool:
        """Whether a window holds all regions side by side."""
        return self._data.regions_together != "none"

    @property
    def neighbours(self) -> np.ndarray | None:
        """[G, k]: the regions whose variables each region sees beside its own, the nearest first;
        None where it sees all of them, or none."""
        near = self.content.get("region_neighbours")
        if not near or self._data.regions_together in ("none", "all"):
            return None
        return np.stack([region_places(near[name], self.regions) for name in self.regions])

    @property
    def context_length(self) -> int:
        """Steps of the context the model was trained with."""
        return int(self.content["context_length"])

    @property
    def boundaries(self) -> tuple[np.datetime64, np.datetime64] | None:
        """First issue times of validation and of test; None where the split wasn't by time."""
        split = self.content["split"]
        if split["method"] != "time":
            return None
        first, second = split["validation_from"], split["test_from"]
        return np.datetime64(first, "s"), np.datetime64(second, "s")

    def data_config(self, path: str | None, oni: Path | None = None) -> DataConfig:
        """Tell how the training series was read, for the one at ``path`` (null: the synthetic one).

        ``oni`` is NOAA's file, for a model with that feature: paths in preprocessing.json, which
        anybody may have written, are never read. Raises InputError where it is needed and None.
        """
        needs_oni = self._data.oni_path is not None
        if needs_oni and oni is None:
            raise InputError(
                f"the model reads the feature {ONI_FEATURE}: give NOAA's oni.ascii.txt with "
                "--oni FILE (in Python: oni=FILE)."
            )
        added = [ONI_FEATURE] if needs_oni else []
        features = [name for name in self.content["feature_names"] if name not in added]
        oni_path = str(oni) if needs_oni else None
        # A stranger's file names no folder to write to either.
        ours = DataConfig().cache_dir
        return replace(self._data, path=path, features=features, oni_path=oni_path, cache_dir=ours)

    @property
    def _data(self) -> DataConfig:
        return _saved_data(self.content["data"])

    def check(self, series: WeatherSeries) -> None:
        """Raise InputError where the series isn't of the kind that the model was trained on."""
        expected, found = list(self.content["feature_names"]), series.feature_names
        if found != expected:
            absent = [name for name in expected if name not in found]
            raise InputError(
                f"the model reads {len(expected)} features, the series has {len(found)}; "
                + (f"missing: {', '.join(absent)}." if absent else "they differ in their order.")
            )
        if series.step_hours != self.content["step_hours"]:
            raise InputError(
                f"the series has a step of {series.step_hours:g} h; the model was trained on "
                f"{self.content['step_hours']:g} h. Resample the series."
            )
        known = set(self.regions)
        unknown = [name for name in series.regions if name not in known]
        if unknown and (self.content.get("static_feature_names") or self.regions_together):
            raise InputError(
                f"the model knows the regions {', '.join(self.regions)}, not {', '.join(unknown)}."
            )


def content_problem(content: Any) -> str | None:
    """Tell what is wrong with the content of preprocessing.json, as a clause; None if nothing."""
    if found := series_problem(content):
        return found
    try:
        data = _saved_data(content["data"])
    except InputError as error:
        return str(error).rstrip(".")
    if problem := _neighbours_problem(content, data.regions_together):
        return problem
    if content["label"]["horizon_hours"] != data.label_horizon_hours:
        return "label.horizon_hours is not data.label_horizon_hours"
    return None


def _neighbours_problem(content: dict[str, Any], together: int | str) -> str | None:
    """Tell what is wrong with ``region_neighbours``, as a clause; None if nothing."""
    if together in ("none", "all"):
        return None
    near, regions = content.get("region_neighbours", {}), content["regions"]
    if set(near) != set(regions):
        return f"region_neighbours does not name the neighbours of the {len(regions):,} regions"
    known = set(regions)
    for name, of in near.items():
        is_list = isinstance(of, list) and all(isinstance(one, str) for one in of)
        if not is_list or len(of) != together or len({name, *of} & known) != len(of) + 1:
            return f"region_neighbours of {plain(name, 80)} is no list of {together} other regions"
    return None


def series_problem(content: Any) -> str | None:
    """Tell what is wrong with all but the settings of ``data``, which a run has checked before."""
    if (found := schema_error(content, _SHAPE)) is not None:
        return found
    names, scaling, regions = content["feature_names"], content["scaling"], content["regions"]
    for key in ("feature_names", "regions"):
        if not 1 <= len(content[key]) <= MOST_NAMES:
            return f"{key} holds {len(content[key]):,} names; expected 1 to {MOST_NAMES:,}"
    if not len(names) == len(scaling["mean"]) == len(scaling["std"]):
        return f"scaling has not one mean and one deviation for each of {len(names)} features"
    if len(set(scaling["log1p"])) < len(scaling["log1p"]):
        return "scaling.log1p holds a name twice"
    if unknown := set(scaling["log1p"]) - set(names):
        return f"scaling.log1p names {sorted(unknown)[0]!r}, which is no feature"
    if len(set(names)) < len(names) or len(set(regions)) < len(regions):
        return "feature_names or regions holds a name twice"
    static = content.get("static_feature_names", [])
    if len(static) not in (0, NUM_CYCLES + len(regions)):
        return f"static_feature_names holds {len(static):,} names for {len(regions):,} regions"
    ranges = content.get("training_ranges")
    if ranges is not None:
        found = ranges_problem(ranges, len(names), content["step_hours"])
        if found is not None:
            return found
    if content["label"].get("threshold_mm") is not None:  # else the label is a ready column
        try:
            whole_steps(content["label"]["horizon_hours"], content["step_hours"])
        except InputError as error:
            return str(error).rstrip(".")
    split = content["split"]
    if split["method"] not in ("time", "rows"):
        return "split.method is neither time nor rows"
    if split["method"] == "time":
        if "embargo_hours" not in split:
            return "split has no embargo_hours"
        for key in ("validation_from", "test_from"):
            if not _is_time(split.get(key)):
                return f"split.{key} is no ISO time"
        if not np.datetime64(split["validation_from"]) < np.datetime64(split["test_from"]):
            return "split.validation_from is not before split.test_from"
    return None


def _saved_data(saved: dict[str, Any]) -> DataConfig:
    """The settings of ``data`` as a run resolved them; raises InputError naming a bad one.

    What an older or a newer version called a setting is left out.
    """
    for shape in (shape_of(DataConfig), _DATA_SHAPE):
        if problem := schema_error(saved, shape, "data"):
            raise InputError(problem)
    known, synthetic = (
        {item.name: content[item.name] for item in fields(cls) if item.name in content}
        for cls, content in ((DataConfig, saved), (SyntheticConfig, saved["synthetic"]))
    )
    synthetic = {"version": 1} | synthetic  # a model from before there were versions
    config = DataConfig(**known | {"synthetic": SyntheticConfig(**synthetic)})
    validate(RunConfig(data=config))
    return config


def _is_time(text: Any) -> bool:
    """Of a calendar's years 1 to 9999, without a zone."""
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False
