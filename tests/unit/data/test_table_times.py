"""Times and regions of tables: each way to write them against stamps that were known before."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError
from timerxl.data.tables.text import Layout, read_text_table
from timerxl.data.tables.times import (
    TimeOptions,
    Times,
    find_regions,
    find_times,
    time_columns,
    zone_of,
)

CASES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cases"
HOURS = pd.date_range("2020-01-20 22:00", periods=30, freq="h")


def frame(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def column(values: Any, name: str = "time") -> pd.DataFrame:
    return pd.DataFrame({name: list(values)})


def find(table: pd.DataFrame, layout: Layout | None = None, **options: Any) -> Times:
    regions = options.pop("regions", None)
    return find_times(table, layout, TimeOptions(**options), regions)


def stamps(*times: str) -> np.ndarray:
    return np.array(times, dtype="datetime64[s]")


# A plain timestamp column.


@pytest.mark.parametrize(
    "words",
    [
        ["2020-01-01 00:00", "2020-01-01 01:00:00", "2020-01-02"],
        ["2020-01-01T00:00Z", "2020-01-01T01:00Z"],
        ["2020-01-01 00:00:00-05:00", "2020-01-01 01:00:00-05:00"],
        ["2020-10-25 02:30:00+02:00", "2020-10-25 02:30:00+01:00"],
        ["20200101", "20200102T06"],
    ],
)
def test_a_timestamp_column_is_what_it_was(words: list[str]) -> None:
    table = column(words, "timestamp")
    found = find(table)
    as_pandas_reads = pd.to_datetime(table["timestamp"], utc=True, format="ISO8601")
    stamps = as_pandas_reads.dt.tz_localize(None).to_numpy()
    np.testing.assert_array_equal(found.timestamps, stamps.astype("datetime64[s]"))
    assert found.timestamps.dtype == np.dtype("datetime64[s]")
    assert (found.columns, found.stamps, found.known_by) == (["timestamp"], "end", "assumed")
    assert "a stamp is taken as the end of its step" in " ".join(found.notes)


def test_dates_in_a_timestamp_column_are_whole_days() -> None:
    found = find(column(["2020-01-01", "2020-01-02", "2020-01-03"], "timestamp"))
    assert found.timestamps[0] == np.datetime64("2020-01-02")
    assert (found.stamps, found.known_by) == ("start", "dates")
    assert "a whole day" in " ".join(found.notes)


def test_datetimes_of_a_frame_with_and_without_zone() -> None:
    table = column(HOURS, "timestamp")
    np.testing.assert_array_equal(find(table).timestamps, HOURS.to_numpy().astype("datetime64[s]"))
    table = column(HOURS.tz_localize("America/Lima"), "timestamp")
    found = find(table)
    assert found.timestamps[0] == np.datetime64("2020-01-21T03:00")
    assert found.timezone == "UTC"


# Ways to write a time: the same 30 hours each.


@pytest.mark.parametrize(
    "written",
    [
        "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M", "%d.%m.%Y %H:%M:%S",
        "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d-%m-%Y %H:%M", "%Y%m%d:%H%M", "%Y%m%d %H%M",
        "%d-%b-%Y %H:%M", "%d %B %Y %H:%M", "%Y/%m/%d %H%M UTC", "%m/%d/%Y %I:%M %p",
        "%Y年%m月%d日 %H时%M分", "%Y%m%dT%H%M%SZ", "%d.%m.%Y %H.%M",
    ],
)  # fmt: skip
def test_written_times(written: str) -> None:
    found = find(column(HOURS.strftime(written)))
    np.testing.assert_array_equal(found.timestamps, HOURS.to_numpy().astype("datetime64[s]"))


@pytest.mark.parametrize("written", ["%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_numbers_of_digits(written: str) -> None:
    found = find(column(HOURS.strftime(written).astype("int64")))
    np.testing.assert_array_equal(found.timestamps, HOURS.to_numpy().astype("datetime64[s]"))


def test_columns_of_date_and_clock() -> None:
    date = HOURS.strftime("%Y/%m/%d")
    expected = HOURS.to_numpy().astype("datetime64[s]")
    for name, clock in (
        ("Hora UTC", HOURS.strftime("%H%M UTC")),
        ("HORA (UTC)", HOURS.strftime("%H:%M")),
        ("hour", HOURS.hour),
        ("Hora", HOURS.hour * 100),
        ("Time", HOURS.strftime("%I:%M %p")),
        ("hh", HOURS.hour.astype(float)),
    ):
        table = pd.DataFrame({"x": 1.0, "Data": date, name: clock})
        found = find(table)
        assert found.columns == ["Data", name]
        np.testing.assert_array_equal(found.timestamps, expected)
        told = find(table, timestamp_columns=("Data", name))
        np.testing.assert_array_equal(told.timestamps, expected)
    table = pd.DataFrame({"d": HOURS.strftime("%d/%m/%Y"), "c": HOURS.hour})
    asked = find(table, timestamp_columns=("d", "c"), time_format="%d/%m/%Y %H")
    np.testing.assert_array_equal(asked.timestamps, expected)


@pytest.mark.parametrize(
    "names",
    [("YEAR", "MO", "DY", "HR"), ("year", "month", "day", "hour"), ("Ano", "Mes", "Dia", "Hora")],
)
def test_columns_of_parts(names: tuple[str, ...]) -> None:
    values = (HOURS.year, HOURS.month, HOURS.day, HOURS.hour)
    table = pd.DataFrame({"No": range(30)} | dict(zip(names, values, strict=True)))
    found = find(table)
    assert found.columns == list(names)
    np.testing.assert_array_equal(found.timestamps, HOURS.to_numpy().astype("datetime64[s]"))


def test_day_of_the_year() -> None:
    table = pd.DataFrame({"YEAR": [2020, 2020, 2021], "DOY": [60, 366, 1]})
    found = find(table)
    np.testing.assert_array_equal(
        found.timestamps, stamps("2020-03-01", "2021-01-01", "2021-01-02")
    )
    assert "whole day" in " ".join(found.notes)


def test_hour_24_is_the_next_midnight() -> None:
    expected = stamps("2019-12-31T23:00", "2020-01-01T00:00", "2020-01-01T01:00")
    table = pd.DataFrame({"date": ["2019-12-31", "2019-12-31", "2020-01-01"], "hour": [23, 24, 1]})
    np.testing.assert_array_equal(find(table).timestamps, expected)
    words = ["31.12.2019 23:00", "31.12.2019 24:00", "01.01.2020 01:00"]
    np.testing.assert_array_equal(find(column(words)).timestamps, expected)
    found = find(column(words), time_format="%d.%m.%Y %H:%M")
    np.testing.assert_array_equal(found.timestamps, expected)
    table = pd.DataFrame({"year": 2019, "month": 12, "day": 31, "hour": range(1, 25)})
    found = find(table)
    assert found.timestamps[-1] == np.datetime64("2020-01-01T00:00")
    assert "hours run from 1 to 24" in " ".join(found.notes)


def test_unix_times_only_where_they_are_named() -> None:
    seconds = [1577836800, 1577840400]
    for numbers in (seconds, [1000 * s for s in seconds], list(map(float, seconds))):
        with pytest.raises(InputError, match="--time-format"):
            find(column(numbers))
        found = find(column(numbers), time_format="unix")
        np.testing.assert_array_equal(
            found.timestamps, stamps("2020-01-01T00:00", "2020-01-01T01:00")
        )


# Day or month first.


def test_the_order_of_day_and_month_is_told_by_one_number_above_12() -> None:
    days = ["01/02/2020 00:00", "02/02/2020 00:00", "13/02/2020 00:00"]
    found = find(column(days))
    assert found.timestamps[0] == np.datetime64("2020-02-02")  # a whole day ends there
    assert "the day stands before the month" in " ".join(found.notes)
    months = ["02/01/2020 06:00", "02/02/2020 06:00", "02/13/2020 06:00"]
    found = find(column(months))
    assert found.timestamps[0] == np.datetime64("2020-02-01T06:00")
    assert "the month stands before the day" in " ".join(found.notes)


@pytest.mark.parametrize("separator", ["/", ".", "-"])
def test_an_order_that_can_t_be_told_is_asked_for(separator: str) -> None:
    words = [f"0{d}{separator}02{separator}2020 06:00" for d in range(1, 10)]
    with pytest.raises(InputError, match=r"day or month first\? Say --time-format"):
        find(column(words))
    told = find(column(words), time_format=f"%d{separator}%m{separator}%Y %H:%M")
    assert told.timestamps[-1] == np.datetime64("2020-02-09T06:00")
    told = find(column(words), time_format=f"%m{separator}%d{separator}%Y %H:%M")
    assert told.timestamps[-1] == np.datetime64("2020-09-02T06:00")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["13/02/2020", "02/13/2020"], "mixes two orders"),
        (["01/02/20", "13/02/20"], "two digits"),
        (["2020-01", "2020-02"], "months and years"),
        (["2020", "2021"], "months and years"),
        (["2020-01-01", "yesterday"], r"'yesterday' \(row 2\)"),
        (["2020-02-30", "2020-02-28"], "'2020-02-30'"),
        (["31.01.2020 25:00", "31.01.2020 01:00"], "25:00"),
        (["2020-01-01 00:00", None], "no time"),
        (["2020-01-01 00:00:00.5", "2020-01-01 00:00:01"], "whole seconds"),
        (["2020-01-01 00:00Z", "2020-01-01 01:00"], "other rows carry"),
        ([1.5, 2.5], "--time-format"),
        ([15000, 15001], "--time-format"),
    ],
)
def test_what_is_no_time_is_named(words: list[Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        find(column(words), timestamp_columns=("time",))
    assert "time" in str(caught.value)


def test_errors_name_the_line() -> None:
    table = column(["31.01.2020 00:00", "x"])
    with pytest.raises(InputError, match=r"'x' \(line 12\)"):
        find_times(table, line_of=lambda row: row + 11)


@pytest.mark.parametrize("bad", ["%Q", "%d.%m.%Y"])
def test_a_format_that_does_not_read_is_named(bad: str) -> None:
    with pytest.raises(InputError, match="--time-format"):
        find(column(["2020-01-01 00:00", "2020-01-01 01:00"]), time_format=bad)


def test_no_column_of_times() -> None:
    with pytest.raises(InputError, match=r"say --timestamp-column.*: a, b"):
        time_columns(frame("a,b\n1,2\n"))
    with pytest.raises(InputError, match=r"no column when \(--timestamp-column\)"):
        time_columns(frame("a,b\n1,2\n"), options=TimeOptions(timestamp_columns=("when",)))


# What a stamp means.


def test_a_date_is_a_whole_day_and_ends_at_midnight() -> None:
    table = column(["2020-02-28", "2020-02-29", "2020-03-01"], "Date")
    found = find(table)
    np.testing.assert_array_equal(
        found.timestamps, stamps("2020-02-29", "2020-03-01", "2020-03-02")
    )
    assert (found.stamps, found.known_by) == ("start", "dates")
    assert "--stamps end" in " ".join(found.notes)
    np.testing.assert_array_equal(
        find(table, stamps="end").timestamps, stamps("2020-02-28", "2020-02-29", "2020-03-01")
    )
    midnights = column(["2020-02-28 00:00", "2020-02-29 00:00"], "Date")
    np.testing.assert_array_equal(find(midnights).timestamps, stamps("2020-02-29", "2020-03-01"))
    six = column(["2020-02-28 06:00", "2020-02-29 06:00"], "Date")
    assert find(six).timestamps[0] == np.datetime64("2020-02-28T06:00")


def test_stamps_at_the_start_move_by_one_step() -> None:
    for minutes in (10, 30, 60, 180):
        times = pd.date_range("2020-01-01", periods=9, freq=f"{minutes}min").delete(4)
        table = column(times.strftime("%Y-%m-%d %H:%M"))
        found = find(table, stamps="start")
        expected = (times + pd.Timedelta(minutes=minutes)).to_numpy()
        np.testing.assert_array_equal(found.timestamps, expected.astype("datetime64[s]"))
        assert found.known_by == "option"
    layout = Layout("x", "x", times=("time",), stamps="start", hours=1.0, timezone="UTC")
    found = find(column(["2020-01-01 00:00"]), layout)
    assert found.timestamps[0] == np.datetime64("2020-01-01T01:00")
    with pytest.raises(InputError, match="needs two rows"):
        find(column(["2020-01-01 00:00"]), stamps="start")
    with pytest.raises(InputError, match="expected start or end"):
        find(column(["2020-01-01 00:00"]), stamps="middle")


# Time zones.


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("UTC-5", -5), ("-05:00", -5), ("GMT+5:30", 5.5), ("+0530", 5.5), ("America/Lima", -5),
     ("UTC", 0), ("Etc/GMT+5", -5), ("utc−3", -3)],
)  # fmt: skip
def test_zones_and_offsets(zone: str, hours: float) -> None:
    found = find(column(HOURS.strftime("%Y-%m-%d %H:%M")), timezone=zone)
    expected = (HOURS - pd.Timedelta(hours=hours)).to_numpy()
    np.testing.assert_array_equal(found.timestamps, expected.astype("datetime64[s]"))
    assert not any("time zone" in note for note in found.notes)


@pytest.mark.parametrize("zone", ["Lima", "UTC-25", "", "5"])
def test_unknown_zones_are_refused(zone: str) -> None:
    with pytest.raises(InputError, match="--timezone"):
        zone_of(zone)


def test_without_a_zone_it_is_utc_and_said() -> None:
    found = find(column(HOURS.strftime("%Y-%m-%d %H:%M")))
    assert "taken as UTC (else say --timezone)" in " ".join(found.notes)
    assert (
        find(column(HOURS.strftime("%Y-%m-%d %H:%M"), "time_utc")).notes[-1].startswith("a stamp")
    )


def test_a_column_that_says_utc_contradicts_another_zone() -> None:
    table = column(HOURS.strftime("%Y-%m-%d %H:%M"), "Hora UTC (date)")
    table = table.rename(columns={"Hora UTC (date)": "time_utc"})
    with pytest.raises(InputError, match="time_utc says UTC and --timezone America/Lima"):
        find(table, timezone="America/Lima")
    offsets = column(HOURS.strftime("%Y-%m-%d %H:%M") + "-05:00")
    assert find(offsets).timestamps[0] == np.datetime64("2020-01-21T03:00")
    with pytest.raises(InputError, match="leave --timezone out"):
        find(offsets, timezone="America/Lima")


def local(zone: str, start: str, periods: int, freq: str = "h") -> tuple[pd.DataFrame, np.ndarray]:
    """A column of local times, and the UTC stamps it was made of."""
    utc = pd.date_range(start, periods=periods, freq=freq, tz="UTC")
    words = utc.tz_convert(zone).strftime("%Y-%m-%d %H:%M")
    return column(words), utc.tz_localize(None).to_numpy().astype("datetime64[s]")


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/Berlin", "Australia/Sydney", "America/Santiago"]
)
@pytest.mark.parametrize("freq", ["h", "10min"])
def test_daylight_saving_forth_and_back(zone: str, freq: str) -> None:
    periods = 366 * 24 if freq == "h" else 366 * 144
    table, utc = local(zone, "2020-01-01", periods, freq)
    found = find(table, timezone=zone)
    np.testing.assert_array_equal(found.timestamps, utc)
    assert found.timezone == zone
    with pytest.raises(InputError, match="daylight saving; say --timezone"):
        find(table)


def test_the_doubled_hour_in_several_regions_and_newest_first() -> None:
    one, utc = local("Europe/Berlin", "2021-10-30", 72)
    both = pd.concat([one, one]).sort_index(kind="stable").reset_index(drop=True)
    found = find(both, timezone="Europe/Berlin", regions=np.array(["a", "b"] * 72))
    np.testing.assert_array_equal(found.timestamps[::2], utc)
    np.testing.assert_array_equal(found.timestamps[1::2], utc)
    backwards = one[::-1].reset_index(drop=True)
    found = find(backwards, timezone="Europe/Berlin")
    np.testing.assert_array_equal(found.timestamps, utc[::-1])


def test_a_doubled_hour_that_stands_once_is_the_first_and_said() -> None:
    one, utc = local("Europe/Berlin", "2021-10-30", 72)
    kept = ~one["time"].duplicated().to_numpy()
    found = find(one[kept], timezone="Europe/Berlin")
    np.testing.assert_array_equal(found.timestamps, utc[kept])
    assert "stands once in 1 nights" in " ".join(found.notes)


def test_an_hour_that_does_not_exist_is_refused() -> None:
    times = pd.date_range("2021-03-14", periods=24, freq="h")
    with pytest.raises(
        InputError, match=r"2021-03-14T02:00:00 \(row 3\) does not exist in America"
    ):
        find(column(times.strftime("%Y-%m-%d %H:%M")), timezone="America/New_York")


def test_gaps_alone_are_no_daylight_saving() -> None:
    times = pd.date_range("2021-01-01", periods=8000, freq="h")
    lost = np.isin(np.arange(8000), [100, 2000, 3001, 4500, 4501, 5000])
    found = find(column(times[~lost].strftime("%Y-%m-%d %H:%M")))
    assert len(found.timestamps) == 7994
    spring = times != pd.Timestamp("2021-03-28 02:00")  # one lost hour, on that very night
    assert len(find(column(times[spring].strftime("%Y-%m-%d %H:%M"))).timestamps) == 7999


def test_a_clock_that_jumps_in_spring_alone_is_no_utc() -> None:
    times = pd.date_range("2021-01-01", periods=4000, freq="h")
    spring = times != pd.Timestamp("2021-03-28 02:00")
    with pytest.raises(InputError, match=r"jumps over an hour after 2021-03-28T01.*--timezone"):
        find(column(times[spring].strftime("%Y-%m-%d %H:%M")))
    autumn, _ = local("Europe/Berlin", "2021-10-20", 500)
    with pytest.raises(InputError, match=r"stands twice after 2021-10-31T02.*--timezone"):
        find(autumn)


def test_days_in_local_time_keep_24_hours() -> None:
    days = pd.date_range("2020-01-01", periods=366)
    found = find(column(days.strftime("%Y-%m-%d"), "date"), timezone="America/New_York")
    assert found.timestamps[0] == np.datetime64("2020-01-02T05:00")
    assert set(np.diff(found.timestamps).astype(int)) == {86400}
    assert "05 UTC" in " ".join(found.notes)
    found = find(column(days.strftime("%Y-%m-%d"), "date"), timezone="UTC+1")
    assert found.timestamps[0] == np.datetime64("2020-01-01T23:00")


def test_stamps_at_the_start_in_local_time() -> None:
    table, utc = local("Europe/Berlin", "2021-03-27", 60)
    found = find(table, timezone="Europe/Berlin", stamps="start")
    np.testing.assert_array_equal(found.timestamps, utc + np.timedelta64(3600, "s"))


def test_the_layout_tells_zone_and_stamps_and_options_win() -> None:
    layout = Layout("x", "x", times=("when",), timezone="-05:00", stamps="start")
    table = column(["2020-01-01 00:00", "2020-01-01 01:00"], "When")
    found = find(table, layout)
    assert found.timestamps[0] == np.datetime64("2020-01-01T06:00")
    assert (found.columns, found.known_by) == (["When"], "layout")
    found = find(table, layout, timezone="UTC", stamps="end")
    assert found.timestamps[0] == np.datetime64("2020-01-01T00:00")


# Shared cases.


@pytest.mark.parametrize(
    ("parts", "columns", "first"),
    [
        (("inmet_csv", "INMET.CSV"), ["Data", "Hora UTC"], "2023-01-01T00:00"),
        (("nasa_power", "POWER_Point_Hourly.csv"), ["YEAR", "MO", "DY", "HR"], "2022-01-01T00:00"),
        (("sentinels_weather_csv", "weather.csv"), ["date"], "2020-01-01T00:10"),
        (("weather_au", "weatherAUS.csv"), ["Date"], "2010-01-02T00:00"),
        (("inches", "austin_weather.csv"), ["Date"], "2013-12-22T00:00"),
        (("era5land_csv", "era5land.csv"), ["valid_time"], "2021-01-01T01:00"),
    ],
)
def test_shared_tables(parts: tuple[str, ...], columns: list[str], first: str) -> None:
    path = CASES.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"the shared case {'/'.join(parts)} is not on this machine")
    table = read_text_table(path)
    found = find_times(table.frame)
    assert found.columns == columns
    assert found.timestamps[0] == np.datetime64(first)


# Regions.


def two_hours(**columns: list[Any]) -> pd.DataFrame:
    times = ["2020-01-01 00:00", "2020-01-01 01:00"] * 2
    return pd.DataFrame({"time": times, "t": [1.0, 2.0, 3.0, 4.0]} | columns)


def test_regions_in_the_order_of_their_sources() -> None:
    table = two_hours(station=["a", "a", "b", "b"], region=["x", "x", "y", "y"], k=["p"] * 4)
    found = find_regions(table, times=["time"])
    assert (found.columns, found.names.tolist()) == (["region"], ["x", "x", "y", "y"])
    assert found.notes == []
    found = find_regions(table, region_column="station", times=["time"])
    assert found.names.tolist() == ["a", "a", "b", "b"]
    found = find_regions(table, region="here", times=["time"])
    assert found.names.tolist() == ["here"] * 4
    with pytest.raises(InputError, match="give one of them"):
        find_regions(table, region="here", region_column="k")
    with pytest.raises(InputError, match=r"no column city.*--region NAME"):
        find_regions(table, region_column="city")


@pytest.mark.parametrize("name", ["STATION", "Location", "city", "STATIONS_ID", "id", "Estação"])
def test_a_column_named_like_a_station_tells_regions(name: str) -> None:
    table = two_hours(**{name: [7, 7, 8, 8]})
    found = find_regions(table, times=["time"])
    assert (found.columns, found.names.tolist()) == ([name], ["7", "7", "8", "8"])
    assert name in found.notes[0]


def test_only_what_makes_rows_unique_is_a_region() -> None:
    table = two_hours(id=[1, 1, 1, 1], name=["a", "a", "b", "b"])
    assert find_regions(table, times=["time"]).columns[0] == "name"
    one = two_hours(name=["rain", "sun", "rain", "sun"], code=[1, 2, 3, 4])
    one["time"] = ["2020-01-01 00:00", "2020-01-01 01:00", "2020-01-01 02:00", "2020-01-01 03:00"]
    found = find_regions(one, times=["time"], stem="austin")
    assert found.names.unique().tolist() == ["austin"]
    assert "--region" in found.notes[0]
    one["station"] = ["a", "a", "b", "b"]  # two stations, one after the other
    assert find_regions(one, times=["time"]).names.tolist() == ["a", "a", "b", "b"]


def test_places_tell_regions_where_no_name_does() -> None:
    table = two_hours(latitude=[1.5, 1.5, 1.5, 1.5], longitude=[10.0, 10.0, 10.25, 10.25])
    found = find_regions(table, times=["time"])
    assert found.names.tolist() == ["lat1.5_lon10"] * 2 + ["lat1.5_lon10.25"] * 2
    with pytest.raises(
        InputError, match=r"2020-01-01 00:00 stands in several rows.*--region-column"
    ):
        find_regions(two_hours(), times=["time"])


def test_one_region_is_named_by_the_file() -> None:
    table = two_hours()[:2]
    assert find_regions(table, times=["time"], stem="lima").names.tolist() == ["lima"] * 2
    named = find_regions(
        table, times=["time"], stem="x", metadata={"CODIGO (WMO)": "A001", "UF": "DF"}
    )
    assert named.names.tolist() == ["A001"] * 2
    place = find_regions(table, times=["time"], metadata={"latitude": "-12.05", "longitude": "-77"})
    assert place.names[0] == "lat-12.05_lon-77"
    table = table.assign(STATION=["72250003904"] * 2, NAME="AUSTIN")
    found = find_regions(table, times=["time"])
    assert found.names.tolist() == ["72250003904"] * 2
    assert found.columns == ["STATION", "NAME"]


def test_zoneinfo_agrees_with_an_independent_conversion() -> None:
    table, utc = local("America/New_York", "2020-06-01", 3)
    expected = [
        pd.Timestamp(word).to_pydatetime().replace(tzinfo=ZoneInfo("America/New_York")).timestamp()
        for word in table["time"]
    ]
    found = find(table, timezone="America/New_York").timestamps.astype(np.int64)
    assert found.tolist() == expected
