"""Runs by strangers: what they plant in a run's files is neither published nor printed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from spoiled_runs import as_stopped, edit, rename_regions, sums

from timerxl.cli import publish
from timerxl.config import InputError, RunConfig, available_recipes, load_recipe
from timerxl.forecaster import Forecaster
from timerxl.hub import allowed
from timerxl.hub.package import Package, stage
from timerxl.hub.record import read_record

ROOT = Path(__file__).resolve().parents[3]
MARK = "qzx7Planted"
KERNEL = f"Linux-6.18.44-{MARK}-x86_64-with-glibc2.36"
TOKEN = "glpat-" + MARK + "0aB1cD2eF3gH"
PROSE = f"{MARK} could not open it on node7"
PLANTED = {"kernel": KERNEL, "token": TOKEN, "prose": PROSE}
JSON_FILES = (
    "results.json verdict.json environment.json audit.json status.json model/config.json "
    "model/preprocessing.json"
).split()
# What the model is of no use without: a name is published as it is, or the run is refused.
NAMES = (
    "feature_names regions static_feature_names log1p precipitation_feature by_region column "
    "timestamp_column region_column precipitation_column label_column id2label label2id"
).split()


def parsed(run: Path, name: str) -> Any:
    text = (run / name).read_text()
    if name == "metrics.jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return yaml.safe_load(text) if name == "config.yaml" else json.loads(text)


def write(run: Path, name: str, content: Any) -> None:
    if name == "metrics.jsonl":
        text = "".join(json.dumps(line) + "\n" for line in content)
    else:
        text = yaml.safe_dump(content, sort_keys=False) if name == "config.yaml" else ""
    (run / name).write_text(text or json.dumps(content))


def texts(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts of a content stand."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from texts(value, (*path, key))
        elif isinstance(value, str):
            yield (*path, key)


def planted_at(content: Any, path: tuple[Any, ...], planted: str) -> Any:
    """A copy with another text there."""
    content = json.loads(json.dumps(content))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = planted
    return content


def with_keys(content: Any, planted: str) -> Any:
    """Every mapping with keys that nobody knows, planted texts in their names and values."""
    if isinstance(content, list):
        return [with_keys(item, planted) for item in content]
    if not isinstance(content, dict):
        return content
    found = {key: with_keys(value, planted) for key, value in content.items()}
    if {"selva", "tp", "0", "rain"} & content.keys():  # a name too much is another model
        return found
    return found | {planted: planted, "note": planted, "said": {"lines": [planted]}, "n": [planted]}


def staged(run: Path, folder: Path, force: bool = False) -> Package:
    shutil.rmtree(folder, ignore_errors=True)
    return stage(read_record(run, force), folder, "ana/rain")


def assert_nothing_planted(package: Package) -> None:
    for path in package.folder.rglob("*"):
        assert MARK not in path.name
        if path.is_file():
            assert MARK.encode() not in path.read_bytes(), path.name


def with_all_kinds_of_text(run: Path) -> None:
    """A run whose files hold every text that a run may write."""
    verdict = {
        **{"name": "slow", "severity": "suspected", "epoch": 0.1, "step": 3, "action": "warn"},
        "evidence": {"epoch_seconds": 9.0, "batch": "3 windows of selva", "features": ["tp"]},
        "explanation": "an epoch takes 9.0 minutes.",
        "remedy": "Is the device shared?",
    }
    edit(run / "verdict.json", lambda found: found | {"verdicts": [verdict]})
    edit(run / "results.json", lambda found: found | {"no_interval": "no resamples"})
    record = {"name": "tp", "unit": {"value": "mm", "known_by": "file", "evidence": "units"}}
    record["time"] = {"value": {"kind": "instant", "hours": None}, "known_by": "said"}  # type: ignore[assignment]
    prepared = {"precipitation": {"column": "tp"}, "sources": [{"file": "a.nc"}]}
    told = {"path": "a.parquet", "sha256": "0" * 64, "skipped_columns": {"a": "text"}}
    told |= {"records": {"tp": record}, "prepared": prepared}

    def source(saved: dict[str, Any]) -> None:
        saved["source"] |= told
        saved["stopped_by"] = verdict

    edit(run / "model" / "preprocessing.json", source)
    events = parsed(run, "metrics.jsonl")
    events += [
        {"event": "plan", "peak_memory_gib": 1.0, "summary": "plan: peak about 1 GiB"},
        {"event": "resume", "step": 3, "checkpoint": "step_00000003"},
        {"event": "expectation", "epoch": 1.0, "score": "f1", "value": 0.1},
        {"event": "train", "step": 5, "epoch": 0.2, "batch": "3 windows of selva"},
        {"event": "verdict", **verdict},
    ]
    write(run, "metrics.jsonl", events)
    config = parsed(run, "config.yaml")
    config["hub"]["data_licence"] = "CC BY 4.0"
    config["data"]["path"] = "a.parquet"
    config["train"]["mirror"], config["model"]["pretrained"] = "s3://b/c", "w.pth"
    write(run, "config.yaml", config)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", *JSON_FILES])
def test_a_text_planted_anywhere_stays_at_home(run: Path, tmp_path: Path, name: str) -> None:
    """One at a time, read as it would be published; the page and the card are made of that."""
    with_all_kinds_of_text(run)
    content = parsed(run, name)
    places = list(texts(content))
    if name == "metrics.jsonl":  # of a kind one is enough
        places = list({(content[p[0]]["event"], *p[1:]): p for p in places}.values())
    for path in places:
        write(run, name, planted_at(content, path, KERNEL))
        assert MARK not in told_of(run), path


def told_of(run: Path) -> str:
    """All that is taken of a run; nothing where it is refused."""
    try:
        record = read_record(run, force=True, under_way=True)
    except InputError:
        return ""
    found = [record.reason, record.config, record.model_config, record.preprocessing]
    found += [record.results, record.verdict, record.environment, record.audit, record.events]
    return str([*found, record.forecasts.to_csv() if record.forecasts is not None else ""])


@pytest.mark.parametrize("planted", [KERNEL, TOKEN])
def test_a_model_whose_names_are_private_is_refused(run: Path, planted: str) -> None:
    for name in ("feature_names", "regions", "static_feature_names"):
        content = parsed(run, "model/preprocessing.json")
        if name == "regions":
            rename_regions(content, [planted])
        else:
            content[name][3] = planted
        write(run, "model/preprocessing.json", content)
        with pytest.raises(InputError, match="or column of the model is named after") as caught:
            read_record(run)
        assert MARK not in str(caught.value)


@pytest.mark.parametrize("planted", PLANTED)
def test_unknown_keys_everywhere_stay_at_home(
    run: Path, tmp_path: Path, planted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with_all_kinds_of_text(run)
    for name in ("config.yaml", "metrics.jsonl", *JSON_FILES):
        write(run, name, with_keys(parsed(run, name), PLANTED[planted]))
    events = [*parsed(run, "metrics.jsonl"), {"event": PLANTED[planted], "a": PLANTED[planted]}]
    write(run, "metrics.jsonl", events)
    table = pd.read_parquet(run / "forecasts.parquet")
    table[PLANTED[planted]] = table["note"] = PLANTED[planted]
    table.to_parquet(run / "forecasts.parquet")
    (run / "report" / "index.html").write_text(f"<p>{PLANTED[planted]}</p>")
    before = sums(run)
    given = ["--run", str(run), "--repo-id", "ana/rain", "--dry-run", str(tmp_path / "dry")]
    assert publish.main(given) == 0
    said = capsys.readouterr()
    assert MARK not in said.out + said.err
    assert "left out" in said.out
    assert sums(run) == before
    assert_nothing_planted(Package(tmp_path / "dry", ()))
    assert (tmp_path / "dry" / "report" / "index.html").is_file()
    Forecaster.from_pretrained(tmp_path / "dry")


@pytest.mark.parametrize("planted", PLANTED)
def test_every_text_at_once(run: Path, tmp_path: Path, planted: str) -> None:
    """All but what the model can't be loaded without."""
    with_all_kinds_of_text(run)
    needed = (
        *NAMES,
        "method",
        "model_type",
        "hidden_act",
        "pooling",
        "region_mixing",
        "variable_bias_mode",
        "split",
    )
    needed += ("loss_name", "directions", "validation_from", "test_from", "start", "end", "dtype")
    needed += ("labels", "regions_together")
    for name in ("config.yaml", "metrics.jsonl", *JSON_FILES):
        content = parsed(run, name)
        for path in texts(content):
            if name.startswith("model/") and any(key in needed for key in path):
                continue
            if path[-1] in ("event", "known_by", "data_licence") or "precipitation_unit" in path:
                continue
            content = planted_at(content, path, PLANTED[planted])
        write(run, name, content)
    package = staged(run, tmp_path / "staged", force=True)
    assert_nothing_planted(package)
    Forecaster.from_pretrained(package.folder)


def test_a_stop_is_told_in_words_of_ours(run: Path, tmp_path: Path) -> None:
    as_stopped(run)
    edit(run / "status.json", lambda _: {"code": 3, "reason": PROSE})
    edit(
        run / "verdict.json",
        lambda found: {"stopped_by": found["stopped_by"] | {"explanation": PROSE}},
    )
    with pytest.raises(InputError, match="it was stopped by a monitor") as caught:
        read_record(run)
    assert MARK not in str(caught.value)
    package = staged(run, tmp_path / "staged", force=True)
    assert_nothing_planted(package)
    card = (package.folder / "README.md").read_text()
    assert "stopped by the monitor collapse (certain) at step 4: (Nearly) one class" in card


def test_weights_carry_tensors_alone(run: Path, tmp_path: Path) -> None:
    path = run / "model" / "model.safetensors"
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": {"format": "pt", "note": PROSE}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    package = staged(run, tmp_path / "staged")
    assert (package.folder / "model.safetensors").read_bytes() == content
    assert_nothing_planted(package)


@pytest.mark.parametrize(
    ("name", "is_published"),
    [
        ("TotalPrecipitation6HourAccumulatedSum24", True),
        ("Lima/Callao1/NorteChicoABC", True),
        ("ñandú ☔ (mm/h)", True),
        ("x" * 200, True),
        ("x" * 201, False),
        ("s3://bucket/x", False),
        ("on Linux 6.18", False),
    ],
)
def test_names_are_published_as_they_are_or_not_at_all(
    run: Path, name: str, is_published: bool
) -> None:
    def rename(saved: dict[str, Any]) -> None:
        rename_regions(saved, [name])
        saved["static_feature_names"][4] = f"region_{name}"

    edit(run / "model" / "preprocessing.json", rename)
    if is_published:
        found = read_record(run, under_way=True).preprocessing
        assert found["regions"][0] == name
        assert found["static_feature_names"][4] == f"region_{name}"
    else:
        with pytest.raises(InputError, match="feature, region or column of the model is"):
            read_record(run, under_way=True)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("VERSION", "2.13.0+cpu", "2.13.0+cpu"),
        ("VERSION", "2.6.0a0+ecf3bae40a.nv25.01", "2.6.0a0"),
        ("VERSION", "6.18.44-fc-v669", None),
        ("VERSION", "2.9.0 on node7", None),
        ("DEVICE", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB"),
        ("DEVICE", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("DEVICE", "NVIDIA H100 of node-7", None),
        ("UNIT", "m of water equivalent", "m of water equivalent"),
        ("UNIT", "W/m²", "W/m²"),
        ("UNIT", "mm in /srv/ana", None),
        ("FILE_NAME", "/srv/ana/peru_2014.parquet", "peru_2014.parquet"),
        ("FILE_NAME", "/srv/ana/secret project", "file"),
        ("FILE_NAME", "s3://bucket", "file"),
        ("TIME", "2024-01-01T06:00:00", "2024-01-01T06:00:00"),
        ("TIME", "2024-01-01 by ana", None),
        ("SHARE", 1.5, None),
        ("SHARE", True, None),
        ("COUNT", -1, None),
        ("COUNT", 10**40, None),
        ("GIVEN_TEXT", "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/", True),
        ("GIVEN_TEXT", "CC BY wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE1", None),
        ("SENTENCE", "no better roc_auc in 3 evaluations", True),
        ("SENTENCE", "the windows span 1.3 blocks of 14 days; an interval needs 10 or more", True),
        ("SENTENCE", "the gradient norm exploded to 1e+06 at step 61, 90 times its median.", True),
        ("SENTENCE", "no better roc_auc in 3 evaluations on node7", None),
    ],
)
def test_kinds_of_values(kind: str, value: Any, kept: Any) -> None:
    found = getattr(allowed, kind).take(value, frozenset())
    assert found == (allowed.REFUSED if kept is None else value if kept is True else kept)


# Links, pipes and folders in the place of files

LINKED = (
    "config.yaml status.json results.json verdict.json environment.json audit.json metrics.jsonl "
    "forecasts.parquet report report/index.html model model/model.safetensors model/config.json "
    "model/preprocessing.json model/x_timerxl.py model/modeling_timerxl.py"
).split()


@pytest.mark.parametrize("name", LINKED)
def test_a_link_is_refused_in_one_sentence(run: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.write_text(PROSE)
    (run / name).symlink_to(elsewhere)
    with pytest.raises(InputError) as caught:
        staged(run, tmp_path / "staged")
    assert f"{name} is a link" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step_00000004"])
def test_a_linked_checkpoint_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    as_stopped(run)
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        read_record(run, force=True)


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "model/config.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_refused(run: Path, name: str, make: Callable[[Path], None]) -> None:
    (run / name).unlink()
    make(run / name)
    with pytest.raises(InputError, match=r"is a (pipe|folder)|holds no"):
        read_record(run)


# Too much


def test_lines_and_tables_have_bounds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timerxl.hub.record.MOST_LINE", 10_000)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "' + "x" * 40_000)
    with pytest.raises(InputError, match="has a line of more than 10,000 bytes"):
        read_record(run)
    monkeypatch.setattr("timerxl.hub.record.MOST_METRICS", 20_000)
    with pytest.raises(InputError, match="expected at most 20,000"):
        read_record(run)
    (run / "metrics.jsonl").unlink()
    monkeypatch.setattr("timerxl.untrusted.free_memory", lambda: 1_000)
    with pytest.raises(InputError, match="forecasts takes"):
        read_record(run, under_way=True)


# What was published before is still there


@pytest.mark.parametrize("recipe", sorted(set(available_recipes()) - {"pretrain"}))
def test_every_setting_of_a_recipe_is_on_the_list(run: Path, tmp_path: Path, recipe: str) -> None:
    from timerxl.config import to_yaml

    config: RunConfig = load_recipe(recipe)
    (run / "config.yaml").write_text(to_yaml(config))
    found = read_record(run).config
    settings = yaml.safe_load(to_yaml(config)) | {"output_dir": "rainy-run"}
    assert found == settings


def test_an_old_run_is_published(run: Path, tmp_path: Path) -> None:
    """Before there were ranges, sums of the weights, statuses of plans, and pages."""

    def older(saved: dict[str, Any]) -> None:
        for key in ("training_ranges", "weights", "best_step", "scores"):
            saved.pop(key)

    edit(run / "model" / "preprocessing.json", older)
    edit(run / "results.json", lambda found: found.pop("intervals") and None)
    for name in ("environment.json", "audit.json", "verdict.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "report")
    package = staged(run, tmp_path / "staged")
    assert "report/index.html" not in package.files
    assert "weights" not in json.loads((package.folder / "preprocessing.json").read_text())
    Forecaster.from_pretrained(package.folder)


def test_the_page_shows_the_runs_numbers(package: Package, finished: Path) -> None:
    page = (package.folder / "report" / "index.html").read_text()
    results = json.loads((finished / "results.json").read_text())
    for name in ("roc_auc", "mcc", "brier"):
        assert f"{results['test'][name]:.3f}" in page
    for words in ("Training run quickstart", "in rainy-run", "FINISHED", "costa_norte", "<svg"):
        assert words in page, words
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["torch"] in page
    assert environment["system"] not in page
    assert "command" in environment
    assert ">command<" not in page
