"""Telling a lost process or network from every other error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# What gloo and NCCL say when the other side is gone or silent; the store has errors of its own.
_SIGNS = re.compile(r"\bgloo\b|\bNCCL\b|connection (closed|reset) by peer|connectFullMesh", re.I)
# Of NCCL's own errors, those of the other side; the rest is this machine's fault (shared memory of
# a container, two ranks on one GPU), and its traceback the best that can be shown.
_NCCL = re.compile(r"\bNCCL error\b")
_NCCL_LOST = re.compile(r"ncclRemoteError|timed? ?out|abort|connection|remote p|peer|closed", re.I)


class PeerLost(RuntimeError):
    """Another process of the run is gone or silent; this one can't go on alone."""


def lost_peer(error: BaseException) -> str | None:
    """What the library said, in a line, where ``error`` is a lost contact; else None."""
    distributed = torch.distributed
    named = isinstance(error, distributed.DistError)
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError):
        # A run alone has nobody to lose; nor is it the others where standard output is closed.
        named = int(os.environ.get("WORLD_SIZE", "1")) > 1
    text = str(error).strip()
    if not named and not (type(error) is RuntimeError and _SIGNS.search(text)):
        return None
    cause = " ".join(text.partition("Last error:")[2].split())  # where NCCL says what it was
    if _NCCL.search(text) and not _NCCL_LOST.search(cause or text):
        return None
    said = (text.splitlines() or [type(error).__name__])[0]
    # Without the place in the library's source, and its advice.
    said = re.sub(r"^\[[^]]*\] *", "", said).partition(". This is typically")[0].rstrip(".")
    return f"{said}: {cause.rstrip('.')}." if cause else f"{said}."


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
