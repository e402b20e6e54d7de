"""A label after every patch: what the classifier says there, knows there, and is charged for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.unit.model.small_classifier import small_classifier
from timerxl.model import TimerXLForClassification
from timerxl.model.attention_timerxl import TokenLayout

PATCHES, PATCH, STATIC = 5, 4, 3


def build(variables: int = 3, **settings: object) -> TimerXLForClassification:
    return small_classifier(
        patch_length=PATCH,
        context_length=PATCHES * PATCH,
        num_variables=variables,
        num_static_real_features=STATIC,
        **settings,
    )


def inputs(variables: int = 3, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(batch, PATCHES * PATCH, variables, generator=generator)
    return values, torch.randn(batch, PATCHES, STATIC, generator=generator)


EVERY = torch.arange(PATCHES)
POOLINGS = [{"pooling": "last"}, {"pooling": "mean", "variable_embedding": False}]


def shorter_layout(model: TimerXLForClassification, variables: int, patches: int) -> TokenLayout:
    """Of the first patches of every variable, which keep their places in the whole window."""
    whole = model.timer_xl._layout(variables, PATCHES, torch.device("cpu"))
    kept = (torch.arange(variables)[:, None] * PATCHES + torch.arange(patches)).flatten()
    return TokenLayout(
        num_variables=variables,
        num_patches=patches,
        query_patches=patches,
        visible=whole.visible[kept][:, kept],
        key_variable=whole.key_variable[kept],
        rotation=whole.rotation[kept],
    )


@pytest.mark.parametrize("settings", POOLINGS)
@pytest.mark.parametrize("variables", [1, 3])
@torch.no_grad()
def test_every_patch_answers_as_a_window_that_ends_with_it(settings, variables):
    model = build(variables, **settings)
    values, static = inputs(variables)
    answers = model(values, static_real_features=static, label_positions=EVERY).logits
    assert answers.shape == (4, PATCHES, 2)
    for patches in range(1, PATCHES + 1):
        layout = shorter_layout(model, variables, patches)
        model.timer_xl._layouts = {(variables, patches, torch.device("cpu")): layout}
        window = values[:, : patches * PATCH]
        alone = model(window, static_real_features=static[:, patches - 1]).logits
        torch.testing.assert_close(answers[:, patches - 1], alone, atol=1e-6, rtol=1e-5)
        model.timer_xl._layouts = {}


@torch.no_grad()
def test_of_one_variable_a_shorter_context_needs_no_places_of_the_longer_one():
    model = build(1)
    values, static = inputs(1)
    answers = model(values, static_real_features=static, label_positions=EVERY).logits
    for patches in range(1, PATCHES + 1):
        alone = model(values[:, : patches * PATCH], static_real_features=static[:, patches - 1])
        torch.testing.assert_close(answers[:, patches - 1], alone.logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", POOLINGS)
@torch.no_grad()
def test_the_last_patch_answers_as_without_positions(settings):
    model = build(**settings)
    values, static = inputs()
    answers = model(values, static_real_features=static, label_positions=EVERY).logits
    today = model(values, static_real_features=static[:, -1]).logits
    torch.testing.assert_close(answers[:, -1], today, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("settings", POOLINGS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_future_of_a_patch_changes_no_answer_at_it(settings, attention):
    model = build(**settings)
    model.set_attn_implementation(attention)
    values, static = inputs()
    answers = model(values, static_real_features=static, label_positions=EVERY).logits
    for patch in range(PATCHES - 1):
        other = values.clone()
        other[:, (patch + 1) * PATCH :] = 50.0
        changed = model(other, static_real_features=static, label_positions=EVERY).logits
        assert torch.equal(changed[:, : patch + 1], answers[:, : patch + 1])
        assert not torch.equal(changed[:, patch + 1], answers[:, patch + 1])


@torch.no_grad()
def test_some_positions_are_rows_of_all_of_them():
    model = build()
    values, static = inputs()
    answers = model(values, static_real_features=static, label_positions=EVERY).logits
    chosen = torch.tensor([3, 1])
    found = model(values, static_real_features=static[:, chosen], label_positions=chosen).logits
    torch.testing.assert_close(found, answers[:, chosen])


@pytest.mark.parametrize("setting", ["instance_norm", "covariate"])
def test_a_model_whose_early_patches_know_the_later_ones_refuses_positions(setting):
    model = build(**{setting: True})
    values, static = inputs()
    with pytest.raises(ValueError, match=f"label_positions with {setting}"):
        model(values, static_real_features=static, label_positions=EVERY)


def test_labels_that_do_not_count_change_neither_loss_nor_gradient():
    model = build()
    values, static = inputs()
    labels = torch.randint(0, 2, (4, PATCHES), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = -100
    labels[3] = -100
    output = model(values, labels, static, label_positions=EVERY)
    logits, counted = output.logits, labels != -100
    torch.testing.assert_close(output.loss, F.cross_entropy(logits[counted], labels[counted]))
    whole = model(values, labels, static, label_positions=EVERY, loss_normalizer=30.0).loss
    torch.testing.assert_close(whole, output.loss * counted.sum() / 30)
    output.loss.backward()
    kept = model.classifier_out.weight.grad.clone()
    model.zero_grad()
    shown = values.clone()
    shown[3] = 9.0
    model(shown, labels, static, label_positions=EVERY).loss.backward()
    torch.testing.assert_close(model.classifier_out.weight.grad, kept)


def test_the_next_patch_is_charged_by_its_huber_loss():
    model = build(next_patch_head=True)
    values, static = inputs()
    labels = torch.ones(4, PATCHES, dtype=torch.long)
    labels[2] = -100  # a window without a label that counts is not forecast either
    plain = model(values, labels, static, label_positions=EVERY).loss
    output = model(values, labels, static, label_positions=EVERY, next_patch_weight=0.5)
    hidden = model.timer_xl(values).last_hidden_state
    forecast = model.next_patch(hidden).view(4, 3, PATCHES, PATCH)
    losses = []
    for window in (0, 1, 3):
        for variable in range(3):
            for patch in range(PATCHES - 1):
                future = values[window, (patch + 1) * PATCH : (patch + 2) * PATCH, variable]
                error = (forecast[window, variable, patch] - future).abs()
                losses.append(torch.where(error < 1, error**2 / 2, error - 0.5).mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(output.next_patch_loss, expected)
    torch.testing.assert_close(output.loss, plain + 0.5 * expected)
    half = model(
        values,
        labels,
        static,
        label_positions=EVERY,
        next_patch_weight=0.5,
        next_patch_normalizer=6,
    )
    torch.testing.assert_close(half.next_patch_loss, expected / 2)


def test_without_a_weight_the_head_of_the_next_patch_gets_no_gradient():
    model = build(next_patch_head=True)
    values, static = inputs()
    labels = torch.ones(4, PATCHES, dtype=torch.long)
    output = model(values, labels, static, label_positions=EVERY)
    output.loss.backward()
    assert output.next_patch_loss is None
    assert model.next_patch.weight.grad is None
