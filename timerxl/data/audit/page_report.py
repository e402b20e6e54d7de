"""The audit as one self-contained HTML page: no script, no network, light and dark."""

from __future__ import annotations

from html import escape
from typing import Any

from timerxl.data.audit.findings import SEVERITIES, Audit, Finding
from timerxl.data.audit.text_report import Table, counted, headline, percent, tables
from timerxl.data.splits import SPLITS
from timerxl.untrusted import plain

# Okabe and Ito's colours keep apart for every common colour vision; words say the same again.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --dim: #595959; --paper: #ffffff;
  --card: #f4f5f6; --line: #d3d6d9; --fault: #a63c00; --warning: #7a5a00; --note: #00588f;
  --train: #0072b2; --validation: #e69f00; --test: #009e73; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --dim: #b0b4b8; --paper: #16181a;
  --card: #212428; --line: #3b4046; --fault: #ff9a5c; --warning: #f0c345; --note: #7cc4f5;
  --train: #56b4e9; --validation: #f0b73a; --test: #2fc79b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); }
article { background: var(--card); border-left: .4rem solid var(--line); margin: .75rem 0;
  padding: .6rem .9rem; border-radius: .3rem; }
article.fault { border-color: var(--fault); } article.warning { border-color: var(--warning); }
article.note { border-color: var(--note); }
.tag { font-weight: 700; text-transform: uppercase; font-size: .8rem; letter-spacing: .04em; }
.fault .tag { color: var(--fault); } .warning .tag { color: var(--warning); }
.note .tag { color: var(--note); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; overflow-wrap: normal; vertical-align: bottom; }
th { white-space: normal; min-width: 4rem; }
th:first-child, td:first-child, td.words { text-align: left; }
svg { display: block; width: 100%; max-width: 27rem; height: auto; margin-top: .5rem; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } svg .name { font-weight: 700; }
svg line { stroke: var(--dim); }
.train { fill: var(--train); } .validation { fill: var(--validation); } .test { fill: var(--test); }
"""


def _text(value: Any) -> str:
    return escape(plain(value), quote=True)


def _article(finding: Finding) -> str:
    parts = [
        f'<article class="{finding.severity}"><p><span class="tag">{finding.severity}</span> '
        f"<b>{_text(finding.name.replace('_', ' '))}</b></p><p>{_text(finding.summary)}</p>"
    ]
    if finding.explanation:
        parts.append(f'<p class="dim">{_text(finding.explanation)}</p>')
    if finding.remedy:
        parts.append(f"<p><b>To do:</b> {_text(finding.remedy)}</p>")
    return "".join(parts) + "</article>"


def _table(table: Table) -> str:
    title, head, rows = table
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="words">{_text(cell)}</td>' if len(cell) > 25 else f"<td>{_text(cell)}</td>"
            for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<h2>{_text(title)}</h2><div class="wide" tabindex="0"><table><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _bars(facts: dict[str, Any]) -> str:
    """Share of rain per region and split as bars, with the overall share of each split on top."""
    if "class_shares" not in facts:
        return ""
    groups: dict[str, dict[str, Any]] = {
        "all regions": {row["split"]: row["rain_share"] for row in facts["splits"]}
    }
    for cell in facts["class_shares"]:
        if cell["season"] == "all":
            groups.setdefault(cell["region"], {})[cell["split"]] = cell["rain_share"]
    parts, y = [], 4
    for region, shares in groups.items():
        parts.append(f'<text class="name" x="0" y="{y + 13}">{_text(region)}</text>')
        y += 20
        parts.append(f'<line x1="76" x2="76" y1="{y - 2}" y2="{y + 52}"/>')
        for split in SPLITS:
            share = shares.get(split)
            width = 0.0 if share is None else 280 * share
            words = "no window" if share is None else percent(share)
            parts.append(
                f'<text x="0" y="{y + 12}">{split}</text>'
                f'<rect class="{split}" x="76" y="{y}" width="{width:.1f}" height="14"/>'
                f'<text x="{80 + width:.1f}" y="{y + 12}">{words}</text>'
            )
            y += 18
        y += 8
    return (
        "<h2>Share of rain by region and split</h2>"
        f'<svg viewBox="0 0 430 {y}" role="img" aria-label="Share of rain by region and split; '
        f'the numbers stand in the tables below">{"".join(parts)}</svg>'
    )


def audit_page(audit: Audit) -> str:
    """The whole page; everything that came from the data is escaped."""
    title, *rest = headline(audit)
    counts = counted(audit)
    findings = "".join(_article(f) for severity in SEVERITIES for f in audit.of(severity))
    skipped = "".join(
        f"<li>{_text(row['check'])}: {_text(row['reason'])}</li>" for row in audit.skipped
    )
    not_checked = f"<h2>Not checked</h2><ul>{skipped}</ul>" if skipped else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Data audit</title><style>{_STYLE}</style></head><body>"
        f"<h1>Data audit: {_text(title)}</h1>"
        + "".join(f"<p>{_text(line)}</p>" for line in rest)
        + f"<h2>Findings: {counts}</h2>{findings}{_bars(audit.facts)}"
        + "".join(_table(table) for table in tables(audit))
        + f"{not_checked}</body></html>\n"
    )
