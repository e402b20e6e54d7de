"""Shapes, sizes and operation counts of the models; what they refuse; checkpointing; precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from timerxl.model import TimerXLConfig, TimerXLForClassification, TimerXLForPrediction
from timerxl.model.modeling_timerxl import LOSS_NAMES

VARIABLES, PATCHES, PATCH = 3, 4, 4
TINY: dict[str, Any] = {
    "patch_length": PATCH,
    "context_length": PATCH * PATCHES,
    "num_variables": VARIABLES,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
FULL = {"pooling": "last", "variable_embedding": True, "num_static_real_features": 2}
# Layers, hidden, feed-forward, context.
PERU = {
    "transfer_long": (8, 1024, 2048, 2880),
    "transfer": (8, 1024, 2048, 1440),
    "small_improved": (6, 768, 1536, 1440),
    "small": (5, 640, 1280, 1440),
    "small_original": (4, 512, 1024, 672),
}


def peru_config(name: str, **fields: Any) -> TimerXLConfig:
    layers, hidden, intermediate, context = PERU[name]
    return TimerXLConfig(
        patch_length=96,
        context_length=context,
        num_variables=27,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=8,
        **fields,
    )


def series(batch: int = 2, steps: int = PATCH * PATCHES, variables: int = VARIABLES) -> Tensor:
    return torch.randn(batch, steps, variables, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("transfer_long", 67.4),
        ("transfer", 67.4),
        ("small_improved", 28.5),
        ("small", 16.6),
        ("small_original", 8.5),
    ],
)
def test_parameter_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = TimerXLForClassification(peru_config(name))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "gigaflops"), [("transfer_long", 392), ("small_improved", 78)])
def test_operations_of_the_runs_that_were_timed(name: str, gigaflops: int) -> None:
    with torch.device("meta"):
        model = TimerXLForClassification(peru_config(name))
    assert model.flops_per_sample() / 1e9 == pytest.approx(gigaflops, rel=0.005)


@pytest.mark.parametrize("fields", [{}, {"pooling": "last"}, FULL], ids=["mean", "last", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_are_those_that_torch_counts(
    fields: dict[str, Any], checkpointing: bool
) -> None:
    model = TimerXLForClassification(TimerXLConfig(**(TINY | fields)))
    model.set_attn_implementation("eager")
    static = torch.randn(2, 2) if model.config.num_static_real_features else None
    # The count takes a backward to be two forwards, also for the input's own gradient.
    values = series().requires_grad_()
    counter = FlopCounterMode(display=False)
    with counter:
        model.eval()(values, static_real_features=static)
    assert counter.get_total_flops() == 2 * model.flops_per_sample(training=False)
    if checkpointing:
        model.activation_checkpointing_enable()
    with counter:
        labels = torch.tensor([0, 1])
        model.train()(values, labels=labels, static_real_features=static).loss.backward()
    assert counter.get_total_flops() == 2 * model.flops_per_sample()


def test_operations_of_the_forecaster_and_of_other_shapes() -> None:
    model = TimerXLForPrediction(TimerXLConfig(**(TINY | {"num_variables": None}))).eval()
    model.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with counter:
        model(series(1, 5 * PATCH, 7))
    assert counter.get_total_flops() == model.flops_per_sample(5 * PATCH, 7, training=False)
    with pytest.raises(ValueError, match="num_variables"):
        model.flops_per_sample()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradient_checkpointing_changes_no_number(attention: str) -> None:
    torch.manual_seed(0)
    config = TimerXLConfig(**(TINY | FULL | {"hidden_dropout": 0.2, "attention_dropout": 0.2}))
    model = TimerXLForClassification(config).train()
    model.set_attn_implementation(attention)
    found = []
    for enable in (False, True):
        if enable:
            model.activation_checkpointing_enable({"use_reentrant": False})
        assert model.is_activation_checkpointing == enable
        model.zero_grad()
        torch.manual_seed(7)
        static = torch.randn(2, 2)
        loss = model(series(), labels=torch.tensor([0, 1]), static_real_features=static).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_bf16_model_has_an_fp32_loss_and_learns(name: str) -> None:
    torch.manual_seed(0)
    config = TimerXLConfig(**TINY, loss_name=name, loss_alpha=0.3)
    model = TimerXLForClassification(config).bfloat16().train()
    outputs = model(series(), labels=torch.tensor([0, 1]))
    assert outputs.loss.dtype == torch.float32
    assert outputs.logits.dtype == torch.bfloat16
    outputs.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_autocast_gives_the_numbers_of_full_precision_nearly() -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**(TINY | {"hidden_dropout": 0.0}))).eval()
    exact = model(series(), labels=torch.tensor([0, 1]))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(series(), labels=torch.tensor([0, 1]))
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.loss, exact.loss, rtol=0.05, atol=0.05)
    mixed.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("steps", [0, 3, PATCH * PATCHES + 1])
def test_steps_that_fill_no_patches_are_refused(steps: int) -> None:
    model = TimerXLForClassification(TimerXLConfig(**TINY))
    with pytest.raises(ValueError, match=f"{steps} time steps; expected a multiple"):
        model(series(steps=steps))


def test_another_number_of_patches_is_accepted() -> None:
    for fields in ({}, {"pooling": "last"}):
        model = TimerXLForClassification(TimerXLConfig(**(TINY | fields))).eval()
        assert model(series(steps=9 * PATCH)).logits.shape == (2, 2)


@pytest.mark.parametrize("fields", [{"pooling": "last"}, {"variable_embedding": True}])
@pytest.mark.parametrize("found", [VARIABLES - 1, VARIABLES + 1])
def test_another_number_of_variables_is_refused(fields: dict[str, Any], found: int) -> None:
    model = TimerXLForClassification(TimerXLConfig(**(TINY | fields)))
    with pytest.raises(ValueError, match=f"{found} variables.*num_variables={VARIABLES}"):
        model(series(variables=found))


def test_mean_pooling_takes_any_number_of_variables() -> None:
    model = TimerXLForClassification(TimerXLConfig(**TINY)).eval()
    assert model(series(variables=VARIABLES + 2)).logits.shape == (2, 2)


@pytest.mark.parametrize("shape", [(2, 16), (2, 16, 3, 1)])
@pytest.mark.parametrize("instance_norm", [False, True])
def test_input_that_is_not_three_dimensional_is_refused(
    shape: tuple[int, ...], instance_norm: bool
) -> None:
    config = TimerXLConfig(**TINY, instance_norm=instance_norm)
    for model in (TimerXLForClassification(config), TimerXLForPrediction(config)):
        with pytest.raises(ValueError, match=r"expected \[B, T, C\]"):
            model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("expected", "given"), [(0, 2), (2, None), (2, 3)], ids=["none", "missing", "more"]
)
def test_static_features_of_another_width_are_refused(expected: int, given: int | None) -> None:
    model = TimerXLForClassification(TimerXLConfig(**TINY, num_static_real_features=expected))
    static = None if given is None else torch.zeros(2, given)
    with pytest.raises(ValueError, match=f"num_static_real_features={expected}"):
        model(series(), static_real_features=static)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 36}, "multiple of 4"),
        ({"hidden_size": 33}, "multiple of 4"),
        ({"hidden_act": "silu"}, "'silu'; expected 'relu' or 'gelu'"),
        ({"pooling": "max"}, "'max'; expected 'mean' or 'last'"),
        ({"pooling": "last", "num_variables": None}, "set num_variables"),
        ({"variable_embedding": True, "num_variables": None}, "set num_variables"),
    ],
)
def test_a_configuration_that_no_model_can_have_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TimerXLConfig(**(TINY | fields))


def test_last_pooling_hands_the_classifier_every_variable_in_order() -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**(TINY | {"pooling": "last"}))).eval()
    logits = model(series()).logits
    assert model.head is None
    assert model.classifier_dense.in_features == VARIABLES * TINY["hidden_size"]
    swapped = model(series()[:, :, [1, 0, 2]]).logits
    assert not torch.allclose(logits, swapped, atol=1e-3)


def test_a_new_variable_embedding_changes_nothing_until_it_learns() -> None:
    torch.manual_seed(0)
    plain = TimerXLForClassification(TimerXLConfig(**TINY)).eval()
    model = TimerXLForClassification(TimerXLConfig(**TINY, variable_embedding=True)).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["timer_xl.variable_embedding.weight"]
    assert torch.equal(model(series()).logits, plain(series()).logits)
    torch.nn.init.normal_(model.timer_xl.variable_embedding.weight)
    assert not torch.allclose(model(series()).logits, plain(series()).logits, atol=1e-3)


def test_instance_norm_forgets_level_and_scale_of_every_variable() -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**TINY, instance_norm=True)).eval()
    level, scale = torch.tensor([5.0, -30.0, 0.0]), torch.tensor([2.0, 10.0, 0.5])
    torch.testing.assert_close(
        model(series() * scale + level).logits, model(series()).logits, rtol=1e-4, atol=1e-4
    )
    constant = series()
    constant[:, :, 1] = 3.0
    assert torch.isfinite(model(constant).logits).all()
    forecaster = TimerXLForPrediction(TimerXLConfig(**TINY, instance_norm=True)).eval()
    torch.testing.assert_close(
        forecaster(series() * scale + level).prediction_outputs,
        forecaster(series()).prediction_outputs * scale + level,
        rtol=1e-3,
        atol=1e-3,
    )


def test_forecast_loss_is_the_mean_squared_error() -> None:
    torch.manual_seed(0)
    model = TimerXLForPrediction(TimerXLConfig(**TINY)).eval()
    target = series() + 1
    outputs = model(series(), labels=target)
    assert outputs.prediction_outputs.shape == target.shape
    expected = ((outputs.prediction_outputs - target) ** 2).mean()
    torch.testing.assert_close(outputs.loss, expected)


def test_hidden_states_are_the_embedding_and_every_layer() -> None:
    for pooling, tokens in (("mean", VARIABLES * PATCHES), ("last", VARIABLES)):
        model = TimerXLForClassification(TimerXLConfig(**TINY, pooling=pooling)).eval()
        states = model(series(), output_hidden_states=True).hidden_states
        counts = [state.shape[1] for state in states]
        assert counts == [VARIABLES * PATCHES, VARIABLES * PATCHES, tokens]
        assert model(series()).hidden_states is None


def test_global_normalizer_reaches_the_loss() -> None:
    torch.manual_seed(0)
    model = TimerXLForClassification(TimerXLConfig(**TINY)).eval()
    labels = torch.tensor([0, 1])
    own = model(series(), labels=labels).loss
    shared = model(series(), labels=labels, loss_normalizer=torch.tensor(8.0)).loss
    torch.testing.assert_close(shared, own * 2 / 8)


@pytest.mark.parametrize("fields", [{}, FULL], ids=["mean", "full"])
@pytest.mark.parametrize("model_class", [TimerXLForClassification, TimerXLForPrediction])
def test_saving_and_loading_keeps_every_bit(
    model_class: type[Any], fields: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = model_class(TimerXLConfig(**(TINY | fields))).eval()
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not loaded.training
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in state.items())
    static = torch.ones(2, 2) if fields else None
    ours, theirs = (m(series(), static_real_features=static) for m in (model, loaded))
    assert torch.equal(ours[0], theirs[0])


def test_channels_are_called_as_in_other_time_series_models() -> None:
    config = TimerXLConfig(num_input_channels=7, pooling="last")
    assert config.num_variables == config.num_input_channels == 7
    assert config.to_dict()["num_variables"] == 7
