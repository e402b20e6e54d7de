"""The best model's folder: weights as save_pretrained writes them, and what inference needs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from timerxl.command_line import EXIT_BAD_INPUT, say
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
    is_storage_error,
    replace_folder,
    space_left,
    sync,
)
from timerxl.training.evaluator import agree
from timerxl.training.run_lock import NO_FILES_OF_A_RUN, RUN_CONFIG, check_run_files
from timerxl.training.tracking import write_status
from timerxl.untrusted import link_problem, read_json

WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"
transformers_logging.disable_progress_bar()  # it would cut through the run's own


def check_output_dir(output_dir: Path) -> None:
    """Raise InputError where :func:`prepare_output_dir` would fail; makes and moves nothing.

    To be called before any long work, by every rank.
    """
    try:
        check_run_files(output_dir)
        if output_dir.is_dir() and not (output_dir / RUN_CONFIG).exists():
            if any(path.name not in NO_FILES_OF_A_RUN for path in output_dir.iterdir()):
                raise InputError(
                    f"output_dir {output_dir} holds files that are not a run's; choose an empty "
                    "folder."
                )
            place = output_dir
        else:
            # An earlier run is renamed in the folder above; a folder that isn't there is made in
            # the nearest one that is.
            absolute = output_dir.absolute()
            place = absolute.parent if output_dir.is_dir() else absolute
            while not place.exists() and not place.is_symlink():
                place = place.parent
        if not place.is_dir():
            raise InputError(
                f"output_dir {output_dir} can't be made: {place} is no folder; choose another."
            )
        # Only a file tells (root passes every check of permissions); this one has no name.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"output_dir {output_dir} can't be written to: {error}") from error


def check_room(output_dir: Path) -> None:
    """As :func:`check_output_dir`, but StorageFailed where the disk is at fault and not the input:
    it is full or broken, or a run that is there can't be written to any more."""
    try:
        check_output_dir(output_dir)
    except InputError as error:
        cause = error.__cause__
        is_known = isinstance(cause, OSError) and (output_dir / RUN_CONFIG).exists()
        if is_known or is_storage_error(cause):
            raise StorageFailed(str(error)) from error
        raise


def prepare_output_dir(output_dir: Path) -> str | None:
    """Make sure that a run can be written to ``output_dir``; returns a sentence to log or None.

    An earlier run found there is moved aside to ``NAME.1``, ``NAME.2``, ...: never deleted, never
    mixed with the new one. Raises InputError where the folder can't be made or written to.
    """
    check_output_dir(output_dir)
    moved = None
    try:
        if (output_dir / RUN_CONFIG).exists():
            number = 1
            while (aside := output_dir.with_name(f"{output_dir.name}.{number}")).exists():
                number += 1
            output_dir.rename(aside)
            moved = f"{output_dir} held an earlier run; it is now {aside}."
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output_dir {output_dir} can't be written to: {error}") from error
    return moved


def note_bad_input(output_dir: Path, reason: str) -> None:
    """Leave status.json with code 2 for a run that never began, where the folder is free for it.

    An earlier run's folder, one with other files and one that can't be written to stay untouched.
    """
    try:
        check_output_dir(output_dir)
    except InputError:
        return  # the reason itself is on stderr
    if not (output_dir / RUN_CONFIG).exists():
        write_status(output_dir, EXIT_BAD_INPUT, reason)


def note_end(output_dir: Path, code: int, reason: str) -> None:
    """status.json as :func:`write_status`; a disk that takes not even that is said."""
    try:
        write_status(output_dir, code, reason)
    except OSError as error:
        say(f"warning: status.json can't be written: {error}", file=sys.stderr)


def write_model(
    model: torch.nn.Module, state: dict[str, Any], folder: Path, extras: dict[str, Any]
) -> None:
    """Weights ``state``, configuration, code and ``extras`` of the unwrapped ``model``.

    Weights are written as fp32 (an exact copy of half-precision ones), so that the folder loads
    and runs on any machine.
    """
    weights = {key: value.float().cpu().contiguous() for key, value in state.items()}
    model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
    # save_pretrained notes the live model's type, not that of the weights it is given.
    settings = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
    write_json(folder / MODEL_CONFIG, settings | {"dtype": "float32"})
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
    """``folder`` as :func:`write_model` has it, with size and SHA-256 of the weights."""
    fresh = fresh_folder(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    write_model(model, state, fresh, extras)
    record = {"weights": file_record(fresh / WEIGHTS)}
    write_preprocessing(fresh, extras | record)
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


def model_problem(folder: Path) -> str | None:
    """What is wrong with a folder of :func:`save_model`, as a clause; None where it is whole."""
    try:
        saved = read_json(folder / PREPROCESSING)
        found = file_record(folder / WEIGHTS)
    except (InputError, OSError) as error:
        return str(error).rstrip(".")
    expected = saved.get("weights") if isinstance(saved, dict) else {}
    if expected is not None and found != expected:
        return f"{WEIGHTS} is damaged: its size or SHA-256 is not that of {PREPROCESSING}"
    return None
