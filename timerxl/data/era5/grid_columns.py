"""Columns of gridded files as region means on disk, and one hourly stretch of them at a time.

Shapes: T times of a part, G regions, N hours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.era5 import accumulation
from timerxl.data.era5.accumulation import AccumulationEvidence, Totals
from timerxl.data.era5.grid_files import Variable
from timerxl.data.tables.column_records import ColumnRecord

_PACKING = 1e-4  # of a part's range: two packings of one field may differ by this much


@dataclass
class Part:
    """One column of one file: ``hours`` [T] ascending, each once; values [G, T] in ``path``."""

    label: str
    hours: np.ndarray
    version: np.ndarray
    path: Path
    value_range: float
    largest: float
    # Of a sum: how it rises and falls in each cell, and what else of the file tells its meaning.
    evidence: AccumulationEvidence | None = None
    is_named_land: bool = False
    grid_step: float | None = None
    # [G, T] share of a region's weight in cells with a value, where that changes: the mean of a
    # running total over other cells is another total.
    known: np.ndarray | None = None

    def values(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


@dataclass
class Column:
    """All parts of one column, in the order of the files given.

    ``unit`` is that of its values; of rain ``mm_per_unit`` makes mm of them. Each value covers the
    ``window`` hours that end at its stamp, or, of running totals, those since the total began.
    """

    variable: Variable
    kind: str
    unit: str
    record: ColumnRecord
    window: int = 1
    mm_per_unit: float = 1.0
    is_open: bool = False  # a sum whose values must tell whether they are running totals
    totals: Totals | None = None  # how running totals start again; None: sums of the window
    masked: dict[float, int] = field(default_factory=dict)  # codes for missing: how many
    takes_every: int = 1  # hours between the values that are taken, where windows overlap
    parts: list[Part] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.variable.column

    def known_hours(self) -> np.ndarray:
        """Ascending hours at which any region has a value."""
        known = [part.hours[~np.isnan(part.values()).all(axis=0)] for part in self.parts]
        hours = np.unique(np.concatenate(known))
        return hours[hours % self.takes_every == 0]

    def stamps_apart(self) -> int:
        """The most common hours between neighbouring stamps; 1 of a single one."""
        hours = self.known_hours()
        if len(hours) < 2:
            return 1
        lengths, counts = np.unique(np.diff(hours), return_counts=True)
        return int(lengths[np.argmax(counts)])

    def follows_the_sun(self) -> bool:
        """Whether it is a sum of radiation."""
        quantity = self.record.quantity
        return quantity is not None and quantity.value == "radiation sum"

    def stretch(self, region: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Hours ``first`` to ``stop - 1`` of a region: values [N] and the hours each covers [N].

        Where files hold the same hour, equal values are one, final data win over preliminary, and
        anything else is an InputError. Running totals come back as the share of each value.
        """
        # Running totals need the day's earlier values.
        begin = int(self.totals.start(np.array(first))) if self.totals else first
        values = np.full(stop - begin, np.nan)
        version = np.full(stop - begin, np.iinfo(np.int8).max, dtype=np.int8)
        owner = np.full(stop - begin, -1, dtype=np.int64)
        weight = np.ones(stop - begin)
        for index, part in enumerate(self.parts):
            low, high = np.searchsorted(part.hours, (begin, stop))
            own = np.array(part.values()[region, low:high])
            known = ~np.isnan(own)
            at = part.hours[low:high][known] - begin
            own, rank = own[known], part.version[low:high][known]
            clash = (version[at] == rank) & (np.abs(values[at] - own) > self._tolerance(part))
            if clash.any():
                place = int(at[clash][0])
                raise InputError(
                    f"{self.variable.column} at {stamp(begin + place)} is "
                    f"{values[place]:.6g} in {self.parts[owner[place]].label} and "
                    f"{own[clash][0]:.6g} in {part.label}; give each time once."
                )
            better = rank < version[at]
            values[at[better]], version[at[better]] = own[better], rank[better]
            owner[at[better]] = index
            if part.known is not None:
                weight[at[better]] = part.known[region, low:high][known][better]
        values[(begin + np.arange(len(values))) % self.takes_every != 0] = np.nan
        known = ~np.isnan(values)
        covered = accumulation.covered_hours(known, begin, self.totals, self.window)
        if self.totals:
            other_cells = accumulation.changes_within(weight, known, begin, self.totals)
            values = accumulation.deaccumulate(values, begin, self.totals)
            values[other_cells], covered[other_cells] = np.nan, 0
        return values[first - begin :], covered[first - begin :]

    def _tolerance(self, part: Part) -> float:
        return _PACKING * max(part.value_range, max(other.value_range for other in self.parts))


def stamp(hour: int) -> str:
    """An hour since 1970 as ISO time."""
    return str(np.datetime64(int(hour) * 3600, "s"))


@dataclass
class Streams:
    """What was read: columns, number of cells per region, provenance, sentences."""

    columns: dict[str, Column] = field(default_factory=dict)
    cells: list[int] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_synthetic: bool = False
