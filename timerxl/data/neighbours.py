"""Which regions are near each other, by distance or by their rain, and their rows at one time.

R rows of a series, G regions, n training rows, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from timerxl.untrusted import Between, Text, check_memory, schema_error

_LATITUDE, _LONGITUDE = Between(-90.0, 90.0), Between(-540.0, 540.0)
# Of series.json: what launch/prepare_data.py averaged over.
_PLACES = [
    (
        {"name": Text(1_000), "point": {"latitude": _LATITUDE, "longitude": _LONGITUDE}},
        {
            "name": Text(1_000),
            "box": {
                "north": _LATITUDE,
                "south": _LATITUDE,
                "west": _LONGITUDE,
                "east": _LONGITUDE,
            },
        },
    )
]


def nearest_by_rain(
    region_index: NDArray[np.int64],
    timestamps: NDArray[np.datetime64],
    label: NDArray[np.float64],
    rows: NDArray[np.int64],
    num_regions: int,
) -> NDArray[np.int64]:
    """Return [G, G - 1]: for each region the others, the most alike in rain first.

    Alike are regions whose labels (0 or 1) at the training ``rows`` [n] correlate; without a
    correlation, for want of common times or of rain, a region comes last. Equals stand in the order
    of the regions.
    """
    times, place = np.unique(timestamps[rows], return_inverse=True)
    size = 8 * num_regions * (2 * len(times) + 8 * num_regions)
    check_memory(size, f"how alike the rain of {num_regions:,} regions is")
    known = np.zeros((len(times), num_regions))
    rain = np.zeros((len(times), num_regions))
    known[place, region_index[rows]] = 1.0
    rain[place, region_index[rows]] = label[rows]
    # Of labels 0 and 1 these sums are whole numbers, so that equal correlations are equal.
    count, both, wet = known.T @ known, rain.T @ rain, rain.T @ known
    shared = count * both - wet * wet.T
    spread = count * wet - wet * wet
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = shared / np.sqrt(spread * spread.T)
    return _ordered(-np.where(np.isfinite(alike), alike, -np.inf))


def nearest_by_distance(prepared: Any, regions: list[str]) -> NDArray[np.int64] | None:
    """Return [G, G - 1]: for each region the others, the nearest first; None where series.json
    (``prepared``) does not tell where each of ``regions`` lies.

    Nearest by great circle between points, or the centres of boxes. Equals stand in the order of
    the regions.
    """
    if schema_error(prepared, {"regions": _PLACES}) is not None:
        return None
    places: dict[str, tuple[float, float]] = {}
    for one in prepared["regions"]:
        if "point" in one:
            places[one["name"]] = one["point"]["latitude"], one["point"]["longitude"]
        else:
            box = one["box"]
            width = box["east"] - box["west"]
            width = width if width >= 0 else width % 360  # across the date line
            places[one["name"]] = (box["north"] + box["south"]) / 2, box["west"] + width / 2
    if not set(regions) <= set(places):
        return None
    latitude, longitude = np.deg2rad(np.array([places[name] for name in regions])).T
    # Haversine, as a share of the Earth's radius; rounded to a metre, so that equals are equal.
    half = np.sin((latitude - latitude[:, None]) / 2) ** 2 + np.cos(latitude) * np.cos(
        latitude[:, None]
    ) * (np.sin((longitude - longitude[:, None]) / 2) ** 2)
    angle = 2 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    return _ordered(np.round(angle, 7))


def _ordered(far: NDArray[np.float64]) -> NDArray[np.int64]:
    """[G, G - 1]: the columns of each row but its own, ascending; equals in their order."""
    order = np.argsort(far, axis=1, kind="stable")
    own = order == np.arange(len(far))[:, None]
    return order[~own].reshape(len(far), -1).astype(np.int64)


def neighbour_rows(
    region_index: NDArray[np.int64],
    timestamps: NDArray[np.datetime64],
    neighbours: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return [R, K]: the rows of each row's ``neighbours`` [G, K] at the same time, in their order;
    -1 where one has no row at that time, or for a row of no known region (index -1)."""
    times, place = np.unique(timestamps, return_inverse=True)
    row_at = np.full((len(times), len(neighbours)), -1, dtype=np.int64)
    known = np.flatnonzero(region_index >= 0)
    row_at[place[known], region_index[known]] = known
    beside = row_at[place[:, None], neighbours[region_index]]
    beside[region_index < 0] = -1
    return beside


def region_places(names: list[str], known: list[str]) -> NDArray[np.int64]:
    """Return int64 [len(names)]: where each name stands among ``known``; -1 where it does not."""
    place = {name: index for index, name in enumerate(known)}
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)
