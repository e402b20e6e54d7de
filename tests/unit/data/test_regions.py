"""Boxes and points on grids of either convention, and their area means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.era5.regions import Region, grid_means, load_regions
from timerxl.data.synthetic import REGIONS

PERU = Path(__file__).resolve().parents[3] / "launch" / "regions" / "peru.yaml"
LATITUDE, LONGITUDE = np.arange(20.0, 14.9, -0.25), np.arange(77.0, 82.1, 0.25)


def naive_mean(field: np.ndarray, latitude: np.ndarray, inside: np.ndarray) -> list[float]:
    found = []
    for image in field:
        total = weight = 0.0
        for y in range(len(latitude)):
            for x in range(image.shape[1]):
                if inside[y, x] and not np.isnan(image[y, x]):
                    w = np.cos(latitude[y] * np.pi / 180)
                    total, weight = total + w * image[y, x], weight + w
        found.append(total / weight if weight else np.nan)
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, -360, 360])
def test_area_mean_against_a_naive_loop(flip: bool, shift: int) -> None:
    """Either order of latitude, the box 360 degrees away, and sea cells that leave the weights."""
    latitude = LATITUDE[::-1] if flip else LATITUDE
    box = Region("a", 18.0, 15.5, 78.0 + shift, 79.3 + shift)
    field = np.random.default_rng(1).random((4, 21, 21))
    field[1:, 3:12, 5:7] = np.nan
    field[3] = np.nan
    grid = grid_means([box], latitude, LONGITUDE, "file")
    inside = ((latitude <= 18) & (latitude >= 15.5))[:, None] & (
        (LONGITUDE >= 78) & (LONGITUDE <= 79.3)
    )
    assert grid.cells == [int(inside.sum())] == [11 * 6]
    means = grid.means(field[:, grid.rows, grid.columns])
    np.testing.assert_allclose(means[0], naive_mean(field, latitude, inside), rtol=1e-12)


def cells_of(box: Region, longitude: np.ndarray) -> list[float]:
    grid = grid_means([box], np.array([1.0, 0.0, -1.0]), longitude, "file")
    used = grid.weights[0].any(axis=0)
    return sorted(float(x) for x in longitude[grid.columns][used])


def test_boxes_across_the_date_line_and_greenwich() -> None:
    around, signed = np.arange(0.0, 360.0, 1.0), np.arange(-180.0, 180.0, 1.0)
    date_line = [Region("fiji", 0, 0, 178, -179), Region("fiji", 0, 0, -182, -179)]
    assert cells_of(date_line[0], around) == [178, 179, 180, 181]
    assert cells_of(date_line[0], signed) == [-180, -179, 178, 179]
    assert cells_of(date_line[1], signed) == [-180, -179, 178, 179]
    greenwich = [Region("ghana", 0, 0, -2, 1), Region("ghana", 0, 0, 358, 1)]
    for box in greenwich:
        assert cells_of(box, around) == [0, 1, 358, 359]
        assert cells_of(box, signed) == [-2, -1, 0, 1]
    # A file that itself crosses 0, delivered with longitudes from 0 to 360.
    assert cells_of(greenwich[0], np.array([357.0, 358.0, 359.0, 0.0, 1.0, 2.0])) == [
        0,
        1,
        358,
        359,
    ]
    assert len(cells_of(Region("all", 0, 0, -180, 180), around)) == 360


def test_peru_in_both_conventions() -> None:
    regions = load_regions(PERU)
    assert tuple(region.name for region in regions) == REGIONS
    latitude = np.arange(0.0, -18.6, -0.25)
    west, east = np.arange(-82.0, -67.9, 0.25), np.arange(278.0, 292.1, 0.25)
    here, there = (grid_means(regions, latitude, axis, "f") for axis in (west, east))
    assert here.cells == there.cells
    assert min(here.cells) >= 60
    np.testing.assert_array_equal(here.weights, there.weights)
    assert (here.weights > 0).sum(axis=0).max() == 1  # the five boxes share no cell


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (Region("far", -4, -8, -81, -79), r"region far .* beyond the file in the south.*15 to 20"),
        (Region("high", 21, 16, 78, 79), r"region high .*beyond the file in the north"),
        (Region("west", 18, 16, 70, 79), r"beyond the file in the west.*longitude 77 to 82"),
        (Region("east", 18, 16, 80, 83), r"beyond the file in the east"),
        (Region("none", 18, 16, -80, -79), r"beyond the file in the west"),
        (Region("slit", 18.2, 18.1, 78, 79), r"region slit .* holds no cell"),
        (Region("dot", 22, 22, 78, 78, True), r"region dot .*more than one grid step"),
    ],
)
def test_a_region_outside_names_the_extent(box: Region, words: str) -> None:
    with pytest.raises(InputError, match=words):
        grid_means([box], LATITUDE, LONGITUDE, "file.nc")


def test_a_box_may_end_between_the_last_cell_and_the_next() -> None:
    box = Region("edge", 20.2, 14.8, 76.8, 82.2)
    assert grid_means([box], LATITUDE, LONGITUDE, "file").cells == [441]


def test_a_point_takes_the_nearest_cell() -> None:
    point = Region("city", 17.4, 17.4, 78.5 - 360, 78.5 - 360, True)
    grid = grid_means([point], LATITUDE, LONGITUDE, "file")
    assert grid.cells == [1]
    assert LATITUDE[grid.rows].tolist() == [17.5]
    assert LONGITUDE[grid.columns].tolist() == [78.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("regions: {}", "holds no mapping"),
        ("- a", "holds no mapping"),
        ("regions: {a: {north: 1, south: 0}}", r"region a has the keys \['north', 'south'\]"),
        ("regions: {a: {north: 0, south: 1, west: 0, east: 1}}", "south 1 above north 0"),
        ("regions: {a: {latitude: 91, longitude: 0}}", "latitude 91; expected degrees"),
        ("regions: {a: {latitude: .nan, longitude: 0}}", "latitude nan"),
        ("regions: {a: [1", "can't be read as YAML"),
    ],
)
def test_a_bad_file_of_regions(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_regions(tmp_path / "r.yaml")
