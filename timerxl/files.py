"""Files that are whole or not there, and values as JSON knows them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def json_ready(value: Any) -> Any:
    """Plain JSON types; NaN and infinities, which JSON does not know, become null."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new, empty file beside ``path`` to be filled; it gets that name where the block ends well.

    So a reader never meets half a file, and what lay under the name (also a link) is replaced,
    never written through.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(exist_ok=False)  # made here: a name that waits as a link is refused
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write all of ``text`` or nothing (see :func:`whole_file`)."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """As :func:`write_text`, indented."""
    write_text(path, json.dumps(json_ready(content), indent=2) + "\n")
