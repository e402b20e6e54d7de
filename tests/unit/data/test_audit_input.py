"""The audit of tables it must survive or refuse, and what series.json tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError, SyntheticConfig
from timerxl.data.audit.auditor import audit_command, audit_subject, read_subject
from timerxl.data.audit.findings import Audit
from timerxl.data.audit.report import audit_page, audit_text
from timerxl.data.era5.prepare import write_description
from timerxl.data.synthetic import synthetic_table


def audit_of(path: Path, *overrides: str, recipe: str | None = "hourly_cpu") -> Audit:
    return audit_subject(read_subject(path, recipe, list(overrides))[0])


def names_of(audit: Audit, severity: str) -> list[str]:
    return [finding.name for finding in audit.of(severity)]


def write_table(path: Path, rows: int = 400, **columns: Any) -> Path:
    """One or more regions of hourly noise in mm; columns replace or add to it."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "timestamp": pd.date_range("2020-01-01", periods=rows, freq="h"),
            "region": "A",
            "a": rng.normal(size=rows),
            "precipitation": np.where(rng.random(rows) < 0.04, 0.5, 0.0),
        }
        | columns
    )
    table.to_csv(path, index=False)
    return path


SMALL = ["model.context_length=24", "data.window_stride_hours=null"]


@pytest.mark.parametrize(
    ("overrides", "columns", "words"),
    [
        (["model.context_length=480"], {}, "needs 480 rows in a row"),
        ([], {"precipitation": 0.0}, "labels are 0: nothing to learn"),
        (["data.label_horizon_hours=1.5"], {}, "expected a multiple of the series' step"),
    ],
)
def test_what_stops_the_windows_is_a_fault_beside_the_rest(
    tmp_path: Path, overrides: list[str], columns: dict[str, Any], words: str
) -> None:
    audit = audit_of(write_table(tmp_path / "t.csv", **columns), *SMALL, *overrides)
    (fault,) = audit.of("fault")
    assert fault.name == "windows_refused"
    assert words in fault.summary
    assert audit.facts["series"]["rows"] == 400
    assert words in " ".join(audit_text(audit).split())
    assert "<html" in audit_page(audit)
    json.dumps(audit.to_dict(), allow_nan=False)


def test_a_feature_that_is_the_label_is_a_fault(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", 2000)
    rain = pd.read_csv(path)["precipitation"]
    ahead = rain.rolling(24).sum().shift(-24).fillna(0)
    audit = audit_of(write_table(tmp_path / "u.csv", 2000, hint=ahead), *SMALL)
    assert audit.of("fault")[0].name == "windows_refused"
    assert "feature hint alone tells the label" in audit.of("fault")[0].summary


def test_a_label_without_precipitation_says_what_it_skips(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "t.csv"
    table = pd.read_csv(write_table(path)).drop(columns="precipitation")
    table.assign(rain_24h=(rng.random(400) < 0.4).astype(int)).to_csv(path, index=False)
    subject, notes = read_subject(path, "hourly_cpu", SMALL)
    assert subject.data.label_column == "rain_24h"
    assert "rain_24h is taken as data.label_column" in notes[0]
    audit = audit_subject(subject)
    skipped = {row["check"] for row in audit.skipped}
    assert {"threshold sensitivity", "sparse accumulation", "identical regions"} <= skipped
    assert "Not checked: threshold sensitivity" in audit_text(audit)


def test_what_comes_from_the_data_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert('x')</script>"
    path = write_table(tmp_path / "t.csv", region=name, **{"b<i>&": 1.0})
    page = audit_page(audit_of(path, *SMALL))
    assert "<script" not in page
    assert "b<i>" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "b&lt;i&gt;&amp;" in page
    assert "http" not in page  # nothing is loaded from elsewhere
    assert "prefers-color-scheme: dark" in page


def prepared(folder: Path, table: pd.DataFrame, **rain: Any) -> Path:
    """series.parquet and the series.json that belongs to it."""
    folder.mkdir()
    table.to_parquet(folder / "series.parquet")
    said = {"column": "tp", "unit": "mm", "hours_present_per_day": 24, "is_sparse": False} | rain
    write_description(folder, {"precipitation": said, "is_synthetic": True})
    return folder


def twelve_hourly() -> pd.DataFrame:
    table = synthetic_table(SyntheticConfig(start="2014-01-01", end="2015-12-31"))
    table = table.drop(columns=["true_probability", "rain_24h"])
    return table.assign(tp=np.round(table["tp"] * 1000, 6))


@pytest.mark.parametrize(
    ("rain", "faults"),
    [
        ({}, []),
        ({"is_sparse": True, "hours_present_per_day": 2}, ["precipitation_misses_hours"]),
        ({"hours_present_per_day": None}, ["precipitation_misses_hours"]),
    ],
)
def test_series_json_says_whether_rain_is_complete(
    tmp_path: Path, rain: dict[str, Any], faults: list[str]
) -> None:
    folder = prepared(tmp_path / "series", twelve_hourly(), **rain)
    subject, notes = read_subject(folder, "quickstart", [])
    assert subject.series.is_synthetic
    assert "rain is taken from column tp" in notes[0]
    assert subject.series.source["resolved"]["precipitation_unit"] == "mm"
    audit = audit_subject(subject)
    assert names_of(audit, "fault") == faults
    assert ("series.json says so" in " ".join(audit_text(audit).split())) == ("is_sparse" in rain)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"columns": {"a": [1]}}, "column a is a list of 1"),
        ({"columns": {"a": {"unit": {"value": "mm"}}}}, "column a.unit is a mapping of 1"),
        ({"columns": {"a": {"record": "mm"}}}, "column a.record is 'mm'"),
        ({"columns": {"a": {"record": {"name": "a", "unit": "mm"}}}}, "column a.unit is 'mm'"),
        (
            {"columns": {"a": {"record": {"name": "a", "time": {"value": 1, "known_by": "x"}}}}},
            "time is a mapping",
        ),
        (
            {"columns": {"a": {"record": {"name": "a", "missing": [{"value": "x"}]}}}},
            "missing",
        ),
        ({"sources": [3]}, "sources.0. is 3"),
        ({"sources": [{"variables": "tp"}]}, "variables is 'tp'; expected a list"),
    ],
)
def test_a_series_json_of_other_shapes_is_refused(
    tmp_path: Path, described: dict[str, Any], words: str
) -> None:
    folder = prepared(tmp_path / "series", twelve_hourly())
    content = json.loads((folder / "series.json").read_text()) | described
    (folder / "series.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        read_subject(folder, "quickstart", [])


def test_another_table_beside_series_json_is_its_own(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "series", twelve_hourly())
    twelve_hourly().to_csv(folder / "mine.csv", index=False)
    audit = audit_of(folder / "mine.csv", recipe="quickstart")
    assert names_of(audit, "fault") == ["precipitation_misses_hours"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "description", "words"),
    [
        ("hourly_cpu", ["data.path=x.csv"], "", "data.path already"),
        ("hourly_cpu", ["data.splitt=rows"], "", "unknown key data.splitt"),
        ("no_such", [], "", "unknown recipe"),
        ("hourly_cpu", ["data.precipitation_column=rain"], "", "has no column rain"),
        ("hourly_cpu", [], "{", "can't be read"),
        ("hourly_cpu", [], "[1]", "has not format 1"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, recipe: str, overrides: list[str], description: str, words: str
) -> None:
    path = write_table(tmp_path / "t.csv")
    if description:
        pd.read_csv(path).to_parquet(path := tmp_path / "series.parquet")
        (tmp_path / "series.json").write_text(description)
    with pytest.raises(InputError, match=words):
        audit_command(path, recipe, overrides, False, None)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv")
    with pytest.raises(InputError, match="can't be written"):
        audit_command(path, "hourly_cpu", SMALL, False, path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        audit_command(tmp_path / "no.csv", None, [], False, None)
