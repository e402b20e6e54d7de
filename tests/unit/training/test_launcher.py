"""What the launcher's environment decides, and what the recipe fills into DeepSpeed's settings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DeepSpeedPlugin, DistributedType

from timerxl.config import InputError, RunConfig
from timerxl.training.launcher import (
    DS_CONFIGS,
    LauncherChoice,
    decide,
    fill_deepspeed,
    read_launcher,
)
from timerxl.training.precision import DeviceFacts

CPU = DeviceFacts(False, False, "CPU")
T4 = DeviceFacts(True, False, "Tesla T4")
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (None, None)),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, (None, None)),
        ({"ACCELERATE_MIXED_PRECISION": ""}, (None, None)),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, ("bf16", None)),
        ({"ACCELERATE_USE_DEEPSPEED": "false"}, (None, None)),
        (DEEPSPEED, (None, 2)),
        (DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "none"}, (None, 2)),
        (
            DEEPSPEED
            | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1", "ACCELERATE_MIXED_PRECISION": "fp16"},
            ("fp16", 1),
        ),
    ],
)
def test_the_environment_of_accelerate_launch(
    environment: dict[str, str], expected: tuple[str | None, int | None]
) -> None:
    assert read_launcher(environment) == LauncherChoice(*expected)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("zero2_bf16", "bf16"),
        ("zero2_bf16_offload", "bf16"),
        ("zero2_fp16", "fp16"),
        ("zero2_fp32", "fp32"),
    ],
)
def test_a_deepspeed_file_sets_precision_and_stage(name: str, precision: str) -> None:
    path = str(DS_CONFIGS / f"{name}.json")
    found = read_launcher(DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": path})
    assert found == LauncherChoice(precision, 2)


@pytest.mark.parametrize("content", [None, "{", "text"])
def test_a_deepspeed_file_that_can_t_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    environment = DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    with pytest.raises(InputError, match=r"ds\.json can't be read"):
        read_launcher(environment)


def test_the_recipe_decides_where_the_launcher_chose_nothing() -> None:
    config = RunConfig()
    config.train.precision, config.train.zero_stage = "bf16", 2
    precision, zero = decide(config, T4, LauncherChoice(None, None))
    assert (precision.value, zero.value) == ("fp16", "2")
    assert "Tesla T4" in str(precision.skipped)
    # Every precision that can meet ZeRO-2 without a launcher has its DeepSpeed file.
    for value in ("fp16", "bf16", "fp32"):
        assert (DS_CONFIGS / f"zero2_{value}.json").is_file()
    precision, zero = decide(config, CPU, LauncherChoice("fp32", 2))
    assert (precision.value, zero.value) == ("fp32", "2")
    assert "the launcher chose fp32" in str(precision.skipped)


def deepspeed_accelerator(source: str | Path) -> Any:
    """The two things fill_deepspeed looks at, with accelerate's own plugin for the file."""
    plugin = DeepSpeedPlugin(hf_ds_config=str(source))
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state)


def recipe() -> RunConfig:
    config = RunConfig()
    config.train.batch_size, config.train.accumulation_steps = 6, 4
    config.optim.max_grad_norm = 0.75
    return config


@pytest.mark.parametrize("path", sorted(DS_CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_counts_of_the_recipe_replace_auto(path: Path) -> None:
    accelerator = deepspeed_accelerator(path)
    fill_deepspeed(accelerator, recipe())
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    assert settings["train_micro_batch_size_per_gpu"] == 6
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 0.75
    on_disk = json.loads(path.read_text())
    assert settings["zero_optimization"] == on_disk["zero_optimization"]


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("train_micro_batch_size_per_gpu", 6, False),
        ("train_micro_batch_size_per_gpu", 8, True),
        ("gradient_accumulation_steps", 1, False),  # accelerate's own filling
        ("gradient_accumulation_steps", 2, True),
        ("gradient_clipping", 1.0, True),
    ],
)
def test_a_count_that_contradicts_the_recipe_is_refused(
    tmp_path: Path, key: str, value: float, refused: bool
) -> None:
    settings = json.loads((DS_CONFIGS / "zero2_fp32.json").read_text()) | {key: value}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(settings))
    accelerator = deepspeed_accelerator(path)
    if refused:
        with pytest.raises(InputError, match=rf"{key} is {value} in the DeepSpeed config"):
            fill_deepspeed(accelerator, recipe())
    else:
        fill_deepspeed(accelerator, recipe())
        filled = accelerator.state.deepspeed_plugin.deepspeed_config
        assert (filled["gradient_accumulation_steps"], filled["gradient_clipping"]) == (4, 0.75)
