"""One training run from a recipe to results.json: ``train`` is the place to start reading."""

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
from timerxl.data.store import open_windows
from timerxl.data.windows import WeatherWindows
from timerxl.model import TimerXLConfig
from timerxl.training.assembly import (
    bare_model,
    build_model,
    build_optimizer,
    build_schedule,
    check_compiler,
    class_share_lines,
    compile_layers,
    compile_seconds,
    compiler_facts,
    model_config,
    next_patch_weight,
    plan_steps,
    resolve_alpha,
    use_seed,
    warmup_steps,
)
from timerxl.training.averaging import WeightAverage
from timerxl.training.checkpoint.manager import Checkpoints
from timerxl.training.checkpoint.mirror import Mirror, open_mirror
from timerxl.training.checkpoint.storage import Progress, disk_warning
from timerxl.training.dataloader import BatchPlan, place_data
from timerxl.training.evaluator import Evaluator, check_interval
from timerxl.training.final_evaluation import score_best
from timerxl.training.monitors.runner import MonitorRunner, RunStopped
from timerxl.training.next_patch import PatchEvaluator, score_best_forecaster
from timerxl.training.processes.distributed import (
    Launch,
    build_accelerator,
    fill_deepspeed,
    plan_launch,
    set_collective_timeout,
    translate_distributed_errors,
)
from timerxl.training.processes.run_lock import METRICS
from timerxl.training.processes.signals import Interruption, resume_hint
from timerxl.training.resume import (
    Resumption,
    RunEnded,
    code_fingerprint,
    plan_resume,
)
from timerxl.training.run_cost import Prediction, Predictor, RunFacts, compare_with_plan
from timerxl.training.run_dir import RunFolder, check_storage
from timerxl.training.tracking import Log, MetricsLog, check_trackers, start_trackers
from timerxl.training.trainer import TrainingFailed, TrainingLoop, TrainingStep, train_curves

GRACE_STEPS = 200  # of warm-up, or an epoch of it, in which nothing is certain yet


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


def train(config: RunConfig, callbacks: RunCallbacks | None = None) -> dict[str, Any]:
    """Train, keep the best model, score the test split once; return what results.json holds.

    Goes on from a checkpoint where ``config.train.resume`` says so and there is one. Raises
    InputError on bad input before any long work and before the first file is written, RunEnded
    where the run is over already, TrainingFailed where the loss or the forecasts are NaN or
    infinite, RunStopped where a monitor ends the run, Interrupted where a signal does,
    StorageFailed where files can't be written or no checkpoint can be read, PeerLost where another
    process of the run is gone. status.json says so before the folder is free for the next process.
    """
    started, hint = time.perf_counter(), resume_hint(config.train.resume)
    callbacks = callbacks or RunCallbacks()
    # A lost peer is named before what ends the run hears of the error.
    with ExitStack() as at_end, translate_distributed_errors(lambda: "before the first step", hint):
        loop, prediction, log = set_up(config, callbacks, at_end)
        named = translate_distributed_errors(lambda: f"after step {loop.progress.step}", hint)
        with named, _input_errors_as_training_failures():
            with loop.interruption:
                progress = loop.run()
            cost = measure_cost(loop, prediction)
            log(f"stopped: {progress.stop_reason}; best model from step {progress.best_step}.")
            parts = (loop.config, loop.accelerator, loop.windows, loop.preprocessing, cost, started)
            if config.train.task == "rain":
                results = score_best(*parts, log)
            else:
                results = score_best_forecaster(*parts)
            loop.monitors.metrics.write("results", **results)
            loop.monitors.write()
            if loop.accelerator.is_main_process:
                _show_figures(loop, callbacks.figures)
    return results


def set_up(
    config: RunConfig, callbacks: RunCallbacks, at_end: ExitStack
) -> tuple[TrainingLoop, Prediction | None, Log]:
    """Build the loop of a run, up to the state of the checkpoint that it goes on from.

    Refuses what can be refused before the data are read, and reads them before a file is written.
    """
    log, asked = Log(active=is_main_rank()), asdict(config)
    log(f"recipe {config.recipe} -> {config.output_dir}")
    launch, mirror, found = check_before_work(config, log)
    config = found.config  # its batch fits the number of processes
    windows, audit = load_windows(config, log)
    is_rain = config.train.task == "rain"
    settings = model_settings(config, windows, log)
    alpha = settings.loss_alpha
    use_seed(config.seed, rank=0)  # the same initial weights on every rank
    model, backbone = build_model(settings, config.model, log, config.train.task)
    accelerator = build_accelerator(config, launch, log)
    fill_deepspeed(accelerator, config)
    plan = BatchPlan.of(config, windows, accelerator)
    total_steps, freeze_steps = plan_steps(config, plan.steps_per_epoch)

    # From here on files are written: what follows ends through at_end.
    fingerprints = {"data": windows.fingerprint, "code": code_fingerprint()}
    folder = RunFolder(accelerator, config, log, audit, fingerprints, callbacks.draw)
    interruption, monitors = open_run(folder, found, mirror, at_end)

    average, optimizer = ready_to_prepare(config, model, backbone, accelerator, log)
    schedule = build_schedule(optimizer, config.optim, total_steps, freeze_steps)
    check_every = check_interval(config, model, plan, len(windows.issue_rows("validation")))
    say_derived_settings(config, model, plan, total_steps, check_every, folder, log)
    begin_metrics(folder, monitors, start_event(config, windows, plan, total_steps, check_every))
    prediction = predict_cost(config, windows, callbacks.predict, monitors, log)
    placed = prediction.data_on_device if prediction is not None else None
    place_data(config, windows, accelerator, placed, log)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    set_collective_timeout(config)  # DeepSpeed has made groups of its own by now
    use_seed(config.seed, rank=accelerator.process_index)  # other dropout masks on every rank
    parts = (accelerator, prepared, prepared_optimizer, schedule)
    checkpoints = Checkpoints(
        *parts,
        output_dir=folder.path,
        keep_last=config.train.keep_last,
        seed=config.seed,
        facts=checkpoint_facts(asked, folder, plan, fingerprints),
        average=average,
    )
    loop = TrainingLoop(
        config=config,
        accelerator=accelerator,
        model=prepared,
        step=TrainingStep(
            *parts,
            config.train.accumulation_steps,
            config.optim.max_grad_norm,
            next_patch_weight(config),
            average=average,
        ),
        windows=windows,
        plan=plan,
        total_steps=total_steps,
        evaluator=(Evaluator if is_rain else PatchEvaluator)(
            config, accelerator, average or prepared, windows, alpha, interruption.beat
        ),
        monitors=monitors,
        check_every=check_every,
        preprocessing=windows.preprocessing()
        | ({"loss": {"name": config.loss.name, "alpha": alpha}} if is_rain else {}),
        checkpoints=checkpoints,
        interruption=interruption,
        draw=callbacks.draw,
        new_best=callbacks.new_best,
        take_copy=mirror.take if mirror is not None else None,
    )
    if folder.checkpoint is not None:
        restore(loop, folder, found.was_finished, log)
    return loop, prediction, log


def model_settings(config: RunConfig, windows: WeatherWindows, log: Log) -> TimerXLConfig:
    """Return what the network is by the recipe and the data: variables, regions, weight of rain."""
    alpha = 0.5
    if config.train.task == "rain":
        alpha = resolve_alpha(config, windows.rain_share("train"), log)
    series, static = windows.series, len(windows.static_feature_names)
    variables, regions = len(series.feature_names), len(series.regions)
    return model_config(config, variables, static, alpha, regions, windows.neighbours)


def ready_to_prepare(
    config: RunConfig, model: Any, backbone: frozenset[str], accelerator: Accelerator, log: Log
) -> tuple[WeightAverage | None, Any]:
    """Return the average of the weights, where there is one, and the optimizer.

    All of it on the bare model: prepare wraps it, and a wrapper's layers can't be compiled one by
    one.
    """
    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    average = average_of(config, model, accelerator, log)
    compile_layers(config, model, log)
    return average, build_optimizer(model, config.optim, backbone)


def average_of(
    config: RunConfig, model: Any, accelerator: Accelerator, log: Log
) -> WeightAverage | None:
    """The average of the weights that ``train.ema`` asks for. To be made before layers are compiled
    and ``prepare`` changes the weights' format."""
    if config.train.ema is None:
        return None
    log(
        f"train.ema={config.train.ema:g}: scores, the best model and forecasts are those of the "
        "weights' moving average."
    )
    precision = accelerator.mixed_precision
    return WeightAverage(model, config.train.ema, accelerator.device, precision)


def check_before_work(config: RunConfig, log: Log) -> tuple[Launch, Mirror | None, Resumption]:
    """Refuse what can be refused before data are read; nothing is written but by the mirror, which
    fills an empty folder from its copy."""
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
    check_storage(Path(config.output_dir))
    check_compiler(config, os.environ, compiler_facts)
    for note in found.notes:
        log(note)
    return launch, mirror, found


def load_windows(config: RunConfig, log: Log) -> tuple[WeatherWindows, list[str]]:
    """Read the series as windows; return them with the audit's lines, and log what a reader must
    know."""
    windows, audit = open_windows(config, log)
    if windows.series.is_synthetic:
        log("data: SYNTHETIC series from the built-in generator (data.path=PATH for your own).")
    series, is_rain = windows.series, config.train.task == "rain"
    for note in windows.notes:
        log(f"data: {note}")
    log(
        f"context {config.model.context_length} steps of {series.step_hours:g} h = "
        f"{windows.context_days:g} days; {len(series.feature_names)} features, "
        f"{len(series.regions)} regions."
    )
    if not is_rain:
        counts = ", ".join(f"{name} {len(rows):,}" for name, rows in windows.rows.items())
        log(f"train.task=next_patch: no label is read; windows: {counts}.")
        return windows, []
    for line in class_share_lines(windows):
        log(line)
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


def open_run(
    folder: RunFolder, found: Resumption, mirror: Mirror | None, at_end: ExitStack
) -> tuple[Interruption, MonitorRunner]:
    """Open the run's folder, its trackers and its metrics, and see to it that the end is written.

    ``at_end`` runs from the last entry to the first: metrics, status and page, trackers, mirror.
    """
    accelerator, config, log = folder.accelerator, folder.config, folder.log
    folder.open(found)
    interruption = Interruption(on_stuck=folder.note_stuck)
    at_end.callback(interruption.restore_signal_handlers)
    if mirror is not None:
        mirror.start()
        at_end.push(partial(_end_mirror, mirror))
    at_end.push(partial(_finish_trackers, accelerator))
    at_end.push(folder.end)
    # What an interrupted run wrote after its checkpoint is not shown twice. Where the evaluation of
    # its step will come again, so will the loss of that step (see begin_metrics).
    purge_step = folder.step + folder.is_evaluated if folder.step else None
    start_trackers(accelerator, config, folder.run_id, purge_step)
    metrics = MetricsLog(folder.path / METRICS, accelerator.is_main_process)
    at_end.callback(metrics.close)
    return interruption, MonitorRunner(config, accelerator, metrics, log)


def say_derived_settings(
    config: RunConfig,
    model: Any,
    plan: BatchPlan,
    total_steps: int,
    check_every: int,
    folder: RunFolder,
    log: Log,
) -> None:
    """Log what a step and the whole run are made of, and what may not be meant."""
    tokens = model.config.num_variables * (config.model.context_length // config.model.patch_length)
    tokens *= model.config.regions_in_window
    labels = ""
    if plan.tiling is not None:
        what = "labels, one after each patch" if config.data.labels != "last" else "labels"
        what = what if config.train.task == "rain" else "rows to predict"
        labels = f" an epoch ({plan.num_labels:,} {what})"
    log(
        f"{plan.num_samples:,} training windows{labels}, global batch {plan.global_batch_size} = "
        f"{plan.batch_size} x {plan.accumulation_steps} accumulation x {plan.world_size} ranks, "
        f"{plan.steps_per_epoch} steps an epoch, {total_steps} in all; {tokens} tokens and "
        f"{plan.flops_per_sample(model) / 1e9:.3g} GFLOP a sample."
    )
    log(
        f"learning rate {config.optim.lr:g} after {warmup_steps(config.optim, total_steps)} steps "
        "of warm-up, then half a cosine to 0; "
        + (f"a check every {check_every} steps." if check_every else "no checks between epochs.")
    )
    if config.loss.next_patch_weight and not next_patch_weight(config):
        log(
            f"note: loss.next_patch_weight={config.loss.next_patch_weight:g} is not followed: it "
            "needs data.labels=every_patch and a context of two patches or more."
        )
    if plan.world_size > 1 and folder.checkpoint is None:
        log(
            f"note: {plan.world_size} processes make the global batch {plan.world_size} times the "
            "recipe's, at the recipe's learning rate; accelerate launch --num_processes 1 uses one."
        )
    under_copy = 2 if config.train.mirror else 0  # one is copied, one waits
    keep_last = config.train.keep_last
    if short := disk_warning(
        folder.path, model.num_parameters(), keep_last, under_copy, config.train.ema is not None
    ):
        log(f"warning: {short}")


def start_event(
    config: RunConfig, windows: WeatherWindows, plan: BatchPlan, total_steps: int, check_every: int
) -> dict[str, Any]:
    """What the monitors and the page must know of the run before its first step."""
    shares: dict[str, dict[str, float | None]] = {}
    for row in windows.class_shares() if config.train.task == "rain" else ():
        shares.setdefault(row["split"], {})[row["region"]] = row["rain_share"]
    warmup = warmup_steps(config.optim, total_steps)
    return {
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": total_steps,
        "check_every": check_every,
        # Until then a healthy network may still say one class only, or rank nothing.
        "grace_steps": min(warmup, max(plan.steps_per_epoch, GRACE_STEPS)),
        "dead_features": windows.dead_features,
        "class_shares": shares,
    }


def begin_metrics(folder: RunFolder, monitors: MonitorRunner, start: dict[str, Any]) -> None:
    """Write the first event, or show the monitors what the run did before its checkpoint."""
    if folder.checkpoint is None:
        monitors.event("start", **start)
        return
    accelerator = folder.accelerator
    last = monitors.replay(folder.path / METRICS)
    if not folder.is_evaluated and last.get("step") == folder.step:
        accelerator.log(train_curves(last), folder.step)
    monitors.event(
        "resume",
        step=folder.step,
        processes=accelerator.num_processes,
        checkpoint=folder.checkpoint.name,
    )


def predict_cost(
    config: RunConfig,
    windows: WeatherWindows,
    predict: Predictor | None,
    monitors: MonitorRunner,
    log: Log,
) -> Prediction | None:
    """Say what the run will cost; None without a predictor, and on other ranks than the main."""
    if predict is None or not monitors.accelerator.is_main_process:
        return None
    prediction = predict(config, windows, RunFacts.of(monitors.accelerator))
    for line in prediction.summary.split("\n"):
        log(line)
    monitors.event("plan", **asdict(prediction))
    return prediction


def checkpoint_facts(
    asked: dict[str, Any], folder: RunFolder, plan: BatchPlan, fingerprints: dict[str, str]
) -> dict[str, Any]:
    """What every checkpoint of the run says alike; ``asked`` are the settings before they were
    fitted to the number of processes."""
    settled = RunFacts.of(folder.accelerator)
    return {
        "config": asked,
        "run_id": folder.run_id,
        "global_batch_size": plan.global_batch_size,
        "precision": settled.precision,
        "zero_stage": settled.zero_stage,
        **{f"{name}_fingerprint": value for name, value in fingerprints.items()},
    }


def restore(loop: TrainingLoop, folder: RunFolder, was_finished: bool, log: Log) -> None:
    """Bring the loop to the state of the folder's checkpoint."""
    assert folder.checkpoint is not None
    loop.progress = Progress.from_dict(folder.state["progress"])
    loop.evaluate_at = folder.step if was_finished else None
    if (lost := folder.missing_best(loop.progress.best_step)) is not None:
        loop.progress.forget_best()
        log(lost)
    loop.step.loading_seconds = loop.progress.loading_seconds
    for changed in loop.checkpoints.load(folder.checkpoint, folder.state):
        log(f"resume: {changed}")


def measure_cost(loop: TrainingLoop, prediction: Prediction | None) -> dict[str, Any]:
    """What training took, beside what was predicted; memory is read before the model is scored."""
    progress, windows = loop.progress, loop.windows
    epoch_seconds = progress.train_seconds / progress.step * loop.plan.steps_per_epoch
    cost = {
        "stop_reason": progress.stop_reason,
        "steps": progress.step,
        "best_step": progress.best_step,
        "train_seconds": progress.train_seconds,
        "compile_seconds": compile_seconds(),
        "loading_seconds": loop.step.loading_seconds,
        "check_seconds": progress.check_seconds,
        "checkpoint_seconds": loop.checkpoints.seconds,
        "resumes": progress.resumes,
        "samples_per_s": progress.samples_seen / max(progress.train_seconds, 1e-9),
        "labels_per_s": loop.plan.num_labels / max(epoch_seconds, 1e-9),
        "num_parameters": bare_model(loop.accelerator, loop.model).num_parameters(),
        "num_processes": loop.accelerator.num_processes,
        "is_synthetic": windows.series.is_synthetic,
    }
    if prediction is not None:
        cost["plan"] = compare_with_plan(prediction, epoch_seconds)
        loop.monitors.metrics.write("plan_check", **cost["plan"])
    return cost


@contextmanager
def _input_errors_as_training_failures() -> Iterator[None]:
    """The input was checked before: an InputError from here on comes of the model's output."""
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
    """Copy the last state to the mirror. A launcher of several processes ends them soon after one
    has failed, and so does a scheduler after its signal."""
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    mirror.end(patient=error is None or (is_alone and isinstance(error, RunStopped)))


def _show_figures(loop: TrainingLoop, figures: Callable[[Path], dict[str, Any]] | None) -> None:
    """Put the page's pictures into TensorBoard."""
    if figures is None or "tensorboard" not in loop.config.train.trackers:
        return
    writer = loop.accelerator.get_tracker("tensorboard", unwrap=True)
    for name, figure in figures(Path(loop.config.output_dir)).items():
        writer.add_figure(name, figure, loop.progress.step)
