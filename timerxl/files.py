"""Files that are whole or not there, and values as JSON knows them."""

from __future__ import annotations

import json
import math
import os
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


def write_text(path: Path, text: str) -> None:
    """Write all of ``text`` or nothing: to a temporary file beside ``path``, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """As :func:`write_text`, indented."""
    write_text(path, json.dumps(json_ready(content), indent=2) + "\n")
