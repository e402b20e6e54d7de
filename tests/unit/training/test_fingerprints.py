"""A change of data or code between two starts of a run is seen."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.series import WeatherSeries, blocks
from timerxl.data.windows import build_windows
from timerxl.training import resume
from timerxl.training.resume import check_fingerprints, code_fingerprint

# Without static features, into which times and regions go as well.
SERIES = "data.synthetic.start=2024-06-01 model.context_length=16 data.static_features=false"
CHANGES: dict[str, Callable[[WeatherSeries], WeatherSeries]] = {
    "a value": lambda s: replace(s, values=moved(s.values, (40, 3))),
    "a time": lambda s: replace(s, timestamps=s.timestamps + np.timedelta64(1, "s")),
    "a region's name": lambda s: replace(s, regions=[*s.regions[:-1], "elsewhere"]),
    "a feature's name": lambda s: replace(s, feature_names=[*s.feature_names[:-1], "other"]),
}


def moved(values: np.ndarray, place: Any) -> np.ndarray:
    values = values.copy()
    values[place] += 1.0
    return values


def test_the_data_s_fingerprint_sees_any_change() -> None:
    config = load_recipe("quickstart", SERIES.split())
    series = load_series(config.data)

    def of(series: WeatherSeries, **changes: Any) -> str:
        return build_windows(series, replace(config.data, **changes), 16).fingerprint

    first = of(series)
    assert of(load_series(config.data)) == first  # read again
    found = {case: of(change(series)) for case, change in CHANGES.items()}
    windows = build_windows(series, config.data, 16)
    for name in ("label", "rained_before"):
        changed = replace(windows, **{name: 1 - getattr(windows, name)})
        found[name] = changed.fingerprint
    found["splits"] = of(series, train_fraction=0.6)
    assert [case for case, value in found.items() if value == first] == []


def test_the_data_s_fingerprint_is_the_one_of_earlier_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load_recipe("quickstart", ["data.synthetic.end=2014-06-01"])
    windows = build_windows(load_series(config.data), config.data, 16)
    series = windows.series
    names = [series.feature_names, series.regions, windows.static_feature_names]
    digest = hashlib.sha256(json.dumps([names, 16]).encode())
    splits = ("test", "train", "validation")
    digest.update("".join(splits).encode())
    assert windows.static is not None
    for array in (
        windows.values.numpy(),
        windows.label,
        windows.rained_before,
        series.region_index,
        series.timestamps.astype(np.int64),
        windows.static.numpy(),
        *(windows.rows[split] for split in splits),
    ):
        digest.update(array.tobytes())
    monkeypatch.setattr(blocks, "__defaults__", (37,))
    assert windows.fingerprint == digest.hexdigest()


def test_the_code_s_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(resume.__file__).parents[1]
    copy = shutil.copytree(package, tmp_path / "p", ignore=shutil.ignore_patterns("__pycache__"))
    first = code_fingerprint()
    copied = copy / "training" / "resume.py"
    monkeypatch.setattr(resume, "__file__", str(copied))
    assert code_fingerprint() == first  # of the content, not of the place
    for name, counts in (("training/trainer.py", True), ("data/series.py", True), ("hub", False)):
        path = copy / name if counts else next((copy / name).glob("*.py"))
        before = code_fingerprint()
        path.write_text(path.read_text() + "\n# changed\n")
        assert (code_fingerprint() != before) is counts, name


def test_changed_data_are_refused_and_changed_code_is_noted() -> None:
    state = {"data_fingerprint": "d", "code_fingerprint": "c"}
    assert check_fingerprints(state, "d", "c", force=False) == (None, [])
    problem, notes = check_fingerprints(state, "other", "c", force=False)
    assert problem is not None
    assert "train.resume_force=true" in problem
    assert notes == []
    assert check_fingerprints(state, "other", "c", force=True)[0] is None
    problem, (note,) = check_fingerprints(state, "d", "other", force=False)
    assert problem is None
    assert "code" in note
