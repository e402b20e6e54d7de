"""What an audit says: findings by severity, facts by section, checks that could not be made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from timerxl.config import DataConfig
from timerxl.data.series import WeatherSeries
from timerxl.files import json_ready
from timerxl.untrusted import plain

SEVERITIES = ("fault", "warning", "note")
_SHORT_LINES = 8
# Regions that are listed one by one or compared in pairs; tables of more are described as a whole.
MOST_REGIONS = 1_000


@dataclass(frozen=True)
class Finding:
    """One thing to know of a series: ``summary`` holds the numbers in one sentence.

    ``severity``: a ``fault`` makes scores wrong, a ``warning`` may, a ``note`` is worth knowing.
    """

    severity: str
    name: str
    summary: str
    explanation: str
    remedy: str
    evidence: dict[str, Any]


@dataclass
class Subject:
    """What the checks look at: the series as read, its labels and windows, and what they are for.

    ``label`` and ``rained_before`` [R] are None where no label can be made. ``rows`` holds the
    issue rows of each split and is empty where the windows can't be built; ``refusals`` say why.
    ``label_columns`` [R] each: columns of the table that look like ready labels. ``description``
    is series.json, None where there is none. ``context_reason`` says whose context is used.
    """

    series: WeatherSeries
    data: DataConfig
    context_length: int
    context_reason: str
    label: np.ndarray | None = None
    rained_before: np.ndarray | None = None
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    split_method: dict[str, Any] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    label_columns: dict[str, np.ndarray] = field(default_factory=dict)
    description: dict[str, Any] | None = None

    def issue_rows(self) -> np.ndarray:
        """Return rows with a window, ascending; every labelled row where there are no windows."""
        if self.rows:
            return np.sort(np.concatenate(list(self.rows.values())))
        return np.flatnonzero(~np.isnan(self.label)) if self.label is not None else np.arange(0)


@dataclass
class Audit:
    """Facts in sections, findings, and the checks that do not apply with their reasons."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    sample: str | None = None  # what was looked at, where that was a part

    def find(
        self, severity: str, name: str, summary: str, explanation: str, remedy: str, **evidence: Any
    ) -> None:
        """Add a finding; ``evidence`` is its numbers for programs."""
        assert severity in SEVERITIES, severity
        self.findings.append(Finding(severity, name, summary, explanation, remedy, evidence))

    def skip(self, check: str, reason: str) -> None:
        """Say that a check does not apply."""
        self.skipped.append({"check": check, "reason": reason})

    def of(self, severity: str) -> list[Finding]:
        """Return findings of one severity in the order they were made."""
        return [finding for finding in self.findings if finding.severity == severity]

    def short_lines(self) -> list[str]:
        """Return faults, then warnings, a line each; at most eight, the last counts the rest."""
        lines = [
            f"{finding.severity}: {finding.summary}"
            for severity in SEVERITIES[:2]
            for finding in self.of(severity)
        ]
        if len(lines) > _SHORT_LINES:
            rest = len(lines) - _SHORT_LINES + 1
            lines = [
                *lines[: _SHORT_LINES - 1],
                f"and {rest} more: launch/prepare_data.py --audit SERIES shows all.",
            ]
        lines = lines if self.sample is None else [f"note: {self.sample}", *lines]
        return [plain(line) for line in lines]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; NaN becomes null."""
        ready = json_ready(
            {
                "format": 1,
                "counts": {severity: len(self.of(severity)) for severity in SEVERITIES},
                "findings": [
                    vars(finding) for severity in SEVERITIES for finding in self.of(severity)
                ],
                "facts": self.facts,
                "skipped": self.skipped,
            }
        )
        assert isinstance(ready, dict)
        return ready
