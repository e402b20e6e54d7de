"""What a saved model says of its inputs, and what that asks of another series.

``preprocessing.json`` lies beside the weights. A series that is scored or forecast by that model is
read, scaled and cut by it, never by statistics of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import DataConfig, InputError, RunConfig, SyntheticConfig, validate
from timerxl.data.enso import ONI_FEATURE
from timerxl.data.schema import WeatherSeries
from timerxl.data.training_ranges import ranges_problem
from timerxl.untrusted import misfit, read_json, shape_of

PREPROCESSING = "preprocessing.json"
# What is read of it, and of what kind that is (timerxl.untrusted.misfit).
_SHAPE = {
    "feature_names": [str],
    "scaling": {"mean": [float], "std": [float], "log1p": [str]},
    "step_hours": float,
    "context_length": range(1, 10**9),
    "regions": [str],
    "split": {"method": str, "embargo_hours?": float, "holdout_from?": str},
    "data": {"path": (str, None), "synthetic": dict},
    "label": {"text": str, "horizon_hours": float, "threshold_mm?": (float, None)},
    "static_feature_names?": [str],
    "is_synthetic?": bool,
    "source?": {"path?": (str, None), "sha256?": (str, None)},
    "decision_threshold?": (float, None),
    "calibration?": ({"slope": float, "intercept": float}, None),
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
        if problem := _problem(content):
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

    def data_config(self, path: str | None) -> DataConfig:
        """How the training series was read, for the one at ``path`` (null: the synthetic one)."""
        features = None
        if path is not None:
            added = [] if self._data.oni_path is None else [ONI_FEATURE]
            features = [name for name in self.content["feature_names"] if name not in added]
        return replace(self._data, path=path, features=features)

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
        unknown = [name for name in series.regions if name not in self.regions]
        if unknown and self.content.get("static_feature_names"):
            raise InputError(
                f"the model knows the regions {', '.join(self.regions)}, not {', '.join(unknown)}."
            )


def _problem(content: Any) -> str | None:
    """What is wrong with the content of preprocessing.json, as a clause."""
    if (found := misfit(content, _SHAPE)) is not None:
        return found
    names, scaling = content["feature_names"], content["scaling"]
    if not names or not len(names) == len(scaling["mean"]) == len(scaling["std"]):
        return f"scaling has not one mean and one deviation for each of {len(names)} features"
    if not all(std > 0 for std in scaling["std"]):
        return "scaling.std holds deviations that are not above 0"
    if unknown := set(scaling["log1p"]) - set(names):
        return f"scaling.log1p names {sorted(unknown)[0]!r}, which is no feature"
    if len(set(names)) < len(names) or len(set(content["regions"])) < len(content["regions"]):
        return "feature_names or regions holds a name twice"
    ranges = content.get("training_ranges")
    if ranges is not None and (found := ranges_problem(ranges, len(names))) is not None:
        return found
    if content["split"]["method"] not in ("time", "rows"):
        return "split.method is neither time nor rows"
    if content["split"]["method"] == "time":
        if "embargo_hours" not in content["split"]:
            return "split has no embargo_hours"
        for key in ("validation_from", "test_from"):
            if not _is_time(content["split"].get(key)):
                return f"split.{key} is no ISO time"
    try:
        data = _saved_data(content["data"])
    except InputError as error:
        return str(error)
    if content["label"]["horizon_hours"] != data.label_horizon_hours:
        return "label.horizon_hours is not data.label_horizon_hours"
    return None


def _saved_data(saved: dict[str, Any]) -> DataConfig:
    """The settings of ``data`` as a run resolved them; raises InputError naming a bad one.

    What an older or a newer version called a setting is left out.
    """
    if problem := misfit(saved, shape_of(DataConfig), "data"):
        raise InputError(problem)
    known = {key: value for key, value in saved.items() if key in _names(DataConfig)}
    synthetic = {k: v for k, v in known.pop("synthetic").items() if k in _names(SyntheticConfig)}
    config = DataConfig(synthetic=SyntheticConfig(**synthetic), **known)
    validate(RunConfig(data=config))
    return config


def _names(cls: type) -> set[str]:
    return {item.name for item in fields(cls)}


def _is_time(text: Any) -> bool:
    try:
        return isinstance(text, str) and not np.isnat(np.datetime64(text, "s"))
    except ValueError:
        return False
