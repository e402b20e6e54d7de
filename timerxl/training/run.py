"""One training run from a recipe to results.json."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from timerxl.command_line import EXIT_FAILED, is_main_rank
from timerxl.config import InputError, RunConfig, to_yaml
from timerxl.data.audit import audit_windows
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.files import write_json, write_text
from timerxl.training.assembly import (
    build_model,
    class_share_lines,
    model_config,
    plan_steps,
    resolve_alpha,
    use_seed,
)
from timerxl.training.assessment import Decision, decide
from timerxl.training.batches import BatchPlan
from timerxl.training.evaluation import Forecasts, agree, forecast
from timerxl.training.final import assess_windows, gap_recovered, results
from timerxl.training.launcher import build_accelerator, fill_deepspeed
from timerxl.training.loop import Trainer
from timerxl.training.optim import build_optimizer, build_schedule
from timerxl.training.prediction import (
    Check,
    Predictor,
    RunFacts,
    check,
    check_table,
    peak_memory_gib,
)
from timerxl.training.saving import (
    RUN_CONFIG,
    check_output_dir,
    load_weights,
    prepare_output_dir,
)
from timerxl.training.step import TrainingFailed, TrainingStep
from timerxl.training.tables import comparison_table, print_table, score_table
from timerxl.training.tracking import MetricsLog, write_status


@dataclass
class Log:
    """Sentences for the reader, from the main process alone."""

    active: bool = True

    def __call__(self, sentence: str) -> None:
        if self.active:
            print(sentence, flush=True)


def train(config: RunConfig, predict: Predictor | None = None) -> dict[str, Any]:
    """Train, keep the best model, score the test split once; returns what results.json holds.

    ``predict`` says before the first step what the run will cost; what it cost stands beside it.
    Raises InputError on bad input before any long work and before the first file is written,
    TrainingFailed where the loss or the forecasts are no numbers any more.
    """
    started = time.perf_counter()
    output_dir = Path(config.output_dir)
    log = Log(active=is_main_rank())
    log(f"recipe {config.recipe} -> {output_dir}")
    check_output_dir(output_dir)
    windows = load_windows(config, log)
    alpha, notes = resolve_alpha(config, windows.labels_of("train"))
    num_static = len(windows.static_feature_names)
    settings = model_config(config, len(windows.series.feature_names), num_static, alpha)
    for note in notes:
        log(note)
    use_seed(config.seed, rank=0)
    model, backbone = build_model(settings, config.model, log)
    accelerator = build_accelerator(config, log)
    fill_deepspeed(accelerator, config)
    plan = BatchPlan(
        num_samples=len(windows.issue_rows("train")),
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        seed=config.seed,
    )
    steps = plan_steps(config, plan.steps_per_epoch)
    open_run_folder(accelerator, config, log)
    accelerator.init_trackers("tensorboard")
    metrics = MetricsLog(output_dir / "metrics.jsonl", accelerator.is_main_process)

    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = build_optimizer(model, config.optim, backbone)
    schedule = build_schedule(optimizer, config.optim, steps.total_steps, steps.freeze_steps)
    log(_work_line(config, settings, plan, steps.total_steps, model))
    prediction = None
    if predict is not None and accelerator.is_main_process:
        prediction = predict(config, windows, RunFacts.of(accelerator))
        log(prediction.summary)
        metrics.write("plan", **asdict(prediction))
    prepared_model, prepared_optimizer = accelerator.prepare(model, optimizer)
    use_seed(config.seed, rank=accelerator.process_index)
    extras = windows.preprocessing() | {"loss": {"name": config.loss.name, "alpha": alpha}}
    step = TrainingStep(
        accelerator=accelerator,
        model=prepared_model,
        optimizer=prepared_optimizer,
        schedule=schedule,
        accumulation_steps=config.train.accumulation_steps,
        max_grad_norm=config.optim.max_grad_norm,
    )
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=prepared_model,
        step=step,
        windows=windows,
        plan=plan,
        total_steps=steps.total_steps,
        alpha=alpha,
        model_extras=extras,
        log=metrics,
    )
    try:
        progress = trainer.run()
        cost = {
            "stop_reason": progress.stop_reason,
            "steps": progress.step,
            "best_step": progress.best_step,
            "train_seconds": progress.train_seconds,
            "loading_seconds": step.loading_seconds,
            "samples_per_s": progress.samples_seen / max(progress.train_seconds, 1e-9),
            "num_parameters": model.num_parameters(),
            "num_processes": accelerator.num_processes,
            "is_synthetic": windows.series.is_synthetic,
        }
        if prediction is not None:
            cost["plan"] = check(
                prediction, plan.steps_per_epoch, progress.step, progress.train_seconds
            ).to_dict()
            metrics.write("plan_check", **cost["plan"])
        log(f"stopped: {progress.stop_reason}; best model from step {progress.best_step}.")
        found = _score_best(
            config, accelerator, prepared_model, windows, extras, cost, started, log
        )
        metrics.write("results", **found)
    except InputError as error:
        # The input was good: what the scores refuse now is what the model made of it.
        raise TrainingFailed(str(error)) from error
    finally:
        metrics.close()
        accelerator.end_training()
    return found


def open_run_folder(accelerator: Accelerator, config: RunConfig, log: Log) -> None:
    """The main process moves an earlier run aside and writes the first files of this one.

    Raises InputError on all ranks where it can't: none may wait for a main process that stopped.
    """
    output_dir, problem = Path(config.output_dir), None
    if accelerator.is_main_process:
        try:
            if moved := prepare_output_dir(output_dir):
                log(moved)
            write_text(output_dir / RUN_CONFIG, to_yaml(config))
            write_status(output_dir, EXIT_FAILED, "running")
        except (InputError, OSError) as error:
            problem = str(error)
    if problem := agree(accelerator, problem):
        raise InputError(problem)


def load_windows(config: RunConfig, log: Log) -> WeatherWindows:
    """The series as windows, with what a reader must know of them logged."""
    series = load_series(config.data)
    if series.is_synthetic:
        log("data: SYNTHETIC series from the built-in generator (data.path=PATH for your own).")
    windows = build_windows(series, config.data, config.model.context_length)
    for note in windows.notes:
        log(f"data: {note}")
    log(
        f"context {config.model.context_length} steps of {series.step_hours:g} h = "
        f"{windows.context_days:g} days; {len(series.feature_names)} features, "
        f"{len(series.regions)} regions."
    )
    for line in class_share_lines(windows):
        log(line)
    for line in audit_windows(windows, config).short_lines():
        log(f"audit: {line}")
    return windows


def _score_best(
    config: RunConfig,
    accelerator: Accelerator,
    model: torch.nn.Module,
    windows: WeatherWindows,
    extras: dict[str, Any],
    cost: dict[str, Any],
    started: float,
    log: Log,
) -> dict[str, Any]:
    """Threshold from validation, test once, baselines, results.json and the table."""
    folder = Path(config.output_dir) / "model"
    load_weights(accelerator, model, folder)
    size = config.eval.batch_size or config.train.batch_size
    final: dict[str, Forecasts] = {}
    for split in ("validation", "test"):
        positions = windows.sample_windows(split, config.eval.max_windows, config.seed)
        final[split] = forecast(accelerator, model, windows, split, positions, size)
    if not accelerator.is_main_process:
        return {}
    decision = decide(config.eval, final["validation"].probability, final["validation"].label)
    assessed, _, _ = assess_windows(windows, final, decision, config.eval, config.seed, log)
    cost |= {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()}
    sampled = {"max_windows": config.eval.max_windows, "eval_seed": config.seed}
    found = results(assessed, final, decision, sampled, cost)
    extras = extras | {
        "decision_threshold": decision.threshold,
        "calibration": decision.calibration.to_dict(),
        "best_step": cost["best_step"],
        "scores": {"validation": found["validation"], "test": found["test"]},
    }
    write_json(folder / PREPROCESSING, extras)
    write_json(Path(config.output_dir) / "results.json", found)
    _print_results(config, windows, assessed, decision, cost)
    return found


def _print_results(
    config: RunConfig,
    windows: WeatherWindows,
    found: dict[str, Any],
    decision: Decision,
    cost: dict[str, Any],
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(config.data.path)
    count, sampled = found["num_windows"], ""
    if config.eval.max_windows is not None:
        total = len(windows.labels_of("test"))
        sampled = f" (a seeded sample of {total:,})" if count < total else ""
    chosen = f"maximise {config.eval.threshold_score} on validation"
    caption = (
        f"{count:,} test windows{sampled}, {found['rain_share']:.1%} rain, scored once with the "
        f"best model; thresholds {chosen} (Timer-XL: {decision.threshold:.3f})."
    )
    if (recovered := gap_recovered(found["scores"])) is not None:
        caption += f" Of the ROC-AUC gap from climatology to Bayes, {recovered:.0%} is recovered."
    title = f"Rain within {config.data.label_horizon_hours:g} h, {config.recipe}, {kind}"
    print_table(comparison_table(found["scores"], title, caption))
    print_table(score_table(found, "Timer-XL on the test split, score by score"))
    print(
        f"{cost['steps']} steps in {cost['train_seconds']:.0f} s "
        f"({cost['samples_per_s']:.1f} samples/s), {cost['seconds']:.0f} s in all, "
        f"peak memory {cost['peak_memory_gib']:.2f} GiB. Model: {config.output_dir}/model",
        flush=True,
    )
    if "plan" in cost:
        print_table(check_table(Check(**cost["plan"])))


def _work_line(
    config: RunConfig, settings: Any, plan: BatchPlan, total_steps: int, model: Any
) -> str:
    tokens = settings.num_variables * (config.model.context_length // config.model.patch_length)
    return (
        f"{plan.num_samples:,} training windows, global batch {plan.global_batch_size} = "
        f"{plan.batch_size} x {plan.accumulation_steps} accumulation x {plan.world_size} ranks, "
        f"{plan.steps_per_epoch} steps an epoch, {total_steps} in all; {tokens} tokens and "
        f"{model.flops_per_sample() / 1e9:.3g} GFLOP a sample."
    )
