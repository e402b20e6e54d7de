"""Files in both layouts of the Climate Data Store, block by block, and what is no such file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.era5 import grid_files
from timerxl.data.era5.grid_files import FINAL, PRELIMINARY, GridFile, open_grid_files
from timerxl.data.era5.streams import grid_members

HOURS = np.arange(48) + 24 * 18_000
RNG = np.random.default_rng(0)
FIELD = RNG.random((48, 2, 2))
ALL = slice(None)


def whole(file: GridFile, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(file.blocks(file.variables[index], ALL, ALL))
    return np.concatenate([b[1] for b in blocks]), np.concatenate([b[2] for b in blocks])


def test_new_layout(tmp_path: Path, write_era5: Callable[..., Path]) -> None:
    versions = ["0001"] * 40 + ["0005"] * 8
    path = write_era5(tmp_path / "a.nc", HOURS, {"t2m": FIELD}, expver=versions)
    with open_grid_files(path, "a.nc") as (file,):
        values, version = whole(file)
        np.testing.assert_array_equal(values, FIELD.astype(np.float32))
        assert version.tolist() == [FINAL] * 40 + [PRELIMINARY] * 8
        assert (file.seconds // 3600).tolist() == HOURS.tolist()
        assert file.latitude.tolist() == [1.0, 0.75]
        (variable,) = file.variables
        assert (variable.column, variable.unit, variable.step_type) == ("t2m", "K", "instant")


@pytest.mark.parametrize("numbers", [[1, 5], [5, 1]])
def test_old_layout_joins_the_two_halves(
    tmp_path: Path, write_era5: Callable[..., Path], numbers: list[int]
) -> None:
    halves = np.full((48, 2, 2, 2), np.nan)
    halves[:40, numbers.index(1)] = FIELD[:40]
    halves[36:, numbers.index(5)] = FIELD[36:] + 1  # four hours in both: the final ones count
    path = write_era5(
        tmp_path / "old.nc", HOURS, {"t2m": halves}, old=True, expver_dimension=numbers
    )
    assert path.read_bytes()[:3] == b"CDF"
    with open_grid_files(path, "old.nc") as (file,):
        values, version = whole(file)
        assert (file.seconds // 3600).tolist() == HOURS.tolist()
    expected = np.where(np.arange(48)[:, None, None] < 40, FIELD, FIELD + 1)
    np.testing.assert_allclose(values, expected, atol=2 / 65000)
    assert version.tolist() == [FINAL] * 40 + [PRELIMINARY] * 8


def test_blocks_are_whole_chunks(
    tmp_path: Path, write_era5: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_era5(tmp_path / "a.nc", HOURS, {"t2m": FIELD}, chunk=5)
    monkeypatch.setattr(grid_files, "_BLOCK_BYTES", 12 * 4 * 8)  # twelve times of four cells
    with open_grid_files(path, "a.nc") as (file,):
        blocks = [times for times, _, _ in file.blocks(file.variables[0], ALL, ALL)]
        assert [(b.start, b.stop) for b in blocks] == [
            (i, min(i + 10, 48)) for i in range(0, 48, 10)
        ]
        np.testing.assert_array_equal(whole(file)[0], FIELD.astype(np.float32))
        cut = next(file.blocks(file.variables[0], slice(1, 2), slice(0, 1)))[1]
        np.testing.assert_array_equal(cut[:, 0, 0], FIELD[: len(cut), 1, 0].astype(np.float32))


def test_levels_become_columns_and_ensembles_are_refused(tmp_path: Path) -> None:
    import xarray as xr

    for axis, sizes in (("pressure_level", [500.0, 850.0]), ("number", [0, 1])):
        coords: dict[str, Any] = {
            "valid_time": HOURS[:2].astype("datetime64[h]").astype("datetime64[ns]"),
            axis: sizes, "latitude": [1.0, 0.75], "longitude": [10.0, 10.25],
        }  # fmt: skip
        field = RNG.random((2, 2, 2, 2))
        data = {"q": (("valid_time", axis, "latitude", "longitude"), field)}
        xr.Dataset(data, coords).to_netcdf(tmp_path / f"{axis}.nc", engine="h5netcdf")
        if axis == "number":
            with pytest.raises(InputError, match=r"q has the further axis number.*reanalysis"):
                open_grid_files(tmp_path / "number.nc", "n").__enter__()
            continue
        with open_grid_files(tmp_path / f"{axis}.nc", "levels") as (file,):
            assert [v.column for v in file.variables] == ["q_500", "q_850"]
            np.testing.assert_array_equal(whole(file, 1)[0], field[:, 1])


def test_a_zip_is_unpacked_under_names_of_ours(
    tmp_path: Path, write_era5: Callable[..., Path]
) -> None:
    inner = write_era5(tmp_path / "a.nc", HOURS, {"t2m": FIELD})
    archive, folder = tmp_path / "data.nc", tmp_path / "x" / "y"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.write(inner, "../../evil.nc")
        file.write(inner, "/tmp/absolute_evil.nc")
        file.writestr("readme.txt", "no weather")
    labels = []
    for copy, label in grid_members(archive, folder):
        assert copy.parent == folder
        labels.append(label)
        with open_grid_files(copy, label) as (opened,):
            np.testing.assert_array_equal(whole(opened)[0], FIELD.astype(np.float32))
    assert labels == ["data.nc:evil.nc", "data.nc:absolute_evil.nc"]
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(folder.iterdir())


def open_all(path: Path, folder: Path) -> None:
    for copy, label in grid_members(path, folder):
        open_grid_files(copy, label).__enter__()


def test_what_is_no_era5_file(tmp_path: Path, write_era5: Callable[..., Path]) -> None:
    good = write_era5(tmp_path / "good.nc", HOURS, {"t2m": FIELD}).read_bytes()
    cases = {
        "text.nc": (b"<html>login</html>", "is no NetCDF file"),
        "empty.nc": (b"", "is no NetCDF file"),
        "cut.nc": (good[:4000], "can't be opened as NetCDF"),
        "grib.nc": (b"GRIB\x00\x00\x00\x02", "can't be opened as GRIB"),
        "cut.zip": (b"PK\x03\x04" + b"\x00" * 50, "can't be unpacked"),
    }
    for name, (content, words) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            open_all(path, tmp_path)
        assert name in str(caught.value)
