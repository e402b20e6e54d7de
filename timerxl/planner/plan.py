"""The plan of a run: memory per GPU, time, communication and warnings, as one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from timerxl.config import InputError
from timerxl.planner.cautions import cautions
from timerxl.planner.communication import Interconnect, Scaling
from timerxl.planner.devices import GIB, Device
from timerxl.planner.memory import RankMemory
from timerxl.planner.one_gpu import OneGpu, one_gpu
from timerxl.planner.timing import (
    Rate,
    RunTime,
    assumed_rate,
    predict_scaling,
    predict_time,
)
from timerxl.planner.workload import Choice, Workload, choose, memory_of


@dataclass(frozen=True)
class Plan:
    """All numbers of a plan; ``memory`` has an entry per number of GPUs."""

    workload: Workload
    devices: list[Device]
    choices: dict[str, Choice]
    memory: dict[int, RankMemory]
    times: list[RunTime]
    scaling: list[Scaling] = field(default_factory=list)
    one_gpu: OneGpu | None = None
    warnings: list[str] = field(default_factory=list)

    def fits(self, gpus: int, device: Device) -> bool:
        return self.memory[gpus].total_gib <= device.memory_gib

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints; sizes in GiB, times in seconds and hours."""
        workload = self.workload
        return {
            "recipe": workload.config.recipe,
            "is_synthetic": workload.is_synthetic,
            "params": workload.num_parameters,
            "tokens_per_sample": workload.tokens_per_sample,
            "context_days": workload.context_days,
            "flops_per_sample": workload.flops_per_sample(),
            "forward_flops_per_sample": workload.flops_per_sample(training=False),
            "windows": workload.windows,
            "precision": {name: choice.precision for name, choice in self.choices.items()},
            "zero_stage": next(iter(self.choices.values())).zero_stage,
            "per_gpu": [self._per_gpu(gpus) for gpus in self.memory],
            "time": [_time(time) for time in self.times],
            "scaling": [asdict(item) for item in self.scaling],
            "one_gpu": self.one_gpu.to_dict() if self.one_gpu else None,
            "warnings": self.warnings,
        }

    def _per_gpu(self, gpus: int) -> dict[str, Any]:
        memory = self.memory[gpus]
        parts = {
            f"{name}_gib": getattr(memory, name) / GIB
            for name in (
                "weights gradients optimizer activations buffers context total temporary buckets "
                "series workspaces attention_workspace cublas_workspace gradients_complete host"
            ).split()
        }
        return {
            "gpus": gpus,
            **parts,
            "fits": {device.name: self.fits(gpus, device) for device in self.devices},
            "margin_gib": {d.name: d.memory_gib - memory.total_gib for d in self.devices},
        }


def make_plan(
    workload: Workload,
    devices: list[Device],
    gpus: list[int],
    interconnects: list[Interconnect],
    measure: Callable[[Workload, str], Rate] | None = None,
) -> Plan:
    """Plan the run on each number of GPUs of each device.

    ``measure`` gives the rate of the device at hand (``--calibrate``); without it the table's peak
    rate times the assumed efficiency counts. The first interconnect is the one times are for.
    Raises InputError where one step of all GPUs would need more windows than there are.
    """
    for count in gpus:
        if count > 1 and (size := workload.global_batch(count)) > workload.windows["train"]:
            raise InputError(
                f"--gpus {count}: a step would take train.batch_size x train.accumulation_steps x "
                f"GPUs = {size:,} windows, the training split has {workload.windows['train']:,}; "
                "lower one of them."
            )
    choices = {device.name: choose(workload, device) for device in devices}
    first = devices[0]
    memory = {
        count: memory_of(
            workload,
            choices[first.name],
            ranks=count,
            on_gpu=not first.is_cpu,
            device=first,
        )
        for count in gpus
    }
    rates = {}
    for device in devices:
        precision = choices[device.name].precision
        if measure is not None:
            rates[device.name] = measure(workload, precision)
        elif not device.is_cpu:
            rates[device.name] = assumed_rate(device, precision)
    link = interconnects[0] if interconnects else None
    times = [
        predict_time(workload, rate, count, choices[name].zero_stage, link)
        for name, rate in rates.items()
        for count in gpus
    ]
    spread = [
        predict_scaling(workload, rates[first.name], n, choices[first.name].zero_stage, item)
        for item in interconnects
        for n in gpus
        if n > 1 and first.name in rates
    ]
    alone = None
    if 1 in memory:
        alone = one_gpu(workload, choices[first.name], first, memory[1])
    plan = Plan(workload, devices, choices, memory, times, spread, alone)
    plan.warnings.extend(cautions(workload, devices, plan.memory, plan.choices))
    return plan


def _time(time: RunTime) -> dict[str, Any]:
    return {
        "device": time.rate.device,
        "gpus": time.gpus,
        "precision": time.rate.precision,
        "peak_tflops": time.rate.peak_tflops,
        "efficiency": time.rate.efficiency,
        "tflops": time.rate.tflops,
        "samples_per_s": time.samples_per_s,
        "steps_per_epoch": time.steps_per_epoch,
        "num_steps": time.num_steps,
        "train_seconds_per_epoch": time.train_seconds_per_epoch,
        "evaluation_seconds_per_epoch": time.evaluation_seconds_per_epoch,
        "hours_per_epoch": (time.train_seconds_per_epoch + time.evaluation_seconds_per_epoch)
        / 3600,
        "hours_per_run": time.run_seconds / 3600,
    }
