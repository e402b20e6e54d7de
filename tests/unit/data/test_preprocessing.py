"""What a model's folder says about its input: all of it JSON, the label in words, dates in ISO."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows

SYNTHETIC = SyntheticConfig(start="2023-01-01", end="2023-12-31")


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Two regions, hourly, with a hole, a skipped column, numpy types and a ready label."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "timestamp": np.tile(pd.date_range("2020-01-01", periods=400, freq="h"), 2),
            "region": np.repeat(["north", "south"], 400),
            "warmth": rng.normal(size=800).astype(np.float32),
            "rain": np.where(rng.random(800) < 0.02, 0.6, 0.0),
            "answer": rng.integers(0, 2, 800),
            "wind": "N",
        }
    )
    frame.loc[5, "warmth"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    return str(tmp_path / "t.parquet")


def saved(config: DataConfig) -> dict[str, Any]:
    found = build_windows(load_series(config), config, 14).preprocessing()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found  # nothing is changed by the way: no tuple, no number as key
    return found


@pytest.mark.parametrize("split", ["time", "rows"])
@pytest.mark.parametrize("changes", [{}, {"label_horizon_hours": 48.0}, {"features": ["t2m"]}])
def test_a_synthetic_series(split: str, changes: dict[str, Any]) -> None:
    config = DataConfig(synthetic=SYNTHETIC, split=split, static_features=True, **changes)
    found = saved(config)
    assert found["is_synthetic"] is True
    assert found["source"]["synthetic"] is True
    assert found["label"]["column"] == "tp"
    assert found["label"]["horizon_hours"] == changes.get("label_horizon_hours", 24.0)
    assert found["label"]["threshold_mm"] == 0.1
    stamps = [found["split"][key] for key in ("validation_from", "test_from")]
    for stamp in [*stamps, found["source"]["first"], found["source"]["last"]]:
        assert datetime.datetime.fromisoformat(stamp).isoformat() == stamp
    if split == "rows":
        assert found["split"]["test_from_region"] == "selva"


@pytest.mark.parametrize("split", ["time", "rows"])
@pytest.mark.parametrize("label_column", [None, "answer"])
def test_a_table(table: str, split: str, label_column: str | None) -> None:
    config = DataConfig(
        path=table,
        precipitation_column="rain",
        label_column=label_column,
        features=None if label_column else ["warmth", "rain"],
        window_stride_hours=3,
        split=split,
    )
    found = saved(config)
    assert found["is_synthetic"] is False
    assert found["label"]["column"] == (label_column or "rain")
    assert found["label"]["threshold_mm"] == (None if label_column else 0.1)
    assert found["source"]["filled_values"]["warmth"] == 1
    assert "wind" in found["source"]["skipped_columns"]
    for key in ("validation_from", "test_from"):
        assert datetime.datetime.fromisoformat(found["split"][key]).year == 2020


def test_the_label_in_one_sentence(table: str) -> None:
    def text(**changes: Any) -> str:
        return str(saved(DataConfig(**changes))["label"]["text"])

    assert text(synthetic=SYNTHETIC, label_horizon_hours=48.0) == (
        "1 if tp adds up to 0.1 mm or more in the 48 hours after the time of issue t, that is in "
        "(t, t + 48 h], else 0."
    )
    assert "in the 24 hours after" in text(synthetic=SYNTHETIC, split="rows")
    assert text(path=table, precipitation_column="rain", split="rows") == (
        "1 if rain adds up to 0.1 mm or more over the next 24 rows of the stacked table, whatever "
        "their region and time, else 0."
    )
    assert text(path=table, precipitation_column="rain", label_column="answer") == (
        "The table's own column answer: 1 is rain in the 24 hours after the time of issue, 0 is "
        "none."
    )
