"""Every recipe builds its model at full size, and the five models of the analysis are these."""

from __future__ import annotations

import pytest
import torch

from timerxl.config import RunConfig, available_recipes, load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.training.assembly import model_config

VARIABLES, STATIC = 27, 9
# layers, hidden, ffn, context, batch, lr, dropout, epochs, pooling
SETTINGS = {
    "transfer_long": (8, 1024, 2048, 2880, 12, 5e-5, 0.2, 30, "mean"),
    "transfer": (8, 1024, 2048, 1440, 16, 5e-5, 0.2, 30, "last"),
    "small_original": (4, 512, 1024, 672, 32, 1e-4, 0.1, 25, "mean"),
    "small_improved": (6, 768, 1536, 1440, 24, 8e-5, 0.15, 25, "mean"),
    "small": (5, 640, 1280, 1440, 32, 8e-5, 0.15, 25, "last"),
}
# Millions of parameters with OpenLTM's classifier on the mean of all tokens.
PUBLISHED = {
    "transfer_long": 67.4,
    "transfer": 67.4,
    "small_improved": 28.5,
    "small": 16.6,
    "small_original": 8.5,
}
EXACT = {
    "transfer_long": 67_411_746,
    "transfer": 70_923_906,
    "small_improved": 28_525_058,
    "small": 18_747_858,
    "small_original": 8_524_002,
    "quickstart": 517_466,
    "hourly_cpu": 1_300_914,
}


def build(config: RunConfig) -> TimerXLForClassification:
    static = STATIC if config.data.static_features else 0
    with torch.device("meta"):
        return TimerXLForClassification(model_config(config, VARIABLES, static, alpha=0.5))


def counted(config: RunConfig, pooling: str | None = None) -> int:
    """Weights and biases by hand: backbone, then OpenLTM's head or the last patches, classifier."""
    model = config.model
    d, f, patch = model.hidden_size, model.intermediate_size, model.patch_length
    attention = 4 * (d * d + d) + 2 * model.num_attention_heads
    layer = attention + (d * f + f) + (f * d + d) + 2 * 2 * d
    total = (patch * d + d) + model.num_hidden_layers * layer + 2 * d
    static = STATIC if config.data.static_features and pooling is None else 0
    if model.variable_embedding and pooling is None:
        total += VARIABLES * d
    if config.data.regions_together == "all":
        total += d  # of the one region that the test builds for
    if config.loss.next_patch_weight:
        total += d * patch + patch
    if (pooling or model.pooling) == "mean":
        total += d * patch + patch
        pooled = patch
    else:
        pooled = VARIABLES * d
    if config.data.regions_together == "all" and model.region_mixing == "classifier":
        total += pooled * 128 + 128  # the only region's weight of itself
    return total + 2 * pooled + (pooled + static) * 128 + 128 + 128 * 2 + 2


@pytest.mark.parametrize("name", available_recipes())
def test_a_recipe_builds_its_model_at_full_size(name: str) -> None:
    config = load_recipe(name)
    model = build(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == counted(config)
    assert found == EXACT.get(name, found)


def test_the_recipes_are_at_least_these() -> None:
    assert EXACT.keys() <= set(available_recipes())


@pytest.mark.parametrize("name", PUBLISHED)
def test_with_the_analysis_s_head_the_size_is_the_published_one(name: str) -> None:
    config = load_recipe(name)
    by_hand = counted(config, pooling="mean")
    assert by_hand / 1e6 == pytest.approx(PUBLISHED[name], rel=0.006)
    config.model.pooling, config.model.variable_embedding = "mean", False
    config.data.static_features = False
    assert build(config).num_parameters() == by_hand


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_those_of_the_analysis(name: str) -> None:
    config = load_recipe(name)
    model, train = config.model, config.train
    assert config.recipe == name
    assert SETTINGS[name] == (
        model.num_hidden_layers,
        model.hidden_size,
        model.intermediate_size,
        model.context_length,
        train.batch_size,
        config.optim.lr,
        model.hidden_dropout,
        train.epochs,
        model.pooling,
    )
    assert model.attention_dropout == model.hidden_dropout
    assert (model.num_attention_heads, model.patch_length, model.hidden_act) == (8, 96, "relu")
    assert (model.instance_norm, model.covariate, train.patience) == (False, False, 8)
    assert (config.loss.name, config.loss.alpha, config.loss.gamma) == ("focal", "auto", 2.0)
    assert config.data.path is None
    assert (config.data.split, config.data.synthetic.step_hours) == ("time", 12)
    assert config.output_dir == f"runs/{name}"


@pytest.mark.parametrize(("name", "tokens", "days"), [("transfer_long", 810, 1440)])
def test_context_in_tokens_and_days(name: str, tokens: int, days: float) -> None:
    config = load_recipe(name)
    assert VARIABLES * config.model.context_length // config.model.patch_length == tokens
    assert config.model.context_length * config.data.synthetic.step_hours / 24 == days


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_is_of_the_climate_nearer_to_a_real_one(name: str) -> None:
    assert load_recipe(name).data.synthetic.version == 2
    assert RunConfig().data.synthetic.version == 1  # a run from before there were versions
