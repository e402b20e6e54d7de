"""From the start of a process to its first training step, and the memory it holds, by regions.

    python benchmarks/scale.py --regions 5,60 [--ranks 1,2] [--years 11] [--folder DIR]

Writes a SYNTHETIC hourly table of 10 features for each number of regions (Parquet with
series.json, written region by region, kept for the next call), and starts training on it in fresh
processes: with an empty cache folder (first) and once more (again), with one process and with two
that speak gloo. A row of the table is a process: of several ranks the worst.

Private is the memory that no other process shares and no file stands behind (anonymous pages, and
the shared memory of tensors, which every rank has its own of), mapped is the resident part of
files. "Beyond" is private less that of the same run on a year of one region: imports and model. The
peak is sampled every 20 ms. The model is tiny; windows are those of the recipe small (1,440 hours,
a label after every patch of 96).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FEATURES = "tp t2m d2m sp msl u10 v10 tcwv cape sst".split()
LONG_AGO = "2014-01-01"
MIB = 2**20


def write_table(folder: Path, regions: int, years: int) -> Path:
    """Write series.parquet and series.json of ``regions`` regions, a row group each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{regions}_regions_{years}_years" / "series.parquet"
    if path.with_name("series.json").is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    start = np.datetime64(LONG_AGO, "s")
    hours = int((start.astype("datetime64[Y]") + years - start) / np.timedelta64(1, "h"))
    times = start + np.arange(1, hours + 1).astype("timedelta64[h]").astype("timedelta64[s]")
    season = np.cos(2 * np.pi * (times - start).astype(np.int64) / (365.2425 * 86400))
    day = np.cos(2 * np.pi * np.arange(hours) / 24)
    names = [f"region_{number:04d}" for number in range(regions)]
    schema = pa.schema(
        [("region", pa.string()), ("timestamp", pa.timestamp("s"))]
        + [(name, pa.float32()) for name in FEATURES]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for number, name in enumerate(names):
            columns = _weather(np.random.default_rng([7, number]), season, day)
            arrays = [pa.array([name]).dictionary_encode().take(pa.array(np.zeros(hours, int)))]
            arrays = [arrays[0].cast(pa.string()), pa.array(times)]
            arrays += [pa.array(columns[feature]) for feature in FEATURES]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=hours)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    rain = {"column": "tp", "unit": "mm", "is_sparse": False, "hours_present_per_day": 24.0}
    path.with_name("series.json").write_text(
        json.dumps({"format": 1, "sha256": sha256, "is_synthetic": True, "precipitation": rain})
    )
    return path


def _weather(rng: Any, season: Any, day: Any) -> dict[str, Any]:
    """Hourly columns [hours] float32: rain in spells of about 8 hours, 8 % of the time; the others
    with a season, a day and noise that lasts. No number is meant to be physical."""
    import numpy as np
    from scipy.signal import lfilter

    hours = len(season)
    hidden = lfilter([0.33], [1, -0.944], rng.standard_normal((len(FEATURES), hours)), axis=1)
    is_wet = hidden[0] + 0.5 * season > 1.45
    rain = np.where(is_wet, np.round(rng.exponential(1.2, hours) + 0.1, 2), 0.0)
    found = {"tp": rain}
    for place, name in enumerate(FEATURES[1:], 1):
        found[name] = 280 + 8 * season + 3 * day + 4 * hidden[place] + hidden[0]
    return {name: column.astype(np.float32) for name, column in found.items()}


def _memory() -> dict[str, float]:
    """Private and mapped memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    held = kib["RssAnon"] + kib["RssShmem"]
    return {"private": held / 1024, "mapped": kib["RssFile"] / 1024}


def _shared() -> float:
    """What the kernel counts as shared with another process, in MiB."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(one.split()[1]) for one in rollup if one.startswith("Shared_")) / 1024


def run_child(options: argparse.Namespace) -> None:
    """Train to the first step and leave; a line of JSON tells time and memory."""
    import psutil

    born = psutil.Process().create_time()
    peak = {"peak": 0.0}

    def watch() -> None:
        while True:
            peak["peak"] = max(peak["peak"], _memory()["private"])
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    from timerxl.command_line import quiet_libraries
    from timerxl.config import load_recipe
    from timerxl.training import run, trainer

    quiet_libraries()
    take_step, load = trainer.TrainingLoop._take_step, run.load_windows
    loading = []

    def timed(*given: Any) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        found = load(*given)
        loading.extend((time.perf_counter() - started, time.process_time() - busy))
        return found

    def first_step(loop: Any, *given: Any) -> Any:
        take_step(loop, *given)
        found = {"seconds": time.time() - born, "cpu_seconds": time.process_time()}
        found |= dict(zip(("data_seconds", "data_cpu_seconds"), loading, strict=True))
        found |= _memory() | {"shared": _shared()} | peak
        rank = os.environ.get("RANK", "0")
        Path(options.child, f"rank_{rank}.json").write_text(json.dumps(found))
        # Gloo's peers would wait for one that is gone in the middle of a step: all have stepped.
        time.sleep(0.5)
        os._exit(0)

    trainer.TrainingLoop._take_step = first_step  # type: ignore[method-assign]
    run.load_windows = timed
    overrides = [
        f"output_dir={options.child}/run",
        f"data.path={options.series}",
        "data.precipitation_column=tp",
        "data.static_features=false",
        *("model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=1"),
        *("model.num_attention_heads=2", "train.batch_size=4", "train.trackers=[]"),
        *("train.max_steps=2", "eval.max_windows=64", "eval.fitted_baselines=false"),
        *(options.overrides or []),
    ]
    run.train(load_recipe("small", overrides))


def measure(
    series: Path, ranks: int, folder: Path, overrides: list[str], limit_s: float
) -> dict[str, float] | str:
    """Start ``ranks`` processes; the worst of their figures, or why there are none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, __file__, "--child", str(folder), "--series", str(series)]
    if overrides:
        command += ["--overrides", *overrides]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(ranks):
        launched = environment
        if ranks > 1:
            launched = environment | {
                "ACCELERATE_USE_CPU": "true", "RANK": str(rank), "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
        log = (folder / f"rank_{rank}.log").open("w")
        processes.append(
            subprocess.Popen(command, env=launched, stdout=log, stderr=subprocess.STDOUT)
        )
    deadline = time.monotonic() + limit_s
    try:
        for process in processes:
            process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return f"more than {limit_s:g} s"
    finally:
        for process in processes:
            process.kill()
    found = [folder / f"rank_{rank}.json" for rank in range(ranks)]
    if not all(path.is_file() for path in found):
        lines = (folder / "rank_0.log").read_text().strip().splitlines()
        return next((one for one in reversed(lines) if "rror" in one), "failed")[:160]
    figures = [json.loads(path.read_text()) for path in found]
    return {key: max(of[key] for of in figures) for key in figures[0]}


def gather_ms(cache: Path, batches: int = 40) -> tuple[float, float]:
    """Median milliseconds of a batch of 32 training windows out of the store, of pages that have to
    come from the disk and of the same pages once more."""
    import numpy as np

    from timerxl.data.store import open_store

    (store,) = (path for path in cache.iterdir() if path.is_dir())
    for path in store.glob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    tiling = open_store(store).tiling
    assert tiling is not None
    codes = tiling.tiles.epoch(np.random.default_rng(0))
    chosen = np.random.default_rng(1).choice(codes, (batches, 32), replace=False)
    took: list[list[float]] = [[], []]
    for times in took:
        for of_batch in chosen.tolist():
            started = time.perf_counter()
            tiling[of_batch]
            times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(took[0])), float(np.median(took[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--regions", default="5,60", help="as 5,60,300,1000")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--years", type=int, default=11)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="of one start")
    parser.add_argument("--folder", type=Path, help="of tables and caches (default: temporary)")
    parser.add_argument("--keep-stores", action="store_true", help="measure later starts alone")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--series", help=argparse.SUPPRESS)
    parser.add_argument("--overrides", nargs="*", help="settings of the recipe")
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return
    from benchmarks.machine import machine_line
    from timerxl.config import DataConfig

    print(machine_line(), flush=True)
    folder = options.folder or Path(tempfile.gettempdir()) / "timerxl_scale"
    has_store = hasattr(DataConfig(), "cache_dir")
    given = options.overrides or []
    base = measure(write_table(folder, 1, 1), 1, folder / "work", given, options.limit_s)
    if isinstance(base, str):
        raise SystemExit(f"the run on one region failed: {base}")
    print(
        f"imports and model: {base['private']:.0f} MiB private, {base['seconds']:.0f} s "
        f"({base['cpu_seconds']:.0f} of CPU)"
    )
    print(
        "| regions | rows | ranks | start | to first step, s (CPU) | of it data, s (CPU) | "
        "private, MiB | beyond | peak beyond | mapped | shared |\n|" + "---:|" * 11
    )
    gathering: list[str] = []
    for regions in map(int, options.regions.split(",")):
        series = write_table(folder, regions, options.years)
        rows, cache = f"{regions * options.years * 8766:,}", folder / f"cache_{regions}"
        for ranks in map(int, options.ranks.split(",")):
            overrides = [*given, f"data.cache_dir={cache}"] if has_store else given
            starts = ["first", "again"] if has_store else ["every"]
            if options.keep_stores:
                starts = starts[-1:]
            else:
                shutil.rmtree(cache, ignore_errors=True)
            for start in starts:
                found = measure(series, ranks, folder / "work", overrides, options.limit_s)
                cells = [str(regions), rows, str(ranks), start]
                if isinstance(found, str):
                    print(f"| {' | '.join(cells)} | {found} |", flush=True)
                    continue
                beyond = (found[key] - base["private"] for key in ("private", "peak"))
                numbers = [f"{found['private']:,.0f}", *(f"{one:,.0f}" for one in beyond)]
                numbers += [f"{found[key]:,.0f}" for key in ("mapped", "shared")]
                times = [
                    f"{found[f'{part}seconds']:.1f} ({found[f'{part}cpu_seconds']:.1f})"
                    for part in ("", "data_")
                ]
                print(f"| {' | '.join([*cells, *times, *numbers])} |", flush=True)
        if has_store and cache.is_dir():
            cold, warm = gather_ms(cache)
            gathering.append(
                f"{regions} regions: {cold:.1f} ms of pages on the disk, {warm:.1f} ms of the same "
                "in memory"
            )
    for line in gathering:
        print(f"a batch of 32 training windows, {line}")


if __name__ == "__main__":
    main()
