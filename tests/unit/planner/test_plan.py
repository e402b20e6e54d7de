"""The whole plan: each warning with its numbers, what a run says of its cost before the first step,
and every cell of the tables against its number."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table
from settings import ONE_LABEL

from timerxl.config import load_recipe
from timerxl.data.readers import load_series
from timerxl.data.windows import build_windows
from timerxl.planner import plan as planner_plan
from timerxl.planner import plan_text as text
from timerxl.planner.devices import CONTEXT_GIB, DEVICES, GIB, Device
from timerxl.planner.memory import Fit, RankMemory, memory_ladder, memory_of
from timerxl.planner.plan import (
    Answer,
    Plan,
    differing_settings,
    make_plan,
    predict_run,
    warnings_of,
)
from timerxl.planner.throughput import Rate, RunTime, Scaling
from timerxl.planner.workload import Choice, Workload, choose, describe_windows
from timerxl.training.run_cost import RunFacts

MakeWorkload = Callable[..., Workload]
T4, L4, A100 = DEVICES["t4"], DEVICES["l4"], DEVICES["a100"]
CPU = Device("cpu", 64.0, {}, is_cpu=True)
EAGER = "model.attn_implementation=eager keeps every layer's attention matrix"
UNUSED = "more than half the memory stays unused on "


def warned(run: Workload, devices: list[Device], *gib: float) -> list[str]:
    """Warnings of a run that needs ``gib`` on 1, 2, ... GPUs."""
    memory = {
        count: RankMemory(round(size * GIB), 0, 0, 0, 0, 0, 0, gradients_complete=0)
        for count, size in enumerate(gib, 1)
    }
    return warnings_of(
        run, devices, memory, {device.name: choose(run, device) for device in devices}
    )


@pytest.mark.parametrize(
    ("overrides", "devices", "gib", "beginnings"),
    [
        ("", [T4, L4], [12.0], []),
        ("model.attn_implementation=eager", [T4], [14.0], [EAGER]),
        ("train.compile=true", [T4], [14.0], ["train.compile=true is not part of the plan"]),
        # Tensor cores lie idle: not in half precision, nor where it gains little, nor on a CPU.
        (
            *("train.precision=fp32", [T4, A100], [14.0, 30.0]),
            [
                "fp32 uses 8.1 of the 65 TFLOP/s that t4 has in half precision;",
                "fp32 uses 19.5 of the 312 TFLOP/s that a100 has in half precision;",
            ],
        ),
        ("train.precision=fp16", [T4], [14.0], []),
        ("train.precision=fp32", [DEVICES["rtx4090"]], [20.0], []),
        ("train.precision=fp32", [Device("old", 16.0, {"fp32": 5.0})], [15.0], []),
        ("train.precision=fp32", [CPU], [1.0], []),
        # Settings that are not followed.
        ("train.precision=bf16", [T4], [14.0], ["train.precision=bf16 becomes fp16: t4 has no"]),
        ("train.precision=bf16", [L4], [14.0], []),
        ("train.zero_stage=2", [CPU], [14.0], ["train.zero_stage=2 is for GPUs;"]),
        # CUDA 13 builds for compute capability 7.5 and later: no Pascal, no Volta.
        (
            *("", [DEVICES[name] for name in ("p100", "v100", "t4")], [14.0]),
            ["p100 (compute capability 6.0)", "v100 (compute capability 7.0)"],
        ),
        # The most that any number of GPUs needs is more than half of a T4.
        (
            *("", [T4, L4, A100], [8.0, 10.9]),
            [f"{UNUSED}l4 (10.9 of 22.0 GiB), a100 (10.9 of 39.4 GiB): a larger train.batch_size"],
        ),
        ("", [L4], [11.0], []),
        # The most serious comes first.
        (
            *("model.attn_implementation=eager train.precision=bf16", [T4], [1.0]),
            ["train.precision=bf16 becomes fp16", EAGER, f"{UNUSED}t4 (1.0 of 14.7 GiB)"],
        ),
    ],
)
def test_warnings_with_their_numbers(
    workload: MakeWorkload,
    overrides: str,
    devices: list[Device],
    gib: list[float],
    beginnings: list[str],
) -> None:
    found = warned(workload(*overrides.split()), devices, *gib)
    assert len(found) == len(beginnings), found
    for sentence, beginning in zip(found, beginnings, strict=True):
        assert sentence.startswith(beginning)


@pytest.mark.parametrize(
    ("days", "share"), [(32.1, None), (32.0, "25%"), (24.0, "33%"), (8.0, "100%")]
)
def test_a_long_context_is_warned_of(
    workload: MakeWorkload, days: float, share: str | None
) -> None:
    found = warned(workload(series_days=days), [T4], 14.0)  # 16 steps of 12 h
    expected = f"model.context_length=16 is 8 days at 12 h a step, {share} of the whole series"
    assert [sentence.partition(":")[0] for sentence in found] == ([expected] if share else [])


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", T4, "fp16"),
        ("auto", L4, "bf16"),
        ("auto", CPU, "fp32"),
        ("fp32", A100, "fp32"),
        ("fp16", A100, "fp16"),
        ("bf16", T4, "fp16"),
        ("fp16", CPU, "fp32"),
    ],
)
def test_precision_and_stage_are_the_run_s_own(
    workload: MakeWorkload, precision: str, device: Device, expected: str
) -> None:
    found = choose(workload(f"train.precision={precision}", "train.zero_stage=2"), device)
    assert (found.precision, found.zero_stage) == (expected, 0 if device.is_cpu else 2)
    assert len(found.skipped) == (precision not in ("auto", expected)) + device.is_cpu


def test_a_busy_machine_is_told_of(workload: MakeWorkload) -> None:
    def measured(workload: Workload, precision: str, slowdown: float = 1.0) -> Rate:
        return Rate("cpu", precision, 0.05, slowdown=slowdown)

    run = workload()
    quiet = make_plan(run, [CPU], [1], [], measured)
    busy = make_plan(run, [CPU], [1], [], lambda *rest: measured(*rest, slowdown=7.25))
    assert quiet.warnings == []
    (warning,) = busy.warnings
    assert warning.startswith("the measured steps took 7.2 times as long beside what else runs")
    assert busy.times[0].run_seconds == quiet.times[0].run_seconds


CONFIG = load_recipe(
    "quickstart",
    (
        f"{ONE_LABEL} "
        "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
        "model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 "
        "model.hidden_dropout=0 train.gradient_checkpointing=true train.zero_stage=2"
    ).split(),
)


@pytest.fixture
def on_t4(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls to CUDA's allocator; the device is a T4 where it is asked for."""
    calls: list[str] = []
    memory = type("Properties", (), {"total_memory": 14.7 * GIB})
    monkeypatch.setattr(planner_plan, "device_at_hand", lambda: T4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: calls.append(name))
    return calls


def predicted(patch: pytest.MonkeyPatch, facts: RunFacts, calibrate: Any) -> tuple[Any, ...]:
    """(what the run says, its windows, its workload)."""
    patch.setattr(planner_plan, "calibrate", calibrate)
    windows = build_windows(load_series(CONFIG.data), CONFIG.data, CONFIG.model.context_length)
    return predict_run(CONFIG, windows, facts), windows, describe_windows(CONFIG, windows)


def test_steps_are_measured_on_a_gpu(on_t4: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(workload: Workload, precision: str, budget_seconds: float) -> Rate:
        assert budget_seconds == 2.0
        torch.rand(7)  # a model's initial weights
        return Rate("t4", precision, 2.0, 65.0, 2 / 65)

    before = torch.get_rng_state()
    facts = RunFacts("fp16", 2, 1, is_gpu=True)
    found, windows, work = predicted(monkeypatch, facts, measured)
    assert torch.equal(torch.get_rng_state(), before)
    # Freed, and then forgotten: the peak that the run reports is its own.
    assert on_t4 == ["empty_cache", "reset_peak_memory_stats"]
    seconds = len(windows.issue_rows("train")) * work.flops_per_sample() / 2e12
    assert found.epoch_seconds == pytest.approx(seconds)
    cost, saved = found.summary.splitlines()
    assert cost.endswith("(a few steps measured now).")
    assert "train.zero_stage=0" in saved
    # Torch's allocator is what will be measured: the series is in it, the context is not.
    memory = memory_of(work, Choice("fp16", 2), T4)
    assert memory.series == windows.transform.num_bytes > 0
    assert found.peak_memory_gib == pytest.approx(memory.total_gib - CONTEXT_GIB)
    assert found.data_on_device.value == "true"


def test_without_room_the_table_is_asked(on_t4: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: Any) -> Rate:
        raise torch.OutOfMemoryError("CUDA out of memory")

    facts = RunFacts("fp16", 2, 1, is_gpu=True)
    found, windows, work = predicted(monkeypatch, facts, out_of_memory)
    assert on_t4 == ["empty_cache", "reset_peak_memory_stats"]
    assert "30% of 65 TFLOP/s assumed: no steps could be measured" in found.summary
    computed = len(windows.issue_rows("train")) * work.flops_per_sample() / (0.3 * 65e12)
    assert found.epoch_seconds > 10 * computed  # launches


def test_a_run_on_a_busy_cpu_says_both_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(workload: Workload, precision: str, budget_seconds: float) -> Rate:
        return Rate("cpu", precision, 0.002, slowdown=9.5)

    facts = RunFacts("fp32", 0, 1, is_gpu=False)
    found, windows, work = predicted(monkeypatch, facts, measured)
    seconds = len(windows.issue_rows("train")) * work.flops_per_sample() / 0.002e12
    assert found.epoch_seconds == pytest.approx(seconds)
    (line,) = found.summary.splitlines()
    assert line.endswith("measured now; 9.5 times as long beside what else runs on this machine).")
    assert found.data_on_device.value == "false"


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


def rows(table: Table, edge: str = "│") -> list[list[str]]:
    """Cells of every line below the headings, as printed; of the headings with edge ┃."""
    lines = [line for line in printed(table).splitlines() if line.startswith(edge)]
    return [[cell.strip() for cell in line.strip(edge).split(edge)] for line in lines]


@pytest.fixture
def plan(workload: MakeWorkload) -> Plan:
    run = workload("train.epochs=3", "train.accumulation_steps=2")
    devices = [T4, DEVICES["p100"]]
    choices = {device.name: Choice("fp16", 2) for device in devices}
    memory = {1: replace(MEMORY, activations=11 * GIB), 2: MEMORY}
    link = Scaling(2, "pcie4", 0.5, 0.0125, 0.25, 0.952, 0.987, 41)
    return Plan(run, devices, choices, memory, [replace(TIME, gpus=1), TIME], [link])


def test_memory_by_number_of_gpus(plan: Plan) -> None:
    table = text.memory_table(plan)
    assert rows(table, "┃") == [
        (
            "GPUs|weights|gradients|optimizer|activations|buffers|workspaces|series|context|total|"
            "t4 14.7|p100 15.9"
        ).split("|")
    ]
    assert [[cell.replace(" ", "_") for cell in row] for row in rows(table)] == [
        "1 1.00 0.50 2.00 11.00 0.38 0.00 0.00 0.12 15.00 NO,_0.30_over fits,_0.9_left".split(),
        "2 1.00 0.50 2.00 8.00 0.38 0.00 0.00 0.12 12.00 fits,_2.7_left fits,_3.9_left".split(),
    ]
    assert (plan.fits(1, T4), plan.fits(2, T4)) == (False, True)
    assert plan.fits(1, Device("exactly", 15.0, {}))


def test_time_and_scaling_by_device(plan: Plan) -> None:
    measured = replace(TIME, rate=Rate("cpu", "fp32", 0.0456), gpus=1)
    durations = ["10 min", "45 s", "2.0 h"]
    assert rows(text.time_table([TIME, measured], 3)) == [
        [*"t4 2 fp16 65 0.30 19.5 123 1,234".split(), *durations],
        [*"cpu 1 fp32 – measured 0.0456 123 1,234".split(), *durations],
    ]
    found = rows(text.scaling_table(plan))
    assert found == [["pcie4", "2", "0.5", "12 ms", "250 ms", "95%", "99%", "41"]]


def test_what_to_paste(workload: MakeWorkload) -> None:
    run, overrides = workload(), {"train.batch_size": "4", "train.accumulation_steps": "2"}
    away = replace(MEMORY, host=3 * GIB)
    assert text.fit_lines(None, 15.0, "small on 1 GPU")[0].startswith(
        "nothing brings recipe small on 1 GPU under 15.00 GiB: "
    )
    assert [text.fit_lines(fit, 15.0, "small") for fit in (Fit({}, run, MEMORY),)] == [
        ["recipe small fits 15.00 GiB as it is: 12.00 GiB."]
    ]
    assert text.fit_lines(Fit(overrides, run, away), 15.0, "small") == [
        "recipe small fits 15.00 GiB with 12.00 GiB, and 3.0 GiB of the computer's own memory:",
        "  train.batch_size=4 train.accumulation_steps=2",
    ]


def test_recipes_side_by_side(plan: Plan, workload: MakeWorkload) -> None:
    other = workload("train.batch_size=4", "model.hidden_size=64", series_days=50.0)
    half = RunTime(RATE, 2, 61.7, 617, 1200.0, 90.0, 617, 86400.0 * 3)
    second = replace(plan, workload=other, memory={1: MEMORY, 2: MEMORY}, times=[half, half])
    settings = differing_settings([plan.workload.config, other.config])
    assert dict(settings) == {
        "model.hidden_size": [32, 64],
        "train.epochs": [3, 1],
        "train.batch_size": [8, 4],
        "train.accumulation_steps": [2, 1],
    }
    value = [{"epoch": 1, "accuracy": [0.74, 0.76]}] * 9
    settings.append(("expectations", [value, value]))
    table = text.comparison_table({"one": plan, "two": second}, settings)
    found = {cells[0]: cells[1:] for cells in rows(table)}
    flops = [f"{p.workload.flops_per_sample() / 1e9:.3g}" for p in (plan, second)]
    expected = {
        "expectations": [f"[{{'epoch': 1, 'accuracy'... ({len(str(value))} characters)"] * 2,
        "model.hidden_size": ["32", "64"],
        "tokens a sample": ["12", "12"],
        "context": ["8 days", "8 days"],
        "training windows": ["1,000", "1,000"],
        "memory of a GPU, 1 GPU": ["15.00 GiB", "12.00 GiB"],
        "memory of a GPU, 2 GPUs": ["12.00 GiB", "12.00 GiB"],
        "epoch on t4, 1 GPU": ["10 min", "20 min"],
        "whole run on t4, 2 GPUs": ["2.0 h", "3.0 days"],
        "GFLOP a sample": flops,
    }
    assert {name: found[name] for name in expected} == expected
    assert flops[0] != flops[1]


def test_the_screen_has_all_parts(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    plan.warnings.append("take care.")
    ladder = memory_ladder(plan.workload)
    text.print_answer(Answer({"quickstart": plan}, fits=[(None, 3.0, "quickstart on 1 t4")]))
    shown = capsys.readouterr().out
    parts = (
        "recipe quickstart: 0.0 M parameters, 12 tokens and ",
        "1,000 training, 200 validation, 300 test windows of the SYNTHETIC series; batch 8 x 2 "
        "accumulation; fp16 on p100, fp16 on t4; ZeRO stage 2, sdpa attention, checkpointing off.",
        "Peak memory of each GPU",
        "Time",
        "Predicted scaling, t4",
        "Why quickstart needs what it needs",
        *(setting for setting, _ in ladder),
        "nothing brings recipe quickstart on 1 t4 under 3.00 GiB",
        "warning: take care.",
    )
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    text.print_answer(Answer({"a": plan, "b": plan}, settings=[("train.lr", [1, 2])]))
    shown = capsys.readouterr().out
    assert "Side by side" in shown
    assert "warning: a: take care." in shown
    assert "warning: b: take care." in shown
    assert "scaling" not in shown
    cpu = replace(plan, devices=[CPU], times=[], scaling=[])
    text.print_answer(Answer({"quickstart": cpu}))
    shown = capsys.readouterr().out
    assert "time: not known for this device; --calibrate measures it." in shown
    assert "Why quickstart" not in shown
