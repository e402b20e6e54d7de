"""Compiled layers: the same loss and gradients, in one graph a layer, and few graphs in all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from timerxl.model import TimerXLConfig, TimerXLForClassification, attention_timerxl

pytestmark = pytest.mark.slow

VARIABLES, PATCHES, PATCH = 3, 4, 4
VARIANTS: dict[str, dict[str, Any]] = {
    "mean": {},
    "last": {"pooling": "last"},
    "covariate": {"covariate": True, "hidden_act": "gelu"},
}
# The CPU's own kernel; the forms that a GPU takes.
WAYS = ["fused", "folded", "mask"]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=16):
        yield
    torch._dynamo.reset()


def build(way: str, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> TimerXLForClassification:
    monkeypatch.setattr(attention_timerxl, "_HAS_CPU_KERNEL", way == "fused")
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "patch_length": PATCH,
        "context_length": PATCH * PATCHES,
        "num_variables": VARIABLES,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "variable_bias_mode": "mask" if way == "mask" else "folded",
    }
    return TimerXLForClassification(TimerXLConfig(**(chosen | fields))).train()


def compile_layers(model: TimerXLForClassification, backend: str) -> CompileCounterWithBackend:
    """Every layer in one graph, or an error; counts the graphs."""
    counter = CompileCounterWithBackend(backend)
    for layer in model.timer_xl.layers:
        layer.compile(backend=counter, fullgraph=True)
    return counter


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(size, PATCHES * PATCH, VARIABLES, generator=generator)
    return values, torch.arange(size) % 2


def step(model: TimerXLForClassification, size: int = 4) -> list[Tensor]:
    """The loss, the gradient of the input and those of all parameters."""
    model.zero_grad()
    values, labels = batch(size)
    values.requires_grad_()
    loss = model(values, labels=labels).loss
    loss.backward()
    gradients = [tensor.grad for tensor in (values, *model.parameters())]
    return [loss.detach(), *(tensor.clone() for tensor in gradients if tensor is not None)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_eager_layers(
    way: str, variant: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(way, monkeypatch, **VARIANTS[variant])
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    expected = step(model)
    counter = compile_layers(model, "aot_eager")
    assert_same(step(model), expected)
    assert counter.frame_count == (2 if variant == "last" else 1)
    assert all("_orig_mod" not in key for key in model.state_dict())


def test_dropout_on_a_cpu_compiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that is computed again in backward, within a layer that is."""
    model = build("fused", monkeypatch, hidden_dropout=0.2, attention_dropout=0.2)
    model.activation_checkpointing_enable({"use_reentrant": False})
    compile_layers(model, "aot_eager")
    found, other = step(model), step(model)
    assert all(tensor.isfinite().all() for tensor in found)
    assert not torch.equal(found[0], other[0])


def test_a_short_batch_compiles_once_more_and_no_batch_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("fused", monkeypatch, pooling="last")
    counter = compile_layers(model, "aot_eager")
    counts = []

    def train(*sizes: int) -> None:
        for size in sizes:
            step(model, size)
        counts.append(counter.frame_count)

    def evaluate(*sizes: int) -> None:
        model.eval()
        with torch.inference_mode():
            for size in sizes:
                model(batch(size)[0])
        model.train()
        counts.append(counter.frame_count)

    train(6, 6)
    train(4)  # the last of an epoch: another size, for which any size is compiled
    evaluate(6)
    train(6, 6, 5, 3, 4)
    evaluate(6, 4, 2)
    assert counts == [2, 4, 6, 6, 6]
    train(1)  # torch compiles a batch of one by itself
    evaluate(1)
    assert counts[-2:] == [8, 10]


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler on a CPU")
def test_inductor_computes_the_same_without_complex_numbers(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    model = build("fused", monkeypatch, num_hidden_layers=1)
    expected = step(model)
    compile_layers(model, "inductor")
    assert_same(step(model), expected)
    assert not any("complex" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize("mode", ["folded", "mask"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_of_compiled_layers_is_the_same_in_backward(mode: str, checkpointing: bool) -> None:
    """Recomputed with another mask the gradient would be that of another loss: it is compared with
    the difference quotient of the loss for one seed, along a random direction."""
    torch._dynamo.reset()
    settings = TimerXLConfig(
        patch_length=4,
        context_length=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_dropout=0.2,
        attention_dropout=0.2,
        num_variables=3,
        pooling="last",
        variable_bias_mode=mode,
    )
    torch.manual_seed(0)
    model = TimerXLForClassification(settings).double().train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model.timer_xl.layers:
        layer.compile(backend="aot_eager")
    batch = {"past_values": torch.randn(4, 16, 3).double(), "labels": torch.tensor([0, 1, 1, 0])}
    directions = [torch.randn_like(parameter) for parameter in model.parameters()]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        found: torch.Tensor = model(**batch).loss
        return found

    @torch.no_grad()
    def shifted_loss(shift: float) -> float:
        pairs = list(zip(model.parameters(), directions, strict=True))
        for parameter, direction in pairs:
            parameter.add_(shift * direction)
        found = loss().item()
        for parameter, direction in pairs:
            parameter.sub_(shift * direction)
        return found

    # The loss is in fp32, and relu has corners: a step that is right for both.
    quotient = (shifted_loss(1e-4) - shifted_loss(-1e-4)) / 2e-4
    loss().backward()
    pairs = zip(model.parameters(), directions, strict=True)
    slope = sum((p.grad * d).sum().item() for p, d in pairs if p.grad is not None)
    assert slope == pytest.approx(quotient, rel=5e-3)
    torch.manual_seed(6)  # another mask is another loss
    assert model(**batch).loss.item() != loss().item()
