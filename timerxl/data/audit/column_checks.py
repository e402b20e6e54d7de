"""Checks of the rows and columns: gaps, missing values, constants, copies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject, listed
from timerxl.data.splits import complete_rows

_MANY_MISSING = 0.05
_MANY_WINDOWS_LOST = 0.20


def check_series(subject: Subject, audit: Audit) -> None:
    """Rows, span, step, hours of the day, and gaps in time per region."""
    series = subject.series
    seconds = np.unique(series.timestamps.astype(np.int64) % 86400)
    audit.facts["series"] = {
        "rows": len(series.timestamps),
        "regions": len(series.regions),
        "features": len(series.feature_names),
        "feature_names": list(series.feature_names),
        "first": str(series.timestamps.min()),
        "last": str(series.timestamps.max()),
        "step_hours": series.step_hours,
        "hours_of_day": (seconds / 3600).tolist() if len(seconds) <= 24 else None,
        "is_synthetic": series.is_synthetic,
        "source": str(series.source.get("path", "built-in synthetic series")),
        "has_description": subject.description is not None,
    }
    starts = series.segment_starts()
    step = series.step.astype(np.int64)
    regions: list[dict[str, Any]] = []
    for name, rows in zip(series.regions, series.rows_of_regions(), strict=True):
        if not rows.size:
            continue
        after = rows[1:][starts[rows[1:]]]
        lost = (series.timestamps[after] - series.timestamps[after - 1]).astype(np.int64)
        lost = lost // step - 1
        worst = int(np.argmax(lost)) if lost.size else None
        regions.append(
            {
                "region": name,
                "rows": len(rows),
                "first": str(series.timestamps[rows[0]]),
                "last": str(series.timestamps[rows[-1]]),
                "gaps": len(lost),
                "missing_steps": int(lost.sum()),
                "longest_gap_steps": int(lost.max()) if lost.size else 0,
                "longest_gap_after": (
                    None if worst is None else str(series.timestamps[after[worst] - 1])
                ),
            }
        )
    audit.facts["regions"] = regions[:MOST_REGIONS]
    if len(regions) > MOST_REGIONS:
        audit.skip("table of regions", f"it shows the first {MOST_REGIONS:,} of {len(regions):,}.")
    gaps = sum(region["gaps"] for region in regions)
    if gaps:
        missing = sum(region["missing_steps"] for region in regions)
        share = missing / (missing + len(series.timestamps))
        worst_region = max(regions, key=lambda region: region["longest_gap_steps"])
        audit.find(
            "warning" if share > 0.01 else "note",
            "gaps_in_time",
            f"{gaps} gaps in time, {missing:,} steps missing ({share:.1%}); the longest is "
            f"{worst_region['longest_gap_steps']} steps in {worst_region['region']} after "
            f"{worst_region['longest_gap_after']}.",
            "No window and no label runs over a gap: each costs a whole context of windows.",
            "Bring the missing times, or shorten model.context_length.",
            gaps=gaps,
            missing_steps=missing,
            missing_share=share,
        )


def check_missing(subject: Subject, audit: Audit) -> None:
    """Missing values per column, as they were and after filling, and the windows they cost."""
    series = subject.series
    total = len(series.timestamps)
    filled = series.source.get("filled_values", {})
    table: list[dict[str, Any]] = []
    for name, column in zip(series.feature_names, series.values.T, strict=True):
        left = int(np.isnan(column).sum())
        missing = left + int(filled.get(name, 0))
        table.append(
            {"column": name, "missing": missing, "share": missing / total, "left": left},
        )
    audit.facts["missing"] = table
    if series.precipitation_mm is not None:
        count = int(np.isnan(series.precipitation_mm).sum())
        audit.facts["missing_precipitation"] = {"missing": count, "share": count / total}
    many = [row for row in table if row["share"] > _MANY_MISSING]
    if many:
        worst = max(many, key=lambda row: row["share"])
        audit.find(
            "warning",
            "missing_values",
            f"columns that miss more than {_MANY_MISSING:.0%} of their values: {len(many)} "
            f"({listed([row['column'] for row in many])}), at most {worst['share']:.1%} in "
            f"{worst['column']}.",
            "Short holes are filled with the last value, longer ones cost the windows over them.",
            "List data.features without these columns, or bring better data.",
            columns={row["column"]: row["share"] for row in many},
        )
    _windows_lost(subject, audit)


def _windows_lost(subject: Subject, audit: Audit) -> None:
    series, steps = subject.series, subject.context_length
    if not subject.rows or subject.data.split == "rows" or not np.isnan(series.values).any():
        return
    rows = np.arange(len(series.timestamps))
    whole = rows - series.segment_first_rows() + 1 >= steps
    lost = 1 - float(complete_rows(series, steps)[whole].mean())
    missing = {
        name: float(np.isnan(column).mean())
        for name, column in zip(series.feature_names, series.values.T, strict=True)
    }
    worst = max(missing, key=lambda name: missing[name])
    audit.find(
        "warning" if lost > _MANY_WINDOWS_LOST else "note",
        "windows_lost_to_missing_values",
        f"{lost:.1%} of the full contexts hold a missing value and issue no window; most often "
        f"missing after filling: {worst} ({missing[worst]:.2%}).",
        "One missing value takes out every window that runs over it.",
        "Raise data.max_fill_hours, list data.features without that column, or shorten the "
        "context.",
        share_lost=lost,
        column=worst,
    )


def check_columns(subject: Subject, audit: Audit) -> None:
    """Columns of one value, and columns that repeat another one exactly.

    What ``check_codes`` took for a code for "missing" is no constant.
    """
    series = subject.series
    coded = audit.facts.get("missing_codes", {})
    constant: list[str] = []
    twins: dict[str, list[str]] = {}
    for name, column in zip(series.feature_names, series.values.T, strict=True):
        known = column[~np.isnan(column)]
        if known.size and known.min() == known.max():
            if name not in coded:
                constant.append(name)
            continue
        # Adding 0 makes -0 a 0; one bit pattern stands for every NaN.
        clean = np.ascontiguousarray(np.where(np.isnan(column), np.float32(np.nan), column + 0.0))
        twins.setdefault(hashlib.sha256(clean.tobytes()).hexdigest(), []).append(name)
    copies = [names for names in twins.values() if len(names) > 1]
    audit.facts["columns"] = {"constant": constant, "duplicated": copies}
    if constant:
        audit.find(
            "warning",
            "constant_columns",
            f"{len(constant)} columns hold one value everywhere: {listed(constant)}.",
            "They tell the model nothing and cost memory: every variable adds its patches to the "
            "tokens of a sample.",
            "Leave them out of data.features.",
            columns=constant,
        )
    if copies:
        pairs = listed([" = ".join(names) for names in copies])
        audit.find(
            "warning",
            "duplicated_columns",
            f"{sum(len(names) - 1 for names in copies)} columns repeat another: {pairs}.",
            "A copy adds tokens and no information.",
            "Keep one of each in data.features.",
            columns=copies,
        )
