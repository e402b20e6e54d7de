"""Values that no run could use are refused here, by the name of their key, before any long work."""

from __future__ import annotations

import re
from typing import Any

MOST_CODES = 100


class InputError(ValueError):
    """The user's input is wrong. The message says what was found, expected, and what to do."""


# The keys of metrics.scores, which this module must not import; a test compares them. Left out are
# those of NOT_FOR_SELECTION there, which a forecast without skill can win: "always rain" has the
# best recall (pod), one sure window the best far, and a constant base rate the best ece.
VALIDATION_METRICS = (
    "loss",
    "f1",
    "macro_f1",
    "precision",
    "accuracy",
    "balanced_accuracy",
    "mcc",
    "hss",
    "pss",
    "ets",
    "csi",
    "sedi",
    "roc_auc",
    "pr_auc",
    "brier",
    "bss",
)
# Of train.task=next_patch; skill is 1 minus the squared error over that of the reference.
NEXT_PATCH_METRICS = ("loss", "skill_persistence", "skill_climatology")
THRESHOLD_SCORES = ("mcc", "f1", "macro_f1", "balanced_accuracy", "csi", "ets", "hss", "pss")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "data.directions": ("sin_cos", "as_is"),
    "data.labels": ("last", "every_patch"),
    "data.split": ("time", "rows"),
    "model.hidden_act": ("relu", "gelu"),
    "model.pooling": ("mean", "last"),
    "model.region_mixing": ("attention", "classifier"),
    "model.attn_implementation": ("sdpa", "eager"),
    "model.variable_bias_mode": ("folded", "mask"),
    "loss.name": ("cross_entropy", "weighted_cross_entropy", "focal"),
    "train.precision": ("auto", "bf16", "fp16", "fp32"),
    "train.zero_stage": (0, 2),
    "train.data_on_device": ("auto", True, False),
    "model.num_labels": (2,),
    "train.task": ("rain", "next_patch"),
    "eval.threshold_score": THRESHOLD_SCORES,
}
MONITOR_NAMES = (
    "collapse stagnation oscillation divergence overfitting nonfinite memory slow dead_input target"
).split()
_CHOICES |= {f"monitors.{name}": ("off", "warn", "stop") for name in MONITOR_NAMES}
_POSITIVE = (
    "data.synthetic.step_hours data.label_horizon_hours model.patch_length model.context_length "
    "model.hidden_size model.intermediate_size model.num_hidden_layers model.num_attention_heads "
    "model.rope_theta optim.lr optim.max_grad_norm train.epochs train.max_steps train.batch_size "
    "train.accumulation_steps train.patience train.log_every_steps eval.batch_size "
    "eval.max_windows eval.block_days data.window_stride_hours data.train_stride_hours "
    "model.num_variables optim.layer_lr_decay eval.check_windows monitors.num_evaluations "
    "train.checkpoint_every_steps train.checkpoint_every_minutes train.keep_last "
    "train.collective_timeout_minutes monitors.points monitors.slow_factor "
    "monitors.memory_cap_gb monitors.target_f1"
).split()
_NOT_NEGATIVE = (
    "data.max_fill_hours model.freeze_backbone_epochs loss.gamma optim.weight_decay "
    "train.num_workers eval.num_resamples model.num_static_real_features data.rain_threshold_mm "
    "seed eval.every_steps monitors.target_points loss.next_patch_weight"
).split()
_MOST = 1e15  # of what is counted: so many hours, as seconds, still fit into 64 bits
_SHARES = (
    "model.hidden_dropout model.attention_dropout data.train_fraction data.validation_fraction "
    "data.holdout_fraction optim.warmup_ratio optim.adam_beta1 optim.adam_beta2 loss.alpha "
    "eval.threshold"
).split()


def _value(config: Any, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def validate(config: Any) -> None:
    """Raise InputError for a value of a ``RunConfig`` that no run could use, naming the key."""
    for name in MONITOR_NAMES:
        if getattr(config.monitors, name) == "False":  # what YAML makes of off
            setattr(config.monitors, name, "off")
    for key, allowed in _CHOICES.items():
        if (value := _value(config, key)) not in allowed:
            raise InputError(f"{key} is {value!r}; expected one of {', '.join(map(str, allowed))}.")
    for key in _POSITIVE:
        if (value := _value(config, key)) is not None and not 0 < value < float("inf"):
            raise InputError(f"{key} is {value}; expected a number above 0.")
    for key in _NOT_NEGATIVE:
        if (value := _value(config, key)) is not None and not 0 <= value < float("inf"):
            raise InputError(f"{key} is {value}; expected 0 or more.")
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        value = _value(config, key)
        if (isinstance(value, int) or key.endswith("_hours")) and value and value > _MOST:
            raise InputError(f"{key} is {value}; expected at most {_MOST:g}.")
    for key in _SHARES:
        value = _value(config, key)
        if value == "auto" and key in ("loss.alpha", "eval.threshold"):
            continue
        if isinstance(value, str) or not 0 <= value < 1:
            raise InputError(f"{key} is {value!r}; expected a number from 0 up to (not with) 1.")
    if (ema := config.train.ema) is not None and not 0 < ema < 1:
        raise InputError(
            f"train.ema is {ema}; expected the decay of the weights' average, above 0 and "
            "below 1, such as 0.99, or null for none."
        )
    if not 0 < config.data.label_fraction <= 1:
        raise InputError(
            f"data.label_fraction is {config.data.label_fraction}; expected a share of the "
            "training labels above 0, up to 1."
        )
    _check_task(config)
    if config.data.oni_lag_months < 2:
        raise InputError(
            f"data.oni_lag_months is {config.data.oni_lag_months}; expected 2 or more: a value is "
            "published two months after its centre month."
        )
    if (codes := len(config.data.missing_values or [])) > MOST_CODES:
        raise InputError(
            f"data.missing_values holds {codes:,} numbers; expected at most {MOST_CODES}: each is "
            "a code for missing, such as -9999."
        )
    if config.data.train_fraction + config.data.validation_fraction >= 1:
        raise InputError(
            "data.train_fraction + data.validation_fraction must stay below 1: "
            "the rest is the test split."
        )
    if config.train.mirror and re.search(r"://[^/]*@", config.train.mirror):
        raise InputError(
            "train.mirror holds a user name or a password, which would stand in config.yaml and in "
            "logs; leave it out: libraries of storages read it from the environment or from their "
            "own files."
        )
    if config.hub.push and not config.hub.repo_id:
        raise InputError("hub.push needs hub.repo_id=user/name; set it, or leave hub.push out.")
    for item in config.expectations:
        for key in ("loss", "accuracy", "f1"):
            band = getattr(item, key)
            if band is not None and not (len(band) == 2 and band[0] <= band[1]):
                raise InputError(
                    f"expectations: {key} at epoch {item.epoch} is {band}; expected [low, high]."
                )
    if config.train.offload_optimizer and config.train.zero_stage != 2:
        raise InputError(
            "train.offload_optimizer needs train.zero_stage=2; set it, or leave it out."
        )
    model = config.model
    if model.context_length % model.patch_length:
        patches = model.context_length // model.patch_length or 1
        raise InputError(
            f"model.context_length {model.context_length} is no multiple of model.patch_length "
            f"{model.patch_length}; take {patches * model.patch_length} steps ({patches} patch"
            f"{'es' if patches > 1 else ''})."
        )
    _check_labels(config)
    together = config.data.regions_together
    is_count = isinstance(together, int) and not isinstance(together, bool) and together >= 1
    if together not in ("none", "all") and not is_count:
        raise InputError(
            f"data.regions_together is {together!r}; expected none, all, or how many neighbours a "
            "region sees (1 or more)."
        )
    if config.data.regions_together != "none" and config.data.split == "rows":
        raise InputError(
            f"data.regions_together={together} with data.split=rows: a cut by rows has no times "
            "that the regions share; take data.split=time, or data.regions_together=none."
        )
    head, odd = divmod(model.hidden_size, model.num_attention_heads)
    if odd or head % 4:
        raise InputError(
            f"model.hidden_size {model.hidden_size} over model.num_attention_heads "
            f"{model.num_attention_heads} must be a multiple of 4 (rotary pairs on half a head)."
        )


def _check_task(config: Any) -> None:
    """Raise InputError where a setting has no meaning for what is trained."""
    task, metric = config.train.task, config.train.metric_for_best_model
    metrics = VALIDATION_METRICS if task == "rain" else NEXT_PATCH_METRICS
    if metric not in metrics:
        raise InputError(
            f"train.metric_for_best_model is {metric!r}; expected, with train.task={task}, one of "
            f"{', '.join(metrics)}."
        )
    if task == "rain":
        return
    refused = {
        "data.split": (
            config.data.split == "rows",
            "windows of a cut by rows run across regions; take data.split=time",
        ),
        "model.covariate": (
            config.model.covariate,
            "the last variable would see the patches that it forecasts beside; take false",
        ),
        "data.regions_together": (
            config.data.regions_together != "none",
            "a forecaster reads windows of one region; take none (a classifier of all regions "
            "starts from it all the same)",
        ),
        "loss.next_patch_weight": (
            config.loss.next_patch_weight > 0,
            "the next patch is the whole loss already; take 0",
        ),
        "hub.push": (config.hub.push, "a classifier alone can be published; take false"),
    }
    for key, (is_set, why) in refused.items():
        if is_set:
            raise InputError(f"{key} is {_value(config, key)} with train.task=next_patch: {why}.")


def _check_labels(config: Any) -> None:
    """Raise InputError where labels at early patches would leak, or the next patch has no place."""
    if config.data.labels == "last":
        return
    leaks = {
        "model.instance_norm=true": (
            config.model.instance_norm,
            "a window's mean knows the patches after the label",
        ),
        "model.covariate=true": (
            config.model.covariate,
            "the last variable sees the patches after the label",
        ),
        "data.split=rows": (
            config.data.split == "rows",
            "windows of a cut by rows run across regions",
        ),
    }
    for setting, (is_set, why) in leaks.items():
        if is_set:
            key = setting.partition("=")[0]
            raise InputError(
                f"data.labels=every_patch with {setting}: {why}; change {key}, or take "
                "data.labels=last."
            )
