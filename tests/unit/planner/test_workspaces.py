"""Buffers that attention's backward and cuBLAS work in, by hand from torch's own sources."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from timerxl.planner.cuda_kernels import attention_workspace, cublas_workspace
from timerxl.planner.devices import DEVICES
from timerxl.planner.trace import StepSettings, trace_step
from timerxl.planner.workload import Choice, Workload, launches_per_micro_batch, memory_of

MakeWorkload = Callable[..., Workload]


def test_transfer_by_hand() -> None:
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
def test_kernels_by_channels_format_and_gpu(
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


def test_cublas() -> None:
    assert [cublas_workspace(c) for c in ((7, 5), (8, 9))] == [8_519_680] * 2
    assert [cublas_workspace(c) for c in ((9, 0), (10, 0))] == [33_554_432] * 2


def test_the_workspace_is_there_in_attention_s_backward_alone(workload: MakeWorkload) -> None:
    """The peak with it is that of the trace without it, or the moment of attention's backward."""
    run = workload("train.batch_size=16")
    settings = StepSettings(run.model, "sdpa", 16)
    size = attention_workspace(16, 2, 12, 12, 24, 16, False, (8, 0))  # 16 channels and 3 variables
    found = trace_step(settings)
    assert found.attention_workspace == size
    eager = trace_step(StepSettings(run.model, "eager", 16))
    on_cpu = trace_step(StepSettings(run.model, "sdpa", 16, on_gpu=False))
    assert (eager.attention_workspace, on_cpu.attention_workspace) == (0, 0)
    memory = memory_of(run, Choice("fp32", 0), device=DEVICES["h100"])
    assert (memory.workspaces, memory.cublas_workspace) == (
        attention_workspace(16, 2, 12, 12, 24, 16, False, (9, 0)) + 2**25,
        2**25,
    )


def test_launches_grow_with_layers_and_recomputation(workload: MakeWorkload) -> None:
    def launches(*overrides: str) -> int:
        return launches_per_micro_batch(workload(*overrides), Choice("fp32", 0))

    two, three, four = (launches(f"model.num_hidden_layers={n}") for n in (2, 3, 4))
    assert four - three == three - two > 20  # a layer has 10 products forward and 20 backward
    assert launches("train.gradient_checkpointing=true") > two
    assert launches("train.accumulation_steps=4", "train.batch_size=2") == two
