"""What the launcher's environment decides, and what the recipe fills into DeepSpeed's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType

from timerxl.config import InputError, RunConfig, TrainConfig
from timerxl.device import DeviceFacts
from timerxl.training.processes import distributed as launcher_module
from timerxl.training.processes.distributed import (
    DS_CONFIGS,
    Launch,
    LauncherChoice,
    build_accelerator,
    choose_settings,
    deepspeed_settings,
    environment_notes,
    fill_deepspeed,
    read_launcher,
)

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
        (DEEPSPEED | {"ACCELERATE_MIXED_PRECISION": "fp16"}, ("fp16", 2)),
    ],
)
def test_the_environment_of_accelerate_launch(
    environment: dict[str, str], expected: tuple[str | None, int | None]
) -> None:
    found = read_launcher(environment, TrainConfig())
    assert (found.precision, found.zero_stage) == expected


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
    found = read_launcher(DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": path}, TrainConfig())
    assert (found.precision, found.zero_stage) == (precision, 2)
    assert found.offload_optimizer == name.endswith("offload")


@pytest.mark.parametrize("content", [None, "{", "text"])
def test_a_deepspeed_file_that_can_t_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    environment = DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
    with pytest.raises(InputError, match=r"ds\.json can't be read"):
        read_launcher(environment, TrainConfig())


FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
TWO = {"zero_optimization": {"stage": 2}}
AUTO = {"params": {"lr": "auto", "betas": "auto"}}


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for Megatron"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "tensor, context or sequence"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "the precision fp8"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, r"4 in the environment and .*steps=4"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "4 copies of this command"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "2 copies of this command"),
        (DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "stage 3; expected 2"),
        (DEEPSPEED | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "parameters to cpu"),
        (DEEPSPEED | {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "to nvme"),
    ],
)
def test_what_a_launcher_asks_for_in_vain_is_one_sentence(
    environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        read_launcher(environment, TrainConfig())
    assert "\n" not in str(error.value)


def test_accumulation_of_the_environment_that_is_the_recipe_s() -> None:
    environment = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}
    assert read_launcher(environment, TrainConfig(accumulation_steps=4)).precision is None


def test_tasks_of_a_process_group_are_no_copies() -> None:
    launched = {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "16"}
    assert read_launcher(launched, TrainConfig()).zero_stage is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bf16": {"enabled": True}}, "has no zero_optimization"),
        ({"zero_optimization": {"stage": 3}}, "stage 3; expected 2"),
        ({"zero_optimization": {"stage": 1}}, "stage 1; expected 2"),
        ({"zero_optimization": True}, "is no JSON object with objects"),
        ([], "is no JSON object"),
        (
            TWO | {"optimizer": {"type": "Adam", "params": {"lr": 5e-5}}},
            "its own optimizer .*5e-05",
        ),
        (TWO | {"scheduler": {"params": {"warmup_num_steps": 9}}}, "brings its own scheduler"),
        (TWO | {"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "bf16 and fp16 at once"),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "of parameters to cpu",
        ),
    ],
)
def test_a_deepspeed_file_that_this_training_can_t_follow(
    tmp_path: Path, settings: Any, sentence: str
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match=sentence) as error:
        read_launcher(DEEPSPEED | {FILE: str(path)}, TrainConfig())
    assert str(path) in str(error.value)


def read_file(tmp_path: Path, settings: Any, mixed: str = "no") -> LauncherChoice:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(settings))
    environment = DEEPSPEED | {FILE: str(path), "ACCELERATE_MIXED_PRECISION": mixed}
    return read_launcher(environment, TrainConfig())


@pytest.mark.parametrize(
    ("half", "mixed", "expected"),
    [
        ({}, "no", "fp32"),
        ({}, "bf16", "bf16"),
        ({"bf16": {"enabled": True}}, "no", "bf16"),
        ({"bf16": {"enabled": "auto"}}, "no", None),  # the recipe decides
        ({"bf16": {"enabled": "auto"}}, "bf16", "bf16"),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, "fp16", "fp16"),
        ({"fp16": {"enabled": False}}, "no", "fp32"),
    ],
)
def test_the_precision_of_a_deepspeed_file(
    tmp_path: Path, half: dict[str, Any], mixed: str, expected: str | None
) -> None:
    assert read_file(tmp_path, TWO | half, mixed).precision == expected
    chosen = expected or "bf16"
    settings = deepspeed_settings(read_file(tmp_path, TWO | half, mixed), chosen, False)
    enabled = {name: settings[name]["enabled"] for name in ("bf16", "fp16")}
    assert enabled == {"bf16": chosen == "bf16", "fp16": chosen == "fp16"}


def test_precisions_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"enables bf16 and --mixed_precision fp16"):
        read_file(tmp_path, TWO | {"bf16": {"enabled": True}}, "fp16")


def test_an_optimizer_that_is_auto_throughout_is_the_recipe_s(tmp_path: Path) -> None:
    found = read_file(tmp_path, TWO | {"optimizer": AUTO, "scheduler": AUTO})
    assert found.deepspeed == TWO
    assert [note.partition(" ")[0] for note in found.notes] == ["optimizer", "scheduler"]


def test_answers_without_a_file_get_ours() -> None:
    environment = DEEPSPEED | {
        "ACCELERATE_GRADIENT_CLIPPING": "0.5",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
    }
    found = read_launcher(environment, TrainConfig())
    settings = deepspeed_settings(found, "fp16", found.offload_optimizer)
    ours = json.loads((DS_CONFIGS / "zero2_fp16_offload.json").read_text())
    assert settings == ours | {"gradient_clipping": 0.5, "bf16": {"enabled": False}}


def test_the_recipe_decides_where_the_launcher_chose_nothing() -> None:
    config = RunConfig()
    config.train.precision, config.train.zero_stage = "bf16", 2
    precision, zero = choose_settings(config, T4, LauncherChoice(None, None))
    assert (precision.value, zero.value) == ("fp16", "2")
    assert "Tesla T4" in str(precision.skipped)
    # Every precision that can meet ZeRO-2 without a launcher has its DeepSpeed file.
    for value in ("fp16", "bf16", "fp32"):
        assert (DS_CONFIGS / f"zero2_{value}.json").is_file()
    precision, zero = choose_settings(config, CPU, LauncherChoice("fp32", 2))
    assert (precision.value, zero.value) == ("fp32", "2")
    assert "the launcher chose fp32" in str(precision.skipped)


def deepspeed_accelerator(source: str | Path) -> Any:
    """The two things fill_deepspeed looks at, with accelerate's own plugin for the file."""
    plugin = DeepSpeedPlugin(hf_ds_config=str(source))
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, state=state, num_processes=2)


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
    assert settings["train_batch_size"] == 6 * 4 * 2
    assert settings["train_micro_batch_size_per_gpu"] == 6
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 0.75
    on_disk = json.loads(path.read_text())
    assert settings["zero_optimization"] == on_disk["zero_optimization"]


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("train_batch_size", 48, False),
        ("train_batch_size", 64, True),
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


A100 = DeviceFacts(True, True, "NVIDIA A100")


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process, whatever an earlier test left of accelerate's state and torch's switches."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)
    AcceleratorState._reset_state(reset_partial_state=True)


def launch_on(device: DeviceFacts, config: RunConfig) -> Launch:
    launcher = LauncherChoice(None, None)
    return Launch(device, launcher, *choose_settings(config, device, launcher))


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize(("device", "stays_on"), [(A100, False), (CPU, True)])
def test_cudnn_s_attention_is_off_on_a_gpu(device: DeviceFacts, stays_on: bool) -> None:
    """pytorch #196678: NaN gradients with a mask. accelerate finds no GPU here, which is said."""
    config = RunConfig()
    torch.backends.cuda.matmul.allow_tf32 = True  # as accelerate does for a dynamo backend
    if device.has_gpu:
        with pytest.raises(InputError, match="accelerate made NO on cpu, expected no DeepSpeed on"):
            build_accelerator(config, launch_on(device, config), lambda sentence: None)
    else:
        build_accelerator(config, launch_on(device, config), lambda sentence: None)
        assert not torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    assert torch.backends.cuda.cudnn_sdp_enabled() == stays_on


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize(
    ("device", "offload", "raised"),
    [(A100, True, True), (A100, False, False), (CPU, False, True)],
)
def test_threads_where_the_cpu_works(
    device: DeviceFacts, offload: bool, raised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher sets one thread, also where the optimizer is offloaded to the CPU."""
    shares: list[int] = []
    config = RunConfig()
    config.train.zero_stage, config.train.offload_optimizer = (2 if offload else 0), offload

    def stop(**_: Any) -> None:
        raise KeyboardInterrupt  # before any process group is made

    monkeypatch.setattr(launcher_module, "_use_threads", shares.append)
    monkeypatch.setattr(launcher_module, "Accelerator", stop)
    monkeypatch.setattr(launcher_module, "DeepSpeedPlugin", lambda **_: None)
    monkeypatch.setattr(launcher_module, "_stand_alone_environment", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        build_accelerator(config, launch_on(device, config), lambda sentence: None)
    assert shares == ([1] if raised else [])


def test_fp32_that_is_tf32_is_said() -> None:
    (note,) = environment_notes({"NVIDIA_TF32_OVERRIDE": "1", "NCCL_DEBUG": "INFO"})
    assert "NVIDIA_TF32_OVERRIDE=1" in note
    assert environment_notes({"NVIDIA_TF32_OVERRIDE": "0"}) == []
