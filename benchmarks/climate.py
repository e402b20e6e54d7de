"""Compare the SYNTHETIC climates with a real series: rain itself and what simple models make of it.

    python benchmarks/climate.py [--beijing beijing_hourly_2013_2017.parquet] [--versions 1 2]

Prints a markdown table: versions 1 and 2 of the built-in series (12-hourly, five regions, 2014 to
2024) and, where given, Beijing's hourly stations. The label is 0.1 mm or more in the next 24 h; the
first 70 % of the times are for training, the last 15 % for the test (``--split validation``: the
15 % between). The models see lags of 1, 2 and 4 steps and means of 24 and 72 h; "neighbours" adds
the other regions' values and means of a day. Cells are ROC-AUC / Brier score; the best from what is
observed has the error of its integrals.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.neighbours import nearest_by_rain, neighbour_rows
from timerxl.data.observed_bound import observed_probability
from timerxl.data.preprocessing import label_and_persistence
from timerxl.data.readers import load_series
from timerxl.data.series import WeatherSeries
from timerxl.evaluation.lagged_models import GradientBoosting, LogisticBaseline


def run_lengths(wet: np.ndarray, kind: bool) -> np.ndarray:
    """Lengths of the runs of ``kind`` in ``wet`` [n]."""
    edges = np.flatnonzero(np.diff(np.r_[False, wet == kind, False].astype(int)))
    return edges[1::2] - edges[::2]


def compare(
    series: WeatherSeries, config: DataConfig, stride: int, seed: int, split: str
) -> list[str]:
    """Return the table's cells for one series; models train on every ``stride``-th row."""
    label, before = label_and_persistence(series, config)
    known = ~np.isnan(label) & ~np.isnan(before)
    stamps = np.unique(series.timestamps)
    rows = np.flatnonzero(known & (np.searchsorted(stamps, series.timestamps) % stride == 0))
    times, day = series.timestamps[rows], np.timedelta64(24, "h")
    cuts = stamps[[int(0.70 * len(stamps)), int(0.85 * len(stamps))]]
    train = rows[times <= cuts[0] - day]
    test = rows[times >= cuts[1]]
    if split == "validation":
        test = rows[(times >= cuts[0]) & (times <= cuts[1] - day)]
    rain = label[test]

    def scores(p: np.ndarray) -> tuple[float, float]:
        return float(roc_auc_score(rain, p)), float(brier_score_loss(rain, p))

    cells = [f"{scores(before[test])[0]:.3f}"]
    name = series.precipitation_feature
    inputs: dict[str, Any] = {
        "precipitation_column": None if name is None else series.feature_names.index(name),
        "lags": (1, 2, 4),
        "trailing_hours": (24.0, 72.0),
    }
    of_series = (series.values, train, series.region_index, series.timestamps, label)
    regions = len(series.regions)
    near = nearest_by_rain(series.region_index, series.timestamps, label, train, regions)
    beside = neighbour_rows(series.region_index, series.timestamps, near)
    for kind in (LogisticBaseline, GradientBoosting):
        for neighbours in (None, beside):
            seeded = {"seed": seed} if kind is GradientBoosting else {}
            model = kind(series.step_hours, **seeded, **inputs)
            model.fit(*of_series, neighbours)
            cells.append("{:.3f} / {:.3f}".format(*scores(model.predict(test))))
    truth = series.true_probability
    if truth is None:
        cells += ["", ""]
    else:
        runs = observed_probability(series, config.label_horizon_hours, test)
        best = scores(runs.mean(axis=0))
        error = np.abs(np.subtract(scores(runs[0]), scores(runs[1]))) / 2
        cells.append(f"{best[0]:.3f} ± {error[0]:.5f} / {best[1]:.3f} ± {error[1]:.5f}")
        cells.append("{:.3f} / {:.3f}".format(*scores(truth[test])))
    cells.append(f"{label[rows].mean():.2f}")

    # Spells of days: rain of the 24 h before, once a day, region by region.
    per_day = round(24 / series.step_hours)
    wet_runs, dry_runs = [], []
    for region in range(len(series.regions)):
        daily = before[series.region_index == region][::per_day]
        wet_runs.append(run_lengths(daily[~np.isnan(daily)] == 1, True))
        dry_runs.append(run_lengths(daily[~np.isnan(daily)] == 1, False))
    for runs in (np.concatenate(wet_runs), np.concatenate(dry_runs)):
        cells.append(f"{runs.mean():.1f} / {np.quantile(runs, 0.95):.0f}")
    amounts = series.precipitation_mm[series.precipitation_mm >= 0.1]
    cells.append(" / ".join(f"{x:.1f}" for x in np.quantile(amounts, (0.5, 0.9, 0.99, 0.999))))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beijing", help="the hourly table of Beijing's stations")
    parser.add_argument("--seed", type=int, default=0, help="of the weather and of the trees")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--versions", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    cases = []
    for version in options.versions:
        synthetic = SyntheticConfig(version=version, seed=options.seed)
        cases.append((f"SYNTHETIC, version {version}", DataConfig(synthetic=synthetic), 1))
    if options.beijing:
        cases.append(("Beijing, hourly", DataConfig(path=options.beijing), 6))
    print(
        "| series | persistence | logistic | with neighbours | trees | with neighbours | best from "
        "what is observed | given the hidden state | rain share | wet days in a row, mean / 95 % "
        "| dry | mm a wet step, 50 / 90 / 99 / 99.9 % |"
    )
    print("|---" * 12 + "|")
    for title, config, stride in cases:
        cells = compare(load_series(config), config, stride, options.seed, options.split)
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
