"""What a run says of itself before its first step: its data, its work, what monitors must know."""

from __future__ import annotations

from typing import Any

from timerxl.config import RunConfig
from timerxl.data.audit.auditor import audit_windows
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.training.assembly import class_share_lines
from timerxl.training.batches import BatchPlan
from timerxl.training.monitors.runner import dead_features
from timerxl.training.tracking import Log

GRACE_STEPS = 200  # of warm-up, or an epoch of it, in which nothing is certain yet


def load_windows(config: RunConfig, log: Log) -> tuple[WeatherWindows, list[str]]:
    """The series as windows and the audit's lines; what a reader must know is logged."""
    series = load_series(config.data)
    if series.is_synthetic:
        log("data: SYNTHETIC series from the built-in generator (data.path=PATH for your own).")
    windows = build_windows(series, config.data, config.model.context_length)
    for note in windows.notes:
        log(f"data: {note}")
    log(
        f"context {config.model.context_length} steps of {series.step_hours:g} h = "
        f"{windows.context_days:g} days; {len(series.feature_names)} features, "
        f"{len(series.regions)} regions."
    )
    for line in class_share_lines(windows):
        log(line)
    audit = audit_windows(windows, config).short_lines()
    for line in audit:
        log(f"audit: {line}")
    if "holdout" not in windows.splits:
        log(
            "note: no holdout (data.holdout_fraction=0): the monitors divergence and target have "
            "nothing to compare validation with."
        )
    if config.eval.test_every_epoch:
        log(
            "warning: eval.test_every_epoch scores the test split at every evaluation: whoever "
            "decides by it has no unseen test left, and the report says so."
        )
    return windows, audit


def work_line(
    config: RunConfig, settings: Any, plan: BatchPlan, total_steps: int, model: Any
) -> str:
    """What a step and the whole run are made of, in a sentence."""
    tokens = settings.num_variables * (config.model.context_length // config.model.patch_length)
    return (
        f"{plan.num_samples:,} training windows, global batch {plan.global_batch_size} = "
        f"{plan.batch_size} x {plan.accumulation_steps} accumulation x {plan.world_size} ranks, "
        f"{plan.steps_per_epoch} steps an epoch, {total_steps} in all; {tokens} tokens and "
        f"{model.flops_per_sample() / 1e9:.3g} GFLOP a sample."
    )


def start_event(
    config: RunConfig, windows: WeatherWindows, plan: BatchPlan, total_steps: int, check_every: int
) -> dict[str, Any]:
    """What the monitors and the page must know of the run before its first step."""
    shares: dict[str, dict[str, float | None]] = {}
    for row in windows.class_shares():
        shares.setdefault(row["split"], {})[row["region"]] = row["rain_share"]
    warmup = round(config.optim.warmup_ratio * total_steps)
    return {
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": total_steps,
        "check_every": check_every,
        # Until then a healthy network may still say one class only, or rank nothing.
        "grace_steps": min(warmup, max(plan.steps_per_epoch, GRACE_STEPS)),
        "dead_features": dead_features(windows),
        "class_shares": shares,
    }
