"""Regions as boxes or points on a grid of latitude and longitude, and their area means.

Shapes: T times, Y latitudes, X longitudes, G regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.untrusted import Between, check_memory, read_yaml, schema_error

_EPSILON = 1e-6  # degrees, about 0.1 m: coordinates are stored as rounded binary numbers
_BOX, _POINT = ("north", "south", "west", "east"), ("latitude", "longitude")


@dataclass(frozen=True)
class Region:
    """A box (edges included) or a point, in degrees; longitudes in either convention."""

    name: str
    north: float
    south: float
    west: float
    east: float
    is_point: bool = False

    @property
    def width(self) -> float:
        """Degrees from west to east, at most 360."""
        width = min(self.east - self.west, 360)
        return width if width >= 0 else width % 360

    def describe(self) -> dict[str, Any]:
        """Return as it stands in series.json."""
        if self.is_point:
            return {"point": {"latitude": self.north, "longitude": self.west}}
        return {"box": {key: getattr(self, key) for key in _BOX}}


def load_regions(path: Path) -> list[Region]:
    """Read ``regions: {name: {north, south, west, east} or {latitude, longitude}}``.

    A box whose west is greater than its east crosses the date line (or, with longitudes from 0 to
    360, the meridian of Greenwich). Raises InputError naming the file and the region.
    """
    try:
        content = read_yaml(path)
    except InputError as error:
        raise InputError(f"--regions {error}") from error
    found = content.get("regions") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f"--regions {path} holds no mapping 'regions' of names to boxes.")
    return [
        _region(f"--regions {path}: region {name}", str(name), of) for name, of in found.items()
    ]


def _region(label: str, name: str, value: Any) -> Region:
    keys = set(value) if isinstance(value, dict) else set()
    if keys not in (set(_BOX), set(_POINT)):
        raise InputError(
            f"{label} has the keys {sorted(map(str, keys)) or value!r}; expected "
            f"{', '.join(_BOX)}, or {' and '.join(_POINT)} for a point."
        )
    for key, number in value.items():
        limit = 90 if key in ("north", "south", "latitude") else 360
        if schema_error(number, Between(-limit, limit)):
            raise InputError(
                f"{label} has {key} {number!r}; expected degrees between {-limit} and {limit}."
            )
    if keys == set(_POINT):
        latitude, longitude = float(value["latitude"]), float(value["longitude"])
        return Region(name, latitude, latitude, longitude, longitude, is_point=True)
    if value["south"] > value["north"]:
        raise InputError(
            f"{label} has south {value['south']} above north {value['north']}; exchange them."
        )
    north, south, west, east = (float(value[key]) for key in _BOX)
    return Region(name, north, south, west, east)


@dataclass(frozen=True)
class GridMeans:
    """The cells of each region on one grid: what to cut from a field, and the weights in it.

    ``rows`` and ``columns`` cut latitude and longitude to the cells that any region needs;
    ``weights`` [G, y, x] are cos(latitude) in a region's cells and 0 elsewhere; ``cells`` [G].
    """

    rows: slice
    columns: slice
    weights: np.ndarray
    cells: list[int]

    def means(self, field: np.ndarray) -> np.ndarray:
        """Return [t, y, x] (already cut) to area means [G, t] float64; NaN cells leave the weights.

        mean = sum(w x) / sum(w) over the cells with a value, w = cos(latitude): on a regular grid
        the area of a cell is proportional to it. NaN where no cell has a value.
        """
        flat = field.reshape(len(field), -1)
        total = np.empty((len(self.weights), len(flat)))
        for region, weights in enumerate(self.weights):
            used = np.flatnonzero(weights)
            own = flat[:, used].astype(np.float64)
            weight = weights.ravel()[used]
            known = ~np.isnan(own)
            if known.all():
                total[region] = own @ (weight / weight.sum())
                continue
            share = known @ weight
            # A cell that enters or leaves (the edge of the sea) changes the weights of its time.
            with np.errstate(invalid="ignore"):
                total[region] = (np.where(known, own, 0.0) @ weight) / share
        return total

    def known_weights(self, field: np.ndarray) -> np.ndarray:
        """Return [t, y, x] to [G, t]: the share of a region's weight in the cells with a value."""
        known = ~np.isnan(field.reshape(len(field), -1))
        weights = self.weights.reshape(len(self.weights), -1)
        return (known @ weights.T / weights.sum(axis=1)).T


_POINT_DEGREES = 0.25  # a point takes a station at most so far away, as one cell of ERA5


def grid_means(
    regions: list[Region], latitude: np.ndarray, longitude: np.ndarray, label: str
) -> GridMeans:
    """Find the cells of every region on the grid of the file called ``label``.

    A cell belongs to a box when its centre lies in it; a point takes the nearest cell, at most one
    grid step away. Raises InputError where a box holds no cell or reaches beyond the file, or a
    point is too far, naming the region and the file's extent.
    """
    cells = len(regions) * len(latitude) * len(longitude)
    check_memory(10 * cells, f"{label}: the cells of {len(regions)} regions")
    grid = _Grid(latitude, longitude, label)
    masks = np.array([grid.cells_of(region) for region in regions])
    # A file from 0 to 360 degrees holds one meridian twice: it counts once.
    twice = np.ones(len(longitude), dtype=bool)
    twice[np.unique(np.round(longitude % 360, 6) % 360, return_index=True)[1]] = False
    masks &= ~twice
    used = np.logical_or.reduce(masks)
    rows, columns = _hull(used.any(axis=1)), _hull(used.any(axis=0))
    weights = np.cos(np.deg2rad(latitude))[:, None] * masks
    return GridMeans(rows, columns, weights[:, rows, columns], [int(mask.sum()) for mask in masks])


def point_means(
    regions: list[Region], latitude: np.ndarray, longitude: np.ndarray, label: str
) -> GridMeans:
    """Find the points (stations, single cells) of every region: ``latitude``, ``longitude`` [P].

    A box takes the points in it, each with the same weight; a point takes the nearest one, at most
    0.25 degrees away. Fields are [t, 1, P]. Raises InputError where a region gets no point.
    """
    size = 10 * len(regions) * len(latitude)
    check_memory(size, f"{label}: the points of {len(regions)} regions")
    masks = []
    for region in regions:
        if region.is_point:
            far = np.maximum(*_distances(region, latitude, longitude))
            mask = np.arange(len(far)) == int(np.argmin(far))
            mask &= far <= _POINT_DEGREES + _EPSILON
        else:
            mask = np.logical_and(*_inside(region, latitude, longitude))
        if not mask.any():
            places = [f"{y:g} {x:g}" for y, x in zip(latitude, longitude, strict=True)]
            more = ", ..." if len(places) > 5 else ""
            raise InputError(
                f"region {region.name} holds no point of {label}, whose {len(places)} lie at "
                f"(latitude longitude) {', '.join(places[:5])}{more}; give them as points or boxes "
                "around them (--regions)."
            )
        masks.append(mask)
    weights = np.array(masks, dtype=np.float64)[:, None, :]
    counts = [int(mask.sum()) for mask in masks]
    return GridMeans(slice(0, 1), slice(0, len(latitude)), weights, counts)


def _inside(
    box: Region, latitude: np.ndarray, longitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which latitudes and which longitudes lie in a box.

    Longitudes are compared as distances eastwards, so both conventions mean the same.
    """
    east = (longitude - box.west + _EPSILON) % 360 - _EPSILON
    rows = (latitude <= box.north + _EPSILON) & (latitude >= box.south - _EPSILON)
    return rows, east <= box.width + _EPSILON


def _distances(
    point: Region, latitude: np.ndarray, longitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Degrees from a point, in latitude and in longitude."""
    return np.abs(latitude - point.north), np.abs((longitude - point.west + 180) % 360 - 180)


def _hull(used: np.ndarray) -> slice:
    places = np.flatnonzero(used)
    return slice(int(places[0]), int(places[-1]) + 1)


class _Grid:
    """A file's grid of cells ``dlat`` x ``dlon`` degrees apart, and where it ends."""

    def __init__(self, latitude: np.ndarray, longitude: np.ndarray, label: str) -> None:
        self.latitude, self.longitude = latitude, longitude
        # The usual distance of neighbours; ERA5's own where there is one cell only.
        self.dlat, self.dlon = (
            float(np.median(np.abs(np.diff(axis)))) if len(axis) > 1 else 0.25
            for axis in (latitude, longitude)
        )
        around = np.unique(np.round(longitude % 360, 6))
        gaps = np.diff(np.append(around, around[0] + 360))
        # The file starts east of its largest hole; a file around the globe has none.
        self.first = float(around[(int(np.argmax(gaps)) + 1) % len(around)])
        self.span = 360 - float(gaps.max())
        self.is_global = bool(gaps.max() <= self.dlon + _EPSILON) and len(around) > 1
        west = self.first if self.first <= 180 else self.first - 360
        self.extent = (
            f"{label} covers latitude {latitude.min():g} to {latitude.max():g} and "
            f"longitude {west:g} to {west + self.span:g} "
            f"({len(latitude)} x {len(longitude)} cells of {self.dlat:g} x {self.dlon:g} degrees)"
        )

    def cells_of(self, region: Region) -> np.ndarray:
        """[Y, X] bool: the cells in a box, or the one nearest to a point."""
        if region.is_point:
            north, east = _distances(region, self.latitude, self.longitude)
            if north.min() > self.dlat + _EPSILON or east.min() > self.dlon + _EPSILON:
                raise InputError(
                    f"region {region.name} (latitude {region.north:g}, longitude {region.west:g}) "
                    f"is more than one grid step from the nearest cell: {self.extent}."
                )
            places = np.arange(north.size) == north.argmin(), np.arange(east.size) == east.argmin()
            return np.logical_and.outer(*places)
        mask: np.ndarray = np.logical_and.outer(*_inside(region, self.latitude, self.longitude))
        beyond = self._beyond(region)
        if beyond or not mask.any():
            reason = f"reaches beyond the file in the {beyond}" if beyond else "holds no cell"
            edges = ", ".join(f"{key} {getattr(region, key):g}" for key in _BOX)
            raise InputError(f"region {region.name} ({edges}) {reason}: {self.extent}.")
        return mask

    def _beyond(self, box: Region) -> str:
        """The side on which a cell of the box would lie outside the file; "" if there is none."""
        if box.north >= self.latitude.max() + self.dlat - _EPSILON:
            return "north"
        if box.south <= self.latitude.min() - self.dlat + _EPSILON:
            return "south"
        if self.is_global:
            return ""
        # One step of room: a box may begin between the last cell outside and the first inside.
        room = self.dlon - _EPSILON
        start = (box.west - self.first + room) % 360 - room
        if start > self.span + room:
            return "west"
        return "east" if start + box.width >= self.span + room else ""
