"""Several runs: what differs, on which windows they are compared, and by which numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError
from timerxl.evaluation.bootstrap import paired_differences
from timerxl.report.compare import Named, common_forecasts, paired, write_comparison
from timerxl.report.run_record import read_run

WriteRun = Callable[..., Path]


@pytest.fixture(scope="module")
def other(make_run: WriteRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same windows, a noisier model."""
    folder = tmp_path_factory.mktemp("compare") / "noisy <b>"
    return make_run(folder, "healthy", "optim.lr=0.002", "seed=3", seed=1, noise=3.0)


def named(*folders: Path) -> list[Named]:
    return [Named(letter, read_run(f)) for letter, f in zip("ABC", folders, strict=False)]


def test_differences_are_paired_on_the_common_windows(healthy: Path, other: Path) -> None:
    runs = named(healthy, other)
    # The second run has fewer windows, in another order.
    table = runs[1].run.forecasts
    assert table is not None
    kept = table[table["issue_time"] >= "2023-03-01"]
    runs[1].run.forecasts = kept.sample(frac=1, random_state=0)
    found = paired(runs)
    assert found.num_windows == len(kept[kept["split"] == "test"]) < 990
    assert any("of its 990 test windows are common" in note for note in found.notes)
    a, b = (r.run.forecasts for r in runs)
    assert a is not None
    assert b is not None
    keys = ["split", "region", "issue_time", "label"]
    both = a[a["split"] == "test"].merge(b, on=keys, suffixes=("_a", "_b"))
    told = paired_differences(
        {"B": both["model_b"].to_numpy(), "A": both["model_a"].to_numpy()},
        both["label"].to_numpy(),
        both["issue_time"].to_numpy("datetime64[s]"),
        {"A": 0.58, "B": 0.58},
        reference="A",
        num_resamples=200,
    )["B"]
    mine = found.differences["B: noisy <b>"]
    for key in ("roc_auc", "brier", "mcc", "f1"):
        assert mine[key] == told[key]
    low, high = mine["roc_auc"].low, mine["roc_auc"].high
    assert low is not None
    assert high is not None
    assert low < mine["roc_auc"].estimate < high < 0


def test_a_run_against_itself_differs_by_nothing(healthy: Path) -> None:
    found = paired(named(healthy, healthy))
    (of_run,) = found.differences.values()
    assert {(d.estimate, d.low, d.high) for d in of_run.values()} == {(0.0, 0.0, 0.0)}


def test_runs_of_another_event_are_left_out(healthy: Path, other: Path) -> None:
    runs = named(healthy, other)
    table = runs[1].run.forecasts
    assert table is not None
    first = table.index[table["split"] == "test"][0]
    table.loc[first, "label"] = 1 - table.loc[first, "label"]
    windows, used, notes = common_forecasts(runs)
    assert [n.letter for n in used] == ["A"]
    assert len(windows) == 990
    assert "1 of 990 windows" in notes[0]
    assert "Another event, or other data?" in notes[0]


def test_a_run_without_forecasts_or_with_windows_twice_is_left_out(
    healthy: Path, other: Path, stopped: Path
) -> None:
    runs = named(healthy, stopped, other)
    table = runs[2].run.forecasts
    assert table is not None
    runs[2].run.forecasts = pd.concat([table, table])
    found = paired(runs)
    assert found.differences == {}
    assert found.notes[:2] == [
        "B: stopped is left out: no forecasts.parquet with a threshold.",
        "C: noisy <b> is left out: its forecasts hold a window twice.",
    ]


def test_no_window_in_common(healthy: Path, other: Path) -> None:
    runs = named(healthy, other)
    table = runs[1].run.forecasts
    assert table is not None
    table["issue_time"] += np.timedelta64(3, "h")
    found = paired(runs)
    assert "The runs have no test window in common." in found.notes


def test_the_page(healthy: Path, other: Path, stopped: Path, tmp_path: Path) -> None:
    path = write_comparison([healthy, other, stopped], tmp_path / "new" / "page.html")
    page = path.read_text(encoding="utf-8")
    assert "<title>Comparison of 3 runs: healthy, noisy &lt;b&gt;, stopped</title>" in page
    assert "<b>Runs A, B, C: SYNTHETIC DATA" in page
    assert "CONTAMINATION" not in page
    assert "B: noisy &lt;b&gt; minus A: healthy" in page
    assert "C: stopped is left out" in page
    cells = page[page.index('id="settings"') : page.index('id="curves"')]
    assert "<td>0.001</td><td>0.002</td><td>0.001</td>" in cells
    assert "hidden_size" not in cells
    assert page.count("<figure") == 6
    assert "C: stopped" in page[page.index('id="curve-f1"') :]
    write_comparison([healthy, other, stopped], path)
    assert path.read_text(encoding="utf-8") == page


def test_bad_input(healthy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two run folders"):
        write_comparison([healthy], tmp_path / "page.html")
    with pytest.raises(InputError, match="no such folder"):
        write_comparison([healthy, tmp_path / "none"], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
