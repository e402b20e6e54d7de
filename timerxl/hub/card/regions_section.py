"""Region by region: the model's scores on test, with intervals, beside the best other forecast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timerxl.evaluation.bootstrap import resample_scores
from timerxl.evaluation.references import TITLES
from timerxl.evaluation.scores import forecast_scores, roc_auc
from timerxl.hub.card.markdown import ends, heading, score, table, words
from timerxl.hub.card.scores_section import small, threshold_words
from timerxl.hub.record import Record
from timerxl.untrusted import misfit

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]
SHOWN = ("roc_auc", "mcc", "brier")


@dataclass(frozen=True)
class RegionScores:
    """Of one region on test. ``interval`` is that of the ROC-AUC, None where there is too little;
    ``best_other`` the baseline with the highest ROC-AUC there, and how high."""

    name: str
    num_windows: int
    rain_share: float
    scores: dict[str, float]
    interval: tuple[float, float] | None
    best_other: tuple[str, float] | None


def score_regions(record: Record) -> list[RegionScores]:
    """From forecasts.parquet, with the threshold and the resampling of the whole; [] without."""
    threshold = record.results.get("threshold")
    if record.forecasts is None or threshold is None:
        return []
    test = record.forecasts[record.forecasts["split"] == "test"]
    others = [name for name in TITLES if name in test and name in record.results["baselines"]]
    others = [name for name in others if name != "bayes"]
    found = []
    for region, part in test.groupby("region", sort=True):
        label = part["label"].to_numpy(np.int64)
        given = part["model"].to_numpy(np.float64)
        times = part["issue_time"].to_numpy("datetime64[s]")
        scores = forecast_scores(given, label, threshold)
        ranked = [(name, roc_auc(part[name].to_numpy(np.float64), label)) for name in others]
        best = max((r for r in ranked if r[1] == r[1]), key=lambda r: r[1], default=None)
        found.append(
            RegionScores(
                name=str(record.scrubber.value(str(region))),
                num_windows=len(part),
                rain_share=float(label.mean()),
                scores={key: scores[key] for key in SHOWN},
                interval=_interval(record, given, label, times),
                best_other=best,
            )
        )
    return found


def _interval(
    record: Record, given: Floats, label: NDArray[np.int64], times: Times
) -> tuple[float, float] | None:
    """Of the ROC-AUC, resampled as the run's own scores were."""
    settings = record.config.get("eval") or {}
    count, days = settings.get("num_resamples", 1000), settings.get("block_days", 14.0)
    if misfit(count, range(1, 10**6)) or misfit(days, float) or days <= 0:
        return None
    found = resample_scores(
        {"model": given}, label, times, {"model": 0.5}, block_days=days, num_resamples=count
    )["model"]["roc_auc"].interval()
    return None if found.low is None or found.high is None else (found.low, found.high)


def region_section(record: Record, regions: list[RegionScores]) -> str:
    """Region by region on test, with the threshold of all."""
    if not regions:
        return ""
    rows = []
    for region in regions:
        cells = [words(region.name), f"{region.num_windows:,}", f"{region.rain_share:.1%}"]
        values = [score(region.scores[key]) for key in SHOWN]
        values[0] += small(ends(region.interval))
        other = region.best_other
        best = "–" if other is None else score(other[1]) + small(words(TITLES[other[0]]))
        rows.append([*cells, *values, best])
    headings = ["region", "windows", "rain", "ROC-AUC", "MCC", "Brier", "best other ROC-AUC"]
    intro = (
        f"Timer-XL on test, rain being said {threshold_words(record)}. In small print the 95 % "
        "interval, and which of the baselines ranks best in that region."
    )
    return "\n\n".join([heading("By region"), intro, table(headings, rows)])
