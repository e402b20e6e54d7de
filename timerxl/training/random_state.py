"""Every random number generator of a process, as safetensors."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def write_random_state(path: Path) -> None:
    """The states of torch (CPU and every GPU), numpy and Python."""
    _, words, gauss = random.getstate()
    # Whoever uses numpy's one global generator, it goes on.
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
    """Set what :func:`write_random_state` wrote; a GPU that was not there then is left alone."""
    saved = load_file(path)
    torch.set_rng_state(saved["torch"])
    gauss = saved["python_gauss"].tolist()
    random.setstate((3, tuple(saved["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = saved["numpy_rest"].tolist()
    keys = saved["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))  # noqa: NPY002
    for index in range(torch.cuda.device_count()):
        if f"cuda_{index}" in saved:
            torch.cuda.set_rng_state(saved[f"cuda_{index}"], index)
