"""The pieces of a page. Every string goes through ``text``: what a file holds is never markup."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from timerxl.report.drawing import Picture, svg_of
from timerxl.report.page_style import SCRIPT, STYLE
from timerxl.untrusted import plain


@dataclass(frozen=True)
class Section:
    """``body`` is markup already."""

    key: str
    title: str
    body: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table; ``small`` stands below, ``value`` is what it is sorted by."""

    words: str
    value: float | None = None
    small: str = ""


@dataclass(frozen=True)
class Words:
    """A cell of words with ``small`` ones below."""

    words: str
    small: str = ""


def text(value: Any) -> str:
    """Escaped, without characters that are not meant to be seen."""
    return escape(plain(value), quote=True)


def paragraph(words: Any, css: str = "") -> str:
    return f'<p class="{css}">{text(words)}</p>' if css else f"<p>{text(words)}</p>"


def score(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number for a reader; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def interval(low: float | None, high: float | None, sign: str = "") -> str:
    """``0.82 to 0.86``, or nothing."""
    if low is None or high is None:
        return ""
    return f"{score(low, sign=sign)} to {score(high, sign=sign)}"


def number_cell(value: float | None, small: str = "", digits: int = 3, sign: str = "") -> Cell:
    return Cell(score(value, digits, sign), value, small)


def count_cell(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{value:,.0f}", value)


def table(
    label: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str | Words | Cell]],
    *,
    sortable: bool = True,
    headed: bool = True,
    first: str | None = None,
    wrap: bool = False,
) -> str:
    """A table in a box of its own that scrolls where the screen is narrow; "" without rows.

    The first cell of a row is its heading; the row headed ``first`` is in bold. ``headed`` False
    leaves the label to those who can't see what stands above. ``wrap`` breaks long keys and values
    on a phone, where reading on beats scrolling.
    """
    body, numeric = [], [False] * len(heads)
    for row in rows:
        cells = []
        for index, cell in enumerate(row):
            numeric[index] |= isinstance(cell, Cell)
            cells.append(_cell(cell, is_head=index == 0))
        heading = row[0] if isinstance(row[0], str) else row[0].words
        bold = ' class="first"' if first is not None and heading == first else ""
        body.append(f"<tr{bold}>{''.join(cells)}</tr>")
    if not body:
        return ""
    top = "".join(
        _head(head, right, sortable and len(body) > 1)
        for head, right in zip(heads, numeric, strict=True)
    )
    title = f"<h3>{text(label)}</h3>" if headed else ""
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    kind = ' class="wrap"' if wrap else ""
    return (
        f'{title}<div class="wide" role="region" tabindex="0" aria-label="{text(label)}">'
        f"<table{kind}>{head}<tbody>{''.join(body)}</tbody></table></div>"
    )


def _head(words: str, right: bool, sortable: bool) -> str:
    names = ["n"] * right + ["long"] * (len(words) > 14)
    css = f' class="{" ".join(names)}"' if names else ""
    inner = text(words)
    if sortable and words:
        short = ' class="short"' if len(words) < 12 else ""
        inner = f'<button type="button"{short}>{inner}</button>'
    return f'<th scope="col"{css}>{inner}</th>'


def _cell(cell: str | Words | Cell, is_head: bool) -> str:
    small = "" if isinstance(cell, str) or not cell.small else f"<small>{text(cell.small)}</small>"
    if not isinstance(cell, Cell):
        words = cell if isinstance(cell, str) else cell.words
        lines = "".join(f"<div>{text(line)}</div>" for line in words.split("\n"))
        lines = lines if "\n" in words else text(words)
        if is_head:
            longest = max(len(words), 0 if isinstance(cell, str) else len(cell.small))
            css = ' class="long"' if longest > 18 else ""
            return f'<th scope="row"{css}>{lines}{small}</th>'
        css = ' class="words"' if len(words) > 30 else ""
        return f"<td{css}>{lines}{small}</td>"
    known = cell.value is not None and math.isfinite(cell.value)
    value = f' data-value="{cell.value!r}"' if known else ""
    return f'<td class="n"{value}>{text(cell.words)}{small}</td>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values side by side; none without any."""
    inner = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs)
    return f"<dl>{inner}</dl>" if inner else ""


def figures(pictures: Iterable[Picture]) -> str:
    """Pictures in as many columns as the screen has room for."""
    inner = "".join(_figure(picture) for picture in pictures)
    return f'<div class="figures">{inner}</div>' if inner else ""


def _figure(picture: Picture) -> str:
    caption = f"<figcaption>{text(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure id="{text(picture.name)}"><h3>{text(picture.title)}</h3>{svg_of(picture)}'
        f"{caption}</figure>"
    )


def details(summary: str, body: str, is_open: bool = False) -> str:
    """``body`` (markup) behind a line to click."""
    return f"<details{' open' * is_open}><summary>{text(summary)}</summary>{body}</details>"


def page(title: str, head: str, sections: Sequence[Section]) -> str:
    """The whole document: ``head`` (markup), a line of links, the sections.

    The policy in its head forbids everything that is not in the file, and every script but ours.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{s.key}">{text(s.title)}</a>' for s in sections)
    body = "".join(
        f'<section id="{s.key}"><h2>{text(s.title)}</h2>{s.body}</section>' for s in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>'
        f'<body><header>{head}</header><nav aria-label="Sections">{links}</nav>'
        f"<main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )
