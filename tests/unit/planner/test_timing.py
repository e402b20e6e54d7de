"""Time of an epoch and a run by hand, on a device that does ten samples a second; and the workload
that is timed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLForClassification
from timerxl.planner.communication import INTERCONNECTS, Interconnect
from timerxl.planner.devices import DEVICES
from timerxl.planner.solo_rank import zero_windows
from timerxl.planner.timing import Rate, assumed_rate, predict_scaling, predict_time
from timerxl.planner.workload import Choice, Workload, launches_per_micro_batch, read_workload
from timerxl.training.dataloader import BatchPlan

MakeWorkload = Callable[..., Workload]
LINK = Interconnect("wire", gb_per_s=2e-3, efficiency=0.5, latency_us=1000.0)  # 1e6 bytes/s
# Seven months of five regions.
REAL = (
    "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
    "model.hidden_size=16 model.intermediate_size=32"
).split()


def forward_flops(tokens: int = 12, size: int = 32, inner: int = 64, layers: int = 2) -> int:
    """Two operations per multiply-add; patches of 4 in, 128 wide head, 2 labels, mean pooling."""
    products = 4 * tokens * size**2 + 2 * tokens**2 * size + 2 * tokens * size * inner
    return 2 * (layers * products + tokens * 4 * size + size * 4 + 4 * 128 + 128 * 2)


def ten_a_second(workload: Workload, precision: str = "fp32") -> Rate:
    return Rate("paper", precision, 10 * 3 * forward_flops() / 1e12)


def test_operations_against_torch_s_own_count(workload: MakeWorkload) -> None:
    run = workload("model.attn_implementation=eager")
    model = TimerXLForClassification._from_config(
        copy.deepcopy(run.model), attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**zero_windows(run.model, 1))
    assert counter.get_total_flops() == forward_flops()
    assert run.flops_per_sample(training=False) == forward_flops()
    assert run.flops_per_sample() == 3 * forward_flops()
    # Checkpointing computes the layers once more; evaluation does not change.
    light = run.changed(train__gradient_checkpointing=True)
    layers = 2 * 2 * (4 * 12 * 32**2 + 2 * 12**2 * 32 + 2 * 12 * 32 * 64)
    assert light.flops_per_sample() == 3 * forward_flops() + layers
    assert light.flops_per_sample(training=False) == forward_flops()
    assert run.num_parameters == sum(p.numel() for p in model.parameters())
    assert run.tokens_per_sample == 3 * 4


def test_an_epoch_and_a_run_by_hand(workload: MakeWorkload) -> None:
    run = workload("train.epochs=3")
    found = predict_time(run, ten_a_second(run), 1, 0, None)
    assert found.train_seconds_per_epoch == pytest.approx(100.0)  # 1000 windows
    assert found.samples_per_s == pytest.approx(10.0)
    # Forward alone is a third: 30 a second, 200 validation and 300 test windows.
    assert found.evaluation_seconds_per_epoch == pytest.approx(200 / 30)
    assert (found.steps_per_epoch, found.num_steps) == (125, 375)
    # Validation after each epoch and once more for the best model, which then sees the test split.
    assert found.run_seconds == pytest.approx(3 * 100 + 4 * 200 / 30 + 300 / 30)
    assert found.run_seconds / 60 == pytest.approx(5.611, abs=1e-3)


@pytest.mark.parametrize(
    ("max_steps", "epochs", "evaluations"),
    [(300, 2.4, 3), (250, 2.0, 2), (1, 0.008, 1), (125, 1.0, 1), (126, 1.008, 2)],
)
def test_max_steps_wins_over_epochs(
    workload: MakeWorkload, max_steps: int, epochs: float, evaluations: int
) -> None:
    run = workload("train.epochs=30", f"train.max_steps={max_steps}")
    found = predict_time(run, ten_a_second(run), 1, 0, None)
    assert (found.num_steps, found.steps_per_epoch) == (max_steps, 125)
    expected = epochs * 100 + (evaluations + 1) * 200 / 30 + 10
    assert found.run_seconds == pytest.approx(expected)


def test_several_gpus_share_an_epoch_and_wait_for_each_step(workload: MakeWorkload) -> None:
    run = workload("train.epochs=2", "train.accumulation_steps=2")
    alone = predict_time(run, ten_a_second(run), 4, 0, None)
    assert alone.steps_per_epoch == 16  # 64 windows at once: 15.6 steps
    assert alone.train_seconds_per_epoch == pytest.approx(25.0)
    assert (
        predict_time(run, ten_a_second(run), 4, 0, LINK).train_seconds_per_epoch == 25.0
    )  # hidden
    slow = replace(LINK, gb_per_s=LINK.gb_per_s / 20)
    found = predict_time(run, ten_a_second(run), 4, 0, slow)
    # fp32 gradients around a ring of four, one bucket, two hops of log2(4) at 1 ms each; they hide
    # behind backward, two thirds of the last micro-batch of eight samples.
    sent = 20 * 2 * 3 / 4 * 4 * run.num_parameters / 1e6 + 2 * 2 * 1e-3 - 2 / 3 * 8 / 10
    assert sent > 0
    assert found.train_seconds_per_epoch == pytest.approx(25 + 16 * sent)
    assert found.samples_per_s == pytest.approx(1000 / (25 + 16 * sent))
    validation = 200 / 30 / 4
    assert found.evaluation_seconds_per_epoch == pytest.approx(validation)
    total = 2 * (25 + 16 * sent) + 3 * validation + 300 / 30 / 4
    assert found.run_seconds == pytest.approx(total)
    assert predict_time(run, ten_a_second(run), 1, 0, LINK).train_seconds_per_epoch == 100.0


@pytest.mark.parametrize(("precision", "element"), [("bf16", 2), ("fp16", 2), ("fp32", 4)])
def test_what_zero_2_sends_by_hand(workload: MakeWorkload, precision: str, element: int) -> None:
    run = workload("train.accumulation_steps=3")
    found = predict_scaling(run, ten_a_second(run, precision), 2, 2, LINK)
    size = element * run.num_parameters
    # All-reduce after each of three micro-batches, all-gather once; both ranks send half a ring.
    assert found.gib_per_step == pytest.approx((3 * size + size / 2) / 1024**3)
    assert found.seconds == pytest.approx(3.5 * size / 1e6 + 4 * 2 * 1e-3)
    assert found.compute_seconds == pytest.approx(3 * 8 / 10)
    plain = predict_scaling(run, ten_a_second(run, precision), 2, 0, LINK)
    assert plain.gib_per_step == pytest.approx(4 * run.num_parameters / 1024**3)


@pytest.mark.parametrize("size", [25 * 2**20 // 4, 50_000_000])
def test_messages_by_the_size_of_a_bucket(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """DistributedDataParallel's 25 MiB of fp32, DeepSpeed's 50 million elements."""
    stage, each = (0, 1) if size < 10_000_000 else (2, 2)
    link = Interconnect("latency", gb_per_s=1e9, efficiency=1.0, latency_us=1e6)
    run = workload()
    for count, buckets in ((size, 1), (size + 1, 2)):
        monkeypatch.setattr(Workload, "num_parameters", count)
        found = predict_scaling(run, ten_a_second(run), 2, stage, link)
        assert found.seconds == pytest.approx(each * buckets * 2, rel=1e-6)


@pytest.mark.parametrize("name", INTERCONNECTS)
@pytest.mark.parametrize("stage", [0, 2])
def test_more_gpus_are_never_more_efficient(workload: MakeWorkload, name: str, stage: int) -> None:
    run, link = workload("train.accumulation_steps=2"), INTERCONNECTS[name]
    rate = Rate("fast", "bf16", 10.0)
    found = [predict_scaling(run, rate, n, stage, link) for n in (1, 2, 3, 4, 8, 16, 64)]
    for key in ("efficiency", "efficiency_overlapped"):
        values = [getattr(item, key) for item in found]
        assert values == sorted(values, reverse=True)
        assert values[0] == 1.0
        assert 0 < values[-1] < 1
    assert all(item.efficiency <= item.efficiency_overlapped for item in found)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_hiding_batch_by_trying_all(workload: MakeWorkload, accumulation: int) -> None:
    """Two thirds of a micro-batch's computation against its gradients' way around the ring."""
    run = workload(f"train.accumulation_steps={accumulation}")
    link = Interconnect("wire", gb_per_s=0.1, efficiency=1.0, latency_us=0.0)
    rate = Rate("fast", "bf16", 0.01)
    gradients = 2 * 3 / 4 * 2 * run.num_parameters / 0.1e9
    sample = 3 * forward_flops() / 0.01e12
    hides = [b for b in range(1, 200) if 2 / 3 * sample * b >= gradients]
    assert hides[0] > 2
    for batch_size in (1, 8, 100):
        tried = run.changed(train__batch_size=batch_size)
        assert predict_scaling(tried, rate, 4, 2, link).hiding_batch == hides[0]


def test_a_changed_workload_leaves_the_first_alone(workload: MakeWorkload) -> None:
    run = workload()
    before, model = copy.deepcopy(asdict(run.config)), run.model.to_dict()
    changed = run.changed(train__batch_size=2, model__attn_implementation="eager")
    changed.config.data.synthetic.seed = 99
    changed.model.hidden_size = 64
    assert asdict(run.config) == before
    assert run.model.to_dict() == model
    assert (changed.config.train.batch_size, changed.config.model.attn_implementation) == (
        2,
        "eager",
    )
    assert changed.config.train.epochs == run.config.train.epochs
    assert changed.windows == run.windows
    assert changed.global_batch(3) == 6


@pytest.mark.parametrize(("batch", "accumulation", "ranks"), [(8, 1, 1), (7, 3, 4), (1000, 1, 1)])
def test_steps_of_an_epoch_are_the_loop_s(
    workload: MakeWorkload, batch: int, accumulation: int, ranks: int
) -> None:
    run = workload(f"train.batch_size={batch}", f"train.accumulation_steps={accumulation}")
    plan = BatchPlan(1000, batch, accumulation, ranks, rank=0, seed=0)
    assert run.steps_per_epoch(ranks) == plan.steps_per_epoch
    assert run.global_batch(ranks) == plan.global_batch_size


def test_windows_are_counted_on_the_series() -> None:
    config = load_recipe("quickstart", REAL)
    windows = build_windows(load_series(config.data), config.data, 16)
    counts = {split: len(windows.labels_of(split)) for split in ("train", "validation", "test")}
    run = read_workload(config)
    assert run.windows == counts
    assert min(counts.values()) > 100
    assert (run.step_hours, run.context_days, run.is_synthetic) == (12.0, 8.0, True)
    # 1 June to 31 December, from midnight to noon of the last day at most.
    assert 213.0 - 1.0 < run.series_days < 214.0
    assert run.model.num_variables == len(windows.series.feature_names)
    assert run.model.num_static_real_features == len(windows.static_feature_names) > 0

    limited = read_workload(load_recipe("quickstart", [*REAL, "eval.max_windows=50"]))
    assert limited.windows == counts | {"validation": 50, "test": 50}
    rate = Rate("paper", "fp32", 30 * run.flops_per_sample(training=False) / 1e12)
    all_, fifty = (predict_time(w, rate, 1, 0, None) for w in (run, limited))
    assert fifty.train_seconds_per_epoch == all_.train_seconds_per_epoch
    assert all_.evaluation_seconds_per_epoch == pytest.approx(counts["validation"] / 30)
    assert fifty.evaluation_seconds_per_epoch == pytest.approx(50 / 30)
    saved = 2 * (counts["validation"] - 50) / 30 + (counts["test"] - 50) / 30
    assert all_.run_seconds - fifty.run_seconds == pytest.approx(saved)
    many = read_workload(load_recipe("quickstart", [*REAL, "eval.max_windows=100000"]))
    assert many.windows == counts


def test_a_batch_larger_than_the_split_is_refused() -> None:
    config = load_recipe("quickstart", [*REAL, "train.batch_size=800"])
    train = read_workload(config).windows["train"]
    assert 800 < train < 1600
    config.train.accumulation_steps = 2
    with pytest.raises(InputError) as caught:
        read_workload(config)
    message = str(caught.value)
    assert message.startswith("train.batch_size 800 x train.accumulation_steps 2 = 1600 is larger")
    assert f"{train:,} windows" in message


def test_an_assumed_step_takes_at_least_its_launches(workload: MakeWorkload) -> None:
    """1,000 windows, 8 at once: 125 steps of one micro-batch, or 63 of two."""
    for accumulation, micro_batches in ((1, 125), (2, 126)):
        run = workload(f"train.accumulation_steps={accumulation}")
        launches = launches_per_micro_batch(run, Choice("bf16", 0))
        rate = assumed_rate(DEVICES["a100"], "bf16")
        found = predict_time(run, rate, 1, 0, None)
        expected = micro_batches * launches * 5e-6
        assert expected > 10 * 1000 * run.flops_per_sample() / (0.3 * 312e12)
        assert found.train_seconds_per_epoch == pytest.approx(expected)
        # What was measured is taken as it is; behind a slow rate the launches hide.
        measured = predict_time(run, replace(rate, launch_seconds=0.0), 1, 0, None)
        assert measured.train_seconds_per_epoch < expected / 10
        computed = 1000 * run.flops_per_sample() / 1e8
        assert computed > expected
        slow = predict_time(run, replace(rate, tflops=1e-4), 1, 0, None)
        assert slow.train_seconds_per_epoch == pytest.approx(computed)
