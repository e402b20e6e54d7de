"""Each check of the audit against references, and on what must not trigger it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_series import NOISE, RAIN, names_of, run, series_of

from timerxl.data.audit.column_checks import check_columns, check_missing, check_series
from timerxl.data.audit.findings import Audit
from timerxl.data.audit.label_checks import (
    check_accumulation,
    check_ready_labels,
    check_thresholds,
    looks_like_era5,
    season_index,
)
from timerxl.data.audit.window_checks import check_context, check_sample_size, check_split_by_rows
from timerxl.data.tables.columns import RAIN as RAIN_KEY
from timerxl.data.tables.columns import ColumnRecord, Fact, time_meaning

# Rows and columns


def test_gaps_are_counted_as_steps() -> None:
    keep = np.ones(6000, dtype=bool)
    keep[100:110] = keep[3000:3001] = False
    audit = run(check_series, series_of({"a": NOISE}, RAIN, regions=2, keep=keep))
    first, second = audit.facts["regions"]
    assert (first["gaps"], first["missing_steps"], first["longest_gap_steps"]) == (1, 10, 10)
    assert first["longest_gap_after"] == "2020-01-05T03:00:00"  # hour 99
    assert (second["gaps"], second["missing_steps"]) == (0, 0)  # its first row is only later
    assert names_of(audit) == {"gaps_in_time": "note"}
    assert "10 steps in R0" in audit.findings[0].summary


def test_many_gaps_warn_and_none_are_silent() -> None:
    keep = np.random.default_rng(0).random(6000) > 0.05
    assert names_of(run(check_series, series_of({"a": NOISE}, RAIN, keep=keep))) == {
        "gaps_in_time": "warning"
    }
    assert run(check_series, series_of({"a": NOISE}, RAIN)).findings == []


def test_missing_values_as_they_were_before_filling() -> None:
    holes = NOISE.copy()
    holes[::50] = np.nan
    source = {"filled_values": {"a": 240, "b": 0}}
    audit = run(check_missing, series_of({"a": holes, "b": NOISE}, RAIN, source=source))
    assert audit.facts["missing"][0] == {"column": "a", "missing": 360, "share": 0.06, "left": 120}
    (warning, lost) = audit.findings
    assert (warning.name, warning.evidence["columns"]) == ("missing_values", {"a": 0.06})
    # 24 rows of every 50 stand within 24 rows after a hole; the first rows have no context.
    assert lost.evidence["share_lost"] == pytest.approx(24 / 50, abs=0.01)
    assert lost.severity == "warning"
    assert run(check_missing, series_of({"a": NOISE}, RAIN)).findings == []


def test_constant_and_duplicated_columns() -> None:
    holes = NOISE.copy()
    holes[7] = np.nan
    columns = {
        "a": holes,
        "copy": holes,
        "nearly": np.where(np.arange(6000) == 9, 0, holes),
        "flat": np.where(np.isnan(holes), np.nan, 3.0),
        "also_flat": np.full(6000, 3.0),
        "zero": np.where(NOISE > 0, 0.0, -0.0),
    }
    audit = run(check_columns, series_of(columns, RAIN))
    assert audit.facts["columns"] == {
        "constant": ["flat", "also_flat", "zero"],
        "duplicated": [["a", "copy"]],
    }
    assert names_of(audit) == {"constant_columns": "warning", "duplicated_columns": "warning"}
    assert run(check_columns, series_of({"a": holes, "b": RAIN}, RAIN)).findings == []


# Labels


def test_seasons_by_month() -> None:
    times = np.arange("2019-12", "2020-12", dtype="datetime64[M]").astype("datetime64[s]")
    assert season_index(times).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_thresholds_against_pandas() -> None:
    audit = run(check_thresholds, series_of({"a": NOISE}, RAIN), data={"rain_threshold_mm": 0.1})
    tenths = pd.Series(np.rint(RAIN * 10)).rolling(24).sum().shift(-24).dropna()
    found = {row["threshold_mm"]: row["rain_share"] for row in audit.facts["thresholds"]["rows"]}
    assert found == {
        0.1: (tenths >= 1).mean(),
        1.0: (tenths >= 10).mean(),
        10.0: (tenths >= 100).mean(),
    }
    edge = audit.facts["thresholds"]["share_exactly_at_threshold"]
    assert edge == pytest.approx((tenths == 1).mean())


# Effective samples


def test_copied_regions_and_strides_do_not_add_samples() -> None:
    def size(regions: int, **data: Any) -> dict[str, Any]:
        columns = {"a": np.tile(NOISE, regions)}
        series = series_of(columns, np.tile(RAIN, regions), regions)
        audit = run(check_sample_size, series, data=data)
        found: dict[str, Any] = audit.facts["effective_samples"]["splits"]["train"]
        return found

    one, three, strided = size(1), size(3), size(1, window_stride_hours=6.0)
    assert three["n"] == 3 * one["n"]
    assert three["regions_eff"] == pytest.approx(1, abs=1e-9)
    assert three["n_eff"] == pytest.approx(one["n_eff"])
    assert strided["n"] == pytest.approx(one["n"] / 6, rel=0.02)
    assert strided["regions"][0]["r1"] < one["regions"][0]["r1"]
    assert strided["n_eff"] > one["n_eff"] / 2


# Context


@pytest.mark.parametrize(
    ("step", "context", "severity"),
    [(1, 1440, None), (12, 1440, "fault"), (12, 56, "note"), (3, 96, "note")],
)
def test_context_in_days(step: int, context: int, severity: str | None) -> None:
    audit = run(check_context, series_of({"a": NOISE}, RAIN, step_hours=step), context)
    assert audit.facts["context"]["days"] == context * step / 24
    assert names_of(audit) == ({"context_is_not_in_hours": severity} if severity else {})


# The cut by rows


def test_rows_of_one_region_are_cut_in_time_but_without_embargo() -> None:
    rows = {"data": {"split": "rows"}}
    audit = run(check_split_by_rows, series_of({"a": NOISE}, RAIN), **rows)
    assert names_of(audit) == {"split_by_rows_without_embargo": "warning"}
    assert "4,200 / 900 / 900 rows of one region, and 46 " in audit.findings[0].summary
    two = run(check_split_by_rows, series_of({"a": NOISE}, RAIN, regions=2), **rows)
    assert names_of(two) == {"split_by_rows_is_by_region": "fault"}
    assert run(check_split_by_rows, series_of({"a": NOISE}, RAIN)).findings == []


# Precipitation


@pytest.mark.parametrize(
    ("column", "features", "is_era5"),
    [
        ("tp", ["a"], True),
        ("total_precipitation", ["a"], True),
        ("precipitation", ["t2m", "msl"], True),
        ("precipitation", ["t2m"], False),
        ("precipitation", ["TEMP", "PRES"], False),
    ],
)
def test_names_that_look_like_era5(column: str, features: list[str], is_era5: bool) -> None:
    assert bool(looks_like_era5(column, features)) == is_era5


@pytest.mark.parametrize(
    ("step", "column", "is_fault"),
    [(12, "tp", True), (6, "tp", True), (1, "tp", False), (12, "precipitation", False)],
)
def test_sparse_accumulation_by_its_looks(step: int, column: str, is_fault: bool) -> None:
    series = series_of({"a": NOISE}, RAIN, step_hours=step)
    audit = run(check_accumulation, series, data={"precipitation_column": column})
    assert names_of(audit) == ({"precipitation_misses_hours": "fault"} if is_fault else {})
    if is_fault:
        assert f"{24 // step} of 24 hours" in audit.findings[0].summary


def told(hours: float | None, known_by: str, name: str = "rain", kind: str = "sum") -> Any:
    """The record of a table's rain, brought in as tp."""
    time = Fact(time_meaning(kind, hours), known_by)  # type: ignore[arg-type]
    return ColumnRecord(name, Fact(RAIN_KEY, "said"), Fact("mm", "file"), "mm", time).to_dict()


@pytest.mark.parametrize(
    ("record", "present"),
    [
        (told(12, "file"), None),
        (told(12, "said"), None),
        (told(12, "assumed"), None),
        (told(12, "assumed", "tp"), 2.0),  # ERA5's own name in the file, and nobody said
        (told(12, "said", "tp"), None),
        (told(12, "assumed", "Total_Precipitation"), 2.0),
        (told(1, "file"), 2.0),
        (told(3, "said"), 6.0),
        (told(12, "file", kind="mean"), None),
    ],
)
def test_the_file_of_a_prepared_table_decides(record: Any, present: float | None) -> None:
    series = series_of({"tp": RAIN}, RAIN, step_hours=12, source={"records": {"tp": record}})
    rain = {"column": "tp", "unit": "mm", "hours_present_per_day": None, "is_sparse": False}
    audit = run(
        check_accumulation,
        series,
        data={"precipitation_column": "tp"},
        description={"precipitation": rain},
    )
    assert names_of(audit) == ({"precipitation_misses_hours": "fault"} if present else {})
    if present:
        assert audit.findings[0].evidence["hours_present_per_day"] == present


def test_an_instant_of_rain_misses_nearly_all_of_it() -> None:
    records = {"tp": told(None, "file", kind="instant")}
    series = series_of({"tp": RAIN}, RAIN, step_hours=12, source={"records": records})
    audit = run(check_accumulation, series, data={"precipitation_column": "tp"})
    assert names_of(audit) == {"precipitation_misses_hours": "fault"}
    assert "holds at its stamps alone" in audit.findings[0].summary
    assert "ERA5" not in audit.findings[0].explanation


@pytest.mark.parametrize(
    ("variables", "is_fault"), [(["date", "rain", "a"], False), (["date", "tp", "a"], True)]
)
def test_an_older_series_json_tells_the_name_by_its_sources(
    variables: list[str], is_fault: bool
) -> None:
    rain = {"column": "tp", "unit": "mm", "hours_present_per_day": None, "is_sparse": False}
    described = {"precipitation": rain, "sources": [{"variables": variables}]}
    series = series_of({"tp": RAIN, "a": NOISE}, RAIN, step_hours=24)
    data = {"precipitation_column": "tp"}
    audit = run(check_accumulation, series, data=data, description=described)
    assert bool(audit.findings) == is_fault


def label_audit(column: np.ndarray, **data: Any) -> Audit:
    series = series_of({"a": NOISE}, RAIN)
    return run(check_ready_labels, series, label_columns={"rain_24h": column}, data=data)


def test_a_ready_label_against_the_sums() -> None:
    ahead = (pd.Series(np.rint(RAIN * 10)).rolling(24).sum().shift(-24) >= 1).astype(float)
    ahead = ahead.to_numpy()
    good = label_audit(ahead)
    assert names_of(good) == {"ready_label_agrees": "note"}
    (row,) = good.facts["ready_labels"]
    assert (row["agreement_ahead"], row["rows_ahead"]) == (1.0, 6000 - 24)
    # Two of 24 hours in the sums: the label made from all hours disagrees.
    sparse = np.where(np.arange(6000) % 12 == 6, RAIN, 0.0)
    series = series_of({"a": NOISE}, sparse)
    audit = run(check_ready_labels, series, label_columns={"rain_24h": ahead})
    assert names_of(audit) == {"ready_label_disagrees": "warning"}
    seen = (pd.Series(np.rint(sparse * 10)).rolling(24).sum().shift(-24) >= 1).to_numpy()
    assert audit.facts["ready_labels"][0]["agreement_ahead"] == pytest.approx(
        (ahead == seen)[:-24].mean()
    )


def test_a_label_of_the_past_is_found() -> None:
    behind = (pd.Series(np.rint(RAIN * 10)).rolling(24).sum() >= 1).astype(float).to_numpy()
    assert names_of(label_audit(behind)) == {"ready_label_looks_back": "warning"}
    assert names_of(label_audit(behind, label_column="rain_24h")) == {
        "ready_label_looks_back": "fault"
    }


def test_the_horizon_is_read_off_the_labels_name() -> None:
    series = series_of({"a": NOISE}, RAIN)
    ahead = (pd.Series(np.rint(RAIN * 10)).rolling(6).sum().shift(-6) >= 1).astype(float)
    audit = run(check_ready_labels, series, label_columns={"rain_6h": ahead.to_numpy()})
    assert names_of(audit) == {"ready_label_agrees": "note"}
    assert audit.facts["ready_labels"][0]["horizon_hours"] == 6
