"""Every random number generator of a process, as safetensors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from timerxl.training.checkpoint.storage import StorageFailed

_UNUSABLE = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, SafetensorError)
_WORDS = 624  # of a Mersenne Twister; a place behind them is not checked by numpy


def write_random_state(path: Path) -> None:
    """Save the states of torch (CPU and every GPU), NumPy and Python."""
    _, words, gauss = random.getstate()
    # Also save NumPy's global RNG: user code may draw from it.
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
    }
    for index in range(torch.cuda.device_count()):
        tensors[f"cuda_{index}"] = torch.cuda.get_rng_state(index)
    save_file(tensors, path)


def read_random_state(path: Path) -> None:
    """Restore what :func:`write_random_state` wrote; leave a GPU alone that was not there then.

    Raises StorageFailed where the file holds no such state.
    """
    try:
        _set_random_state(load_file(path))
    # Torch, Python and numpy each check their own, and say so each with their own errors.
    except _UNUSABLE as error:
        raise StorageFailed(f"{path} holds no state of random numbers: {error}") from error


def _set_random_state(saved: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(saved["torch"])
    gauss = saved["python_gauss"].tolist()
    random.setstate((3, tuple(saved["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = saved["numpy_rest"].tolist()
    keys = saved["numpy_keys"].numpy().astype(np.uint32)
    if len(keys) != _WORDS or not 0 <= position <= _WORDS:
        raise ValueError(f"numpy's has {len(keys)} words and stands at {position}")
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))  # noqa: NPY002
    for index in range(torch.cuda.device_count()):
        if f"cuda_{index}" in saved:
            torch.cuda.set_rng_state(saved[f"cuda_{index}"], index)
