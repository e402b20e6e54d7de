"""Build the one Accelerator of a run, and tell a lost process from every other error."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    broadcast_object_list,
)

from timerxl.command_line import ForeseenError
from timerxl.config import InputError, RunConfig, TrainConfig, shipped_folder
from timerxl.device import (
    CPU_ON_PURPOSE,
    DeviceFacts,
    device_facts,
    is_true,
    refuse_more_processes_than_gpus,
    refuse_unusable_gpu,
)
from timerxl.training.precision import SettingChoice, choose_precision, choose_zero_stage

DS_CONFIGS = shipped_folder("ds_configs")
_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class LauncherChoice:
    """What the launcher's environment decides; None where it leaves the choice to the recipe.

    ``deepspeed`` is the DeepSpeed config that the launcher named, or {} where it only answered
    ``accelerate config``'s questions: ours of ds_configs/ is taken then.
    """

    precision: str | None
    zero_stage: int | None
    offload_optimizer: bool = False
    deepspeed: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def read_launcher(environment: Mapping[str, str], train: TrainConfig) -> LauncherChoice:
    """Read what ``accelerate launch`` and other launchers put into the environment.

    Raises InputError for what this training does not do, and for what contradicts the recipe:
    nothing of it may change a result in silence.
    """
    _refuse_tasks_without_a_group(environment)
    for name, what in _NOT_SUPPORTED.items():
        if is_true(environment, name):
            raise InputError(
                f"the launcher asks for {what}, which this training does not use; for several GPUs "
                "take accelerate_configs/zero2.yaml (ZeRO-2), or plain data parallelism."
            )
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if mixed not in ("", "no", "bf16", "fp16"):
        raise InputError(
            f"the launcher asks for the precision {mixed}; expected no, bf16 or fp16 "
            "(--mixed_precision, or mixed_precision in its config file)."
        )
    precision = None if mixed in ("", "no") else mixed
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    if steps not in ("auto", str(train.accumulation_steps)):
        raise InputError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {steps} in the environment and "
            f"train.accumulation_steps {train.accumulation_steps} in the recipe: unset the one or "
            f"give train.accumulation_steps={steps}."
        )
    if not is_true(environment, "ACCELERATE_USE_DEEPSPEED"):
        return LauncherChoice(precision, None)
    path = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path == "none":
        return _read_config_answers(environment, precision)
    return _read_config_file(path, precision)


_NOT_SUPPORTED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}


def _refuse_tasks_without_a_group(environment: Mapping[str, str]) -> None:
    """Refuse copies started by srun or mpirun that would each train alone."""
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        return
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if (tasks := environment.get(name, "1")).isdigit() and int(tasks) > 1:
            raise InputError(
                f"{tasks} copies of this command were started ({name}={tasks}), and none knows of "
                "the others (no WORLD_SIZE): start one task per machine that runs torchrun or "
                "accelerate launch, as launch/cluster/slurm.sbatch does."
            )


def _read_config_answers(environment: Mapping[str, str], precision: str | None) -> LauncherChoice:
    """Read DeepSpeed settings from the answers to ``accelerate config``, without a config file of
    DeepSpeed's own."""
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    optimizer = environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
    parameters = environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none")
    _check_zero("the launcher's answers", stage, optimizer, parameters)
    settings: dict[str, Any] = {}
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "auto")
    if clipping not in ("auto", "none"):
        settings["gradient_clipping"] = float(clipping)
    return LauncherChoice(precision, 2, optimizer == "cpu", settings)


def _check_zero(source: str, stage: Any, optimizer: Any, parameters: Any) -> None:
    """Raise InputError for anything but ZeRO-2 with its optimizer on the GPU or the CPU."""
    if str(stage) != "2":
        raise InputError(
            f"{source}: ZeRO stage {stage}; expected 2 (ds_configs/zero2_bf16.json). Stage 3 is "
            "for models that do not fit a GPU, which these do; without ZeRO, launch without "
            "DeepSpeed."
        )
    if optimizer not in ("none", "cpu") or parameters != "none":
        raise InputError(
            f"{source}: offloading of the optimizer to {optimizer}, of parameters to {parameters}; "
            "expected none or cpu for the optimizer and none for parameters."
        )


def _read_config_file(path: str, mixed: str | None) -> LauncherChoice:
    """Read DeepSpeed settings from a config file of its own."""
    source = f"the launcher's DeepSpeed config {path}"
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{source} can't be read: {error}") from error
    sections = ("bf16", "fp16", "zero_optimization", "optimizer", "scheduler")
    if not isinstance(settings, dict) or any(
        not isinstance(settings.get(name, {}), dict) for name in sections
    ):
        raise InputError(f"{source} is no JSON object with objects for {', '.join(sections)}.")
    zero = settings.get("zero_optimization")
    if zero is None:
        raise InputError(
            f'{source} has no zero_optimization; expected "zero_optimization": {{"stage": 2}}, as '
            "in ds_configs/zero2_bf16.json. Without ZeRO, launch without DeepSpeed."
        )
    offloads = {}
    for name in ("offload_optimizer", "offload_param"):
        part = zero.get(name) or {}
        offloads[name] = part.get("device", "none") if isinstance(part, dict) else part
    _check_zero(source, zero.get("stage"), offloads["offload_optimizer"], offloads["offload_param"])
    notes = []
    for name in ("optimizer", "scheduler"):
        if name not in settings:
            continue
        parameters = settings.pop(name).get("params", {})
        if any(value != "auto" for value in parameters.values()):
            raise InputError(
                f"{source} brings its own {name} ({json.dumps(parameters)}); take that section "
                "out: the recipe's optim.* is used, the same with and without DeepSpeed."
            )
        notes.append(f"{name} of {path}: all auto, so the recipe's optim.* is used.")
    enabled = {name: settings.get(name, {}).get("enabled", False) for name in ("bf16", "fp16")}
    chosen = [name for name, value in enabled.items() if value is True]
    if len(chosen) > 1 or (mixed and chosen and chosen != [mixed]):
        asked = f"and --mixed_precision {mixed}" if len(chosen) == 1 else "at once"
        raise InputError(f"{source} enables {' and '.join(chosen)} {asked}; choose one.")
    precision = chosen[0] if chosen else mixed
    if precision is None and "auto" not in enabled.values():
        precision = "fp32"
    offload = offloads["offload_optimizer"] == "cpu"
    if offload:  # torch's AdamW, as without offloading; DeepSpeed's own wants a compiler
        settings["zero_force_ds_cpu_optimizer"] = False
    return LauncherChoice(precision, 2, offload, settings, tuple(notes))


def choose_settings(
    config: RunConfig, device: DeviceFacts, launcher: LauncherChoice
) -> tuple[SettingChoice, SettingChoice]:
    """Choose (precision, ZeRO stage) of the run."""
    return (
        choose_precision(config.train.precision, device, launcher.precision),
        choose_zero_stage(config.train.zero_stage, device, launcher.zero_stage),
    )


def _stand_alone_environment() -> None:
    """Set the environment of a process group of one, which DeepSpeed wants."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in (defaults | {"MASTER_PORT": port}).items():
        os.environ.setdefault(name, value)


def disable_deepspeed_shm_op() -> None:
    """Disable DeepSpeed's shared-memory all-reduce, which it builds with the C++ compiler at its
    first start on a CPU: minutes, for what gloo does as well."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _use_threads(world_size: int) -> None:
    """Give every process of this machine its share of cores; torchrun sets OMP_NUM_THREADS=1.

    Without a launcher OMP_NUM_THREADS is the user's own word, and kept: threads on busy cores wait
    for each other.
    """
    launched = {"LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"} & set(os.environ)
    if "OMP_NUM_THREADS" in os.environ and not launched:
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def rejoin_after_restart(backend: str, timeout: timedelta, log: Callable[[str], None]) -> None:
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


def set_collective_timeout(config: RunConfig) -> None:
    """Apply ``train.collective_timeout_minutes`` to every process group; call it after ``prepare``.

    DeepSpeed makes groups of its own, which wait torch's half an hour whatever the main one does.
    """
    if not torch.distributed.is_initialized():
        return
    groups = torch.distributed.distributed_c10d
    timeout = timedelta(minutes=config.train.collective_timeout_minutes)
    for group in list(groups._world.pg_map):
        groups._set_pg_timeout(timeout, group)


def deepspeed_config_path(precision: str, offload_optimizer: bool) -> Path:
    """Return the file of ds_configs/ for a run in fp32, fp16 or bf16."""
    return DS_CONFIGS / f"zero2_{precision}{'_offload' if offload_optimizer else ''}.json"


def deepspeed_settings(
    launcher: LauncherChoice, precision: str, offload_optimizer: bool
) -> dict[str, Any]:
    """Build DeepSpeed's config: the launcher's file, or ours with what the launcher answered."""
    settings = dict(launcher.deepspeed or {})
    if "zero_optimization" not in settings:
        path = deepspeed_config_path(precision, offload_optimizer)
        settings = json.loads(path.read_text(encoding="utf-8")) | settings
    for name in ("bf16", "fp16"):
        settings[name] = {**settings.get(name, {}), "enabled": name == precision}
    return settings


@dataclass(frozen=True)
class Launch:
    """What device, launcher and recipe decide together, before anything slow begins."""

    device: DeviceFacts
    launcher: LauncherChoice
    precision: SettingChoice
    zero: SettingChoice


def plan_launch(config: RunConfig, environment: Mapping[str, str] = os.environ) -> Launch:
    """Decide device, precision and ZeRO stage.

    Raises InputError where a GPU is there and can't be used, and where the launcher asks for what
    the recipe or this training does not do.
    """
    refuse_unusable_gpu(environment=environment)
    device, launcher = device_facts(environment), read_launcher(environment, config.train)
    if device.has_gpu:
        refuse_more_processes_than_gpus(torch.cuda.device_count(), environment)
    return Launch(device, launcher, *choose_settings(config, device, launcher))


def _clear_stale_ranks() -> None:
    """Remove ranks that an earlier notebook cell or job left: accelerate would wait for the
    others."""
    if "WORLD_SIZE" not in os.environ:
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def _undo_accelerate_defaults(accelerator: Accelerator) -> None:
    """Undo or complete what accelerate changes besides what it is asked for."""
    # With a dynamo backend it allows TF32: fp32 products of 10 bits, in the final scores too.
    torch.backends.cuda.matmul.allow_tf32 = False
    if accelerator.device.type == "cuda" and accelerator.device.index is not None:
        torch.cuda.set_device(accelerator.device)  # not done where ACCELERATE_TORCH_DEVICE chose


def build_accelerator(config: RunConfig, launch: Launch, log: Callable[[str], None]) -> Accelerator:
    """Build the Accelerator with the chosen precision and ZeRO stage.

    Raises InputError where the process group is not what the launcher started: training would
    otherwise run as several independent "main" processes.
    """
    _clear_stale_ranks()
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    device, launcher = launch.device, launch.launcher
    precision, zero = launch.precision, launch.zero
    launched_deepspeed = launcher.zero_stage is not None
    use_deepspeed = zero.value == "2"
    offload = launcher.offload_optimizer if launched_deepspeed else config.train.offload_optimizer
    arguments: dict[str, Any] = {}
    if not device.has_gpu or (use_deepspeed and offload):
        _use_threads(expected)
    if expected > 1 or use_deepspeed:
        timeout = timedelta(minutes=config.train.collective_timeout_minutes)
        # Without a backend, CPU processes under DeepSpeed each believe to be alone.
        backend = "nccl" if device.has_gpu else "gloo"
        rejoin_after_restart(backend, timeout, log)
        group = InitProcessGroupKwargs(backend=backend, timeout=timeout)
        arguments["kwargs_handlers"] = [group]
    if device.has_gpu:
        # Its gradients have been NaN with a mask (pytorch #196678), and torch prefers it on Hopper.
        torch.backends.cuda.enable_cudnn_sdp(False)
    elif use_deepspeed:
        disable_deepspeed_shm_op()
    else:
        arguments["cpu"] = True  # plain torchrun: without it every rank believes to be alone
    if use_deepspeed:
        if not launched_deepspeed:
            _stand_alone_environment()
        # The fields of the launcher's own file were read above; accelerate only refuses them.
        os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
        settings = deepspeed_settings(launcher, precision.value, offload)
        arguments["deepspeed_plugin"] = DeepSpeedPlugin(hf_ds_config=settings)
    accelerator = Accelerator(
        mixed_precision=_ACCELERATE_NAMES[precision.value],
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
    is_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    kind = "cuda" if device.has_gpu else "cpu"
    if is_deepspeed != use_deepspeed or accelerator.device.type != kind:
        raise InputError(
            f"accelerate made {accelerator.distributed_type.value} on {accelerator.device}, "
            f"expected {'DEEPSPEED' if use_deepspeed else 'no DeepSpeed'} on {kind}: unset "
            "ACCELERATE_TORCH_DEVICE, and ask for DeepSpeed or the CPU (ACCELERATE_USE_CPU), not "
            f"both. {CPU_ON_PURPOSE}."
        )
    _undo_accelerate_defaults(accelerator)
    if accelerator.is_main_process:
        log(f"precision {precision.value}: {precision.reason}.")
        for note in (*launcher.notes, precision.skipped, zero.skipped):
            if note:
                log(f"note: {note}")
        log(
            f"{accelerator.num_processes} process(es) on {device.name}, "
            f"{accelerator.distributed_type.value}, ZeRO stage {zero.value}."
        )
        for note in environment_notes(os.environ):
            log(f"warning: {note}")
    return accelerator


def evaluation_accelerator() -> Accelerator:
    """Build an Accelerator for scoring a saved model: fp32 on every process, whatever the
    launcher's precision, DeepSpeed or compilation. Raises InputError where a GPU is there and can't
    be used."""
    refuse_unusable_gpu()
    device = device_facts()
    if device.has_gpu:
        refuse_more_processes_than_gpus(torch.cuda.device_count(), os.environ)
    for name in ("USE_DEEPSPEED", "USE_FSDP", "DYNAMO_BACKEND"):
        os.environ.pop(f"ACCELERATE_{name}", None)
    _clear_stale_ranks()
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(mixed_precision="no", cpu=not device.has_gpu)
    if accelerator.num_processes != expected:
        raise InputError(
            f"the launcher started {expected} processes but accelerate sees "
            f"{accelerator.num_processes}: start them with torchrun or accelerate launch."
        )
    _undo_accelerate_defaults(accelerator)
    return accelerator


def environment_notes(environment: Mapping[str, str]) -> list[str]:
    """List what environment variables change about the numbers."""
    return [
        f"{name}={environment[name]} in the environment lets GPUs compute fp32 products in TF32, "
        "with 10 bits instead of 23: final scores too."
        for name in ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
        if is_true(environment, name)
    ]


def fill_deepspeed(accelerator: Accelerator, config: RunConfig) -> None:
    """Put the recipe's counts where the DeepSpeed config says auto; no-op without DeepSpeed."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    counts = {
        "train_batch_size": config.train.batch_size
        * config.train.accumulation_steps
        * accelerator.num_processes,
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


def agree(accelerator: Accelerator, value: Any) -> Any:
    """Return the main process's ``value`` on every rank: one rank alone must never decide to
    stop."""
    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def agree_on_any(accelerator: Accelerator, wish: bool, number: int) -> tuple[bool, int]:
    """Return (does any rank wish it, the largest number of all), the same on every rank."""
    if accelerator.num_processes == 1:
        return wish, number
    own = torch.tensor([[int(wish), number]], device=accelerator.device)
    wishes = accelerator.gather(own).amax(0).tolist()
    return bool(wishes[0]), int(wishes[1])


# What gloo and NCCL say when the other side is gone or silent; the store has errors of its own.
_SIGNS = re.compile(r"\bgloo\b|\bNCCL\b|connection (closed|reset) by peer|connectFullMesh", re.I)
# Of NCCL's own errors, those of the other side; the rest is this machine's fault (shared memory of
# a container, two ranks on one GPU), and its traceback the best that can be shown.
_NCCL = re.compile(r"\bNCCL error\b")
_NCCL_LOST = re.compile(r"ncclRemoteError|timed? ?out|abort|connection|remote p|peer|closed", re.I)


class PeerLost(ForeseenError):
    """Another process of the run is gone or silent; this one can't go on alone."""


def lost_peer(error: BaseException) -> str | None:
    """Return what the library said, in a line, where ``error`` is a lost contact; else None."""
    distributed = torch.distributed
    named = isinstance(error, distributed.DistError)
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError):
        # A run alone has nobody to lose; nor is it the others where standard output is closed.
        named = int(os.environ.get("WORLD_SIZE", "1")) > 1
    text = str(error).strip()
    if not named and not (type(error) is RuntimeError and _SIGNS.search(text)):
        return None
    cause = " ".join(text.partition("Last error:")[2].split())  # where NCCL says what it was
    if _NCCL.search(text) and not _NCCL_LOST.search(cause or text):
        return None
    said = (text.splitlines() or [type(error).__name__])[0]
    # Without the place in the library's source, and its advice.
    said = re.sub(r"^\[[^]]*\] *", "", said).partition(". This is typically")[0].rstrip(".")
    return f"{said}: {cause.rstrip('.')}." if cause else f"{said}."


@contextmanager
def translate_distributed_errors(when: Callable[[], str], resume_hint: str) -> Iterator[None]:
    """Turn a lost contact in the block into a PeerLost that says ``when`` and how the run goes on;
    let every other error pass."""
    try:
        yield
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        if (said := lost_peer(error)) is None:
            raise
        sentence = f"lost contact with another process {when()}: {said} {resume_hint}"
        raise PeerLost(sentence) from error
