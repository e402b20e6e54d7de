"""The one shape in which every series of weather reaches labels, splits and windows."""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0

from timerxl.config import DataConfig, InputError
from timerxl.untrusted import plain

ROW_ARRAYS = (
    "values region_index timestamps precipitation_mm ready_label true_probability"
).split()
BLOCK_ROWS = 2**18  # 10 features as float64: 20 MiB


@dataclass(frozen=True)
class WeatherSeries:
    """One regular series of several regions: rows sorted region after region, then by time.

    Arrays with one entry per row (R rows, C features, G regions):

    - ``values`` [R, C] float32: features in physical units, NaN where missing; precipitation in mm.
    - ``region_index`` [R] int64: index into ``regions``.
    - ``timestamps`` [R] datetime64[s]: the END of the step, in UTC where a zone was given.
    - ``precipitation_mm`` [R] float64: rain of the step as measured, NaN where missing; None if
      the table only holds a ready label.
    - ``ready_label`` [R] float64: 0, 1 or NaN, from ``data.label_column``; None if there is none.
    - ``true_probability`` [R] float64: P(label = 1 | state at t), known for synthetic series only.

    ``precipitation_feature`` names the feature that is the precipitation column (for log1p),
    ``source`` is the provenance (JSON-able) and ``notes`` are sentences to log.

    Raises InputError where shapes, dtypes or the order of the rows contradict the above.
    """

    feature_names: list[str]
    regions: list[str]
    values: np.ndarray
    region_index: np.ndarray
    timestamps: np.ndarray
    precipitation_mm: np.ndarray | None
    ready_label: np.ndarray | None
    true_probability: np.ndarray | None
    step_hours: float
    precipitation_feature: str | None
    is_synthetic: bool
    source: dict[str, Any]
    notes: list[str]

    def __post_init__(self) -> None:
        rows = len(self.region_index)
        if rows == 0 or not self.feature_names or not self.regions:
            raise InputError(
                f"the series holds {rows} rows, {len(self.feature_names)} features and "
                f"{len(self.regions)} regions; expected at least one of each."
            )
        for kind, names in (("feature", self.feature_names), ("region", self.regions)):
            if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
                shown = ", ".join(plain(name, 80) for name in repeated[:8])
                raise InputError(f"{kind} names must differ; found twice: {shown}.")
        expected: dict[str, tuple[tuple[int, ...], str]] = {
            "values": ((rows, len(self.feature_names)), "float32"),
            "region_index": ((rows,), "int64"),
            "timestamps": ((rows,), "datetime64[s]"),
            "precipitation_mm": ((rows,), "float64"),
            "ready_label": ((rows,), "float64"),
            "true_probability": ((rows,), "float64"),
        }
        for name, (shape, dtype) in expected.items():
            array = getattr(self, name)
            if array is None and name in ("precipitation_mm", "ready_label", "true_probability"):
                continue
            if array.shape != shape or str(array.dtype) != dtype:
                raise InputError(
                    f"{name} has shape {array.shape} and type {array.dtype}; "
                    f"expected {shape} and {dtype}."
                )
        if not 0 < self.step_hours < float("inf"):
            raise InputError(f"step_hours is {self.step_hours}; expected a number above 0.")
        if self.precipitation_mm is None and self.ready_label is None:
            raise InputError("the series has neither precipitation nor a ready label.")
        if self.precipitation_feature not in (None, *self.feature_names):
            raise InputError(
                f"precipitation_feature {self.precipitation_feature!r} is no feature; "
                f"expected one of {', '.join(self.feature_names)}."
            )
        for block in blocks(rows):
            # With the row before, whose region and time the first one must follow.
            self._check_rows(slice(max(block.start - 1, 0), block.stop))

    def _check_rows(self, rows: slice) -> None:
        region, times = self.region_index[rows], self.timestamps[rows]
        if region.min() < 0 or region.max() >= len(self.regions):
            raise InputError(
                f"region_index runs from {self.region_index.min()} to {self.region_index.max()}; "
                f"expected 0 to {len(self.regions) - 1}."
            )
        turn = np.diff(region)
        if (turn < 0).any():
            raise InputError("rows must be sorted region after region (region_index ascending).")
        if np.isnat(times).any():
            raise InputError("timestamps hold missing times (NaT); every row needs its time.")
        backwards = np.flatnonzero((turn == 0) & (np.diff(times) <= np.timedelta64(0)))
        if backwards.size:
            row = int(backwards[0]) + 1
            raise InputError(
                f"time does not ascend in region {self.regions[int(region[row])]} at {times[row]}; "
                "sort the rows by time and keep each time once."
            )
        if np.isinf(self.values[rows]).any():
            raise InputError("values hold infinite numbers; expected finite numbers or NaN.")
        labels = None if self.ready_label is None else self.ready_label[rows]
        if labels is not None and not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
            raise InputError("ready_label holds values other than 0, 1 and missing.")

    @property
    def step(self) -> np.timedelta64:
        """The step as a whole number of seconds."""
        return np.timedelta64(round(self.step_hours * 3600), "s")

    def segment_starts(self) -> np.ndarray:
        """Find [R] rows that don't follow the row above by one step in its region."""
        starts = np.ones(len(self.region_index), dtype=bool)
        starts[1:] = (np.diff(self.region_index) != 0) | (np.diff(self.timestamps) != self.step)
        return starts

    def region_edges(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return [G + 1]: where each region begins among the ascending ``rows`` (default: all), and
        their number."""
        if rows is None:
            return np.searchsorted(self.region_index, np.arange(len(self.regions) + 1))
        return np.searchsorted(rows, self.region_edges())

    def parts(self, most_rows: int = BLOCK_ROWS) -> Iterator[tuple[slice, WeatherSeries]]:
        """Cut into (rows, a series of these rows alone) of whole regions: as many as have
        ``most_rows``, or one."""
        edges = self.region_edges()
        start = 0
        while start < len(self.region_index):
            fits = int(np.searchsorted(edges, start + most_rows, side="right")) - 1
            longer = int(np.searchsorted(edges, start, side="right"))
            rows = slice(start, int(edges[max(fits, longer)]))
            part = copy.copy(self)  # checked already
            for name in ROW_ARRAYS:
                if (array := getattr(self, name)) is not None:
                    object.__setattr__(part, name, array[rows])
            yield rows, part
            start = rows.stop

    def rows_of_regions(self, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Return for each region those of the ascending ``rows`` (default: all) that are of it.

        One pass whatever the number of regions, where a mask for each would read all rows G times.
        """
        edges = self.region_edges(rows)
        rows = np.arange(len(self.region_index)) if rows is None else rows
        return np.split(rows, edges[1:-1])

    def segment_first_rows(self) -> np.ndarray:
        """Return [R] int64: first row of each row's unbroken stretch (one region, no gap)."""
        rows = np.arange(len(self.region_index))
        return np.maximum.accumulate(np.where(self.segment_starts(), rows, 0))


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


# Names under which tables carry what is to be predicted: as a feature they would give it away.
_LABEL_LIKE = re.compile(r"(target|label)_?.*|rain_?24h|rain_?tomorrow", re.IGNORECASE)


def label_like(name: str) -> bool:
    """Tell whether a column's name says that it holds what is to be predicted."""
    return _LABEL_LIKE.fullmatch(name) is not None


def choose_features(
    config: DataConfig,
    available: list[str],
    reasons: dict[str, str],
    unknown: str,
    skipped: dict[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Return the features that ``data.features`` lists, in its order, or all that
    ``data.exclude_features`` leaves; and ``skipped`` with the available columns that are left out.

    ``reasons`` says why a column can be no feature, ``unknown`` what to say of any other name.
    Raises InputError for an empty list, a repeated name, one that is not ``available``, or patterns
    that leave nothing.
    """
    listed = config.features
    if listed is None:
        patterns = config.exclude_features or []
        left_out = [n for n in available if any(fnmatchcase(n, p) for p in patterns)]
        chosen = [name for name in available if name not in left_out]
        if not chosen:
            raise InputError(
                f"data.exclude_features {patterns} matches all of {len(available)} columns: "
                f"{', '.join(available[:30])}; expected patterns that leave one or more."
            )
        return chosen, skipped | dict.fromkeys(left_out, "it matches data.exclude_features")
    if not listed or len(set(listed)) < len(listed):
        raise InputError(f"data.features is {listed}; expected names, each once.")
    for name in listed:
        if name not in available:
            raise InputError(
                f"data.features lists {name}, but {reasons.get(name, unknown)}; "
                f"expected names among: {', '.join(available[:30])}."
            )
    left_out = [name for name in available if name not in listed]
    return list(listed), skipped | dict.fromkeys(left_out, "not listed in data.features")


class Arrays:
    """Make named arrays of a series' length: in memory, or as the .npy files of ``folder``.

    What is made of a series of many regions need not fit into memory then: a mapped file's pages
    belong to the kernel, which writes them out and reads them again as it needs room.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.made: dict[str, np.ndarray] = {}

    def new(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array to be filled; raises OSError where there is no room for the file.

        Room is taken at once: a page that finds none later would end the process (SIGBUS).
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.folder is None or not size:
            return np.empty(shape, dtype)
        path = self.folder / f"{name}.npy"
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            write_array_header_1_0(file, header)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, file.tell() + size)
            else:  # macOS
                file.truncate(file.tell() + size)
        self.made[name] = np.asarray(np.load(path, mmap_mode="r+"))
        return self.made[name]

    def drop(self, name: str) -> None:
        """Remove an array that was needed for a while only."""
        if self.made.pop(name, None) is not None and self.folder is not None:
            (self.folder / f"{name}.npy").unlink(missing_ok=True)


def blocks(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
