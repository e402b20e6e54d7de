"""The page says what the files say: in order, loudly where it must, and nothing besides."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from timerxl.config import InputError, load_recipe, to_yaml
from timerxl.report.page import CONTAMINATED, SYNTHETIC, configuration_section, judged, write_report
from timerxl.report.run_record import FILES, read_run

WriteRun = Callable[..., Path]
SECTIONS = "verdicts scores curves forecasts strata cost configuration audit environment".split()
VOID = {"meta", "link", "path", "use", "rect"}


class Words(HTMLParser):
    """The words of a page, and whether its tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for key, value in attrs if key == "id"]
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [str(value) for key, value in attrs if key == "id"]
        self.addresses += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(healthy: Path) -> str:
    return page_of(healthy)


@pytest.mark.parametrize("kind", ["healthy", "stopped", "running"])
def test_a_page_is_well_formed_and_alone(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    page = page_of(folder)
    words = Words(page)
    assert [key for key in words.ids if key in SECTIONS] == SECTIONS
    assert len(words.ids) == len(set(words.ids))
    assert all(address.startswith("#") or address == "data:," for address in words.addresses)
    assert {a[1:] for a in words.addresses if a.startswith("#")} <= set(words.ids)
    assert not re.search(r"https?:|@import|url\((?!#)|//[a-z]", page)
    assert [path.name for path in (folder / "report").iterdir()] == ["index.html"]


def test_a_finished_run(page: str, healthy: Path) -> None:
    words, run = Words(page).text, read_run(healthy)
    assert "<title>quickstart: FINISHED (SYNTHETIC data) – run healthy</title>" in page
    assert "✔ FINISHED All steps done" in words
    assert SYNTHETIC in words
    assert CONTAMINATED not in words
    assert f"ROC-AUC on test {run.score('model', 'roc_auc'):.3f}" in words
    for forecast in (
        "Timer-XL, calibrated",
        "always rain",
        "P(rain | region, month, rained before)",
    ):
        assert forecast in words
    # Named as in the pictures, too.
    assert "P(rain | region, month, rained before) climatology" in words
    assert "Skill is the share of the way from the reference to a perfect forecast" in words
    counts = [bin_["num_windows"] for bin_ in run.results["reliability"]["model"]]  # type: ignore[index]
    assert {*counts} == {99}
    assert "Every mark is a bin of 99 windows: where marks are close, many fall." in words
    low, high = run.results["intervals"]["climatology"]["mcc"]  # type: ignore[index]
    assert f"{low:.3f} to {high:.3f}" in words
    assert "1. dead input step 0, action: warn" in words
    assert '{"features"' not in words
    assert '["swvl4"]' in words
    assert "peak memory, GiB 0.72 0.7 +3%" in words
    assert "seconds of training an epoch 73.4 76.2 -4%" in words
    assert "WARNING selva: 81 % rain; 5 < 7 & more" in words
    assert "command launch/train.py --config quickstart" in words
    assert "costa 0.450 0.450 0.450" in words


def test_expectations_are_held_against_validation(page: str, healthy: Path) -> None:
    loss = read_run(healthy).points("validation", "loss")[1]
    words = Words(page).text
    assert 0.58 <= loss[0] <= 0.64
    assert f"1 loss {loss[0]:.3f} ✔ inside 0.58 to 0.64" in words
    assert "20 F1 – – to come 0.8 to 0.9" in words
    accuracy = read_run(healthy).points("validation", "accuracy")[1]
    assert accuracy[4] < 0.9  # a band that is missed says on which side
    assert f"5 accuracy {accuracy[4]:.3f} ▼ below 0.9 to 0.95" in words


def test_a_stopped_run_says_why_first_and_what_is_missing(stopped: Path) -> None:
    page = page_of(stopped)
    words = Words(page).text
    assert "<title>quickstart: STOPPED by collapse" in page
    assert "■ STOPPED by collapse" in words
    assert words.index("✖ CERTAIN 1. collapse") < words.index("▲ SUSPECTED 2. dead input")
    assert "STOPPED THE RUN" in words
    assert "There is no results.json: a stopped run does not score the test split." in words
    scores = read_run(stopped).last("validation")
    assert f"Latest on validation, epoch 2: ROC-AUC {scores['roc_auc']:.3f}, MCC 0.000" in words
    always = 2 * scores["rain_share"] / (1 + scores["rain_share"])
    assert f'saying "rain" always gets F1 {always:.3f}' in words
    assert words.count("a stopped run does not score the test split") == 3
    assert "Measured so far" in words


def test_a_run_under_way(running: Path) -> None:
    words = Words(page_of(running)).text
    assert "▶ RUNNING" in words
    assert "288 of 720" in words
    assert "the run is under way: the test split is scored once, at its end" in words


def test_contamination_is_named_at_the_top(make_run: WriteRun, tmp_path: Path) -> None:
    words = Words(page_of(make_run(tmp_path / "run", "running", "eval.test_every_epoch=true"))).text
    assert words.index(CONTAMINATED) < words.index("Verdicts")
    events = (tmp_path / "run" / "metrics.jsonl").read_text()
    (tmp_path / "run" / "config.yaml").unlink()  # the events alone tell it too
    assert "test_every_epoch" in events
    assert CONTAMINATED in Words(page_of(tmp_path / "run")).text


def test_data_of_ones_own_are_not_called_synthetic(make_run: WriteRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "running", "data.path=rain.parquet")
    assert "SYNTHETIC" not in page_of(folder)
    (folder / "config.yaml").unlink()
    assert "Whether the data are synthetic is not in the files." in Words(page_of(folder)).text


@pytest.mark.parametrize("name", FILES)
def test_one_file_alone_makes_a_page(healthy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((healthy / name).read_bytes())
    words = Words(page_of(tmp_path))
    assert [key for key in words.ids if key in SECTIONS] == SECTIONS
    assert "nan" not in words.text.lower().replace("finance", "").split()


def test_no_folder_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "none")
    with pytest.raises(InputError, match="no run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_can_not_be_written(healthy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="can't be written"):
        write_report(healthy, tmp_path / "file" / "page.html")


def test_the_same_folder_gives_the_same_page(page: str, healthy: Path) -> None:
    assert page_of(healthy) == page


def test_problems_are_listed(make_run: WriteRun, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    table = pd.read_parquet(folder / "forecasts.parquet")
    table["model"] = 1 - table["model"]
    table.to_parquet(folder / "forecasts.parquet")
    words = Words(page_of(folder)).text
    count = len((folder / "metrics.jsonl").read_text().splitlines())
    assert f"line {count} of metrics.jsonl is damaged and left out." in words
    assert "forecasts.parquet gives a ROC-AUC of" in words
    assert "are the two of one run?" in words


EVIL = "<script>alert('\"&')</script>"


def with_evil(value: Any) -> Any:
    """Every string of a file, keys too where they are free, with markup in it."""
    if isinstance(value, dict):
        return {key: with_evil(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_evil(item) for item in value]
    return value + EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("kind", ["healthy", "stopped"])
def test_nothing_from_a_file_is_markup(make_run: WriteRun, tmp_path: Path, kind: str) -> None:
    folder = make_run(tmp_path / "run<i>", kind)
    for name in ("verdict", "results", "audit", "environment", "status"):
        if (path := folder / f"{name}.json").exists():
            content = with_evil(json.loads(path.read_text())) | {EVIL: EVIL}
            path.write_text(json.dumps(content))
    text = to_yaml(load_recipe("quickstart")).replace("quickstart", json.dumps("q" + EVIL))
    (folder / "config.yaml").write_text(f"{text}{json.dumps(EVIL)}: {json.dumps(EVIL)}\n")
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] in ("start", "plan"):
            event |= with_evil(event) | {"event": event["event"]}
            event["class_shares"] = {EVIL: {EVIL: 0.5}}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    if kind == "healthy":
        table = pd.read_parquet(folder / "forecasts.parquet")
        table.assign(region=table["region"] + EVIL).to_parquet(folder / "forecasts.parquet")
    page = page_of(folder)
    Words(page)  # still well formed
    assert page.count("<script>") == 1
    assert "alert(&#39;&#34;&amp;&#39;)" in page
    assert "<i>" not in page


def test_configuration_shows_what_differs_from_the_recipe(
    make_run: WriteRun, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", "running", "optim.lr=0.004", "data.features=[t2m]")
    body = Words(configuration_section(read_run(folder)).body).text
    differing = body[: body.index("All of config.yaml")]
    assert "5 settings differ from the recipe quickstart as it is now" in differing
    # An entry a line, without what is null.
    first = '{"epoch": 1, "loss": [0.58, 0.64], "accuracy": [0.6, 0.7], "f1": [0.74, 0.8]}'
    second = '{"epoch": 5, "loss": [0.4, 0.46], "accuracy": [0.9, 0.95]}'
    assert f"expectations [] {first} {second} " in differing
    assert "optim.lr 0.001 0.004" in differing
    assert 'data.features null ["t2m"]' in differing
    assert "hidden_size" not in differing
    assert "hidden_size: 64" in body
    recipe = to_yaml(load_recipe("quickstart", ["optim.lr=0.004"]))
    (folder / "config.yaml").write_text(recipe)
    body = Words(configuration_section(read_run(folder)).body).text
    assert "1 setting differs from the recipe quickstart as it is now" in body


def test_a_run_with_checks_alone_has_its_latest_and_its_base_rate(
    make_run: WriteRun, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", "stopped")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    events = [e for e in map(json.loads, lines) if e["event"] not in ("validation", "holdout")]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)))
    run = read_run(folder)
    rain = run.last("check")["rain_share"]
    words = Words(page_of(folder)).text
    assert run.base_rate == rain
    assert "Latest on validation (a sample of 256 windows), epoch 1.75: ROC-AUC" in words
    assert f'saying "rain" always gets F1 {2 * rain / (1 + rain):.3f}' in words


def test_an_unknown_recipe_is_compared_with_the_defaults(tmp_path: Path) -> None:
    text = "recipe: ../../etc\noptim: {lr: 0.1}\nmodel: {old_key: 3}\n"
    (tmp_path / "config.yaml").write_text(text)
    body = Words(configuration_section(read_run(tmp_path)).body).text
    assert "the defaults (no recipe ../../etc ships with the toolkit)" in body
    assert "model.old_key – 3" in body
    assert "train.epochs 30 –" in body


@pytest.mark.parametrize(
    ("key", "low", "high", "word"),
    [
        ("roc_auc", 0.01, 0.02, "better"),
        ("roc_auc", -0.02, -0.01, "worse"),
        ("roc_auc", -0.02, 0.01, "not told apart"),
        ("brier", 0.01, 0.02, "worse"),
        ("brier", -0.02, -0.01, "better"),
        ("mcc", None, None, "no interval, so nothing is known of chance"),
    ],
)
def test_what_an_interval_says(key: str, low: float | None, high: float | None, word: str) -> None:
    assert judged(key, low, high) == word


def test_a_long_run_makes_a_small_page_soon(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 30_001):
            train = {"event": "train", "step": step, "epoch": step / 1000, "loss": rng.random()}
            file.write(json.dumps(train | {"lr": 1e-4, "grad_norm": 1.0}) + "\n")
            if step % 50 == 0:
                scores = dict.fromkeys(("loss", "f1", "accuracy", "mcc", "roc_auc"), rng.random())
                kind = "check" if step % 1000 else "validation"
                file.write(json.dumps({"event": kind, "step": step} | scores) + "\n")
    started = time.process_time()
    path = write_report(tmp_path)
    assert time.process_time() - started < 8  # about 1 s where nothing else runs
    assert path.stat().st_size < 300_000
