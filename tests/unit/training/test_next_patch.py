"""Pre-training (train.task=next_patch): its scores, its weights, and what starts from them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.unit.training.conftest import Run, TinyRun
from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.forecaster import Forecaster
from timerxl.hub.record import read_record
from timerxl.model import TimerXLForClassification, TimerXLForPrediction
from timerxl.model.convert_openltm import load_backbone, load_saved
from timerxl.planner.trace import trace_step
from timerxl.planner.workload import Choice, describe_windows
from timerxl.report.page import write_report
from timerxl.training.assembly import model_config
from timerxl.training.final_evaluation import EvaluationRequest, evaluate_saved

TASK = (
    "train.task=next_patch train.metric_for_best_model=loss data.regions_together=none "
    "loss.next_patch_weight=0"
).split()
ALONE = (*TASK, "model.hidden_dropout=0", "train.keep_last=9", "train.epochs=2")
PATCH = 8


@pytest.fixture(scope="module")
def pretrained(train_tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    return train_tiny(folder, *ALONE, "train.checkpoint_every_steps=1")


def windows_of(run: Run) -> WeatherWindows:
    config = run.config
    series = load_series(config.data)
    return build_windows(series, config.data, config.model.context_length, next_patch=PATCH)


def newest(run: Run) -> dict[str, torch.Tensor]:
    folder = max((run.folder / "checkpoints").iterdir())
    return load_file(folder / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_weights_are_a_forecaster_of_the_recipes_sizes(pretrained):
    model = load_saved(pretrained.folder / "model")
    assert isinstance(model, TimerXLForPrediction)
    assert (model.config.patch_length, model.config.hidden_size) == (PATCH, 16)
    losses = [event["loss"] for event in pretrained.events("train")]
    assert losses[-1] < losses[0]


def test_skills_are_those_of_a_reference_written_apart(pretrained):
    """Loops over a table, month by month and region by region, without the module's arrays."""
    windows, results = windows_of(pretrained), pretrained.returned
    model = load_saved(pretrained.folder / "model")
    series, values = windows.series, windows.values.numpy().astype(np.float64)
    table = pd.DataFrame(values, columns=series.feature_names)
    table["region"] = np.array(series.regions)[series.region_index]
    table["month"] = pd.DatetimeIndex(series.timestamps).month
    table["hour"] = pd.DatetimeIndex(series.timestamps).hour
    seen = series.timestamps <= series.timestamps[windows.issue_rows("train")].max()
    cells = table[seen].groupby(["region", "month", "hour"])[series.feature_names].mean()
    keys = pd.MultiIndex.from_frame(table[["region", "month", "hour"]])
    usual = cells.reindex(keys).fillna(0.0).to_numpy()

    def errors(split: str) -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {}
        for row in windows.issue_rows(split):
            target = values[row + 1 : row + PATCH + 1]
            window = windows.values[row - 15 : row + 1][None]
            with torch.no_grad():
                own = model(window).prediction_outputs[0, -PATCH:].double().numpy()
            forecasts = {
                "own": own,
                "value": np.repeat(values[row : row + 1], PATCH, axis=0),
                "patch": values[row - PATCH + 1 : row + 1],
                "usual": usual[row + 1 : row + PATCH + 1],
            }
            for name, forecast in forecasts.items():
                found.setdefault(name, []).append(((forecast - target) ** 2).mean(0))
        return {name: np.mean(parts, axis=0) for name, parts in found.items()}

    chosen, test = errors("validation"), errors("test")
    takes_patch = chosen["patch"] < chosen["value"]
    persistence = np.where(takes_patch, test["patch"], test["value"])
    assert 0 < takes_patch.sum() < len(takes_patch)  # both kinds of persistence are there
    for index, name in enumerate(series.feature_names):
        told = results["variables"]["test"][name]
        assert told["mse"] == pytest.approx(test["own"][index], rel=1e-4)
        assert told["mse_persistence"] == pytest.approx(persistence[index], rel=1e-4)
        assert told["mse_climatology"] == pytest.approx(test["usual"][index], rel=1e-4, abs=1e-9)
    assert results["test"]["loss"] == pytest.approx(test["own"].mean(), rel=1e-4)
    for key, reference in (("persistence", persistence), ("climatology", test["usual"])):
        skill = 1 - test["own"].mean() / reference.mean()
        assert results["test"][f"skill_{key}"] == pytest.approx(skill, abs=1e-4)


def test_a_run_that_goes_on_from_a_checkpoint_ends_in_the_same_bits(
    pretrained, train_tiny, tmp_path
):
    steps = sorted((pretrained.folder / "checkpoints").iterdir())
    again = train_tiny(tmp_path / "again", *ALONE, f"train.resume={steps[-3]}")
    assert equal(newest(again), newest(pretrained))
    assert again.returned["test"] == pretrained.returned["test"]


@pytest.mark.slow
def test_one_trajectory_for_a_batch_of_8_and_twice_4(train_tiny, tmp_path):
    layouts = ("train.batch_size=8", "train.batch_size=4 train.accumulation_steps=2")
    runs = [
        train_tiny(tmp_path / str(index), *ALONE, "train.max_steps=12", *layout.split())
        for index, layout in enumerate(layouts)
    ]
    first, second = map(newest, runs)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-4, atol=1e-5)
    losses = [[event["loss"] for event in run.events("train")] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_values_after_the_training_period_change_no_weight(pretrained, train_tiny, tmp_path):
    windows = windows_of(pretrained)
    series = windows.series
    frame = pd.DataFrame(series.values, columns=series.feature_names)
    frame["region"] = np.array(series.regions)[series.region_index]
    frame["timestamp"] = series.timestamps
    frame["precipitation"] = series.precipitation_mm
    later = frame["timestamp"] > pd.Timestamp(windows.definition["split"]["validation_from"])
    weights = []
    for name, factor in (("as_is", 1.0), ("changed", 1.2)):
        one = frame.copy()
        one.loc[later, "t2m"] = one.loc[later, "t2m"] * factor + (factor - 1)
        one.to_parquet(tmp_path / f"{name}.parquet", index=False)
        features = ",".join(["t2m", "sp", "u10"])
        data = (f"data.path={tmp_path / name}.parquet", f"data.features=[{features}]")
        run = train_tiny(tmp_path / name, *ALONE, "train.max_steps=6", *data)
        weights.append(newest(run))
        assert run.returned["validation"]["loss"] > 0
    assert later.any()
    assert equal(*weights)


@pytest.mark.slow
def test_a_classifier_takes_over_all_but_its_own_head(pretrained, train_tiny, tmp_path, capsys):
    model = pretrained.folder / "model"
    alone = ("data.regions_together=none", "loss.next_patch_weight=0", "train.max_steps=1")
    train_tiny(tmp_path / "rain", f"model.pretrained={model}", *alone)
    said = capsys.readouterr().out
    backbone = [key for key in load_saved(model).state_dict() if key.startswith("timer_xl.")]
    assert f"{len(backbone)} tensors loaded, 6 new: classifier_norm.weight" in " ".join(
        said.split()
    )


@pytest.mark.parametrize("together", ["none", "all"])
def test_a_head_of_the_next_patch_takes_the_forecasters(pretrained, together):
    weights = load_saved(pretrained.folder / "model").state_dict()
    config = load_recipe(str(pretrained.folder / "config.yaml"))
    config.train.task, config.loss.next_patch_weight = "rain", 0.5
    config.data.labels = "every_patch"
    config.data.regions_together = together
    variables = len(windows_of(pretrained).series.feature_names)
    classifier = TimerXLForClassification(model_config(config, variables, 0, 0.5, 5))
    report = load_backbone(classifier, pretrained.folder / "model")
    assert {"next_patch.weight", "next_patch.bias"} <= set(report.loaded)
    new = [key for key in report.new if not key.startswith("classifier_")]
    assert new == (["timer_xl.region_embedding.weight"] if together == "all" else [])
    assert not report.unused
    assert torch.equal(classifier.next_patch.weight, weights["head.weight"])
    assert torch.equal(classifier.next_patch.bias, weights["head.bias"])


def test_pre_training_goes_on_from_a_forecaster(pretrained):
    source = load_saved(pretrained.folder / "model")
    model = TimerXLForPrediction(source.config)
    report = load_backbone(model, pretrained.folder / "model")
    assert report.new == []
    assert report.unused == []
    assert equal(dict(model.state_dict()), dict(source.state_dict()))


def test_whoever_needs_a_classifier_says_so(pretrained):
    model = pretrained.folder / "model"
    with pytest.raises(InputError, match=r"says nothing of rain.*model\.pretrained="):
        Forecaster.from_pretrained(model)
    with pytest.raises(InputError, match=r"says nothing of rain.*model\.pretrained="):
        evaluate_saved(EvaluationRequest(model), None, print)
    with pytest.raises(InputError, match=r"train\.task=next_patch.*model\.pretrained="):
        read_record(pretrained.folder)


def test_the_page_shows_skills_and_no_score_of_rain(pretrained, tmp_path):
    page = write_report(pretrained.folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Forecast of the next patch" in page
    assert "curve-loss" in page
    assert f"{pretrained.returned['variables']['test']['t2m']['mse']:.3f}" in page
    body = page[page.index("<body") :].partition("All of config.yaml")[0]
    for word in ("ROC-AUC", "MCC", "Confusion", "threshold of 0.5", "Share of rain"):
        assert word not in body, word


def test_no_monitor_of_rain_speaks_and_no_event_holds_its_scores(pretrained):
    assert json.loads((pretrained.folder / "verdict.json").read_text())["verdicts"] == []
    for event in pretrained.events("validation"):
        assert {"loss", "train_loss", "skill_persistence", "skill_climatology"} <= event.keys()
        assert not {"roc_auc", "f1", "rain_share"} & event.keys()
    assert pretrained.events("start")[0]["class_shares"] == {}


def test_the_plan_counts_and_traces_the_forecaster(pretrained):
    workload = describe_windows(pretrained.config, windows_of(pretrained))
    model = load_saved(pretrained.folder / "model")
    assert workload.num_parameters == model.num_parameters()
    assert workload.flops_per_sample() == model.flops_per_sample()
    peak = trace_step(workload.step_settings(Choice("fp32", 0)))
    assert peak.weights == 4 * model.num_parameters()
    assert workload.windows["train"] == pretrained_windows(pretrained)


def pretrained_windows(run: Run) -> int:
    steps = run.events("start")[0]["steps_per_epoch"]
    log = run.config.train.batch_size
    found = describe_windows(run.config, windows_of(run)).windows["train"]
    assert -(-found // log) == steps
    return found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.metric_for_best_model=roc_auc"], r"expected, with train\.task=next_patch, one of"),
        (["data.split=rows"], r"data\.split is rows"),
        (["model.covariate=true"], r"model\.covariate is True"),
        (["hub.push=true", "hub.repo_id=a/b"], r"hub\.push is True"),
        (["data.labels=every_patch", "loss.next_patch_weight=1"], r"loss\.next_patch_weight is 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: list[str], said: str):
    with pytest.raises(InputError, match=said):
        load_recipe("pretrain", settings)
    with pytest.raises(InputError, match=r"with train\.task=rain, one of"):
        load_recipe("quickstart", ["train.metric_for_best_model=skill_persistence"])


def test_the_recipe_fits_quickstart():
    ours, theirs = (vars(load_recipe(name).model) for name in ("pretrain", "quickstart"))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing <= {"pooling", "region_mixing"}
