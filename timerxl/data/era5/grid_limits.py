"""Gridded files before they are opened: what they declare against memory, and where they lead.

A tiny file can declare any shape (fill values, compressed chunks, constant fields), and HDF5 can
point to other files. Coordinates are read whole, fields in blocks; so only the former are counted
here, the latter by GridFile.blocks.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from timerxl.config import InputError
from timerxl.untrusted import MOST_JSON_BYTES, check_memory, plain, reason

_MOST_VARIABLES = 10_000  # of a file; also the most attributes of one of them
_BYTES_PER_VALUE = 48  # of a coordinate: as stored, as times, as seconds, and copies of them
_ZARR_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def check_hdf5(path: Path, label: str) -> None:
    """Raise InputError for a NetCDF-4 file that leads to other files or declares too much."""
    import h5py  # type: ignore[import-untyped]

    with h5py.File(path, "r") as file:
        _check_count(label, len(file), "variables")
        _check_count(label, len(file.attrs), "attributes")
        counted = 0
        for name in file:
            link = file.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{label}: {plain(name, 80)} is a link; expected data of its own.")
            found = file[name]
            _check_count(label, len(found.attrs), f"attributes of {plain(name, 80)}")
            if not isinstance(found, h5py.Dataset):
                continue
            if found.external or found.is_virtual:
                raise InputError(
                    f"{label}: the values of {plain(name, 80)} lie in other files; expected a file "
                    "that holds its own (nccopy IN OUT)."
                )
            counted += _counted(name, found.shape or (), found.dtype.itemsize)
    check_memory(counted, f"the coordinates of {label}")


def check_zarr(path: Path, label: str) -> None:
    """Raise InputError for a Zarr store with links in it, or that declares too much."""
    import zarr

    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            if (place := Path(folder, name)).is_symlink():
                raise InputError(f"{label} holds a link, {plain(place)}; expected files alone.")
        for name in set(names) & set(_ZARR_METADATA):
            if (size := Path(folder, name).stat().st_size) > MOST_JSON_BYTES:
                raise InputError(
                    f"{label}: {plain(Path(folder, name))} has {size:,} bytes; expected at most "
                    f"{MOST_JSON_BYTES:,}."
                )
    arrays: list[tuple[str, Any]] = list(zarr.open_group(path, mode="r").arrays())
    _check_count(label, len(arrays), "variables")
    counted = sum(_counted(name, of.shape, of.dtype.itemsize) for name, of in arrays)
    check_memory(counted, f"the coordinates of {label}")


def check_grib(path: Path, label: str) -> None:
    """Raise InputError for GRIB with a message of more points than there is memory for.

    A constant field is a message of a few bytes, whatever its size.
    """
    import eccodes  # type: ignore[import-untyped]

    points = 0
    try:
        with path.open("rb") as file:
            while (message := eccodes.codes_grib_new_from_file(file, True)) is not None:
                points = max(points, int(eccodes.codes_get(message, "numberOfDataPoints")))
                eccodes.codes_release(message)
    except eccodes.CodesInternalError as error:
        raise InputError(f"{label} can't be opened as GRIB: {reason(error)}.") from error
    check_memory(points * _BYTES_PER_VALUE, f"a field of {points:,} points in {label}")


def _counted(name: str, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of a variable that is read whole: of one dimension, bounds of times, times by step."""
    is_whole = len(shape) < 2 or (len(shape) == 2 and (shape[1] == 2 or "time" in name))
    return math.prod(shape) * (itemsize + _BYTES_PER_VALUE) if is_whole else 0


def _check_count(label: str, count: int, what: str) -> None:
    if count > _MOST_VARIABLES:
        raise InputError(f"{label} has {count:,} {what}; expected at most {_MOST_VARIABLES:,}.")
