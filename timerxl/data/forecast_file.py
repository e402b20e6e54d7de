"""Forecasts to a file: Parquet or CSV, a row per region and issue time, or NetCDF on a grid."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from timerxl.config import InputError

SUFFIXES = (".parquet", ".csv", ".nc")


def check_output(path: Path) -> None:
    """Raise InputError where :func:`write_forecasts` could not write, before any long work."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {path}: expected a name ending in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--output {path}: the folder {path.parent} can't be written to.")


def write_forecasts(forecasts: pd.DataFrame, path: Path) -> None:
    """Write what ``Forecaster.predict`` returned, whole or not at all.

    NetCDF (CF 1.11) has the dimensions region and issue_time; where a region has no forecast for a
    time its values are missing. Raises InputError as :func:`check_output` does.
    """
    check_output(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        plain = forecasts.copy()
        plain.attrs = {}  # pandas would have to store them as JSON in Parquet
        if path.suffix.lower() == ".parquet":
            plain.to_parquet(temporary, index=False)
        elif path.suffix.lower() == ".csv":
            plain.to_csv(temporary, index=False, date_format="%Y-%m-%dT%H:%M:%S")
        else:
            _write_netcdf(forecasts, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"--output {path} can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_netcdf(forecasts: pd.DataFrame, path: Path) -> None:
    import xarray

    grid = forecasts.drop(columns="valid_until").set_index(["region", "issue_time"])
    grid["rain"] = grid["rain"].astype("float32")  # missing where there is no forecast
    dataset = xarray.Dataset.from_dataframe(grid)
    event = str(forecasts.attrs.get("event", ""))
    synthetic = bool(forecasts.attrs.get("trained_on_synthetic"))
    dataset.attrs = {
        "Conventions": "CF-1.11",
        "title": "Rain forecasts of Timer-XL",
        "source": "Timer-XL" + " trained on SYNTHETIC data, no observation" * synthetic,
        "trained_on_synthetic": str(synthetic).lower(),
    }
    if notes := forecasts.attrs.get("notes"):
        dataset.attrs["comment"] = "\n".join(notes)
    dataset["region"].attrs = {"long_name": "region"}
    dataset["issue_time"].attrs = {
        "long_name": "time of issue, UTC",
        "standard_name": "forecast_reference_time",
    }
    dataset["probability"].attrs = {"long_name": f"calibrated probability: {event}", "units": "1"}
    dataset["probability_raw"].attrs = {"long_name": "probability as trained", "units": "1"}
    dataset["rain"].attrs = {
        "long_name": f"decision, 1 from a raw probability of {forecasts.attrs.get('threshold')}",
        "units": "1",
    }
    for name in dataset.data_vars:
        if str(name).startswith("by_"):
            dataset[name].attrs = {
                "long_name": "log-odds of rain less those with the column "
                f"{str(name).removeprefix('by_')} at its training mean all through the context",
                "comment": "These differences do not add up to the log-odds. What is known at "
                "issue time (season, hour, region) is in none of them.",
                "units": "1",
            }
    encoding = {"issue_time": {"units": "hours since 1970-01-01", "dtype": "float64"}}
    dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
