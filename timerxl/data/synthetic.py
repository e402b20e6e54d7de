"""A seeded, openly synthetic weather series of five Peruvian regions whose best forecast is known.

Each region has one hidden state ``z``, a stationary Gaussian AR(1) process; the innovations of
the regions are correlated, yet each ``z`` is Markov by itself. The state at ``t`` sets how likely
the step from ``t`` to ``t + s`` hours is wet:

    q = 1 - exp(-exp(drive + SENSITIVITY * z_t)),

where the drive is a known function of region, season, local hour and the ENSO-like index and holds
``log(s / 24)``, so that a day rains about as often whatever the step. Everything observable depends
on ``z`` up to ``t`` and on noise of its own: given ``z_t``, the past adds nothing about the rain to
come, and ``true_probability`` is the exact chance of rain that no forecaster can beat.

That is version 1. In version 2 (``data.synthetic.version``) the hidden states of the regions are
coupled, and rain depends on them through interactions: see ``coupled_weather``. Its true
probability is a quasi Monte Carlo mean over the hidden states to come. What can be known of either
from the observed variables alone is in ``observed_bound``.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data import coupled_weather
from timerxl.data.era5.derived import saturation_vapour_pressure_hpa as vapour_hpa
from timerxl.data.preprocessing import UNITS_PER_MM, whole_steps
from timerxl.data.series import WeatherSeries, choose_features, label_like
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
    kinds: list[coupled_weather.Kind]  # of rain: what the wet events of a step depend on
    process: tuple[Floats, Floats]  # of the state: A and the covariance of a step's noise
    state: Floats  # [T, S] z of every region, or moisture and instability
    precipitation_mm: Floats  # [T, G] multiples of 0.01 mm, exactly 0 or at least 0.1
    first_row: int  # the table's rows are first_row .. end_row - 1
    end_row: int
    horizon_steps: int

    @property
    def drive(self) -> Floats:
        """[T, G]: log of the wet events expected in a step, of its first kind of rain."""
        return self.kinds[0][0][0]


# What version 2 has otherwise, region by region.
COUPLED: dict[str, Floats] = {
    name: np.array(values, dtype=np.float64)
    for name, values in {
        "showers": (0.4, 0.2, 1.3, 1.2, 1.6),  # log rate, of wet events a day
        "showers_season": (1.6, 1.4, 1.2, 1.6, 0.8),  # amplitude on it
        "large_scale": (-1.8, -1.6, -1.2, -1.6, -1.1),
        "large_scale_season": (-0.5, -0.5, -0.5, -0.4, -0.4),  # most of it when showers are few
        "enso_season": (0.45, 0.2, 0.1, -0.35, -0.15),  # per kelvin at the height of the wet season
        "wind": (1.0, 1.0, -0.4, -1.0, -1.0),  # which way the wind of wet air blows
    }.items()
}
# Amounts: a gamma distribution in version 1, a generalised Pareto in version 2. The state makes
# both scales larger.
AMOUNT_OF_STATE = {1: 0.3, 2: 0.4}
AMOUNT_SHAPE, AMOUNT_TAIL = 0.7, 0.25
KNOWN_VERSIONS = (1, 2)


def _span(config: SyntheticConfig) -> tuple[np.datetime64, np.datetime64]:
    """First and last time stamp of the span; ``end`` is a whole day."""
    step = config.step_hours
    if config.version not in KNOWN_VERSIONS:
        raise InputError(
            f"data.synthetic.version is {config.version}; expected 1 (a hidden state a region) or "
            "2 (disturbances that travel between regions)."
        )
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
    """Return day of the year with its fraction, 0 at the New Year."""
    return (timestamps - timestamps.astype("datetime64[Y]")) / np.timedelta64(86400, "s")


def local_hour(timestamps: NDArray[np.datetime64]) -> Floats:
    seconds = (timestamps - timestamps.astype("datetime64[D]")).astype(np.int64)
    return (seconds / 3600 + LOCAL_TIME_HOURS) % 24


def cycle(position: Floats, peak: float | Floats, period: float) -> Floats:
    return np.cos(2 * np.pi * (position - peak) / period)


def accumulate(values: Floats, decay: float) -> Floats:
    """Return y_t = decay * y_{t-1} + values_t down the columns [T, K]."""
    result = values.copy()
    for t in range(1, len(result)):
        result[t] += decay * result[t - 1]
    return result


def autoregress(noise: Floats, decay: float) -> Floats:
    """Return stationary AR(1) columns of unit variance out of unit white noise [T, K]."""
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
    # ENSO: slow waves with seeded phases, known for all times; standard deviation near 0.8.
    years = (timestamps - np.datetime64("2014-01-01", "s")) / np.timedelta64(31557600, "s")
    oni = np.zeros(len(years))
    for amplitude, period_years in ((0.70, 5.3), (0.65, 3.6), (0.45, 2.4)):
        phase = streams[0].uniform(0, 2 * np.pi)
        oni += amplitude * np.sin(2 * np.pi * years / period_years + phase)

    middle = timestamps - np.timedelta64(step * 1800, "s")
    day, hour = season_of(middle)[:, None], local_hour(middle)[:, None]
    if config.version == 2:
        return _simulate_coupled(config, timestamps, oni, day, hour, ahead, beyond)
    drive = of["log_rate"] + np.log(step / 24) + of["enso"] * oni[:, None]
    drive = drive + of["season"] * cycle(day, of["wet_day"], 365.25)
    drive = drive + of["diurnal"] * cycle(hour, of["wet_hour"], 24)

    decay = float(np.exp(-step / MEMORY_HOURS))
    noise = streams[1].standard_normal((len(timestamps), len(REGIONS) + 1))
    innovations = np.sqrt(REGION_CORRELATION) * noise[:, :1]
    innovations = innovations + np.sqrt(1 - REGION_CORRELATION) * noise[:, 1:]
    state = autoregress(innovations, decay)

    correlation = np.full((len(REGIONS), len(REGIONS)), REGION_CORRELATION)
    np.fill_diagonal(correlation, 1.0)

    before = np.concatenate([state[:1], state[:-1]])  # rain follows the state a step begins with
    wet = streams[2].random(drive.shape) < 1 - np.exp(-np.exp(drive + SENSITIVITY * before))
    scale = amount_scale(before, config)
    amount = RAIN_THRESHOLD_MM + streams[3].standard_gamma(AMOUNT_SHAPE, drive.shape) * scale
    return HiddenWeather(
        timestamps=timestamps,
        oni=oni,
        kinds=[[(drive, SENSITIVITY * np.eye(len(REGIONS)))]],
        process=(decay * np.eye(len(REGIONS)), (1 - decay**2) * correlation),
        state=state,
        precipitation_mm=np.where(wet, np.round(amount * 100) / 100, 0.0),
        first_row=WARM_UP_HOURS // step,
        end_row=len(timestamps) - beyond - day_steps,
        horizon_steps=ahead,
    )


def _simulate_coupled(
    config: SyntheticConfig,
    timestamps: NDArray[np.datetime64],
    oni: Floats,
    day: Floats,
    hour: Floats,
    ahead: int,
    beyond: int,
) -> HiddenWeather:
    """Draw version 2's state (moisture, then instability, of every region) and rain.

    ``day`` of the year and local ``hour`` [T, 1] are those of the middle of each step.
    """
    step, of = config.step_hours, CLIMATE | COUPLED
    streams = [np.random.default_rng([config.seed, 20 + purpose]) for purpose in range(4)]
    wet_season = cycle(day, of["wet_day"], 365.25)
    # ENSO acts in a region's wet season, hardly in its dry one.
    showers = of["showers"] + of["showers_season"] * wet_season + np.log(step / 24)
    showers = showers + of["enso_season"] * oni[:, None] * (0.5 + 0.5 * wet_season)
    showers = showers + of["diurnal"] * cycle(hour, of["wet_hour"], 24)
    large_scale = of["large_scale"] + of["large_scale_season"] * wet_season + np.log(step / 24)
    kinds = coupled_weather.kinds_of_rain(showers, large_scale)

    regions = len(REGIONS)
    state = coupled_weather.simulate_state(
        streams[0].standard_normal((len(timestamps), 2 * regions)), step
    )
    before = np.concatenate([state[:1], state[:-1]])  # rain follows the state a step begins with
    rate = coupled_weather.hazard(kinds, before, slice(None))
    wet = streams[1].random(rate.shape) < 1 - np.exp(-rate)
    tail = (1 - streams[2].random(rate.shape)) ** -AMOUNT_TAIL - 1
    amount = RAIN_THRESHOLD_MM + amount_scale(before, config) * tail / AMOUNT_TAIL
    return HiddenWeather(
        timestamps=timestamps,
        oni=oni,
        kinds=kinds,
        process=coupled_weather.step_matrices(regions, step)[:2],
        state=state,
        precipitation_mm=np.where(wet, np.round(amount * 100) / 100, 0.0),
        first_row=WARM_UP_HOURS // step,
        end_row=len(timestamps) - beyond - 24 // step,
        horizon_steps=ahead,
    )


def amount_scale(state: Floats, config: SyntheticConfig) -> Floats:
    """Return the scale [..., G] of a wet step's amount in mm, given the state at its begin."""
    growth = np.exp(AMOUNT_OF_STATE[config.version] * state[..., : len(REGIONS)])
    return np.asarray(CLIMATE["rain_mm"] * (config.step_hours / 24) ** 0.6 * growth)


def amount_log_density(amount_mm: Floats, state: Floats, config: SyntheticConfig) -> Floats:
    """Return a wet step's log density [..., G] of its amount, up to a constant."""
    scale = amount_scale(state, config)
    excess = np.maximum(amount_mm - RAIN_THRESHOLD_MM, 0) / scale
    if config.version == 1:
        return -AMOUNT_SHAPE * np.log(scale) - excess
    return -np.log(scale) - (1 + 1 / AMOUNT_TAIL) * np.log1p(AMOUNT_TAIL * excess)


def dry_probability(drive: Floats, state: Floats, decay: float, num_steps: int) -> Floats:
    """Return p(no wet step among t+1 .. t+num_steps | z_t) for every t of ``state``.

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


# Observed variable: (gain on the smoothed state, smoothing hours, hours its noise lasts).
SIGNALS = {
    "tcwv": (1.0, 4.0, 10.0),
    "spread": (0.9, 3.0, 8.0),
    "cape": (0.7, 2.0, 6.0),
    "msl": (0.7, 9.0, 14.0),
    "t2m": (0.5, 6.0, 10.0),
    "u10": (0.6, 3.0, 7.0),
    "v10": (0.6, 6.0, 9.0),
}
NOISE = 0.65
PRECIPITATION, TRUTH = "tp", "true_probability"

# fmt: off
FEATURE_NAMES = [
    "tp", "t2m", "d2m", "sp", "msl", "u10", "v10", "tcwv", "cape", "wind_speed", "dewpoint_spread",
    "relative_humidity", "msl_tendency_24h", "tp_lag_24h", "tp_sum_24h", "tp_sum_72h",
    "tcwv_lag_24h", "tcwv_mean_72h", "t2m_lag_24h", "t2m_mean_72h", "cape_mean_24h", "msl_mean_72h",
    "season_sin", "season_cos", "hour_sin", "hour_cos", "oni",
]
# fmt: on


def _trailing(values: Floats, steps: int) -> Floats:
    """Mean over the ``steps`` rows that end at each row [T, G]; the first rows repeat the first."""
    windows = np.lib.stride_tricks.sliding_window_view(values, steps, axis=0).mean(axis=-1)
    return np.concatenate([np.repeat(windows[:1], steps - 1, axis=0), windows])


def seen_of_state(state: Floats, version: int) -> dict[str, Floats]:
    """What each of SIGNALS is a smoothed and noisy view of: [..., G], linear in state [..., S]."""
    if version == 1:
        return dict.fromkeys(SIGNALS, state)
    moisture, instability = np.split(state, 2, axis=-1)
    return {
        "tcwv": moisture,
        "spread": moisture,
        "cape": instability,
        "msl": 0.6 * moisture + 0.4 * instability,
        "t2m": instability,
        "u10": COUPLED["wind"] * moisture,
        "v10": COUPLED["wind"] * instability,
    }


def observed_signals(hidden: HiddenWeather, config: SyntheticConfig) -> dict[str, Floats]:
    """The [T, G] behind each variable; the features tell it again, for all else in them is known:
    season, hour, the ENSO-like index."""
    signal, step = {}, config.step_hours
    for k, (name, seen) in enumerate(seen_of_state(hidden.state, config.version).items()):
        gain, smoothing_hours, noise_hours = SIGNALS[name]
        rng = np.random.default_rng([config.seed, 4 + k])
        decay = float(np.exp(-step / smoothing_hours))
        smoothed = accumulate(seen * (1 - decay), decay)
        noise = rng.standard_normal(hidden.drive.shape)
        noise = autoregress(noise, float(np.exp(-step / noise_hours)))
        signal[name] = gain * smoothed + NOISE * noise
    return signal


def _observe(hidden: HiddenWeather, config: SyntheticConfig) -> dict[str, Floats]:
    """The features, each [T, G]: partial, lagged, noisy views of the state; none looks ahead."""
    step, of, shape = config.step_hours, CLIMATE, hidden.drive.shape
    signal = observed_signals(hidden, config)
    day, hour = season_of(hidden.timestamps)[:, None], local_hour(hidden.timestamps)[:, None]
    summer = cycle(day, 35, 365.25)
    wet_season = of["season"] * cycle(day, of["wet_day"], 365.25)
    afternoon, oni = cycle(hour, 15, 24), hidden.oni[:, None]

    t2m = 273.15 + of["t2m_c"] + of["t2m_season_c"] * summer + of["t2m_diurnal_c"] * afternoon
    t2m = t2m + 0.5 * oni - 1.1 * signal["t2m"]
    spread = of["spread_c"] * np.exp(0.35 * afternoon - 0.2 * wet_season - 0.3 * signal["spread"])
    msl = 101300 - 80 * summer + 90 * cycle(hour, 10, 12) - 110 * signal["msl"]
    lapse = 0.0065 * of["elevation_m"]
    tcwv = of["tcwv"] * np.exp(0.12 * wet_season + 0.03 * oni + 0.10 * signal["tcwv"])
    cape = of["cape"] * np.exp(0.5 * afternoon + 0.3 * wet_season + 0.5 * signal["cape"])
    u10 = of["u10"] + 0.5 * afternoon + 1.1 * signal["u10"]
    v10 = of["v10"] + 0.4 * summer - 1.0 * signal["v10"]
    tp = hidden.precipitation_mm / 1000
    day_steps = 24 // step

    def lag(values: Floats) -> Floats:
        return np.concatenate([np.repeat(values[:1], day_steps, axis=0), values[:-day_steps]])

    hundredths = np.round(hidden.precipitation_mm * 100)  # whole numbers: the sums are exact
    features = {
        "tp": tp,
        "t2m": t2m,
        "d2m": t2m - spread,
        "sp": msl * (1 - lapse / (t2m + lapse)) ** 5.257,  # barometric formula
        "msl": msl,
        "u10": u10,
        "v10": v10,
        "tcwv": tcwv,
        "cape": cape,
        "wind_speed": np.hypot(u10, v10),
        "dewpoint_spread": spread,
        "relative_humidity": 100 * vapour_hpa(t2m - spread) / vapour_hpa(t2m),
        "msl_tendency_24h": msl - lag(msl),
        "tp_lag_24h": lag(tp),
        "tp_sum_24h": np.round(_trailing(hundredths, day_steps) * day_steps) / 1e5,
        "tp_sum_72h": np.round(_trailing(hundredths, 3 * day_steps) * 3 * day_steps) / 1e5,
        "tcwv_lag_24h": lag(tcwv),
        "tcwv_mean_72h": _trailing(tcwv, 3 * day_steps),
        "t2m_lag_24h": lag(t2m),
        "t2m_mean_72h": _trailing(t2m, 3 * day_steps),
        "cape_mean_24h": _trailing(cape, day_steps),
        "msl_mean_72h": _trailing(msl, 3 * day_steps),
        "season_sin": np.sin(2 * np.pi * day / 365.25),
        "season_cos": np.cos(2 * np.pi * day / 365.25),
        "hour_sin": np.sin(2 * np.pi * hour / 24),
        "hour_cos": np.cos(2 * np.pi * hour / 24),
        "oni": oni,
    }
    return {name: np.broadcast_to(features[name], shape) for name in FEATURE_NAMES}


def synthetic_table(config: SyntheticConfig, horizon_hours: float = HORIZON_HOURS) -> pd.DataFrame:
    """Make timestamp (UTC), region, 27 features, rain_24h, true_probability; region by region.

    ERA5 names and units: tp [m] over the step that ends at the stamp, t2m and d2m [K], sp and msl
    [Pa], u10, v10 and wind_speed [m/s], tcwv [kg/m2], cape [J/kg], relative_humidity [%]. The rows
    end 24 hours before the span does. ``rain_24h`` is 1 where tp over (t, t + 24 h] reaches
    0.1 mm; ``true_probability`` is P(rain_24h = 1 | state at t). Another ``horizon_hours`` changes
    these two (``rain_48h`` and so on), not the weather. Raises InputError for a step that does not
    divide 24, a horizon that is no multiple of it, or a span below two days.
    """
    hidden = simulate_hidden(config, horizon_hours)
    features = _observe(hidden, config)
    ahead = hidden.horizon_steps
    rows = slice(hidden.first_row, hidden.end_row)
    last = hidden.end_row + ahead
    wet = hidden.precipitation_mm[hidden.first_row + 1 : last] >= RAIN_THRESHOLD_MM
    label = np.any(np.lib.stride_tricks.sliding_window_view(wet, ahead, axis=0), axis=-1)
    if config.version == 2:
        dry = coupled_weather.dry_probability(
            hidden.kinds,
            hidden.process,
            hidden.state[rows],
            np.arange(hidden.first_row, hidden.end_row),
            ahead,
            paths=256 if ahead <= 4 else 128,
        )
    else:
        drive, decay = hidden.drive[hidden.first_row : last], hidden.process[0][0, 0]
        by_region = zip(drive.T, hidden.state[rows].T, strict=True)
        dry = np.stack([dry_probability(d, z, decay, ahead) for d, z in by_region], axis=1)
    tables = []
    for region, name in enumerate(REGIONS):
        columns: dict[str, Any] = {"timestamp": hidden.timestamps[rows], "region": name}
        columns |= {key: values[rows, region] for key, values in features.items()}
        columns[f"rain_{horizon_hours:g}h"] = label[:, region].astype(np.int64)
        columns[TRUTH] = 1 - dry[:, region]
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def synthetic_series(
    config: SyntheticConfig, horizon_hours: float = HORIZON_HOURS
) -> WeatherSeries:
    """Return the table as a :class:`WeatherSeries`; tp in mm, as the reader makes it from metres.

    ``true_probability`` is of ``horizon_hours``; there is a ready label for 24 hours alone.
    """
    table = synthetic_table(config, horizon_hours)
    own = horizon_hours == HORIZON_HOURS
    precipitation_mm = np.round(table[PRECIPITATION].to_numpy() * 1000, 6)
    timestamps = table["timestamp"].to_numpy(dtype="datetime64[s]")
    values = table[FEATURE_NAMES].to_numpy(dtype=np.float32, copy=True)
    values[:, FEATURE_NAMES.index(PRECIPITATION)] = precipitation_mm
    return WeatherSeries(
        feature_names=list(FEATURE_NAMES),
        regions=list(REGIONS),
        values=values,
        region_index=np.repeat(np.arange(len(REGIONS)), len(table) // len(REGIONS)),
        timestamps=timestamps,
        precipitation_mm=precipitation_mm,
        ready_label=table["rain_24h"].to_numpy(dtype=np.float64) if own else None,
        true_probability=table[TRUTH].to_numpy(),
        step_hours=float(config.step_hours),
        precipitation_feature=PRECIPITATION,
        is_synthetic=True,
        source={
            "synthetic": True,
            "version": config.version,
            "seed": config.seed,
            "step_hours": config.step_hours,
            "start": config.start,
            "end": config.end,
            "rows": len(table),
            "first": str(timestamps[0]),
            "last": str(timestamps[-1]),
        },
        notes=[
            f"The series is synthetic (seed {config.seed}): five invented Peruvian climates, "
            "no observation. Set data.path to use your own."
        ],
    )


# The recursion behind the true probability takes a pass per step; ten days is as far as forecasts
# of the weather go, and a minute's work for an hourly series of eleven years.
MOST_HORIZON_HOURS = 240.0
_OF_TABLES = ("timestamp_column", "region_column", "precipitation_column", "precipitation_unit")


def load_synthetic(config: DataConfig) -> WeatherSeries:
    """Make the synthetic series for the event of ``data``, with the features it lists.

    Its ready label is of 0.1 mm in 24 h; for any other event it's None, and labels are made from
    the rain. ``true_probability`` is that of the event, or None, with a note that says why. Raises
    InputError for ``data.label_column`` and for features that the series does not have.
    """
    if config.label_column is not None:
        raise InputError(
            f"data.label_column is {config.label_column}, but data.path is null and the synthetic "
            "series makes its own label; set data.label_column to null or give data.path."
        )
    event = (config.label_horizon_hours, config.rain_threshold_mm)
    own = event == (HORIZON_HOURS, RAIN_THRESHOLD_MM)
    reason = None if own else _why_unknown(config)
    series = synthetic_series(config.synthetic, HORIZON_HOURS if reason else event[0])
    notes = list(series.notes)
    if not own:
        series = replace(series, ready_label=None)
    if reason:
        series = replace(series, true_probability=None)
        notes.append(f"the best possible score is not given for this label: {reason}.")
    default = DataConfig()
    unused = [f"data.{k}" for k in _OF_TABLES if getattr(config, k) != getattr(default, k)]
    if unused:
        notes.append(f"{', '.join(unused)} describe a table: the synthetic series ignores them.")
    series = replace(series, notes=notes)
    return _select(series, config)


def _why_unknown(config: DataConfig) -> str | None:
    """Why the true probability of the label can't be told, None where it can.

    No wet step has less than 0.1 mm, so that any threshold up to it asks whether a step is wet.
    """
    units = round(config.rain_threshold_mm * UNITS_PER_MM)
    if not 0 < units <= round(RAIN_THRESHOLD_MM * UNITS_PER_MM):
        return (
            f"the true probability is exact for thresholds above 0 and up to {RAIN_THRESHOLD_MM:g} "
            f"mm only, and data.rain_threshold_mm is {config.rain_threshold_mm:g}"
        )
    if config.label_horizon_hours > MOST_HORIZON_HOURS:
        return (
            f"the true probability is computed up to {MOST_HORIZON_HOURS:g} h ahead, and "
            f"data.label_horizon_hours is {config.label_horizon_hours:g}"
        )
    if config.split == "rows":
        return (
            "data.split=rows labels the last rows of a region with the rain of the next one, which "
            "the true probability is not about"
        )
    return None


def _select(series: WeatherSeries, config: DataConfig) -> WeatherSeries:
    """The series with the features that the settings choose."""
    reasons = {n: "its name says label" for n in config.features or [] if label_like(n)}
    reasons[TRUTH] = "it's the answer itself"
    names, skipped = choose_features(
        config, series.feature_names, reasons, "the synthetic series has no such column", {}
    )
    if names == series.feature_names:
        return series
    columns = [series.feature_names.index(name) for name in names]
    key = "data.exclude_features" if config.features is None else "data.features"
    note = f"{len(names)} of {len(series.feature_names)} synthetic features, as {key} says."
    return replace(
        series,
        feature_names=names,
        values=np.ascontiguousarray(series.values[:, columns]),
        precipitation_feature=PRECIPITATION if PRECIPITATION in names else None,
        source=series.source | {"skipped_columns": skipped},
        notes=[*series.notes, note],
    )
