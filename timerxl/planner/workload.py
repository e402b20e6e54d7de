"""A run before it is run: what a recipe and a series ask of a device."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from timerxl.command_line import say
from timerxl.config import InputError, RunConfig
from timerxl.data.store import open_windows
from timerxl.data.tiling import tile_labels
from timerxl.data.windows import WeatherWindows
from timerxl.model import TimerXLConfig
from timerxl.model.modeling_timerxl import flops_per_sample
from timerxl.planner.devices import Device
from timerxl.planner.trace import StepSettings
from timerxl.training.assembly import HEADS, model_config
from timerxl.training.processes.distributed import (
    LauncherChoice,
    choose_settings,
    deepspeed_config_path,
)


@dataclass(frozen=True)
class ZeroSettings:
    """What the DeepSpeed configuration of a run says about memory."""

    bucket_elements: int
    num_buckets: int
    offload_optimizer: bool

    @classmethod
    def load(cls, path: Path) -> ZeroSettings:
        """Read a file of ds_configs/."""
        zero = json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]
        return cls(
            bucket_elements=int(zero["reduce_bucket_size"]),
            num_buckets=2 if zero.get("overlap_comm") else 1,
            offload_optimizer=zero.get("offload_optimizer", {}).get("device") == "cpu",
        )


@dataclass(frozen=True)
class Choice:
    """What a run resolves to on a device; ``skipped`` says which settings it does not follow."""

    precision: str
    zero_stage: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """A recipe with its model and counts of its data.

    ``windows`` counts the windows of train (an epoch's), validation and test that a run uses
    (``eval.max_windows`` observed), ``train_labels`` the labels of an epoch; ``series_days`` is
    the time span of the series, ``series_bytes`` what its tensors take.
    """

    config: RunConfig
    model: TimerXLConfig
    windows: dict[str, int]
    step_hours: float
    context_days: float
    series_days: float
    is_synthetic: bool
    series_bytes: int = 0
    train_labels: int = 0

    @property
    def label_patches(self) -> int | None:
        """Patches of a training window with a label each; None where its last one alone has."""
        if self.config.data.labels == "last" or self.config.train.task == "next_patch":
            return None
        return self.model.context_length // self.model.patch_length

    @property
    def tokens_per_sample(self) -> int:
        patches = self.model.context_length // self.model.patch_length
        return (self.model.num_variables or 1) * self.model.regions_in_window * patches

    @cached_property
    def num_parameters(self) -> int:
        with torch.device("meta"):
            return HEADS[self.config.train.task](copy.deepcopy(self.model)).num_parameters()

    def flops_per_sample(self, training: bool = True) -> int:
        """Operations of a training step (recomputation included) or of a forward pass."""
        checkpointing = training and self.config.train.gradient_checkpointing
        return flops_per_sample(
            self.model,
            head=HEADS[self.config.train.task].__name__,
            training=training,
            checkpointing=checkpointing,
            label_patches=self.label_patches if training else None,
        )

    def global_batch(self, ranks: int) -> int:
        return self.config.train.batch_size * self.config.train.accumulation_steps * ranks

    def steps_per_epoch(self, ranks: int) -> int:
        return -(-self.windows["train"] // self.global_batch(ranks))

    def zero_settings(self, precision: str) -> ZeroSettings:
        """Of the DeepSpeed configuration that a run in ``precision`` takes."""
        offload = self.config.train.offload_optimizer
        return ZeroSettings.load(deepspeed_config_path(precision, offload))

    def step_settings(self, choice: Choice, device: Device | None = None) -> StepSettings:
        """The step to trace on ``device``; without one, on a GPU that nobody named."""
        train = self.config.train
        return StepSettings(
            model=self.model,
            attention=self.config.model.attn_implementation,
            batch_size=train.batch_size,
            accumulation_steps=train.accumulation_steps,
            checkpointing=train.gradient_checkpointing,
            half=choice.precision != "fp32",
            sharded=choice.zero_stage == 2,
            on_gpu=device is None or not device.is_cpu,
            label_patches=self.label_patches,
            task=self.config.train.task,
            capability=StepSettings.capability if device is None else device.capability,
        )

    def changed(self, settings: dict[str, Any]) -> Workload:
        """The same run with other ``settings``, as ``{"train.batch_size": 4}``."""
        config, model = copy.deepcopy(self.config), copy.deepcopy(self.model)
        for name, value in settings.items():
            section, _, key = name.partition(".")
            assert hasattr(getattr(config, section), key), name
            setattr(getattr(config, section), key, value)
        return replace(self, config=config, model=model)


def choose(workload: Workload, device: Device) -> Choice:
    """Precision and ZeRO stage on ``device``, as the run itself would decide."""
    precision, zero = choose_settings(workload.config, device.facts, LauncherChoice(None, None))
    skipped = tuple(d.skipped for d in (precision, zero) if d.skipped)
    return Choice(precision.value, int(zero.value), skipped)


def describe_windows(config: RunConfig, windows: WeatherWindows) -> Workload:
    """The workload of ``config`` on windows already built."""
    series = windows.series
    counts = {split: len(windows.issue_rows(split)) for split in windows.splits}
    labels, tiling = counts["train"], tile_labels(config, windows)
    if tiling is not None:
        counts["train"] = tiling.tiles.most_windows
    if (limit := config.eval.max_windows) is not None:
        counts = {k: n if k == "train" else min(n, limit) for k, n in counts.items()}
    days = (series.timestamps.max() - series.timestamps.min()) / np.timedelta64(1, "D")
    return Workload(
        config=config,
        model=model_config(
            config,
            len(series.feature_names),
            len(windows.static_feature_names),
            alpha=0.5,
            num_regions=len(series.regions),
            neighbours=windows.neighbours,
        ),
        windows=counts,
        step_hours=series.step_hours,
        context_days=windows.context_days,
        series_days=float(days),
        is_synthetic=series.is_synthetic,
        series_bytes=windows.transform.num_bytes,
        train_labels=labels,
    )


def read_workload(config: RunConfig) -> Workload:
    """Load the series of ``config`` and count its windows.

    Raises InputError on bad data, or where a batch is larger than the training split.
    """
    log = partial(say, file=sys.stderr)  # a plan may go to a program through standard output
    windows, _ = open_windows(config, log, is_audited=False)
    workload = describe_windows(config, windows)
    train = config.train
    if (batch := workload.global_batch(1)) > workload.windows["train"]:
        raise InputError(
            f"train.batch_size {train.batch_size} x train.accumulation_steps "
            f"{train.accumulation_steps} = {batch} is larger than the training split of "
            f"{workload.windows['train']:,} windows; lower train.batch_size."
        )
    return workload
