"""Small files that stand for very much: refused before their bytes are there.

Peak memory is that of a child process whose address space is limited once its imports are done.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray as xr
import zarr

from timerxl import untrusted
from timerxl.config import InputError
from timerxl.data.era5.grid_files import open_grid_files
from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
from timerxl.data.era5.streams import grid_members
from timerxl.data.readers import TableOptions, open_table
from timerxl.data.tables.parquet import _page_bytes, read_parquet
from timerxl.data.tables.text import MOST_COLUMNS, read_text_table
from timerxl.model.openltm_checkpoint import read_tensors

ROOM = 100 * 2**20  # bytes that a bomb may take beyond what imports took
_CHILD = """
import json, resource, sys
from pathlib import Path
import psutil
import h5netcdf, h5py, pyarrow.parquet, xarray
from timerxl.data.era5.grid_files import open_grid_files
from timerxl.data.readers import TableOptions, open_table
from timerxl.model.openltm_checkpoint import read_tensors

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

room, *files = sys.argv[1:]
used = psutil.Process().memory_info()
resource.setrlimit(resource.RLIMIT_AS, (used.vms + 4 * int(room),) * 2)
for file in files:
    path = Path(file)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, said = peak(), "read"
    try:
        if path.suffix == ".pth":
            read_tensors(path)
        elif path.suffix == ".nc":
            with open_grid_files(path, path.name) as grids:
                [list(grid.blocks(one, slice(None), slice(None)))
                 for grid in grids for one in grid.variables]
        else:
            open_table(path, TableOptions(is_command=True))
    except ValueError as error:  # an InputError is one
        said = f"refused: {error}"
    print(json.dumps([path.name, said, peak() - before]))
"""


def rows(count: int) -> bytes:
    return b"timestamp,precipitation\n" + b"2020-01-01T00:00:00,1.0\n" * count


def csv_gz(path: Path) -> Path:
    with gzip.open(path, "wb") as file:
        for _ in range(12):
            file.write(rows(1_000_000))
    assert path.stat().st_size < 4_000_000
    return path


def csv_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", rows(8_000_000))
    assert path.stat().st_size < 1_000_000
    return path


def parquet_of_runs(path: Path) -> Path:
    """200 million values in less than a megabyte, each page of them one run."""
    block = pa.table({"precipitation": pa.array(np.zeros(10_000_000))})
    with pq.ParquetWriter(path, block.schema, use_dictionary=True) as writer:
        for _ in range(20):
            writer.write_table(block, row_group_size=10_000_000)
    assert path.stat().st_size < 4_000_000
    return path


def parquet_of_a_lying_footer(path: Path) -> Path:
    """One page of 400 MB; the footer says ten values of a hundred bytes."""
    count = 50_000_000
    pq.write_table(
        pa.table({"precipitation": pa.array(np.zeros(count))}),
        path,
        row_group_size=count,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=2**30,
        write_batch_size=count,
        max_rows_per_page=count,
    )
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = path.read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    lie = footer
    for true, said in ((count, 10), (column.total_uncompressed_size, 100)):
        number, other = _zigzag(true), _zigzag(said)
        padded = bytes(byte | 128 for byte in other) + bytes([128] * (len(number) - len(other) - 1))
        assert number in lie
        lie = lie.replace(number, padded + b"\0")
    path.write_bytes(content.replace(footer, lie))
    said = pq.ParquetFile(path).metadata
    assert (said.num_rows, said.row_group(0).column(0).total_uncompressed_size) == (10, 100)
    return path


def _zigzag(number: int) -> bytes:
    """A number of Thrift's compact protocol."""
    number, digits = number << 1, []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def parquet_of_a_long_word(path: Path) -> Path:
    """A word of a million signs that stands once in the file and in 20,000 rows."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), ["x" * 10**6])
    table = pa.table({"region": names, "precipitation": pa.array(np.zeros(20_000))})
    pq.write_table(table, path, store_schema=False, dictionary_pagesize_limit=2**24)
    assert path.stat().st_size < 100_000
    return path


def pth(path: Path) -> Path:
    """A checkpoint of torch, packed anew with compression."""
    whole = path.with_suffix(".whole")
    torch.save({"embedding.weight": torch.zeros(150, 2**19)}, whole)
    with (
        zipfile.ZipFile(whole) as archive,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for info in archive.infolist():
            packed.writestr(info.filename, archive.read(info))
    whole.unlink()
    assert path.stat().st_size < 2_000_000
    return path


def hdf5(path: Path, **shapes: tuple[int, ...]) -> Path:
    """Coordinates of one cell and 4 times, or of the ``shapes`` given: fill values alone."""
    sizes = {"time": (4,), "latitude": (1,), "longitude": (1,), "tp": (4, 1, 1)} | shapes
    with h5py.File(path, "w") as file:
        for name, shape in sizes.items():
            chunks = tuple(min(length, 1000) for length in shape)
            dataset = file.create_dataset(name, shape, "f8", chunks=chunks, compression="gzip")
            if name in ("time", "latitude", "longitude"):
                dataset.make_scale(name)
        for place, name in enumerate(("time", "latitude", "longitude")):
            file["tp"].dims[place].attach_scale(file[name])
        file["time"].attrs["units"] = "hours since 2020-01-01"
        file["time"][:4] = np.arange(4)
    return path


BOMBS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "t.csv.gz": (csv_gz, "of memory"),
    "t.csv.zip": (csv_zip, "expected at most 200 times as many"),
    "runs.parquet": (parquet_of_runs, "200,000,000 rows of it"),
    "lie.parquet": (parquet_of_a_lying_footer, "(10 rows of it)"),
    "word.parquet": (parquet_of_a_long_word, "the text of"),
    "w.pth": (pth, "is compressed"),
    "times.nc": (lambda path: hdf5(path, time=(10**9,), tp=(10**9, 1, 1)), "coordinates of"),
    "axis.nc": (lambda path: hdf5(path, longitude=(10**12,)), "coordinates of"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """What a process with little room says of each bomb, and the bytes that its memory grew by."""
    folder = tmp_path_factory.mktemp("bombs")
    files = [str(make(folder / name)) for name, (make, _) in BOMBS.items()]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(ROOM), *files],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (said, grown) for name, said, grown in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(
    outcomes: dict[str, tuple[str, int]], name: str
) -> None:
    said, grown = outcomes[name]
    assert said.startswith("refused:"), said
    assert BOMBS[name][1] in said
    assert len(said) < 700
    assert grown < ROOM


def nc_zip(path: Path, megabytes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.nc", b"CDF\x01" + bytes(megabytes * 2**20))
    return path


def test_a_zip_that_unpacks_a_thousand_times_writes_nothing(tmp_path: Path) -> None:
    path, folder = nc_zip(tmp_path / "era5.nc", 300), tmp_path / "out"
    folder.mkdir()
    assert path.stat().st_size < 400_000
    with pytest.raises(InputError, match="expected at most 200 times as many"):
        next(grid_members(path, folder))
    assert not list(folder.iterdir())


def test_a_zip_larger_than_the_disk_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = nc_zip(tmp_path / "era5.nc", 20), tmp_path / "out"
    folder.mkdir()
    free = type("Usage", (), {"free": 21 * 10**6})()
    monkeypatch.setattr(untrusted.shutil, "disk_usage", lambda where: free)
    with pytest.raises(InputError, match=r"takes 0.02 GB, and 0.02 GB are free"):
        next(grid_members(path, folder))
    assert not list(folder.iterdir())


def test_a_zip_that_declares_less_than_it_holds_gives_what_it_declares(tmp_path: Path) -> None:
    path, folder = nc_zip(tmp_path / "era5.nc", 20), tmp_path / "out"
    folder.mkdir()
    size = (20 * 2**20 + 4).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(size) == 2  # in the member's head and in the directory
    path.write_bytes(content.replace(size, (5000).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"can't be unpacked: .*CRC"):
        next(grid_members(path, folder))
    assert all(file.stat().st_size <= 5000 for file in folder.iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_packed_by_a_method_that_unpacks_without_bounds_are_refused(
    tmp_path: Path, method: int
) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("t.csv", rows(10))
    with pytest.raises(InputError, match="only stored"):
        open_table(path, TableOptions(is_command=True))
    with pytest.raises(InputError, match="only stored"):
        next(grid_members(path, tmp_path))


def test_an_honest_zip_is_read_whatever_its_size_is_to_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid is read in blocks: the whole of it need not fit."""
    rng = np.random.default_rng(0)
    fields = rng.exponential(1e-3, (2_000, 30, 30)).astype(np.float32)
    times = pd.date_range("2020-01-01", periods=2_000, freq="h")
    axis = np.arange(30) / 4
    data = xr.Dataset(
        {"tp": (("valid_time", "latitude", "longitude"), fields, {"units": "m"})},
        coords={
            "valid_time": times,
            "latitude": ("latitude", axis[::-1], {"units": "degrees_north"}),
            "longitude": ("longitude", axis, {"units": "degrees_east"}),
        },
    )
    chunks = {"tp": {"chunksizes": (100, 30, 30)}}
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=chunks)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.nc", "data.nc")
    monkeypatch.setattr("timerxl.data.era5.grid_files._BLOCK_BYTES", 2**20)
    monkeypatch.setattr(untrusted, "free_memory", lambda: 6 * 10**6)  # the fields take 7 MB
    (tmp_path / "out").mkdir()
    read = []
    for copy, label in grid_members(tmp_path / "a.zip", tmp_path / "out"):
        with open_grid_files(copy, label) as (file,):
            read += [v for _, v, _ in file.blocks(file.variables[0], slice(None), slice(None))]
    assert len(read) > 10
    assert np.array_equal(np.concatenate(read), fields)


def test_a_block_that_is_one_huge_chunk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.nc"
    hdf5(path, time=(4,), latitude=(20_000,), longitude=(20_000,), tp=(4, 20_000, 20_000))
    with h5py.File(path, "a") as file:
        file["latitude"][:] = np.linspace(-90, 90, 20_000)
        file["longitude"][:] = np.linspace(-180, 179, 20_000)
    monkeypatch.setattr(untrusted, "free_memory", lambda: 2 * 10**9)
    with open_grid_files(path, "g.nc") as (file,), pytest.raises(InputError, match="a block of tp"):
        next(file.blocks(file.variables[0], slice(None), slice(None)))


def test_cells_of_regions_on_a_grid_of_very_long_axes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.nc"
    hdf5(path, latitude=(200_000,), longitude=(200_000,), tp=(4, 200_000, 200_000))
    regions = tmp_path / "regions.yaml"
    regions.write_text("regions:\n  a: {latitude: 0, longitude: 0}\n")
    with pytest.raises(InputError, match="the cells of 1 regions takes"):
        prepare_era5([path], PrepareOptions(tmp_path / "out", regions=regions))
    assert not (tmp_path / "out").exists()


def test_hdf5_that_leads_to_other_files_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(4.0).tobytes())
    for kind in ("link", "soft", "raw", "virtual"):
        path = hdf5(tmp_path / f"{kind}.nc")
        with h5py.File(path, "a") as file:
            if kind == "link":
                file["more"] = h5py.ExternalLink(str(tmp_path / "other.nc"), "/tp")
            elif kind == "soft":
                file["more"] = h5py.SoftLink("/tp")
            elif kind == "raw":
                file.create_dataset("more", (4,), "f8", external=[(str(secret), 0, 32)])
            else:
                layout = h5py.VirtualLayout((4,), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.nc"), "tp", (4,))
                file.create_virtual_dataset("more", layout)
        with (
            pytest.raises(InputError, match=r"more is a link|more lie in other files"),
            open_grid_files(path, path.name),
        ):
            pass


def test_a_variable_with_very_many_attributes_and_very_many_variables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timerxl.data.era5.grid_files._MOST_VARIABLES", 20)
    many = hdf5(tmp_path / "a.nc")
    with h5py.File(many, "a") as file:
        for index in range(30):
            file["tp"].attrs[f"a{index}"] = index
    with pytest.raises(InputError, match="attributes of tp"), open_grid_files(many, "a.nc"):
        pass
    several = hdf5(tmp_path / "b.nc", **{f"v{index}": (1,) for index in range(30)})
    with pytest.raises(InputError, match="34 variables"), open_grid_files(several, "b.nc"):
        pass


def zarr_store(path: Path, **shapes: int) -> Path:
    sizes = {"time": 4, "latitude": 1, "longitude": 1} | shapes
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, size in sizes.items():
        array = group.create_array(name, shape=(size,), chunks=(4,), dtype="f8", fill_value=0)
        array.attrs["_ARRAY_DIMENSIONS"] = [name]
    return path


def test_a_zarr_store_of_petabytes_of_fill_values_is_refused(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "z.zarr", time=10**15)
    with (
        pytest.raises(InputError, match="the coordinates of z"),
        open_grid_files(path, "z"),
    ):
        pass


def test_a_zarr_store_with_a_link_or_huge_metadata_is_refused(tmp_path: Path) -> None:
    path = zarr_store(tmp_path / "z.zarr")
    (path / "time" / "9").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="holds a link"), open_grid_files(path, path.name):
        pass
    (path / "time" / "9").unlink()
    with (path / ".zattrs").open("r+b") as file:
        file.truncate(20 * 2**30)  # a sparse file
    with pytest.raises(InputError, match="21,474,836,480 bytes"), open_grid_files(path, path.name):
        pass


def test_a_constant_grib_field_of_very_many_points_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eccodes = pytest.importorskip("eccodes")
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    for key, value in {"Ni": 1000, "Nj": 1000}.items():
        eccodes.codes_set(message, key, value)
    eccodes.codes_set_values(message, np.zeros(10**6))
    path = tmp_path / "g.grib"
    with path.open("wb") as file:
        eccodes.codes_write(message, file)
    assert path.stat().st_size < 1000
    monkeypatch.setattr(untrusted, "free_memory", lambda: 10**7)
    with pytest.raises(InputError, match="a field of 1,000,000 points"), open_grid_files(path, "g"):
        pass


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".gz", ".zip", ".nc", ".grib", ".pth"])
def test_a_sparse_file_of_20_gb_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with path.open("wb") as file:
        file.truncate(20 * 2**30)
    if suffix == ".pth":
        with pytest.raises(ValueError, match="can't be read as a checkpoint"):
            read_tensors(path)
    elif suffix in (".nc", ".grib"):
        with pytest.raises(InputError, match="is no NetCDF"), open_grid_files(path, path.name):
            pass
    else:
        with pytest.raises(InputError):
            open_table(path, TableOptions(is_command=True))


def test_text_larger_than_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(rows(10_000))
    monkeypatch.setattr(untrusted, "free_memory", lambda: 10**6)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(InputError, match="of memory"):
        open_table(path, TableOptions(is_command=True))


def test_an_honest_gzip_and_zip_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2020-01-01", periods=3_000, freq="h"),
            "precipitation": rng.exponential(1, 3_000).round(2),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(
        tmp_path / "t.zip", index=False, compression={"method": "zip", "archive_name": "t.csv"}
    )
    plain = read_text_table(tmp_path / "t.csv").frame
    for name in ("t.csv.gz", "t.zip"):
        assert read_text_table(tmp_path / name).frame.equals(plain)


def test_a_line_of_a_hundred_million_characters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"timestamp,precipitation\n2020-01-01T00," + b"1," * 5_000_000 + b"\n")
    with pytest.raises(InputError, match=r"line 2 has 10,000,0\d\d characters"):
        open_table(path, TableOptions(is_command=True))


def test_very_many_columns_are_refused_in_text_and_in_parquet(tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(MOST_COLUMNS + 1)]
    text = tmp_path / "t.csv"
    line = ",".join(["1"] * len(names))
    text.write_text(",".join(names) + "\n" + f"{line}\n" * 3)
    with pytest.raises(InputError, match=r"10,001 columns"):
        open_table(text, TableOptions(is_command=True))
    pq.write_table(pa.table({name: [1.0] for name in names}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"10,001 columns"):
        open_table(tmp_path / "t.parquet", TableOptions(is_command=True))


def test_a_value_of_very_many_digits_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "timestamp,a,b\n" + "".join(f"2020-01-{d:02d},{'1' * 300_000}x,1\n" for d in range(1, 5))
    )
    frame = open_table(path, TableOptions(is_command=True)).frame
    assert len(frame) == 4


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_are_counted_as_they_unpack(tmp_path: Path, compression: str, version: str) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "timestamp": pd.date_range("2020-01-01", periods=50_000, freq="h"),
            "region": rng.choice(["a", "b", "c"], 50_000),
            "precipitation": rng.exponential(1, 50_000),
            "flag": rng.random(50_000) < 0.5,
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, compression=compression, data_page_version=version)
    group = pq.ParquetFile(path).metadata.row_group(0)
    # A footer counts the headers of pages too.
    assert 0.98 * group.total_byte_size < _page_bytes(path, group) <= group.total_byte_size
    assert read_parquet(path)[0].equals(pd.read_parquet(path))


def test_a_cell_of_a_million_commas_makes_no_million_columns(tmp_path: Path) -> None:
    path, count = tmp_path / "isd.csv", 2_000
    hours = pd.date_range("2020-01-01", periods=count, freq="h").strftime("%Y-%m-%dT%H:%M:%S")
    good = [
        f'724,{hour},7,FM-15,"230,5,N,0041,5","+0123,1","+0100,1","01,0010,9,1"' for hour in hours
    ]
    good[5] = good[5].replace("+0123,1", "+0123,1" + ",0" * 500_000)
    path.write_text("STATION,DATE,SOURCE,REPORT_TYPE,WND,TMP,DEW,AA1\n" + "\n".join(good) + "\n")
    tracemalloc.start()
    frame = open_table(path, TableOptions(is_command=True)).frame
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frame["precipitation_1h (mm)"].tolist() == [1.0] * count
    assert frame["temperature (degC)"].tolist() == [12.3] * count
    assert peak < ROOM


def test_columns_of_lists_are_left_out_and_named(tmp_path: Path) -> None:
    table = pa.table({"precipitation": [1.0, 2.0], "all": [[1.0], [2.0, 3.0]]})
    pq.write_table(table, tmp_path / "t.parquet")
    frame, notes = read_parquet(tmp_path / "t.parquet")
    assert frame.columns.tolist() == ["precipitation"]
    assert notes == ["columns of lists, records or raw bytes are left out: all."]


def test_bytes_are_read_as_text_where_they_are_text(tmp_path: Path) -> None:
    columns = {
        "time": pa.array([b"2020-01-01", b"2020-01-02"]),  # as Impala and old Spark write text
        "region": pa.array([b"a", None]).dictionary_encode(),
        "geometry": pa.array([b"\xff\x01", None]),
        "codes": pa.array([b"\xff", b"cd"]).dictionary_encode(),
        "uuid": pa.array([b"ab", b"cd"], pa.binary(2)),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    frame, notes = read_parquet(tmp_path / "t.parquet")
    assert frame.columns.tolist() == ["time", "region"]
    assert frame["time"].tolist() == ["2020-01-01", "2020-01-02"]
    assert frame["region"][0] == "a"
    assert pd.isna(frame["region"][1])
    assert notes == [
        "columns of lists, records or raw bytes are left out: uuid.",
        "columns of bytes that are no UTF-8 text are left out: geometry, codes.",
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_of_a_million_steps_is_refused_unread(tmp_path: Path, zipped: bool) -> None:
    path, steps = tmp_path / "w.pth", b"\x80\x02" + b"X\x01\0\0\0a0" * 600_000 + b"N."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", steps)
            archive.writestr("w/version", "3")
    else:
        path.write_bytes(steps)
    with pytest.raises(ValueError, match="its pickle takes more than 1,000,000 steps"):
        read_tensors(path)


def test_the_old_format_of_torch_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(5.0)}, path, _use_new_zipfile_serialization=False)
    assert read_tensors(path)["a"].tolist() == [0, 1, 2, 3, 4]


def test_a_checkpoint_whose_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(10_000)}, path)
    assert set(read_tensors(path)) == {"a"}
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        (tensor,) = (one for one in archive.infolist() if one.file_size == 40_000)
    begins = content.index(b"PK\x01\x02")
    while tensor.filename.encode() not in content[begins : begins + 46 + 40]:
        begins = content.index(b"PK\x01\x02", begins + 1)
    again = content[begins : content.index(b"PK", begins + 4)]
    name = tensor.filename.encode()
    more = b"".join(again.replace(name, name[:-1] + bytes([97 + n])) for n in range(20))
    end = bytearray(content[content.rindex(b"PK\x05\x06") :])
    count, size = (int.from_bytes(end[k : k + n], "little") for k, n in ((10, 2), (12, 4)))
    end[8:10] = end[10:12] = (count + 20).to_bytes(2, "little")
    end[12:16] = (size + len(more)).to_bytes(4, "little")
    start = int.from_bytes(end[16:20], "little")
    path.write_bytes(content[: start + size] + more + bytes(end))
    with zipfile.ZipFile(path) as archive:
        assert sum(one.file_size for one in archive.infolist()) > 800_000
    with pytest.raises(ValueError, match=r"declare 84\d,\d{3} bytes, the file has"):
        read_tensors(path)


def test_a_description_longer_than_is_read_is_not_written(tmp_path: Path) -> None:
    from timerxl.data.era5.prepare import write_description

    (tmp_path / "series.parquet").write_bytes(b"")
    regions = [{"name": "x" * 1000, "cells": None} for _ in range(20_000)]
    with pytest.raises(InputError, match="prepare parts of the regions apart"):
        write_description(tmp_path, {"regions": regions})
    assert not (tmp_path / "series.json").exists()
    write_description(tmp_path, {"regions": regions[:10]})
    assert len(json.loads((tmp_path / "series.json").read_text())["regions"]) == 10
