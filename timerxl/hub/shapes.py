"""What the card reads of a run's files, and of what kind that must be to be published.

Shapes as timerxl.untrusted.misfit takes them. Other keys pass here (a newer run may hold more)
and are left out by timerxl.hub.allowed.
"""

from __future__ import annotations

from typing import Any

_NUMBER = (float, None)
_COSTS = ("peak_memory_gib", "epoch_seconds")
_INTERVAL = {"reference": str, "estimate": _NUMBER, "low?": _NUMBER, "high?": _NUMBER}
_POINT = {"num_windows": int, "forecast": _NUMBER, "observed": _NUMBER}
_PLANNED = [f"{a}_{b}" for a in ("predicted", "measured") for b in _COSTS]
_SCORES = {"brier": _NUMBER, "bss": _NUMBER, "ece": _NUMBER}
RESULTS: dict[str, Any] = {
    "test": _SCORES,
    "test_calibrated": _SCORES,
    "baselines": dict,
    "num_windows": {"test": int},
    "threshold?": _NUMBER,
    "calibration?": ({"slope": float, "intercept": float}, None),
    "reliability?": {"model_calibrated?": [_POINT]},
    "differences?": {f"{key}?": (_INTERVAL, None) for key in ("roc_auc", "mcc", "brier")},
    "no_interval?": (str, None),
    "gap_to_bayes_recovered?": _NUMBER,
    "num_parameters?": (int, None),
    "steps?": (int, None),
    "best_step?": (int, None),
    "stop_reason?": (str, None),
    "plan?": ({f"{key}?": _NUMBER for key in _PLANNED}, None),
}
PREPROCESSING: dict[str, Any] = {
    "context_days": float,
    "split": {"method": str, "validation_from?": str, "test_from?": str, "embargo_hours?": float},
    "source?": {"prepared?": ({"precipitation?": {"column": str}}, None)},
}
# Of what is left of it once what may not be published is out: the card can't do without.
PUBLISHED: dict[str, Any] = PREPROCESSING | {
    "feature_names": [str],
    "regions": [str],
    "step_hours": float,
    "context_length": int,
    "scaling": {"mean": [float], "std": [float], "log1p": [str]},
    "label": {"horizon_hours": float},
    "data": dict,
    "calibration?": ({"slope": float, "intercept": float}, None),
}
CONFIG: dict[str, Any] = {
    "recipe?": str,
    "data?": {"path?": (str, None)},
    "hub?": ({"data_licence?": (str, None)}, None),
    "eval?": {"threshold?": (str, float, None), "threshold_score?": (str, None)},
}
VERDICT: dict[str, Any] = {"verdicts?": [dict], "stopped_by?": (dict, None)}
ENVIRONMENT: dict[str, Any] = {"precision?": (str, None), "started?": (str, None)}
AUDIT: dict[str, Any] = {"lines?": [str]}
