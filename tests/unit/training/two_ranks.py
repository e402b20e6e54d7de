"""Run by every rank of a real launch; test_evaluation.py reads what each of them found.

Arguments: a run's folder, a folder that exists, and a path where a run can't be written.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timerxl.command_line import leave
from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLForClassification
from timerxl.training import run_dir as run_folder
from timerxl.training.evaluator import forecast
from timerxl.training.processes.distributed import agree, build_accelerator, plan_launch
from timerxl.training.resume import Resumption
from timerxl.training.run_dir import RunFolder
from timerxl.training.tracking import Log


def main() -> None:
    run_folder.SHOWN_SECONDS = 1.0
    run, found_dir, taken = map(Path, sys.argv[1:])
    config = load_recipe(str(run / "config.yaml"))
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    accelerator = build_accelerator(config, plan_launch(config), Log(active=False))
    model = TimerXLForClassification.from_pretrained(run / "model")
    scored: list[int] = []

    def count(_: torch.nn.Module, __: Any, inputs: dict[str, Any]) -> None:
        scored.append(len(inputs["past_values"]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    found: dict[str, Any] = {}
    for size in (1, 13, 50):
        scored.clear()
        positions = np.arange(size) * 7
        forecasts = forecast(accelerator, model, windows, "validation", positions, batch_size=4)
        found[str(size)] = {"logits": forecasts.logits.tolist(), "scored": sum(scored)}
    found["agreed"] = agree(accelerator, f"said by rank {accelerator.process_index}")
    try:
        elsewhere = replace(config, output_dir=str(taken))
        RunFolder(accelerator, elsewhere, Log(active=False), [], {}).open(Resumption(elsewhere))
    except InputError as error:
        found["error"] = str(error)
    rank = accelerator.process_index
    try:
        own = found_dir / f"disk_of_rank_{rank}"
        if rank:  # of an earlier attempt
            own.mkdir()
            (own / "run.lock").touch()
        elsewhere = replace(config, output_dir=str(own))
        RunFolder(accelerator, elsewhere, Log(active=False), [], {}).open(Resumption(elsewhere))
    except InputError as error:
        found["not shared"] = str(error)
    (found_dir / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    leave(0)
