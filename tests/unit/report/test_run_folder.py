"""A run folder is read as it is: nothing insisted on, nothing made up, what is damaged is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timerxl import untrusted
from timerxl.config import InputError
from timerxl.report import run_record as run_folder
from timerxl.report.page import _facts, write_report
from timerxl.report.run_record import FILES, Run, number, outcome_of, read_run, verdicts_of

WriteRun = Callable[..., Path]


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(healthy, tmp_path / "copy")


def write_events(folder: Path, *events: object) -> None:
    folder.mkdir(exist_ok=True)
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def test_a_whole_folder(healthy: Path) -> None:
    run = read_run(healthy)
    assert run.problems == []
    assert (run.recipe, run.name, run.axis, run.steps_per_epoch) == (
        *("quickstart", "healthy", "epoch"),
        120,
    )
    x, y = run.points("validation", "f1")
    assert x == [1, 2, 3, 4, 5, 6]
    assert y == [event["f1"] for event in run.events["validation"]]
    sample = run.sample()
    assert sample is not None
    assert sample.label.size == 990
    assert set(sample.region) == {"costa", "sierra", "selva"}
    assert sample.issue_time[0] == np.datetime64("2023-01-01")
    assert run.thresholds["model"] == 0.58
    assert run.score("climatology", "roc_auc") == run.results["baselines"]["climatology"]["roc_auc"]  # type: ignore[index]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_none_and_no_problem(copy: Path, name: str) -> None:
    (copy / name).unlink()
    run = read_run(copy)
    assert run.problems == []
    found = run.events if name == "metrics.jsonl" else getattr(run, name.partition(".")[0])
    assert not found


@pytest.mark.parametrize("name", [name for name in FILES if name != "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"\xff\xfe{", b"[1, 2]", b"", b"{" * 100_000])
def test_a_damaged_file_is_named(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    run = read_run(copy)
    assert getattr(run, name.partition(".")[0]) is None
    assert [problem.partition(" ")[0] for problem in run.problems] == [name]


def test_a_damaged_line_is_left_out_and_named(tmp_path: Path) -> None:
    good = {"event": "train", "step": 1, "loss": 0.7}
    later = {"event": "train", "step": 2, "loss": None}
    bad = ["{half a li", "[]", '"text"', '{"event": 3}', '{"event": "train", "loss": 1}']
    write_events(tmp_path / "run", good, *bad, "", later)
    run = read_run(tmp_path / "run")
    assert run.events == {"train": [good, later]}
    assert [p.split(" ")[1] for p in run.problems] == ["2", "3", "4", "5", "6"]
    assert run.points("train", "loss") == ([1], [0.7])  # null is no number
    assert run.axis == "step"


def test_what_a_resumed_run_did_again_counts_once(tmp_path: Path) -> None:
    steps = [1, 2, 3, 4, 3, 4, 5]
    events = [
        {"event": "train", "step": s, "epoch": s / 10, "loss": i} for i, s in enumerate(steps)
    ]
    write_events(tmp_path / "run", *events)
    assert read_run(tmp_path / "run").points("train", "loss") == (
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0, 1, 4, 5, 6],
    )


def test_epochs_come_from_any_event_that_has_one(tmp_path: Path) -> None:
    train = {"event": "train", "step": 30, "loss": 0.6}
    write_events(tmp_path / "run", train, {"event": "validation", "step": 60, "epoch": 0.5})
    run = read_run(tmp_path / "run")
    assert run.steps_per_epoch == 120
    assert run.points("train", "loss") == ([0.25], [0.6])


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("model", 1.5, "model holds values"),
        ("model", np.nan, "model holds values"),
        ("label", 2, "label holds"),
        ("issue_time", pd.NaT, "issue_time has empty"),
        ("split", None, "no column split"),
    ],
)
def test_forecasts_are_checked(copy: Path, column: str, values: object, reason: str) -> None:
    table = pd.read_parquet(copy / "forecasts.parquet")
    table = table.drop(columns=column) if values is None else table.assign(**{column: values})
    table.to_parquet(copy / "forecasts.parquet")
    run = read_run(copy)
    assert run.forecasts is None
    assert reason in run.problems[0]


@pytest.mark.parametrize(
    ("results", "path", "known"),
    [
        ({"is_synthetic": True}, "'rain.parquet'", True),
        ({"is_synthetic": False}, "'rain.parquet'", False),
        ({}, "'rain.parquet'", False),
        ({}, "null", True),
        ({"is_synthetic": False}, None, False),
        ({}, None, None),
    ],
)
def test_synthetic(
    tmp_path: Path, results: dict[str, bool], path: str | None, known: bool | None
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    if path is not None:
        (tmp_path / "config.yaml").write_text(f"data: {{path: {path}}}")
    assert read_run(tmp_path).is_synthetic is known


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "none")
    with pytest.raises(InputError, match=r"none of config\.yaml"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [
        ({"code": 0, "reason": "finished"}, "finished", "FINISHED"),
        ({"code": 1, "reason": "running"}, "running", "RUNNING"),
        ({"code": 1, "reason": "NaN at step 3"}, "failed", "FAILED"),
        ({"code": 2, "reason": "no such file"}, "failed", "BAD INPUT"),
        ({"code": 3, "reason": "collapse"}, "stopped", "STOPPED by a monitor"),
        ({"code": 4, "reason": "no space left"}, "failed", "STORAGE"),
        ({"code": 130, "reason": "interrupted"}, "stopped", "INTERRUPTED"),
        ({"code": 143, "reason": "interrupted"}, "stopped", "INTERRUPTED"),
        ({"code": "0"}, "unknown", "UNKNOWN"),
        (None, "unknown", "UNKNOWN"),
    ],
)
def test_outcomes(tmp_path: Path, status: object, kind: str, word: str) -> None:
    (tmp_path / "config.yaml").write_text("recipe: small")
    if status is not None:
        (tmp_path / "status.json").write_text(json.dumps(status))
    outcome = outcome_of(read_run(tmp_path))
    assert (outcome.kind, outcome.word) == (kind, word)


def test_what_stopped_the_run_is_the_first_verdict(stopped: Path) -> None:
    run = read_run(stopped)
    first, second = verdicts_of(run)
    assert (first.name, first.number, first.stopped, first.place) == ("collapse", 1, True, 2.0)
    assert (second.name, second.severity, second.stopped) == ("dead_input", "suspected", False)
    assert outcome_of(run).word == "STOPPED by collapse"


def test_verdicts_of_a_run_under_way_come_from_its_events(running: Path) -> None:
    run = read_run(running)
    assert run.verdict is None
    assert [said.name for said in verdicts_of(run)] == ["dead_input"]


def test_verdicts_that_are_none_are_passed_over(tmp_path: Path) -> None:
    odd = [7, {"severity": ["x"], "evidence": 3, "step": "y"}]
    (tmp_path / "verdict.json").write_text(json.dumps({"stopped_by": None, "verdicts": odd}))
    (said,) = verdicts_of(read_run(tmp_path))
    assert (said.name, said.severity, said.place, said.evidence) == (
        *("unnamed", "suspected", None),
        {},
    )


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), [1]])
def test_no_number(value: object) -> None:
    assert number(value) is None


def test_no_negative_share_of_the_gap_is_recovered(tmp_path: Path) -> None:
    for share, said in ((0.42, "42%"), (-0.07, "nothing")):
        facts = dict(_facts(Run(tmp_path, results={"gap_to_bayes_recovered": share})))
        assert facts["ROC-AUC gap to Bayes recovered"] == said
        results = {
            "gap_to_bayes_recovered": 0.9,
            "gap_to_observed_bound_recovered": {"roc_auc": share, "brier": 0.9},
            "observed_bound_error": {"roc_auc": 0.0002, "brier": 0.0001},
        }
        facts = dict(_facts(Run(tmp_path, results=results)))
        assert "ROC-AUC gap to Bayes recovered" not in facts
        found = facts["ROC-AUC gap to the best from all observed variables recovered"]
        assert found == said


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_20_gb_is_named_and_left_out(copy: Path, name: str) -> None:
    os.truncate(copy / name, 20 * 2**30)
    run = read_run(copy)
    assert len([one for one in run.problems if one.startswith(f"{name} can't be used")]) == 1
    assert write_report(copy).stat().st_size > 10_000


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_a_file_elsewhere_is_not_followed(copy: Path, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2: [")
    (copy / name).unlink()
    (copy / name).symlink_to(secret)
    run = read_run(copy)
    assert run.problems == [
        f"{name} can't be used and is left out: it is a link; expected a file of the run's own."
    ]
    assert "hunter2" not in write_report(copy).read_text()


def test_a_page_is_not_written_through_a_link(copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.html").write_text("mine")
    shutil.rmtree(copy / "report", ignore_errors=True)
    (copy / "report").symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a link; expected a regular file or folder"):
        write_report(copy)
    assert (elsewhere / "index.html").read_text() == "mine"
    assert [path.name for path in elsewhere.iterdir()] == ["index.html"]


def test_lines_without_end_and_without_number(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of 3 MB is one damaged line; of many damaged ones fifty are named."""
    whole = (copy / "metrics.jsonl").read_text()
    count = len(read_run(copy).events["validation"])
    long = json.dumps({"event": "validation", "step": 10**6, "x": "y" * 3 * 2**20})
    (copy / "metrics.jsonl").write_text(f"{whole}{long}\n" + "{\n" * 1_000)
    run = read_run(copy)
    assert len(run.events["validation"]) == count
    assert len(run.problems) == run_folder.MOST_PROBLEMS + 1
    assert run.problems[-1] == "951 more lines of metrics.jsonl are left out."
    monkeypatch.setattr(run_folder, "MOST_METRICS_LINES", 5)
    run = read_run(copy)
    assert run.problems == ["metrics.jsonl is read up to line 5 only."]
    assert sum(map(len, run.events.values())) == 5


def test_forecasts_are_judged_by_what_the_file_declares(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copy / "forecasts.parquet"
    table = pd.read_parquet(file)
    table.assign(model="0.5").to_parquet(file)
    assert "model is of type large_string; expected numbers" in read_run(copy).problems[0]
    table.assign(issue_time="2020").to_parquet(file)
    assert "issue_time is of type large_string; expected times" in read_run(copy).problems[0]
    table.to_parquet(file)
    assert read_run(copy).problems == []
    monkeypatch.setattr(untrusted, "free_memory", lambda: 100_000)
    (problem,) = read_run(copy).problems
    assert f"{len(table):,} forecasts takes" in problem
