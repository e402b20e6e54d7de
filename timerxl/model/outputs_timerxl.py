"""What the Timer-XL models return. Shapes: B batch, T steps, C variables, L tokens, D hidden,
K labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class TimerXLModelOutput(ModelOutput):
    """last_hidden_state [B, L, D], or [B, C, D] where only the last patches were asked for."""

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class TimerXLClassificationOutput(ModelOutput):
    """loss scalar (fp32), logits [B, K]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class TimerXLPredictionOutput(ModelOutput):
    """loss scalar (fp32), prediction_outputs [B, T, C]: patch n holds the forecast of n + 1."""

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
