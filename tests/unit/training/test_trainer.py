"""One optimizer step: the same weights as a plain loop's, one wait for the GPU, one collective."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import processes
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from settings import ONE_LABEL

from timerxl.config import load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.planner.trace import zero_windows
from timerxl.training.assembly import model_config
from timerxl.training.dataloader import MicroBatch
from timerxl.training.trainer import NumberNotFinite, TrainingStep

ROOT = Path(__file__).resolve().parents[3]
TINY = (
    f"{ONE_LABEL} "
    "data.static_features=false model.patch_length=4 model.context_length=16 model.hidden_size=32 "
    "model.intermediate_size=64 model.num_hidden_layers=2 model.num_attention_heads=2 "
    "model.hidden_dropout=0 model.attention_dropout=0 model.variable_embedding=false "
).split()
SETTINGS = model_config(load_recipe("quickstart", TINY), 3, 0, alpha=0.5)
BATCH = 4


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def windows(micro_batches: int, number: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(number)
    batches = [zero_windows(SETTINGS, BATCH) for _ in range(micro_batches)]
    for batch in batches:
        batch["past_values"].normal_(generator=generator)
        batch["labels"].random_(0, 2, generator=generator)
    return batches


def a_model() -> TimerXLForClassification:
    torch.manual_seed(0)
    return TimerXLForClassification(copy.deepcopy(SETTINGS))


def real_step(model: Any, micro_batches: int, optimizer: Any = None) -> TrainingStep:
    """With accelerate's own Accelerator, in fp32 on the CPU; SGD unless another is given."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=micro_batches)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    return TrainingStep(
        accelerator=accelerator,
        model=prepared,
        optimizer=prepared_optimizer,
        schedule=SimpleNamespace(step=lambda: None),
        accumulation_steps=micro_batches,
        max_grad_norm=0.05,
    )


def take(step: TrainingStep, number: int, batches: list[Any]) -> tuple[float, float | None]:
    group = [MicroBatch(list(range(BATCH)), BATCH)] * len(batches)
    return step(number, group, iter(batches), float(BATCH * len(batches)))


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_bit_by_bit_a_plain_loop(micro_batches: int) -> None:
    model, plain = a_model(), a_model()
    adamw = {"lr": 1e-3, "weight_decay": 0.01}
    step = real_step(model, micro_batches, torch.optim.AdamW(model.parameters(), **adamw))
    optimizer = torch.optim.AdamW(plain.parameters(), **adamw)
    plain.train()
    for number in (1, 2, 3):
        found = take(step, number, windows(micro_batches, number))
        total = 0.0
        for batch in windows(micro_batches, number):
            loss = plain(**batch, loss_normalizer=float(BATCH * micro_batches)).loss
            total += loss.item()
            # Times the micro-batches for the step's scale, over them again in accelerate.
            (loss * micro_batches / micro_batches).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05).item()
        optimizer.step()
        optimizer.zero_grad()
        assert found == (total, norm)
        assert norm > 0.05  # clipping is at work
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_the_host_reads_once_a_step(micro_batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a GPU is a read of a tensor by the host, and each gather."""
    step = real_step(a_model(), micro_batches)
    take(step, 1, windows(micro_batches, 1))
    calls: list[str] = []

    def note(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return whole(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__"):
        note(torch.Tensor, name)
    for name in ("gather", "reduce", "gather_for_metrics", "wait_for_everyone"):
        note(Accelerator, name)
    take(step, 2, windows(micro_batches, 2))
    assert calls == ["gather", "tolist"]


@pytest.mark.parametrize("bad", [0, 2])
def test_a_nan_is_found_before_the_weights_change(bad: int) -> None:
    model = a_model()
    step = real_step(model, 3)
    take(step, 1, windows(3, 1))
    before = copy.deepcopy(model.state_dict())
    batches = windows(3, 2)
    batches[bad]["past_values"][0, 3, 1] = float("nan")
    with pytest.raises(NumberNotFinite, match="the loss is nan at step 2") as error:
        take(step, 2, batches)
    assert math.isnan(error.value.loss)
    assert error.value.grad_norm is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_gradient_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is a number; its gradient is made infinite."""
    model = a_model()
    step = real_step(model, 2)
    before = copy.deepcopy(model.state_dict())
    first = next(model.parameters())
    first.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NumberNotFinite, match="the gradient norm is") as error:
        take(step, 1, windows(2, 1))
    assert math.isfinite(error.value.loss)
    assert error.value.grad_norm is not None
    assert not math.isfinite(error.value.grad_norm)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # fp16 leaves such a step out by itself, and goes on.
    monkeypatch.setattr(type(step.accelerator), "mixed_precision", "fp16")
    loss, grad_norm = take(step, 1, windows(2, 1))
    assert math.isfinite(loss)
    assert grad_norm is None


LAUNCHERS = {
    "DDP": ["torchrun", "--standalone", "--nproc_per_node", "2"],
    "ZeRO-2": [
        *("accelerate", "launch", "--config_file", "accelerate_configs/zero2_cpu.yaml"),
        *("--main_process_port", "0", "--deepspeed_config_file", "ds_configs/zero2_fp32.json"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "bad"), [("DDP", [0, 2]), ("ZeRO-2", [0]), ("ZeRO-2", [2])], ids=str
)
def test_two_real_ranks(launcher: str, bad: list[int], tmp_path: Path) -> None:
    program, *options = LAUNCHERS[launcher]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if launcher == "DDP":
        environment["ACCELERATE_USE_CPU"] = "true"
    script = str(Path(__file__).with_name("step_on_two_ranks.py"))
    arguments = [str(tmp_path), ",".join(map(str, bad)), *TINY, "train.accumulation_steps=3"]
    done = processes.run(
        [Path(sys.executable).parent / program, *options, script, *arguments], env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0]["steps"] == ranks[1]["steps"]
    for rank in ranks:
        # One rank's wish and another's signal, each in its step.
        assert rank["asked"] == [[True, 0], [False, 15]]
        for index in bad:
            found = rank[f"bad {index}"]
            assert found["loss"] == "nan"
            assert found["grad_norm"] is None
            assert found["finite"]
            assert found["same weights"]
            # DeepSpeed updates in the last backward: it must not come to that.
            assert found["backward passes"] == (3 if launcher == "DDP" else 2)
        if launcher == "DDP":  # whose gradients travel below torch.distributed's functions
            assert rank["calls"] == ["all_gather"]


def test_fp16_s_skips_are_counted_where_a_fused_optimizer_hides_them() -> None:
    """A real GradScaler: it skips inside the fused AdamW, and accelerate does not notice."""
    model = a_model()
    overflow = True
    model.classifier_out.weight.register_hook(lambda g: g * float("inf") if overflow else g)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model)
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    step = TrainingStep(
        accelerator=accelerator,
        model=prepared,
        optimizer=accelerator.prepare(optimizer),
        schedule=SimpleNamespace(step=lambda: None),
        accumulation_steps=1,
        max_grad_norm=0.05,
    )
    before = copy.deepcopy(model.state_dict())
    for number in (1, 2, 3):
        loss, norm = take(step, number, windows(1, number))
        assert math.isfinite(loss)
        assert norm is None
        assert step.skipped == number
        assert not step.optimizer.step_was_skipped  # accelerate's own word
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    overflow = False
    _, norm = take(step, 4, windows(1, 4))
    assert norm is not None
    assert step.skipped == 0
    assert not torch.equal(before["classifier_out.weight"], model.classifier_out.weight)
