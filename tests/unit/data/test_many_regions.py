"""Tables of very many regions: the same values as of few, in time that grows as the rows do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, InputError, RunConfig
from timerxl.data.audit.auditor import audit_subject
from timerxl.data.audit.findings import MOST_REGIONS, Subject
from timerxl.data.era5.accumulation import (
    AccumulationEvidence,
    Totals,
    covered_hours,
    deaccumulate,
    shares,
)
from timerxl.data.era5.prepare import MOST_ENTRIES, Gaps, PrepareOptions, prepare_tables
from timerxl.data.preprocessing import complete_rows, labels, make_split, static_features
from timerxl.data.readers import TableOptions, open_table, read_table
from timerxl.data.series import WeatherSeries
from timerxl.data.tables.times import TimeOptions, find_times
from timerxl.data.windows import build_windows


def table(regions: int, rows: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(regions)
    count = regions * rows
    rain = np.where(rng.random(count) < 0.3, rng.exponential(2.0, count), 0.0)
    frame = pd.DataFrame(
        {
            "timestamp": np.tile(pd.date_range("2020-01-01", periods=rows, freq="h"), regions),
            "region": np.repeat([f"r{i:06d}" for i in range(regions)], rows),
            "precipitation": rain.round(2),
            "temperature": rng.normal(15, 8, count).round(2),
            "pressure": rng.normal(1010, 8, count).round(1),
        }
    )
    frame.loc[rng.random(count) < 0.02, "temperature"] = np.nan
    return frame


def read(frame: pd.DataFrame) -> WeatherSeries:
    return read_table(DataConfig(missing_values=[]), frame)


def seconds_of(frame: pd.DataFrame) -> float:
    taken = []
    for _ in range(3):
        begin = time.process_time()
        read(frame)
        taken.append(time.process_time() - begin)
    return min(taken)


def test_reading_takes_eight_times_as_long_for_eight_times_the_regions() -> None:
    few, many = table(3_000), table(24_000)
    read(few)  # imports and caches
    assert seconds_of(many) < 12 * seconds_of(few)


def test_many_regions_are_read_as_each_by_itself() -> None:
    frame = table(300)
    whole = read(frame)
    assert whole.regions == frame["region"].unique().tolist()
    for name, rows in zip(whole.regions, whole.rows_of_regions(), strict=True):
        alone = read(frame[frame["region"] == name])
        assert np.array_equal(whole.values[rows], alone.values, equal_nan=True)
        assert np.array_equal(whole.timestamps[rows], alone.timestamps)
        assert whole.precipitation_mm is not None
        assert alone.precipitation_mm is not None
        assert np.array_equal(whole.precipitation_mm[rows], alone.precipitation_mm)


def test_rows_of_regions_are_those_that_a_mask_finds_also_where_a_region_has_none() -> None:
    series = read(table(5))
    chosen = np.array([0, 3, 9, 10, 33, 39])
    parts = series.rows_of_regions(chosen)
    assert [part.tolist() for part in parts] == [[0, 3], [9, 10], [], [], [33, 39]]
    for index, rows in enumerate(series.rows_of_regions()):
        assert np.array_equal(rows, np.flatnonzero(series.region_index == index))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({17: "2020-01-01T00:00"}, "r000002 holds 2020-01-01T00:00:00 twice"),
        ({17: "2019-12-31T23:00"}, "r000002 holds 2019-12-31T23:00:00 after a later time"),
        ({15: "2020-01-01T07:30"}, "r000001: 2020-01-01T07:30:00 comes 1.5 h after"),
        # The first region with a fault is named, whatever the fault of a later one.
        ({15: "2020-01-01T07:30", 25: "2020-01-01"}, "r000001: 2020-01-01T07:30:00 comes 1.5 h"),
        ({9: "2020-01-01", 31: "2020-01-01T07:30"}, "r000001 holds 2020-01-01T00:00:00 twice"),
    ],
)
def test_the_first_region_with_a_wrong_time_is_named(change: dict[int, str], expected: str) -> None:
    frame = table(4)
    for row, stamp in change.items():
        frame.loc[row, "timestamp"] = pd.Timestamp(stamp)
    with pytest.raises(InputError, match=expected):
        read(frame)


def test_regions_of_another_step_are_named() -> None:
    frame = table(3)
    hours = pd.to_timedelta(np.arange(8) * 2, unit="h")
    frame.loc[8:15, "timestamp"] = (pd.Timestamp("2020-01-01") + hours).to_numpy()
    with pytest.raises(InputError, match=r"step \(r000000 1 h, r000001 2 h, r000002 1 h\)"):
        read(frame)


def test_a_million_regions_of_one_row_are_refused_in_one_sentence() -> None:
    frame = table(1_000_000, rows=1)
    begin = time.process_time()
    with pytest.raises(InputError, match="no region has two rows") as caught:
        read(frame)
    assert len(str(caught.value)) < 200
    assert time.process_time() - begin < 30


def test_too_short_histories_of_many_regions_are_refused_without_their_names() -> None:
    series = read(table(3_000))
    with pytest.raises(InputError, match=r"the first 8 of 3,000 regions\)") as caught:
        complete_rows(series, 100)
    assert len(str(caught.value)) < 500


def test_a_name_of_a_million_characters_is_refused() -> None:
    frame = table(2)
    frame["region"] = frame["region"].replace("r000001", "x" * 1_000_000)
    with pytest.raises(InputError, match="name of 1,000,000 characters") as caught:
        read(frame)
    assert len(str(caught.value)) < 300
    with pytest.raises(InputError, match="name has 1,000,000 characters") as caught:
        read(table(2).rename(columns={"pressure": "p" * 1_000_000}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("seed", range(3))
def test_evidence_of_a_table_is_that_of_its_regions_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), rng.integers(1, 60, 40))
    hours = np.concatenate(
        [np.sort(rng.choice(200, (groups == g).sum(), replace=False)) for g in range(40)]
    )
    values = np.where(rng.random(len(groups)) < 0.2, np.nan, rng.exponential(1, len(groups)))
    whole, single = AccumulationEvidence(), AccumulationEvidence()
    whole.add_rows(values, hours, groups)
    for group in range(40):
        single.add(values[None, groups == group], hours[groups == group])
    assert np.allclose(whole.amount, single.amount, rtol=1e-12)
    assert np.allclose(whole.falls, single.falls, rtol=1e-12)
    assert whole.largest == single.largest
    assert np.array_equal(np.concatenate(whole.stamps, 1), np.concatenate(single.stamps, 1))
    assert whole.decide() == single.decide()


def test_running_totals_of_many_regions_are_taken_apart_as_on_each_ones_own_hours() -> None:
    rng = np.random.default_rng(0)
    totals = Totals(24, 0)
    parts, hours, index, expected = [], [], [], []
    for region in range(30):
        own = np.sort(rng.choice(400, 120, replace=False)) + rng.integers(0, 1000)
        values = np.where(rng.random(120) < 0.1, np.nan, rng.exponential(2, 120))
        hourly = np.full(own[-1] - own[0] + 1, np.nan)
        hourly[own - own[0]] = values
        covered = covered_hours(~np.isnan(hourly), int(own[0]), totals)
        share = np.where(covered == 1, deaccumulate(hourly, int(own[0]), totals), np.nan)
        expected.append(share[own - own[0]])
        parts.append(values)
        hours.append(own)
        index.append(np.full(120, region))
    stamps = (np.concatenate(hours) * 3600).astype("datetime64[s]")
    found = shares(np.concatenate(parts), stamps, np.concatenate(index), totals, 1.0)
    assert np.array_equal(found, np.concatenate(expected), equal_nan=True)
    assert np.isfinite(found).sum() > 500


def test_the_doubled_hour_of_autumn_is_told_apart_in_each_region() -> None:
    utc = pd.date_range("2023-11-05T03:00", periods=8, freq="h", tz="UTC")
    local = utc.tz_convert("America/New_York").tz_localize(None)
    frames = []
    for region in range(200):
        kept = local if region % 3 else local[np.arange(8) != 3]  # without the second 01:00
        kept = kept[::-1] if region % 2 else kept
        frames.append(pd.DataFrame({"timestamp": kept, "region": f"r{region}"}))
    frame = pd.concat(frames, ignore_index=True)
    found = find_times(frame, None, TimeOptions(timezone="America/New_York"), frame["region"])
    for region in (1, 2, 4, 5, 199):  # complete ones, forwards and backwards
        times = found.timestamps[(frame["region"] == f"r{region}").to_numpy()]
        expected = utc.tz_localize(None).to_numpy().astype("datetime64[s]")
        assert np.array_equal(np.sort(times), expected), region
    assert "in 67 nights" in " ".join(found.notes)


def test_shares_of_the_classes_are_those_of_each_region() -> None:
    series = read(table(40, rows=40))
    config = DataConfig(label_horizon_hours=2, rain_threshold_mm=0.5, static_features=False)
    windows = build_windows(series, config, 4)
    label = labels(series, 2, 0.5)
    for share in windows.class_shares():
        rows = windows.rows[share["split"]]
        own = rows[series.region_index[rows] == series.regions.index(share["region"])]
        assert share["n"] == len(own)
        assert share["rain_share"] == (label[own].mean() if len(own) else None)


def test_a_column_for_each_of_too_many_regions_is_refused_before_it_is_made() -> None:
    names = [f"r{i}" for i in range(100_000)]
    index = np.repeat(np.arange(100_000), 20)
    with pytest.raises(InputError, match="100,000 regions"):
        static_features(
            SimpleNamespace(
                timestamps=np.zeros(len(index), dtype="datetime64[s]"),
                region_index=index,
                regions=names,
            ),
            names,
        )


def test_an_audit_of_many_regions_says_what_it_leaves_out() -> None:
    series = read(table(MOST_REGIONS + 1, rows=40))
    config = RunConfig().data
    config.label_horizon_hours, config.rain_threshold_mm = 2, 0.5
    subject = Subject(series, config, 4, "test", label=labels(series, 2, 0.5))
    split = make_split(series, subject.label, config, 4)
    subject.rows, subject.split_method = split.rows, split.method
    audit = audit_subject(subject)
    skipped = {row["check"] for row in audit.skipped}
    assert {"identical regions", "class shares per region", "effective number of samples"} <= (
        skipped
    )
    assert len(audit.facts["regions"]) == MOST_REGIONS
    assert {row["split"] for row in audit.facts["splits"]} == {"train", "validation", "test"}
    assert len(json.dumps(audit.to_dict())) < 1_000_000


def test_a_table_of_more_regions_than_files_may_be_open_is_prepared(tmp_path: Path) -> None:
    frame = table(2_000)
    frame.to_parquet(tmp_path / "t.parquet")
    content, _ = prepare_tables(
        [tmp_path / "t.parquet"],
        PrepareOptions(tmp_path / "out"),
        TableOptions(is_command=True),
        lambda label: None,
    )
    assert len(content["regions"]) == 2_000
    assert content["rows"] == len(frame)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["series.json", "series.parquet"]
    written = pd.read_parquet(tmp_path / "out" / "series.parquet")
    assert written["region"].tolist() == frame["region"].tolist()
    assert np.array_equal(written["tp"], frame["precipitation"])
    assert np.array_equal(
        written["temperature"], frame["temperature"].astype(np.float32), equal_nan=True
    )


def test_stations_on_days_of_their_own_become_a_row_each(tmp_path: Path) -> None:
    """Not one for every station on every day: 3,000 stations would become nine million rows."""
    path = tmp_path / "by_year.csv"
    days = pd.date_range("2000-01-01", periods=3_000).strftime("%Y%m%d")
    lines = [f"S{i:010d},{day},PRCP,{i % 50},,,7," for i, day in enumerate(days)]
    lines += [f"S{i:010d},{day},TMAX,{i % 30},,,7," for i, day in enumerate(days) if i % 2]
    path.write_text("\n".join(lines) + "\n")
    frame = open_table(path, TableOptions(is_command=True)).frame
    assert len(frame) == 3_000
    assert frame["ID"].tolist() == [f"S{i:010d}" for i in range(3_000)]
    assert frame["PRCP"].tolist() == [float(i % 50) for i in range(3_000)]
    assert frame["TMAX"].isna().tolist() == [i % 2 == 0 for i in range(3_000)]


def test_gaps_of_very_many_regions_become_one_entry() -> None:
    gaps = Gaps(["tp"], [f"r{i}" for i in range(MOST_ENTRIES + 10)], 3600)
    missing = np.array([[False], [True], [True], [False]])
    for region in range(MOST_ENTRIES + 9):
        stamps = (np.arange(4) + region % 2) * 3600
        gaps.add(region, stamps, missing, np.zeros_like(missing))
    (entry,) = gaps.entries()
    assert (entry["regions"], entry["runs"], entry["steps"]) == (
        MOST_ENTRIES + 9,
        MOST_ENTRIES + 9,
        2 * (MOST_ENTRIES + 9),
    )
    assert (entry["first"], entry["last"]) == ("1970-01-01T01:00:00", "1970-01-01T03:00:00")
