"""The model's scores on test by region and by season, with intervals, and their pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import MaxNLocator

from timerxl.data.audit.label_checks import SEASONS
from timerxl.evaluation.bootstrap import bootstrap_scores, why_no_interval
from timerxl.evaluation.references import SHORT
from timerxl.evaluation.scores import forecast_scores
from timerxl.report.drawing import BLUE, DIM, Picture, canvas, legend, styled
from timerxl.report.run_record import Run, Sample, get, number

SHOWN = {"roc_auc": "ROC-AUC", "mcc": "MCC"}  # with intervals and the reference beside them
NUM_RESAMPLES, BLOCK_DAYS = 1000, 14.0  # of a run whose config.yaml can't be read


@dataclass(frozen=True)
class Stratum:
    """``references``: key -> score of the best other forecast on the same windows."""

    name: str
    num_windows: int
    rain_share: float
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    note: str = ""


def resampling(run: Run) -> tuple[int, float, int]:
    """Resamples, days of a block, and seed, as the run's own."""
    count = number(get(run.config, "eval", "num_resamples"))
    days, seed = number(get(run.config, "eval", "block_days")), number(get(run.config, "seed"))
    return (
        (NUM_RESAMPLES if count is None else max(0, int(count))),
        days or BLOCK_DAYS,
        int(seed or 0),
    )


def strata_of(run: Run, by: str) -> list[Stratum]:
    """An entry per ``region`` or ``season`` with test windows; [] without forecasts.

    Thresholds are those of all windows. The reference of the Brier skill score is the stratum's own
    share of rain, as in ``evaluation/strata.py``.
    """
    sample, threshold = run.sample(), run.thresholds.get("model")
    if sample is None or threshold is None or "model" not in sample.probabilities:
        return []
    if by == "region":
        names = sorted(set(sample.region))
        masks = {str(name): sample.region == name for name in names}
    else:
        months = sample.issue_time.astype("datetime64[M]").astype(np.int64) % 12 + 1
        masks = {name: months % 12 // 3 == index for index, name in enumerate(SEASONS)}
    return [
        _stratum(run, sample, name, mask, threshold) for name, mask in masks.items() if mask.any()
    ]


def reference_of(run: Run, key: str) -> str | None:
    """The best other forecast on validation by this score, as the run chose it."""
    name = get(run.results, "differences", key, "reference")
    return name if isinstance(name, str) else None


def _stratum(run: Run, sample: Sample, name: str, mask: np.ndarray, threshold: float) -> Stratum:
    label, times = sample.label[mask], sample.issue_time[mask]
    model = sample.probabilities["model"][mask]
    count, days, seed = resampling(run)
    note = "no resamples were asked for" if not count else why_no_interval(times, days)
    intervals = {}
    if note is None:
        given = {"model": model}
        found = bootstrap_scores(
            given,
            label,
            times,
            {"model": threshold},
            block_days=days,
            num_resamples=count,
            seed=seed,
        )["model"]
        intervals = {
            key: (interval.low, interval.high)
            for key, interval in found.items()
            if interval.low is not None and interval.high is not None
        }
    references = {}
    for key in SHOWN:
        other = reference_of(run, key)
        if other in sample.probabilities and other in run.thresholds:
            theirs = sample.probabilities[other][mask]
            references[key] = forecast_scores(theirs, label, run.thresholds[other])[key]
    return Stratum(
        name=name,
        num_windows=int(mask.sum()),
        rain_share=float(label.mean()),
        scores=forecast_scores(model, label, threshold),
        intervals=intervals,
        references=references,
        note=f"no interval: {note}" if note else "",
    )


def strata_pictures(run: Run, strata: dict[str, list[Stratum]]) -> Iterator[Picture]:
    """For each cut ROC-AUC and MCC: the model with its interval, the reference beside it."""
    for by, found in strata.items():
        if found:
            for key in SHOWN:
                yield _dots(run, by, found, key)


@styled
def _dots(run: Run, by: str, strata: list[Stratum], key: str) -> Picture:
    longest = max(len(stratum.name[:24]) for stratum in strata)
    left = 0.25 + 0.08 * longest
    figure, axes = canvas(height=0.27 * len(strata) + 0.25, legend_rows=1, left=left)
    parts, shown = [], any(key in stratum.intervals for stratum in strata)
    for row, stratum in enumerate(strata):
        value, interval = stratum.scores[key], stratum.intervals.get(key)
        if interval is not None:
            axes.plot(list(interval), [row, row], color=BLUE, linewidth=2.5, alpha=0.45)
        label = ("Timer-XL, 95 % interval" if shown else "Timer-XL") if row == 0 else None
        axes.plot([value], [row], "o", color=BLUE, markersize=5, label=label, zorder=3)
        said = f"{stratum.name} {value:.3f}" if value == value else f"{stratum.name} undefined"
        if interval is not None:
            said += f" ({interval[0]:.3f} to {interval[1]:.3f})"
        if key in stratum.references:
            other = SHORT.get(reference_of(run, key) or "", "reference")
            axes.plot(
                [stratum.references[key]],
                [row],
                "D",
                markerfacecolor="none",
                color=DIM,
                markersize=5,
                label=other if row == 0 else None,
            )
            said += f", {other} {stratum.references[key]:.3f}"
        parts.append(said)
    axes.set_yticks(range(len(strata)), [stratum.name[:24] for stratum in strata])
    axes.set_ylim(len(strata) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, axes)
    title = f"{SHOWN[key]} by {by}"
    words = f"{title} on test: {'; '.join(parts)}."
    return Picture(f"{by}-{key}", title, figure, words)
