"""Runs of missing and of filled values, collected block by block for series.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_PER_COLUMN = 100  # in one region; more are summed up in one last entry
MOST_ENTRIES = 5_000  # of a column over all regions; more are summed up in one entry


@dataclass
class Gaps:
    """Blocks of one region must come in order of time; ``step`` is in seconds."""

    columns: list[str]
    regions: list[str]
    step: int
    first: str = ""
    last: str = ""
    _runs: dict[tuple[str, str, int], list[list[int]]] = field(default_factory=dict)

    def add(self, region: int, stamps: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> None:
        """``stamps`` [R] seconds since 1970; ``missing`` and ``filled`` [R, C] bool."""
        kept = np.flatnonzero(~missing.all(axis=1))
        if kept.size:
            begin, end = (_iso(int(stamps[row])) for row in (kept[0], kept[-1]))
            self.first = min(self.first or begin, begin)
            self.last = max(self.last, end)
        for index, column in enumerate(self.columns):
            for action, mask in (("left", missing[:, index]), ("filled", filled[:, index])):
                if not mask.any():
                    continue
                edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
                for start, stop in zip(edges[::2], edges[1::2], strict=True):
                    self._extend(column, action, region, int(stamps[start]), int(stamps[stop - 1]))

    def _extend(self, column: str, action: str, region: int, first: int, last: int) -> None:
        runs = self._runs.setdefault((column, action, region), [])
        if runs and runs[-1][1] + self.step == first:
            runs[-1][1] = last
        else:
            runs.append([first, last])

    def entries(self) -> list[dict[str, Any]]:
        """One per run; region None where every region has the same runs of the column."""
        found = []
        for column in self.columns:
            for action in ("left", "filled"):
                of = [self._runs.get((column, action, i), []) for i in range(len(self.regions))]
                if all(runs == of[0] for runs in of):
                    found += self._listed(column, None, of[0], action)
                    continue
                if sum(min(len(runs), MOST_PER_COLUMN) for runs in of) > MOST_ENTRIES:
                    found.append(self._summed(column, of, action))
                    continue
                for name, runs in zip(self.regions, of, strict=True):
                    found += self._listed(column, name, runs, action)
        return found

    def _summed(self, column: str, of: list[list[list[int]]], action: str) -> dict[str, Any]:
        """One entry for the runs of all regions; ``regions`` counts those that have some."""
        runs = [run for runs in of for run in runs]
        span = [min(first for first, _ in runs), max(last for _, last in runs)]
        steps = sum((last - first) // self.step + 1 for first, last in runs)
        entry = self._entry(column, None, span, steps, action)
        return entry | {"runs": len(runs), "regions": sum(bool(runs) for runs in of)}

    def _listed(
        self, column: str, region: str | None, runs: list[list[int]], action: str
    ) -> list[dict[str, Any]]:
        cut = runs if len(runs) <= MOST_PER_COLUMN else runs[: MOST_PER_COLUMN - 1]
        steps = [(last - first) // self.step + 1 for first, last in runs]
        listed = [
            self._entry(column, region, run, count, action)
            for run, count in zip(cut, steps, strict=False)
        ]
        if len(cut) < len(runs):
            span = [runs[len(cut)][0], runs[-1][1]]
            rest = self._entry(column, region, span, sum(steps[len(cut) :]), action)
            listed.append(rest | {"runs": len(runs) - len(cut)})
        return listed

    def _entry(
        self, column: str, region: str | None, run: list[int], steps: int, action: str
    ) -> dict[str, Any]:
        return {
            "column": column, "region": region, "first": _iso(run[0]), "last": _iso(run[1]),
            "steps": steps, "action": action,
        }  # fmt: skip


def _iso(seconds: int) -> str:
    return str(np.datetime64(seconds, "s"))
