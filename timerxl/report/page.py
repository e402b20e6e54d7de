"""The page of one run: ``report/index.html`` in its folder, one file that needs nothing else.

It is written again after every evaluation, so it takes what is there by now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from timerxl.config import InputError, RunConfig, available_recipes, load_recipe, to_yaml
from timerxl.evaluation.references import SHORT, TITLES
from timerxl.evaluation.scores import LOWER_IS_BETTER, roc_auc
from timerxl.evaluation.tables import COLUMNS, ROWS, recovered_words
from timerxl.files import json_ready, write_text
from timerxl.report.figures import (
    SHOWN,
    curves,
    expectations_of,
    reference_of,
    skill_pictures,
    strata_of,
    strata_pictures,
)
from timerxl.report.markup import (
    Cell,
    Section,
    details,
    figures,
    interval,
    number_cell,
    paragraph,
    part,
    render,
    score,
    table,
)
from timerxl.report.run_record import (
    SIGNS,
    Content,
    Run,
    VerdictEntry,
    get,
    number,
    outcome_of,
    read_run,
    verdicts_of,
)
from timerxl.untrusted import check_own_files, flat

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


def verdict_on_skill(run: Run) -> list[str]:
    """Sentences on the test scores: ROC-AUC and MCC beside the reference, F1 beside always-rain.

    Without test scores one on the latest evaluation.
    """
    if run.is_next_patch:
        return _skill_of_patches(run)
    if run.results is None:
        return _latest(run)
    found = []
    for key in ("roc_auc", "mcc"):
        value, of_key = run.score("model", key), get(run.results, "differences", key)
        if value is None:
            continue
        ends = interval_of(run, "model", key)
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


_PATCH_SKILLS = {"skill_persistence": "persistence", "skill_climatology": "climatology"}


def _skill_of_patches(run: Run) -> list[str]:
    """A sentence on the forecast of the next patch: on test, or as of the latest evaluation."""
    test = get(run.results, "test")
    scores = test if isinstance(test, dict) else run.last("validation") or run.last("check")
    known = [
        f"{score(value, sign='+')} against {name}"
        for key, name in _PATCH_SKILLS.items()
        if (value := number(scores.get(key))) is not None
    ]
    where = "on test" if scores is test else "at the latest evaluation on validation"
    return [f"Skill of the next patch {where}: {', '.join(known)}."] if known else []


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


def interval_of(run: Run, name: str, key: str) -> str:
    """``0.82 to 0.86`` of a forecast's score on test, or nothing."""
    pair = get(run.results, "intervals", name, key)
    is_pair = isinstance(pair, list) and len(pair) == 2
    return interval(number(pair[0]), number(pair[1])) if is_pair else ""


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
        ("samples_per_s", "windows per second", "{:,.1f}"),
        ("labels_per_s", "labels per second", "{:,.1f}"),
        ("train_seconds", "seconds of training", "{:,.0f}"),
        ("seconds", "seconds in all", "{:,.0f}"),
        ("num_processes", "processes", "{:,.0f}"),
    ):
        if (value := number(results.get(key))) is not None:
            found.append((name, shown.format(value)))
    if "samples_per_s" not in results and (value := number(run.last("train").get("samples_per_s"))):
        found.append(("windows per second", f"{value:,.1f}"))
    share = number(get(results, "gap_to_observed_bound_recovered", "roc_auc"))
    if share is not None:
        name = "ROC-AUC gap to the best from all observed variables recovered"
        found.append((name, recovered_words(share)))
    elif (share := number(results.get("gap_to_bayes_recovered"))) is not None:
        found.append(("ROC-AUC gap to Bayes recovered", recovered_words(share)))
    return found


def verdict_section(run: Run, verdicts: list[VerdictEntry]) -> Section:
    """Every verdict with its evidence; what stopped the run comes first."""
    if verdicts:
        body = Markup().join(_verdict(verdict) for verdict in verdicts)
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


def _verdict(said: VerdictEntry) -> Markup:
    where = []
    if said.epoch is not None:
        where.append(f"epoch {said.epoch:.3g}")
    if said.step is not None:
        where.append(f"step {said.step:.0f}")
    if said.stopped:
        where.append("STOPPED THE RUN")
    elif said.action:
        where.append(f"action: {said.action}")
    rows = [
        [name, json.dumps(_four_digits(json_ready(value)), ensure_ascii=False, default=str)]
        for name, value in said.evidence.items()
    ]
    evidence = table(
        "The rule was met with", ["number", "value"], rows, sortable=False, headed=False
    )
    return part("verdict", said, SIGNS[said.severity], ", ".join(where), evidence)


GIB_PER_GB = 1e9 / 2**30


def cost_section(run: Run) -> Section:
    """Memory and time as planned, and as they came."""
    plan, told = run.last("plan"), get(run.results, "plan")
    checked = run.last("plan_check") or (told if isinstance(told, dict) else {})
    cost = run.last("cost")
    peak_gb = number(cost.get("peak_memory_gb"))
    rows: list[list[str | Cell]] = []
    for name, key, so_far in (
        ("peak memory, GiB", "peak_memory_gib", None if peak_gb is None else GIB_PER_GB * peak_gb),
        ("seconds of training an epoch", "epoch_seconds", number(cost.get("epoch_seconds"))),
    ):
        predicted = number(checked.get(f"predicted_{key}"))
        measured = number(checked.get(f"measured_{key}"))
        predicted = number(plan.get(key)) if predicted is None else predicted
        measured = so_far if measured is None else measured
        if predicted is None and measured is None:
            continue
        off = predicted / measured - 1 if predicted is not None and measured else None
        cells = [
            Cell("–" if value is None else f"{value:{form}}", "", value, is_number=True)
            for value, form in ((predicted, ".3g"), (measured, ".3g"), (off, "+.0%"))
        ]
        rows.append([name, *cells])
    heads = ["", "predicted", "measured", "prediction is"]
    body = table("Planned and measured", heads, rows, sortable=False)
    if not body:
        body = paragraph("Neither a plan nor a measurement is in metrics.jsonl.")
    elif not checked and cost:
        body += paragraph("Measured so far; the run's own comparison comes at its end.", "dim")
    trained = number(get(run.results, "train_seconds"))
    beside = []
    for key, what in (("check_seconds", "checks"), ("checkpoint_seconds", "checkpoints")):
        took = number(get(run.results, key))
        if took is not None and trained:
            beside.append(f"{what} {took:.1f} s ({took / trained:.1%} of the time of training)")
    if beside:
        words = f"Beside {trained:,.0f} s of training: {', '.join(beside)}."
        body += paragraph(words, "dim")
    if summary := plan.get("summary"):
        body += paragraph(summary, "dim")
    return Section("cost", "Memory and time", body)


def shown(value: Any) -> str:
    """A value of a configuration as YAML and JSON both write it; a list of entries line by line.

    Of an entry what is null is left out.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        entries = [{k: v for k, v in item.items() if v is not None} for item in value]
        return "\n".join(shown(entry) for entry in entries)
    return json.dumps(json_ready(value), ensure_ascii=False, default=str)


def recipe_values(run: Run) -> tuple[Content, str]:
    """What the recipe of that name resolves to today, else the defaults; and which it is.

    Only recipes that ship are looked up: the name comes from a file.
    """
    if run.recipe in available_recipes():
        try:
            recipe = load_recipe(run.recipe)
            return yaml.safe_load(to_yaml(recipe)), f"the recipe {run.recipe} as it is now"
        except InputError:
            pass  # a shipped recipe that doesn't load is another command's news
    defaults = f"the defaults (no recipe {run.recipe} ships with the toolkit)"
    return yaml.safe_load(to_yaml(RunConfig())), defaults


def configuration_section(run: Run) -> Section:
    """What was set apart from the recipe, then all of it."""
    if run.config is None:
        return Section("configuration", "Configuration", paragraph("There is no config.yaml."))
    values, against = recipe_values(run)
    theirs, ours = flat(values), flat(run.config)
    missing = object()
    differing = [
        [key, "–" if key not in theirs else shown(theirs[key]), shown(value)]
        for key, value in ours.items()
        if theirs.get(key, missing) != value
    ]
    differing += [[key, shown(value), "–"] for key, value in theirs.items() if key not in ours]
    heads = ["key", "recipe", "this run"]
    listed = table(f"Other than in {against}", heads, differing, headed=False, wrap=True)
    many = "1 setting differs" if len(differing) == 1 else f"{len(differing)} settings differ"
    body = details(f"{many} from {against}", listed or paragraph("None."), is_open=True)
    body += details("All of config.yaml", part("preformatted", run.config_text))
    return Section("configuration", "Configuration", body)


def audit_section(run: Run) -> Section:
    """What the audit of the series said, and the share of rain by split and region."""
    lines = get(run.audit, "lines")
    if isinstance(lines, list) and lines:
        body = Markup()
        for line in map(str, lines):
            severity, colon, rest = line.partition(": ")
            is_known = colon and severity in ("fault", "warning", "note")
            body += part("audit_line", *((severity, rest) if is_known else ("", line)))
    elif run.audit is not None:
        body = paragraph("The audit found no fault and no warning.")
    else:
        body = paragraph("There is no audit.json in the run folder.")
    shares = run.last("start").get("class_shares")
    if isinstance(shares, dict):
        splits = {name: of for name, of in shares.items() if isinstance(of, dict)}
        rows = [
            [region, *(number_cell(number(of.get(region))) for of in splits.values())]
            for region in dict.fromkeys(region for of in splits.values() for region in of)
        ]
        body += table("Share of rain by region and split", ["region", *splits], rows)
    return Section("audit", "Data audit", body)


def environment_section(run: Run) -> Section:
    """What the run ran on."""
    if run.environment is None:
        body = paragraph("There is no environment.json in the run folder.")
    else:
        rows = [[key, shown(value)] for key, value in flat(run.environment).items()]
        found = table("Environment", ["", ""], rows, headed=False, wrap=True)
        body = details("Versions, machine, command", found, True)
    return Section("environment", "Environment", body)


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
    lines = []
    if (windows := number(get(run.results, "num_windows", "test"))) is not None:
        lines.append(f"{windows:,.0f} test windows, scored with the best model.")
    if (threshold := run.thresholds.get("model")) is not None:
        asked = get(run.config, "eval", "threshold")
        source = "chosen on validation" if asked == "auto" else f"eval.threshold={asked}"
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
        short = SHORT.get(name, "")
        small = "" if heading.startswith(short.rstrip(".")) else short
        cells: list[str | Cell] = [Cell(heading, small)]
        cells += [number_cell(run.score(name, key), interval_of(run, name, key)) for key in COLUMNS]
        rows.append(cells)
    body = paragraph(" ".join(lines))
    body += table("All forecasts", ["forecast", *COLUMNS.values()], rows, first=TITLES["model"])
    return Section("scores", "Test scores", body + _score_by_score(run))


def patch_section(run: Run) -> Section:
    """Every variable's error on test and its skill against persistence and climatology."""
    title, variables = "Forecast of the next patch", get(run.results, "variables", "test")
    if not isinstance(variables, dict):
        return Section("scores", title, paragraph(why_none(run, "results.json")))
    keys = ("mse", "mse_persistence", "mse_climatology", *_PATCH_SKILLS)
    rows: list[list[str | Cell]] = []
    for name, of in variables.items():
        rows.append([name, *(number_cell(number(get(of, key))) for key in keys)])
    own = [number_cell(number(get(run.results, "test", key))) for key in ("loss", *_PATCH_SKILLS)]
    rows.append(["all variables", own[0], "–", "–", *own[1:]])
    heads = ["variable", "error", "persistence", "climatology"]
    heads += [f"skill against {name}" for name in _PATCH_SKILLS.values()]
    note = paragraph(
        "Mean squared errors of the patch after each window, in scaled units (a variable's "
        "standard deviation is about 1). Persistence is the last value or the last patch again, "
        "what did better on validation; climatology the mean of region, month and hour of the "
        "day in the training period. Skill is 1 - error / error of the reference.",
        "dim",
    )
    return Section("scores", title, note + table("Variables on test", heads, rows))


def _score_by_score(run: Run) -> Markup:
    rows: list[list[str | Cell]] = []
    for key, heading in ROWS.items():
        if run.score("model", key) is None:
            continue
        own = number_cell(run.score("model", key), interval_of(run, "model", key))
        cells: list[str | Cell] = [heading, own, number_cell(run.score("model_calibrated", key))]
        name, of_key = reference_of(run, key), get(run.results, "differences", key)
        if name is None:
            rows.append([*cells, "–", *[number_cell(None)] * 3])
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
    return found + note if found else found


def curve_section(run: Run, verdicts: list[VerdictEntry]) -> Section:
    """Loss and scores over the epochs, what the recipe expected, and the numbers themselves."""
    shown = figures(curves(run, verdicts))
    if not shown:
        body = paragraph("Nothing to draw yet: metrics.jsonl holds no step and no evaluation.")
        return Section("curves", "Curves", body)
    note = "Scores along the way are at a threshold of 0.5."
    if run.is_next_patch:
        note = "Training loss is that of all patches of a window, the others that of the last one."
    if "check" in run.events:
        note += " Checks look at a fixed sample of validation, with a share of rain of its own."
    if verdicts:
        note += " Dotted upright lines with a number: the verdicts above."
    body = paragraph(note, "dim") + shown + _expected(run) + _evaluations(run)
    return Section("curves", "Curves", body)


def _expected(run: Run) -> Markup:
    rows: list[list[str | Cell]] = []
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
        which = Cell(f"{signs[verdict]} {verdict}", f"{band.low:g} to {band.high:g}")
        rows.append([f"{band.epoch:g}", name, number_cell(found), which])
    heads = ["epoch", "score", "validation", "expected"]
    return table("What the recipe expected", heads, rows)


def _evaluations(run: Run) -> Markup:
    kinds = {"validation": "validation", "holdout": "holdout", "test_every_epoch": "TEST"}
    columns = COLUMNS
    if run.is_next_patch:
        columns = {key: f"skill against {name}" for key, name in _PATCH_SKILLS.items()}
    keys = ["loss", "train_loss", *columns]
    events = [(run.place(e), what, e) for k, what in kinds.items() for e in run.events.get(k, [])]
    if not events:
        return Markup()
    events.sort(key=lambda found: (found[0] or 0.0, found[1] != "validation"))
    rows: list[list[str | Cell]] = []
    for place, what, event in events:
        at = score(place, 2) if run.axis == "epoch" else f"{event['step']:.0f}"
        rows.append([at, what, *(number_cell(number(event.get(key))) for key in keys)])
    heads = [run.axis, "on", "loss", "training loss", *columns.values()]
    found = table("Evaluations", heads, rows, headed=False)
    return details(f"All evaluations ({len(rows)})", found)


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
    body = paragraph(
        "Test windows, at the threshold of all windows. Diamonds: the best other forecast on "
        "validation. The Brier skill score is against the stratum's own share of rain. Seasons: "
        "three months each, by the time of issue (UTC).",
        "dim",
    )
    body += figures(strata_pictures(run, found))
    for by, strata in found.items():
        body += _strata_table(run, by, strata)
    return Section("strata", title, body)


def _strata_table(run: Run, by: str, strata: list[Content]) -> Markup:
    others = {key: SHORT.get(reference_of(run, key) or "", "") for key in SHOWN}
    heads = [by, "windows", "rain"]
    for key, heading in SHOWN.items():
        heads += [heading, f"{heading}, {others[key]}"] if others[key] else [heading]
    heads += ["F1", "always rain, F1", "Brier", "BSS", "says rain"]
    rows: list[list[str | Cell]] = []
    for stratum in strata:
        scores, rain, count = stratum["scores"], stratum["rain_share"], stratum["num_windows"]
        row: list[str | Cell] = [
            stratum["name"],
            Cell(f"{count:,}", "", count, is_number=True),
            number_cell(rain),
        ]
        for key in SHOWN:
            ends = stratum["intervals"].get(key)
            row.append(number_cell(scores[key], interval(*ends) if ends else ""))
            if others[key]:
                row.append(number_cell(stratum["references"].get(key)))
        row += [number_cell(scores["f1"]), number_cell(2 * rain / (1 + rain))]
        row += [number_cell(scores[key]) for key in ("brier", "bss", "predicted_rain_share")]
        rows.append(row)
    found = table(f"Scores by {by}", heads, rows)
    for note in dict.fromkeys(stratum["note"] for stratum in strata if stratum["note"]):
        names = ", ".join(stratum["name"] for stratum in strata if stratum["note"] == note)
        found += paragraph(f"{names}: {note}.", "dim")
    return found


PAGE = Path("report") / "index.html"


def write_report(run_folder: Path, output: Path | None = None) -> Path:
    """Write the page, whole or not at all, and return its path (``output``, or ``PAGE`` within).

    Raises InputError where ``run_folder`` is no run folder, or the page can't be written.
    """
    run = read_run(run_folder)
    if output is None:
        check_own_files(run_folder, [PAGE.parts[0]], ())
        output = run_folder / PAGE
    write_page(output, report_page(run))
    return output


def write_page(output: Path, content: str) -> None:
    """Make the folder and write; raises InputError where that's not possible.

    A folder that is a link would lead out of the run's.
    """
    if output.parent.is_symlink():
        raise InputError(
            f"{output.parent} is a link; expected a folder. Take it away, or give --output FILE."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, content)
    except OSError as error:
        raise InputError(f"{output} can't be written: {error}") from error


def report_page(run: Run) -> str:
    """The page as text."""
    check_forecasts(run)
    verdicts = verdicts_of(run)
    parts = [final_section(run), curve_section(run, verdicts)]
    parts += [forecast_section(run), strata_section(run)]
    if run.is_next_patch:
        parts = [patch_section(run), curve_section(run, verdicts)]
    sections = [verdict_section(run, verdicts), *parts, cost_section(run)]
    sections.append(configuration_section(run))
    if not run.is_next_patch:
        sections.append(audit_section(run))
    sections.append(environment_section(run))
    return render(
        "run.html.j2",
        document_title(run),
        sections,
        run=run,
        outcome=outcome_of(run),
        synthetic=SYNTHETIC,
        contaminated=CONTAMINATED,
        skill=verdict_on_skill(run),
        facts_of_run=_facts(run),
    )


def check_forecasts(run: Run) -> None:
    """Forecasts of another run than results.json would make a page of two runs: say so."""
    sample, told = run.sample(), run.score("model", "roc_auc")
    if sample is None or told is None or "model" not in sample.probabilities:
        return
    found = roc_auc(sample.probabilities["model"], sample.label)
    if not abs(found - told) < 1e-3:
        run.problems.append(
            f"forecasts.parquet gives a ROC-AUC of {found:.4f} on test, results.json {told:.4f}: "
            "are the two of one run?"
        )
