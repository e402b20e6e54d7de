"""Files that are whole or not there, and values and lines as JSON knows them."""

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


def json_object(line: str) -> dict[str, Any] | None:
    """Parse a line; None where it is no JSON object."""
    try:
        content = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_json_lines(
    path: Path, most_bytes: int, most_line_bytes: int, *, refuse_long: bool = False
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (number, object) of every line that is not blank; None for a damaged line.

    A line above ``most_line_bytes`` is damaged, or with ``refuse_long`` a ValueError, as is a file
    above ``most_bytes``. A file of any size is read a line at a time.
    """
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most_bytes:
            raise ValueError(f"it has {size:,} bytes, expected at most {most_bytes:,}.")
        number = 0
        while line := file.readline(most_line_bytes + 1):
            number += 1
            is_long = len(line) > most_line_bytes
            if is_long and refuse_long:
                raise ValueError(f"it has a line of more than {most_line_bytes:,} bytes.")
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(most_line_bytes)):
                pass
            if line.strip():
                yield number, None if is_long else json_object(line.decode("utf-8", "replace"))
