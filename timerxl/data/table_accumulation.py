"""Running totals in a table: told from sums of each row by what falls, and taken apart.

A table made from ERA5-Land carries its totals from 00 UTC; taken as hourly sums they are ten times
too much rain. R rows, region after region.
"""

from __future__ import annotations

import numpy as np

from timerxl.config import InputError
from timerxl.data.accumulation import (
    COUNTER,
    RUNNING,
    UNCLEAR,
    AccumulationEvidence,
    Totals,
    Verdict,
    covered_hours,
    deaccumulate,
)

# Of a few days any shower looks odd: totals from 00 UTC need three days to be believed, others ten.
_SURE_HOURS, _JUDGED_HOURS = 72, 240


def rain_verdict(values: np.ndarray, timestamps: np.ndarray, region_index: np.ndarray) -> Verdict:
    """How the rows of a column of sums add up; ``values`` [R] in any unit, NaN where missing.

    Rows at whole hours are looked at: a total that starts again at some hour shows there, too.
    Of a short table nothing is said.
    """
    seconds = timestamps.astype("datetime64[s]").astype(np.int64)
    evidence = AccumulationEvidence()
    longest = 0
    # India's hours end at half past in UTC.
    minutes, counts = np.unique(seconds % 3600, return_counts=True)
    past = int(minutes[np.argmax(counts)])
    for rows in _by_region(region_index):
        kept = rows[seconds[rows] % 3600 == past]
        evidence.add(values[None, kept], (seconds[kept] - past) // 3600)
        longest = max(longest, int(seconds[rows[-1]] - seconds[rows[0]]) // 3600)
    verdict = evidence.decide()
    is_usual = verdict.kind == RUNNING and verdict.totals == Totals()
    if longest < (_SURE_HOURS if is_usual else _JUDGED_HOURS):
        return Verdict(UNCLEAR, None, f"{longest} hours tell nothing", verdict.largest)
    return verdict


def _by_region(region_index: np.ndarray) -> list[np.ndarray]:
    """Rows of each region; rows stand region after region."""
    edges = np.flatnonzero(np.diff(region_index)) + 1
    return np.split(np.arange(len(region_index)), edges)


def shares(
    values: np.ndarray,
    timestamps: np.ndarray,
    region_index: np.ndarray,
    totals: Totals,
    step_hours: float,
) -> np.ndarray:
    """[R] the share of each row in running ``totals``.

    NaN where the row before is missing: the share would be that of more than one step.
    """
    seconds = timestamps.astype("datetime64[s]").astype(np.int64)
    if step_hours != int(step_hours) or (seconds % 3600).any():
        raise InputError(
            f"running totals in steps of {step_hours:g} h can't be taken apart; resample to whole "
            "hours first."
        )
    result = np.full(len(values), np.nan)
    for rows in _by_region(region_index):
        hours = seconds[rows] // 3600
        first = int(hours[0])
        hourly = np.full(int(hours[-1]) - first + 1, np.nan)
        hourly[hours - first] = values[rows]
        covered = covered_hours(~np.isnan(hourly), first, totals)
        own = np.where(covered == int(step_hours), deaccumulate(hourly, first, totals), np.nan)
        result[rows] = own[hours - first]
    return result


def problem(verdict: Verdict, name: str, step_hours: float, needs_label: bool) -> str | None:
    """Why a column can't be taken as sums of its rows, as a clause; None where it can.

    What is only odd is no reason for who has no label to make (``needs_label``).
    """
    if verdict.kind == RUNNING:
        return f"{name} adds up {verdict.totals} and is no sum of each {step_hours:g} h"
    if verdict.kind == COUNTER:
        return f"{name} is a counter that goes on over days"
    if verdict.is_mixed and needs_label:
        return f"{name} behaves neither like sums of each row nor like running totals"
    return None
