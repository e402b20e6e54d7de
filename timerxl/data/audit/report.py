"""The audit as plain text of at most 100 columns, and as one HTML page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jinja2
import rich.table
from rich.console import Console
from rich.text import Text

from timerxl.data.audit.findings import SEVERITIES, Audit, Finding
from timerxl.data.audit.label_checks import SEASONS
from timerxl.data.preprocessing import SPLITS
from timerxl.data.tables.columns import known_rows
from timerxl.untrusted import plain

WIDTH = 100
_MOST_KNOWN = 24  # rows
_MOST_OF_A_CELL = 200  # characters
Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def percent(share: float | None, digits: int = 1) -> str:
    """Return ``66.2%``, or a dash where the share is not known."""
    return "-" if share is None else f"{share:.{digits}%}"


def headline(audit: Audit) -> list[str]:
    """Tell what was audited, in sentences."""
    facts, context = audit.facts["series"], audit.facts["context"]
    kind = "SYNTHETIC series" if facts["is_synthetic"] else "series"
    hours = facts["hours_of_day"]
    at = ""
    if hours and len(hours) <= 8:
        at = " at " + ", ".join(f"{int(hour):02d}:{round(hour % 1 * 60):02d}" for hour in hours)
    belief = ""
    if facts["step_hours"] != 1:
        belief = f" (read as hours it would be {context['days_if_hourly']:g} days)"
    lines = [
        f"{kind} {facts['source']}",
        f"{facts['rows']:,} rows, {facts['regions']} regions, {facts['features']} features, "
        f"{facts['first']} to {facts['last']}, step {facts['step_hours']:g} h{at}.",
        f"Context: {context['steps']} steps = {context['days']:g} days{belief}, from "
        f"{context['from']}.",
    ]
    if "windows" in audit.facts:
        counts = ", ".join(f"{name} {count:,}" for name, count in audit.facts["windows"].items())
        split = audit.facts["split"]
        starts = [
            f"{name} from {split[f'{name}_from']}"
            + (f" in {split[f'{name}_from_region']}" if f"{name}_from_region" in split else "")
            for name in SPLITS[1:]
        ]
        lines.append(f"Windows by data.split={split['by']}: {counts}; {', '.join(starts)}.")
    else:
        lines.append("Windows: none (see the faults).")
    return lines


def counted(audit: Audit) -> str:
    """Return ``1 fault, 0 warnings, 2 notes``."""
    numbers = {name: len(audit.of(name)) for name in SEVERITIES}
    return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in numbers.items())


def tables(audit: Audit) -> list[Table]:
    """Return every section as a table of words, for text and page alike."""
    makers = (
        _class_shares,
        _always_rain,
        _split_by_rows,
        _regions_by_rows,
        _sample_sizes,
        _thresholds,
        _ready_labels,
        _regions,
        _columns_known,
        _missing,
        _features,
    )
    return [table for maker in makers if (table := maker(audit.facts)) is not None]


def _class_shares(facts: dict[str, Any]) -> Table | None:
    if "class_shares" not in facts:
        return None
    found: dict[tuple[str, str], list[str]] = {}
    for cell in facts["class_shares"]:
        row = found.setdefault((cell["region"], cell["split"]), [])
        if cell["season"] == "all":
            row.append(f"{cell['n']:,}")
        row.append(percent(cell["rain_share"]) + ("*" if cell["differs"] else ""))
    order = list(dict.fromkeys(cell["region"] for cell in facts["class_shares"]))
    keys = sorted(found, key=lambda key: (order.index(key[0]), SPLITS.index(key[1])))
    return (
        "Share of rain by region, split and season (* more than 5 points from the same region "
        "and season in training)",
        ["region", "split", "windows", "all", *SEASONS],
        [[region, split, *found[region, split]] for region, split in keys],
    )


def _always_rain(facts: dict[str, Any]) -> Table | None:
    if "splits" not in facts:
        return None
    rows = []
    for row in facts["splits"]:
        scores = row["always_rain"]
        if scores is None:
            continue
        accuracy, dry = scores["accuracy"], scores["always_dry_accuracy"]
        cells = [row["split"], f"{row['n']:,}", percent(row["rain_share"]), percent(accuracy, 2)]
        rows.append([*cells, f"{scores['f1']:.4f}", percent(dry, 2)])
    head = ["split", "windows", "rain (p)", '"rain, always": accuracy p', "its F1 2p/(1+p)"]
    return 'What "always the same" scores', [*head, '"dry, always": accuracy'], rows


def _split_by_rows(facts: dict[str, Any]) -> Table | None:
    if (found := facts.get("split_by_rows")) is None:
        return None
    rows = []
    for name in SPLITS:
        into = found["windows_reaching_into_the_split_before"].get(name)
        cells = [f"{found[key][name]:,}" for key in ("num_rows", "windows")]
        cells.append(f"{found['windows_across_regions'][name]:,}")
        cells += ["-" if into is None else f"{into:,}", percent(found["rain_share"][name])]
        rows.append([name, *cells])
    head = ["split", "rows", "windows", "windows across regions", "into the split before", "rain"]
    return "What data.split=rows does", head, rows


def _regions_by_rows(facts: dict[str, Any]) -> Table | None:
    if (found := facts.get("split_by_rows")) is None:
        return None
    regions = list(dict.fromkeys(name for held in found["regions"].values() for name in held))
    rows = [
        [region, *[f"{found['regions'][name].get(region, 0):,}" for name in SPLITS]]
        for region in regions
    ]
    return "Rows of each region by data.split=rows", ["region", *SPLITS], rows


def _sample_sizes(facts: dict[str, Any]) -> Table | None:
    if "effective_samples" not in facts:
        return None
    rows = []
    for name, split in facts["effective_samples"]["splits"].items():
        r1 = [region["r1"] for region in split["regions"]]
        cells = [name, f"{split['n']:,}", f"{split['n_eff']:,.0f}"]
        cells += [f"{min(r1):.2f} to {max(r1):.2f}", f"{split['regions_eff']:.1f} of {len(r1)}"]
        rows.append([*cells, f"± {200 * split['rain_share_standard_error']:.1f} points"])
    head = ["split", "windows", "independent (estimate)", "r1 of regions", "regions"]
    return f"Effective samples: {facts['effective_samples']['formula']}", [*head, "chance"], rows


def _thresholds(facts: dict[str, Any]) -> Table | None:
    if "thresholds" not in facts:
        return None
    found = facts["thresholds"]
    levels = [f"{row['threshold_mm']:g} mm" for row in found["rows"]]
    rows = [["all", *[percent(row["rain_share"]) for row in found["rows"]]]]
    for region in found["rows"][0]["regions"]:
        rows.append([region, *[percent(row["regions"][region]) for row in found["rows"]]])
    title = f"Share of rain within {found['horizon_hours']:g} h by threshold (>=)"
    return title, ["region", *levels], rows


def _ready_labels(facts: dict[str, Any]) -> Table | None:
    if not facts.get("ready_labels"):
        return None
    rows = []
    for row in facts["ready_labels"]:
        agreement = [percent(row[f"agreement_{side}"], 2) for side in ("ahead", "behind")]
        horizon = f"{row['horizon_hours']:g} h"
        rows.append([row["column"], horizon, percent(row["rain_share"]), *agreement])
    head = ["label", "horizon", "rain", "agrees with the sum ahead", "with the sum behind"]
    return "Ready label columns against the precipitation", head, rows


def _regions(facts: dict[str, Any]) -> Table:
    rows = []
    for row in facts["regions"]:
        counts = [f"{row[key]:,}" for key in ("gaps", "missing_steps", "longest_gap_steps")]
        rows.append([row["region"], f"{row['rows']:,}", row["first"], row["last"], *counts])
    head = ["region", "rows", "first", "last", "gaps", "missing steps", "longest gap"]
    return "Regions and gaps in time", head, rows


def _columns_known(facts: dict[str, Any]) -> Table | None:
    if not facts.get("columns_known"):
        return None
    shown, rest = known_rows(facts["columns_known"], _MOST_KNOWN)
    rows = [[row.names, row.quantity, row.unit, row.time, row.known_by, row.codes] for row in shown]
    if rest:
        rows.append([f"{rest:,} more columns", *["..."] * 5])
    title = "What is known of the columns, and how (said, by the file, inferred or assumed)"
    head = [
        "column",
        "quantity",
        "unit",
        "what a stamp of the file means",
        "known by",
        "codes masked",
    ]
    return title, head, rows


def _missing(facts: dict[str, Any]) -> Table | None:
    found = [row for row in facts["missing"] if row["missing"]]
    if not found:
        return None
    rows = [
        [row["column"], f"{row['missing']:,}", percent(row["share"], 2), f"{row['left']:,}"]
        for row in found
    ]
    title = "Missing values (columns without any are not listed)"
    return title, ["column", "missing", "share", "left after filling"], rows


def _features(facts: dict[str, Any]) -> Table | None:
    if not facts["features"]:
        return None
    rows = [
        [row["feature"], f"{row['auc_ahead']:.3f}", f"{row['auc_behind']:.3f}"]
        for row in facts["features"]
    ]
    title = "ROC-AUC of each feature at the time of issue, against the rain ahead and behind"
    return title, ["feature", "ahead", "behind"], rows


def _paragraph(text: str, indent: str) -> list[str]:
    """Lines of the width; a name at the start of a later line can't pass for a line of its own."""
    return textwrap.wrap(
        plain(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent or "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _finding(finding: Finding) -> list[str]:
    lines = _paragraph(f"[{finding.severity}] {finding.name}: {finding.summary}", "")
    for text in (finding.explanation, finding.remedy and f"To do: {finding.remedy}"):
        lines += _paragraph(text, "    ") if text else []
    return lines


def _text_table(table: Table) -> list[str]:
    title, head, rows = table
    found = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(head):
        found.add_column(Text(name), justify="right" if place else "left")
    for row in rows:
        found.add_row(*(Text(plain(cell, _MOST_OF_A_CELL)) for cell in row))
    drawn = "".join(part.text for part in Console(width=WIDTH - 2).render(found))
    return _paragraph(title, "") + [f"  {line}".rstrip() for line in drawn.splitlines()]


def audit_text(audit: Audit) -> str:
    """Write headline, findings by severity, then the tables."""
    counts = counted(audit)
    lines = [line for sentence in headline(audit) for line in _paragraph(sentence, "")]
    lines += ["", f"FINDINGS: {counts}", ""]
    for severity in SEVERITIES:
        for finding in audit.of(severity):
            lines += [*_finding(finding), ""]
    for table in tables(audit):
        lines += [*_text_table(table), ""]
    for row in audit.skipped:
        lines += _paragraph(f"Not checked: {row['check']}: {row['reason']}", "")
    return "\n".join(lines).rstrip() + "\n"


def audit_page(audit: Audit) -> str:
    """Make one self-contained HTML page: no script, no network; all of the data is escaped."""
    facts = audit.facts
    shares: dict[str, dict[str, Any]] = {}
    if "class_shares" in facts:
        shares["all regions"] = {row["split"]: row["rain_share"] for row in facts["splits"]}
        for cell in facts["class_shares"]:
            if cell["season"] == "all":
                shares.setdefault(cell["region"], {})[cell["split"]] = cell["rain_share"]
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["plain"] = plain
    return pages.get_template("audit.html.j2").render(
        headline=headline(audit),
        counts=counted(audit),
        findings=[finding for severity in SEVERITIES for finding in audit.of(severity)],
        shares=shares,
        splits=SPLITS,
        percent=percent,
        tables=tables(audit),
        skipped=audit.skipped,
    )
