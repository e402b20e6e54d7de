"""Do the monitors stop what is bad, in time, and leave alone what is healthy?

    python benchmarks/monitors.py collapse
    python benchmarks/monitors.py healthy [--runs 20] [--first-seed 100]
    python benchmarks/monitors.py warmup [--runs 2] [--first-seed 100]

collapse: three runs set up to go wrong (bad_run.py), on one and on two processes: verdict, step,
seconds, exit code. healthy: runs like quickstart on SYNTHETIC series of their own seeds, three
epochs, a training window every 60 h, every monitor set to stop: how many are stopped, and what is
said. warmup: healthy ones that say "rain" to everything for some hundred steps and then learn
(slow_start.py), every monitor set to stop but slow, which judges the machine: the last look at one
class, and the ROC-AUC on test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.bad_run import KINDS
from benchmarks.machine import machine_line
from timerxl.config_checks import MONITOR_NAMES
from timerxl.training.monitors.history import scores_of

QUICK = ["eval.fitted_baselines=false", "eval.num_resamples=0"]


def launched(script: list[str], ranks: int) -> tuple[int, str, float]:
    """(exit code, output, seconds) of a script on one or several CPU processes."""
    python = [sys.executable]
    environment = dict(os.environ)
    if ranks > 1:
        torchrun = str(Path(sys.executable).with_name("torchrun"))
        python = [torchrun, "--standalone", "--nproc_per_node", str(ranks)]
        environment["ACCELERATE_USE_CPU"] = "true"
    started = time.perf_counter()
    done = subprocess.run(
        [*python, *script], cwd=REPO, env=environment, capture_output=True, text=True, timeout=1200
    )
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - started


def read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


def collapse(overrides: list[str]) -> bool:
    """Every kind of bad run on one and two processes; True where all were stopped with code 3."""
    good = True
    for kind in KINDS:
        for ranks in (1, 2):
            with tempfile.TemporaryDirectory() as parent:
                folder = Path(parent) / "run"
                script = ["benchmarks/bad_run.py", kind, f"output_dir={folder}", *overrides]
                code, output, seconds = launched(script, ranks)
                status, verdict = read(folder, "status.json"), {}
                if (folder / "verdict.json").is_file():
                    verdict = read(folder, "verdict.json")["stopped_by"] or {}
                # Others may stand beside it; the one of the stop is named.
                checkpoint = status["reason"].rpartition("Checkpoint: ")[2].rstrip(".")
                saved = (folder / checkpoint / "model.safetensors").is_file()
            ok = status["code"] == 3 and saved and bool(verdict)
            good &= ok and (code == 3 or ranks > 1)
            print(
                f"  {kind:9} on {ranks}: {verdict.get('name', 'not stopped')} at step "
                f"{verdict.get('step')}, {seconds:.0f} s with the start, exit code {code}, "
                f"status.json {status['code']}, {'a' if saved else 'no'} checkpoint",
                flush=True,
            )
            if not ok:
                print(output[-1500:])
    return good


QUICK_RUN = ["launch/train.py", "--config", "quickstart"]
# The series' times, 06 and 18 UTC, fall on a stride of 30 h every 60 h.
THREE_EPOCHS = ["train.epochs=3", "data.train_stride_hours=30"]
SLOW_START = ["benchmarks/slow_start.py"]


def healthy(command: list[str], spared: list[str], runs: int, first_seed: int) -> int:
    """Train ``runs`` healthy models with every monitor but the ``spared`` set to stop.

    Returns how many were stopped.
    """
    stops, warned = 0, Counter[str]()
    for seed in range(first_seed, first_seed + runs):
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "run"
            script = [*command, f"output_dir={folder}", *QUICK]
            script += [f"seed={seed}", f"data.synthetic.seed={seed}"]
            script += ["data.holdout_fraction=0.1", "eval.max_windows=1500"]
            script += ["train.log_every_steps=1", "eval.every_steps=30"]
            script += [f"monitors.{name}=stop" for name in MONITOR_NAMES if name not in spared]
            code, output, seconds = launched(script, 1)
            if code not in (0, 3):
                raise RuntimeError(f"a healthy run failed with exit code {code}:\n{output[-2000:]}")
            verdicts = read(folder, "verdict.json")
            said = [f"{v['name']} ({v['severity']})" for v in verdicts["verdicts"]]
            stopped = verdicts["stopped_by"] is not None
            score = one_class(folder)
            if not stopped:
                score += f"ROC-AUC {read(folder, 'results.json')['test']['roc_auc']:.3f}"
        stops += stopped
        warned.update(said)
        print(
            f"  seed {seed}: {'STOPPED' if stopped else 'finished'} (exit {code}, {seconds:.0f} s) "
            f"{score} {', '.join(said) or 'nothing said'}",
            flush=True,
        )
    print(f"  {stops} of {runs} healthy runs stopped; said: {dict(warned) or 'nothing'}")
    return stops


def one_class(folder: Path) -> str:
    """Until which step, of how many of grace, every look from the first on saw one class alone."""
    grace, last, looks = 0, 0, 0
    with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            if event["event"] == "start":
                grace = event["grace_steps"]
            if event["event"] not in ("check", "validation"):
                continue
            if not scores_of(event).says_one_class:
                break
            last, looks = event["step"], looks + 1
    return f"one class in {looks} looks, to step {last} ({grace} of grace); " if looks else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=["collapse", "healthy", "warmup"])
    parser.add_argument("--runs", type=int, help="healthy: 20, warmup: 2")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    given = parser.parse_args()
    print(machine_line())
    if given.what == "collapse":
        print("Runs set up to go wrong (SYNTHETIC data):")
        return 0 if collapse([*QUICK, *given.overrides]) else 1
    command, spared, runs, which = [*QUICK_RUN, *THREE_EPOCHS], list[str](), 20, "every monitor"
    if given.what == "warmup":
        command, spared, runs = SLOW_START, ["slow"], 2
        which = "a slow start, every monitor but slow"
    print(f"Healthy runs on SYNTHETIC data, {which} set to stop:")
    command = [*command, *given.overrides]
    return 1 if healthy(command, spared, given.runs or runs, given.first_seed) else 0


if __name__ == "__main__":
    sys.exit(main())
