"""Which rows issue a window, and which of them train, validate and test."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from timerxl.config import DataConfig, InputError
from timerxl.data.audit.findings import listed
from timerxl.data.series import WeatherSeries
from timerxl.untrusted import plain

SPLITS = ("train", "validation", "test")
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


def _on_stride(series: WeatherSeries, config: DataConfig, key: str) -> np.ndarray:
    """[R] bool: times that are multiples of the stride, counted from 1970 for every region."""
    hours = getattr(config, key)
    if hours is None:
        return np.ones(len(series.timestamps), dtype=bool)
    stride = round(hours * 3600)
    if stride < 1:
        raise InputError(f"data.{key} is {hours:g}; take one second or more.")
    chosen = series.timestamps.astype(np.int64) % stride == 0
    if not chosen.any():
        raise InputError(
            f"no row falls on data.{key} {hours:g} (times that "
            f"are multiples of it since 1970, UTC); the first row is at {series.timestamps[0]}, "
            f"the step {series.step_hours:g} h. Take a shorter stride or null."
        )
    return chosen


def _strides(series: WeatherSeries, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """[R] bool each: rows on the stride of validation and test, and on that of training."""
    on_stride = _on_stride(series, config, "window_stride_hours")
    if config.train_stride_hours is None:
        return on_stride, on_stride
    return on_stride, _on_stride(series, config, "train_stride_hours")


def complete_rows(series: WeatherSeries, context_length: int) -> np.ndarray:
    """[R] bool: rows that end a full context, in one region, without gap or missing value.

    Raises InputError where no region has ``context_length`` rows in a row.
    """
    rows, first = np.arange(len(series.region_index)), series.segment_first_rows()
    longest = np.zeros(len(series.regions), dtype=np.int64)
    np.maximum.at(longest, series.region_index, rows - first + 1)
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
    return steps_behind(series) >= context_length


def steps_behind(series: WeatherSeries) -> np.ndarray:
    """[R] int64: steps that end with each row, in one region, without gap or missing value."""
    rows = np.arange(len(series.region_index))
    missing = np.isnan(series.values).any(axis=1)
    last_missing = np.maximum.accumulate(np.where(missing, rows, -1))
    return rows - np.maximum(series.segment_first_rows(), last_missing + 1) + 1


def split_by_time(
    series: WeatherSeries,
    label: np.ndarray,
    config: DataConfig,
    context_length: int,
    boundaries: tuple[np.datetime64, np.datetime64] | None = None,
) -> Split:
    """Cut at two times common to all regions, with an embargo of one horizon before each.

    With the boundaries b1, b2 taken from the sorted distinct issue times t of all regions and the
    horizon h: train t + h <= b1, validation b1 <= t and t + h <= b2, test b2 <= t. So no label of a
    split reaches into the times of the next one. ``boundaries`` gives (b1, b2) instead. Scaling may
    use the rows up to the last training issue time. With ``holdout_fraction`` the last of the times
    before b1 are not trained on but kept as "holdout", cut and embargoed in the same way. Raises
    InputError where a split would hold no window.
    """
    complete = complete_rows(series, context_length)
    on_stride, train_on_stride = _strides(series, config)
    labelled = ~np.isnan(label) & on_stride
    rows = np.flatnonzero(complete & labelled)
    if not rows.size:
        raise InputError(
            f"no window: of {int(on_stride.sum())} rows (on the stride) "
            f"{int((complete & on_stride).sum())} end a full context without missing values, "
            f"{int(labelled.sum())} have a label, none both. Shorten the context, raise "
            "data.max_fill_hours or list fewer data.features."
        )
    times = series.timestamps[rows]
    distinct = np.unique(times)
    cuts = [
        min(_cut(len(distinct), fraction), len(distinct) - 1)
        for fraction in (config.train_fraction, config.train_fraction + config.validation_fraction)
    ]
    b1, b2 = distinct[cuts] if boundaries is None else boundaries
    horizon = np.timedelta64(round(config.label_horizon_hours * 3600), "s")
    training = np.flatnonzero(complete & ~np.isnan(label) & train_on_stride)
    b0 = _holdout_from(distinct[distinct < b1], config.holdout_fraction, b1)
    chosen = {"train": training[series.timestamps[training] + horizon <= b0]}
    if b0 < b1:
        chosen[HOLDOUT] = rows[(times >= b0) & (times + horizon <= b1)]
    chosen["validation"] = rows[(times >= b1) & (times + horizon <= b2)]
    chosen["test"] = rows[times >= b2]
    for name in chosen:
        if not chosen[name].size:
            raise InputError(
                f"the {name} split holds no window: {len(rows)} windows at {len(distinct)} times "
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
    used = int((times + horizon <= b0).sum())
    used += sum(len(chosen[name]) for name in chosen if name != "train")
    notes = [
        f"{used} windows of {int(labelled.sum())} labelled rows: {int(labelled.sum()) - len(rows)} "
        f"have no full context (start of a region, gap, missing value), {len(rows) - used} stand "
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
    last_training_time = series.timestamps[chosen["train"]].max()
    scaling_rows = np.flatnonzero(series.timestamps <= last_training_time)
    return Split(chosen, scaling_rows, method, notes + _missing_regions(series, chosen))


def _holdout_from(times: np.ndarray, fraction: float, b1: np.datetime64) -> np.datetime64:
    """The first of the last ``fraction`` of the training times; b1 where there is no holdout."""
    kept = len(times) - _cut(len(times), fraction)
    return times[kept] if kept < len(times) else b1


def split_by_rows(
    series: WeatherSeries, label: np.ndarray, config: DataConfig, context_length: int
) -> Split:
    """The naive cut of the stacked table, region after region, to compare with published numbers.

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
    on_stride, train_on_stride = _strides(series, config)
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


def make_split(
    series: WeatherSeries,
    label: np.ndarray,
    config: DataConfig,
    context_length: int,
    boundaries: tuple[np.datetime64, np.datetime64] | None = None,
) -> Split:
    """The split that ``data.split`` asks for; one class only among training labels is refused.

    ``boundaries``: see :func:`split_by_time`; a cut by rows has none.
    """
    if config.split == "rows":
        split = split_by_rows(series, label, config, context_length)
    else:
        split = split_by_time(series, label, config, context_length, boundaries)
    training = label[split.rows["train"]]
    if training.min() == training.max():
        raise InputError(
            f"all {len(training)} training labels are {int(training[0])}: nothing to learn. Check "
            f"data.rain_threshold_mm ({config.rain_threshold_mm:g}), data.precipitation_unit "
            f"({config.precipitation_unit}) or data.label_column."
        )
    for name in SPLITS[1:]:
        if len(set(label[split.rows[name]])) == 1:
            split.notes.append(f"all {name} labels are equal: its ROC-AUC and MCC say nothing.")
    return split


def _missing_regions(series: WeatherSeries, rows: dict[str, np.ndarray]) -> list[str]:
    notes = []
    for name in SPLITS:
        present = set(np.unique(series.region_index[rows[name]]).tolist())
        absent = [region for i, region in enumerate(series.regions) if i not in present]
        if absent:
            notes.append(
                f"no {name} window in: {listed(absent, 30)} (too short, gaps or no label)."
            )
    return notes
