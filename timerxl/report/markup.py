"""The parts of a page, rendered from ``templates/``.

Every value is escaped, and characters that are not meant to be seen are taken out of it: what a
file holds is never markup.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from timerxl.report.figures import Picture, svg_of
from timerxl.untrusted import plain

TEMPLATES = Environment(
    loader=PackageLoader("timerxl.report"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=lambda value: value if isinstance(value, Markup) else plain(value),
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; ``key`` is its id."""

    key: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table with ``small`` words below; numbers are sorted by ``value``."""

    words: str
    small: str = ""
    value: float | None = None
    is_number: bool = False

    @property
    def sort_value(self) -> float | None:
        return self.value if self.value is not None and math.isfinite(self.value) else None


Row = Sequence[str | Cell]


def render(template: str, title: str, sections: Sequence[Section], **values: Any) -> str:
    """The whole document."""
    script = TEMPLATES.get_template("script.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return TEMPLATES.get_template(template).render(
        title=title,
        sections=sections,
        script=Markup(script),  # nosec B704 - our own script.js.j2
        script_digest=digest,
        **values,
    )


def part(name: str, *values: Any) -> Markup:
    """A macro of ``templates/parts.html.j2``."""
    macro = getattr(TEMPLATES.get_template("parts.html.j2").module, name)
    return Markup(macro(*values))  # nosec B704 - the macro has escaped its values


def paragraph(words: Any, css: str = "") -> Markup:
    return part("paragraph", words, css)


def details(summary: str, body: Markup, is_open: bool = False) -> Markup:
    """``body`` behind a line to click."""
    return part("details", summary, body, is_open)


def score(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number for a reader; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def interval(low: float | None, high: float | None, sign: str = "") -> str:
    """``0.82 to 0.86``, or nothing."""
    if low is None or high is None:
        return ""
    return f"{score(low, sign=sign)} to {score(high, sign=sign)}"


def number_cell(value: float | None, small: str = "", sign: str = "") -> Cell:
    return Cell(score(value, sign=sign), small, value, is_number=True)


def table(
    label: str,
    heads: Sequence[str],
    rows: Iterable[Row],
    *,
    sortable: bool = True,
    headed: bool = True,
    first: str | None = None,
    wrap: bool = False,
) -> Markup:
    """A table in a box of its own; "" without rows. The first cell of a row is its heading.

    The row headed ``first`` is in bold. ``headed`` False leaves the label to screen readers.
    ``wrap`` breaks long keys and values on a phone, where reading on beats scrolling.
    """
    cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows]
    if not cells:
        return Markup()
    numeric = [any(cell.is_number for cell in column) for column in zip(*cells, strict=True)]
    return part(
        "table", label, heads, cells, numeric, sortable and len(cells) > 1, headed, first, wrap
    )


def figures(pictures: Iterable[Picture]) -> Markup:
    """Pictures in as many columns as the screen has room for; "" without any."""
    shown = [
        {
            "name": picture.name,
            "title": picture.title,
            "caption": picture.caption,
            "svg": Markup(svg_of(picture)),  # nosec B704 - drawn here, its text escaped
        }
        for picture in pictures
    ]
    return part("figures", shown)
