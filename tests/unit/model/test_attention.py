"""Who sees whom, and four ways to compute it: eager, the CPU's fused kernel, the bias folded into
channels, the bias as a mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from timerxl.model import (
    TimerXLConfig,
    TimerXLForClassification,
    TimerXLForPrediction,
    TimerXLModel,
    attention_timerxl,
)
from timerxl.model.attention_timerxl import eager_attention_forward, timer_attention, token_layout

VARIABLES, PATCHES, PATCH = 3, 4, 4
TINY: dict[str, Any] = {
    "patch_length": PATCH,
    "context_length": PATCH * PATCHES,
    "num_variables": VARIABLES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
WAYS = ["eager", "fused", "folded", "mask"]
VARIANTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "last": {"pooling": "last"},
    "covariate": {"covariate": True},
    "covariate_last": {"covariate": True, "pooling": "last"},
    "static": {"num_static_real_features": 3},
    "variable_embedding": {"variable_embedding": True, "pooling": "last"},
    "gelu_instance_norm": {"hidden_act": "gelu", "instance_norm": True},
}
# float32 sums in another order; gradients are compared relative to their largest entry.
RELATIVE = 1e-5


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Any]:
    """use(model, way) makes the model compute its attention that way."""

    def choose(model: Any, way: str) -> Any:
        monkeypatch.setattr(attention_timerxl, "_HAS_CPU_KERNEL", way == "fused")
        model.set_attn_implementation("eager" if way == "eager" else "sdpa")
        model.config.variable_bias_mode = "mask" if way == "mask" else "folded"
        return model

    return choose


def series(batch: int = 2, *, variables: int = VARIABLES, patches: int = PATCHES) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, patches * PATCH, variables, generator=generator)


def bigger_bias(model: torch.nn.Module) -> None:
    """Biases that matter, so that a mistake in them shows."""
    for name, parameter in model.named_parameters():
        if "variable_bias" in name:
            parameter.data *= 3


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, variables: int, covariate: bool
) -> Tensor:
    """One sample [L, H, d] in float64, token by token, as the model's description says it."""
    length, heads, size = query.shape
    patches = length // variables

    def turn(vector: Tensor, position: int) -> Tensor:
        turned = vector.clone()
        for pair in range(size // 4):
            angle = position * 10000.0 ** (-pair / (size // 4))
            a, b = vector[2 * pair], vector[2 * pair + 1]
            turned[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            turned[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
        return turned

    out = torch.zeros_like(value)
    for head in range(heads):
        for i in range(length):
            scores, seen = [], []
            for j in range(length):
                same = i // patches == j // patches
                past = j % patches <= i % patches
                if not covariate:
                    visible = past
                elif i // patches == variables - 1:
                    visible = past or not same
                else:
                    visible = past and same
                if visible:
                    product = turn(query[i, head], i) @ turn(key[j, head], j)
                    scores.append((product + bias[int(same), head]) / math.sqrt(size))
                    seen.append(j)
            weights = torch.softmax(torch.stack(scores), dim=0)
            out[i, head] = weights @ value[seen, head]
    return out


@pytest.mark.parametrize("covariate", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_attention_equals_a_token_by_token_reference(
    way: str, covariate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_timerxl, "_HAS_CPU_KERNEL", way == "fused")
    torch.manual_seed(0)
    heads, size = 2, 8
    query, key, value = torch.randn(3, 2, VARIABLES * PATCHES, heads, size).unbind(0)
    bias = 3 * torch.randn(2, heads)
    expected = torch.stack(
        [
            reference_attention(q, k, v, bias.double(), VARIABLES, covariate)
            for q, k, v in zip(query.double(), key.double(), value.double(), strict=True)
        ]
    )
    layout = token_layout(
        VARIABLES, PATCHES, size, covariate=covariate, rope_theta=10000.0, device="cpu"
    )
    module = torch.nn.Module()
    attend = eager_attention_forward if way == "eager" else ALL_ATTENTION_FUNCTIONS["sdpa"]
    mode = "mask" if way == "mask" else "folded"
    found, weights = timer_attention(
        module, query.clone(), key.clone(), value, bias, layout, attend, 0.0, mode
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert (weights is None) == (way != "eager")


@torch.no_grad()
def changed_tokens(model: TimerXLModel, variable: int, patch: int) -> set[tuple[int, int]]:
    """Which (variable, patch) outputs move when one input patch is replaced."""
    values = series(1)
    other = values.clone()
    other[:, patch * PATCH : (patch + 1) * PATCH, variable] += 2.0
    before, after = (model(x).last_hidden_state for x in (values, other))
    moved = (before - after).abs().amax(-1)[0].unflatten(0, (VARIABLES, PATCHES))
    unclear = (moved > 2e-6) & (moved < 1e-4)
    assert not unclear.any(), moved
    return {(int(v), int(n)) for v, n in (moved > 1e-4).nonzero()}


@pytest.mark.parametrize("way", WAYS)
def test_no_token_sees_a_later_patch_of_any_variable(way: str, use: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = use(TimerXLModel(TimerXLConfig(**TINY)).eval(), way)
    for variable in range(VARIABLES):
        for patch in range(PATCHES):
            expected = {(v, n) for v in range(VARIABLES) for n in range(patch, PATCHES)}
            assert changed_tokens(model, variable, patch) == expected


@pytest.mark.parametrize("way", WAYS)
def test_with_covariates_only_the_last_variable_looks_around(
    way: str, use: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = use(TimerXLModel(TimerXLConfig(**TINY, covariate=True)).eval(), way)
    last = VARIABLES - 1
    for variable in range(VARIABLES):
        for patch in range(PATCHES):
            expected = {(variable, n) for n in range(patch, PATCHES)}
            if variable != last:
                expected |= {(last, n) for n in range(PATCHES)}
            assert changed_tokens(model, variable, patch) == expected


def gradients(model: torch.nn.Module, **inputs: Any) -> dict[str, Tensor]:
    """Loss, logits, and the gradients of every parameter and of the input."""
    model.zero_grad()
    values = series().requires_grad_()
    outputs = model(values, labels=torch.tensor([0, 1]), **inputs)
    outputs.loss.backward()
    found = {"loss": outputs.loss.detach(), "logits": outputs.logits.detach()}
    assert values.grad is not None
    found["past_values"] = values.grad
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], relative: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        error = float((found[name] - tensor).abs().max())
        # Key biases shift all of a query's scores: their true gradient is zero, noise remains.
        scale = 0.1 if "k_proj.bias" in name else float(tensor.abs().max())
        assert scale > 0, name
        assert error <= relative * scale, f"{name}: {error} against {scale}"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["fused", "folded", "mask"])
def test_every_gradient_equals_eager_attention(
    way: str, variant: str, use: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**(TINY | VARIANTS[variant]))).train()
    bigger_bias(model)
    inputs: dict[str, Any] = {}
    if model.config.num_static_real_features:
        inputs["static_real_features"] = torch.randn(2, 3)
    expected = gradients(use(model, "eager"), **inputs)
    assert_same(gradients(use(model, way), **inputs), expected, RELATIVE)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["folded", "mask"])
def test_in_double_precision_the_ways_are_one(
    way: str, variant: str, use: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**(TINY | VARIANTS[variant]))).double().train()
    bigger_bias(model)
    inputs: dict[str, Any] = {}
    if model.config.num_static_real_features:
        inputs["static_real_features"] = torch.randn(2, 3).double()
    upstream = torch.randn(2, 2, dtype=torch.float64)  # not through the loss, which is in float32
    found = []
    for one in ("eager", way):
        model.zero_grad()
        values = series().double().requires_grad_()
        logits = use(model, one)(values, **inputs).logits
        logits.backward(upstream)
        assert values.grad is not None
        found.append({"logits": logits.detach(), "past_values": values.grad})
        found[-1] |= {name: p.grad.clone() for name, p in model.named_parameters()}
    assert_same(found[1], found[0], 1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("covariate", [False, True])
def test_skipping_to_the_last_patch_is_exact(
    way: str, covariate: bool, use: Callable[..., Any]
) -> None:
    """The last layer computed for the last patches alone equals the full one, gradients too."""
    torch.manual_seed(0)
    model = use(TimerXLModel(TimerXLConfig(**TINY, covariate=covariate)).train(), way)
    bigger_bias(model)
    upstream = torch.randn(2, VARIABLES, TINY["hidden_size"])
    found = []
    for skip in (True, False):
        model.zero_grad()
        states = model(series(), last_patch_only=skip).last_hidden_state
        if not skip:
            states = states.unflatten(1, (VARIABLES, PATCHES))[:, :, -1]
        states.backward(upstream)
        parts = {"states": states.detach()}
        parts |= {name: p.grad.clone() for name, p in model.named_parameters()}
        found.append(parts)
    torch.testing.assert_close(found[0]["states"], found[1]["states"], rtol=1e-6, atol=1e-6)
    assert_same(found[0], found[1], 3e-6)


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_stays_near_full_precision(way: str, use: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = use(TimerXLForClassification(TimerXLConfig(**TINY)).eval(), way)
    exact = model(series()).logits
    half = model.to(torch.bfloat16)(series().to(torch.bfloat16)).logits
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("freeze", ["variable_bias", "q_proj", "embedding"])
def test_frozen_parts_leave_the_other_gradients_alone(
    way: str, freeze: str, use: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    model = use(TimerXLForClassification(TimerXLConfig(**TINY)).train(), way)
    full = gradients(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(freeze not in name)
    model.zero_grad(set_to_none=True)
    model(series(), labels=torch.tensor([0, 1])).loss.backward()
    for name, parameter in model.named_parameters():
        if freeze in name:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, full[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", WAYS)
def test_training_works_after_inference_mode(way: str, use: Callable[..., Any]) -> None:
    """What is kept between forward passes may come from an evaluation."""
    torch.manual_seed(0)
    model = use(TimerXLForClassification(TimerXLConfig(**TINY)), way)
    with torch.inference_mode():
        model(series())
    assert torch.isfinite(gradients(model.train())["loss"])


@pytest.mark.parametrize("covariate", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last", "forecast"])
def test_attention_weights_are_those_of_the_output(pooling: str, covariate: bool) -> None:
    torch.manual_seed(0)
    fields = dict(TINY, covariate=covariate, num_variables=VARIABLES)
    if pooling == "forecast":
        model: Any = TimerXLForPrediction(TimerXLConfig(**fields)).eval()
    else:
        model = TimerXLForClassification(TimerXLConfig(**fields, pooling=pooling)).eval()
    bigger_bias(model)
    assert model.config._attn_implementation == "sdpa"  # which has no weights
    plain, told = model(series()), model(series(), output_attentions=True)
    assert plain.attentions is None
    assert len(told.attentions) == len(model.timer_xl.layers)
    torch.testing.assert_close(told[0], plain[0], rtol=0, atol=1e-5)
    layout = token_layout(VARIABLES, PATCHES, 4, covariate=covariate, rope_theta=1e4, device="cpu")
    tokens = VARIABLES * PATCHES
    for weights in told.attentions:
        assert weights.shape == (2, model.config.num_attention_heads, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert not weights[..., ~layout.visible].any()
        assert (weights[..., layout.visible] > 0).all()
    model.set_attn_implementation("eager")
    again = model(series(), output_attentions=True)
    for ours, theirs in zip(told.attentions, again.attentions, strict=True):
        assert torch.equal(ours, theirs)
    *_, attentions = model(series(), output_attentions=True, return_dict=False)
    assert torch.equal(attentions[0], told.attentions[0])
