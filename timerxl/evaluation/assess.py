"""How good is the forecast, beside what, and how sure is that: scores, intervals, differences.

A forecast is P(rain) on the windows of validation and of the scored split. Everything chosen is
chosen on validation: thresholds, calibration, and the reference that skill is relative to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from timerxl.config import EvalConfig
from timerxl.evaluation.baselines import choose_reference, skill_score
from timerxl.evaluation.bootstrap import Resamples, resample_scores, why_no_interval
from timerxl.evaluation.calibration import Calibration, fit_calibration
from timerxl.evaluation.references import BEST_POSSIBLE, YES_NO, Probabilities
from timerxl.evaluation.scores import (
    NOT_FOR_SELECTION,
    PERFECT,
    best_threshold,
    forecast_scores,
    reliability,
)

Scores = dict[str, dict[str, float]]
VALIDATION = "validation"
MODELS = ("model", "model_calibrated")
# No reference a person could have used: the model itself, and knowledge of the truth.
_NO_REFERENCE = (*MODELS, *BEST_POSSIBLE)


@dataclass(frozen=True)
class Sample:
    """Labels [n] of 0 and 1 and issue times [n] of the windows that a split is scored on."""

    label: np.ndarray
    issue_time: np.ndarray


@dataclass(frozen=True)
class Decision:
    """What validation settled for the model: its threshold and its calibration."""

    threshold: float
    calibration: Calibration


def decide(config: EvalConfig, probability: np.ndarray, label: np.ndarray) -> Decision:
    """Choose the threshold (the recipe's, or the best on validation) and fit Platt calibration.

    ``probability`` and ``label`` [n] are those of the validation split.
    """
    if config.threshold == "auto":
        threshold = best_threshold(probability, label, config.threshold_score)
    else:
        threshold = float(config.threshold)
    return Decision(threshold, fit_calibration(probability, label))


def with_calibrated(probabilities: Probabilities, decision: Decision) -> Probabilities:
    """The forecasts with the calibrated model right behind the raw one."""
    model = probabilities["model"]
    calibrated = {split: decision.calibration.apply(given) for split, given in model.items()}
    rest = {name: given for name, given in probabilities.items() if name != "model"}
    return {"model": model, "model_calibrated": calibrated, **rest}


def thresholds_of(
    probabilities: Probabilities, label: np.ndarray, decision: Decision, config: EvalConfig
) -> dict[str, float]:
    """A threshold for each forecast, from validation; yes/no forecasts keep 0.5."""
    found = {}
    for name, of_split in probabilities.items():
        if name == "model":
            found[name] = decision.threshold
        elif name in YES_NO:
            found[name] = 0.5
        else:
            found[name] = best_threshold(of_split[VALIDATION], label, config.threshold_score)
    return found


def assess(
    probabilities: Probabilities,
    samples: dict[str, Sample],
    split: str,
    thresholds: dict[str, float],
    base_rate: float,
    config: EvalConfig,
    seed: int,
) -> dict[str, Any]:
    """Every forecast scored on validation and ``split``, with intervals and paired differences.

    Returns, ready for JSON: ``validation`` and ``scores`` (name -> key -> number), ``intervals``
    (name -> key -> [low, high]), ``references`` (key -> the best other forecast on validation),
    ``reliability`` (model -> points of the diagram), ``differences`` (key -> estimate, low, high of
    model minus reference, and the skill), and ``no_interval``, the reason where there are none.
    """
    validation, scores = (
        {
            name: forecast_scores(of_split[part], samples[part].label, thresholds[name], base_rate)
            for name, of_split in probabilities.items()
        }
        for part in (VALIDATION, split)
    )
    rivals = {name: given for name, given in validation.items() if name not in _NO_REFERENCE}
    # A score may be undefined for every rival, with one class on validation for instance.
    compared = [
        key
        for key in PERFECT
        if key not in NOT_FOR_SELECTION
        and not all(np.isnan(of_name[key]) for of_name in rivals.values())
    ]
    references = {key: choose_reference(rivals, key) for key in compared}
    found: dict[str, Any] = {
        "num_windows": len(samples[split].label),
        "rain_share": float(samples[split].label.mean()),
        "validation": validation,
        "scores": scores,
        "thresholds": thresholds,
        "references": references,
        "reliability": {
            name: reliability_points(probabilities[name][split], samples[split].label)
            for name in MODELS
        },
        "intervals": {},
        "differences": {
            key: {
                "reference": name,
                "estimate": scores["model"][key] - scores[name][key],
                "low": None,
                "high": None,
                "skill": skill_score(scores["model"][key], scores[name][key], PERFECT[key]),
            }
            for key, name in references.items()
        },
    }
    part = samples[split]
    found["no_interval"] = why_none(part, config)
    if found["no_interval"] is None:
        given = {name: of_split[split] for name, of_split in probabilities.items()}
        resamples = resampled(given, part, thresholds, base_rate, config, seed)
        found["intervals"] = {
            name: {key: interval_of(of_key) for key, of_key in of_name.items()}
            for name, of_name in resamples.items()
        }
        for key, difference in found["differences"].items():
            gap = resamples["model"][key].minus(resamples[references[key]][key])
            difference["low"], difference["high"] = interval_of(gap)
    return found


def reliability_points(probability: np.ndarray, label: np.ndarray) -> list[dict[str, float]]:
    """The reliability diagram's points, ready for JSON."""
    curve = reliability(probability, label)
    return [
        {"forecast": float(mean), "observed": float(share), "num_windows": int(count)}
        for mean, share, count in zip(
            curve.mean_probability, curve.observed_share, curve.num_windows, strict=True
        )
    ]


def why_none(sample: Sample, config: EvalConfig) -> str | None:
    """The reason why there are no intervals for this sample; None where there are."""
    if not config.num_resamples:
        return "no resamples were asked for"
    return why_no_interval(sample.issue_time, config.block_days)


def resampled(
    forecasts: dict[str, np.ndarray],
    sample: Sample,
    thresholds: dict[str, float],
    base_rate: float | None,
    config: EvalConfig,
    seed: int,
) -> dict[str, dict[str, Resamples]]:
    """Every score of every forecast on the same resampled blocks of time."""
    return resample_scores(
        forecasts,
        sample.label,
        sample.issue_time,
        thresholds,
        base_rate=base_rate,
        block_days=config.block_days,
        num_resamples=config.num_resamples,
        seed=seed,
    )


def interval_of(resamples: Resamples) -> list[float | None]:
    """[low, high] of the 95 % interval, ready for JSON."""
    interval = resamples.interval()
    return [interval.low, interval.high]
