"""What training saw of each feature in each region, kept beside the weights for later tables.

R rows, C features. All numbers are in the units of ``WeatherSeries.values``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from timerxl.data.series import WeatherSeries
from timerxl.untrusted import Between, misfit

# Fewer values that are not 0 have no typical size: for training any three widen what is known, a
# table must bring ten to be judged by it.
LEAST_NONZERO_TRAINED, LEAST_NONZERO_JUDGED = 3, 10
STATISTICS = ("min", "max", "mean", "std", "q01", "q99", "size_low", "size", "size_high")
MOST_NUMBERS = 250_000  # of all regions together: some 2 MB of JSON
_SECONDS_A_DAY = 86_400
_HOUR = Between(0.0, 24.0)
_SHAPE = {
    "days": Between(0.0, 4e6),
    "step_offsets_hours": [_HOUR],
    "issue_hours": [_HOUR],
    "by_region": dict,
}
_NUMBER = Between(-1e38, 1e38)  # what float32 holds


def training_ranges(
    series: WeatherSeries, rows: np.ndarray, issue_rows: np.ndarray, block_steps: int
) -> dict[str, Any]:
    """Ranges over the training ``rows``, and the hours (UTC) at which its steps and windows stand.

    ``by_region`` holds :func:`describe` of each region that has rows (of very many an even sample:
    the others of a later table are held against all of these), ``days`` the time they cover,
    ``step_offsets_hours`` the ends of steps after midnight, modulo the step, and ``issue_hours``
    the hours of the day at which the windows of ``issue_rows`` are issued.
    """
    by_region = {}
    rows = rows[np.argsort(series.region_index[rows], kind="stable")]
    present, starts = np.unique(series.region_index[rows], return_index=True)
    parts = np.split(rows, starts[1:])
    most = max(1, MOST_NUMBERS // (len(STATISTICS) * len(series.feature_names)))
    for place in even_sample(len(present), most):
        values = series.values[parts[place]]
        by_region[series.regions[present[place]]] = describe(
            values, block_steps, LEAST_NONZERO_TRAINED
        )
    times = series.timestamps[rows]
    return {
        "days": float((times.max() - times.min()) / np.timedelta64(1, "D")),
        "step_offsets_hours": step_offsets(series.timestamps[rows], series.step_hours),
        "issue_hours": step_offsets(series.timestamps[issue_rows], 24.0),
        "by_region": by_region,
    }


def even_sample(count: int, most: int) -> list[int]:
    """Ascending places among ``count``: all of them, or ``most`` spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


def describe(
    values: np.ndarray, block_steps: int, least_nonzero: int
) -> dict[str, list[float | None]]:
    """``STATISTICS`` of values [n, C], a list of C numbers each; None where there is no value.

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
            sizes = _block_sizes(column, block_steps, least_nonzero)
            numbers = [present.min(), present.max(), present.mean(), present.std(), low, high]
            typical = [sizes.min(), np.median(sizes), sizes.max()] if sizes.size else [None] * 3
            numbers += typical
        for name, number in zip(STATISTICS, numbers, strict=True):
            # Six digits tell a unit, and the file is read by people too.
            found[name].append(None if number is None else float(f"{number:.6g}"))
    return found


def _block_sizes(column: np.ndarray, block_steps: int, least_nonzero: int) -> np.ndarray:
    """The sizes of the blocks of a column [n] that have one (see :func:`describe`)."""
    sizes = []
    for start in range(0, len(column), block_steps):
        block = np.abs(column[start : start + block_steps])
        block = block[block > 0]  # leaves out NaN too
        if block.size >= least_nonzero:
            sizes.append(np.median(block))
    return np.array(sizes)


def step_offsets(timestamps: np.ndarray, step_hours: float) -> list[float]:
    """Distinct hours after midnight (UTC), modulo the step, ascending.

    Steps that don't divide a day come by at other hours each day: modulo what both have in common.
    """
    seconds = math.gcd(round(step_hours * 3600), _SECONDS_A_DAY)
    return [float(one) / 3600 for one in np.unique(timestamps.astype(np.int64) % seconds)]


def ranges_problem(content: Any, num_features: int, step_hours: float) -> str | None:
    """What is wrong with ``training_ranges`` as a file has them, as a clause; None if nothing."""
    if (found := misfit(content, _SHAPE, "training_ranges")) is not None:
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
        if (found := misfit(numbers, shape, where)) is not None:
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
