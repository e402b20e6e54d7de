"""Weather is never read wrong without a word: named layouts come back equal, random ones never
silently wrong. The short form of benchmarks/silent_errors.py; all data are SYNTHETIC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.silent_errors import describe, run_number
from benchmarks.silent_grids import GridLayout, grid_case
from benchmarks.silent_judge import ASSUMED, EQUAL, FAULTS, SILENT, USAGE, Case, Reading, judge
from benchmarks.silent_judge import run_case as run
from benchmarks.silent_tables import TableLayout, table_case
from benchmarks.silent_truth import running_totals, shares, total_start

TWO = {"climates": ("wet", "dry"), "regions": ("north", "south")}
TABLES = {
    "plain": TableLayout(),
    "a service of Brazil: block above, two columns in UTC, commas, code": TableLayout(
        names="portuguese", encoding="latin-1", separator=";", decimal=",", header_lines=8,
        time_format="two_utc", zone_told="name", code="-9999", code_in="all", code_said=True,
        region_column=None,
    ),
    "German: dots in dates, local time with summer time": TableLayout(
        first="2021-03-01", zone="Europe/Berlin", zone_told="option", time_format="dmy",
        time_name="Datum", separator=";", decimal=",", stamps_said=True,
    ),
    "Chinese: GBK, parts of a date, a clock of +8 h": TableLayout(
        names="chinese", encoding="gbk", time_format="parts", zone="Asia/Shanghai",
        zone_told="option", region_column="site", stamps_said=True,
    ),
    "American: AM and PM, inches, traces, summer time in autumn": TableLayout(
        first="2021-10-20", zone="America/New_York", zone_told="option", time_format="ampm",
        time_name="Date", format_said=True, unit="in", unit_told="suffix", names="usual",
        traces=True, stamps_said=True,
    ),
    "days of local time in inches with 99.99": TableLayout(
        step=24, days=200, unit="in", time_format="mdy", format_said=True, time_name="DATE",
        zone="America/Lima", zone_told="option", stamps="start", stamps_said=True, code="99.99",
        code_said=True,
    ),
    "offsets in the text, stamps at the start, half an hour off": TableLayout(
        zone="Asia/Kolkata", time_format="isoT", stamps="start", stamps_said=True, time_name="time"
    ),
    "seconds since 1970, metres": TableLayout(
        **TWO, time_format="unix", time_name="dt", unit="m", order="interleaved", stamps_said=True
    ),
    "Parquet, whole tenths, stations 007 and 012": TableLayout(
        climates=("wet", "dry"), regions=("007", "012"), unit="0.1 mm", container="parquet",
        code="-999", code_in="all", code_said=True, region_column="station",
    ),
    "running totals from 00 UTC": TableLayout(**TWO, days=60, amounts="running", rows="gaps"),
    "running totals from nine o'clock local time": TableLayout(
        days=60, amounts="running", reset=9, zone="America/Lima", zone_told="option",
        time_name="time", stamps_said=True,
    ),
    "a rate in steps of three hours": TableLayout(unit="mm/h", step=3, days=120),
    "a mass in steps of six hours": TableLayout(
        unit="kg m-2", step=6, days=120, unit_told="option"
    ),
    "hours 1 to 24, a region called NA": TableLayout(
        climates=("wet", "dry"), regions=("NA", "NB"), time_format="hour24", order="interleaved"
    ),
    "UTF-16, tabs, hours run together, a file a region": TableLayout(
        **TWO, encoding="utf-16", separator="tab", time_format="compact", time_name="yyyymmddhh",
        region_column=None, split="region", stamps_said=True,
    ),
    "a line of units, words for missing, compass points": TableLayout(
        unit_told="line", unit="cm", code="-", code_in="all", direction="points"
    ),
    "packed, rows lost": TableLayout(container="gz", rows="gaps", direction="calm"),
}  # fmt: skip
GRIDS = {
    "ERA5 in a ZIP, a dry region beside a wet one": GridLayout(
        climates=("wet", "arid"), store="zip", split="variable"
    ),
    "old layout, packed, longitudes to 360": GridLayout(
        layout="old", packed="fill", step_type=False, longitude="360", latitude="up"
    ),
    "ERA5-Land with sea": GridLayout(
        climates=("wet", "dry"), grid=0.1, amounts="running", missing="attribute"
    ),
    "totals every third hour": GridLayout(grid=0.1, amounts="running", step=3, others_every=3),
    "days by their history": GridLayout(
        daily="history", step=24, others_every=24, amounts="sum", split="variable",
        step_type=False,
    ),
    "days of UTC-5 by their history": GridLayout(
        daily="shift", step=24, others_every=24, amounts="sum", split="variable", step_type=False
    ),
    "days without metadata": GridLayout(
        daily="bare", step=24, others_every=24, amounts="sum", split="variable", step_type=False,
        meaning_said=True,
    ),
    "six hours in a Zarr store": GridLayout(
        names="six", step=6, others_every=6, amounts="sum", step_type=False, store="zarr"
    ),
    "six hours every hour": GridLayout(names="six", amounts="sum", step_type=False, days=30),
    "around the globe, 0 and 360": GridLayout(longitude="wrap", climates=("wet", "dry")),
    "a rate with bounds, stamps in the middle": GridLayout(
        amounts="rate", step=3, others_every=3, time_axis="bounds middle", step_type=False
    ),
    "base time and step": GridLayout(amounts="running", time_axis="steps", others_every=1),
    "a code without its attribute": GridLayout(missing="bare", code_said=True, climates=("wet",)),
    "preliminary data as an axis": GridLayout(
        layout="old", packed="fill", step_type=False, versions="dimension"
    ),
    "one place without axes": GridLayout(shape="scalar", unit="none", unit_said=True),
    "two files that overlap, a day's step": GridLayout(split="overlap", step_hours=24),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_comes_back_equal(tmp_path: Path, name: str) -> None:
    outcome = run(table_case(TABLES[name], tmp_path, np.random.default_rng(7)), tmp_path)
    assert (outcome.kind, outcome.why) == (EQUAL, "")


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_comes_back_equal(tmp_path: Path, name: str) -> None:
    outcome = run(grid_case(GRIDS[name], tmp_path, np.random.default_rng(7)), tmp_path)
    assert (outcome.kind, outcome.why) == (EQUAL, "")


@pytest.mark.parametrize("number", range(60))
def test_no_random_layout_is_silently_wrong(number: int) -> None:
    case, outcome = run_number(2026, number, None)
    assert outcome.kind not in (*FAULTS, USAGE), describe(2026, number, None, case, outcome)


def written(case: Case) -> pd.DataFrame:
    """The truth of a case as the command writes it."""
    frame = case.readings[0].frame.reset_index(names=["region", "timestamp"])
    return frame.assign(timestamp=frame["timestamp"].to_numpy().astype("datetime64[s]"))


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    layout = TableLayout(days=30, code="", code_in="rain", time_name="time")
    case = table_case(layout, tmp_path, np.random.default_rng(3))
    table, description = written(case), {"columns": {}}
    assert judge(case, table, description, "") == (EQUAL, "")
    hour = pd.Timedelta(1, "h")
    known = table["tp"].notna()
    for what, wrong in {
        "shifted": table.assign(timestamp=table["timestamp"] + hour),
        "in another unit": table.assign(tp=table["tp"] * 25.4),
        "filled": table.fillna({"tp": 0.0}),
        "lost": table.assign(tp=table["tp"].where(known & (table["tp"] < 1))),
        "a row lost": table.iloc[:-1],
        "another region": table.assign(region="x"),
        "a column lost": table.drop(columns="pressure"),
    }.items():
        assert judge(case, wrong, description, "")[0] == SILENT, what
    shifted = table.assign(timestamp=table["timestamp"] - hour)
    other = case.readings[0].frame.copy()
    other.index = other.index.set_levels(other.index.levels[1] - 3600, level=1)
    case.readings.append(Reading(other, ("stamps",)))
    assert judge(case, shifted, description, "series: 720 rows")[0] == SILENT
    said = "note: a stamp is taken as the end of its step"
    assert judge(case, shifted, description, said) == (ASSUMED, "stamps said")


def test_the_truth_of_running_totals() -> None:
    # 1 to 6 mm in the hours up to 22, 23, 00, 01, 02, 03 UTC; totals start after 00 UTC.
    ends = np.arange(22, 28, dtype=np.int64) * 3600
    amounts = np.array([1.0, 2, 3, 4, 5, 6])
    starts = total_start(ends, 86400, 0)
    assert (starts // 3600).tolist() == [0, 0, 0, 24, 24, 24]
    totals = running_totals(ends, amounts, starts)
    assert totals.tolist() == [1, 3, 6, 4, 9, 15]
    # The first hour's own amount isn't known: what fell from 00 to 21 UTC is in it.
    np.testing.assert_array_equal(shares(ends, totals, starts, 1), [np.nan, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(shares(ends, totals, starts, 3), [np.nan] * 3 + [9, 12, 15])
    totals[4] = np.nan  # 02 UTC: it and the next hour can't be told apart, three hours can
    np.testing.assert_array_equal(
        shares(ends, totals, starts, 1), [np.nan, 2, 3, 4, np.nan, np.nan]
    )
    assert shares(ends, totals, starts, 3)[5] == 15
