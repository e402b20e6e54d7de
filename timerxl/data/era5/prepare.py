"""Grids or tables to series.parquet and series.json, written whole or not at all.

Of grids rows are the steps from the first to the last stamp at which any column has a value; a step
without any is left out. Streams that start at different hours keep their union, with missing values
where one has not begun: nothing is shifted. Tables pass every check of the reader first; a table
does not tell over how many hours its rain was summed, so it's taken as the sum over the step, or as
running totals where it behaves like them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timerxl.config import DataConfig, InputError
from timerxl.data.era5 import accumulation
from timerxl.data.era5.derived import Derived, choose_derived, make_column
from timerxl.data.era5.regions import Region, load_regions
from timerxl.data.era5.streams import Said, Streams, read_streams, stamp
from timerxl.data.readers import (
    DESCRIPTION,
    FORMAT,
    PRECIPITATION,
    SERIES,
    TableOptions,
    read_table_and_labels,
    sha256_of,
)
from timerxl.data.series import WeatherSeries, fill_forward
from timerxl.data.synthetic import TRUTH
from timerxl.data.tables.columns import conversion, named, parse_codes
from timerxl.untrusted import MOST_JSON_BYTES, check_memory, plain

MOST_PER_COLUMN = 100  # in one region; more are summed up in one last entry
MOST_ENTRIES = 5_000  # of a column over all regions; more are summed up in one entry


@dataclass
class Gaps:
    """Blocks of one region must come in order of time; ``step`` is in seconds."""

    columns: list[str]
    regions: list[str]
    step: int
    first: str = ""
    last: str = ""
    _runs: dict[tuple[str, str, int], list[list[int]]] = field(default_factory=dict)

    def add(self, region: int, stamps: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> None:
        """Add ``stamps`` [R], seconds since 1970, with ``missing`` and ``filled`` [R, C] bool."""
        kept = np.flatnonzero(~missing.all(axis=1))
        if kept.size:
            first, last = (_iso(int(stamps[row])) for row in (kept[0], kept[-1]))
            self.first = min(self.first or first, first)
            self.last = max(self.last, last)
        for index, column in enumerate(self.columns):
            for action, mask in (("left", missing[:, index]), ("filled", filled[:, index])):
                if not mask.any():
                    continue
                edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
                runs = self._runs.setdefault((column, action, region), [])
                for start, stop in zip(edges[::2], edges[1::2], strict=True):
                    begin, end = int(stamps[start]), int(stamps[stop - 1])
                    if runs and runs[-1][1] + self.step == begin:
                        runs[-1][1] = end
                    else:
                        runs.append([begin, end])

    def entries(self) -> list[dict[str, Any]]:
        """Return one per run; region None where every region has the same runs of the column."""
        found = []
        for column in self.columns:
            for action in ("left", "filled"):
                of = [self._runs.get((column, action, i), []) for i in range(len(self.regions))]
                if all(runs == of[0] for runs in of):
                    found += self._listed(column, None, of[0], action)
                    continue
                if sum(min(len(runs), MOST_PER_COLUMN) for runs in of) > MOST_ENTRIES:
                    found.append(self._summed(column, of, action))
                    continue
                for name, runs in zip(self.regions, of, strict=True):
                    found += self._listed(column, name, runs, action)
        return found

    def _summed(self, column: str, of: list[list[list[int]]], action: str) -> dict[str, Any]:
        """One entry for the runs of all regions; ``regions`` counts those that have some."""
        runs = [run for runs in of for run in runs]
        span = [min(first for first, _ in runs), max(last for _, last in runs)]
        steps = sum((last - first) // self.step + 1 for first, last in runs)
        entry = self._entry(column, None, span, steps, action)
        return entry | {"runs": len(runs), "regions": sum(bool(runs) for runs in of)}

    def _listed(
        self, column: str, region: str | None, runs: list[list[int]], action: str
    ) -> list[dict[str, Any]]:
        cut = runs if len(runs) <= MOST_PER_COLUMN else runs[: MOST_PER_COLUMN - 1]
        steps = [(last - first) // self.step + 1 for first, last in runs]
        listed = [
            self._entry(column, region, run, count, action)
            for run, count in zip(cut, steps, strict=False)
        ]
        if len(cut) < len(runs):
            span = [runs[len(cut)][0], runs[-1][1]]
            rest = self._entry(column, region, span, sum(steps[len(cut) :]), action)
            listed.append(rest | {"runs": len(runs) - len(cut)})
        return listed

    def _entry(
        self, column: str, region: str | None, run: list[int], steps: int, action: str
    ) -> dict[str, Any]:
        return {
            "column": column, "region": region, "first": _iso(run[0]), "last": _iso(run[1]),
            "steps": steps, "action": action,
        }  # fmt: skip


def _iso(seconds: int) -> str:
    return str(np.datetime64(seconds, "s"))


@contextmanager
def output_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """Make a temporary folder beside ``output``; what stands in it as series.* at the end moves
    there.

    Whatever ends the block otherwise removes the folder and leaves ``output`` as it was. Raises
    InputError where a series stands there already, or where it can't be written.
    """
    output = output.absolute()
    standing = [name for name in (SERIES, DESCRIPTION) if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is no folder; give a new one.")
    if standing and not overwrite:
        raise InputError(
            f"--output {output} holds {' and '.join(standing)} already; give another folder, or "
            "--overwrite to replace them."
        )
    near = next(folder for folder in output.parents if folder.is_dir())
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=near))
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    try:
        yield partial
        _move(partial, output)
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, output: Path) -> None:
    """Both files or, short of a power cut, neither: signals wait until they have moved."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Without its description first: a reader never meets a new table under the old one.
        (output / DESCRIPTION).unlink(missing_ok=True)
        for name in (SERIES, DESCRIPTION):
            os.replace(partial / name, output / name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


_LEAST_ROWS = 8_000  # of a row group; a year of hours has more, so it is one of its own


class RegionParts:
    """Rows of one region after the other in a file of all columns, counted as they are written.

    Two passes, because only the end tells which columns hold no value at all.
    """

    def __init__(self, folder: Path, columns: list[str]) -> None:
        self.folder, self.columns = folder, columns
        self.schema = pa.schema(
            [("timestamp", pa.timestamp("ms")), ("region", pa.string())]
            + [(n, pa.float64() if n == PRECIPITATION else pa.float32()) for n in columns]
        )
        self.known: dict[str, dict[str, int]] = {}
        self.rows: dict[str, int] = {}
        self._all = folder / "all-columns.parquet"
        self._writer = pq.ParquetWriter(self._all, self.schema)
        self._waiting: list[tuple[str, np.ndarray, dict[str, np.ndarray]]] = []
        self._rows_waiting = 0

    def write(self, region: str, seconds: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Append rows of one region: ``seconds`` [R] int64 since 1970, ``values`` of [R] each.

        All of a region come before the next one.
        """
        if region not in self.rows:
            self.known[region], self.rows[region] = dict.fromkeys(self.columns, 0), 0
        known = self.known[region]
        for name in self.columns:
            known[name] += len(seconds) - int(np.count_nonzero(np.isnan(values[name])))
        self.rows[region] += len(seconds)
        self._waiting.append((region, seconds, values))
        self._rows_waiting += len(seconds)
        if self._rows_waiting >= _LEAST_ROWS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """One row group of all that waits."""
        if not self._waiting:
            return
        names = pa.array([region for region, _, _ in self._waiting], type=pa.string())
        lengths = [len(seconds) for _, seconds, _ in self._waiting]
        arrays = [
            pa.array(
                np.concatenate([seconds for _, seconds, _ in self._waiting]) * 1000,
                type=pa.timestamp("ms"),
            ),
            names.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        ]
        for name in self.columns:
            column = np.concatenate([values[name] for _, _, values in self._waiting])
            kind = self.schema.field(name).type
            arrays.append(
                pa.array(column.astype(kind.to_pandas_dtype()), type=kind, from_pandas=True)
            )
        self._writer.write_table(pa.table(arrays, schema=self.schema))
        self._waiting, self._rows_waiting = [], 0

    def empty_columns(self) -> list[str]:
        """Return columns without one value in any region."""
        return [n for n in self.columns if not any(known[n] for known in self.known.values())]

    def join(self) -> Path:
        """Join all regions one after the other into series.parquet, row group by row group."""
        self._write_waiting()
        self._writer.close()
        empty = set(self.empty_columns())
        schema = pa.schema([column for column in self.schema if column.name not in empty])
        path = self.folder / SERIES
        with pq.ParquetWriter(path, schema) as writer, pq.ParquetFile(self._all) as every:
            for group in range(every.num_row_groups):
                writer.write_table(every.read_row_group(group, columns=schema.names))
        return path


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write series.json beside series.parquet, with the format's number and the table's sha256."""
    content = {"format": FORMAT} | description | {"sha256": sha256_of(folder / SERIES)}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if (size := len(text.encode())) > MOST_JSON_BYTES:
        raise InputError(
            f"{DESCRIPTION} takes {size:,} bytes for {len(content['regions']):,} regions, more "
            f"than the {MOST_JSON_BYTES:,} that are read; prepare parts of the regions apart."
        )
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


Tick = Callable[[str], None]


@dataclass
class PrepareOptions:
    """What the command line says; hours are hours, None means chosen from the data."""

    output: Path
    regions: Path | None = None
    step_hours: int | None = None
    features: list[str] | None = None
    derived: list[str] = field(default_factory=lambda: ["default"])
    allow_sparse_accumulation: bool = False
    max_gap_fill_hours: float = 0.0
    overwrite: bool = False
    # Said of columns: numbers that mean missing, units, and what a value stands for in time.
    missing: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)


@dataclass
class _Plan:
    """How the hours become steps: stamps at hours with ``hour % step == phase``."""

    step: int
    phase: int
    first: int
    last: int
    hours_present: dict[str, int]

    @property
    def stamps(self) -> np.ndarray:
        return np.arange(self.first, self.last + 1, self.step)


def prepare_era5(
    inputs: list[Path], options: PrepareOptions, tick: Tick = lambda label: None
) -> tuple[dict[str, Any], list[str]]:
    """Write series.parquet and series.json; returns the latter's content and notes to print.

    Memory holds a block of one variable, then a year of one region, whatever the number of years.
    Raises InputError on anything that can't give a right series; then nothing is left behind.
    """
    if options.regions is None:
        raise InputError("gridded files need --regions FILE.yaml: boxes or points to average over.")
    regions = load_regions(options.regions)
    with output_folder(options.output, options.overwrite) as folder:
        said = Said(options.missing, options.units, options.meanings)
        streams = read_streams(inputs, regions, folder, options.features, said, tick)
        _check_columns(streams, options)
        plan = _plan(streams, options)
        units = {name: column.unit for name, column in streams.columns.items()}
        derived, notes = choose_derived(options.derived, units, plan.step)
        notes = streams.notes + notes
        clash = [n for n in ("timestamp", "region") if n in units]
        if clash:
            raise InputError(f"a variable is called {clash[0]}; leave it out with --features.")
        names = [PRECIPITATION, *(name for name in streams.columns if name != PRECIPITATION)]
        parts = RegionParts(folder, names + [made.name for made in derived])
        gaps = Gaps(names, [region.name for region in regions], plan.step * 3600)
        builder = _Builder(streams, plan, derived, names, options.max_gap_fill_hours)
        years = (plan.stamps * 3600).astype("datetime64[s]").astype("datetime64[Y]")
        blocks = np.split(plan.stamps, np.flatnonzero(np.diff(years)) + 1)
        for index, region in enumerate(regions):
            for block in blocks:
                _write_block(builder, parts, gaps, index, region, block)
                tick(f"{region.name} {stamp(block[0])[:4]}")
        notes += _check_written(parts, names)
        parts.join()
        content = _describe(streams, plan, regions, parts, derived, gaps)
        write_description(folder, content)
    return content, notes


def _check_columns(streams: Streams, options: PrepareOptions) -> None:
    for name in options.features or []:
        if name not in streams.columns:
            held = sorted({n for source in streams.sources for n in source["variables"]})
            raise InputError(
                f"--features lists {name}, which no file holds; they hold: {', '.join(held)}."
            )
    if PRECIPITATION not in streams.columns:
        raise InputError(
            f"no file holds {PRECIPITATION} (total precipitation); found: "
            f"{', '.join(streams.columns) or 'no variable'}. Add the file of the accumulated "
            "stream (stepType-accum): without rain there is no label."
        )
    for name, column in streams.columns.items():
        if not column.known_hours().size:
            raise InputError(f"{name} is missing in every cell of every region; leave it out.")


def _plan(streams: Streams, options: PrepareOptions) -> _Plan:
    hours = {name: column.known_hours() for name, column in streams.columns.items()}
    sums = [n for n, column in streams.columns.items() if column.kind != accumulation.INSTANT]
    present = {}
    for name in sums:
        column = streams.columns[name]
        present[name] = accumulation.hours_present_per_day(
            hours[name], column.totals, column.window
        )
    if not options.allow_sparse_accumulation:
        for name in sorted(present, key=lambda name: name != PRECIPITATION):
            if present[name] < 24:
                apart = streams.columns[name].stamps_apart()
                word = {accumulation.SUM: "sum", accumulation.MEAN: "mean"}
                over = f"{word.get(streams.columns[name].kind, 'max')}:{apart}h@end"
                longer = (
                    f", say --meaning {name}={over} (or @start) where each value is over {apart} h"
                )
                raise InputError(
                    f"{accumulation.sparse_refusal(name, present[name])}. Request every hour of "
                    f"{name} (or leave it out){longer if apart > 1 else ''}, or say "
                    "--allow-sparse-accumulation to take it as it is."
                )
    spacing = {name: column.stamps_apart() for name, column in streams.columns.items()}
    coarsest = max(spacing, key=lambda name: spacing[name])
    step = options.step_hours or spacing[coarsest]
    if step < 1 or 24 % step:
        raise InputError(
            f"the step is {step} h{'' if options.step_hours else f' (that of {coarsest})'}; "
            "expected a divisor of 24, such as 1, 6 or 12 (--step-hours)."
        )
    if step < spacing[coarsest]:
        raise InputError(
            f"--step-hours {step} is finer than {coarsest}, which comes every "
            f"{spacing[coarsest]} h; take {spacing[coarsest]} or leave {coarsest} out."
        )
    # A value over a whole step can only stand where it ends; instants may be taken anywhere.
    whole = [name for name in sums if streams.columns[name].window == step > 1]
    instants = [name for name in hours if name not in sums]
    phase = _phase(hours, whole or instants or sums, step)
    earliest = min(int(known[0]) for known in hours.values())
    latest = max(int(known[-1]) for known in hours.values())
    first = earliest + (phase - earliest) % step
    last = latest - (latest - phase) % step
    if last < first:
        raise InputError(f"{stamp(earliest)} to {stamp(latest)} holds no full step of {step} h.")
    return _Plan(step, phase, first, last, present)


def _phase(hours: dict[str, np.ndarray], names: list[str], step: int) -> int:
    """0 where the data hold stamps there; 06 and 18 UTC in steps of 12 h have 6."""
    counts = sum(np.bincount(hours[name] % step, minlength=step) for name in names)
    assert isinstance(counts, np.ndarray)
    return 0 if counts[0] * 2 >= counts.max() else int(np.argmax(counts))


@dataclass
class _Builder:
    """Makes the rows of one region and one year, with the past that they need."""

    streams: Streams
    plan: _Plan
    derived: list[Derived]
    names: list[str]
    fill_hours: float

    def rows(self, region: int, stamps: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return columns of [R] at the ``stamps``, and [R, C] bool: values that were filled."""
        step = self.plan.step
        fill = int(self.fill_hours // step)
        back = fill + max([made.hours // step for made in self.derived], default=0)
        lead = min(back, int(stamps[0] - self.plan.first) // step)
        tail = min(fill + 1, int(self.plan.last - stamps[-1]) // step) if fill else 0
        first, last = int(stamps[0]) - lead * step, int(stamps[-1]) + tail * step
        grid = np.arange(first, last + 1, step)
        columns = {name: self._steps(name, region, first, last) for name in self.names}
        filled = {name: np.zeros(len(grid), dtype=bool) for name in self.names}
        for name in self.names if fill else []:
            if self.streams.columns[name].kind == accumulation.INSTANT:
                before = columns[name]
                times = (grid * 3600).astype("datetime64[s]")
                same = np.zeros(len(grid), dtype=np.int64)
                after, _ = fill_forward(before[:, None], same, times, self.fill_hours, step)
                columns[name] = after[:, 0]
                filled[name] = np.isnan(before) & ~np.isnan(columns[name])
        present = ~np.all([np.isnan(columns[name]) for name in self.names], axis=0)
        for made in self.derived:
            columns[made.name] = make_column(made, columns, grid * 3600, present, step)
        own = slice(lead, lead + len(stamps))
        marks = np.stack([filled[name][own] for name in self.names], axis=1)
        return {name: column[own] for name, column in columns.items()}, marks

    def _steps(self, name: str, region: int, first: int, last: int) -> np.ndarray:
        column, step = self.streams.columns[name], self.plan.step
        values, covered = column.hourly_values(region, first - step + 1, last + 1)
        if name == PRECIPITATION:
            values = accumulation.to_mm(values, column.mm_per_unit, name)
        needed = step * self.plan.hours_present.get(name, 24) // 24
        steps = accumulation.per_step(values, covered, step, column.kind, max(needed, 1))
        return np.round(steps, accumulation.MM_DIGITS) if name == PRECIPITATION else steps


def _write_block(
    builder: _Builder,
    parts: RegionParts,
    gaps: Gaps,
    index: int,
    region: Region,
    stamps: np.ndarray,
) -> None:
    columns, filled = builder.rows(index, stamps)
    missing = np.stack([np.isnan(columns[name]) for name in builder.names], axis=1)
    gaps.add(index, stamps * 3600, missing, filled)
    kept = ~missing.all(axis=1)
    if kept.any() or region.name not in parts.rows:
        parts.write(region.name, stamps[kept] * 3600, {n: c[kept] for n, c in columns.items()})


def _check_written(parts: RegionParts, names: list[str]) -> list[str]:
    """Sentences on columns that are missing; InputError where a region has no rain at all."""
    notes = []
    for name in parts.empty_columns():
        if name != PRECIPITATION:
            notes.append(f"column {name} has no value at any step and is left out.")
    for region, known in parts.known.items():
        if not known[PRECIPITATION]:
            raise InputError(
                f"region {region} has no complete step of {PRECIPITATION}: its cells are missing "
                "(sea in ERA5-Land), or no step has all its hours."
            )
        lost = [n for n in names if not known[n] and n not in parts.empty_columns()]
        notes += [f"column {n} is missing in all of region {region}; no window runs there unless "
                  "it is left out (--features)." for n in lost]  # fmt: skip
    return notes


def _describe(
    streams: Streams,
    plan: _Plan,
    regions: list[Region],
    parts: RegionParts,
    derived: list[Derived],
    gaps: Gaps,
) -> dict[str, Any]:
    empty = set(parts.empty_columns())
    columns: dict[str, dict[str, Any]] = {}
    for name in (name for name in parts.columns if name in streams.columns):
        column = streams.columns[name]
        instant = column.kind == accumulation.INSTANT
        columns[name] = {
            "unit": column.unit,
            "kind": "instantaneous" if instant else "accumulated",
            "description": column.variable.description
            + ("" if instant else f" ({column.kind}, over the step that ends at the stamp)"),
            "record": column.record.to_dict(),
        }
    for made in derived:
        columns[made.name] = made.describe()
    present = plan.hours_present[PRECIPITATION]
    return {
        "step_hours": float(plan.step),
        "first": gaps.first,
        "last": gaps.last,
        "rows": sum(parts.rows.values()),
        "regions": [
            {"name": region.name, **region.describe(), "cells": cells}
            for region, cells in zip(regions, streams.cells, strict=True)
        ],
        "columns": {name: of for name, of in columns.items() if name not in empty},
        "precipitation": {
            "column": PRECIPITATION,
            "unit": "mm",
            "hours_present_per_day": present,
            "is_sparse": present < 24,
        },
        "sources": streams.sources,
        "gaps": gaps.entries(),
        "is_synthetic": streams.is_synthetic,
    }


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
    inputs: list[Path], options: PrepareOptions, said: TableOptions, tick: Tick
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
        # [] where ``none`` was said, None where nothing was.
        missing_values=parse_codes(options.missing, "--missing") if options.missing else None,
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
            described[made.name] = made.describe()
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
