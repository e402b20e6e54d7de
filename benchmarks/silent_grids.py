"""Layouts of gridded files for benchmarks/silent_errors.py: NetCDF and Zarr of many archives.

SYNTHETIC data: each region's hourly truth on the cells of its box, wetter in one cell than in the
next. What the area mean must be is computed here, with weights cos(latitude), from what is known.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from benchmarks.silent_judge import MAY_LACK, Case, Reading
from benchmarks.silent_truth import HOUR, Truth, make_truth, running_totals, shares, total_start

CODES = (-9999.0, -999.0, 1e20, 9.969209968386869e36, -32767.0)
LONG = {"tp": "total_precipitation", "t2m": "2m_temperature", "sp": "surface_pressure"}
# The options of launch/prepare_data.py for grids, in one place.
OPTIONS = {
    "regions": "--regions", "unit": "--unit", "missing": "--missing", "meaning": "--meaning",
    "step": "--step-hours",
}  # fmt: skip
_KINDS_OF_UNIT = {
    "m": ("m", 1000.0), "mm": ("mm", 1.0), "kg m**-2": ("kg m**-2", 1.0), "none": (None, 1000.0),
    "said m": ("m", 1.0), "said mm": ("mm", 1000.0),
}  # fmt: skip


@dataclass
class GridLayout:
    """One way to write a grid; the default is ERA5 as the Climate Data Store delivers it.

    ``unit``: that of the attribute, ``none``, or a wrong one (``said m``: the numbers are mm).
    ``amounts``: the hour's, running totals, the sum over the file's step, or a rate.
    """

    climates: tuple[str, ...] = ("wet",)
    days: int = 35
    first: str = "2021-02-20"
    layout: str = "new"  # new (valid_time, NetCDF-4), old (time, NetCDF-3 packed)
    store: str = "netcdf"  # netcdf, zip, zarr
    grid: float = 0.25
    shape: str = "grid"  # grid, row, cell, scalar (no dimension of space)
    latitude: str = "down"
    longitude: str = "180"  # 180, 360, wrap (around the globe, 0 and 360 both there)
    step: int = 1
    amounts: str = "hour"  # hour, running, sum, rate
    unit: str = "m"
    unit_said: bool = False
    meaning_said: bool = False
    missing: str = "no"  # no, attribute, bare
    missing_when: str = "always"  # always (sea), at times
    code: float = -9999.0
    code_said: bool = False
    packed: str = "no"  # no, fill, no fill
    split: str = "no"  # no, time, variable, overlap
    versions: str = "no"  # no, times, dimension
    time_axis: str = "plain"  # plain, steps (base time and step), bounds start, middle, end, or
    # bounds wrong: of one step, at its end, around running totals
    daily: str = "no"  # no, history, shift (days of UTC-5, so the history), bare
    names: str = "short"  # short, long, six (total_precipitation_6hr, at the step's stamps)
    step_type: bool = True
    others_every: int = 1
    step_hours: int | None = None
    temperature: str = "K"
    times: str = "all"  # all, gaps (of rain), descending
    places: str = "boxes"  # boxes, points


def draw_grid(rng: np.random.Generator) -> GridLayout:
    """A random layout: few or many features differ from ERA5's."""
    much = rng.choice([0.1, 0.25, 0.5])
    layout = GridLayout()

    def pick(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    def differs(chance: float = 1.0) -> bool:
        return bool(rng.random() < much * chance)

    def said() -> bool:
        return bool(rng.random() < 0.5)

    layout.climates = tuple(pick(["wet", "dry", "arid"]) for _ in range(int(pick([1, 2, 2, 3]))))
    layout.days = int(rng.integers(30, 50))
    layout.first = str(pick(["2021-02-20", "2020-12-11", "2019-06-15"]))
    if differs():
        layout.layout = "old"
    layout.store = str(pick(["zip", "zarr"])) if differs(0.5) else "netcdf"
    layout.grid = 0.1 if differs() else 0.25
    layout.shape = str(pick(["row", "cell", "scalar"])) if differs() else "grid"
    layout.latitude = "up" if differs() else "down"
    layout.longitude = str(pick(["360", "360", "wrap"])) if differs() else "180"
    layout.step = int(pick([3, 6])) if differs() else 1
    if differs() or (layout.step > 1 and said()):
        layout.amounts = str(pick(["running", "running", "sum", "rate"]))
    if differs():
        layout.unit, layout.unit_said = str(pick(list(_KINDS_OF_UNIT))), said()
    layout.meaning_said = differs()
    if differs():
        layout.missing, layout.code = str(pick(["attribute", "bare"])), float(pick(CODES))
        layout.missing_when, layout.code_said = str(pick(["always", "at times"])), said()
    layout.packed = str(pick(["fill", "no fill"])) if differs() else "no"
    layout.split = str(pick(["time", "variable", "overlap"])) if differs() else "no"
    layout.versions = str(pick(["times", "dimension"])) if differs(0.5) else "no"
    if differs(0.6):
        layout.time_axis = str(
            pick(["steps", "bounds start", "bounds middle", "bounds end", "bounds wrong"])
        )
    layout.daily = str(pick(["history", "shift", "bare"])) if differs(0.5) else "no"
    layout.names = str(pick(["long", "six"])) if differs(0.6) else "short"
    layout.step_type = not differs()
    layout.others_every = int(pick([3, 6])) if differs(0.6) else 1
    layout.step_hours = int(pick([1, 3, 6, 12, 24])) if differs(0.5) else None
    layout.temperature = "degC" if differs(0.5) else "K"
    layout.times = str(pick(["gaps", "gaps", "descending"])) if differs(0.6) else "all"
    layout.places = "points" if differs(0.5) else "boxes"
    return possible(layout)


def possible(layout: GridLayout) -> GridLayout:
    """The same layout without what can't be written: contradictions go, nothing else."""
    made = layout
    if made.store == "zarr":
        made.layout, made.versions, made.packed = "new", "no", "no"
    if made.layout == "old":
        made.step_type, made.packed = False, "fill" if made.packed == "no" else made.packed
    if made.names == "six":
        made.step, made.amounts, made.step_type = (1 if made.step == 1 else 6), "sum", False
    if made.names != "short":
        made.step_type = False
    if made.daily == "shift":
        made.meaning_said = False  # the words know days of UTC only
    if made.amounts == "rate":
        made.unit, made.step_type = "m", False
    if made.names == "six" and made.time_axis == "steps":
        made.time_axis = "plain"
    if made.time_axis == "bounds wrong":
        made.amounts, made.names = "running", "short" if made.names == "six" else made.names
    if made.time_axis == "bounds wrong" or made.unit.startswith("said"):
        made.climates = ("wet", *made.climates[1:])  # a wrong attribute is seen where it rains
    if made.time_axis == "steps":
        made.times = "all" if made.times == "gaps" else made.times
        made.split, made.versions, made.others_every = "no", "no", 1
        made.amounts = "running" if made.amounts == "sum" else made.amounts
    if made.time_axis.startswith("bounds"):
        made.step_type, made.others_every = False, made.step
        made.amounts = "sum" if made.amounts == "hour" else made.amounts
        made.step = 6 if made.names == "six" else made.step
    if made.shape != "grid":
        made.climates = made.climates[:1]
        made.longitude = "180" if made.longitude == "wrap" else made.longitude
        made.missing = "no"
    if made.longitude == "wrap":
        made.climates = made.climates[:2]
        made.grid = 0.25
    if made.daily != "no":  # the store delivers each statistic in a file of its own
        made.step, made.amounts, made.time_axis, made.names = 24, "sum", "plain", "short"
        made.step_type, made.others_every, made.split = False, 24, "variable"
    if made.others_every < made.step:
        made.others_every = made.step
    if made.others_every != made.step and made.split != "variable":
        made.split = "variable"
    if made.versions == "dimension":
        made.split = "no" if made.split == "overlap" else made.split
    return made


def grid_case(layout: GridLayout, folder: Path, rng: np.random.Generator) -> Case:
    """Write the layout into ``folder``; see :class:`benchmarks.silent_judge.Case`."""
    field = _fields(layout, rng)
    files = _write(layout, field, folder)
    regions = folder / "regions.yaml"
    regions.write_text(yaml.safe_dump({"regions": field.boxes}), encoding="utf-8")
    frame = _expected(layout, field)
    tolerance = {"tp": 2e-5 + field.rain_error_mm * max(1, 0.6 * field.series_step / layout.step)}
    if layout.packed != "no":
        tolerance |= {"t2m": 2e-3, "sp": 0.05}
    else:
        tolerance |= {"t2m": 1e-4, "sp": 0.05}
    return Case(
        layout=layout,
        arguments=[*map(str, files), OPTIONS["regions"], str(regions), *_options(layout)],
        readings=[Reading(frame), *_other_sums(layout, field)],
        units={"t2m": ("temperature", "K"), "sp": ("pressure", "Pa")},
        tolerance=tolerance,
    )


@dataclass
class _Fields:
    """What will be written. ``ends`` [T] seconds of the rain's stamps, ``other_ends`` of the rest.

    ``tp`` [T, Y, X] in mm as the file counts (a rate: mm an hour), ``amount_mm`` [T, Y, X] the mm
    of each step; ``t2m`` K and ``sp`` Pa [S, Y, X]; NaN where the file has a hole. ``cells``
    {region: [Y, X] bool, without a place that stands twice}.
    """

    ends: np.ndarray
    starts: np.ndarray
    other_ends: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    tp: np.ndarray
    amount_mm: np.ndarray
    t2m: np.ndarray
    sp: np.ndarray
    boxes: dict[str, dict[str, float]]
    cells: dict[str, np.ndarray]
    rain_error_mm: float = 0.0
    series_step: int = 1


def _axes(layout: GridLayout) -> tuple[np.ndarray, np.ndarray, dict[str, Any], dict[str, Any]]:
    """Latitudes, longitudes, boxes, and the cells of each box."""
    size = {"grid": (4, 6), "row": (1, 6), "cell": (1, 1), "scalar": (1, 1)}[layout.shape]
    count = len(layout.climates)
    if layout.longitude == "wrap":
        latitude = 60.0 - 10.0 * np.arange(4)
        longitude = np.arange(0.0, 361.0, 30.0)
        edges = [(-45.0, 45.0), (80.0, 130.0)][:count]
        on_globe = (longitude + 180) % 360 - 180
        columns = [(on_globe >= west) & (on_globe <= east) for west, east in edges]
        columns = [chosen & (longitude < 360) for chosen in columns]
    else:
        latitude = np.round(-11.0 - layout.grid * np.arange(size[0]), 3)
        longitude = np.round(-77.5 + layout.grid * np.arange(size[1]), 3)
        width = size[1] // count
        columns = [np.arange(size[1]) // width == region for region in range(count)]
        half = layout.grid / 2.5
        edges = [
            (float(longitude[chosen].min() - half), float(longitude[chosen].max() + half))
            for chosen in columns
        ]
        if layout.longitude == "360":
            longitude = longitude % 360
    half = (
        float(np.abs(latitude[0] - latitude[-1]) / max(len(latitude) - 1, 1) or layout.grid) / 2.5
    )
    boxes, cells = {}, {}
    for region, (west, east) in enumerate(edges):
        name = f"box_{region}"
        boxes[name] = {
            "north": float(latitude.max() + half), "south": float(latitude.min() - half),
            "west": west, "east": east,
        }  # fmt: skip
        cells[name] = np.tile(columns[region], (len(latitude), 1))
        if layout.places == "points":  # a fifth of a cell beside the last of its cells
            row, column = np.argwhere(cells[name])[-1]
            cells[name] = np.zeros_like(cells[name])
            cells[name][row, column] = True
            boxes[name] = {
                "latitude": float(latitude[row] + half / 2),
                "longitude": float(longitude[column]),
            }
    return latitude, longitude, boxes, cells


def _fields(layout: GridLayout, rng: np.random.Generator) -> _Fields:
    latitude, longitude, boxes, cells = _axes(layout)
    shape = len(latitude), len(longitude)
    begin = int(np.datetime64(layout.first, "s").astype(np.int64)) + _shift(layout)
    hours = layout.days * 24
    truth = make_truth(rng, list(layout.climates), begin + HOUR, hours)
    region_of = np.zeros(shape, dtype=np.int64)
    for region, name in enumerate(cells):
        region_of[cells[name]] = region
    wetness, warmth = rng.uniform(0.4, 1.6, shape), rng.normal(0, 2, shape)
    if layout.longitude == "wrap":  # 360 is 0
        region_of[:, -1], wetness[:, -1], warmth[:, -1] = (
            region_of[:, 0], wetness[:, 0], warmth[:, 0]
        )  # fmt: skip
    hourly = truth.rain_mm[region_of].transpose(2, 0, 1) * wetness
    every = layout.step
    ends = truth.ends[every - 1 :: every]
    amount = hourly.reshape(-1, every, *shape).sum(axis=1)
    starts = total_start(ends, _period(layout) * HOUR, 0)
    tp = amount
    if layout.amounts == "hour":
        tp = hourly[every - 1 :: every]
    elif layout.amounts == "rate":
        tp = amount / every
    elif layout.names == "six" and every == 1:
        sums = np.cumsum(np.concatenate([np.zeros((6, *shape)), hourly]), axis=0)
        tp = amount = sums[6:] - sums[:-6]
    elif layout.amounts == "running":
        tp = running_totals(ends, amount.transpose(1, 2, 0), starts).transpose(2, 0, 1)
    other_ends = truth.ends[layout.others_every - 1 :: layout.others_every]
    t2m, sp = _others(layout, truth, region_of, warmth)
    tp, t2m, sp = tp.copy(), t2m.copy(), sp.copy()
    if layout.missing != "no":
        hole = np.zeros(shape, dtype=bool)
        for chosen in cells.values():
            places = np.argwhere(chosen)
            hole[tuple(places[int(rng.integers(len(places)))])] = True
        if layout.longitude == "wrap":
            hole[:, -1] = hole[:, 0]
        for column in (tp, t2m, sp):
            when = np.ones(len(column), dtype=bool)
            if layout.missing_when == "at times":
                when = rng.random(len(column)) < 0.1
            column[np.ix_(when, *map(np.arange, shape))] = np.where(hole, np.nan, column[when])
    if layout.times == "gaps":
        kept = rng.random(len(ends)) > 0.02
        ends, starts, tp, amount = ends[kept], starts[kept], tp[kept], amount[kept]
    return _Fields(ends, starts, other_ends, latitude, longitude, tp, amount, t2m, sp, boxes, cells)


def _shift(layout: GridLayout) -> int:
    """Seconds after 00 UTC at which the days begin."""
    return 5 * HOUR if layout.daily == "shift" else 0


def _window(layout: GridLayout) -> int:
    """Hours that one sum is over."""
    return 6 if layout.names == "six" else layout.step


def _period(layout: GridLayout) -> int:
    return 12 if layout.time_axis == "steps" else 24


def _others(
    layout: GridLayout, truth: Truth, region_of: np.ndarray, warmth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    kelvin = (truth.temperature + 273.15)[region_of].transpose(2, 0, 1) + warmth
    pascal = (truth.pressure * 100)[region_of].transpose(2, 0, 1) + 10 * warmth
    every = layout.others_every
    if layout.daily != "no" or layout.time_axis.startswith("bounds"):
        shape = kelvin.shape[1:]
        return (
            kelvin.reshape(-1, every, *shape).mean(axis=1),
            pascal.reshape(-1, every, *shape).mean(axis=1),
        )
    return kelvin[every - 1 :: every], pascal[every - 1 :: every]


def _area_means(values: np.ndarray, field: _Fields, region: str) -> np.ndarray:
    """[T] means over the cells with a value, weights cos(latitude)."""
    chosen = field.cells[region]
    weights = np.broadcast_to(np.cos(np.deg2rad(field.latitude))[:, None], chosen.shape)[chosen]
    own = values[:, chosen]
    known = ~np.isnan(own)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = np.where(known, own, 0.0) @ weights / (known @ weights)
    return mean


def _expected(layout: GridLayout, field: _Fields) -> pd.DataFrame:
    """Each region's means at the ends of the series' steps, as far as the file tells them."""
    step = layout.step_hours or max(_window(layout), layout.others_every)
    field.series_step = step
    parts = []
    for region in field.cells:
        tp, may_lack = _rain_of_steps(layout, field, region, step)
        frame = pd.DataFrame({"tp": tp}, dtype=np.float64)
        frame[MAY_LACK] = may_lack
        for name, values in (("t2m", field.t2m), ("sp", field.sp)):
            means = pd.Series(_area_means(values, field, region), index=field.other_ends)
            if layout.daily == "no" and not layout.time_axis.startswith("bounds"):
                means = means[means.index % (step * HOUR) == 0]
            else:
                means = _step_means(means, step, layout.others_every)
            frame = frame.join(means.rename(name), how="outer")
        frame.index = pd.MultiIndex.from_product([[region], frame.index])
        parts.append(frame)
    joined = pd.concat(parts)
    joined[MAY_LACK] = joined[MAY_LACK].eq(True)
    return joined


def _step_means(means: pd.Series, step: int, every: int) -> pd.Series:
    if step == every:
        return means
    grouped = means.groupby(-(-means.index.to_numpy() // (step * HOUR)) * step * HOUR)
    complete = grouped.count() == max(step // every, 1)
    return grouped.mean()[complete]


def _rain_of_steps(
    layout: GridLayout, field: _Fields, region: str, step: int
) -> tuple[pd.Series, pd.Series]:
    """mm over each step of the series, NaN where a value that it needs is missing; where it may be
    missing all the same."""
    if layout.amounts == "hour" and layout.step > 1:
        return pd.Series(dtype=np.float64), pd.Series(dtype=bool)  # nobody knows the other hours
    if layout.amounts == "running":
        return _shares_of_steps(layout, field, region, step)
    amount = np.where(np.isnan(field.tp), np.nan, field.amount_mm)
    means = pd.Series(_area_means(amount, field, region), index=field.ends)
    window = _window(layout)
    if window > layout.step:  # of overlapping sums those that lie side by side
        means = means[means.index % (window * HOUR) == 0]
    if step != window:
        grouped = means.groupby(-(-means.index.to_numpy() // (step * HOUR)) * step * HOUR)
        means = grouped.sum(min_count=max(step // window, 1))
    return means, pd.Series(False, index=means.index)


def _other_sums(layout: GridLayout, field: _Fields) -> list[Reading]:
    """Running totals every hour taken for sums of the hour, sums of the hour on a grid of 0.1
    degrees taken for running totals: with a note that says so."""
    if layout.amounts == "hour" and layout.grid == 0.1:  # which the grid tells to be ERA5-Land's
        return [Reading(_expected(replace(layout, amounts="running"), field), ("land",))]
    if layout.amounts != "running" or layout.step > 1:
        return []
    field = replace(field, amount_mm=field.tp)
    return [Reading(_expected(replace(layout, amounts="hour"), field), ("sums",))]


def _shares_of_steps(
    layout: GridLayout, field: _Fields, region: str, step: int
) -> tuple[pd.Series, pd.Series]:
    """Each cell's totals are taken apart before the mean: a cell that is missing at one time only
    would change the mean of the totals. Who takes means apart must leave such steps missing."""
    amount = np.full(field.tp.shape, np.nan)
    for y, x in np.argwhere(field.cells[region]):
        totals = field.ends, field.tp[:, y, x], field.starts
        amount[:, y, x] = shares(*totals, step, layout.step * HOUR)
    known = ~np.isnan(field.tp[:, field.cells[region]])
    changes = np.concatenate([[False], (known[1:] != known[:-1]).any(axis=1)])
    before = np.searchsorted(field.ends, field.ends - step * HOUR)
    count = np.cumsum(changes)
    may_lack = pd.Series(count > count[np.maximum(before - 1, 0)], index=field.ends)
    means = pd.Series(_area_means(amount, field, region), index=field.ends)
    full = field.ends % (step * HOUR) == 0
    return means[full], may_lack[full]


def _options(layout: GridLayout) -> list[str]:
    words = ["--derived", "none"]
    if layout.step_hours is not None:
        words += [OPTIONS["step"], str(layout.step_hours)]
    if layout.unit_said and layout.amounts != "rate":
        true = {"none": "m", "said m": "mm", "said mm": "m"}.get(layout.unit, layout.unit)
        words += [OPTIONS["unit"], f"tp={true}"]
    if layout.code_said and layout.missing == "bare":
        words += [OPTIONS["missing"], f"{layout.code:.7g}"]
    if layout.meaning_said:
        stamp = "@start" if layout.daily != "no" or layout.time_axis == "bounds start" else ""
        stamp = "@end" if layout.time_axis == "bounds end" else stamp
        word = {
            "hour": "hourly", "running": f"running:{_period(layout)}h",
            "sum": f"sum:{_window(layout)}h{stamp}",
            "rate": f"mean:{layout.step}h{stamp or '@end'}",
        }[layout.amounts]  # fmt: skip
        words += [OPTIONS["meaning"], f"tp={word}"]
        if layout.daily != "no":
            words += ["t2m=mean:24h@start", "sp=mean:24h@start"]
    return words


def _write(layout: GridLayout, field: _Fields, folder: Path) -> list[Path]:
    rain = _dataset(layout, field, {"tp": _rain_values(layout, field)}, field.ends)
    rest = {"t2m": field.t2m - (273.15 if layout.temperature == "degC" else 0), "sp": field.sp}
    others = _dataset(layout, field, rest, field.other_ends)
    if layout.split == "variable":
        sets = {"accum": rain, "instant": others}
    else:
        whole = others.assign({str(name): rain[name] for name in rain.data_vars})
        time = _time_name(layout)
        half = whole.sizes[time] // 2 if time in whole.dims else 0
        sets = {"data": whole}
        if layout.split in ("time", "overlap"):
            more = 5 if layout.split == "overlap" else 0
            sets = {
                "first": whole.isel({time: slice(0, half + more)}),
                "second": whole.isel({time: slice(half, None)}),
            }
    return [_write_set(layout, field, made, folder, name) for name, made in sets.items()]


def _rain_values(layout: GridLayout, field: _Fields) -> np.ndarray:
    if layout.amounts == "rate":
        return field.tp / HOUR  # kg m-2 s-1
    return field.tp / _KINDS_OF_UNIT[layout.unit][1]


def _time_name(layout: GridLayout) -> str:
    return "valid_time" if layout.layout == "new" and layout.time_axis != "steps" else "time"


def _name(layout: GridLayout, short: str) -> str:
    if layout.amounts == "rate" and short == "tp":
        return "mean_total_precipitation_rate" if layout.names == "long" else "tp"
    if layout.names == "six":
        return "total_precipitation_6hr" if short == "tp" else LONG[short]
    return LONG[short] if layout.names == "long" else short


def _dataset(
    layout: GridLayout, field: _Fields, values: dict[str, np.ndarray], ends: np.ndarray
) -> xr.Dataset:
    """One file's variables with its coordinates; ``values`` [T, Y, X] at ``ends``."""
    time = _time_name(layout)
    step = int(np.diff(ends).min())
    shift = {"bounds start": step, "bounds middle": step // 2}.get(layout.time_axis, 0)
    if layout.daily != "no":
        shift = step + _shift(layout)
    stamps = (ends - shift).astype("datetime64[s]").astype("datetime64[ns]")
    rows, columns = ("latitude", "longitude") if layout.layout == "new" else ("lat", "lon")
    rows, columns = ("latitude", "longitude") if layout.names == "short" else (rows, columns)
    coords: dict[str, Any] = {
        time: (time, stamps),
        rows: (rows, field.latitude, {"units": "degrees_north"}),
        columns: (columns, field.longitude, {"units": "degrees_east"}),
    }
    data: dict[str, Any] = {}
    for name, array in values.items():
        written = _name(layout, name)
        attributes: dict[str, Any] = {"long_name": f"invented {name}"}
        if name == "tp":
            unit = "kg m**-2 s**-1" if layout.amounts == "rate" else _KINDS_OF_UNIT[layout.unit][0]
        else:
            unit = {"t2m": layout.temperature, "sp": "Pa"}[name]
        if unit is not None:
            attributes["units"] = unit
        if layout.step_type:
            attributes["GRIB_stepType"] = "accum" if name == "tp" else "instant"
        if layout.time_axis.startswith("bounds"):
            kind = "mean" if name != "tp" or layout.amounts == "rate" else "sum"
            attributes["cell_methods"] = f"{time}: {kind}"
        data[written] = ((time, rows, columns), array, attributes)
    if layout.time_axis.startswith("bounds"):
        coords[time] = (time, stamps, {"bounds": "time_bnds"})
        begins = ends - step
        if layout.amounts == "running" and "tp" in values and layout.time_axis != "bounds wrong":
            begins = total_start(ends, _period(layout) * HOUR, 0)
        edges = np.stack([begins, ends], axis=1).astype("datetime64[s]")
        data["time_bnds"] = ((time, "bnds"), edges.astype("datetime64[ns]"))
    attributes = {"Conventions": "CF-1.7", "title": "SYNTHETIC, invented"}
    if layout.daily in ("history", "shift"):
        kind = "sum" if "tp" in values else "mean"
        told = ", time_shift={'hours': -5}" if layout.daily == "shift" else ""
        attributes["history"] = f"earthkit.transforms.aggregate.temporal.daily_{kind}(data{told})"
    made = xr.Dataset(data, coords=coords, attrs=attributes)
    if layout.layout == "new" and layout.names == "short":
        made = made.assign_coords(number=0)
    if layout.versions == "times":
        late = np.arange(len(ends)) >= len(ends) * 0.8
        made = made.assign_coords(expver=(time, np.where(late, "0005", "0001").astype(object)))
    return made


def _write_set(
    layout: GridLayout, field: _Fields, made: xr.Dataset, folder: Path, name: str
) -> Path:
    time = _time_name(layout)
    rows, columns = (str(d) for d in next(iter(made.data_vars.values())).dims[1:3])
    if layout.time_axis == "steps":
        made = _with_steps(made, time)
    if layout.versions == "dimension":
        made = _with_version_dimension(made, time)
    if layout.times == "descending":
        made = made.isel({time: slice(None, None, -1)})
    if layout.latitude == "up":
        made = made.isel({rows: slice(None, None, -1)})
    if layout.shape == "row":
        pass
    elif layout.shape == "scalar":
        made = made.isel({rows: 0, columns: 0})
    encoding: dict[str, dict[str, Any]] = {}
    if layout.time_axis.startswith("bounds"):
        minutes = {"units": "minutes since 1970-01-01", "dtype": "int32"}
        encoding = {time: minutes, "time_bnds": minutes}
    for variable in list(made.data_vars):
        label = str(variable)
        if label == "time_bnds":
            continue
        made[label], encoding[label] = _stored(layout, field, made[label])
    if layout.store == "zarr":
        path = folder / f"{name}.zarr"
        made.to_zarr(path, consolidated=True, zarr_format=2)
        return path
    path = folder / f"{name}.nc"
    if layout.layout == "new":
        made.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    else:
        made.to_netcdf(path, engine="scipy", format="NETCDF3_64BIT", encoding=encoding)
    if layout.store == "zip":
        inner = path.rename(folder / f"{name}_member.nc")
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, f"{name}_stepType-accum.nc")
        inner.unlink()
    return path


def _with_steps(made: xr.Dataset, time: str) -> xr.Dataset:
    """Forecasts of twelve hours from 00 and 12 UTC: axes time and step."""
    stamps = made[time].values
    spacing = int((stamps[1] - stamps[0]) / np.timedelta64(1, "s"))
    length = 12 * HOUR // spacing
    bases = stamps[:: max(length, 1)] - np.timedelta64(spacing, "s")
    steps = (np.arange(length) + 1) * np.timedelta64(spacing, "s").astype("timedelta64[ns]")
    data = {
        str(name): (
            (time, "step", *found.dims[1:]),
            found.values.reshape(len(bases), length, *found.shape[1:]),
            found.attrs,
        )
        for name, found in made.data_vars.items()
    }
    kept = {str(name): made[name] for name in made.coords if time not in made[name].dims}
    return xr.Dataset(data, {**kept, time: (time, bases), "step": ("step", steps)}, made.attrs)


def _with_version_dimension(made: xr.Dataset, time: str) -> xr.Dataset:
    """Final data for four fifths of the times, preliminary ones for the rest: two halves."""
    final = np.arange(made.sizes[time]) < made.sizes[time] * 0.8
    data = {}
    for name, found in made.data_vars.items():
        if str(name) == "time_bnds":
            data[str(name)] = found
            continue
        halves = [found.where(xr.DataArray(keep, dims=time)) for keep in (final, ~final)]
        joined = xr.concat(halves, dim="expver").transpose(time, "expver", *found.dims[1:])
        data[str(name)] = joined.assign_attrs(found.attrs)
    return xr.Dataset(data, attrs=made.attrs).assign_coords(
        expver=("expver", np.array([1, 5], dtype=np.int32))
    )


def _stored(
    layout: GridLayout, field: _Fields, data: xr.DataArray
) -> tuple[xr.DataArray, dict[str, Any]]:
    """The variable with its holes as the layout has them, and how it's stored."""
    is_rain = "precip" in str(data.name) or data.name == "tp"
    hole = np.isnan(data.values)
    bare = layout.missing == "bare" and layout.versions != "dimension"
    if layout.packed == "no":
        kind = np.float32
        if not hole.any():
            return data.astype(kind), {"dtype": "float32"}
        if bare:
            filled = data.fillna(layout.code).astype(kind)
            return filled, {"dtype": "float32", "_FillValue": None}
        return data.astype(kind), {"dtype": "float32", "_FillValue": np.float32(layout.code)}
    low, high = float(np.nanmin(data.values)), float(np.nanmax(data.values))
    scale = (high - low) / 64000 or 1.0
    offset = (low + high) / 2
    if is_rain:
        unit_mm = HOUR * layout.step if layout.amounts == "rate" else _KINDS_OF_UNIT[layout.unit][1]
        field.rain_error_mm = max(field.rain_error_mm, 1.1 * scale * unit_mm)
    packing: dict[str, Any] = {"dtype": "int16", "scale_factor": scale, "add_offset": offset}
    if layout.packed == "fill" and not (bare and hole.any()):
        return data, packing | {"_FillValue": np.int16(-32767)}
    if hole.any() and layout.versions != "dimension":
        # The fill value is there, its attribute is lost: it unpacks to a number like any other.
        return data.fillna(offset - 32767 * scale), packing | {"_FillValue": None}
    return data, packing | (
        {"_FillValue": np.int16(-32767)} if hole.any() else {"_FillValue": None}
    )
