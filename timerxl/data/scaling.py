"""From physical units to what the model reads: scaling, and what is known at issue time.

Shapes: R rows, C features, S static features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.series import WeatherSeries
from timerxl.untrusted import check_memory

_DAY = np.timedelta64(1, "D")
NUM_CYCLES = 4  # sine and cosine of the year and of the day, before the regions


def fit_scaling(
    series: WeatherSeries, rows: np.ndarray, log1p_precipitation: bool
) -> tuple[dict[str, list[Any]], list[str]]:
    """Mean and standard deviation of each feature over ``rows``, missing values left out.

    Returns ({"mean": [C], "std": [C], "log1p": names}, notes). Precipitation goes through
    log(1 + mm) first if asked for; a feature that never changes is divided by 1 and named.
    """
    log1p = [series.precipitation_feature] if log1p_precipitation else []
    scaling: dict[str, list[Any]] = {"log1p": [name for name in log1p if name is not None]}
    values = _logged(series.values[rows], series.feature_names, scaling["log1p"])
    missing = np.isnan(values).all(axis=0)
    if missing.any():
        empty = [series.feature_names[i] for i in np.flatnonzero(missing)]
        raise InputError(
            f"{', '.join(empty)}: missing in every training row, so there is nothing to scale by; "
            "leave it out of data.features."
        )
    mean, std = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    # The mean of equal numbers is off by a rounding, which would make noise look like a signal.
    constant = std <= 1e-9 * np.maximum(np.abs(mean), 1e-9)
    std[constant] = 1.0
    names = [series.feature_names[i] for i in np.flatnonzero(constant)]
    notes = [f"constant over the training rows, not scaled: {', '.join(names)}."] if names else []
    return scaling | {"mean": mean.tolist(), "std": std.tolist()}, notes


def _logged(values: np.ndarray, feature_names: list[str], log1p: list[str]) -> np.ndarray:
    values = values.astype(np.float64)
    for name in log1p:
        column = feature_names.index(name)
        values[:, column] = np.log1p(values[:, column])
    return values


def scale(
    values: np.ndarray, feature_names: list[str], scaling: dict[str, list[Any]]
) -> np.ndarray:
    """Scale values [R, C] in physical units to [R, C] float32; missing values stay missing."""
    logged = _logged(values, feature_names, scaling["log1p"])
    return ((logged - scaling["mean"]) / scaling["std"]).astype(np.float32)


def static_features(
    timestamps: np.ndarray, region_index: np.ndarray, regions: list[str]
) -> tuple[np.ndarray, list[str]]:
    """[R, S] float32 known at issue time: place in the year and in the day, and the region.

    Sine and cosine of 2 pi times the elapsed part of the year and of the day, then one column per
    region with 1 where the row is of that region.
    """
    what = f"a column for each of {len(regions):,} regions (data.static_features)"
    check_memory(len(timestamps) * (len(regions) + 4) * (1 + 8 + 4), what)
    seconds = timestamps.astype("datetime64[s]")
    year = seconds.astype("datetime64[Y]")
    year_start, year_end = year.astype("datetime64[s]"), (year + 1).astype("datetime64[s]")
    season = 2 * np.pi * ((seconds - year_start) / (year_end - year_start))
    hour = 2 * np.pi * ((seconds - seconds.astype("datetime64[D]")) / _DAY)
    cycles = np.stack([np.sin(season), np.cos(season), np.sin(hour), np.cos(hour)], axis=1)
    check_memory(
        13 * len(seconds) * (NUM_CYCLES + len(regions)),
        f"data.static_features of {len(regions):,} regions in {len(seconds):,} rows",
    )
    one_hot = region_index[:, None] == np.arange(len(regions))
    names = ["season_sin", "season_cos", "hour_sin", "hour_cos"]
    names += [f"region_{name}" for name in regions]
    return np.concatenate([cycles, one_hot], axis=1).astype(np.float32), names
