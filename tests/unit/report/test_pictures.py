"""The pictures show the numbers of the files, and their SVG fits into any page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from timerxl.report.figures import (
    SCORES,
    SPANS,
    Picture,
    canvas,
    curves,
    figures,
    skill_pictures,
    strata_pictures,
    svg_of,
    thin,
)
from timerxl.report.run_record import Run, read_run, strata_of, verdicts_of


def by_name(run: Run) -> dict[str, Picture]:
    drawn = [*curves(run, verdicts_of(run)), *skill_pictures(run)]
    return {picture.name: picture for picture in drawn}


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> x, y of the drawn line."""
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))  # type: ignore[arg-type]
        for line in axes.get_lines()
    }


@pytest.fixture(scope="module")
def run(healthy: Path) -> Run:
    return read_run(healthy)


@pytest.fixture(scope="module")
def drawn(run: Run) -> dict[str, Picture]:
    return by_name(run)


def test_every_curve_is_drawn(drawn: dict[str, Picture], running: Path) -> None:
    names = {f"curve-{key}" for key in SCORES if "skill_" not in key}
    assert names | {"confusion", "reliability", "roc", "precision-recall"} == set(drawn)
    assert set(by_name(read_run(running))) == names


def test_f1_stands_beside_always_rain_and_expectations(run: Run, drawn: dict[str, Picture]) -> None:
    found = lines(drawn["curve-f1"].figure.axes[0])
    rain = run.events["validation"][-1]["rain_share"]
    always = 2 * rain / (1 + rain)
    assert found[f"always rain 2p/(1+p): {always:.3f}"][1] == [always, always]
    assert found["expected by the recipe"] == ([1, 1], [0.74, 0.8])
    assert found["validation"] == run.points("validation", "f1")
    assert found["holdout"] == run.points("holdout", "f1")
    assert found["checks (a sample)"] == run.points("check", "f1")
    assert "training" not in found


def bands(axes: Axes) -> list[float]:
    """Epochs of the expected bands that are drawn."""
    wide = [line for line in axes.get_lines() if line.get_linewidth() == 5]
    return [float(np.asarray(line.get_xdata())[0]) for line in wide]


def test_bands_yet_to_come_are_drawn_as_far_as_the_curve_can_still_be_seen(
    run: Run, drawn: dict[str, Picture], running: Path
) -> None:
    """Reached are 6 and 2.4 epochs; accuracy has bands at 1, 5 and 20."""
    axes = drawn["curve-accuracy"].figure.axes[0]
    assert bands(axes) == [1, 5]
    assert 6 < axes.get_xlim()[1] < 7
    assert drawn["curve-accuracy"].caption.endswith(
        "Expected beyond the plot: 0.8 to 0.9 at epoch 20."
    )
    under_way = by_name(read_run(running))
    early = under_way["curve-accuracy"].figure.axes[0]
    assert bands(early) == [1, 5]
    assert 5 < early.get_xlim()[1] < 6
    assert "Expected: 0.8 to 0.9 at epoch 20." in under_way["curve-accuracy"].words
    # A band may lie outside of the curves: nothing is cut off.
    low, high = under_way["curve-loss"].figure.axes[0].get_ylim()
    assert low < 0.40
    assert high > 0.64


def test_chance_in_an_even_curve_is_not_blown_up(stopped: Path) -> None:
    """A collapsed run: MCC is 0, accuracy the share of rain, both within a hundredth."""
    pictures = by_name(read_run(stopped))
    for key, span in SPANS.items():
        low, high = pictures[f"curve-{key}"].figure.axes[0].get_ylim()
        assert high - low >= span * 0.999, key


def test_the_loss_has_both_curves_and_says_what_was_averaged(
    run: Run, drawn: dict[str, Picture]
) -> None:
    x, y = lines(drawn["curve-loss"].figure.axes[0])["training"]
    of_all = run.points("train", "loss")[1]
    assert len(of_all) == 360
    assert len(x) == len(y) == 180
    assert y[0] == pytest.approx(np.mean(of_all[:2]))
    assert "means of 2 logged steps" in drawn["curve-loss"].caption


def test_a_spike_does_not_flatten_the_loss(stopped: Path) -> None:
    run = read_run(stopped)
    (before, *_) = curves(run, [])
    top = before.figure.axes[0].get_ylim()[1]
    assert "above the plot" not in before.caption
    run.events["train"][7]["loss"] = 870.0
    run.events["validation"][0]["loss"] = 0.9  # an evaluation is never left out
    (after, *_) = curves(run, [])
    assert after.caption.endswith("1 point lies above the plot, up to 870.")
    assert 0.9 < after.figure.axes[0].get_ylim()[1] < top + 0.3


def test_numbers_of_verdicts_near_each_other_stand_together(run: Run) -> None:
    near, far = verdicts_of(run)
    said = [replace(near, place=2.0), replace(far, place=2.1), replace(far, number=3, place=4.0)]
    (picture, *_) = curves(run, said)
    axes = picture.figure.axes[0]
    assert [(note.get_text(), note.xy[0]) for note in axes.texts] == [("1,2", 2.0), ("3", 4.0)]  # type: ignore[attr-defined]
    heads = [line for line in axes.get_lines() if not line.get_clip_on()]
    assert [line.get_xdata() for line in heads] == [[2.0], [2.1], [4.0]]


def test_verdicts_are_marked_where_they_were_said(drawn: dict[str, Picture]) -> None:
    for name in ("curve-loss", "curve-f1"):
        axes = drawn[name].figure.axes[0]
        heads = [line for line in axes.get_lines() if not line.get_clip_on()]
        marks = {line.get_marker(): line.get_xdata() for line in heads}
        assert marks == {"^": [0.0], "o": [5.0]}
        assert [note.get_text() for note in axes.texts] == ["1", "2"]


def test_a_contaminated_run_shows_test_by_that_name(make_run: Any, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "healthy", "eval.test_every_epoch=true")
    picture = by_name(read_run(folder))["curve-accuracy"]
    assert "test: CONTAMINATED" in lines(picture.figure.axes[0])
    assert "CONTAMINATED" in picture.words


def test_the_confusion_matrix_counts_the_test_windows(run: Run, drawn: dict[str, Picture]) -> None:
    sample = run.sample()
    assert sample is not None
    told = confusion_matrix(sample.label, sample.probabilities["model"] >= 0.58)
    (dry, false_alarms), (misses, hits) = told
    assert drawn["confusion"].words.endswith(
        f"hits {hits}; misses {misses}; false alarms {false_alarms}; correct negatives {dry}."
    )


def test_ranking_curves_hold_their_areas(run: Run, drawn: dict[str, Picture]) -> None:
    sample = run.sample()
    assert sample is not None
    model = sample.probabilities["model"]
    assert f"Timer-XL {roc_auc_score(sample.label, model):.3f}" in drawn["roc"].caption
    precision = average_precision_score(sample.label, model)
    assert f"Timer-XL {precision:.3f}" in drawn["precision-recall"].caption
    x, y = lines(drawn["roc"].figure.axes[0])["Timer-XL"]
    assert len(x) <= 161
    # Few points, the same curve.
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(sample.label, model), abs=0.005)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_reliability_is_that_of_the_results(run: Run, drawn: dict[str, Picture]) -> None:
    assert run.results is not None
    points = run.results["reliability"]["model_calibrated"]
    found = lines(drawn["reliability"].figure.axes[0])["calibrated"]
    assert found == ([p["forecast"] for p in points], [p["observed"] for p in points])


def test_every_svg_is_safe_inline(run: Run, drawn: dict[str, Picture]) -> None:
    strata = strata_pictures(run, {by: strata_of(run, by) for by in ("region", "season")})
    texts = [svg_of(picture) for picture in [*drawn.values(), *strata]]
    ids = [name for text in texts for name in re.findall(r' id="([^"]*)"', text)]
    assert len(texts) == 14
    assert len(ids) == len(set(ids))
    for text in texts:
        used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
        assert used <= set(re.findall(r' id="([^"]*)"', text))
        assert re.search(r'role="img" aria-label="[^"]{30,}"', text)
        assert not re.search(r"https?:|<style|<metadata|<!--|font-family|#[0-9a-f]{6}", text)


def test_the_same_numbers_give_the_same_svg(run: Run, drawn: dict[str, Picture]) -> None:
    again = by_name(run)
    assert {n: svg_of(p) for n, p in drawn.items()} == {n: svg_of(p) for n, p in again.items()}


@pytest.mark.parametrize("name", ["<b>&\"'", "$x_1$", "%s {0}", "雨の多い", "_hidden"])
def test_names_are_drawn_as_they_are(make_run: Any, tmp_path: Path, name: str) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.forecasts is not None
    run.forecasts["region"] = run.forecasts["region"].replace("costa", name)
    (picture, *_) = strata_pictures(run, {"region": strata_of(run, "region")})
    svg = svg_of(picture)
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in svg
    assert "<b>" not in svg
    assert "<!--" not in svg  # matplotlib's note beside a formula


def test_long_curves_are_thinned_to_means() -> None:
    x, y, k = thin(list(range(1001)), [2.0 * i for i in range(1001)], most=300)
    assert (k, len(x)) == (4, 251)
    assert (x[0], y[0], x[-1]) == (1.5, 3.0, 1000)
    assert thin([1.0], [2.0]) == ([1.0], [2.0], 1)


def test_a_canvas_has_room_for_its_legend() -> None:
    small, large = canvas()[0], canvas(entries=6)[0]
    assert large.get_figheight() == pytest.approx(small.get_figheight() + 0.6)


def test_figures_for_tensorboard_are_dark_on_white(healthy: Path, running: Path) -> None:
    found = figures(healthy)
    assert "report/curve-f1" in found
    assert "report/confusion" in found
    assert len(found) == 14
    assert set(figures(running)) == {f"report/curve-{key}" for key in SCORES if "skill_" not in key}
    drawing = FigureCanvasAgg(found["report/curve-f1"])
    drawing.draw()
    pixels = np.asarray(drawing.buffer_rgba())
    assert pixels[..., 3].min() == 255
    assert (pixels[0, 0] == 255).all()
    assert pixels[..., :3].min() < 60
