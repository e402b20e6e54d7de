"""The model's scores region by region, season by season, and by ENSO phase."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.config import EvalConfig
from timerxl.data.enso import PHASES, OceanicNinoIndex
from timerxl.data.series import WeatherSeries
from timerxl.evaluation.assess import Sample, interval_of, resampled, why_none
from timerxl.evaluation.baselines import month_of
from timerxl.evaluation.forecast_skill import skill

SEASONS = ("DJF", "MAM", "JJA", "SON")
MIN_EPISODES = 3
Stratum = tuple[str, np.ndarray, str, str | None]  # name, [n] bool, note, reason for no interval


def score_strata(
    by: str,
    series: WeatherSeries,
    rows: np.ndarray,
    oni: OceanicNinoIndex | None,
    probability: np.ndarray,
    sample: Sample,
    threshold: float,
    config: EvalConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """One entry per stratum with windows: scores, intervals (key -> [low, high]) and a note.

    ``rows`` [n] are the windows' rows in the series; ``threshold`` is that of all windows. The
    reference of ``bss`` is the stratum's own share of rain: one share for all would credit the
    forecast with knowing that winter is dry (Hamill & Juras 2006, doi:10.1256/qj.06.25).
    """
    found = []
    for name, chosen, note, no_interval in _strata(by, series, rows, oni):
        if not chosen.any():
            continue
        part = Sample(sample.label[chosen], sample.issue_time[chosen])
        scores = skill(probability[chosen], part.label, threshold)
        intervals: dict[str, list[float | None]] = {}
        no_interval = no_interval or why_none(part, config)
        if no_interval is None:
            given, thresholds = {"model": probability[chosen]}, {"model": threshold}
            of_model = resampled(given, part, thresholds, None, config, seed)["model"]
            intervals = {key: interval_of(of_key) for key, of_key in of_model.items()}
        found.append(
            {
                "name": name,
                "num_windows": int(chosen.sum()),
                "rain_share": float(part.label.mean()),
                "scores": scores,
                "intervals": intervals,
                "note": "; ".join(
                    filter(None, (note, no_interval and f"no interval: {no_interval}"))
                ),
            }
        )
    return found


def _strata(
    by: str, series: WeatherSeries, rows: np.ndarray, oni: OceanicNinoIndex | None
) -> list[Stratum]:
    times = series.timestamps[rows]
    if by == "region":
        region = series.region_index[rows]
        return [(name, region == index, "", None) for index, name in enumerate(series.regions)]
    if by == "season":
        season = month_of(times) % 12 // 3  # December, January, February are 0
        return [(name, season == index, "", None) for index, name in enumerate(SEASONS)]
    assert oni is not None
    phase, episode = oni.phase_at(times)
    strata: list[Stratum] = []
    for index, name in enumerate(PHASES):
        chosen = phase == index
        if name == "neutral":
            strata.append((name, chosen, "", None))
            continue
        episodes = len(np.unique(episode[chosen]))
        counted = f"{episodes} episode{'' if episodes == 1 else 's'}"
        few = f"{MIN_EPISODES} episodes are needed" if episodes < MIN_EPISODES else None
        strata.append((name, chosen, counted, few))
    strata.append(("unknown (outside the ONI file)", phase < 0, "", None))
    return strata
