"""How often do 95 % intervals of the block bootstrap hold the true score?

    python benchmarks/bootstrap_coverage.py [--series 400] [--days 548] [--spell-days 3]
        [--block-days 14]

Synthetic rain in five regions, a window every 12 h: a latent AR(1) process, shared and own, decides
over rain, and the forecast sees it through an error that is an AR(1) process as well; both forget
with an e-folding time of ``--spell-days``. The true score is that of 2,000 other series. Printed
are the coverage of the plain, the basic and the expanded percentile interval, with the plain
percentile interval of windows taken as independent for comparison; then how many times wider blocks
make the expanded one. With 400 series, a coverage has a standard error of about 1.1 points.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine_line
from timerxl.evaluation.bootstrap import Resamples, resample_scores
from timerxl.evaluation.scores import forecast_scores

NUM_REGIONS, STEPS_PER_DAY, THRESHOLD = 5, 2, 0.6
Floats = NDArray[np.float64]


def forgetful(generator: np.random.Generator, shape: tuple[int, ...], spell_steps: float) -> Floats:
    """Gaussian AR(1) along axis 1, unit variance, autocorrelation exp(-lag / spell_steps)."""
    memory = np.exp(-1 / spell_steps)
    series = generator.standard_normal(shape)
    for step in range(1, shape[1]):
        series[:, step] *= np.sqrt(1 - memory**2)
        series[:, step] += memory * series[:, step - 1]
    return series


def synthetic_forecasts(
    generator: np.random.Generator, num_series: int, num_steps: int, spell_days: float
) -> tuple[Floats, NDArray[np.int64]]:
    """P(rain) and labels, both [num_series, num_steps * NUM_REGIONS], regions within a time."""
    spell = spell_days * STEPS_PER_DAY

    def correlated() -> Floats:
        shared = forgetful(generator, (num_series, num_steps, 1), spell)
        own = forgetful(generator, (num_series, num_steps, NUM_REGIONS), spell)
        return 0.8 * shared + 0.6 * own

    state = correlated()
    label = (state + 0.5 * generator.standard_normal(state.shape) > -0.4).astype(np.int64)
    probability = 1 / (1 + np.exp(-(0.55 + state + 0.8 * correlated())))
    return probability.reshape(num_series, -1), label.reshape(num_series, -1)


def issue_times(num_steps: int) -> NDArray[np.datetime64]:
    """The time stamp of every window of a series, [num_steps * NUM_REGIONS]."""
    step = np.timedelta64(24 // STEPS_PER_DAY, "h")
    return np.repeat(np.datetime64("2020-01-01T00", "h") + np.arange(num_steps) * step, NUM_REGIONS)


def true_scores(num_steps: int, spell_days: float, num_series: int = 2000) -> dict[str, float]:
    """Scores of a run so long that chance doesn't matter."""
    generator = np.random.default_rng(1)
    probability, label = synthetic_forecasts(generator, num_series, num_steps, spell_days)
    return forecast_scores(probability.ravel(), label.ravel(), THRESHOLD)


def independent(
    probability: Floats, label: NDArray[np.int64], seed: int, num_resamples: int
) -> dict[str, Resamples]:
    """The same bootstrap with every window a block of its own."""
    each = np.datetime64("2020-01-01", "D") + np.arange(label.size)
    return resample_scores(
        {"f": probability},
        label,
        each,
        {"f": THRESHOLD},
        block_days=1,
        num_resamples=num_resamples,
        seed=seed,
    )["f"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--series", type=int, default=400)
    parser.add_argument("--days", type=int, default=548)
    parser.add_argument("--spell-days", type=float, default=3.0)
    parser.add_argument("--block-days", type=float, default=14.0)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    num_steps = given.days * STEPS_PER_DAY
    truth = true_scores(num_steps, given.spell_days)
    times = issue_times(num_steps)
    generator = np.random.default_rng(0)
    held: dict[str, list[list[bool]]] = {key: [] for key in truth}
    widths: dict[str, list[float]] = {key: [] for key in truth}
    seconds = 0.0
    for seed in range(given.series):
        probability, label = (
            a[0] for a in synthetic_forecasts(generator, 1, num_steps, given.spell_days)
        )
        started = time.perf_counter()
        found = resample_scores(
            {"f": probability},
            label,
            times,
            {"f": THRESHOLD},
            block_days=given.block_days,
            num_resamples=given.resamples,
            seed=seed,
        )["f"]
        seconds += time.perf_counter() - started
        # A tenth of the series is enough to see how far off the naive interval is.
        naive = independent(probability, label, seed, 200) if seed % 10 == 0 else None
        for key, true in truth.items():
            interval = found[key].interval()
            if interval.low is None or interval.high is None:
                continue
            low, high = np.nanquantile(found[key].values, [0.025, 0.975])
            twice = 2 * found[key].estimate
            kinds = [
                low <= true <= high,
                twice - high <= true <= twice - low,
                interval.low <= true <= interval.high,
            ]
            if naive is not None:
                left, right = np.nanquantile(naive[key].values, [0.025, 0.975])
                kinds.append(left <= true <= right)
                widths[key].append((interval.high - interval.low) / (right - left))
            held[key].append([bool(kind) for kind in kinds])
    print(machine_line())
    print(
        f"{given.series} series of {given.days} days x {NUM_REGIONS} regions, spells of "
        f"{given.spell_days:g} days, blocks of {given.block_days:g}, {given.resamples} resamples; "
        f"{seconds / given.series:.2f} s for {times.size} windows"
    )
    heads = ("true", "plain", "basic", "expanded", "windows", "wider")
    print(f"{'coverage, %':22}" + "".join(f"{head:>9}" for head in heads))
    for key, rows in held.items():
        if not rows:
            print(f"{key:22}{truth[key]:9.3f}  no interval")
            continue
        plain, basic, expanded = 100 * np.mean([row[:3] for row in rows], axis=0)
        alone = 100 * np.mean([row[3] for row in rows if len(row) > 3])
        print(
            f"{key:22}{truth[key]:9.3f}{plain:9.1f}{basic:9.1f}{expanded:9.1f}{alone:9.1f}"
            f"{np.mean(widths[key]):9.1f}"
        )


if __name__ == "__main__":
    main()
