"""Defaults, recipe and overrides become one configuration; what no run could use is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from timerxl.config import (
    VALIDATION_METRICS,
    InputError,
    RunConfig,
    available_recipes,
    load_recipe,
    to_yaml,
)
from timerxl.evaluation.scores import NOT_FOR_SELECTION, forecast_scores


def value(config: RunConfig, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def test_an_unknown_metric_is_refused_before_training() -> None:
    with pytest.raises(InputError, match=r"train\.metric_for_best_model is 'nonsense'.*roc_auc"):
        load_recipe("quickstart", ["train.metric_for_best_model=nonsense"])


def test_every_score_of_an_evaluation_may_choose_the_best_model() -> None:
    scores = forecast_scores(np.array([0.2, 0.9]), np.array([0, 1]), 0.5)
    assert set(VALIDATION_METRICS) == {"loss", *scores} - NOT_FOR_SELECTION


def test_overrides_beat_the_recipe_and_the_recipe_beats_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {lr: 0.5, weight_decay: 0.25}\ntrain: {epochs: 3}\n")
    config = load_recipe(str(path), ["optim.lr=0.125", "seed=7", "seed=8"])
    found = (config.optim.lr, config.optim.weight_decay, config.optim.adam_beta1)
    assert found == (0.125, 0.25, RunConfig().optim.adam_beta1)
    assert (config.train.epochs, config.seed) == (3, 8)
    assert (config.recipe, config.output_dir) == ("mine", "runs/mine")
    assert load_recipe(str(path), ["recipe=other"]).output_dir == "runs/other"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.features=[tp, t2m]", ["tp", "t2m"]),
        ("data.features=null", None),
        ("train.trackers=[]", []),
        ("train.max_steps=null", None),
        ("train.max_steps=5", 5),
        ("data.static_features=false", False),
        ("data.path=a b/c=d.csv", "a b/c=d.csv"),
        ("loss.alpha=0.3", 0.3),
        ("loss.alpha=auto", "auto"),
        ("optim.lr=1e-3", 1e-3),
        ("optim.lr=3.0e-4", 3e-4),
        ("data.synthetic.start=2020-01-31", "2020-01-31"),
        ("data.label_horizon_hours=6", 6.0),
    ],
)
def test_a_value_is_read_as_its_type(override: str, expected: object) -> None:
    found = value(load_recipe("quickstart", [override]), override.split("=")[0])
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=3", r"unknown key train\.batchsize in the overrides; did you mean "),
        ("optim.learning=3", r"unknown key optim\.learning in the overrides"),
        ("zzz=3", r"unknown key zzz in the overrides; see timerxl/config\.py"),
        ("train.epochs=many", r"train\.epochs in the overrides: .*'many'.*Integer"),
        ("train.epochs=2.5", r"train\.epochs in the overrides: .*Integer"),
        ("train.epochs=null", r"train\.epochs in the overrides"),
        ("optim.lr=fast", r"optim\.lr in the overrides: .*Float"),
        ("data.static_features=maybe", r"data\.static_features in the overrides: .*bool"),
        ("data.features=tp", r"data\.features in the overrides"),
        ("model=3", r"in the overrides: .*ModelConfig"),
        ("train.epochs", r"'train\.epochs' is not of the form key=value"),
        ("--epochs", r"'--epochs' is not of the form key=value"),
        ("data.features=[tp", r"the overrides"),
    ],
)
def test_what_is_no_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("quickstart", [override])


def test_a_near_miss_is_suggested() -> None:
    for wrong, right in (
        ("train.batchsize", "train.batch_size"),
        ("optim.wieght_decay", "optim.weight_decay"),
        ("model.hiden_size", "model.hidden_size"),
        ("data.synthetic.sed", "data.synthetic.seed"),
    ):
        with pytest.raises(InputError, match=rf"did you mean {right}\?"):
            load_recipe("quickstart", [f"{wrong}=1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", r"unknown key train\.epoch in .*mine\.yaml; did you mean"),
        ("train: {epochs: [3]}", r"train\.epochs in .*mine\.yaml"),
        ("- a\n- b\n", r"mine\.yaml holds no mapping"),
        ("", r"mine\.yaml holds no mapping"),
        ("null\n", r"mine\.yaml holds no mapping"),
        ("a: [1\n", r"mine\.yaml can't be read as YAML"),
    ],
)
def test_a_bad_recipe_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize("key", ["output_dir", "train.mirror", "data.path", "hub.data_licence"])
def test_a_null_character_is_refused_by_its_key(tmp_path: Path, key: str) -> None:
    path, text = tmp_path / "own.yaml", "a\\0b"
    section, _, name = key.rpartition(".")
    path.write_text(f'{section}:\n  {name}: "{text}"\n' if section else f'{name}: "{text}"\n')
    with pytest.raises(InputError, match=f"{key} is .*null character"):
        load_recipe(str(path))
    path.write_text("data: {}\n")
    with pytest.raises(InputError, match=f"{key} is .*null character"):
        load_recipe(str(path), [f'{key}="{text}"'])


def test_lists_in_lists_are_refused_before_a_library_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for levels in (30, 90, 400):
        path.write_text(f"optim:\n  lr: {'[' * levels}{']' * levels}\n")
        with pytest.raises(InputError, match="levels"):
            load_recipe(str(path))


def test_codes_for_missing_are_a_handful() -> None:
    config = load_recipe("quickstart", [f"data.missing_values={[-9.0] * 100}"])
    assert config.data.missing_values == [-9.0] * 100
    with pytest.raises(InputError, match=r"missing_values holds 101 numbers; expected at most"):
        load_recipe("quickstart", [f"data.missing_values={[-9.0] * 101}"])


def test_an_unknown_recipe_lists_those_there_are(tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path / "nothing.yaml")):
        with pytest.raises(InputError, match="unknown recipe") as caught:
            load_recipe(name)
        assert all(recipe in str(caught.value) for recipe in available_recipes())


POSITIVE = """data.synthetic.step_hours data.label_horizon_hours data.window_stride_hours
    data.train_stride_hours model.patch_length model.context_length model.hidden_size
    model.intermediate_size model.num_hidden_layers model.num_attention_heads model.num_variables
    model.rope_theta optim.lr optim.max_grad_norm optim.layer_lr_decay train.epochs train.max_steps
    train.batch_size train.accumulation_steps train.patience train.log_every_steps eval.batch_size
    eval.max_windows""".split()
NOT_NEGATIVE = """data.max_fill_hours data.rain_threshold_mm model.freeze_backbone_epochs
    model.num_static_real_features loss.gamma optim.weight_decay train.num_workers
    eval.num_resamples seed""".split()
SHARES = """model.hidden_dropout model.attention_dropout data.train_fraction
    data.validation_fraction optim.warmup_ratio optim.adam_beta1 optim.adam_beta2 loss.alpha
    eval.threshold""".split()
REAL = """data.label_horizon_hours model.rope_theta optim.lr loss.gamma optim.weight_decay
    data.rain_threshold_mm""".split()
CHOICES = {
    "data.directions": "degrees",
    "data.split": "random",
    "model.hidden_act": "swish",
    "model.pooling": "max",
    "model.attn_implementation": "flash",
    "model.num_labels": 3,
    "loss.name": "hinge",
    "train.precision": "fp8",
    "train.zero_stage": 3,
    "eval.threshold_score": "accuracy",
}
COUNTED = (
    "data.train_stride_hours data.window_stride_hours data.label_horizon_hours "
    "data.synthetic.step_hours data.max_fill_hours train.epochs train.max_steps train.batch_size "
    "eval.max_windows seed"
).split()
OUT_OF_RANGE = (
    [(key, number) for key in POSITIVE for number in ("0", "-1")]
    + [(key, "10000000000000000") for key in COUNTED]
    + [(key, "-1") for key in NOT_NEGATIVE]
    + [(key, number) for key in SHARES for number in ("1.0", "1.5", "-0.1", "nan")]
    + [(key, number) for key in REAL for number in ("nan", "inf")]
    + [(key, str(choice)) for key, choice in CHOICES.items()]
    + [("loss.alpha", "some"), ("eval.threshold", "best")]
)


@pytest.mark.parametrize(("key", "number"), OUT_OF_RANGE)
def test_a_value_that_no_run_could_use_is_refused_by_its_key(key: str, number: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("quickstart", [f"{key}={number}"])
    assert str(caught.value).startswith(f"{key} is ")
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [f"{key}=0" for key in NOT_NEGATIVE]
    + [f"{key}=0.0" for key in SHARES]
    + ["model.hidden_dropout=0.99", "eval.threshold=0.5", "optim.layer_lr_decay=0.5"],
)
def test_the_ends_of_a_range_pass(override: str) -> None:
    key, number = override.split("=")
    assert value(load_recipe("quickstart", [override]), key) == float(number)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.context_length=60"], r"context_length 60 .*take 56 steps \(7 patches\)"),
        (["model.context_length=5"], r"context_length 5 .*take 8 steps \(1 patch\)"),
        (["model.hidden_size=66"], r"hidden_size 66 .*num_attention_heads 4 .*multiple of 4"),
        (["model.hidden_size=72"], r"hidden_size 72 .* multiple of 4"),
        (["data.train_fraction=0.85"], r"train_fraction \+ data\.validation_fraction"),
    ],
)
def test_settings_that_contradict_each_other(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("quickstart", overrides)


@pytest.mark.parametrize("name", available_recipes())
def test_the_written_configuration_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    config = load_recipe(name, ["data.features=[tp,t2m]", "seed=3", "loss.alpha=0.4"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_recipe(str(path)) == config
    # Resolved: no interpolation that another recipe name would change.
    assert yaml.safe_load(path.read_text())["output_dir"] == f"runs/{name}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train", "[1, 2]"),
        ("monitors", "[]"),
        ("data", "{features: {a: 1}}"),
        ("train", "{trackers: {a: 1}}"),
        ("expectations", "{epoch: 1}"),
    ],
)
def test_a_list_for_a_mapping_and_the_reverse(tmp_path: Path, key: str, value: str) -> None:
    words = "keys with values are expected there, or none"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"{key}: {value}\n")
    with pytest.raises(InputError, match=words):
        load_recipe(str(recipe))
    with pytest.raises(InputError, match=words):
        load_recipe("quickstart", [f"{key}={value}"])
