"""OpenLTM's Timer-XL weights in and out, and the strict start of a classifier from weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .configuration_timerxl import TimerXLConfig
from .modeling_timerxl import (
    TimerXLForClassification,
    TimerXLForPrediction,
    TimerXLPreTrainedModel,
    refuse_wrapped,
)
from .openltm_checkpoint import (
    CLASSIFIER_MODULES,
    key_table,
    raise_for,
    read_openltm,
    read_shapes,
    read_tensors,
    table_and_sizes,
    why_unusable,
)

# Where two of these differ, the same weights are another function (or do not fit at all).
_SIZE_FIELDS = [
    "patch_length",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
]
_FUNCTION_FIELDS = ["hidden_act", "covariate", "instance_norm", "rope_theta", "layer_norm_eps"]
# What is taken of a stranger's config.json. Not attn_implementation, which may name a package that
# transformers would then download and run.
_OUR_FIELDS = (*TimerXLConfig.__annotations__, "id2label", "label2id")
WEIGHTS = ("config.json", "model.safetensors")  # as save_pretrained writes them
_LARGEST = 2**24
_MOST_LAYERS = 999
_MOST_CONFIG_BYTES = 2**20  # ours have 1,200
_CLASSIFIER_KEYS = tuple(
    f"{ours}.{part}" for _, ours, parts in CLASSIFIER_MODULES for part in parts
)
_HEAD_KEYS = ("head.weight", "head.bias")
_NEXT_PATCH_KEYS = ("next_patch.weight", "next_patch.bias")
_EMBEDDINGS = ("timer_xl.variable_embedding.weight", "timer_xl.region_embedding.weight")


def _to_ours(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checked OpenLTM state dict under our names, and the fields of the configuration in it."""
    table, sizes = table_and_sizes(state)
    ours = {
        name: state[key].squeeze(-1) if shape.endswith(" 1") else state[key]
        for key, (name, shape) in table.items()
    }
    values = [sizes["P"], sizes["D"], sizes["F"], sizes["layers"], sizes["H"]]
    fields: dict[str, Any] = dict(zip(_SIZE_FIELDS, values, strict=True))
    if "W" in sizes:
        fields |= {"classifier_hidden_size": sizes["W"], "num_labels": sizes["K"]}
    return ours, fields


def convert_checkpoint(
    path: str | Path,
    *,
    hidden_act: str = "relu",
    covariate: bool = False,
    instance_norm: bool = False,
) -> TimerXLPreTrainedModel:
    """An OpenLTM checkpoint as one of our models, in float32 and evaluation mode.

    A forecaster becomes TimerXLForPrediction, a classifier TimerXLForClassification with pooling
    ``mean``. The sizes are read off the tensors. The three switches are not in the file: they
    must be what OpenLTM was trained with (``activation``, ``covariate``, ``use_norm``), and
    ``context_length`` is set to the 30 patches of the published checkpoint, which changes no
    output. Raises ValueError as :func:`read_openltm` does.
    """
    ours, sizes = _to_ours(read_openltm(path))
    config = TimerXLConfig(
        **sizes,
        context_length=30 * sizes["patch_length"],
        hidden_act=hidden_act,
        covariate=covariate,
        instance_norm=instance_norm,
    )
    return _build(config, ours)


def _build(config: TimerXLConfig, state: Mapping[str, Tensor]) -> TimerXLPreTrainedModel:
    classifies = any(key in state for key in _CLASSIFIER_KEYS)
    model = (TimerXLForClassification if classifies else TimerXLForPrediction)(config)
    model.load_state_dict(state)
    return model.eval()


def export_openltm(model: TimerXLPreTrainedModel) -> dict[str, Tensor]:
    """Our forecaster or mean-pooling classifier as OpenLTM's state dict (copies, on the CPU).

    Raises ValueError where OpenLTM has no place for a part of the model, naming the part.
    """
    if not isinstance(model, TimerXLForPrediction | TimerXLForClassification):
        raise ValueError(f"{type(model).__name__} has no head; OpenLTM's checkpoints hold one.")
    config, reasons = model.config, []
    classifies = isinstance(model, TimerXLForClassification)
    if classifies and config.pooling != "mean":
        reasons.append(f"pooling={config.pooling!r}: its classifier takes the mean over tokens")
    if config.variable_embedding:
        reasons.append("variable_embedding=True: it has one embedding for all variables")
    if classifies and config.num_static_real_features:
        reasons.append(
            f"num_static_real_features={config.num_static_real_features}: it has no such input"
        )
    if config.rope_theta != 10000:
        reasons.append(f"rope_theta={config.rope_theta}: it always takes 10000")
    if config.layer_norm_eps != 1e-5:
        reasons.append(f"layer_norm_eps={config.layer_norm_eps}: it always takes 1e-05")
    if reasons:
        raise ValueError(f"OpenLTM can't hold this model: {'; '.join(reasons)}.")
    ours = model.state_dict()
    exported = {}
    for key, (name, shape) in key_table(config.num_hidden_layers, classifies).items():
        tensor = ours[name].detach().cpu().clone()
        exported[key] = tensor.unsqueeze(-1) if shape.endswith(" 1") else tensor
    return exported


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], TimerXLConfig]:
    """The tensors and configuration of a folder written by save_pretrained; runs no code in it.

    Nothing is allocated before the file's header, a list of names and shapes, fits config.json.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with a saved timerxl model.")
    for name in WEIGHTS:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}; expected a saved timerxl model.")
    try:
        with (folder / "config.json").open("rb") as file:
            content = file.read(_MOST_CONFIG_BYTES + 1)
        if len(content) > _MOST_CONFIG_BYTES:
            raise ValueError(f"it has more than {_MOST_CONFIG_BYTES:,} bytes.")
        fields = json.loads(content)
        found = fields.get("model_type")
        config = TimerXLConfig(**{key: fields[key] for key in _OUR_FIELDS if key in fields})
    except Exception as error:  # a config's fields are checked by several libraries' own errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"{folder / 'config.json'} is no valid configuration: {reason}") from error
    if found != TimerXLConfig.model_type:
        raise ValueError(
            f"{folder / 'config.json'} has model_type {found!r}, expected "
            f"{TimerXLConfig.model_type!r}."
        )
    shapes = read_shapes(folder / "model.safetensors")
    try:
        refuse_wrapped(shapes)
    except ValueError as error:
        raise ValueError(f"{folder / 'model.safetensors'}: {error}") from error
    raise_for(folder, _odd_sizes(config))
    raise_for(folder, _unlike_header(config, shapes))
    state = read_tensors(folder / "model.safetensors")
    raise_for(folder, [f"{k[:80]} {why}" for k, v in state.items() if (why := why_unusable(v))])
    return state, config


def _unlike_header(config: TimerXLConfig, shapes: Mapping[str, list[int]]) -> list[str]:
    """Sizes in config.json that are not those of the tensors, of which both files tell."""
    layers = {key.split(".")[2] for key in shapes if key.startswith("timer_xl.layers.")}
    embedding = shapes.get("timer_xl.embedding.weight", [])
    forward = shapes.get("timer_xl.layers.0.linear1.weight", [])
    if len(embedding) != 2 or len(forward) != 2:
        return []  # the strict comparison of all tensors names what is missing
    hidden, patch = embedding
    told = {
        "num_hidden_layers": len(layers),
        "hidden_size": hidden,
        "patch_length": patch,
        "intermediate_size": forward[0],
    }
    return [
        f"config.json says {name} {getattr(config, name):,}, model.safetensors holds {size:,}"
        for name, size in told.items()
        if getattr(config, name) != size
    ]


def _odd_sizes(config: TimerXLConfig) -> list[str]:
    """Sizes that no model has: to build one of them would take all memory, or never end."""
    limits = {name: (1, _LARGEST) for name in _SIZE_FIELDS}
    limits |= {"num_hidden_layers": (1, _MOST_LAYERS), "num_labels": (1, _LARGEST)}
    limits |= {"context_length": (1, _LARGEST), "classifier_hidden_size": (1, _LARGEST)}
    limits |= {"num_variables": (1, _LARGEST), "num_static_real_features": (0, _LARGEST)}
    found = {name: getattr(config, name) for name in limits}
    numbers = {
        "rope_theta": (0, 1e30),
        "layer_norm_eps": (0, 1),
        "hidden_dropout": (-1e-9, 1),
        "attention_dropout": (-1e-9, 1),
    }
    for name, (above, below) in numbers.items():
        value = getattr(config, name)  # transformers lets any type of rope_theta through
        if not isinstance(value, int | float) or not above < value < below:
            wanted = f"a number above {max(above, 0):g} and below {below:g}"
            return [f"config.json says {name} {str(value)[:60]}, expected {wanted}"]
    return [
        f"config.json says {name} {str(found[name])[:60]}, expected {low} to {high:,}"
        for name, (low, high) in limits.items()
        if not (type(found[name]) is int and low <= found[name] <= high)  # a bool is no size
        and (name, found[name]) != ("num_variables", None)
    ]


def load_saved(folder: str | Path) -> TimerXLPreTrainedModel:
    """A forecaster or classifier from a folder that save_pretrained wrote, in evaluation mode.

    Unlike from_pretrained it raises ValueError, naming them, where tensors are missing, unknown,
    mis-shaped or not finite.
    """
    state, config = _read_folder(Path(folder))
    classifies = any(key in state for key in _CLASSIFIER_KEYS)
    try:
        with torch.device("meta"):
            wanted = (TimerXLForClassification if classifies else TimerXLForPrediction)(config)
    except RuntimeError as error:  # a tensor of more elements than can be counted
        raise ValueError(f"{folder}: config.json says sizes that no model has: {error}") from error
    problems = [f"{key[:80]} is not in the model" for key in state.keys() - wanted.state_dict()]
    raise_for(folder, sorted(problems) + _misfits(state, wanted.state_dict()))
    return _build(config, state)


def _misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    problems = []
    for key, target in wanted.items():
        if key not in state:
            problems.append(f"{key} is missing")
        elif state[key].shape != target.shape:
            found, expected = list(state[key].shape), list(target.shape)
            problems.append(f"{key} has shape {found}, expected {expected}")
    return problems


@dataclass(frozen=True)
class LoadReport:
    """Names (ours) of the tensors that a model took over, that are new, that found no place."""

    loaded: list[str]
    new: list[str]
    unused: list[str]

    def summary(self) -> str:
        """Such as "142 tensors loaded, 6 new: classifier_norm.weight, ..."; every name is there."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for count, names in (("new", self.new), ("unused", self.unused)):
            if names:
                parts.append(f"{len(names)} {count}: {', '.join(names)}")
            elif count == "new":
                parts.append("0 new")
        return ", ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:])


def load_backbone(
    model: TimerXLForClassification | TimerXLForPrediction, source: str | Path
) -> LoadReport:
    """Start a classifier or a forecaster from an OpenLTM checkpoint or a saved folder of ours.

    The backbone, and ``head`` where a classifier has one, must be there and fit. The classifier's
    six tensors are taken if the source has all six in the right shapes (and pools alike), else
    they stay new; so do the embeddings of variables and regions and the head of the next patch
    where the source lacks them.
    A classifier's head of the next patch is a forecaster's ``head``. Raises ValueError, leaving the
    model as it was, where a tensor or a field of the configuration does not fit. An OpenLTM file
    says nothing of activation, covariate or normalisation: those can't be compared.
    """
    source = Path(source)
    config = model.config
    if source.is_dir():
        state, theirs = _read_folder(source)
        fields = {name: getattr(theirs, name) for name in _SIZE_FIELDS + _FUNCTION_FIELDS}
        pooling = theirs.pooling
    else:
        state, sizes = _to_ours(read_openltm(source))
        fields = {name: sizes[name] for name in _SIZE_FIELDS}
        pooling = "mean"
    raise_for(
        source,
        [
            f"{name} is {value!r} there and {getattr(config, name)!r} in this model"
            for name, value in fields.items()
            if value != getattr(config, name)
        ],
    )
    ours = model.state_dict()
    forecasts = not any(key in state for key in _CLASSIFIER_KEYS)
    head_keys = _HEAD_KEYS if isinstance(model, TimerXLForPrediction) else _NEXT_PATCH_KEYS
    # Where the source keeps its head of the next patch.
    places = dict(zip(head_keys, _HEAD_KEYS if forecasts else _NEXT_PATCH_KEYS, strict=True))
    optional = {*_EMBEDDINGS, *head_keys}
    wanted = {key: state.get(places.get(key, key)) for key in ours if key not in _CLASSIFIER_KEYS}
    taken = {k: v for k, v in wanted.items() if v is not None}
    missing = [f"{key} is missing" for key in wanted if key not in taken and key not in optional]
    misfits = _misfits(taken, {key: ours[key] for key in taken})
    if pooling == config.pooling and _CLASSIFIER_KEYS[0] in ours:
        classifier = {key: ours[key] for key in _CLASSIFIER_KEYS}
        if not _misfits(state, classifier):
            taken |= {key: state[key] for key in classifier}
    used = {places.get(key, key) for key in taken}
    unused = [key for key in state if key not in used]
    may_stay = {*_CLASSIFIER_KEYS, *_HEAD_KEYS, *_NEXT_PATCH_KEYS}
    unknown = [f"{k[:80]} has no place in this model" for k in unused if k not in may_stay]
    raise_for(source, unknown + missing + misfits)
    model.load_state_dict(ours | taken)
    loaded = [key for key in ours if key in taken]
    return LoadReport(loaded, [key for key in ours if key not in taken], unused)
