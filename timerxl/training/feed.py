"""Windows on their way to the model: whole batches, and the micro-batches of every step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.model.losses_timerxl import sample_weights
from timerxl.training.batches import BatchPlan
from timerxl.training.precision import Decision, choose_data_place
from timerxl.training.signals import HANDLED

BATCH_KEYS = ("past_values", "labels", "static_real_features")


def loader(
    windows: WeatherWindows, split: str, batches: list[list[int]], num_workers: int, pin: bool
) -> Iterable[dict[str, torch.Tensor]]:
    """The windows at each batch of positions, in order: gathered on the device where the series
    lies there, by a DataLoader elsewhere."""
    if (series := windows.on_device) is not None:
        rows = windows.issue_rows(split)
        return (series.windows(torch.from_numpy(rows[positions])) for positions in batches)
    return DataLoader(
        windows.splits[split],
        sampler=batches,  # one "sample" is a list of positions: datasets stacks them at once
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin,
        # A generator of its own: looking at the model must not move the run's random numbers.
        generator=torch.Generator(),
        worker_init_fn=_ignore_signals,
    )


def place_data(
    config: RunConfig,
    windows: WeatherWindows,
    accelerator: Accelerator,
    planned: Decision | None,
    log: Callable[[str], None],
) -> None:
    """Copy the series to the device where the plan's decision says so, or, without a plan,
    ``train.data_on_device``; call on all ranks, the main process decides.
    """
    device, size_gib = accelerator.device, windows.transform.num_bytes / 2**30
    if planned is None:
        memory = None
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        planned = choose_data_place(config.train.data_on_device, size_gib, None, memory)
    shared = [planned]
    broadcast_object_list(shared)
    decision, size = shared[0], f"{size_gib:.3g} GiB"
    if decision.value == "false":
        log(f"data: the series ({size}) stays in the host's memory: {decision.reason}.")
        return
    windows.on_device = windows.transform.to(device)
    log(
        f"data: the series ({size}) lies on {device}, windows are gathered there: "
        f"{decision.reason}."
    )
    if config.train.num_workers:
        log(
            f"note: train.num_workers={config.train.num_workers} is not followed: nothing is "
            "loaded by workers."
        )


def _ignore_signals(worker: int) -> None:
    """A signal to the whole group of processes is the run's to answer: it still needs its worker,
    which ends with it."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The model's inputs of a batch on ``device``."""
    return {key: batch[key].to(device, non_blocking=True) for key in BATCH_KEYS if key in batch}


def training_steps(
    config: RunConfig,
    windows: WeatherWindows,
    plan: BatchPlan,
    alpha: float,
    numbers: range,
    pin: bool,
) -> Iterator[tuple[Any, Any, float, np.ndarray]]:
    """(micro-batches, their tensors, normaliser of the global batch, its samples) of every
    optimizer step of ``numbers``; the first of a run is 0."""
    labels = torch.from_numpy(windows.labels_of("train"))
    step = numbers.start
    while step < numbers.stop:
        epoch, first = divmod(step, plan.steps_per_epoch)
        end = min(plan.steps_per_epoch, first + numbers.stop - step)
        order = plan.order(epoch)
        samples = [plan.global_step(order, index) for index in range(first, end)]
        micro = [plan.micro_batches(globally) for globally in samples]
        positions = [m.positions for group in micro for m in group]
        batches = iter(loader(windows, "train", positions, config.train.num_workers, pin))
        for globally, group in zip(samples, micro, strict=True):
            weights = sample_weights(labels[globally], config.loss.name, alpha)
            yield group, batches, weights.sum().item(), globally
        step += end - first
