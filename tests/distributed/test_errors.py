"""An error, a silence or a sudden death of one rank: all end within seconds, and status.json says
so. Real processes; gloo stands in for NCCL, and a frozen peer for one that NCCL waits for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import ACCELERATE, TORCHRUN, Forked
from settings import ONE_LABEL

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "model.num_hidden_layers=1 train.batch_size=64 train.max_steps=8 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0 train.log_every_steps=1"
).split()
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def status(folder: Path) -> dict[str, Any]:
    path = folder / "status.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def wait_for(what: Any, seconds: float) -> float:
    """Seconds until ``what`` is true; fails after ``seconds``."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds, "not within the time"
        time.sleep(0.05)
    return time.monotonic() - started


def said(folder: Path) -> str:
    return folder.with_suffix(".out").read_text()


@contextmanager
def started(action: str, ranks: int, folder: Path) -> Iterator[Forked]:
    """The launch, of which no process is left over."""
    launcher = [*TORCHRUN, str(ranks)] if ranks > 1 else [sys.executable]
    recipe = ["--config", "quickstart", *TINY]
    process = Forked(
        [*launcher, HERE / "broken_rank.py", action, *recipe, f"output_dir={folder}"],
        env=os.environ | ENVIRONMENT,
        stdout=folder.with_suffix(".out"),
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill_all()


def has_two_steps(folder: Path) -> bool:
    path = folder / "metrics.jsonl"
    return path.exists() and path.read_text().count('"event": "train"') == 2


def test_an_error_on_one_rank_ends_all_with_its_own_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started("raise:1", 2, folder) as launch:
        wait_for(lambda: has_two_steps(folder), 120)
        began = time.monotonic()
        assert launch.wait(60) == 1
        assert time.monotonic() - began < 15
    assert "LookupError: broken on purpose" in said(folder)
    assert said(folder).count("Traceback") >= 1
    assert "break_here" in said(folder)  # its own lines, not the launcher's alone
    found = status(folder)
    assert found["code"] in (1, 143)
    assert found["reason"] != "running"


def test_an_error_on_the_main_rank_is_in_status_json(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started("raise:0", 2, folder) as launch:
        assert launch.wait(150) == 1
    assert status(folder) == {"code": 1, "reason": "failed: LookupError: broken on purpose"}
    assert "LookupError: broken on purpose" in said(folder)


def test_a_rank_that_waits_for_a_frozen_one_hears_sigterm(tmp_path: Path) -> None:
    """Blocked inside the library, it never comes back to Python: a thread hears the signal."""
    folder = tmp_path / "run"
    with started("freeze:1", 2, folder) as launch:
        wait_for(lambda: has_two_steps(folder), 120)
        time.sleep(1)
        main = int(json.loads((folder / "run.lock").read_text())["pid"])
        os.kill(main, signal.SIGTERM)
        waited = wait_for(lambda: status(folder).get("reason") != "running", 60)
        assert waited < 25
        assert launch.poll() is None or launch.returncode == 1
    found = status(folder)
    assert found["code"] == 143
    assert "SIGTERM came and no step ended" in found["reason"]
    assert "The same command goes on" in found["reason"]


@pytest.mark.parametrize(
    ("action", "how"),
    [("abort:0", None), ("freeze:0", signal.SIGKILL), ("freeze:0:final", signal.SIGKILL)],
)
def test_a_death_without_a_word_is_written_down(
    action: str, how: signal.Signals | None, tmp_path: Path
) -> None:
    """As NCCL's watchdog or the kernel (out of memory) end a process."""
    folder = tmp_path / "run"
    with started(action, 1, folder) as launch:
        if how is not None:
            stopped = Path(f"/proc/{launch.pid}/status")
            wait_for(lambda: "(stopped)" in stopped.read_text(), 150)
            assert status(folder)["reason"] == "running"
            os.kill(launch.pid, how)
        launch.wait(150)
        wait_for(lambda: status(folder).get("reason") != "running", 10)
    assert launch.returncode == -(how or signal.SIGABRT)
    found = status(folder)
    assert found["code"] == 1
    assert found["reason"].startswith("the process ended without a word: killed")
    assert "The same command goes on from the newest checkpoint." in found["reason"]
    assert [path.name for path in folder.glob(".status*")] == []


@pytest.mark.parametrize(
    ("action", "code", "words"),
    [
        ("stop", 3, "fp16 has left out 15 updates in a row up to step 15"),
        ("warn", 1, "fp16 has left out every update for 18 steps up to step 18"),
    ],
)
def test_endless_skips_of_fp16_end_in_our_words(
    action: str, code: int, words: str, tmp_path: Path
) -> None:
    """DeepSpeed's engine, with every gradient infinite; logged every 100 steps only."""
    folder = tmp_path / "run"
    deepspeed = (
        "--use_deepspeed --num_processes 1 --deepspeed_config_file ds_configs/zero2_fp16.json"
    )
    script = [str(HERE / "broken_rank.py"), "overflow:0", "--config", "quickstart", *TINY]
    script += ["train.log_every_steps=100", "train.max_steps=30", "train.batch_size=16"]
    script += [f"monitors.nonfinite={action}", f"output_dir={folder}"]
    done = processes.run([*ACCELERATE, *deepspeed.split(), *script])
    assert done.returncode == 1  # the launcher's
    found = status(folder)
    assert found["code"] == code, done.stderr[-3000:]
    assert words in found["reason"]
