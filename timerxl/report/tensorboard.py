"""The page's pictures for TensorBoard: ``writer.add_figure(name, figure, step)``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from timerxl.report.curves import curves
from timerxl.report.drawing import Picture
from timerxl.report.outcome_sections import verdicts_of
from timerxl.report.run_record import read_run
from timerxl.report.skill_pictures import skill_pictures
from timerxl.report.strata_sections import strata_of, strata_pictures


def figures(run_folder: Path) -> dict[str, Figure]:
    """Tag -> figure, dark on white, of what the run folder has numbers for by now.

    Raises InputError where it is no run folder.
    """
    run = read_run(run_folder)
    strata = {by: strata_of(run, by) for by in ("region", "season")}
    drawn: Iterator[Picture] = chain(
        curves(run, verdicts_of(run)), skill_pictures(run), strata_pictures(run, strata)
    )
    return {f"report/{picture.name}": picture.figure for picture in drawn}
