"""Stacked bars of memory by category, a bar per setting."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by most colour-blind readers, darkest where it matters.
COLOURS = {
    "weights": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer": "#009E73",
    "activations": "#D55E00",
    "temporary": "#E69F00",
    "buckets": "#CC79A7",
    "context": "#999999",
}


def draw_memory_bars(
    bars: list[tuple[str, dict[str, float]]],
    path: Path,
    *,
    title: str,
    mark: tuple[float, str] | None = None,
) -> None:
    """Write an SVG or PNG: horizontal bars from top to bottom, GiB by category of ``COLOURS``.

    ``mark`` is a vertical line, (GiB, what it is). The same input gives the same file.
    """
    figure = Figure(figsize=(8.5, 0.55 * len(bars) + 1.5), layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        widths = [parts.get(name, 0.0) for _, parts in bars]
        lefts = [_before(parts, name) for _, parts in bars]
        axes.barh(range(len(bars)), widths, left=lefts, color=colour, label=name, height=0.66)
    for index, (_, parts) in enumerate(bars):
        total = sum(parts.values())
        axes.text(total + 0.08, index, f"{total:.1f}", va="center", fontsize=10)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    longest = max(sum(parts.values()) for _, parts in bars)
    axes.set_xlim(0, 1.12 * max(longest, mark[0] if mark else 0.0))
    axes.set_xlabel("peak GiB on one GPU")
    axes.set_title(title, loc="left", fontsize=11)
    if mark is not None:
        axes.axvline(mark[0], color="black", linewidth=1, linestyle="--")
        axes.text(mark[0] - 0.05, len(bars) - 0.6, mark[1], ha="right", va="bottom", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=2, fontsize=9, frameon=False, loc="center", bbox_to_anchor=(0.6, 0.42))
    with matplotlib.rc_context({"svg.hashsalt": "timerxl", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _before(parts: dict[str, float], name: str) -> float:
    names = list(COLOURS)
    return sum(parts.get(earlier, 0.0) for earlier in names[: names.index(name)])
