"""Tables (text, Parquet) to the same series.parquet and series.json that grids become.

Every check of the reader runs first, so what is written can be read. A table does not tell over
how many hours its rain was summed: it's taken as the sum over the step, or as running totals where
it behaves like them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import DataConfig, InputError
from timerxl.data.era5.derived import Derived, choose_derived, make_column
from timerxl.data.era5.gaps import Gaps
from timerxl.data.era5.prepare import PrepareOptions, Tick
from timerxl.data.era5.series_file import (
    PRECIPITATION,
    RegionParts,
    output_folder,
    sha256_of,
    write_description,
)
from timerxl.data.readers import TableOptions, read_table_and_labels
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic.generator import TRUTH
from timerxl.data.tables.missing_codes import parse_codes
from timerxl.data.tables.quantities import conversion, named
from timerxl.untrusted import check_memory, plain

_SMALL_BYTES = 2**26  # of a region: whether there is memory for it is asked above this


@dataclass
class _Table:
    """One input after the reader's checks; ``extra`` [R] each are label-like numeric columns."""

    path: Path
    series: WeatherSeries
    extra: dict[str, np.ndarray]
    rain: str
    source: dict[str, Any]
    is_synthetic: bool


def prepare_tables(
    inputs: list[Path],
    options: PrepareOptions,
    said: TableOptions,
    tick: Tick,
) -> tuple[dict[str, Any], list[str]]:
    """Write series.parquet and series.json; returns the latter's content and notes to print.

    Several tables must be of the same step and columns, and hold different regions or different
    times of one. Raises InputError as :func:`timerxl.data.readers.read_table` does, and for what
    needs the hours of a grid.
    """
    if options.regions is not None or options.step_hours is not None:
        raise InputError(
            "--regions and --step-hours are for NetCDF files; a table brings its regions and step."
        )
    if options.max_gap_fill_hours:
        raise InputError("--max-gap-fill is for NetCDF files; for tables set data.max_fill_hours.")
    config = DataConfig(
        missing_values=_codes(options.missing),
        directions=said.directions,
        max_fill_hours=0.0,
    )
    notes: list[str] = []
    with output_folder(options.output, options.overwrite) as folder:
        tables = []
        for path in inputs:
            tables.append(_read(path, config, options, said, notes))
            tick(path.name)
        first = tables[0]
        for table in tables:
            _check_alike(first, table)
        columns = [*first.series.feature_names, *first.extra]
        step = first.series.step_hours
        regions = list(dict.fromkeys(name for table in tables for name in table.series.regions))
        records = first.series.source["records"]
        derived = _derived(options, columns, records, step)
        parts = RegionParts(folder, columns + [made.name for made in derived])
        gaps = Gaps(columns, regions, round(step * 3600))
        rows_of = [
            dict(zip(table.series.regions, table.series.rows_of_regions(), strict=True))
            for table in tables
        ]
        for place, region in enumerate(regions):
            seconds, values = _rows_of(region, tables, rows_of)
            _write_region(region, seconds, values, step, derived, records, parts, gaps, place)
        for region, known in parts.known.items():
            if not known[PRECIPITATION]:
                raise InputError(
                    f"region {plain(region, 80)} has no row whose own rain is known "
                    f"({first.rain}): of running totals each needs the row before."
                )
        parts.join()
        empty = set(parts.empty_columns())
        described: dict[str, dict[str, Any]] = {}
        for name in columns:
            record = records.get(name)
            unit = record["written_as"] or (record["unit"] or {}).get("value") if record else None
            described[name] = {"unit": unit, "kind": "table", "description": "as in the table"}
            if record is not None:
                described[name]["record"] = record
        for made in derived:
            described[made.name] = {
                "unit": made.unit, "kind": "derived", "description": made.description
            }  # fmt: skip
        description = {
            "step_hours": step,
            "first": str(min(table.series.timestamps.min() for table in tables)),
            "last": str(max(table.series.timestamps.max() for table in tables)),
            "rows": sum(parts.rows.values()),
            "regions": [{"name": name, "cells": None} for name in regions],
            "columns": {name: of for name, of in described.items() if name not in empty},
            "precipitation": {
                "column": PRECIPITATION,
                "source_column": first.rain,
                "unit": "mm",
                "hours_present_per_day": 24 if step <= 1 else None,
                "is_sparse": False,
            },
            "sources": [table.source for table in tables],
            "gaps": gaps.entries(),
            "is_synthetic": any(table.is_synthetic for table in tables),
        }
        write_description(folder, description)
    meant = records[PRECIPITATION]["time"]
    # --stamps says where a step ends, not how long its rain was summed.
    if step > 1 and (meant["known_by"] == "assumed" or meant["evidence"] == "--stamps"):
        notes.append(
            f"a table can't tell how many of the {step:g} hours of a step its rain was summed "
            "over; where it is ERA5's tp of one hour, labels from it are wrong."
        )
    return description, notes


def _codes(words: list[str]) -> list[float] | None:
    """Numbers that mean missing; [] where ``none`` was said, None where nothing was."""
    return parse_codes(words, "--missing") if words else None


def _read(
    path: Path, config: DataConfig, options: PrepareOptions, said: TableOptions, notes: list[str]
) -> _Table:
    features = options.features
    config = replace(config, path=str(path), features=features)
    series, extra = read_table_and_labels(config, options=said)
    rain = series.source["resolved"].get("precipitation_column")
    assert rain is not None  # without a label column the reader asks for it
    label = f"{path.name}: "
    notes += [label + note for note in series.notes if "filled forward" not in note]
    notes += [f"{label}column {name} is kept, and never a feature." for name in extra]
    names = [name for name in series.feature_names if name != TRUTH or features is not None]
    if PRECIPITATION in names and rain != PRECIPITATION:
        raise InputError(f"{path} holds both {rain} and tp; leave one out with --features.")
    order = [rain, *(name for name in names if name != rain)]
    assert series.precipitation_mm is not None
    values = {name: series.values[:, i] for i, name in enumerate(series.feature_names)}
    values.setdefault(rain, series.precipitation_mm.astype(np.float32))
    records = dict(series.source["records"])
    records = {PRECIPITATION: records.pop(rain)} | records
    series = replace(
        series,
        feature_names=[PRECIPITATION, *order[1:]],
        values=np.stack([values[name] for name in order], axis=1),
        precipitation_feature=PRECIPITATION,
        source=series.source | {"records": records},
    )
    source = {
        "path": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "first": series.source["first"],
        "last": series.source["last"],
        "variables": list(dict.fromkeys(record["name"] for record in records.values())),
    }
    return _Table(path, series, extra, rain, source, TRUTH in values)


def _check_alike(first: _Table, table: _Table) -> None:
    ours = (table.series.step_hours, table.series.feature_names, list(table.extra))
    theirs = (first.series.step_hours, first.series.feature_names, list(first.extra))
    if ours != theirs:
        raise InputError(
            f"{table.path.name} differs in step or columns from the first table: {ours[0]:g} h, "
            f"{', '.join(ours[1][:8])}; the first: {theirs[0]:g} h, {', '.join(theirs[1][:8])}."
        )
    mine, other = (of.series.source["records"] for of in (table, first))
    running = [(of[PRECIPITATION]["time"]["value"]).get("running") for of in (mine, other)]
    if running[0] != running[1]:
        words = ["sums of each row" if one is None else "running totals" for one in running]
        raise InputError(
            f"{table.rain} of {table.path.name} behaves like {words[0]}, of {first.path.name} like "
            f"{words[1]}; say --meaning {table.rain}=running, or prepare them apart."
        )
    for name in mine.keys() & other.keys():
        units = [(of[name]["unit"] or {}).get("value") for of in (mine, other)]
        if name != PRECIPITATION and units[0] != units[1]:
            raise InputError(
                f"{name} is in {units[0]} in {table.path.name} and in {units[1]} in "
                f"{first.path.name}; bring them to one unit."
            )


def _rows_of(
    region: str, tables: list[_Table], rows_of: list[dict[str, np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(seconds [R], values [R] by column) of a region, from one table or from several in time.

    ``rows_of`` holds the rows of each region in each table.
    """
    pieces = []
    for table, of_region in zip(tables, rows_of, strict=True):
        series = table.series
        if (rows := of_region.get(region)) is None:
            continue
        columns = {n: series.values[rows, i] for i, n in enumerate(series.feature_names)}
        assert series.precipitation_mm is not None
        columns[PRECIPITATION] = series.precipitation_mm[rows]
        columns |= {name: values[rows] for name, values in table.extra.items()}
        pieces.append((series.timestamps[rows].astype(np.int64), columns, table.path.name))
    pieces.sort(key=lambda piece: int(piece[0][0]))
    for (seconds, _, earlier), (later, _, name) in itertools.pairwise(pieces):
        if later[0] <= seconds[-1]:
            at = np.datetime64(int(later[0]), "s")
            raise InputError(
                f"region {plain(region, 80)} stands in two tables at {at}, {earlier} and {name}; "
                "join them first, or give the second another name (--region)."
            )
    joined = {
        name: np.concatenate([columns[name] for _, columns, _ in pieces]) for name in pieces[0][1]
    }
    return np.concatenate([seconds for seconds, _, _ in pieces]), joined


def _derived(
    options: PrepareOptions, columns: list[str], records: dict[str, Any], step: float
) -> list[Derived]:
    """Only what is asked for: a table may hold derived features of its own."""
    if options.derived == ["default"] or options.derived == ["none"]:
        return []
    if step != int(step):
        raise InputError(f"--derived needs a step of whole hours; the table's is {step:g} h.")
    told = {name: (of["unit"] or {}).get("value") or "" for name, of in records.items()}
    units = {name: "mm" if name == PRECIPITATION else told.get(name, "") for name in columns}
    made = choose_derived(options.derived, units, int(step))[0]
    for name in ("t2m", "d2m") if any(of.kind == "relative_humidity" for of in made) else ():
        if not units[name]:
            raise InputError(
                f"--derived relative_humidity needs the unit of {name}; say --unit {name}=degC or "
                f"{name}=K."
            )
    return made


def _write_region(
    region: str,
    seconds: np.ndarray,
    columns: dict[str, np.ndarray],
    step_hours: float,
    derived: list[Derived],
    records: dict[str, Any],
    parts: RegionParts,
    gaps: Gaps,
    place: int,
) -> None:
    step = round(step_hours * 3600)
    if ((seconds - seconds[0]) % step).any():
        raise InputError(f"region {plain(region, 80)}: the times of its tables don't fit one step.")
    at = (seconds - seconds[0]) // step
    size = int(at[-1] + 1) * (len(columns) + len(derived)) * 20  # values, copies of them, masks
    if size > _SMALL_BYTES:
        check_memory(size, f"region {plain(region, 80)}, {at[-1] + 1:,} steps long,")
    present = np.zeros(at[-1] + 1, dtype=bool)
    present[at] = True
    stamps = seconds[0] + np.arange(len(present)) * step
    spread = {name: np.full(len(present), np.nan) for name in columns}
    for name, values in columns.items():
        spread[name][at] = values
    missing = np.stack([np.isnan(values) for values in spread.values()], axis=1)
    gaps.add(place, stamps, missing, np.zeros_like(missing))
    for made in derived:
        inputs = spread
        if made.kind == "relative_humidity":
            inputs = spread | {
                name: conversion(records[name]["unit"]["value"], named("temperature"))(spread[name])
                for name in made.needs
            }
        made_of = make_column(made, inputs, stamps, present, step // 3600)
        columns[made.name] = made_of[at]
    parts.write(region, seconds, columns)
