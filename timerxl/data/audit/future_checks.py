"""Features that contain the future: by their link with the label to come, and by their names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from timerxl.data.audit.findings import Audit, Subject, listed
from timerxl.data.features import label_like

_WORDS = {"future", "next", "tomorrow", "lead", "target", "label", "forecast", "ahead", "upcoming"}
_MAX_ROWS = 10_000
_MIN_PER_CLASS = 50
# 2 |AUC - 1/2|. Weather that precedes rain by hours stays below a surplus of 0.2 (hourly stations
# in Beijing, the synthetic climates: 0.16 at most); a day's sum ahead has a surplus of 0.5.
_STRONG, _SURPLUS = 0.40, 0.20
_COPY = 0.90  # correlation with one later step of precipitation
_COPY_SURPLUS = 0.20
_MAX_LEADS = 72


def name_hints(name: str) -> bool:
    """Whether a word of the name says that the column is about the future."""
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    return bool(words & _WORDS) or label_like(name)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return ranks


def rank_auc(ranks: np.ndarray, positive: np.ndarray) -> float:
    """ROC-AUC out of the ranks of all values (Mann-Whitney U over the number of pairs)."""
    wins, losses = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - wins * (wins + 1) / 2) / (wins * losses))


def check_future(subject: Subject, audit: Audit) -> None:
    """Compare each feature's link with the rain ahead and with the rain behind.

    The comparison is between AUCs against the label of t and against the same event one horizon
    earlier: what is measured at t knows the past at least as well as the future. A second one
    looks for a feature that repeats a later step of the precipitation.
    """
    series = subject.series
    hinted = [name for name in series.feature_names if name_hints(name)]
    if subject.label is None or subject.rained_before is None:
        audit.skip("features that contain the future", "there is no label.")
        table: list[dict[str, Any]] = []
    else:
        table = _links(subject, audit)
    leads = _later_steps(subject)
    for row in table:
        row |= {"copies_lead_steps": leads.get(row["feature"]), "name_hints": False}
        row["name_hints"] = row["feature"] in hinted
    audit.facts["features"] = table
    strong = {
        row["feature"]: row
        for row in table
        if row["link_ahead"] >= _STRONG and row["link_ahead"] - row["link_behind"] >= _SURPLUS
    }
    suspects = [name for name in series.feature_names if name in strong or name in leads]
    if suspects:
        audit.find(
            "fault",
            "features_contain_the_future",
            "features look ahead: "
            + listed([_in_words(name, strong, leads) for name in suspects], 4)
            + ".",
            "What is measured at the time of issue knows the rain that fell at least as well as "
            "the rain to come. These know the future better, so scores with them are not to be "
            "had in use.",
            "Leave them out of data.features, or shift them to when they are known.",
            features={name: {**strong.get(name, {}), "lead": leads.get(name)} for name in suspects},
        )
    if quiet := [name for name in hinted if name not in suspects]:
        audit.find(
            "warning",
            "feature_names_say_future",
            f"the names of {len(quiet)} features speak of the future: {listed(quiet)}.",
            "Their numbers don't show it, but the numbers show only what rain has to do with.",
            "Make sure that they are known at the time of issue.",
            features=quiet,
        )


def _in_words(name: str, strong: dict[str, dict[str, Any]], leads: dict[str, int]) -> str:
    parts = []
    if name in strong:
        row = strong[name]
        parts.append(f"AUC {row['auc_ahead']:.2f} ahead, {row['auc_behind']:.2f} behind")
    if name in leads:
        parts.append(f"repeats the precipitation {leads[name]} steps later")
    if name_hints(name):
        parts.append("so does its name")
    return f"{name} ({'; '.join(parts)})"


def _sample(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= _MAX_ROWS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, _MAX_ROWS, replace=False))


def _links(subject: Subject, audit: Audit) -> list[dict[str, Any]]:
    series, label, before = subject.series, subject.label, subject.rained_before
    assert label is not None
    assert before is not None
    rows = subject.rows.get("train", subject.issue_rows())
    rows = _sample(rows[~np.isnan(label[rows]) & ~np.isnan(before[rows])])
    wet, was_wet = label[rows] == 1, before[rows] == 1
    table: list[dict[str, Any]] = []
    for name, column in zip(series.feature_names, series.values[rows].T, strict=True):
        known = ~np.isnan(column)
        groups = [event & known for event in (wet, ~wet, was_wet, ~was_wet)]
        if min(group.sum() for group in groups) < _MIN_PER_CLASS:
            continue
        ranks = average_ranks(column[known])
        ahead, behind = rank_auc(ranks, wet[known]), rank_auc(ranks, was_wet[known])
        table.append(
            {"feature": name, "auc_ahead": ahead, "auc_behind": behind}
            | {"link_ahead": 2 * abs(ahead - 0.5), "link_behind": 2 * abs(behind - 0.5)}
        )
    if missing := len(series.feature_names) - len(table):
        audit.skip(
            "features that contain the future",
            f"{missing} features have fewer than {_MIN_PER_CLASS} known values in a class.",
        )
    return table


def _later_steps(subject: Subject) -> dict[str, int]:
    """Features that repeat the precipitation of a later step: name -> steps."""
    series, rain = subject.series, subject.series.precipitation_mm
    if rain is None:
        return {}
    ahead = min(max(round(subject.data.label_horizon_hours / series.step_hours), 1), _MAX_LEADS)
    first = series.segment_first_rows()
    rows = np.arange(len(rain))
    rows = rows[(rows >= ahead) & (rows < len(rain) - ahead)]
    rows = rows[first[rows - ahead] == first[rows + ahead]]
    rows = _sample(rows)
    if len(rows) < 2 * _MIN_PER_CLASS:
        return {}
    offsets = np.arange(-ahead, ahead + 1)
    steps = _standardised(rain[rows[:, None] + offsets])
    features = _standardised(series.values[rows].astype(np.float64))
    correlation = features.T @ steps / len(rows)
    found: dict[str, int] = {}
    for name, row in zip(series.feature_names, correlation, strict=True):
        best = int(np.argmax(row[ahead + 1 :]))
        surplus = row[ahead + 1 + best] - np.abs(row[: ahead + 1]).max()
        if row[ahead + 1 + best] > _COPY and surplus > _COPY_SURPLUS:
            found[name] = best + 1
    return found


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; missing values count as the mean, constants as 0."""
    known = ~np.isnan(columns)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, columns - np.where(known, columns, 0).sum(axis=0) / count, 0.0)
    spread = np.sqrt((centred**2).mean(axis=0))
    standard: np.ndarray = centred / np.where(spread > 0, spread, 1.0)
    return standard
