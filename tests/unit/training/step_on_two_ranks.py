"""Run by every rank of a real launch; test_trainer.py reads what each of them found.

Arguments: the folder for what is found, the micro-batches that shall hold a NaN (as 0,2; one
where DeepSpeed counts them, after a failed step it can't go on), and overrides.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from timerxl.command_line import leave
from timerxl.config import load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.planner.trace import zero_windows
from timerxl.training.assembly import build_optimizer, model_config
from timerxl.training.dataloader import MicroBatch
from timerxl.training.processes.distributed import build_accelerator, fill_deepspeed, plan_launch
from timerxl.training.trainer import NumberNotFinite, TrainingStep

BATCH = 2


def counted(calls: list[str], owner: Any, name: str) -> None:
    """Note every call of a function."""
    whole: Callable[..., Any] = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return whole(*arguments, **named)

    setattr(owner, name, call)


def main() -> None:
    folder, overrides = Path(sys.argv[1]), sys.argv[3:]
    bad_ones = [int(index) for index in sys.argv[2].split(",")]
    config = load_recipe("quickstart", overrides)
    accelerator = build_accelerator(config, plan_launch(config), lambda line: None)
    fill_deepspeed(accelerator, config)
    torch.manual_seed(0)
    settings = model_config(config, 3, 0, alpha=0.5)
    model = TimerXLForClassification(settings)
    prepared, optimizer = accelerator.prepare(model, build_optimizer(model, config.optim))
    micro_batches = config.train.accumulation_steps
    rank = accelerator.process_index
    step = TrainingStep(
        accelerator=accelerator,
        model=prepared,
        optimizer=optimizer,
        schedule=SimpleNamespace(step=lambda: None),
        accumulation_steps=micro_batches,
        max_grad_norm=1.0,
    )

    def take(number: int, bad: int | None = None) -> tuple[float, float | None]:
        """A step on seeded windows; rank 1's micro-batch ``bad`` holds a NaN."""
        generator = torch.Generator().manual_seed(10 * number + rank)
        batches = []
        for index in range(micro_batches):
            batch = zero_windows(settings, BATCH)
            batch["past_values"].normal_(generator=generator)
            if rank == 1 and index == bad:
                batch["past_values"][0, 3, 1] = float("nan")
            batches.append(batch)
        group = [MicroBatch(list(range(BATCH)), BATCH)] * micro_batches
        total = float(BATCH * micro_batches * accelerator.num_processes)
        return step(number, group, iter(batches), total)

    def weights() -> torch.Tensor:
        return torch.cat([p.detach().flatten().float().clone() for p in model.parameters()])

    found: dict[str, Any] = {"steps": [], "asked": []}
    calls: list[str] = []
    for name in ("all_gather", "all_reduce", "broadcast", "all_gather_into_tensor"):
        counted(calls, torch.distributed, name)
    backward: list[str] = []
    counted(backward, accelerator, "backward")
    for number in (1, 2):
        # A checkpoint wished for by rank 0 in step 1, a SIGTERM to rank 1 in step 2.
        asks = (number == 1 and rank == 0, 15 if number == 2 and rank == 1 else 0)
        step.local_requests = lambda asks=asks: asks
        calls.clear()
        found["steps"].append(take(number))
        found["asked"].append(list(step.requests))
    found["calls"] = list(calls)
    for bad in bad_ones:
        before = weights()
        backward.clear()
        try:
            take(3, bad)
        except NumberNotFinite as error:
            found[f"bad {bad}"] = {
                "loss": str(error.loss),
                "grad_norm": error.grad_norm,
                "same weights": torch.equal(weights(), before),
                "backward passes": len(backward),
                "finite": bool(before.isfinite().all()),
            }
        optimizer.zero_grad()
        accelerator.step = 0
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave(0)
