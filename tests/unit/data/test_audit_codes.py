"""Codes for "missing" and impossible values are faults; weather of any kind is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_series import NOISE, RAIN, names_of, run, series_of

from timerxl.config import SyntheticConfig
from timerxl.data.audit.auditor import audit_subject, read_subject
from timerxl.data.audit.column_checks import check_codes, check_columns
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.report import audit_text
from timerxl.data.era5.prepare import PrepareOptions, prepare_era5
from timerxl.data.synthetic import synthetic_table
from timerxl.data.tables.columns import ColumnRecord, Fact

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
NOT_WEATHER = {"looks_like_missing_code", "impossible_values"}
CELSIUS = 15 + 8 * NOISE


def both(subject: Subject, audit: Audit) -> None:
    check_codes(subject, audit)
    check_columns(subject, audit)


def with_code(values: np.ndarray, code: float, every: int = 60) -> np.ndarray:
    """SYNTHETIC values with a code in one of ``every`` rows."""
    found = values.copy()
    found[::every] = code
    return found


def test_a_column_of_nothing_but_the_code_is_not_merely_constant() -> None:
    columns = {
        "a": NOISE,
        "dead": np.full(6000, -9999.0),
        "flat": np.full(6000, 3.0),
        "elevation": np.full(6000, 999.0),
    }
    audit = run(both, series_of(columns, RAIN))
    assert audit.facts["columns"]["constant"] == ["flat", "elevation"]
    assert names_of(audit) == {"looks_like_missing_code": "fault", "constant_columns": "warning"}
    (found,) = audit.facts["missing_codes"]["dead"]
    assert (found["value"], found["count"], found["share"]) == (-9999.0, 6000, 1.0)


def test_the_fault_names_column_value_count_share_and_what_to_do() -> None:
    columns = {"wind": with_code(np.abs(NOISE), -9999), "t": with_code(CELSIUS, 99.9, 50)}
    audit = run(check_codes, series_of(columns, RAIN))
    (fault,) = audit.of("fault")
    assert fault.name == "looks_like_missing_code"
    assert "wind holds -9999 (100 values, 1.67%;" in fault.summary
    assert "t holds 99.9 (120 values, 2.00%;" in fault.summary
    assert "--missing -9999 99.9 with launch/prepare_data.py" in fault.remedy
    assert "data.missing_values=[-9999, 99.9]" in fault.remedy


@pytest.mark.parametrize(
    ("name", "unit", "values", "is_fault"),
    [
        ("temp (degC)", None, CELSIUS + 273.15, True),
        ("temp (degC)", None, CELSIUS, False),
        ("temp (K)", None, CELSIUS, True),
        ("t2m", "K", CELSIUS + 273.15, False),
        ("t2m", "degC", CELSIUS + 273.15, True),
        ("t2m", None, CELSIUS + 273.15, False),  # nothing tells the unit
        ("temp_anomaly (K)", None, NOISE, False),
        ("msl (hPa)", None, 101_300 + 500 * NOISE, True),
        ("msl", "Pa", 101_300 + 500 * NOISE, False),
        ("humidity (%)", None, 0.5 + 0.05 * NOISE, False),  # a share would do, too
        ("humidity (%)", None, 1000 + NOISE, True),
        ("wind_dir_cos", None, np.cos(NOISE), False),
    ],
)
def test_values_that_the_unit_makes_impossible(
    name: str, unit: str | None, values: np.ndarray, is_fault: bool
) -> None:
    record = ColumnRecord(name, unit=Fact(unit, "file") if unit else None).to_dict()
    audit = run(check_codes, series_of({name: values}, RAIN, source={"records": {name: record}}))
    assert names_of(audit) == ({"impossible_values": "fault"} if is_fault else {})
    if is_fault:
        found = audit.facts["impossible"][name]
        assert found["share"] == 1.0
        assert found["min"] == pytest.approx(values.min())


def test_a_unit_that_the_series_was_converted_to_counts() -> None:
    record = ColumnRecord("temp", unit=Fact("degF", "said"), written_as="K").to_dict()
    values = {"temp": CELSIUS + 273.15}
    assert not run(
        check_codes, series_of(values, RAIN, source={"records": {"temp": record}})
    ).findings


def test_a_code_in_a_column_of_another_unit_is_told_apart() -> None:
    audit = run(check_codes, series_of({"temp (degC)": with_code(CELSIUS + 273.15, -9999)}, RAIN))
    assert names_of(audit) == {"looks_like_missing_code": "fault", "impossible_values": "fault"}
    assert [c["value"] for c in audit.facts["missing_codes"]["temp (degC)"]] == [-9999]
    assert audit.facts["impossible"]["temp (degC)"]["share"] == pytest.approx(59 / 60, abs=1e-3)
    assert audit.facts["impossible"]["temp (degC)"]["min"] > 200


def test_a_number_that_was_said_to_be_measured_is_a_warning() -> None:
    series = series_of({"a": with_code(NOISE, -9999)}, RAIN)
    audit = run(check_codes, series, data={"missing_values": []})
    assert names_of(audit) == {"looks_like_missing_code": "warning"}


def test_a_value_carried_into_holes_was_measured_once() -> None:
    """Three extremes, each carried on over 12 rows: 36 are no code, 36 measured ones are."""
    extremes = 100 + np.abs(NOISE) * 50
    for start in (500, 2000, 4000):
        extremes[start : start + 12] = 500.0
    source = {"filled_values": {"SO2": 33}}
    assert not run(check_codes, series_of({"SO2": extremes}, RAIN, source=source)).findings
    measured = series_of({"SO2": extremes}, RAIN, source={"filled_values": {"SO2": 0}})
    assert names_of(run(check_codes, measured)) == {"looks_like_missing_code": "fault"}


def test_a_table_is_audited_where_training_would_refuse_its_code(tmp_path: Path) -> None:
    stamps = pd.date_range("2020-01-01", periods=6000, freq="h")
    rain = np.where(np.random.default_rng(0).random(6000) < 0.04, 0.5, 0.0)
    table = {"timestamp": stamps, "region": "A", "wind": with_code(NOISE, -9999)}
    pd.DataFrame(table | {"precipitation": rain}).to_csv(tmp_path / "t.csv", index=False)
    subject, _ = read_subject(tmp_path / "t.csv", "hourly_cpu", [])
    audit = audit_subject(subject)
    assert [finding.name for finding in audit.of("fault")] == ["looks_like_missing_code"]
    assert "wind holds -9999 (100 values, 1.67%" in " ".join(audit_text(audit).split())
    masked, _ = read_subject(tmp_path / "t.csv", "hourly_cpu", ["data.missing_values=[-9999]"])
    audit = audit_subject(masked)
    assert not audit.of("fault")
    (row,) = [row for row in audit.facts["columns_known"] if row["column"] == "wind"]
    assert (row["missing"][0]["value"], row["missing"][0]["count"]) == (-9999, 100)
    assert "-9999 (100)" in audit_text(audit)


@pytest.mark.parametrize("step", [1, 12])
def test_the_synthetic_series_holds_weather_alone(tmp_path: Path, step: int) -> None:
    config = SyntheticConfig(step_hours=step, start="2014-01-01", end="2015-12-31")
    path = tmp_path / "t.parquet"
    synthetic_table(config).drop(columns=["true_probability", "rain_24h"]).to_parquet(path)
    audit = audit_subject(read_subject(path, "hourly_cpu", [])[0])
    assert len(audit.facts["series"]["feature_names"]) > 20
    assert not NOT_WEATHER & {finding.name for finding in audit.findings}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
def test_measured_weather_of_beijing_is_weather() -> None:
    path = SHARED / "beijing_hourly_2013_2017.parquet"
    audit = audit_subject(read_subject(path, "hourly_cpu", [])[0])
    assert audit.of("fault") == []
    assert not NOT_WEATHER & {finding.name for finding in audit.findings}


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
@pytest.mark.parametrize("folder", ["telangana_hourly", "bengaluru_6h"])
def test_a_prepared_era5_series_is_weather(tmp_path: Path, folder: str) -> None:
    box = "{north: 16.9, south: 15.4, west: 78.1, east: 79.6}"
    if folder == "bengaluru_6h":
        box = "{north: 13.25, south: 12.75, west: 77.25, east: 77.75}"
    (tmp_path / "r.yaml").write_text(f"regions:\n  a: {box}\n")
    files = sorted((SHARED / "era5_cds_layout" / folder).glob("data_stream*.nc"))
    options: dict[str, Any] = {"allow_sparse_accumulation": True}
    prepare_era5(files, PrepareOptions(tmp_path / "out", tmp_path / "r.yaml", **options))
    subject, _ = read_subject(tmp_path / "out", "hourly_cpu", ["model.context_length=24"])
    audit = audit_subject(subject)
    assert {"t2m", "tp"} & set(subject.series.feature_names)
    assert not NOT_WEATHER & {finding.name for finding in audit.findings}
