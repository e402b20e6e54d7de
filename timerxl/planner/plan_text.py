"""A plan as a person reads it: one screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timerxl.evaluation.tables import Table
from timerxl.planner.devices import CONTEXT_GIB, GIB, LAUNCH_SECONDS
from timerxl.planner.fit import Fit
from timerxl.planner.ladder import Rung
from timerxl.planner.memory import RankMemory
from timerxl.planner.plan import Plan
from timerxl.planner.timing import RunTime

CATEGORIES = "weights gradients optimizer activations buffers workspaces series context".split()


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h`` or ``2.1 days``."""
    if seconds < 1:
        return "under 1 s"
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            digits = 0 if unit != "h" else 1
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def heading(plan: Plan) -> list[str]:
    """Two lines: the model, the data."""
    work = plan.workload
    config, kind = work.config, " of the SYNTHETIC series" if work.is_synthetic else ""
    choices = {f"{c.precision} on {name}" for name, c in plan.choices.items()}
    stage = next(iter(plan.choices.values())).zero_stage
    return [
        f"recipe {config.recipe}: {work.num_parameters / 1e6:.1f} M parameters, "
        f"{work.tokens_per_sample} tokens and {work.flops_per_sample() / 1e9:.3g} GFLOP a sample; "
        f"context {work.model.context_length} steps of {work.step_hours:g} h = "
        f"{work.context_days:g} days.",
        f"{work.windows['train']:,} training, {work.windows['validation']:,} validation, "
        f"{work.windows['test']:,} test windows{kind}; batch {config.train.batch_size} x "
        f"{config.train.accumulation_steps} accumulation; {', '.join(sorted(choices))}; "
        f"ZeRO stage {stage}, {config.model.attn_implementation} attention, checkpointing "
        f"{'on' if config.train.gradient_checkpointing else 'off'}.",
    ]


def _table(title: str, columns: Iterable[str], caption: str = "") -> Table:
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _sizes(memory: RankMemory) -> list[str]:
    return [f"{getattr(memory, name) / GIB:.2f}" for name in CATEGORIES]


def memory_table(plan: Plan) -> Table:
    """A line per number of GPUs: categories at the peak, total, and what each device has left."""
    fits = [f"{device.name} {device.memory_gib:.1f}" for device in plan.devices]
    table = _table(
        "Peak memory of each GPU, GiB" if not plan.devices[0].is_cpu else "Peak memory, GiB",
        ["GPUs", *CATEGORIES, "total", *fits],
        f"At the moment of the peak; context is one assumed constant of {CONTEXT_GIB} GiB. Under a "
        "device: what it has left.",
    )
    for gpus, memory in plan.memory.items():
        left = []
        for device in plan.devices:
            margin = device.memory_gib - memory.total_gib
            left.append(f"fits, {margin:.1f} left" if margin >= 0 else f"NO, {-margin:.2f} over")
        table.add_row(str(gpus), *_sizes(memory), f"{memory.total_gib:.2f}", *left)
    return table


def ladder_table(rungs: list[Rung], name: str) -> Table:
    """Where the memory goes, one change a line."""
    table = _table(
        f"Why {name} needs what it needs, GiB at the same micro-batch",
        ["setting", *CATEGORIES, "total"],
    )
    for rung in rungs:
        table.add_row(rung.change, *_sizes(rung.memory), f"{rung.memory.total_gib:.2f}")
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
    """Communication on paper, for the first device."""
    columns = (
        "interconnect|GPUs|GiB/step|communication|computation|efficiency|if overlapped|"
        "hides from batch"
    ).split("|")
    table = _table(
        f"Scaling on paper, {plan.devices[0].name}",
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
    extra = ""
    if fit.memory.host:
        extra = f", and {fit.memory.host / GIB:.1f} GiB of the computer's own memory"
    return [f"recipe {where} fits {limit_gib:.2f} GiB with {size}{extra}:", f"  {fit.to_paste()}"]


def comparison_table(plans: dict[str, Plan], settings: list[tuple[str, list[Any]]]) -> Table:
    """Settings that differ, then memory and time, a column per recipe."""
    table = _table("Side by side", ["", *plans])
    for key, values in settings:
        table.add_row(key, *(str(value) for value in values))
    table.add_section()
    all_plans = list(plans.values())
    rows: dict[str, list[str]] = {
        "parameters": [f"{p.workload.num_parameters / 1e6:.1f} M" for p in all_plans],
        "tokens a sample": [str(p.workload.tokens_per_sample) for p in all_plans],
        "context": [f"{p.workload.context_days:g} days" for p in all_plans],
        "GFLOP a sample": [f"{p.workload.flops_per_sample() / 1e9:.3g}" for p in all_plans],
        "training windows": [f"{p.workload.windows['train']:,}" for p in all_plans],
    }
    for gpus in all_plans[0].memory:
        totals = [f"{p.memory[gpus].total_gib:.2f} GiB" for p in all_plans]
        rows[f"memory of a GPU, {gpus} GPU{'s' * (gpus > 1)}"] = totals
    for index, time in enumerate(all_plans[0].times):
        where = f"{time.rate.device}, {time.gpus} GPU{'s' * (time.gpus > 1)}"
        epochs = [duration(p.times[index].train_seconds_per_epoch) for p in all_plans]
        rows[f"epoch on {where}"] = epochs
        rows[f"whole run on {where}"] = [duration(p.times[index].run_seconds) for p in all_plans]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
