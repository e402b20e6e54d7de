"""Parameter groups, layer-wise rates, the schedule and a backbone that is held still."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from timerxl.config import OptimConfig
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.training import trainer as loop
from timerxl.training.assembly import (
    build_optimizer,
    build_schedule,
    parameter_groups,
    warmup_cosine,
)

LAYERS = 3


@pytest.fixture
def model() -> TimerXLForClassification:
    config = TimerXLConfig(
        patch_length=4,
        context_length=8,
        num_variables=3,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        pooling="mean",
        variable_embedding=True,
        num_static_real_features=2,
    )
    return TimerXLForClassification(config)


def by_name(model: Any, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every parameter's group; fails where one is in none or in two."""
    of_id: dict[int, dict[str, Any]] = {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in of_id
            of_id[id(parameter)] = group
    assert len(of_id) == len(list(model.parameters()))
    return {name: of_id[id(parameter)] for name, parameter in model.named_parameters()}


def test_only_weights_of_products_decay(model: TimerXLForClassification) -> None:
    group_of = by_name(model, parameter_groups(model, OptimConfig(lr=1e-3, weight_decay=0.3)))
    products = {f"{name}.weight" for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    # embedding, head, two of the classifier, and six a layer.
    assert len(products) == 4 + 6 * LAYERS
    assert {name for name, group in group_of.items() if group["weight_decay"] == 0.3} == products
    others = {group["weight_decay"] for name, group in group_of.items() if name not in products}
    assert others == {0.0}
    assert {group["lr"] for group in group_of.values()} == {1e-3}
    assert len(parameter_groups(model, OptimConfig())) == 2


def test_rates_fall_layer_by_layer_from_the_head(model: TimerXLForClassification) -> None:
    config = OptimConfig(lr=1e-3, layer_lr_decay=0.5)
    group_of = by_name(model, parameter_groups(model, config))
    # Head and classifier, layer 2, 1, 0, and at last what is below the first layer.
    expected = {
        "classifier_out.weight": 1e-3,
        "classifier_norm.bias": 1e-3,
        "head.weight": 1e-3,
        "timer_xl.norm.weight": 1e-3,
        "timer_xl.layers.2.linear1.weight": 5e-4,
        "timer_xl.layers.1.self_attn.q_proj.bias": 2.5e-4,
        "timer_xl.layers.0.self_attn.variable_bias.weight": 1.25e-4,
        "timer_xl.embedding.weight": 6.25e-5,
        "timer_xl.embedding.bias": 6.25e-5,
        "timer_xl.variable_embedding.weight": 6.25e-5,
    }
    found = {name: group_of[name]["lr"] for name in expected}
    assert found == pytest.approx(expected, rel=1e-12)
    for name, group in group_of.items():
        if ".layers." in name:
            layer = int(name.split(".layers.")[1].split(".")[0])
            assert group["lr"] == pytest.approx(1e-3 * 0.5 ** (LAYERS - layer), rel=1e-12)


def test_the_optimizer_is_adamw_with_the_recipe_s_betas(model: TimerXLForClassification) -> None:
    config = OptimConfig(lr=2e-3, adam_beta1=0.8, adam_beta2=0.95, weight_decay=0.1)
    optimizer = build_optimizer(model, config)
    assert type(optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
    # One step by hand (Loshchilov and Hutter 2019, algorithm 2): at step 1 the bias-corrected
    # moments are g and g squared, so the step is lr times g / (|g| + eps), beside the decay.
    weight, bias = model.classifier_dense.weight, model.classifier_dense.bias
    before_weight, before_bias = weight.detach().clone(), bias.detach().clone()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for parameter, before, decay in ((weight, before_weight, 0.1), (bias, before_bias, 0.0)):
        grad = parameter.grad
        assert grad is not None
        expected = before * (1 - 2e-3 * decay) - 2e-3 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_warm_up_and_cosine() -> None:
    factors = [warmup_cosine(step, warmup_steps=4, total_steps=12) for step in range(13)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # cos of 45, 90 and 135 degrees at a quarter, a half and three quarters of the way down.
    root = math.sqrt(0.5)
    expected = [(1 + root) / 2, 0.5, (1 - root) / 2, 0.0]
    assert [factors[i] for i in (6, 8, 10, 12)] == pytest.approx(expected)
    assert warmup_cosine(20, 4, 12) == 0.0
    assert warmup_cosine(0, 0, 10) == 1.0


def test_the_schedule_scales_every_group_and_holds_the_backbone(
    model: TimerXLForClassification,
) -> None:
    backbone = {name for name, _ in model.named_parameters() if name.startswith("timer_xl.")}
    config = OptimConfig(lr=1e-2, warmup_ratio=0.25, layer_lr_decay=0.9)
    optimizer = build_optimizer(model, config, backbone)
    assert {group["is_backbone"] for group in optimizer.param_groups} == {True, False}
    base = [group["lr"] for group in optimizer.param_groups]
    schedule = build_schedule(optimizer, config, total_steps=12, freeze_steps=5)
    for step in range(12):
        if step < 3:
            factor = (step + 1) / 4
        else:
            factor = 0.5 + 0.5 * math.cos(math.pi * (step - 3) / 9)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            still = group["is_backbone"] and step < 5
            assert group["lr"] == pytest.approx(0.0 if still else rate * factor, rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.slow
@pytest.mark.parametrize("static", ["false", "true"])
def test_a_frozen_backbone_stays_bit_for_bit_and_then_moves(
    train_tiny: Any, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, static: str
) -> None:
    """From an earlier run's folder: without static features the classifier has to be a new one,
    with them it comes along; either way it learns from the first step on."""
    states: list[dict[str, torch.Tensor]] = []
    log_step = loop.TrainingLoop._log_step

    def watch(self: loop.TrainingLoop, *arguments: Any) -> None:
        states.append({k: v.detach().clone() for k, v in self.model.state_dict().items()})
        log_step(self, *arguments)

    monkeypatch.setattr(loop.TrainingLoop, "_log_step", watch)
    pretrained = finished.folder / "model"
    freeze = ["model.freeze_backbone_epochs=1", f"data.static_features={static}", "train.epochs=2"]
    run = train_tiny(tmp_path / "run", f"model.pretrained={pretrained}", *freeze)

    from safetensors.torch import load_file

    start = load_file(pretrained / "model.safetensors")
    assert len(states) == run.returned["steps"] == 24
    backbone = [name for name in start if name.startswith("timer_xl.")]
    classifier = [name for name in start if not name.startswith("timer_xl.")]
    assert len(backbone) > 30
    assert len(classifier) == 6
    for state in states[:12]:
        assert all(torch.equal(state[name], start[name]) for name in backbone)
    moved = [name for name in backbone if not torch.equal(states[12][name], start[name])]
    assert moved == backbone
    assert not torch.equal(states[0]["classifier_out.weight"], states[1]["classifier_out.weight"])
