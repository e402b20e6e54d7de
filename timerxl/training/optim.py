"""AdamW's parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from timerxl.config import OptimConfig


def _depth(name: str, num_layers: int) -> int:
    """0 for the embeddings, 1..num_layers for the layers, num_layers + 1 for what comes after."""
    parts = name.split(".")
    if "layers" in parts:
        return 1 + int(parts[parts.index("layers") + 1])
    return 0 if "embedding" in name else num_layers + 1


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for the weights of products: not biases, norms or embeddings by index."""
    by_index = "variable_bias" in name or "variable_embedding" in name
    return parameter.ndim > 1 and not by_index


def parameter_groups(
    model: nn.Module, config: OptimConfig, backbone: frozenset[str] | set[str] = frozenset()
) -> list[dict[str, Any]]:
    """Groups of equal learning rate and weight decay.

    A parameter d layers below the head has the rate ``lr * layer_lr_decay ** d``. Parameters
    named in ``backbone`` carry ``is_backbone``, so that the schedule can hold them still.
    """
    num_layers = int(getattr(model.config, "num_hidden_layers", 0))
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        depth, decays = _depth(name, num_layers), _decays(name, parameter)
        key = (depth if config.layer_lr_decay != 1.0 else 0, decays, name in backbone)
        if key not in groups:
            groups[key] = {
                "params": [],
                "lr": config.lr * config.layer_lr_decay ** (num_layers + 1 - depth)
                if config.layer_lr_decay != 1.0
                else config.lr,
                "weight_decay": config.weight_decay if decays else 0.0,
                "is_backbone": name in backbone,
            }
        groups[key]["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, config: OptimConfig, backbone: frozenset[str] | set[str] = frozenset()
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), in torch's fused implementation."""
    return torch.optim.AdamW(
        parameter_groups(model, config, backbone),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        fused=True,
    )


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor on the learning rate: linear up over the warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _held_still(step: int, until: int, factor: Callable[[int], float]) -> float:
    return 0.0 if step < until else factor(step)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int, freeze_steps: int = 0
) -> LambdaLR:
    """Warm-up and cosine, stepped once per optimizer step by the loop (never by accelerate,
    which would step it num_processes times). Groups marked ``is_backbone`` have rate zero for
    the first ``freeze_steps`` steps."""
    warmup_steps = round(config.warmup_ratio * total_steps)
    factor = partial(warmup_cosine, warmup_steps=warmup_steps, total_steps=total_steps)
    frozen = partial(_held_still, until=freeze_steps, factor=factor)
    return LambdaLR(
        optimizer, [frozen if g.get("is_backbone") else factor for g in optimizer.param_groups]
    )
