"""What a recipe and a series ask of a device: windows, operations, memory of a rank."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from timerxl.config import InputError, RunConfig
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.model.modeling_timerxl import flops_per_sample
from timerxl.planner.devices import GIB, Device
from timerxl.planner.memory import RankMemory, ZeroSettings, rank_memory
from timerxl.planner.trace import StepSettings, trace_step
from timerxl.training.assembly import model_config
from timerxl.training.distributed import LauncherChoice, decide, deepspeed_config_path
from timerxl.training.precision import Decision, choose_data_place

HEAD = "TimerXLForClassification"


@dataclass(frozen=True)
class Workload:
    """A run before it is run.

    ``windows`` counts the windows of train, validation and test that a run uses
    (``eval.max_windows`` observed); ``series_days`` is the time span of the series,
    ``series_bytes`` what its tensors take.
    """

    config: RunConfig
    model: TimerXLConfig
    windows: dict[str, int]
    step_hours: float
    context_days: float
    series_days: float
    is_synthetic: bool
    series_bytes: int = 0

    @property
    def tokens_per_sample(self) -> int:
        return (self.model.num_variables or 1) * (
            self.model.context_length // self.model.patch_length
        )

    def flops_per_sample(self, training: bool = True) -> int:
        """Operations of a training step (recomputation included) or of a forward pass."""
        checkpointing = self.config.train.gradient_checkpointing
        return flops_per_sample(
            self.model, head=HEAD, training=training, checkpointing=training and checkpointing
        )

    @cached_property
    def num_parameters(self) -> int:
        with torch.device("meta"):
            return TimerXLForClassification(copy.deepcopy(self.model)).num_parameters()

    def bucket_elements(self, precision: str) -> int:
        """Gradients that DeepSpeed sends at once."""
        return self.zero_settings(precision).bucket_elements

    def zero_settings(self, precision: str) -> ZeroSettings:
        """Of the DeepSpeed configuration that a run in ``precision`` takes."""
        offload = self.config.train.offload_optimizer
        return ZeroSettings.load(deepspeed_config_path(precision, offload))

    def global_batch(self, ranks: int) -> int:
        return self.config.train.batch_size * self.config.train.accumulation_steps * ranks

    def steps_per_epoch(self, ranks: int) -> int:
        return -(-self.windows["train"] // self.global_batch(ranks))

    def changed(self, **values: Any) -> Workload:
        """The same run with other settings, given as ``section__key=value``."""
        config, model = copy.deepcopy(self.config), copy.deepcopy(self.model)
        for name, value in values.items():
            section, _, key = name.partition("__")
            assert hasattr(getattr(config, section), key), name
            setattr(getattr(config, section), key, value)
        kept = {item: getattr(self, item) for item in self.__dataclass_fields__}
        return Workload(**kept | {"config": config, "model": model})


def describe_windows(config: RunConfig, windows: WeatherWindows) -> Workload:
    """The workload of ``config`` on windows already built."""
    series = windows.series
    model = model_config(
        config, len(series.feature_names), len(windows.static_feature_names), alpha=0.5
    )
    counts = {split: len(windows.issue_rows(split)) for split in windows.splits}
    limit = config.eval.max_windows
    for split in counts:
        if split != "train" and limit is not None:
            counts[split] = min(counts[split], limit)
    span = np.ptp(series.timestamps.astype("datetime64[s]").astype(np.int64))
    return Workload(
        config=config,
        model=model,
        windows=counts,
        step_hours=series.step_hours,
        context_days=windows.context_days,
        series_days=float(span) / 86400,
        is_synthetic=series.is_synthetic,
        series_bytes=windows.transform.num_bytes,
    )


def read_workload(config: RunConfig) -> Workload:
    """Load the series of ``config`` and count its windows.

    Raises InputError on bad data, or where a batch is larger than the training split.
    """
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    workload = describe_windows(config, windows)
    train = config.train
    if (batch := workload.global_batch(1)) > workload.windows["train"]:
        raise InputError(
            f"train.batch_size {train.batch_size} x train.accumulation_steps "
            f"{train.accumulation_steps} = {batch} is larger than the training split of "
            f"{workload.windows['train']:,} windows; lower train.batch_size."
        )
    return workload


@dataclass(frozen=True)
class Choice:
    """What a run resolves to on a device."""

    precision: str
    zero_stage: int
    skipped: tuple[str, ...] = ()


def choose(workload: Workload, device: Device) -> Choice:
    """Precision and ZeRO stage on ``device``, as the run itself would decide."""
    precision, zero = decide(workload.config, device.facts, LauncherChoice(None, None))
    skipped = tuple(d.skipped for d in (precision, zero) if d.skipped)
    return Choice(precision.value, int(zero.value), skipped)


def _step_settings(
    workload: Workload, choice: Choice, on_gpu: bool, capability: tuple[int, int]
) -> StepSettings:
    config = workload.config
    return StepSettings(
        model=workload.model,
        attention=config.model.attn_implementation,
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
        checkpointing=config.train.gradient_checkpointing,
        half=choice.precision != "fp32",
        on_gpu=on_gpu,
        capability=capability,
    )


def launches_per_micro_batch(workload: Workload, choice: Choice) -> int:
    """Operators that compute in a step of one micro-batch on a GPU, at least one kernel each.

    Without those of DeepSpeed's update.
    """
    settings = _step_settings(workload, choice, True, StepSettings.capability)
    sharded = choice.zero_stage == 2
    return trace_step(replace(settings, accumulation_steps=1, sharded=sharded)).launches


def memory_of(
    workload: Workload,
    choice: Choice,
    *,
    ranks: int = 1,
    on_gpu: bool = True,
    device: Device | None = None,
) -> RankMemory:
    """Memory of one of ``ranks`` ranks of this run; the series in it only where ``device`` is
    known, a GPU, and takes it (``choose_data_place``)."""
    capability = device.capability if device is not None else StepSettings.capability
    settings = _step_settings(workload, choice, on_gpu, capability)
    zero = workload.zero_settings(choice.precision) if choice.zero_stage == 2 else None
    memory = rank_memory(settings, ranks, zero)
    if device is None or device.is_cpu:
        return memory
    place = data_place(workload, memory, device)
    return replace(memory, series=workload.series_bytes if place.value == "true" else 0)


def data_place(workload: Workload, memory: RankMemory, device: Device) -> Decision:
    """Whether the series lies on ``device`` beside a run of this memory, as the run decides."""
    return choose_data_place(
        workload.config.train.data_on_device,
        workload.series_bytes / GIB,
        (memory.total - memory.series) / GIB,
        None if device.is_cpu else device.memory_gib,
    )
