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
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timerxl.config import DataConfig, InputError
from timerxl.data.era5.accumulation import (
    INSTANT,
    MEAN,
    MM_DIGITS,
    SUM,
    hours_present_per_day,
    per_step,
    to_mm,
)
from timerxl.data.era5.derived import Derived, choose_derived, make_column
from timerxl.data.era5.regions import load_regions
from timerxl.data.era5.streams import ColumnOptions, Streams, stamp
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
_LEAST_ROWS = 8_000  # of a row group; a year of hours has more, so it is one of its own
_SMALL_BYTES = 2**26  # of a region: whether there is memory for it is asked above this
Tick = Callable[[str], None]


@dataclass
class Gaps:
    """Steps at which columns are missing (left) or were filled, as runs of each region.

    Blocks of one region must come in order of time; ``step`` is in seconds.
    """

    columns: list[str]
    regions: list[str]
    step: int
    first: str = ""
    last: str = ""
    _runs: dict[tuple[str, str, int], list[list[int]]] = field(default_factory=dict)

    def add(self, region: int, stamps: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> None:
        """Add ``stamps`` [R], seconds since 1970, with ``missing`` and ``filled`` [R, C] bool."""
        kept = stamps[~missing.all(axis=1)]
        if kept.size:
            self.first = min(self.first or _iso(kept[0]), _iso(kept[0]))
            self.last = max(self.last, _iso(kept[-1]))
        for action, masks in (("left", missing), ("filled", filled)):
            for index in np.flatnonzero(masks.any(axis=0)):
                mask = masks[:, index].view(np.int8)
                edges = np.flatnonzero(np.diff(mask, prepend=0, append=0)).reshape(-1, 2)
                runs = self._runs.setdefault((self.columns[index], action, region), [])
                for begin, end in zip(stamps[edges[:, 0]], stamps[edges[:, 1] - 1], strict=True):
                    if runs and runs[-1][1] + self.step == begin:
                        runs[-1][1] = int(end)
                    else:
                        runs.append([int(begin), int(end)])

    def entries(self) -> list[dict[str, Any]]:
        """Return one per run; region None where every region has the same runs of the column."""
        found = []
        for column, action in itertools.product(self.columns, ("left", "filled")):
            of = [self._runs.get((column, action, i), []) for i in range(len(self.regions))]
            if all(runs == of[0] for runs in of):
                found += self._listed(column, None, action, of[0])
            elif sum(min(len(runs), MOST_PER_COLUMN) for runs in of) > MOST_ENTRIES:
                every = list(itertools.chain.from_iterable(of))
                counts = {"runs": len(every), "regions": sum(map(bool, of))}
                found.append(self._entry(column, None, action, every) | counts)
            else:
                for name, runs in zip(self.regions, of, strict=True):
                    found += self._listed(column, name, action, runs)
        return found

    def _listed(
        self, column: str, region: str | None, action: str, runs: list[list[int]]
    ) -> list[dict[str, Any]]:
        cut = len(runs) if len(runs) <= MOST_PER_COLUMN else MOST_PER_COLUMN - 1
        listed = [self._entry(column, region, action, [run]) for run in runs[:cut]]
        if rest := runs[cut:]:
            listed.append(self._entry(column, region, action, rest) | {"runs": len(rest)})
        return listed

    def _entry(
        self, column: str, region: str | None, action: str, runs: list[list[int]]
    ) -> dict[str, Any]:
        return {
            "column": column,
            "region": region,
            "first": _iso(min(first for first, _ in runs)),
            "last": _iso(max(last for _, last in runs)),
            "steps": sum((last - first) // self.step + 1 for first, last in runs),
            "action": action,
        }


def _iso(seconds: int) -> str:
    return str(np.datetime64(int(seconds), "s"))


@contextmanager
def output_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """Make a temporary folder beside ``output``; what stands in it as series.* at the end moves
    there: both files or, short of a power cut, neither.

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
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # they wait until both have moved
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{output.name}.partial-", dir=near, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            try:
                output.mkdir(parents=True, exist_ok=True)
                # Without its description first: a reader never meets a new table under the old one.
                (output / DESCRIPTION).unlink(missing_ok=True)
                for file in (SERIES, DESCRIPTION):
                    os.replace(Path(name, file), output / file)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error


class RegionParts:
    """Rows of one region after the other in a file of all columns, counted as they are written.

    Two passes, because only the end tells which columns hold no value at all. ``known`` counts the
    values of each region and column.
    """

    def __init__(self, folder: Path, columns: list[str]) -> None:
        self.folder, self.columns = folder, columns
        self.rows = self._written = 0
        self.schema = pa.schema(
            [("timestamp", pa.timestamp("ms")), ("region", pa.string())]
            + [(n, pa.float64() if n == PRECIPITATION else pa.float32()) for n in columns]
        )
        self.known: dict[str, dict[str, int]] = {}
        self._all = folder / "all-columns.parquet"
        self._writer = pq.ParquetWriter(self._all, self.schema)
        self._waiting: list[tuple[str, np.ndarray, dict[str, np.ndarray]]] = []

    def write(self, region: str, seconds: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Append rows of one region: ``seconds`` [R] int64 since 1970, ``values`` of [R] each.

        All of a region come before the next one.
        """
        known = self.known.setdefault(region, dict.fromkeys(self.columns, 0))
        for name in self.columns:
            known[name] += len(seconds) - int(np.count_nonzero(np.isnan(values[name])))
        self.rows += len(seconds)
        self._waiting.append((region, seconds, values))
        if self.rows - self._written >= _LEAST_ROWS:
            self._write_group()

    def _write_group(self) -> None:
        """Write one row group of all that waits."""
        if not self._waiting:
            return
        regions, seconds, values = zip(*self._waiting, strict=True)
        places = pa.array(np.repeat(np.arange(len(regions)), [len(s) for s in seconds]))
        arrays = [
            pa.array(np.concatenate(seconds) * 1000, pa.timestamp("ms")),
            pa.array(regions, pa.string()).take(places),
        ]
        for name in self.columns:
            kind = self.schema.field(name).type
            column = np.concatenate([of[name] for of in values]).astype(kind.to_pandas_dtype())
            arrays.append(pa.array(column, kind, from_pandas=True))
        self._writer.write_table(pa.table(arrays, schema=self.schema))
        self._waiting, self._written = [], self.rows

    def empty_columns(self) -> list[str]:
        """Return columns without one value in any region."""
        return [n for n in self.columns if not any(known[n] for known in self.known.values())]

    def join(self) -> None:
        """Join all regions one after the other into series.parquet, row group by row group."""
        self._write_group()
        self._writer.close()
        empty = set(self.empty_columns())
        schema = pa.schema([column for column in self.schema if column.name not in empty])
        path = self.folder / SERIES
        with pq.ParquetWriter(path, schema) as writer, pq.ParquetFile(self._all) as every:
            for group in range(every.num_row_groups):
                writer.write_table(every.read_row_group(group, columns=schema.names))


def _write_series(
    parts: RegionParts,
    gaps: Gaps,
    columns: dict[str, dict[str, Any]],
    derived: list[Derived],
    said: dict[str, Any],
) -> dict[str, Any]:
    """Write series.parquet and series.json; ``said`` holds what the rows don't tell."""
    parts.join()
    columns = columns | {made.name: made.describe() for made in derived}
    empty = set(parts.empty_columns())
    content = said | {
        "rows": parts.rows,
        "columns": {name: of for name, of in columns.items() if name not in empty},
        "gaps": gaps.entries(),
    }
    write_description(parts.folder, content)
    return content


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
    # Of columns: numbers that mean missing, units, and what a value stands for in time.
    missing: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    meanings: dict[str, str] = field(default_factory=dict)


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
        said = ColumnOptions(options.missing, options.units, options.meanings)
        streams = Streams(regions, folder, options.features, said, tick)
        streams.read(inputs)
        _check_columns(streams, options)
        steps = _Steps(streams, options)
        units = {name: column.unit for name, column in streams.columns.items()}
        derived, notes = choose_derived(options.derived, units, steps.step)
        notes = streams.notes + notes
        if clash := [n for n in ("timestamp", "region") if n in units]:
            raise InputError(f"a variable is called {clash[0]}; leave it out with --features.")
        parts = RegionParts(folder, steps.names + [made.name for made in derived])
        gaps = Gaps(steps.names, [region.name for region in regions], steps.step * 3600)
        years = (steps.stamps * 3600).astype("datetime64[s]").astype("datetime64[Y]")
        blocks = np.split(steps.stamps, np.flatnonzero(np.diff(years)) + 1)
        for index, region in enumerate(regions):
            for stamps in blocks:
                columns, filled = steps.rows(index, stamps, derived)
                missing = np.stack([np.isnan(columns[name]) for name in steps.names], axis=1)
                gaps.add(index, stamps * 3600, missing, filled)
                kept = ~missing.all(axis=1)
                if kept.any() or region.name not in parts.known:
                    rows = {name: column[kept] for name, column in columns.items()}
                    parts.write(region.name, stamps[kept] * 3600, rows)
                tick(f"{region.name} {stamp(stamps[0])[:4]}")
        notes += _check_written(parts, steps.names)
        described: dict[str, dict[str, Any]] = {}
        for name in steps.names:
            column = streams.columns[name]
            over = f" ({column.kind}, over the step that ends at the stamp)"
            is_instant = column.kind == INSTANT
            described[name] = {
                "unit": column.unit,
                "kind": "instantaneous" if is_instant else "accumulated",
                "description": column.variable.description + ("" if is_instant else over),
                "record": column.record.to_dict(),
            }
        present = steps.hours_present[PRECIPITATION]
        content = _write_series(
            parts,
            gaps,
            described,
            derived,
            {
                "step_hours": float(steps.step),
                "first": gaps.first,
                "last": gaps.last,
                "regions": [
                    {"name": region.name, **region.describe(), "cells": cells}
                    for region, cells in zip(regions, streams.cells, strict=True)
                ],
                "precipitation": {
                    "column": PRECIPITATION,
                    "unit": "mm",
                    "hours_present_per_day": present,
                    "is_sparse": present < 24,
                },
                "sources": streams.sources,
                "is_synthetic": streams.is_synthetic,
            },
        )
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


class _Steps:
    """How the hours become steps, which end at ``stamps`` [R], hours with one rest by ``step``.

    ``names`` are the columns, rain first; ``hours_present`` of a day's 24 by sum. Raises InputError
    for sums that miss hours, and for a step that the columns can't have.
    """

    def __init__(self, streams: Streams, options: PrepareOptions) -> None:
        self.columns, self.fill_hours = streams.columns, options.max_gap_fill_hours
        self.names = [PRECIPITATION, *(name for name in self.columns if name != PRECIPITATION)]
        hours = {name: column.known_hours() for name, column in self.columns.items()}
        sums = [name for name in self.names if self.columns[name].kind != INSTANT]
        self.hours_present = {
            name: hours_present_per_day(hours[name], column.totals, column.window)
            for name, column in self.columns.items()
            if name in sums
        }
        for name in sums if not options.allow_sparse_accumulation else ():
            self._check_complete(name)
        spacing = {name: column.stamps_apart() for name, column in self.columns.items()}
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
        whole = [name for name in sums if self.columns[name].window == step > 1]
        deciding = whole or [name for name in self.names if name not in sums] or sums
        counts = np.bincount(np.concatenate([hours[n] for n in deciding]) % step, minlength=step)
        # 0 where the data hold stamps there; 06 and 18 UTC in steps of 12 h have 6.
        phase = 0 if counts[0] * 2 >= counts.max() else int(np.argmax(counts))
        earliest = min(int(known[0]) for known in hours.values())
        latest = max(int(known[-1]) for known in hours.values())
        first, last = earliest + (phase - earliest) % step, latest - (latest - phase) % step
        if last < first:
            raise InputError(
                f"{stamp(earliest)} to {stamp(latest)} holds no full step of {step} h."
            )
        self.step, self.stamps = step, np.arange(first, last + 1, step)

    def _check_complete(self, name: str) -> None:
        """Raise InputError for a sum of which not all 24 hours of a day are there."""
        if (present := self.hours_present[name]) >= 24:
            return
        column = self.columns[name]
        apart, word = column.stamps_apart(), {SUM: "sum", MEAN: "mean"}.get(column.kind, "max")
        over = f"{word}:{apart}h@end"
        longer = f", say --meaning {name}={over} (or @start) where each value is over {apart} h"
        wrong = "a 24-h rain label" if name == PRECIPITATION else f"a 24-h sum of {name}"
        raise InputError(
            f"{present} of 24 hours of {name} are present; {wrong} from this file would be wrong. "
            f"Request every hour of {name} (or leave it out){longer if apart > 1 else ''}, or say "
            "--allow-sparse-accumulation to take it as it is."
        )

    def rows(
        self, region: int, stamps: np.ndarray, derived: list[Derived]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return columns of [R] at the ``stamps``, and [R, C] bool: values that were filled.

        They are made with as much of the past as they need.
        """
        step, every = self.step, self.stamps
        fill = int(self.fill_hours // step)
        back = fill + max([made.hours // step for made in derived], default=0)
        begin, end = np.searchsorted(every, (stamps[0], stamps[-1]))
        lead = min(back, int(begin))
        grid = every[begin - lead : end + 1 + (fill + 1 if fill else 0)]
        columns = {name: self._column(name, region, grid) for name in self.names}
        marks = np.zeros((len(stamps), len(self.names)), dtype=bool)
        own = slice(lead, lead + len(stamps))
        for index, name in enumerate(self.names if fill else []):
            if self.columns[name].kind == INSTANT:
                before, times = columns[name], (grid * 3600).astype("datetime64[s]")
                same = np.zeros(len(grid), dtype=np.int64)
                after, _ = fill_forward(before[:, None], same, times, self.fill_hours, step)
                columns[name] = after[:, 0]
                marks[:, index] = (np.isnan(before) & ~np.isnan(after[:, 0]))[own]
        present = ~np.all([np.isnan(columns[name]) for name in self.names], axis=0)
        for made in derived:
            columns[made.name] = make_column(made, columns, grid * 3600, present, step)
        return {name: column[own] for name, column in columns.items()}, marks

    def _column(self, name: str, region: int, grid: np.ndarray) -> np.ndarray:
        column, step, is_rain = self.columns[name], self.step, name == PRECIPITATION
        first, last = int(grid[0]), int(grid[-1])
        values, covered = column.hourly_values(region, first - step + 1, last + 1)
        if is_rain:
            values = to_mm(values, column.mm_per_unit, name)
        needed = max(step * self.hours_present.get(name, 24) // 24, 1)
        steps = per_step(values, covered, step, column.kind, needed)
        return np.round(steps, MM_DIGITS) if is_rain else steps


def _check_written(parts: RegionParts, names: list[str]) -> list[str]:
    """Sentences on columns that are missing; InputError where a region has no rain at all."""
    empty = parts.empty_columns()
    notes = [
        f"column {name} has no value at any step and is left out."
        for name in empty
        if name != PRECIPITATION
    ]
    for region, known in parts.known.items():
        if not known[PRECIPITATION]:
            raise InputError(
                f"region {region} has no complete step of {PRECIPITATION}: its cells are missing "
                "(sea in ERA5-Land), or no step has all its hours."
            )
        notes += [
            f"column {name} is missing in all of region {region}; no window runs there unless it "
            "is left out (--features)."
            for name in names
            if not known[name] and name not in empty
        ]
    return notes


@dataclass
class _Table:
    """One input after the reader's checks.

    ``columns`` [R] each: the rain, the ``features`` beside it, and numeric columns named like
    labels. ``rain`` is what the file calls the rain.
    """

    name: str
    series: WeatherSeries
    rain: str
    features: list[str]
    columns: dict[str, np.ndarray]
    records: dict[str, Any]
    source: dict[str, Any]


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
    notes: list[str] = []
    with output_folder(options.output, options.overwrite) as folder:
        tables = []
        for path in inputs:
            tables.append(_read_table(path, options, said, notes))
            tick(path.name)
        first = tables[0]
        for table in tables:
            _check_alike(first, table)
        step, records = first.series.step_hours, first.records
        regions = list(dict.fromkeys(name for table in tables for name in table.series.regions))
        derived = _derived(options, list(first.columns), records, step)
        parts = RegionParts(folder, [*first.columns, *(made.name for made in derived)])
        gaps = Gaps(list(first.columns), regions, round(step * 3600))
        rows_of = [
            dict(zip(table.series.regions, table.series.rows_of_regions(), strict=True))
            for table in tables
        ]
        for place, region in enumerate(regions):
            pieces = [
                (table, rows[region])
                for table, rows in zip(tables, rows_of, strict=True)
                if region in rows
            ]
            seconds, values = _joined(region, pieces)
            _write_region(place, seconds, values, derived, records, parts, gaps)
            if not parts.known[region][PRECIPITATION]:
                raise InputError(
                    f"region {plain(region, 80)} has no row whose own rain is known "
                    f"({first.rain}): of running totals each needs the row before."
                )
        described: dict[str, dict[str, Any]] = {}
        for name in first.columns:
            record = records.get(name)
            unit = record["written_as"] or (record["unit"] or {}).get("value") if record else None
            described[name] = {"unit": unit, "kind": "table", "description": "as in the table"}
            if record is not None:
                described[name]["record"] = record
        content = _write_series(
            parts,
            gaps,
            described,
            derived,
            {
                "step_hours": step,
                "first": str(min(table.series.timestamps.min() for table in tables)),
                "last": str(max(table.series.timestamps.max() for table in tables)),
                "regions": [{"name": name, "cells": None} for name in regions],
                "precipitation": {
                    "column": PRECIPITATION,
                    "source_column": first.rain,
                    "unit": "mm",
                    "hours_present_per_day": 24 if step <= 1 else None,
                    "is_sparse": False,
                },
                "sources": [table.source for table in tables],
                "is_synthetic": any(TRUTH in table.series.feature_names for table in tables),
            },
        )
    meant = records[PRECIPITATION]["time"]
    # --stamps and layouts of hourly files say where a step ends, not how long its rain was summed.
    most_hours = {"--stamps": np.inf, "its layout": 23}.get(meant["evidence"], 0)
    if step > 1 and (meant["known_by"] == "assumed" or step <= most_hours):
        notes.append(
            f"a table can't tell how many of the {step:g} hours of a step its rain was summed "
            "over; where it is ERA5's tp of one hour, labels from it are wrong."
        )
    return content, notes


def _read_table(
    path: Path, options: PrepareOptions, said: TableOptions, notes: list[str]
) -> _Table:
    config = DataConfig(
        path=str(path),
        features=options.features,
        # [] where ``none`` was said, None where nothing was.
        missing_values=parse_codes(options.missing, "--missing") if options.missing else None,
        directions=said.directions,
        max_fill_hours=0.0,
    )
    series, extra = read_table_and_labels(config, options=said)
    rain = series.source["resolved"].get("precipitation_column")
    assert rain is not None  # without a label column the reader asks for it
    assert series.precipitation_mm is not None
    label = f"{path.name}: "
    notes += [label + note for note in series.notes if "filled forward" not in note]
    notes += [f"{label}column {name} is kept, and never a feature." for name in extra]
    values = dict(zip(series.feature_names, series.values.T, strict=True))
    if options.features is None:
        values.pop(TRUTH, None)
    if PRECIPITATION in values and rain != PRECIPITATION:
        raise InputError(f"{path} holds both {rain} and tp; leave one out with --features.")
    values.pop(rain, None)
    records = dict(series.source["records"])
    records = {PRECIPITATION: records.pop(rain)} | records
    source = {
        "path": path.name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "first": series.source["first"],
        "last": series.source["last"],
        "variables": list(dict.fromkeys(record["name"] for record in records.values())),
    }
    columns = {PRECIPITATION: series.precipitation_mm, **values, **extra}
    return _Table(path.name, series, rain, [PRECIPITATION, *values], columns, records, source)


def _check_alike(first: _Table, table: _Table) -> None:
    ours, theirs = ((of.series.step_hours, of.features, list(of.columns)) for of in (table, first))
    if ours != theirs:
        raise InputError(
            f"{table.name} differs in step or columns from the first table: {ours[0]:g} h, "
            f"{', '.join(ours[1][:8])}; the first: {theirs[0]:g} h, {', '.join(theirs[1][:8])}."
        )
    mine, other = table.records, first.records
    running = [of[PRECIPITATION]["time"]["value"].get("running") for of in (mine, other)]
    if running[0] != running[1]:
        words = ["sums of each row" if one is None else "running totals" for one in running]
        raise InputError(
            f"{table.rain} of {table.name} behaves like {words[0]}, of {first.name} like "
            f"{words[1]}; say --meaning {table.rain}=running, or prepare them apart."
        )
    for name in mine.keys() & other.keys():
        units = [(of[name]["unit"] or {}).get("value") for of in (mine, other)]
        if name != PRECIPITATION and units[0] != units[1]:
            raise InputError(
                f"{name} is in {units[0]} in {table.name} and in {units[1]} in {first.name}; bring "
                "them to one unit."
            )


def _joined(
    region: str, pieces: list[tuple[_Table, np.ndarray]]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(seconds [R], values [R] by column) of a region, from one table or from several in time."""
    pieces.sort(key=lambda piece: piece[0].series.timestamps[piece[1][0]])
    seconds = [table.series.timestamps[rows].astype(np.int64) for table, rows in pieces]
    for index in range(1, len(pieces)):
        if seconds[index][0] <= seconds[index - 1][-1]:
            raise InputError(
                f"region {plain(region, 80)} stands in two tables at {_iso(seconds[index][0])}, "
                f"{pieces[index - 1][0].name} and {pieces[index][0].name}; join them first, or "
                "give the second another name (--region)."
            )
    columns = {
        name: np.concatenate([table.columns[name][rows] for table, rows in pieces])
        for name in pieces[0][0].columns
    }
    return np.concatenate(seconds), columns


def _derived(
    options: PrepareOptions, columns: list[str], records: dict[str, Any], step: float
) -> list[Derived]:
    """Only what is asked for: a table may hold derived features of its own."""
    if options.derived in (["default"], ["none"]):
        return []
    if step != int(step):
        raise InputError(f"--derived needs a step of whole hours; the table's is {step:g} h.")
    told = {name: (of["unit"] or {}).get("value") or "" for name, of in records.items()}
    units = {name: told.get(name, "") for name in columns} | {PRECIPITATION: "mm"}
    made = choose_derived(options.derived, units, int(step))[0]
    for name in ("t2m", "d2m") if any(of.kind == "relative_humidity" for of in made) else ():
        if not units[name]:
            raise InputError(
                f"--derived relative_humidity needs the unit of {name}; say --unit {name}=degC or "
                f"{name}=K."
            )
    return made


def _write_region(
    place: int,
    seconds: np.ndarray,
    columns: dict[str, np.ndarray],
    derived: list[Derived],
    records: dict[str, Any],
    parts: RegionParts,
    gaps: Gaps,
) -> None:
    region, step = gaps.regions[place], gaps.step
    if ((seconds - seconds[0]) % step).any():
        raise InputError(f"region {plain(region, 80)}: the times of its tables don't fit one step.")
    at = (seconds - seconds[0]) // step
    count = int(at[-1]) + 1
    size = count * (len(columns) + len(derived)) * 20  # values, copies of them, masks
    if size > _SMALL_BYTES:
        check_memory(size, f"region {plain(region, 80)}, {count:,} steps long,")
    present = np.zeros(count, dtype=bool)
    present[at] = True
    stamps = seconds[0] + np.arange(count) * step
    spread = {name: np.full(count, np.nan) for name in columns}
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
        columns[made.name] = make_column(made, inputs, stamps, present, step // 3600)[at]
    parts.write(region, seconds, columns)
