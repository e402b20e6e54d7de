"""Telling a lost process or network from every other error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# What gloo and NCCL say when the other side is gone or silent; the store has errors of its own.
_SIGNS = re.compile(r"\bgloo\b|\bNCCL\b|connection (closed|reset) by peer|connectFullMesh", re.I)


class PeerLost(RuntimeError):
    """Another process of the run is gone or silent; this one can't go on alone."""


def lost_peer(error: BaseException) -> str | None:
    """What the library said, in a line, where ``error`` is a lost contact; else None."""
    distributed = torch.distributed
    named = isinstance(error, distributed.DistError)
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError):
        # A run alone has nobody to lose; nor is it the others where standard output is closed.
        named = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not named and not (type(error) is RuntimeError and _SIGNS.search(str(error))):
        return None
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Without the place in the library's source, and its advice.
    return re.sub(r"^\[[^]]*\] *", "", said).partition(". This is typically")[0].rstrip(".") + "."


@contextmanager
def naming_lost_peers(when: Callable[[], str], way_on: str) -> Iterator[None]:
    """A contact lost in the block is a PeerLost that says ``when`` and how the run goes on; every
    other error passes as it is."""
    try:
        yield
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        if (said := lost_peer(error)) is None:
            raise
        sentence = f"lost contact with another process {when()}: {said} {way_on}"
        raise PeerLost(sentence) from error
