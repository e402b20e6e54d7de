"""Is a table in the units that a model was trained in? What can't be is refused, the odd is noted.

The weather of another season, a dry month or a short table must pass: a column is refused where a
known conversion would bring it back to what training saw and nothing else would explain it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from timerxl.config import InputError
from timerxl.data.audit.findings import listed
from timerxl.data.series import WeatherSeries
from timerxl.data.training_ranges import LEAST_NONZERO_JUDGED, describe, even_sample

# Ranges (1 % to 99 %) in which nothing but a temperature lies, below -90 degrees nothing at all.
_KELVIN, _CELSIUS, _ZERO_CELSIUS = (180.0, 340.0), (-95.0, 65.0), 273.15
# Sines, shares and indices have no unit to mistake, and can stay at one value for years.
_SMALL = 5.0
_FAR_DEVIATIONS = 10.0
# From here on training saw all seasons: what lies far from all of it can't be the weather.
_YEAR_DAYS = 300.0
# How many times smaller or larger than in any block of training a size must be: drizzle of a dry
# season is ten times smaller than rain, and a short training may not have seen that season.
_SIZE_MARGIN, _SIZE_MARGIN_SHORT = 10.0, 30.0
# Values this far beyond a region's range, in shares of its width, and so many of them, are noted.
_MARGIN, _ODD_SHARE = 0.1, 0.05
_MOST_REGIONS = 1_000
_MOST_NOTED = 5
# What the factor that brings a feature back to training tells of its unit.
_FACTORS = {
    1000.0: "a unit 1000 times as large as the model's (m for mm)",
    100.0: "a unit 100 times as large as the model's (hPa for Pa, a share for percent)",
    0.01: "a unit 100 times as small as the model's (Pa for hPa, percent for a share)",
    0.001: "a unit 1000 times as small as the model's (mm for m)",
}


@dataclass(frozen=True)
class _Seen:
    """The numbers of one feature in one region: of the table, or of training."""

    min: float
    max: float
    mean: float
    std: float
    q01: float
    q99: float
    size_low: float | None
    size: float | None
    size_high: float | None

    @property
    def width(self) -> float:
        return self.q99 - self.q01

    @property
    def text(self) -> str:
        return f"{self.min:.5g} to {self.max:.5g} (mean {self.mean:.5g})"


_Pair = tuple[_Seen, _Seen]  # of the table, of training


def check_units(series: WeatherSeries, saved: dict[str, Any], block_steps: int) -> list[str]:
    """Notes on what is odd about a table; ``saved`` is the model's ``training_ranges``.

    A region that training didn't have is held against all of training's. Raises InputError that
    names the feature, its range in the table and in training, and the likely unit.
    """
    pairs: dict[str, dict[str, _Pair]] = {name: {} for name in series.feature_names}
    outside: dict[str, dict[str, float]] = {name: {} for name in series.feature_names}
    by_region = saved["by_region"]
    anywhere = [_seen(list(by_region.values()), k) for k in range(len(series.feature_names))]
    starts = np.searchsorted(series.region_index, np.arange(1, len(series.regions)))
    parts = np.split(series.values, starts)
    sample = even_sample(len(parts), _MOST_REGIONS)
    for place in sample:
        region, values = series.regions[place], parts[place]
        found = describe(values, block_steps, LEAST_NONZERO_JUDGED)
        trained = by_region.get(region)
        for column, name in enumerate(series.feature_names):
            one = _seen([found], column)
            other = anywhere[column] if trained is None else _seen([trained], column)
            if one is not None and other is not None:
                pairs[name][region] = one, other
                outside[name][region] = _share_outside(values[:, column], other)
    refused = {name: _refusal(of_name, saved["days"]) for name, of_name in pairs.items()}
    if wrong := {name: why for name, why in refused.items() if why}:
        first, *others = wrong
        also = f" The same goes for {', '.join(others)}." if others else ""
        if first == series.precipitation_feature:
            also += " Its numbers here are mm, as the model reads the column."
        raise InputError(f"column {first} {wrong[first]}{also}")
    notes = _scale_notes(pairs, saved["days"]) + _odd_notes(pairs, outside)
    if len(sample) < len(parts):
        notes.append(f"units were checked in {len(sample):,} of {len(parts):,} regions.")
    return notes


def _seen(parts: list[dict[str, Any]], column: int) -> _Seen | None:
    """One feature over one region, or over several at once (means and deviations roughly)."""
    parts = [
        {key: numbers[column] for key, numbers in part.items()}
        for part in parts
        if part["mean"][column] is not None
    ]
    if not parts:
        return None
    sizes = [part for part in parts if part["size_low"] is not None]
    return _Seen(
        min=min(part["min"] for part in parts),
        max=max(part["max"] for part in parts),
        mean=float(np.mean([part["mean"] for part in parts])),
        std=max(part["std"] for part in parts),
        q01=min(part["q01"] for part in parts),
        q99=max(part["q99"] for part in parts),
        size_low=min((part["size_low"] for part in sizes), default=None),
        size=float(np.median([part["size"] for part in sizes])) if sizes else None,
        size_high=max((part["size_high"] for part in sizes), default=None),
    )


def _refusal(regions: dict[str, _Pair], days: float) -> str | None:
    """Why the unit of a feature can't be that of training, as a clause; None where it can."""
    for region, (found, trained) in regions.items():
        if unit := _other_temperature(found, trained) or _other_level(found, trained):
            return _clause(region, found, trained, f"that looks like {unit}. Convert it.")
    factors = _size_factors(regions, days)
    judged = sum(found.size is not None for found, _ in regions.values())
    if len(set(factors.values())) == 1 and 2 * len(factors) >= judged:
        region, factor = next(iter(factors.items()))
        return _clause(region, *regions[region], f"that looks like {_FACTORS[factor]}. Convert it.")
    if days >= _YEAR_DAYS and regions and all(_is_far(*pair) for pair in regions.values()):
        region, pair = next(iter(regions.items()))
        why = f"more than {_FAR_DEVIATIONS:g} deviations off. Check its unit, or whether"
        return _clause(region, *pair, f"{why} it is another column.")
    return None


def _clause(region: str, found: _Seen, trained: _Seen, rest: str) -> str:
    return f"in region {region} has {found.text}, the model was trained on {trained.text}: {rest}"


def _other_temperature(found: _Seen, trained: _Seen) -> str | None:
    """Kelvin for degrees Celsius, or the other way round: no weather does that."""

    def within(seen: _Seen, bounds: tuple[float, float]) -> bool:
        return bounds[0] < seen.q01 and seen.q99 < bounds[1]

    def near(mean: float) -> bool:
        reach = trained.width + 10.0
        return trained.q01 - reach < mean < trained.q99 + reach

    if within(found, _CELSIUS) and within(trained, _KELVIN) and near(found.mean + _ZERO_CELSIUS):
        return "degrees Celsius where the model reads kelvin"
    if within(found, _KELVIN) and within(trained, _CELSIUS) and near(found.mean - _ZERO_CELSIUS):
        return "kelvin where the model reads degrees Celsius"
    return None


def _other_level(found: _Seen, trained: _Seen) -> str | None:
    """Hectopascal for pascal and the like: a factor of what stays well away from zero."""
    if not all(0 < seen.q01 <= seen.q99 < 10 * seen.q01 for seen in (found, trained)):
        return None
    if max(found.max, trained.max) <= _SMALL:
        return None
    low, high = trained.q01 / 1.5, trained.q99 * 1.5
    for factor, text in _FACTORS.items():
        if low < found.mean * factor < high:
            return text
    return None


def _size_factors(regions: dict[str, _Pair], days: float) -> dict[str, float]:
    """By what a feature would have to be multiplied, in the regions where it is of another size."""
    margin = _SIZE_MARGIN if days >= _YEAR_DAYS else _SIZE_MARGIN_SHORT
    factors = {region: _size_factor(*pair, margin) for region, pair in regions.items()}
    return {region: factor for region, factor in factors.items() if factor is not None}


def _size_factor(found: _Seen, trained: _Seen, margin: float) -> float | None:
    """The factor that brings the typical size of values that are not 0 to training's.

    None where the size as found is less than ``margin`` times off all that training had in a block.
    """
    low, high = trained.size_low, trained.size_high
    if found.size is None or trained.size is None or low is None or high is None:
        return None
    fits = []
    for factor in _FACTORS:
        if factor in (100.0, 0.01) and not _is_percent(found, trained, factor):
            continue
        size = found.size * factor
        off = low / found.size if factor > 1 else found.size / high
        if off > margin and low / 3 <= size <= high * 3:
            fits.append((abs(math.log(size / trained.size)), factor))
    return min(fits)[1] if fits else None


def _is_percent(found: _Seen, trained: _Seen, factor: float) -> bool:
    """One of the two a share (0 to 1), the other percents."""
    share, percents = (found, trained) if factor > 1 else (trained, found)
    return min(share.min, percents.min) >= 0 and share.max <= 1.05 < percents.max <= 105


def _is_far(found: _Seen, trained: _Seen) -> bool:
    if max(abs(found.min), abs(found.max), abs(trained.min), abs(trained.max)) <= _SMALL:
        return False
    outside = max(trained.min - found.mean, found.mean - trained.max)
    far = abs(found.mean - trained.mean) > _FAR_DEVIATIONS * trained.std
    return far and outside > max(trained.max - trained.min, 0.1 * abs(trained.mean))


def _share_outside(values: np.ndarray, trained: _Seen) -> float:
    """Share of the values (missing ones left out) that training's range doesn't hold."""
    margin = _MARGIN * (trained.max - trained.min) + 1e-5 * abs(trained.mean)
    present = values[~np.isnan(values)]
    outside = (present < trained.min - margin) | (present > trained.max + margin)
    return float(outside.mean())


def _scale_notes(pairs: dict[str, dict[str, _Pair]], days: float) -> list[str]:
    """Where a part of the regions alone looks like another unit."""
    notes = []
    for name, regions in pairs.items():
        if factors := _size_factors(regions, days):
            region, factor = next(iter(factors.items()))
            found, trained = regions[region]
            notes.append(
                f"{name} in {listed(list(factors), 30)} may be in {_FACTORS[factor]}: "
                f"{found.text} in {region}, training had {trained.text}."
            )
    return notes


def _odd_notes(
    pairs: dict[str, dict[str, _Pair]], outside: dict[str, dict[str, float]]
) -> list[str]:
    """Features that lie beyond training in good part (``outside``: shares), the worst first."""
    found = []
    for name, shares in outside.items():
        odd = {region: share for region, share in shares.items() if share > _ODD_SHARE}
        if odd:
            found.append((max(odd.values()), name, odd))
    found.sort(key=lambda item: -item[0])
    notes = []
    for share, name, odd in found[:_MOST_NOTED]:
        region = max(odd, key=lambda one: odd[one])
        here, trained = pairs[name][region]
        more = f" (and {len(odd) - 1} more regions)" if len(odd) > 1 else ""
        notes.append(
            f"{share:.0%} of {name} in {region}{more} lie beyond training: {here.text}, training "
            f"had {trained.text}."
        )
    if rest := [name for _, name, _ in found[_MOST_NOTED:]]:
        notes.append(f"partly beyond training are also: {', '.join(rest)}.")
    return notes
