"""One tiny finished run, a hub on this machine, and an environment to push to it from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from accelerate.state import AcceleratorState, GradientState

import timerxl.hub.push
from timerxl.config import load_recipe
from timerxl.hub.known_words import is_known_sentence
from timerxl.hub.package import Package, stage
from timerxl.hub.record import read_record
from timerxl.training import run as training
from timerxl.training.run_dir import write_status

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests"), str(Path(__file__).parent)]  # hub_server, spoiled_runs
from hub_server import Hub, running_hub  # noqa: E402
from settings import ONE_LABEL  # noqa: E402

TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-01-01 data.train_fraction=0.4 data.validation_fraction=0.3 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=16 "
    "model.num_hidden_layers=1 train.max_steps=4 train.log_every_steps=1 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=20 eval.every_steps=0"
).split()
# Instead of the seconds that the library waits between two tries.
NO_WAITING = "import time\nreal = time.sleep\ntime.sleep = lambda s: real(min(s, 0.01))\n"


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Settings of a run that takes a moment."""
    return TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run; not to be changed."""
    folder = tmp_path_factory.mktemp("hub") / "rainy-run"
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0))))
        training.train(load_recipe("quickstart", [*TINY, f"output_dir={folder}"]))
    write_status(folder, 0, "finished")
    (folder / "report").mkdir()
    page = f"<html><body><h1>rainy-run</h1><p>in {folder}</p></body></html>"
    (folder / "report" / "index.html").write_text(page)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "rainy-run"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and the environment in which the next process finds it and does not wait.

    Uploads are forks; see ``cold_upload``.
    """
    monkeypatch.setattr(timerxl.hub.push, "subprocess", processes.UPLOADS_BY_FORKS)
    is_known_sentence("the loss", frozenset())  # its words are read once for all uploads
    fast = tmp_path / "fast"
    fast.mkdir()
    (fast / "sitecustomize.py").write_text(NO_WAITING)
    with running_hub() as found:
        for name, value in (found.environment | {"PYTHONPATH": str(fast)}).items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def cold_upload(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are Pythons started anew, as a user's are."""
    monkeypatch.setattr(timerxl.hub.push, "subprocess", subprocess)


@pytest.fixture(scope="session")
def package(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package") / "rainy"
    return stage(read_record(finished), folder, "ana/rain")
