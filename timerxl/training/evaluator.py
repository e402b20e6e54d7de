"""Score a split: every window exactly once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from timerxl.data.windows import WeatherWindows
from timerxl.model.losses_timerxl import classification_loss
from timerxl.training.batches import evaluation_share, reassemble
from timerxl.training.feed import loader, to_device


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a split's windows; ``positions`` [n] into the split, ascending."""

    split: str
    positions: np.ndarray
    logits: np.ndarray  # [n, K] float32
    label: np.ndarray  # [n] int64

    @property
    def probability(self) -> np.ndarray:
        """[n] float64 P(rain), the softmax's second column."""
        logits = self.logits.astype(np.float64)
        return 1.0 / (1.0 + np.exp(logits[:, 0] - logits[:, 1]))


@torch.no_grad()
def forecast(
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    split: str,
    positions: np.ndarray,
    batch_size: int,
    beat: Callable[[], None] = lambda: None,
) -> Forecasts:
    """Logits of the windows at ``positions`` of ``split``, the same on every rank.

    ``beat`` is called after every batch.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    mine = positions[evaluation_share(len(positions), world, rank)]
    batches = [mine[i : i + batch_size].tolist() for i in range(0, len(mine), batch_size)]
    model.eval()
    logits = []
    pin = accelerator.device.type == "cuda"
    for batch in loader(windows, split, batches, 0, pin):
        inputs = to_device(batch, accelerator.device)
        inputs.pop("labels")
        logits.append(model(**inputs).logits.float())
        beat()
    gathered = accelerator.gather(torch.cat(logits)).cpu().numpy()
    return Forecasts(
        split,
        positions,
        reassemble(gathered, len(positions), world),
        windows.labels_of(split)[positions],
    )


def mean_loss(forecasts: Forecasts, name: str, alpha: float, gamma: float) -> float:
    """The training loss over a whole split."""
    logits, labels = torch.from_numpy(forecasts.logits), torch.from_numpy(forecasts.label)
    return float(classification_loss(logits, labels, name=name, alpha=alpha, gamma=gamma))


def agree(accelerator: Accelerator, value: Any) -> Any:
    """The main process's ``value`` on every rank: one rank alone must never decide to stop."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def agree_on_any(accelerator: Accelerator, wish: bool, number: int) -> tuple[bool, int]:
    """(does any rank wish it, the largest number of all), the same on every rank."""
    if accelerator.num_processes == 1:
        return wish, number
    own = torch.tensor([[int(wish), number]], device=accelerator.device)
    wishes = accelerator.gather(own).amax(0).tolist()
    return bool(wishes[0]), int(wishes[1])
