"""What is known of the columns stands in text, JSON and page; what was assumed is a warning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_series import NOISE, RAIN, names_of, run, series_of

from timerxl.config import DataConfig
from timerxl.data.audit.auditor import audit_command, audit_subject, cut_windows, read_subject
from timerxl.data.audit.column_checks import check_known, check_left_out
from timerxl.data.audit.findings import Audit, Subject
from timerxl.data.audit.report import audit_page, audit_text, tables
from timerxl.data.era5.prepare import PrepareOptions, TableOptions, prepare_tables
from timerxl.data.tables.columns import ColumnRecord, Fact, known_rows, time_meaning

INSTANT = Fact(time_meaning("instant", None), "file")


def rain_record(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "quantity": Fact("precipitation", "file", "its name"),
        "unit": Fact("inch", "said", "--precipitation-unit"),
        "written_as": "mm",
        "time": Fact(time_meaning("sum", 24, "start"), "inferred", "one stamp a day"),
    }
    record = ColumnRecord("PRCP", **(facts | changes))
    record.masked({99.99: 17}, "said", "--missing")
    return record.to_dict()


def known_table(records: dict[str, Any], step_hours: int = 1) -> list[list[str]]:
    series = series_of(
        dict.fromkeys(records, NOISE), RAIN, step_hours=step_hours, source={"records": records}
    )
    facts = run(check_known, series, data={"precipitation_column": "tp"}).facts
    wanted = {"regions": [], "missing": [], "features": [], **facts}
    (table,) = [rows for title, _, rows in tables_of(wanted) if title.startswith("What is known")]
    return table


def tables_of(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    return tables(Audit(facts=facts))


def test_each_column_has_its_row() -> None:
    t2m = ColumnRecord("2m_temperature", Fact("temperature", "file"), Fact("K", "file"))
    t2m.time = INSTANT
    index = ColumnRecord("index").to_dict()
    assert known_table({"tp": rain_record(), "t2m": t2m.to_dict(), "index": index}) == [
        [
            "tp",
            "precipitation",
            "mm (in the file: inch)",
            "sum over 24 h from it on",
            "quantity: file; unit: said; stamp: inferred",
            "99.99 (17)",
        ],
        ["t2m", "temperature", "K", "instant", "file", "-"],
        ["index", "-", "-", "-", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (time_meaning("instant", None, "start"), "instant"),
        (time_meaning("mean", 24, "middle"), "mean over 24 h around it"),
        (time_meaning("max", None), "max"),
        (
            time_meaning("sum", None) | {"running": {"period": 24, "reset": 0}},
            "running total, again from 0 every 24 h",
        ),
    ],
)
def test_what_a_stamp_means_in_words(value: dict[str, Any], words: str) -> None:
    record = ColumnRecord("a", time=Fact(value, "file")).to_dict()
    assert known_table({"a": record})[0][3] == words


def test_thousands_of_columns_are_summarised() -> None:
    """Cells of a grid: 3,000 of which the same is known, 30 with a unit of their own each."""
    records = {}
    for index in range(3000):
        record = ColumnRecord(f"t_{index}", Fact("temperature", "file"), Fact("K", "file"))
        record.masked({-9999.0: 2}, "said")
        records[f"t_{index}"] = record.to_dict()
    odd = {f"x{i}": ColumnRecord(f"x{i}", unit=Fact(f"{i} m", "said")).to_dict() for i in range(30)}
    known = [{"column": name, **record} for name, record in (records | odd).items()]
    rows, rest = known_rows(known, 12)
    assert len(rows) == 12
    assert rows[0].names == "t_0, t_1, t_2 and 2,997 more"
    assert rows[0].codes == "-9999 (6,000)"
    assert rest == 30 - 11
    table = known_table(records | odd)
    assert len(table) == 24 + 1
    assert table[-1][0] == "7 more columns"
    series = series_of(dict.fromkeys(records, NOISE[:50]), RAIN[:50], source={"records": records})
    content = run(check_known, series).to_dict()
    assert len(content["facts"]["columns_known"]) == 3000
    assert content["facts"]["columns_known"][2999]["unit"]["value"] == "K"


def test_what_was_assumed_is_one_warning_of_a_kind() -> None:
    records = {
        "tp": rain_record(
            unit=Fact("mm", "assumed", "nothing tells its unit; 41 at most"),
            time=Fact(time_meaning("sum", 24), "assumed"),
        ),
        "tmax": ColumnRecord("tmax", time=Fact(time_meaning("max", 24), "assumed")).to_dict(),
        "t": ColumnRecord("t", time=Fact(time_meaning("instant", None), "assumed")).to_dict(),
        "p": ColumnRecord("p", unit=Fact("hPa", "file"), time=INSTANT).to_dict(),
    }
    series = series_of(
        dict.fromkeys(records, NOISE), RAIN, step_hours=24, source={"records": records}
    )
    unit, stamp = run(check_known, series).findings
    assert (unit.severity, unit.name) == ("warning", "unit_assumed")
    assert unit.summary == ("a unit is assumed: tp in mm (nothing tells its unit; 41 at most).")
    assert (stamp.severity, stamp.name) == ("warning", "stamp_assumed")
    assert "sum over 24 h for tp; max over 24 h for tmax; instant for t." in stamp.summary
    # Of an hourly series what holds at an instant can't be far off.
    hourly = series_of({"t": NOISE}, RAIN, source={"records": {"t": records["t"]}})
    assert run(check_known, hourly).findings == []
    told = series_of({"tp": RAIN}, RAIN, source={"records": {"tp": rain_record()}})
    assert run(check_known, told).findings == []


def test_without_records_there_is_no_table_and_no_finding() -> None:
    audit = run(check_known, series_of({"a": NOISE}, RAIN))
    assert audit.facts["columns_known"] == []
    assert audit.findings == []


def test_the_rain_is_known_where_it_is_no_feature() -> None:
    described = {"columns": {"tp": {"unit": "mm", "record": rain_record()}, "a": {"unit": None}}}
    data = {"precipitation_column": "tp"}
    audit = run(check_known, series_of({"a": NOISE}, RAIN), description=described, data=data)
    assert [row["column"] for row in audit.facts["columns_known"]] == ["tp"]


def write_daily(path: Path, rain: str, **columns: Any) -> None:
    """A SYNTHETIC daily table of two years."""
    rng = np.random.default_rng(3)
    table = {
        "timestamp": pd.date_range("2019-01-01", periods=730),
        "region": "Lima",
        "a": rng.normal(size=730),
        rain: np.where(rng.random(730) < 0.3, np.round(rng.exponential(6, 730), 1), 0.0),
    }
    pd.DataFrame(table | columns).to_csv(path, index=False)


SMALL = ["model.context_length=24", "data.window_stride_hours=null"]


@pytest.mark.parametrize(("rain", "is_fault"), [("precipitation", False), ("tp", True)])
def test_our_own_renaming_is_no_evidence(tmp_path: Path, rain: str, is_fault: bool) -> None:
    """A daily table whose rain launch/prepare_data.py calls tp, and one that called it so."""
    write_daily(tmp_path / "daily.csv", rain)
    options = PrepareOptions(tmp_path / "out")
    prepare_tables([tmp_path / "daily.csv"], options, TableOptions(), lambda label: None)
    subject, _ = read_subject(tmp_path / "out", "hourly_cpu", SMALL)
    assert subject.data.precipitation_column == "tp"
    faults = {finding.name for finding in audit_subject(subject).of("fault")}
    assert ("precipitation_misses_hours" in faults) == is_fault


def test_what_is_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    write_daily(path, "precipitation", label_tomorrow="Rain", station="<b>x</b>", note="dry")
    subject, _ = read_subject(path, "hourly_cpu", SMALL)
    audit = audit_subject(subject)
    (note,) = [finding for finding in audit.findings if finding.name == "columns_left_out"]
    assert note.severity == "note"
    assert "no features: 3, label_tomorrow (its name says label" in note.summary
    assert "station, note (not numeric (" in note.summary
    assert set(audit.facts["left_out"]) == {"label_tomorrow", "station", "note"}
    assert audit_command(path, "hourly_cpu", SMALL, True, tmp_path / "out") == 0
    content = json.loads(capsys.readouterr().out)
    assert "columns_left_out" in [finding["name"] for finding in content["findings"]]
    for name in ("audit.txt", "audit.html"):
        assert "label_tomorrow" in (tmp_path / "out" / name).read_text()


def test_beyond_a_dozen_the_dropped_are_counted() -> None:
    skipped = {f"s{index}": "not numeric (object)" for index in range(40)}
    audit = run(check_left_out, series_of({"a": NOISE}, RAIN, source={"skipped_columns": skipped}))
    assert names_of(audit) == {"columns_left_out": "note"}
    summary = audit.findings[0].summary
    assert "s11 (not numeric (object)) and 28 more." in summary
    assert "s12" not in summary
    assert len(audit.facts["left_out"]) == 40
    assert not run(check_left_out, series_of({"a": NOISE}, RAIN)).findings


def test_a_leak_is_named_beside_what_is_dropped(tmp_path: Path) -> None:
    """RISK_MM of the daily Australian table is tomorrow's rain; RainTomorrow is a word."""
    write_daily(tmp_path / "t.csv", "Rainfall")
    rain = pd.read_csv(tmp_path / "t.csv")["Rainfall"]
    ahead = rain.shift(-1).fillna(0)
    write_daily(tmp_path / "t.csv", "Rainfall", RISK_MM=ahead, RainTomorrow=ahead.map(str) + " mm")
    overrides = [*SMALL, "data.precipitation_column=Rainfall"]
    audit = audit_subject(read_subject(tmp_path / "t.csv", "hourly_cpu", overrides)[0])
    named = " ".join(finding.summary for finding in audit.of("fault"))
    assert "RISK_MM" in named
    assert "RainTomorrow" in " ".join(finding.summary for finding in audit.of("note"))


def test_names_of_the_table_are_escaped_and_cut_off() -> None:
    name = "<script>" + "x" * 200
    records = {name: ColumnRecord(name, Fact("<i>", "file"), Fact("|", "said")).to_dict()}
    series = series_of({name: NOISE}, RAIN, source={"records": records})
    subject = Subject(series, DataConfig(path="t.csv"), 24, "a test")
    cut_windows(subject)
    audit = audit_subject(subject)
    assert "<script>" not in audit_page(audit)
    table = audit_text(audit).split("What is known")[1].split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 100
    assert "<script>" in table
