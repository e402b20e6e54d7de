"""The audit of a series: what is wrong with it, before a run spends days on it.

It reads a table as training would, cuts it as the recipe says, and reports. Whatever stops the
windows is reported as a fault, beside everything else.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timerxl.command_line import json_text, say, say_json
from timerxl.config import DataConfig, InputError, RunConfig, load_recipe
from timerxl.data.audit.column_checks import (
    check_codes,
    check_columns,
    check_known,
    check_left_out,
    check_missing,
    check_series,
)
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.label_checks import (
    check_accumulation,
    check_class_shares,
    check_future,
    check_ready_labels,
    check_thresholds,
)
from timerxl.data.audit.report import audit_page, audit_text
from timerxl.data.audit.window_checks import (
    check_context,
    check_regions,
    check_sample_size,
    check_split_by_rows,
    check_windows,
)
from timerxl.data.preprocessing import (
    check_leaks,
    even_sample,
    label_and_persistence,
    make_split,
    split_by_rows,
    split_by_time,
)
from timerxl.data.readers import SERIES, read_table_and_labels, ready_label_without_rain
from timerxl.data.series import ROW_ARRAYS, WeatherSeries
from timerxl.files import write_text

if TYPE_CHECKING:  # windows.py imports torch, which an audit has no use for
    from timerxl.data.windows import WeatherWindows

DEFAULT_RECIPE = "transfer"
MOST_ROWS = 1_000_000  # that the audit at the start of a run looks at
_GUESSES = ("(else say", "read as mm", "is recognised")  # what the reader says of its guesses
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
    """Audit windows that are built already, cheap enough for the start of training.

    Ready label columns that the recipe does not name are not looked at: the table is not read
    again. Of a series of more than ``MOST_ROWS`` rows as many regions are looked at as have so
    many, spread evenly; the audit's first line says so.
    """
    subject = Subject(
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
    rows, regions = len(windows.label), len(windows.series.regions)
    chosen = even_sample(regions, max(1, MOST_ROWS * regions // rows))
    if len(chosen) == regions or config.data.split == "rows":
        return audit_subject(subject)
    audit = audit_subject(_of_regions(subject, chosen))
    audit.sample = (
        f"{len(chosen):,} of {regions:,} regions were looked at, spread evenly; "
        "launch/prepare_data.py --audit SERIES looks at all of them."
    )
    return audit


def _of_regions(subject: Subject, chosen: list[int]) -> Subject:
    """The same subject, with the chosen regions alone."""
    series = subject.series
    edges = series.region_edges()
    sizes = np.diff(edges)[chosen]
    starts = np.cumsum(sizes) - sizes
    kept = np.concatenate([np.arange(*edges[region : region + 2]) for region in chosen])
    arrays: dict[str, Any] = {
        name: of[kept] for name in ROW_ARRAYS if (of := getattr(series, name)) is not None
    }
    arrays["region_index"] = np.repeat(np.arange(len(chosen)), sizes)
    names = [series.regions[region] for region in chosen]
    rows = {}
    for split, of in subject.rows.items():
        cuts = series.region_edges(of)
        rows[split] = np.concatenate(
            [
                of[cuts[region] : cuts[region + 1]] - edges[region] + start
                for region, start in zip(chosen, starts, strict=True)
            ]
        )
    assert subject.label is not None
    assert subject.rained_before is not None
    return replace(
        subject,
        series=replace(series, regions=names, **arrays),
        label=subject.label[kept],
        rained_before=subject.rained_before[kept],
        rows=rows,
    )


def audit_command(
    series: Path, config_name: str | None, overrides: list[str], as_json: bool, output: Path | None
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
    content = f"{json_text(audit.to_dict())}\n"
    if output is not None:
        files = {"audit.json": content, "audit.txt": text, "audit.html": audit_page(audit)}
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, body in files.items():
                write_text(output / name, body)
        except OSError as error:
            raise InputError(f"--output {output} can't be written: {error}") from error
    if as_json:
        say_json(audit.to_dict())
        return 0
    say(*text.splitlines())
    if output is not None:
        say("", f"written: {', '.join(files)} in {output}")
    return 0


def read_subject(
    path: Path, config_name: str | None, overrides: list[str]
) -> tuple[Subject, list[str]]:
    """Read the table as training would, and say what had to be assumed for it."""
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
    found, labels, notes = _read(config.data, overrides)
    notes += [note for note in found.notes if any(word in note for word in _GUESSES)]
    resolved = found.source["resolved"]
    data = replace(
        config.data,
        precipitation_column=resolved.get("precipitation_column", config.data.precipitation_column),
    )
    subject = Subject(
        series=found,
        data=data,
        context_length=config.model.context_length,
        context_reason=reason,
        label_columns={
            name: column
            for name, column in labels.items()
            if np.isin(column[~np.isnan(column)], (0, 1)).all()
        },
        description=found.source.get("prepared"),
    )
    cut_windows(subject)
    return subject, notes


def _read(
    data: DataConfig, overrides: list[str]
) -> tuple[WeatherSeries, dict[str, np.ndarray], list[str]]:
    """The series, its columns that are named like labels, and what was assumed for want of rain.

    Codes for "missing" that training refuses are taken as they are: a fault beside others. What
    can't be read with them is refused as training does it.
    """
    names = {override.partition("=")[0] for override in overrides}
    notes: list[str] = []
    said = names & {"data.precipitation_column", "data.label_column"}
    if not said and (ready := ready_label_without_rain(data)) is not None:
        notes.append(f"no precipitation column; {ready} is taken as data.label_column.")
        data.label_column = ready
    if data.missing_values is None:
        with contextlib.suppress(InputError):
            return *read_table_and_labels(replace(data, missing_values=[])), notes
    return *read_table_and_labels(data), notes


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
