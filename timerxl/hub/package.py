"""What is published of a run, put into a folder of its own: these files, and no others."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import timerxl.model
from timerxl.command_line import EXIT_FAILED, EXIT_OK, EXIT_STOPPED
from timerxl.config import InputError
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing
from timerxl.files import json_ready, write_json, write_text
from timerxl.forecaster import load_classifier
from timerxl.hub.card import model_card
from timerxl.hub.privacy import as_yaml
from timerxl.hub.record import FORECASTS, MODEL_CONFIG, PAGE, WEIGHTS, Record
from timerxl.report.page import report_page
from timerxl.report.run_folder import read_run
from timerxl.training.run_lock import METRICS

CARD, TRAINING_CONFIG = "README.md", "training_config.yaml"
# What a run may have or not: where a repository holds one that is no longer published, it goes.
OPTIONAL = ("results.json", "metrics.jsonl", "verdict.json", str(PAGE))
MODULES = "attention configuration flops layers losses modeling outputs".split()


@dataclass(frozen=True)
class Package:
    """A folder whose ``files`` (paths within it, sorted) are all that is published."""

    folder: Path
    files: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)


@dataclass(frozen=True)
class Wording:
    """What the card must be told, because no file of the run says it."""

    repo_id: str
    revision: str | None = None
    data_licence: str | None = None


def stage(record: Record, folder: Path, wording: Wording) -> Package:
    """Write everything that is published into ``folder``, which is made or empty.

    Raises InputError where a file would give away what is private and can't be rewritten, and where
    what was written can't be loaded as the Forecaster does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(record.model_folder / WEIGHTS, folder / WEIGHTS)
    for path in code_files():
        shutil.copyfile(path, folder / path.name)
    write_json(folder / MODEL_CONFIG, record.model_config)
    write_json(folder / PREPROCESSING, record.preprocessing)
    write_text(folder / TRAINING_CONFIG, as_yaml(record.config))
    for name, content in (("results.json", record.results), ("verdict.json", record.verdict)):
        if content:
            write_json(folder / name, content)
    if record.events:
        lines = [json.dumps(json_ready(event)) + "\n" for event in record.events]
        write_text(folder / "metrics.jsonl", "".join(lines))
    if (record.folder / PAGE).is_file():
        (folder / PAGE).parent.mkdir(exist_ok=True)
        write_text(folder / PAGE, record.scrubber.page(_page(record, folder.parent)))
    card = model_card(record, wording.repo_id, wording.revision, wording.data_licence)
    write_text(folder / CARD, record.scrubber.code(card))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    package = Package(folder, tuple(file.as_posix() for file in files))
    _check(package, record)
    _load_again(folder)
    return package


def code_files() -> list[Path]:
    """The modelling code of the installed timerxl, as save_pretrained copies it beside weights."""
    folder = Path(timerxl.model.__file__).parent
    return [folder / f"{name}_timerxl.py" for name in MODULES]


def _page(record: Record, beside: Path) -> str:
    """The run's page, drawn anew from what is published."""
    with tempfile.TemporaryDirectory(prefix="page-", dir=beside) as place:
        run = Path(place, record.name)
        run.mkdir()
        write_text(run / "config.yaml", as_yaml(record.config))
        code = {"finished": EXIT_OK, "stopped": EXIT_STOPPED}.get(record.outcome, EXIT_FAILED)
        write_json(run / "status.json", {"code": code, "reason": record.reason})
        for name in ("results", "verdict", "environment", "audit"):
            if content := getattr(record, name):
                write_json(run / f"{name}.json", content)
        events = [json.dumps(json_ready(event)) + "\n" for event in record.events]
        write_text(run / METRICS, "".join(events))
        if record.forecasts is not None:
            record.forecasts.to_parquet(run / FORECASTS, index=False)
        return report_page(read_run(run))


def _check(package: Package, record: Record) -> None:
    """The last look: nothing private may be left in what is about to be sent."""
    for name in package.files:
        if name == WEIGHTS:
            continue
        text = (package.folder / name).read_text(encoding="utf-8")
        if record.scrubber.code(text) != text:
            raise InputError(
                f"{name} holds a token, a path or a name of this machine; it is not published. "
                f"Look into {record.model_folder.name}/{name} and take it out."
            )


def _load_again(folder: Path) -> None:
    """What was staged opens by the door of the Forecaster, or nobody could use it."""
    try:
        load_classifier(folder, Preprocessing.load(folder))
    except InputError as error:
        said = str(error).replace(f"{folder}/", "").replace(str(folder), "the package")
        raise InputError(
            f"it is not published, because nobody could load it: {said} The run's model folder is "
            "damaged or was changed by hand; train again."
        ) from error
