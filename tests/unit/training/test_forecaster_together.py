"""A model of regions in one window, all or neighbours: run, forecaster, extractor, ONNX agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from accelerate import Accelerator

from timerxl import Forecaster, TimerXLConfig, TimerXLFeatureExtractor, TimerXLForClassification
from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.synthetic import load_synthetic
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.onnx_export import write_onnx
from timerxl.training.checkpoint.model_folder import save_model
from timerxl.training.evaluator import forecast

CONTEXT, REGIONS = 16, 5
LAST = "2024-08-20T18"


@pytest.fixture(
    scope="module", params=[("all", "attention"), (2, "attention"), ("all", "classifier")]
)
def layout(request: pytest.FixtureRequest) -> tuple[str | int, str]:
    """data.regions_together and model.region_mixing."""
    return request.param


@pytest.fixture(scope="module")
def windows(layout: tuple[str | int, str]) -> WeatherWindows:
    data = DataConfig(
        static_features=True,
        regions_together=layout[0],
        synthetic=SyntheticConfig(start="2024-03-01", end="2024-09-01"),
    )
    return build_windows(load_synthetic(data), data, CONTEXT)


@pytest.fixture(scope="module")
def folder(
    layout: tuple[str | int, str],
    windows: WeatherWindows,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model folder as a run saves it, its weights drawn at random."""
    folder = tmp_path_factory.mktemp("together") / "model"
    torch.manual_seed(0)
    config = TimerXLConfig(
        patch_length=8,
        context_length=CONTEXT,
        num_variables=27,
        num_regions=REGIONS,
        region_neighbours=None if windows.neighbours is None else windows.neighbours.tolist(),
        region_mixing=layout[1],
        num_static_real_features=len(windows.static_feature_names),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pooling="last",
        variable_embedding=True,
    )
    model = TimerXLForClassification(config)
    with torch.no_grad():
        model.timer_xl.region_embedding.weight.normal_()
        if model.region_mixing is not None:
            model.region_mixing.weight.normal_()
    save_model(Accelerator(cpu=True), model, folder, windows.preprocessing())
    return folder


@pytest.fixture(scope="module")
def table(windows: WeatherWindows) -> pd.DataFrame:
    """All rows in physical units."""
    series = windows.series
    frame = pd.DataFrame(series.values, columns=series.feature_names)
    frame["region"] = np.array(series.regions)[series.region_index]
    frame["timestamp"] = series.timestamps
    return frame


def test_the_forecaster_gives_the_numbers_of_the_evaluation(
    windows: WeatherWindows, folder: Path, table: pd.DataFrame, accelerator: Accelerator
) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    positions = np.array([70, 3, 4, 5, 120, 33])
    found = forecast(accelerator, forecaster.model, windows, "validation", positions, 2)
    rows = windows.issue_rows("validation")[positions]
    np.testing.assert_array_equal(found.label, windows.labels_of("validation")[positions])
    one_by_one = forecaster.predict(table).set_index(["region", "issue_time"])["probability_raw"]
    series = windows.series
    for row, probability in zip(rows, found.probability, strict=True):
        key = (series.regions[series.region_index[row]], series.timestamps[row])
        assert one_by_one[key] == pytest.approx(probability, abs=1e-6)


def test_without_a_region_the_others_are_forecast_as_if_it_were_not_there(
    folder: Path, table: pd.DataFrame
) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    whole = forecaster.predict(table, at=LAST).set_index("region")["probability_raw"]
    left = table[table["region"] != "selva"]
    fewer = forecaster.predict(left, at=LAST)
    assert "the table has no selva" in " ".join(fewer.attrs["notes"])
    probabilities = fewer.set_index("region")["probability_raw"]
    assert sorted(probabilities.index) == sorted(set(whole.index) - {"selva"})
    moved = (probabilities - whole.drop("selva")).abs()
    assert moved.max() > 1e-5
    near = forecaster.saved.content.get("region_neighbours")
    if near is not None:  # those who do not see it forecast what they did
        blind = [name for name in moved.index if "selva" not in near[name]]
        assert 0 < len(blind) < len(moved)
        assert moved[blind].max() < 1e-6


def test_a_region_that_training_did_not_have_is_refused(folder: Path, table: pd.DataFrame) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    with pytest.raises(InputError, match="not lima"):
        forecaster.predict(table.replace({"region": {"selva": "lima"}}))


def test_the_feature_extractor_goes_from_a_table_to_the_same_probabilities(
    folder: Path, table: pd.DataFrame
) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    extractor = TimerXLFeatureExtractor.from_pretrained(folder)
    for part in (table, table[table["region"] != "sierra_sur"]):
        inputs = extractor(part, issue_time=LAST, return_tensors="pt")
        with torch.no_grad():
            probability = extractor.post_process(forecaster.model(**inputs))[0]
        expected = forecaster.predict(part, at=LAST).set_index("region")["probability"]
        for region, value in zip(extractor.regions, probability.tolist(), strict=True):
            if region in expected.index:
                assert value == pytest.approx(expected[region], abs=1e-6)


def test_regions_that_end_at_different_times_need_a_time(folder: Path, table: pd.DataFrame) -> None:
    extractor = TimerXLFeatureExtractor.from_pretrained(folder)
    early = (table["region"] == "selva") & (table["timestamp"] > np.datetime64(LAST))
    with pytest.raises(ValueError, match="do not end at one time; give issue_time="):
        extractor(table[~early])


def test_a_variable_is_left_out_in_all_regions(folder: Path, table: pd.DataFrame) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    given = forecaster.predict(table, at=LAST, by_variable=True).set_index("region")
    extractor = TimerXLFeatureExtractor.from_pretrained(folder)
    mean = dict(zip(extractor.feature_names, extractor.mean, strict=True))
    without = forecaster.predict(table.assign(t2m=mean["t2m"]), at=LAST).set_index("region")

    def odds(frame: pd.DataFrame) -> pd.Series:
        return np.log(frame["probability_raw"] / (1 - frame["probability_raw"]))

    difference = odds(given) - odds(without)
    np.testing.assert_allclose(given["by_t2m"], difference[given.index], atol=1e-4)


@pytest.mark.slow
def test_the_onnx_file_computes_all_regions(folder: Path, tmp_path: Path) -> None:
    model = Forecaster.from_pretrained(folder, device="cpu").model
    path = tmp_path / "together.onnx"
    worst = write_onnx(model, path, context_length=CONTEXT, num_variables=27)
    assert worst < 1e-4
    session = onnxruntime.InferenceSession(str(path))
    shapes = {one.name: one.shape[1:] for one in session.get_inputs()}
    assert shapes == {
        "past_values": [CONTEXT, 27 * REGIONS],
        "static_real_features": [REGIONS, 9],
        "past_observed_mask": [CONTEXT, REGIONS],
    }
    assert session.get_outputs()[0].shape[1:] == [REGIONS, 2]
