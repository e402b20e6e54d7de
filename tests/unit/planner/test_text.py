"""What a person reads: every cell against its number."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from timerxl.planner import plan_text as text
from timerxl.planner.communication import Scaling
from timerxl.planner.devices import DEVICES, GIB, Device
from timerxl.planner.fit import Fit
from timerxl.planner.ladder import memory_ladder
from timerxl.planner.memory import RankMemory
from timerxl.planner.plan import Plan
from timerxl.planner.planning import Answer, differing_settings
from timerxl.planner.timing import Rate, RunTime
from timerxl.planner.workload import Choice, Workload

MakeWorkload = Callable[..., Workload]
MEMORY = RankMemory(
    weights=1 * GIB,
    gradients=GIB // 2,
    optimizer=2 * GIB,
    activations=8 * GIB,
    temporary=GIB // 4,
    buckets=GIB // 8,
    context=GIB // 8,
    gradients_complete=GIB,
)
RATE = Rate("t4", "fp16", 19.5, 65.0, 0.3)
TIME = RunTime(RATE, 2, 123.456, 1234, 600.0, 45.0, 3702, 7200.0)


def printed(table: Table) -> str:
    console = Console(width=250, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(table: Table) -> list[list[str]]:
    """Cells of every line below the headings, as printed."""
    lines = printed(table).splitlines()
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in lines
        if line.startswith("│")
    ]


def headings(table: Table) -> list[str]:
    (line,) = (line for line in printed(table).splitlines() if line.startswith("┃"))
    return [cell.strip() for cell in line.strip("┃").split("┃")]


@pytest.fixture
def plan(workload: MakeWorkload) -> Plan:
    run = workload("train.epochs=3", "train.accumulation_steps=2")
    devices = [DEVICES["t4"], DEVICES["p100"]]
    choices = {device.name: Choice("fp16", 2) for device in devices}
    memory = {1: replace(MEMORY, activations=11 * GIB), 2: MEMORY}
    times = [replace(TIME, gpus=1), TIME]
    link = Scaling(2, "pcie4", 0.5, 0.0125, 0.25, 0.952, 0.987, 41)
    return Plan(run, devices, choices, memory, times, [link])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.2, "under 1 s"),
        (45.4, "45 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (750, "12 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (12240, "3.4 h"),
        (172799, "48.0 h"),
        (172800, "2.0 days"),
        (181440, "2.1 days"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_the_heading(plan: Plan) -> None:
    model, data = text.heading(plan)
    assert model == (
        "recipe quickstart: 0.0 M parameters, 12 tokens and "
        f"{plan.workload.flops_per_sample() / 1e9:.3g} GFLOP a sample; "
        "context 16 steps of 12 h = 8 days."
    )
    assert data == (
        "1,000 training, 200 validation, 300 test windows of the SYNTHETIC series; batch 8 x 2 "
        "accumulation; fp16 on p100, fp16 on t4; ZeRO stage 2, sdpa attention, checkpointing off."
    )
    real = replace(plan.workload, is_synthetic=False)
    assert "SYNTHETIC" not in " ".join(text.heading(replace(plan, workload=real)))


def test_memory_by_number_of_gpus(plan: Plan) -> None:
    table = text.memory_table(plan)
    assert headings(table) == (
        "GPUs|weights|gradients|optimizer|activations|buffers|workspaces|series|context|total|"
        "t4 14.7|p100 15.9"
    ).split("|")
    assert [[cell.replace(" ", "_") for cell in row] for row in rows(table)] == [
        "1 1.00 0.50 2.00 11.00 0.38 0.00 0.00 0.12 15.00 NO,_0.30_over fits,_0.9_left".split(),
        "2 1.00 0.50 2.00 8.00 0.38 0.00 0.00 0.12 12.00 fits,_2.7_left fits,_3.9_left".split(),
    ]
    assert (plan.fits(1, DEVICES["t4"]), plan.fits(2, DEVICES["t4"])) == (False, True)
    assert plan.fits(1, Device("exactly", 15.0, {}))
    assert "Peak memory of each GPU" in printed(table)
    on_cpu = replace(plan, devices=[Device("cpu", 15.5, {}, is_cpu=True)])
    assert "Peak memory, GiB" in printed(text.memory_table(on_cpu))
    assert rows(text.memory_table(on_cpu))[0][-1] == "fits, 0.5 left"


def test_time_by_device(plan: Plan) -> None:
    measured = replace(TIME, rate=Rate("cpu", "fp32", 0.0456), gpus=1)
    table = text.time_table([TIME, measured], 3)
    durations = ["10 min", "45 s", "2.0 h"]
    assert rows(table) == [
        [*"t4 2 fp16 65 0.30 19.5 123 1,234".split(), *durations],
        [*"cpu 1 fp32 – measured 0.0456 123 1,234".split(), *durations],
    ]
    assert headings(table)[-3:] == ["epoch", "validation", "whole run"]
    assert "at most 3 epochs (or train.max_steps)" in " ".join(printed(table).split())


def test_scaling_by_interconnect(plan: Plan) -> None:
    table = text.scaling_table(plan)
    assert rows(table) == [["pcie4", "2", "0.5", "12 ms", "250 ms", "95%", "99%", "41"]]
    assert "Scaling on paper, t4" in printed(table)


def test_what_to_paste(workload: MakeWorkload) -> None:
    run = workload()
    assert text.fit_lines(None, 15.0, "small on 1 GPU") == [
        "nothing brings recipe small on 1 GPU under 15.00 GiB: take a smaller model or a shorter "
        "model.context_length."
    ]
    as_it_is = Fit({}, run, MEMORY)
    assert text.fit_lines(as_it_is, 15.0, "small") == [
        "recipe small fits 15.00 GiB as it is: 12.00 GiB."
    ]
    overrides = {"train.batch_size": "4", "train.accumulation_steps": "2"}
    assert text.fit_lines(Fit(overrides, run, MEMORY), 15.0, "small") == [
        "recipe small fits 15.00 GiB with 12.00 GiB:",
        "  train.batch_size=4 train.accumulation_steps=2",
    ]
    away = replace(MEMORY, host=3 * GIB)
    first = text.fit_lines(Fit(overrides, run, away), 15.0, "small")[0]
    assert (
        first
        == "recipe small fits 15.00 GiB with 12.00 GiB, and 3.0 GiB of the computer's own memory:"
    )


def test_recipes_side_by_side(plan: Plan, workload: MakeWorkload) -> None:
    other = workload("train.batch_size=4", "model.hidden_size=64", series_days=50.0)
    half = RunTime(RATE, 2, 61.7, 617, 1200.0, 90.0, 617, 86400.0 * 3)
    plans = {
        "one": plan,
        "two": replace(plan, workload=other, memory={1: MEMORY, 2: MEMORY}, times=[half, half]),
    }
    settings = differing_settings([plan.workload.config, other.config])
    assert dict(settings) == {
        "model.hidden_size": [32, 64],
        "train.epochs": [3, 1],
        "train.batch_size": [8, 4],
        "train.accumulation_steps": [2, 1],
    }
    table = text.comparison_table(plans, settings)
    found = {cells[0]: cells[1:] for cells in rows(table)}
    assert found["model.hidden_size"] == ["32", "64"]
    assert found["tokens a sample"] == ["12", "12"]
    assert found["context"] == ["8 days", "8 days"]
    assert found["training windows"] == ["1,000", "1,000"]
    assert found["memory of a GPU, 1 GPU"] == ["15.00 GiB", "12.00 GiB"]
    assert found["memory of a GPU, 2 GPUs"] == ["12.00 GiB", "12.00 GiB"]
    assert found["epoch on t4, 1 GPU"] == ["10 min", "20 min"]
    assert found["epoch on t4, 2 GPUs"] == ["10 min", "20 min"]
    assert found["whole run on t4, 2 GPUs"] == ["2.0 h", "3.0 days"]
    flops = [f"{p.workload.flops_per_sample() / 1e9:.3g}" for p in plans.values()]
    assert found["GFLOP a sample"] == flops
    assert flops[0] != flops[1]


def test_where_the_memory_goes(workload: MakeWorkload) -> None:
    run = workload("model.context_length=96", "train.batch_size=16", "train.precision=fp16")
    rungs = memory_ladder(run)
    table = rows(text.ladder_table(rungs, "quickstart"))
    assert [cells[0] for cells in table] == [rung.change for rung in rungs]
    assert [cells[-1] for cells in table] == [f"{r.memory.total_gib:.2f}" for r in rungs]
    count = run.num_parameters
    assert [rung.memory.weights for rung in rungs] == [4 * count] * 4 + [2 * count]
    eager, fused, light, half, sharded = (rung.memory for rung in rungs)
    # 16 samples x 2 heads x 72 x 72 tokens in fp32, of two layers, and gone with the first rung.
    matrices = 2 * 16 * 2 * 72**2 * 4
    assert eager.activations > matrices
    assert fused.activations < eager.activations - matrices / 2
    assert light.activations < 0.6 * fused.activations  # one layer of two at a time
    assert half.total < light.total
    # Four ranks share 16 bytes a parameter.
    shared = sharded.gradients + sharded.optimizer
    assert shared == pytest.approx((4 + 12) * count / 4, rel=2e-3)
    assert sharded.buckets == 50_000_000 * 2
    assert run.config.train.precision == "fp16"  # the workload asked about is left alone


def test_the_screen_has_all_parts(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    plan.warnings.append("take care.")
    Answer({"quickstart": plan}, fits=[(None, 3.0, "quickstart on 1 t4")]).print()
    shown = capsys.readouterr().out
    parts = (
        "recipe quickstart: 0.0 M parameters",
        "Peak memory of each GPU",
        "Time",
        "Scaling on paper, t4",
        "Why quickstart needs what it needs",
        "nothing brings recipe quickstart on 1 t4 under 3.00 GiB",
        "warning: take care.",
    )
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    Answer({"a": plan, "b": plan}, settings=[("train.lr", [1, 2])]).print()
    shown = capsys.readouterr().out
    assert "Side by side" in shown
    assert "warning: a: take care." in shown
    assert "warning: b: take care." in shown
    assert "Scaling" not in shown
    cpu = replace(plan, devices=[Device("cpu", 15.5, {}, is_cpu=True)], times=[], scaling=[])
    Answer({"quickstart": cpu}).print()
    shown = capsys.readouterr().out
    assert "time: not known for this device; --calibrate measures it." in shown
    assert "Why quickstart" not in shown
