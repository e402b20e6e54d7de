"""launch/export.py: an ONNX file that computes what the model does, or no file at all."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import processes
import pytest
import torch

from timerxl import Forecaster, onnx_export
from timerxl.config import InputError
from timerxl.model import TimerXLConfig, TimerXLForClassification

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "export.py"
STEPS, VARIABLES = 32, 5
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in onnx_export.LIBRARIES),
    reason="the extra is not installed: pip install -c constraints.txt -e '.[onnx]'",
)
CASES: dict[str, dict[str, Any]] = {
    "as published": {
        "pooling": "last",
        "variable_embedding": True,
        "num_static_real_features": 3,
        "attn_implementation": "sdpa",
    },
    "bare, eager": {"pooling": "mean", "num_variables": None, "attn_implementation": "eager"},
    "last patches": {"pooling": "last", "covariate": True, "attn_implementation": "eager"},
    "as OpenLTM's": {
        "pooling": "mean",
        "variable_embedding": True,
        "num_static_real_features": 2,
        "instance_norm": True,
        "covariate": True,
        "hidden_act": "gelu",
        "attn_implementation": "sdpa",
    },
}


def build(**fields: Any) -> TimerXLForClassification:
    """A random model, of whose parts none starts at zero."""
    torch.manual_seed(0)
    sizes = {
        "patch_length": 8,
        "context_length": STEPS,
        "num_variables": VARIABLES,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = TimerXLForClassification(TimerXLConfig(**(sizes | fields))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def write(model: TimerXLForClassification, output: Path) -> float:
    return onnx_export.write_onnx(model, output, context_length=STEPS, num_variables=VARIABLES)


def compare(model: TimerXLForClassification, file: Path, steps: int, variables: int) -> None:
    """Logits of the file and of the model, for batches that the export did not see."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for batch in (1, 7, 40):
        shapes: dict[str, tuple[int, ...]] = {"past_values": (batch, steps, variables)}
        if width := model.config.num_static_real_features:
            shapes["static_real_features"] = (batch, width)
        given = {name: rng.normal(size=of).astype(np.float32) for name, of in shapes.items()}
        assert {item.name for item in session.get_inputs()} == set(shapes)
        (found,) = session.run(["logits"], given)
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in given.items()}
            expected = model(**tensors).logits.numpy()
        assert batch == 1 or np.ptp(expected, axis=0).min() > 0.01  # the inputs do matter
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_the_model_does(case: str, tmp_path: Path) -> None:
    model = build(**CASES[case])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert write(model, tmp_path / "model.onnx") <= 1e-4
    compare(model, tmp_path / "model.onnx", STEPS, VARIABLES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.config._attn_implementation == CASES[case]["attn_implementation"]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="session")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's model, written by the command; not to be changed."""
    folder = tmp_path_factory.mktemp("onnx")
    words = [sys.executable, SCRIPT, "--model", finished / "model", "--output", "rain.onnx"]
    done = processes.run(words, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("logits within ")
    assert done.stdout.endswith(" MB: rain.onnx\n")
    assert len(done.stdout.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["rain.onnx"]
    return folder / "rain.onnx"


@pytest.mark.slow
@needs_onnx
def test_a_trained_model_from_the_command_line(finished: Path, exported: Path) -> None:
    forecaster = Forecaster.from_pretrained(finished / "model", device="cpu")
    variables = len(forecaster.saved.content["feature_names"])
    compare(forecaster.model, exported, forecaster.context_length, variables)
    content = exported.read_bytes()
    for private in (str(ROOT), str(finished), sys.prefix, "site-packages", ".py"):
        assert private.encode() not in content, private


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; the environment passes for one that has the extra."""
    spec = importlib.util.spec_from_file_location("launch_export", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(onnx_export, "check_libraries", lambda: None)
    return module


def call(
    export: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *words: object,
) -> tuple[int, str]:
    """(exit code, standard error) of a call that prints nothing else."""
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    capsys.readouterr()
    code: int = export.main()
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def with_bias(content: bytes, by: float) -> bytes:
    """The same file with logits that are off by so much."""
    import onnx

    file = onnx.load_from_string(content)
    (bias,) = [one for one in file.graph.initializer if one.name.endswith("classifier_out.bias")]
    other = onnx.numpy_helper.to_array(bias) + np.float32(by)
    bias.CopyFrom(onnx.numpy_helper.from_array(other, bias.name))
    return bytes(file.SerializeToString())


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize(("by", "named"), [(1e-3, "are 1.0e-03 off"), (float("nan"), "are nan")])
def test_a_file_with_other_logits_is_not_written(
    by: float,
    named: str,
    export: ModuleType,
    finished: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = with_bias(exported.read_bytes(), by)
    monkeypatch.setattr(onnx_export, "_graph", lambda *_: content)
    words = ("--model", finished / "model", "--output", tmp_path / "rain.onnx")
    code, said = call(export, capsys, monkeypatch, *words)
    assert code == 1
    assert named in said
    assert "expected at most 0.0001" in said
    assert "was not written" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_nothing(
    step: str,
    export: ModuleType,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, *rest: object) -> None:
        if step == "write_bytes":
            with path.open("wb") as file:
                file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(onnx_export, "_graph", lambda *_: b"whole")
    monkeypatch.setattr(onnx_export, "_largest_difference", lambda *_: 0.0)
    monkeypatch.setattr(Path if step == "write_bytes" else os, step, full)
    words = ("--model", finished / "model", "--output", tmp_path / "rain.onnx")
    code, said = call(export, capsys, monkeypatch, *words)
    assert code == 2
    assert "can't be written: no space left" in said
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused(
    export: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = tmp_path / "kept.onnx"
    kept.write_text("precious")
    for model, output, named in [
        (tmp_path, tmp_path / "rain.bin", "ends in .onnx"),
        (tmp_path, kept, "exists already"),
        (tmp_path, tmp_path / "none" / "rain.onnx", "make it first"),
        (tmp_path, tmp_path / "rain.onnx", "holds no preprocessing.json"),
    ]:
        code, said = call(export, capsys, monkeypatch, "--model", model, "--output", output)
        assert code == 2
        assert said.startswith("error: ")
        assert named in said
    assert [path.name for path in tmp_path.iterdir()] == ["kept.onnx"]
    assert kept.read_text() == "precious"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name == "onnxscript" else found("json")
    )
    with pytest.raises(InputError, match=r"^onnxscript can't be imported.*'\.\[onnx\]'$"):
        onnx_export.check_libraries()
