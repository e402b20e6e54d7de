"""Sections on what a run cost and what it was made of: plan, configuration, audit, environment."""

from __future__ import annotations

import json
from typing import Any

import yaml

from timerxl.config import InputError, RunConfig, available_recipes, load_recipe, to_yaml
from timerxl.files import json_ready
from timerxl.report.markup import (
    Cell,
    Section,
    details,
    number_cell,
    paragraph,
    table,
    text,
)
from timerxl.report.run_record import Content, Run, get, number

GIB_PER_GB = 1e9 / 2**30


def cost_section(run: Run) -> Section:
    """Memory and time as planned, and as they came."""
    plan, told = run.last("plan"), get(run.results, "plan")
    checked = run.last("plan_check") or (told if isinstance(told, dict) else {})
    cost = run.last("cost")
    measured_gb = number(cost.get("peak_memory_gb"))
    rows: list[list[str | Cell]] = []
    for name, key, so_far in (
        (
            "peak memory, GiB",
            "peak_memory_gib",
            None if measured_gb is None else GIB_PER_GB * measured_gb,
        ),
        ("seconds of training an epoch", "epoch_seconds", number(cost.get("epoch_seconds"))),
    ):
        predicted = number(checked.get(f"predicted_{key}"))
        measured = number(checked.get(f"measured_{key}"))
        predicted = number(plan.get(key)) if predicted is None else predicted
        measured = so_far if measured is None else measured
        if predicted is None and measured is None:
            continue
        off = predicted / measured - 1 if predicted is not None and measured else None
        rows.append(
            [
                name,
                _three_digits(predicted),
                _three_digits(measured),
                Cell("–" if off is None else f"{off:+.0%}", off),
            ]
        )
    body = table(
        "Planned and measured", ["", "predicted", "measured", "prediction is"], rows, sortable=False
    )
    if not body:
        body = paragraph("Neither a plan nor a measurement is in metrics.jsonl.")
    elif not checked and cost:
        body += paragraph("Measured so far; the run's own comparison comes at its end.", "dim")
    if beside := _beside_training(run):
        body += paragraph(beside, "dim")
    if summary := plan.get("summary"):
        body += paragraph(summary, "dim")
    return Section("cost", "Memory and time", body)


def _beside_training(run: Run) -> str:
    """What looking between evaluations and saving took, in words; empty where it is not known."""
    trained = number(get(run.results, "train_seconds"))
    parts = []
    for key, what in (("check_seconds", "checks"), ("checkpoint_seconds", "checkpoints")):
        took = number(get(run.results, key))
        if took is not None and trained:
            parts.append(f"{what} {took:.1f} s ({took / trained:.1%} of the time of training)")
    return f"Beside {trained:,.0f} s of training: {', '.join(parts)}." if parts else ""


def _three_digits(value: float | None) -> Cell:
    return Cell("–" if value is None else f"{value:.3g}", value)


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


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
    body = details(
        f"{many} from {against}",
        listed or paragraph("None."),
        is_open=True,
    )
    lines = "\n".join(text(line) for line in run.config_text.splitlines())
    body += details("All of config.yaml", f"<pre>{lines}</pre>")
    return Section("configuration", "Configuration", body)


def audit_section(run: Run) -> Section:
    """What the audit of the series said, and the share of rain by split and region."""
    lines = get(run.audit, "lines")
    body = ""
    if isinstance(lines, list) and lines:
        body = "".join(_audit_line(str(line)) for line in lines)
    elif run.audit is not None:
        body = paragraph("The audit found no fault and no warning.")
    else:
        body = paragraph("There is no audit.json in the run folder.")
    shares = run.last("start").get("class_shares")
    if isinstance(shares, dict):
        body += _class_shares(shares)
    return Section("audit", "Data audit", body)


def _audit_line(line: str) -> str:
    severity, colon, rest = line.partition(": ")
    if not colon or severity not in ("fault", "warning", "note"):
        return f"<article><p>{text(line)}</p></article>"
    return (
        f'<article class="{severity}"><p><span class="tag">{severity.upper()}</span> '
        f"{text(rest)}</p></article>"
    )


def _class_shares(shares: Content) -> str:
    splits = [name for name, of in shares.items() if isinstance(of, dict)]
    regions = list(dict.fromkeys(region for name in splits for region in shares[name]))
    rows = [
        [region, *(number_cell(number(shares[name].get(region))) for name in splits)]
        for region in regions
    ]
    return table("Share of rain by region and split", ["region", *splits], rows)


def environment_section(run: Run) -> Section:
    """What the run ran on."""
    if run.environment is None:
        body = paragraph("There is no environment.json in the run folder.")
    else:
        rows = [[key, shown(value)] for key, value in flat(run.environment).items()]
        body = details(
            "Versions, machine, command",
            table("Environment", ["", ""], rows, headed=False, wrap=True),
            True,
        )
    return Section("environment", "Environment", body)
