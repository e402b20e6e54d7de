"""Hours to steps, ERA5-Land's running totals, and how many hours of a day are there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timerxl.config import InputError
from timerxl.data.era5.accumulation import (
    COUNTER,
    HOURLY,
    RUNNING,
    UNCLEAR,
    AccumulationEvidence,
    AccumulationVerdict,
    Totals,
    covered_hours,
    deaccumulate,
    hours_present_per_day,
    only_rises,
    per_step,
    step_type,
    to_mm,
)

DAY0 = 24 * 19_000  # 00 UTC
LAND = Totals(24, 0)


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
    np.testing.assert_allclose(deaccumulate(totals, first, LAND), rain, atol=1e-12)
    known = np.ones(len(rain), dtype=bool)
    assert covered_hours(known, first, LAND).tolist() == [1] * len(rain)


def test_a_missing_hour_goes_to_the_next_one_of_its_day_only() -> None:
    rain = np.arange(1.0, 73.0)
    totals = running_total(rain, DAY0 + 1)
    totals[[4, 23, 24]] = np.nan  # 05 UTC, 00 UTC and 01 UTC of the next day
    apart = deaccumulate(totals, DAY0 + 1, LAND)
    covered = covered_hours(~np.isnan(totals), DAY0 + 1, LAND)
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
    sums = per_step(deaccumulate(totals, DAY0 + 1, LAND), covered_hours(known, DAY0 + 1, LAND), 6, "accum", 6)  # noqa: E501  # fmt: skip
    np.testing.assert_allclose(sums, rain.reshape(-1, 6).sum(axis=1))


@pytest.mark.parametrize("step", [1, 3, 12, 24])
def test_a_step_ends_at_its_stamp(step: int) -> None:
    """With 12 hours the value at 12 UTC sums the hours 01 to 12; a missing hour loses its step."""
    rain = np.random.default_rng(2).integers(0, 30, 96) / 10
    rain[50] = np.nan
    covered = covered_hours(~np.isnan(rain), DAY0 + 1, None)
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
    covered = covered_hours(~np.isnan(rain), DAY0 + 1, None)
    assert np.isnan(per_step(rain, covered, 12, "accum", 12)).all()
    assert per_step(rain, covered, 12, "accum", 1).tolist() == [0.4, 0.2]


@given(st.lists(st.integers(0, 500), min_size=24, max_size=24))
@settings(max_examples=50, deadline=None)
def test_tenths_of_a_millimetre_survive_four_bytes_and_sums(tenths: list[int]) -> None:
    metres = (np.array(tenths) / 10_000).astype(np.float32).astype(np.float64)
    mm = to_mm(metres, 1000.0, "tp")
    assert mm.tolist() == [tenth / 10 for tenth in tenths]
    total = np.round(per_step(mm, np.ones(24, dtype=np.int64), 24, "accum", 24), 6)
    assert total.tolist() == [sum(tenths) / 10]


def test_units_and_negative_rain() -> None:
    assert to_mm(np.array([-1e-7, 0.0001]), 1000.0, "tp").tolist() == [0.0, 0.1]
    assert to_mm(np.array([2.5]), 1.0, "tp").tolist() == [2.5]
    with pytest.raises(InputError, match="tp holds -1 mm in an hour"):
        to_mm(np.array([-0.001]), 1000.0, "tp")


def totals_of(rain: np.ndarray, hours: np.ndarray, totals: Totals) -> np.ndarray:
    """Running totals [S, T] of hourly rain, hour by hour, starting again as ``totals`` says."""
    total, found = np.zeros(len(rain)), np.empty_like(rain)
    for index, hour in enumerate(hours):
        if (hour - 1 - totals.reset) % totals.period == 0:
            total = np.zeros(len(rain))
        total = total + rain[:, index]
        found[:, index] = total
    return found


def invented_rain(cells: int, days: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """INVENTED showers [S, T] in mm, and their hours [T]."""
    rng = np.random.default_rng(seed)
    hours = DAY0 + 1 + np.arange(24 * days)
    wet = rng.random((cells, len(hours))) < 0.3
    return rng.gamma(0.5, 1.0, wet.shape) * wet, hours


def decide(values: np.ndarray, hours: np.ndarray, least: float = 0.0) -> AccumulationVerdict:
    evidence = AccumulationEvidence()
    evidence.add(values, hours)
    return evidence.decide(least)


@pytest.mark.parametrize("every", [1, 3, 6])
@pytest.mark.parametrize("cells", [1, 12])
@pytest.mark.parametrize(
    "totals", [Totals(24, 0), Totals(24, 6), Totals(24, 12), Totals(12, 0), Totals(12, 6)]
)
def test_running_totals_are_found_with_their_restart(
    totals: Totals, cells: int, every: int
) -> None:
    rain, hours = invented_rain(cells, 20)
    kept = hours % every == 0
    running = totals_of(rain, hours, totals)[:, kept]
    found = decide(running, hours[kept])
    assert (found.kind, found.totals) == (RUNNING, totals), found.evidence
    rain = np.array([rain[:, (hours > h - every) & (hours <= h)].sum(axis=1) for h in hours[kept]]).T  # noqa: E501  # fmt: skip
    assert decide(rain, hours[kept]).kind == HOURLY
    assert decide(-running, hours[kept]).totals == totals  # an upward flux


@pytest.mark.parametrize("totals", [Totals(6, 0), Totals(6, 3), Totals(3, 0)])
def test_totals_of_a_few_hours(totals: Totals) -> None:
    rain, hours = invented_rain(6, 30)
    found = decide(totals_of(rain, hours, totals), hours)
    assert (found.kind, found.totals) == (RUNNING, totals), found.evidence


def test_what_rain_can_not_tell() -> None:
    rain, hours = invented_rain(4, 20)
    land = totals_of(rain, hours, LAND)
    once = hours % 24 == 0
    assert decide(land[:, once], hours[once]).kind == UNCLEAR  # only the totals of the days
    assert decide(np.zeros_like(rain), hours).kind == UNCLEAR
    assert decide(land * 1e-9, hours, least=1e-5).kind == UNCLEAR
    assert decide(land[:, :24], hours[:24]).kind == UNCLEAR  # one day tells too little
    assert decide(np.full_like(rain, np.nan), hours).kind == UNCLEAR
    mixed = land.copy()
    mixed[:, 300:] = rain[:, 300:]
    found = decide(mixed, hours)
    assert found.kind == UNCLEAR
    assert found.is_mixed


@pytest.mark.parametrize("days", [3, 30, 70])
@pytest.mark.parametrize("every", [1, 6, 24])
def test_a_counter_that_never_starts_again(days: int, every: int) -> None:
    """Since the start of the file, or of the month."""
    rain, hours = invented_rain(3, days)
    counter = np.cumsum(rain, axis=1)
    for start in range(24 * 31, len(hours), 24 * 31):
        counter[:, start:] -= counter[:, [start - 1]]
    if every == 24 and days == 3:
        return  # three stamps
    assert decide(counter[:, ::every], hours[::every]).kind == COUNTER


@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-4, 1e-3])
def test_packing_noise_of_a_dry_field_does_not_decide(noise: float) -> None:
    """One wet cell among 60 dry ones, each with noise in parts of the field's largest value."""
    rain, hours = invented_rain(60, 28)
    rain[1:] *= 1e-3
    land = totals_of(rain, hours, LAND)
    size = noise * land.max()
    rng = np.random.default_rng(5)
    assert decide(land + rng.uniform(-size, size, land.shape), hours).totals == LAND
    assert decide(rain + rng.uniform(-size, size, land.shape), hours).kind == HOURLY
    quantum = land.max() / 65000
    assert decide(np.round(land / quantum) * quantum, hours).totals == LAND  # int16
    assert decide(land.astype(np.float16), hours).totals == LAND


def test_blocks_cells_and_files_may_come_one_by_one() -> None:
    rain, hours = invented_rain(5, 12)
    land = totals_of(rain, hours, LAND)
    land[0] = np.nan  # the sea
    land[1, 30:60:3] = np.nan
    land[2, 24:100] = np.nan
    whole = AccumulationEvidence()
    whole.add(land, hours)
    pieces, cells, files = (AccumulationEvidence() for _ in range(3))
    for first in range(0, len(hours), 50):
        block = slice(first, first + 50)
        pieces.add(land[:, block], hours[block], continues=first > 0)
    for row in land:
        cells.add(row[None], hours)
    for half in (slice(0, 2), slice(2, 5)):
        other = AccumulationEvidence()
        other.add(land[half], hours)
        files.merge(other)
    # Pair by pair, cell by cell.
    amount = 0.0
    for row in land:
        known = row[~np.isnan(row)]
        amount += known[:-1].sum() if len(known) else 0.0
    for evidence in (whole, pieces, cells, files):
        np.testing.assert_allclose(evidence.amount, whole.amount)
        np.testing.assert_allclose(evidence.falls, whole.falls)
        assert evidence.amount.sum() == pytest.approx(amount)
        assert evidence.decide().totals == LAND
    backwards = AccumulationEvidence()
    backwards.add(land[:, ::-1], hours[::-1])
    np.testing.assert_allclose(backwards.amount, whole.amount)


def test_a_dry_month_beside_a_wet_one() -> None:
    rain, hours = invented_rain(1, 59)
    rain[:, 24 * 31 :] = 0
    land = totals_of(rain, hours, LAND)
    wet, dry = AccumulationEvidence(), AccumulationEvidence()
    wet.add(land[:, : 24 * 31], hours[: 24 * 31])
    dry.add(land[:, 24 * 31 :], hours[24 * 31 :])
    assert dry.decide().kind == UNCLEAR
    wet.merge(dry)
    assert wet.decide().totals == LAND


def test_totals_of_other_restarts_come_apart() -> None:
    rain, hours = invented_rain(1, 6)
    for totals in (Totals(12, 6), Totals(24, 12), Totals(6, 3)):
        running = totals_of(rain, hours, totals)[0]
        first = int(totals.start(hours[-1:])[0]) - 24 * 3 - DAY0  # the stamp that starts a total
        apart = deaccumulate(running[first:], int(hours[first]), totals)
        np.testing.assert_allclose(apart, rain[0, first:], atol=1e-12)
        known = ~np.isnan(running[first:])
        assert (covered_hours(known, int(hours[first]), totals) == 1).all()


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
    assert hours_present_per_day(hours, LAND if land else None) == expected


def test_a_lost_day_or_month_is_not_sparse() -> None:
    hours = np.concatenate([np.arange(DAY0 + 7, DAY0 + 240), np.arange(DAY0 + 900, DAY0 + 1201)])
    assert hours_present_per_day(hours, None) == 24


def test_step_types_of_the_old_layout() -> None:
    kinds = {name: step_type(name, "") for name in ("tp", "ssrd", "t2m", "mx2t", "mn2t", "mtpr")}
    assert kinds == {
        "tp": "accum", "ssrd": "accum", "t2m": "instant", "mx2t": "max", "mn2t": "min",
        "mtpr": "avg",
    }  # fmt: skip
    assert step_type("tp", "instant") == "instant"
    assert (only_rises("ssrd"), only_rises("sshf")) == (True, False)
