"""Which columns are features: never the label, never anything named like one."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from timerxl.config import DataConfig, InputError

# Names under which tables carry what is to be predicted: as a feature they would give it away.
_LABEL_LIKE = re.compile(r"(target|label)_?.*|rain_?24h|rain_?tomorrow", re.IGNORECASE)


def label_like(name: str) -> bool:
    """Whether a column's name says that it holds what is to be predicted."""
    return _LABEL_LIKE.fullmatch(name) is not None


def choose_features(
    table: pd.DataFrame,
    config: DataConfig,
    apart: set[str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Names of the features in column order (or as listed), and why other columns are skipped.

    ``apart`` are the columns of time and region (None: the configuration's), ``reasons`` why a
    column is no feature though it may be numeric.

    Raises InputError where no numeric column is left or ``data.features`` lists what is none.
    """
    if apart is None:
        apart = {config.timestamp_column, config.region_column}
    known = reasons or {}
    skipped: dict[str, str] = {}
    numeric: list[str] = []
    for name in map(str, table.columns):
        if name == config.label_column:
            skipped[name] = "it is the label"
        elif label_like(name):
            skipped[name] = "its name says label (data.label_column makes it one)"
        elif name not in apart and name in known:
            skipped[name] = known[name]
        elif name not in apart and not pd.api.types.is_numeric_dtype(table[name]):
            skipped[name] = f"not numeric ({table[name].dtype})"
        elif name not in apart:
            numeric.append(name)
    if config.features is None:
        if not numeric:
            raise InputError(f"{config.path} has no numeric column to take as a feature.")
        return numeric, skipped
    why = skipped | dict.fromkeys(apart, "it's the time or the region")
    unknown = f"the table {config.path or ''} has no such column".replace("  ", " ")
    return listed_features(config.features, numeric, why, unknown, skipped)


def listed_features(
    listed: list[str],
    available: list[str],
    reasons: dict[str, str],
    unknown: str,
    skipped: dict[str, str],
) -> tuple[list[str], dict[str, str]]:
    """The listed names as they stand, and ``skipped`` with the available ones that they leave out.

    ``reasons`` says why a column can be no feature, ``unknown`` what to say of any other name.
    Raises InputError for an empty list, a repeated name, or one that is not ``available``.
    """
    if not listed or len(set(listed)) < len(listed):
        raise InputError(f"data.features is {listed}; expected names, each once.")
    offered, chosen = set(available), set(listed)
    for name in listed:
        if name not in offered:
            raise InputError(
                f"data.features lists {name}, but {reasons.get(name, unknown)}; "
                f"expected names among: {', '.join(available[:30])}."
            )
    left = [name for name in available if name not in chosen]
    return list(listed), skipped | dict.fromkeys(left, "not listed in data.features")
