"""Which samples every rank sees at every step: one order for all layouts of the same batch.

A step is a GLOBAL batch of ``batch_size x accumulation_steps x world_size`` samples, cut into
micro-batches in the same order whatever the layout, so that 8 on one process, 4 on two, and 4
twice follow one trajectory, the short last batch of an epoch included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.accumulation_steps * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.global_batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """int64 [num_samples]: the epoch's permutation."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def global_step(self, order: np.ndarray, index: int) -> np.ndarray:
        """Positions of all ranks' samples in step ``index`` of the epoch with this order."""
        size = self.global_batch_size
        return order[index * size : (index + 1) * size]

    def micro_batches(self, samples: np.ndarray) -> list[MicroBatch]:
        """This rank's ``accumulation_steps`` micro-batches of a step's samples, in order."""
        batches = []
        for accumulation in range(self.accumulation_steps):
            start = (accumulation * self.world_size + self.rank) * self.batch_size
            mine = samples[start : start + self.batch_size].tolist()
            batches.append(MicroBatch(mine or [int(samples[0])], len(mine)))
        return batches


def evaluation_share(num_samples: int, world_size: int, rank: int) -> np.ndarray:
    """int64 positions that ``rank`` scores: every ``world_size``-th, filled up to equal counts.

    The fill repeats the last position; :func:`reassemble` drops it, so every sample is scored
    exactly once.
    """
    per_rank = -(-num_samples // world_size)
    return np.minimum(np.arange(per_rank) * world_size + rank, num_samples - 1)


def reassemble(gathered: np.ndarray, num_samples: int, world_size: int) -> np.ndarray:
    """[world_size * per_rank, ...], rank after rank -> [num_samples, ...] in position order."""
    per_rank = len(gathered) // world_size
    ranks_last = gathered.reshape(world_size, per_rank, *gathered.shape[1:]).swapaxes(0, 1)
    return ranks_last.reshape(world_size * per_rank, *gathered.shape[1:])[:num_samples]
