"""What a saved model says of its inputs, and what that asks of another series.

``preprocessing.json`` lies beside the weights. A series that is scored or forecast by that model is
read, scaled and cut by it, never by statistics of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.enso import ONI_FEATURE
from timerxl.data.schema import WeatherSeries

PREPROCESSING = "preprocessing.json"
_NEEDED = ("feature_names", "scaling", "step_hours", "context_length", "regions", "split", "data")


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
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} can't be read as JSON: {error}") from error
        missing = [key for key in _NEEDED if key not in content]
        if missing:
            raise InputError(f"{path} has no {', '.join(missing)}; train again to write it anew.")
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
        known = {item.name for item in fields(DataConfig)}
        saved = {key: value for key, value in self.content["data"].items() if key in known}
        synthetic = SyntheticConfig(**saved.pop("synthetic"))
        features = None
        if path is not None:
            added = [] if saved.get("oni_path") is None else [ONI_FEATURE]
            features = [name for name in self.content["feature_names"] if name not in added]
        saved |= {"path": path, "features": features}
        return DataConfig(synthetic=synthetic, **saved)

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
