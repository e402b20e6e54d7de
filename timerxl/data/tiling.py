"""Training windows with a label or a target after every patch: which ones make an epoch, and their
tensors.

Shapes: R rows of the series, C features, S static features, N patches of P steps, T = N*P, B
windows. The label after patch n of a window that ends at row r is that of the row
r - (N - 1 - n) * P.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from timerxl.data.preprocessing import steps_behind
from timerxl.data.windows import WeatherWindows, WindowTransform

NOT_COUNTED = -100


@dataclass(frozen=True)
class LabelTiling:
    """Tile the training labels with windows, anew in every epoch.

    The labels are those of the training split, each with a full context behind it. Rows of one
    unbroken stretch that are a multiple of P apart make a group. An epoch draws an offset from 0 to
    N - 1 for every group and cuts it into tiles of N patches: each tile is one window, each label
    belongs to one tile and so counts once in an epoch, with a context of 1 to N patches. A window
    whose tile runs past the last label of its group ends there instead; of the patches that it
    shares with the tile before, the labels do not count.

    Attributes:
        rows: int64 [n], of the training labels, group by group and ascending.
        group: int64 [n]. place: int64 [n], in patches from the group's first possible row.
        first_row, last_place: int64 [G], the row at place 0 and the last label's place.
    """

    rows: np.ndarray
    group: np.ndarray
    place: np.ndarray
    first_row: np.ndarray
    last_place: np.ndarray
    num_patches: int
    patch_length: int
    transform: WindowTransform
    label: torch.Tensor  # int64 [R]: of the training labels, NOT_COUNTED elsewhere

    @classmethod
    def of(cls, windows: WeatherWindows, patch_length: int) -> LabelTiling:
        """Tile the training split of ``windows``."""
        rows = windows.issue_rows("train")
        start = rows - steps_behind(windows.series)[rows] + 1
        place, phase = np.divmod(rows - start, patch_length)
        order = np.lexsort((place, start + phase))
        rows, place, base = rows[order], place[order], (start + phase)[order]
        first_row, group = np.unique(base, return_inverse=True)
        last_place = np.zeros(len(first_row), dtype=np.int64)
        np.maximum.at(last_place, group, place)
        counted = cls._counted_rows(windows)
        label = torch.full((len(windows.label),), NOT_COUNTED, dtype=torch.int64)
        label[torch.from_numpy(counted)] = torch.from_numpy(windows.label[counted].astype(np.int64))
        return cls(
            rows=rows,
            group=group,
            place=place,
            first_row=first_row,
            last_place=last_place,
            num_patches=windows.context_length // patch_length,
            patch_length=patch_length,
            transform=windows.transform,
            label=label.share_memory_(),
        )

    @staticmethod
    def _counted_rows(windows: WeatherWindows) -> np.ndarray:
        return windows.issue_rows("train")

    @property
    def most_windows(self) -> int:
        """Return a bound on the windows of an epoch, reached where no label is missing."""
        labels = np.bincount(self.group)
        first = self.place[np.searchsorted(self.group, np.arange(len(labels)))]
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
        tile = (self.place + offset[self.group]) // size
        is_new = np.ones(len(tile), dtype=bool)
        is_new[1:] = (np.diff(tile) != 0) | (np.diff(self.group) != 0)
        group, tile = self.group[is_new], tile[is_new]
        end = (tile + 1) * size - 1 - offset[group]
        kept = np.minimum(end, self.last_place[group])
        row = self.first_row[group] + kept * self.patch_length
        return row * size + (end - kept)

    def end_rows(self, codes: np.ndarray) -> np.ndarray:
        """Return int64 [B]: the row at which each window ends."""
        return codes // self.num_patches

    def labels(self, codes: torch.Tensor) -> torch.Tensor:
        """Return int64 [B, N]: 0, 1 or -100 for a label that does not count."""
        return self._labels(codes)[1]

    def _labels(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = torch.arange(self.num_patches, device=self.label.device)
        end, skipped = codes // self.num_patches, codes % self.num_patches
        rows = end[:, None] - (self.num_patches - 1 - patches) * self.patch_length
        label = self.label[rows]
        return rows, label.masked_fill_(patches < skipped[:, None], NOT_COUNTED)

    def to(self, transform: WindowTransform) -> LabelTiling:
        """Return the same tiling over a copy of the series, labels on its device."""
        return replace(self, transform=transform, label=self.label.to(transform.values.device))

    def __getitem__(self, codes: list[int]) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C], ``labels`` [B, N], ``label_positions`` [N] and
        ``static_real_features`` [B, N, S] of these windows."""
        windows = torch.as_tensor(codes, dtype=torch.int64).to(self.label.device)
        rows, labels = self._labels(windows)
        batch = {
            "past_values": self.transform.past_values(windows // self.num_patches),
            "labels": labels,
            "label_positions": torch.arange(self.num_patches, device=labels.device),
        }
        if (static := self.transform.static) is not None:
            batch["static_real_features"] = static[rows]
        return batch


@dataclass(frozen=True)
class PatchTiling(LabelTiling):
    """Tile the training rows of windows whose label is the next patch (``train.task=next_patch``).

    A forecast counts wherever the patch after it is whole and lies in the training period, also
    where its own row has no full context behind it: its window has.
    """

    @staticmethod
    def _counted_rows(windows: WeatherWindows) -> np.ndarray:
        times = windows.series.timestamps
        last = times[windows.issue_rows("train")].max()
        return np.flatnonzero(~np.isnan(windows.label) & (times <= last))

    def __getitem__(self, codes: list[int]) -> dict[str, torch.Tensor]:
        """Return ``past_values`` [B, T, C] and ``labels`` [B, T, C], the same windows one patch
        later, NaN in patches that do not count."""
        windows = torch.as_tensor(codes, dtype=torch.int64).to(self.label.device)
        end = windows // self.num_patches
        is_out = (self._labels(windows)[1] == NOT_COUNTED).repeat_interleave(self.patch_length, 1)
        following = self.transform.past_values(end + self.patch_length)
        return {
            "past_values": self.transform.past_values(end),
            "labels": following.masked_fill_(is_out[:, :, None], float("nan")),
        }
