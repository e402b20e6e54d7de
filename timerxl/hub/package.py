"""What is published of a run, put into a folder of its own: these files, and no others."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import timerxl.model
from timerxl.config import InputError
from timerxl.data.preprocessing import PREPROCESSING, Preprocessing
from timerxl.ensemble import ENSEMBLE, MOST_MEMBERS, TREES, description, member_names
from timerxl.evaluation.blending import BlendedTrees
from timerxl.files import json_ready, write_json, write_text
from timerxl.forecaster import load_model, load_trees
from timerxl.hub.allowed import Listing
from timerxl.hub.card import model_card
from timerxl.hub.privacy import as_yaml
from timerxl.hub.record import (
    CONFIG,
    MODEL_CONFIG,
    PAGE,
    TRAINING_CONFIG,
    WEIGHTS,
    Content,
    Record,
)
from timerxl.model.convert_openltm import load_saved
from timerxl.model.feature_extraction_timerxl import PREPROCESSOR_CONFIG
from timerxl.report.page import report_page
from timerxl.report.run_record import read_run
from timerxl.training.checkpoint.model_folder import write_preprocessing
from timerxl.training.checkpoint.storage import file_record
from timerxl.training.processes.run_lock import FORECASTS, METRICS

CARD = "README.md"
# What a run may have or not: where a repository holds one that is no longer published, it goes.
FORMER_MODULES = tuple(f"{name}_timerxl.py" for name in "flops layers losses outputs".split())
OPTIONAL = ("results.json", METRICS, "verdict.json", str(PAGE), *FORMER_MODULES)
# The code that save_pretrained copies beside weights; it is taken from here, never from a run.
MODULES = "attention configuration feature_extraction modeling".split()
# An ensemble in the place of a model, or the reverse, leaves nothing of the other behind.
_OF_A_MODEL = (WEIGHTS, MODEL_CONFIG, PREPROCESSOR_CONFIG, *(f"{m}_timerxl.py" for m in MODULES))
OPTIONAL += (ENSEMBLE, TREES, *_OF_A_MODEL)
OPTIONAL += tuple(
    f"{member}/{name}"
    for member in member_names(MOST_MEMBERS)
    for name in (*_OF_A_MODEL, PREPROCESSING)
)
# Of config.json, what names code: ours, whatever a run says.
OUR_CLASSES = {
    "architectures": [timerxl.model.TimerXLForClassification.__name__],
    "auto_map": {
        "AutoConfig": "configuration_timerxl.TimerXLConfig",
        "AutoModelForSequenceClassification": "modeling_timerxl.TimerXLForClassification",
    },
}


@dataclass(frozen=True)
class Package:
    """A folder whose ``files`` (paths within it, sorted) are all that is published.

    ``listings``: of the files with keys, which of them are in, and what was left out.
    """

    folder: Path
    files: tuple[str, ...]
    listings: dict[str, Listing] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)

    @property
    def num_left(self) -> int:
        """How many values of its files are not on the list of what is published."""
        return sum(self.listings[name].num_left for name in self.files if name in self.listings)


def stage(
    record: Record,
    folder: Path,
    repo_id: str,
    revision: str | None = None,
    data_licence: str | None = None,
) -> Package:
    """Write everything that is published into ``folder``, which is made or empty.

    The last three are for the card, because no file of the run says them.

    Raises InputError where a file would give away what is private and can't be rewritten, and where
    what was written can't be loaded as the Forecaster does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if record.members:
        _write_members(record, folder)
    else:
        _write_model(record.model_folder, record.model_config, record.preprocessing, folder)
    found: dict[str, Any] = {TRAINING_CONFIG: record.config, "results.json": record.results}
    _write_files(folder, found | {"verdict.json": record.verdict, METRICS: record.events})
    _load_again(folder)
    if (record.folder / PAGE).is_file():
        (folder / PAGE).parent.mkdir(exist_ok=True)
        write_text(folder / PAGE, _page(record, folder.parent))
    card = model_card(record, repo_id, revision, data_licence)
    write_text(folder / CARD, record.scrubber.text(card))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    package = Package(folder, tuple(file.as_posix() for file in files), record.listings)
    _check(package, record)
    return package


def _write_members(record: Record, folder: Path) -> None:
    """An ensemble: a model folder for each member, their list, and what the mean is used with."""
    for name, (model_config, preprocessing) in record.members.items():
        (folder / name).mkdir()
        _write_model(record.model_folder / name, model_config, preprocessing, folder / name)
    write_json(folder / ENSEMBLE, description(list(record.members), record.blend))
    if record.blend is not None:  # read and written anew, as weights are
        saved = Preprocessing.load(record.model_folder)
        BlendedTrees.load(record.model_folder / TREES, record.blend, saved).save(folder / TREES)
    write_json(folder / PREPROCESSING, record.preprocessing)


def _write_model(
    model_folder: Path, model_config: Content, preprocessing: Content, folder: Path
) -> None:
    """The model read and written anew: numbers from the run; the code, and the names of classes
    in config.json, from this package."""
    try:
        model = load_saved(model_folder)
    except (OSError, ValueError) as error:
        raise InputError(f"the model can't be published: {error}") from error
    state = {key: value.float().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    for name in MODULES:
        code = Path(timerxl.model.__file__).with_name(f"{name}_timerxl.py")
        shutil.copyfile(code, folder / code.name)
    write_json(folder / MODEL_CONFIG, dict(sorted((model_config | OUR_CLASSES).items())))
    if "weights" in preprocessing:
        preprocessing = preprocessing | {"weights": file_record(folder / WEIGHTS)}
    write_preprocessing(folder, preprocessing)


def _write_files(folder: Path, contents: dict[str, Any]) -> None:
    """As a run writes them; what is empty is left out."""
    for name, content in contents.items():
        if name.endswith(".yaml"):
            write_text(folder / name, as_yaml(content))
        elif name == METRICS and content:
            lines = [json.dumps(json_ready(event)) + "\n" for event in content]
            write_text(folder / name, "".join(lines))
        elif content:
            write_json(folder / name, content)


def _page(record: Record, beside: Path) -> str:
    """The run's page, drawn from what is published of the run and not taken from its folder."""
    with tempfile.TemporaryDirectory(dir=beside) as temporary:
        run = Path(temporary) / record.name
        run.mkdir()
        status = {"code": record.code, "reason": record.reason}
        found: dict[str, Any] = {
            CONFIG: record.config,
            "status.json": status,
            "results.json": record.results,
        }
        found |= {"verdict.json": record.verdict, "audit.json": record.audit}
        found |= {"environment.json": record.environment, METRICS: record.events}
        _write_files(run, found)
        if record.forecasts is not None:
            record.forecasts.to_parquet(run / FORECASTS, index=False)
        return record.scrubber.text(report_page(read_run(run)))


def _check(package: Package, record: Record) -> None:
    """The last look: nothing private may be left in what is about to be sent."""
    for name in package.files:
        if Path(name).name in (WEIGHTS, TREES):
            continue
        text = (package.folder / name).read_text(encoding="utf-8")
        if record.scrubber.text(text) != text:
            raise InputError(
                f"{name} holds a token, a path or a name of this machine; it is not published. "
                f"Look into {record.model_folder.name}/{name} and take it out."
            )


def _load_again(folder: Path) -> None:
    """Load the staged folder as the Forecaster does; refuse to publish it if that fails."""
    try:
        saved = Preprocessing.load(folder)
        load_model(folder, saved)
        load_trees(folder, saved)
    except InputError as error:
        said = str(error).replace(f"{folder}/", "").replace(str(folder), "the package")
        raise InputError(
            f"it is not published, because nobody could load it: {said} The run's model folder is "
            "damaged or was changed by hand; train again."
        ) from error
