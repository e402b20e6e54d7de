"""From a text file to a clean table: text, layout, regions and times, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from timerxl.data.tables.text import Layout, TextOptions, read_known_table, read_traces
from timerxl.data.tables.times import TimeOptions, find_regions, find_times, time_columns


@dataclass(frozen=True)
class FrontOptions:
    """What the user says of a table; None means: guess, and say the guess."""

    text: TextOptions = field(default_factory=TextOptions)
    times: TimeOptions = field(default_factory=TimeOptions)
    region_column: str | None = None
    region: str | None = None
    rain_column: str | None = None


@dataclass
class FrontTable:
    """A file's rows with their regions and times.

    ``frame`` holds all columns but those of the time and the region, as the file has them (text
    where words are left, see ``not_numbers``); ``timestamps`` [R] datetime64[s] are UTC at the end
    of each row's period (``known_by``: option, layout, dates, hours 1 to 24, or assumed),
    ``regions`` [R] text. ``not_weather`` says why a column can be no feature (a flag, a place, or
    what tells the future). ``units`` and ``missing`` are what the layout or a line of units tells.
    """

    frame: pd.DataFrame
    timestamps: np.ndarray
    regions: pd.Series
    rain: str | None
    units: dict[str, str]
    missing: dict[str, tuple[float, ...]]
    not_weather: dict[str, str]
    not_numbers: dict[str, str]
    notes: list[str]
    layout: Layout | None
    known_by: str
    metadata: Mapping[str, str]


def read_front(path: Path, options: FrontOptions | None = None) -> FrontTable:
    """Read a text table up to its units and codes for missing, which are told and not applied.

    Raises InputError naming the line or column and the option that decides.
    """
    options = options or FrontOptions()
    asked = (options.region_column,) if options.region_column is not None else None
    table, layout = read_known_table(path, options.text, asked)
    frame, notes = table.frame, table.notes
    columns = time_columns(frame, layout, options.times)
    stem = path.name.split(".")[0]
    regions = find_regions(
        frame, layout, options.region_column, options.region, columns, stem, table.metadata
    )
    times = find_times(frame, layout, options.times, regions.names, table.line_of)
    rain = options.rain_column
    if rain is None and layout is not None:
        rain = layout.rain_column([str(name) for name in frame.columns])
    if rain is not None and rain in frame:
        suffixes = layout.suffixes if layout is not None else ""
        notes += read_traces(table, [rain], suffixes)
    notes += regions.notes + times.notes
    apart = {*times.columns, *regions.columns}
    kept = [str(name) for name in frame.columns if name not in apart]
    not_weather: dict[str, str] = {}
    for name in kept if layout is not None else ():
        assert layout is not None
        if layout.is_label(name):
            not_weather[name] = f"it tells the future in {layout.name}"
        elif not layout.is_weather(name):
            not_weather[name] = f"it is no weather in {layout.name}"
    units = {name: unit for name, unit in table.units.items() if name in kept}
    missing: dict[str, tuple[float, ...]] = {}
    for name in kept if layout is not None else ():
        assert layout is not None
        if (unit := layout.unit_of(name)) is not None:
            units[name] = unit
        if codes := layout.missing_of(name):
            missing[name] = codes
    return FrontTable(
        frame=table.frame[kept],
        timestamps=times.timestamps,
        regions=regions.names,
        rain=rain,
        units=units,
        missing=missing,
        not_weather=not_weather,
        not_numbers={name: said for name, said in table.not_numbers.items() if name in kept},
        notes=notes,
        layout=layout,
        known_by=times.known_by,
        metadata=table.metadata,
    )
