"""series.parquet and series.json: written whole or not at all, region after region."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from timerxl.config import DataConfig, InputError
from timerxl.data.tables.columns import records_problem
from timerxl.untrusted import MOST_JSON_BYTES, misfit, plain, read_json

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


SERIES, DESCRIPTION, FORMAT = "series.parquet", "series.json", 1
PRECIPITATION = "tp"
# What is read of series.json, as timerxl.untrusted.misfit takes it.
_SHAPE = {
    "format": range(FORMAT, FORMAT + 1),
    "sha256": str,
    "is_synthetic": bool,
    "columns?": dict,
    "precipitation": {
        "column": str,
        "source_column?": str,
        "unit": str,
        "is_sparse": bool,
        "hours_present_per_day": (float, None),
    },
    "sources?": [{"variables?": [str]}],
}
_COLUMN = {"unit?": (str, None), "record?": (dict, None)}


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(path: Path) -> tuple[str, int]:
    """(hex digest, bytes) of a Zarr store: of the names and sizes of its files, in order, and of
    the contents of its metadata. The chunks, maybe terabytes, are not read for it."""
    digest, size = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        length = file.stat().st_size
        size += length
        digest.update(f"{file.relative_to(path).as_posix()}\0{length}\0".encode())
        if file.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"):
            digest.update(file.read_bytes())
    return digest.hexdigest(), size


@contextmanager
def output_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``output``; what stands in it as series.* at the end moves there.

    Whatever ends the block otherwise removes the folder and leaves ``output`` as it was. Raises
    InputError where a series stands there already, or where it can't be written.
    """
    output = output.absolute()
    standing = [name for name in (SERIES, DESCRIPTION) if (output / name).exists()]
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is no folder; give a new one.")
    if standing and not overwrite:
        raise InputError(
            f"--output {output} holds {' and '.join(standing)} already; give another folder, or "
            "--overwrite to replace them."
        )
    near = next(folder for folder in output.parents if folder.is_dir())
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=near))
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    try:
        yield partial
        _move(partial, output)
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, output: Path) -> None:
    """Both files or, short of a power cut, neither: signals wait until they have moved."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # Without its description first: a reader never meets a new table under the old one.
        (output / DESCRIPTION).unlink(missing_ok=True)
        for name in (SERIES, DESCRIPTION):
            os.replace(partial / name, output / name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


_LEAST_ROWS = 8_000  # of a row group; a year of hours has more, so it is one of its own


class RegionParts:
    """Rows of one region after the other in a file of all columns, counted as they are written.

    Two passes, because only the end tells which columns hold no value at all.
    """

    def __init__(self, folder: Path, columns: list[str]) -> None:
        self.folder, self.columns = folder, columns
        self.schema = pa.schema(
            [("timestamp", pa.timestamp("ms")), ("region", pa.string())]
            + [(n, pa.float64() if n == PRECIPITATION else pa.float32()) for n in columns]
        )
        self.known: dict[str, dict[str, int]] = {}
        self.rows: dict[str, int] = {}
        self._all = folder / "all-columns.parquet"
        self._writer = pq.ParquetWriter(self._all, self.schema)
        self._waiting: list[tuple[str, np.ndarray, dict[str, np.ndarray]]] = []
        self._rows_waiting = 0

    def write(self, region: str, seconds: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Append rows of one region: ``seconds`` [R] int64 since 1970, ``values`` of [R] each.

        All of a region come before the next one.
        """
        if region not in self.rows:
            self.known[region], self.rows[region] = dict.fromkeys(self.columns, 0), 0
        known = self.known[region]
        for name in self.columns:
            known[name] += len(seconds) - int(np.count_nonzero(np.isnan(values[name])))
        self.rows[region] += len(seconds)
        self._waiting.append((region, seconds, values))
        self._rows_waiting += len(seconds)
        if self._rows_waiting >= _LEAST_ROWS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """One row group of all that waits."""
        if not self._waiting:
            return
        names = pa.array([region for region, _, _ in self._waiting], type=pa.string())
        lengths = [len(seconds) for _, seconds, _ in self._waiting]
        arrays = [
            pa.array(
                np.concatenate([seconds for _, seconds, _ in self._waiting]) * 1000,
                type=pa.timestamp("ms"),
            ),
            names.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        ]
        for name in self.columns:
            column = np.concatenate([values[name] for _, _, values in self._waiting])
            kind = self.schema.field(name).type
            arrays.append(
                pa.array(column.astype(kind.to_pandas_dtype()), type=kind, from_pandas=True)
            )
        self._writer.write_table(pa.table(arrays, schema=self.schema))
        self._waiting, self._rows_waiting = [], 0

    def empty_columns(self) -> list[str]:
        """Columns without one value in any region."""
        return [n for n in self.columns if not any(known[n] for known in self.known.values())]

    def join(self) -> Path:
        """All regions one after the other into series.parquet, row group by row group."""
        self._write_waiting()
        self._writer.close()
        empty = set(self.empty_columns())
        schema = pa.schema([column for column in self.schema if column.name not in empty])
        path = self.folder / SERIES
        with pq.ParquetWriter(path, schema) as writer, pq.ParquetFile(self._all) as every:
            for group in range(every.num_row_groups):
                writer.write_table(every.read_row_group(group, columns=schema.names))
        return path


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """series.json beside series.parquet, with the format's number and the table's sha256."""
    content = {"format": FORMAT} | description | {"sha256": sha256_of(folder / SERIES)}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if (size := len(text.encode())) > MOST_JSON_BYTES:
        raise InputError(
            f"{DESCRIPTION} takes {size:,} bytes for {len(content['regions']):,} regions, more "
            f"than the {MOST_JSON_BYTES:,} that are read; prepare parts of the regions apart."
        )
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def _columns_problem(columns: dict[str, Any]) -> str | None:
    found = (misfit(of, _COLUMN, f"column {plain(name, 80)}") for name, of in columns.items())
    if problem := next((problem for problem in found if problem), None):
        return problem
    return records_problem({name: of["record"] for name, of in columns.items() if of.get("record")})


def read_prepared(
    path: Path, sha256: str, config: DataConfig
) -> tuple[dict[str, Any] | None, list[str]]:
    """The series.json beside a table that it describes, and sentences to log; None without one.

    A series.json describes series.parquet; beside it, a table of another name is its own. Raises
    InputError where series.parquet has changed since, or where the unit of its rain is not
    ``data.precipitation_unit``.
    """
    beside = path.with_name(DESCRIPTION)
    if path.name != SERIES or not beside.is_file():
        return None, []
    try:
        prepared = read_json(beside)
    except InputError as error:
        raise InputError(f"{error}; prepare the series again.") from error
    if problem := misfit(prepared, _SHAPE) or _columns_problem(prepared.get("columns", {})):
        raise InputError(f"{beside} has not format {FORMAT}: {problem}; prepare the series again.")
    if prepared["sha256"] != sha256:
        raise InputError(
            f"{path} is not the file that {DESCRIPTION} beside it describes (sha256 {sha256[:12]}, "
            f"described {str(prepared['sha256'])[:12]}); prepare it again, or remove {DESCRIPTION}."
        )
    rain = prepared["precipitation"]
    is_rain = rain["column"] == config.precipitation_column
    if is_rain and config.precipitation_unit not in ("auto", rain["unit"]):
        raise InputError(
            f"{path}: {rain['column']} is in {rain['unit']}, data.precipitation_unit says "
            f"{config.precipitation_unit}; set data.precipitation_unit={rain['unit']}."
        )
    notes = []
    if rain["is_sparse"]:
        notes.append(
            f"SPARSE rain: {rain['hours_present_per_day']} of 24 hours of {rain['column']} are "
            "present; labels from it miss rain."
        )
    return prepared, notes
