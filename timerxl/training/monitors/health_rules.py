"""Monitors of the machinery and of success: numbers that are none, memory, time, dead inputs,
the target. As in :mod:`.rules`: pure functions of the history, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from timerxl.config import MonitorsConfig
from timerxl.training.monitors.verdicts import (
    CERTAIN,
    INFO,
    SUSPECTED,
    History,
    StepNumbers,
    Verdict,
    verdict_at,
)

EXPLODING = 100.0  # times the median gradient norm
SLOW_LOOKS = 3
MOST_SKIPPED = 15  # a scale of 2^16 is at 1 soon after, where DeepSpeed ends by an error of its own


def nonfinite(history: History, limits: MonitorsConfig) -> Verdict | None:
    """A loss or gradient norm that is no number, or a norm far above those before it."""
    if not history.steps:
        return None
    now = history.steps[-1]
    evidence: dict[str, object] = {"loss": now.loss, "grad_norm": now.grad_norm}
    where = f" ({now.batch})" if now.batch else ""
    at = f"epoch {now.epoch:g}" if now.step is None else f"step {now.step}"
    kept = f" The newest checkpoint is {now.checkpoint}." if now.checkpoint else ""
    for name in ("batch", "checkpoint"):
        evidence |= {name: found} if (found := getattr(now, name)) else {}
    if now.skipped >= MOST_SKIPPED:
        return Verdict(
            "nonfinite",
            CERTAIN,
            now.epoch,
            now.step,
            evidence | {"skipped_updates": now.skipped},
            f"fp16 has left out {now.skipped} updates in a row up to {at}: the "
            f"gradients are no numbers at any scale of the loss, and nothing is learned.{kept}",
            "Lower optim.lr, look for extreme values in the series, or use train.precision=fp32.",
        )
    for name, value in (("loss", now.loss), ("gradient norm", now.grad_norm)):
        if value is not None and not math.isfinite(value):
            return Verdict(
                "nonfinite",
                CERTAIN,
                now.epoch,
                now.step,
                evidence,
                f"the {name} is {value} at {at}{where}.{kept}",
                "Lower optim.lr, or look for extreme values in these windows of the series.",
            )
    usual = usual_norm(history.steps[:-1])
    is_early = now.step is not None and now.step < history.grace_steps
    if usual is None or is_early or not explodes(now.grad_norm, usual):
        return None
    norm = float(now.grad_norm or 0.0)
    return Verdict(
        "nonfinite",
        SUSPECTED,
        now.epoch,
        now.step,
        evidence | {"median_grad_norm": usual},
        f"the gradient norm exploded to {norm:.3g} at {at}, "
        f"{norm / usual:.0f} times its median{where}.{kept}",
        "It was clipped; if it comes again, lower optim.lr or look at these windows.",
    )


def usual_norm(steps: Sequence[StepNumbers]) -> float | None:
    """Median gradient norm of the 50 newest of these steps; None where under 20 are known."""
    norms = [step.grad_norm for step in steps[-50:] if step.grad_norm is not None]
    finite = [norm for norm in norms if math.isfinite(norm)]
    return max(median(finite), 1e-12) if len(finite) >= 20 else None


def explodes(norm: float | None, usual: float) -> bool:
    """Whether a gradient norm is far above the usual one."""
    return norm is not None and norm > EXPLODING * usual


def memory(history: History, limits: MonitorsConfig) -> Verdict | None:
    """Peak memory above ``memory_cap_gb`` (10^9 bytes)."""
    peak, cap = history.peak_memory_gb, limits.memory_cap_gb
    if peak is None or cap is None or peak <= cap:
        return None
    return verdict_at(
        "memory",
        CERTAIN,
        history.latest,
        {"peak_memory_gb": peak, "memory_cap_gb": cap},
        f"peak memory is {peak:.1f} GB, above the cap of {cap:g} GB.",
        f"python launch/plan.py --config RECIPE --fit {cap:g}GB finds settings that fit.",
    )


def slow(history: History, limits: MonitorsConfig) -> Verdict | None:
    """An epoch that will take ``slow_factor`` times what the plan said; certain at the third look
    in a row, since a device may be shared for a while."""
    planned, recent = history.planned_epoch_seconds, history.epoch_seconds[-SLOW_LOOKS:]
    if not planned or not recent or recent[-1] <= limits.slow_factor * planned:
        return None
    took = recent[-1]
    stays = len(recent) == SLOW_LOOKS and min(recent) > limits.slow_factor * planned
    return verdict_at(
        "slow",
        CERTAIN if stays else SUSPECTED,
        history.latest,
        {"epoch_seconds": took, "planned_epoch_seconds": planned},
        f"an epoch takes {took / 60:.1f} minutes, {took / planned:.1f} times the planned "
        f"{planned / 60:.1f}.",
        "Is the device shared, throttled, or waiting for data (loading_seconds)?",
    )


def dead_input(history: History, limits: MonitorsConfig) -> Verdict | None:
    """A feature that never varies in training, or gradients of exactly zero ten steps long."""
    norms = [s.grad_norm for s in history.steps[-10:]]
    if len(norms) == 10 and all(norm == 0.0 for norm in norms):
        return verdict_at(
            "dead_input",
            CERTAIN,
            history.latest,
            {"grad_norm": 0.0, "steps": 10},
            "the gradient norm has been exactly zero for ten logged steps: nothing is learned.",
            "Is everything frozen, or are all inputs or activations dead?",
        )
    if not history.dead_features:
        return None
    names = ", ".join(history.dead_features)
    return verdict_at(
        "dead_input",
        SUSPECTED,
        history.latest,
        {"features": list(history.dead_features)},
        f"never varying in the training windows: {names}.",
        "Leave them out of data.features, or find out why they are constant.",
    )


def target(history: History, limits: MonitorsConfig) -> Verdict | None:
    """F1 above ``target_f1``, validation and holdout within ``target_points``."""
    latest = history.latest
    if latest is None or latest.is_sample or limits.target_f1 is None or latest.f1 is None:
        return None
    other = history.elsewhere(latest)
    if latest.f1 <= limits.target_f1 or other is None or other[1].accuracy is None:
        return None
    gap = round(100 * ((latest.accuracy or math.nan) - other[1].accuracy), 9)
    if not abs(gap) <= limits.target_points:
        return None
    floor = latest.always_rain_f1
    if latest.says_one_class or (floor is not None and latest.f1 <= floor):
        return None  # no success: saying "rain" to everything gets as much
    beside = "" if floor is None else f"; always-rain has {floor:.3f}"
    return verdict_at(
        "target",
        INFO,
        latest,
        {"f1": latest.f1, "target_f1": limits.target_f1, "points": gap, "always_rain_f1": floor},
        f"F1 {latest.f1:.3f} is above the target of {limits.target_f1:g}{beside}; validation and "
        f"{other[0]} are {abs(gap):.1f} points apart.",
        "",
    )
