"""Area means of every file on disk, and one gap-aware hourly stretch of them at a time.

Reading goes file by file and block by block; what stays are region means in a temporary folder, so
memory does not grow with the number of years. Shapes: T times of a part, G regions, N hours.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data import accumulation
from timerxl.data.accumulation import (
    COUNTER,
    HOURLY,
    RUNNING,
    AccumulationEvidence,
    Totals,
    Verdict,
    only_rises,
)
from timerxl.data.era5 import PRELIMINARY, Era5File, Variable, open_era5
from timerxl.data.regions import GridMeans, Region, grid_means
from timerxl.data.series_file import sha256_of

_PACKING = 1e-4  # of a part's range: two packings of one field may differ by this much
_MAX_MEMBERS = 1000
_LEAST_RAIN = 1e-5  # m, or 0.01 mm: a whole field below tells nothing of how its rain adds up
_LAND, _ERA5 = 0.1, 0.25  # degrees between the cells of ERA5-Land and of ERA5


@dataclass
class Part:
    """One column of one file: ``hours`` [T] ascending, each once; values [G, T] in ``path``."""

    label: str
    hours: np.ndarray
    version: np.ndarray
    path: Path
    value_range: float
    # Of a sum: how it rises and falls in each cell, and what else of the file tells its meaning.
    evidence: AccumulationEvidence | None = None
    is_named_land: bool = False
    grid_step: float | None = None

    def values(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


@dataclass
class Column:
    """All parts of one column, in the order of the files given."""

    variable: Variable
    kind: str
    totals: Totals | None = None  # how running totals start again; None: sums of one hour
    parts: list[Part] = field(default_factory=list)

    def known_hours(self) -> np.ndarray:
        """Ascending hours at which any region has a value."""
        known = [part.hours[~np.isnan(part.values()).all(axis=0)] for part in self.parts]
        return np.unique(np.concatenate(known))

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
        covered = accumulation.covered_hours(~np.isnan(values), begin, self.totals)
        if self.totals:
            values = accumulation.deaccumulate(values, begin, self.totals)
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


def netcdf_members(path: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, label) of a NetCDF file itself, or of each NetCDF inside a ZIP, whatever its suffix.

    Members are unpacked one at a time into ``folder`` under a name of ours: theirs is never a
    path, only a label. Raises InputError for other files and for damaged or encrypted archives.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] != b"PK\x03\x04":
        if magic[:4] == b"GRIB":
            raise InputError(f"{path.name} is GRIB; request the data format NetCDF instead.")
        yield path, path.name
        return
    found = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > _MAX_MEMBERS:
                raise InputError(f"{path.name} holds {len(members)} files; expected a few.")
            for member in members:
                copy = folder / "member.nc"
                name = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
                label = f"{path.name}:{''.join(c for c in name if c.isprintable())[:80]}"
                with archive.open(member) as packed:
                    head = packed.read(4)
                    if head[:3] != b"CDF" and head != b"\x89HDF":
                        continue
                    with copy.open("wb") as out:
                        out.write(head)
                        while block := packed.read(2**20):
                            out.write(block)
                found += 1
                yield copy, label
                copy.unlink()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise InputError(f"{path.name} is a ZIP that can't be unpacked: {error}.") from error
    if not found:
        raise InputError(f"{path.name} is a ZIP without a NetCDF file in it.")


def read_streams(
    inputs: list[Path],
    regions: list[Region],
    folder: Path,
    wanted: list[str] | None,
    tick: Callable[[str], None],
) -> Streams:
    """Area means of the ``wanted`` columns (None: all) of all files, kept below ``folder``.

    ``tick`` is called with a label after every column of every file. Raises InputError for files
    that can't be read, that don't cover a region, or whose grids differ for one column.
    """
    streams = Streams()
    for path in inputs:
        if not path.is_file():
            raise InputError(f"{path} is no file; give NetCDF files (or ZIPs of them).")
        hours: list[int] = []
        names: list[str] = []
        for copy, label in netcdf_members(path, folder):
            with open_era5(copy, label) as file:
                grid = grid_means(regions, file.latitude, file.longitude, label)
                if streams.cells and streams.cells != grid.cells:
                    streams.notes.append(
                        f"{label} has {grid.cells} cells in the regions, other files "
                        f"{streams.cells}; each column is averaged on its own grid."
                    )
                streams.cells = streams.cells or grid.cells
                streams.is_synthetic |= file.is_synthetic
                if file.skipped:
                    skipped = ", ".join(file.skipped)
                    streams.notes.append(f"{label}: {skipped} skipped, no field per time.")
                for variable in file.variables:
                    names.append(variable.column)
                    if wanted is None or variable.column in wanted or variable.column == "tp":
                        _read_column(streams, file, variable, grid, folder)
                        tick(f"{label} {variable.column}")
                hours += [int(file.hours.min()), int(file.hours.max())]
        streams.sources.append(
            {
                "path": path.name,
                "sha256": sha256_of(path),
                "bytes": path.stat().st_size,
                "first": stamp(min(hours)),
                "last": stamp(max(hours)),
                "variables": names,
            }
        )
    for column in _rain_first(streams):
        if column.kind == accumulation.SUM:
            _decide_totals(streams, column)
    return streams


def _read_column(
    streams: Streams, file: Era5File, variable: Variable, grid: GridMeans, folder: Path
) -> None:
    means = np.empty((len(grid.cells), len(file.hours)))
    version = np.empty(len(file.hours), dtype=np.int8)
    low, high = np.inf, -np.inf
    kind = accumulation.step_type(variable.name, variable.step_type)
    evidence = AccumulationEvidence() if kind == accumulation.SUM else None
    for times, block, ranks in file.blocks(variable, grid.rows, grid.columns):
        means[:, times], version[times] = grid.means(block), ranks
        if not np.isnan(block).all():
            low, high = min(low, float(np.nanmin(block))), max(high, float(np.nanmax(block)))
        if evidence is not None and only_rises(variable.name):
            cells = block.reshape(len(block), -1).T
            evidence.add(cells, file.hours[times], continues=times.start > 0)
    column = streams.columns.setdefault(variable.column, Column(variable, kind))
    if (column.kind, column.variable.unit) != (kind, variable.unit):
        raise InputError(
            f"{file.label}: {variable.column} is {kind} in {variable.unit!r}; the files before "
            f"have it {column.kind} in {column.variable.unit!r}. Prepare them apart."
        )
    if preliminary := int((version == PRELIMINARY).sum()):
        streams.notes.append(
            f"{file.label}: {preliminary} hours of {variable.column} are preliminary (ERA5T)."
        )
    # A time that stands twice in one file (final and preliminary) makes two parts.
    order = np.argsort(file.hours, kind="stable")
    hours = file.hours[order]
    first = np.searchsorted(hours, hours)
    occurrence = np.arange(len(hours)) - first
    for turn in range(int(occurrence.max()) + 1):
        chosen = order[occurrence == turn]
        path = folder / f"{len(list(folder.glob('*.npy')))}.npy"
        np.save(path, means[:, chosen])
        spread = high - low if high > low else 0.0
        part = Part(file.label, file.hours[chosen], version[chosen], path, spread)
        if evidence is not None:
            part.evidence, part.is_named_land = evidence, file.is_named_land
            part.grid_step = file.grid_step
        column.parts.append(part)


def _rain_first(streams: Streams) -> list[Column]:
    """Rain tells best how sums add up; sums of the same files that can't tell follow it."""
    return sorted(
        streams.columns.values(),
        key=lambda c: (c.variable.column != "tp", not only_rises(c.variable.name)),
    )


def _decide_totals(streams: Streams, column: Column) -> None:
    """Decide whether a column holds hourly sums or running totals: once, over all its files.

    Its behaviour decides; where that tells nothing, the other sums of the same files, the name
    ERA5-Land in the attributes, or the grid. Raises InputError for a counter, for files of both
    kinds, for ERA5-Land by name that behaves otherwise, and for rain of which nothing can be told.
    """
    name = column.variable.column
    least = _LEAST_RAIN if name == "tp" and column.variable.unit == "m" else 0.0
    verdicts = [part.evidence.decide(least) for part in column.parts if part.evidence]
    whole = AccumulationEvidence()
    for part in column.parts:
        assert part.evidence is not None
        whole.merge(part.evidence)
    verdict = whole.decide(least)
    clear = {(v.kind, v.totals) for v in verdicts if v.kind in (HOURLY, RUNNING)}
    if len(clear) > 1:
        told = [
            f"{part.label} {_in_words(v)}"
            for part, v in zip(column.parts, verdicts, strict=True)
            if v.kind in (HOURLY, RUNNING)
        ]
        raise InputError(
            f"{name} is not the same in all files: {', '.join(told)}. ERA5-Land and ERA5 can't be "
            "one column. Give one of them."
        )
    if verdict.kind == COUNTER:
        raise InputError(
            f"{name} is a counter: {verdict.evidence} ({column.parts[0].label}). Difference it "
            "first: each value must be the amount of its own hour, or start again within a day."
        )
    named = next((part.label for part in column.parts if part.is_named_land), None)
    if verdict.kind == HOURLY:
        if named:
            raise InputError(
                f"{named} calls itself ERA5-Land, but {name} falls within a day "
                f"instead of adding up from 00 UTC ({verdict.evidence}): it was changed after the "
                "download. Give the file as the Climate Data Store delivers it."
            )
        return
    if verdict.kind == RUNNING:
        column.totals, why = verdict.totals, verdict.evidence
    else:
        column.totals, why = _totals_from_elsewhere(streams, column, verdict)
    if column.totals:
        streams.notes.append(
            f"{name} adds up {column.totals}"
            f"{' as in ERA5-Land' if column.totals == Totals() else ''}: taken apart into its "
            f"hours ({why})."
        )


def _in_words(verdict: Verdict) -> str:
    return f"adds up {verdict.totals}" if verdict.kind == RUNNING else "holds hourly sums"


def _totals_from_elsewhere(
    streams: Streams, column: Column, verdict: Verdict
) -> tuple[Totals | None, str]:
    """What sums are whose own behaviour tells nothing, and why."""
    name, labels = column.variable.column, {part.label for part in column.parts}
    rain = streams.columns.get("tp", column)
    if rain is not column and labels & {part.label for part in rain.parts}:
        return rain.totals, "as tp of the same file"
    if all(part.is_named_land for part in column.parts):
        return Totals(), "the file calls itself ERA5-Land"
    steps = {part.grid_step for part in column.parts}
    if steps == {_LAND}:
        return Totals(), "a grid of 0.1 degrees is ERA5-Land's"
    if not only_rises(name) or verdict.largest <= _LEAST_RAIN:
        return None, ""
    if steps == {_ERA5} and not verdict.is_mixed:
        return None, "a grid of 0.25 degrees is ERA5's"
    raise InputError(
        f"{column.parts[0].label}: {name} may hold sums of one hour (as ERA5) or running totals "
        f"(as ERA5-Land), and nothing tells which: {verdict.evidence}."
    )
