"""scikit-learn's boosted trees as plain arrays: kept in a safetensors file, never as a pickle.

M nodes of all trees one after the other, S splits by category, F inputs, n windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit  # type: ignore[import-untyped]
from sklearn.ensemble import HistGradientBoostingClassifier

from timerxl.config import InputError
from timerxl.untrusted import check_memory, check_model_files, plain

_MOST_CATEGORIES = 256  # of one column, as scikit-learn bins it
_NODE_ARRAYS = {
    "feature": np.int32,  # column of the inputs that a node splits
    "threshold": np.float64,  # up to which a value goes left
    "left": np.int32,
    "right": np.int32,
    "missing_left": np.uint8,
    "is_leaf": np.uint8,
    "value": np.float64,  # of a leaf: what the tree adds to the log-odds
    "by_category": np.int32,  # which row of goes_left splits a node; -1 for a threshold
}


class Trees:
    """Trees that answer as the classifier they were taken from does, bit by bit.

    ``arrays``: those of ``_NODE_ARRAYS`` [M], ``first`` int32 (the root of each tree), ``start``
    float64 [1] (log-odds before the first tree), ``categories`` float64 (known values of the last
    input column, ascending; none where it is a number) and ``goes_left`` uint8 [S, 256]. Raises
    ValueError where they are no trees on ``num_inputs`` columns, so that no walk leaves the arrays
    or turns in a circle.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], num_inputs: int) -> None:
        if problem := _problem(arrays, num_inputs):
            raise ValueError(problem)
        self.arrays = arrays

    @classmethod
    def of(cls, model: HistGradientBoostingClassifier) -> Trees:
        """Take the trees of a fitted classifier of two classes, whose last column alone may be one
        of categories."""
        parts = [trees[0] for trees in model._predictors]
        sizes = [len(part.nodes) for part in parts]
        first = np.cumsum([0, *sizes[:-1]])
        nodes = np.concatenate([part.nodes for part in parts])
        offset = np.repeat(first, sizes)
        sets = [part.raw_left_cat_bitsets for part in parts]
        sets_before = np.repeat(np.cumsum([0, *map(len, sets[:-1])]), sizes)
        is_set = nodes["is_categorical"].astype(bool)
        bits = np.concatenate(sets).astype("<u4").view(np.uint8)
        categories, column = np.empty(0), nodes["feature_idx"].astype(np.int64)
        if model._preprocessor is not None:
            # scikit-learn puts the column of categories first.
            categories = model._preprocessor.named_transformers_["encoder"].categories_[0]
            column = np.where(column == 0, model.n_features_in_ - 1, column - 1)
        found = {
            "feature": column,
            "threshold": nodes["num_threshold"],
            "left": nodes["left"] + offset,
            "right": nodes["right"] + offset,
            "missing_left": nodes["missing_go_to_left"],
            "is_leaf": nodes["is_leaf"],
            "value": nodes["value"],
            "by_category": np.where(is_set, nodes["bitset_idx"] + sets_before, -1),
        }
        arrays = {name: found[name].astype(kind) for name, kind in _NODE_ARRAYS.items()}
        arrays |= {
            "first": first.astype(np.int32),
            "start": np.asarray(model._baseline_prediction, np.float64).reshape(1),
            "categories": np.asarray(categories, np.float64),
            "goes_left": np.unpackbits(
                bits.reshape(-1, _MOST_CATEGORIES // 8), axis=1, bitorder="little"
            ),
        }
        return cls(arrays, model.n_features_in_)

    def predict_proba(self, inputs: NDArray[Any]) -> NDArray[np.float64]:
        """[n, 2] of ``inputs`` [n, F], NaN where a value is missing."""
        of, given = self.arrays, np.array(inputs, np.float64)
        if len(categories := of["categories"]):
            place = np.searchsorted(categories, given[:, -1]).clip(max=len(categories) - 1)
            is_known = categories[place] == given[:, -1]
            given[:, -1] = np.where(is_known, place, np.nan)  # an unknown one counts as missing
        odds = np.full(len(given), of["start"][0])
        for root in of["first"]:
            at = np.full(len(given), root)
            while (walking := np.flatnonzero(of["is_leaf"][at] == 0)).size:
                node = at[walking]
                value = given[walking, of["feature"][node]]
                goes_left, by_category = value <= of["threshold"][node], of["by_category"][node]
                if (sets := np.flatnonzero(by_category >= 0)).size:
                    code = np.nan_to_num(value[sets]).astype(np.int64)
                    goes_left[sets] = of["goes_left"][by_category[sets], code]
                is_missing = np.isnan(value)
                goes_left[is_missing] = of["missing_left"][node[is_missing]]
                at[walking] = np.where(goes_left, of["left"][node], of["right"][node])
            odds += of["value"][at]
        rain = expit(odds)
        return np.stack([1 - rain, rain], axis=1)


def _problem(arrays: dict[str, NDArray[Any]], num_inputs: int) -> str | None:
    """What is wrong with the arrays of :class:`Trees`, as a clause; None where nothing is."""
    kinds = _NODE_ARRAYS | {"first": np.int32, "start": np.float64, "categories": np.float64}
    for name, kind in kinds.items():
        if name not in arrays or arrays[name].dtype != kind or arrays[name].ndim != 1:
            return f"{name} is no list of {np.dtype(kind)}"
    sets = arrays.get("goes_left", np.empty(0))
    if sets.dtype != np.uint8 or sets.ndim != 2 or sets.shape[1] != _MOST_CATEGORIES:
        return f"goes_left is no table of {_MOST_CATEGORIES} columns"
    if set(arrays) != {*kinds, "goes_left"}:
        return "there is an array that belongs to no tree"
    count, first, own = len(arrays["feature"]), arrays["first"], np.arange(len(arrays["feature"]))
    if not all(len(arrays[name]) == count > 0 for name in _NODE_ARRAYS):
        return "not every array has one number for each node"
    if not len(first) or first[0] != 0 or (np.diff(first) <= 0).any() or first[-1] >= count:
        return "first is not where each tree begins"
    if len(arrays["start"]) != 1 or not len(arrays["categories"]) <= _MOST_CATEGORIES:
        return "start is not one number, or there are too many categories"
    if not all(np.isfinite(arrays[name]).all() for name in ("value", "start", "categories")):
        return "value, start or categories holds what is not finite"
    if np.isnan(arrays["threshold"]).any() or (np.diff(arrays["categories"]) <= 0).any():
        return "a threshold is no number, or the categories do not ascend"
    inner = arrays["is_leaf"] == 0
    end = np.append(first[1:], count)[np.searchsorted(first, own, side="right") - 1]
    for side in ("left", "right"):  # a child stands behind its node: every walk ends
        child = arrays[side][inner]
        if (child <= own[inner]).any() or (child >= end[inner]).any():
            return f"{side} leads out of its tree, or back"
    column, by_category = arrays["feature"][inner], arrays["by_category"]
    if (column < 0).any() or (column >= num_inputs).any():
        return f"feature names none of {num_inputs} inputs"
    if (by_category >= len(sets)).any():
        return "by_category names no row of goes_left"
    of_category = arrays["feature"][inner & (by_category >= 0)]
    if of_category.size and (
        (of_category != num_inputs - 1).any() or not len(arrays["categories"])
    ):
        return "a number is split as a category"
    return None


def save_arrays(arrays: dict[str, NDArray[Any]], path: Path) -> None:
    """Write arrays as a safetensors file."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file of a model folder; raises InputError where it is none, or leads out
    of its folder."""
    check_model_files(path.parent, (path.name,))
    try:
        check_memory(3 * path.stat().st_size, f"the trees in {path}")
        found: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{plain(path)} can't be read: {plain(error, 200)}.") from error
    return found
