"""The audit as plain text of at most 100 columns, and as one HTML page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jinja2
import rich.table
from rich.console import Console
from rich.text import Text

from timerxl.data.audit.findings import SEVERITIES, Audit
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
    facts = audit.facts
    missing = [row for row in facts["missing"] if row["missing"]]
    makers = (
        (_class_shares, facts.get("class_shares")),
        (_always_rain, facts.get("splits")),
        (_split_by_rows, facts.get("split_by_rows")),
        (_regions_by_rows, facts.get("split_by_rows")),
        (_sample_sizes, facts.get("effective_samples")),
        (_thresholds, facts.get("thresholds")),
        (_ready_labels, facts.get("ready_labels")),
        (_regions, facts["regions"]),
        (_columns_known, facts.get("columns_known")),
        (_missing, missing),
        (_features, facts["features"]),
    )
    return [make(found) for make, found in makers if found]


def _class_shares(found: Any) -> Table:
    cells: dict[tuple[str, str], list[str]] = {}
    for cell in found:
        row = cells.setdefault((cell["region"], cell["split"]), [])
        if cell["season"] == "all":
            row.append(f"{cell['n']:,}")
        row.append(percent(cell["rain_share"]) + ("*" if cell["differs"] else ""))
    order = list(dict.fromkeys(region for region, _ in cells))
    keys = sorted(cells, key=lambda key: (order.index(key[0]), SPLITS.index(key[1])))
    title = (
        "Share of rain by region, split and season (* more than 5 points from the same region "
        "and season in training)"
    )
    return title, ["region", "split", "windows", "all", *SEASONS], [[*k, *cells[k]] for k in keys]


def _always_rain(found: Any) -> Table:
    rows = []
    for row in found:
        if (scores := row["always_rain"]) is not None:
            accuracy, dry = scores["accuracy"], scores["always_dry_accuracy"]
            cells = [row["split"], f"{row['n']:,}", percent(row["rain_share"])]
            rows.append([*cells, percent(accuracy, 2), f"{scores['f1']:.4f}", percent(dry, 2)])
    head = ["split", "windows", "rain (p)", '"rain, always": accuracy p', "its F1 2p/(1+p)"]
    return 'What "always the same" scores', [*head, '"dry, always": accuracy'], rows


def _split_by_rows(found: Any) -> Table:
    rows = []
    for name in SPLITS:
        into = found["windows_reaching_into_the_split_before"].get(name)
        keys = ("num_rows", "windows", "windows_across_regions")
        cells = [name, *(f"{found[key][name]:,}" for key in keys)]
        share = percent(found["rain_share"][name])
        rows.append([*cells, "-" if into is None else f"{into:,}", share])
    head = ["split", "rows", "windows", "windows across regions", "into the split before", "rain"]
    return "What data.split=rows does", head, rows


def _regions_by_rows(found: Any) -> Table:
    held = found["regions"]
    rows = [
        [region, *[f"{held[name].get(region, 0):,}" for name in SPLITS]]
        for region in dict.fromkeys(region for of_split in held.values() for region in of_split)
    ]
    return "Rows of each region by data.split=rows", ["region", *SPLITS], rows


def _sample_sizes(found: Any) -> Table:
    rows = []
    for name, split in found["splits"].items():
        r1 = [region["r1"] for region in split["regions"]]
        cells = [name, f"{split['n']:,}", f"{split['n_eff']:,.0f}"]
        cells += [f"{min(r1):.2f} to {max(r1):.2f}", f"{split['regions_eff']:.1f} of {len(r1)}"]
        rows.append([*cells, f"± {200 * split['rain_share_standard_error']:.1f} points"])
    head = ["split", "windows", "independent (estimate)", "r1 of regions", "regions", "chance"]
    return f"Effective samples: {found['formula']}", head, rows


def _thresholds(found: Any) -> Table:
    levels = found["rows"]
    rows = [["all", *[percent(row["rain_share"]) for row in levels]]]
    for region in levels[0]["regions"]:
        rows.append([region, *[percent(row["regions"][region]) for row in levels]])
    title = f"Share of rain within {found['horizon_hours']:g} h by threshold (>=)"
    return title, ["region", *[f"{row['threshold_mm']:g} mm" for row in levels]], rows


def _ready_labels(found: Any) -> Table:
    rows = []
    for row in found:
        agreement = [percent(row[f"agreement_{side}"], 2) for side in ("ahead", "behind")]
        horizon = f"{row['horizon_hours']:g} h"
        rows.append([row["column"], horizon, percent(row["rain_share"]), *agreement])
    head = ["label", "horizon", "rain", "agrees with the sum ahead", "with the sum behind"]
    return "Ready label columns against the precipitation", head, rows


def _regions(found: Any) -> Table:
    rows = []
    for row in found:
        counts = [f"{row[key]:,}" for key in ("gaps", "missing_steps", "longest_gap_steps")]
        rows.append([row["region"], f"{row['rows']:,}", row["first"], row["last"], *counts])
    head = ["region", "rows", "first", "last", "gaps", "missing steps", "longest gap"]
    return "Regions and gaps in time", head, rows


def _columns_known(found: Any) -> Table:
    shown, rest = known_rows(found, _MOST_KNOWN)
    rows = [[row.names, row.quantity, row.unit, row.time, row.known_by, row.codes] for row in shown]
    if rest:
        rows.append([f"{rest:,} more columns", *["..."] * 5])
    title = "What is known of the columns, and how (said, by the file, inferred or assumed)"
    head = ["column", "quantity", "unit", "what a stamp of the file means", "known by"]
    return title, [*head, "codes masked"], rows


def _missing(found: Any) -> Table:
    rows = [
        [row["column"], f"{row['missing']:,}", percent(row["share"], 2), f"{row['left']:,}"]
        for row in found
    ]
    title = "Missing values (columns without any are not listed)"
    return title, ["column", "missing", "share", "left after filling"], rows


def _features(found: Any) -> Table:
    rows = [
        [row["feature"], f"{row['auc_ahead']:.3f}", f"{row['auc_behind']:.3f}"] for row in found
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
            lines += _paragraph(f"[{severity}] {finding.name}: {finding.summary}", "")
            for text in (finding.explanation, finding.remedy and f"To do: {finding.remedy}"):
                lines += _paragraph(text, "    ") if text else []
            lines.append("")
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
