"""The end of a run: the best model on test once, beside every baseline, written and printed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timerxl.command_line import say
from timerxl.config import RunConfig
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.data.windows import WeatherWindows
from timerxl.evaluation.assess import Decision, decide
from timerxl.evaluation.tables import comparison_table, print_table, recovered_words, score_table
from timerxl.files import whole_file, write_json
from timerxl.model.convert_openltm import load_saved
from timerxl.training.checkpoint.model_folder import model_problem
from timerxl.training.checkpoint.storage import StorageFailed
from timerxl.training.evaluator import Forecasts, agree, forecast
from timerxl.training.final_evaluation import assess_windows, forecast_table, gap_recovered, results
from timerxl.training.prediction import Check, check_table, peak_memory_gib
from timerxl.training.run_lock import FORECASTS
from timerxl.training.tracking import Log
from timerxl.untrusted import read_json


def score_best(
    config: RunConfig,
    accelerator: Accelerator,
    windows: WeatherWindows,
    extras: dict[str, Any],
    cost: dict[str, Any],
    started: float,
    log: Log,
) -> dict[str, Any]:
    """Threshold from validation, test once, baselines, results.json and the table.

    Scored is what was saved, as the Forecaster uses it: read from its folder, in fp32, without the
    wrappers and half precision of training. Raises StorageFailed on all ranks where it is damaged.
    """
    folder = Path(config.output_dir) / "model"
    problem = model_problem(folder) if accelerator.is_main_process else None
    if problem := agree(accelerator, problem):
        raise StorageFailed(
            f"the best model in {folder} can't be scored: {problem}. The same command goes on from "
            "the newest checkpoint, without that model."
        )
    model = load_saved(folder).to(accelerator.device)
    size = config.eval.batch_size or config.train.batch_size
    final: dict[str, Forecasts] = {}
    for split in ("validation", "test"):
        positions = windows.sample_windows(split, config.eval.max_windows, config.seed)
        final[split] = forecast(accelerator, model, windows, split, positions, size)
    if not accelerator.is_main_process:
        return {}
    decision = decide(config.eval, final["validation"].probability, final["validation"].label)
    assessed, probabilities, _ = assess_windows(
        windows, final, decision, config.eval, config.seed, log
    )
    cost |= {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()}
    sampled = {"max_windows": config.eval.max_windows, "eval_seed": config.seed}
    found = results(assessed, final, decision, sampled, cost)
    extras = extras | {
        "decision_threshold": decision.threshold,
        "calibration": decision.calibration.to_dict(),
        "best_step": cost["best_step"],
        "scores": {"validation": found["validation"], "test": found["test"]},
    }
    weights = {"weights": read_json(folder / PREPROCESSING).get("weights")}  # size and SHA-256
    write_json(folder / PREPROCESSING, extras | weights)
    table = forecast_table(windows, final, probabilities)
    with whole_file(Path(config.output_dir) / FORECASTS) as temporary:
        table.to_parquet(temporary, index=False)
    write_json(Path(config.output_dir) / "results.json", found)
    _print_results(config, windows, assessed, decision, cost)
    return found


def _caption(config: RunConfig, total: int, found: dict[str, Any], decision: Decision) -> str:
    """What stands below the table of all forecasts."""
    count, sampled = found["num_windows"], ""
    if config.eval.max_windows is not None:
        sampled = f" (a seeded sample of {total:,})" if count < total else ""
    chosen = f"maximise {config.eval.threshold_score} on validation"
    scored = "scored once"
    if config.eval.test_every_epoch:
        scored = "scored at every evaluation (eval.test_every_epoch: contaminated), here"
    caption = (
        f"{count:,} test windows{sampled}, {found['rain_share']:.1%} rain, {scored} with the "
        f"best model; thresholds {chosen} (Timer-XL: {decision.threshold:.3f})."
    )
    if (recovered := gap_recovered(found["scores"])) is not None:
        share = recovered_words(recovered)
        caption += f" Of the ROC-AUC gap from climatology to Bayes, {share} is recovered."
    return caption


def _print_results(
    config: RunConfig,
    windows: WeatherWindows,
    found: dict[str, Any],
    decision: Decision,
    cost: dict[str, Any],
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(config.data.path)
    caption = _caption(config, len(windows.labels_of("test")), found, decision)
    title = f"Rain within {config.data.label_horizon_hours:g} h, {config.recipe}, {kind}"
    print_table(comparison_table(found["scores"], title, caption))
    print_table(score_table(found, "Timer-XL on the test split, score by score"))
    say(
        f"{cost['steps']} steps in {cost['train_seconds']:.0f} s "
        f"({cost['samples_per_s']:.1f} samples/s), {cost['seconds']:.0f} s in all, "
        f"peak memory {cost['peak_memory_gib']:.2f} GiB, scores and baselines included. "
        f"Model: {config.output_dir}/model"
    )
    if "plan" in cost:
        print_table(check_table(Check(**cost["plan"])))
