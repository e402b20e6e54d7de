"""One training run from a recipe to results.json."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from timerxl.command_line import is_main_rank
from timerxl.config import InputError, RunConfig
from timerxl.data.audit.auditor import audit_windows
from timerxl.data.readers import load_series
from timerxl.data.windows import WeatherWindows, build_windows
from timerxl.training.assembly import (
    build_model,
    build_optimizer,
    build_schedule,
    check_compiler,
    class_share_lines,
    compile_layers,
    compile_seconds,
    compiler_facts,
    model_config,
    plan_steps,
    resolve_alpha,
    use_seed,
)
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.mirror import Mirror, open_mirror
from timerxl.training.checkpoint.model_folder import check_room
from timerxl.training.checkpoint.storage import Progress, short_of_room
from timerxl.training.dataloader import BatchPlan, place_data
from timerxl.training.distributed import (
    build_accelerator,
    fill_deepspeed,
    limit_waiting,
    plan_launch,
    translate_distributed_errors,
)
from timerxl.training.evaluator import Evaluator, check_interval
from timerxl.training.final_evaluation import score_best
from timerxl.training.monitors.runner import MonitorRunner, RunStopped, dead_features
from timerxl.training.resume import RunEnded, code_fingerprint, data_fingerprint, plan_resume
from timerxl.training.run_cost import Predictor, RunFacts, check
from timerxl.training.run_dir import RunFolder
from timerxl.training.run_lock import METRICS
from timerxl.training.signals import Interruption, resume_hint
from timerxl.training.tracking import (
    Log,
    MetricsLog,
    check_trackers,
    draw_page,
    start_trackers,
)
from timerxl.training.trainer import Trainer, TrainingFailed, TrainingStep, train_curves


@dataclass(frozen=True)
class RunCallbacks:
    """What a command adds to a run, so that training need not know of it.

    ``predict`` says before the first step what the run will cost; what it cost stands beside it.
    ``draw`` (re)writes the page of the run's folder after every evaluation and at the end;
    ``figures`` gives the pictures for TensorBoard by name; ``new_best`` is told the folder of a run
    whose best model is new.
    """

    predict: Predictor | None = None
    draw: Callable[[Path], object] | None = None
    figures: Callable[[Path], dict[str, Any]] | None = None
    new_best: Callable[[Path], None] | None = None


def train(config: RunConfig, extras: RunCallbacks | None = None) -> dict[str, Any]:
    """Train, keep the best model, score the test split once; returns what results.json holds.

    Goes on from a checkpoint where ``config.train.resume`` says so and there is one. Raises
    InputError on bad input before any long work and before the first file is written, RunEnded
    where the run is over already, TrainingFailed where the loss or the forecasts are no numbers any
    more, RunStopped where a monitor ends the run, Interrupted where a signal does, StorageFailed
    where files can't be written or no checkpoint can be read, PeerLost where another process of
    the run is gone. status.json says so before the folder is free for the next process.
    """
    way = resume_hint(config.train.resume)
    # The lost peer is named before what ends the run hears of it.
    with ExitStack() as at_end, translate_distributed_errors(lambda: "before the first step", way):
        return _train(config, extras or RunCallbacks(), at_end)


def _train(config: RunConfig, extras: RunCallbacks, at_end: ExitStack) -> dict[str, Any]:
    started = time.perf_counter()
    output_dir = Path(config.output_dir)
    log = Log(active=is_main_rank())
    log(f"recipe {config.recipe} -> {output_dir}")
    asked = asdict(config)
    launch = plan_launch(config)
    check_trackers(config.train.trackers)
    mirror = open_mirror(config, log)
    try:
        found = plan_resume(config, int(os.environ.get("WORLD_SIZE", "1")))
    except RunEnded:
        if mirror is not None:  # whose last copy may have been cut off
            mirror.start()
            mirror.end(patient=True)
        raise
    check_room(output_dir)
    check_compiler(config, os.environ, compiler_facts)
    for note in found.notes:
        log(note)
    windows, audit = load_windows(config, log)
    alpha, notes = resolve_alpha(config, windows.labels_of("train"))
    num_static = len(windows.static_feature_names)
    settings = model_config(config, len(windows.series.feature_names), num_static, alpha)
    for note in notes:
        log(note)
    use_seed(config.seed, rank=0)
    model, backbone = build_model(settings, config.model, log)
    accelerator = build_accelerator(config, launch, log)
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
    prints = {"data": data_fingerprint(windows), "code": code_fingerprint()}
    folder = RunFolder(accelerator, config, log, audit, prints, extras.draw)
    folder.open(found)
    interruption = Interruption(on_stuck=folder.note_stuck)
    at_end.callback(interruption.restore_signal_handlers)  # the last of these, which run from below
    if mirror is not None:
        mirror.start()
        at_end.push(partial(_end_mirror, mirror))
    at_end.push(partial(_finish_trackers, accelerator))
    at_end.push(folder.end)
    # What an interrupted run wrote after its checkpoint is not shown twice. Where the looks of its
    # step will come again, its loss is shown again below.
    again = not folder.looked
    purge_step = folder.step + (not again) if folder.step else None
    start_trackers(accelerator, config, folder.run_id, purge_step)
    metrics = MetricsLog(output_dir / METRICS, accelerator.is_main_process)
    at_end.callback(metrics.close)
    settled = RunFacts.of(accelerator)
    facts: dict[str, Any] = {
        "config": asked,
        "run_id": folder.run_id,
        "global_batch_size": plan.global_batch_size,
        "precision": settled.precision,
        "zero_stage": settled.zero_stage,
        **{f"{name}_fingerprint": value for name, value in prints.items()},
    }

    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    compile_layers(config, model, log)
    optimizer = build_optimizer(model, config.optim, backbone)
    schedule = build_schedule(optimizer, config.optim, steps.total_steps, steps.freeze_steps)
    log(work_line(config, settings, plan, steps.total_steps, model))
    if plan.world_size > 1 and folder.checkpoint is None:
        log(
            f"note: {plan.world_size} processes make the global batch {plan.world_size} times the "
            "recipe's, at the recipe's learning rate; accelerate launch --num_processes 1 uses one."
        )
    under_copy = 2 if config.train.mirror else 0  # one is copied, one waits
    keep_last = config.train.keep_last
    if short := short_of_room(output_dir, model.num_parameters(), keep_last, under_copy):
        log(f"warning: {short}")
    guard = MonitorRunner(config, accelerator, metrics, log)
    check_every = check_interval(
        config, model, plan.global_batch_size, len(windows.issue_rows("validation"))
    )
    if folder.checkpoint is not None:
        last = guard.replay(output_dir / METRICS)
        if again and last.get("step") == folder.step:
            accelerator.log(train_curves(last), folder.step)
        world = accelerator.num_processes
        guard.event("resume", step=folder.step, processes=world, checkpoint=folder.checkpoint.name)
    else:
        guard.event("start", **start_event(config, windows, plan, steps.total_steps, check_every))
    prediction = None
    if extras.predict is not None and accelerator.is_main_process:
        prediction = extras.predict(config, windows, settled)
        for line in prediction.summary.split("\n"):
            log(line)
        guard.event("plan", **asdict(prediction))
    placed = prediction.data_on_device if prediction is not None else None
    place_data(config, windows, accelerator, placed, log)
    prepared_model, prepared_optimizer = accelerator.prepare(model, optimizer)
    limit_waiting(config)
    use_seed(config.seed, rank=accelerator.process_index)
    saved = windows.preprocessing() | {"loss": {"name": config.loss.name, "alpha": alpha}}
    step = TrainingStep(
        accelerator=accelerator,
        model=prepared_model,
        optimizer=prepared_optimizer,
        schedule=schedule,
        accumulation_steps=config.train.accumulation_steps,
        max_grad_norm=config.optim.max_grad_norm,
    )
    checkpoints = Checkpoints(
        accelerator=accelerator,
        model=prepared_model,
        optimizer=prepared_optimizer,
        schedule=schedule,
        output_dir=output_dir,
        keep_last=config.train.keep_last,
        seed=config.seed,
        facts=facts,
    )
    trainer = Trainer(
        config=config,
        accelerator=accelerator,
        model=prepared_model,
        step=step,
        windows=windows,
        plan=plan,
        total_steps=steps.total_steps,
        evaluator=Evaluator(config, accelerator, prepared_model, windows, alpha, interruption.beat),
        guard=guard,
        check_every=check_every,
        model_extras=saved,
        checkpoints=checkpoints,
        interruption=interruption,
        sync_metrics=metrics.sync,
        after_evaluation=partial(draw_page, extras.draw),
        new_best=extras.new_best,
        take_copy=mirror.take if mirror is not None else None,
    )
    if folder.checkpoint is not None:
        trainer.progress = Progress.from_dict(folder.state["progress"])
        trainer.evaluate_at = folder.step if found.was_finished else None
        if (lost := folder.lost_best(trainer.progress.best_step)) is not None:
            trainer.progress.forget_best()
            log(lost)
        step.loading_seconds = trainer.progress.loading_seconds
        for changed in checkpoints.load(folder.checkpoint, folder.state):
            log(f"resume: {changed}")
    reached = translate_distributed_errors(
        lambda: f"after step {trainer.progress.step}", resume_hint(config.train.resume)
    )
    with reached, _outputs_of_the_model():
        with interruption:
            progress = trainer.run()
        cost = {
            "stop_reason": progress.stop_reason,
            "steps": progress.step,
            "best_step": progress.best_step,
            "train_seconds": progress.train_seconds,
            "compile_seconds": compile_seconds(),
            "loading_seconds": step.loading_seconds,
            "check_seconds": progress.check_seconds,
            "checkpoint_seconds": checkpoints.seconds,
            "resumes": progress.resumes,
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
        results = score_best(config, accelerator, windows, saved, cost, started, log)
        metrics.write("results", **results)
        guard.write()
        if accelerator.is_main_process:
            _show(config, accelerator, extras, progress.step)
    return results


@contextmanager
def _outputs_of_the_model() -> Iterator[None]:
    """The input was good: what the scores refuse from here on is what the model made of it."""
    try:
        yield
    except InputError as error:
        raise TrainingFailed(str(error)) from error


def _finish_trackers(accelerator: Accelerator, kind: Any, error: Any, trace: Any) -> None:
    """Close the trackers. The process group is left to the end of the process (``leave``).

    To destroy it is to wait: over NCCL for the other ranks, which may never come (pytorch #141510);
    over gloo for a thread that may just then wait for Python's lock, which the destroyer holds.
    """
    for tracker in accelerator.trackers:
        # The run's own error counts, not a tracker's that comes after it.
        with contextlib.suppress(*() if error is None else (Exception,)):
            tracker.finish()


def _end_mirror(mirror: Mirror, kind: Any, error: Any, trace: Any) -> None:
    """The last state goes to the mirror. A launcher of several processes ends them soon after one
    has failed, and so does a scheduler after its signal."""
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    mirror.end(patient=error is None or (is_alone and isinstance(error, RunStopped)))


def _show(config: RunConfig, accelerator: Accelerator, extras: RunCallbacks, step: int) -> None:
    """The page's pictures in TensorBoard."""
    if extras.figures is None or "tensorboard" not in config.train.trackers:
        return
    writer = accelerator.get_tracker("tensorboard", unwrap=True)
    for name, figure in extras.figures(Path(config.output_dir)).items():
        writer.add_figure(name, figure, step)


GRACE_STEPS = 200  # of warm-up, or an epoch of it, in which nothing is certain yet


def load_windows(config: RunConfig, log: Log) -> tuple[WeatherWindows, list[str]]:
    """The series as windows and the audit's lines; what a reader must know is logged."""
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
    audit = audit_windows(windows, config).short_lines()
    for line in audit:
        log(f"audit: {line}")
    if "holdout" not in windows.splits:
        log(
            "note: no holdout (data.holdout_fraction=0): the monitors divergence and target have "
            "nothing to compare validation with."
        )
    if config.eval.test_every_epoch:
        log(
            "warning: eval.test_every_epoch scores the test split at every evaluation: whoever "
            "decides by it has no unseen test left, and the report says so."
        )
    return windows, audit


def work_line(
    config: RunConfig, settings: Any, plan: BatchPlan, total_steps: int, model: Any
) -> str:
    """What a step and the whole run are made of, in a sentence."""
    tokens = settings.num_variables * (config.model.context_length // config.model.patch_length)
    return (
        f"{plan.num_samples:,} training windows, global batch {plan.global_batch_size} = "
        f"{plan.batch_size} x {plan.accumulation_steps} accumulation x {plan.world_size} ranks, "
        f"{plan.steps_per_epoch} steps an epoch, {total_steps} in all; {tokens} tokens and "
        f"{model.flops_per_sample() / 1e9:.3g} GFLOP a sample."
    )


def start_event(
    config: RunConfig, windows: WeatherWindows, plan: BatchPlan, total_steps: int, check_every: int
) -> dict[str, Any]:
    """What the monitors and the page must know of the run before its first step."""
    shares: dict[str, dict[str, float | None]] = {}
    for row in windows.class_shares():
        shares.setdefault(row["split"], {})[row["region"]] = row["rain_share"]
    warmup = round(config.optim.warmup_ratio * total_steps)
    return {
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": total_steps,
        "check_every": check_every,
        # Until then a healthy network may still say one class only, or rank nothing.
        "grace_steps": min(warmup, max(plan.steps_per_epoch, GRACE_STEPS)),
        "dead_features": dead_features(windows),
        "class_shares": shares,
    }
