"""Gridded files as plain numpy, read block by block: NetCDF, Zarr stores and GRIB.

The door to xarray. Understood are the layouts of the Climate Data Store, new (``valid_time``,
``expver`` as a string per time, ``number``) and old (``time``, ``expver`` as a dimension whose two
halves hold NaN where the other has data), forecasts by base time and step, grids named by CF's
attributes, and single points or stations. Shapes: T times, Y latitudes, X longitudes of the file; P
points are a grid of 1 x P.
"""

from __future__ import annotations

import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from timerxl.config import InputError
from timerxl.data.era5.accumulation import Variable, most_common
from timerxl.untrusted import MOST_JSON_BYTES, check_memory, plain, reason

# ARCO-ERA5 and WeatherBench 2: the names of the Climate Data Store, in full.
_LONG = {
    "2m_temperature": "t2m", "2m_dewpoint_temperature": "d2m",
    "10m_u_component_of_wind": "u10", "10m_v_component_of_wind": "v10",
    "100m_u_component_of_wind": "u100", "100m_v_component_of_wind": "v100",
    "mean_sea_level_pressure": "msl", "surface_pressure": "sp",
    "total_column_water_vapour": "tcwv", "total_column_water": "tcw",
    "total_cloud_cover": "tcc", "low_cloud_cover": "lcc", "medium_cloud_cover": "mcc",
    "high_cloud_cover": "hcc", "sea_surface_temperature": "sst", "skin_temperature": "skt",
    "convective_available_potential_energy": "cape", "convective_inhibition": "cin",
    "boundary_layer_height": "blh", "snow_depth": "sd", "sea_ice_cover": "siconc",
    "convective_precipitation": "cp", "large_scale_precipitation": "lsp", "snowfall": "sf",
    "evaporation": "e", "runoff": "ro", "surface_runoff": "sro", "k_index": "kx",
    "surface_solar_radiation_downwards": "ssrd", "surface_thermal_radiation_downwards": "strd",
    "surface_net_solar_radiation": "ssr", "surface_net_thermal_radiation": "str",
    "top_net_solar_radiation": "tsr", "top_net_thermal_radiation": "ttr",
    "toa_incident_solar_radiation": "tisr", "surface_sensible_heat_flux": "sshf",
    "surface_latent_heat_flux": "slhf", "mean_total_precipitation_rate": "mtpr",
    "instantaneous_10m_wind_gust": "i10fg", "10m_wind_gust_since_previous_post_processing": "fg10",
    "maximum_2m_temperature_since_previous_post_processing": "mx2t",
    "minimum_2m_temperature_since_previous_post_processing": "mn2t",
    "volumetric_soil_water_layer_1": "swvl1", "soil_temperature_level_1": "stl1",
    "temperature": "t", "specific_humidity": "q", "geopotential": "z", "relative_humidity": "r",
    "u_component_of_wind": "u", "v_component_of_wind": "v", "vertical_velocity": "w",
    "vorticity": "vo", "divergence": "d",
    # MERRA-2
    "t2m": "t2m", "t2mdew": "d2m", "u10m": "u10", "v10m": "v10", "ps": "sp", "slp": "msl",
    "tqv": "tcwv",
    # CF and CMIP
    "tas": "t2m", "tdps": "d2m", "uas": "u10", "vas": "v10", "psl": "msl", "prw": "tcwv",
}  # fmt: skip
# Total precipitation only: not its convective part, not snow.
_RAIN = frozenset(
    "tp total_precipitation prectotcorr prectot pr prate precip rr precipitation rainfall "
    "precipitationcal".split()
)
_RAIN_STANDARD = frozenset(
    "precipitation_amount lwe_thickness_of_precipitation_amount precipitation_flux "
    "lwe_precipitation_rate rainfall_amount rainfall_flux thickness_of_rainfall_amount".split()
)
_WINDOW = re.compile(r"(?P<name>\w+?)_(?P<hours>\d{1,2})hr?")


def short_name(name: str) -> tuple[str, int | None]:
    """Return (ERA5's short name, else the name itself; hours of the sum that the name tells).

    ``total_precipitation_6hr`` of WeatherBench 2 is ``tp``, the sum over the past 6 hours.
    """
    lower = name.lower()
    match = _WINDOW.fullmatch(lower)
    bare, hours = (match["name"], int(match["hours"])) if match else (lower, None)
    if bare in _RAIN:
        return "tp", hours
    if hours is None and lower in _LONG:
        return _LONG[lower], None
    return name, None


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


FINAL, PRELIMINARY, UNKNOWN_VERSION = 0, 1, 2
_LEADS = ("step", "prediction_timedelta", "lead_time", "leadtime", "forecast_period")
_LEVELS = ("pressure_level", "level", "isobaricInhPa", "plev")
_AXES = {
    "latitude": ("latitude", "lat", "nav_lat", "y"),
    "longitude": ("longitude", "lon", "nav_lon", "x"),
}
_UNITS = {"latitude": r"degrees?_?n(orth)?", "longitude": r"degrees?_?e(ast)?"}
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_BLOCK_BYTES = 64 * 2**20
_DAMAGED = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError)


class GridFile:
    """An open file: its coordinates, its variables, and blocks of their values.

    ``seconds`` [T] int64 since 1970-01-01 00 UTC, as the file stamps them; ``version`` [T] int8:
    FINAL, PRELIMINARY or unknown (with ``expver`` as a dimension: see :meth:`blocks`);
    ``latitude`` [Y], ``longitude`` [X], or both [P] where ``is_points``. ``bounds`` [T, 2] are of
    CF, ``spacing`` is the most common distance of neighbouring stamps in seconds (None of a single
    one), ``time_shift`` the attribute of a daily statistic.
    """

    def __init__(self, dataset: xr.Dataset, label: str) -> None:
        self.dataset, self.label = dataset, label
        self._time, self._time_dims, self.seconds = self._find_times()
        self._space_dims, self.latitude, self.longitude = self._find_places()
        self.is_points = len(self._space_dims) == 1
        self.title = " ".join(str(value) for value in dataset.attrs.values())
        self.history = str(dataset.attrs.get("history", ""))
        self.is_synthetic = "SYNTHETIC" in self.title
        self.is_named_land = bool(re.search(r'era5[-_]land|"land"', self.title.lower()))
        self.is_grib = "grib_to_netcdf" in self.history or "cfgrib" in self.history
        self.is_grib |= any(
            str(key).startswith("GRIB_") for of in dataset.variables.values() for key in of.attrs
        )
        self.grid_step = self._grid_step()
        self.has_steps = len(self._time_dims) == 2
        self.spacing = most_common(np.diff(np.unique(self.seconds)))
        shift = dataset[self._time].attrs.get("time_shift")
        self.time_shift = None if shift is None else str(shift)
        self.bounds: np.ndarray | None = None
        if (name := self._bounds_name()) is not None:
            self.bounds = dataset[name].values.astype("datetime64[s]").astype(np.int64)
        self.version = np.full(len(self.seconds), FINAL, dtype=np.int8)
        if "expver" in dataset.variables and "expver" not in dataset.dims:
            ranks = _ranks(dataset["expver"].values)
            self.version[:] = ranks if len(ranks) == len(self.version) else ranks[0]
        self.skipped: list[str] = []
        self.variables = list(self._find_variables())

    def _error(self, problem: str) -> InputError:
        return InputError(f"{self.label}: {problem}")

    def blocks(
        self, variable: Variable, rows: slice, columns: slice
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (times, values [t, y, x] float, version [t] int8) over all times, a few at once.

        ``rows`` and ``columns`` cut latitude and longitude. A block is whole chunks of the file of
        64 MiB, or one chunk where that's larger: a chunk is only ever unpacked as a whole.
        """
        whole = self.dataset[variable.original]
        cuts = (columns,) if self.is_points else (rows, columns)
        cut = {d: c for d, c in zip(self._space_dims, cuts, strict=True) if d is not None}
        data = whole.isel({**cut, **variable.level})
        order = [*self._time_dims, *cut, *(["expver"] if "expver" in data.dims else [])]
        data = data.squeeze([d for d in data.dims if d not in order], drop=True).transpose(*order)
        height = 1 if self.is_points else len(self.latitude[rows])
        time, count = order[0], data.sizes[order[0]]
        steps = len(self.seconds) // count
        chunks = whole.encoding.get("chunksizes") or whole.encoding.get("chunks") or ()
        chunk = int(chunks[whole.dims.index(time)]) if chunks else 1
        per_time = max(data.size // count, 1) * 8
        length = max(_BLOCK_BYTES // per_time // chunk, 1) * chunk
        size = (
            3 * min(length, count) * per_time + math.prod(map(int, chunks)) * whole.dtype.itemsize
        )
        check_memory(size, f"{self.label}: a block of {variable.original}")
        for first in range(0, count, length):
            try:
                block = np.asarray(data.isel({time: slice(first, first + length)}).values)
            except _DAMAGED as error:
                raise self._error(
                    f"{variable.original} can't be read ({_first_line(error)}); the file is "
                    "damaged or cut short, download it again."
                ) from error
            times = slice(first * steps, min(first + length, count) * steps)
            shape = (times.stop - times.start, height, -1)
            if "expver" not in order:
                yield times, block.reshape(shape), self.version[times]
                continue
            versions = data.sizes["expver"]
            yield times, *self._join_versions(block.reshape(-1, versions), shape)

    def _join_versions(
        self, block: np.ndarray, shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """[n, v] to ``shape`` [t, y, x]: final data where there are any, else preliminary."""
        ranks = _ranks(self.dataset["expver"].values)
        joined = np.full(len(block), np.nan, dtype=block.dtype).reshape(shape)
        version = np.full(len(joined), UNKNOWN_VERSION, dtype=np.int8)
        for index in np.argsort(ranks, kind="stable")[::-1]:
            values = block[:, index].reshape(shape)
            known = ~np.isnan(values)
            joined[known] = values[known]
            version[known.any(axis=(1, 2))] = ranks[index]
        return joined, version

    def _find_times(self) -> tuple[str, list[str], np.ndarray]:
        """The variable of times, its dimensions (one, or base time and step), seconds [T]."""
        name = self._time_name()
        found = self.dataset[name]
        if found.dtype.kind in "iuf":
            raise self._error(
                f"{name} holds numbers in {found.attrs.get('units', 'no unit')!r}, no times; "
                "expected a unit such as 'hours since 1900-01-01' (cdo -r copy IN OUT)."
            )
        if found.dtype.kind != "M":
            calendar = str(found.encoding.get("calendar", found.attrs.get("calendar", "")))
            raise self._error(
                f"{name} holds no times of the usual calendar ({calendar or found.dtype}); such "
                "years can't be joined with weather: convert them first."
            )
        if not found.size:
            raise self._error(f"{name} holds no times.")
        dims = [str(d) for d in found.dims]
        values = found.values.astype("datetime64[ns]").astype(np.int64)
        lead = next((d for d in _LEADS if d in self.dataset.variables), None)
        if name != "valid_time" and lead is not None:
            steps = self._lead_seconds(lead) * 10**9
            check_memory(48 * values.size * steps.size, f"{self.label}: each time at each step")
            values = np.add.outer(values, steps)
            dims += map(str, self.dataset[lead].dims[: steps.ndim])
        if not dims:
            raise InputError(f"{self.label} holds one time only ({name}); expected a series.")
        if len(dims) > 2:
            raise self._error(
                f"its times have the axes {', '.join(dims)}; expected one, or base time and step."
            )
        if (odd := values[values % 10**9 != 0]).size:
            raise InputError(
                f"{self.label} holds the time {odd[0].astype('datetime64[ns]')}; expected whole "
                "hours."
            )
        return name, dims, values.ravel() // 10**9

    def _time_name(self) -> str:
        data = self.dataset
        for name in ("valid_time", "time", "forecast_reference_time"):
            if name in data.variables and (data[name].dims or any(d in data.dims for d in _LEADS)):
                return name
        for name in map(str, data.dims):
            told = data[name].attrs if name in data.variables else {}
            if name in data.variables and (
                told.get("standard_name") == "time"
                or told.get("axis") == "T"
                or data[name].dtype.kind == "M"
            ):
                return name
        raise InputError(
            f"{self.label} has no time axis (valid_time or time); its dimensions are "
            f"{', '.join(map(str, data.dims)) or 'none'}. Expected one field per time."
        )

    def _lead_seconds(self, name: str) -> np.ndarray:
        found = self.dataset[name]
        if found.dtype.kind == "m":
            return found.values.astype("timedelta64[s]").astype(np.int64)
        unit = str(found.attrs.get("units", "hours")).lower().rstrip("s")
        known = {
            "hour": 3600,
            "h": 3600,
            "day": 86400,
            "minute": 60,
            "second": 1,
            "nanosecond": 1e-9,
        }
        if unit not in known:
            raise self._error(f"{name} is in {unit!r}; expected hours or days.")
        return np.rint(np.asarray(found.values, dtype=np.float64) * known[unit]).astype(np.int64)

    def _find_places(self) -> tuple[tuple[str | None, ...], np.ndarray, np.ndarray]:
        """Dimensions of space, latitudes and longitudes.

        Of a grid the dimensions of latitude and longitude (None where it's one row or column), of
        points the one that they lie along (None for a single point).
        """
        names = [self._coordinate(axis) for axis in _AXES]
        found = [self.dataset[name] for name in names]
        found = [one if one.ndim == 1 else one.squeeze() for one in found]
        if any(one.ndim > 1 for one in found):
            raise self._error(
                f"{' and '.join(names)} have the axes "
                f"{', '.join(map(str, self.dataset[names[0]].dims))}, a projected or curved grid; "
                "expected a regular one of latitude and longitude: regrid it first (cdo remapbil, "
                "xesmf)."
            )
        latitude, longitude = (np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in found)
        if not (np.isfinite(latitude).all() and np.isfinite(longitude).all()):
            raise self._error("a latitude or longitude is missing (NaN).")
        dims = tuple(str(one.dims[0]) if one.ndim else None for one in found)
        if set(dims) & set(self._time_dims):
            raise self._error("its place changes with time; expected fixed places.")
        return dims[:1] if dims[0] == dims[1] else dims, latitude, longitude

    def _coordinate(self, axis: str) -> str:
        """The variable of an axis: by its usual name, else by its standard name or units."""
        variables = {str(name): found.attrs for name, found in self.dataset.variables.items()}
        told = [
            name
            for name, attributes in variables.items()
            if attributes.get("standard_name") == axis
            or re.fullmatch(_UNITS[axis], str(attributes.get("units", "")).lower())
        ]
        # x and y are degrees only where their units or standard name say so.
        usual = [n for n in _AXES[axis] if n in told or (n in variables and n not in ("x", "y"))]
        if usual or told:
            return (usual or told)[0]
        projected = [
            name
            for name, attributes in variables.items()
            if re.search("projection|grid_latitude", str(attributes.get("standard_name", "")))
            or name in ("x", "y", "rlat", "rlon")
        ]
        if projected:
            raise InputError(
                f"{self.label} has the axes {', '.join(projected[:2])} of a projected grid; "
                "expected a regular grid of latitude and longitude: regrid it first."
            )
        raise InputError(
            f"{self.label} has no {axis} axis ({' or '.join(_AXES[axis][:2])}); its "
            f"dimensions are {', '.join(map(str, self.dataset.dims)) or 'none'}. Expected a "
            "regular grid of latitude and longitude, one field per time, or for a point its "
            "latitude and longitude as coordinates."
        )

    def _grid_step(self) -> float | None:
        """Degrees between neighbouring cells, to 0.001; None for points or an uneven grid.

        Of one row, column or cell, GRIB's own attribute tells what grid it was cut from.
        """
        for data in self.dataset.data_vars.values():
            if (told := data.attrs.get("GRIB_iDirectionIncrementInDegrees")) is not None:
                return round(float(told), 3)
        for axis in () if self.is_points else (self.latitude, self.longitude):
            steps = np.abs(np.diff(axis))
            if len(steps) and np.allclose(steps, steps[0], atol=2e-3):
                return round(float(np.median(steps)), 3)
        return None

    def _bounds_name(self) -> str | None:
        time = self.dataset[self._time]
        name: str | None = time.attrs.get("bounds", time.encoding.get("bounds"))
        if name not in self.dataset.variables or self.has_steps:
            return None
        found = self.dataset[name]
        is_bounds = found.dtype.kind == "M" and found.shape == (len(self.seconds), 2)
        return name if is_bounds else None

    def _find_variables(self) -> Iterator[Variable]:
        own = {*self._time_dims, *(d for d in self._space_dims if d is not None)}
        fields: dict[str, tuple[xr.DataArray, list[str]]] = {}
        for key, data in self.dataset.data_vars.items():
            label = str(key)
            if label == self._bounds_name():
                continue
            if not own <= set(data.dims) or data.dtype.kind not in ("fiu"):
                self.skipped.append(f"{label} (no field per time)")
                continue
            extra = [str(d) for d in data.dims if d not in (*own, "expver") and data.sizes[d] > 1]
            if extra and (len(extra) > 1 or extra[0] not in _LEVELS):
                raise self._error(
                    f"{label} has the further axis {', '.join(extra)} "
                    f"(sizes {[data.sizes[d] for d in extra]}); expected one field per time. Of "
                    "an ensemble take the product type reanalysis."
                )
            fields[label] = data, extra
        names = self._short_names({label: data.attrs for label, (data, _) in fields.items()})
        for label, (data, extra) in fields.items():
            if label not in names:
                continue
            name, window = names[label]
            told = data.attrs
            levels: list[tuple[str, dict[str, int]]] = [(name, {})]
            if extra:
                values = self.dataset[extra[0]]
                scale = 100 if str(values.attrs.get("units", "")).lower() == "pa" else 1
                levels = [
                    (f"{name}_{float(value) / scale:g}", {extra[0]: index})
                    for index, value in enumerate(values.values)
                ]
            for column, level in levels:
                yield Variable(
                    column=column,
                    name=name,
                    unit=str(told.get("units", told.get("GRIB_units", ""))),
                    description=str(told.get("long_name", label)),
                    step_type=str(told.get("GRIB_stepType", "")),
                    level=level,
                    original=label,
                    cell_methods=str(told.get("cell_methods", "")),
                    window=window,
                    packed_codes=_packed_codes(data.encoding),
                )

    def _short_names(self, fields: dict[str, dict[str, Any]]) -> dict[str, tuple[str, int | None]]:
        """ERA5's short name of each variable; of several kinds of rain the one that fits best.

        That is the sum whose hours fill the distance of the stamps, the shortest of them; the
        others are left out, which ``skipped`` says.
        """
        names: dict[str, tuple[str, int | None]] = {}
        for label, told in fields.items():
            name, window = short_name(label)
            by, grib = (str(told.get(key, "")) for key in ("standard_name", "GRIB_shortName"))
            names[label] = ("tp" if by in _RAIN_STANDARD or grib == "tp" else name, window)
        rain = [label for label, (name, _) in names.items() if name == "tp"]
        if len(rain) > 1:
            spacing = (self.spacing or 3600) // 3600
            hours = {label: names[label][1] or 1 for label in rain}
            best = min(rain, key=lambda n: (n != "tp", hours[n] < spacing, hours[n]))
            for label in rain:
                if label != best:
                    names.pop(label)
                    self.skipped.append(f"{label} (rain is read from {best})")
        taken: set[str] = set()
        for label in sorted(names, key=lambda n: n != names[n][0]):
            name, window = names[label]
            names[label] = (label if name in taken else name, window)
            taken.add(names[label][0])
        return names


def _packed_codes(encoding: dict[Any, Any]) -> tuple[float, ...]:
    """What the usual fill values of a packed variable are once unpacked."""
    kind = encoding.get("dtype")
    if kind is None or np.dtype(kind).kind not in "iu":
        return ()
    limits = np.iinfo(np.dtype(kind))
    scale = float(encoding.get("scale_factor", 1.0))
    offset = float(encoding.get("add_offset", 0.0))
    codes = {limits.min, limits.max, limits.min + 1, limits.max - 1, -9999, -999}
    return tuple(code * scale + offset for code in codes if limits.min <= code <= limits.max)


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
def open_grid_files(path: Path, label: str) -> Iterator[list[GridFile]]:
    """Open NetCDF-4 (h5netcdf), NetCDF-3 (scipy), a Zarr store (a folder) or GRIB (cfgrib).

    GRIB comes as several: one for each set of messages that make one array. ``label`` names the
    file in errors. Raises InputError where it's none of these, damaged, or no grid of weather.
    """
    engine = "zarr" if path.is_dir() else _engine_of(path, label)
    try:
        datasets = _open(path, label, engine)
    except InputError:
        raise
    except _DAMAGED as error:
        what = "can't be opened as NetCDF"
        advice = " Download it again if it was cut short."
        if engine == "zarr":
            what, advice = "is a folder, and no Zarr store can be opened in it", ""
        elif engine == "cfgrib":
            what, advice = "can't be opened as GRIB", ""
        else:
            _refuse_calendar(path, label, engine)
        raise InputError(f"{label} {what}: {_first_line(error)}.{advice}") from error
    try:
        yield [GridFile(dataset, label) for dataset in datasets]
    finally:
        for dataset in datasets:
            dataset.close()


def _engine_of(path: Path, label: str) -> str:
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] == b"CDF\x05":
        raise InputError(
            f"{label} is NetCDF-3 of the kind CDF-5, which can't be read here; convert it: "
            "nccopy -k nc4 IN OUT."
        )
    engines = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy", b"GRIB": "cfgrib"}
    if magic[:4] not in engines:
        raise InputError(f"{label} is no NetCDF file (it starts with {magic!r}).")
    return engines[magic[:4]]


def _open(path: Path, label: str, engine: str) -> list[xr.Dataset]:
    if engine == "cfgrib":
        try:
            import cfgrib  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError(
                f"{label} is GRIB, which is read through cfgrib: pip install timerxl[grib] (or "
                "request NetCDF)."
            ) from error
        logging.getLogger("cfgrib").setLevel(logging.CRITICAL)
        check_grib(path, label)
        # Without an index file: nothing is left beside the input.
        found = cfgrib.open_datasets(str(path), backend_kwargs={"indexpath": ""}, cache=False)
        return [dataset for dataset in found if dataset.data_vars]
    with warnings.catch_warnings():
        if engine == "zarr":
            check_zarr(path, label)
            # A store without consolidated metadata is read all the same, and sorted: the order of
            # its variables is that of the folder's listing.
            warnings.simplefilter("ignore", RuntimeWarning)
        elif engine == "h5netcdf":
            check_hdf5(path, label)
        dataset = xr.open_dataset(path, engine=engine, cache=False, decode_timedelta=False)
    return [dataset[sorted(map(str, dataset.data_vars))] if engine == "zarr" else dataset]


def _refuse_calendar(path: Path, label: str, engine: str) -> None:
    """Name a calendar without leap days, where that's why the times can't be decoded."""
    try:
        with xr.open_dataset(path, engine=engine, decode_times=False) as dataset:
            calendars = {str(v.attrs.get("calendar", "")) for v in dataset.variables.values()}
    except _DAMAGED:
        return
    if odd := sorted(calendars - {"", *_CALENDARS}):
        raise InputError(
            f"{label} counts time in the calendar {odd[0]}; such years can't be joined with "
            "weather: convert them to the standard calendar first (cdo setcalendar,standard)."
        )
