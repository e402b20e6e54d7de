"""A run read to be published: strictly, and free of what is private. Says why one can't be."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd

from timerxl.command_line import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from timerxl.config import InputError
from timerxl.data.columns_known import records_problem
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing
from timerxl.hub import shapes
from timerxl.hub.allowed import FILES, OURS, keep, label_text, said_again, stop_words
from timerxl.hub.privacy import Scrubber, names_of, secrets_here
from timerxl.model.convert_openltm import load_saved
from timerxl.report.run_folder import NOT_FORECASTS, UNREADABLE, get, read_forecasts
from timerxl.training.references import TITLES
from timerxl.training.run_lock import METRICS, RUN_FILES
from timerxl.untrusted import check_own_files, link_problem, misfit, read_json, read_yaml, reason

Content = dict[str, Any]
WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"
MOST_EVENTS_BYTES, MOST_LINE_BYTES = 2**30, 2**22
FORECASTS, PAGE = "forecasts.parquet", Path("report") / "index.html"
FINISHED, FAILED, STOPPED = EXIT_OK, EXIT_FAILED, EXIT_STOPPED
RUNNING = "running"  # the reason in status.json of a run under way


@dataclass(frozen=True)
class Record:
    """What the files of a run say, scrubbed; {} or None is "not there".

    Each content is what :mod:`timerxl.hub.allowed` lists of it; ``left_out`` names the rest.
    ``name`` is the run folder's, ``folder`` where its files are read from (of a run under way a
    copy), ``model_folder`` the weights to publish, ``outcome`` one of finished, stopped, failed,
    running, with ``reason``.
    """

    name: str
    folder: Path
    model_folder: Path
    outcome: str
    reason: str
    scrubber: Scrubber
    config: Content
    model_config: Content
    preprocessing: Content
    results: Content
    verdict: Content
    environment: Content
    audit: Content
    left_out: tuple[str, ...] = ()
    events: list[Content] = field(default_factory=list)
    forecasts: pd.DataFrame | None = None

    @property
    def is_synthetic(self) -> bool:
        return bool(self.preprocessing.get("is_synthetic"))

    @property
    def step(self) -> int | None:
        """Of the weights."""
        found: int | None = self.preprocessing.get("step") or self.preprocessing.get("best_step")
        return found

    @property
    def is_checkpoint(self) -> bool:
        """The weights are those at the stop, not the best of the run."""
        return self.model_folder.name != "model"

    @property
    def is_contaminated(self) -> bool:
        """The test split was scored at every evaluation."""
        asked = get(self.config, "eval", "test_every_epoch")
        return bool(asked or self.last("test_every_epoch"))

    def last(self, kind: str) -> Content:
        """The last event of a kind in metrics.jsonl, {} where there is none."""
        return next((event for event in reversed(self.events) if event.get("event") == kind), {})


def read_record(
    folder: Path, force: bool = False, under_way: bool = False, named: Path | None = None
) -> Record:
    """Read the run in ``folder``, whose own place is ``named`` where this is a copy.

    Raises InputError where there is no run, where a file of it is damaged, and where it must not be
    published: without results; stopped or failed without ``force``. ``under_way`` lets a run pass
    that is still training, and with ``force`` one that failed without results.
    """
    own = named or folder
    check_own_files(folder, RUN_FILES, ())  # a link would be followed, and what it leads to be sent
    if not folder.is_dir() or not (folder / "config.yaml").is_file():
        raise InputError(
            f"--run {own} is no run folder: "
            + ("it holds no config.yaml." if folder.is_dir() else "there's no such folder.")
            + " Expected one as launch/train.py writes it, such as runs/quickstart."
        )
    status = _json(folder / "status.json", {})
    results = _json(folder / "results.json", shapes.RESULTS)
    outcome, reason = _outcome(own, status, bool(results), force, under_way)
    model_folder = _model_folder(folder, own, outcome)
    if not under_way:  # what is under way was written by this very run
        _check_model(model_folder)
    config = _checked(folder / "config.yaml", read_yaml(folder / "config.yaml"), shapes.CONFIG)
    preprocessing = Preprocessing.load(model_folder).content
    _checked(model_folder / PREPROCESSING, preprocessing, shapes.PREPROCESSING)
    if problem := records_problem(get(preprocessing, "source", "records") or {}):
        raise InputError(
            f"{model_folder / PREPROCESSING}: {problem}. Train again to write it anew."
        )
    left: list[str] = []

    def allowed(name: str, content: Any) -> Content:
        found: Content = keep(content, FILES[name], left, name)
        return found

    published = allowed("preprocessing.json", preprocessing)
    published["label"] |= {"text": label_text(published)}
    config = allowed("training_config.yaml", config)
    events = [allowed("metrics.jsonl", one) for one in read_events(folder / METRICS)]
    monitors = config.get("monitors") or {}
    verdict = allowed("verdict.json", _json(folder / "verdict.json", shapes.VERDICT))
    if stopped := verdict.get("stopped_by"):
        (verdict["stopped_by"],) = said_again([stopped], events, monitors)
        published |= {"stopped_by": verdict["stopped_by"]} if "stopped_by" in published else {}
    if verdicts := verdict.get("verdicts"):
        verdict["verdicts"] = said_again(verdicts, events, monitors)
    said = _json(model_folder / MODEL_CONFIG, {})
    model_config = allowed("config.json", {k: said[k] for k in said.keys() - OURS.keys()})
    model_config = dict(sorted((model_config | OURS).items()))
    secrets = secrets_here(os.environ, huggingface_hub.get_token())
    names = names_of(published, model_config)
    scrubber = Scrubber.of(own, [config, published], secrets, names)
    clean = scrubber.value
    return Record(
        name=scrubber.text(own.absolute().name),
        folder=folder,
        model_folder=model_folder,
        outcome=outcome,
        reason=_why(outcome, verdict, status),
        scrubber=scrubber,
        config=clean(config),
        model_config=clean(model_config),
        preprocessing=clean(published),
        results=clean(allowed("results.json", results)),
        verdict=clean(verdict),
        environment=clean(
            allowed("environment", _json(folder / "environment.json", shapes.ENVIRONMENT))
        ),
        audit=clean(allowed("audit", _json(folder / "audit.json", shapes.AUDIT))),
        left_out=tuple(dict.fromkeys(left)),
        events=clean(events),
        forecasts=_forecasts(folder / FORECASTS),
    )


def _why(outcome: str, verdict: Content, status: Content) -> str:
    """How the run ended, in words of ours: messages of programs are not published."""
    if outcome == "stopped":
        stopped = verdict.get("stopped_by")
        return stop_words(stopped) if stopped else "stopped by a monitor."
    if outcome == "failed":
        code = status.get("code")
        return f"exit code {code}" if isinstance(code, int) else "no exit code was written"
    return outcome


def _outcome(
    own: Path, status: Content, has_results: bool, force: bool, under_way: bool
) -> tuple[str, str]:
    """(outcome, reason), where the run may be published."""
    code, reason = status.get("code"), str(status.get("reason") or "no reason was written")
    is_running = under_way and code == FAILED and reason == RUNNING
    if has_results and (code == FINISHED or is_running):
        return "finished", reason
    if is_running:
        return RUNNING, reason
    force_it = "Publish it all the same with --force; its card then says so at the top."
    if code == STOPPED:
        if force:
            return "stopped", reason
        raise InputError(f"--run {own} is not published: it was {reason} {force_it}")
    how = "status.json is missing" if not status else f"status.json says code {code}: {reason}"
    how = how.rstrip(". ")
    if under_way and force and code == FAILED:
        return "failed", reason
    if not has_results:
        raise InputError(
            f"--run {own} can't be published: it holds no results.json, so there are no test "
            f"scores to publish; {how}. Wait for the run to finish, or train again."
        )
    if force:
        return "failed", how
    raise InputError(f"--run {own} is not published: {how}. {force_it}")


def needs_force(folder: Path) -> bool | None:
    """Whether launch/publish.py takes the run as it is (False), with --force, or never (None)."""
    for force in (False, True):
        try:
            status = _json(folder / "status.json", {})
            has_results = (folder / "results.json").is_file()
            outcome, _ = _outcome(folder, status, has_results, force, under_way=False)
            _model_folder(folder, folder, outcome)
        except (InputError, OSError):
            continue
        return force
    return None


def _model_folder(folder: Path, own: Path, outcome: str) -> Path:
    """The best model; of a stopped run without one the newest checkpoint."""
    found = folder / "model"
    if not found.is_dir() and outcome == "stopped":
        checkpoints = sorted((folder / "checkpoints").glob("step_*"))
        found = checkpoints[-1] if checkpoints else found
    where = own / found.relative_to(folder)
    if not found.is_dir():
        raise InputError(f"--run {own} holds no {where.name}/; there are no weights to publish.")
    for name in (WEIGHTS, MODEL_CONFIG, PREPROCESSING):
        if not os.path.lexists(found / name):
            raise InputError(f"{where} holds no {name}; expected a model folder as a run saves it.")
        if problem := link_problem(found / name):
            raise InputError(f"{where / name} {problem}; expected a file of the run itself.")
    _check_weights(found / WEIGHTS, where / WEIGHTS)
    return found


def _check_weights(path: Path, named: Path) -> None:
    """A file that was cut off is refused here, not by those who download it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header: Content = json.loads(file.read(length) if length < size else b"")
            ends = [of["data_offsets"][1] for key, of in header.items() if key != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
            raise InputError(f"{named} is no safetensors file: its header is damaged.") from error
    if expected != size:
        raise InputError(f"{named} is damaged: it has {size:,} bytes, its header says otherwise.")


def _check_model(folder: Path) -> None:
    """Every tensor is there, fits and is finite."""
    try:
        load_saved(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"the model can't be published: {error}") from error


def read_events(path: Path) -> list[Content]:
    """The events of metrics.jsonl; a line that was cut off, or is too long for one, is none."""
    if not path.is_file():
        return []
    if (size := path.stat().st_size) > MOST_EVENTS_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes; expected at most {MOST_EVENTS_BYTES:,}. Log less often "
            "(train.log_every_steps)."
        )
    events = []
    with path.open("rb") as lines:
        while line := lines.readline(MOST_LINE_BYTES):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                events.append(event)
    return events


def _json(path: Path, shape: Content) -> Content:
    """A JSON object of this shape; {} where there is no file."""
    return _checked(path, read_json(path), shape) if path.exists() else {}


def _checked(path: Path, content: Any, shape: Content) -> Content:
    if problem := misfit(content, shape):
        raise InputError(f"{path} can't be published: {problem}.")
    found: Content = content
    return found


def _forecasts(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = read_forecasts(path)
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {reason(error)}") from error
    if "model" not in table.columns:
        raise InputError(f"{path} has no column model.")
    return table[[name for name in table.columns if name in (*NOT_FORECASTS, *TITLES)]]
