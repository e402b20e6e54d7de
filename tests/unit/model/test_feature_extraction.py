"""The feature extractor gives the Forecaster's tensors and probabilities, without timerxl too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from accelerate import Accelerator
from transformers import AutoFeatureExtractor

from timerxl import Forecaster, TimerXLConfig, TimerXLFeatureExtractor, TimerXLForClassification
from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.forecast_input import read_forecast_input
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.synthetic import load_synthetic
from timerxl.data.windows import build_windows
from timerxl.model.feature_extraction_timerxl import PREPROCESSOR_CONFIG
from timerxl.training.checkpoint.model_folder import save_model

CONTEXT = 16
CALIBRATION = {"slope": 0.8, "intercept": -0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a run saves it; its model knows season, hour and region."""
    folder = tmp_path_factory.mktemp("extractor") / "model"
    data = DataConfig(
        path=None,
        log1p_precipitation=True,
        static_features=True,
        synthetic=SyntheticConfig(start="2024-03-01", end="2024-09-01"),
    )
    windows = build_windows(load_synthetic(data), data, CONTEXT)
    torch.manual_seed(0)
    config = TimerXLConfig(
        patch_length=8,
        context_length=CONTEXT,
        num_variables=27,
        num_static_real_features=len(windows.static_feature_names),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=2,
    )
    extras = windows.preprocessing() | {"calibration": CALIBRATION, "decision_threshold": 0.4}
    save_model(Accelerator(cpu=True), TimerXLForClassification(config), folder, extras)
    return folder


@pytest.fixture(scope="module")
def extractor(folder: Path) -> TimerXLFeatureExtractor:
    found: TimerXLFeatureExtractor = TimerXLFeatureExtractor.from_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    """The last 40 steps of each region in physical units, its columns and rows in no order."""
    saved = Preprocessing.load(folder)
    series = load_synthetic(saved.data_config(None))
    frame = pd.DataFrame(series.values, columns=series.feature_names)
    frame.insert(3, "region", np.array(series.regions)[series.region_index])
    frame["timestamp"] = series.timestamps
    frame = frame.groupby("region").tail(40)
    return frame[frame.columns[::-1]].sample(frac=1, random_state=0)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["region", "timestamp"])


def test_tensors_and_probabilities_are_the_forecasters(
    folder: Path, extractor: TimerXLFeatureExtractor, table: pd.DataFrame
) -> None:
    forecaster = Forecaster.from_pretrained(folder, device="cpu")
    ordered = in_order(table)
    given = read_forecast_input(ordered, forecaster.saved)
    ours = given.transform.windows(torch.from_numpy(given.latest_rows()))
    forecasts = forecaster.predict(ordered, at="latest")
    regions = list(forecasts["region"])
    assert len(regions) > 2
    inputs = extractor(table, region=regions, return_tensors="pt")
    assert set(inputs) == {"past_values", "static_real_features"}
    for key, tensor in inputs.items():
        assert torch.equal(tensor, ours[key]), key
    with torch.no_grad():
        probability = extractor.post_process(forecaster.model(**inputs))
    np.testing.assert_allclose(probability, forecasts["probability"], rtol=0, atol=1e-12)
    assert not np.allclose(probability, forecasts["probability_raw"], atol=1e-3)


def test_all_forms_of_a_table_give_the_same(
    extractor: TimerXLFeatureExtractor, table: pd.DataFrame
) -> None:
    time = table["timestamp"].max()
    ordered = table.sort_values("timestamp")
    one = ordered[ordered["region"] == "selva"].tail(CONTEXT)
    expected = extractor(table, region="selva")
    array = one[extractor.feature_names].to_numpy()
    text = one.assign(timestamp=one["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    zone = one.assign(timestamp=one["timestamp"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))
    later = pd.concat(
        [table, table.assign(timestamp=table["timestamp"] + (time - pd.Timestamp(0)))]
    )
    forms: dict[str, Any] = {
        "one region": extractor(one),
        "columns": extractor({name: list(column) for name, column in one.items()}),
        "indexed": extractor(one.set_index(["region", "timestamp"])),
        "text": extractor(text),
        "zone": extractor(zone),
        "up to a time": extractor(later, region="selva", issue_time=time),
        "array": extractor(array, region="selva", issue_time=time),
        "batch": extractor(array[None], region=["selva"], issue_time=[str(time)]),
    }
    for name, found in forms.items():
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values, err_msg=f"{name} {key}")
    everyone = extractor(table)
    order = list(dict.fromkeys(table["region"]))
    np.testing.assert_array_equal(
        everyone["past_values"][order.index("selva")], expected["past_values"][0]
    )
    assert everyone["past_values"].shape == (len(order), CONTEXT, 27)


def test_scaling_by_hand() -> None:
    extractor = TimerXLFeatureExtractor(
        ["rain", "heat"], [1.0, 300.0], [2.0, 10.0], ["rain"], context_length=2
    )
    found = extractor([[0.0, 310.0], [np.e - 1, 295.0]], return_tensors="pt")
    expected = torch.tensor([[[-0.5, 1.0], [0.0, -0.5]]])
    torch.testing.assert_close(found["past_values"], expected)
    assert set(found) == {"past_values"}  # no static features: neither time nor region is needed
    logits = torch.tensor([[0.0, 0.0], [0.0, 40.0], [200.0, 0.0]])
    torch.testing.assert_close(
        extractor.post_process(logits), torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    )


def without(name: str) -> Any:
    return lambda one: one.drop(columns=name)


def spoil(name: str, row: int, value: Any) -> Any:
    def change(one: pd.DataFrame) -> pd.DataFrame:
        one = one.astype({name: object}) if isinstance(value, str) else one.copy()
        one.iloc[row, one.columns.get_loc(name)] = value
        return one

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without("t2m"), {}, r"lacks 1 of 27 columns: t2m; it has: "),
        (without("timestamp"), {}, "give the columns timestamp and region"),
        (lambda one: one.assign(region="nowhere"), {}, "knows the regions .*, not 'nowhere'"),
        (lambda one: one, {"region": "nowhere"}, "no row of region 'nowhere'; it has: selva"),
        (lambda one: one.tail(9), {}, r"region selva has shape \[9, 27\]; expected \[16, 27\]"),
        (lambda one: one.drop(one.index[-3]), {}, "selva: .* follows .* none missing or repeated"),
        (lambda one: one.iloc[[*range(39), 38]], {}, "none missing or repeated"),
        (lambda one: one, {"issue_time": "2031-01-01"}, "no row at 2031-01-01; the last one"),
        (lambda one: one, {"issue_time": "yesterday"}, "not of ISO form"),
        (spoil("t2m", -2, np.nan), {}, "selva: 1 values are NaN .* column t2m at step 14"),
        (spoil("t2m", -1, np.inf), {}, "column t2m at step 15"),
        (spoil("t2m", -1, 1e300), {}, "column t2m at step 15"),
        (spoil("t2m", -1, "warm"), {}, "column t2m holds what is not a number"),
        (spoil("tp", -1, -2.0), {}, "column tp holds -2; expected 0 or more"),
        (lambda one: one.head(0), {}, "no window"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    extractor: TimerXLFeatureExtractor,
    table: pd.DataFrame,
    change: Any,
    options: dict[str, Any],
    message: str,
) -> None:
    one = table[table["region"] == "selva"].sort_values("timestamp")
    with pytest.raises(ValueError, match=message):
        extractor(change(one), **options)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((15, 27), {}, r"window 0 has shape \[15, 27\]; expected \[16, 27\]"),
        ((2, 16, 26), {}, r"window 0 has shape \[16, 26\]"),
        ((16,), {}, r"shape \[16\]; expected \[B, T, C\]"),
        ((0, 16, 27), {}, "no window"),
        ((2, 16, 27), {}, "give the columns timestamp and region, or issue_time= and region="),
        (
            (2, 16, 27),
            {"region": ["selva"], "issue_time": "2024-06-01"},
            "1 regions and 2 times of issue for 2 windows",
        ),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    extractor: TimerXLFeatureExtractor, shape: tuple[int, ...], options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        extractor(np.ones(shape), **options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("feature_names", ["a"] * 27),
        ("feature_names", ["a"]),
        ("feature_names", 5),
        ("mean", [float("nan")] * 27),
        ("std", [0.0] * 27),
        ("std", ["1"] * 27),
        ("log1p", ["unknown"]),
        ("context_length", 0),
        ("context_length", 2.0),
        ("step_hours", -1.0),
        ("regions", [1]),
        ("calibration", {"slope": 1.0}),
        ("calibration", {"slope": 1e300, "intercept": 0.0}),
    ],
)
def test_a_damaged_configuration_is_refused(folder: Path, key: str, value: Any) -> None:
    content = json.loads((folder / PREPROCESSOR_CONFIG).read_text())
    assert key in content
    with pytest.raises((ValueError, TypeError)):
        TimerXLFeatureExtractor(**content | {key: value})


def test_it_survives_saving_and_carries_its_code(
    folder: Path, extractor: TimerXLFeatureExtractor, tmp_path: Path
) -> None:
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is TimerXLFeatureExtractor
    assert again.to_dict() == extractor.to_dict()
    content = json.loads((folder / PREPROCESSOR_CONFIG).read_text())
    assert json.loads((tmp_path / PREPROCESSOR_CONFIG).read_text()) == content
    name = "feature_extraction_timerxl.py"
    assert content["auto_map"] == {
        "AutoFeatureExtractor": "feature_extraction_timerxl.TimerXLFeatureExtractor"
    }
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_an_older_folder_without_it_still_forecasts(
    folder: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "preprocessing.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    old, new = (Forecaster.from_pretrained(one, device="cpu") for one in (tmp_path, folder))
    pd.testing.assert_frame_equal(*(one.predict(in_order(table)) for one in (old, new)))


# Run in a process that cannot import timerxl, in another folder.
STRANGER = """
import sys
sys.modules["timerxl"] = None
import pandas as pd
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = extractor(pd.read_parquet(sys.argv[2]), return_tensors="pt")
probability = extractor.post_process(model(**inputs))
print(type(extractor).__module__, *probability.tolist())
"""


@pytest.mark.slow
def test_it_forecasts_where_timerxl_is_not_installed(
    folder: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    table.to_parquet(tmp_path / "rain.parquet")
    module, *found = processes.last_line_without_timerxl(
        STRANGER, folder, "rain.parquet", cwd=tmp_path
    ).split()
    assert module.startswith("transformers_modules.")
    forecasts = Forecaster.from_pretrained(folder, device="cpu").predict(
        in_order(table), at="latest"
    )
    expected = dict(zip(forecasts["region"], forecasts["probability"], strict=True))
    order = dict.fromkeys(table["region"])
    np.testing.assert_allclose(
        [float(one) for one in found], [expected[name] for name in order], rtol=0, atol=1e-6
    )


def test_an_ill_formed_run_has_no_extractor(folder: Path) -> None:
    content = json.loads((folder / "preprocessing.json").read_text())
    for key in ("data", "scaling", "feature_names", "step_hours"):
        for spoiled in ({k: v for k, v in content.items() if k != key}, content | {key: None}):
            with pytest.raises(ValueError, match=r"preprocessing\.json|preprocessor_config"):
                TimerXLFeatureExtractor.from_preprocessing(spoiled)
