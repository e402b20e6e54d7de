"""The synthetic series as the data keys ask for it: its event, its features, nothing ignored."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from timerxl.config import DataConfig, InputError
from timerxl.data.features import label_like, listed_features
from timerxl.data.labels import UNITS_PER_MM
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic.climate import HORIZON_HOURS, RAIN_THRESHOLD_MM
from timerxl.data.synthetic.generator import PRECIPITATION, TRUTH, synthetic_series

# The recursion behind the true probability takes a pass per step; ten days is as far as forecasts
# of the weather go, and a minute's work for an hourly series of eleven years.
MOST_HORIZON_HOURS = 240.0
_OF_TABLES = ("timestamp_column", "region_column", "precipitation_column", "precipitation_unit")


def load_synthetic(config: DataConfig) -> WeatherSeries:
    """The synthetic series for the event of ``data``, with the features it lists.

    Its ready label is of 0.1 mm in 24 h; for any other event it's None, and labels are made from
    the rain. ``true_probability`` is that of the event, or None, with a note that says why. Raises
    InputError for ``data.label_column`` and for features that the series does not have.
    """
    if config.label_column is not None:
        raise InputError(
            f"data.label_column is {config.label_column}, but data.path is null and the synthetic "
            "series makes its own label; set data.label_column to null or give data.path."
        )
    own = (config.label_horizon_hours, config.rain_threshold_mm) == (
        HORIZON_HOURS,
        RAIN_THRESHOLD_MM,
    )
    reason = None if own else _why_unknown(config)
    series = synthetic_series(
        config.synthetic, HORIZON_HOURS if reason else config.label_horizon_hours
    )
    notes = list(series.notes)
    if not own:
        series = replace(series, ready_label=None)
    if reason:
        series = replace(series, true_probability=None)
        notes.append(f"the best possible score is not given for this label: {reason}.")
    if unused := _unused_keys(config):
        notes.append(f"{', '.join(unused)} describe a table: the synthetic series ignores them.")
    series = replace(series, notes=notes)
    return series if config.features is None else _select(series, config.features)


def _why_unknown(config: DataConfig) -> str | None:
    """Why the true probability of the label can't be told, None where it can.

    No wet step has less than 0.1 mm, so that any threshold up to it asks whether a step is wet.
    """
    units = round(config.rain_threshold_mm * UNITS_PER_MM)
    if not 0 < units <= round(RAIN_THRESHOLD_MM * UNITS_PER_MM):
        return (
            f"the true probability is exact for thresholds above 0 and up to {RAIN_THRESHOLD_MM:g} "
            f"mm only, and data.rain_threshold_mm is {config.rain_threshold_mm:g}"
        )
    if config.label_horizon_hours > MOST_HORIZON_HOURS:
        return (
            f"the true probability is computed up to {MOST_HORIZON_HOURS:g} h ahead, and "
            f"data.label_horizon_hours is {config.label_horizon_hours:g}"
        )
    if config.split == "rows":
        return (
            "data.split=rows labels the last rows of a region with the rain of the next one, which "
            "the true probability is not about"
        )
    return None


def _unused_keys(config: DataConfig) -> list[str]:
    defaults = {field.name: field.default for field in fields(DataConfig)}
    return [f"data.{key}" for key in _OF_TABLES if getattr(config, key) != defaults[key]]


def _select(series: WeatherSeries, listed: list[str]) -> WeatherSeries:
    """The series with these of its features, in this order."""
    reasons = {name: "its name says label" for name in listed if label_like(name)}
    reasons[TRUTH] = "it's the answer itself"
    names, skipped = listed_features(
        listed, series.feature_names, reasons, "the synthetic series has no such column", {}
    )
    columns = [series.feature_names.index(name) for name in names]
    note = f"{len(names)} of {len(series.feature_names)} synthetic features, as data.features says."
    return replace(
        series,
        feature_names=names,
        values=np.ascontiguousarray(series.values[:, columns]),
        precipitation_feature=PRECIPITATION if PRECIPITATION in names else None,
        source=series.source | {"skipped_columns": skipped},
        notes=[*series.notes, note],
    )
