"""What a run tells while it trains: lines of the log, metrics.jsonl, and the trackers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType
from tqdm import tqdm

from timerxl.config import InputError, RunConfig
from timerxl.files import json_ready
from timerxl.training.processes.distributed import agree
from timerxl.untrusted import flat, open_own, plain

PROJECT = "timerxl"


@dataclass
class Log:
    """Log sentences for the reader, each a plain line, from the main process alone."""

    active: bool = True

    def __call__(self, sentence: str) -> None:
        if self.active:
            tqdm.write(plain(sentence), file=sys.stdout)  # above a running bar, not into it
            sys.stdout.flush()


def draw_page(draw: Callable[[Path], object] | None, folder: Path) -> None:
    """Draw the page of the run; a page that can't be drawn is logged and does not end the run."""
    try:
        if draw is not None:
            draw(folder)
    except Exception as error:
        Log()(f"warning: the report was not written: {type(error).__name__}: {error}")


def check_trackers(names: list[str]) -> None:
    """Raise InputError for a tracker that accelerate does not know or that is not installed."""
    known = sorted({str(name) for name in LoggerType} - {"all"})
    for name in names:
        if name not in known:
            raise InputError(f"train.trackers has {name!r}; expected some of {', '.join(known)}.")
        if name not in {str(available) for available in get_available_trackers()}:
            raise InputError(
                f"train.trackers has {name}, which is not installed here; install it into this "
                f"environment (pip install {name}), or leave it out."
            )


def _mlflow(run_id: str) -> dict[str, Any]:
    """Find the MLflow run by our id, which is a tag: MLflow chooses its own ids."""
    import mlflow

    tag = f"{PROJECT}.run_id"
    found = mlflow.search_runs(
        experiment_names=[PROJECT], filter_string=f"tags.`{tag}` = '{run_id}'", output_format="list"
    )
    return {"tags": {tag: run_id}} | ({"run_id": found[0].info.run_id} if found else {})


# How each tracker goes on with the run of this id after a resume; the others begin a new one.
_GO_ON: dict[str, Callable[[str], dict[str, Any]]] = {
    "wandb": lambda run_id: {"id": run_id, "resume": "allow"},
    "comet_ml": lambda run_id: {"experiment_key": run_id, "mode": "get_or_create"},
    "mlflow": _mlflow,
    "swanlab": lambda run_id: {"id": run_id, "resume": "allow"},
    "trackio": lambda run_id: {"name": run_id, "resume": "allow"},
    "dvclive": lambda run_id: {"resume": True},
}


def start_trackers(
    accelerator: Accelerator, config: RunConfig, run_id: str, purge_step: int | None
) -> None:
    """Start ``train.trackers``: project "timerxl", the resolved settings, one run over resumes.

    TensorBoard writes to tensorboard/ in the run's folder; its curves from ``purge_step`` on, which
    an interrupted run wrote after its checkpoint, are hidden. Call on all ranks; raises InputError
    on all of them where a tracker can't be started (no account, no network).
    """
    problem = None
    if accelerator.is_main_process:
        try:
            _start(accelerator, config, run_id, purge_step)
        except Exception as error:  # every tracker has errors of its own
            problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            accelerator.trackers = []
    if problem := agree(accelerator, problem):
        names = ", ".join(config.train.trackers)
        raise InputError(
            f"train.trackers={names} can't be started: {problem}. Log in or set it up, or leave "
            "it out."
        )


def _start(
    accelerator: Accelerator, config: RunConfig, run_id: str, purge_step: int | None
) -> None:
    settings = {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in flat(json_ready(asdict(config))).items()
    }
    others = [name for name in config.train.trackers if name != "tensorboard"]
    accelerator.log_with = [LoggerType(name) for name in others]
    go_on = {name: _GO_ON[name](run_id) for name in others if name in _GO_ON}
    if "wandb" in go_on:
        go_on["wandb"] |= {"name": Path(config.output_dir).name, "dir": config.output_dir}
    if "mlflow" in go_on:
        go_on["mlflow"] |= {"run_name": Path(config.output_dir).name}
    # MLflow refuses a setting that has changed; the run that it goes on with has them already.
    known = {} if "run_id" in go_on.get("mlflow", {}) else settings
    accelerator.init_trackers(PROJECT, known if "mlflow" in go_on else settings, go_on)
    if "tensorboard" in config.train.trackers:
        purge = {} if purge_step is None else {"purge_step": purge_step}
        tracker = TensorBoardTracker("tensorboard", config.output_dir, **purge)
        tracker.start()
        accelerator.trackers.append(tracker)
        if purge_step is None:
            rows = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
            tracker.writer.add_text(f"{PROJECT} settings", f"| key | value |\n|---|---|\n{rows}")


class MetricsLog:
    """Write metrics.jsonl: one JSON object a line, flushed at once, by the main process alone."""

    def __init__(self, path: Path, active: bool):
        self._file = open_own(path, "a") if active else None

    def write(self, event: str, **values: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(json_ready({"event": event, **values})) + "\n")
            self._file.flush()

    def sync(self) -> int:
        """Flush what was written to the disk; return the length in bytes (0 elsewhere)."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
