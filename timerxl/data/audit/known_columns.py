"""What is known of the columns and how: the table, what was assumed, what was left out."""

from __future__ import annotations

from typing import Any

from timerxl.data.audit.findings import Audit, Subject, listed
from timerxl.data.tables.columns_known import time_words

_SHOWN = 12


def records_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """Column -> record, of the features and of the precipitation; {} for an older series."""
    described = (subject.description or {}).get("columns", {})
    rain = subject.data.precipitation_column
    of_rain = described.get(rain, {}).get("record")
    found = {rain: of_rain} if of_rain else {}
    return found | subject.series.source.get("records", {})


def check_known(subject: Subject, audit: Audit) -> None:
    """The table of what is known, and a warning for what was assumed and matters."""
    records = records_of(subject)
    audit.facts["columns_known"] = [
        {"column": column, **record} for column, record in records.items()
    ]
    if not records:
        return
    _unit_assumed(records, audit)
    _stamp_assumed(records, subject.series.step_hours, audit)


def _unit_assumed(records: dict[str, dict[str, Any]], audit: Audit) -> None:
    assumed = {
        column: record["unit"]
        for column, record in records.items()
        if (record.get("unit") or {}).get("known_by") == "assumed"
    }
    if not assumed:
        return
    named = [f"{column} in {fact['value']}" for column, fact in assumed.items()]
    evidence = next(iter(assumed.values())).get("evidence")
    audit.find(
        "warning",
        "unit_assumed",
        f"a unit is assumed: {listed(named)}{f' ({evidence})' if evidence else ''}.",
        "Rain in inches or tenths of mm that is taken for mm moves every threshold and label.",
        "Say it: data.precipitation_unit=UNIT, or --unit COLUMN=UNIT of launch/prepare_data.py.",
        columns={column: fact["value"] for column, fact in assumed.items()},
    )


def _stamp_assumed(records: dict[str, dict[str, Any]], step_hours: float, audit: Audit) -> None:
    """An instant within the hour can't be far off; every sum, mean or extreme can."""
    meant: dict[str, list[str]] = {}
    for column, record in records.items():
        time = record.get("time")
        if time is None or time["known_by"] != "assumed" or time["value"]["kind"] == "step":
            continue
        if time["value"]["kind"] != "instant" or step_hours > 1:
            meant.setdefault(time_words(record), []).append(column)
    if not meant:
        return
    in_words = "; ".join(f"{words} for {listed(columns)}" for words, columns in meant.items())
    audit.find(
        "warning" if step_hours > 1 else "note",
        "stamp_assumed",
        f"what a stamp means is assumed: {in_words}.",
        "Where a stamp is the start of its period, a feature holds the rain that it is to tell "
        "beforehand; where a sum covers part of a step, rain is missed.",
        "Look it up where the data come from, and say it: --meaning COLUMN=sum:24h@start, instant, "
        "mean:24h, ... of launch/prepare_data.py.",
        columns=meant,
    )


def check_left_out(subject: Subject, audit: Audit) -> None:
    """Columns of the table that are no features, with the reasons."""
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
