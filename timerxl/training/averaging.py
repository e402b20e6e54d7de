"""A moving average of the weights (``train.ema``), which is what a run scores and keeps.

Polyak and Juditsky (1992) average the iterates of stochastic approximation; the exponential form
with a decay that warms up is that of TensorFlow's ``ExponentialMovingAverage`` (num_updates).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

AVERAGED = "averaged.safetensors"
COUNT = "n_averaged"
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class WeightAverage(AveragedModel):
    """The averaged weights, in fp32 on every rank, as a model of their own.

    After the first update the average is that step's weights. With n updates made, the next one is
    ``average = d * average + (1 - d) * weights``, ``d = min(decay, (1 + n) / (10 + n))``: the
    random start is forgotten soon, whatever the decay.

    It forecasts in ``precision`` as training does (autocast), but never through compiled layers,
    DDP or DeepSpeed.
    """

    def __init__(
        self, model: torch.nn.Module, decay: float, device: torch.device, precision: str = "no"
    ) -> None:
        """Copy ``model``, which no accelerator has prepared yet: its weights are fp32 still."""
        super().__init__(model, device=device)
        self.requires_grad_(False)
        self.n_averaged = self.n_averaged.cpu()  # to read it must not wait for a GPU
        self.decay, self.device_type, self.half_type = decay, device.type, _HALF.get(precision)

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Take in the weights that an optimizer step left, of any precision.

        torch's own reads its count from the GPU in every step, and averages half-precision weights
        in half precision.
        """
        made = int(self.n_averaged)
        weight = 1.0 - min(self.decay, (1 + made) / (10 + made)) if made else 1.0
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        if all(now.dtype == average.dtype for average, now in pairs):
            torch._foreach_lerp_(
                [average for average, _ in pairs], [now for _, now in pairs], weight
            )
        else:  # one after the other: a copy of all in fp32 may find no room
            for average, now in pairs:
                average.lerp_(now.to(average.dtype), weight)
        self.n_averaged += 1

    def forward(self, *arguments: Any, **named: Any) -> Any:
        with (
            contextlib.nullcontext()
            if self.half_type is None
            else torch.autocast(self.device_type, dtype=self.half_type)
        ):
            return self.module(*arguments, **named)

    def write(self, path: Path) -> None:
        """Write the weights, and how many were averaged, into one file."""
        weights = self.module.state_dict()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors | {COUNT: self.n_averaged}, path)

    def read(self, path: Path) -> None:
        """Read what :meth:`write` wrote; raise ValueError or RuntimeError where it doesn't fit."""
        tensors = load_file(path)
        count = tensors.pop(COUNT, torch.tensor(-1))
        if count.dtype != torch.long or count.ndim or count < 0:
            raise ValueError(f"{path.name} does not say how many weights were averaged")
        if bad := [name for name, of in tensors.items() if of.dtype != torch.float32]:
            raise ValueError(f"{path.name} holds {ascii(bad[0])[:80]} in another format than fp32")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError(f"{path.name} holds NaN or infinity")
        self.module.load_state_dict(tensors, strict=True)
        self.n_averaged.copy_(count)
