"""The model card, README.md of a published model: the words stand in templates/card.md.jinja.

This module collects what they need; every number is read from the run's files. What a file holds
is never markup: a value that is not :class:`Markdown` is escaped where the template prints it,
which huggingface_hub's ``ModelCard.from_template`` would not do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from markupsafe import Markup

from timerxl.data.tables.columns import known_rows, shortened
from timerxl.evaluation.bootstrap import resample_scores
from timerxl.evaluation.calibration import Calibration
from timerxl.evaluation.references import BEST_POSSIBLE, TITLES
from timerxl.evaluation.scores import LOWER_IS_BETTER, forecast_scores, roc_auc
from timerxl.evaluation.tables import COLUMNS, ROWS
from timerxl.hub.record import Record
from timerxl.report.run_record import get, number
from timerxl.untrusted import listed, plain, schema_error

# The Hub's name of a metric where it knows one, else our own key.
METRICS = {
    "roc_auc": ("roc_auc", "ROC-AUC"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "brier": ("brier_score", "Brier score"),
    "f1": ("f1", "F1"),
    "macro_f1": ("macro_f1", "macro-F1"),
    "accuracy": ("accuracy", "accuracy"),
}
TASK, TASK_NAME = "time-series-forecasting", "rain or no rain"
TAGS = ("timer-xl", "timerxl", "time-series", "weather", "precipitation", "rain")
STILL_TRAINING = "STILL TRAINING."
UNKNOWN_LICENCE = "**unknown**: it was not stated when the model was published"

WITH_INTERVAL, WITHOUT = ("roc_auc", "mcc", "brier", "f1"), ("accuracy", "predicted_rain_share")
COMPARED = ("roc_auc", "mcc", "brier")
CALIBRATED = ("brier", "bss", "ece")  # calibration changes these
# Scores by which one forecast is better than another; hits or false alarms alone are none.
JUDGING = (
    *("roc_auc", "pr_auc", "brier", "bss", "ece", "mcc", "hss", "pss", "ets", "csi", "sedi"),
    *("f1", "macro_f1", "accuracy", "balanced_accuracy"),
)
NO_SKILL = {"bss": 0.0, "mcc": 0.0, "hss": 0.0, "pss": 0.0, "ets": 0.0, "balanced_accuracy": 0.5}
NO_SKILL |= {"roc_auc": 0.5}
NAMES = {key: title.partition(" (")[0] for key, title in (COLUMNS | ROWS).items()}
NAMES |= {"balanced_accuracy": "balanced accuracy"}
BETTER, WORSE = "better than it", "worse than it"
VERSIONS = "timerxl python torch transformers accelerate deepspeed numpy scikit-learn".split()


def model_card(
    record: Record, repo_id: str, revision: str | None = None, data_licence: str | None = None
) -> str:
    """The card as Markdown with its YAML front matter; parsing it back gives the same data."""
    name = repo_id.partition("/")[2]
    body = TEMPLATES.get_template("card.md.jinja").render(
        record=record,
        saved=record.preprocessing,
        source=record.preprocessing.get("source") or {},
        results=record.results,
        made=record.environment,
        get=get,
        table=table,
        title=name + (" (SYNTHETIC data)" if record.is_synthetic else ""),
        still_training=STILL_TRAINING,
        repo_id=repo_id,
        revision=Markdown(f', revision="{verbatim(revision)}"') if revision else "",
        threshold=_threshold(record),
        audit=record.audit.get("lines") or [],
        **_data(record, data_licence),
        **_scores(record),
        **_regions(record),
        **_limits(record.results),
        **_run(record),
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return str(ModelCard(f"---\n{_front_matter(record, name).to_yaml()}\n---\n\n{body}\n"))


# Pieces of Markdown


class Markdown(str):
    """Text that is Markdown already, and is printed as it is."""

    def __html__(self) -> str:  # so that jinja2 takes it for escaped
        return self


def escaped(value: Any) -> Markdown:
    """One line without markup; Markdown and what the template itself made stay as they are."""
    if isinstance(value, Markup | Markdown):
        return Markdown(value)
    if isinstance(value, Undefined):
        raise RuntimeError(f"the card's template prints what is not there: {value!r}")
    return Markdown(re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", plain(" ".join(str(value).split()))))


def verbatim(value: Any) -> Markdown:
    """One line of code."""
    return Markdown(plain(" ".join(str(value).split())).replace("`", "'"))


def code(value: Any) -> Markdown:
    """`` `one line` ``, also in a table."""
    line = verbatim(value).replace("|", r"\|")
    return Markdown(f"`{line}`" if line else "")


def codes(names: Sequence[str], most: int = 1_000_000) -> Markdown:
    """Names as code, of many the first."""
    shown = ", ".join(code(name) for name in names[:most])
    return Markdown(f"{shown} and {len(names) - most} more" if len(names) > most else shown)


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Markdown:
    """The first ``left`` columns hold text, the others numbers."""
    rule = [":---" if index < left else "---:" for index in range(len(headings))]
    lines = [[escaped(cell) for cell in line] for line in (headings, rule, *rows)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def two_lines(value: Any, small: str) -> Markdown:
    """A cell with small print, not to be broken in the middle of a narrow column."""
    kept = escaped(small).replace(" ", "\u00a0")
    return Markdown(f"{escaped(value)}<br><sub>{kept}</sub>") if small else escaped(value)


def score(value: Any, digits: int = 3, sign: str = "") -> str:
    """A number for a reader, a dash where there is none."""
    return "–" if schema_error(value, float) else f"{value:{sign}.{digits}f}"


def count(value: Any) -> str:
    """A whole number with commas, a dash where there is none."""
    return "–" if schema_error(value, float) else f"{value:,.0f}"


def percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def interval(ends: Any, sign: str = "") -> str:
    """``0.82 to 0.86``, or nothing."""
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        return ""
    return f"{score(ends[0], sign=sign)} to {score(ends[1], sign=sign)}"


def day(time: Any) -> str:
    return "–" if time is None else str(time)[:10]


def short(value: Any) -> str:
    """A number as it is said: 24, 0.5."""
    return "–" if schema_error(value, float) else f"{value:g}"


TEMPLATES = Environment(
    loader=PackageLoader("timerxl.hub"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=escaped,
    trim_blocks=True,
    lstrip_blocks=True,
)
FILTERS = (code, codes, verbatim, listed, score, count, percent, short, day)
TEMPLATES.filters |= {one.__name__: one for one in FILTERS}


def _front_matter(record: Record, name: str) -> ModelCardData:
    """With the scores on test, as the Hub's model-index takes them."""
    path = str(get(record.config, "data", "path"))
    series, kind = path, re.sub(r"\W+", "-", path).strip("-").lower()
    if record.is_synthetic:
        series, kind = "SYNTHETIC weather of timerxl's generator", "synthetic"
    results = [
        EvalResult(
            task_type=TASK,
            task_name=TASK_NAME,
            dataset_type=kind or "series",
            dataset_name=series,
            dataset_split="test",
            metric_type=metric,
            metric_name=title + (" (lower is better)" if key in LOWER_IS_BETTER else ""),
            metric_value=round(float(value), 6),
        )
        for key, (metric, title) in METRICS.items()
        if (value := number(get(record.results, "test", key))) is not None
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=[*TAGS, "synthetic-data"] if record.is_synthetic else list(TAGS),
        metrics=[metric for metric, _ in METRICS.values()] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


# The data


def _data(record: Record, data_licence: str | None) -> dict[str, Any]:
    """What is predicted, from which data, and how they were cut."""
    saved, config = record.preprocessing, record.config
    scaling, records = saved["scaling"], get(saved, "source", "records") or {}
    scales = zip(saved["feature_names"], scaling["mean"], scaling["std"], strict=True)
    kinds = [
        {"column": name, **records[name]} for name in saved["feature_names"] if name in records
    ]
    shown, rest = known_rows(kinds, 12)
    known: list[list[str]] = [
        [codes([shortened(name) for name in row.columns], 3), row.unit, row.time, row.known_by]
        for row in shown
    ]
    if rest:
        known.append([f"{rest:,} more", *["…"] * 3])
    licence: str = data_licence or get(config, "hub", "data_licence") or ""
    if not licence:
        by_program = "none needed, the series is made by a program"
        licence = by_program if record.is_synthetic else Markdown(UNKNOWN_LICENCE)
    rule = ROWS.get(get(config, "eval", "threshold_score"), "score")
    is_chosen = get(config, "eval", "threshold") in ("auto", None)
    return {
        "licence": licence,
        "path": get(config, "data", "path") or get(saved, "source", "path") or "not stated",
        "static_features": saved.get("static_feature_names") or [],
        "threshold_choice": f"the best {rule} on validation" if is_chosen else "set by hand",
        "known": known,
        "scales": [
            [
                code(f"log(1 + {name})" if name in scaling["log1p"] else name),
                f"{mean:.4g}",
                f"{std:.4g}",
            ]
            for name, mean, std in scales
        ],
        "rain_column": _rain_column(record),
        "periods": _periods(record),
    }


def _rain_column(record: Record) -> dict[str, Any] | None:
    """Of which column of a table the labels are made, and in which unit it is."""
    data = record.preprocessing["data"]
    name, unit = data.get("precipitation_column"), data.get("precipitation_unit")
    is_of_rain = get(record.preprocessing, "label", "threshold_mm") is not None
    if record.is_synthetic or not (is_of_rain and name and unit):
        return None
    known_by = get(record.preprocessing, "source", "records", name, "unit", "known_by")
    return {"name": name, "unit": unit, "is_assumed": known_by == "assumed"}


def _periods(record: Record) -> list[list[str]]:
    """Windows, period and rain of what was scored; of training what its cut says."""
    rows = []
    split, first = record.preprocessing["split"], get(record.preprocessing, "source", "first")
    if split["method"] == "time" and first:
        until = split.get("holdout_from") or split.get("validation_from")
        rows.append(["train", day(first), f"before {day(until)}", "–", "–"])
    for name in ("train", "holdout", "validation", "test"):
        part = None if record.forecasts is None else _of_split(record.forecasts, name)
        if part is not None and len(part):
            times = part["issue_time"]
            period = [day(times.min()), day(times.max())]
            rows.append([name, *period, count(len(part)), percent(part["label"].mean())])
    return rows


def _of_split(forecasts: pd.DataFrame, name: str) -> pd.DataFrame:
    return forecasts[forecasts["split"] == name]


def _threshold(record: Record) -> str:
    """From which P(rain) on it says rain: the raw one, and the calibrated one it comes to."""
    threshold = record.preprocessing.get("decision_threshold")
    if threshold is None:
        return "from P(rain) = 0.5 on; no threshold was chosen"
    line = record.preprocessing.get("calibration")
    raw = f"from a raw P(rain) of {score(threshold)} on"
    if line is None:
        return f"{raw} (nothing is calibrated)"
    calibrated = float(Calibration.from_dict(line).apply(threshold))
    if line["slope"] <= 0:
        return f"{raw} (calibrated {score(calibrated)}, and lower for more: see the limits)"
    return f"{raw}, which is {score(calibrated)} calibrated"


# The scores


def _scores(record: Record) -> dict[str, Any]:
    """The model, calibrated or not, and every baseline; of a run without results validation's."""
    results, saved = record.results, record.preprocessing
    forecasts = {"model": results.get("test"), "model_calibrated": results.get("test_calibrated")}
    forecasts |= results.get("baselines") or {}
    rows = []
    for name, title in TITLES.items():
        if name in forecasts:
            of = forecasts[name]
            intervals = get(results, "intervals", name)
            cells: list[str] = [Markdown(f"**{title}**") if name == "model" else title]
            cells += [
                two_lines(score(get(of, key)), interval(get(intervals, key)))
                for key in WITH_INTERVAL
            ]
            rows.append(cells + [score(get(of, key)) for key in WITHOUT])
    validation = get(saved, "validation")
    points = get(results, "reliability", "model_calibrated") or []
    sample = None
    if record.forecasts is not None:
        test = _of_split(record.forecasts, "test")
        span = test["issue_time"].max() - test["issue_time"].min()
        days = span.total_seconds() / 86400
        sample = {"regions": test["region"].nunique(), "days": days}
    plan = results.get("plan")
    members = []
    for one in [*(results.get("parts") or []), *(results.get("members") or [])]:
        run = f"{one.get('recipe') or 'a recipe'}, seed {one.get('seed')}"
        cells = [one.get("name"), run if "seed" in one else "alone"]
        for key in WITH_INTERVAL:
            gap = get(one, "differences", key) or {}
            shown = interval([gap.get("low"), gap.get("high")], "+")
            cells.append(two_lines(score(get(one, "test", key)), shown))
        members.append(cells)
    return {
        "member_columns": ["member", "run", *(COLUMNS[key] for key in WITH_INTERVAL)],
        "member_rows": members,
        "score_columns": ["forecast", *(COLUMNS[key] for key in (*WITH_INTERVAL, *WITHOUT))],
        "score_rows": rows,
        "differences": _differences(results),
        "validation": validation
        and [(ROWS[key], validation[key]) for key in ROWS if key in validation],
        "calibration_rows": [
            [name, *(score(get(results, key, one)) for one in CALIBRATED)]
            for name, key in (("raw", "test"), ("calibrated", "test_calibrated"))
        ],
        "reliability": [
            [count(get(p, "num_windows")), score(get(p, "forecast")), score(get(p, "observed"))]
            for p in points
        ],
        "test_sample": sample,
        "plan_rows": plan
        and [
            _planned(plan, "peak memory, GiB", "peak_memory_gib", 2),
            _planned(plan, "seconds of training an epoch", "epoch_seconds", 0),
        ],
    }


def _planned(plan: dict[str, Any], title: str, key: str, digits: int) -> list[str]:
    predicted, measured = plan.get(f"predicted_{key}"), plan.get(f"measured_{key}")
    error = f"{predicted / measured - 1:+.0%}" if predicted and measured else "–"
    return [title, score(predicted, digits), score(measured, digits), error]


def _differences(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The model against the best other forecast on validation, and what chance leaves of it."""
    found = []
    for key in COMPARED:
        if of := get(results, "differences", key):
            low, high = of.get("low"), of.get("high")
            if low is None or high is None:
                verdict = "no interval, so chance can't be ruled out"
            elif low <= 0 <= high:
                verdict = "not told apart from it"
            else:
                verdict = WORSE if (low > 0) == (key in LOWER_IS_BETTER) else BETTER
            found.append(
                {
                    "key": key,
                    "title": ROWS[key],
                    "estimate": of.get("estimate"),
                    "interval": interval([low, high], "+"),
                    "reference": TITLES.get(of["reference"], of["reference"]),
                    "verdict": verdict,
                }
            )
    return found


def _regions(record: Record) -> dict[str, Any]:
    """The table by region, from forecasts.parquet with the threshold of all; and the regions whose
    ROC-AUC shows no skill, or is not above that of a simpler forecast."""
    rows, unsure, beaten, unranked = [], [], [], []
    threshold: Any = record.results.get("threshold")
    test = pd.DataFrame({"region": []})
    if record.forecasts is not None and threshold is not None:
        test = _of_split(record.forecasts, "test")
    others = [name for name in record.results.get("baselines", []) if name in test]
    for region, part in test.groupby("region", sort=True):
        label, given = part["label"].to_numpy(np.int64), part["model"].to_numpy(np.float64)
        scores, name = forecast_scores(given, label, threshold), record.scrubber.text(str(region))
        value, ends = scores["roc_auc"], _region_interval(record, part)
        of_others = [
            (TITLES[other], roc_auc(part[other].to_numpy(np.float64), label))
            for other in TITLES
            if other in others and other not in BEST_POSSIBLE
        ]
        ranked = [one for one in of_others if one[1] == one[1]]
        best = max(ranked, key=lambda one: one[1]) if ranked else None
        shown = interval(ends)
        rows.append(
            [
                *(name, count(len(part)), percent(label.mean()), two_lines(score(value), shown)),
                *(score(scores["mcc"]), score(scores["brier"])),
                two_lines(score(best[1]), best[0]) if best else "–",
            ]
        )
        if value != value:
            unranked.append(name)
            continue
        if value <= 0.5 or (ends and ends[0] <= 0.5):
            unsure.append(f"{name} ({score(value)}{f', {shown}' if shown else ''})")
        if best and value <= best[1]:
            beaten.append(f"{name} ({score(value)}; {best[0]} {score(best[1])})")
    return {
        "region_rows": rows,
        "unsure_regions": unsure,
        "beaten_regions": beaten,
        "unranked_regions": unranked,
    }


def _region_interval(record: Record, part: pd.DataFrame) -> tuple[float, float] | None:
    """Of the ROC-AUC, resampled as the run's own scores were; None where there is too little."""
    settings = record.config.get("eval") or {}
    resamples, days = settings.get("num_resamples", 1000), settings.get("block_days", 14.0)
    if schema_error(resamples, range(1, 10**6)) or schema_error(days, float) or days <= 0:
        return None
    label, times = part["label"].to_numpy(np.int64), part["issue_time"].to_numpy("datetime64[s]")
    forecast = {"model": part["model"].to_numpy(np.float64)}
    found = resample_scores(
        forecast, label, times, {"model": 0.5}, block_days=days, num_resamples=resamples
    )["model"]["roc_auc"].interval()
    return None if found.low is None or found.high is None else (found.low, found.high)


# The limits


def _limits(results: dict[str, Any]) -> dict[str, Any]:
    """Every score that shows no skill, or that a simpler forecast reaches."""
    if not results:
        return {}
    says = {0.0: "no rain", 1.0: "rain"}
    share, slope = (
        get(results, "test", "predicted_rain_share"),
        get(results, "calibration", "slope"),
    )
    not_better: dict[tuple[str, str], list[str]] = {}
    for of in _differences(results):
        if of["verdict"] != BETTER:
            verdict = "worse than" if of["verdict"] == WORSE else "not shown to beat"
            not_better.setdefault((verdict, of["reference"]), []).append(NAMES[of["key"]])
    worse = []
    for key in CALIBRATED:
        raw, after = (number(get(results, kind, key)) for kind in ("test", "test_calibrated"))
        sign = -1 if key in LOWER_IS_BETTER else 1
        if None not in (raw, after) and sign * round(after, 4) < sign * round(raw, 4):  # type: ignore[arg-type]
            worse.append(f"{NAMES[key]} {score(after, 4)} instead of {score(raw, 4)}")
    return {
        "says_only": says.get(share),
        "without_skill": _without_skill(results),
        "beaten_by": _beaten_by(results),
        "not_better": [(*which, scores) for which, scores in not_better.items()],
        "broken_slope": slope if slope is not None and slope <= 0 else None,
        "calibrated_worse": worse,
    }


def _without_skill(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores that a forecast without any knowledge reaches, or that may be such."""
    found = []
    for key, nothing in NO_SKILL.items():
        for kind in ("test", "test_calibrated") if key in CALIBRATED else ("test",):
            value = number(get(results, kind, key))
            of: dict[str, Any] = {"name": NAMES[key], "no_skill": nothing, "value": value}
            of |= {"interval": "", "is_calibrated": kind == "test_calibrated"}
            ends = get(results, "intervals", "model", key)
            low = ends[0] if ends and kind == "test" else None
            if value is not None and value <= nothing:
                found.append(of)
            elif value is not None and low is not None and low <= nothing:
                found.append(of | {"interval": interval(ends)})
    return found


def _beaten_by(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Every simpler forecast that does at least as well, with the scores by which it does: those
    of the table with their numbers, the others by name."""
    others = {TITLES[n]: of for n, of in results["baselines"].items() if n not in BEST_POSSIBLE}
    dry = number(get(results, "baselines", "always_rain", "accuracy"))
    if dry is not None:
        others["always dry"] = {"accuracy": 1 - dry}
    found = []
    for title, theirs in others.items():
        lost, named = [], []
        for key in JUDGING:
            other, sign = number(get(theirs, key)), -1 if key in LOWER_IS_BETTER else 1
            raw, after = (number(get(results, kind, key)) for kind in ("test", "test_calibrated"))
            ours = {NAMES[key]: raw}
            if key in CALIBRATED and score(raw) != score(after):
                ours = {f"raw {NAMES[key]}": raw, f"calibrated {NAMES[key]}": after}
            for name, value in ours.items():
                if value is None or other is None or sign * value > sign * other:
                    continue
                if key in COLUMNS:
                    lost.append(f"{name} ({score(other)} against {score(value)})")
                else:
                    named.append(name)
        if lost or named:
            found.append((title, lost + named))
    return found


# The run


def _run(record: Record) -> dict[str, Any]:
    """What the monitors said, with what it was trained, and what that cost."""
    made, results = record.environment, record.results
    verdicts, stopped = record.verdict.get("verdicts") or [], record.verdict.get("stopped_by")
    same = ("name", "severity", "step")
    others = [v for v in verdicts if not stopped or any(v.get(k) != stopped.get(k) for k in same)]
    processes, precision, steps = made.get("processes"), made.get("precision"), results.get("steps")
    at_best = f", best model from step {results['best_step']:,}" if results.get("best_step") else ""
    versions = [f"{name} {made[name]}" for name in VERSIONS if made.get(name)]
    on = f"{processes} process{'es' if processes != 1 else ''} on {made.get('device')}"
    return {
        "verdicts": ([_verdict(stopped, True)] if stopped else []) + [_verdict(v) for v in others],
        "cost": [
            ("recipe", code(record.config.get("recipe") or record.name)),
            ("started", day(made.get("started") or "")),
            ("machine", on if made.get("device") else ""),
            ("precision", {"no": "fp32"}.get(precision, precision) if precision else ""),
            ("parameters", _thousands(results.get("num_parameters") or None)),
            ("steps", f"{steps:,}{at_best}" if steps is not None else ""),
            ("stopped because", results.get("stop_reason")),
            ("seconds in all", _thousands(results.get("seconds"))),
            ("seconds of training", _thousands(results.get("train_seconds"))),
            ("windows per second", score(results.get("samples_per_s"), 1) if results else ""),
            ("peak memory, GiB", score(results.get("peak_memory_gib"), 2) if results else ""),
            ("versions", ", ".join(versions)),
        ],
    }


def _thousands(value: Any) -> str:
    return "" if value is None else count(value)


def _verdict(found: dict[str, Any], is_stop: bool = False) -> dict[str, Any]:
    said = " ".join(found.get(key) or "" for key in ("explanation", "remedy"))
    name = str(found.get("name")).replace("_", " ")
    severity, step = found.get("severity"), found.get("step")
    return {"name": name, "severity": severity, "step": step, "said": said, "is_stop": is_stop}
