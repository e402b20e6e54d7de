"""Checks of windows: context, cut by rows, independent samples, regions that are one place."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject
from timerxl.data.preprocessing import SPLITS
from timerxl.data.series import WeatherSeries
from timerxl.untrusted import listed

_LONG_CONTEXT_DAYS = 180.0
_DAY = np.timedelta64(1, "D")


def check_context(subject: Subject, audit: Audit) -> None:
    """Report real days of the context beside what it would be if a step were an hour."""
    series, steps = subject.series, subject.context_length
    rows = np.arange(steps - 1, len(series.timestamps))
    rows = rows[series.region_index[rows] == series.region_index[rows - steps + 1]]
    spans = series.timestamps[rows] - series.timestamps[rows - steps + 1]
    days = (
        float(np.median(spans / _DAY)) if rows.size else (steps - 1) * series.step_hours / 24
    ) + (series.step_hours / 24)
    believed = steps / 24
    audit.facts["context"] = {
        "steps": steps,
        "step_hours": series.step_hours,
        "days": days,
        "days_if_hourly": believed,
        "from": subject.context_reason,
    }
    if series.step_hours == 1:
        return
    audit.find(
        "fault" if days > _LONG_CONTEXT_DAYS and series.step_hours > 1 else "note",
        "context_is_not_in_hours",
        f"the step is {series.step_hours:g} h: {steps} steps of {series.step_hours:g} h = "
        f"{days:g} days, not {believed:g}.",
        "Days of context come from the time stamps. Steps read as hours give a context of another "
        "length than meant, and the first windows of every region are spent on it.",
        f"For {believed:g} days take model.context_length={believed * 24 / series.step_hours:g} "
        "(a multiple of model.patch_length, which is in steps too), or bring hourly data.",
        steps=steps,
        step_hours=series.step_hours,
        days=days,
        days_if_hourly=believed,
    )


def check_windows(subject: Subject, audit: Audit) -> None:
    """Report windows per split, and the reason as a fault where they can't be built."""
    for reason in subject.refusals:
        audit.find(
            "fault",
            "windows_refused",
            f"training would refuse this series: {reason}",
            "The rest of this audit holds all the same.",
            "See the message itself.",
            reason=reason,
        )
    if subject.rows:
        audit.facts["windows"] = {name: len(subject.rows[name]) for name in SPLITS}
        audit.facts["split"] = {"by": subject.data.split, **subject.split_method}


def check_split_by_rows(subject: Subject, audit: Audit) -> None:
    """Report all that ``data.split=rows`` does wrong with a table stacked region after region."""
    if subject.data.split != "rows":
        return
    if not subject.rows:
        audit.skip("split by rows", "the rows could not be cut: see the fault windows_refused.")
        return
    series, steps = subject.series, subject.context_length
    num_rows: dict[str, int] = subject.split_method["num_rows"]
    bounds = np.concatenate([[0], np.cumsum([num_rows[name] for name in SPLITS])])
    of_split: dict[str, dict[str, int]] = {}
    across, into, shares = dict[str, int](), dict[str, int](), dict[str, float | None]()
    for name, low, high in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        counts = np.bincount(series.region_index[low:high], minlength=len(series.regions))
        of_split[name] = {series.regions[k]: int(counts[k]) for k in np.flatnonzero(counts)}
        rows = subject.rows[name]
        first = rows - steps + 1
        across[name] = int((series.region_index[rows] != series.region_index[first]).sum())
        if name != SPLITS[0]:
            into[name] = int((first < low).sum())
        known = subject.label is not None and rows.size
        shares[name] = float(subject.label[rows].mean()) if known else None  # type: ignore[index]
    is_listed = len(series.regions) <= MOST_REGIONS
    if not is_listed:
        audit.skip("split by rows, rows of each region", "there are too many regions to list.")
    unseen = [region for region in series.regions if region not in of_split["train"]]
    windows = {name: len(subject.rows[name]) for name in SPLITS}
    total, crossing = sum(windows.values()), sum(across.values())
    cut = " / ".join(f"{num_rows[name]:,}" for name in SPLITS)
    facts: dict[str, Any] = {
        "rows": len(series.timestamps),
        "num_rows": num_rows,
        "regions": of_split if is_listed else {},
        "regions_unseen_in_training": unseen[:MOST_REGIONS],
        "windows": windows,
        "windows_across_regions": across,
        "windows_reaching_into_the_split_before": into,
        "rain_share": shares,
    }
    audit.facts["split_by_rows"] = facts
    if len(series.regions) == 1:
        audit.find(
            "warning",
            "split_by_rows_without_embargo",
            f"data.split=rows leaves no embargo: {cut} rows of one region, and "
            f"{sum(into.values()):,} validation and test windows reach into the split before.",
            "The labels of the last training rows are rain of the validation times.",
            "data.split=time leaves one horizon between two splits.",
            **facts,
        )
        return
    held = "; ".join(f"{name}: {listed(list(of_split[name]))}" for name in SPLITS)
    in_words = ", ".join(
        f"{name} {share:.0%}" for name, share in shares.items() if share is not None
    )
    audit.find(
        "fault",
        "split_by_rows_is_by_region",
        f"data.split=rows cuts by region, not by time: {len(series.timestamps):,} stacked rows -> "
        f"{cut}; {held}; training never sees {listed(unseen) or 'part of the last region'}.",
        f"{crossing:,} of {total:,} windows ({crossing / total:.0%}) run across two regions, "
        f"{sum(into.values()):,} validation and test windows reach into the split before. Class "
        f"shares ({in_words}) differ because the places do, which "
        "reads as overfitting.",
        "data.split=time cuts all regions at the same two times and leaves an embargo between.",
        **facts,
    )


_FORMULA = (
    "n_eff = n (1 - r1) / (1 + r1) per region (AR(1) approximation, Wilks 2011, section 5.2.4), "
    "times G_eff / G with G_eff = G^2 / sum(r_ij^2) from the correlation of the labels of G "
    "regions (Bretherton et al. 1999)"
)


def lag_one_correlation(label: np.ndarray, follows: np.ndarray) -> float:
    """Return r1 of a 0/1 sequence [N]; ``follows`` [N] bool: the entry is next to the one before.

    Pairs across a gap are left out. 0 for a constant sequence or without pairs.
    """
    centred = label - label.mean()
    variance = float((centred**2).mean())
    pairs = follows[1:]
    if variance == 0 or not pairs.any():
        return 0.0
    return float((centred[1:] * centred[:-1])[pairs].mean()) / variance


def effective_size(count: int, r1: float) -> float:
    """Return n (1 - r1) / (1 + r1), at least 1 and at most n (Wilks 2011, section 5.2.4)."""
    if count == 0:
        return 0.0
    return float(np.clip(count * (1 - r1) / max(1 + r1, 1e-9), 1.0, count))


def effective_regions(correlation: np.ndarray) -> float:
    """Return the participation ratio of a correlation matrix [G, G].

    G^2 / sum(r_ij^2): G for regions without correlation, 1 for copies (Bretherton et al. 1999).
    """
    return float(np.trace(correlation) ** 2 / (correlation**2).sum())


def label_correlation(subject: Subject) -> np.ndarray:
    """Correlate the regions' labels at common times: [G, G]; 0 where there are few."""
    series, label = subject.series, subject.label
    assert label is not None
    times, position = np.unique(series.timestamps, return_inverse=True)
    grid = np.full((len(series.regions), len(times)), np.nan)
    grid[series.region_index, position] = label
    known = ~np.isnan(grid)
    mean = np.nansum(grid, axis=1) / np.maximum(known.sum(axis=1), 1)
    centred = np.where(known, grid - mean[:, None], 0.0)
    weight = known.astype(np.float64)
    products, squares = centred @ centred.T, centred**2 @ weight.T
    scale = np.sqrt(squares * squares.T)
    enough = (weight @ weight.T >= 30) & (scale > 0)
    correlation = np.where(enough, products / np.where(scale > 0, scale, 1), 0.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _of_split(subject: Subject, rows: np.ndarray, correlation: np.ndarray) -> dict[str, Any]:
    series, label = subject.series, subject.label
    assert label is not None
    # Seconds between one window of a split and the next: its stride, or the step.
    seconds = series.timestamps.astype(np.int64)
    gaps = np.diff(seconds[rows])[np.diff(series.region_index[rows]) == 0]
    spacing = int(np.median(gaps)) if gaps.size else round(series.step_hours * 3600)
    regions: list[dict[str, Any]] = []
    here: list[int] = []
    for index, chosen in enumerate(series.rows_of_regions(rows)):
        if chosen.size:
            follows = np.diff(seconds[chosen], prepend=seconds[chosen[0]] - spacing - 1) == spacing
            r1, n = lag_one_correlation(label[chosen], follows), len(chosen)
            found = {"region": series.regions[index], "n": n, "r1": r1}
            regions.append({**found, "n_eff": effective_size(n, r1)})
            here.append(index)
    in_space = effective_regions(correlation[np.ix_(here, here)])
    pooled = sum(region["n_eff"] for region in regions) * in_space / len(regions)
    share = float(label[rows].mean())
    return {
        "n": len(rows),
        "n_eff": pooled,
        "regions_eff": in_space,
        "rain_share_standard_error": float(np.sqrt(share * (1 - share) / max(pooled, 1.0))),
        "regions": regions,
    }


def check_sample_size(subject: Subject, audit: Audit) -> None:
    """Report effective number of independent samples of each split, or of all labelled rows."""
    label = subject.label
    if label is None or not np.isfinite(label).any():
        audit.skip("effective number of samples", "there is no label.")
        return
    if len(subject.series.regions) > MOST_REGIONS:
        audit.skip(
            "effective number of samples",
            f"there are {len(subject.series.regions):,} regions; the labels of at most "
            f"{MOST_REGIONS:,} are correlated.",
        )
        return
    correlation = label_correlation(subject)
    splits = {name: subject.rows[name] for name in SPLITS} if subject.rows else {}
    splits = splits or {"all labelled rows": subject.issue_rows()}
    found = {name: _of_split(subject, rows, correlation) for name, rows in splits.items()}
    audit.facts["effective_samples"] = {"formula": _FORMULA, "splits": found}
    sizes = ", ".join(f"{name} {row['n_eff']:,.0f} of {row['n']:,}" for name, row in found.items())
    errors = ", ".join(
        f"{name} {200 * row['rain_share_standard_error']:.1f}" for name, row in found.items()
    )
    audit.find(
        "note",
        "effective_samples",
        f"about as many independent samples as: {sizes} windows (an estimate).",
        f"Neighbouring windows and regions rain together. A share such as accuracy carries about "
        f"± these points by chance (two standard errors): {errors}.",
        "Don't read a difference below that as progress. data.window_stride_hours at the horizon "
        "costs little information.",
        formula=_FORMULA,
        n_eff={name: row["n_eff"] for name, row in found.items()},
    )


_SAME_SHARE = 0.99  # of the values that say anything: above it two regions share a column
_LIKELY_SHARE = 0.95  # in the sample, before all times are compared
_MIN_TELLING = 12  # values below which a share of equal ones is not formed
_BLOCKS, _TIMES_PER_BLOCK = 48, 120
_MAX_CUBE = 6_000_000  # values of the sample over all regions
_SEVERAL = 3  # columns that change together from apart to equal
_LABEL_RAIN = "the precipitation of the label"
# Words of columns that are one for all places.
_CALENDAR = frozenset("sin cos hour day month year season oni enso index".split())


def check_regions(subject: Subject, audit: Audit) -> None:
    """Report pairs of regions whose columns are the same series, or nearly (more than 99 % equal).

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
        shared &= [not _CALENDAR.isdisjoint(name.lower().split("_")) for name in names]
    pairs = []
    rows_of = series.rows_of_regions()
    for index in range(len(series.regions) - 1):
        share = _share_equal(cube[index], cube[index + 1 :], usual)
        likely = ((share >= _LIKELY_SHARE) & ~shared).any(axis=(1, 2))
        for other in index + 1 + np.flatnonzero(likely):
            pair = _compare(series, columns, names, (index, int(other)), rows_of, usual, shared)
            pairs += [pair] if pair else []
    audit.facts["identical_regions"] = pairs
    _report_pairs(audit, pairs, int((~shared).sum()))


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
    return np.asarray((np.isnan(cube) | (cube == known)).all(axis=(0, 1, 2)))


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
    of_rain = (series.precipitation_feature, _LABEL_RAIN)
    rain = [k for k, name in enumerate(names) if name in of_rain]
    found["is_whole"] = bool(whole[rain].any() or whole.sum() > (~shared).sum() / 2)
    if not found["is_whole"]:
        same = (_ratio(equals, counts) > _SAME_SHARE) & ~shared & ~whole
        found["stretches"] = _stretches(same, rain, names, times, starts)
    return found if whole.any() or found["stretches"] else None


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


def _report_pairs(audit: Audit, pairs: list[dict[str, Any]], compared: int) -> None:
    def counted(chosen: list[dict[str, Any]]) -> str:
        sizes = [len(p["identical_columns"]) + len(p["nearly_identical_columns"]) for p in chosen]
        named = zip(chosen, sizes, strict=True)
        return listed(
            [f"{' = '.join(p['regions'])} ({same} of {compared} columns)" for p, same in named], 4
        )

    if copies := [pair for pair in pairs if pair["is_whole"]]:
        audit.find(
            "fault",
            "identical_regions",
            f"regions share one series: {counted(copies)}.",
            "They count as several places and are one. Held-out regions are then known from "
            "training, and scores look surer than they are.",
            "Keep one region of each pair, or find where the series were mixed up.",
            pairs=copies,
        )
    longest = {
        index: max(pair["stretches"], key=lambda stretch: stretch["share_of_span"])
        for index, pair in enumerate(pairs)
        if pair["stretches"]
    }
    if longest:
        order = sorted(longest, key=lambda index: -longest[index]["share_of_span"])
        dated = [
            f"{' = '.join(pairs[i]['regions'])} about {longest[i]['first'][:10]} to "
            f"{longest[i]['last'][:10]} ({longest[i]['share_of_span']:.0%} of the span; "
            f"{listed(longest[i]['columns'], 3)})"
            for i in order
        ]
        audit.find(
            "warning",
            "regions_identical_for_a_time",
            f"regions share one series for a time: {listed(dated, 4)}.",
            "In those months they are one place. Their windows count several times, and a region "
            "held out is known from another.",
            "Keep one region of each pair there, and read scores with the effective number of "
            "samples.",
            pairs=[pairs[i] for i in order],
        )
    if partly := [pair for pair in pairs if not pair["is_whole"] and not pair["stretches"]]:
        audit.find(
            "note",
            "regions_share_columns",
            f"regions share some columns: {counted(partly)}.",
            "Usual for a regional index or one grid cell; not for measured weather.",
            "Check that these columns are meant to be the same.",
            pairs=partly,
        )
