"""Regions that meet in the classifier alone: attention within a region, states of the others."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.model.small_classifier import small_classifier
from tests.unit.model.test_regions_together import (
    EVERY,
    PATCH,
    PATCHES,
    REGIONS,
    STATIC,
    VARIABLES,
    build,
    check_gradients,
    inputs,
)
from timerxl.model import TimerXLConfig, TimerXLForClassification

NEXT = [[1], [2], [0]]  # region 0 sees 1, 1 sees 2, 2 sees 0
OTHERS = [[1, 2], [0, 2], [0, 1]]
ALL = [[0, 1, 2]] * 3


def mixing(**settings: object) -> TimerXLForClassification:
    model = build(region_mixing="classifier", **settings)
    torch.nn.init.normal_(model.region_mixing.weight, generator=torch.Generator().manual_seed(1))
    return model


def of_one_region(model: TimerXLForClassification, region: int) -> TimerXLForClassification:
    """The same weights for windows of this region alone."""
    single = small_classifier(
        patch_length=PATCH,
        context_length=PATCHES * PATCH,
        num_variables=VARIABLES,
        num_static_real_features=STATIC,
        pooling=model.config.pooling,
    )
    state = single.state_dict()
    weights = {name: value for name, value in model.state_dict().items() if name in state}
    embedding = "timer_xl.variable_embedding.weight"
    place = model.timer_xl.region_embedding.weight[region]
    single.load_state_dict(weights | {embedding: weights[embedding] + place})
    return single


def own(tensor: torch.Tensor, region: int) -> torch.Tensor:
    return tensor[..., region * VARIABLES : (region + 1) * VARIABLES]


@torch.no_grad()
def expected_logits(model, values, static, observed=None) -> torch.Tensor:
    """[B, M, G, K] from a window of each region and the formula, a region and neighbour at a
    time."""
    near, mixer = model.config.region_neighbours or ALL, model.region_mixing
    states = []
    for region in range(REGIONS):
        single = of_one_region(model, region)
        pooled, *_ = single._pool_at(own(values, region), EVERY, forecasts=False)
        states.append(model.classifier_norm(pooled))  # [B, M, X]
    answers = []
    for region in range(REGIONS):
        features = torch.cat([states[region], static[:, :, region]], dim=-1)
        inner = model.classifier_dense(features)
        for place, other in enumerate(near[region]):
            given = states[other] @ mixer.dense.weight.T * mixer.weight[region, place]
            if observed is not None:
                given = given * observed[:, :, other, None]
            inner = inner + given
        answers.append(model.classifier_out(torch.nn.functional.gelu(inner)))
    return torch.stack(answers, dim=2)


@pytest.mark.parametrize("near", [None, NEXT])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_answers_are_those_of_the_formula_on_windows_of_one_region(pooling, near):
    model = mixing(pooling=pooling, region_neighbours=near)
    values, static, observed = inputs()
    found = model(values, None, static, label_positions=EVERY).logits
    expected = expected_logits(model, values, static)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    seen = model(values, None, static, label_positions=EVERY, past_observed_mask=observed).logits
    torch.testing.assert_close(seen, found, atol=1e-6, rtol=1e-5)
    last = model(values, None, static[:, -1]).logits
    torch.testing.assert_close(last, found[:, -1], atol=1e-6, rtol=1e-5)
    weights = model(values, None, static[:, -1], output_attentions=True)
    torch.testing.assert_close(weights.logits, last, atol=1e-5, rtol=1e-4)
    tokens = VARIABLES * PATCHES
    assert weights.attentions[0].shape == (3 * REGIONS, 2, tokens, tokens)


@torch.no_grad()
def test_at_first_every_region_answers_as_in_a_window_of_its_own():
    model, (values, static, _) = build(region_mixing="classifier"), inputs()
    found = model(values, None, static, label_positions=EVERY).logits
    for region in range(REGIONS):
        alone = of_one_region(model, region)(
            own(values, region), None, static[:, :, region], label_positions=EVERY
        ).logits
        torch.testing.assert_close(found[:, :, region], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("near", [None, OTHERS, NEXT])
@torch.no_grad()
def test_an_answer_knows_the_past_of_its_neighbours_and_nothing_else(near):
    model, (values, static, _) = mixing(region_neighbours=near), inputs()
    found = model(values, None, static, label_positions=EVERY).logits
    for region in range(REGIONS):
        other = values.clone()
        own(other, region)[:, 2 * PATCH : 3 * PATCH] += 5.0
        again = model(other, None, static, label_positions=EVERY).logits
        moved = (again - found).abs().amax((0, 3))  # [M, G]
        assert (moved[:2] == 0).all()
        sees = [region in (one, *(near or ALL)[one]) for one in range(REGIONS)]
        assert (moved[2:] > 1e-5).all(0).tolist() == sees
        assert (moved[2:] > 0).any(0).tolist() == sees


@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.no_grad()
def test_a_region_that_is_not_observed_is_worth_nothing_to_the_others(pooling):
    model, (values, static, observed) = mixing(pooling=pooling), inputs()
    observed[0, :, 1] = False
    observed[2, PATCH + 1, 0] = False  # one step of the second patch
    own(values, 1)[0] = 99.0
    found = model(values, None, static, label_positions=EVERY, past_observed_mask=observed).logits
    whole = torch.ones(3, PATCHES, REGIONS)
    whole[0, :, 1] = 0
    # The mean at a later patch holds the one that is missing; its last patch alone does not.
    missing = slice(1, None) if pooling == "mean" else slice(1, 2)
    whole[2, missing, 0] = 0
    expected = expected_logits(model, values, static, whole)
    keeps = torch.ones_like(found, dtype=torch.bool)
    keeps[0, :, 1] = False  # what a region says itself where it is not observed
    keeps[2, :, 0] = False
    if pooling == "last":  # later patches don't attend to the hidden one: no longer the formula's
        keeps[2, 2:] = False
    torch.testing.assert_close(found[keeps], expected[keeps], atol=1e-5, rtol=1e-4)
    own(values, 1)[0] = -99.0
    again = model(values, None, static, label_positions=EVERY, past_observed_mask=observed).logits
    torch.testing.assert_close(again[keeps], found[keeps], atol=0, rtol=0)


def test_gradients_are_those_of_eager_attention():
    check_gradients(region_mixing="classifier")


@pytest.mark.parametrize("patches", [None, PATCHES])
def test_operations_are_those_that_run(patches):
    model, (values, static, _) = mixing(), inputs(1)
    model.set_attn_implementation("eager")
    positions = {} if patches is None else {"label_positions": EVERY}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(values, None, static if patches else static[:, -1], **positions)
    counted = model.flops_per_sample(training=False, label_patches=patches)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_saved_model_comes_back_and_one_without_the_key_meets_in_attention(tmp_path):
    model, (values, static, _) = mixing(region_neighbours=NEXT), inputs()
    model.save_pretrained(tmp_path)
    again = TimerXLForClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found, expected = (one(values, None, static[:, -1]).logits for one in (again, model))
    assert torch.equal(found, expected)
    kept = model.config.to_dict()
    del kept["region_mixing"]
    assert TimerXLConfig(**kept).region_mixing == "attention"
    with pytest.raises(ValueError, match="region_mixing is 'both'; expected 'attention' or"):
        build(region_mixing="both")


@torch.no_grad()
def test_one_region_alone_has_no_others():
    model = small_classifier(num_variables=2, num_regions=1, region_mixing="classifier")
    values = torch.randn(2, model.config.context_length, 2)
    assert model(values).logits.shape == (2, 1, 2)
