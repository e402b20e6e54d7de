"""What notebooks, clusters and launchers put into the environment, on the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import processes
import pytest
from processes import ACCELERATE, ROOT, TORCHRUN
from settings import ONE_LABEL

from timerxl.cli import COMMANDS

pytestmark = pytest.mark.slow

CONFIGS = ROOT.parent / "shared" / "data" / "cases" / "deepspeed_configs"
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 data.train_fraction=0.35 data.validation_fraction=0.35 "
    "model.patch_length=8 model.context_length=16 model.hidden_size=16 model.intermediate_size=32 "
    "model.num_hidden_layers=1 train.batch_size=128 train.max_steps=4 train.trackers=[] "
    "eval.fitted_baselines=false eval.num_resamples=0 eval.every_steps=0"
).split()
NO_PICTURES = {"audit", "convert", "prepare-data"}  # they import no matplotlib
# Colab and Kaggle hand this to every command; the module is not in our environment.
NOTEBOOK = {"MPLBACKEND": "module://not_installed_here.backend_inline", "COLAB_RELEASE_TAG": "x"}


def start_anew(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own: what it imports sees this environment."""
    return subprocess.run(
        words, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


def start(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return processes.run(words, env=os.environ | environment)


def train(launcher: list[str], folder: Path, *overrides: str, **environment: str) -> Any:
    command = [*launcher, "launch/train.py", "--config", "quickstart", *TINY, *overrides]
    return start([*command, f"output_dir={folder}"], **environment)


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained under a notebook's environment, with a RANK that an earlier cell left behind."""
    folder = tmp_path_factory.mktemp("notebook") / "run"
    words = [sys.executable, "launch/train.py", "--config", "quickstart", *TINY]
    words += ["train.trackers=[tensorboard]", f"output_dir={folder}"]
    done = start_anew(words, RANK="1", LOCAL_RANK="1", **NOTEBOOK)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation loss" in done.stdout  # the main process speaks, whatever RANK says
    assert status(folder) == {"code": 0, "reason": "finished"}
    assert "<svg" in (folder / "report" / "index.html").read_text()
    return folder


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_PICTURES))
def test_a_command_leaves_a_notebook_s_pictures_to_the_notebook(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before its first library is imported, which would look for the notebook's module."""
    monkeypatch.setenv("MPLBACKEND", NOTEBOOK["MPLBACKEND"])
    with pytest.raises(SystemExit):
        import_module(f"timerxl.cli.{name.replace('-', '_')}").main(["--help"])
    assert os.environ["MPLBACKEND"] == "agg"


def test_pictures_without_our_commands(run: Path) -> None:
    code = "import sys; from pathlib import Path; from timerxl.report.page import write_report; "
    done = start_anew(
        [sys.executable, "-c", code + "write_report(Path(sys.argv[1]))", str(run)], **NOTEBOOK
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_evaluation_is_fp32_whatever_the_launcher_says(run: Path) -> None:
    words = "launch/evaluate.py --no-fitted-baselines --resamples 0 --json --model".split()
    plain = start([sys.executable, *words, f"{run}/model"])
    launched = start([*ACCELERATE, "--mixed_precision", "bf16", *words, f"{run}/model"])
    assert launched.returncode == plain.returncode == 0, launched.stderr[-3000:]
    found = json.loads(launched.stdout[launched.stdout.index("{") :])
    assert found == json.loads(plain.stdout)


def test_accumulation_of_the_environment_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = train([sys.executable], folder, ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    assert done.returncode == 2
    assert status(folder)["code"] == 2
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is 4" in status(folder)["reason"]
    assert done.stderr == f"error: {status(folder)['reason']}\n"


def test_plain_torchrun_without_a_gpu_is_one_group(tmp_path: Path) -> None:
    """Two processes that each took themselves for the main one crashed at the first evaluation."""
    folder = tmp_path / "run"
    done = train([*TORCHRUN, "2"], folder, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on CPU, MULTI_CPU" in done.stdout
    assert "2 processes make the global batch 2 times the recipe's" in done.stdout
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2


def test_a_gpu_that_is_allotted_and_not_there_is_refused(tmp_path: Path) -> None:
    folder, allotted = tmp_path / "run", {"CUDA_VISIBLE_DEVICES": "0"}
    done = train([sys.executable], folder, **allotted)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "CUDA_VISIBLE_DEVICES=0" in status(folder)["reason"]
    assert "ACCELERATE_USE_CPU=true" in status(folder)["reason"]
    done = train([*ACCELERATE, "--cpu"], folder, **allotted)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_gpu_of_the_environment_stays(tmp_path: Path) -> None:
    """single_gpu.yaml's gpu_ids made 0 of 3."""
    show = tmp_path / "show.py"
    show.write_text("import os; print('sees', os.environ.get('CUDA_VISIBLE_DEVICES'))")
    config = ["--config_file", "accelerate_configs/single_gpu.yaml"]
    done = start([*ACCELERATE, *config, str(show)], CUDA_VISIBLE_DEVICES="3")
    assert "sees 3" in done.stdout


@pytest.mark.skipif(not CONFIGS.is_dir(), reason="needs shared/data/cases/deepspeed_configs")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("acc4.yaml", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS is 4 in the environment"),
        ("bf16_auto.json", None),
        ("hf_auto.json", None),
        ("no_zero.json", "has no zero_optimization"),
        ("optimizer_only.json", "brings its own optimizer"),
        ("questionnaire.yaml", None),
        ("zero3.json", "ZeRO stage 3; expected 2"),
    ],
)
def test_deepspeed_as_people_configure_it(name: str, words: str | None, tmp_path: Path) -> None:
    path, folder = CONFIGS / name, tmp_path / "run"
    launcher = [*ACCELERATE, "--config_file", str(path)]
    if path.suffix == ".json":
        launcher = [*ACCELERATE, "--use_deepspeed", "--num_processes", "1"]
        launcher += ["--deepspeed_config_file", str(path)]
    done = train(launcher, folder)
    found = status(folder)
    if words is None:
        assert found == {"code": 0, "reason": "finished"}, done.stderr[-3000:]
        assert "DEEPSPEED, ZeRO stage 2" in done.stdout
        settings = json.loads(next(folder.glob("checkpoints/*/trainer_state.json")).read_text())
        assert settings["precision"] == "fp32"
        assert len(pd.read_parquet(folder / "forecasts.parquet")) > 0
    else:
        assert done.returncode == 1  # the launcher's own
        assert found["code"] == 2
        assert words in found["reason"]
        assert f"error: {found['reason']}\n" in done.stderr
        assert 'launch/train.py", line' not in done.stderr  # the launcher's traceback alone


def test_a_tracker_misspelt_or_not_installed_is_one_sentence(tmp_path: Path) -> None:
    for name, words in (("tensorbord", "expected some of aim"), ("aim", "aim, which is not inst")):
        folder = tmp_path / name
        done = train([sys.executable], folder, f"train.trackers=[{name}]")
        assert done.returncode == 2
        assert words in status(folder)["reason"]
        assert done.stderr.count("\n") == 1
        assert sorted(path.name for path in folder.iterdir()) == ["status.json"]
