"""The card's facts: what is forecast, from which data, and how they were cut."""

from __future__ import annotations

from typing import Any

from timerxl.data.tables.columns import known_rows, shortened
from timerxl.evaluation.tables import ROWS
from timerxl.hub.card.markdown import code, facts, heading, table, words
from timerxl.hub.card.scores_section import threshold_words
from timerxl.hub.record import Record
from timerxl.report.run_record import get
from timerxl.untrusted import listed

MANY_FEATURES, MANY_KNOWN = 40, 12
SPLITS = ("train", "holdout", "validation", "test")


def event_section(record: Record) -> str:
    """What a probability of this model is the probability of."""
    saved = record.preprocessing
    hours, label = f"{saved['step_hours']:g} h", saved["label"]
    features = [code(name) for name in saved["feature_names"]]
    chose = saved.get("decision_threshold") is not None
    chosen = get(record.config, "eval", "threshold")
    how = (
        f"the best {ROWS.get(get(record.config, 'eval', 'threshold_score'), 'score')} on validation"
        if chosen in ("auto", None)
        else "set by hand"
    )
    extra = [code(name) for name in saved.get("static_feature_names") or []]
    return "\n\n".join(
        [
            heading("What it predicts"),
            facts(
                [
                    ("event", words(label["text"])),
                    ("horizon", f"{label['horizon_hours']:g} h after the time of issue"),
                    ("regions", f"{len(saved['regions'])}: {words(listed(saved['regions'], 12))}"),
                    ("step of the series", hours),
                    (
                        "context",
                        f"{saved['context_length']} steps = {saved['context_days']:g} days",
                    ),
                    ("features", f"{len(features)}: {listed(features, MANY_FEATURES)}"),
                    ("known ahead", f"{len(extra)}: {listed(extra, 20)}" if extra else ""),
                    ("says rain", threshold_words(record) + (f": {how}" if chose else "")),
                ]
            ),
            _known(saved),
            _scales(saved),
        ]
    ).replace("\n\n\n\n", "\n\n")


def _known(saved: dict[str, Any]) -> str:
    """Unit and meaning in time of the features, and how each is known; "" for an older run."""
    records = get(saved, "source", "records") or {}
    known = [
        {"column": name, **records[name]} for name in saved["feature_names"] if name in records
    ]
    if not known:
        return ""
    shown, rest = known_rows(known, MANY_KNOWN)
    rows = []
    for row in shown:
        names = listed([code(shortened(name)) for name in row.columns], 3)
        rows.append([names, *(words(cell) for cell in (row.unit, row.time, row.known_by))])
    if rest:
        rows.append([f"{rest:,} more", *["…"] * 3])
    headings = ["feature", "unit", "what a stamp of the file means", "known by"]
    return (
        "What is known of the features: said by who prepared them, told by the file, inferred from "
        "the values, or assumed. The stamps of the series itself are the ends of what its values "
        f"are over.\n\n{table(headings, rows, left=4)}"
    )


def _scales(saved: dict[str, Any]) -> str:
    """What the features were like in training: whoever has other units sees it here."""
    scaling = saved["scaling"]
    rows = []
    for name, mean, std in zip(
        saved["feature_names"], scaling["mean"], scaling["std"], strict=True
    ):
        shown = f"log(1 + {name})" if name in scaling["log1p"] else name
        rows.append([code(shown), f"{mean:.4g}", f"{std:.4g}"])
    return (
        "<details><summary>Each feature's mean and standard deviation in training, to compare your "
        f"units with</summary>\n\n{table(['feature', 'mean', 'standard deviation'], rows)}\n\n"
        "</details>"
    )


def data_section(record: Record, licence: str) -> str:
    """The series, its licence, and how it was cut."""
    saved = record.preprocessing
    source = saved.get("source") or {}
    if record.is_synthetic:
        series = "**SYNTHETIC**: made by timerxl's generator"
        if source.get("seed") is not None:
            series += f", seed {source['seed']}"
    else:
        series = code(get(record.config, "data", "path") or source.get("path") or "not stated")
    digest = source.get("sha256")
    rain = get(source, "prepared", "precipitation") or {}
    hours = rain.get("hours_present_per_day")
    pairs = [
        ("series", series),
        ("licence of the data", licence),
        ("SHA-256 of the table", code(digest) if digest else ""),
        ("rows", f"{source['rows']:,}" if isinstance(source.get("rows"), int) else ""),
        ("from, to", _span(source.get("first"), source.get("last"))),
        ("rain column", _rain_column(record)),
        ("rain measured", f"{hours} of 24 hours of {code(rain['column'])}" if hours else ""),
        ("ENSO", _oni(saved)),
    ]
    parts = [heading("Training data"), facts(pairs), _split_words(saved["split"])]
    if periods := _periods(record):
        parts.append(periods)
    return "\n\n".join(parts)


def licence_of_data(record: Record, licence: str | None) -> str:
    """As it was told, or as the recipe says, or that nobody said."""
    stated = licence or get(record.config, "hub", "data_licence")
    if stated:
        return words(stated)
    if record.is_synthetic:
        return "none needed, the series is made by a program"
    return "**unknown**: it was not stated when the model was published"


def _rain_column(record: Record) -> str:
    """Of which column of a table the labels are made, and in which unit it is."""
    data = record.preprocessing["data"]
    column, unit = data.get("precipitation_column"), data.get("precipitation_unit")
    of_rain = get(record.preprocessing, "label", "threshold_mm") is not None
    if record.is_synthetic or not (of_rain and column and unit):
        return ""
    by = get(record.preprocessing, "source", "records", column, "unit", "known_by")
    return f"{code(column)}, in {words(unit)}" + (" (assumed)" if by == "assumed" else "")


def _oni(saved: dict[str, Any]) -> str:
    path, lag = get(saved, "data", "oni_path"), get(saved, "data", "oni_lag_months")
    if path is None:
        return ""
    return f"NOAA's Oceanic Niño Index ({code(path)}) of {lag} months before is a feature"


def _span(first: Any, last: Any) -> str:
    return f"{_day(first)} to {_day(last)}" if first and last else ""


def _day(time: Any) -> str:
    return words(str(time)[:10])


def _split_words(split: dict[str, Any]) -> str:
    if split["method"] == "rows":
        return (
            "**Split by row number** (`data.split=rows`), to compare with published numbers: the "
            "table, region after region, was cut in three. Windows run across regions and from one "
            "split into the next, and the splits hold different regions."
        )
    words_ = (
        "Split by time, at the same times in all regions: validation from "
        f"{_day(split['validation_from'])}, test from {_day(split['test_from'])}, with an embargo "
        f"of {split['embargo_hours']:g} h before each, so that no label of one split reaches into "
        "the next. Scaling was fitted on training rows alone."
    )
    if split.get("holdout_from"):
        words_ += (
            f" From {_day(split['holdout_from'])} on, training data were held out to watch the run."
        )
    return words_


def _periods(record: Record) -> str:
    """Windows, period and rain of what was scored; of training what its cut says."""
    rows = []
    source, split = record.preprocessing.get("source") or {}, record.preprocessing["split"]
    if split["method"] == "time" and source.get("first"):
        until = split.get("holdout_from") or split["validation_from"]
        rows.append(["train", _day(source["first"]), f"before {_day(until)}", "–", "–"])
    scored = record.forecasts
    for name in SPLITS:
        part = None if scored is None else scored[scored["split"] == name]
        if part is not None and len(part):
            times = part["issue_time"]
            share = f"{part['label'].mean():.1%}"
            rows.append([name, _day(times.min()), _day(times.max()), f"{len(part):,}", share])
    headings = ["split", "from", "to (time of issue)", "windows", "rain"]
    return table(headings, rows, left=3) if rows else ""
