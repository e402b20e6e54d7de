"""The forecasts a model has to beat, fitted on the training windows and made for any rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from timerxl.data.observed_bound import observed_probability
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
from timerxl.evaluation.scores import roc_auc

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
    "bayes_observed": "best possible from all observed variables (synthetic data only)",
    "bayes": "best possible given the hidden state (Bayes; synthetic data only)",
}
SHORT = {
    "always_rain": "always rain",
    "day_of_year": "day of year",
    "persistence": "persistence",
    "climatology": "climatology",
    "logistic_regression": "logistic regr.",
    "gradient_boosting": "boosted trees",
}
BEST_POSSIBLE = ("bayes_observed", "bayes")  # they know the generator
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
    return found


def best_possible(
    windows: WeatherWindows, rows: dict[str, np.ndarray], split: str
) -> tuple[Probabilities, dict[str, float] | None]:
    """Return what nobody can beat who sees all observed variables, or the hidden state; and the
    Monte Carlo error of the former's scores on ``split``. Empty and None for a real series."""
    truth, every = windows.series.true_probability, np.concatenate(list(rows.values()))
    if truth is None:
        return {}, None
    hours = windows.definition["label"]["horizon_hours"]
    runs = observed_probability(windows.series, hours, every)
    cuts = np.cumsum([len(r) for r in rows.values()])[:-1]

    def by_split(p: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(rows, np.split(p, cuts), strict=True))

    label = windows.label[rows[split]]
    auc = [roc_auc(by_split(run)[split], label) for run in runs]
    brier = [np.mean((by_split(run)[split] - label) ** 2) for run in runs]
    error = {"roc_auc": abs(auc[0] - auc[1]) / 2, "brier": float(abs(brier[0] - brier[1])) / 2}
    found = {"bayes_observed": by_split(runs.mean(axis=0)), "bayes": by_split(truth[every])}
    return found, error
