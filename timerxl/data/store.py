"""Keep what is made of a series as mapped files: made once, read by all ranks and commands.

A store is a folder of .npy files, which numpy and torch read in place, and of meta.json. Processes
that map one file share its pages; none holds a copy. Its name is a hash of all that it depends on:
the table, the settings of ``data``, the windows and the code. One process makes it, under a lock
for which the others wait, beside the place that it is renamed to.

Why .npy: on 2 million rows of 10 features a batch of 32 windows of 1,440 rows takes 0.4 ms of one
core out of a mapped .npy file, the same out of an Arrow file whose one list column is viewed as
that matrix, 0.8 ms out of ten Arrow columns, which have to be brought side by side, and 38 ms out
of the rows of ``datasets``. Between the first two writing decides: a mapped .npy file is filled at
any place, block by block, where Arrow is appended to and holds a batch in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch

from timerxl.config import DataConfig, InputError, RunConfig
from timerxl.data.audit.auditor import audit_windows
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.readers import DESCRIPTION, load_series, sha256_of
from timerxl.data.series import ROW_ARRAYS, Arrays, WeatherSeries
from timerxl.data.tiling import LabelTiling, PatchTiling, Tiles, tile_labels
from timerxl.data.windows import (
    RegionGrid,
    WeatherWindows,
    WindowTransform,
    build_windows,
    row_dataset,
)
from timerxl.files import write_json
from timerxl.untrusted import is_file, reason

FORMAT = 1
AUTO = "auto"
LEAST_AUTO_BYTES = 8 * 2**20  # of a table; a smaller one is prepared in seconds
META = "meta.json"
_GRID_ARRAYS = "values observed static label time_of_row region_of_row".split()
_TILE_ARRAYS = ("group", "place", "first_row", "last_place")
_SAMPLE_BLOCKS, _SAMPLE_BYTES = 32, 4096  # of a file, by which damage is noticed
Log = Callable[[str], None]
Made = tuple[WeatherWindows, list[str]]


class _Damaged(Exception):
    """A store can't be used: why."""


def open_saved_windows(data: DataConfig, saved: Preprocessing, log: Log) -> WeatherWindows:
    """Return the windows of the series of ``data`` as the model of ``saved`` reads them."""
    config = RunConfig(data=data)
    config.model.context_length = saved.context_length
    return open_windows(config, log, saved)[0]


def open_windows(
    config: RunConfig, log: Log, saved: Preprocessing | None = None, is_audited: bool = True
) -> Made:
    """Return the windows of a run's series, and the lines of its audit.

    They come from the store in ``data.cache_dir``, which is made where it is missing, damaged or of
    another table, other settings or other code; or are made in memory where none is kept. ``saved``
    is the preprocessing of a finished model: its windows, which nobody trains on, are not audited,
    and neither are those made in memory where they need not be (``is_audited``).

    Raises InputError where the series can't be read or used, and where ``data.cache_dir`` names a
    folder that can't be written. The default folder is done without, and the log says why.
    """
    folder = _cache_folder(config.data)
    if folder is None:
        return _make(config, saved, Arrays(), is_audited)
    try:
        return _open_or_make(config, saved, folder, log)
    except (OSError, NotImplementedError) as error:  # the latter: a storage without locks
        sentence = f"data.cache_dir: no store can be kept in {folder} ({reason(error)})"
        if config.data.cache_dir != AUTO:
            raise InputError(
                f"{sentence}; give a folder with more room that can be written, or "
                "data.cache_dir=null to keep none."
            ) from error
        log(f"warning: {sentence}: every process prepares the series in its own memory.")
        return _make(config, saved, Arrays(), is_audited)


def _cache_folder(data: DataConfig) -> Path | None:
    """The folder of the stores; None where none is kept of this series."""
    if data.cache_dir is None or (data.path is not None and not is_file(Path(data.path))):
        return None
    if data.cache_dir != AUTO:
        return Path(data.cache_dir)
    if data.path is None or Path(data.path).stat().st_size < LEAST_AUTO_BYTES:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "timerxl"


def _make(
    config: RunConfig, saved: Preprocessing | None, arrays: Arrays, is_audited: bool = True
) -> Made:
    """Read the series, make its windows and audit them."""
    is_rain = config.train.task == "rain"
    series = load_series(config.data, arrays)
    windows = build_windows(
        series,
        config.data,
        config.model.context_length,
        saved,
        next_patch=None if is_rain else config.model.patch_length,
        arrays=arrays,
    )
    if saved is not None:
        return windows, []
    windows.tiling = tile_labels(config, windows, arrays)
    is_audited &= is_rain
    return windows, audit_windows(windows, config).short_lines() if is_audited else []


def _open_or_make(config: RunConfig, saved: Preprocessing | None, folder: Path, log: Log) -> Made:
    key = _key(config, saved, folder)
    store, started = folder / key, time.perf_counter()
    if (found := _opened(store, config, log)) is not None:
        return found  # also where the folder can't be written
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{store}.lock")
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        log("data: another process prepares this series; waiting for it.")
        held = lock.acquire()
    with held:
        if (found := _opened(store, config, lambda sentence: None)) is not None:
            return found  # the other process has made it
        building = Path(f"{store}.building")
        # Under the lock nobody else builds: what is here was left by a process that was killed.
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            windows, audit = _make(config, saved, arrays := Arrays(building))
            _write(windows, audit, arrays)
            del windows
            shutil.rmtree(store, ignore_errors=True)
            building.rename(store)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    if (found := _opened(store, config, log)) is None:
        raise OSError(f"{store} can't be read after it was written")
    size = sum(path.stat().st_size for path in store.iterdir()) / 1e9
    seconds = time.perf_counter() - started
    log(f"data: prepared in {seconds:.0f} s and kept as {store} ({size:.2g} GB).")
    return found


def _key(config: RunConfig, saved: Preprocessing | None, folder: Path) -> str:
    """Hash all that windows depend on."""
    data = asdict(config.data)
    path, oni = data.pop("path"), data.pop("oni_path")
    data.pop("cache_dir")
    content: dict[str, Any] = {
        "format": FORMAT,
        "numpy": np.__version__,
        "code": _code(),
        "data": data,
        "context_length": config.model.context_length,
        "oni": sha256_of(Path(oni)) if oni is not None and is_file(Path(oni)) else None,
    }
    if path is not None:
        beside = Path(path).with_name(DESCRIPTION)
        content |= {
            "name": Path(path).name,  # of the format, and of a region without a name
            "table": _sha256_kept(Path(path), folder),
            "description": sha256_of(beside) if beside.is_file() else None,
        }
    if saved is None:
        content |= {"task": config.train.task, "patch_length": config.model.patch_length}
    else:
        content["saved"] = saved.content
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """Hash the modules that windows come from."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), package.parent / "config.py"]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _sha256_kept(path: Path, folder: Path) -> str:
    """The SHA-256 of a file, which is read anew where its size, times or place have changed."""
    facts, place = path.stat(), str(path.resolve())
    now = [place, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
    name = hashlib.sha256(place.encode()).hexdigest()[:32]
    kept = folder / f"{name}.sha256.json"
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["file"] == now and len(content["sha256"]) == 64:
            return str(content["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        pass
    sha256 = sha256_of(path)
    # A file that was written to a moment ago may be written to again with the same times.
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > 2e9:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(kept, {"file": now, "sha256": sha256})
        except OSError:
            pass  # it is read again next time
    return sha256


def _arrays_of(windows: WeatherWindows) -> dict[str, np.ndarray]:
    """Name -> array of all that a store holds."""
    series, transform, tiling = windows.series, windows.transform, windows.tiling
    found = {name: getattr(series, name) for name in ROW_ARRAYS}
    found |= {"label": windows.label, "rained_before": windows.rained_before}
    found |= {"scaled": windows.values, "static": windows.static, "neighbours": windows.neighbours}
    found |= {f"rows.{split}": rows for split, rows in windows.rows.items()}
    if isinstance(transform, RegionGrid):
        found |= {f"grid.{name}": getattr(transform, name) for name in _GRID_ARRAYS}
    else:
        found["targets"] = transform.label
    if tiling is not None:
        found["tiling.label"] = tiling.label
        for name in _TILE_ARRAYS:
            found[f"tiling.{name}"] = getattr(tiling.tiles, name)
    return {
        name: array.numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        for name, array in found.items()
        if array is not None
    }


def _write(windows: WeatherWindows, audit: list[str], arrays: Arrays) -> None:
    """Write what is not yet in the folder of ``arrays``, and meta.json."""
    folder = arrays.folder
    assert folder is not None
    files = {}
    for name, array in _arrays_of(windows).items():
        path = folder / f"{name}.npy"
        made = arrays.made.get(name)
        if made is None or made.ctypes.data != array.ctypes.data or made.shape != array.shape:
            path.unlink(missing_ok=True)
            np.save(path, array)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
        files[name] = {"bytes": path.stat().st_size, "sample": _sample(path)}
    series, tiling = windows.series, windows.tiling
    described = [item.name for item in fields(WeatherSeries) if item.name not in ROW_ARRAYS]
    names = "static_feature_names context_length context_days scaling notes definition".split()
    content = {
        "format": FORMAT,
        "files": files,
        "series": {name: getattr(series, name) for name in described},
        "windows": {name: getattr(windows, name) for name in names},
        "splits": list(windows.rows),
        "audit": audit,
        "class_counts": {
            split: [of.tolist() for of in counts] for split, counts in windows.class_counts.items()
        },
        "dead_features": windows.dead_features,
        "fingerprint": windows.fingerprint,
        "tiling": None
        if tiling is None
        else {
            "is_patch": isinstance(tiling, PatchTiling),
            "num_labels": tiling.num_labels,
            "num_patches": tiling.tiles.num_patches,
            "patch_length": tiling.tiles.patch_length,
        },
    }
    text = json.dumps(content)
    with (folder / META).open("w", encoding="utf-8") as file:
        file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
        file.flush()
        os.fsync(file.fileno())


def _sample(path: Path) -> str:
    """Hash a file's ends and blocks spread evenly between them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for place in np.linspace(0, max(size - _SAMPLE_BYTES, 0), _SAMPLE_BLOCKS).astype(int):
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, int(place)))
    return digest.hexdigest()


def _opened(store: Path, config: RunConfig, log: Log) -> Made | None:
    """Open a store as the windows of ``config``, whose table may lie elsewhere by now; None, with a
    line to ``log``, where it is damaged, and where there is none."""
    if not store.is_dir():
        return None
    try:
        content = _read_meta(store)
    except _Damaged as found:
        log(f"data: the store {store.name} is damaged ({found}): it is made anew.")
        return None
    windows, audit = open_store(store, content), content["audit"]
    data = windows.definition["data"]
    data |= {"path": config.data.path, "oni_path": config.data.oni_path}
    if config.data.path is not None:
        windows.series.source["path"] = config.data.path
    return windows, audit


def _read_meta(store: Path) -> dict[str, Any]:
    """Read meta.json and hold the files against it; raise _Damaged where something is amiss."""
    try:
        checksum, _, text = (store / META).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError) as error:
        raise _Damaged(f"{META} can't be read: {reason(error)}") from error
    if hashlib.sha256(text.encode()).hexdigest() != checksum:
        raise _Damaged(f"{META} has changed")
    content: dict[str, Any] = json.loads(text)
    for name, known in content["files"].items():
        path = store / f"{name}.npy"
        try:
            if path.stat().st_size != known["bytes"]:
                raise _Damaged(
                    f"{path.name} has {path.stat().st_size:,} bytes of {known['bytes']:,}"
                )
            if _sample(path) != known["sample"]:
                raise _Damaged(f"{path.name} has changed")
        except OSError as error:
            raise _Damaged(f"{path.name} can't be read: {reason(error)}") from error
    return content


def open_store(store: Path, content: dict[str, Any] | None = None) -> WeatherWindows:
    """Open a store; what is written to its arrays stays in this process."""
    content = content or _read_meta(store)
    arrays = {
        name: np.asarray(np.load(store / f"{name}.npy", mmap_mode="c")) for name in content["files"]
    }
    tensors = {
        name: torch.from_numpy(array)
        for name, array in arrays.items()
        if name != "timestamps" and not name.startswith("rows.")
    }
    series = object.__new__(WeatherSeries)  # checked when the store was made
    for name in ROW_ARRAYS:
        object.__setattr__(series, name, arrays.get(name))
    for name, value in content["series"].items():
        object.__setattr__(series, name, value)
    facts = content["windows"]
    steps = int(facts["context_length"])
    if "grid.values" in tensors:
        parts: dict[str, Any] = {name: tensors.get(f"grid.{name}") for name in _GRID_ARRAYS}
        transform: WindowTransform = RegionGrid(context_length=steps, **parts)
    else:
        parts = {"values": tensors["scaled"], "static": tensors.get("static")}
        transform = WindowTransform(label=tensors["targets"], context_length=steps, **parts)
    transform.reopen = _open_transform, (store,)
    rows = {split: arrays[f"rows.{split}"] for split in content["splits"]}
    windows = WeatherWindows(
        series=series,
        values=tensors["scaled"],
        static=tensors.get("static"),
        label=arrays["label"],
        rained_before=arrays["rained_before"],
        splits={
            split: row_dataset(
                {"row": of}, transform, hashlib.sha256(f"{store.name} {split}".encode()).hexdigest()
            )
            for split, of in rows.items()
        },
        rows=rows,
        transform=transform,
        neighbours=arrays.get("neighbours"),
        **facts,
    )
    if (tiling := content["tiling"]) is not None:
        kind = PatchTiling if tiling["is_patch"] else LabelTiling
        size = {key: tiling[key] for key in ("num_patches", "patch_length")}
        of_tiles: dict[str, Any] = {key: arrays[f"tiling.{key}"] for key in _TILE_ARRAYS}
        tiles = Tiles(**of_tiles, **size)
        windows.tiling = kind(tiles, transform, tensors["tiling.label"], tiling["num_labels"])
    # What is computed from the arrays on demand, and was when the store was made.
    vars(windows).update(
        class_counts={
            split: tuple(np.array(of, dtype=np.int64) for of in counts)
            for split, counts in content["class_counts"].items()
        },
        dead_features=content["dead_features"],
        fingerprint=content["fingerprint"],
    )
    return windows


def _open_transform(store: Path) -> WindowTransform:
    return open_store(store).transform
