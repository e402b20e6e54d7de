"""Ten cases computed by the public OpenLTM code: our model must give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from timerxl.model import attention_timerxl
from timerxl.model.convert_openltm import convert_checkpoint, export_openltm

GOLDEN = Path(__file__).resolve().parents[1] / "assets" / "openltm_golden"
CASES: list[dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


def convert(case: dict[str, Any], **changes: Any) -> Any:
    switches: dict[str, Any] = {
        "hidden_act": case["activation"],
        "covariate": case["covariate"],
        "instance_norm": case["use_norm"],
    }
    return convert_checkpoint(GOLDEN / f"{case['name']}.pth", **(switches | changes))


@torch.no_grad()
def largest_error(model: Any, case: dict[str, Any]) -> float:
    golden = load_file(GOLDEN / f"{case['name']}.safetensors")
    outputs = model(golden["input"])
    found = outputs.prediction_outputs if case["task"] == "forecast" else outputs.logits
    assert found.shape == golden["output"].shape
    return float((found - golden["output"]).abs().max())


@by_case
@pytest.mark.parametrize("attention", ["eager", "sdpa", "sdpa_folded"])
def test_same_output_as_openltm(
    case: dict[str, Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attention == "sdpa_folded":
        monkeypatch.setattr(attention_timerxl, "_HAS_CPU_KERNEL", False)
    model = convert(case)
    model.set_attn_implementation(attention.removesuffix("_folded"))
    assert largest_error(model, case) < 1e-5


@by_case
def test_same_output_after_saving_and_loading(case: dict[str, Any], tmp_path: Path) -> None:
    model = convert(case)
    model.save_pretrained(tmp_path)
    for attention in ("eager", "sdpa"):
        loaded = type(model).from_pretrained(tmp_path, attn_implementation=attention)
        assert largest_error(loaded, case) < 1e-5


@by_case
def test_export_gives_back_every_bit(case: dict[str, Any], tmp_path: Path) -> None:
    original = torch.load(GOLDEN / f"{case['name']}.pth", weights_only=True)
    model = convert(case)
    model.save_pretrained(tmp_path)
    for ours in (model, type(model).from_pretrained(tmp_path)):
        exported = export_openltm(ours)
        assert exported.keys() == original.keys()
        for key, tensor in original.items():
            assert exported[key].dtype == tensor.dtype
            assert torch.equal(exported[key], tensor), key


@pytest.mark.parametrize("field", ["hidden_act", "covariate", "instance_norm"])
def test_the_cases_tell_every_switch_apart(field: str) -> None:
    """A parity that a wrong switch would pass as well proves nothing."""
    wrong = {"hidden_act": "gelu", "covariate": True, "instance_norm": True}[field]
    for case in (CASES[0], CASES[5]):
        assert largest_error(convert(case, **{field: wrong}), case) > 1e-3
