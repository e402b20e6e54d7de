"""The benchmark of forecasts: it times the real Forecaster, and its exit code tells the bound."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from benchmarks import predict_speed
from timerxl.config import load_recipe


@pytest.mark.parametrize(("bound", "code"), [("1000", 0), ("0.000001", 1)])
def test_the_exit_code_tells_the_bound(
    monkeypatch: Any, capsys: Any, bound: str, code: int
) -> None:
    """On a year and a half of the recipe's series."""
    shorter = ["data.synthetic.start=2024-06-01"]
    monkeypatch.setattr(predict_speed, "load_recipe", lambda name: load_recipe(name, shorter))
    threads = torch.get_num_threads()
    words = ["predict_speed.py", "--recipe", "quickstart", "--repeats", "3", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--bound-seconds", bound])
    try:
        assert predict_speed.main() == code
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "56 steps of 13 variables: loading" in printed
    assert "one day for 5 regions (2 issue times, 10 windows)" in printed
    assert ("FAILED" in printed) is (code == 1)
