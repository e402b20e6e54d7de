"""The best model's folder: weights as save_pretrained writes them, and what inference needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from timerxl.config import InputError
from timerxl.data.preprocessing import PREPROCESSING
from timerxl.files import write_json
from timerxl.model import TimerXLFeatureExtractor, feature_extraction_timerxl
from timerxl.model.convert_openltm import load_saved
from timerxl.model.feature_extraction_timerxl import PREPROCESSOR_CONFIG
from timerxl.training.assembly import bare_model
from timerxl.training.checkpoint.storage import (
    StorageFailed,
    file_record,
    fresh_folder,
    replace_folder,
    space_left,
    sync,
)
from timerxl.training.processes.distributed import agree
from timerxl.untrusted import link_problem, read_json

WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"
transformers_logging.disable_progress_bar()  # it would cut through the run's own


def write_model(
    model: torch.nn.Module,
    state: dict[str, Any],
    folder: Path,
    extras: dict[str, Any],
    *,
    records_weights: bool = False,
) -> None:
    """Write weights ``state``, configuration, code and ``extras`` of the unwrapped ``model``.

    Weights are written as fp32 (an exact copy of half-precision ones), so that the folder loads
    and runs on any machine. With ``records_weights`` their size and SHA-256 join ``extras``.
    """
    weights = {key: value.float().cpu().contiguous() for key, value in state.items()}
    model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
    # save_pretrained notes the live model's type, not that of the weights it is given.
    settings = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
    write_json(folder / MODEL_CONFIG, settings | {"dtype": "float32"})
    if records_weights:
        extras = extras | {"weights": file_record(folder / WEIGHTS)}
    write_preprocessing(folder, extras)
    if (folder / PREPROCESSOR_CONFIG).is_file():
        code = Path(feature_extraction_timerxl.__file__)
        shutil.copyfile(code, folder / code.name)
    # safetensors makes it readable by its owner alone, which a shared folder can't use.
    (folder / WEIGHTS).chmod((folder / MODEL_CONFIG).stat().st_mode & 0o777)


def write_preprocessing(folder: Path, extras: dict[str, Any]) -> None:
    """preprocessing.json and, from the same numbers, the feature extractor's configuration."""
    write_json(folder / PREPROCESSING, extras)
    if "scaling" in extras:  # all of a run's; a model saved without them has no extractor
        extractor = TimerXLFeatureExtractor.from_preprocessing(extras)
        write_json(folder / PREPROCESSOR_CONFIG, extractor.to_dict())


def _replace_model(
    model: torch.nn.Module, state: dict[str, Any], folder: Path, extras: dict[str, Any]
) -> None:
    """Write ``folder`` as :func:`write_model` does, with size and SHA-256 of the weights."""
    fresh = fresh_folder(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    write_model(model, state, fresh, extras, records_weights=True)
    for path in (*fresh.iterdir(), fresh):
        sync(path)
    replace_folder(fresh, folder)


def save_model(
    accelerator: Accelerator, model: torch.nn.Module, folder: Path, extras: dict[str, Any]
) -> None:
    """Replace ``folder`` by the model (see :func:`write_model`), whole or not at all.

    To be called by all ranks; the main process writes. Raises StorageFailed on all of them where
    it can't; what was there before is kept.
    """
    bare = bare_model(accelerator, model)
    state, problem = accelerator.get_state_dict(bare), None
    if accelerator.is_main_process:
        try:
            _replace_model(bare, state, folder, extras)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(fresh_folder(folder), ignore_errors=True)
            problem = f"{folder} can't be written: {error}; {space_left(folder.parent)}."
    if problem := agree(accelerator, problem):
        raise StorageFailed(problem)


def copy_model(source: Path, folder: Path) -> None:
    """Save the model of ``source``, another run's folder, as ``folder``, whole or not at all.

    It is read and written anew: numbers from there, code and the names of classes from this
    package. Raises ValueError where ``source`` holds no model, or a link.
    """
    for name in (WEIGHTS, MODEL_CONFIG, PREPROCESSING):
        if problem := link_problem(source / name):
            raise ValueError(f"{source / name} {problem}, expected a regular file")
    model, extras = load_saved(source), read_json(source / PREPROCESSING)
    if not isinstance(extras, dict):
        raise ValueError(f"{source / PREPROCESSING} holds no mapping")
    _replace_model(model, model.state_dict(), folder, extras)


def load_best(folder: Path, accelerator: Accelerator) -> Any:
    """Read a run's best model, in fp32 and on the CPU; all ranks call this.

    Raises StorageFailed on all of them where the folder is damaged.
    """
    problem = model_problem(folder) if accelerator.is_main_process else None
    if problem := agree(accelerator, problem):
        raise StorageFailed(
            f"the best model in {folder} can't be scored: {problem}. The same command goes on from "
            "the newest checkpoint, without that model."
        )
    return load_saved(folder)


def model_problem(folder: Path) -> str | None:
    """Return what is wrong with a folder of :func:`save_model`, as a clause; None where it is
    whole."""
    try:
        saved = read_json(folder / PREPROCESSING)
        found = file_record(folder / WEIGHTS)
    except (InputError, OSError) as error:
        return str(error).rstrip(".")
    expected = saved.get("weights") if isinstance(saved, dict) else {}
    if expected is not None and found != expected:
        return f"{WEIGHTS} is damaged: its size or SHA-256 is not that of {PREPROCESSING}"
    return None
