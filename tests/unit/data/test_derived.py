"""Derived features against published numbers and naive loops; the past only."""

from __future__ import annotations

import numpy as np
import pytest

from timerxl.config import InputError
from timerxl.data.era5.derived import (
    choose_derived,
    make_column,
    relative_humidity_percent,
    saturation_vapour_pressure_hpa,
    wind_from,
)

UNITS = {"tp": "mm", "t2m": "K", "d2m": "K", "sp": "Pa", "msl": "Pa", "u10": "m s**-1"}
UNITS |= {"v10": "m s**-1", "tcwv": "kg m**-2", "cape": "J kg**-1"}


def test_vapour_pressure_against_the_goff_gratch_table() -> None:
    """Smithsonian Meteorological Tables (List 1951), table 94: hPa over water; within 0.4 %."""
    celsius = np.array([-20.0, 0.0, 10.0, 20.0, 30.0, 40.0])
    table = np.array([1.2540, 6.1078, 12.272, 23.373, 42.430, 73.777])
    np.testing.assert_allclose(saturation_vapour_pressure_hpa(celsius + 273.15), table, rtol=4e-3)


def test_relative_humidity() -> None:
    t, d = np.array([293.15, 303.15, 280.0]), np.array([283.15, 303.15, 280.1])
    # 12.272 / 23.373 hPa of the same table is 52.5 %.
    assert relative_humidity_percent(t, d) == pytest.approx([52.5, 100, 100], abs=0.15)


@pytest.mark.parametrize(
    ("u", "v", "degrees"),
    [(1, 0, 270), (-1, 0, 90), (0, 1, 180), (0, -1, 0), (1, 1, 225), (3, -4, 323.13)],
)
def test_the_wind_comes_from(u: float, v: float, degrees: float) -> None:
    sine, cosine = wind_from(np.array([u]), np.array([v]))
    assert np.degrees(np.arctan2(sine, cosine)) % 360 == pytest.approx([degrees], abs=0.01)


def test_calm_has_no_direction() -> None:
    assert [a.tolist() for a in wind_from(np.zeros(1), np.zeros(1))] == [[0.0], [0.0]]


def column(
    name: str, values: dict[str, np.ndarray], step: int = 1, **given: np.ndarray
) -> np.ndarray:
    rows = len(next(iter(values.values())))
    (made,), _ = choose_derived([name], dict.fromkeys(values, "K"), step)
    seconds = given.get("seconds", np.arange(rows) * step * 3600)
    return make_column(made, values, seconds, given.get("present", np.ones(rows, bool)), step)


@pytest.mark.parametrize("kind", ["lag", "tendency", "sum", "mean", "min", "max"])
@pytest.mark.parametrize("step", [1, 3, 6])
def test_the_past_against_a_naive_loop(kind: str, step: int) -> None:
    rng = np.random.default_rng(4)
    values, present = rng.random(60), np.ones(60, dtype=bool)
    values[[20, 41]] = np.nan
    present[41] = False  # a gap in time; row 20 only lacks this value
    got = column(f"x_{kind}_12h", {"x": values}, step, present=present)
    back = 12 // step
    for row in range(60):
        expected = np.nan
        if kind in ("lag", "tendency"):
            if row >= back and present[row - back : row + 1].all():
                past = values[row - back]
                expected = past if kind == "lag" else values[row] - past
        elif row >= back - 1:
            window = list(values[row - back + 1 : row + 1])
            total = {"sum": sum, "mean": lambda w: sum(w) / len(w), "min": np.min, "max": np.max}
            expected = total[kind](window)
        assert got[row] == pytest.approx(expected, abs=1e-6, nan_ok=True), row
    later = values.copy()
    later[30:] += 5
    changed = column(f"x_{kind}_12h", {"x": later}, step, present=present)
    np.testing.assert_array_equal(changed[:30], got[:30])


def test_the_turn_of_year_and_day() -> None:
    stamps = np.array(["2024-01-01T00", "2024-07-02T00", "2023-07-02T12", "2024-01-01T06"])
    seconds = stamps.astype("datetime64[s]").astype(np.int64)
    values = {"x": np.zeros(4)}
    # 2024 has 366 days: its middle is 2 July, 00 UTC; that of 2023 is 12 hours later.
    assert column("season_cos", values, seconds=seconds)[:3] == pytest.approx([1, -1, -1])
    assert column("season_sin", values, seconds=seconds)[:3] == pytest.approx([0, 0, 0], abs=1e-9)
    assert column("hour_sin", values, seconds=seconds) == pytest.approx([0, 0, 0, 1], abs=1e-9)


def test_the_default_set_has_27_features_with_the_usual_nine() -> None:
    derived, notes = choose_derived(["default"], UNITS, 1)
    names = list(UNITS) + [made.name for made in derived]
    assert len(names) == len(set(names)) == 27
    assert "msl_tendency_3h" in names
    assert notes == []
    assert {m.name: m.unit for m in derived}["msl_tendency_3h"] == "Pa per 3 h"


def test_the_set_follows_the_inputs_and_the_step() -> None:
    derived, _ = choose_derived(["default"], {"tp": "mm", "sp": "Pa"}, 12)
    names = [made.name for made in derived]
    assert names == ["sp_tendency_12h", "tp_lag_24h", "tp_sum_24h", "tp_sum_72h", "season_sin", "season_cos", "hour_sin", "hour_cos"]  # noqa: E501  # fmt: skip
    _, notes = choose_derived(["humidity"], {"tp": "mm", "t2m": "K"}, 1)
    assert "needs d2m" in notes[0]
    own, notes = choose_derived(["wind"], UNITS | {"wind_speed": "m/s"}, 1)
    assert "wind_speed" not in [made.name for made in own]
    assert "has a column of this name" in notes[0]
    assert choose_derived(["none"], UNITS, 1) == ([], [])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["wnd"], "--derived wnd: unknown; expected default"),
        (["t2m_lag_5h"], "5 h is no multiple of the step of 2 h"),
        (["rain_sum_24h"], "needs rain, which the input does not hold"),
        (["none", "wind"], "none stands alone"),
    ],
)
def test_a_wrong_word_is_refused(asked: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_derived(asked, UNITS, 2)
