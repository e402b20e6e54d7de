"""Checks of the numbers: codes for "missing" that were left, values that no weather has."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from timerxl.data.audit.findings import Audit, Subject, listed
from timerxl.data.audit.known_columns import records_of
from timerxl.data.tables.column_choice import limits_of
from timerxl.data.tables.missing_codes import Code, find_codes, share_text
from timerxl.data.tables.quantities import words_of

# More distinct values beyond the limits are another unit's, not codes.
_MOST_CODES = 8
# Numbers of a place: an elevation of 999 m is one, and no value of them comes and goes.
_PLACE = re.compile(
    r"(station|site|grid|wmo|usaf|wban)?\s*"
    r"(lat|latitude|lon|lng|long|longitude|elev|elevation|alt|altitude|height|id|number|no|code|"
    r"station|site|wmo|usaf|wban|year|month|day|hour)(\s(m|ft|deg|degrees))?"
)


def check_codes(subject: Subject, audit: Audit) -> None:
    """A fault for what looks like a code for "missing", and for values that are impossible.

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
        once = _without_repeats(column, follows) if filled.get(name) else known
        unit = _unit_in_series(subject, records, name)
        limits = limits_of(name, unit, series.step_hours)
        outside = np.zeros(known.shape, dtype=bool)
        if limits is not None:
            outside = (known < limits[0]) | (known > limits[1])
        is_unit = bool(outside.any()) and _is_another_unit(known, outside)
        found = find_codes(once, None if is_unit else limits)
        if found:
            codes[name] = [_counted(code, known) for code in found]
        if limits is not None and is_unit:
            outside &= ~np.isclose(known[:, None], [c.value for c in found], rtol=2e-7).any(axis=1)
            if outside.any():
                impossible[name] = _range(known[outside], outside, limits, unit)
    audit.facts["missing_codes"] = {
        name: [vars(code) for code in found] for name, found in codes.items()
    }
    audit.facts["impossible"] = impossible
    if codes:
        _report_codes(subject, codes, audit)
    if impossible:
        _report_impossible(impossible, audit)


def _without_repeats(column: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """The known values that differ from the row before; ``follows`` [R]: rows that have one."""
    repeats = np.zeros(column.shape, dtype=bool)
    repeats[1:] = follows[1:] & (column[1:] == column[:-1])
    return column[~repeats & ~np.isnan(column)]


def _counted(code: Code, known: np.ndarray) -> Code:
    count = int(np.isclose(known, code.value, rtol=2e-7, atol=0).sum())
    return replace(code, count=count, share=count / known.size)


def _unit_in_series(subject: Subject, records: dict[str, dict[str, Any]], name: str) -> str | None:
    """The unit of a feature's values as its record or series.json has it; None leaves its name."""
    if name == subject.series.precipitation_feature:
        return "mm"
    record = records.get(name, {})
    described = (subject.description or {}).get("columns", {}).get(name, {})
    unit = record.get("written_as") or (record.get("unit") or {}).get("value")
    return unit or described.get("unit")


def _is_another_unit(known: np.ndarray, outside: np.ndarray) -> bool:
    """Whether what lies beyond the limits is too much, or too varied, for a few codes."""
    beyond = np.unique(known[outside])
    if len(beyond) > _MOST_CODES:
        return True
    return bool(outside.all()) and not find_codes(known, None)


def _range(
    values: np.ndarray, outside: np.ndarray, limits: tuple[float, float], unit: str | None
) -> dict[str, Any]:
    return {
        "min": float(values.min()),
        "max": float(values.max()),
        "count": int(outside.sum()),
        "share": float(outside.mean()),
        "limits": list(limits),
        "unit": unit,
    }


def _report_codes(subject: Subject, codes: dict[str, list[Code]], audit: Audit) -> None:
    is_said = subject.data.missing_values == []
    named = [f"{name} holds {', '.join(c.text for c in found)}" for name, found in codes.items()]
    values = list(dict.fromkeys(f"{c.value:.7g}" for found in codes.values() for c in found))
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
        columns={name: [vars(code) for code in found] for name, found in codes.items()},
    )


def _report_impossible(impossible: dict[str, dict[str, Any]], audit: Audit) -> None:
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
        "Correct the name or the unit (--unit COLUMN=UNIT of launch/prepare_data.py), or leave the "
        "column out of data.features.",
        columns=impossible,
    )
