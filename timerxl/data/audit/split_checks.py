"""Checks of the windows: what the context spans in time, and what a cut by rows does wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject, listed
from timerxl.data.splits import SPLITS

_LONG_CONTEXT_DAYS = 180.0


def context_days(subject: Subject) -> float:
    """Median length of the context in days, read off the time stamps inside one region."""
    series, steps = subject.series, subject.context_length
    rows = np.arange(steps - 1, len(series.timestamps))
    if rows.size:
        rows = rows[series.region_index[rows] == series.region_index[rows - steps + 1]]
    if not rows.size:
        return steps * series.step_hours / 24
    spans = series.timestamps[rows] - series.timestamps[rows - steps + 1]
    return float(np.median(spans / np.timedelta64(1, "D")) + series.step_hours / 24)


def check_context(subject: Subject, audit: Audit) -> None:
    """Real days of the context beside what it would be if a step were an hour."""
    series, steps = subject.series, subject.context_length
    days, believed = context_days(subject), steps / 24
    audit.facts["context"] = {
        "steps": steps,
        "step_hours": series.step_hours,
        "days": days,
        "days_if_hourly": believed,
        "from": subject.context_reason,
    }
    if series.step_hours == 1:
        return
    audit.find(
        "fault" if days > _LONG_CONTEXT_DAYS and series.step_hours > 1 else "note",
        "context_is_not_in_hours",
        f"the step is {series.step_hours:g} h: {steps} steps of {series.step_hours:g} h = "
        f"{days:g} days, not {believed:g}.",
        "Days of context come from the time stamps. Steps read as hours give a context of another "
        "length than meant, and the first windows of every region are spent on it.",
        f"For {believed:g} days take model.context_length={believed * 24 / series.step_hours:g} "
        "(a multiple of model.patch_length, which is in steps too), or bring hourly data.",
        steps=steps,
        step_hours=series.step_hours,
        days=days,
        days_if_hourly=believed,
    )


def check_windows(subject: Subject, audit: Audit) -> None:
    """Windows per split, and the reason as a fault where they can't be built."""
    for reason in subject.refusals:
        audit.find(
            "fault",
            "windows_refused",
            f"training would refuse this series: {reason}",
            "The rest of this audit holds all the same.",
            "See the message itself.",
            reason=reason,
        )
    if subject.rows:
        audit.facts["windows"] = {name: len(subject.rows[name]) for name in SPLITS}
        audit.facts["split"] = {"by": subject.data.split, **subject.split_method}


def check_split_by_rows(subject: Subject, audit: Audit) -> None:
    """All that ``data.split=rows`` does wrong with a table stacked region after region."""
    if subject.data.split != "rows":
        return
    if not subject.rows:
        audit.skip("split by rows", "the rows could not be cut: see the fault windows_refused.")
        return
    series, steps = subject.series, subject.context_length
    num_rows: dict[str, int] = subject.split_method["num_rows"]
    bounds = np.concatenate([[0], np.cumsum([num_rows[name] for name in SPLITS])])
    of_split: dict[str, dict[str, int]] = {}
    for name, low, high in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        counts = np.bincount(series.region_index[low:high], minlength=len(series.regions))
        of_split[name] = {
            region: int(count)
            for region, count in zip(series.regions, counts, strict=True)
            if count
        }
    issued = {name: subject.rows[name] for name in SPLITS}
    across = {
        name: int((series.region_index[rows] != series.region_index[rows - steps + 1]).sum())
        for name, rows in issued.items()
    }
    into = {
        name: int((issued[name] - steps + 1 < low).sum())
        for name, low in zip(SPLITS[1:], bounds[1:], strict=False)
    }
    if len(series.regions) > MOST_REGIONS:
        audit.skip("split by rows, rows of each region", "there are too many regions to list.")
    unseen = [region for region in series.regions if region not in of_split["train"]]
    total, crossing = sum(map(len, issued.values())), sum(across.values())
    cut = " / ".join(f"{num_rows[name]:,}" for name in SPLITS)
    facts: dict[str, Any] = {
        "rows": len(series.timestamps),
        "num_rows": num_rows,
        "regions": of_split if len(series.regions) <= MOST_REGIONS else {},
        "regions_unseen_in_training": unseen[:MOST_REGIONS],
        "windows": {name: len(rows) for name, rows in issued.items()},
        "windows_across_regions": across,
        "windows_reaching_into_the_split_before": into,
        "rain_share": _shares(subject),
    }
    audit.facts["split_by_rows"] = facts
    if len(series.regions) == 1:
        audit.find(
            "warning",
            "split_by_rows_without_embargo",
            f"data.split=rows leaves no embargo: {cut} rows of one region, and "
            f"{sum(into.values()):,} validation and test windows reach into the split before.",
            "The labels of the last training rows are rain of the validation times.",
            "data.split=time leaves one horizon between two splits.",
            **facts,
        )
        return
    held = "; ".join(f"{name}: {listed(list(of_split[name]))}" for name in SPLITS)
    audit.find(
        "fault",
        "split_by_rows_is_by_region",
        f"data.split=rows cuts by region, not by time: {len(series.timestamps):,} stacked rows -> "
        f"{cut}; {held}; training never sees {listed(unseen) or 'part of the last region'}.",
        f"{crossing:,} of {total:,} windows ({crossing / total:.0%}) run across two regions, "
        f"{sum(into.values()):,} validation and test windows reach into the split before. Class "
        f"shares ({_shares_in_words(facts['rain_share'])}) differ because the places do, which "
        "reads as overfitting.",
        "data.split=time cuts all regions at the same two times and leaves an embargo between.",
        **facts,
    )


def _shares(subject: Subject) -> dict[str, float | None]:
    shares: dict[str, float | None] = {}
    for name in SPLITS:
        rows = subject.rows[name]
        known = subject.label is not None and rows.size
        shares[name] = float(subject.label[rows].mean()) if known else None  # type: ignore[index]
    return shares


def _shares_in_words(shares: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None)
