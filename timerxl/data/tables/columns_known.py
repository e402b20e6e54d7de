"""What is known of each column, in words: the same table in the audit and on the model card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from timerxl.untrusted import misfit, plain

UNKNOWN = "-"
_SHOWN_NAMES, _LONGEST_NAME = 3, 40
_FACT = {"value": object, "known_by": str, "evidence?": str}
_PERIOD = {
    "kind": str,
    "hours": (float, None),
    "file_stamp?": str,
    "running?": ({"period": float}, None),
}
# A record as timerxl.data.tables.column_records writes it (timerxl.untrusted.misfit).
_RECORD = {
    "name": str,
    "quantity?": (_FACT, None),
    "unit?": ({"value": str, "known_by": str, "evidence?": str}, None),
    "time?": ({"value": _PERIOD, "known_by": str, "evidence?": str}, None),
    "written_as?": (str, None),
    "missing?": [{"value": float, "count": int}],
}


def records_problem(records: Any) -> str | None:
    """What is wrong with ``records`` (column -> record), as a clause; None where nothing is."""
    if problem := misfit(records, dict, "records"):
        return problem
    found = (
        misfit(one, _RECORD, f"the record of column {plain(name, 80)}")
        for name, one in records.items()
    )
    return next((problem for problem in found if problem), None)


def unit_words(record: dict[str, Any]) -> str:
    """The unit in the series, and that in the file where it differs: ``mm (in the file: inch)``."""
    unit, written = (record.get("unit") or {}).get("value"), record.get("written_as")
    if written and unit and written != unit:
        return f"{written} (in the file: {unit})"
    return written or unit or UNKNOWN


def time_words(record: dict[str, Any]) -> str:
    """What a stamp of the FILE means: ``instant``, ``sum over 24 h``, ``... from it on``.

    A series' own stamps are always the ends of what its values are over.
    """
    meant = (record.get("time") or {}).get("value")
    if meant is None:
        return UNKNOWN
    if meant["kind"] == "instant":
        return "instant"
    words = {"step": "some value"}.get(meant["kind"], str(meant["kind"]))
    if running := meant.get("running"):
        words = f"running total, again from 0 every {running['period']:g} h"
    elif meant["hours"] is not None:
        words += f" over {meant['hours']:g} h"
    return words + {"start": " from it on", "middle": " around it"}.get(meant.get("file_stamp"), "")


def known_by_words(record: dict[str, Any]) -> str:
    """``file`` where all is known in one way, else ``unit: assumed; stamp: said``."""
    of: dict[str, list[str]] = {}
    for key, called in (("quantity", "quantity"), ("unit", "unit"), ("time", "stamp")):
        if fact := record.get(key):
            of.setdefault(str(fact["known_by"]), []).append(called)
    if len(of) == 1 and all(len(called) == 3 for called in of.values()):
        return next(iter(of))
    return "; ".join(f"{', '.join(called)}: {by}" for by, called in of.items()) or UNKNOWN


def shortened(name: str) -> str:
    """A name of any length in 40 characters."""
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


@dataclass
class KnownRow:
    """One line of the table: the columns of which the same is known."""

    columns: list[str]
    quantity: str
    unit: str
    time: str
    known_by: str
    masked: dict[float, int]

    @property
    def names(self) -> str:
        """``a, b, c and 3 more``; a name of any length is cut off."""
        shown = [shortened(name) for name in self.columns[:_SHOWN_NAMES]]
        more = len(self.columns) - len(shown)
        return ", ".join(shown) + (f" and {more:,} more" if more else "")

    @property
    def codes(self) -> str:
        """``-9999 (1,204)``: values that were masked, and how often each stood there."""
        found = [f"{value:.7g} ({count:,})" for value, count in self.masked.items()]
        return ", ".join(found) or UNKNOWN


def known_rows(known: Iterable[dict[str, Any]], most: int) -> tuple[list[KnownRow], int]:
    """(At most ``most`` rows, how many columns are in none of them).

    ``known`` are records with their ``column``. Up to ``most`` columns have a row each; of more,
    those of which the same is known share one, and the rows with most columns are shown.
    """
    rows = []
    for record in known:
        masked: dict[float, int] = {}
        for code in record.get("missing") or []:
            masked[code["value"]] = masked.get(code["value"], 0) + code["count"]
        quantity = str((record.get("quantity") or {}).get("value") or UNKNOWN)
        rows.append(
            KnownRow(
                [str(record["column"])],
                quantity,
                unit_words(record),
                time_words(record),
                known_by_words(record),
                masked,
            )
        )
    if len(rows) <= most:
        return rows, 0
    groups: dict[tuple[Any, ...], KnownRow] = {}
    for row in rows:
        key = (row.quantity, row.unit, row.time, row.known_by, tuple(sorted(row.masked)))
        if key not in groups:
            groups[key] = row
            continue
        groups[key].columns += row.columns
        for value, count in row.masked.items():
            groups[key].masked[value] += count
    largest = sorted(groups.values(), key=lambda row: -len(row.columns))  # stable
    shown = [row for row in groups.values() if row in largest[:most]]
    return shown, len(rows) - sum(len(row.columns) for row in shown)
