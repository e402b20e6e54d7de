"""Regions side by side in one window: an answer for each, and none that a hidden one changes."""

from __future__ import annotations

import pytest
import torch

from tests.unit.model.small_classifier import small_classifier
from timerxl.model import TimerXLConfig, TimerXLForClassification

REGIONS, VARIABLES, PATCHES, PATCH, STATIC = 3, 2, 4, 4, 2
EVERY = torch.arange(PATCHES)


def build(**settings: object) -> TimerXLForClassification:
    return small_classifier(
        patch_length=PATCH,
        context_length=PATCHES * PATCH,
        num_variables=VARIABLES,
        num_regions=REGIONS,
        num_static_real_features=STATIC,
        **settings,
    )


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(batch, PATCHES * PATCH, REGIONS * VARIABLES, generator=generator)
    static = torch.randn(batch, PATCHES, REGIONS, STATIC, generator=generator)
    return values, static, torch.ones(batch, PATCHES * PATCH, REGIONS, dtype=torch.bool)


POOLINGS = ["last", "mean"]


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_every_region_gets_its_answer_at_every_patch(pooling):
    model, (values, static, observed) = build(pooling=pooling), inputs()
    every = model(values, static_real_features=static, label_positions=EVERY).logits
    assert every.shape == (3, PATCHES, REGIONS, 2)
    last = model(values, static_real_features=static[:, -1]).logits
    torch.testing.assert_close(every[:, -1], last, atol=1e-6, rtol=1e-5)
    seen = model(values, static_real_features=static[:, -1], past_observed_mask=observed).logits
    torch.testing.assert_close(seen, last, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_an_answer_reads_the_states_of_its_own_region_and_they_know_the_others():
    model, (values, static, _) = build(), inputs()
    logits = model(values, static_real_features=static[:, -1]).logits
    hidden = model.timer_xl(values, last_patch_only=True).last_hidden_state
    for region in range(REGIONS):
        own = hidden[:, region * VARIABLES : (region + 1) * VARIABLES].flatten(1)
        features = torch.cat([model.classifier_norm(own), static[:, -1, region]], dim=-1)
        inner = torch.nn.functional.gelu(model.classifier_dense(features))
        torch.testing.assert_close(logits[:, region], model.classifier_out(inner))
    values[:, -PATCH:, 0] += 5.0  # the first region's newest patch
    changed = model(values, static_real_features=static[:, -1]).logits
    assert ((changed - logits).abs().amax((0, 2)) > 1e-4).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])  # on a CPU two ways through SDPA
@pytest.mark.parametrize("bias", ["folded", "mask"])
@torch.no_grad()
def test_what_a_hidden_region_holds_changes_no_other_answer(attention, dropout, bias):
    model, (values, static, observed) = build(variable_bias_mode=bias), inputs()
    model.set_attn_implementation(attention)
    for layer in model.timer_xl.layers:
        layer.self_attn.config.attention_dropout = dropout
    observed[0, :, 1] = False
    observed[2, 5, 0] = False  # one step: its patch is hidden, the others are not
    shown = model(values, None, static, label_positions=EVERY, past_observed_mask=observed).logits
    other = values.clone()
    other[0, :, VARIABLES : 2 * VARIABLES] = 99.0
    other[2, PATCH : 2 * PATCH, :VARIABLES] = -99.0
    found = model(other, None, static, label_positions=EVERY, past_observed_mask=observed).logits
    keeps = torch.ones_like(found, dtype=torch.bool)
    keeps[0, :, 1] = False
    keeps[2, 1, 0] = False  # what a region itself says at its hidden patch
    torch.testing.assert_close(found[keeps], shown[keeps], atol=1e-6, rtol=1e-6)
    without = model(values, None, static, label_positions=EVERY).logits
    assert (shown[0] - without[0]).abs().max() > 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_hidden_region_is_as_one_that_is_not_there(attention):
    """Against attention over the tokens that are left, places and embeddings kept."""
    model, (values, static, observed) = build(), inputs()
    model.set_attn_implementation(attention)
    observed[:, :, 1] = False
    found = model(values, None, static[:, -1], past_observed_mask=observed).logits

    backbone = model.timer_xl
    backbone.set_attn_implementation("eager")
    layout = backbone._layout(REGIONS * VARIABLES, PATCHES, torch.device("cpu"))
    size = VARIABLES * PATCHES
    kept = torch.cat([torch.arange(size), torch.arange(2 * size, 3 * size)])
    from timerxl.model.attention_timerxl import TokenLayout

    fewer = TokenLayout(
        2 * VARIABLES,
        PATCHES,
        PATCHES,
        layout.visible[kept][:, kept],
        layout.key_variable[kept],
        layout.rotation[kept],
    )
    tokens = values.transpose(1, 2).unflatten(2, (PATCHES, -1))
    states = backbone.embedding(tokens)
    both = backbone.variable_embedding.weight + backbone.region_embedding.weight[:, None]
    states = (states + both.flatten(0, 1)[:, None]).flatten(1, 2)[:, kept]
    for layer in backbone.layers:
        states = layer(states, fewer)[0]
    states = backbone.norm(states).unflatten(1, (2, VARIABLES, PATCHES))[:, :, :, -1].flatten(2)
    for place, region in enumerate((0, 2)):
        features = model.classifier_norm(states[:, place])
        features = torch.cat([features, static[:, -1, region]], dim=-1)
        inner = torch.nn.functional.gelu(model.classifier_dense(features))
        expected = model.classifier_out(inner)
        torch.testing.assert_close(found[:, region], expected, atol=1e-5, rtol=1e-4)


def check_gradients(**settings: object) -> None:
    """Those of eager attention, with a region hidden and not counted."""
    grads = []
    for attention in ("sdpa", "eager"):
        model, (values, static, observed) = build(next_patch_head=True, **settings), inputs()
        model.set_attn_implementation(attention)
        observed[1, :9, 2] = False
        labels = torch.ones(3, PATCHES, REGIONS, dtype=torch.long)
        labels[1, :, 2] = -100
        output = model(
            values,
            labels,
            static,
            label_positions=EVERY,
            next_patch_weight=0.5,
            past_observed_mask=observed,
        )
        output.loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-3, msg=name)


def test_gradients_with_hidden_tokens_are_those_of_eager_attention():
    check_gradients()


def test_a_patch_that_is_not_observed_is_neither_forecast_nor_forecast_from():
    model, (values, static, observed) = build(next_patch_head=True), inputs()
    labels = torch.ones(3, PATCHES, REGIONS, dtype=torch.long)
    observed[0, PATCH, 1] = False  # the second patch of the second region
    output = model(
        values,
        labels,
        static,
        label_positions=EVERY,
        next_patch_weight=1.0,
        past_observed_mask=observed,
    )
    hidden = model.timer_xl(values, past_observed_mask=observed).last_hidden_state
    forecast = model.next_patch(hidden).view(3, REGIONS * VARIABLES, PATCHES, PATCH)
    total = 0.0
    for window in range(3):
        for variable in range(REGIONS * VARIABLES):
            for patch in range(PATCHES - 1):
                if window == 0 and variable // VARIABLES == 1 and patch in (0, 1):
                    continue
                future = values[window, (patch + 1) * PATCH : (patch + 2) * PATCH, variable]
                total += torch.nn.functional.huber_loss(forecast[window, variable, patch], future)
    expected = total / (3 * REGIONS * VARIABLES * (PATCHES - 1))
    torch.testing.assert_close(output.next_patch_loss, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariate": True}, "num_regions does not go with covariate"),
        ({"instance_norm": True}, "num_regions does not go with instance_norm"),
        ({"variable_embedding": False}, "num_regions needs variable_embedding"),
        ({"num_variables": None}, "set num_variables"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    given = {"num_variables": 2, "num_regions": 3, "variable_embedding": True} | settings
    with pytest.raises(ValueError, match=message):
        TimerXLConfig(patch_length=4, hidden_size=16, num_attention_heads=2, **given)


def test_a_mask_or_a_window_of_another_shape_is_refused():
    model, (values, static, observed) = build(), inputs()
    with pytest.raises(ValueError, match=r"past_observed_mask has shape \[3, 16, 2\]"):
        model(values, None, static[:, -1], past_observed_mask=observed[:, :, :2])
    with pytest.raises(ValueError, match="3 regions of 2 variables, side by side: 6"):
        model(values[:, :, :4], None, static[:, -1])
