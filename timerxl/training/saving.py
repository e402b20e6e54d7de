"""The best model's folder: weights as save_pretrained writes them, and what inference needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from timerxl.config import InputError
from timerxl.training.tracking import write_json

PREPROCESSING = "preprocessing.json"
transformers_logging.disable_progress_bar()  # it would cut through the run's own


def prepare_output_dir(output_dir: Path) -> str | None:
    """Make sure that a run can be written to ``output_dir``; returns a sentence to log or None.

    An earlier run found there is moved aside to ``NAME.1``, ``NAME.2``, ...: never deleted, never
    mixed with the new one. Raises InputError where the folder can't be made or written to.
    """
    moved = None
    try:
        if (output_dir / "config.yaml").exists():
            number = 1
            while (aside := output_dir.with_name(f"{output_dir.name}.{number}")).exists():
                number += 1
            output_dir.rename(aside)
            moved = f"{output_dir} held an earlier run; it is now {aside}."
        elif output_dir.is_dir() and any(p.name != "status.json" for p in output_dir.iterdir()):
            raise InputError(
                f"output_dir {output_dir} holds files that are not a run's; choose an empty folder."
            )
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".write_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output_dir {output_dir} can't be written to: {error}") from error
    return moved


def save_model(
    accelerator: Accelerator, model: torch.nn.Module, folder: Path, extras: dict[str, Any]
) -> None:
    """Replace ``folder`` by the model's weights, configuration, code and ``extras``, whole or not.

    Weights are written as fp32 (an exact copy of half-precision ones), so that the folder loads
    and runs on any machine. To be called by all ranks; the main process writes.
    """
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        unwrapped = accelerator.unwrap_model(model)
        fresh = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        weights = {key: value.float().cpu().contiguous() for key, value in state.items()}
        dtype, unwrapped.config.dtype = unwrapped.config.dtype, torch.float32
        unwrapped.save_pretrained(fresh, state_dict=weights)
        unwrapped.config.dtype = dtype
        write_json(fresh / PREPROCESSING, extras)
        old = folder.with_name(f".{folder.name}.old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_weights(accelerator: Accelerator, model: torch.nn.Module, folder: Path) -> None:
    """Put the saved weights back into the live model, for evaluation."""
    accelerator.wait_for_everyone()
    state = load_file(folder / "model.safetensors")
    accelerator.unwrap_model(model).load_state_dict(state, strict=True)
