"""Hours to steps, ERA5-Land's running totals, and how many hours of a day are there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import InputError
from timerxl.data.accumulation import (
    covered_hours,
    deaccumulate,
    hours_present_per_day,
    only_rises,
    per_step,
    rises_all_day,
    sparse_refusal,
    step_type,
    to_mm,
)

DAY0 = 24 * 19_000  # 00 UTC


def running_total(rain: np.ndarray, first: int) -> np.ndarray:
    """ERA5-Land's layout of hourly rain, as its documentation states it, hour by hour."""
    total, found = 0.0, []
    for hour, amount in zip(range(first, first + len(rain)), rain, strict=True):
        total = amount if hour % 24 == 1 else total + amount
        found.append(total)
    return np.array(found)


def test_running_totals_come_apart() -> None:
    """The value at 00 UTC is the total of the day before, 01 UTC starts anew."""
    rain = np.random.default_rng(0).integers(0, 50, 24 * 5) / 10
    first = DAY0 + 1
    totals = running_total(rain, first)
    assert totals[23] == pytest.approx(rain[:24].sum())
    assert (first + 23) % 24 == 0
    np.testing.assert_allclose(deaccumulate(totals, first), rain, atol=1e-12)
    known = np.ones(len(rain), dtype=bool)
    assert covered_hours(known, first, True).tolist() == [1] * len(rain)


def test_a_missing_hour_goes_to_the_next_one_of_its_day_only() -> None:
    rain = np.arange(1.0, 73.0)
    totals = running_total(rain, DAY0 + 1)
    totals[[4, 23, 24]] = np.nan  # 05 UTC, 00 UTC and 01 UTC of the next day
    apart = deaccumulate(totals, DAY0 + 1)
    covered = covered_hours(~np.isnan(totals), DAY0 + 1, True)
    assert (apart[5], covered[5]) == (rain[4] + rain[5], 2)
    assert (apart[25], covered[25]) == (rain[24] + rain[25], 2)  # 02 UTC since 00 UTC
    assert np.isnan(apart[[4, 23, 24]]).all()
    sums = per_step(apart, covered, 1, "accum", 1)
    assert np.isnan(sums[[4, 5, 23, 24, 25]]).all()
    assert (sums[[3, 6, 22, 26]] == rain[[3, 6, 22, 26]]).all()
    of_six = per_step(apart, covered, 6, "accum", 6)
    assert of_six[0] == rain[:6].sum()
    assert np.isnan(of_six[3])  # 19 to 00 UTC: the last hour is unknown
    assert of_six[4] == rain[24:30].sum()


def test_six_hourly_totals_give_six_hourly_sums() -> None:
    rain = np.random.default_rng(1).random(72)
    totals = running_total(rain, DAY0 + 1)
    known = (np.arange(72) + 1) % 6 == 0
    totals[~known] = np.nan
    sums = per_step(deaccumulate(totals, DAY0 + 1), covered_hours(known, DAY0 + 1, True), 6, "accum", 6)  # noqa: E501  # fmt: skip
    np.testing.assert_allclose(sums, rain.reshape(-1, 6).sum(axis=1))


@pytest.mark.parametrize("step", [1, 3, 12, 24])
def test_a_step_ends_at_its_stamp(step: int) -> None:
    """With 12 hours the value at 12 UTC sums the hours 01 to 12; a missing hour loses its step."""
    rain = np.random.default_rng(2).integers(0, 30, 96) / 10
    rain[50] = np.nan
    covered = covered_hours(~np.isnan(rain), DAY0 + 1, False)
    got = per_step(rain, covered, step, "accum", step)
    for index, value in enumerate(got):
        expected = sum(rain[index * step : (index + 1) * step])
        assert value == pytest.approx(expected, nan_ok=True)
    assert np.isnan(got).sum() == 1


def test_instants_means_and_extremes() -> None:
    hours = np.arange(1.0, 13.0)
    covered = np.ones(12, dtype=np.int64)
    got = {kind: per_step(hours, covered, 6, kind, 6).tolist() for kind in ("instant", "avg", "max", "min")}  # noqa: E501  # fmt: skip
    assert got == {"instant": [6, 12], "avg": [3.5, 9.5], "max": [6, 12], "min": [1, 7]}


def test_a_sparse_step_sums_what_is_there() -> None:
    rain = np.full(24, np.nan)
    rain[[5, 17]] = [0.4, 0.2]
    covered = covered_hours(~np.isnan(rain), DAY0 + 1, False)
    assert np.isnan(per_step(rain, covered, 12, "accum", 12)).all()
    assert per_step(rain, covered, 12, "accum", 1).tolist() == [0.4, 0.2]


@given(st.lists(st.integers(0, 500), min_size=24, max_size=24))
@settings(max_examples=50, deadline=None)
def test_tenths_of_a_millimetre_survive_four_bytes_and_sums(tenths: list[int]) -> None:
    metres = (np.array(tenths) / 10_000).astype(np.float32).astype(np.float64)
    mm = to_mm(metres, "m", "tp")
    assert mm.tolist() == [tenth / 10 for tenth in tenths]
    total = np.round(per_step(mm, np.ones(24, dtype=np.int64), 24, "accum", 24), 6)
    assert total.tolist() == [sum(tenths) / 10]


def test_units_and_negative_rain() -> None:
    assert to_mm(np.array([-1e-7, 0.0001]), "m", "tp").tolist() == [0.0, 0.1]
    assert to_mm(np.array([2.5]), "kg m**-2", "tp").tolist() == [2.5]
    with pytest.raises(InputError, match="tp has the unit 'inch'"):
        to_mm(np.array([1.0]), "inch", "tp")
    with pytest.raises(InputError, match="tp holds -1 mm in an hour"):
        to_mm(np.array([-0.001]), "m", "tp")


def test_running_totals_are_told_from_hourly_sums() -> None:
    rng = np.random.default_rng(3)
    hours = DAY0 + 1 + np.arange(24 * 6)
    rain = rng.gamma(0.2, 1.0, (3, len(hours))) * (rng.random((3, len(hours))) < 0.3)
    land = np.stack([running_total(row, DAY0 + 1) for row in rain])
    assert rises_all_day(rain, hours) is False
    assert rises_all_day(land, hours) is True
    assert rises_all_day(land[:, ::3], hours[::3]) is True
    assert rises_all_day(np.zeros_like(rain), hours) is None
    assert rises_all_day(land[:, :24], hours[:24]) is None  # one day tells too little
    packed = land + rng.normal(0, 1e-6, land.shape)
    assert rises_all_day(packed, hours) is True


@pytest.mark.parametrize(
    ("of_day", "land", "expected"),
    [
        (range(24), False, 24),
        ([6, 18], False, 2),
        ([0, 6, 12, 18], False, 4),
        ([6, 7, 18], False, 3),
        (range(24), True, 24),
        ([0], True, 24),  # the total of the whole day before
        ([0], False, 1),
        ([0, 6, 12, 18], True, 24),
        ([6, 18], True, 18),
    ],
)
@pytest.mark.parametrize("days", [1, 2, 30])
def test_hours_of_a_day(of_day: list[int], land: bool, expected: int, days: int) -> None:
    hours = np.array([DAY0 + 24 * day + h for day in range(days) for h in of_day])
    if land and days == 1:
        return  # the day (00, 24] is cut by a calendar day's hours
    assert hours_present_per_day(hours, land) == expected


def test_a_lost_day_or_month_is_not_sparse() -> None:
    hours = np.concatenate([np.arange(DAY0 + 7, DAY0 + 240), np.arange(DAY0 + 900, DAY0 + 1201)])
    assert hours_present_per_day(hours, False) == 24


def test_the_words_of_a_refusal() -> None:
    assert sparse_refusal("tp", 2) == (
        "2 of 24 hours of tp are present; a 24-h rain label from this file would be wrong"
    )
    assert "a 24-h sum of ssrd from" in sparse_refusal("ssrd", 4)


def test_step_types_of_the_old_layout() -> None:
    kinds = {name: step_type(name, "") for name in ("tp", "ssrd", "t2m", "mx2t", "mn2t", "mtpr")}
    assert kinds == {
        "tp": "accum", "ssrd": "accum", "t2m": "instant", "mx2t": "max", "mn2t": "min",
        "mtpr": "avg",
    }  # fmt: skip
    assert step_type("tp", "instant") == "instant"
    assert (only_rises("ssrd"), only_rises("sshf")) == (True, False)
