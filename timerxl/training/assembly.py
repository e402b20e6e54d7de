"""From a recipe and a series to the objects of a run: model, loss weights, optimizer, plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from timerxl.config import InputError, ModelConfig, RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.model import TimerXLConfig, TimerXLForClassification
from timerxl.model.convert_openltm import WEIGHTS, load_backbone
from timerxl.untrusted import check_model_files

_NOT_MODEL_FIELDS = ("attn_implementation", "pretrained", "freeze_backbone_epochs", "num_labels")
LABEL_NAMES = {0: "no_rain", 1: "rain"}


def resolve_alpha(config: RunConfig, train_labels: np.ndarray) -> tuple[float, list[str]]:
    """Weight of rain in the loss, and what to log about it.

    ``auto`` is one minus the share of rain in training, so that both classes weigh the same.
    """
    share = float(train_labels.mean())
    if config.loss.alpha == "auto":
        alpha, notes = 1.0 - share, []
        if config.loss.name != "cross_entropy":
            notes.append(f"loss.alpha auto = {alpha:.3f} for rain, {share:.3f} for no rain.")
        return alpha, notes
    alpha = float(config.loss.alpha)
    favours_majority = (alpha - 0.5) * (share - 0.5) > 0
    if config.loss.name != "cross_entropy" and favours_majority:
        majority = "rain" if share > 0.5 else "no rain"
        return alpha, [
            f"warning: loss.alpha={alpha:g} favours {majority}, already "
            f"{max(share, 1 - share):.0%} of the training labels, and pushes towards forecasting "
            f"it always; auto would be {1 - share:.2f}."
        ]
    return alpha, []


def model_config(
    config: RunConfig, num_variables: int, num_static: int, alpha: float
) -> TimerXLConfig:
    """The model's configuration; raises InputError where recipe and data don't fit."""
    chosen = asdict(config.model)
    for key, found, name in (
        ("num_variables", num_variables, "features"),
        ("num_static_real_features", num_static, "static features (data.static_features)"),
    ):
        if chosen[key] not in (None, found):
            raise InputError(
                f"model.{key} is {chosen[key]} but the data have {found} {name}; "
                f"leave model.{key} out, or choose data.features."
            )
        chosen[key] = found
    fields = {key: value for key, value in chosen.items() if key not in _NOT_MODEL_FIELDS}
    try:
        return TimerXLConfig(
            **fields,
            id2label=LABEL_NAMES,
            label2id={name: index for index, name in LABEL_NAMES.items()},
            loss_name=config.loss.name,
            loss_alpha=alpha,
            loss_gamma=config.loss.gamma,
        )
    except ValueError as error:
        raise InputError(f"the recipe's model: {error}") from error


def build_model(
    settings: TimerXLConfig, recipe: ModelConfig, log: Callable[[str], None]
) -> tuple[TimerXLForClassification, frozenset[str]]:
    """The classifier, from ``model.pretrained`` or from scratch, and the names loaded from there.

    Raises InputError where the pretrained weights don't fit.
    """
    model = TimerXLForClassification._from_config(
        settings, attn_implementation=recipe.attn_implementation
    )
    if recipe.pretrained is None:
        log(f"model from scratch (no model.pretrained): {model.num_parameters():,} parameters.")
        return model, frozenset()
    try:
        check_model_files(Path(recipe.pretrained), WEIGHTS)
        report = load_backbone(model, recipe.pretrained)
    except (ValueError, OSError) as error:
        raise InputError(f"model.pretrained={recipe.pretrained}: {error}") from error
    log(f"model from {recipe.pretrained}: {report.summary()}.")
    # One of our own runs brings its classifier along; that is no backbone, and never frozen.
    backbone = f"{model.base_model_prefix}."
    return model, frozenset(name for name in report.loaded if name.startswith(backbone))


@dataclass(frozen=True)
class Schedule:
    """How long the run is: optimizer steps in all, and with a frozen backbone."""

    total_steps: int
    freeze_steps: int


def plan_steps(config: RunConfig, steps_per_epoch: int) -> Schedule:
    """``train.max_steps`` overrides ``train.epochs``."""
    total = config.train.max_steps or config.train.epochs * steps_per_epoch
    freeze = config.model.freeze_backbone_epochs * steps_per_epoch
    if freeze and config.model.pretrained is None:
        raise InputError(
            "model.freeze_backbone_epochs without model.pretrained would freeze random weights; "
            "give model.pretrained=PATH or set model.freeze_backbone_epochs=0."
        )
    return Schedule(total, freeze)


def class_share_lines(windows: WeatherWindows) -> list[str]:
    """Windows and share of rain per split and region, one line a split."""
    lines: list[str] = []
    shares = windows.class_shares()
    for split in windows.splits:
        of_split = [row for row in shares if row["split"] == split]
        total = windows.labels_of(split)
        regions = ", ".join(
            f"{row['region']} {row['rain_share']:.0%}" if row["n"] else f"{row['region']} none"
            for row in of_split
        )
        lines.append(f"{split}: {len(total):,} windows, {total.mean():.1%} rain ({regions})")
    return lines


def use_seed(seed: int, rank: int) -> None:
    """The same initial weights on every rank, other dropout masks on each: call before building
    the model with rank 0 and again after it with the real rank."""
    torch.manual_seed(seed + 7919 * rank)
