"""Regions that are one place: pairs whose series are the same, always or for a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject, listed
from timerxl.data.series import WeatherSeries

_SAME_SHARE = 0.99  # of the values that say anything: above it two regions share a column
_LIKELY_SHARE = 0.95  # in the sample, before all times are compared
_MIN_TELLING = 12  # values below which a share of equal ones is not formed
_BLOCKS, _TIMES_PER_BLOCK = 48, 120
_MAX_CUBE = 6_000_000  # values of the sample over all regions
_SEVERAL = 3  # columns that change together from apart to equal
_LABEL_RAIN = "the precipitation of the label"


def check_regions(subject: Subject, audit: Audit) -> None:
    """Pairs of regions whose columns are the same series, or nearly (more than 99 % equal).

    Equal is exact. Values that are missing or the commonest of their column in both regions are
    not counted: two dry places agree on most zeros of rain, which says nothing. The span is
    compared whole and in up to 48 stretches, since stations are merged and filled for a time.
    """
    series = subject.series
    if len(series.regions) < 2:
        audit.skip("identical regions", "there is one region.")
        return
    if len(series.regions) > MOST_REGIONS:
        audit.skip(
            "identical regions",
            f"there are {len(series.regions):,} regions; pairs of at most {MOST_REGIONS:,} are "
            "compared.",
        )
        return
    names, columns = list(series.feature_names), series.values
    if series.precipitation_mm is not None and series.precipitation_feature is None:
        names = [*names, _LABEL_RAIN]
        rain = series.precipitation_mm.astype(np.float32)[:, None]
        columns = np.concatenate([columns, rain], axis=1)
    times = np.unique(series.timestamps)
    blocks = int(np.clip(len(times) // 50, 1, _BLOCKS))
    cube = _cube(series, columns, times, blocks)
    usual = _commonest(columns)
    # Calendar columns and indices such as ONI are one for all regions, and rightly so.
    shared = _everywhere_equal(cube)
    if shared.all() or len(series.regions) == 2:
        shared &= _of_the_calendar(names)
    pairs = []
    rows_of = series.rows_of_regions()
    for index in range(len(series.regions) - 1):
        share = _share_equal(cube[index], cube[index + 1 :], usual)
        likely = ((share >= _LIKELY_SHARE) & ~shared).any(axis=(1, 2))
        for other in index + 1 + np.flatnonzero(likely):
            pair = _compare(series, columns, names, (index, int(other)), rows_of, usual, shared)
            pairs += [pair] if pair else []
    audit.facts["identical_regions"] = pairs
    _report(audit, pairs, int((~shared).sum()))


def _cube(series: WeatherSeries, columns: np.ndarray, times: np.ndarray, blocks: int) -> np.ndarray:
    """[G, B, S, K] values at S sampled times of each block; NaN where a region has no such row."""
    regions, width = len(series.regions), columns.shape[1]
    each = int(np.clip(_MAX_CUBE // (regions * width * blocks), 20, _TIMES_PER_BLOCK))
    picked = np.linspace(0, len(times) - 1, min(blocks * each, len(times)) // blocks * blocks)
    sampled = times[picked.astype(np.int64)]
    cube = np.full((regions, len(sampled), width), np.nan, dtype=np.float32)
    position = np.minimum(np.searchsorted(sampled, series.timestamps), len(sampled) - 1)
    hit = sampled[position] == series.timestamps
    cube[series.region_index[hit], position[hit]] = columns[hit]
    return cube.reshape(regions, blocks, -1, width)


def _telling(
    one: np.ndarray, other: np.ndarray, usual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(counted, equal) of the shape of the values, both bool."""
    quiet_one, quiet_other = np.isnan(one) | (one == usual), np.isnan(other) | (other == usual)
    counted = ~(quiet_one & quiet_other)
    return counted, (one == other) & counted


def _ratio(equal: np.ndarray, counted: np.ndarray) -> np.ndarray:
    enough = counted >= _MIN_TELLING
    return np.where(enough, equal / np.maximum(counted, 1), np.nan)


def _share_equal(one: np.ndarray, other: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """[..., B, K] share of equal values over the times of a block; NaN where few say anything."""
    counted, equal = _telling(one, other, usual)
    return _ratio(equal.sum(axis=-2), counted.sum(axis=-2))


def _commonest(columns: np.ndarray) -> np.ndarray:
    """[K] the most frequent value of each column in a sample of its rows."""
    found = []
    for column in columns[:: max(1, len(columns) // 20_000)].T:
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        found.append(values[np.argmax(counts)] if values.size else np.nan)
    return np.array(found, dtype=np.float32)


def _everywhere_equal(cube: np.ndarray) -> np.ndarray:
    """[K] bool: columns that hold one value for all regions at each time."""
    known = np.where(np.isnan(cube), -np.inf, cube).max(axis=0)
    same: np.ndarray = (np.isnan(cube) | (cube == known)).all(axis=(0, 1, 2))
    return same


def _of_the_calendar(names: list[str]) -> np.ndarray:
    """[K] bool: columns whose names say that they are one for all places."""
    words = ("sin", "cos", "hour", "day", "month", "year", "season", "oni", "enso", "index")
    return np.array([any(word in name.lower().split("_") for word in words) for name in names])


def _compare(
    series: WeatherSeries,
    columns: np.ndarray,
    names: list[str],
    pair: tuple[int, int],
    rows_of: list[np.ndarray],
    usual: np.ndarray,
    shared: np.ndarray,
) -> dict[str, Any] | None:
    """What two regions have in common over all their common times, and over stretches of them."""
    rows = [rows_of[index] for index in pair]
    times, first, second = np.intersect1d(
        series.timestamps[rows[0]],
        series.timestamps[rows[1]],
        assume_unique=True,
        return_indices=True,
    )
    counted, equal = _telling(columns[rows[0][first]], columns[rows[1][second]], usual)
    blocks = int(np.clip(len(times) // 50, 1, _BLOCKS))
    starts = np.arange(blocks) * len(times) // blocks
    counts, equals = (np.add.reduceat(a, starts, axis=0, dtype=np.int64) for a in (counted, equal))
    share = _ratio(equals.sum(axis=0), counts.sum(axis=0))
    whole = (share > _SAME_SHARE) & ~shared
    found: dict[str, Any] = {
        "regions": [series.regions[index] for index in pair],
        "common_times": len(times),
        "identical_columns": [names[k] for k in np.flatnonzero(whole & (share == 1))],
        "nearly_identical_columns": {
            names[k]: float(share[k]) for k in np.flatnonzero(whole & (share < 1))
        },
        "stretches": [],
    }
    rain = _rain_column(names, series.precipitation_feature)
    found["is_whole"] = bool(whole[rain].any() or whole.sum() > (~shared).sum() / 2)
    if not found["is_whole"]:
        same = (_ratio(equals, counts) > _SAME_SHARE) & ~shared & ~whole
        found["stretches"] = _stretches(same, rain, names, times, starts)
    return found if whole.any() or found["stretches"] else None


def _rain_column(names: list[str], precipitation: str | None) -> list[int]:
    return [k for k, name in enumerate(names) if name in (precipitation, _LABEL_RAIN)]


def _stretches(
    same: np.ndarray, rain: list[int], names: list[str], times: np.ndarray, starts: np.ndarray
) -> list[dict[str, Any]]:
    """Runs of blocks [B, K] in which rain, or several columns at once, are the same."""
    is_same = (same.sum(axis=1) >= _SEVERAL) | (same[:, rain].any(axis=1))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_same.astype(np.int8), [0]])))
    ends = np.append(starts[1:], len(times)) - 1
    return [
        {
            "first": str(times[starts[low]]),
            "last": str(times[ends[high - 1]]),
            "share_of_span": float((ends[high - 1] + 1 - starts[low]) / len(times)),
            "columns": [names[k] for k in np.flatnonzero(same[low:high].mean(axis=0) > 0.5)],
        }
        for low, high in edges.reshape(-1, 2)
    ]


def _report(audit: Audit, pairs: list[dict[str, Any]], compared: int) -> None:
    copies = [pair for pair in pairs if pair["is_whole"]]
    for_a_time = sorted((pair for pair in pairs if pair["stretches"]), key=_longest, reverse=True)
    partly = [pair for pair in pairs if not pair["is_whole"] and not pair["stretches"]]
    if copies:
        audit.find(
            "fault",
            "identical_regions",
            f"regions share one series: {_counted(copies, compared)}.",
            "They count as several places and are one. Held-out regions are then known from "
            "training, and scores look surer than they are.",
            "Keep one region of each pair, or find where the series were mixed up.",
            pairs=copies,
        )
    if for_a_time:
        audit.find(
            "warning",
            "regions_identical_for_a_time",
            "regions share one series for a time: "
            + listed([_dated(pair) for pair in for_a_time], 4)
            + ".",
            "In those months they are one place. Their windows count several times, and a region "
            "held out is known from another.",
            "Keep one region of each pair there, and read scores with the effective number of "
            "samples.",
            pairs=for_a_time,
        )
    if partly:
        audit.find(
            "note",
            "regions_share_columns",
            f"regions share some columns: {_counted(partly, compared)}.",
            "Usual for a regional index or one grid cell; not for measured weather.",
            "Check that these columns are meant to be the same.",
            pairs=partly,
        )


def _counted(pairs: list[dict[str, Any]], compared: int) -> str:
    found = []
    for pair in pairs:
        same = len(pair["identical_columns"]) + len(pair["nearly_identical_columns"])
        found.append(f"{' = '.join(pair['regions'])} ({same} of {compared} columns)")
    return listed(found, 4)


def _longest(pair: dict[str, Any]) -> float:
    return max(float(stretch["share_of_span"]) for stretch in pair["stretches"])


def _dated(pair: dict[str, Any]) -> str:
    longest = max(pair["stretches"], key=lambda stretch: stretch["share_of_span"])
    return (
        f"{' = '.join(pair['regions'])} about {longest['first'][:10]} to {longest['last'][:10]} "
        f"({longest['share_of_span']:.0%} of the span; {listed(longest['columns'], 3)})"
    )
