"""The plan of a run: memory per GPU, time, communication and warnings, as one object.

:func:`answer` is what ``launch/plan.py`` asks, :func:`predict_run` what a run asks that is about to
start, on the machine it starts on.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from timerxl.config import InputError, RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.files import json_ready
from timerxl.planner.devices import (
    CONTEXT_GIB,
    DEFAULT_DEVICES,
    DEFAULT_INTERCONNECT,
    EFFICIENCY,
    GIB,
    INTERCONNECTS,
    Device,
    Interconnect,
    device_at_hand,
    parse_devices,
    parse_interconnects,
    parse_size_gib,
)
from timerxl.planner.memory import (
    Fit,
    OneGpu,
    RankMemory,
    data_place,
    find_fit,
    memory_of,
    one_gpu,
)
from timerxl.planner.throughput import (
    Rate,
    RunTime,
    Scaling,
    assumed_rate,
    calibrate,
    duration,
    predict_scaling,
    predict_time,
)
from timerxl.planner.workload import Choice, Workload, choose, describe_windows, read_workload
from timerxl.training.run_cost import Prediction, RunFacts, peak_memory_gib
from timerxl.training.trainer import NumberNotFinite
from timerxl.untrusted import flat

LONG_CONTEXT_SHARE = 0.25  # of the series
IDLE_SHARE = 0.5  # of a GPU's memory
OLDEST_CAPABILITY = (7, 5)  # Turing; CUDA 13 left Volta and what is older behind
CALIBRATION_SECONDS = 2.0  # at the start of a run


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
            "train_labels": workload.train_labels,
            "precision": {name: choice.precision for name, choice in self.choices.items()},
            "zero_stage": next(iter(self.choices.values())).zero_stage,
            "per_gpu": [self._memory_dict(gpus) for gpus in self.memory],
            "time": [_time_dict(time) for time in self.times],
            "scaling": [asdict(item) for item in self.scaling],
            "one_gpu": asdict(self.one_gpu) if self.one_gpu else None,
            "warnings": self.warnings,
        }

    def _memory_dict(self, gpus: int) -> dict[str, Any]:
        memory = self.memory[gpus]
        names = (
            "weights gradients optimizer activations buffers context total temporary buckets "
            "series average workspaces attention_workspace cublas_workspace gradients_complete host"
        ).split()
        return {
            "gpus": gpus,
            **{f"{name}_gib": getattr(memory, name) / GIB for name in names},
            "fits": {device.name: self.fits(gpus, device) for device in self.devices},
            "margin_gib": {d.name: d.memory_gib - memory.total_gib for d in self.devices},
        }


def _time_dict(time: RunTime) -> dict[str, Any]:
    seconds = time.train_seconds_per_epoch + time.evaluation_seconds_per_epoch
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
        "hours_per_epoch": seconds / 3600,
        "hours_per_run": time.run_seconds / 3600,
    }


@dataclass
class Answer:
    """Plans by recipe, the settings they differ in, and (what would fit, GiB, where)."""

    plans: dict[str, Plan]
    settings: list[tuple[str, list[Any]]] = field(default_factory=list)
    fits: list[tuple[Fit | None, float, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """One object: a plan, or ``plans`` and ``settings`` of a comparison."""
        if len(self.plans) > 1:
            plans = {name: plan.to_dict() for name, plan in self.plans.items()}
            return dict(json_ready({"settings": dict(self.settings), "plans": plans}))
        (plan,) = self.plans.values()
        found = [
            {
                "limit_gib": limit,
                "where": where,
                "overrides": fit.overrides if fit else None,
                "total_gib": fit.memory.total_gib if fit else None,
            }
            for fit, limit, where in self.fits
        ]
        return dict(json_ready(plan.to_dict() | {"fit": found}))


def answer(
    configs: list[RunConfig],
    *,
    gpus: str = "1",
    devices: list[str] | None = None,
    interconnects: str | None = None,
    fit: str | None = None,
    measure: bool = False,
) -> Answer:
    """Plan every recipe as the command line says. Raises InputError on what can't be planned."""
    counts = _parse_gpus(gpus)
    chosen = _parse_devices(devices, measure)
    if chosen[0].is_cpu and counts != [1]:
        raise InputError(f"--gpus {gpus}: this machine's CPU is one device; leave --gpus out.")
    if len(configs) > 1 and fit is not None:
        raise InputError("--fit is for one recipe; give --config NAME instead of --compare.")
    names = [config.recipe for config in configs]
    if len(set(names)) < len(names):
        raise InputError(f"--compare {','.join(names)}: recipes of one name can't be told apart.")
    links = parse_interconnects(interconnects or (DEFAULT_INTERCONNECT if max(counts) > 1 else ""))
    limit = parse_size_gib(fit, "--fit") if fit is not None else None
    plans = {
        config.recipe: make_plan(
            read_workload(config), chosen, counts, links, calibrate if measure else None
        )
        for config in configs
    }
    fits = [] if len(plans) > 1 else _find_fits(plans[names[0]], counts, limit)
    return Answer(plans, differing_settings(configs), fits)


def _parse_gpus(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"--gpus {text}: expected numbers from 1 on, such as 1,2,4,8.")
    return list(dict.fromkeys(found))


def _parse_devices(asked: list[str] | None, measure: bool) -> list[Device]:
    only_cpu = asked is not None and [name.lower() for name in asked] == ["cpu"]
    if not measure and not only_cpu:
        return parse_devices(asked or [DEFAULT_DEVICES])
    here = device_at_hand()
    if measure and asked and asked != [here.name]:
        raise InputError(
            f"--calibrate measures the device at hand, {here.name}; leave --device out."
        )
    if only_cpu and not here.is_cpu:
        raise InputError(f"--device cpu: this machine would train on its GPU, {here.name}.")
    return [here]


def _find_fits(
    plan: Plan, gpus: list[int], limit: float | None
) -> list[tuple[Fit | None, float, str]]:
    """For ``--fit``, or for the first number of GPUs and device that the plan does not fit."""
    name, first = plan.workload.config.recipe, plan.devices[0]
    if limit is not None:
        return [
            (find_fit(plan.workload, first, limit, n), limit, f"{name} on {n} GPU{'s' * (n > 1)}")
            for n in gpus
        ]
    for n in gpus:
        for device in plan.devices:
            if not plan.fits(n, device):
                fit = find_fit(plan.workload, device, device.memory_gib, n)
                return [(fit, device.memory_gib, f"{name} on {n} {device.name}")]
    return []


def differing_settings(configs: list[RunConfig]) -> list[tuple[str, list[Any]]]:
    """(dotted key, value per recipe) of every setting that is not the same in all recipes."""
    settings = [flat(asdict(config)) for config in configs]
    return [
        (key, [values[key] for values in settings])
        for key in settings[0]
        if key not in ("recipe", "output_dir")
        and len({str(values[key]) for values in settings}) > 1
    ]


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
    choice = choices[first.name]
    memory = {count: memory_of(workload, choice, first, count) for count in gpus}
    rates = {}
    for device in devices:
        precision = choices[device.name].precision
        if measure is not None:
            rates[device.name] = measure(workload, precision)
        elif not device.is_cpu:
            rates[device.name] = assumed_rate(device, precision)
    link = interconnects[0] if interconnects else None
    return Plan(
        workload,
        devices,
        choices,
        memory,
        times=[
            predict_time(workload, rate, count, choices[name].zero_stage, link)
            for name, rate in rates.items()
            for count in gpus
        ],
        scaling=[
            predict_scaling(workload, rates[first.name], count, choice.zero_stage, item)
            for item in interconnects
            for count in gpus
            if count > 1 and first.name in rates
        ],
        one_gpu=one_gpu(workload, choice, first, memory[1]) if 1 in memory else None,
        warnings=[
            *warnings_of(workload, devices, memory, choices),
            *(
                f"the measured steps took {rate.slowdown:.1f} times as long beside what else runs "
                "on this machine; the times are those without it."
                for rate in rates.values()
                if rate.is_busy
            ),
        ],
    )


def warnings_of(
    workload: Workload,
    devices: list[Device],
    memory: dict[int, RankMemory],
    choices: dict[str, Choice],
) -> list[str]:
    """Sentences of one line with their numbers, most serious first."""
    model, train, found = workload.config.model, workload.config.train, []
    share = workload.context_days / max(workload.series_days, 1e-9)
    if share >= LONG_CONTEXT_SHARE:
        found.append(
            f"model.context_length={model.context_length} is {workload.context_days:g} days at "
            f"{workload.step_hours:g} h a step, {share:.0%} of the whole series: in every region "
            "the first windows can be issued only after that."
        )
    found += dict.fromkeys(text for choice in choices.values() for text in choice.skipped)
    if model.attn_implementation == "eager":
        found.append(
            "model.attn_implementation=eager keeps every layer's attention matrix for backward; "
            "sdpa gives the same numbers without them."
        )
    if train.compile:
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
        half = max((device.tflops.get(name, 0.0) for name in ("fp16", "bf16")), default=0.0)
        full = device.tflops.get("fp32", half)
        is_fp32 = choices[device.name].precision == "fp32"
        if is_fp32 and not device.is_cpu and half > 2 * full:
            found.append(
                f"fp32 uses {full:g} of the {half:g} TFLOP/s that {device.name} has in half "
                "precision; train.precision=auto uses them."
            )
    most = max(item.total_gib for item in memory.values())
    idle = [
        f"{device.name} ({most:.1f} of {device.memory_gib:.1f} GiB)"
        for device in devices
        if not device.is_cpu and most < IDLE_SHARE * device.memory_gib
    ]
    if idle:
        also = " or train.gradient_checkpointing=false" if train.gradient_checkpointing else ""
        found.append(
            f"more than half the memory stays unused on {', '.join(idle)}: a larger "
            f"train.batch_size{also} would use it."
        )
    return found


def predict_run(config: RunConfig, windows: WeatherWindows, facts: RunFacts) -> Prediction:
    """Peak memory of this process and time of an epoch; called once the model is built.

    A few steps are measured; on a GPU that has no room for them the device table is asked.
    """
    workload = describe_windows(config, windows)
    choice, device = Choice(facts.precision, facts.zero_stage), device_at_hand()
    memory = memory_of(workload, choice, device, facts.ranks)
    rate, basis = _rate_at_start(workload, facts)
    if facts.is_gpu:
        peak = memory.total_gib - CONTEXT_GIB
        size = torch.cuda.get_device_properties(0).total_memory / GIB
        summary = f"plan: peak about {memory.total_gib:.1f} of {size:.1f} GiB on each GPU; "
    else:
        # What this process holds already, the freshly built fp32 model and its average not twice.
        with open("/proc/self/statm", encoding="ascii") as numbers:
            resident = int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        built = 4 * workload.num_parameters + memory.average
        peak = max(peak_memory_gib(), (resident - built + memory.total) / GIB)
        summary = (
            f"plan: peak about {peak:.2f} GiB resident, {memory.total_gib:.2f} of them for the "
            "step; "
        )
    epoch_seconds = None
    if rate is None:
        summary += "time unknown for this device."
    else:
        link = INTERCONNECTS[DEFAULT_INTERCONNECT] if facts.is_gpu else None
        time = predict_time(workload, rate, facts.ranks, facts.zero_stage, link)
        epoch_seconds = time.train_seconds_per_epoch
        summary += (
            f"{duration(epoch_seconds)} of training an epoch, {duration(time.run_seconds)} in all "
            f"at most ({basis})."
        )
    if facts.ranks == 1 and (saved := one_gpu(workload, choice, device, memory)) is not None:
        summary += f"\nplan: {saved.sentence()}"
    return Prediction(peak, epoch_seconds, summary, data_place(workload, memory, device))


def _rate_at_start(workload: Workload, facts: RunFacts) -> tuple[Rate | None, str]:
    """The rate and what it rests on; None where it is neither measured nor in the table."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    rate = None
    try:
        # Neither random numbers nor the run's peak memory tell of the measured steps.
        with torch.random.fork_rng(devices):
            rate = calibrate(workload, facts.precision, CALIBRATION_SECONDS)
    # Memory that is short speaks in three ways; fp16 without a scaler may overflow.
    except (torch.OutOfMemoryError, torch.AcceleratorError, NumberNotFinite):
        if not facts.is_gpu:
            raise
    if facts.is_gpu:
        gc.collect()  # a model under autocast refers to itself
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if rate is not None:
        basis = "a few steps measured now"
        if rate.is_busy:
            basis += f"; {rate.slowdown:.1f} times as long beside what else runs on this machine"
        return rate, basis
    device = device_at_hand()
    peak = device.tflops.get(facts.precision)
    if peak is None or peak != peak:
        return None, ""
    basis = f"{EFFICIENCY:.0%} of {peak:g} TFLOP/s assumed: no steps could be measured"
    return assumed_rate(device, facts.precision), basis
