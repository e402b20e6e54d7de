"""Make one forecaster of several finished runs: calibrated on validation, scored once on test."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import InputError, RunConfig, load_recipe, to_yaml
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing
from timerxl.data.store import open_saved_windows
from timerxl.data.windows import WeatherWindows
from timerxl.ensemble import (
    ENSEMBLE,
    MOST_MEMBERS,
    TREES,
    description,
    difference,
    mean_logits,
    member_names,
)
from timerxl.evaluation.assess import (
    VALIDATION,
    Decision,
    Sample,
    decide,
    interval_of,
    resampled,
    why_none,
)
from timerxl.evaluation.blending import BlendedTrees, fit_blend
from timerxl.evaluation.lagged_models import GradientBoosting, LaggedBaseline
from timerxl.evaluation.references import fit_lagged, seen_neighbours
from timerxl.evaluation.scores import forecast_scores
from timerxl.evaluation.tables import Table, comparison_table, print_table, score_table
from timerxl.files import whole_file, write_json, write_text
from timerxl.forecaster import load_classifier
from timerxl.training.checkpoint.model_folder import copy_model, model_problem
from timerxl.training.checkpoint.storage import fresh_folder
from timerxl.training.evaluator import Forecasts
from timerxl.training.final_evaluation import (
    assess_windows,
    blended,
    data_path,
    forecast_splits,
    forecast_table,
    results,
)
from timerxl.training.processes.run_lock import FORECASTS, RUN_CONFIG
from timerxl.untrusted import listed, read_json, read_yaml

TEST = "test"
SETTINGS = "training_config.yaml"  # of the first member, as a published run has them
_COMPARED = ("roc_auc", "brier", "mcc", "f1")  # ensemble less member, paired
# What must not differ, because the ensemble's threshold and scores follow it.
_CHOICES = ("threshold", "threshold_score", "max_windows", "block_days", "num_resamples")


@dataclass(frozen=True)
class Member:
    """A finished run: its folder, its settings and its model's preprocessing.json."""

    run: Path
    config: RunConfig
    saved: Preprocessing

    @property
    def threshold(self) -> float:
        found = self.saved.content.get("decision_threshold")
        return 0.5 if found is None else float(found)


def read_member(run: Path) -> Member:
    """Read a run; raise InputError where it is not finished, or its model is damaged."""
    for name in (RUN_CONFIG, "results.json"):
        if not (run / name).is_file():
            raise InputError(
                f"{run} holds no {name}; expected the folder of a finished run, as runs/quickstart."
            )
    if problem := model_problem(run / "model"):
        raise InputError(f"{run / 'model'} can't be a member: {problem}.")
    # What sends a run away is of no concern here, and refused in a file that is given by path.
    quiet = ["hub.push=false", "hub.repo_id=null", "train.mirror=null"]
    config = load_recipe(str(run / RUN_CONFIG), quiet)
    config.recipe = _recipe_of(run)
    return Member(run, config, Preprocessing.load(run / "model"))


def _recipe_of(run: Path) -> str:
    """The name of the run's recipe: a recipe given by path is called after its file."""
    found = read_yaml(run / RUN_CONFIG)
    return str(found.get("recipe") or "") if isinstance(found, dict) else ""


def check_fit(members: list[Member]) -> None:
    """Raise InputError where the runs can't be one forecaster, naming what differs."""
    first = members[0]
    if not 2 <= len(members) <= MOST_MEMBERS:
        raise InputError(
            f"{len(members)} run{'s' if len(members) != 1 else ''} given; expected 2 to "
            f"{MOST_MEMBERS}."
        )
    folders = [member.run.resolve() for member in members]
    if len(set(folders)) < len(folders):
        raise InputError("a run is named twice; a member counts once.")
    for other in members[1:]:
        problem = difference(first.saved.content, other.saved.content)
        for key in () if problem else _CHOICES:
            values = [getattr(one.config.eval, key) for one in (first, other)]
            if values[0] != values[1]:
                problem = f"eval.{key} is {values[0]!r} and {values[1]!r}"
        if problem is None and first.config.eval.max_windows is not None:
            seeds = [one.config.seed for one in (first, other)]
            if seeds[0] != seeds[1]:
                problem = (
                    f"eval.max_windows draws other windows for the seeds {seeds[0]} and {seeds[1]}"
                )
        if problem:
            raise InputError(f"{first.run} and {other.run} do not fit together: {problem}.")
    if any(member.config.eval.test_every_epoch for member in members):
        raise InputError(
            "a run scored test at every evaluation (eval.test_every_epoch); an ensemble's test "
            "scores are those of unseen data, so train it again without."
        )


def check_output(output: Path, runs: list[Path]) -> None:
    """Raise InputError where ``output`` is not a new or empty folder outside the runs."""
    if os.path.lexists(output) and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output {output} is there already; name a new or an empty folder.")
    for run in runs:
        if output.resolve().is_relative_to(run.resolve()):
            raise InputError(f"--output {output} lies in {run}, which stays as it is.")


def build_ensemble(
    runs: list[Path],
    output: Path,
    accelerator: Accelerator,
    log: Callable[[str], None],
    data: str | None = None,
    enso: Path | None = None,
    blend_trees: bool = False,
) -> dict[str, Any]:
    """Score the mean of the runs' models and write it to ``output``, whole or not at all.

    With ``blend_trees`` the mean is blended with the boosted trees, by weights fitted on
    validation; the mean alone and the trees alone are then scored beside it. Threshold and
    calibration are those of validation; test is scored once, beside each member and every baseline.
    Returns what results.json holds ({} but on the main process). Raises InputError where the runs
    don't fit together.
    """
    started = time.perf_counter()
    check_output(output, runs)
    members = [read_member(run) for run in runs]
    check_fit(members)
    saved, config, eval_config = members[0].saved, members[0].config, members[0].config.eval
    data_config = saved.data_config(data_path(data, saved), enso)
    windows = open_saved_windows(data_config, saved, log)
    for note in windows.notes:
        log(f"data: {note}")
    if blend_trees and windows.series.regions != saved.regions:  # which the trees tell apart
        raise InputError(
            f"--blend-trees: the series holds the regions {listed(windows.series.regions)}; the "
            f"runs were trained on {listed(saved.regions)}. Give the series of training (--data)."
        )
    of_members = []
    for member in members:
        log(f"forecasting with {member.run} ...")
        model = load_classifier(member.saved.folder, member.saved)
        size = eval_config.batch_size or config.train.batch_size
        limit = eval_config.max_windows
        splits = (VALIDATION, TEST)
        of_members.append(
            forecast_splits(accelerator, model, windows, splits, limit, config.seed, size)
        )
    if not accelerator.is_main_process:
        return {}
    mean = {split: mean_forecasts([of[split] for of in of_members]) for split in (VALIDATION, TEST)}
    final, trees, fitted = mean, None, None
    if blend_trees:
        fitted = fit_lagged(windows, config.seed, log)
        trees = fit_trees(windows, fitted, mean[VALIDATION], saved)
        final = {split: blended(trees, windows, of) for split, of in mean.items()}
    decision = decide(eval_config, final[VALIDATION].probability, final[VALIDATION].label)
    assessed, probabilities, samples = assess_windows(
        windows, final, decision, eval_config, config.seed, log, fitted
    )
    scored = score_members(members, of_members, final, decision, samples, windows)
    blend = {}
    if trees is not None:
        parts = {
            "network": {split: of.probability for split, of in mean.items()},
            "trees": probabilities["gradient_boosting"],
        }
        blend = {
            "blend": trees.blend.to_dict(),
            "parts": score_parts(parts, final, decision, samples, windows, config),
        }
    sampled = {"max_windows": eval_config.max_windows, "eval_seed": config.seed}
    cost = {
        "seconds": time.perf_counter() - started,
        "is_synthetic": windows.series.is_synthetic,
        "num_parameters": sum(one["num_parameters"] for one in scored),
    }
    found = results(assessed, final, decision, sampled, cost) | {"members": scored} | blend
    table = forecast_table(windows, final, probabilities)
    try:
        _write(output, members, saved, found, decision, table, trees)
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    _print(output, windows, assessed, found, decision)
    return found


def mean_forecasts(parts: list[Forecasts]) -> Forecasts:
    """The forecasts of the mean probability, from those of members on the same windows."""
    logits = torch.from_numpy(np.stack([part.logits for part in parts]))
    first = parts[0]
    return Forecasts(first.split, first.positions, mean_logits(logits).numpy(), first.label)


def fit_trees(
    windows: WeatherWindows,
    fitted: dict[str, LaggedBaseline],
    mean: Forecasts,
    saved: Preprocessing,
) -> BlendedTrees:
    """Blend the fitted trees with the network's ``mean`` forecasts of validation."""
    trees, near = fitted["gradient_boosting"], seen_neighbours(windows)
    assert isinstance(trees, GradientBoosting)
    rows = windows.issue_rows(VALIDATION)[mean.positions]
    blend = fit_blend(mean.probability, trees.predict(rows), mean.label)
    if near is None:
        near = np.empty((len(saved.regions), 0), np.int64)
    return BlendedTrees(blend, trees.kept(), near, saved)


def score_parts(
    parts: dict[str, dict[str, np.ndarray]],
    final: dict[str, Forecasts],
    decision: Decision,
    samples: dict[str, Sample],
    windows: WeatherWindows,
    config: RunConfig,
) -> list[dict[str, Any]]:
    """Score what was blended (name -> split -> P(rain)), each with its own threshold."""
    label = samples[VALIDATION].label
    thresholds = {
        name: decide(config.eval, of[VALIDATION], label).threshold for name, of in parts.items()
    }
    scored = score_beside(parts, thresholds, final, decision, samples, windows, config)
    return [{"name": name, **one} for name, one in scored.items()]


def score_members(
    members: list[Member],
    of_members: list[dict[str, Forecasts]],
    final: dict[str, Forecasts],
    decision: Decision,
    samples: dict[str, Sample],
    windows: WeatherWindows,
) -> list[dict[str, Any]]:
    """Score each member on the same windows, with its own threshold; intervals, and the ensemble's
    paired differences to it, come from the same resampled blocks."""
    names = member_names(len(members))
    thresholds = {n: member.threshold for n, member in zip(names, members, strict=True)}
    given = {
        name: {split: part.probability for split, part in of.items()}
        for name, of in zip(names, of_members, strict=True)
    }
    scored = score_beside(given, thresholds, final, decision, samples, windows, members[0].config)
    return [
        {
            "name": name,
            "recipe": member.config.recipe,
            "seed": member.config.seed,
            "num_parameters": _num_parameters(member),
            **scored[name],
        }
        for name, member in zip(names, members, strict=True)
    ]


def score_beside(
    given: dict[str, dict[str, np.ndarray]],
    thresholds: dict[str, float],
    final: dict[str, Forecasts],
    decision: Decision,
    samples: dict[str, Sample],
    windows: WeatherWindows,
    config: RunConfig,
) -> dict[str, dict[str, Any]]:
    """Score forecasts (name -> split -> P(rain)) beside the ensemble's own, on the same windows."""
    base_rate = windows.rain_share("train")
    resamples = {}
    if why_none(samples[TEST], config.eval) is None:
        resamples = resampled(
            {name: of[TEST] for name, of in given.items()} | {"model": final[TEST].probability},
            samples[TEST],
            thresholds | {"model": decision.threshold},
            base_rate,
            config.eval,
            config.seed,
        )
    found = {}
    for name, of in given.items():
        entry: dict[str, Any] = {
            "threshold": thresholds[name],
            **{
                split: forecast_scores(of[split], samples[split].label, thresholds[name], base_rate)
                for split in (VALIDATION, TEST)
            },
            "intervals": {},
            "differences": {},
        }
        if resamples:
            of_name = resamples[name]
            entry["intervals"] = {key: interval_of(one) for key, one in of_name.items()}
            for key in _COMPARED:
                low, high = interval_of(resamples["model"][key].minus(of_name[key]))
                entry["differences"][key] = {"low": low, "high": high}
        found[name] = entry
    return found


def _num_parameters(member: Member) -> int:
    found = read_json(member.run / "results.json")
    number = found.get("num_parameters") if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0


def _write(
    output: Path,
    members: list[Member],
    saved: Preprocessing,
    found: dict[str, Any],
    decision: Decision,
    table: Any,
    trees: BlendedTrees | None,
) -> None:
    """Write the folder beside its place, then rename it."""
    fresh = fresh_folder(output)
    shutil.rmtree(fresh, ignore_errors=True)
    names = member_names(len(members))
    try:
        fresh.mkdir(parents=True)
        for name, member in zip(names, members, strict=True):
            copy_model(member.saved.folder, fresh / name)
        of_members = ("validation", "step", "best_step", "weights", "stopped_by", "loss")
        content = {k: v for k, v in saved.content.items() if k not in of_members}
        content |= {
            "decision_threshold": decision.threshold,
            "calibration": decision.calibration.to_dict(),
            "scores": {VALIDATION: found["validation"], TEST: found["test"]},
        }
        write_json(fresh / PREPROCESSING, content)
        write_json(fresh / "results.json", found)
        members[0].config.output_dir = output.name
        write_text(fresh / SETTINGS, to_yaml(members[0].config))
        with whole_file(fresh / FORECASTS) as temporary:
            table.to_parquet(temporary, index=False)
        if trees is not None:
            trees.save(fresh / TREES)
        blend = None if trees is None else trees.blend.to_dict()
        write_json(fresh / ENSEMBLE, description(names, blend))
        if output.is_dir():
            output.rmdir()  # empty, as was checked
        fresh.replace(output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _print(
    output: Path,
    windows: WeatherWindows,
    assessed: dict[str, Any],
    found: dict[str, Any],
    decision: Decision,
) -> None:
    scored, blend = found["members"], found.get("blend")
    name = "mean" if blend is None else "blend"
    title = f"Mean of {len(scored)}"
    if blend is not None:
        title += " blended with boosted trees"
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(windows.series.source["path"])
    caption = (
        f"{assessed['num_windows']:,} test windows, {assessed['rain_share']:.1%} rain, scored once "
        f"with the {name} of {len(scored)} models{' and trees' if blend else ''}; thresholds "
        f"chosen on validation ({name}: {decision.threshold:.3f})."
    )
    print_table(comparison_table(assessed["scores"], f"{title}, {kind}", caption))
    print_table(score_table(assessed, f"The {name} on the test split, score by score"))
    print_table(members_table(assessed, [*found.get("parts", []), *scored], name))
    if blend is not None:
        say(
            "blend, fitted on validation: log-odds = "
            f"{blend['network']:.3f} x the network's {blend['trees']:+.3f} x the trees' "
            f"{blend['intercept']:+.3f}"
        )
    say(f"ensemble of {len(scored)}: {output}")


def members_table(
    assessed: dict[str, Any], scored: list[dict[str, Any]], name: str = "mean"
) -> Table:
    """The ensemble and each of its parts on test, with the 95 % interval of the one less the
    other; ``name`` is what the ensemble is."""
    table = Table(
        title=f"The {name} and its members on the test split",
        caption=f"In brackets the 95 % interval of the {name} less the member, on the same blocks "
        "of time; Brier: lower is better.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("forecast", no_wrap=True)
    for key in _COMPARED:
        table.add_column(key, justify="right", no_wrap=True)
    table.add_row(name, *(f"{assessed['scores']['model'][key]:.3f}" for key in _COMPARED))
    for one in scored:
        cells = []
        for key in _COMPARED:
            gap = one["differences"].get(key) or {}
            shown = ""
            if gap.get("low") is not None and gap.get("high") is not None:
                shown = f" ({gap['low']:+.3f} to {gap['high']:+.3f})"
            cells.append(f"{one[TEST][key]:.3f}{shown}")
        seed = f", seed {one['seed']}" if "seed" in one else " alone"
        table.add_row(f"{one['name']}{seed}", *cells)
    return table
