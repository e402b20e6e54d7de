"""Memory of a rank against the formulas of ZeRO (Rajbhandari et al. 2020), counted on the real
model, P parameters on N ranks; and what would fit, against all settings tried one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from settings import ONE_LABEL

from timerxl.config import OptimConfig, load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.planner import memory as planner_memory
from timerxl.planner.devices import DEVICES, GIB, Device
from timerxl.planner.memory import (
    Fit,
    RankMemory,
    cublas_workspace,
    find_fit,
    gradient_elements,
    memory_ladder,
    memory_of,
    one_gpu,
    rank_memory,
)
from timerxl.planner.trace import Peak, StepSettings, trace_step
from timerxl.planner.workload import Choice, Workload, ZeroSettings, choose
from timerxl.training.assembly import build_optimizer
from timerxl.training.processes.distributed import DS_CONFIGS

MakeWorkload = Callable[..., Workload]
RANKS = [1, 2, 3, 4, 8]
CONTEXT = round(0.45 * 1024**3)
CUBLAS = (2 * 4096 + 8 * 16) * 1024  # torch's default below Hopper
SMALL_BUCKET = ZeroSettings(bucket_elements=100, num_buckets=1, offload_optimizer=False)
GPU = Device("mine", 100.0, {"fp32": 10.0, "fp16": 100.0, "bf16": 100.0})
CPU = Device("cpu", 100.0, {}, is_cpu=True)


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
    assert ZeroSettings.load(path) == ZeroSettings(50_000_000, 1, "offload" in path.stem)


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
    assert found.optimizer == pytest.approx((4 + 8) * count / ranks, rel=1e-3)
    # Shares are equal and whole: every group of tensors is filled up.
    shares = [-(-sum(group) // ranks) for group in tensor_groups(settings)]
    assert found.gradients == found.gradients_complete == 4 * sum(shares)
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
    found, count = rank_memory(full, ranks, SMALL_BUCKET), num_parameters(full)
    assert (found.weights, found.gradients) == (4 * count, 4 * max(kept))
    assert found.optimizer == 12 * -(-count // ranks)


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
    traced = []

    def trace(settings: StepSettings) -> Peak:
        traced.append((settings.sharded, settings.accumulation_steps))
        return Peak(weights, 0, 0, *peak)

    monkeypatch.setattr(planner_memory, "trace_step", trace)
    zero = ZeroSettings(bucket, num_buckets, False)
    found = rank_memory(replace(settings, half=half, accumulation_steps=7), 2, zero)
    named = {"2P": 2 * count, "gradients": found.gradients}
    activations, temporary, buckets = expected
    temporary = named[temporary] if isinstance(temporary, str) else temporary
    assert (found.activations, found.temporary, found.buckets) == (activations, temporary, buckets)
    assert traced == [(True, 1)]  # one micro-batch is like the next


def test_without_zero_the_trace_is_the_rank(settings: StepSettings) -> None:
    full = replace(settings, half=False, batch_size=32)
    peak, count = trace_step(full), num_parameters(full)
    one, four = (rank_memory(full, ranks, None) for ranks in (1, 4))
    assert one.total == peak.total + CONTEXT + CUBLAS
    assert (one.weights, one.optimizer) == (4 * count, peak.optimizer)
    # DistributedDataParallel's buckets: the fp32 gradients once more; nothing is divided.
    assert (one.buckets, one.gradients_complete) == (0, 4 * count)
    assert four == replace(one, buckets=4 * count)
    on_cpu = rank_memory(replace(full, on_gpu=False), 1, None)
    assert (on_cpu.context, on_cpu.workspaces) == (0, 0)
    assert on_cpu.total == trace_step(replace(full, on_gpu=False)).total
    hopper = rank_memory(replace(full, capability=(9, 0)), 1, None)
    assert (one.cublas_workspace, hopper.cublas_workspace) == (CUBLAS, 32 * 1024**2)


def test_cublas_workspace_by_generation() -> None:
    assert [cublas_workspace(c) for c in ((7, 5), (8, 9))] == [8_519_680] * 2
    assert [cublas_workspace(c) for c in ((9, 0), (10, 0))] == [33_554_432] * 2


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


def test_a_run_takes_the_deepspeed_file_of_its_precision(workload: MakeWorkload) -> None:
    run = workload("train.zero_stage=2", "train.batch_size=2", "model.pooling=last")
    count = run.num_parameters
    for precision, element in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
        found = memory_of(run, Choice(precision, 2), ranks=4)
        assert (found.weights, found.buckets) == (element * count, 50_000_000 * element)
        assert found.context == CONTEXT
    away = run.changed({"train.offload_optimizer": True})
    found = memory_of(away, Choice("bf16", 2), ranks=4)
    assert (found.gradients, found.optimizer) == (0, 0)
    assert found.host == pytest.approx((4 + 12 + 2) * count / 4, rel=1e-3)
    plain = memory_of(run, Choice("bf16", 0), CPU)
    assert (plain.weights, plain.buckets, plain.context) == (4 * count, 0, 0)


def test_the_recipe_and_the_device_decide_on_the_step(workload: MakeWorkload) -> None:
    run = workload(
        *"model.attn_implementation=eager train.batch_size=6 train.accumulation_steps=2".split(),
        "train.gradient_checkpointing=true",
    )
    expected = StepSettings(run.model, "eager", 6, 2, True, True, True)
    assert run.step_settings(Choice("fp16", 2)) == expected
    plain = replace(expected, half=False, sharded=False)
    assert run.step_settings(Choice("fp32", 0), CPU) == replace(plain, on_gpu=False)
    hopper = run.step_settings(Choice("fp32", 0), DEVICES["h100"])
    assert hopper == replace(plain, capability=(9, 0))


@pytest.mark.parametrize(
    ("requested", "gib", "expected"),
    [("auto", 4.0, 1), ("auto", 14.0, 0), ("true", 14.0, 1), ("false", 0.1, 0)],
)
def test_the_series_on_the_gpu_is_counted(
    workload: MakeWorkload, requested: str, gib: float, expected: int
) -> None:
    run = replace(workload(f"train.data_on_device={requested}"), series_bytes=round(gib * GIB))
    without = memory_of(run, Choice("fp16", 0))
    found = memory_of(run, Choice("fp16", 0), DEVICES["t4"])  # 14.7 GiB
    assert found.series == found.total - without.total == expected * run.series_bytes
    assert memory_of(run, Choice("fp32", 0), CPU).series == 0


@pytest.mark.parametrize("choice", [Choice("fp32", 0), Choice("bf16", 0), Choice("bf16", 2)])
def test_the_average_of_the_weights_is_one_more_fp32_copy_on_every_rank(
    workload: MakeWorkload, choice: Choice
) -> None:
    plain, run = workload(), workload("train.ema=0.99")
    for ranks in (1, 4):
        without, found = memory_of(plain, choice, ranks=ranks), memory_of(run, choice, ranks=ranks)
        assert found.average == 4 * run.num_parameters
        assert replace(found, average=0) == without
        assert found.total - without.total == found.average
    # Counted where the series would go, and in what fits.
    full = replace(run, series_bytes=round((0.9 * 14.7 - 0.5) * GIB))
    assert memory_of(full, choice, DEVICES["t4"]).average == found.average


def test_where_the_memory_goes(workload: MakeWorkload) -> None:
    run = workload("model.context_length=96", "train.batch_size=16", "train.precision=fp16")
    eager, fused, light, half, sharded = (memory for _, memory in memory_ladder(run))
    count = run.num_parameters
    found = [memory.weights for memory in (eager, fused, light, half, sharded)]
    assert found == [4 * count] * 4 + [2 * count]
    # 16 samples x 2 heads x 72 x 72 tokens in fp32, of two layers, and gone with the first change.
    matrices = 2 * 16 * 2 * 72**2 * 4
    assert eager.activations > matrices
    assert fused.activations < eager.activations - matrices / 2
    assert light.activations < 0.6 * fused.activations  # one layer of two at a time
    assert half.total < light.total
    # Four ranks share 16 bytes a parameter.
    shared = sharded.gradients + sharded.optimizer
    assert shared == pytest.approx((4 + 12) * count / 4, rel=2e-3)
    assert sharded.buckets == 50_000_000 * 2


def test_what_one_gpu_would_save(workload: MakeWorkload) -> None:
    t4 = DEVICES["t4"]
    run = workload("train.zero_stage=2", "train.gradient_checkpointing=true", "train.batch_size=64")
    choice, no_zero = Choice("fp16", 2), Choice("fp16", 0)
    found = one_gpu(run, choice, t4, memory_of(run, choice, t4))
    assert found is not None
    plain = run.changed({"train.gradient_checkpointing": False})
    assert found.without_zero_gib == memory_of(run, no_zero, t4).total_gib
    assert found.without_checkpointing_gib == memory_of(plain, no_zero, t4).total_gib
    assert found.without_checkpointing_gib > found.without_zero_gib
    # Three forward passes instead of nearly four: a quarter less.
    saved = 1 - plain.flops_per_sample() / run.flops_per_sample()
    assert 0.2 < saved < 0.25
    assert f"for {saved:.0%} fewer operations" in found.sentence()
    assert one_gpu(plain, no_zero, t4, memory_of(plain, no_zero)) is None


# What to change, in order of cost; each keeps what came before it.
FREE = {"model.attn_implementation": "sdpa", "train.precision": "auto"}
CHECKPOINTING = {"train.gradient_checkpointing": True}
ZERO = {"train.zero_stage": 2}
OFFLOAD = {"train.offload_optimizer": True}
LEVELS: list[dict[str, Any]] = [
    FREE,
    FREE | CHECKPOINTING,
    FREE | CHECKPOINTING | ZERO,
    FREE | CHECKPOINTING | ZERO | OFFLOAD,
]
SDPA = {"model.attn_implementation": "sdpa"}
DEAR = ("model.attn_implementation=eager", "train.precision=fp32")


def by_formula(
    workload: Workload, choice: Choice, device: Device | None = None, ranks: int = 1
) -> RankMemory:
    """GiB that every setting makes smaller: each sample costs, and what all samples share."""
    train = workload.config.train
    sample = 8.0 if workload.config.model.attn_implementation == "eager" else 4.0
    sample *= (0.5 if choice.precision != "fp32" else 1.0) * (2 if device == CPU else 1)
    sample *= 0.25 if train.gradient_checkpointing else 1.0
    shared = 0.0 if train.offload_optimizer else 12.0 / (ranks if choice.zero_stage == 2 else 1)
    total = sample * train.batch_size + shared + 1.0
    return RankMemory(round(total * GIB), 0, 0, 0, 0, 0, 0, gradients_complete=0)


def tried_one_by_one(
    run: Workload, device: Device, limit: float, ranks: int, levels: list[dict[str, Any]]
) -> dict[str, str] | None:
    """Overrides of the first level that fits, with its largest micro-batch."""
    whole, effective = run.config.train.batch_size, run.global_batch(1)
    sizes = [n for n in range(whole, 0, -1) if effective % n == 0]
    for level, size in [({}, whole), *((level, n) for level in levels for n in sizes)]:
        counts = {"train.batch_size": size, "train.accumulation_steps": effective // size}
        tried = run.changed(level | counts)
        if by_formula(tried, choose(tried, device), device, ranks).total_gib <= limit:
            chosen = level | (counts if size != whole else {})
            return {key: str(value).lower() for key, value in chosen.items()}
    return None


@pytest.mark.parametrize(
    ("overrides", "device", "ranks", "levels"),
    [
        *(
            ((*DEAR, f"train.batch_size={n}", f"train.accumulation_steps={m}"), GPU, ranks, LEVELS)
            for n, m in ((12, 1), (12, 5), (7, 2), (1, 4))
            for ranks in (1, 4)
        ),
        # A recipe's own settings are not proposed again.
        (
            ("train.gradient_checkpointing=true", "train.zero_stage=2", "train.precision=fp16"),
            *(GPU, 1, [{}, OFFLOAD]),
        ),
        # A CPU has neither half precision nor ZeRO.
        (DEAR, CPU, 1, [SDPA, SDPA | CHECKPOINTING]),
    ],
)
def test_the_cheapest_settings_that_fit_and_their_largest_micro_batch(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    device: Device,
    ranks: int,
    levels: list[dict[str, Any]],
) -> None:
    monkeypatch.setattr(planner_memory, "memory_of", by_formula)
    run, met = workload(*overrides), set()
    for limit in (200, 110, 77, 62, 61, 50, 37, 30, 20, 17, 16, 14.1, 13.5, 10, 5, 4, 2.5, 1.4, 1):
        found, expected = (
            find_fit(run, device, limit, ranks),
            tried_one_by_one(run, device, limit, ranks, levels),
        )
        assert (found and found.overrides) == expected
        if found is not None:
            assert found.workload.global_batch(1) == run.global_batch(1)
            assert found.memory.total_gib <= limit
        met.add(len(expected) if expected is not None else None)
    assert met >= {0, None}
    assert len(met) > 2


def recomputed(run: Workload, found: Fit, ranks: int) -> RankMemory:
    """Memory of the recipe with the overrides pasted behind it, as a user would."""
    values = {
        f"{section}.{key}": value
        for section in ("model", "train", "data", "eval")
        for key, value in vars(getattr(run.config, section)).items()
    }
    own = [f"{k}={v}" for k, v in values.items() if isinstance(v, bool | int | float | str)]
    pasted = load_recipe("quickstart", [*ONE_LABEL.split(), *own, *found.to_paste().split()])
    assert pasted == found.workload.config
    again = replace(run, config=pasted)
    return memory_of(again, choose(again, GPU), GPU, ranks)


LARGE = "model.hidden_size=1024 model.intermediate_size=4096 train.batch_size=2".split()
SMALL = [*DEAR, "model.context_length=96", "train.batch_size=4"]
MIDDLE = (
    "model.attn_implementation=eager model.hidden_size=256 model.num_attention_heads=16 "
    "model.intermediate_size=1024 model.context_length=64 train.batch_size=4"
).split()


@pytest.mark.parametrize(
    ("overrides", "ranks", "limit_mib", "expected"),
    [
        (SMALL, 1, 2.0, {}),
        (SMALL, 1, 1.3, FREE),
        (SMALL, 1, 0.8, FREE | {"train.batch_size": 2, "train.accumulation_steps": 2}),
        (
            *(SMALL, 1, 0.5),
            FREE | CHECKPOINTING | {"train.batch_size": 1, "train.accumulation_steps": 4},
        ),
        (SMALL, 1, 0.3, None),
        # 25 million parameters and two samples: weights, gradients and optimizer are what counts.
        (LARGE, 4, 300, CHECKPOINTING | ZERO),
        (LARGE, 4, 250, CHECKPOINTING | ZERO | OFFLOAD),
        (LARGE, 4, 100, None),
        # Accumulation keeps all gradients: the full micro-batch fits here, smaller ones don't.
        (MIDDLE, 1, 26.7, SDPA),
    ],
)
def test_what_fits_on_real_traces(
    workload: MakeWorkload,
    overrides: list[str],
    ranks: int,
    limit_mib: float,
    expected: dict[str, Any] | None,
) -> None:
    run = workload(*overrides)
    limit = (CONTEXT + CUBLAS + limit_mib * 2**20) / GIB
    found = find_fit(run, GPU, limit, ranks)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.overrides == {key: str(value).lower() for key, value in expected.items()}
    assert found.memory == recomputed(run, found, ranks)
    assert found.memory.total_gib <= limit
