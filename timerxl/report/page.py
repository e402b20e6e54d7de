"""The page of one run: ``report/index.html`` in its folder, one file that needs nothing else.

It is written again after every evaluation, so it takes what is there by now.
"""

from __future__ import annotations

from pathlib import Path

from timerxl.config import InputError
from timerxl.evaluation.scores import roc_auc
from timerxl.files import write_text
from timerxl.report.markup import page
from timerxl.report.outcome_sections import verdicts_of
from timerxl.report.record_sections import (
    audit_section,
    configuration_section,
    cost_section,
    environment_section,
)
from timerxl.report.run_record import Run, read_run
from timerxl.report.score_sections import (
    curve_section,
    final_section,
    forecast_section,
    strata_section,
)
from timerxl.report.summary_section import document_title, opening, verdict_section
from timerxl.untrusted import check_own_files

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
    sections = [
        verdict_section(run, verdicts),
        final_section(run),
        curve_section(run, verdicts),
        forecast_section(run),
        strata_section(run),
        cost_section(run),
        configuration_section(run),
        audit_section(run),
        environment_section(run),
    ]
    return page(document_title(run), opening(run), sections)


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
