"""A run read to be published: a fixed list of files, and of each what timerxl.hub.allowed lists."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
from safetensors import SafetensorError, safe_open

from timerxl.command_line import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from timerxl.config import InputError
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing
from timerxl.data.tables.columns import records_problem
from timerxl.ensemble import ENSEMBLE, TREES, is_ensemble, read_blend, read_members
from timerxl.files import read_json_lines
from timerxl.hub.allowed import (
    FILES,
    FORECAST,
    MOST_NAME,
    NAME,
    REFUSED,
    SENTENCE,
    SPLIT,
    Listing,
    filtered,
    filtered_events,
    is_run_name,
)
from timerxl.hub.privacy import (
    REMOVED,
    Scrubber,
    looks_private,
    secrets_here,
    strings_in,
    without_keys,
    without_places,
)
from timerxl.report.run_record import UNREADABLE, get, read_forecasts
from timerxl.training.monitors.rules import MONITORS
from timerxl.training.processes.run_lock import FORECASTS, METRICS, RUN_FILES
from timerxl.untrusted import (
    check_own_files,
    link_problem,
    plain,
    read_json,
    read_yaml,
    reason,
    schema_error,
)

Content = dict[str, Any]
WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"
CONFIG, TRAINING_CONFIG = "config.yaml", "training_config.yaml"  # of a run, and when published
PAGE = Path("report") / "index.html"
NAMES_OF_CODE = ("architectures", "auto_map")  # of config.json; timerxl.hub.package has our own
SUFFIXES = (".yaml", ".json", ".jsonl", ".parquet")
# All that is read of a run, beside the three files of its model.
READ = (*(name for name in RUN_FILES if name.endswith(SUFFIXES)), str(PAGE))
MOST_LINE, MOST_METRICS = 8 * 2**20, 128 * 2**20  # bytes; a step has 200, all results 3 MB
RUNNING = "running"  # the reason in status.json of a run under way

# What the card and the page can't do without, once what may not be published is out
# (timerxl.untrusted.schema_error). Of the rest, what is of another kind is left out.
_LINE = ({"slope": float, "intercept": float}, None)
NEEDED: dict[str, dict[str, Any]] = {
    "results.json": {
        "test": dict,
        "test_calibrated": dict,
        "baselines": dict,
        "num_windows": {"test": int},
        "calibration?": _LINE,
    },
    PREPROCESSING: {
        "feature_names": [str],
        "regions": [str],
        "step_hours": float,
        "context_length": int,
        "context_days": float,
        "scaling": {"mean": [float], "std": [float], "log1p": [str]},
        "label": {"horizon_hours": float},
        "split": {"method": str},
        "data": dict,
        "calibration?": _LINE,
    },
}


@dataclass(frozen=True)
class Record:
    """What the files of a run say, of what may be published; {} or None is "not there".

    ``name`` is the run folder's, ``folder`` where its files are read from (of a run under way a
    copy), ``model_folder`` the weights to publish, ``outcome`` one of finished, stopped, failed,
    running, with ``reason`` and the ``code`` of status.json. ``listings``: of each file, what is
    kept and what is left out. Of an ensemble ``model_folder`` is its own, and ``members`` holds
    config.json and preprocessing.json of each member, ``blend`` the weights of network and trees.
    """

    name: str
    folder: Path
    model_folder: Path
    outcome: str
    reason: str
    code: int | None
    scrubber: Scrubber
    config: Content
    model_config: Content
    preprocessing: Content
    results: Content
    verdict: Content
    environment: Content
    audit: Content
    events: list[Content] = field(default_factory=list)
    forecasts: pd.DataFrame | None = None
    listings: dict[str, Listing] = field(default_factory=dict)
    members: dict[str, tuple[Content, Content]] = field(default_factory=dict)
    blend: dict[str, float] | None = None

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
        return not self.members and self.model_folder.name != "model"

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
    try:
        return _read_record(folder, force, under_way, named)
    except InputError as error:  # quotes what it found, which may be anything
        said = without_keys(str(error))
        for secret in secrets_here(os.environ, huggingface_hub.get_token()):
            said = said.replace(secret, REMOVED)
        raise InputError(said) from error


def _read_record(folder: Path, force: bool, under_way: bool, named: Path | None) -> Record:
    own = named or folder
    members = _members(folder, own) if is_ensemble(folder) else []
    settings = TRAINING_CONFIG if members else CONFIG
    if not folder.is_dir() or not os.path.lexists(folder / settings):
        raise InputError(
            f"--run {own} is no run folder: "
            + (f"it holds no {settings}." if folder.is_dir() else "there's no such folder.")
            + " Expected one as launch/train.py writes it, such as runs/quickstart."
        )
    _check_files(folder, own)
    config = _mapping(folder / settings, read_yaml(folder / settings))
    if get(config, "train", "task") == "next_patch":
        raise InputError(
            f"{own} is a run with train.task=next_patch: a forecaster of weather has no card here. "
            f"Train a classifier from it (model.pretrained={own}/model) and publish that."
        )
    status, results = _status(folder), _json(folder / "results.json")
    if members:  # a folder that is there whole or not at all
        status = {"code": EXIT_OK, "reason": "finished", "is_there": True}
    outcome, why = _outcome(own, status, bool(results), force, under_way)
    model_folder = folder if members else _model_folder(folder, own, outcome)
    model_config = _model_config(model_folder / (members or [""])[0])
    preprocessing = Preprocessing.load(model_folder).content
    if problem := records_problem(get(preprocessing, "source", "records") or {}):
        raise InputError(
            f"{model_folder / PREPROCESSING}: {problem}. Train again to write it anew."
        )
    names = _names(preprocessing)
    classes = strings_in([model_config.get("id2label"), model_config.get("label2id")])
    secrets = secrets_here(os.environ, huggingface_hub.get_token())
    scrubber = Scrubber.of(own, [config, preprocessing, model_config], secrets)
    _check_names(sorted({*names, *classes}), scrubber)
    name = own.absolute().name
    name = scrubber.text(name) if is_run_name(name) else "run"
    if "output_dir" in config:
        config = config | {"output_dir": name}
    listings: dict[str, Listing] = {}

    def allowed(path: Path, content: Content, published: str = "") -> Content:
        """The allowed part of a file, scrubbed, and still all that can't be done without."""
        published = published or path.name
        listing, kind = listings.setdefault(published, Listing()), Path(published).name
        kept = filtered(content, FILES[kind], names, listing)
        kept = scrubber.value({} if kept is REFUSED else kept)
        if content and (problem := schema_error(kept, NEEDED.get(kind, {}))):
            raise InputError(f"{path} can't be published: {problem}.")
        found: Content = kept
        return found

    def optional(name: str) -> Content:
        return allowed(folder / name, _json(folder / name))

    def of_member(name: str) -> tuple[Content, Content]:
        one, path = f"{name}/{MODEL_CONFIG}", f"{name}/{PREPROCESSING}"
        saved = Preprocessing.load(folder / name).content
        if problem := records_problem(get(saved, "source", "records") or {}):
            raise InputError(f"{own / path}: {problem}. Train again to write it anew.")
        architecture = allowed(own / one, _model_config(folder / name), one)
        return architecture, _described(allowed(own / path, saved, path))

    verdict = _explained(optional("verdict.json"))
    if outcome == "stopped" and not status["reason"]:
        why = _stopped_by(verdict)
    listings[METRICS] = Listing()
    events = filtered_events(read_events(folder / METRICS), names, listings[METRICS])
    return Record(
        name=name,
        folder=folder,
        model_folder=model_folder,
        outcome=outcome,
        reason=scrubber.text(why),
        code=status["code"],
        scrubber=scrubber,
        config=allowed(folder / settings, config, TRAINING_CONFIG),
        model_config={} if members else allowed(model_folder / MODEL_CONFIG, model_config),
        preprocessing=_described(allowed(model_folder / PREPROCESSING, preprocessing)),
        results=_compared(allowed(folder / "results.json", results)),
        verdict=verdict,
        environment=optional("environment.json"),
        audit=optional("audit.json"),
        events=scrubber.value(events),
        forecasts=_forecasts(folder / FORECASTS, names),
        listings=listings,
        members={name: of_member(name) for name in members},
        blend=read_blend(folder) if members else None,
    )


def _model_config(folder: Path) -> Content:
    """config.json without the names of code."""
    found = _json(folder / MODEL_CONFIG)
    return {key: value for key, value in found.items() if key not in NAMES_OF_CODE}


def _members(folder: Path, own: Path) -> list[str]:
    """The members of an ensemble's folder; raises InputError where a file of it is missing, a link
    or a pipe, or a member's weights are damaged."""
    if problem := link_problem(folder / ENSEMBLE):
        raise InputError(f"{own / ENSEMBLE} {problem}; expected a regular file of its own.")
    names = read_members(folder)
    model = (WEIGHTS, MODEL_CONFIG, PREPROCESSING)
    files = [PREPROCESSING, TRAINING_CONFIG, *(f"{n}/{file}" for n in names for file in model)]
    files += [TREES] if read_blend(folder) else []
    for name in files:
        if problem := link_problem(folder / name):
            raise InputError(
                f"{plain(own / name)} {problem}; expected a regular file of the ensemble's own, so "
                "nothing is published."
            )
    for name in names:
        _check_weights(folder / name / WEIGHTS, own / name / WEIGHTS)
    return names


def _check_files(folder: Path, own: Path) -> None:
    """Raise InputError for a link, a pipe or a folder in the place of a file that is read."""
    check_own_files(folder, ("model", PAGE.parts[0]), ())
    for name in READ:
        if os.path.lexists(folder / name) and (problem := link_problem(folder / name)):
            raise InputError(
                f"{plain(own / name)} {problem}; expected a regular file of the run's own, so "
                "nothing is published."
            )


def _status(folder: Path) -> Content:
    """``code`` and ``reason`` of status.json, each None where it isn't there, or is no number and
    no sentence of ours."""
    found = _json(folder / "status.json")
    code, said = found.get("code"), found.get("reason")
    code = None if schema_error(code, range(256)) else code
    said = said if SENTENCE.take(said, frozenset()) is not REFUSED else None
    return {"code": code, "reason": said, "is_there": bool(found)}


def _names(preprocessing: Content) -> frozenset[str]:
    """What the model calls its features, regions and columns."""
    keys = ("feature_names", "regions", "static_feature_names", "precipitation_feature")
    data = preprocessing["data"]
    found = [preprocessing.get(key) for key in keys]
    found += [data.get("features"), get(preprocessing, "label", "column")]
    found += [value for key, value in data.items() if key.endswith("_column")]
    return frozenset(name for one in found for name in strings_in(one))


def _check_names(names: list[str], scrubber: Scrubber) -> None:
    """Raise InputError for a name that can't be published: the model is of no use without it."""
    for name in names:
        scrubbed, short = scrubber.text(name), name.removeprefix("region_")
        if looks_private(name) or REMOVED in scrubbed or without_places(name) != name:
            what = "named after a token, a place of storage or a system (not repeated here)"
        elif scrubbed != name:
            what = f"named after a folder of this machine ({plain(name, 60)!r})"
        elif NAME.take(short, frozenset()) is REFUSED:
            what = f"called by no name of 1 to {MOST_NAME} characters: {plain(name, 60)!r}"
        else:
            continue
        raise InputError(
            f"a feature, region or column of the model is {what}. The model can't be used without "
            "its names, so it is not published. Rename it in the table, and train again."
        )


def _described(preprocessing: Content) -> Content:
    """With a sentence on what a 1 means, where the run's own may not be published; without records
    of columns of which too little may be."""
    label, source = preprocessing["label"], preprocessing.get("source") or {}
    if "text" not in label:
        text = f"rain in the {label['horizon_hours']:g} hours after the time of issue."
        preprocessing = preprocessing | {"label": label | {"text": text}}
    if records := get(source, "records"):
        # A fact without its value or its source is none.
        for record in records.values():
            for key in ("quantity", "unit", "time"):
                if record.get(key) and not {"value", "known_by"} <= record[key].keys():
                    del record[key]
        known = {key: of for key, of in records.items() if records_problem({key: of}) is None}
        preprocessing = preprocessing | {"source": source | {"records": known}}
    return preprocessing


def _compared(results: Content) -> Content:
    """Without differences to a forecast that is not known by name."""
    known = {
        key: of
        for key, of in (results.get("differences") or {}).items()
        if of is not None and of.get("reference")
    }
    return results | {"differences": known} if "differences" in results else results


def _explained(verdict: Content) -> Content:
    """With the rule of the monitor, where its own explanation may not be published."""
    for one in [*(verdict.get("verdicts") or []), verdict.get("stopped_by")]:
        if one and "explanation" not in one and one.get("name") in MONITORS:
            rule = str(MONITORS[one["name"]].__doc__).partition("\n\n")[0]
            one["explanation"] = " ".join(rule.split())
    return verdict


def _stopped_by(verdict: Content) -> str:
    """Why a run was stopped, from its verdict."""
    found = verdict.get("stopped_by") or {}
    if "name" not in found:
        return "stopped by a monitor."
    severity = f" ({found['severity']})" if "severity" in found else ""
    at = f" at step {found['step']}" if found.get("step") is not None else ""
    return f"stopped by the monitor {found['name']}{severity}{at}: {found['explanation']}"


def _outcome(
    own: Path, status: Content, has_results: bool, force: bool, under_way: bool
) -> tuple[str, str]:
    """(outcome, reason), where the run may be published."""
    code, reason = status["code"], status["reason"] or "no reason that can be repeated"
    is_running = under_way and code == EXIT_FAILED and reason == RUNNING
    if has_results and (code == EXIT_OK or is_running):
        return "finished", reason
    if is_running:
        return RUNNING, reason
    force_it = "Publish it all the same with --force; its card then says so at the top."
    if code == EXIT_STOPPED:
        if force:
            return "stopped", reason
        said = status["reason"] or "stopped by a monitor."
        raise InputError(f"--run {own} is not published: it was {said} {force_it}")
    how = f"status.json says code {code}: {reason}"
    how = how if status["is_there"] else "status.json is missing"
    how = how.rstrip(". ")
    if under_way and force and code == EXIT_FAILED:
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
            status = _status(folder)
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
        check_own_files(folder, ("checkpoints",), ())
        checkpoints = sorted((folder / "checkpoints").glob("step_*"))
        found = checkpoints[-1] if checkpoints else found
    where = own / found.relative_to(folder)
    if not found.is_dir():
        raise InputError(f"--run {own} holds no {where.name}/; there are no weights to publish.")
    for name in (WEIGHTS, MODEL_CONFIG, PREPROCESSING):
        if not (found / name).is_file():
            raise InputError(f"{where} holds no {name}; expected a model folder as a run saves it.")
    _check_weights(found / WEIGHTS, where / WEIGHTS)
    return found


def _check_weights(path: Path, named: Path) -> None:
    """A file that was cut off is refused here, not by those who download it."""
    try:
        with safe_open(path, "numpy"):
            pass
    except SafetensorError as error:
        raise InputError(f"{named} is damaged, or no safetensors file.") from error


def read_events(path: Path) -> list[Content]:
    """The events of metrics.jsonl; a line that was cut off is no event.

    Raises InputError for a file or a line that no run writes so long.
    """
    if not path.is_file():
        return []
    lines = read_json_lines(path, MOST_METRICS, MOST_LINE, refuse_long=True)
    try:
        return [event for _, event in lines if event is not None]
    except ValueError as error:
        raise InputError(f"{path} can't be published: {error}") from error


def _json(path: Path) -> Content:
    """A JSON object; {} where there is no file."""
    return _mapping(path, read_json(path)) if path.exists() else {}


def _mapping(path: Path, content: Any) -> Content:
    if problem := schema_error(content, dict):
        raise InputError(f"{path} can't be published: {problem}.")
    found: Content = content
    return found


def _forecasts(path: Path, names: frozenset[str]) -> pd.DataFrame | None:
    """Splits, the model's regions, times, labels and P(rain) of the forecasts that are known."""
    if not path.is_file():
        return None
    try:
        table = read_forecasts(path, lambda name: FORECAST.take(name, names) is not REFUSED)
    except UNREADABLE as error:
        raise InputError(f"{path} can't be read: {reason(error)}") from error
    if "model" not in table.columns:
        raise InputError(f"{path} has no column model.")
    splits = [split for split in table["split"].unique() if SPLIT.take(split, names) is not REFUSED]
    table = table[table["split"].isin(splits)].reset_index(drop=True)
    table.loc[~table["region"].isin(names), "region"] = "another region"
    return table
