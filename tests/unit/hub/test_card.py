"""The card: its numbers are the run's, what is loud is loud, and it is a card to the Hub."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hub_contents import card_errors
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sklearn.metrics import brier_score_loss, matthews_corrcoef, roc_auc_score
from spoiled_runs import as_stopped, card, edit, edit_all, home, rename_regions, section

from timerxl.config import InputError
from timerxl.data.tables.columns import ColumnRecord, Fact, time_meaning
from timerxl.evaluation.references import BEST_POSSIBLE
from timerxl.hub.card import JUDGING, METRICS
from timerxl.hub.package import Package

SCORES = "Scores on the test split"


def rows(text: str, title: str) -> dict[str, list[str]]:
    """The tables below a heading: first cell -> the others."""
    lines = [line for line in section(text, title).splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("*"): row[1:] for row in cells}


def html(text: str) -> str:
    body = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.S)
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def edit_saved(run: Path, **keys: Any) -> None:
    edit(run / "model" / "preprocessing.json", lambda saved: saved | keys)


def edit_results(run: Path, **keys: Any) -> None:
    edit(run / "results.json", lambda found: found | keys)


def as_real(run: Path) -> None:
    """The same numbers, said to be of a table."""
    edit_all(run, path="weather/peru.parquet")
    source = {"rows": 1234, "first": "2024-01-01T06:00", "last": "2024-12-30T18:00"}
    edit_saved(run, is_synthetic=False, source=source)
    edit(
        run / "model" / "preprocessing.json",
        lambda saved: saved["data"].update(path="weather/peru.parquet"),
    )


@pytest.fixture(scope="module")
def text(package: Package) -> str:
    return (package.folder / "README.md").read_text()


@pytest.fixture(scope="module")
def results(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished / "results.json").read_text())
    return found


def test_the_hub_takes_it(text: str, results: dict[str, Any]) -> None:
    assert card_errors(text) == []
    assert str(ModelCard(text)) == text
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "time-series-forecasting")
    assert {"timer-xl", "synthetic-data"} <= set(data.tags)
    assert data.model_name == "rain"
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {
        METRICS[key][0]: pytest.approx(results["test"][key], abs=1e-6) for key in METRICS
    }
    for result in data.eval_results:
        assert (result.dataset_split, result.dataset_type) == ("test", "synthetic")
        assert "SYNTHETIC" in result.dataset_name


def test_it_renders(text: str) -> None:
    page = html(text)
    counts = {"<h1>": 1, "<h2>": 10, "<blockquote>": 1, "<table>": 6, 'class="language-python"': 2}
    assert {tag: page.count(tag) for tag in counts} == counts
    assert "|" not in re.sub(r"P\(rain \| region[^)]*\)", "", re.sub(r"<pre>.*?</pre>", "", page))
    for example in re.findall(r"```python\n(.*?)```", text, re.S):
        ast.parse(example)
    assert "\n\n\n" not in text


def test_synthetic_is_said_first_and_a_licence_as_it_is_known(text: str, run: Path) -> None:
    body = ModelCard(text).text.strip()
    assert body.startswith("# rain (SYNTHETIC data)\n\n> ⚠️ **SYNTHETIC DATA.**")
    assert 'forecaster.predict(None, at="latest")' in text
    assert "**licence of the data**: none needed" in text
    assert "rain column" not in text
    as_real(run)
    assert "**licence of the data**: **unknown**" in card(run)
    real = card(run, data_licence="CC BY 4.0 | Ana")
    assert "synthetic" not in real.split("## Scores")[0].lower()
    assert "weather/" not in real
    for words in (
        "**series**: `peru.parquet`",
        r"**licence of the data**: CC BY 4.0 \| Ana",
        r"**data it was trained on**: CC BY 4.0 \| Ana",
        "**weights**: **unknown**",
        "**rain column**: `precipitation`, in mm",
        'forecaster.predict("rain.parquet", at="latest")',
    ):
        assert words in real
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data_licence: null", "data_licence: ODbL 1.0"))
    assert "**licence of the data**: ODbL 1.0" in card(run)
    assert "**licence of the data**: CC0" in card(run, data_licence="CC0")


def test_the_model_stands_beside_every_baseline(text: str, results: dict[str, Any]) -> None:
    table = rows(text, SCORES)
    assert list(table)[:3] == ["forecast", ":---", "Timer-XL"]
    assert {"Timer-XL, calibrated", "persistence (rained before)"} <= set(table)
    assert len(table) == 2 + 2 + len(results["baselines"])
    low, high = results["intervals"]["model"]["roc_auc"]
    interval = f"{low:.3f} to {high:.3f}".replace(" ", "\u00a0")
    assert table["Timer-XL"][0] == f"{results['test']['roc_auc']:.3f}<br><sub>{interval}</sub>"
    assert table["always rain"][3].startswith(
        f"{results['baselines']['always_rain']['f1']:.3f}<br>"
    )
    assert "An F1 alone proves nothing" in text


@pytest.mark.parametrize(
    ("low", "high", "words", "limit"),
    [
        (0.01, 0.05, "better than it", False),
        (-0.05, -0.01, "worse than it", True),
        (-0.01, 0.01, "not told apart from it", True),
        (None, None, "chance can't be ruled out", True),
    ],
)
def test_the_difference_is_judged(
    run: Path, low: float | None, high: float | None, words: str, limit: bool
) -> None:
    known = {"reference": "climatology", "estimate": 0.03, "skill": 0.1, "low": low, "high": high}
    edit_results(run, differences={"roc_auc": known})
    text = card(run)
    assert words in section(text, SCORES)
    assert ("By ROC-AUC it is" in section(text, "Known limits")) == limit


def test_numbers_are_read_not_typed(run: Path, results: dict[str, Any]) -> None:
    plan = {"predicted_peak_memory_gib": 2.0, "measured_peak_memory_gib": 1.0}
    plan |= {"predicted_epoch_seconds": None, "measured_epoch_seconds": 7.0}
    test = results["test"] | {"roc_auc": 0.12345678}
    edit_results(run, test=test, num_windows={"test": 4321}, plan=plan)
    text = card(run)
    assert ModelCard(text).data.eval_results[0].metric_value == 0.123457
    assert "ROC-AUC on test 0.123;" in text
    assert "On 4,321 test windows" in text
    made = rows(text, "How it was made")
    assert made["peak memory, GiB"] == ["2.00", "1.00", "+100%"]
    assert made["seconds of training an epoch"] == ["–", "7", "–"]
    for share, words in ((-0.07, "Nothing of the"), (0.4, "from all observed variables, 40% is")):
        edit_results(run, gap_to_observed_bound_recovered={"roc_auc": share, "brier": 0.2})
        assert words in section(card(run), SCORES)
        assert "-7%" not in card(run)
    # A run from before there was that bound.
    edit_results(run, gap_to_observed_bound_recovered=None, gap_to_bayes_recovered=0.3)
    assert "best possible forecast, 30% is" in section(card(run), SCORES)


def test_regions_are_scored_from_the_forecasts(
    text: str, finished: Path, results: dict[str, Any]
) -> None:
    table = pd.read_parquet(finished / "forecasts.parquet")
    table = table[table["split"] == "test"]
    found = rows(text, "By region")
    assert len(found) == 2 + table["region"].nunique()
    for region, part in table.groupby("region"):
        label, given = part["label"].to_numpy(), part["model"].to_numpy()
        said = (given >= results["threshold"]).astype(int)
        others = {name: roc_auc_score(label, part[name]) for name in results["baselines"]}
        best = max(value for name, value in others.items() if name not in BEST_POSSIBLE)
        expected = [len(part), f"{label.mean():.1%}"]
        expected += [f"{roc_auc_score(label, given):.3f}", f"{matthews_corrcoef(label, said):.3f}"]
        expected += [f"{brier_score_loss(label, given):.3f}", f"{best:.3f}"]
        cells = [cell.partition("<br>")[0] for cell in found[str(region).replace("_", r"\_")]]
        assert cells == [str(cell) for cell in expected]


def test_what_it_predicts_and_how_it_was_cut(text: str, finished: Path) -> None:
    saved = json.loads((finished / "model" / "preprocessing.json").read_text())
    assert "**horizon**: 24 h" in text
    assert "**context**: 16 steps = 8 days" in text
    assert "1 if tp adds up to 0.1 mm or more in the 24 hours" in text
    periods = rows(text, "Training data")
    table = pd.read_parquet(finished / "forecasts.parquet")
    for split in ("validation", "test"):
        part = table[table["split"] == split]
        first, last = (str(time)[:10] for time in (part.issue_time.min(), part.issue_time.max()))
        assert periods[split] == [first, last, f"{len(part):,}", f"{part['label'].mean():.1%}"]
    assert f"validation from {saved['split']['validation_from'][:10]}" in text
    scales, scaling = rows(text, "What it predicts"), saved["scaling"]
    assert scales["`log(1 + tp)`"] == [f"{scaling[key][0]:.4g}" for key in ("mean", "std")]
    assert len(scales) == 2 + len(saved["feature_names"])
    assert set(rows(text, "Calibration")) >= {"raw", "calibrated"}


@pytest.mark.parametrize("has_best", [True, False])
def test_a_stopped_run_says_so_at_the_top(run: Path, has_best: bool) -> None:
    as_stopped(run, has_best)
    text = card(run, force=True)
    top = ModelCard(text).text.split("\n## ")[0]
    assert top.index("SYNTHETIC DATA") < top.index("STOPPED BY A MONITOR") < top.index("[Timer-XL]")
    assert "This run is not a good one: it was stopped by the monitor collapse" in top
    assert ("those of the stop" in top) != has_best
    assert "The test split was never scored" in top
    assert card_errors(text) == []
    assert "model-index" not in text
    assert "**ROC-AUC**: 0.500" in text  # validation's, and called so
    assert "flatter" in text
    said = section(text, "What the monitors said")
    assert said.count("Rain is said for every window.") == 1
    assert "**Stopped the run**: **collapse** (certain) at step 4" in said
    assert "from P(rain) = 0.5 on; no threshold was chosen" in text
    edit(run / "verdict.json", lambda found: found | {"stopped_by": {"name": "target"}})
    assert "This run is not a good one" not in card(run, force=True)


def test_verdicts_of_a_finished_run(run: Path, text: str) -> None:
    assert "Nothing: no sign of a collapse" in text
    said = "never varying in the training windows: tp."
    remedy = "Leave them out of data.features, or find out why they are constant."
    verdict = {"name": "dead_input", "severity": "certain", "step": None, "explanation": said}
    verdicts = [verdict | {"remedy": remedy}]
    edit(run / "verdict.json", lambda _: {"stopped_by": None, "verdicts": verdicts})
    assert f"- **dead input** (certain): {said} {remedy}\n" in card(run)
    foreign = verdict | {"explanation": "at /srv/moonshot, kernel 6.1", "remedy": "ask Xochitl"}
    edit(run / "verdict.json", lambda _: {"stopped_by": None, "verdicts": [None, foreign]})
    assert (
        "- **dead input** (certain): A feature that never varies in training, or gradients of "
        "exactly zero ten steps long.\n" in card(run)
    )


def test_what_a_file_holds_is_never_markup(run: Path) -> None:
    nasty = "<script>x</script> | `a` [b](c) *d*\n## e {{ 7 * 7 }}"

    def rename(saved: dict[str, Any]) -> None:
        rename_regions(saved, [nasty])
        saved["feature_names"][0] = nasty
        saved["scaling"]["log1p"] = []
        saved["label"]["text"] = nasty

    edit(run / "model" / "preprocessing.json", rename)
    edit(run / "audit.json", lambda _: {"lines": [nasty]})
    table = pd.read_parquet(run / "forecasts.parquet")
    table["region"] = np.where(table["region"] == "selva", nasty, table["region"])
    table.to_parquet(run / "forecasts.parquet")
    page = html(card(run, data_licence=nasty))
    assert "<script" not in page
    assert (page.count("<h2>"), page.count("<table>")) == (10, 6)
    assert "<a href" not in page.replace('<a href="https://arxiv.org', "")
    assert page.count("&lt;script&gt;x&lt;/script&gt; | ") >= 5
    assert "49" not in page[page.index("e {{") :][:20]


def test_a_branch_is_named_in_the_examples(finished: Path) -> None:
    text = card(finished, revision="v2")
    assert 'from_pretrained("ana/rain", revision="v2")' in text
    assert '"ana/rain", revision="v2", trust_remote_code=True' in text


# What is known of the features


def known(run: Path, records: dict[str, Any]) -> dict[str, list[str]]:
    """The table of a card with these records; it stands before that of the scales."""

    def change(saved: dict[str, Any]) -> None:
        saved["source"]["records"] = records

    edit(run / "model" / "preprocessing.json", change)
    return rows(card(run).split("<details>")[0], "What it predicts")


def record_of(name: str, unit: str, by: str, time: dict[str, Any] | None = None) -> dict[str, Any]:
    record = ColumnRecord(name, Fact("temperature", "file"), Fact(unit, by))  # type: ignore[arg-type]
    record.time = None if time is None else Fact(time, "said", "--meaning")
    return record.to_dict()


def test_units_and_stamps_stand_on_the_card(run: Path, text: str) -> None:
    assert "What is known of the features" not in text
    rain = record_of("PRCP", "inch", "assumed", time_meaning("sum", 24, "start"))
    found = known(run, {"tp": rain | {"written_as": "mm"}, "t2m": record_of("T", "K", "file")})
    assert found["`tp`"] == [
        "mm (in the file: inch)",
        "sum over 24 h from it on",
        "quantity: file; unit: assumed; stamp: said",
    ]
    assert found["`t2m`"] == ["K", "-", "quantity, unit: file"]
    assert card_errors(card(run)) == []
    assert html(card(run)).count("<table>") == 7


@pytest.mark.parametrize(("by", "words"), [("assumed", "in mm (assumed)\n"), ("file", "in mm\n")])
def test_an_assumed_unit_of_rain_is_called_so(run: Path, by: str, words: str) -> None:
    as_real(run)
    known(run, {"precipitation": record_of("precipitation", "mm", by)})
    assert f"**rain column**: `precipitation`, {words}" in card(run)


def test_more_than_a_dozen_features_are_summarised(run: Path, finished: Path) -> None:
    saved = json.loads((finished / "model" / "preprocessing.json").read_text())
    names = saved["feature_names"]
    assert len(names) > 20
    found = known(run, {n: record_of(n, "K", "file") for n in names} | {"other": {"name": "x"}})
    first = ", ".join(f"`{name}`" for name in names[:3])
    assert found[f"{first} and {len(names) - 3} more"] == ["K", "-", "quantity, unit: file"]
    found = known(run, {n: record_of(n, f"{i} K", "file") for i, n in enumerate(names)})
    assert found[f"{len(names) - 12} more"] == ["…"] * 3
    assert found[f"`{names[11]}`"] == ["11 K", "-", "quantity, unit: file"]
    assert len(found) == 2 + 12 + 1


def test_what_a_record_holds_is_never_markup_nor_private(run: Path) -> None:
    unit = "<script>x</script> | `a` [b](c) " + home("ana", "weather", "units.csv")
    assert known(run, {"tp": record_of("tp", unit, "said")})["`tp`"] == ["-", "-", "quantity: file"]
    assert "units.csv" not in card(run)
    with pytest.raises(InputError, match=r"record of column tp.unit is 'mm'"):
        known(run, {"tp": {"name": "tp", "unit": "mm"}})


# The limits: every score that a simpler forecast reaches

GOOD = {key: 0.6 for key in JUDGING} | {"brier": 0.1, "ece": 0.02, "predicted_rain_share": 0.5}
POOR = {key: 0.1 for key in JUDGING} | {"brier": 0.3, "ece": 0.3}


def limits_of(run: Path, test: dict[str, float], calibrated: dict[str, float], **more: Any) -> str:
    """The limits of a card with these scores, beside baselines that are poor but for what the
    name says."""
    always = POOR | {"f1": 0.77, "accuracy": 0.55}
    found = {"test": GOOD | test, "test_calibrated": GOOD | calibrated, "intervals": {}}
    found["baselines"] = {"always_rain": always, "climatology": POOR, "bayes": GOOD}
    found |= {"differences": {}, "calibration": {"slope": 1.0, "intercept": 0.0}}
    edit_results(run, **found | more)
    return section(card(run, force=True), "Known limits")


def test_limits_come_from_facts(run: Path, text: str) -> None:
    for words in ("Contaminated", "Split by row", "No intervals", "seeded sample", "Sparse"):
        assert words not in text
    assert "nothing is known of other places" in text
    rain = {"column": "tp", "is_sparse": True, "hours_present_per_day": 2}

    def change(saved: dict[str, Any]) -> None:
        saved["split"]["method"] = "rows"
        saved["source"]["prepared"] = {"precipitation": rain}

    edit(run / "model" / "preprocessing.json", change)
    edit_results(run, max_windows=40, no_interval="the test split is too short", intervals={})
    edit(run / "audit.json", lambda _: {"lines": ["WARNING 2 of 24 hours of tp", "by the sea"]})
    edit_all(run, test_every_epoch="true")
    limits = section(card(run), "Known limits")
    for words in ("Contaminated", "Split by row", "No intervals: the test split is too short"):
        assert words in limits
    for words in ("seeded sample", "Sparse rain", "Audit of the data: WARNING 2 of 24"):
        assert words in limits
    assert "sea" not in limits
    assert "2 of 24 hours of `tp`" in card(run)


def test_every_score_below_its_baseline_is_named(run: Path) -> None:
    limits = limits_of(run, {}, {})
    assert "**always rain** does as well or better by F1 (0.770 against 0.600)." in limits
    for words in ("No skill by", "climatology**", "Bayes", "makes it worse", "always dry"):
        assert words not in limits
    test = {"bss": -0.05, "accuracy": 0.4, "mcc": 0.0, "brier": 0.3, "predicted_rain_share": 1.0}
    limits = limits_of(run, test, {"brier": 0.31, "ece": 0.05, "bss": -0.06})
    for words in (
        "**It says rain to every test window.**",
        "**No skill by Brier skill score**: -0.050; a forecast that knows nothing gets 0.",
        "**No skill by Brier skill score** (calibrated): -0.060",
        "**No skill by MCC**: 0.000",
        "by raw Brier (0.300 against 0.300)",
        "calibrated Brier (0.300 against 0.310)",
        "accuracy (0.550 against 0.400)",
        "**always dry** does as well or better by accuracy (0.450 against 0.400).",
        "Calibration makes it worse on test: Brier 0.3100 instead of 0.3000, ",
    ):
        assert words in limits, words
    assert "Bayes" not in limits
    limits = limits_of(run, {"hss": 0.05, "brier": 0.31}, {"brier": 0.31})
    assert "better by Brier (0.300 against 0.310), HSS." in limits


def test_regions_and_intervals_without_skill_are_named(run: Path) -> None:
    table = pd.read_parquet(run / "forecasts.parquet")
    label, region = table["label"].to_numpy(), table["region"]
    noise = np.random.default_rng(0).random(len(table))
    table["model"] = np.where(region == "selva", noise, 0.25 + label / 2 + 0.2 * noise)
    table["climatology"] = np.where(region == "sierra_sur", label, 0.5)
    table.loc[region == "costa_norte", "label"] = 1
    table.to_parquet(run / "forecasts.parquet")
    intervals = {"model": {"roc_auc": [0.49, 0.6], "mcc": [0.1, 0.2]}}
    limits = limits_of(run, {"roc_auc": 0.55}, {}, intervals=intervals)
    assert "The 95 % interval of ROC-AUC (0.490 to 0.600) includes 0.5, no skill." in limits
    unsure = next(line for line in limits.splitlines() if "No skill shown in some" in line)
    assert "is not above 0.5 in selva (" in unsure
    assert "sierra" not in unsure
    beaten = next(line for line in limits.splitlines() if "another forecast does as well" in line)
    assert r"sierra\_sur (1.000; P(rain \| region, month, rained before) 1.000)" in beaten
    assert r"No ROC-AUC in costa\_norte: it always rained there, or never." in limits


def test_a_test_split_that_was_watched_is_not_called_scored_once(run: Path) -> None:
    assert "scored once" in section(card(run), SCORES)
    edit_all(run, test_every_epoch="true")
    for no_interval in (None, "too short"):
        edit_results(run, no_interval=no_interval)
        watched = card(run)
        assert "scored once" not in watched
        assert "**scored at every evaluation, not once**" in section(watched, SCORES)
        assert "> ⚠️ **CONTAMINATED TEST SPLIT.**" in watched.split("\n## ")[0]
    as_stopped(run, has_best=True)
    assert "never scored" not in card(run, force=True)
    assert "was not scored" not in card(run, force=True)


def test_the_threshold_is_given_raw_and_calibrated(finished: Path, run: Path, text: str) -> None:
    saved = json.loads((finished / "model" / "preprocessing.json").read_text())
    threshold, line = saved["decision_threshold"], saved["calibration"]
    odds = line["slope"] * np.log(threshold / (1 - threshold)) + line["intercept"]
    calibrated = 1 / (1 + np.exp(-odds))
    said = f"from a raw P(rain) of {threshold:.3f} on, which is {calibrated:.3f} calibrated"
    assert f"**says rain**: {said}: the best MCC on validation" in text
    assert said in section(text, "By region")
    # What the Forecaster prints beside its decision is the calibrated one.
    table = pd.read_parquet(finished / "forecasts.parquet")
    assert ((table["model"] >= threshold) == (table["model_calibrated"] >= calibrated)).all()
    edit_saved(run, calibration={"slope": -1.0, "intercept": 0.0})
    assert "and lower for more" in card(run)
