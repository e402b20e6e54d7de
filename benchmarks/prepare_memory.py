"""Peak memory of eleven hourly years: prepare, audit, and the reader with its windows.

    python benchmarks/prepare_memory.py [--years 11] [--grid-step 1.0] [--folder DIR]

Writes SYNTHETIC files in the layout of the Climate Data Store over Peru, one of instantaneous and
one of accumulated variables a year, each a single compressed chunk as delivered. The values are
those of timerxl/data/synthetic.py: every cell has its nearest region's, with an offset
of its own. Each stage runs in a fresh process; its peak resident memory is counted from the end of
its imports.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

GIB = 2**30
NINE = {
    "tp": "m", "t2m": "K", "d2m": "K", "sp": "Pa", "msl": "Pa", "u10": "m s**-1",
    "v10": "m s**-1", "tcwv": "kg m**-2", "cape": "J kg**-1",
}  # fmt: skip
STAGES = ("prepare", "audit", "read")


def write_files(folder: Path, years: int, grid_step: float) -> None:
    """Two NetCDF files a year."""
    import numpy as np
    import xarray as xr

    from timerxl.config import SyntheticConfig
    from timerxl.data.era5.regions import load_regions
    from timerxl.data.synthetic import synthetic_table

    boxes = load_regions(ROOT / "launch" / "regions" / "peru.yaml")
    latitude = np.arange(0.0, -18.01, -grid_step)
    longitude = np.arange(-82.0, -67.99, grid_step)
    north = np.array([(box.north + box.south) / 2 for box in boxes])
    east = np.array([(box.west + box.east) / 2 for box in boxes])
    away = (latitude[:, None, None] - north) ** 2 + (longitude[None, :, None] - east) ** 2
    nearest = np.argmin(away, axis=-1)
    rng = np.random.default_rng(0)
    offset = {name: rng.normal(0, 0.01, nearest.shape) for name in NINE}
    for year in range(2014, 2014 + years):
        # The table ends a day before the span does: the last day only labels the one before.
        span = SyntheticConfig(step_hours=1, start=f"{year}-01-01", end=f"{year + 1}-01-01")
        table = synthetic_table(span)
        times = table.loc[table["region"] == boxes[0].name, "timestamp"].to_numpy("datetime64[ns]")
        axes = ("valid_time", "latitude", "longitude")
        coords = dict(zip(axes, (times, latitude, longitude), strict=True))
        for kind, names in (("accum", ["tp"]), ("instant", [n for n in NINE if n != "tp"])):
            data = {}
            for name in names:
                of = np.stack([table.loc[table["region"] == b.name, name] for b in boxes], axis=1)
                spread = of.std() if name != "tp" else 0.0
                field = (of[:, nearest] + spread * offset[name]).astype(np.float32)
                attributes = {"units": NINE[name], "GRIB_stepType": kind}
                data[name] = (axes, field, attributes)
            dataset = xr.Dataset(data, coords, attrs={"title": "SYNTHETIC, no observation"})
            packed = {"zlib": True, "complevel": 1, "shuffle": True}
            encoding = {n: packed | {"chunksizes": data[n][1].shape} for n in names}
            path = folder / f"SYNTHETIC_{year}_{kind}.nc"
            dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def _status(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def run_stage(stage: str, folder: Path) -> None:
    """Import first, then measure from there on."""
    import h5netcdf  # noqa: F401  (what xarray would import while it opens the first file)

    from timerxl.config import DataConfig
    from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
    from timerxl.data.readers import read_table

    series = folder / "out" / "series.parquet"
    if stage == "audit":
        from timerxl.data.audit.auditor import audit_command
    if stage == "read":
        from timerxl.data.windows import build_windows
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.perf_counter()
    if stage == "prepare":
        inputs = sorted(folder.glob("*.nc"))
        regions = ROOT / "launch" / "regions" / "peru.yaml"
        content, _ = prepare_era5(inputs, PrepareOptions(series.parent, regions, overwrite=True))
        what = f"{len(inputs)} files, {content['rows']:,} rows, {len(content['columns'])} columns"
    elif stage == "audit":
        overrides = ["data.precipitation_column=tp"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = audit_command(series, None, overrides, False, folder / "audit")
        what = f"code {code}"
    else:
        loaded = read_table(DataConfig(path=str(series), precipitation_column="tp"))
        peak = (_status("VmHWM") - before) / GIB
        windows = build_windows(loaded, DataConfig(), 1440)
        what = f"{len(loaded.feature_names)} features, {sum(map(len, windows.rows.values())):,} "
        what += f"windows; read_table alone {peak:.2f} GiB"
    peak = (_status("VmHWM") - before) / GIB
    seconds = time.perf_counter() - started
    print(f"{stage}: {peak:.2f} GiB above {before / GIB:.2f} of imports, {seconds:.0f} s ({what})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, default=11)
    parser.add_argument("--grid-step", type=float, default=1.0, help="degrees")
    parser.add_argument("--folder", type=Path, help="keep the files there (default: temporary)")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.folder)
        return
    from benchmarks.machine import machine_line

    print(machine_line())
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob("*.nc")):
            write_files(folder, arguments.years, arguments.grid_step)
        size = sum(path.stat().st_size for path in folder.glob("*.nc")) / GIB
        print(
            f"SYNTHETIC, {arguments.years} years, {arguments.grid_step:g} degrees, {size:.2f} GiB"
        )
        audit = (ROOT / "timerxl" / "data" / "audit.py").is_file()
        for stage in STAGES if audit else ("prepare", "read"):
            words = ["--stage", stage, "--folder", str(folder)]
            subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main()
