"""A run is trained, published and deleted, and works from the hub: for timerxl and without it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from hub_server import running_hub
from processes import ROOT
from settings import ONE_LABEL

from timerxl import Forecaster, TimerXLForClassification
from timerxl.data.preprocessing import Preprocessing
from timerxl.data.synthetic import load_synthetic

pytestmark = pytest.mark.slow

TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-03-01 data.train_fraction=0.4 data.validation_fraction=0.3 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=16 "
    "model.num_hidden_layers=1 train.max_steps=4 train.trackers=[] eval.fitted_baselines=false "
    "eval.num_resamples=0"
).split()
SHAPES = {"past_values": (3, 16, 27), "static_real_features": (3, 9)}
READ = """
import numpy as np, torch
inputs = {name: torch.from_numpy(array) for name, array in np.load("inputs.npz").items()}
with torch.no_grad():
    np.save("logits.npy", model(**inputs).logits.numpy())
"""
WITH_TIMERXL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from timerxl import Forecaster, TimerXLForClassification
model = TimerXLForClassification.from_pretrained("ana/rain")
Forecaster.from_pretrained("ana/rain").predict(None, at="latest").to_csv("forecasts.csv")
"""
# In a process that can't import timerxl, the card's own lines.
WITHOUT = """
import sys
sys.modules["timerxl"] = None
"""
KEEP = """
import numpy
numpy.savetxt("probability.txt", probability.detach().numpy())
"""


def start(words: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_there_and_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running_hub() as hub:
        live = ["hub.push=true", "hub.repo_id=ana/live", f"output_dir={run}"]
        words = ["launch/train.py", "--config", "quickstart", *TINY, *live]
        done = processes.run([sys.executable, *words], env=os.environ | hub.environment)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "hub: model of step 4 pushed" in done.stdout  # beside the training
        weights = (run / "model" / "model.safetensors").read_bytes()
        assert hub.repositories["ana/live"].files()["model.safetensors"] == weights

        rng = np.random.default_rng(0)
        inputs = {name: rng.normal(size=of).astype(np.float32) for name, of in SHAPES.items()}
        model = TimerXLForClassification.from_pretrained(run / "model")
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            expected = model(**tensors).logits.numpy()
        saved = Preprocessing.load(run / "model")
        series = load_synthetic(saved.data_config(None))
        table = pd.DataFrame(series.values, columns=series.feature_names)
        table["region"] = np.array(series.regions)[series.region_index]
        table["timestamp"] = series.timestamps
        forecasts = Forecaster.from_pretrained(run / "model").predict(None, at="latest")

        start(
            [str(ROOT / "launch" / "publish.py"), "--run", str(run), "--repo-id", "ana/rain"],
            tmp_path,
            **hub.environment,
        )
        files = hub.repositories["ana/rain"].files()
        sums = {name: hashlib.sha256(content).digest() for name, content in files.items()}
        for path in (run / "model").iterdir():
            assert sums[path.name] == hashlib.sha256(path.read_bytes()).digest(), path.name
        shutil.rmtree(run)
        hub.received.clear()

        card = files["README.md"].decode()
        (example,) = [e for e in re.findall(r"```python\n(.*?)```", card, re.S) if "trust" in e]
        readers = {"with": WITH_TIMERXL, "without": WITHOUT + example + KEEP}

        def read(name: str) -> np.ndarray:
            folder = tmp_path / name
            folder.mkdir()
            np.savez(folder / "inputs.npz", **inputs)
            table.to_parquet(folder / "rain.parquet")
            cache = {"HF_HOME": str(folder / "cache")}
            start(["-c", readers[name] + READ], folder, **hub.environment, **cache)
            return np.asarray(np.load(folder / "logits.npy"))

        with ThreadPoolExecutor() as pool:
            with_timerxl, without = pool.map(read, readers)
        assert hub.calls("GET /lfs/get") >= 2  # the weights did come from there
        assert hub.calls("POST") == 0
    np.testing.assert_array_equal(with_timerxl, expected)
    np.testing.assert_array_equal(without, expected)
    assert (tmp_path / "with" / "forecasts.csv").read_text() == forecasts.to_csv()
    probability = np.loadtxt(tmp_path / "without" / "probability.txt")  # of the card's own lines
    np.testing.assert_allclose(probability, forecasts["probability"], rtol=0, atol=1e-6)
    snapshot = next((tmp_path / "with" / "cache").rglob("snapshots/*"))
    assert (snapshot / "model.safetensors").read_bytes() == files["model.safetensors"]
