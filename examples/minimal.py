"""A training loop of your own on this package's model and windows: python examples/minimal.py.

Trains a small rain classifier on the built-in SYNTHETIC series (12-hourly weather of five invented
regions) and prints its validation ROC-AUC beside that of a climatology. Also on several processes:
accelerate launch examples/minimal.py.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from timerxl import TimerXLConfig, TimerXLForClassification
from timerxl.config import DataConfig, SyntheticConfig
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.evaluation.baselines import Climatology, month_of

INPUTS = ("past_values", "static_real_features", "labels")


def load_windows(context_length: int) -> WeatherWindows:
    """Windows of the synthetic series, split by time; DataConfig(path=...) reads your own table."""
    synthetic = SyntheticConfig(start="2022-01-01")  # later than the default: seconds, not minutes
    config = DataConfig(static_features=True, synthetic=synthetic)
    return build_windows(load_series(config), config, context_length)


def build_model(windows: WeatherWindows) -> TimerXLForClassification:
    """A small classifier for these windows: two layers, 8 steps a patch."""
    return TimerXLForClassification(
        TimerXLConfig(
            patch_length=8,
            context_length=windows.context_length,
            num_variables=windows.values.shape[1],
            num_static_real_features=len(windows.static_feature_names),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            pooling="last",  # the classifier sees the last patch of every variable
            variable_embedding=True,
        )
    )


def climatology(windows: WeatherWindows, split: str) -> np.ndarray:
    """P(rain) of a split's windows by region, month and whether it rained before."""

    def facts(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, series = windows.issue_rows(name), windows.series
        months = month_of(series.timestamps[rows])
        return series.region_index[rows], months, windows.rained_before[rows]

    return Climatology().fit(*facts("train"), windows.labels_of("train")).predict(*facts(split))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=60, help="end after so many steps")
    parser.add_argument("--batch-size", type=int, default=64, help="windows per process and step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--context-length", type=int, default=56, help="steps of 12 hours")
    given = parser.parse_args(arguments)

    set_seed(0)
    accelerator = Accelerator()
    windows = load_windows(given.context_length)
    model = build_model(windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate)
    # No window is stored: each batch is one copy out of one shared tensor.
    train, validation = (
        DataLoader(windows.splits[split], given.batch_size, shuffle=split == "train")
        for split in ("train", "validation")
    )
    model, optimizer, train, validation = accelerator.prepare(model, optimizer, train, validation)
    step = 0
    for epoch in range(given.epochs):
        model.train()
        for batch in train:
            loss = model(**{key: batch[key] for key in INPUTS}).loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 20 == 0:
                accelerator.print(f"epoch {epoch}, step {step}: loss {loss.item():.3f}")
            if step == given.max_steps:
                break
        if step == given.max_steps:
            break

    model.eval()
    probabilities, labels = [], []
    with torch.no_grad():
        for batch in validation:
            logits = model(**{key: batch[key] for key in INPUTS[:2]}).logits
            # Of all processes, without the windows that fill up the last batch.
            found = accelerator.gather_for_metrics((logits.softmax(-1)[:, 1], batch["labels"]))
            probabilities.append(found[0].cpu())
            labels.append(found[1].cpu())
    score = roc_auc_score(torch.cat(labels), torch.cat(probabilities))
    reference = roc_auc_score(windows.labels_of("validation"), climatology(windows, "validation"))
    accelerator.print(f"validation ROC-AUC: {score:.3f}, climatology {reference:.3f} (SYNTHETIC)")


if __name__ == "__main__":
    main()
