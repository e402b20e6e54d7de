"""Arrays of a series' length: in memory, or as the .npy files of a folder, written block by block.

What is made of a series of many regions need not fit into memory then: a mapped file's pages belong
to the kernel, which writes them out and reads them again as it needs room.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import write_array_header_1_0

BLOCK_ROWS = 2**18  # 10 features as float64: 20 MiB


class Arrays:
    """Make named arrays in ``folder``, or in memory where it is None."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.made: dict[str, np.ndarray] = {}

    def new(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array to be filled; raises OSError where there is no room for the file.

        Room is taken at once: a page that finds none later would end the process (SIGBUS).
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.folder is None or not size:
            return np.empty(shape, dtype)
        path = self.folder / f"{name}.npy"
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            write_array_header_1_0(file, header)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, file.tell() + size)
            else:  # macOS
                file.truncate(file.tell() + size)
        self.made[name] = np.asarray(np.load(path, mmap_mode="r+"))
        return self.made[name]

    def drop(self, name: str) -> None:
        """Remove an array that was needed for a while only."""
        if self.made.pop(name, None) is not None and self.folder is not None:
            (self.folder / f"{name}.npy").unlink(missing_ok=True)


def blocks(count: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Cut ``count`` rows into slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
