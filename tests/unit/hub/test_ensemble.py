"""An ensemble is published as one folder: these files and no others, loadable from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from spoiled_runs import sums

from timerxl.cli import publish
from timerxl.config import InputError, load_recipe
from timerxl.forecaster import Forecaster
from timerxl.hub.package import OPTIONAL, stage
from timerxl.hub.record import read_record
from timerxl.training import run as training
from timerxl.training.ensembling import build_ensemble

OF_A_MEMBER = [
    "attention_timerxl.py",
    "config.json",
    "configuration_timerxl.py",
    "feature_extraction_timerxl.py",
    "model.safetensors",
    "modeling_timerxl.py",
    "preprocessing.json",
    "preprocessor_config.json",
]
FILES = ["README.md", "ensemble.json", "preprocessing.json", "results.json", "training_config.yaml"]
FILES += [f"member_{index}/{name}" for index in (0, 1) for name in OF_A_MEMBER]


@pytest.fixture(scope="module")
def ensemble(finished: Path, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two seeds; not to be changed."""
    home = tmp_path_factory.mktemp("ensemble")
    other = home / "other"
    for _ in ("the other run", "the ensemble"):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        if not other.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LOCAL_WORLD_SIZE", str(len(os.sched_getaffinity(0))))
                training.train(load_recipe("quickstart", [*tiny, "seed=1", f"output_dir={other}"]))
    build_ensemble([finished, other], home / "rain", Accelerator(cpu=True), lambda sentence: None)
    return home / "rain"


def test_a_dry_run_lists_and_writes_exactly_its_files(
    ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sums(ensemble)
    package = tmp_path / "package"
    words = ["--run", str(ensemble), "--repo-id", "ana/rain", "--dry-run", str(package)]
    assert publish.main(words) == 0
    assert sums(ensemble) == before
    assert sorted(sums(package)) == sorted(FILES)
    shown = capsys.readouterr().out.splitlines()
    listed = [line.partition("  ")[0] for line in shown if line.endswith(" bytes")]
    assert sorted(listed) == sorted(FILES)
    assert not any(line.startswith("left out") for line in shown)
    assert str(ensemble.parent) not in "".join(
        path.read_text() for path in package.rglob("*.*") if path.suffix != ".safetensors"
    )
    found, expected = (
        Forecaster.from_pretrained(folder, device="cpu").predict(None, at="latest")
        for folder in (package, ensemble)
    )
    for name in ("probability", "probability_raw", "rain"):
        np.testing.assert_array_equal(found[name], expected[name])
    one = Forecaster.from_pretrained(package / "member_1", device="cpu").predict(None, at="latest")
    assert np.abs(one["probability_raw"] - found["probability_raw"]).max() > 1e-3

    card = (package / "README.md").read_text()
    assert "The mean of 2 [Timer-XL]" in card
    assert "| member\\_1 | quickstart, seed 1 |" in card
    assert "One run, seed" not in card
    assert "AutoModel" not in card
    results = json.loads((package / "results.json").read_text())
    mine = json.loads((ensemble / "results.json").read_text())
    assert results["members"] == mine["members"]


@pytest.mark.slow
def test_a_blend_is_published_with_its_trees(
    finished: Path, ensemble: Path, tmp_path: Path
) -> None:
    runs = [finished, ensemble.parent / "other"]
    AcceleratorState._reset_state(reset_partial_state=True)
    build_ensemble(
        runs, tmp_path / "rain", Accelerator(cpu=True), lambda sentence: None, blend_trees=True
    )
    package = stage(read_record(tmp_path / "rain"), tmp_path / "staged", "ana/rain")
    assert sorted(package.files) == sorted([*FILES, "trees.safetensors"])
    assert "trees.safetensors" in OPTIONAL
    found, expected = (
        Forecaster.from_pretrained(folder, device="cpu").predict(None, at="latest")
        for folder in (package.folder, tmp_path / "rain")
    )
    for name in ("probability", "probability_raw", "rain"):
        np.testing.assert_array_equal(found[name], expected[name])
    card = (package.folder / "README.md").read_text()
    weights = json.loads((tmp_path / "rain" / "results.json").read_text())["blend"]
    assert "blended with boosted trees on lagged values" in card
    assert f"{weights['network']:g} for the mean, {weights['trees']:g} for the trees" in card
    assert "fitted on validation" in card
    assert "| trees | alone |" in card
    assert package.num_left == 0
    (tmp_path / "rain" / "trees.safetensors").unlink()
    with pytest.raises(InputError, match=r"trees\.safetensors"):
        stage(read_record(tmp_path / "rain"), tmp_path / "again", "ana/rain")


def test_what_it_takes_the_place_of_is_removed(
    ensemble: Path, finished: Path, tmp_path: Path
) -> None:
    """A model over an ensemble, an ensemble over a model: nothing of the other is left."""
    of_both = stage(read_record(ensemble), tmp_path / "both", "ana/rain").files
    of_one = stage(read_record(finished), tmp_path / "one", "ana/rain").files
    assert set(of_both) - set(of_one) <= set(OPTIONAL)
    assert set(of_one) - set(of_both) <= set(OPTIONAL)
    assert {"ensemble.json", "member_0/model.safetensors"} <= set(of_both) - set(of_one)


def linked(path: Path) -> None:
    target = path.with_name(f"{path.name}.elsewhere")
    path.rename(target)
    path.symlink_to(target)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("ensemble.json", linked),
        ("preprocessing.json", linked),
        ("training_config.yaml", linked),
        ("results.json", linked),
        ("member_1", linked),
        ("member_1/config.json", linked),
        ("member_0/model.safetensors", linked),
        ("member_0/model.safetensors", cut),
        ("member_1/preprocessing.json", Path.unlink),
        ("member_1", shutil.rmtree),
        ("results.json", Path.unlink),
        ("training_config.yaml", Path.unlink),
    ],
)
def test_a_spoiled_one_is_not_published(
    name: str, spoil: Callable[[Path], object], ensemble: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ensemble, tmp_path / "rain"))
    spoil(folder / name)
    with pytest.raises(InputError):
        stage(read_record(folder), tmp_path / "staged", "ana/rain")


def test_what_is_not_on_the_list_stays_here(ensemble: Path, tmp_path: Path) -> None:
    """In a member as in the ensemble's own files."""
    folder = Path(shutil.copytree(ensemble, tmp_path / "rain"))
    for name in ("preprocessing.json", "member_1/preprocessing.json", "results.json"):
        content = json.loads((folder / name).read_text())
        content["private"] = "/tmp/ana/rain"
        content.setdefault("source", {})["host"] = "ana-laptop"
        if "members" in content:
            content["members"][1]["private"] = "/tmp/ana/rain"
        (folder / name).write_text(json.dumps(content))
    (folder / "member_1" / "notes.txt").write_text("/tmp/ana")
    package = stage(read_record(folder), tmp_path / "staged", "ana/rain")
    assert sorted(package.files) == sorted(FILES)
    for path in package.folder.rglob("*.*"):
        if path.suffix != ".safetensors":
            assert "ana-laptop" not in path.read_text()
            assert "/tmp/ana" not in path.read_text()
    assert package.listings["member_1/preprocessing.json"].num_left == 2
