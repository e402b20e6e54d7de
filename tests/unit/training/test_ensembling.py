"""An ensemble is the mean of its members' probabilities, and only what fits together is one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from timerxl.config import InputError
from timerxl.data.synthetic import load_synthetic
from timerxl.ensemble import ENSEMBLE, TREES, Ensemble
from timerxl.evaluation.blending import fit_blend
from timerxl.evaluation.boosted_trees import load_arrays, save_arrays
from timerxl.evaluation.calibration import fit_calibration
from timerxl.evaluation.scores import best_threshold
from timerxl.forecaster import Forecaster
from timerxl.training import ensembling
from timerxl.training.final_evaluation import EvaluationRequest, evaluate_saved

SHORT = ("train.max_steps=6", "eval.num_resamples=20")


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def build(runs: list[Path], output: Path, blend_trees: bool = False) -> dict[str, Any]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return ensembling.build_ensemble(
        runs, output, Accelerator(cpu=True), lambda sentence: None, blend_trees=blend_trees
    )


@pytest.fixture(scope="module")
def runs(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds, and another network of another recipe. Not to be changed."""
    home = tmp_path_factory.mktemp("runs")
    kinds: dict[str, list[str]] = {
        "zero": ["optim.lr=0.01"],
        "one": ["seed=1", "optim.lr=0.01"],
        "other": ["seed=2", "model.intermediate_size=16", "model.pooling=mean", "train.ema=0.9"],
    }
    return [train_tiny(home / name, *SHORT, *kinds[name]).folder for name in kinds]


@pytest.fixture(scope="module")
def made(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    before = [sums(run) for run in runs]
    output = tmp_path_factory.mktemp("ensemble") / "rain"
    found = build(runs, output)
    assert [sums(run) for run in runs] == before
    assert [path.name for path in output.parent.iterdir()] == ["rain"]
    return output, found


def test_the_probability_is_the_mean_of_the_members_own(
    made: tuple[Path, dict[str, Any]], runs: list[Path], tmp_path: Path
) -> None:
    """Loaded from another place, without the runs at hand."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(made[0], elsewhere)
    forecaster = Forecaster.from_pretrained(elsewhere, device="cpu")
    found = forecaster.predict(None)
    latest = forecaster.predict(None, at="latest", by_variable=True)
    each = [Forecaster.from_pretrained(run / "model", device="cpu").predict(None) for run in runs]
    keys = ["region", "issue_time"]
    raw = [
        found[keys].merge(one, on=keys, validate="1:1")["probability_raw"].to_numpy()
        for one in each
    ]
    assert all(len(one) == len(found) for one in each)
    spread = np.ptp(np.stack(raw), axis=0)
    assert spread.max() > 0.05
    np.testing.assert_allclose(found["probability_raw"], np.mean(raw, axis=0), rtol=0, atol=1e-6)
    saved = json.loads((made[0] / "preprocessing.json").read_text())
    assert (found["rain"] == (found["probability_raw"] >= saved["decision_threshold"])).all()
    assert np.isfinite(latest.filter(like="by_").to_numpy()).all()


def test_threshold_and_calibration_are_those_of_validation(
    made: tuple[Path, dict[str, Any]],
) -> None:
    output, found = made
    table = pd.read_parquet(output / "forecasts.parquet")
    part = table[table["split"] == "validation"]
    label, mean = part["label"].to_numpy(np.int64), part["model"].to_numpy()
    assert found["threshold"] == best_threshold(mean, label, "mcc")
    line = fit_calibration(mean, label)
    assert found["calibration"] == pytest.approx(line.to_dict(), rel=1e-9)
    np.testing.assert_allclose(
        table["model_calibrated"], line.apply(table["model"].to_numpy()), rtol=0, atol=1e-9
    )
    saved = json.loads((output / "preprocessing.json").read_text())
    assert saved["decision_threshold"] == found["threshold"]
    assert saved["calibration"] == found["calibration"]


@pytest.fixture
def other_test_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it rained in test it did not, and the reverse."""
    open_windows = ensembling.open_saved_windows

    def other_labels(*given: Any) -> Any:
        windows = open_windows(*given)
        label = windows.label.copy()
        rows = windows.issue_rows("test")
        label[rows] = 1 - label[rows]
        return replace(windows, label=label)

    monkeypatch.setattr(ensembling, "open_saved_windows", other_labels)


def test_labels_of_test_change_scores_alone(
    made: tuple[Path, dict[str, Any]],
    runs: list[Path],
    tmp_path: Path,
    other_test_labels: None,
) -> None:
    found = build(runs, tmp_path / "other")
    for key in ("threshold", "calibration", "validation", "baselines_validation"):
        assert json.dumps(found[key]) == json.dumps(made[1][key]), key  # NaN is NaN
    assert found["test"]["roc_auc"] == pytest.approx(1 - made[1]["test"]["roc_auc"])
    assert found["test"]["roc_auc"] != made[1]["test"]["roc_auc"]
    mine, theirs = (
        json.loads((folder / "preprocessing.json").read_text())
        for folder in (tmp_path / "other", made[0])
    )
    assert mine | {"scores": None} == theirs | {"scores": None}


def test_members_are_scored_beside_it_on_the_same_windows(
    made: tuple[Path, dict[str, Any]], runs: list[Path]
) -> None:
    found = made[1]
    assert [(one["name"], one["seed"]) for one in found["members"]] == [
        ("member_0", 0),
        ("member_1", 1),
        ("member_2", 2),
    ]
    for one, run in zip(found["members"][:2], runs, strict=False):
        own = json.loads((run / "results.json").read_text())
        for split in ("validation", "test"):
            assert one[split] == pytest.approx(own[split], abs=1e-6)
        if one["name"] == "member_0":  # whose seed draws the blocks
            expected = own["intervals"]["model"]["roc_auc"]
            assert one["intervals"]["roc_auc"] == pytest.approx(expected)
        assert one["differences"]["brier"]["low"] <= one["differences"]["brier"]["high"]
        # What every run of these splits is compared with.
        for name in ("climatology", "persistence"):
            assert found["baselines"][name] == pytest.approx(own["baselines"][name], abs=1e-9)


def test_evaluate_gives_its_numbers_again(made: tuple[Path, dict[str, Any]]) -> None:
    output, found = made
    AcceleratorState._reset_state(reset_partial_state=True)
    config = ensembling.read_yaml(output / "training_config.yaml")["eval"]
    request = EvaluationRequest(
        output,
        config=replace(
            EvaluationRequest(output).config,
            fitted_baselines=False,
            num_resamples=config["num_resamples"],
        ),
    )
    again = evaluate_saved(request, Accelerator(cpu=True), lambda sentence: None)
    (event,) = again["events"]
    assert event["scores"]["model"] == pytest.approx(found["test"], abs=1e-6)
    assert event["scores"]["model_calibrated"] == pytest.approx(found["test_calibrated"], abs=1e-6)
    assert event["intervals"]["model"]["roc_auc"] == pytest.approx(
        found["intervals"]["model"]["roc_auc"]
    )


@pytest.fixture(scope="module")
def blended(
    runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("blend") / "rain"
    return output, build(runs, output, blend_trees=True)


def test_a_blend_is_scored_beside_the_network_and_the_trees_alone(
    blended: tuple[Path, dict[str, Any]], made: tuple[Path, dict[str, Any]]
) -> None:
    output, found = blended
    network, trees = found["parts"]
    assert (network["name"], trees["name"]) == ("network", "trees")
    for split in ("validation", "test"):
        assert network[split] == pytest.approx(made[1][split], abs=1e-9)
    assert trees["test"] == pytest.approx(found["baselines"]["gradient_boosting"], abs=1e-9)
    for part in found["parts"]:
        assert part["differences"]["roc_auc"]["low"] <= part["differences"]["roc_auc"]["high"]
    assert network["differences"] != trees["differences"]
    assert found["test"] != made[1]["test"]
    # Fitted and calibrated on validation, from the columns of forecasts.parquet.
    table = pd.read_parquet(output / "forecasts.parquet")
    alone = pd.read_parquet(made[0] / "forecasts.parquet")["model"].to_numpy()
    beside = table["gradient_boosting"].to_numpy()
    is_validation = (table["split"] == "validation").to_numpy()
    fitted = fit_blend(
        alone[is_validation], beside[is_validation], table["label"].to_numpy()[is_validation]
    )
    assert found["blend"] == pytest.approx(fitted.to_dict(), rel=1e-6)
    np.testing.assert_allclose(table["model"], fitted.apply(alone, beside), atol=1e-7)
    line = fit_calibration(table["model"][is_validation], table["label"][is_validation])
    assert found["calibration"] == pytest.approx(line.to_dict(), rel=1e-9)


def test_the_folder_of_a_blend_forecasts_what_was_scored(
    blended: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """From another place, by the Forecaster and by the evaluation; no file is a pickle."""
    elsewhere = Path(shutil.copytree(blended[0], tmp_path / "elsewhere"))
    assert {path.suffix for path in elsewhere.rglob("*") if path.is_file()} <= {
        *(".json", ".safetensors", ".yaml", ".parquet", ".py")
    }
    forecaster = Forecaster.from_pretrained(elsewhere, device="cpu")
    keys = ["region", "issue_time"]
    scored = pd.read_parquet(elsewhere / "forecasts.parquet")
    both = forecaster.predict(None).merge(scored, on=keys, validate="1:1")
    assert len(both) == len(scored)
    np.testing.assert_allclose(both["probability_raw"], both["model"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(both["probability"], both["model_calibrated"], rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="blended with boosted trees does not tell"):
        forecaster.predict(None, at="latest", by_variable=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    request = EvaluationRequest(
        elsewhere,
        config=replace(EvaluationRequest(elsewhere).config, fitted_baselines=False),
    )
    (event,) = evaluate_saved(request, Accelerator(cpu=True), lambda sentence: None)["events"]
    assert event["scores"]["model"] == pytest.approx(blended[1]["test"], abs=1e-6)


def test_a_table_without_some_regions_is_forecast_by_a_blend(
    blended: tuple[Path, dict[str, Any]],
) -> None:
    """The trees know a region by its name, not by its place in the table."""
    forecaster = Forecaster.from_pretrained(blended[0], device="cpu")
    series = load_synthetic(forecaster.saved.data_config(None))
    table = pd.DataFrame(series.values, columns=series.feature_names)
    table["region"] = np.array(series.regions)[series.region_index]
    table["timestamp"] = series.timestamps
    whole = forecaster.predict(table, at="latest").set_index("region")["probability_raw"]
    kept = table[table["region"].isin(series.regions[2:4])]
    fewer = forecaster.predict(kept, at="latest").set_index("region")["probability_raw"]
    assert sorted(fewer.index) == sorted(series.regions[2:4])
    np.testing.assert_allclose(fewer, whole[fewer.index], rtol=0, atol=1e-6)


def test_labels_of_test_change_no_weight_of_a_blend(
    blended: tuple[Path, dict[str, Any]],
    runs: list[Path],
    tmp_path: Path,
    other_test_labels: None,
) -> None:
    found = build(runs, tmp_path / "other", blend_trees=True)
    for key in ("blend", "threshold", "calibration", "validation"):
        assert json.dumps(found[key]) == json.dumps(blended[1][key]), key


def blend_of(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return content | {"blend": content["blend"] | changes}


def fewer_regions(folder: Path) -> None:
    arrays = load_arrays(folder / TREES)
    save_arrays(arrays | {"neighbours": arrays["neighbours"][1:]}, folder / TREES)


def fewer_inputs(folder: Path) -> None:
    arrays = load_arrays(folder / TREES)
    save_arrays(arrays | {"unseen": arrays["unseen"][1:]}, folder / TREES)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content | {"format": 3},
        lambda content: {key: content[key] for key in ("format", "members")},
        lambda content: blend_of(content, network="1"),
        lambda content: blend_of(content, trees=float("nan")),
        lambda content: blend_of(content, intercept=1e9),
    ],
)
def test_weights_that_are_none_are_refused(
    edit: Callable[[dict[str, Any]], dict[str, Any]],
    blended: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(blended[0], tmp_path / "rain"))
    content = json.loads((folder / ENSEMBLE).read_text())
    (folder / ENSEMBLE).write_text(json.dumps(edit(content)))
    with pytest.raises(InputError, match=ENSEMBLE):
        Forecaster.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / TREES).unlink(),
        lambda folder: (folder / TREES).write_bytes((folder / TREES).read_bytes()[:-20]),
        fewer_regions,
        fewer_inputs,
    ],
)
def test_spoiled_trees_are_refused(
    spoil: Callable[[Path], object], blended: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(blended[0], tmp_path / "rain"))
    spoil(folder)
    with pytest.raises(InputError):
        Forecaster.from_pretrained(folder, device="cpu").predict(None, at="latest")


def changed(run: Path, place: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose preprocessing.json says something else."""
    copy = Path(shutil.copytree(run, place))
    path = copy / "model" / "preprocessing.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda c: c["label"].update(threshold_mm=1.0), "label is"),
        (lambda c: c.update(step_hours=24.0), "step_hours is 12"),
        (lambda c: c.update(context_length=24), "context_length is 16 and 24"),
        (lambda c: c["split"].update(test_from="2024-12-02T00:00:00"), r"split\.test_from is"),
        (lambda c: c["split"].update(window_stride_hours=24.0), r"split\.window_stride_hours is"),
        (lambda c: c["feature_names"].__setitem__(3, "another"), "feature_names is"),
        (lambda c: c["scaling"]["mean"].__setitem__(0, 9.0), "scaling is"),
        (lambda c: c.update(regions=[f"{name}2" for name in c["regions"]]), "regions is"),
        (lambda c: c["source"].update(seed=7), r"source\.seed is"),
        (lambda c: c["source"].update(sha256="0" * 64), r"source\.sha256 is"),
        (lambda c: c.update(is_synthetic=False), "is_synthetic is"),
    ],
)
def test_runs_that_do_not_fit_together_are_refused(
    edit: Callable[[dict[str, Any]], object], named: str, runs: list[Path], tmp_path: Path
) -> None:
    other = changed(runs[1], tmp_path / "changed", edit)
    with pytest.raises(InputError, match=f"do not fit together: .*{named}"):
        build([runs[0], other], tmp_path / "output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed"]


def test_other_input_that_can_t_be_one_forecaster(
    runs: list[Path], tmp_path: Path, train_tiny: Callable[..., Any]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    damaged = Path(shutil.copytree(runs[1], tmp_path / "damaged"))
    with (damaged / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    unfinished = Path(shutil.copytree(runs[1], tmp_path / "unfinished"))
    (unfinished / "results.json").unlink()
    watched = Path(shutil.copytree(runs[1], tmp_path / "watched"))
    sampled = Path(shutil.copytree(runs[1], tmp_path / "sampled"))
    for folder, old, new in (
        (watched, "test_every_epoch: false", "test_every_epoch: true"),
        (sampled, "max_windows: null", "max_windows: 9"),
    ):
        text = (folder / "config.yaml").read_text()
        assert old in text
        (folder / "config.yaml").write_text(text.replace(old, new))
    before, new = sums(tmp_path), tmp_path / "new"
    for given, output, said in (
        (runs[:1], new, "1 run given; expected 2"),
        ([runs[0], runs[0]], new, "named twice"),
        ([runs[0], tmp_path / "none"], new, "holds no config.yaml"),
        ([runs[0], damaged], new, "is damaged"),
        ([runs[0], unfinished], new, "holds no results.json"),
        ([runs[0], watched], new, "scored test at every evaluation"),
        ([runs[0], sampled], new, r"eval\.max_windows is None and 9"),
        ([sampled, changed(sampled, tmp_path / "copy", lambda c: None)], new, None),
        (runs[:2], tmp_path / "full", "is there already"),
        (runs[:2], runs[0] / "ensemble", "lies in"),
    ):
        if said is None:
            continue
        with pytest.raises(InputError, match=said):
            build(given, output)
    shutil.rmtree(tmp_path / "copy")
    assert sums(tmp_path) == before
    assert not new.exists()


def listing(members: Any, number: Any = 1) -> str:
    return json.dumps({"format": number, "members": members})


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", "no JSON", listing([]), listing(["member_0"]), listing("member_0")),
        *(listing(["member_0", "member_1"], 2), listing(["member_0", "member_1"], True)),
        listing(["member_0", "../member_1"]),
        listing(["member_0", "/etc"]),
        listing(["member_0", "member_0"]),
        listing(["member_1", "member_0"]),
        listing(["member_0", "member_2"]),
        listing(["member_0", 1]),
        listing([f"member_{index}" for index in range(65)]),
    ],
)
def test_a_list_of_members_that_is_none_is_refused(
    text: str, made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made[0], tmp_path / "ensemble"))
    (folder / ENSEMBLE).write_text(text)
    with pytest.raises(InputError, match=ENSEMBLE):
        Forecaster.from_pretrained(folder, device="cpu")


def test_links_and_members_of_another_kind_are_refused(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    for case in ("folder", "weights", "list", "missing", "other label", "context"):
        folder = Path(shutil.copytree(made[0], tmp_path / case))
        member, preprocessing = folder / "member_1", folder / "member_1" / "preprocessing.json"
        if case == "folder":
            shutil.rmtree(member)
            member.symlink_to(made[0] / "member_1")
        elif case == "weights":
            (member / "model.safetensors").unlink()
            (member / "model.safetensors").symlink_to(made[0] / "member_1" / "model.safetensors")
        elif case == "list":
            (folder / ENSEMBLE).unlink()
            (folder / ENSEMBLE).symlink_to(made[0] / ENSEMBLE)
        elif case == "missing":
            shutil.rmtree(member)
        else:
            preprocessing = folder / "preprocessing.json" if case == "context" else preprocessing
            content = json.loads(preprocessing.read_text())
            content["context_length"] = 64 if case == "context" else content["context_length"]
            content["label"]["text"] = "another" if case != "context" else content["label"]["text"]
            preprocessing.write_text(json.dumps(content))
        with pytest.raises(InputError):
            Forecaster.from_pretrained(folder, device="cpu")
    found = Forecaster.from_pretrained(made[0], device="cpu").model
    assert isinstance(found, Ensemble)
