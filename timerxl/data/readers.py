"""Read tables (Parquet, CSV) to a :class:`WeatherSeries`; everything dubious is refused here.

Guesses are made only where they are clear, and each is said in ``notes``. R rows, C features.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from timerxl.config import DataConfig, InputError
from timerxl.data.enso import with_oni
from timerxl.data.era5.accumulation import (
    COUNTER,
    HOURLY,
    RUNNING,
    SUM,
    UNCLEAR,
    AccumulationVerdict,
    Totals,
    only_rises,
    parse_meaning,
    problem,
    rain_verdict,
    shares,
)
from timerxl.data.series import (
    ROW_ARRAYS,
    Arrays,
    WeatherSeries,
    blocks,
    choose_features,
    fill_forward,
    label_like,
)
from timerxl.data.synthetic import load_synthetic
from timerxl.data.tables.columns import (
    ERA5_NAMES,
    RAIN,
    SIN_COS,
    ColumnRecord,
    Fact,
    KnownBy,
    check_codes,
    encode_directions,
    feature_record,
    is_direction,
    limits_of,
    mask,
    quantity_of,
    rain_unit,
    records_problem,
    time_meaning,
    to_mm,
    unit_in_name,
    zero_one,
)
from timerxl.data.tables.parquet import (
    RegionsInterleaved,
    is_by_region,
    read_parquet,
    regions_of,
)
from timerxl.data.tables.text import (
    MOST_COLUMNS,
    TEXT_SUFFIXES,
    Layout,
    TextOptions,
    is_text_table,
    read_known_table,
    read_traces,
)
from timerxl.data.tables.times import TimeOptions, Times, find_regions, find_times, time_columns
from timerxl.untrusted import is_file, listed, plain, read_json, reason, schema_error

# Pyarrow's, pandas' and the codecs' own; what Parquet says of pandas' index is taken unchecked.
PARSER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(NotImplementedError, RecursionError, MemoryError),
)
# ERA5's packing leaves noise of this size below zero; anything lower is a code for "missing".
_NEGATIVE_NOISE_MM = 0.01
_RAIN_LIMITS = (-_NEGATIVE_NOISE_MM, np.inf)  # in any unit; what is too much, rain_unit tells
_DIRECTION_LIMITS = (-180.0, 360.0)
AUTO = "auto"
_CODES_ADVICE = "Say --missing {values} to mask it; --missing none takes every number as it is."
_SHOWN_SKIPPED = 6
_MOST_OF_A_NAME = 1_000  # characters of a column's or a region's name

SERIES, DESCRIPTION, FORMAT = "series.parquet", "series.json", 1
PRECIPITATION = "tp"
# What is read of series.json, as timerxl.untrusted.schema_error takes it.
_SHAPE = {
    "format": range(FORMAT, FORMAT + 1),
    "sha256": str,
    "is_synthetic": bool,
    "columns?": dict,
    "precipitation": {
        "column": str,
        "source_column?": str,
        "unit": str,
        "is_sparse": bool,
        "hours_present_per_day": (float, None),
    },
    "sources?": [{"variables?": [str]}],
}
_COLUMN = {"unit?": (str, None), "record?": (dict, None)}


@dataclass(frozen=True)
class TableOptions:
    """What a person says of a table beyond a recipe; None and empty mean: guess, and say so.

    ``units`` and ``meanings`` go by column. ``is_command`` spells options as those of
    launch/prepare_data.py in sentences, and takes running totals apart.
    """

    text: TextOptions = field(default_factory=TextOptions)
    times: TimeOptions = field(default_factory=TimeOptions)
    region_column: str | None = None
    region: str | None = None
    only_region: str | None = None
    precipitation_column: str | None = None
    precipitation_unit: str | None = None
    directions: str = SIN_COS
    units: Mapping[str, str] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    is_command: bool = False


@dataclass
class OpenedTable:
    """A table at the door: rows as in the file, what is known of it, sentences to say."""

    frame: pd.DataFrame
    name: str
    layout: Layout | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    not_numbers: Mapping[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    line_of: Callable[[int], int] | None = None
    notes: list[str] = field(default_factory=list)

    def told_unit(self, column: str) -> tuple[str, str] | None:
        """Return (unit, by what) as the layout, a line of units or the column's name tell it."""
        if self.layout is not None and (unit := self.layout.unit_of(column)):
            return unit, f"the layout of {self.layout.name}"
        if unit := self.units.get(column):
            return unit, "its line of units"
        return (unit, "its name") if (unit := unit_in_name(column)) else None

    def is_label(self, column: str) -> bool:
        """Tell whether a column holds what is to be predicted, by its name or the layout."""
        return label_like(column) or (self.layout is not None and self.layout.is_label(column))


def load_series(config: DataConfig, arrays: Arrays | None = None) -> WeatherSeries:
    """Load the series of ``data.path``, or the synthetic one where the path is null.

    A series.parquet whose regions stand one after the other is read region by region into
    ``arrays``, where these are files; any other table is read as a whole.
    """
    series = None
    if config.path is not None and arrays is not None and arrays.folder is not None:
        series = _read_by_region(config, arrays)
    if series is None:
        series = load_synthetic(config) if config.path is None else read_table(config)
    if config.oni_path is None:
        return series
    return with_oni(series, Path(config.oni_path), config.oni_lag_months)


def read_table(
    config: DataConfig,
    given: pd.DataFrame | None = None,
    needs_label: bool = True,
    options: TableOptions | None = None,
    only_region: str | None = None,
) -> WeatherSeries:
    """Read a text or Parquet table of one regular series per region, or the table ``given``.

    Rows may interleave regions; inside a region time ascends. Short holes in the features are
    filled forward (:func:`fill_forward`); ``precipitation_mm`` never is, a label must be measured.
    What launch/prepare_data.py wrote beside the table becomes ``source["prepared"]``. Without
    ``needs_label`` (to forecast, not to score) neither rain nor a label column has to be there.
    A table that names no region is called ``only_region``, None: as its file.
    Raises InputError naming the column, the region and the first offending time.
    """
    options = replace(options or _of_recipe(config), only_region=only_region)
    return read_table_and_labels(config, given, needs_label, options)[0]


def read_table_and_labels(
    config: DataConfig,
    given: pd.DataFrame | None = None,
    needs_label: bool = True,
    options: TableOptions | None = None,
) -> tuple[WeatherSeries, dict[str, np.ndarray]]:
    """Read the same, and the columns that are named like a label: [R] float64 each, no features."""
    if config.path is None and given is None:
        raise InputError("data.path is null; expected the path of a table (Parquet, CSV).")
    options = options or _of_recipe(config)
    try:
        series, labels = _read(config, given, needs_label, options)
    except InputError as error:
        if options.is_command:
            raise
        raise InputError(in_recipe_words(str(error))) from error
    if not options.is_command:
        series = replace(series, notes=[in_recipe_words(note) for note in series.notes])
    return series, labels


def _read(
    config: DataConfig, given: pd.DataFrame | None, needs_label: bool, options: TableOptions
) -> tuple[WeatherSeries, dict[str, np.ndarray]]:
    path = Path(config.path or "the table")
    sha256, prepared = None, None
    notes: list[str] = []
    if given is None:
        opened = open_table(path, options)
        sha256 = sha256_of(path)
        prepared, said = read_prepared(path, sha256, config)
        notes += said + opened.notes
    else:
        opened = OpenedTable(_checked(given, "the table"), "the table")
    whole = _Part(path, sha256, prepared, path.name.split(".")[0] if given is None else "")
    series, rows = _series_of(opened, config, needs_label, options, whole, notes)
    series.notes.extend(_count_notes(series.source, rows.num_negative, config))
    labels = {
        name: rows.table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in series.source["skipped_columns"]
        if name in rows.table
        and name != config.label_column
        and opened.is_label(name)
        and pd.api.types.is_numeric_dtype(rows.table[name])
    }
    return series, labels


@dataclass(frozen=True)
class _Part:
    """What is known of a table, or of the rows of a region of it, beside its rows."""

    path: Path
    sha256: str | None
    prepared: dict[str, Any] | None
    stem: str
    is_region: bool = False


def _count_notes(source: dict[str, Any], num_negative: int, config: DataConfig) -> list[str]:
    """Say how many values were changed and how many are missing."""
    notes, name = [], source["resolved"].get("precipitation_column")
    if num_negative:
        notes.append(f"{num_negative} values of {name} just below zero set to 0.")
    filled, left = (sum(source[key].values()) for key in ("filled_values", "missing_values_left"))
    if filled or left:
        notes.append(
            f"{filled} missing values filled forward (holes of at most "
            f"{config.max_fill_hours:g} h); {left} in longer holes are left, and no window "
            "runs over them."
        )
    return notes


def _read_by_region(config: DataConfig, arrays: Arrays) -> WeatherSeries | None:
    """Read a series.parquet that series.json describes, a region at a time, into ``arrays``; None
    where it has to be read as a whole."""
    path, options = Path(str(config.path)), _of_recipe(config)
    column = options.region_column or config.region_column
    try:
        if path.name != SERIES or not is_file(path) or not is_by_region(path, column):
            return None
        sha256 = sha256_of(path)
        prepared, notes = read_prepared(path, sha256, config)
        if prepared is None:
            return None
        with pq.ParquetFile(path) as file:
            count = file.metadata.num_rows
        part_of = _Part(path, sha256, prepared, path.name.split(".")[0], is_region=True)
        whole: dict[str, np.ndarray] = {}
        regions: list[str] = []
        start, num_negative, first = 0, 0, None
        for frame in regions_of(path, column):
            opened = OpenedTable(_checked(frame, str(path)), str(path))
            part, rows = _series_of(opened, config, True, options, part_of, list(notes))
            first = first or part
            if not whole:
                whole = {
                    name: arrays.new(name, (count, *of.shape[1:]), str(of.dtype))
                    for name in ROW_ARRAYS
                    if (of := getattr(part, name)) is not None
                }
                sums = {key: dict.fromkeys(part.source[key], 0) for key in _SUMMED}
            if len(part.regions) != 1 or not _is_alike(part, first):
                return None
            end = start + len(part.region_index)
            for name, array in whole.items():
                array[start:end] = getattr(part, name) if name != "region_index" else len(regions)
            for key, of in sums.items():
                sums[key] = {name: n + part.source[key][name] for name, n in of.items()}
            num_negative += rows.num_negative
            regions += part.regions
            start = end
    except (RegionsInterleaved, _OneRow):
        return None
    except PARSER_ERRORS as error:
        if isinstance(error, InputError | OSError):
            raise
        raise InputError(f"data.path {path} can't be read as a table: {reason(error)}") from error
    if first is None or start != count:
        return None
    missing = [name for name, left in sums["missing_values_left"].items() if left == count]
    rain = whole.get("precipitation_mm")
    if rain is not None and all(np.isnan(rain[block]).all() for block in blocks(count)):
        missing.append(str(first.source["resolved"].get("precipitation_column")))
    if missing:
        raise InputError(f"column {missing[0]} is missing in every row; leave it out or fix it.")
    times = whole["timestamps"]
    source = first.source | sums
    source |= {"rows": count, "first": str(times.min()), "last": str(times.max())}
    said = [in_recipe_words(note) for note in first.notes]
    notes = said + _count_notes(source, num_negative, config)
    arrays_of: dict[str, Any] = dict(whole)
    return replace(first, regions=regions, source=source, notes=notes, **arrays_of)


_SUMMED = ("filled_values", "missing_values_left")


def _is_alike(one: WeatherSeries, other: WeatherSeries) -> bool:
    """Whether two regions have the same step and columns of the same use."""
    keys = ("feature_names", "step_hours", "precipitation_feature")
    skipped = one.source["skipped_columns"] == other.source["skipped_columns"]
    return skipped and all(getattr(one, key) == getattr(other, key) for key in keys)


class _OneRow(Exception):
    """A region has a single row, which tells no step."""


def _series_of(
    opened: OpenedTable,
    config: DataConfig,
    needs_label: bool,
    options: TableOptions,
    part: _Part,
    notes: list[str],
) -> tuple[WeatherSeries, _Rows]:
    """Make a series of the rows of a table, or of a region of it; its notes lack counts."""
    path, prepared = part.path, part.prepared
    if part.is_region and len(opened.frame) < 2:
        raise _OneRow
    rain = _rain_column(opened, config, options, notes)
    missing = None
    if (name := config.label_column) is not None and name not in opened.frame:
        missing = f"{name}; set data.label_column"
    elif needs_label and name is None and rain is None:
        hint = "data.precipitation_column (or data.label_column for a ready label)"
        missing = f"{config.precipitation_column}; set {hint}"
    if missing:
        present = ", ".join(map(str, opened.frame.columns[:30]))
        raise InputError(f"{path} has no column {missing} to one of: {present}.")
    if rain is not None and (why := opened.not_numbers.get(rain)):
        raise InputError(f"{why} Correct them, or say --missing for a number among them.")

    rows = _Rows(config, options, opened, part.stem, part.is_region)
    if prepared is None and needs_label:
        notes += rows.said_of_times
    notes += rows.notes
    rows.notes = notes
    sources = rows.make_meaningful() if prepared is None else {}
    reasons = rows.no_features(rain)
    features, skipped = table_features(rows.table, config, rows.apart, reasons)
    notes += _skipped_notes(skipped)
    columns = {name: rows.numbers(name) for name in features}
    if prepared is None:
        rows.check_features(columns, sources, rain)
    precipitation: np.ndarray | None = None
    unit = "mm"
    if rain is not None:
        raw = rows.exact_numbers(rain)
        if prepared is None:
            raw, unit = rows.own_rain(raw, rain, needs_label)
        precipitation = rows.rain_mm(raw, rain, unit)
        if rain in features:
            columns[rain] = precipitation
    elif needs_label:
        notes.append(f"no column {config.precipitation_column}: labels from {config.label_column}.")
    masked = {name: record.num_masked for name, record in rows.records.items() if record.missing}
    if masked:
        shown = listed([f"{name} ({count:,})" for name, count in masked.items()])
        notes.append(f"values that stand for missing are left out: {shown}.")
    values, counts = fill_forward(
        np.stack(list(columns.values()), axis=1),
        rows.region_index,
        rows.timestamps,
        config.max_fill_hours,
        rows.step_hours,
    )
    left = np.isnan(values).sum(axis=0)
    source: dict[str, Any] = {
        "path": config.path,
        "sha256": part.sha256,
        "synthetic": False,
        "rows": len(rows.table),
        "first": str(rows.timestamps.min()),
        "last": str(rows.timestamps.max()),
        "skipped_columns": skipped,
        "filled_values": dict(zip(features, counts.tolist(), strict=True)),
        "missing_values_left": dict(zip(features, left.tolist(), strict=True)),
        "records": {name: record.to_dict() for name, record in rows.records.items()},
        "resolved": {"precipitation_unit": unit},
    }
    if rain is not None:
        source["resolved"]["precipitation_column"] = rain
    if prepared is not None:
        known = {name: of.get("record") for name, of in prepared.get("columns", {}).items()}
        source |= {"prepared": prepared, "synthetic": prepared["is_synthetic"]}
        source["records"] = {name: of for name, of in known.items() if of and name in features}
    ready = rows.ready_label()
    if rain is None and not needs_label:
        ready = np.full(len(rows.table), np.nan)
    series = WeatherSeries(
        feature_names=features,
        regions=rows.regions,
        values=values.astype(np.float32),
        region_index=rows.region_index,
        timestamps=rows.timestamps,
        precipitation_mm=precipitation,
        ready_label=ready,
        true_probability=None,
        step_hours=rows.step_hours,
        precipitation_feature=rain if rain in features else None,
        is_synthetic=source["synthetic"],
        source=source,
        notes=notes,
    )
    return series, rows


class _Rows:
    """The rows of a table, region after region; reads columns and says what was made of them.

    Every column has to pass: numbers, codes for missing, units, running totals. ``records`` hold
    what is known of each.
    """

    def __init__(
        self,
        config: DataConfig,
        options: TableOptions,
        opened: OpenedTable,
        stem: str,
        may_be_empty: bool = False,
    ) -> None:
        self.config, self.options, self.opened = config, options, opened
        self.may_be_empty = may_be_empty  # a column of these rows: others may hold values
        self.num_negative = 0
        self.records: dict[str, ColumnRecord] = {}
        self.notes: list[str] = []
        table, layout = opened.frame, opened.layout
        found = find_regions(
            table,
            layout,
            options.region_column,
            options.region,
            time_columns(table, layout, options.times),
            stem,
            opened.metadata,
        )
        if not found.columns and options.region is None and options.only_region is not None:
            found = replace(found, names=found.names.map(lambda _: options.only_region))
        times = find_times(table, layout, options.times, found.names, opened.line_of)
        self.said_of_times = found.notes + times.notes
        self.apart = {*times.columns, *found.columns}
        index, self.regions = _regions(found.names, (found.columns or ["region"])[0])
        order = np.argsort(index, kind="stable")
        if options.is_command:  # what is trained on directly must be in order already
            by_time = np.lexsort((times.timestamps, index))
            if (by_time != order).any():
                self.notes.append("the rows are sorted by time.")
                order = by_time
        self.table, self.region_index = table.iloc[order], index[order]
        self.timestamps = times.timestamps[order]
        self.step_hours = _step_hours(self.timestamps, self.region_index, self.regions)
        self.time = _time_fact(times, self.step_hours)

    def at(self, bad: np.ndarray) -> str:
        """Say where the first of the ``bad`` rows [R] bool stands."""
        row = int(np.flatnonzero(bad)[0])
        name = plain(self.regions[self.region_index[row]], 80)
        return f"region {name}, {self.timestamps[row]}"

    def numbers(self, name: str) -> np.ndarray:
        """Return [R] float64, NaN where missing; refuse text, infinite numbers, empty columns."""
        column = self.table[name]
        if not pd.api.types.is_numeric_dtype(column):
            why = f"column {name} is {column.dtype}, not numeric; convert it or leave it out."
            raise InputError(self.opened.not_numbers.get(name) or why)
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isnan(numbers).all() and not self.may_be_empty:
            raise InputError(f"column {name} is missing in every row; leave it out or fix it.")
        if np.isinf(numbers).any():
            raise InputError(
                f"column {name} holds an infinite number, first at {self.at(np.isinf(numbers))}; "
                "replace it by an empty value if it is missing."
            )
        return numbers

    def exact_numbers(self, name: str) -> np.ndarray:
        """Return :meth:`numbers`, of four bytes the decimal that was stored.

        0.1 stored in 4 bytes reads 0.10000000149.
        """
        numbers = self.numbers(name)
        if self.table[name].dtype in (np.float32, np.float16):
            distinct, index = np.unique(self.table[name].to_numpy(), return_inverse=True)
            numbers = distinct.astype(str).astype(np.float64)[index]
        return numbers

    def _masked(self, values: np.ndarray, source: str, record: ColumnRecord) -> np.ndarray:
        """[R] without the codes that the layout or the user names; the record counts them."""
        layout = self.opened.layout
        if layout is not None:
            values, counts = mask(values, layout.missing_of(source))
            record.masked(counts, "file", f"the layout of {layout.name}")
        values, counts = mask(values, self.config.missing_values or [])
        record.masked(counts, "said", "--missing")
        if record.missing and np.isnan(values).all():
            held = listed([f"{code['value']:.7g}" for code in record.missing])
            raise InputError(f"column {source} holds nothing but {held}; leave it out.")
        return values

    def _refuse_codes(
        self, columns: Mapping[str, tuple[np.ndarray, tuple[float, float] | None]]
    ) -> None:
        """Refuse codes for missing that nobody named, unless every number is said to be right."""
        if self.config.missing_values != []:
            check_codes(columns, _CODES_ADVICE, self.at)

    def _verdict(self, values: np.ndarray) -> AccumulationVerdict:
        return rain_verdict(values, self.timestamps, self.region_index)

    def make_meaningful(self) -> dict[str, str]:
        """Make directions sine and cosine, yes and no 1 and 0; return {new column: its source}."""
        masked: dict[str, np.ndarray] = {}
        for name in map(str, self.table.columns):
            if name not in self.apart and is_direction(self.table, name):
                record = self.records[name] = ColumnRecord(name)
                if pd.api.types.is_numeric_dtype(self.table[name]):
                    masked[name] = self._masked(self.numbers(name), name, record)
        self._refuse_codes({name: (values, _DIRECTION_LIMITS) for name, values in masked.items()})
        table = self.table.assign(**masked) if masked else self.table
        directions = self.config.directions
        table, sources = encode_directions(table, self.config.features, directions, self.apart)
        for name in dict.fromkeys(sources.values()):
            kept = "(--directions as_is keeps it)"
            self.notes.append(f"{name} is a direction: read as {name}_sin and {name}_cos {kept}.")
        found = {
            str(name): numbers
            for name in table.columns
            if name not in self.apart and (numbers := zero_one(table[name])) is not None
        }
        if found:
            table = table.assign(**found)
            self.notes.append(f"yes and no are read as 1 and 0 in {listed(list(found))}.")
        self.table = table
        return sources

    def no_features(self, rain: str | None) -> dict[str, str]:
        """Say why columns are no features: by the layout, by words among the numbers, or empty."""
        found = dict(self.opened.not_numbers)
        if (layout := self.opened.layout) is not None:
            for name in map(str, self.opened.frame.columns):
                if layout.is_label(name):
                    found[name] = f"it tells the future (layout of {layout.name}), a label"
                elif not layout.is_weather(name):
                    found[name] = f"no weather (layout of {layout.name})"
        if self.options.is_command and self.config.features is None:
            table = self.table
            empty = [str(name) for name in table if name != rain and table[name].isna().all()]
            found |= dict.fromkeys(empty, "missing in every row")
        return found

    def check_features(
        self, columns: dict[str, np.ndarray], sources: dict[str, str], rain: str | None
    ) -> None:
        """Take codes out of features, and make records; codes that nobody named are refused."""
        turned, self.records = self.records, {}
        judged: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
        if unknown := [n for n in self.options.units if n not in self.opened.frame.columns]:
            raise InputError(f"--unit names {unknown[0]}, which the table does not hold.")
        time = replace(self.time, value=self.time.value | {"kind": "step"})
        for name, values in columns.items():
            if name == rain:
                continue
            source = sources.get(name, name)
            told = self.opened.told_unit(source)
            record = feature_record(name, source, self.options.units.get(source), told, time)
            self.records[name] = record
            columns[name] = values = self._masked(values, source, record)
            if name == source:
                unit = record.unit.value if record.unit else None
                judged[name] = values, limits_of(name, unit, self.step_hours)
            else:
                record.missing = turned[source].missing
            if only_rises(name) and (
                why := problem(self._verdict(values), name, self.step_hours, False)
            ):
                raise InputError(f"{why}; leave it out, or take it apart before.")
        self._refuse_codes(judged)
        for name, values in columns.items():
            if (bad := np.abs(values) > np.finfo(np.float32).max).any():
                raise InputError(
                    f"column {name} holds a number beyond float32, first at {self.at(bad)}; "
                    "replace it by an empty value if it is missing."
                )

    def own_rain(self, rain: np.ndarray, name: str, needs_label: bool) -> tuple[np.ndarray, str]:
        """Return [R] rain of each step in the file's unit, and that unit."""
        time = self.time
        if name in ERA5_NAMES and time.known_by == "inferred":
            # A date tells of a day, ERA5's name of one hour.
            time = replace(time, known_by="assumed")
        record = ColumnRecord(name, Fact(RAIN, "file", "its name"), None, "mm", time)
        self.records[name] = record
        rain = self._masked(rain, name, record)
        self._refuse_codes({name: (rain, _RAIN_LIMITS)})
        rain = self._own_shares(rain, record, needs_label)
        said = self.options.precipitation_unit or self.options.units.get(name)
        if self.config.precipitation_unit != AUTO:
            said = self.config.precipitation_unit
        told, layout = self.opened.told_unit(name), self.opened.layout
        if said is None and told is None and layout and "--precipitation-unit" in layout.asks:
            raise InputError(
                f"a table of {layout.name} does not tell the unit of {name}, which depends on the "
                "download: say --precipitation-unit mm or --precipitation-unit in."
            )
        fact = record.unit = rain_unit(
            rain, self.step_hours, name, said, told, "--precipitation-unit"
        )
        if fact.known_by == "assumed" and needs_label:
            else_say = "(else say --precipitation-unit)"
            self.notes.append(f"{name} is taken as mm: {fact.evidence} {else_say}.")
        elif fact.known_by in ("file", "inferred") and fact.value != "mm":
            self.notes.append(f"{name} is in {fact.value} ({fact.evidence}): read as mm.")
        return rain, str(fact.value)

    def _own_shares(self, rain: np.ndarray, record: ColumnRecord, needs_label: bool) -> np.ndarray:
        """[R] what fell in each step: running totals are taken apart, or refused."""
        name, said, step = record.name, None, self.step_hours
        if text := self.options.meanings.get(name):
            said = parse_meaning(name, text)
            is_step = said.is_running or said.hours == step
            if said.kind != SUM or said.stamp or not is_step:
                raise InputError(
                    f"--meaning {name}={text}: rain of a table is a sum of each step "
                    f"(sum:{step:g}h) or running; what a stamp means, --stamps says."
                )
            record.time = replace(self.time, known_by="said", evidence=f"--meaning {text}")
            if not said.is_running:
                return rain
        verdict = self._verdict(rain)
        if said is not None:
            period = said.hours or 24
            totals = verdict.totals or Totals(period, 0)
            if verdict.kind in (HOURLY, COUNTER) or (said.hours and totals.period != period):
                raise InputError(
                    f"--meaning {name}={text} says running totals, but its values don't behave "
                    f"like that: {verdict.evidence}."
                )
            verdict = replace(verdict, kind=RUNNING, totals=totals)
        if verdict.kind == RUNNING and self.options.is_command:
            assert verdict.totals is not None
            self.notes.append(f"{name} adds up {verdict.totals} ({verdict.evidence}): taken apart.")
            # Every start between two stamps fits: the true one is at a stamp.
            first, totals = int(self.timestamps.astype(np.int64)[0]) // 3600, verdict.totals
            late = (totals.reset - first) % max(int(step), 1)
            totals = Totals(totals.period, (totals.reset - late) % totals.period)
            running = {"period": totals.period, "reset": totals.reset}
            meant = self.time.value | {"hours": None, "running": running}
            by: KnownBy = "inferred" if said is None else "said"
            record.time = Fact(meant, by, verdict.evidence)
            return shares(rain, self.timestamps, self.region_index, totals, step)
        if why := problem(verdict, name, step, needs_label):
            raise InputError(
                f"{why} ({verdict.evidence}). launch/prepare_data.py takes running totals apart; "
                f"say --meaning '{name}=sum:{step:g}h' there, where every row is a sum of its own."
            )
        if verdict.kind == UNCLEAR and needs_label and step < 24 and self.options.is_command:
            self.notes.append(f"{name} is taken as sums of each row ({verdict.evidence}).")
        return rain

    def rain_mm(self, rain: np.ndarray, name: str, unit: str) -> np.ndarray:
        """Return [R] rain in mm, rounded to 1e-6 and not below zero."""
        rain = np.round(to_mm(rain, unit, self.step_hours), 6)
        if (bad := rain < -_NEGATIVE_NOISE_MM).any():
            raise InputError(
                f"column {name} holds {rain[bad][0]:g} mm in a step ({self.at(bad)}); rain can't "
                "be negative: leave missing values empty."
            )
        self.num_negative = int((rain < 0).sum())
        return np.where(rain < 0, 0.0, rain)

    def ready_label(self) -> np.ndarray | None:
        """Return [R] the label column, 0, 1 or NaN; None where there is none."""
        name = self.config.label_column
        if name is None:
            return None
        label = self.numbers(name)
        if (bad := ~(np.isnan(label) | (label == 0) | (label == 1))).any():
            raise InputError(
                f"column {name} holds {label[bad][0]:g} ({self.at(bad)}); expected 0, 1, yes, no "
                "or an empty value."
            )
        return label


def table_features(
    table: pd.DataFrame, config: DataConfig, apart: set[str], reasons: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Choose the features in column order (or as listed), and say why other columns are skipped.

    ``apart`` are the columns of time and region, ``reasons`` why a column is no feature though it
    may be numeric.

    Raises InputError where no numeric column is left, or ``data.features`` lists what is none.
    """
    skipped: dict[str, str] = {}
    numeric: list[str] = []
    for name in map(str, table.columns):
        if name == config.label_column:
            skipped[name] = "it is the label"
        elif label_like(name):
            skipped[name] = "its name says label (data.label_column makes it one)"
        elif name in apart:
            continue
        elif name in reasons:
            skipped[name] = reasons[name]
        elif not pd.api.types.is_numeric_dtype(table[name]):
            skipped[name] = f"not numeric ({table[name].dtype})"
        else:
            numeric.append(name)
    if config.features is None and not numeric:
        raise InputError(f"{config.path} has no numeric column to take as a feature.")
    why = skipped | dict.fromkeys(apart, "it's the time or the region")
    unknown = f"the table {config.path or ''} has no such column".replace("  ", " ")
    return choose_features(config, numeric, why, unknown, skipped)


def _of_recipe(config: DataConfig) -> TableOptions:
    """Return what a recipe says of a table; its defaults say nothing."""
    default = DataConfig()

    def said(key: str) -> str | None:
        value = getattr(config, key)
        return None if value == getattr(default, key) else value

    time = said("timestamp_column")
    return TableOptions(
        times=TimeOptions(timestamp_columns=() if time is None else (time,)),
        region_column=said("region_column"),
        precipitation_column=said("precipitation_column"),
    )


def in_recipe_words(text: str) -> str:
    """Put a sentence with options of launch/prepare_data.py in the words of a recipe."""
    text = re.sub(
        r"Say --missing ([^;]*?) to mask (it|them); --missing none takes every number as it is\.",
        lambda said: (
            f"Say data.missing_values=[{', '.join(said[1].split())}] to mask {said[2]}; "
            "data.missing_values=[] takes every number as it is."
        ),
        text,
    )
    in_recipe = "timestamp-column|region-column|precipitation-column|precipitation-unit|directions"
    text = re.sub(
        rf"--({in_recipe})(?![\w-])", lambda said: "data." + said[1].replace("-", "_"), text
    )
    return re.sub(
        r"(?<!prepare_data.py )--(region|timezone|time-format|stamps|encoding|separator|decimal|"
        r"header-line|unit|meaning)(?![\w-])",
        r"launch/prepare_data.py --\1",
        text,
    )


def _rain_column(
    opened: OpenedTable, config: DataConfig, options: TableOptions, notes: list[str]
) -> str | None:
    """Find the column of rain: as said, as usual, of the layout, or the only one named like it."""
    names = list(map(str, opened.frame.columns))
    said = options.precipitation_column
    if said is not None:
        return said if said in names else None
    if config.precipitation_column in names:
        return config.precipitation_column
    found = opened.layout.rain_column(names) if opened.layout is not None else None
    if found is None and config.label_column is None:
        like = [name for name in names if not label_like(name) and _is_rain(name)]
        usual = [name for name in ERA5_NAMES if name in like]
        if len(like) > 1 and not usual:
            raise InputError(
                f"several columns are named like rain: {listed(like)}; say --precipitation-column."
            )
        found = next(iter(usual or like), None)
    if found is not None:
        notes.append(f"rain is taken from column {found} (else say --precipitation-column).")
    return found


def ready_label_without_rain(config: DataConfig) -> str | None:
    """Find the first ready label (0, 1, yes, no) of a table without rain; None if it has some."""
    if config.label_column is not None:
        return None
    opened = open_table(Path(str(config.path)), _of_recipe(config))
    if _rain_column(opened, config, _of_recipe(config), []) is not None:
        return None
    for name in sorted(map(str, opened.frame.columns)):
        if not opened.is_label(name):
            continue
        column = opened.frame[name]
        numbers = column.to_numpy() if pd.api.types.is_numeric_dtype(column) else zero_one(column)
        if numbers is not None and np.isin(numbers[~pd.isna(numbers)], (0, 1)).all():
            return name
    return None


def _is_rain(name: str) -> bool:
    quantity = quantity_of(name)
    return quantity is not None and quantity.key == RAIN and "snow" not in name.lower()


def _skipped_notes(skipped: dict[str, str]) -> list[str]:
    """Write one sentence a column, or a reason for many at once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in skipped.items():
        by_reason.setdefault(why, []).append(name)
    notes = []
    for why, names in by_reason.items():
        if len(names) <= _SHOWN_SKIPPED:
            notes += [f"column {name} skipped: {why.rstrip('.')}." for name in names]
        else:
            notes.append(f"{len(names)} columns skipped ({listed(names)}): {why.rstrip('.')}.")
    return notes


def _time_fact(times: Times, step_hours: float) -> Fact:
    """Tell what a stamp of the table means; sums are over the step, other values at its end."""
    known: dict[str, tuple[KnownBy, str]] = {
        "option": ("said", "--stamps"),
        "layout": ("file", "its layout"),
        "dates": ("inferred", "dates without an hour"),
    }
    by, evidence = known.get(times.known_by, ("assumed", ""))
    return Fact(time_meaning("sum", step_hours, times.stamps), by, evidence)


def is_table(path: Path) -> bool:
    """Tell by its name whether a file is a table; a ZIP is one unless it holds grids."""
    if path.is_dir() or path.suffix.lower() != ".zip":
        return path.suffix.lower() == ".parquet" or (not path.is_dir() and is_text_table(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return False
    return not any(name.endswith((".nc", ".nc4", ".grib", ".grb", ".grib2")) for name in names)


def open_table(path: Path, options: TableOptions | None = None) -> OpenedTable:
    """Open a Parquet or text file as a frame; InputError where it's neither, empty or ambiguous."""
    options = options or TableOptions()
    name = f"data.path {path}" if not options.is_command else str(path)
    if not is_file(path):
        raise InputError(f"{name} is no file; give the path of a table (Parquet, CSV).")
    is_parquet = path.suffix.lower() == ".parquet"
    if not is_parquet and not is_text_table(path):
        raise InputError(
            f"{name} ends in {path.suffix!r}; expected .parquet, .csv or another text table "
            f"({', '.join(TEXT_SUFFIXES)})."
        )
    try:
        if is_parquet:
            frame, notes = read_parquet(path)
            return OpenedTable(_checked(frame, name), name, notes=notes)
        region = [options.region_column] if options.region_column else None
        text, layout = read_known_table(path, options.text, region)
    except InputError:
        raise
    except PARSER_ERRORS as error:
        raise InputError(f"{name} can't be read as a table: {reason(error)}") from error
    names = list(map(str, text.frame.columns))
    like_rain = {*filter(_is_rain, names), options.precipitation_column}
    like_rain.add(layout.rain_column(names) if layout else None)
    of_rain = [name for name in names if name in like_rain]
    traces = read_traces(text, of_rain, layout.suffixes if layout else "")
    return OpenedTable(
        _checked(text.frame, name),
        name,
        layout,
        text.units,
        text.not_numbers,
        text.metadata,
        text.line_of,
        text.notes + traces,
    )


def _checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if any(level is not None for level in table.index.names):
        table = table.reset_index()
    if table.empty:
        raise InputError(f"{name} holds no rows.")
    if table.shape[1] > MOST_COLUMNS:
        raise InputError(
            f"{name} has {table.shape[1]:,} columns; expected at most {MOST_COLUMNS:,}."
        )
    _check_lengths(map(str, table.columns), f"{name} has a column whose name has")
    if not table.columns.is_unique:
        twice = sorted({str(column) for column in table.columns[table.columns.duplicated()]})
        raise InputError(f"{name} has columns of one name: {listed(twice)}.")
    return table


def _check_lengths(names: Iterable[str], what: str) -> None:
    if longest := next((one for one in names if len(one) > _MOST_OF_A_NAME), None):
        raise InputError(
            f"{what} {len(longest):,} characters ({plain(longest, 40)}); expected at most "
            f"{_MOST_OF_A_NAME:,}."
        )


def _regions(column: pd.Series, name: str) -> tuple[np.ndarray, list[str]]:
    """Return (index of each row's region [R] int64, names in the order of their appearance)."""
    codes, names = pd.factorize(column)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise InputError(f"column {name} is missing in row {row}; every row needs its region.")
    regions = [str(region) for region in names]
    _check_lengths(regions, f"column {name} holds a region's name of")
    return codes.astype(np.int64), regions


def _step_hours(timestamps: np.ndarray, region_index: np.ndarray, regions: list[str]) -> float:
    """Return the most common difference; refuse unsorted, duplicate and irregular times."""
    later = np.flatnonzero(np.diff(region_index) == 0) + 1
    times, of = timestamps.astype(np.int64), region_index[later]
    differences = times[later] - times[later - 1]
    wrong = np.flatnonzero(differences <= 0)
    # What is wrong with the first region is said, so those behind a wrong one don't matter.
    judged = slice(0, np.searchsorted(of, of[wrong[0]]) if wrong.size else len(of))
    counts = pd.DataFrame({"region": of[judged], "step": differences[judged]})
    counts = counts.value_counts(sort=False).reset_index(name="count")
    counts = counts.sort_values(["region", "count", "step"], ascending=[True, False, True])
    commonest = counts.drop_duplicates("region")  # of equally many the least
    found, steps = commonest["region"].to_numpy(), commonest["step"].to_numpy()
    step_of = np.repeat(steps, np.diff(np.append(np.searchsorted(of, found), judged.stop)))
    odd = np.flatnonzero(differences[judged] % step_of != 0)
    if odd.size:
        row = later[odd[0]]
        raise InputError(
            f"region {plain(regions[of[odd[0]]], 80)}: {timestamps[row]} comes "
            f"{differences[odd[0]] / 3600:g} h after the row before, no multiple of the step of "
            f"{step_of[odd[0]] / 3600:g} h; resample to a regular step."
        )
    if wrong.size:
        what = "twice" if differences[wrong[0]] == 0 else "after a later time"
        raise InputError(
            f"region {plain(regions[of[wrong[0]]], 80)} holds {timestamps[later[wrong[0]]]} "
            f"{what}; sort each region by time, each time once."
        )
    if not found.size:
        raise InputError("no region has two rows; expected a series in time.")
    if (steps != steps[0]).any():
        shown = ", ".join(
            f"{plain(regions[index], 80)} {step / 3600:g} h"
            for index, step in zip(found[:6], steps[:6], strict=True)
        )
        raise InputError(f"regions differ in their step ({shown}); resample them to one step.")
    return int(steps[0]) / 3600


def sha256_of(path: Path) -> str:
    """Return hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_prepared(
    path: Path, sha256: str, config: DataConfig
) -> tuple[dict[str, Any] | None, list[str]]:
    """Read the series.json beside a table that it describes; sentences to log; None without one.

    A series.json describes series.parquet; beside it, a table of another name is its own. Raises
    InputError where series.parquet has changed since, or where the unit of its rain is not
    ``data.precipitation_unit``.
    """
    beside = path.with_name(DESCRIPTION)
    if path.name != SERIES or not beside.is_file():
        return None, []
    try:
        prepared = read_json(beside)
    except InputError as error:
        raise InputError(f"{error}; prepare the series again.") from error
    if problem := schema_error(prepared, _SHAPE) or _columns_problem(prepared.get("columns", {})):
        raise InputError(f"{beside} has not format {FORMAT}: {problem}; prepare the series again.")
    if prepared["sha256"] != sha256:
        raise InputError(
            f"{path} is not the file that {DESCRIPTION} beside it describes (sha256 {sha256[:12]}, "
            f"described {str(prepared['sha256'])[:12]}); prepare it again, or remove {DESCRIPTION}."
        )
    rain = prepared["precipitation"]
    is_rain = rain["column"] == config.precipitation_column
    if is_rain and config.precipitation_unit not in (AUTO, rain["unit"]):
        raise InputError(
            f"{path}: {rain['column']} is in {rain['unit']}, data.precipitation_unit says "
            f"{config.precipitation_unit}; set data.precipitation_unit={rain['unit']}."
        )
    notes = []
    if rain["is_sparse"]:
        notes.append(
            f"SPARSE rain: {rain['hours_present_per_day']} of 24 hours of {rain['column']} are "
            "present; labels from it miss rain."
        )
    return prepared, notes


def _columns_problem(columns: dict[str, Any]) -> str | None:
    for name, of in columns.items():
        if problem := schema_error(of, _COLUMN, f"column {plain(name, 80)}"):
            return problem
    return records_problem({name: of["record"] for name, of in columns.items() if of.get("record")})
