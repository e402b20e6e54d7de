"""OpenLTM to ours and back, and starting a classifier from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from timerxl.model import TimerXLConfig, TimerXLForClassification, TimerXLForPrediction
from timerxl.model.convert_openltm import (
    convert_checkpoint,
    export_openltm,
    load_backbone,
    load_saved,
)

GOLDEN = Path(__file__).resolve().parents[2] / "assets" / "openltm_golden"
FORECASTER, CLASSIFIER = GOLDEN / "forecast_00.pth", GOLDEN / "classify_05.pth"
# The sizes of the golden files.
SIZES: dict[str, Any] = {
    "patch_length": 8,
    "context_length": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CLASSIFIER_TENSORS = [
    f"classifier_{module}.{part}"
    for module in ("norm", "dense", "out")
    for part in ("weight", "bias")
]


def golden(path: Path = FORECASTER) -> dict[str, Tensor]:
    return dict(torch.load(path, weights_only=True))


def written(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def put(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


def classifier(**fields: Any) -> TimerXLForClassification:
    return TimerXLForClassification(TimerXLConfig(**(SIZES | fields)))


@pytest.mark.parametrize(
    ("layers", "classifies", "tensors"), [(8, False, 142), (8, True, 148), (1, False, 23)]
)
def test_sizes_are_read_off_the_tensors(
    layers: int, classifies: bool, tensors: int, tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {
        "patch_length": 6,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
    }
    extra: dict[str, Any] = {"classifier_hidden_size": 10, "num_labels": 2} if classifies else {}
    model_class: type[Any] = TimerXLForClassification if classifies else TimerXLForPrediction
    model = model_class(TimerXLConfig(**sizes, **extra))
    state = export_openltm(model)
    assert len(state) == tensors
    converted = convert_checkpoint(
        written(tmp_path / "x.pth", state), hidden_act="gelu", covariate=True, instance_norm=True
    )
    assert type(converted) is model_class
    assert not converted.training
    config = converted.config
    assert {name: getattr(config, name) for name in sizes | extra} == sizes | extra
    assert (config.hidden_act, config.covariate, config.instance_norm) == ("gelu", True, True)
    assert (config.pooling, config.num_static_real_features) == ("mean", 0)
    assert config.context_length % 6 == 0
    assert len(converted.state_dict()) == tensors
    for key, tensor in model.state_dict().items():
        assert torch.equal(converted.state_dict()[key], tensor), key


def test_heads_that_do_not_divide_the_channels_are_refused(tmp_path: Path) -> None:
    state = golden()
    for key in state:
        if key.endswith("attn_bias.emb.weight"):
            state[key] = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="num_attention_heads 5"):
        convert_checkpoint(written(tmp_path / "heads.pth", state))


def test_half_precision_files_become_float32_exactly(tmp_path: Path) -> None:
    half = {key: tensor.to(torch.bfloat16) for key, tensor in golden().items()}
    model = convert_checkpoint(written(tmp_path / "half.pth", half))
    for key, tensor in export_openltm(model).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half[key].float())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "last", "num_variables": 5}, "pooling='last'"),
        ({"variable_embedding": True, "num_variables": 5}, "variable_embedding=True"),
        ({"num_static_real_features": 3}, "num_static_real_features=3"),
        ({"rope_theta": 500.0}, "rope_theta=500.0"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06"),
    ],
)
def test_what_openltm_has_no_place_for_is_not_exported(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_openltm(classifier(**fields))


def test_the_bare_backbone_is_not_exported() -> None:
    with pytest.raises(ValueError, match="TimerXLModel has no head"):
        export_openltm(classifier().timer_xl)


def test_an_export_is_a_copy() -> None:
    model = classifier()
    exported = export_openltm(model)
    before = exported["head.bias"].clone()
    assert model.head is not None
    model.head.bias.data += 1
    assert torch.equal(exported["head.bias"], before)


# Starting a classifier from weights


def as_folder(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("saved", [False, True], ids=["pth", "folder"])
def test_eight_layers_give_142_tensors_and_6_new_ones(saved: bool, tmp_path: Path) -> None:
    source = TimerXLForPrediction(TimerXLConfig(**(SIZES | {"num_hidden_layers": 8})))
    if saved:
        path = as_folder(source, tmp_path / "saved")
    else:
        path = written(tmp_path / "x.pth", export_openltm(source))
    model = classifier(num_hidden_layers=8)
    own = {name: model.state_dict()[name].clone() for name in CLASSIFIER_TENSORS}
    report = load_backbone(model, path)
    assert (len(report.loaded), report.new, report.unused) == (142, CLASSIFIER_TENSORS, [])
    assert report.summary() == "142 tensors loaded, 6 new: " + ", ".join(CLASSIFIER_TENSORS)
    state = model.state_dict()
    for key, tensor in source.state_dict().items():
        assert torch.equal(state[key], tensor), key
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())


def test_a_whole_classifier_is_taken_over(tmp_path: Path) -> None:
    source = convert_checkpoint(CLASSIFIER)
    for path in (CLASSIFIER, as_folder(source, tmp_path / "saved")):
        model = classifier()
        report = load_backbone(model, path)
        assert report.summary() == "46 tensors loaded, 0 new"
        for key, tensor in source.state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor), key


def test_last_pooling_leaves_the_head_behind(tmp_path: Path) -> None:
    source = convert_checkpoint(FORECASTER)
    for path in (FORECASTER, as_folder(source, tmp_path / "saved")):
        model = classifier(pooling="last", variable_embedding=True, num_variables=5)
        report = load_backbone(model, path)
        assert len(report.loaded) == 38
        assert sorted(report.unused) == ["head.bias", "head.weight"]
        assert report.new == ["timer_xl.variable_embedding.weight", *CLASSIFIER_TENSORS]
        assert report.summary().startswith("38 tensors loaded, 7 new: timer_xl.variable_emb")
        assert "; 2 unused: head." in report.summary()


def test_a_classifier_of_another_shape_stays_new(tmp_path: Path) -> None:
    """All six or none: three old tensors among three new ones would be neither."""
    model = classifier(num_static_real_features=3)
    report = load_backbone(model, CLASSIFIER)
    assert report.new == CLASSIFIER_TENSORS
    assert sorted(report.unused) == sorted(CLASSIFIER_TENSORS)
    assert len(report.loaded) == 40


def test_last_pooling_models_are_taken_over_whole(tmp_path: Path) -> None:
    fields = {"pooling": "last", "variable_embedding": True, "num_variables": 5}
    path = as_folder(classifier(**fields), tmp_path / "saved")
    report = load_backbone(classifier(**fields), path)
    assert (len(report.loaded), report.new, report.unused) == (38 + 1 + 6, [], [])
    with pytest.raises(ValueError, match=r"head.weight is missing; head.bias is missing"):
        load_backbone(classifier(variable_embedding=True, num_variables=5), path)


@pytest.mark.parametrize(
    ("field", "theirs", "ours"),
    [
        ("hidden_act", "gelu", "relu"),
        ("covariate", True, False),
        ("instance_norm", True, False),
        ("patch_length", 8, 4),
        ("num_attention_heads", 4, 2),
        ("num_hidden_layers", 2, 1),
        ("hidden_size", 32, 16),
        ("intermediate_size", 64, 32),
        ("rope_theta", 10000.0, 500.0),
    ],
)
def test_a_model_of_another_kind_is_refused(
    field: str, theirs: Any, ours: Any, tmp_path: Path
) -> None:
    source = as_folder(
        TimerXLForPrediction(TimerXLConfig(**(SIZES | {field: theirs}))), tmp_path / "saved"
    )
    sources = [source, FORECASTER] if field in SIZES else [source]
    for path in sources:
        model = classifier(**{field: ours})
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        message = f"{field} is {theirs!r} there and {ours!r} in this model"
        with pytest.raises(ValueError, match=message):
            load_backbone(model, path)
        assert all(torch.equal(model.state_dict()[k], tensor) for k, tensor in before.items())


@pytest.mark.parametrize("ours", [{}, {"variable_embedding": True, "num_variables": 6}])
def test_a_learned_variable_embedding_is_not_dropped(ours: dict[str, Any], tmp_path: Path) -> None:
    source = classifier(variable_embedding=True, num_variables=5)
    with pytest.raises(ValueError, match=r"timer_xl\.variable_embedding\.weight has"):
        load_backbone(classifier(**ours), as_folder(source, tmp_path / "saved"))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = as_folder(convert_checkpoint(FORECASTER), tmp_path / "saved")
    weights, config = folder / "model.safetensors", folder / "config.json"
    good_weights, good_config = weights.read_bytes(), config.read_text()

    def refused(message: str) -> None:
        for attempt in (lambda: load_backbone(classifier(), folder), lambda: load_saved(folder)):
            with pytest.raises(ValueError, match=message):
                attempt()

    weights.write_bytes(good_weights[:-100])
    refused("damaged")
    state = convert_checkpoint(FORECASTER).state_dict()
    for key, tensor, message in [
        ("timer_xl.norm.bias", put(state["timer_xl.norm.bias"], float("inf")), "NaN or Inf"),
        ("timer_xl.norm.bias", torch.zeros(31), r"norm.bias has shape \[31\], expected \[32\]"),
        ("timer_xl.extra", torch.zeros(31), "timer_xl.extra"),
    ]:
        save_file(state | {key: tensor}, weights)
        refused(message)
    save_file({k: v for k, v in state.items() if k != "timer_xl.norm.bias"}, weights)
    refused("timer_xl.norm.bias is missing")
    weights.unlink()
    refused("holds no model.safetensors")
    weights.write_bytes(good_weights)
    for text, message in [
        ("{", "no valid configuration"),
        ("[]", "no valid configuration"),
        (good_config.replace('"relu"', '"silu"'), "expected 'relu' or 'gelu'"),
        (good_config.replace('"timer_xl"', '"bert"'), "model_type 'bert'"),
    ]:
        config.write_text(text)
        refused(message)
    config.write_text(good_config)
    assert load_backbone(classifier(), folder).new == CLASSIFIER_TENSORS


@pytest.mark.parametrize("path", [FORECASTER, CLASSIFIER])
def test_a_saved_folder_loads_as_it_was(path: Path, tmp_path: Path) -> None:
    model = convert_checkpoint(path, hidden_act="gelu")
    loaded = load_saved(as_folder(model, tmp_path / "saved"))
    assert type(loaded) is type(model)
    assert loaded.config.hidden_act == "gelu"
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
