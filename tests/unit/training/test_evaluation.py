"""Every window is scored once, and all ranks hold and decide the same: also in a real launch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
import torch.nn.functional as F

from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.model import TimerXLForClassification
from timerxl.training.dataloader import evaluation_share
from timerxl.training.evaluator import Forecasts, mean_loss

ROOT = Path(__file__).resolve().parents[3]


def one_by_one(finished: Any, positions: np.ndarray) -> np.ndarray:
    """Logits of validation windows, each forecast alone."""
    config = load_recipe(str(finished.folder / "config.yaml"))
    windows = build_windows(load_series(config.data), config.data, config.model.context_length)
    model = TimerXLForClassification.from_pretrained(finished.folder / "model").eval()
    logits = []
    with torch.no_grad():
        for position in positions:
            batch = windows.batch("validation", [int(position)])
            logits.append(
                model(batch["past_values"], static_real_features=batch["static_real_features"])
            )
    return torch.cat([output.logits for output in logits]).numpy()


def test_two_real_ranks(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    script = str(Path(__file__).with_name("two_ranks.py"))
    arguments = [str(finished.folder), str(tmp_path), str(tmp_path / "taken")]
    done = processes.run(
        [*processes.TORCHRUN, "2", script, *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for size in (1, 13, 50):
        expected = one_by_one(finished, np.arange(size) * 7)
        for rank in ranks:
            assert np.array(rank[str(size)]["logits"]) == pytest.approx(expected, abs=1e-5)
            # Half each, one window more where the number is odd.
            assert rank[str(size)]["scored"] == (size + 1) // 2
    assert {rank["agreed"] for rank in ranks} == {"said by rank 0"}
    # Only the main process touches the folder; what stops it stops the other one.
    assert "taken is no folder" in ranks[0]["error"]
    assert ranks[1]["error"] == ranks[0]["error"]
    # A run.lock that only the main process can see is on a disk of its own.
    for rank in ranks:
        assert "is not the same everywhere: rank 0 on" in rank["not shared"]
        assert "sees its run.lock, rank 1 on" in rank["not shared"]
    assert (tmp_path / "disk_of_rank_0" / "run.lock").read_text() == ""
    assert [path.name for path in (tmp_path / "disk_of_rank_1").iterdir()] == ["run.lock"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_any_number_of_ranks_gives_the_same_logits(finished: Any, world_size: int) -> None:
    positions = np.array([3, 5, 8, 40, 41, 77, 300])
    logits = one_by_one(finished, positions)
    by_rank = [logits[evaluation_share(7, world_size, rank)] for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(by_rank)[:7], logits)


def test_probability_and_loss_of_a_split() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (40, 2)).astype(np.float32)
    label = (np.arange(40) % 3 == 0).astype(np.int64)
    forecasts = Forecasts("validation", np.arange(40), logits, label)
    torch_logits, torch_label = torch.from_numpy(logits), torch.from_numpy(label)
    softmax = torch.softmax(torch_logits.double(), dim=1)[:, 1].numpy()
    np.testing.assert_allclose(forecasts.probability, softmax, rtol=1e-12)
    plain = F.cross_entropy(torch_logits, torch_label).item()
    assert mean_loss(forecasts, "cross_entropy", 0.3, 2.0) == pytest.approx(plain, rel=1e-6)
    weighted = F.cross_entropy(torch_logits, torch_label, weight=torch.tensor([0.7, 0.3])).item()
    assert mean_loss(forecasts, "weighted_cross_entropy", 0.3, 2.0) == pytest.approx(
        weighted, rel=1e-6
    )
    # Lin et al. 2017, eq. 5, sample by sample.
    focal = 0.0
    for probability, truth in zip(softmax, label, strict=True):
        of_truth = probability if truth else 1 - probability
        focal -= (0.3 if truth else 0.7) * (1 - of_truth) ** 2 * np.log(of_truth)
    assert mean_loss(forecasts, "focal", 0.3, 2.0) == pytest.approx(focal / 40, rel=1e-5)
    # A logit far out must not overflow into NaN.
    far = Forecasts("test", np.arange(2), np.array([[900, -900], [-900, 900]], np.float32), label)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(far.probability, [0.0, 1.0])
