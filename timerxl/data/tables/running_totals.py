"""Running totals in a table: told from sums of each row by what falls, and taken apart.

A table made from ERA5-Land carries its totals from 00 UTC; taken as hourly sums they are ten times
too much rain. R rows, region after region.
"""

from __future__ import annotations

import numpy as np

from timerxl.config import InputError
from timerxl.data.era5.accumulation import (
    COUNTER,
    RUNNING,
    UNCLEAR,
    AccumulationEvidence,
    Totals,
    Verdict,
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
    # India's hours end at half past in UTC.
    minutes, counts = np.unique(seconds % 3600, return_counts=True)
    past = int(minutes[np.argmax(counts)])
    kept = seconds % 3600 == past
    evidence.add_rows(values[kept], (seconds[kept] - past) // 3600, region_index[kept])
    first = np.flatnonzero(np.diff(region_index, prepend=-1))
    last = np.append(first[1:], len(seconds)) - 1
    longest = int((seconds[last] - seconds[first]).max()) // 3600
    verdict = evidence.decide()
    is_usual = verdict.kind == RUNNING and verdict.totals == Totals()
    if longest < (_SURE_HOURS if is_usual else _JUDGED_HOURS):
        return Verdict(UNCLEAR, None, f"{longest} hours tell nothing", verdict.largest)
    return verdict


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
    known = np.flatnonzero(~np.isnan(values))
    hours, amounts, regions = seconds[known] // 3600, values[known], region_index[known]
    start = totals.start(hours)
    follows = np.zeros(len(known), dtype=bool)  # on a value before it in the same total
    follows[1:] = (np.diff(regions) == 0) & (hours[:-1] > start[1:])
    before = np.where(follows, np.roll(hours, 1), start)
    own = amounts - np.where(follows, np.roll(amounts, 1), 0.0)
    result[known] = np.where(hours - before == int(step_hours), own, np.nan)
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
