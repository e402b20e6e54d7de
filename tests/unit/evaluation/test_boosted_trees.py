"""Boosted trees as plain arrays answer as scikit-learn's do, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from timerxl.config import InputError
from timerxl.evaluation.boosted_trees import Trees, load_arrays, save_arrays

Arrays = dict[str, np.ndarray]


def inputs(rows: int, seed: int) -> np.ndarray:
    """Four numbers, one value in ten missing, and a region of 40."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(rows, 5)).astype(np.float32)
    found[rng.random(found.shape) < 0.1] = np.nan
    found[:, 4] = rng.integers(40, size=rows)
    return found


@pytest.fixture(scope="module", params=[[4], None])
def classifier(request: pytest.FixtureRequest) -> HistGradientBoostingClassifier:
    given = inputs(4000, seed=0)
    odds = np.nan_to_num(given[:, 0]) + np.sin(given[:, 4] * 7) + np.isnan(given[:, 1])
    rain = odds + np.random.default_rng(1).normal(size=len(odds)) > 0
    model = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=15, categorical_features=request.param, random_state=0
    )
    return model.fit(given, rain)


def test_the_probability_is_scikit_learn_s_to_the_last_bit(
    classifier: HistGradientBoostingClassifier, tmp_path: Path
) -> None:
    given = inputs(3000, seed=2)
    given[:50, 4] = [np.nan, -1, 40, 255, 300] * 10  # regions that training did not have
    given[50:60, :4] = [[np.inf], [-np.inf]] * 5
    trees = Trees.of(classifier)
    expected = classifier.predict_proba(given)
    np.testing.assert_array_equal(trees.predict_proba(given)[:, 1], expected[:, 1])
    save_arrays(trees.arrays, tmp_path / "trees.safetensors")
    again = Trees(load_arrays(tmp_path / "trees.safetensors"), 5)
    np.testing.assert_array_equal(again.predict_proba(given)[:, 1], expected[:, 1])
    assert len(np.unique(expected[:, 1])) > 1000
    is_split_by_region = (trees.arrays["by_category"] >= 0).any()
    assert is_split_by_region == (classifier.categorical_features is not None)


def put(name: str, value: float, where: Callable[[Arrays], Any]) -> Callable[[Arrays], object]:
    return lambda arrays: arrays[name].__setitem__(where(arrays), value)


def inner(arrays: Arrays) -> int:
    return int(np.flatnonzero(arrays["is_leaf"] == 0)[3])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (put("left", 0, inner), "left leads out of its tree, or back"),
        (put("right", 10**6, inner), "right leads out of its tree"),
        (lambda a: put("right", int(a["first"][1]), lambda b: 0)(a), "right leads out of its tree"),
        (put("feature", 5, inner), "feature names none of 5 inputs"),
        (put("feature", -1, inner), "feature names none of 5 inputs"),
        (put("value", np.nan, lambda a: 0), "not finite"),
        (put("start", np.inf, lambda a: 0), "not finite"),
        (put("threshold", np.nan, lambda a: 0), "a threshold is no number"),
        (put("first", 5, lambda a: 0), "first is not where each tree begins"),
        (put("first", 10**6, lambda a: -1), "first is not where each tree begins"),
        (put("by_category", 10**6, inner), "by_category names no row"),
        (lambda a: a.update(value=a["value"][:-1]), "one number for each node"),
        (lambda a: a.update(value=a["value"].astype(np.float32)), "value is no list of float64"),
        (lambda a: a.update(left=a["left"][:, None]), "left is no list of int32"),
        (lambda a: a.update(goes_left=a["goes_left"][:, :9]), "goes_left is no table"),
        (lambda a: a.update(more=a["left"]), "belongs to no tree"),
        (lambda a: a.pop("is_leaf"), "is_leaf is no list"),
        (lambda a: a.update(first=a["first"][:0]), "first is not where"),
        (lambda a: a.update(categories=np.zeros(2)), "categories do not ascend"),
        (lambda a: a.update(categories=np.arange(257.0)), "too many categories"),
    ],
)
def test_arrays_that_are_no_trees_are_refused(
    spoil: Callable[[Arrays], object],
    named: str,
    classifier: HistGradientBoostingClassifier,
) -> None:
    arrays = {name: array.copy() for name, array in Trees.of(classifier).arrays.items()}
    spoil(arrays)
    with pytest.raises(ValueError, match=named):
        Trees(arrays, 5)


@pytest.mark.parametrize("content", [b"", b"pickle", b"\x08\x00\x00\x00\x00\x00\x00\x00{}}}}}}}"])
def test_a_file_that_is_no_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "trees.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="can't be read"):
        load_arrays(tmp_path / "trees.safetensors")


def test_a_link_out_of_the_folder_is_refused(
    classifier: HistGradientBoostingClassifier, tmp_path: Path
) -> None:
    save_arrays(Trees.of(classifier).arrays, tmp_path / "elsewhere.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "trees.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match="leads out of its folder"):
        load_arrays(tmp_path / "model" / "trees.safetensors")
