"""The one configuration object of a run: dataclass defaults, a YAML recipe, dotted overrides.

The three are merged once, strictly, into a typed :class:`RunConfig`; an unknown key or a value of
the wrong type is an :class:`InputError` that names it. This module imports no torch, so that a
wrong recipe is refused before the slow imports begin.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Optional, Union

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

RECIPES = Path(__file__).resolve().parent.parent / "launch" / "recipes"


class InputError(ValueError):
    """The user's input is wrong. The message says what was found, expected, and what to do."""


# omegaconf reads the annotations at run time and knows Optional/Union, hence no "X | None" here.


@dataclass
class SyntheticConfig:
    """The seeded generator that stands in when ``data.path`` is null."""

    step_hours: int = 12
    start: str = "2014-01-01"
    end: str = "2024-12-31"
    seed: int = 0


@dataclass
class DataConfig:
    """Where the series comes from and how it becomes windows, labels and splits."""

    path: Optional[str] = None
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    timestamp_column: str = "timestamp"
    region_column: str = "region"
    precipitation_column: str = "precipitation"
    precipitation_unit: str = "mm"
    features: Optional[list[str]] = None
    label_column: Optional[str] = None
    label_horizon_hours: float = 24.0
    rain_threshold_mm: float = 0.1
    window_stride_hours: Optional[float] = None
    max_fill_hours: float = 6.0
    log1p_precipitation: bool = True
    static_features: bool = False
    split: str = "time"
    train_fraction: float = 0.70
    validation_fraction: float = 0.15


@dataclass
class ModelConfig:
    """Fields of ``TimerXLConfig``, the attention path and what the weights start from.

    ``num_variables`` and ``num_static_real_features`` are read off the data where they are null.
    """

    patch_length: int = 96
    context_length: int = 1440
    hidden_size: int = 1024
    intermediate_size: int = 2048
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    hidden_act: str = "relu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    rope_theta: float = 10000.0
    covariate: bool = False
    instance_norm: bool = False
    pooling: str = "mean"
    variable_embedding: bool = False
    num_static_real_features: Optional[int] = None
    num_variables: Optional[int] = None
    num_labels: int = 2
    attn_implementation: str = "sdpa"
    pretrained: Optional[str] = None
    freeze_backbone_epochs: int = 0


@dataclass
class LossConfig:
    """``name``: cross_entropy, weighted_cross_entropy or focal.

    ``alpha`` weighs rain and ``1 - alpha`` no rain (Lin et al. 2017); ``auto`` is one minus the
    share of rain among the training labels.
    """

    name: str = "focal"
    alpha: Union[float, str] = "auto"
    gamma: float = 2.0


@dataclass
class OptimConfig:
    lr: float = 5e-5
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    layer_lr_decay: float = 1.0


@dataclass
class TrainConfig:
    """``batch_size`` is the micro-batch of one process."""

    epochs: int = 30
    max_steps: Optional[int] = None
    batch_size: int = 16
    accumulation_steps: int = 1
    precision: str = "auto"
    zero_stage: int = 0
    gradient_checkpointing: bool = False
    patience: int = 8
    metric_for_best_model: str = "roc_auc"
    log_every_steps: int = 10
    num_workers: int = 0
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])


@dataclass
class EvalConfig:
    """``max_windows`` null scores every window; otherwise a seeded sample over regions and time.

    ``threshold`` ``auto`` is the probability that maximises MCC on validation.
    """

    batch_size: Optional[int] = None
    max_windows: Optional[int] = None
    threshold: Union[float, str] = "auto"
    gradient_boosting: bool = False


@dataclass
class RunConfig:
    recipe: str = ""
    seed: int = 0
    output_dir: str = "runs/${recipe}"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def _leaf_keys(cls: type, prefix: str = "") -> list[str]:
    keys = []
    for item in fields(cls):
        inner = item.default_factory() if callable(item.default_factory) else None
        if is_dataclass(inner):
            keys += _leaf_keys(type(inner), f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def _explain(error: OmegaConfBaseException, source: str) -> InputError:
    key = getattr(error, "full_key", None) or "?"
    reason = str(error).splitlines()[0]
    if "not in" in reason:
        near = difflib.get_close_matches(key, _leaf_keys(RunConfig), n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "see timerxl/config.py for all keys."
        return InputError(f"unknown key {key} in {source}; {hint}")
    return InputError(f"{key} in {source}: {reason}")


def available_recipes() -> list[str]:
    """Names of the recipes that ship with the toolkit."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Find a recipe by name or by path; raises InputError where there is none."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise InputError(
            f"unknown recipe {name!r}: expected one of {', '.join(available_recipes())}, "
            "or the path of a YAML file."
        )
    return path


def load_recipe(name: str, overrides: list[str] | None = None) -> RunConfig:
    """Merge defaults, the recipe called ``name`` (or at that path) and dotted overrides.

    Raises InputError on an unknown recipe or key, a wrong type, or a value out of its range.
    """
    path = recipe_path(name)
    for override in overrides or []:
        if "=" not in override:
            raise InputError(f"override {override!r} is not of the form key=value.")
    config: Any = OmegaConf.structured(RunConfig)
    try:
        recipe = OmegaConf.load(path)
        if not isinstance(recipe, DictConfig):
            raise InputError(f"{path} holds no mapping of keys to values.")
        config = OmegaConf.merge(config, {"recipe": path.stem}, recipe)
    except OmegaConfBaseException as error:
        raise _explain(error, str(path)) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read as YAML: {error}") from error
    try:
        config = OmegaConf.merge(config, OmegaConf.from_dotlist(list(overrides or [])))
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise _explain(error, "the overrides") from error
    except yaml.YAMLError as error:
        raise InputError(f"the overrides can't be read: {error}") from error
    assert isinstance(resolved, RunConfig)
    validate(resolved)
    return resolved


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, as it is written to the run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


# The keys of metrics.scores, which this module must not import; a test compares them. The share
# of rain forecast is none of them: "always rain" would be the best model.
VALIDATION_METRICS = (
    "loss",
    "f1",
    "macro_f1",
    "precision",
    "recall",
    "accuracy",
    "balanced_accuracy",
    "mcc",
    "roc_auc",
    "brier",
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "data.precipitation_unit": ("mm", "m"),
    "data.split": ("time", "rows"),
    "model.hidden_act": ("relu", "gelu"),
    "model.pooling": ("mean", "last"),
    "model.attn_implementation": ("sdpa", "eager"),
    "loss.name": ("cross_entropy", "weighted_cross_entropy", "focal"),
    "train.precision": ("auto", "bf16", "fp16", "fp32"),
    "train.zero_stage": (0, 2),
    "model.num_labels": (2,),
    "train.metric_for_best_model": VALIDATION_METRICS,
}
_POSITIVE = (
    "data.synthetic.step_hours data.label_horizon_hours model.patch_length model.context_length "
    "model.hidden_size model.intermediate_size model.num_hidden_layers model.num_attention_heads "
    "model.rope_theta optim.lr optim.max_grad_norm train.epochs train.max_steps train.batch_size "
    "train.accumulation_steps train.patience train.log_every_steps eval.batch_size "
    "eval.max_windows data.window_stride_hours model.num_variables optim.layer_lr_decay"
).split()
_NOT_NEGATIVE = (
    "data.max_fill_hours model.freeze_backbone_epochs loss.gamma optim.weight_decay "
    "train.num_workers model.num_static_real_features data.rain_threshold_mm seed"
).split()
_SHARES = (
    "model.hidden_dropout model.attention_dropout data.train_fraction data.validation_fraction "
    "optim.warmup_ratio optim.adam_beta1 optim.adam_beta2 loss.alpha eval.threshold"
).split()


def _value(config: RunConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def validate(config: RunConfig) -> None:
    """Raise InputError for a value that no run could use, naming the key."""
    for key, allowed in _CHOICES.items():
        if (value := _value(config, key)) not in allowed:
            raise InputError(f"{key} is {value!r}; expected one of {', '.join(map(str, allowed))}.")
    for key in _POSITIVE:
        if (value := _value(config, key)) is not None and not 0 < value < float("inf"):
            raise InputError(f"{key} is {value}; expected a number above 0.")
    for key in _NOT_NEGATIVE:
        if (value := _value(config, key)) is not None and not 0 <= value < float("inf"):
            raise InputError(f"{key} is {value}; expected 0 or more.")
    for key in _SHARES:
        value = _value(config, key)
        if value == "auto" and key in ("loss.alpha", "eval.threshold"):
            continue
        if isinstance(value, str) or not 0 <= value < 1:
            raise InputError(f"{key} is {value!r}; expected a number from 0 up to (not with) 1.")
    if config.data.train_fraction + config.data.validation_fraction >= 1:
        raise InputError(
            "data.train_fraction + data.validation_fraction must stay below 1: "
            "the rest is the test split."
        )
    model = config.model
    if model.context_length % model.patch_length:
        raise InputError(
            f"model.context_length {model.context_length} is no multiple of model.patch_length "
            f"{model.patch_length}; take {model.context_length // model.patch_length or 1} patches "
            f"= {(model.context_length // model.patch_length or 1) * model.patch_length} steps."
        )
    head, odd = divmod(model.hidden_size, model.num_attention_heads)
    if odd or head % 4:
        raise InputError(
            f"model.hidden_size {model.hidden_size} over model.num_attention_heads "
            f"{model.num_attention_heads} must be a multiple of 4 (rotary pairs on half a head)."
        )
