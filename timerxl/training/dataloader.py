"""Batches on their way to the model: one order of samples for all layouts of the same batch.

A step is a GLOBAL batch of ``batch_size x accumulation_steps x world_size`` samples, cut into
micro-batches in the same order whatever the layout, so that 8 on one process, 4 on two, and 4
twice follow one trajectory, the short last batch of an epoch included.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.model.modeling_timerxl import sample_weights
from timerxl.training.precision import SettingChoice, choose_data_place
from timerxl.training.signals import HANDLED


@dataclass(frozen=True)
class MicroBatch:
    """Positions of the samples one rank takes at once.

    The first ``num_real`` count; a rank with nothing left repeats a sample that does not.
    """

    positions: list[int]
    num_real: int


@dataclass(frozen=True)
class BatchPlan:
    """The sample order of a run.

    Args:
        num_samples: windows in the training split.
        batch_size: samples in one rank's micro-batch.
        accumulation_steps: micro-batches per rank and optimizer step.
        world_size, rank: the process group.
        seed: the order of epoch e is drawn from (seed, e).
    """

    num_samples: int
    batch_size: int
    accumulation_steps: int
    world_size: int
    rank: int
    seed: int

    @classmethod
    def of(cls, config: RunConfig, num_samples: int, accelerator: Accelerator) -> BatchPlan:
        """Build the plan of this process."""
        train, processes = config.train, accelerator.num_processes
        rank = accelerator.process_index
        layout = (train.batch_size, train.accumulation_steps, processes, rank)
        return cls(num_samples, *layout, config.seed)

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.accumulation_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.global_batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Return the epoch's permutation, int64 [num_samples]."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def global_step(self, order: np.ndarray, index: int) -> np.ndarray:
        """Return the positions of all ranks' samples in step ``index`` of the epoch with this
        order."""
        size = self.global_batch_size
        return order[index * size : (index + 1) * size]

    def micro_batches(self, samples: np.ndarray) -> list[MicroBatch]:
        """Cut this rank's ``accumulation_steps`` micro-batches out of a step's samples, in
        order."""
        batches = []
        for accumulation in range(self.accumulation_steps):
            start = (accumulation * self.world_size + self.rank) * self.batch_size
            mine = samples[start : start + self.batch_size].tolist()
            batches.append(MicroBatch(mine or [int(samples[0])], len(mine)))
        return batches


def evaluation_share(num_samples: int, world_size: int, rank: int) -> np.ndarray:
    """Return the int64 positions that ``rank`` scores: every ``world_size``-th, filled up to equal
    counts.

    The fill repeats the last position; :func:`reassemble` drops it, so every sample is scored
    exactly once.
    """
    per_rank = -(-num_samples // world_size)
    return np.minimum(np.arange(per_rank) * world_size + rank, num_samples - 1)


def reassemble(gathered: np.ndarray, num_samples: int, world_size: int) -> np.ndarray:
    """Reorder [world_size * per_rank, ...], rank after rank, to [num_samples, ...] in position
    order."""
    per_rank = len(gathered) // world_size
    ranks_last = gathered.reshape(world_size, per_rank, *gathered.shape[1:]).swapaxes(0, 1)
    return ranks_last.reshape(world_size * per_rank, *gathered.shape[1:])[:num_samples]


BATCH_KEYS = ("past_values", "labels", "static_real_features")


def loader(
    windows: WeatherWindows, split: str, batches: list[list[int]], num_workers: int, pin: bool
) -> Iterable[dict[str, torch.Tensor]]:
    """Load the windows at each batch of positions, in order: gathered on the device where the
    series lies there, by a DataLoader elsewhere."""
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
    planned: SettingChoice | None,
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
    """Ignore signals to the whole process group in a worker: the run answers them, and still needs
    its worker, which ends with it."""
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy the model's inputs of a batch to ``device``."""
    return {key: batch[key].to(device, non_blocking=True) for key in BATCH_KEYS if key in batch}


def iter_global_batches(
    config: RunConfig,
    windows: WeatherWindows,
    plan: BatchPlan,
    alpha: float,
    numbers: range,
    pin: bool,
) -> Iterator[tuple[Any, Any, float, np.ndarray]]:
    """Yield (micro-batches, their tensors, normaliser of the global batch, its samples) of every
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
