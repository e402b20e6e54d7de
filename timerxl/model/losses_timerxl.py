"""Classification losses, in fp32 whatever the model's dtype, normalised as the caller asks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
LOSS_NAMES = ("cross_entropy", "weighted_cross_entropy", "focal")


def sample_weights(labels: Tensor, name: str, alpha: float) -> Tensor:
    """[B] what every sample adds to the loss's normaliser; 0 where the label is -100.

    Class-weighted cross-entropy is divided by the sum of the weights (as torch's
    ``CrossEntropyLoss(weight=...)``), cross-entropy and focal loss by the number of samples.
    """
    counted = (labels != IGNORE_INDEX).float()
    if name == "weighted_cross_entropy":
        return counted * torch.where(labels == 1, alpha, 1.0 - alpha)
    return counted


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    name: str = "cross_entropy",
    alpha: float = 0.5,
    gamma: float = 2.0,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Sum of the samples' losses over ``normalizer``.

    logits [B, 2], labels [B] (0, 1, or -100 for "not counted"). ``normalizer`` is the sum of
    :func:`sample_weights` over the GLOBAL batch where this batch is a part of one; None takes
    this batch alone. Focal loss: alpha_t (1 - p_t)^gamma CE with alpha for class 1 and 1 - alpha
    for class 0 (Lin et al. 2017, eq. 5).
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    if name not in LOSS_NAMES:
        raise ValueError(f"loss_name is {name!r}; expected one of {', '.join(LOSS_NAMES)}.")
    if name != "cross_entropy":
        losses = losses * torch.where(labels == 1, alpha, 1.0 - alpha)
    if name == "focal":
        # 1 - p_t from the other class's probability: exact where p_t rounds to one.
        other = 1 - labels.clamp(min=0)
        miss = torch.softmax(logits, dim=-1).gather(1, other[:, None])[:, 0]
        # Clamped for gamma below one, whose derivative at zero is infinite.
        losses = losses * miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma
    if normalizer is None:
        normalizer = sample_weights(labels, name, alpha).sum().clamp(min=1e-12)
    return losses.sum() / normalizer
