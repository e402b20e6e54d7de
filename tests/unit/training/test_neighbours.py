"""A run whose regions see their nearest neighbours: trained, scored, resumed and used again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from timerxl.config import InputError
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.evaluation.references import fit_lagged
from timerxl.forecaster import Forecaster
from timerxl.training.final_evaluation import EvaluationRequest, evaluate_saved

NEAR = (
    "data.regions_together=2 model.region_mixing=attention data.labels=every_patch "
    "loss.next_patch_weight=0.5 train.batch_size=8 train.max_steps=12 "
    "train.checkpoint_every_steps=6 train.keep_last=9"
).split()


@pytest.fixture(scope="module")
def near(train_tiny, tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("near") / "run", *NEAR)


def saved_neighbours(run) -> dict[str, list[str]]:
    content = json.loads((run.folder / "model" / "preprocessing.json").read_text())
    return content["region_neighbours"]


def test_its_model_knows_the_neighbours_and_forecasts_what_was_scored(near):
    names, config = saved_neighbours(near), near.config
    model_config = json.loads((near.folder / "model" / "config.json").read_text())
    regions = list(names)
    assert model_config["region_neighbours"] == [
        [regions.index(one) for one in of] for of in names.values()
    ]
    assert config.data.regions_together == 2
    forecaster = Forecaster.from_pretrained(near.folder / "model", device="cpu")
    scored = pd.read_parquet(near.folder / "forecasts.parquet")
    both = forecaster.predict(None).merge(scored, on=["region", "issue_time"], validate="1:1")
    assert len(both) == len(scored)
    np.testing.assert_allclose(both["probability_raw"], both["model"], rtol=0, atol=1e-5)
    AcceleratorState._reset_state(reset_partial_state=True)
    request = EvaluationRequest(near.folder / "model")
    request.config.fitted_baselines, request.config.num_resamples = False, 0
    (event,) = evaluate_saved(request, Accelerator(cpu=True), lambda sentence: None)["events"]
    assert event["scores"]["model"] == pytest.approx(near.returned["test"], abs=1e-5)


@pytest.mark.slow
def test_it_goes_on_to_the_same_weights(near, train_tiny, tmp_path):
    at_6 = near.folder / "checkpoints" / "step_00000006"
    again = train_tiny(tmp_path / "again", *NEAR, f"train.resume={at_6}")
    found, expected = (
        load_file(one.folder / "checkpoints" / "step_00000012" / "model.safetensors")
        for one in (again, near)
    )
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("together", ["all", "2"])
def test_a_label_at_the_end_of_each_window_alone_trains_too(together, train_tiny, tmp_path):
    settings = (f"data.regions_together={together}", "data.labels=last", "train.batch_size=8")
    run = train_tiny(tmp_path / "run", *settings, "train.max_steps=3")
    (start,) = run.events("start")
    assert start["steps_per_epoch"] == -(-715 // 5 // 8)  # 715 labels of five regions
    assert all(np.isfinite(event["loss"]) for event in run.events("train"))
    assert len(run.events("train")) == 3
    assert 0 < run.returned["test"]["brier"] < 1


def test_rivals_see_the_same_neighbours(near):
    config = near.config
    windows = build_windows(load_series(config.data), config.data, 16)
    fitted = fit_lagged(windows, 0, lambda sentence: None)["gradient_boosting"]
    series, names = windows.series, saved_neighbours(near)
    row = int(windows.issue_rows("train")[100])
    own = series.regions[series.region_index[row]]
    values = dict(zip(fitted.feature_names, fitted.features_at(np.array([row]))[0], strict=True))
    for place, name in enumerate(names[own], start=1):
        (beside,) = np.flatnonzero(
            (series.timestamps == series.timestamps[row])
            & (series.region_index == series.regions.index(name))
        )
        for column in (0, 5):
            expected = series.values[beside, column]
            assert values[f"value[{column}] of neighbour {place}"] == pytest.approx(expected)
    assert "value[0] of neighbour 3" not in values


def test_weights_of_other_neighbours_are_refused(near, tmp_path):
    import shutil

    model = Path(shutil.copytree(near.folder / "model", tmp_path / "model"))
    content = json.loads((model / "preprocessing.json").read_text())
    first, *rest = content["regions"]
    content["region_neighbours"][first] = [rest[-1], rest[0]][: len(rest)]
    if content["region_neighbours"][first] == saved_neighbours(near)[first]:
        content["region_neighbours"][first].reverse()
    (model / "preprocessing.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="whose regions see the same neighbours"):
        Forecaster.from_pretrained(model, device="cpu")
