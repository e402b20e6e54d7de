"""Invented hourly weather, and what can be known of it: the truth of benchmarks/silent_errors.py.

SYNTHETIC: rain in spells, temperature and pressure with a daily wave, wind, its direction. Nothing
here uses timerxl, so that its mistakes can't be ours. G regions, T hours; seconds since 1970, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HOUR, DAY = 3600, 86400
# Spells begin with this chance an hour, last so long (h), with so much rain an hour (mm).
CLIMATES = {"wet": (0.035, 4.0, 1.6), "dry": (0.008, 3.0, 1.0), "arid": (0.0015, 2.0, 1.5)}


@dataclass
class Truth:
    """``ends`` [T]: the hours' ends, one hour apart; everything else is [G, T].

    ``rain_mm`` fell in the hour up to the stamp, the rest is measured at the stamp: degrees
    Celsius, hPa, m/s, degrees from north in whole numbers.
    """

    ends: np.ndarray
    rain_mm: np.ndarray
    temperature: np.ndarray
    pressure: np.ndarray
    wind: np.ndarray
    direction: np.ndarray


def make_truth(rng: np.random.Generator, climates: list[str], first_end: int, hours: int) -> Truth:
    """Weather of one region for each of ``climates``."""
    size = len(climates), hours
    ends = first_end + np.arange(hours, dtype=np.int64) * HOUR
    wave = 2 * np.pi * (ends % DAY) / DAY
    return Truth(
        ends=ends,
        rain_mm=np.stack([_rain(rng, climate, hours) for climate in climates]),
        temperature=rng.uniform(4, 22, (size[0], 1)) + 5 * np.sin(wave) + rng.normal(0, 1.5, size),
        pressure=rng.uniform(940, 1015, (size[0], 1)) + np.sin(2 * wave) + rng.normal(0, 3, size),
        wind=rng.gamma(2.0, 1.6, size),
        direction=rng.integers(1, 361, size).astype(np.float64),
    )


def _rain(rng: np.random.Generator, climate: str, hours: int) -> np.ndarray:
    chance, length, amount = CLIMATES[climate]
    starts = np.flatnonzero(rng.random(hours) < chance)
    if not len(starts):
        starts = np.array([hours // 3])
    wet = np.zeros(hours + 1, dtype=np.int64)
    np.add.at(wet, starts, 1)
    np.add.at(wet, np.minimum(starts + rng.geometric(1 / length, len(starts)), hours), -1)
    return np.where(np.cumsum(wet[:-1]) > 0, rng.gamma(0.7, amount / 0.7, hours), 0.0)


def total_start(ends: np.ndarray, period: int, reset: int) -> np.ndarray:
    """When the running total that ends at each of ``ends`` began: every ``period`` seconds, counted
    from ``reset`` seconds after 00 UTC."""
    return (ends - 1 - reset) // period * period + reset


def running_totals(ends: np.ndarray, amounts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[..., T] what has fallen since ``starts`` [T] at each of ``ends``."""
    before = np.cumsum(amounts, axis=-1) - amounts
    new = np.concatenate([[True], starts[1:] != starts[:-1]])
    first = np.maximum.accumulate(np.where(new, np.arange(len(ends)), 0))
    return np.cumsum(amounts, axis=-1) - before[..., first]


def shares(
    ends: np.ndarray,
    totals: np.ndarray,
    starts: np.ndarray,
    hours: int,
    step: int = HOUR,
    zero_is_zero: bool = False,
) -> np.ndarray:
    """[T] what ``totals`` (NaN where missing) tell of the ``hours`` up to each end; NaN where not.

    A piece within one total is the difference of its two ends: both must be there, or the piece
    begins where the total does. ``zero_is_zero``: of a total of 0 nothing fell at any time.
    """
    known = dict(zip(ends.tolist(), totals.tolist(), strict=True))
    start_of = dict(zip(ends.tolist(), starts.tolist(), strict=True))
    hourly = np.full(len(ends), np.nan)
    for place, end in enumerate(ends.tolist()):
        begin, total, at = end - hours * HOUR, 0.0, end
        while at > begin:
            start = start_of.get(at, at - step)
            low = max(start, begin)
            value = known.get(at, np.nan)
            is_whole = low == start or (zero_is_zero and value == 0)
            total += value - (0.0 if is_whole else known.get(low, np.nan))
            at = low
        hourly[place] = total
    return hourly
