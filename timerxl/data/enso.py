"""El Niño and La Niña: NOAA's Oceanic Niño Index (ONI), to stratify scores and as a feature.

The ONI is a three-month mean of sea surface temperature anomalies (Niño 3.4), named by its season
and dated by its CENTRE month. It comes out about two months after that. So there are two uses, and
they must not be mixed: phases look back with all that is known today, features must not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from timerxl.config import InputError
from timerxl.data.series import WeatherSeries
from timerxl.untrusted import read_text, reason

SEASONS = "DJF JFM FMA MAM AMJ MJJ JJA JAS ASO SON OND NDJ".split()
PHASES = ("El Niño", "La Niña", "neutral")
THRESHOLD_KELVIN = 0.5
MIN_SEASONS = 5
MIN_LAG_MONTHS = 2
ONI_FEATURE = "oni_lagged"


@dataclass(frozen=True)
class OceanicNinoIndex:
    """``month`` [n] datetime64[M], the centre month of each season, one a month, ascending;
    ``anomaly`` [n] in kelvin."""

    month: np.ndarray
    anomaly: np.ndarray

    def phases(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ([n] index into ``PHASES``, [n] number of the episode, -1 in neutral months).

        NOAA's rule: five or more overlapping seasons in a row at or beyond +-0.5 K, anomalies
        rounded to one decimal as in NOAA's table. It looks ahead and is for looking back only.
        """
        # In whole hundredths: 0.45 must become 0.5, whatever the last binary digit says.
        hundredths = np.round(self.anomaly * 100).astype(np.int64)
        rounded = np.sign(hundredths) * ((np.abs(hundredths) + 5) // 10) / 10
        phase = np.full(len(rounded), PHASES.index("neutral"))
        episode = np.full(len(rounded), -1)
        number = 0
        for index, sign in enumerate((1, -1)):
            beyond = np.r_[False, sign * rounded >= THRESHOLD_KELVIN, False]
            begins = np.flatnonzero(beyond[1:] & ~beyond[:-1])
            ends = np.flatnonzero(~beyond[1:] & beyond[:-1])
            for begin, end in zip(begins, ends, strict=True):
                if end - begin >= MIN_SEASONS:
                    phase[begin:end], episode[begin:end] = index, number
                    number += 1
        return phase, episode

    def phase_at(self, timestamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return phase and episode of the month each time stamp lies in, unlagged, -1 where
        unknown.

        Raises InputError where the index covers none of the times.
        """
        position, known = self._position(timestamps.astype("datetime64[M]"))
        if not known.any():
            raise InputError(
                f"the ONI file covers {self.month[0]} to {self.month[-1]}, the series "
                f"{timestamps.min()} to {timestamps.max()}; expected an overlap."
            )
        phase, episode = self.phases()
        return np.where(known, phase[position], -1), np.where(known, episode[position], -1)

    def lagged(self, timestamps: np.ndarray, lag_months: int = MIN_LAG_MONTHS) -> np.ndarray:
        """Return [n] float32, the anomaly in kelvin of the month ``lag_months`` before; NaN
        outside.

        Raises InputError for a lag below two months: that value isn't out yet at issue time.
        """
        if lag_months < MIN_LAG_MONTHS:
            raise InputError(
                f"the ONI lag is {lag_months} months; expected {MIN_LAG_MONTHS} or more: a "
                "season's value is published two months after its centre month."
            )
        month = timestamps.astype("datetime64[M]") - np.timedelta64(lag_months, "M")
        position, known = self._position(month)
        return np.where(known, self.anomaly[position], np.nan).astype(np.float32)

    def _position(self, month: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        offset = (month - self.month[0]).astype(np.int64)
        known = (offset >= 0) & (offset < len(self.month))
        return np.where(known, offset, 0), known


def read_oni(path: Path) -> OceanicNinoIndex:
    """Read NOAA CPC's ``oni.ascii.txt`` (columns SEAS YR TOTAL ANOM).

    Raises InputError where the file is missing, a line is no such row, or a month is left out.
    """
    try:
        lines = read_text(path).splitlines()
    except ValueError as error:
        raise InputError(f"the ONI file {path} can't be read: {reason(error)}") from error
    if not lines or lines[0].split() != ["SEAS", "YR", "TOTAL", "ANOM"]:
        found = lines[0].strip()[:60] if lines else "nothing"
        raise InputError(
            f"{path} starts with {found!r}; expected NOAA's header SEAS YR TOTAL ANOM."
        )
    months, anomalies = [], []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split()
        if not cells:
            continue
        try:
            season, year, _, anomaly = cells
            months.append(np.datetime64(f"{int(year):04d}-{SEASONS.index(season) + 1:02d}", "M"))
            anomalies.append(float(anomaly))
        except ValueError as error:
            raise InputError(
                f"{path} line {number} is {line.strip()!r}; expected a season such as DJF, a year, "
                "the total and the anomaly."
            ) from error
        if not np.isfinite(anomalies[-1]):
            raise InputError(f"{path} line {number} has the anomaly {cells[3]}; expected a number.")
    month = np.array(months, dtype="datetime64[M]")
    if not month.size or (np.diff(month) != np.timedelta64(1, "M")).any():
        raise InputError(f"{path} leaves out or repeats a season; expected one each month.")
    return OceanicNinoIndex(month, np.array(anomalies))


def with_oni(series: WeatherSeries, path: Path, lag_months: int) -> WeatherSeries:
    """Return the series with the lagged index as its last feature, ``oni_lagged`` in kelvin.

    Rows that the file doesn't cover have it missing, and no window runs over them. Raises
    InputError as ``read_oni`` and ``lagged`` do, and where the series has a feature of that name.
    """
    if ONI_FEATURE in series.feature_names:
        raise InputError(f"the series has a feature {ONI_FEATURE} already; set data.oni_path=null.")
    column = read_oni(path).lagged(series.timestamps, lag_months)
    missing = int(np.isnan(column).sum())
    note = f"feature {ONI_FEATURE}: ONI of {lag_months} months before, {missing} rows without."
    return replace(
        series,
        feature_names=[*series.feature_names, ONI_FEATURE],
        values=np.hstack([series.values, column[:, None]]),
        source=series.source | {"oni": {"path": str(path), "lag_months": lag_months}},
        notes=[*series.notes, note],
    )
