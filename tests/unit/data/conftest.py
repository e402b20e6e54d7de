"""Small ERA5 files in the layouts of the Climate Data Store, written as a test needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from timerxl.cli import prepare_data as command

sys.path.append(str(Path(__file__).parent))  # audit_series

Writer = Callable[..., Path]


@pytest.fixture
def write_era5() -> Writer:
    return write


def write(
    path: Path,
    hours: np.ndarray,
    variables: dict[str, np.ndarray],
    *,
    latitude: np.ndarray | None = None,
    longitude: np.ndarray | None = None,
    units: dict[str, str] | None = None,
    old: bool = False,
    expver: list[str] | None = None,
    expver_dimension: list[int] | None = None,
    step_types: dict[str, str] | None = None,
    attributes: dict[str, Any] | None = None,
    chunk: int | None = None,
) -> Path:
    """``hours`` since 1970; variables [T, Y, X] (or [T, V, Y, X] with ``expver_dimension``).

    New layout: valid_time, number, expver per time, latitudes from north to south as they are
    given. ``old``: time, no GRIB attributes, classic NetCDF-3 packed to int16 as it was delivered.
    """
    latitude = np.array([1.0, 0.75]) if latitude is None else latitude
    longitude = np.array([10.0, 10.25]) if longitude is None else longitude
    time = "time" if old else "valid_time"
    dims = [time, *(["expver"] if expver_dimension else []), "latitude", "longitude"]
    coords: dict[str, Any] = {
        time: (time, (np.asarray(hours) * 3600).astype("datetime64[s]").astype("datetime64[ns]")),
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", longitude, {"units": "degrees_east"}),
    }
    if expver_dimension:
        coords["expver"] = ("expver", np.array(expver_dimension, dtype=np.int32))
    elif expver is not None:
        coords["expver"] = (time, np.array(expver, dtype=object))
    if not old:
        coords["number"] = 0
    known = {"tp": "m", "t2m": "K", "d2m": "K", "u10": "m s**-1", "v10": "m s**-1", "sp": "Pa"}
    known |= {"ssrd": "J m**-2"} | (units or {})
    data = {}
    for name, values in variables.items():
        attrs = {"units": known.get(name, "1"), "long_name": f"long {name}"}
        sums = name in ("tp", "ssrd", "sshf")
        if not old:
            attrs["GRIB_stepType"] = (step_types or {}).get(name, "accum" if sums else "instant")
        kind = np.float64 if old else np.float32
        data[name] = (dims, values.astype(kind), attrs)
    dataset = xr.Dataset(data, coords=coords, attrs={"Conventions": "CF-1.7"} | (attributes or {}))
    if not old:
        encoding: dict[str, Any] = {name: {"zlib": True, "complevel": 1} for name in data}
        for name, (_, values, _) in data.items():
            if chunk:
                encoding[name]["chunksizes"] = (chunk, *values.shape[1:])
        dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
        return path
    encoding = {time: {"units": "hours since 1900-01-01", "dtype": "int32"}}
    for name, (_, values, _) in data.items():
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        scale = (high - low) / 65000 or 1.0
        encoding[name] = {
            "dtype": "int16", "scale_factor": scale, "add_offset": (low + high) / 2,
            "_FillValue": np.int16(-32767),
        }  # fmt: skip
    dataset.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT", encoding=encoding)
    return path


@pytest.fixture
def prepare_data(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """launch/prepare_data.py in this process: (exit code, what it printed)."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = command.main(list(words))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run
