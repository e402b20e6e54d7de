"""Regions that see their neighbours: each answer reads its own region and these, nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.unit.model.small_classifier import small_classifier
from tests.unit.model.test_regions_together import (
    EVERY,
    PATCH,
    PATCHES,
    REGIONS,
    VARIABLES,
    build,
    check_gradients,
    inputs,
)
from timerxl.model import TimerXLConfig, TimerXLForClassification

NEXT = [[1], [2], [0]]  # region 0 sees 1, 1 sees 2, 2 sees 0
ALL = [[1, 2], [0, 2], [0, 1]]


@torch.no_grad()
def answers(model: TimerXLForClassification, values, static, observed=None) -> torch.Tensor:
    return model(values, None, static, label_positions=EVERY, past_observed_mask=observed).logits


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_with_all_others_as_neighbours_a_region_knows_what_it_knows_among_all(pooling):
    """The first region's window is then the window of all regions, in the same order."""
    values, static, _ = inputs()
    near, together = (
        build(pooling=pooling, region_neighbours=ALL),
        build(pooling=pooling),
    )
    together.load_state_dict(near.state_dict())
    found, expected = answers(near, values, static), answers(together, values, static)
    assert found.shape == expected.shape == (3, PATCHES, REGIONS, 2)
    torch.testing.assert_close(found[:, :, 0], expected[:, :, 0], atol=1e-6, rtol=1e-5)
    for region in range(REGIONS):
        other = values.clone()
        start = region * VARIABLES
        other[:, 2 * PATCH : 3 * PATCH, start : start + VARIABLES] += 5.0
        moved = (answers(near, other, static) - found).abs().amax((0, 3))  # [M, G]
        assert (moved[2:] > 1e-5).all()  # in every region, from that patch on
        assert (moved[:2] == 0).all()


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_the_last_patch_alone_gives_the_answer_of_the_last_position(pooling):
    model, (values, static, _) = build(pooling=pooling, region_neighbours=NEXT), inputs()
    last = model(values, static_real_features=static[:, -1]).logits
    torch.testing.assert_close(answers(model, values, static)[:, -1], last, atol=1e-6, rtol=1e-5)
    weights = model(values, static_real_features=static[:, -1], output_attentions=True)
    torch.testing.assert_close(weights.logits, last, atol=1e-5, rtol=1e-4)
    tokens = 2 * VARIABLES * PATCHES
    assert weights.attentions[0].shape == (3 * REGIONS, 2, tokens, tokens)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_is_no_neighbour_changes_no_answer(attention):
    model, (values, static, _) = build(region_neighbours=NEXT), inputs()
    model.set_attn_implementation(attention)
    found = answers(model, values, static)
    for region in range(REGIONS):
        other = values.clone()
        other[..., region * VARIABLES : (region + 1) * VARIABLES] += 3.0
        moved = (answers(model, other, static) - found).abs().amax((0, 1, 3))
        sees = [region in (own, *NEXT[own]) for own in range(REGIONS)]
        assert [bool(one > 1e-4) for one in moved] == sees
        assert all(one == 0 for one, is_seen in zip(moved, sees, strict=True) if not is_seen)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bias", ["folded", "mask"])
def test_a_missing_neighbour_changes_the_answers_of_those_who_see_it_alone(attention, bias):
    values, static, observed = inputs()
    model = build(region_neighbours=NEXT, variable_bias_mode=bias)
    model.set_attn_implementation(attention)
    whole = answers(model, values, static, observed)
    observed[1, :, 2] = False  # of one window
    found = answers(model, values, static, observed)
    moved = (found - whole).abs().amax((1, 3))
    assert (moved > 1e-4).tolist() == [
        [False] * REGIONS,
        [False, True, True],  # region 1 sees 2
        [False] * REGIONS,
    ]
    other = values.clone()
    other[1, :, 2 * VARIABLES :] = 99.0  # what a hidden region holds
    again = answers(model, other, static, observed)
    torch.testing.assert_close(again[:, :, :2], found[:, :, :2], atol=1e-6, rtol=1e-6)


def test_gradients_are_those_of_eager_attention_and_of_each_window_alone():
    check_gradients(region_neighbours=NEXT)


def test_the_operations_are_those_of_as_many_windows():
    """As many as regions take that see as much in a window of their own; heads are left narrow."""
    near = build(region_neighbours=NEXT, classifier_hidden_size=1)
    double = small_classifier(
        patch_length=PATCH,
        context_length=PATCHES * PATCH,
        num_variables=2 * VARIABLES,
        classifier_hidden_size=1,
    )
    for patches in (None, PATCHES):
        count = near.flops_per_sample(training=False, label_patches=patches)
        alone = double.flops_per_sample(training=False, label_patches=patches)
        assert 0.99 * REGIONS * alone < count <= REGIONS * alone


@pytest.mark.parametrize(
    ("near", "message"),
    [
        ([[1], [2]], "equally many neighbours for each of 3 regions"),
        ([[1], [2], [0, 1]], "equally many neighbours"),
        ([[], [], []], "of region 0 is not a list of regions"),
        ([[1], [3], [0]], "of region 1 is not a list of regions from 0 to 2"),
        ([[1], [2], [-1]], "of region 2 is not a list of regions"),
        ([[1], [1], [0]], "of region 1 holds a region twice, or itself"),
        ([[1, 1], [0, 2], [0, 1]], "of region 0 holds a region twice"),
    ],
)
def test_neighbours_that_are_none_are_refused(near, message):
    with pytest.raises(ValueError, match=message):
        build(region_neighbours=near)
    with pytest.raises(ValueError, match="for each of 0 regions"):
        TimerXLConfig(num_variables=2, variable_embedding=True, region_neighbours=[[1], [0]])
