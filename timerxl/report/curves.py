"""Curves over the epochs of a run: loss, scores on validation, share of rain forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from timerxl.report.drawing import (
    BLUE,
    DIM,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Picture,
    canvas,
    legend,
    mark_verdicts,
    rows_for,
    styled,
    thin,
)
from timerxl.report.outcome_sections import Said
from timerxl.report.run_record import Points, Run, get, number

# Key of an evaluation -> heading of its curve.
SCORES = {
    "loss": "Loss",
    "roc_auc": "ROC-AUC",
    "mcc": "MCC",
    "f1": "F1",
    "accuracy": "Accuracy",
    "predicted_rain_share": "Share of windows forecast as rain",
}
# Least height of a plot: closer up, what chance makes of an even curve would look like news.
SPANS = {"roc_auc": 0.1, "mcc": 0.1, "f1": 0.05, "accuracy": 0.05, "predicted_rain_share": 0.1}
_BEYOND = 3.0  # bands are drawn to this many times what is reached; farther, the curve is a dot
# What "the same answer for every window" gets, and what the line is called.
_NO_SKILL = {"roc_auc": (0.5, "no ranking: 0.5"), "mcc": (0.0, "no skill: 0")}


@dataclass(frozen=True)
class Expected:
    """What the recipe expects of a score on validation at the end of an epoch."""

    epoch: float
    key: str
    low: float
    high: float


def expectations_of(run: Run) -> list[Expected]:
    """From config.yaml, null ones left out."""
    given = get(run.config, "expectations")
    found = []
    for entry in given if isinstance(given, list) else []:
        epoch = number(get(entry, "epoch"))
        for key in ("loss", "accuracy", "f1"):
            band = get(entry, key)
            ends = [number(value) for value in band] if isinstance(band, list) else []
            if epoch is not None and len(ends) == 2 and None not in ends:
                low, high = (float(end or 0.0) for end in ends)
                found.append(Expected(epoch, key, low, high))
    return sorted(found, key=lambda band: band.epoch)


def curves(run: Run, verdicts: list[Said]) -> Iterator[Picture]:
    """A picture for each of ``SCORES`` that the run has numbers of."""
    for key, title in SCORES.items():
        if any(run.points(kind, key)[0] for kind in ("train", "validation", "check")):
            yield _curve(run, key, title, verdicts)


@styled
def _curve(run: Run, key: str, title: str, verdicts: list[Said]) -> Picture:
    reference = _reference(run, key)
    expected = [band for band in expectations_of(run) if band.key == key and run.axis == "epoch"]
    end = _end(run)
    bands = [band for band in expected if band.epoch <= _BEYOND * end]
    end = max([end, *(band.epoch for band in bands)])
    kinds = [kind for kind in _LOOKS if run.points(kind, key)[0] and (kind, key) not in _HIDDEN]
    entries = len(kinds) + (reference is not None) + bool(bands)
    figure, axes = canvas(legend_rows=rows_for(entries), top=0.26)
    axes.set_xlim(0, end * 1.03 or 1)
    whole_ticks(axes)
    axes.set_xlabel(run.axis, labelpad=1)
    captions = []
    for kind in kinds:
        x, y, k = thin(*run.points(kind, key))
        axes.plot(x, y, **_LOOKS[kind])
        if k > 1:
            what = "logged steps" if kind == "train" else f"{kind} events"
            captions.append(f"{_LOOKS[kind]['label'].capitalize()}: means of {k} {what} in a row.")
    if key == "loss" and (above := _leave_out_spikes(run, axes, bands)):
        captions.append(above)
    if key == "accuracy" and _add_errors(run, axes):
        captions.append("Thin bars: two standard errors to either side, from blocks of time.")
    if reference is not None:
        axes.axhline(reference[0], color=DIM, linewidth=1, linestyle="-.", label=reference[1])
    _add_bands(axes, bands)
    if later := expected[len(bands) :]:
        captions.append(f"Expected beyond the plot: {'; '.join(map(_band_words, later))}.")
    widen(axes, key)
    if key == "predicted_rain_share":
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend(figure, axes)
    mark_verdicts(axes, verdicts)
    words = _words(run, key, title, reference, expected)
    return Picture(f"curve-{key}", title, figure, words, " ".join(captions))


_LOOKS: dict[str, dict[str, Any]] = {
    "train": dict(color=SKY, linewidth=1, label="training"),
    "check": dict(color=ORANGE, linestyle="", marker=".", markersize=6, label="checks (a sample)"),
    "validation": dict(color=BLUE, marker="o", markersize=4, label="validation", zorder=3),
    "holdout": dict(color=GREEN, linestyle="--", marker="s", markersize=3.5, label="holdout"),
    "test_every_epoch": dict(
        color=VERMILLION, linestyle=":", marker="D", markersize=3.5, label="test: CONTAMINATED"
    ),
}
_HIDDEN = {("train", key) for key in SCORES if key != "loss"}


def _end(run: Run) -> float:
    """The last place on the axis that any event has reached."""
    last = [run.place(run.last(kind)) for kind in _LOOKS]
    return max([place for place in last if place is not None], default=0.0)


def _reference(run: Run, key: str) -> tuple[float, str] | None:
    """What saying one thing to everything gets: (value, name)."""
    if key in _NO_SKILL:
        return _NO_SKILL[key]
    if (rain := run.base_rate) is None:
        return None
    if key == "f1":
        always = 2 * rain / (1 + rain)
        return always, f"always rain 2p/(1+p): {always:.3f}"
    if key == "accuracy":
        what = "always rain" if rain >= 0.5 else "never rain"
        return max(rain, 1 - rain), f"{what}: {max(rain, 1 - rain):.3f}"
    if key == "predicted_rain_share":
        return rain, f"base rate: {rain:.1%}"
    return None


def _add_errors(run: Run, axes: Axes) -> bool:
    """Whiskers of two standard errors where the evaluations have them."""
    found = False
    for event in run.events.get("validation", []):
        at, value = run.place(event), number(event.get("accuracy"))
        error = number(event.get("accuracy_std_error"))
        if at is not None and value is not None and error is not None:
            axes.vlines(at, value - 2 * error, value + 2 * error, color=BLUE, linewidth=0.8)
            found = True
    return found


def _leave_out_spikes(run: Run, axes: Axes, bands: list[Expected]) -> str:
    """Cut the plot off above the bulk of the training loss: one spike would flatten all else.

    Above is what lies more than 3 interquartile ranges beyond the third quartile, as drawn; the
    sentence that comes back says so, "" without any.
    """
    _, y, _ = thin(*run.points("train", "loss"))
    if len(y) < 8:
        return ""
    first, third = np.quantile(y, [0.25, 0.75])
    fence = third + 3 * (third - first)
    kept = [value for value in y if value <= fence]
    if len(kept) == len(y):
        return ""
    for kind in ("check", "validation", "holdout", "test_every_epoch"):
        kept += run.points(kind, "loss")[1]
    kept += [end for band in bands for end in (band.low, band.high)]
    low, high = min(kept), max(kept)
    margin = 0.05 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)
    spikes = [value for value in y if value > high + margin]
    many = "s lie" if len(spikes) > 1 else " lies"
    return f"{len(spikes)} point{many} above the plot, up to {max(spikes):.3g}." if spikes else ""


def whole_ticks(axes: Axes) -> None:
    """Places on the x axis that are 1, 2 or 5 apart, or tenths of these."""
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))


def widen(axes: Axes, key: str) -> None:
    """A plot that is at least as high as ``SPANS`` says, with the curve in its middle."""
    low, high = axes.get_ylim()
    if (lacking := SPANS.get(key, 0.0) - (high - low)) > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _band_words(band: Expected) -> str:
    return f"{band.low:g} to {band.high:g} at epoch {band.epoch:g}"


def _add_bands(axes: Axes, bands: list[Expected]) -> None:
    for index, band in enumerate(bands):
        label = "expected by the recipe" if index == 0 else None
        axes.plot(
            [band.epoch, band.epoch],
            [band.low, band.high],
            color=PURPLE,
            linewidth=5,
            alpha=0.55,
            marker="_",
            markersize=9,
            solid_capstyle="butt",
            label=label,
            zorder=2,
        )


def _words(
    run: Run,
    key: str,
    title: str,
    reference: tuple[float, str] | None,
    bands: list[Expected],
) -> str:
    parts = [f"{title} over {run.axis}s."]
    for kind, look in _LOOKS.items():
        if kind != "check" and (kind, key) not in _HIDDEN:
            parts += in_words(run.points(kind, key), str(look["label"]), run.axis)
    if reference is not None:
        parts.append(f"Level line: {reference[1]}.")
    parts += [f"Expected: {_band_words(band)}." for band in bands]
    return " ".join(parts)


def in_words(points: Points, label: str, axis: str) -> list[str]:
    """A curve as a sentence: where it starts, its extremes, where it ends; none without points."""
    x, y = points
    if not x:
        return []
    if len(x) == 1:
        return [f"{label}: {y[0]:.3f} at {axis} {x[0]:.3g}."]
    return [
        f"{label}: {y[0]:.3f} at {axis} {x[0]:.3g} to {y[-1]:.3f} at {axis} {x[-1]:.3g}, "
        f"between {min(y):.3f} and {max(y):.3f}, {len(x)} points."
    ]
