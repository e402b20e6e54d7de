"""Files of a run folder: whole or not at all, and JSON that every reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from timerxl.files import json_ready, write_json, write_text
from timerxl.training.tracking import MetricsLog, write_status


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
