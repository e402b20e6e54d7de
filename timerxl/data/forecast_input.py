"""The input of a forecast: a series read, checked and scaled as a saved model wants it.

Nothing is fitted to the series and no label is needed. R rows, C features, S static features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from timerxl.config import DataConfig, InputError
from timerxl.data.enso import with_oni
from timerxl.data.preprocessing import (
    LEAST_NONZERO_JUDGED,
    Preprocessing,
    describe,
    even_sample,
    scale,
    static_features,
    step_offsets,
    steps_behind,
)
from timerxl.data.readers import open_table, read_table
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic import load_synthetic
from timerxl.data.tables.times import time_columns
from timerxl.data.windows import RegionGrid, WindowTransform
from timerxl.untrusted import listed

# Ranges (1 % to 99 %) in which nothing but a temperature lies, below -90 degrees nothing at all.
_KELVIN, _CELSIUS, _ZERO_CELSIUS = (180.0, 340.0), (-95.0, 65.0), 273.15
# Sines, shares and indices have no unit to mistake, and can stay at one value for years.
_SMALL = 5.0
_FAR_DEVIATIONS = 10.0
# From here on training saw all seasons: what lies far from all of it can't be the weather.
_YEAR_DAYS = 300.0
# How many times smaller or larger than in any block of training a size must be: drizzle of a dry
# season is ten times smaller than rain, and a short training may not have seen that season.
_SIZE_MARGIN, _SIZE_MARGIN_SHORT = 10.0, 30.0
_SHOWN = 30  # names of columns
# Values this far beyond a region's range, in shares of its width, and so many of them, are noted.
_MARGIN, _ODD_SHARE = 0.1, 0.05
_MOST_REGIONS = 1_000
_MOST_NOTED = 5
# What the factor that brings a feature back to training tells of its unit.
_FACTORS = {
    1000.0: "a unit 1000 times as large as the model's (m for mm)",
    100.0: "a unit 100 times as large as the model's (hPa for Pa, a share for percent)",
    0.01: "a unit 100 times as small as the model's (Pa for hPa, percent for a share)",
    0.001: "a unit 1000 times as small as the model's (mm for m)",
}


_REDUCTIONS: dict[str, Callable[[list[float]], Any]] = {
    **dict.fromkeys(("min", "q01", "size_low"), min),
    **dict.fromkeys(("max", "q99", "std", "size_high"), max),
    "mean": np.mean,
    "size": np.median,
}


@dataclass(frozen=True)
class _Numbers:
    """One feature in one region, of the table or of training (STATISTICS of preprocessing)."""

    min: float
    max: float
    mean: float
    std: float
    q01: float
    q99: float
    size_low: float | None
    size: float | None
    size_high: float | None

    @classmethod
    def of(cls, parts: list[dict[str, Any]], column: int) -> _Numbers | None:
        """Sum up one feature over several regions (means and deviations roughly)."""
        parts = [part for part in parts if part["mean"][column] is not None]
        numbers: dict[str, Any] = {}
        for key, reduce in _REDUCTIONS.items():
            known = [part[key][column] for part in parts if part[key][column] is not None]
            numbers[key] = float(reduce(known)) if known else None
        return cls(**numbers) if parts else None

    def within(self, low: float, high: float) -> bool:
        return low < self.q01 and self.q99 < high

    def __str__(self) -> str:
        return f"{self.min:.5g} to {self.max:.5g} (mean {self.mean:.5g})"


@dataclass(frozen=True)
class _Pair:
    """A feature in a region of the table, in training, and the share of it beyond training."""

    found: _Numbers
    trained: _Numbers
    outside: float

    def other_unit(self) -> str | None:
        """Name the unit that no weather could tell apart otherwise, None for any other."""
        found, trained = self.found, self.trained

        def is_near(mean: float) -> bool:
            reach = trained.q99 - trained.q01 + 10.0
            return trained.q01 - reach < mean < trained.q99 + reach

        is_celsius = found.within(*_CELSIUS) and trained.within(*_KELVIN)
        if is_celsius and is_near(found.mean + _ZERO_CELSIUS):
            return "degrees Celsius where the model reads kelvin"
        is_kelvin = found.within(*_KELVIN) and trained.within(*_CELSIUS)
        if is_kelvin and is_near(found.mean - _ZERO_CELSIUS):
            return "kelvin where the model reads degrees Celsius"
        # A factor of what stays well away from zero: hectopascal for pascal and the like.
        is_level = all(0 < one.q01 <= one.q99 < 10 * one.q01 for one in (found, trained))
        if not is_level or max(found.max, trained.max) <= _SMALL:
            return None
        low, high = trained.q01 / 1.5, trained.q99 * 1.5
        return next((t for f, t in _FACTORS.items() if low < found.mean * f < high), None)

    def size_factor(self, margin: float) -> float | None:
        """Return the factor that brings the typical size of values that are not 0 to training's.

        None where the size as found is less than ``margin`` times off all that training had in a
        block.
        """
        found, trained = self.found, self.trained
        low, high = trained.size_low, trained.size_high
        if found.size is None or trained.size is None or low is None or high is None:
            return None
        fits = []
        for factor in _FACTORS:
            if factor in (100.0, 0.01):  # one of the two is a share, the other percents
                share, percents = (found, trained) if factor > 1 else (trained, found)
                is_positive = min(share.min, percents.min) >= 0
                if not is_positive or not share.max <= 1.05 < percents.max <= 105:
                    continue
            size = found.size * factor
            off = low / found.size if factor > 1 else found.size / high
            if off > margin and low / 3 <= size <= high * 3:
                fits.append((abs(math.log(size / trained.size)), factor))
        return min(fits)[1] if fits else None

    def is_far(self) -> bool:
        found, trained = self.found, self.trained
        if max(map(abs, (found.min, found.max, trained.min, trained.max))) <= _SMALL:
            return False
        beyond = max(trained.min - found.mean, found.mean - trained.max)
        far = abs(found.mean - trained.mean) > _FAR_DEVIATIONS * trained.std
        return far and beyond > max(trained.max - trained.min, 0.1 * abs(trained.mean))


def check_units(series: WeatherSeries, saved: dict[str, Any], block_steps: int) -> list[str]:
    """Return notes on what is odd about a table; ``saved`` is the model's ``training_ranges``.

    A region that training didn't have is held against all of training's. Raises InputError that
    names the feature, its range in the table and in training, and the likely unit.
    """
    pairs: dict[str, dict[str, _Pair]] = {name: {} for name in series.feature_names}
    by_region, days = saved["by_region"], saved["days"]
    anywhere = [_Numbers.of(list(by_region.values()), k) for k in range(len(pairs))]
    starts = np.searchsorted(series.region_index, np.arange(1, len(series.regions)))
    parts = np.split(series.values, starts)
    sample = even_sample(len(parts), _MOST_REGIONS)
    for place in sample:
        region, values = series.regions[place], parts[place]
        described = describe(values, block_steps, LEAST_NONZERO_JUDGED)
        known = by_region.get(region)
        for column, name in enumerate(pairs):
            found = _Numbers.of([described], column)
            trained = anywhere[column] if known is None else _Numbers.of([known], column)
            if found is not None and trained is not None:
                outside = _share_outside(values[:, column], trained)
                pairs[name][region] = _Pair(found, trained, outside)
    margin = _SIZE_MARGIN if days >= _YEAR_DAYS else _SIZE_MARGIN_SHORT
    factors = {name: _size_factors(regions, margin) for name, regions in pairs.items()}
    refused = {name: _refusal(pairs[name], factors[name], days) for name in pairs}
    if wrong := {name: why for name, why in refused.items() if why}:
        first, *others = wrong
        also = f" The same goes for {', '.join(others)}." if others else ""
        if first == series.precipitation_feature:
            also += " Its numbers here are mm, as the model reads the column."
        raise InputError(f"column {first} {wrong[first]}{also}")
    notes = []
    for name, of in factors.items():  # in a part of the regions alone
        if of:
            region, factor = next(iter(of.items()))
            pair = pairs[name][region]
            notes.append(
                f"{name} in {listed(list(of), 30)} may be in {_FACTORS[factor]}: "
                f"{pair.found} in {region}, training had {pair.trained}."
            )
    notes += _odd_notes(pairs)
    if len(sample) < len(parts):
        notes.append(f"units were checked in {len(sample):,} of {len(parts):,} regions.")
    return notes


def _size_factors(regions: dict[str, _Pair], margin: float) -> dict[str, float]:
    """Return the factor of each region in which a feature is of another size."""
    factors = {region: pair.size_factor(margin) for region, pair in regions.items()}
    return {region: factor for region, factor in factors.items() if factor is not None}


def _refusal(regions: dict[str, _Pair], factors: dict[str, float], days: float) -> str | None:
    """Tell why the unit of a feature can't be that of training, as a clause; None where it can."""

    def clause(region: str, rest: str) -> str:
        pair = regions[region]
        seen = f"has {pair.found}, the model was trained on {pair.trained}"
        return f"in region {region} {seen}: {rest}"

    for region, pair in regions.items():
        if unit := pair.other_unit():
            return clause(region, f"that looks like {unit}. Convert it.")
    judged = sum(pair.found.size is not None for pair in regions.values())
    if len(set(factors.values())) == 1 and 2 * len(factors) >= judged:
        region, factor = next(iter(factors.items()))
        return clause(region, f"that looks like {_FACTORS[factor]}. Convert it.")
    if days >= _YEAR_DAYS and regions and all(pair.is_far() for pair in regions.values()):
        why = f"more than {_FAR_DEVIATIONS:g} deviations off. Check its unit, or whether"
        return clause(next(iter(regions)), f"{why} it is another column.")
    return None


def _share_outside(values: np.ndarray, trained: _Numbers) -> float:
    """Return the share of the values (missing ones left out) that training's range lacks."""
    margin = _MARGIN * (trained.max - trained.min) + 1e-5 * abs(trained.mean)
    present = values[~np.isnan(values)]
    outside = (present < trained.min - margin) | (present > trained.max + margin)
    return float(outside.mean())


def _odd_notes(pairs: dict[str, dict[str, _Pair]]) -> list[str]:
    """Name features that lie beyond training in good part, the worst first."""
    found = []
    for name, regions in pairs.items():
        odd = [region for region, pair in regions.items() if pair.outside > _ODD_SHARE]
        if odd:
            worst = max(odd, key=lambda region: regions[region].outside)
            found.append((name, worst, len(odd) - 1))
    found.sort(key=lambda one: -pairs[one[0]][one[1]].outside)
    notes = []
    for name, region, others in found[:_MOST_NOTED]:
        pair = pairs[name][region]
        more = f" (and {others} more regions)" if others else ""
        notes.append(
            f"{pair.outside:.0%} of {name} in {region}{more} lie beyond training: {pair.found}, "
            f"training had {pair.trained}."
        )
    if rest := [name for name, *_ in found[_MOST_NOTED:]]:
        notes.append(f"partly beyond training are also: {', '.join(rest)}.")
    return notes


def read_forecast_table(
    config: DataConfig, table: pd.DataFrame | None, context_length: int, regions: list[str]
) -> WeatherSeries:
    """Read the series of ``config.path``, or of the ``table`` given, without need of a label.

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
        text, unit = str(error).removeprefix("data.path "), config.precipitation_unit
        # No key of a recipe can be set, and nothing be left out any more.
        for pattern, words in (
            ("leave it out or fix it", "the model needs it"),
            (r"data.precipitation_unit says \w+; set \S+=\w+", f"the model reads {unit}"),
            ("the unit is another, or .*", f"the model reads it in {unit}, correct it."),
            ("Say data.missing_values=.*", "Leave missing values empty."),
        ):
            text = re.sub(pattern, words, text)
        raise InputError(text) from error


def _problem(config: DataConfig, table: pd.DataFrame | None, context_length: int) -> str | None:
    """Tell what the table lacks, as a sentence; None where its columns and rows are there."""
    name = "the table" if table is not None else str(config.path)
    try:
        frame = table if table is not None else open_table(Path(name)).frame
    except InputError:
        return None
    if any(level is not None for level in frame.index.names):
        frame = frame.reset_index()
    features = list(config.features or [])
    named = {config.timestamp_column: "times", config.region_column: "names of regions"}
    present = list(map(str, frame.columns))
    turned = {f"{column}_{part}" for column in present for part in ("sin", "cos")}
    missing = [one for one in (*named, *features) if one not in present and one not in turned]
    if set(missing) & set(named):
        try:  # times and regions may be told by other columns, as the reader finds them
            times = time_columns(frame)
            is_told = config.region_column in frame or not frame.duplicated(times).any()
        except InputError:
            is_told = False
        missing = [column for column in missing if not (column in named and is_told)]
    if missing:
        lacks = ", ".join(f"{one} ({named[one]})" if one in named else one for one in missing)
        more = " ..." if len(present) > _SHOWN else ""
        return (
            f"{name} lacks {len(missing)} of the {len(named) + len(features)} columns that the "
            f"model reads: {lacks}. It has: {', '.join(present[:_SHOWN])}{more}. Add or rename "
            "columns."
        )
    if not frame.columns.is_unique or frame.empty:
        return None
    own = [one for one in features if one in present]
    if text := [one for one in own if not pd.api.types.is_numeric_dtype(frame[one])]:
        shown = ", ".join(f"{one} ({frame[one].dtype})" for one in text)
        return f"{name} has columns that are not numeric: {shown}. The model reads numbers there."
    if not set(named) <= set(present):
        return None
    region, time = frame[config.region_column], frame[config.timestamp_column]
    if len(frame) == region.nunique() and context_length > 1:
        return (
            f"region {region.iloc[0]} needs {context_length} steps before {time.iloc[0]}, has 1: "
            f"{name} has a single row of each region. Bring a longer series."
        )
    return None


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
        """Return rows with a full context, region after region; raise InputError for none."""
        rows = np.flatnonzero(self.steps >= self.context_length)
        if not rows.size:
            best = int(np.argmax(self.steps))
            region = int(self.series.region_index[best])
            why = self._too_short(region, self.series.timestamps[best])
            raise InputError(f"{why} No region has more: bring a longer series.")
        return rows

    def rows_at(self, times: list[np.datetime64]) -> np.ndarray:
        """Return rows at ``times`` in every region; raise InputError naming the first without."""
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
        """Return the last row of every region; raise InputError naming the first too short."""
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
    """Write a time in ISO, as short as can be: 2024-06-01T06, or with minutes and seconds."""
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
    notes = list(series.notes)
    ranges = saved.content.get("training_ranges")
    if ranges is None:
        _check_deviations(series, scaled, saved)
        notes.append(
            "this model's folder is of an older version and holds no training ranges: units were "
            "checked roughly, hours of the day not at all."
        )
    else:
        notes += _check_hours(series, ranges["step_offsets_hours"])
        notes += check_units(series, ranges, saved.context_length)
    if source is not None:
        notes += _notes_on_table(series, saved)
    static = None
    if saved.content.get("static_feature_names"):
        static = torch.from_numpy(static_features(series, saved.regions)[0])
    unknown = torch.full((len(scaled),), -1, dtype=torch.int64)
    parts = torch.from_numpy(scaled), static, unknown, saved.context_length
    transform = WindowTransform(*parts)
    if saved.regions_together:
        transform = RegionGrid.of(series, *parts, saved.regions)
        if absent := [name for name in saved.regions if name not in series.regions]:
            notes.append(
                f"the table has no {listed(absent, 30)}: the model was trained with "
                "these regions beside the others, and forecasts the others without."
            )
    return ForecastInput(series, transform, steps_behind(series), saved.context_length, notes)


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
    around = np.sort(np.concatenate([np.array(trained) + turn for turn in (-step, 0.0, step)]))
    place = np.searchsorted(around, new)  # between two: there are some on both sides
    off = float(np.minimum(new - around[place - 1], around[place] - new).max())
    text = (
        f"the steps end at {_clock(new, step)} UTC; the model was trained on steps that end at "
        f"{_clock(trained, step)} UTC"
    )
    if off > MOST_OFFSET_HOURS:
        raise InputError(f"{text}. Resample the table to these hours, or check its time zone.")
    return [f"{text}: {off * 60:.0f} minutes apart."]


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
