"""What a run has done so far, as the loop counts it and a checkpoint keeps it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


def on_disk(name: str) -> str:
    """Return the key of a field in trainer_state.json, which older versions read and wrote too."""
    return "looked_step" if name == "last_evaluated_step" else name


@dataclass
class Progress:
    """``losses`` are those of the steps since the last evaluation. ``last_evaluated_step`` is the
    last step whose evaluation or check is done."""

    step: int = 0
    last_evaluated_step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    evaluations_without_gain: int = 0
    stop_reason: str = "all steps done"
    train_seconds: float = 0.0
    check_seconds: float = 0.0
    loading_seconds: float = 0.0
    samples_seen: int = 0
    resumes: int = 0
    losses: list[float] = field(default_factory=list)

    def forget_best(self) -> None:
        """The best model is not there: the next evaluation is the best again."""
        self.best_score, self.best_step = -math.inf, 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which keeps every digit of a float but knows no infinity: that is null."""
        found = {on_disk(name): value for name, value in asdict(self).items()}
        if not math.isfinite(self.best_score):
            found["best_score"] = None
        return found

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Progress:
        """Of a checkpoint; one more resume is counted."""
        fields = {name: value for name, value in saved.items() if name != "looked_step"}
        progress = cls(last_evaluated_step=saved.get("looked_step", 0), **fields)
        if saved["best_score"] is None:
            progress.best_score = -math.inf
        progress.resumes += 1
        return progress
