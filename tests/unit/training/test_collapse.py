"""Collapse: what counts as one class, when it is certain, and a model whose ranking works."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.history import History, Scores
from timerxl.training.monitors.rules import Verdict, collapse

LIMITS = MonitorsConfig()


def history(*evaluations: Scores, grace_steps: int = 0) -> History:
    return History(evaluations=list(evaluations), grace_steps=grace_steps)


def severity(verdict: Verdict | None) -> str | None:
    return None if verdict is None else verdict.severity


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.99, '"rain" for 99.0%'), (1.0, '"rain"'), (0.01, '"no rain" for 99.0%'), (0.0, '"no rain"')]
    + [(share, None) for share in (0.9899, 0.5, 0.0101)],
)
def test_one_class_is_99_percent_of_the_windows(share: float, says: str | None) -> None:
    found = collapse(history(Scores(step=1, predicted_rain_share=share, rain_share=0.66)), LIMITS)
    assert severity(found) == (None if says is None else "suspected")
    if found is not None and says is not None:
        assert found.explanation.startswith(says)
        assert "while 66.0% of the windows have rain" in found.explanation
        # 2 * 0.66 / 1.66
        assert found.evidence["always_rain_f1"] == pytest.approx(0.795181, abs=1e-6)


@pytest.mark.parametrize(
    ("accuracy", "base", "num_windows", "which"),
    [
        (0.7, 0.70049, 1000, "larger"),  # half a window of a thousand is 0.0005
        (0.7, 0.70051, 1000, None),
        (0.7, 0.29951, 1000, "larger"),  # no rain is the larger class
        (0.3, 0.70049, 1000, "smaller"),
        (0.3, 0.70051, 1000, None),
        (0.7, 0.70004, None, "larger"),  # a log without counts: half of the last digit of 70.00 %
        (0.7, 0.70006, None, None),
        (4160 / 6025, 4160 / 6025, 6025, "larger"),
        (4161 / 6025, 4160 / 6025, 6025, None),
    ],
)
def test_accuracy_at_the_share_of_a_class(
    accuracy: float, base: float, num_windows: int | None, which: str | None
) -> None:
    row = Scores(step=1, accuracy=accuracy, rain_share=base, num_windows=num_windows)
    found = collapse(history(row), LIMITS)
    assert severity(found) == (None if which is None else "suspected")
    assert found is None or f"exactly the share of the {which} class" in found.explanation


def test_accuracy_at_the_base_rate_is_chance_where_both_classes_are_forecast() -> None:
    row = Scores(step=1, accuracy=0.7, rain_share=0.7, num_windows=1000, predicted_rain_share=0.6)
    assert collapse(history(row, row), LIMITS) is None


@pytest.mark.parametrize(
    ("roc_auc", "bad"), [(0.5499, True), (0.5501, False), (0.4501, True), (0.4499, False)]
)
def test_forecasts_that_rank_nothing(roc_auc: float, bad: bool) -> None:
    row = Scores(step=1, predicted_rain_share=0.6, roc_auc=roc_auc)
    found = collapse(history(row, row), LIMITS)
    assert severity(found) == ("certain" if bad else None)


@pytest.mark.parametrize(
    ("num_windows", "error", "bad"),
    [
        (256, None, True),  # two standard errors of 0.036 hold 0.545: nothing is known
        (6000, None, False),  # but two of 0.0075 do not: the model has some skill
        (6000, 0.03, True),  # blocks of time: as much as 233 independent windows are worth
        (6000, 0.004, False),  # smaller than that of independent windows is not believed
    ],
)
def test_a_little_skill_on_many_windows_is_no_collapse(
    num_windows: int, error: float | None, bad: bool
) -> None:
    row = Scores(
        step=1,
        num_windows=num_windows,
        accuracy=0.6,
        rain_share=0.5,
        predicted_rain_share=0.6,
        roc_auc=0.545,
        accuracy_std_error=error,
    )
    assert severity(collapse(history(row, row), LIMITS)) == ("certain" if bad else None)


def test_the_error_of_a_roc_auc_without_skill() -> None:
    """Against random forecasts of random labels, drawn many times: the area is Mann and Whitney's
    share of pairs in the right order."""
    rain, dry = np.split(np.random.default_rng(0).random((2000, 200)), [60], axis=1)
    drawn = (rain[:, :, None] > dry[:, None, :]).mean(axis=(1, 2))
    known = Scores(rain_share=0.3, num_windows=200)
    assert known.roc_auc_std_error == pytest.approx(np.std(drawn), rel=0.05)
    assert Scores(rain_share=1.0, num_windows=200).roc_auc_std_error is None
    assert Scores(num_windows=200).roc_auc_std_error is None


@pytest.mark.parametrize(
    ("roc_auc", "words"),
    [(0.51, "rank nothing"), (0.25, "rank the wrong way"), (0.58, "rank a little")],
)
def test_one_class_says_how_it_ranks(roc_auc: float, words: str) -> None:
    row = Scores(step=1, predicted_rain_share=1.0, roc_auc=roc_auc)
    found = collapse(history(row), LIMITS)
    assert found is not None
    assert f"ROC-AUC {roc_auc:.3f}: the forecasts {words}" in found.explanation
    assert found.explanation.count("forecasts") == 1


ONE_CLASS = {"predicted_rain_share": 1.0, "roc_auc": 0.5}
BOTH = {"predicted_rain_share": 0.6, "roc_auc": 0.8}


def looks(pattern: str) -> list[Scores]:
    """E a full evaluation that has collapsed, e one that has not; C and c checks; 100 steps each"""
    return [
        Scores(step=100 * n, is_sample=look in "cC", **(ONE_CLASS if look.isupper() else BOTH))
        for n, look in enumerate(pattern, start=1)
    ]


@pytest.mark.parametrize(
    ("pattern", "grace", "expected"),
    [
        ("e", 0, None),
        ("E", 0, "suspected"),
        ("EE", 0, "certain"),  # the second full evaluation in a row
        ("EeE", 0, "suspected"),
        ("EEe", 0, None),
        ("EcE", 0, "certain"),
        ("C", 0, "suspected"),
        ("CC", 0, "suspected"),
        ("CCC", 0, "certain"),  # the third look in a row
        ("CcCC", 0, "suspected"),
        ("CCE", 0, "certain"),
        ("ECC", 0, "certain"),
        ("CCCC", 201, "suspected"),  # the third look past the grace steps is at step 500
        ("CCCCC", 201, "certain"),
        ("CCCCC", 300, "certain"),
        ("CCCCC", 301, "suspected"),
        ("EE", 101, "suspected"),  # of the full evaluations only the second counts
        ("EE", 100, "certain"),
        ("EcEC", 0, "suspected"),  # said at the second full evaluation, not at the check after it
        ("EEC", 301, "suspected"),
    ],
)
def test_when_a_collapse_is_certain(pattern: str, grace: int, expected: str | None) -> None:
    assert severity(collapse(history(*looks(pattern), grace_steps=grace), LIMITS)) == expected


def test_a_log_without_steps_has_no_grace() -> None:
    rows = [Scores(epoch=epoch, is_sample=True, **ONE_CLASS) for epoch in (1, 2, 3)]
    assert severity(collapse(history(*rows, grace_steps=10**9), LIMITS)) == "certain"


def test_one_class_with_a_working_ranking_names_the_threshold() -> None:
    row = Scores(step=1, predicted_rain_share=1.0, roc_auc=0.8512, best_threshold=0.734)
    found = collapse(history(row, row, row), LIMITS)
    assert found is not None
    assert found.severity == "suspected"  # however often
    assert "A threshold of 0.734 separates best" in found.explanation
    assert "the threshold of 0.5 is misplaced, not the model" in found.explanation
    assert "eval.threshold=auto" in found.remedy
    assert found.evidence["best_threshold"] == 0.734
    nowhere = collapse(history(Scores(predicted_rain_share=1.0, roc_auc=0.601)), LIMITS)
    assert nowhere is not None
    assert "best_threshold" not in nowhere.evidence
    barely = Scores(predicted_rain_share=1.0, roc_auc=0.6)
    assert severity(collapse(history(barely, barely), LIMITS)) == "certain"
