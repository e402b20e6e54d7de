"""Files of a run folder: metrics.jsonl, results.json, status.json, config.yaml."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from timerxl.files import json_ready, write_json


@dataclass
class Log:
    """Sentences for the reader, from the main process alone."""

    active: bool = True

    def __call__(self, sentence: str) -> None:
        if self.active:
            tqdm.write(sentence, file=sys.stdout)  # above a running bar, not into it
            sys.stdout.flush()


def write_status(output_dir: Path, code: int, reason: str) -> None:
    """status.json holds the exit code where a launcher turns every failure into 1."""
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "status.json", {"code": code, "reason": reason})


def draw_page(draw: Callable[[Path], object] | None, folder: Path) -> None:
    """A page that can't be drawn must not end a run; it is said."""
    try:
        if draw is not None:
            draw(folder)
    except Exception as error:
        Log()(f"warning: the report was not written: {type(error).__name__}: {error}")


class MetricsLog:
    """metrics.jsonl: one JSON object a line, flushed at once; only the main process writes."""

    def __init__(self, path: Path, active: bool):
        self._file = path.open("a", encoding="utf-8") if active else None

    def write(self, event: str, **values: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(json_ready({"event": event, **values})) + "\n")
            self._file.flush()

    def sync(self) -> int:
        """Have the disk hold what was written; returns the length in bytes (0 elsewhere)."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
