"""launch/prepare_data.py: exit codes, whole outputs only, nothing left by a run that is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import xarray as xr

from timerxl.cli import prepare_data

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "prepare_data.py"
SHARED = ROOT.parent / "shared" / "data" / "era5_cds_layout"
GERMANY = SHARED / "germany_6h_tp_2024_2025" / "data_stream-oper_stepType-accum.nc"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return processes.run([sys.executable, SCRIPT, *words], cwd=cwd)


def peru_file(path: Path, hours: int) -> Path:
    """Rain and temperature over all of Peru, hourly, one degree apart."""
    latitude, longitude = np.arange(0.0, -19.0, -1.0), np.arange(-82.0, -67.0, 1.0)
    times = np.datetime64("2020-12-20T00", "ns") + np.arange(hours) * np.timedelta64(1, "h")
    rng = np.random.default_rng(0)
    shape = (hours, len(latitude), len(longitude))
    data = {
        "tp": (rng.gamma(0.1, 1e-3, shape).astype(np.float32), "m", "accum"),
        "t2m": (rng.normal(290, 3, shape).astype(np.float32), "K", "instant"),
    }
    axes = ("valid_time", "latitude", "longitude")
    xr.Dataset(
        {n: (axes, v, {"units": u, "GRIB_stepType": s}) for n, (v, u, s) in data.items()},
        coords=dict(zip(axes, (times, latitude, longitude), strict=True)),
        attrs={"title": "SYNTHETIC test data"},
    ).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.slow
def test_peru_is_the_default_and_nothing_is_overwritten(tmp_path: Path) -> None:
    peru_file(tmp_path / "peru.nc", 24 * 20)
    words = ("peru.nc", "--step-hours", 6, "--derived", "calendar", "tp_sum_24h", "--output", "out")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC series: 400 rows, 5 regions, 7 columns, step 6 h" in done.stdout
    assert "data.path=out/series.parquet data.precipitation_column=tp" in done.stdout
    assert done.stderr == ""
    described = json.loads((tmp_path / "out" / "series.json").read_text())
    regions = ["costa_norte", "costa_centro", "sierra_norte", "sierra_sur", "selva"]
    assert [region["name"] for region in described["regions"]] == regions
    assert str(tmp_path) not in json.dumps(described)
    table = pd.read_parquet(tmp_path / "out" / "series.parquet")
    assert list(described["columns"]) == list(table.columns[2:])

    before = (tmp_path / "out" / "series.parquet").read_bytes()
    again = run(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: --output")
    assert "--overwrite" in again.stderr
    kept = run(*words[:-4], "--features", "sst", "--overwrite", "--output", "out", cwd=tmp_path)
    assert (kept.returncode, kept.stdout) == (2, "")
    assert (tmp_path / "out" / "series.parquet").read_bytes() == before
    assert run(*words, "--overwrite", cwd=tmp_path).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "peru.nc"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["series.json", "series.parquet"]


@pytest.mark.slow
@pytest.mark.skipif(not GERMANY.is_file(), reason="the ERA5 files are not at hand")
def test_the_sparse_file_ends_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("regions: {koeln: {latitude: 51, longitude: 7}}")
    words = (GERMANY, "--regions", "r.yaml", "--output", "new/out")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: 4 of 24 hours of tp are present; a 24-h rain label from this file would be wrong"
    )
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
    done = run(*words, "--allow-sparse-accumulation", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SPARSE: 4 of 24 hours of tp" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "stage"), [(signal.SIGTERM, "*.npy"), (signal.SIGINT, "all-columns.parquet")]
)
def test_a_run_that_is_stopped_leaves_nothing(
    tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    peru_file(tmp_path / "peru.nc", 24 * 120)
    points = [f"p{i}: {{latitude: {-(i % 18)}, longitude: {-70 - i % 12}}}" for i in range(300)]
    (tmp_path / "r.yaml").write_text("regions:\n  " + "\n  ".join(points))
    # The same file again and again: equal values are one, but each copy is read.
    inputs = ["peru.nc"] * (240 if stage == "*.npy" else 4)
    words = [sys.executable, str(SCRIPT), *inputs, "--regions", "r.yaml", "--output", "deep/out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = tmp_path.with_suffix(".out")
    process = processes.Forked(words, cwd=tmp_path, env=environment, stdout=said)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(f".out.partial-*/{stage}")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill_all()
    assert said.read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peru.nc", "r.yaml"]


@pytest.mark.slow
def test_the_audit_takes_a_prepared_series(tmp_path: Path) -> None:
    pytest.importorskip("timerxl.data.audit.auditor")
    peru_file(tmp_path / "peru.nc", 24 * 20)
    words = ("peru.nc", "--derived", "none", "--output", "out")
    assert run(*words, cwd=tmp_path).returncode == 0
    audit = ("--audit", "out/series.parquet", "--config", "hourly_cpu", "--json")
    overrides = ("data.precipitation_column=tp", "model.context_length=48")
    done = run(*audit, *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


def test_wrong_words_end_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("timestamp,region,precipitation\n2020-01-01,a,0\n")
    (tmp_path / "x.nc").write_bytes(b"no NetCDF")
    cases: list[tuple[list[object], str]] = [
        ([], "give INPUT files and --output"),
        (["x.nc"], "give INPUT files and --output"),
        (["x.nc", "--output", "o"], "error: x.nc is no NetCDF file"),
        (["x.nc", "t.csv", "--output", "o"], "can't become one series"),
        (["x.nc", "--output", "t.csv"], "is no folder"),
        (["x.nc", "--output", "o", "--max-gap-fill", "-1"], "expected 0 or more hours"),
        (["x.nc", "--output", "o", "--json"], "belong to --audit"),
        (["--audit", "s.parquet", "t.csv"], "'t.csv' is not of the form key=value"),
    ]
    for words, message in cases:
        try:
            code = prepare_data.main([str(word) for word in words])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        assert code == 2, words
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "x.nc"]


@pytest.mark.slow
def test_what_is_said_of_columns(tmp_path: Path) -> None:
    """--unit, --missing and --meaning reach the series; a wrong word ends with 2 and one line."""
    path = peru_file(tmp_path / "peru.nc", 72)
    with xr.open_dataset(path, engine="h5netcdf") as file:
        data = file.load()
    celsius = data["t2m"].values - 273.15
    celsius[3] = -9999
    data["t2m"].values[:] = celsius
    data["t2m"].attrs["units"] = "degC"
    data["t2m"].values[:] = celsius
    data["tp"].attrs["units"] = "inch"
    data.to_netcdf(tmp_path / "odd.nc", engine="h5netcdf")
    words = ("odd.nc", "--derived", "none", "--output", "out")
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "t2m holds -9999" in done.stderr
    told = ("--missing", "-9999", "--unit", "tp=m", "t2m=degC", "--meaning", "tp=hourly")
    done = run(*words, *told, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    table = pd.read_parquet(tmp_path / "out" / "series.parquet")
    assert 280 < table["t2m"].mean() < 300
    assert table["t2m"].isna().sum() == 5
    record = json.loads((tmp_path / "out" / "series.json").read_text())["columns"]["tp"]["record"]
    assert (record["unit"]["value"], record["unit"]["known_by"]) == ("m", "said")
    assert record["time"]["value"] == {"kind": "sum", "hours": 1.0, "file_stamp": "end"}
    for bad, expected in (
        (("--unit", "tp"), "--unit 'tp' is not of the form COLUMN=WORD"),
        (("--meaning", "tp=hourly", "tp=running"), "--meaning names tp twice"),
        (("--meaning", "tp=daily"), "--meaning tp=daily: expected instant, hourly"),
        (("--missing", "nothing"), "--missing 'nothing' is not a number"),
    ):
        done = run(*words, "--overwrite", *bad, cwd=tmp_path)
        assert done.returncode == 2, bad
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
