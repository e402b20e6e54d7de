"""A table to forecast from, read as the training series was; errors speak of the table.

The reader's own errors name keys of a recipe, which who uses a finished model has never seen.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from timerxl.config import DataConfig, InputError
from timerxl.data.readers import open_table, read_table
from timerxl.data.series import WeatherSeries
from timerxl.data.tables.times import time_columns

_SHOWN = 30


def read_forecast_table(
    config: DataConfig, table: pd.DataFrame | None, context_length: int, regions: list[str]
) -> WeatherSeries:
    """The series of ``config.path``, or of the ``table`` given, without need of a label.

    Where the model knows one of ``regions`` only, a table that names none is of that one.
    Raises InputError that names all columns that are missing or no numbers, or the region that has
    one row only, in the words of the table.
    """
    try:
        only = regions[0] if len(regions) == 1 else None
        return read_table(config, table, needs_label=False, only_region=only)
    except InputError as error:
        if problem := _problem(config, table, context_length):
            raise InputError(problem) from error
        raise InputError(_in_the_words_of_a_table(str(error), config)) from error


def _in_the_words_of_a_table(text: str, config: DataConfig) -> str:
    """The reader's error without keys of a recipe: nothing can be set or left out any more."""
    unit = config.precipitation_unit
    text = text.removeprefix("data.path ").replace("leave it out or fix it", "the model needs it")
    text = re.sub(r"data.precipitation_unit says \w+; set \S+=\w+", f"the model reads {unit}", text)
    text = re.sub(r"the unit is another, or .*", f"the model reads it in {unit}, correct it.", text)
    return re.sub(r"Say data.missing_values=.*", "Leave missing values empty.", text)


def _problem(config: DataConfig, table: pd.DataFrame | None, context_length: int) -> str | None:
    """What the table lacks, as a sentence; None where its columns and rows are there."""
    name = "the table" if table is not None else str(config.path)
    try:
        frame = table if table is not None else open_table(Path(name)).frame
    except InputError:
        return None
    if any(level is not None for level in frame.index.names):
        frame = frame.reset_index()
    features = list(config.features or [])
    named = {config.timestamp_column: "times", config.region_column: "names of regions"}
    wanted = [*named, *features]
    present = list(map(str, frame.columns))
    turned = {f"{column}_{part}" for column in present for part in ("sin", "cos")}
    missing = [column for column in wanted if column not in present and column not in turned]
    if missing := [column for column in missing if not (column in named and _told(frame, config))]:
        listed = ", ".join(f"{one} ({named[one]})" if one in named else one for one in missing)
        more = " ..." if len(present) > _SHOWN else ""
        return (
            f"{name} lacks {len(missing)} of the {len(wanted)} columns that the model reads: "
            f"{listed}. It has: {', '.join(present[:_SHOWN])}{more}. Add or rename columns."
        )
    if not frame.columns.is_unique or frame.empty:
        return None
    own = [one for one in features if one in present]
    text = [one for one in own if not pd.api.types.is_numeric_dtype(frame[one])]
    if text:
        listed = ", ".join(f"{one} ({frame[one].dtype})" for one in text)
        return f"{name} has columns that are not numeric: {listed}. The model reads numbers there."
    if not {config.region_column, config.timestamp_column} <= set(present):
        return None
    region, time = frame[config.region_column], frame[config.timestamp_column]
    if len(frame) == region.nunique() and context_length > 1:
        return (
            f"region {region.iloc[0]} needs {context_length} steps before {time.iloc[0]}, has 1: "
            f"{name} has a single row of each region. Bring a longer series."
        )
    return None


def _told(frame: pd.DataFrame, config: DataConfig) -> bool:
    """Whether times and regions are told by other columns, as the reader finds them."""
    try:
        times = time_columns(frame)
    except InputError:
        return False
    return config.region_column in frame or not frame.duplicated(times).any()
