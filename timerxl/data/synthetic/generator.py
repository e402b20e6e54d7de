"""A seeded, openly synthetic weather series of five Peruvian regions whose best forecast is known.

Each region has one hidden state ``z``, a stationary Gaussian AR(1) process; the innovations of
the regions are correlated, yet each ``z`` is Markov by itself. The state at ``t`` sets how likely
the step from ``t`` to ``t + s`` hours is wet:

    q = 1 - exp(-exp(drive + SENSITIVITY * z_t)),

where the drive is a known function of region, season, local hour and the ENSO-like index and holds
``log(s / 24)``, so that a day rains about as often whatever the step. Everything observable depends
on ``z`` up to ``t`` and on noise of its own: given ``z_t``, the past adds nothing about the rain to
come, and ``true_probability`` is the exact chance of rain that no forecaster can beat.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from timerxl.config import SyntheticConfig
from timerxl.data.series import WeatherSeries
from timerxl.data.synthetic.climate import (
    CLIMATE,
    HORIZON_HOURS,
    RAIN_THRESHOLD_MM,
    REGIONS,
    Floats,
    HiddenWeather,
    accumulate,
    autoregress,
    cycle,
    dry_probability,
    local_hour,
    season_of,
    simulate_hidden,
)

# Observed variable: (gain on the smoothed state, smoothing hours, hours its noise lasts).
_SIGNALS = {
    "tcwv": (1.0, 4.0, 10.0),
    "spread": (0.9, 3.0, 8.0),
    "cape": (0.7, 2.0, 6.0),
    "msl": (0.7, 9.0, 14.0),
    "t2m": (0.5, 6.0, 10.0),
    "u10": (0.6, 3.0, 7.0),
    "v10": (0.6, 6.0, 9.0),
}
_NOISE = 0.65
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


def _vapour_pressure(temperature_k: Floats) -> Floats:
    """Saturation vapour pressure over water [hPa], Magnus form (Alduchov and Eskridge 1996)."""
    celsius = temperature_k - 273.15
    return 6.1094 * np.exp(17.625 * celsius / (celsius + 243.04))


def _observe(hidden: HiddenWeather, config: SyntheticConfig) -> dict[str, Floats]:
    """The features, each [T, G]: partial, lagged, noisy views of the state; none looks ahead."""
    step, of, shape = config.step_hours, CLIMATE, hidden.state.shape
    signal = {}
    for k, (name, (gain, smoothing_hours, noise_hours)) in enumerate(_SIGNALS.items()):
        rng = np.random.default_rng([config.seed, 4 + k])
        decay = float(np.exp(-step / smoothing_hours))
        smoothed = accumulate(hidden.state * (1 - decay), decay)
        noise = autoregress(rng.standard_normal(shape), float(np.exp(-step / noise_hours)))
        signal[name] = gain * smoothed + _NOISE * noise

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
        "relative_humidity": 100 * _vapour_pressure(t2m - spread) / _vapour_pressure(t2m),
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
    """Columns timestamp (UTC), region, 27 features, rain_24h, true_probability; region by region.

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
    count = hidden.end_row - hidden.first_row
    tables = []
    for region, name in enumerate(REGIONS):
        columns: dict[str, Any] = {
            "timestamp": hidden.timestamps[rows],
            "region": np.full(count, name),
        }
        columns |= {key: values[rows, region] for key, values in features.items()}
        columns[f"rain_{horizon_hours:g}h"] = label[:, region].astype(np.int64)
        columns[TRUTH] = 1 - dry_probability(
            hidden.drive[hidden.first_row : last, region],
            hidden.state[rows, region],
            hidden.decay,
            ahead,
        )
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def synthetic_series(
    config: SyntheticConfig, horizon_hours: float = HORIZON_HOURS
) -> WeatherSeries:
    """The table as a :class:`WeatherSeries`; tp in mm, as the reader makes it from metres.

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
