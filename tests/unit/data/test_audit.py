"""The audit command: the table of two failed runs, a healthy one, and those it must survive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timerxl.config import SyntheticConfig, load_recipe
from timerxl.data.audit.auditor import audit_command, audit_subject, audit_windows, read_subject
from timerxl.data.audit.findings import Audit
from timerxl.data.audit.report import audit_text
from timerxl.data.readers import load_series
from timerxl.data.synthetic import synthetic_table
from timerxl.data.windows import build_windows


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five regions of 8,034 rows, 06 and 18 UTC, with tp and rain_24h, as CSV."""
    path = tmp_path_factory.mktemp("stacked") / "peru.csv"
    table = synthetic_table(SyntheticConfig()).drop(columns="true_probability")
    assert (len(table), len(table.columns)) == (40_170, 30)
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two years of hourly weather of five regions, nothing wrong with it."""
    path = tmp_path_factory.mktemp("hourly") / "series.parquet"
    config = SyntheticConfig(step_hours=1, start="2014-01-01", end="2015-12-31")
    table = synthetic_table(config).drop(columns=["true_probability", "rain_24h"])
    table.to_parquet(path)
    return path


def audit_of(path: Path, *overrides: str, recipe: str | None = "hourly_cpu") -> Audit:
    return audit_subject(read_subject(path, recipe, list(overrides))[0])


def names_of(audit: Audit, severity: str) -> list[str]:
    return [finding.name for finding in audit.of(severity)]


@pytest.mark.parametrize(
    ("recipe", "days", "belief", "across"),
    [("transfer", 720, 60, 5_756), ("transfer_long", 1440, 120, 11_516)],
)
def test_the_failed_runs_are_explained(
    stacked: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    days: int,
    belief: int,
    across: int,
) -> None:
    steps = days * 2
    assert (
        audit_command(
            stacked, recipe, ["data.split=rows", "data.labels=last"], True, tmp_path / "out"
        )
        == 0
    )
    content = json.loads(capsys.readouterr().out)  # one object and nothing else
    faults = {f["name"]: f for f in content["findings"] if f["severity"] == "fault"}
    assert list(faults) == [
        "split_by_rows_is_by_region",
        "context_is_not_in_hours",
        "precipitation_misses_hours",
    ]
    cut = faults["split_by_rows_is_by_region"]["evidence"]
    assert cut["num_rows"] == {"train": 28_119, "validation": 6_025, "test": 6_026}
    assert cut["regions_unseen_in_training"] == ["selva"]
    assert cut["regions"]["test"] == {"selva": 6_026}
    assert cut["regions"]["validation"] == {"sierra_sur": 4_017, "selva": 2_008}
    # Windows from row `steps` on; each border inside the table has steps - 1 windows across it,
    # the first one fewer rows where training has not begun: naive count.
    region = np.arange(40_170) // 8034
    issued = np.arange(steps, 40_170)
    naive = int((region[issued] != region[issued - steps + 1]).sum())
    assert sum(cut["windows_across_regions"].values()) == naive == across
    assert cut["windows_reaching_into_the_split_before"] == {
        "validation": steps - 1,
        "test": steps - 1,
    }
    context = faults["context_is_not_in_hours"]["evidence"]
    assert (context["days"], context["days_if_hourly"]) == (days, belief)
    assert faults["precipitation_misses_hours"]["evidence"]["hours_present_per_day"] == 2

    sentences = [
        "40,170 stacked rows -> 28,119 / 6,025 / 6,026",
        "training never sees selva",
        f"{steps} steps of 12 h = {days} days, not {belief}",
        "2 of 24 hours of precipitation are present",
        "data.split=time",
    ]
    text = " ".join((tmp_path / "out" / "audit.txt").read_text().split())
    page = (tmp_path / "out" / "audit.html").read_text().replace("&gt;", ">")
    for sentence in sentences:
        assert sentence in text
        assert sentence in page
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == content
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audit.html",
        "audit.json",
        "audit.txt",
    ]


def test_text_is_printed_and_names_the_recipe_it_took(
    stacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_command(stacked, None, ["data.split=rows", "data.labels=last"], False, None) == 0
    text = capsys.readouterr().out
    assert "from recipe transfer (the default; --config names another)" in " ".join(text.split())
    assert "rain is taken from column tp (else say data.precipitation_column)" in text
    assert "tp is in m (tp is ERA5's name, and only metres make rain of it" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "rain_24h agrees with the sum of the 2 steps ahead" in text


def test_a_split_in_time_cures_the_split_alone(stacked: Path) -> None:
    faults = names_of(audit_of(stacked, recipe="transfer"), "fault")
    assert faults == ["context_is_not_in_hours", "precipitation_misses_hours"]


def test_shares_and_scores_against_pandas(stacked: Path) -> None:
    facts = audit_of(stacked, "data.split=rows", "data.labels=last", recipe="transfer").facts
    table = pd.read_csv(stacked)
    wet = table["rain_24h"].to_numpy()[28_119:34_144]  # no label of these looks past the table
    share = facts["splits"][1]
    assert (share["split"], share["n"]) == ("validation", 6_025)
    assert share["rain_share"] == pytest.approx(wet.mean(), abs=0.001)  # borders of regions differ
    p = share["rain_share"]
    assert share["always_rain"]["f1"] == pytest.approx(2 * p / (1 + p))
    months = pd.to_datetime(table["timestamp"]).dt.month[28_119:34_144]
    chosen = (table["region"][28_119:34_144] == "sierra_sur") & months.isin([12, 1, 2])
    (cell,) = [
        cell
        for cell in facts["class_shares"]
        if (cell["split"], cell["region"], cell["season"]) == ("validation", "sierra_sur", "DJF")
    ]
    assert cell["n"] == chosen.sum()
    assert cell["rain_share"] == pytest.approx(wet[chosen.to_numpy()].mean(), abs=0.003)


def test_a_healthy_series_has_no_fault(hourly: Path) -> None:
    audit = audit_of(hourly)
    assert names_of(audit, "fault") == []
    assert set(names_of(audit, "warning")) <= {
        "class_shares_differ_between_splits",  # two years of five climates do differ
        "class_shares_differ_in_a_region",
    }
    assert audit.facts["identical_regions"] == []
    assert audit.facts["context"]["days"] == audit.facts["context"]["days_if_hourly"]
    assert "data.split=rows" not in audit_text(audit)


def test_windows_in_memory_give_the_same_audit(hourly: Path) -> None:
    from_table = audit_of(hourly)
    config = load_recipe("hourly_cpu", ["data.precipitation_column=tp"])
    config.data.path = str(hourly)
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    assert audit_windows(windows, config).to_dict() == from_table.to_dict()


def test_the_built_in_series_is_not_called_sparse() -> None:
    config = load_recipe("quickstart", ["data.synthetic.end=2015-12-31"])
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    audit = audit_windows(windows, config)
    assert names_of(audit, "fault") == []
    assert "56 steps of 12 h = 28 days, not 2.33333" in audit_text(audit)


def test_short_lines_are_few_and_hold_no_notes() -> None:
    audit = Audit()
    audit.find("note", "n", "a note", "", "")
    assert audit.short_lines() == []
    for index in range(9):
        audit.find("warning", "w", f"warning {index}", "", "")
    audit.find("fault", "f", "turn\x1b[31m red", "", "")
    lines = audit.short_lines()
    assert len(lines) == 8
    assert lines[0] == r"fault: turn\x1b[31m red"
    assert lines[-1].startswith("and 3 more")
