"""Every sample once an epoch, in one order whatever the layout of the global batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from timerxl.training.dataloader import BatchPlan, evaluation_share

# (batch, accumulation, ranks) with a global batch of 12.
LAYOUTS = [(12, 1, 1), (6, 2, 1), (6, 1, 2), (3, 2, 2), (4, 1, 3), (2, 2, 3), (1, 4, 3), (1, 1, 12)]
SIZES = [1, 2, 11, 12, 13, 24, 29, 100]


def plans(layout: tuple[int, int, int], num_samples: int, seed: int = 5) -> list[BatchPlan]:
    batch, accumulation, world = layout
    return [BatchPlan(num_samples, batch, accumulation, world, r, seed) for r in range(world)]


def steps_of_epoch(group: list[BatchPlan], epoch: int) -> list[list[int]]:
    """What all ranks really count in each step, accumulation by accumulation, rank by rank."""
    steps = []
    for index in range(group[0].steps_per_epoch):
        by_rank = [plan.micro_batches(plan.global_step(plan.order(epoch), index)) for plan in group]
        counted: list[int] = []
        for micro in zip(*by_rank, strict=True):
            for batch in micro:
                counted += batch.positions[: batch.num_real]
        steps.append(counted)
    return steps


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_samples", SIZES)
def test_every_sample_counts_once_an_epoch(layout: tuple[int, int, int], num_samples: int) -> None:
    for epoch in (0, 1):
        steps = steps_of_epoch(plans(layout, num_samples), epoch)
        assert len(steps) == np.ceil(num_samples / 12)
        counted = Counter(sample for step in steps for sample in step)
        assert counted == Counter(range(num_samples))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("num_samples", SIZES)
def test_the_order_is_that_of_one_process(layout: tuple[int, int, int], num_samples: int) -> None:
    reference = steps_of_epoch(plans((12, 1, 1), num_samples), 3)
    assert steps_of_epoch(plans(layout, num_samples), 3) == reference


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    plan, other = plans((4, 1, 1), 50, seed=5)[0], plans((4, 1, 1), 50, seed=6)[0]
    orders = [plan.order(0), plan.order(1), other.order(0), other.order(1), np.arange(50)]
    assert len({tuple(order.tolist()) for order in orders}) == 5
    assert plan.order(1).tolist() == plan.order(1).tolist()


def test_a_rank_with_nothing_left_repeats_a_sample_that_does_not_count() -> None:
    # 13 samples on 3 ranks of 4: the second step has one sample, for the first rank.
    group = plans((4, 1, 3), 13)
    left = group[0].global_step(group[0].order(0), 1)
    assert len(left) == 1
    found = [plan.micro_batches(left) for plan in group]
    assert [[(b.positions, b.num_real) for b in rank] for rank in found] == [
        [([int(left[0])], 1)],
        [([int(left[0])], 0)],
        [([int(left[0])], 0)],
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 4, 5, 7, 64, 65, 101])
def test_evaluation_meets_every_sample_once(num_samples: int, world_size: int) -> None:
    shares = [evaluation_share(num_samples, world_size, rank) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1  # gather needs equal counts
    assert all(len(share) == int(np.ceil(num_samples / world_size)) for share in shares)
    gathered = np.concatenate(shares)
    np.testing.assert_array_equal(gathered[:num_samples], np.arange(num_samples))
    # No rank is handed a sample that another scores, but for the fill.
    fill = len(gathered) - num_samples
    assert sum(Counter(gathered.tolist()).values()) - num_samples == fill < world_size
