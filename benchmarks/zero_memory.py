"""Bytes of every rank under ZeRO-2, counted on the real tensors; run by plan_accuracy.py.

    accelerate launch --config_file accelerate_configs/zero2_cpu.yaml benchmarks/zero_memory.py \
        OUTPUT_DIR [key=value ...]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

from benchmarks.allocations import real_step, recorded_allocations
from timerxl.command_line import leave
from timerxl.config import load_recipe
from timerxl.planner.trace import StepSettings, run_step
from timerxl.training.assembly import model_config
from timerxl.training.processes.distributed import build_accelerator, fill_deepspeed, plan_launch

NUM_VARIABLES = 27


def stored_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind ``tensors``, each counted once."""
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


def main() -> int:
    folder, overrides = Path(sys.argv[1]), sys.argv[2:]
    config = load_recipe("small_original", [*overrides, "train.trackers=[]"])
    accelerator = build_accelerator(config, plan_launch(config), lambda sentence: None)
    fill_deepspeed(accelerator, config)
    settings = StepSettings(
        model=model_config(config, NUM_VARIABLES, 0, alpha=0.5),
        attention=config.model.attn_implementation,
        batch_size=config.train.batch_size,
        checkpointing=config.train.gradient_checkpointing,
        on_gpu=False,
    )
    torch.manual_seed(0)
    gradients = []
    with recorded_allocations() as found:
        step = real_step(settings, accelerator)
        zero = step.model.optimizer
        update = zero.step

        def counted_update(*arguments: Any, **options: Any) -> Any:
            parts = [group for group in zero.averaged_gradients.values() if group is not None]
            gradients.append(stored_bytes(tensor for group in parts for tensor in group))
            return update(*arguments, **options)

        zero.step = counted_update
        for number in (1, 2):
            run_step(step, settings.model, settings.batch_size, number)
    state = [v for s in zero.optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    measured = {
        "weights": stored_bytes(step.model.parameters()),
        "gradients": gradients[-1],
        "optimizer": stored_bytes(zero.single_partition_of_fp32_groups) + stored_bytes(state),
        "total": found.peak_bytes,
        "processes": accelerator.num_processes,
    }
    path = folder / f"rank{accelerator.process_index}.json"
    path.write_text(json.dumps(measured), encoding="utf-8")
    return 0


if __name__ == "__main__":
    leave(main())
