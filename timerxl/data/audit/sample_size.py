"""How many independent samples the windows amount to: an estimate from the label's correlation."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject
from timerxl.data.splits import SPLITS

_FORMULA = (
    "n_eff = n (1 - r1) / (1 + r1) per region (AR(1) approximation, Wilks 2011, section 5.2.4), "
    "times G_eff / G with G_eff = G^2 / sum(r_ij^2) from the correlation of the labels of G "
    "regions (Bretherton et al. 1999)"
)


def lag_one_correlation(label: np.ndarray, follows: np.ndarray) -> float:
    """r1 of a 0/1 sequence [N]; ``follows`` [N] bool: the entry comes next after the one before.

    Pairs across a gap are left out. 0 for a constant sequence or without pairs.
    """
    centred = label - label.mean()
    variance = float((centred**2).mean())
    pairs = follows[1:]
    if variance == 0 or not pairs.any():
        return 0.0
    return float((centred[1:] * centred[:-1])[pairs].mean()) / variance


def effective_size(count: int, r1: float) -> float:
    """n (1 - r1) / (1 + r1), at least 1 and at most n (Wilks 2011, section 5.2.4)."""
    if count == 0:
        return 0.0
    return float(np.clip(count * (1 - r1) / max(1 + r1, 1e-9), 1.0, count))


def effective_regions(correlation: np.ndarray) -> float:
    """Participation ratio of a correlation matrix [G, G]: (sum of eigenvalues)^2 / sum of squares.

    G^2 / sum(r_ij^2): G for regions without correlation, 1 for copies (Bretherton et al. 1999).
    """
    return float(np.trace(correlation) ** 2 / (correlation**2).sum())


def label_correlation(subject: Subject) -> np.ndarray:
    """[G, G] correlation of the regions' labels at their common times; 0 where there are few."""
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
    spacing = _spacing(subject, rows)
    regions: list[dict[str, Any]] = []
    here: list[int] = []
    parts = series.rows_of_regions(rows)
    for index, (name, chosen) in enumerate(zip(series.regions, parts, strict=True)):
        if not chosen.size:
            continue
        times = series.timestamps[chosen].astype(np.int64)
        follows = np.concatenate([[False], np.diff(times) == spacing])
        r1 = lag_one_correlation(label[chosen], follows)
        regions.append(
            {"region": name, "n": len(chosen), "r1": r1}
            | {"n_eff": effective_size(len(chosen), r1)}
        )
        here.append(index)
    in_space = effective_regions(correlation[np.ix_(here, here)])
    pooled = sum(region["n_eff"] for region in regions) * in_space / len(regions)
    share = float(label[rows].mean())
    error = float(np.sqrt(share * (1 - share) / max(pooled, 1.0)))
    return {
        "n": len(rows),
        "n_eff": pooled,
        "regions_eff": in_space,
        "rain_share_standard_error": error,
        "regions": regions,
    }


def _spacing(subject: Subject, rows: np.ndarray) -> int:
    """Seconds between one window of a split and the next: its stride, or the step."""
    series = subject.series
    same = np.diff(series.region_index[rows]) == 0
    gaps = np.diff(series.timestamps[rows].astype(np.int64))[same]
    return int(np.median(gaps)) if gaps.size else round(series.step_hours * 3600)


def check_sample_size(subject: Subject, audit: Audit) -> None:
    """Effective number of independent samples of each split, or of all labelled rows."""
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
