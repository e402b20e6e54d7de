"""Checks of rows and columns: gaps, missing values and codes, constants, copies, what is known."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject
from timerxl.data.preprocessing import complete_rows
from timerxl.data.tables.columns import (
    Code,
    find_codes,
    limits_of,
    share_text,
    time_words,
    words_of,
)
from timerxl.untrusted import listed

_SHOWN = 12


def records_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """Return column -> record, of the features and of the precipitation; {} for an older series."""
    described = (subject.description or {}).get("columns", {})
    rain = subject.data.precipitation_column
    of_rain = described.get(rain, {}).get("record")
    found = {rain: of_rain} if of_rain else {}
    return found | subject.series.source.get("records", {})


def check_known(subject: Subject, audit: Audit) -> None:
    """Report the table of what is known, and a warning for what was assumed and matters."""
    records, step_hours = records_of(subject), subject.series.step_hours
    audit.facts["columns_known"] = [
        {"column": column, **record} for column, record in records.items()
    ]
    units = {column: record.get("unit") or {} for column, record in records.items()}
    assumed = {c: unit["value"] for c, unit in units.items() if unit.get("known_by") == "assumed"}
    if assumed:
        evidence = units[next(iter(assumed))].get("evidence")
        named = listed([f"{column} in {unit}" for column, unit in assumed.items()])
        audit.find(
            "warning",
            "unit_assumed",
            f"a unit is assumed: {named}{f' ({evidence})' if evidence else ''}.",
            "Rain in inches or tenths of mm that is taken for mm moves every threshold and label.",
            "Say it: data.precipitation_unit=UNIT, or --unit COLUMN=UNIT of "
            "launch/prepare_data.py.",
            columns=assumed,
        )
    # An instant within the hour can't be far off; every sum, mean or extreme can.
    meant: dict[str, list[str]] = {}
    for column, record in records.items():
        time = record.get("time")
        if time is None or time["known_by"] != "assumed" or time["value"]["kind"] == "step":
            continue
        if time["value"]["kind"] != "instant" or step_hours > 1:
            meant.setdefault(time_words(record), []).append(column)
    if meant:
        in_words = "; ".join(f"{words} for {listed(columns)}" for words, columns in meant.items())
        audit.find(
            "warning" if step_hours > 1 else "note",
            "stamp_assumed",
            f"what a stamp means is assumed: {in_words}.",
            "Where a stamp is the start of its period, a feature holds the rain that it is to tell "
            "beforehand; where a sum covers part of a step, rain is missed.",
            "Look it up where the data come from, and say it: --meaning COLUMN=sum:24h@start, "
            "instant, mean:24h, ... of launch/prepare_data.py.",
            columns=meant,
        )


def check_left_out(subject: Subject, audit: Audit) -> None:
    """Report columns of the table that are no features, with the reasons."""
    skipped: dict[str, str] = subject.series.source.get("skipped_columns", {})
    audit.facts["left_out"] = skipped
    if not skipped:
        return
    of: dict[str, list[str]] = {}
    for column, reason in list(skipped.items())[:_SHOWN]:
        of.setdefault(reason, []).append(column)
    parts = [f"{', '.join(columns)} ({reason})" for reason, columns in of.items()]
    more = f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else ""
    audit.find(
        "note",
        "columns_left_out",
        f"columns that are no features: {len(skipped):,}, {'; '.join(parts)}{more}.",
        "",
        "Nothing where that is meant; data.features lists features by name.",
        columns=skipped,
    )


_MANY_MISSING = 0.05
_MANY_WINDOWS_LOST = 0.20


def check_series(subject: Subject, audit: Audit) -> None:
    """Report rows, span, step, hours of the day, and gaps in time per region."""
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
        times, after = series.timestamps[rows], rows[1:][starts[rows[1:]]]
        lost = (series.timestamps[after] - series.timestamps[after - 1]).astype(
            np.int64
        ) // step - 1
        worst = after[np.argmax(lost)] - 1 if lost.size else None
        regions.append(
            {
                "region": name,
                "rows": len(rows),
                "first": str(times[0]),
                "last": str(times[-1]),
                "gaps": len(lost),
                "missing_steps": int(lost.sum()),
                "longest_gap_steps": int(lost.max(initial=0)),
                "longest_gap_after": None if worst is None else str(series.timestamps[worst]),
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
    """Report missing values per column, before and after filling, and the windows they cost."""
    series, steps = subject.series, subject.context_length
    total = len(series.timestamps)
    filled = series.source.get("filled_values", {})
    left = dict(
        zip(series.feature_names, np.isnan(series.values).sum(axis=0).tolist(), strict=True)
    )
    table: list[dict[str, Any]] = []
    for name, count in left.items():
        missing = count + int(filled.get(name, 0))
        table.append({"column": name, "missing": missing, "share": missing / total, "left": count})
    audit.facts["missing"] = table
    if series.precipitation_mm is not None:
        count = int(np.isnan(series.precipitation_mm).sum())
        audit.facts["missing_precipitation"] = {"missing": count, "share": count / total}
    if many := [row for row in table if row["share"] > _MANY_MISSING]:
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
    if subject.rows and subject.data.split != "rows" and any(left.values()):
        whole = np.arange(total) - series.segment_first_rows() + 1 >= steps
        lost = 1 - float(complete_rows(series, steps)[whole].mean())
        most = max(left, key=lambda name: left[name])
        audit.find(
            "warning" if lost > _MANY_WINDOWS_LOST else "note",
            "windows_lost_to_missing_values",
            f"{lost:.1%} of the full contexts hold a missing value and issue no window; most often "
            f"missing after filling: {most} ({left[most] / total:.2%}).",
            "One missing value takes out every window that runs over it.",
            "Raise data.max_fill_hours, list data.features without that column, or shorten the "
            "context.",
            share_lost=lost,
            column=most,
        )


def check_columns(subject: Subject, audit: Audit) -> None:
    """Report columns of one value, and columns that repeat another one exactly.

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


# More distinct values beyond the limits are another unit's, not codes.
_MOST_CODES = 8
# Numbers of a place: an elevation of 999 m is one, and no value of them comes and goes.
_PLACE = re.compile(
    r"(station|site|grid|wmo|usaf|wban)?\s*"
    r"(lat|latitude|lon|lng|long|longitude|elev|elevation|alt|altitude|height|id|number|no|code|"
    r"station|site|wmo|usaf|wban|year|month|day|hour)(\s(m|ft|deg|degrees))?"
)


def check_codes(subject: Subject, audit: Audit) -> None:
    """Report a fault for what looks like a code for "missing", and for values that are impossible.

    With ``data.missing_values=[]``, which takes every number as measured, the first is a warning.
    """
    series, records = subject.series, records_of(subject)
    codes: dict[str, list[Code]] = {}
    impossible: dict[str, dict[str, Any]] = {}
    filled = series.source.get("filled_values", {})
    follows = ~series.segment_starts()
    for index, name in enumerate(series.feature_names):
        if _PLACE.fullmatch(words_of(name)):
            continue
        column = series.values[:, index].astype(np.float64)
        known = column[~np.isnan(column)]
        if not known.size:
            continue
        # A value that was carried on into a hole was measured once.
        once = known
        if filled.get(name):
            once = column[~(follows & (column == np.roll(column, 1))) & ~np.isnan(column)]
        unit = _unit_in_series(subject, records, name)
        limits = limits_of(name, unit, series.step_hours)
        outside = np.zeros(known.shape, dtype=bool)
        if limits is not None:
            outside = (known < limits[0]) | (known > limits[1])
        # Too much, or too varied, for a few codes.
        is_another_unit = len(np.unique(known[outside])) > _MOST_CODES or (
            bool(outside.all()) and not find_codes(known, None)
        )
        found = find_codes(once, None if is_another_unit else limits)
        for code in found:
            count = int(np.isclose(known, code.value, rtol=2e-7, atol=0).sum())
            codes.setdefault(name, []).append(replace(code, count=count, share=count / known.size))
        if limits is not None and is_another_unit:
            outside &= ~np.isclose(known[:, None], [c.value for c in found], rtol=2e-7).any(axis=1)
            if outside.any():
                impossible[name] = {
                    "min": float(known[outside].min()),
                    "max": float(known[outside].max()),
                    "count": int(outside.sum()),
                    "share": float(outside.mean()),
                    "limits": list(limits),
                    "unit": unit,
                }
    coded = {name: [vars(code) for code in found] for name, found in codes.items()}
    audit.facts |= {"missing_codes": coded, "impossible": impossible}
    if codes:
        is_said = subject.data.missing_values == []
        named = [f"{name} holds {', '.join(c.text for c in of)}" for name, of in codes.items()]
        values = list(dict.fromkeys(f"{c.value:.7g}" for of in codes.values() for c in of))
        audit.find(
            "warning" if is_said else "fault",
            "looks_like_missing_code",
            f"{len(codes)} columns hold what looks like a code for missing: {'; '.join(named[:6])}"
            + (f"; {len(named) - 6:,} more columns do the same." if len(named) > 6 else "."),
            "Taken for weather it stretches the scaling until the rest of the column is flat."
            + (" data.missing_values=[] says that every number was measured." if is_said else ""),
            f"Mask it: --missing {' '.join(values)} with launch/prepare_data.py, or "
            f"data.missing_values=[{', '.join(values)}] for a table that is read directly; "
            "data.missing_values=[] says that it was measured.",
            columns=coded,
        )
    if impossible:
        named = [
            f"{name} has {of['min']:.5g} to {of['max']:.5g} in {share_text(of['share'])} of its "
            f"values, expected {of['limits'][0]:.5g} to {of['limits'][1]:.5g}"
            + (f" in {of['unit']}" if of["unit"] else " by its name")
            for name, of in impossible.items()
        ]
        audit.find(
            "fault",
            "impossible_values",
            f"no weather has these values: {listed(named, 4)}.",
            "The unit is another than the one that the column is said to have, or the column holds "
            "something else.",
            "Correct the name or the unit (--unit COLUMN=UNIT of launch/prepare_data.py), or leave "
            "the column out of data.features.",
            columns=impossible,
        )


def _unit_in_series(subject: Subject, records: dict[str, dict[str, Any]], name: str) -> str | None:
    """The unit of a feature's values as its record or series.json has it; None leaves its name."""
    if name == subject.series.precipitation_feature:
        return "mm"
    record = records.get(name, {})
    described = (subject.description or {}).get("columns", {}).get(name, {})
    unit = record.get("written_as") or (record.get("unit") or {}).get("value")
    return unit or described.get("unit")
