"""The card's limits: what this model can't be trusted with, each sentence from the run's files."""

from __future__ import annotations

from typing import Any

import pandas as pd

from timerxl.evaluation.references import TITLES
from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.evaluation.tables import COLUMNS, ROWS
from timerxl.hub.card.markdown import bullets, ends, heading, score, words
from timerxl.hub.card.regions_section import RegionScores
from timerxl.hub.card.scores_section import BETTER, COMPARED, WORSE, judged
from timerxl.hub.record import Record
from timerxl.report.run_record import get, number
from timerxl.untrusted import listed

# Scores by which one forecast is better than another; hits or false alarms alone are none.
JUDGING = (
    *("roc_auc", "pr_auc", "brier", "bss", "ece", "mcc", "hss", "pss", "ets", "csi", "sedi"),
    *("f1", "macro_f1", "accuracy", "balanced_accuracy"),
)
CALIBRATED = ("brier", "bss", "ece")  # calibration changes these
NO_SKILL = {"bss": 0.0, "mcc": 0.0, "hss": 0.0, "pss": 0.0, "ets": 0.0, "balanced_accuracy": 0.5}
NO_SKILL |= {"roc_auc": 0.5}
NAMES = {key: title.partition(" (")[0] for key, title in (COLUMNS | ROWS).items()}
NAMES |= {"balanced_accuracy": "balanced accuracy"}
BEST_POSSIBLE, ALWAYS_DRY = "bayes", "always dry"


def limits_section(record: Record, regions: list[RegionScores]) -> str:
    """What this model can't be trusted with, as a list."""
    return "\n\n".join([heading("Known limits"), bullets(limits(record, regions))])


def limits(record: Record, regions: list[RegionScores]) -> list[str]:
    """The sentences of :func:`limits_section`, as Markdown."""
    saved, results, config = record.preprocessing, record.results, record.config
    found = []
    if record.is_synthetic:
        found.append("**SYNTHETIC data**: of no use for real weather.")
    if saved["split"]["method"] == "rows":
        found.append(
            "**Split by row number**: training and test share regions, times or windows, so the "
            "test scores are not those of unseen data."
        )
    if record.is_contaminated:
        found.append(
            "**Contaminated test split** (`eval.test_every_epoch`): it was scored at every "
            "evaluation. Whoever decided by those numbers has no unseen test left."
        )
    found += _sample(record, results)
    if results:
        found += _without_skill(results)
        found += _beaten(results)
        found += _unskilled(results)
        found += _calibration(results)
        found += _regions(regions)
    names = words(listed(saved["regions"], 12))
    days = saved["context_days"]
    found.append(
        f"Trained{' and tested' if results else ''} on {names} alone: nothing is known of other "
        "places." + (" Other regions are refused." if saved.get("static_feature_names") else "")
    )
    found.append(
        f"It needs a series in steps of {saved['step_hours']:g} h with exactly these features, in "
        f"these units, and {days:g} days without a gap behind every forecast."
    )
    if get(saved, "source", "prepared", "precipitation", "is_sparse"):
        found.append(
            "**Sparse rain**: not all hours of a day are in the table, so the labels miss rain."
        )
    found.append(f"One run, seed {config.get('seed')}: another seed gives other numbers.")
    audit = record.audit.get("lines")
    found += [f"Audit of the data: {words(line)}" for line in audit or []]
    return found


def _sample(record: Record, results: dict[str, Any]) -> list[str]:
    """How much the test split holds."""
    if not results:
        every = "The final scores on test were never made." if record.is_contaminated else ""
        return [every or "The test split was never scored."]
    count = results["num_windows"]["test"]
    sentence = f"The test scores rest on {count:,} windows"
    if record.forecasts is not None:
        test = record.forecasts[record.forecasts["split"] == "test"]
        times = pd.to_datetime(test["issue_time"])
        days = (times.max() - times.min()).total_seconds() / 86400
        sentence += f" of {test['region'].nunique()} regions in {days:,.0f} days"
    sentence += ", which overlap in time and place: they hold less than as many independent ones."
    if results.get("max_windows") is not None:
        sentence += " They are a seeded sample, not all windows (`eval.max_windows`)."
    found = [sentence]
    if results.get("no_interval"):
        found.append(f"No intervals: {words(results['no_interval'])}.")
    return found


def _without_skill(results: dict[str, Any]) -> list[str]:
    """Scores that a forecast without any knowledge reaches, or that may be such."""
    found = []
    share = number(get(results, "test", "predicted_rain_share"))
    if share in (0.0, 1.0):
        found.append(f"**It says {'rain' if share else 'no rain'} to every test window.**")
    for key, nothing in NO_SKILL.items():
        for kind, title in (("test", ""), ("test_calibrated", " (calibrated)")):
            value = number(get(results, kind, key))
            if value is None or (kind != "test" and key not in CALIBRATED):
                continue
            if value <= nothing:
                found.append(
                    f"**No skill by {NAMES[key]}**{title}: {score(value)}; a forecast that knows "
                    f"nothing gets {nothing:g}."
                )
            elif kind == "test":
                interval = get(results, "intervals", "model", key)
                low = interval[0] if isinstance(interval, list) and interval else None
                if low is not None and low <= nothing:
                    found.append(
                        f"The 95 % interval of {NAMES[key]} ({ends(interval)}) includes "
                        f"{nothing:g}, no skill."
                    )
    return found


def _beaten(results: dict[str, Any]) -> list[str]:
    """Every simpler forecast that does at least as well, with the scores by which it does."""
    others = {n: of for n, of in results["baselines"].items() if n != BEST_POSSIBLE}
    dry = number(get(others, "always_rain", "accuracy"))
    if dry is not None:
        others[ALWAYS_DRY] = {"accuracy": 1 - dry}
    found = []
    for name, theirs in others.items():
        lost = {}
        for key in JUDGING:
            values = [number(get(results, kind, key)) for kind in ("test", "test_calibrated")]
            ours = {NAMES[key]: values[0]}
            if key in CALIBRATED and score(values[0]) != score(values[1]):
                ours = {f"raw {NAMES[key]}": values[0], f"calibrated {NAMES[key]}": values[1]}
            other, sign = number(get(theirs, key)), -1 if key in LOWER_IS_BETTER else 1
            for title, value in ours.items():
                if value is not None and other is not None and sign * value <= sign * other:
                    numbers = f" ({score(other)} against {score(value)})" if key in COLUMNS else ""
                    lost[title] = numbers
        if lost:
            # Those of the table with their numbers, the others by name.
            told = [f"{title}{numbers}" for title, numbers in lost.items() if numbers]
            told += [title for title, numbers in lost.items() if not numbers]
            title = words(TITLES.get(name, name))
            found.append(f"**{title}** does as well or better by {', '.join(told)}.")
    return found


def _unskilled(results: dict[str, Any]) -> list[str]:
    """Said where the model isn't shown to beat what is simpler."""
    by: dict[tuple[str, str], list[str]] = {}
    for key in COMPARED:
        if of_key := get(results, "differences", key):
            verdict = judged(key, of_key.get("low"), of_key.get("high"))
            if verdict != BETTER:
                is_worse = "worse than" if verdict == WORSE else "not shown to beat"
                name = TITLES.get(of_key["reference"], of_key["reference"])
                by.setdefault((is_worse, name), []).append(NAMES[key])
    return [
        f"By {' and '.join(keys)} it is {verdict} {words(name)} on this series."
        for (verdict, name), keys in by.items()
    ]


def _calibration(results: dict[str, Any]) -> list[str]:
    """Where the calibrated probability is the worse one."""
    found, slope = [], number(get(results, "calibration", "slope"))
    if slope is not None and slope <= 0:
        found.append(
            f"**The calibration's slope is {score(slope)}**: on validation the model ranked the "
            "wrong way round, or not at all. The sign of a broken model."
        )
    worse = []
    for key in CALIBRATED:
        raw, after = (number(get(results, kind, key)) for kind in ("test", "test_calibrated"))
        if raw is None or after is None:
            continue
        sign = -1 if key in LOWER_IS_BETTER else 1
        if sign * round(after, 4) < sign * round(raw, 4):
            worse.append(f"{NAMES[key]} {score(after, 4)} instead of {score(raw, 4)}")
    if worse:
        found.append(f"Calibration makes it worse on test: {', '.join(worse)}.")
    return found


def _regions(regions: list[RegionScores]) -> list[str]:
    """Where a region's scores show no skill, or less than those of a simpler forecast."""
    unsure, beaten, unranked = [], [], []
    for region in regions:
        name, value = words(region.name), region.scores["roc_auc"]
        if value is None or value != value:
            unranked.append(name)
            continue
        interval = ends(region.interval)
        if value <= 0.5 or (region.interval and region.interval[0] <= 0.5):
            unsure.append(f"{name} ({score(value)}{f', {interval}' if interval else ''})")
        if region.best_other is not None and value <= region.best_other[1]:
            title = words(TITLES.get(region.best_other[0], region.best_other[0]))
            beaten.append(f"{name} ({score(value)}; {title} {score(region.best_other[1])})")
    found = []
    if unsure:
        found.append(
            "**No skill shown in some regions**: the ROC-AUC, or its 95 % interval, is not above "
            f"0.5 in {', '.join(unsure)}."
        )
    if beaten:
        found.append(f"By ROC-AUC another forecast does as well or better in {', '.join(beaten)}.")
    if unranked:
        found.append(f"No ROC-AUC in {', '.join(unranked)}: it always rained there, or never.")
    return found
