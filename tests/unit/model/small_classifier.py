"""A small classifier in evaluation mode, for tests of what it answers."""

from __future__ import annotations

from typing import Any

import torch

from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.model.modeling_timerxl import VariableEmbedding

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "pooling": "last",
    "variable_embedding": True,
}


def small_classifier(**settings: Any) -> TimerXLForClassification:
    """The same weights every time; embeddings that start at zero, which would hide a mistake, are
    drawn too."""
    torch.manual_seed(3)
    model = TimerXLForClassification(TimerXLConfig(**SIZES | settings)).eval()
    for module in model.modules():
        if isinstance(module, VariableEmbedding):
            torch.nn.init.normal_(module.weight)
    return model
