"""A model folder that anybody may have written: bounded, refused in one sentence, nothing read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from timerxl import Forecaster
from timerxl.config import InputError
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing, content_problem
from timerxl.training.final_evaluation import EvaluationRequest, evaluate_saved

NAN, INF = float("nan"), float("inf")
SPARSE = 20 * 2**30
# What a stranger may write -> a part of the sentence that refuses it.
CONTENTS: list[tuple[str, Any, str]] = [
    ("data.synthetic.seed", -1, "data.synthetic.seed is -1; expected a whole number from 0"),
    ("data.synthetic.seed", 2**70, "data.synthetic.seed is 1180591620717411303424"),
    ("data.synthetic.step_hours", 0, "step_hours is 0; expected a whole number from 1 to 24"),
    ("label.horizon_hours", 1e15, "label.horizon_hours is 1000000000000000.0"),
    ("label.horizon_hours", NAN, "label.horizon_hours is nan"),
    ("label.horizon_hours", -24.0, "label.horizon_hours is -24.0"),
    ("label.horizon_hours", 25.0, "expected a multiple of the series' step of 12 hours"),
    ("label.horizon_hours", 48.0, "label.horizon_hours is not data.label_horizon_hours"),
    ("label.text", "x" * 10**6, "expected a text of 1 to 5,000 characters"),
    ("label.threshold_mm", -5.0, "label.threshold_mm is -5.0"),
    ("context_length", 10**12, "context_length is 1000000000000; expected a whole number from 1"),
    ("context_length", 0, "context_length is 0"),
    ("step_hours", 0, "step_hours is 0; expected a number"),
    ("step_hours", NAN, "step_hours is nan"),
    ("step_hours", 1e300, "step_hours is 1e+300"),
    ("scaling.mean", [NAN] * 27, "scaling.mean[0] is nan"),
    ("scaling.mean", [1e300] * 27, "scaling.mean[0] is 1e+300"),
    ("scaling.mean", [1.0], "scaling has not one mean and one deviation for each of 27"),
    ("scaling.std", [-1.0] * 27, "scaling.std[0] is -1.0"),
    ("scaling.std", [0.0] * 27, "scaling.std[0] is 0.0"),
    ("scaling.std", [1e-300] * 27, "scaling.std[0] is 1e-300"),
    ("scaling.log1p", ["tp", "tp"], "scaling.log1p holds a name twice"),
    ("scaling.log1p", ["mars"], "scaling.log1p names 'mars', which is no feature"),
    ("regions", [], "regions holds 0 names; expected 1 to 200,000"),
    ("regions", [str(i) for i in range(200_001)], "regions holds 200,001 names"),
    ("regions", ["a", "a"], "holds a name twice"),
    ("regions", ["x" * 10**6], "regions[0] is a text of 1,000,000 characters"),
    ("feature_names", ["tp"] * 27, "holds a name twice"),
    ("feature_names", [], "feature_names holds 0 names"),
    ("static_feature_names", ["a"] * 99, "static_feature_names holds 99 names for 5 regions"),
    ("split.validation_from", "2025-12-01", "split.validation_from is not before split.test_from"),
    ("split.validation_from", "99999-01-01", "split.validation_from is no ISO time"),
    ("split.validation_from", "now", "split.validation_from is no ISO time"),
    ("split.embargo_hours", -1.0, "split.embargo_hours is -1.0"),
    ("decision_threshold", NAN, "decision_threshold is nan; expected a number from 0 to 1"),
    ("decision_threshold", 2.0, "decision_threshold is 2.0"),
    ("calibration", {"slope": 1e308, "intercept": 0.0}, "calibration is a mapping of 2"),
    ("calibration", {"slope": NAN, "intercept": 0.0}, "calibration is a mapping of 2"),
    ("data.oni_lag_months", 10**18, "data.oni_lag_months is 1000000000000000000"),
    ("data.max_fill_hours", INF, "data.max_fill_hours is inf"),
    ("data.window_stride_hours", -3.0, "data.window_stride_hours is -3.0"),
    ("training_ranges.step_offsets_hours", [NAN], "step_offsets_hours[0] is nan"),
    ("training_ranges.by_region", {"mars": {}}, "by_region.mars has no min"),
]
CONFIGS: list[tuple[str, Any, str]] = [
    ("hidden_size", 10**9, "hidden_size 1000000000, expected 1 to 16,777,216"),
    ("hidden_size", 2**20, "hidden_size 1,048,576, model.safetensors holds 16"),
    ("num_hidden_layers", 10**9, "num_hidden_layers 1000000000, expected 1 to 999"),
    ("num_hidden_layers", 900, "num_hidden_layers 900, model.safetensors holds 2"),
    ("patch_length", 10**12, "patch_length 1000000000000, expected 1 to 16,777,216"),
    ("patch_length", 16, "patch_length 16, model.safetensors holds 8"),
    ("intermediate_size", 2**24, "intermediate_size 16,777,216, model.safetensors holds 32"),
    ("classifier_hidden_size", 2**24, "classifier_dense.weight has shape"),
    ("classifier_hidden_size", None, "classifier_hidden_size None, expected 1 to 16,777,216"),
    ("num_variables", 2**24, "variable_embedding.weight has shape [27, 16]"),
    ("num_static_real_features", 2**24, "classifier_dense.weight has shape"),
    ("layer_norm_eps", NAN, "layer_norm_eps nan, expected a number above 0 and below 1"),
    ("hidden_dropout", 2.0, "hidden_dropout 2.0, expected a number above 0 and below 1"),
    ("rope_theta", -1, "rope_theta -1, expected a number above 0"),
    ("id2label", {str(i): "x" for i in range(40_000)}, "classifier_out.weight has shape"),
    ("model_type", "bert", "has model_type 'bert'"),
]


@pytest.fixture
def folder(finished: Any, tmp_path: Path) -> Path:
    """A copy of a good model folder, to be spoiled."""
    return Path(shutil.copytree(finished.folder / "model", tmp_path / "model"))


def put(file: Path, key: str, value: Any) -> None:
    """Set one dotted key of a JSON file."""
    content = json.loads(file.read_text())
    *way, last = key.split(".")
    at = content
    for part in way:
        at = at[part]
    at[last] = value
    file.write_text(json.dumps(content))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        call()
    return str(refused.value)


@pytest.mark.parametrize(("key", "value", "said"), CONTENTS)
def test_preprocessing_beyond_all_bounds_is_refused(
    finished: Any, key: str, value: Any, said: str
) -> None:
    content = json.loads((finished.folder / "model" / PREPROCESSING).read_text())
    assert content_problem(content) is None
    *way, last = key.split(".")
    at = content
    for part in way:
        at = at[part]
    at[last] = value
    assert said in (content_problem(content) or "")


@pytest.mark.parametrize(("key", "value", "said"), CONFIGS)
def test_a_configuration_that_is_not_of_the_weights_is_refused(
    folder: Path, key: str, value: Any, said: str
) -> None:
    put(folder / "config.json", key, value)
    assert said in refusal(lambda: Forecaster.from_pretrained(folder, device="cpu"))


def test_a_configuration_with_values_of_other_types_is_read_or_refused(folder: Path) -> None:
    """Never a TypeError: every key of config.json, with each of these."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for key in content:
        for value in (None, [], {}, "x", True, 1.5, -1):
            path.write_text(json.dumps(content | {key: value}))
            with contextlib.suppress(InputError):
                Forecaster.from_pretrained(folder, device="cpu")


def test_no_more_memory_is_taken_than_the_header_declares(folder: Path) -> None:
    put(folder / "config.json", "hidden_size", 2**20)
    allocated: list[int] = []
    empty = torch.empty

    def noted(*sizes: Any, **options: Any) -> Any:
        found = empty(*sizes, **options)
        allocated.append(0 if found.is_meta else found.nbytes)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", noted)
        refusal(lambda: Forecaster.from_pretrained(folder, device="cpu"))
    assert sum(allocated) < 2**20


@pytest.mark.parametrize("name", [PREPROCESSING, "config.json", "model.safetensors"])
def test_a_file_of_20_gb_is_refused_before_it_is_read(folder: Path, name: str) -> None:
    os.truncate(folder / name, SPARSE)
    said = refusal(lambda: Forecaster.from_pretrained(folder, device="cpu"))
    assert any(word in said for word in ("bytes", "GB of memory", "damaged"))


def test_a_context_whose_attention_no_memory_holds_is_refused(folder: Path) -> None:
    put(folder / PREPROCESSING, "context_length", 2**24)
    said = refusal(lambda: Forecaster.from_pretrained(folder, device="cpu"))
    assert "attention among the 56,623,104 tokens of one window takes" in said


def test_a_span_of_all_years_is_refused(folder: Path) -> None:
    put(folder / PREPROCESSING, "data.synthetic.start", "0001-01-01")
    put(folder / PREPROCESSING, "data.synthetic.end", "9999-12-31")
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    assert "expected at most 500,000" in refusal(lambda: forecaster.predict(None, at="latest"))


def test_a_path_in_a_models_own_data_is_never_read(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    put(folder / PREPROCESSING, "data.oni_path", str(secret))
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    said = refusal(lambda: forecaster.predict(None, at="latest"))
    assert said == (
        "the model reads the feature oni_lagged: give NOAA's oni.ascii.txt with --oni FILE (in "
        "Python: oni=FILE)."
    )
    put(folder / PREPROCESSING, "data.oni_path", None)
    put(folder / PREPROCESSING, "data.path", str(secret))
    put(folder / PREPROCESSING, "is_synthetic", False)
    said = refusal(lambda: evaluate_saved(EvaluationRequest(model=folder), None, print))  # type: ignore[arg-type]
    assert said.startswith("--data is needed: the model was trained on ")
    assert "hunter2" not in said


def test_the_index_is_read_from_the_file_that_the_caller_gives(
    folder: Path, finished: Any, series_frame: pd.DataFrame, tmp_path: Path
) -> None:
    """A model with that feature: the file at its own path is not there, the caller's is read."""
    names = json.loads((folder / PREPROCESSING).read_text())["feature_names"]
    put(folder / PREPROCESSING, "feature_names", [*names[:-1], "oni_lagged"])
    put(folder / PREPROCESSING, "data.oni_path", "nowhere/oni.ascii.txt")
    seasons = "DJF JFM FMA MAM AMJ MJJ JJA JAS ASO SON OND NDJ".split()
    rows = [f"{season} {year} 25.0 0.5" for year in (2023, 2024, 2025) for season in seasons]
    file = tmp_path / "given.txt"
    file.write_text("\n".join(["SEAS YR TOTAL ANOM", *rows]))
    table = series_frame.drop(columns=names[-1])
    found = Forecaster.from_pretrained(folder, device="cpu").predict(table, at="latest", oni=file)
    plain = Forecaster.from_pretrained(finished.folder / "model", device="cpu")
    constant = series_frame.assign(**{names[-1]: np.float32(0.5)})
    expected = plain.predict(constant, at="latest")
    both = found.merge(expected, on="region", suffixes=("", "_expected"))
    assert len(both) == 5
    wanted = both["probability"].to_numpy()
    assert wanted == pytest.approx(both["probability_expected"].to_numpy(), abs=1e-6)


def test_weights_that_give_no_number_give_no_forecast(folder: Path) -> None:
    put(folder / PREPROCESSING, "scaling.std", [1e-17] * 27)
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    said = refusal(lambda: forecaster.predict(None, at="latest"))
    assert said.startswith("the model gives no probability for 5 of 5 windows")


def test_the_steepest_calibration_stays_within_0_and_1(folder: Path) -> None:
    put(folder / PREPROCESSING, "calibration", {"slope": 1e12, "intercept": -1e12})
    found = Forecaster.from_pretrained(folder, device="cpu").predict(None, at="latest")
    assert found["probability"].between(0, 1).all()


def test_a_folder_of_an_older_version_is_read_with_unchanged_forecasts(
    folder: Path, finished: Any
) -> None:
    """It knows neither ranges nor strides, nor where its weights are described."""
    expected = Forecaster.from_pretrained(finished.folder / "model", device="cpu")
    content = json.loads((folder / PREPROCESSING).read_text())
    for key in ("training_ranges", "weights", "source", "context_days", "scores", "loss"):
        content.pop(key, None)
    for key in ("train_stride_hours", "window_stride_hours", "directions", "missing_values"):
        content["data"].pop(key, None)
        content["split"].pop(key, None)
    (folder / PREPROCESSING).write_text(json.dumps(content))
    assert Preprocessing.load(folder).context_length == 16
    found = Forecaster.from_pretrained(folder, device="cpu").predict(None, at="latest")
    wanted = expected.predict(None, at="latest")
    pd.testing.assert_frame_equal(found, wanted)
