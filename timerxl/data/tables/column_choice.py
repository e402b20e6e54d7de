"""Columns of a table as numbers that mean what they say: directions, yes and no, codes, units.

R rows. What is found here stands in the records of the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from timerxl.config import InputError
from timerxl.data.tables.column_records import ColumnRecord, Fact
from timerxl.data.tables.delimited_text import MISSING_WORDS
from timerxl.data.tables.missing_codes import Code, Extremes, refusal
from timerxl.data.tables.quantities import (
    RAIN,
    Quantity,
    fits,
    limits_in,
    most_rain_mm,
    quantity_of,
    unit_in_name,
)

SIN_COS, AS_IS = "sin_cos", "as_is"
_POINTS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE",
           "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")  # fmt: skip
# German and Spanish, Portuguese and French write O for east or for west; they are not guessed.
_DEGREES = {point: index * 22.5 for index, point in enumerate(_POINTS)} | {
    "NORTH": 0.0, "EAST": 90.0, "SOUTH": 180.0, "WEST": 270.0, "NORTHEAST": 45.0,
    "SOUTHEAST": 135.0, "SOUTHWEST": 225.0, "NORTHWEST": 315.0,
}  # fmt: skip
_NO_DIRECTION = frozenset({"CV", "CALM", "VAR", "VRB", "VARIABLE", "C", "-", "", "CLM"})
_YES = frozenset({"yes", "true", "y", "t", "sim", "si", "sí", "ja", "oui", "1", "1.0"})
_NO = frozenset({"no", "false", "n", "f", "nao", "não", "nein", "non", "0", "0.0"})
_MOST_OUTSIDE = 0.5  # a column of which more lies beyond its limits is in another unit


def is_direction(table: pd.DataFrame, name: str) -> bool:
    """Whether a column is a direction: by its name, and by values of 0 to 360 or compass points."""
    quantity = quantity_of(name)
    if quantity is None or quantity.key != "direction":
        return False
    column = table[name]
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_numeric_dtype(column):
        known = column.dropna()
        return not known.empty and float(known.max()) > 6.3  # radians are none of ours
    words = {str(word).strip().upper() for word in column.dropna().unique()[:200]}
    return bool(words & _DEGREES.keys()) and words <= _DEGREES.keys() | _NO_DIRECTION


def degrees(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """([R] degrees clockwise from north, NaN where missing or none; [R] bool: calm or variable)."""
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=bool)
    codes, words = pd.factorize(column)
    known = [str(word).strip().upper() for word in words]
    table = np.array([_DEGREES.get(word, np.nan) for word in known] + [np.nan])
    calm = np.array([word in _NO_DIRECTION - {"", "-"} for word in known] + [False])
    return table[codes], calm[codes]


def encode_direction(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of a direction, both 0 where there is none (calm), NaN where missing."""
    angle, calm = degrees(column)
    turn = np.deg2rad(angle)
    return np.where(calm, 0.0, np.sin(turn)), np.where(calm, 0.0, np.cos(turn))


def encode_directions(
    table: pd.DataFrame, features: list[str] | None, how: str, apart: set[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with ``NAME_sin`` and ``NAME_cos`` for its directions; {new column: its source}.

    ``features`` None encodes every direction unless ``how`` is "as_is"; a list decides by itself:
    who lists ``wd_sin`` gets it, who lists ``wd`` gets the degrees. ``apart`` are no features.
    """
    made: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    present, asked = set(table.columns), set(features or [])
    for name in map(str, table.columns):
        new = f"{name}_sin", f"{name}_cos"
        wanted = how == SIN_COS if features is None else bool(set(new) & asked)
        if name in apart or not wanted or set(new) & present:
            continue
        if is_direction(table, name):
            made |= dict(zip(new, encode_direction(table[name]), strict=True))
            sources |= dict.fromkeys(new, name)
    if not made:
        return table, {}
    listed = features or []
    kept = table.drop(columns=[n for n in dict.fromkeys(sources.values()) if n not in listed])
    return pd.concat([kept, pd.DataFrame(made, index=table.index)], axis=1), sources


def zero_one(column: pd.Series) -> np.ndarray | None:
    """[R] 1 for yes or true, 0 for no or false, NaN where missing; None where words differ."""
    if pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if pd.api.types.is_numeric_dtype(column):
        return None
    codes, words = pd.factorize(column)
    found = [str(word).strip().lower() for word in words]
    whole = {word for word in found if len(word) > 1 and word in _YES | _NO}
    if not (whole or {"y", "n"} <= set(found) or {"t", "f"} <= set(found)):
        return None  # an N alone may be north
    if not set(found) <= _YES | _NO | MISSING_WORDS | {""}:
        return None
    table = [1.0 if word in _YES else 0.0 if word in _NO else np.nan for word in found]
    return np.array([*table, np.nan])[codes]


def limits_of(name: str, unit: str | None, step_hours: float) -> tuple[float, float] | None:
    """What weather keeps to in this column, in its own unit; None where name or unit tell nothing.

    Without a unit only what hardly has another is limited: directions and percentages.
    """
    quantity = quantity_of(name, unit)
    if quantity is None:
        return None
    unit = unit or unit_in_name(name)
    if unit is not None and fits(unit, quantity):
        if quantity.key != RAIN:
            return limits_in(quantity, unit)
        low, high = limits_in(quantity, unit)
        return low, high * most_rain_mm(step_hours) / quantity.high
    return {"direction": (0.0, 360.0), "relative humidity": (0.0, 110.0)}.get(quantity.key)


def check_codes(
    columns: Mapping[str, tuple[np.ndarray, tuple[float, float] | None]],
    advice: str,
    place: Callable[[np.ndarray], str],
) -> None:
    """Refuse columns (values [R], limits) that hold codes for missing, or another unit's values.

    ``advice`` is the sentence on the option, see :func:`timerxl.data.tables.missing_codes.refusal`;
    ``place`` says where the first of [R] bool stands.
    """
    found: dict[str, list[Code]] = {}
    places: dict[str, str] = {}
    for name, (values, limits) in columns.items():
        known = values[~np.isnan(values)]
        if limits is not None and known.size and known.min() < known.max():
            outside = float(((known < limits[0]) | (known > limits[1])).mean())
            if outside > _MOST_OUTSIDE:
                raise InputError(
                    f"column {name} is {known.min():.5g} to {known.max():.5g}; expected "
                    f"{limits[0]:.5g} to {limits[1]:.5g} in the unit that its name, the layout "
                    "or --unit tells: correct that, or leave the column out."
                )
        extremes = Extremes()
        extremes.add(values)
        if codes := extremes.codes(limits):
            found[name] = codes
            places[name] = place(values == codes[0].value)
    if found:
        raise refusal(found, advice, places)


def feature_record(
    name: str, source: str, said: str | None, told: tuple[str, str] | None, time: Fact | None
) -> ColumnRecord:
    """The record of a feature: unit as ``said`` by the user or ``told`` (unit, by what).

    No value is converted. Raises InputError where the two contradict each other, or the unit that
    was said is none of the quantity that the name tells.
    """
    quantity = quantity_of(source) if said is None else quantity_of(source, said)
    if said is not None and quantity is None and (named_so := quantity_of(source)) is not None:
        limits_in(named_so, said)  # raises, naming units that would do
    if said and told and quantity and not _alike(said, told[0], quantity):
        raise InputError(
            f"{source} is in {told[0]} by {told[1]}, --unit says {said}; leave the option out, or "
            "correct the file."
        )
    unit = (
        Fact(said, "said", "--unit") if said else Fact(told[0], "file", told[1]) if told else None
    )
    if name != source:
        unit = Fact("1", "file", f"sine or cosine of {source}")
    return ColumnRecord(
        name=source,
        quantity=Fact(quantity.key, "file", "its name") if quantity else None,
        unit=unit,
        time=time,
    )


def _alike(one: str, other: str, quantity: Quantity) -> bool:
    """Whether two units are the same one of a quantity."""
    if not (fits(one, quantity) and fits(other, quantity)):
        return False
    return bool(np.allclose(limits_in(quantity, one), limits_in(quantity, other), rtol=1e-6))
