"""The average of the weights is that of the formula, and it is what is scored and kept."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from settings import ONE_LABEL

from timerxl.config import InputError, load_recipe
from timerxl.model import TimerXLForClassification
from timerxl.planner.trace import zero_windows
from timerxl.training.assembly import BACKEND, model_config
from timerxl.training.averaging import AVERAGED, COUNT, WeightAverage
from timerxl.training.checkpoint.storage import StorageFailed, record_files
from timerxl.training.dataloader import MicroBatch
from timerxl.training.resume import RunEnded
from timerxl.training.trainer import TrainingStep

CPU = torch.device("cpu")
# Five steps, each kept.
FIVE = ("train.max_steps=5", "train.checkpoint_every_steps=1", "train.keep_last=9")


def by_hand(weights: list[np.ndarray], decay: float) -> np.ndarray:
    """The average of the weights after each step, in doubles."""
    average = weights[0].astype(np.float64)
    for made, now in enumerate(weights[1:], start=1):
        kept = min(decay, (1 + made) / (10 + made))
        average = kept * average + (1 - kept) * now
    return average


def step_folder(run: Any, step: int) -> Path:
    return Path(run.folder) / "checkpoints" / f"step_{step:08d}"


@pytest.fixture(scope="module")
def averaged(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_tiny(tmp_path_factory.mktemp("averaged") / "run", *FIVE, "train.ema=0.3")


def test_five_steps_of_a_run_by_hand(averaged: Any) -> None:
    """The decay 0.3 is reached: (1 + n) / (10 + n) is 2/11, 3/12, 4/13 > 0.3."""
    raw = [load_file(step_folder(averaged, step) / "model.safetensors") for step in range(1, 6)]
    for last in range(1, 6):
        found = load_file(step_folder(averaged, last) / AVERAGED)
        assert found.pop(COUNT).item() == last
        assert found.keys() == raw[0].keys()
        for name, average in found.items():
            expected = by_hand([weights[name].numpy() for weights in raw[:last]], 0.3)
            np.testing.assert_allclose(average.numpy(), expected, rtol=0, atol=1e-6)
    moved = max((raw[0][name] - raw[4][name]).abs().max() for name in raw[0])
    assert moved > 1e-3  # far more than is allowed above


def test_the_average_is_scored_and_kept_and_training_never_sees_it(
    averaged: Any, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    plain = train_tiny(tmp_path / "run", *FIVE)
    losses = [[event["loss"] for event in run.events("train")] for run in (averaged, plain)]
    assert losses[0] == losses[1]
    for name in ("model.safetensors", "optimizer-00000-of-00001.safetensors"):
        found, expected = (step_folder(run, 5) / name for run in (averaged, plain))
        assert found.read_bytes() == expected.read_bytes()
    assert not (step_folder(plain, 5) / AVERAGED).exists()

    kept = load_file(averaged.folder / "model" / "model.safetensors")
    average = load_file(step_folder(averaged, 5) / AVERAGED)
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    (event,), (other,) = averaged.events("validation"), plain.events("validation")
    for key in ("roc_auc", "brier"):  # scored in the loop, and from the folder
        assert event[key] == pytest.approx(averaged.returned["validation"][key], abs=1e-6)
        assert abs(event[key] - other[key]) > 1e-4


def test_half_precision_weights_are_averaged_in_fp32() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(50, 3)
    average = WeightAverage(model, 0.99, CPU)
    seen = []
    model.bfloat16()
    for _ in range(5):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        seen.append(model.weight.detach().float().numpy())
        average.update_parameters(model)
    found = average.module.weight
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), by_hand(seen, 0.99), rtol=0, atol=1e-6)


TINY = (
    f"{ONE_LABEL} "
    "data.static_features=false model.patch_length=4 model.context_length=16 model.hidden_size=32 "
    "model.intermediate_size=64 model.num_hidden_layers=2 model.num_attention_heads=2 "
    "model.variable_embedding=false"
).split()


def a_model() -> Any:
    torch.manual_seed(0)
    return TimerXLForClassification(model_config(load_recipe("quickstart", TINY), 3, 0, 0.5))


def test_a_step_that_fp16_left_out_is_not_averaged() -> None:
    model = a_model()
    average = WeightAverage(model, 0.9, CPU)
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    schedule = SimpleNamespace(step=lambda: None)
    step = TrainingStep(accelerator, prepared, optimizer, schedule, 1, 1.0, average=average)
    for number, is_skipped in enumerate((False, True, False), start=1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(optimizer), "step_was_skipped", is_skipped)
            group = [MicroBatch([0, 1], 2)]
            step(number, group, iter([zero_windows(model.config, 2)]), 2.0, 2)
        assert average.n_averaged.item() == (1, 1, 2)[number - 1]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_average_of_compiled_and_checkpointed_layers_runs_plainly(precision: str) -> None:
    model = a_model()
    plain = copy.deepcopy(model).eval()
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model.timer_xl.layers:
        layer.compile(backend=BACKEND)
    average = WeightAverage(model, 0.9, CPU, precision).eval()
    assert all(layer._compiled_call_impl is None for layer in average.module.timer_xl.layers)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    inputs = {"past_values": torch.randn(5, 16, 3)}
    with torch.no_grad():
        expected, found = plain(**inputs).logits, average(**inputs).logits
        if precision == "bf16":
            with torch.autocast("cpu", torch.bfloat16):
                halved = plain(**inputs).logits
            assert not torch.equal(found, expected)  # rounded as in training
            expected = halved
    assert torch.equal(found, expected)


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-0.1", ".nan"])
def test_a_decay_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InputError, match=r"train\.ema is .* above 0 and below 1"):
        load_recipe("quickstart", [f"train.ema={value}"])


def spoiled(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    name = next(key for key in tensors if key != COUNT)
    return {
        "no count": {key: of for key, of in tensors.items() if key != COUNT},
        "a float for a count": tensors | {COUNT: torch.tensor(1.0)},
        "a count below 0": tensors | {COUNT: torch.tensor(-1)},
        "NaN": tensors | {name: torch.full_like(tensors[name], float("nan"))},
        "fp16": tensors | {name: tensors[name].half()},
        "a tensor missing": {key: of for key, of in tensors.items() if key != name},
        "another shape": tensors | {name: torch.zeros(2, 2, 2)},
        "one too many": tensors | {"more": torch.zeros(1)},
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("no count", "a float for a count", "a count below 0", "NaN", "fp16"),
        *("a tensor missing", "another shape", "one too many"),
    ],
)
def test_a_file_that_is_no_average_is_refused(how: str, tmp_path: Path) -> None:
    average = WeightAverage(a_model(), 0.9, CPU)
    average.update_parameters(a_model())
    path = tmp_path / AVERAGED
    average.write(path)
    again = WeightAverage(a_model(), 0.9, CPU)
    again.read(path)
    assert again.n_averaged.item() == 1
    save_file(spoiled(load_file(path), how), path)
    with pytest.raises((ValueError, RuntimeError)):
        again.read(path)
    assert again.n_averaged.item() == 1


def rewrite(checkpoint: Path, edit: Callable[[dict[str, Any]], object], *gone: str) -> None:
    """Change trainer_state.json and take files away, as if the run had written it so."""
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text())
    edit(state)
    path.write_text(json.dumps(state))
    for name in gone:
        (checkpoint / name).unlink()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    names = [name for name in manifest["files"] if name not in gone]
    manifest["files"] = record_files(checkpoint, names)
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def test_on_or_off_is_another_experiment(
    averaged: Any, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """Refused by name unless forced; a checkpoint older than the setting counts as off."""
    at_3 = tmp_path / "checkpoints" / "step_00000003"
    resume = f"train.resume={at_3}"
    at_3.parent.mkdir()
    shutil.copytree(step_folder(averaged, 3), at_3)
    for change in ("train.ema=null", "train.ema=0.5"):
        with pytest.raises(InputError, match=r"train\.ema was 0\.3, is"):
            train_tiny(tmp_path / "off", *FIVE, resume, change)
    assert not (tmp_path / "off").exists() or not (tmp_path / "off" / "checkpoints").exists()
    forced = train_tiny(tmp_path / "forced", *FIVE, resume, "train.resume_force=true")
    assert not (step_folder(forced, 5) / AVERAGED).exists()

    rewrite(at_3, lambda state: state["config"]["train"].pop("ema"), AVERAGED)
    older = train_tiny(tmp_path / "older", *FIVE, resume)
    for name in ("model.safetensors", "optimizer-00000-of-00001.safetensors"):
        found, expected = (step_folder(run, 5) / name for run in (older, averaged))
        assert found.read_bytes() == expected.read_bytes()
    with pytest.raises(InputError, match=r"train\.ema was None, is 0\.3"):
        train_tiny(tmp_path / "on", *FIVE, resume, "train.ema=0.3")
    begun = train_tiny(
        tmp_path / "begun", *FIVE, resume, "train.ema=0.3", "train.resume_force=true"
    )
    assert load_file(step_folder(begun, 5) / AVERAGED)[COUNT].item() == 2


def test_a_checkpoint_without_its_average_is_refused(
    averaged: Any, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    at_3 = tmp_path / "checkpoints" / "step_00000003"
    shutil.copytree(step_folder(averaged, 3), at_3)
    rewrite(at_3, lambda state: None, AVERAGED)
    with pytest.raises(StorageFailed, match=f"holds no {AVERAGED}"):
        train_tiny(tmp_path / "run", *FIVE, f"train.resume={at_3}", "train.ema=0.3")


def test_a_finished_run_of_before_the_setting_is_over(
    averaged: Any, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged.folder, run)
    with pytest.raises(InputError, match=r"train\.ema was 0\.3, is None"):
        train_tiny(run, *FIVE)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("  ema: 0.3\n", ""))
    with pytest.raises(RunEnded, match="nothing to do"):
        train_tiny(run, *FIVE)
    with pytest.raises(InputError, match=r"train\.ema was None, is 0\.3"):
        train_tiny(run, *FIVE, "train.ema=0.3")
