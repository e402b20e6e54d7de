"""Area means of every gridded file, kept on disk.

Reading goes file by file and block by block; what stays are region means in a temporary folder, so
memory does not grow with the number of years. What a column is gets settled here (see
grid_checks.py), before anything is averaged or joined.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from timerxl.config import InputError
from timerxl.data.era5.accumulation import SUM, AccumulationEvidence, only_rises
from timerxl.data.era5.grid_checks import (
    CONVERTED,
    Said,
    check_amounts,
    check_once_a_day,
    check_told_sums,
    check_values,
    check_windows,
    decide_totals,
    kind_in_words,
    kind_of,
    note_meaning,
    rain_first,
    refuse_overlap,
    time_fact,
    unit_of,
)
from timerxl.data.era5.grid_columns import Column, Part, Streams
from timerxl.data.era5.grid_files import PRELIMINARY, GridFile, Variable, open_grid_files
from timerxl.data.era5.regions import GridMeans, Region, grid_means, point_means
from timerxl.data.era5.series_file import PRECIPITATION, sha256_of, sha256_of_folder
from timerxl.data.tables.column_records import ColumnRecord, Fact, KnownBy
from timerxl.data.tables.missing_codes import Extremes, mask
from timerxl.data.tables.quantities import conversion, fits
from timerxl.data.tables.time_meaning import meaning_of
from timerxl.untrusted import check_members, check_memory, check_room, plain

_MAX_MEMBERS = 1000


def grid_members(path: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, label) of a file or Zarr store itself, or of each NetCDF or GRIB inside a ZIP.

    A ZIP is known by its first bytes, whatever its suffix.

    Members are unpacked one at a time into ``folder`` under a name of ours: theirs is never a
    path, only a label. Raises InputError for other files and for damaged or encrypted archives.
    """
    if path.is_dir():
        yield path, path.name
        return
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] != b"PK\x03\x04":
        yield path, path.name
        return
    found = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > _MAX_MEMBERS:
                raise InputError(f"{path.name} holds {len(members)} files; expected a few.")
            check_members(path, members)
            for member in members:
                copy = folder / "member.nc"
                name = member.filename.replace("\\", "/").rsplit("/", 1)[-1]
                label = f"{path.name}:{plain(name, 80)}"
                with archive.open(member) as packed:
                    head = packed.read(4)
                    if head[:3] != b"CDF" and head not in (b"\x89HDF", b"GRIB"):
                        continue
                    check_room(member.file_size, folder, label)
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
        raise InputError(
            f"{path.name} is a ZIP without a NetCDF or GRIB file in it; unpack a Zarr store first."
        )


def read_streams(
    inputs: list[Path],
    regions: list[Region],
    folder: Path,
    wanted: list[str] | None,
    said: Said,
    tick: Callable[[str], None],
) -> Streams:
    """Area means of the ``wanted`` columns (None: all) of all files, kept below ``folder``.

    ``tick`` is called with a label after every column of every file. Raises InputError for files
    that can't be read, that don't cover a region, whose grids differ for one column, and for
    columns that contradict themselves or of which too little is known (see :class:`Said`).
    """
    streams = Streams()
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} is no file; give NetCDF, GRIB or Zarr (or ZIPs of them).")
        seconds: list[int] = []
        names: list[str] = []
        for copy, label in grid_members(path, folder):
            with open_grid_files(copy, label) as files:
                for file in files:
                    names += _read_file(streams, file, regions, folder, wanted, said, tick)
                    seconds += [int(file.seconds.min()), int(file.seconds.max())]
        sha256, size = (
            sha256_of_folder(path) if path.is_dir() else (sha256_of(path), path.stat().st_size)
        )
        streams.sources.append(
            {
                "path": path.name,
                "sha256": sha256,
                "bytes": size,
                "first": str(np.datetime64(min(seconds), "s")),
                "last": str(np.datetime64(max(seconds), "s")),
                "variables": names,
            }
        )
    said.check_columns(streams.columns)
    for column in rain_first(streams):
        if column.is_open:
            decide_totals(streams, column, said.parsed.get(column.name))
        elif column.kind == SUM and only_rises(column.variable.name):
            check_told_sums(column)
        finite = {code: n for code, n in column.masked.items() if n and np.isfinite(code)}
        column.record.masked(finite, "said", "--missing")
        if endless := sum(n for code, n in column.masked.items() if not np.isfinite(code)):
            streams.notes.append(f"{column.name}: {endless} infinite values are taken for missing.")
        if column.totals and any(part.known is not None for part in column.parts):
            streams.notes.append(
                f"cells of {column.name} are missing at times: where they change within a running "
                "total, the step is missing."
            )
        check_windows(streams, column)
        if column.name == PRECIPITATION:
            check_amounts(column)
    return streams


def _read_file(
    streams: Streams,
    file: GridFile,
    regions: list[Region],
    folder: Path,
    wanted: list[str] | None,
    said: Said,
    tick: Callable[[str], None],
) -> list[str]:
    """Read all wanted columns of one file; returns the names of all that it holds."""
    cells_of = point_means if file.is_points else grid_means
    grid = cells_of(regions, file.latitude, file.longitude, file.label)
    if streams.cells and streams.cells != grid.cells:
        streams.notes.append(
            f"{file.label} has {grid.cells} cells in the regions, other files "
            f"{streams.cells}; each column is averaged on its own grid."
        )
    streams.cells = streams.cells or grid.cells
    streams.is_synthetic |= file.is_synthetic
    if file.skipped:
        skipped = ", ".join(file.skipped)
        streams.notes.append(f"{file.label}: {skipped} skipped.")
    renamed = {v.original: v.name for v in file.variables if v.original != v.name}
    if renamed:
        words = ", ".join(f"{old} as {new}" for old, new in renamed.items())
        note = f"read by ERA5's short names: {words}."
        streams.notes += [] if note in streams.notes else [note]
    for variable in file.variables:
        if wanted is None or variable.column in wanted or variable.column == PRECIPITATION:
            _read_column(streams, file, variable, grid, folder, said)
            tick(f"{file.label} {variable.column}")
    return [variable.column for variable in file.variables]


def _read_column(
    streams: Streams,
    file: GridFile,
    variable: Variable,
    grid: GridMeans,
    folder: Path,
    said: Said,
) -> None:
    name = variable.column
    spoken = said.parsed.get(name)
    meaning = meaning_of(
        name, variable.name, variable.step_type, variable.cell_methods, variable.window,
        file.times, spoken,
    )  # fmt: skip
    quantity, unit = unit_of(file, variable, said)
    kind, window, mm_per_unit, is_open = kind_of(file, variable, meaning, unit.value, bool(spoken))
    file_hours = (file.seconds + meaning.shift) // 3600
    size = 3 * 8 * len(grid.cells) * len(file_hours)  # means, what is known of them, one copy
    check_memory(size, f"{file.label}: {name} at {len(file_hours):,} times")
    means = np.empty((len(grid.cells), len(file_hours)))
    version = np.empty(len(file_hours), dtype=np.int8)
    known = np.ones(means.shape)  # share of a region's weight in cells with a value
    low, high = np.inf, -np.inf
    evidence = AccumulationEvidence() if is_open or (kind == SUM and spoken is None) else None
    extremes, masked = Extremes(variable.packed_codes), dict.fromkeys(said.codes, 0)
    for times, block, ranks in file.blocks(variable, grid.rows, grid.columns):
        if said.codes:
            block, counts = mask(block, said.codes)
            masked = {code: count + counts.get(code, 0) for code, count in masked.items()}
        extremes.add(block)
        means[:, times], version[times] = grid.means(block), ranks
        if is_open and np.isnan(block).any():
            known[:, times] = grid.known_weights(block)
        if not np.isnan(block).all():
            low, high = min(low, float(np.nanmin(block))), max(high, float(np.nanmax(block)))
        if evidence is not None and only_rises(variable.name):
            cells = block.reshape(len(block), -1).T
            evidence.add(cells, file_hours[times], continues=times.start > 0)
    check_values(file, variable, quantity, unit, extremes, (low, high), said)
    check_once_a_day(file, name, meaning, file_hours, means)
    written = unit.value
    factor = 1.0
    if quantity is not None and quantity.key in CONVERTED and fits(unit.value, quantity):
        made = conversion(unit.value, quantity)
        if (made.scale, made.offset) != (1.0, 0.0):
            means, factor, written = made(means), made.scale, quantity.unit
    if name == PRECIPITATION:
        written = "mm"
    column = streams.columns.get(name)
    if column is None:
        record = ColumnRecord(variable.original, unit=unit)
        if quantity is not None:
            by: KnownBy = "inferred" if variable.original != variable.name else "file"
            record.quantity = Fact(quantity.key, by, f"the name {variable.original}")
        if written != unit.value:
            record.written_as = written
        record.time = time_fact(meaning, kind, window, is_open)
        column = Column(variable, kind, written, record, window, mm_per_unit, is_open)
        streams.columns[name] = column
        note_meaning(streams, column, meaning)
        if unit.known_by == "assumed":
            streams.notes.append(f"{name} is taken as {unit.value}: {unit.evidence}.")
    ours = (column.kind, column.window, column.is_open)
    # Two spellings of the unit that all are converted to are one: m/s and m s**-1.
    converted = quantity is not None and quantity.key in CONVERTED
    same_unit = converted or column.unit == written
    if ours != (kind, window, is_open) or not same_unit:
        raise InputError(
            f"{file.label}: {name} is {kind_in_words(kind, window)} in {written!r}; the files "
            f"before have it {kind_in_words(column.kind, column.window)} in {column.unit!r}. "
            "Prepare them apart."
        )
    if column.mm_per_unit != mm_per_unit:
        factor = mm_per_unit / column.mm_per_unit
        means = means * factor
    for code, count in masked.items():
        column.masked[code] = column.masked.get(code, 0) + count
    if preliminary := int((version == PRELIMINARY).sum()):
        streams.notes.append(
            f"{file.label}: {preliminary} hours of {name} are preliminary (ERA5T)."
        )
    if file.has_steps:
        refuse_overlap(file, name, file_hours, means)
    # A time that stands twice in one file (final and preliminary) makes two parts.
    order = np.argsort(file_hours, kind="stable")
    hours = file_hours[order]
    first = np.searchsorted(hours, hours)
    occurrence = np.arange(len(hours)) - first
    for turn in range(int(occurrence.max()) + 1):
        chosen = order[occurrence == turn]
        path = folder / f"{len(list(folder.glob('*.npy')))}.npy"
        np.save(path, means[:, chosen])
        spread = (high - low) * factor if high > low else 0.0
        largest = max(high, -low) * factor
        part = Part(file.label, file_hours[chosen], version[chosen], path, spread, largest)
        if (known != known[:, :1]).any():
            part.known = known[:, chosen]
        if evidence is not None:
            part.evidence, part.is_named_land = evidence, file.is_named_land
            part.grid_step = file.grid_step
        column.parts.append(part)
