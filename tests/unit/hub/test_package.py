"""What is published: these files and no others, loadable, and with nothing private in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spoiled_runs import SECRET, as_stopped, edit, home, rename_regions, sums

import timerxl.model
from timerxl.config import InputError, load_recipe
from timerxl.forecaster import Forecaster
from timerxl.hub.package import Package, stage
from timerxl.hub.record import read_record
from timerxl.model import TimerXLForClassification

FILES = [
    "README.md",
    "attention_timerxl.py",
    "config.json",
    "configuration_timerxl.py",
    "feature_extraction_timerxl.py",
    "metrics.jsonl",
    "model.safetensors",
    "modeling_timerxl.py",
    "preprocessing.json",
    "preprocessor_config.json",
    "report/index.html",
    "results.json",
    "training_config.yaml",
    "verdict.json",
]


def staged(run: Path, tmp_path: Path, force: bool = False) -> Package:
    return stage(read_record(run, force), tmp_path / "staged", "ana/rain")


def refused(run: Path, tmp_path: Path, force: bool = False) -> str:
    before = sums(run)
    with pytest.raises(InputError) as caught:
        staged(run, tmp_path, force)
    assert sums(run) == before
    return str(caught.value)


def test_the_files(package: Package, finished: Path) -> None:
    assert sorted(package.files) == FILES
    assert set(sums(package.folder)) == set(FILES)
    assert package.num_bytes == sum(p.stat().st_size for p in package.folder.rglob("*.*"))


def test_what_is_not_private_is_sent_as_it_is(package: Package, finished: Path) -> None:
    theirs, ours = sums(finished), sums(package.folder)
    for name in FILES:
        if name.endswith((".py", ".safetensors")) or name == "config.json":
            assert ours[name] == theirs[f"model/{name}"], name
    for name in ("results.json", "verdict.json", "metrics.jsonl"):
        assert ours[name] == theirs[name], name
    assert ours["preprocessing.json"] == theirs["model/preprocessing.json"]


def test_the_settings_can_be_trained_with_again(package: Package, finished: Path) -> None:
    again = load_recipe(str(package.folder / "training_config.yaml"))
    before = load_recipe(str(finished / "config.yaml"))
    assert again.output_dir == "rainy-run"
    again.output_dir = before.output_dir
    assert again == before
    model = TimerXLForClassification.from_pretrained(package.folder)
    assert model.config.hidden_size == 16


ODD = ["tp@850", "/norte/sur", "~x/y", "C:/lima", "runs/tp.csv", "tp <mm/h> & @500"]


def rename(run: Path, names: list[str], regions: list[str]) -> None:
    """Other names for the first features and regions, wherever a run holds them."""

    def preprocessing(saved: dict[str, Any]) -> None:
        old = saved["feature_names"]
        logged = [names[old.index(n)] for n in saved["scaling"]["log1p"] if n in old[: len(names)]]
        saved["scaling"]["log1p"] = logged
        saved["feature_names"] = names + old[len(names) :]
        rename_regions(saved, regions)
        saved["data"]["features"] = saved["feature_names"]
        saved["data"]["region_column"] = "place@site"

    edit(run / "model" / "preprocessing.json", preprocessing)
    edit(
        run / "audit.json", lambda _: {"lines": [f"warning: {names[:1]} is missing in 3 regions."]}
    )


def test_names_that_look_private_are_kept(run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "model" / "preprocessing.json").read_text())
    rename(run, ODD, ["lima@norte", "/a/b/c"])
    config = {"id2label": {"0": "dry/no/rain", "1": "rain@all"}, "_name_or_path": home("m")}
    edit(run / "model" / "config.json", lambda content: content | config)
    package = staged(run, tmp_path)
    saved = json.loads((package.folder / "preprocessing.json").read_text())
    assert saved["feature_names"] == ODD + before["feature_names"][len(ODD) :]
    assert saved["regions"][:2] == ["lima@norte", "/a/b/c"]
    assert saved["data"]["region_column"] == "place@site"
    written = json.loads((package.folder / "config.json").read_text())
    assert written["id2label"] == config["id2label"]
    assert "_name_or_path" not in written
    forecaster = Forecaster.from_pretrained(package.folder)
    assert forecaster.saved.content["feature_names"] == saved["feature_names"]
    card = (package.folder / "README.md").read_text()
    assert "warning: \\['tp@850'\\] is missing in 3 regions." in card
    assert "`tp@850`, `/norte/sur`, `~x/y`" in card


@pytest.mark.parametrize(
    ("name", "said"), [(f"tp {SECRET}", "a token"), ("tp of {run}", "a folder of this machine")]
)
def test_a_name_that_is_private_is_refused(run: Path, tmp_path: Path, name: str, said: str) -> None:
    rename(run, [name.format(run=run)], [])
    message = refused(run, tmp_path)
    assert f"feature, region or column of the model is named after {said}" in message
    assert "Rename it in the table" in message
    assert SECRET not in message


def test_what_nobody_could_load_is_not_published(run: Path, tmp_path: Path) -> None:
    edit(run / "model" / "preprocessing.json", lambda saved: saved | {"context_length": 17})
    message = refused(run, tmp_path)
    assert "nobody could load it: the package holds no model with patches that divide 17" in message
    assert str(tmp_path) not in message


def test_the_code_is_that_of_this_package(run: Path, tmp_path: Path) -> None:
    ours = {path.name: path.read_bytes() for path in Path(timerxl.model.__file__).parent.glob("*")
            if path.name.endswith("_timerxl.py")}  # fmt: skip
    program = run / "model" / "modeling_timerxl.py"
    program.write_text(program.read_text() + f'TOKEN = "{SECRET}"')
    (run / "model" / "attention_timerxl.py").unlink()
    (run / "model" / "evil_timerxl.py").write_text("import os")

    def point(config: dict[str, Any]) -> None:
        config["auto_map"] = {"AutoConfig": "evil/code--evil_timerxl.Evil"}
        config["architectures"] = ["EvilModel"]
        config["attn_implementation"] = "evil/kernel"

    before = json.loads((run / "model" / "config.json").read_text())
    edit(run / "model" / "config.json", point)
    package = staged(run, tmp_path)
    assert sorted(package.files) == FILES
    for name in FILES:
        if name.endswith(".py"):
            assert (package.folder / name).read_bytes() == ours[name], name
    assert json.loads((package.folder / "config.json").read_text()) == before


WEIGHTS, DAMAGED = "model/model.safetensors", "model.safetensors is damaged, or no safetensors file"
# What is done to a run: (file, its new text; None removes it), and what is said then.
BAD: dict[str, tuple[dict[str, str | bytes | None], list[str]]] = {
    "no config": ({"config.yaml": None}, ["is no run folder", "config.yaml"]),
    "no model": ({"model": None}, ["no model/"]),
    "no weights": ({WEIGHTS: None}, ["rainy-run/model holds no model.safetensors"]),
    "other weights": ({WEIGHTS: b"rain"}, [DAMAGED]),
    "damaged results": ({"results.json": '{"test": '}, ["results.json can't be read"]),
    "no scores": ({"results.json": '{"test": [0.5]}'}, ["can't be published: it has no test."]),
    "failed": (
        {"results.json": None, "status.json": '{"code": 1, "reason": "the loss is nan."}'},
        ["can't be published", "no results.json", "code 1: the loss is nan"],
    ),
    "still running": (
        {"results.json": None, "status.json": '{"code": 1, "reason": "running"}'},
        ["no results.json", "code 1: running", "Wait for the run"],
    ),
    "no status": (
        {"results.json": None, "status.json": None},
        ["no results.json", "status.json is missing"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_t_be_published_even_by_force(case: str, run: Path, tmp_path: Path) -> None:
    changes, named = BAD[case]
    for name, content in changes.items():
        if content is None:
            (run / name).rename(run.parent / f"gone {Path(name).name}")
        else:
            (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(run, tmp_path, force=True)
    for words in named:
        assert words in message
    assert ".." not in message


def test_weights_that_were_cut_off_are_refused(run: Path, tmp_path: Path) -> None:
    weights = run / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert DAMAGED in refused(run, tmp_path)


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there's no such folder"):
        read_record(tmp_path / "nowhere")


@pytest.mark.parametrize("has_best", [True, False])
def test_a_stopped_run_needs_force(run: Path, tmp_path: Path, has_best: bool) -> None:
    as_stopped(run, has_best)
    message = refused(run, tmp_path)
    assert "it was stopped by the monitor collapse (certain)" in message
    assert "--force" in message
    package = staged(run, tmp_path, force=True)
    assert "results.json" not in package.files
    folder = "model" if has_best else "checkpoints/step_00000004"
    weights = sums(run)[f"{folder}/model.safetensors"]
    assert sums(package.folder)["model.safetensors"] == weights


@pytest.mark.parametrize("status", [{"code": 1, "reason": "the disk is full"}, None])
def test_a_failed_run_with_results_needs_force(
    run: Path, tmp_path: Path, status: dict[str, object] | None
) -> None:
    (run / "status.json").unlink()
    if status:
        (run / "status.json").write_text(json.dumps(status))
    assert "--force" in refused(run, tmp_path)
    assert "FAILED RUN" in (staged(run, tmp_path, force=True).folder / "README.md").read_text()


def test_a_run_under_way_is_a_matter_of_the_background(run: Path) -> None:
    edit(run / "status.json", lambda _: {"code": 1, "reason": "running"})
    assert read_record(run, under_way=True).outcome == "finished"  # all but status.json is there
    (run / "results.json").unlink()
    assert read_record(run, under_way=True).outcome == "running"


def test_a_run_is_named_by_its_folder_not_by_where_it_lies(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert read_record(Path()).name == "rainy-run"
    edit(run / "verdict.json", lambda _: {"said": f"{run}/model and {home('x')}"})
    assert read_record(Path()).verdict == {}


def test_the_extractor_is_made_of_what_is_published(run: Path, tmp_path: Path) -> None:
    path = run / "model" / "preprocessor_config.json"
    own = json.loads(path.read_text())
    evil = {"auto_map": {"AutoFeatureExtractor": "evil--evil.Evil"}, "mean": home()}
    path.write_text(json.dumps(evil))
    (run / "model" / "feature_extraction_timerxl.py").write_text("import os")
    folder = staged(run, tmp_path).folder
    published = json.loads((folder / path.name).read_text())
    assert published == own
    assert (
        published["mean"]
        == (json.loads((folder / "preprocessing.json").read_text())["scaling"]["mean"])
    )
    code = "feature_extraction_timerxl.py"
    ours = Path(timerxl.model.__file__).with_name(code)
    assert (folder / code).read_bytes() == ours.read_bytes()
    path.unlink()  # of an older run
    again = staged(run, tmp_path / "again").folder
    assert json.loads((again / path.name).read_text()) == own
