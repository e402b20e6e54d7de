"""Pieces of Markdown. What a file holds is never markup: ``words`` escapes it."""

from __future__ import annotations

import re
from typing import Any

from timerxl.data.audit.findings import plain
from timerxl.untrusted import misfit

_MARKUP = re.compile(r"([\\`*_\[\]<>|~#])")


def words(text: Any) -> str:
    """One line, escaped."""
    return _MARKUP.sub(r"\\\1", plain(" ".join(str(text).split())))


def code(text: Any) -> str:
    """`` `one line` ``, also in a table."""
    line = plain(" ".join(str(text).split())).replace("`", "'")
    return f"`{line}`".replace("|", r"\|") if line else ""


def loud(first: str, rest: str) -> str:
    """A warning in a box of its own."""
    return f"> ⚠️ **{words(first)}** {words(rest)}"


def heading(title: str) -> str:
    return f"## {title}"


def table(headings: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Cells are Markdown already; the first ``left`` columns hold text, the others numbers."""
    lines = [headings, [":---" if index < left else "---:" for index in range(len(headings))]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *rows])


def bullets(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def facts(pairs: list[tuple[str, str]]) -> str:
    """Name and value, a line each; pairs without a value are left out."""
    return bullets([f"**{name}**: {value}" for name, value in pairs if value])


def score(value: Any, digits: int = 3, sign: str = "") -> str:
    """A number for a reader, a dash where there is none."""
    if misfit(value, float):
        return "–"
    return f"{value:{sign}.{digits}f}"


def ends(pair: Any, sign: str = "") -> str:
    """``0.82 to 0.86`` of an interval, or nothing."""
    if not isinstance(pair, list | tuple) or len(pair) != 2 or None in pair:
        return ""
    return f"{score(pair[0], sign=sign)} to {score(pair[1], sign=sign)}"
