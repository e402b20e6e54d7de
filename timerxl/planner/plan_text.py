"""A plan as a person reads it: one screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timerxl.command_line import say
from timerxl.evaluation.tables import Table, print_table
from timerxl.planner.devices import CONTEXT_GIB, GIB, LAUNCH_SECONDS
from timerxl.planner.memory import Fit, RankMemory, memory_ladder
from timerxl.planner.plan import Answer, Plan
from timerxl.planner.throughput import RunTime, duration
from timerxl.untrusted import plain

MOST_OF_A_SETTING = 24  # characters: a longer one would squeeze the other columns out
CATEGORIES = "weights gradients optimizer activations buffers workspaces series context".split()


def print_answer(answer: Answer) -> None:
    """Print one screen for a plan; for a comparison the table alone and the warnings."""
    plans = answer.plans
    if len(plans) > 1:
        print_table(comparison_table(plans, answer.settings))
    else:
        (plan,) = plans.values()
        say(*heading(plan))
        print_table(memory_table(plan))
        if plan.times:
            print_table(time_table(plan.times, plan.workload.config.train.epochs))
        else:
            say("time: not known for this device; --calibrate measures it.")
        if plan.scaling:
            print_table(scaling_table(plan))
        if plan.one_gpu is not None:
            say(plan.one_gpu.sentence())
        if not plan.devices[0].is_cpu:
            ladder = memory_ladder(plan.workload)
            print_table(ladder_table(ladder, plan.workload.config.recipe))
    for found in answer.fits:
        say(*fit_lines(*found))
    for name, plan in plans.items():
        for sentence in plan.warnings:
            say(f"warning: {f'{name}: ' if len(plans) > 1 else ''}{sentence}")


def heading(plan: Plan) -> list[str]:
    """Two lines: the model, the data."""
    work = plan.workload
    config, kind = work.config, " of the SYNTHETIC series" if work.is_synthetic else ""
    choices = {f"{c.precision} on {name}" for name, c in plan.choices.items()}
    stage = next(iter(plan.choices.values())).zero_stage
    labels = f" ({work.train_labels:,} labels)" if work.label_patches else ""
    return [
        f"recipe {config.recipe}: {work.num_parameters / 1e6:.1f} M parameters, "
        f"{work.tokens_per_sample} tokens and {work.flops_per_sample() / 1e9:.3g} GFLOP a sample; "
        f"context {work.model.context_length} steps of {work.step_hours:g} h = "
        f"{work.context_days:g} days.",
        f"{work.windows['train']:,} training{labels}, {work.windows['validation']:,} validation, "
        f"{work.windows['test']:,} test windows{kind}; batch {config.train.batch_size} x "
        f"{config.train.accumulation_steps} accumulation; {', '.join(sorted(choices))}; "
        f"ZeRO stage {stage}, {config.model.attn_implementation} attention, checkpointing "
        f"{'on' if config.train.gradient_checkpointing else 'off'}.",
    ]


def memory_table(plan: Plan) -> Table:
    """A line per number of GPUs: categories at the peak, total, and what each device has left."""
    fits = [f"{device.name} {device.memory_gib:.1f}" for device in plan.devices]
    categories = _categories(plan.memory.values())
    table = _table(
        "Peak memory of each GPU, GiB" if not plan.devices[0].is_cpu else "Peak memory, GiB",
        ["GPUs", *categories, "total", *fits],
        f"At the moment of the peak; context is one assumed constant of {CONTEXT_GIB} GiB. Under a "
        "device: what it has left.",
    )
    for gpus, memory in plan.memory.items():
        margins = [device.memory_gib - memory.total_gib for device in plan.devices]
        left = [f"fits, {m:.1f} left" if m >= 0 else f"NO, {-m:.2f} over" for m in margins]
        table.add_row(str(gpus), *_sizes(memory, categories), *left)
    return table


def ladder_table(ladder: list[tuple[str, RankMemory]], name: str) -> Table:
    """Where the memory goes, one change a line."""
    title = f"Why {name} needs what it needs, GiB at the same micro-batch"
    categories = _categories(memory for _, memory in ladder)
    table = _table(title, ["setting", *categories, "total"])
    for setting, memory in ladder:
        table.add_row(setting, *_sizes(memory, categories))
    return table


def time_table(times: list[RunTime], epochs: int) -> Table:
    """A line per device and number of GPUs."""
    columns = (
        "device|GPUs|format|peak TFLOP/s|efficiency|used TFLOP/s|samples/s|steps/epoch|epoch|"
        "validation|whole run"
    ).split("|")
    table = _table(
        "Time",
        columns,
        "efficiency: assumed share of the peak rate, unless calibrated; a step then takes at least "
        f"{LAUNCH_SECONDS * 1e6:g} us, assumed, for each of its kernels. An epoch is training "
        f"alone; the whole run is at most {epochs} epochs (or train.max_steps) and every "
        "evaluation; early stopping may end it sooner.",
    )
    for time in times:
        rate = time.rate
        table.add_row(
            rate.device,
            str(time.gpus),
            rate.precision,
            f"{rate.peak_tflops:g}" if rate.peak_tflops else "–",
            f"{rate.efficiency:.2f}" if rate.efficiency else "measured",
            f"{rate.tflops:.3g}",
            f"{time.samples_per_s:.3g}",
            f"{time.steps_per_epoch:,}",
            duration(time.train_seconds_per_epoch),
            duration(time.evaluation_seconds_per_epoch),
            duration(time.run_seconds),
        )
    return table


def scaling_table(plan: Plan) -> Table:
    """Predicted communication, for the first device."""
    columns = (
        "interconnect|GPUs|GiB/step|communication|computation|efficiency|if overlapped|"
        "hides from batch"
    ).split("|")
    table = _table(
        f"Predicted scaling, {plan.devices[0].name}",
        columns,
        "GiB that one GPU sends in a step. efficiency: computation over both, one after the other, "
        "as ds_configs/ have it, overlapped without ZeRO. Last column: micro-batch whose backward "
        "takes as long as its gradients travel.",
    )
    for item in plan.scaling:
        table.add_row(
            item.interconnect,
            str(item.ranks),
            f"{item.gib_per_step:.3g}",
            f"{item.seconds * 1e3:,.0f} ms",
            f"{item.compute_seconds * 1e3:,.0f} ms",
            f"{item.efficiency:.0%}",
            f"{item.efficiency_overlapped:.0%}",
            str(item.hiding_batch),
        )
    return table


def fit_lines(fit: Fit | None, limit_gib: float, where: str) -> list[str]:
    """The overrides to paste, or that nothing fits."""
    if fit is None:
        return [
            f"nothing brings recipe {where} under {limit_gib:.2f} GiB: take a smaller model or "
            "a shorter model.context_length."
        ]
    size = f"{fit.memory.total_gib:.2f} GiB"
    if not fit.overrides:
        return [f"recipe {where} fits {limit_gib:.2f} GiB as it is: {size}."]
    if fit.memory.host:
        size += f", and {fit.memory.host / GIB:.1f} GiB of the computer's own memory"
    return [f"recipe {where} fits {limit_gib:.2f} GiB with {size}:", f"  {fit.to_paste()}"]


def comparison_table(plans: dict[str, Plan], settings: list[tuple[str, list[Any]]]) -> Table:
    """Settings that differ, then memory and time, a column per recipe."""
    table = _table("Side by side", ["", *plans])
    for key, values in settings:
        table.add_row(key, *(plain(value, MOST_OF_A_SETTING) for value in values))
    table.add_section()
    found = list(plans.values())
    rows = {
        "parameters": [f"{p.workload.num_parameters / 1e6:.1f} M" for p in found],
        "tokens a sample": [str(p.workload.tokens_per_sample) for p in found],
        "context": [f"{p.workload.context_days:g} days" for p in found],
        "GFLOP a sample": [f"{p.workload.flops_per_sample() / 1e9:.3g}" for p in found],
        "training windows": [f"{p.workload.windows['train']:,}" for p in found],
    }
    for gpus in found[0].memory:
        totals = [f"{p.memory[gpus].total_gib:.2f} GiB" for p in found]
        rows[f"memory of a GPU, {_gpus(gpus)}"] = totals
    for index, time in enumerate(found[0].times):
        where, times = f"on {time.rate.device}, {_gpus(time.gpus)}", [p.times[index] for p in found]
        rows[f"epoch {where}"] = [duration(t.train_seconds_per_epoch) for t in times]
        rows[f"whole run {where}"] = [duration(t.run_seconds) for t in times]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count > 1)}"


def _categories(memories: Iterable[RankMemory]) -> list[str]:
    """Those of every run, and the weights' average where there is one (``train.ema``)."""
    average = ["average"] if any(memory.average for memory in memories) else []
    return [CATEGORIES[0], *average, *CATEGORIES[1:]]


def _sizes(memory: RankMemory, categories: list[str]) -> list[str]:
    return [f"{getattr(memory, name) / GIB:.2f}" for name in (*categories, "total")]


def _table(title: str, columns: list[str], caption: str = "") -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table
