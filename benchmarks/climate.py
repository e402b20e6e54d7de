"""Compare the SYNTHETIC climates with a real series: rain itself and what simple models make of it.

    python benchmarks/climate.py [--beijing beijing_hourly_2013_2017.parquet] [--versions 1 2]

Prints a markdown table: versions 1 and 2 of the built-in series (12-hourly, five regions, 2014 to
2024) and, where given, Beijing's hourly stations. The label is 0.1 mm or more in the next 24 h; the
first 70 % of the times are for training, the last 15 % for the test. The models see lags of 1, 2
and 4 steps and means of 24 and 72 h; "neighbours" adds every region's values at t and one and two
steps before.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.preprocessing import label_and_persistence
from timerxl.data.readers import load_series
from timerxl.data.series import WeatherSeries
from timerxl.evaluation.lagged_models import GradientBoosting, LogisticBaseline


class NeighbourBoosting(GradientBoosting):
    """Trees that also see every region's recent values."""

    def __init__(self, series: WeatherSeries, columns: list[int], **inputs: Any) -> None:
        super().__init__(series.step_hours, **inputs)
        stamps, self._at = np.unique(series.timestamps, return_inverse=True)
        grid = np.full((len(stamps), len(series.regions), len(columns)), np.nan, np.float32)
        grid[self._at, series.region_index] = series.values[:, columns]
        self._recent = [grid.reshape(len(stamps), -1)]
        for _ in range(2):
            before = np.full_like(self._recent[0], np.nan)
            before[1:] = self._recent[-1][:-1]
            self._recent.append(before)

    @property
    def feature_names(self) -> list[str]:
        count = sum(block.shape[1] for block in self._recent)
        return [f"neighbour {i}" for i in range(count)] + super().feature_names

    def features_at(self, rows: np.ndarray) -> np.ndarray:
        recent = [block[self._at[rows]] for block in self._recent]
        return np.hstack([*recent, super().features_at(rows)])


def run_lengths(wet: np.ndarray, kind: bool) -> np.ndarray:
    """Lengths of the runs of ``kind`` in ``wet`` [n]."""
    edges = np.flatnonzero(np.diff(np.r_[False, wet == kind, False].astype(int)))
    return edges[1::2] - edges[::2]


def compare(series: WeatherSeries, config: DataConfig, stride: int, seed: int) -> list[str]:
    """Return the table's cells for one series; models train on every ``stride``-th row."""
    label, before = label_and_persistence(series, config)
    known = ~np.isnan(label) & ~np.isnan(before)
    stamps = np.unique(series.timestamps)
    rows = np.flatnonzero(known & (np.searchsorted(stamps, series.timestamps) % stride == 0))
    times, day = series.timestamps[rows], np.timedelta64(24, "h")
    train = rows[times <= stamps[int(0.70 * len(stamps))] - day]
    test = rows[times >= stamps[int(0.85 * len(stamps))]]
    rain = label[test]
    cells = [f"{roc_auc_score(rain, before[test]):.3f}"]
    name = series.precipitation_feature
    column = None if name is None else series.feature_names.index(name)
    inputs: dict[str, Any] = {
        "precipitation_column": column,
        "lags": (1, 2, 4),
        "trailing_hours": (24.0, 72.0),
    }
    columns = [
        c for c, n in enumerate(series.feature_names)
        if not any(word in n for word in ("lag", "mean", "sum", "season", "hour_", "oni"))
    ]  # fmt: skip
    for model in (
        LogisticBaseline(series.step_hours, **inputs),
        GradientBoosting(series.step_hours, seed, **inputs),
        NeighbourBoosting(series, columns, seed=seed, **inputs),
    ):
        model.fit(series.values, train, series.region_index, series.timestamps, label)
        cells.append(f"{roc_auc_score(rain, model.predict(test)):.3f}")
    truth = series.true_probability
    cells.append("" if truth is None else f"{roc_auc_score(rain, truth[test]):.3f}")
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
    parser.add_argument("--versions", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    cases = []
    for version in options.versions:
        synthetic = SyntheticConfig(version=version, seed=options.seed)
        cases.append((f"SYNTHETIC, version {version}", DataConfig(synthetic=synthetic), 1))
    if options.beijing:
        cases.append(("Beijing, hourly", DataConfig(path=options.beijing), 6))
    print(
        "| series | persistence | logistic | trees | trees, neighbours | hidden state | rain share "
        "| wet days in a row, mean / 95 % | dry | mm a wet step, 50 / 90 / 99 / 99.9 % |"
    )
    print("|---" * 10 + "|")
    for title, config, stride in cases:
        cells = compare(load_series(config), config, stride, options.seed)
        print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
