"""The card's numbers: the model beside every baseline, its calibration, region by region."""

from __future__ import annotations

from typing import Any

from timerxl.evaluation.calibration import Calibration
from timerxl.evaluation.references import TITLES
from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.evaluation.tables import COLUMNS, ROWS
from timerxl.hub.card.markdown import ends, facts, heading, score, table, words
from timerxl.hub.record import Record
from timerxl.report.run_record import get

WITH_INTERVAL = ("roc_auc", "mcc", "brier", "f1")
WITHOUT = ("accuracy", "predicted_rain_share")
BETTER, WORSE = "better than it", "worse than it"
COMPARED = ("roc_auc", "mcc", "brier")
CONTAMINATED = (
    "Contaminated: with `eval.test_every_epoch` these windows were seen at every evaluation, so "
    "whatever was decided in the meantime may have been decided by them."
)


def scores_section(record: Record) -> str:
    """One table: the model, calibrated or not, and every baseline, with 95 % intervals."""
    results = record.results
    if not results:
        return "\n\n".join([heading("Scores"), _validation_only(record)])
    forecasts = {"model": results["test"], "model_calibrated": results["test_calibrated"]}
    forecasts |= results["baselines"]
    rows = []
    for name, title in TITLES.items():
        if name not in forecasts:
            continue
        cells = [f"**{title}**" if name == "model" else words(title)]
        for key in WITH_INTERVAL:
            interval = ends(get(results, "intervals", name, key))
            cells.append(score(get(forecasts, name, key)) + small(interval))
        cells += [score(get(forecasts, name, key)) for key in WITHOUT]
        rows.append(cells)
    names = [COLUMNS[key] for key in (*WITH_INTERVAL, *WITHOUT)]
    count = f"{results['num_windows']['test']:,}"
    intro = (
        f"On {count} test windows, "
        + ("**scored at every evaluation, not once**" if record.is_contaminated else "scored once")
        + " with the best model. "
        + (
            f"No intervals: {words(results['no_interval'])}. "
            if results.get("no_interval")
            else "In small print the 95 % interval, from resampled blocks of time with all regions "
            "together. "
        )
        + "The baselines are fitted on the same training windows and scored on the same test "
        "windows. Brier: lower is better."
    )
    if record.is_contaminated:
        intro += f" {CONTAMINATED}"
    parts = [heading("Scores on the test split"), intro, table(["forecast", *names], rows)]
    return "\n\n".join([*parts, *_comparison(results)])


def judged(key: str, low: float | None, high: float | None) -> str:
    """What the interval of a difference says."""
    if low is None or high is None:
        return "no interval, so chance can't be ruled out"
    if low <= 0 <= high:
        return "not told apart from it"
    return WORSE if (low > 0) == (key in LOWER_IS_BETTER) else BETTER


def _comparison(results: dict[str, Any]) -> list[str]:
    """The model against the best other forecast on validation, and against "always rain"."""
    sentences = []
    for key in COMPARED:
        of_key = get(results, "differences", key)
        if not of_key:
            continue
        low, high = of_key.get("low"), of_key.get("high")
        interval = ends([low, high], "+")
        name = TITLES.get(of_key["reference"], of_key["reference"])
        sentences.append(
            f"{ROWS[key]}: {score(of_key['estimate'], sign='+')}"
            f"{f' ({interval})' if interval else ''} against {words(name)}: "
            f"**{judged(key, low, high)}**."
        )
    found = []
    if sentences:
        found.append(
            "Against the best other forecast on validation, as paired differences on test:\n\n"
            + "\n".join(f"- {sentence}" for sentence in sentences)
        )
    f1, always = get(results, "test", "f1"), get(results, "baselines", "always_rain", "f1")
    if f1 is not None and always is not None:
        found.append(
            f'An F1 alone proves nothing: saying "rain" always gets {score(always)} here, the '
            f"model {score(f1)}."
        )
    recovered = results.get("gap_to_bayes_recovered")
    if recovered is not None:
        gap = "the ROC-AUC gap from climatology to the best possible forecast"
        found.append(
            (
                f"Of {gap}, {recovered:.0%} is recovered"
                if recovered > 0
                else f"Nothing of {gap} is recovered: it does not rank better than climatology"
            )
            + " (known because the generator knows the true probability)."
        )
    return found


def _validation_only(record: Record) -> str:
    """Of a run without results: what validation said of these weights, at threshold 0.5."""
    said = "The test split was not scored, so there is nothing to judge this model by."
    if record.is_contaminated:
        said = "The final scores on test were never made."
    scores = record.preprocessing.get("validation")
    if not isinstance(scores, dict):
        return said
    shown = [(ROWS[key], score(scores[key])) for key in ROWS if key in scores]
    intro = "Validation chose these weights, so its scores (at threshold 0.5) flatter them:"
    return f"{said} {intro}\n\n{facts(shown)}"


def calibration_section(record: Record) -> str:
    """Platt's line, what it changes, and the reliability diagram as numbers."""
    results = record.results
    line = results.get("calibration")
    if not line:
        return ""
    intro = (
        "What the model gives is raw; `probability` of the Forecaster is calibrated. Its log-odds "
        f"are {score(line['slope'])} times those of the model, {score(line['intercept'], sign='+')}"
        ", a line fitted on validation: a slope above 1 means that the model was too timid, below "
        "1 that it was too bold."
    )
    rows = []
    for name, key in (("raw", "test"), ("calibrated", "test_calibrated")):
        found = results[key]
        rows.append([name, score(found["brier"]), score(found["bss"]), score(found["ece"])])
    parts = [heading("Calibration"), intro]
    parts.append(table(["on test", "Brier", "Brier skill score", "ECE"], rows))
    points = get(results, "reliability", "model_calibrated")
    if points:
        rows = [
            [f"{p['num_windows']:,}", score(p["forecast"]), score(p["observed"])] for p in points
        ]
        parts.append("When it says so (calibrated), it rains so often (test):")
        parts.append(table(["windows", "mean P(rain)", "share with rain"], rows, left=0))
    return "\n\n".join(parts)


def small(text: str) -> str:
    """A second line in a cell, not to be broken in the middle of a narrow column."""
    kept = text.replace(" ", "\u00a0")
    return f"<br><sub>{kept}</sub>" if text else ""


def threshold_words(record: Record) -> str:
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
