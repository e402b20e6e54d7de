"""The numbers of a run that monitors look at, collected from its events. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

ONE_CLASS = 0.99  # share of windows forecast alike that counts as "all"
KEPT_STEPS = 60  # what the monitors of steps look back on


@dataclass(frozen=True)
class Scores:
    """One evaluation on validation (or a sample of it), on the holdout, or on test.

    Shares and accuracies are from 0 to 1; None is "not known" (a console log knows little).
    ``rain_share`` is the share of rain among the labels (``share_is_assumed``: inferred, since
    two evaluations got the same number of windows right), ``train_loss`` the mean training loss
    since the evaluation before, ``logit_spread`` the standard deviation of the logits' difference,
    ``accuracy_std_error`` from resampled blocks of time, ``is_sample`` a check between two
    evaluations. ``accuracy_rounding``: how far the accuracy of a log may be off, which was printed
    to a few digits; ``is_unchanged``: all the same it is known not to have changed.
    """

    step: int | None = None
    epoch: float | None = None
    num_windows: int | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    f1: float | None = None
    roc_auc: float | None = None
    loss: float | None = None
    train_loss: float | None = None
    rain_share: float | None = None
    share_is_assumed: bool = False
    predicted_rain_share: float | None = None
    logit_spread: float | None = None
    best_threshold: float | None = None
    accuracy_std_error: float | None = None
    accuracy_rounding: float | None = None
    is_unchanged: bool = False
    is_sample: bool = False

    @property
    def std_error(self) -> float | None:
        """Standard error of the accuracy. A run's comes from resampled blocks of time, or is not
        known; a log (no step) has counts alone, and windows are taken as independent: too small."""
        if self.accuracy_std_error is not None or self.step is not None:
            return self.accuracy_std_error
        if self.accuracy is None or not self.num_windows:
            return None
        return float((self.accuracy * (1 - self.accuracy) / self.num_windows) ** 0.5)

    @property
    def accuracy_tolerance(self) -> float:
        """Two accuracies this close are the same: half a window, half of the last digit that a log
        printed (of three decimals at least), or 5e-5."""
        if self.num_windows:
            return 0.5 / self.num_windows
        return min(max(self.accuracy_rounding or 0.0, 5e-5), 5e-4) + 1e-12

    @property
    def says_one_class(self) -> bool:
        """Whether (nearly) all forecasts are the same decision."""
        share = self.predicted_rain_share
        return share is not None and max(share, 1 - share) >= ONE_CLASS

    @property
    def roc_auc_std_error(self) -> float | None:
        """Standard error of the ROC-AUC of forecasts without skill (Mann & Whitney 1947), widened
        by as much as blocks of time widen that of the accuracy; None where the labels are not
        known."""
        share, count = self.rain_share, self.num_windows
        if share is None or not count or not 0 < share < 1:
            return None
        variance = (count + 1) / (12 * count**2 * share * (1 - share))
        accuracy, error = self.accuracy, self.accuracy_std_error
        if error is not None and accuracy is not None and 0 < accuracy < 1:
            variance *= max(1.0, error**2 * count / (accuracy * (1 - accuracy)))
        return float(variance**0.5)

    @property
    def always_rain_f1(self) -> float | None:
        """F1 of saying "rain" to everything, 2 p / (1 + p)."""
        return None if self.rain_share is None else 2 * self.rain_share / (1 + self.rain_share)


def scores_of(event: Mapping[str, Any], is_sample: bool = False) -> Scores:
    """Read the part of an evaluation's event that monitors use.

    Null, NaN and infinities are "not known": JSON, which a replay reads, has but null for them.
    """
    known = {item.name for item in fields(Scores)} - {"is_sample"}
    values = {
        key: value
        for key, value in event.items()
        if key in known and value is not None and math.isfinite(value)
    }
    return Scores(**values, is_sample=is_sample)


@dataclass(frozen=True)
class StepNumbers:
    """One optimizer step; ``batch`` says which windows (regions, times) it was made of,
    ``checkpoint`` which one is the newest, where something is wrong with it. ``skipped`` counts the
    updates in a row that fp16 left out, up to this one. A log counts epochs: ``step`` is None, and
    ``batch`` says which losses of the epoch it is about."""

    step: int | None
    epoch: float
    loss: float
    grad_norm: float | None
    batch: str = ""
    checkpoint: str = ""
    skipped: int = 0


@dataclass
class History:
    """The numbers so far, in order.

    ``holdout`` and ``test`` map the step (a log: the epoch) of an evaluation to its scores there.
    ``grace_steps``: until then a network may still say one class only.
    """

    evaluations: list[Scores] = field(default_factory=list)
    holdout: dict[float, Scores] = field(default_factory=dict)
    test: dict[float, Scores] = field(default_factory=dict)
    steps: list[StepNumbers] = field(default_factory=list)
    grace_steps: int = 0
    dead_features: list[str] = field(default_factory=list)
    peak_memory_gb: float | None = None
    epoch_seconds: list[float] = field(default_factory=list)
    planned_epoch_seconds: float | None = None

    @property
    def latest(self) -> Scores | None:
        return self.evaluations[-1] if self.evaluations else None

    @property
    def full(self) -> list[Scores]:
        """Evaluations on all of validation, without the checks between them."""
        return [scores for scores in self.evaluations if not scores.is_sample]

    def elsewhere(self, scores: Scores) -> tuple[str, Scores] | None:
        """Scores on the holdout (or, by the old habit, on test) beside these."""
        at = scores.step if scores.step is not None else scores.epoch
        if at is None:
            return None
        for name, found in (("holdout", self.holdout), ("test", self.test)):
            if at in found:
                return name, found[at]
        return None

    def add(self, event: Mapping[str, Any]) -> None:
        """Record one event; those that say nothing to the monitors are passed over."""
        kind = event.get("event")
        if kind == "start":
            self.grace_steps = int(event.get("grace_steps") or 0)
            self.dead_features = list(event.get("dead_features") or [])
        elif kind == "plan":
            self.planned_epoch_seconds = event.get("epoch_seconds")
        elif kind == "train":
            loss, norm = event.get("loss"), event.get("grad_norm")
            self.steps.append(
                StepNumbers(
                    step=None if event["step"] is None else int(event["step"]),
                    epoch=float(event.get("epoch") or 0.0),
                    # JSON knows no NaN: it is written as null.
                    loss=float("nan") if loss is None else float(loss),
                    grad_norm=None if norm is None else float(norm),
                    batch=str(event.get("batch") or ""),
                    checkpoint=str(event.get("checkpoint") or ""),
                    skipped=int(event.get("skipped") or 0),
                )
            )
            del self.steps[:-KEPT_STEPS]
        elif kind in ("validation", "check"):
            self.evaluations.append(scores_of(event, is_sample=kind == "check"))
        elif kind == "holdout":
            self.holdout[event["step"]] = scores_of(event)
        elif kind == "test_every_epoch":
            # A log counts epochs alone; ``elsewhere`` looks there too.
            self.test[event["step"] if "step" in event else event["epoch"]] = scores_of(event)
        elif kind == "cost":
            self.peak_memory_gb = event.get("peak_memory_gb")
            if (seconds := event.get("epoch_seconds")) is not None:
                self.epoch_seconds.append(float(seconds))
