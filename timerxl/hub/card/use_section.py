"""The card's practical part: verdicts of the monitors, code to paste, what the run cost."""

from __future__ import annotations

from typing import Any

from timerxl.hub.card.markdown import bullets, code, facts, heading, score, table, words
from timerxl.hub.card.scores_section import threshold_words
from timerxl.hub.record import Record
from timerxl.report.run_record import get

VERSIONS = "timerxl python torch transformers accelerate deepspeed numpy scikit-learn".split()


def verdict_section(record: Record) -> str:
    """What the monitors said, as they said it."""
    title = heading("What the monitors said")
    if not record.verdict:
        return f"{title}\n\nThere is no verdict.json in the run."
    verdicts = record.verdict.get("verdicts") or []
    stopped = record.verdict.get("stopped_by")
    if not verdicts and not stopped:
        return f"{title}\n\nNothing: no sign of a collapse, of overfitting or of the like."
    sentences = []
    if isinstance(stopped, dict):
        sentences.append(f"**Stopped the run**: {_said(stopped)}")
    sentences += [_said(found) for found in verdicts if not _same(found, stopped)]
    return f"{title}\n\n{bullets(sentences)}"


def _same(found: dict[str, Any], stopped: Any) -> bool:
    keys = ("name", "severity", "step")
    return isinstance(stopped, dict) and all(found.get(key) == stopped.get(key) for key in keys)


def _said(found: dict[str, Any]) -> str:
    where = f" at step {found['step']}" if found.get("step") is not None else ""
    name = words(str(found.get("name")).replace("_", " "))
    said = " ".join(words(found.get(key) or "") for key in ("explanation", "remedy"))
    return f"**{name}** ({words(found.get('severity'))}){where}: {said.strip()}"


def use_section(record: Record, repo_id: str, revision: str | None) -> str:
    """Code that runs as it stands: with timerxl, and with transformers alone."""
    saved = record.preprocessing
    of = f', revision="{revision}"' if revision else ""
    named = f'"{repo_id}"{of}, trust_remote_code=True'
    ask = get(saved, "data", "oni_path")
    return "\n\n".join(
        [
            heading("How to use it"),
            f"With timerxl{_version(record)}, from a table (Parquet, CSV or a pandas frame) of "
            f"{code(get(saved, 'data', 'timestamp_column') or 'timestamp')}, "
            f"{code(get(saved, 'data', 'region_column') or 'region')} and the features, in "
            "physical units; it scales, checks and calibrates:",
            "```python\n"
            "from timerxl import Forecaster\n\n"
            f'forecaster = Forecaster.from_pretrained("{repo_id}"{of})\n'
            f"{_given(record)}\n"
            'print(forecasts[["region", "issue_time", "probability", "rain"]])\n'
            "```",
            f"`probability` is the calibrated one, `rain` is said {threshold_words(record)}.",
            f"It reads {code(ask)} (NOAA) from the working folder." if ask else "",
            "With transformers alone, from the same table to the calibrated P(rain) after the last "
            "step of each region, in the order in which they come:",
            "```python\n"
            "import pandas as pd\n"
            "from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification\n\n"
            f"extractor = AutoFeatureExtractor.from_pretrained({named})\n"
            f"model = AutoModelForSequenceClassification.from_pretrained({named})\n"
            'inputs = extractor(pd.read_parquet("rain.parquet"), return_tensors="pt")\n'
            "probability = extractor.post_process(model(**inputs))\n"
            "```",
            "Here the columns are those of `feature_names` in `preprocessor_config.json`, in the "
            "units of training: precipitation in mm, a direction as its sine and cosine; units "
            "are not checked and holes are not filled. `trust_remote_code` runs the Python files "
            "of this repository: read them, and pin `revision` to the commit that you read.",
        ]
    ).replace("\n\n\n\n", "\n\n")


def _given(record: Record) -> str:
    if record.is_synthetic:
        return 'forecasts = forecaster.predict(None, at="latest")  # None: the SYNTHETIC series'
    return 'forecasts = forecaster.predict("rain.parquet", at="latest")'


def licence_section(record: Record, data_licence: str) -> str:
    """Who may do what with which part."""
    pairs = [
        ("code of the model (`*.py`)", "Apache-2.0"),
        ("weights", "**unknown**: it was not stated when the model was published"),
        ("data it was trained on", data_licence),
    ]
    return "\n\n".join([heading("Licences"), facts(pairs)])


def cost_section(record: Record) -> str:
    """With what it was trained, how long that took, and what had been predicted."""
    made, results = record.environment, record.results
    versions = [f"{name} {made[name]}" for name in VERSIONS if made.get(name)]
    processes = made.get("processes")
    on = f"{processes} process{'es' if processes != 1 else ''} on {made.get('device')}"
    precision = made.get("precision")
    parameters = results.get("num_parameters")
    pairs = [
        ("recipe", code(record.config.get("recipe") or record.name)),
        ("started", words(str(made.get("started"))[:10]) if made.get("started") else ""),
        ("machine", words(on) if made.get("device") else ""),
        ("precision", words({"no": "fp32"}.get(precision, precision)) if precision else ""),
        ("parameters", f"{parameters:,}" if parameters else ""),
        ("steps", _steps(results)),
        ("stopped because", words(results.get("stop_reason") or "")),
        ("seconds in all", _count(results.get("seconds"))),
        ("seconds of training", _count(results.get("train_seconds"))),
        ("samples per second", score(results.get("samples_per_s"), 1) if results else ""),
        ("peak memory, GiB", score(results.get("peak_memory_gib"), 2) if results else ""),
        ("versions", words(", ".join(versions))),
    ]
    parts = [heading("How it was made"), facts(pairs)]
    if plan := results.get("plan"):
        rows = [
            _planned(plan, title, key, digits)
            for title, key, digits in (
                ("peak memory, GiB", "peak_memory_gib", 2),
                ("seconds of training an epoch", "epoch_seconds", 0),
            )
        ]
        parts.append("What the plan said before the first step, and what came:")
        parts.append(table(["", "predicted", "measured", "prediction is"], rows))
    parts.append(
        "Every setting is in `training_config.yaml`, every logged number in `metrics.jsonl`, every "
        "score in `results.json`."
        if results
        else "Every setting is in `training_config.yaml`."
    )
    return "\n\n".join(parts)


def _version(record: Record) -> str:
    found = record.environment.get("timerxl")
    return f" {words(found)}" if found else ""


def _steps(results: dict[str, Any]) -> str:
    if results.get("steps") is None:
        return ""
    best = results.get("best_step")
    return f"{results['steps']:,}" + (f", best model from step {best:,}" if best else "")


def _count(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else ""


def _planned(plan: dict[str, Any], title: str, key: str, digits: int) -> list[str]:
    predicted, measured = plan.get(f"predicted_{key}"), plan.get(f"measured_{key}")
    error = f"{predicted / measured - 1:+.0%}" if predicted and measured else "–"
    return [title, score(predicted, digits), score(measured, digits), error]
