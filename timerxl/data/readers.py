"""Tables (Parquet, CSV) to a :class:`WeatherSeries`; everything dubious is refused at the door."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import DataConfig, InputError
from timerxl.data.enso import with_oni
from timerxl.data.era5.accumulation import (
    COUNTER,
    HOURLY,
    RUNNING,
    SUM,
    UNCLEAR,
    Totals,
    Verdict,
    only_rises,
    parse_meaning,
    problem,
    rain_verdict,
    shares,
)
from timerxl.data.era5.series_file import read_prepared, sha256_of
from timerxl.data.series import WeatherSeries, fill_forward, label_like, listed_features
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
    time_meaning,
    to_mm,
    unit_in_name,
    zero_one,
)
from timerxl.data.tables.table_files import (
    MOST_COLUMNS,
    TEXT_SUFFIXES,
    Layout,
    TextOptions,
    is_text_table,
    read_known_table,
    read_parquet,
    read_traces,
)
from timerxl.data.tables.times import TimeOptions, Times, find_regions, find_times, time_columns
from timerxl.untrusted import is_file, listed, plain, reason

# Pyarrow's, pandas' and the codecs' own; what Parquet says of pandas' index is taken unchecked.
PARSER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(NotImplementedError, RecursionError, MemoryError),
)
# ERA5's packing leaves noise of this size below zero; anything lower is a code for "missing".
_NEGATIVE_NOISE_MM = 0.01
_RAIN_LIMITS = (-_NEGATIVE_NOISE_MM, np.inf)  # in any unit; what is too much, rain_unit tells
AUTO = "auto"
CODES_ADVICE = "Say --missing {values} to mask it; --missing none takes every number as it is."
_SHOWN_SKIPPED = 6
_MOST_OF_A_NAME = 1_000  # characters of a column's or a region's name


def load_series(config: DataConfig) -> WeatherSeries:
    """The series of ``data.path``, or the synthetic one where the path is null."""
    series = load_synthetic(config) if config.path is None else read_table(config)
    if config.oni_path is None:
        return series
    return with_oni(series, Path(config.oni_path), config.oni_lag_months)


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
        """(unit, by what) as the layout, a line of units or the column's name tell it."""
        if self.layout is not None and (unit := self.layout.unit_of(column)):
            return unit, f"the layout of {self.layout.name}"
        if unit := self.units.get(column):
            return unit, "its line of units"
        return (unit, "its name") if (unit := unit_in_name(column)) else None


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
    options = options or _of_recipe(config)
    options = replace(options, only_region=only_region)
    return read_table_and_labels(config, given, needs_label, options)[0]


def read_table_and_labels(
    config: DataConfig,
    given: pd.DataFrame | None = None,
    needs_label: bool = True,
    options: TableOptions | None = None,
) -> tuple[WeatherSeries, dict[str, np.ndarray]]:
    """The same, and the columns that are named like a label: [R] float64 each, no features."""
    if config.path is None and given is None:
        raise InputError("data.path is null; expected the path of a table (Parquet, CSV).")
    options = options or _of_recipe(config)
    if options.is_command:
        return _read(config, given, needs_label, options)
    try:
        series, labels = _read(config, given, needs_label, options)
    except InputError as error:
        raise InputError(in_recipe_words(str(error))) from error
    return replace(series, notes=[in_recipe_words(note) for note in series.notes]), labels


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
        notes += said
    else:
        opened = OpenedTable(_checked(given, "the table"), "the table")
    table, layout = opened.frame, opened.layout
    notes += opened.notes
    if (name := config.label_column) is not None and name not in table.columns:
        raise _missing_column(path, table, "label_column", name)
    rain = _rain_column(opened, config, options, notes)
    if needs_label and config.label_column is None and rain is None:
        raise _missing_column(path, table, "precipitation_column", config.precipitation_column)
    if rain is not None and (why := opened.not_numbers.get(rain)):
        raise InputError(f"{why} Correct them, or say --missing for a number among them.")

    columns_of_time = time_columns(table, layout, options.times)
    found = find_regions(
        table,
        layout,
        options.region_column,
        options.region,
        columns_of_time,
        path.name.split(".")[0] if given is None else "",
        opened.metadata,
    )
    if not found.columns and options.region is None and options.only_region is not None:
        found = replace(found, names=found.names.map(lambda _: options.only_region))
    times = find_times(table, layout, options.times, found.names, opened.line_of)
    if prepared is None and needs_label:
        notes += found.notes + times.notes
    apart = {*times.columns, *found.columns}
    region_index, regions = _regions(found.names, (found.columns or ["region"])[0])
    order = np.argsort(region_index, kind="stable")
    if options.is_command:  # what is trained on directly must be in order already
        by_time = np.lexsort((times.timestamps, region_index))
        if (by_time != order).any():
            notes.append("the rows are sorted by time.")
            order = by_time
    table, region_index = table.iloc[order], region_index[order]
    timestamps = times.timestamps[order]
    step_hours = _step_hours(timestamps, region_index, regions)
    where = _Where(regions, region_index, timestamps, opened.not_numbers)

    door = _Door(config, options, opened, where, step_hours, _time_fact(times, step_hours))
    sources: dict[str, str] = {}
    turned: dict[str, ColumnRecord] = {}
    if prepared is None:
        table, turned = door.directions(table, apart)
        table, sources, said = _meaningful(table, config, apart)
        notes += said
    reasons = _reasons(opened)
    if options.is_command and config.features is None:
        empty = [str(name) for name in table if name != rain and table[name].isna().all()]
        reasons |= dict.fromkeys(empty, "missing in every row")
    features, skipped = choose_features(table, config, apart, reasons)
    notes += _skipped_notes(skipped)
    columns = {name: where.numbers(table, name) for name in features}
    precipitation: np.ndarray | None = None
    records: dict[str, ColumnRecord] = {}
    if prepared is None:
        columns, records = door.features(columns, sources, rain)
        for name, direction in sources.items():
            if name in records:
                records[name].missing = turned[direction].missing
    unit = "mm"
    if rain is not None:
        if prepared is not None:
            raw = _exact(table, rain, where)
        else:
            raw, unit = door.rain(table, rain, needs_label, records, notes)
        precipitation = _precipitation_mm(raw, rain, unit, step_hours, where, notes)
        if rain in features:
            columns[rain] = precipitation
    elif needs_label:
        notes.append(f"no column {config.precipitation_column}: labels from {config.label_column}.")
    masked = {
        record.name: sum(code["count"] for code in record.missing)
        for record in records.values()
        if record.missing
    }
    if masked:
        shown = listed([f"{name} ({count:,})" for name, count in masked.items()])
        notes.append(f"values that stand for missing are left out: {shown}.")
    values = np.stack(list(columns.values()), axis=1)
    values, counts = fill_forward(
        values, region_index, timestamps, config.max_fill_hours, step_hours
    )
    left = np.isnan(values).sum(axis=0)
    if counts.any() or left.any():
        notes.append(
            f"{counts.sum()} missing values filled forward (holes of at most "
            f"{config.max_fill_hours:g} h); {left.sum()} in longer holes are left, and no window "
            "runs over them."
        )
    source: dict[str, Any] = {
        "path": config.path,
        "sha256": sha256,
        "synthetic": False,
        "rows": len(table),
        "first": str(timestamps.min()),
        "last": str(timestamps.max()),
        "skipped_columns": skipped,
        "filled_values": dict(zip(features, counts.tolist(), strict=True)),
        "missing_values_left": dict(zip(features, left.tolist(), strict=True)),
        "records": {name: record.to_dict() for name, record in records.items()},
        "resolved": {"precipitation_unit": unit},
    }
    if rain is not None:
        source["resolved"]["precipitation_column"] = rain
    is_synthetic = False
    if prepared is not None:
        is_synthetic = prepared["is_synthetic"]
        described = prepared.get("columns", {})
        known = {name: of.get("record") for name, of in described.items()}
        source |= {"prepared": prepared, "synthetic": is_synthetic}
        source["records"] = {name: of for name, of in known.items() if of and name in features}
    labels = {
        name: table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in skipped
        if name in table
        and name != config.label_column
        and _is_label(name, layout)
        and pd.api.types.is_numeric_dtype(table[name])
    }
    series = WeatherSeries(
        feature_names=features,
        regions=regions,
        values=values.astype(np.float32),
        region_index=region_index,
        timestamps=timestamps,
        precipitation_mm=precipitation,
        ready_label=_ready_label(table, config, where)
        if rain is not None or needs_label
        else np.full(len(table), np.nan),
        true_probability=None,
        step_hours=step_hours,
        precipitation_feature=rain if rain in features else None,
        is_synthetic=is_synthetic,
        source=source,
        notes=notes,
    )
    return series, labels


def choose_features(
    table: pd.DataFrame,
    config: DataConfig,
    apart: set[str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Names of the features in column order (or as listed), and why other columns are skipped.

    ``apart`` are the columns of time and region (None: the configuration's), ``reasons`` why a
    column is no feature though it may be numeric.

    Raises InputError where no numeric column is left or ``data.features`` lists what is none.
    """
    if apart is None:
        apart = {config.timestamp_column, config.region_column}
    known = reasons or {}
    skipped: dict[str, str] = {}
    numeric: list[str] = []
    for name in map(str, table.columns):
        if name == config.label_column:
            skipped[name] = "it is the label"
        elif label_like(name):
            skipped[name] = "its name says label (data.label_column makes it one)"
        elif name not in apart and name in known:
            skipped[name] = known[name]
        elif name not in apart and not pd.api.types.is_numeric_dtype(table[name]):
            skipped[name] = f"not numeric ({table[name].dtype})"
        elif name not in apart:
            numeric.append(name)
    if config.features is None:
        if not numeric:
            raise InputError(f"{config.path} has no numeric column to take as a feature.")
        return numeric, skipped
    why = skipped | dict.fromkeys(apart, "it's the time or the region")
    unknown = f"the table {config.path or ''} has no such column".replace("  ", " ")
    return listed_features(config.features, numeric, why, unknown, skipped)


def _is_label(name: str, layout: Layout | None) -> bool:
    return label_like(name) or (layout is not None and layout.is_label(name))


def _of_recipe(config: DataConfig) -> TableOptions:
    """What a recipe says of a table; its defaults say nothing."""
    default = DataConfig()
    time, region = config.timestamp_column, config.region_column
    rain = config.precipitation_column
    return TableOptions(
        times=TimeOptions(timestamp_columns=() if time == default.timestamp_column else (time,)),
        region_column=None if region == default.region_column else region,
        precipitation_column=None if rain == default.precipitation_column else rain,
    )


_RECIPE_WORDS = {
    "--timestamp-column": "data.timestamp_column",
    "--region-column": "data.region_column",
    "--precipitation-column": "data.precipitation_column",
    "--precipitation-unit": "data.precipitation_unit",
    "--directions": "data.directions",
}
_ONLY_PREPARED = (
    "--region --timezone --time-format --stamps --encoding --separator --decimal --header-line "
    "--unit --meaning"
).split()


def in_recipe_words(text: str) -> str:
    """A sentence with the options of launch/prepare_data.py, for who trains on a table directly."""
    text = re.sub(
        r"Say --missing ([^;]*?) to mask (it|them); --missing none takes every number as it is\.",
        lambda said: (
            f"Say data.missing_values=[{', '.join(said[1].split())}] to mask {said[2]}; "
            "data.missing_values=[] takes every number as it is."
        ),
        text,
    )
    for option, key in _RECIPE_WORDS.items():
        text = re.sub(rf"{option}(?![\w-])", key, text)
    for option in _ONLY_PREPARED:
        text = re.sub(
            rf"(?<!prepare_data.py ){option}(?![\w-])", f"launch/prepare_data.py {option}", text
        )
    return text


def _rain_column(
    opened: OpenedTable, config: DataConfig, options: TableOptions, notes: list[str]
) -> str | None:
    """The column of rain: as said, as usual, of the layout, or the only one named like rain."""
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
    """The first ready label (0, 1, yes, no) of a table that has no rain; None where it has some."""
    if config.label_column is not None:
        return None
    opened = open_table(Path(str(config.path)), _of_recipe(config))
    if _rain_column(opened, config, _of_recipe(config), []) is not None:
        return None
    for name in sorted(map(str, opened.frame.columns)):
        if not _is_label(name, opened.layout):
            continue
        column = opened.frame[name]
        numbers = (
            zero_one(column) if not pd.api.types.is_numeric_dtype(column) else column.to_numpy()
        )
        if numbers is not None and np.isin(numbers[~pd.isna(numbers)], (0, 1)).all():
            return name
    return None


def _is_rain(name: str) -> bool:
    quantity = quantity_of(name)
    return quantity is not None and quantity.key == RAIN and "snow" not in name.lower()


def _reasons(opened: OpenedTable) -> dict[str, str]:
    """Why columns are no features: what the layout says of them, or words among the numbers."""
    layout = opened.layout
    found = dict(opened.not_numbers)
    for name in map(str, opened.frame.columns) if layout is not None else ():
        assert layout is not None
        if layout.is_label(name):
            found[name] = f"it tells the future (layout of {layout.name}), a label"
        elif not layout.is_weather(name):
            found[name] = f"no weather (layout of {layout.name})"
    return found


def _skipped_notes(skipped: dict[str, str]) -> list[str]:
    """One sentence a column, or a reason for many at once."""
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
    """What a stamp of the table means; sums are over the step, other values are at its end."""
    known: dict[str, KnownBy] = {"option": "said", "layout": "file", "dates": "inferred"}
    by = known.get(times.known_by, "assumed")
    evidence = {"said": "--stamps", "file": "its layout", "inferred": "dates without an hour"}
    return Fact(time_meaning("sum", step_hours, times.stamps), by, evidence.get(by, ""))


class _Where:
    """Reads a column as float64 numbers and says at which row the first bad one stands."""

    def __init__(
        self,
        regions: list[str],
        region_index: np.ndarray,
        timestamps: np.ndarray,
        not_numbers: Mapping[str, str],
    ) -> None:
        self.regions, self.region_index, self.timestamps = regions, region_index, timestamps
        self.not_numbers = not_numbers

    def row(self, bad: np.ndarray) -> str:
        """The first bad row in words."""
        row = int(np.flatnonzero(bad)[0])
        name = plain(self.regions[self.region_index[row]], 80)
        return f"region {name}, {self.timestamps[row]}"

    def numbers(self, table: pd.DataFrame, name: str) -> np.ndarray:
        """[R] float64, NaN where missing; refuses text, infinite numbers and empty columns."""
        if not pd.api.types.is_numeric_dtype(table[name]):
            words = self.not_numbers.get(name)
            raise InputError(
                words
                or f"column {name} is {table[name].dtype}, not numeric; convert it or leave it out."
            )
        numbers = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isnan(numbers).all():
            raise InputError(f"column {name} is missing in every row; leave it out or fix it.")
        if np.isinf(numbers).any():
            raise InputError(
                f"column {name} holds an infinite number, first at {self.row(np.isinf(numbers))}; "
                "replace it by an empty value if it is missing."
            )
        return numbers


@dataclass(frozen=True)
class _Door:
    """What every column has to pass: codes for missing, units, running totals; and its record."""

    config: DataConfig
    options: TableOptions
    opened: OpenedTable
    where: _Where
    step_hours: float
    time: Fact

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

    def directions(
        self, table: pd.DataFrame, apart: set[str]
    ) -> tuple[pd.DataFrame, dict[str, ColumnRecord]]:
        """The table without the codes in its directions, before these become sine and cosine."""
        masked: dict[str, np.ndarray] = {}
        records: dict[str, ColumnRecord] = {}
        for name in map(str, table.columns):
            if name in apart or not is_direction(table, name):
                continue
            records[name] = ColumnRecord(name)
            if pd.api.types.is_numeric_dtype(table[name]):
                numbers = self.where.numbers(table, name)
                masked[name] = self._masked(numbers, name, records[name])
        if self.config.missing_values != []:
            limits = (-180.0, 360.0)
            judged = {name: (values, limits) for name, values in masked.items()}
            check_codes(judged, CODES_ADVICE, self.where.row)
        return (table.assign(**masked) if masked else table), records

    def features(
        self,
        columns: dict[str, np.ndarray],
        sources: dict[str, str],
        rain: str | None,
    ) -> tuple[dict[str, np.ndarray], dict[str, ColumnRecord]]:
        """Features without their codes, and their records; codes that nobody named are refused."""
        records: dict[str, ColumnRecord] = {}
        judged: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
        if unknown := [n for n in self.options.units if n not in self.opened.frame.columns]:
            raise InputError(f"--unit names {unknown[0]}, which the table does not hold.")
        for name, values in columns.items():
            if name == rain:
                continue
            source = sources.get(name, name)
            told = self.opened.told_unit(source)
            time = replace(self.time, value=self.time.value | {"kind": "step"})
            record = feature_record(name, source, self.options.units.get(source), told, time)
            records[name] = record
            columns[name] = values = self._masked(values, source, record)
            unit = record.unit.value if record.unit else None
            if name == source:
                judged[name] = values, limits_of(name, unit, self.step_hours)
            if only_rises(name) and (
                why := problem(self._verdict(values), name, self.step_hours, False)
            ):
                raise InputError(f"{why}; leave it out, or take it apart before.")
        if self.config.missing_values != []:
            check_codes(judged, CODES_ADVICE, self.where.row)
        large = np.finfo(np.float32).max
        for name, values in columns.items():
            if (bad := np.abs(values) > large).any():
                raise InputError(
                    f"column {name} holds a number beyond float32, first at {self.where.row(bad)}; "
                    "replace it by an empty value if it is missing."
                )
        return columns, records

    def _verdict(self, values: np.ndarray) -> Verdict:
        return rain_verdict(values, self.where.timestamps, self.where.region_index)

    def rain(
        self,
        table: pd.DataFrame,
        name: str,
        needs_label: bool,
        records: dict[str, ColumnRecord],
        notes: list[str],
    ) -> tuple[np.ndarray, str]:
        """[R] rain of each step in the file's unit, and that unit; its record among ``records``."""
        time = self.time
        if name in ERA5_NAMES and time.known_by == "inferred":
            # A date tells of a day, ERA5's name of one hour.
            time = replace(time, known_by="assumed")
        record = ColumnRecord(name, Fact(RAIN, "file", "its name"), None, "mm", time)
        records[name] = record
        rain = self._masked(_exact(table, name, self.where), name, record)
        if self.config.missing_values != []:
            check_codes({name: (rain, _RAIN_LIMITS)}, CODES_ADVICE, self.where.row)
        rain = self._own_shares(rain, record, needs_label, notes)
        said = self.options.precipitation_unit or self.options.units.get(name)
        if self.config.precipitation_unit != AUTO:
            said = self.config.precipitation_unit
        told = self.opened.told_unit(name)
        layout = self.opened.layout
        if said is None and told is None and layout and "--precipitation-unit" in layout.asks:
            raise InputError(
                f"a table of {layout.name} does not tell the unit of {name}, which depends on the "
                "download: say --precipitation-unit mm or --precipitation-unit in."
            )
        fact = rain_unit(rain, self.step_hours, name, said, told, "--precipitation-unit")
        record.unit = fact
        if fact.known_by == "assumed" and needs_label:
            notes.append(f"{name} is taken as mm: {fact.evidence} (else say --precipitation-unit).")
        elif fact.known_by in ("file", "inferred") and fact.value != "mm":
            notes.append(f"{name} is in {fact.value} ({fact.evidence}): read as mm.")
        return rain, str(fact.value)

    def _own_shares(
        self, rain: np.ndarray, record: ColumnRecord, needs_label: bool, notes: list[str]
    ) -> np.ndarray:
        """[R] what fell in each step: running totals are taken apart, or refused."""
        name, said = record.name, None
        if text := self.options.meanings.get(name):
            said = parse_meaning(name, text)
            is_step = said.is_running or said.hours == self.step_hours
            if said.kind != SUM or said.stamp or not is_step:
                raise InputError(
                    f"--meaning {name}={text}: rain of a table is a sum of each step "
                    f"(sum:{self.step_hours:g}h) or running; what a stamp means, --stamps says."
                )
            record.time = replace(self.time, known_by="said", evidence=f"--meaning {text}")
        if said is not None and not said.is_running:
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
            notes.append(f"{name} adds up {verdict.totals} ({verdict.evidence}): taken apart.")
            where = self.where
            # Every start between two stamps fits: the true one is at a stamp.
            first, totals = int(where.timestamps.astype(np.int64)[0]) // 3600, verdict.totals
            late = (totals.reset - first) % max(int(self.step_hours), 1)
            totals = Totals(totals.period, (totals.reset - late) % totals.period)
            running = {"period": totals.period, "reset": totals.reset}
            meant = self.time.value | {"hours": None, "running": running}
            by: KnownBy = "inferred" if said is None else "said"
            record.time = Fact(meant, by, verdict.evidence)
            return shares(rain, where.timestamps, where.region_index, totals, self.step_hours)
        why = problem(verdict, name, self.step_hours, needs_label)
        if why:
            raise InputError(
                f"{why} ({verdict.evidence}). launch/prepare_data.py takes running totals apart; "
                f"say --meaning '{name}=sum:{self.step_hours:g}h' there, where every row is a sum "
                "of its own."
            )
        within_a_day = needs_label and self.step_hours < 24
        if verdict.kind == UNCLEAR and within_a_day and self.options.is_command:
            notes.append(f"{name} is taken as sums of each row ({verdict.evidence}).")
        return rain


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name; a ZIP is one unless it holds grids (.nc, .grib)."""
    if path.is_dir() or path.suffix.lower() != ".zip":
        return path.suffix.lower() == ".parquet" or (not path.is_dir() and is_text_table(path))
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return False
    return not any(name.endswith((".nc", ".nc4", ".grib", ".grb", ".grib2")) for name in names)


def open_table(path: Path, options: TableOptions | None = None) -> OpenedTable:
    """A Parquet or text file as a frame; InputError where it's neither, empty or ambiguous."""
    options = options or TableOptions()
    name = f"data.path {path}" if not options.is_command else str(path)
    if not is_file(path):
        raise InputError(f"{name} is no file; give the path of a table (Parquet, CSV).")
    if path.suffix.lower() == ".parquet":
        try:
            table, notes = read_parquet(path)
        except PARSER_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} can't be read as a table: {reason(error)}") from error
        return OpenedTable(_checked(table, name), name, notes=notes)
    if not is_text_table(path):
        raise InputError(
            f"{name} ends in {path.suffix!r}; expected .parquet, .csv or another text table "
            f"({', '.join(TEXT_SUFFIXES)})."
        )
    region = [options.region_column] if options.region_column else None
    try:
        text, layout = read_known_table(path, options.text, region)
    except PARSER_ERRORS as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} can't be read as a table: {reason(error)}") from error
    frame = text.frame
    of_rain = [name for name in map(str, frame.columns) if _is_rain(name)]
    if layout is not None and (rain := layout.rain_column(list(map(str, frame.columns)))):
        of_rain = list(dict.fromkeys([*of_rain, rain]))
    if (said := options.precipitation_column) is not None and said in frame:
        of_rain = list(dict.fromkeys([*of_rain, said]))
    traces = read_traces(text, of_rain, layout.suffixes if layout else "")
    return OpenedTable(
        _checked(text.frame, name),
        name,
        layout,
        text.units,
        text.not_numbers,
        text.metadata,
        text.line_of,
        [*text.notes, *traces],
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
    names = map(str, table.columns)
    if longest := next((one for one in names if len(one) > _MOST_OF_A_NAME), None):
        raise InputError(
            f"{name} has a column whose name has {len(longest):,} characters "
            f"({plain(longest, 40)}); expected at most {_MOST_OF_A_NAME:,}."
        )
    if not table.columns.is_unique:
        twice = sorted({str(column) for column in table.columns[table.columns.duplicated()]})
        raise InputError(f"{name} has columns of one name: {listed(twice)}.")
    return table


def _missing_column(path: Path, table: pd.DataFrame, key: str, name: str) -> InputError:
    present = ", ".join(map(str, table.columns[:30]))
    hint = ""
    if key == "precipitation_column":
        hint = " (or data.label_column for a ready label)"
    return InputError(f"{path} has no column {name}; set data.{key}{hint} to one of: {present}.")


def _regions(column: pd.Series, name: str) -> tuple[np.ndarray, list[str]]:
    codes, names = pd.factorize(column)
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise InputError(f"column {name} is missing in row {row}; every row needs its region.")
    regions = [str(region) for region in names]
    if longest := next((one for one in regions if len(one) > _MOST_OF_A_NAME), None):
        raise InputError(
            f"column {name} holds a region's name of {len(longest):,} characters "
            f"({plain(longest, 40)}); expected at most {_MOST_OF_A_NAME:,}."
        )
    return codes.astype(np.int64), regions


def _step_hours(timestamps: np.ndarray, region_index: np.ndarray, regions: list[str]) -> float:
    """The most common difference; refuses unsorted, duplicate and irregular times."""
    later = np.flatnonzero(np.diff(region_index) == 0) + 1
    times, of = timestamps.astype(np.int64), region_index[later]
    differences = times[later] - times[later - 1]
    wrong = np.flatnonzero(differences <= 0)
    # What is wrong with the first region is said, so those behind a wrong one don't matter.
    judged = slice(0, np.searchsorted(of, of[wrong[0]]) if wrong.size else len(of))
    found, steps = _commonest(of[judged], differences[judged])
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


def _commonest(groups: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct ``groups`` (ascending) and of each the commonest number, the least of such."""
    order = np.lexsort((numbers, groups))
    groups, numbers = groups[order], numbers[order]
    new = np.ones(len(groups), dtype=bool)
    new[1:] = (np.diff(groups) != 0) | (np.diff(numbers) != 0)
    first = np.flatnonzero(new)
    counts = np.diff(np.append(first, len(groups)))
    best = np.lexsort((numbers[first], -counts, groups[first]))
    found, place = np.unique(groups[first][best], return_index=True)
    return found, numbers[first][best][place]


def _meaningful(
    table: pd.DataFrame, config: DataConfig, apart: set[str]
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Directions as sine and cosine, yes and no as 1 and 0; {new column: its source}; sentences."""
    table, sources = encode_directions(table, config.features, config.directions, apart)
    notes = [
        f"{name} is a direction: read as {name}_sin and {name}_cos (--directions as_is keeps it)."
        for name in dict.fromkeys(sources.values())
    ]
    text = [
        name
        for name, kind in table.dtypes.items()
        if name not in apart
        and (pd.api.types.is_bool_dtype(kind) or not pd.api.types.is_numeric_dtype(kind))
    ]
    found = {name: numbers for name in text if (numbers := zero_one(table[name])) is not None}
    if found:
        table = table.assign(**{str(name): numbers for name, numbers in found.items()})
        notes.append(f"yes and no are read as 1 and 0 in {listed([str(n) for n in found])}.")
    return table, sources, notes


def _exact(table: pd.DataFrame, name: str, where: _Where) -> np.ndarray:
    """[R] float64 of a column; of four bytes the decimal that was stored.

    0.1 stored in 4 bytes reads 0.10000000149.
    """
    numbers = where.numbers(table, name)
    if table[name].dtype in (np.float32, np.float16):
        distinct, index = np.unique(table[name].to_numpy(), return_inverse=True)
        numbers = distinct.astype(str).astype(np.float64)[index]
    return numbers


def _precipitation_mm(
    rain: np.ndarray, name: str, unit: str, step_hours: float, where: _Where, notes: list[str]
) -> np.ndarray:
    """[R] rain in mm, rounded to 1e-6 and not below zero."""
    rain = np.round(to_mm(rain, unit, step_hours), 6)
    if (bad := rain < -_NEGATIVE_NOISE_MM).any():
        raise InputError(
            f"column {name} holds {rain[bad][0]:g} mm in a step ({where.row(bad)}); rain can't be "
            "negative: leave missing values empty."
        )
    if negative := int((rain < 0).sum()):
        notes.append(f"{negative} values of {name} just below zero set to 0.")
    return np.where(rain < 0, 0.0, rain)


def _ready_label(table: pd.DataFrame, config: DataConfig, where: _Where) -> np.ndarray | None:
    if config.label_column is None:
        return None
    label = where.numbers(table, config.label_column)
    if (bad := ~(np.isnan(label) | (label == 0) | (label == 1))).any():
        raise InputError(
            f"column {config.label_column} holds {label[bad][0]:g} ({where.row(bad)}); "
            "expected 0, 1, yes, no or an empty value."
        )
    return label
