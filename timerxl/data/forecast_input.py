"""The input of a forecast: a series read, checked and scaled as a saved model wants it.

Nothing is fitted to the series and no label is needed. R rows, C features, S static features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from timerxl.config import InputError
from timerxl.data.enso import with_oni
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.readers import read_table
from timerxl.data.scaling import scale, static_features
from timerxl.data.schema import WeatherSeries
from timerxl.data.splits import complete_rows
from timerxl.data.synthetic_event import load_synthetic
from timerxl.data.windows import WindowTransform

# A feature whose mean lies this many training deviations off is in another unit.
UNIT_DEVIATIONS = 10.0


@dataclass(frozen=True)
class ForecastInput:
    """``transform`` gives the windows that end at rows; ``ready`` [R] bool: a full context ends
    there."""

    series: WeatherSeries
    transform: WindowTransform
    ready: np.ndarray
    notes: list[str]

    def rows_at(self, times: list[np.datetime64] | None, context_length: int) -> np.ndarray:
        """Rows to forecast from, region after region: all that are ready, or those ``times``.

        Raises InputError that names the region and counts the steps where a context is short.
        """
        if times is None:
            rows = np.flatnonzero(self.ready)
            if not rows.size:
                raise InputError(
                    f"no time has {context_length} complete steps behind it; bring a longer series."
                )
            return rows
        found = []
        for index, region in enumerate(self.series.regions):
            of_region = np.flatnonzero(self.series.region_index == index)
            for time in times:
                at = of_region[self.series.timestamps[of_region] == time]
                if not at.size or not self.ready[at[0]]:
                    raise InputError(self._too_short(of_region, region, time, context_length))
                found.append(int(at[0]))
        return np.array(sorted(found))

    def latest_rows(self) -> np.ndarray:
        """The last row of every region."""
        return np.append(np.flatnonzero(np.diff(self.series.region_index)), len(self.ready) - 1)

    def _too_short(self, rows: np.ndarray, region: str, time: np.datetime64, needed: int) -> str:
        stamps = self.series.timestamps[rows]
        missing = np.isnan(self.series.values[rows]).any(axis=1)
        step, have, cause = self.series.step, 0, "the series begins there"
        wanted = time
        known = {stamp: bad for stamp, bad in zip(stamps.tolist(), missing, strict=True)}
        while wanted.tolist() in known:
            if known[wanted.tolist()]:
                cause = f"a value is missing at {wanted}"
                break
            have, wanted = have + 1, wanted - step
        else:
            if have and wanted > stamps[0]:
                cause = f"{wanted} is missing"
        hour = time.astype("datetime64[h]")
        if not have and not (stamps == time).any():
            return (
                f"region {region} has no row at {hour}; it runs from {stamps[0]} to {stamps[-1]} "
                f"in steps of {self.series.step_hours:g} h."
            )
        return f"region {region} needs {needed} steps before {hour}, has {have} ({cause})."


def read_forecast_input(
    source: pd.DataFrame | str | Path | None, saved: Preprocessing
) -> ForecastInput:
    """Read a table (or, for None, the synthetic series a model was trained on) for ``saved``.

    Raises InputError where features, step, regions, units or times don't fit the model.
    """
    table = source if isinstance(source, pd.DataFrame) else None
    path = None if source is None else "the table" if table is not None else str(source)
    config = saved.data_config(path)
    config.label_column = None
    if source is None:
        series = load_synthetic(config)
    else:
        series = read_table(config, table, needs_label=False)
    if config.oni_path is not None:
        series = with_oni(series, Path(config.oni_path), config.oni_lag_months)
    saved.check(series)
    scaling = saved.content["scaling"]
    scaled = scale(series.values, series.feature_names, scaling)
    _check_units(series, scaled, saved)
    static = None
    if saved.content.get("static_feature_names"):
        known = np.array([saved.regions.index(name) for name in series.regions])
        array, _ = static_features(series.timestamps, known[series.region_index], saved.regions)
        static = torch.from_numpy(array)
    unknown = torch.full((len(scaled),), -1, dtype=torch.int64)
    transform = WindowTransform(torch.from_numpy(scaled), static, unknown, saved.context_length)
    ready = complete_rows(series, saved.context_length)
    return ForecastInput(series, transform, ready, list(series.notes))


def _check_units(series: WeatherSeries, scaled: np.ndarray, saved: Preprocessing) -> None:
    """Refuse a feature that lies far from all that training saw: another unit, most likely."""
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
