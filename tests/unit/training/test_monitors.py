"""Stagnation, oscillation, divergence, overfitting: each at the boundary of its limit, with numbers
worked out by hand; and healthy runs, of which nothing is said."""

from __future__ import annotations

import random
from typing import Any

import pytest

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.history import History, Scores
from timerxl.training.monitors.rules import (
    MONITORS,
    Verdict,
    divergence,
    oscillation,
    overfitting,
    stagnation,
)

LIMITS = MonitorsConfig()  # 3 evaluations in a row, 5 points


def history(*evaluations: Scores, **rest: Any) -> History:
    return History(evaluations=list(evaluations), **rest)


def accuracies(*values: float | None, **rest: Any) -> History:
    """Full evaluations of 1,000 windows at steps 100, 200, ..."""
    values_at = enumerate(values, start=1)
    rows = [{"step": 100 * n, "epoch": n, "accuracy": value} for n, value in values_at]
    return history(*(Scores(**({"num_windows": 1000} | row | rest)) for row in rows))


def severity(verdict: Verdict | None) -> str | None:
    return None if verdict is None else verdict.severity


# Stagnation


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (accuracies(0.75, 0.75), None),
        (accuracies(0.75, 0.75, 0.75), "certain"),
        (accuracies(0.75, 0.75, 0.751), None),  # one window of a thousand
        (accuracies(0.751, 0.75, 0.75, 0.75), "certain"),
        (accuracies(0.75, None, 0.75), None),
        (accuracies(0.75, 0.75, 0.75, num_windows=None), "certain"),
        (accuracies(0.75, 0.75, 0.75006, num_windows=None), None),
        (accuracies(0.75, 0.75, 0.75, roc_auc=0.8), "certain"),
    ],
)
def test_accuracy_the_same_three_times(found: History, expected: str | None) -> None:
    assert severity(stagnation(found, LIMITS)) == expected


def test_the_number_of_evaluations_is_a_limit() -> None:
    limits = MonitorsConfig(num_evaluations=4)
    assert stagnation(accuracies(0.75, 0.75, 0.75), limits) is None
    assert severity(stagnation(accuracies(0.75, 0.75, 0.75, 0.75), limits)) == "certain"


@pytest.mark.parametrize(("drift", "expected"), [(1.1e-5, None), (0.9e-5, "certain")])
def test_a_ranking_that_moves_is_no_stagnation(drift: float, expected: str | None) -> None:
    rows = [Scores(accuracy=0.8, num_windows=1000, roc_auc=0.88 + auc) for auc in (0, drift, 0)]
    assert severity(stagnation(history(*rows), LIMITS)) == expected


def test_a_plateau_at_the_end_of_a_cosine_schedule_is_no_stagnation() -> None:
    aucs = (0.88412, 0.88431, 0.88438, 0.88441, 0.88442)
    rows = [
        Scores(step=n, accuracy=0.8112, num_windows=6025, roc_auc=x) for n, x in enumerate(aucs)
    ]
    assert all(stagnation(history(*rows[:n]), LIMITS) is None for n in range(6))


# Oscillation


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (accuracies(0.75, 0.70), None),  # exactly 5 points: more than 5 is asked for
        (accuracies(0.75, 0.699, accuracy_std_error=0.02), "suspected"),  # 3 errors are 8.5
        (accuracies(0.75, 0.699, accuracy_std_error=0.01), "certain"),  # and here 4.2
        (accuracies(0.70, 0.78), None),  # a rise to a new best
        (accuracies(0.75, 0.69, 0.76, accuracy_std_error=0.01), "certain"),  # up again after a drop
        (accuracies(0.75, 0.70, 0.76), None),  # the drop was none
        (accuracies(0.75, 0.69, 0.73), None),
        (accuracies(0.80, 0.77, 0.74, 0.795), "suspected"),  # up by 5.5, and no new best
        (accuracies(0.75, None, 0.60), None),
        (accuracies(0.75), None),
    ],
)
def test_a_jump_of_more_than_five_points(found: History, expected: str | None) -> None:
    assert severity(oscillation(found, LIMITS)) == expected


def test_the_oscillation_of_the_users_small_model() -> None:
    epochs = [
        Scores(epoch=n, accuracy=r / 6025, num_windows=6025) for n, r in enumerate((4543, 4235))
    ]
    found = oscillation(history(*epochs), LIMITS)
    assert found is not None
    assert found.severity == "certain"
    # 100 * (4235 - 4543) / 6025, and the root of 0.185471 / 6025 + 0.208830 / 6025
    assert found.evidence["points"] == pytest.approx(-5.112033, abs=1e-6)
    assert found.evidence["std_error_points"] == pytest.approx(0.808976, abs=2e-6)


@pytest.mark.parametrize(("after", "expected"), [(0.60, "suspected"), (0.5999, "certain")])
def test_noise_within_three_standard_errors_is_only_suspected(after: float, expected: str) -> None:
    before = Scores(accuracy=0.75, accuracy_std_error=0.03, num_windows=10**6)
    latest = Scores(accuracy=after, accuracy_std_error=0.04, num_windows=10**6)
    # The standard error of the difference is 5 points, three times that is 15.
    assert severity(oscillation(history(before, latest), LIMITS)) == expected
    beside = {"evaluations": [Scores(step=1, accuracy=0.75, accuracy_std_error=0.03)]}
    other = Scores(accuracy=after, accuracy_std_error=0.04)
    assert severity(divergence(History(**beside, holdout={1: other}), LIMITS)) == expected


def test_without_a_standard_error_a_jump_is_certain_in_a_log_alone() -> None:
    found = oscillation(history(Scores(accuracy=0.75), Scores(accuracy=0.69)), LIMITS)
    assert found is not None
    assert found.severity == "certain"
    assert "std_error_points" not in found.evidence
    # A run's windows are no independent ones: without blocks of time nothing is known.
    run = [Scores(step=n, accuracy=0.8 - n / 10, num_windows=10**6) for n in (1, 2)]
    assert severity(oscillation(history(*run), LIMITS)) == "suspected"


# Divergence


def beside(validation: float, other: float, name: str = "holdout", **balanced: float) -> History:
    """One evaluation of 10,000 windows at step 100, and another split's there."""
    fair = {key: {"balanced_accuracy": value} for key, value in balanced.items()}
    rows = {
        key: Scores(
            step=100,
            accuracy=value,
            num_windows=10_000,
            accuracy_std_error=0.005,
            **fair.get(key, {}),
        )
        for key, value in (("here", validation), ("there", other))
    }
    return History(evaluations=[rows["here"]], **{name: {100: rows["there"]}})


@pytest.mark.parametrize("name", ["holdout", "test"])
@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [(0.75, 0.70, None), (0.70, 0.75, None), (0.75, 0.6999, "certain"), (0.6999, 0.75, "certain")],
)
def test_splits_more_than_five_points_apart(
    name: str, here: float, there: float, expected: str | None
) -> None:
    found = divergence(beside(here, there, name), LIMITS)
    assert severity(found) == expected
    assert found is None or found.evidence[f"{name}_accuracy"] == there


@pytest.mark.parametrize(("fair", "expected"), [(0.65, "suspected"), (0.6499, "certain")])
def test_where_balanced_accuracy_agrees_the_shares_differ(fair: float, expected: str) -> None:
    found = divergence(beside(0.80, 0.70, here=0.70, there=fair), LIMITS)
    assert severity(found) == expected


def test_of_a_collapsed_model_a_divergence_is_only_suspected() -> None:
    here = Scores(epoch=1, accuracy=4160 / 6025, rain_share=4160 / 6025, num_windows=6025)
    there = Scores(epoch=1, accuracy=3817 / 6026, num_windows=6026)
    found = divergence(History(evaluations=[here], test={1: there}), LIMITS)
    assert found is not None
    assert found.severity == "suspected"
    assert "the model has collapsed, so both are class shares" in found.explanation
    assert found.evidence["points"] == pytest.approx(69.045643 - 63.342184, abs=1e-6)


def test_the_holdout_goes_before_test_and_must_be_of_the_same_step() -> None:
    both = beside(0.8, 0.7, "holdout")
    both.test[100] = Scores(step=100, accuracy=0.1)
    found = divergence(both, LIMITS)
    assert found is not None
    assert "holdout_accuracy" in found.evidence
    both.holdout = {99: both.holdout[100]}
    both.test = {}
    assert divergence(both, LIMITS) is None


# Overfitting


def losses(*pairs: tuple[float | None, float | None]) -> History:
    return history(*(Scores(loss=loss, train_loss=train) for loss, train in pairs))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (losses((0.3, 0.9), (0.4, 0.8), (0.5, 0.7), (0.6, 0.6)), "certain"),
        (losses((0.4, 0.8), (0.5, 0.7), (0.6, 0.6)), None),  # twice only
        (losses((0.3, 0.9), (0.4, 0.8), (0.4, 0.7), (0.6, 0.6)), None),
        (losses((0.3, 0.9), (0.4, 0.8), (0.5, 0.8), (0.6, 0.6)), None),
        (losses((0.3, 0.9), (0.4, 0.8), (0.5, None), (0.6, 0.6)), None),
        (losses((0.3, 0.9), (None, 0.8), (0.5, 0.7), (0.6, 0.6)), None),
        (losses((0.6, 0.9), (0.5, 0.8), (0.4, 0.7), (0.3, 0.6)), None),
        (losses((0.3, 0.6), (0.4, 0.7), (0.5, 0.8), (0.6, 0.9)), None),  # both rise
    ],
)
def test_validation_loss_up_and_training_loss_down(found: History, expected: str | None) -> None:
    assert severity(overfitting(found, LIMITS)) == expected


# All of them


def test_checks_count_for_collapse_alone() -> None:
    """A sample of validation jumps, stands still and differs: that is what samples do."""
    full = {"num_windows": 1000, "roc_auc": 0.8, "train_loss": 0.5, "loss": 0.5}
    first = Scores(step=100, accuracy=0.80, **full)
    checks = [
        Scores(step=100 + n, accuracy=0.6, num_windows=256, roc_auc=0.8, loss=n, is_sample=True)
        for n in (1, 2, 3)
    ]
    last = Scores(step=200, accuracy=0.81, **full)
    others = {step: Scores(step=step, accuracy=0.8) for step in (100, 101, 102, 103, 200)}
    rows = [first, *checks, last]
    for end in range(1, 6):
        seen = history(*rows[:end], holdout=others)
        assert [name for name, rule in MONITORS.items() if rule(seen, LIMITS) is not None] == []
    # Nor do they come between the evaluations that stand still.
    still = [checks[0] if step == 2 else Scores(accuracy=0.75) for step in range(4)]
    assert severity(stagnation(history(*still), LIMITS)) == "certain"
    # What was found on full evaluations is not said again at a check.
    bad = accuracies(0.80, 0.70, 0.70, 0.70, 0.60)
    bad.holdout = {500: Scores(accuracy=0.9)}
    assert oscillation(bad, LIMITS) is not None
    assert divergence(bad, LIMITS) is not None
    bad.evaluations.append(checks[0])
    for rule in (stagnation, oscillation, divergence, overfitting):
        assert rule(bad, LIMITS) is None


def test_nothing_is_said_of_nothing() -> None:
    for seen in (History(), history(Scores())):
        assert [name for name, rule in MONITORS.items() if rule(seen, LIMITS) is not None] == []


@pytest.mark.parametrize("seed", range(100))
def test_a_healthy_run_is_left_alone(seed: int) -> None:
    """As the user expects of `transfer`, with the noise of 6,025 windows (0.5 points)."""
    noise = random.Random(seed)
    seen = History()
    for epoch in range(1, 31):
        gain = 1 - 0.8**epoch
        accuracy = 0.74 + 0.09 * gain + noise.gauss(0, 0.005)
        seen.evaluations.append(
            Scores(
                step=100 * epoch,
                epoch=epoch,
                num_windows=6025,
                accuracy=accuracy,
                balanced_accuracy=accuracy - 0.03,
                f1=0.80 + 0.05 * gain,
                roc_auc=0.80 + 0.09 * gain + noise.gauss(0, 0.003),
                loss=0.0355 - 0.0087 * gain,
                train_loss=0.0360 - 0.0120 * gain,
                rain_share=0.69,
                predicted_rain_share=0.72 + noise.gauss(0, 0.02),
            )
        )
        seen.holdout[100 * epoch] = Scores(
            step=100 * epoch, num_windows=6026, accuracy=accuracy - 0.01 + noise.gauss(0, 0.005)
        )
        said = [name for name, rule in MONITORS.items() if rule(seen, LIMITS) is not None]
        assert said == [], f"epoch {epoch}"
