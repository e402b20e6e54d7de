"""The traced step against the allocator's own events, and against what each layer keeps, counted
by hand. B batch, L tokens, D hidden, I inner, H heads, d channels of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from timerxl.config import OptimConfig
from timerxl.model import TimerXLForClassification
from timerxl.planner import trace
from timerxl.planner.trace import (
    CudaKernels,
    FakeAccelerator,
    StepSettings,
    attention_workspace,
    efficient_attention,
    run_step,
    trace_step,
)
from timerxl.planner.workload import Workload
from timerxl.training.assembly import build_optimizer

pytestmark = pytest.mark.slow

MakeWorkload = Callable[..., Workload]
Step = Callable[..., StepSettings]
C, D, INNER, H = 3, 32, 64, 2
FP32, HALF = 4, 2


@pytest.fixture(scope="module")
def step(workload: MakeWorkload) -> Step:
    """Settings of a step; keywords of the model are given as ``model__key``."""

    def settings(attention: str, batch_size: int, **values: Any) -> StepSettings:
        chosen = {"num_static": values.pop("num_static", 0)}
        model = [f"{k.replace('__', '.')}={values.pop(k)}" for k in list(values) if "__" in k]
        return StepSettings(workload(*model, **chosen).model, attention, batch_size, **values)

    return settings


@pytest.mark.parametrize(
    ("attention", "batch_size", "values"),
    [
        ("sdpa", 16, {"model__context_length": 64}),
        ("eager", 8, {"model__context_length": 96, "model__attention_dropout": 0.1}),
        (
            "eager",
            16,
            {
                "model__hidden_dropout": 0.1,
                "model__pooling": "last",
                "model__variable_embedding": "true",
                "num_static": 5,
                "accumulation_steps": 2,
            },
        ),
        (
            "sdpa",
            32,
            {
                "model__context_length": 64,
                "model__num_hidden_layers": 3,
                "model__hidden_dropout": 0.2,
                "model__attention_dropout": 0.2,
                "checkpointing": True,
                "accumulation_steps": 3,
            },
        ),
    ],
    ids=["sdpa", "eager", "last-accumulated", "checkpointed"],
)
def test_the_peak_is_the_allocator_s(
    step: Step,
    measured_peak: Callable[[StepSettings], int],
    attention: str,
    batch_size: int,
    values: dict[str, Any],
) -> None:
    settings = step(attention, batch_size, on_gpu=False, **values)
    assert trace_step(settings).total == pytest.approx(measured_peak(settings), rel=0.02)


def sizes(settings: StepSettings) -> list[int]:
    """Elements of every parameter of the real model."""
    return [p.numel() for p in TimerXLForClassification(settings.model).parameters()]


def test_weights_and_optimizer_by_the_number_of_parameters(step: Step) -> None:
    settings = step("sdpa", 4, model__pooling="last", model__variable_embedding="true")
    found = sizes(settings)
    plain = trace_step(settings)
    assert plain.weights == FP32 * sum(found)
    # Two moments each, and one counter of steps per tensor.
    assert plain.optimizer == 2 * FP32 * sum(found) + FP32 * len(found)
    autocast = trace_step(replace(settings, half=True))
    assert (autocast.weights, autocast.optimizer) == (plain.weights, plain.optimizer)
    for half, size in ((True, HALF), (False, FP32)):
        sharded = trace_step(replace(settings, half=half, sharded=True))
        assert (sharded.weights, sharded.optimizer) == (size * sum(found), 0)


def test_accumulation_keeps_gradients_and_sharding_hands_them_on(step: Step) -> None:
    settings = step("sdpa", 64, on_gpu=False)
    whole = FP32 * sum(sizes(settings))
    once = trace_step(settings)
    assert 0 < once.gradients < whole / 4  # the head's: the peak is where backward begins
    twice = trace_step(replace(settings, accumulation_steps=2))
    assert twice.gradients == whole
    assert twice.total - once.total >= whole - once.gradients
    assert trace_step(replace(settings, sharded=True, half=True)).gradients == 0
    # With next to no activations the peak is where nearly all gradients are there.
    small = step("sdpa", 1, model__context_length=4, on_gpu=False)
    assert trace_step(small).gradients > 0.9 * whole


def each_layer(step: Step, attention: str, batch_size: int, **values: Any) -> int:
    """Bytes that one more layer keeps until the peak."""
    found = [
        trace_step(step(attention, batch_size, model__num_hidden_layers=n, **values)).activations
        for n in (2, 3)
    ]
    return found[1] - found[0]


def kept(rows: int, channels: int = 16) -> int:
    """Numbers of one layer without attention's own: input, q, k, v, attention's output, two sums
    before norms, the first norm's output: 8 BLD, with wider q and k where a head carries more
    channels; the inner activation BLI; mean and deviation of two norms."""
    return 6 * rows * D + 2 * rows * D * channels // 16 + rows * INNER + 2 * 2 * rows


def fused_extra(batch: int, tokens: int, element: int) -> int:
    """Bytes of the fused kernel that are not its inputs: rows padded to 32, mask, places of C."""
    padded, channels = -(-tokens // 32) * 32, 8  # 16 channels a head + C, up to a multiple of 8
    return FP32 * batch * H * padded + element * (tokens * tokens + tokens * channels)


def test_what_a_layer_keeps_on_a_cpu(step: Step) -> None:
    """A number per row of attention; eager attention a [B, H, L, L] matrix in its place, the mask
    and two [L, L] tensors of the same-variable bias shared by batch and heads."""
    rows = 64 * 12
    assert each_layer(step, "sdpa", 64, on_gpu=False) == FP32 * (kept(rows) + rows * H)
    rows, tokens = 16 * 48, 48
    found = each_layer(step, "eager", 16, model__context_length=64)
    assert found == FP32 * (kept(rows) + rows * H * tokens + 2 * tokens**2) + tokens**2


def test_what_a_layer_keeps_on_a_gpu(step: Step) -> None:
    """As on a CPU, but q and k carry 24 channels a head instead of 16. Nothing is [B, H, L, L]."""
    found = each_layer(step, "sdpa", 16, model__context_length=64)
    assert found == FP32 * kept(16 * 48, channels=24) + fused_extra(16, 48, FP32)


def test_what_a_layer_keeps_on_a_gpu_with_the_bias_in_the_mask(step: Step) -> None:
    """As on a CPU, and one [H, L, L] mask for all samples with the two boolean [L, L] it is made
    of; a gradient [B, H, L, L], in rows of 48 + 0, is there in backward alone."""
    batch, tokens, padded = 16, 48, 64
    extra = FP32 * (batch * H * padded + H * tokens**2) + 2 * tokens**2
    mask = {"model__context_length": 64, "model__variable_bias_mode": "mask"}
    assert each_layer(step, "sdpa", batch, **mask) == FP32 * kept(batch * tokens) + extra
    # Where little else is there, the gradient of the mask makes the peak.
    small = {"model__pooling": "mean", "model__num_hidden_layers": 1, "model__context_length": 512}
    gradient = FP32 * 4 * H * 384**2
    folded, masked = (
        trace_step(step("sdpa", 4, **small, model__variable_bias_mode=mode)).total
        for mode in ("folded", "mask")
    )
    assert gradient < masked - folded < 1.5 * gradient


def test_what_a_layer_keeps_under_autocast_on_a_gpu(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the bytes but for the norms, which work in fp32; q, k and v each cast the fp32 input
    of the layer, and the weights are cast once."""
    batch, tokens = 16, 12
    rows = batch * tokens
    attention = 2 * rows * D * 24 // 16 + 2 * rows * D  # q, k; v, output
    casts = 3 * rows * D + rows * D  # of the layer's input; of the first norm's output
    norms = FP32 * (2 * rows * D + 2 * 2 * rows)
    weights = 4 * (D * D + D) + 2 * D * INNER + INNER + D
    expected = HALF * (attention + casts + rows * INNER + weights) + norms
    # So few tokens that attention's workspace would make its backward the peak.
    monkeypatch.setattr(trace, "attention_workspace", lambda *sizes: 0)
    trace._trace.cache_clear()
    found = each_layer(step, "sdpa", batch, half=True)
    trace._trace.cache_clear()
    assert found == expected + fused_extra(batch, tokens, HALF)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_under_checkpointing_a_layer_keeps_its_input_alone(step: Step, on_gpu: bool) -> None:
    batch, tokens = 64, 12
    found = each_layer(step, "sdpa", batch, checkpointing=True, on_gpu=on_gpu)
    assert found == FP32 * batch * tokens * D
    settings = step("sdpa", batch, model__num_hidden_layers=4, on_gpu=on_gpu)
    full, light = (trace_step(replace(settings, checkpointing=c)) for c in (False, True))
    assert light.activations < full.activations / 2
    assert light.total < full.total


def test_a_gpu_s_dropout_mask_is_a_byte_where_a_cpu_s_is_four(step: Step) -> None:
    def difference(**values: Any) -> int:
        cpu, gpu = (
            trace_step(step("eager", 16, on_gpu=on_gpu, **values)).total for on_gpu in (False, True)
        )
        return cpu - gpu

    tokens, layers = 12, 2
    rows = 16 * tokens
    # After attention and after the second projection D, after the activation I.
    assert difference(model__hidden_dropout=0.1) == 3 * layers * rows * (2 * D + INNER)
    assert difference(model__attention_dropout=0.1) == 3 * layers * H * rows * tokens
    assert difference() == 0


def test_gpu_kernels_on_real_tensors() -> None:
    states = torch.randn(64, 100)
    with CudaKernels():
        assert F.dropout(states, 0.5, training=False) is states
        assert F.dropout(states, 0.0, training=True) is states
        dropped = F.dropout(states, 0.25, training=True)
    left = dropped != 0
    torch.testing.assert_close(dropped[left], states[left] / 0.75)
    assert 0.70 < left.float().mean() < 0.80
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = states.bfloat16()
        with CudaKernels():
            assert F.layer_norm(half, (100,)).dtype == torch.float32
        assert F.layer_norm(half, (100,)).dtype == torch.bfloat16

    query = torch.zeros(2, H, 5, 8, requires_grad=True)
    key, value = (torch.zeros(2, H, 20, 8, requires_grad=True) for _ in range(2))
    mask = torch.ones(1, 1, 5, 20, dtype=torch.bool)
    out, weights = efficient_attention(torch.nn.Identity(), query, key, value, mask)
    assert (out.shape, weights) == ((2, 5, H, 8), None)
    out.sum().backward()
    for states in (query, key, value):
        assert states.grad is not None
        assert states.grad.shape == states.shape


def test_the_same_settings_give_the_same_peak(step: Step) -> None:
    settings = step("sdpa", 8, model__hidden_dropout=0.1, half=True, checkpointing=True)
    first = trace_step(settings)
    trace._trace.cache_clear()
    again = trace_step(settings)
    assert again is not first
    assert again == first
    assert trace_step(replace(settings, batch_size=9)) != first


def test_a_fake_accelerator_accumulates_as_one_batch_would(step: Step) -> None:
    """Twice 2 windows and once 4 make the same update, and only one."""

    def gradients(batch_size: int, accumulation_steps: int) -> list[torch.Tensor]:
        """Those that each call of the optimizer was given."""
        torch.manual_seed(0)
        model = TimerXLForClassification(step("eager", 1, num_static=5).model)
        optimizer = build_optimizer(model, OptimConfig())
        given: list[torch.Tensor] = []

        def note(*_: Any) -> None:
            present = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            given.append(torch.cat(present))

        optimizer.register_step_pre_hook(note)
        accelerator = FakeAccelerator(optimizer, accumulation_steps)
        run_step(accelerator.training_step(model), model.config, batch_size)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert [len(gradient) for gradient in given] == [model.num_parameters()]
        return given

    (once,), (twice,) = gradients(4, 1), gradients(2, 2)
    assert float(once.norm()) > 0.1
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-6)


def test_attention_s_workspace_of_transfer_by_hand() -> None:
    """Batch 16, 8 heads, 405 tokens, 128 channels folded to 160, half precision on an A100.

    Kernel 128x64_k65536. Query: 4 blocks of 128 rows x 3 of 64 channels, each 16 bytes and
    128 x 64 fp32. Key and value: one split of 64 rows fp32 each, x 256 channels (160 filled up to
    128s) where the value is as wide as the key, x 128 for a value of 128.
    """
    query = 4 * 3 * (16 + 128 * 64 * 4)
    key = padded_value = 64 * 256 * 4
    expected = 16 * 8 * (query + key + padded_value)
    assert expected == 67_133_440  # the 67 MB
    assert attention_workspace(16, 8, 405, 405, 160, 160, True, (8, 0)) == expected
    expected = 16 * 8 * (query + key + 64 * 128 * 4)
    assert attention_workspace(16, 8, 405, 405, 160, 128, True, (8, 0)) == expected


@pytest.mark.parametrize(
    ("channels", "half", "capability", "query", "key_and_value"),
    [
        # 405 queries and keys. Registers hold the gradients of key and value up to 64 channels,
        (64, True, (8, 0), 7 * 1 * (16 + 64 * 64 * 4), 0),
        # on an A100 and H100 up to 128, in blocks of 128 x 128,
        (128, True, (8, 0), 4 * 1 * (16 + 128 * 128 * 4), 0),
        (128, True, (9, 0), 4 * 1 * (16 + 128 * 128 * 4), 0),
        # on an L4 up to 96,
        (96, True, (8, 9), 4 * 2 * (16 + 128 * 64 * 4), 0),
        (128, True, (8, 9), 7 * 2 * (16 + 64 * 64 * 4), 2 * 64 * 128 * 4),
        (160, True, (7, 5), 7 * 3 * (16 + 64 * 64 * 4), 2 * 64 * 192 * 4),
        # and never in fp32.
        (64, False, (7, 5), 7 * 1 * (16 + 64 * 64 * 4), 2 * 64 * 64 * 4),
        (128, False, (8, 0), 4 * 2 * (16 + 128 * 64 * 4), 2 * 64 * 128 * 4),
    ],
)
def test_attention_s_workspace_by_channels_format_and_gpu(
    channels: int, half: bool, capability: tuple[int, int], query: int, key_and_value: int
) -> None:
    found = attention_workspace(16, 8, 405, 405, channels, channels, half, capability)
    assert found == 16 * 8 * (query + key_and_value)


def test_few_heads_split_the_keys() -> None:
    """200 // (batch x heads) splits at most, and no more than there are blocks of 64 keys."""
    query = 16 + 64 * 64 * 4
    for batch, keys, splits in ((1, 64, 1), (1, 640, 10), (1, 6400, 100), (3, 6400, 33)):
        found = attention_workspace(batch, 2, 64, keys, 64, 64, False, (7, 5))
        assert found == batch * 2 * (query + splits * 2 * 64 * 64 * 4)


def test_the_workspace_is_part_of_the_peak_where_attention_s_fused_backward_is(step: Step) -> None:
    found = [
        trace_step(step("sdpa", 16)).attention_workspace,
        trace_step(step("sdpa", 16, capability=(9, 0))).attention_workspace,
        trace_step(step("eager", 16)).attention_workspace,
        trace_step(step("sdpa", 16, on_gpu=False)).attention_workspace,
    ]
    sizes = 16, 2, 12, 12, 24, 16, False  # 16 channels and 3 variables make 24
    expected = [attention_workspace(*sizes, capability) for capability in ((8, 0), (9, 0))]
    assert found == [*expected, 0, 0]
