"""The forecasts a model has to beat, fitted on the training windows and made for any rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from timerxl.data.neighbours import nearest_by_rain, neighbour_rows
from timerxl.data.observed_bound import observed_probability
from timerxl.data.series import blocks
from timerxl.data.windows import RegionGrid, WeatherWindows
from timerxl.evaluation.baselines import (
    Climatology,
    DayOfYearClimatology,
    always_rain,
    day_of_year,
    month_of,
    persistence,
)
from timerxl.evaluation.lagged_models import GradientBoosting, LaggedBaseline, LogisticBaseline
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
MOST_FITTED = 400_000  # training windows of a fitted baseline
MOST_NEIGHBOURS = 8  # of a rival of a network that sees all regions
Probabilities = dict[str, dict[str, np.ndarray]]


def reference_probabilities(
    windows: WeatherWindows,
    rows: dict[str, np.ndarray],
    fitted_baselines: bool,
    seed: int,
    log: Callable[[str], None],
    fitted: dict[str, LaggedBaseline] | None = None,
) -> Probabilities:
    """Baseline -> split -> P(rain) [n] at ``rows[split]``, fitted on all training windows.

    ``fitted`` are those of :func:`fit_lagged`, where they are there already.
    """
    series, train = windows.series, windows.issue_rows("train")
    region, times = series.region_index, series.timestamps
    before, label = windows.rained_before, windows.label
    base_rate = windows.rain_share("train")
    of_day, of_month = DayOfYearClimatology(), Climatology()
    for block in blocks(len(train)):
        known = train[block]
        count_days = of_day.add if block.start else of_day.fit
        count_days(region[known], day_of_year(times[known]), label[known])
        count = of_month.add if block.start else of_month.fit
        count(region[known], month_of(times[known]), before[known], label[known])
    found: Probabilities = {
        "always_rain": {s: always_rain(len(r)) for s, r in rows.items()},
        "day_of_year": {
            s: of_day.predict(region[r], day_of_year(times[r])) for s, r in rows.items()
        },
        "persistence": {s: persistence(before[r], base_rate) for s, r in rows.items()},
        "climatology": {
            s: of_month.predict(region[r], month_of(times[r]), before[r]) for s, r in rows.items()
        },
    }
    if fitted is None:
        fitted = fit_lagged(windows, seed, log) if fitted_baselines else {}
    for key, forecaster in fitted.items():
        found[key] = {s: forecaster.predict(r) for s, r in rows.items()}
    return found


def fit_lagged(
    windows: WeatherWindows, seed: int, log: Callable[[str], None]
) -> dict[str, LaggedBaseline]:
    """Fit logistic regression and boosted trees on the training windows, of more than
    ``MOST_FITTED`` on a seeded sample over regions and time; they see the regions that the network
    sees."""
    series, all_rows = windows.series, windows.issue_rows("train")
    train = all_rows[windows.sample_windows("train", MOST_FITTED, seed)]
    of = f" (a sample of {len(all_rows):,})" if len(train) < len(all_rows) else ""
    region, label = series.region_index, windows.label
    known, beside = lagged_inputs(windows), None
    if (near := seen_neighbours(windows)) is not None:
        region = windows.transform.region_of_row.numpy()  # type: ignore[attr-defined]
        beside = neighbour_rows(region, series.timestamps, near)
    fitted: dict[str, LaggedBaseline] = {
        "logistic_regression": LogisticBaseline(series.step_hours, **known),
        "gradient_boosting": GradientBoosting(series.step_hours, seed, **known),
    }
    for key, forecaster in fitted.items():
        log(f"fitting {TITLES[key]} on {len(train):,} training windows{of} for comparison ...")
        forecaster.fit(series.values, train, region, series.timestamps, label, beside)
    return fitted


def seen_neighbours(windows: WeatherWindows) -> np.ndarray | None:
    """Return [G, K]: the regions whose values a rival sees beside its own, the nearest first; None
    where the network sees its own region alone."""
    grid = windows.transform
    if not isinstance(grid, RegionGrid):
        return None
    if windows.neighbours is not None:
        return windows.neighbours
    train = windows.issue_rows("train")
    region = grid.region_of_row.numpy()
    times, count = windows.series.timestamps, grid.rows_per_window
    return nearest_by_rain(region, times, windows.label, train, count)[:, :MOST_NEIGHBOURS]


def lagged_inputs(windows: WeatherWindows) -> dict[str, Any]:
    """What the inputs of a lagged baseline depend on, but for the step."""
    name = windows.series.precipitation_feature
    return {
        "context_length": windows.context_length,
        "precipitation_column": (
            None if name is None else windows.series.feature_names.index(name)
        ),
    }


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
