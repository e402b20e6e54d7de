"""The tables a person reads: all forecasts side by side, then the model score by score."""

from __future__ import annotations

from typing import Any

import rich.table
from rich.console import Console
from rich.text import Text

from timerxl.command_line import say
from timerxl.evaluation.references import SHORT, TITLES
from timerxl.untrusted import plain

MOST_OF_A_CELL = 300  # characters

COLUMNS = {
    "roc_auc": "ROC-AUC",
    "mcc": "MCC",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "balanced_accuracy": "bal. acc.",
    "accuracy": "accuracy",
    "brier": "Brier",
    "predicted_rain_share": "says rain",
}
# Score by score: those that need no threshold first.
ROWS = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "brier": "Brier (lower is better)",
    "bss": "Brier skill score",
    "ece": "ECE (lower is better)",
    "mcc": "MCC",
    "hss": "HSS (Heidke)",
    "pss": "PSS (Peirce)",
    "ets": "ETS (Gilbert)",
    "csi": "CSI",
    "sedi": "SEDI",
    "pod": "POD (recall)",
    "far": "FAR (lower is better)",
    "bias": "frequency bias (best 1)",
    "f1": "F1",
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
}


class Table(rich.table.Table):
    """rich's table of plain words: no markup, no control characters, cells of bounded length."""

    def add_column(self, header: str = "", **kwargs: Any) -> None:  # type: ignore[override]
        super().add_column(_words(header), **kwargs)

    def add_row(self, *cells: str, **kwargs: Any) -> None:  # type: ignore[override]
        super().add_row(*map(_words, cells), **kwargs)


def _words(cell: str) -> Text:
    return Text(plain(cell, MOST_OF_A_CELL))


def recovered_words(share: float) -> str:
    """How much of the gap to the best possible forecast is recovered: below zero it is nothing."""
    return f"{share:.0%}" if share > 0 else "nothing"


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def comparison_table(scores: dict[str, dict[str, float]], title: str, caption: str) -> Table:
    """The model and every baseline, a line each, scores as columns."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("forecast", overflow="fold", min_width=20)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, of_name in scores.items():
        style = "bold" if name == "model" else None
        table.add_row(TITLES[name], *(_number(of_name[key]) for key in COLUMNS), style=style)
    return table


def score_table(found: dict[str, Any], title: str) -> Table:
    """Timer-XL score by score: interval, calibrated, reference, paired difference, skill.

    ``found`` is what :func:`timerxl.evaluation.assess.assess` returns.
    """
    caption = (
        "95 % intervals: moving blocks of time, all regions together. The reference is the best "
        "other forecast on validation, score by score; its difference is paired on the same blocks."
    )
    if found["no_interval"]:
        caption = f"No intervals: {found['no_interval']}."
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("score", no_wrap=True)
    for heading in ("Timer-XL", "95 % interval", "calibrated"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reference", no_wrap=True)
    for heading in ("its score", "difference", "95 % interval", "skill"):
        table.add_column(heading, justify="right", no_wrap=True)
    scores = found["scores"]
    for key, heading in ROWS.items():
        low, high = found["intervals"].get("model", {}).get(key, (None, None))
        difference = found["differences"].get(key)
        cells = [heading, _number(scores["model"][key]), _interval(low, high)]
        cells.append(_number(scores["model_calibrated"][key]))
        if difference is not None:
            name = difference["reference"]
            cells += [SHORT[name], _number(scores[name][key]), f"{difference['estimate']:+.3f}"]
            cells += [_interval(difference["low"], difference["high"])]
            cells += [_number(difference["skill"])]
        table.add_row(*cells)
    return table


def strata_table(strata: list[dict[str, Any]], by: str) -> Table:
    """A line per stratum: windows, rain, model with interval, reference."""
    table = Table(title=f"by {by}", title_justify="left")
    table.add_column(by)
    scores_with_interval = ("ROC-AUC", "95 % interval", "MCC", "95 % interval")
    for heading in ("windows", "rain", *scores_with_interval, "Brier", "BSS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for stratum in strata:
        scores, intervals = stratum["scores"], stratum["intervals"]
        cells = [stratum["name"], f"{stratum['num_windows']:,}", _number(stratum["rain_share"])]
        for key in ("roc_auc", "mcc"):
            cells += [_number(scores[key]), _interval(*intervals.get(key, (None, None)))]
        cells += [_number(scores["brier"]), _number(scores["bss"]), stratum["note"]]
        table.add_row(*cells)
    return table


def print_table(table: Table, console: Console | None = None) -> None:
    """Wide enough for all columns also where the output is no terminal.

    The title is a line of its own: rich would break it, and let a name in it begin a line.
    """
    console = console or Console()
    if not console.is_terminal or console.width < 100:
        console = Console(width=150, file=console.file)
    title, table.title = table.title, None
    if title:
        say(title, file=console.file)
    if isinstance(table.caption, str):
        table.caption = Text(plain(table.caption))
    console.print(table)
    table.title = title
