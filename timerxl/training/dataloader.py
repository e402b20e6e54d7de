"""Batches on their way to the model: one order of samples for all layouts of the same batch.

A step is a GLOBAL batch of ``batch_size x accumulation_steps x world_size`` samples, cut into
micro-batches in the same order whatever the layout, so that 8 on one process, 4 on two, and 4
twice follow one trajectory, the short last batch of an epoch included.

A sample is a window: its position in the training split, or, where every patch has a label
(``data.labels=every_patch``), its code in the epoch's tiling (data.tiling).
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
from timerxl.data.tiling import LabelTiling, tile_labels
from timerxl.data.windows import WeatherWindows
from timerxl.model.modeling_timerxl import sample_weights
from timerxl.training.precision import SettingChoice, choose_data_place
from timerxl.training.processes.signals import HANDLED

MOST_SHUFFLED = 2**24  # samples whose order is drawn at once: 128 MiB


class Shuffle:
    """A pseudo-random order of 0 to ``count`` - 1 that is computed where it is looked at.

    A Feistel network of eight rounds permutes the numbers of an even number of bits; one that falls
    beyond ``count`` is permuted again until it does not (cycle walking; Black and Rogaway 2002).
    """

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count = count
        self.half = np.uint64(max((count - 1).bit_length() + 1, 2) // 2)
        self.keys = rng.integers(2**64, size=8, dtype=np.uint64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, places: slice) -> np.ndarray:
        """Return the samples at these places, int64."""
        found = self._permuted(np.arange(*places.indices(self.count), dtype=np.uint64))
        while (beyond := found >= self.count).any():
            found[beyond] = self._permuted(found[beyond])
        return found.astype(np.int64)

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        low = np.uint64((1 << int(self.half)) - 1)
        left, right = numbers >> self.half, numbers & low
        for key in self.keys:
            mixed = right ^ key  # the finaliser of SplitMix64 (Steele, Lea and Flood 2014)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & low)
        return np.asarray((left << self.half) | right)


@dataclass(frozen=True)
class MicroBatch:
    """The samples one rank takes at once.

    The first ``num_real`` count; a rank with nothing left repeats a sample that does not.
    """

    positions: list[int]
    num_real: int


@dataclass(frozen=True)
class BatchPlan:
    """The sample order of a run.

    Args:
        num_samples: windows of an epoch; with a tiling the most that an epoch may have.
        batch_size: samples in one rank's micro-batch.
        accumulation_steps: micro-batches per rank and optimizer step.
        world_size, rank: the process group.
        seed: windows and order of epoch e are drawn from (seed, e).
        tiling: the windows of each epoch where every patch has a label; None where they are those
            of the training split.
    """

    num_samples: int
    batch_size: int
    accumulation_steps: int
    world_size: int
    rank: int
    seed: int
    tiling: LabelTiling | None = None

    @classmethod
    def of(cls, config: RunConfig, windows: WeatherWindows, accelerator: Accelerator) -> BatchPlan:
        """Build the plan of this process."""
        train, processes = config.train, accelerator.num_processes
        rank = accelerator.process_index
        layout = (train.batch_size, train.accumulation_steps, processes, rank)
        tiling = tile_labels(config, windows)
        num_samples = len(windows.issue_rows("train"))
        if tiling is not None:
            num_samples = tiling.tiles.most_windows
        return cls(num_samples, *layout, config.seed, tiling)

    @property
    def num_labels(self) -> int:
        """Labels of an epoch: one a window, or with a tiling as many as the split has."""
        return self.num_samples if self.tiling is None else self.tiling.num_labels

    def flops_per_sample(self, model: Any) -> int:
        """Count the operations of one training window of ``model``."""
        patches = None if self.tiling is None else self.tiling.num_patches
        patches = None if patches == 1 else patches
        return int(model.flops_per_sample(training=True, label_patches=patches))

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.accumulation_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.global_batch_size)

    def order(self, epoch: int) -> np.ndarray | Shuffle:
        """Return the epoch's samples in their order, int64 [num_samples]; with a tiling at most
        so many.

        Of very many samples the order is computed step by step: as arrays it would not fit.
        """
        rng = np.random.default_rng([self.seed, epoch])
        if self.tiling is None and self.num_samples > MOST_SHUFFLED:
            return Shuffle(self.num_samples, rng)
        if self.tiling is None:
            return rng.permutation(self.num_samples)
        return rng.permutation(self.tiling.tiles.epoch(rng))

    def global_step(self, order: np.ndarray | Shuffle, index: int) -> np.ndarray:
        """Return all ranks' samples in step ``index`` of the epoch with this order.

        The windows of a tiling are fewer in some epochs: they are spread evenly over the steps.
        """
        if self.tiling is not None:
            first, end = (len(order) * i // self.steps_per_epoch for i in (index, index + 1))
            return order[first:end]
        size = self.global_batch_size
        return order[index * size : (index + 1) * size]

    def end_rows(self, windows: WeatherWindows, samples: np.ndarray) -> np.ndarray:
        """Return int64 [B]: the rows of the series at which these samples' windows end."""
        if self.tiling is not None:
            return self.tiling.end_rows(samples)
        return windows.issue_rows("train")[samples]

    def micro_batches(self, samples: np.ndarray) -> list[MicroBatch]:
        """Cut this rank's ``accumulation_steps`` micro-batches out of a step's samples, in
        order."""
        batches = []
        for accumulation in range(self.accumulation_steps):
            start = (accumulation * self.world_size + self.rank) * self.batch_size
            mine = samples[start : start + self.batch_size].tolist()
            batches.append(MicroBatch(mine or [int(samples[0])], len(mine)))
        return batches

    def groups(
        self, order: np.ndarray | Shuffle, steps: range
    ) -> Iterator[tuple[np.ndarray, list[MicroBatch]]]:
        """Yield the samples of each step, and this rank's micro-batches of them, as they are
        needed: an epoch of many regions has millions."""
        for index in steps:
            samples = self.global_step(order, index)
            yield samples, self.micro_batches(samples)


def evaluation_share(num_samples: int, world_size: int, rank: int) -> np.ndarray:
    """Return the int64 positions that ``rank`` scores: a block each, filled up to equal counts.

    The fill repeats the last position: of the blocks one after the other, the first ``num_samples``
    are every sample once.
    """
    per_rank = -(-num_samples // world_size)
    return np.minimum(np.arange(per_rank) + rank * per_rank, num_samples - 1)


BATCH_KEYS = (
    "past_values",
    "past_observed_mask",
    "labels",
    "label_positions",
    "static_real_features",
)


def loader(
    windows: WeatherWindows,
    split: str,
    batches: Iterable[list[int]],
    num_workers: int,
    pin: bool,
    tiling: LabelTiling | None = None,
) -> Iterable[dict[str, torch.Tensor]]:
    """Load the windows of each batch, in order: gathered on the device where the series lies
    there, by a DataLoader elsewhere.

    A batch lists positions in the split, or codes of ``tiling`` where one is given.
    """
    if (series := windows.on_device) is not None:
        if tiling is not None:
            there = tiling.to(series)
            return (there[codes] for codes in batches)
        rows = windows.issue_rows(split)
        return (series.windows(torch.from_numpy(rows[positions])) for positions in batches)
    dataset: Any = windows.splits[split] if tiling is None else tiling
    return DataLoader(
        dataset,
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
    # Patches to forecast weigh alike, as labels do under cross-entropy.
    loss_name = config.loss.name if config.train.task == "rain" else "cross_entropy"
    tiling, step = plan.tiling, numbers.start
    while step < numbers.stop:
        epoch, first = divmod(step, plan.steps_per_epoch)
        end = min(plan.steps_per_epoch, first + numbers.stop - step)
        order = plan.order(epoch)

        steps = range(first, end)
        positions = (m.positions for _, group in plan.groups(order, steps) for m in group)
        workers = config.train.num_workers
        batches = iter(loader(windows, "train", positions, workers, pin, tiling))
        for globally, group in plan.groups(order, steps):
            if tiling is None:
                counted = torch.from_numpy(windows.label[plan.end_rows(windows, globally)]).long()
            else:
                counted = tiling.labels(torch.from_numpy(globally))
            weights = sample_weights(counted, loss_name, alpha)
            yield group, batches, weights.sum().item(), globally
        step += end - first
