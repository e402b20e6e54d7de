"""Time of an epoch and a run by hand, on a device that does ten samples a second; communication
against a simulated ring; and rates measured against a clock of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.tiling import LabelTiling
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLForClassification
from timerxl.planner import throughput
from timerxl.planner.devices import DEVICES, INTERCONNECTS, Device, Interconnect
from timerxl.planner.throughput import (
    Rate,
    assumed_rate,
    calibrate,
    duration,
    launches_per_micro_batch,
    predict_scaling,
    predict_time,
)
from timerxl.planner.trace import zero_windows
from timerxl.planner.workload import Choice, Workload, read_workload
from timerxl.training.dataloader import BatchPlan

MakeWorkload = Callable[..., Workload]
LINK = Interconnect("wire", gb_per_s=2e-3, efficiency=0.5, latency_us=1000.0)  # 1e6 bytes/s
# Seven months of five regions.
REAL = (
    "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
    "model.hidden_size=16 model.intermediate_size=32 train.batch_size=64 "
    "data.labels=last data.regions_together=none loss.next_patch_weight=0"
).split()


def forward_flops(tokens: int = 12, size: int = 32, inner: int = 64, layers: int = 2) -> int:
    """Two operations per multiply-add; patches of 4 in, 128 wide head, 2 labels, mean pooling."""
    products = 4 * tokens * size**2 + 2 * tokens**2 * size + 2 * tokens * size * inner
    return 2 * (layers * products + tokens * 4 * size + size * 4 + 4 * 128 + 128 * 2)


def ten_a_second(precision: str = "fp32") -> Rate:
    return Rate("mine", precision, 10 * 3 * forward_flops() / 1e12)


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
    light = run.changed({"train.gradient_checkpointing": True})
    layers = 2 * 2 * (4 * 12 * 32**2 + 2 * 12**2 * 32 + 2 * 12 * 32 * 64)
    assert light.flops_per_sample() == 3 * forward_flops() + layers
    assert light.flops_per_sample(training=False) == forward_flops()
    assert run.num_parameters == sum(p.numel() for p in model.parameters())
    assert run.tokens_per_sample == 3 * 4


@pytest.mark.parametrize(
    ("max_steps", "epochs", "evaluations"),
    [(None, 3, 3), (300, 2.4, 3), (250, 2.0, 2), (1, 0.008, 1), (125, 1.0, 1), (126, 1.008, 2)],
)
def test_an_epoch_and_a_run_by_hand(
    workload: MakeWorkload, max_steps: int | None, epochs: float, evaluations: int
) -> None:
    """1000 windows; forward alone is a third: 30 a second of 200 validation, 300 test windows."""
    run = workload("train.epochs=3").changed({"train.max_steps": max_steps})
    found = predict_time(run, ten_a_second(), 1, 0, None)
    assert found.train_seconds_per_epoch == pytest.approx(100.0)
    assert found.samples_per_s == pytest.approx(10.0)
    assert found.evaluation_seconds_per_epoch == pytest.approx(200 / 30)
    assert (found.steps_per_epoch, found.num_steps) == (125, max_steps or 375)
    # Validation after each epoch and once more for the best model, which then sees the test split.
    expected = epochs * 100 + (evaluations + 1) * 200 / 30 + 300 / 30
    assert found.run_seconds == pytest.approx(expected)


def test_several_gpus_share_an_epoch_and_wait_for_each_step(workload: MakeWorkload) -> None:
    run = workload("train.epochs=2", "train.accumulation_steps=2")
    for link in (None, LINK):  # communication is hidden
        found = predict_time(run, ten_a_second(), 4, 0, link)
        assert found.steps_per_epoch == 16  # 64 windows at once: 15.6 steps
        assert found.train_seconds_per_epoch == pytest.approx(25.0)
    slow = replace(LINK, gb_per_s=LINK.gb_per_s / 20)
    found = predict_time(run, ten_a_second(), 4, 0, slow)
    # fp32 gradients around a ring of four, one bucket, two hops of log2(4) at 1 ms each; they hide
    # behind backward, two thirds of the last micro-batch of eight samples.
    sent = 20 * 2 * 3 / 4 * 4 * run.num_parameters / 1e6 + 2 * 2 * 1e-3 - 2 / 3 * 8 / 10
    assert sent > 0
    assert found.train_seconds_per_epoch == pytest.approx(25 + 16 * sent)
    validation = 200 / 30 / 4
    assert found.evaluation_seconds_per_epoch == pytest.approx(validation)
    total = 2 * (25 + 16 * sent) + 3 * validation + 300 / 30 / 4
    assert found.run_seconds == pytest.approx(total)


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
        slow = predict_time(run, replace(rate, tflops=1e-4), 1, 0, None)
        computed = 1000 * run.flops_per_sample() / 1e8
        assert slow.train_seconds_per_epoch == pytest.approx(computed)


def test_launches_grow_with_layers_and_recomputation(workload: MakeWorkload) -> None:
    def launches(*overrides: str) -> int:
        return launches_per_micro_batch(workload(*overrides), Choice("fp32", 0))

    two, three, four = (launches(f"model.num_hidden_layers={n}") for n in (2, 3, 4))
    assert four - three == three - two > 20  # a layer has 10 products forward and 20 backward
    assert launches("train.gradient_checkpointing=true") > two
    assert launches("train.accumulation_steps=4", "train.batch_size=2") == two


def ring_all_reduce(ranks: int, elements: int) -> int:
    """Sum vectors around a ring; elements that one rank sent."""
    held = np.arange(ranks * elements, dtype=np.int64).reshape(ranks, ranks, -1)
    expected, sent = held.reshape(ranks, elements).sum(0), 0
    for phase in ("reduce-scatter", "all-gather"):
        for turn in range(ranks - 1):
            first = 0 if phase == "reduce-scatter" else 1
            chunks = [(rank - turn + first) % ranks for rank in range(ranks)]
            messages = [held[rank, chunk].copy() for rank, chunk in enumerate(chunks)]
            sent += messages[0].size
            for rank, (chunk, message) in enumerate(zip(chunks, messages, strict=True)):
                after = (rank + 1) % ranks
                held[after, chunk] = message + (0 if first else held[after, chunk])
    assert (held.reshape(ranks, elements) == expected).all()
    return sent


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(("precision", "element"), [("bf16", 2), ("fp16", 2), ("fp32", 4)])
def test_a_step_sends_what_a_ring_moves(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    precision: str,
    element: int,
) -> None:
    monkeypatch.setattr(Workload, "num_parameters", 4800)
    run, moved = workload("train.accumulation_steps=3"), ring_all_reduce(ranks, 4800)
    rate, hops = ten_a_second(precision), 2 * np.log2(ranks) * 1e-3
    zero = predict_scaling(run, rate, ranks, 2, LINK)
    # ZeRO-2: after each of three micro-batches, then the updated weights, half a ring.
    assert zero.gib_per_step == pytest.approx(3.5 * moved * element / 1024**3)
    assert zero.seconds == pytest.approx(3.5 * moved * element / 1e6 + 4 * hops)
    assert zero.compute_seconds == pytest.approx(3 * 8 / 10)
    assert zero.efficiency == pytest.approx(2.4 / (2.4 + zero.seconds))
    # Without ZeRO fp32 gradients, once a step.
    plain = predict_scaling(run, rate, ranks, 0, LINK)
    assert plain.gib_per_step == pytest.approx(4 * moved / 1024**3)
    assert plain.seconds == pytest.approx(4 * moved / 1e6 + hops)


@pytest.mark.parametrize(("stage", "slow"), [(0, 1), (0, 1e-3), (2, 1), (2, 1e-3)])
def test_gradients_hide_behind_backward(workload: MakeWorkload, stage: int, slow: float) -> None:
    """Two thirds of a micro-batch of 8 samples: under ZeRO-2 behind each of three, and the weights
    are gathered in plain sight; without it behind the last one alone."""
    run = workload("train.accumulation_steps=3")
    link = replace(LINK, gb_per_s=LINK.gb_per_s * slow)
    found = predict_scaling(run, ten_a_second(), 2, stage, link)
    way = 4 * run.num_parameters / (1e6 * slow) + 2e-3
    exposed = max(0.0, way - 2 / 3 * 0.8)
    if stage == 2:
        exposed = 3 * exposed + way / 2 + 1e-3
    assert found.efficiency_overlapped == pytest.approx(2.4 / (2.4 + exposed))
    if stage == 0:
        assert found.efficiency == found.efficiency_overlapped


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
        found = predict_scaling(run, ten_a_second(), 2, stage, link)
        assert found.seconds == pytest.approx(each * buckets * 2, rel=1e-6)


@pytest.mark.parametrize("name", INTERCONNECTS)
@pytest.mark.parametrize("stage", [0, 2])
def test_more_gpus_are_never_more_efficient(workload: MakeWorkload, name: str, stage: int) -> None:
    run, link = workload("train.accumulation_steps=2"), INTERCONNECTS[name]
    rate = Rate("fast", "bf16", 10.0)
    found = [predict_scaling(run, rate, n, stage, link) for n in (1, 2, 3, 4, 8, 16, 64)]
    assert (found[0].seconds, found[0].gib_per_step, found[0].hiding_batch) == (0.0, 0.0, 1)
    for key in ("efficiency", "efficiency_overlapped"):
        values = [getattr(item, key) for item in found]
        assert values == sorted(values, reverse=True)
        assert values[0] == 1.0
        assert 0 < values[-1] < 1
    assert all(item.efficiency <= item.efficiency_overlapped for item in found)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", [0, 2])
def test_the_hiding_batch_by_trying_all(
    workload: MakeWorkload, accumulation: int, stage: int
) -> None:
    """Two thirds of a micro-batch's computation against its gradients' way around the ring."""
    run = workload(f"train.accumulation_steps={accumulation}")
    link = Interconnect("wire", gb_per_s=0.1, efficiency=1.0, latency_us=100.0)
    rate = Rate("fast", "bf16", 0.01)
    bytes_ = (2 if stage else 4) * run.num_parameters
    gradients = 2 * 3 / 4 * bytes_ / 0.1e9 + 2 * 2 * 100e-6
    sample = 3 * forward_flops() / 0.01e12
    hides = [b for b in range(1, 400) if 2 / 3 * sample * b >= gradients]
    assert hides[0] > 2
    for batch_size in (1, 8, 100):
        tried = run.changed({"train.batch_size": batch_size})
        assert predict_scaling(tried, rate, 4, stage, link).hiding_batch == hides[0]


def test_a_changed_workload_leaves_the_first_alone(workload: MakeWorkload) -> None:
    run = workload()
    before, model = copy.deepcopy(asdict(run.config)), run.model.to_dict()
    changed = run.changed({"train.batch_size": 2, "model.attn_implementation": "eager"})
    changed.config.data.synthetic.seed = 99
    changed.model.hidden_size = 64
    assert asdict(run.config) == before
    assert run.model.to_dict() == model
    assert changed.config.model.attn_implementation == "eager"
    assert (changed.global_batch(3), changed.windows) == (6, run.windows)


@pytest.mark.parametrize(("batch", "accumulation", "ranks"), [(8, 1, 1), (7, 3, 4), (1000, 1, 1)])
def test_steps_of_an_epoch_are_the_loop_s(
    workload: MakeWorkload, batch: int, accumulation: int, ranks: int
) -> None:
    run = workload(f"train.batch_size={batch}", f"train.accumulation_steps={accumulation}")
    plan = BatchPlan(1000, batch, accumulation, ranks, rank=0, seed=0)
    assert run.steps_per_epoch(ranks) == plan.steps_per_epoch
    assert run.global_batch(ranks) == plan.global_batch_size


@pytest.mark.parametrize(
    ("together", "mixing"),
    [("none", "attention"), ("all", "attention"), ("2", "attention"), ("all", "classifier")],
)
def test_windows_and_labels_are_counted_where_every_patch_has_a_label(
    together: str, mixing: str
) -> None:
    settings = [*REAL, "data.labels=every_patch", f"data.regions_together={together}"]
    settings += [f"model.region_mixing={mixing}", "data.exclude_features=null"]
    config = load_recipe("quickstart", settings)
    windows = build_windows(load_series(config.data), config.data, 16)
    run, regions = read_workload(config), 1 if together == "none" else 5
    assert run.train_labels == len(windows.labels_of("train"))
    tiling = LabelTiling.of(windows, 8)
    epochs = [len(tiling.tiles.epoch(np.random.default_rng(seed))) for seed in range(50)]
    assert max(epochs) <= run.windows["train"] < 1.1 * run.train_labels / (2 * regions) + 40
    seen = 3 if together == "2" else regions  # attended to at once
    seen = 1 if mixing == "classifier" else seen
    assert (run.label_patches, run.tokens_per_sample) == (2, 27 * 2 * seen)
    # Both layers for all tokens, and an answer for every label: more than one for each region.
    last = read_workload(load_recipe("quickstart", [*settings, "data.labels=last"]))
    assert 1 < run.flops_per_sample() / last.flops_per_sample() < 2
    assert run.flops_per_sample(training=False) == last.flops_per_sample(training=False)


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
    for limit, validation, test in ((50, 50, 50), (100_000, counts["validation"], counts["test"])):
        limited = read_workload(load_recipe("quickstart", [*REAL, f"eval.max_windows={limit}"]))
        assert limited.windows == counts | {"validation": validation, "test": test}


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


class Clock:
    """Real steps run; each takes ``seconds(batch size)``, on a CPU that is ours for one part in
    ``slowdown(number of the step)``."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        seconds: Callable[[int], float],
        slowdown: Callable[[int], float] = lambda number: 1.0,
    ) -> None:
        self.now, self.ran = 100.0, 7.0
        self.batches: list[int] = []
        self.dtypes: set[torch.dtype] = set()
        self.steps: list[Any] = []
        run_step = throughput.run_step

        def timed(step: Any, config: Any, batch_size: int, **labels: Any) -> None:
            self.ran += seconds(batch_size)
            self.now += seconds(batch_size) * slowdown(len(self.batches))
            self.batches.append(batch_size)
            self.steps.append(step)
            with step.model.timer_xl.layers[0].linear1.register_forward_hook(self._note):
                run_step(step, config, batch_size, **labels)

        clocks = {"perf_counter": lambda: self.now, "thread_time": lambda: self.ran}
        patch.setattr(throughput, "run_step", timed)
        patch.setattr(throughput, "time", SimpleNamespace(**clocks))

    def _note(self, module: Any, arguments: Any, output: torch.Tensor) -> None:
        self.dtypes.add(output.dtype)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device("cpu", 64.0, {}, is_cpu=True)
    monkeypatch.setattr(throughput, "device_at_hand", lambda: device)


def affine(batch_size: int) -> float:
    """Of a small model on a CPU: 8 ms a step and 2.7 ms a sample."""
    return 0.008 + 0.0027 * batch_size


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("budget", "batches"),
    [
        (30.0, [1, 1, 1, 1, 64, 64, 64, 64]),  # one unmeasured at each size
        (0.3, [1, 1, 1, 1, 6, 6, 6, 6]),  # what the budget has room for
        (0.02, [1, 1]),
    ],
)
@pytest.mark.parametrize("slowdown", [1.0, 1.2])
def test_a_rate_is_of_the_recipe_s_micro_batch(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    budget: float,
    batches: list[int],
    slowdown: float,
) -> None:
    run = workload("train.batch_size=64")
    clock = Clock(monkeypatch, affine, lambda number: 99.0 if number == 0 else slowdown)
    found = calibrate(run, "fp32", budget)
    if slowdown == 1.0:
        assert clock.batches == batches
    seconds = affine(64) if len(batches) > 2 else 64 * affine(1)
    assert found.tflops == pytest.approx(64 * run.flops_per_sample() / seconds / slowdown / 1e12)
    assert (found.device, found.precision) == ("cpu", "fp32")
    assert (found.peak_tflops, found.efficiency) == (None, None)
    assert found.slowdown == pytest.approx(1.0)
    assert (found.is_busy, clock.dtypes) == (False, {torch.float32})


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "slowdown",
    [
        lambda number: 10.0,  # other work all the time
        lambda number: (3.0, 30.0, 8.0)[number % 3],
        lambda number: 1.0 if number == 6 else 12.0,  # but for a moment
        lambda number: 80.0 if number < 3 else 1.0,  # gone after the first steps
        lambda number: 80.0 if number == 5 else 1.0,  # for a moment alone
    ],
)
@pytest.mark.parametrize("budget", [2.0, 30.0])
def test_other_work_on_the_machine_does_not_change_the_rate(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    slowdown: Callable[[int], float],
    budget: float,
) -> None:
    run = workload("train.batch_size=64")
    clock = Clock(monkeypatch, affine, slowdown)
    found = calibrate(run, "fp32", budget)
    assert found.tflops == pytest.approx(64 * run.flops_per_sample() / affine(64) / 1e12)
    beside = [slowdown(number) for number in range(5, 8)]
    assert found.slowdown == pytest.approx(sorted(beside)[1])
    assert found.is_busy == (found.slowdown > 2)
    assert len(clock.batches) == 8 or clock.now - 100.0 < 1.5 * budget + 80 * affine(1)


@pytest.mark.usefixtures("on_cpu")
def test_the_measured_step_is_the_recipe_s(
    workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workload("train.gradient_checkpointing=true", "model.attn_implementation=eager")
    clock = Clock(monkeypatch, lambda size: 0.1 * size)
    found = calibrate(run, "bf16")
    assert clock.dtypes == {torch.bfloat16}
    model = clock.steps[0].model
    assert model.is_activation_checkpointing
    assert model.config._attn_implementation == "eager"
    assert clock.steps[0].accumulation_steps == 1
    # Recomputation is work that is done and counted.
    assert found.tflops == pytest.approx(run.flops_per_sample() / 0.1 / 1e12)


@pytest.mark.parametrize(
    ("name", "tflops", "peak"),
    [("t4", DEVICES["t4"].tflops, 8.1), ("mine", {"fp32": 8.1}, None)],
)
def test_a_known_device_has_an_efficiency(
    workload: MakeWorkload,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    tflops: dict[str, float],
    peak: float | None,
) -> None:
    device = Device(name, 14.7, tflops, is_cpu=True)
    monkeypatch.setattr(throughput, "device_at_hand", lambda: device)
    Clock(monkeypatch, lambda size: 0.5 * size)
    found = calibrate(workload("train.batch_size=2"), "fp32")
    assert found.peak_tflops == peak
    assert found.efficiency == (pytest.approx(found.tflops / peak) if peak else None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "under 1 s"),
        (45.4, "45 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (172799, "48.0 h"),
        (172800, "2.0 days"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
