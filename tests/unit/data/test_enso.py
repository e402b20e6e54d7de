"""The Oceanic Niño Index against NOAA's published episodes, and no look into the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from timerxl.config import DataConfig, InputError, SyntheticConfig
from timerxl.data.enso import PHASES, SEASONS, OceanicNinoIndex, read_oni
from timerxl.data.readers import load_series

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "oni.ascii.txt"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="the shared ONI file is absent")


def index_of(anomaly: list[float], start: str = "2000-01") -> OceanicNinoIndex:
    months = np.datetime64(start, "M") + np.arange(len(anomaly))
    return OceanicNinoIndex(months, np.array(anomaly))


def write(path: Path, rows: list[str], header: str = " SEAS  YR   TOTAL   ANOM") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_five_seasons_make_an_episode_and_four_do_not() -> None:
    four, five = [0.5] * 4, [-0.6] * 5
    phase, episode = index_of([0.0, *four, 0.4, *five, -0.2]).phases()
    assert [PHASES[i] for i in phase] == ["neutral"] * 6 + ["La Niña"] * 5 + ["neutral"]
    assert episode.tolist() == [-1] * 6 + [0] * 5 + [-1]


def test_anomalies_count_as_noaa_prints_them() -> None:
    # 0.45 is 0.5 to one decimal and counts, 0.44 does not.
    assert set(index_of([0.45] * 5).phases()[0]) == {PHASES.index("El Niño")}
    assert set(index_of([0.44] * 5).phases()[0]) == {PHASES.index("neutral")}


@needs_real
def test_the_published_episodes_are_found() -> None:
    """NOAA CPC, "Cold & Warm Episodes by Season": the years of the episodes since 1950."""
    oni = read_oni(REAL)
    phase, episode = oni.phases()
    years = {}
    for name in ("El Niño", "La Niña"):
        of_phase = episode[phase == PHASES.index(name)]
        years[name] = [
            int(str(oni.month[episode == number][0])[:4]) for number in np.unique(of_phase)
        ]
    assert years["El Niño"] == [
        *(1951, 1953, 1957, 1958, 1963, 1965, 1968, 1969, 1972, 1976, 1977, 1979, 1982, 1986),
        *(1991, 1994, 1997, 2002, 2004, 2006, 2009, 2014, 2018, 2019, 2023),
    ]
    assert years["La Niña"] == [
        *(1950, 1954, 1964, 1970, 1973, 1974, 1983, 1984, 1988, 1995, 1998, 2005, 2007, 2008),
        *(2010, 2011, 2016, 2017, 2020, 2021),
    ]
    # The strongest one: December 1997 to February 1998 and around it.
    at, _ = oni.phase_at(np.array(["1997-12-24T06", "2013-07-01T18"], "datetime64[s]"))
    assert [PHASES[i] for i in at] == ["El Niño", "neutral"]


def test_a_feature_never_sees_its_own_season() -> None:
    oni = index_of([float(i) for i in range(12)])
    times = np.array(["2000-02-29T23", "2000-03-01T00", "2000-12-31T12", "2001-03-01"], "M8[s]")
    np.testing.assert_array_equal(oni.lagged(times), [np.nan, 0, 9, np.nan])
    np.testing.assert_array_equal(oni.lagged(times, 3), [np.nan, np.nan, 8, 11])
    with pytest.raises(InputError, match="1 months; expected 2 or more"):
        oni.lagged(times, 1)


def test_months_outside_the_file_are_unknown() -> None:
    oni = index_of([1.0] * 6)
    phase, episode = oni.phase_at(np.array(["1999-12-31", "2000-06-30", "2000-07-01"], "M8[s]"))
    assert phase.tolist() == [-1, 0, -1]
    assert episode.tolist() == [-1, 0, -1]
    with pytest.raises(InputError, match="2000-01 to 2000-06, the series 1990"):
        oni.phase_at(np.array(["1990-01-01"], "M8[s]"))


def test_a_written_file_is_read_back(tmp_path: Path) -> None:
    rows = [f"{SEASONS[i]} 2001 26.50 {i / 10 - 0.5:.2f}" for i in range(12)]
    oni = read_oni(write(tmp_path / "oni.txt", rows))
    assert oni.month[0] == np.datetime64("2001-01")
    assert oni.month[-1] == np.datetime64("2001-12")
    np.testing.assert_allclose(oni.anomaly, np.arange(12) / 10 - 0.5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["DJF 2001 26.5 0.1", "FMA 2001 26.5 0.1"], "leaves out or repeats"),
        (["DJF 2001 26.5"], "line 2 is 'DJF 2001 26.5'"),
        (["XYZ 2001 26.5 0.1"], "line 2"),
        (["DJF 2001 26.5 nan"], "expected a number"),
        ([], "leaves out"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_oni(write(tmp_path / "oni.txt", rows))


@needs_real
def test_the_index_becomes_a_feature_of_the_series() -> None:
    config = DataConfig(synthetic=SyntheticConfig(start="2020-01-01", end="2020-06-30"))
    plain = load_series(config)
    config = DataConfig(synthetic=config.synthetic, oni_path=str(REAL))
    series = load_series(config)
    assert series.feature_names == [*plain.feature_names, "oni_lagged"]
    np.testing.assert_array_equal(series.values[:, :-1], plain.values)
    # March 2020 sees January 2020, the centre of DJF.
    rows = [line.split() for line in REAL.read_text().splitlines()]
    djf = next(float(row[3]) for row in rows if row[:2] == ["DJF", "2020"])
    march = (series.timestamps >= np.datetime64("2020-03-01")) & (
        series.timestamps < np.datetime64("2020-04-01")
    )
    np.testing.assert_allclose(series.values[march, -1], djf)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="starts with 'year,month'"):
        read_oni(write(tmp_path / "oni.txt", ["1,2"], header="year,month"))
    with pytest.raises(InputError, match="can't be read"):
        read_oni(tmp_path / "none.txt")
