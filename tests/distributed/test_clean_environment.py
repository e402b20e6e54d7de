"""The published folder alone, in an environment that has transformers and nothing of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from settings import ONE_LABEL

from timerxl import Forecaster, TimerXLForClassification
from timerxl.cli import publish
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
# What a stranger installs; what these need comes with them.
INSTALLED = ("torch", "transformers", "safetensors", "huggingface_hub", "numpy")
TABLES = ("pandas", "pyarrow")  # the card's lines read a table; the code of the model needs neither
ABSENT = ("timerxl", "accelerate", "deepspeed", "datasets", "evaluate", "scipy", "sklearn")
# Before the card's lines: nothing of ours can be imported, and nobody can be asked for it.
BEFORE = f"""
import importlib, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"a connection was tried: {{arguments}}")

sys.addaudithook(refuse)
for name in {ABSENT}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == name, error
    else:
        raise SystemExit(f"{{name}} can be imported: this environment is not clean")
"""
# After them: the card's own forecast, and logits of other inputs.
AFTER = """
import numpy as np, torch
from transformers import AutoConfig

given = {name: torch.from_numpy(array) for name, array in np.load("inputs.npz").items()}
with torch.no_grad():
    logits = model(**given).logits
np.savez("found.npz", probability=probability.detach().numpy(), logits=logits.numpy())
config = AutoConfig.from_pretrained("ana/rain", trust_remote_code=True)
print(*(type(one).__module__ for one in (config, model, extractor)), sep="\\n")
"""


def distributions(names: tuple[str, ...]) -> set[str]:
    """These and all that they need, without extras, by the names of the package index."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(text) for text in distribution(name).requires or []]
        waiting += [
            need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment, into which the installed files of INSTALLED are linked.

    Linked and not installed: an install of torch takes a package index and a gigabyte. No other
    folder is on its path, so what is not linked is not there.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.check_output(where, text=True).strip())
    for name in distributions((*INSTALLED, *TABLES)):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or [] if file.parts[0] != ".."}
        assert tops, f"{name} has no list of its files; install it again"
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(installed.locate_file(top))))
    return python


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, trained as a user trains it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = ["launch/train.py", "--config", "quickstart", *TINY, f"output_dir={folder}"]
    done = processes.run([sys.executable, *words])
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def published(run: Path) -> Path:
    """All that publishing that run sends; not to be changed."""
    folder = run.parent / "published"
    words = ["--run", str(run), "--repo-id", "ana/rain", "--dry-run", str(folder)]
    assert publish.main(words) == 0
    return folder


@pytest.fixture
def desk(published: Path, tmp_path: Path) -> Path:
    """A working folder with a copy of it as ana/rain, and inputs."""
    desk = tmp_path / "desk"
    shutil.copytree(published, desk / "ana" / "rain")
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=of).astype(np.float32) for name, of in SHAPES.items()}
    np.savez(desk / "inputs.npz", allow_pickle=False, **inputs)
    series_of(published).to_parquet(desk / "rain.parquet")
    return desk


def series_of(model: Path) -> pd.DataFrame:
    """The SYNTHETIC series of a model as a table in physical units."""
    series = load_synthetic(Preprocessing.load(model).data_config(None))
    table = pd.DataFrame(series.values, columns=series.feature_names)
    table["region"] = np.array(series.regions)[series.region_index]
    return table.assign(timestamp=series.timestamps)


def call(
    words: list[str], folder: Path, environment: dict[str, str], fails: bool = False
) -> tuple[str, str]:
    """(standard output, standard error) of a process that ends well, or (``fails``) does not."""
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-4000:]
    return done.stdout, done.stderr


def stranger(python: Path, desk: Path, fails: bool = False) -> tuple[str, str]:
    """The card's own lines, run where nothing but the published folder is known."""
    card = (desk / "ana" / "rain" / "README.md").read_text(encoding="utf-8")
    (example,) = [e for e in re.findall(r"```python\n(.*?)```", card, re.S) if "trust" in e]
    assert '"ana/rain", trust_remote_code=True' in example  # a folder of that name comes first
    environment = {
        "PATH": os.defpath,
        "HOME": str(desk.parent / "home"),
        "HF_HOME": str(desk.parent / "hf_home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
    }
    for name in ("HOME", "HF_HOME"):
        Path(environment[name]).mkdir()
    return call([str(python), "-c", BEFORE + example + AFTER], desk, environment, fails)


def expected(desk: Path, run: Path) -> dict[str, np.ndarray]:
    """What the package says to the same inputs."""
    model = TimerXLForClassification.from_pretrained(run / "model")
    forecasts = Forecaster.from_pretrained(run / "model", device="cpu").predict(None, at="latest")
    given = {name: torch.from_numpy(array) for name, array in np.load(desk / "inputs.npz").items()}
    with torch.no_grad():
        probability = forecasts["probability"].to_numpy()
        return {"probability": probability, "logits": model(**given).logits.numpy()}


def test_the_cards_lines_work_without_timerxl(clean_python: Path, desk: Path, run: Path) -> None:
    said, _ = stranger(clean_python, desk)
    modules = said.splitlines()[-3:]
    assert len(modules) == 3
    assert all(name.startswith("transformers_modules.rain.") for name in modules), modules
    assert list((desk.parent / "hf_home").rglob("modeling_timerxl.py"))  # code of the folder
    found, ours = np.load(desk / "found.npz"), expected(desk, run)
    assert found["logits"].shape == (3, 2)
    assert np.ptp(ours["logits"][:, 1]) > 1e-3  # the inputs do matter
    for name, numbers in ours.items():
        np.testing.assert_allclose(found[name], numbers, rtol=0, atol=1e-6, err_msg=name)


def test_a_model_file_that_needs_more_is_seen(clean_python: Path, desk: Path) -> None:
    program = desk / "ana" / "rain" / "attention_timerxl.py"
    marked = "from __future__ import annotations\n"
    text = program.read_text()
    assert marked in text
    program.write_text(text.replace(marked, f"{marked}\nimport timerxl.config\n", 1))
    _, said = stranger(clean_python, desk, fails=True)
    assert "timerxl" in said.splitlines()[-1], said
    assert not (desk / "found.npz").exists()
