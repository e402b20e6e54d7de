"""Tables (CSV, Parquet) to the same series.parquet and series.json that ERA5 files become.

Every check of the reader runs first, so what is written can be read. A table does not tell over
how many hours its rain was summed: it's taken as the sum over the step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import DataConfig, InputError
from timerxl.data.derived import Derived, choose_derived, make_column
from timerxl.data.features import choose_features
from timerxl.data.gaps import Gaps
from timerxl.data.prepare import PrepareOptions, Tick
from timerxl.data.readers import open_table, read_table
from timerxl.data.schema import WeatherSeries
from timerxl.data.series_file import (
    PRECIPITATION,
    RegionParts,
    output_folder,
    sha256_of,
    write_description,
)
from timerxl.data.synthetic import TRUTH

# Below this a whole table of rain in mm would be a desert's; ERA5's metres always are.
_METRES_MM = 0.5
_MANY_ROWS = 100


@dataclass
class TableOptions:
    """Names and unit of a table's columns; None for precipitation means precipitation, then tp."""

    timestamp_column: str = "timestamp"
    region_column: str = "region"
    precipitation_column: str | None = None
    precipitation_unit: str | None = None


@dataclass
class _Table:
    """One input after the reader's checks; ``extra`` [R, E] are label-like numeric columns."""

    series: WeatherSeries
    extra: dict[str, np.ndarray]
    source: dict[str, Any]
    is_synthetic: bool


def prepare_tables(
    inputs: list[Path], options: PrepareOptions, names: TableOptions, tick: Tick
) -> tuple[dict[str, Any], list[str]]:
    """Write series.parquet and series.json; returns the latter's content and notes to print.

    Several tables must hold different regions of the same step and columns. Raises InputError as
    :func:`timerxl.data.readers.read_table` does, and for what needs the hours of a NetCDF file.
    """
    if options.regions is not None or options.step_hours is not None:
        raise InputError(
            "--regions and --step-hours are for NetCDF files; a table brings its regions and step."
        )
    if options.max_gap_fill_hours:
        raise InputError("--max-gap-fill is for NetCDF files; for tables set data.max_fill_hours.")
    notes: list[str] = []
    with output_folder(options.output, options.overwrite) as folder:
        tables = []
        for path in inputs:
            tables.append(_read(path, options, names, notes))
            tick(path.name)
        first = tables[0]
        for path, table in zip(inputs, tables, strict=True):
            _check_alike(path, first, table)
        columns = [*first.series.feature_names, *first.extra]
        step = first.series.step_hours
        regions = [region for table in tables for region in table.series.regions]
        if twice := sorted({name for name in regions if regions.count(name) > 1}):
            raise InputError(f"region {twice[0]} stands in two tables; join them first.")
        derived = _derived(options, columns, step)
        parts = RegionParts(folder, columns + [made.name for made in derived])
        gaps = Gaps(columns, regions, round(step * 3600))
        for table in tables:
            for index, region in enumerate(table.series.regions):
                _write_region(table, index, region, derived, parts, gaps, regions.index(region))
        parts.join()
        empty = set(parts.empty_columns())
        description = {
            "step_hours": step,
            "first": str(min(table.series.timestamps.min() for table in tables)),
            "last": str(max(table.series.timestamps.max() for table in tables)),
            "rows": sum(parts.rows.values()),
            "regions": [{"name": name, "cells": None} for name in regions],
            "columns": {
                name: {
                    "unit": "mm" if name == PRECIPITATION else None,
                    "kind": "table",
                    "description": "as in the table",
                }
                for name in columns
                if name not in empty
            }
            | {
                made.name: {
                    "unit": made.unit,
                    "kind": "derived",
                    "description": made.description,
                }
                for made in derived
                if made.name not in empty
            },
            "precipitation": {
                "column": PRECIPITATION,
                "unit": "mm",
                "hours_present_per_day": 24 if step <= 1 else None,
                "is_sparse": False,
            },
            "sources": [table.source for table in tables],
            "gaps": gaps.entries(),
            "is_synthetic": any(table.is_synthetic for table in tables),
        }
        write_description(folder, description)
    if step > 1:
        notes.append(
            f"a table can't tell how many of the {step:g} hours of a step its rain was summed "
            "over; where it is ERA5's tp of one hour, labels from it are wrong."
        )
    return description, notes


def _read(path: Path, options: PrepareOptions, names: TableOptions, notes: list[str]) -> _Table:
    frame = open_table(path)
    rain = names.precipitation_column
    if rain is None:
        rain = next((n for n in ("precipitation", PRECIPITATION) if n in frame), "precipitation")
    unit = names.precipitation_unit or _checked_unit(frame, rain, path)
    features = options.features
    if features is not None and rain not in features:
        features = [*features, rain]
    if features is None and TRUTH in frame:
        features = [n for n in _numeric(frame, names) if n != TRUTH]
    config = DataConfig(
        path=str(path),
        timestamp_column=names.timestamp_column,
        region_column=names.region_column,
        precipitation_column=rain,
        precipitation_unit=unit,
        features=features,
        max_fill_hours=0.0,
    )
    series = read_table(config)
    skipped = dict(series.source["skipped_columns"])
    label_like = [n for n, reason in skipped.items() if "label" in reason]
    extra = _label_columns(frame, label_like, names)
    notes += [f"{path.name}: {note}" for note in series.notes if not _is_known(note)]
    notes += [f"{path.name}: column {n} is kept, and never a feature." for n in extra]
    position = series.feature_names.index(rain)
    renamed = [PRECIPITATION if n == rain else n for n in series.feature_names]
    if renamed.count(PRECIPITATION) > 1:
        raise InputError(f"{path} holds both {rain} and tp; leave one out with --features.")
    order = [position, *(i for i in range(len(renamed)) if i != position)]
    series = replace(
        series,
        feature_names=[renamed[i] for i in order],
        values=series.values[:, order],
        precipitation_feature=PRECIPITATION,
    )
    source = {
        "path": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "first": series.source["first"],
        "last": series.source["last"],
        "variables": [str(name) for name in frame.columns],
    }
    return _Table(series, extra, source, TRUTH in frame)


def _numeric(frame: pd.DataFrame, names: TableOptions) -> list[str]:
    apart = DataConfig(timestamp_column=names.timestamp_column, region_column=names.region_column)
    return choose_features(frame, apart)[0]


def _is_known(note: str) -> bool:
    """Notes of the reader that mean nothing here: on labels, and on holes, which stay."""
    return "label" in note or "filled forward" in note


def _checked_unit(frame: pd.DataFrame, rain: str, path: Path) -> str:
    if rain in frame and pd.api.types.is_numeric_dtype(frame[rain]) and len(frame) >= _MANY_ROWS:
        largest = float(frame[rain].max())
        if 0 < largest < _METRES_MM:
            raise InputError(
                f"{path.name}: {rain} never exceeds {largest:.4g}, which looks like metres; say "
                "--precipitation-unit m, or mm if it is right."
            )
    return "mm"


def _label_columns(
    frame: pd.DataFrame, labels: list[str], names: TableOptions
) -> dict[str, np.ndarray]:
    """Label-like numeric columns in the row order of the series."""
    codes, _ = pd.factorize(frame[names.region_column])
    order = np.argsort(codes, kind="stable")
    return {
        name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan)[order]
        for name in labels
        if pd.api.types.is_numeric_dtype(frame[name])
    }


def _check_alike(path: Path, first: _Table, table: _Table) -> None:
    ours = (table.series.step_hours, table.series.feature_names, list(table.extra))
    theirs = (first.series.step_hours, first.series.feature_names, list(first.extra))
    if ours != theirs:
        raise InputError(
            f"{path.name} differs in step or columns from the first table: {ours[0]:g} h, "
            f"{', '.join(ours[1][:8])}; the first: {theirs[0]:g} h, {', '.join(theirs[1][:8])}."
        )


def _derived(options: PrepareOptions, columns: list[str], step: float) -> list[Derived]:
    """Only what is asked for: a table's units are not known, its own features may be derived."""
    if options.derived == ["default"] or options.derived == ["none"]:
        return []
    if step != int(step):
        raise InputError(f"--derived needs a step of whole hours; the table's is {step:g} h.")
    units = {name: "mm" if name == PRECIPITATION else "" for name in columns}
    return choose_derived(options.derived, units, int(step))[0]


def _write_region(
    table: _Table,
    index: int,
    region: str,
    derived: list[Derived],
    parts: RegionParts,
    gaps: Gaps,
    place: int,
) -> None:
    series = table.series
    rows = np.flatnonzero(series.region_index == index)
    seconds = series.timestamps[rows].astype(np.int64)
    columns = {n: series.values[rows, i] for i, n in enumerate(series.feature_names)}
    assert series.precipitation_mm is not None
    columns[PRECIPITATION] = series.precipitation_mm[rows]
    columns |= {name: values[rows] for name, values in table.extra.items()}
    step = round(series.step_hours * 3600)
    at = (seconds - seconds[0]) // step
    present = np.zeros(at[-1] + 1, dtype=bool)
    present[at] = True
    stamps = seconds[0] + np.arange(len(present)) * step
    spread = {name: np.full(len(present), np.nan) for name in columns}
    for name, values in columns.items():
        spread[name][at] = values
    missing = np.stack([np.isnan(values) for values in spread.values()], axis=1)
    gaps.add(place, stamps, missing, np.zeros_like(missing))
    for made in derived:
        made_of = make_column(made, spread, stamps, present, step // 3600)
        columns[made.name] = made_of[at]
    parts.write(region, seconds, columns)
