"""One training run from a recipe to results.json."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from timerxl.command_line import is_main_rank
from timerxl.config import RunConfig, to_yaml
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.training.assembly import (
    build_model,
    class_share_lines,
    model_config,
    plan_steps,
    resolve_alpha,
    use_seed,
)
from timerxl.training.batches import BatchPlan
from timerxl.training.evaluation import Forecasts, forecast, skill
from timerxl.training.final import (
    choose_threshold,
    final_table,
    gap_recovered,
    print_table,
    results,
    score_baselines,
)
from timerxl.training.launcher import build_accelerator, fill_deepspeed
from timerxl.training.loop import Trainer
from timerxl.training.optim import build_optimizer, build_schedule
from timerxl.training.saving import PREPROCESSING, load_weights, prepare_output_dir
from timerxl.training.tracking import MetricsLog, write_json, write_status, write_text


@dataclass
class Log:
    """Sentences for the reader, from the main process alone."""

    active: bool = True

    def __call__(self, sentence: str) -> None:
        if self.active:
            print(sentence, flush=True)


def train(config: RunConfig) -> dict[str, Any]:
    """Train, keep the best model, score the test split once; returns what results.json holds.

    Raises InputError on bad input before any long work, TrainingFailed where the loss is lost.
    """
    started = time.perf_counter()
    output_dir = Path(config.output_dir)
    log = Log(active=is_main_rank())
    log(f"recipe {config.recipe} -> {output_dir}")
    windows = load_windows(config, log)
    alpha, notes = resolve_alpha(config, windows.labels_of("train"))
    num_static = len(windows.static_feature_names)
    settings = model_config(config, len(windows.series.feature_names), num_static, alpha)
    for note in notes:
        log(note)
    use_seed(config.seed, rank=0)
    model, backbone = build_model(settings, config.model, log)
    accelerator = build_accelerator(config, log)
    plan = BatchPlan(
        num_samples=len(windows.issue_rows("train")),
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
        world_size=accelerator.num_processes,
        rank=accelerator.process_index,
        seed=config.seed,
    )
    steps = plan_steps(config, plan.steps_per_epoch)
    if accelerator.is_main_process:
        if moved := prepare_output_dir(output_dir):
            log(moved)
        write_text(output_dir / "config.yaml", to_yaml(config))
        write_status(output_dir, 1, "running")
    accelerator.wait_for_everyone()
    accelerator.init_trackers("tensorboard")
    metrics = MetricsLog(output_dir / "metrics.jsonl", accelerator.is_main_process)

    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = build_optimizer(model, config.optim, backbone)
    schedule = build_schedule(optimizer, config.optim, steps.total_steps, steps.freeze_steps)
    fill_deepspeed(accelerator, config)
    log(_work_line(config, settings, plan, steps.total_steps, model))
    prepared_model, prepared_optimizer = accelerator.prepare(model, optimizer)
    use_seed(config.seed, rank=accelerator.process_index)
    extras = windows.preprocessing() | {"loss": {"name": config.loss.name, "alpha": alpha}}
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=prepared_model,
        optimizer=prepared_optimizer,
        schedule=schedule,
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
            "loading_seconds": progress.loading_seconds,
            "samples_per_s": progress.samples_seen / max(progress.train_seconds, 1e-9),
            "num_parameters": model.num_parameters(),
            "num_processes": accelerator.num_processes,
            "is_synthetic": windows.series.is_synthetic,
        }
        log(f"stopped: {progress.stop_reason}; best model from step {progress.best_step}.")
        found = _score_best(
            config, accelerator, prepared_model, windows, extras, cost, started, log
        )
        metrics.write("results", **found)
    finally:
        metrics.close()
        accelerator.end_training()
    return found


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
    threshold = choose_threshold(
        config.eval, final["validation"].probability, final["validation"].label
    )
    of_model = {s: {"model": skill(f.probability, f.label, threshold)} for s, f in final.items()}
    validation, test = score_baselines(windows, final, config.eval, config.seed, log)
    validation, test = of_model["validation"] | validation, of_model["test"] | test
    cost |= {"seconds": time.perf_counter() - started, "peak_memory_gib": peak_memory_gib()}
    sampled = {"max_windows": config.eval.max_windows, "eval_seed": config.seed}
    found = results(final, threshold, validation, test, sampled, cost)
    extras = extras | {
        "decision_threshold": threshold,
        "best_step": cost["best_step"],
        "scores": {"validation": validation["model"], "test": test["model"]},
    }
    write_json(folder / PREPROCESSING, extras)
    write_json(Path(config.output_dir) / "results.json", found)
    _print_results(config, windows, final, threshold, test, cost)
    return found


def _print_results(
    config: RunConfig,
    windows: WeatherWindows,
    final: dict[str, Forecasts],
    threshold: float,
    test: dict[str, dict[str, float]],
    cost: dict[str, Any],
) -> None:
    kind = "SYNTHETIC data" if windows.series.is_synthetic else str(config.data.path)
    count, sampled = len(final["test"].label), ""
    if config.eval.max_windows is not None:
        total = len(windows.labels_of("test"))
        sampled = f" (a seeded sample of {total:,})" if count < total else ""
    caption = (
        f"{count:,} test windows{sampled}, {final['test'].label.mean():.1%} rain, scored once with "
        f"the best model; thresholds maximise MCC on validation (Timer-XL: {threshold:.3f})."
    )
    if (recovered := gap_recovered(test)) is not None:
        caption += f" Of the ROC-AUC gap from climatology to Bayes, {recovered:.0%} is recovered."
    print_table(
        final_table(
            test,
            f"Rain within {config.data.label_horizon_hours:g} h, {config.recipe}, {kind}",
            caption,
        )
    )
    print(
        f"{cost['steps']} steps in {cost['train_seconds']:.0f} s "
        f"({cost['samples_per_s']:.1f} samples/s), {cost['seconds']:.0f} s in all, "
        f"peak memory {cost['peak_memory_gib']:.2f} GiB. Model: {config.output_dir}/model",
        flush=True,
    )


def peak_memory_gib() -> float:
    """Peak of this process so far: the allocator's on a GPU, the resident set on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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
