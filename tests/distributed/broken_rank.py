"""Run by every rank of a real launch: what ACTION names happens to one rank before its third step.

    torchrun --nproc_per_node 2 broken_rank.py ACTION:RANK[:final] [key=value ...]

raise: an error that nothing foresees; freeze: SIGSTOP, as a machine that hangs; abort: as NCCL's
watchdog ends a process; with "final" it happens while the best model is scored for the last time.
overflow: every gradient is infinite, in fp16 although there is no GPU.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from timerxl.cli import train
from timerxl.command_line import leave
from timerxl.training import final_evaluation as ending
from timerxl.training import run
from timerxl.training.precision import SettingChoice
from timerxl.training.processes import distributed as launcher
from timerxl.training.trainer import TrainingLoop

ACTION, RANK, *FINAL = sys.argv.pop(1).split(":")


def break_here() -> None:
    if os.environ.get("RANK", "0") != RANK:
        return
    if ACTION == "raise":
        raise LookupError("broken on purpose")
    if ACTION == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    os.abort()


def breaking(function: Any, is_time: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        if is_time(*arguments):
            break_here()
        return function(*arguments, **named)

    return call


def overflowing(build: Any) -> Any:
    def call(*arguments: Any) -> Any:
        model, backbone = build(*arguments)
        model.classifier_out.weight.register_hook(lambda gradient: gradient * float("inf"))
        return model, backbone

    return call


if __name__ == "__main__":
    if ACTION == "overflow":
        from deepspeed.accelerator import get_accelerator

        # DeepSpeed's fp16 engine runs on a CPU, though it says no; slow, and right.
        get_accelerator().is_fp16_supported = lambda: True
        launcher.choose_precision = lambda *_: SettingChoice("fp16", "forced")
        run.build_model = overflowing(run.build_model)
    elif FINAL:
        ending.forecast = breaking(ending.forecast, lambda *_: True)
    else:
        TrainingLoop._take_step = breaking(  # type: ignore[method-assign]
            TrainingLoop._take_step, lambda trainer, *_: trainer.progress.step == 2
        )
    leave(train.main())
