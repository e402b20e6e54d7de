"""The model card: README.md of the repository. Every number in it is read from the run's files."""

from __future__ import annotations

import re

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.hub.card.data_section import data_section, event_section, licence_of_data
from timerxl.hub.card.limits_section import limits_section
from timerxl.hub.card.markdown import loud, score, words
from timerxl.hub.card.regions_section import region_section, score_regions
from timerxl.hub.card.scores_section import calibration_section, scores_section
from timerxl.hub.card.use_section import cost_section, licence_section, use_section, verdict_section
from timerxl.hub.record import RUNNING, Record
from timerxl.report.run_record import get

# metrics of the Hub where it knows them, our own keys where it doesn't
METRICS = {
    "roc_auc": ("roc_auc", "ROC-AUC"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "brier": ("brier_score", "Brier score"),
    "f1": ("f1", "F1"),
    "macro_f1": ("macro_f1", "macro-F1"),
    "accuracy": ("accuracy", "accuracy"),
}
TASK, TASK_NAME = "time-series-forecasting", "rain or no rain"
STILL_TRAINING = "STILL TRAINING."
SYNTHETIC = (
    "SYNTHETIC DATA.",
    "This model has seen no real weather: its training, validation and test series were invented "
    "by timerxl's built-in generator. Its scores say nothing of how well real rain is forecast, "
    "and it must not be used to forecast any.",
)


def model_card(
    record: Record, repo_id: str, revision: str | None = None, data_licence: str | None = None
) -> str:
    """The card as Markdown with its YAML front matter; parsing it back gives the same data."""
    name = repo_id.partition("/")[2]
    title = f"# {words(name)}{' (SYNTHETIC data)' if record.is_synthetic else ''}"
    regions, licence = score_regions(record), licence_of_data(record, data_licence)
    parts = [title, *_warnings(record), _summary(record)]
    parts += [
        event_section(record),
        data_section(record, licence),
        scores_section(record),
        calibration_section(record),
        region_section(record, regions),
        limits_section(record, regions),
        verdict_section(record),
        use_section(record, repo_id, revision),
        cost_section(record),
        licence_section(record, licence),
    ]
    body = "\n\n".join(part for part in parts if part)
    card = ModelCard(f"---\n{_front_matter(record, name).to_yaml()}\n---\n\n{body}\n")
    return str(card)


def _front_matter(record: Record, name: str) -> ModelCardData:
    tags = ["timer-xl", "timerxl", "time-series", "weather", "precipitation", "rain"]
    if record.is_synthetic:
        tags.append("synthetic-data")
    results = eval_results(record)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=TASK,
        tags=tags,
        metrics=[METRICS[key][0] for key in METRICS] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def eval_results(record: Record) -> list[EvalResult]:
    """The model's scores on test, as the Hub's model-index takes them."""
    path = get(record.config, "data", "path")
    series = "SYNTHETIC weather of timerxl's generator" if record.is_synthetic else str(path)
    kind = "synthetic" if record.is_synthetic else re.sub(r"\W+", "-", str(path)).strip("-").lower()
    found = []
    for key, (metric, title) in METRICS.items():
        value = get(record.results, "test", key)
        if not isinstance(value, int | float):
            continue
        better = " (lower is better)" if key in LOWER_IS_BETTER else ""
        found.append(
            EvalResult(
                task_type=TASK,
                task_name=TASK_NAME,
                dataset_type=kind or "series",
                dataset_name=series,
                dataset_split="test",
                metric_type=metric,
                metric_name=title + better,
                metric_value=round(float(value), 6),
            )
        )
    return found


def _warnings(record: Record) -> list[str]:
    """What a reader must know before the first number, the loudest first."""
    found = []
    if record.is_synthetic:
        found.append(loud(*SYNTHETIC))
    step = record.step
    if record.outcome == "stopped":
        weights = (
            f"those of the stop (step {step})"
            if record.is_checkpoint
            else f"the best by validation before the stop (step {step})"
        )
        reached = get(record.verdict, "stopped_by", "name") == "target"
        judgement = "It was" if reached else "This run is not a good one: it was"
        found.append(
            loud(
                "STOPPED BY A MONITOR.",
                f"{judgement} {_ended(record.reason)} The weights are {weights}. "
                f"{_unscored(record)}",
            )
        )
    if record.outcome == "failed":
        found.append(
            loud(
                "FAILED RUN.",
                f"The run did not end well: {_ended(record.reason)} The weights are the best by "
                f"validation until then (step {step}). {_unscored(record)}".strip(),
            )
        )
    if record.outcome == RUNNING:
        found.append(
            loud(
                STILL_TRAINING,
                f"The best model so far, of step {step}. The final scores on the test split have "
                "not been made yet, no threshold has been chosen, nothing is calibrated.",
            )
        )
    if record.is_contaminated:
        found.append(
            loud(
                "CONTAMINATED TEST SPLIT.",
                "It was scored at every evaluation of the training (eval.test_every_epoch), not "
                "once at the end: its scores are not those of unseen data.",
            )
        )
    return found


def _ended(text: str) -> str:
    return text.rstrip(". ") + "."


def _unscored(record: Record) -> str:
    if record.results:
        return ""
    if record.is_contaminated:
        return "The final scores on the test split were never made."
    return "The test split was never scored."


def _summary(record: Record) -> str:
    hours = get(record.preprocessing, "label", "horizon_hours")
    regions = record.preprocessing["regions"]
    kind = "SYNTHETIC " if record.is_synthetic else ""
    text = (
        f"A [Timer-XL](https://arxiv.org/abs/2410.04803) classifier that gives the probability of "
        f"rain within the next {hours:g} hours, for {len(regions)} {kind}"
        f"region{'s' if len(regions) > 1 else ''}."
    )
    test = get(record.results, "test", "roc_auc")
    if test is not None:
        text += f" ROC-AUC on test {score(test)}; what that is worth stands beside it below."
    return text + " Trained and published with timerxl, card written from the run's files."
