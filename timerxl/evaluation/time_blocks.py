"""Blocks of calendar time, drawn with replacement: how often each issue time is in a resample.

The moving-block bootstrap of Künsch (1989), doi:10.1214/aos/1176347265, wrapped around at the end
of the sample, so that every time is drawn as often as any other ("circular": Politis & Romano 1992,
in Exploring the Limits of Bootstrap). For forecast verification: Wilks (1997),
doi:10.1175/1520-0442(1997)010<0065:RHTFAF>2.0.CO;2. n windows at T distinct issue times, B
resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from timerxl.config import InputError

MIN_BLOCKS = 4
Times = NDArray[np.datetime64]


def calendar_of(issue_times: Times) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Distinct times in seconds from the first [T], the place [n] of each window, and the span."""
    seconds = np.asarray(issue_times).astype("datetime64[s]").astype(np.int64)
    distinct, place = np.unique(seconds, return_inverse=True)
    step = int(np.diff(distinct).min()) if distinct.size > 1 else 0
    return distinct - distinct[0], place, int(distinct[-1] - distinct[0]) + step


def num_blocks_of(issue_times: Times, block_days: float = 14) -> float:
    """How many blocks' worth of time the sample spans, less those without any window."""
    times, _, span = calendar_of(issue_times)
    length = block_days * 86400
    return float(min(span / length, len(np.unique(times // length))))


def why_no_interval(issue_times: Times, block_days: float = 14) -> str | None:
    """The reason if the sample holds fewer than ``MIN_BLOCKS`` blocks of time with windows."""
    blocks = num_blocks_of(issue_times, block_days)
    if blocks >= MIN_BLOCKS:
        return None
    return (
        f"the windows span {blocks:.3g} blocks of {block_days:g} days; "
        f"an interval needs {MIN_BLOCKS} or more"
    )


def block_resamples(
    issue_times: Times, block_days: float = 14, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.int32]:
    """How often each distinct issue time, ascending, is drawn in each resample: [B, T].

    ``issue_times`` [n] may repeat (regions) and have gaps. Blocks begin anywhere in calendar time
    and cover ``block_days``; together they are as long as the sample, the last one cut short. A
    block over a gap brings fewer windows. Raises InputError on no times or NaT, on numbers that
    aren't above 0, and where ``why_no_interval`` gives a reason.
    """
    check_times(issue_times)
    if not (block_days > 0 and num_resamples > 0):
        raise InputError(
            f"block_days is {block_days} and num_resamples {num_resamples}; expected above 0."
        )
    if reason := why_no_interval(issue_times, block_days):
        raise InputError(f"{reason}.")
    times, _, span = calendar_of(issue_times)
    length = round(block_days * 86400)
    num_blocks = -(-span // length)
    lengths = np.full(num_blocks, length)
    lengths[-1] = span - (num_blocks - 1) * length
    starts = np.random.default_rng(seed).integers(0, span, (num_resamples, num_blocks))
    around = np.concatenate([times, times + span])
    first = np.searchsorted(around, starts)
    behind = np.searchsorted(around, starts + lengths)
    # +1 where a block begins and -1 behind its end: the running sum counts the covering blocks.
    change = np.zeros((num_resamples, len(around) + 1), np.int32)
    row = np.arange(num_resamples)[:, None]
    np.add.at(change, (row, first), 1)
    np.add.at(change, (row, behind), -1)
    cover = np.cumsum(change[:, :-1], axis=1, dtype=np.int32)
    return cover[:, : len(times)] + cover[:, len(times) :]


def check_times(issue_times: Times) -> None:
    given = np.asarray(issue_times)
    if given.ndim != 1 or not given.size or given.dtype.kind != "M" or np.isnat(given).any():
        raise InputError(
            f"issue_times have shape {given.shape} and type {given.dtype}; expected one time stamp "
            "(datetime64, no NaT) a window, and at least one window."
        )
