"""What a baseline may see at an issue time: lagged values, trailing means, season and hour.

Trees and logistic regression share these inputs, so that their scores differ by the model alone.
A series has R rows and C features, sorted region after region and then by time; n windows are
issued at some of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timerxl.config import InputError

LAGS = (1, 2, 3, 6, 12, 24)
TRAILING_HOURS = (6.0, 24.0, 72.0, 168.0)


class LaggedFeatures:
    """The inputs of a baseline, computed for any rows of one series.

    Seen at an issue time, for every feature: its value, its value ``lags`` steps before, and its
    mean over the trailing ``trailing_hours`` (for ``precipitation_column`` the sum); with them
    sin/cos of season and hour, and the region's index. What ``context_length`` steps don't reach is
    left out, so that a baseline knows no more than the network, and so is a trailing time that
    isn't a whole number of two or more steps: ``feature_names`` tells what is used. Lags stop at
    the region's start and at gaps in time: NaN.
    """

    title = "a baseline"  # in messages

    def __init__(
        self,
        step_hours: float,
        *,
        context_length: int | None = None,
        precipitation_column: int | None = None,
        lags: Sequence[int] = LAGS,
        trailing_hours: Sequence[float] = TRAILING_HOURS,
    ) -> None:
        reach = context_length or np.inf
        self.step_hours = step_hours
        self.precipitation_column = precipitation_column
        self.lags = [lag for lag in lags if 0 < lag < reach]
        widths = [hours / step_hours for hours in trailing_hours]
        self.widths = [int(w) for w in widths if w == int(w) and 2 <= w <= reach]

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns of ``features_at``, features numbered as in ``values``."""
        columns = range(self._values.shape[1])
        names = [f"value[{c}]" for c in columns]
        names += [f"value[{c}] lag {lag}" for lag in self.lags for c in columns]
        for width in self.widths:
            kinds = ("sum" if c == self.precipitation_column else "mean" for c in columns)
            names += [
                f"value[{c}] {kind} {width * self.step_hours:g} h"
                for c, kind in zip(columns, kinds, strict=True)
            ]
        return [*names, "season sin", "season cos", "hour sin", "hour cos", "region"]

    def features_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a model sees at ``rows`` [n]: [n, len(feature_names)], NaN where unknown."""
        values, start = self._values, self._segment_start[rows]
        blocks = [values[rows]]
        for lag in self.lags:
            inside = (rows - lag >= start)[:, None]
            blocks.append(np.where(inside, values[np.maximum(rows - lag, 0)], np.nan))
        trailing = [np.empty((len(rows), values.shape[1])) for _ in self.widths]
        for column in range(values.shape[1]):
            present = ~np.isnan(values[:, column])
            # A running sum needs doubles: over years of hourly values float32 loses the digits.
            sums = np.r_[0.0, np.cumsum(np.where(present, values[:, column], 0.0), dtype=float)]
            counts = np.r_[0, np.cumsum(present)]
            for width, block in zip(self.widths, trailing, strict=True):
                first = np.maximum(rows - width + 1, 0)
                total, number = sums[rows + 1] - sums[first], counts[rows + 1] - counts[first]
                mean = column != self.precipitation_column
                known = (rows - width + 1 >= start) & (number > 0)
                block[:, column] = np.where(
                    known, total / np.maximum(number, 1) if mean else total, np.nan
                )
        days = self._seconds[rows] / 86400
        season, hour = 2 * np.pi * days / 365.2425, 2 * np.pi * days
        clock = [np.sin(season), np.cos(season), np.sin(hour), np.cos(hour), self._region[rows]]
        return np.hstack([*blocks, *trailing, np.stack(clock, axis=1)]).astype(np.float32)

    def _take_series(
        self,
        values: NDArray[np.float32],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
    ) -> None:
        if values.ndim != 2 or not len(values) == len(region_index) == len(timestamps) > 0:
            raise InputError(
                f"values {values.shape}, region_index {region_index.shape} and timestamps "
                f"{timestamps.shape} don't belong together; expected [R, C], [R] and [R]."
            )
        if np.isinf(values).any():
            raise InputError("values hold infinite numbers; mark missing values as NaN.")
        self._values, self._region = values, region_index
        self._seconds = timestamps.astype("datetime64[s]").astype(np.int64)
        begins = np.ones(len(values), bool)
        begins[1:] = (np.diff(region_index) != 0) | (
            np.diff(self._seconds) != round(self.step_hours * 3600)
        )
        self._segment_start = np.maximum.accumulate(np.where(begins, np.arange(len(values)), 0))

    def _training_inputs(
        self,
        values: NDArray[np.float32],
        rows: NDArray[np.int64],
        region_index: NDArray[np.int64],
        timestamps: NDArray[np.datetime64],
        label: NDArray[np.float64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]]:
        """Inputs, labels and "in the last 15 % of the times" of the rows; InputError as ``fit``."""
        self._take_series(values, region_index, timestamps)
        label = np.asarray(label, np.float64)
        if label.shape != (len(values),):
            raise InputError(
                f"label has shape {label.shape}; expected one for each of the {len(values)} rows "
                "of the series, not for each window."
            )
        inputs, rain = self.features_at(rows), zero_one_nan("label", label[rows])
        if np.isnan(rain).any():
            raise InputError(f"{int(np.isnan(rain).sum())} training rows have no label; drop them.")
        times = self._seconds[rows]
        distinct = np.unique(times)
        # Labels overlap by one horizon at this cut; it only chooses the size of the model.
        late = times >= distinct[int(0.85 * len(distinct))] if distinct.size else times > 0
        if len(np.unique(rain[~late])) < 2:
            raise InputError(
                f"the first 85 % of the training times ({int((~late).sum())} windows) hold one "
                f"class; {self.title} needs rain and no rain there."
            )
        return inputs, rain, late


def zero_one_nan(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """``given`` as doubles; raises InputError on a value other than 0, 1 and NaN."""
    array = np.array(given, np.float64)
    wrong = np.flatnonzero(~((array == 0) | (array == 1) | np.isnan(array)))
    if wrong.size:
        raise InputError(
            f"{name} holds {array.flat[wrong[0]]} at position {wrong[0]}; expected 0, 1 or NaN."
        )
    return array
