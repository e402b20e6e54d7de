"""How benchmarks/silent_errors.py judges what launch/prepare_data.py made of a layout."""

from __future__ import annotations

import io
import json
import re
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timerxl.cli import prepare_data

EQUAL, ASSUMED, REFUSED, SILENT, CRASHED = "equal", "assumed", "refused", "silent", "crashed"
USAGE = "usage"  # argparse knows no such option: the case asks for what is not there
FAULTS = (SILENT, CRASHED)
MAY_LACK = "may lack"
# What a printed note must say for a reading that is not the truth to be a said assumption.
NOTES = {
    "zone": r"(no|without|tells? no) (time )?zone|taken as UTC|(read|are) as UTC|in UTC",
    "stamps": r"(stamp|time|date|day)s?\b.{0,60}\b(end|start|begin)",
    "unit": r"taken as mm|nothing tells its unit|no unit",
    "hours": r"can't tell (how many|over)|SPARSE|taken as the sum",
    "sums": r"taken as (hourly )?sums",
    "region": r"one region, named",
    "land": r"grid of 0\.1 degrees is ERA5-Land",
    "standard": r"standard time",
    "twice": r"twice|doubl|duplicate|same time",
    "out": r"left out|skipped|not read|dropped",
}
# Scale and offset from the base unit of a quantity (degC, Pa, m/s, degree) to others.
UNITS: dict[str, dict[str, tuple[float, float]]] = {
    "temperature": {
        **dict.fromkeys(("degC", "C", "°C", "celsius"), (1.0, 0.0)),
        "K": (1.0, 273.15),
        **dict.fromkeys(("degF", "F", "°F"), (1.8, 32.0)),
    },
    "pressure": {"Pa": (1.0, 0.0), "hPa": (0.01, 0.0), "mb": (0.01, 0.0)},
    "wind": dict.fromkeys(("m/s", "m s-1", "m s**-1"), (1.0, 0.0)) | {"km/h": (3.6, 0.0)},
}


@dataclass
class Reading:
    """One way to read a layout: a frame by (region, seconds), and the notes that must be there.

    Without ``notes`` it's the truth. Values are NaN where nothing can be known. Where the column
    ``may lack`` is true, tp may be missing: it can be known by a roundabout way only.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


@dataclass
class Case:
    """A layout written into a folder: what to say to the command, and what may come out.

    ``units`` {column: (quantity, unit in the file)}; ``tolerance`` {column: absolute}; the names of
    regions are only judged where the file or an option tells them. ``direction`` is the column that
    may come back as degrees or as sine and cosine.
    """

    layout: Any
    arguments: list[str]
    readings: list[Reading]
    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    tolerance: dict[str, float] = field(default_factory=dict)
    regions_told: bool = True
    direction: str | None = None


@dataclass
class Outcome:
    """``kind`` is one of the above; ``why`` says what differs, or the command's own sentence."""

    kind: str
    why: str
    stdout: str = ""
    stderr: str = ""


def run_case(case: Case, folder: Path) -> Outcome:
    """Read the case through ``launch/prepare_data.py``'s main in this process, and judge it."""
    output = folder / "output"
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = prepare_data.main([*case.arguments, "--output", str(output)])
    except SystemExit as stopped:
        kind = USAGE if stopped.code == 2 else CRASHED
        return Outcome(kind, err.getvalue().strip().splitlines()[-1], out.getvalue(), "")
    except Exception:
        return Outcome(CRASHED, traceback.format_exc(), out.getvalue(), err.getvalue())
    said = out.getvalue(), err.getvalue()
    if code == 2:
        sentence = re.sub(r"\S*/output\b", "OUTPUT", said[1].strip())
        kind = REFUSED if sentence.startswith("error: ") and not output.exists() else CRASHED
        return Outcome(kind, sentence, *said)
    if code != 0:
        return Outcome(CRASHED, f"exit code {code}: {said[1].strip().splitlines()[-1]}", *said)
    table = pd.read_parquet(output / "series.parquet")
    description = json.loads((output / "series.json").read_text(encoding="utf-8"))
    kind, why = judge(case, table, description, said[0])
    return Outcome(kind, why, *said)


def judge(
    case: Case, table: pd.DataFrame, description: dict[str, Any], stdout: str
) -> tuple[str, str]:
    """The outcome of a series that was written: the first reading that it equals decides."""
    notes = "\n".join(s for s in stdout.splitlines() if not s.startswith("train with"))
    found = _by_region_and_time(table)
    if case.direction is not None:
        pair = [f"{case.direction}_sin", f"{case.direction}_cos"]
        other = [case.direction] if pair[0] in found else pair
        for reading in case.readings:
            reading.frame = reading.frame.drop(columns=other, errors="ignore")
    silent, problems = "", []
    for reading in case.readings:
        expected = _in_units(case, reading.frame, description)
        problem = difference(case, found, expected, notes)
        lacking = [key for key in reading.notes if not re.search(NOTES[key], notes)]
        if problem is None and not lacking:
            left = [name for name in expected.columns if name not in found and name != MAY_LACK]
            left = [f"{name} left out" for name in left]
            said = ", ".join([*reading.notes, *left])
            return (ASSUMED, f"{said} said") if said else (EQUAL, "")
        if problem is None and not silent:
            silent = f"read with another {', '.join(reading.notes)}; no note on {lacking}"
        problems.append(problem or "")
    closest = min(problems, key=lambda text: int((re.search(r"at (\d+) of", text) or [0, 9**9])[1]))
    return SILENT, silent or closest


def _by_region_and_time(table: pd.DataFrame) -> pd.DataFrame:
    seconds = table["timestamp"].to_numpy().astype("datetime64[s]").astype(np.int64)
    index = pd.MultiIndex.from_arrays([table["region"].astype(str), seconds])
    return table.drop(columns=["timestamp", "region"]).set_index(index)


def _in_units(case: Case, frame: pd.DataFrame, description: dict[str, Any]) -> pd.DataFrame:
    """The expected columns in the unit that series.json says, where it says one."""
    made = frame.copy()
    for name, (quantity, unit) in case.units.items():
        told = (description["columns"].get(name) or {}).get("unit")
        if told and told != unit and name in made:
            scale, offset = UNITS[quantity][unit]
            base = (made[name] - offset) / scale
            scale, offset = UNITS[quantity].get(told, (np.nan, np.nan))
            made[name] = base * scale + offset
    return made


def difference(case: Case, found: pd.DataFrame, expected: pd.DataFrame, notes: str) -> str | None:
    """What differs, in words; None where nothing does."""
    ours, theirs = ({*frame.index.get_level_values(0)} for frame in (expected, found))
    if ours != theirs and not case.regions_told and len(ours) == len(theirs) == 1:
        found = found.set_axis(found.index.set_levels([*ours], level=0))
    elif ours != theirs:
        return f"regions {sorted(theirs)}, expected {sorted(ours)}"
    if not found.index.is_unique:
        return f"a stamp stands twice: {found.index[found.index.duplicated()][0]}"
    index = found.index.union(expected.index)
    may_lack = np.zeros(len(index), dtype=bool)
    if MAY_LACK in expected:
        may_lack = expected[MAY_LACK].reindex(index, fill_value=False).to_numpy(bool)
    for name in expected.columns.drop(MAY_LACK, errors="ignore"):
        if name not in found:
            source = re.escape(re.sub(r"_(sin|cos)$", "", name))
            if re.search(rf"{source}.*({NOTES['out']})", notes):
                continue
            return f"column {name} is not there ({', '.join(found.columns)})"
        have = found[name].reindex(index).to_numpy(np.float64)
        want = expected[name].reindex(index).to_numpy(np.float64)
        with np.errstate(invalid="ignore"):
            near = np.abs(have - want) <= case.tolerance.get(name, 1e-5) + 1e-5 * np.abs(want)
        for what, bad in (
            ("is wrong", ~np.isnan(have) & ~np.isnan(want) & ~near),
            ("was made up", ~np.isnan(have) & np.isnan(want)),
            ("was lost", np.isnan(have) & ~np.isnan(want) & ~(may_lack & (name == "tp"))),
        ):
            if bad.any():
                place = int(np.flatnonzero(bad)[0])
                region, seconds = index[place]
                stamp = np.datetime64(int(seconds), "s")
                return (
                    f"{name} {what} at {bad.sum()} of {len(index)} stamps, first {region} {stamp}: "
                    f"{have[place]:.6g}, expected {want[place]:.6g}"
                )
    return None


def combinations(options: dict[str, list[Any]]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every choice of ``options`` {note: [the truth, another, ...]}, with the notes it needs."""
    found = []
    for places in product(*(range(len(values)) for values in options.values())):
        notes = tuple(key for key, place in zip(options, places, strict=True) if place)
        chosen = {
            key: values[place] for (key, values), place in zip(options.items(), places, strict=True)
        }
        found.append((notes, chosen))
    return found
