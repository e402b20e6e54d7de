"""Codes for "missing" among weather that is invented with a seed."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.tables.columns import Extremes, find_codes, mask, parse_codes, refusal

CELSIUS = (-103.15, 76.85)


def temperature(rows: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).normal(10, 8, rows).round(1)


def rain(rows: int = 20_000) -> np.ndarray:
    random = np.random.default_rng(1)
    return np.where(random.random(rows) < 0.1, random.gamma(0.5, 3, rows).round(1), 0.0)


@pytest.mark.parametrize("four_bytes", [False, True])
@pytest.mark.parametrize("limits", [None, CELSIUS])
@pytest.mark.parametrize(
    "code",
    [-999, -9999, -99.9, 99.99, 999.9, 9999.9, -9999.9, 32767, -32768, 9.96921e36, 1e20, -77.7],
)
def test_a_code_in_temperatures_is_found(
    code: float, limits: tuple[float, float] | None, four_bytes: bool
) -> None:
    values = temperature()
    values[5::777] = code
    values = values.astype(np.float32 if four_bytes else np.float64)
    (found,) = find_codes(values, limits)
    assert found.value == pytest.approx(code, rel=1e-6)
    assert (found.count, found.share) == (26, pytest.approx(26 / 20_000))
    masked, counts = mask(values, [code])
    assert list(counts.values()) == [26]
    assert np.isnan(masked).sum() == 26
    assert np.nanmax(np.abs(masked)) < 50


@pytest.mark.parametrize(
    "values",
    [
        temperature(),
        rain(),
        np.minimum(temperature() * 2 + 60, 99.9),  # Fahrenheit, clipped at a known code
        (rain() > 0).astype(float),
        np.random.default_rng(2).integers(0, 9, 5000).astype(float),  # oktas: 9 would be missing
        np.random.default_rng(2).integers(0, 361, 5000).astype(float),
        np.random.default_rng(3).pareto(2.5, 5000).round(2),  # a heavy tail has lonely extremes
        np.zeros(100),
        np.full(50, 1013.0),
        np.concatenate([rain(), [99.9]]),  # one heavy hour
        np.array([]),
        np.full(10, np.nan),
    ],
)
def test_weather_holds_no_codes(values: np.ndarray) -> None:
    assert find_codes(values, None) == []


def test_several_codes_and_a_pressure_of_nought() -> None:
    values = np.random.default_rng(4).normal(1010, 8, 5000).round(1)
    values[::50], values[1::50], values[2::50] = 0, -999, 9999.9
    assert {code.value: code.count for code in find_codes(values, None)} == {
        0: 100, -999: 100, 9999.9: 100,
    }  # fmt: skip
    wind_from = np.random.default_rng(4).integers(0, 361, 5000).astype(float)
    wind_from[::50], wind_from[1::50] = 990, 999
    assert [code.value for code in find_codes(wind_from, None)] == [999, 990]


def test_one_impossible_value_is_enough_where_the_limits_are_known() -> None:
    values = temperature()
    values[7] = -9999
    assert find_codes(values, CELSIUS)[0].count == 1
    values = rain()
    values[7] = -1
    assert find_codes(values, (0.0, 600.0))[0].value == -1


def test_a_column_of_nothing_but_the_code() -> None:
    (found,) = find_codes(np.full(100, -9999.0), None)
    assert (found.value, found.share) == (-9999, 1.0)


def test_blocks_add_up_and_a_rare_code_in_a_large_block_is_counted() -> None:
    extremes = Extremes()
    big = np.random.default_rng(5).normal(0, 1, (50, 100, 100)).astype(np.float32)
    big[3, 3, 3:6] = -9999
    for block in (temperature(1000), big, np.full(4, np.nan), np.full((2, 2), -9999.0)):
        extremes.add(block)
    (found,) = extremes.codes(None)
    assert (found.value, found.count) == (-9999, 7)
    assert found.share == pytest.approx(7 / (1000 + big.size + 4))


def test_fill_values_of_a_packed_file() -> None:
    """32767 * 0.002 + 280 = 345.534 K is within the limits, and no number of the archives' list."""
    values = np.random.default_rng(6).normal(285, 5, 3000)
    values[::100] = 32767 * 0.002 + 280
    extremes = Extremes(packed_codes=[345.534])
    extremes.add(values)
    assert [code.count for code in extremes.codes((170, 350))] == [30]


def test_words_are_refused_and_none_means_none() -> None:
    assert parse_codes(["-999", "9999.9"], "--missing") == [-999.0, 9999.9]
    assert parse_codes(["none"], "--missing") == []
    with pytest.raises(InputError, match="--missing 'NA' is not a number"):
        parse_codes(["NA"], "--missing")


def test_the_refusal_names_column_value_count_and_share() -> None:
    values = temperature()
    values[::200] = -999
    error = refusal({"T2M": find_codes(values, CELSIUS)}, "Say --missing {values}.")
    assert "T2M holds -999 (100 values, 0.50%; expected -103.15 to 76.85)" in str(error)
    assert str(error).endswith("Say --missing -999.")


def test_a_fill_value_beside_the_packed_range() -> None:
    """-32767 unpacks to what the data nearly reach; that it stands there eight times tells it."""
    values = 286.88 + np.random.default_rng(7).integers(-32000, 32000, 700) * 0.000244
    fill = 286.88 - 32767 * 0.000244
    extremes = Extremes(packed_codes=[fill])
    extremes.add(np.concatenate([values, np.full(8, fill)]))
    assert [code.count for code in extremes.codes((170, 350))] == [8]
    once = Extremes(packed_codes=[fill])
    once.add(np.append(values, fill))
    assert once.codes((170, 350)) == []
    rain = np.where(np.arange(700) < 500, 0.0, np.abs(values - 286))  # dry hours are no fill
    dry = Extremes(packed_codes=[0.0])
    dry.add(rain)
    assert dry.codes(None) == []
