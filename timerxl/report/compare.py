"""Several runs side by side: what was set apart, their curves, and paired differences on test.

Runs are lettered A, B, C, ... in the order given; differences are against A. They are taken on the
windows that all runs have forecast, on the same resampled blocks of time for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from timerxl.config import EvalConfig, InputError
from timerxl.evaluation.bootstrap import Difference, paired_differences, why_no_interval
from timerxl.evaluation.tables import COLUMNS, ROWS
from timerxl.report.figures import (
    BLUE,
    DIM,
    GREEN,
    ORANGE,
    PURPLE,
    SCORES,
    SKY,
    VERMILLION,
    Picture,
    canvas,
    in_words,
    legend,
    styled,
    thin,
    whole_ticks,
    widen,
)
from timerxl.report.markup import (
    Cell,
    Section,
    figures,
    interval,
    number_cell,
    paragraph,
    render,
    table,
)
from timerxl.report.page import (
    CONTAMINATED,
    SYNTHETIC,
    interval_of,
    judged,
    shown,
    write_page,
)
from timerxl.report.run_record import Run, get, outcome_of, read_run, resampling
from timerxl.untrusted import flat

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, DIM)
_STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
_SHAPES = "osD^vPX"
_KEYS = ["split", "region", "issue_time"]
_UNDIRECTED = ("bias", "pod", "far")  # each is bought by saying rain more, or less, often


@dataclass(frozen=True)
class Named:
    """A run with its letter."""

    letter: str
    run: Run

    @property
    def title(self) -> str:
        return f"{self.letter}: {self.run.name}"


@dataclass(frozen=True)
class Paired:
    """Differences of every later run against the first on the common windows, or why none."""

    num_windows: int
    against: str
    differences: dict[str, dict[str, Difference]]
    notes: list[str]


def write_comparison(run_folders: Sequence[Path], output: Path) -> Path:
    """Write one page on all of them and return its path.

    Raises InputError on fewer than two folders, one that is no run folder, and where the page can't
    be written.
    """
    if len(run_folders) < 2:
        raise InputError("a comparison needs two run folders or more.")
    runs = [Named(_letter(i), read_run(folder)) for i, folder in enumerate(run_folders)]
    write_page(output, comparison_page(runs))
    return output


def _letter(index: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    round_, place = divmod(index, 26)
    return chr(ord("A") + place) + (str(round_) if round_ else "")


def comparison_page(runs: list[Named]) -> str:
    """The page as text."""
    title = f"Comparison of {len(runs)} runs: {', '.join(named.run.name for named in runs)}"
    warnings = []
    for what, letters in (
        (SYNTHETIC, [named.letter for named in runs if named.run.is_synthetic]),
        (CONTAMINATED, [named.letter for named in runs if named.run.is_contaminated]),
    ):
        if letters:
            warnings.append(f"Run{'s' * (len(letters) > 1)} {', '.join(letters)}: {what}")
    sections = [
        Section("runs", "Runs and their test scores", _runs_table(runs)),
        Section("differences", "Paired differences", _paired_body(paired(runs))),
        Section("settings", "What differs in the configuration", _settings(runs)),
        Section("curves", "Curves", _curves(runs)),
    ]
    problems = [f"{n.letter}: {problem}" for n in runs for problem in n.run.problems]
    return render("compare.html.j2", title, sections, warnings=warnings, problems_of_runs=problems)


def _runs_table(runs: list[Named]) -> Markup:
    rows = []
    for named in runs:
        run, outcome = named.run, outcome_of(named.run)
        path = get(run.config, "data", "path")
        data = "SYNTHETIC data" if run.is_synthetic else f"data: {path or 'not known'}"
        row: list[str | Cell] = [
            Cell(named.title, f"recipe {run.recipe}, {data}"),
            f"{outcome.symbol} {outcome.word}",
        ]
        for key in COLUMNS:
            row.append(number_cell(run.score("model", key), interval_of(run, "model", key)))
        rows.append(row)
    heads = ["run", "outcome", *COLUMNS.values()]
    note = "Each run on its own test windows and at its own threshold, with its 95 % interval."
    return table("Runs", heads, rows, headed=False) + paragraph(note, "dim")


def _settings(runs: list[Named]) -> Markup:
    configs = {named.letter: named.run.config for named in runs}
    settings = {letter: flat(config) for letter, config in configs.items() if config is not None}
    keys = list(dict.fromkeys(key for of_run in settings.values() for key in of_run))
    rows = []
    for key in keys:
        values = [shown(of[key]) if key in of else "–" for of in settings.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    body = Markup().join(
        paragraph(f"{named.title} has no config.yaml that can be read.")
        for named in runs
        if named.run.config is None
    )
    listed = table("Settings", ["key", *settings], rows, headed=False, wrap=True)
    return body + (listed or paragraph("Nothing, as far as the files say."))


def common_forecasts(runs: list[Named]) -> tuple[pd.DataFrame, list[Named], list[str]]:
    """Test windows that all usable runs have, with ``label`` and a column of P(rain) for each run.

    Also the runs used, and notes on those left out. A run whose labels are others is left out as a
    whole: the windows on which two events happen to agree are no fair sample.
    """
    common, used, notes = pd.DataFrame(), list[Named](), list[str]()
    sizes: list[int] = []
    for named in runs:
        windows = named.run.forecasts
        if windows is None or "model" not in windows or "model" not in named.run.thresholds:
            notes.append(f"{named.title} is left out: no forecasts.parquet with a threshold.")
            continue
        part = windows.loc[windows["split"] == "test", [*_KEYS, "label", "model"]]
        part = part.rename(columns={"label": "own label", "model": named.title})
        if part.duplicated(_KEYS).any():
            notes.append(f"{named.title} is left out: its forecasts hold a window twice.")
            continue
        if not used:
            merged = part.rename(columns={"own label": "label"})
        else:
            merged = common.merge(part, on=_KEYS)
            others = int((merged["label"] != merged["own label"]).sum())
            if others:
                notes.append(
                    f"{named.title} is left out: {others:,} of {len(merged):,} windows that it has "
                    f"in common with {used[0].title} carry other labels. Another event, or other "
                    "data?"
                )
                continue
            merged = merged.drop(columns="own label")
        common, used, sizes = merged, [*used, named], [*sizes, len(part)]
    for named, size in zip(used, sizes, strict=True):
        if size > len(common):
            notes.append(f"{named.title}: {len(common):,} of its {size:,} test windows are common.")
    return common, used, notes


def paired(runs: list[Named]) -> Paired:
    """Every score of every later run minus that of the first usable one, on the same blocks."""
    windows, used, notes = common_forecasts(runs)
    if len(used) < 2:
        return Paired(0, "", {}, [*notes, "Fewer than two runs have forecasts to compare."])
    first = used[0]
    if windows.empty:
        return Paired(0, first.title, {}, [*notes, "The runs have no test window in common."])
    config, seed = resampling(first.run)
    days = config.block_days
    times = windows["issue_time"].to_numpy("datetime64[s]")
    if reason := why_no_interval(times, days):
        notes.append(f"No intervals: {reason}.")
    differences = paired_differences(
        {named.title: windows[named.title].to_numpy(np.float64) for named in used},
        windows["label"].to_numpy(np.int64),
        times,
        {named.title: named.run.thresholds["model"] for named in used},
        reference=first.title,
        block_days=days,
        seed=seed,
        # Of a run without intervals too: here they are the point.
        num_resamples=config.num_resamples or EvalConfig().num_resamples,
    )
    return Paired(len(windows), first.title, differences, notes)


def _paired_body(found: Paired) -> Markup:
    body = Markup()
    if found.differences:
        body = paragraph(
            f"Each run minus {found.against}, on {found.num_windows:,} test windows that all of "
            "them have forecast, each at its own threshold, with 95 % intervals from the same "
            "resampled blocks of time. An interval without 0 says that two runs differ on periods "
            "like this one; chance in training, as another seed would show, is not in it."
        )
    for name, of_run in found.differences.items():
        rows: list[list[str | Cell]] = []
        for key, heading in ROWS.items():
            gap = of_run[key]
            ends = interval(gap.low, gap.high, "+")
            verdict = judged(key, gap.low, gap.high)
            if key in _UNDIRECTED and verdict in ("better", "worse"):
                verdict = "differs"
            rows.append([heading, number_cell(gap.estimate, ends, sign="+"), verdict])
        title = f"{name} minus {found.against}"
        heads = ["score", "difference", f"{name.partition(':')[0]} is"]
        body += table(title, heads, rows)
    return body + Markup().join(paragraph(note, "loud") for note in found.notes)


def _curves(runs: list[Named]) -> Markup:
    known = {key: [n for n in runs if n.run.points("validation", key)[0]] for key in SCORES}
    pictures = [_overlay(runs, drawn, key) for key, drawn in known.items() if drawn]
    if not pictures:
        return paragraph("No run has an evaluation.")
    note = "Full evaluations on validation, at a threshold of 0.5."
    return paragraph(note, "dim") + figures(pictures)


@styled
def _overlay(runs: list[Named], drawn: list[Named], key: str) -> Picture:
    # Epochs of two runs are as long as their batches say; steps are no common measure either.
    axes_of = {named.run.axis for named in drawn}
    figure, axes = canvas(entries=len(drawn))
    words = [f"{SCORES[key]} on validation."]
    for named in drawn:
        index = runs.index(named)
        x, y, _ = thin(*named.run.points("validation", key))
        looks = {"color": _COLOURS, "linestyle": _STYLES, "marker": _SHAPES}
        look: dict[str, Any] = {name: of[index % len(of)] for name, of in looks.items()}
        label = named.title if len(named.title) < 24 else f"{named.title[:22]}…"
        axes.plot(x, y, markersize=3.5, label=label, **look)
        words += in_words(named.run.points("validation", key), named.title, named.run.axis)
    axes.set_xlabel(" or ".join(sorted(axes_of)), labelpad=1)
    axes.set_xlim(left=0)
    whole_ticks(axes)
    widen(axes, key)
    legend(figure, axes)
    return Picture(f"curve-{key}", SCORES[key], figure, " ".join(words))
