"""Which number format and ZeRO stage a run gets and where its series lies, and why: choices
without side effects."""

from __future__ import annotations

from dataclasses import dataclass

from timerxl.config import InputError
from timerxl.device import DeviceFacts

DATA_MARGIN = 0.1  # of a GPU's memory stays free where the series is put there unasked


@dataclass(frozen=True)
class SettingChoice:
    """A value and the sentence that explains it; ``skipped`` names a setting not followed."""

    value: str
    reason: str
    skipped: str | None = None


def choose_precision(requested: str, device: DeviceFacts, launcher: str | None) -> SettingChoice:
    """Choose the number format. ``requested``: auto, bf16, fp16 or fp32; ``launcher``: what the
    launcher chose, or None.

    auto is bf16 on GPUs that have it natively, fp16 on other GPUs, fp32 on a CPU (where bf16
    products are far slower than fp32 without AMX or AVX512-BF16 kernels). Raises InputError where
    the launcher chose what the device has not.
    """
    if launcher == "bf16" and device.has_gpu and not device.native_bf16:
        raise InputError(
            f"the launcher chose bf16, which {device.name} only emulates: slow, and attention "
            "falls back to one that keeps [batch, heads, tokens, tokens] tensors. With DeepSpeed "
            "give --deepspeed_config_file ds_configs/zero2_fp16.json, without it "
            "--mixed_precision fp16."
        )
    if launcher == "fp16" and not device.has_gpu:
        raise InputError(
            "the launcher chose fp16, which needs a GPU; on a CPU give --mixed_precision no, or "
            "--deepspeed_config_file ds_configs/zero2_fp32.json."
        )
    if launcher is not None:
        skipped = None
        if requested not in ("auto", launcher):
            skipped = f"train.precision={requested} is not followed: the launcher chose {launcher}."
        return SettingChoice(launcher, "chosen by the launcher", skipped)
    if not device.has_gpu:
        if requested == "fp16":
            return SettingChoice(
                "fp32", "no GPU", "train.precision=fp16 needs a GPU; fp32 instead."
            )
        if requested == "bf16":
            return SettingChoice("bf16", "asked for; on a CPU bf16 is slow, fp32 is faster")
        return SettingChoice("fp32", "on a CPU fp32 is fastest")
    if requested in ("auto", "bf16") and not device.native_bf16:
        skipped = None
        if requested == "bf16":
            skipped = (
                f"train.precision=bf16 becomes fp16: {device.name} has no bf16 of its own "
                "(emulation is slow)."
            )
        return SettingChoice("fp16", f"{device.name} has no native bf16", skipped)
    if requested == "auto":
        return SettingChoice("bf16", f"{device.name} has native bf16")
    return SettingChoice(requested, "asked for")


def choose_zero_stage(requested: int, device: DeviceFacts, launcher: int | None) -> SettingChoice:
    """Choose the ZeRO stage. ``launcher``: that of the launcher's DeepSpeed config, or None without
    one."""
    if launcher is not None:
        skipped = None
        if requested != launcher:
            skipped = f"train.zero_stage={requested} is not followed: the launcher chose {launcher}"
        return SettingChoice(str(launcher), "chosen by the launcher", skipped)
    if requested and not device.has_gpu:
        return SettingChoice(
            "0",
            "no GPU",
            f"train.zero_stage={requested} is for GPUs; to run it on CPU processes: "
            "accelerate launch --config_file accelerate_configs/zero2_cpu.yaml ...",
        )
    return SettingChoice(str(requested), "asked for")


def choose_data_place(
    requested: bool | str, series_gib: float, planned_gib: float | None, memory_gib: float | None
) -> SettingChoice:
    """Choose whether the series lies on the device, "true" or "false".

    ``requested``: auto, True or False; ``planned_gib``: peak of the run without the series, None
    where nothing was planned; ``memory_gib``: the GPU's, None on a CPU.
    """
    if requested != "auto":
        return SettingChoice(str(requested).lower(), f"train.data_on_device={requested}")
    if memory_gib is None:
        return SettingChoice("false", "no GPU")
    if planned_gib is None:
        return SettingChoice("false", "the run's memory is not planned")
    fits = series_gib + planned_gib <= (1 - DATA_MARGIN) * memory_gib
    return SettingChoice(
        str(fits).lower(),
        f"{series_gib:.3g} GiB beside {planned_gib:.3g} GiB of the plan "
        f"{'leave' if fits else 'would not leave'} {DATA_MARGIN:.0%} of {memory_gib:.3g} GiB free",
    )
