"""What fused attention is given: rotated, folded or masked, against the formulas written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from timerxl.model import TimerXLConfig, TimerXLForClassification, attention_timerxl
from timerxl.model.attention_timerxl import (
    TokenLayout,
    eager_attention_forward,
    folded_inputs,
    masked_inputs,
    rotate,
    timer_attention,
    token_layout,
)

# (variables, patches, heads, channels of a head)
SHAPES = [(1, 5, 2, 4), (7, 3, 4, 8), (3, 4, 1, 12), (27, 2, 2, 16), (7, 2, 2, 128)]
BATCH = 2


def old_rotate(states: Tensor, rotation: Tensor) -> Tensor:
    """Rotary embedding with a complex ``rotation`` [L, 1, d/4], all in float32, joined by a cat."""
    half = states.shape[-1] // 2
    wide = states if states.dtype == torch.float64 else states.float()
    pairs = torch.view_as_complex(wide[..., :half].unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * rotation).flatten(-2)
    return torch.cat([turned.to(states.dtype), states[..., half:]], dim=-1)


def old_fold(
    query: Tensor, key: Tensor, bias: Tensor, layout: TokenLayout
) -> tuple[Tensor, Tensor]:
    """The bias in extra channels of rotated query and key [B, H, L, d], joined by a cat."""
    batch, heads, _, head_size = query.shape
    extra = -(-(head_size + layout.num_variables) // 8) * 8 - head_size
    difference = (bias[1] - bias[0]).to(query.dtype)
    hot_query = F.one_hot(layout.query_variable, extra).to(query.dtype)
    hot_key = F.one_hot(layout.key_variable, extra).to(query.dtype)
    asked = (difference[:, None, None] * hot_query).expand(batch, -1, -1, -1)
    offered = hot_key.expand(batch, heads, -1, -1)
    return torch.cat([query, asked], dim=-1), torch.cat([key, offered], dim=-1)


def inputs(
    shape: tuple[int, int, int, int], dtype: torch.dtype, covariate: bool, last: bool
) -> tuple[list[Tensor], TokenLayout]:
    """Query, key, value and bias, and the layout they are for."""
    variables, patches, heads, size = shape
    layout = token_layout(
        variables, patches, size, covariate=covariate, rope_theta=10000.0, device="cpu"
    )
    layout = layout.last_patches() if last else layout
    torch.manual_seed(0)
    tokens = variables * patches
    asking = variables if last else tokens
    states = [torch.randn(BATCH, n, heads, size, dtype=dtype) for n in (asking, tokens, tokens)]
    bias = 3 * torch.randn(2, heads, dtype=torch.float32 if dtype != torch.float64 else dtype)
    return [tensor.requires_grad_() for tensor in (*states, bias)], layout


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_buffer_holds_what_cats_put_together(
    dtype: torch.dtype, shape: tuple[int, int, int, int], last: bool
) -> None:
    """To the last bit; gradients within rounding (sums and vector instructions differ)."""
    (query, key, _, bias), layout = inputs(shape, dtype, False, last)
    found = folded_inputs(query, key, bias, layout, query.shape[-1] ** -0.5)[:2]
    by = torch.view_as_complex(layout.rotation)
    by_query = torch.view_as_complex(layout.query_rotation.contiguous())
    rotated = [old_rotate(q, r).transpose(1, 2) for q, r in ((query, by_query), (key, by))]
    expected = [tensor.transpose(1, 2) for tensor in old_fold(*rotated, bias, layout)]
    assert torch.equal(rotate(query, layout.query_rotation).transpose(1, 2), rotated[0])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert one.is_contiguous()
        assert one.shape[-1] % 8 == 0
    upstream = [torch.randn_like(tensor) for tensor in found]
    gradients = [
        torch.autograd.grad(outputs, (query, key, bias), upstream) for outputs in (found, expected)
    ]
    few = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 1e-2)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=few * float(other.abs().max()))


def test_a_gradient_that_lies_across_is_turned_back_all_the_same() -> None:
    (query, *_), layout = inputs((3, 4, 2, 8), torch.float64, False, False)
    upstream = torch.randn(BATCH, 8, 2, 12).double().transpose(1, 3)  # tokens side by side
    for across in (upstream, torch.ones(()).double().expand(BATCH, 12, 2, 8)):
        found = torch.autograd.grad(rotate(query, layout.rotation), query, across)[0]
        old = old_rotate(query, torch.view_as_complex(layout.rotation))
        expected = torch.autograd.grad(old, query, across)[0]
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("covariate", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["folded", "mask"])
def test_fused_attention_equals_eager_attention(
    mode: str,
    shape: tuple[int, int, int, int],
    covariate: bool,
    last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In float64, with the gradients of query, key, value and bias."""
    monkeypatch.setattr(attention_timerxl, "_HAS_CPU_KERNEL", False)
    states, layout = inputs(shape, torch.float64, covariate, last)
    upstream = torch.randn(states[0].shape, dtype=torch.float64)
    found = []
    for attend in (eager_attention_forward, ALL_ATTENTION_FUNCTIONS["sdpa"]):
        out, _ = timer_attention(torch.nn.Module(), *states, layout, attend, 0.0, mode)
        found.append([out, *torch.autograd.grad(out, states, upstream)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("size", "wide"), [(4, 8), (12, 16), (128, 128)])
def test_a_mask_leaves_heads_as_wide_as_they_are(size: int, wide: int) -> None:
    """But for a multiple of 8, without which a GPU's fused kernels refuse."""
    (query, key, _, bias), layout = inputs((3, 4, 2, size), torch.float32, False, False)
    query, key, mask = masked_inputs(query, key, bias, layout, query.shape[-1] ** -0.5)
    assert (query.shape[-1], key.shape[-1]) == (wide, wide)
    assert mask.shape == (1, 2, 12, 12)
    assert (mask[0].isneginf() == ~layout.visible).all()
    assert mask[0, 1, 4, 0] == bias[0, 1] * size**-0.5
    assert mask[0, 1, 4, 4] == bias[1, 1] * size**-0.5


@pytest.mark.parametrize("mode", ["folded", "mask"])
def test_the_model_trains_with_dropout(mode: str) -> None:
    """Dropped weights are drawn anew, and agree with no dropout on the average."""
    torch.manual_seed(0)
    model = TimerXLForClassification(
        TimerXLConfig(
            patch_length=4,
            context_length=16,
            num_variables=3,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            hidden_dropout=0.0,
            attention_dropout=0.1,
            variable_bias_mode=mode,
        )
    )
    values = torch.randn(4, 16, 3)
    exact = model.eval()(values).logits.detach()
    model.train()
    drawn = torch.stack([model(values).logits for _ in range(400)])
    drawn.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert drawn.detach().std(0).min() > 0
    error = 5 * float(drawn.detach().std(0).max()) / 400**0.5
    torch.testing.assert_close(drawn.mean(0), exact, rtol=0, atol=error)


def test_a_model_saved_before_the_bias_had_a_mode_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fields: dict[str, Any] = {"patch_length": 4, "context_length": 16, "num_variables": 3}
    fields |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = TimerXLForClassification(TimerXLConfig(**fields, num_attention_heads=2)).eval()
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved.pop("variable_bias_mode") == "folded"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded = TimerXLForClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.variable_bias_mode == "folded"
    values = torch.randn(2, 16, 3)
    assert torch.equal(loaded(values).logits, model(values).logits)


def test_another_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="variable_bias_mode is 'bent'; expected 'folded' or"):
        TimerXLConfig(variable_bias_mode="bent")
