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
from timerxl.hub.card import JUDGING, METRICS
from timerxl.hub.package import Package

LOUD = "SYNTHETIC DATA"


def rows(text: str, title: str) -> dict[str, list[str]]:
    """The tables below a heading: first cell -> the others."""
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("*"): row[1:] for row in cells}


def as_real(run: Path) -> None:
    """The same numbers, said to be of a table."""
    edit_all(run, path="weather/peru.parquet")

    def change(saved: dict[str, Any]) -> None:
        saved["is_synthetic"] = False
        saved["data"]["path"] = "weather/peru.parquet"
        saved["source"] = {"rows": 1234, "first": "2024-01-01T06:00", "last": "2024-12-30T18:00"}

    edit(run / "model" / "preprocessing.json", change)
    edit(run / "results.json", lambda found: found | {"is_synthetic": False})


@pytest.fixture(scope="module")
def text(package: Package) -> str:
    return (package.folder / "README.md").read_text()


@pytest.fixture(scope="module")
def results(finished: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finished / "results.json").read_text())
    return found


def test_the_hub_takes_it(text: str, results: dict[str, Any]) -> None:
    assert card_errors(text) == []
    parsed = ModelCard(text)
    assert str(parsed) == text
    data = parsed.data
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


def test_synthetic_is_said_first(text: str, run: Path) -> None:
    body = ModelCard(text).text.strip()
    assert body.startswith("# rain (SYNTHETIC data)\n\n> ⚠️ **SYNTHETIC DATA.**")
    as_real(run)
    real = card(run, data_licence="CC BY 4.0 | Ana")
    assert "SYNTHETIC" not in real
    assert "synthetic" not in real.split("## Scores")[0]
    assert "**series**: `peru.parquet`" in real
    assert r"**licence of the data**: CC BY 4.0 \| Ana" in real
    assert "weather/" not in real
    assert "**rain column**: `precipitation`, in mm" in real
    assert "rain column" not in text
    assert 'forecaster.predict("rain.parquet", at="latest")' in real
    assert 'forecaster.predict(None, at="latest")' in text
    assert "**licence of the data**: none needed" in text
    assert "**licence of the data**: **unknown**" in card(run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data_licence: null", "data_licence: ODbL 1.0"))
    assert "**licence of the data**: ODbL 1.0" in card(run)
    told = card(run, data_licence="CC0")
    assert "**licence of the data**: CC0" in told
    assert "**data it was trained on**: CC0" in section(told, "Licences")
    assert "**weights**: **unknown**" in section(told, "Licences")


def test_the_model_stands_beside_every_baseline(text: str, results: dict[str, Any]) -> None:
    table = rows(text, "Scores on the test split")
    always = table["always rain"]
    assert list(table)[:3] == ["forecast", ":---", "Timer-XL"]
    assert {"Timer-XL, calibrated", "persistence (rained before)"} <= set(table)
    assert len(table) == 2 + 2 + len(results["baselines"])
    low, high = results["intervals"]["model"]["roc_auc"]
    interval = f"{low:.3f} to {high:.3f}".replace(" ", "\u00a0")
    assert table["Timer-XL"][0] == f"{results['test']['roc_auc']:.3f}<br><sub>{interval}</sub>"
    assert always[3].startswith(f"{results['baselines']['always_rain']['f1']:.3f}<br>")
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
    def change(found: dict[str, Any]) -> None:
        known = {"reference": "climatology", "estimate": 0.03, "skill": 0.1}
        found["differences"] = {"roc_auc": known | {"low": low, "high": high}}

    edit(run / "results.json", change)
    text = card(run)
    assert words in text.split("## Scores")[1].split("## ")[0]
    assert ("By ROC-AUC it is" in text.split("## Known limits")[1]) == limit


def test_numbers_are_read_not_typed(run: Path) -> None:
    def change(found: dict[str, Any]) -> None:
        found["test"]["roc_auc"], found["num_windows"]["test"] = 0.12345678, 4321
        found["plan"] = {
            "predicted_peak_memory_gib": 2.0,
            "measured_peak_memory_gib": 1.0,
            "predicted_epoch_seconds": None,
            "measured_epoch_seconds": 7.0,
        }

    edit(run / "results.json", change)
    text = card(run)
    assert ModelCard(text).data.eval_results[0].metric_value == 0.123457
    assert "ROC-AUC on test 0.123;" in text
    assert "On 4,321 test windows" in text
    made = rows(text, "How it was made")
    assert made["peak memory, GiB"] == ["2.00", "1.00", "+100%"]
    assert made["seconds of training an epoch"] == ["–", "7", "–"]


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
        best = max(value for name, value in others.items() if name != "bayes")
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
        share = f"{part['label'].mean():.1%}"
        assert periods[split] == [first, last, f"{len(part):,}", share]
    assert f"validation from {saved['split']['validation_from'][:10]}" in text
    scales, scaling = rows(text, "What it predicts"), saved["scaling"]
    assert scales["`log(1 + tp)`"] == [f"{scaling[key][0]:.4g}" for key in ("mean", "std")]
    assert len(scales) == 2 + len(saved["feature_names"])
    calibrated = rows(text, "Calibration")
    assert set(calibrated) >= {"raw", "calibrated"}


def test_limits_come_from_facts(run: Path, text: str) -> None:
    for words in ("Contaminated", "Split by row", "No intervals", "seeded sample", "Sparse"):
        assert words not in text
    assert "nothing is known of other places" in text

    def change(saved: dict[str, Any]) -> None:
        saved["split"]["method"] = "rows"
        saved["source"]["prepared"] = {
            "precipitation": {"column": "tp", "is_sparse": True, "hours_present_per_day": 2}
        }

    def spoil(found: dict[str, Any]) -> None:
        found |= {"max_windows": 40, "no_interval": "the test split is too short", "intervals": {}}

    edit(run / "model" / "preprocessing.json", change)
    edit(run / "results.json", spoil)
    edit(run / "audit.json", lambda _: {"lines": ["WARNING 2 of 24 hours of tp", "by the sea"]})
    edit_all(run, test_every_epoch="true")
    limits = card(run).split("## Known limits")[1].split("## ")[0]
    for words in ("Contaminated", "Split by row", "No intervals: the test split is too short"):
        assert words in limits
    for words in ("seeded sample", "Sparse rain", "Audit of the data: WARNING 2 of 24"):
        assert words in limits
    assert "sea" not in limits
    assert "2 of 24 hours of `tp`" in card(run)


@pytest.mark.parametrize("has_best", [True, False])
def test_a_stopped_run_says_so_at_the_top(run: Path, has_best: bool) -> None:
    as_stopped(run, has_best)
    text = card(run, force=True)
    top = ModelCard(text).text.split("\n## ")[0]
    assert top.index(LOUD) < top.index("STOPPED BY A MONITOR") < top.index("A [Timer-XL]")
    assert ("those of the stop" in top) != has_best
    assert "The test split was never scored" in top
    assert card_errors(text) == []
    assert "model-index" not in text
    assert "**ROC-AUC**: 0.500" in text  # validation's, and called so
    assert "flatter" in text
    said = text.split("## What the monitors said")[1]
    assert said.count("Rain is said for every window.") == 1
    assert "**Stopped the run**: **collapse** (certain) at step 4" in said
    assert "from P(rain) = 0.5 on; no threshold was chosen" in text


def test_a_run_that_stopped_at_its_target_is_no_bad_one(run: Path) -> None:
    as_stopped(run)
    assert "This run is not a good one" in card(run, force=True)
    edit(run / "verdict.json", lambda found: found | {"stopped_by": {"name": "target"}})
    assert "This run is not a good one" not in card(run, force=True)


def test_verdicts_of_a_finished_run(run: Path, text: str) -> None:
    assert "Nothing: no sign of a collapse" in text
    verdict = {
        "name": "dead_input",
        "severity": "certain",
        "step": None,
        "explanation": "never varying in the training windows: tp.",
        "remedy": "Leave them out of data.features, or find out why they are constant.",
    }
    edit(run / "verdict.json", lambda _: {"stopped_by": None, "verdicts": [verdict]})
    said = "never varying in the training windows: tp. Leave them out of data.features, or find out"
    assert f"- **dead input** (certain): {said} why they are constant." in card(run)
    foreign = verdict | {"explanation": "at /srv/moonshot, kernel 6.1", "remedy": "ask Xochitl"}
    edit(run / "verdict.json", lambda _: {"stopped_by": None, "verdicts": [foreign]})
    assert (
        "- **dead input** (certain): A feature that never varies in training, or gradients of "
        "exactly zero ten steps long.\n" in card(run)
    )


def html(text: str) -> str:
    body = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.S)
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def test_it_renders(text: str) -> None:
    page = html(text)
    assert page.count("<h1>") == 1
    assert page.count("<h2>") == 10
    assert page.count("<blockquote>") == 1
    assert page.count("<table>") == 6
    assert page.count('<code class="language-python">') == 2
    assert "|" not in re.sub(r"P\(rain \| region[^)]*\)", "", re.sub(r"<pre>.*?</pre>", "", page))
    for example in re.findall(r"```python\n(.*?)```", text, re.S):
        ast.parse(example)


def test_what_a_file_holds_is_never_markup(run: Path) -> None:
    nasty = "<script>x</script> | `a` [b](c) *d*\n## e"

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
    assert page.count("<h2>") == 10
    assert page.count("<table>") == 6
    assert "<a href" not in page.replace('<a href="https://arxiv.org', "")
    assert page.count("&lt;script&gt;x&lt;/script&gt; | ") >= 5


def test_a_branch_is_named_in_the_examples(finished: Path) -> None:
    text = card(finished, revision="v2")
    assert 'from_pretrained("ana/rain", revision="v2")' in text
    assert '"ana/rain", revision="v2", trust_remote_code=True' in text


# What is known of the features


def with_records(run: Path, records: dict[str, Any]) -> None:
    def change(saved: dict[str, Any]) -> None:
        saved["source"]["records"] = records

    edit(run / "model" / "preprocessing.json", change)


def known(text: str) -> dict[str, list[str]]:
    """The table before that of the scales, which has the same first cells."""
    return rows(text.split("<details>")[0], "What it predicts")


def record_of(name: str, unit: str, by: str, time: dict[str, Any] | None) -> dict[str, Any]:
    record = ColumnRecord(name, Fact("temperature", "file"), Fact(unit, by))  # type: ignore[arg-type]
    record.time = None if time is None else Fact(time, "said", "--meaning")
    return record.to_dict()


def test_units_and_stamps_stand_on_the_card(run: Path) -> None:
    rain = record_of("PRCP", "inch", "assumed", time_meaning("sum", 24, "start"))
    records = {"tp": rain | {"written_as": "mm"}, "t2m": record_of("T", "K", "file", None)}
    with_records(run, records)
    text = card(run)
    assert card_errors(text) == []
    found = known(text)
    assert found["`tp`"] == [
        "mm (in the file: inch)",
        "sum over 24 h from it on",
        "quantity: file; unit: assumed; stamp: said",
    ]
    assert found["`t2m`"] == ["K", "-", "quantity, unit: file"]
    assert html(text).count("<table>") == 7
    edit(
        run / "model" / "preprocessing.json", lambda saved: saved["source"].pop("records") and None
    )
    assert "What is known of the features" not in card(run)


@pytest.mark.parametrize(("by", "words"), [("assumed", "in mm (assumed)\n"), ("file", "in mm\n")])
def test_an_assumed_unit_of_rain_is_called_so(run: Path, by: str, words: str) -> None:
    as_real(run)
    with_records(run, {"precipitation": record_of("precipitation", "mm", by, None)})
    assert f"**rain column**: `precipitation`, {words}" in card(run)


def test_more_than_a_dozen_features_are_summarised(run: Path, finished: Path) -> None:
    saved = json.loads((finished / "model" / "preprocessing.json").read_text())
    names = saved["feature_names"]
    assert len(names) > 20
    with_records(
        run, {n: record_of(n, "K", "file", None) for n in names} | {"other": {"name": "x"}}
    )
    found = known(card(run))
    first = ", ".join(f"`{name}`" for name in names[:3])
    assert found[f"{first} and {len(names) - 3} more"] == ["K", "-", "quantity, unit: file"]
    with_records(run, {n: record_of(n, f"{i} K", "file", None) for i, n in enumerate(names)})
    found = known(card(run))
    assert found[f"{len(names) - 12} more"] == ["…"] * 3
    assert found[f"`{names[11]}`"] == ["11 K", "-", "quantity, unit: file"]
    assert len(found) == 2 + 12 + 1


def test_what_a_record_holds_is_never_markup_nor_private(run: Path) -> None:
    unit = "<script>x</script> | `a` [b](c) " + home("ana", "weather", "units.csv")
    with_records(run, {"tp": record_of("tp", unit, "said", None)})
    text = card(run)
    page = html(text)
    assert "<script" not in page
    assert "units.csv" not in page
    assert known(text)["`tp`"] == ["-", "-", "quantity: file"]
    assert home("ana") not in text
    assert page.count("<table>") == 7


def test_a_damaged_record_is_refused(run: Path) -> None:
    with_records(run, {"tp": {"name": "tp", "unit": "mm"}})
    with pytest.raises(InputError, match=r"record of column tp.unit is 'mm'"):
        card(run)


# The card's judgement: the threshold, the limits, every score that a simpler forecast reaches

GOOD = {key: 0.6 for key in JUDGING} | {"brier": 0.1, "ece": 0.02, "predicted_rain_share": 0.5}
POOR = {key: 0.1 for key in JUDGING} | {"brier": 0.3, "ece": 0.3}


def as_scored(run: Path, test: dict[str, float], calibrated: dict[str, float]) -> str:
    """The limits of a card with these scores, beside baselines that are poor but for what the
    name says."""

    def change(found: dict[str, Any]) -> None:
        found["test"], found["test_calibrated"] = GOOD | test, GOOD | calibrated
        always = POOR | {"f1": 0.77, "accuracy": 0.55}
        found["baselines"] = {"always_rain": always, "climatology": POOR, "bayes": GOOD}
        found["intervals"], found["differences"] = {}, {}
        found["calibration"] = {"slope": 1.0, "intercept": 0.0}

    edit(run / "results.json", change)
    return section(card(run, force=True), "Known limits")


def test_every_score_below_its_baseline_is_named(run: Path) -> None:
    limits = as_scored(run, {}, {})
    assert "**always rain** does as well or better by F1 (0.770 against 0.600)." in limits
    for words in ("No skill by", "climatology**", "Bayes", "makes it worse", "always dry"):
        assert words not in limits
    test = {"bss": -0.05, "accuracy": 0.4, "mcc": 0.0, "brier": 0.3, "predicted_rain_share": 1.0}
    limits = as_scored(run, test, {"brier": 0.31, "ece": 0.05, "bss": -0.06})
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
    limits = as_scored(run, {"hss": 0.05, "brier": 0.31}, {"brier": 0.31})
    assert "better by Brier (0.300 against 0.310), HSS." in limits


def test_intervals_that_hold_no_skill_are_named(run: Path) -> None:
    as_scored(run, {"roc_auc": 0.55}, {})
    edit(
        run / "results.json",
        lambda found: found | {"intervals": {"model": {"roc_auc": [0.49, 0.6], "mcc": [0.1, 0.2]}}},
    )
    table = pd.read_parquet(run / "forecasts.parquet")
    label = table["label"].to_numpy()
    noise = np.random.default_rng(0).random(len(table))
    region = table["region"]
    table["model"] = np.where(region == "selva", noise, 0.25 + label / 2 + 0.2 * noise)
    table["climatology"] = np.where(region == "sierra_sur", label, 0.5)
    table.loc[region == "costa_norte", "label"] = 1
    table.to_parquet(run / "forecasts.parquet")
    limits = section(card(run), "Known limits")
    assert "The 95 % interval of ROC-AUC (0.490 to 0.600) includes 0.5, no skill." in limits
    unsure = next(line for line in limits.splitlines() if "No skill shown in some" in line)
    assert "is not above 0.5 in selva (" in unsure
    assert "sierra" not in unsure
    beaten = next(line for line in limits.splitlines() if "another forecast does as well" in line)
    assert r"sierra\_sur (1.000; P(rain \| region, month, rained before) 1.000)" in beaten
    assert r"No ROC-AUC in costa\_norte: it always rained there, or never." in limits


def test_a_test_split_that_was_watched_is_not_called_scored_once(run: Path) -> None:
    text = card(run)
    assert "scored once" in section(text, "Scores on the test split")
    assert "CONTAMINATED" not in text
    edit_all(run, test_every_epoch="true")
    watched = card(run)
    assert "scored once" not in watched
    assert "**scored at every evaluation, not once**" in section(
        watched, "Scores on the test split"
    )
    assert "> ⚠️ **CONTAMINATED TEST SPLIT.**" in watched.split("\n## ")[0]
    edit(run / "results.json", lambda found: found | {"no_interval": "too short"})
    assert "**scored at every evaluation, not once**" in card(run)
    as_stopped(run, has_best=True)
    assert "never scored" not in card(run, force=True)
    assert "was not scored" not in card(run, force=True)


def test_nothing_recovered_is_no_negative_share(run: Path) -> None:
    edit(run / "results.json", lambda found: found | {"gap_to_bayes_recovered": -0.07})
    text = card(run)
    assert "-7%" not in text
    assert "Nothing of the ROC-AUC gap from climatology" in text
    edit(run / "results.json", lambda found: found | {"gap_to_bayes_recovered": 0.4})
    assert "Of the ROC-AUC gap from climatology to the best possible forecast, 40%" in card(run)


def test_the_threshold_is_given_raw_and_calibrated(finished: Path, run: Path) -> None:
    text = card(run)
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

    def turn(saved: dict[str, Any]) -> None:
        saved["calibration"] = {"slope": -1.0, "intercept": 0.0}

    # The formula for those who have the network alone.
    formula = re.search(r"with z = (\S+) log\(p / \(1 - p\)\) ([+-] \S+)\.\n", text)
    assert formula is not None
    z = float(formula[1]) * np.log(threshold / (1 - threshold)) + float(formula[2].replace(" ", ""))
    assert 1 / (1 + np.exp(-z)) == pytest.approx(calibrated, abs=1e-5)

    edit(run / "model" / "preprocessing.json", turn)
    assert "and lower for more" in card(run)
