"""Skill relative to a reference: how much of the way from it to a perfect forecast is gone?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from timerxl.config import InputError
from timerxl.evaluation.scores import PERFECT


def choose_reference(validation_scores: Mapping[str, Mapping[str, float]], key: str) -> str:
    """The name whose ``key`` is nearest to perfect on VALIDATION, the first of equal ones.

    ``validation_scores`` is name -> key -> score; leave the model itself out. NaN never wins.
    Choosing on test would pick the opponent that happened to do well (or badly) there. Raises
    InputError on a key without a perfect value, and where no name has a number.
    """
    best = _perfect(key)
    gaps = {name: abs(best - scores[key]) for name, scores in validation_scores.items()}
    gaps = {name: gap for name, gap in gaps.items() if not math.isnan(gap)}
    if not gaps:
        raise InputError(
            f"no reference has a number for {key} (of {len(validation_scores)} forecasts)."
        )
    return min(gaps, key=gaps.__getitem__)


def skill_score(score: float, reference_score: float, perfect: float) -> float:
    """(score - reference) / (perfect - reference); 1 is perfect, 0 as the reference, below worse.

    NaN where the reference is perfect. For the Brier score (perfect 0) it is the Brier skill score.
    Not for ``bias``, which can be off on either side. Wilks (2011), Statistical Methods in the
    Atmospheric Sciences, section 8.1.
    """
    way = perfect - reference_score
    return (score - reference_score) / way if way else math.nan


def _perfect(key: str) -> float:
    if key not in PERFECT:
        raise InputError(f"{key!r} has no perfect value; expected one of {', '.join(PERFECT)}.")
    return PERFECT[key]
