"""Losses against torch's own and against the formula written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from timerxl.model.modeling_timerxl import LOSS_NAMES, classification_loss, sample_weights

ALPHA, GAMMA = 0.3, 2.5


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(size, 2, generator=generator)
    return logits, torch.randint(0, 2, (size,), generator=generator)


def loss_of(logits: Tensor, labels: Tensor, name: str, normalizer: Tensor | None = None) -> Tensor:
    return classification_loss(
        logits, labels, name=name, alpha=ALPHA, gamma=GAMMA, normalizer=normalizer
    )


def focal_by_hand(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> float:
    """Lin et al. 2017, eq. 5, sample by sample: -alpha_t (1 - p_t)^gamma log p_t."""
    total = 0.0
    for (no_rain, rain), label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        p_rain = 1 / (1 + math.exp(no_rain - rain))
        p_true, weight = (p_rain, alpha) if label == 1 else (1 - p_rain, 1 - alpha)
        total -= weight * (1 - p_true) ** gamma * math.log(p_true)
    return total / len(labels)


def test_cross_entropy_is_torchs() -> None:
    logits, labels = batch()
    expected = torch.nn.CrossEntropyLoss()(logits, labels)
    torch.testing.assert_close(loss_of(logits, labels, "cross_entropy"), expected)


def test_weighted_cross_entropy_is_torchs() -> None:
    logits, labels = batch()
    expected = torch.nn.CrossEntropyLoss(weight=torch.tensor([1 - ALPHA, ALPHA]))(logits, labels)
    torch.testing.assert_close(loss_of(logits, labels, "weighted_cross_entropy"), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.66])
def test_focal_loss_is_the_formula(alpha: float, gamma: float) -> None:
    logits, labels = batch()
    found = classification_loss(logits, labels, name="focal", alpha=alpha, gamma=gamma)
    assert float(found) == pytest.approx(focal_by_hand(logits, labels, alpha, gamma), rel=1e-5)


def test_alpha_weighs_rain_and_its_rest_no_rain() -> None:
    logits = torch.zeros(1, 2)
    for name in ("focal", "weighted_cross_entropy"):
        rain, dry = (
            float(
                classification_loss(
                    logits, torch.tensor([label]), name=name, alpha=0.8, normalizer=1.0
                )
            )
            for label in (1, 0)
        )
        assert rain == pytest.approx(4 * dry)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_ignored_labels_count_nowhere(name: str) -> None:
    logits, labels = batch()
    logits.requires_grad_()
    masked = labels.clone()
    masked[::3] = -100
    kept = masked != -100
    found = loss_of(logits, masked, name)
    torch.testing.assert_close(found, loss_of(logits[kept], labels[kept], name))
    found.backward()
    assert logits.grad is not None
    assert (logits.grad[~kept] == 0).all()
    assert (logits.grad[kept] != 0).any(dim=1).all()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_batch_without_labels_adds_nothing(name: str) -> None:
    logits = batch(4)[0].requires_grad_()
    loss = loss_of(logits, torch.full((4,), -100), name)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_micro_batches_add_up_to_the_whole_batch(name: str) -> None:
    """With the global normaliser; uneven parts, unevenly labelled."""
    logits, labels = batch()
    labels[5:20] = -100
    whole_logits = logits.clone().requires_grad_()
    whole = loss_of(whole_logits, labels, name)
    whole.backward()
    parts_logits = logits.clone().requires_grad_()
    normalizer = sample_weights(labels, name, ALPHA).sum()
    parts = [
        loss_of(part, target, name, normalizer)
        for part, target in zip(
            parts_logits.split([3, 10, 40, 11]), labels.split([3, 10, 40, 11]), strict=True
        )
    ]
    torch.stack(parts).sum().backward()
    torch.testing.assert_close(torch.stack(parts).sum().detach(), whole.detach())
    torch.testing.assert_close(parts_logits.grad, whole_logits.grad)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_half_precision_logits_give_a_full_precision_loss(name: str) -> None:
    logits, labels = batch()
    half = logits.to(torch.bfloat16)
    loss = loss_of(half, labels, name)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(half.float(), labels, name))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_certain_logits_keep_finite_gradients(name: str, gamma: float) -> None:
    """A probability that rounds to 0 or 1, right or wrong."""
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    for labels in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        loss = classification_loss(logits, labels, name=name, alpha=ALPHA, gamma=gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match="loss_name is 'hinge'; expected one of cross_entropy"):
        classification_loss(*batch(), name="hinge")
