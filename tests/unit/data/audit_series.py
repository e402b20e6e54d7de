"""Small SYNTHETIC series in memory for the checks of the audit, and one check run over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from timerxl.config import DataConfig
from timerxl.data.audit.auditor import cut_windows
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.series import WeatherSeries


def series_of(
    columns: dict[str, Any],
    rain: np.ndarray,
    regions: int = 1,
    step_hours: int = 1,
    keep: np.ndarray | None = None,
    **changes: Any,
) -> WeatherSeries:
    """Regions of equal length, their rows stacked; ``keep`` [R] bool leaves rows out."""
    rows = len(rain)
    keep = np.ones(rows, dtype=bool) if keep is None else keep
    hours = np.tile(np.arange(rows // regions) * step_hours, regions)
    fields: dict[str, Any] = {
        "feature_names": list(columns),
        "regions": [f"R{i}" for i in range(regions)],
        "values": np.stack(list(columns.values()), axis=1).astype(np.float32)[keep],
        "region_index": np.repeat(np.arange(regions), rows // regions)[keep],
        "timestamps": (np.datetime64("2020-01-01T00", "s") + hours * np.timedelta64(3600, "s"))[
            keep
        ],
        "precipitation_mm": rain.astype(np.float64)[keep],
        "ready_label": None,
        "true_probability": None,
        "step_hours": float(step_hours),
        "precipitation_feature": None,
        "is_synthetic": False,
        "source": {},
        "notes": [],
    }
    return WeatherSeries(**(fields | changes))


def run(
    check: Callable[[Subject, Audit], None],
    series: WeatherSeries,
    context: int = 24,
    **changes: Any,
) -> Audit:
    data = DataConfig(**({"path": "table.csv"} | changes.pop("data", {})))
    subject = Subject(series, data, context, "a test", **changes)
    cut_windows(subject)
    audit = Audit()
    check(subject, audit)
    return audit


def names_of(audit: Audit) -> dict[str, str]:
    return {finding.name: finding.severity for finding in audit.findings}


def showers(rows: int, seed: int = 0) -> np.ndarray:
    """Hourly rain in spells: wet about one hour in ten, multiples of 0.1 mm."""
    rng = np.random.default_rng(seed)
    state = np.zeros(rows)
    for t in range(1, rows):
        state[t] = 0.97 * state[t - 1] + 0.24 * rng.normal()
    return np.where(state > 1.2, np.round(rng.exponential(2, rows) + 0.1, 1), 0.0)


RAIN = showers(6000)
NOISE = np.random.default_rng(1).normal(size=6000)
