"""What the forecasts of the test windows are worth: confusion, reliability, ROC, precision-recall.

All from forecasts.parquet and results.json; where these are missing there is no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from sklearn.metrics import precision_recall_curve, roc_curve

from timerxl.evaluation.references import SHORT
from timerxl.evaluation.scores import rain_table, reliability
from timerxl.report.drawing import (
    BLUE,
    DIM,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Picture,
    canvas,
    legend,
    rows_for,
    styled,
)
from timerxl.report.run_record import Points, Run, Sample, get, number

# The model's ranking is that of its calibrated forecast: one line for both.
_RANKED: dict[str, dict[str, Any]] = {
    "model": dict(color=BLUE, linewidth=2.2, zorder=4),
    "day_of_year": dict(color=SKY, linestyle=":"),
    "climatology": dict(color=PURPLE, linestyle="-."),
    "logistic_regression": dict(color=GREEN, linestyle="--"),
    "gradient_boosting": dict(color=VERMILLION, linestyle=(0, (4, 1, 1, 1))),
    "bayes": dict(color=DIM, linestyle=(0, (1, 1)), linewidth=1.2),
}
_MARKED: dict[str, dict[str, Any]] = {
    "persistence": dict(color=ORANGE, marker="^"),
    "always_rain": dict(color=INK, marker="X"),
}
_NAMES = {"model": "Timer-XL", "bayes": "best possible"} | SHORT
_POINTS = 160  # of a curve in the page; the scores are those of all windows


def skill_pictures(run: Run) -> Iterator[Picture]:
    """Those pictures that the run has numbers for."""
    sample, threshold = run.sample(), run.thresholds.get("model")
    if sample is not None and "model" in sample.probabilities and threshold is not None:
        yield _confusion(sample, threshold)
    curves = _reliability_points(run, sample)
    if curves:
        yield _reliability(run, sample, curves)
    if sample is not None and 0 < sample.label.mean() < 1:
        yield _ranking(run, sample, "roc")
        yield _ranking(run, sample, "precision-recall")


@styled
def _confusion(sample: Sample, threshold: float) -> Picture:
    table = rain_table(sample.probabilities["model"], sample.label, threshold)
    cells = [[table.hits, table.misses], [table.false_alarms, table.correct_negatives]]
    names = [["hits", "misses"], ["false alarms", "correct negatives"]]
    figure, axes = canvas(height=2.0, left=1.0)
    axes.grid(False)
    for row, (counts, titles) in enumerate(zip(cells, names, strict=True)):
        whole = max(sum(counts), 1)
        for column, (count, title) in enumerate(zip(counts, titles, strict=True)):
            colour = BLUE if row == column else VERMILLION
            box = Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                color=colour,
                alpha=0.08 + 0.4 * count / whole,
                lw=0,
            )
            axes.add_patch(box)
            for y, words, size in (
                (-0.18, f"{count:,}", 13),
                (0.1, title, 9),
                (0.3, f"{count / whole:.1%}", 9),
            ):
                axes.text(column, row + y, words, ha="center", va="center", fontsize=size)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    axes.set_xticks([0, 1], ['said "rain"', 'said "dry"'])
    axes.set_yticks([0, 1], ["rain came", "stayed dry"])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    said = "; ".join(
        f"{title} {count:,}"
        for titles, counts in zip(names, cells, strict=True)
        for title, count in zip(titles, counts, strict=True)
    )
    words = (
        f"Confusion matrix of {table.total:,} test windows at P(rain) >= {threshold:.3f}: {said}."
    )
    caption = (
        f"“Rain” is said from P(rain) = {threshold:.3f} on, chosen on validation. Shares: rows."
    )
    return Picture("confusion", "Confusion matrix", figure, words, caption)


def _reliability_points(run: Run, sample: Sample | None) -> dict[str, Points]:
    """Forecast -> (mean P(rain), share of rain) of every bin: results.json, else recomputed."""
    found: dict[str, Points] = {}
    for name in ("model", "model_calibrated"):
        told = get(run.results, "reliability", name)
        if isinstance(told, list):
            pairs = [(number(get(p, "forecast")), number(get(p, "observed"))) for p in told]
            known = [(x, y) for x, y in pairs if x is not None and y is not None]
            found[name] = [x for x, _ in known], [y for _, y in known]
        elif sample is not None and name in sample.probabilities:
            curve = reliability(sample.probabilities[name], sample.label)
            found[name] = list(curve.mean_probability), list(curve.observed_share)
    return {name: points for name, points in found.items() if points[0]}


@styled
def _reliability(run: Run, sample: Sample | None, curves: dict[str, Points]) -> Picture:
    figure, axes = canvas(legend_rows=2)
    axes.plot([0, 1], [0, 1], color=DIM, linewidth=1, linestyle="-.", label="perfectly reliable")
    looks = {
        "model": dict(color=BLUE, marker="o", label="raw"),
        "model_calibrated": dict(color=VERMILLION, marker="s", linestyle="--", label="calibrated"),
    }
    parts = ["Reliability on test."]
    for name, (x, y) in curves.items():
        axes.plot(x, y, markersize=4, **looks[name])  # type: ignore[arg-type]
        pairs = ", ".join(f"{a:.2f}: {b:.2f}" for a, b in zip(x, y, strict=True))
        parts.append(f"{looks[name]['label']}, mean forecast: share of rain: {pairs}.")
    if sample is not None:
        rain = float(sample.label.mean())
        axes.axhline(rain, color=DIM, linewidth=0.8, linestyle=":", label=f"base rate: {rain:.3f}")
        parts.append(f"Base rate {rain:.3f}.")
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_xlabel("P(rain) forecast", labelpad=1)
    axes.set_ylabel("share with rain", labelpad=2)
    legend(figure, axes)
    scores = [
        f"{str(looks[name]['label']).capitalize()}: ECE {ece:.3f}, Brier {brier:.3f}"
        for name in curves
        if (ece := run.score(name, "ece")) is not None
        and (brier := run.score(name, "brier")) is not None
    ]
    if bins := _bins(run, sample):
        scores.append(f"Every mark is a bin of {bins} windows: where marks are close, many fall")
    caption = "".join(f"{sentence}. " for sentence in scores).strip()
    return Picture("reliability", "Reliability", figure, " ".join(parts), caption)


def _bins(run: Run, sample: Sample | None) -> str:
    """How many windows a bin of the model's reliability holds, least to most."""
    told = get(run.results, "reliability", "model")
    counts: list[float | None] = []
    if isinstance(told, list):
        counts = [number(get(bin_, "num_windows")) for bin_ in told]
    elif sample is not None and "model" in sample.probabilities:
        curve = reliability(sample.probabilities["model"], sample.label)
        counts = [float(count) for count in curve.num_windows]
    known = [count for count in counts if count is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


@styled
def _ranking(run: Run, sample: Sample, kind: str) -> Picture:
    is_roc, rain = kind == "roc", float(sample.label.mean())
    lines = {n: look for n, look in _RANKED.items() if n in sample.probabilities}
    dots = {n: look for n, look in _MARKED.items() if n in sample.probabilities}
    threshold = run.thresholds.get("model")
    marked = threshold is not None and "model" in lines
    count = len(lines) + len(dots) + marked + 1
    figure, axes = canvas(legend_rows=rows_for(count), height=2.5)
    scores = []
    for name, look in lines.items():
        x, y, area = _curve_of(sample, name, is_roc)
        axes.plot(x, y, label=_NAMES[name], **look)
        scores.append(f"{_NAMES[name]} {area:.3f}")
    for name, look in dots.items():
        _dot(axes, sample, name, 0.5, is_roc, dict(look) | {"label": _NAMES[name]})
    if marked:
        look = dict(color=BLUE, marker="o", label="its threshold", zorder=6)
        _dot(axes, sample, "model", float(threshold or 0.0), is_roc, look)
    if is_roc:
        axes.plot([0, 1], [0, 1], color=DIM, linewidth=0.8, linestyle=":", label="no skill")
        axes.set_xlabel("false alarm rate", labelpad=1)
        axes.set_ylabel("recall", labelpad=2)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    else:
        label = f"no skill: {rain:.3f}"
        axes.axhline(rain, color=DIM, linewidth=0.8, linestyle=":", label=label)
        axes.set_xlabel("recall", labelpad=1)
        axes.set_ylabel("precision", labelpad=2)
        axes.set(xlim=(0, 1), ylim=(min(rain, 0.5) - 0.05, 1.02))
    legend(figure, axes)
    area_name = "ROC-AUC" if is_roc else "Average precision"
    caption = f"{area_name}: {', '.join(scores)}."
    title = "ROC" if is_roc else "Precision and recall"
    words = f"{title} of {sample.label.size:,} test windows. {caption}"
    return Picture(kind, title, figure, words, caption)


def _curve_of(sample: Sample, name: str, is_roc: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """x, y of at most ``_POINTS`` points, evenly along the curve, and the area of the whole one."""
    probability, label = sample.probabilities[name], sample.label
    if is_roc:
        x, y, _ = roc_curve(label, probability)
        area = float(np.trapezoid(y, x))
    else:
        y, x, _ = precision_recall_curve(label, probability)
        area = float(-np.sum(np.diff(x) * y[:-1]))
    if x.size > _POINTS:
        way = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], _POINTS)))
        kept = kept[kept < x.size]
        x, y = x[kept], y[kept]
    return x, y, area


def _dot(
    axes: Axes, sample: Sample, name: str, threshold: float, is_roc: bool, look: dict[str, Any]
) -> None:
    """A forecast at one threshold."""
    table = rain_table(sample.probabilities[name], sample.label, threshold)
    recall = table.hits / (table.hits + table.misses)
    if is_roc:
        x, y = table.false_alarms / (table.false_alarms + table.correct_negatives), recall
    else:
        said = table.hits + table.false_alarms
        if not said:
            return
        x, y = recall, table.hits / said
    axes.plot([x], [y], linestyle="", markersize=7, clip_on=False, **look)
