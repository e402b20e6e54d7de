"""The pictures of a run, drawn with matplotlib.

A picture is drawn once. For TensorBoard it stays as it is, dark on white; for the page its SVG goes
inline without background, and its colours become the page's variables, which differ at night. The
same numbers give the same text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from timerxl.evaluation.assess import MODELS, reliability_points
from timerxl.evaluation.references import SHORT
from timerxl.evaluation.scores import rain_table
from timerxl.report.run_record import (
    MARKERS,
    SHOWN,
    Content,
    Points,
    Run,
    ScoredSplit,
    VerdictEntry,
    get,
    number,
    read_run,
    reference_of,
    strata_of,
    verdicts_of,
)
from timerxl.training.monitors.rules import CERTAIN, INFO, SEVERITIES, SUSPECTED

# Okabe and Ito's colours by day; the page has lighter ones of the same hues for the night.
COLOURS = {
    "ink": "#1b1b1b",
    "dim": "#595959",
    "line": "#c9cdd1",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}
INK, DIM, LINE = COLOURS["ink"], COLOURS["dim"], COLOURS["line"]
BLUE, VERMILLION, GREEN = COLOURS["blue"], COLOURS["vermillion"], COLOURS["green"]
PURPLE, ORANGE, SKY = COLOURS["purple"], COLOURS["orange"], COLOURS["sky"]
SEVERITY_COLOURS = {CERTAIN: VERMILLION, SUSPECTED: ORANGE, INFO: BLUE}

# A figure as wide as a phone: drawn large, its letters would shrink there.
WIDTH, LEGEND_ROW = 4.4, 0.2  # inches
LEGEND_COLUMNS = 2
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # a "$" in a region's name is a "$"
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": DIM,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
}
# For functions that draw one picture; a generator would leave the style before it draws.
styled = matplotlib.rc_context(STYLE)


@dataclass(frozen=True)
class Picture:
    """``name`` is unique in a page; ``words`` says what can be seen to those who can't."""

    name: str
    title: str
    figure: Figure
    words: str
    caption: str = ""


def canvas(
    height: float = 2.3, entries: int = 0, left: float = 0.52, top: float = 0.08
) -> tuple[Figure, Axes]:
    """A figure with one plot, ``height`` inches high, and room for a legend of ``entries``."""
    bottom = 0.45 + LEGEND_ROW * -(-entries // LEGEND_COLUMNS)
    whole = height + top + bottom
    figure = Figure(figsize=(WIDTH, whole), facecolor="white")
    box = (left / WIDTH, bottom / whole, 1 - (left + 0.12) / WIDTH, height / whole)
    axes = figure.add_axes(box)
    axes.set_facecolor("none")
    return figure, axes


def legend(figure: Figure, axes: Axes) -> None:
    """The legend at the foot of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=LEGEND_COLUMNS,
            borderaxespad=0.1, handlelength=2.0, columnspacing=1.2, labelspacing=0.3,
        )  # fmt: skip


def mark_verdicts(axes: Axes, verdicts: list[VerdictEntry]) -> None:
    """A line for every place with verdicts, its sign on top, with their numbers in the page.

    Numbers that would touch stand together.
    """
    places: dict[float, list[VerdictEntry]] = {}
    for verdict in verdicts:
        if verdict.place is not None:
            places.setdefault(verdict.place, []).append(verdict)
    left, right = axes.get_xlim()
    top = axes.get_xaxis_transform()
    labels: list[tuple[float, list[VerdictEntry]]] = []
    for x, said in sorted(places.items()):
        if labels and x - labels[-1][0] < 0.045 * (right - left):
            labels[-1][1].extend(said)
        else:
            labels.append((x, list(said)))
        worst = max((v.severity for v in said), key=SEVERITIES.index)
        colour = SEVERITY_COLOURS[worst]
        axes.axvline(x, color=colour, linewidth=1, linestyle=(0, (1, 1.5)), zorder=1)
        head: dict[str, Any] = dict(transform=top, marker=MARKERS[worst], color=colour)
        axes.add_artist(Line2D([x], [1.0], markersize=6, clip_on=False, zorder=5, **head))
    for x, said in labels:
        numbers = ",".join(str(v.number) for v in sorted(said, key=lambda v: v.number))
        axes.annotate(
            numbers, (x, 1.0), xycoords=top, xytext=(0, 5), textcoords="offset points",
            ha="center", va="bottom", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def thin(x: list[float], y: list[float], most: int = 300) -> tuple[list[float], list[float], int]:
    """Means of k points in a row, so that ``most`` are left, and k: a long run stays a small file.

    The last group may be smaller.
    """
    k = max(1, -(-len(x) // most))
    cuts = [slice(i, i + k) for i in range(0, len(x), k)]
    return [fmean(x[cut]) for cut in cuts], [fmean(y[cut]) for cut in cuts], k


_TAG = re.compile(r"<[^>]*>")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_DROPPED = (
    re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.S),
    re.compile(r"<metadata>.*?</metadata>", re.S),
    re.compile(r"(?<=<g) id=\"[^\"]*\""),  # matplotlib's own names, the same in every figure
    re.compile(r"font-family: [^;\"]*;? ?"),  # the page's font
    re.compile(r" transform=\"rotate\(-0 [^\"]*\""),
    re.compile(r" clip-path=\"\""),
)
_EMPTY_GROUP = re.compile(r"<g>\s*</g>")


def svg_of(picture: Picture) -> str:
    """The picture as inline SVG: no background, the page's colours, font and width."""
    target = io.StringIO()
    # The salt goes into every id that is referred to: no two figures of a page may share one.
    with (
        matplotlib.rc_context(STYLE | {"svg.hashsalt": f"timerxl {picture.name}"}),
        warnings.catch_warnings(),
    ):
        # Only widths are measured with matplotlib's font; the reader's own draws the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        picture.figure.savefig(target, format="svg", facecolor="none", metadata={"Date": None})
    text = target.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    for pattern in _DROPPED:
        text = pattern.sub("", text)
    text = _TAG.sub(lambda tag: _shorter(tag[0]), text)
    text = _EMPTY_GROUP.sub("", text)
    width, height = (72 * inches for inches in picture.figure.get_size_inches())
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(picture.words, quote=True)}">{" ".join(text.split())}</svg>'
    )


def _shorter(tag: str) -> str:
    """A tag with one decimal a hundredth of a point, and colours by name."""
    tag = _LONG_NUMBER.sub(lambda found: f"{round(float(found[0]), 2):g}", tag)
    for name, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--{name})")
    return tag


# Key of an evaluation -> heading of its curve.
SCORES = {
    "loss": "Loss",
    "roc_auc": "ROC-AUC",
    "mcc": "MCC",
    "f1": "F1",
    "accuracy": "Accuracy",
    "predicted_rain_share": "Share of windows forecast as rain",
    "skill_persistence": "Skill against persistence",
    "skill_climatology": "Skill against climatology",
}
# Least height of a plot: closer up, what chance makes of an even curve would look like news.
SPANS = {"roc_auc": 0.1, "mcc": 0.1, "f1": 0.05, "accuracy": 0.05, "predicted_rain_share": 0.1}
_BEYOND = 3.0  # bands are drawn to this many times what is reached; farther, the curve is a dot
# What "the same answer for every window" gets, and what the line is called.
_NO_SKILL = {
    "roc_auc": (0.5, "no ranking: 0.5"),
    "mcc": (0.0, "no skill: 0"),
    "skill_persistence": (0.0, "as persistence: 0"),
    "skill_climatology": (0.0, "as climatology: 0"),
}


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


def curves(run: Run, verdicts: list[VerdictEntry]) -> Iterator[Picture]:
    """A picture for each of ``SCORES`` that the run has numbers of."""
    for key, title in SCORES.items():
        if any(run.points(kind, key)[0] for kind in ("train", "validation", "check")):
            yield _curve(run, key, title, verdicts)


@styled
def _curve(run: Run, key: str, title: str, verdicts: list[VerdictEntry]) -> Picture:
    reference = _reference(run, key)
    expected = [band for band in expectations_of(run) if band.key == key and run.axis == "epoch"]
    end = _end(run)
    bands = [band for band in expected if band.epoch <= _BEYOND * end]
    end = max([end, *(band.epoch for band in bands)])
    kinds = [kind for kind in _LOOKS if run.points(kind, key)[0] and (kind, key) not in _HIDDEN]
    entries = len(kinds) + (reference is not None) + bool(bands)
    figure, axes = canvas(entries=entries, top=0.26)
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
        at = run.place(event)
        value, error = (number(event.get(f"accuracy{end}")) for end in ("", "_std_error"))
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
    look: dict[str, Any] = dict(color=PURPLE, linewidth=5, alpha=0.55, marker="_", markersize=9)
    for index, band in enumerate(bands):
        label = "expected by the recipe" if index == 0 else None
        ends = [band.low, band.high]
        axes.plot([band.epoch] * 2, ends, solid_capstyle="butt", label=label, zorder=2, **look)


def _words(
    run: Run, key: str, title: str, reference: tuple[float, str] | None, bands: list[Expected]
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


# The model's ranking is that of its calibrated forecast: one line for both.
_RANKED: dict[str, dict[str, Any]] = {
    "model": dict(color=BLUE, linewidth=2.2, zorder=4),
    "day_of_year": dict(color=SKY, linestyle=":"),
    "climatology": dict(color=PURPLE, linestyle="-."),
    "logistic_regression": dict(color=GREEN, linestyle="--"),
    "gradient_boosting": dict(color=VERMILLION, linestyle=(0, (4, 1, 1, 1))),
    "bayes_observed": dict(color=INK, linestyle=(0, (1, 1)), linewidth=1.2),
    "bayes": dict(color=DIM, linestyle=(0, (1, 1)), linewidth=1.2),
}
_MARKED: dict[str, dict[str, Any]] = {
    "persistence": dict(color=ORANGE, marker="^"),
    "always_rain": dict(color=INK, marker="X"),
}
_NAMES = {
    "model": "Timer-XL",
    "bayes_observed": "best from what is observed",
    "bayes": "given the hidden state",
} | SHORT
_POINTS = 160  # of a curve in the page; the scores are those of all windows


def skill_pictures(run: Run) -> Iterator[Picture]:
    """Those pictures that the run has numbers for."""
    sample, threshold = run.sample(), run.thresholds.get("model")
    if sample is not None and "model" in sample.probabilities and threshold is not None:
        yield _confusion(sample, threshold)
    if bins := _reliability_bins(run, sample):
        yield _reliability(run, sample, bins)
    if sample is not None and 0 < sample.label.mean() < 1:
        yield _ranking(run, sample, "roc")
        yield _ranking(run, sample, "precision-recall")


@styled
def _confusion(sample: ScoredSplit, threshold: float) -> Picture:
    table = rain_table(sample.probabilities["model"], sample.label, threshold)
    cells = [[table.hits, table.misses], [table.false_alarms, table.correct_negatives]]
    names = [["hits", "misses"], ["false alarms", "correct negatives"]]
    figure, axes = canvas(height=2.0, left=1.0)
    axes.grid(False)
    for row, (counts, titles) in enumerate(zip(cells, names, strict=True)):
        whole = max(sum(counts), 1)
        for column, (count, title) in enumerate(zip(counts, titles, strict=True)):
            colour, alpha = BLUE if row == column else VERMILLION, 0.08 + 0.4 * count / whole
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=alpha, lw=0))
            lines = (-0.18, f"{count:,}", 13), (0.1, title, 9), (0.3, f"{count / whole:.1%}", 9)
            for y, words, size in lines:
                axes.text(column, row + y, words, ha="center", va="center", fontsize=size)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    axes.set_xticks([0, 1], ['said "rain"', 'said "dry"'])
    axes.set_yticks([0, 1], ["rain came", "stayed dry"])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    counted = zip([*names[0], *names[1]], [*cells[0], *cells[1]], strict=True)
    said = "; ".join(f"{title} {count:,}" for title, count in counted)
    at = f"P(rain) >= {threshold:.3f}"
    words = f"Confusion matrix of {table.total:,} test windows at {at}: {said}."
    caption = (
        f"“Rain” is said from P(rain) = {threshold:.3f} on, chosen on validation. Shares: rows."
    )
    return Picture("confusion", "Confusion matrix", figure, words, caption)


def _reliability_bins(run: Run, sample: ScoredSplit | None) -> dict[str, np.ndarray]:
    """Forecast -> [bins, 3] of mean P(rain), share of rain, windows (NaN where not told).

    Those of results.json, else computed.
    """
    found = {}
    for name in MODELS:
        told = get(run.results, "reliability", name)
        if not isinstance(told, list):
            known = sample is not None and name in sample.probabilities
            told = reliability_points(sample.probabilities[name], sample.label) if known else []  # type: ignore[union-attr]
        keys = ("forecast", "observed", "num_windows")
        bins = [[number(get(one, key)) for key in keys] for one in told]
        if kept := [one for one in bins if None not in one[:2]]:
            found[name] = np.array(kept, dtype=np.float64)
    return found


@styled
def _reliability(run: Run, sample: ScoredSplit | None, bins: dict[str, np.ndarray]) -> Picture:
    figure, axes = canvas(entries=3)
    axes.plot([0, 1], [0, 1], color=DIM, linewidth=1, linestyle="-.", label="perfectly reliable")
    looks: dict[str, dict[str, Any]] = {
        "model": dict(color=BLUE, marker="o", label="raw"),
        "model_calibrated": dict(color=VERMILLION, marker="s", linestyle="--", label="calibrated"),
    }
    parts = ["Reliability on test."]
    for name, of_name in bins.items():
        x, y = of_name[:, 0], of_name[:, 1]
        axes.plot(x, y, markersize=4, **looks[name])
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
        for name in bins
        if (ece := run.score(name, "ece")) is not None
        and (brier := run.score(name, "brier")) is not None
    ]
    counts = bins["model"][:, 2] if "model" in bins else np.array([np.nan])
    if not np.isnan(counts).all():
        low, high = np.nanmin(counts), np.nanmax(counts)
        many = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        scores.append(f"Every mark is a bin of {many} windows: where marks are close, many fall")
    caption = "".join(f"{sentence}. " for sentence in scores).strip()
    return Picture("reliability", "Reliability", figure, " ".join(parts), caption)


@styled
def _ranking(run: Run, sample: ScoredSplit, kind: str) -> Picture:
    is_roc, rain = kind == "roc", float(sample.label.mean())
    lines = {n: look for n, look in _RANKED.items() if n in sample.probabilities}
    dots = {n: look for n, look in _MARKED.items() if n in sample.probabilities}
    threshold = run.thresholds.get("model")
    marked = threshold is not None and "model" in lines
    count = len(lines) + len(dots) + marked + 1
    figure, axes = canvas(2.5, count)
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


def _curve_of(sample: ScoredSplit, name: str, is_roc: bool) -> tuple[np.ndarray, np.ndarray, float]:
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
    axes: Axes, sample: ScoredSplit, name: str, threshold: float, is_roc: bool, look: dict[str, Any]
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


def strata_pictures(run: Run, strata: dict[str, list[Content]]) -> Iterator[Picture]:
    """For each cut ROC-AUC and MCC: the model with its interval, the reference beside it."""
    for by, found in strata.items():
        if found:
            for key in SHOWN:
                yield _dots(run, by, found, key)


@styled
def _dots(run: Run, by: str, strata: list[Content], key: str) -> Picture:
    longest = max(len(stratum["name"][:24]) for stratum in strata)
    left = 0.25 + 0.08 * longest
    figure, axes = canvas(0.27 * len(strata) + 0.25, 2, left)
    parts, shown = [], any(key in stratum["intervals"] for stratum in strata)
    for row, stratum in enumerate(strata):
        value, interval = stratum["scores"][key], stratum["intervals"].get(key)
        if interval is not None:
            axes.plot(list(interval), [row, row], color=BLUE, linewidth=2.5, alpha=0.45)
        label = ("Timer-XL, 95 % interval" if shown else "Timer-XL") if row == 0 else None
        axes.plot([value], [row], "o", color=BLUE, markersize=5, label=label, zorder=3)
        said = f"{stratum['name']} " + (f"{value:.3f}" if value == value else "undefined")
        if interval is not None:
            said += f" ({interval[0]:.3f} to {interval[1]:.3f})"
        if key in stratum["references"]:
            other = SHORT.get(reference_of(run, key) or "", "reference")
            place, label = stratum["references"][key], other if row == 0 else None
            look: dict[str, Any] = dict(markerfacecolor="none", color=DIM, markersize=5)
            axes.plot([place], [row], "D", label=label, **look)
            said += f", {other} {place:.3f}"
        parts.append(said)
    axes.set_yticks(range(len(strata)), [stratum["name"][:24] for stratum in strata])
    axes.set_ylim(len(strata) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, axes)
    title = f"{SHOWN[key]} by {by}"
    words = f"{title} on test: {'; '.join(parts)}."
    return Picture(f"{by}-{key}", title, figure, words)


def figures(run_folder: Path) -> dict[str, Figure]:
    """Tag -> figure, dark on white, of what the run folder has numbers for by now.

    Raises InputError where it is no run folder.
    """
    run = read_run(run_folder)
    strata = {by: strata_of(run, by) for by in ("region", "season")}
    drawn: Iterator[Picture] = chain(
        curves(run, verdicts_of(run)), skill_pictures(run), strata_pictures(run, strata)
    )
    return {f"report/{picture.name}": picture.figure for picture in drawn}
