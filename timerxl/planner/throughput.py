"""Measure a few real steps on the device at hand: the rate that a table can only assume."""

from __future__ import annotations

import copy
import os
import statistics
import time

import torch

from timerxl.config import OptimConfig
from timerxl.device import uses_gpu
from timerxl.model import TimerXLForClassification
from timerxl.planner.devices import DEVICES, GIB, Device, device_called
from timerxl.planner.solo_rank import SoloRank, run_step, solo_step
from timerxl.planner.timing import Rate
from timerxl.planner.workload import Workload
from timerxl.training.assembly import build_optimizer

NUM_STEPS = 3


def device_at_hand() -> Device:
    """This machine's GPU, or its CPU with the computer's memory."""
    if not uses_gpu():
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        return Device("cpu", memory, {}, is_cpu=True)
    name = torch.cuda.get_device_name()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory, capability = properties.total_memory / GIB, (properties.major, properties.minor)
    known = device_called(name)
    if known is not None:
        return Device(known.name, memory, known.tflops, capability=capability)
    native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    rates = {"bf16": float("nan")} if native_bf16 else {}
    return Device(name, memory, rates, capability=capability)


def calibrate(workload: Workload, precision: str, budget_seconds: float = 30.0) -> Rate:
    """Run the loop's step on random weights and windows of zeros, within about the budget.

    One sample is timed first; the micro-batch is then as large as the recipe's or as the budget
    allows. The median of three steps counts.
    """
    device = device_at_hand()
    kind = "cpu" if device.is_cpu else "cuda"
    train = workload.config.train
    model = TimerXLForClassification._from_config(
        copy.deepcopy(workload.model),
        attn_implementation=workload.config.model.attn_implementation,
    ).to(kind)
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if precision != "fp32":
        half = torch.bfloat16 if precision == "bf16" else torch.float16
        model.forward = torch.autocast(kind, dtype=half)(model.forward)
    step = solo_step(model, SoloRank(build_optimizer(model, OptimConfig()), 1, kind))

    def seconds(batch_size: int) -> float:
        started = time.perf_counter()
        run_step(step, workload.model, batch_size)
        if kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(1)  # AdamW's state, first pages, kernels chosen
    step_seconds, batch_size = seconds(1), 1
    if NUM_STEPS * step_seconds < budget_seconds:
        share = budget_seconds / (NUM_STEPS + 1) / step_seconds
        batch_size = max(1, min(train.batch_size, int(share)))
        seconds(batch_size)
        step_seconds = statistics.median(seconds(batch_size) for _ in range(NUM_STEPS))
    tflops = batch_size * workload.flops_per_sample() / step_seconds / 1e12
    peak = device.tflops.get(precision) if device.name in DEVICES else None
    return Rate(device.name, precision, tflops, peak, tflops / peak if peak else None)
