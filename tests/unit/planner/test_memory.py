"""Memory of a rank against the formulas of ZeRO (Rajbhandari et al. 2020), counted on the real
model: P parameters on N ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from timerxl.config import OptimConfig
from timerxl.model import TimerXLForClassification
from timerxl.planner import memory as planner_memory
from timerxl.planner.devices import DEVICES, GIB, Device
from timerxl.planner.memory import RankMemory, ZeroSettings, gradient_elements, rank_memory
from timerxl.planner.trace import Peak, StepSettings, trace_step
from timerxl.planner.workload import Choice, Workload, memory_of
from timerxl.training.assembly import build_optimizer
from timerxl.training.distributed import DS_CONFIGS

MakeWorkload = Callable[..., Workload]
RANKS = [1, 2, 3, 4, 8]
CONTEXT = 0.45 * 1024**3
CUBLAS = (2 * 4096 + 8 * 16) * 1024  # torch's default below Hopper
SMALL_BUCKET = ZeroSettings(bucket_elements=100, num_buckets=1, offload_optimizer=False)


@pytest.fixture(scope="module")
def settings(workload: MakeWorkload) -> StepSettings:
    return StepSettings(workload("model.pooling=last").model, "sdpa", 4, half=True)


def tensor_groups(settings: StepSettings) -> list[list[int]]:
    """Elements of every tensor, by the groups of the real optimizer."""
    optimizer = build_optimizer(TimerXLForClassification(settings.model), OptimConfig())
    return [[tensor.numel() for tensor in group["params"]] for group in optimizer.param_groups]


def num_parameters(settings: StepSettings) -> int:
    return sum(map(sum, tensor_groups(settings)))


@pytest.mark.parametrize("path", sorted(DS_CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_deepspeed_file_is_read(path: Path) -> None:
    zero = json.loads(path.read_text())["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["overlap_comm"]) == (50_000_000, False)
    found = ZeroSettings.load(path)
    assert found == ZeroSettings(50_000_000, 1, "offload" in path.stem)


def test_overlap_takes_a_second_bucket(tmp_path: Path) -> None:
    zero = {"reduce_bucket_size": 2e8, "overlap_comm": True, "offload_optimizer": {"device": "no"}}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    assert ZeroSettings.load(path) == ZeroSettings(200_000_000, 2, False)


@pytest.mark.parametrize("ranks", RANKS)
def test_zero_2_in_half_precision(settings: StepSettings, ranks: int) -> None:
    """Weights 2 P bytes on every rank; fp32 gradients 4 P / N; master 4 and moments 8 P / N."""
    count = num_parameters(settings)
    found = rank_memory(settings, ranks, SMALL_BUCKET)
    assert found.weights == 2 * count
    assert found.gradients == pytest.approx(4 * count / ranks, rel=1e-3)
    assert found.optimizer == pytest.approx((4 + 8) * count / ranks, rel=1e-3)
    assert found.gradients_complete == found.gradients
    # Shares are equal and whole: every group of tensors is filled up.
    shares = [-(-sum(group) // ranks) for group in tensor_groups(settings)]
    assert found.gradients == 4 * sum(shares)
    assert gradient_elements(settings, ranks) == [sum(shares)] * ranks


@pytest.mark.parametrize("ranks", RANKS)
def test_zero_2_in_fp32_keeps_shared_tensors_whole(settings: StepSettings, ranks: int) -> None:
    full = replace(settings, half=False)
    kept = [0] * ranks
    for group in tensor_groups(full):
        share = -(-sum(group) // ranks)
        owner = np.arange(sum(group)) // share  # rank of every element
        tensor = np.repeat(np.arange(len(group)), group)
        for rank in range(ranks):
            kept[rank] += sum(group[index] for index in np.unique(tensor[owner == rank]))
    assert gradient_elements(full, ranks) == kept
    found = rank_memory(full, ranks, SMALL_BUCKET)
    count = num_parameters(full)
    assert found.weights == 4 * count
    assert found.gradients == 4 * max(kept) >= 4 * count / ranks
    assert found.optimizer == 12 * -(-count // ranks)


def test_more_ranks_need_less_each(settings: StepSettings) -> None:
    totals = [rank_memory(settings, ranks, SMALL_BUCKET).total for ranks in RANKS]
    assert totals == sorted(totals, reverse=True)
    # What is divided: 16 bytes of 18 a parameter.
    divided = 16 * num_parameters(settings)
    assert totals[0] - totals[-1] == pytest.approx(divided * 7 / 8, rel=1e-3)


def test_offloading_moves_gradients_and_optimizer_to_the_host(settings: StepSettings) -> None:
    here = rank_memory(settings, 2, SMALL_BUCKET)
    away = rank_memory(settings, 2, replace(SMALL_BUCKET, offload_optimizer=True))
    assert (here.host, away.gradients, away.optimizer) == (0, 0, 0)
    shard = -(-num_parameters(settings) // 2)
    assert away.host == here.gradients + here.optimizer + 2 * shard  # and the updated weights
    assert here.total - away.total == here.gradients + here.optimizer
    assert away.gradients_complete == here.gradients


@pytest.mark.parametrize(
    ("half", "bucket", "num_buckets", "peak", "expected"),
    [
        # (activations, temporary, buckets): backward, P gradients in one bucket that holds all
        (True, 50_000, 1, (900_000, 50_000), (900_000, 50_000, 100_000)),
        (True, 50_000, 2, (900_000, 50_000), (900_000, 50_000, 200_000)),
        # a bucket that does not: it is flattened while backward still runs
        (True, 1000, 1, (900_000, 50_000), (900_000, 52_000, 2000)),
        (False, 1000, 1, (900_000, 50_000), (900_000, 54_000, 4000)),
        # the end of backward: no activations, all gradients flattened beside the bucket
        (True, 50_000, 1, (10, 20), (0, "2P", 100_000)),
        # the update in fp32: gradients once more
        (False, 1000, 1, (10, 20), (0, "gradients", 0)),
    ],
)
def test_the_moment_of_the_peak(
    settings: StepSettings,
    monkeypatch: pytest.MonkeyPatch,
    half: bool,
    bucket: int,
    num_buckets: int,
    peak: tuple[int, int],
    expected: tuple[int, int | str, int],
) -> None:
    count = num_parameters(settings)
    assert 1000 < count < 50_000
    weights = (2 if half else 4) * count
    asked = []

    def traced(settings: StepSettings) -> Peak:
        asked.append(settings)
        return Peak(weights, 0, 0, *peak)

    monkeypatch.setattr(planner_memory, "trace_step", traced)
    zero = ZeroSettings(bucket, num_buckets, False)
    found = rank_memory(replace(settings, half=half, accumulation_steps=7), 2, zero)
    named = {"2P": 2 * count, "gradients": found.gradients}
    activations, temporary, buckets = expected
    temporary = named[temporary] if isinstance(temporary, str) else temporary
    assert (found.activations, found.temporary, found.buckets) == (activations, temporary, buckets)
    (traced_settings,) = asked
    assert traced_settings.sharded
    assert traced_settings.accumulation_steps == 1  # one micro-batch is like the next


def test_without_zero_the_trace_is_the_rank(settings: StepSettings) -> None:
    full = replace(settings, half=False, batch_size=32)
    peak, count = trace_step(full), num_parameters(full)
    one, four = (rank_memory(full, ranks, None) for ranks in (1, 4))
    assert one.total == pytest.approx(peak.total + CONTEXT + CUBLAS, abs=1)
    assert (one.weights, one.optimizer) == (4 * count, peak.optimizer)
    assert (one.gradients, one.activations) == (peak.gradients, peak.activations)
    assert (one.temporary, one.buckets) == (peak.temporary, 0)
    # DistributedDataParallel's buckets: the fp32 gradients once more; nothing is divided.
    assert four == replace(one, buckets=4 * count)
    assert one.gradients_complete == 4 * count
    on_cpu = rank_memory(replace(full, on_gpu=False), 1, None)
    assert (on_cpu.context, on_cpu.workspaces) == (0, 0)
    hopper = rank_memory(replace(full, capability=(9, 0)), 1, None)
    assert (one.cublas_workspace, hopper.cublas_workspace) == (CUBLAS, 32 * 1024**2)
    assert on_cpu.total == trace_step(replace(full, on_gpu=False)).total


def test_two_micro_batches_are_like_any_more(settings: StepSettings) -> None:
    full = replace(settings, half=False)
    one, two, five = (
        rank_memory(replace(full, accumulation_steps=n), 1, None).total for n in (1, 2, 5)
    )
    assert one < two == five
    traced = [trace_step(replace(full, accumulation_steps=n)).total for n in (2, 3)]
    inputs = 4 * (16 * 3 * 4 + 8)  # windows and labels of one more micro-batch, held or not
    assert 0 <= traced[1] - traced[0] <= inputs


def test_a_rank_is_the_sum_of_its_parts() -> None:
    values = {item.name: 10**index for index, item in enumerate(fields(RankMemory))}
    found = RankMemory(**values)
    absent = values["gradients_complete"] + values["host"]
    assert found.total == sum(values.values()) - absent
    assert found.buffers == values["temporary"] + values["buckets"]
    assert found.total_gib == found.total / 1024**3


def test_a_run_takes_the_deepspeed_file_of_its_precision(workload: MakeWorkload) -> None:
    run = workload("train.zero_stage=2", "train.batch_size=2", "model.pooling=last")
    count = run.num_parameters
    for precision, element in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
        found = memory_of(run, Choice(precision, 2), ranks=4)
        assert found.weights == element * count
        assert found.buckets == 50_000_000 * element
        assert found.context == pytest.approx(CONTEXT, abs=1)
    alone = memory_of(run, Choice("bf16", 2))
    assert (alone.weights, alone.optimizer) == (2 * count, 12 * count)
    away = memory_of(run.changed(train__offload_optimizer=True), Choice("bf16", 2), ranks=4)
    assert (away.gradients, away.optimizer) == (0, 0)
    assert away.host == pytest.approx((4 + 12 + 2) * count / 4, rel=1e-3)
    plain = memory_of(run, Choice("bf16", 0), on_gpu=False)
    assert (plain.weights, plain.buckets, plain.context) == (4 * count, 0, 0)


def test_settings_of_the_recipe_reach_the_trace(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (
        "model.attn_implementation=eager train.batch_size=6 train.accumulation_steps=2 "
        "train.gradient_checkpointing=true"
    )
    run = workload(*overrides.split())
    asked = []
    monkeypatch.setattr(
        "timerxl.planner.workload.rank_memory", lambda *arguments: asked.append(arguments)
    )
    memory_of(run, Choice("fp16", 2), ranks=3, on_gpu=False)
    memory_of(run, Choice("fp32", 0))
    (sharded, ranks, zero), (plain, alone, no_zero) = asked
    expected = StepSettings(run.model, "eager", 6, 2, True, True, on_gpu=False)
    assert (sharded, ranks) == (expected, 3)
    assert zero == ZeroSettings.load(DS_CONFIGS / "zero2_fp16.json")
    assert plain == replace(expected, half=False, on_gpu=True)
    assert (alone, no_zero) == (1, None)


@pytest.mark.parametrize(
    ("requested", "gib", "expected"),
    [("auto", 4.0, 1), ("auto", 14.0, 0), ("true", 14.0, 1), ("false", 0.1, 0)],
)
def test_the_series_on_the_gpu_is_counted(
    workload: MakeWorkload, requested: str, gib: float, expected: int
) -> None:
    run = replace(workload(f"train.data_on_device={requested}"), series_bytes=round(gib * GIB))
    without = memory_of(run, Choice("fp16", 0))
    found = memory_of(run, Choice("fp16", 0), device=DEVICES["t4"])  # 14.7 GiB
    assert found.series == expected * run.series_bytes
    assert found.total - without.total == found.series
    on_cpu = Device("cpu", 64.0, {}, is_cpu=True)
    assert memory_of(run, Choice("fp32", 0), on_gpu=False, device=on_cpu).series == 0
