"""launch/convert.py: one line on stdout, whole outputs only, exit code 2 for bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import processes
import pytest
import torch
from safetensors import SafetensorError

from timerxl.cli import convert
from timerxl.model import TimerXLConfig, TimerXLForClassification, TimerXLForPrediction

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "convert.py"
GOLDEN = ROOT / "tests" / "assets" / "openltm_golden"
FORECASTER, CLASSIFIER = GOLDEN / "forecast_03.pth", GOLDEN / "classify_06.pth"


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, back = tmp_path / "new" / "classifier", tmp_path / "back.pth"
    arguments = ["--checkpoint", str(CLASSIFIER), "--output", str(folder), "--instance-norm"]
    assert convert.main(arguments) == 0
    assert capsys.readouterr().out == (
        f"46 tensors -> TimerXLForClassification (2 layers, hidden 32): {folder}\n"
    )
    model = TimerXLForClassification.from_pretrained(folder)
    assert (model.config.instance_norm, model.config.hidden_act) == (True, "relu")

    arguments = ["--reverse", "--checkpoint", str(folder), "--output", str(back)]
    assert convert.main(arguments) == 0
    assert capsys.readouterr().out == (
        f"46 tensors -> OpenLTM state dict (2 layers, hidden 32): {back}\n"
    )
    original, returned = (torch.load(path, weights_only=True) for path in (CLASSIFIER, back))
    assert returned.keys() == original.keys()
    assert all(torch.equal(returned[key], tensor) for key, tensor in original.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.pth", "new"]
    assert [path.name for path in folder.parent.iterdir()] == ["classifier"]


@pytest.mark.slow
def test_as_a_script_it_prints_its_line_alone(tmp_path: Path) -> None:
    switches = ["--hidden-act", "gelu", "--covariate"]
    done = processes.run(
        [sys.executable, SCRIPT, "--checkpoint", FORECASTER, "--output", "out", *switches],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "40 tensors -> TimerXLForPrediction (2 layers, hidden 32): out\n"
    config = TimerXLForPrediction.from_pretrained(tmp_path / "out").config
    assert (config.hidden_act, config.covariate, config.instance_norm) == ("gelu", True, False)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[object]) -> str:
    assert convert.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) <= 2
    return captured.err


def test_bad_input_ends_with_code_2_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(FORECASTER.read_bytes()[:5000])
    partial = torch.load(FORECASTER, weights_only=True)
    del partial["head.bias"]
    torch.save(partial, tmp_path / "partial.pth")
    before = sorted(tmp_path.iterdir())
    for checkpoint, message in [
        (cut, "damaged"),
        (tmp_path / "partial.pth", "head.bias is missing"),
        (tmp_path / "none.pth", "does not exist"),
        (tmp_path, "not a file"),
    ]:
        arguments: list[object] = ["--checkpoint", checkpoint, "--output", tmp_path / "out"]
        assert message in refused(capsys, arguments)
    arguments = ["--reverse", "--checkpoint", FORECASTER, "--output", tmp_path / "out.pth"]
    assert "is no folder" in refused(capsys, arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_outputs_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    kept = tmp_path / "full" / "kept.pth"
    kept.write_text("precious")
    forward: list[object] = ["--checkpoint", FORECASTER, "--output"]
    reverse: list[object] = ["--reverse", "--checkpoint", tmp_path, "--output"]
    assert "no empty folder" in refused(capsys, [*forward, kept.parent])
    assert "no empty folder" in refused(capsys, [*forward, kept])
    assert "exists already" in refused(capsys, [*reverse, kept])
    assert "end in .pth" in refused(capsys, [*reverse, tmp_path / "out.bin"])
    switched = [*reverse, tmp_path / "out.pth", "--covariate"]
    assert "leave them out with --reverse" in refused(capsys, switched)
    below_a_file = [*forward, kept / "out"]
    assert "can't be written" in refused(capsys, below_a_file)
    assert kept.read_text() == "precious"
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "kept.pth"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    arguments = ["--checkpoint", str(FORECASTER), "--output", str(tmp_path / "out")]
    assert convert.main(arguments) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "failure",
    [OSError("full"), RuntimeError("full"), SafetensorError("full"), KeyboardInterrupt()],
)
def test_a_write_that_is_cut_off_leaves_nothing(
    failure: BaseException,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(self: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise failure

    monkeypatch.setattr(TimerXLForPrediction, "save_pretrained", half)
    arguments: list[object] = ["--checkpoint", FORECASTER, "--output", tmp_path / "out"]
    if isinstance(failure, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            convert.main([str(argument) for argument in arguments])
    else:
        assert "can't be written: full" in refused(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_openltm_cannot_hold_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TimerXLConfig(
        patch_length=4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_variables=3,
        pooling="last",
    )
    TimerXLForClassification(config).save_pretrained(tmp_path / "last")
    capsys.readouterr()
    arguments: list[object] = ["--reverse", "--checkpoint", tmp_path / "last"]
    arguments += ["--output", tmp_path / "out.pth"]
    assert "pooling='last'" in refused(capsys, arguments)
