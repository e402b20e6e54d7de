"""Features computed from ERA5's own, one region at a time, from the past only.

Units are ERA5's: K, Pa, m/s, kg/m2, J/kg; tp in mm. Wind and humidity come from a region's mean
wind, temperature and dew point, so wind speed is that of the mean wind. R rows of one region.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from timerxl.config import InputError

# Alduchov and Eskridge 1996, J. Appl. Meteor. 35, 601-609, equation 21: over water, -40 to 50 C.
MAGNUS_HPA, MAGNUS_A, MAGNUS_B_C = 6.1094, 17.625, 243.04
ZERO_C = 273.15
_PATTERN = re.compile(r"(?P<source>\w+)_(?P<kind>lag|tendency|sum|mean|min|max)_(?P<hours>\d+)h")
GROUPS = ("wind", "humidity", "tendency", "lags", "rolling", "calendar")
_LAGS = ("tp_lag_24h", "tcwv_lag_24h", "t2m_lag_24h")
# fmt: off
_ROLLING = ("tp_sum_24h", "tp_sum_72h", "tcwv_mean_72h", "t2m_mean_72h", "cape_mean_24h")
_FIXED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "wind_speed": (("u10", "v10"), "m s**-1", "speed of the mean wind at 10 m"),
    "wind_from_sin": (("u10", "v10"), "1", "sine of the direction the wind comes from; 0 if calm"),
    "wind_from_cos": (("u10", "v10"), "1", "cosine of the direction the wind comes from; 0 if calm"),  # noqa: E501
    "dewpoint_spread": (("t2m", "d2m"), "K", "temperature minus dew point at 2 m"),
    "relative_humidity": (("t2m", "d2m"), "%", "relative humidity over water at 2 m (Magnus)"),
    "season_sin": ((), "1", "sine of the time of year"),
    "season_cos": ((), "1", "cosine of the time of year"),
    "hour_sin": ((), "1", "sine of the hour of the day, UTC"),
    "hour_cos": ((), "1", "cosine of the hour of the day, UTC"),
}
# fmt: on


@dataclass(frozen=True)
class Derived:
    """One derived column: what it needs, over how many hours it looks back, its unit."""

    name: str
    needs: tuple[str, ...]
    kind: str
    hours: int
    unit: str
    description: str

    def describe(self) -> dict[str, str]:
        """Describe the column for series.json."""
        return {"unit": self.unit, "kind": "derived", "description": self.description}


def choose_derived(
    asked: list[str], units: dict[str, str], step_hours: int
) -> tuple[list[Derived], list[str]]:
    """Choose of ``asked`` (groups or names) the columns that ``units``' columns allow; notes.

    ``default`` takes of each group what the inputs allow; ``none`` nothing. A name that is asked
    for by itself must be possible. Raises InputError for an unknown word, a missing input, or hours
    that are no multiple of the step.
    """
    if "none" in asked:
        if len(asked) > 1:
            raise InputError(f"--derived {' '.join(asked)}: none stands alone.")
        return [], []
    found: dict[str, Derived] = {}
    notes = []
    for word in asked:
        if word == "default" or word in GROUPS:
            groups = GROUPS if word == "default" else (word,)
            for name in (name for group in groups for name in _members(group, units, step_hours)):
                made = _derived(name, units, step_hours)
                if isinstance(made, Derived):
                    found[name] = made
                elif word != "default":
                    notes.append(f"derived {name} left out: {made}.")
        else:
            made = _derived(word, units, step_hours)
            if not isinstance(made, Derived):
                raise InputError(f"--derived {word}: {made}.")
            found[word] = made
    clash = sorted(found.keys() & units.keys())
    notes += [f"derived {name} left out: the input has a column of this name." for name in clash]
    return [made for name, made in found.items() if name not in units], notes


def _members(group: str, units: dict[str, str], step_hours: int) -> tuple[str, ...]:
    if group == "tendency":
        # Three hours are the usual pressure tendency (WMO-No. 8); a longer step has its own.
        hours = 3 if 3 % step_hours == 0 else step_hours
        return (f"{'msl' if 'msl' in units else 'sp'}_tendency_{hours}h",)
    prefixes = {"wind": ("wind",), "humidity": ("dew", "rel"), "calendar": ("season", "hour")}
    if group in prefixes:
        return tuple(name for name in _FIXED if name.startswith(prefixes[group]))
    return _LAGS if group == "lags" else _ROLLING


def _derived(name: str, units: dict[str, str], step_hours: int) -> Derived | str:
    """The column, or why it can't be made."""
    if name in _FIXED:
        needs, unit, description = _FIXED[name]
        made = Derived(name, needs, name, 0, unit, description)
    elif match := _PATTERN.fullmatch(name):
        source, kind, hours = match["source"], match["kind"], int(match["hours"])
        if hours < step_hours or hours % step_hours:
            return f"{hours} h is no multiple of the step of {step_hours} h"
        words = {"lag": "before", "tendency": "change over"}.get(kind, f"{kind} over the last")
        text = f"{source} {hours} h before" if kind == "lag" else f"{source}: {words} {hours} h"
        unit = units.get(source, "")
        unit = f"{unit} per {hours} h" if kind == "tendency" else unit
        made = Derived(name, (source,), kind, hours, unit, text)
    else:
        return (
            f"unknown; expected default, none, one of {', '.join(GROUPS)}, one of "
            f"{', '.join(_FIXED)}, or a name such as tp_sum_48h, t2m_lag_24h, msl_tendency_3h "
            "(lag, tendency, sum, mean, min, max)"
        )
    if missing := [need for need in made.needs if need not in units]:
        return f"it needs {' and '.join(missing)}, which the input does not hold"
    return made


def saturation_vapour_pressure_hpa(temperature_k: np.ndarray) -> np.ndarray:
    """Return 6.1094 exp(17.625 t / (t + 243.04)) hPa over water, t in degrees Celsius (Magnus).

    Source: Alduchov and Eskridge 1996, J. Appl. Meteor. 35, 601-609, equation 21.
    """
    celsius = temperature_k - ZERO_C
    return MAGNUS_HPA * np.exp(MAGNUS_A * celsius / (celsius + MAGNUS_B_C))


def relative_humidity_percent(temperature_k: np.ndarray, dewpoint_k: np.ndarray) -> np.ndarray:
    """Return 100 e_s(dew point) / e_s(temperature), at most 100 (WMO-No. 8, over water).

    Averages and packing can put the dew point a hair above the temperature, hence the limit.
    """
    vapour = saturation_vapour_pressure_hpa(dewpoint_k)
    return np.minimum(100 * vapour / saturation_vapour_pressure_hpa(temperature_k), 100.0)


def wind_from(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sine and cosine of the direction the wind comes FROM, clockwise from north; 0 if calm.

    direction = atan2(-u, -v), so sin = -u / speed and cos = -v / speed (u eastward, v northward;
    meteorological convention, WMO-No. 8): a west wind (u > 0) has sin = -1, cos = 0.
    """
    speed = np.hypot(u, v)
    divisor = np.where(speed == 0, 1.0, speed)
    # Not -u / speed: minus zero would be a second zero.
    return (0.0 - u) / divisor, (0.0 - v) / divisor


def make_column(
    derived: Derived,
    columns: dict[str, np.ndarray],
    seconds: np.ndarray,
    present: np.ndarray,
    step_hours: int,
) -> np.ndarray:
    """Return [R] float64 of one derived column on a regular grid of steps.

    ``columns`` [R] hold the inputs, ``seconds`` [R] int64 since 1970 the stamps. Lags, tendencies
    and statistics need every row they span to be ``present`` [R] bool, statistics every value.
    """
    if derived.kind in _FIXED:
        return _fixed(derived.kind, columns, seconds)
    values = columns[derived.needs[0]]
    steps = derived.hours // step_hours
    result = np.full(len(values), np.nan)
    if derived.kind in ("lag", "tendency"):
        if len(values) > steps:
            absent = np.concatenate([[0], np.cumsum(~present)])
            unbroken = absent[steps + 1 :] == absent[: -steps - 1]
            earlier = values[:-steps]
            change = earlier if derived.kind == "lag" else values[steps:] - earlier
            result[steps:] = np.where(unbroken, change, np.nan)
        return result
    if len(values) >= steps:
        windows = np.lib.stride_tricks.sliding_window_view(values, steps)
        # NaN in, NaN out: never over a gap.
        result[steps - 1 :] = getattr(np, derived.kind)(windows, axis=1)
    return np.round(result, 6) if derived.kind == "sum" else result


def _fixed(kind: str, columns: dict[str, np.ndarray], seconds: np.ndarray) -> np.ndarray:
    if kind == "wind_speed":
        return np.hypot(columns["u10"], columns["v10"])
    if kind in ("wind_from_sin", "wind_from_cos"):
        return wind_from(columns["u10"], columns["v10"])[kind.endswith("cos")]
    if kind == "dewpoint_spread":
        return columns["t2m"] - columns["d2m"]
    if kind == "relative_humidity":
        return relative_humidity_percent(columns["t2m"], columns["d2m"])
    if kind.startswith("hour"):
        turn = seconds % 86400 / 86400
    else:
        stamps = seconds.astype("datetime64[s]")
        year = stamps.astype("datetime64[Y]")
        length = (year + 1).astype("datetime64[s]") - year.astype("datetime64[s]")
        turn = (stamps - year.astype("datetime64[s]")) / length
    angle = 2 * np.pi * turn
    return np.sin(angle) if kind.endswith("sin") else np.cos(angle)
