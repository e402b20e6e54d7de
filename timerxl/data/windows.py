"""Windows of past values over one shared tensor: batches, datasets, seeded samples.

Shapes: R rows of the series, C features, S static features, T context length, B windows. With all
regions side by side (``data.regions_together=all``): M times on one grid, G regions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from timerxl.config import DataConfig, InputError
from timerxl.data.neighbours import nearest_by_distance, nearest_by_rain
from timerxl.data.preprocessing import (
    SPLITS,
    Preprocessing,
    Split,
    check_leaks,
    class_counts,
    fit_scaling,
    label_and_persistence,
    last_time,
    make_split,
    next_patch_labels,
    scale,
    series_problem,
    split_by_time,
    static_features,
    training_ranges,
    whole_steps,
)
from timerxl.data.series import Arrays, WeatherSeries, blocks
from timerxl.data.synthetic import PRECIPITATION
from timerxl.untrusted import check_memory

if TYPE_CHECKING:
    from timerxl.data.tiling import LabelTiling

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
        self.reopen: tuple[Any, ...] | None = None  # for pickle: the files that it is read from

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.reopen is None else self.reopen

    @property
    def rows_per_window(self) -> int:
        """Rows of the series that one window answers for."""
        return 1

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Return int64 [B], the order that puts ``rows`` of one window side by side."""
        return np.arange(len(rows))

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
        batch = self.inputs(rows)
        batch |= {"labels": self.label.index_select(0, rows), "row": rows}
        if self.static is not None:
            batch["static_real_features"] = self.static.index_select(0, rows)
        return batch

    def answers(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of ``rows`` from those of their :meth:`windows`."""
        return logits

    def inputs(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C]: the windows that end with ``rows`` [B]."""
        # A strided view [R - T + 1, T, C] of the series; index_select copies whole windows.
        view = self.values.unfold(0, self.context_length, 1).transpose(1, 2)
        return {"past_values": view.index_select(0, rows - (self.context_length - 1))}


class RegionGrid(WindowTransform):
    """As WindowTransform, one window for all rows of a time: G*C variables, region by region.

    Where a region has no row, or a missing value, the grid holds zeros and ``observed`` is False:
    the model looks at no patch with such a step.
    """

    def __init__(
        self,
        values: torch.Tensor,
        observed: torch.Tensor,
        static: torch.Tensor | None,
        label: torch.Tensor,
        context_length: int,
        time_of_row: torch.Tensor,
        region_of_row: torch.Tensor,
    ) -> None:
        super().__init__(values, static, label, context_length)
        self.observed = observed  # bool [M, G]
        self.time_of_row, self.region_of_row = time_of_row, region_of_row  # int64 [R]
        self.is_whole = bool(observed.all())

    @classmethod
    def of(
        cls,
        series: WeatherSeries,
        values: torch.Tensor,
        static: torch.Tensor | None,
        label: torch.Tensor,
        context_length: int,
        regions: list[str],
    ) -> RegionGrid:
        """Lay the rows of ``series`` on a grid: values [R, C], static [R, S] and label [R].

        ``regions`` gives the order, and may hold regions that the series lacks. Raises InputError
        where the regions' times do not lie on one grid.
        """
        step = round(series.step_hours * 3600)
        seconds = series.timestamps.astype("datetime64[s]").astype(np.int64)
        time, off = np.divmod(seconds - seconds.min(), step)
        if off.any():
            row = int(np.flatnonzero(off)[0])
            raise InputError(
                f"data.regions_together needs all regions at the same times, and "
                f"{series.regions[series.region_index[row]]} has {series.timestamps[row]} where "
                f"others begin at {series.timestamps.min()} in steps of {series.step_hours:g} h; "
                "resample the series, or take data.regions_together=none."
            )
        place = {name: index for index, name in enumerate(regions)}
        region = np.array([place[name] for name in series.regions])[series.region_index]
        count, groups, width = int(time.max()) + 1, len(regions), values.shape[1]
        check_memory(
            count * groups * (4 * width + 9 + (0 if static is None else 4 * static.shape[1])),
            f"the values of {groups} regions at {count:,} times",
        )
        rows = torch.from_numpy(time), torch.from_numpy(region)
        missing = torch.isnan(values).any(1)
        grid = torch.zeros(count, groups, width)
        grid[rows] = torch.nan_to_num(values)
        observed = torch.zeros(count, groups, dtype=torch.bool)
        observed[rows] = ~missing
        labels = torch.full((count, groups), -1, dtype=torch.int64)
        labels[rows] = label
        statics = None
        if static is not None:
            statics = torch.zeros(count, groups, static.shape[1])
            statics[rows] = static
            statics = statics.share_memory_()
        return cls(
            grid.flatten(1).share_memory_(),
            observed.share_memory_(),
            statics,
            labels.share_memory_(),
            context_length,
            *rows,
        )

    @property
    def rows_per_window(self) -> int:
        return int(self.observed.shape[1])

    def order(self, rows: np.ndarray) -> np.ndarray:
        return np.argsort(self.time_of_row.cpu().numpy()[rows], kind="stable")

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + self.observed.nbytes

    def to(self, device: torch.device) -> RegionGrid:
        moved: Any = super().to(device)
        rows = self.time_of_row.to(device), self.region_of_row.to(device)
        return RegionGrid(
            moved.values,
            self.observed.to(device),
            moved.static,
            moved.label,
            self.context_length,
            *rows,
        )

    def windows(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the windows of the U distinct times of ``rows`` [B], for :meth:`answers`.

        ``past_values`` [U, T, G*C], ``static_real_features`` [U, G, S], ``row`` [B], ``labels``
        [B], and ``past_observed_mask`` [U, T, G] where a value is missing somewhere in the series.
        """
        rows = rows.to(self.values.device, non_blocking=True)
        times = self.time_of_row[rows]
        labels = self.label[times, self.region_of_row[rows]]
        distinct = times.unique()
        batch = self.inputs(distinct) | {"labels": labels, "row": rows}
        if self.static is not None:
            batch["static_real_features"] = self.static.index_select(0, distinct)
        return batch

    def inputs(self, times: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``past_values``, and ``past_observed_mask`` where the grid has holes, of the
        windows that end at ``times``."""
        batch = super().inputs(times)
        if not self.is_whole:
            batch["past_observed_mask"] = self._observed(times)
        return batch

    def _observed(self, times: torch.Tensor) -> torch.Tensor:
        view = self.observed.unfold(0, self.context_length, 1).transpose(1, 2)
        return view.index_select(0, times - (self.context_length - 1))

    def observed_since(self, times: torch.Tensor) -> torch.Tensor:
        """Return bool [B, T, G]: whether a region misses nothing from the window's start on."""
        return self._observed(times).cumprod(1).bool()

    def answers(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Pick from ``logits`` [U, G, K] of :meth:`windows` those of ``rows``: [B, K]."""
        rows = rows.to(self.time_of_row.device)
        place = self.time_of_row[rows].unique(return_inverse=True)[1]
        return logits[place.to(logits.device), self.region_of_row[rows].to(logits.device)]


@dataclass
class WeatherWindows:
    """Windows of one series, scaled by its training rows and cut into splits.

    ``values`` [R, C] and ``static`` [R, S] are float32 in shared memory; ``label`` and
    ``rained_before`` [R] are 0, 1 or NaN for the rain after and before each row. ``splits`` holds
    one dataset each with the columns row, region, issue_time and label; asked for a list of
    positions it gives the tensors of :meth:`batch`. ``on_device`` is a copy of the series on the
    device that trains, where there is one. With ``data.regions_together=k`` there are the
    ``neighbours`` [G, k] of each of the G regions of training, the nearest first. From a store
    (timerxl.data.store) all arrays are mapped files, the datasets hold the column row alone, and
    the training labels are tiled already.
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
    neighbours: np.ndarray | None = None
    on_device: WindowTransform | None = None
    tiling: LabelTiling | None = None

    @cached_property
    def class_counts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Split -> (windows, windows with rain) of each region, int64 [G]."""
        return {name: class_counts(self.series, self.label, self.rows[name]) for name in self.rows}

    @cached_property
    def dead_features(self) -> list[str]:
        """The features that never vary over the rows that training sees."""
        times, low, high = self.series.timestamps, [], []
        last = last_time(self.series, self.rows["train"])
        for block in blocks(len(times)):
            if (seen := self.values.numpy()[block][times[block] <= last]).size:
                low.append(seen.min(axis=0))
                high.append(seen.max(axis=0))
        width = np.max(high, axis=0) - np.min(low, axis=0)
        return [self.series.feature_names[place] for place in np.flatnonzero(width == 0.0)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that training and scoring read of the data, as hex digits."""
        digest, series = hashlib.sha256(), self.series
        names = [series.feature_names, series.regions, self.static_feature_names]
        digest.update(json.dumps([[list(part) for part in names], self.context_length]).encode())
        arrays = [self.values.numpy(), self.label, self.rained_before, series.region_index]
        arrays += [series.timestamps, *([] if self.static is None else [self.static.numpy()])]
        for split in sorted(self.rows):
            digest.update(split.encode())
            arrays.append(self.rows[split])
        for array in arrays:
            for block in blocks(len(array)):
                digest.update(np.ascontiguousarray(array[block]).view(np.uint8).data)
        return digest.hexdigest()

    def rain_share(self, split: str) -> float:
        """Return the share of rain among the labels of the split."""
        windows, wet = self.class_counts[split]
        return float(wet.sum() / windows.sum())

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
        for split, (windows, wet) in self.class_counts.items():
            for name, n, rainy in zip(
                self.series.regions, windows.tolist(), wet.tolist(), strict=True
            ):
                share = rainy / n if n else None
                shares.append({"split": split, "region": name, "n": n, "rain_share": share})
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
    arrays: Arrays | None = None,
) -> WeatherWindows:
    """Build labels, splits, scaling and windows of a series, in ``arrays`` (default: in memory).

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
    arrays = arrays or Arrays()
    boundaries = None if saved is None else saved.boundaries
    if next_patch is None:
        label, rained_before = label_and_persistence(series, config, arrays)
        split = make_split(series, label, config, context_length, boundaries, arrays)
    else:
        boundaries = boundaries or _rain_boundaries(series, config, context_length)
        config = _for_next_patch(config, series, next_patch)
        label = rained_before = next_patch_labels(series, next_patch)
        split = split_by_time(series, label, config, context_length, boundaries, arrays)
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
    arrays.drop("scratch_scaling_rows")
    scaled = scale(series.values, series.feature_names, scaling, arrays)
    of_rows = arrays.new("targets", (len(label),), "int64")
    for block in blocks(len(label)):
        of_rows[block] = np.nan_to_num(label[block], nan=-1)
    values, targets = torch.from_numpy(scaled), torch.from_numpy(of_rows)
    if arrays.folder is None:
        values, targets = values.share_memory_(), targets.share_memory_()
    transform = WindowTransform(values, static, targets, context_length)
    near, seen_beside = None, {}
    if config.regions_together != "none":
        regions = series.regions if saved is None else saved.regions
        transform = RegionGrid.of(series, values, static, targets, context_length, regions)
        if config.regions_together != "all":
            near = saved.neighbours if saved is not None else None
            if near is None:
                near = nearest_regions(
                    series, label, split.rows["train"], int(config.regions_together)
                )
            seen_beside = {
                name: [regions[one] for one in of]
                for name, of in zip(regions, near.tolist(), strict=True)
            }
            notes.append(_neighbours_note(seen_beside))
    splits = {}
    if arrays.folder is None:  # else they are opened with the store
        splits = {name: _dataset(series, split.rows[name], label, transform) for name in split.rows}
    windows = WeatherWindows(
        series=series,
        values=values,
        static=static,
        static_feature_names=static_names,
        label=label,
        rained_before=rained_before,
        context_length=context_length,
        context_days=_context_days(series, split, context_length),
        splits=splits,
        scaling=scaling,
        notes=notes,
        rows=split.rows,
        definition={
            "label": _label_definition(series, config, next_patch),
            "split": split.method,
            "data": {k: v for k, v in asdict(config).items() if k != "cache_dir"},
            **({"region_neighbours": seen_beside} if seen_beside else {}),
            **({"training_ranges": seen} if seen else {}),
        },
        transform=transform,
        neighbours=near,
    )
    if saved is None and (problem := series_problem(windows.preprocessing())):
        raise InputError(f"a model of this series could never be read again: {problem}.")
    return windows


def nearest_regions(
    series: WeatherSeries, label: np.ndarray, rows: np.ndarray, count: int
) -> np.ndarray:
    """Choose [G, count]: the neighbours of each region, the nearest first.

    Near by distance where series.json tells where the regions lie, else by the correlation of their
    labels at the training ``rows``. Raises InputError where there are not so many others.
    """
    if count >= len(series.regions):
        raise InputError(
            f"data.regions_together={count} with {len(series.regions)} regions: a region has "
            f"{len(series.regions) - 1} others. Take fewer, or data.regions_together=all, with "
            "which every region sees every other."
        )
    near = nearest_by_distance(series.source.get("prepared"), series.regions)
    if near is None:
        times, regions = series.timestamps, len(series.regions)
        near = nearest_by_rain(series.region_index, times, label, rows, regions)
    return near[:, :count]


def _neighbours_note(seen_beside: dict[str, list[str]]) -> str:
    shown = [f"{name} with {', '.join(of)}" for name, of in list(seen_beside.items())[:12]]
    more = f"; and {len(seen_beside) - 12:,} more" if len(seen_beside) > 12 else ""
    return f"each region sees its neighbours: {'; '.join(shown)}{more}."


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
    rows = np.concatenate([split.rows[name][:1] for name in SPLITS])
    if split.method["method"] == "rows":  # contexts run over gaps and regions
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
    return row_dataset(
        {
            "row": rows,
            "region": series.region_index[rows],
            "issue_time": series.timestamps[rows],
            "label": label[rows].astype(np.int64),
        },
        transform,
        hashlib.sha256(rows.data).hexdigest(),
    )


def row_dataset(
    columns: dict[str, np.ndarray], transform: WindowTransform, fingerprint: str
) -> datasets.Dataset:
    """Return a dataset over these arrays [N], which are not copied; asked for positions, it gives
    the tensors of ``transform`` for their ``row``."""
    # from_dict would make a Python object of every number: minutes for a million windows.
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    found = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=fingerprint[:16])
    # The transform needs the row only: decoding times for every batch would cost more than it.
    return found.with_transform(transform, columns=["row"])
