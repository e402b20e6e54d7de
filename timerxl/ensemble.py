"""Several trained classifiers as one: the mean of their probabilities.

An ensemble's folder holds ``ensemble.json``, which names its members ``member_0``, ``member_1``,
... (an ordinary model folder each), and a preprocessing.json of its own with the threshold and the
calibration of the mean. A blended one holds boosted trees, too (``trees.safetensors``), and
``ensemble.json`` the weights of both. B windows, T steps, C variables, K classes, M members.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from timerxl.config import InputError
from timerxl.model import TimerXLForClassification
from timerxl.untrusted import Between, Text, check_model_files, read_json, schema_error

ENSEMBLE, TREES = "ensemble.json", "trees.safetensors"
FORMAT, BLENDED_FORMAT = 1, 2  # a program that knows no blend must not take it for a mean
MOST_MEMBERS = 64
# Of preprocessing.json, what all members must share: not the stride of training windows, nor the
# name of a file that holds the same series. The cuts in time depend on the context.
_SHARED = (
    "label step_hours context_length feature_names scaling static_feature_names regions "
    "precipitation_feature is_synthetic region_neighbours"
).split()
_SHARED_SPLIT = (
    "method validation_from test_from embargo_hours window_stride_hours train_fraction "
    "validation_fraction"
).split()
_SHARED_SOURCE = "sha256 rows first last seed step_hours start end".split()
_WEIGHT = Between(-1e6, 1e6)
_BLEND = {"network": _WEIGHT, "trees": _WEIGHT, "intercept": _WEIGHT}


def member_names(count: int) -> list[str]:
    """Names of the members' folders: member_0, member_1, ..."""
    return [f"member_{index}" for index in range(count)]


def is_ensemble(folder: Path) -> bool:
    """Whether a folder says that it is an ensemble's."""
    return os.path.lexists(folder / ENSEMBLE)


def read_members(folder: Path) -> list[str]:
    """Read the members' names from ensemble.json; raise InputError where they are not a folder
    each, of this folder and no link."""
    path, names = folder / ENSEMBLE, list(_read(folder)["members"])
    if not 2 <= len(names) <= MOST_MEMBERS or names != member_names(len(names)):
        raise InputError(
            f"{path} names {len(names)} members; expected 2 to {MOST_MEMBERS} of them, called "
            "member_0, member_1 and so on, in this order."
        )
    for name in names:
        if (folder / name).is_symlink() or not (folder / name).is_dir():
            raise InputError(
                f"{folder / name} is no folder of the ensemble's own; expected a model folder, as "
                f"{ENSEMBLE} says."
            )
    return names


def read_blend(folder: Path) -> dict[str, float] | None:
    """Read the weights of network and trees, and the intercept; None where there are no trees."""
    content = _read(folder)
    if content["format"] == FORMAT:
        return None
    return {key: float(content["blend"][key]) for key in _BLEND}


def _read(folder: Path) -> dict[str, Any]:
    """ensemble.json; raises InputError where it is none, or a link out of the folder."""
    check_model_files(folder, (ENSEMBLE,))
    path = folder / ENSEMBLE
    content = read_json(path)
    shape: dict[str, Any] = {"format": range(FORMAT, BLENDED_FORMAT + 1), "members": [Text(20)]}
    problem = schema_error(content, shape)
    if problem is None and content["format"] == BLENDED_FORMAT:
        problem = schema_error(content, {"blend": _BLEND})
    if problem:
        raise InputError(f"{path}: {problem}.")
    return dict(content)


def description(members: Sequence[str], blend: dict[str, float] | None) -> dict[str, Any]:
    """What ensemble.json holds."""
    if blend is None:
        return {"format": FORMAT, "members": list(members)}
    return {"format": BLENDED_FORMAT, "members": list(members), "blend": blend}


def difference(first: dict[str, Any], other: dict[str, Any]) -> str | None:
    """Tell what two members' preprocessing.json must have in common and have not, as a clause;
    None where they fit together."""

    def parts(content: dict[str, Any]) -> dict[str, Any]:
        source = content.get("source") or {}
        found = {key: content.get(key) for key in _SHARED}
        found["data.regions_together"] = content["data"].get("regions_together", "none")
        found |= {f"split.{key}": content["split"].get(key) for key in _SHARED_SPLIT}
        return found | {f"source.{key}": source.get(key) for key in _SHARED_SOURCE}

    one, two = parts(first), parts(other)
    different = [key for key in one if one[key] != two[key]]
    if not different:
        return None
    key = different[0]
    texts = [ascii(found[key]) for found in (one, two)]
    shown = [text if len(text) <= 120 else f"{text[:120]}..." for text in texts]
    more = f" (and {', '.join(different[1:])})" if len(different) > 1 else ""
    return f"{key} is {shown[0]} and {shown[1]}{more}"


class Ensemble(nn.Module):
    """Members that forecast together; it is called, and answers, as a classifier does."""

    def __init__(self, members: Sequence[TimerXLForClassification]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, past_values: Tensor, **beside: Tensor) -> Any:
        """Return ``logits`` [B, K] (or [B, G, K], as the members do) whose softmax is the mean of
        the members' probabilities."""
        logits = [member(past_values, **beside).logits.float() for member in self.members]
        return SimpleNamespace(logits=mean_logits(torch.stack(logits)))


def mean_logits(logits: Tensor) -> Tensor:
    """Of logits [M, ..., K] the logarithm of the mean probabilities: logits [..., K] again."""
    return torch.logsumexp(logits.log_softmax(-1), dim=0) - math.log(len(logits))
