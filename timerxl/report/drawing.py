"""How the pictures of a run look, and how they get into a page.

A picture is drawn once with matplotlib. For TensorBoard it stays as it is, dark on white; for the
page its SVG goes inline without background, and its colours become the page's variables, which are
other ones at night. The same numbers give the same text.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from timerxl.report.outcome_sections import MARKERS, Said
from timerxl.training.monitors.verdicts import CERTAIN, INFO, SEVERITIES, SUSPECTED

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
    height: float = 2.3, legend_rows: int = 0, left: float = 0.52, top: float = 0.08
) -> tuple[Figure, Axes]:
    """A figure with one plot, ``height`` inches high, and room below for the legend."""
    bottom = 0.45 + LEGEND_ROW * legend_rows
    whole = height + top + bottom
    figure = Figure(figsize=(WIDTH, whole), facecolor="white")
    box = (left / WIDTH, bottom / whole, 1 - (left + 0.12) / WIDTH, height / whole)
    axes = figure.add_axes(box)
    axes.set_facecolor("none")
    return figure, axes


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """The legend at the foot of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0.0, 0.0),
            ncols=columns,
            borderaxespad=0.1,
            handlelength=2.0,
            columnspacing=1.2,
            labelspacing=0.3,
        )


def rows_for(count: int, columns: int = 2) -> int:
    """Lines of a legend with ``count`` entries."""
    return -(-count // columns)


def mark_verdicts(axes: Axes, verdicts: list[Said]) -> None:
    """A line for every place with verdicts, its sign on top, with their numbers in the page.

    Numbers that would touch stand together.
    """
    places: dict[float, list[Said]] = {}
    for verdict in verdicts:
        if verdict.place is not None:
            places.setdefault(verdict.place, []).append(verdict)
    left, right = axes.get_xlim()
    labels: list[tuple[float, list[Said]]] = []
    for x, said in sorted(places.items()):
        if labels and x - labels[-1][0] < 0.045 * (right - left):
            labels[-1][1].extend(said)
        else:
            labels.append((x, list(said)))
        worst = max((v.severity for v in said), key=SEVERITIES.index)
        colour = SEVERITY_COLOURS[worst]
        axes.axvline(x, color=colour, linewidth=1, linestyle=(0, (1, 1.5)), zorder=1)
        head = Line2D(
            [x],
            [1.0],
            transform=axes.get_xaxis_transform(),
            marker=MARKERS[worst],
            color=colour,
            markersize=6,
            clip_on=False,
            zorder=5,
        )
        axes.add_artist(head)
    for x, said in labels:
        numbers = ",".join(str(v.number) for v in sorted(said, key=lambda v: v.number))
        axes.annotate(
            numbers,
            (x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
            annotation_clip=False,
        )


def thin(x: list[float], y: list[float], most: int = 300) -> tuple[list[float], list[float], int]:
    """Means of k points in a row, so that ``most`` are left, and k: a long run stays a small file.

    The last group may be smaller.
    """
    k = max(1, -(-len(x) // most))
    if k == 1:
        return x, y, 1
    cuts = [slice(i, i + k) for i in range(0, len(x), k)]
    return ([_mean(x[cut]) for cut in cuts], [_mean(y[cut]) for cut in cuts], k)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


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
