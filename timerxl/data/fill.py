"""Filling short holes from the past only."""

from __future__ import annotations

import numpy as np


def fill_forward(
    values: np.ndarray,
    region_index: np.ndarray,
    timestamps: np.ndarray,
    max_fill_hours: float,
    step_hours: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Carry the last value into holes of at most ``max_fill_hours``; returns (filled, counts).

    ``values`` [R, C] with rows region after region in time order; ``counts`` [C] int64 is the
    number of values filled in each column. Never from the future, never from another region, never
    across a gap in time. A longer hole stays missing as a whole: windows leave it out.
    """
    step = np.timedelta64(round(step_hours * 3600), "s")
    rows = np.arange(len(values))
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = (np.diff(region_index) != 0) | (np.diff(timestamps) != step)
    first = np.maximum.accumulate(np.where(starts, rows, 0))
    ends = np.append(starts[1:], True)
    last = np.minimum.accumulate(np.where(ends, rows, len(values))[::-1])[::-1]
    longest = int(max_fill_hours / step_hours + 1e-9)

    filled, counts = values.copy(), np.zeros(values.shape[1], dtype=np.int64)
    for column in range(values.shape[1]):
        missing = np.isnan(values[:, column])
        if not missing.any():
            continue
        before = np.maximum.accumulate(np.where(missing, -1, rows))
        after = np.minimum.accumulate(np.where(missing, len(values), rows)[::-1])[::-1]
        length = np.minimum(after, last + 1) - before - 1
        fill = missing & (before >= first) & (length <= longest)
        filled[fill, column] = values[before[fill], column]
        counts[column] = fill.sum()
    return filled, counts
