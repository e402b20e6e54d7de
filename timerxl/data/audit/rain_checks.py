"""Checks of the precipitation: hours that are not there, and a ready label against the sums."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.known_columns import records_of
from timerxl.data.labels import labels, rain_before
from timerxl.data.tables.columns_known import time_words

_ERA5_RAIN = {"tp", "total_precipitation"}
_ERA5_NAMES = {"t2m", "d2m", "msl", "sp", "u10", "v10", "tcwv", "cape"}
_HOURS_IN_NAME = re.compile(r"(\d+)\s*h", re.IGNORECASE)
_AGREES = 0.99
_ERA5_HOUR = (
    "ERA5 tp is the accumulation of the ONE hour that ends at the stamp, whatever the step of the "
    "request. "
)


def looks_like_era5(precipitation: str, features: list[str]) -> list[str]:
    """The names that say ERA5: its own for rain, or "precipitation" beside at least two others.

    ``precipitation`` is the name in the file that the series came from (:func:`name_in_file`).
    """
    others = sorted(_ERA5_NAMES & {name.lower() for name in features})
    if precipitation.lower() in _ERA5_RAIN:
        return [precipitation, *others]
    return [precipitation, *others] if len(others) >= 2 else []


def name_in_file(subject: Subject) -> str:
    """What the file called the precipitation; launch/prepare_data.py calls every table's rain tp.

    A series.json without records names a table's columns among its sources.
    """
    column, described = subject.data.precipitation_column, subject.description or {}
    if record := records_of(subject).get(column):
        return str(record["name"])
    if name := described.get("precipitation", {}).get("source_column"):
        return str(name)
    held = [name for source in described.get("sources", []) for name in source.get("variables", [])]
    return column if not held or column in held else "a column of another name"


def check_accumulation(subject: Subject, audit: Audit) -> None:
    """Whether the precipitation holds all hours of a day, by series.json or by its looks.

    A series.json whose hours_present_per_day is null came from a table. What is said or told of
    the table's period decides then; what was assumed does not.
    """
    series, step = subject.series, subject.series.step_hours
    if series.precipitation_mm is None:
        audit.skip("sparse accumulation", "there is no precipitation column, only a label.")
        return
    said = (subject.description or {}).get("precipitation", {})
    if said.get("column") == subject.data.precipitation_column:
        if said.get("is_sparse"):
            _report_sparse(
                subject, audit, said.get("hours_present_per_day"), "series.json says so", []
            )
            return
        if said.get("hours_present_per_day") is not None:
            return
    if subject.data.path is None:
        audit.skip("sparse accumulation", "the built-in series sums rain over its whole step.")
        return
    if step <= 1:
        return
    column = subject.data.precipitation_column
    time = records_of(subject).get(column, {}).get("time")
    if time is not None and time["known_by"] != "assumed":
        hours = time["value"]["hours"]
        if time["value"]["kind"] == "instant":
            _report_sparse(subject, audit, None, f"{column} holds at its stamps alone", [], False)
        elif hours is not None and hours < step:
            reason = f"the step is {step:g} h and {column} is a {time_words({'time': time})}"
            _report_sparse(subject, audit, 24 * hours / step, reason, [], False)
        return
    name = name_in_file(subject)
    names = looks_like_era5(name, series.feature_names)
    if names:
        reason = f"the step is {step:g} h and the names are ERA5's"
        _report_sparse(subject, audit, 24 / step, reason, names)
        return
    audit.skip(
        "sparse accumulation",
        f"the columns do not look like ERA5; whether {column} sums all {step:g} h of a step can't "
        "be told from the numbers.",
    )


def _report_sparse(
    subject: Subject,
    audit: Audit,
    hours: float | None,
    reason: str,
    names: list[str],
    is_era5: bool = True,
) -> None:
    present = "some" if hours is None else f"{hours:g}"
    certain = not names
    audit.facts["accumulation"] = {
        "is_sparse": True,
        "hours_present_per_day": hours,
        "reason": reason,
        "era5_names": names,
    }
    audit.find(
        "fault",
        "precipitation_misses_hours",
        f"{present} of 24 hours of precipitation are present ({reason}): "
        f"a {subject.data.label_horizon_hours:g}-h rain label from this series would be wrong.",
        (_ERA5_HOUR if is_era5 else "")
        + "The hours between the stamps are not in the series, and rain that fell in them counts "
        "as dry."
        + ("" if certain else " Judged by the names: a column summed over the step looks alike."),
        "Request every hour and let launch/prepare_data.py sum it to the step."
        + (
            ""
            if certain
            else " If the column does sum the whole step, bring the table through "
            "launch/prepare_data.py with --meaning "
            f"COLUMN=sum:{subject.series.step_hours:g}h, or write 24 for "
            "precipitation.hours_present_per_day into its series.json."
        ),
        hours_present_per_day=hours,
        reason=reason,
        era5_names=names,
    )


def check_ready_labels(subject: Subject, audit: Audit) -> None:
    """Agreement of every ready label column with the sum of the steps ahead, and behind."""
    series = subject.series
    columns = dict(subject.label_columns)
    if series.ready_label is not None and subject.data.path is not None:
        columns.setdefault(str(subject.data.label_column), series.ready_label)
    if not columns:
        return
    if series.precipitation_mm is None:
        audit.skip("ready label against precipitation", "there is no precipitation column.")
        return
    found = []
    for name, column in columns.items():
        try:
            found.append(_agreement(subject, name, column))
        except InputError as error:
            audit.skip(f"ready label {name} against precipitation", str(error))
    audit.facts["ready_labels"] = found
    for row in found:
        _report_label(subject, audit, row)


def _agreement(subject: Subject, name: str, column: np.ndarray) -> dict[str, Any]:
    in_name = _HOURS_IN_NAME.search(name)
    hours = float(in_name[1]) if in_name else subject.data.label_horizon_hours
    threshold = subject.data.rain_threshold_mm
    ahead = labels(subject.series, hours, threshold)
    behind = rain_before(subject.series, hours, threshold)
    row: dict[str, Any] = {"column": name, "horizon_hours": hours, "threshold_mm": threshold}
    for key, sums in (("ahead", ahead), ("behind", behind)):
        known = ~np.isnan(column) & ~np.isnan(sums)
        row |= {
            f"rows_{key}": int(known.sum()),
            f"agreement_{key}": float((column == sums)[known].mean()) if known.any() else None,
            f"rain_share_of_sums_{key}": float(sums[known].mean()) if known.any() else None,
        }
    row["rain_share"] = float(np.nanmean(column)) if (~np.isnan(column)).any() else None
    return row


def _report_label(subject: Subject, audit: Audit, row: dict[str, Any]) -> None:
    name, ahead, behind = row["column"], row["agreement_ahead"], row["agreement_behind"]
    if ahead is None or behind is None:
        audit.skip(f"ready label {name} against precipitation", "no row knows both.")
        return
    steps = row["horizon_hours"] / subject.series.step_hours
    numbers = (
        f"{name} agrees with the sum of the {steps:g} steps ahead "
        f"(>= {row['threshold_mm']:g} mm within {row['horizon_hours']:g} h) in {ahead:.1%} of "
        f"{row['rows_ahead']:,} rows, with the steps behind in {behind:.1%}"
    )
    if behind > _AGREES and behind > ahead:
        audit.find(
            "fault" if name == subject.data.label_column else "warning",
            "ready_label_looks_back",
            f"{numbers}: it tells the past, not the future.",
            "A label of rain that has fallen is no forecast; persistence would score perfectly.",
            f"Shift it by {row['horizon_hours']:g} h, or leave data.label_column null and make the "
            "label from the precipitation.",
            **row,
        )
    elif ahead > _AGREES:
        audit.find(
            "note",
            "ready_label_agrees",
            f"{numbers}.",
            "The label was made from this column: hours that the column misses, it misses too.",
            "Nothing to do where the precipitation is complete.",
            **row,
        )
    else:
        audit.find(
            "warning",
            "ready_label_disagrees",
            f"{numbers}; rain is {row['rain_share']:.1%} by the label, "
            f"{row['rain_share_of_sums_ahead']:.1%} by the sums.",
            "Another threshold, another horizon or other rain: the precipitation may miss hours.",
            "Find out how the label was made before you compare scores.",
            **row,
        )
