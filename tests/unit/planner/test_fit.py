"""What fits, against all settings tried one by one: on a memory of our own making, then on real
traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from timerxl.config import load_recipe
from timerxl.planner import fit as planner_fit
from timerxl.planner.devices import GIB, Device
from timerxl.planner.fit import Fit, find_fit
from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Choice, Workload, choose, memory_of

MakeWorkload = Callable[..., Workload]
GPU = Device("paper", 100.0, {"fp32": 10.0, "fp16": 100.0, "bf16": 100.0})
CPU = Device("cpu", 100.0, {}, is_cpu=True)
# In order of cost; each keeps what came before it.
FREE = {"model.attn_implementation": "sdpa", "train.precision": "auto"}
LEVELS: list[dict[str, Any]] = [
    FREE,
    FREE | {"train.gradient_checkpointing": True},
    FREE | {"train.gradient_checkpointing": True, "train.zero_stage": 2},
    FREE
    | {
        "train.gradient_checkpointing": True,
        "train.zero_stage": 2,
        "train.offload_optimizer": True,
    },
]
DEAR = ("model.attn_implementation=eager", "train.precision=fp32")


def with_settings(workload: Workload, settings: dict[str, Any]) -> Workload:
    return workload.changed(**{key.replace(".", "__"): v for key, v in settings.items()})


def by_formula(
    workload: Workload,
    choice: Choice,
    *,
    ranks: int = 1,
    on_gpu: bool = True,
    device: Device | None = None,
) -> RankMemory:
    """GiB that every setting makes smaller: each sample costs, and what all samples share."""
    train = workload.config.train
    sample = 8.0 if workload.config.model.attn_implementation == "eager" else 4.0
    sample *= (0.5 if choice.precision != "fp32" else 1.0) * (1 if on_gpu else 2)
    sample *= 0.25 if train.gradient_checkpointing else 1.0
    shared = 0.0 if train.offload_optimizer else 12.0 / (ranks if choice.zero_stage == 2 else 1)
    total = sample * train.batch_size + shared + 1.0
    return RankMemory(round(total * GIB), 0, 0, 0, 0, 0, 0, gradients_complete=0)


def tried_one_by_one(
    run: Workload, device: Device, limit: float, ranks: int, levels: list[dict[str, Any]]
) -> tuple[dict[str, Any], int] | None:
    """(settings, micro-batch): the first level that fits, with its largest micro-batch."""
    train = run.config.train
    effective = train.batch_size * train.accumulation_steps
    sizes = [n for n in range(train.batch_size, 0, -1) if effective % n == 0]
    candidates = [({}, train.batch_size), *((level, n) for level in levels for n in sizes)]
    for level, size in candidates:
        tried = with_settings(run, level).changed(
            train__batch_size=size, train__accumulation_steps=effective // size
        )
        memory = by_formula(tried, choose(tried, device), ranks=ranks, on_gpu=not device.is_cpu)
        if memory.total_gib <= limit:
            return level, size
    return None


def check(found: Fit | None, run: Workload, expected: tuple[dict[str, Any], int] | None) -> None:
    if expected is None:
        assert found is None
        return
    assert found is not None
    level, size = expected
    train = run.config.train
    effective = train.batch_size * train.accumulation_steps
    overrides = {key: str(value).lower() for key, value in level.items()}
    if size != train.batch_size:
        overrides |= {
            "train.batch_size": str(size),
            "train.accumulation_steps": str(effective // size),
        }
    assert found.overrides == overrides
    chosen = found.workload.config.train
    assert chosen.batch_size * chosen.accumulation_steps == effective


LIMITS = (200.0, 110.0, 100.0, 62.0, 61.0, 37.0, 30.0, 17.0, 16.0, 14.1, 13.6, 13.5, 10.0, 8.5, 5.0)


@pytest.mark.parametrize(("batch", "accumulation"), [(12, 1), (12, 5), (7, 2), (1, 4)])
@pytest.mark.parametrize("ranks", [1, 4])
def test_the_cheapest_level_and_its_largest_micro_batch(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    accumulation: int,
    ranks: int,
) -> None:
    monkeypatch.setattr(planner_fit, "memory_of", by_formula)
    counts = (f"train.batch_size={batch}", f"train.accumulation_steps={accumulation}")
    run = workload(*DEAR, *counts)
    levels_met = set()
    for limit in (*LIMITS, 4.5, 4.0, 2.5, 1.5, 1.4, 0.5):
        expected = tried_one_by_one(run, GPU, limit, ranks, LEVELS)
        check(find_fit(run, GPU, limit, ranks), run, expected)
        levels_met.add(len(expected[0]) if expected else None)
    assert levels_met >= {0, 2, 5, None}
    assert (4 in levels_met) == (ranks == 4)  # one rank has nobody to divide with


def test_a_recipe_s_own_settings_are_not_proposed_again(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_fit, "memory_of", by_formula)
    run = workload(
        "train.gradient_checkpointing=true", "train.zero_stage=2", "train.precision=fp16"
    )
    levels: list[dict[str, Any]] = [{}, {"train.offload_optimizer": True}]
    for limit in (200.0, 17.0, 15.0, 13.6, 10.0, 5.0, 2.0, 1.6, 1.0):
        check(find_fit(run, GPU, limit, 1), run, tried_one_by_one(run, GPU, limit, 1, levels))


def test_a_cpu_has_neither_half_precision_nor_zero(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner_fit, "memory_of", by_formula)
    run = workload(*DEAR)
    sdpa = {"model.attn_implementation": "sdpa"}
    levels: list[dict[str, Any]] = [sdpa, sdpa | {"train.gradient_checkpointing": True}]
    for limit in (200.0, 77.0, 70.0, 50.0, 21.0, 20.0, 15.0, 14.0):
        check(find_fit(run, CPU, limit, 1), run, tried_one_by_one(run, CPU, limit, 1, levels))
    assert find_fit(run, CPU, 14.0, 1) is None


def recomputed(run: Workload, found: Fit, device: Device, ranks: int) -> RankMemory:
    """Memory of the recipe with the overrides pasted behind it, as a user would."""
    pasted = load_recipe("quickstart", [*pasteable(run), *found.to_paste().split()])
    assert pasted == found.workload.config
    again = Workload(**{**vars(run), "config": pasted})
    return memory_of(again, choose(again, device), ranks=ranks)


def pasteable(run: Workload) -> list[str]:
    """Every setting of the run as an override."""
    values = {
        f"{section}.{key}": value
        for section in ("model", "train", "data", "eval")
        for key, value in vars(getattr(run.config, section)).items()
    }
    plain = {k: v for k, v in values.items() if isinstance(v, bool | int | float | str)}
    return [f"{key}={value}" for key, value in plain.items()]


MIB = 1 / 1024
CONTEXT = 0.45 + 8_519_680 / 1024**3  # and cuBLAS's workspace


@pytest.mark.parametrize(
    ("limit_mib", "expected"),
    [
        (2.0, {}),
        (1.3, FREE),
        (0.8, FREE | {"train.batch_size": "2", "train.accumulation_steps": "2"}),
        (
            0.5,
            FREE
            | {
                "train.gradient_checkpointing": "true",
                "train.batch_size": "1",
                "train.accumulation_steps": "4",
            },
        ),
        (0.3, None),
    ],
)
def test_a_small_model_on_real_traces(
    workload: MakeWorkload, limit_mib: float, expected: dict[str, str] | None
) -> None:
    run = workload(*DEAR, "model.context_length=96", "train.batch_size=4")
    limit = CONTEXT + limit_mib * MIB
    found = find_fit(run, GPU, limit, 1)
    assert (found and found.overrides) == expected
    if found is None:
        return
    assert found.memory == recomputed(run, found, GPU, 1)
    assert found.memory.total_gib <= limit
    one_more = found.workload.config.train.batch_size * 2
    if one_more <= 4:
        larger = found.workload.changed(
            train__batch_size=one_more, train__accumulation_steps=4 // one_more
        )
        assert memory_of(larger, choose(larger, GPU)).total_gib > limit


def test_a_wide_model_is_sharded_then_offloaded(workload: MakeWorkload) -> None:
    """25 million parameters and two samples: weights, gradients and optimizer are what counts."""
    overrides = "model.hidden_size=1024 model.intermediate_size=4096 train.batch_size=2".split()
    run = workload(*overrides)
    zero = {"train.gradient_checkpointing": "true", "train.zero_stage": "2"}
    for limit_mib, expected in (
        (300, zero),
        (250, zero | {"train.offload_optimizer": "true"}),
        (100, None),
    ):
        limit = CONTEXT + limit_mib * MIB
        found = find_fit(run, GPU, limit, 4)
        assert (found and found.overrides) == expected
        if found is not None:
            assert found.memory == recomputed(run, found, GPU, 4)
            assert found.memory.total_gib <= limit


def test_a_smaller_micro_batch_can_need_more(workload: MakeWorkload) -> None:
    """Accumulation keeps all gradients: the full micro-batch fits here, smaller ones don't."""
    gpu = Device("paper", 100.0, {"fp32": 10.0, "fp16": 100.0, "bf16": 100.0})
    run = workload(
        "model.attn_implementation=eager",
        "model.hidden_size=256",
        "model.num_attention_heads=16",
        "model.intermediate_size=1024",
        "model.context_length=64",
        "train.batch_size=4",
    )
    found = find_fit(run, gpu, CONTEXT + 26.7 / 1024, 1)
    assert found is not None
    assert found.overrides == {"model.attn_implementation": "sdpa"}
    assert found.memory.total_gib <= CONTEXT + 26.7 / 1024
