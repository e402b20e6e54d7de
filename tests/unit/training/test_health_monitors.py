"""Numbers that are none, memory, time, dead inputs, the target: at the boundary of each limit."""

from __future__ import annotations

import math
from typing import Any

import pytest

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.history import History, Scores, StepNumbers
from timerxl.training.monitors.rules import Verdict, dead_input, memory, nonfinite, slow, target

LIMITS = MonitorsConfig()
NAN, INF = math.nan, math.inf


def severity(verdict: Verdict | None) -> str | None:
    return None if verdict is None else verdict.severity


def steps(*norms: float | None, loss: float = 0.6, **rest: Any) -> History:
    """Logged steps 1, 2, ...; ``loss`` is that of the last."""
    rows = [
        StepNumbers(step=n, epoch=n / 100, loss=0.6, grad_norm=norm, batch=f"batch {n}")
        for n, norm in enumerate(norms, start=1)
    ]
    rows[-1] = StepNumbers(len(rows), len(rows) / 100, loss, norms[-1], f"batch {len(rows)}")
    return History(steps=rows, **rest)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_loss_or_a_gradient_that_is_no_number(value: float) -> None:
    for found in (nonfinite(steps(1.0, loss=value), LIMITS), nonfinite(steps(value), LIMITS)):
        assert found is not None
        assert (found.severity, found.step, found.epoch) == ("certain", 1, 0.01)
        assert "(batch 1)" in found.explanation  # which windows
        assert found.evidence["batch"] == "batch 1"
    # In the grace steps too, and only the latest step is looked at.
    assert severity(nonfinite(steps(value, grace_steps=10), LIMITS)) == "certain"
    assert nonfinite(steps(value, 1.0), LIMITS) is None
    assert nonfinite(History(), LIMITS) is None


@pytest.mark.parametrize(
    ("before", "latest", "expected"),
    [
        ([1.0] * 20, 100.0, None),  # a hundred times the median; more is asked for
        ([1.0] * 20, 100.1, "suspected"),
        ([1.0] * 19, 1e6, None),  # too few steps to know the median
        ([1.0] * 11 + [50.0] * 9, 100.1, "suspected"),
        ([1.0] * 9 + [50.0] * 11, 100.1, None),
        # Only the last fifty before it: their median is 1, that of all is 3.
        ([3.0] * 60 + [1.0] * 50, 150.0, "suspected"),
        ([1.0] * 60 + [3.0] * 50, 150.0, None),
        ([1.0] * 20, None, None),
        ([1.0] * 19 + [None] * 5, 1e6, None),
        ([1.0] * 19 + [NAN] * 5, 1e6, None),  # skipped steps of fp16 make no median
        ([NAN] * 15 + [1.0] * 20, 100.1, "suspected"),
        ([INF] * 15 + [1.0] * 20, 100.1, "suspected"),
        ([0.0] * 20, 1e-9, "suspected"),
    ],
)
def test_a_gradient_far_above_those_before(
    before: list[float | None], latest: float | None, expected: str | None
) -> None:
    assert severity(nonfinite(steps(*before, latest), LIMITS)) == expected


def test_a_gradient_may_explode_in_the_grace_steps() -> None:
    norms = [1.0] * 24 + [1000.0]  # the last is step 25
    assert nonfinite(steps(*norms, grace_steps=26), LIMITS) is None
    found = nonfinite(steps(*norms, grace_steps=25), LIMITS)
    assert found is not None
    assert found.severity == "suspected"
    assert found.evidence["median_grad_norm"] == 1.0
    assert "1000 times its median (batch 25)" in found.explanation


def test_what_went_wrong_names_its_windows_and_the_newest_checkpoint() -> None:
    before = [StepNumbers(step=n, epoch=0.1, loss=0.5, grad_norm=1.0) for n in range(20)]
    odd = {"step": 20, "epoch": 0.2, "batch": "64 windows of selva", "checkpoint": "step_00000010"}
    for numbers in ({"loss": NAN, "grad_norm": None}, {"loss": 0.5, "grad_norm": 1e4}):
        found = nonfinite(History(steps=[*before, StepNumbers(**odd, **numbers)]), LIMITS)
        assert found is not None
        assert "(64 windows of selva)" in found.explanation
        assert "newest checkpoint is step_00000010" in found.explanation
        assert found.evidence["checkpoint"] == "step_00000010"
    bare = StepNumbers(step=20, epoch=0.2, loss=0.5, grad_norm=1e4)
    found = nonfinite(History(steps=[*before, bare]), LIMITS)
    assert found is not None
    assert "()" not in found.explanation
    assert "checkpoint" not in found.explanation


@pytest.mark.parametrize(("skipped", "expected"), [(14, None), (15, "certain")])
def test_fp16_that_leaves_out_every_update(skipped: int, expected: str | None) -> None:
    now = StepNumbers(step=30, epoch=0.1, loss=0.7, grad_norm=None, skipped=skipped)
    found = nonfinite(History(steps=[now]), LIMITS)
    assert severity(found) == expected
    assert found is None or found.evidence["skipped_updates"] == 15


@pytest.mark.parametrize(
    ("peak", "cap", "expected"),
    [(7.0, 7.0, None), (7.01, 7.0, "certain"), (99.0, None, None), (None, 7.0, None)],
)
def test_memory_above_its_cap(peak: float | None, cap: float | None, expected: str | None) -> None:
    limits = MonitorsConfig(memory_cap_gb=cap)
    assert severity(memory(History(peak_memory_gb=peak), limits)) == expected


@pytest.mark.parametrize(
    ("looks", "planned", "expected"),
    [
        ([300.0], 100.0, None),  # three times
        ([300.1], 100.0, "suspected"),
        ([300.1] * 2, 100.0, "suspected"),
        ([300.1] * 3, 100.0, "certain"),  # at three looks in a row
        ([300.1, 300.0, 300.1, 300.1], 100.0, "suspected"),
        ([100.0, 300.1, 300.1, 300.1], 100.0, "certain"),
        ([300.1] * 3 + [300.0], 100.0, None),
        ([], 100.0, None),
        ([300.0] * 3, None, None),
        ([300.0] * 3, 0.0, None),
    ],
)
def test_an_epoch_slower_than_planned(
    looks: list[float], planned: float | None, expected: str | None
) -> None:
    seen = History(epoch_seconds=looks, planned_epoch_seconds=planned)
    assert severity(slow(seen, LIMITS)) == expected


@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([0.0] * 10, "certain"),
        ([0.0] * 9, None),
        ([0.0] * 9 + [1e-30], None),
        ([1.0] + [0.0] * 10, "certain"),
        ([0.0] * 5 + [None] + [0.0] * 5, None),
    ],
)
def test_gradients_of_exactly_zero(norms: list[float | None], expected: str | None) -> None:
    assert severity(dead_input(steps(*norms), LIMITS)) == expected


def test_features_that_never_vary_are_named() -> None:
    found = dead_input(History(dead_features=["swvl4", "oni"]), LIMITS)
    assert found is not None
    assert (found.severity, found.evidence) == ("suspected", {"features": ["swvl4", "oni"]})
    assert "swvl4, oni" in found.explanation
    assert severity(dead_input(steps(*[0.0] * 10, dead_features=["oni"]), LIMITS)) == "certain"
    assert dead_input(History(), LIMITS) is None


def scored(f1: float | None, here: float | None, there: float | None, **rest: Any) -> History:
    latest = Scores(step=9, f1=f1, accuracy=here, rain_share=0.69, **rest)
    return History(evaluations=[latest], holdout={9: Scores(accuracy=there)})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (scored(0.82, 0.8, 0.8), None),  # above the target is asked for
        (scored(0.821, 0.8, 0.8), "info"),
        (scored(0.83, 0.84, 0.82), "info"),  # exactly two points apart
        (scored(0.83, 0.82, 0.84), "info"),
        (scored(0.83, 0.8401, 0.82), None),
        (scored(0.83, 0.82, 0.8401), None),
        (scored(None, 0.8, 0.8), None),
        (scored(0.83, None, 0.8), None),
        (scored(0.83, 0.8, None), None),
        (scored(0.83, 0.8, 0.8, is_sample=True), None),
        (scored(0.83, 0.8, 0.8, predicted_rain_share=0.98), "info"),
        (scored(0.83, 0.8, 0.8, predicted_rain_share=0.99), None),  # "rain" for everything
        (History(evaluations=[Scores(step=9, f1=0.9, accuracy=0.8)]), None),
        (History(), None),
    ],
)
def test_the_target_needs_f1_and_a_holdout_close_by(seen: History, expected: str | None) -> None:
    limits = MonitorsConfig(target_f1=0.82)
    # No target at or below what "rain" for everything gets is a success.
    assert target(scored(0.8165, 0.8, 0.8), MonitorsConfig(target_f1=0.8)) is None
    found = target(seen, limits)
    assert severity(found) == expected
    assert target(seen, LIMITS) is None  # no target_f1
    if found is not None:
        # 2 * 0.69 / 1.69: the target is barely above saying "rain" always.
        assert found.evidence["always_rain_f1"] == pytest.approx(0.816568, abs=1e-6)
        assert "always-rain has 0.817" in found.explanation
