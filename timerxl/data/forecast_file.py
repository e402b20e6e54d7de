"""Forecasts to a file: Parquet or CSV, a row per region and issue time, or NetCDF on a grid."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.text import without_accents
from timerxl.files import whole_file

SUFFIXES = (".parquet", ".csv", ".nc")
BY_VARIABLE = "by_"  # and the name of a variable of the series
_DIMENSIONS = ("region", "issue_time")
_LONGEST_NAME = 100  # characters of a name in NetCDF, which allows 256


def check_output(path: Path, columns: Iterable[str] = ()) -> None:
    """Raise InputError where :func:`write_forecasts` could not write, before any long work.

    ``columns`` are those of the forecasts, as ``Forecaster.columns`` tells them.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {path}: expected a name ending in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--output {path}: the folder {path.parent} can't be written to.")
    if path.is_dir():
        raise InputError(f"--output {path} is a folder; give the name of a file.")
    _check_text(path, columns, "column")


def _check_text(path: Path, names: Iterable[str], what: str) -> None:
    """Raise InputError for a name that the file can't hold, with the one way out."""
    for name in names:
        if any("\ud800" <= sign <= "\udfff" for sign in name):
            raise InputError(
                f"--output {path}: {what} {name!r} holds half a surrogate pair, which is no text; "
                "rename it in the table, and train again where the model has it."
            )
        if "\0" in name and path.suffix.lower() == ".nc":
            raise InputError(
                f"--output {path}: {what} {name!r} holds a zero byte, which NetCDF can't hold; "
                "write .parquet or .csv."
            )


def netcdf_names(columns: Iterable[str]) -> dict[str, str]:
    """Return a name for each column that NetCDF and CF 1.11 (section 2.3) take, each another.

    A letter first, then letters, digits and underscores of ASCII. A name that is one already is
    kept; ``by_wv (m/s)`` becomes ``by_wv_m_s``, or ``by_wv_m_s_2`` where that is taken.
    """
    columns = list(columns)
    found = {name: name for name in columns if _is_netcdf_name(name)}
    taken = {*_DIMENSIONS, *found}
    for name in columns:
        if name in found:
            continue
        base = _as_netcdf_name(name)
        new, number = base, 1
        while new in taken:
            number += 1
            new = f"{base}_{number}"
        taken.add(new)
        found[name] = new
    return {name: found[name] for name in columns}


def _is_netcdf_name(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and bool(re.fullmatch(r"[A-Za-z]\w*[A-Za-z0-9]", name, re.A))


def _as_netcdf_name(name: str) -> str:
    base = re.sub(r"[^A-Za-z0-9]+", "_", without_accents(name))[:_LONGEST_NAME].strip("_")
    if base == BY_VARIABLE.strip("_") or not base:
        return f"{base}_column".lstrip("_")
    return base if base[0].isalpha() else f"column_{base}"


def write_forecasts(forecasts: pd.DataFrame, path: Path) -> None:
    """Write what ``Forecaster.predict`` returned, whole or not at all.

    NetCDF (CF 1.11) has the dimensions region and issue_time; where a region has no forecast for a
    time its values are missing. Its variables are named by :func:`netcdf_names`; ``by_`` columns
    have the name in the series as the attribute source_column. Raises InputError as
    :func:`check_output` does.
    """
    check_output(path, map(str, forecasts.columns))
    _check_text(path, map(str, forecasts["region"].unique()), "region")
    plain = forecasts.copy()
    plain.attrs = {}  # pandas would have to store them as JSON in Parquet
    try:
        with whole_file(path) as temporary:
            if path.suffix.lower() == ".parquet":
                plain.to_parquet(temporary, index=False)
            elif path.suffix.lower() == ".csv":
                # The csv module quotes a line feed of itself, a carriage return it doesn't.
                words = [*map(str, plain.columns), *map(str, plain["region"].unique())]
                plain.to_csv(
                    temporary,
                    index=False,
                    date_format="%Y-%m-%dT%H:%M:%S",
                    quoting=csv.QUOTE_ALL if "\r" in "".join(words) else csv.QUOTE_MINIMAL,
                )
            else:
                _write_netcdf(forecasts, temporary)
    except OSError as error:
        raise InputError(f"--output {path} can't be written: {error}") from error


def _write_netcdf(forecasts: pd.DataFrame, path: Path) -> None:
    import xarray

    grid = forecasts.drop(columns="valid_until").set_index(list(_DIMENSIONS))
    names = netcdf_names(map(str, grid.columns))
    grid.columns = pd.Index(names.values())
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
    for column, name in names.items():
        if column.startswith(BY_VARIABLE):
            source = column.removeprefix(BY_VARIABLE)
            dataset[name].attrs = {
                "long_name": "log-odds of rain less those with the column "
                f"{source} at its training mean all through the context",
                "comment": "These differences do not add up to the log-odds. What is known at "
                "issue time (season, hour, region) is in none of them.",
                "units": "1",
                "source_column": source,
            }
    encoding = {"issue_time": {"units": "hours since 1970-01-01", "dtype": "float64"}}
    dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
