"""Draw docs/images/planning.svg: where the memory of transfer_long goes, one change at a time.

python benchmarks/plan_picture.py [OUTPUT.svg]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from timerxl.config import load_recipe
from timerxl.planner.devices import GIB
from timerxl.planner.memory import memory_ladder
from timerxl.planner.plan_text import CATEGORIES
from timerxl.planner.workload import read_workload

LABELS = (
    "as it failed: eager, fp32",
    "sdpa attention",
    "+ gradient checkpointing",
    "+ bf16 or fp16",
    "+ ZeRO-2 on 4 GPUs",
)
OBSERVED_GIB = 10e9 / GIB


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
    """Write an SVG or PNG: horizontal bars from top to bottom, GiB by category.

    ``mark`` is a vertical line, (GiB, what it is). The same input gives the same file.
    """
    figure = Figure(figsize=(8.5, 0.55 * len(bars) + 1.5), layout="constrained")
    axes = figure.subplots()
    lefts = np.zeros(len(bars))
    for name, colour in COLOURS.items():
        widths = np.array([parts.get(name, 0.0) for _, parts in bars])
        axes.barh(range(len(bars)), widths, left=lefts, color=colour, label=name, height=0.66)
        lefts = lefts + widths
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


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else REPO / "docs" / "images" / "planning.svg"
    ladder = memory_ladder(read_workload(load_recipe("transfer_long")))
    bars = [
        (label, {name: getattr(memory, name) / GIB for name in CATEGORIES})
        for label, (_, memory) in zip(LABELS, ladder, strict=True)
    ]
    draw_memory_bars(
        bars,
        path,
        title="transfer_long, batch 12: peak memory as planned",
        mark=(OBSERVED_GIB, "10 GB observed"),
    )
    for label, parts in bars:
        print(f"{label:28} {sum(parts.values()):5.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
