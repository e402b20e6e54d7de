"""A training run that notes every sample it takes and can be made to die, for chaos.py and tests.

    python benchmarks/chaos_run.py [key=value ...]            (also under a launcher)

CHAOS_LOG=FILE gets a line {"step", "samples", "loss", "pid", "time"} after every step of the main
process. CHAOS_KILL=step:N or file:N sends this process SIGKILL before its Nth step, or before it
syncs the Nth file of its checkpoints; CHAOS_KILL_RANK (0) says which rank; CHAOS_ONCE=FILE makes
it die only where FILE is not there yet, and leaves it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]

from timerxl.command_line import leave, quiet_libraries, run_command
from timerxl.config import load_recipe


def note(entry: dict[str, Any]) -> None:
    """A line for the record, on the disk before anything else happens."""
    if path := os.environ.get("CHAOS_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry | {"pid": os.getpid(), "time": time.time()}) + "\n")


def die_at(kind: str, count: int) -> None:
    """SIGKILL to this process where CHAOS_KILL says so."""
    wanted = os.environ.get("CHAOS_KILL", "")
    rank = os.environ.get("RANK", "0")
    if wanted != f"{kind}:{count}" or rank != os.environ.get("CHAOS_KILL_RANK", "0"):
        return
    if once := os.environ.get("CHAOS_ONCE"):
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return
    note({"killed": f"{kind}:{count}"})
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    quiet_libraries()
    from timerxl.cli import train
    from timerxl.planner import plan
    from timerxl.report import page
    from timerxl.training.checkpoint import storage as checkpoint_files
    from timerxl.training.trainer import TrainingLoop

    take_step, sync, files = TrainingLoop._take_step, checkpoint_files.sync, [0]

    def noted(self: TrainingLoop, group: Any, batches: Any, normalizer: float, samples: Any) -> Any:
        step = self.progress.step + 1
        die_at("step", step)
        found = take_step(self, group, batches, normalizer, samples)
        if self.accelerator.is_main_process:
            note({"step": step, "samples": samples.tolist(), "loss": found[0]})
        return found

    def synced(path: Path) -> None:
        files[0] += 1
        die_at("file", files[0])
        sync(path)

    note({"started": os.environ.get("RANK", "0")})
    TrainingLoop._take_step = noted  # type: ignore[method-assign]
    checkpoint_files.sync = synced
    # Neither comes to a checkpoint, and they take longer than the steps.
    plan.predict_run = None  # type: ignore[assignment]
    page.write_report = lambda folder: folder  # type: ignore[assignment]
    return run_command(lambda: train.run(load_recipe("quickstart", sys.argv[1:])))


if __name__ == "__main__":
    code = main()
    note({"exit": code})
    leave(code)
