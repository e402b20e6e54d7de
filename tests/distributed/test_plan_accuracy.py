"""The planner against two real ZeRO-2 processes, and against runs that were logged before it."""

from __future__ import annotations

import pytest

from benchmarks import plan_accuracy

pytestmark = pytest.mark.slow


def test_bytes_of_two_zero2_ranks() -> None:
    """Weights, gradients and optimizer of both ranks, in bf16 and fp32, counted on real tensors."""
    assert plan_accuracy.zero_table() < 0.05


def test_the_five_logged_runs(capsys: pytest.CaptureFixture[str]) -> None:
    memory, time = plan_accuracy.history_table()
    assert memory < 0.25
    assert time < 0.05
    printed = capsys.readouterr().out
    assert all(name in printed for name in plan_accuracy.OBSERVED_GB)


def test_there_are_enough_cpu_settings() -> None:
    settings = [step for _, step in plan_accuracy.cpu_settings()]
    assert len(settings) >= 12
    assert {step.attention for step in settings} == {"eager", "sdpa"}
    assert {step.checkpointing for step in settings} == {True, False}
    assert {step.model.attention_dropout > 0 for step in settings} == {True, False}
    for varied in ("batch_size", "accumulation_steps"):
        assert len({getattr(step, varied) for step in settings}) > 1
    assert len({step.model.context_length for step in settings}) > 1
    assert len({step.model.hidden_size for step in settings}) == 3
