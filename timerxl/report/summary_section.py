"""The top of a run's page: how it ended, on which data, and what its monitors said."""

from __future__ import annotations

import json
from typing import Any

from timerxl.evaluation.references import TITLES
from timerxl.evaluation.scores import LOWER_IS_BETTER
from timerxl.evaluation.tables import ROWS, recovered_words
from timerxl.files import json_ready
from timerxl.report.markup import (
    Section,
    details,
    facts,
    interval,
    paragraph,
    score,
    table,
    text,
)
from timerxl.report.outcome_sections import SIGNS, Outcome, Said, outcome_of
from timerxl.report.run_record import Run, get, number

SYNTHETIC = (
    "SYNTHETIC DATA: invented weather of the built-in generator, no observation. Nothing here says "
    "how well real rain is forecast."
)
CONTAMINATED = (
    "CONTAMINATION: the test split was scored at every evaluation (eval.test_every_epoch). Whoever "
    "looked at those numbers has chosen by them, so the test scores below are no longer those of "
    "unseen data. Use data.holdout_fraction to watch a split that nothing is reported on."
)


def document_title(run: Run) -> str:
    """``quickstart: FINISHED (SYNTHETIC data), run NAME``."""
    kind = " (SYNTHETIC data)" if run.is_synthetic else ""
    return f"{run.recipe}: {outcome_of(run).word}{kind} – run {run.name}"


def opening(run: Run) -> str:
    """Markup above the sections."""
    outcome = outcome_of(run)
    parts = [
        f'<h1>Training run {text(run.recipe)} <small class="dim">in {text(run.name)}</small></h1>',
        badge(outcome),
    ]
    if run.is_synthetic:
        parts.append(f'<p class="loud"><b>{text(SYNTHETIC)}</b></p>')
    if run.is_synthetic is None:
        parts.append(paragraph("Whether the data are synthetic is not in the files.", "loud"))
    if run.is_contaminated:
        parts.append(f'<p class="loud"><b>{text(CONTAMINATED)}</b></p>')
    if run.problems:
        listed = "".join(f"<li>{text(problem)}</li>" for problem in run.problems)
        parts.append(f'<div class="loud"><b>Not readable:</b><ul>{listed}</ul></div>')
    parts += [paragraph(sentence) for sentence in verdict_on_skill(run)]
    parts.append(facts(_facts(run)))
    return "".join(parts)


def badge(outcome: Outcome) -> str:
    """How a run ended: a sign, a word and a colour."""
    sentence = f" {text(outcome.sentence)}" if outcome.sentence else ""
    return (
        f'<p><span class="outcome {outcome.kind}">{outcome.symbol} {text(outcome.word)}</span>'
        f"{sentence}</p>"
    )


def verdict_on_skill(run: Run) -> list[str]:
    """Sentences on the test scores: ROC-AUC and MCC beside the reference, F1 beside always-rain.

    Without test scores one on the latest evaluation.
    """
    if run.results is None:
        return _latest(run)
    found = []
    for key in ("roc_auc", "mcc"):
        value, of_key = run.score("model", key), get(run.results, "differences", key)
        if value is None:
            continue
        ends = interval(*ends_of(get(run.results, "intervals", "model", key)))
        sentence = f"{ROWS[key]} on test {score(value)}{f' ({ends})' if ends else ''}"
        if (gap := number(get(of_key, "estimate"))) is not None:
            low, high = number(get(of_key, "low")), number(get(of_key, "high"))
            name = str(get(of_key, "reference"))
            name = TITLES.get(name, name)
            ends = interval(low, high, "+")
            sentence += f"; {score(gap, sign='+')}{f' ({ends})' if ends else ''} against {name}"
            sentence += f", the best other forecast on validation: {judged(key, low, high)}"
        found.append(sentence + ".")
    f1, always = run.score("model", "f1"), run.score("always_rain", "f1")
    if f1 is not None and always is not None:
        found.append(f'F1 on test {score(f1)}; saying "rain" always gets {score(always)}.')
    return found


def _latest(run: Run) -> list[str]:
    whole = run.last("validation")
    latest = whole or run.last("check")
    known = [
        f"{ROWS[key]} {score(value)}"
        for key in ("roc_auc", "mcc", "f1", "accuracy")
        if (value := number(latest.get(key))) is not None
    ]
    place = run.place(latest)
    if not known or place is None:
        return []
    windows = number(latest.get("num_windows"))
    of_it = "" if whole or windows is None else f" (a sample of {windows:,.0f} windows)"
    sentence = f"Latest on validation{of_it}, {run.axis} {place:.4g}: {', '.join(known)}"
    if (rain := run.base_rate) is not None:
        sentence += f'; saying "rain" always gets F1 {score(2 * rain / (1 + rain))}, '
        sentence += f"accuracy {score(rain)}"
    return [sentence + "."]


def judged(key: str, low: float | None, high: float | None) -> str:
    """What the interval of a difference says."""
    if low is None or high is None:
        return "no interval, so nothing is known of chance"
    if low <= 0 <= high:
        return "not told apart"
    return "worse" if (low > 0) == (key in LOWER_IS_BETTER) else "better"


def ends_of(pair: Any) -> tuple[float | None, float | None]:
    """[low, high] of results.json."""
    if not isinstance(pair, list) or len(pair) != 2:
        return None, None
    return number(pair[0]), number(pair[1])


def _facts(run: Run) -> list[tuple[str, str]]:
    found, results = [], run.results or {}
    latest = [run.last(kind) for kind in ("train", "validation", "check") if run.last(kind)]
    steps = number(results.get("steps"))
    if steps is None and latest:
        steps = max(event["step"] for event in latest)
    if steps is not None:
        total = number(run.last("start").get("total_steps"))
        of_all = f" of {total:,.0f}" if total is not None else ""
        found.append(("steps", f"{steps:,.0f}{of_all}"))
        if run.steps_per_epoch:
            found.append(("epochs", f"{steps / run.steps_per_epoch:.3g}"))
    for key, name, shown in (
        ("best_step", "best model from step", "{:,.0f}"),
        ("num_parameters", "parameters", "{:,.0f}"),
        ("samples_per_s", "samples per second", "{:,.1f}"),
        ("train_seconds", "seconds of training", "{:,.0f}"),
        ("seconds", "seconds in all", "{:,.0f}"),
        ("num_processes", "processes", "{:,.0f}"),
    ):
        if (value := number(results.get(key))) is not None:
            found.append((name, shown.format(value)))
    if "samples_per_s" not in results and (value := number(run.last("train").get("samples_per_s"))):
        found.append(("samples per second", f"{value:,.1f}"))
    if (share := number(results.get("gap_to_bayes_recovered"))) is not None:
        found.append(("ROC-AUC gap to Bayes recovered", recovered_words(share)))
    return found


def verdict_section(run: Run, verdicts: list[Said]) -> Section:
    """Every verdict with its evidence; what stopped the run comes first."""
    if verdicts:
        body = "".join(_article(verdict) for verdict in verdicts)
    elif run.verdict is not None:
        body = paragraph("The monitors had nothing to say.")
    else:
        body = paragraph("No verdict so far: there is no verdict.json, and none in metrics.jsonl.")
    counts = f" ({len(verdicts)})" if verdicts else ""
    return Section("verdicts", f"Verdicts{counts}", body)


def _four_digits(value: Any) -> Any:
    """Numbers, also those in a list, as a person reads them; verdict.json has every digit."""
    if isinstance(value, list):
        return [_four_digits(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _article(said: Said) -> str:
    where = []
    if said.epoch is not None:
        where.append(f"epoch {said.epoch:.3g}")
    if said.step is not None:
        where.append(f"step {said.step:.0f}")
    if said.stopped:
        where.append("STOPPED THE RUN")
    elif said.action:
        where.append(f"action: {said.action}")
    remedy = f"<p><b>To do:</b> {text(said.remedy)}</p>" if said.remedy else ""
    rows = [
        [name, json.dumps(_four_digits(json_ready(value)), ensure_ascii=False, default=str)]
        for name, value in said.evidence.items()
    ]
    evidence = table(
        "The rule was met with", ["number", "value"], rows, sortable=False, headed=False
    )
    return (
        f'<article class="{said.severity}" id="verdict-{said.number}"><p><span class="tag">'
        f"{SIGNS[said.severity]} {said.severity.upper()}</span> <b>{said.number}. "
        f"{text(said.name.replace('_', ' '))}</b> {text(', '.join(where))}</p>"
        f"<p>{text(said.explanation)}</p>{remedy}"
        f"{details('Evidence', evidence) if evidence else ''}</article>"
    )
