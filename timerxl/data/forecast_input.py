"""The input of a forecast: a series read, checked and scaled as a saved model wants it.

Nothing is fitted to the series and no label is needed. R rows, C features, S static features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from timerxl.config import InputError
from timerxl.data.enso import with_oni
from timerxl.data.forecast_table import read_forecast_table
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.scaling import scale, static_features
from timerxl.data.series import WeatherSeries
from timerxl.data.splits import steps_behind
from timerxl.data.synthetic.event import load_synthetic
from timerxl.data.tables.unit_checks import check_units
from timerxl.data.training_ranges import step_offsets
from timerxl.data.windows import WindowTransform

# A feature whose mean lies this many training deviations off is in another unit.
UNIT_DEVIATIONS = 10.0
# Steps that end so much earlier or later in the day still tell of the same hours.
MOST_OFFSET_HOURS = 1.0
MOST_NOTES = 20  # of one kind


@dataclass(frozen=True)
class ForecastInput:
    """``transform`` gives the windows that end at rows; ``steps`` [R] int64: how many complete
    steps end with each row, of which the model needs ``context_length``."""

    series: WeatherSeries
    transform: WindowTransform
    steps: np.ndarray
    context_length: int
    notes: list[str]

    def all_rows(self) -> np.ndarray:
        """Rows with a full context, region after region; raises InputError where there is none."""
        rows = np.flatnonzero(self.steps >= self.context_length)
        if not rows.size:
            best = int(np.argmax(self.steps))
            region = int(self.series.region_index[best])
            why = self._too_short(region, self.series.timestamps[best])
            raise InputError(f"{why} No region has more: bring a longer series.")
        return rows

    def rows_at(self, times: list[np.datetime64]) -> np.ndarray:
        """Rows at each of ``times`` in every region; raises InputError naming the first without."""
        wanted, found = np.array(times, dtype="datetime64[s]"), []
        for index, of_region in enumerate(self.series.rows_of_regions()):
            stamps = self.series.timestamps[of_region]  # ascending, as every series has them
            rows = of_region[np.minimum(np.searchsorted(stamps, wanted), len(stamps) - 1)]
            ready = self.steps[rows] >= self.context_length
            if (bad := (self.series.timestamps[rows] != wanted) | ~ready).any():
                raise InputError(self._too_short(index, wanted[bad][0]))
            found.append(rows)
        return np.concatenate(found)

    def latest_rows(self) -> np.ndarray:
        """The last row of every region; raises InputError naming the first that is too short."""
        rows = np.append(np.flatnonzero(np.diff(self.series.region_index)), len(self.steps) - 1)
        for row in rows[self.steps[rows] < self.context_length]:
            index = int(self.series.region_index[row])
            raise InputError(self._too_short(index, self.series.timestamps[row]))
        return rows

    def _too_short(self, index: int, time: np.datetime64) -> str:
        rows = np.flatnonzero(self.series.region_index == index)
        stamps, step = self.series.timestamps[rows], self.series.step
        text = (
            f"region {self.series.regions[index]} needs {self.context_length} steps before "
            f"{moment(time)}, has "
        )
        at = np.flatnonzero(stamps == time)
        if not at.size:
            return (
                f"{text}0: it has no row at that time; it runs from {moment(stamps[0])} to "
                f"{moment(stamps[-1])} in steps of {self.series.step_hours:g} h."
            )
        have = int(self.steps[rows[at[0]]])
        before = time - have * step
        known = np.flatnonzero(stamps == before)
        if known.size:
            cause = f"a value is missing at {moment(before)}"
        else:
            cause = (
                "the series begins there" if before < stamps[0] else f"{moment(before)} is missing"
            )
        return f"{text}{have} ({cause})."


def moment(time: np.datetime64) -> str:
    """A time in ISO, as short as it can be said: 2024-06-01T06, or with minutes and seconds."""
    for unit in ("h", "m"):
        if time.astype(f"datetime64[{unit}]") == time:
            return str(time.astype(f"datetime64[{unit}]"))
    return str(time)


def read_forecast_input(
    source: pd.DataFrame | str | Path | None, saved: Preprocessing, oni: Path | None = None
) -> ForecastInput:
    """Read a table (or, for None, the synthetic series a model was trained on) for ``saved``.

    ``oni`` is NOAA's file, for a model that reads it.

    Raises InputError where columns, step, hours of the day, regions or units don't fit the model.
    """
    table = source if isinstance(source, pd.DataFrame) else None
    path = None if source is None else "the table" if table is not None else str(source)
    config = saved.data_config(path, oni)
    config.label_column = None
    if source is None:
        series = load_synthetic(config)
    else:
        series = read_forecast_table(config, table, saved.context_length, saved.regions)
    if config.oni_path is not None:
        series = with_oni(series, Path(config.oni_path), config.oni_lag_months)
    saved.check(series)
    scaled = scale(series.values, series.feature_names, saved.content["scaling"])
    notes = list(series.notes) + _check_against_training(series, scaled, saved)
    if source is not None:
        notes += _notes_on_table(series, saved)
    static = None
    if saved.content.get("static_feature_names"):
        place = {name: index for index, name in enumerate(saved.regions)}
        known = np.array([place[name] for name in series.regions])
        array, _ = static_features(series.timestamps, known[series.region_index], saved.regions)
        static = torch.from_numpy(array)
    unknown = torch.full((len(scaled),), -1, dtype=torch.int64)
    transform = WindowTransform(torch.from_numpy(scaled), static, unknown, saved.context_length)
    return ForecastInput(series, transform, steps_behind(series), saved.context_length, notes)


def _check_against_training(
    series: WeatherSeries, scaled: np.ndarray, saved: Preprocessing
) -> list[str]:
    """Hours of the day and units, held against what training saw; returns notes."""
    ranges = saved.content.get("training_ranges")
    if ranges is None:
        _check_deviations(series, scaled, saved)
        return [
            "this model's folder is of an older version and holds no training ranges: units were "
            "checked roughly, hours of the day not at all."
        ]
    notes = _check_hours(series, ranges["step_offsets_hours"])
    return notes + check_units(series, ranges, saved.context_length)


def _check_hours(series: WeatherSeries, trained: list[float]) -> list[str]:
    """Refuse steps that end hours away from those of training, note those within an hour.

    The label holds for any time of issue, but the day's course of temperature and rain falls on
    other steps than any that the model has seen.
    """
    found, known = step_offsets(series.timestamps, series.step_hours), set(trained)
    if not (new := [hour for hour in found if hour not in known]):
        return []
    # A step that doesn't divide a day comes by at other hours each day.
    step = math.gcd(round(series.step_hours * 3600), 86_400) / 3600
    off = _largest_distance(np.array(new), np.array(trained), step)
    text = (
        f"the steps end at {_clock(new, step)} UTC; the model was trained on steps that end at "
        f"{_clock(trained, step)} UTC"
    )
    if off > MOST_OFFSET_HOURS:
        raise InputError(f"{text}. Resample the table to these hours, or check its time zone.")
    return [f"{text}: {off * 60:.0f} minutes apart."]


def _largest_distance(new: np.ndarray, trained: np.ndarray, step: float) -> float:
    """How far the remotest of ``new`` lies from the nearest of ``trained``, modulo ``step``."""
    round_ = np.sort(np.concatenate([trained - step, trained, trained + step]))
    place = np.searchsorted(round_, new)  # between two: there are some on both sides
    return float(np.minimum(new - round_[place - 1], round_[place] - new).max())


def _clock(offsets: list[float], step_hours: float) -> str:
    """The first times of a day at which steps with these offsets end."""
    count = math.ceil(24 / step_hours)
    minutes = {round(60 * (hour + k * step_hours)) for hour in offsets for k in range(count)}
    times = [f"{one // 60:02d}:{one % 60:02d}" for one in sorted(minutes) if one < 24 * 60]
    return ", ".join(times[:8]) + (" ..." if len(times) > 8 else "")


def _check_deviations(series: WeatherSeries, scaled: np.ndarray, saved: Preprocessing) -> None:
    """Refuse a feature whose mean lies far from training's: all that an older folder tells."""
    with np.errstate(invalid="ignore"):
        off = np.nanmean(scaled.astype(np.float64), axis=0)
    for column in np.flatnonzero(np.abs(off) > UNIT_DEVIATIONS):
        name, scaling = series.feature_names[column], saved.content["scaling"]
        found = float(np.nanmean(series.values[:, column].astype(np.float64)))
        mean, std = scaling["mean"][column], scaling["std"][column]
        if np.nanmax(np.abs(series.values[:, column])) <= 1 and abs(mean) <= 1:
            continue  # sines and shares: no unit to mistake, and a season can be far from another
        kind = " of log(1 + value)" if name in scaling["log1p"] else ""
        raise InputError(
            f"column {name} has mean {found:.4g}; the model was trained on mean {mean:.4g}{kind}, "
            f"deviation {std:.3g}. Check its unit."
        )


def _notes_on_table(series: WeatherSeries, saved: Preprocessing) -> list[str]:
    """What a user's table should know before its forecasts are believed."""
    notes = []
    if saved.content.get("is_synthetic") and not series.is_synthetic:
        notes.append(
            "the model was trained on the SYNTHETIC series, which is no observation: its forecasts "
            "say nothing about real weather. Train on a series of your own for that."
        )
    last = series.timestamps[[rows[-1] for rows in series.rows_of_regions()]]
    early = np.flatnonzero(last < last.max())
    for index in early[:MOST_NOTES]:
        hours = (last.max() - last[index]) / np.timedelta64(1, "h")
        notes.append(
            f"region {series.regions[index]} ends at {moment(last[index])}, {hours:g} h before the "
            "last one: its latest forecast is of that time."
        )
    if len(early) > MOST_NOTES:
        notes.append(f"{len(early) - MOST_NOTES:,} more regions end before the last one.")
    return notes
