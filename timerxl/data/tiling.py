"""Training windows with a label or a target after every patch: which ones make an epoch, and their
tensors.

Shapes: R rows of the series, C features, S static features, N patches of P steps, T = N*P, B
windows. The label after patch n of a window that ends at row r is that of the row
r - (N - 1 - n) * P. With all regions in one window (RegionGrid) times stand for rows: M times, G
regions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from timerxl.config import RunConfig
from timerxl.data.preprocessing import last_time, steps_behind
from timerxl.data.series import Arrays, blocks
from timerxl.data.windows import RegionGrid, WeatherWindows, WindowTransform

NOT_COUNTED = -100


@dataclass(frozen=True)
class Tiles:
    """Cut the places that have a label into windows of N patches, anew in every epoch.

    Rows of one unbroken stretch that are a multiple of P apart make a group. An epoch draws an
    offset from 0 to N - 1 for every group and cuts it into tiles of N patches: each tile is one
    window, each place belongs to one tile and so comes once in an epoch, with a context of 1 to N
    patches. A window whose tile runs past the last place of its group ends there instead; of the
    patches that it shares with the tile before, the labels do not count.

    Attributes:
        group: int64 [n], of every place with a label, ascending.
        place: int64 [n], in patches from the group's first possible row, ascending in a group.
        first_row, last_place: int64 [G], the row at place 0 and the last place of each group.
    """

    group: np.ndarray
    place: np.ndarray
    first_row: np.ndarray
    last_place: np.ndarray
    num_patches: int
    patch_length: int

    @classmethod
    def of(cls, rows: np.ndarray, start: Any, num_patches: int, patch_length: int) -> Tiles:
        """Group ``rows`` [n]; ``start`` [n] or one number is the first row of their stretch."""
        place, phase = np.divmod(rows - start, patch_length)
        order = np.lexsort((place, start + phase))
        first_row, group = np.unique((start + phase)[order], return_inverse=True)
        last_place = np.zeros(len(first_row), dtype=np.int64)
        np.maximum.at(last_place, group, place[order])
        return cls(group, place[order], first_row, last_place, num_patches, patch_length)

    @property
    def most_windows(self) -> int:
        """Return a bound on the windows of an epoch, reached where no label is missing."""
        edges = np.searchsorted(self.group, np.arange(len(self.first_row) + 1))
        labels, first = np.diff(edges), self.place[edges[:-1]]
        spans = self.last_place - first + 1
        tiles = (spans + 2 * self.num_patches - 2) // self.num_patches
        return int(np.minimum(tiles, labels).sum())

    def epoch(self, rng: np.random.Generator) -> np.ndarray:
        """Return int64 [W], a window each, in the order of the series.

        A window is N times the row at which it ends, plus the number of its first patches whose
        labels do not count.
        """
        size = self.num_patches
        offset = rng.integers(size, size=len(self.first_row))
        found, before = [], (-1, -1)  # the group and tile of the place before
        for block in blocks(len(self.group)):
            group = self.group[block]
            tile = (self.place[block] + offset[group]) // size
            is_new = np.ones(len(tile), dtype=bool)
            is_new[1:] = (np.diff(tile) != 0) | (np.diff(group) != 0)
            is_new[0] = before != (group[0], tile[0])
            before = group[-1], tile[-1]
            group, tile = group[is_new], tile[is_new]
            end = (tile + 1) * size - 1 - offset[group]
            kept = np.minimum(end, self.last_place[group])
            row = self.first_row[group] + kept * self.patch_length
            found.append(row * size + (end - kept))
        return np.concatenate(found)

    def rows(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return int64 [B, N], the row after each patch, and bool [B, N]: does its label count?"""
        patches = torch.arange(self.num_patches, device=codes.device)
        end, skipped = codes // self.num_patches, codes % self.num_patches
        rows = end[:, None] - (self.num_patches - 1 - patches) * self.patch_length
        return rows, patches >= skipped[:, None]


@dataclass(frozen=True)
class LabelTiling:
    """The training labels of a run, tiled; asked for a list of windows it gives their tensors.

    ``label`` int64 [R], or [M, G] of times and regions, holds those of the training split, each
    with a full context behind it, and -100 elsewhere.
    """

    tiles: Tiles
    transform: WindowTransform
    label: torch.Tensor
    num_labels: int

    @classmethod
    def of(
        cls, windows: WeatherWindows, patch_length: int, arrays: Arrays | None = None
    ) -> LabelTiling:
        """Tile the training split of ``windows``, in ``arrays`` (default: in memory).

        A ``patch_length`` of a whole context gives each label, at a window's end, a window.
        """
        rows, transform = windows.issue_rows("train"), windows.transform
        arrays = arrays or Arrays()
        size = windows.context_length // patch_length, patch_length
        label = torch.from_numpy(
            arrays.new("tiling.label", tuple(transform.label.shape), "int64")
        ).fill_(NOT_COUNTED)
        is_counted = cls._counts(windows)
        for block in blocks(len(windows.label)):
            counted = block.start + np.flatnonzero(is_counted(block))
            found = torch.from_numpy(windows.label[counted].astype(np.int64))
            places: Any = torch.from_numpy(counted)
            if isinstance(transform, RegionGrid):
                places = transform.time_of_row[places], transform.region_of_row[places]
            label[places] = found
        if isinstance(transform, RegionGrid):
            tiles = Tiles.of(np.unique(transform.time_of_row.numpy()[rows]), 0, *size)
        else:
            tiles = _tiles_by_region(windows, size, arrays)
        if arrays.folder is None:
            label = label.share_memory_()
        return cls(tiles, transform, label, len(rows))

    @staticmethod
    def _counts(windows: WeatherWindows) -> Callable[[slice], np.ndarray]:
        """Return what tells of the rows of a block, bool: does their label count in training?"""
        rows = windows.issue_rows("train")

        def counts(block: slice) -> np.ndarray:
            inside = np.zeros(block.stop - block.start, dtype=bool)
            first, end = np.searchsorted(rows, (block.start, block.stop))
            inside[rows[first:end] - block.start] = True
            return inside

        return counts

    @property
    def num_patches(self) -> int:
        return self.tiles.num_patches

    def end_rows(self, codes: np.ndarray) -> np.ndarray:
        """Return the rows of the series at which these windows end, of all their regions."""
        ends = codes // self.tiles.num_patches
        if isinstance(self.transform, RegionGrid):
            return np.flatnonzero(np.isin(self.transform.time_of_row.cpu().numpy(), ends))
        return ends

    def labels(self, codes: torch.Tensor) -> torch.Tensor:
        """Return int64 [B, N], or [B, N, G]: 0, 1 or -100 for a label that does not count."""
        rows, counts = self.tiles.rows(codes)
        labels = self.label[rows]
        if isinstance(self.transform, RegionGrid):
            counts = counts[:, :, None]
            if not self.transform.is_whole:  # of a region that misses a value before it
                seen = self.transform.observed_since(codes // self.num_patches)
                counts = counts & seen.unflatten(1, (self.num_patches, -1))[:, :, -1]
        return labels.masked_fill(~counts, NOT_COUNTED)

    def to(self, transform: WindowTransform) -> LabelTiling:
        """Return the same tiling over a copy of the series, labels on its device."""
        return replace(self, transform=transform, label=self.label.to(transform.values.device))

    def __getitem__(self, codes: list[int]) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C], ``labels`` [B, N], ``label_positions`` [N] and
        ``static_real_features`` [B, N, S] of these windows.

        With all regions in a window [B, T, G*C], [B, N, G] and [B, N, G, S], and
        ``past_observed_mask`` [B, T, G] where the series has holes. Tiles of one patch have no axis
        N, and no positions.
        """
        windows = torch.as_tensor(codes, dtype=torch.int64).to(self.label.device)
        ends, (rows, _) = windows // self.num_patches, self.tiles.rows(windows)
        batch = self.transform.inputs(ends)
        batch["labels"] = self.labels(windows)
        if (static := self.transform.static) is not None:
            batch["static_real_features"] = static[rows]
        if self.num_patches == 1:
            last = ("labels", "static_real_features")
            return {key: one[:, 0] if key in last else one for key, one in batch.items()}
        batch["label_positions"] = torch.arange(self.num_patches, device=windows.device)
        return batch


@dataclass(frozen=True)
class PatchTiling(LabelTiling):
    """Tile the training rows of windows whose label is the next patch (``train.task=next_patch``).

    A forecast counts wherever the patch after it is whole and lies in the training period, also
    where its own row has no full context behind it: its window has.
    """

    @staticmethod
    def _counts(windows: WeatherWindows) -> Callable[[slice], np.ndarray]:
        times, label = windows.series.timestamps, windows.label
        last = last_time(windows.series, windows.issue_rows("train"))
        return lambda block: ~np.isnan(label[block]) & (times[block] <= last)

    def __getitem__(self, codes: list[int]) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C] and ``labels`` [B, T, C], the same windows one patch
        later, NaN in patches that do not count."""
        windows = torch.as_tensor(codes, dtype=torch.int64).to(self.label.device)
        end = windows // self.num_patches
        batch = self.transform.inputs(end)
        following = self.transform.inputs(end + self.tiles.patch_length)["past_values"]
        is_out = (self.labels(windows) == NOT_COUNTED).repeat_interleave(self.tiles.patch_length, 1)
        return batch | {"labels": following.masked_fill_(is_out[:, :, None], float("nan"))}


def _tiles_by_region(windows: WeatherWindows, size: tuple[int, int], arrays: Arrays) -> Tiles:
    """The tiles of the training rows, region by region: no group has rows of two."""
    rows = windows.issue_rows("train")
    group = arrays.new("tiling.group", (len(rows),), "int64")
    place = arrays.new("tiling.place", (len(rows),), "int64")
    first_row, last_place, groups = [], [], 0
    for part_rows, part in windows.series.parts():
        first, end = np.searchsorted(rows, (part_rows.start, part_rows.stop))
        own = rows[first:end]
        start = own - steps_behind(part)[own - part_rows.start] + 1
        tiles = Tiles.of(own, start, *size)
        group[first:end], place[first:end] = tiles.group + groups, tiles.place
        first_row.append(tiles.first_row)
        last_place.append(tiles.last_place)
        groups += len(tiles.first_row)
    ends = np.concatenate(first_row), np.concatenate(last_place)
    return Tiles(group, place, *ends, *size)


def tile_labels(
    config: RunConfig, windows: WeatherWindows, arrays: Arrays | None = None
) -> LabelTiling | None:
    """Tile the training labels where ``data.labels`` is every_patch or regions stand together, or
    the training rows where the task is the next patch; in ``arrays`` (default: in memory).
    Windows from a store bring theirs along."""
    if windows.tiling is not None:
        return windows.tiling
    if config.train.task == "next_patch":
        return PatchTiling.of(windows, config.model.patch_length, arrays)
    if config.data.labels == "last":
        # With regions in one window a time is one sample, and has a label for each of them.
        together = isinstance(windows.transform, RegionGrid)
        return LabelTiling.of(windows, windows.context_length, arrays) if together else None
    return LabelTiling.of(windows, config.model.patch_length, arrays)
