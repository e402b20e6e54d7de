"""How a run ended, and what its monitors said, in an order for reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from timerxl.report.run_record import Content, Run, get, number
from timerxl.training.monitors.verdicts import CERTAIN, INFO, SEVERITIES, SUSPECTED


@dataclass(frozen=True)
class Outcome:
    """``kind`` is one of finished, stopped, running, failed, unknown; ``symbol`` is its shape."""

    kind: str
    symbol: str
    word: str
    sentence: str


@dataclass(frozen=True)
class Said:
    """A verdict with its number in the page and what was done about it."""

    number: int
    name: str
    severity: str
    place: float | None  # on the axis of the curves
    epoch: float | None
    step: float | None
    explanation: str
    remedy: str
    action: str
    stopped: bool
    evidence: dict[str, Any] = field(default_factory=dict)


def outcome_of(run: Run) -> Outcome:
    """From status.json; nothing is guessed where it is missing."""
    if run.status is None:
        return Outcome("unknown", "?", "UNKNOWN", "There is no status.json that could be read.")
    code, reason = number(run.status.get("code")), str(run.status.get("reason") or "")
    if code == 0:
        return Outcome("finished", "✔", "FINISHED", _reason(get(run.results, "stop_reason")))
    if code == 3:
        name = get(run.verdict, "stopped_by", "name")
        by = f" by {name}" if name else " by a monitor"
        return Outcome("stopped", "■", f"STOPPED{by}", _reason(reason))
    if code == 1 and reason == "running":
        return Outcome(
            "running",
            "▶",
            "RUNNING",
            'status.json says "running": under way when this page was written, or killed since.',
        )
    if code == 1:
        return Outcome("failed", "✖", "FAILED", _reason(reason))
    if code == 2:
        return Outcome("failed", "✖", "BAD INPUT", _reason(reason))
    if code == 4:
        return Outcome("failed", "✖", "STORAGE", _reason(reason))
    if code in (129, 130, 143):  # SIGHUP, SIGINT, SIGTERM
        return Outcome("stopped", "■", "INTERRUPTED", _reason(reason))
    return Outcome("unknown", "?", "UNKNOWN", f"status.json has code {run.status.get('code')}.")


def _reason(reason: Any) -> str:
    text = str(reason or "").strip()
    return f"{text[0].upper()}{text[1:]}" if text else ""


def verdicts_of(run: Run) -> list[Said]:
    """What stopped the run first, then by severity and time.

    From verdict.json; of a run that has none yet from the events of metrics.jsonl.
    """
    told = get(run.verdict, "verdicts")
    given = told if isinstance(told, list) else run.events.get("verdict", [])
    found = [verdict for verdict in given if isinstance(verdict, dict)]
    stopper = get(run.verdict, "stopped_by")
    if isinstance(stopper, dict) and not any(_same(verdict, stopper) for verdict in found):
        found.insert(0, stopper)

    def urgency(verdict: Content) -> tuple[bool, int, float]:
        severity = verdict.get("severity")
        rank = SEVERITIES.index(severity) if severity in SEVERITIES else 1
        return not _same(verdict, stopper), -rank, number(verdict.get("step")) or 0.0

    return [
        _said(index, verdict, run, _same(verdict, stopper))
        for index, verdict in enumerate(sorted(found, key=urgency), start=1)
    ]


def _same(verdict: Content, stopper: Any) -> bool:
    return isinstance(stopper, dict) and all(
        verdict.get(key) == stopper.get(key) for key in ("name", "severity", "step", "epoch")
    )


def _said(index: int, verdict: Content, run: Run, stopped: bool) -> Said:
    evidence, severity = verdict.get("evidence"), str(verdict.get("severity") or "")
    return Said(
        number=index,
        name=str(verdict.get("name") or "unnamed"),
        severity=severity if severity in SEVERITIES else SUSPECTED,
        place=run.place(verdict),
        epoch=number(verdict.get("epoch")),
        step=number(verdict.get("step")),
        explanation=str(verdict.get("explanation") or ""),
        remedy=str(verdict.get("remedy") or ""),
        action=str(verdict.get("action") or ""),
        stopped=stopped,
        evidence=evidence if isinstance(evidence, dict) else {},
    )


# Never by colour alone: a severity has a sign in words' company, and a marker in the curves.
SIGNS = {CERTAIN: "✖", SUSPECTED: "▲", INFO: "●"}
MARKERS = {CERTAIN: "X", SUSPECTED: "^", INFO: "o"}
