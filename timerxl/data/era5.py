"""ERA5 NetCDF files as plain numpy: both layouts of the Climate Data Store, read block by block.

The only file that imports xarray. Understood are the new layout (``valid_time``, ``expver`` as a
string per time, ``number``) and the old one (``time``, ``expver`` as a dimension whose two halves
hold NaN where the other has data). Shapes: T times, Y latitudes, X longitudes of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from timerxl.config import InputError

FINAL, PRELIMINARY, UNKNOWN_VERSION = 0, 1, 2
_TIMES, _LATITUDES, _LONGITUDES = ("valid_time", "time"), ("latitude", "lat"), ("longitude", "lon")
_LEVELS = ("pressure_level", "level", "isobaricInhPa")
_BLOCK_BYTES = 64 * 2**20
_HOUR = np.timedelta64(3600, "s")


@dataclass(frozen=True)
class Variable:
    """One column that a file offers; ``column`` holds the level where there are several."""

    column: str
    name: str
    unit: str
    description: str
    step_type: str  # of the GRIB message (instant, accum, avg, max, min); "" where not told
    level: tuple[str, int] | None = None  # dimension and index


class Era5File:
    """An open file: its coordinates, its variables, and blocks of their values.

    ``hours`` [T] int64 since 1970-01-01 00 UTC; ``version`` [T] int8: FINAL, PRELIMINARY or unknown
    (with ``expver`` as a dimension: see :meth:`blocks`); ``latitude`` [Y], ``longitude`` [X].
    """

    def __init__(self, dataset: xr.Dataset, label: str) -> None:
        self.dataset, self.label = dataset, label
        self.time = self._one_of(_TIMES, "time")
        self._lat, self._lon = self._one_of(_LATITUDES, "latitude"), self._one_of(_LONGITUDES, "")
        self.latitude = self._numbers(self._lat)
        self.longitude = self._numbers(self._lon)
        self.hours = self._hours()
        self.version_dimension = "expver" if "expver" in dataset.dims else None
        self.version = self._version()
        self.title = " ".join(str(value) for value in dataset.attrs.values())
        self.is_synthetic = "SYNTHETIC" in self.title
        title = self.title.lower()
        self.is_named_land = "era5-land" in title or "era5_land" in title or '"land"' in title
        self.grid_step = self._grid_step()
        self.skipped: list[str] = []
        self.variables = list(self._variables())

    def blocks(
        self, variable: Variable, rows: slice, columns: slice
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(times, values [t, y, x] float, version [t] int8) over all times, a few at once.

        ``rows`` and ``columns`` cut latitude and longitude. A block is whole chunks of the file of
        64 MiB, or one chunk where that's larger: a chunk is only ever unpacked as a whole.
        """
        data = self.dataset[variable.name].isel({self._lat: rows, self._lon: columns})
        if variable.level is not None:
            data = data.isel({variable.level[0]: variable.level[1]})
        order = [self.time, self._lat, self._lon]
        if self.version_dimension in data.dims:
            order.append("expver")
        data = data.transpose(*[d for d in order], ...).squeeze(drop=True, dim=self._ones(data))
        chunk = self._chunk(variable)
        per_time = max(data.size // max(len(self.hours), 1), 1) * 8
        length = max(_BLOCK_BYTES // per_time // chunk, 1) * chunk
        for first in range(0, len(self.hours), length):
            times = slice(first, min(first + length, len(self.hours)))
            try:
                block = np.asarray(data.isel({self.time: times}).values)
            except (OSError, RuntimeError, ValueError, KeyError) as error:
                raise InputError(
                    f"{self.label}: {variable.name} can't be read ({_first_line(error)}); the file "
                    "is damaged or cut short, download it again."
                ) from error
            if block.ndim == 4:
                block, version = self._join_versions(block)
            else:
                version = self.version[times]
            yield times, block, version

    def _ones(self, data: xr.DataArray) -> list[str]:
        kept = (self.time, self._lat, self._lon, "expver")
        return [str(d) for d in data.dims if d not in kept]

    def _chunk(self, variable: Variable) -> int:
        found = self.dataset[variable.name]
        sizes = found.encoding.get("chunksizes")
        return int(sizes[found.dims.index(self.time)]) if sizes else 1

    def _join_versions(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[t, y, x, v] to [t, y, x]: final data where there are any, else preliminary."""
        ranks = _ranks(self.dataset["expver"].values)
        joined = np.full(block.shape[:3], np.nan, dtype=block.dtype)
        version = np.full(len(block), UNKNOWN_VERSION, dtype=np.int8)
        for index in np.argsort(ranks, kind="stable")[::-1]:
            known = ~np.isnan(block[..., index])
            joined[known] = block[..., index][known]
            version[known.any(axis=(1, 2))] = ranks[index]
        return joined, version

    def _one_of(self, names: tuple[str, ...], what: str) -> str:
        for name in names:
            if name in self.dataset.dims and name in self.dataset.variables:
                return name
        raise InputError(
            f"{self.label} has no {what or 'longitude'} axis ({' or '.join(names)}); its "
            f"dimensions are {', '.join(map(str, self.dataset.dims)) or 'none'}. Expected ERA5 on "
            "a regular grid of latitude and longitude, one field per time."
        )

    def _numbers(self, name: str) -> np.ndarray:
        return np.asarray(self.dataset[name].values, dtype=np.float64)

    def _grid_step(self) -> float | None:
        """Degrees between neighbouring cells, to 0.001; None for a cell or an uneven grid.

        Of one row or column of cells, GRIB's own attribute tells what grid it was cut from.
        """
        for axis in (self.latitude, self.longitude):
            steps = np.abs(np.diff(axis))
            if len(steps) and np.allclose(steps, steps[0], atol=2e-3):
                return round(float(np.median(steps)), 3)
        for data in self.dataset.data_vars.values():
            told = data.attrs.get("GRIB_iDirectionIncrementInDegrees")
            if told is not None:
                return round(float(told), 3)
        return None

    def _hours(self) -> np.ndarray:
        times = self.dataset[self.time].values
        if not np.issubdtype(times.dtype, np.datetime64) or not times.size:
            raise InputError(f"{self.label}: {self.time} holds no times ({times.dtype}).")
        seconds = times.astype("datetime64[s]")
        hours = seconds.astype(np.int64) // 3600
        if (off := (seconds != times) | (seconds.astype(np.int64) % 3600 != 0)).any():
            raise InputError(f"{self.label} holds the time {times[off][0]}; expected whole hours.")
        return hours

    def _version(self) -> np.ndarray:
        version = np.full(len(self.hours), FINAL, dtype=np.int8)
        if "expver" in self.dataset.variables and self.version_dimension is None:
            ranks = _ranks(np.atleast_1d(self.dataset["expver"].values))
            version[:] = ranks if len(ranks) == len(version) else ranks[0]
        return version

    def _variables(self) -> Iterator[Variable]:
        for name, data in self.dataset.data_vars.items():
            label = str(name)
            if not {self.time, self._lat, self._lon} <= set(data.dims) or data.dtype.kind not in (
                "fiu"
            ):
                self.skipped.append(label)
                continue
            extra = [
                str(d)
                for d in data.dims
                if d not in (self.time, self._lat, self._lon, "expver") and data.sizes[d] > 1
            ]
            if extra and (len(extra) > 1 or extra[0] not in _LEVELS):
                raise InputError(
                    f"{self.label}: {label} has the further axis {', '.join(extra)} "
                    f"(sizes {[data.sizes[d] for d in extra]}); expected one field per time. Of "
                    "an ensemble take the product type reanalysis."
                )
            attributes = data.attrs
            common: dict[str, Any] = {
                "name": label,
                "unit": str(attributes.get("units", attributes.get("GRIB_units", ""))),
                "description": str(attributes.get("long_name", label)),
                "step_type": str(attributes.get("GRIB_stepType", "")),
            }
            if not extra:
                yield Variable(column=label, **common)
                continue
            for index, value in enumerate(self.dataset[extra[0]].values):
                yield Variable(
                    column=f"{label}_{float(value):g}", level=(extra[0], index), **common
                )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _ranks(versions: Any) -> np.ndarray:
    """``expver`` as 1, "1", "0001" or b"0001" (final), 5 (preliminary, ERA5T), or another."""
    found = []
    for value in np.ravel(versions):
        text = value.decode() if isinstance(value, bytes) else str(value)
        number = text.strip().removesuffix(".0").lstrip("0")
        found.append({"1": FINAL, "5": PRELIMINARY}.get(number, UNKNOWN_VERSION))
    return np.array(found, dtype=np.int8)


@contextmanager
def open_era5(path: Path, label: str) -> Iterator[Era5File]:
    """Open a NetCDF-4 (through h5netcdf) or a classic NetCDF-3 file (through scipy).

    ``label`` names the file in errors. Raises InputError where it's neither, damaged, or no ERA5.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    engine = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}.get(magic[:4])
    if engine is None:
        raise InputError(f"{label} is no NetCDF file (it starts with {magic!r}).")
    try:
        dataset = xr.open_dataset(path, engine=engine, cache=False, decode_timedelta=False)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{label} can't be opened as NetCDF: {_first_line(error)}. Download it again if it "
            "was cut short."
        ) from error
    try:
        yield Era5File(dataset, label)
    finally:
        dataset.close()
