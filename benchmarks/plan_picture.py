"""Draw docs/images/planning.svg: where the memory of transfer_long goes, one change at a time.

python benchmarks/plan_picture.py [OUTPUT.svg]
"""

from __future__ import annotations

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from timerxl.config import load_recipe
from timerxl.planner.devices import GIB
from timerxl.planner.memory import memory_ladder
from timerxl.planner.plan_text import CATEGORIES
from timerxl.planner.workload import read_workload
from timerxl.report.figures import draw_memory_bars

LABELS = (
    "as it failed: eager, fp32",
    "sdpa attention",
    "+ gradient checkpointing",
    "+ bf16 or fp16",
    "+ ZeRO-2 on 4 GPUs",
)
OBSERVED_GIB = 10e9 / GIB


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
