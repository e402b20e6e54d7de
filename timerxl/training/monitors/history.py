"""The monitors over a stream of events: those of a run as it goes, or of its metrics.jsonl again.

Events are the objects of metrics.jsonl. A live run and a replay go through the same lines, so that
``launch/diagnose.py`` says what the run itself said. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.rules import MONITORS
from timerxl.training.monitors.verdicts import CERTAIN, History, Scores, StepNumbers, Verdict

# Event -> monitors that have something new to look at.
_ALL_BUT_STEPS = ("collapse stagnation oscillation divergence overfitting target").split()
LOOKS_AT = {
    "start": ["dead_input"],
    "train": ["nonfinite", "dead_input"],
    "check": ["collapse"],
    "validation": _ALL_BUT_STEPS,
    "cost": ["memory", "slow"],
}
_KEPT_STEPS = 60  # what the monitors of steps look back on


def scores_of(event: Mapping[str, Any], is_sample: bool = False) -> Scores:
    """The part of an evaluation's event that monitors read.

    Null, NaN and infinities are "not known": JSON, which a replay reads, has but null for them.
    """
    known = {item.name for item in fields(Scores)} - {"is_sample"}
    values = {
        key: value
        for key, value in event.items()
        if key in known and value is not None and math.isfinite(value)
    }
    return Scores(**values, is_sample=is_sample)


def feed(history: History, event: Mapping[str, Any]) -> None:
    """Add one event to the history; events that say nothing to the monitors are passed over."""
    kind = event.get("event")
    if kind == "start":
        history.grace_steps = int(event.get("grace_steps") or 0)
        history.dead_features = list(event.get("dead_features") or [])
    elif kind == "plan":
        history.planned_epoch_seconds = event.get("epoch_seconds")
    elif kind == "train":
        loss, norm = event.get("loss"), event.get("grad_norm")
        history.steps.append(
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
        del history.steps[:-_KEPT_STEPS]
    elif kind in ("validation", "check"):
        history.evaluations.append(scores_of(event, is_sample=kind == "check"))
    elif kind == "holdout":
        history.holdout[event["step"]] = scores_of(event)
    elif kind == "test_every_epoch":
        # A log counts epochs alone; ``History.elsewhere`` looks there too.
        history.test[event["step"] if "step" in event else event["epoch"]] = scores_of(event)
    elif kind == "cost":
        history.peak_memory_gb = event.get("peak_memory_gb")
        if (seconds := event.get("epoch_seconds")) is not None:
            history.epoch_seconds.append(float(seconds))


@dataclass
class Watcher:
    """Feeds events to a history and asks the monitors that are on.

    ``repeat`` False says each (name, severity) once, as in a run; True every time, as in a replay.
    ``holdout`` and ``test_every_epoch`` events must come before the ``validation`` of their step.
    """

    limits: MonitorsConfig
    repeat: bool = False
    history: History = field(default_factory=History)
    verdicts: list[Verdict] = field(default_factory=list)

    def see(self, event: Mapping[str, Any]) -> list[Verdict]:
        """The verdicts that this event brings."""
        feed(self.history, event)
        found = []
        for name in LOOKS_AT.get(str(event.get("event")), []):
            if getattr(self.limits, name) == "off":
                continue
            verdict = MONITORS[name](self.history, self.limits)
            if verdict is not None and (self.repeat or not self._said(verdict)):
                found.append(verdict)
        self.verdicts += found
        return found

    def stops(self, verdict: Verdict) -> bool:
        """True where the recipe lets this verdict end the run: it is certain, or the target."""
        action = getattr(self.limits, verdict.name)
        return action == "stop" and (verdict.severity == CERTAIN or verdict.name == "target")

    def _said(self, verdict: Verdict) -> bool:
        return any(
            (said.name, said.severity) == (verdict.name, verdict.severity) for said in self.verdicts
        )
