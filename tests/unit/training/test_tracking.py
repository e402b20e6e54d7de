"""Files of a run folder: whole or not at all, and JSON that every reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import TensorBoardTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from timerxl.config import InputError, load_recipe
from timerxl.files import json_ready, write_json, write_text
from timerxl.training.run_dir import write_status
from timerxl.training.tracking import MetricsLog, check_trackers, start_trackers


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_json_does_not_know_become_null() -> None:
    given = {
        "nan": float("nan"),
        "inf": [float("inf"), -np.inf],
        "numpy": (np.float32(0.5), np.int64(3), np.bool_(True), np.float64("nan")),
        "tensor": torch.tensor(2.5),
        1: {"deep": [np.nan, "NaN", None, True]},
    }
    assert json_ready(given) == {
        "nan": None,
        "inf": [None, None],
        "numpy": [0.5, 3, True, None],
        "tensor": 2.5,
        "1": {"deep": [None, "NaN", None, True]},
    }


def test_json_is_replaced_whole_or_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": np.float64(1), "b": float("nan")})
    before = path.read_text()
    assert json.loads(before, parse_constant=refuse_constant) == {"a": 1.0, "b": None}
    assert before.endswith("}\n")

    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    # The disk is full half-way: the old content stays and nothing else does.
    write = Path.write_text

    def full(self: Path, text: str, encoding: str | None = None) -> int:
        write(self, text[:3], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "something longer")
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    """The new text comes under the name by a rename: whoever has the old file open keeps it."""
    path = tmp_path / "status.json"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new and longer")
        assert reader.read() == "old"
    assert path.read_text() == "new and longer"


def test_status_makes_its_folder(tmp_path: Path) -> None:
    write_status(tmp_path / "a" / "b", 2, "no such file")
    path = tmp_path / "a" / "b" / "status.json"
    assert json.loads(path.read_text()) == {"code": 2, "reason": "no such file"}


def test_metrics_are_a_line_each_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, active=True)
    log.write("train", step=1, loss=np.float32(0.5), grad_norm=float("nan"))
    # Read while the log is open: a run that is killed must have left its lines.
    line = {"event": "train", "step": 1, "loss": 0.5, "grad_norm": None}
    assert json.loads(path.read_text(), parse_constant=refuse_constant) == line
    log.write("validation", text="two\nlines")
    log.close()
    lines = path.read_text().splitlines()
    assert [json.loads(text)["event"] for text in lines] == ["train", "validation"]

    again = MetricsLog(path, active=True)
    again.write("train", step=2)
    again.close()
    assert len(path.read_text().splitlines()) == 3


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", active=False)
    log.write("train", step=1)
    log.close()
    assert list(tmp_path.iterdir()) == []


def fresh_accelerator() -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


def test_tensorboard_holds_the_resolved_settings_once(tmp_path: Path) -> None:
    config = load_recipe("quickstart", [f"output_dir={tmp_path}", "optim.lr=0.25"])
    for purge_step in (None, 5):  # begun, then resumed after step 5
        accelerator = fresh_accelerator()
        start_trackers(accelerator, config, "a" * 32, purge_step)
        accelerator.log({"loss": 1.0}, 1)
        accelerator.end_training()
    folder = tmp_path / "tensorboard"
    assert [
        path for path in folder.iterdir() if path.is_dir()
    ] == []  # one run, no hparams of its own
    shown = EventAccumulator(str(folder)).Reload()
    (tag,) = shown.Tags()["tensors"]
    (event,) = shown.Tensors(tag)
    text = event.tensor_proto.string_val[0].decode()
    assert tag.startswith("timerxl settings")
    assert "| optim.lr | 0.25 |" in text
    assert '| train.trackers | ["tensorboard"] |' in text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["tensorbord"], "'tensorbord'; expected some of aim"),
        (["all"], "'all'; expected some of"),
        (["tensorboard", "aim"], r"aim, which is not installed here.*pip install aim"),
    ],
)
def test_a_tracker_that_is_not_there(names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_trackers(names)


def test_a_tracker_that_can_t_start_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No account, no network: whatever the tracker raises."""

    def refuse(self: TensorBoardTracker) -> None:
        raise ConnectionError("api.example can't be reached\nand more")

    monkeypatch.setattr(TensorBoardTracker, "start", refuse)
    accelerator = fresh_accelerator()
    config = load_recipe("quickstart", [f"output_dir={tmp_path}"])
    with pytest.raises(InputError, match=r"tensorboard can't be started: ConnectionError: api\.ex"):
        start_trackers(accelerator, config, "a" * 32, None)
    accelerator.end_training()


def test_wandb_and_mlflow_go_on_with_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    trackers = "train.trackers=[wandb,mlflow]"
    config = load_recipe("quickstart", [f"output_dir={tmp_path}/run", trackers])
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        accelerator = fresh_accelerator()
        start_trackers(accelerator, config, "b" * 32, None if step == 1 else 1)
        accelerator.log({"loss": 1.0 / step}, step)
        accelerator.end_training()
    (run,) = mlflow.search_runs(experiment_names=["timerxl"], output_format="list")
    assert run.data.params["optim.lr"] == str(config.optim.lr)
    assert run.data.metrics["loss"] == 0.5
    offline = [path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert len(offline) == 2
    assert {name.rpartition("-")[2] for name in offline} == {"b" * 32}
