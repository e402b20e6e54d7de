"""Names, units and limits of the quantities of weather, against values known by definition."""

from __future__ import annotations

import pytest

from timerxl.config import InputError
from timerxl.data.tables.columns import (
    RAIN,
    conversion,
    limits_in,
    most_rain_mm,
    named,
    quantity_of,
    unit_in_name,
)


@pytest.mark.parametrize(
    ("name", "quantity", "unit"),
    [
        ("PRECIPITAÇÃO TOTAL, HORÁRIO (mm)", RAIN, "mm"),
        ("PRESSAO ATMOSFERICA AO NIVEL DA ESTACAO, HORARIA (mB)", "pressure", "mB"),
        ("TEMPERATURA DO AR - BULBO SECO, HORARIA (°C)", "temperature", "°C"),
        ("VENTO, DIREÇÃO HORARIA (gr) (° (gr))", "direction", "gr"),
        ("RADIACAO GLOBAL (KJ/m²)", "radiation sum", "KJ/m²"),
        ("PrecipitationSumInches", RAIN, "inches"),
        ("TempAvgF", "temperature", "f"),
        ("WindAvgMPH", "wind speed", "mph"),
        ("rain_in", RAIN, "in"),
        ("wv (m/s)", "wind speed", "m/s"),
        ("VPmax (mbar)", "vapour pressure", "mbar"),
        ("total_precipitation_6hr", RAIN, None),
        ("2m_temperature", "temperature", None),
        ("WindDir9am", "direction", None),
        ("tp", RAIN, None),
        # None of these is the amount of rain, whatever the word in it.
        ("raining (s)", None, "s"),
        ("precipitation_probability (%)", None, "%"),
        ("Precip Type", None, None),
        ("RainTomorrow", None, None),
        ("PRCP_ATTRIBUTES", None, None),
        # "in" at the end of a word is no inch.
        ("rain", RAIN, None),
        ("season_sin", None, None),
        # No level, so no limits: 3 K between two days, a sine below zero.
        ("temperature_anomaly (K)", None, "K"),
        ("t2m_std", None, None),
        ("wind_dir_sin", None, None),
        ("pressure change (hPa)", None, "hPa"),
        ("Temperature difference", None, None),
        ("dewpoint_spread", None, None),
    ],
)
def test_a_name_tells_quantity_and_unit(name: str, quantity: str | None, unit: str | None) -> None:
    found = quantity_of(name)
    assert (found.key if found else None) == quantity
    assert unit_in_name(name) == unit


@pytest.mark.parametrize(
    ("key", "unit", "value", "expected"),
    [
        (RAIN, "in", 1.0, 25.4),
        (RAIN, "0.1mm", 254.0, 25.4),
        (RAIN, "tenths of mm", 254.0, 25.4),
        (RAIN, "m of water equivalent", 0.0001, 0.1),
        (RAIN, "kg m**-2", 3.0, 3.0),
        (RAIN, "kg m-2 s-1", 1 / 3600, 1.0),  # mm per hour
        (RAIN, "mm/day", 24.0, 1.0),
        ("temperature", "F", 32.0, 273.15),
        ("temperature", "°C", -40.0, 233.15),
        ("temperature", "degF", -40.0, 233.15),
        ("pressure", "mb", 1013.25, 101_325.0),
        ("pressure", "inHg", 29.9213, 101_325.0),
        ("wind speed", "knots", 1.0, 1852 / 3600),
        ("wind speed", "km/h", 36.0, 10.0),
        ("relative humidity", "1", 0.5, 50.0),
        ("cloud cover", "okta", 8.0, 100.0),
    ],
)
def test_units_convert(key: str, unit: str, value: float, expected: float) -> None:
    made = conversion(unit, named(key))
    assert value * made.scale + made.offset == pytest.approx(expected, rel=2e-5)
    assert made.is_rate == (unit in ("kg m-2 s-1", "mm/day"))


def test_factors_of_rain_are_exact() -> None:
    scales = {
        unit: conversion(unit, named(RAIN)).scale for unit in ("m", "in", "cm", "mm", "0.1mm")
    }
    assert scales == {"m": 1000.0, "in": 25.4, "cm": 10.0, "mm": 1.0, "0.1mm": 0.1}


@pytest.mark.parametrize("unit", ["K", "m/s**2", "", "__import__('os')", "x" * 500])
def test_what_is_no_unit_of_rain_is_refused(unit: str) -> None:
    with pytest.raises(InputError, match="expected one such as mm, cm, m, in"):
        conversion(unit, named(RAIN))


def test_limits_follow_the_unit() -> None:
    assert limits_in(named("temperature"), "degC") == pytest.approx((-103.15, 76.85))
    assert limits_in(named("pressure"), "hPa") == pytest.approx((300, 1120))


@pytest.mark.parametrize(("hours", "record"), [(1, 401), (12, 1144), (24, 1825), (360, 6083)])
def test_the_rain_limit_holds_the_records(hours: float, record: float) -> None:
    """WMO extremes archive (401 mm in an hour: Shangdi 1975)."""
    assert record < most_rain_mm(hours) < 3 * record
