"""Time of an epoch and of a run, from operations and one rate per device."""

from __future__ import annotations

from dataclasses import dataclass

from timerxl.planner.communication import Interconnect, Scaling, exchange, scaling
from timerxl.planner.devices import EFFICIENCY, LAUNCH_SECONDS, Device
from timerxl.planner.workload import Choice, Workload, launches_per_micro_batch

DDP_BUCKET_ELEMENTS = 25 * 2**20 // 4  # DistributedDataParallel's default, fp32


@dataclass(frozen=True)
class Rate:
    """Operations a second of one device: ``tflops`` is what a run is expected to reach.

    ``launch_seconds`` is the least time of an operator, 0 where steps were measured.
    """

    device: str
    precision: str
    tflops: float
    peak_tflops: float | None = None
    efficiency: float | None = None
    launch_seconds: float = 0.0


def assumed_rate(device: Device, precision: str) -> Rate:
    """The table's peak rate times the assumed efficiency; InputError where there is no peak."""
    peak = device.peak_tflops(precision)
    return Rate(device.name, precision, peak * EFFICIENCY, peak, EFFICIENCY, LAUNCH_SECONDS)


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
    # The best model is scored once more on validation, then on test.
    total = epoch * num_steps / steps_per_epoch + (evaluations + 1) * validation + test
    return RunTime(
        rate=rate,
        gpus=gpus,
        samples_per_s=samples / epoch,
        steps_per_epoch=steps_per_epoch,
        train_seconds_per_epoch=epoch,
        evaluation_seconds_per_epoch=validation,
        num_steps=num_steps,
        run_seconds=total,
    )


def predict_scaling(
    workload: Workload, rate: Rate, gpus: int, zero_stage: int, link: Interconnect
) -> Scaling:
    """Communication of a full step on ``gpus`` devices over ``link``."""
    train, sharded = workload.config.train, zero_stage == 2
    half = rate.precision != "fp32"
    sent = exchange(
        workload.num_parameters,
        gpus,
        element_bytes=2 if sharded and half else 4,
        sharded=sharded,
        accumulation_steps=train.accumulation_steps,
        bucket_elements=workload.bucket_elements(rate.precision)
        if sharded
        else DDP_BUCKET_ELEMENTS,
    )
    micro = train.batch_size * workload.flops_per_sample() / (rate.tflops * 1e12)
    return scaling(
        sent,
        gpus,
        link,
        compute_seconds=micro * train.accumulation_steps,
        batch_size=train.batch_size,
        accumulation_steps=train.accumulation_steps,
    )
