"""Checks of the label: class shares per split, region and season, and what a threshold changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject, listed
from timerxl.data.labels import UNITS_PER_MM, labels
from timerxl.data.series import WeatherSeries
from timerxl.data.splits import SPLITS

SEASONS = ("DJF", "MAM", "JJA", "SON")
THRESHOLDS_MM = (0.1, 1.0, 10.0)
_POINTS = 0.05  # a share that differs by more than this from training is flagged
_FEW = 30  # windows below which a share is not compared


def season_index(timestamps: np.ndarray) -> np.ndarray:
    """[R] 0 to 3 for December to February and so on, by the month of the stamp."""
    months = timestamps.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return months % 12 // 3


def always_rain(share: float) -> dict[str, float]:
    """Scores of "rain, always" where rain has this share p: accuracy p and F1 2p / (1 + p).

    Precision is p and recall 1, hence the F1; ``always_dry_accuracy`` is 1 - p.
    """
    return {
        "accuracy": share,
        "always_dry_accuracy": 1 - share,
        "f1": 2 * share / (1 + share),
    }


def _too_many(series: WeatherSeries) -> str:
    return f"there are {len(series.regions):,} regions; at most {MOST_REGIONS:,} are listed."


def _share(label: np.ndarray) -> dict[str, Any]:
    return {"n": len(label), "rain_share": float(label.mean()) if label.size else None}


def _differs(one: dict[str, Any], train: dict[str, Any] | None) -> bool:
    if train is None or one["n"] < _FEW or train["n"] < _FEW:
        return False
    return bool(abs(one["rain_share"] - train["rain_share"]) > _POINTS)


def check_class_shares(subject: Subject, audit: Audit) -> None:
    """Share of rain per split, region and season, against the same region in training."""
    series, label = subject.series, subject.label
    if label is None or not subject.rows:
        audit.skip("class shares per split", "there are no windows.")
        return
    season = season_index(series.timestamps)
    splits, cells = [], []
    of_training: dict[tuple[str, str], dict[str, Any]] = {}
    for split in SPLITS:
        rows = subject.rows[split]
        whole = _share(label[rows])
        splits.append(
            {"split": split, **whole}
            | {"always_rain": always_rain(whole["rain_share"]) if whole["n"] else None}
        )
        if len(series.regions) > MOST_REGIONS:
            continue
        for region, of_region in zip(series.regions, series.rows_of_regions(rows), strict=True):
            parts = [("all", of_region)]
            parts += [(name, of_region[season[of_region] == k]) for k, name in enumerate(SEASONS)]
            for name, chosen in parts:
                cell = _share(label[chosen])
                if split == "train":
                    of_training[region, name] = cell
                train = of_training[region, name]
                cells.append(
                    {"split": split, "region": region, "season": name, **cell}
                    | {"train_share": train["rain_share"], "differs": _differs(cell, train)}
                )
    if len(series.regions) > MOST_REGIONS:
        audit.skip("class shares per region", _too_many(series))
    audit.facts["splits"] = splits
    audit.facts["class_shares"] = cells
    _report_splits(audit, splits)
    _report_cells(audit, cells)


def _report_splits(audit: Audit, splits: list[dict[str, Any]]) -> None:
    known = {row["split"]: row["rain_share"] for row in splits if row["n"]}
    spread = max(known.values()) - min(known.values())
    shares = ", ".join(f"{name} {share:.1%}" for name, share in known.items())
    if spread > _POINTS:
        audit.find(
            "warning",
            "class_shares_differ_between_splits",
            f"the share of rain differs between splits by {100 * spread:.1f} points: {shares}.",
            "A constant forecast then scores differently on each split, so a gap between "
            "validation and test is no sign of overfitting.",
            "Compare scores that do not move with the share (ROC-AUC, PSS), or split otherwise.",
            shares=known,
            spread=spread,
        )
    scores = ", ".join(
        f"{row['split']} accuracy {row['always_rain']['accuracy']:.1%}, "
        f"F1 {row['always_rain']['f1']:.3f}"
        for row in splits
        if row["n"]
    )
    audit.find(
        "note",
        "scores_without_skill",
        f'"rain, always" scores: {scores}.',
        "F1 = 2p / (1 + p) and accuracy = p at a share p of rain. A target near these numbers "
        "asks for no skill; identical scores in two epochs mean that this is what is forecast.",
        "Read every F1 and accuracy against them; see also MCC and macro-F1.",
        always_rain={row["split"]: row["always_rain"] for row in splits},
    )


def _report_cells(audit: Audit, cells: list[dict[str, Any]]) -> None:
    regions = [cell for cell in cells if cell["differs"] and cell["season"] == "all"]
    seasons = [cell for cell in cells if cell["differs"] and cell["season"] != "all"]
    if regions:
        worst = sorted(regions, key=lambda c: -abs(c["rain_share"] - c["train_share"]))
        shown = listed(
            [
                f"{c['region']} {c['split']} {c['rain_share']:.0%} (training "
                f"{c['train_share']:.0%})"
                for c in worst
            ],
            4,
        )
        audit.find(
            "warning",
            "class_shares_differ_in_a_region",
            f"in {len(regions)} region-splits rain is more than 5 points from its training "
            f"share: {shown}.",
            "Years differ, so some of this is chance: see the effective number of samples.",
            "Score each region by itself, and give the range that chance allows.",
            cells=regions,
        )
    if seasons:
        audit.find(
            "note",
            "class_shares_differ_in_a_season",
            f"{len(seasons)} of {sum(c['season'] != 'all' for c in cells)} cells of split, region "
            "and season are more than 5 points from the same season in training.",
            "Years differ, and cells of few windows differ by chance.",
            "Read the table of class shares before reading a score of one season.",
            cells=len(seasons),
        )


def check_thresholds(subject: Subject, audit: Audit) -> None:
    """Share of rain over the horizon at 0.1, 1 and 10 mm, overall and per region."""
    series, hours = subject.series, subject.data.label_horizon_hours
    if series.precipitation_mm is None:
        audit.skip("threshold sensitivity", "there is no precipitation column, only a label.")
        return
    try:
        found = [_threshold_row(series, hours, threshold) for threshold in THRESHOLDS_MM]
        own = labels(series, hours, subject.data.rain_threshold_mm)
        above = labels(series, hours, subject.data.rain_threshold_mm + 1 / UNITS_PER_MM)
    except InputError as error:
        audit.skip("threshold sensitivity", str(error))
        return
    known = ~np.isnan(own)
    if not known.any():
        audit.skip("threshold sensitivity", "no row has all steps of its horizon measured.")
        return
    edge = float((own != above)[known].mean())
    audit.facts["thresholds"] = {
        "horizon_hours": hours,
        "rows": found,
        "threshold_mm": subject.data.rain_threshold_mm,
        "share_exactly_at_threshold": edge,
    }
    shares = ", ".join(f"{row['rain_share']:.1%} at {row['threshold_mm']:g} mm" for row in found)
    audit.find(
        "note",
        "threshold_sensitivity",
        f"rain within {hours:g} h: {shares}; {edge:.1%} of the sums are exactly "
        f"{subject.data.rain_threshold_mm:g} mm.",
        "What counts as rain sets the share of rain, and with it every score. Sums that are "
        "exactly the threshold count as rain here (>=).",
        "Say the threshold (data.rain_threshold_mm) with every score.",
        shares={row["threshold_mm"]: row["rain_share"] for row in found},
        share_exactly_at_threshold=edge,
    )


def _threshold_row(series: WeatherSeries, hours: float, threshold: float) -> dict[str, Any]:
    label = labels(series, hours, threshold)
    known = ~np.isnan(label)
    shares: dict[str, float | None] = {}
    known_rows = np.flatnonzero(known)
    parts = series.rows_of_regions(known_rows) if len(series.regions) <= MOST_REGIONS else []
    for name, rows in zip(series.regions, parts, strict=False):
        of_region = label[rows]
        shares[name] = float(of_region.mean()) if of_region.size else None
    whole = float(label[known].mean()) if known.any() else float("nan")
    return {"threshold_mm": threshold, "rain_share": whole, "regions": shares}
