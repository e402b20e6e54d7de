"""The audit of a series: what is wrong with it, before a run spends days on it.

It reads a table as training would, cuts it as the recipe says, and reports. Whatever stops the
windows is reported as a fault, beside everything else.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from timerxl.config import DataConfig, InputError, RunConfig, load_recipe
from timerxl.config_reading import misfit, read_json
from timerxl.data.audit_codes import check_codes
from timerxl.data.audit_columns import check_columns, check_missing, check_series
from timerxl.data.audit_findings import Audit, Subject
from timerxl.data.audit_future import check_future
from timerxl.data.audit_known import check_known, check_left_out
from timerxl.data.audit_labels import check_class_shares, check_thresholds
from timerxl.data.audit_page import audit_page
from timerxl.data.audit_rain import check_accumulation, check_ready_labels
from timerxl.data.audit_regions import check_regions
from timerxl.data.audit_sample_size import check_sample_size
from timerxl.data.audit_splits import check_context, check_split_by_rows, check_windows
from timerxl.data.audit_text import audit_text
from timerxl.data.features import label_like
from timerxl.data.labels import check_leaks, label_and_persistence
from timerxl.data.readers import open_table, read_table
from timerxl.data.schema import WeatherSeries
from timerxl.data.series_file import DESCRIPTION, SERIES
from timerxl.data.splits import make_split, split_by_rows, split_by_time
from timerxl.files import write_text

if TYPE_CHECKING:  # windows.py imports torch, which an audit has no use for
    from timerxl.data.windows import WeatherWindows

DEFAULT_RECIPE = "transfer"
_RAIN_COLUMNS = ("tp", "total_precipitation", "precipitation")
_METRES_BELOW = 1.0  # no step holds a metre of rain, and every wet series holds a step above 1 mm
_CHECKS = (
    check_series,
    check_windows,
    check_split_by_rows,
    check_context,
    check_accumulation,
    check_ready_labels,
    check_future,
    check_regions,
    check_class_shares,
    check_known,
    check_codes,
    check_columns,
    check_missing,
    check_sample_size,
    check_thresholds,
    check_left_out,
)


def audit_subject(subject: Subject) -> Audit:
    """Make every check."""
    audit = Audit()
    for check in _CHECKS:
        check(subject, audit)
    return audit


def audit_windows(windows: WeatherWindows, config: RunConfig) -> Audit:
    """The audit of windows that are built already, cheap enough for the start of training.

    Ready label columns that the recipe does not name are not looked at: the table is not read
    again.
    """
    return audit_subject(
        Subject(
            series=windows.series,
            data=config.data,
            context_length=windows.context_length,
            context_reason=f"recipe {config.recipe}",
            label=windows.label,
            rained_before=windows.rained_before,
            rows=windows.rows,
            split_method=windows.definition["split"],
            description=windows.series.source.get("prepared"),
        )
    )


def audit_command(
    series: Path,
    config_name: str | None,
    overrides: list[str],
    as_json: bool,
    output: Path | None,
) -> int:
    """Audit the table ``series`` (or the folder of series.parquet) and print what was found.

    Without ``config_name`` the context and the cut of the recipe "transfer" are used. ``as_json``
    prints one JSON object instead of text; ``output`` is a folder for audit.json, audit.txt and
    audit.html. Returns 0, also with findings. Raises InputError for a table, recipe or folder that
    can't be used.
    """
    subject, notes = read_subject(series, config_name, overrides)
    audit = audit_subject(subject)
    for note in notes:
        audit.find("note", "columns_assumed", note, "", "Override it on the command line.")
    text = audit_text(audit)
    content = json.dumps(audit.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if output is not None:
        files = {"audit.json": content, "audit.txt": text, "audit.html": audit_page(audit)}
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, body in files.items():
                write_text(output / name, body)
        except OSError as error:
            raise InputError(f"--output {output} can't be written: {error}") from error
    print(content if as_json else text, end="")
    if output is not None and not as_json:
        print(f"\nwritten: {', '.join(files)} in {output}")
    return 0


def read_subject(
    path: Path, config_name: str | None, overrides: list[str]
) -> tuple[Subject, list[str]]:
    """The table as training would read it, and sentences on what had to be assumed for it."""
    if path.is_dir():
        path = path / SERIES
    if any(override.startswith("data.path=") for override in overrides):
        raise InputError("the audit's series is data.path already; leave data.path= out.")
    config = load_recipe(config_name or DEFAULT_RECIPE, overrides)
    config.data.path = str(path)
    reason = f"recipe {config.recipe}"
    if config_name is None:
        reason += " (the default; --config names another)"
    if any(override.startswith("model.context_length=") for override in overrides):
        reason = "model.context_length"
    table = open_table(path)
    notes = _assume_columns(config, table, overrides)
    found = _read(config.data)
    subject = Subject(
        series=found,
        data=config.data,
        context_length=config.model.context_length,
        context_reason=reason,
        label_columns=_label_columns(table, config),
        description=found.source.get("prepared"),
    )
    cut_windows(subject)
    return subject, notes


def _read(data: DataConfig) -> WeatherSeries:
    """The table with its codes for "missing" where training refuses them: a fault beside others.

    What can't be read with them is refused as training does it.
    """
    if data.missing_values is not None:
        return read_table(data)
    try:
        return read_table(replace(data, missing_values=[]))
    except InputError:
        return read_table(data)


def cut_windows(subject: Subject) -> None:
    """Fill in labels and issue rows; what training would refuse becomes a refusal, not an error."""
    series, data, steps = subject.series, subject.data, subject.context_length
    try:
        subject.label, subject.rained_before = label_and_persistence(series, data)
    except InputError as error:
        subject.refusals.append(str(error))
        return
    try:
        split = make_split(series, subject.label, data, steps)
    except InputError as error:
        subject.refusals.append(str(error))
        cut = split_by_rows if data.split == "rows" else split_by_time
        try:  # of one class only, the windows are there all the same
            split = cut(series, subject.label, data, steps)
        except InputError:
            return
    subject.rows, subject.split_method = split.rows, split.method
    try:
        check_leaks(series, split.rows["train"], subject.label)
    except InputError as error:
        subject.refusals.append(str(error))


def _described_rain(table: Path) -> dict[str, Any]:
    """What series.json says of the precipitation; reading the series refuses a wrong file."""
    path = table.with_name(DESCRIPTION)
    if table.name != SERIES or not path.is_file():
        return {}
    try:
        said = read_json(path)
    except InputError:
        return {}
    problem = misfit(said, {"precipitation": {"column": str, "unit": str}})
    return {} if problem else dict(said["precipitation"])


def _assume_columns(
    config: RunConfig,
    table: pd.DataFrame,
    overrides: list[str],
) -> list[str]:
    """Take the columns that are there where the recipe's are not and nobody named any."""
    data, given = config.data, {override.partition("=")[0] for override in overrides}
    if data.precipitation_column in table.columns or "data.precipitation_column" in given:
        return []
    said = _described_rain(Path(str(data.path)))
    names = [said.get("column"), *_RAIN_COLUMNS]
    name = next((name for name in names if name in table.columns), None)
    if name is None:
        ready = [] if data.label_column else sorted(_label_columns(table, config, ordered=False))
        if not ready:
            return []
        data.label_column = ready[0]
        return [f"no precipitation column; {ready[0]} is taken as data.label_column."]
    note = f"data.precipitation_column={name}, since there is no {data.precipitation_column}"
    data.precipitation_column = name
    if "data.precipitation_unit" not in given:
        if said.get("column") == name and said.get("unit") in ("mm", "m"):
            data.precipitation_unit = said["unit"]
            note += f"; data.precipitation_unit={data.precipitation_unit} by series.json"
        elif pd.api.types.is_numeric_dtype(table[name]):
            most = float(table[name].max())
            data.precipitation_unit = "m" if most < _METRES_BELOW else "mm"
            note += f"; data.precipitation_unit={data.precipitation_unit}, since its largest "
            note += f"value is {most:.3g}"
    return [note + "."]


def _label_columns(
    table: pd.DataFrame, config: RunConfig, ordered: bool = True
) -> dict[str, np.ndarray]:
    """Columns of 0 and 1 that are named like a label, [R] in the rows' order of the series."""
    found: dict[str, np.ndarray] = {}
    order = np.arange(len(table))
    if ordered:
        order = np.argsort(pd.factorize(table[config.data.region_column])[0], kind="stable")
    for name in map(str, table.columns):
        if not label_like(name) or not pd.api.types.is_numeric_dtype(table[name]):
            continue
        column = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if (np.isnan(column) | (column == 0) | (column == 1)).all():
            found[name] = column[order]
    return found


__all__ = [
    "Audit",
    "Subject",
    "audit_command",
    "audit_subject",
    "audit_windows",
    "cut_windows",
    "read_subject",
]
