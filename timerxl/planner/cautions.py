"""What a plan should warn of, each in one line with its numbers."""

from __future__ import annotations

from timerxl.planner.devices import Device
from timerxl.planner.memory import RankMemory
from timerxl.planner.workload import Choice, Workload

LONG_CONTEXT_SHARE = 0.25
IDLE_SHARE = 0.5
OLDEST_CAPABILITY = (7, 5)  # Turing; CUDA 13 left Volta and what is older behind


def cautions(
    workload: Workload,
    devices: list[Device],
    memory: dict[int, RankMemory],
    choices: dict[str, Choice],
) -> list[str]:
    """Sentences, most serious first."""
    found = _context(workload)
    found += dict.fromkeys(text for choice in choices.values() for text in choice.skipped)
    found += _computation(workload, devices, choices)
    found += _idle_memory(workload, devices, memory)
    return found


def _context(workload: Workload) -> list[str]:
    model, share = workload.config.model, workload.context_days / max(workload.series_days, 1e-9)
    if share < LONG_CONTEXT_SHARE:
        return []
    return [
        f"model.context_length={model.context_length} is {workload.context_days:g} days at "
        f"{workload.step_hours:g} h a step, {share:.0%} of the whole series: in every region the "
        "first windows can be issued only after that."
    ]


def _computation(
    workload: Workload, devices: list[Device], choices: dict[str, Choice]
) -> list[str]:
    found = []
    if workload.config.model.attn_implementation == "eager":
        found.append(
            "model.attn_implementation=eager keeps every layer's attention matrix for backward; "
            "sdpa gives the same numbers without them."
        )
    if workload.config.train.compile:
        found.append(
            "train.compile=true is not part of the plan: memory and times are those of layers that "
            "are not compiled."
        )
    for device in devices:
        if device.capability < OLDEST_CAPABILITY:
            found.append(
                f"{device.name} (compute capability {device.capability[0]}.{device.capability[1]}) "
                "can't be used by PyPI's torch 2.13, which is built for CUDA 13: it needs a torch "
                "built for CUDA 12."
            )
        precision = choices[device.name].precision
        half = max((device.tflops.get(name, 0.0) for name in ("fp16", "bf16")), default=0.0)
        full = device.tflops.get("fp32", half)
        if precision == "fp32" and not device.is_cpu and half > 2 * full:
            found.append(
                f"fp32 uses {full:g} of the {half:g} TFLOP/s that {device.name} has in half "
                "precision; train.precision=auto uses them."
            )
    return found


def _idle_memory(
    workload: Workload, devices: list[Device], memory: dict[int, RankMemory]
) -> list[str]:
    most = max(memory.values(), key=lambda item: item.total)
    idle = [
        f"{device.name} ({most.total_gib:.1f} of {device.memory_gib:.1f} GiB)"
        for device in devices
        if not device.is_cpu and most.total_gib < IDLE_SHARE * device.memory_gib
    ]
    if not idle:
        return []
    remedy = "a larger train.batch_size would use it."
    if workload.config.train.gradient_checkpointing:
        remedy = "a larger train.batch_size or train.gradient_checkpointing=false would use it."
    return [f"more than half the memory stays unused on {', '.join(idle)}: {remedy}"]
