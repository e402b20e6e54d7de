"""From a recipe and a series to a run's model, optimizer, schedule and compiled layers."""

from __future__ import annotations

import math
import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch._dynamo.utils import calculate_time_spent
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._triton import has_triton_package

from timerxl.config import InputError, ModelConfig, OptimConfig, RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.device import device_facts
from timerxl.model import TimerXLConfig, TimerXLForClassification, TimerXLForPrediction
from timerxl.model.convert_openltm import WEIGHTS, load_backbone
from timerxl.untrusted import check_model_files

_NOT_MODEL_FIELDS = ("attn_implementation", "pretrained", "freeze_backbone_epochs", "num_labels")
LABEL_NAMES = {0: "no_rain", 1: "rain"}


def resolve_alpha(config: RunConfig, share: float, log: Callable[[str], None]) -> float:
    """Return the weight of rain in the loss, and log what it means; ``share`` is that of rain in
    training.

    ``auto`` is one minus the share, so that both classes weigh the same.
    """
    is_weighted = config.loss.name != "cross_entropy"
    if config.loss.alpha == "auto":
        if is_weighted:
            log(f"loss.alpha auto = {1.0 - share:.3f} for rain, {share:.3f} for no rain.")
        return 1.0 - share
    alpha = float(config.loss.alpha)
    if is_weighted and (alpha - 0.5) * (share - 0.5) > 0:
        majority = "rain" if share > 0.5 else "no rain"
        log(
            f"warning: loss.alpha={alpha:g} favours {majority}, already "
            f"{max(share, 1 - share):.0%} of the training labels, and pushes towards forecasting "
            f"it always; auto would be {1 - share:.2f}."
        )
    return alpha


def next_patch_weight(config: RunConfig) -> float:
    """The weight of the next patch in the loss that is followed: none where the last patch of a
    window alone has a label, or where a window is one patch."""
    several = config.model.context_length >= 2 * config.model.patch_length
    is_followed = several and config.data.labels == "every_patch" and config.train.task == "rain"
    return config.loss.next_patch_weight if is_followed else 0.0


def model_config(
    config: RunConfig,
    num_variables: int,
    num_static: int,
    alpha: float,
    num_regions: int = 1,
    neighbours: np.ndarray | None = None,
) -> TimerXLConfig:
    """Build the model's configuration; raise InputError where recipe and data don't fit.

    ``neighbours`` [num_regions, k]: the regions that each sees beside its own
    (``data.regions_together=k``).
    """
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
    if config.train.task == "next_patch":
        chosen["pooling"] = "mean"  # a forecaster pools nothing, and need not know its variables
    fields = {key: value for key, value in chosen.items() if key not in _NOT_MODEL_FIELDS}
    try:
        return TimerXLConfig(
            **fields,
            id2label=LABEL_NAMES,
            label2id={name: index for index, name in LABEL_NAMES.items()},
            loss_name=config.loss.name,
            loss_alpha=alpha,
            loss_gamma=config.loss.gamma,
            num_regions=num_regions if config.data.regions_together != "none" else None,
            region_neighbours=None if neighbours is None else neighbours.tolist(),
            next_patch_head=next_patch_weight(config) > 0,
        )
    except ValueError as error:
        raise InputError(f"the recipe's model: {error}") from error


HEADS: dict[str, type[TimerXLForClassification] | type[TimerXLForPrediction]] = {
    "rain": TimerXLForClassification,
    "next_patch": TimerXLForPrediction,
}


def build_model(
    settings: TimerXLConfig, recipe: ModelConfig, log: Callable[[str], None], task: str = "rain"
) -> tuple[TimerXLForClassification | TimerXLForPrediction, frozenset[str]]:
    """Build the model of ``train.task``, from ``model.pretrained`` or from scratch; return it with
    the names of the backbone's parameters that were loaded.

    Raises InputError where the pretrained weights don't fit.
    """
    model = HEADS[task]._from_config(settings, attn_implementation=recipe.attn_implementation)
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


def plan_steps(config: RunConfig, steps_per_epoch: int) -> tuple[int, int]:
    """Return (optimizer steps in all, steps with a frozen backbone); ``train.max_steps`` overrides
    ``train.epochs``."""
    total = config.train.max_steps or config.train.epochs * steps_per_epoch
    freeze = config.model.freeze_backbone_epochs * steps_per_epoch
    if freeze and config.model.pretrained is None:
        raise InputError(
            "model.freeze_backbone_epochs without model.pretrained would freeze random weights; "
            "give model.pretrained=PATH or set model.freeze_backbone_epochs=0."
        )
    return total, freeze


def class_share_lines(windows: WeatherWindows) -> list[str]:
    """Describe windows and share of rain per split and region, one line a split."""
    lines: list[str] = []
    shares = windows.class_shares()
    for split in windows.splits:
        of_split = [row for row in shares if row["split"] == split]
        regions = ", ".join(
            f"{row['region']} {row['rain_share']:.0%}" if row["n"] else f"{row['region']} none"
            for row in of_split
        )
        count, share = len(windows.issue_rows(split)), windows.rain_share(split)
        lines.append(f"{split}: {count:,} windows, {share:.1%} rain ({regions})")
    return lines


def use_seed(seed: int, rank: int) -> None:
    """Seed torch: rank 0's seed on every rank before the model is built, so that weights are the
    same, and the rank's own after it, so that dropout masks differ."""
    torch.manual_seed(seed + 7919 * rank)


def _depth(name: str, num_layers: int) -> int:
    """Return 0 for the embeddings, 1..num_layers for the layers, num_layers + 1 for the head."""
    parts = name.split(".")
    if "layers" in parts:
        return 1 + int(parts[parts.index("layers") + 1])
    return 0 if "embedding" in name else num_layers + 1


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to biases, norms or embeddings by index."""
    by_index = "variable_bias" in name or "variable_embedding" in name
    return parameter.ndim > 1 and not by_index


def parameter_groups(
    model: nn.Module, config: OptimConfig, backbone: frozenset[str] | set[str] = frozenset()
) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay.

    A parameter d layers below the head has the rate ``lr * layer_lr_decay ** d``. Parameters
    named in ``backbone`` carry ``is_backbone``, so that the schedule can hold them still.
    """
    num_layers = int(getattr(model.config, "num_hidden_layers", 0))
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        depth, decays = _depth(name, num_layers), _decays(name, parameter)
        key = (depth if config.layer_lr_decay != 1.0 else 0, decays, name in backbone)
        if key not in groups:
            groups[key] = {
                "params": [],
                "lr": config.lr * config.layer_lr_decay ** (num_layers + 1 - depth)
                if config.layer_lr_decay != 1.0
                else config.lr,
                "weight_decay": config.weight_decay if decays else 0.0,
                "is_backbone": name in backbone,
            }
        groups[key]["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, config: OptimConfig, backbone: frozenset[str] | set[str] = frozenset()
) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter 2019) in torch's fused implementation."""
    return torch.optim.AdamW(
        parameter_groups(model, config, backbone),
        lr=config.lr,
        betas=(config.adam_beta1, config.adam_beta2),
        fused=True,
    )


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the factor on the learning rate: linear warm-up, then half a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """Return the number of steps in which the learning rate rises."""
    return round(config.warmup_ratio * total_steps)


def _held_still(step: int, until: int, factor: Callable[[int], float]) -> float:
    return 0.0 if step < until else factor(step)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int, freeze_steps: int = 0
) -> LambdaLR:
    """Build warm-up and cosine, stepped once per optimizer step by the loop (never by accelerate,
    which would step it num_processes times). Groups marked ``is_backbone`` have rate zero for the
    first ``freeze_steps`` steps."""
    warmup = warmup_steps(config, total_steps)
    factor = partial(warmup_cosine, warmup_steps=warmup, total_steps=total_steps)
    frozen = partial(_held_still, until=freeze_steps, factor=factor)
    return LambdaLR(
        optimizer, [frozen if g.get("is_backbone") else factor for g in optimizer.param_groups]
    )


BACKEND = "inductor"
# All layers share one piece of code, compiled for: training and evaluation, all patches and the
# last ones alone, a full batch, a short one and one of a single sample. torch stops at 8.
MAX_VARIANTS = 16


@dataclass(frozen=True)
class CompilerFacts:
    """What Inductor needs: a C++ compiler on a CPU; triton, and a C compiler with Python's headers
    for it, on a GPU."""

    on_gpu: bool
    has_compiler: bool
    has_triton: bool
    has_headers: bool = True


def compiler_facts() -> CompilerFacts:
    """Find out what this machine has."""
    from torch._inductor.cpp_builder import get_cpp_compiler  # a second, for those who compile
    from torch._inductor.exc import InvalidCxxCompiler

    on_gpu = device_facts().has_gpu
    if on_gpu:
        names = (os.environ.get("CC", ""), "gcc", "clang")
        headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
        return CompilerFacts(True, any(map(shutil.which, names)), has_triton_package(), headers)
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return CompilerFacts(False, False, has_triton_package())
    return CompilerFacts(False, True, has_triton_package())


def launcher_backend(environment: Mapping[str, str]) -> str | None:
    """Return the backend of ``accelerate launch --dynamo_backend``, or None."""
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    return None if backend in ("", "no") else backend


def is_disabled(environment: Mapping[str, str]) -> bool:
    """Whether torch's own switches turn torch.compile off."""
    return "1" in map(environment.get, ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))


def check_compiler(
    config: RunConfig, environment: Mapping[str, str], facts: Callable[[], CompilerFacts]
) -> None:
    """Raise InputError where ``train.compile`` is asked for and this machine can't compile."""
    if not config.train.compile or launcher_backend(environment) or is_disabled(environment):
        return
    found = facts()
    if found.on_gpu and not found.has_triton:
        raise InputError(
            "train.compile=true needs triton on a GPU, which can't be imported; install the triton "
            "of this torch (pip install torch brings it), or set train.compile=false."
        )
    if found.on_gpu and not found.has_headers:
        raise InputError(
            "train.compile=true needs Python's headers for triton, and Python.h is not there; "
            "install them (apt-get install python3-dev), or set train.compile=false."
        )
    if not found.has_compiler:
        which = "a C compiler (gcc or clang, or CC=PATH)" if found.on_gpu else "g++ (or CXX=PATH)"
        raise InputError(
            f"train.compile=true needs {which}, and none was found; install it, or set "
            "train.compile=false."
        )


def compile_layers(
    config: RunConfig,
    model: TimerXLForClassification | TimerXLForPrediction,
    log: Callable[[str], None],
) -> None:
    """Compile every layer of ``model`` in place, where ``train.compile`` says so.

    The launcher's choice wins: accelerate then compiles in ``prepare``. To be called before that,
    after gradient checkpointing was switched on. The layers compile when they first run.
    """
    backend = launcher_backend(os.environ)
    if backend is None and not config.train.compile:
        return
    if is_disabled(os.environ):
        log("note: TORCH_COMPILE_DISABLE or TORCHDYNAMO_DISABLE is 1: nothing is compiled.")
        return
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_VARIANTS)
    if backend is not None:
        if config.train.compile:
            log(f"note: train.compile=true is not followed: the launcher chose {backend}.")
        log(f"the launcher compiles the model ({backend}).")
        return
    # module.compile() compiles the call and leaves the module what it is. accelerate's regional
    # compilation does so under DeepSpeed, but elsewhere puts every layer into an OptimizedModule,
    # whose parameters are called "_orig_mod...": weights that nobody else could load.
    dynamo.optimize_ddp = False  # it splits graphs where gradients are sent; layers are split
    layers = model.timer_xl.layers
    for layer in layers:
        layer.compile(backend=BACKEND)
    log(
        f"each of {len(layers)} layers is compiled ({BACKEND}): the first steps and the first "
        "evaluation take longer."
    )


def compile_seconds() -> float:
    """Return the seconds that this process has spent compiling."""
    return float(calculate_time_spent()["total_wall_time"])


def bare_model(accelerator: Accelerator, model: torch.nn.Module) -> Any:
    """Unwrap the model from accelerate, DeepSpeed and torch.compile: its parameters then have their
    own names."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)
