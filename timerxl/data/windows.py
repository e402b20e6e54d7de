"""Windows of past values over one shared tensor: batches, datasets, seeded samples.

Shapes: R rows of the series, C features, S static features, T context length, B windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch

from timerxl.config import DataConfig, InputError
from timerxl.data.preprocessing import (
    SPLITS,
    Preprocessing,
    Split,
    check_leaks,
    fit_scaling,
    label_and_persistence,
    make_split,
    next_patch_labels,
    scale,
    series_problem,
    split_by_time,
    static_features,
    training_ranges,
    whole_steps,
)
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic import PRECIPITATION

_DAY = np.timedelta64(1, "D")


class WindowTransform:
    """Rows to tensors; each batch is one copy out of the shared tensor, no window is stored."""

    def __init__(
        self,
        values: torch.Tensor,
        static: torch.Tensor | None,
        label: torch.Tensor,
        context_length: int,
    ) -> None:
        self.values, self.static, self.label = values, static, label
        self.context_length = context_length

    @property
    def num_bytes(self) -> int:
        """Of the series: values, static features and labels."""
        tensors = (self.values, self.label, *([] if self.static is None else [self.static]))
        return sum(tensor.nbytes for tensor in tensors)

    def to(self, device: torch.device) -> WindowTransform:
        """Copy the series to ``device``, where its windows are then gathered."""
        static = None if self.static is None else self.static.to(device)
        values, label = self.values.to(device), self.label.to(device)
        return WindowTransform(values, static, label, self.context_length)

    def __call__(self, examples: dict[str, list[Any]]) -> dict[str, torch.Tensor]:
        """``examples["row"]``: B issue rows; each window ends with its row."""
        return self.windows(torch.as_tensor(examples["row"], dtype=torch.int64))

    def __deepcopy__(self, memo: dict[int, Any]) -> WindowTransform:
        # datasets deep-copies a dataset's format with the dataset; the series must stay one.
        return self

    def windows(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C], ``labels`` [B], ``row`` [B], ``static_real_features``
        [B, S].

        The last is absent without static features.
        """
        rows = rows.to(self.values.device, non_blocking=True)
        batch = {
            "past_values": self.past_values(rows),
            "labels": self.label.index_select(0, rows),
            "row": rows,
        }
        if self.static is not None:
            batch["static_real_features"] = self.static.index_select(0, rows)
        return batch

    def past_values(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [B, T, C]: the windows that end with ``rows`` [B]."""
        # A strided view [R - T + 1, T, C] of the series; index_select copies whole windows.
        view = self.values.unfold(0, self.context_length, 1).transpose(1, 2)
        return view.index_select(0, rows - (self.context_length - 1))


@dataclass
class WeatherWindows:
    """Windows of one series, scaled by its training rows and cut into splits.

    ``values`` [R, C] and ``static`` [R, S] are float32 in shared memory; ``label`` and
    ``rained_before`` [R] are 0, 1 or NaN for the rain after and before each row. ``splits`` holds
    one dataset each with the columns row, region, issue_time and label; asked for a list of
    positions it gives the tensors of :meth:`batch`. ``on_device`` is a copy of the series on the
    device that trains, where there is one.
    """

    series: WeatherSeries
    values: torch.Tensor
    static: torch.Tensor | None
    static_feature_names: list[str]
    label: np.ndarray
    rained_before: np.ndarray
    context_length: int
    context_days: float
    splits: dict[str, datasets.Dataset]
    scaling: dict[str, list[Any]]
    notes: list[str]
    rows: dict[str, np.ndarray]
    definition: dict[str, Any]
    transform: WindowTransform
    on_device: WindowTransform | None = None

    def issue_rows(self, split: str) -> np.ndarray:
        """Return [N] int64: row of the series at which each window of the split is issued."""
        return self.rows[split]

    def labels_of(self, split: str) -> np.ndarray:
        """Return [N] int64: 0 or 1 for each window of the split."""
        return self.label[self.rows[split]].astype(np.int64)

    def batch(
        self, split: str, positions: Sequence[int] | np.ndarray | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Stack tensors of the windows at these positions of the split (see WindowTransform)."""
        chosen = self.rows[split][np.asarray(positions, dtype=np.int64)]
        return self.transform.windows(torch.from_numpy(chosen))

    def sample_windows(self, split: str, max_windows: int | None, seed: int) -> np.ndarray:
        """Return ascending positions into the split, at most ``max_windows``, even over regions and
        time.

        Windows stand in order of (region, time); one is drawn from each of ``max_windows`` equal
        stretches. Drawn, not taken at a fixed distance, which could hit one hour of the day only.
        """
        count = len(self.rows[split])
        if max_windows is None or max_windows >= count:
            return np.arange(count)
        edges = np.arange(max_windows + 1) * count // max_windows
        drawn = np.random.default_rng(seed).random(max_windows)
        return edges[:-1] + (drawn * np.diff(edges)).astype(np.int64)

    def class_shares(self) -> list[dict[str, Any]]:
        """Return windows and share of rain per split and region (None where there is no window)."""
        shares: list[dict[str, Any]] = []
        for split in self.rows:
            parts = self.series.rows_of_regions(self.rows[split])
            for name, rows in zip(self.series.regions, parts, strict=True):
                of_region = self.label[rows].astype(np.int64)
                share = float(of_region.mean()) if of_region.size else None
                shares.append(
                    {"split": split, "region": name, "n": len(of_region), "rain_share": share}
                )
        return shares

    def preprocessing(self) -> dict[str, Any]:
        """Return all that turns a raw series into this model's input, ready for JSON."""
        return {
            "feature_names": list(self.series.feature_names),
            "scaling": self.scaling,
            "step_hours": self.series.step_hours,
            "context_length": self.context_length,
            "context_days": self.context_days,
            "precipitation_feature": self.series.precipitation_feature,
            **self.definition,
            "static_feature_names": list(self.static_feature_names),
            "regions": list(self.series.regions),
            "is_synthetic": self.series.is_synthetic,
            "source": self.series.source,
        }


def build_windows(
    series: WeatherSeries,
    config: DataConfig,
    context_length: int,
    saved: Preprocessing | None = None,
    next_patch: int | None = None,
) -> WeatherWindows:
    """Build labels, splits, scaling and windows of a series.

    With the ``saved`` preprocessing of a model its scaling, its cuts in time and its regions are
    used: nothing is fitted to this series. ``next_patch`` is the patch length where the target is
    the next patch: a window's label says only that this patch is there, and takes no rain.

    Raises InputError where the series is too short, a split or a class is empty, the horizon is no
    multiple of the step, or a feature tells the label.
    """
    if saved is not None:
        saved.check(series)
    # What the reader found where the recipe says nothing: the column of rain and its unit.
    config = replace(config, **series.source.get("resolved", {"precipitation_unit": "mm"}))
    boundaries = None if saved is None else saved.boundaries
    if next_patch is None:
        label, rained_before = label_and_persistence(series, config)
        split = make_split(series, label, config, context_length, boundaries)
    else:
        boundaries = boundaries or _rain_boundaries(series, config, context_length)
        config = _for_next_patch(config, series, next_patch)
        label = rained_before = next_patch_labels(series, next_patch)
        split = split_by_time(series, label, config, context_length, boundaries)
    notes = list(series.notes) + split.notes
    if next_patch is None:
        notes += check_leaks(series, split.rows["train"], label)
    static: torch.Tensor | None = None
    static_names: list[str] = []
    if config.static_features:
        regions = series.regions if saved is None else saved.regions
        array, static_names = static_features(series, regions)
        static = torch.from_numpy(array).share_memory_()
    seen: dict[str, Any] = {}
    if saved is None:
        scaling, new = fit_scaling(series, split.scaling_rows, config.log1p_precipitation)
        notes += new
        seen = training_ranges(series, split.scaling_rows, split.rows["train"], context_length)
    else:
        scaling = saved.content["scaling"]
    values = torch.from_numpy(scale(series.values, series.feature_names, scaling)).share_memory_()
    targets = torch.from_numpy(np.nan_to_num(label, nan=-1).astype(np.int64)).share_memory_()
    transform = WindowTransform(values, static, targets, context_length)
    windows = WeatherWindows(
        series=series,
        values=values,
        static=static,
        static_feature_names=static_names,
        label=label,
        rained_before=rained_before,
        context_length=context_length,
        context_days=_context_days(series, split, context_length),
        splits={name: _dataset(series, split.rows[name], label, transform) for name in split.rows},
        scaling=scaling,
        notes=notes,
        rows=split.rows,
        definition={
            "label": _label_definition(series, config, next_patch),
            "split": split.method,
            "data": asdict(config),
            **({"training_ranges": seen} if seen else {}),
        },
        transform=transform,
    )
    if saved is None and (problem := series_problem(windows.preprocessing())):
        raise InputError(f"a model of this series could never be read again: {problem}.")
    return windows


def _rain_boundaries(
    series: WeatherSeries, config: DataConfig, context_length: int
) -> tuple[np.datetime64, np.datetime64] | None:
    """The cuts in time of a classifier with these settings, so that what it validates and tests on
    is not trained on before; None where no label is known."""
    label, _ = label_and_persistence(series, config)
    if np.isnan(label).all():
        return None
    method = split_by_time(series, label, config, context_length).method
    first, second = method["validation_from"], method["test_from"]
    return np.datetime64(first, "s"), np.datetime64(second, "s")


def _for_next_patch(config: DataConfig, series: WeatherSeries, patch_length: int) -> DataConfig:
    """The settings of windows whose target is the next patch: a horizon of one patch, every
    training row unless ``train_stride_hours`` says otherwise, and no static features."""
    stride = config.train_stride_hours
    if stride is None and config.window_stride_hours is not None:
        stride = float(np.gcd.reduce(series.timestamps.astype(np.int64))) / 3600  # every row's
    return replace(
        config,
        label_horizon_hours=patch_length * series.step_hours,
        train_stride_hours=stride,
        static_features=False,
    )


def _label_definition(
    series: WeatherSeries, config: DataConfig, next_patch: int | None = None
) -> dict[str, Any]:
    """What a 1 means, for programs and in one sentence.

    A table's ready label has no ``threshold_mm``: what its maker called rain isn't known here.
    """
    hours, threshold = config.label_horizon_hours, config.rain_threshold_mm
    if next_patch is not None:
        return {
            "horizon_hours": hours,
            "threshold_mm": None,
            "column": None,
            "text": f"No label: every patch of {next_patch} steps forecasts the next {hours:g} "
            "hours of its variable.",
        }
    ready = series.ready_label is not None
    if ready and not series.is_synthetic:
        return {
            "horizon_hours": hours,
            "threshold_mm": None,
            "column": config.label_column,
            "text": f"The table's own column {config.label_column}: 1 is rain in the {hours:g} "
            "hours after the time of issue, 0 is none.",
        }
    column = PRECIPITATION if series.is_synthetic else config.precipitation_column
    when = f"in the {hours:g} hours after the time of issue t, that is in (t, t + {hours:g} h]"
    if config.split == "rows" and not ready:
        when = (
            f"over the next {whole_steps(hours, series.step_hours)} rows of the stacked table, "
            "whatever their region and time"
        )
    return {
        "horizon_hours": hours,
        "threshold_mm": threshold,
        "column": column,
        "text": f"1 if {column} adds up to {threshold:g} mm or more {when}, else 0.",
    }


def _context_days(series: WeatherSeries, split: Split, context_length: int) -> float:
    """Read off the time stamps, not off the row count: steps need not be hours."""
    rows = np.concatenate([split.rows[name] for name in SPLITS])
    start = rows - context_length + 1
    inside = series.region_index[rows] == series.region_index[start]
    if not inside.any():
        return context_length * series.step_hours / 24
    spans = (series.timestamps[rows] - series.timestamps[start])[inside]
    return float(np.median(spans / _DAY) + series.step_hours / 24)


def _dataset(
    series: WeatherSeries, rows: np.ndarray, label: np.ndarray, transform: WindowTransform
) -> datasets.Dataset:
    types = {"row": "int64", "region": "int64", "issue_time": "timestamp[s]", "label": "int64"}
    columns = {
        "row": rows,
        "region": series.region_index[rows],
        "issue_time": series.timestamps[rows],
        "label": label[rows].astype(np.int64),
    }
    features = datasets.Features({name: datasets.Value(kind) for name, kind in types.items()})
    # The transform needs the row only: decoding times for every batch would cost more than it.
    return datasets.Dataset.from_dict(columns, features=features).with_transform(
        transform, columns=["row"]
    )
