"""Build the one Accelerator of a run from what the launcher chose and what the recipe asks."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    InitProcessGroupKwargs,
)

from timerxl.config import InputError, RunConfig
from timerxl.training.precision import (
    Decision,
    DeviceFacts,
    choose_precision,
    choose_zero_stage,
    device_facts,
)

DS_CONFIGS = Path(__file__).resolve().parent.parent.parent / "ds_configs"
_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class LauncherChoice:
    """What the launcher's environment decided; None where it left the choice to the recipe."""

    precision: str | None
    zero_stage: int | None


def read_launcher(environment: dict[str, str]) -> LauncherChoice:
    """Read accelerate's environment variables: a DeepSpeed config, a mixed precision, or none."""
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = None if mixed in ("", "no") else mixed
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() not in ("true", "1"):
        return LauncherChoice(precision, None)
    path = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path == "none":
        stage = int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
        return LauncherChoice(precision, stage)
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"the launcher's DeepSpeed config {path} can't be read: {error}"
        raise InputError(message) from error
    for name in ("bf16", "fp16"):
        if config.get(name, {}).get("enabled") is True:
            precision = name
    return LauncherChoice(precision or "fp32", int(config["zero_optimization"]["stage"]))


def decide(
    config: RunConfig, device: DeviceFacts, launcher: LauncherChoice
) -> tuple[Decision, Decision]:
    """(precision, ZeRO stage) of the run."""
    return (
        choose_precision(config.train.precision, device, launcher.precision),
        choose_zero_stage(config.train.zero_stage, device, launcher.zero_stage),
    )


def _stand_alone_environment() -> None:
    """DeepSpeed wants a process group even for one process that no launcher gave one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (defaults | {"MASTER_PORT": port}).items():
        os.environ.setdefault(name, value)


def _compile_nothing() -> None:
    """DeepSpeed builds a shared-memory all-reduce with the C++ compiler at its first start on a
    CPU: minutes, and a compiler, for two rehearsing processes. gloo does the same without it."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _use_threads(world_size: int) -> None:
    """torchrun sets OMP_NUM_THREADS=1; give every process of this machine its share of cores.

    Without a launcher OMP_NUM_THREADS is the user's own word, and kept: threads on busy cores wait
    for each other.
    """
    launched = {"LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & set(os.environ)
    if "OMP_NUM_THREADS" in os.environ and not launched:
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def _meet_again(backend: str, timeout: timedelta, log: Callable[[str], None]) -> None:
    """Join the process group of a restart by torchrun, which keeps one store for all attempts:
    ranks would find addresses of processes that are dead, and wait for them (pytorch #135712).

    On one machine all ranks know which attempt this is, and meet under its name.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not attempt or not shared or os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1":
        return
    if int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
        log(
            "warning: restarted by torchrun on several machines; where the processes don't find "
            "each other, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun."
        )
        return
    world_size = int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, world_size, False, timeout)
    torch.distributed.init_process_group(
        backend,
        store=torch.distributed.PrefixStore(f"attempt_{attempt}", store),
        rank=int(os.environ["RANK"]),
        world_size=world_size,
        timeout=timeout,
    )


def limit_waiting(config: RunConfig) -> None:
    """``train.collective_timeout_minutes`` for every process group there is; after ``prepare``.

    DeepSpeed makes groups of its own, which wait torch's half an hour whatever the main one does.
    """
    if not torch.distributed.is_initialized():
        return
    groups = torch.distributed.distributed_c10d
    timeout = timedelta(minutes=config.train.collective_timeout_minutes)
    for group in list(groups._world.pg_map):
        groups._set_pg_timeout(timeout, group)


def deepspeed_config_path(precision: str, offload_optimizer: bool) -> Path:
    """The file of ds_configs/ for a run in fp32, fp16 or bf16."""
    return DS_CONFIGS / f"zero2_{precision}{'_offload' if offload_optimizer else ''}.json"


def build_accelerator(config: RunConfig, log: Callable[[str], None]) -> Accelerator:
    """Accelerator with the chosen precision and ZeRO stage.

    Raises InputError where the process group is not what the launcher started: training would
    otherwise run as several independent "main" processes.
    """
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    device = device_facts()
    launcher = read_launcher(dict(os.environ))
    precision, zero = decide(config, device, launcher)
    launched_deepspeed = launcher.zero_stage is not None
    arguments: dict[str, Any] = {}
    if not device.has_gpu:
        _use_threads(expected)
    if expected > 1 or zero.value == "2":
        timeout = timedelta(minutes=config.train.collective_timeout_minutes)
        # Without a backend, CPU processes under DeepSpeed each believe to be alone.
        backend = "nccl" if device.has_gpu else "gloo"
        _meet_again(backend, timeout, log)
        group = InitProcessGroupKwargs(backend=backend, timeout=timeout)
        arguments["kwargs_handlers"] = [group]
    if not device.has_gpu and (launched_deepspeed or zero.value == "2"):
        _compile_nothing()
    if zero.value == "2" and not launched_deepspeed:
        _stand_alone_environment()
        path = deepspeed_config_path(precision.value, config.train.offload_optimizer)
        arguments["deepspeed_plugin"] = DeepSpeedPlugin(hf_ds_config=str(path))
    elif not launched_deepspeed:
        arguments["mixed_precision"] = _ACCELERATE_NAMES[precision.value]
    accelerator = Accelerator(
        gradient_accumulation_steps=config.train.accumulation_steps,
        log_with=list(config.train.trackers) or None,
        project_dir=config.output_dir,
        step_scheduler_with_optimizer=False,
        **arguments,
    )
    if accelerator.num_processes != expected:
        raise InputError(
            f"the launcher started {expected} processes but accelerate sees "
            f"{accelerator.num_processes}; on CPUs use accelerate_configs/zero2_cpu.yaml, or "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N launch/train.py ..."
        )
    if accelerator.is_main_process:
        log(f"precision {precision.value}: {precision.reason}.")
        for decision in (precision, zero):
            if decision.skipped:
                log(f"note: {decision.skipped}")
        log(
            f"{accelerator.num_processes} process(es) on {device.name}, "
            f"{accelerator.distributed_type.value}, ZeRO stage {zero.value}."
        )
    return accelerator


def fill_deepspeed(accelerator: Accelerator, config: RunConfig) -> None:
    """Put the recipe's counts where the DeepSpeed config says auto; no-op without DeepSpeed."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    counts = {
        "train_micro_batch_size_per_gpu": config.train.batch_size,
        "gradient_accumulation_steps": config.train.accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm,
    }
    for key, value in counts.items():
        # accelerate fills accumulation in with 1 where nothing is said.
        unset = {"auto", value} | ({1} if key == "gradient_accumulation_steps" else set())
        if (found := settings.get(key, "auto")) not in unset:
            raise InputError(
                f"{key} is {found} in the DeepSpeed config and {value} in the recipe; "
                "write auto in the DeepSpeed config."
            )
        settings[key] = value
