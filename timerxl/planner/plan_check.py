"""The plan of a run that is about to start, on the machine it starts on."""

from __future__ import annotations

import gc
import os

import torch

from timerxl.config import RunConfig
from timerxl.data.windows import WeatherWindows
from timerxl.planner.communication import INTERCONNECTS
from timerxl.planner.devices import CONTEXT_GIB, EFFICIENCY, GIB
from timerxl.planner.memory import RankMemory
from timerxl.planner.one_gpu import one_gpu
from timerxl.planner.plan_text import duration
from timerxl.planner.throughput import calibrate, device_at_hand
from timerxl.planner.timing import Rate, RunTime, assumed_rate, predict_time
from timerxl.planner.workload import Choice, Workload, data_place, describe_windows, memory_of
from timerxl.training.run_cost import Prediction, RunFacts, peak_memory_gib
from timerxl.training.trainer import NumberNotFinite

CALIBRATION_SECONDS = 2.0


def predict_run(config: RunConfig, windows: WeatherWindows, facts: RunFacts) -> Prediction:
    """Peak memory of this process and time of an epoch; called once the model is built.

    A few steps are measured; on a GPU that has no room for them the device table is asked.
    """
    workload = describe_windows(config, windows)
    choice = Choice(facts.precision, facts.zero_stage)
    device = device_at_hand()
    memory = memory_of(workload, choice, ranks=facts.ranks, on_gpu=facts.is_gpu, device=device)
    rate, basis = _rate(workload, facts)
    time = None
    if rate is not None:
        link = INTERCONNECTS["pcie4"] if facts.is_gpu else None
        time = predict_time(workload, rate, facts.ranks, facts.zero_stage, link)
    peak = _peak_gib(workload, memory, facts)
    summary = _summary(memory, peak, basis, time, facts)
    if facts.ranks == 1 and (alone := one_gpu(workload, choice, device, memory)) is not None:
        summary += f"\nplan: {alone.sentence()}"
    return Prediction(
        peak_memory_gib=peak,
        epoch_seconds=time.train_seconds_per_epoch if time else None,
        summary=summary,
        data_on_device=data_place(workload, memory, device),
    )


def _rate(workload: Workload, facts: RunFacts) -> tuple[Rate | None, str]:
    """The rate and what it rests on; None where it is neither measured nor in the table."""
    measured = "a few steps measured now"
    if not facts.is_gpu:
        return calibrate(workload, facts.precision, CALIBRATION_SECONDS), measured
    try:
        return _calibrate_on_gpu(workload, facts.precision), measured
    # Memory that is short speaks in three ways; fp16 without a scaler may overflow.
    except (torch.OutOfMemoryError, torch.AcceleratorError, NumberNotFinite):
        pass  # whose traceback holds the tensors; they go with it
    _forget_gpu_memory()
    device = device_at_hand()
    peak = device.tflops.get(facts.precision)
    if peak is None or peak != peak:
        return None, ""
    rate = assumed_rate(device, facts.precision)
    basis = f"{EFFICIENCY:.0%} of {peak:g} TFLOP/s assumed: no steps could be measured"
    return rate, basis


def _calibrate_on_gpu(workload: Workload, precision: str) -> Rate:
    """Measured as on a CPU; neither random numbers nor the run's peak memory tell of it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        rate = calibrate(workload, precision, CALIBRATION_SECONDS)
    _forget_gpu_memory()
    return rate


def _forget_gpu_memory() -> None:
    gc.collect()  # a model under autocast refers to itself
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def _peak_gib(workload: Workload, memory: RankMemory, facts: RunFacts) -> float:
    if facts.is_gpu:
        return memory.total_gib - CONTEXT_GIB
    # What this process holds already, the freshly built fp32 model not counted twice.
    with open("/proc/self/statm", encoding="ascii") as numbers:
        resident = int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    built = 4 * workload.num_parameters
    return max(peak_memory_gib(), (resident - built + memory.total) / GIB)


def _summary(
    memory: RankMemory, peak: float, basis: str, time: RunTime | None, facts: RunFacts
) -> str:
    if facts.is_gpu:
        size = torch.cuda.get_device_properties(0).total_memory / GIB
        where = f"{memory.total_gib:.1f} of {size:.1f} GiB on each GPU"
    else:
        where = f"{peak:.2f} GiB resident, {memory.total_gib:.2f} of them for the step"
    if time is None:
        return f"plan: peak about {where}; time unknown for this device."
    return (
        f"plan: peak about {where}; {duration(time.train_seconds_per_epoch)} of training an epoch, "
        f"{duration(time.run_seconds)} in all at most ({basis})."
    )
