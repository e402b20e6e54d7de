"""Strict reading of OpenLTM files: nothing runs, every schema_error is named."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from timerxl.model.openltm_checkpoint import read_openltm

GOLDEN = Path(__file__).resolve().parents[2] / "assets" / "openltm_golden"
FORECASTER, CLASSIFIER = GOLDEN / "forecast_00.pth", GOLDEN / "classify_05.pth"
# hypothesis reuses tmp_path: every example writes its one file anew.
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def golden(path: Path = FORECASTER) -> dict[str, Tensor]:
    return dict(torch.load(path, weights_only=True))


def written(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def read_error(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read_openltm(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) <= 2
    assert "weights_only" not in message
    return message


def test_reading_gives_the_tensors_of_the_file(tmp_path: Path) -> None:
    original = golden()
    prefixed = written(tmp_path / "ddp.pth", {f"module.{k}": v for k, v in original.items()})
    save_file(original, tmp_path / "plain.safetensors")
    for path in (FORECASTER, prefixed, tmp_path / "plain.safetensors"):
        state = read_openltm(path)
        assert state.keys() == original.keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in original.items())


class Hostile:
    """Unpickling this runs a command that leaves a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"\"{sys.executable}\" -c \"open(r'{self.marker}', 'w')\"",))


def test_a_file_that_carries_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    state = golden() | {"head.bias": Hostile(marker)}
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"raw{protocol}.pth").write_bytes(pickle.dumps(Hostile(marker), protocol))
    paths = sorted(tmp_path.glob("*.pth"))
    assert len(paths) == 2 + pickle.HIGHEST_PROTOCOL - 1
    for path in paths:
        assert "holds code, which is never run" in read_error(path)
        assert not marker.exists()
    pickle.loads((tmp_path / "raw2.pth").read_bytes())  # the marker does come if it runs
    assert marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    whole = FORECASTER.read_bytes()
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "damaged" in read_error(path)


def test_one_wrong_byte_is_found(tmp_path: Path) -> None:
    """torch.load alone would hand out the damaged numbers."""
    whole = bytearray(FORECASTER.read_bytes())
    weights = golden()["blocks.attn_layers.1.conv1.weight"].numpy().tobytes()
    whole[whole.find(weights) + 100] ^= 0x10
    (tmp_path / "flipped.pth").write_bytes(whole)
    assert "checksum" in read_error(tmp_path / "flipped.pth")


@given(content=st.binary(max_size=2000), suffix=st.sampled_from([".pth", ".safetensors"]))
@FUZZ
def test_any_bytes_are_refused_in_words(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_error(path)


def test_folder_and_missing_file_are_refused(tmp_path: Path) -> None:
    assert "not a file" in read_error(tmp_path)
    assert "does not exist" in read_error(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds Tensor"),
        ({}, "expected names and tensors"),
        ({"model_state_dict": {"head.bias": torch.zeros(8)}}, "expected the bare state dict"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"conv.weight": torch.zeros(3)}, "no OpenLTM Timer-XL.*conv.weight"),
        ({"timer_xl.norm.bias": torch.zeros(3)}, "give the folder"),
    ],
)
def test_other_contents_are_named(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message):
        read_openltm(tmp_path / "other.pth")


def change(key: str, edit: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def apply(state: dict[str, Tensor]) -> None:
        state[key] = edit(state[key])

    return apply


def put(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("blocks.norm.bias"), "blocks.norm.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(2)), "extra is not a tensor of Timer-XL"),
        (
            lambda s: s.update({"module.head.bias": s["head.bias"]}),
            "module.head.bias repeats head.bias",
        ),
        (change("head.bias", lambda t: put(t, float("nan"))), "head.bias holds NaN or Inf"),
        (change("head.bias", lambda t: put(t, float("-inf"))), "head.bias holds NaN or Inf"),
        (
            change("embedding.weight", lambda t: t[:-1]),
            r"embedding.weight has shape \[31, 8\], expected \[32, 8\]",
        ),
        (
            change("blocks.attn_layers.1.conv1.weight", lambda t: t[..., 0]),
            r"conv1.weight has shape \[64, 32\], expected \[64, 32, 1\]",
        ),
        (change("head.bias", lambda t: t.long()), "head.bias is torch.int64"),
        (change("head.bias", lambda t: t.double()), "head.bias is torch.float64"),
        (change("head.bias", lambda t: t.to_sparse()), "head.bias is .*sparse"),
        (change("head.bias", lambda t: t.to("meta")), "head.bias is "),
    ],
)
def test_every_misfit_is_named(
    edit: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
) -> None:
    state = golden()
    edit(state)
    with pytest.raises(ValueError, match=message) as caught:
        read_openltm(written(tmp_path / "schema_error.pth", state))
    # One wrong tensor: one complaint.
    assert ";" not in str(caught.value)


def test_ten_misfits_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    state = {k: v for k, v in golden().items() if not k.startswith("blocks.attn_layers.0.")}
    message = read_error(written(tmp_path / "layer.pth", state))
    assert message.count("blocks.attn_layers.0.") == 10
    assert "and 7 more" in message


def test_layers_that_are_absent_or_far_off_are_refused(tmp_path: Path) -> None:
    none = {k: v for k, v in golden().items() if "attn_layers" not in k}
    assert "no layer" in read_error(written(tmp_path / "none.pth", none))
    far = golden() | {"blocks.attn_layers.99999999999.norm1.bias": torch.zeros(32)}
    message = read_error(written(tmp_path / "far.pth", far))
    assert "blocks.attn_layers.99999999999.norm1.bias is not a tensor" in message


def test_a_shape_without_data_behind_it_is_refused(tmp_path: Path) -> None:
    state = {k: torch.zeros(1).expand(v.shape) for k, v in golden().items()}
    assert "shape larger than its data" in read_error(written(tmp_path / "wide.pth", state))


def test_forecasts_of_another_length_than_a_patch_are_refused(tmp_path: Path) -> None:
    state = golden() | {"head.weight": torch.zeros(16, 32), "head.bias": torch.zeros(16)}
    assert "16 steps from patches of 8" in read_error(written(tmp_path / "long.pth", state))


KEYS = sorted(golden(CLASSIFIER))
WHOLE = [
    golden(CLASSIFIER),
    {key: t for key, t in golden(CLASSIFIER).items() if not key.startswith("classifier.")},
]


@given(
    dropped=st.sets(st.sampled_from(KEYS), max_size=12),
    renamed=st.dictionaries(st.sampled_from(KEYS), st.text(max_size=20), max_size=3),
    scaled=st.dictionaries(
        st.sampled_from(KEYS), st.lists(st.integers(0, 3), max_size=3), max_size=2
    ),
)
@FUZZ
def test_fuzzed_names_and_shapes_are_read_whole_or_refused(
    dropped: set[str], renamed: dict[str, str], scaled: dict[str, list[int]], tmp_path: Path
) -> None:
    """Whatever is done to names and shapes: a ValueError, unless the file is still a model."""
    state = golden(CLASSIFIER)
    for key, shape in scaled.items():
        state[key] = torch.zeros(shape)
    for key, name in renamed.items():
        state[name] = state.pop(key)
    for key in dropped:
        state.pop(key, None)
    path = written(tmp_path / "fuzzed.pth", state)
    shapes = {key: tensor.shape for key, tensor in state.items()}
    if shapes in ({key: tensor.shape for key, tensor in whole.items()} for whole in WHOLE):
        assert read_openltm(path).keys() == state.keys()
    else:
        read_error(path)
