"""The forecasts a model has to beat, fitted on the training windows and made for any rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from timerxl.data.windows import RegionGrid, WeatherWindows
from timerxl.evaluation.baselines import (
    Climatology,
    DayOfYearClimatology,
    always_rain,
    day_of_year,
    month_of,
    persistence,
)
from timerxl.evaluation.lagged_models import GradientBoosting, LogisticBaseline, neighbour_rows

# In the order of the tables, from what knows nothing to what knows all.
TITLES = {
    "model": "Timer-XL",
    "model_calibrated": "Timer-XL, calibrated",
    "always_rain": "always rain",
    "day_of_year": "P(rain | region, day of year)",
    "persistence": "persistence (rained before)",
    "climatology": "P(rain | region, month, rained before)",
    "logistic_regression": "logistic regression on lagged values",
    "gradient_boosting": "gradient-boosted trees on lagged values",
    "bayes": "best possible (Bayes; synthetic data only)",
}
SHORT = {
    "always_rain": "always rain",
    "day_of_year": "day of year",
    "persistence": "persistence",
    "climatology": "climatology",
    "logistic_regression": "logistic regr.",
    "gradient_boosting": "boosted trees",
}
YES_NO = ("always_rain", "persistence")
Probabilities = dict[str, dict[str, np.ndarray]]


def reference_probabilities(
    windows: WeatherWindows,
    rows: dict[str, np.ndarray],
    fitted_baselines: bool,
    seed: int,
    log: Callable[[str], None],
) -> Probabilities:
    """Baseline -> split -> P(rain) [n] at ``rows[split]``, fitted on all training windows."""
    series, train = windows.series, windows.issue_rows("train")
    region, month = series.region_index, month_of(series.timestamps)
    day, before, label = day_of_year(series.timestamps), windows.rained_before, windows.label
    base_rate = float(label[train].mean())
    of_day = DayOfYearClimatology().fit(region[train], day[train], label[train])
    of_month = Climatology().fit(region[train], month[train], before[train], label[train])
    found: Probabilities = {
        "always_rain": {s: always_rain(len(r)) for s, r in rows.items()},
        "day_of_year": {s: of_day.predict(region[r], day[r]) for s, r in rows.items()},
        "persistence": {s: persistence(before[r], base_rate) for s, r in rows.items()},
        "climatology": {
            s: of_month.predict(region[r], month[r], before[r]) for s, r in rows.items()
        },
    }
    if fitted_baselines:
        name = series.precipitation_feature
        known: dict[str, Any] = {
            "context_length": windows.context_length,
            "precipitation_column": None if name is None else series.feature_names.index(name),
        }
        beside = None
        if isinstance(windows.transform, RegionGrid):  # the network knows the other regions, too
            beside = neighbour_rows(region, series.timestamps, label, train)
        for key, forecaster in (
            ("logistic_regression", LogisticBaseline(series.step_hours, **known)),
            ("gradient_boosting", GradientBoosting(series.step_hours, seed, **known)),
        ):
            log(f"fitting {TITLES[key]} on {len(train):,} training windows for comparison ...")
            forecaster.fit(series.values, train, region, series.timestamps, label, beside)
            found[key] = {s: forecaster.predict(r) for s, r in rows.items()}
    if series.true_probability is not None:
        found["bayes"] = {s: series.true_probability[r] for s, r in rows.items()}
    return found
