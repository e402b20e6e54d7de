"""Sections on how good the forecasts are: final scores, curves, test windows, strata."""

from __future__ import annotations

from itertools import chain

from timerxl.evaluation.references import SHORT, TITLES
from timerxl.evaluation.tables import COLUMNS, ROWS
from timerxl.report.curves import curves, expectations_of
from timerxl.report.markup import (
    Cell,
    Section,
    Words,
    count_cell,
    details,
    figures,
    interval,
    number_cell,
    paragraph,
    score,
    table,
)
from timerxl.report.outcome_sections import Said, outcome_of
from timerxl.report.run_record import Run, get, number
from timerxl.report.skill_pictures import skill_pictures
from timerxl.report.strata_sections import SHOWN, Stratum, reference_of, strata_of, strata_pictures
from timerxl.report.summary_section import ends_of

_WHY = {
    "running": "the run is under way: the test split is scored once, at its end",
    "stopped": "a stopped run does not score the test split",
    "failed": "the run failed before its end",
}


def why_none(run: Run, name: str) -> str:
    """The reason why something of the end of a run is not there."""
    kind = outcome_of(run).kind
    return f"There is no {name}: {_WHY.get(kind, 'it is not in the run folder')}."


def final_section(run: Run) -> Section:
    """All forecasts side by side on test, then the model score by score."""
    if run.results is None:
        return Section("scores", "Test scores", paragraph(why_none(run, "results.json")))
    windows = number(get(run.results, "num_windows", "test"))
    threshold = run.thresholds.get("model")
    asked = get(run.config, "eval", "threshold")
    source = "chosen on validation" if asked == "auto" else f"eval.threshold={asked}"
    lines = []
    if windows is not None:
        lines.append(f"{windows:,.0f} test windows, scored with the best model.")
    if threshold is not None:
        lines.append(f"Timer-XL says rain from P(rain) = {threshold:.3f} on ({source}).")
    if reason := get(run.results, "no_interval"):
        lines.append(f"No intervals: {reason}.")
    else:
        lines.append("Small print: 95 % intervals from moving blocks of time.")
    rows = []
    for name, heading in TITLES.items():
        if all(run.score(name, key) is None for key in COLUMNS):
            continue
        # The pictures have room for the short name alone: here is which is which.
        cells: list[str | Words | Cell] = [Words(heading, _short_name(name))]
        for key in COLUMNS:
            ends = ends_of(get(run.results, "intervals", name, key))
            cells.append(number_cell(run.score(name, key), interval(*ends)))
        rows.append(cells)
    body = paragraph(" ".join(lines))
    body += table("All forecasts", ["forecast", *COLUMNS.values()], rows, first=TITLES["model"])
    return Section("scores", "Test scores", body + _score_by_score(run))


def _short_name(name: str) -> str:
    """What the pictures call a forecast, where its title does not begin with it."""
    short = SHORT.get(name, "")
    return "" if TITLES[name].startswith(short.rstrip(".")) else short


def _score_by_score(run: Run) -> str:
    rows: list[list[str | Cell]] = []
    for key, heading in ROWS.items():
        if run.score("model", key) is None:
            continue
        ends = interval(*ends_of(get(run.results, "intervals", "model", key)))
        cells: list[str | Cell] = [heading, number_cell(run.score("model", key), ends)]
        cells.append(number_cell(run.score("model_calibrated", key)))
        name, of_key = reference_of(run, key), get(run.results, "differences", key)
        if name is None:
            rows.append([*cells, "–", *[Cell("–")] * 3])
            continue
        gap = interval(number(get(of_key, "low")), number(get(of_key, "high")), "+")
        cells += [SHORT.get(name, name), number_cell(run.score(name, key))]
        cells.append(number_cell(number(get(of_key, "estimate")), gap, sign="+"))
        rows.append([*cells, number_cell(number(get(of_key, "skill")))])
    heads = ["score", "Timer-XL", "calibrated", "reference", "its score", "difference", "skill"]
    note = paragraph(
        "The reference is the best other forecast on validation, score by score; the difference "
        "is paired on the same blocks of time. Skill is the share of the way from the reference to "
        "a perfect forecast that was made: 1 is perfect, 0 no better, below 0 worse.",
        "dim",
    )
    found = table("Timer-XL score by score", heads, rows)
    return found + note if found else ""


def curve_section(run: Run, verdicts: list[Said]) -> Section:
    """Loss and scores over the epochs, what the recipe expected, and the numbers themselves."""
    shown = figures(curves(run, verdicts))
    if not shown:
        body = paragraph("Nothing to draw yet: metrics.jsonl holds no step and no evaluation.")
        return Section("curves", "Curves", body)
    note = "Scores along the way are at a threshold of 0.5."
    if "check" in run.events:
        note += " Checks look at a fixed sample of validation, with a share of rain of its own."
    if verdicts:
        note += " Dotted upright lines with a number: the verdicts above."
    body = paragraph(note, "dim") + shown + _expected(run) + _evaluations(run)
    return Section("curves", "Curves", body)


def _expected(run: Run) -> str:
    rows: list[list[str | Words | Cell]] = []
    signs = {"inside": "✔", "above": "▲", "below": "▼", "to come": "–"}
    for band in expectations_of(run):
        found, verdict = None, "to come"
        for event in run.events.get("validation", []):
            place = run.place(event)
            if run.axis == "epoch" and place is not None and abs(place - band.epoch) < 0.01:
                found = number(event.get(band.key))
        if found is not None:
            verdict = "below" if found < band.low else "above" if found > band.high else "inside"
        name = "loss" if band.key == "loss" else COLUMNS[band.key]
        which = Words(f"{signs[verdict]} {verdict}", f"{band.low:g} to {band.high:g}")
        rows.append([f"{band.epoch:g}", name, number_cell(found), which])
    heads = ["epoch", "score", "validation", "expected"]
    return table("What the recipe expected", heads, rows)


def _evaluations(run: Run) -> str:
    kinds = {"validation": "validation", "holdout": "holdout", "test_every_epoch": "TEST"}
    keys = ["loss", "train_loss", *(key for key in COLUMNS)]
    events = [(run.place(e), what, e) for k, what in kinds.items() for e in run.events.get(k, [])]
    events.sort(key=lambda found: (found[0] or 0.0, found[1] != "validation"))
    rows: list[list[str | Cell]] = [
        [
            score(place, 2) if run.axis == "epoch" else f"{event['step']:.0f}",
            what,
            *(number_cell(number(event.get(key))) for key in keys),
        ]
        for place, what, event in events
    ]
    heads = [run.axis, "on", "loss", "training loss", *COLUMNS.values()]
    return (
        details(f"All evaluations ({len(rows)})", table("Evaluations", heads, rows, headed=False))
        if rows
        else ""
    )


def forecast_section(run: Run) -> Section:
    """Confusion matrix, reliability, ROC, precision and recall."""
    title = "Forecasts of the test windows"
    shown = figures(skill_pictures(run))
    if run.sample() is None:
        shown += paragraph(why_none(run, "forecast of a test window (forecasts.parquet)"))
    elif "model" not in run.thresholds:
        shown += paragraph("No confusion matrix: results.json with the threshold is not there.")
    return Section("forecasts", title, shown)


def strata_section(run: Run) -> Section:
    """Scores by region and by season."""
    title = "By region and season"
    found = {by: strata_of(run, by) for by in ("region", "season")}
    if not any(found.values()):
        reason = why_none(run, "forecast of a test window with a threshold")
        return Section("strata", title, paragraph(reason))
    tables = chain.from_iterable(_strata_table(run, by, strata) for by, strata in found.items())
    note = paragraph(
        "Test windows, at the threshold of all windows. Diamonds: the best other forecast on "
        "validation. The Brier skill score is against the stratum's own share of rain. Seasons: "
        "three months each, by the time of issue (UTC).",
        "dim",
    )
    return Section("strata", title, note + figures(strata_pictures(run, found)) + "".join(tables))


def _strata_table(run: Run, by: str, strata: list[Stratum]) -> list[str]:
    others = {key: SHORT.get(reference_of(run, key) or "", "") for key in SHOWN}
    heads = [by, "windows", "rain"]
    for key, heading in SHOWN.items():
        heads += [heading, f"{heading}, {others[key]}"] if others[key] else [heading]
    heads += ["F1", "always rain, F1", "Brier", "BSS", "says rain"]
    rows: list[list[str | Cell]] = []
    for stratum in strata:
        scores, rain = stratum.scores, stratum.rain_share
        row: list[str | Cell] = [stratum.name, count_cell(stratum.num_windows), number_cell(rain)]
        for key in SHOWN:
            ends = stratum.intervals.get(key)
            row.append(number_cell(scores[key], interval(*ends) if ends else ""))
            if others[key]:
                row.append(number_cell(stratum.references.get(key)))
        row += [number_cell(scores["f1"]), number_cell(2 * rain / (1 + rain))]
        row += [number_cell(scores[key]) for key in ("brier", "bss", "predicted_rain_share")]
        rows.append(row)
    found = [table(f"Scores by {by}", heads, rows)]
    notes: dict[str, list[str]] = {}
    for stratum in strata:
        if stratum.note:
            notes.setdefault(stratum.note, []).append(stratum.name)
    return found + [paragraph(f"{', '.join(n)}: {note}.", "dim") for note, n in notes.items()]
