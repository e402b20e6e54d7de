"""A tiny real run from recipe to results.json: what it keeps, what it writes, when it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss, matthews_corrcoef, roc_auc_score

from timerxl import Forecaster
from timerxl.config import InputError, load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.model import TimerXLForClassification
from timerxl.training import run as run_module
from timerxl.training.assembly import use_seed
from timerxl.training.trainer import TrainingFailed

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH, EPOCHS = 12, 6


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def windows(finished: Any) -> WeatherWindows:
    """Built anew from the configuration that the run wrote."""
    config = load_recipe(str(finished.folder / "config.yaml"))
    return build_windows(load_series(config.data), config.data, config.model.context_length)


@pytest.fixture(scope="module")
def probability(finished: Any, windows: WeatherWindows) -> dict[str, np.ndarray]:
    """P(rain) of the saved folder, window by window cut out of the scaled series."""
    model = TimerXLForClassification.from_pretrained(finished.folder / "model").eval()
    found = {}
    for split in ("validation", "test"):
        rows = windows.issue_rows(split)
        past = torch.stack([windows.values[row - 15 : row + 1] for row in rows])
        assert windows.static is not None
        with torch.no_grad():
            logits = model(past_values=past, static_real_features=windows.static[rows]).logits
        found[split] = torch.softmax(logits.double(), dim=1)[:, 1].numpy()
    return found


def test_the_run_folder_holds_these_files(finished: Any) -> None:
    names = sorted(path.name for path in finished.folder.iterdir())
    expected = (
        "audit.json checkpoints config.yaml environment.json forecasts.parquet metrics.jsonl model "
        "results.json run.lock status.json verdict.json"
    ).split()
    assert names == expected
    assert read(finished.folder / "status.json") == {"code": 0, "reason": "finished"}
    again = load_recipe(str(finished.folder / "config.yaml"))
    assert again == finished.config
    assert [p.name for p in finished.folder.rglob("*") if p.name.startswith(".")] == []


def test_metrics_hold_every_step_and_evaluation(finished: Any) -> None:
    steps = finished.events("train")
    assert [event["step"] for event in steps] == list(range(1, STEPS_PER_EPOCH * EPOCHS + 1))
    for event in steps:
        assert event.keys() == set("event step epoch loss lr grad_norm samples_per_s".split())
        assert event["grad_norm"] > 0
        assert event["samples_per_s"] > 0
    evaluations = finished.events("validation")
    assert [event["step"] for event in evaluations] == [12, 24, 36, 48, 60, 72]
    assert [event["epoch"] for event in evaluations] == [1, 2, 3, 4, 5, 6]
    assert {event["num_windows"] for event in evaluations} == {len_of(finished, "validation")}
    (last,) = finished.events("results")
    assert {k: v for k, v in last.items() if k != "event"} == read(finished.folder / "results.json")
    # Up to the recipe's rate at the end of the warm-up, then down to next to nothing.
    assert max(event["lr"] for event in steps) == pytest.approx(0.03)
    assert 0 <= steps[-1]["lr"] < 1e-4


def len_of(finished: Any, split: str) -> int:
    return int(read(finished.folder / "results.json")["num_windows"][split])


def test_results_hold_scores_baselines_and_cost(finished: Any, windows: WeatherWindows) -> None:
    found = read(finished.folder / "results.json")
    needed = "validation test baselines baselines_validation threshold num_windows stop_reason"
    assert set(needed.split()) < found.keys()
    names = {"always_rain", "persistence", "climatology", "bayes", "bayes_observed"}
    assert names <= found["baselines"].keys()
    assert names <= found["baselines_validation"].keys()
    rain = windows.labels_of("test").mean()
    always = found["baselines"]["always_rain"]
    # "Always rain" at base rate p has F1 2p / (1 + p), accuracy p and no skill.
    assert always["f1"] == pytest.approx(2 * rain / (1 + rain))
    assert always["accuracy"] == pytest.approx(rain)
    assert (always["mcc"], always["roc_auc"], always["predicted_rain_share"]) == (0, 0.5, 1)
    truth = windows.series.true_probability
    assert truth is not None
    bayes = roc_auc_score(windows.labels_of("test"), truth[windows.issue_rows("test")])
    assert found["baselines"]["bayes"]["roc_auc"] == pytest.approx(bayes)
    observed = found["baselines"]["bayes_observed"]
    assert found["baselines"]["climatology"]["roc_auc"] < observed["roc_auc"] < bayes
    assert 0 <= found["observed_bound_error"]["roc_auc"] < 0.01
    low, high = (found["baselines"][n]["brier"] for n in ("climatology", "bayes_observed"))
    share = (found["test"]["brier"] - low) / (high - low)
    assert found["gap_to_observed_bound_recovered"]["brier"] == pytest.approx(share)
    before = windows.rained_before[windows.issue_rows("test")]
    assert not np.isnan(before).any()
    persistence = matthews_corrcoef(windows.labels_of("test"), before)
    assert found["baselines"]["persistence"]["mcc"] == pytest.approx(persistence)

    assert found["seconds"] > found["train_seconds"] > found["loading_seconds"] > 0
    # Every training window once an epoch, none of the fill counted.
    samples = EPOCHS * len(windows.labels_of("train"))
    assert found["samples_per_s"] == pytest.approx(samples / found["train_seconds"])
    assert 0.1 < found["peak_memory_gib"] < 100
    assert found["steps"] == STEPS_PER_EPOCH * EPOCHS
    assert found["stop_reason"] == "all steps done"
    assert (found["num_processes"], found["is_synthetic"]) == (1, True)
    sizes = {split: len(windows.labels_of(split)) for split in ("validation", "test")}
    assert found["num_windows"] == sizes
    model = TimerXLForClassification.from_pretrained(finished.folder / "model")
    assert found["num_parameters"] == sum(p.numel() for p in model.parameters())


def test_the_best_model_is_the_one_kept(
    finished: Any, windows: WeatherWindows, probability: dict[str, np.ndarray]
) -> None:
    evaluations = finished.events("validation")
    best = max(evaluations, key=lambda event: event["roc_auc"])
    found = read(finished.folder / "results.json")
    assert found["best_step"] == best["step"]
    # Else keeping the last model would pass as well.
    assert best["step"] < evaluations[-1]["step"]
    assert best["roc_auc"] > evaluations[-1]["roc_auc"] + 1e-4
    of_folder = roc_auc_score(windows.labels_of("validation"), probability["validation"])
    assert of_folder == pytest.approx(best["roc_auc"], abs=1e-9)
    assert read(finished.folder / "model" / "preprocessing.json")["best_step"] == best["step"]


def test_the_scores_are_those_of_the_saved_folder(
    finished: Any, windows: WeatherWindows, probability: dict[str, np.ndarray]
) -> None:
    found = read(finished.folder / "results.json")
    for split in ("validation", "test"):
        label = windows.labels_of(split)
        said = probability[split] >= found["threshold"]
        expected = {
            "roc_auc": roc_auc_score(label, probability[split]),
            "brier": brier_score_loss(label, probability[split]),
            "mcc": matthews_corrcoef(label, said),
            "accuracy": (said == label).mean(),
            "predicted_rain_share": said.mean(),
        }
        assert {key: found[split][key] for key in expected} == pytest.approx(expected, abs=1e-6)
    # The threshold is validation's best by MCC: none of a fine grid does better.
    label = windows.labels_of("validation")
    reached = [
        matthews_corrcoef(label, probability["validation"] >= t) for t in np.linspace(0, 1, 500)
    ]
    assert found["validation"]["mcc"] >= max(reached) - 1e-9


def test_the_test_split_is_forecast_once(finished: Any) -> None:
    expected = [("loop", "validation", len_of(finished, "validation"))] * EPOCHS
    expected += [("run", "validation", len_of(finished, "validation"))]
    expected += [("run", "test", len_of(finished, "test"))]
    assert finished.forecasts == expected


def test_preprocessing_says_how_the_input_was_made(finished: Any, windows: WeatherWindows) -> None:
    found = read(finished.folder / "model" / "preprocessing.json")
    series = windows.series
    assert found["feature_names"] == series.feature_names
    assert len(found["feature_names"]) == 27
    label = found["label"]
    assert (label["horizon_hours"], label["threshold_mm"], label["column"]) == (24.0, 0.1, "tp")
    assert "24 hours after the time of issue" in label["text"]
    assert found["is_synthetic"] is True
    assert found["source"]["synthetic"] is True
    assert found["regions"] == series.regions
    assert (found["context_length"], found["context_days"], found["step_hours"]) == (16, 8.0, 12.0)
    assert found["split"]["method"] == "time"
    assert found["data"]["synthetic"]["start"] == "2024-06-01"
    assert found["loss"] == {
        "name": "cross_entropy",
        "alpha": pytest.approx(1 - windows.labels_of("train").mean()),
    }
    scores = read(finished.folder / "results.json")
    assert found["decision_threshold"] == scores["threshold"]
    assert found["scores"] == {"validation": scores["validation"], "test": scores["test"]}


def test_the_scaling_is_that_of_the_training_rows(finished: Any, windows: WeatherWindows) -> None:
    scaling = read(finished.folder / "model" / "preprocessing.json")["scaling"]
    series = windows.series
    end = series.timestamps[windows.issue_rows("train")].max()
    training = series.values[series.timestamps <= end].astype(np.float64)
    place = series.feature_names.index("t2m")
    assert scaling["mean"][place] == pytest.approx(training[:, place].mean(), rel=1e-5)
    assert scaling["std"][place] == pytest.approx(training[:, place].std(), rel=1e-4)
    row = int(windows.issue_rows("test")[0])
    by_hand = (series.values[row, place] - scaling["mean"][place]) / scaling["std"][place]
    assert float(windows.values[row, place]) == pytest.approx(by_hand, abs=1e-4)


def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k not in ("samples_per_s", "seconds")} for e in events]


def test_a_seed_gives_one_run_and_brier_chooses_the_lowest(
    finished: Any, train_tiny: Any, tmp_path: Path
) -> None:
    same = ["train.epochs=6", "optim.lr=0.03", "train.patience=6"]
    again = train_tiny(tmp_path / "run", *same, "train.metric_for_best_model=brier")
    for event in ("train", "validation"):
        assert without_times(again.events(event)) == without_times(finished.events(event))
    lowest = min(again.events("validation"), key=lambda event: event["brier"])
    assert again.returned["best_step"] == lowest["step"]
    other = train_tiny(tmp_path / "other", "seed=1", "train.max_steps=1", "optim.lr=0.03")
    assert other.events("train")[0]["loss"] != finished.events("train")[0]["loss"]
    assert other.events("validation")[0]["step"] == 1


def test_ranks_start_alike_and_drop_out_differently() -> None:
    def draw(seed: int, rank: int) -> list[float]:
        use_seed(seed, rank)
        drawn: list[float] = torch.rand(3).tolist()
        return drawn

    assert draw(4, 0) == draw(4, 0)
    assert len({tuple(draw(seed, rank)) for seed in (4, 5) for rank in (0, 1, 2)}) == 6


def test_no_gain_stops_early(train_tiny: Any, tmp_path: Path) -> None:
    """At a rate of next to nothing the first evaluation stays the best."""
    run = train_tiny(
        tmp_path / "run",
        "optim.lr=1e-12",
        "train.epochs=9",
        "train.patience=2",
        "monitors.collapse=off",
    )
    assert [event["step"] for event in run.events("validation")] == [12, 24, 36]
    assert (run.returned["best_step"], run.returned["steps"]) == (12, 36)
    assert run.returned["stop_reason"] == "no better roc_auc in 2 evaluations"
    assert [split for _, split, _ in run.forecasts].count("test") == 1


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (12, r"the loss is (nan|inf) at step \d+; lower optim.lr"),
        (1, "forecasts on validation hold NaN"),
    ],
)
def test_a_lost_loss_fails_the_run(
    train_tiny: Any, tmp_path: Path, steps: int, message: str
) -> None:
    """Seen by the loss in training, or by the scores where training had just ended."""
    folder = tmp_path / "run"
    with pytest.raises(TrainingFailed, match=message):
        train_tiny(folder, "optim.lr=1e30", f"train.max_steps={steps}", "monitors.nonfinite=warn")
    assert not (folder / "results.json").exists()
    assert not (folder / "model").exists()


def test_the_folder_is_checked_before_the_data_are_read(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_data: list[str] = []
    load = run_module.load_windows
    monkeypatch.setattr(
        run_module, "load_windows", lambda *args: read_data.append("read") or load(*args)
    )
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match="taken is no folder"):
        train_tiny(tmp_path / "taken", "data.path=nowhere.csv")
    assert read_data == []
    # The folder of an earlier run is not moved for a run that can't begin.
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "config.yaml").touch()
    with pytest.raises(InputError, match=r"nowhere\.csv is no file"):
        train_tiny(earlier, "data.path=nowhere.csv")
    assert read_data == ["read"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier", "taken"]


def test_fitted_baselines_stand_beside_the_model(train_tiny: Any, tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "run",
        *("train.max_steps=2", "eval.fitted_baselines=true", "eval.num_resamples=50"),
    )
    baselines = json.loads((run.folder / "results.json").read_text())["baselines"]
    fitted = {"day_of_year", "climatology", "logistic_regression", "gradient_boosting"}
    assert fitted <= set(baselines)
    # On this generator lagged values tell far more than the calendar does.
    assert baselines["logistic_regression"]["roc_auc"] > baselines["day_of_year"]["roc_auc"] + 0.1


def test_final_scores_in_half_precision_are_those_of_the_forecaster(
    tmp_path: Path, train_tiny: Any
) -> None:
    """Trained in bf16, scored as it is saved and used: fp32. In bf16 they were 0.002 apart."""
    done = train_tiny(tmp_path / "run", "train.precision=bf16", "train.max_steps=3")
    assert read(done.folder / "status.json")["code"] == 0
    scored = pd.read_parquet(done.folder / "forecasts.parquet").query("split == 'test'")
    given = Forecaster.from_pretrained(done.folder / "model").predict(None, at="all")
    both = scored.merge(given, on=["region", "issue_time"], validate="one_to_one")
    assert len(both) == len(scored) == done.returned["num_windows"]["test"]
    np.testing.assert_allclose(both["model"], both["probability_raw"], rtol=0, atol=1e-6)
    auc = roc_auc_score(both["label"], both["probability_raw"])
    assert done.returned["test"]["roc_auc"] == pytest.approx(auc, abs=1e-9)
