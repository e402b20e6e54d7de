"""Telling a lost process or network from every other error."""

from __future__ import annotations

import re

import torch

# What gloo and NCCL say when the other side is gone or silent; the store has errors of its own.
_SIGNS = re.compile(r"\bgloo\b|\bNCCL\b|connection (closed|reset) by peer|connectFullMesh", re.I)


class PeerLost(RuntimeError):
    """Another process of the run is gone or silent; this one can't go on alone."""


def lost_peer(error: BaseException) -> str | None:
    """What the library said, in a line, where ``error`` is a lost contact; else None."""
    named = isinstance(error, torch.distributed.DistError | ConnectionError | TimeoutError)
    if not named and not (type(error) is RuntimeError and _SIGNS.search(str(error))):
        return None
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # Without the place in the library's source, and its advice.
    return re.sub(r"^\[[^]]*\] *", "", said).partition(". This is typically")[0].rstrip(".") + "."
