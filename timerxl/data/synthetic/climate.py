"""The hidden climate behind the synthetic series: its drive, its state, and the exact
probability of rain that follows from them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timerxl.config import InputError, SyntheticConfig
from timerxl.data.labels import whole_steps
from timerxl.untrusted import check_memory

Floats = NDArray[np.float64]

HORIZON_HOURS = 24.0
SENSITIVITY = 1.8
MEMORY_HOURS = 48.0
REGION_CORRELATION = 0.35
RAIN_THRESHOLD_MM = 0.1
MOST_STEPS = 500_000  # hourly for 57 years
BYTES_OF_A_ROW = 900  # at the peak, measured
WARM_UP_HOURS = 30 * 24  # before the first row, so that lags and trailing means are never missing
LOCAL_TIME_HOURS = -5  # Peru


REGIONS = ("costa_norte", "costa_centro", "sierra_norte", "sierra_sur", "selva")

# What the regions are like, in their order; it rains most on wet_day of the year at wet_hour local.
CLIMATE: dict[str, Floats] = {
    name: np.array(values, dtype=np.float64)
    for name, values in {
        "elevation_m": (60, 150, 2600, 3500, 200),
        "log_rate": (-0.5, -0.5, 0.4, 0.1, 0.65),  # at z = 0, of wet events a day
        "season": (0.60, 0.55, 0.50, 0.65, 0.35),  # amplitudes on that logarithm
        "wet_day": (60, 220, 65, 30, 40),
        "diurnal": (0.3, 0.3, 0.6, 0.6, 0.5),
        "wet_hour": (20, 5, 17, 17, 16),
        "enso": (0.35, 0.15, 0.1, -0.25, -0.1),  # per kelvin of the index
        "rain_mm": (3, 2, 6, 6, 12),
        "t2m_c": (23, 19, 14, 9, 26),
        "t2m_season_c": (3, 3, 1, 3, 1),
        "t2m_diurnal_c": (4, 3, 6, 7, 5),
        "spread_c": (5.5, 4, 5, 6.5, 3.5),
        "tcwv": (34, 27, 21, 14, 46),
        "cape": (260, 120, 320, 240, 900),
        "u10": (-1.5, -0.5, -2, -1, -0.5),
        "v10": (3, 3, 0.5, -0.5, -1),
    }.items()
}


@dataclass(frozen=True)
class HiddenWeather:
    """What drives the rain, T steps of G regions: warm-up, the table's rows, a horizon more."""

    timestamps: NDArray[np.datetime64]  # [T] end of the step, UTC
    oni: Floats  # [T] ENSO-like index, K
    drive: Floats  # [T, G] log of the wet events expected at z = 0 in the step that ends there
    state: Floats  # [T, G] z, standard normal
    precipitation_mm: Floats  # [T, G] multiples of 0.01 mm, exactly 0 or at least 0.1
    decay: float  # correlation of z over one step
    first_row: int  # the table's rows are first_row .. end_row - 1
    end_row: int
    horizon_steps: int


def _span(config: SyntheticConfig) -> tuple[np.datetime64, np.datetime64]:
    """First and last time stamp of the span; ``end`` is a whole day."""
    step = config.step_hours
    if step < 1 or 24 % step:
        raise InputError(
            f"data.synthetic.step_hours is {step}; expected a divisor of 24, such as 1, 6 or 12."
        )
    days = []
    for key, text in (("start", config.start), ("end", config.end)):
        try:
            days.append(np.datetime64(datetime.date.fromisoformat(text), "D"))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"data.synthetic.{key} is {text!r}; expected a date like 2014-01-01."
            ) from error
    if days[1] <= days[0]:
        raise InputError(
            f"data.synthetic spans {config.start} to {config.end}; expected at least two days, "
            "because the last day is only there to label the one before."
        )
    # Twelve-hourly ERA5 extracts come at 06 and 18 UTC; every other step divides the day from 00.
    first = days[0].astype("datetime64[s]") + np.timedelta64(6 if step == 12 else 0, "h")
    count = (int((days[1] - days[0]).astype(int)) + 1) * 24 // step
    if count > MOST_STEPS:
        raise InputError(
            f"data.synthetic spans {config.start} to {config.end}, {count:,} steps of {step} h; "
            f"expected at most {MOST_STEPS:,}."
        )
    check_memory(count * len(REGIONS) * BYTES_OF_A_ROW, f"a synthetic series of {count:,} steps")
    return first, first + np.timedelta64((count - 1) * step, "h")


def season_of(timestamps: NDArray[np.datetime64]) -> Floats:
    """Day of the year with its fraction, 0 at the New Year."""
    return (timestamps - timestamps.astype("datetime64[Y]")) / np.timedelta64(86400, "s")


def local_hour(timestamps: NDArray[np.datetime64]) -> Floats:
    seconds = (timestamps - timestamps.astype("datetime64[D]")).astype(np.int64)
    return (seconds / 3600 + LOCAL_TIME_HOURS) % 24


def cycle(position: Floats, peak: float | Floats, period: float) -> Floats:
    return np.cos(2 * np.pi * (position - peak) / period)


def _enso(timestamps: NDArray[np.datetime64], rng: np.random.Generator) -> Floats:
    """Slow waves with seeded phases: known for all times, smooth, standard deviation near 0.8."""
    years = (timestamps - np.datetime64("2014-01-01", "s")) / np.timedelta64(31557600, "s")
    oni = np.zeros(len(years))
    for amplitude, period_years in ((0.70, 5.3), (0.65, 3.6), (0.45, 2.4)):
        phase = rng.uniform(0, 2 * np.pi)
        oni += amplitude * np.sin(2 * np.pi * years / period_years + phase)
    return oni


def accumulate(values: Floats, decay: float) -> Floats:
    """y_t = decay * y_{t-1} + values_t down the columns [T, K]."""
    result = values.copy()
    for t in range(1, len(result)):
        result[t] += decay * result[t - 1]
    return result


def autoregress(noise: Floats, decay: float) -> Floats:
    """Stationary AR(1) columns of unit variance out of unit white noise [T, K]."""
    scale = np.full((len(noise), 1), np.sqrt(1 - decay**2))
    scale[0] = 1
    return accumulate(noise * scale, decay)


def simulate_hidden(config: SyntheticConfig, horizon_hours: float = HORIZON_HOURS) -> HiddenWeather:
    """Draw state and rain. Same config, same bits; raises InputError on an impossible span.

    A horizon above 24 hours runs on past the span: the weather inside it is the same for all.
    """
    step, of = config.step_hours, CLIMATE
    first, last = _span(config)
    ahead, day_steps = whole_steps(horizon_hours, step), 24 // step
    beyond = max(ahead - day_steps, 0)
    start = first - np.timedelta64(WARM_UP_HOURS, "h")
    end = last + np.timedelta64(beyond * step, "h")
    timestamps = np.arange(start, end + np.timedelta64(1, "s"), np.timedelta64(step, "h"))
    streams = [np.random.default_rng([config.seed, purpose]) for purpose in range(4)]
    oni = _enso(timestamps, streams[0])

    middle = timestamps - np.timedelta64(step * 1800, "s")
    day, hour = season_of(middle)[:, None], local_hour(middle)[:, None]
    drive = of["log_rate"] + np.log(step / 24) + of["enso"] * oni[:, None]
    drive = drive + of["season"] * cycle(day, of["wet_day"], 365.25)
    drive = drive + of["diurnal"] * cycle(hour, of["wet_hour"], 24)

    decay = float(np.exp(-step / MEMORY_HOURS))
    noise = streams[1].standard_normal((len(timestamps), len(REGIONS) + 1))
    innovations = np.sqrt(REGION_CORRELATION) * noise[:, :1]
    innovations = innovations + np.sqrt(1 - REGION_CORRELATION) * noise[:, 1:]
    state = autoregress(innovations, decay)

    before = np.concatenate([state[:1], state[:-1]])  # rain follows the state a step begins with
    wet = streams[2].random(drive.shape) < 1 - np.exp(-np.exp(drive + SENSITIVITY * before))
    scale = of["rain_mm"] * (step / 24) ** 0.6 * np.exp(0.3 * before)
    amount = RAIN_THRESHOLD_MM + streams[3].standard_gamma(0.7, drive.shape) * scale
    return HiddenWeather(
        timestamps=timestamps,
        oni=oni,
        drive=drive,
        state=state,
        precipitation_mm=np.where(wet, np.round(amount * 100) / 100, 0.0),
        decay=decay,
        first_row=WARM_UP_HOURS // step,
        end_row=len(timestamps) - beyond - day_steps,
        horizon_steps=ahead,
    )


def dry_probability(drive: Floats, state: Floats, decay: float, num_steps: int) -> Floats:
    """P(no wet step among t+1 .. t+num_steps | z_t) for every t of ``state``.

    drive: [T + num_steps], state: [T]; returns [T]. Backward recursion over the steps,
    S_k(t, z) = (1 - q(drive_{t+1}, z)) E[S_{k-1}(t+1, z') | z] and S_0 = 1, with the trapezoidal
    rule on a uniform grid of z'. Its error falls exponentially in 1 / spacing: as
    exp(-2 (pi * sd / spacing)^2) for the Gaussian kernel and as exp(-pi^2 / (SENSITIVITY *
    spacing)) for the double exponential q; both stay below 1e-11 here. The last expectation starts
    from the state itself, so nothing is interpolated.
    """
    spread = np.sqrt(1 - decay**2)
    spacing = min(spread / 1.2, 0.2)
    grid = np.arange(-6.0, 6.0 + spacing, spacing)

    def kernel(origin: Floats) -> Floats:
        weights = np.exp(-0.5 * ((grid - decay * origin[:, None]) / spread) ** 2)
        return weights / weights.sum(axis=1, keepdims=True)

    transition = kernel(grid).T
    rate = np.exp(SENSITIVITY * grid)
    result = np.empty(len(state))
    for begin in range(0, len(state), 2048):  # blocks that stay in the processor's cache
        end = min(begin + 2048, len(state))
        dry = np.exp(-np.exp(drive[begin + 2 : end + num_steps, None]) * rate)
        survival = np.ones((len(dry) + 1, len(grid)))
        for k in range(num_steps - 1):
            mean = survival[1:] if k == 0 else survival[1:] @ transition
            survival = dry[: len(mean)] * mean
        ahead = np.einsum("tz,tz->t", kernel(state[begin:end]), survival)
        own = np.exp(drive[begin + 1 : end + 1] + SENSITIVITY * state[begin:end])
        result[begin:end] = np.exp(-own) * ahead
    return result
