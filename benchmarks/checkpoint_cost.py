"""What a checkpoint of a recipe's model costs: seconds, size, and its share of training.

    python benchmarks/checkpoint_cost.py [transfer] [--folder DIR] [--repeats 3]

The real model, AdamW with both moments, one process on CPU, the run's own code for saving: gather,
write, sync, hash, read back, rename. Beside it the limit: the same bytes written once and synced.
Then what a copy of it to another folder (train.mirror) takes from the training: the seconds of
taking it, and matrix products alone and while the copy is made.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from accelerate import Accelerator

from benchmarks.machine import machine_line
from timerxl.config import load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.training.assembly import build_optimizer, build_schedule, model_config
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.mirror import Mirror, MirrorStore

NUM_VARIABLES = 27
ASKED = 0.03  # of training time at the default interval


def plain_write(folder: Path, size: int) -> float:
    """Seconds to write and sync so many bytes, and no more than that."""
    block, path = os.urandom(2**24), folder / "plain"
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def products(matrix: torch.Tensor) -> float:
    """Seconds of a fixed amount of matrix products on all threads."""
    started = time.perf_counter()
    for _ in range(20):
        matrix @ matrix
    return time.perf_counter() - started


def mirrored(run: Path, far: Path) -> str:
    """What one copy of the run's newest checkpoint takes, in a sentence."""
    said: list[str] = []
    mirror = Mirror(MirrorStore(str(far)), run, said.append, [])
    mirror.start()
    matrix = torch.randn(2048, 2048)
    alone = sorted(products(matrix) for _ in range(9))[4]
    started = time.perf_counter()
    mirror.take()
    taking, beside = time.perf_counter() - started, []
    while not said:  # until the first copy is there
        beside.append(products(matrix))
    slower = sum(beside) / len(beside) / alone - 1
    return (
        f"a copy to another folder: taken in {taking * 1e3:.1f} ms; {said[0]} Matrix products "
        f"on {torch.get_num_threads()} threads were {slower:.0%} slower while it was made."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="transfer")
    parser.add_argument("--folder", help="on the disk to be measured; default: a temporary one")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    config = load_recipe(given.recipe)
    num_static = 6 if config.data.static_features else 0
    model = TimerXLForClassification(model_config(config, NUM_VARIABLES, num_static, alpha=0.5))
    optimizer = build_optimizer(model, config.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the moments
    accelerator = Accelerator(cpu=True)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    print(machine_line())
    interval = (config.train.checkpoint_every_minutes or float("nan")) * 60
    with tempfile.TemporaryDirectory(dir=given.folder) as parent:
        schedule = build_schedule(optimizer, config.optim, 100)
        root, keep = Path(parent), config.train.keep_last
        checkpoints = Checkpoints(
            accelerator, prepared, prepared_optimizer, schedule, root, keep, 0, {}
        )
        seconds = []
        for repeat in range(1, given.repeats + 1):
            started = time.perf_counter()
            folder = checkpoints.save(repeat, {}, {})
            seconds.append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in folder.iterdir())
        limit = min(plain_write(root, size) for _ in range(given.repeats))
        with tempfile.TemporaryDirectory(dir=given.folder) as far:
            copy = mirrored(root, Path(far))
    share = max(seconds) / interval
    shown = ", ".join(f"{each:.2f}" for each in seconds)
    print(
        f"{given.recipe}: {model.num_parameters():,} parameters, {size / 2**30:.2f} GiB a "
        f"checkpoint; saved in {shown} s; the bytes alone, written and synced: {limit:.2f} s\n"
        f"one every {interval / 60:g} minutes (the default): at most {share:.2%} of the time "
        f"(asked: under {ASKED:.0%})\n{copy}"
    )
    return 0 if share < ASKED else 1


if __name__ == "__main__":
    sys.exit(main())
