"""What is known of a column, and how: its record in series.json, in the audit and on the card."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

KnownBy = Literal["said", "file", "inferred", "assumed"]
KINDS = ("instant", "sum", "mean", "max", "min", "step")


@dataclass(frozen=True)
class Fact:
    """One thing that is known: ``said`` by the user, told by the ``file`` (attributes, names,
    layout), ``inferred`` from the values, or ``assumed`` because nothing speaks against it."""

    value: Any
    known_by: KnownBy
    evidence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in series.json."""
        return {"value": self.value, "known_by": self.known_by, "evidence": self.evidence}


def time_meaning(kind: str, hours: float | None, stamp: str = "end") -> dict[str, Any]:
    """What a stamp means: ``instant``, or a sum, mean, max or min over ``hours`` that end there.

    ``step``: some value of the ``hours`` that end there; a table seldom tells which.

    ``stamp`` is what the FILE's stamps were ("start" or "end"); the series' own are always ends.
    """
    assert kind in KINDS, kind
    return {"kind": kind, "hours": hours, "file_stamp": stamp}


@dataclass
class ColumnRecord:
    """``name`` in the file; ``unit`` that of the file, ``written_as`` that of the series (None: as
    in the file); ``missing`` the codes that were masked, each with count and how it was known."""

    name: str
    quantity: Fact | None = None
    unit: Fact | None = None
    written_as: str | None = None
    time: Fact | None = None
    missing: list[dict[str, Any]] = field(default_factory=list)

    def masked(self, counts: dict[float, int], known_by: KnownBy, evidence: str = "") -> None:
        """Note codes that were masked, with how often each stood there."""
        self.missing += [
            # JSON has no infinity.
            {
                "value": value if isfinite(value) else str(value),
                "count": count,
                "known_by": known_by,
                "evidence": evidence,
            }
            for value, count in counts.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in series.json under the column's ``record``."""
        facts = {"quantity": self.quantity, "unit": self.unit, "time": self.time}
        return {
            "name": self.name,
            **{key: None if fact is None else fact.to_dict() for key, fact in facts.items()},
            "written_as": self.written_as,
            "missing": self.missing,
        }
