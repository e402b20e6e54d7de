"""An installed timerxl, away from any checkout: built as a wheel, in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "timerxl launch accelerate_configs ds_configs pyproject.toml setup.py README.md LICENSE"
SMALL = (
    "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
    "model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0 monitors.slow=off"
).split()
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*command: object, cwd: Path, **more: str) -> str:
    """Standard output; this environment's PYTHONPATH would put the checkout first."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the build writes into its source folder."""
    if missing := [name for name in ("pip", "setuptools") if find_spec(name) is None]:
        pytest.skip(f"{' and '.join(missing)} is not installed here, to build without network")
    bytecode = shutil.ignore_patterns("__pycache__")
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES.split():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=bytecode)
        else:
            shutil.copy(ROOT / name, folder)
    run(*PIP, "wheel", ".", "--no-build-isolation", "--no-deps", "-w", "dist", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of a new environment that holds timerxl; its other packages are this one's."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    # Packages alone: .pth files of that folder, such as an editable install's, are not read.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(where.strip(), "others.pth").write_text("\n".join(sorted(others)))
    return python.parent


def test_the_wheel_holds_every_file_that_the_code_reads(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "timerxl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    outside = {
        f"timerxl/{folder.rpartition('/')[2]}/{path.name}"
        for folder in ("launch/recipes", "launch/regions", "accelerate_configs", "ds_configs")
        for path in (ROOT / folder).iterdir()
    }
    assert held == tracked | outside


def test_an_installed_timerxl_trains_and_forecasts(installed: Path, tmp_path: Path) -> None:
    told = run(
        installed / "python", "-c",
        "import timerxl, timerxl.config as c\n"
        "from timerxl.training.processes.distributed import DS_CONFIGS\n"
        "print(timerxl.__file__, *sorted(c.available_recipes()))\n"
        "print(*(p.name for p in sorted(DS_CONFIGS.iterdir())))",
        cwd=tmp_path,
    ).splitlines()  # fmt: skip
    module, *recipes = told[0].split()
    assert Path(module).is_relative_to(installed.parent)
    assert recipes == sorted(path.stem for path in (ROOT / "launch" / "recipes").iterdir())
    assert told[1].split() == sorted(path.name for path in (ROOT / "ds_configs").iterdir())

    timerxl = installed / "timerxl"
    assert run(timerxl, "--version", cwd=tmp_path).startswith("timerxl ")
    small = ["--config", "quickstart", *SMALL, "train.max_steps=10"]
    run(timerxl, "train", *small, "output_dir=rain", "train.trackers=[]", cwd=tmp_path)
    assert json.loads((tmp_path / "rain" / "status.json").read_text())["code"] == 0
    assert json.loads((tmp_path / "rain" / "results.json").read_text())["test"]
    for name in ("model/model.safetensors", "model/preprocessing.json", "report/index.html"):
        assert (tmp_path / "rain" / name).is_file()
    command = json.loads((tmp_path / "rain" / "environment.json").read_text())["command"]
    assert command.startswith("timerxl train --config quickstart")
    forecast = ["--model", "rain/model", "--input", "synthetic", "--output", "forecasts.csv"]
    run(timerxl, "predict", *forecast, cwd=tmp_path)
    assert len((tmp_path / "forecasts.csv").read_text().splitlines()) == 6  # five regions
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forecasts.csv", "rain"]
