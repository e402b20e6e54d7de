"""launch/evaluate.py: the run's own numbers again, clean JSON, any number of ranks, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from accelerate.state import AcceleratorState
from settings import ONE_LABEL
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from timerxl.cli import evaluate as command
from timerxl.config import load_recipe
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows

TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2023-07-01 train.max_steps=8 model.patch_length=8 "
    "model.context_length=16 model.hidden_size=16 model.intermediate_size=32 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=100"
).split()
QUICK = ("--no-fitted-baselines", "--resamples", "100")


def launch(words: list[str]) -> subprocess.CompletedProcess[str]:
    return processes.run(words, env=os.environ | {"ACCELERATE_USE_CPU": "true"})


def evaluate(*arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable] if ranks == 1 else [*processes.TORCHRUN, str(ranks)]
    return launch([*launcher, "launch/evaluate.py", *arguments])


def as_json(*arguments: str, ranks: int = 1) -> dict[str, Any]:
    done = evaluate(*arguments, "--json", ranks=ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)  # fails on anything else on stdout
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    words = ["launch/train.py", "--config", "quickstart", *TINY, f"output_dir={folder}"]
    done = launch([sys.executable, *words])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def found(run_folder: Path) -> dict[str, Any]:
    arguments = ("--by", "region,season", "--thresholds", "0.1,5")
    return as_json("--model", str(run_folder / "model"), *QUICK, *arguments)


@pytest.mark.slow
def test_the_numbers_of_the_run_come_again(run_folder: Path, found: dict[str, Any]) -> None:
    results = json.loads((run_folder / "results.json").read_text())
    trained = next(event for event in found["events"] if event["is_trained_event"])
    assert found["is_synthetic"]
    assert trained["rain_threshold_mm"] == 0.1
    for name, scores in (
        ("model", results["test"]),
        ("model_calibrated", results["test_calibrated"]),
        ("climatology", results["baselines"]["climatology"]),
        ("bayes", results["baselines"]["bayes"]),
    ):
        assert trained["scores"][name] == pytest.approx(scores, rel=1e-9), name
    assert trained["intervals"]["model"]["roc_auc"] == pytest.approx(
        results["intervals"]["model"]["roc_auc"]
    )


@pytest.mark.slow
def test_always_rain_has_no_skill(found: dict[str, Any]) -> None:
    for event in found["events"]:
        scores = event["scores"]["always_rain"]
        assert (scores["hss"], scores["pss"], scores["mcc"]) == (0.0, 0.0, 0.0)
        assert scores["f1"] == pytest.approx(2 * event["rain_share"] / (1 + event["rain_share"]))


@pytest.mark.slow
def test_heavier_rain_is_rarer(run_folder: Path, found: dict[str, Any]) -> None:
    light, heavy = found["events"]
    assert heavy["rain_threshold_mm"] == 5
    saved = Preprocessing.load(run_folder / "model")
    config = saved.data_config(None)
    config.rain_threshold_mm = 5.0
    windows = build_windows(load_series(config), config, saved.context_length)
    expected = windows.labels_of("test").mean()
    assert heavy["rain_share"] == pytest.approx(expected, abs=0.01)
    assert heavy["rain_share"] < light["rain_share"]
    assert "bayes" not in heavy["scores"]


@pytest.mark.slow
def test_strata_are_scored_on_their_own_windows(run_folder: Path, found: dict[str, Any]) -> None:
    trained = found["events"][0]
    for by in ("region", "season"):
        assert sum(s["num_windows"] for s in found["strata"][by]) == trained["num_windows"]
    import torch

    from timerxl import TimerXLForClassification

    saved = Preprocessing.load(run_folder / "model")
    config = saved.data_config(None)
    series = load_series(config)
    windows = build_windows(series, config, saved.context_length, saved)
    model = TimerXLForClassification.from_pretrained(run_folder / "model").eval()
    rows = windows.issue_rows("test")
    batch = windows.batch("test", np.arange(len(rows)))
    with torch.no_grad():
        logits = model(
            past_values=batch["past_values"], static_real_features=batch["static_real_features"]
        ).logits
    probability = logits.double().softmax(-1)[:, 1].numpy()
    chosen = series.region_index[rows] == 2
    stratum = found["strata"]["region"][2]
    label = windows.labels_of("test")[chosen]
    said = probability[chosen] >= saved.content["decision_threshold"]
    assert stratum["name"] == series.regions[2]
    assert stratum["num_windows"] == chosen.sum()
    assert stratum["scores"]["roc_auc"] == pytest.approx(roc_auc_score(label, probability[chosen]))
    assert stratum["scores"]["mcc"] == pytest.approx(matthews_corrcoef(label, said))


@pytest.mark.slow
def test_two_ranks_give_the_same_numbers(run_folder: Path) -> None:
    arguments = ("--model", str(run_folder / "model"), *QUICK, "--max-windows", "77")
    one, two = as_json(*arguments), as_json(*arguments, ranks=2)
    assert one["events"][0]["num_windows"] == 77
    assert one == two


@pytest.mark.slow
def test_a_person_reads_tables(run_folder: Path, tmp_path: Path) -> None:
    months = [f"{season} {year} 27.0 0.0" for year in (2023, 2024) for season in SEASONS]
    oni = tmp_path / "oni.txt"
    oni.write_text("\n".join(["SEAS YR TOTAL ANOM", *months]) + "\n")
    done = evaluate(
        *("--model", str(run_folder / "model"), *QUICK, "--by", "enso", "--enso", str(oni))
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for word in (
        "SYNTHETIC",
        "always rain",
        "95 % interval",
        "HSS (Heidke)",
        "neutral",
        "hindsight",
    ):
        assert word in done.stdout, word


SEASONS = "DJF JFM FMA MAM AMJ MJJ JJA JAS ASO SON OND NDJ".split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "validation"], "would flatter"),
        (["--split", "all"], "--split all: expected one of test"),
        (["--by", "country"], "--by country: expected some of region, season, enso"),
        (["--by", "enso"], "needs --enso FILE"),
        (["--thresholds", "a,b"], "--thresholds a,b: expected numbers"),
        (["--thresholds", "100000"], "0 of"),
        (["--resamples", "-1"], "--resamples"),
        (["--data", "nowhere.parquet"], "nowhere.parquet is no file"),
    ],
)
def test_bad_input_is_refused(
    run_folder: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_refused(["--model", str(run_folder / "model"), *arguments], message, capsys)


@pytest.mark.slow
def test_another_folder_or_series_is_refused(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_refused(["--model", str(tmp_path)], "holds no preprocessing.json", capsys)
    table = tmp_path / "other.csv"
    table.write_text("timestamp,region,tp,t2m\n2024-01-01T00,a,0.0,1\n2024-01-01T12,a,0.2,2\n")
    model = ["--model", str(run_folder / "model")]
    check_refused([*model, "--data", str(table)], "other.csv", capsys)


@pytest.mark.slow
def test_damaged_weights_are_refused(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(run_folder / "model", tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"\xff" * 5000)
    check_refused(["--model", str(model)], "can't be read as a checkpoint", capsys)


def check_refused(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, the message on stderr, nothing on stdout, no traceback: main() in process."""
    # Another test's precision would stay with this process: accelerate keeps one state for all.
    AcceleratorState._reset_state(reset_partial_state=True)
    assert command.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


def test_the_recipe_knows_the_bootstrap() -> None:
    config = load_recipe("quickstart", ["eval.num_resamples=0", "eval.block_days=21"])
    assert (config.eval.num_resamples, config.eval.block_days) == (0, 21.0)
