"""Checks of label, precipitation and features: class shares, missing hours, leaks of the future."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from timerxl.config import InputError
from timerxl.data.audit.column_checks import records_of
from timerxl.data.audit.findings import MOST_REGIONS, Audit, Subject
from timerxl.data.preprocessing import SPLITS, UNITS_PER_MM, labels, rain_before
from timerxl.data.series import label_like
from timerxl.data.tables.columns import time_words
from timerxl.untrusted import listed

SEASONS = ("DJF", "MAM", "JJA", "SON")
THRESHOLDS_MM = (0.1, 1.0, 10.0)
_POINTS = 0.05  # a share that differs by more than this from training is flagged
_FEW = 30  # windows below which a share is not compared


def season_index(timestamps: np.ndarray) -> np.ndarray:
    """Return [R] 0 to 3 for December to February and so on, by the month of the stamp."""
    months = timestamps.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return months % 12 // 3


def always_rain(share: float) -> dict[str, float]:
    """Return scores of "rain, always" where rain has this share p: accuracy p and F1 2p / (1 + p).

    Precision is p and recall 1, hence the F1; ``always_dry_accuracy`` is 1 - p.
    """
    return {"accuracy": share, "always_dry_accuracy": 1 - share, "f1": 2 * share / (1 + share)}


def _share(label: np.ndarray) -> dict[str, Any]:
    return {"n": len(label), "rain_share": float(label.mean()) if label.size else None}


def check_class_shares(subject: Subject, audit: Audit) -> None:
    """Report share of rain per split, region and season, against the same region in training."""
    series, label = subject.series, subject.label
    if label is None or not subject.rows:
        audit.skip("class shares per split", "there are no windows.")
        return
    season = season_index(series.timestamps)
    splits: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    of_training: dict[tuple[str, str], dict[str, Any]] = {}
    for split in SPLITS:
        rows = subject.rows[split]
        whole = _share(label[rows])
        scores = always_rain(whole["rain_share"]) if whole["n"] else None
        splits.append({"split": split, **whole, "always_rain": scores})
        if len(series.regions) > MOST_REGIONS:
            continue
        for region, of_region in zip(series.regions, series.rows_of_regions(rows), strict=True):
            parts = {"all": of_region}
            parts |= {name: of_region[season[of_region] == k] for k, name in enumerate(SEASONS)}
            for name, chosen in parts.items():
                cell = _share(label[chosen])
                train = of_training.setdefault((region, name), cell)  # the first split's
                enough = cell["n"] >= _FEW and train["n"] >= _FEW
                differs = enough and abs(cell["rain_share"] - train["rain_share"]) > _POINTS
                cells.append(
                    {"split": split, "region": region, "season": name, **cell}
                    | {"train_share": train["rain_share"], "differs": differs}
                )
    if len(series.regions) > MOST_REGIONS:
        audit.skip(
            "class shares per region",
            f"there are {len(series.regions):,} regions; at most {MOST_REGIONS:,} are listed.",
        )
    audit.facts |= {"splits": splits, "class_shares": cells}
    known = {row["split"]: row["rain_share"] for row in splits if row["n"]}
    spread = max(known.values()) - min(known.values())
    if spread > _POINTS:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in known.items())
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
    constant = ", ".join(
        f"{row['split']} accuracy {row['always_rain']['accuracy']:.1%}, "
        f"F1 {row['always_rain']['f1']:.3f}"
        for row in splits
        if row["n"]
    )
    audit.find(
        "note",
        "scores_without_skill",
        f'"rain, always" scores: {constant}.',
        "F1 = 2p / (1 + p) and accuracy = p at a share p of rain. A target near these numbers "
        "asks for no skill; identical scores in two epochs mean that this is what is forecast.",
        "Read every F1 and accuracy against them; see also MCC and macro-F1.",
        always_rain={row["split"]: row["always_rain"] for row in splits},
    )
    regions = [cell for cell in cells if cell["differs"] and cell["season"] == "all"]
    if regions:
        worst = sorted(regions, key=lambda c: -abs(c["rain_share"] - c["train_share"]))
        named = [
            f"{c['region']} {c['split']} {c['rain_share']:.0%} (training {c['train_share']:.0%})"
            for c in worst
        ]
        audit.find(
            "warning",
            "class_shares_differ_in_a_region",
            f"in {len(regions)} region-splits rain is more than 5 points from its training "
            f"share: {listed(named, 4)}.",
            "Years differ, so some of this is chance: see the effective number of samples.",
            "Score each region by itself, and give the range that chance allows.",
            cells=regions,
        )
    if seasons := sum(cell["differs"] and cell["season"] != "all" for cell in cells):
        audit.find(
            "note",
            "class_shares_differ_in_a_season",
            f"{seasons} of {sum(c['season'] != 'all' for c in cells)} cells of split, region "
            "and season are more than 5 points from the same season in training.",
            "Years differ, and cells of few windows differ by chance.",
            "Read the table of class shares before reading a score of one season.",
            cells=seasons,
        )


def check_thresholds(subject: Subject, audit: Audit) -> None:
    """Report share of rain over the horizon at 0.1, 1 and 10 mm, overall and per region."""
    series, hours = subject.series, subject.data.label_horizon_hours
    if series.precipitation_mm is None:
        audit.skip("threshold sensitivity", "there is no precipitation column, only a label.")
        return
    try:
        at = {threshold: labels(series, hours, threshold) for threshold in THRESHOLDS_MM}
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
    regions: dict[str, np.ndarray] = {}
    if len(series.regions) <= MOST_REGIONS:
        parts = series.rows_of_regions(np.flatnonzero(known))
        regions = dict(zip(series.regions, parts, strict=True))
    found = [
        {
            "threshold_mm": threshold,
            "rain_share": float(label[known].mean()),
            "regions": {name: _share(label[rows])["rain_share"] for name, rows in regions.items()},
        }
        for threshold, label in at.items()
    ]
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


_ERA5_RAIN = {"tp", "total_precipitation"}
_ERA5_NAMES = {"t2m", "d2m", "msl", "sp", "u10", "v10", "tcwv", "cape"}
_HOURS_IN_NAME = re.compile(r"(\d+)\s*h", re.IGNORECASE)
_AGREES = 0.99
_ERA5_HOUR = (
    "ERA5 tp is the accumulation of the ONE hour that ends at the stamp, whatever the step of the "
    "request. "
)


def looks_like_era5(precipitation: str, features: list[str]) -> list[str]:
    """Return the names that say ERA5: its own for rain, or two others beside "precipitation".

    ``precipitation`` is the name in the file that the series came from (:func:`name_in_file`).
    """
    others = sorted(_ERA5_NAMES & {name.lower() for name in features})
    if precipitation.lower() in _ERA5_RAIN:
        return [precipitation, *others]
    return [precipitation, *others] if len(others) >= 2 else []


def name_in_file(subject: Subject) -> str:
    """Tell what the file called the precipitation, which launch/prepare_data.py calls tp.

    A series.json without records names a table's columns among its sources.
    """
    column, described = subject.data.precipitation_column, subject.description or {}
    if record := records_of(subject).get(column):
        return str(record["name"])
    if name := described.get("precipitation", {}).get("source_column"):
        return str(name)
    held = [name for source in described.get("sources", []) for name in source.get("variables", [])]
    return column if not held or column in held else "a column of another name"


def check_accumulation(subject: Subject, audit: Audit) -> None:
    """Tell whether the precipitation holds all hours of a day, by series.json or by its looks.

    A series.json whose hours_present_per_day is null came from a table. What is said or told of
    the table's period decides then; what was assumed does not.
    """
    series, step = subject.series, subject.series.step_hours
    if series.precipitation_mm is None:
        audit.skip("sparse accumulation", "there is no precipitation column, only a label.")
        return
    said = (subject.description or {}).get("precipitation", {})
    if said.get("column") == subject.data.precipitation_column:
        if said.get("is_sparse"):
            _report_sparse(
                subject, audit, said.get("hours_present_per_day"), "series.json says so", []
            )
            return
        if said.get("hours_present_per_day") is not None:
            return
    if subject.data.path is None:
        audit.skip("sparse accumulation", "the built-in series sums rain over its whole step.")
        return
    if step <= 1:
        return
    column = subject.data.precipitation_column
    time = records_of(subject).get(column, {}).get("time")
    if time is not None and time["known_by"] != "assumed":
        hours = time["value"]["hours"]
        if time["value"]["kind"] == "instant":
            _report_sparse(subject, audit, None, f"{column} holds at its stamps alone", [], False)
        elif hours is not None and hours < step:
            reason = f"the step is {step:g} h and {column} is a {time_words({'time': time})}"
            _report_sparse(subject, audit, 24 * hours / step, reason, [], False)
        return
    name = name_in_file(subject)
    names = looks_like_era5(name, series.feature_names)
    if names:
        reason = f"the step is {step:g} h and the names are ERA5's"
        _report_sparse(subject, audit, 24 / step, reason, names)
        return
    audit.skip(
        "sparse accumulation",
        f"the columns do not look like ERA5; whether {column} sums all {step:g} h of a step can't "
        "be told from the numbers.",
    )


def _report_sparse(
    subject: Subject,
    audit: Audit,
    hours: float | None,
    reason: str,
    names: list[str],
    is_era5: bool = True,
) -> None:
    present = "some" if hours is None else f"{hours:g}"
    certain = not names
    audit.facts["accumulation"] = {
        "is_sparse": True,
        "hours_present_per_day": hours,
        "reason": reason,
        "era5_names": names,
    }
    audit.find(
        "fault",
        "precipitation_misses_hours",
        f"{present} of 24 hours of precipitation are present ({reason}): "
        f"a {subject.data.label_horizon_hours:g}-h rain label from this series would be wrong.",
        (_ERA5_HOUR if is_era5 else "")
        + "The hours between the stamps are not in the series, and rain that fell in them counts "
        "as dry."
        + ("" if certain else " Judged by the names: a column summed over the step looks alike."),
        "Request every hour and let launch/prepare_data.py sum it to the step."
        + (
            ""
            if certain
            else " If the column does sum the whole step, bring the table through "
            "launch/prepare_data.py with --meaning "
            f"COLUMN=sum:{subject.series.step_hours:g}h, or write 24 for "
            "precipitation.hours_present_per_day into its series.json."
        ),
        hours_present_per_day=hours,
        reason=reason,
        era5_names=names,
    )


def check_ready_labels(subject: Subject, audit: Audit) -> None:
    """Report agreement of every ready label column with the sum of the steps ahead, and behind."""
    series = subject.series
    columns = dict(subject.label_columns)
    if series.ready_label is not None and subject.data.path is not None:
        columns.setdefault(str(subject.data.label_column), series.ready_label)
    if not columns:
        return
    if series.precipitation_mm is None:
        audit.skip("ready label against precipitation", "there is no precipitation column.")
        return
    found = []
    for name, column in columns.items():
        try:
            found.append(_agreement(subject, name, column))
        except InputError as error:
            audit.skip(f"ready label {name} against precipitation", str(error))
            continue
        _report_label(subject, audit, found[-1])
    audit.facts["ready_labels"] = found


def _agreement(subject: Subject, name: str, column: np.ndarray) -> dict[str, Any]:
    in_name = _HOURS_IN_NAME.search(name)
    hours = float(in_name[1]) if in_name else subject.data.label_horizon_hours
    threshold = subject.data.rain_threshold_mm
    row: dict[str, Any] = {"column": name, "horizon_hours": hours, "threshold_mm": threshold}
    for key, make in (("ahead", labels), ("behind", rain_before)):
        sums = make(subject.series, hours, threshold)
        known = ~np.isnan(column) & ~np.isnan(sums)
        row |= {
            f"rows_{key}": int(known.sum()),
            f"agreement_{key}": _share((column == sums)[known])["rain_share"],
            f"rain_share_of_sums_{key}": _share(sums[known])["rain_share"],
        }
    row["rain_share"] = _share(column[~np.isnan(column)])["rain_share"]
    return row


def _report_label(subject: Subject, audit: Audit, row: dict[str, Any]) -> None:
    name, ahead, behind = row["column"], row["agreement_ahead"], row["agreement_behind"]
    if ahead is None or behind is None:
        audit.skip(f"ready label {name} against precipitation", "no row knows both.")
        return
    steps = row["horizon_hours"] / subject.series.step_hours
    numbers = (
        f"{name} agrees with the sum of the {steps:g} steps ahead "
        f"(>= {row['threshold_mm']:g} mm within {row['horizon_hours']:g} h) in {ahead:.1%} of "
        f"{row['rows_ahead']:,} rows, with the steps behind in {behind:.1%}"
    )
    if behind > _AGREES and behind > ahead:
        audit.find(
            "fault" if name == subject.data.label_column else "warning",
            "ready_label_looks_back",
            f"{numbers}: it tells the past, not the future.",
            "A label of rain that has fallen is no forecast; persistence would score perfectly.",
            f"Shift it by {row['horizon_hours']:g} h, or leave data.label_column null and make the "
            "label from the precipitation.",
            **row,
        )
    elif ahead > _AGREES:
        audit.find(
            "note",
            "ready_label_agrees",
            f"{numbers}.",
            "The label was made from this column: hours that the column misses, it misses too.",
            "Nothing to do where the precipitation is complete.",
            **row,
        )
    else:
        audit.find(
            "warning",
            "ready_label_disagrees",
            f"{numbers}; rain is {row['rain_share']:.1%} by the label, "
            f"{row['rain_share_of_sums_ahead']:.1%} by the sums.",
            "Another threshold, another horizon or other rain: the precipitation may miss hours.",
            "Find out how the label was made before you compare scores.",
            **row,
        )


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
    """Tell whether a word of the name says that the column is about the future."""
    words = set(re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))
    return bool(words & _WORDS) or label_like(name)


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
        ahead, behind = (
            float(roc_auc_score(event[known], column[known])) for event in (wet, was_wet)
        )
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
