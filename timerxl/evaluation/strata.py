"""The model's scores region by region, season by season, and by ENSO phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from timerxl.config import EvalConfig
from timerxl.data.enso import PHASES, OceanicNinoIndex
from timerxl.data.series import WeatherSeries
from timerxl.evaluation.assess import Sample, interval_of, resampled, why_none
from timerxl.evaluation.baselines import month_of
from timerxl.evaluation.scores import forecast_scores

SEASONS = ("DJF", "MAM", "JJA", "SON")
MIN_EPISODES = 3


class Stratum(NamedTuple):
    """A part of the scored windows."""

    name: str
    chosen: np.ndarray  # [n] bool
    note: str = ""
    no_interval: str | None = None  # the reason, where an interval would mislead


def region_strata(names: Sequence[str], region: np.ndarray) -> list[Stratum]:
    """``region`` [n] holds each window's entry of ``names``."""
    return [Stratum(name, region == name) for name in names]


def season_strata(times: np.ndarray) -> list[Stratum]:
    """Meteorological seasons by the month of issue."""
    season = month_of(times) % 12 // 3  # December, January, February are 0
    return [Stratum(name, season == index) for index, name in enumerate(SEASONS)]


def enso_strata(oni: OceanicNinoIndex, times: np.ndarray) -> list[Stratum]:
    """ENSO phases by the time of issue; a phase of few episodes has no interval."""
    phase, episode = oni.phase_at(times)
    strata = []
    for index, name in enumerate(PHASES):
        chosen = phase == index
        if name == "neutral":
            strata.append(Stratum(name, chosen))
            continue
        episodes = len(np.unique(episode[chosen]))
        counted = f"{episodes} episode{'' if episodes == 1 else 's'}"
        few = f"{MIN_EPISODES} episodes are needed" if episodes < MIN_EPISODES else None
        strata.append(Stratum(name, chosen, counted, few))
    return [*strata, Stratum("unknown (outside the ONI file)", phase < 0)]


def strata_by(
    by: str, series: WeatherSeries, rows: np.ndarray, oni: OceanicNinoIndex | None
) -> list[Stratum]:
    """The strata of the windows at ``rows`` [n] of a series, by "region", "season" or "enso"."""
    if by == "region":
        return region_strata(series.regions, np.asarray(series.regions)[series.region_index[rows]])
    if by == "season":
        return season_strata(series.timestamps[rows])
    assert oni is not None
    return enso_strata(oni, series.timestamps[rows])


def score_strata(
    strata: list[Stratum],
    probability: np.ndarray,
    sample: Sample,
    threshold: float,
    config: EvalConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """One entry per stratum with windows: scores, intervals (key -> [low, high]) and a note.

    ``threshold`` is that of all windows. The reference of ``bss`` is the stratum's own share of
    rain: one share for all would credit the forecast with knowing that winter is dry (Hamill &
    Juras 2006, doi:10.1256/qj.06.25).
    """
    found = []
    for name, chosen, note, no_interval in strata:
        if not chosen.any():
            continue
        part = Sample(sample.label[chosen], sample.issue_time[chosen])
        intervals: dict[str, list[float | None]] = {}
        no_interval = no_interval or why_none(part, config)
        if no_interval is None:
            given, thresholds = {"model": probability[chosen]}, {"model": threshold}
            of_model = resampled(given, part, thresholds, None, config, seed)["model"]
            intervals = {key: interval_of(of_key) for key, of_key in of_model.items()}
        reason = no_interval and f"no interval: {no_interval}"
        found.append(
            {
                "name": name,
                "num_windows": int(chosen.sum()),
                "rain_share": float(part.label.mean()),
                "scores": forecast_scores(probability[chosen], part.label, threshold),
                "intervals": intervals,
                "note": "; ".join(filter(None, (note, reason))),
            }
        )
    return found
