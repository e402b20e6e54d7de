"""What ``launch/plan.py`` is asked, and the answer as JSON or as one screen of text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from timerxl.command_line import say
from timerxl.config import InputError, RunConfig
from timerxl.evaluation.tables import print_table
from timerxl.files import json_ready
from timerxl.planner import plan_text as text
from timerxl.planner.communication import parse_interconnects
from timerxl.planner.devices import DEFAULT_DEVICES, Device, parse_devices, parse_size_gib
from timerxl.planner.fit import Fit, find_fit
from timerxl.planner.ladder import memory_ladder
from timerxl.planner.plan import Plan, make_plan
from timerxl.planner.throughput import calibrate, device_at_hand
from timerxl.planner.workload import read_workload

DEFAULT_INTERCONNECT = "pcie4"


@dataclass(frozen=True)
class Request:
    """The command line, not yet read: None where nothing was said."""

    configs: list[RunConfig]
    gpus: str = "1"
    devices: list[str] | None = None
    interconnects: str | None = None
    fit: str | None = None
    calibrate: bool = False


@dataclass
class Answer:
    """Plans by recipe, and what would fit where."""

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

    def print(self) -> None:
        """One screen for a plan; for a comparison the table alone and the warnings."""
        if len(self.plans) > 1:
            print_table(text.comparison_table(self.plans, self.settings))
        else:
            (plan,) = self.plans.values()
            say(*text.heading(plan))
            print_table(text.memory_table(plan))
            if plan.times:
                print_table(text.time_table(plan.times, plan.workload.config.train.epochs))
            else:
                say("time: not known for this device; --calibrate measures it.")
            if plan.scaling:
                print_table(text.scaling_table(plan))
            if plan.one_gpu is not None:
                say(plan.one_gpu.sentence())
            if not plan.devices[0].is_cpu:
                rungs = memory_ladder(plan.workload)
                print_table(text.ladder_table(rungs, plan.workload.config.recipe))
        for fit, limit, where in self.fits:
            say(*text.fit_lines(fit, limit, where))
        for name, plan in self.plans.items():
            for sentence in plan.warnings:
                say(f"warning: {f'{name}: ' if len(self.plans) > 1 else ''}{sentence}")


def answer(request: Request) -> Answer:
    """Plan every recipe of the request. Raises InputError on what can't be planned."""
    gpus = _gpus(request.gpus)
    devices = _devices(request)
    if any(device.is_cpu for device in devices) and gpus != [1]:
        raise InputError(
            f"--gpus {request.gpus}: this machine's CPU is one device; leave --gpus out."
        )
    if len(request.configs) > 1 and request.fit is not None:
        raise InputError("--fit is for one recipe; give --config NAME instead of --compare.")
    names = [config.recipe for config in request.configs]
    if len(set(names)) < len(names):
        raise InputError(f"--compare {','.join(names)}: recipes of one name can't be told apart.")
    given = request.interconnects or (DEFAULT_INTERCONNECT if max(gpus) > 1 else "")
    links = parse_interconnects(given)
    limit = parse_size_gib(request.fit, "--fit") if request.fit is not None else None
    measure = calibrate if request.calibrate else None
    plans = {}
    for config in request.configs:
        workload = read_workload(config)
        plans[config.recipe] = make_plan(workload, devices, gpus, links, measure)
    answered = Answer(plans, differing_settings(request.configs))
    if len(plans) == 1:
        (plan,) = plans.values()
        answered.fits = _fits(plan, gpus, limit)
    return answered


def _fits(plan: Plan, gpus: list[int], limit: float | None) -> list[tuple[Fit | None, float, str]]:
    """For ``--fit``, or for the first device and number of GPUs that the plan does not fit."""
    name, first = plan.workload.config.recipe, plan.devices[0]
    if limit is not None:
        return [
            (find_fit(plan.workload, first, limit, n), limit, f"{name} on {n} GPU{'s' * (n > 1)}")
            for n in gpus
        ]
    for n in gpus:
        for device in plan.devices:
            if not plan.fits(n, device):
                where = f"{name} on {n} {device.name}"
                fit = find_fit(plan.workload, device, device.memory_gib, n)
                return [(fit, device.memory_gib, where)]
    return []


def _gpus(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise InputError(f"--gpus {text}: expected numbers from 1 on, such as 1,2,4,8.")
    return list(dict.fromkeys(found))


def _devices(request: Request) -> list[Device]:
    asked = request.devices
    if request.calibrate:
        here = device_at_hand()
        if asked and asked != [here.name]:
            raise InputError(
                f"--calibrate measures the device at hand, {here.name}; leave --device out."
            )
        return [here]
    if asked is not None and [name.lower() for name in asked] == ["cpu"]:
        here = device_at_hand()
        if not here.is_cpu:
            raise InputError(f"--device cpu: this machine would train on its GPU, {here.name}.")
        return [here]
    return parse_devices(asked or [DEFAULT_DEVICES])


def differing_settings(configs: list[RunConfig]) -> list[tuple[str, list[Any]]]:
    """(dotted key, value per recipe) of every setting that is not the same in all recipes."""
    flat = [dict(_flatten(asdict(config))) for config in configs]
    keys = [key for key in flat[0] if key not in ("recipe", "output_dir")]
    return [
        (key, [values[key] for values in flat])
        for key in keys
        if len({str(values[key]) for values in flat}) > 1
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
