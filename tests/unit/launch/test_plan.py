"""launch/plan.py: clean JSON that comes out the same twice, comparison, fit, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from settings import ONE_LABEL

from timerxl.cli import plan
from timerxl.config import load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.planner.throughput import launches_per_micro_batch
from timerxl.planner.workload import Choice, read_workload

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "launch" / "plan.py"
# Seven months of five regions: 1,430 training windows; 27 variables of two patches.
TINY = (
    f"{ONE_LABEL} "
    "data.synthetic.start=2024-06-01 model.patch_length=8 model.context_length=16 "
    "model.hidden_size=16 model.intermediate_size=32 model.num_hidden_layers=1 "
    "model.hidden_dropout=0"
).split()
# Two GPUs over two interconnects; one device of our own, on which it never fits.
ASKED = (
    *("--config", "quickstart", "--json", "--gpus", "1,2,1", "--interconnect", "nvlink,10gbe"),
    *("--device", "t4", "--device", "name=tiny,memory=0.4GiB,tflops_fp16=0.03"),
    *("--fit", "0.4635GiB", *TINY),
)
PARTS = "weights gradients optimizer activations buffers workspaces series context".split()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def twice() -> list[str]:
    """What two processes print: their hashes have other seeds."""
    process = start(*ASKED)
    forked = processes.run([sys.executable, SCRIPT, *ASKED])
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, ""), errors[-3000:]
    assert (forked.returncode, forked.stderr) == (0, ""), forked.stderr[-3000:]
    return [output, forked.stdout]


@pytest.fixture(scope="module")
def found(twice: list[str]) -> dict[str, Any]:
    answer = json.loads(twice[0])  # fails on anything else on stdout
    assert isinstance(answer, dict)
    return answer


@pytest.mark.slow
def test_the_same_question_has_the_same_answer(twice: list[str]) -> None:
    assert twice[0] == twice[1]
    assert twice[0].startswith("{\n")


@pytest.mark.slow
def test_the_model_and_the_series(found: dict[str, Any]) -> None:
    run = read_workload(load_recipe("quickstart", TINY))
    model = TimerXLForClassification(run.model)
    assert found["recipe"] == "quickstart"
    assert found["is_synthetic"]
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert found["tokens_per_sample"] == 27 * 2
    assert found["context_days"] == 16 * 12 / 24
    assert found["flops_per_sample"] == model.flops_per_sample()
    assert found["forward_flops_per_sample"] * 3 == found["flops_per_sample"]
    assert found["windows"] == run.windows
    assert found["precision"] == {"t4": "fp16", "tiny": "fp16"}


@pytest.mark.slow
def test_memory_of_a_gpu(found: dict[str, Any]) -> None:
    one, two = found["per_gpu"]  # a number asked for twice is planned once
    assert (one["gpus"], two["gpus"]) == (1, 2)
    for item in (one, two):
        parts = [item[f"{name}_gib"] for name in PARTS]
        assert item["total_gib"] == pytest.approx(sum(parts), rel=1e-12)
        assert all(part >= 0 for part in parts)
        assert item["buffers_gib"] == item["temporary_gib"] + item["buckets_gib"]
        assert item["weights_gib"] == 4 * found["params"] / 2**30
        assert item["context_gib"] == pytest.approx(0.45)
        assert item["fits"] == {"t4": True, "tiny": False}
        assert item["margin_gib"] == pytest.approx(
            {"t4": 14.7 - item["total_gib"], "tiny": 0.4 - item["total_gib"]}
        )
    assert one["buckets_gib"] == 0
    assert two["buckets_gib"] == two["weights_gib"]  # fp32 gradients, as large


@pytest.mark.slow
def test_time_and_scaling(found: dict[str, Any]) -> None:
    keys = [(item["device"], item["gpus"]) for item in found["time"]]
    assert keys == [("t4", 1), ("t4", 2), ("tiny", 1), ("tiny", 2)]
    alone = found["time"][2]
    assert (alone["peak_tflops"], alone["efficiency"]) == (0.03, 0.3)
    rate = 0.3 * 0.03e12
    windows = found["windows"]
    epoch = windows["train"] * found["flops_per_sample"] / rate
    validation = windows["validation"] * found["forward_flops_per_sample"] / rate
    test = windows["test"] * found["forward_flops_per_sample"] / rate
    assert alone["train_seconds_per_epoch"] == pytest.approx(epoch)
    assert alone["evaluation_seconds_per_epoch"] == pytest.approx(validation)
    assert alone["hours_per_epoch"] * 3600 == pytest.approx(epoch + validation)
    assert alone["hours_per_run"] * 3600 == pytest.approx(epoch + 2 * validation + test)
    assert alone["samples_per_s"] == pytest.approx(rate / found["flops_per_sample"])
    assert alone["steps_per_epoch"] == alone["num_steps"] == -(-windows["train"] // 64)
    scaling = found["scaling"]
    assert [(item["interconnect"], item["ranks"]) for item in scaling] == [
        ("nvlink", 2),
        ("10gbe", 2),
    ]
    # Times are for the first interconnect.
    steps, two = found["time"][1]["steps_per_epoch"], found["time"][1]
    run = read_workload(load_recipe("quickstart", TINY))
    computed = steps * launches_per_micro_batch(run, Choice("fp16", 0)) * 5e-6
    assert computed > windows["train"] / 2 * found["flops_per_sample"] / (0.3 * 65e12)
    # What is not hidden behind backward: computation over efficiency, less computation.
    waits = scaling[0]["compute_seconds"] * (1 / scaling[0]["efficiency"] - 1)
    assert 0 <= waits <= scaling[0]["seconds"]
    expected = computed + steps * waits
    assert two["train_seconds_per_epoch"] == pytest.approx(expected)


@pytest.mark.slow
def test_warnings_and_fit(found: dict[str, Any]) -> None:
    (idle,) = found["warnings"]
    assert idle.startswith("more than half the memory stays unused on t4 (0.5 of 14.7 GiB):")
    assert [item["where"] for item in found["fit"]] == [
        "quickstart on 1 GPU",
        "quickstart on 2 GPUs",
    ]
    for item, memory in zip(found["fit"], found["per_gpu"], strict=True):
        assert item["limit_gib"] == 0.4635
        assert memory["total_gib"] > 0.4635 >= item["total_gib"]
        counts = item["overrides"]
        product = int(counts["train.batch_size"]) * int(counts["train.accumulation_steps"])
        assert product == 64


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """(exit code, stdout, stderr) of the command in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        capsys.readouterr()
        code = plan.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_two_recipes_side_by_side(command: Command) -> None:
    arguments = ("--compare", "quickstart,hourly_cpu", "data.synthetic.start=2024-06-01")
    small = ("model.num_hidden_layers=1", "model.hidden_size=32", "--device", "l4")
    code, output, errors = command(*arguments, *small)
    assert (code, errors) == (0, "")
    lines = [[cell.strip() for cell in line.split("│")] for line in output.splitlines()]
    cells = {line[1]: line[2:4] for line in lines if len(line) == 5}
    assert cells["model.context_length"] == ["56", "168"]
    assert cells["data.synthetic.step_hours"] == ["12", "1"]
    assert cells["context"] == ["28 days", "7 days"]
    assert cells["tokens a sample"] == ["91", "189"]  # 13 features, and all 27
    assert "model.hidden_size" not in cells  # the same in both
    code, output, _ = command(*arguments, *small, "--json")
    answer = json.loads(output)
    assert answer["settings"]["model.context_length"] == [56, 168]
    assert list(answer["plans"]) == ["quickstart", "hourly_cpu"]
    totals = [f"{p['per_gpu'][0]['total_gib']:.2f} GiB" for p in answer["plans"].values()]
    assert cells["memory of a GPU, 1 GPU"] == totals


def test_what_does_not_fit_is_answered_with_what_would(command: Command) -> None:
    device = "name=tiny,memory=0.4635GiB,tflops_fp16=3"
    code, output, _ = command("--config", "quickstart", *TINY, "--device", device)
    assert code == 0
    assert "NO, 0.0" in output
    assert "quickstart on 1 tiny fits 0.4" in output
    assert " with 0.46 GiB:\n  train.batch_size=" in output


def test_this_machine_s_cpu(command: Command) -> None:
    arguments = ("--config", "quickstart", *TINY, "train.batch_size=4", "--device", "cpu", "--json")
    code, output, _ = command(*arguments)
    answer = json.loads(output)
    assert (code, answer["time"], answer["precision"]) == (0, [], {"cpu": "fp32"})
    assert answer["per_gpu"][0]["context_gib"] == 0
    code, output, _ = command(*arguments, "--calibrate")
    (time,) = json.loads(output)["time"]
    assert (code, time["device"], time["peak_tflops"]) == (0, "cpu", None)
    assert 1e-6 < time["tflops"] < 10


CONFIG = ("--config", "quickstart")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --config NAME or --compare NAME,NAME (one of the two)."),
        ([*CONFIG, "--compare", "small,transfer"], "(one of the two)."),
        (["--compare", ","], "give --config NAME or --compare NAME,NAME"),
        (
            ["--config", "nowhere"],
            "unknown recipe 'nowhere': expected one of hourly_cpu, pretrain",
        ),
        (["--compare", "quickstart,nowhere"], "unknown recipe 'nowhere'"),
        ([*CONFIG, "model.context_length=57"], "model.context_length 57 is no multiple of model."),
        ([*CONFIG, "train.batchsize=8"], "unknown key train.batchsize"),
        ([*CONFIG, "train.batch_size=0"], "train.batch_size is 0; expected a number above 0."),
        ([*CONFIG, "--gpus", "0"], "--gpus 0: expected numbers from 1 on"),
        ([*CONFIG, "--gpus", "2,-1"], "--gpus 2,-1: expected numbers from 1 on"),
        ([*CONFIG, "--gpus", "two"], "--gpus two: expected numbers from 1 on"),
        ([*CONFIG, "--gpus", ","], "--gpus ,: expected numbers from 1 on"),
        ([*CONFIG, "--device", "t44"], "--device t44 is unknown; did you mean t4?"),
        ([*CONFIG, "--device", "name=x,memory=1GiB"], "expected a rate"),
        ([*CONFIG, "--device", "cpu", "--gpus", "2"], "this machine's CPU is one device"),
        ([*CONFIG, "--calibrate", "--device", "t4"], "--calibrate measures the device at hand"),
        ([*CONFIG, "--interconnect", "pcie"], "--interconnect pcie is unknown; did you mean pcie"),
        ([*CONFIG, "--fit", "15gib"], "--fit=15gib: expected a size above 0"),
        ([*CONFIG, *TINY, "train.batch_size=1431"], "train.batch_size 1431 x train.accumulation_"),
        ([*CONFIG, *TINY, "--gpus", "1,23"], "--gpus 23: a step would take train.batch_size x"),
        (
            [*CONFIG, *TINY, "--device", "name=x,memory=9GiB,tflops_fp32=1"],
            "--device x has no tflops_fp16, which this run computes in; known: tflops_fp32.",
        ),
        ([*CONFIG, "data.path=nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    command: Command, arguments: list[str], message: str
) -> None:
    code, output, errors = command(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_bad_input_in_a_process_of_its_own() -> None:
    done = processes.run([sys.executable, SCRIPT, "--config", "nowhere", "--json"])
    output, errors = done.stdout, done.stderr
    assert (done.returncode, output) == (2, "")
    assert errors.startswith("error: unknown recipe 'nowhere'")
    assert len(errors.splitlines()) == 1
