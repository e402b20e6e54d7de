"""From a table in physical units to the tensors of a Timer-XL classifier, and on to P(rain).

Shapes: B windows, T time steps (``context_length``), C variables, S static features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import FeatureExtractionMixin
from transformers.feature_extraction_utils import BatchFeature

PREPROCESSOR_CONFIG = "preprocessor_config.json"
AUTO_MAP = {"AutoFeatureExtractor": "feature_extraction_timerxl.TimerXLFeatureExtractor"}
SMALLEST = 1e-7  # P(rain) of exactly 0 or 1 has no logit
_LARGEST = 1e38  # what float32 holds
_MOST_NAMES, _MOST_STEPS = 200_000, 2**24


class TimerXLFeatureExtractor(FeatureExtractionMixin):
    """Check, scale and cut the context of a forecast as the model was trained with.

    A column is in the unit of training: precipitation in mm, a direction as two columns NAME_sin
    and NAME_cos, the Oceanic Niño Index as a column of its own. What timerxl's Forecaster does
    beyond that is not done here: other units and names of columns, filling of holes, comparison
    with the range of the training data.

    Args:
        feature_names: the C columns, in the order of the model.
        mean, std: scaling of each column, (x - mean) / std.
        log1p: columns that are scaled as log(1 + x).
        context_length, step_hours: steps of a window, and hours from one to the next.
        regions: regions of training, in the order of their static features; with
            ``static_features`` the model also reads the time of issue and the region.
        timestamp_column, region_column: columns of a table that tell these (each time is the end
            of its step, in UTC where it names no zone).
        calibration: ``{"slope": ..., "intercept": ...}`` of Platt scaling, or None.
        decision_threshold: raw P(rain) from which the forecast is rain, or None.
        regions_together: one window holds all regions side by side, as in training.

    Raises ValueError where these contradict each other.
    """

    model_input_names = ["past_values", "past_observed_mask", "static_real_features"]

    def __init__(
        self,
        feature_names: Sequence[str] = (),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        log1p: Sequence[str] = (),
        context_length: int = 1440,
        step_hours: float = 1.0,
        regions: Sequence[str] = (),
        static_features: bool = False,
        timestamp_column: str = "timestamp",
        region_column: str = "region",
        calibration: Mapping[str, float] | None = None,
        decision_threshold: float | None = None,
        regions_together: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.feature_names, self.log1p = list(feature_names), list(log1p)
        self.mean, self.std = list(mean), list(std)
        self.context_length, self.step_hours = context_length, step_hours
        self.regions, self.static_features = list(regions), static_features
        self.timestamp_column, self.region_column = timestamp_column, region_column
        self.calibration = None if calibration is None else dict(calibration)
        self.decision_threshold, self.regions_together = decision_threshold, regions_together
        if problem := self._problem():
            raise ValueError(f"{PREPROCESSOR_CONFIG}: {problem}.")

    def _problem(self) -> str | None:
        """Tell what is wrong with the settings, as a clause; None if nothing is."""
        for key in ("feature_names", "regions", "log1p"):
            names = getattr(self, key)
            if not all(isinstance(name, str) and name for name in names):
                return f"{key} holds what is no name"
            if len(set(names)) < len(names) or len(names) > _MOST_NAMES:
                return f"{key} holds a name twice, or more than {_MOST_NAMES:,}"
        if unknown := set(self.log1p) - set(self.feature_names):
            return f"log1p names {sorted(unknown)[0]!r}, which is no feature"
        if not len(self.feature_names) == len(self.mean) == len(self.std):
            return (
                f"{len(self.feature_names)} feature_names, {len(self.mean)} numbers of mean and "
                f"{len(self.std)} of std; expected as many of each"
            )
        if type(self.context_length) is not int or not 1 <= self.context_length <= _MOST_STEPS:
            return f"context_length is not a whole number from 1 to {_MOST_STEPS:,}"
        line = {"slope": 1.0, "intercept": 0.0} if self.calibration is None else self.calibration
        if set(line) != {"slope", "intercept"}:
            return "calibration does not hold slope and intercept"
        numbers = [*self.mean, *self.std, self.step_hours, *line.values()]
        if not all(_is_number(one) and abs(one) <= _LARGEST for one in numbers):
            return "mean, std, step_hours or calibration holds what is not a finite number"
        if not all(one > 0 for one in (*self.std, self.step_hours)):
            return "std or step_hours holds a number that is not above 0"
        return None

    @classmethod
    def from_preprocessing(cls, content: Mapping[str, Any]) -> TimerXLFeatureExtractor:
        """Build the extractor from the content of a run's preprocessing.json.

        Raises ValueError where it does not hold what the extractor needs.
        """
        try:
            data = content["data"]
            return cls(
                feature_names=content["feature_names"],
                **content["scaling"],
                context_length=content["context_length"],
                step_hours=content["step_hours"],
                regions=content["regions"],
                static_features=bool(content.get("static_feature_names")),
                timestamp_column=data.get("timestamp_column") or "timestamp",
                region_column=data.get("region_column") or "region",
                calibration=content.get("calibration"),
                decision_threshold=content.get("decision_threshold"),
                regions_together=data.get("regions_together", "none") != "none",
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"preprocessing.json does not fit a model: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON holds them, with the code that goes with them."""
        return {**super().to_dict(), "auto_map": AUTO_MAP}

    def __call__(
        self,
        table: Any,
        region: str | Sequence[str] | None = None,
        issue_time: Any = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Turn the context of a forecast into the model's inputs.

        Args:
            table: a pandas frame or a dict of columns, of which the last T steps of each region
                are taken (those up to ``issue_time``, where it is given); or an array [T, C] or
                [B, T, C] with the columns of ``feature_names``, in this order.
            region: the region or regions of the table to take (all of them, in the order in which
                they come); for an array the region of all windows or of each.
            issue_time: end of the last step; for an array that of all windows or of each.
            return_tensors: "pt" for tensors, None for arrays.

        Returns past_values [B, T, C] and, where the model reads them, static_real_features [B, S].
        With ``regions_together`` one window of the table: past_values [1, T, G*C],
        past_observed_mask [1, T, G], False for a region that the table has not, and
        static_real_features [1, G, S]; the model then answers for ``regions``, in this order.
        Raises ValueError where a column or step is missing or a value is not a finite number.
        """
        if self.regions_together:
            return self._together(table, region, issue_time, return_tensors)
        windows: Any  # B of them, [T, C] each
        if hasattr(table, "keys"):
            windows, region, issue_time = self._windows(table, region, issue_time)
            names = [f"region {name}" for name in region] if region else ["the table"]
        else:
            array = _float32(table, "the context")
            windows = array[None] if array.ndim == 2 else array
            names = [f"window {index}" for index in range(len(array) if array.ndim == 3 else 1)]
            if array.ndim not in (2, 3):
                raise ValueError(f"the context has shape {list(array.shape)}; expected [B, T, C].")
        if not len(windows):
            raise ValueError("there is no window: the table or array is empty.")
        for name, window in zip(names, windows, strict=True):
            self._check(window, name)
        inputs = {"past_values": self._scaled(np.stack(windows))}
        if self.static_features:
            inputs["static_real_features"] = self._static(region, issue_time, len(windows))
        return BatchFeature(inputs, tensor_type=return_tensors)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """[..., C] in physical units to float32 as the model reads them."""
        scaled = values.astype(np.float64)
        for name in self.log1p:
            column = self.feature_names.index(name)
            scaled[..., column] = np.log1p(scaled[..., column])
        return ((scaled - self.mean) / self.std).astype(np.float32)

    def _together(
        self, table: Any, region: Any, issue_time: Any, return_tensors: str | None
    ) -> BatchFeature:
        """One window of all regions; those that the table has must end at the same time."""
        if not hasattr(table, "keys") or region is not None:
            raise ValueError(
                "the model reads all regions side by side: give a table with the columns "
                f"{self.timestamp_column} and {self.region_column}, and no region."
            )
        windows, names, times = self._windows(table, None, issue_time)
        if names is None or times is None or len(set(_utc(times).tolist())) != 1:
            raise ValueError(
                f"the regions of the table do not end at one time; give issue_time=, and the "
                f"columns {self.timestamp_column} and {self.region_column}."
            )
        if unknown := [name for name in names if name not in self.regions]:
            raise ValueError(
                f"the model knows the regions {', '.join(self.regions[:30])}, not {unknown[0]!r}."
            )
        length, width = self.context_length, len(self.feature_names)
        values = np.zeros((length, len(self.regions), width), np.float32)
        observed = np.zeros((1, length, len(self.regions)), bool)
        for name, window in zip(names, windows, strict=True):
            self._check(window, f"region {name}")
            place = self.regions.index(name)
            values[:, place], observed[:, :, place] = self._scaled(window), True
        inputs = {"past_values": values.reshape(1, length, -1), "past_observed_mask": observed}
        if self.static_features:
            static = self._static(
                self.regions, [_utc(times)[0]] * len(self.regions), len(self.regions)
            )
            inputs["static_real_features"] = static[None]
        return BatchFeature(inputs, tensor_type=return_tensors)

    def post_process(self, outputs: Any) -> Tensor:
        """Turn the model's outputs (or its logits [B, 2]) into calibrated P(rain) [B], float64; of
        regions side by side [B, G, 2] into [B, G]."""
        logits = getattr(outputs, "logits", outputs).detach().double()
        probability = torch.sigmoid(logits[..., 1] - logits[..., 0])
        line = self.calibration
        if line is None or (line["slope"] == 1 and line["intercept"] == 0):
            return probability
        logit = torch.logit(probability, eps=SMALLEST)
        return torch.sigmoid(line["slope"] * logit + line["intercept"])

    def _windows(
        self, table: Any, region: Any, issue_time: Any
    ) -> tuple[list[np.ndarray], list[str] | None, Any]:
        """Return the last context [T, C] of each region of a table, its name and time of issue."""
        if self.timestamp_column not in table and hasattr(table, "reset_index"):
            table = table.reset_index()  # times and regions may be a frame's index
        if missing := [name for name in self.feature_names if name not in table]:
            raise ValueError(
                f"the table lacks {len(missing)} of {len(self.feature_names)} columns: "
                f"{', '.join(missing)}; it has: {', '.join(map(str, list(table.keys())[:30]))}. "
                "Precipitation is in mm, a direction is two columns NAME_sin and NAME_cos."
            )
        columns = [_float32(table[name], f"column {name}") for name in self.feature_names]
        values, names = np.stack(columns, axis=-1), None
        parts = {"": np.arange(len(values))}
        if self.region_column in table:
            column = np.asarray(table[self.region_column]).astype(str)
            found = list(dict.fromkeys(column.tolist()))
            wanted = [region] if isinstance(region, str) else region
            names = found if wanted is None else list(wanted)
            if unknown := [name for name in names if name not in found]:
                raise ValueError(
                    f"the table has no row of region {unknown[0]!r}; it has: "
                    f"{', '.join(found[:30])}."
                )
            parts = {name: np.flatnonzero(column == name) for name in names}
        elif region is not None:
            names = [region] if isinstance(region, str) else list(region)
        if self.timestamp_column in table:
            times = _utc(table[self.timestamp_column])
            for name, rows in parts.items():
                rows = rows[np.argsort(times[rows], kind="stable")]
                if issue_time is not None:
                    rows = rows[times[rows] <= _utc([issue_time])[0]]
                parts[name] = rows[-self.context_length :]
                self._check_times(times[parts[name]], issue_time, name)
            issue_time = np.array([times[rows[-1]] for rows in parts.values() if rows.size])
        return [values[rows[-self.context_length :]] for rows in parts.values()], names, issue_time

    def _check_times(self, times: np.ndarray, issue_time: Any, region: str) -> None:
        """Raise ValueError unless the steps follow each other and end at ``issue_time``."""
        of = f"region {region}: " if region else ""
        step = np.timedelta64(round(self.step_hours * 3600), "s")
        if (bad := np.flatnonzero(np.diff(times) != step)).size:
            raise ValueError(
                f"{of}{times[bad[-1] + 1]} follows {times[bad[-1]]}; expected "
                f"{self.context_length} steps of {self.step_hours:g} h, none missing or repeated."
            )
        if issue_time is not None and times.size and times[-1] != _utc([issue_time])[0]:
            raise ValueError(f"{of}no row at {issue_time}; the last one before is at {times[-1]}.")

    def _check(self, window: np.ndarray, where: str) -> None:
        """Raise ValueError unless ``window`` [T, C] is what the model reads."""
        expected = (self.context_length, len(self.feature_names))
        if window.shape != expected:
            raise ValueError(
                f"{where} has shape {list(window.shape)}; expected {list(expected)}: "
                f"{expected[0]} steps of {self.step_hours:g} h of {expected[1]} columns."
            )
        if not (finite := np.isfinite(window)).all():
            step, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"{where}: {(~finite).sum():,} values are NaN or infinite, first of column "
                f"{self.feature_names[column]} at step {step}; fill or leave out these times."
            )
        for one in self.log1p:
            if (low := window[:, self.feature_names.index(one)].min()) <= -1:
                raise ValueError(f"{where}: column {one} holds {low:g}; expected 0 or more.")

    def _static(self, region: Any, issue_time: Any, windows: int) -> np.ndarray:
        """Return [B, S] float32: sine and cosine of the year and the day, one column a region."""
        if issue_time is None or (region is None and len(self.regions) > 1):
            raise ValueError(
                f"the model also reads the time of issue and the region: give the columns "
                f"{self.timestamp_column} and {self.region_column}, or issue_time= and region=."
            )
        given = self.regions[0] if region is None else region
        names = [given] * windows if isinstance(given, str) else list(map(str, given))
        one_time = isinstance(issue_time, str) or np.ndim(issue_time) == 0
        times = _utc([issue_time] * windows if one_time else issue_time)
        if len(names) != windows or len(times) != windows:
            raise ValueError(
                f"{len(names)} regions and {len(times)} times of issue for {windows} windows."
            )
        if unknown := [name for name in names if name not in self.regions]:
            raise ValueError(
                f"the model knows the regions {', '.join(self.regions[:30])}, not {unknown[0]!r}."
            )
        year, day = times.astype("datetime64[Y]"), times.astype("datetime64[D]")
        start, end = year.astype("datetime64[s]"), (year + 1).astype("datetime64[s]")
        season = 2 * np.pi * ((times - start) / (end - start))
        hour = 2 * np.pi * ((times - day) / np.timedelta64(1, "D"))
        cycles = np.stack([np.sin(season), np.cos(season), np.sin(hour), np.cos(hour)], axis=1)
        one_hot = np.array(names)[:, None] == np.array(self.regions)
        return np.concatenate([cycles, one_hot], axis=1).astype(np.float32)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _float32(values: Any, what: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # infinite, which is refused with its place
            return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} holds what is not a number: {error}") from error


def _utc(times: Any) -> np.ndarray:
    """Return times (datetimes, datetime64 or ISO text) as datetime64[s] in UTC."""
    array = np.asarray(times)
    if array.dtype.kind == "M":
        return array.astype("datetime64[s]")
    try:
        parsed = [datetime.fromisoformat(str(time)) for time in array.tolist()]
    except ValueError as error:
        raise ValueError(f"a time is not of ISO form, such as 2024-06-01T06: {error}") from error
    naive = [one.astimezone(UTC).replace(tzinfo=None) if one.tzinfo else one for one in parsed]
    return np.array(naive, dtype="datetime64[s]")


__all__ = ["TimerXLFeatureExtractor"]
