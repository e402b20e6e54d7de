"""Runs that are killed, starved and damaged, on real processes: the short form of chaos.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import Chaos, Row
from benchmarks.chaos_judge import ONE, ZERO, Run, compare

pytestmark = pytest.mark.slow


def held(row: Row, trials: int) -> None:
    assert row.good, row.text()
    assert (row.trials, row.lost, row.replayed) == (trials, 0, 0), row.text()


def test_killed_in_the_first_save_and_elsewhere(chaos: Chaos) -> None:
    chaos.trials = 3
    held(chaos.killed(ONE), 3)


def test_zero_killed(chaos: Chaos) -> None:
    chaos.trials = 1
    held(chaos.killed(ZERO), 1)


def test_one_of_two_killed_and_brought_back(chaos: Chaos) -> None:
    chaos.trials = 1
    held(chaos.one_of_two(), 1)


def test_zero_shards_for_another_number_of_processes(chaos: Chaos) -> None:
    row = chaos.other_world(((2, 1),))
    held(row, 1)


def test_damaged_checkpoints(chaos: Chaos) -> None:
    held(chaos.damaged("a bit flipped", "another run's shard"), 2)


def test_nothing_but_damaged_checkpoints(chaos: Chaos) -> None:
    held(chaos.all_damaged(), 1)


@pytest.mark.parametrize("scenario", ["disk_full", "read_only"])
def test_disks(chaos: Chaos, scenario: str) -> None:
    row = getattr(chaos, scenario)()
    if "skipped" in row.note:
        pytest.skip(row.note)
    held(row, 1)


def test_two_runs_on_one_folder(chaos: Chaos) -> None:
    held(chaos.locked(), 1)


def test_the_judge_sees_a_difference(chaos: Chaos, tmp_path: Path) -> None:
    """Another seed is another run: samples, losses, curves, weights and forecasts all differ."""
    other = Run(tmp_path / "other")
    assert other.launch(ONE, "seed=1") == 0
    found = compare(chaos.straight(ONE), other)
    assert not found.identical
    assert found.why == "samples, losses, metrics.jsonl, weights, forecasts.parquet"
    assert found.loss_difference > 0.01
    # A step done on the way and gone: cut out of the record, it is counted.
    lines = other.log.read_text().splitlines()
    gone = next(line for line in lines if '"step": 30,' in line)
    other.log.write_text("\n".join(line for line in lines if line != gone) + "\n")
    assert compare(other, other).lost_steps == 0
    assert compare(chaos.straight(ONE), other).lost_steps == 1
