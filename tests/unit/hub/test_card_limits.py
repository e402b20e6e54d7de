"""The card's judgement: the threshold, the limits, every score that a simpler forecast reaches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from spoiled_runs import as_stopped, card, edit, edit_all, section

from timerxl.hub.card.limits_section import JUDGING

GOOD = {key: 0.6 for key in JUDGING} | {"brier": 0.1, "ece": 0.02, "predicted_rain_share": 0.5}
POOR = {key: 0.1 for key in JUDGING} | {"brier": 0.3, "ece": 0.3}


def as_scored(run: Path, test: dict[str, float], calibrated: dict[str, float]) -> str:
    """The limits of a card with these scores, beside baselines that are poor but for what the
    name says."""

    def change(found: dict[str, Any]) -> None:
        found["test"], found["test_calibrated"] = GOOD | test, GOOD | calibrated
        always = POOR | {"f1": 0.77, "accuracy": 0.55}
        found["baselines"] = {"always_rain": always, "climatology": POOR, "bayes": GOOD}
        found["intervals"], found["differences"] = {}, {}
        found["calibration"] = {"slope": 1.0, "intercept": 0.0}

    edit(run / "results.json", change)
    return section(card(run, force=True), "Known limits")


def test_every_score_below_its_baseline_is_named(run: Path) -> None:
    limits = as_scored(run, {}, {})
    assert "**always rain** does as well or better by F1 (0.770 against 0.600)." in limits
    for words in ("No skill by", "climatology**", "Bayes", "makes it worse", "always dry"):
        assert words not in limits
    test = {"bss": -0.05, "accuracy": 0.4, "mcc": 0.0, "brier": 0.3, "predicted_rain_share": 1.0}
    limits = as_scored(run, test, {"brier": 0.31, "ece": 0.05, "bss": -0.06})
    for words in (
        "**It says rain to every test window.**",
        "**No skill by Brier skill score**: -0.050; a forecast that knows nothing gets 0.",
        "**No skill by Brier skill score** (calibrated): -0.060",
        "**No skill by MCC**: 0.000",
        "by raw Brier (0.300 against 0.300)",
        "calibrated Brier (0.300 against 0.310)",
        "accuracy (0.550 against 0.400)",
        "**always dry** does as well or better by accuracy (0.450 against 0.400).",
        "Calibration makes it worse on test: Brier 0.3100 instead of 0.3000, ",
    ):
        assert words in limits, words
    assert "Bayes" not in limits
    limits = as_scored(run, {"hss": 0.05, "brier": 0.31}, {"brier": 0.31})
    assert "better by Brier (0.300 against 0.310), HSS." in limits


def test_intervals_that_hold_no_skill_are_named(run: Path) -> None:
    as_scored(run, {"roc_auc": 0.55}, {})
    edit(
        run / "results.json",
        lambda found: found | {"intervals": {"model": {"roc_auc": [0.49, 0.6], "mcc": [0.1, 0.2]}}},
    )
    table = pd.read_parquet(run / "forecasts.parquet")
    label = table["label"].to_numpy()
    noise = np.random.default_rng(0).random(len(table))
    region = table["region"]
    table["model"] = np.where(region == "selva", noise, 0.25 + label / 2 + 0.2 * noise)
    table["climatology"] = np.where(region == "sierra_sur", label, 0.5)
    table.loc[region == "costa_norte", "label"] = 1
    table.to_parquet(run / "forecasts.parquet")
    limits = section(card(run), "Known limits")
    assert "The 95 % interval of ROC-AUC (0.490 to 0.600) includes 0.5, no skill." in limits
    unsure = next(line for line in limits.splitlines() if "No skill shown in some" in line)
    assert "is not above 0.5 in selva (" in unsure
    assert "sierra" not in unsure
    beaten = next(line for line in limits.splitlines() if "another forecast does as well" in line)
    assert r"sierra\_sur (1.000; P(rain \| region, month, rained before) 1.000)" in beaten
    assert r"No ROC-AUC in costa\_norte: it always rained there, or never." in limits


def test_a_test_split_that_was_watched_is_not_called_scored_once(run: Path) -> None:
    text = card(run)
    assert "scored once" in section(text, "Scores on the test split")
    assert "CONTAMINATED" not in text
    edit_all(run, test_every_epoch="true")
    watched = card(run)
    assert "scored once" not in watched
    assert "**scored at every evaluation, not once**" in section(
        watched, "Scores on the test split"
    )
    assert "> ⚠️ **CONTAMINATED TEST SPLIT.**" in watched.split("\n## ")[0]
    edit(run / "results.json", lambda found: found | {"no_interval": "too short"})
    assert "**scored at every evaluation, not once**" in card(run)
    as_stopped(run, has_best=True)
    assert "never scored" not in card(run, force=True)
    assert "was not scored" not in card(run, force=True)


def test_nothing_recovered_is_no_negative_share(run: Path) -> None:
    edit(run / "results.json", lambda found: found | {"gap_to_bayes_recovered": -0.07})
    text = card(run)
    assert "-7%" not in text
    assert "Nothing of the ROC-AUC gap from climatology" in text
    edit(run / "results.json", lambda found: found | {"gap_to_bayes_recovered": 0.4})
    assert "Of the ROC-AUC gap from climatology to the best possible forecast, 40%" in card(run)


def test_the_threshold_is_given_raw_and_calibrated(finished: Path, run: Path) -> None:
    text = card(run)
    saved = json.loads((finished / "model" / "preprocessing.json").read_text())
    threshold, line = saved["decision_threshold"], saved["calibration"]
    odds = line["slope"] * np.log(threshold / (1 - threshold)) + line["intercept"]
    calibrated = 1 / (1 + np.exp(-odds))
    said = f"from a raw P(rain) of {threshold:.3f} on, which is {calibrated:.3f} calibrated"
    assert f"**says rain**: {said}: the best MCC on validation" in text
    assert said in section(text, "By region")
    # What the Forecaster prints beside its decision is the calibrated one.
    table = pd.read_parquet(finished / "forecasts.parquet")
    assert ((table["model"] >= threshold) == (table["model_calibrated"] >= calibrated)).all()

    def turn(saved: dict[str, Any]) -> None:
        saved["calibration"] = {"slope": -1.0, "intercept": 0.0}

    # The formula for those who have the network alone.
    formula = re.search(r"with z = (\S+) log\(p / \(1 - p\)\) ([+-] \S+)\.\n", text)
    assert formula is not None
    z = float(formula[1]) * np.log(threshold / (1 - threshold)) + float(formula[2].replace(" ", ""))
    assert 1 / (1 + np.exp(-z)) == pytest.approx(calibrated, abs=1e-5)

    edit(run / "model" / "preprocessing.json", turn)
    assert "and lower for more" in card(run)
