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
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.ensemble import (
    ENSEMBLE,
    FORMAT,
    MOST_MEMBERS,
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
from timerxl.evaluation.scores import forecast_scores
from timerxl.evaluation.tables import Table, comparison_table, print_table, score_table
from timerxl.files import whole_file, write_json, write_text
from timerxl.forecaster import load_classifier
from timerxl.training.checkpoint.model_folder import copy_model, model_problem
from timerxl.training.checkpoint.storage import fresh_folder
from timerxl.training.evaluator import Forecasts
from timerxl.training.final_evaluation import (
    assess_windows,
    data_path,
    forecast_splits,
    forecast_table,
    results,
)
from timerxl.training.run_lock import FORECASTS, RUN_CONFIG
from timerxl.untrusted import read_json, read_yaml

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
) -> dict[str, Any]:
    """Score the mean of the runs' models and write it to ``output``, whole or not at all.

    Threshold and calibration are those of validation; test is scored once, beside each member and
    every baseline. Returns what results.json holds ({} but on the main process). Raises InputError
    where the runs don't fit together.
    """
    started = time.perf_counter()
    check_output(output, runs)
    members = [read_member(run) for run in runs]
    check_fit(members)
    saved, config, eval_config = members[0].saved, members[0].config, members[0].config.eval
    data_config = saved.data_config(data_path(data, saved), enso)
    windows = build_windows(load_series(data_config), data_config, saved.context_length, saved)
    for note in windows.notes:
        log(f"data: {note}")
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
    final = {
        split: mean_forecasts([of[split] for of in of_members]) for split in (VALIDATION, TEST)
    }
    decision = decide(eval_config, final[VALIDATION].probability, final[VALIDATION].label)
    assessed, probabilities, samples = assess_windows(
        windows, final, decision, eval_config, config.seed, log
    )
    scored = score_members(members, of_members, final, decision, samples, windows)
    sampled = {"max_windows": eval_config.max_windows, "eval_seed": config.seed}
    cost = {
        "seconds": time.perf_counter() - started,
        "is_synthetic": windows.series.is_synthetic,
        "num_parameters": sum(one["num_parameters"] for one in scored),
    }
    found = results(assessed, final, decision, sampled, cost) | {"members": scored}
    table = forecast_table(windows, final, probabilities)
    try:
        _write(output, members, saved, found, decision, table)
    except OSError as error:
        raise InputError(f"--output {output} can't be written: {error}") from error
    _print(output, windows, assessed, scored, decision)
    return found


def mean_forecasts(parts: list[Forecasts]) -> Forecasts:
    """The forecasts of the mean probability, from those of members on the same windows."""
    logits = torch.from_numpy(np.stack([part.logits for part in parts]))
    first = parts[0]
    return Forecasts(first.split, first.positions, mean_logits(logits).numpy(), first.label)


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
    config, seed = members[0].config.eval, members[0].config.seed
    base_rate = float(windows.labels_of("train").mean())
    names = member_names(len(members))
    given = {name: of[TEST].probability for name, of in zip(names, of_members, strict=True)}
    thresholds = {n: member.threshold for n, member in zip(names, members, strict=True)}
    resamples = {}
    if why_none(samples[TEST], config) is None:
        resamples = resampled(
            given | {"model": final[TEST].probability},
            samples[TEST],
            thresholds | {"model": decision.threshold},
            base_rate,
            config,
            seed,
        )
    found = []
    for name, member, of in zip(names, members, of_members, strict=True):
        scores = {
            split: forecast_scores(
                of[split].probability, samples[split].label, member.threshold, base_rate
            )
            for split in (VALIDATION, TEST)
        }
        entry: dict[str, Any] = {
            "name": name,
            "recipe": member.config.recipe,
            "seed": member.config.seed,
            "threshold": member.threshold,
            "num_parameters": _num_parameters(member),
            **scores,
            "intervals": {},
            "differences": {},
        }
        if resamples:
            of_name = resamples[name]
            entry["intervals"] = {key: interval_of(one) for key, one in of_name.items()}
            for key in _COMPARED:
                low, high = interval_of(resamples["model"][key].minus(of_name[key]))
                entry["differences"][key] = {"low": low, "high": high}
        found.append(entry)
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
        write_json(fresh / ENSEMBLE, {"format": FORMAT, "members": names})
        if output.is_dir():
            output.rmdir()  # empty, as was checked
        fresh.replace(output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _print(
    output: Path,
    windows: WeatherWindows,
    assessed: dict[str, Any],
    scored: list[dict[str, Any]],
    decision: Decision,
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(windows.series.source["path"])
    caption = (
        f"{assessed['num_windows']:,} test windows, {assessed['rain_share']:.1%} rain, scored once "
        f"with the mean of {len(scored)} models; thresholds chosen on validation (mean: "
        f"{decision.threshold:.3f})."
    )
    print_table(comparison_table(assessed["scores"], f"Mean of {len(scored)}, {kind}", caption))
    print_table(score_table(assessed, "The mean on the test split, score by score"))
    print_table(members_table(assessed, scored))
    say(f"ensemble of {len(scored)}: {output}")


def members_table(assessed: dict[str, Any], scored: list[dict[str, Any]]) -> Table:
    """The mean and each member on test, with the 95 % interval of the mean less the member."""
    table = Table(
        title="The mean and its members on the test split",
        caption="In brackets the 95 % interval of the mean less the member, on the same blocks of "
        "time; Brier: lower is better.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("forecast", no_wrap=True)
    for key in _COMPARED:
        table.add_column(key, justify="right", no_wrap=True)
    table.add_row("mean", *(f"{assessed['scores']['model'][key]:.3f}" for key in _COMPARED))
    for one in scored:
        cells = []
        for key in _COMPARED:
            gap = one["differences"].get(key) or {}
            shown = ""
            if gap.get("low") is not None and gap.get("high") is not None:
                shown = f" ({gap['low']:+.3f} to {gap['high']:+.3f})"
            cells.append(f"{one[TEST][key]:.3f}{shown}")
        table.add_row(f"{one['name']}, seed {one['seed']}", *cells)
    return table
