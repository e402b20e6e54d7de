"""Communication of data-parallel training on paper: volume, time, and when it hides.

A ring moves 2 (N-1)/N S bytes per rank to all-reduce S bytes and (N-1)/N S to all-gather them
(Patarasuk and Yuan 2009); each bucket starts with a latency that grows with log2 N, as NCCL's
trees do. ZeRO-2 in DeepSpeed all-reduces gradients bucket by bucket after EVERY micro-batch
(``use_multi_rank_bucket_allreduce``, on by default; the paper's reduce-scatter would be half of
it) and gathers the updated weights once a step.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from timerxl.config import InputError

BACKWARD_SHARE = 2 / 3  # of a training step's operations; what communication can hide behind


@dataclass(frozen=True)
class Interconnect:
    """Between ranks: nominal GB/s per GPU and direction, the share reached, latency of a hop."""

    name: str
    gb_per_s: float
    efficiency: float
    latency_us: float

    @property
    def bytes_per_s(self) -> float:
        return self.gb_per_s * 1e9 * self.efficiency


INTERCONNECTS = {
    item.name: item
    for item in (
        Interconnect("pcie3", 16.0, 0.7, 10.0),
        Interconnect("pcie4", 32.0, 0.7, 10.0),
        Interconnect("nvlink", 300.0, 0.8, 5.0),  # A100: 12 links of 25 GB/s each way
        Interconnect("10gbe", 1.25, 0.8, 40.0),
        Interconnect("25gbe", 3.125, 0.8, 40.0),
        Interconnect("100gbe", 12.5, 0.8, 30.0),
        Interconnect("infiniband", 25.0, 0.9, 5.0),  # HDR, one port a GPU
    )
}


def parse_interconnects(text: str) -> list[Interconnect]:
    """``nvlink,100gbe`` -> the table's entries; InputError on an unknown one."""
    found = []
    for name in filter(None, (part.strip().lower() for part in text.split(","))):
        if name not in INTERCONNECTS:
            near = difflib.get_close_matches(name, INTERCONNECTS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"--interconnect {name} is unknown; {hint}expected some of "
                f"{', '.join(INTERCONNECTS)}."
            )
        found.append(INTERCONNECTS[name])
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Exchange:
    """Bytes that one rank sends in an optimizer step.

    ``reduce_bytes`` of gradients in ``num_messages`` buckets, over all micro-batches;
    ``gather_bytes`` of updated weights in ``gather_messages`` (0 without ZeRO). With ``once`` the
    gradients travel behind the last micro-batch alone.
    """

    reduce_bytes: float
    gather_bytes: float
    num_messages: int
    gather_messages: int = 0
    once: bool = False

    @property
    def total_bytes(self) -> float:
        return self.reduce_bytes + self.gather_bytes


def exchange(
    parameters: int,
    ranks: int,
    *,
    element_bytes: int,
    sharded: bool,
    accumulation_steps: int,
    bucket_elements: int,
) -> Exchange:
    """What one rank sends in an optimizer step.

    ``element_bytes`` is 2 under ZeRO-2 in half precision; without ZeRO gradients are fp32 and
    travel once a step, in buckets of 25 MiB (DistributedDataParallel).
    """
    if ranks == 1:
        return Exchange(0.0, 0.0, 0)
    size = parameters * element_bytes * (ranks - 1) / ranks
    buckets = -(-parameters // bucket_elements)
    if not sharded:
        return Exchange(2 * size, 0.0, buckets, once=True)
    reduced = buckets * accumulation_steps
    return Exchange(2 * size * accumulation_steps, size, reduced, buckets)


@dataclass(frozen=True)
class Scaling:
    """One number of ranks over one interconnect.

    ``efficiency``: compute over compute plus communication, one after the other under ZeRO-2
    (``overlap_comm: false``, as our ds_configs have it), overlapped without it (as
    DistributedDataParallel does); ``efficiency_overlapped``: gradients travel while backward still
    runs; ``hiding_batch``: smallest micro-batch whose backward takes as long as its gradients
    travel. ``seconds`` is all communication.
    """

    ranks: int
    interconnect: str
    gib_per_step: float
    seconds: float
    compute_seconds: float
    efficiency: float
    efficiency_overlapped: float
    hiding_batch: int


def scaling(
    sent: Exchange,
    ranks: int,
    link: Interconnect,
    *,
    compute_seconds: float,
    batch_size: int,
    accumulation_steps: int,
) -> Scaling:
    """Predict a step of ``compute_seconds`` (all micro-batches) over ``link``."""
    latency = 2 * math.log2(max(ranks, 1)) * link.latency_us * 1e-6
    gather = sent.gather_bytes / link.bytes_per_s + sent.gather_messages * latency
    reduce = sent.reduce_bytes / link.bytes_per_s + sent.num_messages * latency
    # Gradients hide behind the backward passes that they follow: all, or the last one alone.
    passes = 1 if sent.once else accumulation_steps
    micro_backward = BACKWARD_SHARE * compute_seconds / accumulation_steps
    exposed = max(0.0, reduce - passes * micro_backward) + gather
    hiding = math.ceil(reduce / passes / (micro_backward / batch_size)) if reduce else 1
    overlapped = compute_seconds / (compute_seconds + exposed)
    in_turn = compute_seconds / (compute_seconds + reduce + gather)
    return Scaling(
        ranks=ranks,
        interconnect=link.name,
        gib_per_step=sent.total_bytes / 2**30,
        seconds=reduce + gather,
        compute_seconds=compute_seconds,
        efficiency=overlapped if sent.once else in_turn,
        efficiency_overlapped=overlapped,
        hiding_batch=max(1, hiding),
    )
