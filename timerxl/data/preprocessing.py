"""What a saved model says of its inputs, and what that asks of another series.

``preprocessing.json`` lies beside the weights. A series that is scored or forecast by that model is
read, scaled and cut by it, never by statistics of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import DataConfig, InputError, RunConfig, SyntheticConfig, validate
from timerxl.data.enso import ONI_FEATURE
from timerxl.data.labels import whole_steps
from timerxl.data.scaling import NUM_CYCLES
from timerxl.data.series import WeatherSeries
from timerxl.data.training_ranges import ranges_problem
from timerxl.untrusted import Between, Text, misfit, read_json, shape_of

PREPROCESSING = "preprocessing.json"
MOST_NAMES = 200_000  # regions, features; a hundred thousand places are a fine grid of a country
_NAME = Text(1_000)
_HOURS = Between(0.0, 876_600.0)  # a hundred years
_LENGTH = Between(1 / 3600, 876_600.0)  # of a step or a horizon: a second or more
_VALUE = Between(-1e38, 1e38)  # what float32 holds
# What is read of it, and of what kind that is (timerxl.untrusted.misfit).
_SHAPE = {
    "feature_names": [_NAME],
    # A deviation of less is taken for a constant by fit_scaling, and divided by 1.
    "scaling": {"mean": [_VALUE], "std": [Between(1e-18, 1e38)], "log1p": [_NAME]},
    "step_hours": _LENGTH,
    "context_length": range(1, 2**24 + 1),
    "regions": [_NAME],
    "split": {"method": Text(10), "embargo_hours?": _HOURS, "holdout_from?": Text(40)},
    "data": {"path": (str, None), "synthetic": dict},
    "label": {
        "text": Text(5_000),
        "horizon_hours": _LENGTH,
        "threshold_mm?": (Between(0.0, 1e6), None),
    },
    "static_feature_names?": [Text(1_100)],
    "is_synthetic?": bool,
    "source?": {"path?": (str, None), "sha256?": (str, None)},
    "decision_threshold?": (Between(0.0, 1.0), None),
    "calibration?": ({"slope": Between(-1e12, 1e12), "intercept": Between(-1e12, 1e12)}, None),
}
# What DataConfig's own types leave open, of what is used with a finished model.
_DATA_SHAPE = {
    "label_horizon_hours?": _LENGTH,
    "rain_threshold_mm?": Between(0.0, 1e6),
    "window_stride_hours?": (_LENGTH, None),
    "train_stride_hours?": (_LENGTH, None),
    "max_fill_hours?": _HOURS,
    "oni_lag_months?": range(2, 1_201),
    "synthetic?": {"step_hours?": range(1, 25), "seed?": range(2**63)},
}


@dataclass(frozen=True)
class Preprocessing:
    """``content`` is preprocessing.json as it was saved, ``folder`` where it lies."""

    folder: Path
    content: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """Read ``folder/preprocessing.json``; raises InputError where that fails."""
        path = folder / PREPROCESSING
        if not path.is_file():
            raise InputError(
                f"{folder} holds no {PREPROCESSING}; expected a model folder as a run writes it, "
                "such as runs/quickstart/model."
            )
        content = read_json(path)
        if problem := content_problem(content):
            raise InputError(f"{path}: {problem}. Train again to write it anew.")
        return cls(folder, content)

    @property
    def regions(self) -> list[str]:
        """Regions of the training series, in the order of the one-hot static features."""
        return list(self.content["regions"])

    @property
    def context_length(self) -> int:
        """Steps of the context the model was trained with."""
        return int(self.content["context_length"])

    @property
    def boundaries(self) -> tuple[np.datetime64, np.datetime64] | None:
        """First issue times of validation and of test; None where the split wasn't by time."""
        split = self.content["split"]
        if split["method"] != "time":
            return None
        first, second = split["validation_from"], split["test_from"]
        return np.datetime64(first, "s"), np.datetime64(second, "s")

    def data_config(self, path: str | None, oni: Path | None = None) -> DataConfig:
        """How the training series was read, for the one at ``path`` (null: the synthetic one).

        ``oni`` is NOAA's file, for a model with that feature: paths in preprocessing.json, which
        anybody may have written, are never read. Raises InputError where it is needed and None.
        """
        needs_oni = self._data.oni_path is not None
        if needs_oni and oni is None:
            raise InputError(
                f"the model reads the feature {ONI_FEATURE}: give NOAA's oni.ascii.txt with "
                "--oni FILE (in Python: oni=FILE)."
            )
        features = None
        if path is not None:
            added = [ONI_FEATURE] if needs_oni else []
            features = [name for name in self.content["feature_names"] if name not in added]
        oni_path = str(oni) if needs_oni else None
        return replace(self._data, path=path, features=features, oni_path=oni_path)

    @property
    def _data(self) -> DataConfig:
        return _saved_data(self.content["data"])

    def check(self, series: WeatherSeries) -> None:
        """Raise InputError where the series isn't of the kind that the model was trained on."""
        expected, found = list(self.content["feature_names"]), series.feature_names
        if found != expected:
            absent = [name for name in expected if name not in found]
            raise InputError(
                f"the model reads {len(expected)} features, the series has {len(found)}; "
                + (f"missing: {', '.join(absent)}." if absent else "they differ in their order.")
            )
        if series.step_hours != self.content["step_hours"]:
            raise InputError(
                f"the series has a step of {series.step_hours:g} h; the model was trained on "
                f"{self.content['step_hours']:g} h. Resample the series."
            )
        known = set(self.regions)
        unknown = [name for name in series.regions if name not in known]
        if unknown and self.content.get("static_feature_names"):
            raise InputError(
                f"the model knows the regions {', '.join(self.regions)}, not {', '.join(unknown)}."
            )


def content_problem(content: Any) -> str | None:
    """What is wrong with the content of preprocessing.json, as a clause; None if nothing."""
    if (found := misfit(content, _SHAPE)) is not None:
        return found
    names, scaling, regions = content["feature_names"], content["scaling"], content["regions"]
    for key in ("feature_names", "regions"):
        if not 1 <= len(content[key]) <= MOST_NAMES:
            return f"{key} holds {len(content[key]):,} names; expected 1 to {MOST_NAMES:,}"
    if not len(names) == len(scaling["mean"]) == len(scaling["std"]):
        return f"scaling has not one mean and one deviation for each of {len(names)} features"
    if len(set(scaling["log1p"])) < len(scaling["log1p"]):
        return "scaling.log1p holds a name twice"
    if unknown := set(scaling["log1p"]) - set(names):
        return f"scaling.log1p names {sorted(unknown)[0]!r}, which is no feature"
    if len(set(names)) < len(names) or len(set(regions)) < len(regions):
        return "feature_names or regions holds a name twice"
    static = content.get("static_feature_names", [])
    if len(static) not in (0, NUM_CYCLES + len(regions)):
        return f"static_feature_names holds {len(static):,} names for {len(regions):,} regions"
    ranges = content.get("training_ranges")
    if ranges is not None:
        found = ranges_problem(ranges, len(names), content["step_hours"])
        if found is not None:
            return found
    horizon = content["label"]["horizon_hours"]
    if content["label"].get("threshold_mm") is not None:  # else the label is a ready column
        try:
            whole_steps(horizon, content["step_hours"])
        except InputError as error:
            return str(error).rstrip(".")
    split = content["split"]
    if split["method"] not in ("time", "rows"):
        return "split.method is neither time nor rows"
    if split["method"] == "time":
        if "embargo_hours" not in split:
            return "split has no embargo_hours"
        for key in ("validation_from", "test_from"):
            if not _is_time(split.get(key)):
                return f"split.{key} is no ISO time"
        if not np.datetime64(split["validation_from"]) < np.datetime64(split["test_from"]):
            return "split.validation_from is not before split.test_from"
    try:
        data = _saved_data(content["data"])
    except InputError as error:
        return str(error).rstrip(".")
    if horizon != data.label_horizon_hours:
        return "label.horizon_hours is not data.label_horizon_hours"
    return None


def _saved_data(saved: dict[str, Any]) -> DataConfig:
    """The settings of ``data`` as a run resolved them; raises InputError naming a bad one.

    What an older or a newer version called a setting is left out.
    """
    for shape in (shape_of(DataConfig), _DATA_SHAPE):
        if problem := misfit(saved, shape, "data"):
            raise InputError(problem)
    known = {key: value for key, value in saved.items() if key in _names(DataConfig)}
    synthetic = {k: v for k, v in known.pop("synthetic").items() if k in _names(SyntheticConfig)}
    config = DataConfig(synthetic=SyntheticConfig(**synthetic), **known)
    validate(RunConfig(data=config))
    return config


def _names(cls: type) -> set[str]:
    return {item.name for item in fields(cls)}


def _is_time(text: Any) -> bool:
    """Of a calendar's years 1 to 9999, without a zone."""
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False
