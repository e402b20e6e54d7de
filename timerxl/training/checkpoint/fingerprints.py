"""What a checkpoint remembers of data and code, so that a change between two starts is seen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.data.windows import WeatherWindows

_CODE = ("config.py", "data", "evaluation", "model", "training")


def data_fingerprint(windows: WeatherWindows) -> str:
    """SHA-256 of all that training and scoring read of the data."""
    digest = hashlib.sha256()
    series = windows.series
    names = [series.feature_names, series.regions, windows.static_feature_names]
    digest.update(json.dumps([[list(part) for part in names], windows.context_length]).encode())
    arrays = [windows.values.numpy(), windows.label, windows.rained_before, series.region_index]
    arrays.append(series.timestamps.astype("datetime64[s]").astype(np.int64))
    arrays += [] if windows.static is None else [windows.static.numpy()]
    for split in sorted(windows.rows):
        digest.update(split.encode())
        arrays.append(windows.rows[split])
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def code_fingerprint() -> str:
    """SHA-256 of the code that makes samples, updates and scores."""
    package, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for part in _CODE:
        path = package / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def check_fingerprints(
    state: dict[str, Any], data: str, code: str, force: bool
) -> tuple[str | None, list[str]]:
    """(why the run can't go on, or None; notes) from a checkpoint's fingerprints and today's."""
    notes = []
    if state.get("code_fingerprint") != code:
        notes.append(
            "resume: the code of timerxl changed since the checkpoint; it goes on, but need not "
            "give the numbers that the old code would have given."
        )
    if state.get("data_fingerprint") == data:
        return None, notes
    if force:
        return None, [*notes, "resume: the data changed since the checkpoint (forced)."]
    problem = (
        "the data are not those of the checkpoint (values, labels, times or splits differ). Give "
        "the old data to go on; train.resume=never or another output_dir for a new run; "
        "train.resume_force=true to go on all the same."
    )
    return problem, notes
