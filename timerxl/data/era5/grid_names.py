"""Names of variables in gridded files of the world, as ERA5's short names.

Derived features know ``t2m``, ``u10``, ``tp``. ARCO-ERA5 and WeatherBench 2 write names in full,
other archives have their own. The name in the file stays in the column's record.
"""

from __future__ import annotations

import re

# ARCO-ERA5 and WeatherBench 2: the names of the Climate Data Store, in full.
_LONG = {
    "2m_temperature": "t2m", "2m_dewpoint_temperature": "d2m",
    "10m_u_component_of_wind": "u10", "10m_v_component_of_wind": "v10",
    "100m_u_component_of_wind": "u100", "100m_v_component_of_wind": "v100",
    "mean_sea_level_pressure": "msl", "surface_pressure": "sp",
    "total_column_water_vapour": "tcwv", "total_column_water": "tcw",
    "total_cloud_cover": "tcc", "low_cloud_cover": "lcc", "medium_cloud_cover": "mcc",
    "high_cloud_cover": "hcc", "sea_surface_temperature": "sst", "skin_temperature": "skt",
    "convective_available_potential_energy": "cape", "convective_inhibition": "cin",
    "boundary_layer_height": "blh", "snow_depth": "sd", "sea_ice_cover": "siconc",
    "convective_precipitation": "cp", "large_scale_precipitation": "lsp", "snowfall": "sf",
    "evaporation": "e", "runoff": "ro", "surface_runoff": "sro", "k_index": "kx",
    "surface_solar_radiation_downwards": "ssrd", "surface_thermal_radiation_downwards": "strd",
    "surface_net_solar_radiation": "ssr", "surface_net_thermal_radiation": "str",
    "top_net_solar_radiation": "tsr", "top_net_thermal_radiation": "ttr",
    "toa_incident_solar_radiation": "tisr", "surface_sensible_heat_flux": "sshf",
    "surface_latent_heat_flux": "slhf", "mean_total_precipitation_rate": "mtpr",
    "instantaneous_10m_wind_gust": "i10fg", "10m_wind_gust_since_previous_post_processing": "fg10",
    "maximum_2m_temperature_since_previous_post_processing": "mx2t",
    "minimum_2m_temperature_since_previous_post_processing": "mn2t",
    "volumetric_soil_water_layer_1": "swvl1", "soil_temperature_level_1": "stl1",
    "temperature": "t", "specific_humidity": "q", "geopotential": "z", "relative_humidity": "r",
    "u_component_of_wind": "u", "v_component_of_wind": "v", "vertical_velocity": "w",
    "vorticity": "vo", "divergence": "d",
    # MERRA-2
    "t2m": "t2m", "t2mdew": "d2m", "u10m": "u10", "v10m": "v10", "ps": "sp", "slp": "msl",
    "tqv": "tcwv",
    # CF and CMIP
    "tas": "t2m", "tdps": "d2m", "uas": "u10", "vas": "v10", "psl": "msl", "prw": "tcwv",
}  # fmt: skip
# Total precipitation only: not its convective part, not snow.
_RAIN = frozenset(
    "tp total_precipitation prectotcorr prectot pr prate precip rr precipitation rainfall "
    "precipitationcal".split()
)
_RAIN_STANDARD = frozenset(
    "precipitation_amount lwe_thickness_of_precipitation_amount precipitation_flux "
    "lwe_precipitation_rate rainfall_amount rainfall_flux thickness_of_rainfall_amount".split()
)
_WINDOW = re.compile(r"(?P<name>\w+?)_(?P<hours>\d{1,2})hr?")


def short_name(name: str) -> tuple[str, int | None]:
    """(ERA5's short name, hours of the sum that the name tells); the name itself where unknown.

    ``total_precipitation_6hr`` of WeatherBench 2 is ``tp``, the sum over the past 6 hours.
    """
    lower = name.lower()
    match = _WINDOW.fullmatch(lower)
    bare, hours = (match["name"], int(match["hours"])) if match else (lower, None)
    if bare in _RAIN:
        return "tp", hours
    if hours is None and lower in _LONG:
        return _LONG[lower], None
    return name, None


def is_rain(standard_name: str, grib_name: str) -> bool:
    """Whether attributes say total precipitation, whatever the variable is called."""
    return standard_name in _RAIN_STANDARD or grib_name == "tp"
