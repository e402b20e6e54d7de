"""Tables (Parquet, CSV) to a :class:`WeatherSeries`; everything dubious is refused at the door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import DataConfig, InputError
from timerxl.config_reading import is_file, reason
from timerxl.data.audit_findings import listed
from timerxl.data.column_records import ColumnRecord, Fact
from timerxl.data.enso import with_oni
from timerxl.data.features import choose_features
from timerxl.data.fill import fill_forward
from timerxl.data.missing_codes import mask
from timerxl.data.quantities import RAIN, unit_in_name
from timerxl.data.rain_units import rain_unit, to_mm
from timerxl.data.schema import WeatherSeries
from timerxl.data.series_file import read_prepared, sha256_of
from timerxl.data.synthetic_event import load_synthetic
from timerxl.data.table_accumulation import problem, rain_verdict
from timerxl.data.table_columns import (
    check_codes,
    encode_directions,
    feature_record,
    limits_of,
    zero_one,
)

# Pyarrow's, pandas' and the codecs' own; what Parquet says of pandas' index is taken unchecked.
PARSER_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(NotImplementedError, RecursionError, MemoryError),
)
# ERA5's packing leaves noise of this size below zero; anything lower is a code for "missing".
_NEGATIVE_NOISE_MM = 0.01
_RAIN_LIMITS = (-_NEGATIVE_NOISE_MM, np.inf)  # in any unit; what is too much, rain_unit tells
AUTO = "auto"
_CODES_ADVICE = (
    "Say data.missing_values=[{list}] to take it so, data.missing_values=[] to keep every number."
)


def load_series(config: DataConfig) -> WeatherSeries:
    """The series of ``data.path``, or the synthetic one where the path is null."""
    series = load_synthetic(config) if config.path is None else read_table(config)
    if config.oni_path is None:
        return series
    return with_oni(series, Path(config.oni_path), config.oni_lag_months)


def read_table(
    config: DataConfig, given: pd.DataFrame | None = None, needs_label: bool = True
) -> WeatherSeries:
    """Read a Parquet or CSV table of one regular series per region, or the table ``given``.

    Rows may interleave regions; inside a region time ascends. Short holes in the features are
    filled forward (:func:`fill_forward`); ``precipitation_mm`` never is, a label must be measured.
    What launch/prepare_data.py wrote beside the table becomes ``source["prepared"]``. Without
    ``needs_label`` (to forecast, not to score) neither rain nor a label column has to be there.
    Raises InputError naming the column, the region and the first offending time.
    """
    if config.path is None and given is None:
        raise InputError("data.path is null; expected the path of a Parquet or CSV table.")
    path = Path(config.path or "the table")
    table = open_table(path) if given is None else _checked(given, "the table")
    for key in ("timestamp_column", "region_column", "label_column"):
        name = getattr(config, key)
        if name is not None and name not in table.columns:
            raise _missing_column(path, table, key, name)
    has_rain = config.precipitation_column in table.columns
    if needs_label and config.label_column is None and not has_rain:
        raise _missing_column(path, table, "precipitation_column", config.precipitation_column)

    sha256, prepared = None, None
    notes: list[str] = []
    if given is None:
        sha256 = sha256_of(path)
        prepared, notes = read_prepared(path, sha256, config)
    region_index, regions = _regions(table[config.region_column], config.region_column)
    order = np.argsort(region_index, kind="stable")
    table, region_index = table.iloc[order], region_index[order]
    timestamps = _timestamps(table[config.timestamp_column], config.timestamp_column)
    step_hours = _step_hours(timestamps, region_index, regions)
    where = _Where(regions, region_index, timestamps)

    sources: dict[str, str] = {}
    if prepared is None:
        table, sources, said = _meaningful(table, config)
        notes += said
    features, skipped = choose_features(table, config)
    notes += [f"column {name} skipped: {reason}." for name, reason in skipped.items()]
    columns = {name: where.numbers(table, name) for name in features}
    precipitation: np.ndarray | None = None
    records: dict[str, ColumnRecord] = {}
    if prepared is None:
        rain = config.precipitation_column if has_rain else None
        columns, records = _checked_columns(columns, sources, config, rain, step_hours, where)
    unit = "mm"
    if has_rain:
        precipitation, unit, said = _precipitation_mm(
            table, config, where, step_hours, prepared is not None, needs_label, records
        )
        notes += said
        if config.precipitation_column in features:
            columns[config.precipitation_column] = precipitation
    elif needs_label:
        notes.append(f"no column {config.precipitation_column}: labels from {config.label_column}.")
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
    is_synthetic = False
    if prepared is not None:
        is_synthetic = prepared["is_synthetic"]
        described = prepared.get("columns", {})
        known = {name: of.get("record") for name, of in described.items()}
        source |= {"prepared": prepared, "synthetic": is_synthetic}
        source["records"] = {name: of for name, of in known.items() if of and name in features}
    return WeatherSeries(
        feature_names=features,
        regions=regions,
        values=values.astype(np.float32),
        region_index=region_index,
        timestamps=timestamps,
        precipitation_mm=precipitation,
        ready_label=_ready_label(table, config, where)
        if has_rain or needs_label
        else np.full(len(table), np.nan),
        true_probability=None,
        step_hours=step_hours,
        precipitation_feature=(
            config.precipitation_column if config.precipitation_column in features else None
        ),
        is_synthetic=is_synthetic,
        source=source,
        notes=notes,
    )


class _Where:
    """Reads a column as float64 numbers and says at which row the first bad one stands."""

    def __init__(
        self, regions: list[str], region_index: np.ndarray, timestamps: np.ndarray
    ) -> None:
        self.regions, self.region_index, self.timestamps = regions, region_index, timestamps

    def row(self, bad: np.ndarray) -> str:
        """The first bad row in words."""
        row = int(np.flatnonzero(bad)[0])
        return f"region {self.regions[self.region_index[row]]}, {self.timestamps[row]}"

    def numbers(self, table: pd.DataFrame, name: str) -> np.ndarray:
        """[R] float64, NaN where missing; refuses text, infinite numbers and empty columns."""
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(
                f"column {name} is {table[name].dtype}, not numeric; convert it or leave it out."
            )
        numbers = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isnan(numbers).all():
            raise InputError(f"column {name} is missing in every row; leave it out or fix it.")
        if (bad := np.abs(numbers) > np.finfo(np.float32).max).any():
            raise InputError(
                f"column {name} holds an infinite (or beyond float32) number, first at "
                f"{self.row(bad)}; replace it by an empty value if it is missing."
            )
        return numbers


def open_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as a frame; InputError where it's neither, empty or ambiguous."""
    if not is_file(path):
        raise InputError(f"data.path {path} is no file; give the path of a Parquet or CSV table.")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise InputError(f"data.path {path} ends in {suffix!r}; expected .parquet or .csv.")
    try:
        table = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    except PARSER_ERRORS as error:
        raise InputError(
            f"data.path {path} can't be read as a {suffix} table: {reason(error)}"
        ) from error
    return _checked(table, f"data.path {path}")


def _checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    if any(level is not None for level in table.index.names):
        table = table.reset_index()
    if table.empty:
        raise InputError(f"{name} holds no rows.")
    if not table.columns.is_unique:
        twice = sorted({str(column) for column in table.columns[table.columns.duplicated()]})
        raise InputError(f"{name} has columns of one name: {', '.join(twice)}.")
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
    return codes.astype(np.int64), [str(region) for region in names]


def _timestamps(column: pd.Series, name: str) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column):
        raise InputError(
            f"column {name} holds numbers ({column.iloc[0]}); expected times such as "
            "2020-01-31 06:00, since a number doesn't tell its unit."
        )
    # Only ISO: a guessed day-month order would shuffle the series without a word.
    times = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce").dt.tz_localize(None)
    if times.isna().any():
        bad = column[times.isna()].iloc[0]
        raise InputError(
            f"column {name} holds {bad!r}, which is no ISO time such as 2020-01-31 06:00."
        )
    stamps = times.to_numpy()
    seconds = stamps.astype("datetime64[s]")
    if (off := seconds != stamps).any():
        raise InputError(f"column {name} holds {stamps[off][0]}; expected whole seconds.")
    return seconds


def _step_hours(timestamps: np.ndarray, region_index: np.ndarray, regions: list[str]) -> float:
    """The most common difference; refuses unsorted, duplicate and irregular times."""
    steps: dict[str, int] = {}
    for index, name in enumerate(regions):
        times = timestamps[region_index == index].astype(np.int64)
        differences = np.diff(times)
        if (bad := differences <= 0).any():
            at = np.datetime64(int(times[1:][bad][0]), "s")
            what = "twice" if (differences[bad][0] == 0) else "after a later time"
            raise InputError(
                f"region {name} holds {at} {what}; sort each region by time, each time once."
            )
        if not differences.size:
            continue
        lengths, counts = np.unique(differences, return_counts=True)
        steps[name] = step = int(lengths[np.argmax(counts)])
        if (bad := differences % step != 0).any():
            at = np.datetime64(int(times[1:][bad][0]), "s")
            raise InputError(
                f"region {name}: {at} comes {differences[bad][0] / 3600:g} h after the row before, "
                f"no multiple of the step of {step / 3600:g} h; resample to a regular step."
            )
    if not steps:
        raise InputError("no region has two rows; expected a series in time.")
    if len(set(steps.values())) > 1:
        found = ", ".join(f"{name} {step / 3600:g} h" for name, step in list(steps.items())[:6])
        raise InputError(f"regions differ in their step ({found}); resample them to one step.")
    return next(iter(steps.values())) / 3600


def _meaningful(
    table: pd.DataFrame, config: DataConfig
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Directions as sine and cosine, yes and no as 1 and 0; {new column: its source}; sentences."""
    apart = {config.timestamp_column, config.region_column}
    table, sources = encode_directions(table, config.features, config.directions, apart)
    notes = [
        f"{name} is a direction: read as {name}_sin and {name}_cos; data.directions=as_is keeps it."
        for name in dict.fromkeys(sources.values())
    ]
    text = [
        name
        for name, kind in table.dtypes.items()
        if name not in apart and (pd.api.types.is_bool_dtype(kind) or not _is_number(kind))
    ]
    found = {name: numbers for name in text if (numbers := zero_one(table[name])) is not None}
    if found:
        table = table.assign(**{str(name): numbers for name, numbers in found.items()})
        notes.append(f"yes and no read as 1 and 0 in {listed([str(n) for n in found])}.")
    return table, sources, notes


def _is_number(kind: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(kind))


def _checked_columns(
    columns: dict[str, np.ndarray],
    sources: dict[str, str],
    config: DataConfig,
    rain: str | None,
    step_hours: float,
    where: _Where,
) -> tuple[dict[str, np.ndarray], dict[str, ColumnRecord]]:
    """Features without the codes that were said, their records; codes not said are refused."""
    codes = config.missing_values or []
    records = {name: feature_record(name, sources.get(name, name), {}, None) for name in columns}
    judged = {}
    for name, values in columns.items():
        masked, counts = mask(values, codes)
        records[name].masked(counts, "said", "data.missing_values")
        if np.isnan(masked).all():
            raise InputError(f"column {name} holds nothing but {listed(list(map(str, counts)))}.")
        columns[name] = masked
        if name != rain and name not in sources:
            unit = records[name].unit
            judged[name] = masked, limits_of(name, unit.value if unit else None, step_hours)
    if config.missing_values != []:
        check_codes(judged, _CODES_ADVICE, where.row)
    return columns, records


def _precipitation_mm(
    table: pd.DataFrame,
    config: DataConfig,
    where: _Where,
    step_hours: float,
    is_prepared: bool,
    needs_label: bool,
    records: dict[str, ColumnRecord],
) -> tuple[np.ndarray, str, list[str]]:
    """Rain in mm rounded to 1e-6, the unit that it was in, and sentences to log."""
    name = config.precipitation_column
    rain = where.numbers(table, name)
    if table[name].dtype in (np.float32, np.float16):
        # 0.1 stored in 4 bytes reads 0.10000000149: take the decimal that was stored instead.
        distinct, index = np.unique(table[name].to_numpy(), return_inverse=True)
        rain = distinct.astype(str).astype(np.float64)[index]
    rain, counts = mask(rain, config.missing_values or [])
    told = (unit, "its name") if (unit := unit_in_name(name)) else None
    said = None if config.precipitation_unit == AUTO else config.precipitation_unit
    if is_prepared:
        fact = Fact("mm", "file", "series.json")
    else:
        if config.missing_values != []:
            check_codes({name: (rain, _RAIN_LIMITS)}, _CODES_ADVICE, where.row)
        verdict = rain_verdict(rain, where.timestamps, where.region_index)
        if why := problem(verdict, name, step_hours, len(rain) if needs_label else 0):
            raise InputError(
                f"{why} ({verdict.evidence}). Bring the table through launch/prepare_data.py, "
                f"which takes running totals apart; --meaning {name}=sum there, if it's sums."
            )
        option = "data.precipitation_unit="
        fact = rain_unit(rain, step_hours, name, said, told, option)
        record = ColumnRecord(name, Fact(RAIN, "said", "data.precipitation_column"), fact, "mm")
        record.masked(counts, "said", "data.missing_values")
        records[name] = record
    rain = np.round(to_mm(rain, fact.value, step_hours), 6)
    if (bad := rain < -_NEGATIVE_NOISE_MM).any():
        raise InputError(
            f"column {name} holds {rain[bad][0]:g} mm in a step ({where.row(bad)}); rain can't be "
            "negative: leave missing values empty, or name their code (data.missing_values)."
        )
    negative = int((rain < 0).sum())
    notes = [f"{negative} values of {name} just below zero set to 0."] if negative else []
    if fact.known_by == "assumed" and needs_label:
        notes.append(f"{name} is taken as mm: {fact.evidence} (data.precipitation_unit says it).")
    return np.where(rain < 0, 0.0, rain), str(fact.value), notes


def _ready_label(table: pd.DataFrame, config: DataConfig, where: _Where) -> np.ndarray | None:
    if config.label_column is None:
        return None
    label = where.numbers(table, config.label_column)
    if (bad := ~(np.isnan(label) | (label == 0) | (label == 1))).any():
        raise InputError(
            f"column {config.label_column} holds {label[bad][0]:g} ({where.row(bad)}); "
            "expected 0, 1 or an empty value."
        )
    return label
