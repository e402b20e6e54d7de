"""The one configuration object of a run: dataclass defaults, a YAML recipe, dotted overrides.

The three are merged once, strictly, into a typed :class:`RunConfig`; an unknown key or a value of
the wrong type is an :class:`InputError` that names it. This module imports no torch, so that a
wrong recipe is refused before the slow imports begin.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Optional, Union

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from timerxl.config_checks import VALIDATION_METRICS, InputError, validate
from timerxl.untrusted import (
    check_overrides,
    check_reference,
    check_references,
    check_texts,
    flat,
    is_file,
    plain,
    read_yaml_text,
    reason,
    resolve_references,
    unknown_key,
)

__all__ = ["VALIDATION_METRICS", "InputError", "RunConfig", "load_recipe", "to_yaml", "validate"]


def shipped_folder(name: str) -> Path:
    """Find recipes, regions, ds_configs or accelerate_configs.

    An installed package holds them beside its modules; in a checkout they are folders of launch/
    and of the top level.
    """
    package = Path(__file__).resolve().parent
    places = (package / name, package.parent / "launch" / name, package.parent / name)
    return next((place for place in places if place.is_dir()), places[0])


RECIPES = shipped_folder("recipes")


# omegaconf reads the annotations at run time and knows Optional/Union, hence no "X | None" here.


@dataclass
class SyntheticConfig:
    """The seeded generator that stands in when ``data.path`` is null."""

    step_hours: int = 12
    start: str = "2014-01-01"
    end: str = "2024-12-31"
    seed: int = 0
    version: int = 1  # 2: disturbances travel from region to region, rain needs two things at once


@dataclass
class DataConfig:
    """Where the series comes from and how it becomes windows, labels and splits.

    ``cache_dir`` is the folder in which what is made of the series is kept for every rank, restart
    and command (timerxl/data/store.py): auto is ~/.cache/timerxl for tables of 8 MiB or more, null
    keeps nothing.

    ``train_stride_hours`` null takes training windows as often as all others. A shorter one shows
    the network more of the same training period; validation and test stay as they are.
    ``holdout_fraction`` of the training times, the last ones, is set aside for the monitors.
    ``precipitation_unit`` auto is what the column's name or series.json tells, else mm where the
    amounts are those of rain. ``missing_values`` are numbers that mean "missing"; null looks for
    such codes and refuses them, an empty list takes every number as it is. ``directions`` sin_cos
    reads degrees and compass points as sine and cosine, as_is leaves them.
    ``features`` null takes every numeric column but those that ``exclude_features`` names, shell
    patterns such as ``*_lag_*h``: lags and running means of a column tell a network nothing that
    the column's own context does not, and cost as much as any other variable. A column that
    ``features`` lists is taken whatever the patterns say.
    ``regions_together`` all puts all regions of a time into one window, with a label for each, so
    that a forecast knows the other regions' values; none gives each region windows of its own. A
    whole number k gives each the variables of its k nearest neighbours beside its own.
    ``labels`` last trains on the label at the end of each window; every_patch on the label after
    each of its patches, so that an epoch meets every label once with far fewer windows.
    ``label_fraction`` below 1 keeps so many of the training labels, a fixed random choice whatever
    ``seed`` is, in which a smaller share is part of a larger one; validation and test keep all.
    """

    path: Optional[str] = None
    cache_dir: Optional[str] = "auto"
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    timestamp_column: str = "timestamp"
    region_column: str = "region"
    precipitation_column: str = "precipitation"
    precipitation_unit: str = "auto"
    missing_values: Optional[list[float]] = None
    directions: str = "sin_cos"
    features: Optional[list[str]] = None
    exclude_features: Optional[list[str]] = None
    label_column: Optional[str] = None
    label_horizon_hours: float = 24.0
    rain_threshold_mm: float = 0.1
    window_stride_hours: Optional[float] = None
    train_stride_hours: Optional[float] = None
    labels: str = "last"
    regions_together: Union[int, str] = "none"
    label_fraction: float = 1.0
    max_fill_hours: float = 6.0
    log1p_precipitation: bool = True
    static_features: bool = False
    oni_path: Optional[str] = None
    oni_lag_months: int = 2
    split: str = "time"
    holdout_fraction: float = 0.0
    train_fraction: float = 0.70
    validation_fraction: float = 0.15


@dataclass
class ModelConfig:
    """Fields of ``TimerXLConfig``, the attention path and what the weights start from.

    ``num_variables`` and ``num_static_real_features`` are read off the data where they are null.
    ``region_mixing`` says where regions meet (``data.regions_together``): attention lets every
    token look at those of the other regions; classifier keeps attention within a region and gives
    the classifier the other regions' states, which costs no more than windows of one region.
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
    variable_bias_mode: str = "folded"
    covariate: bool = False
    instance_norm: bool = False
    pooling: str = "mean"
    variable_embedding: bool = False
    region_mixing: str = "attention"
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
    share of rain among the training labels. ``next_patch_weight`` times the Huber loss of a
    forecast of every variable's next patch is added in training (``data.labels=every_patch``).
    """

    name: str = "focal"
    alpha: Union[float, str] = "auto"
    gamma: float = 2.0
    next_patch_weight: float = 0.0


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
    """``batch_size`` is the micro-batch of one process.

    ``task`` rain trains the classifier; next_patch trains the forecaster that it can start from
    (``model.pretrained``): every patch predicts the next one of its variable, and no label is read.

    ``offload_optimizer`` keeps the optimizer in the computer's own memory (ZeRO-2 only).
    ``compile`` compiles every layer (torch.compile with Inductor): equal but for rounding, and the
    first steps take longer. It is meant for GPUs; on a CPU it gains nothing.
    ``ema`` is the decay of a moving average of the weights, such as 0.99, by which the run is
    scored and which it keeps as its model; null is none.

    Checkpoints are written at every evaluation, every ``checkpoint_every_steps`` steps and after
    ``checkpoint_every_minutes`` (null: not by that); the newest ``keep_last`` are kept. ``resume``
    is auto (go on from the newest valid one in the run's folder), never (an earlier run is moved
    aside) or the path of a checkpoint; ``resume_force`` goes on although configuration or data
    changed. A process that hears nothing of the others for ``collective_timeout_minutes`` stops.
    ``data_on_device`` keeps the series on the GPU and gathers windows there, without a loader;
    auto does so on a GPU where series and plan fit with room to spare.
    ``mirror`` is a folder or any URL that fsspec knows: copies of the run are kept there, and an
    empty run's folder is filled from it.
    """

    task: str = "rain"
    epochs: int = 30
    max_steps: Optional[int] = None
    batch_size: int = 16
    accumulation_steps: int = 1
    precision: str = "auto"
    zero_stage: int = 0
    offload_optimizer: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    ema: Optional[float] = None
    patience: int = 8
    metric_for_best_model: str = "roc_auc"
    log_every_steps: int = 10
    num_workers: int = 0
    data_on_device: Union[bool, str] = "auto"
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    checkpoint_every_steps: Optional[int] = None
    checkpoint_every_minutes: Optional[float] = 10.0
    keep_last: int = 2
    resume: str = "auto"
    resume_force: bool = False
    mirror: Optional[str] = None
    collective_timeout_minutes: float = 30.0


@dataclass
class EvalConfig:
    """``max_windows`` null scores every window; otherwise a seeded sample over regions and time.

    ``threshold`` ``auto`` is the probability that maximises ``threshold_score`` on validation.
    ``fitted_baselines`` shows logistic regression and boosted trees on lagged values beside the
    model. Intervals come from ``num_resamples`` resamples of blocks of ``block_days`` days; 0 is
    none. Between evaluations ``check_windows`` windows of validation are looked at every
    ``every_steps`` steps (null: as often as costs at most 1.5 % of training; 0: never).
    ``test_every_epoch`` scores test at every evaluation: contamination, named as such.
    """

    batch_size: Optional[int] = None
    every_steps: Optional[int] = None
    check_windows: int = 256
    test_every_epoch: bool = False
    max_windows: Optional[int] = None
    threshold: Union[float, str] = "auto"
    threshold_score: str = "mcc"
    fitted_baselines: bool = True
    num_resamples: int = 1000
    block_days: float = 14.0


@dataclass
class MonitorsConfig:
    """off, warn or stop for each monitor of ``timerxl/training/monitors``, and their limits.

    ``num_evaluations`` in a row make a stagnation or an overfitting; ``points`` of accuracy (0 to
    100) an oscillation or a divergence; ``slow_factor`` times the planned epoch is slow. A stop
    needs certainty; what is only suspected is said. The target is off where ``target_f1`` is null.
    """

    collapse: str = "stop"
    stagnation: str = "warn"
    oscillation: str = "warn"
    divergence: str = "warn"
    overfitting: str = "warn"
    nonfinite: str = "stop"
    memory: str = "warn"
    slow: str = "warn"
    dead_input: str = "warn"
    target: str = "warn"
    num_evaluations: int = 3
    points: float = 5.0
    slow_factor: float = 3.0
    memory_cap_gb: Optional[float] = None
    target_f1: Optional[float] = None
    target_points: float = 2.0


@dataclass
class HubConfig:
    """``push`` sends new best models to ``repo_id`` (user/name); cards state ``data_licence``."""

    push: bool = False
    repo_id: Optional[str] = None
    private: bool = False
    data_licence: Optional[str] = None


@dataclass
class ExpectationConfig:
    """What a recipe expects of validation at the end of an epoch: [low, high] each, or null."""

    epoch: int = 1
    loss: Optional[list[float]] = None
    accuracy: Optional[list[float]] = None
    f1: Optional[list[float]] = None


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
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    expectations: list[ExpectationConfig] = field(default_factory=list)


def _leaf_keys(cls: type, prefix: str = "") -> list[str]:
    keys = []
    for item in fields(cls):
        inner = item.default_factory() if callable(item.default_factory) else None
        if is_dataclass(inner):
            keys += _leaf_keys(type(inner), f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def _explain(error: OmegaConfBaseException | TypeError, source: str) -> InputError:
    key = getattr(error, "full_key", None) or "?"
    said = str(error).partition("\n")[0]
    if isinstance(error, TypeError) or "is not a subclass of" in said:
        return InputError(f"in {source}: {said}: keys with values are expected there, or none.")
    if "not in" in said:
        return unknown_key(key, source, _leaf_keys(RunConfig))
    return InputError(f"{key} in {source}: {said}")


def available_recipes() -> list[str]:
    """Names of the recipes that ship with the toolkit."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Find a recipe by name or by path; raises InputError where there is none."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and is_file(path):
        return path
    path = RECIPES / f"{name}.yaml"
    if not is_file(path):
        raise InputError(
            f"unknown recipe {name!r}: expected one of {', '.join(available_recipes())}, "
            "or the path of a YAML file."
        )
    return path


def load_recipe(name: str, overrides: list[str] | None = None) -> RunConfig:
    """Merge defaults, the recipe called ``name`` (or at that path) and dotted overrides.

    Raises InputError on an unknown recipe or key, a wrong type, a value out of its range, a
    reference to anything but another key, and where a recipe given by path would send the run
    somewhere without a word on the command line.
    """
    path, given = recipe_path(name), list(overrides or [])
    known = _leaf_keys(RunConfig)
    text = read_yaml_text(path)
    try:
        check_references(text, known)
        check_reference(path.stem, known)  # it becomes a value: recipe
    except ValueError as error:
        raise InputError(f"in {path}: {reason(error)}") from error
    config: Any = OmegaConf.structured(RunConfig)
    values = flat(asdict(RunConfig())) | {"recipe": path.stem}
    try:
        recipe = OmegaConf.load(io.StringIO(text))
        if isinstance(recipe, DictConfig):
            values |= flat(_container(recipe))
            literal = _without_references(_container(recipe))
            config = OmegaConf.merge(config, {"recipe": path.stem}, literal)
    except (OmegaConfBaseException, TypeError) as error:
        raise _explain(error, str(path)) from error
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path} can't be read as YAML: {reason(error)}") from error
    except OSError:  # "invalid loaded object type": a number, a word or a date alone
        recipe = None
    if not isinstance(recipe, DictConfig) or not recipe:  # an empty file gives {}
        raise InputError(f"{path} holds no mapping of keys to values.")
    check_overrides(given, known)
    try:
        asked = OmegaConf.from_dotlist(given)
        values |= flat(_container(asked))
        config = OmegaConf.merge(config, _without_references(_container(asked)))
        for key, value in resolve_references(values).items():
            OmegaConf.update(config, key, value)
        resolved = OmegaConf.to_object(config)
    except (OmegaConfBaseException, TypeError) as error:
        raise _explain(error, "the overrides") from error
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise InputError(f"the overrides can't be read: {reason(error)}") from error
    assert isinstance(resolved, RunConfig)
    check_texts(flat(asdict(resolved)))
    if path.parent != RECIPES:
        _refuse_sending(path, resolved, flat(_container(asked)))
    validate(resolved)
    return resolved


def _container(config: DictConfig) -> dict[str, Any]:
    """As plain mappings, lists and values; references stay texts."""
    found: Any = OmegaConf.to_container(config)
    return dict(found)


def _without_references(values: dict[str, Any]) -> dict[str, Any]:
    """Without the keys whose values refer to others: the library would read those again for every
    place that leads to them, which multiplies."""
    kept = {
        key: _without_references(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return {k: v for k, v in kept.items() if isinstance(v, dict) or "${" not in str(v)}


def _refuse_sending(path: Path, config: RunConfig, asked: dict[str, Any]) -> None:
    """Raise InputError where a recipe given by ``path``, which may be a stranger's, sends the run
    to the hub or to a bucket, and the command line does not say so itself."""
    mirror = config.train.mirror or ""
    sends = {
        "hub.push": config.hub.push,
        "hub.repo_id": config.hub.repo_id,
        "train.mirror": mirror if "://" in mirror or "::" in mirror else None,
    }
    for key, value in sends.items():
        if value and asked.get(key) is None:
            raise InputError(
                f"{path} sets {key}: {plain(value, 200)}, which sends the run away. A recipe given "
                f"by path can't do that alone: add {key}={plain(value, 200)} to the command if you "
                "mean it, or take it out of the recipe."
            )


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, as it is written to the run folder."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
