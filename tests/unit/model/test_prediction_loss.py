"""The forecaster's loss: squared errors of what is known, over the global batch's patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from timerxl.model import TimerXLConfig, TimerXLForPrediction

PATCH, PATCHES, VARIABLES = 4, 3, 2


@pytest.fixture(scope="module")
def model() -> TimerXLForPrediction:
    torch.manual_seed(0)
    config = TimerXLConfig(
        patch_length=PATCH,
        context_length=PATCH * PATCHES,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return TimerXLForPrediction(config).eval()


def test_the_loss_is_the_squared_error_of_known_labels_by_hand(model):
    past, labels = torch.randn(2, 5, PATCH * PATCHES, VARIABLES)
    labels[1, PATCH : 2 * PATCH] = torch.nan
    labels[3] = torch.nan
    output = model(past, labels=labels)
    forecast = output.prediction_outputs.detach().numpy().astype(np.float64)
    errors = (forecast - labels.numpy()) ** 2
    known = ~np.isnan(errors)
    assert known.sum() == (5 * PATCHES - 1 - PATCHES) * PATCH * VARIABLES
    assert output.loss.item() == pytest.approx(errors[known].mean(), rel=1e-6)
    shared = model(past, labels=labels, loss_normalizer=20.0).loss.item()
    assert shared == pytest.approx(errors[known].sum() / (PATCH * VARIABLES) / 20, rel=1e-6)


def test_parts_of_a_batch_add_up_to_its_loss_and_gradient(model):
    past, labels = torch.randn(2, 6, PATCH * PATCHES, VARIABLES)
    labels[0, :PATCH], labels[5] = torch.nan, torch.nan
    patches = float(5 * PATCHES - 1)
    whole = model(past, labels=labels, loss_normalizer=patches).loss
    (gradient,) = torch.autograd.grad(whole, model.head.weight)
    parts = [
        model(past[part], labels=labels[part], loss_normalizer=patches).loss
        for part in (slice(0, 4), slice(4, 6))
    ]
    (of_parts,) = torch.autograd.grad(sum(parts), model.head.weight)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(of_parts, gradient)
    assert whole.item() == pytest.approx(model(past, labels=labels).loss.item(), rel=1e-6)


def test_labels_that_are_all_unknown_give_no_loss_and_no_gradient(model):
    past = torch.randn(1, PATCH * PATCHES, VARIABLES)
    loss = model(past, labels=torch.full_like(past, torch.nan)).loss
    (gradient,) = torch.autograd.grad(loss, model.head.weight)
    assert loss.item() == 0
    assert not gradient.any()
