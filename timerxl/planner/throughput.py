"""Time of an epoch and of a run: operations, one rate per device, and communication.

A ring moves 2 (N-1)/N S bytes per rank to all-reduce S bytes and (N-1)/N S to all-gather them
(Patarasuk and Yuan 2009); each bucket starts with a latency that grows with log2 N, as NCCL's
trees do. ZeRO-2 in DeepSpeed all-reduces gradients bucket by bucket after EVERY micro-batch
(``use_multi_rank_bucket_allreduce``, on by default; the paper's reduce-scatter would be half of
it) and gathers the updated weights once a step.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import dataclass, replace

import torch

from timerxl.config import OptimConfig
from timerxl.planner.devices import (
    DEVICES,
    EFFICIENCY,
    LAUNCH_SECONDS,
    Device,
    Interconnect,
    device_at_hand,
)
from timerxl.planner.trace import FakeAccelerator, run_step, trace_step
from timerxl.planner.workload import Choice, Workload
from timerxl.training.assembly import HEADS, build_optimizer

DDP_BUCKET_ELEMENTS = 25 * 2**20 // 4  # DistributedDataParallel's default, fp32
BACKWARD_SHARE = 2 / 3  # of a training step's operations; what communication can hide behind
NUM_STEPS = 3  # measured at least, at the micro-batch that counts
FEW_SAMPLES = 4  # enough to tell what a step costs from what its samples cost
BUSY = 1.5  # steps that take so many times as long ran beside other work


@dataclass(frozen=True)
class Rate:
    """Operations a second of one device: ``tflops`` is what a run is expected to reach.

    ``launch_seconds`` is the least time of an operator, 0 where steps were measured; ``slowdown``
    is then how many times as long steps took beside what else ran on the machine.
    """

    device: str
    precision: str
    tflops: float
    peak_tflops: float | None = None
    efficiency: float | None = None
    launch_seconds: float = 0.0
    slowdown: float = 1.0

    @property
    def is_busy(self) -> bool:
        """Whether other work on the machine slowed the measured steps down."""
        return self.slowdown >= BUSY


def assumed_rate(device: Device, precision: str) -> Rate:
    """The table's peak rate times the assumed efficiency; InputError where there is no peak."""
    peak = device.peak_tflops(precision)
    return Rate(device.name, precision, peak * EFFICIENCY, peak, EFFICIENCY, LAUNCH_SECONDS)


def calibrate(workload: Workload, precision: str, budget_seconds: float = 30.0) -> Rate:
    """Measure the loop's step on the device at hand, within about the budget.

    On random weights and windows of zeros. The fastest of a few steps counts, since other work can
    only slow a step down. Where other work had the CPU for a good part of a step, the time that
    this thread ran counts instead of the clock's; ``slowdown`` says how far they are apart.
    """
    device = device_at_hand()
    kind = "cpu" if device.is_cpu else "cuda"
    train = workload.config.train
    model = (
        HEADS[workload.config.train.task]
        ._from_config(
            copy.deepcopy(workload.model),
            attn_implementation=workload.config.model.attn_implementation,
        )
        .to(kind)
    )
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if precision != "fp32":
        half = torch.bfloat16 if precision == "bf16" else torch.float16
        model.forward = torch.autocast(kind, dtype=half)(model.forward)
    optimizer = build_optimizer(model, OptimConfig())
    step = FakeAccelerator(optimizer, device=kind).training_step(model)

    def measure(batch_size: int) -> tuple[float, float]:
        """Seconds of a step by the clock, and on a machine that does nothing else."""
        started, had = time.perf_counter(), time.thread_time()
        run_step(step, workload.model, batch_size, label_patches=workload.label_patches)
        if kind == "cuda":
            torch.cuda.synchronize()
        clock, ran = time.perf_counter() - started, time.thread_time() - had
        return clock, ran if kind == "cpu" and clock >= BUSY * ran else clock

    measure(1)  # AdamW's state, first pages, kernels chosen
    ends = time.perf_counter() + budget_seconds
    alone = [measure(1)]
    while len(alone) < NUM_STEPS and ends - time.perf_counter() > 0.75 * budget_seconds:
        alone.append(measure(1))
    clock, one = map(min, zip(*alone, strict=True))
    room = (ends - time.perf_counter()) / (NUM_STEPS + 1) / clock
    # A few samples also where a moment of other work has used the budget up.
    room = max(room, min(FEW_SAMPLES, budget_seconds / (NUM_STEPS + 1) / one))
    batch_size, several = max(1, min(train.batch_size, int(room))), alone
    if batch_size > 1:
        measure(batch_size)
        several = [measure(batch_size) for _ in range(NUM_STEPS)]
    found = min(undisturbed for _, undisturbed in several)
    # A part of a step does not grow with the batch: more samples cost what further ones did.
    further = (found - one) / (batch_size - 1) if found > one else found / batch_size
    seconds = found + further * (train.batch_size - batch_size)
    slowdown = statistics.median(clock for clock, _ in several) / found
    tflops = train.batch_size * workload.flops_per_sample() / seconds / 1e12
    peak = device.tflops.get(precision) if device.name in DEVICES else None
    efficiency = tflops / peak if peak else None
    return Rate(device.name, precision, tflops, peak, efficiency, slowdown=slowdown)


def launches_per_micro_batch(workload: Workload, choice: Choice) -> int:
    """Count the operators that compute in a step of one micro-batch on a GPU, at least one kernel
    each; those of DeepSpeed's update are not among them."""
    return trace_step(replace(workload.step_settings(choice), accumulation_steps=1)).launches


@dataclass(frozen=True)
class RunTime:
    """Time of a run on ``gpus`` equal devices."""

    rate: Rate
    gpus: int
    samples_per_s: float
    steps_per_epoch: int
    train_seconds_per_epoch: float
    evaluation_seconds_per_epoch: float
    num_steps: int
    run_seconds: float


def predict_time(
    workload: Workload, rate: Rate, gpus: int, zero_stage: int, link: Interconnect | None
) -> RunTime:
    """Seconds of training and evaluation; communication over ``link`` follows computation.

    Where the rate is assumed, training takes at least its launches.
    """
    train, rates = workload.config.train, rate.tflops * 1e12
    samples, steps_per_epoch = workload.windows["train"], workload.steps_per_epoch(gpus)
    sent = 0.0
    if gpus > 1 and link is not None:
        step = predict_scaling(workload, rate, gpus, zero_stage, link)
        sent = step.compute_seconds * (1 / step.efficiency - 1)  # what is not hidden
    computed = samples / gpus * workload.flops_per_sample() / rates
    if rate.launch_seconds:
        launches = launches_per_micro_batch(workload, Choice(rate.precision, zero_stage))
        micro_batches = steps_per_epoch * train.accumulation_steps
        computed = max(computed, micro_batches * launches * rate.launch_seconds)
    epoch = computed + steps_per_epoch * sent
    forward = workload.flops_per_sample(training=False) / rates / gpus
    validation = workload.windows["validation"] * forward
    test = workload.windows["test"] * forward
    num_steps = train.max_steps or train.epochs * steps_per_epoch
    evaluations = -(-num_steps // steps_per_epoch)
    return RunTime(
        rate=rate,
        gpus=gpus,
        samples_per_s=samples / epoch,
        steps_per_epoch=steps_per_epoch,
        train_seconds_per_epoch=epoch,
        evaluation_seconds_per_epoch=validation,
        num_steps=num_steps,
        # The best model is scored once more on validation, then on test.
        run_seconds=epoch * num_steps / steps_per_epoch + (evaluations + 1) * validation + test,
    )


@dataclass(frozen=True)
class Scaling:
    """A step of one number of ranks over one interconnect.

    ``efficiency``: compute over compute plus communication, one after the other under ZeRO-2
    (``overlap_comm: false``, as our ds_configs have it), overlapped without it (as
    DistributedDataParallel does); ``efficiency_overlapped``: gradients travel while backward still
    runs; ``hiding_batch``: smallest micro-batch whose backward takes as long as its gradients
    travel. ``seconds`` is all communication, ``gib_per_step`` what one rank sends.
    """

    ranks: int
    interconnect: str
    gib_per_step: float
    seconds: float
    compute_seconds: float
    efficiency: float
    efficiency_overlapped: float
    hiding_batch: int


def predict_scaling(
    workload: Workload, rate: Rate, ranks: int, zero_stage: int, link: Interconnect
) -> Scaling:
    """Communication of a full step of this run on ``ranks`` devices over ``link``."""
    train, sharded = workload.config.train, zero_stage == 2
    # Without ZeRO fp32 gradients travel once a step, behind the last micro-batch.
    element_bytes, bucket_elements, reductions = 4, DDP_BUCKET_ELEMENTS, 1
    if sharded:
        element_bytes = 4 if rate.precision == "fp32" else 2
        bucket_elements = workload.zero_settings(rate.precision).bucket_elements
        reductions = train.accumulation_steps
    half_ring = workload.num_parameters * element_bytes * (ranks - 1) / ranks  # bytes
    buckets = -(-workload.num_parameters // bucket_elements)
    latency = buckets * 2 * math.log2(ranks) * link.latency_us * 1e-6
    reduction = 2 * half_ring / link.bytes_per_s + latency
    gather = half_ring / link.bytes_per_s + latency if sharded else 0.0
    micro = train.batch_size * workload.flops_per_sample() / (rate.tflops * 1e12)
    compute, communication = micro * train.accumulation_steps, reductions * reduction + gather
    # Each reduction hides behind the backward pass of its micro-batch.
    backward = BACKWARD_SHARE * micro
    exposed = reductions * max(0.0, reduction - backward) + gather
    overlapped = compute / (compute + exposed)
    return Scaling(
        ranks=ranks,
        interconnect=link.name,
        gib_per_step=(2 * reductions + sharded) * half_ring / 2**30,
        seconds=communication,
        compute_seconds=compute,
        efficiency=compute / (compute + communication) if sharded else overlapped,
        efficiency_overlapped=overlapped,
        hiding_batch=max(1, math.ceil(reduction / (backward / train.batch_size))),
    )


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h`` or ``2.1 days``."""
    if seconds < 1:
        return "under 1 s"
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.{0 if unit != 'h' else 1}f} {unit}"
    return f"{seconds / 86400:.1f} days"
