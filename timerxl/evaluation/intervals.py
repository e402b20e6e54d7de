"""From resampled scores to an interval.

The interval is the percentile interval of the resampled scores, widened for the small number of
blocks K ("expanded percentile": Hesterberg 2015, doi:10.1080/00031305.2015.1089789): instead of the
quantiles at 2.5 and 97.5 % those at Phi(-c) and Phi(c), with c = f sqrt(K / (K - 1)) times the
quantile of Student's t with K - 1 degrees of freedom. Blocks cut the dependence at their ends, and
the resampled variance V is too small by about 1 / block length: f^2 = (2 V - V of blocks half as
long) / V makes up for it, from 1 to 2 (Politis & Romano 1995,
doi:10.1111/j.1467-9892.1995.tb00223.x). ``benchmarks/bootstrap_coverage.py`` measures how often
95 % intervals hold the true score; docs/metrics.md has its table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; both None where there is none, and ``reason`` says why."""

    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Difference(Interval):
    """``estimate`` is the score minus that of the reference on the same windows."""

    estimate: float = math.nan


@dataclass(frozen=True)
class Resamples:
    """A score of the sample, and of every resample [B] (NaN where undefined).

    ``half_values`` [B] are those of blocks half as long.
    """

    estimate: float
    values: Floats
    half_values: Floats
    num_blocks: float
    reason: str | None = None  # why there are no resamples, with ``values`` empty

    def minus(self, other: Resamples) -> Resamples:
        """The difference on the same blocks."""
        return Resamples(
            self.estimate - other.estimate,
            self.values - other.values,
            self.half_values - other.half_values,
            self.num_blocks,
            self.reason,
        )

    def interval(self, confidence: float = 0.95) -> Interval:
        """The expanded percentile interval.

        None without resamples, for an undefined score, and where more than 5 % of the resamples
        leave it undefined.
        """
        if self.reason:
            return Interval(None, None, self.reason)
        if math.isnan(self.estimate):
            return Interval(None, None, "the score is undefined on these windows")
        undefined = float(np.isnan(self.values).mean())
        if undefined > 0.05:
            return Interval(
                None, None, f"the score is undefined in {undefined:.0%} of the resamples"
            )
        normal, freedom = NormalDist(), self.num_blocks - 1
        z = normal.inv_cdf(0.5 + confidence / 2)
        reach = math.sqrt(self.num_blocks / freedom) * _student_t(z, freedom) * self._widening()
        low, high = np.nanquantile(self.values, [normal.cdf(-reach), normal.cdf(reach)])
        return Interval(float(low), float(high))

    def _widening(self) -> float:
        if np.isnan(self.half_values).all():
            return 1.0
        long, short = float(np.nanvar(self.values)), float(np.nanvar(self.half_values))
        # Without spread, as for "always rain", there's nothing to widen.
        return math.sqrt(min(max(2 - short / long, 1.0), 2.0)) if long > 0 else 1.0


def _student_t(z: float, freedom: float) -> float:
    """Student's t where the normal has ``z``: Abramowitz & Stegun (1964), 26.7.5."""
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
