"""Volume against a simulated ring, time by hand, hiding by trying every micro-batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.planner.communication import (
    INTERCONNECTS,
    Exchange,
    Interconnect,
    exchange,
    parse_interconnects,
    scaling,
)

SLOW = Interconnect("slow", gb_per_s=2.0, efficiency=0.5, latency_us=100.0)  # 1e9 bytes/s


def ring_all_reduce(ranks: int, elements: int) -> tuple[np.ndarray, int]:
    """Sum vectors around a ring; (every rank's result, elements that one rank sent)."""
    held = np.arange(ranks * elements, dtype=np.int64).reshape(ranks, ranks, -1)
    sent = 0
    for phase in ("reduce-scatter", "all-gather"):
        for turn in range(ranks - 1):
            first = 0 if phase == "reduce-scatter" else 1
            chunks = [(rank - turn + first) % ranks for rank in range(ranks)]
            messages = [held[rank, chunk].copy() for rank, chunk in enumerate(chunks)]
            sent += messages[0].size
            for rank, (chunk, message) in enumerate(zip(chunks, messages, strict=True)):
                after = (rank + 1) % ranks
                held[after, chunk] = message + (0 if first else held[after, chunk])
    return held.reshape(ranks, elements), sent


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("element_bytes", [2, 4])
def test_an_all_reduce_moves_what_a_ring_moves(ranks: int, element_bytes: int) -> None:
    elements = 4800
    summed, sent_elements = ring_all_reduce(ranks, elements)
    expected = np.arange(ranks * elements).reshape(ranks, elements).sum(0)
    np.testing.assert_array_equal(summed, np.broadcast_to(expected, summed.shape))
    settings = {"element_bytes": element_bytes, "bucket_elements": 1000, "accumulation_steps": 3}
    plain = exchange(elements, ranks, sharded=False, **settings)
    assert plain == Exchange(sent_elements * element_bytes, 0.0, 5, once=True)
    # ZeRO-2: after each of three micro-batches, then the updated weights, half a ring.
    zero = exchange(elements, ranks, sharded=True, **settings)
    assert zero.reduce_bytes == 3 * sent_elements * element_bytes
    assert zero.gather_bytes == sent_elements * element_bytes / 2
    assert zero.total_bytes == 3.5 * sent_elements * element_bytes
    assert (zero.num_messages, zero.gather_messages) == (3 * 5, 5)


def test_buckets_are_rounded_up_and_one_rank_sends_nothing() -> None:
    settings: dict[str, Any] = {"element_bytes": 4, "sharded": True, "accumulation_steps": 2}
    assert exchange(1001, 2, bucket_elements=1000, **settings).num_messages == 2 * 2
    assert exchange(1000, 2, bucket_elements=1000, **settings).num_messages == 2 * 1
    assert exchange(1000, 1, bucket_elements=10, **settings) == Exchange(0.0, 0.0, 0)


def test_a_step_by_hand() -> None:
    """0.3 GB of gradients and 0.1 GB of weights at 1 GB/s; ten messages over log2(4) = 2 hops."""
    sent = Exchange(0.3e9, 0.1e9, 10)
    found = scaling(sent, 4, SLOW, compute_seconds=0.3, batch_size=2, accumulation_steps=3)
    latency = 10 * 2 * 2 * 100e-6
    assert (found.ranks, found.interconnect) == (4, "slow")
    assert found.gib_per_step == pytest.approx(0.4e9 / 1024**3)
    assert found.seconds == pytest.approx(0.4 + latency)
    assert found.compute_seconds == 0.3
    assert found.efficiency == pytest.approx(0.3 / (0.3 + 0.4 + latency))
    # Backward is two thirds of 0.3 s; the rest of the gradients' time and the gathering show.
    exposed = 0.3 + latency - 0.2 + 0.1
    assert found.efficiency_overlapped == pytest.approx(0.3 / (0.3 + exposed))


def test_without_zero_gradients_hide_behind_the_last_micro_batch() -> None:
    """1e9 fp32 gradients over two ranks at 1 GB/s take 4 s, however often batches accumulate."""
    found = []
    for steps in (1, 4):
        sent = exchange(
            1_000_000_000,
            2,
            element_bytes=4,
            sharded=False,
            accumulation_steps=steps,
            bucket_elements=10**9,
        )
        free = replace(SLOW, latency_us=0.0)
        result = scaling(
            sent, 2, free, compute_seconds=0.1 * steps, batch_size=1, accumulation_steps=steps
        )
        found.append(result.hiding_batch)
        # DistributedDataParallel overlaps: what sticks out of one backward pass is what it costs.
        exposed = 4.0 - 2 / 3 * 0.1
        assert result.efficiency == pytest.approx(0.1 * steps / (0.1 * steps + exposed))
    assert found == [60, 60]


def test_what_hides_costs_the_gathering_alone() -> None:
    sent = Exchange(0.3e9, 0.1e9, 0)
    found = scaling(sent, 2, SLOW, compute_seconds=3.0, batch_size=2, accumulation_steps=1)
    assert found.efficiency_overlapped == pytest.approx(3.0 / 3.1)
    assert found.efficiency == pytest.approx(3.0 / 3.4)


@pytest.mark.parametrize("reduce_bytes", [1e6, 0.25e9, 1.7e9, 9e9])
@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_the_hiding_batch_is_the_smallest_that_hides(
    reduce_bytes: float, accumulation_steps: int
) -> None:
    """ZeRO-2 sends after every micro-batch, so each has to hide its own share."""
    per_sample = 0.05  # seconds of computation
    sent = Exchange(reduce_bytes * accumulation_steps, 0.0, 0)

    def predicted(batch_size: int) -> float:
        return scaling(
            sent,
            2,
            SLOW,
            compute_seconds=per_sample * batch_size * accumulation_steps,
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
        ).hiding_batch

    hides = (b for b in range(1, 1000) if 2 / 3 * per_sample * b >= reduce_bytes / 1e9)
    expected = next(hides)
    assert [predicted(batch_size) for batch_size in (1, 7, 64)] == [expected] * 3


def test_a_latency_delays_hiding_too() -> None:
    """20 messages of 0.2 ms each: 4 ms beside 30 ms of bytes, backward 2 ms a sample."""
    sent = Exchange(0.03e9, 0.0, 20)
    found = scaling(sent, 2, SLOW, compute_seconds=0.003, batch_size=1, accumulation_steps=1)
    assert found.hiding_batch == 17
    nothing = scaling(
        Exchange(0.0, 0.0, 0), 1, SLOW, compute_seconds=1.0, batch_size=1, accumulation_steps=1
    )
    assert (nothing.hiding_batch, nothing.efficiency, nothing.seconds) == (1, 1.0, 0.0)


def test_interconnects_by_their_lanes() -> None:
    """GB/s of one direction: lanes x signalling rate / 8 bits, or the name's Gbit/s / 8."""
    nominal = {
        "pcie3": 16 * 8 / 8,
        "pcie4": 16 * 16 / 8,
        "nvlink": 12 * 25,
        "10gbe": 10 / 8,
        "25gbe": 25 / 8,
        "100gbe": 100 / 8,
        "infiniband": 200 / 8,
    }
    assert {name: link.gb_per_s for name, link in INTERCONNECTS.items()} == nominal
    assert all(0 < link.efficiency <= 1 for link in INTERCONNECTS.values())
    assert INTERCONNECTS["pcie4"].bytes_per_s == pytest.approx(32e9 * 0.7)


def test_interconnects_are_read_in_order() -> None:
    found = parse_interconnects(" NVLink ,100gbe,")
    assert found == [INTERCONNECTS["nvlink"], INTERCONNECTS["100gbe"]]
    assert parse_interconnects("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pcie4,nvlnk", "--interconnect nvlnk is unknown; did you mean nvlink?"),
        ("telegraph", "--interconnect telegraph is unknown; expected some of pcie3, pcie4"),
    ],
)
def test_an_unknown_interconnect_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_interconnects(text)
    assert str(caught.value).startswith(message)
