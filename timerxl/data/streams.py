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
from timerxl.data.accumulation import only_rises
from timerxl.data.era5 import PRELIMINARY, Era5File, Variable, open_era5
from timerxl.data.regions import GridMeans, Region, grid_means
from timerxl.data.series_file import sha256_of

_PACKING = 1e-4  # of a part's range: two packings of one field may differ by this much
_MAX_MEMBERS = 1000


@dataclass
class Part:
    """One column of one file: ``hours`` [T] ascending, each once; values [G, T] in ``path``."""

    label: str
    hours: np.ndarray
    version: np.ndarray
    path: Path
    value_range: float

    def values(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")


@dataclass
class Column:
    """All parts of one column, in the order of the files given."""

    variable: Variable
    kind: str
    since_midnight: bool = False
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
        begin = (first - 1) // 24 * 24 if self.since_midnight else first
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
        covered = accumulation.covered_hours(~np.isnan(values), begin, self.since_midnight)
        if self.since_midnight:
            values = accumulation.deaccumulate(values, begin)
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
                # Sums that can't fall tell best how sums add up; the others follow them.
                for variable in sorted(file.variables, key=lambda v: not only_rises(v.name)):
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
    return streams


def _read_column(
    streams: Streams, file: Era5File, variable: Variable, grid: GridMeans, folder: Path
) -> None:
    means = np.empty((len(grid.cells), len(file.hours)))
    version = np.empty(len(file.hours), dtype=np.int8)
    low, high = np.inf, -np.inf
    for times, block, ranks in file.blocks(variable, grid.rows, grid.columns):
        means[:, times], version[times] = grid.means(block), ranks
        if not np.isnan(block).all():
            low, high = min(low, float(np.nanmin(block))), max(high, float(np.nanmax(block)))
    kind = accumulation.step_type(variable.name, variable.step_type)
    midnight = kind == accumulation.SUM and _since_midnight(streams, file, variable, means)
    column = streams.columns.setdefault(variable.column, Column(variable, kind, midnight))
    if (column.kind, column.variable.unit) != (kind, variable.unit):
        raise InputError(
            f"{file.label}: {variable.column} is {kind} in {variable.unit!r}; the files before "
            f"have it {column.kind} in {column.variable.unit!r}. Prepare them apart."
        )
    if column.since_midnight != midnight:
        raise InputError(
            f"{file.label}: {variable.column} adds up {'from 00 UTC' if midnight else 'hourly'}, "
            "unlike the files before: ERA5-Land and ERA5 can't be one column. Give one of them."
        )
    if midnight:
        note = f"{variable.column} adds up from 00 UTC as in ERA5-Land: taken apart into its hours."
        streams.notes += [] if note in streams.notes else [note]
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
        column.parts.append(part)


def _since_midnight(
    streams: Streams, file: Era5File, variable: Variable, means: np.ndarray
) -> bool:
    """Whether a sum adds up from 00 UTC: ERA5-Land by its name, its grid or its behaviour."""
    title = file.title.lower()
    named = "era5-land" in title or "era5_land" in title or '"land"' in title
    tenth = len(file.latitude) > 1 and np.allclose(np.abs(np.diff(file.latitude)), 0.1, atol=1e-3)
    if not only_rises(variable.name):
        read = (c for c in streams.columns.values() if c.parts[-1].label == file.label)
        return named or bool(tenth) or any(column.since_midnight for column in read)
    order = np.argsort(file.hours, kind="stable")
    rises = accumulation.rises_all_day(means[:, order], file.hours[order])
    if rises is False and named:
        raise InputError(
            f"{file.label} calls itself ERA5-Land, but {variable.column} falls within a day "
            "instead of adding up from 00 UTC: it was changed after the download. Give the file "
            "as the Climate Data Store delivers it."
        )
    return bool(rises) or (rises is None and bool(named or tenth))
