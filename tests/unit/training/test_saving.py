"""The run's folder is free before anything long begins, and the best model is saved whole."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from timerxl.config import InputError
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.training.checkpoint.model_folder import model_problem, save_model
from timerxl.training.checkpoint.storage import StorageFailed
from timerxl.training.run_dir import (
    check_output_dir,
    check_storage,
    note_bad_input,
    prepare_output_dir,
)

# Root passes checks of permissions; this file system takes no new file from anybody.
READ_ONLY = Path("/proc")
needs_proc = pytest.mark.skipif(not (READ_ONLY / "self").exists(), reason="no /proc here")


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def earlier_run(folder: Path, mark: str = "1") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed: {mark}\n")
    (folder / "status.json").write_text('{"code": 0}')
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text(mark)
    return folder


@pytest.mark.parametrize("name", ["run", "a/b/run"])
def test_a_new_folder_is_made_late(tmp_path: Path, name: str) -> None:
    check_output_dir(tmp_path / name)
    assert tree(tmp_path) == {}
    assert prepare_output_dir(tmp_path / name) is None
    assert (tmp_path / name).is_dir()
    assert tree(tmp_path / name) == {}


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output_dir(Path("runs/first"))
    assert prepare_output_dir(Path("runs/first")) is None
    assert tree(tmp_path) == {"runs": None, "runs/first": None}


def test_a_folder_with_a_status_alone_is_used_again(tmp_path: Path) -> None:
    note_bad_input(tmp_path / "run", "data.path x is no file")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status == {"code": 2, "reason": "data.path x is no file"}
    assert prepare_output_dir(tmp_path / "run") is None


def test_earlier_runs_are_moved_aside_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for mark in ("1", "2"):
        earlier_run(folder, mark)
        before = tree(tmp_path)
        check_output_dir(folder)
        assert tree(tmp_path) == before
        moved = prepare_output_dir(folder)
        assert moved == f"{folder} held an earlier run; it is now {folder}.{mark}."
        assert tree(folder) == {}
        folder.rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.1", "run.2"]
    for mark in ("1", "2"):
        assert tree(tmp_path / f"run.{mark}") == {
            "config.yaml": f"seed: {mark}\n",
            "model": None,
            "model/weights": mark,
            "status.json": '{"code": 0}',
        }


def refused(folder: Path, match: str) -> None:
    """Both the early check and the late preparation refuse, and a refusal leaves no trace."""
    for refuse in (check_output_dir, prepare_output_dir):
        with pytest.raises(InputError, match=match):
            refuse(folder)
    note_bad_input(folder, "reason")


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    refused(tmp_path, "holds files that are not a run's; choose an empty folder")
    assert tree(tmp_path) == {"thesis.docx": "mine"}


@pytest.mark.parametrize("name", ["taken", "taken/run", "taken/a/run"])
def test_a_file_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("a file")
    refused(tmp_path / name, r"taken is no folder")
    assert tree(tmp_path) == {"taken": "a file"}


def test_a_broken_link_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused(tmp_path / "link", "link is no folder")
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "can't be written to: .*too long")
    assert tree(tmp_path) == {}


@needs_proc
@pytest.mark.parametrize("name", ["timerxl-run", "timerxl/run"])
def test_a_read_only_place_is_refused(name: str) -> None:
    refused(READ_ONLY / name, "can't be written to")


def test_bad_input_leaves_an_earlier_run_as_it_is(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "run")
    before = tree(tmp_path)
    note_bad_input(folder, "the input was bad")
    assert tree(tmp_path) == before


@pytest.fixture
def model() -> TimerXLForClassification:
    torch.manual_seed(0)
    return TimerXLForClassification(
        TimerXLConfig(
            patch_length=4,
            context_length=12,
            num_variables=3,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            pooling="last",
            variable_embedding=True,
        )
    ).eval()


def test_the_saved_folder_gives_the_same_logits(
    tmp_path: Path, model: TimerXLForClassification
) -> None:
    accelerator, folder = Accelerator(cpu=True), tmp_path / "model"
    x = torch.randn(5, 12, 3)
    with torch.no_grad():
        save_model(accelerator, model, folder, {"feature_names": ["a"], "bad": float("nan")})
        first = model(x).logits
        again = TimerXLForClassification.from_pretrained(folder).eval()
        torch.testing.assert_close(again(x).logits, first, rtol=0, atol=0)
        assert json.loads((folder / "preprocessing.json").read_text())["bad"] is None

        # A second save replaces the folder: no file of the first one is left over.
        (folder / "left_over").touch()
        model.classifier_out.bias.add_(1.0)
        save_model(accelerator, model, folder, {})
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        assert not (folder / "left_over").exists()
        second = model(x).logits
        assert not torch.equal(second, first)
        again = TimerXLForClassification.from_pretrained(folder).eval()
        torch.testing.assert_close(again(x).logits, second, rtol=0, atol=0)


def test_a_save_that_fails_leaves_the_last_model(
    tmp_path: Path, model: TimerXLForClassification
) -> None:
    accelerator, folder = Accelerator(cpu=True), tmp_path / "model"
    save_model(accelerator, model, folder, {"step": 1})
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.classifier_out.bias.add_(1.0)
    with pytest.raises(TypeError):
        save_model(accelerator, model, folder, {"step": object()})
    assert (folder / "model.safetensors").read_bytes() == before
    assert json.loads((folder / "preprocessing.json").read_text())["step"] == 1
    assert model_problem(folder) is None


@pytest.mark.parametrize("how", ["a byte", "cut", "gone", "numbers"])
def test_a_damaged_best_model_is_found(
    tmp_path: Path, model: TimerXLForClassification, how: str
) -> None:
    accelerator, folder = Accelerator(cpu=True), tmp_path / "model"
    save_model(accelerator, model, folder, {})
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if how == "a byte":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif how == "cut":
        weights.write_bytes(content[:-8])
    elif how == "gone":
        weights.unlink()
    else:
        (folder / "preprocessing.json").write_text("[]")
    assert model_problem(folder) is not None


def test_a_full_disk_is_no_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        check_storage(tmp_path / "run")


def test_half_precision_is_saved_as_an_exact_fp32_copy(
    tmp_path: Path, model: TimerXLForClassification
) -> None:
    half = model.to(torch.bfloat16)
    save_model(Accelerator(cpu=True), half, tmp_path / "model", {})
    again = TimerXLForClassification.from_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half.state_dict()[name].float())
    assert half.dtype == torch.bfloat16
