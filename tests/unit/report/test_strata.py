"""Scores by region and season are those that launch/evaluate.py --by gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timerxl.evaluation.bootstrap import resample_scores
from timerxl.evaluation.scores import forecast_scores
from timerxl.report.page import strata_section
from timerxl.report.run_record import read_run, reference_of, strata_of


def test_regions(healthy: Path) -> None:
    run = read_run(healthy)
    sample = run.sample()
    assert sample is not None
    strata = strata_of(run, "region")
    assert [s["name"] for s in strata] == ["costa", "selva", "sierra"]
    for stratum in strata:
        chosen = sample.region == stratum["name"]
        label, model = sample.label[chosen], sample.probabilities["model"][chosen]
        assert stratum["num_windows"] == 330
        assert stratum["rain_share"] == label.mean()
        assert stratum["scores"] == forecast_scores(model, label, 0.58)
        told = resample_scores(
            *({"model": model}, label, sample.issue_time[chosen], {"model": 0.58}),
            num_resamples=200,
        )["model"]["mcc"].interval()
        assert stratum["intervals"]["mcc"] == [told.low, told.high]
        other = reference_of(run, "mcc")
        assert other is not None
        theirs = sample.probabilities[other][chosen]
        expected = forecast_scores(theirs, label, run.thresholds[other])["mcc"]
        assert stratum["references"]["mcc"] == expected


def test_seasons_are_meteorological(healthy: Path) -> None:
    run = read_run(healthy)
    sample = run.sample()
    assert sample is not None
    months = sample.issue_time.astype("datetime64[M]").astype(int) % 12 + 1
    counts = {s["name"]: s["num_windows"] for s in strata_of(run, "season")}
    assert counts == {
        "DJF": int(np.isin(months, [12, 1, 2]).sum()),
        "MAM": int(np.isin(months, [3, 4, 5]).sum()),
        "JJA": int(np.isin(months, [6, 7, 8]).sum()),
        "SON": int(np.isin(months, [9, 10, 11]).sum()),
    }


def test_who_has_no_interval_is_named(healthy: Path) -> None:
    run = read_run(healthy)
    body = strata_section(run).body
    assert "no interval" not in body
    assert run.config is not None
    run.config["eval"]["num_resamples"] = 0
    body = strata_section(run).body
    assert "costa, selva, sierra: no interval: no resamples were asked for." in body


def test_a_short_stratum_has_no_interval_and_says_why(healthy: Path) -> None:
    run = read_run(healthy)
    assert run.forecasts is not None
    run.forecasts = run.forecasts[run.forecasts["issue_time"] < "2023-01-20"]
    strata = strata_of(run, "region")
    assert all(not s["intervals"] and "an interval needs" in s["note"] for s in strata)
    assert all(np.isfinite(s["scores"]["roc_auc"]) for s in strata)


@pytest.mark.parametrize("gone", ["forecasts", "results"])
def test_nothing_without_forecasts_or_threshold(healthy: Path, gone: str) -> None:
    run = read_run(healthy)
    setattr(run, gone, None)
    assert strata_of(run, "region") == []
